/* The gradient of a depthwise convolution's weight.
 *
 *     grad_weight[c][tap] = sum over pixels of input[place + tap][c] * grad_output[c]
 *
 * A tile is one kernel row's taps, one vector of channels, and up to PIXELS neighbouring columns of up to
 * ROWS output rows. It keeps the gradients of one output row in registers and walks the input pixels once,
 * multiplying each with every gradient that meets it: 8 gradients + 2 x 3 sums + 1 input = 15 registers
 * (5 taps with 16 registers: 4 + 2 x 5 + 1). Two sums to a tap, since an addition must wait for the last.
 * What the next ROWS rows need and is beyond L2 is fetched into it meanwhile.
 *
 * Sums live in [vector][tap][LANES], one array to a part: a share of the output rows of the batch. Adding
 * a part's sums to memory and summing the parts costs at most 5 % of PART_PIXELS multiply-adds; where there
 * are few pixels, tasks are blocks of channels instead.
 *
 * LANES small planes are an image of LANES channels, too, once they are transposed, which is done in
 * registers, to scratch in L1 (7 x 7: 2 x 1.6 KiB): vectors then run along channels, where rows fill none.
 */
#include "conv.h"
#include "conv_depthwise.h"
#include "parallel.h"
#include "transpose.h"

#define ROWS 4
#define MANY_TAPS_PIXELS (VECTOR_REGISTERS >= 32 ? 8 : 4)
#define MOST_PARTS 32
#define PART_PIXELS 128                 /* at least, to a part */
#define NEAR_BYTES ((ptrdiff_t)1 << 20) /* input and gradient that L2 holds */

/* One kernel row, or a single tap of it */
struct tap_row {
    ptrdiff_t kernel_row;
    ptrdiff_t input; /* where output row 0 finds it, in elements */
    ptrdiff_t sum;   /* its first tap's place among the sums of a vector */
};

/* The output rows [begin, end) that meet a kernel row inside the image */
struct reach {
    ptrdiff_t begin, end;
};

struct tile {
    enum tile_form form;
    ptrdiff_t pixels, channels, area;
    ptrdiff_t k_begin, k_end;          /* see conv_depthwise.h */
    ptrdiff_t first_input, first_grad; /* of an image's output row 0, in elements */
    const real *input, *grad_output;   /* the same of the image that is summed */
    ptrdiff_t input_row, grad_row;     /* from one output row to the next */
    ptrdiff_t input_step;              /* from one output pixel to the next */
    const struct tap_row *row;
    ptrdiff_t rows;
    const struct reach *reach; /* [kernel_height] */
    ptrdiff_t first_vector, last_vector, last_kernel_row;
    int fetch;
    real *sums;
};

struct depthwise_weight {
    const struct pyconv_conv2d *g; /* of LANES channels, if the arrays are planes */
    const real *grad_output, *input;
    const struct tile *tile;
    ptrdiff_t tiles, tap_rows;
    real *sums, *grad_weight; /* sums: [part][vector][tap][LANES] */
    ptrdiff_t channels, vectors, area;
    ptrdiff_t parts, blocks; /* shares of the rows, shares of the vectors */
};

/* step: input pixels from one output pixel to the next; with one tap to a row, any (input_step). */
INLINE void add_tile(const struct tile *t, const int pixels, const int taps, const int step,
                     const int masked) {
    const ptrdiff_t channels = t->channels, input_row = t->input_row, grad_row = t->grad_row;
    const ptrdiff_t advance = taps == 1 ? t->input_step : channels, k_begin = t->k_begin, k_end = t->k_end;
    for (ptrdiff_t v = t->first_vector; v < t->last_vector; v++) {
        /* the last vector overlaps the one before rather than being masked */
        ptrdiff_t channel = masked ? 0 : min_size(v * LANES, channels - LANES);
        for (const struct tap_row *row = t->row; row < t->row + t->rows; row++) {
            real *total = t->sums + (v * t->area + row->sum) * LANES;
            ptrdiff_t p = t->reach[row->kernel_row].begin, end = t->reach[row->kernel_row].end;
            const real *input = t->input + row->input + p * input_row + channel;
            const real *gradient = t->grad_output + p * grad_row + channel;
            const int fetch = t->fetch && row->kernel_row == t->last_kernel_row;
            vec sum[MOST_TAPS][2];
            UNROLL for (int s = 0; s < taps; s++) sum[s][0] = load(total + s * LANES), sum[s][1] = (vec){0};
            for (; p < end; p++, input += input_row, gradient += grad_row) {
                vec grad[PIXELS];
                const real *x = input, *from = gradient;
                UNROLL for (int m = 0; m < pixels; m++, from += channels) grad[m] =
                    in_register(masked ? load_first(from, channels) : load(from));
                UNROLL for (int k = 0; k < (pixels - 1) * step + taps; k++, x += advance) {
                    if (k < taps - 1 && k < k_begin) continue;
                    if (k > (pixels - 1) * step && k >= k_end) continue;
                    vec value = in_register(masked ? load_first(x, channels) : load(x));
                    UNROLL for (int s = 0; s < taps;
                                s++) if (k >= s && (k - s) % step == 0 && (k - s) / step < pixels)
                        sum[s][(k - s) / step % 2] += value * grad[(k - s) / step];
                }
                if (!fetch) continue;
                const real *next_input = input + ROWS * input_row, *next_grad = gradient + ROWS * grad_row;
                UNROLL for (int k = 0; k < pixels * step; k++, next_input += advance)
                    __builtin_prefetch(next_input, 0, 2);
                UNROLL for (int m = 0; m < pixels; m++, next_grad += channels)
                    __builtin_prefetch(next_grad, 0, 2);
            }
            UNROLL for (int s = 0; s < taps; s++) store(total + s * LANES, sum[s][0] + sum[s][1]);
        }
    }
}

INLINE void add_pixels(const struct tile *t, const int taps, const int step, const int masked) {
    switch (t->pixels) {
    case 1: add_tile(t, 1, taps, step, masked); break;
    case 2: add_tile(t, 2, taps, step, masked); break;
    case 3: add_tile(t, 3, taps, step, masked); break;
    case 4: add_tile(t, 4, taps, step, masked); break;
    }
    if (taps > 3 && MANY_TAPS_PIXELS == 4) return;
    switch (t->pixels) {
    case 5: add_tile(t, 5, taps, step, masked); break;
    case 6: add_tile(t, 6, taps, step, masked); break;
    case 7: add_tile(t, 7, taps, step, masked); break;
    case 8: add_tile(t, 8, taps, step, masked); break;
    }
}

static void masked_1(const struct tile *t) { add_pixels(t, 1, 1, 1); }
static void taps_1(const struct tile *t) { add_pixels(t, 1, 1, 0); }
static void taps_2(const struct tile *t) { add_pixels(t, 2, 1, 0); }
static void taps_3(const struct tile *t) { add_pixels(t, 3, 1, 0); }
static void taps_4(const struct tile *t) { add_pixels(t, 4, 1, 0); }
static void taps_5(const struct tile *t) { add_pixels(t, 5, 1, 0); }
static void taps_3_step_2(const struct tile *t) { add_pixels(t, 3, 2, 0); }
static void taps_5_step_2(const struct tile *t) { add_pixels(t, 5, 2, 0); }

static void (*const add_form[TILE_FORMS])(const struct tile *) = {
    masked_1, taps_1, taps_2, taps_3, taps_4, taps_5, taps_3_step_2, taps_5_step_2};

/* The output rows of [begin, end) that each kernel row meets */
static void find_reach(const struct pyconv_conv2d *g, ptrdiff_t begin, ptrdiff_t end, struct reach *reach) {
    for (ptrdiff_t r = 0; r < g->kernel_height; r++) {
        ptrdiff_t y = r * g->dilation_height - g->pad_top, first = begin, last = end;
        while (first < last && first * g->stride_height + y < 0) first++;
        while (last > first && (last - 1) * g->stride_height + y >= g->in_height) last--;
        reach[r] = (struct reach){first, last};
    }
}

/* What output rows [begin, end) of an image add to the sums of vectors [first, last) */
static void add_rows(const struct depthwise_weight *d, const real *input, const real *grad_output,
                     ptrdiff_t begin, ptrdiff_t end, ptrdiff_t first, ptrdiff_t last, real *sums,
                     struct reach *reach) {
    find_reach(d->g, begin, end, reach);
    for (const struct tile *place = d->tile; place < d->tile + d->tiles; place++) {
        struct tile t = *place;
        t.input = input + t.first_input, t.grad_output = grad_output + t.first_grad;
        t.reach = reach, t.sums = sums;
        t.first_vector = first, t.last_vector = last;
        add_form[t.form](&t);
    }
}

static void run_depthwise_weight(const void *context, ptrdiff_t task, void *scratch) {
    const struct depthwise_weight *d = context;
    const struct pyconv_conv2d *g = d->g;
    ptrdiff_t part = task / d->blocks, rows = g->batch * g->out_height, length = d->area * LANES, first, last;
    real *sums = d->sums + part * d->vectors * length;
    block_vectors(g->in_channels, task % d->blocks, d->blocks, &first, &last);
    memset(sums + first * length, 0, (size_t)((last - first) * length) * sizeof(real));
    for (ptrdiff_t row = rows * part / d->parts, stop = rows * (part + 1) / d->parts; row < stop;) {
        ptrdiff_t image = row / g->out_height, begin = row % g->out_height;
        ptrdiff_t end = min_size(min_size(begin + ROWS, g->out_height), begin + stop - row);
        add_rows(d, d->input + image * g->in_height * g->in_width * g->in_channels,
                 d->grad_output + image * g->out_height * g->out_width * g->in_channels, begin, end, first,
                 last, sums, scratch);
        row += end - begin;
    }
}

/* LANES planes of `pixels` pixels, [pixel][LANES] */
static void lay_bundle(const real *planes, ptrdiff_t pixels, real *to) {
    for (ptrdiff_t p = 0; p < pixels; p += LANES)
        transpose_square(planes + p, pixels, LANES, min_size(LANES, pixels - p), to + p * LANES, LANES);
}

/* A bundle of planes, of all images of a part */
static void run_bundle(const void *context, ptrdiff_t task, void *scratch) {
    const struct depthwise_weight *d = context;
    const struct pyconv_conv2d *g = d->g;
    ptrdiff_t part = task / d->vectors, v = task % d->vectors, length = d->area * LANES;
    ptrdiff_t in = g->in_height * g->in_width, out = g->out_height * g->out_width;
    ptrdiff_t channel = min_size(v * LANES, d->channels - LANES);
    real *sums = d->sums + task * length, *x = scratch, *gradient = x + in * LANES;
    struct reach *reach = (struct reach *)(gradient + out * LANES);
    memset(sums, 0, (size_t)length * sizeof(real));
    for (ptrdiff_t image = g->batch * part / d->parts; image < g->batch * (part + 1) / d->parts; image++) {
        lay_bundle(d->input + (image * d->channels + channel) * in, in, x);
        lay_bundle(d->grad_output + (image * d->channels + channel) * out, out, gradient);
        add_rows(d, x, gradient, 0, g->out_height, 0, 1, sums, reach);
    }
}

/* grad_weight of one vector of channels: the sum of its parts in ascending order */
static void run_total(const void *context, ptrdiff_t v, void *scratch) {
    const struct depthwise_weight *d = context;
    ptrdiff_t channels = d->channels, length = d->area * LANES;
    ptrdiff_t channel = channels < LANES ? 0 : min_size(v * LANES, channels - LANES);
    real *total = scratch;
    sum_parts(d->sums + v * length, d->parts, d->vectors * length, 0, length, total);
    for (ptrdiff_t c = v * LANES; c < min_size((v + 1) * LANES, channels); c++)
        for (ptrdiff_t tap = 0; tap < d->area; tap++)
            d->grad_weight[c * d->area + tap] = total[tap * LANES + c - channel];
}

/* Fill in the strips of a row; with NULL, count them and the tap rows they need. */
static void make_tiles(struct depthwise_weight *d, int fetch, struct tile *tile, struct tap_row *row) {
    const struct pyconv_conv2d *g = d->g;
    ptrdiff_t taps = g->kernel_width, channels = g->in_channels, pieces = 0;
    struct columns columns = {.x = -g->pad_left,
                              .spacing = g->dilation_width,
                              .taps = taps,
                              .step = g->stride_width,
                              .src_width = g->in_width,
                              .dst_width = g->out_width,
                              .channels = channels,
                              .pixels = taps > 3 ? MANY_TAPS_PIXELS : PIXELS};
    struct strip strip, last = {.taps = -1};
    d->tile = tile, d->tiles = d->tap_rows = 0;
    for (ptrdiff_t column = 0; column < g->out_width; column += strip.pixels, last = strip) {
        strip = strip_at(&columns, column);
        if (strip.first != last.first || strip.taps != last.taps || strip.width != last.width) {
            pieces = strip.taps / strip.width * g->kernel_height;
            for (ptrdiff_t i = 0; row && i < pieces; i++) {
                ptrdiff_t r = i * strip.width / strip.taps, s = strip.first + i * strip.width % strip.taps;
                ptrdiff_t y = r * g->dilation_height - g->pad_top, x = s * g->dilation_width - g->pad_left;
                row[d->tap_rows + i] = (struct tap_row){r, (y * g->in_width + x) * channels, r * taps + s};
            }
            d->tap_rows += pieces;
        }
        if (tile)
            tile[d->tiles] = (struct tile){.form = strip.form,
                                           .pixels = strip.pixels,
                                           .channels = channels,
                                           .area = d->area,
                                           .k_begin = strip.k_begin,
                                           .k_end = strip.k_end,
                                           .first_input = column * g->stride_width * channels,
                                           .input_step = g->stride_width * channels,
                                           .input_row = g->stride_height * g->in_width * channels,
                                           .first_grad = column * channels,
                                           .grad_row = g->out_width * channels,
                                           .row = row + d->tap_rows - pieces,
                                           .rows = pieces,
                                           .last_kernel_row = g->kernel_height - 1,
                                           .fetch = fetch};
        d->tiles++;
    }
}

/* planes: of these, at least LANES to an image */
static int grad_weight_depthwise(const struct pyconv_conv2d *g, const real *grad_output, const real *input,
                                 real *grad_weight, int planes) {
    struct pyconv_conv2d bundle = *g;
    bundle.in_channels = LANES;
    struct depthwise_weight d = {.g = planes ? &bundle : g,
                                 .grad_output = grad_output,
                                 .input = input,
                                 .grad_weight = grad_weight,
                                 .channels = g->in_channels,
                                 .vectors = ceil_div(g->in_channels, LANES),
                                 .area = g->kernel_height * g->kernel_width};
    ptrdiff_t rows = g->batch * g->out_height, pixels = rows * g->out_width;
    if (!d.area || !d.vectors) return PYCONV_OK;
    if (!pixels) {
        memset(grad_weight, 0, (size_t)(d.area * g->in_channels) * sizeof(real));
        return PYCONV_OK;
    }
    ptrdiff_t parts = planes ? min_size(ceil_div(TASKS_WANTED, d.vectors), g->batch) : rows;
    d.parts = max_size(min_size(min_size(pixels / PART_PIXELS, MOST_PARTS), parts), 1);
    d.blocks = planes ? d.vectors : channel_blocks(g->in_channels, d.parts);
    double near =
        (double)(g->batch * g->in_height * g->in_width + pixels) * (double)g->in_channels * sizeof(real);
    make_tiles(&d, 0, NULL, NULL);
    ptrdiff_t elements = d.vectors * d.area * LANES;
    size_t sum_bytes = (size_t)(d.parts * elements) * sizeof(real),
           tile_bytes = (size_t)d.tiles * sizeof(struct tile);
    size_t bytes = sum_bytes + tile_bytes + (size_t)d.tap_rows * sizeof(struct tap_row);
    char *memory = pyconv_alloc(bytes);
    if (!memory) return PYCONV_NO_MEMORY;
    d.sums = (real *)memory;
    make_tiles(&d, !planes && near > NEAR_BYTES, (struct tile *)(memory + sum_bytes),
               (struct tap_row *)(memory + sum_bytes + tile_bytes));
    ptrdiff_t laid = planes ? g->in_height * g->in_width + g->out_height * g->out_width : 0;
    size_t scratch = (size_t)(laid * LANES) * sizeof(real) + (size_t)g->kernel_height * sizeof(struct reach);
    int status = parallel_run(d.parts * d.blocks, (double)pixels * (double)elements / LANES, scratch,
                              planes ? run_bundle : run_depthwise_weight, &d);
    if (status == PYCONV_OK)
        status = parallel_run(d.vectors, (double)elements * (1 + (double)d.parts / LANES),
                              (size_t)(d.area * LANES) * sizeof(real), run_total, &d);
    pyconv_free(memory, bytes);
    return status;
}

int VARIANT(grad_weight_depthwise)(const struct pyconv_conv2d *g, const real *grad_output, const real *input,
                                   real *grad_weight) {
    return grad_weight_depthwise(g, grad_output, input, grad_weight, 0);
}

int VARIANT(grad_weight_depthwise_bundles)(const struct pyconv_conv2d *g, const real *grad_output,
                                           const real *input, real *grad_weight) {
    return grad_weight_depthwise(g, grad_output, input, grad_weight, 1);
}
