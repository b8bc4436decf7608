/* What maximum pooling of many channels (pool_max.c) and of one (pool_max_planes.c) share. */
#ifndef PYCONV_POOL_MAX_H
#define PYCONV_POOL_MAX_H

#include "pool.h"

#include <math.h>

typedef int64_t wide_vec __attribute__((vector_size(LANES * 8)));
typedef uint8_t byte_vec __attribute__((vector_size(LANES)));

struct max_pool {
    struct pyconv_pool pool;
    struct pool_axes axes;
    struct pool_cut cut;
    enum pyconv_pool_index form;
    const real *input;
    real *output;
    void *indices;
};

/* ---- The best of a window so far, and where it was ---- */

struct best {
    vec value;
    ivec at;
};

INLINE struct best better(struct best best, vec x, integer at) {
    ivec take = (x > best.value) | (x != x);
    return (struct best){choose(take, x, best.value), (take & (at - (ivec){0})) | (~take & best.at)};
}

/* Store the first n < LANES bytes. */
INLINE void store_first_bytes(uint8_t *p, byte_vec bytes, ptrdiff_t n) {
    const uint8_t *from = (const uint8_t *)&bytes;
    for (ptrdiff_t size = LANES / 2, at = 0; size; size /= 2) /* unrolled: copies of known sizes */
        if (n & size) {
            memcpy(p + at, from + at, (size_t)size);
            at += size;
        }
}

/* Store base + at for the lanes before n <= LANES. */
INLINE void store_index(enum pyconv_pool_index form, void *indices, ptrdiff_t i, int64_t base, ivec at,
                        ptrdiff_t n) {
    if (form == PYCONV_PLANE_INDEX) {
        wide_vec wide = __builtin_convertvector(at, wide_vec) + base;
        if (n == LANES)
            memcpy((int64_t *)indices + i, &wide, sizeof wide);
        else
            memcpy((int64_t *)indices + i, &wide, (size_t)n * 8);
    } else if (form == PYCONV_TAP_INDEX) {
        byte_vec bytes = __builtin_convertvector(at + (integer)base, byte_vec);
        if (n == LANES)
            memcpy((uint8_t *)indices + i, &bytes, LANES);
        else
            store_first_bytes((uint8_t *)indices + i, bytes, n);
    }
}

/* How the taps of one window lie in memory, and how their index grows. */
struct taps {
    ptrdiff_t rows, columns, row_stride, column_stride;
    integer row_index, column_index;
    int64_t base; /* the index of the first tap */
    real floor;   /* the least maximum, and how far from `base` its index is */
    integer floor_index;
};

INLINE struct best nothing(struct taps taps) {
    return (struct best){splat(taps.floor), taps.floor_index - (ivec){0}};
}

INLINE struct taps window_taps(const struct max_pool *job, const struct window *row,
                               const struct window *column) {
    const struct pyconv_pool *pool = &job->pool;
    ptrdiff_t down = job->axes.row.dilation, right = job->axes.column.dilation;
    struct taps taps = {.rows = row->taps,
                        .columns = column->taps,
                        .row_stride = down * pool->width * pool->channels,
                        .column_stride = right * pool->channels,
                        .floor = pool->relu ? 0 : (real)-INFINITY};
    if (job->form == PYCONV_TAP_INDEX) {
        taps.row_index = (integer)pool->kernel[1];
        taps.column_index = 1;
        taps.base = row->first_tap * pool->kernel[1] + column->first_tap;
    } else {
        taps.row_index = (integer)(down * pool->width);
        taps.column_index = (integer)right;
        taps.base = row->begin * pool->width + column->begin;
    }
    if (pool->relu) taps.floor_index = (integer)(PYCONV_NO_TAP - taps.base);
    return taps;
}

/* The largest windows' vectors at a time: 8 registers of 16, and comparisons of several overlap. */
#define BLOCK 4

/* The forward pass of one channel; `cost` in nanoseconds. */
int VARIANT(max_pool_planes)(const struct max_pool *job, double cost);

#endif
