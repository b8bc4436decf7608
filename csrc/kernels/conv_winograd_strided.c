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
    store(to, g[4]);
    UNROLL for (int i = 0; i < EVEN_POINTS; i++) store(to + (1 + i) * plane, half[i * 3 + 1]);
    transform_taps(g[3], g[5], out, 1);
    UNROLL for (int j = 0; j < EVEN_POINTS; j++) store(to + (1 + EVEN_POINTS + j) * plane, out[j]);
    UNROLL for (int i = 0; i < EVEN_POINTS; i++) {
        transform_taps(half[i * 3], half[i * 3 + 2], out, 1);
        UNROLL for (int j = 0; j < EVEN_POINTS; j++)
            store(to + (1 + (2 + i) * EVEN_POINTS + j) * plane, out[j]);
    }
}

/* ---- The tiles of an image: 9 x 9 pixels to 81 planes, and these to 4 x 4 outputs ---- */

static void make_image_tile(const struct winograd *w, ptrdiff_t tile, real *v) {
    const struct correlation *c = w->c;
    const struct tile_place at = place_tile(&w->tiling, tile);
    const ptrdiff_t channels = c->src_channels, next = 2 * SIDE * channels; /* the tile to the right */
    const real *from[SPAN * SPAN];
    find_pixels(SPAN, &w->tiling, c->src + at.image * c->src_height * c->src_width * channels, c->src_height,
                c->src_width, channels, 2 * at.y + c->y_min, 2 * at.x + c->x_min, w->zeros, from);
    for (ptrdiff_t k = 0; k < channels; k += LANES) {
        for (int i = 0; i < SPAN; i++)
            for (int j = 1; j < SPAN; j++) __builtin_prefetch(from[i * SPAN + j] + next + k);
        if (k + LANES <= channels)
            image_planes(from, k, LANES, v + k, w->v_plane);
        else
            image_planes(from, k, channels - k, v + k, w->v_plane);
    }
}

/* What the planes of two taps both ways and of two across have in common is added before it is transformed.
 */
static void image_outputs(const real *m, ptrdiff_t plane, vec *out) {
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
    SIDE,           1,   STRIDED_PLANES, STRIDED_MATRICES, SIX_CHUNK,
    strided_matrix, cut, filter_planes,  make_image_tile,  place_output,
    image_outputs};

/* ---- The tiles of a gradient: 5 x 5 pixels to 81 planes, and these to 8 x 8 ----
 *
 * Row y of the gradient reads rows (y + y_min) / 2 and the next one by two taps where y + y_min is even;
 * otherwise, by one tap, the row (y + y_min + 1) / 2. */

static ptrdiff_t is_odd(ptrdiff_t n) { return n & 1; }

/* row, column: where the pixels of one tap begin in the 5 x 5 */
INLINE void gradient_planes(const real *const *from, ptrdiff_t row, ptrdiff_t column, ptrdiff_t offset,
                            ptrdiff_t lanes, real *to, ptrdiff_t plane) {
    vec half[EVEN_POINTS * EVEN_POINTS], d[EVEN_POINTS], out[EVEN_POINTS];
    UNROLL for (int j = 0; j < EVEN_POINTS; j++) {
        UNROLL for (int i = 0; i < EVEN_POINTS; i++) d[i] = PIXEL(i * EVEN_POINTS + j);
        transform_pixels(d, 1, half + j, EVEN_POINTS);
    }
    UNROLL for (int i = 0; i < EVEN_POINTS; i++) {
        UNROLL for (int j = 0; j < SIDE; j++)
            store(to + (DOWN + i * SIDE + j) * plane, half[i * EVEN_POINTS + j + column]);
        transform_pixels(half + i * EVEN_POINTS, 1, out, 1);
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) store(to + (BOTH + i * EVEN_POINTS + j) * plane, out[j]);
    }
    from += row * EVEN_POINTS;
    UNROLL for (int i = 0; i < SIDE; i++) {
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) d[j] = PIXEL(i * EVEN_POINTS + j);
        transform_pixels(d, 1, out, 1);
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) store(to + (ACROSS + j * SIDE + i) * plane, out[j]);
        UNROLL for (int j = 0; j < SIDE; j++)
            store(to + (i * SIDE + j) * plane, PIXEL(i * EVEN_POINTS + j + column));
    }
}

static void make_gradient_tile(const struct winograd *w, ptrdiff_t tile, real *v) {
    const struct correlation *c = w->c;
    const struct tile_place at = place_tile(&w->tiling, tile);
    const ptrdiff_t odd_y = is_odd(c->y_min), odd_x = is_odd(c->x_min), channels = c->src_channels;
    const ptrdiff_t next = SIDE * channels; /* the tile to the right */
    const real *from[EVEN_POINTS * EVEN_POINTS];
    find_pixels(EVEN_POINTS, &w->tiling, c->src + at.image * c->src_height * c->src_width * channels,
                c->src_height, c->src_width, channels, at.y + (c->y_min + odd_y) / 2,
                at.x + (c->x_min + odd_x) / 2, w->zeros, from);
    for (ptrdiff_t k = 0; k < channels; k += LANES) {
        for (int i = 0; i < EVEN_POINTS; i++)
            for (int j = 1; j < EVEN_POINTS; j++) __builtin_prefetch(from[i * EVEN_POINTS + j] + next + k);
        if (k + LANES <= channels)
            gradient_planes(from, !odd_y, !odd_x, k, LANES, v + k, w->v_plane);
        else
            gradient_planes(from, !odd_y, !odd_x, k, channels - k, v + k, w->v_plane);
    }
}

static void gradient_outputs(const real *m, ptrdiff_t plane, vec *out) {
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

const struct winograd_kind VARIANT(winograd_spread) = {SIDE,
                                                       4,
                                                       STRIDED_PLANES,
                                                       STRIDED_MATRICES,
                                                       SIX_CHUNK,
                                                       strided_matrix,
                                                       cut_gradient,
                                                       filter_planes,
                                                       make_gradient_tile,
                                                       place_gradient,
                                                       gradient_outputs};
