#define _GNU_SOURCE
#include "bench_post.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int set_up(struct io_uring *ring, unsigned entries) {
    int result = io_uring_queue_init(entries, ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    if (!result)
        io_uring_register_ring_fd(ring);  // an optimisation: its failure changes nothing else
    return result;
}

static int nops(const struct bench_post_config *config, uint32_t batch, struct bench_outcome *outcome) {
    struct io_uring ring;
    int result = set_up(&ring, batch);
    if (result)
        return result;
    uint64_t operations = 0, calls = 0;
    bench_outcome_begin(outcome);
    uint64_t deadline = outcome->nanoseconds + config->nanoseconds;
    do {
        for (int i = 0; i < 100; i++) {
            for (uint32_t j = 0; j < batch; j++) {
                struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
                io_uring_prep_nop(sqe);
                io_uring_sqe_set_data64(sqe, operations + j);
            }
            io_uring_submit_and_wait(&ring, batch);
            calls++;
            struct io_uring_cqe *cqe;
            unsigned head, count = 0;
            io_uring_for_each_cqe(&ring, head, cqe) {
                if (io_uring_cqe_get_data64(cqe) != operations + count)
                    result = -EIO;
                count++;
            }
            io_uring_cq_advance(&ring, count);
            if (count != batch)
                result = -EIO;
            operations += batch;
        }
    } while (bench_now() < deadline);
    bench_outcome_end(outcome, operations, (int64_t)calls);
    io_uring_queue_exit(&ring);
    return result;
}

int bench_post_uring_pair(const struct bench_post_config *config, struct bench_outcome *outcome) {
    return nops(config, 1, outcome);
}

int bench_post_uring_batch(const struct bench_post_config *config, struct bench_outcome *outcome) {
    return nops(config, config->batch, outcome);
}

// MARK: Ping-pong over rings

enum { STOP = 1 };

struct ring_pair {
    struct io_uring rings[2];
    pthread_barrier_t ready;
    int result;  // of the second thread's set-up
};

// Sends `word` to the other ring and waits for what it sends back; `word` 0 only waits.
static int exchange(struct io_uring *mine, int other, uint32_t word, uint32_t *answer) {
    if (word) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(mine);
        io_uring_prep_msg_ring(sqe, other, word, 0, 0);
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    }
    struct io_uring_cqe *cqe = NULL;
    int result = io_uring_submit_and_wait(mine, 1);
    if (result >= 0)
        result = io_uring_peek_cqe(mine, &cqe);
    if (result < 0)
        return result;
    *answer = (uint32_t)cqe->res;
    result = cqe->res < 0 ? cqe->res : 0;
    io_uring_cqe_seen(mine, cqe);
    return result;
}

static void *ring_pong(void *argument) {
    struct ring_pair *pair = argument;
    pair->result = set_up(&pair->rings[1], 8);  // here: a ring with one issuer belongs to the thread that makes it
    pthread_barrier_wait(&pair->ready);
    if (pair->result)
        return NULL;
    uint32_t word = 0;
    while (!(pair->result = exchange(&pair->rings[1], pair->rings[0].ring_fd, word, &word)) && word != STOP) {}
    return NULL;
}

int bench_post_uring_pingpong(const struct bench_post_config *config, struct bench_outcome *outcome,
                              struct bench_samples *samples) {
    struct ring_pair pair = {0};
    int result = set_up(&pair.rings[0], 8);
    if (result)
        return result;
    pthread_t thread;
    pthread_barrier_init(&pair.ready, NULL, 2);
    result = -pthread_create(&thread, NULL, ring_pong, &pair);
    if (result)
        return result;
    pthread_barrier_wait(&pair.ready);
    if (pair.result) {
        pthread_join(thread, NULL);
        return pair.result;
    }
    uint64_t operations = 0;
    bench_outcome_begin(outcome);
    uint64_t started = outcome->nanoseconds, deadline = started + config->nanoseconds;
    while (started < deadline && !result) {
        uint32_t word = 2 + (uint32_t)(operations++ & 0xffffff), answer = 0;
        result = exchange(&pair.rings[0], pair.rings[1].ring_fd, word, &answer);
        if (answer != word)
            result = -EIO;
        uint64_t now = bench_now();
        bench_sample(samples, now - started);
        started = now;
    }
    bench_outcome_end(outcome, operations, (int64_t)(2 * operations));
    struct io_uring_sqe *sqe = io_uring_get_sqe(&pair.rings[0]);
    io_uring_prep_msg_ring(sqe, pair.rings[1].ring_fd, STOP, 0, 0);
    io_uring_submit(&pair.rings[0]);
    pthread_join(thread, NULL);
    io_uring_queue_exit(&pair.rings[0]);
    io_uring_queue_exit(&pair.rings[1]);
    pthread_barrier_destroy(&pair.ready);
    return result;
}

// MARK: Ping-pong over eventfd and epoll

struct event_side {
    int event, epoll;
};

static int event_side_create(struct event_side *side) {
    side->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    side->epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    if (side->event < 0 || side->epoll < 0 || epoll_ctl(side->epoll, EPOLL_CTL_ADD, side->event, &event))
        return -errno;
    return 0;
}

static uint64_t event_wait(struct event_side *side) {
    struct epoll_event event;
    uint64_t word = 0;
    while (epoll_wait(side->epoll, &event, 1, -1) != 1 || read(side->event, &word, sizeof word) != sizeof word) {}
    return word;
}

static void event_post(struct event_side *side, uint64_t word) {
    while (write(side->event, &word, sizeof word) != sizeof word) {}
}

static void *event_pong(void *argument) {
    struct event_side *sides = argument;
    uint64_t word;
    do {
        word = event_wait(&sides[1]);
        event_post(&sides[0], word);
    } while (word != STOP);
    return NULL;
}

int bench_post_epoll_pingpong(const struct bench_post_config *config, struct bench_outcome *outcome,
                              struct bench_samples *samples) {
    struct event_side sides[2];
    int result = event_side_create(&sides[0]);
    if (!result)
        result = event_side_create(&sides[1]);
    pthread_t thread;
    if (!result)
        result = -pthread_create(&thread, NULL, event_pong, sides);
    if (result)
        return result;
    uint64_t operations = 0;
    bench_outcome_begin(outcome);
    uint64_t started = outcome->nanoseconds, deadline = started + config->nanoseconds;
    while (started < deadline) {
        uint64_t word = 2 + operations++;
        event_post(&sides[1], word);
        if (event_wait(&sides[0]) != word)
            result = -EIO;
        uint64_t now = bench_now();
        bench_sample(samples, now - started);
        started = now;
    }
    bench_outcome_end(outcome, operations, (int64_t)(6 * operations));
    event_post(&sides[1], STOP);
    pthread_join(thread, NULL);
    for (int i = 0; i < 2; i++) {
        close(sides[i].event);
        close(sides[i].epoll);
    }
    return result;
}
