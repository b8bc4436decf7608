/* Winograd's tiles of dense kernels with a stride of 1: 3x3 as F(4x4, 3x3), F(5x5, 3x3) or, of few pixels,
 * F(2x2, 3x3); 5x5 as F(2x2, 5x5) or F(3x3, 5x5).
 *
 *     V = B^T d B of 4 x 4 to 7 x 7 inputs d,   U = G g G^T,   outputs = A^T M A
 *
 *     outputs a tile, multiplications for each      four points   six points    seven points    directly
 *     3x3                                           4   4         16   2.25     25   1.96        9
 *     5x5                                                          4   9         9   5.44       25
 *
 * conv_choice.c says which fit an image better. Each plane has its own matrix.
 */
#include "conv_winograd.h"

static int matrix(int plane) { return plane; }

static struct square correlation_square(const struct correlation *c) {
    return (struct square){.taps = kernel_height(c),
                           .batch = c->batch,
                           .height = c->dst_height,
                           .width = c->dst_width,
                           .dilation_height = c->dilation_height,
                           .dilation_width = c->dilation_width,
                           .from = c->src_channels,
                           .to = c->dst_channels};
}

INLINE struct tiling cut(const struct correlation *c, const int points) {
    struct square square = correlation_square(c);
    return square_tiles(&square, points);
}

INLINE void read_tiles(const struct correlation *c, struct tile_image *image, const int points,
                       const int taps, tile_transform *transform) {
    image->span = points, image->step = points + 1 - taps;
    image->y = c->y_min, image->x = c->x_min;
    image->transform = transform;
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

/* One vector of filters of a tile, from its products on; `plain`: all lanes of all outputs, with nothing but
 * a bias to be added. */
INLINE void put_tile(const struct winograd *w, const struct output_place *place, ptrdiff_t channel,
                     ptrdiff_t lanes, const real *m, vec *check, const int points, const int outputs,
                     const int plain) {
    vec half[MOST_AREA], bias = load_bias(w, channel, lanes);
    transform_output_columns(points, outputs, m, w->m_plane, half);
    real *row = w->c->dst + place->offset + channel;
    UNROLL for (int i = 0; i < outputs; i++, row += place->row) {
        if (!plain && i >= place->rows) return;
        vec out[MOST_POINTS];
        transform_output(points, outputs, half + i * points, 1, out, 1);
        UNROLL for (int j = 0; j < outputs; j++) check_finite(check, out[j]);
        real *to = row;
        UNROLL for (int j = 0; j < outputs; j++, to += place->column) {
            if (plain)
                store(to, out[j] + bias);
            else if (j < place->columns)
                store_output(w->c, to, lanes, out[j] + bias);
        }
    }
}

INLINE void put(const struct winograd *w, const struct output_place *place, ptrdiff_t channel,
                ptrdiff_t lanes, const real *m, vec *check, const int points, const int outputs) {
    const struct pyconv_epilogue *epilogue = &w->c->epilogue;
    if (lanes == LANES && place->rows == outputs && place->columns == outputs && !epilogue->residual &&
        !epilogue->relu)
        put_tile(w, place, channel, LANES, m, check, points, outputs, 1);
    else
        put_tile(w, place, channel, lanes, m, check, points, outputs, 0);
}

/* The kind for `points` and `taps` in one direction. */
#define KIND(name, points, taps, chunk)                                                                      \
    static struct tiling name##_cut(const struct correlation *c) { return cut(c, points); }                  \
    static void name##_filter(const vec *g, real *to, ptrdiff_t plane) {                                     \
        transform_filter_tile(points, taps, g, to, plane, BLOCK);                                            \
    }                                                                                                        \
    TILE_TRANSFORM(name##_vector, transform_input_tile(points, taps - 1, t))                                 \
    static void name##_read(const struct correlation *c, struct tile_image *image) {                         \
        read_tiles(c, image, points, taps, name##_vector);                                                   \
    }                                                                                                        \
    static void name##_put(const struct winograd *w, const struct output_place *place, ptrdiff_t channel,    \
                           ptrdiff_t lanes, const real *m, vec *check) {                                     \
        put(w, place, channel, lanes, m, check, points, points + 1 - taps);                                  \
    }                                                                                                        \
    static const struct winograd_kind name = {                                                               \
        1,          points * points, points * points, chunk,        matrix,                                  \
        name##_cut, name##_filter,   name##_read,     place_output, name##_put};
KIND(four_3x3, 4, 3, CHUNK)
KIND(six_3x3, 6, 3, CHUNK)
KIND(seven_3x3, 7, 3, SEVEN_CHUNK)
KIND(six_5x5, 6, 5, CHUNK)
KIND(seven_5x5, 7, 5, SEVEN_CHUNK)

const struct winograd_kind *VARIANT(winograd_square)(const struct correlation *c) {
    struct square square = correlation_square(c);
    switch (VARIANT(square_points)(&square, PYCONV_FORWARD)) {
    case 4: return &four_3x3;
    case 6: return square.taps == 3 ? &six_3x3 : &six_5x5;
    default: return square.taps == 3 ? &seven_3x3 : &seven_5x5;
    }
}
