/* Planes of a block of rows, and the contraction of their gradients onto x and onto the numbers of the functions.

   One skeleton for all families of form.py: what tells them apart is a few lines per function, chosen by a constant.
   Layouts, all contiguous: x (rows, in), planes (rows, K, in) or (rows, K + 1, in) with silu, table (K, lines, in) or
   (K, lines, 1), its gradient (K, 2, in). */
#include "wide.h"

#define MAX_COUNT 256
#define MAX_ORDER 5

enum { RBF, RSWAF, RELU_KAN, POLYNOMIAL, POLYNOMIAL_TANH, FOURIER, KNOTS_DECAY, KNOTS_CLAMP };

typedef struct {
    int64_t in, count, lines, shared; /* shared: all inputs have the same table */
    int order;
    real offset;
    const real *a, *b, *table;
} Form;

INLINE vec number(const Form *f, int64_t c, int line, int64_t i, int64_t n) {
    const real *at = f->table + (c * f->lines + line) * (f->shared ? 1 : f->in);
    return f->shared ? spread(*at) : load(at + i, n);
}

/* Where an output of the kernels goes, for one vector of inputs. */
typedef struct {
    int64_t n, in;
    int contract;
    real *planes;
    vec dx;
} Place;

/* Plane c: on the way forth its value, on the way back the value again, and slope times gradient into dx. */
INLINE vec emit(Place *p, int64_t c, vec value, vec slope) {
    real *plane = p->planes + c * p->in;
    vec grad = spread(0);
    if (p->contract) {
        grad = load(plane, p->n);
        p->dx += grad * slope;
    }
    store(plane, value, p->n);
    return grad;
}

/* Bumps: rows of the table are the centre g and 1 / h. */
INLINE void bumps(const Form *f, int family, vec x, Place *p, int64_t i, vec sums[][2]) {
    for (int64_t c = 0; c < f->count; c++) {
        const vec g = number(f, c, 0, i, p->n), s = number(f, c, 1, i, p->n), v = (x - g) * s;
        vec value, prime;
        if (family == RBF) {
            value = exp_negative(-v * v);
            prime = -2 * v * value;
        } else if (family == RSWAF) {
            const vec t = hyperbolic_tangent(v), e = exp_negative(-2 * magnitude(v));
            value = 4 * e / ((1 + e) * (1 + e));
            prime = -2 * t * value;
        } else {
            vec inside = 1 - v * v;
            inside = choose(inside < 0, spread(0), inside);
            value = inside * inside;
            prime = -4 * v * inside;
        }
        const vec grad = emit(p, c, value, prime * s);
        if (p->contract && sums) {
            sums[c][0] -= grad * prime * s;
            sums[c][1] += grad * prime * (x - g);
        }
    }
}

/* Polynomials by their recurrence; rows of the table are a_c, b_c and c_c. */
INLINE void polynomials(const Form *f, int family, vec x, Place *p, int64_t i) {
    const vec t = family == POLYNOMIAL_TANH ? hyperbolic_tangent(x) : x, u = family == POLYNOMIAL_TANH ? t + f->offset : t;
    const vec chain = family == POLYNOMIAL_TANH ? squared_sech(x) : spread(1);
    vec value = 1 + 0 * u, older = spread(0), slope = 0 * u, older_slope = spread(0);
    for (int64_t c = 0; c < f->count; c++) {
        emit(p, c, value, slope * chain);
        const vec a = number(f, c, 0, i, p->n), factor = a * u + number(f, c, 1, i, p->n), back = number(f, c, 2, i, p->n);
        const vec next = factor * value - back * older, next_slope = a * value + (factor * slope - back * older_slope);
        older = value, older_slope = slope;
        value = next, slope = next_slope;
    }
}

/* cos(kx), then sin(kx), over k^order: each by a turn of the one before, so that only x itself is reduced. */
INLINE void waves(const Form *f, vec x, Place *p) {
    const int64_t half = f->count / 2;
    vec cos1, sin1;
    cosine_and_sine(x, &cos1, &sin1);
    vec cosine = cos1, sine = sin1;
    for (int64_t c = 0; c < half; c++) {
        const real k = (real)(c + 1);
        real scale = 1;
        for (int j = 0; j < f->order; j++) scale /= k;
        emit(p, c, cosine * scale, -sine * (k * scale));
        emit(p, half + c, sine * scale, cosine * (k * scale));
        const vec turned = cosine * cos1 - sine * sin1;
        sine = sine * cos1 + cosine * sin1;
        cosine = turned;
    }
}

/* B-splines on uneven knots. Of K + order + 1 knots, those of function c are rows of its plane of the table. */
typedef struct {
    vec knot[MAX_COUNT + MAX_ORDER + 1];
    vec inverse[MAX_ORDER + 1][MAX_COUNT + MAX_ORDER]; /* [p][j]: 1 / (t_{j+p} - t_j) */
} Knots;

INLINE void read_knots(const Form *f, int64_t i, int64_t n, Knots *k) {
    const int64_t count = f->count + f->order + 1;
    for (int64_t j = 0; j < count; j++) {
        const int64_t c = smaller(j, f->count - 1);
        k->knot[j] = number(f, c, (int)(j - c), i, n);
    }
    for (int p = 1; p <= f->order; p++)
        for (int64_t j = 0; j + p < count; j++) k->inverse[p][j] = 1 / (k->knot[j + p] - k->knot[j]);
}

INLINE void recursion(const Form *f, int family, vec x, Place *p, const Knots *k, int order) {
    const int64_t count = f->count;
    const vec *t = k->knot, low = t[order], high = t[count], width = high - low;
    vec chain = spread(1), b[MAX_COUNT + MAX_ORDER];
    if (family == KNOTS_CLAMP) {
        chain = keep((x >= low) & (x <= high), chain);
        x = between(x, low, high);
    } else { /* beyond the extended grid all is 0; this keeps infinities out of 0 times infinity */
        x = between(x, t[0] - width, t[count + order] + width);
    }
    const vec at = choose(x == high, t[count - 1], x); /* the grid's right end belongs to its last cell */
    for (int64_t j = 0; j < count + order; j++) b[j] = keep((at >= t[j]) & (at < t[j + 1]), spread(1));
    for (int q = 1; q < order; q++)
        for (int64_t j = 0; j < count + order - q; j++)
            b[j] = (x - t[j]) * k->inverse[q][j] * b[j] + (t[j + q + 1] - x) * k->inverse[q][j + 1] * b[j + 1];
    for (int64_t c = 0; c < count; c++) {
        const vec rising = order ? b[c] * k->inverse[order][c] : b[c];
        const vec falling = order ? b[c + 1] * k->inverse[order][c + 1] : spread(0);
        const vec value = order ? (x - t[c]) * rising + (t[c + order + 1] - x) * falling : b[c] + 0 * x;
        emit(p, c, value, chain * (real)order * (rising - falling));
    }
}

INLINE void vector_of_inputs(const Form *f, int family, const real *x, real *planes, real *dx, real *table_gradient,
                             int64_t i, int64_t first, int64_t last, int silu, int contract) {
    const int64_t n = smaller(WIDTH, f->in - i), stride = (f->count + silu) * f->in;
    const int uneven = family == KNOTS_DECAY || family == KNOTS_CLAMP;
    vec sums[MAX_COUNT][2];
    Knots knots;
    if (uneven) read_knots(f, i, n, &knots);
    if (table_gradient)
        for (int64_t c = 0; c < f->count; c++) sums[c][0] = sums[c][1] = spread(0);
    for (int64_t r = first; r < last; r++) {
        const vec v = load(x + r * f->in + i, n);
        Place p = {n, f->in, contract, planes + r * stride + i, spread(0)};
        if (family == POLYNOMIAL || family == POLYNOMIAL_TANH) polynomials(f, family, v, &p, i);
        else if (family == FOURIER) waves(f, v, &p);
        else if (!uneven) bumps(f, family, v, &p, i, table_gradient ? sums : 0);
        else switch (f->order) {
            case 1: recursion(f, family, v, &p, &knots, 1); break;
            case 2: recursion(f, family, v, &p, &knots, 2); break;
            case 3: recursion(f, family, v, &p, &knots, 3); break;
            default: recursion(f, family, v, &p, &knots, f->order);
        }
        if (silu) {
            const vec s = sigmoid(v);
            emit(&p, f->count, v * s, s * (1 + v * (1 - s)));
        }
        if (contract) store(dx + r * f->in + i, p.dx, n);
    }
    if (table_gradient)
        for (int64_t c = 0; c < f->count; c++)
            for (int line = 0; line < 2; line++) {
                real *to = table_gradient + (c * 2 + line) * f->in + i;
                store(to, load(to, n) + sums[c][line], n);
            }
}

#define RUN(FAMILY)                                                                                                   \
    case FAMILY:                                                                                                      \
        if (contract) vector_of_inputs(f, FAMILY, x, planes, dx, table_gradient, i, first, last, silu, 1);            \
        else vector_of_inputs(f, FAMILY, x, planes, 0, 0, i, first, last, silu, 0);                                   \
        break;

static void dispatch(const Form *f, int64_t family, const real *x, real *planes, real *dx, real *table_gradient, int64_t i,
                     int64_t first, int64_t last, int silu, int contract) {
    switch (family) {
        RUN(RBF) RUN(RSWAF) RUN(RELU_KAN) RUN(POLYNOMIAL) RUN(POLYNOMIAL_TANH) RUN(FOURIER) RUN(KNOTS_DECAY) RUN(KNOTS_CLAMP)
    }
}

#define ROWS 64 /* of a task, unless a sum over all rows is wanted: then a vector of inputs is one thread's */

static void run(const Form *f, int64_t family, const real *x, real *planes, real *dx, real *table_gradient, int64_t rows,
                int silu, int contract, int64_t threads) {
    const int64_t step = table_gradient ? rows : ROWS, vectors = (f->in + WIDTH - 1) / WIDTH;
    const int64_t tasks = (rows + step - 1) / step * vectors;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t first = task / vectors * step;
        dispatch(f, family, x, planes, dx, table_gradient, task % vectors * WIDTH, first, smaller(first + step, rows), silu,
                 contract);
    }
}

void expand(const real *x, const real *a, const real *b, const real *table, real *planes, int64_t family, int64_t rows,
            int64_t in, int64_t count, int64_t lines, int64_t shared, int64_t order, double offset, int64_t silu,
            int64_t threads) {
    const Form f = {in, count, lines, shared, (int)order, (real)offset, a, b, table};
    run(&f, family, x, planes, 0, 0, rows, (int)silu, 0, threads);
}

/* `planes` holds their gradients, and the planes themselves afterwards; table_gradient is added to, or null. */
void contract(const real *x, const real *a, const real *b, const real *table, real *planes, real *dx, real *table_gradient,
              int64_t family, int64_t rows, int64_t in, int64_t count, int64_t lines, int64_t shared, int64_t order,
              double offset, int64_t silu, int64_t threads) {
    const Form f = {in, count, lines, shared, (int)order, (real)offset, a, b, table};
    run(&f, family, x, planes, dx, table_gradient, rows, (int)silu, 1, threads);
}
