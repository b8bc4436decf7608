/* Winograd's minimal filtering with four to seven points, in one dimension; two dimensions apply it twice.
 *
 * A correlation of `taps` filter taps g over m + taps - 1 = `points` inputs d has m outputs
 *
 *     y = A^T [(G g) . (B^T d)]
 *
 * with `points` multiplications where the direct sum needs m * taps. (Lavin & Gray, arXiv:1509.09308; the
 * matrices are Toom and Cook's.) With the finite points x_j in {0, 1, -1}, {a, -a, b, -b},
 * {0, a, -a, b, -b} or {a, -a, b, -b, c, -c}, and infinity:
 *
 *     B^T[j] = coefficients of the product over l != j of (x - x_l); at infinity, over all l
 *     G[j]   = (1, x_j, x_j^2, ...) / N_j, N_j = product over l != j of (x_j - x_l); at infinity (0..0 1)
 *     A^T[i] = (x_0^i, x_1^i, ...); at infinity 1 in the last row alone
 *
 * (where N_j is negative for -x only, the signs of G[j] and B^T[j] are exchanged). B^T is the same for every
 * split of the points into m and taps: F(4, 3), F(2, 5), F(3, 4) and F(5, 2) share it, and F(5, 3), F(3, 5)
 * and F(4, 4).
 *
 * The points decide the rounding error (relative, RMS, 128 channels, in two directions): six with a = 5/8,
 * b = 3/2 have 8e-7, where the usual 0, 1, -1, 2, -2 have 1.9e-6. Seven have 2e-6, nearly all of which comes
 * from the sums over the channels: these are cut into chunks of SEVEN_CHUNK, and 1.2e-6 are left (1.4e-6 of
 * 512 channels). With a zero among the seven points, or with eight, it would be 1.4 and 2 times as much.
 * Five, a = 1/2 and b = 5/4, have 2e-7 beside what the sums add: they are for weight gradients of few pixels.
 * Four make the least of few pixels, whose filters are most of the work.
 */
#ifndef PYCONV_WINOGRAD_H
#define PYCONV_WINOGRAD_H

#include "finite.h"
#include "simd.h"
#include "winograd_tile.h"

#define MOST_POINTS 7
#define MOST_AREA (MOST_POINTS * MOST_POINTS)
#define SEVEN_CHUNK 32 /* 16 and 48 channels: 1.1e-6 and 1.35e-6 instead of 1.2e-6 */

#define FIVE_A ((real)0.5)
#define FIVE_B ((real)1.25)
#define FIVE_A2 (FIVE_A * FIVE_A)
#define FIVE_B2 (FIVE_B * FIVE_B)

#define SIX_A ((real)0.625)
#define SIX_B ((real)1.5)
#define SIX_A2 (SIX_A * SIX_A)
#define SIX_B2 (SIX_B * SIX_B)

#define SEVEN_A ((real)0.28125)
#define SEVEN_B ((real)0.84375)
#define SEVEN_C ((real)1.75)
#define SEVEN_A2 (SEVEN_A * SEVEN_A)
#define SEVEN_B2 (SEVEN_B * SEVEN_B)
#define SEVEN_C2 (SEVEN_C * SEVEN_C)

/* ---- In one direction; steps: vectors between neighbours of the operand and of out ---- */

INLINE void input_of_four(const vec *d, int d_step, vec *out, int out_step) {
    vec d1 = d[d_step], d2 = d[2 * d_step];
    out[0] = d[0] - d2;
    out[out_step] = d2 + d1;
    out[2 * out_step] = d2 - d1;
    out[3 * out_step] = d[3 * d_step] - d1;
}

INLINE void input_of_five(const vec *d, int d_step, vec *out, int out_step) {
    vec even_a = d[2 * d_step] - FIVE_B2 * d[0], odd_a = d[3 * d_step] - FIVE_B2 * d[d_step];
    vec even_b = d[2 * d_step] - FIVE_A2 * d[0], odd_b = d[3 * d_step] - FIVE_A2 * d[d_step];
    out[0] = FIVE_A * even_a + odd_a;
    out[out_step] = FIVE_A * even_a - odd_a;
    out[2 * out_step] = FIVE_B * even_b + odd_b;
    out[3 * out_step] = FIVE_B * even_b - odd_b;
    out[4 * out_step] = d[4 * d_step] - (FIVE_A2 + FIVE_B2) * d[2 * d_step] + (FIVE_A2 * FIVE_B2) * d[0];
}

INLINE void input_of_six(const vec *d, int d_step, vec *out, int out_step) {
    vec d0 = d[0], d1 = d[d_step], d2 = d[2 * d_step], d3 = d[3 * d_step], d4 = d[4 * d_step],
        d5 = d[5 * d_step];
    vec even_a = d4 - SIX_B2 * d2, odd_a = d3 - SIX_B2 * d1, even_b = d4 - SIX_A2 * d2,
        odd_b = d3 - SIX_A2 * d1;
    out[0] = even_a - SIX_A2 * d2 + (SIX_A2 * SIX_B2) * d0;
    out[out_step] = even_a + SIX_A * odd_a;
    out[2 * out_step] = even_a - SIX_A * odd_a;
    out[3 * out_step] = even_b + SIX_B * odd_b;
    out[4 * out_step] = even_b - SIX_B * odd_b;
    out[5 * out_step] = d5 - SIX_A2 * d3 - SIX_B2 * odd_b;
}

/* (x +- t) (t^2 - y) (t^2 - z), for the two other squares y and z */
INLINE void input_of_pair(const vec *d, int d_step, real x, real y, real z, vec *out, int out_step) {
    vec even = d[4 * d_step] - (y + z) * d[2 * d_step] + (y * z) * d[0];
    vec odd = d[5 * d_step] - (y + z) * d[3 * d_step] + (y * z) * d[d_step];
    out[0] = x * even + odd;
    out[out_step] = x * even - odd;
}

INLINE void input_of_seven(const vec *d, int d_step, vec *out, int out_step) {
    input_of_pair(d, d_step, SEVEN_A, SEVEN_B2, SEVEN_C2, out, out_step);
    input_of_pair(d, d_step, SEVEN_B, SEVEN_A2, SEVEN_C2, out + 2 * out_step, out_step);
    input_of_pair(d, d_step, SEVEN_C, SEVEN_A2, SEVEN_B2, out + 4 * out_step, out_step);
    out[6 * out_step] = d[6 * d_step] - (SEVEN_A2 + SEVEN_B2 + SEVEN_C2) * d[4 * d_step] +
                        (SEVEN_A2 * SEVEN_B2 + SEVEN_A2 * SEVEN_C2 + SEVEN_B2 * SEVEN_C2) * d[2 * d_step] -
                        (SEVEN_A2 * SEVEN_B2 * SEVEN_C2) * d[0];
}

/* out = B^T d */
INLINE void transform_input(const int points, const vec *d, int d_step, vec *out, int out_step) {
    if (points == 4)
        input_of_four(d, d_step, out, out_step);
    else if (points == 5)
        input_of_five(d, d_step, out, out_step);
    else if (points == 6)
        input_of_six(d, d_step, out, out_step);
    else
        input_of_seven(d, d_step, out, out_step);
}

/* scale * (1, +-x, x^2, ...) g */
INLINE void filter_of_pair(const int taps, const vec *g, int g_step, real x, real scale, vec *out,
                           int out_step) {
    vec even = g[0], odd = {0};
    real power = x;
    UNROLL for (int i = 1; i < taps; i++, power *= x) {
        if (i % 2)
            odd += power * g[i * g_step];
        else
            even += power * g[i * g_step];
    }
    out[0] = scale * (even + odd);
    out[out_step] = scale * (even - odd);
}

/* out = G g for a filter of `taps` */
INLINE void transform_filter(const int points, const int taps, const vec *g, int g_step, vec *out,
                             int out_step) {
    if (points == 4) {
        out[0] = g[0];
        filter_of_pair(taps, g, g_step, 1, (real)0.5, out + out_step, out_step);
    } else if (points == 5) {
        filter_of_pair(taps, g, g_step, FIVE_A, 1 / (2 * FIVE_A * (FIVE_A2 - FIVE_B2)), out, out_step);
        filter_of_pair(taps, g, g_step, FIVE_B, 1 / (2 * FIVE_B * (FIVE_B2 - FIVE_A2)), out + 2 * out_step,
                       out_step);
    } else if (points == 6) {
        out[0] = (1 / (SIX_A2 * SIX_B2)) * g[0];
        filter_of_pair(taps, g, g_step, SIX_A, 1 / (2 * SIX_A2 * (SIX_A2 - SIX_B2)), out + out_step,
                       out_step);
        filter_of_pair(taps, g, g_step, SIX_B, 1 / (2 * SIX_B2 * (SIX_B2 - SIX_A2)), out + 3 * out_step,
                       out_step);
    } else {
        filter_of_pair(taps, g, g_step, SEVEN_A,
                       1 / (2 * SEVEN_A * (SEVEN_A2 - SEVEN_B2) * (SEVEN_A2 - SEVEN_C2)), out, out_step);
        filter_of_pair(taps, g, g_step, SEVEN_B,
                       1 / (2 * SEVEN_B * (SEVEN_B2 - SEVEN_A2) * (SEVEN_B2 - SEVEN_C2)), out + 2 * out_step,
                       out_step);
        filter_of_pair(taps, g, g_step, SEVEN_C,
                       1 / (2 * SEVEN_C * (SEVEN_C2 - SEVEN_A2) * (SEVEN_C2 - SEVEN_B2)), out + 4 * out_step,
                       out_step);
    }
    out[(points - 1) * out_step] = g[(taps - 1) * g_step];
}

/* sum (+)= (1, x, x^2, ...) of one point, and of its negative; += unless `first`, whose products are rounded:
 * left to the compiler, which of two products is fused with the sum differs from one inlined copy to another,
 * and so would the bits of a tile's outputs with and without a residual. */
INLINE void outputs_of_pair(const int outputs, const int first, vec plus, vec minus, real x, vec *sum) {
    vec even = plus + minus, odd = plus - minus;
    real power = x;
    sum[0] = first ? even : sum[0] + even;
    UNROLL for (int i = 1; i < outputs; i++, power *= x) {
        vec term = i % 2 ? odd : even;
        sum[i] = first ? in_register(power * term) : sum[i] + power * term;
    }
}

/* out = A^T y for `outputs` of them */
INLINE void transform_output(const int points, const int outputs, const vec *y, int y_step, vec *out,
                             int out_step) {
    vec sum[MOST_POINTS];
    if (points == 4) {
        outputs_of_pair(outputs, 1, y[y_step], y[2 * y_step], 1, sum);
        sum[0] += y[0];
    } else if (points == 5) {
        outputs_of_pair(outputs, 1, y[0], y[y_step], FIVE_A, sum);
        outputs_of_pair(outputs, 0, y[2 * y_step], y[3 * y_step], FIVE_B, sum);
    } else if (points == 6) {
        outputs_of_pair(outputs, 1, y[y_step], y[2 * y_step], SIX_A, sum);
        sum[0] += y[0];
        outputs_of_pair(outputs, 0, y[3 * y_step], y[4 * y_step], SIX_B, sum);
    } else {
        outputs_of_pair(outputs, 1, y[0], y[y_step], SEVEN_A, sum);
        outputs_of_pair(outputs, 0, y[2 * y_step], y[3 * y_step], SEVEN_B, sum);
        outputs_of_pair(outputs, 0, y[4 * y_step], y[5 * y_step], SEVEN_C, sum);
    }
    sum[outputs - 1] += y[(points - 1) * y_step];
    UNROLL for (int i = 0; i < outputs; i++) out[i * out_step] = sum[i];
}

/* The same in both directions, from memory to memory: what passes through arrays of vectors on the way is
 * stored and loaded once more, and a transform is bound by just that. */

/* points x points inputs; rows and columns from `fresh` on are those that a tile does not share with the one
 * before, or above. */
INLINE void transform_input_tile(const int points, const int fresh, const struct tile_vector *t) {
    vec half[MOST_AREA];
    UNROLL for (int j = 0; j < points; j++) {
        vec d[MOST_POINTS];
        UNROLL for (int i = 0; i < points; i++) d[i] =
            read_pixel(t, i * points + j, i >= fresh && j >= fresh);
        transform_input(points, d, 1, half + j, points);
    }
    UNROLL for (int i = 0; i < points; i++) {
        vec out[MOST_POINTS];
        transform_input(points, half + i * points, 1, out, 1);
        UNROLL for (int j = 0; j < points; j++) write_plane(t, i * points + j, out[j]);
    }
}

/* taps x taps gradients as a filter, in the same form */
INLINE void transform_gradient_tile(const int points, const int taps, const struct tile_vector *t) {
    vec half[MOST_AREA];
    UNROLL for (int j = 0; j < taps; j++) {
        vec g[MOST_POINTS];
        UNROLL for (int i = 0; i < taps; i++) g[i] = read_pixel(t, i * taps + j, 1);
        transform_filter(points, taps, g, 1, half + j, points);
    }
    UNROLL for (int i = 0; i < points; i++) {
        vec out[MOST_POINTS];
        transform_filter(points, taps, half + i * points, 1, out, 1);
        UNROLL for (int j = 0; j < points; j++) write_plane(t, i * points + j, out[j]);
    }
}

/* taps x taps filters, in vectors; elements from one of the points x points to the next, and to what will be
 * written next */
INLINE void transform_filter_tile(const int points, const int taps, const vec *g, real *to, ptrdiff_t plane,
                                  ptrdiff_t ahead) {
    vec half[MOST_AREA];
    UNROLL for (int j = 0; j < taps; j++) transform_filter(points, taps, g + j, taps, half + j, points);
    UNROLL for (int i = 0; i < points; i++) {
        vec out[MOST_POINTS];
        transform_filter(points, taps, half + i * points, 1, out, 1);
        UNROLL for (int j = 0; j < points; j++) store_and_fetch(to + (i * points + j) * plane, out[j], ahead);
    }
}

/* points x points products to outputs x points, the first direction of two */
INLINE void transform_output_columns(const int points, const int outputs, const real *from, ptrdiff_t plane,
                                     vec *half) {
    UNROLL for (int j = 0; j < points; j++) {
        vec y[MOST_POINTS];
        UNROLL for (int i = 0; i < points; i++) y[i] = load(from + (i * points + j) * plane);
        transform_output(points, outputs, y, 1, half + j, points);
    }
}

/* points x points products to outputs x outputs, in vectors */
INLINE void transform_output_tile(const int points, const int outputs, const real *from, ptrdiff_t plane,
                                  vec *out) {
    vec half[MOST_AREA];
    transform_output_columns(points, outputs, from, plane, half);
    UNROLL for (int i = 0; i < outputs; i++)
        transform_output(points, outputs, half + i * points, 1, out + i * outputs, 1);
}

#endif
