/* Convolutions to few output channels: lanes run over the pixels of a row, so none is idle.
 *
 * The other kernels put output channels side by side, of which 6 would fill 6 of 16 lanes. Here pixels are
 * taken apart into planes, [row][channel][column], where a vector of neighbouring pixels is one load.
 */
#ifndef PYCONV_CONV_PLANAR_H
#define PYCONV_CONV_PLANAR_H

#include "correlation.h"
#include "simd.h"

/* A tile: so many outputs by so many vectors of pixels, 24 (or 12) sums in registers. */
#define PLANAR_CHANNELS 6
#define PLANAR_VECTORS (VECTOR_REGISTERS == 32 ? 4 : 2)

/* Elements of a plane's row for `width` columns: a vector that begins in any of them, and one more that a
 * transposition writes, stay within it. */
INLINE ptrdiff_t plane_pitch(ptrdiff_t width) { return ceil_div(width + LANES, LANES) * LANES + LANES; }

/* `pixels` pixels of `channels` channels, [pixel][channel], `pitch` apart, to planes `plane` elements apart:
 * LANES of either at a time, transposed. Up to LANES - 1 elements beyond a plane's pixels are written. */
INLINE void split_planes(const real *from, ptrdiff_t pixels, ptrdiff_t channels, ptrdiff_t pitch, real *to,
                         ptrdiff_t plane) {
    if (channels == 1 && pitch == 1) {
        copy_elements(from, pixels, to);
        return;
    }
    for (ptrdiff_t p = 0; p < pixels; p += LANES)
        for (ptrdiff_t c = 0; c < channels; c += LANES) {
            ptrdiff_t count = min_size(LANES, channels - c);
            vec row[LANES];
            for (ptrdiff_t l = 0; l < LANES; l++)
                row[l] = p + l < pixels ? load_first(from + (p + l) * pitch + c, count) : (vec){0};
            transpose_lanes(row);
            for (ptrdiff_t l = 0; l < count; l++) store(to + (c + l) * plane + p, row[l]);
        }
}

/* The source rows that destination rows [first, end) of an image read, as planes, with their padding:
 * [row][channel][plane] */
INLINE void split_source(const struct correlation *c, ptrdiff_t image, ptrdiff_t first, ptrdiff_t end,
                         ptrdiff_t width, ptrdiff_t plane, real *to) {
    ptrdiff_t channels = c->src_channels;
    struct overlap o = overlap_columns(c->x_min, width, c->src_width);
    ptrdiff_t y0 = first * c->step_height + c->y_min, y1 = (end - 1) * c->step_height + c->y_max;
    for (ptrdiff_t y = y0; y <= y1; y++, to += channels * plane) {
        memset(to, 0, (size_t)(channels * plane) * sizeof(real));
        if (y < 0 || y >= c->src_height || !o.count) continue;
        const real *src = c->src + ((image * c->src_height + y) * c->src_width + o.from) * channels;
        split_planes(src, o.count, channels, channels, to + o.left, plane);
        ptrdiff_t end_column = o.left + o.count;
        for (ptrdiff_t i = 0; i < channels; i++) /* what the last transposition wrote beyond the columns */
            memset(to + i * plane + end_column, 0, (size_t)(plane - end_column) * sizeof(real));
    }
}

/* Whether lanes over pixels waste less than lanes over outputs, so much less that it pays for taking pixels
 * apart and putting them together. */
INLINE int is_planar(ptrdiff_t groups, ptrdiff_t step_width, ptrdiff_t taps, ptrdiff_t src, ptrdiff_t dst,
                     ptrdiff_t width) {
    ptrdiff_t filled = ceil_div(width, LANES) * LANES;
    return groups == 1 && step_width == 1 && src <= 4 * LANES && taps >= 4 && taps * src >= 8 &&
           dst < LANES && 10 * dst * filled <= 7 * LANES * width;
}

#endif
