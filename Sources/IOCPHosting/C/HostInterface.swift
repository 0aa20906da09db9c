public import CIOCPHosting
internal import IOCP
internal import Synchronization

/// The v-table object of a host, at one address for the host's whole life: asking twice gives the same identity.
@safe final class InterfaceLink: @unchecked Sendable {
    // Unchecked: set once, before the host is anybody's.

    typealias Object = ComObject<IHostIoCompletionManager, HostIOCompletionManager>

    private var object: UnsafeMutablePointer<Object>?
    /// Whether the host was made by C, and ends with C's last reference, whatever call may still be under way.
    var endsWithReferences = false

    func attach(_ manager: HostIOCompletionManager) {
        let made = UnsafeMutablePointer<Object>.allocate(capacity: 1)
        unsafe made.initialize(to: Object(IHostIoCompletionManager(lpVtbl: Self.table), manager))
        unsafe object = made
    }

    deinit {
        unsafe object?.deinitialize(count: 1)
        unsafe object?.deallocate()
    }

    /// With a reference for the caller.
    func interface() -> UnsafeMutablePointer<IHostIoCompletionManager> {
        let object = unsafe object!
        _ = unsafe object.pointee.addReference()
        return unsafe UnsafeMutableRawPointer(object).assumingMemoryBound(to: IHostIoCompletionManager.self)
    }

    typealias This = UnsafeMutablePointer<IHostIoCompletionManager>

    private static func object(_ this: This?) -> UnsafeMutablePointer<Object> {
        unsafe UnsafeMutableRawPointer(this!).assumingMemoryBound(to: Object.self)
    }

    private static func manager(_ this: This?) -> HostIOCompletionManager {
        unsafe object(this).pointee.object.takeUnretainedValue()
    }

    private static func number(
        _ this: This?, _ result: UnsafeMutablePointer<DWORD>?,
        _ method: (HostIOCompletionManager) throws(HResult) -> UInt32
    ) -> HRESULT {
        guard let result = unsafe result else { return HResult.pointer.signed }
        return IOCPHosting.result { () throws(HResult) in
            unsafe result.pointee = try method(manager(this))
        }
    }

    private static func release(_ this: This?) -> ULONG {
        let object = unsafe object(this)
        let manager = unsafe object.pointee.object
        let left = unsafe object.pointee.dropReference()
        if left == 0 {
            unsafe manager._withUnsafeGuaranteedRef { if $0.link.endsWithReferences { $0.shutDown() } }
            unsafe manager.release()
        }
        return left
    }

    private nonisolated(unsafe) static let table: UnsafePointer<IHostIoCompletionManagerVtbl> = {
        let table = UnsafeMutablePointer<IHostIoCompletionManagerVtbl>.allocate(capacity: 1)
        unsafe table.initialize(
            to: IHostIoCompletionManagerVtbl(
                QueryInterface: { this, id, result in
                    unsafe queryInterface(.hostIOCompletionManager, id, UnsafeMutableRawPointer(this!), result) {
                        unsafe object(this).pointee.addReference()
                    }
                },
                AddRef: { unsafe object($0).pointee.addReference() },
                Release: { unsafe release($0) },
                CreateIoCompletionPort: { this, port in
                    guard let port = unsafe port else { return HResult.pointer.signed }
                    unsafe port.pointee = nil
                    return result { () throws(HResult) in
                        unsafe port.pointee = try manager(this).createIOCompletionPort().pointer
                    }
                },
                CloseIoCompletionPort: { this, port in
                    result { () throws(HResult) in
                        unsafe try manager(this).closeIOCompletionPort(HostHandle(port) ?? HostHandle(rawValue: 0))
                    }
                },
                SetMaxThreads: { this, count in
                    result { () throws(HResult) in unsafe try manager(this).setMaxThreads(count) }
                },
                GetMaxThreads: { this, count in
                    unsafe number(this, count) { (manager) throws(HResult) in try manager.getMaxThreads() }
                },
                GetAvailableThreads: { this, count in
                    unsafe number(this, count) { (manager) throws(HResult) in try manager.getAvailableThreads() }
                },
                GetHostOverlappedSize: { this, size in
                    unsafe number(this, size) { (manager) throws(HResult) in try manager.getHostOverlappedSize() }
                },
                SetCLRIoCompletionManager: { this, other in
                    result { () throws(HResult) in
                        unsafe try manager(this).setCLRIOCompletionManager(other.map { unsafe ForeignRuntime($0) })
                    }
                },
                InitializeHostOverlapped: { this, overlapped in
                    result { () throws(HResult) in
                        unsafe try manager(this).initializeHostOverlapped(overlapped)
                    }
                },
                Bind: { this, port, handle in
                    result { () throws(HResult) in
                        unsafe try manager(this).bind(HostHandle(port), HostHandle(handle) ?? HostHandle(rawValue: 0))
                    }
                },
                SetMinThreads: { this, count in
                    result { () throws(HResult) in unsafe try manager(this).setMinThreads(count) }
                },
                GetMinThreads: { this, count in
                    unsafe number(this, count) { (manager) throws(HResult) in try manager.getMinThreads() }
                }))
        return unsafe UnsafePointer(table)
    }()
}

extension HostIOCompletionManager {
    /// The host as C and C++ see it: an `IHostIoCompletionManager`, with a reference that the caller releases.
    ///
    /// The same address each time. References of C keep the host alive as those of Swift do.
    @unsafe
    public func interface() -> UnsafeMutablePointer<IHostIoCompletionManager> { unsafe link.interface() }
}

/// A runtime's manager in C or C++, as a Swift object: holds a reference to it.
@safe final class ForeignRuntime: CLRIOCompletionManager, @unchecked Sendable {
    // Unchecked: the interface demands that its methods be called from any thread.

    private let interface: UnsafeMutablePointer<ICLRIoCompletionManager>

    init(_ interface: UnsafeMutablePointer<ICLRIoCompletionManager>) {
        unsafe self.interface = unsafe interface
        _ = unsafe interface.pointee.lpVtbl.pointee.AddRef(interface)
    }

    deinit {
        _ = unsafe interface.pointee.lpVtbl.pointee.Release(interface)
    }

    func onComplete(error: UInt32, bytes: UInt32, overlapped: UnsafeMutableRawPointer?) throws(HResult) {
        // Through C++: an exception must not reach this frame.
        let code = unsafe iocp_hosting_on_complete(interface, error, bytes, overlapped)
        if code < 0 { throw HResult(code) }
    }
}
