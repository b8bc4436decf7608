/* The direct convolution: a correlation as a product of gathered pixels and packed weights.
 *
 *     dst[pixel][k] = bias[k] + sum over j of src[pixel's place + offset j] * weight[j][k]
 *
 * where j runs over taps and channels. Neighbouring taps whose channels are contiguous in NHWC memory
 * form one run: a whole kernel row, where dilation is 1 and there is one group.
 *
 * Filters come in blocks of up to WIDEST vectors, of nearly equal width. Weights are packed once a call, or
 * once for many (prepare_direct), as [group][block][tap][channel][vector]. A task owns a stretch of one
 * image's destination pixels. The source rows that these read are copied, if they need padding, to a scratch
 * of SOURCE_BYTES in L2. It works through them in bands of BAND_PIXELS, whole tiles of either width:
 *
 *     for each block of filters
 *         for each chunk of the reduction                    (weights: 128 * 64 floats = 32 KiB, in L1)
 *             for each tile of the band                      (partial sums: 72 * 64 floats = 18 KiB)
 *
 * so that weights travel from L2 or L3 once a band, and the destination is written nearly in order. Short
 * reductions have a single chunk, and bands that lie in one row (`even`).
 */
#include "conv.h"
#include "conv_direct.h"
#include "conv_dot.h"
#include "conv_grouped.h"
#include "conv_planar.h"
#include "conv_shallow.h"
#include "parallel.h"

#define SOURCE_BYTES ((ptrdiff_t)(VECTOR_BYTES == 64 ? 512 : 256) << 10)
#define BAND_PIXELS (6 * TILE)        /* = 8 or 9 * WIDE_TILE, 12 * WIDEST_TILE */
#define L2_BYTES ((ptrdiff_t)1 << 20) /* packed weights that are larger have left it when they are needed */
#define TASKS_WANTED 64               /* enough for 16 threads to share evenly; but */
#define PADDED_TASKS 16               /* where each split copies the same rows again (6 %) */
#define EVEN_BYTES                                                                                           \
    ((ptrdiff_t)(VECTOR_BYTES == 64 ? 24 : 16) << 10)  /* of the pixels of an even band, in L1 */
#define EVEN_PIXELS (VECTOR_REGISTERS == 32 ? 36 : 12) /* whole tiles of all widths */
#define SHORT_RUN 24   /* shorter runs cost more to set up (some 20 cycles) than a list of offsets to read */
#define MOST_STEPS 512 /* 4 KiB of offsets */

/* ---- One task ---- */

struct source {
    ptrdiff_t group, groups; /* that the task reads: the first one, and how many */
    const real *base; /* of the pixel that destination pixel (first_row, 0) minus (y_min, x_min) reads */
    ptrdiff_t row, column, first_row;
    const real *image;
    ptrdiff_t y, filled; /* of copied rows: the first one, and how many there are already */
};

/* Where the task's source rows lie: in the image itself, or in scratch, where fill_rows copies them. */
static struct source find_source(const struct direct *d, ptrdiff_t image, ptrdiff_t first_row,
                                 ptrdiff_t group, ptrdiff_t groups, const real *scratch) {
    const struct correlation *c = d->c;
    ptrdiff_t pitch = c->src_column, row = c->src_width * pitch;
    struct source s = {.group = group, .groups = groups, .first_row = first_row};
    s.image = c->src + image * c->src_height * row + group * c->src_channels;
    s.y = first_row * c->step_height + c->y_min;
    if (d->padded)
        s.base = scratch, s.row = d->width * d->pitch, s.column = d->pitch;
    else
        s.base = s.image + s.y * row + c->x_min * pitch, s.row = row, s.column = pitch;
    return s;
}

/* Copy the rows that destination rows before end_row read, with their padding, unless they are there. */
static void fill_rows(const struct direct *d, struct source *s, ptrdiff_t end_row, real *scratch) {
    const struct correlation *c = d->c;
    ptrdiff_t pitch = c->src_column;
    struct overlap o = overlap_columns(c->x_min, d->width, c->src_width);
    ptrdiff_t rows = (end_row - 1) * c->step_height + c->y_max + 1 - s->y;
    for (; s->filled < rows; s->filled++) {
        ptrdiff_t y = s->y + s->filled;
        real *to = scratch + s->filled * s->row;
        if (y < 0 || y >= c->src_height) {
            memset(to, 0, (size_t)s->row * sizeof(real));
            continue;
        }
        memset(to, 0, (size_t)(o.left * d->pitch) * sizeof(real));
        copy_pixels(s->image + (y * c->src_width + o.from) * pitch, pitch, o.count,
                    s->groups * c->src_channels, to + o.left * d->pitch, d->pitch);
        ptrdiff_t end_column = o.left + o.count;
        memset(to + end_column * d->pitch, 0, (size_t)((d->width - end_column) * d->pitch) * sizeof(real));
    }
}

/* ---- The reduction ---- */

struct reduction {
    struct run *run;
    ptrdiff_t *step;
    struct chunk *chunk;
    ptrdiff_t chunks;
};

/* One offset for each element, in the order of the packed weights. */
static void list_steps(const struct direct *d, const struct source *source, struct reduction *r) {
    const struct correlation *c = d->c;
    ptrdiff_t *step = r->step;
    for (ptrdiff_t t = 0; t < c->taps; t++)
        for (ptrdiff_t i = 0; i < c->src_channels; i++)
            *step++ = (c->tap[t].y - c->y_min) * source->row + (c->tap[t].x - c->x_min) * source->column + i;
    r->chunks = ceil_div(d->steps, CHUNK);
    for (ptrdiff_t i = 0; i < r->chunks; i++) {
        ptrdiff_t first = d->steps * i / r->chunks, end = d->steps * (i + 1) / r->chunks;
        r->chunk[i] = (struct chunk){.step = r->step + first, .steps = end - first, .first = first};
    }
}

/* Add `length` elements from `offset` on, as runs that are cut where chunks end. */
static void add_run(struct reduction *r, struct run **free, ptrdiff_t offset, ptrdiff_t length, ptrdiff_t y) {
    ptrdiff_t pieces = ceil_div(length, CHUNK);
    for (ptrdiff_t i = 0; i < pieces; i++) {
        ptrdiff_t begin = length * i / pieces, end = length * (i + 1) / pieces;
        struct chunk *open = r->chunks ? r->chunk + r->chunks - 1 : NULL;
        if (!open || open->steps + end - begin > CHUNK) {
            ptrdiff_t first = open ? open->first + open->steps : 0;
            open = r->chunk + r->chunks++;
            *open = (struct chunk){.run = *free, .first = first};
        }
        *(*free)++ = (struct run){offset + begin, end - begin, y};
        open->runs++;
        open->steps += end - begin;
    }
}

/* Taps of one row whose channels are contiguous form one run. */
static void list_runs(const struct direct *d, const struct source *source, struct reduction *r) {
    const struct correlation *c = d->c;
    struct run *free = r->run;
    ptrdiff_t begin = 0, length = 0;
    r->chunks = 0;
    for (ptrdiff_t t = 0; t < c->taps; t++) {
        ptrdiff_t y = c->tap[t].y,
                  offset = (y - c->y_min) * source->row + (c->tap[t].x - c->x_min) * source->column;
        if (!length) begin = offset;
        length += c->src_channels;
        int last = t + 1 == c->taps || c->tap[t + 1].y != y ||
                   (c->tap[t + 1].x - c->tap[t].x) * source->column != c->src_channels;
        if (last) add_run(r, &free, begin, length, y), length = 0;
    }
}

/* ---- Tiles ---- */

#define GATHER(m, vectors, indexed, prefetch)                                                                \
    tile_gather(m, vectors, indexed, prefetch, src, src_offset, chunk, weight, partial, distance, to,        \
                dst_offset)
#define GATHER_ARGUMENTS                                                                                     \
    ptrdiff_t size, const real *src, const ptrdiff_t *src_offset, const struct chunk *chunk,                 \
        const real *weight, real *partial, ptrdiff_t distance, const struct destination *to,                 \
        const ptrdiff_t *dst_offset
typedef void gather_function(GATHER_ARGUMENTS);

/* A kind of tile, for [vectors - 1]. */
#define GATHER_FUNCTION(name, DISPATCH, vectors, indexed, prefetch)                                          \
    static void name(GATHER_ARGUMENTS) {                                                                     \
        (void)distance;                                                                                      \
        DISPATCH(size, GATHER, vectors, indexed, prefetch)                                                   \
    }
#if WIDEST == 4
#define GATHER_WIDEST(name, indexed, prefetch) GATHER_FUNCTION(name, DISPATCH_WIDEST, 4, indexed, prefetch)
#else
#define GATHER_WIDEST(name, indexed, prefetch) static gather_function *const name = NULL;
#endif
#define GATHER_KIND(name, indexed, prefetch)                                                                 \
    GATHER_FUNCTION(name##_1, DISPATCH_TILE, 1, indexed, prefetch)                                           \
    GATHER_FUNCTION(name##_2, DISPATCH_TILE, 2, indexed, prefetch)                                           \
    GATHER_FUNCTION(name##_3, DISPATCH_WIDE, 3, indexed, prefetch)                                           \
    GATHER_WIDEST(name##_4, indexed, prefetch)                                                               \
    static gather_function *const name[] = {name##_1, name##_2, name##_3, name##_4};
GATHER_KIND(gather_runs, 0, 0)
GATHER_KIND(gather_steps, 1, 0)
GATHER_KIND(gather_ahead, 0, 1)
GATHER_KIND(gather_stream, 0, 2)

/* The pixels of a row, in tiles of nearly equal size (no small remainder). */
#define EVEN_ARGUMENTS                                                                                       \
    ptrdiff_t count, const real *src, ptrdiff_t src_pitch, const struct chunk *chunk, const real *weight,    \
        const struct destination *to, ptrdiff_t dst_offset, ptrdiff_t dst_pitch
typedef void even_function(EVEN_ARGUMENTS);
#define EVEN(m, vectors, ...) tile_even(m, vectors, src, src_pitch, chunk, weight, to, dst_offset, dst_pitch)
#define EVEN_FUNCTION(name, DISPATCH, vectors)                                                               \
    static void name(EVEN_ARGUMENTS) {                                                                       \
        ptrdiff_t tiles = ceil_div(count, tile_rows(vectors));                                               \
        for (ptrdiff_t t = 0, p = 0, size; t < tiles; t++, p += size) {                                      \
            size = count * (t + 1) / tiles - p;                                                              \
            DISPATCH(size, EVEN, vectors, 0)                                                                 \
            src += size * src_pitch, dst_offset += size * dst_pitch;                                         \
        }                                                                                                    \
    }
EVEN_FUNCTION(even_1, DISPATCH_TILE, 1)
EVEN_FUNCTION(even_2, DISPATCH_TILE, 2)
EVEN_FUNCTION(even_3, DISPATCH_WIDE, 3)
#if WIDEST == 4
EVEN_FUNCTION(even_4, DISPATCH_WIDEST, 4)
#else
static even_function *const even_4 = NULL;
#endif

/* Destination pixels. Pixel p reads at src + src_offset[p]; where rows are even, the first one is listed. */
struct band {
    ptrdiff_t pixels;
    ptrdiff_t first_group; /* whose channels src points to */
    const real *src;
    ptrdiff_t column; /* from one source pixel to the next */
    ptrdiff_t *src_offset, *dst_offset, *dst_row;
    real *partial;      /* [pixel][vector] */
    const real *packed; /* the image's weights */
};

/* The band with one block of filters, in tiles of nearly equal size (no small remainder); with `ahead` the
 * source is fetched early. */
static void run_block(const struct direct *d, const struct reduction *r, const struct band *band,
                      ptrdiff_t index, int ahead) {
    const struct correlation *c = d->c;
    const struct block block = find_block(d, index);
    const struct filters f = block.filters;
    ptrdiff_t channel = block.group * c->dst_channels + f.vector * LANES, width = f.vectors * LANES;
    ptrdiff_t tiles = ceil_div(band->pixels, tile_rows(f.vectors));
    const real *weight = band->packed + block_offset(d, &block), *residual = c->epilogue.residual;
    const real *src = band->src + (block.group - band->first_group) * c->src_channels;
    struct destination to = {.dst = c->dst + channel,
                             .residual = residual ? residual + channel : NULL,
                             .bias = d->bias + (block.group * d->vectors + f.vector) * LANES,
                             .relu = c->epilogue.relu,
                             .lanes = f.lanes,
                             .height = c->src_height,
                             .fetch = d->elements >= 2 * LANES,
                             .stream = ceil_div(LANES * width / LINE, tiles)};
    if (d->even) {
        static even_function *const even[] = {even_1, even_2, even_3, even_4};
        even[f.vectors - 1](band->pixels, src + band->src_offset[0], c->step_width * band->column, r->chunk,
                            weight, &to, band->dst_offset[0], c->dst_column);
        return;
    }
    gather_function *const *kind = d->steps     ? gather_steps
                                   : ahead      ? gather_ahead
                                   : d->streams ? gather_stream
                                                : gather_runs;
    gather_function *gather = kind[f.vectors - 1];
    ptrdiff_t distance = TILE * c->step_width * c->src_column;
    for (ptrdiff_t i = 0; i < r->chunks; i++) {
        const struct chunk *chunk = r->chunk + i;
        to.first = i == 0, to.last = i == r->chunks - 1;
        for (ptrdiff_t t = 0, p = 0, size; t < tiles; t++, p += size) {
            size = band->pixels * (t + 1) / tiles - p;
            to.top = band->dst_row[p] * c->step_height;
            to.bottom = band->dst_row[p + size - 1] * c->step_height;
            if (d->streams) to.next = weight + (chunk->first + chunk->steps * (tiles + t) / tiles) * width;
            gather(size, src, band->src_offset + p, chunk, weight, band->partial + p * width, distance, &to,
                   band->dst_offset + p);
        }
    }
}

/* The band's pixels, from `first` of the image on. */
static void list_pixels(const struct direct *d, const struct source *source, ptrdiff_t image, ptrdiff_t first,
                        const struct band *band) {
    const struct correlation *c = d->c;
    ptrdiff_t src_step = c->step_width * source->column, i = first / c->dst_width, j = first % c->dst_width;
    ptrdiff_t pixels = d->even ? 1 : band->pixels;
    for (ptrdiff_t p = 0; p < pixels; i++, j = 0) {
        ptrdiff_t count = min_size(c->dst_width - j, pixels - p);
        ptrdiff_t from = (i - source->first_row) * c->step_height * source->row + j * src_step;
        ptrdiff_t to = image * c->dst_image + i * c->dst_row + j * c->dst_column;
        for (ptrdiff_t k = 0; k < count; k++, p++) {
            band->src_offset[p] = from + k * src_step;
            band->dst_offset[p] = to + k * c->dst_column;
            band->dst_row[p] = i;
        }
    }
}

/* Of `rest` pixels, from `first` of the image on: how many the next band has. */
static ptrdiff_t band_pixels(const struct direct *d, ptrdiff_t first, ptrdiff_t rest) {
    ptrdiff_t width = d->c->dst_width;
    if (d->even) return min_size(min_size(rest, d->even), width - first % width);
    return ceil_div(rest, ceil_div(rest, BAND_PIXELS));
}

static void run_direct(const void *context, ptrdiff_t task, void *scratch) {
    const struct direct *d = context;
    const struct correlation *c = d->c;
    ptrdiff_t places = d->chunks * c->batch, place = d->by_split ? task % places : task / d->splits;
    ptrdiff_t split = d->by_split ? task / places : task % d->splits;
    ptrdiff_t chunk = place % d->chunks, image = place / d->chunks;
    ptrdiff_t begin = chunk * d->pixels, end = min_size(begin + d->pixels, c->dst_height * c->dst_width);
    ptrdiff_t pixels = end - begin;

    real *partial = scratch, *rows = partial + BAND_PIXELS * WIDEST * LANES;
    ptrdiff_t *offset = (ptrdiff_t *)(rows + d->scratch_source), *index = offset + 3 * BAND_PIXELS;
    ptrdiff_t *step = index + weight_area(c);
    struct reduction r = {.run = (struct run *)(step + d->steps), .step = step};
    r.chunk = (struct chunk *)(r.run + d->most_runs);
    ptrdiff_t shares = c->groups > 1 ? c->groups : d->blocks, each = c->groups > 1 ? d->blocks : 1;
    ptrdiff_t first = shares * split / d->splits * each, last = shares * (split + 1) / d->splits * each;
    ptrdiff_t group = first / d->blocks;
    struct source source =
        find_source(d, image, begin / c->dst_width, group, (last - 1) / d->blocks + 1 - group, rows);
    (d->steps ? list_steps : list_runs)(d, &source, &r);

    const real *packed = d->packed + (c->images_each ? image / c->images_each * c->prepared_pitch : 0);
    for (ptrdiff_t p0 = 0, p1; p0 < pixels; p0 = p1) {
        p1 = p0 + band_pixels(d, begin + p0, pixels - p0);
        struct band band = {.pixels = p1 - p0,
                            .first_group = group,
                            .src = source.base,
                            .column = source.column,
                            .src_offset = offset,
                            .dst_offset = offset + BAND_PIXELS,
                            .dst_row = offset + 2 * BAND_PIXELS,
                            .partial = partial,
                            .packed = packed};
        list_pixels(d, &source, image, begin + p0, &band);
        if (d->padded) fill_rows(d, &source, (begin + p1 - 1) / c->dst_width + 1, rows);
        for (ptrdiff_t b = first; b < last; b++) {
            if (d->packs_late) VARIANT(direct_pack_block)(d, b, index);
            run_block(d, &r, &band, b, d->ahead && b == first);
        }
    }
}

/* ---- The whole correlation ---- */

/* A 1x1 convolution without stride or padding, and of one weight, sees its pixels as one list, across rows
 * and images. */
static struct correlation flatten(const struct correlation *c) {
    struct correlation flat = *c;
    ptrdiff_t pitch = c->src_column, to = c->groups * c->dst_channels;
    if (c->taps == 1 && c->tap[0].y == 0 && c->tap[0].x == 0 && c->step_height == 1 && c->step_width == 1 &&
        c->src_height == c->dst_height && c->src_width == c->dst_width && c->dst_column == to &&
        c->dst_row == c->dst_width * to && pitch > 0 && !c->images_each) {
        flat.src_width = flat.dst_width = c->batch * c->src_height * c->src_width;
        flat.batch = flat.src_height = flat.dst_height = 1;
    }
    return flat;
}

/* The pitch to copy pixels of so many channels to: see ALIAS_BYTES. */
static ptrdiff_t odd_pitch(const struct correlation *c, ptrdiff_t channels) {
    ptrdiff_t step_bytes = channels * c->step_width * (ptrdiff_t)sizeof(real);
    return step_bytes % ALIAS_BYTES ? channels : ceil_div(channels, 2 * LANES) * 2 * LANES + LANES;
}

static void plan(struct direct *d) {
    const struct correlation *c = d->c;
    ptrdiff_t channels = c->groups * c->src_channels, total = c->dst_height * c->dst_width;
    ptrdiff_t wanted = TASKS_WANTED;
    d->vectors = ceil_div(c->dst_channels, LANES);
    d->blocks = filter_blocks(c->dst_channels);
    d->elements = c->taps * c->src_channels;
    d->padded = c->y_min < 0 || c->x_min < 0 ||
                (c->dst_height - 1) * c->step_height + c->y_max >= c->src_height ||
                (c->dst_width - 1) * c->step_width + c->x_max >= c->src_width;
    /* Where rows are copied a task does one group, unless that is a short piece of every pixel: then the taps
     * of a kernel row are one run. */
    int alone = d->padded && c->groups > 1 && c->src_channels >= 2 * LANES;
    if (alone) wanted = ceil_div(wanted, c->groups);
    d->pitch = odd_pitch(c, alone ? c->src_channels : channels);
    d->ahead = c->taps == 1 && !d->padded && d->pitch == channels;
    d->width = (c->dst_width - 1) * c->step_width + c->x_max - c->x_min + 1;
    ptrdiff_t pixel_bytes = d->pitch * (ptrdiff_t)sizeof(real);
    if (c->dst_height == 1) {
        d->pixels = max_size(SOURCE_BYTES / (pixel_bytes * c->step_width), 1);
    } else {
        ptrdiff_t rows = SOURCE_BYTES / (d->width * pixel_bytes) - (c->y_max - c->y_min);
        d->pixels = max_size(rows / c->step_height, 1) * c->dst_width;
    }
    ptrdiff_t even = ceil_div(total, ceil_div(wanted, c->batch)); /* pixels: enough tasks */
    d->pixels = min_size(d->pixels, max_size(even, BAND_PIXELS));
    d->pixels = ceil_div(d->pixels, TILE) * TILE;
    d->chunks = ceil_div(total, d->pixels);
    d->pixels = ceil_div(total, d->chunks);
    d->chunks = ceil_div(total, d->pixels);
    int once = c->batch * d->chunks == 1 && d->pixels <= BAND_PIXELS;
    ptrdiff_t weights = c->groups * d->vectors * LANES * d->elements,
              packed = weights * (ptrdiff_t)sizeof(real);
    d->packs_late = once && c->taps > 1 && !c->prepared;
    d->streams = FAR_CACHES && !d->packs_late && packed > L2_BYTES;
    if (c->images_each) weights *= c->batch / c->images_each;
    d->by_split = packed > L2_BYTES || weights > c->batch * c->src_height * c->src_width * channels;
    /* Few splits: the parts of a pixel's line that several cores write travel between these. */
    ptrdiff_t shares = c->groups > 1 ? c->groups : d->blocks;
    if (d->padded) wanted = min_size(wanted, PADDED_TASKS);
    d->splits = alone ? c->groups : max_size(min_size(shares, wanted / (c->batch * d->chunks)), 1);
    ptrdiff_t most_rows = min_size((d->pixels - 2) / c->dst_width + 2, c->dst_height);
    d->scratch_source =
        d->padded ? ((most_rows - 1) * c->step_height + c->y_max - c->y_min + 1) * d->width * d->pitch : 0;
    d->most_runs = c->taps + d->elements / CHUNK + 1;
    d->scratch_source = (d->scratch_source + 7) & ~(ptrdiff_t)7;
    ptrdiff_t run = c->src_channels * (alone || c->groups == 1 ? c->x_max - c->x_min + 1 : 1);
    if (c->groups == 1 && d->elements > 0 && d->elements <= CHUNK && c->dst_width >= 4 * TILE &&
        !d->packs_late)
        d->even = EVEN_BYTES / (d->elements * (ptrdiff_t)sizeof(real)) / EVEN_PIXELS * EVEN_PIXELS;
    d->steps = !d->even && run < SHORT_RUN && d->elements <= MOST_STEPS ? d->elements : 0;
}

static struct workspace space(const struct direct *d) {
    const struct correlation *c = d->c;
    ptrdiff_t columns = c->groups * d->vectors * LANES;
    return (struct workspace){
        (size_t)(columns * ((c->prepared ? 0 : d->elements) + 1)) * sizeof(real),
        (size_t)(d->scratch_source + BAND_PIXELS * WIDEST * LANES) * sizeof(real) +
            (size_t)(3 * BAND_PIXELS + weight_area(c) + d->steps) * sizeof(ptrdiff_t) +
            (size_t)d->most_runs * (sizeof(struct run) + sizeof(struct chunk)),
    };
}

/* The kernels of those that gathered pixels are not the best for. They read the weight as it is. */
struct special {
    int (*correlate)(const struct correlation *);
    struct workspace (*workspace)(const struct correlation *);
};

/* NULL: gathered pixels */
static const struct special *special_kernel(const struct correlation *c) {
    static const struct special grouped = {VARIANT(correlate_grouped), VARIANT(correlate_grouped_workspace)},
                                dot = {VARIANT(correlate_dot), VARIANT(correlate_dot_workspace)},
                                planar = {VARIANT(correlate_planar), VARIANT(correlate_planar_workspace)},
                                shallow = {VARIANT(correlate_shallow), VARIANT(correlate_shallow_workspace)};
    if (is_grouped(c)) return &grouped;
    ptrdiff_t length = run_length(c, 0);
    if (!c->images_each &&
        is_dot(c->groups, c->taps / length, length, c->dilation_height, c->src_channels, c->dst_channels))
        return &dot;
    if (is_planar(c->groups, c->step_width, c->taps, c->src_channels, c->dst_channels, c->dst_width))
        return &planar;
    return is_shallow(c) ? &shallow : NULL;
}

struct workspace VARIANT(correlate_direct_workspace)(const struct correlation *correlation) {
    const struct special *special = special_kernel(correlation);
    if (special) return special->workspace(correlation);
    struct correlation c = flatten(correlation);
    struct direct d = {.c = &c};
    plan(&d);
    return space(&d);
}

ptrdiff_t VARIANT(direct_prepared)(const struct correlation *correlation) {
    struct correlation c = flatten(correlation);
    if (special_kernel(&c)) return 0;
    return c.groups * ceil_div(c.dst_channels, LANES) * LANES * c.taps * c.src_channels;
}

struct column VARIANT(direct_column)(const struct correlation *c, real *prepared, ptrdiff_t vector) {
    struct direct d = {.c = c};
    plan(&d);
    ptrdiff_t b = 0;
    while (b + 1 < d.blocks && find_block(&d, b + 1).filters.vector <= vector) b++;
    struct block block = find_block(&d, b);
    real *first = prepared + block_offset(&d, &block) + (vector - block.filters.vector) * LANES;
    return (struct column){first, block.filters.vectors * LANES};
}

int VARIANT(prepare_direct)(const struct correlation *c, real *prepared) {
    struct direct d = {.c = c, .packed = prepared};
    plan(&d);
    return VARIANT(direct_pack_blocks)(&d);
}

int VARIANT(correlate_direct)(const struct correlation *correlation) {
    struct correlation c = flatten(correlation);
    const struct special *special = special_kernel(&c);
    if (special) return special->correlate(&c);
    struct direct d = {.c = &c};
    plan(&d);
    struct workspace bytes = space(&d);
    real *bias = pyconv_alloc(bytes.shared);
    if (!bias) return PYCONV_NO_MEMORY;
    d.bias = bias, d.packed = c.prepared ? c.prepared : bias + c.groups * d.vectors * LANES;
    VARIANT(direct_pack_bias)(&d, bias);
    int status = c.prepared || d.packs_late ? PYCONV_OK : VARIANT(direct_pack_blocks)(&d);
    double elements = (double)(c.groups * d.vectors * LANES * d.elements);
    double work = (double)c.batch * (double)(c.dst_height * c.dst_width) * elements;
    if (status == PYCONV_OK)
        status = parallel_run(c.batch * d.chunks * d.splits, work / MULTIPLY_ADDS_PER_NANOSECOND,
                              bytes.scratch, run_direct, &d);
    pyconv_free(bias, bytes.shared);
    return status;
}
