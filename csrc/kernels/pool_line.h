/* Pooling of one channel: a vector is LANES neighbouring outputs of a row.
 *
 * The rows of the input that a block of rows of windows sees are laid out in scratch first, taken apart by
 * the residues q of the stride and with their padding:
 *
 *     line[q][t] = x[t S + q - P], or `fill` where that is no pixel
 *
 * so that tap s of window j is line[s D mod S][j + s D / S]: all vectors lie side by side, and none has an
 * edge. With a stride of more than 2 each tap has a row of its own instead, line[s][j] = x[j S + s D - P].
 * Where only a sum or a maximum is asked for, the rows of a window become one before (`enum down`): 3 x 3
 * windows take 6 loads instead of 9. A block has several rows, since what was stored a moment ago at other
 * offsets is slow to load (rows of 32 pixels were twice as slow one by one); its lines fit L1.
 *
 * Squares of 2 x 2 that tile the plane are taken apart as they are read, without lines: 1.3 to 1.8 times as
 * fast.
 */
#ifndef PYCONV_POOL_LINE_H
#define PYCONV_POOL_LINE_H

#include "pool.h"

struct pool_line {
    int one_by_one; /* vectors would be mostly empty, or the windows differ */
    int squares;    /* of 2 x 2, side by side, all of them whole: read where they are, without lines */
    ptrdiff_t width, stride, padding, dilation, kernel, windows;
    ptrdiff_t rows, pitch; /* of a line, and elements from one to the next */
    ptrdiff_t block, each; /* rows of windows to a block, and lines that each adds to the first one's */
    ptrdiff_t lines;       /* of a block */
    struct cover whole;    /* the outputs first <= j < last whose windows have all their taps */
    ptrdiff_t *offset;     /* [kernel] where tap s of window 0 is in a line */
    integer *first;        /* [windows, rounded up to whole vectors] a window's first tap in the input */
    real *divisor;         /* [the same] never 0 */
    void *memory;
    size_t bytes;
};

INLINE ivec load_integers(const integer *p) {
    ivec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE ptrdiff_t line_elements(const struct pool_line *line) { return line->rows * line->pitch; }

/* Scratch of a task */
INLINE size_t lines_bytes(const struct pool_line *line) {
    return (size_t)(line->lines * line_elements(line)) * sizeof(real);
}

/* The offset of tap s, by line->rows and line->pitch. */
INLINE ptrdiff_t tap_offset(const struct pool_line *line, ptrdiff_t s) {
    ptrdiff_t place = s * line->dilation, stride = line->stride;
    return stride > 2 ? s * line->pitch : place % stride * line->pitch + place / stride;
}

#define BLOCK_ELEMENTS ((ptrdiff_t)4096) /* of a block's lines, in L1; */
#define MOST_ELEMENTS ((ptrdiff_t)65536) /* of those of a single row of windows */
#define MOST_ROWS ((ptrdiff_t)16)

INLINE int are_squares(const struct pool_line *line, const struct pyconv_pool *pool) {
    int by_two = pool->kernel[0] == 2 && line->kernel == 2 && line->stride == 2;
    int dense = pool->dilation[0] == 1 && line->dilation == 1 && pool->padding[0] == 0 && line->padding == 0;
    return by_two && dense && line->windows >= LANES && 2 * line->windows <= line->width &&
           (pool->out_height - 1) * pool->stride[0] + 2 <= pool->height;
}

/* Fill the tables; free_line gives them back. down: a row of windows is made of one line, else of one for
 * each of its taps' rows. */
INLINE int make_line(const struct pyconv_pool *pool, const struct pool_axis *column, int down,
                     struct pool_line *line) {
    ptrdiff_t stride = pool->stride[1], kernel = pool->kernel[1], padding = pool->padding[1];
    int narrow = stride > 2 && pool->out_width < LANES / 2;
    *line = (struct pool_line){.one_by_one = pool->adaptive || narrow || kernel >= 4 * LANES};
    if (line->one_by_one) return PYCONV_OK;
    line->width = pool->width, line->stride = stride, line->padding = padding, line->kernel = kernel;
    line->dilation = pool->dilation[1], line->windows = pool->out_width;
    ptrdiff_t windows = ceil_div(pool->out_width, LANES) * LANES;
    line->rows = stride > 2 ? kernel : stride;
    line->pitch = windows;
    if (stride <= 2) /* what the taps read, and what a row's pixels fill in whole vectors */
        line->pitch = max_size(windows + (kernel - 1) * line->dilation / stride,
                               (padding + line->width) / stride + 1 + LANES);
    ptrdiff_t one = down ? 1 : min_size((pool->kernel[0] - 1) * pool->dilation[0] + 1, pool->height);
    line->each = down ? 1 : pool->stride[0];
    line->one_by_one = line_elements(line) > MOST_ELEMENTS / one;
    if (line->one_by_one) return PYCONV_OK;
    ptrdiff_t fit = (BLOCK_ELEMENTS / line_elements(line) - one) / line->each + 1;
    line->block = max_size(min_size(fit, MOST_ROWS), 1);
    line->lines = one + (line->block - 1) * line->each;
    line->bytes = (size_t)kernel * sizeof(ptrdiff_t) + (size_t)windows * 2 * sizeof(real);
    if (!(line->memory = pyconv_alloc(line->bytes))) return PYCONV_NO_MEMORY;
    line->offset = line->memory;
    line->first = (integer *)(line->offset + kernel);
    line->divisor = (real *)(line->first + windows);
    for (ptrdiff_t s = 0; s < kernel; s++) line->offset[s] = tap_offset(line, s);
    for (ptrdiff_t j = 0; j < windows; j++) {
        struct window window = {0};
        if (j < pool->out_width) window = column->window[j];
        line->first[j] = (integer)window.first_tap;
        line->divisor[j] = window.divisor ? (real)window.divisor : 1; /* all padding: 0 / 1 */
    }
    struct cover whole = {0, 0};
    while (whole.first < column->windows && column->window[whole.first].first_tap) whole.first++;
    whole.last = whole.first;
    while (whole.last < column->windows && column->window[whole.last].taps == kernel) whole.last++;
    line->whole = whole;
    line->squares = are_squares(line, pool);
    return PYCONV_OK;
}

INLINE void free_line(struct pool_line *line) {
    if (line->memory) pyconv_free(line->memory, line->bytes);
}

#define AHEAD (2048 / (ptrdiff_t)sizeof(real)) /* 2 KiB */

/* ---- Down: some rows become one ---- */

enum down { DOWN_SUM, DOWN_MAXIMUM };

/* Elements [0, n) of `rows` rows that lie `pitch` apart; other lanes are anything. */
INLINE vec look_down(enum down down, const real *x, ptrdiff_t rows, ptrdiff_t pitch, ptrdiff_t n) {
    vec all = load_some(x, n);
    __builtin_prefetch(x + AHEAD);
    for (ptrdiff_t r = 1; r < rows; r++) {
        __builtin_prefetch(x + r * pitch + AHEAD);
        vec y = load_some(x + r * pitch, n);
        all = down == DOWN_SUM ? all + y : choose((y > all) | (y != y), y, all);
    }
    return all;
}

/* ---- Apart: the line of rows from x on, in `to`, which holds nothing but `fill` before ---- */

INLINE void fill_lines(const struct pool_line *line, real fill, real *to) {
    ptrdiff_t count = line->lines * line_elements(line);
    for (ptrdiff_t i = 0; i < count; i++) to[i] = fill;
}

INLINE void lay_dense(enum down down, const struct pool_line *line, const real *x, ptrdiff_t rows,
                      ptrdiff_t pitch, real fill, real *to) {
    ptrdiff_t w = 0, rest;
    to += line->padding;
    for (; w + LANES <= line->width; w += LANES) store(to + w, look_down(down, x + w, rows, pitch, LANES));
    if ((rest = line->width - w)) /* no more than these: `fill` stays where it is */
        store(to + w, first_lanes(look_down(down, x + w, rows, pitch, rest), rest, splat(fill)));
}

/* A stride of 2. Pixel 2 m is place (2 m + P) / 2 of row P mod 2, pixel 2 m + 1 the next place. */
INLINE void lay_pairs(enum down down, const struct pool_line *line, const real *x, ptrdiff_t rows,
                      ptrdiff_t pitch, real fill, real *to) {
    ptrdiff_t padding = line->padding, width = line->width, w = 0;
    real *even = to + padding % 2 * line->pitch + padding / 2;
    real *odd = to + (padding + 1) % 2 * line->pitch + (padding + 1) / 2;
    for (; w + 2 * LANES <= width; w += 2 * LANES) {
        vec a = look_down(down, x + w, rows, pitch, LANES);
        vec b = look_down(down, x + w + LANES, rows, pitch, LANES);
        store(even + w / 2, even_lanes(a, b));
        store(odd + w / 2, odd_lanes(a, b));
    }
    if (w == width) return;
    vec a = splat(fill), b = a;
    ptrdiff_t n = min_size(LANES, width - w), rest = width - w - n;
    a = first_lanes(look_down(down, x + w, rows, pitch, n), n, a);
    if (rest) b = first_lanes(look_down(down, x + w + LANES, rows, pitch, rest), rest, b);
    store(even + w / 2, even_lanes(a, b));
    store(odd + w / 2, odd_lanes(a, b));
}

INLINE void lay_apart(enum down down, const struct pool_line *line, const real *x, ptrdiff_t rows,
                      ptrdiff_t pitch, real *to) {
    for (ptrdiff_t s = 0; s < line->kernel; s++, to += line->pitch)
        for (ptrdiff_t j = 0; j < line->windows; j++) {
            ptrdiff_t w = j * line->stride + s * line->dilation - line->padding;
            if (w < 0 || w >= line->width) continue;
            real all = x[w];
            for (ptrdiff_t r = 1; r < rows; r++) {
                real y = x[r * pitch + w];
                all = down == DOWN_SUM ? all + y : y > all || y != y ? y : all;
            }
            to[j] = all;
        }
}

/* `rows` > 0 rows, `pitch` apart, put together; and `count` of such lines, whose rows begin `step` apart */
INLINE void lay_rows(enum down down, const struct pool_line *line, const real *x, ptrdiff_t rows,
                     ptrdiff_t pitch, ptrdiff_t count, ptrdiff_t step, real fill, real *to) {
    ptrdiff_t elements = line_elements(line);
    if (line->stride == 1)
        for (; count > 0; count--, x += step, to += elements) lay_dense(down, line, x, rows, pitch, fill, to);
    else if (line->stride == 2)
        for (; count > 0; count--, x += step, to += elements) lay_pairs(down, line, x, rows, pitch, fill, to);
    else
        for (; count > 0; count--, x += step, to += elements) lay_apart(down, line, x, rows, pitch, to);
}

INLINE void lay_lines(enum down down, const struct pool_line *line, const real *x, ptrdiff_t rows,
                      ptrdiff_t pitch, ptrdiff_t count, ptrdiff_t step, real fill, real *to) {
    if (rows == 1)
        lay_rows(down, line, x, 1, pitch, count, step, fill, to);
    else if (rows == 2)
        lay_rows(down, line, x, 2, pitch, count, step, fill, to);
    else if (rows == 3)
        lay_rows(down, line, x, 3, pitch, count, step, fill, to);
    else
        lay_rows(down, line, x, rows, pitch, count, step, fill, to);
}

/* Of the rows of windows from `window` on, at most `rows`: how many have the same taps. */
INLINE ptrdiff_t alike(const struct window *window, ptrdiff_t rows) {
    ptrdiff_t n = 1;
    while (n < rows && window[n].taps == window->taps && window[n].first_tap == window->first_tap &&
           window[n].divisor == window->divisor)
        n++;
    return n;
}

/* Rows of windows of one image that are a block: those from `row` on, before `end`, which are alike. */
INLINE ptrdiff_t block_rows(const struct pool_line *line, const struct pyconv_pool *pool,
                            const struct window *window, ptrdiff_t row, ptrdiff_t end) {
    ptrdiff_t rest = min_size(end - row, pool->out_height - row % pool->out_height);
    return alike(window, min_size(line->block, rest));
}

/* ---- Runs that differ: lanes are outputs, each of which reads `count` elements from `begin` on ---- */

struct pool_runs {
    ptrdiff_t size, most;   /* outputs; the largest count */
    int32_t *begin;         /* [size, rounded up to whole vectors] */
    integer *first, *count; /* begin once more, and how many */
    void *memory;
    size_t bytes;
};

/* For `size` outputs; the caller fills them with set_run. free_runs gives them back. */
INLINE int make_runs(ptrdiff_t size, struct pool_runs *runs) {
    ptrdiff_t whole = ceil_div(size, LANES) * LANES;
    *runs =
        (struct pool_runs){.size = size, .bytes = (size_t)whole * (sizeof(int32_t) + 2 * sizeof(integer))};
    if (!(runs->memory = pyconv_alloc(runs->bytes))) return PYCONV_NO_MEMORY;
    memset(runs->memory, 0, runs->bytes);
    runs->first = runs->memory;
    runs->count = runs->first + whole;
    runs->begin = (int32_t *)(runs->count + whole);
    return PYCONV_OK;
}

INLINE void set_run(struct pool_runs *runs, ptrdiff_t i, ptrdiff_t begin, ptrdiff_t count) {
    runs->begin[i] = (int32_t)begin, runs->first[i] = (integer)begin, runs->count[i] = (integer)count;
    runs->most = max_size(runs->most, count);
}

INLINE void free_runs(struct pool_runs *runs) {
    if (runs->memory) pyconv_free(runs->memory, runs->bytes);
}

/* Element t of the runs of outputs i, i + 1, ..., `none` where there are fewer. Up to `most` elements beyond
 * those of all runs are read. */
INLINE vec run_elements(const struct pool_runs *runs, const real *line, ptrdiff_t i, ptrdiff_t t, real none) {
    ivec has = load_integers(runs->count + i) > (integer)t;
    return choose(has, load_at(line + t, runs->begin + i), splat(none));
}

/* The same of a line of one vector, 0 where there are fewer */
INLINE vec permuted_elements(const struct pool_runs *runs, vec line, ptrdiff_t i, ptrdiff_t t) {
    ivec has = load_integers(runs->count + i) > (integer)t;
    return choose(has, permute_lanes(line, load_integers(runs->first + i) + (integer)t), (vec){0});
}

#endif
