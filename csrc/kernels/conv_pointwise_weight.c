/* The gradient of a 1x1 kernel's weight: a product over pixels.
 *
 *     grad_weight[c][k] = sum over pixels p of input[p][c] * grad_output[p][k]
 *
 * A task owns some channels and some blocks of filters, and sums over a share of the pixels, BAND_PIXELS at a
 * time. The filters are packed, row by row as they lie in memory, into panels of BLOCK (128 * 32 * 4 = 16 KiB
 * with AVX-512): those of a column lie on few sets of L1, a page apart. (Whole vectors of filters that only a
 * single panel of channels meets are not worth packing.) A panel of filters then stays in L1 while the tiles
 * of TILE x BLOCK sums, in registers over all pixels of the band, take the channels from L2, or packed as
 * well into panels of PANEL if there is a stride, or ALIAS_BYTES. (Packing them always took 3 to 20 % more
 * time.) Meanwhile the next band is fetched, a line with every pixel of a tile: 2 to 12 %, where bursts of
 * fetches between the bands would have to wait for each other.
 *
 * Lanes hold filters, or, with the operands exchanged (`turned`), channels, where fewer of these lanes would
 * be idle: 24 filters on 144 channels.
 *
 * The pixels are cut into `parts` that each sum into a buffer of their own; these are added in ascending
 * order, so the result does not depend on the number of threads.
 */
#include "conv.h"
#include "parallel.h"
#include "tile.h"

#define BAND_PIXELS ((ptrdiff_t)128)
#define TASKS_WANTED 16
#define PANEL (TILE > 3 * LANES ? TILE : 3 * LANES) /* both whole tiles and whole vectors */

struct pointwise {
    const struct pyconv_conv2d *g;
    const real *grad_output, *input;
    struct weight_parts parts;
    ptrdiff_t pixels, panels;                 /* panels: of one group's channels */
    ptrdiff_t channel_splits, filter_splits;  /* of a group's work on a part */
    ptrdiff_t panel_elements, block_elements; /* of one band */
};

/* A band: `count` output pixels from `first` on, and what a task packs of them. */
struct band {
    ptrdiff_t first, count;
    ptrdiff_t channel, channels, filter, filters; /* ranges, within all groups */
    int strided, last; /* the input's pixels don't follow one another; no band comes after this one */
    int pack_channels, pack_filters;
};

/* `count` values from `from` on to panels of `width` columns, `pitch` elements apart; 0 beyond them. */
INLINE void spread(const real *from, ptrdiff_t count, const int width, ptrdiff_t pitch, real *to) {
    for (; count >= width; count -= width, from += width, to += pitch)
        UNROLL for (int v = 0; v < width; v += LANES) store(to + v, load(from + v));
    for (int v = 0; count > 0 && v < width; v += LANES, count -= LANES)
        store(to + v, count >= LANES ? load(from + v) : count > 0 ? load_first(from + v, count) : (vec){0});
}

static void pack_band(const struct pointwise *w, const struct band *band, real *x, real *gradient) {
    const struct pyconv_conv2d *g = w->g;
    ptrdiff_t column = band->first % g->out_width, row = band->first / g->out_width % g->out_height,
              image = band->first / g->out_width / g->out_height;
    const real *from = w->grad_output + band->first * g->out_channels + band->filter;
    for (ptrdiff_t p = 0; p < band->count; p++, from += g->out_channels) {
        ptrdiff_t y = image * g->in_height + row * g->stride_height;
        const real *pixel =
            w->input + (y * g->in_width + column * g->stride_width) * g->in_channels + band->channel;
        if (band->pack_channels) spread(pixel, band->channels, PANEL, w->panel_elements, x + p * PANEL);
        if (band->pack_filters) spread(from, band->filters, BLOCK, w->block_elements, gradient + p * BLOCK);
        if (++column == g->out_width) {
            column = 0;
            if (++row == g->out_height) row = 0, image++;
        }
    }
}

#define OUTER(m, vectors, g_step, stream)                                                                    \
    tile_outer(m, vectors, 0, segment, 1, &channel, x_step, g_step, stream, 1, sums)

/* A packed block with nothing left to fetch, as most are: five instructions of 25 fewer (1.05 times as fast).
 */
static void outer_near(ptrdiff_t size, const struct segment *segment, ptrdiff_t channel, ptrdiff_t x_step,
                       real *sums) {
    DISPATCH_OUTER(size, OUTER, 2, BLOCK, NULL)
}

static void outer_2(ptrdiff_t size, const struct segment *segment, ptrdiff_t channel, ptrdiff_t x_step,
                    ptrdiff_t g_step, struct stream stream, real *sums) {
    DISPATCH_OUTER(size, OUTER, 2, g_step, &stream)
}

static void outer_1(ptrdiff_t size, const struct segment *segment, ptrdiff_t channel, ptrdiff_t x_step,
                    ptrdiff_t g_step, struct stream stream, real *sums) {
    DISPATCH_OUTER(size, OUTER, 1, g_step, &stream)
}

/* What is fetched during the products of one tile: a line of each of the next band's pixels, first of the
 * channels, then of the filters that it packs; and when all have been, nothing new. */
static struct stream next_lines(const struct pointwise *w, const struct band *band, ptrdiff_t line) {
    const struct pyconv_conv2d *g = w->g;
    ptrdiff_t channel_lines = band->strided ? 0 : ceil_div(band->channels, LINE),
              filter_lines = band->pack_filters ? ceil_div(band->filters, LINE) : 0;
    ptrdiff_t next = band->first + band->count;
    if (band->last || line >= channel_lines + filter_lines) return (struct stream){w->grad_output, 0};
    if (line < channel_lines)
        return (struct stream){w->input + next * g->in_channels + band->channel + line * LINE,
                               g->in_channels};
    line -= channel_lines;
    return (struct stream){w->grad_output + next * g->out_channels + band->filter + line * LINE,
                           g->out_channels};
}

/* sums[block][channel][BLOCK] += the band's products, for the band's ranges */
static void add_band(const struct pointwise *w, const struct band *band, const real *x, const real *gradient,
                     real *sums) {
    ptrdiff_t step = BLOCK, block = w->block_elements, x_step = PANEL, panel = w->panel_elements;
    if (!band->pack_channels) {
        x = w->input + band->first * w->g->in_channels + band->channel;
        x_step = w->g->in_channels, panel = PANEL;
    }
    if (!band->pack_filters) {
        gradient = w->grad_output + band->first * w->g->out_channels + band->filter;
        step = w->g->out_channels, block = BLOCK;
    }
    ptrdiff_t line = 0;
    for (ptrdiff_t k = 0; k < band->filters; k += BLOCK, gradient += block) {
        for (ptrdiff_t c = 0; c < band->channels; c += TILE) {
            struct stream stream = next_lines(w, band, line++);
            struct segment segment = {x + c / PANEL * panel, gradient, band->count};
            ptrdiff_t size = min_size(TILE, band->channels - c);
            if (band->filters - k > LANES && step == BLOCK && !stream.step)
                outer_near(size, &segment, c % PANEL, x_step, sums + c * BLOCK);
            else if (band->filters - k > LANES)
                outer_2(size, &segment, c % PANEL, x_step, step, stream, sums + c * BLOCK);
            else
                outer_1(size, &segment, c % PANEL, x_step, step, stream, sums + c * BLOCK);
        }
        sums += w->parts.block_elements;
    }
}

static void run_pointwise(const void *context, ptrdiff_t task, void *scratch) {
    const struct pointwise *w = context;
    const struct weight_parts *parts = &w->parts;
    ptrdiff_t filter_split = task % w->filter_splits, rest = task / w->filter_splits;
    ptrdiff_t channel_split = rest % w->channel_splits, group = rest / w->channel_splits % parts->groups;
    ptrdiff_t part = rest / w->channel_splits / parts->groups;
    ptrdiff_t c0 = w->panels * channel_split / w->channel_splits * PANEL,
              c1 = min_size(w->panels * (channel_split + 1) / w->channel_splits * PANEL, parts->channels);
    ptrdiff_t b0 = parts->blocks * filter_split / w->filter_splits,
              b1 = parts->blocks * (filter_split + 1) / w->filter_splits;
    struct band band = {.channel = group * parts->channels + c0,
                        .channels = c1 - c0,
                        .filter = group * parts->filters + b0 * BLOCK,
                        .filters = min_size(b1 * BLOCK, parts->filters) - b0 * BLOCK};
    const struct pyconv_conv2d *g = w->g;
    band.strided = g->stride_height > 1 || g->stride_width > 1 || g->in_width != g->out_width ||
                   g->in_height != g->out_height;
    band.pack_channels = band.strided || g->in_channels * (ptrdiff_t)sizeof(real) % ALIAS_BYTES == 0;
    band.pack_filters = band.channels > PANEL || band.filters % LANES;
    real *sums = parts->sums + part * parts->part_elements +
                 (group * parts->blocks + b0) * parts->block_elements + c0 * BLOCK;
    for (ptrdiff_t b = 0; b < b1 - b0; b++)
        memset(sums + b * parts->block_elements, 0, (size_t)((c1 - c0) * BLOCK) * sizeof(real));

    real *x = scratch, *gradient = x + ceil_div(w->panels, w->channel_splits) * w->panel_elements;
    ptrdiff_t begin = w->pixels * part / parts->count, pixels = w->pixels * (part + 1) / parts->count - begin;
    ptrdiff_t bands = ceil_div(pixels, BAND_PIXELS);
    for (ptrdiff_t i = 0; i < bands; i++) {
        band.first = begin + pixels * i / bands;
        band.count = begin + pixels * (i + 1) / bands - band.first;
        band.last = i == bands - 1;
        pack_band(w, &band, x, gradient);
        add_band(w, &band, x, gradient, sums);
    }
}

/* Tasks of one part and group pack some of the same channels and filters: as few as can be. */
static void split(struct pointwise *w, ptrdiff_t wanted) {
    ptrdiff_t least = PTRDIFF_MAX;
    for (ptrdiff_t c = 1; c <= min_size(wanted, w->panels); c++) {
        ptrdiff_t k = min_size(ceil_div(wanted, c), w->parts.blocks);
        ptrdiff_t packed = k * w->parts.channels + c * w->parts.filters;
        if (c * k < min_size(wanted, w->panels * w->parts.blocks) || packed >= least) continue;
        least = packed, w->channel_splits = c, w->filter_splits = k;
    }
}

static void plan(struct pointwise *w, const struct pyconv_conv2d *g) {
    w->g = g;
    w->pixels = g->batch * g->out_height * g->out_width;
    w->parts = weight_parts(g, 1, even_parts(g, MOST_WEIGHT_PARTS));
    w->panels = ceil_div(w->parts.channels, PANEL);
    w->channel_splits = w->filter_splits = 1;
    split(w, ceil_div(TASKS_WANTED, w->parts.count * w->parts.groups));
    w->panel_elements = BAND_PIXELS * PANEL + LANES; /* odd in cache lines, against L1's sets */
    w->block_elements = BAND_PIXELS * BLOCK + LANES;
}

static struct workspace space(const struct pointwise *w) {
    ptrdiff_t packed = ceil_div(w->panels, w->channel_splits) * w->panel_elements +
                       ceil_div(w->parts.blocks, w->filter_splits) * w->block_elements;
    return (struct workspace){(size_t)(w->parts.count * w->parts.part_elements) * sizeof(real),
                              (size_t)packed * sizeof(real)};
}

/* ---- Channels in the lanes ---- */

/* Whether filters in the lanes take more vectors, which are not full. (Groups and strides stay as they are.)
 */
static int is_turned(const struct pyconv_conv2d *g) {
    return g->groups == 1 && g->in_height == g->out_height && g->in_width == g->out_width &&
           g->in_channels * ceil_div(g->out_channels, LANES) >
               g->out_channels * ceil_div(g->in_channels, LANES);
}

static struct pyconv_conv2d turn(const struct pyconv_conv2d *g) {
    struct pyconv_conv2d turned = *g;
    turned.in_channels = g->out_channels, turned.out_channels = g->in_channels;
    return turned;
}

struct turned_sum {
    const struct weight_parts *parts;
    real *grad_weight;
};

/* One row of the turned sums, [block of channels][filter][BLOCK], is one filter of the gradient. */
static void sum_filter(const void *context, ptrdiff_t filter, void *scratch) {
    (void)scratch;
    const struct turned_sum *job = context;
    const struct weight_parts *p = job->parts;
    for (ptrdiff_t b = 0; b < p->blocks; b++)
        sum_parts(p->sums + b * p->block_elements + filter * BLOCK, p->count, p->part_elements, 0,
                  min_size(BLOCK, p->filters - b * BLOCK),
                  job->grad_weight + filter * p->filters + b * BLOCK);
}

/* ---- The whole gradient ---- */

struct workspace VARIANT(grad_weight_pointwise_workspace)(const struct pyconv_conv2d *g) {
    struct pyconv_conv2d turned = turn(g);
    struct pointwise w;
    plan(&w, is_turned(g) ? &turned : g);
    return space(&w);
}

int VARIANT(grad_weight_pointwise)(const struct pyconv_conv2d *g, const real *grad_output, const real *input,
                                   real *grad_weight) {
    struct pyconv_conv2d turned = turn(g);
    struct pointwise w = {.grad_output = grad_output, .input = input};
    const int turns = is_turned(g);
    plan(&w, turns ? &turned : g);
    if (turns) w.grad_output = input, w.input = grad_output;
    struct workspace bytes = space(&w);
    if (!(w.parts.sums = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
    ptrdiff_t tasks = w.parts.count * w.parts.groups * w.channel_splits * w.filter_splits;
    double work = (double)w.pixels * (double)w.parts.part_elements / MULTIPLY_ADDS_PER_NANOSECOND;
    int status = parallel_run(tasks, work, bytes.scratch, run_pointwise, &w);
    struct turned_sum job = {&w.parts, grad_weight};
    if (status == PYCONV_OK)
        status = turns ? parallel_run(g->out_channels, (double)(w.parts.count * w.parts.part_elements) / 8, 0,
                                      sum_filter, &job)
                       : VARIANT(sum_weight_parts)(&w.parts, grad_weight);
    pyconv_free(w.parts.sums, bytes.shared);
    return status;
}
