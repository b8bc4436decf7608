/* The gradient of the weight of many small groups.
 *
 *     grad_weight[group, k][c][t] = sum over pixels p of
 *                                   grad_output[p][group, k] * input[p's place + t][group, c]
 *
 * Lanes hold the filters of a bundle of groups (see conv_grouped.h). A band of output rows and what they read
 * of the input are copied bundle by bundle, with their padding, to BAND_BYTES. Then FUSED taps times CHANNELS
 * channels are 12 sums in registers while the columns stream past. Where the taps are side by side, a source
 * vector and a gradient are loaded, and the former permuted CHANNELS times, for 12 fused multiply-adds. A
 * group that fills a vector alone needs no permutations: MOST_CHANNELS broadcasts feed 24. Meanwhile the next
 * bundle's vectors are fetched, one with each column: they lie so far apart that a copy waits for L3 at every
 * one of them (7 to 28 %).
 *
 * The bands are cut into `parts` that each sum into a buffer of their own; these are added in ascending
 * order, so the result does not depend on the number of threads. Between rows, gradients of 0 meet pixels
 * that their tap does not see: where a result is not finite all of it is made again, row by row.
 */
#include "conv.h"
#include "conv_grouped.h"
#include "finite.h"
#include "parallel.h"

#define BAND_BYTES ((ptrdiff_t)128 << 10)      /* in L2; */
#define FUSED_BAND_BYTES ((ptrdiff_t)48 << 10) /* in L1, where the next vectors are fetched meanwhile */
#define CHANNELS 4
#define MOST_CHANNELS (VECTOR_REGISTERS == 32 ? 8 : 4)
#define STREAMS 2 /* what is fetched: input and gradients */
#define MOST_PARTS ((ptrdiff_t)64)
#define MOST_PART_BYTES ((ptrdiff_t)16 << 20)

struct grouped_weight {
    const struct correlation *c; /* of the forward pass; src is the input */
    const real *grad_output;
    real *grad_weight;
    struct bundles bundles;
    int fused;
    ptrdiff_t width; /* input columns that an output row reads */
    ptrdiff_t
        grad_width; /* columns of a copied row of gradients: as many where taps are fused, 0 at the end */
    ptrdiff_t rows, bands; /* output rows to a band, at most; bands to an image */
    ptrdiff_t bundle_elements, part_elements;
    ptrdiff_t parts, shares; /* of the bands, and of the bundles where there are few parts */
    real *sums;              /* [part][bundle][tap][c][LANES] */
    struct finite *finite;
};

/* What channel i of each lane's group is at x: one value where the bundle is a group alone. */
INLINE vec spread(const int alone, const real *x, int i, const ivec *index) {
    return alone ? splat(x[i]) : permute_lanes(load(x), index[i]);
}

/* acc[s][i] += over `count` places, for the taps s that read x + offset[s], and `channels` channels i from
 * index on. With `fused` they are side by side: what tap s reads here meets the gradient s places back. */
INLINE void add_stretch(const int fused, const int alone, const int taps, const int channels, const real *x,
                        const ptrdiff_t *offset, ptrdiff_t x_step, const real *g, ptrdiff_t count,
                        const ivec *index, const struct stream *stream, vec (*acc)[MOST_CHANNELS]) {
    vec window[FUSED] = {{0}};
    const real *next = stream->next;
    for (ptrdiff_t j = 0; j < count; j++, x += x_step, g += LANES, next += stream->step) {
        if (fused) __builtin_prefetch(next);
        UNROLL for (int s = FUSED - 1; s > 0; s--) window[s] = window[s - 1];
        window[0] = load(g);
        if (fused) UNROLL for (int i = 0; i < channels; i++) {
                vec value = spread(alone, x, i, index);
                UNROLL for (int s = 0; s < FUSED; s++) acc[s][i] += value * window[s];
            }
        else
            UNROLL for (int s = 0; s < taps; s++) UNROLL for (int i = 0; i < channels; i++) acc[s][i] +=
                spread(alone, x + offset[s], i, index) * window[0];
    }
}

/* The taps from t on and channels from c on, over all rows of a band. */
INLINE void add_taps(const int fused, const int alone, const int taps, const int channels,
                     const struct grouped_weight *w, ptrdiff_t t, ptrdiff_t c, const real *x, const real *g,
                     ptrdiff_t rows, const struct stream *stream, real *sums) {
    const struct correlation *geometry = w->c;
    ptrdiff_t tap = w->bundles.src * LANES, offset[FUSED];
    ivec index[MOST_CHANNELS], first = first_channels(&w->bundles);
    vec acc[FUSED][MOST_CHANNELS];
    UNROLL for (int i = 0; i < channels; i++) index[i] = first + (integer)(c + i);
    UNROLL for (int s = 0; s < taps; s++) UNROLL for (int i = 0; i < channels; i++) acc[s][i] =
        load(sums + (t + s) * tap + (c + i) * LANES);
    UNROLL for (int s = 0; s < taps; s++) {
        const struct tap *at = geometry->tap + t + s;
        offset[s] =
            ((at->y - geometry->y_min) * w->width + at->x - geometry->x_min) * LANES + (alone ? c : 0);
    }
    if (fused) x += offset[0];
    /* rows that follow one another are one stretch: the places between them have gradients of 0; it ends
     * where the last tap reads the last column, since what lies behind that may be anything */
    ptrdiff_t stretch = fused && geometry->step_height == 1 ? rows : 1;
    ptrdiff_t count = (stretch - 1) * w->grad_width + geometry->dst_width + (fused ? FUSED - 1 : 0);
    for (ptrdiff_t i = 0; i < rows; i += stretch)
        add_stretch(fused, alone, taps, channels, x + i * geometry->step_height * w->width * LANES, offset,
                    geometry->step_width * LANES, g + i * w->grad_width * LANES, count, index, stream, acc);
    UNROLL for (int s = 0; s < taps; s++) UNROLL for (int i = 0; i < channels; i++)
        store(sums + (t + s) * tap + (c + i) * LANES, acc[s][i]);
}

/* The first turns fetch one of the STREAMS each. */
INLINE void add_band(const int fused, const int alone, const struct grouped_weight *w, const real *x,
                     const real *g, ptrdiff_t rows, const struct stream *stream, real *sums) {
    const int most = alone ? MOST_CHANNELS : CHANNELS;
    const struct stream none = {g, 0};
    int turn = 0;
    for (ptrdiff_t t = 0, c; t < w->c->taps;) {
        int several = t + FUSED <= w->c->taps;
        for (c = 0; several && c + most <= w->bundles.src; c += most, turn++)
            add_taps(fused, alone, FUSED, most, w, t, c, x, g, rows, turn < STREAMS ? stream + turn : &none,
                     sums);
        for (; several && c < w->bundles.src; c++)
            add_taps(fused, alone, FUSED, 1, w, t, c, x, g, rows, &none, sums);
        for (; c < w->bundles.src; c++) add_taps(0, alone, 1, 1, w, t, c, x, g, rows, &none, sums);
        t += several ? FUSED : 1;
    }
}

static void add_bundle(const struct grouped_weight *w, const real *x, const real *g, ptrdiff_t rows,
                       const struct stream *stream, real *sums) {
    if (w->fused)
        add_band(1, 0, w, x, g, rows, stream, sums);
    else
        add_band(0, 0, w, x, g, rows, stream, sums);
}

static void add_alone(const struct grouped_weight *w, const real *x, const real *g, ptrdiff_t rows,
                      const struct stream *stream, real *sums) {
    if (w->fused)
        add_band(1, 1, w, x, g, rows, stream, sums);
    else
        add_band(0, 1, w, x, g, rows, stream, sums);
}

/* The gradients of output rows [first, end), one bundle: [row][grad_width][LANES] */
static void copy_gradient(const struct grouped_weight *w, ptrdiff_t image, ptrdiff_t bundle, ptrdiff_t first,
                          ptrdiff_t end, real *to) {
    const struct correlation *c = w->c;
    const struct bundles *b = &w->bundles;
    ptrdiff_t pitch = b->groups * b->dst;
    const real *from = w->grad_output + bundle * b->groups_each * b->dst;
    for (ptrdiff_t i = first; i < end; i++, to += w->grad_width * LANES) {
        copy_bundle(from + (image * c->dst_height + i) * c->dst_width * pitch, groups_of(b, bundle) * b->dst,
                    c->dst_width, pitch, !w->fused, to);
        memset(to + c->dst_width * LANES, 0, (size_t)((w->grad_width - c->dst_width) * LANES) * sizeof(real));
    }
}

/* A bundle's vectors of the input and of the gradients, from a band's first row on; beyond the last image
 * those of the first. */
static void next_vectors(const struct grouped_weight *w, ptrdiff_t image, ptrdiff_t band, ptrdiff_t bundle,
                         struct stream *stream) {
    const struct correlation *c = w->c;
    const struct bundles *b = &w->bundles;
    ptrdiff_t first = c->dst_height * band / w->bands, group = bundle * b->groups_each;
    ptrdiff_t y = max_size(first * c->step_height + c->y_min, 0);
    if (image == c->batch || y >= c->src_height) image = 0, first = 0, y = 0;
    ptrdiff_t step = b->groups * b->src;
    stream[0] =
        (struct stream){c->src + (image * c->src_height + y) * c->src_width * step + group * b->src, step};
    step = b->groups * b->dst;
    stream[1] = (struct stream){
        w->grad_output + (image * c->dst_height + first) * c->dst_width * step + group * b->dst, step};
}

/* A part of the bands, and a share of the bundles. */
static void run_part(const void *context, ptrdiff_t task, void *scratch) {
    const struct grouped_weight *w = context;
    const struct correlation *c = w->c;
    const struct bundles *b = &w->bundles;
    ptrdiff_t part = task / w->shares, share = task % w->shares, bands = c->batch * w->bands;
    ptrdiff_t begin = b->count * share / w->shares, stop = b->count * (share + 1) / w->shares;
    real *sums = w->sums + part * w->part_elements, *g = scratch, *x = g + w->rows * w->grad_width * LANES;
    memset(sums + begin * w->bundle_elements, 0,
           (size_t)((stop - begin) * w->bundle_elements) * sizeof(real));
    for (ptrdiff_t i = bands * part / w->parts; i < bands * (part + 1) / w->parts; i++) {
        ptrdiff_t image = i / w->bands, band = i % w->bands;
        ptrdiff_t first = c->dst_height * band / w->bands, end = c->dst_height * (band + 1) / w->bands;
        for (ptrdiff_t bundle = begin; bundle < stop; bundle++) {
            copy_rows(c, b, image, bundle, first, end, 0, c->dst_width, w->width, !w->fused, x);
            copy_gradient(w, image, bundle, first, end, g);
            struct stream stream[STREAMS];
            if (bundle + 1 < stop)
                next_vectors(w, image, band, bundle + 1, stream);
            else
                next_vectors(w, (i + 1) / w->bands, (i + 1) % w->bands, begin, stream);
            (b->groups_each == 1 ? add_alone : add_bundle)(w, x, g, end - first, stream,
                                                           sums + bundle * w->bundle_elements);
        }
    }
}

/* Add the parts of one bundle and write them as grad_weight[k][c][tap]. */
static void sum_bundle(const void *context, ptrdiff_t bundle, void *scratch) {
    (void)scratch;
    const struct grouped_weight *w = context;
    const struct bundles *b = &w->bundles;
    ptrdiff_t lanes = groups_of(b, bundle) * b->dst, taps = w->c->taps;
    real *to = w->grad_weight + bundle * b->groups_each * b->dst * b->src * taps;
    real *sums = w->sums + bundle * w->bundle_elements;
    vec check = {0};
    sum_parts(sums, w->parts, w->part_elements, 0, w->bundle_elements, sums);
    for (ptrdiff_t t = 0; t < taps; t++)
        for (ptrdiff_t c = 0; c < b->src; c++, sums += LANES) {
            check_finite(&check, first_lanes(load(sums), lanes, (vec){0}));
            for (ptrdiff_t l = 0; l < lanes; l++) to[(l * b->src + c) * taps + t] = sums[l];
        }
    note_finite(w->finite, check);
}

static void plan(struct grouped_weight *w, int fused) {
    const struct correlation *c = w->c;
    w->bundles = make_bundles(c->groups, c->src_channels, c->dst_channels);
    w->fused = fused;
    w->width = (c->dst_width - 1) * c->step_width + c->x_max - c->x_min + 1;
    w->grad_width = w->fused ? w->width : c->dst_width;
    ptrdiff_t reach = c->y_max - c->y_min + 1;
    ptrdiff_t row_bytes = (w->width * c->step_height + w->grad_width) * VECTOR_BYTES;
    ptrdiff_t most_bytes = w->fused ? FUSED_BAND_BYTES : BAND_BYTES;
    ptrdiff_t fit = (most_bytes - (reach - c->step_height) * w->width * VECTOR_BYTES) / row_bytes;
    w->bands = ceil_div(c->dst_height, min_size(max_size(fit, 1), c->dst_height));
    w->rows = ceil_div(c->dst_height, w->bands);
    w->bundle_elements = c->taps * c->src_channels * LANES;
    w->part_elements = w->bundles.count * w->bundle_elements;
    ptrdiff_t most = MOST_PART_BYTES / (w->part_elements * (ptrdiff_t)sizeof(real));
    w->parts = max_size(min_size(min_size(most, MOST_PARTS), c->batch * w->bands), 1);
    w->shares = bundle_shares(&w->bundles, w->parts);
}

static struct workspace space(const struct grouped_weight *w) {
    ptrdiff_t source_rows = (w->rows - 1) * w->c->step_height + w->c->y_max - w->c->y_min + 1;
    return (struct workspace){(size_t)(w->parts * w->part_elements) * sizeof(real),
                              (size_t)(source_rows * w->width + w->rows * w->grad_width) * VECTOR_BYTES};
}

struct workspace VARIANT(grad_weight_grouped_workspace)(const struct correlation *c) {
    struct grouped_weight w = {.c = c};
    plan(&w, comes_in_threes(c));
    return space(&w);
}

static int sum_all(struct grouped_weight *w) {
    struct workspace bytes = space(w);
    if (!(w->sums = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
    struct finite finite = ALL_FINITE;
    w->finite = &finite;
    double work = (double)(w->c->batch * w->c->dst_height * w->c->dst_width) * (double)w->part_elements;
    int status =
        parallel_run(w->parts * w->shares, work / MULTIPLY_ADDS_PER_NANOSECOND, bytes.scratch, run_part, w);
    if (status == PYCONV_OK)
        status = parallel_run(w->bundles.count, (double)(w->parts * w->part_elements) / 8, 0, sum_bundle, w);
    pyconv_free(w->sums, bytes.shared);
    return status_of(&finite, status);
}

int VARIANT(grad_weight_grouped)(const struct correlation *c, const real *grad_output, real *grad_weight) {
    struct grouped_weight w = {.c = c, .grad_output = grad_output, .grad_weight = grad_weight};
    plan(&w, comes_in_threes(c));
    int status = sum_all(&w);
    if (status != PYCONV_NOT_FINITE) return status;
    plan(&w, 0);
    status = sum_all(&w);
    return status == PYCONV_NOT_FINITE ? PYCONV_OK : status;
}
