/* What the convolution files of one variant share. */
#ifndef PYCONV_CONV_H
#define PYCONV_CONV_H

#include "pyconv.h"
#include "simd.h"
#include "tile.h"

struct correlation;

/* Bytes that an algorithm asks for: once a call, and once for each thread. */
struct workspace {
    size_t shared, scratch;
};

/* conv.c: convolution of channels-last images; see pyconv_conv_kernels. */
int VARIANT(conv_forward)(const struct pyconv_conv2d *, const void *input, const void *weight,
                          const void *prepared, const struct pyconv_epilogue *, void *output,
                          enum pyconv_conv_algorithm);
int VARIANT(conv_grad_input)(const struct pyconv_conv2d *, const void *grad_output, const void *weight,
                             const void *residual, void *result, enum pyconv_conv_algorithm);
int VARIANT(conv_grad_weight)(const struct pyconv_conv2d *, const void *grad_output, const void *input,
                              void *result, void *grad_bias, enum pyconv_conv_algorithm);
int VARIANT(conv_prepare)(const struct pyconv_conv2d *, const void *weight, void *prepared,
                          enum pyconv_conv_algorithm);
int VARIANT(conv_explain)(const struct pyconv_conv2d *, enum pyconv_conv_pass, enum pyconv_conv_algorithm,
                          struct pyconv_conv_plan *);

/* conv_choice.c: the algorithm that computes a pass, by the costs of those that can, unless one is asked for
 * that can; and these costs, in cycles of one core. */
enum pyconv_conv_algorithm VARIANT(choose_conv)(const struct pyconv_conv2d *, enum pyconv_conv_pass,
                                                enum pyconv_conv_algorithm asked);
double VARIANT(conv_cycles)(const struct pyconv_conv2d *, enum pyconv_conv_pass, enum pyconv_conv_algorithm);

/* The geometry of one of the groups. */
INLINE struct pyconv_conv2d one_group(const struct pyconv_conv2d *g) {
    struct pyconv_conv2d one = *g;
    one.groups = 1, one.in_channels /= g->groups, one.out_channels /= g->groups;
    return one;
}

/* One input and one output channel to a group */
INLINE int is_depthwise(const struct pyconv_conv2d *g) {
    return g->groups == g->in_channels && g->groups == g->out_channels && g->groups > 1;
}

/* Depthwise kernels for which planes are read as they lie (conv_depthwise_planes.c): squares of taps side by
 * side, and a stride of 1 or 2 in both directions. */
INLINE int walks_planes(const struct pyconv_conv2d *g) {
    ptrdiff_t kernel = g->kernel_height, step = g->stride_height;
    return (kernel == 3 || kernel == 5) && kernel == g->kernel_width && (step == 1 || step == 2) &&
           step == g->stride_width && g->dilation_height == 1 && g->dilation_width == 1;
}

#define MOST_STRIDE 8 /* whose residues conv_planes_spread.c puts together */

/* Strided convolutions, of whose input's gradient each residue of the stride is a plane of its own */
INLINE int has_residues(const struct pyconv_conv2d *g) {
    return (g->stride_height > 1 || g->stride_width > 1) && g->stride_height <= MOST_STRIDE &&
           g->stride_width <= MOST_STRIDE && !is_depthwise(g);
}

/* 3 x 3 kernels with a stride of 2, see conv_winograd_strided.c */
INLINE int is_strided(const struct pyconv_conv2d *g) {
    return g->stride_height == 2 && g->stride_width == 2 && g->kernel_height == 3 && g->kernel_width == 3 &&
           g->dilation_height == 1 && g->dilation_width == 1;
}

/* conv_direct.c: dst of a correlation with any geometry. */
int VARIANT(correlate_direct)(const struct correlation *);
struct workspace VARIANT(correlate_direct_workspace)(const struct correlation *);
/* Elements of the packed weights, and the packing of them for correlation.prepared. */
ptrdiff_t VARIANT(direct_prepared)(const struct correlation *);
int VARIANT(prepare_direct)(const struct correlation *, real *prepared);
/* Where a vector of filters of the first group lies in these: `pitch` elements from one (tap, channel) to the
 * next. */
struct column {
    real *first;
    ptrdiff_t pitch;
};
struct column VARIANT(direct_column)(const struct correlation *, real *prepared, ptrdiff_t vector);
/* conv_grouped.c: groups so small that several share a vector (`is_grouped`) */
int VARIANT(correlate_grouped)(const struct correlation *);
struct workspace VARIANT(correlate_grouped_workspace)(const struct correlation *);
/* conv_planar.c: few output channels (`is_planar`) */
int VARIANT(correlate_planar)(const struct correlation *);
struct workspace VARIANT(correlate_planar_workspace)(const struct correlation *);
/* conv_dot.c: few output channels from many (`is_dot`) */
int VARIANT(correlate_dot)(const struct correlation *);
struct workspace VARIANT(correlate_dot_workspace)(const struct correlation *);
/* conv_shallow.c: few source channels (`is_shallow`) */
int VARIANT(correlate_shallow)(const struct correlation *);
struct workspace VARIANT(correlate_shallow_workspace)(const struct correlation *);
/* conv_planar_weight.c: of the forward pass's correlation */
int VARIANT(grad_weight_planar)(const struct correlation *, const real *grad_output, real *grad_weight);
struct workspace VARIANT(grad_weight_planar_workspace)(const struct correlation *);
/* conv_grouped_weight.c: of the forward pass's correlation */
int VARIANT(grad_weight_grouped)(const struct correlation *, const real *grad_output, real *grad_weight);
struct workspace VARIANT(grad_weight_grouped_workspace)(const struct correlation *);
/* Partial sums of a weight's gradient, each over a share of the pixels, or of several weights' at once:
 * [set][part][group][block][tap][channel][BLOCK]. At most PARTS_BYTES in all, unless single parts are larger.
 */
struct weight_parts {
    ptrdiff_t sets, count, groups, blocks; /* blocks to a group */
    ptrdiff_t channels, filters;           /* of one group */
    ptrdiff_t area;                        /* taps */
    ptrdiff_t block_elements, part_elements;
    real *sums;
};

#define PARTS_BYTES ((ptrdiff_t)32 << 20)
#define MOST_WEIGHT_PARTS ((ptrdiff_t)32)
#define WEIGHT_PART_PIXELS 800 /* fewer would spend more on adding parts than on making them */

/* How many parts all pixels make: a power of two, which as many threads share evenly. */
INLINE ptrdiff_t even_parts(const struct pyconv_conv2d *g, ptrdiff_t most) {
    ptrdiff_t parts = 1, pixels = g->batch * g->out_height * g->out_width;
    while (2 * parts <= most && parts * WEIGHT_PART_PIXELS < pixels) parts *= 2;
    return parts;
}

INLINE struct weight_parts weight_parts(const struct pyconv_conv2d *g, ptrdiff_t sets, ptrdiff_t count) {
    struct weight_parts p = {.sets = sets, .groups = g->groups};
    p.channels = g->in_channels / g->groups;
    p.filters = g->out_channels / g->groups;
    p.area = g->kernel_height * g->kernel_width;
    p.blocks = ceil_div(p.filters, BLOCK);
    p.block_elements = p.area * p.channels * BLOCK;
    p.part_elements = p.groups * p.blocks * p.block_elements;
    p.count = max_size(min_size(count, PARTS_BYTES / (sets * p.part_elements * (ptrdiff_t)sizeof(real))), 1);
    return p;
}

INLINE size_t weight_parts_bytes(const struct weight_parts *p) {
    return (size_t)(p->sets * p->count * p->part_elements) * sizeof(real);
}

/* conv_direct_weight.c: grad_weight = the sum of the parts of one set in ascending order */
int VARIANT(sum_weight_parts)(const struct weight_parts *, real *grad_weight);
/* What the images add to the parts, or, where these are fresh, begin them with: for each set as many as the
 * geometry's batch, one set after another. */
struct weight_parts VARIANT(plan_weight_parts)(const struct pyconv_conv2d *, ptrdiff_t sets);
int VARIANT(add_weight_parts)(const struct pyconv_conv2d *, const real *grad_output, const real *input,
                              const struct weight_parts *, int fresh);
struct workspace VARIANT(add_weight_parts_workspace)(const struct pyconv_conv2d *,
                                                     const struct weight_parts *);
int VARIANT(grad_weight_direct)(const struct pyconv_conv2d *, const real *grad_output, const real *input,
                                real *grad_weight);
struct workspace VARIANT(grad_weight_direct_workspace)(const struct pyconv_conv2d *);
/* conv_pointwise_weight.c: 1x1 kernels that read nothing outside of the image */
int VARIANT(grad_weight_pointwise)(const struct pyconv_conv2d *, const real *grad_output, const real *input,
                                   real *grad_weight);
struct workspace VARIANT(grad_weight_pointwise_workspace)(const struct pyconv_conv2d *);
/* conv_scatter.c: one group, dilation 1 across. */
int VARIANT(grad_input_scatter)(const struct pyconv_conv2d *, const real *grad_output, const real *weight,
                                real *grad_input);
struct workspace VARIANT(grad_input_scatter_workspace)(const struct pyconv_conv2d *);
/* conv_depthwise.c: one input and one output channel to a group. */
int VARIANT(correlate_depthwise)(const struct correlation *);
int VARIANT(grad_input_depthwise)(const struct pyconv_conv2d *, const real *grad_output, const real *weight,
                                  real *grad_input);
/* conv_depthwise_weight.c; the second of at least LANES small planes to an image */
int VARIANT(grad_weight_depthwise)(const struct pyconv_conv2d *, const real *grad_output, const real *input,
                                   real *grad_weight);
int VARIANT(grad_weight_depthwise_bundles)(const struct pyconv_conv2d *, const real *grad_output,
                                           const real *input, real *grad_weight);
/* conv_depthwise_planes.c: the same of planes, input [batch][channels][in_height][in_width] and so on.
 * residual of the gradient: NULL, or what is added to it. */
int VARIANT(depthwise_planes)(const struct pyconv_conv2d *, const real *input, const real *weight,
                              const struct pyconv_epilogue *, real *output);
int VARIANT(grad_input_depthwise_planes)(const struct pyconv_conv2d *, const real *grad_output,
                                         const real *weight, const real *residual, real *grad_input);
/* conv_depthwise_planes_weight.c */
int VARIANT(grad_weight_depthwise_planes)(const struct pyconv_conv2d *, const real *grad_output,
                                          const real *input, real *grad_weight);

/* conv_planes.c: a correlation of planes, whose strides of channels-last memory don't count; step any, spread
 * 1, and a destination without gaps */
int VARIANT(correlate_planes)(const struct correlation *);
struct workspace VARIANT(correlate_planes_workspace)(const struct correlation *);
/* conv_planes_spread.c: convolutions of planes that have residues */
int VARIANT(grad_input_spread)(const struct pyconv_conv2d *, const real *grad_output, const real *weight,
                               const real *residual, real *grad_input);
struct workspace VARIANT(grad_input_spread_workspace)(const struct pyconv_conv2d *);
/* conv_planes_weight.c: of the forward pass's correlation of planes; of planes */
int VARIANT(grad_weight_planes)(const struct correlation *, const real *grad_output, real *grad_weight);
struct workspace VARIANT(grad_weight_planes_workspace)(const struct correlation *);
int VARIANT(grad_bias_planes)(const struct pyconv_conv2d *, const real *grad_output, real *grad_bias);

/* conv_winograd.c: step 1, or 3x3 taps of step or spread 2; one group. */
int VARIANT(correlate_winograd)(const struct correlation *);
struct workspace VARIANT(correlate_winograd_workspace)(const struct correlation *);
/* Elements of the transformed filters, 0 where they are not worth their memory; the transformation. */
ptrdiff_t VARIANT(winograd_prepared)(const struct correlation *);
int VARIANT(prepare_winograd)(const struct correlation *, real *prepared);
/* conv_choice.c: six or seven, whichever costs a pass less. */
struct square;
int VARIANT(square_points)(const struct square *, enum pyconv_conv_pass);
/* conv_winograd_weight.c: the same geometries */
int VARIANT(grad_weight_winograd)(const struct pyconv_conv2d *, const real *grad_output, const real *input,
                                  real *grad_weight);

struct workspace VARIANT(grad_weight_winograd_workspace)(const struct pyconv_conv2d *);
/* conv_winograd_line.c, conv_winograd_line_weight.c: any other kernel, see winograd_line.h */
int VARIANT(correlate_line)(const struct correlation *);
struct workspace VARIANT(correlate_line_workspace)(const struct correlation *);
ptrdiff_t VARIANT(line_prepared)(const struct correlation *);
int VARIANT(prepare_line)(const struct correlation *, real *prepared);
int VARIANT(grad_weight_line)(const struct pyconv_conv2d *, const real *grad_output, const real *input,
                              real *grad_weight);
struct workspace VARIANT(grad_weight_line_workspace)(const struct pyconv_conv2d *);

/* Pixels a multiple of this many bytes apart lie on so few sets of L1 (a page has one line of each) that a
 * tile's would push each other out: they are copied to a pitch that is odd in cache lines, or packed. */
#define ALIAS_BYTES 2048

/* A core's arithmetic, for deciding how many threads a call is worth: multiply-adds to nanoseconds. */
#define MULTIPLY_ADDS_PER_NANOSECOND (LANES * 3.0)

/* sum over `parts` of parts[p][i], in ascending p: the fixed order that makes results reproducible. */
INLINE void sum_parts(const real *parts, ptrdiff_t count, ptrdiff_t pitch, ptrdiff_t begin, ptrdiff_t end,
                      real *total) {
    ptrdiff_t i = begin;
    for (; i + 4 * LANES <= end; i += 4 * LANES) {
        vec sum[4];
        UNROLL for (int v = 0; v < 4; v++) sum[v] = load(parts + i + v * LANES);
        for (ptrdiff_t p = 1; p < count; p++)
            UNROLL for (int v = 0; v < 4; v++) sum[v] += load(parts + p * pitch + i + v * LANES);
        UNROLL for (int v = 0; v < 4; v++) store(total + i + v * LANES, sum[v]);
    }
    for (; i < end; i += LANES) {
        ptrdiff_t lanes = min_size(LANES, end - i);
        vec sum = load_first(parts + i, lanes);
        for (ptrdiff_t p = 1; p < count; p++) sum += load_first(parts + p * pitch + i, lanes);
        store_first(total + i, sum, lanes);
    }
}

#endif
