/* What the convolution files of one variant share. */
#ifndef PYCONV_CONV_H
#define PYCONV_CONV_H

#include "pyconv.h"
#include "simd.h"

struct correlation;

/* conv_direct.c: dst of a correlation with any geometry. */
int VARIANT(correlate_direct)(const struct correlation *);
/* conv_direct_weight.c */
int VARIANT(grad_weight_direct)(const struct pyconv_conv2d *, const real *grad_output, const real *input,
                                real *grad_weight);
/* conv_depthwise.c: one input and one output channel to a group. */
int VARIANT(correlate_depthwise)(const struct correlation *);
int VARIANT(grad_weight_depthwise)(const struct pyconv_conv2d *, const real *grad_output, const real *input,
                                   real *grad_weight);

/* conv_winograd.c: 3x3 or 5x5 taps, dense, step 1, one group. */
int VARIANT(correlate_winograd)(const struct correlation *);

/* A core's arithmetic, for deciding how many threads a call is worth: multiply-adds to nanoseconds. */
#define MULTIPLY_ADDS_PER_NANOSECOND (LANES * 3.0)

/* sum over `parts` of parts[p][i], in ascending p: the fixed order that makes results reproducible. */
INLINE void sum_parts(const real *parts, ptrdiff_t count, ptrdiff_t pitch, ptrdiff_t begin, ptrdiff_t end,
                      real *total) {
    ptrdiff_t i = begin;
    for (; i + 4 * LANES <= end; i += 4 * LANES) {
        vec sum[4];
        UNROLL for (int v = 0; v < 4; v++) sum[v] = load(parts + i + v * LANES);
        for (ptrdiff_t p = 1; p < count; p++)
            UNROLL for (int v = 0; v < 4; v++) sum[v] += load(parts + p * pitch + i + v * LANES);
        UNROLL for (int v = 0; v < 4; v++) store(total + i + v * LANES, sum[v]);
    }
    for (; i < end; i += LANES) {
        ptrdiff_t lanes = min_size(LANES, end - i);
        vec sum = load_first(parts + i, lanes);
        for (ptrdiff_t p = 1; p < count; p++) sum += load_first(parts + p * pitch + i, lanes);
        store_first(total + i, sum, lanes);
    }
}

#endif
