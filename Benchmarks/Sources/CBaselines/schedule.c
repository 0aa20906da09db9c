#define _GNU_SOURCE
#include "bench_schedule.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// MARK: Work

// A chain of dependent multiplications: it cannot be shortened, and takes the same time each.
__attribute__((noinline)) static uint64_t spin(uint64_t rounds) {
    uint64_t value = rounds | 1;
    for (uint64_t i = 0; i < rounds; i++) {
        value *= 0x2545F4914F6CDD1Du;
        __asm__ volatile("" : "+r"(value));
    }
    return value;
}

static uint64_t clock_now(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static double rounds_per_nanosecond;
static pthread_once_t calibrated = PTHREAD_ONCE_INIT;

static void calibrate(void) {
    enum { ROUNDS = 200000 };
    // The fastest of several: the others were disturbed by what the thread's clock counts in, such as interrupts.
    for (int i = 0; i < 20; i++) {
        uint64_t before = clock_now(CLOCK_THREAD_CPUTIME_ID);
        spin(ROUNDS);
        double rate = (double)ROUNDS / (double)(clock_now(CLOCK_THREAD_CPUTIME_ID) - before + 1);
        if (rate > rounds_per_nanosecond)
            rounds_per_nanosecond = rate;
    }
}

void bench_burn(uint64_t nanoseconds) {
    pthread_once(&calibrated, calibrate);
    spin((uint64_t)((double)nanoseconds * rounds_per_nanosecond));
}

// MARK: Blocking

static long futex(uint32_t *word, int operation, uint32_t value, uint64_t nanoseconds) {
    struct timespec time = {.tv_sec = (time_t)(nanoseconds / 1000000000u), .tv_nsec = (long)(nanoseconds % 1000000000u)};
    return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, nanoseconds ? &time : NULL, NULL, 0);
}

static void ignore_signal(int signal) {
    (void)signal;
}

int bench_blocker_create(struct bench_blocker *blocker, enum bench_block_kind kind) {
    memset(blocker, 0, sizeof *blocker);
    blocker->kind = kind;
    if (kind == BENCH_BLOCK_READ && pipe2(blocker->pipe, O_CLOEXEC))
        return -errno;
    if (kind == BENCH_BLOCK_SLEEP) {
        // Without SA_RESTART: it ends the sleep.
        struct sigaction action = {.sa_handler = ignore_signal};
        if (sigaction(SIGUSR2, &action, NULL))
            return -errno;
    }
    return 0;
}

void bench_blocker_destroy(struct bench_blocker *blocker) {
    if (blocker->kind == BENCH_BLOCK_READ) {
        close(blocker->pipe[0]);
        close(blocker->pipe[1]);
    }
}

void bench_blocker_block(struct bench_blocker *blocker, uint64_t nanoseconds) {
    // A release that came too late for the last time says nothing now.
    __atomic_store_n(&blocker->released, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&blocker->thread, bench_thread_id(), __ATOMIC_SEQ_CST);
    switch (blocker->kind) {
    case BENCH_BLOCK_SLEEP:
        nanosleep(&(struct timespec){.tv_nsec = (long)nanoseconds}, NULL);
        break;
    case BENCH_BLOCK_FUTEX:
        futex(&blocker->released, FUTEX_WAIT, 0, nanoseconds);
        break;
    case BENCH_BLOCK_READ: {
        char byte;
        while (read(blocker->pipe[0], &byte, 1) < 0 && errno == EINTR)
            ;
        break;
    }
    }
    __atomic_store_n(&blocker->thread, 0, __ATOMIC_SEQ_CST);
}

void bench_blocker_release(struct bench_blocker *blocker) {
    __atomic_store_n(&blocker->released, 1, __ATOMIC_SEQ_CST);
    int thread = __atomic_load_n(&blocker->thread, __ATOMIC_SEQ_CST);
    switch (blocker->kind) {
    case BENCH_BLOCK_SLEEP:
        if (thread)
            syscall(SYS_tgkill, getpid(), thread, SIGUSR2);
        break;
    case BENCH_BLOCK_FUTEX:
        futex(&blocker->released, FUTEX_WAKE, 1, 0);
        break;
    case BENCH_BLOCK_READ:
        if (write(blocker->pipe[1], "", 1) < 0)
            abort();
        break;
    }
}

void bench_semaphore_post(uint32_t *semaphore) {
    __atomic_fetch_add(semaphore, 1, __ATOMIC_SEQ_CST);
    futex(semaphore, FUTEX_WAKE, 1, 0);
}

bool bench_semaphore_wait(uint32_t *semaphore, uint64_t nanoseconds) {
    uint64_t deadline = bench_now() + nanoseconds;
    for (;;) {
        uint32_t count = __atomic_load_n(semaphore, __ATOMIC_SEQ_CST);
        if (count) {
            if (__atomic_compare_exchange_n(semaphore, &count, count - 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                return true;
            continue;
        }
        uint64_t now = bench_now();
        if (now >= deadline)
            return false;
        futex(semaphore, FUTEX_WAIT, 0, deadline - now);
    }
}

// MARK: Threads

int bench_thread_id(void) {
    return gettid();
}

void bench_sleep(uint64_t nanoseconds) {
    struct timespec time = {.tv_sec = (time_t)(nanoseconds / 1000000000u), .tv_nsec = (long)(nanoseconds % 1000000000u)};
    while (nanosleep(&time, &time) && errno == EINTR)
        ;
}

void bench_wake_exactly(void) {
    prctl(PR_SET_TIMERSLACK, 1);
}

struct bench_usage bench_usage_of_others(void) {
    struct rusage all, me;
    getrusage(RUSAGE_SELF, &all);
    getrusage(RUSAGE_THREAD, &me);
    // Thread by thread: the clock of the process would count the look itself.
    uint64_t time = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
        int thread = atoi(entry->d_name);
        int64_t used = thread > 0 && thread != bench_thread_id() ? bench_thread_time(thread) : 0;
        time += used > 0 ? (uint64_t)used : 0;
    }
    if (tasks)
        closedir(tasks);
    return (struct bench_usage){
        .cpu_nanoseconds = time,
        .voluntary_switches = (uint64_t)(all.ru_nvcsw - me.ru_nvcsw),
        .involuntary_switches = (uint64_t)(all.ru_nivcsw - me.ru_nivcsw),
    };
}

int bench_thread_find(const char *name) {
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks)
        return -errno;
    int result = -ENOENT;
    for (struct dirent *entry; result < 0 && (entry = readdir(tasks));) {
        char path[300], text[32] = "";
        int thread = atoi(entry->d_name);
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = thread > 0 ? fopen(path, "re") : NULL;
        if (!file)
            continue;
        if (fgets(text, sizeof text, file)) {
            text[strcspn(text, "\n")] = 0;
            if (!strcmp(text, name))
                result = thread;
        }
        fclose(file);
    }
    closedir(tasks);
    return result;
}

int64_t bench_thread_time(int thread) {
    struct timespec time;
    // The clock of a thread by its number, as pthread_getcpuclockid makes it.
    if (clock_gettime((clockid_t)(~(unsigned)thread << 3 | 6), &time))
        return -errno;
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

// MARK: Sockets

int bench_socketpair(int *one, int *other) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return -errno;
    *one = ends[0];
    *other = ends[1];
    return 0;
}

int bench_write_word(int descriptor, uint64_t word) {
    ssize_t length = send(descriptor, &word, sizeof word, MSG_NOSIGNAL);
    return length == sizeof word ? 0 : length < 0 ? -errno : -EIO;
}

int bench_read_word(int descriptor, uint64_t *word) {
    ssize_t length;
    do
        length = recv(descriptor, word, sizeof *word, MSG_WAITALL);
    while (length < 0 && errno == EINTR);
    return length == sizeof *word ? 0 : length < 0 ? -errno : -EPIPE;
}
