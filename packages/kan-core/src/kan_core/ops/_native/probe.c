/* The smallest kernel: tells whether this machine's compiler makes libraries that load, OpenMP included. */
#include "vector.h"

int probe(void) {
    int threads = 0;
#pragma omp parallel num_threads(2) reduction(+ : threads)
    threads += 1;
    return (int)vexp((real)0) + threads;
}
