/* softmax and log_softmax along one dimension, and their gradients.
 *
 *     softmax(x)_i = e^(x_i - m) / s,   log_softmax(x)_i = x_i - m - log(s),   m = max x,  s = sum e^(x_j -
 * m)
 *
 * An array is seen as [outer][dim][inner]. With inner = 1 a row lies in memory at a stretch and its lanes
 * are added up at the end; otherwise each lane has a column of its own, and neighbouring
 * vectors are worked on together.
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

/* What stands behind the end of a row whose largest is m: e^-80 added to e^0 is nothing, and e^-infinity,
 * which must do where m - 80 rounds, takes 100 ns, for a denormal step. */
INLINE vec behind(vec m) { return choose(absolute(m) < (real)1e6, m - 80, lowest()); }

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

static void softmax_row(ptrdiff_t n, const real *x, int log, real *y) {
    vec peak = lowest(), sum = {0};
    FOR_ROW(v, x, lowest(), peak = larger(v, peak));
    vec m = splat(largest_lane(peak)), rest = behind(m);
    if (log) {
        FOR_ROW(v, x, rest, sum += vec_exp(v - m));
        vec shift = vec_log(splat(sum_lanes(sum)));
        FOR_ROW(v, x, lowest(), store_some(y + i, v - m - shift, n - i));
    } else {
        FOR_ROW(v, x, rest, vec e = vec_exp(v - m); sum += e; store_some(y + i, e, n - i));
        vec factor = 1 / splat(sum_lanes(sum));
        FOR_ROW(v, y, lowest(), store_some(y + i, v * factor, n - i));
    }
}

static void softmax_row_backward(ptrdiff_t n, const real *g, const real *y, int log, real *grad) {
    vec sum = {0};
    if (log) {
        FOR_ROW(v, g, (vec){0}, sum += v);
        vec s = splat(sum_lanes(sum));
        FOR_ROW(v, y, (vec){0}, store_some(grad + i, load_some(g + i, n - i) - vec_exp(v) * s, n - i));
    } else {
        FOR_ROW(v, y, (vec){0}, sum += v * load_some(g + i, n - i));
        vec s = splat(sum_lanes(sum));
        FOR_ROW(v, y, (vec){0}, store_some(grad + i, v * (load_some(g + i, n - i) - s), n - i));
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

/* ---- Columns: `vectors` of them side by side, `stride` elements from one entry to the next ---- */

#define SIDE_BY_SIDE 4 /* a run of cache lines to an entry, where powers of two would fight for one place */

INLINE void softmax_columns(ptrdiff_t n, ptrdiff_t stride, int vectors, ptrdiff_t width, const real *x,
                            int log, real *y) {
    vec m[SIDE_BY_SIDE], sum[SIDE_BY_SIDE], shift[SIDE_BY_SIDE];
    for (int v = 0; v < vectors; v++) m[v] = lowest(), sum[v] = (vec){0};
    for (ptrdiff_t j = 0; j < n; j++)
        for (int v = 0; v < vectors; v++) {
            ptrdiff_t at = j * stride + v * LANES;
            m[v] = larger(load_some(x + at, width - v * LANES), m[v]);
        }
    for (ptrdiff_t j = 0; j < n; j++)
        for (int v = 0; v < vectors; v++) {
            ptrdiff_t at = j * stride + v * LANES;
            vec e = vec_exp(load_some(x + at, width - v * LANES) - m[v]);
            sum[v] += e;
            if (!log) store_some(y + at, e, width - v * LANES);
        }
    for (int v = 0; v < vectors; v++) shift[v] = log ? vec_log(sum[v]) : 1 / sum[v];
    for (ptrdiff_t j = 0; j < n; j++)
        for (int v = 0; v < vectors; v++) {
            ptrdiff_t at = j * stride + v * LANES;
            vec u = load_some((log ? x : y) + at, width - v * LANES);
            store_some(y + at, log ? u - m[v] - shift[v] : u * shift[v], width - v * LANES);
        }
}

INLINE void softmax_columns_backward(ptrdiff_t n, ptrdiff_t stride, int vectors, ptrdiff_t width,
                                     const real *g, const real *y, int log, real *grad) {
    vec sum[SIDE_BY_SIDE];
    for (int v = 0; v < vectors; v++) sum[v] = (vec){0};
    for (ptrdiff_t j = 0; j < n; j++)
        for (int v = 0; v < vectors; v++) {
            ptrdiff_t at = j * stride + v * LANES;
            vec u = load_some(g + at, width - v * LANES);
            sum[v] += log ? u : u * load_some(y + at, width - v * LANES);
        }
    for (ptrdiff_t j = 0; j < n; j++)
        for (int v = 0; v < vectors; v++) {
            ptrdiff_t at = j * stride + v * LANES;
            vec u = load_some(g + at, width - v * LANES), w = load_some(y + at, width - v * LANES);
            store_some(grad + at, log ? u - vec_exp(w) * sum[v] : w * (u - sum[v]), width - v * LANES);
        }
}

INLINE void columns(const struct softmax *job, int vectors, ptrdiff_t offset, ptrdiff_t width, int log) {
    if (job->grad_output)
        softmax_columns_backward(job->dim, job->inner, vectors, width, job->grad_output + offset,
                                 job->array + offset, log, job->result + offset);
    else
        softmax_columns(job->dim, job->inner, vectors, width, job->array + offset, log, job->result + offset);
}

static void run_columns(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct softmax *job = context;
    ptrdiff_t outer = task / job->blocks, block = task % job->blocks;
    ptrdiff_t begin = job->inner * block / job->blocks, end = job->inner * (block + 1) / job->blocks;
    ptrdiff_t column = begin, offset = outer * job->dim * job->inner;
    ptrdiff_t many = SIDE_BY_SIDE * LANES;
    for (; column + many <= end; column += many)
        if (job->log)
            columns(job, SIDE_BY_SIDE, offset + column, many, 1);
        else
            columns(job, SIDE_BY_SIDE, offset + column, many, 0);
    for (; column < end; column += LANES) columns(job, 1, offset + column, end - column, job->log);
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
    job.blocks = ceil_div(inner, max_size(SIDE_BY_SIDE * 64, TASK / dim));
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
