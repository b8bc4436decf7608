/* Convolution: which algorithm computes a pass, and why. */
#include "conv.h"
#include "correlation.h"
#include "parallel.h"

static int is_depthwise(const struct pyconv_conv2d *g) {
    return g->groups == g->in_channels && g->groups == g->out_channels && g->groups > 1;
}

static int fits_winograd(const struct pyconv_conv2d *g) {
    return REAL_IS_FLOAT && g->groups == 1 && g->stride_height == 1 && g->stride_width == 1 &&
           g->dilation_height == 1 && g->dilation_width == 1 && g->kernel_height == g->kernel_width &&
           (g->kernel_height == 3 || g->kernel_height == 5);
}

/* Scattering pays where a correlation would leave most lanes of the input's channels empty. */
static int fits_scatter(const struct pyconv_conv2d *g) {
    ptrdiff_t area = g->kernel_height * g->kernel_width, c = g->in_channels, k = g->out_channels;
    if (g->groups != 1 || g->dilation_width != 1 || !c || !k || !g->batch || !g->out_height || !g->out_width) return 0;
    double gather = (double)(area * k * ceil_div(c, LANES));
    double scatter = (double)(ceil_div(area * c, LANES) * k + 4 * g->kernel_height * ceil_div(g->kernel_width * c, LANES));
    return g->kernel_width > 1 && scatter < gather;
}

static enum pyconv_conv_algorithm choose_algorithm(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    if (is_depthwise(g)) return PYCONV_CONV_DEPTHWISE;
    if (pass == PYCONV_GRAD_INPUT && fits_scatter(g)) return PYCONV_CONV_SCATTER;
    if (fits_winograd(g) && g->in_channels >= 16 && g->out_channels >= 16) return PYCONV_CONV_WINOGRAD;
    return PYCONV_CONV_DIRECT;
}

/* The algorithm that computes a pass when a user has asked for one: it may not fit. */
static enum pyconv_conv_algorithm resolve(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                                          enum pyconv_conv_algorithm asked) {
    if (asked == PYCONV_CONV_WINOGRAD && fits_winograd(g)) return PYCONV_CONV_WINOGRAD;
    if (asked == PYCONV_CONV_DIRECT) return is_depthwise(g) ? PYCONV_CONV_DEPTHWISE : PYCONV_CONV_DIRECT;
    return choose_algorithm(g, pass);
}

static int correlate(const struct correlation *c, enum pyconv_conv_algorithm algorithm) {
    switch (algorithm) {
    case PYCONV_CONV_DEPTHWISE: return VARIANT(correlate_depthwise)(c);
    case PYCONV_CONV_WINOGRAD: return VARIANT(correlate_winograd)(c);
    default: return VARIANT(correlate_direct)(c);
    }
}

static struct tap *alloc_taps(const struct pyconv_conv2d *g, size_t *bytes) {
    *bytes = (size_t)(g->kernel_height * g->kernel_width) * sizeof(struct tap);
    return pyconv_alloc(*bytes);
}

static int forward(const struct pyconv_conv2d *g, const void *input, const void *weight,
                   const struct pyconv_epilogue *epilogue, void *output, enum pyconv_conv_algorithm algorithm) {
    algorithm = resolve(g, PYCONV_FORWARD, algorithm);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    struct correlation c = forward_correlation(g, input, weight, epilogue, output, tap);
    int status = correlate(&c, algorithm);
    pyconv_free(tap, bytes);
    return status;
}

static int grad_input(const struct pyconv_conv2d *g, const void *grad_output, const void *weight, void *result,
                      enum pyconv_conv_algorithm algorithm) {
    algorithm = resolve(g, PYCONV_GRAD_INPUT, algorithm);
    if (algorithm == PYCONV_CONV_SCATTER) return VARIANT(grad_input_scatter)(g, grad_output, weight, result);
    if (algorithm == PYCONV_CONV_DEPTHWISE) return VARIANT(grad_input_depthwise)(g, grad_output, weight, result);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    int status = PYCONV_OK;
    for (ptrdiff_t row = 0; row < g->stride_height && status == PYCONV_OK; row++)
        for (ptrdiff_t column = 0; column < g->stride_width && status == PYCONV_OK; column++) {
            struct correlation c = grad_input_correlation(g, row, column, grad_output, weight, result, tap);
            status = correlate(&c, c.taps ? algorithm : PYCONV_CONV_DIRECT);
        }
    pyconv_free(tap, bytes);
    return status;
}

/* ---- Gradient of the bias: the sum of grad_output over all pixels ---- */

#define BIAS_PIXELS ((ptrdiff_t)512) /* summed in one go; then the partial sums are, in order */

struct bias_gradient {
    ptrdiff_t pixels, channels;
    const real *grad_output;
    real *parts;
};

static void run_bias(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct bias_gradient *b = context;
    ptrdiff_t begin = task * BIAS_PIXELS, count = min_size(BIAS_PIXELS, b->pixels - begin);
    sum_parts(b->grad_output + begin * b->channels, count, b->channels, 0, b->channels, b->parts + task * b->channels);
}

static int bias_gradient(ptrdiff_t pixels, ptrdiff_t channels, const real *grad_output, real *grad_bias) {
    ptrdiff_t tasks = ceil_div(pixels, BIAS_PIXELS);
    if (!tasks || !channels) {
        memset(grad_bias, 0, (size_t)channels * sizeof(real));
        return PYCONV_OK;
    }
    size_t bytes = (size_t)(tasks * channels) * sizeof(real);
    struct bias_gradient b = {pixels, channels, grad_output, pyconv_alloc(bytes)};
    if (!b.parts) return PYCONV_NO_MEMORY;
    int status = parallel_run(tasks, (double)pixels * (double)channels / LANES, 0, run_bias, &b);
    sum_parts(b.parts, tasks, channels, 0, channels, grad_bias);
    pyconv_free(b.parts, bytes);
    return status;
}

static int grad_weight(const struct pyconv_conv2d *g, const void *grad_output, const void *input, void *result,
                       void *grad_bias, enum pyconv_conv_algorithm algorithm) {
    algorithm = resolve(g, PYCONV_GRAD_WEIGHT, algorithm);
    int status = PYCONV_OK;
    if (grad_bias)
        status = bias_gradient(g->batch * g->out_height * g->out_width, g->out_channels, grad_output, grad_bias);
    if (status != PYCONV_OK || !result) return status;
    if (algorithm == PYCONV_CONV_DEPTHWISE) return VARIANT(grad_weight_depthwise)(g, grad_output, input, result);
    if (algorithm == PYCONV_CONV_WINOGRAD) return VARIANT(grad_weight_winograd)(g, grad_output, input, result);
    return VARIANT(grad_weight_direct)(g, grad_output, input, result);
}

const struct pyconv_conv_kernels KERNELS(conv) = {forward, grad_input, grad_weight, choose_algorithm};
