/* The direct gradient of the weight: a product over pixels.
 *
 *     grad_weight[j][k] = sum over pixels of input[pixel's place + offset j] * grad_output[pixel][k]
 *
 * where j runs over taps and channels, in the same runs as the forward pass. A tile keeps TILE rows j by
 * BLOCK channels k in registers while the pixels of a band stream past; the band's gradients are packed
 * for one block at a time ([pixel][BLOCK], 128 * 128 bytes = 16 KiB with AVX-512: half of L1) and its
 * input rows, copied where they need zero padding, stay in L2.
 *
 * The output pixels are cut into `parts` that each sum into a buffer of their own; these are added in
 * ascending order, so the result does not depend on the number of threads.
 */
#include "conv.h"
#include "parallel.h"
#include "tile.h"

#define BAND_PIXELS ((ptrdiff_t)128)
#define PART_PIXELS ((ptrdiff_t)1024) /* fewer would spend more on adding parts than on making them */
#define MOST_PARTS ((ptrdiff_t)32)
#define TASKS_WANTED 32

struct weight_gradient {
    struct pyconv_conv2d g;
    const real *grad_output, *input;
    struct weight_parts parts;
    ptrdiff_t band_rows, bands;     /* output rows to a band, bands to an image */
    ptrdiff_t splits;               /* shares of the groups' blocks */
    int padded;                     /* some tap reads outside of the image */
    ptrdiff_t width, scratch_input; /* padded columns; elements of the padded rows */
};

/* The input rows that output rows [p0, p1) read, with their padding; where row 0, column 0 of it lies. */
static const real *gather_input(const struct weight_gradient *w, ptrdiff_t image, ptrdiff_t p0, ptrdiff_t p1,
                                real *scratch, ptrdiff_t *row_elements) {
    const struct pyconv_conv2d *g = &w->g;
    ptrdiff_t pitch = g->in_channels, row = g->in_width * pitch;
    const real *input = w->input + image * g->in_height * row;
    ptrdiff_t y0 = p0 * g->stride_height - g->pad_top;
    *row_elements = row;
    if (!w->padded) return input + y0 * row;
    ptrdiff_t y1 = (p1 - 1) * g->stride_height - g->pad_top + (g->kernel_height - 1) * g->dilation_height + 1;
    ptrdiff_t left = min_size(g->pad_left, w->width), columns = min_size(g->in_width, w->width - left);
    *row_elements = w->width * pitch;
    for (ptrdiff_t y = y0; y < y1; y++) {
        real *to = scratch + (y - y0) * w->width * pitch;
        if (y < 0 || y >= g->in_height) {
            memset(to, 0, (size_t)(w->width * pitch) * sizeof(real));
            continue;
        }
        memset(to, 0, (size_t)(left * pitch) * sizeof(real));
        memcpy(to + left * pitch, input + y * row, (size_t)(columns * pitch) * sizeof(real));
        memset(to + (left + columns) * pitch, 0, (size_t)((w->width - left - columns) * pitch) * sizeof(real));
    }
    return scratch;
}

static ptrdiff_t merge_runs(const struct weight_gradient *w, ptrdiff_t row_elements, struct run *run) {
    const struct pyconv_conv2d *g = &w->g;
    ptrdiff_t runs = 0;
    for (ptrdiff_t r = 0; r < g->kernel_height; r++)
        for (ptrdiff_t s = 0; s < g->kernel_width; s++) {
            ptrdiff_t offset = r * g->dilation_height * row_elements + s * g->dilation_width * g->in_channels;
            if (runs && run[runs - 1].offset + run[runs - 1].length == offset) run[runs - 1].length += w->parts.channels;
            else run[runs++] = (struct run){offset, w->parts.channels, 0};
        }
    return runs;
}

static void pack_gradient(const real *from, ptrdiff_t pitch, ptrdiff_t pixels, ptrdiff_t filters, real *to) {
    for (; pixels > 0; pixels--, from += pitch, to += BLOCK)
        for (ptrdiff_t k = 0; k < BLOCK; k += LANES)
            store(to + k, k + LANES <= filters ? load(from + k)
                          : k < filters        ? load_first(from + k, filters - k)
                                               : (vec){0});
}

#define OUTER_2(m) tile_outer(m, 2, segment, segments, x_offset, x_step, BLOCK, acc)
#define OUTER_1(m) tile_outer(m, 1, segment, segments, x_offset, x_step, BLOCK, acc)

static void outer_2(ptrdiff_t size, const struct segment *segment, ptrdiff_t segments, ptrdiff_t x_offset,
                    ptrdiff_t x_step, real *acc) {
    DISPATCH_TILE(size, OUTER_2)
}

static void outer_1(ptrdiff_t size, const struct segment *segment, ptrdiff_t segments, ptrdiff_t x_offset,
                    ptrdiff_t x_step, real *acc) {
    DISPATCH_TILE(size, OUTER_1)
}

static void add_band(const struct weight_gradient *w, ptrdiff_t band, ptrdiff_t first_block, ptrdiff_t end_block,
                     real *part, char *scratch) {
    const struct pyconv_conv2d *g = &w->g;
    ptrdiff_t image = band / w->bands, p0 = band % w->bands * w->band_rows;
    ptrdiff_t p1 = min_size(p0 + w->band_rows, g->out_height), rows = p1 - p0, pixels = rows * g->out_width;
    real *padded = (real *)scratch, *packed = padded + w->scratch_input;
    struct segment *segment = (struct segment *)(packed + w->band_rows * g->out_width * BLOCK);
    struct run *run = (struct run *)(segment + w->band_rows);

    ptrdiff_t row_elements, x_step = g->stride_width * g->in_channels;
    const real *input = gather_input(w, image, p0, p1, padded, &row_elements);
    ptrdiff_t runs = merge_runs(w, row_elements, run);
    const real *gradient = w->grad_output + (image * g->out_height + p0) * g->out_width * g->out_channels;

    for (ptrdiff_t b = first_block; b < end_block; b++) {
        ptrdiff_t group = b / w->parts.blocks, first = b % w->parts.blocks * BLOCK;
        ptrdiff_t filters = min_size(BLOCK, w->parts.filters - first);
        pack_gradient(gradient + group * w->parts.filters + first, g->out_channels, pixels, filters, packed);
        ptrdiff_t segments = 0;
        for (ptrdiff_t i = 0; i < rows; i++) {
            const real *x = input + group * w->parts.channels + i * g->stride_height * row_elements;
            struct segment *last = segment + segments - 1;
            if (segments && x == last->x + last->count * x_step) last->count += g->out_width;
            else segment[segments++] = (struct segment){x, packed + i * g->out_width * BLOCK, g->out_width};
        }
        real *acc = part + b * w->parts.block_elements;
        for (ptrdiff_t t = 0; t < runs; t++) {
            ptrdiff_t tiles = ceil_div(run[t].length, TILE);
            for (ptrdiff_t i = 0; i < tiles; i++) {
                ptrdiff_t j = run[t].length * i / tiles, size = run[t].length * (i + 1) / tiles - j;
                if (filters > LANES) outer_2(size, segment, segments, run[t].offset + j, x_step, acc);
                else outer_1(size, segment, segments, run[t].offset + j, x_step, acc);
                acc += size * BLOCK;
            }
        }
    }
}

static void run_part(const void *context, ptrdiff_t task, void *scratch) {
    const struct weight_gradient *w = context;
    ptrdiff_t split = task % w->splits, part = task / w->splits, all = w->g.groups * w->parts.blocks;
    ptrdiff_t first_block = all * split / w->splits, end_block = all * (split + 1) / w->splits;
    ptrdiff_t bands = w->g.batch * w->bands;
    real *sums = w->parts.sums + part * w->parts.part_elements;
    memset(sums + first_block * w->parts.block_elements, 0,
           (size_t)((end_block - first_block) * w->parts.block_elements) * sizeof(real));
    for (ptrdiff_t band = bands * part / w->parts.count; band < bands * (part + 1) / w->parts.count; band++)
        add_band(w, band, first_block, end_block, sums, scratch);
}

/* ---- The sum of the parts, which Winograd's weight gradient uses as well ---- */

struct sum_parts_job {
    const struct weight_parts *parts;
    real *grad_weight;
};

/* Add the parts of one block and write [tap][channel][BLOCK] as grad_weight[k][channel][tap]. */
static void sum_block(const void *context, ptrdiff_t task, void *scratch) {
    const struct sum_parts_job *job = context;
    const struct weight_parts *p = job->parts;
    ptrdiff_t first = task % p->blocks * BLOCK, filters = min_size(BLOCK, p->filters - first);
    real *grad_weight = job->grad_weight + (task / p->blocks * p->filters + first) * p->channels * p->area;
    real *total = scratch; /* [tap][BLOCK] */
    for (ptrdiff_t c = 0; c < p->channels; c++) {
        for (ptrdiff_t t = 0; t < p->area; t++)
            sum_parts(p->sums + task * p->block_elements + (t * p->channels + c) * BLOCK, p->count, p->part_elements, 0,
                      BLOCK, total + t * BLOCK);
        for (ptrdiff_t k = 0; k < filters; k++)
            for (ptrdiff_t t = 0; t < p->area; t++)
                grad_weight[(k * p->channels + c) * p->area + t] = total[t * BLOCK + k];
    }
}

int VARIANT(sum_weight_parts)(const struct weight_parts *parts, real *grad_weight) {
    struct sum_parts_job job = {parts, grad_weight};
    double cost = (double)(parts->count + 2) * (double)parts->part_elements / 8;
    return parallel_run(parts->groups * parts->blocks, cost, (size_t)(parts->area * BLOCK) * sizeof(real), sum_block, &job);
}

/* ---- The whole gradient ---- */

static void plan(struct weight_gradient *w) {
    struct pyconv_conv2d *g = &w->g;
    ptrdiff_t area = g->kernel_height * g->kernel_width;
    ptrdiff_t used_height = (g->out_height - 1) * g->stride_height + (g->kernel_height - 1) * g->dilation_height + 1;
    ptrdiff_t used_width = (g->out_width - 1) * g->stride_width + (g->kernel_width - 1) * g->dilation_width + 1;
    w->padded = g->pad_top > 0 || g->pad_left > 0 || used_height > g->in_height || used_width > g->in_width;
    if (!w->padded && area == 1 && g->stride_height == 1 && g->stride_width == 1 && used_height == g->in_height) {
        g->in_height = g->out_height = g->batch * g->out_height; /* rows of all images form one list */
        g->batch = 1;
    }
    w->width = used_width;
    w->band_rows = min_size(max_size(BAND_PIXELS / g->out_width, 1), g->out_height);
    w->bands = ceil_div(g->out_height, w->band_rows);
    ptrdiff_t pixels = g->batch * g->out_height * g->out_width;
    ptrdiff_t parts = min_size(min_size(MOST_PARTS, g->batch * w->bands), ceil_div(pixels, PART_PIXELS));
    w->parts = weight_parts(g, parts);
    w->splits = min_size(g->groups * w->parts.blocks, ceil_div(TASKS_WANTED, w->parts.count));
    ptrdiff_t rows = (w->band_rows - 1) * g->stride_height + (g->kernel_height - 1) * g->dilation_height + 1;
    w->scratch_input = w->padded ? ((rows * w->width * g->in_channels) + 15) & ~(ptrdiff_t)15 : 0;
}

int VARIANT(grad_weight_direct)(const struct pyconv_conv2d *geometry, const real *grad_output, const real *input,
                                real *grad_weight) {
    const struct pyconv_conv2d *g = geometry;
    ptrdiff_t area = g->kernel_height * g->kernel_width, elements = g->out_channels * (g->in_channels / g->groups) * area;
    if (!elements) return PYCONV_OK;
    if (!g->batch || !g->out_height || !g->out_width) {
        memset(grad_weight, 0, (size_t)elements * sizeof(real));
        return PYCONV_OK;
    }
    struct weight_gradient w = {.g = *g, .grad_output = grad_output, .input = input};
    plan(&w);
    size_t bytes = (size_t)(w.parts.count * w.parts.part_elements) * sizeof(real);
    if (!(w.parts.sums = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    size_t scratch = (size_t)(w.scratch_input + w.band_rows * w.g.out_width * BLOCK) * sizeof(real) +
                     (size_t)w.band_rows * sizeof(struct segment) + (size_t)area * sizeof(struct run);
    double work = (double)(g->batch * g->out_height * g->out_width) * (double)w.parts.part_elements;
    int status = parallel_run(w.parts.count * w.splits, work / MULTIPLY_ADDS_PER_NANOSECOND, scratch, run_part, &w);
    if (status == PYCONV_OK) status = VARIANT(sum_weight_parts)(&w.parts, grad_weight);
    pyconv_free(w.parts.sums, bytes);
    return status;
}
