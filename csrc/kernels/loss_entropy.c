/* Cross entropy with class indices, and its gradient.
 *
 * Of a row x of logits with class y, label smoothing t and class weights w (1 without), with p = softmax(x)
 * and W = sum w:
 *
 *     loss = (1 - t) w_y (-log p_y) + t / C sum_c w_c (-log p_c)
 *     d loss / d x_c = p_c ((1 - t) w_y + t W / C) - (1 - t) w_y [c = y] - t w_c / C
 *
 * so that loss and gradient need one exponential per logit. Rows of many classes that lie in memory at a
 * stretch are worked on as they are. Others are gathered in scratch with their classes one behind the other,
 * so that a lane has a row: no lane idles, nothing is added across lanes, and SIDE exponentials are taken
 * side by side. Rows whose class is `ignore_index` count as 0.
 */
#include "loss.h"
#include "parallel.h"
#include "pyconv.h"
#include "transpose.h"
#include "vmath.h"

#define CHUNK ((ptrdiff_t)16384)    /* logits of a task */
#define FEW_CLASSES ((ptrdiff_t)32) /* a multiple of LANES */
#define SIDE 4
#define WIDE ((ptrdiff_t)(SIDE * LANES)) /* rows that are worked on together */
#define NANOSECONDS_PER_ELEMENT 1.0

struct cross_entropy {
    ptrdiff_t rows, classes, rows_per_task;
    ptrdiff_t inner, blocks, block; /* where classes lie inner > 1 apart: tasks to an image, rows of each */
    const real *input;
    const int64_t *target;
    const real *weight;
    real weight_sum;
    int64_t ignore_index;
    real smoothing, scale;
    const real *row_scale;
    real *loss, *grad_input;
};

/* ---- Rows ---- */

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

/* ---- A lane for each row: in x, which is scratch, classes are `pitch` apart ---- */

/* Class and weight of the rows. Ignored ones have kept = 0; in lanes without a row all is 0. */
struct targets {
    ptrdiff_t y[WIDE];
    real of_class[WIDE], picked[WIDE]; /* picked: x_y */
    integer kept[WIDE];
};

static void load_targets(const struct cross_entropy *job, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t pitch,
                         const real *x, struct targets *targets) {
    for (ptrdiff_t i = 0; i < rows; i++) {
        int64_t target = job->target[row + i];
        int keep = target != job->ignore_index;
        ptrdiff_t y = targets->y[i] = keep ? (ptrdiff_t)target : 0;
        targets->kept[i] = -keep;
        targets->picked[i] = keep ? x[y * pitch + i] : 0;
        targets->of_class[i] = !keep ? 0 : job->weight ? job->weight[y] : 1;
    }
    for (ptrdiff_t i = rows; i < WIDE; i++)
        targets->of_class[i] = targets->picked[i] = 0, targets->kept[i] = 0;
}

/* One vector of rows: their losses, of the largest logits m, the sums and smooth = sum_c w_c (m - x_c). */
INLINE vec losses_of(const struct cross_entropy *job, vec of_class, vec picked, vec m, vec sum, vec smooth) {
    vec log_sum = vec_log(sum), loss = of_class * (m - picked + log_sum);
    if (job->smoothing != 0)
        loss += job->smoothing / (real)job->classes * (smooth + job->weight_sum * log_sum);
    return loss;
}

/* x = the gradient, of x = e^(x - m). */
INLINE void gradient_lanes(const struct cross_entropy *job, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t pitch,
                           const int vectors, const struct targets *targets, const vec *sum, real *x) {
    real of_all = job->smoothing / (real)job->classes;
    real picked[WIDE];
    vec factor[SIDE], scale[SIDE];
    ivec kept[SIDE];
    UNROLL for (int v = 0; v < vectors; v++) {
        ptrdiff_t at = v * LANES;
        vec of_class = (1 - job->smoothing) * load(targets->of_class + at);
        memcpy(kept + v, targets->kept + at, sizeof(ivec));
        scale[v] = splat(job->scale);
        if (job->row_scale) scale[v] = at < rows ? load_some(job->row_scale + row + at, rows - at) : (vec){0};
        factor[v] = scale[v] * (of_class + of_all * job->weight_sum) / sum[v];
        store(picked + at, scale[v] * of_class);
    }
    for (ptrdiff_t c = 0; c < job->classes; c++) UNROLL for (int v = 0; v < vectors; v++) {
            vec g = load(x + c * pitch + v * LANES) * factor[v];
            if (of_all != 0) g -= scale[v] * (of_all * (job->weight ? job->weight[c] : 1));
            store(x + c * pitch + v * LANES, (vec)((ivec)g & kept[v]));
        }
    for (ptrdiff_t i = 0; i < rows; i++)
        if (targets->kept[i]) x[targets->y[i] * pitch + i] -= picked[i];
}

/* `rows` rows from `row` on, as many vectors of them; x becomes their gradient. */
INLINE void entropy_lanes(const struct cross_entropy *job, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t pitch,
                          const int vectors, real *x) {
    ptrdiff_t n = job->classes;
    struct targets targets;
    load_targets(job, row, rows, pitch, x, &targets);
    vec m[SIDE], sum[SIDE], smooth[SIDE];
    UNROLL for (int v = 0; v < vectors; v++) {
        m[v] = splat((real)-__builtin_inf());
        sum[v] = smooth[v] = (vec){0};
    }
    for (ptrdiff_t c = 0; c < n; c++)
        UNROLL for (int v = 0; v < vectors; v++) m[v] = larger(load(x + c * pitch + v * LANES), m[v]);
    for (ptrdiff_t c = 0; job->smoothing != 0 && c < n; c++) UNROLL for (int v = 0; v < vectors; v++) {
            vec distance = m[v] - load(x + c * pitch + v * LANES);
            smooth[v] += job->weight ? distance * job->weight[c] : distance;
        }
    for (ptrdiff_t c = 0; c < n; c++) {
        vec e[SIDE];
        UNROLL for (int v = 0; v < vectors; v++) e[v] = load(x + c * pitch + v * LANES) - m[v];
        exp_each(e, vectors);
        UNROLL for (int v = 0; v < vectors; v++) {
            sum[v] += e[v];
            store(x + c * pitch + v * LANES, e[v]);
        }
    }
    if (job->loss) UNROLL for (int v = 0; v < vectors; v++) {
            ptrdiff_t at = v * LANES;
            vec of_class = (1 - job->smoothing) * load(targets.of_class + at);
            ivec kept;
            memcpy(&kept, targets.kept + at, sizeof kept);
            vec loss = losses_of(job, of_class, load(targets.picked + at), m[v], sum[v], smooth[v]);
            if (at < rows) store_some(job->loss + row + at, (vec)((ivec)loss & kept), rows - at);
        }
    if (job->grad_input) gradient_lanes(job, row, rows, pitch, vectors, &targets, sum, x);
}

static void entropy_wide(const struct cross_entropy *job, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t pitch,
                         real *x) {
    if (rows > LANES)
        entropy_lanes(job, row, rows, pitch, SIDE, x);
    else
        entropy_lanes(job, row, rows, pitch, 1, x);
}

/* Rows side by side, [image][class][inner]: a block of them is copied, as classes often lie so far apart in
 * powers of two that those of a row share few sets of the caches. */
static void run_columns(const void *context, ptrdiff_t task, void *scratch) {
    const struct cross_entropy *job = context;
    ptrdiff_t n = job->classes, image = task / job->blocks, begin = task % job->blocks * job->block;
    ptrdiff_t width = min_size(job->block, job->inner - begin), at = image * n * job->inner + begin;
    ptrdiff_t pitch = job->block + LINE, whole = width / LANES * LANES;
    real *x = scratch;
    for (ptrdiff_t c = 0; c < n; c++) {
        const real *from = job->input + at + c * job->inner;
        copy_elements(from, whole, x + c * pitch);
        for (ptrdiff_t i = whole; i < ceil_div(width, WIDE) * WIDE; i += LANES)
            store(x + c * pitch + i, i < width ? load_first(from + i, width - i) : (vec){0});
    }
    for (ptrdiff_t i = 0; i < width; i += WIDE)
        entropy_wide(job, image * job->inner + begin + i, min_size(width - i, WIDE), pitch, x + i);
    for (ptrdiff_t c = 0; job->grad_input && c < n; c++)
        copy_elements(x + c * pitch, width, job->grad_input + at + c * job->inner);
}

/* Rows of few classes, one behind the other: WIDE of them are transposed, and back. */
static void run_tiles(const void *context, ptrdiff_t task, void *scratch) {
    const struct cross_entropy *job = context;
    ptrdiff_t n = job->classes, end = min_size((task + 1) * job->rows_per_task, job->rows);
    real *x = scratch;
    for (ptrdiff_t row = task * job->rows_per_task; row < end; row += WIDE) {
        ptrdiff_t rows = min_size(WIDE, end - row);
        if (rows < WIDE) clear_elements(x, n * WIDE);
        for (ptrdiff_t i = 0; i < rows; i += LANES)
            for (ptrdiff_t c = 0; c < n; c += LANES)
                transpose_square(job->input + (row + i) * n + c, n, min_size(LANES, rows - i),
                                 min_size(LANES, n - c), x + c * WIDE + i, WIDE);
        entropy_wide(job, row, rows, WIDE, x);
        for (ptrdiff_t i = 0; job->grad_input && i < rows; i += LANES)
            for (ptrdiff_t c = 0; c < n; c += LANES)
                transpose_square(x + c * WIDE + i, WIDE, min_size(LANES, n - c), min_size(LANES, rows - i),
                                 job->grad_input + (row + i) * n + c, n);
    }
}

static int run_rows(struct cross_entropy *job) {
    ptrdiff_t outer = job->rows / job->inner;
    double nanoseconds = (double)job->rows * (double)job->classes * NANOSECONDS_PER_ELEMENT;
    if (job->inner == 1 && job->classes <= FEW_CLASSES) {
        job->rows_per_task = ceil_div(job->rows_per_task, WIDE) * WIDE;
        return parallel_run(ceil_div(outer, job->rows_per_task), nanoseconds,
                            FEW_CLASSES * WIDE * sizeof(real), run_tiles, job);
    }
    if (job->inner == 1)
        return parallel_run(ceil_div(outer, job->rows_per_task), nanoseconds, 0, run_cross_entropy, job);
    ptrdiff_t classes = max_size(1, job->classes);
    job->block = max_size(CHUNK / classes / WIDE, 1) * WIDE;
    job->blocks = ceil_div(job->inner, job->block);
    return parallel_run(outer * job->blocks, nanoseconds,
                        (size_t)(classes * (job->block + LINE)) * sizeof(real), run_columns, job);
}

int VARIANT(cross_entropy)(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, const void *input,
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
