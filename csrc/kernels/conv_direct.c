/* The direct convolution: a correlation as a product of gathered pixels and packed weights.
 *
 *     dst[pixel][k] = bias[k] + sum over j of src[pixel's place + offset j] * weight[j][k]
 *
 * where j runs over taps and channels. Neighbouring taps whose channels are contiguous in NHWC memory
 * form one run: a whole kernel row, where dilation is 1 and there is one group.
 *
 * Weights are packed once a call as [group][block][tap][channel][BLOCK], so that a tile streams them from
 * L2: BLOCK_VECTORS loads for TILE * BLOCK_VECTORS multiply-adds. A task owns a stretch of one image's
 * destination pixels; the source rows that these read are copied, with their zero padding, to a scratch
 * of SOURCE_BYTES, which shares L2 (1 MiB) with a block of weights (3 * 3 * 512 * BLOCK floats: 576 KiB).
 */
#include "conv.h"
#include "correlation.h"
#include "parallel.h"
#include "tile.h"

#define SOURCE_BYTES ((ptrdiff_t)256 << 10)
#define TASKS_WANTED 64 /* enough for 16 threads to share evenly */
#define FEWEST_PIXELS (4 * TILE)
#define SHORT_RUN 24   /* shorter runs cost more to set up (some 20 cycles) than a list of offsets to read */
#define MOST_STEPS 512 /* 4 KiB of offsets */

struct direct {
    const struct correlation *c;
    const real *packed, *bias;        /* bias: [group][block][BLOCK], zero where there is none */
    ptrdiff_t blocks, block_elements; /* blocks to a group; taps * src_channels * BLOCK */
    ptrdiff_t pixels;                 /* destination pixels to a task */
    ptrdiff_t chunks;                 /* tasks to an image */
    ptrdiff_t splits;                 /* shares that the groups' blocks are cut into */
    int padded;                       /* some tap reads outside of the image */
    ptrdiff_t pointwise;              /* one tap: elements from one copied pixel to the next, else 0 */
    ptrdiff_t scratch_source;         /* elements of the padded rows */
    ptrdiff_t most_runs;
    ptrdiff_t steps; /* elements of the reduction where it is a list of offsets, else 0 */
};

/* ---- Packing: weight[k][c][tap] to [block][tap][c][BLOCK] ---- */

static void pack_block(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct direct *d = context;
    const struct correlation *c = d->c;
    ptrdiff_t group = task / d->blocks, first = task % d->blocks * BLOCK;
    ptrdiff_t filters = min_size(BLOCK, c->dst_channels - first);
    const real *weight = c->weight + group * c->weight_group + first * c->weight_dst;
    real *packed = (real *)d->packed + task * d->block_elements;
    for (ptrdiff_t t = 0; t < c->taps; t++)
        for (ptrdiff_t i = 0; i < c->src_channels; i++) {
            const real *from = weight + i * c->weight_src + c->tap[t].index;
            ptrdiff_t k = 0;
            for (; k < filters; k++) packed[k] = from[k * c->weight_dst];
            for (; k < BLOCK; k++) packed[k] = 0;
            packed += BLOCK;
        }
}

static void pack_bias(const struct direct *d, real *bias) {
    const struct correlation *c = d->c;
    const real *from = c->epilogue.bias;
    for (ptrdiff_t group = 0; group < c->groups; group++)
        for (ptrdiff_t k = 0; k < d->blocks * BLOCK; k++)
            *bias++ = from && k < c->dst_channels ? from[group * c->dst_channels + k] : 0;
}

/* ---- One task ---- */

struct source {
    const real *base; /* of the pixel that destination pixel (first_row, 0) minus (y_min, x_min) reads */
    ptrdiff_t row, column, first_row;
};

/* Where the task's source rows lie: in the image itself, or copied to scratch with their padding. */
static struct source gather_source(const struct direct *d, ptrdiff_t image, ptrdiff_t first_row,
                                   ptrdiff_t end_row, real *scratch) {
    const struct correlation *c = d->c;
    ptrdiff_t pitch = c->groups * c->src_channels, row = c->src_width * pitch;
    const real *src = c->src + image * c->src_height * row;
    ptrdiff_t y0 = first_row * c->step_height + c->y_min;
    if (!d->padded) return (struct source){src + y0 * row + c->x_min * pitch, row, pitch, first_row};

    ptrdiff_t y1 = (end_row - 1) * c->step_height + c->y_max + 1;
    ptrdiff_t width = (c->dst_width - 1) * c->step_width + c->x_max - c->x_min + 1;
    ptrdiff_t left = min_size(max_size(-c->x_min, 0), width); /* zero columns before the image's first */
    ptrdiff_t from = max_size(c->x_min, 0),
              columns = max_size(min_size(c->src_width - from, width - left), 0);
    for (ptrdiff_t y = y0; y < y1; y++) {
        real *to = scratch + (y - y0) * width * pitch;
        if (y < 0 || y >= c->src_height) {
            memset(to, 0, (size_t)(width * pitch) * sizeof(real));
            continue;
        }
        memset(to, 0, (size_t)(left * pitch) * sizeof(real));
        memcpy(to + left * pitch, src + y * row + from * pitch, (size_t)(columns * pitch) * sizeof(real));
        memset(to + (left + columns) * pitch, 0, (size_t)((width - left - columns) * pitch) * sizeof(real));
    }
    return (struct source){scratch, width * pitch, pitch, first_row};
}

/* The taps' runs, cut into chunks; `run` has room for most_runs. */
static ptrdiff_t merge_runs(const struct correlation *c, const struct source *source, struct run *run,
                            struct run *merged) {
    ptrdiff_t runs = 0;
    for (ptrdiff_t t = 0; t < c->taps; t++) {
        ptrdiff_t offset = (c->tap[t].y - c->y_min) * source->row + (c->tap[t].x - c->x_min) * source->column;
        if (runs && merged[runs - 1].offset + merged[runs - 1].length == offset)
            merged[runs - 1].length += c->src_channels;
        else
            merged[runs++] = (struct run){offset, c->src_channels, 0};
    }
    return cut_runs(merged, runs, run);
}

/* The pixels that a single tap reads, copied one after the other at a pitch that is odd in cache lines:
 * channels in powers of two would put all TILE pixels on the same few sets of L1, and rows of pixels far
 * apart are not prefetched. */
static void gather_pixels(const struct direct *d, struct source *source, ptrdiff_t *src_offset,
                          ptrdiff_t pixels, real *to) {
    ptrdiff_t channels = d->c->groups * d->c->src_channels;
    for (ptrdiff_t p = 0; p < pixels; p++) {
        copy_elements(source->base + src_offset[p], channels, to + p * d->pointwise);
        src_offset[p] = p * d->pointwise;
    }
    source->base = to;
}

/* One offset for each element of the reduction, in the order of the packed weights; chunks as runs. */
static ptrdiff_t list_steps(const struct correlation *c, const struct source *source, struct run *run,
                            ptrdiff_t *step) {
    for (ptrdiff_t t = 0; t < c->taps; t++)
        for (ptrdiff_t i = 0; i < c->src_channels; i++)
            *step++ = (c->tap[t].y - c->y_min) * source->row + (c->tap[t].x - c->x_min) * source->column + i;
    return cut_runs(&(struct run){0, c->taps * c->src_channels, 0}, 1, run);
}

struct reduction {
    const struct run *run;
    ptrdiff_t runs;
    const ptrdiff_t *step; /* NULL where the runs are contiguous */
};

#define GATHER(m, vectors, indexed)                                                                          \
    tile_gather(m, vectors, indexed, src, src_offset, r->run, r->runs, r->step, weight, to, dst_offset)
#define GATHER_2(m) GATHER(m, 2, 0)
#define GATHER_1(m) GATHER(m, 1, 0)
#define GATHER_2_INDEXED(m) GATHER(m, 2, 1)
#define GATHER_1_INDEXED(m) GATHER(m, 1, 1)

#define GATHER_FUNCTION(name, CALL)                                                                          \
    static void name(ptrdiff_t size, const real *src, const ptrdiff_t *src_offset,                           \
                     const struct reduction *r, const real *weight, const struct destination *to,            \
                     const ptrdiff_t *dst_offset) {                                                          \
        DISPATCH_TILE(size, CALL)                                                                            \
    }
typedef void gather_function(ptrdiff_t size, const real *src, const ptrdiff_t *src_offset,
                             const struct reduction *r, const real *weight, const struct destination *to,
                             const ptrdiff_t *dst_offset);
GATHER_FUNCTION(gather_2, GATHER_2)
GATHER_FUNCTION(gather_1, GATHER_1)
GATHER_FUNCTION(gather_2_indexed, GATHER_2_INDEXED)
GATHER_FUNCTION(gather_1_indexed, GATHER_1_INDEXED)

static void run_direct(const void *context, ptrdiff_t task, void *scratch) {
    const struct direct *d = context;
    const struct correlation *c = d->c;
    ptrdiff_t split = task % d->splits, chunk = task / d->splits % d->chunks,
              image = task / d->splits / d->chunks;
    ptrdiff_t begin = chunk * d->pixels, end = min_size(begin + d->pixels, c->dst_height * c->dst_width);
    ptrdiff_t pixels = end - begin;

    real *rows = scratch;
    ptrdiff_t *src_offset = (ptrdiff_t *)(rows + d->scratch_source), *dst_offset = src_offset + d->pixels;
    ptrdiff_t *step = dst_offset + d->pixels;
    struct run *merged = (struct run *)(step + d->steps), *run = merged + c->taps;
    struct source source = gather_source(d, image, begin / c->dst_width, (end - 1) / c->dst_width + 1, rows);
    struct reduction r = {run, 0, d->steps ? step : NULL};
    r.runs = d->steps ? list_steps(c, &source, run, step) : merge_runs(c, &source, run, merged);
    ptrdiff_t src_step = c->step_width * source.column;
    for (ptrdiff_t p = 0, i = begin / c->dst_width, j = begin % c->dst_width; p < pixels; i++, j = 0) {
        ptrdiff_t count = min_size(c->dst_width - j, pixels - p);
        ptrdiff_t from = (i - source.first_row) * c->step_height * source.row + j * src_step;
        ptrdiff_t to = image * c->dst_image + i * c->dst_row + j * c->dst_column;
        for (ptrdiff_t k = 0; k < count; k++, p++) {
            src_offset[p] = from + k * src_step;
            dst_offset[p] = to + k * c->dst_column;
        }
    }

    if (d->pointwise) gather_pixels(d, &source, src_offset, pixels, rows);

    ptrdiff_t all = c->groups * d->blocks, tiles = ceil_div(pixels, TILE);
    for (ptrdiff_t b = all * split / d->splits; b < all * (split + 1) / d->splits; b++) {
        ptrdiff_t group = b / d->blocks, first = b % d->blocks * BLOCK;
        ptrdiff_t filters = min_size(BLOCK, c->dst_channels - first),
                  channel = group * c->dst_channels + first;
        const real *src = source.base + group * c->src_channels, *weight = d->packed + b * d->block_elements;
        const real *residual = c->epilogue.residual;
        struct destination to = {c->dst + channel, residual ? residual + channel : NULL, d->bias + b * BLOCK,
                                 c->epilogue.relu, filters > LANES ? filters - LANES : filters};
        gather_function *gather = filters > LANES ? (d->steps ? gather_2_indexed : gather_2)
                                                  : (d->steps ? gather_1_indexed : gather_1);
        for (ptrdiff_t t = 0; t < tiles; t++) { /* tiles of nearly equal size: no small remainder */
            ptrdiff_t p = pixels * t / tiles, size = pixels * (t + 1) / tiles - p;
            gather(size, src, src_offset + p, &r, weight, &to, dst_offset + p);
        }
    }
}

/* ---- The whole correlation ---- */

/* A 1x1 convolution without stride or padding sees its pixels as one list, across rows and images. */
static struct correlation flatten(const struct correlation *c) {
    struct correlation flat = *c;
    ptrdiff_t pitch = c->groups * c->src_channels, to = c->groups * c->dst_channels;
    if (c->taps == 1 && c->tap[0].y == 0 && c->tap[0].x == 0 && c->step_height == 1 && c->step_width == 1 &&
        c->src_height == c->dst_height && c->src_width == c->dst_width && c->dst_column == to &&
        c->dst_row == c->dst_width * to && pitch > 0) {
        flat.src_width = flat.dst_width = c->batch * c->src_height * c->src_width;
        flat.batch = flat.src_height = flat.dst_height = 1;
    }
    return flat;
}

static void plan(struct direct *d) {
    const struct correlation *c = d->c;
    ptrdiff_t pitch = c->groups * c->src_channels, total = c->dst_height * c->dst_width;
    d->blocks = ceil_div(c->dst_channels, BLOCK);
    d->block_elements = c->taps * c->src_channels * BLOCK;
    d->padded = c->y_min < 0 || c->x_min < 0 ||
                (c->dst_height - 1) * c->step_height + c->y_max >= c->src_height ||
                (c->dst_width - 1) * c->step_width + c->x_max >= c->src_width;

    ptrdiff_t width = (c->dst_width - 1) * c->step_width + c->x_max - c->x_min + 1;
    ptrdiff_t pixel_bytes = pitch * (ptrdiff_t)sizeof(real);
    if (c->dst_height == 1) {
        d->pixels = max_size(SOURCE_BYTES / (pixel_bytes * c->step_width), 1);
    } else {
        ptrdiff_t rows = SOURCE_BYTES / (width * pixel_bytes) - (c->y_max - c->y_min);
        d->pixels = max_size(rows / c->step_height, 1) * c->dst_width;
    }
    ptrdiff_t even =
        ceil_div(total, ceil_div(TASKS_WANTED, c->batch)); /* pixels that would make enough tasks */
    d->pixels = min_size(d->pixels, max_size(even, FEWEST_PIXELS));
    d->pixels = ceil_div(d->pixels, TILE) * TILE;
    d->chunks = ceil_div(total, d->pixels);
    d->pixels = ceil_div(total, d->chunks);
    d->chunks = ceil_div(total, d->pixels);
    d->splits = min_size(c->groups * d->blocks, ceil_div(TASKS_WANTED, c->batch * d->chunks));
    ptrdiff_t most_rows = min_size((d->pixels - 2) / c->dst_width + 2, c->dst_height);
    d->pointwise =
        c->taps == 1 && !d->padded && c->dst_channels >= BLOCK ? ceil_div(pitch, LANES) * LANES + LANES : 0;
    d->scratch_source = d->pointwise ? d->pixels * d->pointwise
                        : d->padded
                            ? ((most_rows - 1) * c->step_height + c->y_max - c->y_min + 1) * width * pitch
                            : 0;
    ptrdiff_t elements = c->taps * c->src_channels, row = c->x_max - c->x_min + 1;
    d->steps =
        c->src_channels * (c->groups == 1 ? row : 1) < SHORT_RUN && elements <= MOST_STEPS ? elements : 0;
    d->most_runs = c->taps + c->taps * c->src_channels / CHUNK;
    d->scratch_source = (d->scratch_source + 7) & ~(ptrdiff_t)7;
}

/* Every destination element is 0 (or its bias): no tap, or no channel, contributes. */
static void fill_constant(const struct correlation *c) {
    for (ptrdiff_t n = 0; n < c->batch; n++)
        for (ptrdiff_t i = 0; i < c->dst_height; i++)
            for (ptrdiff_t j = 0; j < c->dst_width; j++) {
                ptrdiff_t offset = n * c->dst_image + i * c->dst_row + j * c->dst_column;
                for (ptrdiff_t k = 0; k < c->groups * c->dst_channels; k++) {
                    real value = c->epilogue.bias ? ((const real *)c->epilogue.bias)[k] : 0;
                    if (c->epilogue.residual) value += ((const real *)c->epilogue.residual)[offset + k];
                    c->dst[offset + k] = c->epilogue.relu && value < 0 ? 0 : value;
                }
            }
}

static struct workspace space(const struct direct *d) {
    const struct correlation *c = d->c;
    ptrdiff_t blocks = c->groups * d->blocks;
    return (struct workspace){
        (size_t)(blocks * (d->block_elements + BLOCK)) * sizeof(real),
        (size_t)d->scratch_source * sizeof(real) + (size_t)(2 * d->pixels + d->steps) * sizeof(ptrdiff_t) +
            (size_t)(c->taps + d->most_runs) * sizeof(struct run),
    };
}

struct workspace VARIANT(correlate_direct_workspace)(const struct correlation *correlation) {
    struct correlation c = flatten(correlation);
    struct direct d = {.c = &c};
    plan(&d);
    return space(&d);
}

int VARIANT(correlate_direct)(const struct correlation *correlation) {
    struct correlation c = flatten(correlation);
    if (!c.batch || !c.dst_height || !c.dst_width || !c.dst_channels) return PYCONV_OK;
    if (!c.taps || !c.src_channels) {
        fill_constant(&c);
        return PYCONV_OK;
    }
    struct direct d = {.c = &c};
    plan(&d);
    ptrdiff_t blocks = c.groups * d.blocks;
    struct workspace bytes = space(&d);
    real *packed = pyconv_alloc(bytes.shared);
    if (!packed) return PYCONV_NO_MEMORY;
    d.packed = packed, d.bias = packed + blocks * d.block_elements;
    pack_bias(&d, packed + blocks * d.block_elements);
    int status = parallel_run(blocks, (double)(blocks * d.block_elements), 0, pack_block, &d);
    double work =
        (double)c.batch * (double)(c.dst_height * c.dst_width) * (double)(blocks * d.block_elements);
    if (status == PYCONV_OK)
        status = parallel_run(c.batch * d.chunks * d.splits, work / MULTIPLY_ADDS_PER_NANOSECOND,
                              bytes.scratch, run_direct, &d);
    pyconv_free(packed, bytes.shared);
    return status;
}
