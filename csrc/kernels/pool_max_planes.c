/* Maximum pooling of one channel: of planes, as NCHW memory has them.
 *
 * Where windows are all alike, lanes are neighbours of a row, laid out by pool_line.h. Others are searched by
 * rows first, which leaves the best of each column and where it was; then across, where of equal values the
 * one that comes first in its plane wins, of NaN the last: lanes are windows (adaptive pooling) or, in a
 * window of many columns, columns.
 */
#include "parallel.h"
#include "pool_line.h"
#include "pool_max.h"

struct plane_pool {
    struct max_pool max;
    struct pool_line line;
    struct pool_runs runs; /* of the columns of adaptive windows */
};

/* ---- Windows that differ, or are too large or too few for vectors: rows first ---- */

/* What best_down leaves: of each column the best, and its row's part of the index. */
struct columns {
    real *value;
    integer *at;
};

/* `vectors` vectors of columns from w on, or the first n < LANES of one. What lies as many rows further, the
 * next windows' mostly, is fetched: the columns of large images are up to three times as fast. */
INLINE void best_down(const real *x, struct taps taps, int vectors, ptrdiff_t n, const struct columns *best,
                      ptrdiff_t w) {
    struct best down[BLOCK];
    UNROLL for (int v = 0; v < vectors; v++) down[v] = (struct best){splat((real)-INFINITY), {0}};
    for (ptrdiff_t r = 0; r < taps.rows; r++) {
        const real *row = x + r * taps.row_stride + w;
        UNROLL for (int v = 0; v < vectors; v++)
            __builtin_prefetch(row + taps.rows * taps.row_stride + v * LANES);
        UNROLL for (int v = 0; v < vectors; v++) down[v] = better(
            down[v], n < LANES ? load_first(row, n) : load(row + v * LANES), (integer)r * taps.row_index);
    }
    UNROLL for (int v = 0; v < vectors; v++) {
        store(best->value + w + v * LANES, down[v].value);
        memcpy(best->at + w + v * LANES, &down[v].at, sizeof(ivec));
    }
}

/* The best of some columns, and where. */
struct found {
    real value;
    integer at; /* or -1 */
};

/* The best of two: of equal ones the first, of NaN the last. */
INLINE struct found better_of(struct found a, struct found b) {
    int nan = b.value != b.value, other_nan = a.value != a.value;
    int wins = nan ? !other_nan || b.at > a.at
                   : !other_nan && (b.value > a.value || (b.value == a.value && b.at < a.at));
    return wins ? b : a;
}

INLINE struct best better_lanes(struct best best, vec x, ivec at) {
    ivec nan = (x != x) & ((best.value == best.value) | (at > best.at));
    ivec take = nan | (x > best.value) | ((x == best.value) & (at < best.at));
    return (struct best){choose(take, x, best.value), (take & at) | (~take & best.at)};
}

/* The same, lane by lane, of n columns, n >= LANES. */
static struct found best_of_many(const struct columns *best, ptrdiff_t from, ptrdiff_t n, integer step,
                                 struct found found) {
    ivec lane;
    for (int l = 0; l < LANES; l++) lane[l] = l * step;
    struct best all = {splat(found.value), found.at - (ivec){0}};
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        ptrdiff_t s = min_size(i, n - LANES); /* the last vector may repeat some: that is no matter */
        vec x = load(best->value + from + s);
        all = better_lanes(all, x, load_integers(best->at + from + s) + lane + (integer)s * step);
    }
    for (int l = 0; l < LANES; l++) found = better_of(found, (struct found){all.value[l], all.at[l]});
    return found;
}

/* Window j of a row; `at` is the first one's place in the output. */
static void pool_one(const struct plane_pool *job, const struct columns *best, const struct window *row,
                     ptrdiff_t j, ptrdiff_t at) {
    const struct window *column = &job->max.axes.column.window[j];
    struct taps taps = window_taps(&job->max, row, column);
    struct found found = {taps.floor, -1};
    ptrdiff_t step = job->max.axes.column.dilation;
    if (taps.columns >= LANES && step == 1)
        found = best_of_many(best, column->begin, taps.columns, taps.column_index, found);
    else
        for (ptrdiff_t s = 0; s < taps.columns; s++) {
            ptrdiff_t w = column->begin + s * step;
            found = better_of(found,
                              (struct found){best->value[w], best->at[w] + (integer)s * taps.column_index});
        }
    int64_t index = taps.base + (found.at < 0 ? taps.floor_index : found.at);
    job->max.output[at + j] = found.value;
    if (job->max.form == PYCONV_PLANE_INDEX) ((int64_t *)job->max.indices)[at + j] = index;
    if (job->max.form == PYCONV_TAP_INDEX) ((uint8_t *)job->max.indices)[at + j] = (uint8_t)index;
}

/* LANES windows of an adaptive row from j on, of which n are to be stored: `taps` are those of a window whose
 * columns begin at 0. */
INLINE void pool_adaptive(const struct plane_pool *job, const struct columns *best, struct taps taps,
                          enum pyconv_pool_index form, ptrdiff_t j, ptrdiff_t at, ptrdiff_t n) {
    struct best all = {splat((real)-INFINITY), {0}};
    for (ptrdiff_t s = 0; s < job->runs.most; s++) {
        vec x = run_elements(&job->runs, best->value, j, s, (real)-INFINITY);
        ivec down = (ivec)load_at((const real *)best->at + s, job->runs.begin + j);
        all = better_lanes(all, x, down + (integer)s * taps.column_index);
    }
    store_some(job->max.output + at, all.value, n);
    store_index(form, job->max.indices, at, taps.base, all.at + load_integers(job->runs.first + j), n);
}

/* Elements of a line of columns, and of what is read beyond it */
INLINE ptrdiff_t columns_pitch(const struct plane_pool *job) {
    return (ceil_div(job->max.pool.width + job->runs.most, LANES) + 1) * LANES;
}

static void run_one_by_one(const void *context, ptrdiff_t task, void *scratch) {
    const struct plane_pool *job = context;
    const struct pyconv_pool *pool = &job->max.pool;
    struct pool_part part = task_part(&job->max.cut, task);
    struct columns best = {.value = scratch};
    best.at = (integer *)(best.value + columns_pitch(job));
    const struct window origin = {0};
    if (job->runs.most) memset(scratch, 0, (size_t)(2 * columns_pitch(job)) * sizeof(real));
    for (ptrdiff_t row = part.row; row < part.row_end; row++) {
        const struct window *window = &job->max.axes.row.window[row % pool->out_height];
        const real *x =
            job->max.input + (row / pool->out_height * pool->height + window->begin) * pool->width;
        struct taps taps = window_taps(&job->max, window, job->max.axes.column.window);
        ptrdiff_t w = 0, at = row * pool->out_width;
        for (; w + BLOCK * LANES <= pool->width; w += BLOCK * LANES)
            best_down(x, taps, BLOCK, LANES, &best, w);
        for (; w + LANES <= pool->width; w += LANES) best_down(x, taps, 1, LANES, &best, w);
        if (w < pool->width) best_down(x, taps, 1, pool->width - w, &best, w);
        struct taps runs = window_taps(&job->max, window, &origin);
        for (ptrdiff_t j = 0; j < job->runs.size; j += LANES) {
            ptrdiff_t n = min_size(LANES, job->runs.size - j);
            if (job->max.form == PYCONV_NO_INDEX)
                pool_adaptive(job, &best, runs, PYCONV_NO_INDEX, j, at + j, n);
            else
                pool_adaptive(job, &best, runs, PYCONV_PLANE_INDEX, j, at + j, n);
        }
        for (ptrdiff_t j = job->runs.size; j < pool->out_width; j++) pool_one(job, &best, window, j, at);
    }
}

/* ---- Windows all alike ---- */

/* The maxima of `count` rows of windows, from element `at` of the output on. `first` is the line of the first
 * row of taps, those of the next row of windows begin `next` further; rows and columns are taps.rows and
 * taps.columns, often constants. */
INLINE void pool_rows(const struct plane_pool *job, const real *first, ptrdiff_t next, ptrdiff_t count,
                      struct taps taps, ptrdiff_t rows, ptrdiff_t columns, enum pyconv_pool_index form,
                      ptrdiff_t at) {
    const struct pool_line *line = &job->line;
    ptrdiff_t pitch = job->max.axes.row.dilation * line_elements(line);
    int in_plane = form == PYCONV_PLANE_INDEX;
    ivec lane = {0};
    for (int l = 0; in_plane && l < LANES; l++) lane[l] = l * (integer)line->stride;
    for (; count > 0; count--, first += next, at += line->windows) {
        for (ptrdiff_t j = 0; j < line->windows; j += LANES) {
            ptrdiff_t n = min_size(LANES, line->windows - j);
            struct best best = nothing(taps);
            if (form != PYCONV_NO_INDEX && !job->max.pool.relu)
                best.at = load_integers(line->first + j) * taps.column_index;
            for (ptrdiff_t r = 0; r < rows; r++)
                for (ptrdiff_t s = 0; s < columns; s++)
                    best = better(best, load(first + r * pitch + line->offset[s] + j),
                                  (integer)r * taps.row_index + (integer)s * taps.column_index);
            store_some(job->max.output + at + j, best.value, n);
            store_index(form, job->max.indices, at + j, taps.base + (in_plane ? j * line->stride : 0),
                        best.at + lane, n);
        }
        if (in_plane) taps.base += job->max.pool.stride[0] * line->width;
    }
}

/* The same, with constants for what is common. */
INLINE void pool_alike(const struct plane_pool *job, const real *first, ptrdiff_t next, ptrdiff_t count,
                       struct taps taps, enum pyconv_pool_index form, ptrdiff_t at) {
    if (form == PYCONV_NO_INDEX && taps.columns == 2)
        pool_rows(job, first, next, count, taps, 1, 2, form, at);
    else if (form == PYCONV_NO_INDEX && taps.columns == 3)
        pool_rows(job, first, next, count, taps, 1, 3, form, at);
    else if (form == PYCONV_NO_INDEX)
        pool_rows(job, first, next, count, taps, 1, taps.columns, form, at);
    else if (taps.rows == 2 && taps.columns == 2)
        pool_rows(job, first, next, count, taps, 2, 2, form, at);
    else if (taps.rows == 3 && taps.columns == 3)
        pool_rows(job, first, next, count, taps, 3, 3, form, at);
    else
        pool_rows(job, first, next, count, taps, taps.rows, taps.columns, form, at);
}

/* Rows of windows of one image, from `window` on, which are alike and hold a pixel: lay out what they see,
 * for each its rows' maximum where no index is asked for, else every row of the input; and find the maxima.
 */
static void pool_block(const struct plane_pool *job, const real *plane, const struct window *window,
                       ptrdiff_t rows, ptrdiff_t at, real *lines) {
    const struct pyconv_pool *pool = &job->max.pool;
    const struct window origin = {.begin = -pool->padding[1], .taps = pool->kernel[1]};
    const struct taps taps = window_taps(&job->max, window, &origin);
    const real *x = plane + window->begin * pool->width, fill = (real)-INFINITY;
    ptrdiff_t elements = line_elements(&job->line), next = pool->stride[0] * elements;
    ptrdiff_t seen = (rows - 1) * pool->stride[0] + (taps.rows - 1) * job->max.axes.row.dilation + 1;
    if (job->max.form == PYCONV_NO_INDEX)
        lay_lines(DOWN_MAXIMUM, &job->line, x, taps.rows, taps.row_stride, rows,
                  pool->stride[0] * pool->width, fill, lines);
    else
        lay_rows(DOWN_MAXIMUM, &job->line, x, 1, 0, seen, pool->width, fill, lines);
    switch (job->max.form) {
    case PYCONV_NO_INDEX: pool_alike(job, lines, elements, rows, taps, PYCONV_NO_INDEX, at); break;
    case PYCONV_PLANE_INDEX: pool_alike(job, lines, next, rows, taps, PYCONV_PLANE_INDEX, at); break;
    case PYCONV_TAP_INDEX: pool_alike(job, lines, next, rows, taps, PYCONV_TAP_INDEX, at); break;
    }
}

static void run_alike(const void *context, ptrdiff_t task, void *scratch) {
    const struct plane_pool *job = context;
    const struct pyconv_pool *pool = &job->max.pool;
    struct pool_part part = task_part(&job->max.cut, task);
    fill_lines(&job->line, (real)-INFINITY, scratch);
    for (ptrdiff_t row = part.row, rows; row < part.row_end; row += rows) {
        const struct window *window = job->max.axes.row.window + row % pool->out_height;
        const real *plane = job->max.input + row / pool->out_height * pool->height * pool->width;
        rows = block_rows(&job->line, pool, window, row, part.row_end);
        pool_block(job, plane, window, rows, row * pool->out_width, scratch);
    }
}

/* ---- Squares, where they are ---- */

/* LANES squares. Without an index rows first, as in lines. */
INLINE struct best best_of_squares(struct best best, const real *above, const real *below, struct taps taps,
                                   enum pyconv_pool_index form) {
    vec front = load_front(above), back = load_back(above);
    vec low_front = load_front(below), low_back = load_back(below);
    if (form == PYCONV_NO_INDEX) {
        front = better((struct best){front, {0}}, low_front, 0).value;
        back = better((struct best){back, {0}}, low_back, 0).value;
    }
    best = better(best, even_places(front, back), 0);
    best = better(best, odd_places(front, back), taps.column_index);
    if (form == PYCONV_NO_INDEX) return best;
    best = better(best, even_places(low_front, low_back), taps.row_index);
    return better(best, odd_places(low_front, low_back), taps.row_index + taps.column_index);
}

INLINE void pool_squares(const struct plane_pool *job, const struct pool_part *part,
                         enum pyconv_pool_index form) {
    const struct pyconv_pool *pool = &job->max.pool;
    const struct pool_axes *axes = &job->max.axes;
    int in_plane = form == PYCONV_PLANE_INDEX;
    ivec lane = {0};
    for (int l = 0; in_plane && l < LANES; l++) lane[l] = 2 * l;
    for (ptrdiff_t row = part->row; row < part->row_end; row++) {
        const struct window *window = axes->row.window + row % pool->out_height;
        const struct taps taps = window_taps(&job->max, window, axes->column.window);
        const real *above =
            job->max.input + (row / pool->out_height * pool->height + window->begin) * pool->width;
        const real *below = above + pool->width;
        for (ptrdiff_t step = 0; step < pool->out_width; step += LANES) {
            ptrdiff_t j = min_size(step, pool->out_width - LANES), at = row * pool->out_width + j;
            __builtin_prefetch(above + 2 * j + AHEAD);
            __builtin_prefetch(below + 2 * j + AHEAD);
            struct best best = best_of_squares(nothing(taps), above + 2 * j, below + 2 * j, taps, form);
            store(job->max.output + at, best.value);
            store_index(form, job->max.indices, at, taps.base + (in_plane ? 2 * j : 0), best.at + lane,
                        LANES);
        }
    }
}

static void run_squares(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct plane_pool *job = context;
    struct pool_part part = task_part(&job->max.cut, task);
    switch (job->max.form) {
    case PYCONV_NO_INDEX: pool_squares(job, &part, PYCONV_NO_INDEX); break;
    case PYCONV_PLANE_INDEX: pool_squares(job, &part, PYCONV_PLANE_INDEX); break;
    case PYCONV_TAP_INDEX: pool_squares(job, &part, PYCONV_TAP_INDEX); break;
    }
}

/* ---- The whole pass ---- */

static int make_column_runs(struct plane_pool *job) {
    int status = make_runs(job->max.pool.out_width, &job->runs);
    for (ptrdiff_t j = 0; status == PYCONV_OK && j < job->max.pool.out_width; j++)
        set_run(&job->runs, j, job->max.axes.column.window[j].begin, job->max.axes.column.window[j].taps);
    return status;
}

int VARIANT(max_pool_planes)(const struct max_pool *max, double cost) {
    struct plane_pool job = {.max = *max};
    const struct pyconv_pool *pool = &max->pool;
    int status = make_line(pool, &max->axes.column, max->form == PYCONV_NO_INDEX, &job.line);
    if (!status && pool->adaptive && pool->out_width >= LANES / 2) status = make_column_runs(&job);
    size_t columns = (size_t)(2 * columns_pitch(&job)) * sizeof(real);
    if (status)
        ;
    else if (job.line.one_by_one)
        status = parallel_run(max->cut.tasks, cost, columns, run_one_by_one, &job);
    else if (job.line.squares)
        status = parallel_run(max->cut.tasks, cost, 0, run_squares, &job);
    else
        status = parallel_run(max->cut.tasks, cost, lines_bytes(&job.line), run_alike, &job);
    free_runs(&job.runs);
    free_line(&job.line);
    return status;
}
