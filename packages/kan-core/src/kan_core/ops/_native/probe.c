/* The smallest kernel: tells whether this machine's compiler makes libraries that load, OpenMP included. */
#include "wide.h"

int probe(void) {
    int threads = 0;
#pragma omp parallel num_threads(2) reduction(+ : threads)
    threads += 1;
    return (int)exp_negative(spread(0))[0] + threads;
}
