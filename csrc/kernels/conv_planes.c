/* Convolution of planes as a product of the weight with the image (conv_planes.h), forward, and the gradient
 * of the input: for a stride of 1 as it is, or in parts (conv_planes_spread.c).
 *
 *     dst[k][p] = bias[k] + sum over j of weight[k][j] * x[j][p]          j = (c, tap)
 *
 * A register tile is TILE outputs by two vectors of pixels, WIDE_TILE by three or FOUR_TILE by four: each
 * step loads its vectors of x and broadcasts a weight for each output, 7 loads to 12 multiply-adds with 16
 * registers, which hold the fewer of both. Four vectors of up to three outputs, since less than ten sums
 * would wait for each other. The sums of CHUNK steps wait in dst for those of the next. While the tiles of
 * all outputs take a panel of pixels in turn, its chunk stays in L1 (128 x 96 bytes with AVX2) and the
 * weights stream from L2, 2 KiB to a tile's 770 cycles.
 *
 * x is the image itself for a 1x1 kernel of few outputs, whose next panel is fetched; that of many reads
 * copies of the panels. x is lines, where taps share pixels (1.1 to 4.6 times as fast as a copy for each); or
 * a copy for each tap, of narrow rows. A task's copies are at most PLANES_BYTES of L2 (a third of that: 0.83
 * to 0.97 of the speed). So planes are read and written once, where a conversion to channels-last memory and
 * back would take two passes more over either.
 */
#include "conv_planes.h"
#include "parallel.h"
#include "transpose.h"

#define FEW_PIXELS 1024 /* of all images */

struct planes {
    const struct correlation *c;
    const real *weight;            /* [group][k][j] */
    ptrdiff_t depth, weight_pitch; /* of the longest row, and from one to the next */
    ptrdiff_t channels;            /* whose rows of x are made, and summed, in one go */
    ptrdiff_t pixels, blocks;      /* of a task; of an image */
    ptrdiff_t pitch;               /* of x */
    int plain;                     /* x is the source itself; or */
    int panels;                    /* a copy of it in panels, [panel][row][vector]; or */
    struct plane_lines lines;      /* in lines, of whole rows */
    ptrdiff_t splits;              /* of a group's outputs */
};

/* ---- The weight, row by row ---- */

static int lies_in_rows(const struct planes *s) {
    const struct correlation *c = s->c;
    return !c->parts && c->tap[0].index == 0 && c->weight_dst == s->depth && c->weight_src == c->taps;
}

/* Whether the weight is read where it lies: not if that is all on the same sets of L1, unless for so few
 * pixels that packing it would take longer than it saves (single images take 0.6 to 0.9 of the time). */
static int uses_rows(const struct planes *s) {
    const struct correlation *c = s->c;
    const int few = c->batch * c->dst_height * c->dst_width <= FEW_PIXELS;
    return lies_in_rows(s) && (few || s->depth * (ptrdiff_t)sizeof(real) % ALIAS_BYTES);
}

static ptrdiff_t packed_elements(const struct planes *s) {
    return uses_rows(s) ? 0 : s->c->groups * s->c->dst_channels * s->weight_pitch;
}

static ptrdiff_t pack_tasks(const struct correlation *c) {
    return c->groups * part_count(c) * ceil_div(part_channels(c), LANES);
}

/* LANES outputs' rows, of a part */
static void pack_rows(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct planes *s = context;
    const struct correlation *c = s->c;
    const ptrdiff_t outputs = part_channels(c), shares = ceil_div(outputs, LANES);
    const ptrdiff_t k = task % shares * LANES, part = task / shares % part_count(c),
                    group = task / shares / part_count(c);
    const ptrdiff_t count = min_size(LANES, outputs - k), pitch = s->weight_pitch;
    const struct tap *tap = c->tap + first_tap(c, part);
    const ptrdiff_t taps = part_taps(c, part);
    const real *from = c->weight + group * c->weight_group + k * c->weight_dst;
    real *to = (real *)s->weight + (group * c->dst_channels + part * outputs + k) * pitch;
    if (lies_in_rows(s)) {
        for (ptrdiff_t m = 0; m < count; m++)
            copy_elements(from + m * c->weight_dst, s->depth, to + m * pitch);
    } else if (c->taps == 1 && c->weight_dst == 1) {
        for (ptrdiff_t i = 0; i < c->src_channels; i += LANES)
            transpose_square(from + i * c->weight_src, c->weight_src, min_size(LANES, c->src_channels - i),
                             count, to + i, pitch);
    } else {
        for (ptrdiff_t i = 0; i < c->src_channels; i++)
            for (ptrdiff_t m = 0; m < count; m++)
                for (ptrdiff_t t = 0; t < taps; t++)
                    to[m * pitch + i * taps + t] = from[m * c->weight_dst + i * c->weight_src + tap[t].index];
    }
}

/* ---- Products ---- */

/* How rows of x lie: a pitch apart; at a list of offsets; side by side, each as wide as the tile. */
enum rows_of_x { PITCHED, LISTED, ADJACENT };

/* One panel of pixels, and what rows of x add to outputs there: of `count` outputs, the first has its weights
 * at w and its pixels at to.dst. */
struct panel {
    const real *w, *x, *bias; /* bias: NULL, or of these outputs */
    ptrdiff_t w_pitch, x_pitch, depth, count;
    const ptrdiff_t *step; /* where row j of x begins, if LISTED */
    ptrdiff_t area;        /* pixels from one output's plane to the next */
    struct destination to;
};

/* dst[m][p] = (first: bias[m], else dst[m][p]) + sum over j < depth of w[m][j] * x[j][p], for outputs m from
 * k on; the next panel's pixels of both sides are fetched. */
INLINE void tile_planes(const int rows, const int vectors, const enum rows_of_x kind, const struct panel *p,
                        ptrdiff_t k) {
    vec sum[TILE][MOST_VECTORS];
    const ptrdiff_t first = k * p->area, area = p->area;
    ptrdiff_t at[TILE];
    UNROLL for (int m = 0; m < rows; m++) at[m] = first + m * area;
    UNROLL for (int m = 0; m < rows; m++) {
        vec start = splat(p->to.first && p->bias ? p->bias[k + m] : 0);
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = start;
    }
    UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v += 2)
        __builtin_prefetch(p->to.dst + at[m] + (vectors + v) * LANES, 1);
    struct rows from = begin_rows(p->w + k * p->w_pitch, p->w_pitch);
    const ptrdiff_t x_pitch = kind == ADJACENT ? vectors * LANES : p->x_pitch, *step = p->step;
    const real *x = p->x;
    TWICE for (ptrdiff_t j = 0; j < p->depth; j++, from.at += sizeof(real)) {
        const real *at_j = kind == LISTED ? x + step[j] : x;
        keep_scaling(&from, rows);
        if (kind == PITCHED) __builtin_prefetch(x + 2 * WIDEST * LANES);
        if (kind != LISTED) x += x_pitch;
        if (rows < vectors) {
            vec weight[MOST_VECTORS];
            UNROLL for (int m = 0; m < rows; m++) weight[m] = splat(*row_at(&from, m));
            UNROLL for (int v = 0; v < vectors; v++) {
                vec value = load(at_j + v * LANES);
                UNROLL for (int m = 0; m < rows; m++) sum[m][v] += weight[m] * value;
            }
        } else {
            vec value[MOST_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) value[v] = load(at_j + v * LANES);
            UNROLL for (int m = 0; m < rows; m++) {
                vec weight = splat(*row_at(&from, m));
                UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += weight * value[v];
            }
        }
    }
    if (!p->to.first) UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++) {
            const real *so_far = p->to.dst + at[m] + v * LANES;
            sum[m][v] += v == vectors - 1 ? load_first(so_far, p->to.lanes) : load(so_far);
        }
    finish_tile(rows, vectors, sum, &p->to, at);
}

#define PRODUCT(rows, vectors, kind) tile_planes(rows, vectors, kind, p, k)
#define PANEL(name, vectors, kind, most, DISPATCH_ROWS)                                                      \
    static void name##_##vectors(const struct panel *p) {                                                    \
        ptrdiff_t k = 0;                                                                                     \
        for (; k + most <= p->count; k += most) PRODUCT(most, vectors, kind);                                \
        if (k < p->count) DISPATCH_ROWS(p->count - k, PRODUCT, vectors, kind)                                \
    }
#define PANELS(name, kind)                                                                                   \
    PANEL(name, 1, kind, TILE, DISPATCH_TILE)                                                                \
    PANEL(name, 2, kind, TILE, DISPATCH_TILE)                                                                \
    PANEL(name, 3, kind, WIDE_TILE, DISPATCH_WIDE)                                                           \
    PANEL(name, 4, kind, FOUR_TILE, DISPATCH_FOUR)
PANELS(pitched, PITCHED)
PANELS(listed, LISTED)
PANELS(adjacent, ADJACENT)

/* What rows [j, j + depth) of x add to outputs [k0, k1) of all groups, which are of one, at `count` pixels.
 */
struct step {
    ptrdiff_t j, depth, k0, k1, count;
    int last;        /* of the steps of these outputs */
    ptrdiff_t place; /* of output k0's first pixel in dst */
    enum rows_of_x rows;
    const ptrdiff_t *offset; /* of these rows, if LISTED */
};

static void add_step(const struct planes *s, const struct step *step, const real *x, ptrdiff_t pitch) {
    static void (*const panels[][4])(const struct panel *) = {
        [PITCHED] = {pitched_1, pitched_2, pitched_3, pitched_4},
        [LISTED] = {listed_1, listed_2, listed_3, listed_4},
        [ADJACENT] = {adjacent_1, adjacent_2, adjacent_3, adjacent_4},
    };
    const struct correlation *c = s->c;
    const real *bias = c->epilogue.bias, *residual = c->epilogue.residual;
    struct panel p = {.w = s->weight + step->k0 * s->weight_pitch + step->j,
                      .bias = bias ? bias + step->k0 : NULL,
                      .w_pitch = s->weight_pitch,
                      .x_pitch = pitch,
                      .step = step->offset,
                      .depth = step->depth,
                      .count = step->k1 - step->k0,
                      .area = c->dst_height * c->dst_width,
                      .to = {.relu = step->last && c->epilogue.relu, .first = step->j == 0}};
    const ptrdiff_t widest = p.count <= FOUR_TILE ? MOST_VECTORS : WIDEST;
    for (ptrdiff_t b = 0; b < vector_blocks(step->count, widest); b++) {
        struct filters block = vector_block(step->count, widest, b);
        ptrdiff_t place = step->place + block.vector * LANES;
        p.x = x + block.vector * LANES * (step->rows == ADJACENT ? step->depth : 1);
        p.to.dst = c->dst + place;
        p.to.residual = step->last && residual ? residual + place : NULL;
        p.to.lanes = block.lanes;
        panels[step->rows][block.vectors - 1](&p);
    }
}

/* Whether whole vectors for `count` pixels from `row` on end beyond the source */
static int reads_beyond(const struct correlation *c, const real *row, ptrdiff_t count) {
    ptrdiff_t elements = c->batch * c->groups * c->src_channels * c->src_height * c->src_width;
    return row + ceil_div(count, LANES) * LANES > c->src + elements;
}

/* The same step for `pixels` pixels, row by row, from lines */
static void add_rows(const struct planes *s, struct step step, const real *x, ptrdiff_t pixels) {
    step.count = s->c->dst_width;
    for (; pixels > 0; pixels -= step.count, step.place += step.count, x += s->c->step_height * s->lines.row)
        add_step(s, &step, x, 0);
}

/* `count` pixels of `rows` rows, `pitch` apart, in panels of up to WIDEST vectors, [panel][row][vector] */
static void put_panels(const real *x, ptrdiff_t pitch, ptrdiff_t rows, ptrdiff_t count, real *to) {
    for (ptrdiff_t j = 0; j < rows; j++, x += pitch) {
        for (ptrdiff_t e = 0; e < count; e += LINE) __builtin_prefetch(x + PLANES_AHEAD * pitch + e);
        for (ptrdiff_t b = 0; b < vector_blocks(count, WIDEST); b++) {
            const struct filters block = vector_block(count, WIDEST, b);
            const ptrdiff_t end = (block.vectors - 1) * LANES;
            const real *from = x + block.vector * LANES;
            real *panel = to + (block.vector * rows + j * block.vectors) * LANES;
            for (ptrdiff_t e = 0; e < end; e += LANES) store(panel + e, load(from + e));
            store(panel + end, load_first(from + end, block.lanes));
        }
    }
}

/* Pixels [first, end) of an image's group, and a share of each part's outputs */
struct share {
    ptrdiff_t image, group, split, first, end;
};

/* What `channels` channels from i on add to all parts; offset: of each tap's rows of x, if they are LISTED */
static void add_channels(const struct planes *s, const struct share *share, ptrdiff_t i, ptrdiff_t channels,
                         enum rows_of_x rows, const ptrdiff_t *offset, const real *x, ptrdiff_t pitch) {
    const struct correlation *c = s->c;
    const ptrdiff_t area = c->dst_height * c->dst_width, outputs = part_channels(c);
    const ptrdiff_t tiles = ceil_div(outputs, TILE), pixels = share->end - share->first;
    const ptrdiff_t begin = tiles * share->split / s->splits * TILE,
                    end = min_size(tiles * (share->split + 1) / s->splits * TILE, outputs);
    for (ptrdiff_t p = 0; p < part_count(c); p++) {
        const ptrdiff_t taps = part_taps(c, p), k = share->group * c->dst_channels + p * outputs;
        struct step step = {.j = i * taps, .depth = channels * taps, .k0 = k + begin, .k1 = k + end};
        step.count = pixels, step.last = i + channels == c->src_channels;
        step.place = (share->image * c->groups * c->dst_channels + step.k0) * area + share->first;
        step.rows = rows;
        if (rows == LISTED) step.offset = offset + s->channels * first_tap(c, p);
        if (s->lines.pitch)
            add_rows(s, step, x, pixels);
        else
            add_step(s, &step, x, pitch);
    }
}

static void run_planes(const void *context, ptrdiff_t task, void *scratch) {
    const struct planes *s = context;
    const struct correlation *c = s->c;
    const ptrdiff_t block = task / s->splits % s->blocks, rest = task / s->splits / s->blocks;
    const ptrdiff_t area = c->dst_height * c->dst_width, first = block * s->pixels;
    const struct share share = {.image = rest / c->groups,
                                .group = rest % c->groups,
                                .split = task % s->splits,
                                .first = first,
                                .end = min_size(first + s->pixels, area)};
    struct stretch *stretch = scratch;
    ptrdiff_t *offset = (ptrdiff_t *)((char *)scratch + stretch_bytes(c, s->pixels));
    real *x = (real *)((char *)offset + offset_bytes(s->channels * c->taps));
    const enum rows_of_x rows = s->lines.pitch || part_count(c) > 1 ? LISTED : PITCHED;
    if (rows == LISTED) list_rows(c, &s->lines, s->channels, s->pitch, offset);
    for (ptrdiff_t i = 0; i < c->src_channels; i += s->channels) {
        const ptrdiff_t channels = min_size(s->channels, c->src_channels - i);
        const real *plain = c->src + (rest * c->src_channels + i) * area + first;
        if (s->panels) {
            put_panels(plain, area, channels, share.end - first, x);
            add_channels(s, &share, i, channels, ADJACENT, NULL, x, 0);
            continue;
        }
        if (s->lines.pitch) {
            put_lines(c, &s->lines, share.image, share.group, i, channels, first / c->dst_width,
                      share.end / c->dst_width, stretch, x);
        } else if (s->plain && !reads_beyond(c, plain + (channels - 1) * area, share.end - first)) {
            add_channels(s, &share, i, channels, PITCHED, NULL, plain, area);
            continue;
        } else {
            put_rows(c, share.image, share.group, i, channels, first, share.end, stretch, x, s->pitch);
        }
        add_channels(s, &share, i, channels, rows, offset, x, s->pitch);
    }
}

/* ---- The whole correlation ---- */

static void plan(struct planes *s, const struct correlation *c) {
    ptrdiff_t area = c->dst_height * c->dst_width;
    s->c = c;
    s->depth = most_taps(c) * c->src_channels;
    s->weight_pitch = s->depth;
    if (!uses_rows(s)) s->weight_pitch = (ceil_div(s->depth, LINE) | 1) * LINE;
    s->channels = planes_channels(c->src_channels, most_taps(c));
    s->lines = (struct plane_lines){0};
    s->plain = is_plain(c);
    if (has_lines(c)) {
        s->lines =
            plan_lines(c, s->channels, ceil_div(c->dst_height, ceil_div(PLANES_TASKS, c->batch * c->groups)));
        s->pixels = s->lines.rows * c->dst_width;
        s->blocks = ceil_div(c->dst_height, s->lines.rows);
    } else {
        s->pixels = planes_pixels(c->batch * c->groups, area, s->channels * c->taps);
        s->pitch = planes_pitch(s->pixels);
        s->blocks = ceil_div(area, s->pixels);
    }
    s->splits = planes_splits(c->batch * c->groups * s->blocks, part_channels(c));
    s->panels = s->plain && part_count(c) == 1 && copies_panels(part_channels(c) / s->splits);
}

static struct workspace space(const struct planes *s) {
    ptrdiff_t x = s->lines.pitch ? s->channels * s->lines.plane + LANES : s->channels * s->c->taps * s->pitch;
    return (struct workspace){
        (size_t)packed_elements(s) * sizeof(real),
        stretch_bytes(s->c, s->pixels) + offset_bytes(s->channels * s->c->taps) + (size_t)x * sizeof(real),
    };
}

struct workspace VARIANT(correlate_planes_workspace)(const struct correlation *c) {
    struct planes s;
    plan(&s, c);
    return space(&s);
}

int VARIANT(correlate_planes)(const struct correlation *c) {
    struct planes s;
    plan(&s, c);
    struct workspace bytes = space(&s);
    real *packed = NULL;
    s.weight = c->weight;
    int status = PYCONV_OK;
    if (bytes.shared) {
        if (!(packed = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
        s.weight = packed;
        status = parallel_run(pack_tasks(c), (double)packed_elements(&s) / 2, 0, pack_rows, &s);
    }
    double work = (double)(c->batch * c->groups * c->dst_height * c->dst_width) *
                  (double)(part_channels(c) * c->taps * c->src_channels);
    if (status == PYCONV_OK)
        status = parallel_run(c->batch * c->groups * s.blocks * s.splits, work / MULTIPLY_ADDS_PER_NANOSECOND,
                              bytes.scratch, run_planes, &s);
    if (packed) pyconv_free(packed, bytes.shared);
    return status;
}
