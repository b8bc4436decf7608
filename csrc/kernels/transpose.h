/* One square of a matrix, transposed in registers. */
#ifndef PYCONV_TRANSPOSE_H
#define PYCONV_TRANSPOSE_H

#include "simd.h"

/* to[j][i] = from[i][j] for `rows` x `columns` elements, LANES x LANES at most; rows are `pitch` apart. */
INLINE void transpose_square(const real *from, ptrdiff_t from_pitch, ptrdiff_t rows, ptrdiff_t columns,
                             real *to, ptrdiff_t to_pitch) {
    vec square[LANES] = {{0}};
    if (rows == LANES && columns == LANES) {
        UNROLL for (int i = 0; i < LANES; i++) square[i] = load(from + i * from_pitch);
        transpose_lanes(square);
        UNROLL for (int j = 0; j < LANES; j++) store(to + j * to_pitch, square[j]);
        return;
    }
    UNROLL for (int i = 0; i < LANES; i++) if (i < rows) square[i] =
        load_first(from + i * from_pitch, columns);
    transpose_lanes(square);
    UNROLL for (int j = 0; j < LANES; j++) if (j < columns) store_first(to + j * to_pitch, square[j], rows);
}

#endif
