// What the Swift side of the hosting face needs of C and C++. Not for users.
#ifndef IOCP_HOSTING_SUPPORT_H
#define IOCP_HOSTING_SUPPORT_H

#include <stdint.h>

/// Starts a detached thread that takes none of the process's signals, and is not cancelled. Returns 0 or an errno.
///
/// `ended` is called on it last, also if `body` has ended the thread by pthread_exit.
int iocp_hosting_start_thread(void (*body)(void *), void (*ended)(void *), void *argument);
/// Names the calling thread; at most 15 bytes.
void iocp_hosting_name_thread(const char *name);
/// Calls an ICLRIoCompletionManager. An exception becomes E_UNEXPECTED.
int32_t iocp_hosting_on_complete(void *manager, uint32_t code, uint32_t bytes, void *overlapped);

#endif
