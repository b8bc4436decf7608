/* Joins of branches: the sum of two arrays, and the columns that concatenation copies.
 *
 *   add   y[i] = a[i] + b[i], then max(., 0) where asked
 *   copy  y[r][j] = x[r][j] for j < columns, the rows `stride` elements apart
 *
 * Both are bound by memory: a task is CHUNK elements, small enough to stay in L2.
 */
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"

#define CHUNK ((ptrdiff_t)16384)
/* A core streams about 10 bytes a nanosecond. */
#define NANOSECONDS(bytes) ((double)(bytes) / 10.0)

struct sum {
    ptrdiff_t count;
    const real *a, *b;
    int relu;
    real *output;
};

INLINE vec rectified(vec x, int relu) { return relu ? choose(x < 0, (vec){0}, x) : x; }

static void run_add(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct sum *s = context;
    ptrdiff_t i = task * CHUNK, end = min_size(i + CHUNK, s->count);
    for (; i + LANES <= end; i += LANES)
        store(s->output + i, rectified(load(s->a + i) + load(s->b + i), s->relu));
    if (i < end) {
        vec total = load_first(s->a + i, end - i) + load_first(s->b + i, end - i);
        store_first(s->output + i, rectified(total, s->relu), end - i);
    }
}

static int add(ptrdiff_t count, const void *a, const void *b, int relu, void *output) {
    struct sum s = {count, a, b, relu, output};
    return parallel_run(ceil_div(count, CHUNK), NANOSECONDS(3 * count * (ptrdiff_t)sizeof(real)), 0, run_add,
                        &s);
}

struct copy {
    ptrdiff_t rows, columns, rows_per_task;
    const real *input;
    ptrdiff_t input_stride;
    real *output;
    ptrdiff_t output_stride;
};

static void run_copy(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct copy *c = context;
    ptrdiff_t row = task * c->rows_per_task, end = min_size(row + c->rows_per_task, c->rows);
    for (; row < end; row++) {
        const real *x = c->input + row * c->input_stride;
        real *y = c->output + row * c->output_stride;
        ptrdiff_t j = 0;
        for (; j + LANES <= c->columns; j += LANES) store(y + j, load(x + j));
        if (j < c->columns) store_first(y + j, load_first(x + j, c->columns - j), c->columns - j);
    }
}

static int copy(ptrdiff_t rows, ptrdiff_t columns, const void *input, ptrdiff_t input_stride, void *output,
                ptrdiff_t output_stride) {
    if (!rows || !columns) return PYCONV_OK;
    struct copy c = {rows, columns, max_size(1, CHUNK / columns), input, input_stride, output, output_stride};
    double cost = NANOSECONDS(2 * rows * columns * (ptrdiff_t)sizeof(real));
    return parallel_run(ceil_div(rows, c.rows_per_task), cost, 0, run_copy, &c);
}

const struct pyconv_join_kernels KERNELS(join) = {add, copy};
