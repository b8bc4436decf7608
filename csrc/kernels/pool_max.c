/* Maximum pooling.
 *
 *     y[n, i, j, c] = max over the taps (r, s) of x[n, i S - P + r D, j S - P + s D, c]
 *
 * NaN counts as larger than anything. Of equal maxima the first is the one, of several NaN the last, as in
 * PyTorch. A vector holds channels of one pixel, or, where there is one channel, neighbours of a row; with
 * its maximum, its index, the tap and a mask it needs 5 registers, so the loads overlap. Both passes are
 * bound by memory. The index of a maximum is an int64 place in the plane, or an 8-bit tap number, which
 * costs an eighth of the traffic and lets the backward pass be a gather: each input pixel adds up the
 * windows that cover it, and is written once. With `relu` the search begins at 0, with the number of no tap.
 */
#include "parallel.h"
#include "pool.h"

#include <math.h>

#define NANOSECONDS(bytes) ((double)(bytes) / 10.0)

typedef int64_t wide_vec __attribute__((vector_size(LANES * 8)));
typedef uint8_t byte_vec __attribute__((vector_size(LANES)));

struct max_pool {
    struct pyconv_pool pool;
    struct pool_axes axes;
    struct pool_cut cut;
    struct pool_line line;
    enum pyconv_pool_index form;
    const real *input;
    real *output;
    void *indices;
};

/* ---- The best of a window so far, and where it was ---- */

struct best {
    vec value;
    ivec at;
};

INLINE struct best better(struct best best, vec x, integer at) {
    ivec take = (x > best.value) | (x != x);
    return (struct best){choose(take, x, best.value), (take & (at - (ivec){0})) | (~take & best.at)};
}

/* Store the first n < LANES bytes. */
INLINE void store_some(uint8_t *p, byte_vec bytes, ptrdiff_t n) {
    const uint8_t *from = (const uint8_t *)&bytes;
    for (ptrdiff_t size = LANES / 2, at = 0; size; size /= 2) /* unrolled: copies of known sizes */
        if (n & size) {
            memcpy(p + at, from + at, (size_t)size);
            at += size;
        }
}

/* Store base + at for the lanes before n <= LANES. */
INLINE void store_index(enum pyconv_pool_index form, void *indices, ptrdiff_t i, int64_t base, ivec at,
                        ptrdiff_t n) {
    if (form == PYCONV_PLANE_INDEX) {
        wide_vec wide = __builtin_convertvector(at, wide_vec) + base;
        memcpy((int64_t *)indices + i, &wide, (size_t)n * 8);
    } else if (form == PYCONV_TAP_INDEX) {
        byte_vec bytes = __builtin_convertvector(at + (integer)base, byte_vec);
        if (n == LANES)
            memcpy((uint8_t *)indices + i, &bytes, LANES);
        else
            store_some((uint8_t *)indices + i, bytes, n);
    }
}

/* How the taps of one window lie in memory, and how their index grows. */
struct taps {
    ptrdiff_t rows, columns, row_stride, column_stride;
    integer row_index, column_index;
    int64_t base; /* the index of the first tap */
    real floor;   /* the least maximum, and how far from `base` its index is */
    integer floor_index;
};

INLINE struct best nothing(struct taps taps) {
    return (struct best){splat(taps.floor), taps.floor_index - (ivec){0}};
}

INLINE struct taps window_taps(const struct max_pool *job, const struct window *row,
                               const struct window *column) {
    const struct pyconv_pool *pool = &job->pool;
    ptrdiff_t down = job->axes.row.dilation, right = job->axes.column.dilation;
    struct taps taps = {.rows = row->taps,
                        .columns = column->taps,
                        .row_stride = down * pool->width * pool->channels,
                        .column_stride = right * pool->channels,
                        .floor = pool->relu ? 0 : (real)-INFINITY};
    if (job->form == PYCONV_TAP_INDEX) {
        taps.row_index = (integer)pool->kernel[1];
        taps.column_index = 1;
        taps.base = row->first_tap * pool->kernel[1] + column->first_tap;
    } else {
        taps.row_index = (integer)(down * pool->width);
        taps.column_index = (integer)right;
        taps.base = row->begin * pool->width + column->begin;
    }
    if (pool->relu) taps.floor_index = (integer)(PYCONV_NO_TAP - taps.base);
    return taps;
}

/* ---- Many channels ---- */

/* `vectors` vectors of channels of one window, at most BLOCK, or the first n lanes of one. */
#define BLOCK 4 /* large windows: 8 registers of 16, and comparisons of several vectors overlap */
INLINE void pool_vectors(const real *input, struct taps taps, ptrdiff_t rows, ptrdiff_t columns, int vectors,
                         ptrdiff_t n, enum pyconv_pool_index form, real *output, void *indices,
                         ptrdiff_t at) {
    struct best best[BLOCK];
    UNROLL for (int v = 0; v < vectors; v++) best[v] = nothing(taps);
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t s = 0; s < columns; s++) {
            const real *x = input + r * taps.row_stride + s * taps.column_stride;
            integer index = (integer)r * taps.row_index + (integer)s * taps.column_index;
            UNROLL for (int v = 0; v < vectors; v++) best[v] =
                better(best[v], n < LANES ? load_first(x, n) : load(x + v * LANES), index);
        }
    UNROLL for (int v = 0; v < vectors; v++) {
        if (n < LANES)
            store_first(output + at, best[v].value, n);
        else
            store(output + at + v * LANES, best[v].value);
        store_index(form, indices, at + v * LANES, taps.base, best[v].at, n);
    }
}

/* One window, channels [0, channels); rows and columns are taps.rows and taps.columns, often constants. */
INLINE void pool_pixel(const real *input, struct taps taps, ptrdiff_t rows, ptrdiff_t columns,
                       ptrdiff_t channels, enum pyconv_pool_index form, real *output, void *indices,
                       ptrdiff_t at) {
    ptrdiff_t c = 0;
    int constant = __builtin_constant_p(rows);
    for (; !constant && c + BLOCK * LANES <= channels; c += BLOCK * LANES)
        pool_vectors(input + c, taps, rows, columns, BLOCK, LANES, form, output, indices, at + c);
    for (; c + LANES <= channels; c += LANES)
        pool_vectors(input + c, taps, rows, columns, 1, LANES, form, output, indices, at + c);
    if (c < channels)
        pool_vectors(input + c, taps, rows, columns, 1, channels - c, form, output, indices, at + c);
}

/* The maxima of a row of windows, from element `at` of the output on. */
INLINE void pool_row(const struct max_pool *job, enum pyconv_pool_index form, ptrdiff_t image,
                     const struct window *row, ptrdiff_t at) {
    const struct pyconv_pool *pool = &job->pool;
    ptrdiff_t channels = pool->channels;
    const real *line = job->input + (image * pool->height + row->begin) * pool->width * channels;
    for (ptrdiff_t j = 0; j < pool->out_width; j++, at += channels) {
        const struct window *column = &job->axes.column.window[j];
        struct taps taps = window_taps(job, row, column);
        const real *input = line + column->begin * channels;
        if (taps.rows == 2 && taps.columns == 2)
            pool_pixel(input, taps, 2, 2, channels, form, job->output, job->indices, at);
        else if (taps.rows == 3 && taps.columns == 3)
            pool_pixel(input, taps, 3, 3, channels, form, job->output, job->indices, at);
        else
            pool_pixel(input, taps, taps.rows, taps.columns, channels, form, job->output, job->indices, at);
    }
}

static void run_forward(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct max_pool *job = context;
    struct pool_part part = task_part(&job->cut, task);
    ptrdiff_t elements = job->pool.out_width * job->pool.channels, parts = job->cut.parts;
    for (ptrdiff_t row = part.row; row < part.row_end; row++) {
        ptrdiff_t image = row / job->pool.out_height, at = (row * parts + part.part) * elements;
        struct window window = job->axes.row.window[row % job->pool.out_height];
        window = window_part(window, &job->axes.row, part.part, parts);
        switch (job->form) {
        case PYCONV_NO_INDEX: pool_row(job, PYCONV_NO_INDEX, image, &window, at); break;
        case PYCONV_PLANE_INDEX: pool_row(job, PYCONV_PLANE_INDEX, image, &window, at); break;
        case PYCONV_TAP_INDEX: pool_row(job, PYCONV_TAP_INDEX, image, &window, at); break;
        }
    }
}

/* The maxima of a row of windows from those of their parts, which `parted` has. */
static void join_parts(const struct max_pool *job, const struct max_pool *parted, ptrdiff_t row) {
    ptrdiff_t elements = job->pool.out_width * job->pool.channels, parts = job->cut.parts;
    const real *partial = parted->output;
    for (ptrdiff_t e = 0; e < elements; e++) {
        ptrdiff_t from = row * parts * elements + e, to = row * elements + e, best = from;
        for (ptrdiff_t part = 1; part < parts; part++) {
            real x = partial[from + part * elements];
            if (x > partial[best] || x != x) best = from + part * elements;
        }
        job->output[to] = partial[best];
        if (job->form == PYCONV_PLANE_INDEX)
            ((int64_t *)job->indices)[to] = ((const int64_t *)parted->indices)[best];
        if (job->form == PYCONV_TAP_INDEX)
            ((uint8_t *)job->indices)[to] = ((const uint8_t *)parted->indices)[best];
    }
}

/* Rows that are few and tall: their parts' maxima go to memory first. */
static int run_parts(const struct max_pool *job, double cost) {
    ptrdiff_t units = job->cut.rows * job->cut.parts * job->pool.out_width * job->pool.channels;
    size_t bytes = (size_t)units * (sizeof(int64_t) + sizeof(real));
    struct max_pool parted = *job;
    if (!(parted.indices = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    parted.output = (real *)((int64_t *)parted.indices + units);
    int status = parallel_run(job->cut.tasks, cost, 0, run_forward, &parted);
    for (ptrdiff_t row = 0; status == PYCONV_OK && row < job->cut.rows; row++) join_parts(job, &parted, row);
    pyconv_free(parted.indices, bytes);
    return status;
}

/* ---- One channel ---- */

/* The best of a window of wide rows: every lane has its own, and then these meet. */
static struct found {
    real value;
    int64_t at;
} best_of(const real *input, struct taps taps) {
    ivec lane;
    for (int l = 0; l < LANES; l++) lane[l] = l;
    struct best best = nothing(taps);
    for (ptrdiff_t r = 0; r < taps.rows; r++)
        for (ptrdiff_t s = 0; s < taps.columns; s += LANES) {
            const real *p = input + r * taps.row_stride + s;
            ptrdiff_t n = taps.columns - s;
            vec x = n >= LANES ? load(p) : first_lanes(load_first(p, n), n, splat((real)-INFINITY));
            ivec take = (x > best.value) | (x != x), at = lane + (integer)(r * taps.row_index + s);
            best = (struct best){choose(take, x, best.value), (take & at) | (~take & best.at)};
        }
    struct found found = {best.value[0], best.at[0]};
    for (int l = 1; l < LANES; l++) {
        real value = best.value[l];
        int64_t at = best.at[l];
        int nan = value != value, found_nan = found.value != found.value;
        int wins = nan ? !found_nan || at > found.at
                       : !found_nan && (value > found.value || (value == found.value && at < found.at));
        if (wins) found = (struct found){value, at};
    }
    return found;
}

/* One window of a row whose windows differ, or are too large or too few for vectors. */
static void pool_one(const struct max_pool *job, const real *line, const struct window *row, ptrdiff_t j,
                     ptrdiff_t at) {
    struct taps taps = window_taps(job, row, &job->axes.column.window[j]);
    const real *input = line + job->axes.column.window[j].begin;
    real best = taps.floor;
    int64_t index = taps.floor_index;
    if (taps.columns >= LANES && taps.column_stride == 1 && taps.column_index == 1) {
        struct found found = best_of(input, taps);
        best = found.value, index = found.at;
        taps.rows = 0;
    }
    for (ptrdiff_t r = 0; r < taps.rows; r++)
        for (ptrdiff_t s = 0; s < taps.columns; s++) {
            real x = input[r * taps.row_stride + s * taps.column_stride];
            if (x > best || x != x)
                best = x, index = (int64_t)r * taps.row_index + (int64_t)s * taps.column_index;
        }
    job->output[at + j] = best;
    if (job->form == PYCONV_PLANE_INDEX) ((int64_t *)job->indices)[at + j] = taps.base + index;
    if (job->form == PYCONV_TAP_INDEX) ((uint8_t *)job->indices)[at + j] = (uint8_t)(taps.base + index);
}

/* The outputs j, j + 1, ... of one vector: n of them, whose windows begin at `input` and `step` apart. With
 * `edge` some taps are in the padding. */
INLINE void pool_neighbours(const struct max_pool *job, const real *input, struct taps taps, ptrdiff_t rows,
                            ptrdiff_t columns, ptrdiff_t step, int edge, enum pyconv_pool_index form,
                            ptrdiff_t j, ptrdiff_t at, ptrdiff_t n) {
    ivec first = load_integers(job->line.first + j), last = load_integers(job->line.last + j);
    struct best best = nothing(taps);
    if (edge) best.at = first * taps.column_index;
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t s = 0; s < columns; s++) {
            ptrdiff_t tap = s * taps.column_stride;
            vec x = load_step(input + r * taps.row_stride + tap, step, (int)(tap & 1));
            if (edge) x = tap_or(x, first, last, s, (real)-INFINITY);
            best = better(best, x, (integer)r * taps.row_index + (integer)s * taps.column_index);
        }
    if (n == LANES)
        store(job->output + at, best.value);
    else
        store_first(job->output + at, best.value, n);
    if (form == PYCONV_PLANE_INDEX) {
        ivec lane;
        for (int l = 0; l < LANES; l++) lane[l] = l;
        best.at += lane * (integer)job->pool.stride[1];
    }
    store_index(form, job->indices, at, taps.base, best.at, n);
}

/* The same, with constants for what is common. */
INLINE void pool_vector(const struct max_pool *job, const real *input, struct taps taps, int edge,
                        enum pyconv_pool_index form, ptrdiff_t j, ptrdiff_t at, ptrdiff_t n) {
    ptrdiff_t step = job->pool.stride[1];
    struct taps near = taps;
    near.column_stride = 1;
    int dense = step == 2 && taps.column_stride == 1;
    if (dense && taps.rows == 2 && taps.columns == 2)
        pool_neighbours(job, input, near, 2, 2, 2, edge, form, j, at, n);
    else if (dense && taps.rows == 3 && taps.columns == 3)
        pool_neighbours(job, input, near, 3, 3, 2, edge, form, j, at, n);
    else if (step == 2)
        pool_neighbours(job, input, taps, taps.rows, taps.columns, 2, edge, form, j, at, n);
    else if (step == 1)
        pool_neighbours(job, input, taps, taps.rows, taps.columns, 1, edge, form, j, at, n);
    else
        pool_neighbours(job, input, taps, taps.rows, taps.columns, step, edge, form, j, at, n);
}

INLINE void pool_line(const struct max_pool *job, enum pyconv_pool_index form, ptrdiff_t image, ptrdiff_t i) {
    const struct pyconv_pool *pool = &job->pool;
    const struct window *row = &job->axes.row.window[i], *column = job->axes.column.window;
    const real *line = job->input + (image * pool->height + row->begin) * pool->width;
    const real *end = job->input + pool->images * pool->height * pool->width;
    ptrdiff_t at = (image * pool->out_height + i) * pool->out_width, step = job->line.one_by_one ? 1 : LANES;
    struct window origin = {column->origin, pool->kernel[1], 0, 0, column->origin, 0};
    struct taps taps = window_taps(job, row, &origin);
    ptrdiff_t reach =
        (taps.rows - 1) * taps.row_stride + (taps.columns - 1) * taps.column_stride + job->line.reach;
    int64_t base = taps.base;
    for (ptrdiff_t j = 0; j < pool->out_width; j += step) {
        ptrdiff_t n = min_size(step, pool->out_width - j);
        const real *x = line + column->origin + j * pool->stride[1];
        if (job->line.one_by_one || taps.rows == 0 || x < job->input || x + reach > end) {
            for (ptrdiff_t k = j; k < j + n; k++) pool_one(job, line, row, k, at);
            continue;
        }
        if (form == PYCONV_PLANE_INDEX) taps.base = base + j * pool->stride[1];
        if (j >= job->line.whole.first && j + n <= job->line.whole.last)
            pool_vector(job, x, taps, 0, form, j, at + j, n);
        else
            pool_vector(job, x, taps, 1, form, j, at + j, n);
    }
}

static void run_forward_planes(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct max_pool *job = context;
    struct pool_part part = task_part(&job->cut, task);
    for (ptrdiff_t row = part.row; row < part.row_end; row++) {
        ptrdiff_t image = row / job->pool.out_height, i = row % job->pool.out_height;
        switch (job->form) {
        case PYCONV_NO_INDEX: pool_line(job, PYCONV_NO_INDEX, image, i); break;
        case PYCONV_PLANE_INDEX: pool_line(job, PYCONV_PLANE_INDEX, image, i); break;
        case PYCONV_TAP_INDEX: pool_line(job, PYCONV_TAP_INDEX, image, i); break;
        }
    }
}

static int forward(const struct pyconv_pool *pool, enum pyconv_pool_index form, const void *input,
                   void *output, void *indices) {
    struct max_pool job = {.pool = *pool, .form = form, .input = input, .output = output, .indices = indices};
    int status = make_axes(pool, &job.axes);
    if (status) return status;
    int planes = pool->channels == 1;
    job.cut = cut_forward(pool, planes);
    double cost = NANOSECONDS((double)pool->images * (double)(pool->height * pool->width * pool->channels) *
                              sizeof(real));
    if (planes) status = make_line(pool, &job.axes.column, &job.line);
    if (status)
        ;
    else if (job.cut.parts > 1)
        status = run_parts(&job, cost);
    else
        status = parallel_run(job.cut.tasks, cost, 0, planes ? run_forward_planes : run_forward, &job);
    free_line(&job.line);
    free_axes(&job.axes);
    return status;
}

/* ---- Backward from tap indices: a gather ---- */

struct max_pool_backward {
    struct pyconv_pool pool;
    struct pool_axes axes;
    struct pool_cut cut;
    const real *grad_output;
    const uint8_t *indices;
    real *grad_input;
    ptrdiff_t count; /* of grad_output's elements */
};

/* The windows that cover a pixel, seen along one axis: `count` neighbours, the first of which begins its
 * outputs at `at` and sees the pixel with tap `tap`, the next ones `at_step` and `tap_step` further. */
struct covering {
    ptrdiff_t count, at, at_step;
    integer tap, tap_step;
};

/* x: the pixel's place; at_step: elements of the output from one window to the next; tap: numbers from one
 * tap to the next. With dilation only every few windows see the pixel, `stride` of the axis being theirs. */
INLINE struct covering covering_windows(const struct pyconv_pool *pool, int axis,
                                        const struct pool_axis *line, ptrdiff_t x, ptrdiff_t at_step,
                                        ptrdiff_t tap) {
    struct cover cover = line->cover[x];
    ptrdiff_t skip = 1, stride = pool->stride[axis], first = cover.first, count = cover.last - first;
    if (line->dilation > 1) {
        while (skip * stride % line->dilation) skip++;
        while (first < cover.last && tap_at(line, first, x) < 0) first++;
        count = ceil_div(cover.last - first, skip);
        stride = skip * stride / line->dilation;
    }
    if (count <= 0) return (struct covering){0, 0, 0, 0, 0};
    return (struct covering){count, first * at_step, skip * at_step, (integer)(tap_at(line, first, x) * tap),
                             (integer)(-stride * tap)};
}

INLINE vec gradient_of(const struct max_pool_backward *job, ptrdiff_t at, integer tap, ptrdiff_t n) {
    const uint8_t *bytes = job->indices + at;
    uint8_t some[LANES] = {0};
    if (at + LANES > job->count) { /* elsewhere too many may be read: their gradients are 0 */
        for (ptrdiff_t l = 0; l < n; l++) some[l] = bytes[l];
        bytes = some;
    }
    ivec hit = load_bytes(bytes) == tap - (ivec){0};
    vec gradient = n == LANES ? load(job->grad_output + at) : load_first(job->grad_output + at, n);
    return (vec)(hit & (ivec)gradient);
}

/* One input pixel; rows and columns are down.count and right.count, often constants. */
INLINE void backward_pixel(const struct max_pool_backward *job, struct covering down, struct covering right,
                           ptrdiff_t rows, ptrdiff_t columns, real *grad_input) {
    ptrdiff_t channels = job->pool.channels, at = down.at + right.at;
    for (ptrdiff_t c = 0; c < channels; c += LANES) {
        ptrdiff_t n = min_size(LANES, channels - c);
        vec sum = {0};
        if (n == LANES) {
            for (ptrdiff_t i = 0; i < rows; i++)
                for (ptrdiff_t j = 0; j < columns; j++)
                    sum += gradient_of(job, at + c + i * down.at_step + j * right.at_step,
                                       down.tap + right.tap + (integer)i * down.tap_step +
                                           (integer)j * right.tap_step,
                                       LANES);
            store(grad_input + c, sum);
        } else {
            for (ptrdiff_t i = 0; i < rows; i++)
                for (ptrdiff_t j = 0; j < columns; j++)
                    sum += gradient_of(
                        job, at + c + i * down.at_step + j * right.at_step,
                        down.tap + right.tap + (integer)i * down.tap_step + (integer)j * right.tap_step, n);
            store_first(grad_input + c, sum, n);
        }
    }
}

static void run_backward(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct max_pool_backward *job = context;
    const struct pyconv_pool *pool = &job->pool;
    struct pool_part part = task_part(&job->cut, task);
    ptrdiff_t channels = pool->channels, out_row = pool->out_width * channels;
    for (ptrdiff_t row = part.row; row < part.row_end; row++) {
        ptrdiff_t image = row / pool->height, h = row % pool->height;
        real *grad_input = job->grad_input + row * pool->width * channels;
        struct covering down = covering_windows(pool, 0, &job->axes.row, h, out_row, pool->kernel[1]);
        down.at += image * pool->out_height * out_row;
        for (ptrdiff_t w = 0; w < pool->width; w++, grad_input += channels) {
            struct covering right = covering_windows(pool, 1, &job->axes.column, w, channels, 1);
            if (down.count == 1 && right.count == 1)
                backward_pixel(job, down, right, 1, 1, grad_input);
            else if (down.count == 1 && right.count == 2)
                backward_pixel(job, down, right, 1, 2, grad_input);
            else if (down.count == 2 && right.count == 1)
                backward_pixel(job, down, right, 2, 1, grad_input);
            else if (down.count == 2 && right.count == 2)
                backward_pixel(job, down, right, 2, 2, grad_input);
            else
                backward_pixel(job, down, right, down.count, right.count, grad_input);
        }
    }
}

static int backward(const struct pyconv_pool *pool, const void *grad_output, const uint8_t *indices,
                    void *grad_input) {
    struct max_pool_backward job = {.pool = *pool,
                                    .grad_output = grad_output,
                                    .indices = indices,
                                    .grad_input = grad_input,
                                    .count =
                                        pool->images * pool->out_height * pool->out_width * pool->channels};
    int status = make_axes(pool, &job.axes);
    if (status) return status;
    ptrdiff_t rows = pool->images * pool->height, elements = pool->width * pool->channels;
    job.cut = cut_rows(rows, elements, 1);
    double cost = NANOSECONDS((double)rows * (double)elements * sizeof(real));
    status = parallel_run(job.cut.tasks, cost, 0, run_backward, &job);
    free_axes(&job.axes);
    return status;
}

const struct pyconv_max_pool_kernels KERNELS(max_pool) = {forward, backward};
