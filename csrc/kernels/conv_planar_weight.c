/* The gradient of the weight of few filters, with the lanes over pixels.
 *
 *     grad_weight[k][c][t] = sum over rows i, columns j of
 *                            grad_output[i][k][j] * input[i * step + t.y][c][j + t.x]
 *
 * Both operands are split into planes (see planes.h), a band of output rows at a time, BAND_BYTES, in
 * L2. PLANAR_VECTORS elements (t, c) by up to PLANAR_CHANNELS filters are sums in registers, a vector of
 * partial sums for each, while the columns stream past: 4 + 6 loads for 24 fused multiply-adds.
 *
 * The bands are cut into `parts` that each sum up for themselves; these are added in ascending order, so the
 * result does not depend on the number of threads.
 */
#include "conv.h"
#include "conv_planar.h"
#include "parallel.h"
#include "planes.h"

#define BAND_BYTES ((ptrdiff_t)64 << 10)
#define MOST_PARTS ((ptrdiff_t)16)

struct planar_weight {
    const struct correlation *c; /* of the forward pass; src is the input */
    const real *grad_output;
    ptrdiff_t width, plane, grad_plane; /* of the input's rows and planes; of the gradient's planes */
    ptrdiff_t bands, rows, source_rows; /* bands to an image; rows of the largest */
    ptrdiff_t steps;                    /* elements (t, c) */
    ptrdiff_t parts;
    real *sums; /* [part][step][filter] */
};

struct scratch {
    real *input, *gradient, *sums; /* sums: [step][filter][LANES] */
    ptrdiff_t *offset;             /* of each step in the input's planes */
};

/* sum[e][k] += for the elements `offset` and `filters` filters from `first` on, over a band */
INLINE void add_elements(const int filters, const struct planar_weight *w, const struct scratch *s,
                         const ptrdiff_t *offset, ptrdiff_t first, ptrdiff_t rows,
                         vec (*sum)[PLANAR_CHANNELS]) {
    const struct correlation *c = w->c;
    for (ptrdiff_t i = 0; i < rows; i++) {
        const real *x = s->input + i * c->step_height * c->src_channels * w->plane;
        const real *g = s->gradient + (i * c->dst_channels + first) * w->grad_plane;
        for (ptrdiff_t j = 0; j < c->dst_width; j += LANES) {
            ptrdiff_t lanes = c->dst_width - j;
            vec value[PLANAR_VECTORS];
            UNROLL for (int e = 0; e < PLANAR_VECTORS; e++) {
                const real *from = x + offset[e] + j; /* beyond the row's end there may be infinities */
                value[e] = in_register(load_some(from, lanes));
            }
            UNROLL for (int k = 0; k < filters; k++) {
                vec gradient = in_register(load(g + k * w->grad_plane + j));
                UNROLL for (int e = 0; e < PLANAR_VECTORS; e++) sum[e][k] += value[e] * gradient;
            }
        }
    }
}

INLINE void add_tile(const int filters, const struct planar_weight *w, const struct scratch *s,
                     ptrdiff_t step, ptrdiff_t first, ptrdiff_t rows) {
    ptrdiff_t there = min_size(PLANAR_VECTORS, w->steps - step), offset[PLANAR_VECTORS];
    vec sum[PLANAR_VECTORS][PLANAR_CHANNELS];
    UNROLL for (int e = 0; e < PLANAR_VECTORS; e++) UNROLL for (int k = 0; k < filters; k++) sum[e][k] =
        (vec){0};
    for (int e = 0; e < PLANAR_VECTORS; e++) offset[e] = s->offset[step + min_size(e, there - 1)];
    add_elements(filters, w, s, offset, first, rows, sum);
    UNROLL for (int e = 0; e < PLANAR_VECTORS; e++) UNROLL for (int k = 0; k < filters; k++) {
        real *to = s->sums + ((step + e) * w->c->dst_channels + first + k) * LANES;
        if (e < there) store(to, load(to) + sum[e][k]);
    }
}

static void add_band(const struct planar_weight *w, const struct scratch *s, ptrdiff_t rows) {
    ptrdiff_t blocks = ceil_div(w->c->dst_channels, PLANAR_CHANNELS);
    for (ptrdiff_t b = 0; b < blocks; b++) {
        ptrdiff_t first = w->c->dst_channels * b / blocks,
                  filters = w->c->dst_channels * (b + 1) / blocks - first;
        for (ptrdiff_t step = 0; step < w->steps; step += PLANAR_VECTORS) switch (filters) {
            case 1: add_tile(1, w, s, step, first, rows); break;
            case 2: add_tile(2, w, s, step, first, rows); break;
            case 3: add_tile(3, w, s, step, first, rows); break;
            case 4: add_tile(4, w, s, step, first, rows); break;
            case 5: add_tile(5, w, s, step, first, rows); break;
            default: add_tile(6, w, s, step, first, rows); break;
            }
    }
}

static void run_part(const void *context, ptrdiff_t part, void *memory) {
    const struct planar_weight *w = context;
    const struct correlation *c = w->c;
    struct scratch s = {.input = memory};
    s.gradient = s.input + w->source_rows * c->src_channels * w->plane;
    s.sums = s.gradient + w->rows * c->dst_channels * w->grad_plane;
    s.offset = (ptrdiff_t *)(s.sums + w->steps * c->dst_channels * LANES);
    for (ptrdiff_t t = 0, step = 0; t < c->taps; t++)
        for (ptrdiff_t i = 0; i < c->src_channels; i++)
            s.offset[step++] =
                ((c->tap[t].y - c->y_min) * c->src_channels + i) * w->plane + c->tap[t].x - c->x_min;
    memset(s.sums, 0, (size_t)(w->steps * c->dst_channels * LANES) * sizeof(real));

    ptrdiff_t bands = c->batch * w->bands, row = c->dst_width * c->dst_channels;
    for (ptrdiff_t b = bands * part / w->parts; b < bands * (part + 1) / w->parts; b++) {
        ptrdiff_t image = b / w->bands, band = b % w->bands;
        ptrdiff_t first = c->dst_height * band / w->bands, end = c->dst_height * (band + 1) / w->bands;
        split_source(c, image, first, end, w->width, w->plane, s.input);
        for (ptrdiff_t i = first; i < end; i++) {
            real *to = s.gradient + (i - first) * c->dst_channels * w->grad_plane;
            memset(to, 0, (size_t)(c->dst_channels * w->grad_plane) * sizeof(real));
            split_planes(w->grad_output + (image * c->dst_height + i) * row, c->dst_width, c->dst_channels,
                         c->dst_channels, to, w->grad_plane);
        }
        add_band(w, &s, end - first);
    }
    for (ptrdiff_t i = 0; i < w->steps * c->dst_channels; i++)
        w->sums[part * w->steps * c->dst_channels + i] = sum_lanes(load(s.sums + i * LANES));
}

static void plan(struct planar_weight *w) {
    const struct correlation *c = w->c;
    w->width = c->dst_width + c->x_max - c->x_min;
    w->plane = plane_pitch(w->width);
    w->grad_plane = ceil_div(c->dst_width, LANES) * LANES;
    w->steps = c->taps * c->src_channels;
    ptrdiff_t reach = c->y_max - c->y_min + 1, input_row = c->src_channels * w->plane;
    ptrdiff_t fit = (BAND_BYTES / (ptrdiff_t)sizeof(real) - reach * input_row) /
                    (c->step_height * input_row + c->dst_channels * w->grad_plane);
    w->bands = ceil_div(c->dst_height, min_size(max_size(fit, 1), c->dst_height));
    w->rows = ceil_div(c->dst_height, w->bands);
    w->source_rows = (w->rows - 1) * c->step_height + reach;
    w->parts = min_size(MOST_PARTS, c->batch * w->bands);
}

static struct workspace space(const struct planar_weight *w) {
    const struct correlation *c = w->c;
    ptrdiff_t elements = w->source_rows * c->src_channels * w->plane +
                         w->rows * c->dst_channels * w->grad_plane + w->steps * c->dst_channels * LANES;
    return (struct workspace){(size_t)(w->parts * w->steps * c->dst_channels) * sizeof(real),
                              (size_t)elements * sizeof(real) + (size_t)w->steps * sizeof(ptrdiff_t)};
}

struct workspace VARIANT(grad_weight_planar_workspace)(const struct correlation *c) {
    struct planar_weight w = {.c = c};
    plan(&w);
    return space(&w);
}

int VARIANT(grad_weight_planar)(const struct correlation *c, const real *grad_output, real *grad_weight) {
    struct planar_weight w = {.c = c, .grad_output = grad_output};
    plan(&w);
    struct workspace bytes = space(&w);
    if (!(w.sums = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
    ptrdiff_t count = w.steps * c->dst_channels;
    double work = (double)(c->batch * c->dst_height * w.grad_plane) * (double)count;
    int status = parallel_run(w.parts, work / MULTIPLY_ADDS_PER_NANOSECOND, bytes.scratch, run_part, &w);
    if (status == PYCONV_OK) {
        sum_parts(w.sums, w.parts, count, 0, count, w.sums);
        for (ptrdiff_t t = 0; t < c->taps; t++)
            for (ptrdiff_t i = 0; i < c->src_channels; i++)
                for (ptrdiff_t k = 0; k < c->dst_channels; k++)
                    grad_weight[(k * c->src_channels + i) * c->taps + t] =
                        w.sums[(t * c->src_channels + i) * c->dst_channels + k];
    }
    pyconv_free(w.sums, bytes.shared);
    return status;
}
