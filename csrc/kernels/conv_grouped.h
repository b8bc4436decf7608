/* Convolutions of many small groups: lanes hold the filters of several groups side by side.
 *
 * With `dst` filters to a group, LANES / dst groups fill a vector: a bundle. Lane l belongs to the group
 * l / dst of its bundle and reads that group's `src` channels: lane (l / dst) * src + c of the bundle's
 * source vector, which one permutation moves there. Then the sums have full vectors, as in a depthwise
 * convolution.
 */
#ifndef PYCONV_CONV_GROUPED_H
#define PYCONV_CONV_GROUPED_H

#include "correlation.h"
#include "simd.h"
#include "tile.h"

#define GROUPED_PIXELS                                                                                       \
    OUTER_TILE  /* of a tile: 14 sums + 3 weights + 1 source vector + 1 index = 19 registers */
#define FUSED 3 /* taps side by side that share what they load */

struct bundles {
    ptrdiff_t groups, src, dst; /* src, dst: channels of a group on either side */
    ptrdiff_t groups_each, count;
};

INLINE struct bundles make_bundles(ptrdiff_t groups, ptrdiff_t src, ptrdiff_t dst) {
    ptrdiff_t each = min_size(LANES / dst, groups);
    return (struct bundles){groups, src, dst, each, ceil_div(groups, each)};
}

INLINE int can_bundle(ptrdiff_t groups, ptrdiff_t src, ptrdiff_t dst) {
    return PERMUTES_LANES && groups > 1 && src > 0 && src <= dst && dst <= LANES;
}

INLINE ptrdiff_t groups_of(const struct bundles *b, ptrdiff_t bundle) {
    return min_size(b->groups_each, b->groups - bundle * b->groups_each);
}

#define GROUPED_TASKS 16

/* Into how many shares the bundles go where so many stretches of the images make too few tasks. */
INLINE ptrdiff_t bundle_shares(const struct bundles *b, ptrdiff_t stretches) {
    return min_size(ceil_div(GROUPED_TASKS, max_size(stretches, 1)), b->count);
}

/* The lanes that hold channel 0 of each lane's group. */
INLINE ivec first_channels(const struct bundles *b) {
    ivec first;
    for (int l = 0; l < LANES; l++) first[l] = (integer)(min_size(l / b->dst, b->groups_each - 1) * b->src);
    return first;
}

#define PAIR_OF_LINES (128 / (ptrdiff_t)sizeof(real)) /* which the hardware fetches together */

/* Copy one vector of each of `pixels` pixels, `pitch` elements apart, of which x points to the bundle's first
 * channel. With `fetch` the next bundles are fetched meanwhile: so far apart, vectors come from L3 one by
 * one.
 */
INLINE void copy_bundle(const real *x, ptrdiff_t channels, ptrdiff_t pixels, ptrdiff_t pitch, int fetch,
                        real *to) {
    for (ptrdiff_t p = 0; p < pixels; p++, x += pitch, to += LANES) {
        if (fetch) __builtin_prefetch(x + PAIR_OF_LINES, 0, 2);
        store(to, load_some(x, channels));
    }
}

/* What the destination rows [first, end), columns [j, j + size) read of a bundle: [rows][row][LANES] */
INLINE void copy_rows(const struct correlation *c, const struct bundles *b, ptrdiff_t image, ptrdiff_t bundle,
                      ptrdiff_t first, ptrdiff_t end, ptrdiff_t j, ptrdiff_t size, ptrdiff_t row, int fetch,
                      real *to) {
    ptrdiff_t pitch = b->groups * b->src;
    const real *src =
        c->src + image * c->src_height * c->src_width * pitch + bundle * b->groups_each * b->src;
    ptrdiff_t x0 = j * c->step_width + c->x_min, width = (size - 1) * c->step_width + c->x_max - c->x_min + 1;
    struct overlap o = overlap_columns(x0, width, c->src_width);
    ptrdiff_t y0 = first * c->step_height + c->y_min, y1 = (end - 1) * c->step_height + c->y_max;
    for (ptrdiff_t y = y0; y <= y1; y++, to += row * LANES) {
        if (y < 0 || y >= c->src_height) {
            memset(to, 0, (size_t)(width * LANES) * sizeof(real));
            continue;
        }
        memset(to, 0, (size_t)(o.left * LANES) * sizeof(real));
        copy_bundle(src + (y * c->src_width + o.from) * pitch, groups_of(b, bundle) * b->src, o.count, pitch,
                    fetch, to + o.left * LANES);
        ptrdiff_t end_column = o.left + o.count;
        memset(to + end_column * LANES, 0, (size_t)((width - end_column) * LANES) * sizeof(real));
    }
}

/* Whether the taps are threes side by side, and the steps across 1. */
INLINE int comes_in_threes(const struct correlation *c) {
    if (c->step_width != 1 || c->taps % FUSED) return 0;
    for (ptrdiff_t t = 0; t < c->taps; t++)
        if (c->tap[t].y != c->tap[t - t % FUSED].y || c->tap[t].x != c->tap[t - t % FUSED].x + t % FUSED)
            return 0;
    return 1;
}

#define MOST_ALONE 192

/* Whether a correlation is worth the bundles: where at least two groups share a vector, or where one that is
 * alone has taps to share its broadcasts (and at most MOST_ALONE products, which need no chunks). For the
 * weight's gradient the bundles are 1.5 times as fast even otherwise. Depthwise kernels do better still. */
INLINE int is_grouped(const struct correlation *c) {
    return can_bundle(c->groups, c->src_channels, c->dst_channels) &&
           (2 * c->dst_channels <= LANES || (comes_in_threes(c) && c->taps * c->src_channels <= MOST_ALONE));
}

#endif
