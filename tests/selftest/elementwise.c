/* Operators that work element by element: activations, dropout, joins, what has a number for each channel. */
#include "selftest.h"

#include <math.h>

#define STEP 1e-4        /* of the central difference that stands for a derivative */
#define SLOPE_ERROR 5e-6 /* of that, relative to the largest slope, and of kernels in float */

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double softplus(double x) { return x > 30 ? x : log1p(exp(x)); }

/* As pyconv.h has them */
static double function(enum pyconv_unary op, double x, double a, double b) {
    switch (op) {
    case PYCONV_RELU: return x > 0 ? x : 0;
    case PYCONV_LEAKY_RELU: return x > 0 ? x : a * x;
    case PYCONV_HARDTANH: return fmin(fmax(x, a), b);
    case PYCONV_HARDSIGMOID: return fmin(fmax(x + 3, 0), 6) / 6;
    case PYCONV_HARDSWISH: return x * fmin(fmax(x + 3, 0), 6) / 6;
    case PYCONV_SOFTSIGN: return x / (1 + fabs(x));
    case PYCONV_SIGMOID_OUTPUT:
    case PYCONV_SIGMOID: return sigmoid(x);
    case PYCONV_TANH_OUTPUT:
    case PYCONV_TANH: return tanh(x);
    case PYCONV_SILU: return x * sigmoid(x);
    case PYCONV_MISH: return x * tanh(softplus(x));
    case PYCONV_ELU: return x > 0 ? x : a * expm1(b * x);
    case PYCONV_SELU:
        return 1.0507009873554804934193349852946 * (x > 0 ? x : 1.6732632423543772848170429916717 * expm1(x));
    case PYCONV_GELU: return x * erfc(-x / sqrt(2)) / 2;
    case PYCONV_GELU_TANH: return x * sigmoid(2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
    case PYCONV_SOFTPLUS: return a * x > b ? x : softplus(a * x) / a;
    default: return NAN;
    }
}

static int near_kink(double x, double a, double b) {
    const double kinks[] = {0, -3, 3, a, b};
    for (int i = 0; i < 5; i++)
        if (fabs(x - kinks[i]) < 2 * STEP) return 1;
    return 0;
}

static void check_unary(enum pyconv_unary op, ptrdiff_t count) {
    double a = op == PYCONV_HARDTANH ? -1.25 : 0.75, b = op == PYCONV_SOFTPLUS ? 20 : 1.5;
    begin_case("unary %d of %td", (int)op, count);
    struct array *x = uniform(count, -9, 9), *g = uniform(count, -2, 2);
    struct array *y = output(REAL, count), *dx = output(REAL, count), *from = input(REAL, count);
    const int of_output = op == PYCONV_SIGMOID_OUTPUT || op == PYCONV_TANH_OUTPUT;
    for (ptrdiff_t i = 0; i < count; i++) {
        if (near_kink(x->value[i], a, b)) x->value[i] += 0.0625;
        double at = x->value[i];
        y->value[i] = function(op, at, a, b);
        from->value[i] = of_output ? (float)y->value[i] : at;
        dx->value[i] =
            g->value[i] * (function(op, at + STEP, a, b) - function(op, at - STEP, a, b)) / (2 * STEP);
    }
    RUN(kernels->activation->unary(op, count, data(x), a, b, data(y)));
    expect("output", y, rounding());
    RUN(kernels->activation->unary_backward(op, count, data(g), data(from), a, b, data(dx)));
    expect("grad_input", dx, SLOPE_ERROR);
    end_case();
    if (!count) return;
    static const double extremes[] = {NAN, INFINITY, -INFINITY, 1e30, -1e30, 1e-30};
    begin_case("unary %d of extremes", (int)op);
    x = input(REAL, 37), y = output(REAL, 37);
    for (ptrdiff_t i = 0; i < 37; i++) {
        x->value[i] = (float)extremes[i % 6];
        y->value[i] = function(op, x->value[i], a, b);
        if (x->value[i] == -INFINITY && op >= PYCONV_SILU && op <= PYCONV_MISH)
            y->value[i] = NAN; /* -inf 0 */
    }
    RUN(kernels->activation->unary(op, 37, data(x), a, b, data(y)));
    end_case();
}

/* ---- Dropout ---- */

static void check_dropout(ptrdiff_t count, double p) {
    begin_case("dropout of %td with p = %g", count, p);
    struct array *x = uniform(count, 1, 2), *mask = output(BYTE, count), *y = output(REAL, count);
    RUN(kernels->dropout->dropout(count, data(x), 42, p, data(mask), data(y)));
    ptrdiff_t kept = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        int keep = ((uint8_t *)data(mask))[i];
        if (keep > 1) return fail("mask[%td] is %d", i, keep);
        mask->value[i] = keep;
        y->value[i] = keep ? x->value[i] / (1 - p) : 0;
        kept += keep;
    }
    expect("output", y, rounding());
    if (fabs((double)kept - (double)count * (1 - p)) > 5 * sqrt((double)count)) fail("kept %td", kept);
    struct array *given = input(BYTE, count), *dx = output(REAL, count);
    for (ptrdiff_t i = 0; i < count; i++) given->value[i] = mask->value[i], dx->value[i] = y->value[i];
    RUN(kernels->dropout->dropout_backward(count, data(x), data(given), p, data(dx)));
    expect("grad_input", dx, rounding());
    end_case();
}

/* ---- Joins ---- */

static void check_join(ptrdiff_t count) {
    int relu = (int)pick(2);
    begin_case("add %td, relu %d", count, relu);
    struct array *a = whole(count, 9), *b = whole(count, 9), *sum = output(REAL, count);
    for (ptrdiff_t i = 0; i < count; i++) {
        sum->value[i] = a->value[i] + b->value[i];
        if (relu && sum->value[i] < 0) sum->value[i] = 0;
    }
    RUN(kernels->join->add(count, data(a), data(b), relu, data(sum)));
    expect("sum", sum, 0);
    struct array *in_place = updated(a);
    for (ptrdiff_t i = 0; i < count; i++) in_place->value[i] = sum->value[i];
    RUN(kernels->join->add(count, data(in_place), data(b), relu, data(in_place)));
    expect("sum in place", in_place, 0);
    end_case();

    ptrdiff_t rows = pick(50), columns = 1 + pick(40), from = columns + pick(9), to = columns + pick(9);
    begin_case("copy %td rows of %td, %td to %td apart", rows, columns, from, to);
    struct array *x = whole(rows * from, 9), *before = whole(rows * to, 9), *y = updated(before);
    for (ptrdiff_t i = 0; i < rows * columns; i++)
        y->value[i / columns * to + i % columns] = x->value[i / columns * from + i % columns];
    RUN(kernels->join->copy(rows, columns, data(x), from, data(y), to));
    expect("copy", y, 0);
    end_case();

    ptrdiff_t widths[3] = {pick(40), pick(3) * 900, pick(40)}, width = widths[0] + widths[1] + widths[2];
    begin_case("concat %td rows of %td, %td and %td", rows, widths[0], widths[1], widths[2]);
    struct array *parts[3], *joined = output(REAL, rows * width);
    const void *inputs[3];
    for (ptrdiff_t k = 0, at = 0; k < 3; at += widths[k++]) {
        parts[k] = whole(rows * widths[k], 9);
        inputs[k] = data(parts[k]);
        for (ptrdiff_t i = 0; i < rows * widths[k]; i++)
            joined->value[i / widths[k] * width + at + i % widths[k]] = parts[k]->value[i];
    }
    RUN(kernels->join->concat(rows, 3, inputs, widths, data(joined)));
    expect("concat", joined, 0);
    end_case();
}

/* ---- A number for each channel ---- */

static void check_channels(void) {
    ptrdiff_t period = 1 + pick(3), outer = period * pick(5), channels = 1 + pick(40),
              inner = pick(2) ? 1 : 1 + pick(50);
    ptrdiff_t count = outer * channels * inner;
    begin_case("channels %td x %td x %td, period %td", outer, channels, inner, period);
    struct array *x = whole(count, 5), *factor = whole(outer / period * channels, 3),
                 *y = output(REAL, count);
    struct array *g = whole(count, 3), *weight = whole(channels, 3), *z = output(REAL, count);
    struct array *dx = output(REAL, count), *dw = output(REAL, channels);
    for (ptrdiff_t i = 0; i < count; i++) {
        ptrdiff_t c = i / inner % channels;
        double slope = x->value[i] > 0 ? 1 : weight->value[c];
        y->value[i] = x->value[i] * factor->value[i / inner / channels / period * channels + c];
        z->value[i] = x->value[i] * slope;
        dx->value[i] = g->value[i] * slope;
        if (!(x->value[i] > 0)) dw->value[c] += g->value[i] * x->value[i];
    }
    RUN(kernels->channel->scale(outer, channels, inner, period, data(x), data(factor), data(y)));
    expect("scaled", y, 0);
    RUN(kernels->channel->prelu(outer, channels, inner, data(x), data(weight), data(z)));
    expect("prelu", z, 0);
    struct array *grad_input = pick(3) ? dx : NULL, *grad_weight = !grad_input || pick(3) ? dw : NULL;
    RUN(kernels->channel->prelu_backward(outer, channels, inner, data(g), data(x), data(weight),
                                         data(grad_input), data(grad_weight)));
    if (grad_input) expect("prelu's grad_input", dx, 0);
    if (grad_weight) expect("prelu's grad_weight", dw, 0);
    end_case();
}

void test_elementwise(void) {
    static const ptrdiff_t counts[] = {0, 1, 3, 7, 16, 33, 129, 20000};
    for (int op = 0; op < PYCONV_UNARY_COUNT; op++)
        for (int i = 0; i < 8; i++) check_unary(op, counts[i]);
    for (int i = 0; i < 8; i++) check_dropout(counts[i], i % 2 ? 0.25 : 0.7);
    for (int i = 0; i < 8; i++) check_join(counts[i]);
    for (int i = 0; i < 60; i++) check_channels();
}
