/* Winograd's minimal filtering along one line of the image, with seven points: F(4, 4).
 *
 *     y = A^T [(G g) . (B^T d)]      4 outputs y, 4 taps g, 7 inputs d: 7 multiplications instead of 16
 *
 * The matrices are Toom and Cook's, as in winograd.h, for the points 0, +-a, +-b, +-c; infinity is not among
 * them, which is a little more exact here (relative RMS 5e-7 at 128 channels; with it 6e-7). As many taps as
 * outputs: so a longer kernel is cut into groups of four taps, and the tile that group q reads for the tile
 * of outputs t is the one that group 0 reads for t + q. Every input tile is transformed once for all of them:
 *
 *     V[p][y][u][c] = sum over j of B^T[p][j] * input[y][4 u + j][c]
 *     U[p][r][q][c][k] = sum over s of G[p][s] * weight[k][c][r][4 q + s]
 *     M[p][i][t][k] = sum over r, q, c of V[p][i + r][t + q][c] * U[p][r][q][c][k]
 *     output[i][4 t + o][k] = sum over p of A^T[o][p] * M[p][i][t][k]
 *
 * For each of the points M is a direct convolution of V. A kernel that is higher than wide, or dilated
 * across, has its lines along y. In two directions seven points are too inexact (3e-6).
 */
#ifndef PYCONV_WINOGRAD_LINE_H
#define PYCONV_WINOGRAD_LINE_H

#include "correlation.h"
#include "simd.h"

#define LINE_POINTS 7
#define LINE_OUTPUTS 4    /* and taps of a group */
#define MOST_LINE_TAPS 64 /* of the correlation of V */

#define POINT_A ((real)0.52)
#define POINT_B ((real)1.18)
#define POINT_C ((real)2.96)
#define SQUARE_A (POINT_A * POINT_A)
#define SQUARE_B (POINT_B * POINT_B)
#define SQUARE_C (POINT_C * POINT_C)

/* +-x for the two other squares y and z: of x (x +- sqrt x) (d - y) (d - z), even and odd powers */
INLINE void line_pair(const vec *d, real x, real y, real z, vec *out) {
    vec even = d[6] - (y + z) * d[4] + (y * z) * d[2], odd = d[5] - (y + z) * d[3] + (y * z) * d[1];
    out[0] = even + x * odd;
    out[1] = even - x * odd;
}

/* out = B^T d */
INLINE void line_input(const vec *d, vec *out) {
    out[0] = d[6] - (SQUARE_A + SQUARE_B + SQUARE_C) * d[4] +
             (SQUARE_A * SQUARE_B + SQUARE_A * SQUARE_C + SQUARE_B * SQUARE_C) * d[2] -
             (SQUARE_A * SQUARE_B * SQUARE_C) * d[0];
    line_pair(d, POINT_A, SQUARE_B, SQUARE_C, out + 1);
    line_pair(d, POINT_B, SQUARE_A, SQUARE_C, out + 3);
    line_pair(d, POINT_C, SQUARE_A, SQUARE_B, out + 5);
}

INLINE void line_filter_pair(const vec *g, real x, real y, real z, vec *out) {
    const real square = x * x, scale = 1 / (2 * square * (square - y) * (square - z));
    vec even = scale * (g[0] + square * g[2]), odd = scale * x * (g[1] + square * g[3]);
    out[0] = even + odd;
    out[1] = even - odd;
}

/* out = G g */
INLINE void line_filter(const vec *g, vec *out) {
    out[0] = (-1 / (SQUARE_A * SQUARE_B * SQUARE_C)) * g[0];
    line_filter_pair(g, POINT_A, SQUARE_B, SQUARE_C, out + 1);
    line_filter_pair(g, POINT_B, SQUARE_A, SQUARE_C, out + 3);
    line_filter_pair(g, POINT_C, SQUARE_A, SQUARE_B, out + 5);
}

/* out = A^T y */
INLINE void line_output(const vec *y, vec *out) {
    vec sum_a = y[1] + y[2], sum_b = y[3] + y[4], sum_c = y[5] + y[6];
    vec odd_a = POINT_A * (y[1] - y[2]), odd_b = POINT_B * (y[3] - y[4]), odd_c = POINT_C * (y[5] - y[6]);
    out[0] = y[0] + sum_a + sum_b + sum_c;
    out[1] = odd_a + odd_b + odd_c;
    out[2] = SQUARE_A * sum_a + SQUARE_B * sum_b + SQUARE_C * sum_c;
    out[3] = SQUARE_A * odd_a + SQUARE_B * odd_b + SQUARE_C * odd_c;
}

/* ---- Geometry ---- */

/* The lines of a correlation of step 1. V and M are seven images each. */
struct lines {
    int vertical;                          /* tiles follow one another along y */
    ptrdiff_t groups, rows;                /* of four taps to a line; lines of the kernel */
    ptrdiff_t kernel_height, kernel_width; /* of the correlation of V: rows x groups, or groups x rows */
    ptrdiff_t v_height, v_width, m_height, m_width;
    ptrdiff_t images; /* to a pass: V and M of a pass take PASS_BYTES, or are those of one image */
};

#define PASS_BYTES ((ptrdiff_t)16 << 20)
#define MOST_PASS_BYTES ((ptrdiff_t)28 << 20) /* of one image: larger ones are not worth the memory */

INLINE struct lines cut_lines(ptrdiff_t batch, ptrdiff_t height, ptrdiff_t width, ptrdiff_t kernel_height,
                              ptrdiff_t kernel_width, ptrdiff_t dilation_height, ptrdiff_t dilation_width,
                              ptrdiff_t channels) {
    struct lines l = {.vertical = dilation_height == dilation_width ? kernel_height > kernel_width
                                                                    : dilation_height < dilation_width};
    l.groups = ceil_div(l.vertical ? kernel_height : kernel_width, LINE_OUTPUTS);
    l.rows = l.vertical ? kernel_width : kernel_height;
    l.kernel_height = l.vertical ? l.groups : l.rows, l.kernel_width = l.vertical ? l.rows : l.groups;
    l.m_height = l.vertical ? ceil_div(height, LINE_OUTPUTS) : height;
    l.m_width = l.vertical ? width : ceil_div(width, LINE_OUTPUTS);
    l.v_height = l.m_height + (l.kernel_height - 1) * (l.vertical ? 1 : dilation_height);
    l.v_width = l.m_width + (l.kernel_width - 1) * (l.vertical ? dilation_width : 1);
    double bytes =
        (double)l.v_height * (double)l.v_width * (double)(LINE_POINTS * channels) * sizeof(real) + 1;
    l.images = bytes > MOST_PASS_BYTES ? 0 : min_size(max_size((ptrdiff_t)(PASS_BYTES / bytes), 1), batch);
    return l;
}

/* An image of which tiles are taken, from pixel (y, x) on: which may lie outside of it. */
struct plane {
    const real *image; /* channels-last */
    ptrdiff_t height, width, channels, y, x;
    const real *zeros; /* `channels` of them */
};

/* Where the `count` pixels of the tile (row, column) begin, along the lines. */
INLINE void find_line(const struct lines *l, const struct plane *from, ptrdiff_t row, ptrdiff_t column,
                      const int count, const real **pixel) {
    ptrdiff_t y = row * (l->vertical ? LINE_OUTPUTS : 1) + from->y,
              x = column * (l->vertical ? 1 : LINE_OUTPUTS) + from->x;
    for (int j = 0; j < count; j++, y += l->vertical, x += !l->vertical) {
        int inside = y >= 0 && y < from->height && x >= 0 && x < from->width;
        pixel[j] = inside ? from->image + (y * from->width + x) * from->channels : from->zeros;
    }
}

/* A row of V (count 7, line_input) or of transformed gradients (4, line_filter): [column][channel] of each
 * point, `plane` elements apart */
INLINE void transform_line_row(const struct lines *l, const struct plane *from, ptrdiff_t row,
                               ptrdiff_t columns, const int count, real *to, ptrdiff_t plane) {
    ptrdiff_t channels = from->channels;
    for (ptrdiff_t column = 0; column < columns; column++, to += channels) {
        const real *pixel[LINE_POINTS];
        find_line(l, from, row, column, count, pixel);
        for (ptrdiff_t c = 0; c < channels; c += LANES) {
            ptrdiff_t lanes = min_size(LANES, channels - c);
            vec d[LINE_POINTS], out[LINE_POINTS];
            UNROLL for (int j = 0; j < count; j++) d[j] =
                lanes == LANES ? load(pixel[j] + c) : load_first(pixel[j] + c, lanes);
            if (count == LINE_POINTS)
                line_input(d, out);
            else
                line_filter(d, out);
            UNROLL for (int p = 0; p < LINE_POINTS; p++) {
                real *at = to + p * plane + c;
                if (lanes == LANES)
                    store(at, out[p]);
                else
                    store_first(at, out[p], lanes);
            }
        }
    }
}

#endif
