/* Linear layers of more than a few rows: three products of one shape,
 *
 *     out[m][v] = sum over j of a[m][j] * panel[j][v]
 *
 *   forward      out = y^T, a = W:      panels of x^T, transposed once a call or by each task
 *   grad_input   out = dx,  a = dy:     panels of W, as they lie in it or copied
 *   grad_weight  out = dW,  a = dy^T:   panels of x, the same; dy is transposed once a call
 *
 * so the weight, mostly the largest of the three, is read or written once and never transposed.
 *
 * A register tile of 6 rows by a panel's 4 vectors takes 10 loads for 24 multiply-adds: 24 accumulators + 4
 * of the panel + 1 broadcast = 29 of 32 registers; with 16, it is 4 by 3: 12 + 3 + 1, or 6 by 2. The sum over
 * j is cut into chunks, for which a panel (32 KiB with AVX-512) stays in L1 while the tiles of a block take
 * their turns.
 */
#include "conv.h"
#include "linear.h"
#include "parallel.h"
#include "pyconv.h"
#include "tile.h"

#define HIGH 6 /* rows of a tile; */
#if VECTOR_REGISTERS == 32
#define WIDE 4
#define WIDEST_HIGH 6 /* and of one that is WIDE */
#define WIDEST_CASES CASES_TO_5
#else
#define WIDE 3
#define WIDEST_HIGH 4
#define WIDEST_CASES CASES_TO_3
#endif
#define DEPTH ((ptrdiff_t)128)    /* of a chunk */
#define ROW_BLOCK ((ptrdiff_t)96) /* rows of grad_input or grad_weight in a task */
#define OUT_BLOCK ((ptrdiff_t)48) /* rows of W in a task of forward */
/* Up to NARROW outputs every task of forward transposes x for itself, chunk by chunk: x and W then stay in
 * L2, where a transposed copy of x, written by one core and read by all, does not (64 x 3136 to 128: 220 us
 * against 260). Where the blocks of outputs don't make NARROW_TASKS, a task takes a part of the sum, so that
 * each transposes another part of x (1.1 to 1.3 times as fast). */
#define NARROW ((ptrdiff_t)512)
#define NARROW_BLOCK ((ptrdiff_t)128)
#define NARROW_TASKS ((ptrdiff_t)8)
#define PANEL (DEPTH * WIDE * LANES)
#define STRETCH ((ptrdiff_t)8) /* panels in a task of a gradient */
/* Up to this batch a panel is used where it lies: copying costs 10 to 20 %, with larger ones it gains 5
 * to 15. */
#define COPY_ROWS ((ptrdiff_t)64)
#define TASKS ((ptrdiff_t)16) /* wanted, where smaller blocks or stretches can make them */

/* The vectors of one panel: `count` columns are cut into as few as can be, of nearly equal width. */
struct columns {
    ptrdiff_t first, width, count; /* columns; `count` of them exist */
};

static ptrdiff_t panels(ptrdiff_t count) { return ceil_div(ceil_div(count, LANES), WIDE); }

static struct columns panel_columns(ptrdiff_t count, ptrdiff_t panel) {
    ptrdiff_t vectors = ceil_div(count, LANES), number = panels(count);
    ptrdiff_t first = vectors * panel / number * LANES, end = vectors * (panel + 1) / number * LANES;
    return (struct columns){first, end - first, min_size(end, count) - first};
}

/* to[c][r] = from[r][c], plus bias[r] where there is one, then ReLU; where `pad`, rows are zeros up to a
 * multiple of LANES. */
INLINE void transpose(const real *from, ptrdiff_t from_pitch, ptrdiff_t rows, ptrdiff_t columns, real *to,
                      ptrdiff_t to_pitch, const int pad, const real *bias, const int relu) {
    for (ptrdiff_t r = 0; r < rows; r += LANES)
        for (ptrdiff_t c = 0; c < columns; c += LANES) {
            ptrdiff_t height = min_size(LANES, rows - r), width = min_size(LANES, columns - c);
            const real *at = from + r * from_pitch + c;
            vec row[LANES];
            for (ptrdiff_t i = 0; i < LANES; i++, at += from_pitch) {
                row[i] = i >= height ? (vec){0} : width == LANES ? load(at) : load_first(at, width);
                if (bias && i < height) row[i] += bias[r + i];
                if (relu) row[i] = choose(row[i] < 0, (vec){0}, row[i]);
            }
            transpose_lanes(row);
            for (ptrdiff_t i = 0; i < width; i++)
                if (pad || height == LANES)
                    store(to + (c + i) * to_pitch + r, row[i]);
                else
                    store_first(to + (c + i) * to_pitch + r, row[i], height);
        }
}

/* ---- Tiles ---- */

/* What comes next, fetched while sums are computed, every tile its share of the rows: rows of `count`
 * columns. Where it is a panel's, each share is copied as soon as it is there. (Left in the cache for later,
 * columns of 4096 would push each other out: 128 rows of them have 8 sets of L2.) */
struct ahead {
    const real *at;
    ptrdiff_t pitch, rows, count;
    real *panel; /* or NULL */
    ptrdiff_t width;
};

/* One chunk of a block: to[m][v] = from[m][v] + sum over j < depth of a[m][j] panel[j][v] */
struct product {
    const real *a, *panel, *from; /* from: [rows][width], or NULL */
    real *to;
    ptrdiff_t rows, depth, a_pitch, panel_pitch, to_pitch;
    ptrdiff_t lanes; /* that the last vector of `to` has */
    int fetch;       /* `to`, which is memory */
    struct ahead ahead;
};

INLINE void copy_row(const real *from, ptrdiff_t count, real *to) {
    ptrdiff_t v = 0;
    for (; v + LANES <= count; v += LANES) store(to + v, load(from + v));
    if (v < count) store(to + v, load_first(from + v, count - v));
}

INLINE void tile(const int rows, const int vectors, const struct product *p, ptrdiff_t m, ptrdiff_t row,
                 ptrdiff_t end_row) {
    const struct ahead *ahead = &p->ahead;
    const real *a[HIGH], *w = p->panel;
    real *to = p->to + m * p->to_pitch;
    vec sum[HIGH][WIDE];
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int v = 0; v < vectors; v++) sum[i][v] = (vec){0};
    UNROLL for (int i = 0; i < rows; i++) a[i] = as_pointer(p->a + (m + i) * p->a_pitch + p->depth);
    if (p->fetch)
        UNROLL for (int i = 0; i < rows; i++) UNROLL for (int v = 0; v < vectors; v++)
            __builtin_prefetch(to + i * p->to_pitch + v * LANES, 1, 2);
    ptrdiff_t share = ceil_div((end_row - row) * LINE * 2, p->depth); /* all within half of the tile's time */
    for (ptrdiff_t j = -p->depth; j < 0;) {
        for (ptrdiff_t stop = min_size(row + share, end_row); row < stop; row++)
            for (ptrdiff_t v = 0; v < ahead->count; v += LINE)
                __builtin_prefetch(ahead->at + row * ahead->pitch + v, 0, 2);
        for (ptrdiff_t end = min_size(j + LINE, 0); j < end; j++, w += p->panel_pitch) {
            vec weight[WIDE];
            UNROLL for (int v = 0; v < vectors; v++) weight[v] = load(w + v * LANES);
            UNROLL for (int i = 0; i < rows; i++) {
                vec value = splat(a[i][j]);
                UNROLL for (int v = 0; v < vectors; v++) sum[i][v] += value * weight[v];
            }
        }
    }
    const real *from = p->from ? p->from + m * vectors * LANES : NULL;
    if (from)
        UNROLL for (int i = 0; i < rows; i++) UNROLL for (int v = 0; v < vectors; v++) sum[i][v] +=
            load(from + (i * vectors + v) * LANES);
    const ptrdiff_t pitch = p->to_pitch;
    if (p->lanes == LANES) {
        UNROLL for (int i = 0; i < rows; i++) UNROLL for (int v = 0; v < vectors; v++)
            store(to + i * pitch + v * LANES, sum[i][v]);
    } else {
        UNROLL for (int i = 0; i < rows; i++) {
            UNROLL for (int v = 0; v < vectors - 1; v++) store(to + i * pitch + v * LANES, sum[i][v]);
            store_first(to + i * pitch + (vectors - 1) * LANES, sum[i][vectors - 1], p->lanes);
        }
    }
}

/* In tiles of nearly equal height: no small remainder */
#define TILE_OF(rows, vectors) tile(rows, vectors, p, m, row, end_row)
#define MULTIPLY(vectors, CASES, high)                                                                       \
    static void multiply_##vectors(const struct product *p) {                                                \
        const struct ahead *ahead = &p->ahead;                                                               \
        ptrdiff_t tiles = ceil_div(p->rows, high);                                                           \
        for (ptrdiff_t t = 0, m = 0, row = 0; t < tiles; t++) {                                              \
            ptrdiff_t end = p->rows * (t + 1) / tiles, end_row = ahead->rows * (t + 1) / tiles;              \
            DISPATCH(CASES, end - m, high, TILE_OF, vectors)                                                 \
            for (m = end; row < end_row; row++)                                                              \
                if (ahead->panel)                                                                            \
                    copy_row(ahead->at + row * ahead->pitch, ahead->count,                                   \
                             ahead->panel + row * ahead->width);                                             \
        }                                                                                                    \
    }
MULTIPLY(1, CASES_TO_5, HIGH)
MULTIPLY(2, CASES_TO_5, HIGH)
#if WIDE == 4
MULTIPLY(3, CASES_TO_5, HIGH)
MULTIPLY(4, WIDEST_CASES, WIDEST_HIGH)
#else
MULTIPLY(3, WIDEST_CASES, WIDEST_HIGH)
#endif

static void multiply(ptrdiff_t vectors, const struct product *p) {
    switch (vectors) {
    case 1: multiply_1(p); break;
    case 2: multiply_2(p); break;
    case 3: multiply_3(p); break;
#if WIDE == 4
    default: multiply_4(p); break;
#endif
    }
}

/* ---- Transposing what is small ---- */

#define TRANSPOSE_COST(elements) ((double)(elements) * 0.5) /* nanoseconds */
#define INPUT_BLOCK ((ptrdiff_t)256)                        /* columns of x in a task */

struct transposition {
    const struct linear *l;
    real *to;        /* x^T, [panel][in][width], or dy^T, [out][pitch] */
    ptrdiff_t pitch; /* rows, up to a multiple of LANES */
};

static void transpose_input(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct transposition *t = context;
    ptrdiff_t in = t->l->in, j = task * INPUT_BLOCK, count = min_size(INPUT_BLOCK, in - j);
    for (ptrdiff_t i = 0; i < panels(t->l->rows); i++) {
        struct columns c = panel_columns(t->l->rows, i);
        transpose(t->l->input + c.first * in + j, in, c.count, count, t->to + c.first * in + j * c.width,
                  c.width, 1, NULL, 0);
    }
}

static void transpose_gradient(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct transposition *t = context;
    const struct linear *l = t->l;
    ptrdiff_t k = task * LANES, end = min_size(k + LANES, l->out);
    transpose(l->grad_output + k, l->out, l->rows, end - k, t->to + k * t->pitch, t->pitch, 1, NULL, 0);
    for (; l->grad_bias && k < end; k++) {
        vec sum = {0};
        for (ptrdiff_t n = 0; n < t->pitch; n += LANES) sum += load(t->to + k * t->pitch + n);
        l->grad_bias[k] = sum_lanes(sum);
    }
}

/* ---- Forward ---- */

struct forward {
    const struct linear *l;
    const real *panels;      /* [panel][in][width]: x^T, or NULL: each task makes what it needs */
    ptrdiff_t blocks, block; /* of rows of W, and how many the largest has */
    ptrdiff_t parts, padded; /* of the sum, and rows of x, up to a multiple of LANES */
    real *partial;           /* [block][part][panel][k][v]: of more than one */
};

/* y^T of rows [k, k + rows) of W, or a part of its sum: [panel][k][v] */
static void multiply_rows(const struct forward *f, ptrdiff_t k, ptrdiff_t rows, ptrdiff_t part, real *made,
                          real *sums) {
    const struct linear *l = f->l;
    ptrdiff_t chunks = ceil_div(l->in, DEPTH), first = chunks * part / f->parts,
              last = chunks * (part + 1) / f->parts;
    for (ptrdiff_t chunk = first; chunk < last; chunk++) {
        ptrdiff_t j = l->in * chunk / chunks, end = l->in * (chunk + 1) / chunks;
        for (ptrdiff_t i = 0; i < panels(l->rows); i++) {
            struct columns c = panel_columns(l->rows, i);
            real *to = sums + c.first * f->block;
            const real *panel = f->panels ? f->panels + c.first * l->in + j * c.width : made;
            if (!f->panels)
                transpose(l->input + c.first * l->in + j, l->in, c.count, end - j, made, c.width, 1, NULL, 0);
            struct product p = {.a = l->weight + k * l->in + j,
                                .panel = panel,
                                .from = chunk > first ? to : NULL,
                                .to = to,
                                .rows = rows,
                                .depth = end - j,
                                .a_pitch = l->in,
                                .panel_pitch = c.width,
                                .to_pitch = c.width,
                                .lanes = LANES};
            if (i == 0 && chunk + 1 < last)
                p.ahead = (struct ahead){p.a + p.depth, l->in, rows, DEPTH, NULL, 0};
            multiply(c.width / LANES, &p);
        }
    }
}

/* y of those rows from its transpose */
static void finish_rows(const struct forward *f, ptrdiff_t k, ptrdiff_t rows, const real *sums) {
    const struct linear *l = f->l;
    for (ptrdiff_t i = 0; i < panels(l->rows); i++) {
        struct columns c = panel_columns(l->rows, i);
        const real *from = sums + c.first * f->block, *bias = l->bias ? l->bias + k : NULL;
        real *to = l->output + c.first * l->out + k;
        if (l->relu)
            transpose(from, c.width, rows, c.count, to, l->out, 0, bias, 1);
        else
            transpose(from, c.width, rows, c.count, to, l->out, 0, bias, 0);
    }
}

/* A block of rows of W and all rows of x, or a part of their sums. */
static void run_forward(const void *context, ptrdiff_t task, void *scratch) {
    const struct forward *f = context;
    ptrdiff_t block = task / f->parts, part = task % f->parts, out = f->l->out;
    ptrdiff_t k = out * block / f->blocks, rows = out * (block + 1) / f->blocks - k;
    real *made = scratch, *sums = f->partial ? f->partial + task * f->block * f->padded : made + PANEL;
    multiply_rows(f, k, rows, part, made, sums);
    if (!f->partial) finish_rows(f, k, rows, sums);
}

/* The parts of a block's sums, in order. */
static void join_parts(const void *context, ptrdiff_t block, void *scratch) {
    (void)scratch;
    const struct forward *f = context;
    ptrdiff_t size = f->block * f->padded, out = f->l->out;
    ptrdiff_t k = out * block / f->blocks, rows = out * (block + 1) / f->blocks - k;
    real *sums = f->partial + block * f->parts * size;
    for (ptrdiff_t e = 0; e < size; e += LANES) {
        vec all = load(sums + e);
        for (ptrdiff_t part = 1; part < f->parts; part++) all += load(sums + part * size + e);
        store(sums + e, all);
    }
    finish_rows(f, k, rows, sums);
}

static int multiply_blocks(struct forward *f) {
    const struct linear *l = f->l;
    f->padded = ceil_div(l->rows, LANES) * LANES;
    f->block = ceil_div(l->out, f->blocks);
    size_t sums = (size_t)(f->block * f->padded) * sizeof(real),
           bytes = f->parts > 1 ? (size_t)(f->blocks * f->parts) * sums : 0;
    if (bytes && !(f->partial = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    double work = (double)f->padded * (double)l->in * (double)l->out;
    int status = parallel_run(f->blocks * f->parts, work / MULTIPLY_ADDS_PER_NANOSECOND,
                              (size_t)PANEL * sizeof(real) + (bytes ? 0 : sums), run_forward, f);
    if (bytes) {
        if (status == PYCONV_OK) status = parallel_run(f->blocks, (double)bytes * 0.1, 0, join_parts, f);
        pyconv_free(f->partial, bytes);
    }
    return status;
}

int VARIANT(linear_forward)(const struct linear *l) {
    struct forward f = {.l = l, .parts = 1};
    if (l->out <= NARROW) {
        f.blocks = ceil_div(l->out, NARROW_BLOCK);
        f.parts = max_size(min_size(NARROW_TASKS / f.blocks, ceil_div(l->in, DEPTH) / 2), 1);
        return multiply_blocks(&f);
    }
    f.blocks = ceil_div(l->out, OUT_BLOCK);
    size_t bytes = (size_t)(ceil_div(l->rows, LANES) * LANES * l->in) * sizeof(real);
    real *panels = pyconv_alloc(bytes);
    if (!panels) return PYCONV_NO_MEMORY;
    struct transposition t = {.l = l, .to = panels};
    f.panels = panels;
    int status = parallel_run(ceil_div(l->in, INPUT_BLOCK), TRANSPOSE_COST(bytes / sizeof(real)), 0,
                              transpose_input, &t);
    if (status == PYCONV_OK) status = multiply_blocks(&f);
    pyconv_free(panels, bytes);
    return status;
}

/* ---- Gradients: out[m][c] = sum over j of a[m][j] b[j][c] ---- */

struct gradient {
    const real *a, *b;
    real *out;
    ptrdiff_t rows, depth, columns, a_pitch;
    ptrdiff_t blocks, stretches; /* that rows and panels are cut into */
    ptrdiff_t chunks;
    int copies; /* panels, rather than reading them where they lie */
};

/* The rows of b's columns c that a chunk takes; `panel`: where to copy them, where they don't serve as they
 * lie. */
static struct ahead slice(const struct gradient *g, struct columns c, ptrdiff_t chunk, real *panel) {
    ptrdiff_t j = g->depth * chunk / g->chunks, end = g->depth * (chunk + 1) / g->chunks;
    int copy = g->copies || c.count < c.width;
    return (struct ahead){
        g->b + j * g->columns + c.first, g->columns, end - j, c.count, copy ? panel : NULL, c.width};
}

/* A block of rows and a stretch of panels: while one chunk is computed, the next one's panel is fetched. */
static void run_gradient(const void *context, ptrdiff_t task, void *scratch) {
    const struct gradient *g = context;
    ptrdiff_t block = task / g->stretches, stretch = task % g->stretches, number = panels(g->columns);
    ptrdiff_t m = g->rows * block / g->blocks, rows = g->rows * (block + 1) / g->blocks - m;
    ptrdiff_t first = number * stretch / g->stretches, last = number * (stretch + 1) / g->stretches;
    real *buffer[] = {scratch, (real *)scratch + PANEL}, *sums = buffer[1] + PANEL;
    struct columns c = panel_columns(g->columns, first);
    struct ahead now = slice(g, c, 0, buffer[0]);
    for (ptrdiff_t i = 0; now.panel && i < now.rows; i++)
        copy_row(now.at + i * now.pitch, now.count, now.panel + i * now.width);
    for (ptrdiff_t i = first, chunk = 0, step = 1; i < last; step++) {
        struct product p = {.a = g->a + m * g->a_pitch + g->depth * chunk / g->chunks,
                            .panel = now.panel ? now.panel : now.at,
                            .from = chunk ? sums : NULL,
                            .to = sums,
                            .rows = rows,
                            .depth = now.rows,
                            .a_pitch = g->a_pitch,
                            .panel_pitch = now.panel ? now.width : now.pitch,
                            .to_pitch = c.width,
                            .lanes = LANES};
        struct columns used = c;
        if (++chunk == g->chunks) {
            p.to = g->out + m * g->columns + c.first, p.to_pitch = g->columns;
            p.lanes = c.count - c.width + LANES, p.fetch = 1;
            chunk = 0;
            if (++i < last) c = panel_columns(g->columns, i);
        }
        if (i < last) p.ahead = slice(g, c, chunk, buffer[step % 2]);
        multiply(used.width / LANES, &p);
        now = p.ahead;
    }
}

static int gradient(struct gradient *g) {
    ptrdiff_t number = panels(g->columns);
    g->blocks = ceil_div(g->rows, ROW_BLOCK);
    g->stretches = min_size(number, max_size(ceil_div(TASKS, g->blocks), ceil_div(number, STRETCH)));
    g->chunks = ceil_div(g->depth, DEPTH);
    double work = (double)g->rows * (double)g->depth * (double)g->columns;
    return parallel_run(g->blocks * g->stretches, work / MULTIPLY_ADDS_PER_NANOSECOND,
                        (size_t)(2 * PANEL + ROW_BLOCK * WIDE * LANES) * sizeof(real), run_gradient, g);
}

int VARIANT(linear_grad_input)(const struct linear *l) {
    struct gradient g = {.a = l->grad_output,
                         .b = l->weight,
                         .out = l->grad_input,
                         .rows = l->rows,
                         .depth = l->out,
                         .columns = l->in,
                         .a_pitch = l->out,
                         .copies = l->rows > COPY_ROWS};
    return gradient(&g);
}

int VARIANT(linear_grad_weight)(const struct linear *l) {
    ptrdiff_t padded = ceil_div(l->rows, LANES) * LANES;
    size_t bytes = (size_t)(padded * l->out) * sizeof(real);
    real *transposed = pyconv_alloc(bytes);
    if (!transposed) return PYCONV_NO_MEMORY;
    struct transposition t = {.l = l, .to = transposed, .pitch = padded};
    int status =
        parallel_run(ceil_div(l->out, LANES), TRANSPOSE_COST(padded * l->out), 0, transpose_gradient, &t);
    struct gradient g = {.a = transposed,
                         .b = l->input,
                         .out = l->grad_weight,
                         .rows = l->out,
                         .depth = l->rows,
                         .columns = l->in,
                         .a_pitch = padded,
                         .copies = l->rows > COPY_ROWS};
    if (status == PYCONV_OK && l->grad_weight) status = gradient(&g);
    pyconv_free(transposed, bytes);
    return status;
}
