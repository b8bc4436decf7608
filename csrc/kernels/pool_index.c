/* Scatter and gather through the int64 indices of max_pool2d.
 *
 *     scatter:  u[n, k[n, i, c], c] += p[n, i, c]      gather:  p[n, i, c] = u[n, k[n, i, c], c]
 *
 * The scatter adds in the order of i, as PyTorch does, so that overlapping windows give the same bits at
 * any number of threads. Nothing is known of the windows here: any index into the plane is right, and one
 * outside is left out and reported. A task is a run of whole images of about TASK_ELEMENTS elements, so
 * that clearing and adding meet in L2; where images are few, it is a cache line of channels of one image.
 */
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"

#define TASK_ELEMENTS 65536
#define FEW_IMAGES 8
#define CHANNEL_BLOCK (64 / (ptrdiff_t)sizeof(real))
/* A scattered element costs about 2 ns, a cleared one 0.1. */
#define NANOSECONDS(pooled, unpooled) (2.0 * (double)(pooled) + 0.1 * (double)(unpooled))

struct pool_index {
    ptrdiff_t images, plane, count, channels;
    ptrdiff_t images_per_task, channel_block, channel_tasks;
    int assign;
    const real *from;
    const int64_t *indices;
    real *to;
    int *bad; /* set where an index was outside the plane */
};

static void cut(struct pool_index *job) {
    ptrdiff_t elements = max_size(job->plane, job->count) * job->channels;
    job->images_per_task = max_size(TASK_ELEMENTS / max_size(elements, 1), 1);
    job->channel_block = max_size(job->channels, 1);
    if (job->images < FEW_IMAGES && elements > TASK_ELEMENTS) job->channel_block = CHANNEL_BLOCK;
    job->channel_tasks = ceil_div(job->channels, job->channel_block);
}

static int run(struct pool_index *job, parallel_task *task) {
    int bad = 0;
    job->bad = &bad;
    cut(job);
    ptrdiff_t tasks = ceil_div(job->images, job->images_per_task) * job->channel_tasks;
    double elements = (double)job->images * (double)job->channels;
    double cost = NANOSECONDS(elements * (double)job->count, elements * (double)job->plane);
    int status = parallel_run(tasks, cost, 0, task, job);
    return status ? status : bad ? PYCONV_BAD_INDEX : PYCONV_OK;
}

/* Scatter channels [0, width) of one image. */
INLINE int scatter_image(const struct pool_index *job, const real *pooled, const int64_t *indices,
                         ptrdiff_t channels, ptrdiff_t width, int assign, real *unpooled) {
    int bad = 0;
    if (width == channels)
        memset(unpooled, 0, (size_t)(job->plane * channels) * sizeof(real));
    else
        for (ptrdiff_t i = 0; i < job->plane; i++)
            memset(unpooled + i * channels, 0, (size_t)width * sizeof(real));
    for (ptrdiff_t i = 0; i < job->count; i++)
        for (ptrdiff_t c = 0; c < width; c++) {
            uint64_t index = (uint64_t)indices[i * channels + c];
            if (index >= (uint64_t)job->plane) {
                bad = 1;
                continue;
            }
            real *to = unpooled + (ptrdiff_t)index * channels + c, x = pooled[i * channels + c];
            *to = assign ? x : *to + x;
        }
    return bad;
}

static void run_scatter(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct pool_index *job = context;
    ptrdiff_t channels = job->channels, c = task % job->channel_tasks * job->channel_block;
    ptrdiff_t width = min_size(job->channel_block, channels - c);
    ptrdiff_t image = task / job->channel_tasks * job->images_per_task;
    ptrdiff_t end = min_size(image + job->images_per_task, job->images);
    int bad = 0;
    for (; image < end; image++) {
        ptrdiff_t at = image * job->count * channels + c;
        real *to = job->to + image * job->plane * channels + c;
        if (job->assign)
            bad |= scatter_image(job, job->from + at, job->indices + at, channels, width, 1, to);
        else if (channels == 1)
            bad |= scatter_image(job, job->from + at, job->indices + at, 1, 1, 0, to);
        else
            bad |= scatter_image(job, job->from + at, job->indices + at, channels, width, 0, to);
    }
    if (bad) __atomic_store_n(job->bad, 1, __ATOMIC_RELAXED);
}

static void run_gather(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct pool_index *job = context;
    ptrdiff_t channels = job->channels, c = task % job->channel_tasks * job->channel_block;
    ptrdiff_t c_end = min_size(c + job->channel_block, channels);
    ptrdiff_t image = task / job->channel_tasks * job->images_per_task;
    ptrdiff_t end = min_size(image + job->images_per_task, job->images);
    int bad = 0;
    for (; image < end; image++)
        for (ptrdiff_t i = 0; i < job->count; i++)
            for (ptrdiff_t k = c; k < c_end; k++) {
                ptrdiff_t at = (image * job->count + i) * channels + k;
                uint64_t index = (uint64_t)job->indices[at];
                int inside = index < (uint64_t)job->plane;
                bad |= !inside;
                job->to[at] = inside ? job->from[(image * job->plane + (ptrdiff_t)index) * channels + k] : 0;
            }
    if (bad) __atomic_store_n(job->bad, 1, __ATOMIC_RELAXED);
}

static int scatter(ptrdiff_t images, ptrdiff_t plane, ptrdiff_t count, ptrdiff_t channels, int assign,
                   const void *pooled, const int64_t *indices, void *unpooled) {
    struct pool_index job = {.images = images,
                             .plane = plane,
                             .count = count,
                             .channels = channels,
                             .assign = assign,
                             .from = pooled,
                             .indices = indices,
                             .to = unpooled};
    return run(&job, run_scatter);
}

static int gather(ptrdiff_t images, ptrdiff_t plane, ptrdiff_t count, ptrdiff_t channels,
                  const void *unpooled, const int64_t *indices, void *pooled) {
    struct pool_index job = {.images = images,
                             .plane = plane,
                             .count = count,
                             .channels = channels,
                             .from = unpooled,
                             .indices = indices,
                             .to = pooled};
    return run(&job, run_gather);
}

const struct pyconv_pool_index_kernels KERNELS(pool_index) = {scatter, gather};
