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
 * cut into strips of a tile's width: a row of a strip reads one new source row and finds the others in L1,
 * of NEAR_BYTES worth of channels. Channels are the innermost loop: memory is read in whole lines. What lies
 * beyond L2 is fetched AHEAD_BYTES early: hardware does not see that the next row of a strip comes next
 * (measured: 1.3 to 1.6 times as fast; within L2 it would cost 10 %).
 */
#include "conv.h"
#include "conv_depthwise.h"
#include "correlation.h"
#include "parallel.h"

#define CHUNK_BYTES ((ptrdiff_t)1 << 20)
#define NEAR_BYTES ((ptrdiff_t)32 << 10)
#define AHEAD_BYTES ((ptrdiff_t)4096) /* of a strip's rows: some 200 ns of work */
#define AHEAD_ROWS 4                  /* at most */

extern const struct pyconv_layout_kernels KERNELS(layout);

/* Where one kernel row, or a single tap of it, finds its source and its first weight: offsets in elements */
struct tap_row {
    ptrdiff_t src, weight;
};

/* One strip of a correlation's destination, over `count` rows that read the same kernel rows; the pointers
 * are those of image 0 and row 0 until rows are chosen. */
struct tile {
    const struct correlation *correlation;
    enum tile_form form;
    ptrdiff_t pixels, channels, first_vector, last_vector;
    ptrdiff_t k_begin, k_end;          /* see conv_depthwise.h */
    ptrdiff_t count, src_row, dst_row; /* from one row to the next */
    ptrdiff_t kernel_row;              /* taps to a row of the kernel, inside the image or not */
    ptrdiff_t pieces;                  /* tap rows to a row of the kernel */
    const struct tap_row *row;
    ptrdiff_t rows;
    const real *src, *weight, *bias, *residual; /* residual: or NULL; at the pixels of dst */
    real *dst;
    ptrdiff_t src_step, dst_step, weight_step; /* between pixels, and between the taps of a row */
    const real *src_ahead, *dst_ahead;         /* what a later row will need, or NULL */
    int relu;
};

/* The correlations (one, or one to each residue of the stride) share src, weight and number of channels. */
struct depthwise {
    const struct correlation *correlation;
    ptrdiff_t count, channels;
    const real *packed, *bias; /* [tap][channels], [channels] */
    const struct tile *tile;
    ptrdiff_t tiles, tap_rows;
    ptrdiff_t rows, chunks,
        blocks;      /* destination rows to a task; tasks to an image: chunks * blocks of channels */
    ptrdiff_t near;  /* vectors of channels that a strip takes at a time */
    ptrdiff_t ahead; /* rows, or 0 */
};

/* Row i of a tile. step: source pixels from one destination pixel to the next; with one tap, any (src_step).
 */
INLINE void correlate_row(const struct tile *t, ptrdiff_t i, const int pixels, const int taps, const int step,
                          const int masked) {
    const ptrdiff_t channels = t->channels, weight_step = t->weight_step, dst_step = t->dst_step;
    const ptrdiff_t advance = taps == 1 ? t->src_step : channels, last_vector = t->last_vector;
    const ptrdiff_t k_begin = t->k_begin, k_end = t->k_end, dst_row = i * t->dst_row;
    const struct tap_row *end = t->row + t->rows;
    const real *src = t->src + i * t->src_row;
    for (ptrdiff_t v = t->first_vector; v < last_vector; v++) {
        /* the last vector overlaps the one before rather than being masked */
        ptrdiff_t channel = masked ? 0 : min_size(v * LANES, channels - LANES);
        vec sum[PIXELS], bias = masked ? load_first(t->bias, channels) : load(t->bias + channel);
        UNROLL for (int m = 0; m < pixels; m++) sum[m] = bias;
        for (const struct tap_row *row = t->row; row < end; row++) {
            const real *x = src + row->src + channel, *w = t->weight + row->weight + channel;
            vec weight[MOST_TAPS];
            UNROLL for (int s = 0; s < taps; s++, w += weight_step) weight[s] =
                in_register(masked ? load_first(w, channels) : load(w));
            UNROLL for (int k = 0; k < (pixels - 1) * step + taps; k++, x += advance) {
                if (k < taps - 1 && k < k_begin) continue;
                if (k > (pixels - 1) * step && k >= k_end) continue;
                vec value = in_register(masked ? load_first(x, channels) : load(x));
                UNROLL for (int s = 0; s < taps;
                            s++) if (k >= s && (k - s) % step == 0 && (k - s) / step < pixels)
                    sum[(k - s) / step] += value * weight[s];
            }
        }
        if (t->dst_ahead) {
            const real *next_dst = t->dst_ahead + dst_row + channel;
            UNROLL for (int j = 0; j < step; j++) {
                const real *next_src = t->src_ahead + i * t->src_row - j * (t->src_row / step) + channel;
                UNROLL for (int m = 0; m < pixels * step; m++, next_src += advance)
                    __builtin_prefetch(next_src, 0);
            }
            UNROLL for (int m = 0; m < pixels; m++, next_dst += dst_step) __builtin_prefetch(next_dst, 1);
        }
        const real *residual = t->residual + dst_row + channel;
        real *dst = t->dst + dst_row + channel;
        if (t->residual)
            UNROLL for (int m = 0; m < pixels; m++, residual += dst_step) sum[m] +=
                masked ? load_first(residual, channels) : load(residual);
        if (t->relu) UNROLL for (int m = 0; m < pixels; m++) sum[m] = choose(sum[m] < 0, (vec){0}, sum[m]);
        UNROLL for (int m = 0; m < pixels; m++, dst += dst_step) if (masked)
            store_first(dst, sum[m], channels);
        else store(dst, sum[m]);
    }
}

INLINE void correlate_tile(const struct tile *t, const int pixels, const int taps, const int step,
                           const int masked) {
    for (ptrdiff_t i = 0; i < t->count; i++) correlate_row(t, i, pixels, taps, step, masked);
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

static void masked_1(const struct tile *t) { correlate_pixels(t, 1, 1, 1); }
static void taps_1(const struct tile *t) { correlate_pixels(t, 1, 1, 0); }
static void taps_2(const struct tile *t) { correlate_pixels(t, 2, 1, 0); }
static void taps_3(const struct tile *t) { correlate_pixels(t, 3, 1, 0); }
static void taps_4(const struct tile *t) { correlate_pixels(t, 4, 1, 0); }
static void taps_5(const struct tile *t) { correlate_pixels(t, 5, 1, 0); }
static void taps_3_step_2(const struct tile *t) { correlate_pixels(t, 3, 2, 0); }
static void taps_5_step_2(const struct tile *t) { correlate_pixels(t, 5, 2, 0); }

static void (*const correlate_form[TILE_FORMS])(const struct tile *) = {
    masked_1, taps_1, taps_2, taps_3, taps_4, taps_5, taps_3_step_2, taps_5_step_2};

/* Rows [begin, end) of a strip, in an image. */
static void correlate_strip(const struct depthwise *d, struct tile t, ptrdiff_t image, ptrdiff_t begin,
                            ptrdiff_t end) {
    const struct correlation *c = t.correlation;
    const struct tap_row *row = t.row;
    ptrdiff_t kernel_rows = c->taps ? c->taps / t.kernel_row : 0;
    const real *src = t.src + image * c->src_height * c->src_width * d->channels;
    t.dst += image * c->dst_image + begin * c->dst_row;
    if (t.residual) t.residual += image * c->dst_image + begin * c->dst_row;
    for (ptrdiff_t i = begin; i < end; i += t.count) {
        ptrdiff_t first = 0, last = kernel_rows, y = i * c->step_height;
        while (first < last && y + c->tap[first * t.kernel_row].y < 0) first++;
        while (last > first && y + c->tap[(last - 1) * t.kernel_row].y >= c->src_height) last--;
        t.count = 1;
        if (last - first == kernel_rows && kernel_rows)
            t.count = min_size((c->src_height - 1 - c->y_max - y) / c->step_height + 1, end - i);
        t.src = src + y * c->src_width * d->channels;
        t.row = row + first * t.pieces, t.rows = (last - first) * t.pieces;
        if (d->ahead) {
            ptrdiff_t below = (c->y_max + d->ahead * c->step_height) * c->src_width + c->x_min;
            t.src_ahead = c->taps ? t.src + below * d->channels : t.dst;
            t.dst_ahead = t.dst + d->ahead * c->dst_row;
        }
        correlate_form[t.form](&t);
        t.dst += t.count * c->dst_row;
        if (t.residual) t.residual += t.count * c->dst_row;
    }
}

static void run_depthwise(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct depthwise *d = context;
    ptrdiff_t block = task % d->blocks, chunk = task / d->blocks % d->chunks,
              image = task / d->blocks / d->chunks;
    ptrdiff_t vector, last;
    block_vectors(d->channels, block, d->blocks, &vector, &last);
    for (; vector < last; vector += d->near)
        for (const struct tile *place = d->tile; place < d->tile + d->tiles; place++) {
            struct tile t = *place;
            t.first_vector = vector, t.last_vector = min_size(vector + d->near, last);
            ptrdiff_t begin = chunk * d->rows, end = min_size(begin + d->rows, t.correlation->dst_height);
            correlate_strip(d, t, image, begin, end);
        }
}

/* Vectors of channels of which the rows that a strip reads again, and the weights, stay in L1 */
static ptrdiff_t near_vectors(const struct depthwise *d, ptrdiff_t area) {
    ptrdiff_t lines = 1;
    for (const struct correlation *c = d->correlation; c < d->correlation + d->count; c++)
        if (c->taps) {
            ptrdiff_t columns = min_size(PIXELS * c->step_width + c->x_max - c->x_min, c->src_width);
            lines = max_size(lines, columns * (c->y_max - c->y_min + 1));
        }
    ptrdiff_t vectors = ceil_div(ceil_div(d->channels, LANES), d->blocks);
    ptrdiff_t near = max_size(NEAR_BYTES / ((lines + area) * VECTOR_BYTES), 4);
    return ceil_div(vectors, ceil_div(vectors, near)); /* in equal shares */
}

/* Fill in all strips of all correlations; with NULL, count them and the tap rows they need. */
static void make_tiles(struct depthwise *d, struct tile *tile, struct tap_row *row) {
    d->tile = tile, d->tiles = d->tap_rows = 0;
    for (const struct correlation *c = d->correlation; c < d->correlation + d->count; c++) {
        struct columns columns = {.x = c->taps ? c->tap[0].x : 0,
                                  .spacing = 1,
                                  .step = c->step_width,
                                  .pixels = PIXELS,
                                  .src_width = c->src_width,
                                  .dst_width = c->dst_width,
                                  .channels = d->channels};
        while (columns.taps < c->taps && c->tap[columns.taps].y == c->tap[0].y) columns.taps++;
        if (columns.taps > 1) columns.spacing = c->tap[1].x - c->tap[0].x;
        ptrdiff_t kernel_rows = columns.taps ? c->taps / columns.taps : 0, pieces = 0;
        struct strip strip, last = {.taps = -1};
        for (ptrdiff_t column = 0; column < c->dst_width; column += strip.pixels, last = strip) {
            strip = strip_at(&columns, column);
            if (strip.first != last.first || strip.taps != last.taps || strip.width != last.width) {
                pieces = strip.taps / strip.width;
                for (ptrdiff_t i = 0; row && i < kernel_rows * pieces; i++) {
                    const struct tap *tap =
                        &c->tap[i / pieces * columns.taps + strip.first + i % pieces * strip.width];
                    row[d->tap_rows + i] = (struct tap_row){(tap->y * c->src_width + tap->x) * d->channels,
                                                            tap->index * d->channels};
                }
                d->tap_rows += kernel_rows * pieces;
            }
            if (tile) {
                const real *residual = c->epilogue.residual;
                tile[d->tiles] = (struct tile){
                    .correlation = c,
                    .form = strip.form,
                    .pixels = strip.pixels,
                    .channels = d->channels,
                    .k_begin = strip.k_begin,
                    .k_end = strip.k_end,
                    .dst_row = c->dst_row,
                    .src_row = c->step_height * c->src_width * d->channels,
                    .kernel_row = columns.taps,
                    .pieces = pieces,
                    .row = row + d->tap_rows - kernel_rows * pieces,
                    .src = c->src + column * c->step_width * d->channels,
                    .src_step = c->step_width * d->channels,
                    .dst = c->dst + column * c->dst_column,
                    .dst_step = c->dst_column,
                    .residual = residual ? residual + column * c->dst_column : NULL,
                    .relu = c->epilogue.relu,
                    .weight = d->packed,
                    .bias = d->bias,
                    .weight_step = columns.taps > 1 ? (c->tap[1].index - c->tap[0].index) * d->channels : 0};
            }
            d->tiles++;
        }
    }
}

/* All correlations of one pass in one go; area: taps of the whole kernel. */
static int correlate_all(const struct correlation *c, ptrdiff_t count, ptrdiff_t area) {
    struct depthwise d = {.correlation = c, .count = count, .channels = c->groups};
    ptrdiff_t height = 0;
    double pixels = 0, sums = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        double size = (double)(c[i].batch * c[i].dst_height * c[i].dst_width);
        height = max_size(height, c[i].dst_height);
        pixels += size, sums += size * (double)(c[i].taps + 1);
    }
    if (!pixels || !d.channels) return PYCONV_OK;

    make_tiles(&d, NULL, NULL);
    size_t packed_bytes = (size_t)ceil_div((area + 1) * d.channels, LANES) * VECTOR_BYTES;
    size_t tile_bytes = (size_t)d.tiles * sizeof(struct tile);
    size_t bytes = packed_bytes + tile_bytes + (size_t)d.tap_rows * sizeof(struct tap_row);
    char *memory = pyconv_alloc(bytes);
    if (!memory) return PYCONV_NO_MEMORY;
    real *packed = (real *)memory, *bias = packed + area * d.channels;
    d.packed = packed, d.bias = bias;
    if (c->epilogue.bias)
        memcpy(bias, c->epilogue.bias, (size_t)d.channels * sizeof(real));
    else
        memset(bias, 0, (size_t)d.channels * sizeof(real));
    int status = KERNELS(layout).transpose(1, d.channels, area, c->weight, packed);
    make_tiles(&d, (struct tile *)(memory + packed_bytes),
               (struct tap_row *)(memory + packed_bytes + tile_bytes));

    double row_bytes = (pixels / (double)(c->batch * height) + (double)(c->src_width * c->step_height)) *
                       (double)d.channels * sizeof(real);
    d.blocks = channel_blocks(d.channels, c->batch);
    d.near = near_vectors(&d, area);
    d.rows = min_size(ceil_div(height, ceil_div(TASKS_WANTED, c->batch * d.blocks)),
                      (ptrdiff_t)(CHUNK_BYTES / row_bytes) + 1);
    d.chunks = ceil_div(height, d.rows);
    if ((double)(c->batch * height) * row_bytes > CHUNK_BYTES) {
        d.near = ceil_div(d.channels, LANES); /* long stretches of memory matter more than L1 */
        d.ahead = min_size(ceil_div(AHEAD_BYTES, PIXELS * d.near * VECTOR_BYTES), AHEAD_ROWS);
    }
    if (status == PYCONV_OK)
        status = parallel_run(c->batch * d.chunks * d.blocks, sums * (double)d.channels / LANES, 0,
                              run_depthwise, &d);
    pyconv_free(memory, bytes);
    return status;
}

int VARIANT(correlate_depthwise)(const struct correlation *c) { return correlate_all(c, 1, c->weight_group); }

int VARIANT(grad_input_depthwise)(const struct pyconv_conv2d *g, const real *grad_output, const real *weight,
                                  real *grad_input) {
    ptrdiff_t area = g->kernel_height * g->kernel_width, residues = g->stride_height * g->stride_width,
              taps = 0;
    size_t bytes = (size_t)residues * sizeof(struct correlation) + (size_t)area * sizeof(struct tap);
    struct correlation *c = pyconv_alloc(bytes);
    if (!c) return PYCONV_NO_MEMORY;
    struct tap *tap = (struct tap *)(c + residues);
    for (ptrdiff_t i = 0; i < residues; i++) {
        c[i] = grad_input_correlation(g, i / g->stride_width, i % g->stride_width, grad_output, weight,
                                      grad_input, tap + taps);
        taps += c[i].taps;
    }
    int status = correlate_all(c, residues, area);
    pyconv_free(c, bytes);
    return status;
}
