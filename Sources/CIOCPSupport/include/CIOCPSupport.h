// The few things of the C library and the kernel that Swift cannot say.
#ifndef CIOCPSUPPORT_H
#define CIOCPSUPPORT_H
#include <stdint.h>
#include <stdbool.h>

// --- Thread-local storage: one word per thread, the owner registers a destructor once.

extern __thread void *iocp_tls_word __attribute__((tls_model("initial-exec")));

static inline void *iocp_tls_get(void) { return iocp_tls_word; }

/// Stores the calling thread's word. `destructor` runs with it when the thread ends, however it ends.
void iocp_tls_set(void *value, void (*destructor)(void *));

// --- Futex on a 32-bit word, private to the process.

/// Sleeps while `*word == expected`. `timeout_ns < 0` waits for ever. Returns 0 or -errno.
int iocp_futex_wait(const uint32_t *word, uint32_t expected, int64_t timeout_ns);
/// Wakes up to `count` sleepers. Returns how many.
int iocp_futex_wake(const uint32_t *word, int count);

// --- Clocks and fences.

/// CLOCK_MONOTONIC in nanoseconds.
int64_t iocp_now_ns(void);
/// Makes every running thread of the process pass the kernel once. False where the kernel has no such call.
bool iocp_membarrier(void);
static inline void iocp_cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// --- Things that are macros or variadic in C.

int iocp_gettid(void);
/// Processors the process may use: affinity mask, lowered by a cgroup CPU quota rounded up. At least 1.
int iocp_available_processors(void);
/// Sets SIGPIPE to ignored if it still has its default action. Returns whether it changed it.
bool iocp_ignore_sigpipe(void);
/// ioctl FIONREAD. Returns bytes, or -errno.
int iocp_bytes_readable(int fd);

#endif
