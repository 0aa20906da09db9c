// The processes of a benchmark run: starting them, telling them when to mark the window and when to end.
#ifndef BENCH_PROCESS_H
#define BENCH_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

// Starts this very executable again with `arguments` (NULL-terminated, without the program's name), its standard input
// and output on pipes, its standard error inherited. Returns the process or -errno.
pid_t bench_spawn(const char *const *arguments, int *input, int *output);

// The same with another program, which is looked for on the PATH.
pid_t bench_spawn_program(const char *program, const char *name, const char *const *arguments, int *input,
                          int *output);

// Bytes in pages that no other process has, or -errno.
int64_t bench_process_memory(pid_t process);
// Bytes of the kernel's slabs, of all processes, or -errno.
int64_t bench_kernel_memory(void);

// Waits for a process that `bench_spawn` started, at most until `deadline` (CLOCK_MONOTONIC), then kills it.
// Returns its exit status, 128 + signal, or -errno.
int bench_wait(pid_t process, uint64_t deadline);

// Reads what is there, waiting until `deadline` for the first byte. Returns bytes, 0 at the end, -ETIMEDOUT, or -errno.
ssize_t bench_read(int descriptor, void *bytes, size_t length, uint64_t deadline);

// Writes all. Returns 0 or -errno; a reader that is gone gives -EPIPE and no signal.
int bench_write(int descriptor, const void *bytes, size_t length);

// Blocks SIGTERM and SIGINT in the calling thread and those it starts later. Returns a descriptor that reads them.
int bench_signals_open(void);

enum bench_control_event {
    BENCH_CONTROL_MARK,  // a line came on standard input: report where you are
    BENCH_CONTROL_END,   // standard input was closed, or a signal came
};

// Waits for the next event of either kind.
enum bench_control_event bench_control_next(int signals);

// A descriptor that becomes readable for good at the first `bench_event_raise`. Returns it or -errno.
int bench_event_open(void);
void bench_event_raise(int event);

// What uname(2), the kernel's processor description and the linked liburing headers say. Each returns `text`.
const char *bench_describe_kernel(char *text, size_t length);
const char *bench_describe_processor(char *text, size_t length);
const char *bench_describe_liburing(char *text, size_t length);

#endif
