/* Winograd's gradient of the weight: 3x3 kernels as F(3x3, 3x3), F(3x3, 4x4) or F(3x3, 5x5), 5x5 as F(5x5,
 * 2x2) or F(5x5, 3x3), and 3x3 ones with a stride of 2 (winograd_strided.h).
 *
 *     V[p][t][c] = input tile t transformed                                 (B^T d B)
 *     D[p][t][k] = output gradient tile t, transformed as a filter          (G g G^T)
 *     M[q][c][k] = sum over tiles t and the planes p of matrix q of V[p][t][c] * D[p][t][k]
 *     grad_weight[k][c] = M transformed back to 3x3 (5x5)                   (A^T M A)
 *
 * A task owns CHANNELS x FILTERS of M (36 * 64 * 64 * 4 = 576 KiB, in L2 from its first tile to its last) and
 * a share of the tiles, some at a time (32 of 36 planes: V and D are 2 * 36 * 32 * 80 * 4 = 720 KiB; of one
 * point all three are 36 KiB, near L1), of one group of channels. Where there are few such blocks, the tiles
 * are cut into `parts`, each of which is transformed back and added to the others in ascending order: so any
 * number of threads gives the same bits.
 */
#include "conv.h"
#include "parallel.h"
#include "tile.h"
#include "winograd.h"
#include "winograd_image.h"
#include "winograd_strided.h"

#define CHANNELS ((ptrdiff_t)64)
#define FILTERS max_size(64, BLOCK)
#define TASKS_WANTED 16
#define FEW_TASKS 4        /* at least */
#define STRETCHES_WANTED 3 /* of tiles at a time, to a part */
/* Fewer have half as many tiles at a time, and an error of 5e-7 instead of 6e-7: as they must, to be
 * within 1.5 times that of a plain sum. (With five points there are always fewer.) */
#define FEW_PIXELS 1200
#define MOST_MERGED (SIDE * SIDE) /* planes of one matrix */

/* The tiles of a kernel. */
struct weight_kind {
    int side, step,
        span; /* of a tile, in one direction: outputs, inputs from one to the next, inputs in all */
    int planes, matrices;
    ptrdiff_t tiles; /* at a time, at most */
    int (*matrix)(int plane);
    /* One vector of channels, or filters, of one tile; one of M (`plane`: elements between planes) */
    tile_transform *transform_input;
    tile_transform *transform_gradient;
    void (*transform_products)(const real *m, ptrdiff_t plane, vec *taps);
};

static int own_matrix(int plane) { return plane; }

TILE_TRANSFORM(strided_input, image_planes(t))
TILE_TRANSFORM(strided_gradient, gradient_tile_planes(t))
static void strided_taps(const real *m, ptrdiff_t plane, vec *taps) { tap_outputs(m, plane, taps); }
static const struct weight_kind strided = {SIDE,
                                           2,
                                           SPAN,
                                           STRIDED_PLANES,
                                           STRIDED_MATRICES,
                                           12,
                                           strided_matrix,
                                           strided_input,
                                           strided_gradient,
                                           strided_taps};

/* The kind for `points` and `taps` in one direction. */
#define KIND(name, points, taps, tiles)                                                                      \
    TILE_TRANSFORM(name##_input, transform_input_tile(points, taps - 1, t))                                  \
    TILE_TRANSFORM(name##_gradient, transform_gradient_tile(points, points + 1 - taps, t))                   \
    static void name##_taps(const real *m, ptrdiff_t plane, vec *out) {                                      \
        transform_output_tile(points, taps, m, plane, out);                                                  \
    }                                                                                                        \
    static const struct weight_kind name = {points + 1 - taps, 1,          points,     points * points,      \
                                            points * points,   tiles,      own_matrix, name##_input,         \
                                            name##_gradient,   name##_taps};
KIND(five_3x3, 5, 3, 20)
KIND(six_3x3, 6, 3, 32)
KIND(seven_3x3, 7, 3, 16)
KIND(six_5x5, 6, 5, 32)
KIND(seven_5x5, 7, 5, 16)

static const struct weight_kind *kind_of(const struct pyconv_conv2d *g) {
    if (g->stride_height == 2) return &strided;
    const struct pyconv_conv2d one = one_group(g);
    struct square square = square_of(&one, 0);
    switch (VARIANT(square_points)(&square, PYCONV_GRAD_WEIGHT)) {
    case 5: return &five_3x3;
    case 6: return square.taps == 3 ? &six_3x3 : &six_5x5;
    default: return square.taps == 3 ? &seven_3x3 : &seven_5x5;
    }
}

struct winograd_weight {
    const struct pyconv_conv2d *g;
    struct weight_parts parts;
    const struct weight_kind *kind;
    struct tiling tiling;
    struct tile_image input, gradient;
    ptrdiff_t together;                                         /* tiles at a time */
    ptrdiff_t channel_blocks, filter_blocks, channels, filters; /* channels, filters: of the largest block */
    ptrdiff_t v_pitch, d_pitch;
    ptrdiff_t v_plane, d_plane, m_plane; /* elements from one plane to the next: odd in cache lines */
    ptrdiff_t window;                    /* elements of each task's, for planes */
    struct finite *finite;
};

#define OUTER(m, vectors)                                                                                    \
    tile_outer(m, vectors, 0, segment, segments, &x_offset, x_step, g_step, NULL, add, acc)

static void outer_2(ptrdiff_t size, const struct segment *segment, ptrdiff_t segments, ptrdiff_t x_offset,
                    ptrdiff_t x_step, ptrdiff_t g_step, int add, real *acc) {
    DISPATCH_OUTER(size, OUTER, 2)
}

static void outer_1(ptrdiff_t size, const struct segment *segment, ptrdiff_t segments, ptrdiff_t x_offset,
                    ptrdiff_t x_step, ptrdiff_t g_step, int add, real *acc) {
    DISPATCH_OUTER(size, OUTER, 1)
}

/* M[q][block of filters][c][BLOCK] (+)= V[p]^T D[p] over `tiles` and the planes p of q; += where `add` */
static void multiply(const struct winograd_weight *w, ptrdiff_t tiles, ptrdiff_t channels, ptrdiff_t filters,
                     const real *v, const real *d, int add, real *m) {
    const struct weight_kind *kind = w->kind;
    ptrdiff_t parts = ceil_div(channels, OUTER_TILE);
    for (int p = 0, planes; p < kind->planes; p += planes) {
        int q = kind->matrix(p);
        for (planes = 1; p + planes < kind->planes && kind->matrix(p + planes) == q;) planes++;
        for (ptrdiff_t k = 0; k < filters; k += BLOCK) {
            real *acc = m + q * w->m_plane + k / BLOCK * channels * BLOCK;
            struct segment segment[MOST_MERGED];
            for (int i = 0; i < planes; i++)
                segment[i] = (struct segment){v + (p + i) * w->v_plane, d + (p + i) * w->d_plane + k, tiles};
            for (ptrdiff_t part = 0; part < parts; part++) {
                ptrdiff_t c = channels * part / parts, size = channels * (part + 1) / parts - c;
                if (filters - k > LANES)
                    outer_2(size, segment, planes, c, w->v_pitch, w->d_pitch, add, acc + c * BLOCK);
                else
                    outer_1(size, segment, planes, c, w->v_pitch, w->d_pitch, add, acc + c * BLOCK);
            }
        }
    }
}

/* Transform M back into a part's [block][tap][channel][BLOCK], from the first of its blocks on. */
static void put_weights(const struct winograd_weight *w, ptrdiff_t first_channel, ptrdiff_t channels,
                        ptrdiff_t filters, const real *m, real *sums) {
    ptrdiff_t blocks = ceil_div(filters, BLOCK);
    vec check = {0};
    for (ptrdiff_t b = 0; b < blocks; b++) {
        real *to = sums + b * w->parts.block_elements;
        for (ptrdiff_t c = 0; c < channels; c++)
            for (ptrdiff_t k = 0; k < min_size(BLOCK, filters - b * BLOCK); k += LANES) {
                vec out[25];
                w->kind->transform_products(m + (b * channels + c) * BLOCK + k, w->m_plane, out);
                for (ptrdiff_t t = 0; t < w->parts.area; t++) {
                    check_finite(&check, out[t]);
                    store(to + (t * w->parts.channels + first_channel + c) * BLOCK + k, out[t]);
                }
            }
    }
    note_finite(w->finite, check);
}

static void run_winograd_weight(const void *context, ptrdiff_t task, void *scratch) {
    const struct winograd_weight *w = context;
    ptrdiff_t filter_block = task % w->filter_blocks,
              channel_block = task / w->filter_blocks % w->channel_blocks;
    ptrdiff_t part = task / w->filter_blocks / w->channel_blocks % w->parts.count,
              group = task / w->filter_blocks / w->channel_blocks / w->parts.count;
    ptrdiff_t c0 = channel_block * CHANNELS, channels = min_size(CHANNELS, w->parts.channels - c0);
    ptrdiff_t k0 = filter_block * FILTERS, filters = min_size(FILTERS, w->parts.filters - k0);
    ptrdiff_t channel = group * w->parts.channels + c0, filter = group * w->parts.filters + k0;
    real *window = scratch, *v = window + w->window, *d = v + w->kind->planes * w->v_plane,
         *m = d + w->kind->planes * w->d_plane;

    ptrdiff_t begin = w->tiling.tiles * part / w->parts.count,
              end = w->tiling.tiles * (part + 1) / w->parts.count;
    for (ptrdiff_t stretches = ceil_div(end - begin, w->together), i = 0; i < stretches; i++) {
        ptrdiff_t first = begin + (end - begin) * i / stretches,
                  last = begin + (end - begin) * (i + 1) / stretches;
        VARIANT(make_tiles)(&w->input, &w->tiling, first, last - first, channel, channel + channels,
                            (struct tile_matrix){v, w->v_plane, w->v_pitch}, window);
        VARIANT(make_tiles)(&w->gradient, &w->tiling, first, last - first, filter, filter + filters,
                            (struct tile_matrix){d, w->d_plane, w->d_pitch}, window);
        multiply(w, last - first, channels, filters, v, d, i > 0, m);
    }
    real *sums = w->parts.sums + part * w->parts.part_elements +
                 (group * w->parts.blocks + k0 / BLOCK) * w->parts.block_elements;
    put_weights(w, c0, channels, filters, m, sums);
}

static void plan(struct winograd_weight *w) {
    const struct pyconv_conv2d *g = w->g;
    w->kind = kind_of(g);
    w->tiling = cut_tiles(w->kind->side, g->batch, g->out_height, g->out_width, g->dilation_height,
                          g->dilation_width);
    w->input = (struct tile_image){.planes = g->planes,
                                   .height = g->in_height,
                                   .width = g->in_width,
                                   .channels = g->in_channels,
                                   .span = w->kind->span,
                                   .step = w->kind->side * w->kind->step,
                                   .y = -g->pad_top,
                                   .x = -g->pad_left,
                                   .transform = w->kind->transform_input};
    w->gradient = (struct tile_image){.planes = g->planes,
                                      .height = g->out_height,
                                      .width = g->out_width,
                                      .channels = g->out_channels,
                                      .span = w->kind->side,
                                      .step = w->kind->side,
                                      .transform = w->kind->transform_gradient};
    w->window = max_size(window_elements(&w->input), window_elements(&w->gradient));
    w->together = g->batch * g->out_height * g->out_width < FEW_PIXELS ? w->kind->tiles / 2 : w->kind->tiles;
    ptrdiff_t channels = g->in_channels / g->groups, filters = g->out_channels / g->groups;
    w->channel_blocks = ceil_div(channels, CHANNELS);
    w->filter_blocks = ceil_div(filters, FILTERS);
    w->channels = min_size(channels, CHANNELS);
    w->filters = min_size(ceil_div(filters, BLOCK) * BLOCK, FILTERS);
    w->v_pitch = ceil_div(w->channels, LANES) * LANES + LANES;
    w->d_pitch = w->filters + LANES;
    w->v_plane = w->together * w->v_pitch + LANES;
    w->d_plane = w->together * w->d_pitch + LANES;
    w->m_plane = w->channels * w->filters + LANES;
    const ptrdiff_t blocks = g->groups * w->channel_blocks * w->filter_blocks,
                    stretches = w->tiling.tiles / w->together;
    ptrdiff_t parts =
        max_size(stretches / STRETCHES_WANTED, min_size(ceil_div(FEW_TASKS, blocks), stretches));
    parts = max_size(min_size(parts, ceil_div(TASKS_WANTED, blocks)), 1);
    w->parts = weight_parts(g, 1, parts);
}

static struct workspace space(const struct winograd_weight *w) {
    ptrdiff_t zeros = max_size(w->g->in_channels, w->g->out_channels);
    return (struct workspace){
        (size_t)(w->parts.count * w->parts.part_elements + zeros) * sizeof(real),
        (size_t)(w->window + w->kind->planes * (w->v_plane + w->d_plane) + w->kind->matrices * w->m_plane) *
            sizeof(real),
    };
}

struct workspace VARIANT(grad_weight_winograd_workspace)(const struct pyconv_conv2d *g) {
    if (!is_square(g->kernel_height, g->kernel_width)) return VARIANT(grad_weight_line_workspace)(g);
    struct winograd_weight w = {.g = g};
    plan(&w);
    return space(&w);
}

int VARIANT(grad_weight_winograd)(const struct pyconv_conv2d *g, const real *grad_output, const real *input,
                                  real *grad_weight) {
    if (!g->in_channels || !g->out_channels || !g->batch || !g->out_height || !g->out_width)
        return VARIANT(grad_weight_direct)(g, grad_output, input, grad_weight);
    if (!is_square(g->kernel_height, g->kernel_width))
        return VARIANT(grad_weight_line)(g, grad_output, input, grad_weight);
    struct finite finite = ALL_FINITE;
    struct winograd_weight w = {.g = g, .finite = &finite};
    plan(&w);
    w.input.pixels = input, w.gradient.pixels = grad_output;
    w.input.end = input + g->batch * g->in_height * g->in_width * g->in_channels;
    w.gradient.end = grad_output + g->batch * g->out_height * g->out_width * g->out_channels;
    struct workspace bytes = space(&w);
    ptrdiff_t sums = w.parts.count * w.parts.part_elements;
    if (!(w.parts.sums = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
    w.input.zeros = w.gradient.zeros =
        memset(w.parts.sums + sums, 0, bytes.shared - (size_t)sums * sizeof(real));

    ptrdiff_t tasks = g->groups * w.parts.count * w.channel_blocks * w.filter_blocks;
    double work =
        (double)w.tiling.tiles * w.kind->planes * (double)w.parts.channels * (double)g->out_channels;
    int status =
        parallel_run(tasks, work / MULTIPLY_ADDS_PER_NANOSECOND, bytes.scratch, run_winograd_weight, &w);
    if (status == PYCONV_OK) status = VARIANT(sum_weight_parts)(&w.parts, grad_weight);
    pyconv_free(w.parts.sums, bytes.shared);
    return status_of(&finite, status);
}
