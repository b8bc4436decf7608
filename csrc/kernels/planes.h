/* An image's rows taken apart into planes, [row][channel][column], where pixels lie side by side: for kernels
 * whose lanes run over pixels, and for those of so few channels that a pixel's are no run to loop over.
 */
#ifndef PYCONV_PLANES_H
#define PYCONV_PLANES_H

#include "correlation.h"
#include "simd.h"

/* Elements of a plane's row for `width` columns: a vector that begins in any of them, and one more that a
 * transposition writes, stay within it. */
INLINE ptrdiff_t plane_pitch(ptrdiff_t width) { return ceil_div(width + LANES, LANES) * LANES + LANES; }

#define FEW_CHANNELS 4

/* Pixels that lie side by side, of so few channels that GCC finds the permutations: 16 of three channels take
 * some 20 cycles, and 140 otherwise. */
INLINE void split_few(const int channels, const real *restrict from, ptrdiff_t pixels, real *restrict to,
                      ptrdiff_t plane) {
    for (ptrdiff_t p = 0; p < pixels; p++)
        for (int c = 0; c < channels; c++) to[c * plane + p] = from[p * channels + c];
}

/* `pixels` pixels of `channels` channels, [pixel][channel], `pitch` apart, to planes `plane` elements apart:
 * LANES of either at a time, transposed. Up to LANES - 1 elements beyond a plane's pixels are written. */
INLINE void split_planes(const real *from, ptrdiff_t pixels, ptrdiff_t channels, ptrdiff_t pitch, real *to,
                         ptrdiff_t plane) {
    if (channels == 1 && pitch == 1) {
        copy_elements(from, pixels, to);
        return;
    }
    if (pitch == channels && channels <= FEW_CHANNELS) {
        if (channels == 2) split_few(2, from, pixels, to, plane);
        if (channels == 3) split_few(3, from, pixels, to, plane);
        if (channels == 4) split_few(4, from, pixels, to, plane);
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

#endif
