// Heap allocations of this process: malloc and its relatives are taken over by the executable that links this, and go on
// to the C library. They are counted whoever makes them, the libraries of Swift and C++ included.
#ifndef BENCH_ALLOCATIONS_H
#define BENCH_ALLOCATIONS_H

#include <stdint.h>

// Allocations of all threads so far (a realloc is one), or -1 where they cannot be counted: the C library is not glibc.
int64_t bench_allocations(void);
// Those of the calling thread; -1 as above.
int64_t bench_allocations_of_thread(void);

#endif
