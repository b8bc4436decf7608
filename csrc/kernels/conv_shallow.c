/* Correlations of few source channels with a step of 1, as most networks' first layers are.
 *
 *     dst[i, j][k] = bias[k] + sum over kernel rows r, channels c and taps s of
 *                    plane[i * step_height + r][c][j + s] * weight[r][c][s][k]
 *
 * A pixel's channels are a run too short to loop over. So a task splits the source rows that it reads into
 * planes (see planes.h), PLANES_BYTES of them, near L1. There the pixels of a tile lie side by side: one
 * pointer addresses all of them, and taps that do so, too, share what they load. 10 pixels by two vectors of
 * filters are 20 sums + 6 weights of three taps + 1 broadcast = 27 of 32 registers, where 12 broadcasts and 6
 * loads feed 60 fused multiply-adds (11 or 12 pixels would fit, but make GCC spill). Fewer sums than 8 would
 * wait for each other: a tap adds to what the one before has left.
 */
#include "conv.h"
#include "parallel.h"
#include "planes.h"

#define PLANES_BYTES ((ptrdiff_t)64 << 10)
#define VECTORS 2 /* of a block of filters */
#define FUSED 3   /* taps side by side that share what they load */
/* Pixels of a tile: of two vectors, of one, and where that wastes less at the end of a row */
#define PIXELS 10
#define ALONE_PIXELS 16
#define FEW_PIXELS 8

struct shallow {
    const struct correlation *c;
    ptrdiff_t width, plane; /* source columns that a destination row reads; elements of a plane's row */
    struct bands bands;     /* of which each is a task */
    ptrdiff_t rows, length; /* of the kernel: its taps are `rows` times `length` */
    ptrdiff_t vectors;      /* of filters, in blocks of VECTORS; the last one may be of one */
    ptrdiff_t elements;     /* of the reduction */
    ptrdiff_t large[2];     /* columns of a row that the larger tiles of one and two vectors do */
    real *bias, *weight;    /* [vector]; [block][r][fused taps][c][tap][vector of the block] */
};

static void pack(const struct shallow *p) {
    const struct correlation *c = p->c;
    const real *bias = c->epilogue.bias;
    real *to = p->weight;
    for (ptrdiff_t k = 0; k < p->vectors * LANES; k++) p->bias[k] = bias && k < c->dst_channels ? bias[k] : 0;
    for (ptrdiff_t first = 0; first < p->vectors * LANES; first += VECTORS * LANES)
        for (ptrdiff_t r = 0; r < p->rows; r++)
            for (ptrdiff_t s0 = 0; s0 < p->length; s0 += FUSED)
                for (ptrdiff_t i = 0; i < c->src_channels; i++)
                    for (ptrdiff_t s = s0; s < min_size(s0 + FUSED, p->length); s++)
                        for (ptrdiff_t k = first; k < min_size(first + VECTORS * LANES, p->vectors * LANES);
                             k++)
                            *to++ = k < c->dst_channels ? c->weight[k * c->weight_dst + i * c->weight_src +
                                                                    c->tap[r * p->length + s].index]
                                                        : 0;
}

/* sum[m] += what `taps` taps side by side read of one channel, x[m + tap], times their weights */
INLINE void add_taps(const int pixels, const int vectors, const int taps, const real *x, const real *weight,
                     vec (*sum)[VECTORS]) {
    vec w[FUSED][VECTORS];
    UNROLL for (int s = 0; s < taps; s++) UNROLL for (int v = 0; v < vectors; v++) w[s][v] =
        in_register(load(weight + (s * vectors + v) * LANES));
    UNROLL for (int j = 0; j < pixels - 1 + taps; j++) {
        vec value = splat(x[j]);
        UNROLL for (int s = 0; s < taps; s++) {
            const int m = j - s;
            if (m >= 0 && m < pixels) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += value * w[s][v];
        }
    }
}

/* The same of all channels. Returns where the next weights begin. */
INLINE const real *add_channels(const int pixels, const int vectors, const int taps, const struct shallow *p,
                                const real *x, const real *weight, vec (*sum)[VECTORS]) {
    for (ptrdiff_t i = p->c->src_channels; i > 0; i--, x += p->plane, weight += taps * vectors * LANES)
        add_taps(pixels, vectors, taps, x, weight, sum);
    return weight;
}

/* Store `count` of a tile's pixels from dst on, + residual, max(., 0): `lanes` lanes of the last vector. */
INLINE void put_tile(const int pixels, const int vectors, const struct correlation *c, real *dst,
                     ptrdiff_t count, ptrdiff_t lanes, vec (*sum)[VECTORS]) {
    if (c->epilogue.residual) {
        const real *residual = (const real *)c->epilogue.residual + (dst - c->dst);
        UNROLL for (int m = 0; m < pixels; m++) if (m < count) UNROLL for (int v = 0; v < vectors; v++) {
            const real *from = residual + m * c->dst_column + v * LANES;
            sum[m][v] += v == vectors - 1 ? load_first(from, lanes) : load(from);
        }
    }
    if (c->epilogue.relu)
        UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] =
            choose(sum[m][v] < 0, (vec){0}, sum[m][v]);
    if (lanes == LANES) {
        UNROLL for (int m = 0; m < pixels; m++) if (m < count) UNROLL for (int v = 0; v < vectors; v++)
            store(dst + m * c->dst_column + v * LANES, sum[m][v]);
    } else {
        UNROLL for (int m = 0; m < pixels; m++) if (m < count) UNROLL for (int v = 0; v < vectors; v++) {
            real *to = dst + m * c->dst_column + v * LANES;
            if (v == vectors - 1)
                store_first(to, sum[m][v], lanes);
            else
                store(to, sum[m][v]);
        }
    }
}

/* One block of filters, from `first` on, of a row's pixels, from `column` on until `end` is reached. */
INLINE void run_tiles(const int pixels, const int vectors, const struct shallow *p, const real *planes,
                      ptrdiff_t column, ptrdiff_t end, ptrdiff_t first, real *dst) {
    const struct correlation *c = p->c;
    ptrdiff_t lanes = min_size(LANES, c->dst_channels - first - (vectors - 1) * LANES);
    for (; column < end; column += pixels) {
        vec sum[ALONE_PIXELS][VECTORS];
        UNROLL for (int m = 0; m < pixels; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] =
            load(p->bias + first + v * LANES);
        const real *weight = p->weight + first * p->elements, *row = planes + column;
        for (ptrdiff_t r = 0; r < p->rows; r++, row += c->src_channels * p->plane)
            for (ptrdiff_t s = 0; s < p->length; s += FUSED) switch (p->length - s) {
                case 1: weight = add_channels(pixels, vectors, 1, p, row + s, weight, sum); break;
                case 2: weight = add_channels(pixels, vectors, 2, p, row + s, weight, sum); break;
                default: weight = add_channels(pixels, vectors, FUSED, p, row + s, weight, sum); break;
                }
        put_tile(pixels, vectors, c, dst + column * c->dst_column + first,
                 min_size(pixels, c->dst_width - column), lanes, sum);
    }
}

INLINE void run_row(const int vectors, const struct shallow *p, const real *x, ptrdiff_t first, real *dst) {
    ptrdiff_t width = p->c->dst_width, large = p->large[vectors - 1];
    if (large) run_tiles(vectors == 1 ? ALONE_PIXELS : PIXELS, vectors, p, x, 0, large, first, dst);
    if (large < width) run_tiles(FEW_PIXELS, vectors, p, x, large, width, first, dst);
}

static void row_2(const struct shallow *p, const real *x, ptrdiff_t first, real *dst) {
    run_row(2, p, x, first, dst);
}

static void row_1(const struct shallow *p, const real *x, ptrdiff_t first, real *dst) {
    run_row(1, p, x, first, dst);
}

static void run_shallow(const void *context, ptrdiff_t task, void *scratch) {
    const struct shallow *p = context;
    const struct correlation *c = p->c;
    ptrdiff_t band = task % p->bands.count, image = task / p->bands.count;
    ptrdiff_t begin = c->dst_height * band / p->bands.count,
              end = c->dst_height * (band + 1) / p->bands.count;
    const real *planes = scratch;
    split_source(c, image, begin, end, p->width, p->plane, scratch);
    for (ptrdiff_t i = begin; i < end; i++, planes += c->step_height * c->src_channels * p->plane)
        for (ptrdiff_t v = 0; v < p->vectors; v += VECTORS) {
            real *dst = c->dst + image * c->dst_image + i * c->dst_row;
            (p->vectors - v == 1 ? row_1 : row_2)(p, planes, v * LANES, dst);
        }
}

/* The columns for tiles of `pixels`, the rest being for those of FEW_PIXELS: so many of each that the fewest
 * lie beyond the row's end. */
static ptrdiff_t large_columns(ptrdiff_t width, ptrdiff_t pixels) {
    ptrdiff_t least = PTRDIFF_MAX, large = 0;
    for (ptrdiff_t few = 0; few < pixels; few++) {
        ptrdiff_t most = ceil_div(max_size(width - few * FEW_PIXELS, 0), pixels) * pixels;
        if (most + few * FEW_PIXELS < least) least = most + few * FEW_PIXELS, large = most;
    }
    return large;
}

static void plan(struct shallow *p) {
    const struct correlation *c = p->c;
    p->length = c->x_max - c->x_min + 1;
    p->rows = c->taps / p->length;
    p->vectors = ceil_div(c->dst_channels, LANES);
    p->elements = c->taps * c->src_channels;
    p->large[0] = large_columns(c->dst_width, ALONE_PIXELS);
    p->large[1] = large_columns(c->dst_width, PIXELS);
    p->width = c->dst_width + p->length - 1;
    p->plane = plane_pitch(p->width + ALONE_PIXELS);
    p->bands = cut_bands(c, c->src_channels * p->plane * (ptrdiff_t)sizeof(real), PLANES_BYTES);
}

static struct workspace space(const struct shallow *p) {
    return (struct workspace){
        (size_t)((p->elements + 1) * p->vectors * LANES) * sizeof(real),
        (size_t)(p->bands.source_rows * p->c->src_channels * p->plane) * sizeof(real),
    };
}

struct workspace VARIANT(correlate_shallow_workspace)(const struct correlation *c) {
    struct shallow p = {.c = c};
    plan(&p);
    return space(&p);
}

int VARIANT(correlate_shallow)(const struct correlation *c) {
    struct shallow p = {.c = c};
    plan(&p);
    struct workspace bytes = space(&p);
    if (!(p.bias = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
    p.weight = p.bias + p.vectors * LANES;
    pack(&p);
    double work =
        (double)(c->batch * c->dst_height * c->dst_width) * (double)(p.elements * p.vectors * LANES);
    int status = parallel_run(c->batch * p.bands.count, work / MULTIPLY_ADDS_PER_NANOSECOND, bytes.scratch,
                              run_shallow, &p);
    pyconv_free(p.bias, bytes.shared);
    return status;
}
