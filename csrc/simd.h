/* The only place that knows vector widths and registers.
 *
 * `vec` is one vector register of the instruction set this file is compiled for, `real` its scalar type;
 * GCC's and Clang's vector extensions make `a * b + c` on vectors a fused multiply-add.
 */
#ifndef PYCONV_SIMD_H
#define PYCONV_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PYCONV_JOIN_(a, b) a##_##b
#define PYCONV_JOIN(a, b) PYCONV_JOIN_(a, b)
/* KERNELS(conv) is this variant's table of the family: pyconv_conv_avx2_f32 */
#define KERNELS(family) PYCONV_JOIN(PYCONV_JOIN(pyconv_##family, PYCONV_ISA), PYCONV_REAL)
/* VARIANT(f) names a function that several files of one variant share. */
#define VARIANT(name) KERNELS(name)

#define PYCONV_IS_f32 1
#define PYCONV_IS_f64 2
#define PYCONV_IS_(real) PYCONV_IS_##real
#define PYCONV_IS(real) PYCONV_IS_(real)
#if PYCONV_IS(PYCONV_REAL) == PYCONV_IS_f32
#define REAL_IS_FLOAT 1
#define PYCONV_REAL_BYTES 4
typedef float real;
typedef int32_t integer; /* as wide as real: what comparisons give */
#else
#define REAL_IS_FLOAT 0
#define PYCONV_REAL_BYTES 8
typedef double real;
typedef int64_t integer;
#endif

#if defined(__AVX512F__)
#include <immintrin.h>
#define VECTOR_BYTES 64
#define VECTOR_REGISTERS 32
#elif defined(__AVX2__)
#include <immintrin.h>
#define VECTOR_BYTES 32
#define VECTOR_REGISTERS 16
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define VECTOR_REGISTERS 32
#else
#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#define VECTOR_BYTES 16
#define VECTOR_REGISTERS 16
#endif
/* Whether a * b + c is rounded once */
#if defined(__FMA__) || defined(__aarch64__)
#define FUSES 1
#else
#define FUSES 0
#endif
#define LANES (VECTOR_BYTES / (int)sizeof(real))
/* AVX-512 comes with servers whose L2 and L3 answer late: some streams are fetched in advance there. With
 * AVX2 the processor's own fetching is in time, and the instructions would cost more (Zen 3). */
#define FAR_CACHES (VECTOR_BYTES == 64)
#define LINE (64 / (ptrdiff_t)sizeof(real)) /* elements of a cache line */

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef integer ivec __attribute__((vector_size(VECTOR_BYTES)));
typedef real unaligned_vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

#define INLINE static inline __attribute__((always_inline))
/* Before a loop of constant count: unroll it whole, so that arrays of vectors become registers. TWICE: two
 * steps to a turn, where counting and stepping take the place of multiply-adds (worth 2 to 8 %). */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#define TWICE _Pragma("clang loop unroll_count(2)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#define TWICE _Pragma("GCC unroll 2")
#endif

INLINE vec splat(real x) { return x - (vec){0}; }
INLINE vec load(const real *p) { return *(const unaligned_vec *)p; }
INLINE void store(real *p, vec v) { *(unaligned_vec *)p = v; }

/* Past the caches, at multiples of VECTOR_BYTES; others see it after parallel_run has returned. */
#define CAN_STREAM 1
#if defined(__AVX512F__)
INLINE void store_streamed(real *p, vec v) { _mm512_stream_si512((void *)p, (__m512i)v); }
#elif defined(__AVX2__)
INLINE void store_streamed(real *p, vec v) { _mm256_stream_si256((void *)p, (__m256i)v); }
#elif defined(__SSE2__)
INLINE void store_streamed(real *p, vec v) { _mm_stream_si128((void *)p, (__m128i)v); }
#else
#undef CAN_STREAM
#define CAN_STREAM 0
INLINE void store_streamed(real *p, vec v) { store(p, v); }
#endif

/* v, and from here on in a register: the compiler may not fetch it again from where it was loaded. Where
 * several sums take the same value, one load (two where it crosses a cache line) then serves them all. */
INLINE vec in_register(vec v) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#elif defined(__x86_64__)
    __asm__("" : "+x"(v));
#elif defined(__aarch64__)
    __asm__("" : "+w"(v));
#endif
    return v;
}

/* The same of an address, which the compiler would otherwise make anew from its parts in every step. */
INLINE const real *as_pointer(const real *p) {
    __asm__("" : "+r"(p));
    return p;
}

/* The first n lanes only, 0 < n <= LANES: nothing else is read or written, and other lanes load as 0. */
#if defined(__AVX512F__) && REAL_IS_FLOAT
INLINE vec load_first(const real *p, ptrdiff_t n) {
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
INLINE void store_first(real *p, vec v, ptrdiff_t n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
#elif defined(__AVX512F__)
INLINE vec load_first(const real *p, ptrdiff_t n) {
    return (vec)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
}
INLINE void store_first(real *p, vec v, ptrdiff_t n) {
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
}
#elif defined(__AVX2__)
INLINE __m256i lane_mask(ptrdiff_t n) {
#if REAL_IS_FLOAT
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
#else
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
#endif
}
#if REAL_IS_FLOAT
INLINE vec load_first(const real *p, ptrdiff_t n) { return (vec)_mm256_maskload_ps(p, lane_mask(n)); }
INLINE void store_first(real *p, vec v, ptrdiff_t n) { /* in parts: a masked store takes Zen 3 20 cycles */
    if (n >= LANES) {
        store(p, v);
        return;
    }
    __m128 part = _mm256_castps256_ps128((__m256)v);
    if (n & 4) {
        _mm_storeu_ps(p, part);
        p += 4, part = _mm256_extractf128_ps((__m256)v, 1);
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, part);
        p += 2, part = _mm_movehl_ps(part, part);
    }
    if (n & 1) _mm_store_ss(p, part);
}
#else
INLINE vec load_first(const real *p, ptrdiff_t n) { return (vec)_mm256_maskload_pd(p, lane_mask(n)); }
INLINE void store_first(real *p, vec v, ptrdiff_t n) {
    if (n >= LANES) {
        store(p, v);
        return;
    }
    __m128d part = _mm256_castpd256_pd128((__m256d)v);
    if (n & 2) {
        _mm_storeu_pd(p, part);
        p += 2, part = _mm256_extractf128_pd((__m256d)v, 1);
    }
    if (n & 1) _mm_store_sd(p, part);
}
#endif
#else
INLINE vec load_first(const real *p, ptrdiff_t n) {
    vec v = {0};
    for (ptrdiff_t i = 0; i < n; i++) v[i] = p[i];
    return v;
}
INLINE void store_first(real *p, vec v, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) p[i] = v[i];
}
#endif
/* The same of n > 0 lanes, or all where n is more. */
INLINE vec load_some(const real *p, ptrdiff_t n) { return n >= LANES ? load(p) : load_first(p, n); }
INLINE void store_some(real *p, vec v, ptrdiff_t n) {
    if (n >= LANES)
        store(p, v);
    else
        store_first(p, v, n);
}

/* LANES bytes as integers. The compiler's own conversion of byte vectors goes lane by lane. */
#if defined(__AVX512F__) && REAL_IS_FLOAT
INLINE ivec load_bytes(const uint8_t *p) {
    return (ivec)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
#elif defined(__AVX512F__)
INLINE ivec load_bytes(const uint8_t *p) {
    return (ivec)_mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)p));
}
#elif defined(__AVX2__) && REAL_IS_FLOAT
INLINE ivec load_bytes(const uint8_t *p) {
    return (ivec)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
#elif defined(__AVX2__)
INLINE ivec load_bytes(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return (ivec)_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
}
#else
INLINE ivec load_bytes(const uint8_t *p) {
    integer lanes[LANES];
    for (int l = 0; l < LANES; l++) lanes[l] = p[l];
    ivec v;
    memcpy(&v, lanes, sizeof v);
    return v;
}
#endif

/* p[index[l]] */
#if defined(__AVX512F__) && REAL_IS_FLOAT
INLINE vec load_at(const real *p, const int32_t *index) {
    return (vec)_mm512_i32gather_ps(_mm512_loadu_si512(index), p, 4);
}
#elif defined(__AVX512F__)
INLINE vec load_at(const real *p, const int32_t *index) {
    return (vec)_mm512_i32gather_pd(_mm256_loadu_si256((const __m256i *)index), p, 8);
}
#elif defined(__AVX2__) && REAL_IS_FLOAT /* one by one: gathering takes Zen 3 40 cycles */
INLINE vec load_at(const real *p, const int32_t *index) {
    return (vec)_mm256_setr_ps(p[index[0]], p[index[1]], p[index[2]], p[index[3]], p[index[4]], p[index[5]],
                               p[index[6]], p[index[7]]);
}
#elif defined(__AVX2__)
INLINE vec load_at(const real *p, const int32_t *index) {
    return (vec)_mm256_setr_pd(p[index[0]], p[index[1]], p[index[2]], p[index[3]]);
}
#else
INLINE vec load_at(const real *p, const int32_t *index) {
    vec v = {0};
    for (int l = 0; l < LANES; l++) v[l] = p[index[l]];
    return v;
}
#endif

/* p[(index[l] - first) * stride + l] += x[l], or = x[l] with `assign`, for the lanes with first <= index[l]
 * < first + count; returns whether there were others. (count * stride < 2^31) */
#if defined(__AVX512F__) && REAL_IS_FLOAT
INLINE int add_at(real *p, const int64_t *index, int64_t first, ptrdiff_t count, ptrdiff_t stride, int assign,
                  vec x) {
    __m512i base = _mm512_set1_epi64(first);
    __m256i low = _mm512_cvtusepi64_epi32(_mm512_sub_epi64(_mm512_loadu_si512(index), base));
    __m256i high = _mm512_cvtusepi64_epi32(_mm512_sub_epi64(_mm512_loadu_si512(index + 8), base));
    __m512i at = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    __mmask16 inside = _mm512_cmplt_epu32_mask(at, _mm512_set1_epi32((int)count));
    at = _mm512_add_epi32(_mm512_mullo_epi32(at, _mm512_set1_epi32((int)stride)),
                          _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    if (!assign) x += (vec)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), inside, at, p, 4);
    _mm512_mask_i32scatter_ps(p, inside, at, (__m512)x, 4);
    return inside != 0xffff;
}
#elif defined(__AVX512F__)
INLINE int add_at(real *p, const int64_t *index, int64_t first, ptrdiff_t count, ptrdiff_t stride, int assign,
                  vec x) {
    __m512i at = _mm512_sub_epi64(_mm512_loadu_si512(index), _mm512_set1_epi64(first));
    __mmask8 inside = _mm512_cmplt_epu64_mask(at, _mm512_set1_epi64(count));
    at = _mm512_add_epi64(_mm512_mullo_epi64(at, _mm512_set1_epi64(stride)),
                          _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
    if (!assign) x += (vec)_mm512_mask_i64gather_pd(_mm512_setzero_pd(), inside, at, p, 8);
    _mm512_mask_i64scatter_pd(p, inside, at, (__m512d)x, 8);
    return inside != 0xff;
}
#else
INLINE int add_at(real *p, const int64_t *index, int64_t first, ptrdiff_t count, ptrdiff_t stride, int assign,
                  vec x) {
    int outside = 0;
    for (int l = 0; l < LANES; l++) {
        uint64_t at = (uint64_t)(index[l] - first);
        if (at >= (uint64_t)count)
            outside = 1;
        else if (assign)
            p[(ptrdiff_t)at * stride + l] = x[l];
        else
            p[(ptrdiff_t)at * stride + l] += x[l];
    }
    return outside;
}
#endif

/* The 2 LANES elements of a and b, taken apart into those at even and at odd places, and put together. */
#if VECTOR_BYTES / PYCONV_REAL_BYTES == 16
#define EVEN_LANES 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD_LANES 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VECTOR_BYTES / PYCONV_REAL_BYTES == 8
#define EVEN_LANES 0, 2, 4, 6, 8, 10, 12, 14
#define ODD_LANES 1, 3, 5, 7, 9, 11, 13, 15
#define ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif VECTOR_BYTES / PYCONV_REAL_BYTES == 4
#define EVEN_LANES 0, 2, 4, 6
#define ODD_LANES 1, 3, 5, 7
#define ZIP_LOW 0, 4, 1, 5
#define ZIP_HIGH 2, 6, 3, 7
#else
#define EVEN_LANES 0, 2
#define ODD_LANES 1, 3
#define ZIP_LOW 0, 2
#define ZIP_HIGH 1, 3
#endif
#if defined(__AVX2__) && !defined(__AVX512F__) &&                                                            \
    REAL_IS_FLOAT /* halves first, which both share: 4 shuffles */
INLINE vec low_halves(vec a, vec b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11); }
INLINE vec high_halves(vec a, vec b) { return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15); }
INLINE vec even_lanes(vec a, vec b) {
    return __builtin_shufflevector(low_halves(a, b), high_halves(a, b), 0, 2, 8, 10, 4, 6, 12, 14);
}
INLINE vec odd_lanes(vec a, vec b) {
    return __builtin_shufflevector(low_halves(a, b), high_halves(a, b), 1, 3, 9, 11, 5, 7, 13, 15);
}
#else
INLINE vec even_lanes(vec a, vec b) { return __builtin_shufflevector(a, b, EVEN_LANES); }
INLINE vec odd_lanes(vec a, vec b) { return __builtin_shufflevector(a, b, ODD_LANES); }
#endif
/* a[0], b[0], a[1], b[1], ...: the first and the second half */
INLINE vec zip_low(vec a, vec b) { return __builtin_shufflevector(a, b, ZIP_LOW); }
INLINE vec zip_high(vec a, vec b) { return __builtin_shufflevector(a, b, ZIP_HIGH); }

/* Every second of p[0] to p[2 LANES - 2]: nothing else is read. And 2 LANES elements, loaded as two vectors
 * in the order that lets those at even and at odd places be taken apart soonest. With AVX2 a shuffle across
 * the middle of a register takes longer than to load its halves from where they belong. */
#if VECTOR_BYTES / PYCONV_REAL_BYTES == 16
#define STEPPED_LANES 0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31
#elif VECTOR_BYTES / PYCONV_REAL_BYTES == 8
#define STEPPED_LANES 0, 2, 4, 6, 9, 11, 13, 15
#elif VECTOR_BYTES / PYCONV_REAL_BYTES == 4
#define STEPPED_LANES 0, 2, 5, 7
#else
#define STEPPED_LANES 0, 3
#endif
#if defined(__AVX2__) && !defined(__AVX512F__) && REAL_IS_FLOAT
INLINE vec load_halves(const real *p, const real *q) {
    return (vec)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(q), 1);
}
INLINE vec load_stepped(const real *p) {
    return (vec)_mm256_shuffle_ps((__m256)load_halves(p, p + 8), (__m256)load_halves(p + 3, p + 11), 0xd8);
}
INLINE vec even_places(vec front, vec back) {
    return (vec)_mm256_shuffle_ps((__m256)front, (__m256)back, 0x88);
}
INLINE vec odd_places(vec front, vec back) {
    return (vec)_mm256_shuffle_ps((__m256)front, (__m256)back, 0xdd);
}
#elif defined(__AVX2__) && !defined(__AVX512F__)
INLINE vec load_halves(const real *p, const real *q) {
    return (vec)_mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(p)), _mm_loadu_pd(q), 1);
}
INLINE vec load_stepped(const real *p) {
    return (vec)_mm256_shuffle_pd((__m256d)load_halves(p, p + 4), (__m256d)load_halves(p + 1, p + 5), 0xa);
}
INLINE vec even_places(vec front, vec back) { return (vec)_mm256_unpacklo_pd((__m256d)front, (__m256d)back); }
INLINE vec odd_places(vec front, vec back) { return (vec)_mm256_unpackhi_pd((__m256d)front, (__m256d)back); }
#else
INLINE vec load_stepped(const real *p) {
    return __builtin_shufflevector(load(p), load(p + LANES - 1), STEPPED_LANES);
}
INLINE vec even_places(vec front, vec back) { return even_lanes(front, back); }
INLINE vec odd_places(vec front, vec back) { return odd_lanes(front, back); }
#endif
#if defined(__AVX2__) && !defined(__AVX512F__)
INLINE vec load_front(const real *p) { return load_halves(p, p + LANES); }
INLINE vec load_back(const real *p) { return load_halves(p + LANES / 2, p + LANES + LANES / 2); }
#else
INLINE vec load_front(const real *p) { return load(p); }
INLINE vec load_back(const real *p) { return load(p + LANES); }
#endif

/* Zeros, in whole vectors: as many as hold `count` elements */
INLINE void clear_elements(real *to, ptrdiff_t count) {
    if (count > 0) store(to, (vec){0}); /* which is often all, and no call of memset, as GCC has it */
    for (ptrdiff_t i = LANES; i < count; i += LANES) store(to + i, (vec){0});
}

INLINE void copy_elements(const real *from, ptrdiff_t count, real *to) {
    ptrdiff_t i = 0;
    for (; i + LANES <= count; i += LANES) store(to + i, load(from + i));
    if (i < count) store_first(to + i, load_first(from + i, count - i), count - i);
}

/* Transpose the LANES x LANES matrix whose rows these are: log2(LANES) perfect shuffles of its rows. */
#if defined(__AVX2__) && !defined(__AVX512F__) && REAL_IS_FLOAT
/* 128 bits by themselves first: 24 shuffles, where zips take 48 */
INLINE void transpose_lanes(vec *row) {
    vec pair[LANES], four[LANES];
    UNROLL for (int i = 0; i < LANES; i += 2) {
        pair[i] = __builtin_shufflevector(row[i], row[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        pair[i + 1] = __builtin_shufflevector(row[i], row[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    UNROLL for (int i = 0; i < LANES; i += 4) UNROLL for (int j = 0; j < 2; j++) {
        vec a = pair[i + j], b = pair[i + 2 + j];
        four[i + 2 * j] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
        four[i + 2 * j + 1] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        row[i] = __builtin_shufflevector(four[i], four[4 + i], 0, 1, 2, 3, 8, 9, 10, 11);
        row[4 + i] = __builtin_shufflevector(four[i], four[4 + i], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
#elif defined(__AVX2__) && !defined(__AVX512F__)
INLINE void transpose_lanes(vec *row) {
    vec pair[LANES];
    UNROLL for (int i = 0; i < LANES; i += 2) {
        pair[i] = __builtin_shufflevector(row[i], row[i + 1], 0, 4, 2, 6);
        pair[i + 1] = __builtin_shufflevector(row[i], row[i + 1], 1, 5, 3, 7);
    }
    UNROLL for (int i = 0; i < 2; i++) {
        row[i] = __builtin_shufflevector(pair[i], pair[2 + i], 0, 1, 4, 5);
        row[2 + i] = __builtin_shufflevector(pair[i], pair[2 + i], 2, 3, 6, 7);
    }
}
#else
INLINE void transpose_lanes(vec *row) {
    UNROLL for (int round = 1; round < LANES; round *= 2) {
        vec mixed[LANES];
        UNROLL for (int i = 0; i < LANES / 2; i++) {
            mixed[2 * i] = zip_low(row[i], row[i + LANES / 2]);
            mixed[2 * i + 1] = zip_high(row[i], row[i + LANES / 2]);
        }
        UNROLL for (int i = 0; i < LANES; i++) row[i] = mixed[i];
    }
}
#endif

/* The sum of row l's lanes in lane l, for LANES rows. */
#if defined(__AVX2__) && !defined(__AVX512F__) && REAL_IS_FLOAT /* 128 bits by themselves, to the end */
INLINE vec sum_each(const vec *rows) {
    vec pair[4], four[2];
    UNROLL for (int i = 0; i < 4; i++) pair[i] =
        __builtin_shufflevector(rows[2 * i], rows[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13) +
        __builtin_shufflevector(rows[2 * i], rows[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    UNROLL for (int i = 0; i < 2; i++) four[i] =
        __builtin_shufflevector(pair[2 * i], pair[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
        __builtin_shufflevector(pair[2 * i], pair[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
    return __builtin_shufflevector(four[0], four[1], 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(four[0], four[1], 4, 5, 6, 7, 12, 13, 14, 15);
}
#else
INLINE vec sum_each(const vec *rows) {
    vec row[LANES];
    UNROLL for (int i = 0; i < LANES; i++) row[i] = rows[i];
    UNROLL for (int half = LANES / 2; half; half /= 2) UNROLL for (int i = 0; i < half; i++) row[i] =
        zip_low(row[i], row[i + half]) + zip_high(row[i], row[i + half]);
    return row[0];
}
#endif

/* x[index[l] mod LANES] in lane l, where the machine can do that at once */
#if defined(__AVX512F__) && REAL_IS_FLOAT
#define PERMUTES_LANES 1
INLINE vec permute_lanes(vec x, ivec index) { return (vec)_mm512_permutexvar_ps((__m512i)index, (__m512)x); }
#elif defined(__AVX512F__)
#define PERMUTES_LANES 1
INLINE vec permute_lanes(vec x, ivec index) { return (vec)_mm512_permutexvar_pd((__m512i)index, (__m512d)x); }
#elif defined(__AVX2__) && REAL_IS_FLOAT
#define PERMUTES_LANES 1
INLINE vec permute_lanes(vec x, ivec index) {
    return (vec)_mm256_permutevar8x32_ps((__m256)x, (__m256i)index);
}
#else
#define PERMUTES_LANES 0
INLINE vec permute_lanes(vec x, ivec index) {
    vec y;
    for (int l = 0; l < LANES; l++) y[l] = x[index[l] & (LANES - 1)];
    return y;
}
#endif

/* mask ? a : b, lane by lane; a mask is what a comparison of vectors gives */
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
/* The larger (smaller) of the two; b where either is NaN. */
#if defined(__AVX512F__) && REAL_IS_FLOAT
INLINE vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(__AVX512F__)
INLINE vec larger(vec a, vec b) { return (vec)_mm512_max_pd((__m512d)a, (__m512d)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm512_min_pd((__m512d)a, (__m512d)b); }
#elif defined(__AVX2__) && REAL_IS_FLOAT
INLINE vec larger(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
#elif defined(__AVX2__)
INLINE vec larger(vec a, vec b) { return (vec)_mm256_max_pd((__m256d)a, (__m256d)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm256_min_pd((__m256d)a, (__m256d)b); }
#else
INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }
INLINE vec smaller(vec a, vec b) { return choose(a < b, a, b); }
#endif

/* 1 / x for x and 1 / x normal, to a unit in the last place: where division is slow, Newton's step on an
 * estimate of 14 bits. */
#if defined(__AVX512F__) && REAL_IS_FLOAT
INLINE vec reciprocal(vec x) {
    vec y = (vec)_mm512_rcp14_ps((__m512)x);
    return y * (1 - x * y) + y;
}
#elif defined(__AVX512F__)
INLINE vec reciprocal(vec x) {
    vec y = (vec)_mm512_rcp14_pd((__m512d)x);
    y = y * (1 - x * y) + y;
    return y * (1 - x * y) + y;
}
#else
INLINE vec reciprocal(vec x) { return 1 / x; }
#endif

/* The first n lanes of v, n <= LANES, and `rest` in the others */
INLINE vec first_lanes(vec v, ptrdiff_t n, vec rest) {
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    return choose(lane < (integer)n, v, rest);
}
/* v, of a row with n > 0 elements more; `rest` behind its end. */
INLINE vec or_rest(vec v, ptrdiff_t n, vec rest) { return n >= LANES ? v : first_lanes(v, n, rest); }
/* Over all lanes; `largest_lane` of a vector with NaN is NaN only by chance */
#if defined(__AVX512F__) && REAL_IS_FLOAT
INLINE real sum_lanes(vec v) { return _mm512_reduce_add_ps((__m512)v); }
INLINE real largest_lane(vec v) { return _mm512_reduce_max_ps((__m512)v); }
#elif defined(__AVX512F__)
INLINE real sum_lanes(vec v) { return _mm512_reduce_add_pd((__m512d)v); }
INLINE real largest_lane(vec v) { return _mm512_reduce_max_pd((__m512d)v); }
#elif defined(__AVX2__) && REAL_IS_FLOAT
INLINE real sum_lanes(vec v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
INLINE real largest_lane(vec v) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
#else
INLINE real sum_lanes(vec v) {
    real lane[LANES];
    memcpy(lane, &v, sizeof v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lane[i] += lane[i + width];
    return lane[0];
}
INLINE real largest_lane(vec v) {
    real lane[LANES];
    memcpy(lane, &v, sizeof v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
    return lane[0];
}
#endif

/* p 2^n for an integer-valued n that may take the result to denormals, 0 or infinity */
#if defined(__AVX512F__) && REAL_IS_FLOAT
INLINE vec times_power_of_two(vec p, vec n) { return (vec)_mm512_scalef_ps((__m512)p, (__m512)n); }
#elif defined(__AVX512F__)
INLINE vec times_power_of_two(vec p, vec n) { return (vec)_mm512_scalef_pd((__m512d)p, (__m512d)n); }
#else
INLINE vec times_power_of_two(vec p, vec n) {
    int bits = REAL_IS_FLOAT ? 23 : 52, bias = REAL_IS_FLOAT ? 127 : 1023;
    real rounder = (real)3 * (real)((int64_t)1 << (bits - 1)); /* leaves an integer in the low bits */
    ivec whole = (ivec)(n + rounder) - (ivec)splat(rounder), half = whole >> 1; /* 2^n itself may not exist */
    return p * (vec)((half + bias) << bits) * (vec)((whole - half + bias) << bits);
}
#endif

INLINE ptrdiff_t min_size(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
INLINE ptrdiff_t max_size(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
INLINE ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }

#endif
