/* Losses that are sums over elements, of a function of two numbers each: every task adds up its own, and
 * these are added in order. loss_entropy.c and loss_class.c have what there is for classes.
 */
#include "loss.h"
#include "parallel.h"
#include "pyconv.h"
#include "vmath.h"

#define CHUNK ((ptrdiff_t)16384)
#define NANOSECONDS_PER_ELEMENT 1.0

struct pointwise {
    enum pyconv_pointwise_loss op;
    ptrdiff_t count;
    const real *grad_output, *input, *target;
    real a, scale;
    double *sums; /* one a task */
    real *result; /* losses or gradient */
};

INLINE vec pointwise_loss_of(enum pyconv_pointwise_loss op, vec x, vec t, vec a) {
    vec d = x - t, size = absolute(d);
    switch (op) {
    case PYCONV_MSE_LOSS: return d * d;
    case PYCONV_L1_LOSS: return size;
    case PYCONV_SMOOTH_L1_LOSS: return choose(size < a, d * d / a * (real)0.5, size - a * (real)0.5);
    default: /* PYCONV_BCE_WITH_LOGITS_LOSS */
        return (1 - t) * x + (choose(x < 0, -x, (vec){0}) + vec_log1p(vec_exp(-absolute(x))));
    }
}

INLINE vec pointwise_slope(enum pyconv_pointwise_loss op, vec x, vec t, vec a) {
    vec d = x - t;
    switch (op) {
    case PYCONV_MSE_LOSS: return 2 * d;
    case PYCONV_L1_LOSS: return choose(d > 0, splat(1), choose(d < 0, splat(-1), (vec){0})); /* 0 for NaN */
    case PYCONV_SMOOTH_L1_LOSS: return choose(d <= -a, splat(-1), choose(d >= a, splat(1), d / a));
    default: return vec_sigmoid(x) - t;
    }
}

INLINE void loss_chunk(const struct pointwise *job, enum pyconv_pointwise_loss op, ptrdiff_t begin,
                       ptrdiff_t end, double *total) {
    vec a = splat(job->a);
    *total = 0;
    for (ptrdiff_t block = begin; block < end; block += 64 * LANES) { /* lanes sum up 64 numbers at most */
        ptrdiff_t block_end = min_size(end, block + 64 * LANES);
        vec sum = {0};
        for (ptrdiff_t i = block; i < block_end; i += LANES) {
            ptrdiff_t n = block_end - i;
            vec v = pointwise_loss_of(op, load_some(job->input + i, n), load_some(job->target + i, n), a);
            if (job->result) store_some(job->result + i, v, n);
            sum += n < LANES ? first_lanes(v, n, (vec){0}) : v;
        }
        *total += (double)sum_lanes(sum);
    }
}

INLINE void gradient_chunk(const struct pointwise *job, enum pyconv_pointwise_loss op, ptrdiff_t begin,
                           ptrdiff_t end) {
    vec a = splat(job->a), scale = splat(job->scale);
    for (ptrdiff_t i = begin; i < end; i += LANES) {
        ptrdiff_t n = end - i;
        vec v = pointwise_slope(op, load_some(job->input + i, n), load_some(job->target + i, n), a) * scale;
        store_some(job->result + i, job->grad_output ? v * load_some(job->grad_output + i, n) : v, n);
    }
}

#define FOR_EACH_LOSS(call)                                                                                  \
    switch (job->op) {                                                                                       \
    case PYCONV_MSE_LOSS: call(PYCONV_MSE_LOSS); break;                                                      \
    case PYCONV_L1_LOSS: call(PYCONV_L1_LOSS); break;                                                        \
    case PYCONV_SMOOTH_L1_LOSS: call(PYCONV_SMOOTH_L1_LOSS); break;                                          \
    case PYCONV_BCE_WITH_LOGITS_LOSS: call(PYCONV_BCE_WITH_LOGITS_LOSS); break;                              \
    case PYCONV_POINTWISE_LOSS_COUNT: break;                                                                 \
    }

static void run_loss(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct pointwise *job = context;
    ptrdiff_t begin = task * CHUNK, end = min_size(begin + CHUNK, job->count);
#define CALL(op) loss_chunk(job, op, begin, end, job->sums + task)
    FOR_EACH_LOSS(CALL)
#undef CALL
}

static void run_gradient(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct pointwise *job = context;
    ptrdiff_t begin = task * CHUNK, end = min_size(begin + CHUNK, job->count);
#define CALL(op) gradient_chunk(job, op, begin, end)
    FOR_EACH_LOSS(CALL)
#undef CALL
}

static int pointwise_loss(enum pyconv_pointwise_loss op, ptrdiff_t count, const void *input,
                          const void *target, double a, void *losses, double *sum) {
    ptrdiff_t tasks = ceil_div(count, CHUNK);
    *sum = 0;
    if (!tasks) return PYCONV_OK;
    double *sums = pyconv_alloc((size_t)tasks * sizeof(double));
    if (!sums) return PYCONV_NO_MEMORY;
    struct pointwise job = {op, count, NULL, input, target, (real)a, 1, sums, losses};
    int status = parallel_run(tasks, (double)count * NANOSECONDS_PER_ELEMENT, 0, run_loss, &job);
    for (ptrdiff_t task = 0; task < tasks; task++) *sum += sums[task];
    pyconv_free(sums, (size_t)tasks * sizeof(double));
    return status;
}

static int pointwise_loss_backward(enum pyconv_pointwise_loss op, ptrdiff_t count, const void *grad_output,
                                   double scale, const void *input, const void *target, double a,
                                   void *grad_input) {
    struct pointwise job = {op, count, grad_output, input, target, (real)a, (real)scale, NULL, grad_input};
    double nanoseconds = (double)count * NANOSECONDS_PER_ELEMENT;
    return parallel_run(ceil_div(count, CHUNK), nanoseconds, 0, run_gradient, &job);
}

const struct pyconv_loss_kernels KERNELS(loss) = {VARIANT(check_classes), VARIANT(cross_entropy),
                                                  VARIANT(nll),           VARIANT(nll_backward),
                                                  pointwise_loss,         pointwise_loss_backward};
