/* Correlations from many channels to few, as inner products: lanes run over what is summed.
 *
 *     dst[i, j][k] = bias[k] + sum over the lanes of
 *                    sum over runs r, vectors v of src[pixel (i, j) + r][v] * weight[r][v][k]
 *
 * The channels of neighbouring taps lie side by side in NHWC memory, a whole kernel row of them: such a run
 * fills all vectors but its last. A tile of up to DOT_OUTPUTS outputs has 12, or 24, sums in registers (4 x 3
 * of 16: 7 loads for 12 multiply-adds; 6 x 4 of 32: 10 for 24), whose lanes are added up at the end.
 *
 * The weights, [block][run][vector][output][lane], stay in L1 or L2. A task owns some rows and columns of an
 * image; the source rows that one of its rows reads are copied, with their padding, to ROWS_BYTES of L1, each
 * once, after they were fetched to L2 during the tiles of the row before (1.1 to 1.4 times as fast; to L1,
 * where they would push each other out, half of that).
 */
#include "conv_dot.h"
#include "conv.h"
#include "correlation.h"
#include "parallel.h"

#define MOST_SUMS (VECTOR_REGISTERS == 32 ? 24 : 12)
#define SUMS (MOST_SUMS + LANES) /* with room for whole vectors */
#define TASKS_WANTED 64
#define COLUMNS 24                       /* whole tiles of any kind */
#define ROWS_BYTES ((ptrdiff_t)20 << 10) /* from L2, one output would take twice as long, three as long */

/* Taps whose channels lie side by side in the source. */
struct dot_run {
    ptrdiff_t y, x, taps; /* y, x: from the first one that any reads */
};

struct dot {
    const struct correlation *c;
    ptrdiff_t runs, vectors; /* vectors: of all runs */
    ptrdiff_t blocks;        /* of at most DOT_OUTPUTS outputs */
    ptrdiff_t bands, strips; /* of an image's rows and columns: each of both is a task */
    ptrdiff_t columns;       /* of a strip */
    ptrdiff_t slots, pitch;  /* source rows that are kept, and elements of one */
    struct dot_run *run;
    real *weight, *bias; /* bias: [block][sum of a tile] */
};

static ptrdiff_t block_begin(const struct dot *d, ptrdiff_t block) {
    return d->c->dst_channels * block / d->blocks;
}

static ptrdiff_t run_vectors(const struct dot *d, const struct dot_run *run) {
    return ceil_div(run->taps * d->c->src_channels, LANES);
}

/* Pixels of a tile of so many outputs. */
INLINE int tile_pixels(const int outputs) { return outputs == 1 ? 12 : MOST_SUMS / outputs; }

/* The source columns that the tiles of so many destination pixels read. */
static ptrdiff_t source_width(const struct dot *d, ptrdiff_t pixels) {
    const struct correlation *c = d->c;
    ptrdiff_t most = 0;
    for (ptrdiff_t b = 0; b < d->blocks; b++) {
        ptrdiff_t tile = tile_pixels((int)(block_begin(d, b + 1) - block_begin(d, b)));
        most = max_size(most, ceil_div(pixels, tile) * tile);
    }
    return (most - 1) * c->step_width + c->x_max - c->x_min + 1;
}

/* ---- Runs and their weights ---- */

static void pack_run(const struct dot *d, const struct tap *tap, const struct dot_run *run, ptrdiff_t block,
                     real *to) {
    const struct correlation *c = d->c;
    ptrdiff_t outputs = block_begin(d, block + 1) - block_begin(d, block);
    const real *weight = c->weight + block_begin(d, block) * c->weight_dst;
    memset(to, 0, (size_t)(run_vectors(d, run) * outputs * LANES) * sizeof(real));
    for (ptrdiff_t t = 0, e = 0; t < run->taps; t++)
        for (ptrdiff_t i = 0; i < c->src_channels; i++, e++)
            for (ptrdiff_t k = 0; k < outputs; k++)
                to[(e / LANES * outputs + k) * LANES + e % LANES] =
                    weight[k * c->weight_dst + i * c->weight_src + tap[t].index];
}

static void pack(const struct dot *d) {
    const struct correlation *c = d->c;
    real *to = d->weight;
    for (ptrdiff_t b = 0; b < d->blocks; b++) {
        ptrdiff_t outputs = block_begin(d, b + 1) - block_begin(d, b);
        for (ptrdiff_t r = 0, t = 0; r < d->runs; t += d->run[r++].taps) {
            pack_run(d, c->tap + t, d->run + r, b, to);
            to += run_vectors(d, d->run + r) * outputs * LANES;
        }
    }
}

static void pack_bias(const struct dot *d) {
    const real *from = d->c->epilogue.bias;
    for (ptrdiff_t b = 0; b < d->blocks; b++) {
        ptrdiff_t begin = block_begin(d, b), outputs = block_begin(d, b + 1) - begin;
        for (ptrdiff_t i = 0; i < SUMS; i++) d->bias[b * SUMS + i] = from ? from[begin + i % outputs] : 0;
    }
}

static void list_runs(const struct dot *d) {
    const struct correlation *c = d->c;
    for (ptrdiff_t r = 0, t = 0; r < d->runs; t += d->run[r++].taps)
        d->run[r] = (struct dot_run){c->tap[t].y - c->y_min, c->tap[t].x - c->x_min, run_length(c, t)};
}

/* ---- Tiles ---- */

INLINE void add_vector(const int pixels, const int outputs, const struct rows *from, ptrdiff_t lanes,
                       const real *weight, vec (*sum)[DOT_OUTPUTS]) {
    vec w[DOT_OUTPUTS];
    UNROLL for (int k = 0; k < outputs; k++) w[k] = load(weight + k * LANES);
    UNROLL for (int m = 0; m < pixels; m++) {
        const real *at = row_at(from, m);
        vec x = load_some(at, lanes);
        if (outputs > 1) x = in_register(x);
        UNROLL for (int k = 0; k < outputs; k++) sum[m][k] += x * w[k];
    }
}

/* sums[m][k]: the whole reduction of the pixels from x on, run r of which begin in row[r]; CHUNK vectors of
 * which are summed by themselves (see tile.h). */
INLINE void dot_tile(const int pixels, const int outputs, const struct dot *d, const real *const *row,
                     ptrdiff_t x, const real *weight, const real *bias, real *sums) {
    vec sum[MOST_ROWS][DOT_OUTPUTS], total[MOST_ROWS][DOT_OUTPUTS];
    UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int k = 0; k < outputs; k++) sum[m][k] = total[m][k] =
        (vec){0};
    ptrdiff_t channels = d->c->src_channels, done = 0;
    struct rows from = begin_rows(NULL, d->c->step_width * channels);
    for (ptrdiff_t r = 0; r < d->runs; r++) {
        const struct dot_run *run = d->run + r;
        ptrdiff_t length = run->taps * channels, vectors = length / LANES, rest = length % LANES;
        if (done + vectors >= CHUNK) {
            UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int k = 0; k < outputs; k++) {
                total[m][k] += sum[m][k];
                sum[m][k] = (vec){0};
            }
            done = 0;
        }
        done += vectors + 1;
        from.at = (const char *)(row[r] + x);
        for (; vectors > 0; vectors--, from.at += VECTOR_BYTES, weight += outputs * LANES) {
            keep_scaling(&from, pixels);
            add_vector(pixels, outputs, &from, LANES, weight, sum);
        }
        if (rest) {
            add_vector(pixels, outputs, &from, rest, weight, sum);
            weight += outputs * LANES;
        }
    }
    const int count = pixels * outputs;
    vec each[SUMS];
    UNROLL for (int i = 0; i < SUMS; i++) each[i] =
        i < count ? total[i / outputs][i % outputs] + sum[i / outputs][i % outputs] : (vec){0};
    UNROLL for (int i = 0; i < count; i += LANES) store(sums + i, sum_each(each + i) + load(bias + i));
}

/* Store `count` pixels of a tile, + residual, max(., 0). */
INLINE void put_tile(const int pixels, const int outputs, const struct correlation *c, ptrdiff_t at,
                     ptrdiff_t count, real *sums) {
    const real *residual = c->epilogue.residual;
    if (residual)
        for (ptrdiff_t m = 0; m < count; m++)
            UNROLL for (int k = 0; k < outputs; k++) sums[m * outputs + k] +=
                residual[at + m * c->dst_column + k];
    if (c->epilogue.relu) UNROLL for (int i = 0; i < pixels * outputs; i += LANES) {
            vec value = load(sums + i);
            store(sums + i, choose(value < 0, (vec){0}, value));
        }
    if (c->dst_column == outputs) {
        copy_elements(sums, count * outputs, c->dst + at);
        return;
    }
    for (ptrdiff_t m = 0; m < count; m++, at += c->dst_column)
        UNROLL for (int k = 0; k < outputs; k++) c->dst[at + k] = *sums++;
}

/* ---- One task: some rows and columns of an image ---- */

struct strip {
    const real *image;
    ptrdiff_t x, width;  /* source columns */
    ptrdiff_t y, filled; /* source rows: the first one, and how many have been copied */
    real *rows;
};

/* Copy the rows before `end` with their padding: row y to its slot, in place of one that is not read again.
 */
static void fill_rows(const struct dot *d, struct strip *s, ptrdiff_t end) {
    const struct correlation *c = d->c;
    ptrdiff_t channels = c->src_channels;
    struct overlap o = overlap_columns(s->x, s->width, c->src_width);
    for (; s->y + s->filled < end; s->filled++) {
        ptrdiff_t y = s->y + s->filled;
        real *to = s->rows + s->filled % d->slots * d->pitch;
        if (y < 0 || y >= c->src_height || !o.count) {
            memset(to, 0, (size_t)(s->width * channels) * sizeof(real));
            continue;
        }
        memset(to, 0, (size_t)(o.left * channels) * sizeof(real));
        copy_elements(s->image + (y * c->src_width + o.from) * channels, o.count * channels,
                      to + o.left * channels);
        ptrdiff_t right = o.left + o.count;
        memset(to + right * channels, 0, (size_t)((s->width - right) * channels) * sizeof(real));
    }
}

/* `count` pixels of a row, whose runs begin in row[r]; meanwhile the source's next row is fetched from `next`
 * on, unless that is NULL. */
INLINE void run_row(const int outputs, const struct dot *d, const real *const *row, const real *next,
                    ptrdiff_t at, ptrdiff_t count, ptrdiff_t block) {
    const struct correlation *c = d->c;
    const int pixels = tile_pixels(outputs);
    ptrdiff_t first = block_begin(d, block), step = c->step_width * c->src_channels;
    const real *weight = d->weight + first * d->vectors * LANES;
    for (ptrdiff_t j = 0; j < count; j += pixels) {
        real sums[SUMS];
        for (ptrdiff_t e = 0; next && e < pixels * step; e += LINE)
            __builtin_prefetch(next + j * step + e, 0, 2);
        dot_tile(pixels, outputs, d, row, j * step, weight, d->bias + block * SUMS, sums);
        put_tile(pixels, outputs, c, at + j * c->dst_column + first, min_size(pixels, count - j), sums);
    }
}

static void run_dot(const void *context, ptrdiff_t task, void *scratch) {
    const struct dot *d = context;
    const struct correlation *c = d->c;
    ptrdiff_t strip = task % d->strips, band = task / d->strips % d->bands,
              image = task / d->strips / d->bands;
    ptrdiff_t x0 = strip * d->columns, x1 = min_size(x0 + d->columns, c->dst_width);
    ptrdiff_t y0 = c->dst_height * band / d->bands, y1 = c->dst_height * (band + 1) / d->bands;
    struct strip s = {.image = c->src + image * c->src_height * c->src_width * c->src_channels,
                      .x = x0 * c->step_width + c->x_min,
                      .width = source_width(d, x1 - x0),
                      .y = y0 * c->step_height + c->y_min,
                      .rows = scratch};
    const real **row = (const real **)(s.rows + d->slots * d->pitch);
    for (ptrdiff_t i = y0; i < y1; i++) {
        ptrdiff_t y = i * c->step_height + c->y_min;
        s.filled = max_size(s.filled, y - s.y); /* a large stride leaves some out */
        fill_rows(d, &s, y + d->slots);
        for (ptrdiff_t r = 0; r < d->runs; r++)
            row[r] = s.rows + (y - s.y + d->run[r].y) % d->slots * d->pitch + d->run[r].x * c->src_channels;
        ptrdiff_t y_next = y + d->slots;
        const real *next = y_next < c->src_height && i + 1 < y1
                               ? s.image + (y_next * c->src_width + max_size(s.x, 0)) * c->src_channels
                               : NULL;
        ptrdiff_t at = image * c->dst_image + i * c->dst_row + x0 * c->dst_column;
        for (ptrdiff_t b = 0; b < d->blocks; b++) switch (block_begin(d, b + 1) - block_begin(d, b)) {
            case 1: run_row(1, d, row, b ? NULL : next, at, x1 - x0, b); break;
            case 2: run_row(2, d, row, b ? NULL : next, at, x1 - x0, b); break;
            case 3: run_row(3, d, row, b ? NULL : next, at, x1 - x0, b); break;
            default: run_row(DOT_OUTPUTS, d, row, b ? NULL : next, at, x1 - x0, b); break;
            }
    }
}

/* ---- The whole correlation ---- */

static void plan(struct dot *d) {
    const struct correlation *c = d->c;
    d->runs = d->vectors = 0;
    for (ptrdiff_t t = 0, taps; t < c->taps; t += taps, d->runs++) {
        taps = run_length(c, t);
        d->vectors += ceil_div(taps * c->src_channels, LANES);
    }
    d->blocks = ceil_div(c->dst_channels, DOT_OUTPUTS);
    d->slots = c->y_max - c->y_min + 1;
    ptrdiff_t bytes = d->slots * COLUMNS * c->step_width * c->src_channels * (ptrdiff_t)sizeof(real);
    d->columns = max_size(ROWS_BYTES / bytes, 1) * COLUMNS;
    d->strips = ceil_div(c->dst_width, d->columns);
    ptrdiff_t width = source_width(d, min_size(d->columns, c->dst_width));
    d->pitch = ceil_div(width * c->src_channels, LANES) * LANES;
    d->bands = min_size(ceil_div(TASKS_WANTED, c->batch * d->strips), ceil_div(c->dst_height, d->slots));
}

static struct workspace space(const struct dot *d) {
    return (struct workspace){
        (size_t)(d->vectors * d->c->dst_channels * LANES + d->blocks * SUMS) * sizeof(real) +
            (size_t)d->runs * sizeof(struct dot_run),
        (size_t)(d->slots * d->pitch) * sizeof(real) + (size_t)d->runs * sizeof(real *),
    };
}

struct workspace VARIANT(correlate_dot_workspace)(const struct correlation *c) {
    struct dot d = {.c = c};
    plan(&d);
    return space(&d);
}

int VARIANT(correlate_dot)(const struct correlation *c) {
    struct dot d = {.c = c};
    plan(&d);
    struct workspace bytes = space(&d);
    if (!(d.weight = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
    d.bias = d.weight + d.vectors * c->dst_channels * LANES;
    d.run = (struct dot_run *)(d.bias + d.blocks * SUMS);
    list_runs(&d);
    pack(&d);
    pack_bias(&d);
    double work = (double)(c->batch * c->dst_height * c->dst_width) *
                  (double)(d.vectors * LANES * c->dst_channels) / MULTIPLY_ADDS_PER_NANOSECOND;
    int status = parallel_run(c->batch * d.bands * d.strips, work, bytes.scratch, run_dot, &d);
    pyconv_free(d.weight, bytes.shared);
    return status;
}
