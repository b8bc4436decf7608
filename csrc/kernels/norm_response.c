/* Local response normalisation across channels (Krizhevsky, Sutskever, Hinton 2012).
 *
 *     d[c] = k + scale * sum(x[i]^2 for c - before <= i <= c + after)        y[c] = x[c] d[c]^-beta
 *     dx[c] = g[c] d[c]^-beta - 2 scale beta x[c] sum(g[i] x[i] d[i]^(-beta-1) for c - after <= i <= c +
 * before)
 *
 * Work goes by strips of `width` pixels with all their channels, [channel][pixel], so that a neighbour in
 * the window is `width` elements away: one pixel where it lies in channels-last memory, or a copy of WIDTH
 * pixels of every plane otherwise. The terms of a sum lie between zeros for the channels beyond the ends.
 */
#include "kernels/vmath.h"
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"

#define WIDTH ((ptrdiff_t)128)
#define CHUNK ((ptrdiff_t)8192) /* elements of a task, about */
#define NANOSECONDS_PER_VECTOR 15.0

struct job {
    const struct pyconv_response *response;
    const real *x, *g; /* g is NULL in the forward pass */
    real *result;
    ptrdiff_t together; /* pixels to a task in channels-last memory */
};

struct strip {
    ptrdiff_t width, count; /* count = channels * width */
    const real *x, *g;
    real *result;
    real *power, *squares, *terms; /* d^-beta, and what the two sums go over, with room for zeros */
};

static ptrdiff_t whole(ptrdiff_t count) { return ceil_div(count, LANES) * LANES; }

/* Elements of scratch: three arrays with room for a window's zeros, three for copies of x, g and the result.
 */
static ptrdiff_t scratch_elements(const struct pyconv_response *response, ptrdiff_t width) {
    ptrdiff_t count = response->channels * width, pad = (response->before + response->after) * width;
    return 6 * whole(count) + 2 * (whole(pad) + LANES);
}

static struct strip new_strip(const struct job *job, ptrdiff_t width, real *scratch) {
    const struct pyconv_response *response = job->response;
    ptrdiff_t count = response->channels * width,
              room = whole((response->before + response->after) * width) + LANES;
    struct strip strip = {.width = width, .count = count, .power = scratch};
    strip.squares = strip.power + whole(count);
    strip.terms = strip.squares + whole(count) + room;
    strip.result = strip.terms + whole(count) + room;
    strip.x = strip.result + whole(count);
    strip.g = job->g ? strip.x + whole(count) : NULL;
    return strip;
}

/* Where channel 0 goes in an array for sums; zeros for `front` channels before it and `back` behind the last.
 */
static real *between_zeros(const struct strip *strip, real *array, ptrdiff_t front, ptrdiff_t back) {
    real *inside = array + front * strip->width;
    memset(array, 0, (size_t)(front * strip->width) * sizeof(real));
    memset(inside + strip->count, 0, (size_t)(back * strip->width) * sizeof(real));
    return inside;
}

/* The sum over `window` channels for the n elements from p. */
INLINE vec window_sum(const real *p, ptrdiff_t window, ptrdiff_t width, ptrdiff_t n) {
    vec sum = load_some(p, n);
    for (ptrdiff_t i = 1; i < window; i++) sum += load_some(p + i * width, n);
    return sum;
}

/* d^-beta, as pow gives it: NaN where d is negative, 1 for beta = 0 whatever d is */
INLINE vec inverse_power(vec d, vec beta) {
    vec power = vec_exp(-beta * vec_log(d)), infinity = splat(1) / (vec){0};
    vec of_zero = choose(beta > 0, infinity, (vec){0});
    power = choose(d > 0, power, choose(d == 0, of_zero, infinity - infinity + d));
    return choose(beta == 0, splat(1), power);
}

/* The three passes over a strip, on n <= LANES elements from j. */

INLINE void square(const struct strip *strip, real *squares, ptrdiff_t j, ptrdiff_t n) {
    vec x = load_some(strip->x + j, n);
    store_some(squares + j, x * x, n);
}

INLINE void apply(const struct pyconv_response *response, const struct strip *strip, real *terms, ptrdiff_t j,
                  ptrdiff_t n) {
    ptrdiff_t window = response->before + response->after + 1;
    vec x = load_some(strip->x + j, n);
    vec d =
        window_sum(strip->squares + j, window, strip->width, n) * (real)response->scale + (real)response->k;
    vec power = inverse_power(d, splat((real)response->beta));
    if (strip->g) {
        store(strip->power + j, power);
        store_some(terms + j, load_some(strip->g + j, n) * x * power / d, n);
    } else {
        store_some(strip->result + j, x * power, n);
    }
}

INLINE void gradient(const struct pyconv_response *response, const struct strip *strip, ptrdiff_t j,
                     ptrdiff_t n) {
    ptrdiff_t window = response->before + response->after + 1;
    vec sum = window_sum(strip->terms + j, window, strip->width, n);
    vec direct = load_some(strip->g + j, n) * load(strip->power + j);
    real factor = (real)(2 * response->scale * response->beta);
    store_some(strip->result + j, direct - factor * load_some(strip->x + j, n) * sum, n);
}

static void run_strip(const struct job *job, const struct strip *strip) {
    const struct pyconv_response *response = job->response;
    ptrdiff_t before = response->before, after = response->after, count = strip->count;
    ptrdiff_t full = count - count % LANES;
    real *squares = between_zeros(strip, strip->squares, before, after), *terms = strip->terms;
    if (strip->g) terms = between_zeros(strip, strip->terms, after, before);
    for (ptrdiff_t j = 0; j < full; j += LANES) square(strip, squares, j, LANES);
    if (full < count) square(strip, squares, full, count - full);
    for (ptrdiff_t j = 0; j < full; j += LANES) apply(response, strip, terms, j, LANES);
    if (full < count) apply(response, strip, terms, full, count - full);
    if (!strip->g) return;
    for (ptrdiff_t j = 0; j < full; j += LANES) gradient(response, strip, j, LANES);
    if (full < count) gradient(response, strip, full, count - full);
}

static void run_pixels(const void *context, ptrdiff_t task, void *scratch) {
    const struct job *job = context;
    ptrdiff_t pixels = job->response->batch * job->response->rows;
    ptrdiff_t end = min_size((task + 1) * job->together, pixels);
    struct strip strip = new_strip(job, 1, scratch);
    for (ptrdiff_t pixel = task * job->together; pixel < end; pixel++) {
        ptrdiff_t start = pixel * job->response->channels;
        strip.x = job->x + start;
        strip.g = job->g ? job->g + start : NULL;
        strip.result = job->result + start;
        run_strip(job, &strip);
    }
}

static void run_planes(const void *context, ptrdiff_t task, void *scratch) {
    const struct job *job = context;
    const struct pyconv_response *response = job->response;
    ptrdiff_t strips = ceil_div(response->rows, WIDTH), first = task % strips * WIDTH;
    ptrdiff_t width = min_size(WIDTH, response->rows - first);
    ptrdiff_t start = task / strips * response->rows * response->channels + first;
    struct strip strip = new_strip(job, width, scratch);
    size_t bytes = (size_t)width * sizeof(real);
    for (ptrdiff_t c = 0; c < response->channels; c++) {
        memcpy((real *)strip.x + c * width, job->x + start + c * response->rows, bytes);
        if (job->g) memcpy((real *)strip.g + c * width, job->g + start + c * response->rows, bytes);
    }
    run_strip(job, &strip);
    for (ptrdiff_t c = 0; c < response->channels; c++)
        memcpy(job->result + start + c * response->rows, strip.result + c * width, bytes);
}

static int run(const struct pyconv_response *response, const void *g, const void *x, void *result) {
    ptrdiff_t pixels = response->batch * response->rows, tasks, width;
    if (pixels * response->channels == 0) return PYCONV_OK;
    struct job job = {response, x, g, result, max_size(1, CHUNK / response->channels)};
    if (response->planes) {
        tasks = response->batch * ceil_div(response->rows, WIDTH);
        width = min_size(WIDTH, response->rows);
    } else {
        tasks = ceil_div(pixels, job.together);
        width = 1;
    }
    double cost = (double)(pixels * response->channels) / LANES * NANOSECONDS_PER_VECTOR;
    size_t scratch = (size_t)scratch_elements(response, width) * sizeof(real);
    return parallel_run(tasks, cost, scratch, response->planes ? run_planes : run_pixels, &job);
}

static int forward(const struct pyconv_response *response, const void *x, void *y) {
    return run(response, NULL, x, y);
}

static int backward(const struct pyconv_response *response, const void *g, const void *x, void *dx) {
    return run(response, g, x, dx);
}

const struct pyconv_response_kernels KERNELS(norm_response) = {forward, backward};
