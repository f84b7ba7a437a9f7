/* B-splines of a uniform grid: planes of a block of rows, and sums over the order + 1 functions that are not zero.

   Layouts, all contiguous: x (rows, in), planes (rows, K, in) or (rows, K + 1, in) with silu, weight (K, in, out),
   y (rows, out). Knots are lo[i] + j step[i]; `coefficients` holds the (order + 1)^2 of reference.piece_coefficients. */
#include "wide.h"

#define MAX_ORDER 9
enum { DECAY, CLAMP, LINEAR };

typedef struct {
    int64_t in, cells;
    int edge;
    const real *lo, *step, *coefficients;
} Grid;

/* Of WIDTH inputs: the cell, and values and slopes (in cells) of the functions number cell .. cell + order. */
typedef struct {
    vec cell, value[MAX_ORDER + 1], slope[MAX_ORDER + 1];
} Local;

/* `order` and `slopes` are constants wherever it matters, which leaves no loop and no test in the code. */
INLINE Local locate(const Grid *g, vec x, vec lo, vec step, int order, int slopes) {
    const int decay = g->edge == DECAY;
    const real cells = (real)g->cells, end = cells * (1 + 4 * (REAL_IS_DOUBLE ? 2.220446e-16f : 1.1920929e-7f));
    Local p;
    vec s = (x - lo) / step, cell;
    if (decay) {
        s = between(s, spread((real)(-order - 1)), spread(cells + order + (real)0.5));
        cell = whole(s);
        /* the grid's last cell is closed, also for an x at its end that lands a rounding error above it */
        cell = choose((cell >= cells) & (s <= end), spread(cells - 1), cell);
    } else {
        cell = whole(between(s, spread(0), spread(cells - 1)));
    }
    p.cell = keep(s == s, cell); /* NaN has no cell; the functions of the first are then NaN */
    const vec f = s - p.cell, u = decay ? f : between(f, spread(0), spread(1)), w = 1 - u;
    for (int q = 0; q <= order; q++) { /* the falling half in 1 - u: tiny values stay accurate and never negative */
        const int falling = 2 * (order - q) > order;
        const real *c = g->coefficients + (falling ? q : order - q) * (order + 1);
        const vec t = falling ? w : u;
        vec value = c[order] + 0 * t, slope = 0 * t;
        for (int power = order - 1; power >= 0; power--) {
            if (slopes || g->edge == LINEAR) slope = slope * t + value;
            value = value * t + c[power];
        }
        if (falling) slope = -slope;
        if (g->edge == CLAMP) slope = choose(f == u, slope, 0 * f);
        p.value[q] = g->edge == LINEAR ? value + (f - u) * slope : value;
        p.slope[q] = slope;
    }
    return p;
}

/* Dense: all planes ---------------------------------------------------------------------------------------------- */

INLINE void expand_row(const Grid *g, const real *x, real *planes, int64_t count, int silu, int order) {
    const int64_t in = g->in;
    for (int64_t i = 0; i < in; i += WIDTH) {
        const int64_t n = smaller(WIDTH, in - i);
        const vec v = load(x + i, n);
        const Local p = locate(g, v, load(g->lo + i, n), load(g->step + i, n), order, 0);
        vec number = spread(0);
        mask in_cell[MAX_ORDER + 1]; /* whether c is function q of the cell: what function q + 1 is told of the next plane */
        for (int q = 1; q <= order; q++) in_cell[q - 1] = p.cell == -(real)q;
        real *plane = planes + i;
        for (int64_t c = 0; c < count; c++, number += 1, plane += in) {
            for (int q = order; q > 0; q--) in_cell[q] = in_cell[q - 1];
            in_cell[0] = p.cell == number;
            mask value = {0};
            for (int q = 0; q <= order; q++) value |= in_cell[q] & (mask)p.value[q];
            store(plane, (vec)value, n);
        }
        if (silu) store(plane, v * sigmoid(v), n);
    }
}

/* `planes` holds their gradients, and the planes themselves afterwards. */
INLINE void contract_row(const Grid *g, const real *x, real *planes, real *dx, int64_t count, int silu, int order) {
    const int64_t in = g->in;
    for (int64_t i = 0; i < in; i += WIDTH) {
        const int64_t n = smaller(WIDTH, in - i);
        const vec v = load(x + i, n), step = load(g->step + i, n);
        const Local p = locate(g, v, load(g->lo + i, n), step, order, 1);
        vec number = spread(0), sum = spread(0);
        mask in_cell[MAX_ORDER + 1]; /* as in expand_row */
        for (int q = 1; q <= order; q++) in_cell[q - 1] = p.cell == -(real)q;
        real *plane = planes + i;
        for (int64_t c = 0; c < count; c++, number += 1, plane += in) {
            for (int q = order; q > 0; q--) in_cell[q] = in_cell[q - 1];
            in_cell[0] = p.cell == number;
            mask value = {0}, slope = {0}; /* at most one function of a cell is number c */
            for (int q = 0; q <= order; q++) {
                value |= in_cell[q] & (mask)p.value[q];
                slope |= in_cell[q] & (mask)p.slope[q];
            }
            sum += load(plane, n) * (vec)slope;
            store(plane, (vec)value, n);
        }
        sum /= step;
        if (silu) {
            const vec s = sigmoid(v);
            sum += load(plane, n) * s * (1 + v * (1 - s));
            store(plane, v * s, n);
        }
        store(dx + i, sum, n);
    }
}

#define BY_ORDER(call)                          \
    switch (order) {                            \
        case 1: { enum { ORDER = 1 }; call; } break; \
        case 2: { enum { ORDER = 2 }; call; } break; \
        case 3: { enum { ORDER = 3 }; call; } break; \
        default: { const int ORDER = (int)order; call; } \
    }

void expand(const real *x, const real *lo, const real *step, const real *coefficients, real *planes, int64_t rows,
            int64_t in, int64_t count, int64_t order, int64_t edge, int64_t silu, int64_t threads) {
    const Grid g = {in, count - order, (int)edge, lo, step, coefficients};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        BY_ORDER(expand_row(&g, x + r * in, planes + r * (count + silu) * in, count, (int)silu, ORDER))
}

void contract(const real *x, const real *lo, const real *step, const real *coefficients, real *planes, real *dx,
              int64_t rows, int64_t in, int64_t count, int64_t order, int64_t edge, int64_t silu, int64_t threads) {
    const Grid g = {in, count - order, (int)edge, lo, step, coefficients};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        BY_ORDER(contract_row(&g, x + r * in, planes + r * (count + silu) * in, dx + r * in, count, (int)silu, ORDER))
}

/* Sparse: rows sorted by the cell of one input, so that the coefficients of a cell are read once for all its rows --- */

/* x comes transposed, (in, rows), and dx leaves so. Outputs are cut into tiles: y or its gradient, `rows` by `tile`, is to
   stay in the second-level cache while all coefficients pass by once. */

#define PAIR (2 * WIDTH) /* outputs of an inner step: with 4 functions, their coefficients fill half of the registers */

typedef struct {
    int64_t rows, slots; /* slots: cells in reach of a function, and one more on either side */
    int64_t *row;        /* (rows) row numbers, those of one slot side by side, in ascending order */
    int64_t *start;      /* (slots + 2) first of each slot's rows, from start[1] on */
    int64_t *slot;       /* (rows) cell + order + 1 */
    real *value, *slope; /* (order + 1, rows) */
    vec *dot;            /* (rows) */
} Sorted;

static int64_t slots_of(int64_t cells, int64_t order) { return cells + 2 * order + 2; }

int64_t sorted_bytes(int64_t rows, int64_t count, int64_t order) {
    const int64_t padded = (rows + WIDTH) / WIDTH * WIDTH;
    return 8 * (2 * padded + slots_of(count - order, order) + 2) + (int64_t)sizeof(real) * padded * 2 * (order + 1) +
           (int64_t)sizeof(vec) * (padded + 1);
}

static Sorted sorted_in(char *memory, int64_t rows, int64_t cells, int64_t order) {
    Sorted s = {.rows = rows, .slots = slots_of(cells, order)};
    s.dot = (vec *)(((uintptr_t)memory + sizeof(vec) - 1) / sizeof(vec) * sizeof(vec));
    s.row = (int64_t *)(s.dot + rows);
    s.slot = s.row + rows;
    s.start = s.slot + rows;
    s.value = (real *)(s.start + s.slots + 2);
    s.slope = s.value + rows * (order + 1);
    return s;
}

INLINE void sort_rows(const Grid *g, const real *x, int64_t i, int order, int slopes, Sorted *s) {
    const vec lo = spread(g->lo[i]), step = spread(g->step[i]);
    memset(s->start, 0, (size_t)(s->slots + 2) * sizeof *s->start);
    for (int64_t r = 0; r < s->rows; r += WIDTH) {
        const int64_t n = smaller(WIDTH, s->rows - r);
        const Local p = locate(g, load(x + r, n), lo, step, order, slopes);
        for (int64_t j = 0; j < n; j++) {
            const int64_t slot = (int64_t)p.cell[j] + order + 1;
            s->slot[r + j] = slot;
            s->start[slot + 1]++;
        }
        for (int q = 0; q <= order; q++) {
            store(s->value + q * s->rows + r, p.value[q], n);
            if (slopes) store(s->slope + q * s->rows + r, p.slope[q], n);
        }
    }
    for (int64_t c = 0; c <= s->slots; c++) s->start[c + 1] += s->start[c];
    /* start[c + 1] is where slot c ends; every row of it takes one off, which leaves where it starts */
    for (int64_t r = s->rows - 1; r >= 0; r--) s->row[--s->start[s->slot[r] + 1]] = r;
}

/* The rows of one slot, and which functions of its cell exist. */
typedef struct {
    int64_t begin, end, first; /* first: index of the cell's first coefficient, of this input */
    int low, high;
} Cell;

INLINE int visit(const Sorted *s, int64_t slot, int64_t count, int64_t in, int64_t out, int64_t i, int order, Cell *c) {
    const int64_t cell = slot - order - 1;
    *c = (Cell){s->start[slot + 1], s->start[slot + 2], (cell * in + i) * out, (int)(cell < 0 ? -cell : 0),
                (int)smaller(order, count - 1 - cell)};
    return c->begin < c->end && c->low <= c->high;
}

/* Coefficients of the cell's functions at up to PAIR outputs; 0 for functions that do not exist. */
INLINE void coefficients_of(const Cell *c, const real *weight, int64_t plane, int64_t n, int order, vec w[][2]) {
    for (int q = 0; q <= order; q++) {
        const int exists = q >= c->low && q <= c->high;
        w[q][0] = exists ? load(weight + q * plane, smaller(n, WIDTH)) : spread(0);
        w[q][1] = exists && n > WIDTH ? load(weight + q * plane + WIDTH, n - WIDTH) : spread(0);
    }
}

INLINE void add_rows(const Sorted *s, const Cell *c, vec w[][2], real *y, int64_t out, int64_t n, int order) {
    for (int64_t k = c->begin; k < c->end; k++) {
        const int64_t r = s->row[k];
        real *target = y + r * out;
        vec a = load(target, smaller(n, WIDTH)), b = n > WIDTH ? load(target + WIDTH, n - WIDTH) : spread(0);
        for (int q = 0; q <= order; q++) {
            const vec v = spread(s->value[q * s->rows + r]);
            a += v * w[q][0];
            b += v * w[q][1];
        }
        store(target, a, smaller(n, WIDTH));
        if (n > WIDTH) store(target + WIDTH, b, n - WIDTH);
    }
}

INLINE void forward_tile(const Grid *g, const real *x, int64_t stride, const real *weight, real *y, int64_t count,
                         int64_t out, int64_t tile, Sorted *s, int order) {
    const int64_t plane = g->in * out;
    vec w[MAX_ORDER + 1][2];
    Cell c;
    for (int64_t i = 0; i < g->in; i++) {
        sort_rows(g, x + i * stride, i, order, 0, s);
        for (int64_t slot = 0; slot < s->slots; slot++) {
            if (!visit(s, slot, count, g->in, out, i, order, &c)) continue;
            for (int64_t o = 0; o < tile; o += PAIR) {
                const int64_t n = smaller(PAIR, tile - o);
                const real *here = weight + c.first + o;
                __builtin_prefetch(here + (order + 1) * plane); /* planes lie pages apart: no hardware guesses the next */
                __builtin_prefetch(here + (order + 1) * plane + WIDTH);
                coefficients_of(&c, here, plane, n, order, w);
                if (n == PAIR) add_rows(s, &c, w, y + o, out, PAIR, order);
                else add_rows(s, &c, w, y + o, out, n, order);
            }
        }
    }
}

/* y += the sum over the functions that are not zero. scratch is (threads, sorted_bytes(block, ...)). */
void sparse_forward(const real *x, const real *lo, const real *step, const real *coefficients, const real *weight, real *y,
                    char *scratch, int64_t rows, int64_t in, int64_t count, int64_t out, int64_t order, int64_t edge,
                    int64_t block, int64_t tile, int64_t threads) {
    const Grid g = {in, count - order, (int)edge, lo, step, coefficients};
    const int64_t blocks = (rows + block - 1) / block, bytes = sorted_bytes(block, count, order);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t r = b * block;
        Sorted s = sorted_in(scratch + bytes * thread_number(), smaller(block, rows - r), g.cells, order);
        for (int64_t o = 0; o < out; o += tile) {
            const int64_t n = smaller(tile, out - o);
            BY_ORDER(forward_tile(&g, x + r, rows, weight + o, y + r * out + o, count, out, n, &s, ORDER))
        }
    }
}

/* The gradient of a cell's coefficients at up to PAIR outputs. */
INLINE void gather_rows(const Sorted *s, const Cell *c, const real *grad, real *dw, int64_t plane, int64_t out, int64_t n,
                        int order) {
    vec sum[MAX_ORDER + 1][2];
    for (int q = 0; q <= order; q++) sum[q][0] = sum[q][1] = spread(0);
    for (int64_t k = c->begin; k < c->end; k++) {
        const int64_t r = s->row[k];
        const real *from = grad + r * out;
        const vec a = load(from, smaller(n, WIDTH)), b = n > WIDTH ? load(from + WIDTH, n - WIDTH) : spread(0);
        for (int q = 0; q <= order; q++) {
            const vec v = spread(s->value[q * s->rows + r]);
            sum[q][0] += v * a;
            sum[q][1] += v * b;
        }
    }
    for (int q = 0; q <= order; q++) {
        if (q < c->low || q > c->high) continue;
        real *to = dw + q * plane;
        store(to, load(to, smaller(n, WIDTH)) + sum[q][0], smaller(n, WIDTH));
        if (n > WIDTH) store(to + WIDTH, load(to + WIDTH, n - WIDTH) + sum[q][1], n - WIDTH);
    }
}

/* dot[row] += gradient times slope, lane by lane; lanes beyond the last output hold copies, which w = 0 takes out. */
INLINE void slope_rows(const Sorted *s, const Cell *c, vec w[][2], const real *grad, int64_t out, int64_t n, int order) {
    for (int64_t k = c->begin; k < c->end; k++) {
        const int64_t r = s->row[k];
        const real *from = grad + r * out;
        vec a = spread(0), b = spread(0);
        for (int q = 0; q <= order; q++) {
            const vec d = spread(s->slope[q * s->rows + r]);
            a += d * w[q][0];
            b += d * w[q][1];
        }
        a *= load(from, smaller(n, WIDTH));
        if (n > WIDTH) b *= load(from + WIDTH, n - WIDTH);
        s->dot[k] += a + b;
    }
}

INLINE void backward_input(const Grid *g, const real *grad, const real *x, const real *weight, real *dw, real *dx, int64_t i,
                           int64_t count, int64_t out, int64_t tile, Sorted *s, int order) {
    const int64_t plane = g->in * out;
    vec w[MAX_ORDER + 1][2];
    Cell c;
    sort_rows(g, x, i, order, 1, s);
    for (int64_t slot = 0; slot < s->slots; slot++) {
        if (!visit(s, slot, count, g->in, out, i, order, &c)) continue;
        for (int64_t k = c.begin; k < c.end; k++) s->dot[k] = spread(0);
        for (int64_t o = 0; o < tile; o += PAIR) {
            const int64_t n = smaller(PAIR, tile - o);
            if (dw) {
                __builtin_prefetch(dw + c.first + o + (order + 1) * plane, 1);
                __builtin_prefetch(dw + c.first + o + (order + 1) * plane + WIDTH, 1);
                if (n == PAIR) gather_rows(s, &c, grad + o, dw + c.first + o, plane, out, PAIR, order);
                else gather_rows(s, &c, grad + o, dw + c.first + o, plane, out, n, order);
            }
            if (dx) {
                const real *here = weight + c.first + o;
                __builtin_prefetch(here + (order + 1) * plane);
                __builtin_prefetch(here + (order + 1) * plane + WIDTH);
                coefficients_of(&c, here, plane, n, order, w);
                if (n < PAIR) /* the lanes that repeat the first output */
                    for (int64_t j = n; j < PAIR; j++)
                        for (int q = 0; q <= order; q++) w[q][j / WIDTH][j % WIDTH] = 0;
                if (n == PAIR) slope_rows(s, &c, w, grad + o, out, PAIR, order);
                else slope_rows(s, &c, w, grad + o, out, n, order);
            }
        }
        if (dx)
            for (int64_t k = c.begin; k < c.end; k++) {
                real sum = 0;
                for (int j = 0; j < WIDTH; j++) sum += s->dot[k][j];
                dx[s->row[k]] += sum / g->step[i];
            }
    }
}

/* dw += ..., dx += ...; a null pointer is not wanted. scratch is (threads, sorted_bytes(rows, ...)). An input, with its
   coefficients and its line of dx, is one thread's. */
void sparse_backward(const real *grad, const real *x, const real *lo, const real *step, const real *coefficients,
                     const real *weight, real *dw, real *dx, char *scratch, int64_t rows, int64_t in, int64_t count,
                     int64_t out, int64_t order, int64_t edge, int64_t tile, int64_t threads) {
    const Grid g = {in, count - order, (int)edge, lo, step, coefficients};
    const int64_t bytes = sorted_bytes(rows, count, order);
    for (int64_t o = 0; o < out; o += tile) {
        const int64_t n = smaller(tile, out - o);
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t i = 0; i < in; i++) {
            Sorted s = sorted_in(scratch + bytes * thread_number(), rows, g.cells, order);
            BY_ORDER(backward_input(&g, grad + o, x + i * rows, weight + o, dw ? dw + o : 0, dx ? dx + i * rows : 0, i, count,
                                    out, n, &s, ORDER))
        }
    }
}
