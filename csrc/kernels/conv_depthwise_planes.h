/* Depthwise convolutions of planes: a vector is LANES neighbouring pixels of a row of one channel.
 *
 * The rows of the source that a block of destination rows reads are laid out in scratch first, taken apart by
 * the residues q of the step and with their padding:
 *
 *     line[q][t] = x[t step + q - padding], or 0 where that is no pixel
 *
 * so that tap s of pixel j is line[s D mod step][j + s D / step]: all vectors lie side by side, and none has
 * an edge. A block is some rows of a plane, or some planes where they are small: its lines fit half of L1,
 * and what was stored is loaded at other offsets only after the whole block is laid out, since right after
 * its store that is slow.
 */
#ifndef PYCONV_CONV_DEPTHWISE_PLANES_H
#define PYCONV_CONV_DEPTHWISE_PLANES_H

#include "pyconv.h"
#include "simd.h"

struct plane_line {
    ptrdiff_t height, width;   /* of a plane of the source */
    ptrdiff_t step, padding;   /* padding may be negative: then columns are left out */
    ptrdiff_t pitch, elements; /* from a residue to the next; of a line */
};

/* The lines of rows of `pixels` pixels, whose last tap reads `reach` columns to the right of the first. */
INLINE struct plane_line make_plane_line(ptrdiff_t height, ptrdiff_t width, ptrdiff_t step, ptrdiff_t padding,
                                         ptrdiff_t pixels, ptrdiff_t reach) {
    ptrdiff_t read = ceil_div(pixels, LANES) * LANES + reach / step,
              laid = max_size(padding + width, 0) / step + 1 + LANES;
    ptrdiff_t pitch = ceil_div(max_size(read, laid), LANES) * LANES;
    return (struct plane_line){height, width, step, padding, pitch, step * pitch};
}

/* Where a tap lies in a line, `x` columns to the right of the first. */
INLINE ptrdiff_t line_offset(const struct plane_line *line, ptrdiff_t x) {
    return x % line->step * line->pitch + x / line->step;
}

/* A vector of which n lanes count; whatever the others are, they are not read from beyond `end`. */
INLINE vec load_before(const real *p, ptrdiff_t n, const real *end) {
    return end - p >= LANES ? load(p) : load_first(p, n);
}

INLINE void lay_dense_line(const real *x, ptrdiff_t width, const real *end, real *to) {
    ptrdiff_t w = 0;
    if (width < LANES) {
        if (width > 0) store(to, first_lanes(load_before(x, width, end), width, (vec){0}));
        return;
    }
    for (; w + LANES <= width; w += LANES) store(to + w, load(x + w));
    if (w < width) store(to + width - LANES, load(x + width - LANES));
}

/* A step of 2. Pixel 2 m is place (2 m + padding) / 2 of residue padding mod 2, pixel 2 m + 1 the next place.
 */
INLINE void lay_pairs_line(const struct plane_line *line, ptrdiff_t padding, const real *x, ptrdiff_t width,
                           const real *end, real *to) {
    real *even = to + padding % 2 * line->pitch + padding / 2;
    real *odd = to + (padding + 1) % 2 * line->pitch + (padding + 1) / 2;
    ptrdiff_t w = 0;
    for (; w + 2 * LANES <= width; w += 2 * LANES) {
        vec a = load(x + w), b = load(x + w + LANES);
        store(even + w / 2, even_lanes(a, b));
        store(odd + w / 2, odd_lanes(a, b));
    }
    if (w >= width) return;
    ptrdiff_t n = min_size(LANES, width - w), rest = width - w - n;
    vec a = first_lanes(load_before(x + w, n, end), n, (vec){0}), b = {0};
    if (rest) b = first_lanes(load_before(x + w + LANES, rest, end), rest, b);
    store(even + w / 2, even_lanes(a, b));
    store(odd + w / 2, odd_lanes(a, b));
}

/* Row x of the source, into a line that holds 0 where there are no pixels; nothing is read beyond `end`. */
INLINE void lay_line(const struct plane_line *line, const real *x, const real *end, real *to) {
    ptrdiff_t skip = max_size(-line->padding, 0), padding = line->padding + skip, width = line->width - skip;
    x += skip;
    if (line->step == 1)
        lay_dense_line(x, width, end, to + padding);
    else if (line->step == 2)
        lay_pairs_line(line, padding, x, width, end, to);
    else
        for (ptrdiff_t w = 0; w < width; w++) to[line_offset(line, w + padding)] = x[w];
}

/* Rows [first, first + count) of a plane, some of them perhaps above or below it */
INLINE void lay_plane(const struct plane_line *line, const real *plane, ptrdiff_t first, ptrdiff_t count,
                      const real *end, real *to) {
    for (ptrdiff_t y = first; y < first + count; y++, to += line->elements)
        if (y >= 0 && y < line->height)
            lay_line(line, plane + y * line->width, end, to);
        else
            clear_elements(to, line->elements);
}

/* ---- Planes as they lie ----
 *
 * Vectors may as well be loaded from the plane itself, with a step of 2 every second element of two. At its
 * edges they hold pixels of the rows before and after, which masks turn into zeros. */

struct plane_masks {
    ptrdiff_t before, behind; /* elements that are read beside a plane */
    ptrdiff_t tiles, each;    /* vectors to a row; masks to a vector: one to a tap, and that of its lanes */
    integer *mask;            /* [tile][each][LANES], all bits set or none */
    uint8_t *edge;            /* [tile] whether any lane is no pixel */
    size_t bytes;
};

INLINE ivec load_mask(const integer *p) {
    ivec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE vec keep_lanes(vec value, const integer *mask) { return (vec)((ivec)value & load_mask(mask)); }

INLINE const integer *tile_masks(const struct plane_masks *m, ptrdiff_t tile) {
    return m->mask + tile * m->each * LANES;
}

/* Of rows of `pixels` pixels, the last tile of which overlaps the one before or has lanes to spare. once:
 * these lanes are no pixels. free_masks gives them back. */
INLINE int make_masks(const struct plane_line *line, ptrdiff_t pixels, ptrdiff_t kernel, int once,
                      struct plane_masks *m) {
    ptrdiff_t tiles = ceil_div(pixels, LANES), last = max_size(pixels - LANES, 0), each = kernel + 1;
    *m = (struct plane_masks){.before = max_size(line->padding, 0), .tiles = tiles, .each = each};
    m->behind = max_size((last + LANES - 1) * line->step + kernel - line->padding - line->width, 0);
    m->bytes = (size_t)(tiles * each) * VECTOR_BYTES + (size_t)tiles;
    if (!(m->mask = pyconv_alloc(m->bytes))) return PYCONV_NO_MEMORY;
    m->edge = (uint8_t *)(m->mask + tiles * each * LANES);
    for (ptrdiff_t tile = 0; tile < tiles; tile++) {
        integer *mask = m->mask + tile * each * LANES;
        m->edge[tile] = 0;
        for (ptrdiff_t i = 0; i < each * LANES; i++) {
            ptrdiff_t tap = i / LANES, j = min_size(tile * LANES, last) + i % LANES;
            ptrdiff_t x = j * line->step + tap - line->padding;
            int counts = !once || (j < pixels && j >= tile * LANES);
            int pixel = tap == kernel || j >= pixels || (x >= 0 && x < line->width);
            mask[i] = counts && pixel ? -1 : 0;
            m->edge[tile] |= !mask[i];
        }
    }
    return PYCONV_OK;
}

/* Planes that may be read where they lie, with what is beside their rows: all but the first and last ones.
 * masks: NULL, if none may */
INLINE int is_inner(const struct plane_line *line, const struct plane_masks *masks, ptrdiff_t planes,
                    ptrdiff_t plane) {
    ptrdiff_t pixels = line->height * line->width;
    return masks && plane * pixels >= masks->before && (planes - plane - 1) * pixels >= masks->behind;
}

INLINE void free_masks(struct plane_masks *m) {
    if (m->mask) pyconv_free(m->mask, m->bytes);
}

/* ---- How work is cut ----
 *
 * A unit is a block of rows of one plane, or `group` whole planes; a task is a run of them. */

#define BLOCK_BYTES ((ptrdiff_t)16 << 10)
#define TASK_ELEMENTS ((ptrdiff_t)32768)
#define TASKS_WANTED ((ptrdiff_t)64)
#define LOW_ROWS ((ptrdiff_t)8) /* a block is cut no lower for the sake of more tasks */

struct plane_cut {
    ptrdiff_t planes, height;      /* of the destination */
    ptrdiff_t rows, blocks, group; /* to a block; to a plane, and the planes of one block */
    ptrdiff_t lines;               /* of a block, in each of its planes */
    ptrdiff_t units, each, tasks;  /* units to a task */
};

/* step: source rows from one destination row to the next; reach: from the first to the last tap's. */
INLINE struct plane_cut cut_planes(const struct plane_line *line, ptrdiff_t planes, ptrdiff_t height,
                                   ptrdiff_t width, ptrdiff_t step, ptrdiff_t reach) {
    ptrdiff_t room = BLOCK_BYTES / (line->elements * (ptrdiff_t)sizeof(real));
    ptrdiff_t fit = max_size((room - reach - 1) / step + 1, 1),
              low = max_size(LOW_ROWS, 2 * ceil_div(reach, step)),
              even = max_size(ceil_div(height, ceil_div(TASKS_WANTED, planes)), low);
    struct plane_cut cut = {.planes = planes, .height = height, .group = 1};
    cut.blocks = ceil_div(height, min_size(fit, even));
    cut.rows = ceil_div(height, cut.blocks);
    cut.blocks = ceil_div(height, cut.rows);
    cut.lines = (cut.rows - 1) * step + reach + 1;
    if (cut.blocks == 1) cut.group = max_size(min_size(room / cut.lines, planes / TASKS_WANTED), 1);
    cut.units = ceil_div(planes, cut.group) * cut.blocks;
    cut.each = TASK_ELEMENTS / (cut.group * cut.rows * width);
    cut.each = max_size(min_size(cut.each, cut.units / TASKS_WANTED), 1);
    cut.tasks = ceil_div(cut.units, cut.each);
    return cut;
}

/* Destination rows of all planes before those of a unit; of the one after the last: all. */
INLINE ptrdiff_t rows_before(const struct plane_cut *cut, ptrdiff_t unit) {
    if (unit >= cut->units) return cut->planes * cut->height;
    return unit / cut->blocks * cut->group * cut->height + unit % cut->blocks * cut->rows;
}

/* conv_depthwise_planes_strided.c: the gradient of the input for any stride */
int VARIANT(grad_input_strided_planes)(const struct pyconv_conv2d *, const real *grad_output,
                                       const real *weight, const real *residual, real *grad_input);

#endif
