/* Elementwise operators y = f(x) and their gradients f'(x) g.
 *
 * All are bound by memory, or nearly: each task is a run of CHUNK elements, small enough to stay in L2.
 * Each loop fetches what it reads AHEAD of where it is: the longer functions leave no room in the processor's
 * queues to run so far ahead by themselves, and were 10 to 40 % slower.
 * A function that tends to a line or to 0 is written with e^-|x|, which neither overflows nor cancels.
 */
#include "parallel.h"
#include "pyconv.h"
#include "stream.h"
#include "vmath.h"

#define CHUNK ((ptrdiff_t)16384)
#define AHEAD (2048 / (ptrdiff_t)sizeof(real)) /* 2 KiB */
/* A core streams about 10 bytes a nanosecond. */
#define NANOSECONDS(bytes) ((double)(bytes) / 10.0)

struct unary {
    ptrdiff_t count;
    const real *grad_output, *input; /* grad_output is NULL in the forward pass */
    real a, b;
    real *output;
    int streamed; /* the output */
};

/* ---- The functions and their derivatives, on one vector; pyconv.h gives the formulas ---- */

INLINE vec zero(void) { return (vec){0}; }

INLINE vec relu(vec x, vec a, vec b) { return (void)a, (void)b, choose(x < 0, zero(), x); }
INLINE vec relu_backward(vec g, vec x, vec a, vec b) { return (void)a, (void)b, choose(x <= 0, zero(), g); }

INLINE vec leaky_relu(vec x, vec a, vec b) { return (void)b, choose(x > 0, x, x * a); }
INLINE vec leaky_relu_backward(vec g, vec x, vec a, vec b) { return (void)b, choose(x > 0, g, g * a); }

INLINE vec hardtanh(vec x, vec a, vec b) { return clamp(x, a, b); }
INLINE vec hardtanh_backward(vec g, vec x, vec a, vec b) { return choose((x > a) & (x < b), g, zero()); }

INLINE vec hardsigmoid(vec x, vec a, vec b) { return (void)a, (void)b, clamp(x + 3, zero(), splat(6)) / 6; }
INLINE vec hardsigmoid_backward(vec g, vec x, vec a, vec b) {
    return (void)a, (void)b, choose((x > -3) & (x < 3), g / 6, zero());
}

INLINE vec hardswish(vec x, vec a, vec b) { return (void)a, (void)b, x * clamp(x + 3, zero(), splat(6)) / 6; }
INLINE vec hardswish_backward(vec g, vec x, vec a, vec b) {
    return (void)a, (void)b, choose(x <= -3, zero(), choose(x >= 3, g, g * (x / 3 + (real)0.5)));
}

INLINE vec softsign(vec x, vec a, vec b) { return (void)a, (void)b, x / (absolute(x) + 1); }
INLINE vec softsign_backward(vec g, vec x, vec a, vec b) {
    vec r = 1 / (absolute(x) + 1);
    return (void)a, (void)b, g * r * r;
}

INLINE vec sigmoid(vec x, vec a, vec b) { return (void)a, (void)b, vec_sigmoid(x); }
INLINE vec sigmoid_backward(vec g, vec x, vec a, vec b) {
    vec e = vec_exp(-absolute(x)), r = reciprocal(e + 1);
    return (void)a, (void)b, g * (e * r * r);
}

/* y in the input's place: no exponential, so bound by memory with AVX2, too (twice as fast there) */
INLINE vec sigmoid_output(vec x, vec a, vec b) { return sigmoid(x, a, b); }
INLINE vec sigmoid_output_backward(vec g, vec y, vec a, vec b) { return (void)a, (void)b, g * (y * (1 - y)); }

INLINE vec hyperbolic_tangent(vec x, vec a, vec b) { return (void)a, (void)b, vec_tanh(x); }
INLINE vec hyperbolic_tangent_backward(vec g, vec x, vec a, vec b) {
    vec e = vec_exp(-2 * absolute(x)), r = reciprocal(e + 1);
    return (void)a, (void)b, g * (4 * e * r * r);
}
INLINE vec tanh_output(vec x, vec a, vec b) { return hyperbolic_tangent(x, a, b); }
INLINE vec tanh_output_backward(vec g, vec y, vec a, vec b) { return (void)a, (void)b, g * (1 - y * y); }

INLINE vec silu(vec x, vec a, vec b) { return (void)a, (void)b, x * vec_sigmoid(x); }
INLINE vec silu_backward(vec g, vec x, vec a, vec b) {
    vec e = vec_exp(-absolute(x)), large = reciprocal(e + 1), small = e * large;
    vec s = choose(x < 0, small, large), rest = choose(x < 0, large, small); /* rest = 1 - s */
    return (void)a, (void)b, g * (s * (x * rest + 1));
}

/* With e = e^-|x|: tanh(softplus(x)) = p / (p + q) */
struct mish {
    vec e, p, q;
};
INLINE struct mish mish_parts(vec x) {
    vec e = vec_exp(-absolute(x));
    return (struct mish){e, choose(x < 0, e * (e + 2), 2 * e + 1), choose(x < 0, splat(2), 2 * e * e)};
}
INLINE vec mish(vec x, vec a, vec b) {
    struct mish m = mish_parts(x);
    return (void)a, (void)b, x * (m.p * reciprocal(m.p + m.q));
}
INLINE vec mish_backward(vec g, vec x, vec a, vec b) {
    struct mish m = mish_parts(x);
    vec r = reciprocal(m.p + m.q), t = m.p * r, large = reciprocal(m.e + 1);
    vec s = choose(x < 0, m.e * large, large);
    return (void)a, (void)b, g * (t + x * s * (m.q * (2 * m.p + m.q) * r * r));
}

INLINE vec elu(vec x, vec a, vec b) { return choose(x > 0, x, a * vec_expm1(x * b)); }
INLINE vec elu_backward(vec g, vec x, vec a, vec b) { return choose(x > 0, g, g * (a * b * vec_exp(x * b))); }

#define SELU_SCALE ((real)1.0507009873554804934193349852946)
#define SELU_ALPHA ((real)1.6732632423543772848170429916717)
INLINE vec selu(vec x, vec a, vec b) {
    return (void)a, (void)b, choose(x > 0, x * SELU_SCALE, vec_expm1(x) * (SELU_SCALE * SELU_ALPHA));
}
INLINE vec selu_backward(vec g, vec x, vec a, vec b) {
    return (void)a, (void)b, g * choose(x > 0, splat(SELU_SCALE), vec_exp(x) * (SELU_SCALE * SELU_ALPHA));
}

/* x times the tail where x < 0, else x - x times the tail */
INLINE vec gelu(vec x, vec a, vec b) {
    struct normal p = vec_normal(x);
    return (void)a, (void)b, smaller(x, p.b) * p.tail + larger(zero(), x);
}
INLINE vec gelu_backward(vec g, vec x, vec a, vec b) {
    struct normal p = vec_normal(x);
    return (void)a, (void)b, g * (choose(x < 0, p.tail, 1 - p.tail) + x * p.density);
}

#define GELU_SLOPE ((real)1.5957691216057307) /* 2 sqrt(2 / pi) */
#define GELU_CUBE ((real)0.044715)
INLINE vec gelu_tanh(vec x, vec a, vec b) {
    return (void)a, (void)b, x * vec_sigmoid(x * (x * x * GELU_CUBE + 1) * GELU_SLOPE);
}
INLINE vec gelu_tanh_backward(vec g, vec x, vec a, vec b) {
    vec u = x * (x * x * GELU_CUBE + 1) * GELU_SLOPE;
    vec e = vec_exp(-absolute(u)), r = reciprocal(e + 1), s = choose(u < 0, e * r, r);
    return (void)a, (void)b, g * (s + x * (e * r * r) * ((x * x * (3 * GELU_CUBE) + 1) * GELU_SLOPE));
}

INLINE vec softplus(vec x, vec a, vec b) {
    vec z = a * x;
    return choose(z > b, x, (choose(z > 0, z, zero()) + vec_log1p(vec_exp(-absolute(z)))) * (1 / a));
}
INLINE vec softplus_backward(vec g, vec x, vec a, vec b) {
    return choose(a * x > b, g, g * vec_sigmoid(a * x));
}

/* ---- Loops over a task's elements ---- */

INLINE vec load_ahead(const real *p) {
    __builtin_prefetch(p + AHEAD);
    return load(p);
}

#define DEFINE_LOOPS(name)                                                                                   \
    static void name##_forward_loop(const struct unary *job, ptrdiff_t begin, ptrdiff_t end) {               \
        vec a = splat(job->a), b = splat(job->b);                                                            \
        const int streamed = job->streamed && is_aligned(job->output + begin);                               \
        ptrdiff_t i = begin;                                                                                 \
        for (; i + LANES <= end; i += LANES)                                                                 \
            put(job->output + i, name(load_ahead(job->input + i), a, b), streamed);                          \
        if (i < end) store_first(job->output + i, name(load_first(job->input + i, end - i), a, b), end - i); \
    }                                                                                                        \
    static void name##_backward_loop(const struct unary *job, ptrdiff_t begin, ptrdiff_t end) {              \
        vec a = splat(job->a), b = splat(job->b);                                                            \
        const int streamed = job->streamed && is_aligned(job->output + begin);                               \
        ptrdiff_t i = begin;                                                                                 \
        for (; i + LANES <= end; i += LANES) {                                                               \
            vec g = load_ahead(job->grad_output + i), x = load_ahead(job->input + i);                        \
            put(job->output + i, name##_backward(g, x, a, b), streamed);                                     \
        }                                                                                                    \
        if (i < end) {                                                                                       \
            vec g = load_first(job->grad_output + i, end - i), x = load_first(job->input + i, end - i);      \
            store_first(job->output + i, name##_backward(g, x, a, b), end - i);                              \
        }                                                                                                    \
    }
#define LOOPS(name) {name##_forward_loop, name##_backward_loop}

DEFINE_LOOPS(relu)
DEFINE_LOOPS(leaky_relu)
DEFINE_LOOPS(hardtanh)
DEFINE_LOOPS(hardsigmoid)
DEFINE_LOOPS(hardswish)
DEFINE_LOOPS(softsign)
DEFINE_LOOPS(sigmoid)
DEFINE_LOOPS(hyperbolic_tangent)
DEFINE_LOOPS(silu)
DEFINE_LOOPS(mish)
DEFINE_LOOPS(elu)
DEFINE_LOOPS(selu)
DEFINE_LOOPS(gelu)
DEFINE_LOOPS(gelu_tanh)
DEFINE_LOOPS(softplus)
DEFINE_LOOPS(sigmoid_output)
DEFINE_LOOPS(tanh_output)

static const struct {
    void (*forward)(const struct unary *job, ptrdiff_t begin, ptrdiff_t end);
    void (*backward)(const struct unary *job, ptrdiff_t begin, ptrdiff_t end);
} loops[PYCONV_UNARY_COUNT] = {
    [PYCONV_RELU] = LOOPS(relu),
    [PYCONV_LEAKY_RELU] = LOOPS(leaky_relu),
    [PYCONV_HARDTANH] = LOOPS(hardtanh),
    [PYCONV_HARDSIGMOID] = LOOPS(hardsigmoid),
    [PYCONV_HARDSWISH] = LOOPS(hardswish),
    [PYCONV_SOFTSIGN] = LOOPS(softsign),
    [PYCONV_SIGMOID] = LOOPS(sigmoid),
    [PYCONV_TANH] = LOOPS(hyperbolic_tangent),
    [PYCONV_SILU] = LOOPS(silu),
    [PYCONV_MISH] = LOOPS(mish),
    [PYCONV_ELU] = LOOPS(elu),
    [PYCONV_SELU] = LOOPS(selu),
    [PYCONV_GELU] = LOOPS(gelu),
    [PYCONV_GELU_TANH] = LOOPS(gelu_tanh),
    [PYCONV_SOFTPLUS] = LOOPS(softplus),
    [PYCONV_SIGMOID_OUTPUT] = LOOPS(sigmoid_output),
    [PYCONV_TANH_OUTPUT] = LOOPS(tanh_output),
};

struct task {
    struct unary unary;
    void (*loop)(const struct unary *job, ptrdiff_t begin, ptrdiff_t end);
};

static void run_chunk(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct task *job = context;
    ptrdiff_t begin = task * CHUNK;
    job->loop(&job->unary, begin, min_size(begin + CHUNK, job->unary.count));
}

static int unary(enum pyconv_unary op, ptrdiff_t count, const void *input, double a, double b, void *output) {
    const int streamed = is_streamed(output, count, 2, input, NULL);
    struct task job = {{count, NULL, input, (real)a, (real)b, output, streamed}, loops[op].forward};
    double nanoseconds = NANOSECONDS(2 * count * (ptrdiff_t)sizeof(real));
    return parallel_run(ceil_div(count, CHUNK), nanoseconds, 0, run_chunk, &job);
}

static int unary_backward(enum pyconv_unary op, ptrdiff_t count, const void *grad_output, const void *input,
                          double a, double b, void *grad_input) {
    const int streamed = is_streamed(grad_input, count, 3, grad_output, input);
    struct task job = {{count, grad_output, input, (real)a, (real)b, grad_input, streamed},
                       loops[op].backward};
    double nanoseconds = NANOSECONDS(3 * count * (ptrdiff_t)sizeof(real));
    return parallel_run(ceil_div(count, CHUNK), nanoseconds, 0, run_chunk, &job);
}

const struct pyconv_activation_kernels KERNELS(activation) = {unary, unary_backward};
