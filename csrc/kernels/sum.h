/* The sum of elements that lie side by side. */
#ifndef PYCONV_SUM_H
#define PYCONV_SUM_H

#include "simd.h"

#define SUM_BLOCK                                                                                            \
    ((ptrdiff_t)(256 * LANES)) /* whose rounding stays small with 64 additions to each of four */

INLINE real sum_block(const real *x, ptrdiff_t n) {
    vec sums[4] = {{0}};
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int v = 0; v < 4; v++) sums[v] += load(x + i + v * LANES);
    for (; i + LANES <= n; i += LANES) sums[0] += load(x + i);
    if (i < n) sums[1] += load_first(x + i, n - i);
    return sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

INLINE double sum_elements(const real *x, ptrdiff_t n) {
    double total = 0;
    for (ptrdiff_t i = 0; i < n; i += SUM_BLOCK)
        total += (double)sum_block(x + i, min_size(SUM_BLOCK, n - i));
    return total;
}

#endif
