/* The gradients of layer norm's weight and bias, which every element of an entry has one of:
 *
 *     dweight[j] = sum over n of g[n][j] (x[n][j] - mean[n]) scale[n],    dbias[j] = sum over n of g[n][j]
 *
 * A task is a block of elements of a piece of the entries; its sums, which stay in L1, are of CHUNK entries,
 * and where there are more, these are then added. Few elements make several pieces, whose sums are added in
 * order; otherwise the sums of the only piece are the result.
 */
#include "kernels/norm.h"
#include "parallel.h"

#define BLOCK ((ptrdiff_t)2048)
#define CHUNK ((ptrdiff_t)64)
#define TASKS ((ptrdiff_t)16)
/* A core streams about 10 bytes a nanosecond. */
#define NANOSECONDS(bytes) ((double)(bytes) / 10.0)

struct job {
    const struct pyconv_norm *norm;
    ptrdiff_t blocks, pieces, entries; /* entries of a piece */
    const real *g, *x;
    real *product, *sum; /* [piece][rows], the pieces `stride` elements apart */
    ptrdiff_t stride;
};

/* sum (+)= x, for n elements, LANES at most */
INLINE void accumulate(real *sum, vec x, ptrdiff_t n, int add) {
    if (n >= LANES)
        store(sum, add ? load(sum) + x : x);
    else
        store_first(sum, add ? load_first(sum, n) + x : x, n);
}

/* What one entry's elements [begin, end) have, added to the sums or set. */
INLINE void add_entry(const struct job *job, ptrdiff_t n, ptrdiff_t begin, ptrdiff_t end, int add,
                      real *product, real *sum) {
    vec mean = splat((real)job->norm->mean[n]), scale = splat((real)job->norm->scale[n]);
    const real *g = job->g + n * job->norm->rows, *x = job->x + n * job->norm->rows;
    ptrdiff_t j = begin;
    for (; j + LANES <= end; j += LANES) {
        vec v = load(g + j);
        accumulate(product + (j - begin), v * ((load(x + j) - mean) * scale), LANES, add);
        accumulate(sum + (j - begin), v, LANES, add);
    }
    if (j == end) return;
    vec v = load_first(g + j, end - j);
    accumulate(product + (j - begin), v * ((load_first(x + j, end - j) - mean) * scale), end - j, add);
    accumulate(sum + (j - begin), v, end - j, add);
}

static void run_block(const void *context, ptrdiff_t task, void *scratch) {
    const struct job *job = context;
    ptrdiff_t piece = task / job->blocks, begin = task % job->blocks * BLOCK;
    ptrdiff_t end = min_size(begin + BLOCK, job->norm->rows), count = end - begin;
    ptrdiff_t first = piece * job->entries, last = min_size(first + job->entries, job->norm->batch);
    real *product = job->product + piece * job->stride + begin, *sum = job->sum + piece * job->stride + begin;
    real *to_product = product, *to_sum = sum;
    for (ptrdiff_t chunk = first; chunk < last; chunk += CHUNK) {
        add_entry(job, chunk, begin, end, 0, to_product, to_sum);
        for (ptrdiff_t n = chunk + 1; n < min_size(chunk + CHUNK, last); n++)
            add_entry(job, n, begin, end, 1, to_product, to_sum);
        if (chunk > first)
            for (ptrdiff_t j = 0; j < count; j++) product[j] += to_product[j], sum[j] += to_sum[j];
        to_product = scratch, to_sum = to_product + BLOCK;
    }
}

/* total = the sum over the pieces */
static void add_pieces(const real *partial, ptrdiff_t rows, ptrdiff_t pieces, ptrdiff_t stride, real *total) {
    for (ptrdiff_t j = 0; j < rows; j++) {
        double sum = 0;
        for (ptrdiff_t piece = 0; piece < pieces; piece++) sum += (double)partial[piece * stride + j];
        total[j] = (real)sum;
    }
}

int VARIANT(element_sums)(const struct pyconv_norm *norm, const void *g, const void *x, void *product,
                          void *sum) {
    ptrdiff_t rows = norm->rows, blocks = ceil_div(rows, BLOCK);
    struct job job = {.norm = norm, .blocks = blocks, .g = g, .x = x, .product = product, .sum = sum};
    if (norm->batch == 0) { /* the sums of nothing */
        memset(product, 0, (size_t)rows * sizeof(real));
        memset(sum, 0, (size_t)rows * sizeof(real));
        return PYCONV_OK;
    }
    job.entries =
        ceil_div(norm->batch, max_size(min_size(TASKS / max_size(blocks, 1), norm->batch / CHUNK), 1));
    job.pieces = ceil_div(norm->batch, job.entries);
    real *partial = NULL;
    size_t bytes = 2 * (size_t)job.pieces * (size_t)rows * sizeof(real);
    if (job.pieces > 1) {
        if (!(partial = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
        job.product = partial, job.sum = partial + rows, job.stride = 2 * rows;
    }
    double cost = NANOSECONDS(2.0 * (double)norm->batch * (double)rows * sizeof(real));
    int status = parallel_run(blocks * job.pieces, cost, 2 * (size_t)BLOCK * sizeof(real), run_block, &job);
    if (!partial) return status;
    if (status == PYCONV_OK) {
        add_pieces(job.product, rows, job.pieces, job.stride, product);
        add_pieces(job.sum, rows, job.pieces, job.stride, sum);
    }
    pyconv_free(partial, bytes);
    return status;
}
