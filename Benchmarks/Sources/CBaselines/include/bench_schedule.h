// What the scheduling suite needs of C: work of a known length, ways to block, looks at threads.
#ifndef BENCH_SCHEDULE_H
#define BENCH_SCHEDULE_H

#include "bench_support.h"

// Uses the processor for so long, by the thread's own CPU time, without any system call: a handler that computes. The
// first call of a process calibrates it, which takes some milliseconds.
void bench_burn(uint64_t nanoseconds);

enum bench_block_kind {
    BENCH_BLOCK_SLEEP,  // nanosleep; a signal ends it early
    BENCH_BLOCK_FUTEX,  // a futex wait with a timeout, as locks and conditions do
    BENCH_BLOCK_READ,   // a read of an empty pipe: it has no timeout, and must be released
};

// A place where one thread at a time blocks in the kernel.
struct bench_blocker {
    enum bench_block_kind kind;
    uint32_t released;
    int pipe[2];
    int thread;  // who blocks, 0 if nobody does
};

// Returns 0 or -errno.
int bench_blocker_create(struct bench_blocker *blocker, enum bench_block_kind kind);
void bench_blocker_destroy(struct bench_blocker *blocker);
// Blocks until released, or for so long where the kind has a timeout.
void bench_blocker_block(struct bench_blocker *blocker, uint64_t nanoseconds);
// Ends the block, from another thread. One that has yet to begin is not ended, unless it is a read.
void bench_blocker_release(struct bench_blocker *blocker);

// A counting semaphore on a futex, at an address that stays.
void bench_semaphore_post(uint32_t *semaphore);
// Takes one, waiting at most so long. Returns whether it did.
bool bench_semaphore_wait(uint32_t *semaphore, uint64_t nanoseconds);

int bench_thread_id(void);
// Sleeps, by the clock of the thread.
void bench_sleep(uint64_t nanoseconds);
// Wakes the calling thread as exactly from its sleeps as the kernel can, instead of up to 50 µs late.
void bench_wake_exactly(void);

// What all threads of the process but the calling one have consumed so far; in nanoseconds, not in ticks.
struct bench_usage bench_usage_of_others(void);
// A thread of this process by its name, or -ENOENT.
int bench_thread_find(const char *name);
// Its CPU time in nanoseconds, or -errno.
int64_t bench_thread_time(int thread);

// A connected pair of stream sockets, blocking. Returns 0 or -errno.
int bench_socketpair(int *one, int *other);
// Writes or reads 8 bytes. Returns 0 or -errno; -EPIPE at the end.
int bench_write_word(int descriptor, uint64_t word);
int bench_read_word(int descriptor, uint64_t *word);

#endif
