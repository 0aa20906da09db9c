// What Swift imports of liburing, and what older headers of it lack.
// Compiles against liburing 2.3 and newer; nothing here decides what the running kernel can do.
#ifndef SWIFT_IOCP_CLIBURING_SHIM_H
#define SWIFT_IOCP_CLIBURING_SHIM_H

// liburing.h defines _GNU_SOURCE, which changes fd_set; these two first keep one fd_set beside Swift's Glibc module.
#include <sys/select.h>
#include <sys/socket.h>
#include <liburing.h>

#endif
