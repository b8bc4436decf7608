/* The gradient of a strided depthwise convolution's input, of planes.
 *
 * The pixels (m S_h + a, l S_w + b) of grad_input, for each residue (a, b) of the stride, are a correlation
 * with a part of the taps:
 *
 *     grad_input[m S_h + a, l S_w + b] = sum over the taps (r, s) for which y and x are whole of
 *                                        grad_output[m + y, l + x] * weight[r][s],
 *     y = (a + P_h - r D_h) / S_h,  x = (b + P_w - s D_w) / S_w
 *
 * With a stride of 2 and the usual padding planes are read as they lie. Otherwise the rows of grad_output are
 * laid out with theirs (conv_depthwise_planes.h); a tile is ROWS rows of one a, S_h rows apart, by a vector
 * of l. With a horizontal stride of 2 it is a vector for each b, and the two are put together as they are
 * stored: 8 sums. All tails are stored exactly, since rows are not made in order.
 */
#include "conv.h"
#include "conv_depthwise_planes.h"
#include "parallel.h"

#define ROWS 4

/* Where a tap finds its source, from the first of all taps on, and its weight. */
struct source_tap {
    ptrdiff_t offset, index;
};

struct strided_pass {
    const struct pyconv_conv2d *g;
    struct plane_line line;
    struct plane_cut cut;   /* of rows m */
    ptrdiff_t first_row;    /* of the source, that m = 0 reads */
    ptrdiff_t *begin;       /* [S_h * S_w + 1] the first tap of a residue, and the end */
    struct source_tap *tap; /* those of each residue */
    const real *src, *weight, *residual;
    real *dst;
    const struct plane_masks *masks; /* NULL: all planes are laid out */
};

/* The first n lanes, or all of them, and the residual */
INLINE void store_gradient(const struct strided_pass *p, real *to, vec sum, ptrdiff_t n) {
    if (n <= 0) return;
    if (p->residual) {
        const real *residual = p->residual + (to - p->dst);
        sum += load_some(residual, n);
    }
    store_some(to, sum, n);
}

INLINE void add_residue(const struct strided_pass *p, ptrdiff_t residue, const real *weight, const real *x,
                        const int rows, vec *sum) {
    const ptrdiff_t elements = p->line.elements, end = p->begin[residue + 1];
    UNROLL for (int r = 0; r < rows; r++) sum[r] = (vec){0};
    for (ptrdiff_t t = p->begin[residue]; t < end; t++) {
        const real *from = x + p->tap[t].offset;
        vec w = splat(weight[p->tap[t].index]);
        UNROLL for (int r = 0; r < rows; r++, from += elements) sum[r] += load(from) * w;
    }
}

/* `rows` rows of residue a, from those whose lines are at x on */
INLINE void grad_rows(const struct strided_pass *p, ptrdiff_t a, const real *weight, const real *x,
                      const int rows, real *to) {
    const struct pyconv_conv2d *g = p->g;
    const ptrdiff_t stride = g->stride_width, width = g->in_width, pitch = g->stride_height * width;
    const ptrdiff_t pixels = ceil_div(width, stride), residue = a * stride;
    vec sum[2][ROWS];
    if (stride == 2) {
        for (ptrdiff_t l = 0; l < pixels; l += LANES) {
            /* the last vectors overlap the ones before, where these are whole pairs */
            if (l + LANES > pixels && width % 2 == 0 && pixels >= LANES) l = pixels - LANES;
            add_residue(p, residue, weight, x + l, rows, sum[0]);
            add_residue(p, residue + 1, weight, x + l, rows, sum[1]);
            UNROLL for (int r = 0; r < rows; r++) {
                real *pair = to + r * pitch + 2 * l;
                store_gradient(p, pair, zip_low(sum[0][r], sum[1][r]), width - 2 * l);
                store_gradient(p, pair + LANES, zip_high(sum[0][r], sum[1][r]), width - 2 * l - LANES);
            }
        }
        return;
    }
    for (ptrdiff_t b = 0; b < min_size(stride, width); b++)
        for (ptrdiff_t l = 0, n = ceil_div(width - b, stride); l < n; l += LANES) {
            add_residue(p, residue + b, weight, x + l, rows, sum[0]);
            UNROLL for (int r = 0; r < rows; r++) {
                real *from = to + r * pitch + l * stride + b;
                if (stride == 1)
                    store_gradient(p, from, sum[0][r], n - l);
                else
                    for (ptrdiff_t i = 0; i < min_size(LANES, n - l); i++, from += stride)
                        *from = sum[0][r][i] + (p->residual ? p->residual[from - p->dst] : 0);
            }
        }
}

/* ---- A stride of 2 and square kernels of half their size as padding, 3 x 3 or 5 x 5 ----
 *
 * Planes are read as they lie, and masks clear what is beside their rows. With one vector of l and one row m
 * at a time, all of grad_output that the four residues read is loaded once: 4 vectors for 9 multiply-adds, or
 * 9 for 25, and 4 sums. (1.3 to 2.5 times as fast as from lines.) */

#define MOST_KERNEL 5

static int is_paired(const struct pyconv_conv2d *g) {
    const ptrdiff_t padding = g->kernel_height / 2;
    return walks_planes(g) && g->stride_height == 2 && g->pad_top == padding && g->pad_left == padding &&
           g->in_height % 2 == 0 && g->in_width % 2 == 0;
}

struct paired_rows {
    const struct strided_pass *p;
    const real *plane;
    ptrdiff_t m, count;
    real *to;
    const real *end; /* nothing is stored from here on */
};

/* Tap r of residue a reads grad_output's row m + (a + padding - r) / 2, which is m + `distance`. */
INLINE int reads_row(const int a, const int padding, const int r, const int distance) {
    return a + padding - r == 2 * distance;
}

/* A vector of a row, in ascending order: what is beyond the row is stored again by the next one. */
INLINE void store_pair(const struct paired_rows *t, real *to, vec sum, ptrdiff_t lanes) {
    const real *residual = t->p->residual;
    if (t->end - to >= LANES)
        store(to, residual ? sum + load(residual + (to - t->p->dst)) : sum);
    else
        store_gradient(t->p, to, sum, min_size(lanes, t->end - to));
}

INLINE void paired_tile(const struct paired_rows *t, const vec *weight, ptrdiff_t tile, const int kernel) {
    const int padding = kernel / 2;
    const struct pyconv_conv2d *g = t->p->g;
    const ptrdiff_t width = g->in_width, pixels = width / 2;
    const ptrdiff_t l = min_size(tile * LANES, max_size(pixels - LANES, 0));
    const int first = kernel == 3 ? 0 : -1; /* of the distances, and of the columns'; the last is 1 */
    const integer *mask = tile_masks(t->p->masks, tile);
    real *to = t->to + 2 * l;
    for (ptrdiff_t m = t->m; m < t->m + t->count; m++, to += 2 * width) {
        vec sum[2][2] = {{{0}}};
        UNROLL for (int down = first; down <= 1; down++) {
            if (m + down < 0 || m + down >= g->out_height) continue;
            const real *x = t->plane + (m + down) * g->out_width + l;
            UNROLL for (int across = first; across <= 1; across++) {
                vec value = keep_lanes(load(x + across), mask + (across - first) * LANES);
                value = in_register(value);
                UNROLL for (int r = 0; r < kernel; r++) UNROLL for (int s = 0; s < kernel; s++)
                    UNROLL for (int a = 0; a < 2; a++)
                        UNROLL for (int b = 0; b < 2; b++) if (reads_row(a, padding, r, down) &&
                                                               reads_row(b, padding, s, across)) sum[a][b] +=
                    value * weight[r * kernel + s];
            }
        }
        UNROLL for (int a = 0; a < 2; a++) {
            store_pair(t, to + a * width, zip_low(sum[a][0], sum[a][1]), width);
            store_pair(t, to + a * width + LANES, zip_high(sum[a][0], sum[a][1]), width - LANES);
        }
    }
}

INLINE void paired_rows(const struct paired_rows *t, const real *weights, const int kernel) {
    vec weight[MOST_KERNEL * MOST_KERNEL];
    UNROLL for (int i = 0; i < kernel * kernel; i++) weight[i] = splat(weights[i]);
    for (ptrdiff_t tile = 0; tile < t->p->masks->tiles; tile++) paired_tile(t, weight, tile, kernel);
}

static void paired_3(const struct paired_rows *t, const real *weights) { paired_rows(t, weights, 3); }
static void paired_5(const struct paired_rows *t, const real *weights) { paired_rows(t, weights, 5); }

/* ---- Any ---- */

/* Rows [m, m + count) of each residue of a plane */
static void grad_block(const struct strided_pass *p, const real *weight, const real *lines, ptrdiff_t m,
                       ptrdiff_t count, real *plane) {
    const struct pyconv_conv2d *g = p->g;
    for (ptrdiff_t a = 0; a < min_size(g->stride_height, g->in_height); a++) {
        ptrdiff_t rows = min_size(ceil_div(g->in_height - a, g->stride_height) - m, count);
        const real *x = lines;
        real *to = plane + (m * g->stride_height + a) * g->in_width;
        for (ptrdiff_t share; rows > 0; rows -= share) {
            share = rows >= ROWS ? ROWS : rows >= 2 ? 2 : 1;
            if (share == ROWS)
                grad_rows(p, a, weight, x, ROWS, to);
            else if (share == 2)
                grad_rows(p, a, weight, x, 2, to);
            else
                grad_rows(p, a, weight, x, 1, to);
            x += share * p->line.elements, to += share * g->stride_height * g->in_width;
        }
    }
}

static void run_strided(const void *context, ptrdiff_t task, void *scratch) {
    const struct strided_pass *p = context;
    const struct plane_cut *cut = &p->cut;
    const struct pyconv_conv2d *g = p->g;
    ptrdiff_t area = g->kernel_height * g->kernel_width, lines = cut->lines * p->line.elements;
    ptrdiff_t pixels = g->out_height * g->out_width, each = g->in_height * g->in_width;
    const real *end = p->src + cut->planes * pixels;
    ptrdiff_t unit = task * cut->each, last = min_size(unit + cut->each, cut->units);
    clear_elements(scratch, cut->group * lines);
    const real *stop = p->dst + rows_before(cut, last) * g->stride_height * g->in_width;
    for (; unit < last; unit++) {
        ptrdiff_t plane = unit / cut->blocks * cut->group, planes = min_size(cut->group, cut->planes - plane);
        ptrdiff_t m = unit % cut->blocks * cut->rows, rows = min_size(cut->rows, cut->height - m);
        for (ptrdiff_t i = 0; i < planes; i++)
            if (!is_inner(&p->line, p->masks, cut->planes, plane + i))
                lay_plane(&p->line, p->src + (plane + i) * pixels, m + p->first_row,
                          cut->lines - (cut->rows - rows), end, (real *)scratch + i * lines);
        for (ptrdiff_t i = 0; i < planes; i++) {
            const real *weight = p->weight + (plane + i) % g->in_channels * area;
            real *to = p->dst + (plane + i) * each;
            if (!is_inner(&p->line, p->masks, cut->planes, plane + i)) {
                grad_block(p, weight, (real *)scratch + i * lines, m, rows, to);
                continue;
            }
            const struct paired_rows t = {p,    p->src + (plane + i) * pixels, m,
                                          rows, to + 2 * m * g->in_width,      stop};
            (g->kernel_height == 3 ? paired_3 : paired_5)(&t, weight);
        }
    }
}

/* From the rows (columns) of residue a to those of grad_output that tap r reads; 0 if it reads none. */
INLINE int tap_reads(ptrdiff_t a, ptrdiff_t padding, ptrdiff_t r, ptrdiff_t dilation, ptrdiff_t stride,
                     ptrdiff_t *distance) {
    ptrdiff_t y = a + padding - r * dilation;
    *distance = y / stride;
    return y % stride == 0;
}

/* The least and the largest distance along one axis, of all residues */
static void find_reach(ptrdiff_t kernel, ptrdiff_t padding, ptrdiff_t dilation, ptrdiff_t stride,
                       ptrdiff_t *least, ptrdiff_t *most) {
    *least = PTRDIFF_MAX, *most = PTRDIFF_MIN;
    for (ptrdiff_t a = 0; a < stride; a++)
        for (ptrdiff_t r = 0, y; r < kernel; r++)
            if (tap_reads(a, padding, r, dilation, stride, &y))
                *least = min_size(*least, y), *most = max_size(*most, y);
}

/* Every tap belongs to one residue. */
static void list_taps(struct strided_pass *p, ptrdiff_t y_min, ptrdiff_t x_min) {
    const struct pyconv_conv2d *g = p->g;
    ptrdiff_t count = 0;
    for (ptrdiff_t i = 0; i < g->stride_height * g->stride_width; i++) {
        p->begin[i] = count;
        for (ptrdiff_t r = g->kernel_height - 1, y; r >= 0; r--) {
            if (!tap_reads(i / g->stride_width, g->pad_top, r, g->dilation_height, g->stride_height, &y))
                continue;
            for (ptrdiff_t s = g->kernel_width - 1, x; s >= 0; s--)
                if (tap_reads(i % g->stride_width, g->pad_left, s, g->dilation_width, g->stride_width, &x))
                    p->tap[count++] = (struct source_tap){(y - y_min) * p->line.elements + x - x_min,
                                                          r * g->kernel_width + s};
        }
    }
    p->begin[g->stride_height * g->stride_width] = count;
}

int VARIANT(grad_input_strided_planes)(const struct pyconv_conv2d *g, const real *grad_output,
                                       const real *weight, const real *residual, real *grad_input) {
    ptrdiff_t planes = g->batch * g->in_channels, area = g->kernel_height * g->kernel_width;
    ptrdiff_t residues = g->stride_height * g->stride_width, y_min, y_max, x_min, x_max;
    if (!planes || !g->in_height || !g->in_width) return PYCONV_OK;
    struct strided_pass p = {.g = g, .src = grad_output, .weight = weight, .residual = residual};
    find_reach(g->kernel_height, g->pad_top, g->dilation_height, g->stride_height, &y_min, &y_max);
    find_reach(g->kernel_width, g->pad_left, g->dilation_width, g->stride_width, &x_min, &x_max);
    ptrdiff_t height = ceil_div(g->in_height, g->stride_height),
              width = ceil_div(g->in_width, g->stride_width);
    p.dst = grad_input, p.first_row = y_min;
    p.line = make_plane_line(g->out_height, g->out_width, 1, -x_min, width, x_max - x_min);
    p.cut = cut_planes(&p.line, planes, height, g->in_width * g->stride_height, 1, y_max - y_min);
    size_t bytes = (size_t)(residues + 1) * sizeof(ptrdiff_t) + (size_t)area * sizeof(struct source_tap);
    if (!(p.tap = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    p.begin = (ptrdiff_t *)(p.tap + area);
    list_taps(&p, y_min, x_min);
    double sums = (double)(planes * height * width) * (double)(area + 4 * residues);
    struct plane_masks masks = {0};
    int status = PYCONV_OK;
    if (is_paired(g)) {
        status = make_masks(&p.line, width, x_max - x_min + 1, 0, &masks);
        p.masks = &masks;
    }
    if (status == PYCONV_OK)
        status = parallel_run(p.cut.tasks, sums / MULTIPLY_ADDS_PER_NANOSECOND,
                              (size_t)(p.cut.group * p.cut.lines * p.line.elements) * sizeof(real),
                              run_strided, &p);
    free_masks(&masks);
    pyconv_free(p.tap, bytes);
    return status;
}
