/* Operators with one number for each channel: y = f x (dropout of whole channels), and PReLU,
 *
 *     y = x > 0 ? x : w x,   dL/dx = x > 0 ? g : w g,   dL/dw = sum over x <= 0 of x g.
 *
 * An array is seen as [outer][channels][inner]: channels-last images have inner = 1, planes have more. A task
 * is about CHUNK elements: whole rows of channels, or a group of planes, or a piece of one plane. Each task
 * sums up its part of dL/dw apart, and these are added in order.
 */
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"

#define CHUNK ((ptrdiff_t)16384)
#define SIDE 4 /* vectors of channels that are summed together */
#define NANOSECONDS_PER_ELEMENT 0.6

enum operation { SCALE, PRELU, PRELU_BACKWARD };

struct channel {
    enum operation operation;
    ptrdiff_t outer, channels, inner;
    ptrdiff_t period; /* factor is [outer / period][channels] */
    ptrdiff_t rows;   /* to a task: outer indices where inner is 1, otherwise planes */
    ptrdiff_t pieces; /* to a plane */
    const real *grad_output, *input, *factor;
    real *result;
    double *sums; /* [outer / rows][channels] where inner is 1, otherwise [outer][channels][pieces] */
};

/* One vector at `offset`, of which n lanes exist; returns its part of dL/dw. */
INLINE vec apply(const struct channel *job, enum operation operation, ptrdiff_t offset, vec factor,
                 ptrdiff_t n) {
    vec x = load_some(job->input + offset, n), part = {0};
    if (operation == SCALE) {
        store_some(job->result + offset, x * factor, n);
    } else if (operation == PRELU) {
        store_some(job->result + offset, choose(x > 0, x, x * factor), n);
    } else {
        vec g = load_some(job->grad_output + offset, n);
        part = choose(x > 0, part, x * g); /* first: else GCC 12 fails on SSE2's doubles */
        if (job->result) store_some(job->result + offset, choose(x > 0, g, g * factor), n);
    }
    return part;
}

/* The gradients of rows [begin, end), for `vectors` vectors of channels from c on, of whose last n lanes
 * exist: side by side they are whole cache lines, which one by one a core would touch again and again. */
INLINE void prelu_columns(const struct channel *job, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t c,
                          const int vectors, ptrdiff_t n, double *sums) {
    vec factor[SIDE];
    double total[SIDE * LANES] = {0};
    UNROLL for (int v = 0; v < vectors; v++) factor[v] = load_some(job->factor + c + v * LANES, n);
    for (ptrdiff_t block = begin; block < end; block += 64) { /* a lane sums up 64 numbers at most */
        vec sum[SIDE] = {{0}};
        for (ptrdiff_t row = block; row < min_size(block + 64, end); row++)
            UNROLL for (int v = 0; v < vectors; v++) sum[v] +=
                apply(job, PRELU_BACKWARD, row * job->channels + c + v * LANES, factor[v], n);
        UNROLL for (int v = 0; v < vectors; v++) for (int i = 0; i < LANES; i++) total[v * LANES + i] +=
            (double)sum[v][i];
    }
    if (sums) memcpy(sums + c, total, (size_t)((vectors - 1) * LANES + n) * sizeof(double));
}

INLINE void channel_rows(const struct channel *job, enum operation operation, ptrdiff_t task) {
    ptrdiff_t begin = task * job->rows, end = min_size(begin + job->rows, job->outer);
    if (operation == PRELU_BACKWARD) {
        double *sums = job->sums ? job->sums + task * job->channels : NULL;
        ptrdiff_t c = 0;
        for (; c + SIDE * LANES <= job->channels; c += SIDE * LANES)
            prelu_columns(job, begin, end, c, SIDE, LANES, sums);
        for (; c < job->channels; c += LANES)
            prelu_columns(job, begin, end, c, 1, min_size(LANES, job->channels - c), sums);
        return;
    }
    const real *factor = job->factor + begin / job->period * job->channels;
    ptrdiff_t rest = job->period - begin % job->period; /* rows with these factors */
    for (ptrdiff_t row = begin; row < end; row++) {
        ptrdiff_t c = 0, n, at = row * job->channels;
        for (; c + LANES <= job->channels; c += LANES) apply(job, operation, at + c, load(factor + c), LANES);
        if ((n = job->channels - c)) apply(job, operation, at + c, load_first(factor + c, n), n);
        if (--rest == 0) factor += job->channels, rest = job->period;
    }
}

INLINE void channel_planes(const struct channel *job, enum operation operation, ptrdiff_t task) {
    ptrdiff_t group = task / job->pieces, piece = task % job->pieces;
    ptrdiff_t begin = job->inner * piece / job->pieces, end = job->inner * (piece + 1) / job->pieces;
    ptrdiff_t last = min_size((group + 1) * job->rows, job->outer * job->channels);
    for (ptrdiff_t plane = group * job->rows; plane < last; plane++) {
        ptrdiff_t outer = plane / job->channels, channel = plane % job->channels;
        vec factor = splat(job->factor[outer / job->period * job->channels + channel]);
        double total = 0;
        for (ptrdiff_t block = begin; block < end; block += 64 * LANES) {
            vec sum = {0};
            ptrdiff_t i = block, block_end = min_size(block + 64 * LANES, end), at = plane * job->inner;
            for (; i + LANES <= block_end; i += LANES) sum += apply(job, operation, at + i, factor, LANES);
            if (i < block_end) sum += apply(job, operation, at + i, factor, block_end - i);
            total += (double)sum_lanes(sum);
        }
        if (job->sums) job->sums[plane * job->pieces + piece] = total;
    }
}

static void run_task(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct channel *job = context;
#define RUN(operation)                                                                                       \
    do {                                                                                                     \
        if (job->inner == 1)                                                                                 \
            channel_rows(job, operation, task);                                                              \
        else                                                                                                 \
            channel_planes(job, operation, task);                                                            \
    } while (0)
    switch (job->operation) {
    case SCALE: RUN(SCALE); break;
    case PRELU: RUN(PRELU); break;
    case PRELU_BACKWARD: RUN(PRELU_BACKWARD); break;
    }
#undef RUN
}

/* How the work is cut into tasks, and how many there are. */
static ptrdiff_t cut(struct channel *job) {
    if (job->inner == 1) {
        job->pieces = 1;
        job->rows = max_size(1, CHUNK / max_size(1, job->channels));
        return ceil_div(job->outer, job->rows);
    }
    job->pieces = max_size(1, ceil_div(job->inner, CHUNK));
    job->rows = job->pieces > 1 ? 1 : CHUNK / max_size(1, job->inner);
    return ceil_div(job->outer * job->channels, job->rows) * job->pieces;
}

static int run(struct channel *job, ptrdiff_t tasks) {
    double elements = (double)job->outer * (double)job->channels * (double)job->inner;
    return parallel_run(tasks, elements * NANOSECONDS_PER_ELEMENT, 0, run_task, job);
}

static int scale(ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, ptrdiff_t period, const void *input,
                 const void *factor, void *output) {
    struct channel job = {SCALE, outer,  channels, inner, max_size(1, period), 0, 0, NULL,
                          input, factor, output,   NULL};
    return run(&job, cut(&job));
}

static int prelu(ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, const void *input, const void *weight,
                 void *output) {
    struct channel job = {PRELU, outer,  channels, inner, max_size(1, outer), 0, 0, NULL,
                          input, weight, output,   NULL};
    return run(&job, cut(&job));
}

static int prelu_backward(ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, const void *grad_output,
                          const void *input, const void *weight, void *grad_input, void *grad_weight) {
    struct channel job = {PRELU_BACKWARD, outer,  channels,   inner, max_size(1, outer), 0, 0, grad_output,
                          input,          weight, grad_input, NULL};
    ptrdiff_t tasks = cut(&job);
    real *result = grad_weight;
    size_t bytes = 0;
    if (result) {
        size_t partial = (size_t)(inner == 1 ? tasks * channels : outer * channels * job.pieces);
        bytes = partial * sizeof(double);
        if (!(job.sums = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;
    }
    int status = run(&job, tasks);
    ptrdiff_t parts = inner == 1 ? tasks : outer;
    for (ptrdiff_t c = 0; result && c < channels; c++) {
        double sum = 0;
        for (ptrdiff_t part = 0; part < parts; part++)
            for (ptrdiff_t piece = 0; piece < job.pieces; piece++)
                sum += job.sums[(part * channels + c) * job.pieces + piece];
        result[c] = (real)sum;
    }
    if (job.sums) pyconv_free(job.sums, bytes);
    return status;
}

const struct pyconv_channel_kernels KERNELS(channel) = {scale, prelu, prelu_backward};
