/* Linear layers: y = x W^T + b, with x [rows][in], W [out][in], y [rows][out].
 *
 * Many rows are a 1x1 convolution, fewer are products of their own (linear_rows.c). With so few that weights
 * are used too seldom for anything to be copied, they are streamed once, and the limit is memory (or the call
 * itself, in small layers):
 *   forward      tiles of TILE_ROWS x TILE_OUT dot products, 16 accumulators + 4 rows of W + 1 of x;
 *   grad_input   strips of STRIP vectors of columns: 16 accumulators + 4 of W + 1 of grad_output;
 *   grad_weight  TILE_OUT rows of W at a time: 4 accumulators + 1 of x + 4 of grad_output.
 */
#include "linear.h"
#include "parallel.h"
#include "pyconv.h"

extern const struct pyconv_conv_kernels KERNELS(conv);

/* Rows that are few, and many (measured at 400 x 120 to 4096 x 4096). grad_input reads its weights once for
 * each TILE_ROWS rows, which L2 bears and memory does not. */
#define FEW_FORWARD ((ptrdiff_t)8)
#define FEW_GRAD_INPUT(bytes) ((ptrdiff_t)((bytes) <= 1 << 20 ? 16 : 4))
#define FEW_GRAD_WEIGHT ((ptrdiff_t)4)
#define MANY ((ptrdiff_t)256)
#define TILE_ROWS (VECTOR_REGISTERS == 32 ? 4 : 2)
#define TILE_OUT 4
#define STRIP 4
#define OUT_TASK ((ptrdiff_t)16)                    /* rows of W in a task of forward and grad_weight */
#define STRIP_TASK ((ptrdiff_t)4)                   /* strips in a task of grad_input */
#define NANOSECONDS(bytes) ((double)(bytes) / 10.0) /* a core streams about 10 bytes a nanosecond */

/* ---- Forward ---- */

/* output[n][k] for `rows` rows n and the TILE_OUT rows k of the weight; `kept` of these exist. */
INLINE void forward_tile(const struct linear *l, ptrdiff_t n, int rows, ptrdiff_t k, ptrdiff_t kept) {
    const real *x = l->input + n * l->in, *w[TILE_OUT];
    vec sum[TILE_ROWS][TILE_OUT] = {{{0}}};
    for (int j = 0; j < TILE_OUT; j++) w[j] = l->weight + (k + min_size(j, kept - 1)) * l->in;
    ptrdiff_t c = 0;
    for (; c + LANES <= l->in; c += LANES) {
        vec v[TILE_OUT];
        UNROLL for (int j = 0; j < TILE_OUT; j++) v[j] = load(w[j] + c);
        UNROLL for (int i = 0; i < rows; i++) {
            vec a = load(x + i * l->in + c);
            UNROLL for (int j = 0; j < TILE_OUT; j++) sum[i][j] += a * v[j];
        }
    }
    if (c < l->in) {
        UNROLL for (int i = 0; i < rows; i++) {
            vec a = load_first(x + i * l->in + c, l->in - c);
            UNROLL for (int j = 0; j < TILE_OUT; j++) sum[i][j] += a * load_first(w[j] + c, l->in - c);
        }
    }
    for (int i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < kept; j++) {
            real y = sum_lanes(sum[i][j]) + (l->bias ? l->bias[k + j] : 0);
            l->output[(n + i) * l->out + k + j] = l->relu && y < 0 ? 0 : y;
        }
}

static void run_forward(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct linear *l = context;
    ptrdiff_t end = min_size((task + 1) * OUT_TASK, l->out);
    for (ptrdiff_t k = task * OUT_TASK; k < end; k += TILE_OUT) {
        ptrdiff_t kept = min_size(TILE_OUT, end - k), n = 0;
        for (; n + TILE_ROWS <= l->rows; n += TILE_ROWS) forward_tile(l, n, TILE_ROWS, k, kept);
        for (; n < l->rows; n++) forward_tile(l, n, 1, k, kept);
    }
}

/* ---- Gradient of the input: grad_input[n][c] = sum over k of grad_output[n][k] W[k][c] ---- */

/* `vectors` whole vectors of columns from c on, or `tail` columns where vectors is 0. */
INLINE void grad_input_tile(const struct linear *l, ptrdiff_t n, int rows, ptrdiff_t c, int vectors,
                            ptrdiff_t tail) {
    const real *g = l->grad_output + n * l->out;
    vec sum[TILE_ROWS][STRIP] = {{{0}}};
    int loaded = vectors ? vectors : 1;
    for (ptrdiff_t k = 0; k < l->out; k++) {
        const real *w = l->weight + k * l->in + c;
        vec v[STRIP];
        UNROLL for (int j = 0; j < loaded; j++) v[j] = vectors ? load(w + j * LANES) : load_first(w, tail);
        UNROLL for (int i = 0; i < rows; i++) {
            vec a = splat(g[i * l->out + k]);
            UNROLL for (int j = 0; j < loaded; j++) sum[i][j] += a * v[j];
        }
    }
    for (int i = 0; i < rows; i++) {
        real *y = l->grad_input + (n + i) * l->in + c;
        for (int j = 0; j < vectors; j++) store(y + j * LANES, sum[i][j]);
        if (!vectors) store_first(y, sum[i][0], tail);
    }
}

#define GRAD_INPUT_ROWS(c, vectors, tail)                                                                    \
    do {                                                                                                     \
        ptrdiff_t n = 0;                                                                                     \
        for (; n + TILE_ROWS <= l->rows; n += TILE_ROWS) grad_input_tile(l, n, TILE_ROWS, c, vectors, tail); \
        for (; n < l->rows; n++) grad_input_tile(l, n, 1, c, vectors, tail);                                 \
    } while (0)

static void run_grad_input(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct linear *l = context;
    ptrdiff_t c = task * STRIP_TASK * STRIP * LANES, end = min_size(c + STRIP_TASK * STRIP * LANES, l->in);
    for (; c + STRIP * LANES <= end; c += STRIP * LANES) GRAD_INPUT_ROWS(c, STRIP, 0);
    for (; c + LANES <= end; c += LANES) GRAD_INPUT_ROWS(c, 1, 0);
    if (c < end) GRAD_INPUT_ROWS(c, 0, end - c);
}

/* ---- Gradient of the weight: grad_weight[k][c] = sum over n of grad_output[n][k] input[n][c] ---- */

INLINE void grad_weight_vector(const struct linear *l, ptrdiff_t k, ptrdiff_t kept, ptrdiff_t c,
                               ptrdiff_t count) {
    vec sum[TILE_OUT] = {{0}};
    for (ptrdiff_t n = 0; n < l->rows; n++) {
        const real *x = l->input + n * l->in + c, *g = l->grad_output + n * l->out + k;
        vec a = load_some(x, count);
        UNROLL for (int j = 0; j < TILE_OUT; j++) sum[j] += a * splat(g[min_size(j, kept - 1)]);
    }
    for (ptrdiff_t j = 0; j < kept; j++) {
        real *y = l->grad_weight + (k + j) * l->in + c;
        store_some(y, sum[j], count);
    }
}

static void run_grad_weight(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct linear *l = context;
    ptrdiff_t end = min_size((task + 1) * OUT_TASK, l->out);
    for (ptrdiff_t k = task * OUT_TASK; k < end; k += TILE_OUT) {
        ptrdiff_t kept = min_size(TILE_OUT, end - k), c = 0;
        for (; l->grad_weight && c + LANES <= l->in; c += LANES) {
            if (kept == TILE_OUT)
                grad_weight_vector(l, k, TILE_OUT, c, LANES);
            else
                grad_weight_vector(l, k, kept, c, LANES);
        }
        if (l->grad_weight && c < l->in) grad_weight_vector(l, k, kept, c, l->in - c);
        for (ptrdiff_t j = k; l->grad_bias && j < k + kept; j++) {
            real sum = 0;
            for (ptrdiff_t n = 0; n < l->rows; n++) sum += l->grad_output[n * l->out + j];
            l->grad_bias[j] = sum;
        }
    }
}

/* ---- Few rows, some, or many ---- */

static struct pyconv_conv2d convolution(ptrdiff_t rows, ptrdiff_t in, ptrdiff_t out) {
    struct pyconv_conv2d g = {.batch = 1, .groups = 1, .in_height = 1, .out_height = 1};
    g.in_channels = in;
    g.out_channels = out;
    g.in_width = g.out_width = rows;
    g.kernel_height = g.kernel_width = g.stride_height = g.stride_width = 1;
    g.dilation_height = g.dilation_width = 1;
    return g;
}

static double weight_bytes(const struct linear *l) { return (double)l->in * (double)l->out * sizeof(real); }

static double cost(const struct linear *l) {
    return NANOSECONDS(weight_bytes(l)) * (double)ceil_div(l->rows, TILE_ROWS);
}

static int forward(ptrdiff_t rows, ptrdiff_t in, ptrdiff_t out, const void *input, const void *weight,
                   const void *bias, int relu, void *output) {
    if (rows > MANY && in) {
        struct pyconv_conv2d g = convolution(rows, in, out);
        struct pyconv_epilogue epilogue = {.bias = bias, .relu = relu};
        return KERNELS(conv).forward(&g, input, weight, NULL, &epilogue, output, PYCONV_CONV_DIRECT);
    }
    struct linear l = {.rows = rows,
                       .in = in,
                       .out = out,
                       .input = input,
                       .weight = weight,
                       .bias = bias,
                       .output = output,
                       .relu = relu};
    if (rows > FEW_FORWARD && in && out) return VARIANT(linear_forward)(&l);
    return parallel_run(ceil_div(out, OUT_TASK), cost(&l), 0, run_forward, &l);
}

static int grad_input(ptrdiff_t rows, ptrdiff_t in, ptrdiff_t out, const void *grad_output,
                      const void *weight, void *result) {
    if (rows > MANY && out) {
        struct pyconv_conv2d g = convolution(rows, in, out);
        return KERNELS(conv).grad_input(&g, grad_output, weight, NULL, result, PYCONV_CONV_DIRECT);
    }
    struct linear l = {.rows = rows,
                       .in = in,
                       .out = out,
                       .grad_output = grad_output,
                       .weight = weight,
                       .grad_input = result};
    if (rows > FEW_GRAD_INPUT(weight_bytes(&l)) && in && out) return VARIANT(linear_grad_input)(&l);
    return parallel_run(ceil_div(in, STRIP_TASK * STRIP * LANES), cost(&l), 0, run_grad_input, &l);
}

static int grad_weight(ptrdiff_t rows, ptrdiff_t in, ptrdiff_t out, const void *grad_output,
                       const void *input, void *weight_result, void *bias_result) {
    if (rows > MANY) {
        struct pyconv_conv2d g = convolution(rows, in, out);
        return KERNELS(conv).grad_weight(&g, grad_output, input, weight_result, bias_result,
                                         PYCONV_CONV_DIRECT);
    }
    struct linear l = {.rows = rows,
                       .in = in,
                       .out = out,
                       .grad_output = grad_output,
                       .input = input,
                       .grad_weight = weight_result,
                       .grad_bias = bias_result};
    if (rows > FEW_GRAD_WEIGHT && in && out) return VARIANT(linear_grad_weight)(&l);
    return parallel_run(ceil_div(out, OUT_TASK), cost(&l), 0, run_grad_weight, &l);
}

const struct pyconv_linear_kernels KERNELS(linear) = {forward, grad_input, grad_weight};
