/* Losses and optimisers. */
#include "selftest.h"

#include <math.h>

/* One row of logits, `inner` apart: its loss, and its gradient times `scale`. */
static double entropy_row(const double *x, ptrdiff_t classes, ptrdiff_t inner, ptrdiff_t target,
                          const double *weight, double smoothing, double scale, double *grad) {
    double peak = -INFINITY, sum = 0, loss = 0, weights = 0;
    for (ptrdiff_t c = 0; c < classes; c++) peak = fmax(peak, x[c * inner]);
    for (ptrdiff_t c = 0; c < classes; c++) sum += exp(x[c * inner] - peak);
    for (ptrdiff_t c = 0; c < classes; c++) {
        double share = (c == target ? 1 - smoothing : 0) + smoothing / (double)classes;
        share *= weight ? weight[c] : 1;
        loss -= share * (x[c * inner] - peak - log(sum));
        weights += share;
        grad[c * inner] -= scale * share;
    }
    for (ptrdiff_t c = 0; c < classes; c++)
        grad[c * inner] += scale * weights * exp(x[c * inner] - peak) / sum;
    return loss;
}

static void check_entropy(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner) {
    double smoothing = pick(2) ? 0.25 : 0, scale = 0.125;
    begin_case("cross entropy %td x %td x %td, smoothing %g", outer, classes, inner, smoothing);
    struct array *x = uniform(outer * classes * inner, -4, 4), *target = input(INT64, outer * inner);
    struct array *weight = pick(2) ? uniform(classes, 0.5, 2) : NULL;
    struct array *row_scale = pick(2) ? uniform(outer * inner, -1, 1) : NULL;
    struct array *loss = output(REAL, outer * inner), *grad = output(REAL, x->count);
    for (ptrdiff_t row = 0; row < outer * inner; row++) {
        target->value[row] = pick(5) ? (double)pick(classes) : -100;
        if (target->value[row] < 0) continue;
        ptrdiff_t at = row / inner * classes * inner + row % inner;
        loss->value[row] = entropy_row(x->value + at, classes, inner, (ptrdiff_t)target->value[row],
                                       weight ? weight->value : NULL, smoothing,
                                       row_scale ? row_scale->value[row] : scale, grad->value + at);
    }
    struct array *wanted_loss = pick(3) ? loss : NULL, *wanted_grad = !wanted_loss || pick(3) ? grad : NULL;
    struct array *sum = output(DOUBLE, 1), *wanted_sum = pick(2) ? sum : NULL;
    for (ptrdiff_t row = 0; row < loss->count; row++) sum->value[0] += loss->value[row];
    RUN(kernels->loss->cross_entropy(outer, classes, inner, data(x), data(target), data(weight), -100,
                                     smoothing, data(row_scale), scale, data(wanted_loss), data(wanted_sum),
                                     data(wanted_grad)));
    if (wanted_loss) expect("loss", loss, 10 * rounding());
    if (wanted_sum) expect("sum", sum, 10 * (1 + (double)loss->count) * rounding());
    if (wanted_grad) expect("grad_input", grad, 20 * rounding());
    end_case();
}

static void check_nll(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner) {
    begin_case("nll %td x %td x %td", outer, classes, inner);
    struct array *x = whole(outer * classes * inner, 9), *target = input(INT64, outer * inner);
    struct array *weight = pick(2) ? whole(classes, 3) : NULL,
                 *row_scale = pick(2) ? whole(outer * inner, 3) : NULL;
    struct array *loss = output(REAL, outer * inner), *sum = output(DOUBLE, 1),
                 *grad = output(REAL, x->count);
    double kept = 0, total = 0;
    for (ptrdiff_t row = 0; row < outer * inner; row++) {
        ptrdiff_t y = pick(5) ? pick(classes) : -100, at = (row / inner * classes + y) * inner + row % inner;
        target->value[row] = (double)y;
        if (y < 0) continue;
        double w = weight ? weight->value[y] : 1;
        kept += w;
        loss->value[row] = -w * x->value[at];
        grad->value[at] = -w * (row_scale ? row_scale->value[row] : 2);
        sum->value[0] += loss->value[row];
    }
    ptrdiff_t wrong = -2, first = -2;
    RUN((wrong =
             kernels->loss->check_classes(outer * inner, classes, data(target), data(weight), -100, &total),
         PYCONV_OK));
    if (wrong != -1 || total != kept) fail("check_classes: %td, %g for %g", wrong, total, kept);
    RUN((first = kernels->loss->check_classes(outer * inner, 0, data(target), NULL, -1, &total), PYCONV_OK));
    if (first != (outer > 0 ? 0 : -1)) fail("check_classes: %td where there are no classes", first);
    struct array *wanted_loss = pick(2) ? loss : NULL;
    RUN(kernels->loss->nll(outer, classes, inner, data(x), data(target), data(weight), -100,
                           data(wanted_loss), data(sum)));
    if (wanted_loss) expect("loss", loss, 0);
    expect("sum", sum, 0);
    RUN(kernels->loss->nll_backward(outer, classes, inner, data(target), data(weight), -100, data(row_scale),
                                    2, data(grad)));
    expect("grad_input", grad, 0);
    end_case();
}

/* A pointwise loss of x and t, and its slope in x. */
static double pointwise(enum pyconv_pointwise_loss op, double x, double t, double a, double *slope) {
    double d = x - t, size = fabs(d), sign = (d > 0) - (d < 0);
    switch (op) {
    case PYCONV_MSE_LOSS: *slope = 2 * d; return d * d;
    case PYCONV_L1_LOSS: *slope = sign; return size;
    case PYCONV_SMOOTH_L1_LOSS:
        *slope = size < a ? d / a : sign;
        return size < a ? d * d / (2 * a) : size - a / 2;
    default: *slope = 1 / (1 + exp(-x)) - t; return (1 - t) * x + log1p(exp(-x));
    }
}

static void check_pointwise(enum pyconv_pointwise_loss op, ptrdiff_t count) {
    double a = 0.75, scale = 0.5;
    begin_case("pointwise loss %d of %td", (int)op, count);
    struct array *x = uniform(count, -3, 3), *t = uniform(count, 0, 1),
                 *g = pick(2) ? uniform(count, -1, 1) : NULL;
    struct array *losses = output(REAL, count), *sum = output(DOUBLE, 1), *dx = output(REAL, count);
    for (ptrdiff_t i = 0; i < count; i++) {
        double slope;
        losses->value[i] = pointwise(op, x->value[i], t->value[i], a, &slope);
        sum->value[0] += losses->value[i];
        dx->value[i] = scale * (g ? g->value[i] : 1) * slope;
    }
    struct array *kept = pick(2) ? losses : NULL;
    RUN(kernels->loss->pointwise_loss(op, count, data(x), data(t), a, data(kept), data(sum)));
    if (kept) expect("losses", losses, rounding());
    expect("sum", sum, rounding());
    RUN(kernels->loss->pointwise_loss_backward(op, count, data(g), scale, data(x), data(t), a, data(dx)));
    expect("grad_input", dx, rounding());
    end_case();
}

/* ---- Optimisers ---- */

#define TENSORS 5
static const ptrdiff_t tensor_sizes[TENSORS] = {3, 0, 40000, 17, 70000};

struct tensor {
    struct array *grad, *param, *state[3];
};

static struct tensor tensors[TENSORS];
static struct pyconv_update updates[TENSORS];

/* `states` arrays of numbers >= 0 beside each parameter */
static void make_tensors(int states) {
    ptrdiff_t start = 0;
    for (int i = 0; i < TENSORS; start += tensor_sizes[i++]) {
        struct tensor *t = &tensors[i];
        ptrdiff_t n = tensor_sizes[i];
        *t = (struct tensor){uniform(n, -2, 2), updated(uniform(n, -2, 2)), {NULL}};
        for (int s = 0; s < states; s++) t->state[s] = updated(uniform(n, 0, 2));
        updates[i] = (struct pyconv_update){data(t->param),
                                            data(t->grad),
                                            {data(t->state[0]), data(t->state[1]), data(t->state[2])},
                                            start,
                                            n,
                                            i % 2,
                                            0.05,
                                            0.5};
    }
}

static void expect_tensors(void) {
    for (int i = 0; i < TENSORS; i++) {
        expect("parameter", tensors[i].param, rounding());
        for (int s = 0; s < 3; s++)
            if (tensors[i].state[s]) expect("state", tensors[i].state[s], rounding());
    }
    end_case();
}

static void check_sgd(const struct pyconv_sgd_options *o) {
    begin_case("sgd momentum %g nesterov %d maximize %d", o->momentum, o->nesterov, o->maximize);
    make_tensors(o->momentum != 0);
    for (int i = 0; i < TENSORS; i++)
        for (ptrdiff_t j = 0; j < tensor_sizes[i]; j++) {
            double *p = tensors[i].param->value + j,
                   *b = o->momentum != 0 ? tensors[i].state[0]->value + j : NULL;
            double d = (o->maximize ? -1 : 1) * tensors[i].grad->value[j] + o->weight_decay * *p;
            if (b) *b = o->momentum * *b + (updates[i].first ? 1 : 1 - o->dampening) * d;
            if (b) d = o->nesterov ? d + o->momentum * *b : *b;
            *p -= o->lr * d;
        }
    RUN(kernels->optim->sgd(TENSORS, updates, o));
    expect_tensors();
}

static void check_adam(const struct pyconv_adam_options *o, int largest) {
    begin_case("adam decoupled %d maximize %d amsgrad %d", o->decoupled, o->maximize, largest);
    make_tensors(2 + largest);
    for (int i = 0; i < TENSORS; i++)
        for (ptrdiff_t j = 0; j < tensor_sizes[i]; j++) {
            double *p = tensors[i].param->value + j, *m = tensors[i].state[0]->value + j;
            double *v = tensors[i].state[1]->value + j,
                   g = (o->maximize ? -1 : 1) * tensors[i].grad->value[j];
            if (o->decoupled)
                *p *= 1 - o->lr * o->weight_decay;
            else
                g += o->weight_decay * *p;
            *m = o->beta1 * *m + (1 - o->beta1) * g;
            *v = o->beta2 * *v + (1 - o->beta2) * g * g;
            if (largest) v = tensors[i].state[2]->value + j, *v = fmax(*v, tensors[i].state[1]->value[j]);
            *p -= updates[i].step_size * *m / (sqrt(*v) / updates[i].correction + o->eps);
        }
    RUN(kernels->optim->adam(TENSORS, updates, o));
    expect_tensors();
}

static void check_square_sum(void) {
    begin_case("sum of squares");
    make_tensors(0);
    struct array *sum = output(DOUBLE, 1);
    for (int i = 0; i < TENSORS; i++)
        for (ptrdiff_t j = 0; j < tensor_sizes[i]; j++) sum->value[0] += pow(tensors[i].grad->value[j], 2);
    RUN(kernels->optim->square_sum(TENSORS, updates, data(sum)));
    expect("sum", sum, 1e-12);
    end_case();
}

void test_loss(void) {
    static const ptrdiff_t extents[] = {1, 2, 3, 8, 10, 15, 16, 17, 33, 100};
    for (int i = 0; i < 10; i++)
        for (int j = 0; j < 8; j++) {
            check_entropy(1 + pick(20), extents[i], j < 4 ? 1 : extents[pick(10)]);
            check_nll(1 + pick(20), extents[i], j < 4 ? 1 : extents[pick(10)]);
        }
    check_entropy(0, 3, 1);
    check_nll(0, 3, 1);
    check_nll(9000, 3, 1);
    check_nll(3, 40, 3000);
    static const ptrdiff_t counts[] = {0, 1, 7, 16, 50, 40000};
    for (int op = 0; op < PYCONV_POINTWISE_LOSS_COUNT; op++)
        for (int i = 0; i < 6; i++) check_pointwise(op, counts[i]);
    for (int i = 0; i < 8; i++) {
        check_sgd(&(struct pyconv_sgd_options){0.1, i & 1 ? 0.75 : 0, i & 2 ? 0 : 0.25, 0.125, (i & 3) == 3,
                                               i & 4});
        check_adam(&(struct pyconv_adam_options){0.1, 0.75, 0.875, 1e-3, 0.125, i & 1, i & 2}, i >> 2);
    }
    check_square_sum();
}
