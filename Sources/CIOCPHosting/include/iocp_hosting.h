// The I/O completion interfaces of CLR hosting, for C and C++ code that was written against mscoree.h: the same names,
// the same slots in the v-tables, the same identifiers. C99 and later, C++11 and later, on Linux.
//
// A program in a dozen calls; the article "Hosting from C and C++" of IOCPHosting's documentation has all of it:
//
//     iocp_host_create(NULL, &host);                              // a host, with one reference
//     host->GetHostOverlappedSize(&size);                         // bytes behind each OVERLAPPED
//     host->SetCLRIoCompletionManager(&runtime);                  // yours: its OnComplete is called
//     iocp_host_open(descriptor, &handle);                        // a HANDLE for a file, socket or pipe
//     host->Bind(NULL, handle);                                   // to the host's default port
//     overlapped = calloc(1, sizeof(OVERLAPPED) + size);
//     host->InitializeHostOverlapped(overlapped);                 // once
//     iocp_host_receive(handle, buffer, length, overlapped);      // 0 or ERROR_IO_PENDING: a completion follows
//     ... OnComplete(0 or the error, bytes, overlapped) on a thread of the host's ...
//     iocp_host_close(handle);  host->Release();
//
// Build: a target of a Swift package that depends on the product IOCPHosting has this header and links by itself.
// Without Swift, link the library that `make hosting` makes: cc program.c -I…/include -L…/lib -liocp_hosting.
//
// Types have their Windows sizes: DWORD, ULONG and HRESULT 32 bits, a HANDLE those of a pointer. The calling convention
// is the platform's own; STDMETHODCALLTYPE is empty. No exception may leave a method.
//
// Every function and method may be called from any thread, from OnComplete too.
#ifndef IOCP_HOSTING_H
#define IOCP_HOSTING_H

#include <stddef.h>
#include <stdint.h>

// --- Types. Leave them out with IOCP_HOSTING_NO_WINDOWS_TYPES if another header has them; they are checked below.

#ifndef STDMETHODCALLTYPE
#define STDMETHODCALLTYPE
#endif

#ifndef IOCP_HOSTING_NO_WINDOWS_TYPES
typedef int32_t HRESULT;
typedef int32_t BOOL;
typedef uint32_t DWORD;
typedef uint32_t ULONG;
typedef uintptr_t ULONG_PTR;
typedef void *HANDLE;

typedef struct _GUID {
    uint32_t Data1;
    uint16_t Data2;
    uint16_t Data3;
    uint8_t Data4[8];
} GUID;
typedef GUID IID;

/// 32 bytes on a 64-bit system, 20 on a 32-bit one. The host's bytes follow it.
///
/// It lies at a multiple of 8 bytes, as all memory from malloc does, and is the caller's: he allocates it, keeps it where
/// it is while an operation is in flight, and frees it after the completion, without a word to the host.
typedef struct _OVERLAPPED {
    /// The NTSTATUS: STATUS_PENDING from the start to the end, 0 for success. Read it with HasOverlappedIoCompleted.
    ULONG_PTR Internal;
    /// Bytes transferred.
    ULONG_PTR InternalHigh;
    /// Where in a file to read or write. Both halves all ones: a write appends. Sockets and pipes ignore it.
    __extension__ union {
        __extension__ struct {
            DWORD Offset;
            DWORD OffsetHigh;
        };
        void *Pointer;
    };
    /// An event of iocp_host_create_event, or NULL: reset at the start, set at the end. With its low bit set,
    /// (HANDLE)((ULONG_PTR)event | 1), no completion is handed over, and the event alone tells.
    HANDLE hEvent;
} OVERLAPPED, *LPOVERLAPPED;

#ifdef __cplusplus
#define REFIID const IID &
#define EXTERN_C extern "C"
#else
#define REFIID const IID *
#define EXTERN_C extern
#endif
#define STDMETHOD(method) virtual HRESULT STDMETHODCALLTYPE method
#define STDMETHOD_(type, method) virtual type STDMETHODCALLTYPE method
#define STDMETHODIMP HRESULT STDMETHODCALLTYPE
#define STDMETHODIMP_(type) type STDMETHODCALLTYPE
#endif

#if defined(__cplusplus)
#define IOCP_HOSTING_ASSERT(condition) static_assert(condition, #condition)
#elif __STDC_VERSION__ >= 201112L
#define IOCP_HOSTING_ASSERT(condition) _Static_assert(condition, #condition)
#else
#define IOCP_HOSTING_ASSERT(condition) extern int iocp_hosting_assert[(condition) ? 1 : -1]
#endif
IOCP_HOSTING_ASSERT(sizeof(HRESULT) == 4 && sizeof(BOOL) == 4 && sizeof(DWORD) == 4 && sizeof(ULONG) == 4);
IOCP_HOSTING_ASSERT(sizeof(HANDLE) == sizeof(void *) && sizeof(ULONG_PTR) == sizeof(void *) && sizeof(IID) == 16);
IOCP_HOSTING_ASSERT(sizeof(OVERLAPPED) == 3 * sizeof(void *) + 8);
IOCP_HOSTING_ASSERT(offsetof(OVERLAPPED, InternalHigh) == sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(OVERLAPPED, Offset) == 2 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(OVERLAPPED, OffsetHigh) == 2 * sizeof(void *) + 4);
IOCP_HOSTING_ASSERT(offsetof(OVERLAPPED, hEvent) == 2 * sizeof(void *) + 8);

// --- Results of methods.

#ifndef S_OK
#define S_OK ((HRESULT)0x00000000)
#endif
#ifndef E_FAIL
#define E_NOTIMPL ((HRESULT)0x80004001)
#define E_NOINTERFACE ((HRESULT)0x80004002)
#define E_POINTER ((HRESULT)0x80004003)
#define E_FAIL ((HRESULT)0x80004005)
#define E_UNEXPECTED ((HRESULT)0x8000FFFF)
#define E_ACCESSDENIED ((HRESULT)0x80070005)
#define E_HANDLE ((HRESULT)0x80070006)
#define E_OUTOFMEMORY ((HRESULT)0x8007000E)
#define E_INVALIDARG ((HRESULT)0x80070057)
#endif
#ifndef SUCCEEDED
#define SUCCEEDED(hr) (((HRESULT)(hr)) >= 0)
#define FAILED(hr) (((HRESULT)(hr)) < 0)
#endif
#ifndef HOST_E_CLRNOTAVAILABLE
#define HOST_E_DEADLOCK ((HRESULT)0x80131020)
#define HOST_E_INTERRUPTED ((HRESULT)0x80131021)
#define HOST_E_INVALIDOPERATION ((HRESULT)0x80131022)
#define HOST_E_CLRNOTAVAILABLE ((HRESULT)0x80131023)
#define HOST_E_TIMEOUT ((HRESULT)0x80131024)
#define HOST_E_NOT_OWNER ((HRESULT)0x80131025)
#define HOST_E_ABANDONED ((HRESULT)0x80131026)
#endif

// --- Codes of operations: what functions return, and what OnComplete is told. The most common ones; all are Win32 codes.

#ifndef ERROR_SUCCESS
#define ERROR_SUCCESS 0
#define ERROR_ACCESS_DENIED 5
#define ERROR_INVALID_HANDLE 6
#define ERROR_NOT_ENOUGH_MEMORY 8
#define ERROR_HANDLE_EOF 38
#define ERROR_NETNAME_DELETED 64
#define ERROR_INVALID_PARAMETER 87
#define ERROR_BROKEN_PIPE 109
#define ERROR_SEM_TIMEOUT 121
#define ERROR_NO_DATA 232
#define ERROR_MORE_DATA 234
#define ERROR_OPERATION_ABORTED 995
#define ERROR_IO_PENDING 997
#define ERROR_NOACCESS 998
#define ERROR_NOT_FOUND 1168
#define ERROR_CONNECTION_REFUSED 1225
#define ERROR_PORT_UNREACHABLE 1234
#define ERROR_CONNECTION_ABORTED 1236
#endif
#ifndef WAIT_TIMEOUT
#define WAIT_TIMEOUT 258
#endif
#ifndef INFINITE
#define INFINITE 0xFFFFFFFF
#endif
#ifndef STATUS_PENDING
#define STATUS_PENDING 0x00000103
#endif
/// Whoever sees that it has completed sees InternalHigh and the data too.
#ifndef HasOverlappedIoCompleted
#define HasOverlappedIoCompleted(overlapped)                                                                           \
    ((DWORD)__atomic_load_n(&(overlapped)->Internal, __ATOMIC_ACQUIRE) != STATUS_PENDING)
#endif

#ifdef __cplusplus
extern "C" {
#endif

// --- Identifiers. Weak: a program may have definitions of its own.

/// {00000000-0000-0000-C000-000000000046}
extern const IID IID_IUnknown;
/// {8BDE9D80-EC06-41D6-83E6-22580EFFCC20}
extern const IID IID_IHostIoCompletionManager;
/// {2D74CE86-B8D6-4C84-B3A7-9768933B3C12}
extern const IID IID_ICLRIoCompletionManager;

#ifdef __cplusplus
}
#endif

// --- Interfaces. In C they are structures with a pointer to the v-table, in C++ (without CINTERFACE) abstract classes.
//
// QueryInterface: E_POINTER without a place for the result; E_NOINTERFACE, and a null result, for an interface that the
// object does not have. AddRef and Release return the new count; at zero the object ends.

#if defined(__cplusplus) && !defined(CINTERFACE)

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wnon-virtual-dtor"
#endif

#ifndef __IUnknown_INTERFACE_DEFINED__
#define __IUnknown_INTERFACE_DEFINED__
// No virtual destructor in any of these: it would take slots.
struct IUnknown {
    virtual HRESULT STDMETHODCALLTYPE QueryInterface(REFIID riid, void **ppvObject) = 0;
    virtual ULONG STDMETHODCALLTYPE AddRef() = 0;
    virtual ULONG STDMETHODCALLTYPE Release() = 0;
};
#endif

#ifndef __ICLRIoCompletionManager_INTERFACE_DEFINED__
#define __ICLRIoCompletionManager_INTERFACE_DEFINED__
/// The runtime's side: implement it, and give it to a host, which holds a reference to it until its end.
struct ICLRIoCompletionManager : public IUnknown {
    /// An operation is over. Called exactly once for each completion, on a thread of the host's, and may block: others
    /// go on meanwhile. The OVERLAPPED is the runtime's again.
    ///
    /// A failure that it returns ends nothing but this call; after E_FAIL or HOST_E_CLRNOTAVAILABLE the host takes the
    /// runtime for unusable. An exception counts as E_UNEXPECTED.
    ///
    /// dwErrorCode: 0 or the Win32 code.
    virtual HRESULT STDMETHODCALLTYPE OnComplete(
        DWORD dwErrorCode, DWORD NumberOfBytesTransferred, void *pvOverlapped) = 0;
};
#endif

#ifndef __IHostIoCompletionManager_INTERFACE_DEFINED__
#define __IHostIoCompletionManager_INTERFACE_DEFINED__
/// The host's side. Beside what is said of each, every method returns HOST_E_CLRNOTAVAILABLE before the runtime's manager
/// is set (but for that call and GetHostOverlappedSize), after E_FAIL, and after the end; E_FAIL for what nobody expected,
/// such as io_uring being forbidden; and E_POINTER for a null place of a result.
struct IHostIoCompletionManager : public IUnknown {
    /// E_OUTOFMEMORY if memory, descriptors or threads are short. *phPort is NULL after any failure.
    virtual HRESULT STDMETHODCALLTYPE CreateIoCompletionPort(HANDLE *phPort) = 0;
    /// Cancels what is in flight on the port's handles, and waits until all of it has been handed over.
    /// E_INVALIDARG: no open port. HOST_E_NOT_OWNER: another host's. HOST_E_TIMEOUT: closed, but something has not ended
    /// in time. HOST_E_ABANDONED: closed, and the host has ended meanwhile.
    virtual HRESULT STDMETHODCALLTYPE CloseIoCompletionPort(HANDLE hPort) = 0;
    /// E_INVALIDARG: 0, or below the minimum. E_NOTIMPL: the limits are fixed.
    virtual HRESULT STDMETHODCALLTYPE SetMaxThreads(DWORD dwMaxIOCompletionThreads) = 0;
    virtual HRESULT STDMETHODCALLTYPE GetMaxThreads(DWORD *pdwMaxIOCompletionThreads) = 0;
    /// The maximum less the threads that are busy with completions.
    virtual HRESULT STDMETHODCALLTYPE GetAvailableThreads(DWORD *pdwAvailableIOCompletionThreads) = 0;
    /// Bytes that the host needs behind each OVERLAPPED.
    virtual HRESULT STDMETHODCALLTYPE GetHostOverlappedSize(DWORD *pcbSize) = 0;
    /// Once. E_INVALIDARG: null. HOST_E_INVALIDOPERATION: there is one already.
    virtual HRESULT STDMETHODCALLTYPE SetCLRIoCompletionManager(ICLRIoCompletionManager *pManager) = 0;
    /// Makes the host's bytes behind a new OVERLAPPED ready, which itself is not touched.
    /// E_INVALIDARG: null, misaligned, or an operation is in flight with it.
    virtual HRESULT STDMETHODCALLTYPE InitializeHostOverlapped(void *pvOverlapped) = 0;
    /// Once for each handle; NULL is the default port. E_INVALIDARG: no open port, or the handle is bound already.
    /// HOST_E_NOT_OWNER: another host's port. E_HANDLE: no open file, socket or pipe. E_OUTOFMEMORY as for a new port.
    virtual HRESULT STDMETHODCALLTYPE Bind(HANDLE hPort, HANDLE hHandle) = 0;
    /// E_INVALIDARG: more than the maximum. E_NOTIMPL: the limits are fixed.
    virtual HRESULT STDMETHODCALLTYPE SetMinThreads(DWORD dwMinIOCompletionThreads) = 0;
    virtual HRESULT STDMETHODCALLTYPE GetMinThreads(DWORD *pdwMinIOCompletionThreads) = 0;
};
#endif

#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#else

#ifndef __IUnknown_INTERFACE_DEFINED__
#define __IUnknown_INTERFACE_DEFINED__
typedef struct IUnknown IUnknown;

typedef struct IUnknownVtbl {
    HRESULT(STDMETHODCALLTYPE *QueryInterface)(IUnknown *This, REFIID riid, void **ppvObject);
    ULONG(STDMETHODCALLTYPE *AddRef)(IUnknown *This);
    ULONG(STDMETHODCALLTYPE *Release)(IUnknown *This);
} IUnknownVtbl;

struct IUnknown {
    const IUnknownVtbl *lpVtbl;
};
#endif

#ifndef __ICLRIoCompletionManager_INTERFACE_DEFINED__
#define __ICLRIoCompletionManager_INTERFACE_DEFINED__
typedef struct ICLRIoCompletionManager ICLRIoCompletionManager;

typedef struct ICLRIoCompletionManagerVtbl {
    HRESULT(STDMETHODCALLTYPE *QueryInterface)(ICLRIoCompletionManager *This, REFIID riid, void **ppvObject);
    ULONG(STDMETHODCALLTYPE *AddRef)(ICLRIoCompletionManager *This);
    ULONG(STDMETHODCALLTYPE *Release)(ICLRIoCompletionManager *This);
    HRESULT(STDMETHODCALLTYPE *OnComplete)(
        ICLRIoCompletionManager *This, DWORD dwErrorCode, DWORD NumberOfBytesTransferred, void *pvOverlapped);
} ICLRIoCompletionManagerVtbl;

struct ICLRIoCompletionManager {
    const ICLRIoCompletionManagerVtbl *lpVtbl;
};
#endif

#ifndef __IHostIoCompletionManager_INTERFACE_DEFINED__
#define __IHostIoCompletionManager_INTERFACE_DEFINED__
typedef struct IHostIoCompletionManager IHostIoCompletionManager;

typedef struct IHostIoCompletionManagerVtbl {
    HRESULT(STDMETHODCALLTYPE *QueryInterface)(IHostIoCompletionManager *This, REFIID riid, void **ppvObject);
    ULONG(STDMETHODCALLTYPE *AddRef)(IHostIoCompletionManager *This);
    ULONG(STDMETHODCALLTYPE *Release)(IHostIoCompletionManager *This);
    HRESULT(STDMETHODCALLTYPE *CreateIoCompletionPort)(IHostIoCompletionManager *This, HANDLE *phPort);
    HRESULT(STDMETHODCALLTYPE *CloseIoCompletionPort)(IHostIoCompletionManager *This, HANDLE hPort);
    HRESULT(STDMETHODCALLTYPE *SetMaxThreads)(IHostIoCompletionManager *This, DWORD dwMaxIOCompletionThreads);
    HRESULT(STDMETHODCALLTYPE *GetMaxThreads)(IHostIoCompletionManager *This, DWORD *pdwMaxIOCompletionThreads);
    HRESULT(STDMETHODCALLTYPE *GetAvailableThreads)(
        IHostIoCompletionManager *This, DWORD *pdwAvailableIOCompletionThreads);
    HRESULT(STDMETHODCALLTYPE *GetHostOverlappedSize)(IHostIoCompletionManager *This, DWORD *pcbSize);
    HRESULT(STDMETHODCALLTYPE *SetCLRIoCompletionManager)(
        IHostIoCompletionManager *This, ICLRIoCompletionManager *pManager);
    HRESULT(STDMETHODCALLTYPE *InitializeHostOverlapped)(IHostIoCompletionManager *This, void *pvOverlapped);
    HRESULT(STDMETHODCALLTYPE *Bind)(IHostIoCompletionManager *This, HANDLE hPort, HANDLE hHandle);
    HRESULT(STDMETHODCALLTYPE *SetMinThreads)(IHostIoCompletionManager *This, DWORD dwMinIOCompletionThreads);
    HRESULT(STDMETHODCALLTYPE *GetMinThreads)(IHostIoCompletionManager *This, DWORD *pdwMinIOCompletionThreads);
} IHostIoCompletionManagerVtbl;

struct IHostIoCompletionManager {
    const IHostIoCompletionManagerVtbl *lpVtbl;
};

// The documented slots.
IOCP_HOSTING_ASSERT(sizeof(ICLRIoCompletionManagerVtbl) == 4 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(ICLRIoCompletionManagerVtbl, OnComplete) == 3 * sizeof(void *));
IOCP_HOSTING_ASSERT(sizeof(IHostIoCompletionManagerVtbl) == 14 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(IHostIoCompletionManagerVtbl, Release) == 2 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(IHostIoCompletionManagerVtbl, CreateIoCompletionPort) == 3 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(IHostIoCompletionManagerVtbl, CloseIoCompletionPort) == 4 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(IHostIoCompletionManagerVtbl, SetMaxThreads) == 5 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(IHostIoCompletionManagerVtbl, GetMaxThreads) == 6 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(IHostIoCompletionManagerVtbl, GetAvailableThreads) == 7 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(IHostIoCompletionManagerVtbl, GetHostOverlappedSize) == 8 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(IHostIoCompletionManagerVtbl, SetCLRIoCompletionManager) == 9 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(IHostIoCompletionManagerVtbl, InitializeHostOverlapped) == 10 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(IHostIoCompletionManagerVtbl, Bind) == 11 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(IHostIoCompletionManagerVtbl, SetMinThreads) == 12 * sizeof(void *));
IOCP_HOSTING_ASSERT(offsetof(IHostIoCompletionManagerVtbl, GetMinThreads) == 13 * sizeof(void *));
#endif

#ifdef COBJMACROS
#define ICLRIoCompletionManager_QueryInterface(This, riid, ppvObject)                                                  \
    ((This)->lpVtbl->QueryInterface(This, riid, ppvObject))
#define ICLRIoCompletionManager_AddRef(This) ((This)->lpVtbl->AddRef(This))
#define ICLRIoCompletionManager_Release(This) ((This)->lpVtbl->Release(This))
#define ICLRIoCompletionManager_OnComplete(This, dwErrorCode, NumberOfBytesTransferred, pvOverlapped)                  \
    ((This)->lpVtbl->OnComplete(This, dwErrorCode, NumberOfBytesTransferred, pvOverlapped))

#define IHostIoCompletionManager_QueryInterface(This, riid, ppvObject)                                                 \
    ((This)->lpVtbl->QueryInterface(This, riid, ppvObject))
#define IHostIoCompletionManager_AddRef(This) ((This)->lpVtbl->AddRef(This))
#define IHostIoCompletionManager_Release(This) ((This)->lpVtbl->Release(This))
#define IHostIoCompletionManager_CreateIoCompletionPort(This, phPort)                                                  \
    ((This)->lpVtbl->CreateIoCompletionPort(This, phPort))
#define IHostIoCompletionManager_CloseIoCompletionPort(This, hPort) ((This)->lpVtbl->CloseIoCompletionPort(This, hPort))
#define IHostIoCompletionManager_SetMaxThreads(This, dwMaxIOCompletionThreads)                                         \
    ((This)->lpVtbl->SetMaxThreads(This, dwMaxIOCompletionThreads))
#define IHostIoCompletionManager_GetMaxThreads(This, pdwMaxIOCompletionThreads)                                        \
    ((This)->lpVtbl->GetMaxThreads(This, pdwMaxIOCompletionThreads))
#define IHostIoCompletionManager_GetAvailableThreads(This, pdwAvailableIOCompletionThreads)                            \
    ((This)->lpVtbl->GetAvailableThreads(This, pdwAvailableIOCompletionThreads))
#define IHostIoCompletionManager_GetHostOverlappedSize(This, pcbSize)                                                  \
    ((This)->lpVtbl->GetHostOverlappedSize(This, pcbSize))
#define IHostIoCompletionManager_SetCLRIoCompletionManager(This, pManager)                                             \
    ((This)->lpVtbl->SetCLRIoCompletionManager(This, pManager))
#define IHostIoCompletionManager_InitializeHostOverlapped(This, pvOverlapped)                                          \
    ((This)->lpVtbl->InitializeHostOverlapped(This, pvOverlapped))
#define IHostIoCompletionManager_Bind(This, hPort, hHandle) ((This)->lpVtbl->Bind(This, hPort, hHandle))
#define IHostIoCompletionManager_SetMinThreads(This, dwMinIOCompletionThreads)                                         \
    ((This)->lpVtbl->SetMinThreads(This, dwMinIOCompletionThreads))
#define IHostIoCompletionManager_GetMinThreads(This, pdwMinIOCompletionThreads)                                        \
    ((This)->lpVtbl->GetMinThreads(This, pdwMinIOCompletionThreads))
#endif

#endif

#ifdef __cplusplus
extern "C" {
#endif

// --- The host of this library.

/// How a host is made. All zeros is what NULL means.
typedef struct iocp_host_options {
    /// Threads that are kept; 0 keeps one.
    DWORD min_threads;
    /// Threads at most; 0 is 1000.
    DWORD max_threads;
    /// Threads that may run at a time, while others block; 0 is the number of processors.
    DWORD concurrency_limit;
    /// Milliseconds after which an idle thread above the minimum ends; 0 is 20000.
    DWORD idle_milliseconds;
    /// Milliseconds after which CloseIoCompletionPort gives up waiting with HOST_E_TIMEOUT; 0 is 10000.
    DWORD close_milliseconds;
    /// Not 0: SetMaxThreads and SetMinThreads return E_NOTIMPL.
    BOOL fixed_threads;
} iocp_host_options;

/// Makes a host with one reference, for the caller. It makes no thread before its first port, which is before the first
/// Bind at the latest.
///
/// At its last Release the host ends: operations in flight are cancelled, their completions handed over, the threads end,
/// and last the runtime's manager is released. Release does not wait for that: keep the manager until its own last
/// Release. E_POINTER without a place for the result, E_INVALIDARG for options that contradict each other.
HRESULT iocp_host_create(const iocp_host_options *options, IHostIoCompletionManager **host);

// --- Handles. HANDLEs of this library name files, sockets, pipes and events, and the ports of hosts; they are numbers,
// checked at each use: one that is closed, of another kind, or garbage gives ERROR_INVALID_HANDLE. Functions that return a
// DWORD return a Win32 code, 0 for success, and write a null HANDLE if they fail (ERROR_NOACCESS without a place for it).

/// Takes over an open descriptor of a file, socket or pipe, also if it fails: nobody else may close it. A non-blocking
/// one becomes blocking for others that share it, and is one again when the HANDLE is closed.
DWORD iocp_host_open(int descriptor, HANDLE *handle);
/// An event: one that stays set until it is reset (manual_reset), or that lets one wait through each time it is set.
DWORD iocp_host_create_event(BOOL manual_reset, BOOL initially_set, HANDLE *event);
DWORD iocp_host_set_event(HANDLE event);
DWORD iocp_host_reset_event(HANDLE event);
/// 0 if the event was set in time, WAIT_TIMEOUT if not. INFINITE milliseconds is for ever.
DWORD iocp_host_wait_event(HANDLE event, DWORD milliseconds);
/// Closes a file, socket or pipe, and the descriptor, and cancels what is pending on it; forgets an event. Ports are closed
/// by CloseIoCompletionPort.
DWORD iocp_host_close(HANDLE handle);

// --- Operations, with the rules of ReadFile and WSARecv, on a handle that is bound and with an OVERLAPPED that the host has
// made ready. 0: completed at once. ERROR_IO_PENDING: will complete. Either way one completion follows, unless the low bit
// of hEvent is set. Anything else: failed at once, and none follows; ERROR_INVALID_PARAMETER for a null OVERLAPPED, one
// that was not made ready, and one in flight. The buffer is the caller's, and must stay until the end.

/// ReadFile, at the OVERLAPPED's offset. At the end of a file ERROR_HANDLE_EOF, of a pipe ERROR_BROKEN_PIPE.
DWORD iocp_host_read(HANDLE handle, void *buffer, DWORD bytes, OVERLAPPED *overlapped);
/// WriteFile; is complete in full, or fails.
DWORD iocp_host_write(HANDLE handle, const void *buffer, DWORD bytes, OVERLAPPED *overlapped);
/// WSARecv. 0 bytes: the peer has ended its side. A datagram that is too long is cut, with ERROR_MORE_DATA.
DWORD iocp_host_receive(HANDLE socket, void *buffer, DWORD bytes, OVERLAPPED *overlapped);
/// WSASend; on a stream complete in full, or fails.
DWORD iocp_host_send(HANDLE socket, const void *buffer, DWORD bytes, OVERLAPPED *overlapped);
/// AcceptEx: `socket` is unconnected, of the listener's family, and gets the connection; with `bytes`, its first data is
/// waited for.
DWORD iocp_host_accept(HANDLE listener, HANDLE socket, void *buffer, DWORD bytes, OVERLAPPED *overlapped);
/// CancelIoEx: asks for the end of one operation, or of all on the handle (NULL). What was pending completes with
/// ERROR_OPERATION_ABORTED, or as it did just before. ERROR_NOT_FOUND if nothing was.
DWORD iocp_host_cancel(HANDLE handle, OVERLAPPED *overlapped);

#ifdef __cplusplus
}
#endif

#endif
