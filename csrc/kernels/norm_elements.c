/* The gradients of layer norm's weight and bias, which every element of an entry has one of:
 *
 *     dweight[j] = sum over n of g[n][j] (x[n][j] - mean[n]) scale[n],    dbias[j] = sum over n of g[n][j]
 *
 * A task is a block of elements of a piece of the entries; its sums, which stay in L1, are of CHUNK entries
 * that are then added. Few elements make several pieces, whose sums are added in order.
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
    real *partial; /* [piece][2][rows] */
};

/* Add one entry's elements [begin, end) to the sums. */
INLINE void add_entry(const struct job *job, ptrdiff_t n, ptrdiff_t begin, ptrdiff_t end, real *product,
                      real *sum) {
    vec mean = splat((real)job->norm->mean[n]), scale = splat((real)job->norm->scale[n]);
    const real *g = job->g + n * job->norm->rows, *x = job->x + n * job->norm->rows;
    ptrdiff_t j = begin;
    for (; j + LANES <= end; j += LANES) {
        vec v = load(g + j);
        store(product + (j - begin), load(product + (j - begin)) + v * ((load(x + j) - mean) * scale));
        store(sum + (j - begin), load(sum + (j - begin)) + v);
    }
    if (j == end) return;
    vec v = load_first(g + j, end - j), z = (load_first(x + j, end - j) - mean) * scale;
    product += j - begin, sum += j - begin;
    store_first(product, load_first(product, end - j) + v * z, end - j);
    store_first(sum, load_first(sum, end - j) + v, end - j);
}

static void run_block(const void *context, ptrdiff_t task, void *scratch) {
    const struct job *job = context;
    ptrdiff_t piece = task / job->blocks, begin = task % job->blocks * BLOCK, rows = job->norm->rows;
    ptrdiff_t end = min_size(begin + BLOCK, rows), count = end - begin;
    ptrdiff_t last = min_size((piece + 1) * job->entries, job->norm->batch);
    real *product = job->partial + 2 * piece * rows + begin, *sum = product + rows;
    real *chunk_product = scratch, *chunk_sum = chunk_product + BLOCK;
    memset(product, 0, (size_t)count * sizeof(real));
    memset(sum, 0, (size_t)count * sizeof(real));
    for (ptrdiff_t first = piece * job->entries; first < last; first += CHUNK) {
        memset(scratch, 0, 2 * (size_t)BLOCK * sizeof(real));
        for (ptrdiff_t n = first; n < min_size(first + CHUNK, last); n++)
            add_entry(job, n, begin, end, chunk_product, chunk_sum);
        for (ptrdiff_t j = 0; j < count; j++) product[j] += chunk_product[j], sum[j] += chunk_sum[j];
    }
}

int VARIANT(element_sums)(const struct pyconv_norm *norm, const void *g, const void *x, void *product,
                          void *sum) {
    struct job job = {.norm = norm, .blocks = ceil_div(norm->rows, BLOCK), .g = g, .x = x};
    ptrdiff_t rows = norm->rows, pieces = max_size(min_size(TASKS / job.blocks, norm->batch / CHUNK), 1);
    job.entries = ceil_div(norm->batch, pieces);
    job.pieces = ceil_div(norm->batch, job.entries);
    size_t bytes = 2 * (size_t)job.pieces * (size_t)rows * sizeof(real);
    if (!(job.partial = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    double cost = NANOSECONDS(2.0 * (double)norm->batch * (double)rows * sizeof(real));
    int status =
        parallel_run(job.blocks * job.pieces, cost, 2 * (size_t)BLOCK * sizeof(real), run_block, &job);
    real *p = product, *s = sum;
    for (ptrdiff_t j = 0; status == PYCONV_OK && j < rows; j++) {
        double products = 0, sums = 0;
        for (ptrdiff_t piece = 0; piece < job.pieces; piece++) {
            products += (double)job.partial[2 * piece * rows + j];
            sums += (double)job.partial[(2 * piece + 1) * rows + j];
        }
        p[j] = (real)products, s[j] = (real)sums;
    }
    pyconv_free(job.partial, bytes);
    return status;
}
