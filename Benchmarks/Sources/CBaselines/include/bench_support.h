// Clocks, counters and samples: every row of the benchmark, in C or in Swift, is measured with these.
#ifndef BENCH_SUPPORT_H
#define BENCH_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// What a server has done so far. One thread writes a set, another may read it at any time.
struct bench_counters {
    uint64_t bytes;         // bytes of payload received
    uint64_t receives;      // receives that carried data
    uint64_t accepts;       // connections accepted
    uint64_t system_calls;  // system calls of the event loop, by its own count
};

// A single-writer count: a plain add, made visible to the reading thread without a locked instruction.
static inline void bench_count(uint64_t *counter, uint64_t amount) {
    __atomic_store_n(counter, *counter + amount, __ATOMIC_RELAXED);
}

static inline uint64_t bench_counter_read(const uint64_t *counter) {
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

// A consistent-enough copy for another thread.
struct bench_counters bench_counters_read(const struct bench_counters *counters);

// Latencies in nanoseconds. When the array is full the oldest are overwritten: storing costs the same throughout.
struct bench_samples {
    uint32_t *values;
    size_t mask;   // capacity - 1, a power of two
    size_t count;  // samples ever stored
};

static inline void bench_sample(struct bench_samples *samples, uint64_t nanoseconds) {
    samples->values[samples->count++ & samples->mask] = nanoseconds > UINT32_MAX ? UINT32_MAX : (uint32_t)nanoseconds;
}

// `capacity` is rounded up to a power of two; every page is touched, so that sampling never faults.
int bench_samples_create(struct bench_samples *samples, size_t capacity);
void bench_samples_destroy(struct bench_samples *samples);

// CLOCK_MONOTONIC in nanoseconds.
uint64_t bench_now(void);

// What the whole process has consumed so far.
struct bench_usage {
    uint64_t cpu_nanoseconds;  // user and system
    uint64_t user_nanoseconds;
    uint64_t voluntary_switches;
    uint64_t involuntary_switches;
};

struct bench_usage bench_usage_now(void);

// Bytes that are taken from the heap, with what the allocator spends on each block.
uint64_t bench_heap_bytes(void);

// What a bounded piece of work did, measured from its first operation to its last.
struct bench_outcome {
    uint64_t operations;
    uint64_t nanoseconds;
    int64_t system_calls;  // by own count, -1 where the code cannot know
    int64_t allocations;   // on the heap, -1 where they cannot be counted
    struct bench_usage usage;
};

// Starts and ends the measured window of `outcome`.
void bench_outcome_begin(struct bench_outcome *outcome);
void bench_outcome_end(struct bench_outcome *outcome, uint64_t operations, int64_t system_calls);

// The processors this process may run on, in order. Returns how many (at most `capacity` are stored), or -errno.
int bench_allowed_processors(int *processors, int capacity);

// Binds the calling process (all threads that it starts later, too) to one processor. Returns 0 or -errno.
int bench_pin(int processor);

// Raises the soft limit of open descriptors to the hard one, and that to what 50,000 connections need if the process may.
// Returns the limit.
uint64_t bench_raise_descriptor_limit(void);

// A TCP listener on 127.0.0.1 with TCP_NODELAY (which accepted sockets inherit). Returns the descriptor or -errno.
int bench_listen(uint16_t port, uint16_t *bound_port);

// The next connection of a listener, blocking. Returns the descriptor or -errno.
int bench_accept(int listener);

// A blocking connection to 127.0.0.1 with TCP_NODELAY, whose close resets it: thousands in TIME_WAIT would use up the
// ports of the rounds that follow. Returns the descriptor or -errno.
int bench_connect(uint16_t port);

// The same from an address of 127.0.0.0/8 that depends on `number`: a pair of addresses has no more connections than
// there are ports.
int bench_connect_from(uint16_t port, uint32_t number);

// Kills this process by SIGALRM after so many seconds: whatever stalls, a run has an end.
void bench_watchdog(double seconds);

#endif
