/* The arithmetic that norm.c and norm_planes.c share, on one vector. */
#ifndef PYCONV_NORM_H
#define PYCONV_NORM_H

#include "simd.h"

/* How the backward pass finds what a ReLU after the norm let through: there is none; from its output; or
 * from its input, computed again, which saves reading the output. */
enum mask { MASK_NONE, MASK_OUTPUT, MASK_INPUT };

INLINE vec normal(vec x, vec mean, vec scale, vec bias) { return (x - mean) * scale + bias; }
INLINE vec relu(vec z, vec ceiling) { return choose(z < 0, (vec){0}, choose(z > ceiling, ceiling, z)); }

/* The gradient before a ReLU whose input or output is z; a NaN lets it through, as in PyTorch. */
INLINE vec masked(vec z, vec g, vec ceiling) { return choose((z <= 0) | (z >= ceiling), (vec){0}, g); }

/* The sum of all lanes, in double. */
INLINE double total(vec v) {
    double lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = (double)v[i];
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

#endif
