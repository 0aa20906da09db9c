// A host in C++, as a program would bring it: what CLRHost is tested with.
#ifndef HOSTING_PEER_H
#define HOSTING_PEER_H

#include "iocp_hosting.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Bytes that it asks for behind each OVERLAPPED, and fills with 0x5A.
enum { hosting_peer_size = 24 };

/// With one reference.
IHostIoCompletionManager *hosting_peer_create(void);
/// How many there are.
int hosting_peer_alive(void);
/// What its methods return from now on instead of doing something; S_OK: they do it.
void hosting_peer_answer(IHostIoCompletionManager *host, HRESULT answer);
/// Calls of each slot from 3 to 13, as one text: "8 9 10 11".
const char *hosting_peer_calls(IHostIoCompletionManager *host);
/// Tells the runtime of a completion, on a thread of its own. Returns what OnComplete does.
HRESULT hosting_peer_complete(IHostIoCompletionManager *host, DWORD code, DWORD bytes, void *overlapped);
/// Asks the runtime's manager for its interfaces and counts its references. Returns the line of the first surprise, or 0.
int hosting_peer_examine_runtime(IHostIoCompletionManager *host);
/// Lets go of the runtime's manager. Returns what Release does.
ULONG hosting_peer_forget_runtime(IHostIoCompletionManager *host);

#ifdef __cplusplus
}
#endif

#endif
