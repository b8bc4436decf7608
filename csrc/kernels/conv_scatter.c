/* The gradient of an input with few channels, as a product that is scattered.
 *
 *     product[pixel][r, s, c] = sum over k of grad_output[pixel][k] * weight[k][c][r][s]
 *     grad_input[p * stride + r - pad, q * stride + s - pad, c] += product[p, q][r, s, c]
 *
 * As a correlation this gradient has only c for its vectors, and 1 or 3 channels would waste a register's
 * other lanes; here all of (r, s, c) fill them: 27 of 32 for 3x3 kernels on RGB, 147 of 160 for 7x7.
 * In NHWC memory a kernel row of (s, c) is one contiguous run, so scattering costs a load, an addition and
 * a store for each of its vectors.
 *
 * A task owns a band of grad_input's rows and adds into a copy of them with room for the padding; of the
 * output rows that reach into two bands the products are made twice. Products of TILE pixels (14 * 160 * 4 =
 * 9 KiB for 7x7x3) stay in L1. Needs dilation 1 across and one group.
 */
#include "conv.h"
#include "parallel.h"

#define BAND_BYTES ((ptrdiff_t)128 << 10)
#define TASKS_WANTED 32

struct scatter {
    const struct pyconv_conv2d *g;
    const real *grad_output, *weight;
    real *grad_input, *packed;         /* packed: [block of (r, s, c)][k][BLOCK] */
    ptrdiff_t elements, blocks, pitch; /* r * s * c; of BLOCK; elements of a product row */
    ptrdiff_t run;                     /* s * c */
    ptrdiff_t rows, bands;             /* input rows to a task, tasks to an image */
    ptrdiff_t width;                   /* elements of a padded row, LANES of slack included */
    ivec tail;                         /* lanes of a run's last vector */
};

/* Filter k's weights [c][r, s] as rows of blocks [r, s, c], zeros at the end. */
static void pack(const void *context, ptrdiff_t k, void *scratch) {
    (void)scratch;
    const struct scatter *s = context;
    const struct pyconv_conv2d *g = s->g;
    ptrdiff_t area = g->kernel_height * g->kernel_width, lane = 0;
    const real *weight = s->weight + k * g->in_channels * area;
    real *to = s->packed + k * BLOCK;
    for (ptrdiff_t tap = 0; tap < area; tap++)
        for (ptrdiff_t c = 0; c < g->in_channels; c++) {
            to[lane++] = weight[c * area + tap];
            if (lane == BLOCK) to += g->out_channels * BLOCK, lane = 0;
        }
    while (lane % BLOCK) to[lane++] = 0;
}

#define PRODUCT(m, vectors)                                                                                  \
    tile_product(m, vectors, NONE_AFAR, x, depth, NULL, 0, depth, CHUNK, weight, BLOCK, out, pitch, 0)

static void product_2(ptrdiff_t size, const real *x, ptrdiff_t depth, const real *weight, real *out,
                      ptrdiff_t pitch) {
    DISPATCH_TILE(size, PRODUCT, 2)
}

static void product_1(ptrdiff_t size, const real *x, ptrdiff_t depth, const real *weight, real *out,
                      ptrdiff_t pitch) {
    DISPATCH_TILE(size, PRODUCT, 1)
}

/* Add the products of `count` pixels of output row p, from column q on, to the band's rows [y0, y1). */
static void scatter_tile(const struct scatter *s, ptrdiff_t p, ptrdiff_t q, ptrdiff_t count, ptrdiff_t y0,
                         ptrdiff_t y1, const real *product, real *band) {
    const struct pyconv_conv2d *g = s->g;
    ptrdiff_t whole = (s->run - 1) / LANES * LANES;
    for (ptrdiff_t m = 0; m < count; m++, product += s->pitch)
        for (ptrdiff_t r = 0; r < g->kernel_height; r++) {
            ptrdiff_t y = p * g->stride_height + r * g->dilation_height - g->pad_top;
            if (y < y0 || y >= y1) continue;
            real *to = band + (y - y0) * s->width + (q + m) * g->stride_width * g->in_channels;
            const real *from = product + r * s->run;
            for (ptrdiff_t i = 0; i < whole; i += LANES) store(to + i, load(to + i) + load(from + i));
            store(to + whole, load(to + whole) + choose(s->tail, load(from + whole), (vec){0}));
        }
}

static void run_scatter(const void *context, ptrdiff_t task, void *scratch) {
    const struct scatter *s = context;
    const struct pyconv_conv2d *g = s->g;
    ptrdiff_t image = task / s->bands, y0 = task % s->bands * s->rows,
              y1 = min_size(y0 + s->rows, g->in_height);
    real *band = scratch, *product = band + s->rows * s->width;
    memset(band, 0, (size_t)(s->rows * s->width) * sizeof(real));

    /* the output rows p with p * stride - pad + [0, reach) overlapping [y0, y1) */
    ptrdiff_t reach = (g->kernel_height - 1) * g->dilation_height + 1, before = y0 + g->pad_top - reach + 1;
    ptrdiff_t first = before > 0 ? ceil_div(before, g->stride_height) : 0;
    ptrdiff_t end = min_size((y1 - 1 + g->pad_top) / g->stride_height + 1, g->out_height);
    ptrdiff_t tiles = ceil_div(g->out_width, TILE);
    for (ptrdiff_t p = first; p < end; p++)
        for (ptrdiff_t t = 0; t < tiles; t++) {
            ptrdiff_t q = g->out_width * t / tiles, count = g->out_width * (t + 1) / tiles - q;
            const real *x =
                s->grad_output + ((image * g->out_height + p) * g->out_width + q) * g->out_channels;
            for (ptrdiff_t b = 0; b < s->blocks; b++) {
                const real *weight = s->packed + b * g->out_channels * BLOCK;
                if (s->elements - b * BLOCK > LANES)
                    product_2(count, x, g->out_channels, weight, product + b * BLOCK, s->pitch);
                else
                    product_1(count, x, g->out_channels, weight, product + b * BLOCK, s->pitch);
            }
            scatter_tile(s, p, q, count, y0, y1, product, band);
        }
    ptrdiff_t row = g->in_width * g->in_channels;
    real *to = s->grad_input + (image * g->in_height + y0) * row;
    for (ptrdiff_t y = 0; y < y1 - y0; y++)
        memcpy(to + y * row, band + y * s->width + g->pad_left * g->in_channels, (size_t)row * sizeof(real));
}

static void plan(struct scatter *s, const struct pyconv_conv2d *g) {
    s->g = g;
    s->run = g->kernel_width * g->in_channels;
    s->elements = g->kernel_height * s->run;
    s->blocks = ceil_div(s->elements, BLOCK);
    s->pitch = s->blocks * BLOCK + LANES;
    for (int i = 0; i < LANES; i++) s->tail[i] = i <= (s->run - 1) % LANES ? -1 : 0;
    ptrdiff_t columns =
        max_size(g->in_width + g->pad_left, (g->out_width - 1) * g->stride_width + g->kernel_width);
    s->width = columns * g->in_channels + LANES;
    ptrdiff_t fit = max_size(BAND_BYTES / (s->width * (ptrdiff_t)sizeof(real)), 1);
    ptrdiff_t share = ceil_div(g->in_height, ceil_div(TASKS_WANTED, g->batch));
    s->rows = min_size(min_size(fit, max_size(share, 4 * g->kernel_height)), g->in_height);
    s->bands = ceil_div(g->in_height, s->rows);
}

static struct workspace space(const struct scatter *s) {
    return (struct workspace){
        (size_t)(s->blocks * s->g->out_channels * BLOCK) * sizeof(real),
        (size_t)(s->rows * s->width + TILE * s->pitch) * sizeof(real),
    };
}

struct workspace VARIANT(grad_input_scatter_workspace)(const struct pyconv_conv2d *g) {
    struct scatter s;
    plan(&s, g);
    return space(&s);
}

int VARIANT(grad_input_scatter)(const struct pyconv_conv2d *g, const real *grad_output, const real *weight,
                                real *grad_input) {
    struct scatter s = {.grad_output = grad_output, .weight = weight, .grad_input = grad_input};
    plan(&s, g);
    struct workspace bytes = space(&s);
    if (!(s.packed = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
    double work =
        (double)(g->batch * g->out_height * g->out_width) * (double)(s.blocks * BLOCK * g->out_channels);
    int status = parallel_run(g->out_channels, (double)(s.elements * g->out_channels), 0, pack, &s);
    if (status == PYCONV_OK)
        status = parallel_run(g->batch * s.bands, 1.3 * work / MULTIPLY_ADDS_PER_NANOSECOND, bytes.scratch,
                              run_scatter, &s);
    pyconv_free(s.packed, bytes.shared);
    return status;
}
