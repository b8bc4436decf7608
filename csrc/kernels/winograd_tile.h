/* Tiles of an image, for all of Winograd's kinds in two directions: where they lie, and how one vector of
 * channels gets into a transform and out of it.
 *
 * A convolution of dilation d is d dense ones in each direction: the outputs congruent modulo d to one
 * another read inputs that are, too. So a tile's pixels lie `dilation` apart, and each residue has its own
 * tiles.
 */
#ifndef PYCONV_WINOGRAD_TILE_H
#define PYCONV_WINOGRAD_TILE_H

#include "pyconv.h"
#include "simd.h"

#define MOST_SHARED ((ptrdiff_t)32 << 20) /* bytes of transformed tiles that are kept for all tasks */

struct tiling {
    ptrdiff_t outputs; /* of a tile, in one direction */
    ptrdiff_t dilation_height, dilation_width;
    ptrdiff_t row_residues, column_residues;
    ptrdiff_t rows, columns; /* of tiles, in one residue */
    ptrdiff_t tiles;         /* in all */
};

INLINE struct tiling cut_tiles(ptrdiff_t outputs, ptrdiff_t batch, ptrdiff_t height, ptrdiff_t width,
                               ptrdiff_t dilation_height, ptrdiff_t dilation_width) {
    struct tiling t = {outputs, dilation_height, dilation_width,
                       .row_residues = min_size(dilation_height, height),
                       .column_residues = min_size(dilation_width, width)};
    t.rows = ceil_div(ceil_div(height, dilation_height), outputs);
    t.columns = ceil_div(ceil_div(width, dilation_width), outputs);
    t.tiles = batch * t.row_residues * t.column_residues * t.rows * t.columns;
    return t;
}

/* The kernels that square tiles are for: 3x3 and 5x5. */
INLINE int is_square(ptrdiff_t kernel_height, ptrdiff_t kernel_width) {
    return kernel_height == kernel_width && (kernel_height == 3 || kernel_height == 5);
}

/* Of the convolutions that Winograd's tiles are for: those whose tiles are made from planes as well as from
 * channels-last memory (winograd_image.h). */
INLINE int has_windows(const struct pyconv_conv2d *g) {
    return is_square(g->kernel_height, g->kernel_width) && g->dilation_height == 1 &&
           g->dilation_width == 1 && g->batch && g->in_channels && g->out_channels && g->out_height &&
           g->out_width;
}

/* What a square kernel with stride 1 is applied to: outputs of batch x height x width. */
struct square {
    ptrdiff_t taps; /* in one direction */
    ptrdiff_t batch, height, width, dilation_height, dilation_width;
    ptrdiff_t from, to; /* channels that are summed, and that are made */
};

/* Of a convolution: its forward pass and its weight's gradient, or (`back`) its input's gradient. */
INLINE struct square square_of(const struct pyconv_conv2d *g, int back) {
    return (struct square){.taps = g->kernel_height,
                           .batch = g->batch,
                           .height = back ? g->in_height : g->out_height,
                           .width = back ? g->in_width : g->out_width,
                           .dilation_height = g->dilation_height,
                           .dilation_width = g->dilation_width,
                           .from = back ? g->out_channels : g->in_channels,
                           .to = back ? g->in_channels : g->out_channels};
}

INLINE struct tiling square_tiles(const struct square *s, int points) {
    return cut_tiles(points + 1 - s->taps, s->batch, s->height, s->width, s->dilation_height,
                     s->dilation_width);
}

/* Where a tile's first output lies. */
struct tile_place {
    ptrdiff_t image, y, x;
};

INLINE struct tile_place place_tile(const struct tiling *t, ptrdiff_t tile) {
    ptrdiff_t column = tile % t->columns, row = tile / t->columns % t->rows,
              residue = tile / t->columns / t->rows;
    ptrdiff_t x = residue % t->column_residues, y = residue / t->column_residues % t->row_residues;
    return (struct tile_place){residue / t->column_residues / t->row_residues,
                               y + row * t->outputs * t->dilation_height,
                               x + column * t->outputs * t->dilation_width};
}

/* The `side` x `side` pixels from (y0, x0) on, or zeros outside of the image. */
INLINE void find_pixels(const int side, const struct tiling *t, const real *image, ptrdiff_t height,
                        ptrdiff_t width, ptrdiff_t channels, ptrdiff_t y0, ptrdiff_t x0, const real *zeros,
                        const real **from) {
    for (ptrdiff_t i = 0; i < side; i++)
        for (ptrdiff_t j = 0; j < side; j++) {
            ptrdiff_t y = y0 + i * t->dilation_height, x = x0 + j * t->dilation_width;
            int inside = y >= 0 && y < height && x >= 0 && x < width;
            from[i * side + j] = inside ? image + (y * width + x) * channels : zeros;
        }
}

/* ---- One vector of a tile's channels ----
 *
 * A transform waits for cache lines more than for its arithmetic: its pixels come from L3 or memory, and the
 * planes that it writes lie apart, so that L1 has to fetch a line of each from L2 first. Both are fetched one
 * step ahead, beside the access whose address they share: 3x3 layers are 3 to 8 % faster forward and for the
 * gradient of the input, and 7 to 18 % for that of the weight. (In loops of their own the fetches cost as
 * much as they gain. That each asks whether there is a next one has a reason, too: such branches keep GCC
 * from moving all loads of the unrolled transform to its beginning, where registers run out; without them
 * nothing is gained.) */
struct tile_vector {
    const real *const *from; /* pixel p's channels begin at from[p], */
    ptrdiff_t offset, lanes; /* of which these are taken */
    ptrdiff_t next;          /* elements from there to the tile that is made next, or 0 */
    real *to;                /* plane p begins at to + p * plane, */
    ptrdiff_t plane, ahead;  /* and so many elements on what will be written next, or 0 */
};

INLINE void store_and_fetch(real *at, vec value, ptrdiff_t ahead) {
    store(at, value);
    if (FAR_CACHES && ahead) __builtin_prefetch(at + ahead, 1);
}

INLINE vec read_pixel(const struct tile_vector *t, int pixel, const int fetch) {
    const real *at = t->from[pixel] + t->offset;
    if (fetch && t->next) __builtin_prefetch(at + t->next);
    return load_some(at, t->lanes);
}

INLINE void write_plane(const struct tile_vector *t, int plane, vec value) {
    store_and_fetch(t->to + plane * t->plane, value, t->ahead);
}

/* A transform of one vector, an expression of `const struct tile_vector *t`: once for all lanes, once for
 * those that are left at the end of the channels. (From a copy, which no store can change.) */
typedef void tile_transform(const struct tile_vector *);
#define TILE_TRANSFORM(name, TRANSFORM)                                                                      \
    INLINE void name##_inline(const struct tile_vector *t) { TRANSFORM; }                                    \
    static void name(const struct tile_vector *vector) {                                                     \
        struct tile_vector copy = *vector;                                                                   \
        if (copy.lanes == LANES) {                                                                           \
            copy.lanes = LANES;                                                                              \
            name##_inline(&copy);                                                                            \
        } else {                                                                                             \
            name##_inline(&copy);                                                                            \
        }                                                                                                    \
    }

/* Transform `channels` from `offset` on, to rows of planes that are `pitch` elements apart. */
INLINE void transform_channels(tile_transform *transform, struct tile_vector t, ptrdiff_t channels,
                               ptrdiff_t pitch) {
    for (ptrdiff_t k = 0; k < channels; k += LANES, t.offset += LANES, t.to += LANES) {
        t.lanes = min_size(LANES, channels - k);
        t.ahead = k + LANES < channels ? LANES : pitch - k;
        transform(&t);
    }
}

#endif
