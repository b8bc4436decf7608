/* Convolution of images in either memory format: planes go to kernels of their own, or are copied to
 * channels-last memory for the others, and what these make is copied back; conv_choice.c tells which is
 * sooner.
 */
#include "conv.h"
#include "correlation.h"

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

/* The algorithm for the copies is chosen anew. */
static enum pyconv_conv_algorithm asked_of_copies(enum pyconv_conv_algorithm asked) {
    return asked == PYCONV_CONV_PLANES ? PYCONV_CONV_AUTO : asked;
}

/* ---- Planes as they are ---- */

static int is_chosen(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                     enum pyconv_conv_algorithm asked) {
    return VARIANT(choose_conv)(g, pass, asked) == PYCONV_CONV_PLANES;
}

static int forward_planes(const struct pyconv_conv2d *g, const void *input, const void *weight,
                          const struct pyconv_epilogue *epilogue, void *output) {
    if (is_depthwise(g)) return VARIANT(depthwise_planes)(g, input, weight, epilogue, output);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    struct correlation c = forward_correlation(g, input, weight, epilogue, output, tap);
    int status = VARIANT(correlate_planes)(&c);
    pyconv_free(tap, bytes);
    return status;
}

static int grad_input_planes(const struct pyconv_conv2d *g, const void *grad_output, const void *weight,
                             const void *residual, void *result) {
    if (is_depthwise(g))
        return VARIANT(grad_input_depthwise_planes)(g, grad_output, weight, residual, result);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    struct correlation c = grad_input_correlation(g, 0, 0, grad_output, weight, result, tap);
    c.epilogue.residual = residual;
    int status = VARIANT(correlate_planes)(&c);
    pyconv_free(tap, bytes);
    return status;
}

static int grad_weight_planes(const struct pyconv_conv2d *g, const void *grad_output, const void *input,
                              void *result) {
    if (is_depthwise(g)) return VARIANT(grad_weight_depthwise_planes)(g, grad_output, input, result);
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
    if (is_chosen(g, prepared ? PYCONV_FORWARD_PREPARED : PYCONV_FORWARD, asked))
        return forward_planes(g, input, weight, epilogue, output);
    struct pyconv_conv2d last = channels_last(g);
    struct image x = {0}, y = {0}, residual = {0};
    int status = copy_image(input_size(g), input, &x);
    if (status == PYCONV_OK) status = copy_image(output_size(g), epilogue->residual, &residual);
    if (status == PYCONV_OK) status = make_image(output_size(g), output, &y);
    struct pyconv_epilogue each = {epilogue->bias, residual.array, epilogue->relu};
    if (status == PYCONV_OK)
        status =
            VARIANT(conv_forward)(&last, x.array, weight, prepared, &each, y.array, asked_of_copies(asked));
    status = copy_back(&y, output, status);
    free_image(&y), free_image(&residual), free_image(&x);
    return status;
}

static int grad_input(const struct pyconv_conv2d *g, const void *grad_output, const void *weight,
                      const void *residual, void *result, enum pyconv_conv_algorithm asked) {
    if (!g->planes) return VARIANT(conv_grad_input)(g, grad_output, weight, residual, result, asked);
    if (is_chosen(g, PYCONV_GRAD_INPUT, asked))
        return grad_input_planes(g, grad_output, weight, residual, result);
    struct pyconv_conv2d last = channels_last(g);
    struct image gradient = {0}, added = {0}, y = {0};
    int status = copy_image(output_size(g), grad_output, &gradient);
    if (status == PYCONV_OK) status = copy_image(input_size(g), residual, &added);
    if (status == PYCONV_OK) status = make_image(input_size(g), result, &y);
    if (status == PYCONV_OK)
        status = VARIANT(conv_grad_input)(&last, gradient.array, weight, added.array, y.array,
                                          asked_of_copies(asked));
    status = copy_back(&y, result, status);
    free_image(&y), free_image(&added), free_image(&gradient);
    return status;
}

static int grad_weight(const struct pyconv_conv2d *g, const void *grad_output, const void *input,
                       void *result, void *grad_bias, enum pyconv_conv_algorithm asked) {
    if (!g->planes) return VARIANT(conv_grad_weight)(g, grad_output, input, result, grad_bias, asked);
    int status = grad_bias ? VARIANT(grad_bias_planes)(g, grad_output, grad_bias) : PYCONV_OK;
    if (status != PYCONV_OK || !result) return status;
    if (is_chosen(g, PYCONV_GRAD_WEIGHT, asked)) return grad_weight_planes(g, grad_output, input, result);
    struct pyconv_conv2d last = channels_last(g);
    struct image gradient = {0}, x = {0};
    status = copy_image(output_size(g), grad_output, &gradient);
    if (status == PYCONV_OK) status = copy_image(input_size(g), input, &x);
    if (status == PYCONV_OK)
        status =
            VARIANT(conv_grad_weight)(&last, gradient.array, x.array, result, NULL, asked_of_copies(asked));
    free_image(&x), free_image(&gradient);
    return status;
}

/* ---- Before a call ---- */

static int prepare(const struct pyconv_conv2d *g, const void *weight, void *prepared,
                   enum pyconv_conv_algorithm asked) {
    struct pyconv_conv2d last = channels_last(g);
    return VARIANT(conv_prepare)(&last, weight, prepared, asked_of_copies(asked));
}

static int explain_planes(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                          struct pyconv_conv_plan *plan) {
    size_t size;
    struct tap *tap = alloc_taps(g, &size);
    if (!tap) return PYCONV_NO_MEMORY;
    struct workspace bytes = {0, 0}; /* depthwise: some rows of a plane */
    if (is_depthwise(g)) {
    } else if (pass == PYCONV_GRAD_INPUT) {
        struct correlation c = grad_input_correlation(g, 0, 0, NULL, NULL, NULL, tap);
        bytes = VARIANT(correlate_planes_workspace)(&c);
    } else {
        struct correlation c = forward_correlation(g, NULL, NULL, NULL, NULL, tap);
        bytes = pass == PYCONV_GRAD_WEIGHT ? VARIANT(grad_weight_planes_workspace)(&c)
                                           : VARIANT(correlate_planes_workspace)(&c);
    }
    pyconv_free(tap, size);
    *plan = (struct pyconv_conv_plan){.algorithm = PYCONV_CONV_PLANES,
                                      .cycles = VARIANT(conv_cycles)(g, pass, PYCONV_CONV_PLANES),
                                      .lanes = LANES,
                                      .shared = bytes.shared,
                                      .scratch = bytes.scratch};
    return PYCONV_OK;
}

static int explain(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                   enum pyconv_conv_algorithm asked, struct pyconv_conv_plan *plan) {
    if (g->planes && is_chosen(g, pass, asked)) return explain_planes(g, pass, plan);
    struct pyconv_conv2d last = channels_last(g);
    int status = VARIANT(conv_explain)(&last, pass, asked_of_copies(asked), plan);
    if (g->planes) plan->shared += copy_bytes(input_size(g)) + copy_bytes(output_size(g));
    return status;
}

const struct pyconv_conv_kernels KERNELS(conv) = {forward, grad_input, grad_weight, prepare, explain};
