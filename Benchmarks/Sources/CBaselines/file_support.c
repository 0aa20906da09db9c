#define _GNU_SOURCE
#include "bench_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { CHUNK_BYTES = 1 << 20 };

static int write_whole(int descriptor, const uint8_t *bytes, size_t length) {
    while (length) {
        ssize_t written = write(descriptor, bytes, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        bytes += written;
        length -= (size_t)written;
    }
    return 0;
}

int bench_file_create(const char *path, uint64_t bytes) {
    int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (descriptor < 0)
        return -errno;
    int result = -ENOMEM;
    uint64_t *chunk = aligned_alloc(4096, CHUNK_BYTES);
    if (chunk) {
        uint64_t state = 0x9E3779B97F4A7C15u;
        uint64_t block = 0, blocks = bytes / BENCH_BLOCK_BYTES;
        result = 0;
        while (block < blocks && !result) {
            size_t length = 0;
            for (; length < CHUNK_BYTES && block < blocks; length += BENCH_BLOCK_BYTES, block++) {
                uint64_t *words = chunk + length / sizeof *chunk;
                words[0] = block;
                for (size_t i = 1; i < BENCH_BLOCK_BYTES / sizeof *words; i++) {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    words[i] = state;
                }
            }
            result = write_whole(descriptor, (const uint8_t *)chunk, length);
        }
        // On disk before anything is measured, so that writing it back does not disturb the first rows.
        if (!result && fdatasync(descriptor))
            result = -errno;
        free(chunk);
    }
    close(descriptor);
    return result;
}

int64_t bench_free_bytes(const char *directory) {
    struct statvfs status;
    if (statvfs(directory, &status) && (errno != ENOENT || statvfs(".", &status)))
        return -errno;
    return (int64_t)(status.f_bavail * status.f_frsize);
}

int bench_file_checksum(const char *path, uint64_t *checksum, uint64_t *bytes) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return -errno;
    int result = -ENOMEM;
    uint64_t *chunk = aligned_alloc(4096, CHUNK_BYTES);
    if (chunk) {
        // Four independent lanes keep the multiplier busy: the sum runs at the speed of memory.
        uint64_t lanes[4] = {1, 2, 3, 4}, total = 0;
        ssize_t length;
        while ((length = read(descriptor, chunk, CHUNK_BYTES)) > 0) {
            memset((uint8_t *)chunk + length, 0, (size_t)(-length & 31));
            for (size_t i = 0; i < ((size_t)length + 31) / 32; i++)
                for (int lane = 0; lane < 4; lane++)
                    lanes[lane] = (lanes[lane] ^ chunk[4 * i + lane]) * 0x9E3779B97F4A7C15u + 1;
            total += (uint64_t)length;
        }
        result = length < 0 ? -errno : 0;
        uint64_t sum = total;
        for (int lane = 0; lane < 4; lane++)
            sum = (sum ^ lanes[lane] ^ lanes[lane] >> 29) * 0xBF58476D1CE4E5B9u;
        *checksum = sum;
        *bytes = total;
        free(chunk);
    }
    close(descriptor);
    return result;
}
