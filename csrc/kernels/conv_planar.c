/* Correlations to few channels, with the lanes over pixels.
 *
 *     dst[i, j + l][k] = bias[k] + sum over taps t, channels c of
 *                        plane[i + t.y][c][j + t.x + l] * weight[t][c][k]
 *
 * A task owns some destination rows of one image and splits the source rows that these read into planes (see
 * planes.h), PLANES_BYTES of them, near L1. A tile of PLANAR_VECTORS vectors of pixels by up to
 * PLANAR_CHANNELS outputs stays in registers: 4 loads and 6 broadcasts for 24 fused multiply-adds. Its sums
 * are transposed back to [pixel][channel] as they are stored.
 */
#include "conv.h"
#include "conv_planar.h"
#include "parallel.h"
#include "planes.h"

#define PLANES_BYTES ((ptrdiff_t)64 << 10)

struct planar {
    const struct correlation *c;
    ptrdiff_t width, plane; /* source columns that a destination row reads; elements of a plane's row */
    struct bands bands;     /* of which each is a task */
    ptrdiff_t strips;       /* vectors to a destination row */
    ptrdiff_t blocks;       /* of at most PLANAR_CHANNELS outputs */
    real *weight;           /* [block][tap][channel][outputs of the block] */
    ptrdiff_t *offset;      /* of each (tap, channel) in the planes */
};

static ptrdiff_t block_begin(const struct planar *p, ptrdiff_t block) {
    return p->c->dst_channels * block / p->blocks;
}

static void pack(const struct planar *p) {
    const struct correlation *c = p->c;
    real *to = p->weight;
    for (ptrdiff_t b = 0; b < p->blocks; b++)
        for (ptrdiff_t t = 0; t < c->taps; t++)
            for (ptrdiff_t i = 0; i < c->src_channels; i++)
                for (ptrdiff_t k = block_begin(p, b); k < block_begin(p, b + 1); k++)
                    *to++ = c->weight[k * c->weight_dst + i * c->weight_src + c->tap[t].index];
    ptrdiff_t *offset = p->offset;
    for (ptrdiff_t t = 0; t < c->taps; t++)
        for (ptrdiff_t i = 0; i < c->src_channels; i++)
            *offset++ = ((c->tap[t].y - c->y_min) * c->src_channels + i) * p->plane + c->tap[t].x - c->x_min;
}

/* LANES pixels of `outputs` channels each, [channel][pixel] in vectors, to [pixel][pitch], by perfect
 * shuffles; pitch: 4 or 8. */
INLINE void join_channels(const int outputs, const int pitch, const vec *sum, real *rows) {
    vec row[8];
    UNROLL for (int k = 0; k < pitch; k++) row[k] = k < outputs ? sum[k] : (vec){0};
    UNROLL for (int size = 1; size < pitch; size *= 2) {
        vec mixed[8];
        UNROLL for (int k = 0; k < pitch / 2; k++) {
            mixed[2 * k] = zip_low(row[k], row[k + pitch / 2]);
            mixed[2 * k + 1] = zip_high(row[k], row[k + pitch / 2]);
        }
        UNROLL for (int k = 0; k < pitch; k++) row[k] = mixed[k];
    }
    UNROLL for (int k = 0; k < pitch; k++) store(rows + k * LANES, row[k]);
}

/* Where a vector of pixels is read, and where it goes. */
struct strip {
    const real *planes;
    ptrdiff_t dst, pixels;
};

INLINE void put_strip(const int outputs, const struct planar *p, const struct strip *strip, ptrdiff_t first,
                      const vec *sum) {
    const struct correlation *c = p->c;
    const int pitch = outputs <= 4 ? 4 : 8;
    const real *residual = c->epilogue.residual;
    real rows[8 * LANES];
    join_channels(outputs, pitch, sum, rows);
    for (ptrdiff_t l = 0; l < strip->pixels; l++) {
        ptrdiff_t at = strip->dst + l * c->dst_column + first;
        for (int k = 0; k < outputs; k += LANES) {
            ptrdiff_t lanes = min_size(LANES, outputs - k);
            vec value = load_first(rows + l * pitch + k, lanes);
            if (residual) value += load_first(residual + at + k, lanes);
            if (c->epilogue.relu) value = choose(value < 0, (vec){0}, value);
            store_first(c->dst + at + k, value, lanes);
        }
    }
}

INLINE void planar_tile(const int outputs, const struct planar *p, const struct strip *strip,
                        ptrdiff_t strips, ptrdiff_t block) {
    const struct correlation *c = p->c;
    ptrdiff_t first = block_begin(p, block), steps = c->taps * c->src_channels;
    const real *bias = c->epilogue.bias, *weight = p->weight + first * steps;
    vec total[PLANAR_VECTORS][PLANAR_CHANNELS];
    UNROLL for (int v = 0; v < PLANAR_VECTORS; v++) UNROLL for (int k = 0; k < outputs; k++) total[v][k] =
        splat(bias ? bias[first + k] : 0);
    ptrdiff_t chunks = ceil_div(steps, CHUNK), j = 0; /* of which each is summed by itself: see tile.h */
    for (ptrdiff_t chunk = 1; chunk <= chunks; chunk++) {
        vec sum[PLANAR_VECTORS][PLANAR_CHANNELS];
        UNROLL for (int v = 0; v < PLANAR_VECTORS; v++) UNROLL for (int k = 0; k < outputs; k++) sum[v][k] =
            (vec){0};
        for (ptrdiff_t end = steps * chunk / chunks; j < end; j++, weight += outputs) {
            vec x[PLANAR_VECTORS];
            UNROLL for (int v = 0; v < PLANAR_VECTORS; v++) x[v] =
                in_register(load(strip[v].planes + p->offset[j]));
            UNROLL for (int k = 0; k < outputs; k++) {
                vec w = splat(weight[k]);
                UNROLL for (int v = 0; v < PLANAR_VECTORS; v++) sum[v][k] += x[v] * w;
            }
        }
        UNROLL for (int v = 0; v < PLANAR_VECTORS; v++) UNROLL for (int k = 0; k < outputs; k++)
            total[v][k] += sum[v][k];
    }
    for (ptrdiff_t v = 0; v < strips; v++) put_strip(outputs, p, strip + v, first, total[v]);
}

static void run_tile(const struct planar *p, const struct strip *strip, ptrdiff_t strips, ptrdiff_t block) {
    switch (block_begin(p, block + 1) - block_begin(p, block)) {
    case 1: planar_tile(1, p, strip, strips, block); break;
    case 2: planar_tile(2, p, strip, strips, block); break;
    case 3: planar_tile(3, p, strip, strips, block); break;
    case 4: planar_tile(4, p, strip, strips, block); break;
    case 5: planar_tile(5, p, strip, strips, block); break;
    default: planar_tile(6, p, strip, strips, block); break;
    }
}

static void run_planar(const void *context, ptrdiff_t task, void *scratch) {
    const struct planar *p = context;
    const struct correlation *c = p->c;
    ptrdiff_t band = task % p->bands.count, image = task / p->bands.count;
    ptrdiff_t first = c->dst_height * band / p->bands.count,
              end = c->dst_height * (band + 1) / p->bands.count;
    const real *planes = scratch;
    split_source(c, image, first, end, p->width, p->plane, scratch);
    ptrdiff_t strips = (end - first) * p->strips;
    for (ptrdiff_t s = 0; s < strips; s += PLANAR_VECTORS) {
        struct strip strip[PLANAR_VECTORS];
        ptrdiff_t count = min_size(PLANAR_VECTORS, strips - s);
        for (ptrdiff_t v = 0; v < PLANAR_VECTORS; v++) { /* too few: the last one is repeated */
            ptrdiff_t at = s + min_size(v, count - 1), i = at / p->strips, j = at % p->strips;
            strip[v] =
                (struct strip){planes + i * c->step_height * c->src_channels * p->plane + j * LANES,
                               image * c->dst_image + (first + i) * c->dst_row + j * LANES * c->dst_column,
                               min_size(LANES, c->dst_width - j * LANES)};
        }
        for (ptrdiff_t b = 0; b < p->blocks; b++) run_tile(p, strip, count, b);
    }
}

static void plan(struct planar *p) {
    const struct correlation *c = p->c;
    p->blocks = ceil_div(c->dst_channels, PLANAR_CHANNELS);
    p->strips = ceil_div(c->dst_width, LANES);
    p->width = c->dst_width + c->x_max - c->x_min;
    p->plane = plane_pitch(p->width);
    p->bands = cut_bands(c, c->src_channels * p->plane * (ptrdiff_t)sizeof(real), PLANES_BYTES);
}

static struct workspace space(const struct planar *p) {
    ptrdiff_t steps = p->c->taps * p->c->src_channels;
    return (struct workspace){
        (size_t)(steps * p->c->dst_channels) * sizeof(real) + (size_t)(steps + 1) * sizeof(ptrdiff_t),
        (size_t)(p->bands.source_rows * p->c->src_channels * p->plane) * sizeof(real),
    };
}

struct workspace VARIANT(correlate_planar_workspace)(const struct correlation *c) {
    struct planar p = {.c = c};
    plan(&p);
    return space(&p);
}

int VARIANT(correlate_planar)(const struct correlation *c) {
    struct planar p = {.c = c};
    plan(&p);
    struct workspace bytes = space(&p);
    if (!(p.offset = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
    p.weight = (real *)(p.offset + c->taps * c->src_channels);
    pack(&p);
    double work = (double)(c->batch * c->dst_height * p.strips * LANES) *
                  (double)(c->taps * c->src_channels) * (double)c->dst_channels /
                  MULTIPLY_ADDS_PER_NANOSECOND;
    int status = parallel_run(c->batch * p.bands.count, work, bytes.scratch, run_planar, &p);
    pyconv_free(p.offset, bytes.shared);
    return status;
}
