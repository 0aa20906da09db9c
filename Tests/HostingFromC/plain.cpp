#include <iocp_hosting.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/socket.h>

/// The runtime's side: whom the host reports to.
class Runtime final : public ICLRIoCompletionManager {
    std::atomic<ULONG> references{1};

  public:
    HANDLE told = nullptr, released = nullptr;
    DWORD error = 0, bytes = 0;

    STDMETHODIMP QueryInterface(REFIID id, void **object) override {
        if (!object) return E_POINTER;
        bool mine = !std::memcmp(&id, &IID_IUnknown, sizeof id) ||
                    !std::memcmp(&id, &IID_ICLRIoCompletionManager, sizeof id);
        *object = mine ? this : nullptr;
        if (mine) AddRef();
        return mine ? S_OK : E_NOINTERFACE;
    }
    STDMETHODIMP_(ULONG) AddRef() override { return ++references; }
    STDMETHODIMP_(ULONG) Release() override {
        ULONG left = --references;
        if (left == 1) iocp_host_set_event(released); // By the host, when it is done with everything.
        return left;
    }
    STDMETHODIMP OnComplete(DWORD code, DWORD count, void *) override {
        error = code;
        bytes = count;
        iocp_host_set_event(told);
        return S_OK;
    }
};

static void check(bool succeeded, const char *what) {
    if (!succeeded) {
        std::printf("failed: %s\n", what);
        std::exit(1);
    }
}
#define DO(call) check((call) == 0, #call)

int main() {
    Runtime runtime;
    IHostIoCompletionManager *host = nullptr;
    HANDLE near = nullptr, far = nullptr;
    DWORD size = 0;
    int ends[2];
    DO(iocp_host_create_event(0, 0, &runtime.told));
    DO(iocp_host_create_event(1, 0, &runtime.released));
    DO(iocp_host_create(nullptr, &host));
    DO(host->GetHostOverlappedSize(&size));
    DO(host->SetCLRIoCompletionManager(&runtime));
    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    DO(iocp_host_open(ends[0], &near));
    DO(iocp_host_open(ends[1], &far));
    DO(host->Bind(nullptr, near));

    auto *overlapped = static_cast<OVERLAPPED *>(std::calloc(1, sizeof(OVERLAPPED) + size));
    char buffer[16];
    DO(host->InitializeHostOverlapped(overlapped));
    check(iocp_host_receive(near, buffer, sizeof buffer, overlapped) == ERROR_IO_PENDING, "receive");

    host->Release(); // Ends the host: what is in flight is cancelled, and handed over.
    DO(iocp_host_wait_event(runtime.released, INFINITE));
    std::printf("error %u, %u bytes, completed: %d\n", runtime.error, runtime.bytes,
        HasOverlappedIoCompleted(overlapped));
    std::free(overlapped);
    DO(iocp_host_close(near));
    DO(iocp_host_close(far));
    return 0;
}
