/* How a depthwise convolution's columns are cut into strips: shared by all of its passes.
 *
 * A row of destination pixels j reads the source columns j * step + x + s * spacing for taps s. Where all of
 * these lie inside of the image, up to PIXELS neighbours make a strip; a column where some do not is a strip of
 * its own with the taps that do, so that nothing in a kernel's loops tests for borders.
 */
#ifndef PYCONV_CONV_DEPTHWISE_H
#define PYCONV_CONV_DEPTHWISE_H

#include "simd.h"

#define PIXELS 8
#define MOST_TAPS 5 /* side by side that a tile knows; of others it takes one at a time */

/* The forms of a tile: how many neighbouring taps, and source pixels from one destination pixel to the next. */
enum tile_form { MASKED_1, TAPS_1, TAPS_2, TAPS_3, TAPS_4, TAPS_5, TAPS_3_STEP_2, TAPS_5_STEP_2, TILE_FORMS };

struct columns {
    ptrdiff_t x, spacing, taps; /* one kernel row */
    ptrdiff_t step, src_width, dst_width, channels;
    ptrdiff_t pixels; /* most to a strip */
};

struct strip {
    ptrdiff_t column, pixels;
    ptrdiff_t first, taps; /* of each kernel row, those inside the image */
    ptrdiff_t width;       /* taps that a tile takes together: taps or 1 */
    enum tile_form form;
};

INLINE struct strip strip_at(const struct columns *c, ptrdiff_t column) {
    struct strip strip = {.column = column, .pixels = 1, .width = 1};
    ptrdiff_t x = column * c->step + c->x, last = c->taps;
    while (strip.first < c->taps && x + strip.first * c->spacing < 0) strip.first++;
    while (last > strip.first && x + (last - 1) * c->spacing >= c->src_width) last--;
    strip.taps = last - strip.first;
    if (strip.taps == c->taps) { /* as many more columns as have all taps inside, in equal shares */
        ptrdiff_t room = c->dst_width - column;
        if (c->taps) room = min_size(room, (c->src_width - 1 - x - (c->taps - 1) * c->spacing) / c->step + 1);
        strip.pixels = ceil_div(room, ceil_div(room, c->pixels));
    }
    strip.form = c->channels < LANES ? MASKED_1 : TAPS_1;
    if (c->channels < LANES || c->spacing != 1 || strip.taps < 2 || strip.taps > MOST_TAPS) return strip;
    if (strip.pixels == 1 || c->step == 1) strip.form = (enum tile_form)(TAPS_1 + strip.taps - 1);
    else if (c->step == 2 && strip.taps == 3) strip.form = TAPS_3_STEP_2;
    else if (c->step == 2 && strip.taps == 5) strip.form = TAPS_5_STEP_2;
    else return strip;
    strip.width = strip.taps;
    return strip;
}

/* A pass is cut into tasks by shares of the images and, where these are few, by blocks of channels. */
#define TASKS_WANTED 16
#define BLOCK_BYTES 512 /* of a pixel to a block, at least: shorter stretches of memory are slow to read */

INLINE ptrdiff_t channel_blocks(ptrdiff_t channels, ptrdiff_t shares) {
    ptrdiff_t most = channels * (ptrdiff_t)sizeof(real) / BLOCK_BYTES;
    return max_size(min_size(ceil_div(TASKS_WANTED, shares), most), 1);
}

/* The vectors [begin, end) of a block of channels, the last one counted whole */
INLINE void block_vectors(ptrdiff_t channels, ptrdiff_t block, ptrdiff_t blocks, ptrdiff_t *begin, ptrdiff_t *end) {
    ptrdiff_t vectors = ceil_div(channels, LANES);
    *begin = vectors * block / blocks, *end = vectors * (block + 1) / blocks;
}

#endif
