#define _GNU_SOURCE
#include "CIOCPSupport.h"
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <fcntl.h>

struct iocp_process iocp_process_words = {.generation = 1};

enum { UNUSED, FILLING, NOTED };

// Never freed, used again: a fork may find the list at any moment, and its child has to walk it without a lock.
struct iocp_inherited {
    struct iocp_inherited *next; // constant once it is in the list
    int state;
    bool *flag;
    int fd;
    struct iocp_memory memory[3];
};

static struct iocp_inherited *first;
static void (*child_handler)(void);

static struct iocp_inherited *node(void)
{
    for (struct iocp_inherited *n = __atomic_load_n(&first, __ATOMIC_ACQUIRE); n; n = n->next) {
        int unused = UNUSED;
        if (__atomic_compare_exchange_n(&n->state, &unused, FILLING, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return n;
    }
    struct iocp_inherited *n = calloc(1, sizeof *n);
    if (!n)
        abort(); // as for any object of Swift's
    n->state = FILLING;
    n->next = __atomic_load_n(&first, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&first, &n->next, n, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
    return n;
}

struct iocp_inherited *iocp_inherit_flag(bool *flag)
{
    struct iocp_inherited *n = node();
    n->flag = flag;
    n->fd = -1;
    for (int i = 0; i < 3; i++)
        n->memory[i] = (struct iocp_memory){0};
    __atomic_store_n(&n->state, NOTED, __ATOMIC_RELEASE);
    return n;
}

struct iocp_inherited *iocp_inherit_ring(int fd, struct iocp_memory a, struct iocp_memory b, struct iocp_memory c)
{
    struct iocp_inherited *n = node();
    n->flag = NULL;
    n->fd = fd;
    n->memory[0] = a;
    n->memory[1] = b;
    n->memory[2] = c;
    __atomic_store_n(&n->state, NOTED, __ATOMIC_RELEASE);
    return n;
}

void iocp_inherit_no_more(struct iocp_inherited *n) { __atomic_store_n(&n->state, UNUSED, __ATOMIC_RELEASE); }

void iocp_set_child_handler(void (*handler)(void)) { __atomic_store_n(&child_handler, handler, __ATOMIC_RELEASE); }

// Something that no call on a ring accepts takes the descriptor's place, and keeps its number from being used again.
static void deaden(int fd, int *dead)
{
    if (*dead < 0) {
        close(fd); // one place is free now, if none was before
        *dead = eventfd(0, EFD_CLOEXEC);
    }
    if (*dead >= 0 && *dead != fd)
        dup3(*dead, fd, O_CLOEXEC);
}

// Runs in the child, in its only thread, before fork() returns there. No locks: their holders may be gone.
static void in_child(void)
{
    iocp_process_words.generation++;
    iocp_tls_forget();
    iocp_membarrier_register();
    int dead = -1;
    bool dead_is_in_use = false;
    for (struct iocp_inherited *n = __atomic_load_n(&first, __ATOMIC_ACQUIRE); n; n = n->next) {
        if (__atomic_load_n(&n->state, __ATOMIC_ACQUIRE) != NOTED)
            continue;
        if (n->flag)
            __atomic_store_n(n->flag, true, __ATOMIC_SEQ_CST);
        for (int i = 0; i < 3; i++) {
            // What is shared with the parent and the kernel becomes empty memory of the child's own.
            void *start = n->memory[i].start;
            size_t length = n->memory[i].length;
            if (!start)
                continue;
            void *own = mmap(start, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            if (own == MAP_FAILED)
                mprotect(start, length, PROT_NONE); // a crash of the child's rather than the parent's data
        }
        if (n->fd >= 0) {
            deaden(n->fd, &dead);
            if (dead == n->fd)
                dead_is_in_use = true;
        }
    }
    if (dead >= 0 && !dead_is_in_use)
        close(dead);
    void (*handler)(void) = __atomic_load_n(&child_handler, __ATOMIC_ACQUIRE);
    if (handler)
        handler();
}

// Before anything exists that a child could inherit.
__attribute__((constructor)) static void begin(void)
{
    iocp_membarrier_register();
    pthread_atfork(NULL, NULL, in_child);
}
