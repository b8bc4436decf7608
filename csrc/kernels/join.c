/* Joins of branches: the sum of two arrays, and concatenation with its way back.
 *
 *   add     y[i] = a[i] + b[i], then max(., 0) where asked
 *   copy    y[r][j] = x[r][j] for j < columns, the rows `stride` elements apart
 *   concat  y[r] = (a[r], b[r], ...)
 *
 * All are bound by memory: a task is CHUNK elements, small enough to stay in L2.
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
        copy_elements(x, c->columns, y);
    }
}

static int copy(ptrdiff_t rows, ptrdiff_t columns, const void *input, ptrdiff_t input_stride, void *output,
                ptrdiff_t output_stride) {
    if (!rows || !columns) return PYCONV_OK;
    struct copy c = {rows, columns, max_size(1, CHUNK / columns), input, input_stride, output, output_stride};
    double cost = NANOSECONDS(2 * rows * columns * (ptrdiff_t)sizeof(real));
    return parallel_run(ceil_div(rows, c.rows_per_task), cost, 0, run_copy, &c);
}

struct concat {
    ptrdiff_t count, width, elements; /* elements of a row and of all rows of the output */
    const void *const *inputs;
    const ptrdiff_t *columns;
    real *output;
};

/* A run of the output's elements: it is written in the order of memory, whatever the rows are. */
static void run_concat(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct concat *job = context;
    ptrdiff_t at = task * CHUNK, end = min_size(at + CHUNK, job->elements);
    ptrdiff_t row = at / job->width, column = at % job->width, k = 0;
    while (column >= job->columns[k]) column -= job->columns[k++];
    while (at < end) {
        ptrdiff_t n = min_size(job->columns[k] - column, end - at);
        const real *x = (const real *)job->inputs[k] + row * job->columns[k] + column;
        if (n >= 1024) /* the C library reads no line that it overwrites whole: 0.8 of the time */
            memcpy(job->output + at, x, (size_t)n * sizeof(real));
        else
            copy_elements(x, n, job->output + at);
        at += n, column = 0;
        if (++k == job->count) k = 0, row++;
    }
}

static int concat(ptrdiff_t rows, ptrdiff_t count, const void *const *inputs, const ptrdiff_t *columns,
                  void *output) {
    struct concat job = {.count = count, .inputs = inputs, .columns = columns, .output = output};
    for (ptrdiff_t k = 0; k < count; k++) job.width += columns[k];
    job.elements = rows * job.width;
    double cost = NANOSECONDS(2.0 * (double)job.elements * sizeof(real));
    return parallel_run(ceil_div(job.elements, CHUNK), cost, 0, run_concat, &job);
}

const struct pyconv_join_kernels KERNELS(join) = {add, copy, concat};
