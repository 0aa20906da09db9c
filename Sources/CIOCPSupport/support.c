#define _GNU_SOURCE
#include "CIOCPSupport.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

// In builds with the seam a call goes to the stand-in of the same name, if there is one.
#ifdef IOCP_SEAM
static const struct iocp_stand_in *stand_in;
void iocp_install(const struct iocp_stand_in *other) { stand_in = other; }
void iocp_pass(enum iocp_point point, const void *address)
{
    if (stand_in)
        stand_in->point(point, address);
}
#define SEAM(call)            \
    do {                      \
        if (stand_in)         \
            return stand_in->call; \
    } while (0)
#define SEAM_VOID(call)       \
    do {                      \
        if (stand_in) {       \
            stand_in->call;   \
            return;           \
        }                     \
    } while (0)
#else
#define SEAM(call)
#define SEAM_VOID(call)
#endif

__thread void *iocp_tls_word __attribute__((tls_model("initial-exec")));

static pthread_key_t tls_key;
static pthread_once_t tls_once = PTHREAD_ONCE_INIT;
static void (*tls_destructor)(void *);

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#define UNPOISON_STACK_BELOW(address) __asan_unpoison_memory_region((char *)(address) - 65536, 65536)
#endif
#endif
#ifndef UNPOISON_STACK_BELOW
#define UNPOISON_STACK_BELOW(address) ((void)(address))
#endif

static void tls_end(void *value)
{
    // A cancelled thread has left frames without leaving their functions, and the sanitizer still guards what was theirs.
    UNPOISON_STACK_BELOW(__builtin_frame_address(0));
    void (*destructor)(void *) = __atomic_load_n(&tls_destructor, __ATOMIC_ACQUIRE);
    iocp_tls_word = NULL;
    if (destructor)
        destructor(value);
}

static void tls_init(void)
{
    // The key exists only for its destructor; reads go through the __thread word.
    if (pthread_key_create(&tls_key, tls_end) != 0)
        abort(); // PTHREAD_KEYS_MAX (1024) keys in use: no thread could ever be cleaned up after.
}

void iocp_tls_set(void *value, void (*destructor)(void *))
{
    SEAM_VOID(tls_set(value, destructor));
    __atomic_store_n(&tls_destructor, destructor, __ATOMIC_RELEASE);
    pthread_once(&tls_once, tls_init);
    iocp_tls_word = value;
    pthread_setspecific(tls_key, value);
}

void iocp_tls_forget(void)
{
    static void *forgotten; // it is not freed: code that has it is on the stack perhaps
    if (!iocp_tls_word)
        return;
    forgotten = iocp_tls_word;
    (void)forgotten;
    iocp_tls_word = NULL;
    pthread_setspecific(tls_key, NULL);
}

// On a line of its own: whoever counts has just entered the kernel, or is about to.
static struct {
    _Alignas(64) uint64_t count;
} calls;

static inline void count_call(void) { __atomic_fetch_add(&calls.count, 1, __ATOMIC_RELAXED); }

uint64_t iocp_system_calls(void) { return __atomic_load_n(&calls.count, __ATOMIC_RELAXED); }
void iocp_note_system_call(void) { count_call(); }

int iocp_futex_wait(const uint32_t *word, uint32_t expected, int64_t timeout_ns)
{
    SEAM(futex_wait(word, expected, timeout_ns));
    struct timespec ts, *tp = NULL;
    if (timeout_ns >= 0) {
        ts.tv_sec = timeout_ns / 1000000000;
        ts.tv_nsec = timeout_ns % 1000000000;
        tp = &ts;
    }
    count_call();
    long rc = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, tp, NULL, 0);
    return rc < 0 ? -errno : 0;
}

int iocp_futex_wake(const uint32_t *word, int count)
{
    SEAM(futex_wake(word, count));
    long rc;
    int attempts = 0;
    // No kernel interrupts it; what stands between us and the kernel may.
    do {
        count_call();
        rc = syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
    } while (rc < 0 && (errno == EINTR || errno == EAGAIN) && ++attempts < 100);
    return rc < 0 ? -errno : (int)rc;
}

int64_t iocp_now_ns(void)
{
    SEAM(now_ns());
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

uint64_t iocp_ticks(void)
{
#if defined(__x86_64__) && !defined(IOCP_SEAM)
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

bool iocp_membarrier(void)
{
    SEAM(membarrier());
    if (!iocp_has_membarrier())
        return false;
    count_call();
    return syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0;
}

void iocp_membarrier_register(void)
{
    iocp_process_words.has_membarrier =
        syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

void iocp_yield(void)
{
    SEAM_VOID(yield());
    count_call();
    sched_yield();
}

int iocp_gettid(void)
{
    SEAM(gettid());
    return (int)syscall(SYS_gettid);
}

int64_t iocp_thread_time_ns(int tid)
{
    SEAM(thread_time_ns(tid));
    struct timespec ts;
    // How the kernel numbers the clock of a thread: clock_getcpuclockid(3) makes the same of a process.
    clockid_t clock = (clockid_t)(~(unsigned)tid << 3 | 6);
    count_call();
    if (clock_gettime(clock, &ts) != 0)
        return -1;
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

char iocp_thread_state(int tid)
{
    SEAM(thread_state(tid));
    char path[48], text[128];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    count_call();
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    int length = iocp_read(fd, text, sizeof text - 1);
    iocp_close(fd);
    if (length <= 0)
        return 0;
    text[length] = 0;
    // The name in parentheses, at most 15 bytes, may hold any character.
    const char *end = strrchr(text, ')');
    return end && end[1] == ' ' ? end[2] : 0;
}

// The CPU quota of a cgroup v2 file ("MAX PERIOD"), rounded up to whole processors; INT_MAX if there is none.
static int quota_v2(const char *path)
{
    char text[64];
    long quota, period;
    FILE *f = fopen(path, "re");
    int result = INT_MAX;
    if (!f)
        return result;
    if (fgets(text, sizeof text, f) && sscanf(text, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0)
        result = (int)((quota + period - 1) / period);
    fclose(f);
    return result;
}

static int quota_v1(void)
{
    long quota = -1, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "re");
    if (f) {
        if (fscanf(f, "%ld", &quota) != 1)
            quota = -1;
        fclose(f);
    }
    f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "re");
    if (f) {
        if (fscanf(f, "%ld", &period) != 1)
            period = 0;
        fclose(f);
    }
    return quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : INT_MAX;
}

// The tightest quota from the process's own cgroup up to the root that it can see.
static int quota_of_process(void)
{
    char line[PATH_MAX], path[PATH_MAX + 64];
    int best = INT_MAX;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (f) {
        while (fgets(line, sizeof line, f)) {
            if (strncmp(line, "0::", 3) != 0)
                continue;
            char *group = line + 3;
            group[strcspn(group, "\n")] = 0;
            for (;;) {
                snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", strcmp(group, "/") == 0 ? "" : group);
                int here = quota_v2(path);
                if (here < best)
                    best = here;
                char *slash = strrchr(group, '/');
                if (!slash || slash == group)
                    break;
                *slash = 0;
            }
        }
        fclose(f);
    }
    int root = quota_v2("/sys/fs/cgroup/cpu.max");
    if (root < best)
        best = root;
    int old = quota_v1();
    return old < best ? old : best;
}

int iocp_available_processors(void)
{
    int count = 0;
    // A mask of 1,024 processors is too small for some machines: grow until the kernel is content.
    for (int bits = 1024; bits <= 1 << 20 && count == 0; bits *= 2) {
        cpu_set_t *set = CPU_ALLOC(bits);
        if (!set)
            break;
        if (sched_getaffinity(0, CPU_ALLOC_SIZE(bits), set) == 0)
            count = CPU_COUNT_S(CPU_ALLOC_SIZE(bits), set);
        CPU_FREE(set);
    }
    if (count <= 0)
        count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    int quota = quota_of_process();
    if (quota < count)
        count = quota;
    return count < 1 ? 1 : count;
}

bool iocp_ignore_sigpipe(void)
{
    struct sigaction now;
    if (sigaction(SIGPIPE, NULL, &now) != 0 || now.sa_handler != SIG_DFL)
        return false;
    now.sa_handler = SIG_IGN;
    return sigaction(SIGPIPE, &now, NULL) == 0;
}

int iocp_bytes_readable(int fd)
{
    int n = 0;
    return ioctl(fd, FIONREAD, &n) < 0 ? -errno : n;
}

static int result(int rc) { return rc < 0 ? -errno : rc; }

int iocp_close(int fd)
{
    count_call();
    return result((int)syscall(SYS_close, fd));
}

int iocp_read(int fd, void *bytes, size_t count)
{
    count_call();
    return result((int)syscall(SYS_read, fd, bytes, count));
}

int iocp_write(int fd, const void *bytes, size_t count)
{
    count_call();
    return result((int)syscall(SYS_write, fd, bytes, count));
}

int iocp_read_cached(int fd, void *bytes, size_t count, int64_t offset)
{
#ifdef IOCP_SEAM
    // There are no files behind the descriptors of a simulation.
    if (stand_in)
        return -EOPNOTSUPP;
#endif
    struct iovec part = {.iov_base = bytes, .iov_len = count};
    count_call();
    // The offset is two words, of which only 32-bit machines use the second.
    return result((int)syscall(SYS_preadv2, fd, &part, 1UL, (unsigned long)offset,
                               (unsigned long)((uint64_t)offset >> 16 >> 16), RWF_NOWAIT));
}

bool iocp_is_ready(int fd, short events)
{
    struct pollfd interest = {.fd = fd, .events = events};
    struct timespec now = {0, 0};
    count_call();
    return syscall(SYS_ppoll, &interest, 1, &now, NULL, 0) != 0;
}

int iocp_epoll_create(void)
{
    SEAM(epoll_create());
    return result(epoll_create1(EPOLL_CLOEXEC));
}

int iocp_epoll_set(int epoll, bool add, int fd, bool armed, bool once, uint64_t identifier)
{
    SEAM(epoll_set(epoll, add, fd, armed, once, identifier));
    count_call();
    struct epoll_event event = {.events = (armed ? EPOLLIN : 0) | (once ? EPOLLONESHOT : 0)};
    event.data.u64 = identifier;
    return result(epoll_ctl(epoll, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event));
}

int iocp_epoll_wait(int epoll, uint64_t *identifiers, int capacity)
{
    SEAM(epoll_wait(epoll, identifiers, capacity));
    struct epoll_event events[16];
    count_call();
    int count = result(epoll_wait(epoll, events, capacity < 16 ? capacity : 16, -1));
    for (int i = 0; i < count; i++)
        identifiers[i] = events[i].data.u64;
    return count;
}

int iocp_timer(void)
{
    SEAM(timer());
    return result(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
}

void iocp_timer_set(int fd, int64_t deadline_ns)
{
    SEAM_VOID(timer_set(fd, deadline_ns));
    count_call();
    struct itimerspec when = {.it_value = {.tv_sec = deadline_ns / 1000000000, .tv_nsec = deadline_ns % 1000000000}};
    // It refuses times that are none and descriptors that are no timers: neither is handed to it.
    timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, NULL);
}

int iocp_eventfd(void)
{
    SEAM(eventfd());
    return result(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

bool iocp_eventfd_signal(int fd)
{
#ifdef IOCP_SEAM
    if (stand_in) {
        stand_in->eventfd_signal(fd);
        return true;
    }
#endif
    uint64_t one = 1;
    // No kernel refuses it before 2^64 - 2 signals; what stands between us and the kernel may.
    for (int attempt = 0; attempt < 100; attempt++)
        if (iocp_write(fd, &one, sizeof one) == sizeof one)
            return true;
    return false;
}

void iocp_eventfd_clear(int fd)
{
    SEAM_VOID(eventfd_clear(fd));
    uint64_t value;
    iocp_read(fd, &value, sizeof value); // fails only if it is clear
}

static void *run_thread(void *body)
{
    ((void (*)(void))body)();
    return NULL;
}

int iocp_start_thread(const char *name, void (*body)(void))
{
    SEAM(start_thread(body));
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&thread, NULL, run_thread, (void *)body);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code == 0) {
        pthread_setname_np(thread, name);
        pthread_detach(thread);
    }
    return code;
}

int iocp_pipe(int ends[2]) { return result(pipe2(ends, O_CLOEXEC)); }

int iocp_set_pipe_capacity(int fd, int bytes)
{
    fcntl(fd, F_SETPIPE_SZ, bytes); // refused where the user's pipe pages are used up: the default serves
    return result(fcntl(fd, F_GETPIPE_SZ));
}

int iocp_socketpair(int type, int ends[2]) { return result(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends)); }
int iocp_socket(int domain, int type, int protocol) { return result(socket(domain, type | SOCK_CLOEXEC, protocol)); }
int iocp_replace(int from, int to) { return result(dup3(from, to, O_CLOEXEC)); }

const int iocp_open_direct = O_DIRECT;
const int iocp_accept_cloexec = SOCK_CLOEXEC;
