/* What maximum and average pooling share: which taps a window has, and which windows cover a pixel.
 *
 * A window of the plane is a vertical times a horizontal one, so two short tables per call describe all
 * of them, adaptive ones included.
 */
#ifndef PYCONV_POOL_H
#define PYCONV_POOL_H

#include "pyconv.h"
#include "simd.h"

/* The taps begin, begin + dilation, ... of one window along one axis that lie in the input. */
struct window {
    ptrdiff_t begin, taps;
    ptrdiff_t first_tap;    /* the number of the tap at `begin`, counting those in the padding */
    ptrdiff_t divisor;      /* the vertical times the horizontal one is what an average divides by */
    ptrdiff_t origin, last; /* the first and the last tap, were they all in the input; both grow with i */
};

/* The windows first <= i < last are those that may cover a pixel (with dilation they may skip it). */
struct cover {
    ptrdiff_t first, last;
};

struct pool_axis {
    ptrdiff_t extent, windows, dilation;
    struct window *window; /* [windows] */
    struct cover *cover;   /* [extent] */
};

struct pool_axes {
    struct pool_axis row, column;
    void *memory;
    size_t bytes;
};

INLINE struct window pool_window(const struct pyconv_pool *pool, int axis, ptrdiff_t extent,
                                 ptrdiff_t windows, ptrdiff_t i) {
    if (pool->adaptive) {
        ptrdiff_t begin = i * extent / windows, end = ceil_div((i + 1) * extent, windows);
        return (struct window){begin, end - begin, 0, end - begin, begin, end - 1};
    }
    ptrdiff_t kernel = pool->kernel[axis], dilation = pool->dilation[axis];
    ptrdiff_t origin = i * pool->stride[axis] - pool->padding[axis];
    ptrdiff_t first = origin < 0 ? ceil_div(-origin, dilation) : 0;
    ptrdiff_t last = origin < extent ? min_size(kernel, ceil_div(extent - origin, dilation)) : 0;
    ptrdiff_t taps = max_size(last - first, 0), divisor = taps;
    if (pool->divisor)
        divisor = axis == 0 ? pool->divisor : 1;
    else if (pool->count_include_pad)
        divisor = min_size(origin + kernel, extent + pool->padding[axis]) - origin;
    return (struct window){origin + first * dilation,       taps, first, divisor, origin,
                           origin + (kernel - 1) * dilation};
}

INLINE void fill_axis(const struct pyconv_pool *pool, int axis, struct pool_axis *line) {
    for (ptrdiff_t i = 0; i < line->windows; i++)
        line->window[i] = pool_window(pool, axis, line->extent, line->windows, i);
    ptrdiff_t first = 0, last = 0;
    for (ptrdiff_t x = 0; x < line->extent; x++) {
        const struct window *w = line->window;
        while (first < line->windows && w[first].last < x) first++;
        while (last < line->windows && w[last].origin <= x) last++;
        line->cover[x] = (struct cover){first, max_size(first, last)};
    }
}

/* Fill the tables; free_axes gives them back. */
INLINE int make_axes(const struct pyconv_pool *pool, struct pool_axes *axes) {
    axes->row = (struct pool_axis){pool->height, pool->out_height, pool->adaptive ? 1 : pool->dilation[0],
                                   NULL, NULL};
    axes->column =
        (struct pool_axis){pool->width, pool->out_width, pool->adaptive ? 1 : pool->dilation[1], NULL, NULL};
    size_t windows = (size_t)(pool->out_height + pool->out_width),
           pixels = (size_t)(pool->height + pool->width);
    axes->bytes = windows * sizeof(struct window) + pixels * sizeof(struct cover);
    if (!(axes->memory = pyconv_alloc(axes->bytes))) return PYCONV_NO_MEMORY;
    axes->row.window = axes->memory;
    axes->column.window = axes->row.window + pool->out_height;
    axes->row.cover = (struct cover *)(axes->column.window + pool->out_width);
    axes->column.cover = axes->row.cover + pool->height;
    fill_axis(pool, 0, &axes->row);
    fill_axis(pool, 1, &axes->column);
    return PYCONV_OK;
}

INLINE void free_axes(struct pool_axes *axes) { pyconv_free(axes->memory, axes->bytes); }

/* The number of the tap with which window i, one of those that may cover pixel x, does; -1 if it doesn't. */
INLINE ptrdiff_t tap_at(const struct pool_axis *line, ptrdiff_t i, ptrdiff_t x) {
    ptrdiff_t distance = x - line->window[i].origin;
    if (line->dilation == 1) return distance;
    return distance % line->dilation ? -1 : distance / line->dilation;
}

/* ---- How work is cut ----
 *
 * The rows of all images form one list, and a task is a run of them with about TASK_ELEMENTS elements. Where
 * rows are few and their windows tall, a task is a part of one row: some of its windows' rows of taps. */
#define TASK_ELEMENTS 32768
#define FEW_ROWS 16

struct pool_cut {
    ptrdiff_t rows, rows_per_task, parts, tasks;
};

/* taps: the rows of taps that most windows have, or 1 where they can't be parted. */
INLINE struct pool_cut cut_rows(ptrdiff_t rows, ptrdiff_t elements_per_row, ptrdiff_t taps) {
    struct pool_cut cut = {rows, max_size(TASK_ELEMENTS / max_size(elements_per_row, 1), 1), 1, 0};
    if (rows < FEW_ROWS && taps >= 4)
        cut.parts = min_size(ceil_div(elements_per_row, TASK_ELEMENTS), taps / 2);
    cut.tasks = ceil_div(rows, cut.rows_per_task) * cut.parts;
    return cut;
}

/* The cut of a forward pass, whose rows are those of the output. */
INLINE struct pool_cut cut_forward(const struct pyconv_pool *pool, int planes) {
    ptrdiff_t out_rows = max_size(pool->out_height, 1),
              elements = pool->height * pool->width * pool->channels;
    ptrdiff_t taps = pool->adaptive ? pool->height / out_rows : pool->kernel[0];
    return cut_rows(pool->images * pool->out_height, elements / out_rows, planes ? 1 : taps);
}

/* What one task does: rows [row, row_end) of the list, or a part of one. */
struct pool_part {
    ptrdiff_t row, row_end, part;
};

INLINE struct pool_part task_part(const struct pool_cut *cut, ptrdiff_t task) {
    ptrdiff_t row = task / cut->parts * cut->rows_per_task;
    return (struct pool_part){row, min_size(row + cut->rows_per_task, cut->rows), task % cut->parts};
}

/* The rows of taps of a window that belong to a part; perhaps none. */
INLINE struct window window_part(struct window row, const struct pool_axis *axis, ptrdiff_t part,
                                 ptrdiff_t parts) {
    ptrdiff_t first = row.taps * part / parts, last = row.taps * (part + 1) / parts;
    row.begin += first * axis->dilation;
    row.first_tap += first;
    row.taps = last - first;
    return row;
}

#endif
