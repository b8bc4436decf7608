/* Winograd's minimal filtering with six points, in one dimension; two dimensions apply it twice.
 *
 * A correlation of `taps` filter taps g over m + taps - 1 = 6 inputs d has m outputs
 *
 *     y = A^T [(G g) . (B^T d)]
 *
 * with 6 multiplications where the direct sum needs m * taps. (Lavin & Gray, arXiv:1509.09308; the
 * matrices are Toom and Cook's.) With the finite points x_j in {0, a, -a, b, -b}, and infinity:
 *
 *     B^T[j] = coefficients of the product over l != j of (x - x_l); at infinity, over all l
 *     G[j]   = (1, x_j, x_j^2, ...) / N_j, N_j = product over l != j of (x_j - x_l); at infinity (0..0 1)
 *     A^T[i] = (x_0^i, x_1^i, ...); at infinity 1 in the last row alone
 *
 * B^T is the same for every split of 6 into m and taps: F(4, 3), F(2, 5), F(3, 4) and F(5, 2) share it.
 * The points decide the rounding error: with a = 5/8, b = 3/2 it is 8e-7 (relative, RMS, 128 channels)
 * where the usual 0, 1, -1, 2, -2 have 1.9e-6.
 */
#ifndef PYCONV_WINOGRAD_H
#define PYCONV_WINOGRAD_H

#include "simd.h"

/* The kernels that these tiles are for: F(4x4, 3x3) and F(2x2, 5x5). */
INLINE int is_square(ptrdiff_t kernel_height, ptrdiff_t kernel_width) {
    return kernel_height == kernel_width && (kernel_height == 3 || kernel_height == 5);
}

#define POINTS 6
#define AREA (POINTS * POINTS)

#define WINOGRAD_A ((real)0.625)
#define WINOGRAD_B ((real)1.5)
#define A2 (WINOGRAD_A * WINOGRAD_A)
#define B2 (WINOGRAD_B * WINOGRAD_B)
#define N_0 (A2 * B2)
#define N_A (2 * A2 * (A2 - B2))
#define N_B (2 * B2 * (B2 - A2))

/* out = B^T d; step: vectors between neighbours of d and of out */
INLINE void transform_input(const vec *d, int d_step, vec *out, int out_step) {
    vec d0 = d[0], d1 = d[d_step], d2 = d[2 * d_step], d3 = d[3 * d_step], d4 = d[4 * d_step],
        d5 = d[5 * d_step];
    vec even_a = d4 - B2 * d2, odd_a = d3 - B2 * d1, even_b = d4 - A2 * d2, odd_b = d3 - A2 * d1;
    out[0] = even_a - A2 * d2 + (A2 * B2) * d0;
    out[out_step] = even_a + WINOGRAD_A * odd_a;
    out[2 * out_step] = even_a - WINOGRAD_A * odd_a;
    out[3 * out_step] = even_b + WINOGRAD_B * odd_b;
    out[4 * out_step] = even_b - WINOGRAD_B * odd_b;
    out[5 * out_step] = d5 - A2 * d3 - B2 * odd_b;
}

/* out = G g for a filter of `taps` */
INLINE void transform_filter(const int taps, const vec *g, int g_step, vec *out, int out_step) {
    vec even_a = g[0], even_b = g[0], odd_a = {0}, odd_b = {0};
    real power_a = WINOGRAD_A, power_b = WINOGRAD_B;
    UNROLL for (int i = 1; i < taps; i++) {
        if (i % 2)
            odd_a += power_a * g[i * g_step], odd_b += power_b * g[i * g_step];
        else
            even_a += power_a * g[i * g_step], even_b += power_b * g[i * g_step];
        power_a *= WINOGRAD_A, power_b *= WINOGRAD_B;
    }
    out[0] = (1 / N_0) * g[0];
    out[out_step] = (1 / N_A) * (even_a + odd_a);
    out[2 * out_step] = (1 / N_A) * (even_a - odd_a);
    out[3 * out_step] = (1 / N_B) * (even_b + odd_b);
    out[4 * out_step] = (1 / N_B) * (even_b - odd_b);
    out[5 * out_step] = g[(taps - 1) * g_step];
}

/* out = A^T y for `outputs` of them */
INLINE void transform_output(const int outputs, const vec *y, int y_step, vec *out, int out_step) {
    vec sum_a = y[y_step] + y[2 * y_step], difference_a = y[y_step] - y[2 * y_step];
    vec sum_b = y[3 * y_step] + y[4 * y_step], difference_b = y[3 * y_step] - y[4 * y_step];
    real power_a = WINOGRAD_A, power_b = WINOGRAD_B;
    out[0] = y[0] + sum_a + sum_b;
    UNROLL for (int i = 1; i < outputs; i++) {
        if (i % 2)
            out[i * out_step] = power_a * difference_a + power_b * difference_b;
        else
            out[i * out_step] = power_a * sum_a + power_b * sum_b;
        power_a *= WINOGRAD_A, power_b *= WINOGRAD_B;
    }
    out[(outputs - 1) * out_step] += y[5 * y_step];
}

/* The same in both directions, from memory to memory: what passes through arrays of vectors on the way is
 * stored and loaded once more, and a transform is bound by just that. `plane`: elements from one of the 6 x 6
 * points to the next. */

/* 6 x 6 inputs, of which pixel p's channels begin at from[p] + offset and `lanes` exist */
INLINE void transform_input_tile(const real *const *from, ptrdiff_t offset, ptrdiff_t lanes, real *to,
                                 ptrdiff_t plane) {
    vec half[AREA];
    UNROLL for (int j = 0; j < POINTS; j++) {
        vec d[POINTS];
        UNROLL for (int i = 0; i < POINTS; i++) {
            const real *at = from[i * POINTS + j] + offset;
            d[i] = lanes == LANES ? load(at) : load_first(at, lanes);
        }
        transform_input(d, 1, half + j, POINTS);
    }
    UNROLL for (int i = 0; i < POINTS; i++) {
        vec out[POINTS];
        transform_input(half + i * POINTS, 1, out, 1);
        UNROLL for (int j = 0; j < POINTS; j++) store(to + (i * POINTS + j) * plane, out[j]);
    }
}

/* The second direction of a filter's transform; half: [POINTS][POINTS], of which `taps` columns count. */
INLINE void store_filter(const int taps, const vec *half, real *to, ptrdiff_t plane) {
    UNROLL for (int i = 0; i < POINTS; i++) {
        vec out[POINTS];
        transform_filter(taps, half + i * POINTS, 1, out, 1);
        UNROLL for (int j = 0; j < POINTS; j++) store(to + (i * POINTS + j) * plane, out[j]);
    }
}

/* taps x taps gradients as a filter, in the same form */
INLINE void transform_gradient_tile(const int taps, const real *const *from, ptrdiff_t offset,
                                    ptrdiff_t lanes, real *to, ptrdiff_t plane) {
    vec half[AREA];
    UNROLL for (int j = 0; j < taps; j++) {
        vec g[POINTS];
        UNROLL for (int i = 0; i < taps; i++) {
            const real *at = from[i * taps + j] + offset;
            g[i] = lanes == LANES ? load(at) : load_first(at, lanes);
        }
        transform_filter(taps, g, 1, half + j, POINTS);
    }
    store_filter(taps, half, to, plane);
}

/* taps x taps filters, in vectors */
INLINE void transform_filter_tile(const int taps, const vec *g, real *to, ptrdiff_t plane) {
    vec half[AREA];
    UNROLL for (int j = 0; j < taps; j++) transform_filter(taps, g + j, taps, half + j, POINTS);
    store_filter(taps, half, to, plane);
}

/* 6 x 6 products to outputs x outputs, in vectors */
INLINE void transform_output_tile(const int outputs, const real *from, ptrdiff_t plane, vec *out) {
    vec half[AREA];
    UNROLL for (int j = 0; j < POINTS; j++) {
        vec y[POINTS];
        UNROLL for (int i = 0; i < POINTS; i++) y[i] = load(from + (i * POINTS + j) * plane);
        transform_output(outputs, y, 1, half + j, POINTS);
    }
    UNROLL for (int i = 0; i < outputs; i++)
        transform_output(outputs, half + i * POINTS, 1, out + i * outputs, 1);
}

/* ---- Tiles of an image ----
 *
 * A convolution of dilation d is d dense ones in each direction: the outputs congruent modulo d to one
 * another read inputs that are, too. So a tile's pixels lie `dilation` apart, and each residue has its own
 * tiles. */
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

#endif
