/* Elementwise operators y = f(x) and their gradients f'(x) g.
 *
 * All are bound by memory: each task is a run of CHUNK elements, small enough to stay in L2.
 */
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"

#define CHUNK ((ptrdiff_t)16384)
/* A core streams about 10 bytes a nanosecond. */
#define NANOSECONDS(bytes) ((double)(bytes) / 10.0)

struct unary {
    enum pyconv_unary op;
    ptrdiff_t count;
    const real *grad_output, *input; /* grad_output is NULL in the forward pass */
    real a, b;
    real *output;
};

/* ---- The functions and their derivatives, on one vector ---- */

INLINE vec relu(vec x) { return choose(x < 0, (vec){0}, x); }
INLINE vec relu_backward(vec x, vec g) { return choose(x <= 0, (vec){0}, g); }
INLINE vec leaky_relu(vec x, vec a) { return choose(x > 0, x, x * a); }
INLINE vec leaky_relu_backward(vec x, vec g, vec a) { return choose(x > 0, g, g * a); }

/* Run `expression` (of the vectors x, a, b, and g in the backward pass) over the task's elements. */
#define FOR_EACH_VECTOR(load_g, expression)                                                                  \
    do {                                                                                                     \
        ptrdiff_t i = begin;                                                                                 \
        for (; i + LANES <= end; i += LANES) {                                                               \
            vec x = load(job->input + i), g = load_g(load(job->grad_output + i));                            \
            (void)g;                                                                                         \
            store(job->output + i, expression);                                                              \
        }                                                                                                    \
        if (i < end) {                                                                                       \
            vec x = load_first(job->input + i, end - i);                                                     \
            vec g = load_g(load_first(job->grad_output + i, end - i));                                       \
            (void)g;                                                                                         \
            store_first(job->output + i, expression, end - i);                                               \
        }                                                                                                    \
    } while (0)
#define NO_GRADIENT(loaded) ((vec){0})
#define GRADIENT(loaded) (loaded)

static void run_forward(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct unary *job = context;
    ptrdiff_t begin = task * CHUNK, end = min_size(begin + CHUNK, job->count);
    vec a = splat(job->a);
    switch (job->op) {
    case PYCONV_RELU: FOR_EACH_VECTOR(NO_GRADIENT, relu(x)); break;
    case PYCONV_LEAKY_RELU: FOR_EACH_VECTOR(NO_GRADIENT, leaky_relu(x, a)); break;
    case PYCONV_UNARY_COUNT: break;
    }
}

static void run_backward(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct unary *job = context;
    ptrdiff_t begin = task * CHUNK, end = min_size(begin + CHUNK, job->count);
    vec a = splat(job->a);
    switch (job->op) {
    case PYCONV_RELU: FOR_EACH_VECTOR(GRADIENT, relu_backward(x, g)); break;
    case PYCONV_LEAKY_RELU: FOR_EACH_VECTOR(GRADIENT, leaky_relu_backward(x, g, a)); break;
    case PYCONV_UNARY_COUNT: break;
    }
}

static int unary(enum pyconv_unary op, ptrdiff_t count, const void *input, double a, double b, void *output) {
    struct unary job = {op, count, NULL, input, (real)a, (real)b, output};
    return parallel_run(ceil_div(count, CHUNK), NANOSECONDS(2 * count * (ptrdiff_t)sizeof(real)), 0,
                        run_forward, &job);
}

static int unary_backward(enum pyconv_unary op, ptrdiff_t count, const void *grad_output, const void *input,
                          double a, double b, void *grad_input) {
    struct unary job = {op, count, grad_output, input, (real)a, (real)b, grad_input};
    return parallel_run(ceil_div(count, CHUNK), NANOSECONDS(3 * count * (ptrdiff_t)sizeof(real)), 0,
                        run_backward, &job);
}

const struct pyconv_activation_kernels KERNELS(activation) = {unary, unary_backward};
