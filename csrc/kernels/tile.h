/* The two register tiles that all direct convolution is made of.
 *
 * tile_gather:  dst[m][v] = bias[v] + sum over j of x[m][j] * w[j][v]     m < pixels, v < vectors
 * tile_outer:   acc[m][v] += sum over p of x[p][m] * g[p][v]              m < rows,   v < vectors
 *
 * Register budget with 32 vector registers: 14 x 2 accumulators + 2 weights + 1 broadcast = 31;
 * with 16: 6 x 2 + 2 + 1 = 15. Each broadcast feeds two fused multiply-adds, so a step of 28 of them
 * (14 cycles at two a cycle) needs 16 of the 28 loads that the machine could do meanwhile.
 */
#ifndef PYCONV_TILE_H
#define PYCONV_TILE_H

#include "simd.h"

#if VECTOR_REGISTERS == 32
#define TILE 14
#else
#define TILE 6
#endif
#define BLOCK_VECTORS 2
#define BLOCK (BLOCK_VECTORS * LANES) /* channels in one block of packed weights */

/* A stretch of the reduction that is contiguous in the source: `length` elements from `offset` on. */
struct run {
    ptrdiff_t offset, length;
};

/* Where a tile's results go: sum + residual, then max(., 0), `last` lanes of the last vector. */
struct destination {
    real *dst;            /* pixel m's block of channels begins at dst + offset[m] */
    const real *residual; /* or NULL; the same offsets */
    const real *bias;     /* [BLOCK], what the sums begin with */
    int relu;
    ptrdiff_t last;
};

INLINE void tile_gather(const int pixels, const int vectors, const real *src, const ptrdiff_t *src_offset,
                        const struct run *run, ptrdiff_t runs, const real *w, const struct destination *to,
                        const ptrdiff_t *dst_offset) {
    vec sum[TILE][BLOCK_VECTORS];
    UNROLL for (int m = 0; m < pixels; m++)
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = load(to->bias + v * LANES);
    for (ptrdiff_t t = 0; t < runs; t++) {
        const real *p[TILE];
        UNROLL for (int m = 0; m < pixels; m++) p[m] = src + src_offset[m] + run[t].offset;
        ptrdiff_t length = run[t].length;
        for (ptrdiff_t j = 0; j < length; j++) {
            vec weight[BLOCK_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) weight[v] = load(w + v * LANES);
            w += BLOCK;
            UNROLL for (int m = 0; m < pixels; m++) {
                vec value = splat(p[m][j]);
                UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += value * weight[v];
            }
        }
    }
    if (to->residual)
        UNROLL for (int m = 0; m < pixels; m++)
            UNROLL for (int v = 0; v < vectors; v++) {
                const real *residual = to->residual + dst_offset[m] + v * LANES;
                sum[m][v] += v == vectors - 1 ? load_first(residual, to->last) : load(residual);
            }
    if (to->relu)
        UNROLL for (int m = 0; m < pixels; m++)
            UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = choose(sum[m][v] < 0, (vec){0}, sum[m][v]);
    UNROLL for (int m = 0; m < pixels; m++)
        UNROLL for (int v = 0; v < vectors; v++) {
            real *dst = to->dst + dst_offset[m] + v * LANES;
            if (v == vectors - 1 && to->last < LANES) store_first(dst, sum[m][v], to->last);
            else store(dst, sum[m][v]);
        }
}

/* count pixels, x_step and g_step elements apart */
struct segment {
    const real *x, *g;
    ptrdiff_t count;
};

INLINE void tile_outer(const int rows, const int vectors, const struct segment *segment, ptrdiff_t segments,
                       ptrdiff_t x_offset, ptrdiff_t x_step, ptrdiff_t g_step, real *acc) {
    vec sum[TILE][BLOCK_VECTORS];
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = load(acc + m * BLOCK + v * LANES);
    for (ptrdiff_t t = 0; t < segments; t++) {
        const real *x = segment[t].x + x_offset, *g = segment[t].g;
        for (ptrdiff_t count = segment[t].count; count > 0; count--) {
            vec gradient[BLOCK_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) gradient[v] = load(g + v * LANES);
            UNROLL for (int m = 0; m < rows; m++) {
                vec value = splat(x[m]);
                UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += value * gradient[v];
            }
            x += x_step;
            g += g_step;
        }
    }
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++) store(acc + m * BLOCK + v * LANES, sum[m][v]);
}

/* Call the tile of the constant size m that the variable `size` (1 to TILE) has. */
#if TILE == 14
#define DISPATCH_TILE(size, CALL)                                                                            \
    switch (size) {                                                                                          \
    case 1: CALL(1); break;                                                                                  \
    case 2: CALL(2); break;                                                                                  \
    case 3: CALL(3); break;                                                                                  \
    case 4: CALL(4); break;                                                                                  \
    case 5: CALL(5); break;                                                                                  \
    case 6: CALL(6); break;                                                                                  \
    case 7: CALL(7); break;                                                                                  \
    case 8: CALL(8); break;                                                                                  \
    case 9: CALL(9); break;                                                                                  \
    case 10: CALL(10); break;                                                                                \
    case 11: CALL(11); break;                                                                                \
    case 12: CALL(12); break;                                                                                \
    case 13: CALL(13); break;                                                                                \
    default: CALL(14); break;                                                                                \
    }
#else
#define DISPATCH_TILE(size, CALL)                                                                            \
    switch (size) {                                                                                          \
    case 1: CALL(1); break;                                                                                  \
    case 2: CALL(2); break;                                                                                  \
    case 3: CALL(3); break;                                                                                  \
    case 4: CALL(4); break;                                                                                  \
    case 5: CALL(5); break;                                                                                  \
    default: CALL(6); break;                                                                                 \
    }
#endif

#endif
