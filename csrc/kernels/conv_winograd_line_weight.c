/* Winograd's gradient of the weight along lines: see winograd_line.h.
 *
 *     D[p][i][t][k] = sum over o of G[p][o] * grad_output[i][4 t + o][k]
 *     M[p][k][c][r][q] = sum over i, t of V[p][i + r][t + q][c] * D[p][i][t][k]
 *     grad_weight[k][c][r][4 q + s] = sum over p of A^T[s][p] * M[p][k][c][r][q]
 *
 * F(4, 4) again, of four gradients as the filter. For each of the points M is the direct gradient of a
 * weight. V and D are made for a pass of images at a time; the passes' gradients are added in their order.
 */
#include "conv.h"
#include "parallel.h"
#include "winograd_line.h"

struct line_weight_pass {
    const struct pyconv_conv2d *g;
    const real *grad_output, *input;
    real *grad_weight;
    struct lines lines;
    ptrdiff_t first; /* image of the pass */
    real *v, *d, *m, *zeros;
    ptrdiff_t v_plane, d_plane, m_plane; /* elements from one point to the next */
};

static void make_input_row(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct line_weight_pass *w = context;
    const struct pyconv_conv2d *g = w->g;
    ptrdiff_t row = task % w->lines.v_height, image = w->first + task / w->lines.v_height;
    struct plane from = {w->input + image * g->in_height * g->in_width * g->in_channels,
                         g->in_height,
                         g->in_width,
                         g->in_channels,
                         -g->pad_top,
                         -g->pad_left,
                         w->zeros};
    transform_line_row(&w->lines, &from, row, w->lines.v_width, LINE_POINTS,
                       w->v + task * w->lines.v_width * g->in_channels, w->v_plane);
}

static void make_gradient_row(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct line_weight_pass *w = context;
    const struct pyconv_conv2d *g = w->g;
    ptrdiff_t row = task % w->lines.m_height, image = w->first + task / w->lines.m_height;
    struct plane from = {w->grad_output + image * g->out_height * g->out_width * g->out_channels,
                         g->out_height,
                         g->out_width,
                         g->out_channels,
                         0,
                         0,
                         w->zeros};
    transform_line_row(&w->lines, &from, row, w->lines.m_width, LINE_OUTPUTS,
                       w->d + task * w->lines.m_width * g->out_channels, w->d_plane);
}

/* One filter: LANES of its (channel, r, q) at a time. */
static void put_filter(const void *context, ptrdiff_t k, void *scratch) {
    (void)scratch;
    const struct line_weight_pass *w = context;
    const struct pyconv_conv2d *g = w->g;
    const struct lines *l = &w->lines;
    ptrdiff_t taps = l->rows * l->groups, elements = g->in_channels * taps,
              area = g->kernel_height * g->kernel_width, length = area / l->rows;
    ptrdiff_t row_step = l->vertical ? 1 : length, tap_step = l->vertical ? l->rows : 1;
    real *weight = w->grad_weight + k * g->in_channels * area;
    for (ptrdiff_t e = 0; e < elements; e += LANES) {
        ptrdiff_t lanes = min_size(LANES, elements - e);
        vec y[LINE_POINTS], out[LINE_OUTPUTS];
        for (int p = 0; p < LINE_POINTS; p++)
            y[p] = load_first(w->m + p * w->m_plane + k * elements + e, lanes);
        line_output(y, out);
        for (ptrdiff_t i = 0; i < lanes; i++) {
            ptrdiff_t c = (e + i) / taps, t = (e + i) % taps;
            ptrdiff_t r = l->vertical ? t % l->rows : t / l->groups,
                      q = l->vertical ? t / l->rows : t % l->groups;
            for (ptrdiff_t s = 0; s < min_size(LINE_OUTPUTS, length - q * LINE_OUTPUTS); s++) {
                real *to = weight + c * area + r * row_step + (q * LINE_OUTPUTS + s) * tap_step;
                *to = (w->first ? *to : 0) + out[s][i];
            }
        }
    }
}

/* M from V and D, of one point and `images` images. */
static struct pyconv_conv2d inner_geometry(const struct line_weight_pass *w, ptrdiff_t images) {
    const struct pyconv_conv2d *g = w->g;
    const struct lines *l = &w->lines;
    return (struct pyconv_conv2d){
        .batch = images,
        .groups = 1,
        .in_channels = g->in_channels,
        .in_height = l->v_height,
        .in_width = l->v_width,
        .out_channels = g->out_channels,
        .out_height = l->m_height,
        .out_width = l->m_width,
        .kernel_height = l->kernel_height,
        .kernel_width = l->kernel_width,
        .stride_height = 1,
        .stride_width = 1,
        .dilation_height = l->vertical ? 1 : g->dilation_height,
        .dilation_width = l->vertical ? g->dilation_width : 1,
    };
}

static void plan(struct line_weight_pass *w) {
    const struct pyconv_conv2d *g = w->g;
    struct lines *l = &w->lines;
    *l = cut_lines(g->batch, g->out_height, g->out_width, g->kernel_height, g->kernel_width,
                   g->dilation_height, g->dilation_width, g->in_channels + g->out_channels);
    w->v_plane = l->images * l->v_height * l->v_width * g->in_channels;
    w->d_plane = l->images * l->m_height * l->m_width * g->out_channels;
    w->m_plane = g->out_channels * g->in_channels * l->rows * l->groups;
}

static size_t zero_bytes(const struct pyconv_conv2d *g) {
    return (size_t)max_size(g->in_channels, g->out_channels) * sizeof(real);
}

static size_t shared_bytes(const struct line_weight_pass *w) {
    return (size_t)(LINE_POINTS * (w->v_plane + w->d_plane + w->m_plane)) * sizeof(real) + zero_bytes(w->g);
}

struct workspace VARIANT(grad_weight_line_workspace)(const struct pyconv_conv2d *g) {
    struct line_weight_pass w = {.g = g};
    plan(&w);
    struct pyconv_conv2d inner = inner_geometry(&w, w.lines.images);
    struct workspace bytes = VARIANT(grad_weight_direct_workspace)(&inner);
    bytes.shared += shared_bytes(&w);
    return bytes;
}

/* The images of one pass. */
static int run_pass(const struct line_weight_pass *w, ptrdiff_t images) {
    struct pyconv_conv2d inner = inner_geometry(w, images);
    double rows = (double)(LINE_POINTS * (w->v_plane + w->d_plane)) / 16;
    int status = parallel_run(images * w->lines.v_height, rows, 0, make_input_row, w);
    if (status == PYCONV_OK) status = parallel_run(images * w->lines.m_height, rows, 0, make_gradient_row, w);
    for (ptrdiff_t p = 0; p < LINE_POINTS && status == PYCONV_OK; p++)
        status = VARIANT(grad_weight_direct)(&inner, w->d + p * w->d_plane, w->v + p * w->v_plane,
                                             w->m + p * w->m_plane);
    if (status != PYCONV_OK) return status;
    return parallel_run(w->g->out_channels, (double)(LINE_POINTS * w->m_plane) / 4, 0, put_filter, w);
}

int VARIANT(grad_weight_line)(const struct pyconv_conv2d *g, const real *grad_output, const real *input,
                              real *grad_weight) {
    struct line_weight_pass w = {
        .g = g, .grad_output = grad_output, .input = input, .grad_weight = grad_weight};
    plan(&w);
    size_t bytes = shared_bytes(&w);
    if (!(w.v = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    w.d = w.v + LINE_POINTS * w.v_plane, w.m = w.d + LINE_POINTS * w.d_plane;
    w.zeros = memset(w.m + LINE_POINTS * w.m_plane, 0, zero_bytes(g));
    int status = PYCONV_OK;
    for (w.first = 0; w.first < g->batch && status == PYCONV_OK; w.first += w.lines.images)
        status = run_pass(&w, min_size(w.lines.images, g->batch - w.first));
    pyconv_free(w.v, bytes);
    return status;
}
