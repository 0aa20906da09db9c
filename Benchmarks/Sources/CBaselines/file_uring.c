#define _GNU_SOURCE
#include "bench_file.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int set_up(struct io_uring *ring, unsigned entries, const int *files, unsigned file_count, struct iovec buffer) {
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
    };
    int result = io_uring_queue_init_params(entries, ring, &params);
    if (result)
        return result;
    io_uring_register_ring_fd(ring);  // an optimisation: its failure changes nothing else
    result = io_uring_register_files(ring, files, file_count);
    if (!result)
        result = io_uring_register_buffers(ring, &buffer, 1);
    if (result)
        io_uring_queue_exit(ring);
    return result;
}

static void *map_buffers(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE | MAP_POPULATE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

struct pending_read {
    uint64_t block, started;
};

static void start_read(struct io_uring *ring, uint8_t *memory, struct pending_read *pending, uint32_t slot,
                       uint64_t block, uint64_t now) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);  // never full: as many entries as slots
    pending[slot] = (struct pending_read){block, now};
    io_uring_prep_read_fixed(sqe, 0, memory + (size_t)slot * BENCH_BLOCK_BYTES, BENCH_BLOCK_BYTES,
                             block * BENCH_BLOCK_BYTES, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(sqe, slot);
}

static int read_until(struct io_uring *ring, uint8_t *memory, struct pending_read *pending,
                      const struct bench_reads_config *config, struct bench_outcome *outcome,
                      struct bench_samples *samples) {
    uint64_t state = config->seed, operations = 0, calls = 0;
    uint32_t in_flight = 0;
    int result = 0;

    bench_outcome_begin(outcome);
    uint64_t now = outcome->nanoseconds, deadline = now + config->nanoseconds;
    for (; in_flight < config->depth; in_flight++)
        start_read(ring, memory, pending, in_flight, bench_next_block(&state, config->blocks), now);
    while (in_flight) {
        int submitted = io_uring_submit_and_wait(ring, 1);
        calls++;
        if (submitted < 0 && submitted != -EINTR)
            return submitted;
        now = bench_now();
        struct io_uring_cqe *cqe;
        unsigned head, count = 0;
        io_uring_for_each_cqe(ring, head, cqe) {
            uint32_t slot = (uint32_t)io_uring_cqe_get_data64(cqe);
            uint64_t block;
            memcpy(&block, memory + (size_t)slot * BENCH_BLOCK_BYTES, sizeof block);
            if (cqe->res != BENCH_BLOCK_BYTES || block != pending[slot].block)
                result = cqe->res < 0 ? cqe->res : -EIO;
            bench_sample(samples, now - pending[slot].started);
            count++;
            if (now < deadline && !result)
                start_read(ring, memory, pending, slot, bench_next_block(&state, config->blocks), now);
            else
                in_flight--;
        }
        io_uring_cq_advance(ring, count);
        operations += count;
    }
    bench_outcome_end(outcome, operations, (int64_t)calls);
    return result;
}

int bench_reads_uring(const struct bench_reads_config *config, struct bench_outcome *outcome,
                      struct bench_samples *samples) {
    int file = open(config->path, O_RDONLY | O_CLOEXEC | (config->direct ? O_DIRECT : 0));
    if (file < 0)
        return -errno;
    size_t bytes = (size_t)config->depth * BENCH_BLOCK_BYTES;
    uint8_t *memory = map_buffers(bytes);
    struct pending_read *pending = calloc(config->depth, sizeof *pending);
    int result = -ENOMEM;
    struct io_uring ring;
    if (memory && pending) {
        result = set_up(&ring, config->depth, &file, 1, (struct iovec){memory, bytes});
        if (!result) {
            result = read_until(&ring, memory, pending, config, outcome, samples);
            io_uring_queue_exit(&ring);
        }
    }
    if (memory)
        munmap(memory, bytes);
    free(pending);
    close(file);
    return result;
}

struct chunk {
    uint64_t offset;
    uint32_t done, length;  // of the read or the write that is in flight
    bool writing;
};

enum { SOURCE = 0, DESTINATION = 1 };

static void start_chunk(struct io_uring *ring, uint8_t *memory, const struct bench_copy_config *config,
                        const struct chunk *chunk, uint32_t slot) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);  // never full: as many entries as chunks
    uint8_t *start = memory + (size_t)slot * config->chunk_bytes + chunk->done;
    if (chunk->writing)
        io_uring_prep_write_fixed(sqe, DESTINATION, start, chunk->length - chunk->done, chunk->offset + chunk->done, 0);
    else
        io_uring_prep_read_fixed(sqe, SOURCE, start, chunk->length - chunk->done, chunk->offset + chunk->done, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(sqe, slot);
}

static int copy_all(struct io_uring *ring, uint8_t *memory, struct chunk *chunks,
                    const struct bench_copy_config *config, uint64_t bytes, struct bench_outcome *outcome) {
    uint64_t next = 0, calls = 0;
    uint32_t in_flight = 0;
    int result = 0;

    bench_outcome_begin(outcome);
    for (; in_flight < config->depth && next < bytes; in_flight++) {
        uint64_t rest = bytes - next;
        chunks[in_flight] = (struct chunk){next, 0, rest < config->chunk_bytes ? rest : config->chunk_bytes, false};
        next += chunks[in_flight].length;
        start_chunk(ring, memory, config, &chunks[in_flight], in_flight);
    }
    while (in_flight) {
        int submitted = io_uring_submit_and_wait(ring, 1);
        calls++;
        if (submitted < 0 && submitted != -EINTR)
            return submitted;
        struct io_uring_cqe *cqe;
        unsigned head, count = 0;
        io_uring_for_each_cqe(ring, head, cqe) {
            uint32_t slot = (uint32_t)io_uring_cqe_get_data64(cqe);
            struct chunk *chunk = &chunks[slot];
            count++;
            if (cqe->res <= 0 || result) {
                result = result ? result : cqe->res < 0 ? cqe->res : -EIO;
                in_flight--;
                continue;
            }
            chunk->done += (uint32_t)cqe->res;
            if (chunk->done == chunk->length) {
                if (!chunk->writing) {
                    chunk->writing = true;
                } else if (next < bytes) {
                    uint64_t rest = bytes - next;
                    *chunk = (struct chunk){next, 0, rest < config->chunk_bytes ? rest : config->chunk_bytes, false};
                    next += chunk->length;
                } else {
                    in_flight--;
                    continue;
                }
                chunk->done = 0;
            }
            start_chunk(ring, memory, config, chunk, slot);
        }
        io_uring_cq_advance(ring, count);
    }
    bench_outcome_end(outcome, bytes, (int64_t)calls);
    return result;
}

int bench_copy_uring(const struct bench_copy_config *config, struct bench_outcome *outcome) {
    int files[2];
    files[SOURCE] = open(config->source, O_RDONLY | O_CLOEXEC);
    if (files[SOURCE] < 0)
        return -errno;
    files[DESTINATION] = open(config->destination, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (files[DESTINATION] < 0) {
        int error = errno;
        close(files[SOURCE]);
        return -error;
    }
    size_t bytes = (size_t)config->depth * config->chunk_bytes;
    uint8_t *memory = map_buffers(bytes);
    struct chunk *chunks = calloc(config->depth, sizeof *chunks);
    struct stat status;
    int result = -ENOMEM;
    struct io_uring ring;
    if (memory && chunks) {
        result = fstat(files[SOURCE], &status) ? -errno : 0;
        if (!result)
            result = set_up(&ring, config->depth, files, 2, (struct iovec){memory, bytes});
        if (!result) {
            result = copy_all(&ring, memory, chunks, config, (uint64_t)status.st_size, outcome);
            io_uring_queue_exit(&ring);
        }
    }
    if (memory)
        munmap(memory, bytes);
    free(chunks);
    close(files[SOURCE]);
    close(files[DESTINATION]);
    return result;
}
