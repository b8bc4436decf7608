/* Correlations of many small groups, as in ResNeXt (32 groups of 4 to 8 channels).
 *
 *     dst[pixel][group, k] = bias + sum over taps t, channels c of
 *                            src[pixel's place + t][group, c] * weight[t][c][k]
 *
 * A task owns some destination rows of one image and goes through them in strips of GROUPED_PIXELS columns,
 * one bundle of groups after the other (see conv_grouped.h). What a strip and bundle read is copied, with its
 * padding, to a scratch of COPY_BYTES in L1; then a tile of pixels keeps its sums in registers. Three taps
 * side by side share what they load: 16 source vectors, permuted, and 3 of weights for 42 fused
 * multiply-adds.
 */
#include "conv.h"
#include "conv_grouped.h"
#include "parallel.h"

#define COPY_BYTES ((ptrdiff_t)24 << 10)

struct grouped {
    const struct correlation *c;
    struct bundles bundles;
    real *packed; /* [bundle][tap][c][LANES], then [bundle][LANES] of bias */
    ptrdiff_t bundle_elements;
    ivec first;              /* see first_channels */
    int fused;               /* taps come in threes side by side, and steps are 1 across */
    ptrdiff_t strips, width; /* of an image; source columns that one reads, at most */
    struct bands bands;      /* a task is one of these, for a share of the bundles where they are few */
    ptrdiff_t shares;
};

static void pack_bundle(const void *context, ptrdiff_t bundle, void *scratch) {
    (void)scratch;
    const struct grouped *g = context;
    const struct correlation *c = g->c;
    const struct bundles *b = &g->bundles;
    real *packed = g->packed + bundle * g->bundle_elements;
    real *bias = g->packed + b->count * g->bundle_elements + bundle * LANES;
    ptrdiff_t lanes = groups_of(b, bundle) * b->dst, first = bundle * b->groups_each;
    for (ptrdiff_t l = 0; l < LANES; l++) {
        ptrdiff_t group = first + l / b->dst, k = l % b->dst;
        const real *weight = c->weight + group * c->weight_group + k * c->weight_dst;
        for (ptrdiff_t t = 0; t < c->taps; t++)
            for (ptrdiff_t i = 0; i < b->src; i++)
                packed[(t * b->src + i) * LANES + l] =
                    l < lanes ? weight[i * c->weight_src + c->tap[t].index] : 0;
        const real *from = c->epilogue.bias;
        bias[l] = from && l < lanes ? from[first * b->dst + l] : 0;
    }
}

/* sum[m] += over all taps (one at a time, or FUSED) and channels; alone: the bundle is one group, all of
 * whose lanes read the same channel */
INLINE void add_taps(const int pixels, const int fused, const int alone, const struct grouped *g,
                     const real *x, const real *weight, vec *sum) {
    const struct correlation *c = g->c;
    const ptrdiff_t channels = g->bundles.src, step = c->step_width * LANES;
    const ivec first = g->first;
    for (ptrdiff_t t = 0; t < c->taps; t += fused) {
        const real *p = x + ((c->tap[t].y - c->y_min) * g->width + c->tap[t].x - c->x_min) * LANES;
        ivec index = first;
        for (ptrdiff_t i = 0; i < channels; i++, weight += LANES, index += 1) {
            vec w[FUSED];
            UNROLL for (int s = 0; s < fused; s++) w[s] = load(weight + s * channels * LANES);
            if (fused == 1)
                UNROLL for (int m = 0; m < pixels; m++) sum[m] +=
                    permute_lanes(load(p + m * step), index) * w[0];
            else
                UNROLL for (int j = 0; j < pixels + fused - 1; j++) {
                    vec value = alone ? splat(p[j * LANES + i]) : permute_lanes(load(p + j * LANES), index);
                    UNROLL for (int s = 0; s < fused; s++) if (j - s >= 0 && j - s < pixels) sum[j - s] +=
                        value * w[s];
                }
        }
        weight += (fused - 1) * channels * LANES;
    }
}

INLINE void grouped_tile(const int pixels, const int fused, const int alone, const struct grouped *g,
                         ptrdiff_t bundle, const real *x, ptrdiff_t offset, ptrdiff_t lanes) {
    const struct correlation *c = g->c;
    const real *weight = g->packed + bundle * g->bundle_elements;
    vec bias = load(g->packed + g->bundles.count * g->bundle_elements + bundle * LANES), sum[GROUPED_PIXELS];
    UNROLL for (int m = 0; m < pixels; m++) sum[m] = bias;
    add_taps(pixels, fused, alone, g, x, weight, sum);
    UNROLL for (int m = 0; m < pixels; m++)
        store_output(c, c->dst + offset + m * c->dst_column, lanes, sum[m]);
}

#define GROUPED(m, fused, alone) grouped_tile(m, fused, alone, g, bundle, x, offset, lanes)

static void tile_fused(ptrdiff_t size, const struct grouped *g, ptrdiff_t bundle, const real *x,
                       ptrdiff_t offset, ptrdiff_t lanes) {
    DISPATCH_OUTER(size, GROUPED, FUSED, 0)
}

static void tile_alone(ptrdiff_t size, const struct grouped *g, ptrdiff_t bundle, const real *x,
                       ptrdiff_t offset, ptrdiff_t lanes) {
    DISPATCH_OUTER(size, GROUPED, FUSED, 1)
}

static void tile_single(ptrdiff_t size, const struct grouped *g, ptrdiff_t bundle, const real *x,
                        ptrdiff_t offset, ptrdiff_t lanes) {
    DISPATCH_OUTER(size, GROUPED, 1, 0)
}

static void run_grouped(const void *context, ptrdiff_t task, void *scratch) {
    const struct grouped *g = context;
    const struct correlation *c = g->c;
    const struct bundles *b = &g->bundles;
    ptrdiff_t share = task % g->shares, band = task / g->shares % g->bands.count,
              image = task / g->shares / g->bands.count;
    ptrdiff_t begin = b->count * share / g->shares, stop = b->count * (share + 1) / g->shares;
    ptrdiff_t first = c->dst_height * band / g->bands.count,
              end = c->dst_height * (band + 1) / g->bands.count;
    ptrdiff_t row = c->step_height * g->width * LANES;
    for (ptrdiff_t s = 0; s < g->strips; s++)
        for (ptrdiff_t bundle = begin; bundle < stop; bundle++) {
            ptrdiff_t j = c->dst_width * s / g->strips, size = c->dst_width * (s + 1) / g->strips - j;
            copy_rows(c, b, image, bundle, first, end, j, size, g->width, 1, scratch);
            for (ptrdiff_t i = first; i < end; i++) {
                ptrdiff_t offset = image * c->dst_image + i * c->dst_row + j * c->dst_column +
                                   bundle * b->groups_each * b->dst;
                (!g->fused             ? tile_single
                 : b->groups_each == 1 ? tile_alone
                                       : tile_fused)(size, g, bundle,
                                                     (const real *)scratch + (i - first) * row, offset,
                                                     groups_of(b, bundle) * b->dst);
            }
        }
}

static void plan(struct grouped *g) {
    const struct correlation *c = g->c;
    g->bundles = make_bundles(c->groups, c->src_channels, c->dst_channels);
    g->bundle_elements = c->taps * c->src_channels * LANES;
    g->first = first_channels(&g->bundles);
    g->fused = comes_in_threes(c);
    g->strips = ceil_div(c->dst_width, GROUPED_PIXELS);
    g->width = (ceil_div(c->dst_width, g->strips) - 1) * c->step_width + c->x_max - c->x_min + 1;
    g->bands = cut_bands(c, g->width * VECTOR_BYTES, COPY_BYTES);
    g->shares = bundle_shares(&g->bundles, c->batch * g->bands.count);
}

static struct workspace space(const struct grouped *g) {
    return (struct workspace){
        (size_t)(g->bundles.count * (g->bundle_elements + LANES)) * sizeof(real),
        (size_t)(g->bands.source_rows * g->width) * VECTOR_BYTES,
    };
}

struct workspace VARIANT(correlate_grouped_workspace)(const struct correlation *c) {
    struct grouped g = {.c = c};
    plan(&g);
    return space(&g);
}

int VARIANT(correlate_grouped)(const struct correlation *c) {
    struct grouped g = {.c = c};
    plan(&g);
    struct workspace bytes = space(&g);
    if (!(g.packed = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
    ptrdiff_t elements = g.bundles.count * g.bundle_elements, bands = c->batch * g.bands.count;
    double work = (double)(c->batch * c->dst_height * c->dst_width) * (double)elements;
    int status = parallel_run(g.bundles.count, (double)elements, 0, pack_bundle, &g);
    if (status == PYCONV_OK)
        status = parallel_run(bands * g.shares, work / MULTIPLY_ADDS_PER_NANOSECOND, bytes.scratch,
                              run_grouped, &g);
    pyconv_free(g.packed, bytes.shared);
    return status;
}
