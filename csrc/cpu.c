/* Which instruction set this machine has, and the kernel tables that were compiled for it. */
#include "pyconv.h"

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

const struct pyconv_kernels *pyconv_kernels(int isa, int dtype) {
    if (isa < 0 || isa > pyconv_best_isa() || dtype < 0 || dtype >= PYCONV_DTYPE_COUNT) return NULL;
    return tables[isa][dtype];
}
