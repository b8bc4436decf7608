/* What this machine can do at best, for the benchmarks to measure kernels against.
 *
 * Arithmetic: a[i] = a[i] * m + c in CHAINS independent registers. A fused multiply-add takes 4 cycles and
 * two start in each, so 8 chains are enough; CHAINS + 2 = 14 of 16 registers. Memory: y = y + a x reads
 * two streams and writes one that it has read.
 */
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"

#define CHAINS 12
#define TASKS ((ptrdiff_t)256)
#define CHUNK ((ptrdiff_t)65536)

struct arithmetic {
    ptrdiff_t rounds;
    real *output; /* [TASKS] */
};

static void run_arithmetic(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct arithmetic *job = context;
    vec factor = splat((real)0.999), term = splat((real)0.001), chains[CHAINS];
    for (int i = 0; i < CHAINS; i++) chains[i] = splat((real)i);
    for (ptrdiff_t round = 0; round < job->rounds; round++)
        for (int i = 0; i < CHAINS; i++) chains[i] = chains[i] * factor + term;
    for (int i = 1; i < CHAINS; i++) chains[0] += chains[i];
    job->output[task] = chains[0][0]; /* or the compiler would drop it all */
}

static double arithmetic(ptrdiff_t rounds, void *output) {
    struct arithmetic job = {rounds, output};
    double operations = (double)TASKS * (double)rounds * (CHAINS * LANES * 2);
    return parallel_run(TASKS, operations / 10.0, 0, run_arithmetic, &job) ? 0.0 : operations;
}

struct memory {
    ptrdiff_t count;
    real factor;
    const real *x;
    real *y;
};

static void run_memory(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct memory *job = context;
    ptrdiff_t end = min_size((task + 1) * CHUNK, job->count);
    for (ptrdiff_t i = task * CHUNK; i < end; i++) job->y[i] += job->factor * job->x[i];
}

static int memory(ptrdiff_t count, double factor, const void *x, void *y) {
    struct memory job = {count, (real)factor, x, y};
    return parallel_run(ceil_div(count, CHUNK), (double)count, 0, run_memory, &job);
}

const struct pyconv_peak_kernels KERNELS(peak) = {arithmetic, memory};
