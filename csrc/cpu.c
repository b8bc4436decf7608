/* Which instruction set and caches this machine has, and the kernel tables that were compiled for it. */
#include "pyconv.h"

#include <stdatomic.h>
#ifdef PYCONV_X86
#include <cpuid.h>
#endif

#define TABLES(isa) extern const struct pyconv_kernels pyconv_kernels_##isa##_f32, pyconv_kernels_##isa##_f64;

TABLES(baseline)
#ifdef PYCONV_X86
TABLES(avx2)
TABLES(avx512)
#endif

static const struct pyconv_kernels *const tables[PYCONV_ISA_COUNT][PYCONV_DTYPE_COUNT] = {
    [PYCONV_BASELINE] = {&pyconv_kernels_baseline_f32, &pyconv_kernels_baseline_f64},
#ifdef PYCONV_X86
    [PYCONV_AVX2] = {&pyconv_kernels_avx2_f32, &pyconv_kernels_avx2_f64},
    [PYCONV_AVX512] = {&pyconv_kernels_avx512_f32, &pyconv_kernels_avx512_f64},
#endif
};

const char *pyconv_isa_name(int isa) {
    static const char *const names[PYCONV_ISA_COUNT] = {"baseline", "avx2", "avx512"};
    return isa >= 0 && isa < PYCONV_ISA_COUNT ? names[isa] : NULL;
}

int pyconv_best_isa(void) {
#ifdef PYCONV_X86
    /* The compiler's run-time library asks the operating system too (XGETBV). */
    __builtin_cpu_init();
    int avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    if (avx2 && avx512) return PYCONV_AVX512;
    if (avx2) return PYCONV_AVX2;
#endif
    return PYCONV_BASELINE;
}

#ifdef PYCONV_X86
/* Bytes of L3 by CPUID's leaf `leaf`, a subleaf for each cache; 0 where it tells of none. */
static size_t l3_bytes(unsigned leaf) {
    unsigned a, b, c, d;
    for (unsigned cache = 0; cache < 16; cache++) {
        if (!__get_cpuid_count(leaf, cache, &a, &b, &c, &d) || (a & 31) == 0) return 0;
        if ((a >> 5 & 7) != 3) continue;
        size_t ways = (b >> 22) + 1, partitions = (b >> 12 & 1023) + 1, line = (b & 4095) + 1;
        return ways * partitions * line * ((size_t)c + 1);
    }
    return 0;
}
#define INTEL_CACHES 4
#define AMD_CACHES 0x8000001D
#endif

static atomic_size_t cache_bytes = SIZE_MAX;

__attribute__((constructor)) static void find_cache_bytes(void) {
#ifdef PYCONV_X86
    size_t l3 = l3_bytes(INTEL_CACHES);
    if (!l3) l3 = l3_bytes(AMD_CACHES);
    if (l3) cache_bytes = l3;
#endif
}

size_t pyconv_cache_bytes(void) { return atomic_load_explicit(&cache_bytes, memory_order_relaxed); }
void pyconv_set_cache_bytes(size_t bytes) { atomic_store(&cache_bytes, bytes); }

const struct pyconv_kernels *pyconv_kernels(int isa, int dtype) {
    if (isa < 0 || isa > pyconv_best_isa() || dtype < 0 || dtype >= PYCONV_DTYPE_COUNT) return NULL;
    return tables[isa][dtype];
}
