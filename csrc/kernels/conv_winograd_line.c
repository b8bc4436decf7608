/* Winograd's convolution along lines, for kernels of step 1 that are not square: see winograd_line.h.
 *
 * V, a pass of images at a time, and M lie in memory (7/4 of the input and of the output, near 16 MiB), and
 * between them the direct kernel does the work: 7 of its products serve 4 outputs of 4 taps.
 */
#include "conv.h"
#include "parallel.h"
#include "winograd_line.h"

struct line_pass {
    const struct correlation *c;
    struct lines lines;
    ptrdiff_t first; /* image of the pass */
    real *u, *v, *m, *zeros;
    ptrdiff_t u_plane, v_plane, m_plane; /* elements from one point to the next */
    struct correlation inner;            /* M from V and U */
    struct finite *finite;
};

/* ---- U, as the direct kernel reads it ---- */

/* The filters of one vector, `count` of them real, tap by tap, on one channel. */
static void read_filters(const struct correlation *c, const real *from, ptrdiff_t count, vec *by_index) {
    for (ptrdiff_t part = 0; part < c->taps; part += LANES) {
        vec *row = by_index + part;
        ptrdiff_t here = min_size(LANES, c->taps - part);
        for (ptrdiff_t k = 0; k < LANES; k++)
            row[k] = k < count ? load_first(from + k * c->weight_dst + part, here) : (vec){0};
        transpose_lanes(row);
    }
}

static void make_filters(const void *context, ptrdiff_t vector, void *scratch) {
    const struct line_pass *w = context;
    const struct correlation *c = w->c;
    const struct lines *l = &w->lines;
    ptrdiff_t length = c->taps / l->rows, row_step = l->vertical ? 1 : length,
              tap_step = l->vertical ? l->rows : 1;
    vec *by_index = scratch;
    struct column column = VARIANT(direct_column)(&w->inner, w->u, vector); /* of the first point */
    for (ptrdiff_t i = 0; i < c->src_channels; i++) {
        const real *from = c->weight + vector * LANES * c->weight_dst + i * c->weight_src;
        fetch_filters(c, from, min_size(LANES, c->dst_channels - vector * LANES));
        read_filters(c, from, min_size(LANES, c->dst_channels - vector * LANES), by_index);
        for (ptrdiff_t r = 0; r < l->rows; r++)
            for (ptrdiff_t q = 0; q < l->groups; q++) {
                vec g[LINE_OUTPUTS], out[LINE_POINTS];
                for (ptrdiff_t s = 0; s < LINE_OUTPUTS; s++) {
                    ptrdiff_t tap = q * LINE_OUTPUTS + s;
                    g[s] = tap < length ? by_index[c->tap[r * row_step + tap * tap_step].index] : (vec){0};
                }
                transform_filter(LINE_POINTS, LINE_OUTPUTS, g, 1, out, 1);
                ptrdiff_t row = (l->vertical ? q * l->rows + r : r * l->groups + q) * c->src_channels + i;
                real *to = column.first + row * column.pitch;
                UNROLL for (int p = 0; p < LINE_POINTS; p++, to += w->u_plane)
                    store_and_fetch(to, out[p], 2 * column.pitch);
            }
    }
}

/* ---- V and the output ---- */

static void make_row(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct line_pass *w = context;
    const struct correlation *c = w->c;
    ptrdiff_t row = task % w->lines.v_height, image = w->first + task / w->lines.v_height;
    struct plane from = {c->src + image * c->src_height * c->src_width * c->src_channels,
                         c->src_height,
                         c->src_width,
                         c->src_channels,
                         c->y_min,
                         c->x_min,
                         w->zeros};
    transform_line_row(&w->lines, &from, row, w->lines.v_width, LINE_POINTS,
                       w->v + task * w->lines.v_width * c->src_channels, w->v_plane);
}

/* One vector of channels of a tile, whose points are m_plane apart, to dst + at + o * step, o < count */
INLINE void put_line(const struct correlation *c, const real *m, ptrdiff_t m_plane, ptrdiff_t channel,
                     ptrdiff_t at, ptrdiff_t step, ptrdiff_t count, vec *check) {
    ptrdiff_t lanes = min_size(LANES, c->dst_channels - channel);
    const real *bias = c->epilogue.bias;
    vec y[LINE_POINTS], out[LINE_OUTPUTS], add = bias ? load_first(bias + channel, lanes) : (vec){0};
    UNROLL for (int p = 0; p < LINE_POINTS; p++) {
        const real *from = m + p * m_plane + channel;
        y[p] = load_some(from, lanes);
    }
    transform_output(LINE_POINTS, LINE_OUTPUTS, y, 1, out, 1);
    for (ptrdiff_t o = 0; o < count; o++, at += step) {
        check_finite(check, out[o]);
        store_output(c, c->dst + at + channel, lanes, out[o] + add);
    }
}

static void put_row(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct line_pass *w = context;
    const struct correlation *c = w->c;
    const struct lines *l = &w->lines;
    ptrdiff_t row = task % l->m_height, image = w->first + task / l->m_height;
    ptrdiff_t y_step = l->vertical ? LINE_OUTPUTS : 1, x_step = l->vertical ? 1 : LINE_OUTPUTS;
    const real *m = w->m + task * l->m_width * c->dst_channels;
    vec check = {0};
    for (ptrdiff_t column = 0; column < l->m_width; column++, m += c->dst_channels) {
        ptrdiff_t y = row * y_step, x = column * x_step;
        ptrdiff_t at = image * c->dst_image + y * c->dst_row + x * c->dst_column;
        ptrdiff_t count = min_size(LINE_OUTPUTS, l->vertical ? c->dst_height - y : c->dst_width - x);
        for (ptrdiff_t k = 0; k < c->dst_channels; k += LANES)
            put_line(c, m, w->m_plane, k, at, l->vertical ? c->dst_row : c->dst_column, count, &check);
    }
    note_finite(w->finite, check);
}

/* ---- The whole correlation ---- */

/* The product as a correlation of `images` images; taps: kernel_height * kernel_width. */
static struct correlation inner_correlation(const struct line_pass *w, ptrdiff_t images, struct tap *tap) {
    const struct correlation *c = w->c;
    const struct lines *l = &w->lines;
    ptrdiff_t y_step = l->vertical ? 1 : c->dilation_height, x_step = l->vertical ? c->dilation_width : 1;
    for (ptrdiff_t t = 0; t < l->kernel_height * l->kernel_width; t++)
        tap[t] = (struct tap){t / l->kernel_width * y_step, t % l->kernel_width * x_step, t};
    return (struct correlation){
        .batch = LINE_POINTS * images,
        .groups = 1,
        .src = w->v,
        .src_height = l->v_height,
        .src_width = l->v_width,
        .src_channels = c->src_channels,
        .src_column = c->src_channels,
        .dst = w->m,
        .dst_height = l->m_height,
        .dst_width = l->m_width,
        .dst_channels = c->dst_channels,
        .dst_image = l->m_height * l->m_width * c->dst_channels,
        .dst_row = l->m_width * c->dst_channels,
        .dst_column = c->dst_channels,
        .step_height = 1,
        .step_width = 1,
        .dilation_height = y_step,
        .dilation_width = x_step,
        .taps = l->kernel_height * l->kernel_width,
        .tap = tap,
        .y_max = (l->kernel_height - 1) * y_step,
        .x_max = (l->kernel_width - 1) * x_step,
        .weight_dst = l->kernel_height * l->kernel_width,
        .weight_src = l->kernel_height * l->kernel_width,
        .prepared = w->u,
        .images_each = images,
        .prepared_pitch = w->u_plane,
    };
}

/* The points' planes lie side by side: for the direct kernel, seven times the images. */
static void set_planes(struct line_pass *w, ptrdiff_t images) {
    const struct lines *l = &w->lines;
    w->v_plane = images * l->v_height * l->v_width * w->c->src_channels;
    w->m_plane = images * l->m_height * l->m_width * w->c->dst_channels;
}

/* Everything but the addresses. */
static void plan(struct line_pass *w, const struct correlation *c, struct tap *tap) {
    *w = (struct line_pass){.c = c};
    struct lines *l = &w->lines;
    *l = cut_lines(c->batch, c->dst_height, c->dst_width, kernel_height(c), kernel_width(c),
                   c->dilation_height, c->dilation_width, c->src_channels + c->dst_channels);
    w->inner = inner_correlation(w, l->images, tap);
    w->u_plane = VARIANT(direct_prepared)(&w->inner);
    set_planes(w, l->images);
}

static size_t shared_bytes(const struct line_pass *w) {
    ptrdiff_t u = w->c->prepared ? 0 : w->u_plane;
    return (size_t)(LINE_POINTS * (u + w->v_plane + w->m_plane) + w->c->src_channels) * sizeof(real);
}

static size_t filter_scratch(const struct correlation *c) {
    return (size_t)(ceil_div(c->taps, LANES) * LANES) * VECTOR_BYTES;
}

struct workspace VARIANT(correlate_line_workspace)(const struct correlation *c) {
    struct tap tap[MOST_LINE_TAPS];
    struct line_pass w;
    plan(&w, c, tap);
    struct workspace inner = VARIANT(correlate_direct_workspace)(&w.inner);
    size_t filters = c->prepared ? 0 : filter_scratch(c);
    return (struct workspace){shared_bytes(&w) + inner.shared,
                              inner.scratch > filters ? inner.scratch : filters};
}

ptrdiff_t VARIANT(line_prepared)(const struct correlation *c) {
    struct tap tap[MOST_LINE_TAPS];
    struct line_pass w;
    plan(&w, c, tap);
    return LINE_POINTS * w.u_plane;
}

static int make_all_filters(const struct line_pass *w) {
    const struct correlation *c = w->c;
    ptrdiff_t vectors = ceil_div(c->dst_channels, LANES);
    double elements = (double)(vectors * LANES * c->taps) * (double)c->src_channels;
    return parallel_run(vectors, elements, filter_scratch(c), make_filters, w);
}

int VARIANT(prepare_line)(const struct correlation *c, real *prepared) {
    struct tap tap[MOST_LINE_TAPS];
    struct line_pass w;
    plan(&w, c, tap);
    w.u = prepared;
    return make_all_filters(&w);
}

/* The images of one pass. */
static int run_pass(struct line_pass *w, ptrdiff_t images, struct tap *tap) {
    set_planes(w, images);
    w->inner = inner_correlation(w, images, tap);
    int status =
        parallel_run(images * w->lines.v_height, (double)(LINE_POINTS * w->v_plane) / 8, 0, make_row, w);
    if (status == PYCONV_OK) status = VARIANT(correlate_direct)(&w->inner);
    if (status != PYCONV_OK) return status;
    return parallel_run(images * w->lines.m_height, (double)(LINE_POINTS * w->m_plane) / 8, 0, put_row, w);
}

int VARIANT(correlate_line)(const struct correlation *c) {
    struct tap tap[MOST_LINE_TAPS];
    struct line_pass w;
    plan(&w, c, tap);
    size_t bytes = shared_bytes(&w);
    real *shared = pyconv_alloc(bytes);
    if (!shared) return PYCONV_NO_MEMORY;
    w.u = c->prepared ? (real *)c->prepared : shared;
    w.v = c->prepared ? shared : shared + LINE_POINTS * w.u_plane;
    w.m = w.v + LINE_POINTS * w.v_plane, w.zeros = w.m + LINE_POINTS * w.m_plane;
    memset(w.zeros, 0, (size_t)c->src_channels * sizeof(real));
    struct finite finite = ALL_FINITE;
    w.finite = &finite;
    int status = c->prepared ? PYCONV_OK : make_all_filters(&w);
    for (w.first = 0; w.first < c->batch && status == PYCONV_OK; w.first += w.lines.images)
        status = run_pass(&w, min_size(w.lines.images, c->batch - w.first), tap);
    pyconv_free(shared, bytes);
    return status_of(&finite, status);
}
