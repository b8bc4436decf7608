/* The gradient of the input of a 1 x 1 convolution with a stride, of planes.
 *
 *     grad_input[c][i S_h][j S_w] = sum over k of weight[k][c] * grad_output[k][i][j],    0 elsewhere
 *
 * That is the gradient of a dense convolution, whose planes are made first, and then spread: so a task writes
 * whole rows, where each residue of the stride by itself would write parts of all cache lines.
 */
#include "conv.h"
#include "correlation.h"
#include "parallel.h"

#define TASK_ELEMENTS ((ptrdiff_t)16384)

struct spread {
    const struct pyconv_conv2d *g;
    const real *from, *residual; /* the dense planes; NULL, or what is added */
    real *to;
    ptrdiff_t planes, each; /* planes to a task */
};

static size_t dense_bytes(const struct pyconv_conv2d *g) {
    return (size_t)(g->batch * g->in_channels * g->out_height * g->out_width) * sizeof(real);
}

/* `count` pixels, `step` apart, with zeros between and behind them: `width` elements */
INLINE void spread_row(const real *from, ptrdiff_t count, ptrdiff_t step, ptrdiff_t width, real *to) {
    const vec zeros = {0};
    ptrdiff_t j = 0;
    if (step == 2)
        for (; j + LANES <= count && 2 * (j + LANES) <= width; j += LANES) {
            vec pixels = load(from + j);
            store(to + 2 * j, zip_low(pixels, zeros));
            store(to + 2 * j + LANES, zip_high(pixels, zeros));
        }
    memset(to + j * step, 0, (size_t)max_size(width - j * step, 0) * sizeof(real));
    for (; j < count && j * step < width; j++) to[j * step] = from[j];
}

static void run_spread(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct spread *s = context;
    const struct pyconv_conv2d *g = s->g;
    const ptrdiff_t width = g->in_width, count = g->out_width;
    ptrdiff_t plane = task * s->each, last = min_size(plane + s->each, s->planes);
    for (; plane < last; plane++)
        for (ptrdiff_t y = 0; y < g->in_height; y++) {
            const ptrdiff_t i = y / g->stride_height, at = (plane * g->in_height + y) * width;
            const real *from = s->from + (plane * g->out_height + i) * count;
            const int read = y % g->stride_height == 0 && i < g->out_height;
            spread_row(from, read ? count : 0, g->stride_width, width, s->to + at);
            for (ptrdiff_t x = 0; s->residual && x < width; x++) s->to[at + x] += s->residual[at + x];
        }
}

struct workspace VARIANT(grad_input_spread_workspace)(const struct pyconv_conv2d *g) {
    const struct pyconv_conv2d dense = dense_part(g);
    struct tap tap;
    struct correlation c = grad_input_correlation(&dense, 0, 0, NULL, NULL, NULL, &tap);
    struct workspace bytes = VARIANT(correlate_planes_workspace)(&c);
    bytes.shared += dense_bytes(g);
    return bytes;
}

int VARIANT(grad_input_spread)(const struct pyconv_conv2d *g, const real *grad_output, const real *weight,
                               const real *residual, real *grad_input) {
    const struct pyconv_conv2d dense = dense_part(g);
    struct spread s = {.g = g, .residual = residual, .to = grad_input, .planes = g->batch * g->in_channels};
    real *planes = pyconv_alloc(dense_bytes(g));
    if (!planes) return PYCONV_NO_MEMORY;
    s.from = planes;
    s.each = max_size(TASK_ELEMENTS / max_size(g->in_height * g->in_width, 1), 1);
    struct tap tap;
    struct correlation c = grad_input_correlation(&dense, 0, 0, grad_output, weight, planes, &tap);
    int status = VARIANT(correlate_planes)(&c);
    double elements = (double)s.planes * (double)(g->in_height * g->in_width);
    if (status == PYCONV_OK)
        status = parallel_run(ceil_div(s.planes, s.each), elements / 4, 0, run_spread, &s);
    pyconv_free(planes, dense_bytes(g));
    return status;
}
