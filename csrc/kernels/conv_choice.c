/* Convolution: which algorithm computes a pass, and why. */
#include "conv.h"
#include "conv_dot.h"
#include "conv_planar.h"
#include "conv_planes.h"
#include "correlation.h"
#include "winograd.h"
#include "winograd_line.h"
#include "winograd_strided.h"

#define MOST_SQUARE_TAPS 25

/* ---- What an algorithm can do ---- */

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

/* Of groups, each has tiles of its own, which is worth it where it fills more than a vector, or for the
 * weight's gradient one. */
static int fits_winograd(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    if (!REAL_IS_FLOAT) return 0;
    int dense = g->stride_height == 1 && g->stride_width == 1;
    if (g->groups > 1) {
        ptrdiff_t channels = min_size(g->in_channels, g->out_channels) / g->groups;
        return dense && is_square(g->kernel_height, g->kernel_width) &&
               (pass == PYCONV_GRAD_WEIGHT ? channels >= LANES : channels > LANES);
    }
    return is_strided(g) || (dense && (is_square(g->kernel_height, g->kernel_width) || fits_lines(g, pass)));
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
#define PRODUCT_EFFICIENCY 0.8 /* and of sums over pixels */
#define DEPTHWISE_EFFICIENCY 0.6
#define TRANSFORM_INPUT 130.0  /* cycles for LANES channels of a tile */
#define TRANSFORM_OUTPUT 110.0 /* for LANES filters of a tile */
#define TRANSFORM_FILTER 220.0 /* for LANES filters on one channel, the transposition included */
#define SEVEN_CHUNKS 1.15      /* seven points: chunks are shorter, transforms longer */
#define STRIDED_TILE 350.0     /* for LANES channels or filters of a tile of 81 planes */
#define LINE_TILE 120.0        /* for LANES channels of a tile of seven points, to or from memory */
#define LINE_FILTER 200.0      /* for LANES filters on one channel and four taps, and */
#define LINE_WEIGHT 130.0      /* for their gradient */
#define SCATTER_VECTOR 4.0     /* load, add, store */
#define SCATTER_PACK 4.0       /* for each weight, one by one */
#define GATHER_STORE 3.0       /* for LANES filters of a pixel: what a tile takes besides its products */
#define DOT_EFFICIENCY 0.8
#define DOT_STORE 5.0 /* for an output: the sum of its lanes */
#define DOT_COPY 2.0  /* for LANES channels of a source pixel */
#define PLANAR_EFFICIENCY 0.35
#define PLANAR_STORE 13.0  /* for LANES pixels of an output */
#define PRODUCT_STORE 8.0  /* the same of Winograd's products, as so many more channels */
#define PACK_FILTERS 24.0  /* for LANES filters on one channel and tap, and */
#define PACK_RESIDUES 35.0 /* where each residue of a stride packs its own */
#define LONE_VECTORS 1.2   /* tiles of a single vector, which are read line by line */
#define L2_BYTES 1.9e6
#define L3_BYTES 16.0 /* a cycle */
#define FILTER_TIMES 7.0

static double beyond_l2(double bytes) { return bytes > L2_BYTES ? bytes - L2_BYTES : 0; }

/* What a forward pass, or (`back`) the input's gradient, sums and makes, and from where. Of a stride, the
 * gradient has a part for each residue, and these together all taps. */
struct image_work {
    ptrdiff_t from, to;     /* channels of a group */
    ptrdiff_t rows, length; /* of the kernel, or of the largest residue's; length: 1 where taps lie apart */
    ptrdiff_t steps;        /* stride_height * stride_width: pixels that one step leads past */
    double lines;           /* of the image, or of a residue of it */
    ptrdiff_t columns;
};

static struct image_work image_work(const struct pyconv_conv2d *g, int back) {
    ptrdiff_t in = g->in_channels / g->groups, out = g->out_channels / g->groups;
    struct image_work w = {.from = back ? out : in, .to = back ? in : out};
    w.rows = g->kernel_height, w.length = g->kernel_width, w.steps = g->stride_height * g->stride_width;
    if (back) w.rows = ceil_div(w.rows, g->stride_height), w.length = ceil_div(w.length, g->stride_width);
    if (g->dilation_width > 1) w.rows *= w.length, w.length = 1;
    w.lines = (double)(g->batch * (back ? ceil_div(g->in_height, g->stride_height) : g->out_height));
    w.columns = back ? ceil_div(g->in_width, g->stride_width) : g->out_width;
    return w;
}

static double dot_cycles(const struct pyconv_conv2d *g, const struct image_work *w, int back) {
    ptrdiff_t parts = back ? w->steps : 1;
    double products = (double)(parts * dot_vectors(w->rows, w->length, w->from) * w->to) / 2 / DOT_EFFICIENCY;
    double pixel = products + DOT_STORE * (double)(parts * w->to) +
                   DOT_COPY * (double)(w->steps * ceil_div(w->from, LANES));
    return w->lines * (double)w->columns * pixel +
           SCATTER_PACK * (double)(g->kernel_height * g->kernel_width * w->from * w->to);
}

static double direct_cycles(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    const int back = pass == PYCONV_GRAD_INPUT;
    const struct image_work w = image_work(g, back);
    double taps = (double)(g->kernel_height * g->kernel_width);
    double vectors = w.lines * (double)(w.columns * g->groups * ceil_div(w.to, LANES));
    if (pass == PYCONV_GRAD_WEIGHT) return vectors * taps * (double)w.from / 2 / PRODUCT_EFFICIENCY;
    if (is_dot(g->groups, w.rows, w.length, g->dilation_height, w.from, w.to)) return dot_cycles(g, &w, back);
    if (is_planar(g->groups, back ? 1 : g->stride_width, (ptrdiff_t)taps, w.from, w.to,
                  back ? g->in_width : g->out_width))
        return w.lines * (double)(ceil_div(w.columns, LANES) * w.to) *
               (taps * (double)w.from / 2 / PLANAR_EFFICIENCY + PLANAR_STORE);
    double products = vectors * (taps * (double)w.from / 2 / GATHER_EFFICIENCY + GATHER_STORE);
    double weights = taps * (double)w.from * (double)(g->groups * ceil_div(w.to, LANES)),
           bytes = weights * VECTOR_BYTES;
    double packing = pass == PYCONV_FORWARD_PREPARED ? 0
                     : back && g->stride_width > 1   ? PACK_RESIDUES
                                                     : PACK_FILTERS;
    return products + packing * weights + (double)g->batch * beyond_l2(bytes) / L3_BYTES;
}

static double scatter_cycles(const struct pyconv_conv2d *g) {
    double rows = (double)(g->batch * g->out_height), pixels = rows * (double)g->out_width;
    ptrdiff_t run = g->kernel_width * g->in_channels;
    double vectors = (double)(ceil_div(g->kernel_height * run, LANES) * g->out_channels);
    double travel =
        rows * (double)ceil_div(g->out_width, TILE) * beyond_l2(vectors * VECTOR_BYTES) / L3_BYTES;
    return pixels * (vectors / 2 / PRODUCT_EFFICIENCY +
                     SCATTER_VECTOR * (double)(g->kernel_height * ceil_div(run, LANES))) +
           SCATTER_PACK * (double)(g->kernel_height * run) * (double)g->out_channels + travel;
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
    double filter = pass == PYCONV_FORWARD_PREPARED ? 0
                    : pass == PYCONV_GRAD_WEIGHT    ? LINE_WEIGHT
                                                    : LINE_FILTER;
    return products + LINE_TILE * (v_tiles * from_vectors + m_tiles * to_vectors) +
           filter * taps * (double)from * to_vectors;
}

/* What exceeds L2 comes from L3: transformed filters for every group of tiles, after they were written, which
 * takes as long as FILTER_TIMES of these (81 matrices of 512 x 512 fill 85 MB: Zen 3); and a group's tiles
 * for every block of filters, in streams so short that each byte costs thrice. Or, where each block of
 * filters is made where it is used, all tiles for every block, which square kernels fetch in time.
 */
static double travel_cycles(double tiles, double planes, double matrices, ptrdiff_t from, ptrdiff_t to) {
    double filter_bytes = matrices * (double)from * (double)to * sizeof(real), blocks = (double)to / BLOCK;
    double tile_bytes = planes * (double)from * sizeof(real), group = tiles < TILE ? tiles : TILE;
    double again = beyond_l2(tile_bytes * group) > 0 ? 3 * tile_bytes * tiles * blocks : 0;
    double times = tiles < TILE ? tiles / TILE : tiles / TILE + FILTER_TIMES;
    double travel = beyond_l2(filter_bytes) * times + again;
    if (planes == matrices && tile_bytes * tiles <= MOST_SHARED && tile_bytes * tiles * blocks < travel)
        travel = tile_bytes * tiles * blocks;
    return travel / L3_BYTES;
}

/* Whether filters that are not going to change stay transformed, see winograd_prepared. */
static int keeps_filters(const struct pyconv_conv2d *g) {
    if (!g->batch || !g->in_channels || !g->out_channels || !g->out_height || !g->out_width) return 0;
    struct tap tap[MOST_SQUARE_TAPS];
    struct correlation c = forward_correlation(g, NULL, NULL, NULL, NULL, tap);
    return VARIANT(winograd_prepared)(&c) > 0;
}

/* The tiles of a pass, and what their transforms take: cycles for LANES channels of a tile, LANES filters of
 * one, and LANES filters on one channel. */
struct tile_work {
    double tiles, planes, matrices, make, put, filter;
};

/* Of the weight's gradient, tiles are made again for every 64 channels or filters of the other side; few
 * tiles of so few of both are one task, for which the other cores wait. */
static double tiles_cycles(const struct tile_work *w, ptrdiff_t from, ptrdiff_t to,
                           enum pyconv_conv_pass pass) {
    double from_vectors = (double)ceil_div(from, LANES), to_vectors = (double)ceil_div(to, LANES);
    double products =
        w->planes * w->tiles * ((double)from + PRODUCT_STORE) * to_vectors / 2 / PRODUCT_EFFICIENCY;
    double filters = (double)from * to_vectors * w->filter;
    if (pass == PYCONV_GRAD_WEIGHT) {
        double from_blocks = (double)ceil_div(from, 64), to_blocks = (double)ceil_div(to, 64);
        double all =
            products + filters + w->tiles * w->make * (from_vectors * to_blocks + to_vectors * from_blocks);
        return from_blocks * to_blocks == 1 && w->tiles < 64 ? 2 * all : all;
    }
    return products + filters + w->tiles * (w->make * from_vectors + w->put * to_vectors) +
           travel_cycles(w->tiles, w->planes, w->matrices, from, to);
}

static double square_cycles(const struct square *s, enum pyconv_conv_pass pass, int points) {
    double area = points * points, scale = area / 36;
    struct tile_work w = {.tiles = (double)square_tiles(s, points).tiles,
                          .planes = area,
                          .matrices = area,
                          .make = scale * TRANSFORM_INPUT,
                          .put = scale * TRANSFORM_OUTPUT,
                          .filter = pass == PYCONV_FORWARD_PREPARED ? 0 : scale * TRANSFORM_FILTER};
    return tiles_cycles(&w, s->from, s->to, pass) * (points == 7 ? SEVEN_CHUNKS : 1);
}

/* The more points, the more rounding: see winograd_is_exact_enough for the weight's gradient; the other
 * passes stay below 1.4e-6 with so many channels. */
#define SIX_PIXELS 600           /* of a 3x3 kernel's gradient; five points do with */
#define FIVE_PIXELS 169          /* that even the outer taps see */
#define SEVEN_CHANNELS (512 * 3) /* times taps: 5x5 kernels have a little more */
#define SEVEN_PIXELS 5600
#define SEVEN_TILES 48 /* of fewer, two cores with their own copies of the larger filters lose 25 % */

/* Four points have the fewest filters to make and to read, but the most products, which are dearer than the
 * model has them: what it finds sooner by a tenth is so. */
#define FOUR_GAIN 0.9

int VARIANT(square_points)(const struct square *s, enum pyconv_conv_pass pass) {
    ptrdiff_t pixels = s->batch * s->height * s->width;
    if (pass == PYCONV_GRAD_WEIGHT && s->taps == 3 && pixels < SIX_PIXELS) return 5;
    int exact = pass == PYCONV_GRAD_WEIGHT ? pixels >= SEVEN_PIXELS : s->from * s->taps <= SEVEN_CHANNELS;
    double six = square_cycles(s, pass, 6);
    if (pass != PYCONV_GRAD_WEIGHT && s->taps == 3 && square_cycles(s, pass, 4) < FOUR_GAIN * six) return 4;
    if (square_tiles(s, 7).tiles < SEVEN_TILES) return 6;
    return exact && square_cycles(s, pass, 7) < six ? 7 : 6;
}

static double group_cycles(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    if (!is_strided(g) && !is_square(g->kernel_height, g->kernel_width)) return line_cycles(g, pass);
    if (pass == PYCONV_FORWARD_PREPARED && !keeps_filters(g)) pass = PYCONV_FORWARD;
    struct square s = square_of(g, pass == PYCONV_GRAD_INPUT);
    if (!is_strided(g))
        return square_cycles(&s, pass,
                             VARIANT(square_points)(&s, pass == PYCONV_GRAD_WEIGHT ? pass : PYCONV_FORWARD));
    ptrdiff_t step = pass == PYCONV_GRAD_INPUT ? 2 : 1; /* a tile of the gradient holds all residues */
    struct tiling tiling = cut_tiles(SIDE, s.batch, ceil_div(s.height, step), ceil_div(s.width, step),
                                     s.dilation_height, s.dilation_width);
    struct tile_work w = {.tiles = (double)tiling.tiles,
                          .planes = STRIDED_PLANES,
                          .matrices = STRIDED_MATRICES,
                          .make = STRIDED_TILE,
                          .put = STRIDED_TILE,
                          .filter = pass == PYCONV_FORWARD_PREPARED ? 0 : TRANSFORM_FILTER};
    return tiles_cycles(&w, s.from, s.to, pass);
}

static double winograd_cycles(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    const struct pyconv_conv2d one = one_group(g);
    double cycles = (double)g->groups * group_cycles(&one, pass);
    return g->groups > 1 && one.in_channels <= LANES ? LONE_VECTORS * cycles : cycles;
}

/* Of planes: tiles are TILE outputs high, and lower ones wait for their few sums; rows of x are copies,
 * unless a 1x1 kernel reads the image as it is. Converting is as fast as L3 where both copies stay there. */
#define PLANES_EFFICIENCY 0.8
#define PANELS_EFFICIENCY 0.85 /* of copied panels */
#define PANELS_COPY 3.0        /* for LANES pixels of a row of these, */
#define PLANES_COPY 8.0        /* of x; and for */
#define PLANES_LINE 40.0       /* a line of the image, where shares of the outputs copy it again */
#define PLANES_STORE 3.0       /* of an output */
#define PLANES_WEIGHT 1.0      /* for a weight that is put where it is used, and */
#define FAR_WEIGHT 5.0         /* beyond NEAR_WEIGHTS, which stay in L2 */
#define NEAR_WEIGHTS 200e3
#define DOTS_EFFICIENCY 0.8
#define DOTS_SUM 4.0      /* for a weight's gradient, a block of pixels */
#define SPREAD_BYTES 8.0  /* a cycle, of the gradient of an input of which few pixels are read, */
#define WINDOW_BYTES 10.0 /* of tiles of planes, */
#define CONVERT_BYTES 4.0 /* from one memory format to the other, */
#define NEAR_BYTES 8e6    /* of an array that is so small, and */
#define FAR_BYTES 3.0     /* what is beyond takes so much longer */

/* Of a depthwise kernel, each plane takes some cycles besides: as many as 7 x 7 pixels, or more where its
 * rows are laid out first. */
#define DEPTHWISE_TAP 1.0    /* for LANES pixels of a row, */
#define DEPTHWISE_PAIRS 6.0  /* for as many of the source that a stride of 2 takes apart, */
#define DEPTHWISE_PLANE 75.0 /* and */
#define LAID_TAP 1.3
#define LAID_PLANE 300.0

static double depthwise_planes_cycles(const struct pyconv_conv2d *g) {
    const double planes = (double)(g->batch * g->groups), taps = (double)(g->kernel_height * g->kernel_width);
    const double rows = (double)(g->out_height * ceil_div(g->out_width, LANES)),
                 step = (double)g->stride_height;
    if (!walks_planes(g)) return planes * (rows * taps * LAID_TAP + LAID_PLANE);
    return planes *
           (rows * (taps * DEPTHWISE_TAP + (step > 1 ? step * DEPTHWISE_PAIRS : 0)) + DEPTHWISE_PLANE);
}

static double image_bytes(ptrdiff_t batch, ptrdiff_t channels, ptrdiff_t pixels) {
    return (double)(batch * pixels) * (double)channels * sizeof(real);
}

static double planes_cycles(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    if (is_depthwise(g)) return depthwise_planes_cycles(g);
    const int back = pass == PYCONV_GRAD_INPUT, strided = g->stride_height * g->stride_width > 1;
    const struct image_work w = image_work(g, back);
    ptrdiff_t from = w.from, to = w.to, taps = g->kernel_height * g->kernel_width;
    ptrdiff_t width = w.columns,
              area = (back ? ceil_div(g->in_height, g->stride_height) : g->out_height) * width;
    double depth = (double)(taps * from), images = (double)(g->batch * g->groups);
    double vectors = images * (double)ceil_div(area, LANES);
    int plain = taps == 1 && (back || !strided) && !g->pad_top && !g->pad_left;
    ptrdiff_t height = (g->kernel_height - 1) * g->dilation_height / (back ? g->stride_height : 1) + 1;
    ptrdiff_t reach = (g->kernel_width - 1) * g->dilation_width / (back ? g->stride_width : 1) + 1;
    const int lines = takes_lines(back ? w.rows * w.length : taps, from, width, to, height,
                                  width * (back ? 1 : g->stride_width) + reach);
    if (lines) vectors = images * (double)(area / width * ceil_div(width, LANES));
    double copy = plain || lines ? 0 : PLANES_COPY;
    if (pass == PYCONV_GRAD_WEIGHT) {
        double rows = (double)(ceil_div(to, WIDEST_TILE) * WIDEST_TILE);
        return depth * (vectors * (rows / 2 / DOTS_EFFICIENCY + copy) +
                        DOTS_SUM * images * (double)(ceil_div(area, DOTS_PIXELS) * to));
    }
    ptrdiff_t pixels = planes_pixels(g->batch * g->groups, area, planes_channels(from, taps) * taps);
    ptrdiff_t splits = planes_splits(g->batch * g->groups * ceil_div(area, pixels), to);
    const int panels = plain && !strided && copies_panels(to / splits);
    if (panels)
        copy = PANELS_COPY * (double)splits;
    else if (copy > 0)
        copy += (double)(splits - 1) *
                (copy + PLANES_LINE * (double)(area / width) / (double)ceil_div(area, LANES));
    double efficiency = panels ? PANELS_EFFICIENCY : PLANES_EFFICIENCY;
    double rows = (double)(to / WIDE_TILE * WIDE_TILE + (to % WIDE_TILE ? max_size(to % WIDE_TILE, 3) : 0));
    double spread = back && strided ? image_bytes(g->batch, g->in_channels, g->in_height * g->in_width) : 0;
    double weights = back ? depth * (double)(to * g->groups) : 0;
    double far = weights > NEAR_WEIGHTS ? FAR_WEIGHT * (weights - NEAR_WEIGHTS) : 0;
    return vectors * (depth * (rows / 2 / efficiency + copy) + PLANES_STORE * (double)to) +
           PLANES_WEIGHT * weights + far + spread / SPREAD_BYTES;
}

static double convert_cycles(ptrdiff_t batch, ptrdiff_t channels, ptrdiff_t pixels) {
    if (channels <= 1 || pixels <= 1) return 0;
    double bytes = image_bytes(batch, channels, pixels);
    return bytes / CONVERT_BYTES + (bytes > NEAR_BYTES ? (bytes - NEAR_BYTES) / FAR_BYTES : 0);
}

/* Of copies from and to planes, for an algorithm that is not for these. */
static double copies_cycles(const struct pyconv_conv2d *g, enum pyconv_conv_algorithm algorithm) {
    const ptrdiff_t in = g->in_height * g->in_width, out = g->out_height * g->out_width;
    if (algorithm == PYCONV_CONV_WINOGRAD && has_windows(g))
        return (image_bytes(g->batch, g->in_channels, in) + image_bytes(g->batch, g->out_channels, out)) /
               WINDOW_BYTES;
    return convert_cycles(g->batch, g->in_channels, in) + convert_cycles(g->batch, g->out_channels, out);
}

double VARIANT(conv_cycles)(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                            enum pyconv_conv_algorithm algorithm) {
    switch (algorithm) {
    case PYCONV_CONV_WINOGRAD: return winograd_cycles(g, pass);
    case PYCONV_CONV_SCATTER: return scatter_cycles(g);
    case PYCONV_CONV_PLANES: return planes_cycles(g, pass);
    case PYCONV_CONV_DEPTHWISE: /* bound by loads, two a cycle, and by memory */
        return direct_cycles(g, pass) * GATHER_EFFICIENCY / LANES / DEPTHWISE_EFFICIENCY;
    default: return direct_cycles(g, pass);
    }
}

/* Winograd's gradient of the weight has a relative RMS error of 5e-7 for few pixels, which grows to 6e-7
 * (7e-7 unless it is 3x3; with seven points 1.1e-6, with five 2.2e-7 to 3e-7), where a plain sum over n
 * pixels has 1.7e-8 sqrt(n), or a little less. It is chosen only where it is at most 1.5 times as large. */
static int winograd_is_exact_enough(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    if (pass != PYCONV_GRAD_WEIGHT) return 1;
    ptrdiff_t pixels = g->batch * g->out_height * g->out_width;
    if (g->kernel_height != 3 || g->kernel_width != 3) return pixels >= 1100;
    if (is_strided(g)) return pixels >= SIX_PIXELS;
    return g->batch * (g->out_height - 1) * (g->out_width - 1) >= FIVE_PIXELS;
}

static enum pyconv_conv_algorithm cheapest(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    if (is_depthwise(g)) return PYCONV_CONV_DEPTHWISE;
    enum pyconv_conv_algorithm best = PYCONV_CONV_DIRECT;
    double least = direct_cycles(g, pass);
    if (pass == PYCONV_GRAD_INPUT && fits_scatter(g) && scatter_cycles(g) < least)
        best = PYCONV_CONV_SCATTER, least = scatter_cycles(g);
    if (fits_winograd(g, pass) && winograd_is_exact_enough(g, pass) && winograd_cycles(g, pass) < least)
        best = PYCONV_CONV_WINOGRAD;
    return best;
}

#define MOST_PADDED_ROWS ((ptrdiff_t)1 << 20) /* elements of those that a depthwise kernel spans */

static int fits_planes(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass) {
    if (!g->batch || !g->in_channels || !g->out_channels || !g->out_height || !g->out_width) return 0;
    if (!is_depthwise(g))
        return g->kernel_height * g->kernel_width <= CHUNK &&
               (pass != PYCONV_GRAD_INPUT || has_residues(g) ||
                (g->stride_height == 1 && g->stride_width == 1));
    double rows = (double)(g->kernel_height * g->dilation_height + g->stride_height),
           columns = (double)(g->out_width * g->stride_width + g->kernel_width * g->dilation_width);
    return rows * columns < MOST_PADDED_ROWS;
}

/* Whether planes are read and written as they are, rather than converted. A prepared weight makes no
 * difference, so that it makes none to the bits of the result. */
static int takes_planes(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                        enum pyconv_conv_algorithm asked) {
    if (!g->planes || (asked != PYCONV_CONV_PLANES && asked != PYCONV_CONV_AUTO) || !fits_planes(g, pass))
        return 0;
    if (asked == PYCONV_CONV_PLANES) return 1;
    if (pass == PYCONV_FORWARD_PREPARED) pass = PYCONV_FORWARD;
    const enum pyconv_conv_algorithm other = cheapest(g, pass);
    return planes_cycles(g, pass) < VARIANT(conv_cycles)(g, pass, other) + copies_cycles(g, other);
}

enum pyconv_conv_algorithm VARIANT(choose_conv)(const struct pyconv_conv2d *g, enum pyconv_conv_pass pass,
                                                enum pyconv_conv_algorithm asked) {
    if (!g->in_height || !g->in_width) asked = PYCONV_CONV_DIRECT; /* nothing but padding */
    if (takes_planes(g, pass, asked)) return PYCONV_CONV_PLANES;
    if (asked == PYCONV_CONV_WINOGRAD && fits_winograd(g, pass)) return PYCONV_CONV_WINOGRAD;
    if (asked == PYCONV_CONV_SCATTER && pass == PYCONV_GRAD_INPUT && fits_scatter(g))
        return PYCONV_CONV_SCATTER;
    if (asked == PYCONV_CONV_DIRECT) return is_depthwise(g) ? PYCONV_CONV_DEPTHWISE : PYCONV_CONV_DIRECT;
    return cheapest(g, pass);
}
