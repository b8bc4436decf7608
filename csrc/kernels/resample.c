/* Resampling: every output pixel is a weighted sum of input pixels, by row and by column.
 *
 *     y[n, i, j, c] = sum over the taps (h, a) of row i and (w, b) of column j of a b x[n, h, w, c]
 *
 * Interpolation and padding are two such sums, and so are their gradients, with the tables of taps
 * transposed. A row of the output is made in two steps: the rows it takes are added up in scratch (which
 * stays in L2; a single row of weight 1 is read where it is), and that line is then resampled along the
 * columns. A row with the taps of the one above is a copy of it. Bilinear images that don't grow take their
 * four pixels at once. With channels a vector runs over those of a pixel; without (planes) over the pixels of
 * a row, which are gathered. Rows are fetched AHEAD, since the processor sees too few of them to do so.
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
    const real *input;
    real *output;
};

INLINE ptrdiff_t place_of(const struct pyconv_taps *taps, ptrdiff_t i, ptrdiff_t tap) {
    return taps->place[tap * taps->size + i];
}
INLINE real weight_of(const struct pyconv_taps *taps, ptrdiff_t i, ptrdiff_t tap) {
    return taps->weight ? ((const real *)taps->weight)[tap * taps->size + i] : 1;
}

INLINE vec load_some(const real *p, ptrdiff_t n) { return n >= LANES ? load(p) : load_first(p, n); }
INLINE void store_some(real *p, vec v, ptrdiff_t n) {
    if (n >= LANES)
        store(p, v);
    else
        store_first(p, v, n);
}

static void fill(real *output, ptrdiff_t count, real value) {
    for (ptrdiff_t i = 0; i < count; i++) output[i] = value;
}

/* output[e] = the sum over `taps` taps of entry i of input[place][e], for rows of `elements`. What `ahead`
 * elements on is read next is fetched. */
INLINE void add_taps(const struct pyconv_taps *table, ptrdiff_t i, ptrdiff_t taps, const real *input,
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

/* ---- Down: rows ---- */

/* The sum of the input rows that output row i takes. */
static const real *row_sum(const struct pyconv_taps *row, ptrdiff_t i, const real *image, ptrdiff_t elements,
                           real *scratch) {
    ptrdiff_t taps = row->count[i];
    if (taps == 1 && !row->weight) return image + place_of(row, i, 0) * elements;
    if (taps == 2)
        add_taps(row, i, 2, image, elements, AHEAD, scratch);
    else
        add_taps(row, i, taps, image, elements, AHEAD, scratch);
    return scratch;
}

/* Whether rows i and i - 1 are the same. */
static int repeats(const struct pyconv_taps *row, ptrdiff_t i) {
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
    for (ptrdiff_t j = 0, run; j < column->size; j += run, output += run * channels) {
        ptrdiff_t taps = column->count[j];
        run = taps == 1 && column->run ? column->run[j] : 1;
        if (taps == 0)
            fill(output, channels, (real)job->sizes.value);
        else if (taps == 1 && !column->weight)
            copy_elements(line + place_of(column, j, 0) * channels, run * channels, output);
        else if (taps == 2)
            add_taps(column, j, 2, line, channels, 0, output);
        else if (taps == 4)
            add_taps(column, j, 4, line, channels, 0, output);
        else
            add_taps(column, j, taps, line, channels, 0, output);
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

static real one_pixel(const struct job *job, ptrdiff_t j, const real *line) {
    const struct pyconv_taps *column = &job->sizes.column;
    real sum = 0;
    for (ptrdiff_t t = 0; t < column->count[j]; t++)
        sum += weight_of(column, j, t) * line[place_of(column, j, t)];
    return column->count[j] ? sum : (real)job->sizes.value;
}

static void across_plane(const struct job *job, const real *line, real *output) {
    const struct pyconv_taps *column = &job->sizes.column;
    ptrdiff_t j = 0;
    if (column->run) { /* single taps of weight 1, and gaps */
        for (ptrdiff_t run; j < column->size; j += run) {
            run = column->run[j];
            if (run >= LANES)
                copy_elements(line + place_of(column, j, 0), run, output + j);
            else if (column->even && j + LANES <= column->size)
                store(output + j, load_at(line, column->place + j)), run = LANES;
            else
                output[j] = one_pixel(job, j, line), run = 1;
        }
        return;
    }
    for (; column->even && j + LANES <= column->size; j += LANES) {
        if (column->most == 2)
            store(output + j, gather_pixels(column, j, 2, line));
        else if (column->most == 4)
            store(output + j, gather_pixels(column, j, 4, line));
        else
            store(output + j, gather_pixels(column, j, column->most, line));
    }
    for (; j < column->size; j++) output[j] = one_pixel(job, j, line);
}

/* ---- Both at once: two taps by two, which images that don't grow use once ---- */

static int takes_squares(const struct pyconv_resample *sizes) {
    const struct pyconv_taps *row = &sizes->row, *column = &sizes->column;
    if (sizes->channels < LANES || !row->weight || !column->weight || column->size > sizes->width) return 0;
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

/* ---- A task is a run of rows ---- */

static void run_rows(const void *context, ptrdiff_t task, void *scratch) {
    const struct job *job = context;
    const struct pyconv_resample *sizes = &job->sizes;
    const struct pyconv_taps *down = &sizes->row;
    ptrdiff_t channels = sizes->channels, out_elements = sizes->column.size * channels;
    ptrdiff_t begin = task * job->rows_per_task;
    int squares = takes_squares(sizes);
    ptrdiff_t end = min_size(begin + job->rows_per_task, sizes->images * down->size);
    for (ptrdiff_t row = begin; row < end; row++) {
        ptrdiff_t i = row % down->size;
        const real *image = job->input + row / down->size * sizes->height * sizes->width * channels;
        real *output = job->output + row * out_elements;
        if (down->count[i] == 0) {
            fill(output, out_elements, (real)sizes->value);
        } else if (row > begin && i > 0 && repeats(down, i)) {
            copy_elements(output - out_elements, out_elements, output);
        } else if (squares && down->count[i] == 2) {
            add_squares(job, i, image, output);
        } else {
            const real *line = row_sum(down, i, image, sizes->width * channels, scratch);
            if (channels == 1)
                across_plane(job, line, output);
            else
                across_channels(job, line, output);
        }
    }
}

static int resample(const struct pyconv_resample *sizes, const void *input, void *output) {
    struct job job = {.sizes = *sizes, .input = input, .output = output};
    ptrdiff_t elements = sizes->column.size * sizes->channels, rows = sizes->images * sizes->row.size;
    ptrdiff_t read = sizes->images * sizes->height * sizes->width * sizes->channels;
    job.rows_per_task = max_size(TASK_ELEMENTS / max_size(elements, 1), 1);
    double cost = NANOSECONDS(((double)rows * (double)elements + (double)read) * sizeof(real));
    return parallel_run(ceil_div(rows, job.rows_per_task), cost,
                        (size_t)(sizes->width * sizes->channels) * sizeof(real), run_rows, &job);
}

const struct pyconv_resample_kernels KERNELS(resample) = {resample};
