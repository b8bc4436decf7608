/* NaN, infinity and overflow, which reach more results than they should where an algorithm multiplies what a
 * result does not see by 0, or transforms several pixels together.
 *
 * All results are looked at on their way out, before an epilogue can hide them: one multiply-add each, with
 * x * 0. Where one is not finite the pass returns PYCONV_NOT_FINITE, and is done again in a way that keeps
 * pixels apart.
 */
#ifndef PYCONV_FINITE_H
#define PYCONV_FINITE_H

#include <stdatomic.h>

#include "pyconv.h"
#include "simd.h"

struct finite {
    atomic_int no;
};
#define ALL_FINITE ((struct finite){0})

/* check: NaN in the lanes where an x was not finite */
INLINE void check_finite(vec *check, vec x) { *check += x * 0; }

INLINE void note_finite(struct finite *finite, vec check) {
    if (sum_lanes(check) != 0) atomic_store_explicit(&finite->no, 1, memory_order_relaxed);
}

INLINE int status_of(struct finite *finite, int status) {
    int no = atomic_load_explicit(&finite->no, memory_order_relaxed);
    return status == PYCONV_OK && no ? PYCONV_NOT_FINITE : status;
}

#endif
