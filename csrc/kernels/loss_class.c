/* Losses of class indices: are they legal; and negative log likelihood, of a row x of log-probabilities with
 * class y and class weights w (1 without):
 *
 *     loss = -w_y x_y,    d loss / d x_c = -w_y [c = y]
 *
 * Of the input one element a row is read, so the limit is memory's latency, or the call itself; the gradient
 * is mostly zeros, which are written a block at a time.
 */
#include "loss.h"
#include "parallel.h"
#include "pyconv.h"

#define CHUNK ((ptrdiff_t)4096) /* rows in a task */
/* Elements of a gradient in a task, which stay in L2: 21 classes of 128 x 128 pixels, of which it has runs of
 * 12 KiB, take half of the time that runs of 780 bytes take (Zen 3). */
#define BLOCK ((ptrdiff_t)65536)
#define NANOSECONDS_PER_ROW 2.0                     /* lines of L3, several at a time */
#define NANOSECONDS(bytes) ((double)(bytes) / 10.0) /* a core streams about 10 bytes a nanosecond */

struct nll {
    ptrdiff_t rows, classes, inner;
    ptrdiff_t blocks, block; /* backward: tasks to an image, or to all rows; columns, or rows, in each */
    const real *input, *weight, *row_scale;
    const int64_t *target;
    int64_t ignore_index;
    real scale;
    real *loss, *grad_input;
};

double VARIANT(sum_losses)(ptrdiff_t count, const real *loss) {
    double total = 0;
    for (ptrdiff_t block = 0; block < count; block += 64 * LANES) { /* lanes sum up 64 numbers at most */
        ptrdiff_t end = min_size(count, block + 64 * LANES), i = block;
        vec sum = {0};
        for (; i + LANES <= end; i += LANES) sum += load(loss + i);
        if (i < end) sum += load_first(loss + i, end - i);
        total += (double)sum_lanes(sum);
    }
    return total;
}

/* The first row whose class is illegal, or -1; total: the weights of the classes that are not ignored. */
ptrdiff_t VARIANT(check_classes)(ptrdiff_t rows, ptrdiff_t classes, const int64_t *target, const void *weight,
                                 int64_t ignore_index, double *total) {
    int64_t wrong = 0, kept = 0;
    for (ptrdiff_t row = 0; row < rows; row++) {
        int64_t keep = target[row] != ignore_index;
        wrong |= keep & ((uint64_t)target[row] >= (uint64_t)classes);
        kept += keep;
    }
    *total = (double)kept;
    for (ptrdiff_t row = 0; wrong && row < rows; row++)
        if (target[row] != ignore_index && (uint64_t)target[row] >= (uint64_t)classes) return row;
    if (weight) *total = 0;
    for (ptrdiff_t row = 0; weight && row < rows; row++)
        if (target[row] != ignore_index) *total += (double)((const real *)weight)[target[row]];
    return -1;
}

static void run_nll(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct nll *job = context;
    ptrdiff_t row = task * CHUNK, end = min_size(row + CHUNK, job->rows), column = row % job->inner;
    const real *image = job->input + row / job->inner * job->classes * job->inner;
    for (; row < end; row++) {
        int64_t y = job->target[row];
        real loss = 0;
        if (y != job->ignore_index)
            loss = -image[y * job->inner + column] * (job->weight ? job->weight[y] : 1);
        job->loss[row] = loss;
        if (++column == job->inner) column = 0, image += job->classes * job->inner;
    }
}

int VARIANT(nll)(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, const void *input,
                 const int64_t *target, const void *weight, int64_t ignore_index, void *loss, double *sum) {
    struct nll job = {.rows = outer * inner,
                      .classes = classes,
                      .inner = inner,
                      .input = input,
                      .weight = weight,
                      .target = target,
                      .ignore_index = ignore_index};
    size_t bytes = (size_t)job.rows * sizeof(real);
    if (!(job.loss = loss ? loss : pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    int status =
        parallel_run(ceil_div(job.rows, CHUNK), (double)job.rows * NANOSECONDS_PER_ROW, 0, run_nll, &job);
    if (sum) *sum = VARIANT(sum_losses)(job.rows, job.loss);
    if (!loss) pyconv_free(job.loss, bytes);
    return status;
}

/* Rows (of inner = 1) or columns from `begin` to `end`; row 0's class 0 is at grad, its target at row
 * `first`. */
static void write_gradient(const struct nll *job, ptrdiff_t first, ptrdiff_t begin, ptrdiff_t end,
                           real *grad) {
    ptrdiff_t next_row = job->inner == 1 ? job->classes : 1;
    for (ptrdiff_t i = begin; i < end; i++) {
        int64_t y = job->target[first + i];
        if (y == job->ignore_index) continue;
        real scale = job->row_scale ? job->row_scale[first + i] : job->scale;
        grad[i * next_row + y * job->inner] = -scale * (job->weight ? job->weight[y] : 1);
    }
}

static void run_nll_backward(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct nll *job = context;
    ptrdiff_t image = task / job->blocks, begin = task % job->blocks * job->block;
    ptrdiff_t end = min_size(begin + job->block, job->inner == 1 ? job->rows : job->inner);
    real *grad = job->grad_input + image * job->classes * job->inner;
    if (job->inner == 1)
        memset(grad + begin * job->classes, 0, (size_t)((end - begin) * job->classes) * sizeof(real));
    else
        for (ptrdiff_t c = 0; c < job->classes; c++)
            memset(grad + c * job->inner + begin, 0, (size_t)(end - begin) * sizeof(real));
    write_gradient(job, image * job->inner, begin, end, grad);
}

int VARIANT(nll_backward)(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, const int64_t *target,
                          const void *weight, int64_t ignore_index, const void *row_scale, double scale,
                          void *grad_input) {
    struct nll job = {.rows = outer * inner,
                      .classes = classes,
                      .inner = inner,
                      .weight = weight,
                      .row_scale = row_scale,
                      .target = target,
                      .ignore_index = ignore_index,
                      .scale = (real)scale,
                      .grad_input = grad_input};
    ptrdiff_t least = inner == 1 ? 1 : 16 * LANES;
    job.block = max_size(BLOCK / max_size(classes, 1), least);
    job.blocks = ceil_div(inner == 1 ? outer : inner, job.block);
    double cost = NANOSECONDS((double)job.rows * (double)classes * sizeof(real));
    return parallel_run(inner == 1 ? job.blocks : outer * job.blocks, cost, 0, run_nll_backward, &job);
}
