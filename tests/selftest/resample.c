/* Interpolation and padding: sums over taps of each axis. */
#include "selftest.h"

/* One axis: `out` places of random taps of `extent`, at most `most` of them, with weights of halves. The
 * kernel's arrays are inputs of the case. */
struct axis {
    struct pyconv_taps taps;
    struct array *count, *place, *weight, *stretch;
};

/* Whether places go on in `step` from element i to i + 1, or to i + 2 if they alternate. */
static int goes_on(const struct axis *axis, ptrdiff_t i, enum pyconv_step step) {
    ptrdiff_t out = axis->taps.size, period = step == PYCONV_ALTERNATING ? 2 : 1;
    if (i + period >= out) return 0;
    for (ptrdiff_t k = 1; k <= period; k++)
        if (axis->count->value[i] != axis->count->value[i + k]) return 0;
    for (ptrdiff_t t = 0; t < (ptrdiff_t)axis->count->value[i]; t++)
        if (axis->place->value[t * out + i + period] !=
            axis->place->value[t * out + i] + (step == PYCONV_STEP_2 ? 2 : 1))
            return 0;
    return 1;
}

/* Each regular stretch of some elements, in the first step that fits, and what lies between. */
static void fill_stretches(struct axis *axis) {
    ptrdiff_t out = axis->taps.size, stretches = 0, irregular = 0;
    axis->stretch = input(INT32, 2 * out);
    for (ptrdiff_t i = 0; i < out;) {
        ptrdiff_t length = 0, step = PYCONV_STEP_1;
        for (; step <= PYCONV_ALTERNATING; step++) {
            ptrdiff_t period = step == PYCONV_ALTERNATING ? 2 : 1;
            for (length = 0; goes_on(axis, i + length, (enum pyconv_step)step);) length++;
            if (length && (length += period) > 4) break;
        }
        if (step <= PYCONV_ALTERNATING) {
            irregular = 0;
        } else if (irregular) {
            i++, axis->stretch->value[2 * stretches - 2]++;
            continue;
        } else {
            irregular = 1, length = 1, step = PYCONV_IRREGULAR;
        }
        i += length;
        axis->stretch->value[2 * stretches] = (double)i;
        axis->stretch->value[2 * stretches++ + 1] = (double)step;
    }
    axis->taps.stretch = data(axis->stretch);
    axis->taps.stretches = stretches;
}

/* The place of tap t of element i before it is taken modulo the extent. */
static ptrdiff_t place_in(int pattern, ptrdiff_t i, ptrdiff_t t, ptrdiff_t shift) {
    switch (pattern) {
    case 0: return pick(1000);
    case 1: return i + t + shift;
    case 2: return 2 * i + t * (1 + shift % 2) + shift;
    default: return i / 2 + i % 2 * shift + t;
    }
}

static struct axis random_axis(ptrdiff_t extent, ptrdiff_t out) {
    ptrdiff_t most = pick(2) ? 1 : 1 + pick(4);
    int weighted = most > 1 || pick(2), even = (int)pick(2), equal = (int)pick(2), pattern = (int)pick(4);
    struct axis axis = {.count = input(INT32, out), .place = input(INT32, most * out)};
    if (weighted) axis.weight = input(REAL, most * out);
    ptrdiff_t shift = pick(extent);
    for (ptrdiff_t i = 0; i < out; i++) {
        axis.count->value[i] = (double)(equal ? most : even ? 1 + pick(most) : pick(most + 1));
        for (ptrdiff_t t = 0; t < most; t++) {
            axis.place->value[t * out + i] = (double)(place_in(pattern, i, t, shift) % extent);
            if (weighted) axis.weight->value[t * out + i] = 0.5 * (double)(pick(9) - 4);
        }
        if (out > 0 && i == 0) axis.count->value[0] = (double)most; /* as `most` says */
    }
    axis.taps = (struct pyconv_taps){.size = out,
                                     .most = most,
                                     .count = data(axis.count),
                                     .place = data(axis.place),
                                     .weight = data(axis.weight),
                                     .even = even || equal};
    fill_stretches(&axis);
    return axis;
}

static double weight_of(const struct axis *axis, ptrdiff_t t, ptrdiff_t i) {
    return axis->weight ? axis->weight->value[t * axis->taps.size + i] : 1;
}

/* One output, of `inner` elements that lie beside each other: row i and column j of an image. */
static void reference(const struct pyconv_resample *sizes, const struct axis *row, const struct axis *column,
                      ptrdiff_t i, ptrdiff_t j, const double *image, double *to) {
    ptrdiff_t down = (ptrdiff_t)row->count->value[i], across = (ptrdiff_t)column->count->value[j];
    for (ptrdiff_t c = 0; c < sizes->channels; c++) {
        to[c] = down && across ? 0 : sizes->value;
        for (ptrdiff_t r = 0; r < down; r++)
            for (ptrdiff_t s = 0; s < across; s++) {
                ptrdiff_t y = (ptrdiff_t)row->place->value[r * row->taps.size + i];
                ptrdiff_t x = (ptrdiff_t)column->place->value[s * column->taps.size + j];
                to[c] += image[(y * sizes->width + x) * sizes->channels + c] * weight_of(row, r, i) *
                         weight_of(column, s, j);
            }
    }
}

void test_resample(void) {
    for (int k = 0; k < 400; k++) {
        struct pyconv_resample sizes = {.images = pick(4), .height = 1 + pick(12), .width = 1 + pick(90)};
        sizes.channels = pick(3) ? 1 + pick(40) : 1;
        ptrdiff_t rows = 1 + pick(20), columns = 1 + pick(60);
        begin_case("resample %td x %td x %td x %td to %td x %td", sizes.images, sizes.height, sizes.width,
                   sizes.channels, rows, columns);
        struct axis row = random_axis(sizes.height, rows), column = random_axis(sizes.width, columns);
        sizes.row = row.taps, sizes.column = column.taps, sizes.value = (double)pick(3);
        ptrdiff_t plane = sizes.height * sizes.width * sizes.channels;
        struct array *x = whole(sizes.images * plane, 9);
        struct array *y = output(REAL, sizes.images * rows * columns * sizes.channels);
        for (ptrdiff_t o = 0; o < sizes.images * rows * columns; o++)
            reference(&sizes, &row, &column, o / columns % rows, o % columns,
                      x->value + o / columns / rows * plane, y->value + o * sizes.channels);
        RUN(kernels->resample->resample(&sizes, data(x), data(y)));
        expect("output", y, 0);
        end_case();
    }
}
