#define _GNU_SOURCE
#include "bench_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int bench_reads_pread(const struct bench_reads_config *config, struct bench_outcome *outcome,
                      struct bench_samples *samples) {
    int file = open(config->path, O_RDONLY | O_CLOEXEC | (config->direct ? O_DIRECT : 0));
    if (file < 0)
        return -errno;
    uint8_t *memory = aligned_alloc(BENCH_BLOCK_BYTES, BENCH_BLOCK_BYTES);
    if (!memory) {
        close(file);
        return -ENOMEM;
    }
    memset(memory, 0xff, BENCH_BLOCK_BYTES);
    uint64_t state = config->seed, operations = 0;
    int result = 0;

    bench_outcome_begin(outcome);
    uint64_t started = outcome->nanoseconds, deadline = started + config->nanoseconds;
    while (started < deadline && !result) {
        uint64_t expected = bench_next_block(&state, config->blocks), block;
        ssize_t length = pread(file, memory, BENCH_BLOCK_BYTES, (off_t)(expected * BENCH_BLOCK_BYTES));
        memcpy(&block, memory, sizeof block);
        if (length != BENCH_BLOCK_BYTES || block != expected)
            result = length < 0 ? -errno : -EIO;
        uint64_t now = bench_now();
        bench_sample(samples, now - started);
        started = now;
        operations++;
    }
    bench_outcome_end(outcome, operations, (int64_t)operations);
    free(memory);
    close(file);
    return result;
}

int bench_copy_classic(const struct bench_copy_config *config, struct bench_outcome *outcome) {
    int source = open(config->source, O_RDONLY | O_CLOEXEC);
    if (source < 0)
        return -errno;
    int destination = open(config->destination, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int result = destination < 0 ? -errno : 0;
    uint8_t *memory = aligned_alloc(4096, config->chunk_bytes);
    if (!memory)
        result = -ENOMEM;
    uint64_t bytes = 0, calls = 0;
    if (!result) {
        memset(memory, 0, config->chunk_bytes);
        bench_outcome_begin(outcome);
        while (!result) {
            ssize_t length = read(source, memory, config->chunk_bytes);
            calls++;
            if (length < 0 && errno == EINTR)
                continue;
            if (length <= 0) {
                result = length < 0 ? -errno : 0;
                break;
            }
            for (ssize_t done = 0; done < length && !result;) {
                ssize_t written = write(destination, memory + done, (size_t)(length - done));
                calls++;
                if (written > 0)
                    done += written;
                else if (errno != EINTR)
                    result = -errno;
            }
            bytes += (uint64_t)length;
        }
        bench_outcome_end(outcome, bytes, (int64_t)calls);
    }
    free(memory);
    close(source);
    if (destination >= 0)
        close(destination);
    return result;
}
