/* Convolutions of few source channels: which of them conv_shallow.c does. */
#ifndef PYCONV_CONV_SHALLOW_H
#define PYCONV_CONV_SHALLOW_H

#include "correlation.h"
#include "planes.h"
#include "tile.h"

/* Whether a correlation is worth taking apart into planes: dense, its rows as long as a tile, its taps such
 * that some share what they read, and not so many products that they need chunks. (With a stride of 2 four
 * pixels are taken apart for each output: no gain. Nor is there any where more than two vectors of filters
 * end with one that is not full, nor with 16 registers: on Zen 3 rows of gathered pixels are as fast, those
 * of two 224 x 224 images 1.2 times.) */
INLINE int is_shallow(const struct correlation *c) {
    if (VECTOR_REGISTERS < 32 || c->groups > 1 || c->src_channels > FEW_CHANNELS || c->step_width > 1 ||
        c->images_each || c->taps < 2 || c->taps * c->src_channels > CHUNK || c->dst_width < 8 ||
        (c->dst_channels > 2 * LANES && c->dst_channels % LANES))
        return 0;
    ptrdiff_t length = c->x_max - c->x_min + 1;
    if (length < 2 || c->taps % length) return 0;
    for (ptrdiff_t t = 0; t < c->taps; t++)
        if (c->tap[t].y != c->y_min + t / length || c->tap[t].x != c->x_min + t % length) return 0;
    return 1;
}

#endif
