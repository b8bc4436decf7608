/* Memory layout: NCHW to NHWC and back, as a batch of matrix transposes.
 *
 *     output[b][j][i] = input[b][i][j]
 *
 * Squares of LANES x LANES elements are transposed in registers: LANES rows are shuffled with their
 * neighbours half a square away, log2(LANES) times, which takes 16 + 16 of the 32 registers of AVX-512. A
 * task is a block of about TASK_ELEMENTS elements, whole rows or whole columns where these are short, so that
 * each cache line is read and written once. Images of 2 to 4 channels interleave their planes directly.
 */
#include "parallel.h"
#include "pyconv.h"
#include "transpose.h"

#define TASK_ELEMENTS ((ptrdiff_t)32768)
#define SHORT ((ptrdiff_t)256)
#define FEW_CHANNELS 4

struct transpose {
    ptrdiff_t rows, columns;
    ptrdiff_t row_block, column_block; /* multiples of LANES, or all */
    ptrdiff_t row_blocks, column_blocks;
    const real *input;
    real *output;
};

static void run_transpose(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct transpose *job = context;
    ptrdiff_t block = task % (job->row_blocks * job->column_blocks);
    ptrdiff_t matrix = task / (job->row_blocks * job->column_blocks) * job->rows * job->columns;
    ptrdiff_t row = block / job->column_blocks * job->row_block,
              column = block % job->column_blocks * job->column_block;
    ptrdiff_t row_end = min_size(row + job->row_block, job->rows);
    ptrdiff_t column_end = min_size(column + job->column_block, job->columns);
    for (ptrdiff_t j = column; j < column_end; j += LANES)
        for (ptrdiff_t i = row; i < row_end; i += LANES)
            transpose_square(job->input + matrix + i * job->columns + j, job->columns,
                             min_size(LANES, row_end - i), min_size(LANES, column_end - j),
                             job->output + matrix + j * job->rows + i, job->rows);
}

/* ---- Few channels ---- */

/* Pixels [begin, end) of `channels` planes into NHWC, or out of it. */
INLINE void interleave(const real *input, real *output, ptrdiff_t pixels, ptrdiff_t begin, ptrdiff_t end,
                       int channels) {
    for (ptrdiff_t p = begin; p < end; p++)
        for (int c = 0; c < channels; c++) output[p * channels + c] = input[c * pixels + p];
}
INLINE void separate(const real *input, real *output, ptrdiff_t pixels, ptrdiff_t begin, ptrdiff_t end,
                     int channels) {
    for (ptrdiff_t p = begin; p < end; p++)
        for (int c = 0; c < channels; c++) output[c * pixels + p] = input[p * channels + c];
}

static void run_few(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct transpose *job = context;
    int from_planes = job->rows <= FEW_CHANNELS;
    ptrdiff_t channels = from_planes ? job->rows : job->columns,
              pixels = from_planes ? job->columns : job->rows;
    ptrdiff_t blocks = job->row_blocks * job->column_blocks, matrix = task / blocks * pixels * channels;
    ptrdiff_t block = from_planes ? job->column_block : job->row_block;
    ptrdiff_t begin = task % blocks * block, end = min_size(begin + block, pixels);
    const real *restrict input = job->input + matrix;
    real *restrict output = job->output + matrix;
#define FEW(function)                                                                                        \
    switch (channels) {                                                                                      \
    case 1: memcpy(output + begin, input + begin, (size_t)(end - begin) * sizeof(real)); break;              \
    case 2: function(input, output, pixels, begin, end, 2); break;                                           \
    case 3: function(input, output, pixels, begin, end, 3); break;                                           \
    default: function(input, output, pixels, begin, end, FEW_CHANNELS);                                      \
    }
    if (from_planes)
        FEW(interleave)
    else
        FEW(separate)
}

/* The larger of the two sides is cut, or both. */
static void cut(struct transpose *job) {
    ptrdiff_t rows = job->rows, columns = job->columns;
    job->row_block = max_size(rows, 1);
    job->column_block = max_size(columns, 1);
    if (columns > SHORT)
        job->column_block = max_size(TASK_ELEMENTS / max_size(min_size(rows, SHORT), 1) / LANES, 1) * LANES;
    if (rows > SHORT)
        job->row_block =
            columns > SHORT ? SHORT : max_size(TASK_ELEMENTS / max_size(columns, 1) / LANES, 1) * LANES;
    job->row_blocks = ceil_div(rows, job->row_block);
    job->column_blocks = ceil_div(columns, job->column_block);
}

static int transpose(ptrdiff_t batch, ptrdiff_t rows, ptrdiff_t columns, const void *input, void *output) {
    struct transpose job = {.rows = rows, .columns = columns, .input = input, .output = output};
    cut(&job);
    double nanoseconds =
        (double)batch * (double)rows * (double)columns * sizeof(real) / 5.0; /* 10 bytes each way */
    int few = min_size(rows, columns) <= FEW_CHANNELS;
    return parallel_run(batch * job.row_blocks * job.column_blocks, nanoseconds, 0,
                        few ? run_few : run_transpose, &job);
}

const struct pyconv_layout_kernels KERNELS(layout) = {transpose};
