/* The whole C interface of pyconv, on one page.
 *
 * C here knows nothing of Python: pointers, sizes and structs come in, a status goes out. Images are
 * NHWC in memory (channels-last), dense, without gaps; `void *` points to float or double, as the kernel
 * table that the function was taken from says. Inputs are never written to, and no argument is checked
 * here: that was done above, where the caller can be told.
 */
#ifndef PYCONV_H
#define PYCONV_H

#include <stddef.h>
#include <stdint.h>

/* PYCONV_NOT_FINITE: between the kernels, see kernels/finite.h */
enum pyconv_status { PYCONV_OK = 0, PYCONV_NO_MEMORY = 1, PYCONV_BAD_INDEX = 2, PYCONV_NOT_FINITE = 3 };
enum pyconv_isa { PYCONV_BASELINE, PYCONV_AVX2, PYCONV_AVX512, PYCONV_ISA_COUNT };
enum pyconv_dtype { PYCONV_F32, PYCONV_F64, PYCONV_DTYPE_COUNT };

/* ---- Elementwise operators: activation.c --------------------------------------------------------- */

/* Which function `unary` computes; a and b are its parameters. */
enum pyconv_unary {
    PYCONV_RELU,        /* max(x, 0) */
    PYCONV_LEAKY_RELU,  /* x > 0 ? x : a x */
    PYCONV_HARDTANH,    /* min(max(x, a), b) */
    PYCONV_HARDSIGMOID, /* min(max(x + 3, 0), 6) / 6 */
    PYCONV_HARDSWISH,   /* x hardsigmoid(x) */
    PYCONV_SOFTSIGN,    /* x / (1 + |x|) */
    PYCONV_SIGMOID,     /* 1 / (1 + e^-x) */
    PYCONV_TANH,        /* tanh(x) */
    PYCONV_SILU,        /* x sigmoid(x) */
    PYCONV_MISH,        /* x tanh(softplus(x)) */
    PYCONV_ELU,         /* x > 0 ? x : a (e^(b x) - 1) */
    PYCONV_SELU,        /* s (x > 0 ? x : t (e^x - 1)) with the s and t of Klambauer et al., 2017 */
    PYCONV_GELU,        /* x P(X <= x), X standard normal */
    PYCONV_GELU_TANH,   /* x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) */
    PYCONV_SOFTPLUS,    /* a x > b ? x : log(1 + e^(a x)) / a */
    /* The same functions again, whose derivatives are taken at their output instead of their input */
    PYCONV_SIGMOID_OUTPUT,
    PYCONV_TANH_OUTPUT,
    PYCONV_UNARY_COUNT
};

struct pyconv_activation_kernels {
    /* output[i] = f(input[i]), i < count; input and output may be the same array */
    int (*unary)(enum pyconv_unary op, ptrdiff_t count, const void *input, double a, double b, void *output);
    /* grad_input[i] = f'(input[i]) * grad_output[i]; grad_input may be grad_output */
    int (*unary_backward)(enum pyconv_unary op, ptrdiff_t count, const void *grad_output, const void *input,
                          double a, double b, void *grad_input);
};

/* ---- Softmax: softmax.c --------------------------------------------------------------------------- */

struct pyconv_softmax_kernels {
    /* Along `dim` of input[outer][dim][inner]: the softmax, or with `log` its logarithm */
    int (*softmax)(ptrdiff_t outer, ptrdiff_t dim, ptrdiff_t inner, const void *input, int log, void *output);
    /* grad_input from grad_output and what the forward gave, all [outer][dim][inner] */
    int (*softmax_backward)(ptrdiff_t outer, ptrdiff_t dim, ptrdiff_t inner, const void *grad_output,
                            const void *output, int log, void *grad_input);
};

/* ---- Dropout: dropout.c ----------------------------------------------------------------------------- */

struct pyconv_dropout_kernels {
    /* mask[count]: 1 where an element is kept, which `seed` decides, and 0, with probability p < 1;
     * output[i] = input[i] mask[i] / (1 - p) */
    int (*dropout)(ptrdiff_t count, const void *input, uint64_t seed, double p, uint8_t *mask, void *output);
    int (*dropout_backward)(ptrdiff_t count, const void *grad_output, const uint8_t *mask, double p,
                            void *grad_input);
};

/* ---- Operators with a number for each channel: channel.c --------------------------------------------- */

struct pyconv_channel_kernels {
    /* output = input factor, input[outer][channels][inner], factor[outer / period][channels] */
    int (*scale)(ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, ptrdiff_t period, const void *input,
                 const void *factor, void *output);
    /* output = input > 0 ? input : weight input, input[outer][channels][inner], weight[channels] */
    int (*prelu)(ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, const void *input, const void *weight,
                 void *output);
    /* grad_input as input or NULL, grad_weight[channels] or NULL */
    int (*prelu_backward)(ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, const void *grad_output,
                          const void *input, const void *weight, void *grad_input, void *grad_weight);
};

/* ---- Losses: loss.c, loss_class.c, loss_entropy.c ----------------------------------------------------- */

/* x: input, t: target, a: the parameter */
enum pyconv_pointwise_loss {
    PYCONV_MSE_LOSS,             /* (x - t)^2 */
    PYCONV_L1_LOSS,              /* |x - t| */
    PYCONV_SMOOTH_L1_LOSS,       /* d = |x - t|: d < a ? d^2 / (2 a) : d - a / 2 */
    PYCONV_BCE_WITH_LOGITS_LOSS, /* (1 - t) x + log(1 + e^-x) */
    PYCONV_POINTWISE_LOSS_COUNT
};

struct pyconv_loss_kernels {
    /* The first of target[rows] that is neither in [0, classes) nor ignore_index, or -1; then total is the
     * sum of weight[class] (1 where NULL) of those not ignored */
    ptrdiff_t (*check_classes)(ptrdiff_t rows, ptrdiff_t classes, const int64_t *target, const void *weight,
                               int64_t ignore_index, double *total);
    /* input[outer][classes][inner], target[outer][inner] in [0, classes) or ignore_index, weight[classes] or
     * NULL; loss[outer][inner] and their sum, or NULL; grad_input as input or NULL, the gradient of the sum
     * of row_scale[outer][inner] times loss, or scale times loss where row_scale is NULL */
    int (*cross_entropy)(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, const void *input,
                         const int64_t *target, const void *weight, int64_t ignore_index, double smoothing,
                         const void *row_scale, double scale, void *loss, double *sum, void *grad_input);
    /* The same of minus the input that target picks */
    int (*nll)(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, const void *input, const int64_t *target,
               const void *weight, int64_t ignore_index, void *loss, double *sum);
    int (*nll_backward)(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, const int64_t *target,
                        const void *weight, int64_t ignore_index, const void *row_scale, double scale,
                        void *grad_input);
    /* losses[count] or NULL, and their sum */
    int (*pointwise_loss)(enum pyconv_pointwise_loss op, ptrdiff_t count, const void *input,
                          const void *target, double a, void *losses, double *sum);
    /* grad_input[i] = scale (grad_output[i], or 1 where it is NULL) times the slope in input[i] */
    int (*pointwise_loss_backward)(enum pyconv_pointwise_loss op, ptrdiff_t count, const void *grad_output,
                                   double scale, const void *input, const void *target, double a,
                                   void *grad_input);
};

/* ---- Pooling: pool_max.c, pool_avg.c, pool_index.c -------------------------------------------- */

/* Windows over an (images, height, width, channels) input. Window i of an axis has its taps at
 * i stride - padding + j dilation, j < kernel, those outside the input left out; with `adaptive` they are
 * floor(i extent / out_extent) up to ceil((i + 1) extent / out_extent), and the four pairs are not used. */
struct pyconv_pool {
    ptrdiff_t images, height, width, channels, out_height, out_width;
    ptrdiff_t kernel[2], stride[2], padding[2], dilation[2]; /* vertical, horizontal */
    int adaptive;
    int count_include_pad; /* averages: padding counts as zeros */
    ptrdiff_t divisor;     /* averages: what sums are divided by; 0 for the number of taps */
    int relu;              /* maxima: then max(., 0); channels > 1, no indices or those of taps */
};

/* How max_pool2d says where a maximum was. */
enum pyconv_pool_index {
    PYCONV_NO_INDEX,
    PYCONV_PLANE_INDEX, /* int64_t: row * width + column in the input's plane */
    PYCONV_TAP_INDEX    /* uint8_t: kernel row * kernel[1] + kernel column; kernels of at most 255 taps */
};
#define PYCONV_NO_TAP 255 /* with relu: the index where the maximum is not above 0 */

/* input, grad_input: (images, height, width, channels); output, grad_output and the indices:
 * (images, out_height, out_width, channels). */
struct pyconv_max_pool_kernels {
    /* indices: of the type that `form` says, or NULL */
    int (*forward)(const struct pyconv_pool *pool, enum pyconv_pool_index form, const void *input,
                   void *output, void *indices);
    /* grad_input = the sum of grad_output over the windows whose maximum was there (tap indices) */
    int (*backward)(const struct pyconv_pool *pool, const void *grad_output, const uint8_t *indices,
                    void *grad_input);
};

struct pyconv_pool_index_kernels {
    /* unpooled (images, plane, channels) is cleared; then for each i < count, in order,
     * unpooled[n][indices[n][i][c]][c] += pooled[n][i][c], or = with `assign`. Indices outside the plane
     * are left out, and the status is PYCONV_BAD_INDEX. */
    int (*scatter)(ptrdiff_t images, ptrdiff_t plane, ptrdiff_t count, ptrdiff_t channels, int assign,
                   const void *pooled, const int64_t *indices, void *unpooled);
    /* pooled[n][i][c] = unpooled[n][indices[n][i][c]][c]: the gradient of the assigning scatter */
    int (*gather)(ptrdiff_t images, ptrdiff_t plane, ptrdiff_t count, ptrdiff_t channels,
                  const void *unpooled, const int64_t *indices, void *pooled);
};

struct pyconv_avg_pool_kernels {
    int (*forward)(const struct pyconv_pool *pool, const void *input, void *output);
    int (*backward)(const struct pyconv_pool *pool, const void *grad_output, void *grad_input);
};

/* ---- Interpolation and padding: resample.c --------------------------------------------------------- */

/* How the places of all taps go on in a stretch of elements with equally many taps */
enum pyconv_step {
    PYCONV_IRREGULAR,  /* anyhow, and the numbers of taps may differ */
    PYCONV_STEP_1,     /* growing by 1 */
    PYCONV_STEP_2,     /* growing by 2 */
    PYCONV_ALTERNATING /* those two elements on are larger by 1 */
};

/* Which elements of an axis each of the `size` elements of a new axis is the weighted sum of: tap t <
 * count[i] of element i has place[t * size + i] and weight[t * size + i]; beyond count[i], places are legal
 * ones. */
struct pyconv_taps {
    ptrdiff_t size, most;         /* most: the largest count */
    const int32_t *count, *place; /* [size], [most][size] */
    const void *weight;           /* [most][size], or NULL: all are 1 */
    ptrdiff_t stretches;
    const int32_t *stretch; /* [stretches][2]: the element behind it, and its enum pyconv_step */
    int even;               /* no count is 0 */
};

/* output[n][i][j][c] = sum over the taps of row i and column j of input[n][h][w][c]; `value` where there
 * are none. input: [images][height][width][channels] */
struct pyconv_resample {
    ptrdiff_t images, height, width, channels;
    struct pyconv_taps row, column;
    double value;
};

struct pyconv_resample_kernels {
    int (*resample)(const struct pyconv_resample *sizes, const void *input, void *output);
};

/* ---- Memory layout: layout.c ---------------------------------------------------------------------- */

struct pyconv_layout_kernels {
    /* output[b][j][i] = input[b][i][j] for `batch` matrices of rows x columns: with rows = channels and
     * columns = height * width this takes NCHW to NHWC, and the other way round it takes it back. */
    int (*transpose)(ptrdiff_t batch, ptrdiff_t rows, ptrdiff_t columns, const void *input, void *output);
};

/* ---- The machine's limits: peak.c ------------------------------------------------------------------ */

struct pyconv_peak_kernels {
    /* Work that is bound by arithmetic alone; returns the number of its additions and multiplications.
     * output[256] receives numbers of no meaning. */
    double (*arithmetic)(ptrdiff_t rounds, void *output);
    /* y[i] += factor * x[i], i < count: bound by memory alone where the arrays exceed the caches */
    int (*memory)(ptrdiff_t count, double factor, const void *x, void *y);
};

/* ---- Normalisation: norm.c (channels-last memory) and norm_planes.c (channels-first) ---------------- */

/* Each of batch x channels runs of `rows` elements is normalised by itself. Memory is batch x rows x channels
 * for the table `norm` and batch x channels x rows for `norm_planes`; every double array is batch x channels.
 */
struct pyconv_norm {
    ptrdiff_t batch, rows, channels;
    const double *mean, *scale, *bias; /* y = (x - mean) * scale + bias */
    const void *weight, *shift;        /* norm_planes: then y = y * weight + shift, each NULL or of `rows` */
    int relu;                          /* then y = max(y + residual, 0) */
    double ceiling;                    /* and at most this; NaN: no limit */
};

/* Statistics of each of `groups` groups of the channels of each batch entry. */
struct pyconv_group_norm {
    ptrdiff_t groups;
    double eps;
    const double *weight, *bias;  /* [channels], or NULL: 1, 0 */
    double *var;                  /* [batch][groups], written */
    double *mean, *scale, *shift; /* [batch][channels], written: what norm->mean, scale and bias are then */
};

struct pyconv_norm_kernels {
    /* mean = sum(x) / rows; square = sum((x - mean)^2). Only the sizes of norm are read here. */
    int (*moments)(const struct pyconv_norm *norm, const void *x, double *mean, double *square);
    /* residual: of x's shape, or NULL */
    int (*normalize)(const struct pyconv_norm *norm, const void *x, const void *residual, void *y);
    /* sum = sum(g); product = sum(g * (x - mean)); with relu, g is first masked by the output y, or where y
     * is NULL by what it was without residual. masked_g: receives that g, or NULL. */
    int (*gradient_sums)(const struct pyconv_norm *norm, const void *g, const void *x, const void *y,
                         void *masked_g, double *sum, double *product);
    /* dx = a * g + b * (x - mean) + c, with g masked likewise */
    int (*gradient)(const struct pyconv_norm *norm, const void *g, const void *x, const void *y,
                    const double *a, const double *b, const double *c, void *dx);
    /* y = (x - mean) / sqrt(var + eps) * weight + bias by the statistics of the groups of x; or NULL */
    int (*normalize_groups)(const struct pyconv_norm *norm, const struct pyconv_group_norm *groups,
                            const void *x, void *y);
    /* Its gradient, with what normalize_groups wrote; sum and product as gradient_sums gives them */
    int (*gradient_groups)(const struct pyconv_norm *norm, const struct pyconv_group_norm *groups,
                           const void *g, const void *x, double *sum, double *product, void *dx);
    /* norm_planes, of one channel: the sums over the batch of g * (x - mean) * scale, and of g; [rows] */
    int (*element_sums)(const struct pyconv_norm *norm, const void *g, const void *x, void *product,
                        void *sum);
    /* norm_planes, of one channel, whose rows are pixels of `channels`: y = (x - mean) * scale * weight +
     * shift, with weight and shift as [channels][pixels] */
    int (*normalize_turned)(const struct pyconv_norm *norm, ptrdiff_t channels, const void *x, void *y);
    /* element_sums of the same, as [channels][pixels], for few entries: lanes add up all */
    int (*element_sums_turned)(const struct pyconv_norm *norm, ptrdiff_t channels, const void *g,
                               const void *x, void *product, void *sum);
};

/* Local response norm, norm_response.c, with the shapes of pyconv_norm; planes: channels-first memory. */
struct pyconv_response {
    ptrdiff_t batch, rows, channels;
    int planes;
    ptrdiff_t before, after; /* the window's channels on either side of a channel */
    double scale, beta, k;   /* y = x / (k + scale * sum(x^2)) ^ beta */
};

struct pyconv_response_kernels {
    int (*forward)(const struct pyconv_response *response, const void *x, void *y);
    int (*backward)(const struct pyconv_response *response, const void *g, const void *x, void *dx);
};

/* ---- Optimisers: optim.c --------------------------------------------------------------------------- */

/* One parameter: all arrays of `count` elements in the same dense order. */
struct pyconv_update {
    void *param;      /* updated in place */
    const void *grad; /* its gradient */
    void *state[3];   /* SGD: momentum or NULL; Adam: mean, mean square, largest mean square or NULL */
    ptrdiff_t start;  /* the sum of the counts of the parameters before this one */
    ptrdiff_t count;
    int first;         /* SGD: the momentum holds zeros and dampening does not apply yet */
    double step_size;  /* Adam: lr / (1 - beta1^step) */
    double correction; /* Adam: sqrt(1 - beta2^step) */
};
struct pyconv_sgd_options {
    double lr, momentum, dampening, weight_decay;
    int nesterov, maximize;
};
struct pyconv_adam_options {
    double lr, beta1, beta2, eps, weight_decay;
    int decoupled, maximize; /* decoupled: AdamW's decay of the parameter rather than L2's of the gradient */
};

struct pyconv_optim_kernels {
    int (*sgd)(ptrdiff_t tensors, const struct pyconv_update *updates,
               const struct pyconv_sgd_options *options);
    int (*adam)(ptrdiff_t tensors, const struct pyconv_update *updates,
                const struct pyconv_adam_options *options);
    /* result = the sum of the squares of all gradients, in double */
    int (*square_sum)(ptrdiff_t tensors, const struct pyconv_update *updates, double *result);
};

/* ---- Convolution: conv.c -------------------------------------------------------------------------- */

/* The geometry of a 2-D convolution (cross-correlation, as in PyTorch):
 *     output[n][p][q][k] = bias[k] + sum over r, s, c of weight[k][c][r][s] *
 *         input[n][p * stride_height + r * dilation_height - pad_top][the same for q, s][c]
 * where c runs over the in_channels / groups channels of k's group. */
struct pyconv_conv2d {
    ptrdiff_t batch, groups;
    ptrdiff_t in_channels, in_height, in_width;
    ptrdiff_t out_channels, out_height, out_width;
    ptrdiff_t kernel_height, kernel_width;
    ptrdiff_t stride_height, stride_width;
    ptrdiff_t pad_top, pad_left; /* below and to the right, what the output's size implies */
    ptrdiff_t dilation_height, dilation_width;
    int planes; /* images are [batch][channels][height][width], and not channels-last */
};

/* What is done to an output before it is stored: + bias, + residual, then max(., 0); NULL and 0: not. */
struct pyconv_epilogue {
    const void *bias;     /* [out_channels] */
    const void *residual; /* as the output */
    int relu;
};

enum pyconv_conv_pass {
    PYCONV_FORWARD,
    PYCONV_GRAD_INPUT,
    PYCONV_GRAD_WEIGHT,
    PYCONV_FORWARD_PREPARED /* by a weight that `prepare` has laid out, where the algorithm keeps one */
};
enum pyconv_conv_algorithm {
    PYCONV_CONV_AUTO,
    PYCONV_CONV_DIRECT,
    PYCONV_CONV_DEPTHWISE,
    PYCONV_CONV_SCATTER,
    PYCONV_CONV_WINOGRAD,
    PYCONV_CONV_PLANES /* of planes, without a conversion to channels-last memory */
};

struct pyconv_conv_plan {
    enum pyconv_conv_algorithm algorithm;
    double cycles; /* of one core, if arithmetic were all; in each, two vectors of `lanes` multiply-adds */
    ptrdiff_t lanes;
    size_t shared, scratch; /* bytes of workspace: once a call; once for each thread */
    size_t prepared;        /* forward: bytes of the weight as `prepare` lays it out; 0: nothing to gain */
};

/* input, grad_input: [batch][in_height][in_width][in_channels], or planes; output, grad_output likewise;
 * weight, grad_weight: [out_channels][in_channels / groups][kernel_height][kernel_width];
 * grad_bias: [out_channels]. grad_weight and grad_bias may be NULL: not wanted.
 * prepared: NULL, or what `prepare` made of this weight for the same algorithm, in as many bytes (its tiles
 * differ otherwise); images may be of another size. */
struct pyconv_conv_kernels {
    int (*forward)(const struct pyconv_conv2d *, const void *input, const void *weight, const void *prepared,
                   const struct pyconv_epilogue *, void *output, enum pyconv_conv_algorithm);
    /* residual: NULL, or what is added to grad_input */
    int (*grad_input)(const struct pyconv_conv2d *, const void *grad_output, const void *weight,
                      const void *residual, void *grad_input, enum pyconv_conv_algorithm);
    int (*grad_weight)(const struct pyconv_conv2d *, const void *grad_output, const void *input,
                       void *grad_weight, void *grad_bias, enum pyconv_conv_algorithm);
    /* Lay a weight out as the forward pass reads it, once for many calls; explain of PYCONV_FORWARD_PREPARED
     * says how large that is. */
    int (*prepare)(const struct pyconv_conv2d *, const void *weight, void *prepared,
                   enum pyconv_conv_algorithm);
    /* What a call would take; the algorithm is that which AUTO or the one asked for stands for. */
    int (*explain)(const struct pyconv_conv2d *, enum pyconv_conv_pass, enum pyconv_conv_algorithm,
                   struct pyconv_conv_plan *);
};

/* ---- Linear layers: linear.c ------------------------------------------------------------------------ */

/* input, grad_input: [rows][in]; output, grad_output: [rows][out]; weight, grad_weight: [out][in]; bias,
 * grad_bias: [out]. */
struct pyconv_linear_kernels {
    /* output = input weight^T + bias, then max(., 0) where relu; bias may be NULL */
    int (*forward)(ptrdiff_t rows, ptrdiff_t in, ptrdiff_t out, const void *input, const void *weight,
                   const void *bias, int relu, void *output);
    /* grad_input = grad_output weight */
    int (*grad_input)(ptrdiff_t rows, ptrdiff_t in, ptrdiff_t out, const void *grad_output,
                      const void *weight, void *grad_input);
    /* grad_weight = grad_output^T input, grad_bias = sum over rows of grad_output; NULL: not wanted */
    int (*grad_weight)(ptrdiff_t rows, ptrdiff_t in, ptrdiff_t out, const void *grad_output,
                       const void *input, void *grad_weight, void *grad_bias);
};

/* ---- Joins of branches: join.c ---------------------------------------------------------------------- */

struct pyconv_join_kernels {
    /* output[i] = a[i] + b[i], i < count, then max(., 0) where relu; output may be a or b */
    int (*add)(ptrdiff_t count, const void *a, const void *b, int relu, void *output);
    /* output[r * output_stride + j] = input[r * input_stride + j], r < rows, j < columns */
    int (*copy)(ptrdiff_t rows, ptrdiff_t columns, const void *input, ptrdiff_t input_stride, void *output,
                ptrdiff_t output_stride);
    /* Row r of output is row r of the inputs one behind the other, inputs[k] having columns[k]; k < count */
    int (*concat)(ptrdiff_t rows, ptrdiff_t count, const void *const *inputs, const ptrdiff_t *columns,
                  void *output);
};

/* ---- One table per instruction set and scalar type ------------------------------------------------- */

struct pyconv_kernels {
    const struct pyconv_activation_kernels *activation;
    const struct pyconv_softmax_kernels *softmax;
    const struct pyconv_loss_kernels *loss;
    const struct pyconv_max_pool_kernels *max_pool;
    const struct pyconv_pool_index_kernels *pool_index;
    const struct pyconv_avg_pool_kernels *avg_pool;
    const struct pyconv_dropout_kernels *dropout;
    const struct pyconv_channel_kernels *channel;
    const struct pyconv_resample_kernels *resample;
    const struct pyconv_layout_kernels *layout;
    const struct pyconv_peak_kernels *peak;
    const struct pyconv_norm_kernels *norm, *norm_planes;
    const struct pyconv_response_kernels *norm_response;
    const struct pyconv_optim_kernels *optim;
    const struct pyconv_conv_kernels *conv;
    const struct pyconv_linear_kernels *linear;
    const struct pyconv_join_kernels *join;
};

/* cpu.c: the highest level that both the processor and the operating system support, its name, and the
 * table of a level (NULL where this build or this machine lacks it). */
int pyconv_best_isa(void);
/* What the last cache holds, SIZE_MAX where that is not known: see stream.h. Tests set it to 0. */
size_t pyconv_cache_bytes(void);
void pyconv_set_cache_bytes(size_t bytes);
const char *pyconv_isa_name(int isa);
const struct pyconv_kernels *pyconv_kernels(int isa, int dtype);

/* ---- Threads: parallel.c --------------------------------------------------------------------------- */

int pyconv_has_openmp(void);
void pyconv_set_num_threads(int threads); /* >= 1 */
int pyconv_get_num_threads(void);

/* ---- Memory: memory.c ------------------------------------------------------------------------------ */

/* A recycled block of at least `bytes` bytes, 64-byte aligned, not cleared; NULL when there is none. */
void *pyconv_alloc(size_t bytes);
void pyconv_free(void *block, size_t bytes); /* `bytes` as it was asked for */
void pyconv_trim(void);                      /* give every idle block back to the operating system */
size_t pyconv_idle_bytes(void);              /* what the pool holds that nobody uses */

#endif
