/* Vectors of the machine's width, by GCC's and Clang's vector extension: what has to stay in registers. */
#ifndef KAN_WIDE_H
#define KAN_WIDE_H

#include "vector.h"

#if defined(__AVX512F__)
#define WIDTH (64 / (int)sizeof(real))
#elif defined(__AVX__)
#define WIDTH (32 / (int)sizeof(real))
#else
#define WIDTH (16 / (int)sizeof(real))
#endif

#if REAL_IS_DOUBLE
typedef int64_t lane;
#else
typedef int32_t lane;
#endif
typedef real vec __attribute__((vector_size(WIDTH * sizeof(real))));
typedef lane mask __attribute__((vector_size(WIDTH * sizeof(real)))); /* what comparisons give: all bits of a lane, or none */

#define INLINE static inline __attribute__((always_inline))

INLINE vec spread(real x) { return x - (vec){0}; } /* the same number in every lane */

/* n numbers; the lanes beyond them repeat the first, which keeps them ordinary. */
INLINE vec load(const real *from, int64_t n) {
    vec v;
    if (n == WIDTH) {
        memcpy(&v, from, sizeof v);
    } else {
        v = spread(from[0]);
        memcpy(&v, from, (size_t)n * sizeof(real));
    }
    return v;
}

INLINE void store(real *to, vec v, int64_t n) {
    if (n == WIDTH) memcpy(to, &v, sizeof v);
    else memcpy(to, &v, (size_t)n * sizeof(real));
}

INLINE vec keep(mask m, vec v) { return (vec)(m & (mask)v); } /* v where m holds, 0 elsewhere */

INLINE vec choose(mask m, vec a, vec b) { return (vec)((m & (mask)a) | (~m & (mask)b)); }

INLINE vec between(vec x, vec low, vec high) { /* NaN stays NaN */
    x = choose(x < low, low, x);
    return choose(x > high, high, x);
}

/* The largest whole number not above x, for numbers that fit `lane`; NaN is anything. */
INLINE vec whole(vec x) {
    vec toward_zero = __builtin_convertvector(__builtin_convertvector(x, mask), vec);
    return toward_zero - keep(toward_zero > x, spread(1));
}

/* exp(x) for x <= 0: 2^n exp(r) with |r| <= ln(2) / 2, the latter by its Taylor polynomial. NaN for NaN. */
INLINE vec exp_negative(vec x) {
    const real least = REAL_IS_DOUBLE ? -708 : -87;
    const vec limited = choose(x < least, spread(least), x);
    const vec n = whole(limited * (real)1.4426950408889634 + (real)0.5);
    vec r, p;
#if REAL_IS_DOUBLE
    r = limited - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10;
    p = spread(1.0 / 6227020800.0);
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    const mask bits = (__builtin_convertvector(keep(n == n, n), mask) + 1023) << 52;
#else
    r = limited - n * 0.693359375f + n * 2.12194440e-4f;
    p = spread(1.0f / 5040);
    p = p * r + 1.0f / 720;
    const mask bits = (__builtin_convertvector(keep(n == n, n), mask) + 127) << 23;
#endif
    p = p * r + (real)(1.0 / 120);
    p = p * r + (real)(1.0 / 24);
    p = p * r + (real)(1.0 / 6);
    p = p * r + (real)0.5;
    p = p * r + (real)1;
    p = p * r + (real)1;
    return choose(x < least, spread(0), p * (vec)bits);
}

/* 1 / (1 + exp(-x)) without overflow. */
INLINE vec sigmoid(vec x) {
    const vec e = exp_negative(choose(x < 0, x, -x));
    return choose(x < 0, e, spread(1)) / (1 + e);
}

INLINE vec magnitude(vec x) { return choose(x < 0, -x, x); }

/* 1 - tanh(x)^2: nothing cancels and nothing overflows. */
INLINE vec squared_sech(vec x) {
    const vec e = exp_negative(-2 * magnitude(x));
    return 4 * e / ((1 + e) * (1 + e));
}

/* tanh(x); near 0, where 1 - e cancels, (exp(y) - 1) / (exp(y) + 1) by the series of exp(y) - 1, y = -2 |x|. */
INLINE vec hyperbolic_tangent(vec x) {
    const vec y = -2 * magnitude(x), e = exp_negative(y);
    vec m = spread((real)(1.0 / 6227020800.0)); /* (exp(y) - 1) / y for |y| <= 0.5 */
    m = m * y + (real)(1.0 / 479001600.0);
    m = m * y + (real)(1.0 / 39916800.0);
    m = m * y + (real)(1.0 / 3628800.0);
    m = m * y + (real)(1.0 / 362880.0);
    m = m * y + (real)(1.0 / 40320.0);
    m = m * y + (real)(1.0 / 5040.0);
    m = m * y + (real)(1.0 / 720.0);
    m = m * y + (real)(1.0 / 120.0);
    m = m * y + (real)(1.0 / 24.0);
    m = m * y + (real)(1.0 / 6.0);
    m = m * y + (real)0.5;
    m = m * y + (real)1;
    const vec less = choose(y > (real)-0.5, m * y, e - 1);
    return choose(x < 0, less, -less) / (1 + e);
}

/* Both at once, for |x| up to 2^20: x less its nearest multiple of pi / 2, which is taken off in three parts. NaN beyond. */
INLINE void cosine_and_sine(vec x, vec *cosine, vec *sine) {
    const vec n = whole(x * (real)0.6366197723675814 + (real)0.5);
#if REAL_IS_DOUBLE
    const vec r = x - n * 1.57079632673412561417e+00 - n * 6.07710050650619224932e-11;
#else
    const vec r = x - n * 1.5703125f - n * 4.837512969970703125e-4f - n * 7.5497899548918821e-8f;
#endif
    const mask quarter = __builtin_convertvector(n, mask);
    const vec u = r * r;
    vec s = spread((real)(1.0 / 6227020800.0)), c = spread((real)(1.0 / 479001600.0));
#if REAL_IS_DOUBLE
    s = s - u * (1.0 / 1307674368000.0);
    c = c - u * (1.0 / 87178291200.0);
#endif
    s = s * u - (real)(1.0 / 39916800.0);
    s = s * u + (real)(1.0 / 362880.0);
    s = s * u - (real)(1.0 / 5040.0);
    s = s * u + (real)(1.0 / 120.0);
    s = s * u - (real)(1.0 / 6.0);
    s = r + r * u * s;
    c = c * u - (real)(1.0 / 3628800.0);
    c = c * u + (real)(1.0 / 40320.0);
    c = c * u - (real)(1.0 / 720.0);
    c = c * u + (real)(1.0 / 24.0);
    c = c * u - (real)0.5;
    c = 1 + u * c;
    const mask swapped = (quarter & 1) != 0, negative_sine = (quarter & 2) != 0, negative_cosine = ((quarter + 1) & 2) != 0;
    const vec far = keep(magnitude(x) > (real)1048576, spread(NAN));
    const vec sn = choose(swapped, c, s), cs = choose(swapped, s, c);
    *sine = choose(negative_sine, -sn, sn) + far;
    *cosine = choose(negative_cosine, -cs, cs) + far;
}

#endif
