/* Winograd's convolutions: in which order tiles and filters meet (conv_winograd.h has the equation).
 *
 * Everything is fused over a group of tiles and a block of filters, so that intermediate tiles never leave
 * L2. Two orders, by what would travel from L3 again and again otherwise:
 *
 *     tiles outside: U is made once for all, a task makes its group's V (2 * TILE tiles of 64 channels: 36 *
 *         24 * 80 * 4 = 270 KiB) and takes the blocks of filters in turn (M of one: 36 * 24 * 32 * 4 = 108
 *         KiB), or, from 384 channels on, the planes, each with all blocks, since V would not stay in L2;
 *     filters outside, where V is small beside what would travel of U: V is made once for all, a task makes U
 *         for one block, CHUNK channels at a time (36 * 128 * 32 * 4 = 576 KiB), and takes the groups in
 *         turn; U, 37 MB for 512 x 512 filters, never exists as a whole, and no core reads what another made.
 *
 * Filters that are kept from one call to the next come from memory, since those of a network fill L3: then
 * groups are as large as can be, their blocks are shared out, and while the tiles of a group take a plane's
 * filters in turn, each part of them fetches its share of the next plane's (ResNet-18 on one image: 1.2 times
 * as fast).
 *
 * Groups of channels have their tiles and filters for themselves; with tiles outside, the tasks of all are
 * one list, so that small groups are not waited for one by one.
 */
#include "conv_winograd.h"
#include "parallel.h"
#include "winograd_line.h"

#define GROUP_BYTES ((ptrdiff_t)640 << 10) /* of V, in L2 beside M and what passes of U */
#define USUAL_TILES (2 * TILE)             /* of a group */
#define MOST_TILES 24                      /* of one whose filters come from memory for each group anew */
#define LEAVES_L2 ((ptrdiff_t)1800 << 10)  /* more than this of V and a block's U: see plan */
/* A smaller U is not worth making by blocks: of one that is kept (with AVX-512, making more is sooner than
 * reading it; 37 MB are not with AVX2 either), and of one that is made now, half of which each of two cores
 * would read from the other. */
#define KEPT_FILTERS ((ptrdiff_t)(VECTOR_BYTES == 64 ? 2 : 24) << 20)
#define MADE_FILTERS ((ptrdiff_t)128 << 10)
#define SHARE_BYTES ((ptrdiff_t)576 << 10) /* of M that a task keeps: 128 tiles of 36 planes */
#define TASKS_WANTED 16
#define FEW_TASKS 8 /* fewer leave one of two cores idle for long */

static ptrdiff_t group_begin(const struct winograd *w, ptrdiff_t group) {
    return w->tiling.tiles * group / w->groups;
}

/* U of LANES filters on one channel, `count` of them real */
static void make_vector(const struct winograd *w, const real *from, ptrdiff_t count, real *u) {
    const struct correlation *c = w->c;
    vec g[MOST_TAPS];
    if (c->taps == 9)
        read_filters(9, c, from, count, g);
    else
        read_filters(25, c, from, count, g);
    w->kind->transform_filter(g, u, w->u_plane);
}

/* U of a block: u[q][channel - begin][BLOCK] for the channels [begin, end), in the order of the weights */
static void make_filters(const struct winograd *w, ptrdiff_t block, ptrdiff_t begin, ptrdiff_t end, real *u) {
    const struct correlation *c = w->c;
    const ptrdiff_t first = block * BLOCK, count = min_size(BLOCK, c->dst_channels - first);
    const real *weight = c->weight + first * c->weight_dst;
    if (c->weight_dst < c->weight_src) {
        for (ptrdiff_t i = begin; i < end; i++, u += BLOCK) {
            const real *from = weight + i * c->weight_src;
            fetch_filters(c, from, count);
            for (ptrdiff_t v = 0; v < count; v += LANES)
                make_vector(w, from + v * c->weight_dst, count - v, u + v);
        }
        return;
    }
    for (ptrdiff_t v = 0; v < count; v += LANES)
        for (ptrdiff_t i = begin; i < end; i++)
            make_vector(w, weight + v * c->weight_dst + i * c->weight_src, count - v,
                        u + (i - begin) * BLOCK + v);
}

static void make_group(const struct winograd *w, ptrdiff_t first, ptrdiff_t tiles, real *v, real *window) {
    const struct tile_matrix to = {v, w->v_plane, w->pitch};
    VARIANT(make_tiles)(&w->image, &w->tiling, first, tiles, 0, w->c->src_channels, to, window);
}

/* ---- M: the products ---- */

/* The places of the outputs of a group's tiles, [tile][residue]: in dst, or if that is planes in the window
 * of the tile's piece */
struct places {
    struct output_place at[MOST_TILES * MOST_RESIDUES];
    struct piece piece[MOST_TILES];
};

/* Outputs in one direction of a tile, all residues together */
static ptrdiff_t tile_outputs(const struct winograd *w) {
    return w->tiling.outputs * (w->c->spread == 2 ? 2 : 1);
}

/* All outputs of a piece's tiles, of one block: [row][column][BLOCK] */
static struct output_window window_of(const struct winograd *w, const struct piece *piece) {
    const ptrdiff_t outputs = tile_outputs(w), scale = outputs / w->tiling.outputs;
    return (struct output_window){.pitch = BLOCK,
                                  .height = piece->rows * outputs,
                                  .width = piece->columns * outputs,
                                  .image = piece->at.image,
                                  .y = piece->at.y * scale,
                                  .x = piece->at.x * scale};
}

/* The same correlation, whose dst is such a window */
static struct correlation windowed(const struct winograd *w, const struct output_window *window) {
    struct correlation c = *w->c;
    c.dst_row = window->width * BLOCK, c.dst_column = BLOCK, c.dst_image = 0;
    c.dst_height = w->tiling.rows * tile_outputs(w), c.dst_width = w->tiling.columns * tile_outputs(w);
    c.epilogue.residual = NULL, c.epilogue.relu = 0;
    return c;
}

static void find_window_places(const struct winograd *w, ptrdiff_t first, ptrdiff_t tiles, struct places *p) {
    struct output_place *place = p->at;
    struct piece *piece = p->piece;
    for (ptrdiff_t t = 0; t < tiles; t += piece++->count) {
        *piece = next_piece(&w->image, &w->tiling, first + t, tiles - t);
        const struct output_window window = window_of(w, piece);
        const struct correlation c = windowed(w, &window);
        struct winograd to = *w;
        to.c = &c;
        const ptrdiff_t base = window.y * c.dst_row + window.x * c.dst_column;
        for (ptrdiff_t i = 0; i < piece->count; i++)
            for (int residue = 0; residue < w->kind->residues; residue++, place++) {
                *place = w->kind->place_output(&to, first + t + i, residue);
                place->offset -= base;
            }
    }
}

static void find_places(const struct winograd *w, ptrdiff_t first, ptrdiff_t tiles, struct places *p) {
    const int residues = w->kind->residues;
    if (w->c->planes) {
        find_window_places(w, first, tiles, p);
        return;
    }
    for (ptrdiff_t t = 0; t < tiles; t++)
        for (int residue = 0; residue < residues; residue++)
            p->at[t * residues + residue] = w->kind->place_output(w, first + t, residue);
}

/* Fetch the lines that one block of a tile will be written to: they, and the residual, come from memory while
 * M is made. (INLINE: GCC takes a function that only fetches for one that does nothing, and drops its calls.)
 */
INLINE void fetch_output(const struct winograd *w, const struct output_place *place, ptrdiff_t block) {
    for (int residue = 0; residue < w->kind->residues; residue++, place++) {
        const real *dst = w->c->dst + place->offset + block * BLOCK, *residual = w->c->epilogue.residual;
        if (residual) residual += place->offset + block * BLOCK;
        for (ptrdiff_t i = 0; i < place->rows; i++)
            for (ptrdiff_t j = 0; j < place->columns; j++)
                for (int v = 0; v < BLOCK; v += LANES) {
                    ptrdiff_t at = i * place->row + j * place->column + v;
                    __builtin_prefetch(dst + at, 1, 2);
                    if (residual) __builtin_prefetch(residual + at, 0, 2);
                }
    }
}

/* Of up to TILE tiles and a block. */
typedef void product_function(ptrdiff_t size, const real *x, ptrdiff_t pitch, const real *next,
                              ptrdiff_t step, ptrdiff_t depth, ptrdiff_t chunk, const real *weight, real *out,
                              int add);
#define PRODUCT(m, vectors, afar)                                                                            \
    tile_product(m, vectors, afar, x, pitch, next, step, depth, chunk, weight, BLOCK, out, BLOCK, add)
#define PRODUCT_FUNCTION(name, vectors, afar)                                                                \
    static void name(ptrdiff_t size, const real *x, ptrdiff_t pitch, const real *next, ptrdiff_t step,       \
                     ptrdiff_t depth, ptrdiff_t chunk, const real *weight, real *out, int add) {             \
        (void)next, (void)step;                                                                              \
        DISPATCH_TILE(size, PRODUCT, vectors, afar)                                                          \
    }
PRODUCT_FUNCTION(near_1, 1, NONE_AFAR)
PRODUCT_FUNCTION(near_2, 2, NONE_AFAR)
PRODUCT_FUNCTION(tiles_afar_1, 1, X_AFAR)
PRODUCT_FUNCTION(tiles_afar_2, 2, X_AFAR)
PRODUCT_FUNCTION(filters_afar_1, 1, W_AFAR)
PRODUCT_FUNCTION(filters_afar_2, 2, W_AFAR)

/* M (+)= V U of a group's `tiles` and a block over `depth` channels, for the planes [begin, end): += after
 * the first channels; with the last ones the outputs are fetched from where they are. */
static void multiply(const struct winograd *w, ptrdiff_t tiles, ptrdiff_t block, int begin, int end,
                     const real *v, const real *u, ptrdiff_t depth, real *m, int add,
                     const struct places *fetched) {
    ptrdiff_t filters = w->c->dst_channels - block * BLOCK, parts = ceil_div(tiles, TILE);
    const int planes = w->kind->planes, residues = w->kind->residues;
    static product_function *const products[][2] = {
        [NONE_AFAR] = {near_1, near_2},
        [X_AFAR] = {tiles_afar_1, tiles_afar_2}, /* V, of all, is in L3 */
        [W_AFAR] = {filters_afar_1, filters_afar_2},
    };
    enum afar afar = w->filters_outside ? X_AFAR : w->filters_afar ? W_AFAR : NONE_AFAR;
    product_function *product = products[afar][filters > LANES];
    for (int p = begin; p < end; p++) {
        const real *weight = u + w->kind->matrix(p) * w->u_plane, *x = v + p * w->v_plane;
        real *out = m + p * w->m_plane;
        for (ptrdiff_t t = tiles * p / planes; fetched && !w->c->planes && t < tiles * (p + 1) / planes; t++)
            fetch_output(w, fetched->at + t * residues, block);
        for (ptrdiff_t part = 0; part < parts; part++) {
            ptrdiff_t t = tiles * part / parts, size = tiles * (part + 1) / parts - t;
            const real *next = part + 1 < parts ? x + (t + size) * w->pitch : x + w->v_plane;
            if (afar == W_AFAR) next = weight + w->u_plane + depth * BLOCK * part / parts;
            product(size, x + t * w->pitch, w->pitch, next, ceil_div(BLOCK, parts), depth, w->chunk, weight,
                    out + t * BLOCK, add);
        }
    }
}

/* ---- The output tiles ---- */

/* Channels [begin, begin + count) of `tiles` tiles, from m on */
static void put_tiles(const struct winograd *w, const struct output_place *place, ptrdiff_t tiles,
                      ptrdiff_t begin, ptrdiff_t count, const real *m, vec *check) {
    for (ptrdiff_t t = 0; t < tiles; t++, place += w->kind->residues, m += BLOCK)
        for (ptrdiff_t k = 0; k < count; k += LANES)
            w->kind->put(w, place, begin + k, min_size(LANES, count - k), m + k, check);
}

/* The same by way of a window to planes */
static void put_pieces(const struct winograd *w, const struct places *places, ptrdiff_t tiles,
                       ptrdiff_t begin, ptrdiff_t count, const real *m, real *pixels, vec *check) {
    const struct output_place *place = places->at;
    const struct piece *piece = places->piece;
    for (ptrdiff_t t = 0; t < tiles; t += piece++->count) {
        struct output_window window = window_of(w, piece);
        window.pixels = pixels, window.channel = begin, window.channels = count;
        struct correlation c = windowed(w, &window);
        struct winograd to = *w;
        to.c = &c;
        c.dst = pixels;
        if (c.epilogue.bias) c.epilogue.bias = (const real *)c.epilogue.bias + begin;
        put_tiles(&to, place + t * w->kind->residues, piece->count, 0, count, m + t * BLOCK, check);
        VARIANT(put_window)(w->c, &window);
    }
}

static void put_group(const struct winograd *w, const struct places *places, ptrdiff_t tiles, ptrdiff_t block,
                      const real *m, real *window) {
    const ptrdiff_t begin = block * BLOCK, count = min_size(BLOCK, w->c->dst_channels - begin);
    vec check = {0};
    if (w->c->planes)
        put_pieces(w, places, tiles, begin, count, m, window, &check);
    else
        put_tiles(w, places->at, tiles, begin, count, m, &check);
    note_finite(w->finite, check);
}

/* ---- Tasks ---- */

/* A block's filters, of some of the channels. */
static void share_filters(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct winograd *w = context;
    ptrdiff_t block = task / w->filter_shares, share = task % w->filter_shares, channels = w->c->src_channels;
    ptrdiff_t begin = channels * share / w->filter_shares, end = channels * (share + 1) / w->filter_shares;
    make_filters(w, block, begin, end, (real *)w->u + block * w->u_elements + begin * BLOCK);
}

static void share_tiles(const void *context, ptrdiff_t group, void *scratch) {
    const struct winograd *w = context;
    ptrdiff_t first = group_begin(w, group);
    make_group(w, first, group_begin(w, group + 1) - first, w->shared + group * w->v_elements, scratch);
}

/* Filters outside: one block of them, one share of the groups. */
static void run_block(const void *context, ptrdiff_t task, void *scratch) {
    const struct winograd *w = context;
    ptrdiff_t block = task % w->blocks, share = task / w->blocks, channels = w->c->src_channels;
    ptrdiff_t begin = w->groups * share / w->shares, end = w->groups * (share + 1) / w->shares;
    ptrdiff_t m_elements = w->kind->planes * w->m_plane;
    real *window = scratch, *u = window + w->window, *m = u + w->u_elements;
    struct places places;
    for (ptrdiff_t c0 = 0, c1; c0 < channels; c0 = c1) {
        c1 = min_size(c0 + w->piece, channels);
        int last = c1 == channels;
        make_filters(w, block, c0, c1, u);
        for (ptrdiff_t group = begin; group < end; group++) {
            ptrdiff_t first = group_begin(w, group), tiles = group_begin(w, group + 1) - first;
            if (last) find_places(w, first, tiles, &places);
            multiply(w, tiles, block, 0, w->kind->planes, w->shared + group * w->v_elements + c0, u, c1 - c0,
                     m + (group - begin) * m_elements, c0 > 0, last ? &places : NULL);
            if (last) put_group(w, &places, tiles, block, m + (group - begin) * m_elements, window);
        }
    }
}

/* Tiles outside: one group of them, one share of the blocks. */
static void run_group(const void *context, ptrdiff_t task, void *scratch) {
    const struct winograd *w = context;
    ptrdiff_t group = task / w->shares, share = task % w->shares;
    ptrdiff_t first_block = w->blocks * share / w->shares, last_block = w->blocks * (share + 1) / w->shares;
    real *window = scratch, *v = window + w->window, *m = v + w->v_elements;
    ptrdiff_t first = group_begin(w, group), tiles = group_begin(w, group + 1) - first;
    struct places places;
    find_places(w, first, tiles, &places);
    make_group(w, first, tiles, v, window);
    const ptrdiff_t m_elements = w->kind->planes * w->m_plane, channels = w->c->src_channels;
    const int planes = w->kind->planes, each = w->planes_outside ? 1 : planes;
    for (ptrdiff_t begin = first_block; begin < last_block; begin += w->together) {
        const ptrdiff_t end = min_size(begin + w->together, last_block);
        for (int p = 0; p < planes; p += each)
            for (ptrdiff_t block = begin; block < end; block++)
                multiply(w, tiles, block, p, p + each, v, w->u + block * w->u_elements, channels,
                         m + (block - begin) * m_elements, 0, &places);
        for (ptrdiff_t block = begin; block < end; block++)
            put_group(w, &places, tiles, block, m + (block - begin) * m_elements, window);
    }
}

/* kept: for filters that are, or will be, prepared */
static void plan(struct winograd *w, const struct winograd_kind *kind, const struct correlation *c,
                 int kept) {
    w->c = c;
    w->kind = kind;
    w->tiling = kind->cut(c);
    w->image = (struct tile_image){.pixels = c->src,
                                   .planes = c->planes,
                                   .height = c->src_height,
                                   .width = c->src_width,
                                   .channels = c->src_column};
    kind->read_tiles(c, &w->image);
    w->blocks = ceil_div(c->dst_channels, BLOCK);
    w->filter_shares = ceil_div(FEW_TASKS, max_size(w->blocks * c->groups, 1));
    w->pitch = ceil_div(c->src_channels, LANES) * LANES + LANES;
    /* The same sums in either order: a prepared weight gives the same bits. */
    w->chunk = even_chunk(c->src_channels, kind->chunk);
    w->piece = w->chunk * (CHUNK / max_size(w->chunk, 1));
    const ptrdiff_t size = sizeof(real), planes = kind->planes;
    ptrdiff_t tile_bytes = planes * w->pitch * size;
    ptrdiff_t filter_bytes = kind->matrices * c->src_channels * w->blocks * BLOCK * size;
    /* Groups: as many whole register tiles as L2 holds, but enough groups for the threads; of nearly equal
     * size. */
    ptrdiff_t fit = GROUP_BYTES / tile_bytes / TILE * TILE,
              even = ceil_div(w->tiling.tiles * c->groups, 2 * TASKS_WANTED);
    w->filters_afar =
        kept && filter_bytes > LEAVES_L2 && filter_bytes <= KEPT_FILTERS && planes == kind->matrices;
    ptrdiff_t usual = min_size(USUAL_TILES, ceil_div(even, TILE) * TILE);
    ptrdiff_t most = max_size(min_size(fit, w->filters_afar ? MOST_TILES : usual), TILE);
    /* What travels: every group reads U, or every block reads V; the latter in streams so short that each
     * byte costs thrice. */
    double filters = (double)filter_bytes * (double)(ceil_div(w->tiling.tiles, most) + 1);
    double tiles = (double)w->tiling.tiles * (double)tile_bytes * (double)(w->blocks + 1);
    w->filters_outside = filter_bytes > (kept ? KEPT_FILTERS : MADE_FILTERS) &&
                         w->tiling.tiles * tile_bytes <= MOST_SHARED && 2.4 * tiles < filters;
    w->groups = ceil_div(w->tiling.tiles, w->filters_outside ? 2 * TILE : most);
    /* Two cores share an even number evenly; but the many planes of a strided kernel want full groups. */
    if (w->groups * c->groups < FEW_TASKS && w->tiling.tiles >= TILE && planes == kind->matrices)
        w->groups += w->groups % 2;
    w->group = ceil_div(w->tiling.tiles, w->groups);
    if (w->filters_outside) {
        w->shares = max_size(ceil_div(w->tiling.tiles, SHARE_BYTES / (planes * BLOCK * size)),
                             min_size(ceil_div(TASKS_WANTED, w->blocks), w->tiling.tiles / 64));
        w->shares = min_size(w->shares, w->groups);
    } else { /* of few groups: each share makes V again, a tenth of its time if it has two blocks */
        w->shares = ceil_div(FEW_TASKS, w->groups * c->groups);
        if (w->filters_afar && w->shares > 1) w->shares += w->groups * w->shares % 2;
        w->shares = min_size(w->shares, w->blocks / 2);
    }
    w->shares = max_size(w->shares, 1);

    w->u_plane = (w->filters_outside ? w->piece : c->src_channels) * BLOCK + LANES;
    w->v_plane = w->group * w->pitch + (w->group % 2 ? 0 : LANES);
    w->m_plane = w->group * BLOCK + LANES;
    w->u_elements = kind->matrices * w->u_plane;
    /* A group's V is read again for every block, unless each plane meets all blocks first: where V would
     * leave L2 while a block's U passes, and these blocks' M is no larger. */
    w->planes_outside = !w->filters_outside && c->dst_channels <= c->src_channels &&
                        (w->group * tile_bytes + w->u_elements * size) > LEAVES_L2;
    w->together = w->planes_outside ? ceil_div(w->blocks, w->shares) : 1;
    w->v_elements = planes * w->v_plane;
    ptrdiff_t outputs = w->group * tile_outputs(w) * tile_outputs(w) + LANES;
    w->window = c->planes ? max_size(window_elements(&w->image), outputs * BLOCK) : 0;
}

static struct workspace space(const struct winograd *w) {
    ptrdiff_t shared = w->filters_outside ? w->groups * w->v_elements
                       : w->c->prepared   ? 0
                                          : w->c->groups * w->blocks * w->u_elements;
    ptrdiff_t m_elements = w->kind->planes * w->m_plane;
    ptrdiff_t scratch = w->filters_outside ? w->u_elements + ceil_div(w->groups, w->shares) * m_elements
                                           : w->v_elements + w->together * m_elements;
    return (struct workspace){(size_t)(shared + w->pitch) * sizeof(real),
                              (size_t)(scratch + w->window) * sizeof(real)};
}

/* ---- Groups of channels ---- */

/* One of them, by itself. */
struct member {
    struct correlation c;
    struct winograd w;
};

struct members {
    const struct member *each;
    ptrdiff_t tasks; /* of one */
    parallel_task *run;
};

static void run_member(const void *context, ptrdiff_t task, void *scratch) {
    const struct members *m = context;
    m->run(&m->each[task / m->tasks].w, task % m->tasks, scratch);
}

/* The tasks of all; `cost` and `tasks` are those of one. */
static int run_members(const struct member *each, ptrdiff_t groups, ptrdiff_t tasks, double cost,
                       size_t scratch, parallel_task *run) {
    struct members m = {each, tasks, run};
    return parallel_run(groups * tasks, (double)groups * cost, scratch, run_member, &m);
}

/* Nanoseconds to transform all filters. */
static double filters_cost(const struct winograd *w) {
    return (double)(w->blocks * w->c->src_channels) * w->kind->matrices * BLOCK * 0.2;
}

static int make_all_filters(const struct member *each, ptrdiff_t groups) {
    const struct winograd *w = &each->w;
    return run_members(each, groups, w->blocks * w->filter_shares, filters_cost(w), 0, share_filters);
}

/* All groups as `w` is planned, and U of all of them from u on; or NULL. */
static struct member *make_members(const struct winograd *w, const real *u) {
    ptrdiff_t groups = w->c->groups;
    struct member *each = pyconv_alloc((size_t)groups * sizeof(struct member));
    for (ptrdiff_t i = 0; each && i < groups; i++) {
        each[i] = (struct member){group_of(w->c, i), *w};
        each[i].w.c = &each[i].c;
        each[i].w.image.pixels = each[i].c.src;
        each[i].w.u = u ? u + i * w->blocks * w->u_elements : NULL;
    }
    return each;
}

static void free_members(struct member *each, ptrdiff_t groups) {
    pyconv_free(each, (size_t)groups * sizeof(struct member));
}

static int run(const struct winograd_kind *kind, const struct correlation *c) {
    struct winograd w;
    plan(&w, kind, c, c->prepared != NULL);
    struct workspace bytes = space(&w);
    if (!(w.shared = pyconv_alloc(bytes.shared))) return PYCONV_NO_MEMORY;
    w.image.end = c->src + c->batch * c->src_height * c->src_width * c->src_column;
    w.image.zeros =
        memset(w.shared + bytes.shared / sizeof(real) - w.pitch, 0, (size_t)w.pitch * sizeof(real));
    struct finite finite = ALL_FINITE;
    w.finite = &finite;
    struct member *each = make_members(&w, w.filters_outside ? NULL : c->prepared ? c->prepared : w.shared);

    double elements = (double)w.tiling.tiles * kind->planes, tiles = elements * (double)w.pitch * 0.2;
    double products = elements * (double)(w.blocks * BLOCK) * (double)c->src_channels;
    products /= MULTIPLY_ADDS_PER_NANOSECOND;
    int status = each ? PYCONV_OK : PYCONV_NO_MEMORY;
    if (w.filters_outside) { /* V of one group after another */
        for (ptrdiff_t i = 0; i < c->groups && status == PYCONV_OK; i++) {
            status = parallel_run(w.groups, tiles, (size_t)w.window * sizeof(real), share_tiles, &each[i].w);
            if (status == PYCONV_OK)
                status = parallel_run(w.blocks * w.shares, products + filters_cost(&w), bytes.scratch,
                                      run_block, &each[i].w);
        }
    } else {
        if (status == PYCONV_OK && !c->prepared) status = make_all_filters(each, c->groups);
        if (status == PYCONV_OK)
            status =
                run_members(each, c->groups, w.groups * w.shares, products + tiles, bytes.scratch, run_group);
    }
    if (each) free_members(each, c->groups);
    pyconv_free(w.shared, bytes.shared);
    return status_of(&finite, status);
}

/* ---- By the kernel: NULL: along lines ---- */

static const struct winograd_kind *kind_of(const struct correlation *c) {
    if (c->step_height == 2) return &VARIANT(winograd_strided);
    if (c->spread == 2) return &VARIANT(winograd_spread);
    if (!is_square(kernel_height(c), kernel_width(c))) return NULL;
    return VARIANT(winograd_square)(c);
}

struct workspace VARIANT(correlate_winograd_workspace)(const struct correlation *c) {
    const struct winograd_kind *kind = kind_of(c);
    if (!kind) return VARIANT(correlate_line_workspace)(c);
    struct winograd w;
    plan(&w, kind, c, c->prepared != NULL);
    return space(&w);
}

/* Where the filters are outside, reading the prepared U costs more than making it. */
ptrdiff_t VARIANT(winograd_prepared)(const struct correlation *c) {
    const struct winograd_kind *kind = kind_of(c);
    if (!kind) return VARIANT(line_prepared)(c);
    struct winograd w;
    plan(&w, kind, c, 1);
    return w.filters_outside ? 0 : c->groups * w.blocks * w.u_elements;
}

int VARIANT(prepare_winograd)(const struct correlation *c, real *prepared) {
    const struct winograd_kind *kind = kind_of(c);
    if (!kind) return VARIANT(prepare_line)(c, prepared);
    struct winograd w;
    plan(&w, kind, c, 1);
    struct member *each = make_members(&w, prepared);
    if (!each) return PYCONV_NO_MEMORY;
    int status = make_all_filters(each, c->groups);
    free_members(each, c->groups);
    return status;
}

int VARIANT(correlate_winograd)(const struct correlation *c) {
    const struct winograd_kind *kind = kind_of(c);
    return kind ? run(kind, c) : VARIANT(correlate_line)(c);
}
