/* Convolutions to few output channels from many: which of them conv_dot.c does. */
#ifndef PYCONV_CONV_DOT_H
#define PYCONV_CONV_DOT_H

#include "simd.h"
#include "tile.h"

/* A tile's outputs: with as many pixels 12, or 24, sums in registers. */
#define DOT_OUTPUTS (VECTOR_REGISTERS == 32 ? 4 : 3)
#define MOST_DOT_DILATION 4 /* of rows, between which all are kept */
#define DOT_VECTORS 16      /* to a pixel's sum: fewer are worth it for one tile's outputs only */

/* Vectors of a kernel of `rows` x `length` taps, whose rows are runs: each ends with what is left of them. */
INLINE ptrdiff_t dot_vectors(ptrdiff_t rows, ptrdiff_t length, ptrdiff_t src) {
    return rows * ceil_div(length * src, LANES);
}

/* Whether lanes over what is summed are idle less than lanes over outputs, or, with so few of these, than
 * lanes over pixels wait. */
INLINE int is_dot(ptrdiff_t groups, ptrdiff_t rows, ptrdiff_t length, ptrdiff_t dilation_height,
                  ptrdiff_t src, ptrdiff_t dst) {
    ptrdiff_t vectors = dot_vectors(rows, length, src);
    return groups == 1 && dilation_height <= MOST_DOT_DILATION && rows * length > 1 &&
           length * src <= CHUNK * LANES && 3 * vectors * LANES <= 4 * rows * length * src &&
           4 * dst <= 3 * LANES && (dst <= DOT_OUTPUTS || vectors >= DOT_VECTORS);
}

#endif
