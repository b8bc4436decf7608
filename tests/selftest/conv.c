/* Convolution: all passes and algorithms. With small integers every sum is exact, so the error allowed is
 * zero but for Winograd, whose transforms round. */
#include "selftest.h"

#define RANDOM_CASES 150
#define WINOGRAD_TOLERANCE 2e-5

static const char *const pass_names[] = {"forward", "grad_input", "grad_weight"};
static int seen[3][PYCONV_CONV_PLANES + 1]; /* cases of each pass and algorithm */

/* Where an image's element lies */
static ptrdiff_t place(const struct pyconv_conv2d *g, ptrdiff_t image, ptrdiff_t channels, ptrdiff_t channel,
                       ptrdiff_t pixels, ptrdiff_t pixel) {
    return g->planes ? (image * channels + channel) * pixels + pixel
                     : (image * pixels + pixel) * channels + channel;
}

static ptrdiff_t output_channel(const struct pyconv_conv2d *g, ptrdiff_t element) {
    return (g->planes ? element / (g->out_height * g->out_width) : element) % g->out_channels;
}

/* All three passes at once, each product of the sum where it belongs. */
static void reference(const struct pyconv_conv2d *g, const double *x, const double *w, const double *dy,
                      double *y, double *dx, double *dw) {
    ptrdiff_t from = g->in_channels / g->groups, to = g->out_channels / g->groups;
    ptrdiff_t taps = g->kernel_height * g->kernel_width;
    for (ptrdiff_t o = 0; o < g->batch * g->out_height * g->out_width; o++)
        for (ptrdiff_t t = 0; t < taps; t++) {
            ptrdiff_t pixels = g->out_height * g->out_width, n = o / pixels, p = o % pixels / g->out_width,
                      q = o % g->out_width;
            ptrdiff_t row = p * g->stride_height - g->pad_top + t / g->kernel_width * g->dilation_height;
            ptrdiff_t column = q * g->stride_width - g->pad_left + t % g->kernel_width * g->dilation_width;
            if (row < 0 || row >= g->in_height || column < 0 || column >= g->in_width) continue;
            ptrdiff_t i = row * g->in_width + column;
            for (ptrdiff_t k = 0; k < g->out_channels; k++)
                for (ptrdiff_t c = 0; c < from; c++) {
                    ptrdiff_t at = place(g, n, g->in_channels, k / to * from + c, g->in_height * g->in_width,
                                         i),
                              ok = place(g, n, g->out_channels, k, pixels, o % pixels),
                              j = (k * from + c) * taps + t;
                    y[ok] += x[at] * w[j];
                    dx[at] += dy[ok] * w[j];
                    dw[j] += dy[ok] * x[at];
                }
        }
}

/* How exact a pass must be, by the algorithm that it will take. */
static double tolerance(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                        enum pyconv_conv_algorithm asked) {
    struct pyconv_conv_plan plan;
    if (kernels->conv->explain(g, pass, asked, &plan) != PYCONV_OK) fail("explain");
    if (pass != PYCONV_FORWARD_PREPARED) seen[pass][plan.algorithm]++;
    return plan.algorithm == PYCONV_CONV_WINOGRAD ? WINOGRAD_TOLERANCE : 0;
}

struct tensors {
    struct array *x, *w, *dy, *y, *dx, *dw;
};

/* Where the algorithm has a layout of its own for the weight: room for it. */
static struct array *room_to_prepare(const struct pyconv_conv2d *g, enum pyconv_conv_algorithm how) {
    struct pyconv_conv_plan plan;
    if (kernels->conv->explain(g, PYCONV_FORWARD_PREPARED, how, &plan) != PYCONV_OK) fail("explain");
    ptrdiff_t size = dtype == PYCONV_F32 ? sizeof(float) : sizeof(double);
    return plan.prepared ? output(REAL, (ptrdiff_t)plan.prepared / size) : NULL;
}

static int forward(const struct pyconv_conv2d *g, const struct tensors *t, const struct array *prepared,
                   const struct pyconv_epilogue *epilogue, struct array *y, enum pyconv_conv_algorithm how) {
    int status = PYCONV_OK;
    if (prepared) status = kernels->conv->prepare(g, data(t->w), data(prepared), how);
    if (status != PYCONV_OK) return status;
    return kernels->conv->forward(g, data(t->x), data(t->w), data(prepared), epilogue, data(y), how);
}

static void check_forward(const struct pyconv_conv2d *g, const struct tensors *t,
                          enum pyconv_conv_algorithm how) {
    struct array *bias = pick(2) ? whole(g->out_channels, 3) : NULL;
    struct array *residual = pick(2) ? whole(t->y->count, 3) : NULL;
    struct array *y = output(REAL, t->y->count);
    struct pyconv_epilogue epilogue = {data(bias), data(residual), (int)pick(2)};
    for (ptrdiff_t i = 0; i < y->count; i++) {
        y->value[i] = t->y->value[i] + (bias ? bias->value[output_channel(g, i)] : 0) +
                      (residual ? residual->value[i] : 0);
        if (epilogue.relu && y->value[i] < 0) y->value[i] = 0;
    }
    struct array *prepared = pick(2) ? room_to_prepare(g, how) : NULL;
    double allowed = tolerance(g, prepared ? PYCONV_FORWARD_PREPARED : PYCONV_FORWARD, how);
    RUN(forward(g, t, prepared, &epilogue, y, how));
    expect("output", y, allowed);
}

static void check_grad_weight(const struct pyconv_conv2d *g, const struct tensors *t,
                              enum pyconv_conv_algorithm how) {
    ptrdiff_t wanted = 1 + pick(3); /* bit 0: of the weight; bit 1: of the bias */
    struct array *dw = wanted & 1 ? output(REAL, t->dw->count) : NULL;
    struct array *bias = wanted & 2 ? output(REAL, g->out_channels) : NULL;
    for (ptrdiff_t i = 0; dw && i < dw->count; i++) dw->value[i] = t->dw->value[i];
    for (ptrdiff_t i = 0; bias && i < t->dy->count; i++) bias->value[output_channel(g, i)] += t->dy->value[i];
    double allowed = tolerance(g, PYCONV_GRAD_WEIGHT, how);
    RUN(kernels->conv->grad_weight(g, data(t->dy), data(t->x), data(dw), data(bias), how));
    if (dw) expect("grad_weight", dw, allowed);
    if (bias) expect("grad_bias", bias, 0);
}

static void check_algorithm(const struct pyconv_conv2d *g, enum pyconv_conv_algorithm how) {
    static const char *const names[] = {"auto", "direct", "depthwise", "scatter", "winograd", "planes"};
    begin_case("conv %s%s n%td g%td in %tdx%tdx%td out %tdx%tdx%td kernel %tdx%td stride %tdx%td pad %tdx%td "
               "dilation %tdx%td",
               names[how], g->planes ? " of planes" : "", g->batch, g->groups, g->in_channels, g->in_height,
               g->in_width, g->out_channels, g->out_height, g->out_width, g->kernel_height, g->kernel_width,
               g->stride_height, g->stride_width, g->pad_top, g->pad_left, g->dilation_height,
               g->dilation_width);
    ptrdiff_t inputs = g->batch * g->in_height * g->in_width * g->in_channels;
    ptrdiff_t outputs = g->batch * g->out_height * g->out_width * g->out_channels;
    ptrdiff_t weights = g->out_channels * (g->in_channels / g->groups) * g->kernel_height * g->kernel_width;
    struct tensors t = {whole(inputs, 3),      whole(weights, 3),    whole(outputs, 3),
                        output(REAL, outputs), output(REAL, inputs), output(REAL, weights)};
    reference(g, t.x->value, t.w->value, t.dy->value, t.y->value, t.dx->value, t.dw->value);
    check_forward(g, &t, how);
    double allowed = tolerance(g, PYCONV_GRAD_INPUT, how);
    RUN(kernels->conv->grad_input(g, data(t.dy), data(t.w), NULL, data(t.dx), how));
    expect("grad_input", t.dx, allowed);
    check_grad_weight(g, &t, how);
    end_case();
}

static void check(const struct pyconv_conv2d *g) {
    check_algorithm(g, PYCONV_CONV_AUTO);
    check_algorithm(g, PYCONV_CONV_DIRECT);
    struct pyconv_conv_plan plan = {0};
    kernels->conv->explain(g, PYCONV_FORWARD, PYCONV_CONV_WINOGRAD, &plan);
    if (plan.algorithm == PYCONV_CONV_WINOGRAD) check_algorithm(g, PYCONV_CONV_WINOGRAD);
    struct pyconv_conv2d planes = *g;
    planes.planes = 1;
    check_algorithm(&planes, PYCONV_CONV_AUTO);
    check_algorithm(&planes, PYCONV_CONV_DIRECT);
    check_algorithm(&planes, PYCONV_CONV_PLANES);
}

/* ---- Shapes ---- */

static ptrdiff_t lanes(void) {
    struct pyconv_conv2d g = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0};
    struct pyconv_conv_plan plan = {.lanes = 1};
    kernels->conv->explain(&g, PYCONV_FORWARD, PYCONV_CONV_AUTO, &plan);
    return plan.lanes;
}

/* Few, or one below, at and above a vector, and a block of two. */
static ptrdiff_t random_channels(void) {
    switch (pick(4)) {
    case 0: return 1 + pick(4);
    case 1: return 1 + pick(12);
    case 2: return lanes() - 1 + pick(3);
    default: return 2 * lanes() - 1 + pick(3);
    }
}

/* One axis: its extent, kernel, stride, dilation and padding before, and the output's extent. */
static void random_axis(ptrdiff_t *in, ptrdiff_t kernel, ptrdiff_t *stride, ptrdiff_t *pad,
                        ptrdiff_t *dilation, ptrdiff_t *out, int plain) {
    *stride = plain ? 1 : 1 + pick(4) / 2 + pick(2);
    *dilation = plain ? 1 : 1 + pick(4) / 3;
    ptrdiff_t reach = (kernel - 1) * *dilation;
    *pad = pick(reach + 2);
    ptrdiff_t behind = pick(2) ? *pad : pick(reach + 2); /* as "same" pads even kernels */
    *in = 1 + pick(18);
    if (*in + *pad + behind <= reach) *in = reach + 1;
    *out = (*in + *pad + behind - reach - 1) / *stride + 1;
}

static struct pyconv_conv2d random_geometry(void) {
    struct pyconv_conv2d g = {.batch = 1 + pick(3), .groups = 1};
    int kind = (int)pick(5), plain = kind == 0;
    g.kernel_height = plain ? 3 + 2 * pick(2) : 1 + pick(4);
    g.kernel_width = pick(4) ? g.kernel_height : 1 + pick(7);
    ptrdiff_t from = random_channels(), to = random_channels();
    if (kind == 1) g.groups = 1 + pick(3);
    if (kind == 3) g.groups = 1 + pick(40), from = 1 + pick(9), to = 1 + pick(9);
    if (kind == 2) g.groups = random_channels(), from = to = 1;
    g.in_channels = g.groups * from;
    g.out_channels = g.groups * to;
    random_axis(&g.in_height, g.kernel_height, &g.stride_height, &g.pad_top, &g.dilation_height,
                &g.out_height, plain);
    random_axis(&g.in_width, g.kernel_width, &g.stride_width, &g.pad_left, &g.dilation_width, &g.out_width,
                plain);
    return g;
}

/* Square shapes: batch, groups, in and out channels, size, kernel, stride, padding, dilation. */
static const ptrdiff_t shapes[][9] = {
    {0, 1, 3, 4, 5, 3, 1, 1, 1},     /* no image */
    {2, 1, 3, 4, 1, 3, 5, 4, 3},     /* most taps and outputs in the padding */
    {1, 1, 1, 1, 1, 1, 1, 0, 1},     /* a single product */
    {2, 1, 3, 20, 35, 7, 2, 3, 1},   /* first layers: scatter */
    {1, 1, 1, 40, 28, 5, 1, 2, 1},   /* of grey images */
    {2, 1, 3, 32, 27, 3, 1, 1, 1},   /* whose taps share what they read */
    {2, 1, 70, 3, 27, 3, 1, 1, 1},   /* to few outputs: lanes over what is summed */
    {3, 1, 300, 40, 5, 1, 1, 0, 1},  /* sums longer than a chunk */
    {1, 1, 140, 9, 6, 3, 2, 1, 1},   /* the same with taps */
    {1, 1, 128, 128, 9, 1, 1, 0, 1}, /* powers of two, against L1's sets */
    {2, 1, 17, 33, 45, 3, 1, 1, 1},  /* several groups of Winograd's tiles, several parts of weights */
    {1, 1, 20, 130, 7, 3, 1, 1, 1},  /* many filters on few tiles */
    {2, 1, 130, 140, 4, 3, 1, 1, 1}, /* U beyond L2: filters outside */
    {1, 1, 65, 70, 19, 5, 1, 2, 1},  /* 5x5 */
    {2, 1, 40, 50, 13, 7, 1, 3, 1},  /* along lines */
    {1, 1, 33, 20, 9, 4, 1, 0, 1},
    {2, 3, 48, 48, 14, 3, 1, 1, 1},     /* a vector to a group */
    {1, 100, 100, 100, 15, 3, 2, 1, 1}, /* depthwise, many channels */
    {1, 20, 20, 20, 13, 5, 1, 2, 1},    /* and the kernels that have tiles of their own */
    {1, 20, 20, 20, 13, 5, 2, 2, 1},
    {1, 9, 9, 9, 12, 4, 1, 1, 1},
    {2, 120, 120, 120, 56, 3, 1, 1, 1}, /* beyond L2: with prefetches */
    {1, 70, 70, 140, 9, 3, 1, 1, 1},    /* two filters to a channel */
    {1, 8, 64, 96, 12, 3, 1, 1, 1},     /* groups */
    {2, 3, 60, 66, 13, 3, 1, 1, 1},     /* with tiles of their own */
    {1, 2, 40, 80, 9, 5, 1, 2, 1},
    {2, 32, 128, 128, 14, 3, 1, 1, 1}, /* of few channels, as in ResNeXt */
    {1, 1, 2, 3, 40, 3, 1, 2, 11},     /* dilation beyond the tile */
};

void test_conv(void) {
    for (int pass = 0; pass < 3; pass++)
        for (int algorithm = 0; algorithm <= PYCONV_CONV_PLANES; algorithm++) seen[pass][algorithm] = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const ptrdiff_t *s = shapes[i], out = (s[4] + 2 * s[7] - s[8] * (s[5] - 1) - 1) / s[6] + 1;
        struct pyconv_conv2d g = {s[0], s[1], s[2], s[4], s[4], s[3], out,  out, s[5],
                                  s[5], s[6], s[6], s[7], s[7], s[8], s[8], 0};
        check(&g);
    }
    for (int i = 0; i < RANDOM_CASES; i++) {
        struct pyconv_conv2d g = random_geometry();
        check(&g);
    }
    begin_case("algorithms");
    for (int pass = 0; pass < 3; pass++)
        for (int algorithm = 1; algorithm <= PYCONV_CONV_PLANES; algorithm++) {
            int exists = (algorithm != PYCONV_CONV_WINOGRAD || dtype == PYCONV_F32) &&
                         (algorithm != PYCONV_CONV_SCATTER || pass == PYCONV_GRAD_INPUT);
            if (exists && !seen[pass][algorithm])
                fail("none took algorithm %d for %s", algorithm, pass_names[pass]);
        }
    end_case();
}
