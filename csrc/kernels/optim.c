/* Optimiser steps: every parameter of a group in one pass over its memory, and in one parallel run.
 *
 * The tensors are seen as one long line of elements, cut into tasks of CHUNK, so that a network of many
 * tiny parameters is one task and one of few large ones many. Every element is computed on its own, so
 * the cuts don't show in the result. Bound by memory: the loops are plain and left to the compiler.
 */
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"

#include <math.h>

#define CHUNK ((ptrdiff_t)32768)
/* A core streams about 10 bytes a nanosecond from memory, and 60 of a small network's, which lie in L2. */
#define NANOSECONDS(bytes) ((double)(bytes) / ((double)(bytes) < 1e6 ? 60.0 : 10.0))

#if REAL_IS_FLOAT
#define SQRT sqrtf
#else
#define SQRT sqrt
#endif

typedef void update_range(const struct pyconv_update *update, ptrdiff_t begin, ptrdiff_t end,
                          const void *options);

struct job {
    const struct pyconv_update *updates;
    ptrdiff_t tensors, total;
    update_range *run;
    const void *options;
};

static void run_task(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct job *job = context;
    ptrdiff_t begin = task * CHUNK, end = min_size(begin + CHUNK, job->total);
    ptrdiff_t low = 0, high = job->tensors - 1; /* the last tensor that starts at or before `begin` */
    while (low < high) {
        ptrdiff_t middle = (low + high + 1) / 2;
        if (job->updates[middle].start <= begin)
            low = middle;
        else
            high = middle - 1;
    }
    for (ptrdiff_t t = low; t < job->tensors && job->updates[t].start < end; t++) {
        const struct pyconv_update *update = job->updates + t;
        ptrdiff_t from = max_size(begin - update->start, 0),
                  to = min_size(end - update->start, update->count);
        if (from < to) job->run(update, from, to, job->options);
    }
}

static int run_all(ptrdiff_t tensors, const struct pyconv_update *updates, update_range *run,
                   const void *options, int streams) {
    if (tensors == 0) return PYCONV_OK;
    ptrdiff_t total = updates[tensors - 1].start + updates[tensors - 1].count;
    struct job job = {updates, tensors, total, run, options};
    double cost = NANOSECONDS((double)streams * (double)total * (double)sizeof(real));
    return parallel_run(ceil_div(total, CHUNK), cost, 0, run_task, &job);
}

/* ---- Stochastic gradient descent: d = g + decay p;  b = momentum b + (1 - dampening) d;  p -= lr b ---- */

static void sgd_range(const struct pyconv_update *update, ptrdiff_t begin, ptrdiff_t end,
                      const void *context) {
    const struct pyconv_sgd_options *options = context;
    real *restrict param = update->param, *restrict buffer = update->state[0];
    const real *restrict grad = update->grad;
    const real lr = (real)options->lr, momentum = (real)options->momentum,
               decay = (real)options->weight_decay;
    const real sign = options->maximize ? (real)-1 : (real)1;
    const real take = update->first ? 1 : (real)(1 - options->dampening); /* a first buffer comes as zeros */
    for (ptrdiff_t i = begin; i < end; i++) {
        real direction = decay != 0 ? sign * grad[i] + decay * param[i] : sign * grad[i];
        if (buffer) {
            buffer[i] = momentum * buffer[i] + take * direction;
            direction = options->nesterov ? direction + momentum * buffer[i] : buffer[i];
        }
        param[i] -= lr * direction;
    }
}

static int sgd(ptrdiff_t tensors, const struct pyconv_update *updates,
               const struct pyconv_sgd_options *options) {
    return run_all(tensors, updates, sgd_range, options, options->momentum != 0 ? 5 : 3);
}

/* ---- Adam: m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p -= step m / (sqrt(v) / correction + eps)
 * ---- */

static void adam_range(const struct pyconv_update *update, ptrdiff_t begin, ptrdiff_t end,
                       const void *context) {
    const struct pyconv_adam_options *options = context;
    real *restrict param = update->param, *restrict mean = update->state[0],
                   *restrict square = update->state[1];
    real *restrict largest = update->state[2];
    const real *restrict grad = update->grad;
    const real take1 = (real)(1 - options->beta1), beta2 = (real)options->beta2,
               take2 = (real)(1 - options->beta2);
    const real step_size = (real)update->step_size, inverse = (real)(1 / update->correction),
               eps = (real)options->eps;
    const real sign = options->maximize ? (real)-1 : (real)1;
    const real decay = options->decoupled ? 0 : (real)options->weight_decay;
    const real shrink = options->decoupled ? (real)(1 - options->lr * options->weight_decay) : 1;
    for (ptrdiff_t i = begin; i < end; i++) {
        real g = decay != 0 ? sign * grad[i] + decay * param[i] : sign * grad[i];
        mean[i] += take1 * (g - mean[i]);
        square[i] = beta2 * square[i] + take2 * g * g;
        real second = square[i];
        if (largest) second = largest[i] = second > largest[i] || second != second ? second : largest[i];
        param[i] = shrink * param[i] - step_size * mean[i] / (SQRT(second) * inverse + eps);
    }
}

static int adam(ptrdiff_t tensors, const struct pyconv_update *updates,
                const struct pyconv_adam_options *options) {
    return run_all(tensors, updates, adam_range, options, 9);
}

/* ---- The sum of squares of all gradients, for clipping ---- */

/* Sums in double, whatever the scalar type: squares of floats then neither overflow nor lose digits. */
#define SUMS 8

struct square_job {
    const struct pyconv_update *updates;
    ptrdiff_t tensors, total;
    double *partial;
};

static void square_range(const struct pyconv_update *update, ptrdiff_t begin, ptrdiff_t end,
                         const void *context) {
    double *sums = *(double *const *)context;
    const real *grad = update->grad;
    ptrdiff_t i = begin;
    for (; i + SUMS <= end; i += SUMS)
        for (int j = 0; j < SUMS; j++) sums[j] += (double)grad[i + j] * (double)grad[i + j];
    for (; i < end; i++) sums[0] += (double)grad[i] * (double)grad[i];
}

static void square_task(const void *context, ptrdiff_t task, void *scratch) {
    const struct square_job *squares = context;
    double sums[SUMS] = {0}, *pointer = sums;
    struct job job = {squares->updates, squares->tensors, squares->total, square_range, &pointer};
    run_task(&job, task, scratch);
    double total = 0;
    for (int j = 0; j < SUMS; j++) total += sums[j];
    squares->partial[task] = total;
}

static int square_sum(ptrdiff_t tensors, const struct pyconv_update *updates, double *result) {
    *result = 0;
    if (tensors == 0) return PYCONV_OK;
    ptrdiff_t total = updates[tensors - 1].start + updates[tensors - 1].count, tasks = ceil_div(total, CHUNK);
    size_t bytes = (size_t)tasks * sizeof(double);
    double *partial = pyconv_alloc(bytes);
    if (!partial) return PYCONV_NO_MEMORY;
    struct square_job job = {updates, tensors, total, partial};
    int status = parallel_run(tasks, NANOSECONDS(total * (ptrdiff_t)sizeof(real)), 0, square_task, &job);
    for (ptrdiff_t task = 0; status == PYCONV_OK && task < tasks; task++) *result += partial[task];
    pyconv_free(partial, bytes);
    return status;
}

const struct pyconv_optim_kernels KERNELS(optim) = {sgd, adam, square_sum};
