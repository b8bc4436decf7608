/* Average pooling.
 *
 *     y[n, i, j, c] = sum over the taps (r, s) of x[n, i S - P + r, j S - P + s, c] / (D_i D_j)
 *
 * The divisor of a window is a product of one for its row and one for its column, so the gradient is
 * separable: a row of grad_input is the sum of the rows of grad_output above it, divided (into scratch of
 * one output row, which stays in L1), and then summed over the windows that cover each column. Sums run
 * along a row of taps first, then over the rows, which also keeps the rounding error of large windows low.
 * The tall windows of a short output are taken in parts, whose sums are added in order. Four vectors of
 * channels at a time hide the latency of additions: 8 accumulators of 16 registers.
 * A division is exact as PyTorch's is; a product with the reciprocal replaces it where that is exact too.
 */
#include "parallel.h"
#include "pool.h"

#define NANOSECONDS(bytes) ((double)(bytes) / 10.0)

struct avg_pool {
    struct pyconv_pool pool;
    struct pool_axes axes;
    struct pool_cut cut;
    struct pool_line line;
    int one_divisor;   /* backward: all columns have the same */
    const real *input; /* grad_output in the backward pass */
    real *output;
};

/* x / d, d being a power of two in most networks */
struct divisor {
    real value, reciprocal;
    int exact;
};

INLINE struct divisor divide_by(ptrdiff_t vertical, ptrdiff_t horizontal) {
    ptrdiff_t product = vertical * horizontal, size = product < 0 ? -product : product;
    return (struct divisor){(real)product, 1 / (real)product, (size & (size - 1)) == 0 && size > 0};
}
INLINE vec divide(vec x, struct divisor d) { return d.exact ? x * d.reciprocal : x / d.value; }

/* How the taps of one window lie in memory. */
struct taps {
    ptrdiff_t rows, columns, row_stride, column_stride;
};

/* ---- Many channels ---- */

/* The sums of `vectors` vectors of channels over a window. */
#define SUM_WINDOW(vectors, load_vector)                                                                     \
    do {                                                                                                     \
        vec total[vectors] = {{0}};                                                                          \
        for (ptrdiff_t r = 0; r < rows; r++) {                                                               \
            const real *x = input + r * taps.row_stride + c;                                                 \
            vec sum[vectors] = {{0}};                                                                        \
            for (ptrdiff_t s = 0; s < columns; s++, x += taps.column_stride)                                 \
                for (int v = 0; v < vectors; v++) sum[v] += load_vector(x + v * LANES);                      \
            for (int v = 0; v < vectors; v++) total[v] += sum[v];                                            \
        }                                                                                                    \
        for (int v = 0; v < vectors; v++) STORE(output + c + v * LANES, divide(total[v], divisor));          \
    } while (0)

/* One window, channels [0, channels); rows and columns are taps.rows and taps.columns, often constants. */
INLINE void pool_pixel(const real *input, struct taps taps, ptrdiff_t rows, ptrdiff_t columns,
                       struct divisor divisor, ptrdiff_t channels, real *output) {
    ptrdiff_t c = 0;
#define STORE store
    for (; c + 4 * LANES <= channels; c += 4 * LANES) SUM_WINDOW(4, load);
    for (; c + LANES <= channels; c += LANES) SUM_WINDOW(1, load);
#undef STORE
#define STORE(p, x) store_first(p, x, channels - c)
#define LOAD(p) load_first(p, channels - c)
    if (c < channels) SUM_WINDOW(1, LOAD);
#undef LOAD
#undef STORE
}

/* The averages of a row of windows, or with parts the sums of some of their rows. */
static void pool_row(const struct avg_pool *job, ptrdiff_t image, const struct window *row, real *output) {
    const struct pyconv_pool *pool = &job->pool;
    ptrdiff_t channels = pool->channels;
    const real *line = job->input + (image * pool->height + row->begin) * pool->width * channels;
    struct taps taps = {row->taps, 0, pool->width * channels, channels};
    for (ptrdiff_t j = 0; j < pool->out_width; j++, output += channels) {
        const struct window *column = &job->axes.column.window[j];
        struct divisor divisor =
            job->cut.parts > 1 ? divide_by(1, 1) : divide_by(row->divisor, column->divisor);
        const real *input = line + column->begin * channels;
        taps.columns = column->taps;
        if (taps.rows == 0 || taps.columns == 0)
            memset(output, 0, (size_t)channels * sizeof(real)); /* all padding: 0, and not 0 / 0 */
        else if (taps.rows == 2 && taps.columns == 2)
            pool_pixel(input, taps, 2, 2, divisor, channels, output);
        else if (taps.rows == 3 && taps.columns == 3)
            pool_pixel(input, taps, 3, 3, divisor, channels, output);
        else
            pool_pixel(input, taps, taps.rows, taps.columns, divisor, channels, output);
    }
}

static void run_forward(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct avg_pool *job = context;
    struct pool_part part = task_part(&job->cut, task);
    ptrdiff_t elements = job->pool.out_width * job->pool.channels, parts = job->cut.parts;
    for (ptrdiff_t row = part.row; row < part.row_end; row++) {
        struct window window = job->axes.row.window[row % job->pool.out_height];
        window = window_part(window, &job->axes.row, part.part, parts);
        pool_row(job, row / job->pool.out_height, &window,
                 job->output + (row * parts + part.part) * elements);
    }
}

/* The averages of a row of windows from the sums of their parts. */
static void join_parts(const struct avg_pool *job, ptrdiff_t row, const real *partial, real *output) {
    ptrdiff_t channels = job->pool.channels, elements = job->pool.out_width * channels;
    const struct window *vertical = &job->axes.row.window[row % job->pool.out_height];
    for (ptrdiff_t e = 0; e < elements; e++) {
        const struct window *horizontal = &job->axes.column.window[e / channels];
        real total = 0;
        for (ptrdiff_t part = 0; part < job->cut.parts; part++) total += partial[part * elements + e];
        int empty = vertical->taps == 0 || horizontal->taps == 0;
        output[e] = empty ? 0 : total / (real)(vertical->divisor * horizontal->divisor);
    }
}

/* Rows that are few and tall: their parts' sums go to memory first. */
static int run_parts(struct avg_pool *job, double cost) {
    ptrdiff_t rows = job->cut.rows, parts = job->cut.parts,
              elements = job->pool.out_width * job->pool.channels;
    size_t bytes = (size_t)(rows * parts * elements) * sizeof(real);
    real *output = job->output, *partial = pyconv_alloc(bytes);
    if (!partial) return PYCONV_NO_MEMORY;
    job->output = partial;
    int status = parallel_run(job->cut.tasks, cost, 0, run_forward, job);
    for (ptrdiff_t row = 0; status == PYCONV_OK && row < rows; row++)
        join_parts(job, row, partial + row * parts * elements, output + row * elements);
    pyconv_free(partial, bytes);
    return status;
}

/* ---- One channel ---- */

#define BLOCK ((ptrdiff_t)(256 * LANES)) /* whose rounding stays small with 64 additions to each of four */

INLINE real sum_block(const real *x, ptrdiff_t n) {
    vec sums[4] = {{0}};
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int v = 0; v < 4; v++) sums[v] += load(x + i + v * LANES);
    for (; i + LANES <= n; i += LANES) sums[0] += load(x + i);
    if (i < n) sums[1] += load_first(x + i, n - i);
    return sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

INLINE real sum_of(const real *x, ptrdiff_t n) {
    if (n < LANES) {
        real sum = 0;
        for (ptrdiff_t i = 0; i < n; i++) sum += x[i];
        return sum;
    }
    double total = 0;
    for (ptrdiff_t i = 0; i < n; i += BLOCK) total += (double)sum_block(x + i, min_size(BLOCK, n - i));
    return (real)total;
}

/* line[w] = the sum of a plane's rows under one window, n rows of `width` */
static void add_down(const real *x, ptrdiff_t n, ptrdiff_t width, real *line) {
    for (ptrdiff_t w = 0; w < width; w += LANES) {
        ptrdiff_t rest = width - w;
        vec sum = {0};
        for (ptrdiff_t r = 0; r < n; r++)
            sum += rest >= LANES ? load(x + r * width + w) : load_first(x + r * width + w, rest);
        if (rest >= LANES)
            store(line + w, sum);
        else
            store_first(line + w, sum, rest);
    }
}

/* A row of windows that differ, or are too large or too few for vectors: rows first, in `scratch`. */
static void pool_ones(const struct avg_pool *job, const real *plane_row, const struct window *row,
                      real *scratch, real *output) {
    const struct pyconv_pool *pool = &job->pool;
    const real *line = plane_row;
    ptrdiff_t length = pool->width;
    int whole = pool->out_width == 1 && job->axes.column.window[0].taps == pool->width;
    if (whole) {
        length *= row->taps; /* one run of memory */
    } else if (row->taps != 1) {
        add_down(plane_row, row->taps, pool->width, scratch);
        line = scratch;
    }
    for (ptrdiff_t j = 0; j < pool->out_width; j++) {
        const struct window *column = &job->axes.column.window[j];
        int empty = row->taps == 0 || column->taps == 0; /* all padding: 0, and not 0 / 0 */
        real total = empty ? 0 : sum_of(line + column->begin, whole ? length : column->taps);
        output[j] = empty ? 0 : total / (real)(row->divisor * column->divisor);
    }
}

/* One window at the edge of the array, where a vector would read beyond. */
static void pool_one(const struct avg_pool *job, const real *line, const struct window *row, ptrdiff_t j,
                     real *output) {
    const struct window *column = &job->axes.column.window[j];
    real total = 0;
    for (ptrdiff_t r = 0; r < row->taps; r++)
        total += sum_of(line + column->begin + r * job->pool.width, column->taps);
    int empty = row->taps == 0 || column->taps == 0;
    output[j] = empty ? 0 : total / (real)(row->divisor * column->divisor);
}

/* The averages of n <= LANES windows, the first of which begins at `input`, the next ones `step` further.
 * With `edge` some taps are in the padding. */
INLINE void pool_neighbours(const struct avg_pool *job, const real *input, ptrdiff_t rows, ptrdiff_t columns,
                            ptrdiff_t step, int edge, const struct window *row, ptrdiff_t j, ptrdiff_t n,
                            real *output) {
    ivec first = load_integers(job->line.first + j), last = load_integers(job->line.last + j);
    vec total = {0};
    for (ptrdiff_t r = 0; r < rows; r++) {
        vec sum = {0};
        for (ptrdiff_t s = 0; s < columns; s++) {
            vec x = load_step(input + r * job->pool.width + s, step, (int)(s & 1));
            sum += edge ? tap_or(x, first, last, s, 0) : x;
        }
        total += sum;
    }
    if (edge)
        total /= load(job->line.divisor + j) * (real)row->divisor;
    else
        total = divide(total, divide_by(row->divisor, job->axes.column.window[j].divisor));
    if (n == LANES)
        store(output + j, total);
    else
        store_first(output + j, total, n);
}

/* The same, with constants for what is common. */
INLINE void pool_vector(const struct avg_pool *job, const real *input, int edge, const struct window *row,
                        ptrdiff_t j, ptrdiff_t n, real *output) {
    ptrdiff_t rows = row->taps, columns = job->pool.kernel[1], step = job->pool.stride[1];
    if (step == 2 && rows == 2 && columns == 2)
        pool_neighbours(job, input, 2, 2, 2, edge, row, j, n, output);
    else if (step == 2 && rows == 3 && columns == 3)
        pool_neighbours(job, input, 3, 3, 2, edge, row, j, n, output);
    else if (step == 2)
        pool_neighbours(job, input, rows, columns, 2, edge, row, j, n, output);
    else if (step == 1)
        pool_neighbours(job, input, rows, columns, 1, edge, row, j, n, output);
    else
        pool_neighbours(job, input, rows, columns, step, edge, row, j, n, output);
}

static void pool_line(const struct avg_pool *job, ptrdiff_t image, ptrdiff_t i, real *scratch) {
    const struct pyconv_pool *pool = &job->pool;
    const struct window *row = &job->axes.row.window[i], *column = job->axes.column.window;
    const real *line = job->input + (image * pool->height + row->begin) * pool->width;
    const real *end = job->input + pool->images * pool->height * pool->width;
    real *output = job->output + (image * pool->out_height + i) * pool->out_width;
    if (job->line.one_by_one) {
        pool_ones(job, line, row, scratch, output);
        return;
    }
    ptrdiff_t reach = (row->taps - 1) * pool->width + pool->kernel[1] - 1 + job->line.reach;
    for (ptrdiff_t j = 0; j < pool->out_width; j += LANES) {
        ptrdiff_t n = min_size(LANES, pool->out_width - j);
        const real *x = line + column->origin + j * pool->stride[1];
        if (row->taps == 0 || x < job->input || x + reach > end)
            for (ptrdiff_t k = j; k < j + n; k++) pool_one(job, line, row, k, output);
        else if (j >= job->line.whole.first && j + n <= job->line.whole.last)
            pool_vector(job, x, 0, row, j, n, output);
        else
            pool_vector(job, x, 1, row, j, n, output);
    }
}

static void run_forward_planes(const void *context, ptrdiff_t task, void *scratch) {
    const struct avg_pool *job = context;
    struct pool_part part = task_part(&job->cut, task);
    for (ptrdiff_t row = part.row; row < part.row_end; row++)
        pool_line(job, row / job->pool.out_height, row % job->pool.out_height, scratch);
}

static int forward(const struct pyconv_pool *pool, const void *input, void *output) {
    struct avg_pool job = {.pool = *pool, .input = input, .output = output};
    int status = make_axes(pool, &job.axes);
    if (status) return status;
    int planes = pool->channels == 1;
    job.cut = cut_forward(pool, planes);
    double cost = NANOSECONDS((double)pool->images * (double)(pool->height * pool->width * pool->channels) *
                              sizeof(real));
    if (planes) status = make_line(pool, &job.axes.column, &job.line);
    if (status)
        ;
    else if (planes)
        status =
            parallel_run(job.cut.tasks, cost, (size_t)pool->width * sizeof(real), run_forward_planes, &job);
    else if (job.cut.parts > 1)
        status = run_parts(&job, cost);
    else
        status = parallel_run(job.cut.tasks, cost, 0, run_forward, &job);
    free_line(&job.line);
    free_axes(&job.axes);
    return status;
}

/* ---- Backward ---- */

/* sum (+)= x / d over n elements of one output column or of a run of columns with the same divisor */
INLINE void add_divided(real *sum, const real *x, ptrdiff_t n, struct divisor divisor, int add) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec y = divide(load(x + i), divisor);
        store(sum + i, add ? load(sum + i) + y : y);
    }
    for (; i < n; i++)
        sum[i] = (add ? sum[i] : 0) + (divisor.exact ? x[i] * divisor.reciprocal : x[i] / divisor.value);
}

/* sum[j][c] = the sum over the windows of rows that cover h of grad_output / divisor */
static void sum_rows(const struct avg_pool *job, ptrdiff_t image, ptrdiff_t h, real *sum) {
    const struct pyconv_pool *pool = &job->pool;
    const struct window *column = job->axes.column.window;
    ptrdiff_t channels = pool->channels, first = job->axes.row.cover[h].first,
              last = job->axes.row.cover[h].last;
    if (first == last) memset(sum, 0, (size_t)(pool->out_width * channels) * sizeof(real));
    for (ptrdiff_t i = first; i < last; i++) {
        const real *row = job->input + (image * pool->out_height + i) * pool->out_width * channels;
        for (ptrdiff_t j = 0, end; j < pool->out_width; j = end) {
            for (end = job->one_divisor ? pool->out_width : j + 1; end < pool->out_width; end++)
                if (column[end].divisor != column[j].divisor) break;
            struct divisor divisor = divide_by(job->axes.row.window[i].divisor, column[j].divisor);
            add_divided(sum + j * channels, row + j * channels, (end - j) * channels, divisor, i > first);
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

static void backward_row(const struct avg_pool *job, const real *sum, real *grad_input) {
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

/* One channel: the pixels w = m S + a - P of phase a are covered by the windows m, m - 1, ... with the taps
 * a, a + S, ...; so a phase is a sum of shifted copies of `sum`, which has zeros on either side. */
static void backward_line(const struct avg_pool *job, const real *sum, real *grad_input) {
    const struct pyconv_pool *pool = &job->pool;
    ptrdiff_t stride = pool->stride[1], padding = pool->padding[1], kernel = pool->kernel[1],
              width = pool->width;
    if (stride == 1) {
        for (ptrdiff_t w = 0; w < width; w += LANES) {
            vec total = sum_copies(sum + padding + w, kernel);
            if (w + LANES <= width)
                store(grad_input + w, total);
            else
                store_first(grad_input + w, total, width - w);
        }
    } else if (stride == 2) {
        /* the phases of the even and of the odd pixels */
        ptrdiff_t even = (kernel - padding % 2 + 1) / 2, odd = (kernel - (padding + 1) % 2 + 1) / 2;
        for (ptrdiff_t w = 0; w < width; w += 2 * LANES) {
            vec a = sum_copies(sum + (padding + w) / 2, even),
                b = sum_copies(sum + (padding + w + 1) / 2, odd);
            vec zipped[2] = {zip_low(a, b), zip_high(a, b)};
            for (int i = 0; i < 2; i++) {
                ptrdiff_t at = w + i * LANES;
                if (at + LANES <= width)
                    store(grad_input + at, zipped[i]);
                else if (at < width)
                    store_first(grad_input + at, zipped[i], width - at);
            }
        }
    } else {
        for (ptrdiff_t w = 0; w < width; w++) {
            ptrdiff_t m = (w + padding) / stride, a = (w + padding) % stride;
            real total = 0;
            for (ptrdiff_t t = a < kernel ? (kernel - 1 - a) / stride : -1; t >= 0; t--) total += sum[m - t];
            grad_input[w] = total;
        }
    }
}

static void run_backward(const void *context, ptrdiff_t task, void *scratch) {
    const struct avg_pool *job = context;
    const struct pyconv_pool *pool = &job->pool;
    struct pool_part part = task_part(&job->cut, task);
    int planes = pool->channels == 1 && !pool->adaptive;
    ptrdiff_t margin = planes ? left_margin(pool) : 0;
    real *sum = (real *)scratch + margin;
    if (planes) {
        memset(scratch, 0, (size_t)margin * sizeof(real));
        memset(sum + pool->out_width, 0, (size_t)(sum_elements(pool) - pool->out_width) * sizeof(real));
    }
    for (ptrdiff_t row = part.row; row < part.row_end; row++) {
        ptrdiff_t elements = pool->width * pool->channels, image = row / pool->height, h = row % pool->height;
        real *grad_input = job->output + row * elements;
        struct cover now = job->axes.row.cover[h], before = h ? job->axes.row.cover[h - 1] : now;
        if (row > part.row && h > 0 && now.first == before.first && now.last == before.last) {
            memcpy(grad_input, grad_input - elements, (size_t)elements * sizeof(real)); /* the same windows */
            continue;
        }
        sum_rows(job, image, h, sum);
        if (planes)
            backward_line(job, sum, grad_input);
        else
            backward_row(job, sum, grad_input);
    }
}

static int backward(const struct pyconv_pool *pool, const void *grad_output, void *grad_input) {
    struct avg_pool job = {.pool = *pool, .input = grad_output, .output = grad_input};
    int status = make_axes(pool, &job.axes);
    if (status) return status;
    job.one_divisor = 1;
    for (ptrdiff_t j = 1; j < pool->out_width; j++)
        job.one_divisor &= job.axes.column.window[j].divisor == job.axes.column.window[0].divisor;
    ptrdiff_t rows = pool->images * pool->height, elements = pool->width * pool->channels;
    job.cut = cut_rows(rows, elements, 1);
    double cost = NANOSECONDS((double)rows * (double)elements * sizeof(real));
    size_t scratch = (size_t)(pool->out_width * pool->channels);
    if (pool->channels == 1 && !pool->adaptive) scratch = (size_t)(left_margin(pool) + sum_elements(pool));
    status = parallel_run(job.cut.tasks, cost, scratch * sizeof(real), run_backward, &job);
    free_axes(&job.axes);
    return status;
}

const struct pyconv_avg_pool_kernels KERNELS(avg_pool) = {forward, backward};
