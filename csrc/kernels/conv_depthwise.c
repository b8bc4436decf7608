/* The depthwise convolution: every channel is an image of its own, so vectors run over channels.
 *
 *     dst[i, j, c] = bias[c] + sum over taps of src[i * step + y, j * step + x, c] * weight[tap][c]
 *
 * A tile is up to PIXELS neighbours of a destination row and one vector of channels. For each kernel row
 * it loads the weights and then walks the source pixels once, adding each to all the sums that read it:
 * 8 sums + 5 weights + 1 source vector = 14 registers. 8 pixels of 3x3 take 9 + 30 loads for 72 fused
 * multiply-adds, so that these bind wherever the sources are in L1.
 *
 * To have them there, a task takes a chunk of rows, CHUNK_BYTES of source and destination (half of L2),
 * cut into strips of a tile's width, all channels wide: a row of a strip reads one new source row and
 * finds the others in L1. Channels are the innermost loop, so that memory is read in whole lines.
 * Columns where some tap reads outside of the image are strips of their own, with fewer taps.
 */
#include "conv.h"
#include "correlation.h"
#include "parallel.h"

#define PIXELS 8
#define TASKS_WANTED 32
#define CHUNK_BYTES ((ptrdiff_t)1 << 20)

/* The correlations (one, or one to each residue of the stride) share src, weight and number of channels. */
struct depthwise {
    const struct correlation *correlation;
    ptrdiff_t count, channels;
    const real *packed, *bias; /* [tap][channels], [channels] */
    ptrdiff_t rows, chunks;    /* destination rows to a task, tasks to an image */
};

/* Where one kernel row, or a single tap of it, finds its source and its first weight: offsets in elements */
struct tap_row {
    ptrdiff_t src, weight;
};

/* Destination pixels [column, column + pixels) of any row; their taps lie inside of the image's columns. */
struct strip {
    ptrdiff_t column, pixels;
    ptrdiff_t first, count; /* the taps of each kernel row that do */
    ptrdiff_t width;        /* taps to a struct tap_row: count or 1 */
};

struct tile {
    ptrdiff_t pixels, channels;
    const real *src, *weight, *bias, *residual; /* residual: or NULL; at the pixels of dst */
    real *dst;
    ptrdiff_t src_step, dst_step, weight_step; /* between pixels, and between the taps of a row */
    const struct tap_row *row;
    ptrdiff_t rows;
    int relu;
};

/* step: source pixels from one destination pixel to the next; with one tap to a row, any (src_step). */
INLINE void correlate_tile(const struct tile *t, const int pixels, const int taps, const int step, const int masked) {
    const ptrdiff_t channels = t->channels, weight_step = t->weight_step, dst_step = t->dst_step;
    const ptrdiff_t advance = taps == 1 ? t->src_step : channels, rows = t->rows;
    const struct tap_row *row = t->row;
    for (ptrdiff_t begin = 0; begin < channels; begin += LANES) {
        /* the last vector overlaps the one before rather than being masked */
        ptrdiff_t channel = masked ? 0 : min_size(begin, channels - LANES);
        vec sum[PIXELS], bias = masked ? load_first(t->bias, channels) : load(t->bias + channel);
        UNROLL for (int m = 0; m < pixels; m++) sum[m] = bias;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const real *x = t->src + row[r].src + channel, *w = t->weight + row[r].weight + channel;
            vec weight[5];
            UNROLL for (int s = 0; s < taps; s++, w += weight_step)
                weight[s] = masked ? load_first(w, channels) : load(w);
            UNROLL for (int k = 0; k < (pixels - 1) * step + taps; k++, x += advance) {
                vec value = masked ? load_first(x, channels) : load(x);
                UNROLL for (int s = 0; s < taps; s++)
                    if (k >= s && (k - s) % step == 0 && (k - s) / step < pixels)
                        sum[(k - s) / step] += value * weight[s];
            }
        }
        const real *residual = t->residual ? t->residual + channel : NULL;
        real *dst = t->dst + channel;
        UNROLL for (int m = 0; m < pixels; m++, dst += dst_step) {
            if (residual) {
                sum[m] += masked ? load_first(residual, channels) : load(residual);
                residual += dst_step;
            }
            if (t->relu) sum[m] = choose(sum[m] < 0, (vec){0}, sum[m]);
            if (masked) store_first(dst, sum[m], channels);
            else store(dst, sum[m]);
        }
    }
}

INLINE void correlate_pixels(const struct tile *t, const int taps, const int step, const int masked) {
    switch (t->pixels) {
    case 1: correlate_tile(t, 1, taps, step, masked); break;
    case 2: correlate_tile(t, 2, taps, step, masked); break;
    case 3: correlate_tile(t, 3, taps, step, masked); break;
    case 4: correlate_tile(t, 4, taps, step, masked); break;
    case 5: correlate_tile(t, 5, taps, step, masked); break;
    case 6: correlate_tile(t, 6, taps, step, masked); break;
    case 7: correlate_tile(t, 7, taps, step, masked); break;
    case 8: correlate_tile(t, 8, taps, step, masked); break;
    }
}

static void tile_masked(const struct tile *t) { correlate_pixels(t, 1, 1, 1); }
static void tile_1(const struct tile *t) { correlate_pixels(t, 1, 1, 0); }
static void tile_2(const struct tile *t) { correlate_pixels(t, 2, 1, 0); }
static void tile_3(const struct tile *t) { correlate_pixels(t, 3, 1, 0); }
static void tile_4(const struct tile *t) { correlate_pixels(t, 4, 1, 0); }
static void tile_5(const struct tile *t) { correlate_pixels(t, 5, 1, 0); }
static void tile_3_step_2(const struct tile *t) { correlate_pixels(t, 3, 2, 0); }
static void tile_5_step_2(const struct tile *t) { correlate_pixels(t, 5, 2, 0); }

typedef void tile_function(const struct tile *);

/* The tile for rows of `taps` neighbouring taps; NULL: they have to be taken one by one */
static tile_function *find_tile(ptrdiff_t channels, ptrdiff_t pixels, ptrdiff_t taps, ptrdiff_t step) {
    static tile_function *const step_1[] = {NULL, tile_1, tile_2, tile_3, tile_4, tile_5};
    if (channels < LANES) return taps == 1 ? tile_masked : NULL;
    if (taps > 5) return NULL;
    if (pixels == 1 || step == 1 || taps == 1) return step_1[taps];
    if (step == 2 && taps == 3) return tile_3_step_2;
    return step == 2 && taps == 5 ? tile_5_step_2 : NULL;
}

/* The taps of one kernel row, all rows of a correlation having the same columns */
static ptrdiff_t taps_in_row(const struct correlation *c) {
    ptrdiff_t count = 0;
    while (count < c->taps && c->tap[count].y == c->tap[0].y) count++;
    return count;
}

static struct strip strip_at(const struct correlation *c, ptrdiff_t column) {
    struct strip strip = {.column = column, .pixels = 1, .width = 1};
    ptrdiff_t x = column * c->step_width, taps = taps_in_row(c), last = taps;
    while (strip.first < taps && x + c->tap[strip.first].x < 0) strip.first++;
    while (last > strip.first && x + c->tap[last - 1].x >= c->src_width) last--;
    strip.count = last - strip.first;
    if (strip.count == taps) { /* as many more columns as have all taps inside, in equal shares */
        ptrdiff_t room = taps ? (c->src_width - 1 - x - c->x_max) / c->step_width + 1 : c->dst_width;
        room = min_size(room, c->dst_width - column);
        strip.pixels = ceil_div(room, ceil_div(room, PIXELS));
    }
    int neighbours = strip.count > 1 && c->tap[1].x == c->tap[0].x + 1;
    if (neighbours && find_tile(c->groups, strip.pixels, strip.count, c->step_width)) strip.width = strip.count;
    return strip;
}

/* Rows [begin, end) of a strip; `row` has room for all taps. */
static void correlate_strip(const struct depthwise *d, const struct correlation *c, const struct strip *strip,
                            ptrdiff_t image, ptrdiff_t begin, ptrdiff_t end, struct tap_row *row) {
    ptrdiff_t channels = d->channels, src_row = c->src_width * channels, taps = taps_in_row(c);
    ptrdiff_t kernel_rows = taps ? c->taps / taps : 0, pieces = strip->count / strip->width;
    for (ptrdiff_t r = 0; r < kernel_rows; r++)
        for (ptrdiff_t i = 0; i < pieces; i++) {
            const struct tap *tap = &c->tap[r * taps + strip->first + i * strip->width];
            row[r * pieces + i] = (struct tap_row){tap->y * src_row + tap->x * channels, tap->index * channels};
        }
    tile_function *correlate = find_tile(channels, strip->pixels, strip->width, c->step_width);
    struct tile t = {.pixels = strip->pixels, .channels = channels, .weight = d->packed, .bias = d->bias,
                     .src_step = c->step_width * channels, .dst_step = c->dst_column,
                     .weight_step = strip->width > 1 ? (c->tap[1].index - c->tap[0].index) * channels : 0,
                     .relu = c->epilogue.relu};
    const real *src = c->src + image * c->src_height * src_row + strip->column * c->step_width * channels;
    for (ptrdiff_t i = begin; i < end; i++) {
        ptrdiff_t first = 0, last = kernel_rows, y = i * c->step_height;
        ptrdiff_t offset = image * c->dst_image + i * c->dst_row + strip->column * c->dst_column;
        while (first < last && y + c->tap[first * taps].y < 0) first++;
        while (last > first && y + c->tap[(last - 1) * taps].y >= c->src_height) last--;
        t.src = src + y * src_row;
        t.row = row + first * pieces, t.rows = (last - first) * pieces;
        t.dst = c->dst + offset;
        if (c->epilogue.residual) t.residual = (const real *)c->epilogue.residual + offset;
        correlate(&t);
    }
}

static void run_depthwise(const void *context, ptrdiff_t task, void *scratch) {
    const struct depthwise *d = context;
    ptrdiff_t image = task / d->chunks, begin = task % d->chunks * d->rows;
    for (const struct correlation *c = d->correlation; c < d->correlation + d->count; c++) {
        ptrdiff_t end = min_size(begin + d->rows, c->dst_height);
        for (ptrdiff_t column = 0; column < c->dst_width;) {
            struct strip strip = strip_at(c, column);
            correlate_strip(d, c, &strip, image, begin, end, scratch);
            column += strip.pixels;
        }
    }
}

/* The correlations of one pass in one go. */
static int correlate_all(const struct correlation *c, ptrdiff_t count, ptrdiff_t area) {
    struct depthwise d = {.correlation = c, .count = count, .channels = c->groups};
    ptrdiff_t height = 0, channels = c->groups;
    double pixels = 0, sums = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        double size = (double)(c[i].batch * c[i].dst_height * c[i].dst_width);
        height = max_size(height, c[i].dst_height);
        pixels += size, sums += size * (double)(c[i].taps + 1);
    }
    if (!pixels || !channels) return PYCONV_OK;
    size_t bytes = (size_t)((area + 1) * channels) * sizeof(real);
    real *packed = pyconv_alloc(bytes), *bias = packed + area * channels;
    if (!packed) return PYCONV_NO_MEMORY;
    for (ptrdiff_t channel = 0; channel < channels; channel++)
        for (ptrdiff_t t = 0; t < area; t++) packed[t * channels + channel] = c->weight[channel * area + t];
    if (c->epilogue.bias) memcpy(bias, c->epilogue.bias, (size_t)channels * sizeof(real));
    else memset(bias, 0, (size_t)channels * sizeof(real));
    d.packed = packed, d.bias = bias;
    double row_bytes = (pixels / (double)(c->batch * height) + (double)(c->src_width * c->step_height)) *
                       (double)channels * sizeof(real);
    d.rows = min_size(ceil_div(height, ceil_div(TASKS_WANTED, c->batch)), (ptrdiff_t)(CHUNK_BYTES / row_bytes) + 1);
    d.chunks = ceil_div(height, d.rows);
    int status = parallel_run(c->batch * d.chunks, sums * (double)channels / LANES,
                              (size_t)area * sizeof(struct tap_row), run_depthwise, &d);
    pyconv_free(packed, bytes);
    return status;
}

int VARIANT(correlate_depthwise)(const struct correlation *c) {
    return correlate_all(c, 1, c->weight_group);
}

int VARIANT(grad_input_depthwise)(const struct pyconv_conv2d *g, const real *grad_output, const real *weight,
                                  real *grad_input) {
    ptrdiff_t area = g->kernel_height * g->kernel_width, residues = g->stride_height * g->stride_width, taps = 0;
    size_t bytes = (size_t)residues * sizeof(struct correlation) + (size_t)area * sizeof(struct tap);
    struct correlation *c = pyconv_alloc(bytes);
    if (!c) return PYCONV_NO_MEMORY;
    struct tap *tap = (struct tap *)(c + residues);
    for (ptrdiff_t i = 0; i < residues; i++) {
        c[i] = grad_input_correlation(g, i / g->stride_width, i % g->stride_width, grad_output, weight, grad_input,
                                      tap + taps);
        taps += c[i].taps;
    }
    int status = correlate_all(c, residues, area);
    pyconv_free(c, bytes);
    return status;
}
