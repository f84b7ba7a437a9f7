/* What all kernels share: the number type, and elementary functions that compilers turn into vector code. */
#ifndef KAN_VECTOR_H
#define KAN_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* `real` is float or double, by -Dreal=... */

#define LANES 64 /* numbers that a kernel handles side by side in small arrays: a multiple of every vector width */

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline real vabs(real x) { return REAL_IS_DOUBLE ? fabs((double)x) : fabsf((float)x); }

/* Of the thread that asks, from 0: index of its own scratch memory. */
int omp_get_thread_num(void);
static inline int64_t thread_number(void) { return omp_get_thread_num(); }

/* a b + c, rounded once where the machine can, else twice. */
static inline real vfma(real a, real b, real c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return REAL_IS_DOUBLE ? (real)fma((double)a, (double)b, (double)c) : (real)fmaf((float)a, (float)b, (float)c);
#else
    return a * b + c;
#endif
}

/* cos and sin of high + low for |high| <= SINCOS_LIMIT and |low| <= 4, within 1e-7 (float) or 1e-15: high + low - n pi
   lies in [-pi/2, pi/2]; the first two parts of pi have so few bits that their n-folds are exact; then polynomials,
   minimax (float) or Taylor's. The low part is what rounding left out of high, or a shift. NaN for NaN. */
#define SINCOS_LIMIT ((real)(REAL_IS_DOUBLE ? 1e6 : 1e5))
#if REAL_IS_DOUBLE
static inline void vsincos(double high, double low, double *cosine, double *sine) {
    double rounded = vfma(high + low, 0.3183098861837907, 6755399441055744.0); /* 1.5 2^52: units become whole */
    double n = rounded - 6755399441055744.0;
    double r = vfma(-n, 3.1415926534682512, high);
    r = vfma(-n, 1.2154201012607932e-10, r) + low;
    r = vfma(-n, 4.044532497591901e-21, r);
    double u = r * r;
    double s = 1.0 / 51090942171709440000.0, c = 1.0 / 2432902008176640000.0;
    s = vfma(s, u, -1.0 / 121645100408832000.0);
    s = vfma(s, u, 1.0 / 355687428096000.0);
    s = vfma(s, u, -1.0 / 1307674368000.0);
    s = vfma(s, u, 1.0 / 6227020800.0);
    s = vfma(s, u, -1.0 / 39916800.0);
    s = vfma(s, u, 1.0 / 362880.0);
    s = vfma(s, u, -1.0 / 5040.0);
    s = vfma(s, u, 1.0 / 120.0);
    s = vfma(s, u, -1.0 / 6.0);
    c = vfma(c, u, -1.0 / 6402373705728000.0);
    c = vfma(c, u, 1.0 / 20922789888000.0);
    c = vfma(c, u, -1.0 / 87178291200.0);
    c = vfma(c, u, 1.0 / 479001600.0);
    c = vfma(c, u, -1.0 / 3628800.0);
    c = vfma(c, u, 1.0 / 40320.0);
    c = vfma(c, u, -1.0 / 720.0);
    c = vfma(c, u, 1.0 / 24.0);
    c = vfma(c, u, -0.5);
    s = vfma(s * u, r, r);
    c = vfma(c, u, 1.0);
    uint64_t odd, bits;
    memcpy(&odd, &rounded, sizeof odd);
    odd <<= 63; /* an odd n changes both signs */
    memcpy(&bits, &s, sizeof bits), bits ^= odd, memcpy(sine, &bits, sizeof bits);
    memcpy(&bits, &c, sizeof bits), bits ^= odd, memcpy(cosine, &bits, sizeof bits);
}
#else
static inline void vsincos(float high, float low, float *cosine, float *sine) {
    float rounded = vfma(high + low, 0.318309886f, 12582912.0f); /* 1.5 2^23: units become whole */
    float n = rounded - 12582912.0f;
    float r = vfma(-n, 3.140625f, high);
    r = vfma(-n, 0.0009675025939941406f, r) + low;
    r = vfma(-n, 1.5099579909783765e-07f, r);
    float u = r * r;
    float s = 2.599449474e-06f, c = -2.6071331368e-07f;
    s = vfma(s, u, -1.9806342769e-04f);
    s = vfma(s, u, 8.333013541e-03f);
    s = vfma(s, u, -1.6666656944e-01f);
    c = vfma(c, u, 2.4761573278e-05f);
    c = vfma(c, u, -1.3888397733e-03f);
    c = vfma(c, u, 4.1666640315e-02f);
    c = vfma(c, u, -4.9999999541e-01f);
    s = vfma(s * u, r, r);
    c = vfma(c, u, 1.0f);
    uint32_t odd, bits;
    memcpy(&odd, &rounded, sizeof odd);
    odd <<= 31; /* an odd n changes both signs */
    memcpy(&bits, &s, sizeof bits), bits ^= odd, memcpy(sine, &bits, sizeof bits);
    memcpy(&bits, &c, sizeof bits), bits ^= odd, memcpy(cosine, &bits, sizeof bits);
}
#endif

#endif
