// The few things of the C library and the kernel that Swift cannot say.
#ifndef CIOCPSUPPORT_H
#define CIOCPSUPPORT_H
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>

// --- Thread-local storage: one word per thread, the owner registers a destructor once.

extern __thread void *iocp_tls_word __attribute__((tls_model("initial-exec")));

static inline void *iocp_tls_get(void) { return iocp_tls_word; }

/// Stores the calling thread's word. `destructor` runs with it when the thread ends, however it ends.
void iocp_tls_set(void *value, void (*destructor)(void *));

/// Makes the calling thread one that has no word yet; the old one is left alone. For the child of a fork.
void iocp_tls_forget(void);

// --- Forks. A child has a copy of everything and only the thread that forked. What it must not share with its parent is
// noted here, and made harmless in the child before fork() returns there.

/// What every lock looks at: together, and written only where a process begins.
struct iocp_process {
    uint32_t generation;
    uint32_t has_membarrier;
};
extern struct iocp_process iocp_process_words;

/// 1, and one more in the child of each fork: what was made under another number is the parent's.
static inline uint32_t iocp_generation(void) { return iocp_process_words.generation; }

struct iocp_memory {
    void *start;
    size_t length;
};
struct iocp_inherited;

/// A flag that a child is to find set.
struct iocp_inherited *iocp_inherit_flag(bool *flag);
/// A ring: a child finds empty memory of its own in place of the queues, and a descriptor that refuses everything.
struct iocp_inherited *iocp_inherit_ring(int fd, struct iocp_memory a, struct iocp_memory b, struct iocp_memory c);
/// It is about to go.
void iocp_inherit_no_more(struct iocp_inherited *noted);
/// What else a child has to do, after that.
void iocp_set_child_handler(void (*handler)(void));

// --- A seam for tests. In builds without IOCP_SEAM (debug builds have it) nothing here is ever looked at.

/// Where a thread of the library passes: `address` is that of the lock's word.
enum iocp_point {
    IOCP_BEFORE_LOCK = 0,
    IOCP_LOCKED = 1,
    IOCP_BEFORE_UNLOCK = 2,
    IOCP_AFTER_UNLOCK = 3,
};

/// What stands in for the system, in a process of the tests' own: functions as those of the same names below. All of
/// them, or none.
struct iocp_stand_in {
    void (*tls_set)(void *value, void (*destructor)(void *));
    int (*futex_wait)(const uint32_t *word, uint32_t expected, int64_t timeout_ns);
    int (*futex_wake)(const uint32_t *word, int count);
    int64_t (*now_ns)(void);
    bool (*membarrier)(void);
    void (*yield)(void);
    int (*gettid)(void);
    int64_t (*thread_time_ns)(int tid);
    char (*thread_state)(int tid);
    int (*epoll_create)(void);
    int (*epoll_set)(int epoll, bool add, int fd, bool armed, bool once, uint64_t identifier);
    int (*epoll_wait)(int epoll, uint64_t *identifiers, int capacity);
    int (*timer)(void);
    void (*timer_set)(int fd, int64_t deadline_ns);
    int (*eventfd)(void);
    void (*eventfd_signal)(int fd);
    void (*eventfd_clear)(int fd);
    int (*start_thread)(void (*body)(void));
    void (*point)(enum iocp_point point, const void *address);
};

/// Installs it, before anything else of the library is used and for good.
void iocp_install(const struct iocp_stand_in *stand_in);
/// Tells the stand-in where the thread is.
void iocp_pass(enum iocp_point point, const void *address);

// --- System calls that the library makes in this process, by its own count: those below and those noted. Entries into
// rings are not among them (each ring counts its own), nor is what makes and configures handles.

uint64_t iocp_system_calls(void);
void iocp_note_system_call(void);

// --- Futex on a 32-bit word, private to the process.

/// Sleeps while `*word == expected`. `timeout_ns < 0` waits for ever. Returns 0 or -errno.
int iocp_futex_wait(const uint32_t *word, uint32_t expected, int64_t timeout_ns);
/// Wakes up to `count` sleepers. Returns how many.
int iocp_futex_wake(const uint32_t *word, int count);

// --- Clocks and fences.

/// CLOCK_MONOTONIC in nanoseconds.
int64_t iocp_now_ns(void);
/// Something that grows by 1 to 6 for each nanosecond and is read faster than a clock, or 0 where there is nothing of the
/// kind, and where tests have a clock of their own.
uint64_t iocp_ticks(void);
/// Makes every running thread of the process pass the kernel once: a full fence in each. False where the kernel has no
/// such call.
bool iocp_membarrier(void);
/// Whether it has. Where it has not, those whom the fence would spare a fence of their own need it.
static inline bool iocp_has_membarrier(void) { return iocp_process_words.has_membarrier != 0; }
/// The process is another one: the kernel is to be asked again.
void iocp_membarrier_register(void);
/// Keeps the compiler from moving memory accesses across. The other half of `iocp_membarrier`.
static inline void iocp_compiler_fence(void) { __asm__ volatile("" ::: "memory"); }
/// Asks for a cache line before it is needed. The address need not be valid.
static inline void iocp_prefetch(const void *address) { __builtin_prefetch(address); }
/// Gives the processor away, for loops that wait for another thread's next few instructions.
void iocp_yield(void);
static inline void iocp_cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// --- Things that are macros or variadic in C.

int iocp_gettid(void);
/// Processor time that a thread of the process has used, in nanoseconds; -1 if there is no such thread.
int64_t iocp_thread_time_ns(int tid);
/// The letter of proc(5) for what a thread of the process does: R, S, D, T, t, Z, X, ...; 0 if it cannot be read.
char iocp_thread_state(int tid);
/// Processors the process may use: affinity mask, lowered by a cgroup CPU quota rounded up. At least 1.
int iocp_available_processors(void);
/// Sets SIGPIPE to ignored if it still has its default action. Returns whether it changed it.
bool iocp_ignore_sigpipe(void);
/// ioctl FIONREAD. Returns bytes, or -errno.
int iocp_bytes_readable(int fd);

// --- What the Glibc module of Swift leaves out. Functions return a result or -errno.

enum {
    IOCP_SPLICE_MOVE = 1,
    IOCP_SPLICE_MORE = 4,
    IOCP_FALLOCATE_KEEP_SIZE = 1,
    IOCP_RWF_APPEND = 0x10,
};

int iocp_epoll_create(void);
/// Adds or changes a descriptor; readable once if `armed`, else nothing.
int iocp_epoll_set(int epoll, bool add, int fd, bool armed, bool once, uint64_t identifier);
/// Waits until there are any, and writes the identifiers of ready descriptors. Returns how many.
int iocp_epoll_wait(int epoll, uint64_t *identifiers, int capacity);
/// A descriptor that is readable from a time on, on the clock of `iocp_now_ns`.
int iocp_timer(void);
/// It is not readable any more until then; 0: not at all.
void iocp_timer_set(int fd, int64_t deadline_ns);
/// A non-blocking eventfd.
int iocp_eventfd(void);
/// Returns false if the kernel refuses it again and again.
bool iocp_eventfd_signal(int fd);
void iocp_eventfd_clear(int fd);
/// Starts a detached thread that takes none of the process's signals. Returns 0 or an errno.
int iocp_start_thread(const char *name, void (*body)(void));
/// A pipe that is closed on exec.
int iocp_pipe(int ends[2]);
/// Asks for a pipe of that many bytes. Returns what it holds.
int iocp_set_pipe_capacity(int fd, int bytes);
/// Two connected Unix sockets of a type.
int iocp_socketpair(int type, int ends[2]);
int iocp_socket(int domain, int type, int protocol);
/// Puts `from` in the place of `to`, which is closed on exec.
int iocp_replace(int from, int to);
extern const int iocp_open_direct;
extern const int iocp_accept_cloexec;

// --- System calls that are no cancellation points (pthread_cancel(3)): a thread must not end in them, since it may hold
// locks and nothing of Swift's would let go of them. Functions return a result or -errno.

int iocp_close(int fd);
int iocp_read(int fd, void *bytes, size_t count);
int iocp_write(int fd, const void *bytes, size_t count);
/// Reads at an offset what lies in the page cache, without waiting for a device: -EAGAIN if it would have to. May be short.
int iocp_read_cached(int fd, void *bytes, size_t count, int64_t offset);
/// Whether the descriptor has one of the events now, or an error or an end.
bool iocp_is_ready(int fd, short events);

#endif
