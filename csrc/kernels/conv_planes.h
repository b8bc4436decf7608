/* Convolutions of planes: images whose channels lie one after another, as NumPy makes them,
 * [channel][row][column].
 *
 * Such an image is a matrix already whose rows are channels and whose columns are pixels, and a convolution
 * is a product of two of them:
 *
 *     dst[k][p] = sum over (c, tap) of weight[k][(c, tap)] * x[(c, tap)][p]
 *
 * where row (c, tap) of x holds what that tap reads for the destination pixels p of a block: a copy of plane
 * c, shifted, strided and with zeros for the padding. The copies are made where they are used and stay in L2.
 */
#ifndef PYCONV_CONV_PLANES_H
#define PYCONV_CONV_PLANES_H

#include "conv.h"
#include "correlation.h"

/* Bytes of a block's x, in L2 */
#define PLANES_BYTES ((ptrdiff_t)192 << 10)
/* Pixels that a weight's gradient sums in one go */
#define DOTS_PIXELS ((ptrdiff_t)512)

/* Columns [begin, begin + count) of x from one row of a plane: `left` zeros, `pixels` of the plane from
 * `from` on, then zeros again. */
struct stretch {
    ptrdiff_t begin, count, left, pixels, from;
};

/* Room for those of a block of so many pixels, or of a line's residues, in whole cache lines */
INLINE size_t stretch_bytes(const struct correlation *c, ptrdiff_t pixels) {
    ptrdiff_t most = min_size(pixels / max_size(c->dst_width, 1) + 2, c->dst_height);
    most = max_size(most, min_size(c->step_width, c->x_max - c->x_min + 1));
    return ((size_t)most * sizeof(struct stretch) + 63) & ~(size_t)63;
}

/* What a tap reads for the destination pixels [first, end) of an image; returns the number of stretches. */
INLINE ptrdiff_t find_stretches(const struct correlation *c, const struct tap *tap, ptrdiff_t first,
                                ptrdiff_t end, struct stretch *stretch) {
    ptrdiff_t count = 0, step = c->step_width, row = first / c->dst_width, column = first % c->dst_width;
    for (ptrdiff_t p = first; p < end; row++, column = 0) {
        struct stretch s = {.begin = p - first, .count = min_size(c->dst_width - column, end - p)};
        ptrdiff_t y = row * c->step_height + tap->y, x = column * step + tap->x;
        s.left = x < 0 ? min_size(ceil_div(-x, step), s.count) : 0;
        ptrdiff_t last = x < c->src_width ? min_size(ceil_div(c->src_width - x, step), s.count) : 0;
        s.pixels = y >= 0 && y < c->src_height ? max_size(last - s.left, 0) : 0;
        s.from = y * c->src_width + x + s.left * step;
        p += s.count;
        stretch[count++] = s;
    }
    return count;
}

/* `count` elements, `step` apart; whole vectors are stored, and loaded while they end within `rest` elements.
 */
INLINE void put_pixels(const real *from, ptrdiff_t rest, const ptrdiff_t step, ptrdiff_t count, real *to) {
    ptrdiff_t i = 0;
    if (step == 1) {
        for (; i < count && i + LANES <= rest; i += LANES) store(to + i, load(from + i));
        if (i < count) store(to + i, load_first(from + i, count - i));
        return;
    }
    if (step == 2)
        for (; i < count && 2 * (i + LANES) <= rest; i += LANES) store(to + i, load_stepped(from + 2 * i));
    for (; i < count; i++) to[i] = from[i * step];
}

/* One stretch of x, and up to LANES elements beyond it. `rest`: elements from `plane` to the source's end. */
INLINE void put_stretch(const ptrdiff_t step, const real *plane, ptrdiff_t rest, const struct stretch s,
                        real *to) {
    real *at = to + s.begin;
    clear_elements(at, s.pixels ? s.left : s.count);
    if (!s.pixels) return;
    put_pixels(plane + s.from, rest - s.from, step, s.pixels, at + s.left);
    clear_elements(at + s.left + s.pixels, s.count - s.left - s.pixels);
}

/* One row of x */
INLINE void put_row(const ptrdiff_t step, const real *plane, ptrdiff_t rest, const struct stretch *stretch,
                    ptrdiff_t count, real *to) {
    for (ptrdiff_t i = 0; i < count; i++) put_stretch(step, plane, rest, stretch[i], to);
}

/* CALL(step, ...), where steps of 1 and 2 are constants */
#define WITH_STEP(step, CALL, ...)                                                                           \
    do {                                                                                                     \
        if (step == 1)                                                                                       \
            CALL(1, __VA_ARGS__);                                                                            \
        else if (step == 2)                                                                                  \
            CALL(2, __VA_ARGS__);                                                                            \
        else                                                                                                 \
            CALL(step, __VA_ARGS__);                                                                         \
    } while (0)

/* Fetch what put_row is going to read. */
INLINE void fetch_row(const real *plane, ptrdiff_t step, const struct stretch *stretch, ptrdiff_t count) {
    for (const struct stretch *s = stretch; s < stretch + count; s++)
        for (ptrdiff_t e = 0; e < s->pixels * step; e += LINE) __builtin_prefetch(plane + s->from + e);
}

#define PLANES_AHEAD 4 /* that are fetched: too far apart for the processor to see it coming */

/* Rows (c, tap) of x, of one image and group, c in [channel, channel + channels), for destination pixels
 * [first, end), `pitch` apart; in the order of weight[k][c][tap]. */
INLINE void put_rows(const struct correlation *c, ptrdiff_t image, ptrdiff_t group, ptrdiff_t channel,
                     ptrdiff_t channels, ptrdiff_t first, ptrdiff_t end, struct stretch *stretch, real *to,
                     ptrdiff_t pitch) {
    ptrdiff_t area = c->src_height * c->src_width, all = c->groups * c->src_channels;
    ptrdiff_t at = (image * c->groups + group) * c->src_channels + channel;
    const real *plane = c->src + at * area;
    for (ptrdiff_t t = 0; t < c->taps; t++) {
        ptrdiff_t count = find_stretches(c, c->tap + t, first, end, stretch);
        for (ptrdiff_t i = 0; i < channels; i++) {
            if (t == 0) fetch_row(plane + (i + PLANES_AHEAD) * area, c->step_width, stretch, count);
            WITH_STEP(c->step_width, put_row, plane + i * area, (c->batch * all - at - i) * area, stretch,
                      count, to + (i * c->taps + t) * pitch);
        }
    }
}

/* ---- Lines: where several taps read the same pixels, rows of the source are copied once, with their
 * padding, and taken apart by the residues q of the stride:
 *
 *     line[y][q][t] = src[y][t S + q + x_min]
 *
 * so that what tap (y, x) reads for a destination row is contiguous: line[i S + y][o mod S][j + o / S], o = x
 * - x_min.
 */
struct plane_lines {
    ptrdiff_t pitch, row, plane; /* from a residue, source row and channel to the next; 0: no lines */
    ptrdiff_t rows;              /* of the destination, in a block */
};

/* Channels whose products are summed in one go, CHUNK at most */
INLINE ptrdiff_t planes_channels(ptrdiff_t channels, ptrdiff_t taps) {
    return even_chunk(channels, max_size(CHUNK / taps, 1));
}

/* Whether lanes beyond the end of a row cost less than a copy for each tap: 8 cycles a vector, or so many
 * more of TILE outputs' products; and lines stay in L2, of which the kernel spans `height`, of so many
 * elements. */
INLINE int takes_lines(ptrdiff_t taps, ptrdiff_t channels, ptrdiff_t width, ptrdiff_t outputs,
                       ptrdiff_t height, ptrdiff_t elements) {
    ptrdiff_t idle = ceil_div(width, LANES) * LANES - width;
    return taps > 1 && width > LANES && ceil_div(outputs, TILE) * TILE * idle < 12 * width &&
           height * elements < 2 * PLANES_BYTES / (ptrdiff_t)sizeof(real) / planes_channels(channels, taps);
}

#define PLANES_TASKS 32
#define LEAST_PIXELS (4 * LANES) /* of a task */

/* Pixels of a task that copies for each tap, of which an image has `area`, and `rows` rows of x at a time */
INLINE ptrdiff_t planes_pixels(ptrdiff_t images, ptrdiff_t area, ptrdiff_t rows) {
    ptrdiff_t fit = PLANES_BYTES / (rows * (ptrdiff_t)sizeof(real));
    ptrdiff_t even = ceil_div(area, ceil_div(PLANES_TASKS, images));
    ptrdiff_t most = max_size(min_size(fit, even), LEAST_PIXELS);
    return ceil_div(ceil_div(area, ceil_div(area, most)), LANES) * LANES;
}

/* Where so few tasks are not enough: shares of a group's outputs, each of which makes all of x for itself */
INLINE ptrdiff_t planes_splits(ptrdiff_t tasks, ptrdiff_t outputs) {
    return max_size(min_size(PLANES_TASKS / 2 / tasks, ceil_div(outputs, 4 * TILE)), 1);
}

/* ---- Parts, see struct correlation ---- */

INLINE ptrdiff_t part_count(const struct correlation *c) { return max_size(c->parts, 1); }
INLINE ptrdiff_t part_channels(const struct correlation *c) { return c->dst_channels / part_count(c); }
INLINE ptrdiff_t first_tap(const struct correlation *c, ptrdiff_t part) {
    return c->parts ? c->part[part] : 0;
}
INLINE ptrdiff_t part_taps(const struct correlation *c, ptrdiff_t part) {
    return (part + 1 < c->parts ? c->part[part + 1] : c->taps) - first_tap(c, part);
}

INLINE ptrdiff_t most_taps(const struct correlation *c) {
    ptrdiff_t most = 0;
    for (ptrdiff_t p = 0; p < part_count(c); p++) most = max_size(most, part_taps(c, p));
    return most;
}

INLINE int has_lines(const struct correlation *c) {
    return takes_lines(most_taps(c), c->src_channels, c->dst_width, part_channels(c), c->y_max - c->y_min + 1,
                       c->dst_width * c->step_width + c->x_max - c->x_min + 1);
}

INLINE ptrdiff_t line_rows(const struct correlation *c, ptrdiff_t rows) {
    return (rows - 1) * c->step_height + c->y_max - c->y_min + 1;
}

/* For `channels` channels at a time */
INLINE struct plane_lines plan_lines(const struct correlation *c, ptrdiff_t channels, ptrdiff_t most_rows) {
    struct plane_lines l = {.pitch = ceil_div(c->dst_width, LANES) * LANES +
                                     (c->x_max - c->x_min) / c->step_width};
    l.row = l.pitch * min_size(c->step_width, c->x_max - c->x_min + 1);
    ptrdiff_t fit = PLANES_BYTES / (channels * l.row * (ptrdiff_t)sizeof(real));
    l.rows = min_size(most_rows, (fit - (c->y_max - c->y_min + 1)) / c->step_height + 1);
    l.rows = max_size(min_size(l.rows, c->dst_height), 1);
    l.plane = (ceil_div(line_rows(c, l.rows) * l.row, LINE) | 1) * LINE; /* odd in cache lines */
    return l;
}

/* Where tap t of the first channel is read for destination column 0 */
INLINE ptrdiff_t line_offset(const struct correlation *c, const struct plane_lines *l, ptrdiff_t t) {
    ptrdiff_t o = c->tap[t].x - c->x_min;
    return (c->tap[t].y - c->y_min) * l->row + o % c->step_width * l->pitch + o / c->step_width;
}

/* Room for where so many rows of x begin, in whole cache lines */
INLINE size_t offset_bytes(ptrdiff_t rows) { return ((size_t)rows * sizeof(ptrdiff_t) + 63) & ~(size_t)63; }

/* Where the rows of x for a channel and tap begin, for each part those of so many channels: in their lines,
 * or `pitch` apart where there are none */
INLINE void list_rows(const struct correlation *c, const struct plane_lines *l, ptrdiff_t channels,
                      ptrdiff_t pitch, ptrdiff_t *offset) {
    for (ptrdiff_t p = 0; p < part_count(c); p++) {
        const ptrdiff_t first = first_tap(c, p), end = first + part_taps(c, p);
        for (ptrdiff_t i = 0; i < channels; i++)
            for (ptrdiff_t t = first; t < end; t++)
                *offset++ = l->pitch ? i * l->plane + line_offset(c, l, t) : (i * c->taps + t) * pitch;
    }
}

/* The lines of rows [y0, y1) of a plane; what the next plane has there is fetched. */
INLINE void put_plane(const ptrdiff_t step, const struct correlation *c, const struct plane_lines *l,
                      const real *plane, ptrdiff_t rest, ptrdiff_t y0, ptrdiff_t y1,
                      const struct stretch *stretch, real *to) {
    const ptrdiff_t height = c->src_height, width = c->src_width, length = l->row;
    const ptrdiff_t residues = length / l->pitch;
    const struct stretch whole = stretch[0]; /* in a register, as x is written */
    for (ptrdiff_t y = y0; y < y1; y++, to += length) {
        if (y < 0 || y >= height) {
            clear_elements(to, length);
            continue;
        }
        const real *row = plane + y * width;
        for (ptrdiff_t e = 0; e < width; e += LINE) __builtin_prefetch(row + height * width + e);
        if (step == 1)
            put_stretch(1, row, rest - y * width, whole, to);
        else
            put_row(step, row, rest - y * width, stretch, residues, to);
    }
}

/* The lines of destination rows [first, end), of so many channels of an image and group; a stretch for each
 * residue */
INLINE void put_lines(const struct correlation *c, const struct plane_lines *l, ptrdiff_t image,
                      ptrdiff_t group, ptrdiff_t channel, ptrdiff_t channels, ptrdiff_t first, ptrdiff_t end,
                      struct stretch *stretch, real *to) {
    ptrdiff_t step = c->step_width, residues = l->row / l->pitch, area = c->src_height * c->src_width;
    for (ptrdiff_t q = 0; q < residues; q++) {
        ptrdiff_t x = c->x_min + q, left = x < 0 ? min_size(ceil_div(-x, step), l->pitch) : 0;
        ptrdiff_t last = x < c->src_width ? min_size(ceil_div(c->src_width - x, step), l->pitch) : 0;
        stretch[q] =
            (struct stretch){q * l->pitch, l->pitch, left, max_size(last - left, 0), x + left * step};
    }
    ptrdiff_t at = (image * c->groups + group) * c->src_channels + channel;
    ptrdiff_t all = c->batch * c->groups * c->src_channels;
    ptrdiff_t y0 = first * c->step_height + c->y_min, y1 = y0 + line_rows(c, end - first);
    for (ptrdiff_t i = 0; i < channels; i++)
        WITH_STEP(step, put_plane, c, l, c->src + (at + i) * area, (all - at - i) * area, y0, y1, stretch,
                  to + i * l->plane);
}

/* Elements from one row of x to the next: odd in cache lines, so that a column's lie on all sets of L1. */
INLINE ptrdiff_t planes_pitch(ptrdiff_t pixels) { return (ceil_div(pixels + LANES, LINE) | 1) * LINE; }

/* Whether a task of so many outputs copies panels of a plain source. Their rows are aligned and neighbours;
 * those of the image are a plane apart, and where they are not aligned (as half of NumPy's arrays, and planes
 * of 14 x 14) half of the loads cross cache lines, and products take 1.12 times as long. With 256 outputs
 * copies take 0.97 to 1.01 of the time of aligned rows, with 128 1.01 to 1.17, with 64 1.12 to 1.3. */
INLINE int copies_panels(ptrdiff_t outputs) { return outputs >= 192; }

/* Whether x is the source as it is, for all parts */
INLINE int is_plain(const struct correlation *c) {
    return c->step_height == 1 && c->step_width == 1 && c->y_min == 0 && c->y_max == 0 && c->x_min == 0 &&
           c->x_max == 0 && c->src_height == c->dst_height && c->src_width == c->dst_width;
}

#endif
