/* The three register tiles that all direct convolution is made of.
 *
 * tile_gather:  dst[m][v] = bias[v] + sum over j of x[m][j] * w[j][v]      m < pixels, v < vectors
 * tile_product: out[m][v] = sum over j of x[m][j] * w[j][v]                m < rows,   v < vectors
 * tile_outer:   acc[m][v] += sum over p of x[p][m] * g[p][v]                m < rows,   v < vectors
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

/* A stretch of the reduction that is contiguous in the source: `length` elements from `offset` on. Sums
 * of CHUNK elements are made by themselves and then added (`last`: a chunk ends with this run), so that
 * the rounding error of long sums grows with the root of CHUNK rather than of their length: relative RMS
 * 2e-7 instead of 6e-7 for 3x3 kernels on 128 channels. */
#define CHUNK ((ptrdiff_t)128)
struct run {
    ptrdiff_t offset, length;
    int last;
};

/* Packed weights are prefetched this many rows (8 KiB) ahead: where they come from L3, it is worth 20 %. */
#define AHEAD 64

/* Cut runs that are longer than CHUNK, and mark where chunks end. `from` and `to` may not overlap. */
INLINE ptrdiff_t cut_runs(const struct run *from, ptrdiff_t runs, struct run *to) {
    ptrdiff_t count = 0, summed = 0;
    for (ptrdiff_t t = 0; t < runs; t++) {
        ptrdiff_t pieces = ceil_div(from[t].length, CHUNK);
        for (ptrdiff_t i = 0; i < pieces; i++) {
            ptrdiff_t begin = from[t].length * i / pieces, end = from[t].length * (i + 1) / pieces;
            if (count && summed + end - begin > CHUNK) to[count - 1].last = 1, summed = 0;
            to[count++] = (struct run){from[t].offset + begin, end - begin, 0};
            summed += end - begin;
        }
    }
    return count;
}

/* Where a tile's results go: sum + residual, then max(., 0), `last` lanes of the last vector. */
struct destination {
    real *dst;            /* pixel m's block of channels begins at dst + offset[m] */
    const real *residual; /* or NULL; the same offsets */
    const real *bias;     /* [BLOCK], what the sums begin with */
    int relu;
    ptrdiff_t last;
};

/* With `step`, the reduction is so scattered (few channels) that runs would be too short to loop over: a run
 * is then a chunk of the list `step` of offsets, one for each j. */
INLINE void tile_gather(const int pixels, const int vectors, const int indexed, const real *src,
                        const ptrdiff_t *src_offset, const struct run *run, ptrdiff_t runs,
                        const ptrdiff_t *step, const real *w, const struct destination *to,
                        const ptrdiff_t *dst_offset) {
    vec sum[TILE][BLOCK_VECTORS], total[TILE][BLOCK_VECTORS];
    int chunks = 0;
    UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] =
        load(to->bias + v * LANES);
    for (ptrdiff_t t = 0; t < runs; t++) {
        const real *p[TILE];
        UNROLL for (int m = 0; m < pixels; m++) p[m] = src + src_offset[m] + (indexed ? 0 : run[t].offset);
        ptrdiff_t length = run[t].length;
        for (ptrdiff_t j = 0; j < length; j++) {
            vec weight[BLOCK_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) {
                weight[v] = load(w + v * LANES);
                __builtin_prefetch(w + AHEAD * BLOCK + v * LANES);
            }
            w += BLOCK;
            ptrdiff_t at = indexed ? *step++ : j;
            UNROLL for (int m = 0; m < pixels; m++) {
                vec value = splat(p[m][at]);
                UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += value * weight[v];
            }
        }
        if (run[t].last) {
            UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++) {
                total[m][v] = chunks ? total[m][v] + sum[m][v] : sum[m][v];
                sum[m][v] = (vec){0};
            }
            chunks++;
        }
    }
    if (chunks)
        UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] +=
            total[m][v];
    if (to->residual) UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++) {
            const real *residual = to->residual + dst_offset[m] + v * LANES;
            sum[m][v] += v == vectors - 1 ? load_first(residual, to->last) : load(residual);
        }
    if (to->relu)
        UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] =
            choose(sum[m][v] < 0, (vec){0}, sum[m][v]);
    if (to->last == LANES) {
        UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++)
            store(to->dst + dst_offset[m] + v * LANES, sum[m][v]);
    } else {
        UNROLL for (int m = 0; m < pixels; m++) {
            real *dst = to->dst + dst_offset[m];
            if (vectors == 2) store(dst, sum[m][0]);
            store_first(dst + (vectors - 1) * LANES, sum[m][vectors - 1], to->last);
        }
    }
}

/* out[m * out_pitch + v] (+)= sum over j of x[m * pitch + j] * w[j][v], in chunks; += where `add` */
INLINE void tile_product(const int rows, const int vectors, const real *x, ptrdiff_t pitch, ptrdiff_t depth,
                         const real *w, real *out, ptrdiff_t out_pitch, int add) {
    const real *p[TILE];
    UNROLL for (int m = 0; m < rows; m++) p[m] = x + m * pitch;
    ptrdiff_t chunks = ceil_div(depth, CHUNK), j = 0;
    for (ptrdiff_t chunk = 0; chunk < chunks; chunk++) {
        vec sum[TILE][BLOCK_VECTORS];
        UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = (vec){0};
        for (ptrdiff_t end = depth * (chunk + 1) / chunks; j < end; j++) {
            vec weight[BLOCK_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) {
                weight[v] = load(w + v * LANES);
                __builtin_prefetch(w + AHEAD * BLOCK + v * LANES);
            }
            w += BLOCK;
            UNROLL for (int m = 0; m < rows; m++) {
                vec value = splat(p[m][j]);
                UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += value * weight[v];
            }
        }
        if (chunk || add)
            UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] +=
                load(out + m * out_pitch + v * LANES);
        UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++)
            store(out + m * out_pitch + v * LANES, sum[m][v]);
    }
}

/* count pixels, x_step and g_step elements apart */
struct segment {
    const real *x, *g;
    ptrdiff_t count;
};

/* Row m reads x at offset[m] where `indexed`, otherwise at offset[0] + m. */
INLINE void tile_outer(const int rows, const int vectors, const int indexed, const struct segment *segment,
                       ptrdiff_t segments, const ptrdiff_t *offset, ptrdiff_t x_step, ptrdiff_t g_step,
                       real *acc) {
    vec sum[TILE][BLOCK_VECTORS];
    UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = (vec){0};
    for (ptrdiff_t t = 0; t < segments; t++) {
        const real *x = segment[t].x, *g = segment[t].g, *p[TILE];
        UNROLL for (int m = 0; m < rows; m++) p[m] = indexed ? x + offset[m] : x + offset[0] + m;
        ptrdiff_t at = 0;
        for (ptrdiff_t count = segment[t].count; count > 0; count--) {
            vec gradient[BLOCK_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) gradient[v] = load(g + v * LANES);
            UNROLL for (int m = 0; m < rows; m++) {
                vec value = splat(p[m][at]);
                UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += value * gradient[v];
            }
            at += x_step;
            g += g_step;
        }
    }
    UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++) {
        real *to = acc + m * BLOCK + v * LANES;
        store(to, load(to) + sum[m][v]);
    }
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
