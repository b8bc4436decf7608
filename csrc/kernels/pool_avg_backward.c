/* The gradient of average pooling.
 *
 *     grad_input[n, h, w, c] = sum over the windows (i, j) that cover (h, w) of
 *                              grad_output[n, i, j, c] / (D_i D_j)
 *
 * The divisor of a window is a product of one for its row and one for its column, so this is separable: a row
 * of grad_input is the sum of the rows of grad_output above it, divided (into scratch of one output row,
 * which stays in L1), and then summed over the windows that cover each column.
 */
#include "parallel.h"
#include "pool_avg.h"
#include "pool_line.h"

#define NANOSECONDS(bytes) ((double)(bytes) / 10.0)

struct avg_pool_backward {
    struct pyconv_pool pool;
    struct pool_axes axes;
    struct pool_cut cut;
    struct pool_runs runs;  /* the windows that cover a column, of planes whose windows differ */
    int ordinary;           /* planes whose windows do not */
    int one_divisor;        /* all columns have the same */
    ptrdiff_t sum_elements; /* scratch of a row's sums: */
    ptrdiff_t block;        /* of so many rows; behind it are the columns' divisors */
    const real *grad_output;
    real *grad_input;
};

INLINE ptrdiff_t whole_vectors(ptrdiff_t elements) { return ceil_div(elements, LANES) * LANES; }

/* sum (+)= x / d over n elements of one output column or of a run of columns with the same divisor */
INLINE void add_divided(real *sum, const real *x, ptrdiff_t n, struct divisor divisor, int add) {
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        vec y = divide(load_some(x + i, n - i), divisor);
        store_some(sum + i, add ? load_some(sum + i, n - i) + y : y, n - i);
    }
}

/* The same of one channel, whose columns have divisors of their own, in whole vectors, to be multiplied by
 * `down`. */
static void add_ratios(real *sum, const real *x, ptrdiff_t n, const real *divisor, real down, int add) {
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        vec y = load_some(x + i, n - i) / (down * load(divisor + i));
        store_some(sum + i, add ? load_some(sum + i, n - i) + y : y, n - i);
    }
}

/* sum = all rows, of n elements each, which have the same divisor */
INLINE void sum_divided(const real *x, ptrdiff_t rows, ptrdiff_t n, struct divisor divisor, real *sum) {
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        vec y = divide(look_down(DOWN_SUM, x + i, rows, n, n - i), divisor);
        store_some(sum + i, y, n - i);
    }
}

static void sum_alike(const real *x, ptrdiff_t rows, ptrdiff_t n, struct divisor divisor, real *sum) {
    if (rows == 2)
        sum_divided(x, 2, n, divisor, sum);
    else if (rows == 3)
        sum_divided(x, 3, n, divisor, sum);
    else
        sum_divided(x, rows, n, divisor, sum);
}

/* sum[j][c] = the sum over the windows of rows that cover row h of grad_output / divisor */
static void sum_rows(const struct avg_pool_backward *job, ptrdiff_t image, ptrdiff_t h, const real *divisors,
                     real *sum) {
    const struct pyconv_pool *pool = &job->pool;
    const struct window *column = job->axes.column.window;
    struct cover cover = job->axes.row.cover[h];
    ptrdiff_t channels = pool->channels, elements = pool->out_width * channels,
              rows = cover.last - cover.first;
    const struct window *window = job->axes.row.window + cover.first;
    const real *from = job->grad_output + (image * pool->out_height + cover.first) * elements;
    if (rows == 0) memset(sum, 0, (size_t)elements * sizeof(real));
    if (job->one_divisor && rows > 1 && alike(window, rows) == rows) {
        sum_alike(from, rows, elements, divide_by(window->divisor, column->divisor), sum);
        return;
    }
    for (ptrdiff_t i = 0; i < rows; i++, from += elements) {
        if (channels == 1 && !job->one_divisor) {
            add_ratios(sum, from, elements, divisors, (real)window[i].divisor, i > 0);
            continue;
        }
        for (ptrdiff_t j = 0, end; j < pool->out_width; j = end) {
            for (end = job->one_divisor ? pool->out_width : j + 1; end < pool->out_width; end++)
                if (column[end].divisor != column[j].divisor) break;
            struct divisor divisor = divide_by(window[i].divisor, column[j].divisor);
            add_divided(sum + j * channels, from + j * channels, (end - j) * channels, divisor, i > 0);
        }
    }
}

/* grad_input[c] = the sum of n runs of channels, which follow one another */
INLINE void sum_columns(const real *sum, ptrdiff_t n, ptrdiff_t channels, real *grad_input) {
    ptrdiff_t c = 0;
    for (; c + LANES <= channels; c += LANES) {
        vec total = {0};
        for (ptrdiff_t i = 0; i < n; i++) total += load(sum + i * channels + c);
        store(grad_input + c, total);
    }
    for (; c < channels; c++) {
        real total = 0;
        for (ptrdiff_t i = 0; i < n; i++) total += sum[i * channels + c];
        grad_input[c] = total;
    }
}

static void backward_channels(const struct avg_pool_backward *job, const real *sum, real *grad_input) {
    ptrdiff_t channels = job->pool.channels;
    for (ptrdiff_t w = 0; w < job->pool.width; w++, grad_input += channels) {
        struct cover cover = job->axes.column.cover[w];
        if (cover.last - cover.first == 1)
            sum_columns(sum + cover.first * channels, 1, channels, grad_input);
        else
            sum_columns(sum + cover.first * channels, cover.last - cover.first, channels, grad_input);
    }
}

/* Scratch for planes: `left_margin` zeros, the sums of a row, and zeros up to `sum_elements`. */
INLINE ptrdiff_t left_margin(const struct pyconv_pool *pool) {
    return ceil_div(pool->kernel[1], pool->stride[1]);
}
INLINE ptrdiff_t sum_elements(const struct pyconv_pool *pool) {
    ptrdiff_t windows = ceil_div(pool->width + pool->padding[1], pool->stride[1]);
    return max_size(pool->out_width, windows) + LANES + 1;
}

/* sum[0] + sum[-1] + ..., the last first */
INLINE vec sum_copies(const real *sum, ptrdiff_t copies) {
    vec total = {0};
    for (ptrdiff_t t = copies - 1; t >= 0; t--) total += load(sum - t);
    return total;
}

/* A stride of 2: `even` windows cover each even pixel, `odd` each odd one. */
INLINE void backward_pairs(const struct pyconv_pool *pool, const real *sum, ptrdiff_t even, ptrdiff_t odd,
                           real *grad_input) {
    ptrdiff_t padding = pool->padding[1], width = pool->width;
    for (ptrdiff_t w = 0; w < width; w += 2 * LANES) {
        vec a = sum_copies(sum + (padding + w) / 2, even);
        vec b = sum_copies(sum + (padding + w + 1) / 2, odd);
        vec zipped[2] = {zip_low(a, b), zip_high(a, b)};
        for (int i = 0; i < 2; i++) {
            ptrdiff_t at = w + i * LANES;
            if (at + LANES <= width)
                store(grad_input + at, zipped[i]);
            else if (at < width)
                store_first(grad_input + at, zipped[i], width - at);
        }
    }
}

/* One channel: the pixels w = m S + a - P of phase a are covered by the windows m, m - 1, ... with the taps
 * a, a + S, ...; so a phase is a sum of shifted copies of `sum`, which has zeros on either side. */
static void backward_line(const struct avg_pool_backward *job, const real *sum, real *grad_input) {
    const struct pyconv_pool *pool = &job->pool;
    ptrdiff_t stride = pool->stride[1], padding = pool->padding[1], kernel = pool->kernel[1],
              width = pool->width;
    if (stride == 1) {
        for (ptrdiff_t w = 0; w < width; w += LANES) {
            vec total = sum_copies(sum + padding + w, kernel);
            store_some(grad_input + w, total, width - w);
        }
    } else if (stride == 2) {
        ptrdiff_t even = (kernel - padding % 2 + 1) / 2, odd = (kernel - (padding + 1) % 2 + 1) / 2;
        if (even == 1 && odd == 1)
            backward_pairs(pool, sum, 1, 1, grad_input);
        else
            backward_pairs(pool, sum, even, odd, grad_input);
    } else {
        for (ptrdiff_t w = 0; w < width; w++) {
            ptrdiff_t m = (w + padding) / stride, a = (w + padding) % stride;
            real total = 0;
            for (ptrdiff_t t = a < kernel ? (kernel - 1 - a) / stride : -1; t >= 0; t--) total += sum[m - t];
            grad_input[w] = total;
        }
    }
}

/* The same where windows differ: lanes are pixels, which read the windows that cover them; of so few that
 * these are one vector, by permuting it. */
static void backward_runs(const struct avg_pool_backward *job, const real *sum, real *grad_input) {
    const struct pool_runs runs = job->runs;
    const int permuted = PERMUTES_LANES && job->pool.out_width <= LANES;
    const vec all = permuted && runs.most ? load(sum) : (vec){0};
    for (ptrdiff_t w = 0; w < runs.size; w += LANES) {
        vec total = {0};
        for (ptrdiff_t t = 0; t < runs.most; t++)
            total += permuted ? permuted_elements(&runs, all, w, t) : run_elements(&runs, sum, w, t, 0);
        store_some(grad_input + w, total, runs.size - w);
    }
}

static void backward_row(const struct avg_pool_backward *job, const real *sum, real *grad_input) {
    if (job->ordinary)
        backward_line(job, sum, grad_input);
    else if (job->runs.size)
        backward_runs(job, sum, grad_input);
    else
        backward_channels(job, sum, grad_input);
}

/* The row before once more; a call for few elements takes longer than they do */
INLINE void repeat_row(real *row, ptrdiff_t elements) {
    if (elements <= 16 * LANES)
        copy_elements(row - elements, elements, row);
    else
        memcpy(row, row - elements, (size_t)elements * sizeof(real));
}

/* How many of `rows` rows of the input, from h on, see the same windows. */
INLINE ptrdiff_t same_rows(const struct avg_pool_backward *job, ptrdiff_t h, ptrdiff_t rows) {
    const struct cover *cover = job->axes.row.cover + h;
    ptrdiff_t n = 1;
    while (n < rows && cover[n].first == cover->first && cover[n].last == cover->last) n++;
    return n;
}

/* Blocks of rows that differ, as in the forward pass: first what each is made of, then the rows themselves.
 */
static void run_backward(const void *context, ptrdiff_t task, void *scratch) {
    const struct avg_pool_backward *job = context;
    const struct pyconv_pool *pool = &job->pool;
    struct pool_part part = task_part(&job->cut, task);
    ptrdiff_t margin = job->ordinary ? left_margin(pool) : 0, elements = pool->width * pool->channels;
    real *sums = (real *)scratch + margin, *divisors = (real *)scratch + job->block * job->sum_elements;
    real *grad_input = job->grad_input + part.row * elements;
    if (job->ordinary) memset(scratch, 0, (size_t)(job->block * job->sum_elements) * sizeof(real));
    for (ptrdiff_t j = 0; j < whole_vectors(pool->out_width) && !job->one_divisor; j++)
        divisors[j] = j < pool->out_width ? (real)job->axes.column.window[j].divisor : 1;
    for (ptrdiff_t row = part.row; row < part.row_end;) {
        ptrdiff_t same[MOST_ROWS], count = 0;
        for (; count < job->block && row < part.row_end; row += same[count++]) {
            ptrdiff_t image = row / pool->height, h = row % pool->height;
            same[count] = same_rows(job, h, min_size(part.row_end - row, pool->height - h));
            sum_rows(job, image, h, divisors, sums + count * job->sum_elements);
        }
        for (ptrdiff_t k = 0; k < count; k++) {
            backward_row(job, sums + k * job->sum_elements, grad_input);
            for (grad_input += elements; --same[k] > 0; grad_input += elements)
                repeat_row(grad_input, elements);
        }
    }
}

static int make_cover_runs(struct avg_pool_backward *job) {
    int status = make_runs(job->pool.width, &job->runs);
    for (ptrdiff_t w = 0; status == PYCONV_OK && w < job->pool.width; w++) {
        struct cover cover = job->axes.column.cover[w];
        set_run(&job->runs, w, cover.first, cover.last - cover.first);
    }
    return status;
}

int VARIANT(avg_pool_backward)(const struct pyconv_pool *pool, const void *grad_output, void *grad_input) {
    struct avg_pool_backward job = {.pool = *pool, .grad_output = grad_output, .grad_input = grad_input};
    int status = make_axes(pool, &job.axes);
    if (status) return status;
    job.one_divisor = 1;
    for (ptrdiff_t j = 1; j < pool->out_width; j++)
        job.one_divisor &= job.axes.column.window[j].divisor == job.axes.column.window[0].divisor;
    ptrdiff_t rows = pool->images * pool->height, elements = pool->width * pool->channels;
    job.cut = cut_rows(rows, elements, 1);
    double cost = NANOSECONDS((double)rows * (double)elements * sizeof(real));
    job.sum_elements = pool->out_width * pool->channels;
    job.ordinary = pool->channels == 1 && !pool->adaptive;
    if (job.ordinary) job.sum_elements = left_margin(pool) + sum_elements(pool);
    if (pool->channels == 1 && pool->adaptive) {
        status = make_cover_runs(&job);
        job.sum_elements += job.runs.most;
    }
    job.block = 1;
    if (pool->channels == 1)
        job.block = max_size(min_size(BLOCK_ELEMENTS / max_size(job.sum_elements, 1), MOST_ROWS), 1);
    size_t scratch = (size_t)(job.block * job.sum_elements + whole_vectors(pool->out_width)) * sizeof(real);
    if (status == PYCONV_OK) status = parallel_run(job.cut.tasks, cost, scratch, run_backward, &job);
    free_runs(&job.runs);
    free_axes(&job.axes);
    return status;
}
