/* Winograd's gradient of the weight along lines: see winograd_line.h.
 *
 *     D[p][i][t][k] = sum over o of G[p][o] * grad_output[i][4 t + o][k]
 *     M[p][r][q][c][k] = sum over i, t of V[p][i + r][t + q][c] * D[p][i][t][k]
 *     grad_weight[k][c][r][4 q + s] = sum over p of A^T[s][p] * M[p][r][q][c][k]
 *
 * F(4, 4) again, of four gradients as the filter. For each of the points M is the direct gradient of a
 * weight, left as partial sums. V and D are made for a pass of images at a time, which all add to these.
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
    real *v, *d, *zeros;
    ptrdiff_t v_plane, d_plane; /* elements from one point to the next */
    struct weight_parts m;      /* a set for each point */
    struct finite *finite;
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

/* One vector of filters. out: [channel][area], the same order that the weight has: so LANES of its elements
 * at a time are transposed. */
static void put_filters(const void *context, ptrdiff_t vector, void *scratch) {
    const struct line_weight_pass *w = context;
    const struct pyconv_conv2d *g = w->g;
    const struct lines *l = &w->lines;
    ptrdiff_t area = g->kernel_height * g->kernel_width, length = area / l->rows, channels = g->in_channels;
    ptrdiff_t row_step = l->vertical ? 1 : length, tap_step = l->vertical ? l->rows : 1;
    ptrdiff_t first = vector * LANES, filters = min_size(LANES, g->out_channels - first);
    const real *sums = w->m.sums + first / BLOCK * w->m.block_elements + first % BLOCK;
    vec *out = scratch, check = {0};
    for (ptrdiff_t begin = 0; begin < channels; begin += LANES) {
        ptrdiff_t count = min_size(LANES, channels - begin), elements = count * area;
        for (ptrdiff_t t = 0; t < w->m.area; t++) {
            ptrdiff_t r = l->vertical ? t % l->rows : t / l->groups,
                      q = l->vertical ? t / l->rows : t % l->groups;
            ptrdiff_t taps = min_size(LINE_OUTPUTS, length - q * LINE_OUTPUTS);
            for (ptrdiff_t c = 0; c < count; c++) {
                vec y[LINE_POINTS], tap[LINE_OUTPUTS];
                const real *from = sums + (t * channels + begin + c) * BLOCK;
                for (int p = 0; p < LINE_POINTS; p++) {
                    y[p] = load(from);
                    from += w->m.part_elements;
                    for (ptrdiff_t part = 1; part < w->m.count; part++, from += w->m.part_elements)
                        y[p] += load(from);
                }
                transform_output(LINE_POINTS, LINE_OUTPUTS, y, 1, tap, 1);
                vec *to = out + c * area + r * row_step + q * LINE_OUTPUTS * tap_step;
                for (ptrdiff_t s = 0; s < taps; s++) to[s * tap_step] = tap[s], check_finite(&check, tap[s]);
            }
        }
        for (ptrdiff_t e = 0; e < elements; e += LANES) {
            transpose_lanes(out + e); /* of what lies beyond the elements nothing is stored */
            real *to = w->grad_weight + (first * channels + begin) * area + e;
            for (ptrdiff_t k = 0; k < filters; k++)
                store_first(to + k * channels * area, out[e + k], min_size(LANES, elements - e));
        }
    }
    note_finite(w->finite, check);
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

static void set_planes(struct line_weight_pass *w, ptrdiff_t images) {
    w->v_plane = images * w->lines.v_height * w->lines.v_width * w->g->in_channels;
    w->d_plane = images * w->lines.m_height * w->lines.m_width * w->g->out_channels;
}

static void plan(struct line_weight_pass *w) {
    const struct pyconv_conv2d *g = w->g;
    struct lines *l = &w->lines;
    *l = cut_lines(g->batch, g->out_height, g->out_width, g->kernel_height, g->kernel_width,
                   g->dilation_height, g->dilation_width, g->in_channels + g->out_channels);
    set_planes(w, l->images);
    struct pyconv_conv2d inner = inner_geometry(w, l->images);
    w->m = VARIANT(plan_weight_parts)(&inner, LINE_POINTS);
}

static size_t zero_bytes(const struct pyconv_conv2d *g) {
    return (size_t)max_size(g->in_channels, g->out_channels) * sizeof(real);
}

static size_t image_bytes(const struct line_weight_pass *w) {
    return (size_t)(LINE_POINTS * (w->v_plane + w->d_plane)) * sizeof(real) + zero_bytes(w->g);
}

static size_t put_scratch(const struct pyconv_conv2d *g) {
    return (size_t)(LANES * (g->kernel_height * g->kernel_width + 1)) * VECTOR_BYTES;
}

struct workspace VARIANT(grad_weight_line_workspace)(const struct pyconv_conv2d *g) {
    struct line_weight_pass w = {.g = g};
    plan(&w);
    struct pyconv_conv2d inner = inner_geometry(&w, w.lines.images);
    struct workspace bytes = VARIANT(add_weight_parts_workspace)(&inner, &w.m);
    bytes.shared += image_bytes(&w);
    if (bytes.scratch < put_scratch(g)) bytes.scratch = put_scratch(g);
    return bytes;
}

/* The points' planes lie side by side: for the direct kernel, seven times the images. */
static int run_pass(struct line_weight_pass *w, ptrdiff_t images) {
    struct pyconv_conv2d inner = inner_geometry(w, images);
    set_planes(w, images);
    double rows = (double)(LINE_POINTS * (w->v_plane + w->d_plane)) / 16;
    int status = parallel_run(images * w->lines.v_height, rows, 0, make_input_row, w);
    if (status == PYCONV_OK) status = parallel_run(images * w->lines.m_height, rows, 0, make_gradient_row, w);
    return status == PYCONV_OK ? VARIANT(add_weight_parts)(&inner, w->d, w->v, &w->m, !w->first) : status;
}

int VARIANT(grad_weight_line)(const struct pyconv_conv2d *g, const real *grad_output, const real *input,
                              real *grad_weight) {
    struct finite finite = ALL_FINITE;
    struct line_weight_pass w = {
        .g = g, .grad_output = grad_output, .input = input, .grad_weight = grad_weight, .finite = &finite};
    plan(&w);
    size_t bytes = image_bytes(&w), part_bytes = weight_parts_bytes(&w.m);
    w.v = pyconv_alloc(bytes), w.m.sums = pyconv_alloc(part_bytes);
    int status = w.v && w.m.sums ? PYCONV_OK : PYCONV_NO_MEMORY;
    if (status == PYCONV_OK) {
        w.d = w.v + LINE_POINTS * w.v_plane;
        w.zeros = memset(w.d + LINE_POINTS * w.d_plane, 0, zero_bytes(g));
    }
    for (w.first = 0; w.first < g->batch && status == PYCONV_OK; w.first += w.lines.images)
        status = run_pass(&w, min_size(w.lines.images, g->batch - w.first));
    if (status == PYCONV_OK)
        status = parallel_run(ceil_div(g->out_channels, LANES), (double)(LINE_POINTS * w.m.part_elements) / 4,
                              put_scratch(g), put_filters, &w);
    pyconv_free(w.v, bytes);
    pyconv_free(w.m.sums, part_bytes);
    return status_of(&finite, status);
}
