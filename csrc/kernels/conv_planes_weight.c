/* The gradient of a convolution's weight, and of its bias, from planes (conv_planes.h).
 *
 *     grad_weight[k][j] = sum over the pixels p of grad_output[k][p] * x[j][p]          j = (c, tap)
 *
 * Pixels lie side by side in both, so lanes run over what is summed, and are added up at the end of a block.
 * A register tile is 4 filters by 3 rows of x (with 32 registers 6 by 4): 7 loads to 12 multiply-adds. A
 * block of up to DOTS_PIXELS pixels keeps a tile's filters in L1 (8 KiB) and ROWS rows of x in L2 (192 KiB),
 * where these are copies; what a 1x1 kernel reads is the image itself.
 *
 * The blocks of all images are cut into parts, each of which sums into a buffer of its own, [k][j]; these are
 * added in ascending order, so the result does not depend on the number of threads.
 */
#include "conv_planes.h"
#include "parallel.h"
#include "sum.h"

#define ROWS ((ptrdiff_t)96) /* of x at a time, a multiple of WIDEST */
#define PARTS_WANTED ((ptrdiff_t)32)

struct planes_weight {
    const struct correlation *c; /* the forward pass's */
    const real *grad_output;
    ptrdiff_t depth;
    ptrdiff_t pixels, blocks, pitch; /* of a block; of an image; of x */
    ptrdiff_t channels;              /* whose rows are made at a time */
    int plain;                       /* x is the source itself; or */
    struct plane_lines lines;        /* in lines, of whole rows */
    ptrdiff_t parts, splits;         /* of the pixels; of a group's filters, where parts are few */
    real *sums;                      /* [part][group][k][j] */
    real *grad_weight;
};

/* A tile's operands: `lines` lines of `count` pixels each. Rows of g are g_pitch elements apart, rows of x
 * begin at offset[v]. */
struct dots {
    const real *g, *x;
    ptrdiff_t g_pitch, lines, count;
    ptrdiff_t g_step, x_step; /* from one line to the next */
    const ptrdiff_t *offset;
    real *sums; /* of the tile, [m][v], `pitch` apart from one filter to the next */
    ptrdiff_t pitch;
};

/* sums[m][v] += sum over the lines and their pixels of g[m][p] * x[v][p] */
INLINE void tile_dots(const int rows, const int columns, const struct dots *d) {
    vec sum[WIDEST_TILE][WIDEST];
    UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < columns; v++) sum[m][v] = (vec){0};
    const ptrdiff_t g_pitch = d->g_pitch, count = d->count;
    const real *g = d->g, *x[WIDEST];
    UNROLL for (int v = 0; v < columns; v++) x[v] = d->x + d->offset[v];
    for (ptrdiff_t line = 0; line < d->lines; line++) {
        ptrdiff_t p = 0;
        for (; p + LANES <= count; p += LANES) {
            vec value[WIDEST];
            UNROLL for (int v = 0; v < columns; v++) value[v] = load(x[v] + p);
            UNROLL for (int m = 0; m < rows; m++) {
                vec gradient = in_register(load(g + m * g_pitch + p));
                UNROLL for (int v = 0; v < columns; v++) sum[m][v] += gradient * value[v];
            }
        }
        if (p < count) {
            vec value[WIDEST];
            UNROLL for (int v = 0; v < columns; v++) value[v] = load_first(x[v] + p, count - p);
            UNROLL for (int m = 0; m < rows; m++) {
                vec gradient = load_first(g + m * g_pitch + p, count - p);
                UNROLL for (int v = 0; v < columns; v++) sum[m][v] += gradient * value[v];
            }
        }
        g += d->g_step;
        UNROLL for (int v = 0; v < columns; v++) x[v] += d->x_step;
    }
    UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < columns; v++)
        d->sums[m * d->pitch + v] += sum_lanes(sum[m][v]);
}

#if VECTOR_REGISTERS == 32
#define DISPATCH_DOTS DISPATCH_WIDEST
#else
#define DISPATCH_DOTS DISPATCH_WIDE
#endif
#define DOTS(m, columns) tile_dots(m, columns, d)

static void dots(ptrdiff_t rows, ptrdiff_t columns, const struct dots *d) {
    switch (columns) {
    case 1: DISPATCH_DOTS(rows, DOTS, 1) break;
    case 2: DISPATCH_DOTS(rows, DOTS, 2) break;
    case 3: DISPATCH_DOTS(rows, DOTS, 3) break;
#if WIDEST > 3
    default: DISPATCH_DOTS(rows, DOTS, 4)
#endif
    }
}

/* The products of `filters` filters with `depth` rows of x */
static void add_products(const struct planes_weight *w, struct dots *d, ptrdiff_t filters, ptrdiff_t depth,
                         const ptrdiff_t *offset, real *sums) {
    const real *g = d->g;
    for (ptrdiff_t k = 0; k < filters; k += WIDEST_TILE)
        for (ptrdiff_t j = 0; j < depth; j += WIDEST) {
            d->g = g + k * d->g_pitch;
            d->offset = offset + j;
            d->sums = sums + k * w->depth + j;
            dots(min_size(WIDEST_TILE, filters - k), min_size(WIDEST, depth - j), d);
        }
    d->g = g;
}

/* Some filters of a group */
struct share {
    ptrdiff_t group, first, count;
};

/* What the pixels [first, end) of an image add to a share's sums; offset: of x's rows. */
static void add_block(const struct planes_weight *w, ptrdiff_t image, const struct share *share,
                      ptrdiff_t first, ptrdiff_t end, struct stretch *stretch, const ptrdiff_t *offset,
                      real *rows, real *sums) {
    const struct correlation *c = w->c;
    ptrdiff_t area = c->dst_height * c->dst_width, width = c->dst_width;
    ptrdiff_t group = image * c->groups + share->group, filter = group * c->dst_channels + share->first;
    struct dots d = {.g = w->grad_output + filter * area + first,
                     .x = rows,
                     .g_pitch = area,
                     .lines = 1,
                     .count = end - first,
                     .pitch = w->depth};
    if (w->lines.pitch) {
        d.lines = d.count / width, d.count = d.g_step = width;
        d.x_step = c->step_height * w->lines.row;
    }
    for (ptrdiff_t i = 0; i < c->src_channels; i += w->channels) {
        ptrdiff_t channels = min_size(w->channels, c->src_channels - i);
        if (w->lines.pitch)
            put_lines(c, &w->lines, image, share->group, i, channels, first / width, end / width, stretch,
                      rows);
        else if (w->plain)
            d.x = c->src + (group * c->src_channels + i) * area + first;
        else
            put_rows(c, image, share->group, i, channels, first, end, stretch, rows, w->pitch);
        add_products(w, &d, share->count, channels * c->taps, offset, sums + i * c->taps);
    }
}

static void run_weight(const void *context, ptrdiff_t task, void *scratch) {
    const struct planes_weight *w = context;
    const struct correlation *c = w->c;
    ptrdiff_t split = task % w->splits, group = task / w->splits % c->groups,
              part = task / w->splits / c->groups, all = c->batch * w->blocks;
    ptrdiff_t area = c->dst_height * c->dst_width, tiles = ceil_div(c->dst_channels, WIDEST_TILE);
    struct share share = {.group = group, .first = tiles * split / w->splits * WIDEST_TILE};
    share.count = min_size(tiles * (split + 1) / w->splits * WIDEST_TILE, c->dst_channels) - share.first;
    struct stretch *stretch = scratch;
    ptrdiff_t *offset = (ptrdiff_t *)((char *)scratch + stretch_bytes(c, w->pixels));
    real *rows = (real *)((char *)offset + offset_bytes(w->channels * c->taps));
    list_rows(c, &w->lines, w->channels, w->pitch, offset);
    real *sums = w->sums + ((part * c->groups + group) * c->dst_channels + share.first) * w->depth;
    memset(sums, 0, (size_t)(share.count * w->depth) * sizeof(real));
    for (ptrdiff_t b = all * part / w->parts; b < all * (part + 1) / w->parts; b++) {
        ptrdiff_t first = b % w->blocks * w->pixels;
        add_block(w, b / w->blocks, &share, first, min_size(first + w->pixels, area), stretch, offset, rows,
                  sums);
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
    w->channels = max_size(min_size(ROWS / c->taps, c->src_channels), 1);
    w->plain = is_plain(c);
    w->lines = (struct plane_lines){0};
    if (has_lines(c)) {
        w->lines = plan_lines(c, w->channels, ceil_div(DOTS_PIXELS, c->dst_width));
        w->pixels = w->lines.rows * c->dst_width;
        w->blocks = ceil_div(c->dst_height, w->lines.rows);
    } else {
        ptrdiff_t fit = max_size(PLANES_BYTES / (w->channels * c->taps * (ptrdiff_t)sizeof(real)), 8 * LANES);
        w->blocks = ceil_div(area, min_size(fit, DOTS_PIXELS));
        w->pixels = ceil_div(ceil_div(area, w->blocks), LANES) * LANES;
        w->blocks = ceil_div(area, w->pixels);
    }
    w->pitch = w->plain ? area : planes_pitch(w->pixels);
    ptrdiff_t bytes = c->groups * c->dst_channels * w->depth * (ptrdiff_t)sizeof(real);
    w->parts = min_size(ceil_div(PARTS_WANTED, c->groups), c->batch * w->blocks);
    w->parts = max_size(min_size(w->parts, PARTS_BYTES / bytes), 1);
    w->splits = min_size(PARTS_WANTED / (w->parts * c->groups), c->dst_channels / (4 * WIDEST_TILE));
    w->splits = max_size(w->splits, 1);
}

static struct workspace space(const struct planes_weight *w) {
    const struct correlation *c = w->c;
    ptrdiff_t rows = w->plain         ? 0
                     : w->lines.pitch ? w->channels * w->lines.plane + LANES
                                      : w->channels * c->taps * w->pitch;
    return (struct workspace){
        (size_t)(w->parts * c->groups * c->dst_channels * w->depth) * sizeof(real),
        stretch_bytes(c, w->pixels) + offset_bytes(w->channels * c->taps) + (size_t)rows * sizeof(real),
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
    int status = parallel_run(w.parts * c->groups * w.splits, work / MULTIPLY_ADDS_PER_NANOSECOND,
                              bytes.scratch, run_weight, &w);
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

static void run_bias(const void *context, ptrdiff_t channel, void *scratch) {
    (void)scratch;
    const struct planes_bias *b = context;
    double total = 0;
    for (ptrdiff_t n = 0; n < b->batch; n++)
        total += sum_elements(b->grad_output + (n * b->channels + channel) * b->pixels, b->pixels);
    b->grad_bias[channel] = (real)total;
}

int VARIANT(grad_bias_planes)(const struct pyconv_conv2d *g, const real *grad_output, real *grad_bias) {
    struct planes_bias b = {g->batch, g->out_channels, g->out_height * g->out_width, grad_output, grad_bias};
    double elements = (double)(b.batch * b.pixels) * (double)b.channels;
    return parallel_run(b.channels, elements / LANES, 0, run_bias, &b);
}
