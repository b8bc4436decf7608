/* Average pooling.
 *
 *     y[n, i, j, c] = sum over the taps (r, s) of x[n, i S - P + r, j S - P + s, c] / (D_i D_j)
 *
 * Sums run along a row of taps first, then over the rows, which also keeps the rounding error of large
 * windows low; those of planes over the rows first (pool_line.h). The tall windows of a short output are
 * taken in parts, whose sums are added in order. Four vectors of channels at a time hide the latency of
 * additions: 8 accumulators of 16 registers. Rows of more than three taps take eight, so that 64 channels are
 * read as they lie: global averages 1.35 times as fast as in two halves (Zen 3). A division is exact as
 * PyTorch's is; a product with the reciprocal replaces it where that is exact too.
 */
#include "parallel.h"
#include "pool_avg.h"
#include "pool_line.h"
#include "sum.h"

#define NANOSECONDS(bytes) ((double)(bytes) / 10.0)

struct avg_pool {
    struct pyconv_pool pool;
    struct pool_axes axes;
    struct pool_cut cut;
    struct pool_line line;
    const real *input;
    real *output;
};

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
    for (; columns > 3 && c + 8 * LANES <= channels; c += 8 * LANES) SUM_WINDOW(8, load);
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

INLINE real sum_of(const real *x, ptrdiff_t n) {
    if (n < LANES) {
        real sum = 0;
        for (ptrdiff_t i = 0; i < n; i++) sum += x[i];
        return sum;
    }
    return (real)sum_elements(x, n);
}

/* line[w] = the sum of a plane's rows under one window, n rows of `width` */
static void add_down(const real *x, ptrdiff_t n, ptrdiff_t width, real *line) {
    for (ptrdiff_t w = 0; w < width; w += LANES) {
        ptrdiff_t rest = width - w;
        vec sum = {0};
        for (ptrdiff_t r = 0; r < n; r++) {
            const real *at = x + r * width + w;
            __builtin_prefetch(at + n * width); /* the next windows' row */
            sum += load_some(at, rest);
        }
        store_some(line + w, sum, rest);
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

/* The averages of `rows` rows of windows, which are alike, from the lines of their sums; columns is often a
 * constant. */
INLINE void pool_sums(const struct avg_pool *job, const real *sums, const struct window *window,
                      ptrdiff_t rows, ptrdiff_t columns, real *output) {
    const struct pool_line *line = &job->line;
    ptrdiff_t one = min_size(line->whole.first, line->windows - 1);
    struct divisor whole = divide_by(window->divisor, job->axes.column.window[one].divisor);
    for (; rows > 0; rows--, sums += line_elements(line), output += line->windows)
        for (ptrdiff_t j = 0; j < line->windows; j += LANES) {
            ptrdiff_t n = min_size(LANES, line->windows - j);
            vec total = load(sums + line->offset[0] + j);
            for (ptrdiff_t s = 1; s < columns; s++) total += load(sums + line->offset[s] + j);
            if (j >= line->whole.first && j + n <= line->whole.last)
                total = divide(total, whole);
            else
                total /= load(line->divisor + j) * (real)window->divisor;
            store_some(output + j, total, n);
        }
}

/* Rows of windows of one image, from `window` on, which are alike. */
static void pool_block(const struct avg_pool *job, const real *plane, const struct window *window,
                       ptrdiff_t rows, real *output, real *lines) {
    const struct pyconv_pool *pool = &job->pool;
    if (window->taps == 0) { /* all padding: 0, and not 0 / 0 */
        memset(output, 0, (size_t)(rows * pool->out_width) * sizeof(real));
        return;
    }
    lay_lines(DOWN_SUM, &job->line, plane + window->begin * pool->width, window->taps, pool->width, rows,
              pool->stride[0] * pool->width, 0, lines);
    if (pool->kernel[1] == 2)
        pool_sums(job, lines, window, rows, 2, output);
    else if (pool->kernel[1] == 3)
        pool_sums(job, lines, window, rows, 3, output);
    else
        pool_sums(job, lines, window, rows, pool->kernel[1], output);
}

static void run_forward_planes(const void *context, ptrdiff_t task, void *scratch) {
    const struct avg_pool *job = context;
    const struct pyconv_pool *pool = &job->pool;
    struct pool_part part = task_part(&job->cut, task);
    fill_lines(&job->line, 0, scratch);
    for (ptrdiff_t row = part.row, rows; row < part.row_end; row += rows) {
        const struct window *window = job->axes.row.window + row % pool->out_height;
        const real *plane = job->input + row / pool->out_height * pool->height * pool->width;
        rows = block_rows(&job->line, pool, window, row, part.row_end);
        pool_block(job, plane, window, rows, job->output + row * pool->out_width, scratch);
    }
}

/* Squares: rows first, as in lines. */
static void run_squares(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct avg_pool *job = context;
    const struct pyconv_pool *pool = &job->pool;
    const struct window *windows = job->axes.row.window;
    struct divisor divisor = divide_by(windows->divisor, job->axes.column.window->divisor);
    struct pool_part part = task_part(&job->cut, task);
    for (ptrdiff_t row = part.row; row < part.row_end; row++) {
        ptrdiff_t begin = row / pool->out_height * pool->height + windows[row % pool->out_height].begin;
        const real *above = job->input + begin * pool->width, *below = above + pool->width;
        for (ptrdiff_t step = 0; step < pool->out_width; step += LANES) {
            ptrdiff_t j = min_size(step, pool->out_width - LANES);
            __builtin_prefetch(above + 2 * j + AHEAD);
            __builtin_prefetch(below + 2 * j + AHEAD);
            vec front = load_front(above + 2 * j) + load_front(below + 2 * j);
            vec back = load_back(above + 2 * j) + load_back(below + 2 * j);
            store(job->output + row * pool->out_width + j,
                  divide(even_places(front, back) + odd_places(front, back), divisor));
        }
    }
}

static void run_ones(const void *context, ptrdiff_t task, void *scratch) {
    const struct avg_pool *job = context;
    const struct pyconv_pool *pool = &job->pool;
    struct pool_part part = task_part(&job->cut, task);
    for (ptrdiff_t row = part.row; row < part.row_end; row++) {
        const struct window *window = &job->axes.row.window[row % pool->out_height];
        const real *from = job->input + (row / pool->out_height * pool->height + window->begin) * pool->width;
        pool_ones(job, from, window, scratch, job->output + row * pool->out_width);
    }
}

static int forward(const struct pyconv_pool *pool, const void *input, void *output) {
    struct avg_pool job = {.pool = *pool, .input = input, .output = output};
    int status = make_axes(pool, &job.axes);
    if (status) return status;
    int planes = pool->channels == 1;
    job.cut = cut_forward(pool, planes);
    double cost = NANOSECONDS((double)pool->images * (double)(pool->height * pool->width * pool->channels) *
                              sizeof(real));
    if (planes) status = make_line(pool, &job.axes.column, 1, &job.line);
    if (status)
        ;
    else if (planes && job.line.one_by_one)
        status = parallel_run(job.cut.tasks, cost, (size_t)pool->width * sizeof(real), run_ones, &job);
    else if (planes && job.line.squares)
        status = parallel_run(job.cut.tasks, cost, 0, run_squares, &job);
    else if (planes)
        status = parallel_run(job.cut.tasks, cost, lines_bytes(&job.line), run_forward_planes, &job);
    else if (job.cut.parts > 1)
        status = run_parts(&job, cost);
    else
        status = parallel_run(job.cut.tasks, cost, 0, run_forward, &job);
    free_line(&job.line);
    free_axes(&job.axes);
    return status;
}

const struct pyconv_avg_pool_kernels KERNELS(avg_pool) = {forward, VARIANT(avg_pool_backward)};
