/* The depthwise convolution of planes, and the gradient of its input.
 *
 *     dst[n, c, i, j] = bias[c] + sum over taps of src[n, c, i step + y, j step + x] * weight[c][tap]
 *
 * See conv_depthwise_planes.h for how the source is laid out. A tile is up to ROWS rows of one or two
 * vectors, whose sums stay in registers. Of 3 x 3 taps with a step of 1, which read the planes as they lie,
 * four rows of a vector take 18 loads for 36 fused multiply-adds, and 9 weights + 4 sums + 1 source vector =
 * 14 registers. Other forms have a load in each of their products, but 8 sums to hide its latency. (Sharing
 * loads among the rows of 5 x 5 taps, GCC spills what 16 registers hold, at 1.3 to 1.7 times the time.)
 *
 * The last vector of a row overlaps the one before. Where a row has less than one, what is stored beyond it
 * is overwritten by the next row's, in ascending order; the last rows of a task store what is theirs.
 */
#include "conv.h"
#include "conv_depthwise_planes.h"
#include "parallel.h"

#define ROWS 4

/* Which taps a tile has, and what is known of them when it is compiled. */
enum taps_form { ANY_TAPS, DENSE_3, DENSE_5, PAIRS_3, PAIRS_5 };

struct plane_pass {
    struct plane_line line;
    struct plane_cut cut;
    enum taps_form form;
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

/* Some rows of one plane: the lines of the first, and where they are stored. */
struct plane_rows {
    const struct plane_pass *pass;
    const real *const *row;          /* [lines] that they read */
    const real *weight;              /* in the order of the taps */
    const struct plane_masks *masks; /* NULL: lines with their padding */
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

/* 3 x 3 taps side by side, from column j on. mask: NULL, or which lanes are pixels. Each vector of the source
 * is loaded once for all rows that read it. */
INLINE void add_square(const struct plane_rows *t, const vec *weight, ptrdiff_t j, const integer *mask,
                       const int rows, vec (*sum)[2]) {
    UNROLL for (int y = 0; y < rows + 2; y++) {
        /* the address hides that the branches with and without masks load the same, which GCC would do
         * before them, and spill */
        const real *x = as_pointer(t->row[y] + j);
        UNROLL for (int s = 0; s < 3; s++) {
            vec value = load(x + s);
            if (mask) value = (vec)((ivec)value & load_mask(mask + s * LANES));
            value = in_register(value);
            UNROLL for (int r = 0; r < rows; r++) if (y >= r && y - r < 3) sum[r][0] +=
                value * weight[(y - r) * 3 + s];
        }
    }
}

/* kernel x kernel taps side by side, a row of them at a time. gap: from the first vector to the second */
INLINE void add_kernel_rows(const struct plane_rows *t, ptrdiff_t j, ptrdiff_t gap, const int rows,
                            const int vectors, const int kernel, const int step, vec (*sum)[2]) {
    const ptrdiff_t elements = t->pass->line.elements, pitch = t->pass->line.pitch;
    const real *x = t->row[0] + j, *w = t->weight;
    for (int k = 0; k < kernel; k++, x += elements, w += kernel) UNROLL for (int s = 0; s < kernel; s++) {
            const real *from = x + s % step * pitch + s / step;
            vec weight = splat(w[s]);
            UNROLL for (int r = 0; r < rows; r++, from += step * elements)
                UNROLL for (int v = 0; v < vectors; v++) sum[r][v] += load(from + v * gap) * weight;
        }
}

INLINE void add_taps(const struct plane_rows *t, ptrdiff_t j, ptrdiff_t gap, const int rows,
                     const int vectors, vec (*sum)[2]) {
    const ptrdiff_t row = t->pass->step * t->pass->line.elements;
    const ptrdiff_t *offset = t->pass->offset;
    const real *x = t->row[0] + j;
    for (ptrdiff_t i = 0; i < t->pass->taps; i++) {
        const real *from = x + offset[i];
        vec weight = splat(t->weight[i]);
        UNROLL for (int r = 0; r < rows; r++, from += row) UNROLL for (int v = 0; v < vectors; v++)
            sum[r][v] += load(from + v * gap) * weight;
    }
}

/* One or two vectors of `rows` rows, from column j on; the second begins `gap` further. plain: there is no
 * residual, and nothing lies beyond the end. */
INLINE void correlate_tile(const struct plane_rows *t, const vec *weight, ptrdiff_t j, ptrdiff_t gap,
                           const integer *mask, const int rows, const int vectors, const enum taps_form form,
                           const int plain) {
    const struct plane_pass *p = t->pass;
    vec sum[ROWS][2], bias = splat(t->bias);
    UNROLL for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = bias;
    if (form == DENSE_3) add_square(t, weight, j, mask, rows, sum);
    if (form == DENSE_5) add_kernel_rows(t, j, gap, rows, vectors, 5, 1, sum);
    if (form == PAIRS_3) add_kernel_rows(t, j, gap, rows, vectors, 3, 2, sum);
    if (form == PAIRS_5) add_kernel_rows(t, j, gap, rows, vectors, 5, 2, sum);
    if (form == ANY_TAPS) add_taps(t, j, gap, rows, vectors, sum);
    real *to = t->to + j;
    const ptrdiff_t width = p->width;
    if (plain && p->relu)
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++) sum[r][v] =
            choose(sum[r][v] < 0, (vec){0}, sum[r][v]);
    UNROLL for (int r = 0; r < rows; r++, to += width) UNROLL for (int v = 0; v < vectors; v++) {
        if (plain)
            store(to + v * gap, sum[r][v]);
        else
            store_pixels(p, to + v * gap, sum[r][v], width, t->end - (to + v * gap) >= LANES);
    }
}

/* The tile of number `tile`, by masks where it has an edge. */
INLINE void correlate_pixels(const struct plane_rows *t, const vec *weight, ptrdiff_t tile, const int rows,
                             const int vectors, const enum taps_form form, const int plain) {
    ptrdiff_t last = max_size(t->pass->width - LANES, 0), j = min_size(tile * LANES, last),
              gap = vectors == 2 ? min_size((tile + 1) * LANES, last) - j : 0;
    const integer *mask = NULL;
    if (form == DENSE_3 && t->masks) mask = edge_mask(t->masks, tile);
    if (form == DENSE_3 && mask)
        correlate_tile(t, weight, j, gap, mask, rows, vectors, form, plain);
    else
        correlate_tile(t, weight, j, gap, NULL, rows, vectors, form, plain);
}

INLINE void correlate_rows(const struct plane_rows *t, const int rows, const int vectors,
                           const enum taps_form form, const int plain) {
    const int area = form == DENSE_3 ? 9 : 0;
    vec weight[9];
    UNROLL for (int i = 0; i < area; i++) weight[i] = splat(t->weight[i]);
    ptrdiff_t tiles = ceil_div(t->pass->width, LANES), tile = 0;
    for (; vectors == 2 && tile + 2 <= tiles; tile += 2)
        correlate_pixels(t, weight, tile, rows, 2, form, plain);
    for (; tile < tiles; tile++) correlate_pixels(t, weight, tile, rows, 1, form, plain);
}

/* `count` rows in shares of up to ROWS */
INLINE void correlate_block(struct plane_rows t, ptrdiff_t count, const int vectors,
                            const enum taps_form form) {
    const struct plane_pass *p = t.pass;
    for (ptrdiff_t shares = ceil_div(count, ROWS); shares > 0; shares--) {
        ptrdiff_t rows = ceil_div(count, shares);
        if (p->residual || t.end - t.to < rows * p->width + LANES) {
            for (ptrdiff_t r = 0; r < rows; r++, t.row += p->step, t.to += p->width)
                correlate_rows(&t, 1, 1, form, 0);
            count -= rows;
            continue;
        }
        switch (rows) {
        case 1: correlate_rows(&t, 1, vectors, form, 1); break;
        case 2: correlate_rows(&t, 2, vectors, form, 1); break;
        case 3: correlate_rows(&t, 3, vectors, form, 1); break;
        case 4: correlate_rows(&t, 4, vectors, form, 1); break;
        }
        count -= rows;
        t.row += rows * p->step;
        t.to += rows * p->width;
    }
}

static void any_taps(const struct plane_rows *t, ptrdiff_t n) { correlate_block(*t, n, 2, ANY_TAPS); }
static void dense_3(const struct plane_rows *t, ptrdiff_t n) { correlate_block(*t, n, 1, DENSE_3); }
static void dense_5(const struct plane_rows *t, ptrdiff_t n) { correlate_block(*t, n, 2, DENSE_5); }
static void pairs_3(const struct plane_rows *t, ptrdiff_t n) { correlate_block(*t, n, 2, PAIRS_3); }
static void pairs_5(const struct plane_rows *t, ptrdiff_t n) { correlate_block(*t, n, 2, PAIRS_5); }

static void (*const correlate_form[])(const struct plane_rows *, ptrdiff_t) = {any_taps, dense_3, dense_5,
                                                                               pairs_3, pairs_5};

/* Scratch: the weights of a channel, the rows of a plane, a row of zeros, and the lines */
struct plane_scratch {
    real *weight, *zeros, *lines;
    const real **row;
    size_t bytes;
};

static struct plane_scratch plane_scratch(const struct plane_pass *p, void *memory) {
    ptrdiff_t weight = ceil_div(p->taps, LINE) * LINE;
    ptrdiff_t rows = ceil_div(p->cut.lines * (ptrdiff_t)sizeof(real *), 64) * 64 / (ptrdiff_t)sizeof(real);
    ptrdiff_t lines = p->cut.group * p->cut.lines * p->line.elements;
    struct plane_scratch s = {.weight = memory};
    s.row = (const real **)(s.weight + weight);
    s.zeros = s.weight + weight + rows;
    s.lines = s.zeros + p->line.elements;
    s.bytes = (size_t)(weight + rows + p->line.elements + lines) * sizeof(real);
    return s;
}

/* Where the rows of a plane are found that destination rows from `row` on read: in its lines, or in itself.
 */
static void find_rows(const struct plane_pass *p, const struct plane_scratch *s, ptrdiff_t row,
                      ptrdiff_t count, const real *lines, const real *plane) {
    if (!plane) {
        for (ptrdiff_t y = 0; y < count; y++) s->row[y] = lines + y * p->line.elements;
        return;
    }
    ptrdiff_t first = row * p->step + p->first_row;
    const real *x = plane + first * p->line.width - p->line.padding;
    for (ptrdiff_t y = 0; y < count; y++, x += p->line.width)
        s->row[y] = first + y >= 0 && first + y < p->line.height ? x : s->zeros;
}

/* Planes that may be read where they lie, with what is beside their rows: all but the first and last ones. */
static int is_inner(const struct plane_pass *p, ptrdiff_t plane) {
    ptrdiff_t pixels = p->line.height * p->line.width;
    return p->masks && plane * pixels >= p->masks->before &&
           (p->cut.planes - plane - 1) * pixels >= p->masks->behind;
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
        if (!is_inner(p, i))
            lay_plane(&p->line, p->src + i * pixels, row * p->step + p->first_row, count,
                      p->src + cut->planes * pixels, to);
    for (to = s->lines; plane < last; plane++, to += lines) {
        ptrdiff_t channel = plane % p->channels;
        int inner = is_inner(p, plane);
        const real *weight = p->weight + channel * p->taps;
        for (ptrdiff_t t = 0; p->turned && t < p->taps; t++) s->weight[t] = weight[p->taps - 1 - t];
        find_rows(p, s, row, count, to, inner ? p->src + plane * pixels : NULL);
        struct plane_rows t = {.pass = p,
                               .row = s->row,
                               .weight = p->turned ? s->weight : weight,
                               .masks = inner ? p->masks : NULL,
                               .to = p->dst + (plane * cut->height + row) * p->width,
                               .end = end,
                               .bias = p->bias ? p->bias[channel] : 0};
        correlate_form[p->form](&t, rows);
    }
}

/* The first destination element of a unit */
static real *unit_begin(const struct plane_pass *p, ptrdiff_t unit) {
    const struct plane_cut *cut = &p->cut;
    if (unit >= cut->units) return p->dst + cut->planes * cut->height * p->width;
    return p->dst +
           (unit / cut->blocks * cut->group * cut->height + unit % cut->blocks * cut->rows) * p->width;
}

static void run_planes(const void *context, ptrdiff_t task, void *scratch) {
    const struct plane_pass *p = context;
    struct plane_scratch s = plane_scratch(p, scratch);
    ptrdiff_t unit = task * p->cut.each, last = min_size(unit + p->cut.each, p->cut.units);
    clear_elements(s.zeros, p->line.elements);
    if (!is_inner(p, unit / p->cut.blocks * p->cut.group) ||
        !is_inner(p, min_size(ceil_div(last, p->cut.blocks) * p->cut.group, p->cut.planes) - 1))
        clear_elements(s.lines, p->cut.group * p->cut.lines * p->line.elements);
    const real *end = unit_begin(p, last);
    for (; unit < last; unit++) correlate_unit(p, unit, end, &s);
}

static int correlate_planes(const struct plane_pass *p) {
    double sums = (double)(p->cut.planes * p->cut.height * p->width) * (double)(p->taps + 4);
    return parallel_run(p->cut.tasks, sums / MULTIPLY_ADDS_PER_NANOSECOND, plane_scratch(p, NULL).bytes,
                        run_planes, p);
}

static enum taps_form form_of(ptrdiff_t kernel_height, ptrdiff_t kernel_width, ptrdiff_t step_height,
                              ptrdiff_t step_width, ptrdiff_t dilation_height, ptrdiff_t dilation_width) {
    if (kernel_height != kernel_width || step_height != step_width) return ANY_TAPS;
    if (dilation_height != 1 || dilation_width != 1) return ANY_TAPS;
    if (kernel_height == 3) return step_width == 1 ? DENSE_3 : step_width == 2 ? PAIRS_3 : ANY_TAPS;
    if (kernel_height == 5) return step_width == 1 ? DENSE_5 : step_width == 2 ? PAIRS_5 : ANY_TAPS;
    return ANY_TAPS;
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
    p->form = form_of(g->kernel_height, g->kernel_width, grid->step_height, grid->step_width,
                      g->dilation_height, g->dilation_width);
    for (ptrdiff_t t = 0; t < area; t++)
        offset[t] = t / g->kernel_width * g->dilation_height * p->line.elements +
                    line_offset(&p->line, t % g->kernel_width * g->dilation_width);
    struct plane_masks masks = {0};
    int status = PYCONV_OK;
    if (p->form == DENSE_3) {
        status = make_masks(&p->line, p->width, g->kernel_width, 1, &masks);
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
