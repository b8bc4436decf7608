/* Convolution of channels-last images: each pass by the algorithm that conv_choice.c chooses. */
#include "conv.h"
#include "conv_grouped.h"
#include "conv_planar.h"
#include "correlation.h"
#include "parallel.h"

extern const struct pyconv_join_kernels KERNELS(join);

/* What puts together the lanes of a weight's gradient where it is made directly. */
enum lanes_of { FILTERS, BUNDLES_OF_GROUPS, PIXELS };

static enum lanes_of weight_lanes(const struct pyconv_conv2d *g) {
    ptrdiff_t area = g->kernel_height * g->kernel_width, from = g->in_channels / g->groups,
              to = g->out_channels / g->groups;
    if (!g->batch || !g->out_height || !g->out_width || !area) return FILTERS;
    if (can_bundle(g->groups, from, to)) return BUNDLES_OF_GROUPS;
    return to <= PLANAR_CHANNELS && is_planar(g->groups, g->stride_width, area, from, to, g->out_width)
               ? PIXELS
               : FILTERS;
}

/* A row of a destination where no tap, or no channel, contributes: 0, or the bias. */
static void fill_row(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct correlation *c = context;
    const real *bias = c->epilogue.bias, *residual = c->epilogue.residual;
    ptrdiff_t row = task / c->dst_height * c->dst_image + task % c->dst_height * c->dst_row;
    for (ptrdiff_t j = 0; j < c->dst_width; j++) {
        ptrdiff_t at = row + j * c->dst_column;
        for (ptrdiff_t k = 0; k < c->groups * c->dst_channels; k++) {
            real value = (bias ? bias[k] : 0) + (residual ? residual[at + k] : 0);
            c->dst[at + k] = c->epilogue.relu && value < 0 ? 0 : value;
        }
    }
}

static int correlate(const struct correlation *c, enum pyconv_conv_algorithm algorithm) {
    if (!c->batch || !c->dst_height || !c->dst_width || !c->dst_channels) return PYCONV_OK;
    if (!c->taps || !c->src_channels) {
        double elements =
            (double)(c->batch * c->dst_height * c->dst_width) * (double)(c->groups * c->dst_channels);
        return parallel_run(c->batch * c->dst_height, elements / 4, 0, fill_row, c);
    }
    switch (algorithm) {
    case PYCONV_CONV_DEPTHWISE: return VARIANT(correlate_depthwise)(c);
    case PYCONV_CONV_WINOGRAD: return VARIANT(correlate_winograd)(c);
    default: return VARIANT(correlate_direct)(c);
    }
}

int VARIANT(conv_forward)(const struct pyconv_conv2d *g, const void *input, const void *weight,
                          const void *prepared, const struct pyconv_epilogue *epilogue, void *output,
                          enum pyconv_conv_algorithm algorithm) {
    algorithm = VARIANT(choose_conv)(g, prepared ? PYCONV_FORWARD_PREPARED : PYCONV_FORWARD, algorithm);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    struct correlation c = forward_correlation(g, input, weight, epilogue, output, tap);
    c.prepared = prepared;
    int status = correlate(&c, algorithm);
    c.prepared = NULL;
    if (status == PYCONV_NOT_FINITE) status = correlate(&c, PYCONV_CONV_DIRECT);
    pyconv_free(tap, bytes);
    return status;
}

int VARIANT(conv_prepare)(const struct pyconv_conv2d *g, const void *weight, void *prepared,
                          enum pyconv_conv_algorithm algorithm) {
    algorithm = VARIANT(choose_conv)(g, PYCONV_FORWARD_PREPARED, algorithm);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    struct correlation c = forward_correlation(g, NULL, weight, NULL, NULL, tap);
    int status = algorithm == PYCONV_CONV_WINOGRAD ? VARIANT(prepare_winograd)(&c, prepared)
                                                   : VARIANT(prepare_direct)(&c, prepared);
    pyconv_free(tap, bytes);
    return status;
}

/* By an algorithm that only overwrites its result. */
static int grad_input_alone(const struct pyconv_conv2d *g, const void *grad_output, const void *weight,
                            const void *residual, void *result, enum pyconv_conv_algorithm algorithm) {
    int status = algorithm == PYCONV_CONV_SCATTER
                     ? VARIANT(grad_input_scatter)(g, grad_output, weight, result)
                     : VARIANT(grad_input_depthwise)(g, grad_output, weight, result);
    if (status != PYCONV_OK || !residual) return status;
    return KERNELS(join).add(g->batch * g->in_height * g->in_width * g->in_channels, result, residual, 0,
                             result);
}

/* The correlations that make up the gradient of the input: one, or one for each residue of the stride. */
static ptrdiff_t gradient_parts(const struct pyconv_conv2d *g, enum pyconv_conv_algorithm algorithm) {
    if (algorithm == PYCONV_CONV_WINOGRAD && is_strided(g)) return 1;
    return min_size(g->stride_height, g->in_height) * min_size(g->stride_width, g->in_width);
}

static struct correlation gradient_part(const struct pyconv_conv2d *g, enum pyconv_conv_algorithm algorithm,
                                        ptrdiff_t part, const void *grad_output, const void *weight,
                                        void *result, struct tap *tap) {
    if (algorithm == PYCONV_CONV_WINOGRAD && is_strided(g))
        return spread_correlation(g, grad_output, weight, result, tap);
    ptrdiff_t columns = min_size(g->stride_width, g->in_width);
    return grad_input_correlation(g, part / columns, part % columns, grad_output, weight, result, tap);
}

static int grad_input_parts(const struct pyconv_conv2d *g, const void *grad_output, const void *weight,
                            const void *residual, void *result, enum pyconv_conv_algorithm algorithm) {
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    int status = PYCONV_OK;
    for (ptrdiff_t part = 0; part < gradient_parts(g, algorithm) && status == PYCONV_OK; part++) {
        struct correlation c = gradient_part(g, algorithm, part, grad_output, weight, result, tap);
        if (residual) c.epilogue.residual = (const real *)residual + (c.dst - (real *)result);
        status = correlate(&c, algorithm);
    }
    pyconv_free(tap, bytes);
    return status;
}

int VARIANT(conv_grad_input)(const struct pyconv_conv2d *g, const void *grad_output, const void *weight,
                             const void *residual, void *result, enum pyconv_conv_algorithm algorithm) {
    algorithm = VARIANT(choose_conv)(g, PYCONV_GRAD_INPUT, algorithm);
    if (algorithm == PYCONV_CONV_SCATTER || algorithm == PYCONV_CONV_DEPTHWISE)
        return grad_input_alone(g, grad_output, weight, residual, result, algorithm);
    int status = grad_input_parts(g, grad_output, weight, residual, result, algorithm);
    return status == PYCONV_NOT_FINITE
               ? grad_input_parts(g, grad_output, weight, residual, result, PYCONV_CONV_DIRECT)
               : status;
}

/* ---- Gradient of the bias: the sum of grad_output over all pixels ---- */

#define BIAS_PIXELS ((ptrdiff_t)512) /* summed in one go; then the partial sums are, in order */

struct bias_gradient {
    ptrdiff_t pixels, channels;
    const real *grad_output;
    real *parts;
};

/* Of fewer channels than lanes, LANES pixels are added as one row of whole vectors, and then these. */
static void run_bias(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct bias_gradient *b = context;
    ptrdiff_t begin = task * BIAS_PIXELS, count = min_size(BIAS_PIXELS, b->pixels - begin);
    const ptrdiff_t channels = b->channels, rows = channels < LANES ? count / LANES : 0;
    const real *from = b->grad_output + begin * channels;
    real *to = b->parts + task * channels, row[LANES * LANES];
    if (rows == 0) {
        sum_parts(from, count, channels, 0, channels, to);
        return;
    }
    sum_parts(from, rows, channels * LANES, 0, channels * LANES, row);
    sum_parts(row, LANES, channels, 0, channels, to);
    for (ptrdiff_t p = rows * LANES; p < count; p++)
        for (ptrdiff_t k = 0; k < channels; k++) to[k] += from[p * channels + k];
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

int VARIANT(conv_grad_weight)(const struct pyconv_conv2d *g, const void *grad_output, const void *input,
                              void *result, void *grad_bias, enum pyconv_conv_algorithm algorithm) {
    algorithm = VARIANT(choose_conv)(g, PYCONV_GRAD_WEIGHT, algorithm);
    int status = PYCONV_OK;
    if (grad_bias)
        status =
            bias_gradient(g->batch * g->out_height * g->out_width, g->out_channels, grad_output, grad_bias);
    if (status != PYCONV_OK || !result) return status;
    if (algorithm == PYCONV_CONV_DEPTHWISE)
        return VARIANT(grad_weight_depthwise)(g, grad_output, input, result);
    if (algorithm == PYCONV_CONV_WINOGRAD) {
        status = VARIANT(grad_weight_winograd)(g, grad_output, input, result);
        if (status != PYCONV_NOT_FINITE) return status;
    }
    enum lanes_of lanes = weight_lanes(g);
    if (lanes == FILTERS) return VARIANT(grad_weight_direct)(g, grad_output, input, result);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    struct correlation c = forward_correlation(g, input, NULL, NULL, NULL, tap);
    status = lanes == PIXELS ? VARIANT(grad_weight_planar)(&c, grad_output, result)
                             : VARIANT(grad_weight_grouped)(&c, grad_output, result);
    pyconv_free(tap, bytes);
    return status;
}

/* ---- What a call would take ---- */

static void add_correlation(const struct correlation *c, enum pyconv_conv_algorithm algorithm,
                            struct workspace *most) {
    if (!c->taps || !c->src_channels || !c->dst_channels || !c->dst_height || !c->dst_width || !c->batch)
        return;
    struct workspace bytes = {0, 0}; /* depthwise: a copy of the weight */
    if (algorithm == PYCONV_CONV_WINOGRAD) bytes = VARIANT(correlate_winograd_workspace)(c);
    if (algorithm == PYCONV_CONV_DIRECT) bytes = VARIANT(correlate_direct_workspace)(c);
    if (bytes.shared > most->shared) most->shared = bytes.shared;
    if (bytes.scratch > most->scratch) most->scratch = bytes.scratch;
}

static struct workspace weight_workspace(const struct pyconv_conv2d *g, enum pyconv_conv_algorithm algorithm,
                                         struct tap *tap) {
    if (algorithm == PYCONV_CONV_WINOGRAD) return VARIANT(grad_weight_winograd_workspace)(g);
    if (algorithm != PYCONV_CONV_DIRECT) return (struct workspace){0, 0}; /* depthwise: parts of the weight */
    enum lanes_of lanes = weight_lanes(g);
    if (lanes == FILTERS) return VARIANT(grad_weight_direct_workspace)(g);
    struct correlation c = forward_correlation(g, NULL, NULL, NULL, NULL, tap);
    return lanes == PIXELS ? VARIANT(grad_weight_planar_workspace)(&c)
                           : VARIANT(grad_weight_grouped_workspace)(&c);
}

int VARIANT(conv_explain)(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                          enum pyconv_conv_algorithm asked, struct pyconv_conv_plan *plan) {
    enum pyconv_conv_algorithm algorithm = VARIANT(choose_conv)(g, pass, asked);
    size_t size;
    struct tap *tap = alloc_taps(g, &size);
    if (!tap) return PYCONV_NO_MEMORY;
    struct workspace bytes = {0, 0};
    ptrdiff_t prepared = 0;
    int empty = !g->batch || !g->in_channels || !g->out_channels || !g->out_height || !g->out_width;
    if (empty) {
    } else if (pass == PYCONV_GRAD_WEIGHT) {
        bytes = weight_workspace(g, algorithm, tap);
    } else if (algorithm == PYCONV_CONV_SCATTER) {
        bytes = VARIANT(grad_input_scatter_workspace)(g);
    } else if (pass != PYCONV_GRAD_INPUT) {
        struct correlation c = forward_correlation(g, NULL, NULL, NULL, NULL, tap);
        add_correlation(&c, algorithm, &bytes);
        if (algorithm == PYCONV_CONV_WINOGRAD) prepared = VARIANT(winograd_prepared)(&c);
        if (algorithm == PYCONV_CONV_DIRECT) prepared = VARIANT(direct_prepared)(&c);
    } else {
        for (ptrdiff_t part = 0; part < gradient_parts(g, algorithm); part++) {
            struct correlation c = gradient_part(g, algorithm, part, NULL, NULL, NULL, tap);
            add_correlation(&c, algorithm, &bytes);
        }
    }
    pyconv_free(tap, size);
    *plan = (struct pyconv_conv_plan){algorithm,     empty ? 0 : VARIANT(conv_cycles)(g, pass, algorithm),
                                      LANES,         bytes.shared,
                                      bytes.scratch, (size_t)prepared * sizeof(real)};
    return PYCONV_OK;
}
