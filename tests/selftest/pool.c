/* Pooling: windows over every edge, ties, NaN, and the scatter by indices. */
#include "selftest.h"

#include <math.h>

#define CASES 150

/* The taps of window i of an axis: at first + j step, j < taps; `divisor` of them count in an average. */
struct span {
    ptrdiff_t first, taps, step, divisor;
};

static struct span span_of(const struct pyconv_pool *pool, int axis, ptrdiff_t i) {
    ptrdiff_t extent = axis ? pool->width : pool->height, out = axis ? pool->out_width : pool->out_height;
    if (pool->adaptive) {
        ptrdiff_t begin = i * extent / out, end = ((i + 1) * extent + out - 1) / out;
        return (struct span){begin, end - begin, 1, end - begin};
    }
    struct span s = {i * pool->stride[axis] - pool->padding[axis], pool->kernel[axis], pool->dilation[axis],
                     0};
    for (ptrdiff_t j = 0; j < s.taps; j++) {
        ptrdiff_t at = s.first + j * s.step, low = 0, high = extent;
        if (pool->count_include_pad) low -= pool->padding[axis], high += pool->padding[axis];
        s.divisor += at >= low && at < high;
    }
    return s;
}

/* One window: calls visit(pooled element, input element, tap, place in the plane, divisor) for each tap. */
typedef void visitor(void *context, ptrdiff_t o, ptrdiff_t i, ptrdiff_t tap, ptrdiff_t place, double divisor);

static void visit_taps(const struct pyconv_pool *pool, visitor *visit, void *context) {
    for (ptrdiff_t o = 0; o < pool->images * pool->out_height * pool->out_width * pool->channels; o++) {
        ptrdiff_t c = o % pool->channels, q = o / pool->channels % pool->out_width;
        ptrdiff_t p = o / pool->channels / pool->out_width % pool->out_height;
        ptrdiff_t n = o / pool->channels / pool->out_width / pool->out_height;
        struct span row = span_of(pool, 0, p), column = span_of(pool, 1, q);
        for (ptrdiff_t t = 0; t < row.taps * column.taps; t++) {
            ptrdiff_t y = row.first + t / column.taps * row.step,
                      x = column.first + t % column.taps * column.step;
            if (y < 0 || y >= pool->height || x < 0 || x >= pool->width) continue;
            double divisor = pool->divisor ? (double)pool->divisor : (double)(row.divisor * column.divisor);
            ptrdiff_t place = y * pool->width + x;
            visit(context, o, (n * pool->height * pool->width + place) * pool->channels + c, t, place,
                  divisor);
        }
    }
}

struct maxima {
    const double *x;
    double *y, *place, *tap;
};

static void visit_max(void *context, ptrdiff_t o, ptrdiff_t i, ptrdiff_t tap, ptrdiff_t place,
                      double divisor) {
    (void)divisor;
    const struct maxima *m = context;
    int first = m->place[o] < 0;
    if (first || m->x[i] > m->y[o] || isnan(m->x[i]))
        m->y[o] = m->x[i], m->place[o] = (double)place, m->tap[o] = (double)tap;
}

struct gradients {
    const double *x, *dy, *tap; /* tap: of each maximum; NULL for averages */
    double *y, *dx;
};

static void visit_gradient(void *context, ptrdiff_t o, ptrdiff_t i, ptrdiff_t tap, ptrdiff_t place,
                           double divisor) {
    (void)place;
    const struct gradients *g = context;
    if (!g->tap) {
        g->y[o] += g->x[i] / divisor;
        g->dx[i] += g->dy[o] / divisor;
    } else if (g->tap[o] == (double)tap) {
        g->dx[i] += g->dy[o];
    }
}

static ptrdiff_t inputs(const struct pyconv_pool *p) {
    return p->images * p->height * p->width * p->channels;
}
static ptrdiff_t outputs(const struct pyconv_pool *p) {
    return p->images * p->out_height * p->out_width * p->channels;
}

static void check_max(const struct pyconv_pool *pool) {
    struct array *x = whole(inputs(pool), 3), *dy = whole(outputs(pool), 3);
    for (ptrdiff_t i = 0; i < x->count; i++)
        if (!pick(40)) x->value[i] = pick(2) ? NAN : -INFINITY;
    struct array *y = output(REAL, dy->count), *place = output(INT64, dy->count),
                 *dx = output(REAL, x->count);
    struct array *tap = output(BYTE, dy->count), *given = input(BYTE, dy->count);
    for (ptrdiff_t i = 0; i < dy->count; i++) place->value[i] = -1;
    struct maxima maxima = {x->value, y->value, place->value, tap->value};
    visit_taps(pool, visit_max, &maxima);
    for (ptrdiff_t i = 0; i < dy->count && !pool->adaptive; i++) given->value[i] = tap->value[i];
    struct gradients gradients = {NULL, dy->value, tap->value, NULL, dx->value};
    visit_taps(pool, visit_gradient, &gradients);

    RUN(kernels->max_pool->forward(pool, PYCONV_NO_INDEX, data(x), data(y), NULL));
    expect("maximum", y, 0);
    RUN(kernels->max_pool->forward(pool, PYCONV_PLANE_INDEX, data(x), data(y), data(place)));
    expect("maximum with its place", y, 0);
    expect("place", place, 0);
    if (pool->adaptive) return;
    RUN(kernels->max_pool->forward(pool, PYCONV_TAP_INDEX, data(x), data(y), data(tap)));
    expect("maximum with its tap", y, 0);
    expect("tap", tap, 0);
    RUN(kernels->max_pool->backward(pool, data(dy), data(given), data(dx)));
    expect("grad_input of the maximum", dx, 0);
    if (pool->channels == 1 || pool->kernel[0] * pool->kernel[1] > PYCONV_NO_TAP) return;
    struct pyconv_pool rectified = *pool;
    rectified.relu = 1;
    for (ptrdiff_t i = 0; i < y->count; i++)
        if (y->value[i] <= 0) y->value[i] = 0, tap->value[i] = PYCONV_NO_TAP;
    RUN(kernels->max_pool->forward(&rectified, PYCONV_TAP_INDEX, data(x), data(y), data(tap)));
    expect("rectified maximum", y, 0);
    expect("tap of the rectified maximum", tap, 0);
}

static void check_average(const struct pyconv_pool *pool) {
    struct array *x = whole(inputs(pool), 9), *dy = whole(outputs(pool), 9);
    struct array *y = output(REAL, dy->count), *dx = output(REAL, x->count);
    struct gradients gradients = {x->value, dy->value, NULL, y->value, dx->value};
    visit_taps(pool, visit_gradient, &gradients);
    RUN(kernels->avg_pool->forward(pool, data(x), data(y)));
    expect("average", y, rounding());
    RUN(kernels->avg_pool->backward(pool, data(dy), data(dx)));
    expect("grad_input of the average", dx, rounding());
}

static void random_axis(struct pyconv_pool *pool, int axis, ptrdiff_t *extent, ptrdiff_t *out) {
    ptrdiff_t kernel = pool->kernel[axis] = 1 + pick(4), stride = pool->stride[axis] = 1 + pick(4);
    ptrdiff_t dilation = pool->dilation[axis] = 1 + pick(4) / 3,
              padding = pool->padding[axis] = pick(kernel / 2 + 1);
    *extent = dilation * (kernel - 1) + 1 + pick(pick(4) ? 8 : 70);
    *out = (*extent + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
    if (pick(3) == 0 && *out * stride - padding < *extent) ++*out; /* as ceil_mode makes it */
    if (pool->adaptive) *out = pick(3) ? 1 + pick(*extent + 3) : 1;
}

/* ---- Indices ---- */

static void check_scatter(ptrdiff_t images, ptrdiff_t plane, ptrdiff_t count, ptrdiff_t channels) {
    int assign = (int)pick(2), bad = !pick(4) && count;
    begin_case("scatter %td x %td to %td, %td channels, assign %d, bad %d", images, count, plane, channels,
               assign, bad);
    struct array *pooled = whole(images * count * channels, 9), *index = input(INT64, pooled->count);
    struct array *unpooled = output(REAL, images * plane * channels), *gathered = output(REAL, pooled->count);
    for (ptrdiff_t i = 0; i < index->count; i++) index->value[i] = (double)pick(plane);
    static const double outside[] = {-1, 1e6, 9e18, -9e18, 4294967296.0};
    if (bad) index->value[pick(index->count)] = outside[pick(5)];
    for (ptrdiff_t i = 0; i < index->count; i++) {
        ptrdiff_t n = i / count / channels, c = i % channels;
        if (!(index->value[i] >= 0 && index->value[i] < (double)plane)) continue;
        double *to = unpooled->value + (n * plane + (ptrdiff_t)index->value[i]) * channels + c;
        *to = pooled->value[i] + (assign ? 0 : *to);
    }
    RUN_FOR(bad ? PYCONV_BAD_INDEX : PYCONV_OK,
            kernels->pool_index->scatter(images, plane, count, channels, assign, data(pooled), data(index),
                                         data(unpooled)));
    expect("unpooled", unpooled, 0);
    end_case();
    if (bad) return;

    begin_case("gather %td x %td from %td, %td channels", images, count, plane, channels);
    unpooled = whole(images * plane * channels, 9), index = input(INT64, images * count * channels);
    gathered = output(REAL, index->count);
    for (ptrdiff_t i = 0; i < index->count; i++) {
        ptrdiff_t n = i / count / channels, c = i % channels, at = pick(plane);
        index->value[i] = (double)at;
        gathered->value[i] = unpooled->value[(n * plane + at) * channels + c];
    }
    RUN(kernels->pool_index->gather(images, plane, count, channels, data(unpooled), data(index),
                                    data(gathered)));
    expect("gathered", gathered, 0);
    end_case();
}

void test_pool(void) {
    for (int i = 0; i < CASES; i++) {
        struct pyconv_pool pool = {.images = 1 + pick(2), .channels = pick(3) ? 1 + pick(70) : 1};
        pool.adaptive = !pick(5);
        pool.count_include_pad = (int)pick(2);
        pool.divisor = pick(3) || pool.adaptive ? 0 : 5 - 8 * pick(2);
        random_axis(&pool, 0, &pool.height, &pool.out_height);
        random_axis(&pool, 1, &pool.width, &pool.out_width);
        if (i == 0) pool.images = 0;
        begin_case(
            "pool n%td %tdx%td to %tdx%td, %td channels, kernel %tdx%td stride %tdx%td padding %tdx%td "
            "dilation %tdx%td adaptive %d",
            pool.images, pool.height, pool.width, pool.out_height, pool.out_width, pool.channels,
            pool.kernel[0], pool.kernel[1], pool.stride[0], pool.stride[1], pool.padding[0], pool.padding[1],
            pool.dilation[0], pool.dilation[1], pool.adaptive);
        check_max(&pool);
        end_case();
        pool.dilation[0] = pool.dilation[1] = 1; /* averages have none */
        if (!pool.adaptive) {                    /* and so their last windows may begin behind the padding */
            pool.out_height = (pool.height + 2 * pool.padding[0] - pool.kernel[0]) / pool.stride[0] + 1;
            pool.out_width = (pool.width + 2 * pool.padding[1] - pool.kernel[1]) / pool.stride[1] + 1;
        }
        begin_case(
            "average n%td %tdx%td to %tdx%td, %td channels, kernel %tdx%td stride %tdx%td padding %tdx%td "
            "adaptive %d counting %d divisor %td",
            pool.images, pool.height, pool.width, pool.out_height, pool.out_width, pool.channels,
            pool.kernel[0], pool.kernel[1], pool.stride[0], pool.stride[1], pool.padding[0], pool.padding[1],
            pool.adaptive, pool.count_include_pad, pool.divisor);
        check_average(&pool);
        end_case();
        check_scatter(1 + pick(3), 1 + pick(60), pick(30), 1 + pick(40));
    }
    struct pyconv_pool plane = {.images = 3,
                                .height = 9,
                                .width = 130,
                                .channels = 1,
                                .out_height = 1,
                                .out_width = 1,
                                .adaptive = 1};
    begin_case("average of whole planes");
    check_average(&plane);
    end_case();
    check_scatter(2, 100000, 3000, 3); /* planes beyond the caches */
    check_scatter(1, 300000, 9000, 1);
}
