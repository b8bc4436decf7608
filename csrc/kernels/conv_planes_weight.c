/* The gradient of a convolution's weight, and of its bias, from planes (conv_planes.h).
 *
 *     grad_weight[k][j] = sum over the pixels p of grad_output[k][p] * x[j][p]          j = (c, tap)
 *
 * Pixels lie side by side in both, so lanes run over what is summed, and are added up at the end of a block.
 * A register tile is 4 filters by 3 rows of x (with 32 registers 6 by 4): 7 loads to 12 multiply-adds. A
 * block of up to BLOCK_PIXELS pixels keeps a tile's filters in L1 (8 KiB) and ROWS rows of x in L2 (192 KiB),
 * where these are copies; what a 1x1 kernel reads is the image itself.
 *
 * The blocks of all images are cut into parts, each of which sums into a buffer of its own, [k][j]; these are
 * added in ascending order, so the result does not depend on the number of threads.
 */
#include "conv_planes.h"
#include "parallel.h"

#define BLOCK_PIXELS ((ptrdiff_t)512)
#define ROWS ((ptrdiff_t)96) /* of x at a time, a multiple of WIDEST */
#define PARTS_WANTED ((ptrdiff_t)32)

struct planes_weight {
    const struct correlation *c; /* the forward pass's */
    const real *grad_output;
    ptrdiff_t depth;
    ptrdiff_t pixels, blocks, pitch; /* of a block; of an image; of x */
    ptrdiff_t channels;              /* whose rows are made at a time */
    ptrdiff_t parts;
    real *sums; /* [part][group][k][j] */
    real *grad_weight;
};

/* sums[m][v] += sum over p < pixels of g[m][p] * x[v][p] */
INLINE void tile_dots(const int rows, const int columns, const real *g, ptrdiff_t g_pitch, const real *x,
                      ptrdiff_t x_pitch, ptrdiff_t pixels, real *sums, ptrdiff_t pitch) {
    vec sum[WIDEST_TILE][WIDEST];
    UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < columns; v++) sum[m][v] = (vec){0};
    ptrdiff_t p = 0;
    for (; p + LANES <= pixels; p += LANES) {
        vec value[WIDEST];
        UNROLL for (int v = 0; v < columns; v++) value[v] = load(x + v * x_pitch + p);
        UNROLL for (int m = 0; m < rows; m++) {
            vec gradient = in_register(load(g + m * g_pitch + p));
            UNROLL for (int v = 0; v < columns; v++) sum[m][v] += gradient * value[v];
        }
    }
    if (p < pixels) {
        vec value[WIDEST];
        UNROLL for (int v = 0; v < columns; v++) value[v] = load_first(x + v * x_pitch + p, pixels - p);
        UNROLL for (int m = 0; m < rows; m++) {
            vec gradient = load_first(g + m * g_pitch + p, pixels - p);
            UNROLL for (int v = 0; v < columns; v++) sum[m][v] += gradient * value[v];
        }
    }
    UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < columns; v++) sums[m * pitch + v] +=
        sum_lanes(sum[m][v]);
}

#if VECTOR_REGISTERS == 32
#define DISPATCH_DOTS DISPATCH_WIDEST
#else
#define DISPATCH_DOTS DISPATCH_WIDE
#endif
#define DOTS(m, columns) tile_dots(m, columns, g, g_pitch, x, x_pitch, pixels, sums, pitch)

static void dots(ptrdiff_t rows, ptrdiff_t columns, const real *g, ptrdiff_t g_pitch, const real *x,
                 ptrdiff_t x_pitch, ptrdiff_t pixels, real *sums, ptrdiff_t pitch) {
    switch (columns) {
    case 1: DISPATCH_DOTS(rows, DOTS, 1) break;
    case 2: DISPATCH_DOTS(rows, DOTS, 2) break;
    case 3: DISPATCH_DOTS(rows, DOTS, 3) break;
#if WIDEST > 3
    default: DISPATCH_DOTS(rows, DOTS, 4)
#endif
    }
}

/* What the pixels [first, end) of an image add to a group's sums. */
static void add_block(const struct planes_weight *w, ptrdiff_t image, ptrdiff_t group, ptrdiff_t first,
                      ptrdiff_t end, struct stretch *stretch, real *rows, real *sums) {
    const struct correlation *c = w->c;
    ptrdiff_t area = c->dst_height * c->dst_width, filters = c->dst_channels, count = end - first;
    const real *g = w->grad_output + (image * c->groups + group) * filters * area + first;
    for (ptrdiff_t i = 0; i < c->src_channels; i += w->channels) {
        ptrdiff_t channels = min_size(w->channels, c->src_channels - i), depth = channels * c->taps,
                  pitch = w->pitch;
        const real *x = rows;
        if (is_plain(c))
            x = c->src + ((image * c->groups + group) * c->src_channels + i) * area + first, pitch = area;
        else
            put_rows(c, image, group, i, channels, first, end, stretch, rows, pitch);
        for (ptrdiff_t k = 0; k < filters; k += WIDEST_TILE)
            for (ptrdiff_t j = 0; j < depth; j += WIDEST)
                dots(min_size(WIDEST_TILE, filters - k), min_size(WIDEST, depth - j), g + k * area, area,
                     x + j * pitch, pitch, count, sums + k * w->depth + i * c->taps + j, w->depth);
    }
}

static void run_weight(const void *context, ptrdiff_t task, void *scratch) {
    const struct planes_weight *w = context;
    const struct correlation *c = w->c;
    ptrdiff_t part = task / c->groups, group = task % c->groups, all = c->batch * w->blocks;
    ptrdiff_t area = c->dst_height * c->dst_width, elements = c->dst_channels * w->depth;
    struct stretch *stretch = scratch;
    real *rows = (real *)((char *)scratch + stretch_bytes(c, w->pixels));
    real *sums = w->sums + (part * c->groups + group) * elements;
    memset(sums, 0, (size_t)elements * sizeof(real));
    for (ptrdiff_t b = all * part / w->parts; b < all * (part + 1) / w->parts; b++) {
        ptrdiff_t first = b % w->blocks * w->pixels;
        add_block(w, b / w->blocks, group, first, min_size(first + w->pixels, area), stretch, rows, sums);
    }
}

#define TOTAL ((ptrdiff_t)4096) /* elements that a task adds up */

static void run_total(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct planes_weight *w = context;
    ptrdiff_t elements = w->c->groups * w->c->dst_channels * w->depth;
    sum_parts(w->sums, w->parts, elements, task * TOTAL, min_size((task + 1) * TOTAL, elements),
              w->grad_weight);
}

static void plan(struct planes_weight *w, const struct correlation *c) {
    ptrdiff_t area = c->dst_height * c->dst_width;
    w->c = c;
    w->depth = c->taps * c->src_channels;
    w->channels = max_size(ROWS / c->taps, 1);
    ptrdiff_t fit = max_size(PLANES_BYTES / (w->channels * c->taps * (ptrdiff_t)sizeof(real)), 8 * LANES);
    w->blocks = ceil_div(area, min_size(fit, BLOCK_PIXELS));
    w->pixels = ceil_div(ceil_div(area, w->blocks), LANES) * LANES;
    w->blocks = ceil_div(area, w->pixels);
    w->pitch = planes_pitch(w->pixels);
    ptrdiff_t bytes = c->groups * c->dst_channels * w->depth * (ptrdiff_t)sizeof(real);
    w->parts = min_size(ceil_div(PARTS_WANTED, c->groups), c->batch * w->blocks);
    w->parts = max_size(min_size(w->parts, PARTS_BYTES / bytes), 1);
}

static struct workspace space(const struct planes_weight *w) {
    const struct correlation *c = w->c;
    ptrdiff_t rows = is_plain(c) ? 0 : w->channels * c->taps * w->pitch;
    return (struct workspace){
        (size_t)(w->parts * c->groups * c->dst_channels * w->depth) * sizeof(real),
        stretch_bytes(c, w->pixels) + (size_t)rows * sizeof(real),
    };
}

struct workspace VARIANT(grad_weight_planes_workspace)(const struct correlation *c) {
    struct planes_weight w;
    plan(&w, c);
    return space(&w);
}

int VARIANT(grad_weight_planes)(const struct correlation *c, const real *grad_output, real *grad_weight) {
    struct planes_weight w;
    plan(&w, c);
    w.grad_output = grad_output, w.grad_weight = grad_weight;
    struct workspace bytes = space(&w);
    if (!(w.sums = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
    ptrdiff_t elements = c->groups * c->dst_channels * w.depth;
    double work = (double)(c->batch * c->dst_height * c->dst_width) * (double)elements;
    int status =
        parallel_run(w.parts * c->groups, work / MULTIPLY_ADDS_PER_NANOSECOND, bytes.scratch, run_weight, &w);
    if (status == PYCONV_OK)
        status =
            parallel_run(ceil_div(elements, TOTAL), (double)(w.parts * elements) / LANES, 0, run_total, &w);
    pyconv_free(w.sums, bytes.shared);
    return status;
}

/* ---- Gradient of the bias: the sum of a channel's planes ---- */

struct planes_bias {
    ptrdiff_t batch, channels, pixels;
    const real *grad_output;
    real *grad_bias;
};

/* So many pixels are summed in one go, and then these sums, which keeps rounding errors low. */
#define BIAS_PIXELS ((ptrdiff_t)(128 * LANES))

static real sum_pixels(const real *x, ptrdiff_t count) {
    vec sum[4] = {{0}};
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        UNROLL for (int v = 0; v < 4; v++) sum[v] += load(x + i + v * LANES);
    for (; i + LANES <= count; i += LANES) sum[0] += load(x + i);
    if (i < count) sum[1] += load_first(x + i, count - i);
    return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

static void run_bias(const void *context, ptrdiff_t channel, void *scratch) {
    (void)scratch;
    const struct planes_bias *b = context;
    double total = 0;
    for (ptrdiff_t n = 0; n < b->batch; n++)
        for (ptrdiff_t p = 0; p < b->pixels; p += BIAS_PIXELS)
            total += (double)sum_pixels(b->grad_output + (n * b->channels + channel) * b->pixels + p,
                                        min_size(BIAS_PIXELS, b->pixels - p));
    b->grad_bias[channel] = (real)total;
}

int VARIANT(grad_bias_planes)(const struct pyconv_conv2d *g, const real *grad_output, real *grad_bias) {
    struct planes_bias b = {g->batch, g->out_channels, g->out_height * g->out_width, grad_output, grad_bias};
    double elements = (double)(b.batch * b.pixels) * (double)b.channels;
    return parallel_run(b.channels, elements / LANES, 0, run_bias, &b);
}
