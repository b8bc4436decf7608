/* The gradient of a depthwise convolution's weight, of planes.
 *
 *     grad_weight[c][r][s] = sum over n, i, j of
 *                            grad_output[n, c, i, j] * input[n, c, i S_h + r D_h - P_h, j S_w + s D_w - P_w]
 *
 * Vectors run along the rows of grad_output, the input is laid out as in conv_depthwise_planes.h. The sums of
 * a group of taps stay in registers while the rows of a block stream past, and wait in scratch as vectors,
 * [tap] [LANES], for the next block and the next image: their lanes are added up once, at the end. A group is
 * three rows of 3 taps, or two (with 32 registers five) of 5; two or more rows of it share what they load of
 * grad_output: 2 * 5 sums + 1 gradient + 1 source = 12 registers. Lanes beyond a row's end are zeros in both,
 * so that no pixel which is not finite gets into a sum that does not see it.
 *
 * With a step of 2, and of rows shorter than a vector, squares of taps read planes as they lie, with masks:
 * then each row of gradients loads its own (1.1 to 1.5 times as fast as to lay the rows out).
 *
 * Smaller planes are transposed in bundles (conv_depthwise_weight.c).
 *
 * A task is a run of channels, over all images or a part of them whose sums are added in ascending order.
 */
#include "conv.h"
#include "conv_depthwise_planes.h"
#include "parallel.h"

#define AT_ONCE 2                        /* rows of grad_output to a step */
#define BUNDLE_PIXELS ((ptrdiff_t)200)   /* of grad_output's planes, at most */
#define PART_ELEMENTS ((ptrdiff_t)16384) /* of grad_output, that a part has at least */

struct weight_pass {
    const struct pyconv_conv2d *g;
    struct plane_line line;
    ptrdiff_t rows, blocks, lines; /* of a block; blocks to a plane; lines of a block */
    ptrdiff_t channels, bundles;   /* to a task; tasks to a part */
    ptrdiff_t parts;               /* of the list of all images' blocks */
    const real *grad_output, *input;
    real *sums;                      /* [part][channel][tap] */
    const struct plane_masks *masks; /* NULL: all planes are laid out */
};

/* Some rows of a plane: `count` rows of gradients, and the lines of the first, or (masks) the plane itself,
 * whose row `first` the first tap of the first of them reads */
struct weight_rows {
    const struct plane_line *line;
    const struct pyconv_conv2d *g;
    const real *x, *grad;
    ptrdiff_t count;
    const real *end; /* of grad_output */
    const struct plane_masks *masks;
    ptrdiff_t first;
};

/* One vector of `at_once` rows: rows x taps taps, the first of which reads from x on. What is loaded of the
 * input serves all of these rows. */
INLINE void add_vectors(const struct weight_rows *t, const real *x, const real *grad, ptrdiff_t lanes,
                        const int at_once, const int rows, const int taps, const int step, const int masked,
                        vec *sum) {
    const ptrdiff_t elements = t->line->elements, pitch = t->line->pitch, width = t->g->out_width;
    const ivec keep = masked ? (ivec)first_lanes((vec)((ivec){0} - 1), lanes, (vec){0}) : (ivec){0};
    vec dy[AT_ONCE];
    UNROLL for (int i = 0; i < at_once; i++, grad += width) dy[i] =
        masked ? (vec)((ivec)load_before(grad, lanes, t->end) & keep) : load(grad);
    UNROLL for (int y = 0; y < (at_once - 1) * step + rows; y++, x += elements)
        UNROLL for (int s = 0; s < taps; s++) {
        vec value = load(x + s % step * pitch + s / step);
        if (masked) value = (vec)((ivec)value & keep);
        if (at_once > 1) value = in_register(value);
        UNROLL for (int i = 0; i < at_once; i++) {
            int k = y - i * step;
            if (k >= 0 && k < rows) sum[k * taps + s] += dy[i] * value;
        }
    }
}

/* The same of all rows */
INLINE void add_column(const struct weight_rows *t, const real *x, const real *grad, ptrdiff_t lanes,
                       const int at_once, const int rows, const int taps, const int step, const int masked,
                       vec *sum) {
    const ptrdiff_t next = t->g->stride_height * t->line->elements, width = t->g->out_width;
    ptrdiff_t i = 0;
    for (; at_once > 1 && i + at_once <= t->count; i += at_once, grad += at_once * width, x += at_once * next)
        add_vectors(t, x, grad, lanes, at_once, rows, taps, step, masked, sum);
    for (; i < t->count; i++, grad += width, x += next)
        add_vectors(t, x, grad, lanes, 1, rows, taps, step, masked, sum);
}

/* sums[tap][LANES] += those of rows x taps taps. step: 1 or 2 */
INLINE void add_weight_rows(const struct weight_rows *t, const real *x, const int rows, const int taps,
                            const int step, real *sums) {
    vec sum[25];
    const int at_once = rows > 1 ? AT_ONCE : 1;
    ptrdiff_t j = 0, width = t->g->out_width;
    UNROLL for (int i = 0; i < rows * taps; i++) sum[i] = load(sums + i * LANES);
    for (; j + LANES <= width; j += LANES)
        add_column(t, x + j, t->grad + j, LANES, at_once, rows, taps, step, 0, sum);
    if (j < width) add_column(t, x + j, t->grad + j, width - j, at_once, rows, taps, step, 1, sum);
    UNROLL for (int i = 0; i < rows * taps; i++) store(sums + i * LANES, sum[i]);
}

/* ---- Squares of taps side by side, of planes as they lie ---- */

/* sum += those of `rows` rows of taps from row k on, of a tile */
INLINE void add_tile(const struct weight_rows *t, ptrdiff_t tile, ptrdiff_t k, const int rows, const int taps,
                     const int step, const int masked, vec *sum) {
    const ptrdiff_t pitch = t->line->width, width = t->g->out_width;
    const ptrdiff_t j = min_size(tile * LANES, max_size(width - LANES, 0));
    const integer *mask = tile_masks(t->masks, tile);
    const real *grad = t->grad + j, *x = t->x + (t->first + k) * pitch + j * step - t->line->padding;
    ptrdiff_t y = t->first + k;
    for (ptrdiff_t i = 0; i < t->count; i++, y += step, x += step * pitch, grad += width) {
        vec dy = load(grad);
        if (masked) dy = keep_lanes(dy, mask + taps * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            if (y + r < 0 || y + r >= t->line->height) { /* padding, which a NaN is multiplied by, too */
                UNROLL for (int s = 0; s < taps; s++) sum[r * taps + s] += dy * (vec){0};
                continue;
            }
            UNROLL for (int s = 0; s < taps; s++) {
                const real *from = x + r * pitch + s;
                vec value = step == 1 ? load(from) : load_stepped(from);
                if (masked) value = keep_lanes(value, mask + s * LANES);
                sum[r * taps + s] += dy * value;
            }
        }
    }
}

INLINE void add_square_rows(const struct weight_rows *t, ptrdiff_t k, const int rows, const int taps,
                            const int step, real *sums) {
    vec sum[25];
    UNROLL for (int i = 0; i < rows * taps; i++) sum[i] = load(sums + i * LANES);
    for (ptrdiff_t tile = 0; tile < t->masks->tiles; tile++)
        if (t->masks->edge[tile])
            add_tile(t, tile, k, rows, taps, step, 1, sum);
        else
            add_tile(t, tile, k, rows, taps, step, 0, sum);
    UNROLL for (int i = 0; i < rows * taps; i++) store(sums + i * LANES, sum[i]);
}

/* ---- The taps of a kernel ---- */

#define ROWS_OF_5 (VECTOR_REGISTERS == 32 ? 5 : 2)

/* Rows [k, k + rows) of taps x taps taps side by side */
INLINE void add_rows(const struct weight_rows *t, ptrdiff_t k, const int rows, const int taps, const int step,
                     real *sums) {
    sums += k * taps * LANES;
    if (t->masks)
        add_square_rows(t, k, rows, taps, step, sums);
    else
        add_weight_rows(t, t->x + k * t->line->elements, rows, taps, step, sums);
}

INLINE void add_square(const struct weight_rows *t, const int taps, const int step, real *sums) {
    const int most = taps == 3 ? 3 : ROWS_OF_5;
    ptrdiff_t k = 0;
    for (; k + most <= taps; k += most) add_rows(t, k, most, taps, step, sums);
    if (k < taps) add_rows(t, k, 1, taps, step, sums);
}

static void add_weight_any(const struct weight_rows *t, real *sums) {
    const struct pyconv_conv2d *g = t->g;
    for (ptrdiff_t r = 0; r < g->kernel_height; r++)
        for (ptrdiff_t s = 0; s < g->kernel_width; s++, sums += LANES) {
            const real *x = t->x + r * g->dilation_height * t->line->elements;
            add_weight_rows(t, x + line_offset(t->line, s * g->dilation_width), 1, 1, 1, sums);
        }
}

/* Whether planes are read as they lie: what is loaded then serves one row of gradients, not two, which is
 * sooner where laying lines out takes long. */
static int takes_masks(const struct pyconv_conv2d *g) {
    return walks_planes(g) && (g->stride_width == 2 || g->out_width < LANES);
}

/* Planes so small that they are transposed, LANES at a time, and summed like channels-last images: 1.5 to 2.1
 * times as fast with 7 x 7 pixels, 1.1 to 1.2 with 14 x 14, 0.9 with 30 x 30 (Zen 3). */
static int takes_bundles(const struct pyconv_conv2d *g) {
    return walks_planes(g) && g->in_channels >= LANES && g->out_height * g->out_width <= BUNDLE_PIXELS &&
           g->in_height * g->in_width <= 5 * BUNDLE_PIXELS;
}

static void add_block(const struct weight_rows *t, real *sums) {
    const struct pyconv_conv2d *g = t->g;
    const ptrdiff_t kernel = walks_planes(g) ? g->kernel_height : 0, step = g->stride_height;
    if (kernel == 3 && step == 1)
        add_square(t, 3, 1, sums);
    else if (kernel == 3)
        add_square(t, 3, 2, sums);
    else if (kernel == 5 && step == 1)
        add_square(t, 5, 1, sums);
    else if (kernel == 5)
        add_square(t, 5, 2, sums);
    else
        add_weight_any(t, sums);
}

/* Whether a plane is read as it lies, and so are its gradients */
static int reads_plane(const struct weight_pass *p, ptrdiff_t plane) {
    const struct pyconv_conv2d *g = p->g;
    ptrdiff_t planes = g->batch * g->in_channels;
    return is_inner(&p->line, p->masks, planes, plane) &&
           (planes - plane - 1) * g->out_height * g->out_width >= LANES;
}

/* Blocks [begin, end) of the list of all images' blocks, for `count` channels from `channel` on */
static void add_blocks(const struct weight_pass *p, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t channel,
                       ptrdiff_t count, real *sums, real *lines) {
    const struct pyconv_conv2d *g = p->g;
    ptrdiff_t area = g->kernel_height * g->kernel_width, pixels = g->in_height * g->in_width;
    ptrdiff_t outputs = g->out_height * g->out_width, planes = g->batch * g->in_channels;
    ptrdiff_t group = max_size(BLOCK_BYTES / (p->lines * p->line.elements * (ptrdiff_t)sizeof(real)), 1);
    for (ptrdiff_t b = begin; b < end; b++) {
        ptrdiff_t row = b % p->blocks * p->rows, rows = min_size(p->rows, g->out_height - row);
        ptrdiff_t plane = b / p->blocks * g->in_channels + channel;
        for (ptrdiff_t first = 0; first < count; first += group) {
            ptrdiff_t some = min_size(group, count - first), elements = p->lines * p->line.elements;
            for (ptrdiff_t i = 0; i < some; i++)
                if (!reads_plane(p, plane + first + i))
                    lay_plane(&p->line, p->input + (plane + first + i) * pixels,
                              row * g->stride_height - g->pad_top,
                              p->lines - (p->rows - rows) * g->stride_height, p->input + planes * pixels,
                              lines + i * elements);
            for (ptrdiff_t i = 0; i < some; i++) {
                const int inner = reads_plane(p, plane + first + i);
                struct weight_rows t = {&p->line,
                                        g,
                                        inner ? p->input + (plane + first + i) * pixels
                                              : lines + i * elements,
                                        p->grad_output + (plane + first + i) * outputs + row * g->out_width,
                                        rows,
                                        p->grad_output + planes * outputs,
                                        inner ? p->masks : NULL,
                                        row * g->stride_height - g->pad_top};
                add_block(&t, sums + (first + i) * area * LANES);
            }
        }
    }
}

static ptrdiff_t scratch_lines(const struct weight_pass *p) {
    ptrdiff_t plane = p->lines * p->line.elements;
    return max_size(BLOCK_BYTES / (ptrdiff_t)sizeof(real), plane) / LANES * LANES;
}

static void run_weight(const void *context, ptrdiff_t task, void *scratch) {
    const struct weight_pass *p = context;
    const struct pyconv_conv2d *g = p->g;
    ptrdiff_t area = g->kernel_height * g->kernel_width, part = task / p->bundles;
    ptrdiff_t channel = task % p->bundles * p->channels, all = g->batch * p->blocks;
    ptrdiff_t count = min_size(p->channels, g->in_channels - channel);
    real *sums = scratch, *lines = sums + p->channels * area * LANES;
    clear_elements(sums, count * area * LANES);
    clear_elements(lines, min_size(scratch_lines(p), count * p->lines * p->line.elements));
    add_blocks(p, all * part / p->parts, all * (part + 1) / p->parts, channel, count, sums, lines);
    real *to = p->sums + (part * g->in_channels + channel) * area;
    for (ptrdiff_t i = 0; i < count * area; i++) to[i] = sum_lanes(load(sums + i * LANES));
}

/* Blocks that fit L1, and tasks: channels by themselves where there are enough, else parts of the images too
 */
static void cut_weight(struct weight_pass *p) {
    const struct pyconv_conv2d *g = p->g;
    ptrdiff_t reach = (g->kernel_height - 1) * g->dilation_height, area = g->kernel_height * g->kernel_width;
    ptrdiff_t room = BLOCK_BYTES / (p->line.elements * (ptrdiff_t)sizeof(real));
    ptrdiff_t fit = max_size((room - reach - 1) / g->stride_height + 1, 1);
    p->blocks = ceil_div(g->out_height, fit);
    p->rows = ceil_div(g->out_height, p->blocks);
    p->blocks = ceil_div(g->out_height, p->rows);
    p->lines = (p->rows - 1) * g->stride_height + reach + 1;
    /* neighbours share cache lines, and their sums should stay in L1 */
    ptrdiff_t most = max_size(BLOCK_BYTES / 2 / (area * VECTOR_BYTES), 1);
    p->channels = max_size(min_size(g->in_channels / TASKS_WANTED, most), 1);
    p->bundles = ceil_div(g->in_channels, p->channels);
    ptrdiff_t elements = p->channels * g->batch * g->out_height * g->out_width;
    ptrdiff_t parts = min_size(ceil_div(TASKS_WANTED, p->bundles), elements / PART_ELEMENTS);
    p->parts = max_size(min_size(parts, g->batch * p->blocks), 1);
}

int VARIANT(grad_weight_depthwise_planes)(const struct pyconv_conv2d *g, const real *grad_output,
                                          const real *input, real *grad_weight) {
    ptrdiff_t area = g->kernel_height * g->kernel_width, weights = g->in_channels * area;
    if (!weights) return PYCONV_OK;
    if (!g->batch || !g->out_height || !g->out_width) {
        memset(grad_weight, 0, (size_t)weights * sizeof(real));
        return PYCONV_OK;
    }
    if (takes_bundles(g)) return VARIANT(grad_weight_depthwise_bundles)(g, grad_output, input, grad_weight);
    struct weight_pass p = {.g = g, .grad_output = grad_output, .input = input, .sums = grad_weight};
    p.line = make_plane_line(g->in_height, g->in_width, g->stride_width, g->pad_left, g->out_width,
                             (g->kernel_width - 1) * g->dilation_width);
    cut_weight(&p);
    size_t bytes = (size_t)(p.parts * weights) * sizeof(real);
    if (p.parts > 1 && !(p.sums = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    size_t scratch = (size_t)(p.channels * area * LANES + scratch_lines(&p)) * sizeof(real);
    double sums =
        (double)(g->batch * g->out_height * g->out_width) * (double)g->in_channels * (double)(area + 4);
    struct plane_masks masks = {0};
    int status = PYCONV_OK;
    if (takes_masks(g)) {
        status = make_masks(&p.line, g->out_width, g->kernel_width, 1, &masks);
        p.masks = &masks;
    }
    if (status == PYCONV_OK)
        status =
            parallel_run(p.parts * p.bundles, sums / MULTIPLY_ADDS_PER_NANOSECOND, scratch, run_weight, &p);
    free_masks(&masks);
    if (status == PYCONV_OK && p.parts > 1) sum_parts(p.sums, p.parts, weights, 0, weights, grad_weight);
    if (p.parts > 1) pyconv_free(p.sums, bytes);
    return status;
}
