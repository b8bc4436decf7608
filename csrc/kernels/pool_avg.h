/* What both passes of average pooling share. */
#ifndef PYCONV_POOL_AVG_H
#define PYCONV_POOL_AVG_H

#include "pyconv.h"
#include "simd.h"

/* x / d, d being a power of two in most networks */
struct divisor {
    real value, reciprocal;
    int exact;
};

INLINE struct divisor divide_by(ptrdiff_t vertical, ptrdiff_t horizontal) {
    ptrdiff_t product = vertical * horizontal, size = product < 0 ? -product : product;
    return (struct divisor){(real)product, 1 / (real)product, (size & (size - 1)) == 0 && size > 0};
}
INLINE vec divide(vec x, struct divisor d) { return d.exact ? x * d.reciprocal : x / d.value; }

int VARIANT(avg_pool_backward)(const struct pyconv_pool *pool, const void *grad_output, void *grad_input);

#endif
