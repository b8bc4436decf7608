/* softmax and log_softmax along one dimension, and their gradients.
 *
 *     softmax:      y_i = e^(x_i - m) / s         dx_i = y_i (g_i - sum y_j g_j)
 *     log_softmax:  y_i = x_i - m - log(s)        dx_i = g_i - e^(y_i) sum g_j
 *
 * with m = max x and s = sum e^(x_j - m). An array is seen as [outer][dim][inner]. With inner = 1 a row lies
 * in memory at a stretch, and its lanes are added up at the end; otherwise every lane has a column of its
 * own. SIDE rows, or vectors of columns, are worked on side by side: each alone is a chain of operations that
 * wait for each other. Results that no cache can hold are written past them (stream.h).
 */
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"
#include "stream.h"
#include "vmath.h"

#define ROWS_TASK ((ptrdiff_t)16384)  /* elements of a task */
#define BLOCK_TASK ((ptrdiff_t)65536) /* L2 holds them, for the next reading */
#define SIDE 4
#define WIDE ((ptrdiff_t)(SIDE * LANES))
/* Columns of a block: long runs of an entry are fetched ahead by the hardware. 1,024 of 64 entries take 0.85
 * of the time that 256 take, 0.8 where results are streamed (Zen 3). */
#define MOST_COLUMNS ((ptrdiff_t)1024)
#define KEPT_BYTES ((size_t)1 << 20) /* the most that a thread keeps in scratch */
/* An exponential and three passes through cache. */
#define NANOSECONDS_PER_ELEMENT 1.0

struct softmax {
    ptrdiff_t outer, dim, inner;
    ptrdiff_t rows;                  /* rows to a task, where inner is 1 */
    ptrdiff_t blocks, width;         /* otherwise: tasks to an outer index, and columns of each */
    ptrdiff_t pitch;                 /* of entries in scratch; 0: the result must do */
    const real *grad_output, *array; /* array: the input forward, the output backward */
    int log, streamed;
    real *result;
};

INLINE vec lowest(void) { return splat((real)-__builtin_inf()); }

/* Whole vectors may be streamed. */
INLINE void put_some(real *to, vec v, ptrdiff_t n, const int streamed) {
    if (n >= LANES)
        put(to, v, streamed);
    else
        store_first(to, v, n);
}

/* ---- Rows of n elements, some side by side ---- */

/* What stands behind the end of a row whose largest is m: e^-80 added to e^0 is nothing, and e^-infinity,
 * which must do where m - 80 rounds, takes 100 ns, for a denormal step. */
INLINE vec behind(vec m) { return choose(absolute(m) < (real)1e6, m - 80, lowest()); }

#define EACH_ROW UNROLL for (int r = 0; r < rows; r++)

INLINE void softmax_rows(const int rows, ptrdiff_t n, const real *x, const int log, const int streamed,
                         real *y) {
    vec m[SIDE], sum[SIDE], shift[SIDE];
    EACH_ROW m[r] = lowest(), sum[r] = (vec){0};
    for (ptrdiff_t i = 0; i < n; i += LANES)
        EACH_ROW m[r] = larger(or_rest(load_some(x + r * n + i, n - i), n - i, lowest()), m[r]);
    EACH_ROW m[r] = splat(largest_lane(m[r]));
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        vec e[SIDE];
        EACH_ROW e[r] = or_rest(load_some(x + r * n + i, n - i), n - i, behind(m[r])) - m[r];
        exp_each(e, rows);
        EACH_ROW sum[r] += e[r];
        if (!log) EACH_ROW store_some(y + r * n + i, e[r], n - i);
    }
    EACH_ROW shift[r] = splat(sum_lanes(sum[r]));
    EACH_ROW shift[r] = log ? vec_log(shift[r]) : 1 / shift[r];
    for (ptrdiff_t i = 0; i < n; i += LANES) EACH_ROW {
            vec v = load_some((log ? x : y) + r * n + i, n - i);
            put_some(y + r * n + i, log ? v - m[r] - shift[r] : v * shift[r], n - i, log && streamed);
        }
}

INLINE void softmax_rows_backward(const int rows, ptrdiff_t n, const real *g, const real *y, const int log,
                                  const int streamed, real *grad) {
    vec sum[SIDE];
    EACH_ROW sum[r] = (vec){0};
    for (ptrdiff_t i = 0; i < n; i += LANES) EACH_ROW {
            vec v = or_rest(load_some(g + r * n + i, n - i), n - i, (vec){0});
            sum[r] += log ? v : v * or_rest(load_some(y + r * n + i, n - i), n - i, (vec){0});
        }
    EACH_ROW sum[r] = splat(sum_lanes(sum[r]));
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        vec w[SIDE];
        EACH_ROW w[r] = load_some(y + r * n + i, n - i);
        if (log) exp_each(w, rows);
        EACH_ROW {
            vec u = load_some(g + r * n + i, n - i);
            put_some(grad + r * n + i, log ? u - w[r] * sum[r] : w[r] * (u - sum[r]), n - i, streamed);
        }
    }
}

INLINE void any_rows(const struct softmax *job, const int rows, ptrdiff_t row, const int log,
                     const int streamed) {
    ptrdiff_t n = job->dim, at = row * n;
    if (job->grad_output)
        softmax_rows_backward(rows, n, job->grad_output + at, job->array + at, log, streamed,
                              job->result + at);
    else
        softmax_rows(rows, n, job->array + at, log, streamed, job->result + at);
}

static void run_rows(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct softmax *job = context;
    ptrdiff_t row = task * job->rows, end = min_size(row + job->rows, job->outer);
    for (; row + SIDE <= end; row += SIDE)
        if (job->log)
            any_rows(job, SIDE, row, 1, job->streamed);
        else
            any_rows(job, SIDE, row, 0, job->streamed);
    for (; row < end; row++) any_rows(job, 1, row, job->log, job->streamed);
}

/* ---- A block of columns, entry by entry ---- */

struct block {
    ptrdiff_t n, width, stride; /* entries, columns of each, elements from one entry to the next */
    const real *g, *array;
    real *result, *kept; /* kept: where the input waits, then its exponentials, `pitch` apart */
    ptrdiff_t pitch;
    real m[MOST_COLUMNS], sum[MOST_COLUMNS];
    int streamed;
};

/* What is done with `vectors` vectors, or `width` columns, of entry j from column i on. */
typedef void block_step(struct block *b, ptrdiff_t j, ptrdiff_t i, ptrdiff_t width, const int vectors,
                        const int log);

INLINE void for_block(struct block *b, block_step *step, const int log) {
    for (ptrdiff_t j = 0; j < b->n; j++) {
        ptrdiff_t i = 0;
        for (; i + WIDE <= b->width; i += WIDE) step(b, j, i, WIDE, SIDE, log);
        for (; i < b->width; i += LANES) step(b, j, i, b->width - i, 1, log);
    }
}

#define EACH UNROLL for (int v = 0; v < vectors; v++)
#define LOAD(p) load_some((p) + v * LANES, width - v * LANES)
#define PUT(p, x) put_some((p) + v * LANES, x, width - v * LANES, b->streamed)
#define AT(array) ((array) + i + v * LANES)

INLINE void find_largest(struct block *b, ptrdiff_t j, ptrdiff_t i, ptrdiff_t width, const int vectors,
                         const int log) {
    (void)log;
    EACH {
        vec x = LOAD(b->array + j * b->stride + i);
        store_some(AT(b->kept + j * b->pitch), x, width - v * LANES);
        store(AT(b->m), larger(x, load(AT(b->m))));
    }
}

INLINE void add_exponentials(struct block *b, ptrdiff_t j, ptrdiff_t i, ptrdiff_t width, const int vectors,
                             const int log) {
    vec e[SIDE];
    EACH e[v] = LOAD(b->kept + j * b->pitch + i) - load(AT(b->m));
    exp_each(e, vectors);
    EACH store(AT(b->sum), load(AT(b->sum)) + e[v]);
    if (!log) EACH store_some(AT(b->kept + j * b->pitch), e[v], width - v * LANES);
}

INLINE void put_result(struct block *b, ptrdiff_t j, ptrdiff_t i, ptrdiff_t width, const int vectors,
                       const int log) {
    EACH {
        vec u = LOAD(b->kept + j * b->pitch + i), shift = load(AT(b->sum));
        PUT(b->result + j * b->stride + i, log ? u - load(AT(b->m)) - shift : u * shift);
    }
}

INLINE void softmax_block(struct block *b, const int log) {
    for (ptrdiff_t i = 0; i < b->width; i += LANES) store(b->m + i, lowest()), store(b->sum + i, (vec){0});
    for_block(b, find_largest, log);
    for_block(b, add_exponentials, log);
    for (ptrdiff_t i = 0; i < b->width; i += LANES)
        store(b->sum + i, log ? vec_log(load(b->sum + i)) : 1 / load(b->sum + i));
    for_block(b, put_result, log);
}

INLINE void add_gradients(struct block *b, ptrdiff_t j, ptrdiff_t i, ptrdiff_t width, const int vectors,
                          const int log) {
    EACH {
        vec g = LOAD(b->g + j * b->stride + i);
        store(AT(b->sum), load(AT(b->sum)) + (log ? g : g * LOAD(b->array + j * b->stride + i)));
    }
}

INLINE void put_gradient(struct block *b, ptrdiff_t j, ptrdiff_t i, ptrdiff_t width, const int vectors,
                         const int log) {
    vec w[SIDE];
    EACH w[v] = LOAD(b->array + j * b->stride + i);
    if (log) exp_each(w, vectors);
    EACH {
        vec g = LOAD(b->g + j * b->stride + i), sum = load(AT(b->sum));
        PUT(b->result + j * b->stride + i, log ? g - w[v] * sum : w[v] * (g - sum));
    }
}

INLINE void softmax_block_backward(struct block *b, const int log) {
    for (ptrdiff_t i = 0; i < b->width; i += LANES) store(b->sum + i, (vec){0});
    for_block(b, add_gradients, log);
    for_block(b, put_gradient, log);
}

static void run_block(const void *context, ptrdiff_t task, void *scratch) {
    const struct softmax *job = context;
    ptrdiff_t outer = task / job->blocks, begin = task % job->blocks * job->width;
    ptrdiff_t offset = outer * job->dim * job->inner + begin;
    struct block b;
    b.g = job->grad_output ? job->grad_output + offset : NULL;
    b.n = job->dim, b.width = min_size(job->width, job->inner - begin), b.stride = job->inner;
    b.array = job->array + offset, b.result = job->result + offset;
    b.kept = job->pitch ? scratch : b.result, b.pitch = job->pitch ? job->pitch : job->inner;
    b.streamed = job->streamed && (job->pitch || b.g);
    if (job->grad_output && job->log)
        softmax_block_backward(&b, 1);
    else if (job->grad_output)
        softmax_block_backward(&b, 0);
    else if (job->log)
        softmax_block(&b, 1);
    else
        softmax_block(&b, 0);
}

static int run(ptrdiff_t outer, ptrdiff_t dim, ptrdiff_t inner, const void *grad_output, const void *array,
               int log, void *result) {
    if (!outer || !dim || !inner) return PYCONV_OK;
    struct softmax job = {.outer = outer,
                          .dim = dim,
                          .inner = inner,
                          .grad_output = grad_output,
                          .array = array,
                          .log = log,
                          .result = result};
    job.streamed = is_streamed(result, outer * dim * inner, 3, array, grad_output) && is_aligned(result) &&
                   (inner == 1 ? dim : inner) % LANES == 0;
    double nanoseconds = (double)outer * (double)dim * (double)inner * NANOSECONDS_PER_ELEMENT;
    if (inner == 1) {
        job.rows = max_size(1, ROWS_TASK / dim);
        return parallel_run(ceil_div(outer, job.rows), nanoseconds, 0, run_rows, &job);
    }
    ptrdiff_t most = min_size(max_size(WIDE, BLOCK_TASK / dim), MOST_COLUMNS);
    job.width = ceil_div(ceil_div(inner, ceil_div(inner, most)), LINE) * LINE;
    job.blocks = ceil_div(inner, job.width);
    size_t scratch = (size_t)dim * (size_t)(job.width + LINE) * sizeof(real);
    if (!grad_output && scratch <= KEPT_BYTES) job.pitch = job.width + LINE;
    return parallel_run(outer * job.blocks, nanoseconds, job.pitch ? scratch : 0, run_block, &job);
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
