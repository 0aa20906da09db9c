#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "iocp_hosting.h"
#include "iocp_hosting_support.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

// Weak: programs that were written for Windows bring definitions of their own.
__attribute__((weak)) const IID IID_IUnknown = {
    0x00000000, 0x0000, 0x0000, {0xC0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x46}};
__attribute__((weak)) const IID IID_IHostIoCompletionManager = {
    0x8BDE9D80, 0xEC06, 0x41D6, {0x83, 0xE6, 0x22, 0x58, 0x0E, 0xFF, 0xCC, 0x20}};
__attribute__((weak)) const IID IID_ICLRIoCompletionManager = {
    0x2D74CE86, 0xB8D6, 0x4C84, {0xB3, 0xA7, 0x97, 0x68, 0x93, 0x3B, 0x3C, 0x12}};

struct start {
    void (*body)(void *);
    void (*ended)(void *);
    void *argument;
};

static void *run(void *pointer) {
    struct start start = *(struct start *)pointer;
    free(pointer);
    // Cancelled amid the port's own work it would leave locks behind. pthread_exit comes from the runtime only.
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_cleanup_push(start.ended, start.argument);
    start.body(start.argument);
    pthread_cleanup_pop(1);
    return NULL;
}

int iocp_hosting_start_thread(void (*body)(void *), void (*ended)(void *), void *argument) {
    struct start *start = malloc(sizeof *start);
    if (!start) return ENOMEM;
    *start = (struct start){body, ended, argument};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigset_t all, before;
    sigfillset(&all);
    // Faults of the thread's own are reported as always.
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
    for (unsigned index = 0; index < sizeof own / sizeof *own; index++) sigdelset(&all, own[index]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    int result = pthread_create(&thread, &attributes, run, start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (result) free(start);
    return result;
}

void iocp_hosting_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }
