/* exp, log, tanh and their kin on one vector, within 2 units in the last place.
 *
 * e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2)/2, and e^r = 1 + r + r^2 q(r). ln 2 is taken in two
 * parts, the first with so few bits that n times it is exact (Cody and Waite, Software Manual for the
 * Elementary Functions, 1980). log(m) = 2 atanh(s), s = (m - 1) / (m + 1). The polynomials are Chebyshev
 * interpolants whose relative error is below a tenth of a unit in the last place.
 *
 * NaN goes in and comes out; infinities have their limits; what underflows is denormal, then zero.
 */
#ifndef PYCONV_VMATH_H
#define PYCONV_VMATH_H

#include "simd.h"

#if REAL_IS_FLOAT
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUNDER ((real)12582912.0) /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
#define LN2_HIGH ((real)0.693359375)
#define LN2_LOW ((real) - 2.12194440054690583e-4)
#define EXP_LOWEST ((real) - 104.0) /* e^x rounds to 0 below, to infinity above EXP_HIGHEST */
#define EXP_HIGHEST ((real)89.0)
#define EXPM1_LOWEST ((real) - 17.5) /* e^x - 1 rounds to -1 below */
static const real EXP_Q[] = {0.5f, 0.1666657606f, 0.04166655346f, 0.008363333082f, 0.0013926376f};
static const real ATANH_Q[] = {0.3333333366f, 0.1999985317f, 0.14296179f, 0.108532879f, 0.1161216461f};
static const real GAUSS[] = {
    1.0f, -0.5000000189f, 0.1250000012f, -0.02083301876f, 0.002604147017f, -0.000261724009f, 2.178306368e-5f};
#define TAIL_END ((real)14.5) /* the tail beyond rounds to 0 */
#define TAIL_SCALE ((real)0.35)
#define TAIL_CENTRE ((real)0)
static const real TAIL[] = {0.139618635f,  0.1399143339f,  0.1194250927f, 0.1072124994f,  -0.02732191058f,
                            0.1655101648f, -0.2614105432f, 0.1467839861f, -0.02973227581f};
#define HIGH_HALF ((integer)0xfffff000) /* the bits of a float whose square is exact */
#else
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52 */
#define LN2_HIGH 6.93145751953125e-1
#define LN2_LOW 1.42860682030941723212e-6
#define EXP_LOWEST -746.0
#define EXP_HIGHEST 710.0
#define EXPM1_LOWEST -37.5
static const real EXP_Q[] = {0.5,
                             0.166666666666666711,
                             0.04166666666666666984,
                             0.00833333333332598557,
                             0.00138888888888836415,
                             0.0001984126987534214216,
                             0.00002480158732592016174,
                             2.75572547404054151e-6,
                             2.755727317194102772e-7,
                             2.510549090698669546e-8,
                             2.09148825634850695e-9};
static const real ATANH_Q[] = {0.3333333333333333344,  0.1999999999999976125,  0.1428571428580004965,
                               0.1111111109911838528,  0.09090909948981357191, 0.07692271982430274643,
                               0.06667589315724627918, 0.0586713953065159873,  0.05422589197440007411,
                               0.0374607189777538365,  0.07815288900461425223};
static const real GAUSS[] = {1.0,
                             -0.49999999999999999988,
                             0.12500000000000046194,
                             -0.020833333333333351096,
                             0.0026041666666554612259,
                             -0.00026041666666623579878,
                             0.000021701388988289697584,
                             -1.5500992101713832789e-6,
                             9.6880801868633056913e-8,
                             -5.3822735862771990746e-9,
                             2.6985073312140873184e-10,
                             -1.2260788872991326745e-11};
#define TAIL_END 39.0
#define TAIL_SCALE 0.21875
#define TAIL_CENTRE 0.5625
static const real TAIL[] = {
    0.1864522412823445751,    0.337317559307116816,     0.4937358968378455665,   0.5738259513630170464,
    0.5051116585250588228,    0.2968959431494064648,    0.06108583738191655776,  -0.06889788669179705954,
    -0.05794559768198414805,  0.007546072391026136627,  0.02913074110932116048,  0.002065365242704146112,
    -0.01504876464457112114,  -0.001808490550625481046, 0.008738067450873102469, 0.0003302718647786865174,
    -0.005516085685254074955, 0.0007971700246594833702, 0.003488744539022965468, -0.001169383753180170442,
    -0.001965752575345563541, 0.0006792071990367814187, 0.0007397970729879348027};
#define HIGH_HALF ((integer)0xfffffffff8000000)
#endif
#define TERMS(polynomial) ((int)(sizeof(polynomial) / sizeof(real)))

/* c[0] + c[1] x + ... + c[terms - 1] x^(terms - 1) */
INLINE vec horner(const real *c, int terms, vec x) {
    vec y = splat(c[terms - 1]);
    for (int i = terms - 2; i >= 0; i--) y = y * x + c[i];
    return y;
}

INLINE vec absolute(vec x) { return (vec)((ivec)x & ~(ivec)splat((real)-0.0)); }
INLINE vec with_sign_of(vec x, vec sign) { return (vec)((ivec)x | ((ivec)sign & (ivec)splat((real)-0.0))); }
/* x held to [low, high]; NaN stays NaN */
INLINE vec clamp(vec x, vec low, vec high) { return smaller(high, larger(low, x)); }

/* n = round(x / ln 2), as a number, and r = x - n ln 2 */
struct reduced {
    vec n, r;
};
INLINE struct reduced reduce(vec x) {
    vec n = x * (real)1.44269504088896340736 + ROUNDER;
    n = n - ROUNDER;
    return (struct reduced){n, x - n * LN2_HIGH - n * LN2_LOW};
}

/* 2^n for an integer-valued n that gives a normal number */
INLINE vec power_of_two(vec n) {
    ivec bits = (ivec)(n + ROUNDER) - (ivec)splat(ROUNDER);
    return (vec)((bits + EXPONENT_BIAS) << MANTISSA_BITS);
}

INLINE vec exp_of_reduced(vec n, vec r) {
    return times_power_of_two(horner(EXP_Q, TERMS(EXP_Q), r) * (r * r) + r + 1, n);
}

INLINE vec vec_exp(vec x) {
    struct reduced t = reduce(clamp(x, splat(EXP_LOWEST), splat(EXP_HIGHEST)));
    return exp_of_reduced(t.n, t.r);
}

#define MOST_EACH 4
/* x = e^x for `count` vectors: of one alone, a long chain of operations is waited for. Four take 0.8 of the
 * time (Zen 3). */
INLINE void exp_each(vec *x, const int count) {
    struct reduced t[MOST_EACH];
    vec q[MOST_EACH];
    UNROLL for (int i = 0; i < count; i++) {
        t[i] = reduce(clamp(x[i], splat(EXP_LOWEST), splat(EXP_HIGHEST)));
        q[i] = splat(EXP_Q[TERMS(EXP_Q) - 1]);
    }
    UNROLL for (int j = TERMS(EXP_Q) - 2; j >= 0; j--) UNROLL for (int i = 0; i < count; i++) q[i] =
        q[i] * t[i].r + EXP_Q[j];
    UNROLL for (int i = 0; i < count; i++) x[i] =
        times_power_of_two(q[i] * (t[i].r * t[i].r) + t[i].r + 1, t[i].n);
}

/* e^x - 1, without cancellation near 0 */
INLINE vec vec_expm1(vec x) {
    struct reduced t = reduce(clamp(x, splat(EXPM1_LOWEST), splat(EXP_HIGHEST)));
    vec p = horner(EXP_Q, TERMS(EXP_Q), t.r) * (t.r * t.r) + t.r;
    vec half = power_of_two(t.n - 1); /* half of 2^n, which may overflow */
    return (p * half + (half - (real)0.5)) * 2;
}

/* log(1 + x) for 0 <= x <= 1 */
INLINE vec vec_log1p(vec x) {
    vec s = x * reciprocal(x + 2), z = s * s;
    return 2 * s + 2 * s * z * horner(ATANH_Q, TERMS(ATANH_Q), z);
}

/* log(x) for x a positive normal number, infinity or NaN */
INLINE vec vec_log(vec x) {
    ivec root_half = (ivec)splat((real)0.70710678118654752440);
    ivec exponent = ((ivec)x - root_half) >> MANTISSA_BITS;
    vec m = (vec)((ivec)x - (exponent << MANTISSA_BITS)); /* in [sqrt(1/2), sqrt(2)) */
    vec n = (vec)(exponent + (ivec)splat(ROUNDER)) - ROUNDER;
    vec s = (m - 1) * reciprocal(m + 1), z = s * s;
    vec y = n * LN2_HIGH + (2 * s + (2 * s * z * horner(ATANH_Q, TERMS(ATANH_Q), z) + n * LN2_LOW));
    return choose(x - x == 0, y, x);
}

/* tanh(x) = -e / (e + 2) with e = e^t - 1 and t = -2 |x|, held to where 2^n e^r needs no care */
INLINE vec vec_tanh(vec x) {
    vec t = larger(splat(EXPM1_LOWEST), -2 * absolute(x));
    vec shifted = t * (real)1.44269504088896340736 + ROUNDER, n = shifted - ROUNDER;
    vec r = t - n * LN2_HIGH - n * LN2_LOW;
    vec scale = (vec)(((ivec)shifted - ((ivec)splat(ROUNDER) - EXPONENT_BIAS)) << MANTISSA_BITS);
    vec e = (horner(EXP_Q, TERMS(EXP_Q), r) * (r * r) + r) * scale + (scale - 1);
    return with_sign_of(absolute(e) * reciprocal(e + 2), x);
}

/* 1 / (1 + e^-x), as accurate where it is small as where it is large */
INLINE vec vec_sigmoid(vec x) {
    vec e = vec_exp(-absolute(x)), r = reciprocal(e + 1);
    return choose(x < 0, e * r, r);
}

/* b^2 + c, where rounding the square would be magnified */
INLINE vec square_plus(vec b, vec c) {
#if FUSES
    return b * b + in_register(c); /* c may be a product, and b * b is what must be fused */
#else
    vec high = (vec)((ivec)b & HIGH_HALF);
    return (high * high + c) + (b - high) * (b + high);
#endif
}

/* The standard normal distribution: P(X > |x|), and its density, of b = -|x|, held to [-TAIL_END, 0]. With
 * n = round(-b^2 / (2 ln 2)) and s = b^2 + 2 n ln 2, e^(-b^2/2) is 2^n times GAUSS, a polynomial of s near
 * e^(-s/2); the tail is that times u TAIL(u - TAIL_CENTRE), u = 1 / (1 - TAIL_SCALE b). */
struct normal {
    vec b, tail, density;
};
INLINE struct normal vec_normal(vec x) {
    vec b = larger((vec)((ivec)x | (ivec)splat((real)-0.0)), splat(-TAIL_END)); /* NaN becomes -TAIL_END */
    vec n = b * (real)-0.72134752044448170368 * b + ROUNDER;
    n = n - ROUNDER;
    vec s = square_plus(b, n * (2 * LN2_HIGH)) + n * (2 * LN2_LOW);
    vec e = times_power_of_two(horner(GAUSS, TERMS(GAUSS), s), n), u = reciprocal(b * -TAIL_SCALE + 1);
    vec tail = e * (u * horner(TAIL, TERMS(TAIL), u - TAIL_CENTRE));
    return (struct normal){b, tail, e * (real)0.39894228040143267794};
}

#endif
