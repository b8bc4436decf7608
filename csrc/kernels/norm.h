/* The arithmetic that norm.c and norm_planes.c share, on one vector. */
#ifndef PYCONV_NORM_H
#define PYCONV_NORM_H

#include "pyconv.h"
#include "simd.h"

#include <math.h>

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
    UNROLL for (int i = 0; i < LANES; i++) lanes[i] = (double)v[i];
    UNROLL for (int width = LANES / 2; width; width /= 2) UNROLL for (int i = 0; i < width; i++) lanes[i] +=
        lanes[i + width];
    return lanes[0];
}

/* ---- Moments are taken around a center, read once: a guess at the mean ---- */

#define FAR 4 /* standard deviations: log2(FAR^2 + 1) = 4 bits of the variance cancel */

INLINE void add_distances(vec distance, vec *sum, vec *squares) {
    *sum += distance;
    *squares += distance * distance;
}

/* Of the sums of `count` distances from a center and of their squares, make the mean and the sum of squared
 * distances from it, which rounding makes no less than 0. From an infinite center, distances are no numbers.
 * Returns whether the center was near enough that little cancels. */
INLINE int center_moments(double center, double count, double *sum, double *squares) {
    double off = *sum / count, shift = *sum * off;
    *sum = off == off ? center + off : center;
    *squares = *squares < shift ? 0 : *squares - shift;
    return shift <= FAR * FAR * *squares;
}

/* norm_elements.c */
int VARIANT(element_sums)(const struct pyconv_norm *norm, const void *g, const void *x, void *product,
                          void *sum);
int VARIANT(normalize_turned)(const struct pyconv_norm *norm, ptrdiff_t channels, const void *x, void *y);
int VARIANT(element_sums_turned)(const struct pyconv_norm *norm, ptrdiff_t channels, const void *g,
                                 const void *x, void *product, void *sum);

/* ---- Groups of channels: `unit` counts the groups of all batch entries, each of `size` channels ---- */

/* A task does both passes over what shares statistics, if there is enough of it for all threads and so much
 * stays in L2: the second pass then doesn't read memory. It goes backwards, so a smaller L2 helps in part. */
#define UNITS 8
#define UNIT_BYTES ((ptrdiff_t)1792 << 10)

/* norm with the statistics that normalize_groups writes */
INLINE struct pyconv_norm with_groups(struct pyconv_norm norm, const struct pyconv_group_norm *groups) {
    norm.mean = groups->mean, norm.scale = groups->scale, norm.bias = groups->shift;
    return norm;
}

/* mean and scale hold the mean of each channel and the sum of squared distances from it: make of these what
 * the group has. */
INLINE void finish_group(const struct pyconv_group_norm *groups, ptrdiff_t unit, ptrdiff_t size,
                         ptrdiff_t rows) {
    double *mean = groups->mean + unit * size, *scale = groups->scale + unit * size;
    double *shift = groups->shift + unit * size, center = 0, square = 0;
    ptrdiff_t channel = unit % groups->groups * size;
    for (ptrdiff_t i = 0; i < size; i++) center += mean[i];
    center /= (double)size;
    for (ptrdiff_t i = 0; i < size; i++)
        square += scale[i] + (double)rows * (mean[i] - center) * (mean[i] - center);
    double var = square / ((double)rows * (double)size), rstd = 1 / sqrt(var + groups->eps);
    groups->var[unit] = var;
    for (ptrdiff_t i = 0; i < size; i++) {
        mean[i] = center;
        scale[i] = groups->weight ? rstd * groups->weight[channel + i] : rstd;
        shift[i] = groups->bias ? groups->bias[channel + i] : 0;
    }
}

/* From the sums of the group's channels, b and c of dx = scale * g + b * (x - mean) + c. */
INLINE void group_gradient(const struct pyconv_group_norm *groups, ptrdiff_t unit, ptrdiff_t size,
                           ptrdiff_t rows, const double *sum, const double *product, double *b, double *c) {
    const double *scale = groups->scale + unit * size;
    double total = 0, tilt = 0, count = (double)rows * (double)size;
    for (ptrdiff_t i = unit * size; i < (unit + 1) * size; i++) {
        total += scale[i - unit * size] * sum[i];
        tilt += scale[i - unit * size] * product[i];
    }
    for (ptrdiff_t i = unit * size; i < (unit + 1) * size; i++) {
        b[i] = -tilt / (count * (groups->var[unit] + groups->eps));
        c[i] = -total / count;
    }
}

#endif
