/* Scatter and gather through the int64 indices of max_pool2d.
 *
 *     scatter:  u[n, k[n, i, c], c] += p[n, i, c]      gather:  p[n, i, c] = u[n, k[n, i, c], c]
 *
 * The scatter adds in the order of i, as PyTorch does, so that overlapping windows give the same bits at
 * any number of threads. Nothing is known of the windows here: any index into the plane is right, and one
 * outside is left out and reported.
 *
 * A task of the scatter clears and fills a band of the unpooled plane: several whole images where these are
 * small, which stay in L2 meanwhile, or a part of one. A part must find the elements that belong to it: first
 * of all the least and the greatest index of each chunk of pooled pixels are noted, and then a band looks
 * only into the chunks that reach it, which are its own and few others where windows are local. Those few, of
 * which some elements belong to it and some don't, are slow, as no branch is predicted: so the bands of an
 * image are as wide as leaves PARTS of them in all (64 channels of 224 x 224 take 0.7 of the time that
 * BAND_ELEMENTS take, Zen 3).
 */
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"

#define BAND_ELEMENTS ((ptrdiff_t)131072)
#define PARTS 8
#define CHUNK_ELEMENTS 4096
/* A scattered element costs about 2 ns, a cleared one 0.1. */
#define NANOSECONDS(pooled, unpooled) (2.0 * (double)(pooled) + 0.1 * (double)(unpooled))

struct range {
    int64_t least, greatest;
};

struct pool_index {
    ptrdiff_t images, plane, count, channels;
    ptrdiff_t images_per_task; /* small images */
    ptrdiff_t band, bands;     /* large ones: pixels of a band, bands of an image */
    ptrdiff_t chunk, chunks;   /* pooled pixels of a chunk, chunks of an image */
    struct range *ranges;      /* [images][chunks] */
    int assign;
    const real *from;
    const int64_t *indices;
    real *to;
    int *bad; /* set where an index was outside the plane */
};

/* ---- Scatter ---- */

/* Scatter `count` pooled pixels into the pixels [first, first + band) of a plane, `unpooled` being the first;
 * returns whether an index was outside of it. */
INLINE int scatter_pixels(const real *pooled, const int64_t *indices, ptrdiff_t count, ptrdiff_t channels,
                          ptrdiff_t first, ptrdiff_t band, int assign, real *unpooled) {
    int outside = 0;
    for (ptrdiff_t i = 0; i < count; i++, pooled += channels, indices += channels) {
        ptrdiff_t c = 0;
        for (; c + LANES <= channels; c += LANES) /* neighbouring channels never meet in one element */
            outside |= add_at(unpooled + c, indices + c, first, band, channels, assign, load(pooled + c));
        for (; c < channels; c++) {
            uint64_t pixel = (uint64_t)(indices[c] - first);
            if (pixel >= (uint64_t)band) {
                outside = 1;
                continue;
            }
            real *to = unpooled + (ptrdiff_t)pixel * channels + c;
            *to = assign ? pooled[c] : *to + pooled[c];
        }
    }
    return outside;
}

static int scatter_any(const struct pool_index *job, ptrdiff_t image, ptrdiff_t begin, ptrdiff_t end,
                       ptrdiff_t first, ptrdiff_t band) {
    ptrdiff_t channels = job->channels, at = (image * job->count + begin) * channels;
    real *to = job->to + (image * job->plane + first) * channels;
#define SCATTER(channels, assign)                                                                            \
    scatter_pixels(job->from + at, job->indices + at, end - begin, channels, first, band, assign, to)
    if (channels == 1) return job->assign ? SCATTER(1, 1) : SCATTER(1, 0);
    return job->assign ? SCATTER(channels, 1) : SCATTER(channels, 0);
#undef SCATTER
}

static void run_images(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct pool_index *job = context;
    ptrdiff_t image = task * job->images_per_task, end = min_size(image + job->images_per_task, job->images);
    int bad = 0;
    for (; image < end; image++) {
        ptrdiff_t elements = job->plane * job->channels;
        memset(job->to + image * elements, 0, (size_t)elements * sizeof(real));
        bad |= scatter_any(job, image, 0, job->count, 0, job->plane);
    }
    if (bad) __atomic_store_n(job->bad, 1, __ATOMIC_RELAXED);
}

/* The range of the indices of one chunk. */
static void run_ranges(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct pool_index *job = context;
    ptrdiff_t image = task / job->chunks, begin = task % job->chunks * job->chunk;
    ptrdiff_t elements = min_size(job->chunk, job->count - begin) * job->channels;
    const int64_t *indices = job->indices + (image * job->count + begin) * job->channels;
    int64_t least = INT64_MAX, greatest = INT64_MIN;
    for (ptrdiff_t i = 0; i < elements; i++) {
        least = indices[i] < least ? indices[i] : least;
        greatest = indices[i] > greatest ? indices[i] : greatest;
    }
    job->ranges[task] = (struct range){least, greatest};
    if (elements && (least < 0 || greatest >= job->plane)) __atomic_store_n(job->bad, 1, __ATOMIC_RELAXED);
}

static void run_bands(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct pool_index *job = context;
    ptrdiff_t image = task / job->bands, first = task % job->bands * job->band;
    ptrdiff_t band = min_size(job->band, job->plane - first);
    memset(job->to + (image * job->plane + first) * job->channels, 0,
           (size_t)(band * job->channels) * sizeof(real));
    for (ptrdiff_t chunk = 0; chunk < job->chunks; chunk++) {
        struct range range = job->ranges[image * job->chunks + chunk];
        if (range.greatest < first || range.least >= first + band) continue;
        ptrdiff_t begin = chunk * job->chunk;
        scatter_any(job, image, begin, min_size(begin + job->chunk, job->count), first, band);
    }
}

static int scatter_large(struct pool_index *job, double cost) {
    ptrdiff_t part = job->images * job->plane * job->channels / PARTS;
    part = max_size(min_size(part, 4 * BAND_ELEMENTS), BAND_ELEMENTS);
    job->band = max_size(part / job->channels, 1);
    job->bands = ceil_div(job->plane, job->band);
    job->chunk = max_size(CHUNK_ELEMENTS / job->channels, 1);
    job->chunks = ceil_div(job->count, job->chunk);
    size_t bytes = (size_t)(job->images * job->chunks) * sizeof(struct range);
    if (!(job->ranges = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    int status = parallel_run(job->images * job->chunks, cost / 8, 0, run_ranges, job);
    if (!status) status = parallel_run(job->images * job->bands, cost, 0, run_bands, job);
    pyconv_free(job->ranges, bytes);
    return status;
}

static int scatter(ptrdiff_t images, ptrdiff_t plane, ptrdiff_t count, ptrdiff_t channels, int assign,
                   const void *pooled, const int64_t *indices, void *unpooled) {
    int bad = 0, status;
    struct pool_index job = {.images = images,
                             .plane = plane,
                             .count = count,
                             .channels = channels,
                             .assign = assign,
                             .from = pooled,
                             .indices = indices,
                             .to = unpooled,
                             .bad = &bad};
    double elements = (double)images * (double)channels;
    double cost = NANOSECONDS(elements * (double)count, elements * (double)plane);
    if (plane * channels > 2 * BAND_ELEMENTS) {
        status = scatter_large(&job, cost);
    } else {
        job.images_per_task = max_size(BAND_ELEMENTS / max_size(plane * channels, 1), 1);
        status = parallel_run(ceil_div(images, job.images_per_task), cost, 0, run_images, &job);
    }
    return status ? status : bad ? PYCONV_BAD_INDEX : PYCONV_OK;
}

/* ---- Gather ---- */

/* *pooled = the element at `offset` of a pixel, or 0 where there is no such pixel; returns whether. */
INLINE int gather_element(const real *unpooled, int64_t index, ptrdiff_t plane, ptrdiff_t channels,
                          ptrdiff_t offset, real *pooled) {
    int outside = (uint64_t)index >= (uint64_t)plane;
    *pooled = outside ? 0 : unpooled[index * channels + offset];
    return outside;
}

/* `count` of them, of a channel each (step 1), or all of one (step 0). LANES at a time: the time of a loop
 * over single ones depends on where its code lies. */
INLINE int gather_elements(const real *unpooled, const int64_t *indices, ptrdiff_t count, ptrdiff_t plane,
                           ptrdiff_t channels, const ptrdiff_t step, real *pooled) {
    int outside = 0;
    ptrdiff_t i = 0;
    for (; i + LANES <= count; i += LANES)
        UNROLL for (int l = 0; l < LANES; l++) outside |=
            gather_element(unpooled, indices[i + l], plane, channels, (i + l) * step, pooled + i + l);
    for (; i < count; i++)
        outside |= gather_element(unpooled, indices[i], plane, channels, i * step, pooled + i);
    return outside;
}

static void run_gather(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct pool_index *job = context;
    ptrdiff_t channels = job->channels, i = task * job->chunk,
              end = min_size(i + job->chunk, job->images * job->count);
    int bad = 0;
    while (i < end) {
        ptrdiff_t image = i / job->count, n = min_size((image + 1) * job->count, end) - i;
        const real *from = job->from + image * job->plane * channels;
        const int64_t *indices = job->indices + i * channels;
        real *to = job->to + i * channels;
        if (channels == 1) bad |= gather_elements(from, indices, n, job->plane, 1, 0, to);
        for (ptrdiff_t at = 0; channels > 1 && at < n * channels; at += channels)
            bad |= gather_elements(from, indices + at, channels, job->plane, channels, 1, to + at);
        i += n;
    }
    if (bad) __atomic_store_n(job->bad, 1, __ATOMIC_RELAXED);
}

static int gather(ptrdiff_t images, ptrdiff_t plane, ptrdiff_t count, ptrdiff_t channels,
                  const void *unpooled, const int64_t *indices, void *pooled) {
    int bad = 0;
    struct pool_index job = {.images = images,
                             .plane = plane,
                             .count = count,
                             .channels = channels,
                             .from = unpooled,
                             .indices = indices,
                             .to = pooled,
                             .bad = &bad};
    job.chunk = max_size(CHUNK_ELEMENTS / max_size(channels, 1), 1);
    double cost = NANOSECONDS((double)images * (double)count * (double)channels, 0);
    int status = parallel_run(ceil_div(images * count, job.chunk), cost, 0, run_gather, &job);
    return status ? status : bad ? PYCONV_BAD_INDEX : PYCONV_OK;
}

const struct pyconv_pool_index_kernels KERNELS(pool_index) = {scatter, gather};
