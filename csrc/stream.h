/* Results that are written past the caches.
 *
 * A store to a line that no cache holds reads the line first, and evicts another one. For a result that no
 * cache can hold until it is read, both are in vain: a streamed store writes whole lines to memory. Measured
 * on Zen 3 (32 MiB of L3, two cores), y = max(x, 0), and the same followed by a reader of y:
 *
 *     arrays of 4 MiB      0.8 to 1     0.5 to 0.7    times as fast streamed
 *               8 MiB      1.1 to 1.3   1.0
 *               16 MiB     1.6 to 1.9   1.4 to 1.5
 *               64 MiB     1.6          1.5
 *
 * but over and over on the same 12 MiB, which L3 holds, 0.65. So results are streamed where all arrays of the
 * pass, what it reads twice counted twice, have more bytes than L3: gradients of activations are 1.2 to 1.5
 * times as fast then, batch norm 1.2 to 1.4. A result that is written in its operand's place has been read
 * already, and its lines are there.
 */
#ifndef PYCONV_STREAM_H
#define PYCONV_STREAM_H

#include "pyconv.h"
#include "simd.h"

/* Whether to stream a result of `elements` elements, of a pass over `arrays` arrays of that size. The
 * operands may be NULL. */
INLINE int is_streamed(const real *result, ptrdiff_t elements, int arrays, const real *operand,
                       const real *other) {
    const double bytes = (double)arrays * (double)elements * sizeof(real);
    return CAN_STREAM && bytes > (double)pyconv_cache_bytes() && result != operand && result != other;
}

/* Only whole vectors at their own addresses can be streamed. */
INLINE int is_aligned(const real *p) { return (size_t)p % VECTOR_BYTES == 0; }

INLINE void put(real *p, vec v, const int streamed) {
    if (streamed)
        store_streamed(p, v);
    else
        store(p, v);
}

#endif
