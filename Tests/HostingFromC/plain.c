#include <iocp_hosting.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// The runtime's side: whom the host reports to. One for the whole process, so its references are not counted.
static HANDLE told;
static DWORD error, bytes;

static HRESULT query(ICLRIoCompletionManager *this, REFIID id, void **object) {
    if (!object) return E_POINTER;
    int mine = !memcmp(id, &IID_IUnknown, sizeof *id) || !memcmp(id, &IID_ICLRIoCompletionManager, sizeof *id);
    *object = mine ? this : NULL;
    return mine ? S_OK : E_NOINTERFACE;
}
static ULONG one(ICLRIoCompletionManager *this) { return (void)this, 1; }
static HRESULT on_complete(ICLRIoCompletionManager *this, DWORD code, DWORD count, void *overlapped) {
    (void)this, (void)overlapped;
    error = code, bytes = count;
    iocp_host_set_event(told);
    return S_OK;
}
static const ICLRIoCompletionManagerVtbl table = {query, one, one, on_complete};
static ICLRIoCompletionManager runtime = {&table};

#define DO(call)                                                                                                       \
    if ((call) != 0) return printf("failed: %s\n", #call), 1

int main(void) {
    IHostIoCompletionManager *host;
    HANDLE near, far;
    DWORD size, started;
    int ends[2];
    DO(iocp_host_create_event(0, 0, &told));
    DO(iocp_host_create(NULL, &host));
    DO(host->lpVtbl->GetHostOverlappedSize(host, &size));
    DO(host->lpVtbl->SetCLRIoCompletionManager(host, &runtime));

    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    DO(iocp_host_open(ends[0], &near)); // From here on the HANDLE closes it.
    DO(iocp_host_open(ends[1], &far));
    DO(host->lpVtbl->Bind(host, NULL, near)); // To the default port, which is made now, with the first thread.

    OVERLAPPED *overlapped = calloc(1, sizeof *overlapped + size);
    char buffer[16];
    if (!overlapped) return 1;
    DO(host->lpVtbl->InitializeHostOverlapped(host, overlapped)); // Once; then for one operation after the other.
    started = iocp_host_receive(near, buffer, sizeof buffer, overlapped);
    if (started != 0 && started != ERROR_IO_PENDING) return 1;
    if (write(ends[1], "hello", 5) != 5) return 1;
    DO(iocp_host_wait_event(told, INFINITE));
    printf("error %u, %u bytes: %.*s\n", error, bytes, (int)bytes, buffer);

    free(overlapped); // Nothing is in flight with it.
    DO(iocp_host_close(near));
    DO(iocp_host_close(far));
    host->lpVtbl->Release(host);
    return 0;
}
