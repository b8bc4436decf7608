/* Resampling: every output pixel is a weighted sum of input pixels, by row and by column.
 *
 *     y[n, i, j, c] = sum over the taps (h, a) of row i and (w, b) of column j of a b x[n, h, w, c]
 *
 * Interpolation and padding are two such sums, and so are their gradients, with the tables of taps
 * transposed. A row of the output is made in two steps: the rows it takes are added up in scratch (which
 * stays in L2; a single row of weight 1 is read where it is), and that line is then resampled along the
 * columns. A row with the taps of the one above is a copy of it. Bilinear images that don't grow take their
 * four pixels at once. With channels a vector runs over those of a pixel; without (planes) over the pixels of
 * a row: where their places grow regularly, as those of most tables do but at their ends, whole vectors are
 * loaded and shuffled, elsewhere pixels are gathered. Rows are fetched AHEAD, since the processor sees too
 * few of them to do so.
 */
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"

#define AHEAD (2048 / (ptrdiff_t)sizeof(real)) /* 2 KiB */
#define TASK_ELEMENTS ((ptrdiff_t)32768)
/* A core streams about 10 bytes a nanosecond. */
#define NANOSECONDS(bytes) ((double)(bytes) / 10.0)

struct job {
    struct pyconv_resample sizes;
    ptrdiff_t rows_per_task;
    int squares, pairs, doubles; /* takes_squares, takes_pairs, takes_doubles */
    const int32_t *bordered;     /* bordered_run */
    const real *input;
    real *output;
};

INLINE ptrdiff_t place_of(const struct pyconv_taps *taps, ptrdiff_t i, ptrdiff_t tap) {
    return taps->place[tap * taps->size + i];
}
INLINE real weight_of(const struct pyconv_taps *taps, ptrdiff_t i, ptrdiff_t tap) {
    return taps->weight ? ((const real *)taps->weight)[tap * taps->size + i] : 1;
}

static void fill(real *output, ptrdiff_t count, real value) {
    for (ptrdiff_t i = 0; i < count; i++) output[i] = value;
}

/* output[e] = the sum over `taps` taps of entry i of input[place][e], for rows of `elements`. What `ahead`
 * elements on is read next is fetched. */
INLINE void add_few(const struct pyconv_taps *table, ptrdiff_t i, ptrdiff_t taps, const real *input,
                    ptrdiff_t elements, ptrdiff_t ahead, real *output) {
    const real *x[4];
    vec weight[4];
    for (ptrdiff_t t = 0; t < taps; t++) {
        x[t] = input + place_of(table, i, t) * elements;
        weight[t] = splat(weight_of(table, i, t));
    }
    ptrdiff_t e = 0;
    for (; e + LANES <= elements; e += LANES) {
        vec sum = weight[0] * load(x[0] + e);
        if (ahead) __builtin_prefetch(x[0] + e + ahead);
        for (ptrdiff_t t = 1; t < taps; t++) {
            sum += weight[t] * load(x[t] + e);
            if (ahead) __builtin_prefetch(x[t] + e + ahead);
        }
        store(output + e, sum);
    }
    if (e == elements) return;
    vec sum = weight[0] * load_first(x[0] + e, elements - e);
    for (ptrdiff_t t = 1; t < taps; t++) sum += weight[t] * load_first(x[t] + e, elements - e);
    store_first(output + e, sum, elements - e);
}

static void add_many(const struct pyconv_taps *table, ptrdiff_t i, ptrdiff_t taps, const real *input,
                     ptrdiff_t elements, ptrdiff_t ahead, real *output) {
    for (ptrdiff_t e = 0; e < elements; e += LANES) {
        ptrdiff_t n = min_size(LANES, elements - e);
        vec sum = {0};
        for (ptrdiff_t t = 0; t < taps; t++) {
            const real *x = input + place_of(table, i, t) * elements + e;
            if (ahead) __builtin_prefetch(x + ahead);
            sum += weight_of(table, i, t) * load_some(x, n);
        }
        store_some(output + e, sum, n);
    }
}

INLINE void add_taps(const struct pyconv_taps *table, ptrdiff_t i, const real *input, ptrdiff_t elements,
                     ptrdiff_t ahead, real *output) {
    switch (table->count[i]) {
    case 1: add_few(table, i, 1, input, elements, ahead, output); break;
    case 2: add_few(table, i, 2, input, elements, ahead, output); break;
    case 3: add_few(table, i, 3, input, elements, ahead, output); break;
    case 4: add_few(table, i, 4, input, elements, ahead, output); break;
    default: add_many(table, i, table->count[i], input, elements, ahead, output);
    }
}

/* ---- Down: rows, add_taps of whole ones ---- */

/* Whether rows i and i - 1 are the same. */
INLINE int repeats(const struct pyconv_taps *row, ptrdiff_t i) {
    if (row->count[i] != row->count[i - 1]) return 0;
    for (ptrdiff_t t = 0; t < row->count[i]; t++)
        if (place_of(row, i, t) != place_of(row, i - 1, t) ||
            weight_of(row, i, t) != weight_of(row, i - 1, t))
            return 0;
    return 1;
}

/* ---- Across: the columns of a line ---- */

static void across_channels(const struct job *job, const real *line, real *output) {
    const struct pyconv_taps *column = &job->sizes.column;
    ptrdiff_t channels = job->sizes.channels;
    for (ptrdiff_t j = 0, k = 0, run; j < column->size; j += run, output += run * channels) {
        ptrdiff_t taps = column->count[j], end = column->stretch[2 * k];
        int copied = taps == 1 && !column->weight;
        run = copied && column->stretch[2 * k + 1] == PYCONV_STEP_1 ? end - j : 1;
        if (taps == 0)
            fill(output, channels, (real)job->sizes.value);
        else if (copied)
            copy_elements(line + place_of(column, j, 0) * channels, run * channels, output);
        else
            add_taps(column, j, line, channels, 0, output);
        if (j + run == end) k++;
    }
}

/* LANES pixels; those whose number of taps is smaller than the most leave the others out. */
INLINE vec gather_pixels(const struct pyconv_taps *column, ptrdiff_t j, ptrdiff_t most, const real *line) {
    integer counts[LANES];
    ivec count;
    for (int l = 0; l < LANES; l++) counts[l] = column->count[j + l];
    memcpy(&count, counts, sizeof count);
    vec sum = {0};
    for (ptrdiff_t t = 0; t < most; t++) {
        vec x = load_at(line, column->place + t * column->size + j);
        if (column->weight) x *= load((const real *)column->weight + t * column->size + j);
        sum += choose(count > (integer)t, x, (vec){0});
    }
    return sum;
}

/* The pixels from `begin` on by vectors, as far as these reach; returns the first one that is left. */
static ptrdiff_t across_irregular(const struct pyconv_taps *column, ptrdiff_t begin, ptrdiff_t end,
                                  const real *line, real *output) {
    ptrdiff_t j = begin;
    for (; column->even && j + LANES <= end; j += LANES) {
        if (column->most == 1 && !column->weight)
            store(output + j, load_at(line, column->place + j));
        else if (column->most == 2)
            store(output + j, gather_pixels(column, j, 2, line));
        else if (column->most == 4)
            store(output + j, gather_pixels(column, j, 4, line));
        else
            store(output + j, gather_pixels(column, j, column->most, line));
    }
    return j;
}

INLINE vec weighted(const struct pyconv_taps *column, ptrdiff_t j, ptrdiff_t tap, vec x) {
    return column->weight ? x * load((const real *)column->weight + tap * column->size + j) : x;
}

/* LANES pixels from j on, 2 LANES of alternating ones, of a regular stretch. Of two taps side by side one has
 * the even and the other the odd ones of the same elements. Alternating runs, which pixel_shuffle puts
 * together, are too short for the processor to fetch by itself: 1.5 times as fast on planes of 16 x 16. */
INLINE void regular_pixels(const struct pyconv_taps *column, ptrdiff_t j, enum pyconv_step step,
                           ptrdiff_t taps, const real *line, real *output) {
    vec sum = {0}, high = {0};
    for (ptrdiff_t t = 0; t < taps; t++) {
        const real *x = line + place_of(column, j, t);
        if (step == PYCONV_STEP_1) {
            sum += weighted(column, j, t, load(x));
        } else if (step == PYCONV_ALTERNATING) {
            const real *other = line + place_of(column, j + 1, t);
            vec even = load(x), odd = load(other);
            __builtin_prefetch(x + 2 * AHEAD);
            __builtin_prefetch(other + 2 * AHEAD);
            sum += weighted(column, j, t, zip_low(even, odd));
            high += weighted(column, j + LANES, t, zip_high(even, odd));
        } else if (t + 1 < taps && place_of(column, j, t + 1) == place_of(column, j, t) + 1) {
            vec front = load_front(x), back = load_back(x);
            sum += weighted(column, j, t, even_places(front, back));
            t++;
            sum += weighted(column, j, t, odd_places(front, back));
        } else {
            sum += weighted(column, j, t, load_stepped(x));
        }
    }
    store(output + j, sum);
    if (step == PYCONV_ALTERNATING) store(output + j + LANES, high);
}

/* A regular stretch of at least as many pixels as are made at once; the last ones may be made twice. */
INLINE void across_regular(const struct pyconv_taps *column, ptrdiff_t begin, ptrdiff_t end,
                           enum pyconv_step step, ptrdiff_t taps, const real *line, real *output) {
    ptrdiff_t width = step == PYCONV_ALTERNATING ? 2 * LANES : LANES;
    for (ptrdiff_t j = begin; j < end; j += width)
        regular_pixels(column, min_size(j, end - width), step, taps, line, output);
}

/* A stretch in a step other than that of a copy. */
static void across_steps(const struct pyconv_taps *column, enum pyconv_step step, ptrdiff_t begin,
                         ptrdiff_t end, const real *line, real *output) {
    ptrdiff_t taps = column->count[begin];
#define ACROSS(step)                                                                                         \
    switch (taps) {                                                                                          \
    case 1: across_regular(column, begin, end, step, 1, line, output); break;                                \
    case 2: across_regular(column, begin, end, step, 2, line, output); break;                                \
    case 4: across_regular(column, begin, end, step, 4, line, output); break;                                \
    default: across_regular(column, begin, end, step, taps, line, output);                                   \
    }
    if (step == PYCONV_STEP_1)
        ACROSS(PYCONV_STEP_1)
    else if (step == PYCONV_STEP_2)
        ACROSS(PYCONV_STEP_2)
    else
        ACROSS(PYCONV_ALTERNATING)
#undef ACROSS
}

/* One pixel of a plane's line. */
INLINE real pixel_of(const struct pyconv_taps *column, ptrdiff_t j, const real *line, real value) {
    ptrdiff_t taps = column->count[j];
    if (taps == 0) return value;
    real sum = line[place_of(column, j, 0)] * weight_of(column, j, 0);
    for (ptrdiff_t t = 1; t < taps; t++) sum += line[place_of(column, j, t)] * weight_of(column, j, t);
    return sum;
}

/* The table is a copy, and its addresses are in variables: what is stored could be theirs otherwise, as far
 * as the compiler knows. */
static void across_plane(const struct pyconv_taps *table, real value, const real *line, real *output) {
    const struct pyconv_taps column = *table;
    const int32_t *stretch = column.stretch, *last = stretch + 2 * column.stretches;
    for (ptrdiff_t j = 0, end; stretch < last; stretch += 2, j = end) {
        end = stretch[0];
        enum pyconv_step step = (enum pyconv_step)stretch[1];
        if (step == PYCONV_STEP_1 && column.count[j] == 1 && !column.weight) {
            copy_elements(line + column.place[j], end - j, output + j);
            continue;
        }
        if (step != PYCONV_IRREGULAR && column.count[j] &&
            end - j >= (step == PYCONV_ALTERNATING ? 2 * LANES : LANES)) {
            across_steps(table, step, j, end, line, output);
            continue;
        }
        if (end - j >= LANES) j = across_irregular(table, j, end, line, output);
        for (; j < end; j++) output[j] = pixel_of(&column, j, line, value);
    }
}

/* ---- Both at once: two taps by two, which images that don't grow use once ---- */

static int takes_squares(const struct pyconv_resample *sizes) {
    const struct pyconv_taps *column = &sizes->column;
    if (sizes->channels < LANES || column->size > sizes->width) return 0;
    for (ptrdiff_t j = 0; j < column->size; j++)
        if (column->count[j] != 2) return 0;
    return 1;
}

static void add_squares(const struct job *job, ptrdiff_t i, const real *image, real *output) {
    const struct pyconv_taps *row = &job->sizes.row, *column = &job->sizes.column;
    ptrdiff_t channels = job->sizes.channels, line = job->sizes.width * channels;
    const real *above = image + place_of(row, i, 0) * line, *below = image + place_of(row, i, 1) * line;
    real a = weight_of(row, i, 0), b = weight_of(row, i, 1);
    for (ptrdiff_t j = 0; j < column->size; j++, output += channels) {
        ptrdiff_t left = place_of(column, j, 0) * channels, right = place_of(column, j, 1) * channels;
        real c = weight_of(column, j, 0), d = weight_of(column, j, 1);
        for (ptrdiff_t e = 0; e < channels; e += LANES) {
            ptrdiff_t n = min_size(LANES, channels - e);
            vec first = a * load_some(above + left + e, n) + b * load_some(below + left + e, n);
            vec second = a * load_some(above + right + e, n) + b * load_some(below + right + e, n);
            __builtin_prefetch(above + right + e + AHEAD);
            __builtin_prefetch(below + right + e + AHEAD);
            store_some(output + e, c * first + d * second, n);
        }
    }
}

/* Whether every pixel of a plane is the sum of two neighbours in two rows, as where images get half as large.
 */
static int takes_pairs(const struct pyconv_resample *sizes) {
    const struct pyconv_taps *row = &sizes->row, *column = &sizes->column;
    for (ptrdiff_t i = 0; i < row->size; i++)
        if (row->count[i] != 2) return 0;
    return sizes->channels == 1 && column->size >= LANES && column->count[0] == 2 && column->stretches == 1 &&
           column->stretch[1] == PYCONV_STEP_2 && place_of(column, 0, 1) == place_of(column, 0, 0) + 1;
}

/* Rows from i on, over the ends of images. */
static void add_pairs(const struct job *job, ptrdiff_t i, ptrdiff_t rows, const real *image, real *output) {
    const struct pyconv_taps row = job->sizes.row, column = job->sizes.column;
    ptrdiff_t width = job->sizes.width, height = job->sizes.height, first = column.place[0];
    for (; rows > 0; rows--, output += column.size) {
        const real *above = image + place_of(&row, i, 0) * width + first;
        const real *below = image + place_of(&row, i, 1) * width + first;
        vec a = splat(weight_of(&row, i, 0)), b = splat(weight_of(&row, i, 1));
        for (ptrdiff_t step = 0; step < column.size; step += LANES) {
            ptrdiff_t j = min_size(step, column.size - LANES);
            __builtin_prefetch(above + 2 * j + AHEAD);
            __builtin_prefetch(below + 2 * j + AHEAD);
            vec front = a * load_front(above + 2 * j) + b * load_front(below + 2 * j);
            vec back = a * load_back(above + 2 * j) + b * load_back(below + 2 * j);
            store(output + j, weighted(&column, j, 0, even_places(front, back)) +
                                  weighted(&column, j, 1, odd_places(front, back)));
        }
        if (++i == row.size) i = 0, image += height * width;
    }
}

/* Whether every pixel of a plane is one pixel, and two neighbours the same one: as where images get twice as
 * large, or in the gradient of pairs. */
static int takes_doubles(const struct pyconv_resample *sizes) {
    const struct pyconv_taps *row = &sizes->row, *column = &sizes->column;
    for (ptrdiff_t i = 0; i < row->size; i++)
        if (row->count[i] != 1) return 0;
    return sizes->channels == 1 && column->size >= 2 * LANES && column->count[0] == 1 &&
           column->stretches == 1 && column->stretch[1] == PYCONV_ALTERNATING;
}

/* Rows from i on, over the ends of images. */
static void add_doubles(const struct job *job, ptrdiff_t i, ptrdiff_t rows, const real *image, real *output) {
    const struct pyconv_taps row = job->sizes.row, column = job->sizes.column;
    ptrdiff_t width = job->sizes.width, height = job->sizes.height, size = column.size;
    for (; rows > 0; rows--, output += size) {
        const real *line = image + place_of(&row, i, 0) * width;
        vec a = splat(weight_of(&row, i, 0));
        for (ptrdiff_t step = 0; step < size; step += 2 * LANES) {
            ptrdiff_t j = min_size(step, size - 2 * LANES);
            vec even = a * load(line + place_of(&column, j, 0));
            vec odd = a * load(line + place_of(&column, j + 1, 0));
            store(output + j, weighted(&column, j, 0, zip_low(even, odd)));
            store(output + j + LANES, weighted(&column, j + LANES, 0, zip_high(even, odd)));
        }
        if (++i == row.size) i = 0, image += height * width;
    }
}

/* ---- Padding and cutting of planes, and their gradients: a run of pixels and its borders ---- */

/* The run of single pixels, LANES or more, that all of a line is but for borders: its stretch, or NULL. */
static const int32_t *bordered_run(const struct pyconv_resample *sizes) {
    const struct pyconv_taps *column = &sizes->column;
    if (sizes->channels > 1 || sizes->row.weight || column->weight) return NULL;
    for (ptrdiff_t k = 0, begin = 0; k < column->stretches; begin = column->stretch[2 * k++]) {
        const int32_t *stretch = column->stretch + 2 * k;
        if (stretch[1] != PYCONV_STEP_1 || column->count[begin] != 1) continue;
        return column->size - (stretch[0] - begin) < LANES && stretch[0] - begin >= LANES ? stretch : NULL;
    }
    return NULL;
}

INLINE real border_pixel(const struct pyconv_taps *column, ptrdiff_t j, int single, const real *line,
                         real value) {
    if (single) return column->count[j] ? line[column->place[j]] : value;
    return pixel_of(column, j, line, value);
}

/* Rows from i on, over the ends of images; with `single`, no pixel has more than one tap. */
INLINE void add_borders(const struct job *job, ptrdiff_t i, ptrdiff_t rows, int single, const real *image,
                        real *output, real *scratch) {
    const struct pyconv_taps row = job->sizes.row, column = job->sizes.column;
    const int32_t *run = job->bordered;
    ptrdiff_t size = column.size, width = job->sizes.width, height = job->sizes.height;
    ptrdiff_t begin = run > column.stretch ? run[-2] : 0, end = run[0], from = column.place[begin] - begin;
    real value = (real)job->sizes.value;
    for (; rows > 0; rows--, output += size) {
        if (row.count[i]) {
            const real *line = image + row.place[i] * width;
            if (!single && row.count[i] > 1) add_taps(&row, i, image, width, AHEAD, scratch), line = scratch;
            for (ptrdiff_t j = 0; j < begin; j++) output[j] = border_pixel(&column, j, single, line, value);
            for (ptrdiff_t j = begin; j + LANES <= end; j += LANES) store(output + j, load(line + from + j));
            store(output + end - LANES, load(line + from + end - LANES));
            for (ptrdiff_t j = end; j < size; j++) output[j] = border_pixel(&column, j, single, line, value);
        } else {
            fill(output, size, value);
        }
        if (++i == row.size) i = 0, image += height * width;
    }
}

/* ---- Any taps ---- */

/* Rows from i on, over the ends of images; the first is made without a look at the one before it. */
static void add_rows(const struct job *job, ptrdiff_t i, ptrdiff_t rows, const real *image, real *output,
                     real *scratch) {
    const struct pyconv_resample *sizes = &job->sizes;
    const struct pyconv_taps *down = &sizes->row;
    ptrdiff_t width = sizes->width * sizes->channels, size = sizes->column.size * sizes->channels;
    for (ptrdiff_t row = 0; row < rows; row++, output += size) {
        if (down->count[i] == 0) {
            fill(output, size, (real)sizes->value);
        } else if (row > 0 && i > 0 && repeats(down, i)) {
            copy_elements(output - size, size, output);
        } else if (job->squares && down->count[i] == 2) {
            add_squares(job, i, image, output);
        } else {
            const real *line = image + place_of(down, i, 0) * width;
            if (down->count[i] > 1 || down->weight)
                add_taps(down, i, image, width, AHEAD, scratch), line = scratch;
            if (sizes->channels == 1)
                across_plane(&sizes->column, (real)sizes->value, line, output);
            else
                across_channels(job, line, output);
        }
        if (++i == down->size) i = 0, image += sizes->height * width;
    }
}

/* ---- A task is a run of rows ---- */

static void run_rows(const void *context, ptrdiff_t task, void *scratch) {
    const struct job *job = context;
    const struct pyconv_resample *sizes = &job->sizes;
    const struct pyconv_taps *down = &sizes->row, *across = &sizes->column;
    ptrdiff_t begin = task * job->rows_per_task, i = begin % down->size;
    ptrdiff_t rows = min_size(job->rows_per_task, sizes->images * down->size - begin);
    const real *image = job->input + begin / down->size * sizes->height * sizes->width * sizes->channels;
    real *output = job->output + begin * across->size * sizes->channels;
    if (job->bordered && down->most == 1 && across->most == 1)
        add_borders(job, i, rows, 1, image, output, scratch);
    else if (job->bordered)
        add_borders(job, i, rows, 0, image, output, scratch);
    else if (job->pairs)
        add_pairs(job, i, rows, image, output);
    else if (job->doubles)
        add_doubles(job, i, rows, image, output);
    else
        add_rows(job, i, rows, image, output, scratch);
}

static int resample(const struct pyconv_resample *sizes, const void *input, void *output) {
    struct job job = {.sizes = *sizes,
                      .squares = takes_squares(sizes),
                      .pairs = takes_pairs(sizes),
                      .doubles = takes_doubles(sizes),
                      .bordered = bordered_run(sizes),
                      .input = input,
                      .output = output};
    ptrdiff_t elements = sizes->column.size * sizes->channels, rows = sizes->images * sizes->row.size;
    ptrdiff_t read = sizes->images * sizes->height * sizes->width * sizes->channels;
    job.rows_per_task = max_size(TASK_ELEMENTS / max_size(elements, 1), 1);
    double cost = NANOSECONDS(((double)rows * (double)elements + (double)read) * sizeof(real));
    return parallel_run(ceil_div(rows, job.rows_per_task), cost,
                        (size_t)(sizes->width * sizes->channels) * sizeof(real), run_rows, &job);
}

const struct pyconv_resample_kernels KERNELS(resample) = {resample};
