// What the simulator needs of C: contexts to switch between on one thread of the system, and processes.
#ifndef CSIMULATION_H
#define CSIMULATION_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// A thread of the simulation: a stack, and the library's thread-local word.
struct sim_fiber;

/// The one that calls. Its stack is the thread's own.
struct sim_fiber *sim_fiber_main(void);
/// `body` runs with `argument` at the first switch to it; it never returns.
struct sim_fiber *sim_fiber_create(void (*body)(void *), void *argument);
void sim_fiber_switch(struct sim_fiber *from, struct sim_fiber *to);

/// The library's thread-local word of the running fiber.
void *sim_tls_get(void);
void sim_tls_set(void *value);

/// fork(2), which Swift hides. 0 in the child.
int sim_fork(void);
/// Waits for a child, or only looks. Returns 0 while it runs, else 1; `status` is what it exited with, or 1000 and the
/// number of the signal that ended it.
int sim_reap(int pid, bool waits, int *status);
/// Memory that children share with their parent, zeroed.
void *sim_share(size_t size);

#endif
