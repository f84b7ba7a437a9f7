/* The group-rational activation and its gradients: one pass over x forward, one backward.

   x is a sequence of `total` numbers, cut into lines: one row of features, or several narrow ones (the last line may be
   shorter). A pack is one vector of neighbouring columns. The table has the coefficients of every column, pack by pack,
   so groups of all widths run alike. A strip is a few lines of a tile of packs: it loads the coefficients of a pack and
   its sums once.

   The lines are cut into slabs, which the threads share out, and these into blocks, at places that do not depend on the
   number of threads. A column's sums over the lines of a block are in `real`; columns, blocks and slabs are added in
   this order in double.

   P has a_count coefficients and S s_count, both from the constant on: Q is S or offset + |S|, see _forms.py. */
#include "wide.h"

#define STRIP_LINES 8
#define BLOCK_LINES 64       /* as in native.py */
#define MOST_COEFFICIENTS 64 /* of P and S together, as in native.py */
#define TILE_SUMS 16384      /* numbers in the sums of a tile */

enum { SUM_OF_ABS, ABS_OF_SUM, FLOOR, FREE }; /* in the order of _forms.FORMS */
#define HAS_OFFSET(form) ((form) == ABS_OF_SUM || (form) == FLOOR)

#define SIGN ((mask){0} + (lane)(UINT64_C(1) << (8 * sizeof(lane) - 1)))

INLINE vec at(const real *from) { return load(from, WIDTH); }

/* The polynomial with these coefficients, a vector each, and its slope. */
INLINE vec horner(const real *c, int count, vec z, vec *slope) {
    vec derivative = at(c + (count - 1) * WIDTH), value = derivative * z + at(c + (count - 2) * WIDTH);
    for (int i = count - 3; i >= 0; i--) {
        derivative = derivative * z + value;
        value = value * z + at(c + i * WIDTH);
    }
    *slope = derivative;
    return value;
}

INLINE vec argument_of_s(vec x, int form) { return form == SUM_OF_ABS ? (vec)((mask)x & ~SIGN) : x; }

INLINE vec q_of_s(vec s, int form) {
    if (!HAS_OFFSET(form)) return s;
    vec size = s + 2 * keep(s < 0, -s); /* NaN for -infinity, like reference.magnitude */
    return size + (form == FLOOR ? (real)0.1 : (real)1);
}

typedef void strip_function(
    const real *restrict grad, const real *restrict x, real *restrict out, int64_t stride, int64_t lines, int64_t packs,
    const real *restrict table, real *restrict sums, int a_count, int s_count);

INLINE void forward_strip(
    const real *restrict x, real *restrict y, int64_t stride, int64_t lines, int64_t packs, const real *restrict table,
    int a_count, int s_count, int form) {
    for (int64_t k = 0; k < packs; k++) {
        const real *a = table + k * (a_count + s_count) * WIDTH;
        for (int64_t line = 0; line < lines; line++) {
            const int64_t here = line * stride + k * WIDTH;
            vec z = at(x + here), slope;
            vec p = horner(a, a_count, z, &slope);
            vec s = horner(a + a_count * WIDTH, s_count, argument_of_s(z, form), &slope);
            store(y + here, p / q_of_s(s, form), WIDTH);
        }
    }
}

/* With w = grad/Q and v = w P/Q, v with the sign of S where Q has |S|, the gradients are w P' - v S' and the sums of
   w x^i and of -v z^i. dx may be NULL. */
INLINE void backward_strip(
    const real *restrict grad, const real *restrict x, real *restrict dx, int64_t stride, int64_t lines, int64_t packs,
    const real *restrict table, real *restrict sums, int a_count, int s_count, int form) {
    const int count = a_count + s_count, first = a_count + (form != FLOOR); /* the others' constant is fixed */
    for (int64_t k = 0; k < packs; k++) {
        const real *a = table + k * count * WIDTH;
        real *kept = sums + k * count * WIDTH;
        vec sum[MOST_COEFFICIENTS];
        for (int i = 0; i < count; i++) sum[i] = at(kept + i * WIDTH);
        for (int64_t line = 0; line < lines; line++) {
            const int64_t here = line * stride + k * WIDTH;
            vec power = at(x + here), z = argument_of_s(power, form), dp, ds;
            vec s = horner(a + a_count * WIDTH, s_count, z, &ds);
            vec r = 1 / q_of_s(s, form);
            vec p = horner(a, a_count, power, &dp);
            vec w = at(grad + here) * r;
            vec v = w * (p * r);
            if (HAS_OFFSET(form)) v = (vec)((mask)v ^ ((s < 0) & SIGN)); /* +1 at 0, also for -0 */
            if (dx) {
                if (form == SUM_OF_ABS) ds = keep(power != 0, (vec)((mask)ds ^ ((mask)power & SIGN)));
                store(dx + here, w * dp - v * ds, WIDTH);
            }
            for (int i = 0; i < a_count; i++) {
                sum[i] += w;
                w *= power;
            }
            if (form != FLOOR) v *= z;
            for (int i = first; i < count; i++) {
                sum[i] -= v;
                v *= z;
            }
        }
        for (int i = 0; i < count; i++) store(kept + i * WIDTH, sum[i], WIDTH);
    }
}

/* The strips of a form: KAT's degrees (5, 4) compiled in, or any. */
#define STRIPS(name, form)                                                                                             \
    static void forward_##name(                                                                                        \
        const real *restrict grad, const real *restrict x, real *restrict out, int64_t stride, int64_t lines,          \
        int64_t packs, const real *restrict table, real *restrict sums, int a_count, int s_count) {                    \
        (void)grad, (void)sums;                                                                                        \
        if (a_count == 6 && s_count == 5) forward_strip(x, out, stride, lines, packs, table, 6, 5, form);              \
        else forward_strip(x, out, stride, lines, packs, table, a_count, s_count, form);                               \
    }                                                                                                                  \
    static void backward_##name(                                                                                       \
        const real *restrict grad, const real *restrict x, real *restrict out, int64_t stride, int64_t lines,          \
        int64_t packs, const real *restrict table, real *restrict sums, int a_count, int s_count) {                    \
        if (a_count == 6 && s_count == 5) backward_strip(grad, x, out, stride, lines, packs, table, sums, 6, 5, form); \
        else backward_strip(grad, x, out, stride, lines, packs, table, sums, a_count, s_count, form);                  \
    }
STRIPS(sum_of_abs, SUM_OF_ABS)
STRIPS(abs_of_sum, ABS_OF_SUM)
STRIPS(floor, FLOOR)
STRIPS(free, FREE)

static strip_function *const FORWARD[] = {forward_sum_of_abs, forward_abs_of_sum, forward_floor, forward_free};
static strip_function *const BACKWARD[] = {backward_sum_of_abs, backward_abs_of_sum, backward_floor, backward_free};

typedef struct {
    const real *grad, *x; /* grad is NULL in the forward pass */
    real *out;            /* NULL when dx is not needed */
    const real *table;
    double *slab_sums; /* (slabs, groups, coefficients), NULL in the forward pass */
    int64_t total, line, features, groups, slabs;
    int a_count, s_count;
    strip_function *strip;
} Task;

/* The strip at line `first` and column `left`: `lines` lines that all have `columns` columns. */
static void strip_at(const Task *t, int64_t first, int64_t lines, int64_t left, int64_t columns, real *sums) {
    const int64_t packs = columns / WIDTH, rest = columns % WIDTH, count = t->a_count + t->s_count;
    const int64_t start = first * t->line + left, edge = start + packs * WIDTH;
    const real *table = t->table + left * count;
    t->strip(
        t->grad ? t->grad + start : NULL, t->x + start, t->out ? t->out + start : NULL, t->line, lines, packs, table, sums,
        t->a_count, t->s_count);
    if (rest == 0) return;
    /* the columns that do not fill a pack: as copies between zeros, which add nothing to the sums */
    real grad[STRIP_LINES * WIDTH] = {0}, x[STRIP_LINES * WIDTH] = {0}, out[STRIP_LINES * WIDTH];
    const size_t bytes = (size_t)rest * sizeof(real);
    for (int64_t line = 0; line < lines; line++) {
        if (t->grad) memcpy(grad + line * WIDTH, t->grad + edge + line * t->line, bytes);
        memcpy(x + line * WIDTH, t->x + edge + line * t->line, bytes);
    }
    const int64_t done = packs * WIDTH * count;
    t->strip(grad, x, out, WIDTH, lines, 1, table + done, sums + done, t->a_count, t->s_count);
    for (int64_t line = 0; t->out && line < lines; line++)
        memcpy(t->out + edge + line * t->line, out + line * WIDTH, bytes);
}

/* Lines `start` to `stop`, at most BLOCK_LINES. */
static void block(const Task *t, int64_t start, int64_t stop, int64_t slab) {
    const int64_t count = t->a_count + t->s_count, width = t->features / t->groups;
    const int64_t tile = TILE_SUMS / (WIDTH * count) * WIDTH;
    real sums[TILE_SUMS];
    for (int64_t left = 0; left < t->line; left += tile) {
        const int64_t columns = smaller(tile, t->line - left);
        if (t->slab_sums) memset(sums, 0, sizeof sums);
        for (int64_t first = start, lines; first < stop; first += lines) {
            const int64_t rest = t->total - first * t->line; /* a shorter last line is a strip of its own */
            lines = rest < t->line ? 1 : smaller(smaller(STRIP_LINES, stop - first), rest / t->line);
            if (rest > left) strip_at(t, first, lines, left, smaller(columns, rest - left), sums);
        }
        for (int64_t c = 0; t->slab_sums && c < columns; c++) {
            const real *column = sums + c / WIDTH * WIDTH * count + c % WIDTH;
            double *to = t->slab_sums + (slab * t->groups + (left + c) % t->features / width) * count;
            for (int64_t i = 0; i < count; i++) to[i] += column[i * WIDTH];
        }
    }
}

static void walk(const Task *t, int64_t threads) {
    const int64_t lines = (t->total + t->line - 1) / t->line, blocks = (lines + BLOCK_LINES - 1) / BLOCK_LINES;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t slab = 0; slab < t->slabs; slab++)
        for (int64_t i = blocks * slab / t->slabs; i < blocks * (slab + 1) / t->slabs; i++)
            block(t, i * BLOCK_LINES, smaller((i + 1) * BLOCK_LINES, lines), slab);
}

/* The table (packs, coefficients, WIDTH) from rows of coefficients, one per group. */
static void fill(real *table, const real *rows, int64_t count, int64_t line, int64_t features, int64_t groups) {
    for (int64_t c = 0; c < (line + WIDTH - 1) / WIDTH * WIDTH; c++) /* beyond the line: of any group */
        for (int64_t i = 0; i < count; i++)
            table[(c / WIDTH * count + i) * WIDTH + c % WIDTH] = rows[c % features / (features / groups) * count + i];
}

void forward(
    const real *x, const real *rows, real *y, real *table, int64_t total, int64_t line, int64_t features,
    int64_t groups, int64_t a_count, int64_t s_count, int64_t form, int64_t slabs, int64_t threads) {
    fill(table, rows, a_count + s_count, line, features, groups);
    const Task task = {
        .x = x, .out = y, .table = table, .total = total, .line = line, .features = features, .groups = groups,
        .slabs = slabs, .a_count = (int)a_count, .s_count = (int)s_count, .strip = FORWARD[form]};
    walk(&task, threads);
}

/* Add to sums (groups, coefficients); slab_sums are zero at first. */
void backward(
    const real *grad, const real *x, const real *rows, real *dx, double *sums, double *slab_sums, real *table,
    int64_t total, int64_t line, int64_t features, int64_t groups, int64_t a_count, int64_t s_count, int64_t form,
    int64_t slabs, int64_t threads) {
    const int64_t count = a_count + s_count;
    fill(table, rows, count, line, features, groups);
    const Task task = {
        .grad = grad, .x = x, .out = dx, .table = table, .slab_sums = slab_sums, .total = total, .line = line,
        .features = features, .groups = groups, .slabs = slabs, .a_count = (int)a_count, .s_count = (int)s_count,
        .strip = BACKWARD[form]};
    walk(&task, threads);
    for (int64_t slab = 0; slab < slabs; slab++)
        for (int64_t i = 0; i < groups * count; i++) sums[i] += slab_sums[slab * groups * count + i];
}
