/* How a depthwise convolution's columns are cut into strips, and its work into tasks: shared by all passes.
 *
 * A row of destination pixels j reads the source columns j * step + x + s * spacing for taps s. A tile takes
 * the columns of a strip together: up to PIXELS neighbours. With `taps` neighbouring taps these read the
 * source columns k < (pixels - 1) * step + taps, of which those in [k_begin, k_end) lie inside of the image;
 * the tile tests that at its two ends. Other kernels are taken tap by tap, and strips end where a tap leaves
 * the image.
 */
#ifndef PYCONV_CONV_DEPTHWISE_H
#define PYCONV_CONV_DEPTHWISE_H

#include "simd.h"

#define PIXELS 8
#define MOST_TAPS 5 /* side by side that a tile knows */

/* The forms of a tile: how many neighbouring taps, and source pixels from one destination pixel to the next.
 */
enum tile_form { MASKED_1, TAPS_1, TAPS_2, TAPS_3, TAPS_4, TAPS_5, TAPS_3_STEP_2, TAPS_5_STEP_2, TILE_FORMS };

struct columns {
    ptrdiff_t x, spacing, taps; /* one kernel row */
    ptrdiff_t step, src_width, dst_width, channels;
    ptrdiff_t pixels; /* most to a strip */
};

struct strip {
    ptrdiff_t column, pixels;
    ptrdiff_t first, taps; /* of each kernel row */
    ptrdiff_t width;       /* taps that a tile takes together: taps or 1 */
    ptrdiff_t k_begin, k_end;
    enum tile_form form;
};

INLINE enum tile_form tile_form(const struct columns *c) {
    if (c->channels < LANES) return MASKED_1;
    if (c->spacing != 1 || c->taps < 2 || c->taps > MOST_TAPS) return TAPS_1;
    if (c->step == 1) return (enum tile_form)(TAPS_1 + c->taps - 1);
    if (c->step == 2 && c->taps == 3) return TAPS_3_STEP_2;
    return c->step == 2 && c->taps == 5 ? TAPS_5_STEP_2 : TAPS_1;
}

/* The strip that begins at `column`: as wide as those after it, which read the image in the same way. */
INLINE struct strip strip_at(const struct columns *c, ptrdiff_t column) {
    struct strip strip = {.column = column, .pixels = 1, .width = 1, .form = tile_form(c)};
    ptrdiff_t x = column * c->step + c->x, last = c->taps, room = c->dst_width - column;
    while (strip.first < c->taps && x + strip.first * c->spacing < 0) strip.first++;
    while (last > strip.first && x + (last - 1) * c->spacing >= c->src_width) last--;
    strip.taps = last - strip.first;
    if (strip.form > TAPS_1 && strip.taps) {
        strip.first = 0, strip.taps = strip.width = c->taps;
        room = min_size(room, (c->src_width - 1 - x) / c->step + 1);
    } else {
        if (strip.form > TAPS_1) strip.form = TAPS_1;
        if (strip.taps < c->taps) return strip;
        if (c->taps) room = min_size(room, (c->src_width - 1 - x - (c->taps - 1) * c->spacing) / c->step + 1);
    }
    strip.pixels = ceil_div(room, ceil_div(room, c->pixels));
    strip.k_begin = max_size(-x, 0);
    strip.k_end = c->src_width - x;
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
INLINE void block_vectors(ptrdiff_t channels, ptrdiff_t block, ptrdiff_t blocks, ptrdiff_t *begin,
                          ptrdiff_t *end) {
    ptrdiff_t vectors = ceil_div(channels, LANES);
    *begin = vectors * block / blocks, *end = vectors * (block + 1) / blocks;
}

#endif
