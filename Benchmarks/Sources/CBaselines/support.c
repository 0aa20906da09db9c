#define _GNU_SOURCE
#include "bench_support.h"

#include "bench_allocations.h"

#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WANTED_DESCRIPTORS = 65536, CONNECTIONS_OF_AN_ADDRESS = 20000 };

struct bench_counters bench_counters_read(const struct bench_counters *counters) {
    return (struct bench_counters){
        .bytes = bench_counter_read(&counters->bytes),
        .receives = bench_counter_read(&counters->receives),
        .accepts = bench_counter_read(&counters->accepts),
        .system_calls = bench_counter_read(&counters->system_calls),
    };
}

int bench_samples_create(struct bench_samples *samples, size_t capacity) {
    size_t rounded = 1;
    while (rounded < capacity)
        rounded <<= 1;
    samples->values = malloc(rounded * sizeof *samples->values);
    if (!samples->values)
        return -ENOMEM;
    memset(samples->values, 0xff, rounded * sizeof *samples->values);
    samples->mask = rounded - 1;
    samples->count = 0;
    return 0;
}

void bench_samples_destroy(struct bench_samples *samples) {
    free(samples->values);
    memset(samples, 0, sizeof *samples);
}

uint64_t bench_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t nanoseconds(struct timeval time) {
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_usec * 1000u;
}

struct bench_usage bench_usage_now(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (struct bench_usage){
        .cpu_nanoseconds = nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime),
        .user_nanoseconds = nanoseconds(usage.ru_utime),
        .voluntary_switches = (uint64_t)usage.ru_nvcsw,
        .involuntary_switches = (uint64_t)usage.ru_nivcsw,
    };
}

uint64_t bench_heap_bytes(void) {
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

void bench_outcome_begin(struct bench_outcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    outcome->allocations = bench_allocations();
    outcome->usage = bench_usage_now();
    outcome->nanoseconds = bench_now();
}

void bench_outcome_end(struct bench_outcome *outcome, uint64_t operations, int64_t system_calls) {
    struct bench_usage before = outcome->usage, after;
    outcome->nanoseconds = bench_now() - outcome->nanoseconds;
    after = bench_usage_now();
    outcome->usage = (struct bench_usage){
        .cpu_nanoseconds = after.cpu_nanoseconds - before.cpu_nanoseconds,
        .user_nanoseconds = after.user_nanoseconds - before.user_nanoseconds,
        .voluntary_switches = after.voluntary_switches - before.voluntary_switches,
        .involuntary_switches = after.involuntary_switches - before.involuntary_switches,
    };
    if (outcome->allocations >= 0)
        outcome->allocations = bench_allocations() - outcome->allocations;
    outcome->operations = operations;
    outcome->system_calls = system_calls;
}

int bench_allowed_processors(int *processors, int capacity) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set))
        return -errno;
    int count = 0;
    for (int processor = 0; processor < CPU_SETSIZE; processor++) {
        if (!CPU_ISSET(processor, &set))
            continue;
        if (count < capacity)
            processors[count] = processor;
        count++;
    }
    return count;
}

int bench_pin(int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    return sched_setaffinity(0, sizeof set, &set) ? -errno : 0;
}

uint64_t bench_raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return 0;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < WANTED_DESCRIPTORS) {
        limit.rlim_cur = limit.rlim_max = WANTED_DESCRIPTORS;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
}

int bench_listen(uint16_t port, uint16_t *bound_port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0)
        return -errno;
    int on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t length = sizeof address;
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)
        || setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on)
        || bind(listener, (struct sockaddr *)&address, sizeof address)
        || listen(listener, 4096)
        || getsockname(listener, (struct sockaddr *)&address, &length)) {
        int error = errno;
        close(listener);
        return -error;
    }
    *bound_port = ntohs(address.sin_port);
    return listener;
}

int bench_accept(int listener) {
    int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    return connection < 0 ? -errno : connection;
}

int bench_connect(uint16_t port) {
    return bench_connect_from(port, 0);
}

int bench_connect_from(uint16_t port, uint32_t number) {
    int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection < 0)
        return -errno;
    int on = 1;
    struct sockaddr_in source = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK + number / CONNECTIONS_OF_AN_ADDRESS),
    };
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    if (setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on)
        || setsockopt(connection, SOL_SOCKET, SO_LINGER, &reset, sizeof reset)
        || (number && setsockopt(connection, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on))
        || (number && bind(connection, (struct sockaddr *)&source, sizeof source))
        || connect(connection, (struct sockaddr *)&address, sizeof address)) {
        int error = errno;
        close(connection);
        return -error;
    }
    return connection;
}

void bench_watchdog(double seconds) {
    alarm((unsigned)seconds + 1);
}
