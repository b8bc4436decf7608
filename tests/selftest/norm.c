/* Normalisation in both memory layouts, and local response norm. */
#include "selftest.h"

#include <math.h>

struct layout {
    const struct pyconv_norm_kernels *table;
    int planes;
};

/* Which run (batch entry, channel) an element belongs to, and its row in it. */
static ptrdiff_t run_of(const struct pyconv_norm *norm, int planes, ptrdiff_t i, ptrdiff_t *row) {
    ptrdiff_t entry = i / norm->rows / norm->channels, rest = i % (norm->rows * norm->channels);
    *row = planes ? rest % norm->rows : rest / norm->channels;
    return entry * norm->channels + (planes ? rest / norm->rows : rest % norm->channels);
}

/* Numbers whose products are exact and never 0, so that a ReLU is not a matter of rounding. */
static struct array *steps(enum element element, ptrdiff_t count, double step, double shift) {
    struct array *a = input(element, count);
    for (ptrdiff_t i = 0; i < count; i++) a->value[i] = step * (double)(pick(17) - 8) + shift;
    return a;
}

static void check_moments(const struct pyconv_norm *norm, struct layout layout) {
    ptrdiff_t runs = norm->batch * norm->channels, row;
    struct array *x = steps(REAL, runs * norm->rows, 0.125, 3);
    struct array *mean = output(DOUBLE, runs), *square = output(DOUBLE, runs);
    for (ptrdiff_t i = 0; i < x->count; i++)
        mean->value[run_of(norm, layout.planes, i, &row)] += x->value[i] / (double)norm->rows;
    for (ptrdiff_t i = 0; i < x->count; i++) {
        ptrdiff_t run = run_of(norm, layout.planes, i, &row);
        square->value[run] += pow(x->value[i] - mean->value[run], 2);
    }
    RUN(layout.table->moments(norm, data(x), data(mean), data(square)));
    expect("mean", mean, rounding());
    expect("square", square, 10 * rounding());
}

static void check_normalize(struct pyconv_norm norm, struct layout layout) {
    ptrdiff_t runs = norm.batch * norm.channels, count = runs * norm.rows, row;
    struct array *x = steps(REAL, count, 0.25, 0),
                 *residual = norm.relu && pick(2) ? steps(REAL, count, 0.5, 0) : NULL;
    struct array *mean = steps(DOUBLE, runs, 0.25, 0), *scale = steps(DOUBLE, runs, 0.5, 0.25);
    struct array *bias = steps(DOUBLE, runs, 0.25, 0.03125), *y = output(REAL, count);
    struct array *weight = layout.planes && pick(2) ? steps(REAL, norm.rows, 0.5, 0) : NULL;
    struct array *shift = layout.planes && pick(2) ? steps(REAL, norm.rows, 0.5, 0) : NULL;
    norm.mean = data(mean), norm.scale = data(scale), norm.bias = data(bias);
    norm.weight = data(weight), norm.shift = data(shift);
    for (ptrdiff_t i = 0; i < count; i++) {
        ptrdiff_t run = run_of(&norm, layout.planes, i, &row);
        double z = (x->value[i] - mean->value[run]) * scale->value[run] + bias->value[run];
        z = z * (weight ? weight->value[row] : 1) + (shift ? shift->value[row] : 0);
        if (norm.relu) z = fmax(z + (residual ? residual->value[i] : 0), 0);
        y->value[i] = norm.relu && z > norm.ceiling ? norm.ceiling : z;
    }
    RUN(layout.table->normalize(&norm, data(x), data(residual), data(y)));
    expect("normalized", y, rounding());
}

static void check_gradient(struct pyconv_norm norm, struct layout layout) {
    ptrdiff_t runs = norm.batch * norm.channels, count = runs * norm.rows, row;
    struct array *x = steps(REAL, count, 0.25, 0), *g = steps(REAL, count, 0.25, 0);
    struct array *mean = steps(DOUBLE, runs, 0.25, 0), *scale = steps(DOUBLE, runs, 0.5, 0.25);
    struct array *bias = steps(DOUBLE, runs, 0.25, 0.03125);
    struct array *y = norm.relu && pick(2) ? steps(REAL, count, 0.25, 0) : NULL;
    struct array *a = steps(DOUBLE, runs, 0.5, 0), *b = steps(DOUBLE, runs, 0.25, 0),
                 *c = steps(DOUBLE, runs, 0.5, 0);
    struct array *masked = output(REAL, count), *dx = output(REAL, count);
    struct array *sum = output(DOUBLE, runs), *product = output(DOUBLE, runs);
    norm.mean = data(mean), norm.scale = data(scale), norm.bias = data(bias);
    for (ptrdiff_t i = 0; i < count; i++) {
        ptrdiff_t run = run_of(&norm, layout.planes, i, &row);
        double centred = x->value[i] - mean->value[run];
        double z = y ? y->value[i] : centred * scale->value[run] + bias->value[run];
        double through = norm.relu && (z <= 0 || z >= norm.ceiling) ? 0 : g->value[i];
        masked->value[i] = through;
        sum->value[run] += through;
        product->value[run] += through * centred;
        dx->value[i] = a->value[run] * through + b->value[run] * centred + c->value[run];
    }
    struct array *kept = pick(2) ? masked : NULL;
    RUN(layout.table->gradient_sums(&norm, data(g), data(x), data(y), data(kept), data(sum), data(product)));
    if (kept) expect("masked gradient", masked, 0);
    expect("sum", sum, rounding());
    expect("product", product, rounding());
    RUN(layout.table->gradient(&norm, data(g), data(x), data(y), data(a), data(b), data(c), data(dx)));
    expect("grad_input", dx, rounding());
}

/* An input of the numbers that are expected of an output. */
static struct array *known(const struct array *expected) {
    struct array *a = input(expected->element, expected->count);
    for (ptrdiff_t i = 0; i < a->count; i++) a->value[i] = expected->value[i];
    return a;
}

/* The mean and variance that the channels of a group have in common, of each batch entry. */
static void group_statistics(const struct pyconv_norm *norm, struct layout layout, ptrdiff_t groups,
                             const struct array *x, double *mean, double *var) {
    ptrdiff_t size = norm->channels / groups, row;
    double each = 1 / (double)(norm->rows * size);
    for (ptrdiff_t i = 0; i < x->count; i++)
        mean[run_of(norm, layout.planes, i, &row) / size] += x->value[i] * each;
    for (ptrdiff_t i = 0; i < x->count; i++) {
        ptrdiff_t unit = run_of(norm, layout.planes, i, &row) / size;
        var[unit] += pow(x->value[i] - mean[unit], 2) * each;
    }
}

static void check_groups(struct pyconv_norm norm, struct layout layout) {
    ptrdiff_t groups = 1 + pick(norm.channels), runs = norm.batch * norm.channels, row;
    while (norm.channels % groups) groups--;
    ptrdiff_t units = norm.batch * groups, size = norm.channels / groups;
    struct array *x = steps(REAL, runs * norm.rows, 0.25, 1), *g = steps(REAL, x->count, 0.25, 0.125);
    struct array *weight = pick(2) ? steps(DOUBLE, norm.channels, 0.5, 0.25) : NULL;
    struct array *bias = pick(2) ? steps(DOUBLE, norm.channels, 0.25, 0) : NULL;
    struct array *var = output(DOUBLE, units), *mean = output(DOUBLE, runs), *scale = output(DOUBLE, runs);
    struct array *shift = output(DOUBLE, runs), *y = output(REAL, x->count), *center = input(DOUBLE, units);
    group_statistics(&norm, layout, groups, x, center->value, var->value);
    for (ptrdiff_t run = 0; run < runs; run++) {
        ptrdiff_t channel = run % norm.channels;
        mean->value[run] = center->value[run / size];
        scale->value[run] = (weight ? weight->value[channel] : 1) / sqrt(var->value[run / size] + 0.5);
        shift->value[run] = bias ? bias->value[channel] : 0;
    }
    for (ptrdiff_t i = 0; i < x->count; i++) {
        ptrdiff_t run = run_of(&norm, layout.planes, i, &row);
        y->value[i] = (x->value[i] - mean->value[run]) * scale->value[run] + shift->value[run];
    }
    struct pyconv_group_norm group = {groups,    0.5,        data(weight), data(bias),
                                      data(var), data(mean), data(scale),  data(shift)};
    RUN(layout.table->normalize_groups(&norm, &group, data(x), data(y)));
    expect("var", var, 10 * rounding());
    expect("mean", mean, rounding());
    expect("scale", scale, 10 * rounding());
    expect("shift", shift, rounding());
    expect("normalized", y, 10 * rounding());

    struct array *sum = output(DOUBLE, runs), *product = output(DOUBLE, runs), *dx = output(REAL, x->count);
    double *totals = input(DOUBLE, 2 * units)->value, count = (double)(norm.rows * size);
    for (ptrdiff_t i = 0; i < x->count; i++) {
        ptrdiff_t run = run_of(&norm, layout.planes, i, &row);
        double centred = x->value[i] - mean->value[run], slope = scale->value[run] * g->value[i];
        sum->value[run] += g->value[i];
        product->value[run] += g->value[i] * centred;
        totals[2 * (run / size)] += slope;
        totals[2 * (run / size) + 1] += slope * centred / (var->value[run / size] + 0.5);
    }
    for (ptrdiff_t i = 0; i < x->count; i++) {
        ptrdiff_t run = run_of(&norm, layout.planes, i, &row);
        const double *total = totals + 2 * (run / size);
        double centred = x->value[i] - mean->value[run];
        dx->value[i] = scale->value[run] * g->value[i] - (total[0] + centred * total[1]) / count;
    }
    group.weight = group.bias = NULL;
    group.var = data(known(var)), group.mean = data(known(mean));
    group.scale = data(known(scale)), group.shift = data(known(shift));
    RUN(layout.table->gradient_groups(&norm, &group, data(g), data(x), data(sum), data(product), data(dx)));
    expect("sum", sum, 10 * rounding());
    expect("product", product, 10 * rounding());
    expect("grad_input", dx, 10 * rounding());
}

static void check_turned(ptrdiff_t batch, ptrdiff_t pixels, ptrdiff_t channels) {
    begin_case("turned weights: %td x %td x %td", batch, pixels, channels);
    ptrdiff_t rows = pixels * channels;
    struct pyconv_norm norm = {.batch = batch, .rows = rows, .channels = 1};
    struct array *x = steps(REAL, batch * rows, 0.25, 0), *y = output(REAL, batch * rows);
    struct array *mean = steps(DOUBLE, batch, 0.25, 0), *scale = steps(DOUBLE, batch, 0.5, 0.25);
    struct array *weight = steps(REAL, rows, 0.25, 0), *shift = pick(2) ? steps(REAL, rows, 0.25, 0) : NULL;
    norm.mean = data(mean), norm.scale = data(scale), norm.weight = data(weight), norm.shift = data(shift);
    for (ptrdiff_t i = 0; i < batch * rows; i++) {
        ptrdiff_t n = i / rows, at = i % channels * pixels + i % rows / channels;
        y->value[i] = (x->value[i] - mean->value[n]) * scale->value[n] * weight->value[at];
        if (shift) y->value[i] += shift->value[at];
    }
    RUN(kernels->norm_planes->normalize_turned(&norm, channels, data(x), data(y)));
    expect("output", y, 10 * rounding());
    struct array *g = steps(REAL, batch * rows, 0.25, 0);
    struct array *product = output(REAL, rows), *sum = output(REAL, rows);
    for (ptrdiff_t i = 0; i < batch * rows; i++) {
        ptrdiff_t n = i / rows, at = i % channels * pixels + i % rows / channels;
        product->value[at] += g->value[i] * (x->value[i] - mean->value[n]) * scale->value[n];
        sum->value[at] += g->value[i];
    }
    RUN(kernels->norm_planes->element_sums_turned(&norm, channels, data(g), data(x), data(product),
                                                  data(sum)));
    expect("product", product, 10 * rounding());
    expect("sum", sum, 10 * rounding());
    end_case();
}

static void check_elements(ptrdiff_t batch, ptrdiff_t rows) {
    begin_case("element sums: %td x %td", batch, rows);
    struct pyconv_norm norm = {.batch = batch, .rows = rows, .channels = 1};
    struct array *x = steps(REAL, batch * rows, 0.25, 0), *g = steps(REAL, batch * rows, 0.25, 0);
    struct array *mean = steps(DOUBLE, batch, 0.25, 0), *scale = steps(DOUBLE, batch, 0.5, 0.25);
    struct array *product = output(REAL, rows), *sum = output(REAL, rows);
    norm.mean = data(mean), norm.scale = data(scale);
    for (ptrdiff_t i = 0; i < batch * rows; i++) {
        ptrdiff_t n = i / rows;
        product->value[i % rows] += g->value[i] * (x->value[i] - mean->value[n]) * scale->value[n];
        sum->value[i % rows] += g->value[i];
    }
    RUN(kernels->norm_planes->element_sums(&norm, data(g), data(x), data(product), data(sum)));
    expect("product", product, 10 * rounding());
    expect("sum", sum, 10 * rounding());
    end_case();
}

static void check_norm(ptrdiff_t batch, ptrdiff_t rows, ptrdiff_t channels) {
    for (int planes = 0; planes < 2; planes++) {
        struct layout layout = {planes ? kernels->norm_planes : kernels->norm, planes};
        struct pyconv_norm norm = {.batch = batch, .rows = rows, .channels = channels};
        norm.relu = (int)pick(2);
        norm.ceiling = norm.relu && pick(2) ? 1.5 : NAN;
        begin_case("norm planes %d: %td x %td rows x %td channels, relu %d to %g", planes, batch, rows,
                   channels, norm.relu, norm.ceiling);
        check_moments(&norm, layout);
        end_case();
        check_normalize(norm, layout);
        end_case();
        check_gradient(norm, layout);
        end_case();
        check_groups((struct pyconv_norm){.batch = batch, .rows = rows, .channels = channels}, layout);
        end_case();
    }
}

/* ---- Local response norm ---- */

static void check_response(struct pyconv_response response) {
    begin_case("response planes %d: %td x %td rows x %td channels, window -%td +%td", response.planes,
               response.batch, response.rows, response.channels, response.before, response.after);
    ptrdiff_t channels = response.channels, count = response.batch * response.rows * channels;
    ptrdiff_t pitch = response.planes ? response.rows : 1; /* from a channel to the next */
    struct array *x = uniform(count, -2, 2), *g = uniform(count, -1, 1);
    struct array *y = output(REAL, count), *dx = output(REAL, count);
    for (ptrdiff_t i = 0; i < count; i++) {
        ptrdiff_t c = i / pitch % channels, low = c - response.before, high = c + response.after;
        double sum = 0;
        for (ptrdiff_t k = low < 0 ? 0 : low; k <= high && k < channels; k++)
            sum += pow(x->value[i + (k - c) * pitch], 2);
        double d = response.k + response.scale * sum;
        y->value[i] = x->value[i] * pow(d, -response.beta);
        dx->value[i] += g->value[i] * pow(d, -response.beta);
        for (ptrdiff_t k = low < 0 ? 0 : low; k <= high && k < channels; k++)
            dx->value[i + (k - c) * pitch] -= 2 * response.scale * response.beta * g->value[i] * x->value[i] *
                                              pow(d, -response.beta - 1) * x->value[i + (k - c) * pitch];
    }
    RUN(kernels->norm_response->forward(&response, data(x), data(y)));
    expect("output", y, 5 * rounding());
    RUN(kernels->norm_response->backward(&response, data(g), data(x), data(dx)));
    expect("grad_input", dx, 10 * rounding());
    end_case();
}

void test_norm(void) {
    static const ptrdiff_t channels[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 130};
    for (int i = 0; i < 13; i++)
        for (int j = 0; j < 4; j++) check_norm(1 + pick(3), j == 0 ? 1 : 1 + pick(80), channels[i]);
    check_norm(1, 9000, 3);
    check_norm(1, 700, 70);
    check_norm(1, 3, 2100);
    check_norm(0, 3, 4);
    check_norm(9, 40, 12);
    for (int i = 0; i < 12; i++) check_elements(1 + pick(200), 1 + pick(70));
    check_elements(3, 4100);
    check_turned(2, 7, 3);
    check_turned(3, 300, 40);
    check_turned(1, 33, 600);
    for (int i = 0; i < 60; i++) {
        struct pyconv_response r = {1 + pick(3), 1 + pick(200), 1 + pick(20), i % 2, pick(4),
                                    pick(4),     0.3,           0.75,         1.5};
        check_response(r);
    }
}
