/* How norm.c cuts channels-last memory into tasks, and where these keep what they work with.
 *
 * A row of few channels would waste lanes, so wide rows of several rows are formed whose width is a multiple
 * of the vector and about WIDTH elements; parameters are repeated to that width. Rows of more than BLOCK
 * channels are cut into blocks. A task is a piece of at most MAX_ROWS wide rows, or one block of them; its
 * sums are of `real`, those across pieces of double, in order.
 */
#ifndef PYCONV_NORM_ROWS_H
#define PYCONV_NORM_ROWS_H

#include "kernels/norm.h"
#include "parallel.h"
#include "stream.h"

#define WIDTH ((ptrdiff_t)64)
#define MAX_WIDTH ((ptrdiff_t)1024)
#define BLOCK ((ptrdiff_t)2048)
#define MAX_ROWS ((ptrdiff_t)512)
#define MIN_ROWS ((ptrdiff_t)64)
#define CHUNK ((ptrdiff_t)32768) /* elements of a task, between these bounds: stays in L2 */
/* A core streams about 10 bytes a nanosecond. */
#define NANOSECONDS(bytes) ((double)(bytes) / 10.0)

/* How the memory is cut, in elements. */
struct cut {
    ptrdiff_t repeat, stride; /* rows to a wide row, and its elements: repeat * channels */
    ptrdiff_t blocks, width;  /* blocks to a wide row, and the width of one, but perhaps of the last */
    ptrdiff_t entry, pieces;  /* rows * channels, and into how many pieces it goes */
    ptrdiff_t piece;          /* wide rows to a piece, times stride */
    size_t padded;            /* bytes of an array of width elements, whole vectors */
};

INLINE struct cut cut_norm(const struct pyconv_norm *norm) {
    struct cut cut = {.repeat = 1, .blocks = 1, .entry = norm->rows * norm->channels};
    ptrdiff_t channels = max_size(norm->channels, 1), repeat = 1;
    while (repeat * channels % LANES || repeat * channels < WIDTH) repeat++;
    if (repeat * channels <= MAX_WIDTH) cut.repeat = repeat; /* else each row ends in a part of a vector */
    cut.stride = cut.width = cut.repeat * channels;
    if (channels > BLOCK) {
        cut.blocks = ceil_div(channels, BLOCK);
        cut.width = BLOCK;
    }
    cut.piece = min_size(max_size(CHUNK / cut.width, MIN_ROWS), MAX_ROWS) * cut.stride;
    cut.pieces = ceil_div(cut.entry, cut.piece);
    cut.padded = (size_t)(ceil_div(cut.width, LANES) * LANES) * sizeof(real);
    return cut;
}

struct job;
/* Two passes over each batch entry, and what is made of the first one's sums. */
struct passes {
    parallel_task *first, *second;
    void (*between)(const struct job *job, ptrdiff_t entry);
};

struct job {
    const struct pyconv_norm *norm;
    struct cut cut;
    const real *x, *g, *other; /* input, gradient of the output, and residual or output */
    const double *a, *b, *c;
    real *result, *masked;
    double *partial; /* [batch entry][piece][2][channels] */
    struct passes passes;
    const struct pyconv_group_norm *groups;
    double *sum, *product, *tilt, *pull; /* of the gradient: [batch entry][channels] */
};

/* What a task works on: `count` elements from `start`, `width` in each wide row; the last may have fewer. */
struct range {
    ptrdiff_t entry, unit; /* the batch entry, and the piece among all entries' */
    ptrdiff_t first;       /* the first channel of the block */
    ptrdiff_t start, count, width;
};

INLINE struct range range_of(const struct job *job, ptrdiff_t task) {
    const struct cut *cut = &job->cut;
    struct range range = {
        .unit = task / cut->blocks, .first = task % cut->blocks * BLOCK, .width = cut->width};
    ptrdiff_t begin = range.unit % cut->pieces * cut->piece;
    range.entry = range.unit / cut->pieces;
    range.start = range.entry * cut->entry + begin + range.first;
    range.count = min_size(cut->piece, cut->entry - begin);
    if (cut->blocks > 1) {
        range.width = min_size(BLOCK, job->norm->channels - range.first);
        range.count = range.count / cut->stride * range.width;
    }
    return range;
}

/* The n-th array of width elements in a task's scratch. */
INLINE real *slot(const struct job *job, void *scratch, int n) {
    return (real *)((char *)scratch + (size_t)n * job->cut.padded);
}

/* The number of different channels in a range. */
INLINE ptrdiff_t channels_of(const struct job *job, const struct range *range) {
    return min_size(range->width, job->norm->channels);
}

/* Values of the range's channels, repeated to the width of a wide row in slot n. */
INLINE const real *spread(const struct job *job, void *scratch, int n, const struct range *range,
                          const double *values) {
    ptrdiff_t channels = channels_of(job, range);
    real *wide = slot(job, scratch, n);
    for (ptrdiff_t i = 0; i < channels; i++) wide[i] = (real)values[i];
    for (ptrdiff_t i = channels; i < range->width; i++) wide[i] = wide[i - channels];
    return wide;
}

/* The same for a parameter of every batch entry and channel, which may be NULL where it is not needed. */
INLINE const real *parameter(const struct job *job, void *scratch, int n, const struct range *range,
                             const double *values) {
    if (!values) return slot(job, scratch, n);
    return spread(job, scratch, n, range, values + range->entry * job->norm->channels + range->first);
}

/* The sum over the repeats of each channel, in double. */
INLINE void fold(const struct job *job, const struct range *range, const real *wide, double *sums) {
    ptrdiff_t channels = channels_of(job, range);
    for (ptrdiff_t i = 0; i < channels; i++) sums[i] = (double)wide[i];
    for (ptrdiff_t r = 1; r < job->cut.repeat; r++)
        for (ptrdiff_t i = 0; i < channels; i++) sums[i] += (double)wide[r * channels + i];
}

/* Where a range's partial sums number `which` go. */
INLINE double *partial_of(const struct job *job, const struct range *range, int which) {
    return job->partial + (2 * range->unit + which) * job->norm->channels + range->first;
}

INLINE int run(const struct job *job, parallel_task *task, int slots, ptrdiff_t streams) {
    ptrdiff_t entries = job->norm->batch, elements = entries * job->cut.entry;
    if (elements == 0) return PYCONV_OK;
    double cost = NANOSECONDS((double)streams * (double)elements * (double)sizeof(real));
    return parallel_run(entries * job->cut.pieces * job->cut.blocks, cost, (size_t)slots * job->cut.padded,
                        task, job);
}

/* Two doubles for each channel and piece. */
INLINE int alloc_partial(struct job *job, size_t *bytes) {
    size_t units = (size_t)(job->norm->batch * job->cut.pieces), each = 2 * sizeof(double);
    if (__builtin_mul_overflow(units * each, (size_t)job->norm->channels, bytes)) return PYCONV_NO_MEMORY;
    job->partial = pyconv_alloc(*bytes);
    return job->partial ? PYCONV_OK : PYCONV_NO_MEMORY;
}

/* Sums of a whole batch entry: over its pieces' partial sums number `which`, in order. */
INLINE void add_partial(const struct job *job, ptrdiff_t entry, int which, double *sums) {
    ptrdiff_t channels = job->norm->channels;
    for (ptrdiff_t i = 0; i < channels; i++) sums[i] = 0;
    for (ptrdiff_t piece = 0; piece < job->cut.pieces; piece++) {
        const double *partial = job->partial + (2 * (entry * job->cut.pieces + piece) + which) * channels;
        for (ptrdiff_t i = 0; i < channels; i++) sums[i] += partial[i];
    }
}

#endif
