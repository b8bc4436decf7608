/* Dropout: each element is kept with probability 1 - p, and then multiplied by 1 / (1 - p).
 *
 * Element i is kept or not by 32 bits of the SplitMix64 sequence (Steele, Lea and Flood, Fast Splittable
 * Pseudorandom Number Generators, 2014): its j-th number is a hash of seed + j GAMMA, so that every task
 * finds its own numbers, in vectors, and the mask is the same at any number of threads and for any vector
 * width. Elements 2j and 2j + 1 take the low and the high half of number j.
 */
#include "parallel.h"
#include "pyconv.h"
#include "simd.h"

#define CHUNK ((ptrdiff_t)8192) /* 32 KiB of random bits, in L1 */
#define GAMMA UINT64_C(0x9e3779b97f4a7c15)
#define NANOSECONDS_PER_ELEMENT 0.8

struct dropout {
    ptrdiff_t count;
    uint64_t seed;
    uint32_t threshold; /* p 2^32: an element with fewer random bits is dropped */
    real scale;
    const real *input;
    uint8_t *mask;
    real *output;
};

union bits {
    uint64_t whole[CHUNK / 2];
    uint32_t half[CHUNK];
};

static void random_bits(uint64_t seed, ptrdiff_t first, ptrdiff_t count, uint64_t *bits) {
    for (ptrdiff_t j = 0; j < count; j++) {
        uint64_t z = seed + (uint64_t)(first + j + 1) * GAMMA;
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        bits[j] = z ^ (z >> 31);
    }
}

static void run_forward(const void *context, ptrdiff_t task, void *scratch) {
    const struct dropout *job = context;
    union bits *bits = scratch;
    ptrdiff_t begin = task * CHUNK, count = min_size(CHUNK, job->count - begin);
    random_bits(job->seed, begin / 2, (count + 1) / 2, bits->whole);
    const uint32_t *restrict half = bits->half;
    const real *restrict x = job->input + begin;
    real *restrict y = job->output + begin;
    uint8_t *restrict mask = job->mask + begin;
    uint32_t threshold = job->threshold;
    real scale = job->scale;
    for (ptrdiff_t i = 0; i < count; i++) mask[i] = half[i] >= threshold;
    for (ptrdiff_t i = 0; i < count; i++) y[i] = x[i] * (half[i] >= threshold ? scale : 0);
}

static void run_backward(const void *context, ptrdiff_t task, void *scratch) {
    (void)scratch;
    const struct dropout *job = context;
    ptrdiff_t begin = task * CHUNK, end = min_size(begin + CHUNK, job->count), i = begin;
    vec scale = splat(job->scale);
    for (; i + LANES <= end; i += LANES)
        store(job->output + i,
              load(job->input + i) * choose(load_bytes(job->mask + i) != 0, scale, (vec){0}));
    for (; i < end; i++) job->output[i] = job->input[i] * (job->mask[i] ? job->scale : 0);
}

static int dropout(ptrdiff_t count, const void *input, uint64_t seed, double p, uint8_t *mask, void *output) {
    double threshold = p * 4294967296.0;
    struct dropout job = {
        count, seed,  threshold < 4294967295.0 ? (uint32_t)threshold : UINT32_MAX, (real)(1 / (1 - p)), input,
        mask,  output};
    return parallel_run(ceil_div(count, CHUNK), (double)count * NANOSECONDS_PER_ELEMENT, sizeof(union bits),
                        run_forward, &job);
}

static int dropout_backward(ptrdiff_t count, const void *grad_output, const uint8_t *mask, double p,
                            void *grad_input) {
    struct dropout job = {count, 0, 0, (real)(1 / (1 - p)), grad_output, (uint8_t *)mask, grad_input};
    return parallel_run(ceil_div(count, CHUNK), (double)count * NANOSECONDS_PER_ELEMENT, 0, run_backward,
                        &job);
}

const struct pyconv_dropout_kernels KERNELS(dropout) = {dropout, dropout_backward};
