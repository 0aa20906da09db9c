// Random reads and copies of a file: raw liburing and the classic system calls.
#ifndef BENCH_FILE_H
#define BENCH_FILE_H

#include "bench_support.h"

// The benchmark's file: blocks of 4 KiB, each of which begins with its own number (so a reader can tell a wrong block)
// and goes on with pseudo-random bytes.
enum { BENCH_BLOCK_BYTES = 4096 };

// Creates the file at `path` (whole blocks only). Returns 0 or -errno.
int bench_file_create(const char *path, uint64_t bytes);

// Bytes that are free for files in a directory, or where it is going to be made, or -errno.
int64_t bench_free_bytes(const char *directory);

// A 64-bit sum over the content, sensitive to order. Returns 0 or -errno.
int bench_file_checksum(const char *path, uint64_t *checksum, uint64_t *bytes);

struct bench_reads_config {
    const char *path;
    uint64_t blocks;
    uint32_t depth;        // reads in flight
    bool direct;           // O_DIRECT
    uint64_t nanoseconds;  // how long
    uint64_t seed;
};

// The next block of a sequence that every row shares (xorshift64*, reduced without division). `state` must not be 0.
static inline uint64_t bench_next_block(uint64_t *state, uint64_t blocks) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint64_t)(((unsigned __int128)(*state * 0x2545F4914F6CDD1Du) * blocks) >> 64);
}

// Both read random blocks, check each (short or wrong: -EIO), and return 0 or -errno.

// SINGLE_ISSUER, DEFER_TASKRUN, registered file and buffers, one enter per batch.
int bench_reads_uring(const struct bench_reads_config *config, struct bench_outcome *outcome,
                      struct bench_samples *samples);
// pread(2) in a loop: one in flight whatever `depth` says.
int bench_reads_pread(const struct bench_reads_config *config, struct bench_outcome *outcome,
                      struct bench_samples *samples);

struct bench_copy_config {
    const char *source;
    const char *destination;  // created or truncated
    uint32_t chunk_bytes;
    uint32_t depth;  // chunks in flight
};

// Copies the whole file. `outcome.operations` counts bytes.
// Registered files and buffers; each buffer alternates between a read and a write at the same offset.
int bench_copy_uring(const struct bench_copy_config *config, struct bench_outcome *outcome);
// read(2) and write(2) in a loop with one buffer.
int bench_copy_classic(const struct bench_copy_config *config, struct bench_outcome *outcome);

#endif
