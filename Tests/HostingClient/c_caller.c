// The same interfaces from C, through lpVtbl.
#include "iocp_hosting.h"

/// Asks the host for its size and gives the limits a turn. Returns the first failure.
HRESULT c_caller(void *host) {
    IHostIoCompletionManager *manager = host;
    DWORD size = 0, minimum = 0, available = 0;
    HRESULT hr = manager->lpVtbl->GetHostOverlappedSize(manager, &size);
    if (FAILED(hr)) return hr;
    hr = manager->lpVtbl->GetMinThreads(manager, &minimum);
    if (FAILED(hr)) return hr;
    hr = manager->lpVtbl->GetAvailableThreads(manager, &available);
    if (FAILED(hr)) return hr;
    void *same = NULL;
    hr = manager->lpVtbl->QueryInterface(manager, &IID_IHostIoCompletionManager, &same);
    if (FAILED(hr)) return hr;
    if (same != host) return E_UNEXPECTED;
    manager->lpVtbl->Release(manager);
    return size % 8 == 0 && available > 0 ? S_OK : E_UNEXPECTED;
}
