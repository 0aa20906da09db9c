// A runtime in C++ that was written against mscoree.h: drives a host of this library through its v-table.
// Prints a line for each check that fails, and ends with the number of checks; exits with 1 if one failed.
#include "iocp_hosting.h"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <initializer_list>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

extern "C" HRESULT c_caller(void *host);
extern "C" void __lsan_disable() __attribute__((weak));
extern "C" void __lsan_enable() __attribute__((weak));

static int checks, failures;
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        checks++;                                                                                                      \
        if (!(condition)) {                                                                                            \
            failures++;                                                                                                \
            std::printf("failed, line %d: %s\n", __LINE__, #condition);                                                \
        }                                                                                                              \
    } while (0)

/// The runtime's side. It is what a host calls from threads of its own.
class Runtime final : public ICLRIoCompletionManager {
    std::atomic<ULONG> references{1};

  public:
    HANDLE done = nullptr;
    std::atomic<int> completions{0};
    std::atomic<DWORD> error{0}, bytes{0};
    std::atomic<void *> overlapped{nullptr};
    std::atomic<HRESULT> answer{S_OK};

    ULONG count() const { return references; }

    HRESULT STDMETHODCALLTYPE QueryInterface(REFIID riid, void **object) override {
        if (!object) return E_POINTER;
        if (!std::memcmp(&riid, &IID_IUnknown, sizeof(IID)) ||
            !std::memcmp(&riid, &IID_ICLRIoCompletionManager, sizeof(IID))) {
            *object = this;
            AddRef();
            return S_OK;
        }
        *object = nullptr;
        return E_NOINTERFACE;
    }
    ULONG STDMETHODCALLTYPE AddRef() override { return ++references; }
    ULONG STDMETHODCALLTYPE Release() override { return --references; }

    HRESULT STDMETHODCALLTYPE OnComplete(DWORD code, DWORD count, void *pointer) override {
        error = code;
        bytes = count;
        overlapped = pointer;
        completions++;
        iocp_host_set_event(done);
        return answer;
    }

    /// Waits for the next completion.
    bool next(int number) {
        while (completions < number) {
            if (iocp_host_wait_event(done, 30000) != 0) return false;
        }
        return completions == number;
    }
};

/// An OVERLAPPED with the host's bytes behind it.
struct Block {
    OVERLAPPED *overlapped;
    explicit Block(DWORD size) : overlapped((OVERLAPPED *)std::calloc(1, sizeof(OVERLAPPED) + size)) {}
    ~Block() { std::free(overlapped); }
};

static void references(IHostIoCompletionManager *host) {
    // Identity: IUnknown is one address whichever way it is asked for; unknown interfaces are refused.
    IUnknown *unknown = nullptr, *again = nullptr;
    IHostIoCompletionManager *same = nullptr;
    void *other = (void *)1;
    CHECK(host->QueryInterface(IID_IUnknown, (void **)&unknown) == S_OK);
    CHECK(unknown->QueryInterface(IID_IHostIoCompletionManager, (void **)&same) == S_OK);
    CHECK(same->QueryInterface(IID_IUnknown, (void **)&again) == S_OK);
    CHECK(unknown == again && same == host);
    CHECK(host->QueryInterface(IID_ICLRIoCompletionManager, &other) == E_NOINTERFACE && other == nullptr);
    CHECK(host->QueryInterface(IID_IUnknown, nullptr) == E_POINTER);
    CHECK(host->AddRef() == 5);
    CHECK(host->Release() == 4);
    CHECK(unknown->Release() == 3 && same->Release() == 2 && again->Release() == 1);
}

/// Fills what a descriptor writes into, so that a write waits.
static void fill(int descriptor) {
    static char zeros[4096];
    int flags = fcntl(descriptor, F_GETFL);
    fcntl(descriptor, F_SETFL, flags | O_NONBLOCK);
    while (write(descriptor, zeros, sizeof zeros) > 0) {}
    while (write(descriptor, zeros, 1) > 0) {}
    fcntl(descriptor, F_SETFL, flags);
}

/// A start allocates nothing: neither a read, a write, a receive, a send nor an accept, with all that it looks up.
static void allocation(IHostIoCompletionManager *host, DWORD size, Runtime &runtime) {
    constexpr int rounds = 200, kinds = 5;
    struct Room {
        OVERLAPPED *overlapped;
        HANDLE target;
    };
    static Room rooms[kinds * rounds];
    static char byte[1];
    int empty[2], full[2], drained[2], stuffed[2], listening = socket(AF_INET, SOCK_STREAM, 0);
    int before = runtime.completions;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, empty) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, full) == 0);
    CHECK(pipe(drained) == 0 && pipe(stuffed) == 0 && listen(listening, 8) == 0);
    fill(full[0]);
    fill(stuffed[1]);
    HANDLE receiver = nullptr, sender = nullptr, reader = nullptr, writer = nullptr, listener = nullptr;
    CHECK(iocp_host_open(empty[0], &receiver) == 0 && iocp_host_open(full[0], &sender) == 0);
    CHECK(iocp_host_open(drained[0], &reader) == 0 && iocp_host_open(stuffed[1], &writer) == 0);
    CHECK(iocp_host_open(listening, &listener) == 0);
    HANDLE handles[] = {receiver, sender, reader, writer, listener};
    for (HANDLE handle : handles) CHECK(host->Bind(nullptr, handle) == S_OK);
    for (Room &room : rooms) {
        room.overlapped = (OVERLAPPED *)std::calloc(1, sizeof(OVERLAPPED) + size);
        CHECK(host->InitializeHostOverlapped(room.overlapped) == S_OK);
        if ((&room - rooms) % kinds == 4) {
            CHECK(iocp_host_open(socket(AF_INET, SOCK_STREAM, 0), &room.target) == 0);
        }
    }
    // The first ones make what the thread and the rings need once, and another thread may begin meanwhile. But in two
    // parts of three nothing is allocated.
    size_t used = 0;
    int clean = 0;
    bool pends = true;
    for (int round = 0; round <= rounds; round++) {
        if (round % 60 == 20) {
            size_t now = mallinfo2().uordblks;
            if (round > 20) clean += now == used;
            used = now;
        }
        if (round == rounds) break;
        Room *room = rooms + kinds * round;
        pends &= iocp_host_receive(receiver, byte, 1, room[0].overlapped) == 997;
        pends &= iocp_host_send(sender, byte, 1, room[1].overlapped) == 997;
        pends &= iocp_host_read(reader, byte, 1, room[2].overlapped) == 997;
        pends &= iocp_host_write(writer, byte, 1, room[3].overlapped) == 997;
        pends &= iocp_host_accept(listener, room[4].target, nullptr, 0, room[4].overlapped) == 997;
    }
    CHECK(pends);
    CHECK(clean >= 2);
    CHECK(runtime.completions == before);
    for (HANDLE handle : handles) CHECK(iocp_host_close(handle) == 0);
    CHECK(runtime.next(before + kinds * rounds));
    for (Room &room : rooms) {
        if (room.target) iocp_host_close(room.target);
        std::free(room.overlapped);
    }
    for (int descriptor : {empty[1], full[1], drained[1], stuffed[0]}) close(descriptor);
    runtime.completions = before;
}

/// What a start returns, and what is told: the end of a file, a warning, a pipe without a reader, a socket closed amid a
/// receive.
static void outcomes(IHostIoCompletionManager *host, DWORD size, Runtime &runtime) {
    int before = runtime.completions, count = before;
    Block block(size);
    char buffer[4];
    CHECK(host->InitializeHostOverlapped(block.overlapped) == S_OK);
    auto opened = [&](int descriptor) {
        HANDLE handle = nullptr;
        CHECK(iocp_host_open(descriptor, &handle) == 0 && host->Bind(nullptr, handle) == S_OK);
        return handle;
    };
    auto follows = [&](DWORD started, DWORD error, DWORD bytes) {
        CHECK(started == 0 || started == ERROR_IO_PENDING);
        CHECK(runtime.next(++count) && runtime.error == error && runtime.bytes == bytes);
    };

    HANDLE file = opened(memfd_create("outcomes", MFD_CLOEXEC));
    follows(iocp_host_write(file, "0123456789", 10, block.overlapped), 0, 10);
    block.overlapped->Offset = 8;
    follows(iocp_host_read(file, buffer, 4, block.overlapped), 0, 2);
    CHECK(!std::memcmp(buffer, "89", 2));
    block.overlapped->Offset = 10;
    follows(iocp_host_read(file, buffer, 4, block.overlapped), ERROR_HANDLE_EOF, 0);
    block.overlapped->Offset = block.overlapped->OffsetHigh = 0xFFFFFFFF;
    follows(iocp_host_write(file, "ab", 2, block.overlapped), 0, 2);
    block.overlapped->Offset = 9, block.overlapped->OffsetHigh = 0;
    follows(iocp_host_read(file, buffer, 4, block.overlapped), 0, 3);
    CHECK(!std::memcmp(buffer, "9ab", 3));
    CHECK(iocp_host_read(file, nullptr, 4, block.overlapped) == ERROR_NOACCESS);
    CHECK(iocp_host_read(file, buffer, 4, nullptr) == ERROR_INVALID_PARAMETER);
    CHECK(iocp_host_receive(file, buffer, 4, block.overlapped) == ERROR_INVALID_HANDLE);
    block.overlapped->Offset = 0;

    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0 && write(ends[1], "too long", 8) == 8);
    HANDLE datagrams = opened(ends[0]);
    follows(iocp_host_receive(datagrams, buffer, 4, block.overlapped), ERROR_MORE_DATA, 4);
    close(ends[1]);

    CHECK(pipe(ends) == 0);
    HANDLE writer = opened(ends[1]);
    close(ends[0]);
    CHECK(iocp_host_write(writer, "x", 1, block.overlapped) == ERROR_NO_DATA);

    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    HANDLE stream = opened(ends[0]);
    CHECK(iocp_host_receive(stream, buffer, 4, block.overlapped) == ERROR_IO_PENDING);
    CHECK(iocp_host_cancel(stream, nullptr) == 0);
    follows(ERROR_IO_PENDING, ERROR_OPERATION_ABORTED, 0);
    CHECK(iocp_host_cancel(stream, nullptr) == ERROR_NOT_FOUND);
    CHECK(iocp_host_receive(stream, buffer, 4, block.overlapped) == ERROR_IO_PENDING);
    CHECK(iocp_host_close(stream) == 0);
    follows(ERROR_IO_PENDING, ERROR_CONNECTION_ABORTED, 0);
    close(ends[1]);
    CHECK(iocp_host_receive(stream, buffer, 4, block.overlapped) == ERROR_INVALID_HANDLE);

    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    HANDLE peer = opened(ends[0]);
    close(ends[1]);
    follows(iocp_host_receive(peer, buffer, 4, block.overlapped), 0, 0);
    CHECK(runtime.completions == count);
    for (HANDLE handle : {file, datagrams, writer, peer}) CHECK(iocp_host_close(handle) == 0);
    runtime.completions = before;
}

/// A runtime that misbehaves, as it is told.
class Misbehaving final : public ICLRIoCompletionManager {
    std::atomic<ULONG> references{1};

  public:
    enum { nothing, throws, ends_thread, blocks };
    std::atomic<int> manner{nothing}, completions{0}, inside{0};
    std::atomic<bool> may_go_on{false};

    ULONG count() const { return references; }
    HRESULT STDMETHODCALLTYPE QueryInterface(REFIID, void **object) override {
        *object = nullptr;
        return E_NOINTERFACE;
    }
    ULONG STDMETHODCALLTYPE AddRef() override { return ++references; }
    ULONG STDMETHODCALLTYPE Release() override { return --references; }
    HRESULT STDMETHODCALLTYPE OnComplete(DWORD, DWORD, void *) override {
        inside++;
        int how = manner;
        if (how == blocks) {
            while (!may_go_on) pause();
        }
        completions++;
        if (how == throws) throw std::runtime_error("a runtime of C++");
        if (how == ends_thread) pthread_exit(nullptr);
        return S_OK;
    }

    static void pause() {
        timespec time{0, 1000000};
        nanosleep(&time, nullptr);
    }
    template <typename Condition> static bool until(Condition condition) {
        for (int rounds = 0; rounds < 30000; rounds++) {
            if (condition()) return true;
            pause();
        }
        return false;
    }
};

/// A pair of sockets whose near end is bound, and an operation on it.
struct Line {
    HANDLE near = nullptr;
    int far = -1;
    char buffer[8];
    Block block;

    Line(IHostIoCompletionManager *host, HANDLE port, DWORD size) : block(size) {
        int ends[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        far = ends[1];
        CHECK(iocp_host_open(ends[0], &near) == 0);
        CHECK(host->Bind(port, near) == S_OK);
        CHECK(host->InitializeHostOverlapped(block.overlapped) == S_OK);
    }
    ~Line() {
        close(far);
        iocp_host_close(near);
    }
    void receive() { CHECK(iocp_host_receive(near, buffer, 1, block.overlapped) == ERROR_IO_PENDING); }
    void complete() {
        receive();
        CHECK(write(far, "x", 1) == 1);
    }
};

/// Exceptions, threads that end and managers that block in OnComplete: others go on, and the causes of the HRESULTs.
static void misbehaviour() {
    iocp_host_options options{};
    options.max_threads = 4;
    options.close_milliseconds = 50;
    options.fixed_threads = 1;
    IHostIoCompletionManager *host = nullptr, *other = nullptr;
    Misbehaving runtime, second;
    DWORD size = 0, number = 0;
    CHECK(iocp_host_create(&options, &host) == S_OK && iocp_host_create(nullptr, &other) == S_OK);
    CHECK(host->GetHostOverlappedSize(&size) == S_OK);
    // What stands for this runtime in the host is lost with the threads that it ends.
    if (__lsan_disable) __lsan_disable();
    CHECK(host->SetCLRIoCompletionManager(&runtime) == S_OK);
    if (__lsan_enable) __lsan_enable();
    CHECK(other->SetCLRIoCompletionManager(&second) == S_OK);
    CHECK(host->SetMaxThreads(3) == E_NOTIMPL && host->SetMinThreads(1) == E_NOTIMPL);
    CHECK(host->GetMaxThreads(&number) == S_OK && number == 4);
    {
        Line first(host, nullptr, size), line(host, nullptr, size);
        int expected = 0;
        for (int how : {Misbehaving::throws, Misbehaving::ends_thread, Misbehaving::nothing}) {
            runtime.manner = how;
            for (int round = 0; round < 10; round++) {
                line.complete();
                expected++;
                CHECK(Misbehaving::until([&] { return runtime.completions == expected; }));
            }
            CHECK(host->GetMaxThreads(&number) == S_OK);
        }
        CHECK(Misbehaving::until([&] { return host->GetAvailableThreads(&number) == S_OK && number == 4; }));
        // One blocks, others go on.
        int before = runtime.inside;
        runtime.manner = Misbehaving::blocks;
        first.complete();
        CHECK(Misbehaving::until([&] { return runtime.inside == before + 1; }));
        runtime.manner = Misbehaving::nothing;
        line.complete();
        CHECK(Misbehaving::until([&] { return runtime.completions == expected + 1; }));
        CHECK(host->GetAvailableThreads(&number) == S_OK && number < 4);
        runtime.may_go_on = true;
        CHECK(Misbehaving::until([&] { return runtime.completions == expected + 2; }));
    }

    // A port of another host; one whose hand-over does not end in time.
    HANDLE port = nullptr, strange = nullptr;
    CHECK(host->CreateIoCompletionPort(&port) == S_OK && other->CreateIoCompletionPort(&strange) == S_OK);
    CHECK(host->CloseIoCompletionPort(strange) == HOST_E_NOT_OWNER);
    CHECK(host->Bind(strange, nullptr) == E_HANDLE);
    {
        Line line(host, port, size);
        CHECK(host->Bind(strange, line.near) == HOST_E_NOT_OWNER);
        runtime.may_go_on = false;
        runtime.manner = Misbehaving::blocks;
        int before = runtime.inside;
        line.complete();
        CHECK(Misbehaving::until([&] { return runtime.inside == before + 1; }));
        CHECK(host->CloseIoCompletionPort(port) == HOST_E_TIMEOUT);
        CHECK(host->CloseIoCompletionPort(port) == E_INVALIDARG);
        runtime.may_go_on = true;
        CHECK(Misbehaving::until([&] { return HasOverlappedIoCompleted(line.block.overlapped); }));
        CHECK(Misbehaving::until([&] { return host->GetAvailableThreads(&number) == S_OK && number == 4; }));
    }

    // The last reference goes while another thread waits for a port to close.
    {
        Line line(other, strange, size);
        second.manner = Misbehaving::blocks;
        line.complete();
        CHECK(Misbehaving::until([&] { return second.inside == 1; }));
        HRESULT result = S_OK;
        std::thread closer([&] { result = other->CloseIoCompletionPort(strange); });
        // The port is no port any more as soon as the close has begun.
        CHECK(Misbehaving::until([&] {
            int ends[2];
            HANDLE fresh = nullptr;
            if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || iocp_host_open(ends[0], &fresh)) return false;
            bool is_refused = other->Bind(strange, fresh) == E_INVALIDARG;
            iocp_host_close(fresh);
            close(ends[1]);
            return is_refused;
        }));
        CHECK(other->Release() == 0);
        closer.join();
        CHECK(result == HOST_E_ABANDONED);
        second.may_go_on = true;
        CHECK(Misbehaving::until([&] { return second.count() == 1; }));
        CHECK(second.completions == 1);
    }
    CHECK(host->Release() == 0);
    // References that an ended thread held are lost with it.
    CHECK(Misbehaving::until([&] { return runtime.completions == runtime.inside; }));
}

int main() {
    setvbuf(stdout, nullptr, _IONBF, 0);
    CHECK(sizeof(DWORD) == 4 && sizeof(HRESULT) == 4 && sizeof(ULONG) == 4);
    CHECK(sizeof(void *) != 8 || sizeof(OVERLAPPED) == 32);
    CHECK(iocp_host_create(nullptr, nullptr) == E_POINTER);
    iocp_host_options bad{}, options{};
    bad.min_threads = 9;
    bad.max_threads = 3;
    IHostIoCompletionManager *host = (IHostIoCompletionManager *)1;
    CHECK(iocp_host_create(&bad, &host) == E_INVALIDARG && host == nullptr);
    options.max_threads = 8;
    CHECK(iocp_host_create(&options, &host) == S_OK && host != nullptr);
    if (!host) return 1;
    references(host);

    Runtime runtime;
    CHECK(iocp_host_create_event(0, 0, &runtime.done) == 0);

    // The order: nothing but the size and the runtime before the runtime.
    DWORD number = 77, size = 0;
    HANDLE port = (HANDLE)1;
    CHECK(host->CreateIoCompletionPort(&port) == HOST_E_CLRNOTAVAILABLE && port == nullptr);
    CHECK(host->CloseIoCompletionPort((HANDLE)4) == HOST_E_CLRNOTAVAILABLE);
    CHECK(host->SetMaxThreads(4) == HOST_E_CLRNOTAVAILABLE && host->SetMinThreads(1) == HOST_E_CLRNOTAVAILABLE);
    CHECK(host->GetMaxThreads(&number) == HOST_E_CLRNOTAVAILABLE && number == 77);
    CHECK(host->GetAvailableThreads(&number) == HOST_E_CLRNOTAVAILABLE);
    CHECK(host->GetMinThreads(&number) == HOST_E_CLRNOTAVAILABLE);
    CHECK(host->InitializeHostOverlapped(&number) == HOST_E_CLRNOTAVAILABLE);
    CHECK(host->Bind(nullptr, (HANDLE)4) == HOST_E_CLRNOTAVAILABLE);
    CHECK(host->GetHostOverlappedSize(nullptr) == E_POINTER);
    CHECK(host->GetHostOverlappedSize(&size) == S_OK && size > 0 && size % 8 == 0);
    CHECK(host->SetCLRIoCompletionManager(nullptr) == E_INVALIDARG);
    CHECK(host->SetCLRIoCompletionManager(&runtime) == S_OK && runtime.count() == 2);
    CHECK(host->SetCLRIoCompletionManager(&runtime) == HOST_E_INVALIDOPERATION && runtime.count() == 2);

    // Threads.
    CHECK(host->GetMaxThreads(&number) == S_OK && number == 8);
    CHECK(host->GetAvailableThreads(&number) == S_OK && number == 8);
    CHECK(host->GetMinThreads(&number) == S_OK && number == 1);
    CHECK(host->SetMaxThreads(0) == E_INVALIDARG && host->SetMinThreads(9) == E_INVALIDARG);
    CHECK(host->SetMaxThreads(4) == S_OK && host->SetMinThreads(2) == S_OK && host->SetMaxThreads(1) == E_INVALIDARG);
    CHECK(host->GetMaxThreads(&number) == S_OK && number == 4);
    CHECK(host->GetMinThreads(&number) == S_OK && number == 2);
    CHECK(host->GetMaxThreads(nullptr) == E_POINTER && host->GetMinThreads(nullptr) == E_POINTER);
    CHECK(host->GetAvailableThreads(nullptr) == E_POINTER);
    CHECK(c_caller(host) == S_OK);

    // Ports and handles.
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    HANDLE near = nullptr, far = nullptr;
    CHECK(iocp_host_open(ends[0], &near) == 0 && iocp_host_open(ends[1], &far) == 0);
    CHECK(iocp_host_open(-1, &port) == 6 && port == nullptr);
    CHECK(host->CreateIoCompletionPort(nullptr) == E_POINTER);
    CHECK(host->CreateIoCompletionPort(&port) == S_OK && port != nullptr);
    CHECK(host->Bind((HANDLE)0x1234560, near) == E_INVALIDARG && host->Bind(near, near) == E_INVALIDARG);
    CHECK(host->Bind(port, (HANDLE)0x1234560) == E_HANDLE && host->Bind(port, nullptr) == E_HANDLE);
    CHECK(host->Bind(port, near) == S_OK);
    CHECK(host->Bind(port, near) == E_INVALIDARG && host->Bind(nullptr, near) == E_INVALIDARG);
    CHECK(host->Bind(nullptr, far) == S_OK);

    // An operation that has not been made ready is refused, and so is one in flight.
    Block block(size), second(size);
    char buffer[16] = {}, text[] = "hello";
    CHECK(iocp_host_receive(near, buffer, sizeof buffer, block.overlapped) == 87);
    CHECK(host->InitializeHostOverlapped(nullptr) == E_INVALIDARG);
    CHECK(host->InitializeHostOverlapped((char *)block.overlapped + 4) == E_INVALIDARG);
    CHECK(host->InitializeHostOverlapped(block.overlapped) == S_OK);
    CHECK(host->InitializeHostOverlapped(second.overlapped) == S_OK);
    CHECK(iocp_host_receive(near, buffer, sizeof buffer, block.overlapped) == 997);
    CHECK(block.overlapped->Internal == 0x103);
    CHECK(iocp_host_receive(near, buffer, sizeof buffer, block.overlapped) == 87);
    CHECK(host->InitializeHostOverlapped(block.overlapped) == E_INVALIDARG);

    // What is sent comes back as two completions: an immediate success has one as well.
    CHECK(iocp_host_send(far, text, 5, second.overlapped) == 0);
    CHECK(runtime.next(2));
    CHECK(block.overlapped->Internal == 0 && block.overlapped->InternalHigh == 5 && !std::memcmp(buffer, text, 5));
    CHECK(second.overlapped->Internal == 0 && second.overlapped->InternalHigh == 5);

    // Cancelled: a completion with 995.
    CHECK(iocp_host_receive(near, buffer, sizeof buffer, block.overlapped) == 997);
    CHECK(iocp_host_cancel(near, block.overlapped) == 0);
    CHECK(runtime.next(3) && runtime.error == 995 && runtime.bytes == 0 && runtime.overlapped == block.overlapped);
    CHECK(block.overlapped->Internal == 0xC0000120);
    CHECK(iocp_host_cancel(near, block.overlapped) == 1168);

    // The event's low bit: no completion, the event tells.
    HANDLE event = nullptr;
    CHECK(iocp_host_create_event(1, 1, &event) == 0);
    block.overlapped->hEvent = (HANDLE)((ULONG_PTR)event | 1);
    CHECK(iocp_host_receive(near, buffer, sizeof buffer, block.overlapped) == 997);
    CHECK(iocp_host_wait_event(event, 0) == 258);
    CHECK(iocp_host_send(far, text, 3, second.overlapped) == 0);
    CHECK(iocp_host_wait_event(event, 30000) == 0 && block.overlapped->InternalHigh == 3);
    CHECK(runtime.next(4) && runtime.overlapped == second.overlapped);
    block.overlapped->hEvent = (HANDLE)0x1234560;
    CHECK(iocp_host_receive(near, buffer, sizeof buffer, block.overlapped) == 6);
    block.overlapped->hEvent = nullptr;

    allocation(host, size, runtime);
    outcomes(host, size, runtime);

    // A port that is closed ends what is in flight on its handles before the call returns.
    CHECK(iocp_host_receive(near, buffer, sizeof buffer, block.overlapped) == 997);
    CHECK(host->CloseIoCompletionPort(port) == S_OK);
    CHECK(runtime.completions == 5 && runtime.error == 995 && runtime.overlapped == block.overlapped);
    CHECK(iocp_host_receive(near, buffer, sizeof buffer, block.overlapped) == 6);
    CHECK(host->CloseIoCompletionPort(port) == E_INVALIDARG && host->CloseIoCompletionPort(nullptr) == E_INVALIDARG);

    // A runtime that fails is believed.
    runtime.answer = E_FAIL;
    CHECK(iocp_host_send(far, text, 1, second.overlapped) == 0 && runtime.next(6));
    for (int rounds = 0; rounds < 3000 && host->GetMaxThreads(&number) == S_OK; rounds++) {
        timespec pause{0, 1000000};
        nanosleep(&pause, nullptr);
    }
    CHECK(host->GetMaxThreads(&number) == HOST_E_CLRNOTAVAILABLE);
    CHECK(host->CreateIoCompletionPort(&port) == HOST_E_CLRNOTAVAILABLE && port == nullptr);

    // The last reference ends the host, and with it the reference to the runtime, with an operation in flight.
    runtime.answer = S_OK;
    CHECK(iocp_host_receive(far, buffer, sizeof buffer, second.overlapped) == 997);
    CHECK(host->Release() == 0);
    CHECK(runtime.next(7) && runtime.error == 995);
    for (int rounds = 0; rounds < 30000 && runtime.count() > 1; rounds++) {
        timespec pause{0, 1000000};
        nanosleep(&pause, nullptr);
    }
    CHECK(runtime.count() == 1);
    CHECK(iocp_host_close(near) == 0 && iocp_host_close(far) == 0 && iocp_host_close(near) == 6);
    CHECK(iocp_host_close(event) == 0 && iocp_host_close(runtime.done) == 0);
    misbehaviour();
    std::printf("%d checks, %d failed\n", checks, failures);
    return failures != 0;
}
