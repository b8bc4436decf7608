/* Winograd's tiles and the images that they are cut from, in either memory format.
 *
 * Transforms take LANES channels of a pixel at once. In channels-last memory these lie side by side; of
 * planes, [channel][row][column], the pixels of a piece are transposed first, WINDOW_CHANNELS channels at a
 * time, into a window that stays in L1: [row][column][WINDOW_CHANNELS]. A piece is some tiles of a row, or
 * some whole rows of them, so that as few pixels as possible are taken twice. Outputs go the same way back.
 * (Copies of whole images to channels-last memory and back took 12 to 30 % of the time.)
 */
#ifndef PYCONV_WINOGRAD_IMAGE_H
#define PYCONV_WINOGRAD_IMAGE_H

#include "correlation.h"
#include "winograd_tile.h"

#define WINDOW_CHANNELS LINE           /* a cache line of them */
#define WINDOW_PIXELS ((ptrdiff_t)384) /* 24 KiB, of an L1 of 32 or 48 */
#define MOST_SPAN 9                    /* inputs of a tile in one direction */

/* What tiles are made of: span x span pixels, the first tile's from (y, x) on, and `step` from each tile to
 * the next. */
struct tile_image {
    const real *pixels, *end; /* of all images */
    int planes;
    ptrdiff_t height, width, channels; /* of all groups */
    int span;
    ptrdiff_t step, y, x;
    tile_transform *transform;
    const real *zeros; /* as many as channels: what lies outside of the image */
};

/* Where they go: V[plane][tile][channel] */
struct tile_matrix {
    real *at;
    ptrdiff_t plane, pitch; /* elements from one to the next, and from a tile to the next */
};

/* Elements of the window, where tiles are made of planes; otherwise 0. */
INLINE ptrdiff_t window_elements(const struct tile_image *image) {
    if (!image->planes) return 0;
    return (max_size(WINDOW_PIXELS, image->span * image->span) + LANES) * WINDOW_CHANNELS;
}

/* `count` tiles of channels [begin, end) */
void VARIANT(make_tiles)(const struct tile_image *, const struct tiling *, ptrdiff_t first, ptrdiff_t count,
                         ptrdiff_t begin, ptrdiff_t end, struct tile_matrix to, real *window);

/* Tiles of one image: some of a row, or whole rows. */
struct piece {
    ptrdiff_t count, rows, columns; /* in tiles */
    struct tile_place at;           /* the first one's */
};

/* The next piece of `left` tiles from `tile` on: of evenly many in a row, as many as fit a window. */
INLINE struct piece next_piece(const struct tile_image *image, const struct tiling *t, ptrdiff_t tile,
                               ptrdiff_t left) {
    const ptrdiff_t span = image->span, step = image->step;
    ptrdiff_t column = tile % t->columns, row = tile / t->columns % t->rows;
    ptrdiff_t most = max_size((WINDOW_PIXELS / span - span) / step + 1, 1);
    ptrdiff_t run = min_size(t->columns - column, left), columns = ceil_div(run, ceil_div(run, most)),
              rows = 1;
    if (columns == t->columns) {
        ptrdiff_t fit = (WINDOW_PIXELS / ((columns - 1) * step + span) - span) / step + 1;
        rows = max_size(min_size(min_size(left / columns, t->rows - row), fit), 1);
    }
    return (struct piece){rows * columns, rows, columns, place_tile(t, tile)};
}

/* Outputs of a piece, [row][column][channel], `pitch` elements from a column to the next and `width` columns
 * to a row, for `channels` channels from `channel` on, to the planes of c->dst from its pixel (y, x) of
 * `image` on: + residual, max(., 0). What lies outside of the image is left out. */
struct output_window {
    const real *pixels;
    ptrdiff_t pitch, height, width, channel, channels, image, y, x;
};
void VARIANT(put_window)(const struct correlation *, const struct output_window *);

#endif
