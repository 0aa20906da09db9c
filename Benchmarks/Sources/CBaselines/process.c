#define _GNU_SOURCE
#include "bench_process.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench_support.h"

extern char **environ;

enum { ARGUMENTS = 64 };

pid_t bench_spawn(const char *const *arguments, int *input, int *output) {
    return bench_spawn_program("/proc/self/exe", "iocp-bench", arguments, input, output);
}

pid_t bench_spawn_program(const char *program, const char *name, const char *const *arguments, int *input,
                          int *output) {
    char *copy[ARGUMENTS + 2] = {(char *)name};
    int count = 0;
    while (arguments[count] && count < ARGUMENTS) {
        copy[count + 1] = (char *)arguments[count];
        count++;
    }
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC))
        return -errno;
    if (pipe2(from, O_CLOEXEC)) {
        int error = errno;
        close(to[0]);
        close(to[1]);
        return -error;
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, from[1], STDOUT_FILENO);
    pid_t process;
    int error = posix_spawnp(&process, program, &actions, NULL, copy, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(to[0]);
    close(from[1]);
    if (error) {
        close(to[1]);
        close(from[0]);
        return -error;
    }
    *input = to[1];
    *output = from[0];
    return process;
}

// The sum of the lines, in KiB, that begin with one of the names.
static int64_t sum_of_lines(const char *path, const char *const *names) {
    FILE *file = fopen(path, "re");
    if (!file)
        return -errno;
    char line[256];
    int64_t sum = 0;
    while (fgets(line, sizeof line, file))
        for (const char *const *name = names; *name; name++)
            if (!strncmp(line, *name, strlen(*name)))
                sum += strtoll(line + strlen(*name), NULL, 10) << 10;
    fclose(file);
    return sum;
}

int64_t bench_process_memory(pid_t process) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)process);
    return sum_of_lines(path, (const char *const[]){"Private_Clean:", "Private_Dirty:", NULL});
}

int64_t bench_kernel_memory(void) {
    return sum_of_lines("/proc/meminfo", (const char *const[]){"Slab:", NULL});
}

int bench_wait(pid_t process, uint64_t deadline) {
    int status = 0;
    for (;;) {
        pid_t ended = waitpid(process, &status, WNOHANG);
        if (ended == process)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (ended < 0 && errno != EINTR)
            return -errno;
        if (bench_now() > deadline)
            kill(process, SIGKILL);
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
}

ssize_t bench_read(int descriptor, void *bytes, size_t length, uint64_t deadline) {
    for (;;) {
        uint64_t now = bench_now();
        if (now >= deadline)
            return -ETIMEDOUT;
        struct pollfd wait = {.fd = descriptor, .events = POLLIN};
        int ready = poll(&wait, 1, (int)((deadline - now) / 1000000 + 1));
        if (ready < 0 && errno != EINTR)
            return -errno;
        if (ready <= 0)
            continue;
        ssize_t result = read(descriptor, bytes, length);
        if (result < 0 && errno == EINTR)
            continue;
        return result < 0 ? -errno : result;
    }
}

int bench_write(int descriptor, const void *bytes, size_t length) {
    // A child that has died must be an error of this row, not the end of the run.
    signal(SIGPIPE, SIG_IGN);
    while (length) {
        ssize_t written = write(descriptor, bytes, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        bytes = (const char *)bytes + written;
        length -= (size_t)written;
    }
    return 0;
}

int bench_signals_open(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    int descriptor = signalfd(-1, &set, SFD_CLOEXEC);
    return descriptor < 0 ? -errno : descriptor;
}

enum bench_control_event bench_control_next(int signals) {
    for (;;) {
        struct pollfd wait[2] = {
            {.fd = STDIN_FILENO, .events = POLLIN},
            {.fd = signals, .events = POLLIN},
        };
        if (poll(wait, 2, -1) < 0)
            continue;
        if (wait[1].revents)
            return BENCH_CONTROL_END;
        if (wait[0].revents) {
            char byte;
            ssize_t length = read(STDIN_FILENO, &byte, 1);
            if (length == 1 && byte == '\n')
                return BENCH_CONTROL_MARK;
            if (length == 0)
                return BENCH_CONTROL_END;
        }
    }
}

int bench_event_open(void) {
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return event < 0 ? -errno : event;
}

void bench_event_raise(int event) {
    eventfd_write(event, 1);
}

const char *bench_describe_kernel(char *text, size_t length) {
    struct utsname name;
    if (uname(&name))
        snprintf(text, length, "unknown");
    else
        snprintf(text, length, "%s %s %s", name.sysname, name.release, name.machine);
    return text;
}

const char *bench_describe_processor(char *text, size_t length) {
    snprintf(text, length, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file)
        return text;
    char line[512];
    while (fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon)
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(text, length, "%s", colon + 1 + (colon[1] == ' '));
        break;
    }
    fclose(file);
    return text;
}

const char *bench_describe_liburing(char *text, size_t length) {
#ifdef IO_URING_VERSION_MAJOR
    snprintf(text, length, "%d.%d", IO_URING_VERSION_MAJOR, IO_URING_VERSION_MINOR);
#else
    snprintf(text, length, "2.3 or older");  // the version macros came with 2.4
#endif
    return text;
}
