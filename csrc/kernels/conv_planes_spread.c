/* The gradient of the input of a strided convolution, of planes.
 *
 *     grad_input[c][S i + a][S' j + b] = part[a, b][c][i][j]
 *
 * Each residue (a, b) of the stride is a dense correlation of grad_output with the taps that fall on it
 * (correlation.h), 0 where none do, as on most of a 1 x 1 kernel's. Here all of them are one correlation,
 * whose outputs come in parts: grad_output is read and laid out once for all residues, and then whole rows
 * are woven, where each residue by itself would write parts of all cache lines. The parts of so many images
 * are made at a time that they stay in L3.
 */
#include "conv.h"
#include "correlation.h"
#include "parallel.h"

#define SHARE_BYTES ((ptrdiff_t)4 << 20) /* of parts */
#define TASK_ELEMENTS ((ptrdiff_t)16384)

struct spread {
    const struct pyconv_conv2d *g;
    ptrdiff_t images; /* at a time */
    struct tap *tap;
    ptrdiff_t *part;                           /* of the correlation */
    ptrdiff_t place[MOST_STRIDE][MOST_STRIDE]; /* part (a, b)'s number, or -1 */
    ptrdiff_t parts, height, width;            /* their number, rows and columns */
    real *planes;                              /* [image][group][part][c][i][j] */
    const real *residual;                      /* of these images: NULL, or what is added */
    real *to;
    ptrdiff_t count, each; /* input planes of these images, and to a task */
};

/* ---- The parts ---- */

/* All residues of `images` images as one correlation */
static struct correlation parts_correlation(struct spread *s, ptrdiff_t images, const real *grad_output,
                                            const real *weight) {
    struct pyconv_conv2d g = *s->g;
    g.batch = images;
    struct correlation all = {.tap = s->tap};
    s->parts = 0;
    for (ptrdiff_t a = 0; a < g.stride_height; a++)
        for (ptrdiff_t b = 0; b < g.stride_width; b++) {
            s->place[a][b] = -1;
            if (a >= g.in_height || b >= g.in_width) continue;
            struct correlation c =
                grad_input_correlation(&g, a, b, grad_output, weight, s->planes, s->tap + all.taps);
            if (!c.taps) continue;
            if (s->parts) {
                c.y_min = min_size(c.y_min, all.y_min), c.y_max = max_size(c.y_max, all.y_max);
                c.x_min = min_size(c.x_min, all.x_min), c.x_max = max_size(c.x_max, all.x_max);
            }
            s->part[s->parts] = all.taps;
            s->place[a][b] = s->parts++;
            c.taps += all.taps, c.tap = s->tap;
            all = c;
        }
    all.parts = s->parts, all.part = s->part;
    all.dst = s->planes, all.dst_height = s->height, all.dst_width = s->width;
    all.dst_channels = s->parts * (g.in_channels / g.groups);
    return all;
}

/* ---- Put together ---- */

/* to[x] = from[x % step][x / step] */
INLINE void weave_row(const ptrdiff_t step, const real *const *from, ptrdiff_t width, real *to) {
    ptrdiff_t j = 0;
    if (step == 2)
        for (; 2 * (j + LANES) <= width; j += LANES) {
            vec even = load(from[0] + j), odd = load(from[1] + j);
            store(to + 2 * j, zip_low(even, odd));
            store(to + 2 * j + LANES, zip_high(even, odd));
        }
    for (; j * step < width; j++)
        for (ptrdiff_t b = 0; b < step && j * step + b < width; b++) to[j * step + b] = from[b][j];
}

/* Plane `plane` of these images */
static void weave_plane(const struct spread *s, ptrdiff_t plane, const real *zeros) {
    const struct pyconv_conv2d *g = s->g;
    const ptrdiff_t channels = g->in_channels / g->groups, group = plane / channels, width = g->in_width;
    const ptrdiff_t area = s->height * s->width, step = g->stride_width;
    const real *planes = s->planes + (group * s->parts * channels + plane % channels) * area;
    real *to = s->to + plane * g->in_height * width;
    for (ptrdiff_t y = 0; y < g->in_height; y++, to += width) {
        const real *from[MOST_STRIDE];
        int any = 0;
        for (ptrdiff_t b = 0; b < step; b++) {
            const ptrdiff_t part = s->place[y % g->stride_height][b];
            from[b] = part < 0 ? zeros : planes + part * channels * area + y / g->stride_height * s->width;
            any |= part >= 0;
        }
        if (!any)
            memset(to, 0, (size_t)width * sizeof(real));
        else if (step == 1)
            weave_row(1, from, width, to);
        else if (step == 2)
            weave_row(2, from, width, to);
        else if (step == 4)
            weave_row(4, from, width, to);
        else
            weave_row(step, from, width, to);
        const real *residual = s->residual ? s->residual + (to - s->to) : NULL;
        for (ptrdiff_t x = 0; residual && x < width; x++) to[x] += residual[x];
    }
}

static void run_weave(const void *context, ptrdiff_t task, void *scratch) {
    const struct spread *s = context;
    real *zeros = scratch;
    clear_elements(zeros, s->width);
    const ptrdiff_t end = min_size((task + 1) * s->each, s->count);
    for (ptrdiff_t plane = task * s->each; plane < end; plane++) weave_plane(s, plane, zeros);
}

/* ---- The whole gradient ---- */

/* The parts of images from `image` on, and then their planes */
static int spread_images(struct spread *s, ptrdiff_t image, const real *grad_output, const real *weight,
                         const real *residual, real *grad_input) {
    const struct pyconv_conv2d *g = s->g;
    const ptrdiff_t images = min_size(s->images, g->batch - image);
    const ptrdiff_t in = image * g->in_channels * g->in_height * g->in_width;
    const ptrdiff_t out = image * g->out_channels * g->out_height * g->out_width;
    const struct correlation c = parts_correlation(s, images, grad_output + out, weight);
    int status = c.taps ? VARIANT(correlate_planes)(&c) : PYCONV_OK;
    if (status != PYCONV_OK) return status;
    s->to = grad_input + in, s->residual = residual ? residual + in : NULL;
    s->count = images * g->in_channels;
    double elements = (double)s->count * (double)(g->in_height * g->in_width);
    size_t zeros = (size_t)(s->width + LANES) * sizeof(real);
    return parallel_run(ceil_div(s->count, s->each), elements / 4, zeros, run_weave, s);
}

/* Sizes, and room for taps and where the parts' begin, whose bytes are returned: 0 where there is none */
static size_t plan(struct spread *s, const struct pyconv_conv2d *g) {
    s->g = g;
    s->height = ceil_div(g->in_height, g->stride_height), s->width = ceil_div(g->in_width, g->stride_width);
    ptrdiff_t residues = min_size(g->stride_height * g->stride_width, g->kernel_height * g->kernel_width);
    ptrdiff_t image = residues * g->in_channels * s->height * s->width;
    s->images = max_size(min_size(SHARE_BYTES / (ptrdiff_t)sizeof(real) / image, g->batch), 1);
    s->each = max_size(TASK_ELEMENTS / (g->in_height * g->in_width), 1);
    size_t bytes = (size_t)(g->kernel_height * g->kernel_width) * (sizeof(struct tap) + sizeof(ptrdiff_t));
    s->tap = pyconv_alloc(bytes);
    if (!s->tap) return 0;
    s->part = (ptrdiff_t *)(s->tap + g->kernel_height * g->kernel_width);
    return bytes;
}

static size_t planes_bytes(const struct spread *s) {
    ptrdiff_t channels = s->images * s->parts * s->g->in_channels;
    return (size_t)(channels * s->height * s->width) * sizeof(real);
}

struct workspace VARIANT(grad_input_spread_workspace)(const struct pyconv_conv2d *g) {
    struct spread s = {0};
    struct workspace bytes = {0, 0};
    size_t size = plan(&s, g);
    if (!size) return bytes;
    struct correlation c = parts_correlation(&s, s.images, NULL, NULL);
    if (c.taps) bytes = VARIANT(correlate_planes_workspace)(&c);
    bytes.shared += planes_bytes(&s);
    pyconv_free(s.tap, size);
    return bytes;
}

int VARIANT(grad_input_spread)(const struct pyconv_conv2d *g, const real *grad_output, const real *weight,
                               const real *residual, real *grad_input) {
    struct spread s = {0};
    size_t size = plan(&s, g);
    if (!size) return PYCONV_NO_MEMORY;
    parts_correlation(&s, s.images, NULL, NULL); /* for their number */
    const size_t bytes = planes_bytes(&s);
    s.planes = pyconv_alloc(max_size(bytes, 1));
    int status = s.planes ? PYCONV_OK : PYCONV_NO_MEMORY;
    for (ptrdiff_t image = 0; image < g->batch && status == PYCONV_OK; image += s.images)
        status = spread_images(&s, image, grad_output, weight, residual, grad_input);
    if (s.planes) pyconv_free(s.planes, max_size(bytes, 1));
    pyconv_free(s.tap, size);
    return status;
}
