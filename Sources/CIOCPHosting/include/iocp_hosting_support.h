// What the Swift side of the hosting face needs of C. Not for users.
#ifndef IOCP_HOSTING_SUPPORT_H
#define IOCP_HOSTING_SUPPORT_H

/// Starts a detached thread that takes none of the process's signals. Returns 0 or an errno.
int iocp_hosting_start_thread(void (*body)(void *), void *argument);
/// Names the calling thread; at most 15 bytes.
void iocp_hosting_name_thread(const char *name);

#endif
