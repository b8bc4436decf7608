/* softmax and log_softmax along one dimension, and their gradients.
 *
 *     softmax(x)_i = e^(x_i - m) / s,   log_softmax(x)_i = x_i - m - log(s),   m = max x,  s = sum e^(x_j -
 * m)
 *
 * An array is seen as [outer][dim][inner]. With inner = 1 a row lies in memory at a stretch and its lanes
 * are added up at the end; otherwise LANES neighbouring columns are worked on at once, each lane its own.
 * A task is about TASK elements: rows, or a block of columns of one outer index.
 */
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"
#include "vmath.h"

#define TASK ((ptrdiff_t)16384)
/* An exponential and three passes through cache. */
#define NANOSECONDS_PER_ELEMENT 1.0

struct softmax {
    ptrdiff_t outer, dim, inner;
    ptrdiff_t rows;                  /* rows to a task, where inner is 1 */
    ptrdiff_t blocks;                /* tasks to an outer index, otherwise */
    const real *grad_output, *array; /* array: the input forward, the output backward */
    int log;
    real *result;
};

INLINE vec lowest(void) { return splat((real)-__builtin_inf()); }

/* ---- Rows ---- */

/* Run `body` for every vector v at offset i of a row of n; the lanes behind the row's end hold `fill`. */
#define FOR_ROW(v, x, fill, body)                                                                            \
    do {                                                                                                     \
        ptrdiff_t i = 0;                                                                                     \
        for (; i + LANES <= n; i += LANES) {                                                                 \
            vec v = load((x) + i);                                                                           \
            body;                                                                                            \
        }                                                                                                    \
        if (i < n) {                                                                                         \
            vec v = first_lanes(load_first((x) + i, n - i), n - i, fill);                                    \
            body;                                                                                            \
        }                                                                                                    \
    } while (0)

INLINE void store_row(real *y, vec v, ptrdiff_t n) {
    if (n >= LANES)
        store(y, v);
    else
        store_first(y, v, n);
}
INLINE vec load_row(const real *x, ptrdiff_t n) { return n >= LANES ? load(x) : load_first(x, n); }

static void softmax_row(ptrdiff_t n, const real *x, int log, real *y) {
    vec peak = lowest(), sum = {0};
    FOR_ROW(v, x, lowest(), peak = larger(v, peak));
    vec m = splat(largest_lane(peak));
    if (log) {
        FOR_ROW(v, x, lowest(), sum += vec_exp(v - m));
        vec shift = vec_log(splat(sum_lanes(sum)));
        FOR_ROW(v, x, lowest(), store_row(y + i, v - m - shift, n - i));
    } else {
        FOR_ROW(v, x, lowest(), vec e = vec_exp(v - m); sum += e; store_row(y + i, e, n - i));
        vec factor = 1 / splat(sum_lanes(sum));
        FOR_ROW(v, y, lowest(), store_row(y + i, v * factor, n - i));
    }
}

static void softmax_row_backward(ptrdiff_t n, const real *g, const real *y, int log, real *grad) {
    vec sum = {0};
    if (log) {
        FOR_ROW(v, g, (vec){0}, sum += v);
        vec s = splat(sum_lanes(sum));
        FOR_ROW(v, y, (vec){0}, store_row(grad + i, load_row(g + i, n - i) - vec_exp(v) * s, n - i));
    } else {
        FOR_ROW(v, y, (vec){0}, sum += v * load_row(g + i, n - i));
        vec s = splat(sum_lanes(sum));
        FOR_ROW(v, y, (vec){0}, store_row(grad + i, v * (load_row(g + i, n - i) - s), n - i));
    }
}

static void run_rows(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct softmax *job = context;
    ptrdiff_t n = job->dim, end = min_size((task + 1) * job->rows, job->outer);
    for (ptrdiff_t row = task * job->rows; row < end; row++) {
        const real *array = job->array + row * n;
        if (job->grad_output)
            softmax_row_backward(n, job->grad_output + row * n, array, job->log, job->result + row * n);
        else
            softmax_row(n, array, job->log, job->result + row * n);
    }
}

/* ---- Columns: `width` lanes of them at x, `stride` elements from one to the next in their dimension ---- */

static void softmax_columns(ptrdiff_t n, ptrdiff_t stride, ptrdiff_t width, const real *x, int log, real *y) {
    vec m = lowest(), sum = {0};
    for (ptrdiff_t j = 0; j < n; j++) m = larger(load_row(x + j * stride, width), m);
    for (ptrdiff_t j = 0; j < n; j++) {
        vec e = vec_exp(load_row(x + j * stride, width) - m);
        sum += e;
        if (!log) store_row(y + j * stride, e, width);
    }
    if (log) {
        vec shift = vec_log(sum);
        for (ptrdiff_t j = 0; j < n; j++)
            store_row(y + j * stride, load_row(x + j * stride, width) - m - shift, width);
    } else {
        vec factor = 1 / sum;
        for (ptrdiff_t j = 0; j < n; j++)
            store_row(y + j * stride, load_row(y + j * stride, width) * factor, width);
    }
}

static void softmax_columns_backward(ptrdiff_t n, ptrdiff_t stride, ptrdiff_t width, const real *g,
                                     const real *y, int log, real *grad) {
    vec sum = {0};
    for (ptrdiff_t j = 0; j < n; j++) {
        vec v = load_row(g + j * stride, width);
        sum += log ? v : v * load_row(y + j * stride, width);
    }
    for (ptrdiff_t j = 0; j < n; j++) {
        vec v = load_row(g + j * stride, width), u = load_row(y + j * stride, width);
        store_row(grad + j * stride, log ? v - vec_exp(u) * sum : u * (v - sum), width);
    }
}

static void run_columns(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct softmax *job = context;
    ptrdiff_t outer = task / job->blocks, block = task % job->blocks;
    ptrdiff_t begin = job->inner * block / job->blocks, end = job->inner * (block + 1) / job->blocks;
    for (ptrdiff_t column = begin; column < end; column += LANES) {
        ptrdiff_t offset = outer * job->dim * job->inner + column, width = end - column;
        if (job->grad_output)
            softmax_columns_backward(job->dim, job->inner, width, job->grad_output + offset,
                                     job->array + offset, job->log, job->result + offset);
        else
            softmax_columns(job->dim, job->inner, width, job->array + offset, job->log, job->result + offset);
    }
}

static int run(ptrdiff_t outer, ptrdiff_t dim, ptrdiff_t inner, const void *grad_output, const void *array,
               int log, void *result) {
    if (!outer || !dim || !inner) return PYCONV_OK;
    struct softmax job = {outer, dim, inner, 0, 0, grad_output, array, log, result};
    double nanoseconds = (double)outer * (double)dim * (double)inner * NANOSECONDS_PER_ELEMENT;
    if (inner == 1) {
        job.rows = max_size(1, TASK / dim);
        return parallel_run(ceil_div(outer, job.rows), nanoseconds, 0, run_rows, &job);
    }
    job.blocks = ceil_div(inner, max_size(64, TASK / dim));
    return parallel_run(outer * job.blocks, nanoseconds, 0, run_columns, &job);
}

static int softmax(ptrdiff_t outer, ptrdiff_t dim, ptrdiff_t inner, const void *input, int log,
                   void *output) {
    return run(outer, dim, inner, NULL, input, log, output);
}

static int softmax_backward(ptrdiff_t outer, ptrdiff_t dim, ptrdiff_t inner, const void *grad_output,
                            const void *output, int log, void *grad_input) {
    return run(outer, dim, inner, grad_output, output, log, grad_input);
}

const struct pyconv_softmax_kernels KERNELS(softmax) = {softmax, softmax_backward};
