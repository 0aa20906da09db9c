#define _GNU_SOURCE
#include "bench_post.h"
#include "bench_schedule.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    struct bench_packet *cells;
    uint64_t head, tail, mask;
};

static int queue_create(struct queue *queue, uint64_t capacity) {
    memset(queue, 0, sizeof *queue);
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->not_empty, NULL);
    queue->mask = capacity - 1;
    queue->cells = calloc(capacity, sizeof *queue->cells);
    return queue->cells ? 0 : -ENOMEM;
}

static void queue_destroy(struct queue *queue) {
    pthread_cond_destroy(&queue->not_empty);
    pthread_mutex_destroy(&queue->lock);
    free(queue->cells);
}

static void grow(struct queue *queue) {
    uint64_t capacity = queue->mask + 1;
    struct bench_packet *cells = malloc(2 * capacity * sizeof *cells);
    if (!cells)
        abort();
    for (uint64_t i = queue->head; i != queue->tail; i++)
        cells[i & (2 * capacity - 1)] = queue->cells[i & queue->mask];
    free(queue->cells);
    queue->cells = cells;
    queue->mask = 2 * capacity - 1;
}

static inline void append(struct queue *queue, const struct bench_packet *packet) {
    if (queue->tail - queue->head > queue->mask)
        grow(queue);
    queue->cells[queue->tail++ & queue->mask] = *packet;
}

// The calls that a user of such a queue makes: kept out of line, as a library's would be.

__attribute__((noinline)) static void post(struct queue *queue, const struct bench_packet *packet) {
    pthread_mutex_lock(&queue->lock);
    append(queue, packet);
    pthread_mutex_unlock(&queue->lock);
}

__attribute__((noinline)) static uint32_t take(struct queue *queue, struct bench_packet *packets, uint32_t limit) {
    uint32_t count = 0;
    pthread_mutex_lock(&queue->lock);
    while (count < limit && queue->head != queue->tail)
        packets[count++] = queue->cells[queue->head++ & queue->mask];
    pthread_mutex_unlock(&queue->lock);
    return count;
}

__attribute__((noinline)) static void post_and_signal(struct queue *queue, const struct bench_packet *packet) {
    pthread_mutex_lock(&queue->lock);
    append(queue, packet);
    pthread_mutex_unlock(&queue->lock);
    pthread_cond_signal(&queue->not_empty);
}

__attribute__((noinline)) static void wait_and_take(struct queue *queue, struct bench_packet *packet) {
    pthread_mutex_lock(&queue->lock);
    while (queue->head == queue->tail)
        pthread_cond_wait(&queue->not_empty, &queue->lock);
    *packet = queue->cells[queue->head++ & queue->mask];
    pthread_mutex_unlock(&queue->lock);
}

static void *sleep_until_cancelled(void *unused) {
    for (;;)
        pause();
    return unused;
}

// glibc leaves the locked instructions out of a mutex while a process has one thread. A queue between threads is never
// used in such a process, so the functions that need only one thread have a second one that sleeps.
static int start_idle_thread(pthread_t *thread) {
    return -pthread_create(thread, NULL, sleep_until_cancelled, NULL);
}

static void end_idle_thread(pthread_t thread) {
    pthread_cancel(thread);
    pthread_join(thread, NULL);
}

int bench_post_queue_pair(const struct bench_post_config *config, struct bench_outcome *outcome) {
    struct queue queue;
    pthread_t idle;
    int result = queue_create(&queue, 1024);
    if (!result)
        result = start_idle_thread(&idle);
    if (result)
        return result;
    uint64_t operations = 0;
    bench_outcome_begin(outcome);
    uint64_t deadline = outcome->nanoseconds + config->nanoseconds;
    do {
        // The clock is read once in a thousand: it costs as much as the pair.
        for (int i = 0; i < 1000; i++) {
            struct bench_packet packet = {.key = operations, .bytes = 64}, taken;
            post(&queue, &packet);
            if (take(&queue, &taken, 1) != 1 || taken.key != operations)
                result = -EIO;
            operations++;
        }
    } while (bench_now() < deadline);
    bench_outcome_end(outcome, operations, -1);
    end_idle_thread(idle);
    queue_destroy(&queue);
    return result;
}

int bench_post_queue_batch(const struct bench_post_config *config, struct bench_outcome *outcome) {
    struct queue queue;
    pthread_t idle;
    int result = queue_create(&queue, 1024);
    if (!result)
        result = start_idle_thread(&idle);
    if (result)
        return result;
    struct bench_packet *taken = calloc(config->batch, sizeof *taken);
    uint64_t operations = 0;
    bench_outcome_begin(outcome);
    uint64_t deadline = outcome->nanoseconds + config->nanoseconds;
    do {
        for (int i = 0; i < 100; i++) {
            for (uint32_t j = 0; j < config->batch; j++) {
                struct bench_packet packet = {.key = operations + j, .bytes = 64};
                post(&queue, &packet);
            }
            if (take(&queue, taken, config->batch) != config->batch
                || taken[config->batch - 1].key != operations + config->batch - 1)
                result = -EIO;
            operations += config->batch;
        }
    } while (bench_now() < deadline);
    bench_outcome_end(outcome, operations, -1);
    end_idle_thread(idle);
    free(taken);
    queue_destroy(&queue);
    return result;
}

static const uint64_t STOP = UINT64_MAX;
// What says that a burst is over.
static const uint64_t END = UINT64_MAX - 1;

static void *pong(void *argument) {
    struct queue *queues = argument;
    struct bench_packet packet;
    do {
        wait_and_take(&queues[0], &packet);
        post_and_signal(&queues[1], &packet);
    } while (packet.key != STOP);
    return NULL;
}

int bench_post_queue_pingpong(const struct bench_post_config *config, struct bench_outcome *outcome,
                              struct bench_samples *samples) {
    struct queue queues[2];
    int result = queue_create(&queues[0], 64);
    if (!result)
        result = queue_create(&queues[1], 64);
    pthread_t thread;
    if (!result)
        result = -pthread_create(&thread, NULL, pong, queues);
    if (result)
        return result;
    struct bench_packet packet = {0};
    uint64_t operations = 0;
    bench_outcome_begin(outcome);
    uint64_t started = outcome->nanoseconds, deadline = started + config->nanoseconds;
    while (started < deadline) {
        packet.key = operations++;
        post_and_signal(&queues[0], &packet);
        wait_and_take(&queues[1], &packet);
        if (packet.key != operations - 1)
            result = -EIO;
        uint64_t now = bench_now();
        bench_sample(samples, now - started);
        started = now;
    }
    bench_outcome_end(outcome, operations, -1);
    packet.key = STOP;
    post_and_signal(&queues[0], &packet);
    pthread_join(thread, NULL);
    queue_destroy(&queues[0]);
    queue_destroy(&queues[1]);
    return result;
}

struct many {
    const struct bench_post_config *config;
    struct queue queue;
    pthread_barrier_t start;
    sem_t drained;
};

struct many_thread {
    struct many *many;
    pthread_t thread;
    uint64_t count, sum;
} __attribute__((aligned(64)));

static void *produce(void *argument) {
    struct many_thread *self = argument;
    struct many *many = self->many;
    pthread_barrier_wait(&many->start);
    for (uint64_t i = 0; i < many->config->packets; i++) {
        struct bench_packet packet = {.key = i, .bytes = 64};
        post_and_signal(&many->queue, &packet);
    }
    return NULL;
}

static void *consume(void *argument) {
    struct many_thread *self = argument;
    struct many *many = self->many;
    struct bench_packet packet;
    pthread_barrier_wait(&many->start);
    for (;;) {
        wait_and_take(&many->queue, &packet);
        if (packet.key == STOP)
            return NULL;
        if (packet.key == END) {
            sem_post(&many->drained);
            continue;
        }
        self->count++;
        self->sum += packet.key;
    }
}

static void start_many(struct many *many, struct many_thread *threads, uint32_t count, void *(*body)(void *)) {
    for (uint32_t i = 0; i < count; i++) {
        threads[i] = (struct many_thread){.many = many};
        // A thread missing from the barrier would leave the others in it for ever.
        if (pthread_create(&threads[i].thread, NULL, body, &threads[i]))
            abort();
    }
}

// Fresh threads post; then all is taken.
static void run_burst(struct many *many, struct many_thread *producers) {
    uint32_t count = many->config->producers;
    pthread_barrier_init(&many->start, NULL, count);
    start_many(many, producers, count, produce);
    for (uint32_t i = 0; i < count; i++)
        pthread_join(producers[i].thread, NULL);
    pthread_barrier_destroy(&many->start);
    post_and_signal(&many->queue, &(struct bench_packet){.key = END});
    while (sem_wait(&many->drained)) {
    }
}

int bench_post_queue_many(const struct bench_post_config *config, struct bench_outcome *outcome) {
    struct many many = {.config = config};
    uint32_t total = config->producers + config->consumers;
    struct many_thread *threads = aligned_alloc(64, total * sizeof(struct many_thread));
    struct many_thread *consumers = threads + config->producers;
    int result = threads ? queue_create(&many.queue, 1024) : -ENOMEM;
    if (result) {
        free(threads);
        return result;
    }
    sem_init(&many.drained, 0, 0);
    pthread_barrier_init(&many.start, NULL, config->consumers + 1);
    start_many(&many, consumers, config->consumers, consume);
    pthread_barrier_wait(&many.start);
    pthread_barrier_destroy(&many.start);
    uint64_t packets = config->packets, bursts = 0;
    bench_outcome_begin(outcome);
    uint64_t deadline = outcome->nanoseconds + config->nanoseconds;
    do {
        run_burst(&many, threads);
        bursts++;
    } while (bench_now() < deadline);
    uint64_t operations = bursts * config->producers * packets;
    bench_outcome_end(outcome, operations, -1);
    for (uint32_t i = 0; i < config->consumers; i++)
        post_and_signal(&many.queue, &(struct bench_packet){.key = STOP});
    uint64_t count = 0, sum = 0;
    for (uint32_t i = 0; i < config->consumers; i++) {
        pthread_join(consumers[i].thread, NULL);
        count += consumers[i].count;
        sum += consumers[i].sum;
    }
    sem_destroy(&many.drained);
    queue_destroy(&many.queue);
    free(threads);
    bool complete = count == operations && sum == bursts * config->producers * (packets * (packets - 1) / 2);
    return complete ? 0 : -EIO;
}

struct chain_thread {
    struct many *many;
    pthread_t thread;
    uint64_t count;
} __attribute__((aligned(64)));

static void *follow_chains(void *argument) {
    struct chain_thread *self = argument;
    struct many *many = self->many;
    struct bench_packet packet;
    pthread_barrier_wait(&many->start);
    for (;;) {
        wait_and_take(&many->queue, &packet);
        if (packet.key == STOP)
            return NULL;
        bench_burn(many->config->work_nanoseconds);
        bench_count(&self->count, 1);
        post_and_signal(&many->queue, &packet);
    }
}

static uint64_t sum_of_counts(const struct chain_thread *threads, uint32_t count) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += bench_counter_read(&threads[i].count);
    return sum;
}

int bench_post_queue_chains(const struct bench_post_config *config, struct bench_outcome *outcome) {
    struct many many = {.config = config};
    struct chain_thread *threads = aligned_alloc(64, config->consumers * sizeof *threads);
    int result = threads ? queue_create(&many.queue, 1024) : -ENOMEM;
    if (result)
        return result;
    pthread_barrier_init(&many.start, NULL, config->consumers + 1);
    for (uint32_t i = 0; i < config->consumers; i++) {
        threads[i] = (struct chain_thread){.many = &many};
        if (pthread_create(&threads[i].thread, NULL, follow_chains, &threads[i]))
            abort();
    }
    bench_burn(0);
    pthread_barrier_wait(&many.start);
    // The threads have come to sleep when the packets come, as those of a server have.
    bench_sleep(20000000);
    for (uint32_t i = 0; i < config->chains; i++)
        post_and_signal(&many.queue, &(struct bench_packet){.key = i});
    bench_sleep(20000000);
    uint64_t before = sum_of_counts(threads, config->consumers);
    bench_outcome_begin(outcome);
    bench_sleep(config->nanoseconds);
    uint64_t operations = sum_of_counts(threads, config->consumers) - before;
    bench_outcome_end(outcome, operations, -1);
    for (uint32_t i = 0; i < config->consumers; i++)
        post_and_signal(&many.queue, &(struct bench_packet){.key = STOP});
    for (uint32_t i = 0; i < config->consumers; i++)
        pthread_join(threads[i].thread, NULL);
    bool complete = many.queue.tail - many.queue.head == config->chains;
    pthread_barrier_destroy(&many.start);
    queue_destroy(&many.queue);
    free(threads);
    return complete ? 0 : -EIO;
}
