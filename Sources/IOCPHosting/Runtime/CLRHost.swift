public import IOCP
internal import Synchronization

/// What a host gives to a runtime before it is started: its managers, each asked for by its interface.
///
/// The corresponding interface is `IHostControl`.
public protocol HostControl: AnyObject, Sendable {
    /// The manager with that interface; ``HResult/noInterface`` if the host leaves that to the runtime.
    ///
    /// The corresponding method is `GetHostManager`.
    func getHostManager(_ interface: InterfaceID) throws(HResult) -> AnyObject?
}

/// The runtime's side of the hosting interfaces, in the documented order of calls: for whoever embeds a runtime, and for
/// tests of hosts.
///
/// 1. ``setHostControl(_:)`` asks the host for its memory, task and thread-pool managers, then for its I/O completion
///    manager; asks that for its size; gives it this object. Then ``start()``.
/// 2. ``makeOverlapped()`` allocates an OVERLAPPED with the host's bytes behind it, and has them made ready, once.
/// 3. `bindHandle`, then I/O with the OVERLAPPED, then its completion, on a thread of the host's.
///
/// It holds the host's manager, as runtimes do to the end of the process (i8), and the manager holds it:
/// ``HostIOCompletionManager/shutDown()`` undoes that.
///
/// A call on the host that ends with ``HResult/fail`` is the end of this runtime: from then on it is unusable and throws
/// ``HResult/clrNotAvailable``, from ``onComplete(error:bytes:overlapped:)`` too.
///
/// - Thread safety: every call from any thread.
///
/// The corresponding interface is `ICLRRuntimeHost`, together with the parts of the runtime behind it.
public final class CLRHost: CLRIOCompletionManager, @unchecked Sendable {
    // Unchecked: `lock` guards what is not atomic.

    private let lock = FutexLock()
    private var control: (any HostControl)?
    private var manager: (any IOCompletionHost)?
    private var hostSize = 0
    private var isStarted = false
    private var isBound = false
    private let failure = Atomic<Bool>(false)

    public init() {}

    /// Whether a call on the host has ended with ``HResult/fail``.
    public var hasFailed: Bool { failure.load(ordering: .sequentiallyConsistent) }

    /// Whether completions come through a host.
    public var usesHost: Bool {
        lock.lock()
        defer { lock.unlock() }
        return manager != nil
    }

    // MARK: Before the start

    /// Takes the host's managers. Once, before ``start()``.
    ///
    /// - Throws: ``HResult/invalidArgument`` for nil, ``HResult/accessDenied`` after the start,
    ///   ``HResult/invalidOperation`` if there is a host already, ``HResult/unexpected`` if the host does not say its size.
    ///
    /// The corresponding method is `ICLRRuntimeHost::SetHostControl`.
    public func setHostControl(_ control: (any HostControl)?) throws(HResult) {
        guard !hasFailed else { throw .clrNotAvailable }
        guard let control else { throw .invalidArgument }
        lock.lock()
        let (isLate, isSecond) = (isStarted, self.control != nil)
        if !isLate && !isSecond { self.control = control }
        lock.unlock()
        if isLate { throw .accessDenied }
        if isSecond { throw .invalidOperation }
        // What this runtime has no use for is asked for all the same: hosts count on the order.
        for other in [InterfaceID.hostMemoryManager, .hostTaskManager, .hostThreadPoolManager] {
            _ = try? control.getHostManager(other)
        }
        // A host without one leaves I/O to the runtime.
        guard let found = try? control.getHostManager(.hostIOCompletionManager) as? any IOCompletionHost else { return }
        do throws(HResult) {
            let size = Int(try found.getHostOverlappedSize())
            lock.lock()
            hostSize = size
            manager = found
            lock.unlock()
        } catch {
            lock.lock()
            self.control = nil
            lock.unlock()
            throw .unexpected
        }
        // The result is ignored: a host that did not take it will say so at every call.
        _ = try? found.setCLRIOCompletionManager(self)
    }

    /// Starts the runtime; again, it does nothing. The corresponding method is `ICLRRuntimeHost::Start`.
    public func start() throws(HResult) {
        guard !hasFailed else { throw .clrNotAvailable }
        lock.lock()
        isStarted = true
        lock.unlock()
    }

    // MARK: Overlapped operations

    /// Allocates an OVERLAPPED and has the host make its bytes behind it ready.
    ///
    /// - Throws: what the host throws, with nothing left allocated; ``HResult/invalidOperation`` before the start, and
    ///   ``HResult/notImplemented`` without a host.
    public func makeOverlapped() throws(HResult) -> CLROverlapped {
        let size = try hosted { (manager, size) throws(HResult) in size }
        let made = CLROverlapped(hostSize: size)
        try hosted { (manager, _) throws(HResult) in
            unsafe try manager.initializeHostOverlapped(made.overlapped.pointer)
        }
        return made
    }

    /// Has completions on a handle come through the host.
    ///
    /// The corresponding managed method is `ThreadPool.BindHandle`.
    public func bindHandle(_ handle: HostHandle) throws(HResult) {
        try hosted { (manager, _) throws(HResult) in try manager.bind(nil, handle) }
        lock.lock()
        isBound = true
        lock.unlock()
    }

    /// The same for a handle without a HANDLE.
    public func bindHandle(_ handle: IOHandle) throws(HResult) {
        let named: HostHandle
        do throws(PortError) { named = try HostHandle(handle) } catch { throw .outOfMemory }
        defer { named.forget() }
        try bindHandle(named)
    }

    /// The host has a completion. Called once for each packet, on a thread of the host's.
    ///
    /// - Throws: ``HResult/clrNotAvailable`` once the runtime has failed, ``HResult/invalidArgument`` without an OVERLAPPED
    ///   and for one that nothing is in flight with.
    public func onComplete(error: UInt32, bytes: UInt32, overlapped: UnsafeMutableRawPointer?) throws(HResult) {
        guard !hasFailed else { throw .clrNotAvailable }
        guard let overlapped = unsafe overlapped else { throw .invalidArgument }
        unsafe try CLROverlapped.at(overlapped).complete(error, bytes)
    }

    // MARK: Threads (i4)

    /// The corresponding managed method is `ThreadPool.SetMaxThreads`.
    public func setMaxThreads(_ count: UInt32) throws(HResult) {
        try hosted { (manager, _) throws(HResult) in try manager.setMaxThreads(count) }
    }

    public func getMaxThreads() throws(HResult) -> UInt32 {
        try hosted { (manager, _) throws(HResult) in try manager.getMaxThreads() }
    }

    /// Before the first handle is bound, the maximum: no thread can be busy.
    public func getAvailableThreads() throws(HResult) -> UInt32 {
        lock.lock()
        let asks = isBound
        lock.unlock()
        return try hosted { (manager, _) throws(HResult) in
            asks ? try manager.getAvailableThreads() : try manager.getMaxThreads()
        }
    }

    public func setMinThreads(_ count: UInt32) throws(HResult) {
        try hosted { (manager, _) throws(HResult) in try manager.setMinThreads(count) }
    }

    public func getMinThreads() throws(HResult) -> UInt32 {
        try hosted { (manager, _) throws(HResult) in try manager.getMinThreads() }
    }

    /// A call on the host, whose E_FAIL is the end of this runtime.
    private func hosted<Result>(
        _ call: (any IOCompletionHost, Int) throws(HResult) -> Result
    ) throws(HResult) -> Result {
        guard !hasFailed else { throw .clrNotAvailable }
        lock.lock()
        let (manager, size, isStarted) = (manager, hostSize, isStarted)
        lock.unlock()
        guard isStarted else { throw .invalidOperation }
        guard let manager else { throw .notImplemented }
        do throws(HResult) {
            return try call(manager, size)
        } catch {
            if error == .fail { failure.store(true, ordering: .sequentiallyConsistent) }
            throw error
        }
    }
}
