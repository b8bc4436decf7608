/* The register tiles that all direct convolution is made of.
 *
 * tile_gather:  dst[m][v] = bias[v] + sum over j of x[m][j] * w[j][v]      m < pixels, v < vectors
 * tile_even:    the same of pixels that lie equally far apart
 * tile_product: out[m][v] = sum over j of x[m][j] * w[j][v]                m < rows,   v < vectors
 * tile_outer:   acc[m][v] (+)= sum over p of x[p][m] * g[p][v]                m < rows,   v < vectors
 *
 * Register budget with 32 vector registers: 6 x 4 accumulators + 4 weights + 1 broadcast = 29, 9 x 3 + 3 + 1
 * = 31, or 12 x 2 + 2 + 1 = 27; with 16: 4 x 3 + 3 + 1 = 16, or 6 x 2 + 2 + 1 = 15. Each broadcast feeds as
 * many fused multiply-adds as there are vectors: 6 x 4 take 10 loads for 24 of them, 9 x 3 12 for 27, and 12
 * x 2 14 for 24, whose 12 addresses take too many general registers, too: where pixels are gathered they are
 * 8 % slower. (14 x 2 would fit; only tile_outer, whose rows lie side by side, has OUTER_TILE of them.)
 */
#ifndef PYCONV_TILE_H
#define PYCONV_TILE_H

#include "simd.h"

#if VECTOR_REGISTERS == 32
#define TILE 12       /* rows by up to two vectors, */
#define WIDE_TILE 9   /* by three */
#define WIDEST_TILE 6 /* and by four */
#define WIDEST 4
#define OUTER_TILE 14
#else
#define TILE 6
#define WIDE_TILE 4
#define WIDEST_TILE WIDE_TILE
#define WIDEST 3
#define OUTER_TILE 6
#endif
#define FOUR_TILE (WIDEST == 4 ? WIDEST_TILE : 3) /* rows by four vectors, even where WIDEST is 3 */
#define MOST_VECTORS 4
#define BLOCK_VECTORS 2
#define BLOCK (BLOCK_VECTORS * LANES) /* channels in one block of packed weights */

/* A block of filters: `vectors` of them from `vector` on. The filters of one group are cut into as few blocks
 * of up to WIDEST vectors as can be, of nearly equal width; pixels of planes likewise, of up to `widest`. */
struct filters {
    ptrdiff_t vector, vectors;
    ptrdiff_t count, lanes; /* filters that exist in all, and in the last vector */
};

INLINE ptrdiff_t vector_blocks(ptrdiff_t count, ptrdiff_t widest) {
    return ceil_div(ceil_div(count, LANES), widest);
}

INLINE struct filters vector_block(ptrdiff_t filters, ptrdiff_t widest, ptrdiff_t block) {
    ptrdiff_t vectors = ceil_div(filters, LANES), blocks = vector_blocks(filters, widest);
    struct filters f = {.vector = vectors * block / blocks};
    f.vectors = vectors * (block + 1) / blocks - f.vector;
    f.count = min_size(f.vectors * LANES, filters - f.vector * LANES);
    f.lanes = f.count - (f.vectors - 1) * LANES;
    return f;
}

INLINE ptrdiff_t filter_blocks(ptrdiff_t filters) { return vector_blocks(filters, WIDEST); }

INLINE struct filters filter_block(ptrdiff_t filters, ptrdiff_t block) {
    return vector_block(filters, WIDEST, block);
}

/* Rows of the tile for so many vectors. */
INLINE ptrdiff_t tile_rows(ptrdiff_t vectors) {
    return vectors <= 2 ? TILE : vectors == 3 ? WIDE_TILE : WIDEST_TILE;
}

/* A reduction is done in chunks of at most this many products, which are summed by themselves and then added
 * up. So the rounding error of long sums grows with the root of CHUNK rather than of their length (relative
 * RMS 2.5e-7 instead of 6e-7 for 3x3 kernels on 128 channels); and a chunk of packed weights (16 to 32 KiB
 * with AVX-512) stays in L1 while the tiles of a band take it in turn: streamed from L2 for every tile,
 * weights cost 10 %. */
#define CHUNK ((ptrdiff_t)128)

/* `depth` products cut into as few chunks of at most `most` as can be: the length of one. */
INLINE ptrdiff_t even_chunk(ptrdiff_t depth, ptrdiff_t most) {
    return ceil_div(depth, max_size(ceil_div(depth, most), 1));
}

/* A stretch of the reduction that is contiguous in the source: `length` elements from `offset` on, in the row
 * that lies `y` below the destination's. */
struct run {
    ptrdiff_t offset, length, y;
};

/* What a tile sums up in one go: `runs` runs, or, where these would be too short to loop over (few channels),
 * `steps` elements with an offset for each. The weights' rows begin at `first`. */
struct chunk {
    const struct run *run;
    const ptrdiff_t *step;
    ptrdiff_t runs, steps, first;
};

/* Where a tile's results go. The first chunk begins with the bias; others add `partial`, [pixel][vector],
 * which all but the last leave there; then + residual, max(., 0), `lanes` lanes of the last vector. */
struct destination {
    real *dst;            /* pixel m's block of channels begins at dst + offset[m] */
    const real *residual; /* or NULL; the same offsets */
    const real *bias;     /* [vector] */
    int relu, first, last;
    ptrdiff_t lanes;
    /* The rows of the source's `height` that the tile's first and last pixel have at y = 0: runs that read
     * nothing but padding are left out. */
    ptrdiff_t top, bottom, height;
    /* Weights that come from afar: the tile fetches its share of the next chunk's from `next` on, so many
     * cache lines with every LANES of its own products. */
    const real *next;
    ptrdiff_t stream;
    int fetch; /* the destination early: sums take longer than its way from memory */
};

/* + residual, max(., 0), and store: pixel m at `at[m]`. */
INLINE void finish_tile(const int pixels, const int vectors, vec (*sum)[MOST_VECTORS],
                        const struct destination *to, const ptrdiff_t *at) {
    if (to->residual) UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++) {
            const real *residual = to->residual + at[m] + v * LANES;
            sum[m][v] += v == vectors - 1 ? load_first(residual, to->lanes) : load(residual);
        }
    if (to->relu)
        UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] =
            choose(sum[m][v] < 0, (vec){0}, sum[m][v]);
    if (to->lanes == LANES) {
        UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++)
            store(to->dst + at[m] + v * LANES, sum[m][v]);
    } else {
        UNROLL for (int m = 0; m < pixels; m++) {
            UNROLL for (int v = 0; v < vectors - 1; v++) store(to->dst + at[m] + v * LANES, sum[m][v]);
            store_first(to->dst + at[m] + (vectors - 1) * LANES, sum[m][vectors - 1], to->lanes);
        }
    }
}

/* sum[m] += the row of weights at w, times element `at` of pixel m. */
INLINE void gather_products(const int pixels, const int vectors, vec (*sum)[MOST_VECTORS],
                            const real *const *p, ptrdiff_t at, const real *w) {
    vec weight[WIDEST];
    UNROLL for (int v = 0; v < vectors; v++) weight[v] = load(w + v * LANES);
    UNROLL for (int m = 0; m < pixels; m++) {
        vec value = splat(p[m][at]);
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += value * weight[v];
    }
}

/* prefetch: 1: the place `distance` elements beyond each pixel, the next tile's pixel; 2: the next chunk. */
INLINE void tile_gather(const int pixels, const int vectors, const int indexed, const int prefetch,
                        const real *src, const ptrdiff_t *src_offset, const struct chunk *chunk,
                        const real *w, real *partial, ptrdiff_t distance, const struct destination *to,
                        const ptrdiff_t *dst_offset) {
    vec sum[TILE][MOST_VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) {
        vec start = to->first ? load(to->bias + v * LANES) : (vec){0};
        UNROLL for (int m = 0; m < pixels; m++) sum[m][v] = start;
    }
    const ptrdiff_t row = vectors * LANES; /* of weights */
    if (to->last && to->fetch)
        UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++)
            __builtin_prefetch(to->dst + dst_offset[m] + v * LANES, 1, 2);
    ptrdiff_t runs = indexed ? 1 : chunk->runs;
    const real *next = to->next;
    w += chunk->first * row;
    for (ptrdiff_t t = 0; t < runs; t++) {
        ptrdiff_t length = indexed ? chunk->steps : chunk->run[t].length;
        if (!indexed && (to->bottom + chunk->run[t].y < 0 || to->top + chunk->run[t].y >= to->height)) {
            w += length * row;
            continue;
        }
        /* Indices count up to 0: an end to compare with would take the register that the 12th pixel needs. */
        const real *p[TILE], *base = indexed ? src : src + chunk->run[t].offset + length;
        const ptrdiff_t *step = chunk->step + length;
        UNROLL for (int m = 0; m < pixels; m++) p[m] = as_pointer(base + src_offset[m]);
        if (!prefetch) {
            TWICE for (ptrdiff_t j = -length; j < 0; j++, w += row)
                gather_products(pixels, vectors, sum, p, indexed ? step[j] : j, w);
            continue;
        }
        for (ptrdiff_t j = -length; j < 0;) {
            ptrdiff_t end = min_size(j + LANES, 0);
            if (prefetch == 1)
                UNROLL for (int m = 0; m < pixels; m++) __builtin_prefetch(p[m] + j + distance);
            if (prefetch == 2)
                for (ptrdiff_t l = 0; l < to->stream; l++) __builtin_prefetch(next + l * LINE, 0, 2);
            if (prefetch == 2) next += to->stream * LINE;
            TWICE for (; j < end; j++, w += row) gather_products(pixels, vectors, sum, p, j, w);
        }
    }
    if (!to->first)
        UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] +=
            load(partial + m * row + v * LANES);
    if (!to->last) {
        UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++)
            store(partial + m * row + v * LANES, sum[m][v]);
        return;
    }
    finish_tile(pixels, vectors, sum, to, dst_offset);
}

/* Packed weights that tile_product streams are prefetched so many elements (8 KiB) ahead, one of each pair of
 * cache lines (the hardware fetches the other): where they come from L3, it is worth 20 %. */
#define AHEAD (8192 / (ptrdiff_t)sizeof(real))

/* Rows that lie equally far apart: one pointer, which moves along them, and odd multiples of their pitch,
 * which an address scales by up to 8. So 12 rows take 7 registers; with a pointer each, there are too few of
 * them, and what stands in for them takes the place of a multiply-add. */
#define MOST_ROWS 16
struct rows {
    const char *at;
    ptrdiff_t odd[MOST_ROWS / 2]; /* 1, 3, 5, ... pitches in bytes */
};

INLINE struct rows begin_rows(const real *x, ptrdiff_t pitch) {
    struct rows r = {.at = (const char *)x};
    UNROLL for (int i = 0; i < MOST_ROWS / 2; i++) r.odd[i] = (2 * i + 1) * pitch * (ptrdiff_t)sizeof(real);
    return r;
}

/* Keeps the compiler from making the even multiples once and for all, in as many registers. */
INLINE void keep_scaling(struct rows *r, const int rows) {
    UNROLL for (int i = 0; i < rows / 2; i++) __asm__("" : "+r"(r->odd[i]));
}

INLINE const real *row_at(const struct rows *r, const int row) {
    const int power = row % 8 == 0 ? 8 : row % 4 == 0 ? 4 : row % 2 == 0 ? 2 : 1;
    return (const real *)(row ? r->at + power * r->odd[row / power / 2] : r->at);
}

/* The same as tile_gather of a single chunk, where both sides' pixels lie equally far apart. */
INLINE void tile_even(const int pixels, const int vectors, const real *src, ptrdiff_t pitch,
                      const struct chunk *chunk, const real *w, const struct destination *to,
                      ptrdiff_t dst_offset, ptrdiff_t dst_pitch) {
    vec sum[TILE][MOST_VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) {
        vec start = load(to->bias + v * LANES);
        UNROLL for (int m = 0; m < pixels; m++) sum[m][v] = start;
    }
    ptrdiff_t at[TILE];
    UNROLL for (int m = 0; m < pixels; m++) at[m] = dst_offset + m * dst_pitch;
    if (FAR_CACHES) /* the next tile's pixels, and the destination, as tile_gather */
        UNROLL for (int m = 0; m < pixels; m++) {
            for (ptrdiff_t e = 0; e < chunk->steps; e += LINE)
                __builtin_prefetch(src + (m + pixels) * pitch + e);
            UNROLL for (int v = 0; v < vectors; v++) __builtin_prefetch(to->dst + at[m] + v * LANES, 1, 2);
        }
    struct rows from = begin_rows(src, pitch);
    for (ptrdiff_t t = 0; t < chunk->runs; t++) {
        from.at = (const char *)(src + chunk->run[t].offset);
        TWICE for (ptrdiff_t steps = chunk->run[t].length; steps > 0;
                   steps--, from.at += sizeof(real), w += vectors * LANES) {
            vec weight[WIDEST];
            keep_scaling(&from, pixels);
            UNROLL for (int v = 0; v < vectors; v++) weight[v] = load(w + v * LANES);
            UNROLL for (int m = 0; m < pixels; m++) {
                vec value = splat(*row_at(&from, m));
                UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += value * weight[v];
            }
        }
    }
    finish_tile(pixels, vectors, sum, to, at);
}

/* What comes from afar, and is fetched from `next` on: x, with every cache line of its rows one of each of
 * the next rows; or w, with every product a line `step` elements beyond the one before. */
enum afar { NONE_AFAR, X_AFAR, W_AFAR };

/* out[m * out_pitch + v] (+)= sum over j of x[m * pitch + j] * w[j * w_pitch + v], `chunk` products (see
 * even_chunk) at a time; += where `add`. */
INLINE void tile_product(const int rows, const int vectors, const enum afar afar, const real *x,
                         ptrdiff_t pitch, const real *next, ptrdiff_t step, ptrdiff_t depth, ptrdiff_t chunk,
                         const real *w, const ptrdiff_t w_pitch, real *out, ptrdiff_t out_pitch, int add) {
    struct rows from = begin_rows(x, pitch);
    for (const real *end = x + depth; x < end; add = 1) {
        vec sum[TILE][WIDEST];
        UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = (vec){0};
        ptrdiff_t count = min_size(chunk, end - x);
        x += count;
        do {
            ptrdiff_t steps = afar == X_AFAR ? min_size(count, LINE) : count;
            count -= steps;
            if (afar == X_AFAR) {
                UNROLL for (int m = 0; m < rows; m++) __builtin_prefetch(next + m * pitch);
                next += steps;
            }
            TWICE for (; steps > 0; steps--, from.at += sizeof(real), w += w_pitch) {
                vec weight[WIDEST];
                keep_scaling(&from, rows);
                UNROLL for (int v = 0; v < vectors; v++) weight[v] = load(w + v * LANES);
                if (afar == W_AFAR)
                    __builtin_prefetch(next, 0, 2), next += step;
                else
                    UNROLL for (int v = 0; v < vectors; v += 2) __builtin_prefetch(w + AHEAD + v * LANES);
                UNROLL for (int m = 0; m < rows; m++) {
                    vec value = splat(*row_at(&from, m));
                    UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += value * weight[v];
                }
            }
        } while (afar == X_AFAR && count > 0);
        if (add)
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

/* Lines that are fetched meanwhile, one with every pixel: the next from the last one `step` elements. */
struct stream {
    const real *next;
    ptrdiff_t step;
};

/* Row m reads x at offset[m] where `indexed`, otherwise at offset[0] + m. += where `add`; acc is fetched
 * meanwhile (1 %), and `stream`, unless it is NULL. */
INLINE void tile_outer(const int rows, const int vectors, const int indexed, const struct segment *segment,
                       ptrdiff_t segments, const ptrdiff_t *offset, ptrdiff_t x_step, ptrdiff_t g_step,
                       const struct stream *stream, int add, real *acc) {
    vec sum[OUTER_TILE][BLOCK_VECTORS];
    UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = (vec){0};
    UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++)
        __builtin_prefetch(acc + m * BLOCK + v * LANES, 1);
    const real *next = stream ? stream->next : NULL;
    for (ptrdiff_t t = 0; t < segments; t++) {
        const real *x = segment[t].x + (indexed ? 0 : offset[0]), *g = segment[t].g;
        TWICE for (ptrdiff_t count = segment[t].count; count > 0; count--, x += x_step, g += g_step) {
            vec gradient[BLOCK_VECTORS];
            if (stream) __builtin_prefetch(next), next += stream->step;
            UNROLL for (int v = 0; v < vectors; v++) gradient[v] = load(g + v * LANES);
            UNROLL for (int m = 0; m < rows; m++) {
                vec value = splat(x[indexed ? offset[m] : m]);
                UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += value * gradient[v];
            }
        }
    }
    UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++) {
        real *to = acc + m * BLOCK + v * LANES;
        store(to, add ? load(to) + sum[m][v] : sum[m][v]);
    }
}

/* CALL(m, ...) with the constant m that the variable `size` (1 to TILE, WIDE_TILE or OUTER_TILE) has. */
#define CASES_TO_2(CALL, ...)                                                                                \
    case 1: CALL(1, __VA_ARGS__); break;                                                                     \
    case 2: CALL(2, __VA_ARGS__); break;
#define CASES_TO_3(CALL, ...)                                                                                \
    CASES_TO_2(CALL, __VA_ARGS__)                                                                            \
    case 3: CALL(3, __VA_ARGS__); break;
#define CASES_TO_5(CALL, ...)                                                                                \
    CASES_TO_3(CALL, __VA_ARGS__)                                                                            \
    case 4: CALL(4, __VA_ARGS__); break;                                                                     \
    case 5: CALL(5, __VA_ARGS__); break;
#if VECTOR_REGISTERS == 32
#define WIDE_CASES(CALL, ...)                                                                                \
    CASES_TO_5(CALL, __VA_ARGS__)                                                                            \
    case 6: CALL(6, __VA_ARGS__); break;                                                                     \
    case 7: CALL(7, __VA_ARGS__); break;                                                                     \
    case 8: CALL(8, __VA_ARGS__); break;
#define TILE_CASES(CALL, ...)                                                                                \
    WIDE_CASES(CALL, __VA_ARGS__)                                                                            \
    case 9: CALL(9, __VA_ARGS__); break;                                                                     \
    case 10: CALL(10, __VA_ARGS__); break;                                                                   \
    case 11: CALL(11, __VA_ARGS__); break;
#define OUTER_CASES(CALL, ...)                                                                               \
    TILE_CASES(CALL, __VA_ARGS__)                                                                            \
    case 12: CALL(12, __VA_ARGS__); break;                                                                   \
    case 13: CALL(13, __VA_ARGS__); break;
#else
#define WIDE_CASES CASES_TO_3
#define TILE_CASES CASES_TO_5
#define OUTER_CASES CASES_TO_5
#endif
#define DISPATCH(CASES, size, largest, CALL, ...)                                                            \
    switch (size) {                                                                                          \
        CASES(CALL, __VA_ARGS__)                                                                             \
    default: CALL(largest, __VA_ARGS__); break;                                                              \
    }
#define DISPATCH_TILE(size, CALL, ...) DISPATCH(TILE_CASES, size, TILE, CALL, __VA_ARGS__)
#define DISPATCH_WIDE(size, CALL, ...) DISPATCH(WIDE_CASES, size, WIDE_TILE, CALL, __VA_ARGS__)
#define DISPATCH_WIDEST(size, CALL, ...) DISPATCH(CASES_TO_5, size, WIDEST_TILE, CALL, __VA_ARGS__)
#if WIDEST == 4
#define DISPATCH_FOUR DISPATCH_WIDEST
#else
#define DISPATCH_FOUR(size, CALL, ...) DISPATCH(CASES_TO_2, size, FOUR_TILE, CALL, __VA_ARGS__)
#endif
#define DISPATCH_OUTER(size, CALL, ...) DISPATCH(OUTER_CASES, size, OUTER_TILE, CALL, __VA_ARGS__)

#endif
