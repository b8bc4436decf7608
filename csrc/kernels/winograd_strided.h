/* Winograd's minimal filtering for 3x3 kernels with a stride of 2.
 *
 * In one direction, output i reads inputs 2 i, 2 i + 1 and 2 i + 2: the even ones by two taps, a dense
 * correlation F(4, 2) of five points, and the odd ones by one tap, which four plain products serve:
 *
 *     y = A^T [(G (g_0, g_2)) . (B^T d_even)] + g_1 d_odd          9 multiplications for 4 outputs, not 12
 *
 * In two directions 81 instead of 144: two taps both ways 25, two down and one across 5 * 4, one down and two
 * across 4 * 5, one both ways 16. The planes lie in the reverse of this order; those that share a filter's
 * matrix are neighbours, and there are 25 + 5 + 5 + 1 of these.
 *
 * The points are +-2/5, +-6/5 and infinity: relative RMS error 5e-7 (128 channels; +-1/2, +-1: 6.6e-7; 0, 1,
 * -1, 2: 9.7e-7).
 */
#ifndef PYCONV_WINOGRAD_STRIDED_H
#define PYCONV_WINOGRAD_STRIDED_H

#include "simd.h"
#include "winograd_tile.h"

#define SIDE 4        /* outputs of a tile in one direction */
#define EVEN_POINTS 5 /* of two taps */
#define SPAN 9        /* inputs */

#define POINT_A ((real)0.4)
#define POINT_B ((real)1.2)
#define SQUARE_A (POINT_A * POINT_A)
#define SQUARE_B (POINT_B * POINT_B)
#define SCALE_A (1 / (2 * POINT_A * (SQUARE_A - SQUARE_B)))
#define SCALE_B (1 / (2 * POINT_B * (SQUARE_B - SQUARE_A)))

/* Where the planes of two taps begin: across, down, both. There is one matrix for SIDE planes of the former.
 */
#define DOWN (SIDE * SIDE)
#define ACROSS (DOWN + EVEN_POINTS * SIDE)
#define BOTH (ACROSS + EVEN_POINTS * SIDE)
#define STRIDED_PLANES (BOTH + EVEN_POINTS * EVEN_POINTS)
#define STRIDED_MATRICES (1 + 2 * EVEN_POINTS + EVEN_POINTS * EVEN_POINTS)

/* Which matrix of the filters a plane is multiplied by. */
INLINE int strided_matrix(int plane) {
    if (plane < DOWN) return 0;
    return plane < BOTH ? 1 + (plane - DOWN) / SIDE : 1 + 2 * EVEN_POINTS + plane - BOTH;
}

/* ---- In one direction; steps in vectors ---- */

/* out = B^T d, 5 of each */
INLINE void transform_pixels(const vec *d, const int step, vec *out, const int out_step) {
    vec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step];
    vec even_a = d2 - SQUARE_B * d0, odd_a = d3 - SQUARE_B * d1;
    vec even_b = d2 - SQUARE_A * d0, odd_b = d3 - SQUARE_A * d1;
    out[0] = odd_a + POINT_A * even_a;
    out[out_step] = odd_a - POINT_A * even_a;
    out[2 * out_step] = odd_b + POINT_B * even_b;
    out[3 * out_step] = odd_b - POINT_B * even_b;
    out[4 * out_step] = d4 - SQUARE_A * d2 - SQUARE_B * even_b;
}

/* out = G (g, h) */
INLINE void transform_taps(vec g, vec h, vec *out, const int out_step) {
    out[0] = SCALE_A * (g + POINT_A * h);
    out[out_step] = SCALE_A * (POINT_A * h - g);
    out[2 * out_step] = SCALE_B * (g + POINT_B * h);
    out[3 * out_step] = SCALE_B * (POINT_B * h - g);
    out[4 * out_step] = h;
}

/* out = A^T y, 5 to 4 */
INLINE void transform_products(const vec *y, const int step, vec *out, const int out_step) {
    vec sum_a = y[0] + y[step], difference_a = y[0] - y[step];
    vec sum_b = y[2 * step] + y[3 * step], difference_b = y[2 * step] - y[3 * step];
    out[0] = sum_a + sum_b;
    out[out_step] = POINT_A * difference_a + POINT_B * difference_b;
    out[2 * out_step] = SQUARE_A * sum_a + SQUARE_B * sum_b;
    out[3 * out_step] = SQUARE_A * POINT_A * difference_a + SQUARE_B * POINT_B * difference_b + y[4 * step];
}

/* out = G g of four gradients as the taps, in F(2, 4) of the same points */
INLINE void transform_gradients(const vec *g, const int step, vec *out, const int out_step) {
    vec even_a = g[0] + SQUARE_A * g[2 * step], odd_a = POINT_A * (g[step] + SQUARE_A * g[3 * step]);
    vec even_b = g[0] + SQUARE_B * g[2 * step], odd_b = POINT_B * (g[step] + SQUARE_B * g[3 * step]);
    out[0] = SCALE_A * (odd_a + even_a);
    out[out_step] = SCALE_A * (odd_a - even_a);
    out[2 * out_step] = SCALE_B * (odd_b + even_b);
    out[3 * out_step] = SCALE_B * (odd_b - even_b);
    out[4 * out_step] = g[3 * step];
}

/* out = A^T y, 5 to the 2 taps */
INLINE void transform_tap_products(const vec *y, const int step, vec *out, const int out_step) {
    out[0] = y[0] + y[step] + y[2 * step] + y[3 * step];
    out[out_step] = POINT_A * (y[0] - y[step]) + POINT_B * (y[2 * step] - y[3 * step]) + y[4 * step];
}

/* ---- In both ---- */

/* 9 x 9 inputs to 81 planes; the first row and column are shared with the tiles before. */
INLINE void image_planes(const struct tile_vector *t) {
    vec half[EVEN_POINTS * EVEN_POINTS], d[EVEN_POINTS], out[EVEN_POINTS];
    UNROLL for (int i = 0; i < SIDE; i++) UNROLL for (int j = 0; j < SIDE; j++)
        write_plane(t, i * SIDE + j, read_pixel(t, (2 * i + 1) * SPAN + 2 * j + 1, 1));
    UNROLL for (int j = 0; j < SIDE; j++) {
        UNROLL for (int i = 0; i < EVEN_POINTS; i++) d[i] = read_pixel(t, 2 * i * SPAN + 2 * j + 1, i > 0);
        transform_pixels(d, 1, out, 1);
        UNROLL for (int i = 0; i < EVEN_POINTS; i++) write_plane(t, DOWN + i * SIDE + j, out[i]);
    }
    UNROLL for (int i = 0; i < SIDE; i++) {
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) d[j] = read_pixel(t, (2 * i + 1) * SPAN + 2 * j, j > 0);
        transform_pixels(d, 1, out, 1);
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) write_plane(t, ACROSS + j * SIDE + i, out[j]);
    }
    UNROLL for (int j = 0; j < EVEN_POINTS; j++) {
        UNROLL for (int i = 0; i < EVEN_POINTS; i++) d[i] =
            read_pixel(t, 2 * i * SPAN + 2 * j, i > 0 && j > 0);
        transform_pixels(d, 1, half + j, EVEN_POINTS);
    }
    UNROLL for (int i = 0; i < EVEN_POINTS; i++) {
        transform_pixels(half + i * EVEN_POINTS, 1, out, 1);
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) write_plane(t, BOTH + i * EVEN_POINTS + j, out[j]);
    }
}

/* 4 x 4 gradients to 81 planes, each of which meets the image's */
INLINE void gradient_tile_planes(const struct tile_vector *t) {
    vec g[SIDE * SIDE], half[EVEN_POINTS * SIDE], out[EVEN_POINTS];
    UNROLL for (int i = 0; i < SIDE * SIDE; i++) {
        g[i] = read_pixel(t, i, 1);
        write_plane(t, i, g[i]);
    }
    UNROLL for (int i = 0; i < SIDE; i++) {
        transform_gradients(g + i * SIDE, 1, out, 1);
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) write_plane(t, ACROSS + j * SIDE + i, out[j]);
    }
    UNROLL for (int j = 0; j < SIDE; j++) transform_gradients(g + j, SIDE, half + j, SIDE);
    UNROLL for (int i = 0; i < EVEN_POINTS; i++) {
        UNROLL for (int j = 0; j < SIDE; j++) write_plane(t, DOWN + i * SIDE + j, half[i * SIDE + j]);
        transform_gradients(half + i * SIDE, 1, out, 1);
        UNROLL for (int j = 0; j < EVEN_POINTS; j++) write_plane(t, BOTH + i * EVEN_POINTS + j, out[j]);
    }
}

/* 36 matrices of products to 3 x 3 taps */
INLINE void tap_outputs(const real *m, ptrdiff_t plane, vec *out) {
    const real *down = m + plane, *across = down + EVEN_POINTS * plane, *both = across + EVEN_POINTS * plane;
    vec y[EVEN_POINTS], half[2 * EVEN_POINTS];
    out[4] = load(m);
    UNROLL for (int i = 0; i < EVEN_POINTS; i++) y[i] = load(down + i * plane);
    transform_tap_products(y, 1, out + 1, 6);
    UNROLL for (int i = 0; i < EVEN_POINTS; i++) y[i] = load(across + i * plane);
    transform_tap_products(y, 1, out + 3, 2);
    UNROLL for (int j = 0; j < EVEN_POINTS; j++) {
        UNROLL for (int i = 0; i < EVEN_POINTS; i++) y[i] = load(both + (i * EVEN_POINTS + j) * plane);
        transform_tap_products(y, 1, half + j, EVEN_POINTS);
    }
    transform_tap_products(half, 1, out, 2);
    transform_tap_products(half + EVEN_POINTS, 1, out + 6, 2);
}

#endif
