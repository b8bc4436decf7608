/* Winograd's minimal filtering along one line of the image, with seven points: F(4, 4).
 *
 *     y = A^T [(G g) . (B^T d)]      4 outputs y, 4 taps g, 7 inputs d: 7 multiplications instead of 16
 *
 * The matrices are those of winograd.h. As many taps as outputs: so a longer kernel is cut into groups of
 * four taps, and the tile that group q reads for the tile of outputs t is the one that group 0 reads for t +
 * q. Every input tile is transformed once for all of them:
 *
 *     V[p][y][u][c] = sum over j of B^T[p][j] * input[y][4 u + j][c]
 *     U[p][r][q][c][k] = sum over s of G[p][s] * weight[k][c][r][4 q + s]
 *     M[p][i][t][k] = sum over r, q, c of V[p][i + r][t + q][c] * U[p][r][q][c][k]
 *     output[i][4 t + o][k] = sum over p of A^T[o][p] * M[p][i][t][k]
 *
 * For each of the points M is a direct convolution of V. A kernel that is higher than wide, or dilated
 * across, has its lines along y.
 */
#ifndef PYCONV_WINOGRAD_LINE_H
#define PYCONV_WINOGRAD_LINE_H

#include "correlation.h"
#include "simd.h"
#include "winograd.h"

#define LINE_POINTS 7
#define LINE_OUTPUTS 4    /* and taps of a group */
#define MOST_LINE_TAPS 64 /* of the correlation of V */

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

/* A row of V (count 7) or of gradients, transformed as filters (4): [column][channel] of each
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
            UNROLL for (int j = 0; j < count; j++) d[j] = load_some(pixel[j] + c, lanes);
            if (count == LINE_POINTS)
                transform_input(LINE_POINTS, d, 1, out, 1);
            else
                transform_filter(LINE_POINTS, LINE_OUTPUTS, d, 1, out, 1);
            UNROLL for (int p = 0; p < LINE_POINTS; p++) {
                real *at = to + p * plane + c;
                store_some(at, out[p], lanes);
            }
        }
    }
}

#endif
