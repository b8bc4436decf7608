/* The direct gradient of the weight: a product over pixels.
 *
 *     grad_weight[j][k] = sum over pixels of input[pixel's place + offset j] * grad_output[pixel][k]
 *
 * where j runs over taps and channels, in the same runs as the forward pass. A tile keeps OUTER_TILE rows j
 * by BLOCK channels k in registers while the pixels of a band stream past. The band's gradients are packed
 * for one block at a time ([pixel][BLOCK], 128 * 128 bytes = 16 KiB with AVX-512: half of L1), unless all of
 * them fit L1 as they lie (few filters: first layers, 1.3 times as fast). Its input rows, copied where they
 * need zero padding, stay in L2.
 *
 * The output pixels are cut into `parts` that each sum into a buffer of their own; these are added in
 * ascending order, so the result does not depend on the number of threads.
 */
#include "conv.h"
#include "correlation.h"
#include "parallel.h"
#include "tile.h"

#define BAND_PIXELS ((ptrdiff_t)128)
#define TASKS_WANTED 16
#define MOST_INDEXED 512
#define L1_FILTERS (256 / (ptrdiff_t)sizeof(real)) /* 32 KiB of BAND_PIXELS */

struct weight_gradient {
    struct pyconv_conv2d g;
    const real *grad_output, *input;
    struct weight_parts parts;
    int fresh;                      /* the parts begin at zero */
    ptrdiff_t band_rows, bands;     /* output rows to a band, bands to an image */
    ptrdiff_t shares, splits;       /* blocks of filters, which the tasks of one part divide; by how many */
    int padded;                     /* some tap reads outside of the image */
    int packed;                     /* gradients, a band of which would not stay in L1 otherwise */
    int indexed;                    /* runs are so short that tiles span several */
    ptrdiff_t width, scratch_input; /* padded columns; elements of the padded rows */
};

/* Output rows [p0, p0 + rows) of an image. */
struct band {
    ptrdiff_t image, p0, rows;
};

/* The input rows that a band reads, with their padding, of the channels of some groups: where row 0, column 0
 * lies, and elements from a row, and from a pixel, to the next. */
struct source {
    const real *base;
    ptrdiff_t row, pitch;
};

static struct source gather_input(const struct weight_gradient *w, const struct band *band,
                                  ptrdiff_t first_group, ptrdiff_t groups, real *scratch) {
    const struct pyconv_conv2d *g = &w->g;
    ptrdiff_t row = g->in_width * g->in_channels, y0 = band->p0 * g->stride_height - g->pad_top;
    const real *input = w->input + band->image * g->in_height * row + first_group * w->parts.channels;
    if (!w->padded) return (struct source){input + y0 * row, row, g->in_channels};
    ptrdiff_t y1 = (band->p0 + band->rows - 1) * g->stride_height - g->pad_top +
                   (g->kernel_height - 1) * g->dilation_height + 1;
    struct overlap o = overlap_columns(-g->pad_left, w->width, g->in_width);
    ptrdiff_t channels = groups * w->parts.channels, end_column = o.left + o.count;
    real *to = scratch;
    for (ptrdiff_t y = y0; y < y1; y++, to += w->width * channels) {
        if (y < 0 || y >= g->in_height) {
            memset(to, 0, (size_t)(w->width * channels) * sizeof(real));
            continue;
        }
        memset(to, 0, (size_t)(o.left * channels) * sizeof(real));
        copy_pixels(input + y * row + o.from * g->in_channels, g->in_channels, o.count, channels,
                    to + o.left * channels, channels);
        memset(to + end_column * channels, 0, (size_t)((w->width - end_column) * channels) * sizeof(real));
    }
    return (struct source){scratch, w->width * channels, channels};
}

static ptrdiff_t merge_runs(const struct weight_gradient *w, const struct source *source, struct run *run) {
    const struct pyconv_conv2d *g = &w->g;
    ptrdiff_t runs = 0;
    for (ptrdiff_t r = 0; r < g->kernel_height; r++)
        for (ptrdiff_t s = 0; s < g->kernel_width; s++) {
            ptrdiff_t offset = r * g->dilation_height * source->row + s * g->dilation_width * source->pitch;
            if (s && run[runs - 1].offset + run[runs - 1].length == offset)
                run[runs - 1].length += w->parts.channels;
            else
                run[runs++] = (struct run){offset, w->parts.channels, r * g->dilation_height - g->pad_top};
        }
    return runs;
}

/* [pixel][BLOCK] of one block of filters, `pitch` elements apart */
static void pack_gradient(const real *from, ptrdiff_t pitch, ptrdiff_t filters, ptrdiff_t pixels, real *to) {
    for (; pixels > 0; pixels--, from += pitch, to += BLOCK)
        for (ptrdiff_t k = 0; k < BLOCK; k += LANES)
            store(to + k, k + LANES <= filters ? load(from + k)
                          : k < filters        ? load_first(from + k, filters - k)
                                               : (vec){0});
}

#define OUTER(m, vectors, indexed)                                                                           \
    tile_outer(m, vectors, indexed, segment, segments, offset, x_step, g_step, NULL, 1, acc)

typedef void outer_function(ptrdiff_t size, const struct segment *segment, ptrdiff_t segments,
                            const ptrdiff_t *offset, ptrdiff_t x_step, ptrdiff_t g_step, real *acc);
#define OUTER_FUNCTION(name, vectors, indexed)                                                               \
    static void name(ptrdiff_t size, const struct segment *segment, ptrdiff_t segments,                      \
                     const ptrdiff_t *offset, ptrdiff_t x_step, ptrdiff_t g_step, real *acc) {               \
        DISPATCH_OUTER(size, OUTER, vectors, indexed)                                                        \
    }
OUTER_FUNCTION(outer_2, 2, 0)
OUTER_FUNCTION(outer_1, 1, 0)
OUTER_FUNCTION(outer_2_indexed, 2, 1)
OUTER_FUNCTION(outer_1_indexed, 1, 1)

/* All rows j of one block: tile by tile within each run, or, where runs are shorter than a tile, over the
 * list of their offsets. */
static void add_block(const struct weight_gradient *w, const struct band *band, ptrdiff_t filters,
                      const struct segment *segment, ptrdiff_t segments, const struct run *run,
                      ptrdiff_t runs, ptrdiff_t x_step, ptrdiff_t g_step, real *acc) {
    if (w->indexed) {
        ptrdiff_t offset[MOST_INDEXED], elements = 0;
        for (ptrdiff_t t = 0; t < runs; t++)
            for (ptrdiff_t j = 0; j < run[t].length; j++) offset[elements++] = run[t].offset + j;
        outer_function *outer = filters > LANES ? outer_2_indexed : outer_1_indexed;
        ptrdiff_t tiles = ceil_div(elements, OUTER_TILE);
        for (ptrdiff_t i = 0; i < tiles; i++) {
            ptrdiff_t j = elements * i / tiles, size = elements * (i + 1) / tiles - j;
            outer(size, segment, segments, offset + j, x_step, g_step, acc + j * BLOCK);
        }
        return;
    }
    outer_function *outer = filters > LANES ? outer_2 : outer_1;
    for (ptrdiff_t t = 0; t < runs; t++) {
        ptrdiff_t first = 0, end = segments, stride = w->g.stride_height;
        if (segments == band->rows) { /* leave out the rows for which this run reads nothing but padding */
            ptrdiff_t y = band->p0 * stride + run[t].y;
            while (first < end && y + first * stride < 0) first++;
            while (first < end && y + (end - 1) * stride >= w->g.in_height) end--;
        }
        ptrdiff_t tiles = ceil_div(run[t].length, OUTER_TILE);
        for (ptrdiff_t i = 0; i < tiles; i++) {
            ptrdiff_t j = run[t].length * i / tiles, size = run[t].length * (i + 1) / tiles - j;
            ptrdiff_t offset = run[t].offset + j;
            outer(size, segment + first, end - first, &offset, x_step, g_step, acc);
            acc += size * BLOCK;
        }
    }
}

/* A task's share: blocks [begin, end) of filters, all rows j. */
static void add_band(const struct weight_gradient *w, struct band *band, ptrdiff_t begin, ptrdiff_t end,
                     real *part, real *scratch) {
    const struct pyconv_conv2d *g = &w->g;
    real *padded = scratch, *packed = padded + w->scratch_input;
    struct segment *segment = (struct segment *)(packed + w->band_rows * g->out_width * BLOCK);
    struct run *run = (struct run *)(segment + w->band_rows);
    ptrdiff_t first_group = begin / w->parts.blocks, end_group = (end - 1) / w->parts.blocks + 1;
    struct source source = gather_input(w, band, first_group, end_group - first_group, padded);
    ptrdiff_t runs = merge_runs(w, &source, run), x_step = g->stride_width * source.pitch;
    const real *first_gradient =
        w->grad_output + (band->image * g->out_height + band->p0) * g->out_width * g->out_channels;
    for (ptrdiff_t b = begin; b < end; b++) {
        ptrdiff_t group = b / w->parts.blocks;
        ptrdiff_t first = b % w->parts.blocks * BLOCK, filters = min_size(BLOCK, w->parts.filters - first);
        const real *gradient = first_gradient + group * w->parts.filters + first;
        ptrdiff_t g_step = g->out_channels, segments = 0;
        if (w->packed) {
            pack_gradient(gradient, g_step, filters, band->rows * g->out_width, packed);
            gradient = packed, g_step = BLOCK;
        }
        for (ptrdiff_t i = 0; i < band->rows; i++) {
            const real *x =
                source.base + (group - first_group) * w->parts.channels + i * g->stride_height * source.row;
            struct segment *last = segment + segments - 1;
            if (segments && x == last->x + last->count * x_step)
                last->count += g->out_width;
            else
                segment[segments++] = (struct segment){x, gradient + i * g->out_width * g_step, g->out_width};
        }
        add_block(w, band, filters, segment, segments, run, runs, x_step, g_step,
                  part + b * w->parts.block_elements);
    }
}

static void run_part(const void *context, ptrdiff_t task, void *scratch) {
    const struct weight_gradient *w = context;
    const struct pyconv_conv2d *g = &w->g;
    ptrdiff_t split = task % w->splits, part = task / w->splits % w->parts.count,
              set = task / w->splits / w->parts.count;
    ptrdiff_t begin = w->shares * split / w->splits, end = w->shares * (split + 1) / w->splits;
    real *sums = w->parts.sums + (set * w->parts.count + part) * w->parts.part_elements;
    if (w->fresh)
        memset(sums + begin * w->parts.block_elements, 0,
               (size_t)((end - begin) * w->parts.block_elements) * sizeof(real));
    ptrdiff_t bands = g->batch * w->bands;
    for (ptrdiff_t i = bands * part / w->parts.count; i < bands * (part + 1) / w->parts.count; i++) {
        ptrdiff_t p0 = i % w->bands * w->band_rows;
        struct band band = {set * g->batch + i / w->bands, p0, min_size(w->band_rows, g->out_height - p0)};
        add_band(w, &band, begin, end, sums, scratch);
    }
}

/* ---- The sum of the parts, which Winograd's weight gradient uses as well ---- */

struct sum_parts_job {
    const struct weight_parts *parts;
    real *grad_weight;
};

/* Add the parts of one block and write [tap][channel][BLOCK] as grad_weight[k][channel][tap]: LANES of the
 * elements (channel, tap) that lie side by side there at a time, for LANES filters, transposed. */
static void sum_block(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct sum_parts_job *job = context;
    const struct weight_parts *p = job->parts;
    ptrdiff_t first = task % p->blocks * BLOCK, filters = min_size(BLOCK, p->filters - first);
    ptrdiff_t elements = p->channels * p->area;
    real *grad_weight = job->grad_weight + (task / p->blocks * p->filters + first) * elements;
    const real *sums = p->sums + task * p->block_elements;
    for (ptrdiff_t e = 0; e < elements; e += LANES)
        for (ptrdiff_t v = 0; v < filters; v += LANES) {
            ptrdiff_t count = min_size(LANES, elements - e);
            vec row[LANES];
            for (ptrdiff_t i = 0, c = e / p->area, t = e % p->area; i < LANES; i++) {
                row[i] = (vec){0};
                if (i >= count) continue;
                const real *from = sums + (t * p->channels + c) * BLOCK + v;
                for (ptrdiff_t part = 0; part < p->count; part++)
                    row[i] += load(from + part * p->part_elements);
                if (++t == p->area) t = 0, c++;
            }
            transpose_lanes(row);
            for (ptrdiff_t k = 0; k < min_size(LANES, filters - v); k++) {
                real *to = grad_weight + (v + k) * elements + e;
                store_some(to, row[k], count);
            }
        }
}

int VARIANT(sum_weight_parts)(const struct weight_parts *parts, real *grad_weight) {
    struct sum_parts_job job = {parts, grad_weight};
    double cost = (double)(parts->count + 2) * (double)parts->part_elements / 8;
    return parallel_run(parts->groups * parts->blocks, cost, 0, sum_block, &job);
}

/* ---- The whole gradient ---- */

static void plan_bands(struct weight_gradient *w) {
    w->band_rows = min_size(max_size(BAND_PIXELS / w->g.out_width, 1), w->g.out_height);
    w->bands = ceil_div(w->g.out_height, w->band_rows);
}

struct weight_parts VARIANT(plan_weight_parts)(const struct pyconv_conv2d *g, ptrdiff_t sets) {
    struct weight_gradient w = {.g = *g};
    plan_bands(&w);
    return weight_parts(g, sets, even_parts(g, min_size(MOST_WEIGHT_PARTS, g->batch * w.bands)));
}

/* All but the parts, which are given. */
static void plan(struct weight_gradient *w) {
    struct pyconv_conv2d *g = &w->g;
    plan_bands(w);
    ptrdiff_t area = g->kernel_height * g->kernel_width;
    ptrdiff_t used_height =
        (g->out_height - 1) * g->stride_height + (g->kernel_height - 1) * g->dilation_height + 1;
    ptrdiff_t used_width =
        (g->out_width - 1) * g->stride_width + (g->kernel_width - 1) * g->dilation_width + 1;
    w->padded = g->pad_top > 0 || g->pad_left > 0 || used_height > g->in_height || used_width > g->in_width;
    w->width = used_width;
    ptrdiff_t run =
        g->in_channels / g->groups * (g->groups == 1 && g->dilation_width == 1 ? g->kernel_width : 1);
    w->indexed =
        run < 2 * OUTER_TILE && run % OUTER_TILE && area * (g->in_channels / g->groups) <= MOST_INDEXED;
    w->packed = w->parts.filters % LANES || g->out_channels > L1_FILTERS;
    w->shares = g->groups * w->parts.blocks;
    w->splits = min_size(w->shares, ceil_div(TASKS_WANTED, w->parts.sets * w->parts.count));
    ptrdiff_t rows = (w->band_rows - 1) * g->stride_height + (g->kernel_height - 1) * g->dilation_height + 1;
    w->scratch_input = w->padded ? ((rows * w->width * g->in_channels) + 15) & ~(ptrdiff_t)15 : 0;
}

static struct workspace space(const struct weight_gradient *w) {
    ptrdiff_t area = w->g.kernel_height * w->g.kernel_width;
    return (struct workspace){
        weight_parts_bytes(&w->parts),
        (size_t)(w->scratch_input + w->band_rows * w->g.out_width * BLOCK) * sizeof(real) +
            (size_t)w->band_rows * sizeof(struct segment) + (size_t)area * sizeof(struct run),
    };
}

struct workspace VARIANT(add_weight_parts_workspace)(const struct pyconv_conv2d *g,
                                                     const struct weight_parts *parts) {
    struct weight_gradient w = {.g = *g, .parts = *parts};
    plan(&w);
    return space(&w);
}

int VARIANT(add_weight_parts)(const struct pyconv_conv2d *g, const real *grad_output, const real *input,
                              const struct weight_parts *parts, int fresh) {
    struct weight_gradient w = {
        .g = *g, .grad_output = grad_output, .input = input, .parts = *parts, .fresh = fresh};
    plan(&w);
    double work =
        (double)(parts->sets * g->batch * g->out_height * g->out_width) * (double)parts->part_elements;
    return parallel_run(parts->sets * parts->count * w.splits, work / MULTIPLY_ADDS_PER_NANOSECOND,
                        space(&w).scratch, run_part, &w);
}

static int is_pointwise(const struct pyconv_conv2d *g) {
    return g->kernel_height == 1 && g->kernel_width == 1 && g->pad_top == 0 && g->pad_left == 0 &&
           (g->out_height - 1) * g->stride_height < g->in_height &&
           (g->out_width - 1) * g->stride_width < g->in_width;
}

struct workspace VARIANT(grad_weight_direct_workspace)(const struct pyconv_conv2d *g) {
    if (is_pointwise(g)) return VARIANT(grad_weight_pointwise_workspace)(g);
    struct weight_parts parts = VARIANT(plan_weight_parts)(g, 1);
    return VARIANT(add_weight_parts_workspace)(g, &parts);
}

int VARIANT(grad_weight_direct)(const struct pyconv_conv2d *g, const real *grad_output, const real *input,
                                real *grad_weight) {
    ptrdiff_t elements = g->out_channels * (g->in_channels / g->groups) * g->kernel_height * g->kernel_width;
    if (!elements) return PYCONV_OK;
    if (!g->batch || !g->out_height || !g->out_width) {
        memset(grad_weight, 0, (size_t)elements * sizeof(real));
        return PYCONV_OK;
    }
    if (is_pointwise(g)) return VARIANT(grad_weight_pointwise)(g, grad_output, input, grad_weight);
    struct weight_parts parts = VARIANT(plan_weight_parts)(g, 1);
    size_t bytes = weight_parts_bytes(&parts);
    if (!(parts.sums = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    int status = VARIANT(add_weight_parts)(g, grad_output, input, &parts, 1);
    if (status == PYCONV_OK) status = VARIANT(sum_weight_parts)(&parts, grad_weight);
    pyconv_free(parts.sums, bytes);
    return status;
}
