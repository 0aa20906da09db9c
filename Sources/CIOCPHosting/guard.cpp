// Calls into C++ whose exceptions Swift could not catch.
#include "iocp_hosting.h"

extern "C" {
#include "iocp_hosting_support.h"
}

#include <cxxabi.h>

HRESULT iocp_hosting_on_complete(void *manager, DWORD code, DWORD bytes, void *overlapped) {
    try {
        return static_cast<ICLRIoCompletionManager *>(manager)->OnComplete(code, bytes, overlapped);
    } catch (abi::__forced_unwind &) {
        throw; // pthread_exit
    } catch (...) {
        return E_UNEXPECTED;
    }
}
