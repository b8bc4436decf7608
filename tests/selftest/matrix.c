/* Linear layers, transposition and softmax. */
#include "selftest.h"

#include <math.h>

static void check_linear(ptrdiff_t rows, ptrdiff_t in, ptrdiff_t out) {
    begin_case("linear %td rows, %td to %td", rows, in, out);
    struct array *x = whole(rows * in, 3), *w = whole(out * in, 3), *g = whole(rows * out, 3);
    struct array *bias = pick(2) ? whole(out, 3) : NULL;
    struct array *y = output(REAL, rows * out), *dx = output(REAL, rows * in), *dw = output(REAL, out * in);
    struct array *db = output(REAL, out);
    int relu = (int)pick(2);
    for (ptrdiff_t n = 0; n < rows; n++)
        for (ptrdiff_t k = 0; k < out; k++) {
            double sum = bias ? bias->value[k] : 0;
            for (ptrdiff_t c = 0; c < in; c++) {
                sum += x->value[n * in + c] * w->value[k * in + c];
                dx->value[n * in + c] += g->value[n * out + k] * w->value[k * in + c];
                dw->value[k * in + c] += g->value[n * out + k] * x->value[n * in + c];
            }
            y->value[n * out + k] = relu && sum < 0 ? 0 : sum;
            db->value[k] += g->value[n * out + k];
        }
    RUN(kernels->linear->forward(rows, in, out, data(x), data(w), data(bias), relu, data(y)));
    expect("output", y, 0);
    RUN(kernels->linear->grad_input(rows, in, out, data(g), data(w), data(dx)));
    expect("grad_input", dx, 0);
    struct array *grad_weight = pick(3) ? dw : NULL, *grad_bias = !grad_weight || pick(3) ? db : NULL;
    RUN(kernels->linear->grad_weight(rows, in, out, data(g), data(x), data(grad_weight), data(grad_bias)));
    if (grad_weight) expect("grad_weight", dw, 0);
    if (grad_bias) expect("grad_bias", db, 0);
    end_case();
}

static void check_transpose(ptrdiff_t batch, ptrdiff_t rows, ptrdiff_t columns) {
    begin_case("transpose %td of %td x %td", batch, rows, columns);
    struct array *x = whole(batch * rows * columns, 99), *y = output(REAL, x->count);
    for (ptrdiff_t i = 0; i < x->count; i++) {
        ptrdiff_t b = i / rows / columns, r = i / columns % rows, c = i % columns;
        y->value[(b * columns + c) * rows + r] = x->value[i];
    }
    RUN(kernels->layout->transpose(batch, rows, columns, data(x), data(y)));
    expect("output", y, 0);
    end_case();
}

/* Row `at` (its first element, elements `inner` apart): y and the gradient that goes with g. */
static void softmax_row(const double *x, const double *g, ptrdiff_t dim, ptrdiff_t inner, int log_wanted,
                        double *y, double *dx) {
    double peak = -INFINITY, sum = 0, product = 0;
    for (ptrdiff_t i = 0; i < dim; i++) peak = fmax(peak, x[i * inner]);
    for (ptrdiff_t i = 0; i < dim; i++) sum += exp(x[i * inner] - peak);
    for (ptrdiff_t i = 0; i < dim; i++) {
        double p = exp(x[i * inner] - peak) / sum;
        y[i * inner] = log_wanted ? x[i * inner] - peak - log(sum) : p;
        product += g[i * inner] * (log_wanted ? 1 : p);
    }
    for (ptrdiff_t i = 0; i < dim; i++) {
        double p = exp(x[i * inner] - peak) / sum;
        dx[i * inner] = log_wanted ? g[i * inner] - p * product : p * (g[i * inner] - product);
    }
}

static void check_softmax(ptrdiff_t outer, ptrdiff_t dim, ptrdiff_t inner) {
    int log_wanted = (int)pick(2);
    begin_case("softmax %td x %td x %td, log %d", outer, dim, inner, log_wanted);
    ptrdiff_t count = outer * dim * inner;
    struct array *x = uniform(count, -5, 5), *g = uniform(count, -1, 1);
    struct array *y = output(REAL, count), *given = input(REAL, count), *dx = output(REAL, count);
    for (ptrdiff_t row = 0; row < outer * inner; row++) {
        ptrdiff_t at = row / inner * dim * inner + row % inner;
        softmax_row(x->value + at, g->value + at, dim, inner, log_wanted, y->value + at, dx->value + at);
    }
    for (ptrdiff_t i = 0; i < count; i++)
        given->value[i] = dtype == PYCONV_F32 ? (float)y->value[i] : y->value[i];
    RUN(kernels->softmax->softmax(outer, dim, inner, data(x), log_wanted, data(y)));
    expect("output", y, 10 * rounding());
    RUN(kernels->softmax->softmax_backward(outer, dim, inner, data(g), data(given), log_wanted, data(dx)));
    expect("grad_input", dx, 20 * rounding());
    end_case();
}

void test_matrix(void) {
    static const ptrdiff_t extents[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 100};
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) {
            check_linear(extents[pick(16)], extents[i], extents[j]);
            check_transpose(1 + pick(3), extents[i], extents[j]);
            check_softmax(1 + pick(4), extents[i], j % 2 ? 1 : extents[j]);
        }
    check_linear(0, 5, 4);
    check_linear(70, 300, 20);
    check_linear(2, 20, 600);
    for (int i = 0; i < 4; i++) { /* products of their own: chunks, panels copied or not, many blocks */
        static const ptrdiff_t batches[] = {9, 33, 64, 130};
        check_linear(batches[i], 300, 130);
        check_linear(batches[i], 130, 300);
    }
    check_linear(300, 40, 30);
    check_transpose(0, 3, 4);
    check_transpose(1, 300, 400); /* cut both ways */
    check_transpose(1, 5, 9000);
    check_transpose(1, 9000, 5);
    check_softmax(3, 2000, 1);
    check_softmax(0, 3, 1);
}
