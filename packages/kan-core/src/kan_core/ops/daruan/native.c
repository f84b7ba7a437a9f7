/* Sums of DARUAN circuits over the inputs, forward and backward, LANES rows side by side.

   All tensors are contiguous: x (in, rows), y and grad (out, rows), and what _table.py has of every edge, side by
   side, (in, out, numbers). Rows are padded to a multiple of 8. The state of a row is a Bloch vector; an upload turns
   it about z by w x + shift, then a tilt about y by an angle of the edge alone. */
#include "vector.h"

#define INLINE static inline __attribute__((always_inline))

#define OUTPUTS 16 /* of a work item in the forward pass: with a block of rows, y of an item stays in the cache */

enum { START_X, START_Y, START_Z, PER_UPLOAD }; /* of an edge's numbers, and of their gradients */

typedef struct {
    int64_t reps;
    const real *start, *frequency, *shift, *tilt_cos, *tilt_sin, *factor;
} Circuit;

INLINE Circuit circuit(const real *table, int64_t edge, int64_t reps) {
    const real *start = table + edge * (PER_UPLOAD + 4 * reps + 1), *first = start + PER_UPLOAD;
    return (Circuit){reps, start, first, first + reps, first + 2 * reps, first + 3 * reps, first + 4 * reps};
}

/* cos and sin of w x + shift. The product is not rounded: what it lacks goes into the low part. */
INLINE void waves(real w, real shift, const real *x, real reach, int64_t n, real *cosine, real *sine) {
    if (vabs(w) * reach > SINCOS_LIMIT) { /* rare: the library's functions reduce any angle */
        const double shift_cos = cos((double)shift), shift_sin = sin((double)shift);
        for (int64_t k = 0; k < n; k++) {
            const double angle = (double)w * (double)x[k], c = cos(angle), s = sin(angle);
            cosine[k] = (real)(c * shift_cos - s * shift_sin);
            sine[k] = (real)(s * shift_cos + c * shift_sin);
        }
        return;
    }
    for (int64_t k = 0; k < n; k++) {
        const real product = w * x[k];
        vsincos(product, vfma(w, x[k], -product) + shift, cosine + k, sine + k);
    }
}

/* The largest |x|; a NaN is none. */
INLINE real largest(const real *x, int64_t n) {
    real reach = 0;
    for (int64_t k = 0; k < n; k++) reach = vabs(x[k]) > reach ? vabs(x[k]) : reach;
    return reach;
}

/* sqrt(p), 0 where rounding leaves p <= 0, and half its slope, 0 there too. */
INLINE real root(real p) { return p <= 0 ? 0 : (real)(REAL_IS_DOUBLE ? sqrt((double)p) : sqrtf((float)p)); }
INLINE real root_slope(real p) { return p <= 0 ? 0 : (real)0.25 / root(p); }

/* What is read of <Z> = z: z itself, or |alpha| - |beta|. */
INLINE real readout(real z, int fast) { return fast ? root((1 + z) / 2) - root((1 - z) / 2) : z; }
INLINE real readout_slope(real z, int fast) { return fast ? root_slope((1 + z) / 2) + root_slope((1 - z) / 2) : 1; }

INLINE void forward_edge(const Circuit *e, const real *x, real reach, int64_t n, int fast, real *y) {
    real cosine[LANES], sine[LANES], vx[LANES], vy[LANES], vz[LANES];
    for (int64_t k = 0; k < n; k++) {
        vx[k] = e->start[START_X];
        vy[k] = e->start[START_Y];
        vz[k] = e->start[START_Z];
    }
    for (int64_t l = 0; l < e->reps; l++) {
        const real c = e->tilt_cos[l], s = e->tilt_sin[l];
        waves(e->frequency[l], e->shift[l], x, reach, n, cosine, sine);
        for (int64_t k = 0; k < n; k++) {
            const real turned = vfma(vx[k], cosine[k], -(vy[k] * sine[k])), z = vz[k];
            vy[k] = vfma(vx[k], sine[k], vy[k] * cosine[k]);
            vz[k] = vfma(z, c, -(turned * s));
            vx[k] = vfma(z, s, turned * c);
        }
    }
    const real f = *e->factor;
    for (int64_t k = 0; k < n; k++) y[k] = vfma(f, readout(vz[k], fast), y[k]);
}

/* y[o] = the sum over i of factor times read-out, for blocks of rows and of outputs. */
void forward(const real *x, const real *table, real *y, int64_t in, int64_t out, int64_t rows, int64_t reps,
             int64_t fast, int64_t threads) {
    const int64_t row_blocks = (rows + LANES - 1) / LANES, output_blocks = (out + OUTPUTS - 1) / OUTPUTS;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t item = 0; item < row_blocks * output_blocks; item++) {
        const int64_t row = item / output_blocks * LANES, n = smaller(LANES, rows - row);
        const int64_t first = item % output_blocks * OUTPUTS, last = smaller(first + OUTPUTS, out);
        for (int64_t o = first; o < last; o++) memset(y + o * rows + row, 0, n * sizeof(real));
        for (int64_t i = 0; i < in; i++) {
            const real *block = x + i * rows + row;
            const real reach = largest(block, n);
            for (int64_t o = first; o < last; o++) {
                const Circuit e = circuit(table, i * out + o, reps);
                if (fast) forward_edge(&e, block, reach, n, 1, y + o * rows + row);
                else forward_edge(&e, block, reach, n, 0, y + o * rows + row);
            }
        }
    }
}

/* After one upload, of LANES rows: its cos and sin, and the state. */
typedef struct {
    real cosine[LANES], sine[LANES], x[LANES], y[LANES], z[LANES];
} Step;

/* The states, kept in the cache, then the adjoint vector back through the same rotations. At a rotation about an axis,
   the derivative by its angle is that axis's component of state x adjoint. Adds to dx, and to `sums` the terms of the
   start vector, of shifts, tilts and frequencies, and of the factor. */
INLINE void backward_edge(const Circuit *e, const real *x, const real *grad, real reach, int64_t n, int fast,
                          Step *steps, real *dx, real *sums) {
    real vx[LANES], vy[LANES], vz[LANES], ax[LANES], ay[LANES], az[LANES];
    const int64_t reps = e->reps;
    for (int64_t k = 0; k < n; k++) {
        vx[k] = e->start[START_X];
        vy[k] = e->start[START_Y];
        vz[k] = e->start[START_Z];
    }
    for (int64_t l = 0; l < reps; l++) {
        Step *p = steps + l;
        const real c = e->tilt_cos[l], s = e->tilt_sin[l];
        waves(e->frequency[l], e->shift[l], x, reach, n, p->cosine, p->sine);
        for (int64_t k = 0; k < n; k++) {
            p->x[k] = vfma(vx[k], p->cosine[k], -(vy[k] * p->sine[k]));
            p->y[k] = vy[k] = vfma(vx[k], p->sine[k], vy[k] * p->cosine[k]);
            p->z[k] = vz[k];
            vz[k] = vfma(p->z[k], c, -(p->x[k] * s));
            vx[k] = vfma(p->z[k], s, p->x[k] * c);
        }
    }
    const real f = *e->factor;
    real read = 0;
#pragma omp simd reduction(+ : read)
    for (int64_t k = 0; k < n; k++) {
        read += grad[k] * readout(vz[k], fast);
        az[k] = grad[k] * f * readout_slope(vz[k], fast);
        ax[k] = ay[k] = 0;
    }
    sums[PER_UPLOAD + 3 * reps] += read;
    for (int64_t l = reps - 1; l >= 0; l--) {
        const Step *p = steps + l;
        const real c = e->tilt_cos[l], s = e->tilt_sin[l], w = e->frequency[l];
        real turns = 0, tilts = 0, rates = 0;
#pragma omp simd reduction(+ : turns, tilts, rates)
        for (int64_t k = 0; k < n; k++) {
            const real before_x = vfma(ax[k], c, -(az[k] * s));
            az[k] = vfma(az[k], c, ax[k] * s);
            const real turn = vfma(ay[k], p->x[k], -(before_x * p->y[k]));
            turns += turn;
            rates = vfma(turn, x[k], rates);
            tilts += vfma(before_x, p->z[k], -(az[k] * p->x[k]));
            dx[k] = vfma(turn, w, dx[k]);
            ax[k] = vfma(before_x, p->cosine[k], ay[k] * p->sine[k]);
            ay[k] = vfma(ay[k], p->cosine[k], -(before_x * p->sine[k]));
        }
        sums[PER_UPLOAD + l] += turns;
        sums[PER_UPLOAD + reps + l] += tilts;
        sums[PER_UPLOAD + 2 * reps + l] += rates;
    }
    real start_x = 0, start_y = 0, start_z = 0;
#pragma omp simd reduction(+ : start_x, start_y, start_z)
    for (int64_t k = 0; k < n; k++) {
        start_x += ax[k];
        start_y += ay[k];
        start_z += az[k];
    }
    sums[START_X] += start_x;
    sums[START_Y] += start_y;
    sums[START_Z] += start_z;
}

/* dx (in, rows) and sums (chunks, in, out, numbers), which come zeroed. A work item owns an input in a chunk of rows,
   all of its outputs included, so that no two items write to one place, whatever the number of threads. */
void backward(const real *grad, const real *x, const real *table, real *dx, real *sums, Step *scratch, int64_t in,
              int64_t out, int64_t rows, int64_t chunk_rows, int64_t reps, int64_t fast, int64_t threads) {
    const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t item = 0; item < chunks * in; item++) {
        const int64_t chunk = item / in, i = item % in, end = smaller((chunk + 1) * chunk_rows, rows);
        const int64_t count = PER_UPLOAD + 3 * reps + 1;
        real *mine = sums + item * out * count;
        Step *steps = scratch + thread_number() * reps;
        for (int64_t row = chunk * chunk_rows; row < end; row += LANES) {
            const int64_t n = smaller(LANES, end - row);
            const real *block = x + i * rows + row;
            const real reach = largest(block, n);
            for (int64_t o = 0; o < out; o++) {
                const Circuit e = circuit(table, i * out + o, reps);
                const real *g = grad + o * rows + row;
                if (fast) backward_edge(&e, block, g, reach, n, 1, steps, dx + i * rows + row, mine + o * count);
                else backward_edge(&e, block, g, reach, n, 0, steps, dx + i * rows + row, mine + o * count);
            }
        }
    }
}
