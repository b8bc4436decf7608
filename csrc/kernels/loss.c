/* Losses and their gradients.
 *
 * Cross entropy of a row x of logits with class y, label smoothing t and class weights w (1 without), with
 * p = softmax(x) and W = sum w:
 *
 *     loss = (1 - t) w_y (-log p_y) + t / C sum_c w_c (-log p_c)
 *     d loss / d x_c = p_c ((1 - t) w_y + t W / C) - (1 - t) w_y [c = y] - t w_c / C
 *
 * so that loss and gradient need one exponential per logit. Rows of few classes are transposed, so that a
 * lane has a row, and no lane idles. Rows whose class is `ignore_index` count as 0. The other losses are sums
 * over elements: each task adds up its own, and these are added in order. loss_class.c has what else there is
 * for classes.
 */
#include "loss.h"
#include "parallel.h"
#include "pyconv.h"
#include "vmath.h"

#define CHUNK ((ptrdiff_t)16384)
#define FEW_CLASSES ((ptrdiff_t)32)                /* a multiple of LANES */
#define SET_PITCH (4096 / (ptrdiff_t)sizeof(real)) /* lines this far apart share a set of L1 */
#define L1_ELEMENTS (32768 / (ptrdiff_t)sizeof(real))
#define NANOSECONDS_PER_ELEMENT 1.0

struct cross_entropy {
    ptrdiff_t rows, classes, rows_per_task;
    /* where the classes of a row lie inner > 1 apart: tasks to an image, columns of each, whether it is
     * copied */
    ptrdiff_t inner, blocks, block;
    int copies;
    const real *input;
    const int64_t *target;
    const real *weight;
    real weight_sum;
    int64_t ignore_index;
    real smoothing, scale;
    const real *row_scale;
    real *loss, *grad_input;
};

/* v, of a row with n more elements; `rest` behind its end */
INLINE vec or_rest(vec v, ptrdiff_t n, vec rest) { return n >= LANES ? v : first_lanes(v, n, rest); }

/* sum_c w_c (m - x_c) */
static real smooth_sum(ptrdiff_t n, const real *x, real m, const real *weight) {
    vec sum = {0};
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        vec v = m - load_some(x + i, n - i);
        if (weight) v *= load_some(weight + i, n - i);
        sum += first_lanes(v, n - i, (vec){0});
    }
    return sum_lanes(sum);
}

static void gradient_row(const struct cross_entropy *job, ptrdiff_t y, real scale, real sum, real *grad) {
    ptrdiff_t n = job->classes;
    real of_class = scale * (1 - job->smoothing) * (job->weight ? job->weight[y] : 1);
    real of_all = scale * job->smoothing / (real)n;
    vec factor = splat((of_class + of_all * job->weight_sum) / sum);
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        vec g = load_some(grad + i, n - i) * factor;
        if (of_all != 0) g -= job->weight ? load_some(job->weight + i, n - i) * of_all : splat(of_all);
        store_some(grad + i, g, n - i);
    }
    grad[y] -= of_class;
}

static void cross_entropy_row(const struct cross_entropy *job, ptrdiff_t row) {
    ptrdiff_t n = job->classes, y = (ptrdiff_t)job->target[row];
    const real *x = job->input + row * n;
    real *grad = job->grad_input ? job->grad_input + row * n : NULL;
    if (job->target[row] == job->ignore_index) {
        if (job->loss) job->loss[row] = 0;
        if (grad) memset(grad, 0, (size_t)n * sizeof(real));
        return;
    }
    vec lowest = splat((real)-__builtin_inf()), peak = lowest, sum = {0};
    for (ptrdiff_t i = 0; i < n; i += LANES)
        peak = larger(or_rest(load_some(x + i, n - i), n - i, lowest), peak);
    real m = largest_lane(peak);
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        vec e = vec_exp(or_rest(load_some(x + i, n - i) - m, n - i, (vec){0})); /* e^-infinity takes 100 ns */
        sum += or_rest(e, n - i, (vec){0});
        if (grad) store_some(grad + i, e, n - i);
    }
    real total = sum_lanes(sum);
    if (job->loss) {
        real log_total = vec_log(splat(total))[0];
        real loss = (1 - job->smoothing) * (job->weight ? job->weight[y] : 1) * (m - x[y] + log_total);
        if (job->smoothing != 0)
            loss +=
                job->smoothing / (real)n * (smooth_sum(n, x, m, job->weight) + job->weight_sum * log_total);
        job->loss[row] = loss;
    }
    if (grad) gradient_row(job, y, job->row_scale ? job->row_scale[row] : job->scale, total, grad);
}

static void run_cross_entropy(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct cross_entropy *job = context;
    ptrdiff_t end = min_size((task + 1) * job->rows_per_task, job->rows);
    for (ptrdiff_t row = task * job->rows_per_task; row < end; row++) cross_entropy_row(job, row);
}

/* ---- Rows that lie side by side, [image][class][inner]: a lane for each ---- */

/* Class, weights and what the gradient needs of up to LANES neighbouring rows. Ignored rows have kept = 0. */
struct lanes {
    ptrdiff_t y[LANES];
    vec picked, of_class, scale;
    ivec kept;
};

static struct lanes load_targets(const struct cross_entropy *job, ptrdiff_t row, const real *x,
                                 ptrdiff_t stride, ptrdiff_t width) {
    real picked[LANES] = {0}, of_class[LANES] = {0}, scale[LANES] = {0};
    integer kept[LANES] = {0};
    struct lanes lanes = {.y = {0}};
    for (ptrdiff_t i = 0; i < min_size(width, LANES); i++) {
        if (job->target[row + i] == job->ignore_index) continue;
        ptrdiff_t y = lanes.y[i] = (ptrdiff_t)job->target[row + i];
        kept[i] = -1;
        picked[i] = x[y * stride + i];
        of_class[i] = (1 - job->smoothing) * (job->weight ? job->weight[y] : 1);
        scale[i] = job->row_scale ? job->row_scale[row + i] : job->scale;
    }
    memcpy(&lanes.picked, picked, sizeof picked);
    memcpy(&lanes.of_class, of_class, sizeof of_class);
    memcpy(&lanes.scale, scale, sizeof scale);
    memcpy(&lanes.kept, kept, sizeof kept);
    return lanes;
}

/* `width` rows, LANES at most, from `row` on: their classes are at x, `stride` apart, and so in grad, which
 * may be x. */
static void cross_entropy_columns(const struct cross_entropy *job, ptrdiff_t row, ptrdiff_t width,
                                  ptrdiff_t stride, const real *x, real *grad) {
    ptrdiff_t n = job->classes;
    real of_all = job->smoothing / (real)n;
    struct lanes lanes = load_targets(job, row, x, stride, width);
    vec m = splat((real)-__builtin_inf()), sum = {0}, smooth = {0};
    for (ptrdiff_t c = 0; c < n; c++) m = larger(load_some(x + c * stride, width), m);
    for (ptrdiff_t c = 0; c < n; c++) {
        vec v = load_some(x + c * stride, width) - m, e = vec_exp(v);
        sum += e;
        if (grad) store_some(grad + c * stride, e, width);
        if (of_all != 0) smooth -= job->weight ? v * job->weight[c] : v;
    }
    if (job->loss) {
        vec log_sum = vec_log(sum), loss = lanes.of_class * (m - lanes.picked + log_sum);
        if (of_all != 0) loss += of_all * (smooth + job->weight_sum * log_sum);
        store_some(job->loss + row, choose(lanes.kept, loss, (vec){0}), width);
    }
    if (!grad) return;
    vec factor = lanes.scale * (lanes.of_class + of_all * job->weight_sum) / sum;
    for (ptrdiff_t c = 0; c < n; c++) {
        vec g = load_some(grad + c * stride, width) * factor;
        if (of_all != 0) g -= lanes.scale * (of_all * (job->weight ? job->weight[c] : 1));
        store_some(grad + c * stride, choose(lanes.kept, g, (vec){0}), width);
    }
    for (ptrdiff_t i = 0; i < min_size(width, LANES); i++)
        if (lanes.kept[i]) grad[lanes.y[i] * stride + i] -= lanes.scale[i] * lanes.of_class[i];
}

/* A block of columns. Where classes lie so far apart in powers of two that those of a column share few sets
 * of the caches, the block is copied to scratch at another pitch, where all passes find it, and the gradient
 * is written from there: 21 classes of 128 x 128 pixels take half of the time then (Zen 3). */
static void run_columns(const void *context, ptrdiff_t task, void *scratch) {
    const struct cross_entropy *job = context;
    ptrdiff_t n = job->classes, image = task / job->blocks, begin = task % job->blocks * job->block;
    ptrdiff_t width = min_size(job->block, job->inner - begin), at = image * n * job->inner + begin;
    ptrdiff_t stride = job->copies ? job->block + LINE : job->inner;
    const real *x = job->copies ? scratch : job->input + at;
    real *grad = !job->grad_input ? NULL : job->copies ? scratch : job->grad_input + at;
    for (ptrdiff_t c = 0; job->copies && c < n; c++)
        copy_elements(job->input + at + c * job->inner, width, (real *)scratch + c * stride);
    for (ptrdiff_t i = 0; i < width; i += LANES)
        cross_entropy_columns(job, image * job->inner + begin + i, width - i, stride, x + i,
                              grad ? grad + i : NULL);
    for (ptrdiff_t c = 0; job->copies && grad && c < n; c++)
        copy_elements(grad + c * stride, width, job->grad_input + at + c * job->inner);
}

/* ---- Rows of few classes: LANES of them are transposed, and a lane is for each ---- */

/* to[j][i] = from[i][j], i < rows <= LANES, j < columns; to has LANES columns, and rows up to a multiple. */
static void transpose_few(const real *from, ptrdiff_t rows, ptrdiff_t columns, real *to) {
    for (ptrdiff_t j = 0; j < columns; j += LANES) {
        vec square[LANES] = {{0}};
        UNROLL for (int i = 0; i < LANES; i++) if (i < rows) square[i] =
            load_some(from + i * columns + j, columns - j);
        transpose_lanes(square);
        UNROLL for (int i = 0; i < LANES; i++) store(to + (j + i) * LANES, square[i]);
    }
}

/* The reverse. */
static void transpose_back(const real *from, ptrdiff_t rows, ptrdiff_t columns, real *to) {
    for (ptrdiff_t j = 0; j < columns; j += LANES) {
        vec square[LANES];
        UNROLL for (int i = 0; i < LANES; i++) square[i] = load(from + (j + i) * LANES);
        transpose_lanes(square);
        UNROLL for (int i = 0; i < LANES; i++) if (i < rows)
            store_some(to + i * columns + j, square[i], columns - j);
    }
}

static void run_tiles(const void *context, ptrdiff_t task, void *scratch) {
    const struct cross_entropy *job = context;
    ptrdiff_t n = job->classes, end = min_size((task + 1) * job->rows_per_task, job->rows);
    real *x = scratch, *grad = job->grad_input ? x + FEW_CLASSES * LANES : NULL;
    for (ptrdiff_t row = task * job->rows_per_task; row < end; row += LANES) {
        ptrdiff_t rows = min_size(LANES, end - row);
        transpose_few(job->input + row * n, rows, n, x);
        cross_entropy_columns(job, row, rows, LANES, x, grad);
        if (grad) transpose_back(grad, rows, n, job->grad_input + row * n);
    }
}

static int run_rows(struct cross_entropy *job) {
    ptrdiff_t outer = job->rows / job->inner;
    double nanoseconds = (double)job->rows * (double)job->classes * NANOSECONDS_PER_ELEMENT;
    if (job->inner == 1 && job->classes <= FEW_CLASSES) {
        job->rows_per_task = ceil_div(job->rows_per_task, LANES) * LANES;
        return parallel_run(ceil_div(outer, job->rows_per_task), nanoseconds,
                            2 * FEW_CLASSES * LANES * sizeof(real), run_tiles, job);
    }
    if (job->inner == 1)
        return parallel_run(ceil_div(outer, job->rows_per_task), nanoseconds, 0, run_cross_entropy, job);
    ptrdiff_t classes = max_size(1, job->classes);
    job->copies = classes * min_size(job->inner & -job->inner, SET_PITCH) > L1_ELEMENTS;
    job->block = max_size(job->copies ? LINE : 64, CHUNK / classes / LINE * LINE);
    job->blocks = ceil_div(job->inner, job->block);
    size_t scratch = job->copies ? (size_t)(classes * (job->block + LINE)) * sizeof(real) : 0;
    return parallel_run(outer * job->blocks, nanoseconds, scratch, run_columns, job);
}

static int cross_entropy(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, const void *input,
                         const int64_t *target, const void *weight, int64_t ignore_index, double smoothing,
                         const void *row_scale, double scale, void *loss, double *sum, void *grad_input) {
    struct cross_entropy job = {.rows = outer * inner,
                                .classes = classes,
                                .rows_per_task = max_size(1, CHUNK / max_size(1, classes)),
                                .inner = inner,
                                .input = input,
                                .target = target,
                                .weight = weight,
                                .weight_sum = (real)classes,
                                .ignore_index = ignore_index,
                                .smoothing = (real)smoothing,
                                .scale = (real)scale,
                                .row_scale = row_scale,
                                .loss = loss,
                                .grad_input = grad_input};
    if (weight) {
        double sum = 0;
        for (ptrdiff_t i = 0; i < classes; i++) sum += (double)job.weight[i];
        job.weight_sum = (real)sum;
    }
    size_t bytes = (size_t)job.rows * sizeof(real);
    if (sum && !loss && !(job.loss = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    int status = job.rows ? run_rows(&job) : PYCONV_OK;
    if (sum) *sum = VARIANT(sum_losses)(job.rows, job.loss);
    if (sum && !loss) pyconv_free(job.loss, bytes);
    return status;
}

/* ---- Losses that are a function of two numbers ---- */

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

const struct pyconv_loss_kernels KERNELS(loss) = {VARIANT(check_classes), cross_entropy,
                                                  VARIANT(nll),           VARIANT(nll_backward),
                                                  pointwise_loss,         pointwise_loss_backward};
