/* What all kernels share: the number type, and elementary functions that compilers turn into vector code. */
#ifndef KAN_VECTOR_H
#define KAN_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* `real` is float or double, by -Dreal=... */

#define LANES 64 /* numbers that a kernel handles side by side in small arrays: a multiple of every vector width */

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* exp(x): 2^n exp(r) with |r| <= ln(2)/2, the latter by its Taylor polynomial. 0 and infinity beyond the range, NaN for
   NaN; within 2 units in the last place. */
#if REAL_IS_DOUBLE
static inline double vexp(double x) {
    double limited = x < -708.0 ? -708.0 : (x > 709.0 ? 709.0 : x); /* keeps NaN */
    double n = nearbyint(limited * 1.4426950408889634);
    double r = limited - n * 6.93147180369123816490e-01;
    r -= n * 1.90821492927058770002e-10;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    int64_t bits = ((int64_t)(n == n ? n : 0.0) + 1023) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    double y = p * scale;
    return x < -708.0 ? 0.0 : (x > 709.0 ? INFINITY : y);
}
#else
static inline float vexp(float x) {
    float limited = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x); /* keeps NaN */
    float n = nearbyintf(limited * 1.44269504f);
    float r = limited - n * 0.693359375f;
    r += n * 2.12194440e-4f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits = ((int32_t)(n == n ? n : 0.0f) + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    float y = p * scale;
    return x < -87.0f ? 0.0f : (x > 88.0f ? INFINITY : y);
}
#endif

static inline real vabs(real x) { return REAL_IS_DOUBLE ? fabs((double)x) : fabsf((float)x); }

static inline real vfloor(real x) { return REAL_IS_DOUBLE ? floor((double)x) : floorf((float)x); }

/* 1 / (1 + exp(-x)) without overflow, exact to the last place at both ends. */
static inline real vsigmoid(real x) {
    real e = vexp(-vabs(x));
    return (x < 0 ? e : (real)1) / (1 + e);
}

#endif
