/* Normalisation of channels-last memory: batch x rows x channels, each channel of each batch entry by itself.
 *
 *     y = (x - mean) * scale + bias           forward, then optionally + residual and ReLU
 *     dx = a * g + b * (x - mean) + c         backward, where g is the gradient after the ReLU's mask
 *
 * with mean, scale, ..., c of each (batch entry, channel), computed by the caller in double from the
 * sums that are taken here. Batch norm is batch = 1 with rows = N H W; instance and group norm are
 * batch = N. norm_planes.c does the same for channels-first memory.
 *
 * All passes are bound by memory; norm_rows.h tells what a task is.
 */
#include "kernels/norm_rows.h"

#define GROUP 8 /* wide rows summed before an accumulator is stored */
#define SIDE 4  /* vectors of a row that are summed together: whole cache lines */
#define SAMPLES 4
#define MOMENT_SLOTS 5 /* three arrays of `real` and one of double, of a wide row */

/* ---- Mean, and sum of squared distances from it ---- */

INLINE void add_vectors(const vec *from, int vectors, real *to) {
    UNROLL for (int v = 0; v < vectors; v++) store(to + v * LANES, load(to + v * LANES) + from[v]);
}

/* Add to `vectors` vectors of the sums: over GROUP rows of x. */
INLINE void sum_group(const real *x, ptrdiff_t stride, int vectors, const real *center, real *sum,
                      real *squares) {
    vec sums[SIDE] = {{0}}, totals[SIDE] = {{0}};
    for (int row = 0; row < GROUP; row++, x += stride)
        UNROLL for (int v = 0; v < vectors; v++)
            add_distances(load(x + v * LANES) - load(center + v * LANES), sums + v, totals + v);
    add_vectors(sums, vectors, sum);
    add_vectors(totals, vectors, squares);
}

/* The same for one vector of `lanes` lanes, where the group need not be whole: of its wide rows, `rest`
 * elements are there from x on. */
static void sum_rest(const real *x, ptrdiff_t stride, ptrdiff_t rest, ptrdiff_t width, ptrdiff_t lanes,
                     const real *center, real *sum, real *squares) {
    vec sums = {0}, totals = {0};
    for (int row = 0; row < GROUP && rest > 0; row++, rest -= width, x += stride) {
        ptrdiff_t n = min_size(lanes, rest);
        add_distances(first_lanes(load_first(x, n) - load(center), n, (vec){0}), &sums, &totals);
    }
    add_vectors(&sums, 1, sum);
    add_vectors(&totals, 1, squares);
}

/* sum[j] = the sum over the rows of the distance x[row][j] - center[j], squares[j] = that of its square */
static void sum_rows(const struct job *job, const struct range *range, const real *center, real *sum,
                     real *squares) {
    const real *x = job->x + range->start;
    ptrdiff_t width = range->width, stride = job->cut.stride;
    clear_elements(sum, width);
    clear_elements(squares, width);
    for (ptrdiff_t i = 0; i < range->count; i += GROUP * width, x += GROUP * stride) {
        ptrdiff_t j = 0, rest = range->count - i;
        if (rest >= GROUP * width) {
            for (; j + SIDE * LANES <= width; j += SIDE * LANES)
                sum_group(x + j, stride, SIDE, center + j, sum + j, squares + j);
            for (; j + LANES <= width; j += LANES)
                sum_group(x + j, stride, 1, center + j, sum + j, squares + j);
        }
        for (; j < width; j += LANES)
            sum_rest(x + j, stride, rest - j, width, min_size(LANES, width - j), center + j, sum + j,
                     squares + j);
    }
}

/* Sums of the distances from each channel's center, and of their squares; in slots 0 to 2. */
static void distances(const struct job *job, const struct range *range, void *scratch, const double *center,
                      double *sum, double *squares) {
    real *wide_sum = slot(job, scratch, 1), *wide_squares = slot(job, scratch, 2);
    sum_rows(job, range, spread(job, scratch, 0, range, center), wide_sum, wide_squares);
    fold(job, range, wide_sum, sum);
    fold(job, range, wide_squares, squares);
}

/* The channels' means and sums of squared distances from them, by way of distances from centers. Returns
 * whether all these were near enough. */
static int moments_around(const double *center, const struct job *job, const struct range *range,
                          ptrdiff_t rows, void *scratch, double *mean, double *squares) {
    int near = 1;
    distances(job, range, scratch, center, mean, squares);
    for (ptrdiff_t i = 0; i < channels_of(job, range); i++)
        near &= center_moments(center[i], (double)rows, mean + i, squares + i);
    return near;
}

/* The mean of a few rows that lie apart. */
static void guess(const struct job *job, const struct range *range, ptrdiff_t rows, double *mean) {
    ptrdiff_t channels = channels_of(job, range);
    for (ptrdiff_t i = 0; i < channels; i++) mean[i] = 0;
    for (ptrdiff_t s = 0; s < SAMPLES; s++) {
        const real *x = job->x + range->start + rows * s / SAMPLES * job->norm->channels;
        for (ptrdiff_t i = 0; i < channels; i++) mean[i] += (double)x[i];
    }
    for (ptrdiff_t i = 0; i < channels; i++) mean[i] = (double)(real)(mean[i] / SAMPLES);
}

/* Around a guess, in one reading; where it is far off, around the mean, out of L2. */
static void run_moments(const void *context, ptrdiff_t task, void *scratch) {
    const struct job *job = context;
    struct range range = range_of(job, task);
    ptrdiff_t channels = channels_of(job, &range), rows = range.count / channels;
    double *mean = partial_of(job, &range, 0), *squares = partial_of(job, &range, 1);
    double *center = (double *)slot(job, scratch, 3);
    guess(job, &range, rows, center);
    if (moments_around(center, job, &range, rows, scratch, mean, squares)) return;
    for (ptrdiff_t i = 0; i < channels; i++) center[i] = 0;
    distances(job, &range, scratch, center, mean, squares);
    for (ptrdiff_t i = 0; i < channels; i++) center[i] = (double)(real)(mean[i] / (double)rows);
    moments_around(center, job, &range, rows, scratch, mean, squares);
}

/* The moments of a whole batch entry, from its pieces'. */
static void entry_moments(const struct job *job, ptrdiff_t entry, double *mean, double *square) {
    ptrdiff_t channels = job->norm->channels;
    const double *partial = job->partial + 2 * entry * job->cut.pieces * channels;
    for (ptrdiff_t i = 0; i < channels; i++) mean[i] = 0;
    for (ptrdiff_t piece = 0; piece < job->cut.pieces; piece++) {
        ptrdiff_t count = min_size(job->cut.piece, job->cut.entry - piece * job->cut.piece);
        double part = (double)count / (double)job->cut.entry;
        for (ptrdiff_t i = 0; i < channels; i++) mean[i] += part * partial[2 * piece * channels + i];
    }
    add_partial(job, entry, 1, square);
    for (ptrdiff_t piece = 0; piece < job->cut.pieces; piece++) {
        ptrdiff_t count = min_size(job->cut.piece, job->cut.entry - piece * job->cut.piece);
        for (ptrdiff_t i = 0; i < channels; i++) {
            double distance = partial[2 * piece * channels + i] - mean[i];
            square[i] += (double)(count / channels) * distance * distance;
        }
    }
}

static int moments(const struct pyconv_norm *norm, const void *x, double *mean, double *square) {
    struct job job = {.norm = norm, .cut = cut_norm(norm), .x = x};
    size_t bytes;
    int status = alloc_partial(&job, &bytes);
    if (status == PYCONV_OK) status = run(&job, run_moments, MOMENT_SLOTS, 1);
    for (ptrdiff_t n = 0; status == PYCONV_OK && n < norm->batch; n++)
        entry_moments(&job, n, mean + n * norm->channels, square + n * norm->channels);
    pyconv_free(job.partial, bytes);
    return status;
}

/* Whether a range of the result is written past the caches; the operands were read before, for their sums. */
static int is_put_streamed(const struct job *job, const struct range *range) {
    const ptrdiff_t elements = job->norm->batch * job->cut.entry;
    return is_streamed(job->result, elements, job->g ? 5 : 3, job->x, job->g) && job->result != job->other &&
           job->cut.stride % LANES == 0 && is_aligned(job->result + range->start);
}

/* ---- Forward ---- */

INLINE void normalize_range(const struct job *job, const struct range *range, const real *mean,
                            const real *scale, const real *bias, int residual, int rectify) {
    const real *x = job->x + range->start, *other = residual ? job->other + range->start : NULL;
    real *y = job->result + range->start;
    vec ceiling = splat((real)job->norm->ceiling);
    const int streamed = is_put_streamed(job, range);
    ptrdiff_t at = 0;
    for (ptrdiff_t i = 0; i < range->count; i += range->width, at += job->cut.stride) {
        ptrdiff_t n = min_size(range->width, range->count - i), j = 0;
        for (; j + LANES <= n; j += LANES) {
            vec z = normal(load(x + at + j), load(mean + j), load(scale + j), load(bias + j));
            if (residual) z += load(other + at + j);
            put(y + at + j, rectify ? relu(z, ceiling) : z, streamed);
        }
        if (j < n) {
            vec z = normal(load_first(x + at + j, n - j), load(mean + j), load(scale + j), load(bias + j));
            if (residual) z += load_first(other + at + j, n - j);
            store_first(y + at + j, rectify ? relu(z, ceiling) : z, n - j);
        }
    }
}

static void run_normalize(const void *context, ptrdiff_t task, void *scratch) {
    const struct job *job = context;
    struct range range = range_of(job, task);
    const real *mean = parameter(job, scratch, 0, &range, job->norm->mean);
    const real *scale = parameter(job, scratch, 1, &range, job->norm->scale);
    const real *bias = parameter(job, scratch, 2, &range, job->norm->bias);
    if (job->other && job->norm->relu)
        normalize_range(job, &range, mean, scale, bias, 1, 1);
    else if (job->other)
        normalize_range(job, &range, mean, scale, bias, 1, 0);
    else if (job->norm->relu)
        normalize_range(job, &range, mean, scale, bias, 0, 1);
    else
        normalize_range(job, &range, mean, scale, bias, 0, 0);
}

static int normalize(const struct pyconv_norm *norm, const void *x, const void *residual, void *y) {
    struct job job = {.norm = norm, .cut = cut_norm(norm), .x = x, .other = residual, .result = y};
    return run(&job, run_normalize, 3, residual ? 3 : 2);
}

/* ---- Backward ---- */

static enum mask mask_of(const struct job *job) {
    return !job->norm->relu ? MASK_NONE : job->other ? MASK_OUTPUT : MASK_INPUT;
}

/* The parameters of a task's channels as wide arrays. */
struct wide {
    const real *mean, *scale, *bias, *a, *b, *c;
    vec ceiling;
};

/* g after the ReLU's mask, at element `at`, which is element j of a wide row */
INLINE vec gradient_after(enum mask mask, const struct job *job, const struct wide *wide, vec g, vec x,
                          ptrdiff_t at, ptrdiff_t j, ptrdiff_t n) {
    if (mask == MASK_NONE) return g;
    if (mask == MASK_OUTPUT) return masked(load_some(job->other + at, n), g, wide->ceiling);
    vec z = normal(x, load(wide->mean + j), load(wide->scale + j), load(wide->bias + j));
    return masked(z, g, wide->ceiling);
}

/* Add one vector (n lanes of it) to the sums of g and of g * (x - mean). */
INLINE void sum_vector(enum mask mask, const struct job *job, const struct wide *wide, ptrdiff_t at,
                       ptrdiff_t j, ptrdiff_t n, vec *sum, vec *product) {
    vec x = load_some(job->x + at, n);
    vec g = load_some(job->g + at, n);
    vec mean = load_some(wide->mean + j, n);
    g = gradient_after(mask, job, wide, g, x, at, j, n);
    if (job->masked) store_some(job->masked + at, g, n);
    *sum += g;
    *product += g * (x - mean);
}

/* As sum_group: GROUP rows from element `at` on, which is element j of a wide row. */
INLINE void gradient_group(enum mask mask, const struct job *job, const struct wide *wide, ptrdiff_t at,
                           ptrdiff_t j, int vectors, real *sums, real *products) {
    vec sum[SIDE] = {{0}}, product[SIDE] = {{0}};
    for (int row = 0; row < GROUP; row++, at += job->cut.stride)
        UNROLL for (int v = 0; v < vectors; v++)
            sum_vector(mask, job, wide, at + v * LANES, j + v * LANES, LANES, sum + v, product + v);
    add_vectors(sum, vectors, sums + j);
    add_vectors(product, vectors, products + j);
}

/* As sum_rest. */
INLINE void gradient_rest(enum mask mask, const struct job *job, const struct wide *wide, ptrdiff_t at,
                          ptrdiff_t j, ptrdiff_t rest, const struct range *range, real *sums,
                          real *products) {
    vec sum = {0}, product = {0};
    for (int row = 0; row < GROUP && rest > 0; row++, rest -= range->width, at += job->cut.stride)
        sum_vector(mask, job, wide, at, j, min_size(min_size(LANES, range->width - j), rest), &sum, &product);
    add_vectors(&sum, 1, sums + j);
    add_vectors(&product, 1, products + j);
}

INLINE void sum_gradients(enum mask mask, const struct job *job, const struct range *range,
                          const struct wide *wide, real *sums, real *products) {
    ptrdiff_t width = range->width, stride = job->cut.stride, at = range->start;
    clear_elements(sums, width);
    clear_elements(products, width);
    for (ptrdiff_t i = 0; i < range->count; i += GROUP * width, at += GROUP * stride) {
        ptrdiff_t j = 0, rest = range->count - i;
        if (rest >= GROUP * width) {
            for (; j + SIDE * LANES <= width; j += SIDE * LANES)
                gradient_group(mask, job, wide, at + j, j, SIDE, sums, products);
            for (; j + LANES <= width; j += LANES)
                gradient_group(mask, job, wide, at + j, j, 1, sums, products);
        }
        for (; j < width; j += LANES)
            gradient_rest(mask, job, wide, at + j, j, rest - j, range, sums, products);
    }
}

static void run_sums(const void *context, ptrdiff_t task, void *scratch) {
    const struct job *job = context;
    struct range range = range_of(job, task);
    real *sums = slot(job, scratch, 0), *products = slot(job, scratch, 1);
    struct wide wide = {.mean = parameter(job, scratch, 2, &range, job->norm->mean),
                        .scale = parameter(job, scratch, 3, &range, job->norm->scale),
                        .bias = parameter(job, scratch, 4, &range, job->norm->bias),
                        .ceiling = splat((real)job->norm->ceiling)};
    switch (mask_of(job)) {
    case MASK_NONE: sum_gradients(MASK_NONE, job, &range, &wide, sums, products); break;
    case MASK_OUTPUT: sum_gradients(MASK_OUTPUT, job, &range, &wide, sums, products); break;
    case MASK_INPUT: sum_gradients(MASK_INPUT, job, &range, &wide, sums, products); break;
    }
    fold(job, &range, sums, partial_of(job, &range, 0));
    fold(job, &range, products, partial_of(job, &range, 1));
}

static int gradient_sums(const struct pyconv_norm *norm, const void *g, const void *x, const void *y,
                         void *masked_g, double *sum, double *product) {
    struct job job = {.norm = norm, .cut = cut_norm(norm), .x = x, .g = g, .other = y, .masked = masked_g};
    size_t bytes;
    int status = alloc_partial(&job, &bytes);
    if (status == PYCONV_OK) status = run(&job, run_sums, 5, 2 + !!y + !!masked_g);
    for (ptrdiff_t n = 0; status == PYCONV_OK && n < norm->batch; n++) {
        add_partial(&job, n, 0, sum + n * norm->channels);
        add_partial(&job, n, 1, product + n * norm->channels);
    }
    pyconv_free(job.partial, bytes);
    return status;
}

INLINE vec gradient_vector(enum mask mask, const struct job *job, const struct wide *wide, ptrdiff_t at,
                           ptrdiff_t j, ptrdiff_t n) {
    vec x = load_some(job->x + at, n);
    vec g = load_some(job->g + at, n);
    g = gradient_after(mask, job, wide, g, x, at, j, n);
    return load(wide->a + j) * g + (load(wide->b + j) * (x - load(wide->mean + j)) + load(wide->c + j));
}

INLINE void gradient_range(enum mask mask, const struct job *job, const struct range *range,
                           const struct wide *wide) {
    const int streamed = is_put_streamed(job, range);
    ptrdiff_t at = range->start;
    for (ptrdiff_t i = 0; i < range->count; i += range->width, at += job->cut.stride) {
        ptrdiff_t n = min_size(range->width, range->count - i), j = 0;
        for (; j + LANES <= n; j += LANES)
            put(job->result + at + j, gradient_vector(mask, job, wide, at + j, j, LANES), streamed);
        if (j < n)
            store_first(job->result + at + j, gradient_vector(mask, job, wide, at + j, j, n - j), n - j);
    }
}

static void run_gradient(const void *context, ptrdiff_t task, void *scratch) {
    const struct job *job = context;
    struct range range = range_of(job, task);
    struct wide wide = {.mean = parameter(job, scratch, 0, &range, job->norm->mean),
                        .scale = parameter(job, scratch, 1, &range, job->norm->scale),
                        .bias = parameter(job, scratch, 2, &range, job->norm->bias),
                        .a = parameter(job, scratch, 3, &range, job->a),
                        .b = parameter(job, scratch, 4, &range, job->b),
                        .c = parameter(job, scratch, 5, &range, job->c),
                        .ceiling = splat((real)job->norm->ceiling)};
    switch (mask_of(job)) {
    case MASK_NONE: gradient_range(MASK_NONE, job, &range, &wide); break;
    case MASK_OUTPUT: gradient_range(MASK_OUTPUT, job, &range, &wide); break;
    case MASK_INPUT: gradient_range(MASK_INPUT, job, &range, &wide); break;
    }
}

static int gradient(const struct pyconv_norm *norm, const void *g, const void *x, const void *y,
                    const double *a, const double *b, const double *c, void *dx) {
    struct job job = {.norm = norm,
                      .cut = cut_norm(norm),
                      .x = x,
                      .g = g,
                      .other = y,
                      .a = a,
                      .b = b,
                      .c = c,
                      .result = dx};
    return run(&job, run_gradient, 6, 3 + !!y);
}

/* ---- Groups of channels ---- */

static void run_entry(const void *context, ptrdiff_t entry, void *scratch) {
    const struct job *job = context;
    ptrdiff_t tasks = job->cut.pieces * job->cut.blocks;
    for (ptrdiff_t t = 0; t < tasks; t++) job->passes.first(job, entry * tasks + t, scratch);
    job->passes.between(job, entry);
    if (!job->result) return;
    for (ptrdiff_t t = tasks - 1; t >= 0; t--) job->passes.second(job, entry * tasks + t, scratch);
}

static int run_passes(struct job *job, int slots, ptrdiff_t streams) {
    ptrdiff_t entries = job->norm->batch;
    size_t bytes;
    int status = alloc_partial(job, &bytes);
    if (status != PYCONV_OK) return status;
    if (entries >= UNITS && job->cut.entry * (ptrdiff_t)sizeof(real) <= UNIT_BYTES) {
        double cost = NANOSECONDS((double)streams * (double)(entries * job->cut.entry) * sizeof(real));
        status = parallel_run(entries, cost, (size_t)slots * job->cut.padded, run_entry, job);
    } else {
        status = run(job, job->passes.first, slots, streams);
        for (ptrdiff_t n = 0; status == PYCONV_OK && n < entries; n++) job->passes.between(job, n);
        if (status == PYCONV_OK && job->result) status = run(job, job->passes.second, slots, streams);
    }
    pyconv_free(job->partial, bytes);
    return status;
}

static void set_statistics(const struct job *job, ptrdiff_t entry) {
    ptrdiff_t channels = job->norm->channels, groups = job->groups->groups;
    entry_moments(job, entry, job->groups->mean + entry * channels, job->groups->scale + entry * channels);
    for (ptrdiff_t k = 0; k < groups; k++)
        finish_group(job->groups, entry * groups + k, channels / groups, job->norm->rows);
}

static int normalize_groups(const struct pyconv_norm *norm, const struct pyconv_group_norm *groups,
                            const void *x, void *y) {
    struct pyconv_norm own = with_groups(*norm, groups);
    struct job job = {.norm = &own, .cut = cut_norm(norm), .x = x, .result = y, .groups = groups};
    job.passes = (struct passes){run_moments, run_normalize, set_statistics};
    return run_passes(&job, MOMENT_SLOTS, 2);
}

static void set_coefficients(const struct job *job, ptrdiff_t entry) {
    ptrdiff_t channels = job->norm->channels, groups = job->groups->groups;
    add_partial(job, entry, 0, job->sum + entry * channels);
    add_partial(job, entry, 1, job->product + entry * channels);
    for (ptrdiff_t k = 0; k < groups; k++)
        group_gradient(job->groups, entry * groups + k, channels / groups, job->norm->rows, job->sum,
                       job->product, job->tilt, job->pull);
}

static int gradient_groups(const struct pyconv_norm *norm, const struct pyconv_group_norm *groups,
                           const void *g, const void *x, double *sum, double *product, void *dx) {
    struct pyconv_norm own = with_groups(*norm, groups);
    struct job job = {.norm = &own, .cut = cut_norm(norm), .x = x, .g = g, .result = dx, .groups = groups};
    size_t count = (size_t)(norm->batch * norm->channels), bytes = 2 * count * sizeof(double);
    if (!(job.tilt = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    job.pull = job.tilt + count;
    job.a = groups->scale, job.b = job.tilt, job.c = job.pull, job.sum = sum, job.product = product;
    job.passes = (struct passes){run_sums, run_gradient, set_coefficients};
    int status = run_passes(&job, 6, 3);
    pyconv_free(job.tilt, bytes);
    return status;
}

const struct pyconv_norm_kernels KERNELS(norm) = {
    moments, normalize, gradient_sums, gradient, normalize_groups, gradient_groups, NULL, NULL, NULL};
