// The I/O completion interfaces of CLR hosting, for C and C++ code that was written against mscoree.h: the same names,
// the same slots in the v-tables, the same identifiers. Link with the Swift product IOCPHosting.
//
// The types have their Windows sizes: DWORD, ULONG and HRESULT have 32 bits, a HANDLE is as wide as a pointer. On Linux
// the calling convention is the platform's own; there is no other.
#ifndef IOCP_HOSTING_H
#define IOCP_HOSTING_H

#include <stddef.h>
#include <stdint.h>

// --- Types. Leave them out with IOCP_HOSTING_NO_WINDOWS_TYPES if another header has them.

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
typedef struct _OVERLAPPED {
    ULONG_PTR Internal;
    ULONG_PTR InternalHigh;
    union {
        struct {
            DWORD Offset;
            DWORD OffsetHigh;
        };
        void *Pointer;
    };
    HANDLE hEvent;
} OVERLAPPED;

#ifdef __cplusplus
#define REFIID const IID &
#else
#define REFIID const IID *
#endif
#endif

#ifndef STDMETHODCALLTYPE
#define STDMETHODCALLTYPE
#endif

// --- Results.

#ifndef S_OK
#define S_OK ((HRESULT)0x00000000)
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
#ifndef HOST_E_DEADLOCK
#define HOST_E_DEADLOCK ((HRESULT)0x80131020)
#define HOST_E_INTERRUPTED ((HRESULT)0x80131021)
#define HOST_E_INVALIDOPERATION ((HRESULT)0x80131022)
#define HOST_E_CLRNOTAVAILABLE ((HRESULT)0x80131023)
#define HOST_E_TIMEOUT ((HRESULT)0x80131024)
#define HOST_E_NOT_OWNER ((HRESULT)0x80131025)
#define HOST_E_ABANDONED ((HRESULT)0x80131026)
#endif

#ifdef __cplusplus
extern "C" {
#endif

// --- Identifiers.

/// {00000000-0000-0000-C000-000000000046}
extern const IID IID_IUnknown;
/// {8BDE9D80-EC06-41D6-83E6-22580EFFCC20}
extern const IID IID_IHostIoCompletionManager;
/// {2D74CE86-B8D6-4C84-B3A7-9768933B3C12}
extern const IID IID_ICLRIoCompletionManager;

#ifdef __cplusplus
}
#endif

// --- Interfaces.

#if defined(__cplusplus) && !defined(CINTERFACE)

#ifndef __IUnknown_INTERFACE_DEFINED__
#define __IUnknown_INTERFACE_DEFINED__
// No virtual destructor in any of these: it would take slots.
struct IUnknown {
    virtual HRESULT STDMETHODCALLTYPE QueryInterface(REFIID riid, void **ppvObject) = 0;
    virtual ULONG STDMETHODCALLTYPE AddRef() = 0;
    virtual ULONG STDMETHODCALLTYPE Release() = 0;
};
#endif

struct ICLRIoCompletionManager : IUnknown {
    virtual HRESULT STDMETHODCALLTYPE OnComplete(
        DWORD dwErrorCode, DWORD NumberOfBytesTransferred, void *pvOverlapped) = 0;
};

struct IHostIoCompletionManager : IUnknown {
    virtual HRESULT STDMETHODCALLTYPE CreateIoCompletionPort(HANDLE *phPort) = 0;
    virtual HRESULT STDMETHODCALLTYPE CloseIoCompletionPort(HANDLE hPort) = 0;
    virtual HRESULT STDMETHODCALLTYPE SetMaxThreads(DWORD dwMaxIOCompletionThreads) = 0;
    virtual HRESULT STDMETHODCALLTYPE GetMaxThreads(DWORD *pdwMaxIOCompletionThreads) = 0;
    virtual HRESULT STDMETHODCALLTYPE GetAvailableThreads(DWORD *pdwAvailableIOCompletionThreads) = 0;
    virtual HRESULT STDMETHODCALLTYPE GetHostOverlappedSize(DWORD *pcbSize) = 0;
    virtual HRESULT STDMETHODCALLTYPE SetCLRIoCompletionManager(ICLRIoCompletionManager *pManager) = 0;
    virtual HRESULT STDMETHODCALLTYPE InitializeHostOverlapped(void *pvOverlapped) = 0;
    virtual HRESULT STDMETHODCALLTYPE Bind(HANDLE hPort, HANDLE hHandle) = 0;
    virtual HRESULT STDMETHODCALLTYPE SetMinThreads(DWORD dwMinIOCompletionThreads) = 0;
    virtual HRESULT STDMETHODCALLTYPE GetMinThreads(DWORD *pdwMinIOCompletionThreads) = 0;
};

#else

typedef struct ICLRIoCompletionManager ICLRIoCompletionManager;
typedef struct IHostIoCompletionManager IHostIoCompletionManager;

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

#endif

#ifdef __cplusplus
extern "C" {
#endif

// --- The host of this library.

/// How a host is made. All zeros is what NULL means.
typedef struct iocp_host_options {
    /// Threads that are kept; 0 keeps one.
    DWORD min_threads;
    /// Threads at most; 0 is the default.
    DWORD max_threads;
    /// Threads that may run at a time; 0 is the number of processors.
    DWORD concurrency_limit;
    /// Milliseconds after which an idle thread above the minimum ends; 0 is the default.
    DWORD idle_milliseconds;
    /// Milliseconds after which CloseIoCompletionPort gives up waiting with HOST_E_TIMEOUT; 0 is the default.
    DWORD close_milliseconds;
} iocp_host_options;

/// Makes a host with one reference, for the caller.
HRESULT iocp_host_create(const iocp_host_options *options, IHostIoCompletionManager **host);

// --- Handles. HANDLEs of this library name files, sockets, pipes and events, and the ports of hosts; they are numbers,
// checked at each use. Functions that return a DWORD return a Win32 code, 0 for success.

/// Takes a descriptor over: from now on the HANDLE closes it.
DWORD iocp_host_open(int descriptor, HANDLE *handle);
DWORD iocp_host_create_event(BOOL manual_reset, BOOL initially_set, HANDLE *event);
DWORD iocp_host_set_event(HANDLE event);
DWORD iocp_host_reset_event(HANDLE event);
/// 0 if the event was set in time, 258 (WAIT_TIMEOUT) if not. 0xFFFFFFFF milliseconds is for ever.
DWORD iocp_host_wait_event(HANDLE event, DWORD milliseconds);
/// A file, socket or pipe is closed with all that is pending on it.
DWORD iocp_host_close(HANDLE handle);

// --- Operations, with the rules of ReadFile and WSARecv. 0: completed at once; 997 (ERROR_IO_PENDING): will complete.
// Either way one packet follows, unless the event's low bit is set. Anything else: failed at once, and none follows.

DWORD iocp_host_read(HANDLE handle, void *buffer, DWORD bytes, OVERLAPPED *overlapped);
DWORD iocp_host_write(HANDLE handle, const void *buffer, DWORD bytes, OVERLAPPED *overlapped);
DWORD iocp_host_receive(HANDLE socket, void *buffer, DWORD bytes, OVERLAPPED *overlapped);
DWORD iocp_host_send(HANDLE socket, const void *buffer, DWORD bytes, OVERLAPPED *overlapped);
/// As AcceptEx: `socket` is unconnected and gets the connection; with `bytes`, its first data is waited for.
DWORD iocp_host_accept(HANDLE listener, HANDLE socket, void *buffer, DWORD bytes, OVERLAPPED *overlapped);
/// As CancelIoEx; 1168 if it is not pending.
DWORD iocp_host_cancel(HANDLE handle, OVERLAPPED *overlapped);

#ifdef __cplusplus
}
#endif

#endif
