public import CIOCPHosting

/// A host that is written in C or C++, for ``CLRHost``: calls go through its v-table.
///
/// Holds a reference to it. Completions come to the Swift object that is given to
/// ``setCLRIOCompletionManager(_:)``, as an `ICLRIoCompletionManager`.
@safe public final class ForeignIOCompletionHost: IOCompletionHost, @unchecked Sendable {
    // Unchecked: the interface demands that its methods be called from any thread.

    private let interface: UnsafeMutablePointer<IHostIoCompletionManager>
    private var table: IHostIoCompletionManagerVtbl { unsafe interface.pointee.lpVtbl.pointee }

    @unsafe
    public init(_ interface: UnsafeMutablePointer<IHostIoCompletionManager>) {
        unsafe self.interface = unsafe interface
        _ = unsafe table.AddRef(interface)
    }

    deinit {
        _ = unsafe table.Release(interface)
    }

    private func check(_ code: HRESULT) throws(HResult) {
        if code < 0 { throw HResult(code) }
    }

    public func createIOCompletionPort() throws(HResult) -> HostHandle {
        var port: HANDLE?
        unsafe try check(table.CreateIoCompletionPort(interface, &port))
        guard let made = unsafe HostHandle(port) else { throw .unexpected }
        return made
    }

    public func closeIOCompletionPort(_ port: HostHandle) throws(HResult) {
        unsafe try check(table.CloseIoCompletionPort(interface, port.pointer))
    }

    public func setMaxThreads(_ count: UInt32) throws(HResult) {
        unsafe try check(table.SetMaxThreads(interface, count))
    }

    public func getMaxThreads() throws(HResult) -> UInt32 {
        var count: DWORD = 0
        unsafe try check(table.GetMaxThreads(interface, &count))
        return count
    }

    public func getAvailableThreads() throws(HResult) -> UInt32 {
        var count: DWORD = 0
        unsafe try check(table.GetAvailableThreads(interface, &count))
        return count
    }

    public func getHostOverlappedSize() throws(HResult) -> UInt32 {
        var size: DWORD = 0
        unsafe try check(table.GetHostOverlappedSize(interface, &size))
        return size
    }

    public func setCLRIOCompletionManager(_ manager: (any CLRIOCompletionManager)?) throws(HResult) {
        guard let manager else { return unsafe try check(table.SetCLRIoCompletionManager(interface, nil)) }
        let offered = unsafe RuntimeInterface(manager).interface()
        defer { _ = unsafe offered.pointee.lpVtbl.pointee.Release(offered) }
        unsafe try check(table.SetCLRIoCompletionManager(interface, offered))
    }

    @unsafe
    public func initializeHostOverlapped(_ overlapped: UnsafeMutableRawPointer?) throws(HResult) {
        unsafe try check(table.InitializeHostOverlapped(interface, overlapped))
    }

    public func bind(_ port: HostHandle?, _ handle: HostHandle) throws(HResult) {
        unsafe try check(table.Bind(interface, port?.pointer, handle.pointer))
    }

    public func setMinThreads(_ count: UInt32) throws(HResult) {
        unsafe try check(table.SetMinThreads(interface, count))
    }

    public func getMinThreads() throws(HResult) -> UInt32 {
        var count: DWORD = 0
        unsafe try check(table.GetMinThreads(interface, &count))
        return count
    }
}

/// A runtime's manager that is a Swift object, as C and C++ see it. Lives as long as they hold references.
@safe final class RuntimeInterface {
    typealias Object = ComObject<ICLRIoCompletionManager, RuntimeInterface>
    typealias This = UnsafeMutablePointer<ICLRIoCompletionManager>

    private let manager: any CLRIOCompletionManager
    private let object: UnsafeMutablePointer<Object>

    init(_ manager: any CLRIOCompletionManager) {
        self.manager = manager
        unsafe object = .allocate(capacity: 1)
        unsafe object.initialize(to: Object(ICLRIoCompletionManager(lpVtbl: Self.table), self))
    }

    deinit {
        unsafe object.deinitialize(count: 1)
        unsafe object.deallocate()
    }

    /// With a reference for the caller.
    func interface() -> This {
        _ = unsafe object.pointee.addReference()
        return unsafe UnsafeMutableRawPointer(object).assumingMemoryBound(to: ICLRIoCompletionManager.self)
    }

    private static func object(_ this: This?) -> UnsafeMutablePointer<Object> {
        unsafe UnsafeMutableRawPointer(this!).assumingMemoryBound(to: Object.self)
    }

    private static func release(_ this: This?) -> ULONG {
        let held = unsafe object(this).pointee.object
        let left = unsafe object(this).pointee.dropReference()
        if left == 0 { unsafe held.release() }
        return left
    }

    private nonisolated(unsafe) static let table: UnsafePointer<ICLRIoCompletionManagerVtbl> = {
        let table = UnsafeMutablePointer<ICLRIoCompletionManagerVtbl>.allocate(capacity: 1)
        unsafe table.initialize(
            to: ICLRIoCompletionManagerVtbl(
                QueryInterface: { this, id, result in
                    unsafe queryInterface(.clrIOCompletionManager, id, UnsafeMutableRawPointer(this!), result) {
                        unsafe object(this).pointee.addReference()
                    }
                },
                AddRef: { unsafe object($0).pointee.addReference() },
                Release: { unsafe release($0) },
                OnComplete: { this, error, bytes, overlapped in
                    result { () throws(HResult) in
                        unsafe try object(this).pointee.object.takeUnretainedValue().manager.onComplete(
                            error: error, bytes: bytes, overlapped: overlapped)
                    }
                }))
        return unsafe UnsafePointer(table)
    }()
}
