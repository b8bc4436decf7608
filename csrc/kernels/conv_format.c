/* Convolution of images in either memory format: planes go to kernels of their own, or to Winograd's where
 * these make tiles of either, or are copied to channels-last memory for the others, and what these make is
 * copied back; conv_choice.c tells which is sooner.
 */
#include "conv.h"
#include "correlation.h"
#include "winograd_tile.h"

extern const struct pyconv_layout_kernels KERNELS(layout);

/* ---- Copies ---- */

struct image_size {
    ptrdiff_t batch, channels, pixels;
};

static struct image_size input_size(const struct pyconv_conv2d *g) {
    return (struct image_size){g->batch, g->in_channels, g->in_height * g->in_width};
}

static struct image_size output_size(const struct pyconv_conv2d *g) {
    return (struct image_size){g->batch, g->out_channels, g->out_height * g->out_width};
}

/* Bytes of a copy; 0: of one channel, or one pixel, both formats hold the same. */
static size_t copy_bytes(struct image_size s) {
    if (s.channels <= 1 || s.pixels <= 1) return 0;
    return (size_t)(s.batch * s.channels * s.pixels) * sizeof(real);
}

/* An image in channels-last memory: where the caller's is that, or NULL, `array` is it. */
struct image {
    real *array, *copy;
    struct image_size size;
};

/* Memory only */
static int make_image(struct image_size size, const void *array, struct image *image) {
    *image = (struct image){.array = (real *)array, .size = size};
    if (!array || !copy_bytes(size)) return PYCONV_OK;
    image->array = image->copy = pyconv_alloc(copy_bytes(size));
    return image->copy ? PYCONV_OK : PYCONV_NO_MEMORY;
}

static int copy_image(struct image_size size, const void *array, struct image *image) {
    int status = make_image(size, array, image);
    if (status != PYCONV_OK || !image->copy) return status;
    return KERNELS(layout).transpose(size.batch, size.channels, size.pixels, array, image->copy);
}

/* `status`, or that of copying the image back to where the caller wants it */
static int copy_back(const struct image *image, void *array, int status) {
    if (status != PYCONV_OK || !image->copy) return status;
    return KERNELS(layout).transpose(image->size.batch, image->size.pixels, image->size.channels, image->copy,
                                     array);
}

static void free_image(struct image *image) {
    if (image->copy) pyconv_free(image->copy, copy_bytes(image->size));
}

static struct pyconv_conv2d channels_last(const struct pyconv_conv2d *g) {
    struct pyconv_conv2d last = *g;
    last.planes = 0;
    return last;
}

/* The algorithm for the copies is chosen anew; not one that has met infinities already. */
static enum pyconv_conv_algorithm asked_of_copies(enum pyconv_conv_algorithm asked,
                                                  enum pyconv_conv_algorithm tried) {
    if (tried == PYCONV_CONV_WINOGRAD) return PYCONV_CONV_DIRECT;
    return asked == PYCONV_CONV_PLANES ? PYCONV_CONV_AUTO : asked;
}

/* ---- Planes as they are ---- */

/* The kernels that read planes: those for nothing else, or Winograd's; otherwise PYCONV_CONV_AUTO: none. */
static enum pyconv_conv_algorithm planes_algorithm(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                                                   enum pyconv_conv_algorithm asked) {
    enum pyconv_conv_algorithm chosen = VARIANT(choose_conv)(g, pass, asked);
    int reads = chosen == PYCONV_CONV_PLANES || (chosen == PYCONV_CONV_WINOGRAD && has_windows(g));
    return reads ? chosen : PYCONV_CONV_AUTO;
}

static int correlate(const struct correlation *c, enum pyconv_conv_algorithm algorithm) {
    return algorithm == PYCONV_CONV_WINOGRAD ? VARIANT(correlate_winograd)(c) : VARIANT(correlate_planes)(c);
}

static int forward_planes(const struct pyconv_conv2d *g, enum pyconv_conv_algorithm algorithm,
                          const void *input, const void *weight, const void *prepared,
                          const struct pyconv_epilogue *epilogue, void *output) {
    if (is_depthwise(g)) return VARIANT(depthwise_planes)(g, input, weight, epilogue, output);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    struct correlation c = forward_correlation(g, input, weight, epilogue, output, tap);
    c.prepared = prepared;
    int status = correlate(&c, algorithm);
    pyconv_free(tap, bytes);
    return status;
}

/* The gradient of the input as one correlation: of planes, there are no residues of the stride. */
static struct correlation whole_gradient(const struct pyconv_conv2d *g, const void *grad_output,
                                         const void *weight, void *result, struct tap *tap) {
    return is_strided(g) ? spread_correlation(g, grad_output, weight, result, tap)
                         : grad_input_correlation(g, 0, 0, grad_output, weight, result, tap);
}

static int grad_input_planes(const struct pyconv_conv2d *g, enum pyconv_conv_algorithm algorithm,
                             const void *grad_output, const void *weight, const void *residual,
                             void *result) {
    if (is_depthwise(g))
        return VARIANT(grad_input_depthwise_planes)(g, grad_output, weight, residual, result);
    if (algorithm == PYCONV_CONV_PLANES && has_residues(g))
        return VARIANT(grad_input_spread)(g, grad_output, weight, residual, result);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    struct correlation c = whole_gradient(g, grad_output, weight, result, tap);
    c.epilogue.residual = residual;
    int status = correlate(&c, algorithm);
    pyconv_free(tap, bytes);
    return status;
}

static int grad_weight_planes(const struct pyconv_conv2d *g, enum pyconv_conv_algorithm algorithm,
                              const void *grad_output, const void *input, void *result) {
    if (is_depthwise(g)) return VARIANT(grad_weight_depthwise_planes)(g, grad_output, input, result);
    if (algorithm == PYCONV_CONV_WINOGRAD)
        return VARIANT(grad_weight_winograd)(g, grad_output, input, result);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    struct correlation c = forward_correlation(g, input, NULL, NULL, NULL, tap);
    int status = VARIANT(grad_weight_planes)(&c, grad_output, result);
    pyconv_free(tap, bytes);
    return status;
}

/* ---- The three passes ---- */

static int forward(const struct pyconv_conv2d *g, const void *input, const void *weight, const void *prepared,
                   const struct pyconv_epilogue *epilogue, void *output, enum pyconv_conv_algorithm asked) {
    if (!g->planes) return VARIANT(conv_forward)(g, input, weight, prepared, epilogue, output, asked);
    enum pyconv_conv_algorithm algorithm =
        planes_algorithm(g, prepared ? PYCONV_FORWARD_PREPARED : PYCONV_FORWARD, asked);
    int status = PYCONV_NOT_FINITE;
    if (algorithm) status = forward_planes(g, algorithm, input, weight, prepared, epilogue, output);
    if (status != PYCONV_NOT_FINITE) return status;
    struct pyconv_conv2d last = channels_last(g);
    struct image x = {0}, y = {0}, residual = {0};
    status = copy_image(input_size(g), input, &x);
    if (status == PYCONV_OK) status = copy_image(output_size(g), epilogue->residual, &residual);
    if (status == PYCONV_OK) status = make_image(output_size(g), output, &y);
    struct pyconv_epilogue each = {epilogue->bias, residual.array, epilogue->relu};
    if (status == PYCONV_OK)
        status = VARIANT(conv_forward)(&last, x.array, weight, prepared, &each, y.array,
                                       asked_of_copies(asked, algorithm));
    status = copy_back(&y, output, status);
    free_image(&y), free_image(&residual), free_image(&x);
    return status;
}

static int grad_input(const struct pyconv_conv2d *g, const void *grad_output, const void *weight,
                      const void *residual, void *result, enum pyconv_conv_algorithm asked) {
    if (!g->planes) return VARIANT(conv_grad_input)(g, grad_output, weight, residual, result, asked);
    enum pyconv_conv_algorithm algorithm = planes_algorithm(g, PYCONV_GRAD_INPUT, asked);
    int status = PYCONV_NOT_FINITE;
    if (algorithm) status = grad_input_planes(g, algorithm, grad_output, weight, residual, result);
    if (status != PYCONV_NOT_FINITE) return status;
    struct pyconv_conv2d last = channels_last(g);
    struct image gradient = {0}, added = {0}, y = {0};
    status = copy_image(output_size(g), grad_output, &gradient);
    if (status == PYCONV_OK) status = copy_image(input_size(g), residual, &added);
    if (status == PYCONV_OK) status = make_image(input_size(g), result, &y);
    if (status == PYCONV_OK)
        status = VARIANT(conv_grad_input)(&last, gradient.array, weight, added.array, y.array,
                                          asked_of_copies(asked, algorithm));
    status = copy_back(&y, result, status);
    free_image(&y), free_image(&added), free_image(&gradient);
    return status;
}

static int grad_weight(const struct pyconv_conv2d *g, const void *grad_output, const void *input,
                       void *result, void *grad_bias, enum pyconv_conv_algorithm asked) {
    if (!g->planes) return VARIANT(conv_grad_weight)(g, grad_output, input, result, grad_bias, asked);
    int status = grad_bias ? VARIANT(grad_bias_planes)(g, grad_output, grad_bias) : PYCONV_OK;
    if (status != PYCONV_OK || !result) return status;
    enum pyconv_conv_algorithm algorithm = planes_algorithm(g, PYCONV_GRAD_WEIGHT, asked);
    status = PYCONV_NOT_FINITE;
    if (algorithm) status = grad_weight_planes(g, algorithm, grad_output, input, result);
    if (status != PYCONV_NOT_FINITE) return status;
    struct pyconv_conv2d last = channels_last(g);
    struct image gradient = {0}, x = {0};
    status = copy_image(output_size(g), grad_output, &gradient);
    if (status == PYCONV_OK) status = copy_image(input_size(g), input, &x);
    if (status == PYCONV_OK)
        status = VARIANT(conv_grad_weight)(&last, gradient.array, x.array, result, NULL,
                                           asked_of_copies(asked, algorithm));
    free_image(&x), free_image(&gradient);
    return status;
}

/* ---- Before a call ---- */

static int prepare(const struct pyconv_conv2d *g, const void *weight, void *prepared,
                   enum pyconv_conv_algorithm asked) {
    struct pyconv_conv2d last = channels_last(g);
    return VARIANT(conv_prepare)(&last, weight, prepared, asked_of_copies(asked, PYCONV_CONV_AUTO));
}

static struct workspace planes_workspace(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                                         enum pyconv_conv_algorithm algorithm, struct tap *tap) {
    const int winograd = algorithm == PYCONV_CONV_WINOGRAD;
    if (is_depthwise(g)) return (struct workspace){0, 0}; /* some rows of a plane */
    if (pass == PYCONV_GRAD_INPUT && has_residues(g) && !winograd)
        return VARIANT(grad_input_spread_workspace)(g);
    if (pass == PYCONV_GRAD_WEIGHT && winograd) return VARIANT(grad_weight_winograd_workspace)(g);
    struct correlation c = pass == PYCONV_GRAD_INPUT ? whole_gradient(g, NULL, NULL, NULL, tap)
                                                     : forward_correlation(g, NULL, NULL, NULL, NULL, tap);
    if (pass == PYCONV_GRAD_WEIGHT) return VARIANT(grad_weight_planes_workspace)(&c);
    return winograd ? VARIANT(correlate_winograd_workspace)(&c) : VARIANT(correlate_planes_workspace)(&c);
}

static int explain(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                   enum pyconv_conv_algorithm asked, struct pyconv_conv_plan *plan) {
    enum pyconv_conv_algorithm algorithm = g->planes ? planes_algorithm(g, pass, asked) : PYCONV_CONV_AUTO;
    struct pyconv_conv2d last = channels_last(g);
    int status = VARIANT(conv_explain)(&last, pass, asked_of_copies(asked, PYCONV_CONV_AUTO), plan);
    if (status != PYCONV_OK || !g->planes) return status;
    if (!algorithm) {
        plan->shared += copy_bytes(input_size(g)) + copy_bytes(output_size(g));
        return PYCONV_OK;
    }
    size_t size;
    struct tap *tap = alloc_taps(g, &size);
    if (!tap) return PYCONV_NO_MEMORY;
    struct workspace bytes = planes_workspace(g, pass, algorithm, tap);
    pyconv_free(tap, size);
    plan->shared = bytes.shared, plan->scratch = bytes.scratch;
    if (algorithm == PYCONV_CONV_WINOGRAD) return PYCONV_OK;
    plan->algorithm = algorithm, plan->prepared = 0;
    plan->cycles = VARIANT(conv_cycles)(g, pass, algorithm);
    return PYCONV_OK;
}

const struct pyconv_conv_kernels KERNELS(conv) = {forward, grad_input, grad_weight, prepare, explain};
