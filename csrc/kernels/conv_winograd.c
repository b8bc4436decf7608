/* Winograd's convolution: 3x3 kernels as F(4x4, 3x3), 5x5 as F(2x2, 5x5), stride 1, one group.
 *
 *     V[p][t][c] = the 6x6 input tile t, transformed    (B^T d B)
 *     U[p][c][k] = the filter, transformed              (G g G^T)
 *     M[p][t][k] = sum over c of V[p][t][c] * U[p][c][k]   for each of the 36 points p
 *     output tile t = M transformed back (A^T M A), + bias, + residual, max(., 0)
 *
 * 36 multiplications serve 16 outputs of 9 taps: 4 times less arithmetic (5x5: 4 outputs of 25, 2.8 times).
 * Everything is fused over a group of tiles and a block of filters, so that intermediate tiles never leave
 * L2. Two orders, by what would travel from L3 again and again otherwise:
 *
 *     tiles outside: U is made once for all, a task makes its group's V (2 * TILE tiles of 64 channels: 36 *
 *         28 * 80 * 4 = 315 KiB) and takes the blocks of filters in turn (M of one: 36 * 28 * 32 * 4 = 126
 * KiB); filters outside, where U exceeds L2 and the tiles are few: V is made once for all, a task makes U for
 *         one block, CHUNK channels at a time (36 * 128 * 32 * 4 = 576 KiB), and takes the groups in turn; U,
 *         37 MB for 512 x 512 filters, never exists as a whole.
 */
#include "conv.h"
#include "correlation.h"
#include "parallel.h"
#include "tile.h"
#include "winograd.h"

#define GROUP_BYTES ((ptrdiff_t)1200 << 10) /* of V that a task may keep in L2 */
#define MOST_TILES (2 * TILE)
#define L2_FILTERS ((ptrdiff_t)2 << 20)   /* a smaller U stays in L2 and L3 anyway */
#define MOST_SHARED ((ptrdiff_t)24 << 20) /* of V made for all */
#define SHARE_TILES 128                   /* of M that a task keeps: 36 * 128 * 32 * 4 = 576 KiB */
#define TASKS_WANTED 16
#define LARGEST_OUTPUT 4 /* outputs of a tile in one direction */

struct winograd {
    const struct correlation *c;
    int taps, outputs; /* of a tile, in one direction: 3 and 4, or 5 and 2 */
    struct tiling tiling;
    ptrdiff_t groups, group;  /* of tiles; the tiles of the largest */
    ptrdiff_t blocks, shares; /* of filters; filters outside: of the groups */
    int filters_outside;
    ptrdiff_t pitch; /* elements from one tile of V[p] to the next, and */
    ptrdiff_t v_plane, u_plane,
        m_plane; /* from one point to the next: all odd in cache lines, against L1's sets */
    ptrdiff_t v_elements, u_elements; /* of one group; of one block */
    real *shared;                     /* V of all groups, or U of all blocks unless it is prepared */
    const real *u;                    /* U of all blocks, or NULL: filters outside */
    const real *zeros;                /* `pitch` of them: what lies outside of the image */
};

static ptrdiff_t group_begin(const struct winograd *w, ptrdiff_t group) {
    return w->tiling.tiles * group / w->groups;
}

/* ---- U: the filters ---- */

/* One filter tap by tap, g[t], for the channels of one vector: LANES filters (`count` of them real) that
 * lie weight_dst apart, their taps side by side, are read as rows and transposed. */
INLINE void read_filters(const int taps, const struct correlation *c, const real *from, ptrdiff_t count,
                         vec *g) {
    vec by_index[2 * LANES + 25];
    const int area = taps * taps;
    for (int part = 0; part < area; part += LANES) {
        vec *row = by_index + part;
        const ptrdiff_t here = min_size(LANES, area - part);
        for (ptrdiff_t k = 0; k < LANES; k++)
            row[k] = k < count ? load_first(from + k * c->weight_dst + part, here) : (vec){0};
        transpose_lanes(row);
    }
    for (int t = 0; t < area; t++) g[t] = by_index[c->tap[t].index];
}

/* u[p][channel - begin][BLOCK] for the channels [begin, end) */
INLINE void transform_filters(const int taps, const struct winograd *w, ptrdiff_t block, ptrdiff_t begin,
                              ptrdiff_t end, real *u) {
    const struct correlation *c = w->c;
    ptrdiff_t first = block * BLOCK, count = min_size(BLOCK, c->dst_channels - first);
    for (ptrdiff_t v = 0; v < count; v += LANES)
        for (ptrdiff_t i = begin; i < end; i++) {
            vec g[25];
            read_filters(taps, c, c->weight + (first + v) * c->weight_dst + i * c->weight_src, count - v, g);
            transform_filter_tile(taps, g, u + (i - begin) * BLOCK + v, w->u_plane);
        }
}

static void make_filters(const struct winograd *w, ptrdiff_t block, ptrdiff_t begin, ptrdiff_t end, real *u) {
    if (w->taps == 3)
        transform_filters(3, w, block, begin, end, u);
    else
        transform_filters(5, w, block, begin, end, u);
}

/* ---- V: the input tiles ---- */

static void make_tile(const struct winograd *w, ptrdiff_t tile, real *v) {
    const struct correlation *c = w->c;
    struct tile_place at = place_tile(&w->tiling, tile);
    ptrdiff_t channels = c->src_channels;
    const real *from[AREA];
    find_pixels(POINTS, &w->tiling, c->src + at.image * c->src_height * c->src_width * channels,
                c->src_height, c->src_width, channels, at.y + c->y_min, at.x + c->x_min, w->zeros, from);
    const ptrdiff_t next = w->outputs * w->tiling.dilation_width * channels; /* the tile to the right */
    for (ptrdiff_t k = 0; k < channels; k += LANES) {
        for (int i = 0; i < POINTS; i++)
            for (int j = POINTS - w->outputs; j < POINTS; j++)
                __builtin_prefetch(from[i * POINTS + j] + next + k);
        if (k + LANES <= channels)
            transform_input_tile(from, k, LANES, v + k, w->v_plane);
        else
            transform_input_tile(from, k, channels - k, v + k, w->v_plane);
    }
}

static void make_group(const struct winograd *w, ptrdiff_t first, ptrdiff_t tiles, real *v) {
    for (ptrdiff_t t = 0; t < tiles; t++) make_tile(w, first + t, v + t * w->pitch);
}

/* ---- Where the output goes ---- */

/* Where a tile's outputs go, and how many of them there are. */
struct output_place {
    ptrdiff_t offset, row, column, rows, columns;
};

static struct output_place place_output(const struct winograd *w, ptrdiff_t tile) {
    const struct correlation *c = w->c;
    struct tile_place at = place_tile(&w->tiling, tile);
    struct output_place to = {.row = w->tiling.dilation_height * c->dst_row,
                              .column = w->tiling.dilation_width * c->dst_column};
    to.offset = at.image * c->dst_image + at.y * c->dst_row + at.x * c->dst_column;
    to.rows = min_size(w->outputs, ceil_div(c->dst_height - at.y, w->tiling.dilation_height));
    to.columns = min_size(w->outputs, ceil_div(c->dst_width - at.x, w->tiling.dilation_width));
    return to;
}

/* Fetch the lines that one block of a tile will be written to: they, and the residual, come from memory while
 * M is made. (INLINE: GCC takes a function that only fetches for one that does nothing, and drops its calls.)
 */
INLINE void fetch_output(const struct winograd *w, ptrdiff_t tile, ptrdiff_t block) {
    struct output_place to = place_output(w, tile);
    const real *dst = w->c->dst + to.offset + block * BLOCK, *residual = w->c->epilogue.residual;
    if (residual) residual += to.offset + block * BLOCK;
    for (ptrdiff_t i = 0; i < to.rows; i++)
        for (ptrdiff_t j = 0; j < to.columns; j++)
            for (int v = 0; v < BLOCK; v += LANES) {
                ptrdiff_t at = i * to.row + j * to.column + v;
                __builtin_prefetch(dst + at, 1, 2);
                if (residual) __builtin_prefetch(residual + at, 0, 2);
            }
}

/* ---- M: the products ---- */

#define PRODUCT(m, vectors) tile_product(m, vectors, x, pitch, depth, weight, BLOCK, out, BLOCK, add)

static void product_2(ptrdiff_t size, const real *x, ptrdiff_t pitch, ptrdiff_t depth, const real *weight,
                      real *out, int add) {
    DISPATCH_TILE(size, PRODUCT, 2)
}

static void product_1(ptrdiff_t size, const real *x, ptrdiff_t pitch, ptrdiff_t depth, const real *weight,
                      real *out, int add) {
    DISPATCH_TILE(size, PRODUCT, 1)
}

/* M (+)= V U of `group` and `block` over `depth` channels: += after the first ones; with the last ones the
 * output is fetched. */
static void multiply(const struct winograd *w, ptrdiff_t group, ptrdiff_t block, const real *v, const real *u,
                     ptrdiff_t depth, real *m, int add, int last) {
    ptrdiff_t first = group_begin(w, group), tiles = group_begin(w, group + 1) - first;
    ptrdiff_t filters = w->c->dst_channels - block * BLOCK, parts = ceil_div(tiles, TILE);
    for (ptrdiff_t p = 0; p < AREA; p++, v += w->v_plane, u += w->u_plane, m += w->m_plane) {
        for (ptrdiff_t t = tiles * p / AREA; last && t < tiles * (p + 1) / AREA; t++)
            fetch_output(w, first + t, block);
        for (ptrdiff_t part = 0; part < parts; part++) {
            ptrdiff_t t = tiles * part / parts, size = tiles * (part + 1) / parts - t;
            if (filters > LANES)
                product_2(size, v + t * w->pitch, w->pitch, depth, u, m + t * BLOCK, add);
            else
                product_1(size, v + t * w->pitch, w->pitch, depth, u, m + t * BLOCK, add);
        }
    }
}

/* ---- The output tiles ---- */

INLINE void put_tile(const int outputs, const struct winograd *w, const struct output_place *to,
                     ptrdiff_t channel, ptrdiff_t lanes, const real *m) {
    const struct correlation *c = w->c;
    vec out[LARGEST_OUTPUT * LARGEST_OUTPUT];
    transform_output_tile(outputs, m, w->m_plane, out);

    const real *bias = c->epilogue.bias, *residual = c->epilogue.residual;
    vec add = bias ? load_first(bias + channel, lanes) : (vec){0};
    for (ptrdiff_t i = 0; i < to->rows; i++)
        for (ptrdiff_t j = 0; j < to->columns; j++) {
            ptrdiff_t at = to->offset + i * to->row + j * to->column + channel;
            vec value = out[i * outputs + j] + add;
            if (residual) value += load_first(residual + at, lanes);
            if (c->epilogue.relu) value = choose(value < 0, (vec){0}, value);
            if (lanes == LANES)
                store(c->dst + at, value);
            else
                store_first(c->dst + at, value, lanes);
        }
}

static void put_group(const struct winograd *w, ptrdiff_t first, ptrdiff_t tiles, ptrdiff_t block,
                      const real *m) {
    ptrdiff_t begin = block * BLOCK, end = min_size(begin + BLOCK, w->c->dst_channels);
    for (ptrdiff_t t = 0; t < tiles; t++) {
        struct output_place to = place_output(w, first + t);
        for (ptrdiff_t k = begin; k < end; k += LANES) {
            const real *from = m + t * BLOCK + (k - begin);
            ptrdiff_t lanes = min_size(LANES, end - k);
            if (w->outputs == 4)
                put_tile(4, w, &to, k, lanes, from);
            else
                put_tile(2, w, &to, k, lanes, from);
        }
    }
}

/* ---- Tasks ---- */

static void share_filters(const void *context, ptrdiff_t block, void *scratch) {
    (void)scratch;
    const struct winograd *w = context;
    make_filters(w, block, 0, w->c->src_channels, (real *)w->u + block * w->u_elements);
}

static void share_tiles(const void *context, ptrdiff_t group, void *scratch) {
    (void)scratch;
    const struct winograd *w = context;
    ptrdiff_t first = group_begin(w, group);
    make_group(w, first, group_begin(w, group + 1) - first, w->shared + group * w->v_elements);
}

/* Filters outside: one block of them, one share of the groups. */
static void run_block(const void *context, ptrdiff_t task, void *scratch) {
    const struct winograd *w = context;
    ptrdiff_t block = task % w->blocks, share = task / w->blocks, channels = w->c->src_channels;
    ptrdiff_t begin = w->groups * share / w->shares, end = w->groups * (share + 1) / w->shares;
    ptrdiff_t chunks = ceil_div(channels, CHUNK);
    real *u = scratch, *m = u + w->u_elements;
    for (ptrdiff_t chunk = 0; chunk < chunks; chunk++) {
        ptrdiff_t c0 = channels * chunk / chunks, c1 = channels * (chunk + 1) / chunks;
        make_filters(w, block, c0, c1, u);
        for (ptrdiff_t group = begin; group < end; group++)
            multiply(w, group, block, w->shared + group * w->v_elements + c0, u, c1 - c0,
                     m + (group - begin) * AREA * w->m_plane, chunk > 0, chunk == chunks - 1);
    }
    for (ptrdiff_t group = begin; group < end; group++) {
        ptrdiff_t first = group_begin(w, group), tiles = group_begin(w, group + 1) - first;
        put_group(w, first, tiles, block, m + (group - begin) * AREA * w->m_plane);
    }
}

/* Tiles outside: one group of them, all blocks. */
static void run_group(const void *context, ptrdiff_t group, void *scratch) {
    const struct winograd *w = context;
    real *v = scratch, *m = v + w->v_elements;
    ptrdiff_t first = group_begin(w, group), tiles = group_begin(w, group + 1) - first;
    make_group(w, first, tiles, v);
    for (ptrdiff_t block = 0; block < w->blocks; block++) {
        multiply(w, group, block, v, w->u + block * w->u_elements, w->c->src_channels, m, 0, 1);
        put_group(w, first, tiles, block, m);
    }
}

static void plan(struct winograd *w, const struct correlation *c) {
    w->c = c;
    w->taps = (int)kernel_height(c);
    w->outputs = POINTS + 1 - w->taps;
    w->tiling =
        cut_tiles(w->outputs, c->batch, c->dst_height, c->dst_width, c->dilation_height, c->dilation_width);
    w->blocks = ceil_div(c->dst_channels, BLOCK);
    w->pitch = ceil_div(c->src_channels, LANES) * LANES + LANES;
    ptrdiff_t tile_bytes = AREA * w->pitch * (ptrdiff_t)sizeof(real);
    ptrdiff_t filter_bytes = AREA * c->src_channels * w->blocks * BLOCK * (ptrdiff_t)sizeof(real);
    /* Groups: as many whole register tiles as L2 holds, but enough groups for the threads; of nearly equal
     * size. */
    ptrdiff_t fit = GROUP_BYTES / tile_bytes / TILE * TILE,
              even = ceil_div(w->tiling.tiles, 2 * TASKS_WANTED);
    ptrdiff_t most = max_size(min_size(min_size(fit, MOST_TILES), ceil_div(even, TILE) * TILE), TILE);
    /* What travels: every group reads U, or every block reads V; the latter in streams so short that each
     * byte costs thrice. */
    double filters = (double)filter_bytes * (double)(ceil_div(w->tiling.tiles, most) + 1);
    double tiles = (double)w->tiling.tiles * (double)tile_bytes * (double)(w->blocks + 1);
    w->filters_outside =
        filter_bytes > L2_FILTERS && w->tiling.tiles * tile_bytes <= MOST_SHARED && 2.6 * tiles < filters;
    w->groups = ceil_div(w->tiling.tiles, w->filters_outside ? 2 * TILE : most);
    w->group = ceil_div(w->tiling.tiles, w->groups);
    w->shares = max_size(ceil_div(w->tiling.tiles, SHARE_TILES),
                         min_size(ceil_div(TASKS_WANTED, w->blocks), w->tiling.tiles / 64));
    w->shares = max_size(min_size(w->shares, w->groups), 1);

    w->u_plane = (w->filters_outside ? min_size(c->src_channels, CHUNK) : c->src_channels) * BLOCK + LANES;
    w->v_plane = w->group * w->pitch + (w->group % 2 ? 0 : LANES);
    w->m_plane = w->group * BLOCK + LANES;
    w->u_elements = AREA * w->u_plane;
    w->v_elements = AREA * w->v_plane;
}

static struct workspace space(const struct winograd *w) {
    ptrdiff_t shared = w->filters_outside ? w->groups * w->v_elements
                       : w->c->prepared   ? 0
                                          : w->blocks * w->u_elements;
    ptrdiff_t scratch = w->filters_outside
                            ? w->u_elements + ceil_div(w->groups, w->shares) * AREA * w->m_plane
                            : w->v_elements + AREA * w->m_plane;
    return (struct workspace){(size_t)(shared + w->pitch) * sizeof(real), (size_t)scratch * sizeof(real)};
}

static int has_square_tiles(const struct correlation *c) {
    return is_square(kernel_height(c), kernel_width(c));
}

struct workspace VARIANT(correlate_winograd_workspace)(const struct correlation *c) {
    if (!has_square_tiles(c)) return VARIANT(correlate_line_workspace)(c);
    struct winograd w;
    plan(&w, c);
    return space(&w);
}

/* Nanoseconds to transform all filters. */
static double filters_cost(const struct winograd *w) {
    return (double)(w->blocks * w->c->src_channels) * AREA * BLOCK * 0.2;
}

/* Where the filters are outside, reading the prepared U costs more than making it. */
ptrdiff_t VARIANT(winograd_prepared)(const struct correlation *c) {
    if (!has_square_tiles(c)) return VARIANT(line_prepared)(c);
    struct winograd w;
    plan(&w, c);
    return w.filters_outside ? 0 : w.blocks * w.u_elements;
}

int VARIANT(prepare_winograd)(const struct correlation *c, real *prepared) {
    if (!has_square_tiles(c)) return VARIANT(prepare_line)(c, prepared);
    struct winograd w;
    plan(&w, c);
    w.u = prepared;
    return parallel_run(w.blocks, filters_cost(&w), 0, share_filters, &w);
}

int VARIANT(correlate_winograd)(const struct correlation *c) {
    if (!has_square_tiles(c)) return VARIANT(correlate_line)(c);
    struct winograd w;
    plan(&w, c);
    struct workspace bytes = space(&w);
    if (!(w.shared = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
    w.zeros = w.shared + bytes.shared / sizeof(real) - w.pitch;
    memset((real *)w.zeros, 0, (size_t)w.pitch * sizeof(real));

    double tiles = (double)w.tiling.tiles * (double)(AREA * w.pitch) * 0.2;
    double products = (double)(w.blocks * BLOCK) * (double)w.tiling.tiles * AREA * (double)c->src_channels;
    products /= MULTIPLY_ADDS_PER_NANOSECOND;
    int status;
    if (w.filters_outside) {
        status = parallel_run(w.groups, tiles, 0, share_tiles, &w);
        if (status == PYCONV_OK)
            status =
                parallel_run(w.blocks * w.shares, products + filters_cost(&w), bytes.scratch, run_block, &w);
    } else {
        w.u = c->prepared ? c->prepared : w.shared;
        status = c->prepared ? PYCONV_OK : parallel_run(w.blocks, filters_cost(&w), 0, share_filters, &w);
        if (status == PYCONV_OK)
            status = parallel_run(w.groups, products + tiles, bytes.scratch, run_group, &w);
    }
    pyconv_free(w.shared, bytes.shared);
    return status;
}
