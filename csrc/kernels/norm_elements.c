/* Layer norm's weight and bias, which every element of an entry has one of. Their gradients:
 *
 *     dweight[j] = sum over n of g[n][j] (x[n][j] - mean[n]) scale[n],    dbias[j] = sum over n of g[n][j]
 *
 * A task is a block of elements of a piece of the entries; its sums, which stay in L1, are of CHUNK entries,
 * and where there are more, these are then added. Few elements make several pieces, whose sums are added in
 * order; otherwise the sums of the only piece are the result.
 *
 * Of images in channels-last memory, weight and bias lie in the other order. A task turns those of a block of
 * pixels, which stay in L2, and applies them to all images: large images would be bound by turning all first.
 */
#include "kernels/norm.h"
#include "parallel.h"
#include "transpose.h"

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

/* ---- Weights in the other order ---- */

#define TURNED ((ptrdiff_t)8192) /* elements of a task: a quarter of L2 with what they are applied to */

struct turned {
    const struct pyconv_norm *norm;
    ptrdiff_t pixels, channels, block; /* pixels of a task */
    const real *x;
    real *y;
    const struct job *sums;
};

/* to[p][c] = from[c][p] for pixels from `begin` on; `otherwise` where there is no from */
static void turn(const struct turned *job, const real *from, ptrdiff_t begin, ptrdiff_t count, real *to,
                 real otherwise) {
    for (ptrdiff_t i = 0; !from && i < count * job->channels; i++) to[i] = otherwise;
    for (ptrdiff_t c = 0; from && c < job->channels; c += LANES)
        for (ptrdiff_t p = 0; p < count; p += LANES)
            transpose_square(from + c * job->pixels + begin + p, job->pixels,
                             min_size(LANES, job->channels - c), min_size(LANES, count - p),
                             to + p * job->channels + c, job->channels);
}

static void run_turned(const void *context, ptrdiff_t task, void *scratch) {
    const struct turned *job = context;
    const struct pyconv_norm *norm = job->norm;
    ptrdiff_t begin = task * job->block, pixels = min_size(job->block, job->pixels - begin);
    ptrdiff_t count = pixels * job->channels;
    real *weight = scratch, *shift = weight + job->block * job->channels;
    turn(job, norm->weight, begin, pixels, weight, 1);
    turn(job, norm->shift, begin, pixels, shift, 0);
    for (ptrdiff_t n = 0; n < norm->batch; n++) {
        vec mean = splat((real)norm->mean[n]), scale = splat((real)norm->scale[n]);
        const real *x = job->x + n * norm->rows + begin * job->channels;
        real *y = job->y + n * norm->rows + begin * job->channels;
        ptrdiff_t i = 0;
        for (; i + LANES <= count; i += LANES)
            store(y + i, (load(x + i) - mean) * scale * load(weight + i) + load(shift + i));
        if (i == count) continue;
        ptrdiff_t rest = count - i;
        vec v = (load_first(x + i, rest) - mean) * scale * load_first(weight + i, rest);
        store_first(y + i, v + load_first(shift + i, rest), rest);
    }
}

/* The sums of a block over all entries, then turned. */
static void run_turned_sums(const void *context, ptrdiff_t task, void *scratch) {
    const struct turned *turned = context;
    const struct job *job = turned->sums;
    ptrdiff_t channels = turned->channels, begin = task * turned->block;
    ptrdiff_t pixels = min_size(turned->block, turned->pixels - begin);
    real *product = scratch, *sum = product + turned->block * channels;
    for (ptrdiff_t n = 0; n < turned->norm->batch; n++)
        add_entry(job, n, begin * channels, (begin + pixels) * channels, n > 0, product, sum);
    for (ptrdiff_t c = 0; c < channels; c += LANES)
        for (ptrdiff_t p = 0; p < pixels; p += LANES) {
            ptrdiff_t from = p * channels + c, to = c * turned->pixels + begin + p;
            ptrdiff_t rows = min_size(LANES, pixels - p), columns = min_size(LANES, channels - c);
            transpose_square(product + from, channels, rows, columns, job->product + to, turned->pixels);
            transpose_square(sum + from, channels, rows, columns, job->sum + to, turned->pixels);
        }
}

static int run_all(struct turned *job, parallel_task *run) {
    job->pixels = job->norm->rows / job->channels;
    job->block = max_size(TURNED / job->channels / LANES, 1) * LANES;
    double cost =
        NANOSECONDS((2.0 + 2.0 * (double)job->norm->batch) * (double)job->norm->rows * sizeof(real));
    return parallel_run(ceil_div(job->pixels, job->block), cost,
                        2 * (size_t)(job->block * job->channels) * sizeof(real), run, job);
}

int VARIANT(element_sums_turned)(const struct pyconv_norm *norm, ptrdiff_t channels, const void *g,
                                 const void *x, void *product, void *sum) {
    struct job sums = {.norm = norm, .g = g, .x = x, .product = product, .sum = sum};
    struct turned job = {.norm = norm, .channels = channels, .sums = &sums};
    return run_all(&job, run_turned_sums);
}

int VARIANT(normalize_turned)(const struct pyconv_norm *norm, ptrdiff_t channels, const void *x, void *y) {
    struct turned job = {.norm = norm, .channels = channels, .x = x, .y = y};
    return run_all(&job, run_turned);
}
