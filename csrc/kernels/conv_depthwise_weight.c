/* The gradient of a depthwise convolution's weight.
 *
 *     grad_weight[c][tap] = sum over pixels of input[place + tap][c] * grad_output[c]
 *
 * A tile is one kernel row's taps, one vector of channels, and up to PIXELS neighbouring columns of up to
 * ROWS output rows. It keeps the gradients of one output row in registers and walks the input pixels once,
 * multiplying each with every gradient that meets it: 8 gradients + 2 x 3 sums + 1 input = 15 registers
 * (5 taps with 16 registers: 4 + 2 x 5 + 1). Two sums to a tap, since an addition must wait for the last.
 *
 * Sums live in [vector][tap][LANES], one array to a task; a task takes a share of the output rows of the
 * batch and, where there are few pixels, a share of the channels: so that the partial sums, a store and
 * a load each, are at most 1 / PART_PIXELS of the multiply-adds.
 */
#include "conv.h"
#include "parallel.h"

#define PIXELS 8
#define ROWS 4
#define MANY_TAPS_PIXELS (VECTOR_REGISTERS >= 32 ? 8 : 4)
#define TASKS_WANTED 32
#define PART_PIXELS 512 /* at least, to a partial sum */
#define BLOCK_BYTES 256 /* of channels side by side, at least, to a task */

/* One kernel row, or a single tap of it, over the output rows [begin, end) that it meets inside the image */
struct tap_row {
    ptrdiff_t begin, end;
    ptrdiff_t input; /* where output row 0 finds it, in elements */
    ptrdiff_t sum;   /* its first tap's place among the sums of a vector */
};

struct depthwise_weight {
    const struct pyconv_conv2d *g;
    const real *grad_output, *input;
    real *sums, *grad_weight; /* sums: [part][vector][tap][LANES] */
    ptrdiff_t vectors, area;
    ptrdiff_t parts, blocks; /* shares of the rows, shares of the vectors */
};

struct tile {
    ptrdiff_t pixels, channels, area;
    const real *input, *grad_output; /* of output row 0 and the tile's first column */
    ptrdiff_t input_row, grad_row;   /* from one output row to the next */
    ptrdiff_t input_step;            /* from one output pixel to the next */
    const struct tap_row *row;
    ptrdiff_t rows;
    ptrdiff_t first_vector, last_vector;
    real *sums;
};

/* step: input pixels from one output pixel to the next; with one tap to a row, any (input_step). */
INLINE void add_tile(const struct tile *t, const int pixels, const int taps, const int step, const int masked) {
    const ptrdiff_t channels = t->channels, input_row = t->input_row, grad_row = t->grad_row;
    const ptrdiff_t advance = taps == 1 ? t->input_step : channels;
    for (ptrdiff_t v = t->first_vector; v < t->last_vector; v++) {
        /* the last vector overlaps the one before rather than being masked */
        ptrdiff_t channel = masked ? 0 : min_size(v * LANES, channels - LANES);
        for (const struct tap_row *row = t->row; row < t->row + t->rows; row++) {
            real *total = t->sums + (v * t->area + row->sum) * LANES;
            const real *input = t->input + row->input + row->begin * input_row + channel;
            const real *gradient = t->grad_output + row->begin * grad_row + channel;
            vec sum[5][2];
            UNROLL for (int s = 0; s < taps; s++) sum[s][0] = load(total + s * LANES), sum[s][1] = (vec){0};
            for (ptrdiff_t p = row->begin; p < row->end; p++, input += input_row, gradient += grad_row) {
                vec grad[PIXELS];
                const real *x = input, *from = gradient;
                UNROLL for (int m = 0; m < pixels; m++, from += channels)
                    grad[m] = masked ? load_first(from, channels) : load(from);
                UNROLL for (int k = 0; k < (pixels - 1) * step + taps; k++, x += advance) {
                    vec value = masked ? load_first(x, channels) : load(x);
                    UNROLL for (int s = 0; s < taps; s++)
                        if (k >= s && (k - s) % step == 0 && (k - s) / step < pixels)
                            sum[s][(k - s) / step % 2] += value * grad[(k - s) / step];
                }
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

static void tile_masked(const struct tile *t) { add_pixels(t, 1, 1, 1); }
static void tile_1(const struct tile *t) { add_pixels(t, 1, 1, 0); }
static void tile_2(const struct tile *t) { add_pixels(t, 2, 1, 0); }
static void tile_3(const struct tile *t) { add_pixels(t, 3, 1, 0); }
static void tile_4(const struct tile *t) { add_pixels(t, 4, 1, 0); }
static void tile_5(const struct tile *t) { add_pixels(t, 5, 1, 0); }
static void tile_3_step_2(const struct tile *t) { add_pixels(t, 3, 2, 0); }
static void tile_5_step_2(const struct tile *t) { add_pixels(t, 5, 2, 0); }

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

/* Output rows [begin, end) of one image, from `column` on; returns how many columns that were. */
static ptrdiff_t add_strip(const struct depthwise_weight *d, struct tile *t, ptrdiff_t column, ptrdiff_t begin,
                           ptrdiff_t end, struct tap_row *row) {
    const struct pyconv_conv2d *g = d->g;
    ptrdiff_t channels = g->in_channels, spread = g->dilation_width, taps = g->kernel_width;
    ptrdiff_t x = column * g->stride_width - g->pad_left; /* of tap 0; those in [first, last) lie inside */
    ptrdiff_t first = min_size(ceil_div(max_size(-x, 0), spread), taps);
    ptrdiff_t last = x >= g->in_width ? first : max_size(min_size((g->in_width - 1 - x) / spread + 1, taps), first);
    t->pixels = 1;
    if (last == first) return 1;
    if (last - first == taps) { /* as many more columns as have all taps inside, in equal shares */
        ptrdiff_t room = (g->in_width - 1 - x - (taps - 1) * spread) / g->stride_width + 1;
        room = min_size(room, g->out_width - column);
        t->pixels = ceil_div(room, ceil_div(room, taps > 3 ? MANY_TAPS_PIXELS : PIXELS));
    }
    tile_function *add = spread == 1 ? find_tile(channels, t->pixels, last - first, g->stride_width) : NULL;
    ptrdiff_t width = add ? last - first : 1;
    if (!add) add = find_tile(channels, t->pixels, 1, 1);
    t->row = row;
    t->rows = 0;
    for (ptrdiff_t r = 0; r < g->kernel_height; r++) {
        ptrdiff_t y = r * g->dilation_height - g->pad_top;
        struct tap_row place = {.begin = max_size(begin, ceil_div(max_size(-y, 0), g->stride_height))};
        place.end = y >= g->in_height ? begin : min_size(end, (g->in_height - 1 - y) / g->stride_height + 1);
        if (place.begin >= place.end) continue;
        for (ptrdiff_t s = first; s < last; s += width) {
            place.input = (y * g->in_width + s * spread - g->pad_left) * channels;
            place.sum = r * taps + s;
            row[t->rows++] = place;
        }
    }
    t->input += column * t->input_step;
    t->grad_output += column * channels;
    add(t);
    t->input -= column * t->input_step;
    t->grad_output -= column * channels;
    return t->pixels;
}

static void run_depthwise_weight(const void *context, ptrdiff_t task, void *scratch) {
    const struct depthwise_weight *d = context;
    const struct pyconv_conv2d *g = d->g;
    ptrdiff_t part = task / d->blocks, block = task % d->blocks, channels = g->in_channels;
    ptrdiff_t row = g->batch * g->out_height * part / d->parts, last = g->batch * g->out_height * (part + 1) / d->parts;
    struct tile t = {.channels = channels, .area = d->area,
                     .input_row = g->stride_height * g->in_width * channels, .grad_row = g->out_width * channels,
                     .input_step = g->stride_width * channels,
                     .first_vector = d->vectors * block / d->blocks, .last_vector = d->vectors * (block + 1) / d->blocks,
                     .sums = d->sums + part * d->vectors * d->area * LANES};
    memset(t.sums + t.first_vector * d->area * LANES, 0,
           (size_t)((t.last_vector - t.first_vector) * d->area * LANES) * sizeof(real));
    while (row < last) {
        ptrdiff_t image = row / g->out_height, begin = row % g->out_height;
        ptrdiff_t end = min_size(min_size(begin + ROWS, g->out_height), begin + last - row);
        t.input = d->input + image * g->in_height * g->in_width * channels;
        t.grad_output = d->grad_output + image * g->out_height * g->out_width * channels;
        for (ptrdiff_t column = 0; column < g->out_width;) column += add_strip(d, &t, column, begin, end, scratch);
        row += end - begin;
    }
}

/* grad_weight of one vector of channels: the sum of its parts in ascending order */
static void run_total(const void *context, ptrdiff_t v, void *scratch) {
    const struct depthwise_weight *d = context;
    ptrdiff_t channels = d->g->in_channels, length = d->area * LANES;
    ptrdiff_t channel = channels < LANES ? 0 : min_size(v * LANES, channels - LANES);
    real *total = scratch;
    sum_parts(d->sums + v * length, d->parts, d->vectors * length, 0, length, total);
    for (ptrdiff_t c = v * LANES; c < min_size((v + 1) * LANES, channels); c++)
        for (ptrdiff_t tap = 0; tap < d->area; tap++)
            d->grad_weight[c * d->area + tap] = total[tap * LANES + c - channel];
}

int VARIANT(grad_weight_depthwise)(const struct pyconv_conv2d *g, const real *grad_output, const real *input,
                                   real *grad_weight) {
    struct depthwise_weight d = {.g = g, .grad_output = grad_output, .input = input, .grad_weight = grad_weight};
    d.area = g->kernel_height * g->kernel_width;
    d.vectors = ceil_div(g->in_channels, LANES);
    ptrdiff_t rows = g->batch * g->out_height, pixels = rows * g->out_width;
    if (!d.area || !d.vectors) return PYCONV_OK;
    if (!pixels) {
        memset(grad_weight, 0, (size_t)(d.area * g->in_channels) * sizeof(real));
        return PYCONV_OK;
    }
    d.parts = max_size(min_size(min_size(pixels / PART_PIXELS, TASKS_WANTED), rows), 1);
    d.blocks = min_size(ceil_div(TASKS_WANTED, d.parts), ceil_div(d.vectors * VECTOR_BYTES, BLOCK_BYTES));
    ptrdiff_t elements = d.vectors * d.area * LANES;
    size_t bytes = (size_t)(d.parts * elements) * sizeof(real);
    if (!(d.sums = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    int status = parallel_run(d.parts * d.blocks, (double)pixels * (double)elements / LANES,
                              (size_t)d.area * sizeof(struct tap_row), run_depthwise_weight, &d);
    if (status == PYCONV_OK)
        status = parallel_run(d.vectors, (double)elements * (1 + (double)d.parts / LANES),
                              (size_t)(d.area * LANES) * sizeof(real), run_total, &d);
    pyconv_free(d.sums, bytes);
    return status;
}
