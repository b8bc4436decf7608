/* The depthwise convolution of planes, and the gradient of its input.
 *
 *     dst[n, c, i, j] = bias[c] + sum over taps of src[n, c, i step + y, j step + x] * weight[c][tap]
 *
 * Squares of 3 x 3 or 5 x 5 taps read the planes as they lie, and masks clear what is beside their rows. A
 * tile is a column of one or two vectors that walks down a block of rows: what is loaded of a source row is
 * added to the sums of all rows that read it. 3 x 3 taps take 3 loads for 9 fused multiply-adds, and 9
 * weights + 3 sums + 1 source vector = 13 registers; 5 x 5 ones, of two vectors, 10 loads and 25 weights from
 * L1 for 50, and 10 sums + 2 source vectors + 1 weight. (Against tiles of four rows of laid-out lines: 1 to
 * 1.2 times as fast, with a step of 2 1.8 to 2.5 times; rows may be as short as a plane of 7 x 7, and are
 * done one after another without waiting, since each has sums of its own.)
 *
 * For all other taps, and the planes that others do not surround, rows are laid out first, see
 * conv_depthwise_planes.h: a tile is ROWS rows of one or two vectors, with a load in each product, but 8 sums
 * to hide its latency.
 *
 * The last vector of a row overlaps the one before. Where a row has less than one, what is stored beyond it
 * is overwritten by the next row's, in ascending order; the last rows of a task store what is theirs.
 */
#include "conv.h"
#include "conv_depthwise_planes.h"
#include "parallel.h"

#include <math.h>

#define ROWS 4
#define MOST_KERNEL 5 /* of those that walk */

struct plane_rows;
typedef void walk_function(const struct plane_rows *, ptrdiff_t planes, ptrdiff_t count);

struct plane_pass {
    struct plane_line line;
    struct plane_cut cut;
    walk_function *walk;             /* or NULL */
    ptrdiff_t channels, width, step; /* of the destination; between its rows, in the source */
    ptrdiff_t first_row;             /* of the source, that row 0 reads */
    ptrdiff_t taps;
    const ptrdiff_t *offset;         /* [taps] where a tap finds its source, from a pixel's first line on */
    int turned;                      /* the taps' weights begin at the last */
    const struct plane_masks *masks; /* or NULL: all planes are laid out */
    const real *src, *weight, *bias, *residual; /* bias, residual: or NULL */
    real *dst;
    int relu;
};

/* Some rows of one plane, and where they are stored. */
struct plane_rows {
    const struct plane_pass *pass;
    const real *x;   /* the source's plane; or the lines of the first row */
    ptrdiff_t first; /* of the source's rows that the first one reads */
    ptrdiff_t channel;
    const real *weight; /* of lines: in the order of the taps */
    real *to;
    const real *end; /* nothing is stored from here on */
    real bias;
};

/* A vector of a row of `width`, with what there is to add; `whole`: all of it may be stored. */
INLINE void store_pixels(const struct plane_pass *p, real *to, vec sum, ptrdiff_t width, int whole) {
    if (p->residual) {
        const real *residual = p->residual + (to - p->dst);
        sum += whole ? load(residual) : load_first(residual, width);
    }
    if (p->relu) sum = choose(sum < 0, (vec){0}, sum);
    if (whole)
        store(to, sum);
    else
        store_first(to, sum, width);
}

/* ---- Squares of taps side by side, with a step of 1 or 2 in both directions ---- */

/* Down a column of one or two vectors, the tiles from `tile` on: `count` rows. Each row of the source is
 * added to all sums that read it, of at most three outputs, or five; that whose last row it was is stored.
 * plain: there is no residual, and nothing lies beyond the end. */
INLINE void walk_down(const struct plane_rows *t, const vec *weight, ptrdiff_t tile, ptrdiff_t count,
                      const int vectors, const int kernel, const int step, const int masked,
                      const int plain) {
    const int depth = (kernel + step - 1) / step;
    const struct plane_pass *p = t->pass;
    const ptrdiff_t width = p->width, height = p->line.height, pitch = p->line.width;
    const ptrdiff_t last = max_size(width - LANES, 0), j = min_size(tile * LANES, last),
                    gap = vectors == 2 ? min_size((tile + 1) * LANES, last) - j : 0;
    const integer *mask = tile_masks(p->masks, tile);
    const ptrdiff_t next = p->masks->each * LANES;
    const vec bias = splat(t->bias), least = splat(p->relu ? 0 : (real)-INFINITY);
    ptrdiff_t y = t->first;
    const real *x = t->x + y * pitch + j * step - p->line.padding;
    real *to = t->to + j;
    vec sum[MOST_KERNEL][2];
    UNROLL for (int d = 0; d < depth; d++) UNROLL for (int v = 0; v < vectors; v++) sum[d][v] = bias;
    for (ptrdiff_t i = 1 - depth; i < count; i++) {
        UNROLL for (int r = 0; r < step; r++, y++, x += pitch) {
            if (y < 0 || y >= height) continue;
            UNROLL for (int s = 0; s < kernel; s++) UNROLL for (int v = 0; v < vectors; v++) {
                const real *from = x + s + v * step * gap;
                vec value = step == 1 ? load(from) : load_stepped(from);
                if (masked) value = keep_lanes(value, mask + v * next + s * LANES);
                value = in_register(value);
                UNROLL for (int d = 0; d < depth; d++) if (d * step + r < kernel) sum[d][v] +=
                    value * weight[(d * step + r) * kernel + s];
            }
        }
        if (i >= 0) {
            UNROLL for (int v = 0; v < vectors; v++) {
                vec value = sum[depth - 1][v];
                if (plain)
                    store(to + v * gap, choose(value < least, least, value));
                else
                    store_pixels(p, to + v * gap, value, width, t->end - (to + v * gap) >= LANES);
            }
            to += width;
        }
        UNROLL for (int v = 0; v < vectors; v++) {
            UNROLL for (int d = depth - 1; d > 0; d--) sum[d][v] = sum[d - 1][v];
            sum[0][v] = bias;
        }
    }
}

INLINE void walk_columns(const struct plane_rows *t, const vec *weight, ptrdiff_t count, const int vectors,
                         const int kernel, const int step) {
    const ptrdiff_t width = t->pass->width, tiles = t->pass->masks->tiles;
    const uint8_t *edge = t->pass->masks->edge;
    const int plain = !t->pass->residual && t->end - t->to >= (count - 1) * width + max_size(width, LANES);
    for (ptrdiff_t tile = 0; tile < tiles; tile++) {
        if (!plain) {
            walk_down(t, weight, tile, count, 1, kernel, step, 1, 0);
        } else if (vectors == 2 && tile + 2 <= tiles) {
            if (edge[tile] || edge[tile + 1])
                walk_down(t, weight, tile, count, 2, kernel, step, 1, 1);
            else
                walk_down(t, weight, tile, count, 2, kernel, step, 0, 1);
            tile++;
        } else if (vectors == 2 || edge[tile]) {
            walk_down(t, weight, tile, count, 1, kernel, step, 1, 1);
        } else {
            walk_down(t, weight, tile, count, 1, kernel, step, 0, 1);
        }
    }
}

/* `count` rows of each of `planes` planes */
INLINE void walk_planes(struct plane_rows t, ptrdiff_t planes, ptrdiff_t count, const int vectors,
                        const int kernel, const int step) {
    const struct plane_pass *p = t.pass;
    const int area = kernel * kernel;
    const ptrdiff_t pixels = p->line.height * p->line.width, outputs = p->cut.height * p->width;
    const ptrdiff_t first = p->turned ? area - 1 : 0, next = p->turned ? -1 : 1;
    for (; planes > 0; planes--, t.x += pixels, t.to += outputs) {
        const real *from = p->weight + t.channel * area + first;
        vec weight[MOST_KERNEL * MOST_KERNEL];
        UNROLL for (int i = 0; i < area; i++) weight[i] = splat(from[i * next]);
        t.bias = p->bias ? p->bias[t.channel] : 0;
        walk_columns(&t, weight, count, vectors, kernel, step);
        if (++t.channel == p->channels) t.channel = 0;
    }
}

#define WALK(name, vectors, kernel, step)                                                                    \
    static void name(const struct plane_rows *t, ptrdiff_t planes, ptrdiff_t count) {                        \
        walk_planes(*t, planes, count, vectors, kernel, step);                                               \
    }
WALK(walk_3, 1, 3, 1)
WALK(walk_5, 2, 5, 1)
WALK(walk_3_by_2, 1, 3, 2)
WALK(walk_5_by_2, 1, 5, 2)

/* ---- Any taps, of lines ---- */

INLINE void add_taps(const struct plane_rows *t, ptrdiff_t j, ptrdiff_t gap, const int rows,
                     const int vectors, vec (*sum)[2]) {
    const ptrdiff_t row = t->pass->step * t->pass->line.elements;
    const ptrdiff_t *offset = t->pass->offset;
    const real *x = t->x + j;
    for (ptrdiff_t i = 0; i < t->pass->taps; i++) {
        const real *from = x + offset[i];
        vec weight = splat(t->weight[i]);
        UNROLL for (int r = 0; r < rows; r++, from += row) UNROLL for (int v = 0; v < vectors; v++)
            sum[r][v] += load(from + v * gap) * weight;
    }
}

/* One or two vectors of `rows` rows, from column j on; the second begins `gap` further. */
INLINE void correlate_tile(const struct plane_rows *t, ptrdiff_t j, ptrdiff_t gap, const int rows,
                           const int vectors) {
    const struct plane_pass *p = t->pass;
    vec sum[ROWS][2], bias = splat(t->bias);
    UNROLL for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = bias;
    add_taps(t, j, gap, rows, vectors, sum);
    real *to = t->to + j;
    const ptrdiff_t width = p->width;
    UNROLL for (int r = 0; r < rows; r++, to += width) UNROLL for (int v = 0; v < vectors; v++)
        store_pixels(p, to + v * gap, sum[r][v], width, t->end - (to + v * gap) >= LANES);
}

INLINE void correlate_rows(const struct plane_rows *t, const int rows) {
    ptrdiff_t tiles = ceil_div(t->pass->width, LANES), tile = 0;
    const ptrdiff_t last = max_size(t->pass->width - LANES, 0);
    for (; tile + 2 <= tiles; tile += 2)
        correlate_tile(t, tile * LANES, min_size((tile + 1) * LANES, last) - tile * LANES, rows, 2);
    if (tile < tiles) correlate_tile(t, min_size(tile * LANES, last), 0, rows, 1);
}

static void correlate_block(const struct plane_rows *block, ptrdiff_t count) {
    struct plane_rows t = *block;
    const struct plane_pass *p = t.pass;
    for (ptrdiff_t rows; count > 0; count -= rows) {
        rows = count >= ROWS ? ROWS : 1;
        if (rows == ROWS)
            correlate_rows(&t, ROWS);
        else
            correlate_rows(&t, 1);
        t.x += rows * p->step * p->line.elements;
        t.to += rows * p->width;
    }
}

/* Scratch: the weights of a channel, and the lines */
struct plane_scratch {
    real *weight, *lines;
    size_t bytes;
};

static struct plane_scratch plane_scratch(const struct plane_pass *p, void *memory) {
    ptrdiff_t weight = ceil_div(p->taps, LINE) * LINE;
    struct plane_scratch s = {.weight = memory};
    s.lines = s.weight + weight;
    s.bytes = (size_t)(weight + p->cut.group * p->cut.lines * p->line.elements) * sizeof(real);
    return s;
}

static int reads_plane(const struct plane_pass *p, ptrdiff_t plane) {
    return is_inner(&p->line, p->masks, p->cut.planes, plane);
}

static void correlate_unit(const struct plane_pass *p, ptrdiff_t unit, const real *end,
                           const struct plane_scratch *s) {
    const struct plane_cut *cut = &p->cut;
    ptrdiff_t plane = unit / cut->blocks * cut->group, last = min_size(plane + cut->group, cut->planes);
    ptrdiff_t row = unit % cut->blocks * cut->rows, rows = min_size(cut->rows, cut->height - row);
    ptrdiff_t lines = cut->lines * p->line.elements, pixels = p->line.height * p->line.width;
    ptrdiff_t count = cut->lines - (cut->rows - rows) * p->step;
    real *to = s->lines;
    for (ptrdiff_t i = plane; i < last; i++, to += lines)
        if (!reads_plane(p, i))
            lay_plane(&p->line, p->src + i * pixels, row * p->step + p->first_row, count,
                      p->src + cut->planes * pixels, to);
    to = s->lines;
    for (ptrdiff_t inner; plane < last; plane += max_size(inner, 1), to += max_size(inner, 1) * lines) {
        for (inner = 0; plane + inner < last && reads_plane(p, plane + inner);) inner++;
        struct plane_rows t = {.pass = p,
                               .x = inner ? p->src + plane * pixels : to,
                               .first = row * p->step + p->first_row,
                               .channel = plane % p->channels,
                               .to = p->dst + (plane * cut->height + row) * p->width,
                               .end = end};
        if (inner) {
            p->walk(&t, inner, rows);
            continue;
        }
        const real *weight = p->weight + t.channel * p->taps;
        for (ptrdiff_t i = 0; p->turned && i < p->taps; i++) s->weight[i] = weight[p->taps - 1 - i];
        t.weight = p->turned ? s->weight : weight;
        t.bias = p->bias ? p->bias[t.channel] : 0;
        correlate_block(&t, rows);
    }
}

static void run_planes(const void *context, ptrdiff_t task, void *scratch) {
    const struct plane_pass *p = context;
    struct plane_scratch s = plane_scratch(p, scratch);
    ptrdiff_t unit = task * p->cut.each, last = min_size(unit + p->cut.each, p->cut.units);
    if (!reads_plane(p, unit / p->cut.blocks * p->cut.group) ||
        !reads_plane(p, min_size(ceil_div(last, p->cut.blocks) * p->cut.group, p->cut.planes) - 1))
        clear_elements(s.lines, p->cut.group * p->cut.lines * p->line.elements);
    const real *end = p->dst + rows_before(&p->cut, last) * p->width;
    for (; unit < last; unit++) correlate_unit(p, unit, end, &s);
}

static int correlate_planes(const struct plane_pass *p) {
    double sums = (double)(p->cut.planes * p->cut.height * p->width) * (double)(p->taps + 4);
    return parallel_run(p->cut.tasks, sums / MULTIPLY_ADDS_PER_NANOSECOND, plane_scratch(p, NULL).bytes,
                        run_planes, p);
}

/* Or NULL. pairs: a step of 2 */
static walk_function *find_walk(const struct pyconv_conv2d *g, int pairs) {
    if (!walks_planes(g)) return NULL;
    if (g->kernel_height == 3) return pairs ? walk_3_by_2 : walk_3;
    return pairs ? walk_5_by_2 : walk_5;
}

/* A source of height x width with taps in a grid: the forward pass, or, with the taps turned round, the
 * gradient of the input for a stride of 1. */
struct plane_grid {
    ptrdiff_t height, width, dst_height, dst_width;
    ptrdiff_t step_height, step_width, pad_top, pad_left;
    int turned;
};

static int correlate_grid(const struct pyconv_conv2d *g, const struct plane_grid *grid,
                          struct plane_pass *p) {
    ptrdiff_t area = g->kernel_height * g->kernel_width, planes = g->batch * g->in_channels;
    ptrdiff_t down = (g->kernel_height - 1) * g->dilation_height,
              across = (g->kernel_width - 1) * g->dilation_width;
    if (!planes || !grid->dst_height || !grid->dst_width) return PYCONV_OK;
    size_t bytes = (size_t)area * sizeof(ptrdiff_t);
    ptrdiff_t *offset = pyconv_alloc(bytes);
    if (!offset) return PYCONV_NO_MEMORY;
    p->line =
        make_plane_line(grid->height, grid->width, grid->step_width, grid->pad_left, grid->dst_width, across);
    p->cut = cut_planes(&p->line, planes, grid->dst_height, grid->dst_width, grid->step_height, down);
    p->channels = g->in_channels, p->width = grid->dst_width, p->step = grid->step_height;
    p->first_row = -grid->pad_top, p->taps = area, p->offset = offset, p->turned = grid->turned;
    p->walk = find_walk(g, grid->step_height == 2);
    for (ptrdiff_t t = 0; t < area; t++)
        offset[t] = t / g->kernel_width * g->dilation_height * p->line.elements +
                    line_offset(&p->line, t % g->kernel_width * g->dilation_width);
    struct plane_masks masks = {0};
    int status = PYCONV_OK;
    if (p->walk) {
        status = make_masks(&p->line, p->width, g->kernel_width, 0, &masks);
        p->masks = &masks;
    }
    if (status == PYCONV_OK) status = correlate_planes(p);
    free_masks(&masks);
    pyconv_free(offset, bytes);
    return status;
}

int VARIANT(depthwise_planes)(const struct pyconv_conv2d *g, const real *input, const real *weight,
                              const struct pyconv_epilogue *epilogue, real *output) {
    struct plane_pass p = {.src = input, .weight = weight, .dst = output};
    p.bias = epilogue->bias, p.residual = epilogue->residual, p.relu = epilogue->relu;
    struct plane_grid grid = {g->in_height,    g->in_width, g->out_height, g->out_width, g->stride_height,
                              g->stride_width, g->pad_top,  g->pad_left,   .turned = 0};
    return correlate_grid(g, &grid, &p);
}

int VARIANT(grad_input_depthwise_planes)(const struct pyconv_conv2d *g, const real *grad_output,
                                         const real *weight, const real *residual, real *grad_input) {
    if (g->stride_height != 1 || g->stride_width != 1)
        return VARIANT(grad_input_strided_planes)(g, grad_output, weight, residual, grad_input);
    struct plane_pass p = {.src = grad_output, .weight = weight, .residual = residual, .dst = grad_input};
    struct plane_grid grid = {.height = g->out_height, .width = g->out_width};
    grid.dst_height = g->in_height, grid.dst_width = g->in_width;
    grid.step_height = grid.step_width = 1, grid.turned = 1;
    grid.pad_top = (g->kernel_height - 1) * g->dilation_height - g->pad_top;
    grid.pad_left = (g->kernel_width - 1) * g->dilation_width - g->pad_left;
    return correlate_grid(g, &grid, &p);
}
