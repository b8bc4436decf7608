/* The depthwise convolution: every channel is an image of its own, so vectors run over channels.
 *
 *     dst[i, j, c] = bias[c] + sum over taps of src[i * step + y, j * step + x, c] * weight[tap][c]
 *
 * Bound by loads: one for each multiply-add. PIXELS destination pixels share each weight vector: 8
 * accumulators + 1 weight. A destination row is cut where some tap would read outside of the image:
 * its border pixels skip taps one by one, its interior needs no tests.
 */
#include "conv.h"
#include "correlation.h"
#include "parallel.h"

#define PIXELS 8
#define TASKS_WANTED 64

struct depthwise {
    const struct correlation *c;
    const real *packed, *bias; /* [tap][channels], [channels], rounded up to whole vectors */
    ptrdiff_t channels, padded_channels, rows, chunks; /* rows to a task, tasks to an image */
};

/* `count` destination pixels from j on, all of whose taps in [first, end) lie inside the image. */
INLINE void correlate_pixels(const struct depthwise *d, const int count, const struct tap *tap, ptrdiff_t taps,
                             const real *src, ptrdiff_t src_row, ptrdiff_t src_step, ptrdiff_t channel,
                             ptrdiff_t lanes, real *dst, const real *residual) {
    const struct correlation *c = d->c;
    vec sum[PIXELS];
    UNROLL for (int m = 0; m < count; m++) sum[m] = load(d->bias + channel);
    for (ptrdiff_t t = 0; t < taps; t++) {
        const real *x = src + tap[t].y * src_row + tap[t].x * d->channels;
        vec weight = load(d->packed + tap[t].index * d->padded_channels + channel);
        if (lanes == LANES) {
            UNROLL for (int m = 0; m < count; m++) sum[m] += load(x + m * src_step) * weight;
        } else {
            UNROLL for (int m = 0; m < count; m++) sum[m] += load_first(x + m * src_step, lanes) * weight;
        }
    }
    UNROLL for (int m = 0; m < count; m++) {
        if (residual) sum[m] += load_first(residual + m * c->dst_column, lanes);
        if (c->epilogue.relu) sum[m] = choose(sum[m] < 0, (vec){0}, sum[m]);
        if (lanes == LANES) store(dst + m * c->dst_column, sum[m]);
        else store_first(dst + m * c->dst_column, sum[m], lanes);
    }
}

static void interior_pixels(const struct depthwise *d, ptrdiff_t count, const struct tap *tap, ptrdiff_t taps,
                            const real *src, ptrdiff_t src_row, ptrdiff_t src_step, ptrdiff_t channel,
                            ptrdiff_t lanes, real *dst, const real *residual) {
    ptrdiff_t dst_step = d->c->dst_column;
    for (; count >= PIXELS; count -= PIXELS, src += PIXELS * src_step, dst += PIXELS * dst_step) {
        correlate_pixels(d, PIXELS, tap, taps, src, src_row, src_step, channel, lanes, dst, residual);
        if (residual) residual += PIXELS * dst_step;
    }
    for (; count > 0; count--, src += src_step, dst += dst_step) {
        correlate_pixels(d, 1, tap, taps, src, src_row, src_step, channel, lanes, dst, residual);
        if (residual) residual += dst_step;
    }
}

/* A pixel at the left or right border: the taps whose column lies inside, one at a time. */
static void border_pixel(const struct depthwise *d, const struct tap *tap, ptrdiff_t taps, ptrdiff_t column,
                         const real *src, ptrdiff_t src_row, ptrdiff_t channel, ptrdiff_t lanes, real *dst,
                         const real *residual) {
    const struct correlation *c = d->c;
    vec sum = load(d->bias + channel);
    for (ptrdiff_t t = 0; t < taps; t++) {
        ptrdiff_t x = column + tap[t].x;
        if (x < 0 || x >= c->src_width) continue;
        vec weight = load(d->packed + tap[t].index * d->padded_channels + channel);
        sum += load_first(src + tap[t].y * src_row + x * d->channels, lanes) * weight;
    }
    if (residual) sum += load_first(residual, lanes);
    if (c->epilogue.relu) sum = choose(sum < 0, (vec){0}, sum);
    store_first(dst, sum, lanes);
}

static void run_depthwise(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct depthwise *d = context;
    const struct correlation *c = d->c;
    ptrdiff_t image = task / d->chunks, begin = task % d->chunks * d->rows;
    ptrdiff_t end = min_size(begin + d->rows, c->dst_height), src_row = c->src_width * d->channels;
    const real *src = c->src + image * c->src_height * src_row;
    /* the columns [left, right) whose taps all lie inside */
    ptrdiff_t left = min_size(ceil_div(max_size(-c->x_min, 0), c->step_width), c->dst_width);
    ptrdiff_t room = c->src_width - 1 - c->x_max;
    ptrdiff_t right = room < 0 ? left : max_size(min_size(room / c->step_width + 1, c->dst_width), left);
    for (ptrdiff_t i = begin; i < end; i++) {
        ptrdiff_t first = 0, last = c->taps, y = i * c->step_height;
        while (first < last && y + c->tap[first].y < 0) first++;
        while (last > first && y + c->tap[last - 1].y >= c->src_height) last--;
        const struct tap *tap = c->tap + first;
        for (ptrdiff_t channel = 0; channel < d->channels; channel += LANES) {
            ptrdiff_t lanes = min_size(LANES, d->channels - channel);
            ptrdiff_t offset = image * c->dst_image + i * c->dst_row + channel;
            const real *from = src + y * src_row + channel, *residual = c->epilogue.residual;
            if (residual) residual += offset;
            for (ptrdiff_t j = 0; j < c->dst_width; j++) {
                if (j == left && right > left) {
                    interior_pixels(d, right - left, tap, last - first, from + j * c->step_width * d->channels, src_row,
                                    c->step_width * d->channels, channel, lanes, c->dst + offset + j * c->dst_column,
                                    residual ? residual + j * c->dst_column : NULL);
                    j = right;
                    if (j == c->dst_width) break;
                }
                border_pixel(d, tap, last - first, j * c->step_width, from, src_row, channel, lanes,
                             c->dst + offset + j * c->dst_column, residual ? residual + j * c->dst_column : NULL);
            }
        }
    }
}

int VARIANT(correlate_depthwise)(const struct correlation *c) {
    if (!c->batch || !c->dst_height || !c->dst_width || !c->groups) return PYCONV_OK;
    struct depthwise d = {.c = c, .channels = c->groups, .padded_channels = ceil_div(c->groups, LANES) * LANES};
    ptrdiff_t area = 1;
    for (ptrdiff_t t = 0; t < c->taps; t++) area = max_size(area, c->tap[t].index + 1);
    size_t bytes = (size_t)((area + 1) * d.padded_channels) * sizeof(real);
    real *packed = pyconv_alloc(bytes);
    if (!packed) return PYCONV_NO_MEMORY;
    memset(packed, 0, bytes);
    real *bias = packed + area * d.padded_channels;
    for (ptrdiff_t channel = 0; channel < d.channels; channel++) {
        for (ptrdiff_t t = 0; t < c->taps; t++)
            packed[c->tap[t].index * d.padded_channels + channel] =
                c->weight[channel * c->weight_group + c->tap[t].index];
        if (c->epilogue.bias) bias[channel] = ((const real *)c->epilogue.bias)[channel];
    }
    d.packed = packed, d.bias = bias;
    d.rows = max_size(ceil_div(c->dst_height, ceil_div(TASKS_WANTED, c->batch)), 1);
    d.chunks = ceil_div(c->dst_height, d.rows);
    double work = (double)(c->batch * c->dst_height * c->dst_width) * (double)(c->taps * c->groups + c->groups);
    int status = parallel_run(c->batch * d.chunks, work / LANES, 0, run_depthwise, &d);
    pyconv_free(packed, bytes);
    return status;
}

/* ---- Gradient of the weight: grad_weight[tap][c] = sum over pixels of input[place + tap][c] grad_output[c] ---- */

#define ROW_TAPS 5 /* taps of one kernel row that are summed together: 5 accumulators, one pass */

struct depthwise_weight {
    const struct pyconv_conv2d *g;
    const real *grad_output, *input;
    real *parts; /* [task][tap][channels] */
    ptrdiff_t rows, chunks;
};

/* sum[s] += input * grad_output over the output columns whose tap s0 + s lies inside the image */
INLINE void add_row(const struct pyconv_conv2d *g, const int count, const real *x, const real *gradient,
                    ptrdiff_t s0, ptrdiff_t lanes, vec *sum) {
    ptrdiff_t channels = g->in_channels, step = g->stride_width;
    ptrdiff_t first = s0 * g->dilation_width - g->pad_left, last = first + (count - 1) * g->dilation_width;
    ptrdiff_t left = min_size(ceil_div(max_size(-first, 0), step), g->out_width);
    ptrdiff_t room = g->in_width - 1 - last;
    ptrdiff_t right = room < 0 ? left : max_size(min_size(room / step + 1, g->out_width), left);
    for (ptrdiff_t q = 0; q < g->out_width; q++) {
        if (q == left)
            for (; q < right; q++) {
                const real *at = x + (q * step + first) * channels;
                vec grad = lanes == LANES ? load(gradient + q * channels) : load_first(gradient + q * channels, lanes);
                UNROLL for (int s = 0; s < count; s++) {
                    const real *from = at + s * g->dilation_width * channels;
                    sum[s] += (lanes == LANES ? load(from) : load_first(from, lanes)) * grad;
                }
            }
        if (q >= g->out_width) break;
        vec grad = load_first(gradient + q * channels, lanes);
        UNROLL for (int s = 0; s < count; s++) {
            ptrdiff_t column = q * step + first + s * g->dilation_width;
            if (column >= 0 && column < g->in_width) sum[s] += load_first(x + column * channels, lanes) * grad;
        }
    }
}

static void run_depthwise_weight(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct depthwise_weight *d = context;
    const struct pyconv_conv2d *g = d->g;
    ptrdiff_t channels = g->in_channels, area = g->kernel_height * g->kernel_width;
    ptrdiff_t image = task / d->chunks, begin = task % d->chunks * d->rows, end = min_size(begin + d->rows, g->out_height);
    real *part = d->parts + task * area * channels;
    for (ptrdiff_t channel = 0; channel < channels; channel += LANES) {
        ptrdiff_t lanes = min_size(LANES, channels - channel);
        for (ptrdiff_t r = 0; r < g->kernel_height; r++)
            for (ptrdiff_t s = 0; s < g->kernel_width;) {
                vec sum[ROW_TAPS] = {{0}};
                ptrdiff_t count = min_size(g->kernel_width - s, ROW_TAPS);
                if (count == 4) count = 3;
                if (count == 2) count = 1;
                for (ptrdiff_t p = begin; p < end; p++) {
                    ptrdiff_t y = p * g->stride_height + r * g->dilation_height - g->pad_top;
                    if (y < 0 || y >= g->in_height) continue;
                    const real *x = d->input + (image * g->in_height + y) * g->in_width * channels + channel;
                    const real *gradient = d->grad_output + (image * g->out_height + p) * g->out_width * channels + channel;
                    switch (count) {
                    case 5: add_row(g, 5, x, gradient, s, lanes, sum); break;
                    case 3: add_row(g, 3, x, gradient, s, lanes, sum); break;
                    default: add_row(g, 1, x, gradient, s, lanes, sum); break;
                    }
                }
                for (ptrdiff_t i = 0; i < count; i++, s++)
                    store_first(part + (r * g->kernel_width + s) * channels + channel, sum[i], lanes);
            }
    }
}

int VARIANT(grad_weight_depthwise)(const struct pyconv_conv2d *g, const real *grad_output, const real *input,
                                   real *grad_weight) {
    ptrdiff_t area = g->kernel_height * g->kernel_width, channels = g->in_channels, elements = area * channels;
    if (!elements) return PYCONV_OK;
    if (!g->batch || !g->out_height || !g->out_width) {
        memset(grad_weight, 0, (size_t)elements * sizeof(real));
        return PYCONV_OK;
    }
    struct depthwise_weight d = {.g = g, .grad_output = grad_output, .input = input};
    d.rows = max_size(ceil_div(g->out_height, ceil_div(TASKS_WANTED, g->batch)), 1);
    d.chunks = ceil_div(g->out_height, d.rows);
    ptrdiff_t tasks = g->batch * d.chunks;
    size_t bytes = (size_t)(tasks * elements + elements) * sizeof(real);
    if (!(d.parts = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    double work = (double)(g->batch * g->out_height * g->out_width) * (double)elements;
    int status = parallel_run(tasks, work / LANES, 0, run_depthwise_weight, &d);
    real *total = d.parts + tasks * elements;
    sum_parts(d.parts, tasks, elements, 0, elements, total);
    for (ptrdiff_t t = 0; t < area; t++)
        for (ptrdiff_t c = 0; c < channels; c++) grad_weight[c * area + t] = total[t * channels + c];
    pyconv_free(d.parts, bytes);
    return status;
}
