/* Maximum pooling.
 *
 *     y[n, i, j, c] = max over the taps (r, s) of x[n, i S - P + r D, j S - P + s D, c]
 *
 * NaN counts as larger than anything. Of equal maxima the first is the one, of several NaN the last, as in
 * PyTorch. A vector holds channels of one pixel (of one channel, neighbours of a row: pool_max_planes.c);
 * with its maximum, its index, the tap and a mask it needs 5 registers, so the loads overlap. Both passes are
 * bound by memory. The index of a maximum is an int64 place in the plane, or an 8-bit tap number, which
 * costs an eighth of the traffic and lets the backward pass be a gather: each input pixel adds up the
 * windows that cover it, and is written once. With `relu` the search begins at 0, with the number of no tap.
 */
#include "parallel.h"
#include "pool_max.h"
#include "stream.h"

#define NANOSECONDS(bytes) ((double)(bytes) / 10.0)

/* ---- Many channels ---- */

/* `vectors` vectors of channels of one window, at most BLOCK, or the first n lanes of one. */
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

static int forward(const struct pyconv_pool *pool, enum pyconv_pool_index form, const void *input,
                   void *output, void *indices) {
    struct max_pool job = {.pool = *pool, .form = form, .input = input, .output = output, .indices = indices};
    int status = make_axes(pool, &job.axes);
    if (status) return status;
    int planes = pool->channels == 1;
    job.cut = cut_forward(pool, planes);
    double cost = NANOSECONDS((double)pool->images * (double)(pool->height * pool->width * pool->channels) *
                              sizeof(real));
    if (planes)
        status = VARIANT(max_pool_planes)(&job, cost);
    else if (job.cut.parts > 1)
        status = run_parts(&job, cost);
    else
        status = parallel_run(job.cut.tasks, cost, 0, run_forward, &job);
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
    int streamed;    /* grad_input, whose pixels are whole vectors */
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
    vec gradient = load_some(job->grad_output + at, n);
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
            put(grad_input + c, sum, job->streamed);
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
    job.streamed = is_streamed(grad_input, rows * elements, 1, NULL, NULL) && is_aligned(grad_input) &&
                   pool->channels % LANES == 0;
    job.cut = cut_rows(rows, elements, 1);
    double cost = NANOSECONDS((double)rows * (double)elements * sizeof(real));
    status = parallel_run(job.cut.tasks, cost, 0, run_backward, &job);
    free_axes(&job.axes);
    return status;
}

const struct pyconv_max_pool_kernels KERNELS(max_pool) = {forward, backward};
