#define _GNU_SOURCE
#include "bench_peer.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_allocations.h"
#include "bench_process.h"

static int answer(const char *line, int length) {
    return length < 0 ? -EINVAL : bench_write(STDOUT_FILENO, line, (size_t)length);
}

// A line as `ServerSnapshot` reads it.
static int print_snapshot(struct bench_peer *peer) {
    struct bench_usage usage = bench_usage_now();
    struct bench_counters counters = bench_counters_read(&peer->counters);
    // Those of the thread that takes snapshots are not the server's.
    int64_t allocations = bench_allocations();
    char counted[32] = "null";
    if (allocations >= 0)
        snprintf(counted, sizeof counted, "%" PRId64, allocations - bench_allocations_of_thread());
    char line[512];
    int length = snprintf(line, sizeof line,
                          "{\"cpuNanoseconds\":%" PRIu64 ",\"voluntarySwitches\":%" PRIu64
                          ",\"involuntarySwitches\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"receives\":%" PRIu64
                          ",\"accepts\":%" PRIu64 ",\"systemCalls\":0,\"allocations\":%s,\"counts\":{}}\n",
                          usage.cpu_nanoseconds, usage.voluntary_switches, usage.involuntary_switches, counters.bytes,
                          counters.receives, counters.accepts, counted);
    return answer(line, length);
}

static void *control(void *argument) {
    struct bench_peer *peer = argument;
    while (bench_control_next(peer->signals) == BENCH_CONTROL_MARK)
        print_snapshot(peer);
    bench_event_raise(peer->stop);
    // The process ends with its main function. A server that does not come to its end must not go on beside later rows.
    sleep(5);
    _exit(70);
}

static bool parse(const char *text, uint64_t greatest, uint64_t *value) {
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno && *value <= greatest;
}

struct bench_peer *bench_peer_begin(int argc, char *const *argv, const char *version) {
    if (argc == 2 && !strcmp(argv[1], "--version")) {
        puts(version);
        exit(0);
    }
    uint64_t connections = 1024, buffer_bytes = 4096, port = 0, processor = UINT64_MAX;
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        bool taken = (!strcmp(argv[i], "--connections") && parse(value, 1 << 20, &connections))
                     || (!strcmp(argv[i], "--buffer-bytes") && parse(value, 1 << 26, &buffer_bytes))
                     || (!strcmp(argv[i], "--processor") && parse(value, 4095, &processor))
                     || (!strcmp(argv[i], "--port") && parse(value, 65535, &port));
        if (!taken) {
            fprintf(stderr, "%s: cannot take %s %s\n", argv[0], argv[i], value);
            return NULL;
        }
    }
    const char *doing = "allocating";
    int result = -ENOMEM;
    struct bench_peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        goto failed;
    peer->max_connections = (uint32_t)connections;
    peer->buffer_bytes = (uint32_t)buffer_bytes;
    bench_raise_descriptor_limit();
    doing = "opening a signalfd";
    if ((result = peer->signals = bench_signals_open()) < 0)
        goto failed;
    doing = "creating an eventfd";
    if ((result = peer->stop = bench_event_open()) < 0)
        goto failed;
    doing = "binding to the processor";
    if (processor != UINT64_MAX && (result = bench_pin((int)processor)) < 0)
        goto failed;
    doing = "listening";
    uint16_t bound;
    if ((result = peer->listener = bench_listen((uint16_t)port, &bound)) < 0)
        goto failed;
    doing = "answering";
    char line[256];
    int length = snprintf(line, sizeof line, "{\"port\":%u}\n", bound);
    if ((result = answer(line, length)) < 0)
        goto failed;
    doing = "starting a thread";
    pthread_t thread;
    if ((result = -pthread_create(&thread, NULL, control, peer)) < 0)
        goto failed;
    pthread_detach(thread);
    return peer;

failed:
    fprintf(stderr, "%s: %s: %s\n", argv[0], doing, strerror(-result));
    return NULL;
}

int bench_peer_end(struct bench_peer *peer) {
    return print_snapshot(peer) ? 74 : 0;
}
