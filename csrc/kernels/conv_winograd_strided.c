/* Winograd's tiles of 3x3 kernels with a stride of 2 (winograd_strided.h), and of the gradient of their
 * input.
 *
 * The gradient is the same with inputs and outputs changing places: every second row takes two taps of five
 * rows of grad_output, and those between take one of four of them. 5 x 5 pixels make 81 planes, and these 8 x
 * 8 pixels: 4 x 4 for each residue of the stride.
 */
#include "conv_winograd.h"
#include "winograd_strided.h"

/* ---- The filters: the same for both passes, which have their taps in reverse order ---- */

static void filter_planes(const vec *g, real *to, ptrdiff_t plane) {
    vec half[3 * EVEN_POINTS], out[EVEN_POINTS]; /* [point][tap across] */
    UNROLL for (int s = 0; s < 3; s++) transform_taps(g[s], g[6 + s], half + s, 3);
    store_and_fetch(to, g[4], BLOCK);
    UNROLL for (int i = 0; i < EVEN_POINTS; i++)
        store_and_fetch(to + (1 + i) * plane, half[i * 3 + 1], BLOCK);
    transform_taps(g[3], g[5], out, 1);
    UNROLL for (int j = 0; j < EVEN_POINTS; j++)
        store_and_fetch(to + (1 + EVEN_POINTS + j) * plane, out[j], BLOCK);
    UNROLL for (int i = 0; i < EVEN_POINTS; i++) {
        transform_taps(half[i * 3], half[i * 3 + 2], out, 1);
        UNROLL for (int j = 0; j < EVEN_POINTS; j++)
            store_and_fetch(to + (1 + (2 + i) * EVEN_POINTS + j) * plane, out[j], BLOCK);
    }
}

/* ---- The tiles of an image: 9 x 9 pixels to 81 planes, and these to 4 x 4 outputs ---- */

TILE_TRANSFORM(image_vector, image_planes(t))

static void read_image(const struct correlation *c, struct tile_image *image) {
    image->span = SPAN, image->step = 2 * SIDE;
    image->y = c->y_min, image->x = c->x_min;
    image->transform = image_vector;
}

/* What the planes of two taps both ways and of two across have in common is added before it is transformed.
 */
INLINE void image_outputs(const real *m, ptrdiff_t plane, vec *out) {
    vec half[SIDE * EVEN_POINTS], y[EVEN_POINTS], column[SIDE];
    UNROLL for (int j = 0; j < EVEN_POINTS; j++) {
        UNROLL for (int i = 0; i < EVEN_POINTS; i++) y[i] = load(m + (BOTH + i * EVEN_POINTS + j) * plane);
        transform_products(y, 1, half + j, EVEN_POINTS);
        UNROLL for (int i = 0; i < SIDE; i++) half[i * EVEN_POINTS + j] +=
            load(m + (ACROSS + j * SIDE + i) * plane);
    }
    UNROLL for (int i = 0; i < SIDE; i++) transform_products(half + i * EVEN_POINTS, 1, out + i * SIDE, 1);
    UNROLL for (int j = 0; j < SIDE; j++) {
        UNROLL for (int i = 0; i < EVEN_POINTS; i++) y[i] = load(m + (DOWN + i * SIDE + j) * plane);
        transform_products(y, 1, column, 1);
        UNROLL for (int i = 0; i < SIDE; i++) out[i * SIDE + j] +=
            column[i] + load(m + (i * SIDE + j) * plane);
    }
}

/* One vector of SIDE x SIDE outputs */
static void put_square(const struct winograd *w, const struct output_place *place, ptrdiff_t channel,
                       ptrdiff_t lanes, const vec *out, vec *check) {
    const vec bias = load_bias(w, channel, lanes);
    for (ptrdiff_t i = 0; i < place->rows; i++)
        for (ptrdiff_t j = 0; j < place->columns; j++) {
            check_finite(check, out[i * SIDE + j]);
            store_output(w->c, w->c->dst + place->offset + i * place->row + j * place->column + channel,
                         lanes, out[i * SIDE + j] + bias);
        }
}

static void put_image(const struct winograd *w, const struct output_place *place, ptrdiff_t channel,
                      ptrdiff_t lanes, const real *m, vec *check) {
    vec out[SIDE * SIDE];
    image_outputs(m, w->m_plane, out);
    put_square(w, place, channel, lanes, out, check);
}

static struct tiling cut(const struct correlation *c) {
    return cut_tiles(SIDE, c->batch, c->dst_height, c->dst_width, 1, 1);
}

static struct output_place place_output(const struct winograd *w, ptrdiff_t tile, int residue) {
    (void)residue;
    const struct correlation *c = w->c;
    const struct tile_place at = place_tile(&w->tiling, tile);
    return (struct output_place){at.image * c->dst_image + at.y * c->dst_row + at.x * c->dst_column,
                                 c->dst_row, c->dst_column, min_size(SIDE, c->dst_height - at.y),
                                 min_size(SIDE, c->dst_width - at.x)};
}

const struct winograd_kind VARIANT(winograd_strided) = {
    1,   STRIDED_PLANES, STRIDED_MATRICES, CHUNK,        strided_matrix,
    cut, filter_planes,  read_image,       place_output, put_image};

/* ---- The tiles of a gradient: 5 x 5 pixels to 81 planes, and these to 8 x 8 ----
 *
 * Row y of the gradient reads rows (y + y_min) / 2 and the next one by two taps where y + y_min is even;
 * otherwise, by one tap, the row (y + y_min + 1) / 2. */

static ptrdiff_t is_odd(ptrdiff_t n) { return n & 1; }

/* row, column: where the pixels of one tap begin in the 5 x 5 */
INLINE void gradient_planes(const struct tile_vector *t, const int row, const int column) {
    vec half[EVEN_POINTS * EVEN_POINTS], d[EVEN_POINTS], out[EVEN_POINTS];
    UNROLL for (int j = 0; j < EVEN_POINTS; j++) {
        UNROLL for (int i = 0; i < EVEN_POINTS; i++) d[i] =
            read_pixel(t, i * EVEN_POINTS + j, i > 0 && j > 0);
        transform_pixels(d, 1, half + j, EVEN_POINTS);
    }
    UNROLL for (int i = 0; i < EVEN_POINTS; i++) {
        UNROLL for (int j = 0; j < SIDE; j++)
            write_plane(t, DOWN + i * SIDE + j, half[i * EVEN_POINTS + j + column]);
        transform_pixels(half + i * EVEN_POINTS, 1, out, 1);
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) write_plane(t, BOTH + i * EVEN_POINTS + j, out[j]);
    }
    UNROLL for (int i = 0; i < SIDE; i++) {
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) d[j] = read_pixel(t, (i + row) * EVEN_POINTS + j, 0);
        transform_pixels(d, 1, out, 1);
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) write_plane(t, ACROSS + j * SIDE + i, out[j]);
        UNROLL for (int j = 0; j < SIDE; j++)
            write_plane(t, i * SIDE + j, read_pixel(t, (i + row) * EVEN_POINTS + j + column, 0));
    }
}
TILE_TRANSFORM(planes_00, gradient_planes(t, 0, 0))
TILE_TRANSFORM(planes_01, gradient_planes(t, 0, 1))
TILE_TRANSFORM(planes_10, gradient_planes(t, 1, 0))
TILE_TRANSFORM(planes_11, gradient_planes(t, 1, 1))

static void read_gradient(const struct correlation *c, struct tile_image *image) {
    static tile_transform *const transforms[2][2] = {{planes_11, planes_10}, {planes_01, planes_00}};
    const ptrdiff_t odd_y = is_odd(c->y_min), odd_x = is_odd(c->x_min);
    image->span = EVEN_POINTS, image->step = SIDE;
    image->y = (c->y_min + odd_y) / 2, image->x = (c->x_min + odd_x) / 2;
    image->transform = transforms[odd_y][odd_x];
}

INLINE void gradient_outputs(const real *m, ptrdiff_t plane, vec *out) {
    vec half[SIDE * EVEN_POINTS], y[EVEN_POINTS];
    vec *both = out, *down = both + SIDE * SIDE, *across = down + SIDE * SIDE, *none = across + SIDE * SIDE;
    UNROLL for (int j = 0; j < EVEN_POINTS; j++) {
        UNROLL for (int i = 0; i < EVEN_POINTS; i++) y[i] = load(m + (BOTH + i * EVEN_POINTS + j) * plane);
        transform_products(y, 1, half + j, EVEN_POINTS);
    }
    UNROLL for (int i = 0; i < SIDE; i++) {
        transform_products(half + i * EVEN_POINTS, 1, both + i * SIDE, 1);
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) y[j] = load(m + (ACROSS + j * SIDE + i) * plane);
        transform_products(y, 1, across + i * SIDE, 1);
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) y[j] = load(m + (DOWN + j * SIDE + i) * plane);
        transform_products(y, 1, down + i, SIDE);
    }
    UNROLL for (int i = 0; i < SIDE * SIDE; i++) none[i] = load(m + i * plane);
}

static void put_gradient(const struct winograd *w, const struct output_place *place, ptrdiff_t channel,
                         ptrdiff_t lanes, const real *m, vec *check) {
    vec out[MOST_RESIDUES * SIDE * SIDE];
    gradient_outputs(m, w->m_plane, out);
    for (int residue = 0; residue < MOST_RESIDUES; residue++)
        put_square(w, place + residue, channel, lanes, out + residue * SIDE * SIDE, check);
}

static struct tiling cut_gradient(const struct correlation *c) {
    return cut_tiles(SIDE, c->batch, ceil_div(c->dst_height, 2), ceil_div(c->dst_width, 2), 1, 1);
}

static struct output_place place_gradient(const struct winograd *w, ptrdiff_t tile, int residue) {
    const struct correlation *c = w->c;
    const struct tile_place at = place_tile(&w->tiling, tile);
    ptrdiff_t y = 2 * at.y + (is_odd(c->y_min) != residue / 2),
              x = 2 * at.x + (is_odd(c->x_min) != residue % 2);
    return (struct output_place){at.image * c->dst_image + y * c->dst_row + x * c->dst_column, 2 * c->dst_row,
                                 2 * c->dst_column, min_size(SIDE, ceil_div(c->dst_height - y, 2)),
                                 min_size(SIDE, ceil_div(c->dst_width - x, 2))};
}

const struct winograd_kind VARIANT(winograd_spread) = {
    MOST_RESIDUES, STRIDED_PLANES, STRIDED_MATRICES, CHUNK,          strided_matrix,
    cut_gradient,  filter_planes,  read_gradient,    place_gradient, put_gradient};
