/* Normalisation of channels-first memory: planes of `rows` contiguous elements, batch x channels of them.
 *
 * The same passes as norm.c, where the equations stand; here a vector holds elements of one channel.
 * A task is one piece of at most PIECE elements of a plane, or as many small planes as make about PIECE.
 * Sums are of `real` within a block of at most BLOCK elements, which stays in L1, and of double from there.
 */
#include "kernels/norm.h"
#include "parallel.h"
#include "pyconv.h"
#include "stream.h"

#define PIECE ((ptrdiff_t)32768)
#define SUMS 4 /* independent accumulators, to hide the latency of additions */
#define BLOCK ((ptrdiff_t)(64 * SUMS * LANES)) /* whose rounding stays small with 64 additions to each */
/* A core streams about 10 bytes a nanosecond. */
#define NANOSECONDS(bytes) ((double)(bytes) / 10.0)

struct passes;
struct job {
    const struct pyconv_norm *norm;
    ptrdiff_t planes, pieces, together; /* pieces of a plane, and how many make about PIECE elements */
    const real *x, *g, *other;          /* input, gradient of the output, and residual or output */
    const double *a, *b, *c;
    real *result, *masked;
    double *partial; /* [plane][piece][2] */
    const struct passes *passes;
    const struct pyconv_group_norm *groups;
    double *sum, *product, *tilt, *pull; /* of the gradient: [plane] */
};

/* One piece of a plane: `count` elements from `start`, and where its sums go. */
struct piece {
    ptrdiff_t plane, start, count;
    double *partial;
};
typedef void run_piece(const struct job *job, struct piece piece);

static struct job new_job(const struct pyconv_norm *norm) {
    ptrdiff_t rows = max_size(norm->rows, 1);
    return (struct job){.norm = norm,
                        .planes = norm->batch * norm->channels,
                        .pieces = ceil_div(norm->rows, PIECE),
                        .together = max_size(PIECE / rows, 1)};
}

/* Run over the pieces from `first` to `end`, counted over all planes. */
INLINE void run_pieces(const struct job *job, ptrdiff_t first, ptrdiff_t end, run_piece *run) {
    ptrdiff_t rows = job->norm->rows;
    for (ptrdiff_t at = first; at < end; at++) {
        ptrdiff_t plane = at / job->pieces, begin = at % job->pieces * PIECE;
        run(job, (struct piece){plane, plane * rows + begin, min_size(PIECE, rows - begin),
                                job->partial + 2 * at});
    }
}

INLINE void run_task(const struct job *job, ptrdiff_t task, run_piece *run) {
    ptrdiff_t first = task * job->together, all = job->planes * job->pieces;
    run_pieces(job, first, min_size(first + job->together, all), run);
}

static int run_all(const struct job *job, parallel_task *task, ptrdiff_t streams) {
    ptrdiff_t elements = job->planes * job->norm->rows;
    if (elements == 0) return PYCONV_OK;
    double cost = NANOSECONDS((double)streams * (double)elements * (double)sizeof(real));
    return parallel_run(ceil_div(job->planes * job->pieces, job->together), cost, 0, task, job);
}

static int alloc_partial(struct job *job, size_t *bytes) {
    size_t units = (size_t)job->planes * (size_t)job->pieces;
    if (__builtin_mul_overflow(units, 2 * sizeof(double), bytes)) return PYCONV_NO_MEMORY;
    job->partial = pyconv_alloc(*bytes);
    return job->partial ? PYCONV_OK : PYCONV_NO_MEMORY;
}

/* A plane's parameters, in every lane, and those of its elements. */
struct splats {
    vec mean, scale, bias, ceiling, a, b, c;
    const real *weight, *shift;
    ptrdiff_t plane; /* where the plane begins */
};

static struct splats splats_of(const struct job *job, ptrdiff_t plane) {
    const struct pyconv_norm *norm = job->norm;
    struct splats splats = {.mean = splat((real)norm->mean[plane]),
                            .ceiling = splat((real)norm->ceiling),
                            .weight = norm->weight,
                            .shift = norm->shift,
                            .plane = plane * norm->rows};
    if (norm->scale) splats.scale = splat((real)norm->scale[plane]);
    if (norm->bias) splats.bias = splat((real)norm->bias[plane]);
    if (!job->a) return splats;
    splats.a = splat((real)job->a[plane]);
    splats.b = splat((real)job->b[plane]);
    splats.c = splat((real)job->c[plane]);
    return splats;
}

/* ---- Mean, and sum of squared distances from it ---- */

/* Sums of a block's elements' distances from `center`, and of the squares of these. */
struct distances {
    double sum, squares;
};

static struct distances distances(const real *x, ptrdiff_t count, real center) {
    vec sum[SUMS] = {{0}}, squares[SUMS] = {{0}}, middle = splat(center);
    ptrdiff_t i = 0;
    for (; i + SUMS * LANES <= count; i += SUMS * LANES)
        UNROLL for (int j = 0; j < SUMS; j++)
            add_distances(load(x + i + j * LANES) - middle, sum + j, squares + j);
    for (; i < count; i += LANES) {
        ptrdiff_t n = min_size(LANES, count - i);
        add_distances(first_lanes(load_some(x + i, n) - middle, n, (vec){0}), sum, squares);
    }
    return (struct distances){total((sum[0] + sum[1]) + (sum[2] + sum[3])),
                              total((squares[0] + squares[1]) + (squares[2] + squares[3]))};
}

/* A block's mean and the sum of squared distances from it, by way of distances from a center. Returns whether
 * that was near enough. */
static int moments_around(real center, const real *x, ptrdiff_t count, double *mean, double *square) {
    struct distances from = distances(x, count, center);
    *mean = from.sum, *square = from.squares;
    return center_moments((double)center, (double)count, mean, square);
}

/* Around the first element, in one reading; where it is far off, in double around the mean, out of L1. */
static void block_moments(const real *x, ptrdiff_t count, double *mean, double *square) {
    if (moments_around(x[0], x, count, mean, square)) return;
    double sum = 0, squares = 0;
    for (ptrdiff_t i = 0; i < count; i++) sum += (double)x[i];
    *mean = sum / (double)count;
    for (ptrdiff_t i = 0; i < count; i++) squares += ((double)x[i] - *mean) * ((double)x[i] - *mean);
    *square = squares;
}

/* Add `more` elements with these moments to those that are there (Chan, Golub, LeVeque 1979). */
static void merge(double *count, double *mean, double *square, double more, double its_mean,
                  double its_square) {
    double distance = its_mean - *mean, all = *count + more;
    *mean += distance * (more / all);
    *square += its_square + distance * distance * (*count * more / all);
    *count = all;
}

static void moments_piece(const struct job *job, struct piece piece) {
    double count = 0, mean = 0, square = 0;
    for (ptrdiff_t i = 0; i < piece.count; i += BLOCK) {
        ptrdiff_t n = min_size(BLOCK, piece.count - i);
        double its_mean, its_square;
        block_moments(job->x + piece.start + i, n, &its_mean, &its_square);
        merge(&count, &mean, &square, (double)n, its_mean, its_square);
    }
    piece.partial[0] = mean;
    piece.partial[1] = square;
}

static void run_moments(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    run_task(context, task, moments_piece);
}

/* The moments of a whole plane, from its pieces'. */
static void plane_moments(const struct job *job, ptrdiff_t plane, double *mean, double *square) {
    double count = 0;
    *mean = *square = 0;
    for (ptrdiff_t piece = 0; piece < job->pieces; piece++) {
        const double *partial = job->partial + 2 * (plane * job->pieces + piece);
        double more = (double)min_size(PIECE, job->norm->rows - piece * PIECE);
        merge(&count, mean, square, more, partial[0], partial[1]);
    }
}

static int moments(const struct pyconv_norm *norm, const void *x, double *mean, double *square) {
    struct job job = new_job(norm);
    job.x = x;
    size_t bytes;
    int status = alloc_partial(&job, &bytes);
    if (status == PYCONV_OK) status = run_all(&job, run_moments, 1);
    for (ptrdiff_t plane = 0; status == PYCONV_OK && plane < job.planes; plane++)
        plane_moments(&job, plane, mean + plane, square + plane);
    pyconv_free(job.partial, bytes);
    return status;
}

/* Whether the result from `start` on is written past the caches; the operands were read before, for their
 * sums. */
static int is_put_streamed(const struct job *job, ptrdiff_t start) {
    return is_streamed(job->result, job->planes * job->norm->rows, job->g ? 5 : 3, job->x, job->g) &&
           job->result != job->other && is_aligned(job->result + start);
}

/* ---- Forward ---- */

/* n <= LANES elements from i */
INLINE vec normalize_vector(const struct job *job, const struct splats *splats, ptrdiff_t i, ptrdiff_t n,
                            int residual, int rectify) {
    vec z = normal(load_some(job->x + i, n), splats->mean, splats->scale, splats->bias);
    if (splats->weight) z *= load_some(splats->weight + (i - splats->plane), n);
    if (splats->shift) z += load_some(splats->shift + (i - splats->plane), n);
    if (residual) z += load_some(job->other + i, n);
    return rectify ? relu(z, splats->ceiling) : z;
}

INLINE void normalize_elements(const struct job *job, struct piece piece, int residual, int rectify) {
    struct splats splats = splats_of(job, piece.plane);
    ptrdiff_t i = piece.start, end = piece.start + piece.count;
    const int streamed = is_put_streamed(job, i);
    for (; i + LANES <= end; i += LANES)
        put(job->result + i, normalize_vector(job, &splats, i, LANES, residual, rectify), streamed);
    if (i < end)
        store_first(job->result + i, normalize_vector(job, &splats, i, end - i, residual, rectify), end - i);
}

static void normalize_piece(const struct job *job, struct piece piece) {
    if (job->other && job->norm->relu)
        normalize_elements(job, piece, 1, 1);
    else if (job->other)
        normalize_elements(job, piece, 1, 0);
    else if (job->norm->relu)
        normalize_elements(job, piece, 0, 1);
    else
        normalize_elements(job, piece, 0, 0);
}

static void run_normalize(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    run_task(context, task, normalize_piece);
}

static int normalize(const struct pyconv_norm *norm, const void *x, const void *residual, void *y) {
    struct job job = new_job(norm);
    job.x = x, job.other = residual, job.result = y;
    return run_all(&job, run_normalize, residual ? 3 : 2);
}

/* ---- Backward ---- */

static enum mask mask_of(const struct job *job) {
    return !job->norm->relu ? MASK_NONE : job->other ? MASK_OUTPUT : MASK_INPUT;
}

/* g at element i after the ReLU's mask, or times the element's weight */
INLINE vec gradient_after(enum mask mask, const struct job *job, const struct splats *splats, vec x,
                          ptrdiff_t i, ptrdiff_t n) {
    vec g = load_some(job->g + i, n);
    if (splats->weight) g *= load_some(splats->weight + (i - splats->plane), n);
    if (mask == MASK_NONE) return g;
    if (mask == MASK_OUTPUT) return masked(load_some(job->other + i, n), g, splats->ceiling);
    return masked(normal(x, splats->mean, splats->scale, splats->bias), g, splats->ceiling);
}

/* Add n <= LANES elements' g and g * (x - mean) to the sums. */
INLINE void sum_vector(enum mask mask, const struct job *job, const struct splats *splats, ptrdiff_t i,
                       ptrdiff_t n, vec *sum, vec *product) {
    vec x = load_some(job->x + i, n), g = gradient_after(mask, job, splats, x, i, n);
    if (job->masked) store_some(job->masked + i, g, n);
    *sum += g;
    *product += g * (x - splats->mean);
}

INLINE void sum_elements(enum mask mask, const struct job *job, struct piece piece) {
    struct splats splats = splats_of(job, piece.plane);
    piece.partial[0] = piece.partial[1] = 0;
    for (ptrdiff_t block = 0; block < piece.count; block += BLOCK) {
        ptrdiff_t i = piece.start + block, end = i + min_size(BLOCK, piece.count - block);
        vec sum[SUMS] = {{0}}, product[SUMS] = {{0}};
        for (; i + SUMS * LANES <= end; i += SUMS * LANES)
            for (int j = 0; j < SUMS; j++)
                sum_vector(mask, job, &splats, i + j * LANES, LANES, sum + j, product + j);
        for (; i < end; i += LANES) sum_vector(mask, job, &splats, i, min_size(LANES, end - i), sum, product);
        piece.partial[0] += total((sum[0] + sum[1]) + (sum[2] + sum[3]));
        piece.partial[1] += total((product[0] + product[1]) + (product[2] + product[3]));
    }
}

static void sum_piece(const struct job *job, struct piece piece) {
    switch (mask_of(job)) {
    case MASK_NONE: sum_elements(MASK_NONE, job, piece); break;
    case MASK_OUTPUT: sum_elements(MASK_OUTPUT, job, piece); break;
    case MASK_INPUT: sum_elements(MASK_INPUT, job, piece); break;
    }
}

static void run_sums(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    run_task(context, task, sum_piece);
}

/* The sums of a whole plane. */
static void plane_sums(const struct job *job, ptrdiff_t plane, double *sum, double *product) {
    *sum = *product = 0;
    for (ptrdiff_t piece = 0; piece < job->pieces; piece++) {
        *sum += job->partial[2 * (plane * job->pieces + piece)];
        *product += job->partial[2 * (plane * job->pieces + piece) + 1];
    }
}

static int gradient_sums(const struct pyconv_norm *norm, const void *g, const void *x, const void *y,
                         void *masked_g, double *sum, double *product) {
    struct job job = new_job(norm);
    job.g = g, job.x = x, job.other = y, job.masked = masked_g;
    size_t bytes;
    int status = alloc_partial(&job, &bytes);
    if (status == PYCONV_OK) status = run_all(&job, run_sums, 2 + !!y + !!masked_g);
    for (ptrdiff_t plane = 0; status == PYCONV_OK && plane < job.planes; plane++)
        plane_sums(&job, plane, sum + plane, product + plane);
    pyconv_free(job.partial, bytes);
    return status;
}

INLINE vec gradient_vector(enum mask mask, const struct job *job, const struct splats *splats, ptrdiff_t i,
                           ptrdiff_t n) {
    vec x = load_some(job->x + i, n), g = gradient_after(mask, job, splats, x, i, n);
    return splats->a * g + (splats->b * (x - splats->mean) + splats->c);
}

INLINE void gradient_elements(enum mask mask, const struct job *job, struct piece piece) {
    struct splats splats = splats_of(job, piece.plane);
    ptrdiff_t i = piece.start, end = piece.start + piece.count;
    const int streamed = is_put_streamed(job, i);
    for (; i + LANES <= end; i += LANES)
        put(job->result + i, gradient_vector(mask, job, &splats, i, LANES), streamed);
    if (i < end) store_first(job->result + i, gradient_vector(mask, job, &splats, i, end - i), end - i);
}

static void gradient_piece(const struct job *job, struct piece piece) {
    switch (mask_of(job)) {
    case MASK_NONE: gradient_elements(MASK_NONE, job, piece); break;
    case MASK_OUTPUT: gradient_elements(MASK_OUTPUT, job, piece); break;
    case MASK_INPUT: gradient_elements(MASK_INPUT, job, piece); break;
    }
}

static void run_gradient(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    run_task(context, task, gradient_piece);
}

static int gradient(const struct pyconv_norm *norm, const void *g, const void *x, const void *y,
                    const double *a, const double *b, const double *c, void *dx) {
    struct job job = new_job(norm);
    job.g = g, job.x = x, job.other = y, job.a = a, job.b = b, job.c = c, job.result = dx;
    return run_all(&job, run_gradient, 3 + !!y);
}

/* ---- Groups of channels, which are planes one behind the other ---- */

struct passes {
    run_piece *first, *second;
    parallel_task *all_first, *all_second; /* the same over all planes */
    void (*between)(const struct job *job, ptrdiff_t unit);
};

static ptrdiff_t unit_planes(const struct job *job) { return job->norm->channels / job->groups->groups; }
static ptrdiff_t units_together(const struct job *job) {
    return max_size(PIECE / (job->norm->rows * unit_planes(job)), 1);
}

/* Both passes over a unit. The second takes stretches of about PIECE elements from the end: what the first
 * has read last is still in L2. */
static void run_unit(const struct job *job, ptrdiff_t unit) {
    ptrdiff_t pieces = unit_planes(job) * job->pieces, first = unit * pieces;
    run_pieces(job, first, first + pieces, job->passes->first);
    job->passes->between(job, unit);
    if (!job->result) return;
    for (ptrdiff_t end = first + pieces; end > first; end -= job->together)
        run_pieces(job, max_size(end - job->together, first), end, job->passes->second);
}

static void run_units(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct job *job = context;
    ptrdiff_t units = job->norm->batch * job->groups->groups, together = units_together(job);
    for (ptrdiff_t unit = task * together; unit < min_size((task + 1) * together, units); unit++)
        run_unit(job, unit);
}

static int run_passes(struct job *job, const struct passes *passes, ptrdiff_t streams) {
    ptrdiff_t units = job->norm->batch * job->groups->groups;
    ptrdiff_t unit_bytes = job->norm->rows * unit_planes(job) * (ptrdiff_t)sizeof(real);
    size_t bytes;
    int status = alloc_partial(job, &bytes);
    if (status != PYCONV_OK) return status;
    job->passes = passes;
    if (units >= UNITS && unit_bytes <= UNIT_BYTES) {
        double cost = NANOSECONDS((double)streams * (double)units * (double)unit_bytes);
        status = parallel_run(ceil_div(units, units_together(job)), cost, 0, run_units, job);
    } else {
        status = run_all(job, passes->all_first, streams);
        for (ptrdiff_t unit = 0; status == PYCONV_OK && unit < units; unit++) passes->between(job, unit);
        if (status == PYCONV_OK && job->result) status = run_all(job, passes->all_second, streams);
    }
    pyconv_free(job->partial, bytes);
    return status;
}

static void set_statistics(const struct job *job, ptrdiff_t unit) {
    ptrdiff_t planes = unit_planes(job);
    for (ptrdiff_t plane = unit * planes; plane < (unit + 1) * planes; plane++)
        plane_moments(job, plane, job->groups->mean + plane, job->groups->scale + plane);
    finish_group(job->groups, unit, planes, job->norm->rows);
}

static int normalize_groups(const struct pyconv_norm *norm, const struct pyconv_group_norm *groups,
                            const void *x, void *y) {
    static const struct passes passes = {moments_piece, normalize_piece, run_moments, run_normalize,
                                         set_statistics};
    struct pyconv_norm own = with_groups(*norm, groups);
    struct job job = new_job(&own);
    job.x = x, job.result = y, job.groups = groups;
    return run_passes(&job, &passes, 2);
}

static void set_coefficients(const struct job *job, ptrdiff_t unit) {
    ptrdiff_t planes = unit_planes(job);
    for (ptrdiff_t plane = unit * planes; plane < (unit + 1) * planes; plane++)
        plane_sums(job, plane, job->sum + plane, job->product + plane);
    group_gradient(job->groups, unit, planes, job->norm->rows, job->sum, job->product, job->tilt, job->pull);
}

static int gradient_groups(const struct pyconv_norm *norm, const struct pyconv_group_norm *groups,
                           const void *g, const void *x, double *sum, double *product, void *dx) {
    static const struct passes passes = {sum_piece, gradient_piece, run_sums, run_gradient, set_coefficients};
    struct pyconv_norm own = with_groups(*norm, groups);
    struct job job = new_job(&own);
    size_t bytes = 2 * (size_t)job.planes * sizeof(double);
    if (!(job.tilt = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    job.pull = job.tilt + job.planes;
    job.x = x, job.g = g, job.result = dx, job.groups = groups, job.sum = sum, job.product = product;
    job.a = groups->scale, job.b = job.tilt, job.c = job.pull;
    int status = run_passes(&job, &passes, 3);
    pyconv_free(job.tilt, bytes);
    return status;
}

const struct pyconv_norm_kernels KERNELS(norm_planes) = {
    moments,
    normalize,
    gradient_sums,
    gradient,
    normalize_groups,
    gradient_groups,
    VARIANT(element_sums),
    VARIANT(normalize_turned),
    VARIANT(element_sums_turned),
};
