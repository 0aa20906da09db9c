/// What a runtime asks its host for: completion ports, the binding of handles to them, limits on threads.
///
/// The order of calls: size, then the runtime's own manager, then anything else. A method throws what its C namesake
/// returns; ``HResult/clrNotAvailable``, ``HResult/timeout``, ``HResult/notOwner``, ``HResult/abandoned`` and
/// ``HResult/fail`` may come from each.
///
/// ``HostIOCompletionManager`` is the host of this library. The corresponding interface is `IHostIoCompletionManager`.
public protocol IOCompletionHost: AnyObject, Sendable {
    /// `CreateIoCompletionPort`. Throws ``HResult/outOfMemory`` if memory, descriptors or threads are short.
    func createIOCompletionPort() throws(HResult) -> HostHandle
    /// `CloseIoCompletionPort`. Throws ``HResult/invalidArgument`` for what is no port.
    func closeIOCompletionPort(_ port: HostHandle) throws(HResult)
    /// `SetMaxThreads`. Throws ``HResult/notImplemented`` if the host declines.
    func setMaxThreads(_ count: UInt32) throws(HResult)
    /// `GetMaxThreads`.
    func getMaxThreads() throws(HResult) -> UInt32
    /// `GetAvailableThreads`: threads that could still take a packet.
    func getAvailableThreads() throws(HResult) -> UInt32
    /// `GetHostOverlappedSize`: bytes that the host needs behind each OVERLAPPED.
    func getHostOverlappedSize() throws(HResult) -> UInt32
    /// `SetCLRIoCompletionManager`: whom completions are reported to.
    func setCLRIOCompletionManager(_ manager: (any CLRIOCompletionManager)?) throws(HResult)
    /// `InitializeHostOverlapped`: makes the host's bytes behind a new OVERLAPPED ready.
    @unsafe
    func initializeHostOverlapped(_ overlapped: UnsafeMutableRawPointer?) throws(HResult)
    /// `Bind`: completions on the handle are reported from now on. No port is the host's default port.
    func bind(_ port: HostHandle?, _ handle: HostHandle) throws(HResult)
    /// `SetMinThreads`.
    func setMinThreads(_ count: UInt32) throws(HResult)
    /// `GetMinThreads`.
    func getMinThreads() throws(HResult) -> UInt32
}

/// Whom a host reports completions to: the runtime's side.
///
/// The corresponding interface is `ICLRIoCompletionManager`.
public protocol CLRIOCompletionManager: AnyObject, Sendable {
    /// `OnComplete`: an operation is over. Called exactly once for each packet, on a thread of the host's.
    ///
    /// It may block: its thread's place in the port goes to another meanwhile. What it throws ends nothing but itself;
    /// after ``HResult/fail`` or ``HResult/clrNotAvailable`` the host takes the runtime for unusable.
    ///
    /// - Parameters:
    ///   - error: 0 or the Win32 code (i1).
    ///   - bytes: transferred; the lower 32 bits of what the port knows.
    ///   - overlapped: what the operation was started with. From now on it is the runtime's again.
    @unsafe
    func onComplete(error: UInt32, bytes: UInt32, overlapped: UnsafeMutableRawPointer?) throws(HResult)
}
