public import IOCP

/// A host's I/O completion manager: ports, a pool of threads, and the hand-over of every completion to a runtime.
///
/// Until ``setCLRIOCompletionManager(_:)`` has been called every method but that one and ``getHostOverlappedSize()``
/// throws ``HResult/clrNotAvailable``; so does every method once the runtime has failed, which is when a method has thrown
/// ``HResult/fail`` or ``CLRIOCompletionManager/onComplete(error:bytes:overlapped:)`` has.
///
/// **Ports.** All ports of a host share one `CompletionPort` and one pool: a port is what handles are bound to, and what
/// is closed. The default port is made at the first bind without one.
///
/// **Threads.** The pool begins with the minimum, at least one, when the first port is made. It grows by one thread when
/// packets wait and every thread is busy with packets, up to the maximum; a thread beyond the minimum ends after
/// ``Options/idleTimeout`` without a packet. The maximum bounds the threads that exist, most of which may be blocked in
/// `onComplete`; how many of them *run* at a time is bounded by ``Options/concurrencyLimit``, as in any port: a thread that
/// blocks gives its place to another. A maximum below that limit makes it moot. When the maximum is lowered, threads
/// finish the packets that they have and end.
///
/// **Packets** are dequeued in batches and handed over one by one, each exactly once. What a thread has not handed over yet
/// while it blocks in `onComplete` goes to others within two looks of the monitor
/// (`CompletionPort.Options.monitorInterval`).
///
/// **The end.** When the last reference goes, or at ``shutDown()``, operations in flight are cancelled, their packets
/// handed over, and the threads end; nobody waits for that.
///
/// - Thread safety: every call from any thread, from `onComplete` too.
/// - Cost: a completion costs 4 to 5 percent more CPU than on the bare port, 70 to 110 nanoseconds, as measured by
///   `iocp-bench faces` with cached reads and with bytes over sockets.
///
/// The corresponding interface is `IHostIoCompletionManager`; ``interface()`` gives it to C and C++.
public final class HostIOCompletionManager: IOCompletionHost {
    /// How a host is made.
    public struct Options: Sendable {
        /// Threads that are kept. At least one is, as long as there is a port.
        public var minThreads: UInt32 = 1
        /// Threads at most; at least 1, and no fewer than ``minThreads``. The default is that of the .NET Framework.
        public var maxThreads: UInt32 = 1000
        /// Threads that may run at a time; 0 is the number of processors (a2).
        public var concurrencyLimit = 0
        /// How long a thread beyond the minimum waits for a packet before it ends.
        public var idleTimeout: Duration = .seconds(20)
        /// How long ``HostIOCompletionManager/closeIOCompletionPort(_:)`` waits for the operations in flight.
        public var closeTimeout: Duration = .seconds(10)
        /// Whether the runtime may change the limits on threads; if not, it is told ``HResult/notImplemented``.
        public var allowsThreadLimits = true
        /// Packets that a thread takes at a time at most, at least 1. It takes fewer while they take it longer than 200
        /// microseconds.
        public var batchSize = 64
        /// Of the `CompletionPort` beneath.
        public var port = CompletionPort.Options()

        public init() {}
    }

    let core: HostCore
    let link = InterfaceLink()

    /// - Throws: ``HResult/invalidArgument`` for options that contradict each other. Makes no port and no thread yet.
    public init(options: Options = Options()) throws(HResult) {
        guard options.maxThreads > 0, options.minThreads <= options.maxThreads, options.concurrencyLimit >= 0,
            options.batchSize > 0, options.idleTimeout >= .zero, options.closeTimeout >= .zero
        else { throw .invalidArgument }
        core = HostCore(options)
        link.attach(self)
    }

    deinit {
        core.end()
    }

    /// Ends the host: later calls throw ``HResult/clrNotAvailable``, waiting ones ``HResult/abandoned``.
    ///
    /// Operations in flight are cancelled and their packets handed over, then the threads end. Does not wait for that.
    public func shutDown() { core.end() }

    // MARK: The eleven methods

    /// Makes a port to bind handles to.
    ///
    /// - Throws: ``HResult/outOfMemory`` if memory, descriptors, threads or HANDLEs are short; ``HResult/fail`` if
    ///   io_uring is forbidden or missing.
    public func createIOCompletionPort() throws(HResult) -> HostHandle {
        try core.available { () throws(HResult) in try core.createPort() }
    }

    /// Closes a port of this host.
    ///
    /// Operations in flight on its handles are cancelled. When this returns, the packet of each has been handed over, and
    /// `onComplete` has returned from it. The handles stay bound and are refused further starts. Called from `onComplete`,
    /// it does not wait.
    ///
    /// - Throws: ``HResult/invalidArgument`` for what is no open port, ``HResult/notOwner`` for a port of another host;
    ///   ``HResult/timeout`` if an operation or a hand-over has not ended within ``Options/closeTimeout``, and
    ///   ``HResult/abandoned`` if the host was shut down meanwhile: the port is closed all the same, and the rest follows.
    public func closeIOCompletionPort(_ port: HostHandle) throws(HResult) {
        try core.available { () throws(HResult) in try core.closePort(port) }
    }

    /// - Throws: ``HResult/invalidArgument`` for 0 and for less than the minimum.
    public func setMaxThreads(_ count: UInt32) throws(HResult) {
        try core.available { () throws(HResult) in try core.setLimits(max: count) }
    }

    public func getMaxThreads() throws(HResult) -> UInt32 {
        try core.available { () throws(HResult) in core.maxThreads }
    }

    /// The maximum less the threads that are busy with packets; 0 while more are busy than a lowered maximum allows.
    public func getAvailableThreads() throws(HResult) -> UInt32 {
        try core.available { () throws(HResult) in core.availableThreads }
    }

    /// Bytes of the host's behind each OVERLAPPED: a multiple of ``HostOverlapped/alignment``.
    public func getHostOverlappedSize() throws(HResult) -> UInt32 {
        guard core.condition == .early || core.condition == .running else { throw .clrNotAvailable }
        return UInt32(OverlappedOperation.recordSize)
    }

    /// Says whom completions are reported to, once.
    ///
    /// - Throws: ``HResult/invalidArgument`` for nil, ``HResult/invalidOperation`` if a runtime is there already.
    public func setCLRIOCompletionManager(_ manager: (any CLRIOCompletionManager)?) throws(HResult) {
        try core.setRuntime(manager)
    }

    /// Makes the host's bytes behind an OVERLAPPED ready. The OVERLAPPED itself is left as it is.
    ///
    /// - Throws: ``HResult/invalidArgument`` for nil, for an address that is not a multiple of
    ///   ``HostOverlapped/alignment``, and while an operation is in flight with it. Allocates nothing, so it never throws
    ///   ``HResult/outOfMemory``.
    @unsafe
    public func initializeHostOverlapped(_ overlapped: UnsafeMutableRawPointer?) throws(HResult) {
        try core.available { () throws(HResult) in
            guard let overlapped = unsafe overlapped else { throw .invalidArgument }
            do throws(PortError) {
                unsafe try OverlappedOperation(at: overlapped).initialize()
            } catch {
                throw HResult(error.status)
            }
        }
    }

    /// Binds a handle to a port of this host, or to its default port.
    ///
    /// - Throws: ``HResult/invalidArgument`` for what is no open port, and for a handle that is bound already, to whatever
    ///   port (i5), or was not opened for overlapped I/O; ``HResult/notOwner`` for a port of another host;
    ///   ``HResult/handle`` for what is no open handle; those of making a port.
    public func bind(_ port: HostHandle?, _ handle: HostHandle) throws(HResult) {
        try core.available { () throws(HResult) in
            guard let file = handle.ioHandle else { throw .handle }
            try core.bind(port, file)
        }
    }

    /// The same for a handle without a HANDLE.
    public func bind(_ port: HostHandle? = nil, _ handle: IOHandle) throws(HResult) {
        try core.available { () throws(HResult) in try core.bind(port, handle) }
    }

    /// Starts the threads that are missing. Those that cannot be started now are started when they are needed;
    /// ``Statistics/failedThreads`` counts the attempts.
    ///
    /// - Throws: ``HResult/invalidArgument`` for more than the maximum.
    public func setMinThreads(_ count: UInt32) throws(HResult) {
        try core.available { () throws(HResult) in try core.setLimits(min: count) }
    }

    public func getMinThreads() throws(HResult) -> UInt32 {
        try core.available { () throws(HResult) in core.minThreads }
    }

    // MARK: Looking

    /// What a host has and has done.
    public struct Statistics: Sendable, Equatable {
        /// Threads of the pool.
        public var threads = 0
        /// Those of them that are busy with packets.
        public var busy = 0
        /// Operations in flight or not yet handed over.
        public var owed = 0
        /// Packets that were taken from a thread that stayed in `onComplete`, for others to hand over.
        public var reposted = 0
        /// Hand-overs that ended with an error of the runtime's.
        public var failedHandOvers = 0
        /// Threads that could not be started.
        public var failedThreads = 0
    }

    /// Counts of one moment. Costs a look at each bound handle.
    public var statistics: Statistics { core.statistics }
}
