// TCP echo servers: the limit (raw liburing) and the classic (epoll) on one thread, and epoll on many.
#ifndef BENCH_ECHO_H
#define BENCH_ECHO_H

#include "bench_support.h"

struct bench_echo_config {
    int listener;              // a listening TCP socket, blocking or not
    int stop;                  // becomes readable when the server has to end (an eventfd or a pipe)
    uint32_t max_connections;  // connections at one time
    uint32_t buffer_bytes;     // bytes of one receive buffer
};

// Both serve until `stop` becomes readable, write `counters` throughout, and return 0 or -errno.

// io_uring as its authors advise for this work: SINGLE_ISSUER and DEFER_TASKRUN, a registered ring descriptor,
// multishot accept into registered (direct) descriptors, multishot receive from a provided-buffer ring, replies sent
// out of the same buffers and without completions, one enter per batch of completions.
int bench_echo_uring(const struct bench_echo_config *config, struct bench_counters *counters);

// epoll(7) as its manual advises: non-blocking sockets, edge-triggered, EPOLLIN, EPOLLOUT and EPOLLRDHUP registered
// once, a short read taken for "drained".
int bench_echo_epoll(const struct bench_echo_config *config, struct bench_counters *counters);

struct bench_echo_threads_config {
    int listener, stop;
    uint32_t buffer_bytes;
    uint32_t threads;
    uint64_t work_nanoseconds;  // computed for each message
};

// The same on threads that share one epoll instance: EPOLLONESHOT gives a connection to one thread at a time. Nothing
// limits how many of them run. `counters` has an element for each thread.
int bench_echo_epoll_threads(const struct bench_echo_threads_config *config, struct bench_counters *const *counters);

#endif
