#include "hosting_peer.h"

#include <atomic>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

namespace {

std::atomic<int> alive{0};

class Peer final : public IHostIoCompletionManager {
    std::atomic<ULONG> references{1};
    std::mutex mutex;
    DWORD maximum = 4, minimum = 1;
    int port = 0;

    ~Peer() {
        if (runtime) runtime->Release();
        alive--;
    }

    HRESULT note(int slot) {
        std::lock_guard<std::mutex> guard(mutex);
        if (!calls.empty()) calls += ' ';
        calls += std::to_string(slot);
        return answer;
    }

  public:
    std::string calls;
    std::atomic<HRESULT> answer{S_OK};
    ICLRIoCompletionManager *runtime = nullptr;

    Peer() { alive++; }

    HRESULT STDMETHODCALLTYPE QueryInterface(REFIID id, void **object) override {
        if (!object) return E_POINTER;
        *object = nullptr;
        if (std::memcmp(&id, &IID_IUnknown, sizeof id) && std::memcmp(&id, &IID_IHostIoCompletionManager, sizeof id))
            return E_NOINTERFACE;
        AddRef();
        *object = this;
        return S_OK;
    }
    ULONG STDMETHODCALLTYPE AddRef() override { return ++references; }
    ULONG STDMETHODCALLTYPE Release() override {
        ULONG left = --references;
        if (!left) delete this;
        return left;
    }

    HRESULT STDMETHODCALLTYPE CreateIoCompletionPort(HANDLE *made) override {
        HRESULT result = note(3);
        *made = FAILED(result) ? nullptr : &port;
        return result;
    }
    HRESULT STDMETHODCALLTYPE CloseIoCompletionPort(HANDLE closed) override {
        HRESULT result = note(4);
        return FAILED(result) || closed == &port ? result : E_INVALIDARG;
    }
    HRESULT STDMETHODCALLTYPE SetMaxThreads(DWORD count) override {
        maximum = count;
        return note(5);
    }
    HRESULT STDMETHODCALLTYPE GetMaxThreads(DWORD *count) override {
        *count = maximum;
        return note(6);
    }
    HRESULT STDMETHODCALLTYPE GetAvailableThreads(DWORD *count) override {
        *count = maximum - 1;
        return note(7);
    }
    HRESULT STDMETHODCALLTYPE GetHostOverlappedSize(DWORD *size) override {
        *size = hosting_peer_size;
        return note(8);
    }
    HRESULT STDMETHODCALLTYPE SetCLRIoCompletionManager(ICLRIoCompletionManager *manager) override {
        if (manager) manager->AddRef();
        runtime = manager;
        return note(9);
    }
    HRESULT STDMETHODCALLTYPE InitializeHostOverlapped(void *overlapped) override {
        HRESULT result = note(10);
        if (SUCCEEDED(result)) std::memset(static_cast<OVERLAPPED *>(overlapped) + 1, 0x5A, hosting_peer_size);
        return result;
    }
    HRESULT STDMETHODCALLTYPE Bind(HANDLE to, HANDLE handle) override {
        HRESULT result = note(11);
        if (FAILED(result)) return result;
        // Any HANDLE of this library is known to its functions.
        return (!to || to == &port) && iocp_host_cancel(handle, nullptr) != ERROR_INVALID_HANDLE ? S_OK : E_HANDLE;
    }
    HRESULT STDMETHODCALLTYPE SetMinThreads(DWORD count) override {
        minimum = count;
        return note(12);
    }
    HRESULT STDMETHODCALLTYPE GetMinThreads(DWORD *count) override {
        *count = minimum;
        return note(13);
    }
};

Peer *peer(IHostIoCompletionManager *host) { return static_cast<Peer *>(host); }

} // namespace

IHostIoCompletionManager *hosting_peer_create() { return new Peer; }
int hosting_peer_alive() { return alive; }
void hosting_peer_answer(IHostIoCompletionManager *host, HRESULT answer) { peer(host)->answer = answer; }
const char *hosting_peer_calls(IHostIoCompletionManager *host) { return peer(host)->calls.c_str(); }

HRESULT hosting_peer_complete(IHostIoCompletionManager *host, DWORD code, DWORD bytes, void *overlapped) {
    HRESULT result = E_UNEXPECTED;
    std::thread([&] { result = peer(host)->runtime->OnComplete(code, bytes, overlapped); }).join();
    return result;
}

int hosting_peer_examine_runtime(IHostIoCompletionManager *host) {
#define EXPECT(condition)                                                                                              \
    if (!(condition)) return __LINE__
    ICLRIoCompletionManager *runtime = peer(host)->runtime, *same = nullptr;
    IUnknown *unknown = nullptr, *again = nullptr;
    void *other = host;
    ULONG count = runtime->AddRef();
    EXPECT(runtime->AddRef() == count + 1 && runtime->Release() == count);
    EXPECT(runtime->QueryInterface(IID_IUnknown, reinterpret_cast<void **>(&unknown)) == S_OK);
    EXPECT(unknown->QueryInterface(IID_ICLRIoCompletionManager, reinterpret_cast<void **>(&same)) == S_OK);
    EXPECT(same->QueryInterface(IID_IUnknown, reinterpret_cast<void **>(&again)) == S_OK);
    EXPECT(same == runtime && unknown == again);
    EXPECT(runtime->QueryInterface(IID_IHostIoCompletionManager, &other) == E_NOINTERFACE && !other);
    EXPECT(runtime->QueryInterface(IID_IUnknown, nullptr) == E_POINTER);
    EXPECT(unknown->Release() == count + 2 && same->Release() == count + 1 && again->Release() == count);
    EXPECT(runtime->OnComplete(0, 0, nullptr) == E_INVALIDARG);
    EXPECT(runtime->Release() == count - 1);
    // Many threads at once.
    std::thread threads[4];
    for (std::thread &thread : threads) {
        thread = std::thread([&] {
            for (int round = 0; round < 20000; round++) {
                void *object = nullptr;
                runtime->QueryInterface(IID_IUnknown, &object);
                runtime->AddRef();
                runtime->Release();
                runtime->Release();
            }
        });
    }
    for (std::thread &thread : threads) thread.join();
    EXPECT(runtime->AddRef() == count && runtime->Release() == count - 1);
    return 0;
#undef EXPECT
}

ULONG hosting_peer_forget_runtime(IHostIoCompletionManager *host) {
    ICLRIoCompletionManager *runtime = peer(host)->runtime;
    peer(host)->runtime = nullptr;
    return runtime->Release();
}
