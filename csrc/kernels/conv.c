/* Convolution: which algorithm computes a pass, and why. */
#include "conv.h"
#include "conv_grouped.h"
#include "conv_planar.h"
#include "correlation.h"
#include "parallel.h"
#include "winograd.h"
#include "winograd_line.h"

extern const struct pyconv_join_kernels KERNELS(join);

static int is_depthwise(const struct pyconv_conv2d *g) {
    return g->groups == g->in_channels && g->groups == g->out_channels && g->groups > 1;
}

/* The lines that a pass is cut into; of the input's gradient, where that is the output. */
static struct lines lines_of(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    int back = pass == PYCONV_GRAD_INPUT;
    return cut_lines(g->batch, back ? g->in_height : g->out_height, back ? g->in_width : g->out_width,
                     g->kernel_height, g->kernel_width, g->dilation_height, g->dilation_width,
                     g->in_channels + g->out_channels);
}

static int fits_lines(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    struct lines l = lines_of(g, pass);
    return (l.vertical ? g->dilation_height : g->dilation_width) == 1 &&
           l.rows * l.groups <= MOST_LINE_TAPS && l.images > 0 && l.m_height > 0 && l.m_width > 0 &&
           g->in_channels > LANES && g->out_channels > LANES;
}

/* 3 x 3 kernels with a stride of 2, see conv_winograd_strided.c */
static int is_strided(const struct pyconv_conv2d *g) {
    return g->stride_height == 2 && g->stride_width == 2 && g->kernel_height == 3 && g->kernel_width == 3 &&
           g->dilation_height == 1 && g->dilation_width == 1;
}

static int fits_winograd(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    if (!REAL_IS_FLOAT || g->groups > 1) return 0;
    if (is_strided(g)) return 1;
    return g->stride_height == 1 && g->stride_width == 1 &&
           (is_square(g->kernel_height, g->kernel_width) || fits_lines(g, pass));
}

/* What puts together the lanes of a weight's gradient where it is made directly. */
enum lanes_of { FILTERS, BUNDLES_OF_GROUPS, PIXELS };

static enum lanes_of weight_lanes(const struct pyconv_conv2d *g) {
    ptrdiff_t area = g->kernel_height * g->kernel_width, from = g->in_channels / g->groups,
              to = g->out_channels / g->groups;
    if (!g->batch || !g->out_height || !g->out_width || !area) return FILTERS;
    if (can_bundle(g->groups, from, to)) return BUNDLES_OF_GROUPS;
    return to <= PLANAR_CHANNELS && is_planar(g->groups, g->stride_width, area, from, to, g->out_width)
               ? PIXELS
               : FILTERS;
}

static int fits_scatter(const struct pyconv_conv2d *g) {
    return g->groups == 1 && g->dilation_width == 1 && g->kernel_width > 1 && g->in_channels &&
           g->out_channels && g->batch && g->out_height && g->out_width;
}

/* ---- What a pass costs ----
 *
 * A model in cycles of one core, which does two vector multiply-adds in each. Only the vectors count: 3
 * channels cost as much as LANES do. The constants were measured with AVX-512 and caches warm: how near
 * to two the register tiles come, and what a transform of one 6 x 6 tile of vectors takes, loads and
 * stores included. */
#define GATHER_EFFICIENCY 0.9
#define PRODUCT_EFFICIENCY 0.8
#define TRANSFORM_INPUT 130.0     /* cycles for LANES channels of a tile */
#define TRANSFORM_OUTPUT 110.0    /* for LANES filters of a tile */
#define TRANSFORM_FILTER 220.0    /* for LANES filters on one channel, the transposition included */
#define STRIDED_TILE 300.0        /* for LANES channels or filters of a tile of 81 planes; and where */
#define STRIDED_WEIGHT_TILE 450.0 /* they come from memory, for the weight's gradient */
#define LINE_TILE 120.0           /* for LANES channels of a tile of seven points, to or from memory */
#define LINE_FILTER 300.0         /* for LANES filters on one channel and four taps, and */
#define LINE_WEIGHT 200.0         /* for their gradient */
#define SCATTER_VECTOR 4.0        /* load, add, store */
#define GATHER_STORE 3.0          /* for LANES filters of a pixel: what a tile takes besides its products */
#define PLANAR_EFFICIENCY 0.35
#define PLANAR_STORE 0.8  /* for each output */
#define PRODUCT_STORE 8.0 /* the same of Winograd's products, as so many more channels */
#define PACK_FILTERS                                                                                         \
    24.0 /* for LANES filters on one channel and tap; where each residue of a stride packs its own: */
#define PACK_RESIDUES 50.0
#define L2_BYTES 1.9e6
#define L3_BYTES 16.0 /* a cycle */

static double beyond_l2(double bytes) { return bytes > L2_BYTES ? bytes - L2_BYTES : 0; }

static double direct_cycles(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    double pixels = (double)(g->batch * g->out_height * g->out_width),
           taps = (double)(g->kernel_height * g->kernel_width);
    ptrdiff_t from = g->in_channels / g->groups, to = g->out_channels / g->groups;
    if (pass == PYCONV_GRAD_INPUT) from = g->out_channels / g->groups, to = g->in_channels / g->groups;
    ptrdiff_t width = pass == PYCONV_GRAD_INPUT ? g->in_width : g->out_width;
    ptrdiff_t step = pass == PYCONV_FORWARD ? g->stride_width : 1;
    if (pass != PYCONV_GRAD_WEIGHT && is_planar(g->groups, step, (ptrdiff_t)taps, from, to, width))
        return pixels * (double)to * (taps * (double)from / LANES / 2 / PLANAR_EFFICIENCY + PLANAR_STORE);
    double vectors = pixels * (double)(g->groups * ceil_div(to, LANES));
    double products = vectors * (taps * (double)from / 2 / GATHER_EFFICIENCY + GATHER_STORE);
    if (pass == PYCONV_GRAD_WEIGHT) return products;
    double weights = taps * (double)from * (double)(g->groups * ceil_div(to, LANES)),
           bytes = weights * VECTOR_BYTES;
    double packed =
        weights * (pass == PYCONV_GRAD_INPUT && g->stride_width > 1 ? PACK_RESIDUES : PACK_FILTERS);
    return products + packed + (double)g->batch * beyond_l2(bytes) / L3_BYTES;
}

static double scatter_cycles(const struct pyconv_conv2d *g) {
    double pixels = (double)(g->batch * g->out_height * g->out_width);
    ptrdiff_t run = g->kernel_width * g->in_channels;
    double product =
        (double)(ceil_div(g->kernel_height * run, LANES) * g->out_channels) / 2 / PRODUCT_EFFICIENCY;
    return pixels * (product + SCATTER_VECTOR * (double)(g->kernel_height * ceil_div(run, LANES)));
}

static double line_cycles(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    int back = pass == PYCONV_GRAD_INPUT;
    ptrdiff_t from = back ? g->out_channels : g->in_channels, to = back ? g->in_channels : g->out_channels;
    struct lines l = lines_of(g, pass);
    double from_vectors = (double)ceil_div(from, LANES), to_vectors = (double)ceil_div(to, LANES);
    double v_tiles = (double)g->batch * (double)l.v_height * (double)l.v_width,
           taps = (double)(l.rows * l.groups);
    double m_tiles = (double)g->batch * (double)l.m_height * (double)l.m_width;
    double products = m_tiles * LINE_POINTS * taps * (double)from * to_vectors / 2 / GATHER_EFFICIENCY;
    return products + LINE_TILE * (v_tiles * from_vectors + m_tiles * to_vectors) +
           (pass == PYCONV_GRAD_WEIGHT ? LINE_WEIGHT : LINE_FILTER) * taps * (double)from * to_vectors;
}

/* What exceeds L2 comes from L3: transformed filters for every group of tiles; and a group's tiles for every
 * block of filters. */
static double travel_cycles(double tiles, double planes, ptrdiff_t from, ptrdiff_t to) {
    double filter_bytes = AREA * (double)from * (double)to * sizeof(real);
    double tile_bytes = planes * (double)from * sizeof(real), group = tiles < TILE ? tiles : TILE;
    double again = beyond_l2(tile_bytes * group) > 0 ? 3 * tile_bytes * tiles * (double)to / BLOCK : 0;
    return (beyond_l2(filter_bytes) * tiles / TILE + again) / L3_BYTES;
}

static double winograd_cycles(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    int back = pass == PYCONV_GRAD_INPUT, strided = is_strided(g);
    if (!strided && !is_square(g->kernel_height, g->kernel_width)) return line_cycles(g, pass);
    ptrdiff_t from = back ? g->out_channels : g->in_channels, to = back ? g->in_channels : g->out_channels;
    ptrdiff_t height = back ? ceil_div(g->in_height, g->stride_height) : g->out_height,
              width = back ? ceil_div(g->in_width, g->stride_width) : g->out_width;
    struct tiling tiling =
        cut_tiles(7 - g->kernel_height, g->batch, height, width, g->dilation_height, g->dilation_width);
    double tiles = (double)tiling.tiles, planes = strided ? 81 : AREA;
    double from_vectors = (double)ceil_div(from, LANES), to_vectors = (double)ceil_div(to, LANES);
    double products = planes * tiles * ((double)from + PRODUCT_STORE) * to_vectors / 2 / PRODUCT_EFFICIENCY;
    double filters = (double)from * to_vectors * TRANSFORM_FILTER;
    if (pass ==
        PYCONV_GRAD_WEIGHT) /* tiles are made again for every 64 channels or filters of the other side */
        return products + filters +
               tiles * (from_vectors * ceil_div(to, 64) + to_vectors * ceil_div(from, 64)) *
                   (strided ? STRIDED_WEIGHT_TILE : TRANSFORM_INPUT);
    double made = strided ? STRIDED_TILE * (from_vectors + to_vectors)
                          : TRANSFORM_INPUT * from_vectors + TRANSFORM_OUTPUT * to_vectors;
    return products + filters + tiles * made + travel_cycles(tiles, planes, from, to);
}

static double cycles(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                     enum pyconv_conv_algorithm algorithm) {
    switch (algorithm) {
    case PYCONV_CONV_WINOGRAD: return winograd_cycles(g, pass);
    case PYCONV_CONV_SCATTER: return scatter_cycles(g);
    case PYCONV_CONV_DEPTHWISE: /* bound by loads, two a cycle */
        return direct_cycles(g, pass) * GATHER_EFFICIENCY / LANES;
    default: return direct_cycles(g, pass);
    }
}

/* Winograd's gradient of the weight has a relative RMS error of 6e-7 (7e-7 unless it is 3x3) however few
 * pixels are summed, where a plain sum over n of them has 1.7e-8 sqrt(n). It is chosen only where it is at
 * most 1.5 times as large. */
static int winograd_is_exact_enough(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    ptrdiff_t pixels = g->batch * g->out_height * g->out_width;
    return pass != PYCONV_GRAD_WEIGHT ||
           pixels >= (g->kernel_height == 3 && g->kernel_width == 3 ? 700 : 1100);
}

static enum pyconv_conv_algorithm choose_algorithm(const struct pyconv_conv2d *g,
                                                   enum pyconv_conv_pass pass) {
    if (is_depthwise(g)) return PYCONV_CONV_DEPTHWISE;
    enum pyconv_conv_algorithm best = PYCONV_CONV_DIRECT;
    double least = direct_cycles(g, pass);
    /* LANES channels and more fill vectors without it */
    if (pass == PYCONV_GRAD_INPUT && fits_scatter(g) && g->in_channels < LANES && scatter_cycles(g) < least)
        best = PYCONV_CONV_SCATTER, least = scatter_cycles(g);
    if (fits_winograd(g, pass) && winograd_is_exact_enough(g, pass) && winograd_cycles(g, pass) < least)
        best = PYCONV_CONV_WINOGRAD;
    return best;
}

/* The algorithm that computes a pass when a user has asked for one: it may not fit. */
static enum pyconv_conv_algorithm resolve(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                                          enum pyconv_conv_algorithm asked) {
    if (asked == PYCONV_CONV_WINOGRAD && fits_winograd(g, pass)) return PYCONV_CONV_WINOGRAD;
    if (asked == PYCONV_CONV_SCATTER && pass == PYCONV_GRAD_INPUT && fits_scatter(g))
        return PYCONV_CONV_SCATTER;
    if (asked == PYCONV_CONV_DIRECT) return is_depthwise(g) ? PYCONV_CONV_DEPTHWISE : PYCONV_CONV_DIRECT;
    return choose_algorithm(g, pass);
}

/* A row of a destination where no tap, or no channel, contributes: 0, or the bias. */
static void fill_row(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct correlation *c = context;
    const real *bias = c->epilogue.bias, *residual = c->epilogue.residual;
    ptrdiff_t row = task / c->dst_height * c->dst_image + task % c->dst_height * c->dst_row;
    for (ptrdiff_t j = 0; j < c->dst_width; j++) {
        ptrdiff_t at = row + j * c->dst_column;
        for (ptrdiff_t k = 0; k < c->groups * c->dst_channels; k++) {
            real value = (bias ? bias[k] : 0) + (residual ? residual[at + k] : 0);
            c->dst[at + k] = c->epilogue.relu && value < 0 ? 0 : value;
        }
    }
}

static int correlate(const struct correlation *c, enum pyconv_conv_algorithm algorithm) {
    if (!c->batch || !c->dst_height || !c->dst_width || !c->dst_channels) return PYCONV_OK;
    if (!c->taps || !c->src_channels) {
        double elements =
            (double)(c->batch * c->dst_height * c->dst_width) * (double)(c->groups * c->dst_channels);
        return parallel_run(c->batch * c->dst_height, elements / 4, 0, fill_row, c);
    }
    switch (algorithm) {
    case PYCONV_CONV_DEPTHWISE: return VARIANT(correlate_depthwise)(c);
    case PYCONV_CONV_WINOGRAD: return VARIANT(correlate_winograd)(c);
    default: return VARIANT(correlate_direct)(c);
    }
}

static const struct pyconv_epilogue no_epilogue = {NULL, NULL, 0};

static struct tap *alloc_taps(const struct pyconv_conv2d *g, size_t *bytes) {
    *bytes = (size_t)(g->kernel_height * g->kernel_width) * sizeof(struct tap);
    return pyconv_alloc(*bytes);
}

static int forward(const struct pyconv_conv2d *g, const void *input, const void *weight, const void *prepared,
                   const struct pyconv_epilogue *epilogue, void *output,
                   enum pyconv_conv_algorithm algorithm) {
    algorithm = resolve(g, PYCONV_FORWARD, algorithm);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    struct correlation c = forward_correlation(g, input, weight, epilogue, output, tap);
    c.prepared = prepared;
    int status = correlate(&c, algorithm);
    pyconv_free(tap, bytes);
    return status;
}

static int prepare(const struct pyconv_conv2d *g, const void *weight, void *prepared,
                   enum pyconv_conv_algorithm algorithm) {
    algorithm = resolve(g, PYCONV_FORWARD, algorithm);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    struct correlation c = forward_correlation(g, NULL, weight, &no_epilogue, NULL, tap);
    int status = algorithm == PYCONV_CONV_WINOGRAD ? VARIANT(prepare_winograd)(&c, prepared)
                                                   : VARIANT(prepare_direct)(&c, prepared);
    pyconv_free(tap, bytes);
    return status;
}

/* By an algorithm that only overwrites its result. */
static int grad_input_alone(const struct pyconv_conv2d *g, const void *grad_output, const void *weight,
                            const void *residual, void *result, enum pyconv_conv_algorithm algorithm) {
    int status = algorithm == PYCONV_CONV_SCATTER
                     ? VARIANT(grad_input_scatter)(g, grad_output, weight, result)
                     : VARIANT(grad_input_depthwise)(g, grad_output, weight, result);
    if (status != PYCONV_OK || !residual) return status;
    return KERNELS(join).add(g->batch * g->in_height * g->in_width * g->in_channels, result, residual, 0,
                             result);
}

static int grad_input(const struct pyconv_conv2d *g, const void *grad_output, const void *weight,
                      const void *residual, void *result, enum pyconv_conv_algorithm algorithm) {
    algorithm = resolve(g, PYCONV_GRAD_INPUT, algorithm);
    if (algorithm == PYCONV_CONV_SCATTER || algorithm == PYCONV_CONV_DEPTHWISE)
        return grad_input_alone(g, grad_output, weight, residual, result, algorithm);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    int status = PYCONV_OK;
    if (algorithm == PYCONV_CONV_WINOGRAD && is_strided(g)) {
        struct correlation c = spread_correlation(g, grad_output, weight, result, tap);
        c.epilogue.residual = residual;
        status = correlate(&c, algorithm);
        pyconv_free(tap, bytes);
        return status;
    }
    for (ptrdiff_t row = 0; row < min_size(g->stride_height, g->in_height) && status == PYCONV_OK; row++)
        for (ptrdiff_t column = 0; column < min_size(g->stride_width, g->in_width) && status == PYCONV_OK;
             column++) {
            struct correlation c = grad_input_correlation(g, row, column, grad_output, weight, result, tap);
            if (residual) c.epilogue.residual = (const real *)residual + (c.dst - (real *)result);
            status = correlate(&c, algorithm);
        }
    pyconv_free(tap, bytes);
    return status;
}

/* ---- Gradient of the bias: the sum of grad_output over all pixels ---- */

#define BIAS_PIXELS ((ptrdiff_t)512) /* summed in one go; then the partial sums are, in order */

struct bias_gradient {
    ptrdiff_t pixels, channels;
    const real *grad_output;
    real *parts;
};

static void run_bias(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct bias_gradient *b = context;
    ptrdiff_t begin = task * BIAS_PIXELS, count = min_size(BIAS_PIXELS, b->pixels - begin);
    sum_parts(b->grad_output + begin * b->channels, count, b->channels, 0, b->channels,
              b->parts + task * b->channels);
}

static int bias_gradient(ptrdiff_t pixels, ptrdiff_t channels, const real *grad_output, real *grad_bias) {
    ptrdiff_t tasks = ceil_div(pixels, BIAS_PIXELS);
    if (!tasks || !channels) {
        memset(grad_bias, 0, (size_t)channels * sizeof(real));
        return PYCONV_OK;
    }
    size_t bytes = (size_t)(tasks * channels) * sizeof(real);
    struct bias_gradient b = {pixels, channels, grad_output, pyconv_alloc(bytes)};
    if (!b.parts) return PYCONV_NO_MEMORY;
    int status = parallel_run(tasks, (double)pixels * (double)channels / LANES, 0, run_bias, &b);
    sum_parts(b.parts, tasks, channels, 0, channels, grad_bias);
    pyconv_free(b.parts, bytes);
    return status;
}

static int grad_weight(const struct pyconv_conv2d *g, const void *grad_output, const void *input,
                       void *result, void *grad_bias, enum pyconv_conv_algorithm algorithm) {
    algorithm = resolve(g, PYCONV_GRAD_WEIGHT, algorithm);
    int status = PYCONV_OK;
    if (grad_bias)
        status =
            bias_gradient(g->batch * g->out_height * g->out_width, g->out_channels, grad_output, grad_bias);
    if (status != PYCONV_OK || !result) return status;
    if (algorithm == PYCONV_CONV_DEPTHWISE)
        return VARIANT(grad_weight_depthwise)(g, grad_output, input, result);
    if (algorithm == PYCONV_CONV_WINOGRAD)
        return VARIANT(grad_weight_winograd)(g, grad_output, input, result);
    enum lanes_of lanes = weight_lanes(g);
    if (lanes == FILTERS) return VARIANT(grad_weight_direct)(g, grad_output, input, result);
    size_t bytes;
    struct tap *tap = alloc_taps(g, &bytes);
    if (!tap) return PYCONV_NO_MEMORY;
    struct correlation c = forward_correlation(g, input, NULL, &no_epilogue, NULL, tap);
    status = lanes == PIXELS ? VARIANT(grad_weight_planar)(&c, grad_output, result)
                             : VARIANT(grad_weight_grouped)(&c, grad_output, result);
    pyconv_free(tap, bytes);
    return status;
}

/* ---- What a call would take ---- */

static void add_correlation(const struct correlation *c, enum pyconv_conv_algorithm algorithm,
                            struct workspace *most) {
    if (!c->taps || !c->src_channels || !c->dst_channels || !c->dst_height || !c->dst_width || !c->batch)
        return;
    struct workspace bytes = {0, 0}; /* depthwise: a copy of the weight */
    if (algorithm == PYCONV_CONV_WINOGRAD) bytes = VARIANT(correlate_winograd_workspace)(c);
    if (algorithm == PYCONV_CONV_DIRECT) bytes = VARIANT(correlate_direct_workspace)(c);
    if (bytes.shared > most->shared) most->shared = bytes.shared;
    if (bytes.scratch > most->scratch) most->scratch = bytes.scratch;
}

static struct workspace weight_workspace(const struct pyconv_conv2d *g, enum pyconv_conv_algorithm algorithm,
                                         struct tap *tap) {
    if (algorithm == PYCONV_CONV_WINOGRAD) return VARIANT(grad_weight_winograd_workspace)(g);
    if (algorithm != PYCONV_CONV_DIRECT) return (struct workspace){0, 0}; /* depthwise: parts of the weight */
    enum lanes_of lanes = weight_lanes(g);
    if (lanes == FILTERS) return VARIANT(grad_weight_direct_workspace)(g);
    struct correlation c = forward_correlation(g, NULL, NULL, &no_epilogue, NULL, tap);
    return lanes == PIXELS ? VARIANT(grad_weight_planar_workspace)(&c)
                           : VARIANT(grad_weight_grouped_workspace)(&c);
}

static int explain(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                   enum pyconv_conv_algorithm asked, struct pyconv_conv_plan *plan) {
    enum pyconv_conv_algorithm algorithm = resolve(g, pass, asked);
    size_t size;
    struct tap *tap = alloc_taps(g, &size);
    if (!tap) return PYCONV_NO_MEMORY;
    struct workspace bytes = {0, 0};
    ptrdiff_t prepared = 0;
    int empty = !g->batch || !g->in_channels || !g->out_channels || !g->out_height || !g->out_width;
    if (empty) {
    } else if (pass == PYCONV_GRAD_WEIGHT) {
        bytes = weight_workspace(g, algorithm, tap);
    } else if (algorithm == PYCONV_CONV_SCATTER) {
        bytes = VARIANT(grad_input_scatter_workspace)(g);
    } else if (pass == PYCONV_FORWARD) {
        struct correlation c = forward_correlation(g, NULL, NULL, &no_epilogue, NULL, tap);
        add_correlation(&c, algorithm, &bytes);
        if (algorithm == PYCONV_CONV_WINOGRAD) prepared = VARIANT(winograd_prepared)(&c);
        if (algorithm == PYCONV_CONV_DIRECT) prepared = VARIANT(direct_prepared)(&c);
    } else if (algorithm == PYCONV_CONV_WINOGRAD && is_strided(g)) {
        struct correlation c = spread_correlation(g, NULL, NULL, NULL, tap);
        add_correlation(&c, algorithm, &bytes);
    } else {
        ptrdiff_t rows = min_size(g->stride_height, g->in_height),
                  columns = min_size(g->stride_width, g->in_width);
        for (ptrdiff_t i = 0; i < rows * columns; i++) {
            struct correlation c = grad_input_correlation(g, i / columns, i % columns, NULL, NULL, NULL, tap);
            add_correlation(&c, algorithm, &bytes);
        }
    }
    pyconv_free(tap, size);
    *plan =
        (struct pyconv_conv_plan){algorithm,     empty ? 0 : cycles(g, pass, algorithm), LANES, bytes.shared,
                                  bytes.scratch, (size_t)prepared * sizeof(real)};
    return PYCONV_OK;
}

const struct pyconv_conv_kernels KERNELS(conv) = {forward, grad_input, grad_weight, prepare, explain};
