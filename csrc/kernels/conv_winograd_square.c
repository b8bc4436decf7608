/* Winograd's tiles of dense kernels: 3x3 as F(4x4, 3x3), 5x5 as F(2x2, 5x5), stride 1.
 *
 *     V = B^T d B of 6 x 6 inputs d,   U = G g G^T,   outputs = A^T M A
 *
 * 36 multiplications serve 16 outputs of 9 taps: 4 times less arithmetic (5x5: 4 outputs of 25, 2.8 times).
 * Each plane has its own matrix.
 */
#include "conv_winograd.h"

static int matrix(int plane) { return plane; }

static void transform_filter_3(const vec *g, real *to, ptrdiff_t plane) {
    transform_filter_tile(3, g, to, plane);
}

static void transform_filter_5(const vec *g, real *to, ptrdiff_t plane) {
    transform_filter_tile(5, g, to, plane);
}

static struct tiling cut(const struct correlation *c) {
    return cut_tiles(POINTS + 1 - (c->taps == 9 ? 3 : 5), c->batch, c->dst_height, c->dst_width,
                     c->dilation_height, c->dilation_width);
}

static void make_tile(const struct winograd *w, ptrdiff_t tile, real *v) {
    const struct correlation *c = w->c;
    struct tile_place at = place_tile(&w->tiling, tile);
    ptrdiff_t channels = c->src_channels;
    const real *from[AREA];
    find_pixels(POINTS, &w->tiling, c->src + at.image * c->src_height * c->src_width * channels,
                c->src_height, c->src_width, channels, at.y + c->y_min, at.x + c->x_min, w->zeros, from);
    const ptrdiff_t next =
        w->tiling.outputs * w->tiling.dilation_width * channels; /* the tile to the right */
    for (ptrdiff_t k = 0; k < channels; k += LANES) {
        for (int i = 0; i < POINTS; i++)
            for (int j = POINTS - w->tiling.outputs; j < POINTS; j++)
                __builtin_prefetch(from[i * POINTS + j] + next + k);
        if (k + LANES <= channels)
            transform_input_tile(from, k, LANES, v + k, w->v_plane);
        else
            transform_input_tile(from, k, channels - k, v + k, w->v_plane);
    }
}

static struct output_place place_output(const struct winograd *w, ptrdiff_t tile, int residue) {
    (void)residue;
    const struct correlation *c = w->c;
    struct tile_place at = place_tile(&w->tiling, tile);
    struct output_place to = {.row = w->tiling.dilation_height * c->dst_row,
                              .column = w->tiling.dilation_width * c->dst_column};
    to.offset = at.image * c->dst_image + at.y * c->dst_row + at.x * c->dst_column;
    to.rows = min_size(w->tiling.outputs, ceil_div(c->dst_height - at.y, w->tiling.dilation_height));
    to.columns = min_size(w->tiling.outputs, ceil_div(c->dst_width - at.x, w->tiling.dilation_width));
    return to;
}

static void transform_output_4(const real *m, ptrdiff_t plane, vec *out) {
    transform_output_tile(4, m, plane, out);
}

static void transform_output_2(const real *m, ptrdiff_t plane, vec *out) {
    transform_output_tile(2, m, plane, out);
}

const struct winograd_kind VARIANT(winograd_3x3) = {
    4, 1, AREA, matrix, cut, transform_filter_3, make_tile, place_output, transform_output_4};
const struct winograd_kind VARIANT(winograd_5x5) = {
    2, 1, AREA, matrix, cut, transform_filter_5, make_tile, place_output, transform_output_2};
