// Handing packets from thread to thread: what a completion port's post and dequeue are measured against.
#ifndef BENCH_POST_H
#define BENCH_POST_H

#include "bench_support.h"

// What a packet carries.
struct bench_packet {
    uint64_t key;
    void *operation;
    uint32_t bytes;
    uint32_t status;
};

struct bench_post_config {
    uint64_t nanoseconds;  // how long to repeat
    uint32_t producers;    // of bench_post_queue_many
    uint32_t consumers;
    uint64_t packets;  // of each producer in one repetition of bench_post_queue_many
    uint32_t batch;    // of the batch functions
    uint32_t chains;   // of bench_post_queue_chains
    uint64_t work_nanoseconds;
};

// Each returns 0 or -errno (-EIO: a packet was lost, doubled or changed).

// Queue: a ring buffer that grows as a port does (a post never blocks and is never dropped), under a pthread mutex.

// Post one, take one, on one thread: nobody else wants the lock (but glibc's mutex knows that there is another thread).
int bench_post_queue_pair(const struct bench_post_config *config, struct bench_outcome *outcome);
// Post `batch` one by one, take them in one call.
int bench_post_queue_batch(const struct bench_post_config *config, struct bench_outcome *outcome);
// Two threads, two queues with condition variables. An operation is a round trip.
int bench_post_queue_pingpong(const struct bench_post_config *config, struct bench_outcome *outcome,
                              struct bench_samples *samples);
// `producers` post as fast as they can, `consumers` take one at a time; queue with a condition variable.
int bench_post_queue_many(const struct bench_post_config *config, struct bench_outcome *outcome);
// `chains` packets at any time: one of `consumers` threads takes one, works so long, and posts its successor.
int bench_post_queue_chains(const struct bench_post_config *config, struct bench_outcome *outcome);

// The same through the kernel with raw liburing, SINGLE_ISSUER and DEFER_TASKRUN.

// A NOP submitted and harvested.
int bench_post_uring_pair(const struct bench_post_config *config, struct bench_outcome *outcome);
// `batch` NOPs in one enter.
int bench_post_uring_batch(const struct bench_post_config *config, struct bench_outcome *outcome);
// Two threads with a ring each, MSG_RING between them.
int bench_post_uring_pingpong(const struct bench_post_config *config, struct bench_outcome *outcome,
                              struct bench_samples *samples);

// Two threads with an eventfd and an epoll instance each.
int bench_post_epoll_pingpong(const struct bench_post_config *config, struct bench_outcome *outcome,
                              struct bench_samples *samples);

#endif
