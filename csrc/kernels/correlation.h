/* A correlation: the one shape of work behind every pass that makes an image out of an image.
 *
 *     dst[n, i, j, k] = sum over taps t and channels c of
 *                       src[n, i * step_height + tap[t].y, j * step_width + tap[t].x, c] * weight[t, c, k]
 *
 * with zero wherever the source index lies outside the image. A convolution's forward pass is one of
 * them; the gradient of its input is one per residue of the stride (a stride of 2 in both directions
 * makes four, each dense and with a quarter of the taps), whose destination pixels lie `stride` apart.
 */
#ifndef PYCONV_CORRELATION_H
#define PYCONV_CORRELATION_H

#include "pyconv.h"
#include "simd.h"

struct tap {
    ptrdiff_t y, x;  /* where it reads, relative to the destination pixel's place in the source */
    ptrdiff_t index; /* r * kernel_width + s, its place in the weight */
};

struct correlation {
    ptrdiff_t batch, groups;
    /* src and dst are [batch][channel][row][column], of a dense correlation, and dst_row, dst_column mean
     * nothing; or pixels of channels: */
    int planes;
    const real *src;                               /* [batch][src_height][src_width][groups * src_channels] */
    ptrdiff_t src_height, src_width, src_channels; /* src_channels, dst_channels: of one group */
    ptrdiff_t src_column;                          /* elements from a pixel of src to the next */
    real *dst; /* pixel (n, i, j) begins at dst + n * dst_image + i * dst_row + j * dst_column */
    ptrdiff_t dst_height, dst_width, dst_channels;
    ptrdiff_t dst_image, dst_row, dst_column;
    ptrdiff_t step_height, step_width;
    int spread; /* 2: of an input's whole gradient, for a stride of 2; taps and minima are in its pixels */
    ptrdiff_t dilation_height, dilation_width; /* from one tap to the next, where steps are 1 */
    ptrdiff_t taps;
    const struct tap *tap;                /* in ascending (y, x) order */
    ptrdiff_t y_min, y_max, x_min, x_max; /* over the taps */
    /* Of planes: dst_channels are so many parts of as many channels, which use the same weights but for their
     * taps, of which part p's begin with tap[part[p]]. 0: there is one part. */
    ptrdiff_t parts;
    const ptrdiff_t *part;
    /* weight[k * weight_dst + c * weight_src + tap.index + group * weight_group] */
    const real *weight;
    const real *prepared; /* the same as the algorithm reads it, or NULL */
    /* So many images share a prepared weight; that of the next ones lies prepared_pitch further. 0: all do.
     */
    ptrdiff_t images_each, prepared_pitch;
    ptrdiff_t weight_dst, weight_src, weight_group;
    struct pyconv_epilogue epilogue;
};

/* Taps of the whole kernel: of which a residue of the stride may have few. */
INLINE ptrdiff_t weight_area(const struct correlation *c) { return min_size(c->weight_dst, c->weight_src); }

/* Of the input's gradient, the filters of a channel lie side by side, and those of the next channel so far
 * away that nothing but a fetch of their own brings them in time: with `count` filters at `from` read now,
 * fetch what is read two channels later. (512 x 512 filters are transformed in half of the time.) */
INLINE void fetch_filters(const struct correlation *c, const real *from, ptrdiff_t count) {
    if (c->weight_dst > c->weight_src) return;
    const real *later = from + 2 * c->weight_src;
    for (ptrdiff_t e = 0; e < count * c->weight_dst + LINE; e += LINE) __builtin_prefetch(later + e);
}

INLINE ptrdiff_t kernel_height(const struct correlation *c) {
    return (c->y_max - c->y_min) / c->dilation_height + 1;
}

INLINE ptrdiff_t kernel_width(const struct correlation *c) {
    return (c->x_max - c->x_min) / c->dilation_width + 1;
}

/* How many taps from t on lie side by side in the source. */
INLINE ptrdiff_t run_length(const struct correlation *c, ptrdiff_t t) {
    ptrdiff_t end = t + 1;
    while (end < c->taps && c->tap[end].y == c->tap[t].y && c->tap[end].x == c->tap[t].x + end - t) end++;
    return end - t;
}

/* Of `width` columns from x on, which may lie outside of a row of `all`: first `left` that are outside, then
 * `count` from column `from` on, then the rest, outside again. */
struct overlap {
    ptrdiff_t left, from, count;
};

INLINE struct overlap overlap_columns(ptrdiff_t x, ptrdiff_t width, ptrdiff_t all) {
    struct overlap o = {.left = min_size(max_size(-x, 0), width), .from = max_size(x, 0)};
    o.count = max_size(min_size(all - o.from, width - o.left), 0);
    return o;
}

/* `channels` of each of `pixels` pixels. */
INLINE void copy_pixels(const real *from, ptrdiff_t from_pitch, ptrdiff_t pixels, ptrdiff_t channels,
                        real *to, ptrdiff_t to_pitch) {
    if (from_pitch == channels && to_pitch == channels) channels *= pixels, pixels = 1;
    for (ptrdiff_t p = 0; p < pixels; p++) copy_elements(from + p * from_pitch, channels, to + p * to_pitch);
}

/* An image's destination rows, cut into bands: one task each, whose source rows of `row_bytes` fit `bytes`,
 * and enough of them for 16 threads to share evenly, but no band so low that most of its source rows are its
 * neighbours' as well. */
struct bands {
    ptrdiff_t count, source_rows; /* of the largest */
};

INLINE struct bands cut_bands(const struct correlation *c, ptrdiff_t row_bytes, ptrdiff_t bytes) {
    ptrdiff_t reach = c->y_max - c->y_min + 1, fit = (bytes / row_bytes - reach) / c->step_height + 1;
    ptrdiff_t even =
        max_size(ceil_div(c->dst_height, ceil_div(64, c->batch)), ceil_div(reach, c->step_height));
    struct bands b = {.count = ceil_div(c->dst_height, max_size(min_size(fit, even), 1))};
    b.source_rows = (ceil_div(c->dst_height, b.count) - 1) * c->step_height + reach;
    return b;
}

/* Room for the taps of a kernel; pyconv_free gives the bytes back. */
INLINE struct tap *alloc_taps(const struct pyconv_conv2d *g, size_t *bytes) {
    *bytes = (size_t)(g->kernel_height * g->kernel_width) * sizeof(struct tap);
    return pyconv_alloc(*bytes);
}

/* The forward pass as a correlation; `tap` has room for kernel_height * kernel_width. epilogue: NULL, where
 * nothing is done. */
INLINE struct correlation forward_correlation(const struct pyconv_conv2d *g, const void *input,
                                              const void *weight, const struct pyconv_epilogue *epilogue,
                                              void *output, struct tap *tap) {
    ptrdiff_t area = g->kernel_height * g->kernel_width, channels = g->in_channels / g->groups;
    for (ptrdiff_t r = 0, t = 0; r < g->kernel_height; r++)
        for (ptrdiff_t s = 0; s < g->kernel_width; s++, t++)
            tap[t] =
                (struct tap){r * g->dilation_height - g->pad_top, s * g->dilation_width - g->pad_left, t};
    return (struct correlation){
        .batch = g->batch,
        .groups = g->groups,
        .planes = g->planes,
        .src = input,
        .src_height = g->in_height,
        .src_width = g->in_width,
        .src_channels = channels,
        .src_column = g->in_channels,
        .dst = output,
        .dst_height = g->out_height,
        .dst_width = g->out_width,
        .dst_channels = g->out_channels / g->groups,
        .dst_image = g->out_height * g->out_width * g->out_channels,
        .dst_row = g->out_width * g->out_channels,
        .dst_column = g->out_channels,
        .step_height = g->stride_height,
        .step_width = g->stride_width,
        .dilation_height = g->dilation_height,
        .dilation_width = g->dilation_width,
        .taps = area,
        .tap = tap,
        .y_min = tap[0].y,
        .y_max = tap[area - 1].y,
        .x_min = tap[0].x,
        .x_max = tap[area - 1].x,
        .weight = weight,
        .weight_dst = channels * area,
        .weight_src = area,
        .weight_group = g->out_channels / g->groups * channels * area,
        .epilogue = epilogue ? *epilogue : (struct pyconv_epilogue){0},
    };
}

/* The gradient of the input at the rows congruent to row, and columns to column, modulo the stride:
 * input row y = row + stride * i was read by output row (y + pad - r * dilation) / stride, for the r
 * that divide. Taps may be 0 in number: then the gradient there is zero. */
INLINE struct correlation grad_input_correlation(const struct pyconv_conv2d *g, ptrdiff_t row,
                                                 ptrdiff_t column, const void *grad_output,
                                                 const void *weight, void *grad_input, struct tap *tap) {
    ptrdiff_t area = g->kernel_height * g->kernel_width, channels = g->in_channels / g->groups;
    ptrdiff_t filters = g->out_channels / g->groups, taps = 0;
    struct correlation c = {
        .y_min = PTRDIFF_MAX, .x_min = PTRDIFF_MAX, .y_max = PTRDIFF_MIN, .x_max = PTRDIFF_MIN};
    for (ptrdiff_t r = g->kernel_height - 1; r >= 0; r--) {
        ptrdiff_t y = row + g->pad_top - r * g->dilation_height;
        if (y % g->stride_height) continue;
        y /= g->stride_height;
        for (ptrdiff_t s = g->kernel_width - 1; s >= 0; s--) {
            ptrdiff_t x = column + g->pad_left - s * g->dilation_width;
            if (x % g->stride_width) continue;
            x /= g->stride_width;
            tap[taps++] = (struct tap){y, x, r * g->kernel_width + s};
            c.y_min = min_size(c.y_min, y), c.y_max = max_size(c.y_max, y);
            c.x_min = min_size(c.x_min, x), c.x_max = max_size(c.x_max, x);
        }
    }
    c.batch = g->batch, c.groups = g->groups, c.planes = g->planes;
    c.src = grad_output, c.src_height = g->out_height, c.src_width = g->out_width;
    c.src_channels = filters, c.src_column = g->out_channels;
    c.dst = (real *)grad_input + (row * g->in_width + column) * g->in_channels;
    c.dst_height = row < g->in_height ? (g->in_height - row - 1) / g->stride_height + 1 : 0;
    c.dst_width = column < g->in_width ? (g->in_width - column - 1) / g->stride_width + 1 : 0;
    c.dst_channels = channels;
    c.dst_image = g->in_height * g->in_width * g->in_channels;
    c.dst_row = g->stride_height * g->in_width * g->in_channels;
    c.dst_column = g->stride_width * g->in_channels;
    c.step_height = 1, c.step_width = 1;
    c.dilation_height = g->dilation_height, c.dilation_width = g->dilation_width;
    c.taps = taps, c.tap = tap;
    c.weight = weight, c.weight_dst = area, c.weight_src = channels * area,
    c.weight_group = filters * channels * area;
    return c;
}

/* The same at all rows and columns at once, for a stride of 2 in both directions: the correlation of a stride
 * of 1, but input row y was read by output row (y + tap.y) / 2 where that is whole. */
INLINE struct correlation spread_correlation(const struct pyconv_conv2d *g, const void *grad_output,
                                             const void *weight, void *grad_input, struct tap *tap) {
    struct pyconv_conv2d dense = *g;
    dense.stride_height = dense.stride_width = 1;
    struct correlation c = grad_input_correlation(&dense, 0, 0, grad_output, weight, grad_input, tap);
    c.spread = 2;
    return c;
}

/* One of the groups by itself. Addresses that are NULL stay so. */
INLINE struct correlation group_of(const struct correlation *c, ptrdiff_t group) {
    struct correlation one = *c;
    ptrdiff_t from = group * c->src_channels, to = group * c->dst_channels;
    ptrdiff_t dst = c->planes ? to * c->dst_height * c->dst_width : to;
    const real *bias = c->epilogue.bias, *residual = c->epilogue.residual;
    one.groups = 1;
    if (c->src) one.src += c->planes ? from * c->src_height * c->src_width : from;
    if (c->dst) one.dst += dst;
    if (c->weight) one.weight += group * c->weight_group;
    if (bias) one.epilogue.bias = bias + to;
    if (residual) one.epilogue.residual = residual + dst;
    return one;
}

/* Store `lanes` channels of one output, whose bias is added already: + residual, max(., 0). (conv_planar.c,
 * conv_shallow.c and tile.h have their own: sums are so short there that asking for the residual with each
 * vector costs 3 to 9 %.) */
INLINE void store_output(const struct correlation *c, real *to, ptrdiff_t lanes, vec value) {
    const real *residual = c->epilogue.residual;
    if (residual) value += load_first(residual + (to - c->dst), lanes);
    if (c->epilogue.relu) value = choose(value < 0, (vec){0}, value);
    store_some(to, value, lanes);
}

#endif
