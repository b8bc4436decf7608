/* Winograd's convolutions in two directions, whatever their tiles are (a `winograd_kind`).
 *
 *     V[p][t][c] = the input's tile t, transformed
 *     U[q][c][k] = the filter, transformed: a matrix for each point
 *     M[p][t][k] = sum over c of V[p][t][c] * U[matrix(p)][c][k]   for each of a tile's planes p
 *     the output's tile t = M transformed back, + bias, + residual, max(., 0)
 *
 * conv_winograd.c decides in which order this is done and does the products; conv_winograd_square.c makes the
 * tiles of 3x3 and 5x5 kernels of stride 1, conv_winograd_strided.c those of 3x3 kernels of stride 2.
 */
#ifndef PYCONV_CONV_WINOGRAD_H
#define PYCONV_CONV_WINOGRAD_H

#include "conv.h"
#include "correlation.h"
#include "tile.h"
#include "winograd.h"
#include "winograd_image.h"

#define MOST_TAPS 25
#define MOST_RESIDUES 4 /* of a stride of 2 in both directions */

struct winograd;

/* Where a tile's outputs go, or those of one residue of the stride, and how many of them there are. */
struct output_place {
    ptrdiff_t offset, row, column, rows, columns;
};

struct winograd_kind {
    int residues; /* of the stride: a tile has a square of outputs for each */
    int planes, matrices;
    ptrdiff_t chunk;          /* the sum over c is cut into, for its rounding error */
    int (*matrix)(int plane); /* ascending with the planes */
    struct tiling (*cut)(const struct correlation *);
    /* All taps of LANES filters on one channel, to the matrices, `plane` elements apart; which pixels tiles
     * are made of (span, step, y, x), and how; `lanes` filters from `channel` on of one tile, from their
     * products to where they belong (a place for each residue). */
    void (*transform_filter)(const vec *g, real *to, ptrdiff_t plane);
    void (*read_tiles)(const struct correlation *, struct tile_image *);
    struct output_place (*place_output)(const struct winograd *, ptrdiff_t tile, int residue);
    void (*put)(const struct winograd *, const struct output_place *, ptrdiff_t channel, ptrdiff_t lanes,
                const real *m, vec *check);
};

extern const struct winograd_kind VARIANT(winograd_strided), VARIANT(winograd_spread);
/* of a square kernel with stride 1 */
const struct winograd_kind *VARIANT(winograd_square)(const struct correlation *);

struct winograd {
    const struct correlation *c;
    const struct winograd_kind *kind;
    struct tiling tiling;
    struct tile_image image;
    ptrdiff_t groups, group;  /* of tiles; the tiles of the largest */
    ptrdiff_t blocks, shares; /* of filters; of the blocks, or with filters outside of the groups */
    ptrdiff_t filter_shares;  /* of the channels of a block, while its filters are made */
    int filters_outside, planes_outside, filters_afar;
    ptrdiff_t together;     /* blocks whose M is kept at once */
    ptrdiff_t chunk, piece; /* channels that are summed in one go, and, with filters outside, made */
    ptrdiff_t pitch;        /* elements from one tile of V[p] to the next, and */
    ptrdiff_t v_plane, u_plane,
        m_plane; /* from one plane to the next: all odd in cache lines, against L1's sets */
    ptrdiff_t v_elements, u_elements; /* of one group; of one block */
    real *shared;                     /* V of all groups, or U of all blocks unless it is prepared */
    const real *u;                    /* U of all blocks, or NULL: filters outside */
    ptrdiff_t window;                 /* elements of each task's, for planes */
    struct finite *finite;
};

/* One filter tap by tap, g[t], for the channels of one vector: LANES filters (`count` of them real) that
 * lie weight_dst apart, their taps side by side, are read as rows and transposed. */
INLINE void read_filters(const int area, const struct correlation *c, const real *from, ptrdiff_t count,
                         vec *g) {
    vec by_index[2 * LANES + MOST_TAPS];
    UNROLL for (int part = 0; part < area; part += LANES) {
        vec *row = by_index + part;
        const ptrdiff_t here = min_size(LANES, area - part);
        for (ptrdiff_t k = 0; k < LANES; k++)
            row[k] = k < count ? load_first(from + k * c->weight_dst + part, here) : (vec){0};
        transpose_lanes(row);
    }
    /* (Taps are in the filter's order or in its reverse, so tap[i].index is also the tap of index i.) */
    UNROLL for (int i = 0; i < area; i++) g[c->tap[i].index] = by_index[i];
}

INLINE vec load_bias(const struct winograd *w, ptrdiff_t channel, ptrdiff_t lanes) {
    const real *bias = w->c->epilogue.bias;
    return bias ? load_first(bias + channel, lanes) : (vec){0};
}

#endif
