/* Memory layout: NCHW to NHWC and back, as a batch of matrix transposes.
 *
 * A task is a band of BLOCK rows of one matrix; inside it, squares of BLOCK x BLOCK elements keep both
 * sides in L1 (2 x 32 x 32 x 4 bytes = 8 KiB).
 */
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"

#define BLOCK ((ptrdiff_t)32)

struct transpose {
    ptrdiff_t rows, columns, bands; /* bands: tasks to a matrix */
    const real *input;
    real *output;
};

static void run_transpose(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct transpose *job = context;
    ptrdiff_t matrix = task / job->bands, row_begin = task % job->bands * BLOCK;
    ptrdiff_t row_end = min_size(row_begin + BLOCK, job->rows);
    const real *input = job->input + matrix * job->rows * job->columns;
    real *output = job->output + matrix * job->rows * job->columns;
    for (ptrdiff_t column = 0; column < job->columns; column += BLOCK) {
        ptrdiff_t column_end = min_size(column + BLOCK, job->columns);
        for (ptrdiff_t j = column; j < column_end; j++)
            for (ptrdiff_t i = row_begin; i < row_end; i++)
                output[j * job->rows + i] = input[i * job->columns + j];
    }
}

static int transpose(ptrdiff_t batch, ptrdiff_t rows, ptrdiff_t columns, const void *input, void *output) {
    struct transpose job = {rows, columns, ceil_div(rows, BLOCK), input, output};
    double nanoseconds = (double)batch * (double)rows * (double)columns * 1.0;
    return parallel_run(batch * job.bands, nanoseconds, 0, run_transpose, &job);
}

const struct pyconv_layout_kernels KERNELS(layout) = {transpose};
