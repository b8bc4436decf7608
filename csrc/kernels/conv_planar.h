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

/* Whether lanes over pixels waste less than lanes over outputs, so much less that it pays for taking pixels
 * apart and putting them together. */
INLINE int is_planar(ptrdiff_t groups, ptrdiff_t step_width, ptrdiff_t taps, ptrdiff_t src, ptrdiff_t dst,
                     ptrdiff_t width) {
    ptrdiff_t filled = ceil_div(width, LANES) * LANES;
    return groups == 1 && step_width == 1 && src <= 4 * LANES && taps >= 4 && taps * src >= 8 &&
           dst < LANES && 10 * dst * filled <= 7 * LANES * width;
}

#endif
