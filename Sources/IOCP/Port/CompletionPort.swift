internal import CIOCPSupport
internal import IOUring
internal import Synchronization

/// A completion port: one queue for the completions of many handles, and the limit on the threads that work on them.
///
/// Threads dequeue packets; the port lets at most ``concurrencyLimit`` of them run at a time, wakes the one that came
/// last, and queues what comes meanwhile. This object is a *reference* to the port, as a Windows handle is:
/// ``duplicate(access:)`` makes another, and the port is open until the last one is closed or let go of.
///
/// - Thread safety: every call from any thread.
/// - Cost: see each call. Creating a port makes one io_uring for each processor that its limit allows.
///
/// The corresponding Win32 object is what `CreateIoCompletionPort` returns.
@safe public final class CompletionPort: Sendable {
    let core: PortCore
    /// The same, uncounted: this reference keeps it alive.
    private let coreReference: Unmanaged<PortCore>
    /// What this reference may be used for.
    public let access: Access
    /// The same as bits while the reference is open, with `openBit`; 0 once it is closed.
    private let rights: Atomic<UInt32>
    private static let openBit: UInt32 = 0x8000_0000

    /// What a reference to a port may be used for (a13).
    public struct Access: OptionSet, Sendable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }

        /// To query the depth. The Win32 right is `IO_COMPLETION_QUERY_STATE`.
        public static let query = Access(rawValue: 1)
        /// To associate, post and dequeue. The Win32 right is `IO_COMPLETION_MODIFY_STATE`.
        public static let modify = Access(rawValue: 2)
        public static let all: Access = [.query, .modify]
    }

    /// How a port's rings are made.
    public struct Options: Sendable {
        /// Entries that a ring takes before the kernel must be entered; more are absorbed at the cost of an entry.
        public var submissionEntries: UInt32 = 256
        /// Completions that a ring holds before the kernel keeps them in memory of its own; none is ever lost.
        public var completionEntries: UInt32 = 4096
        /// Rings at most; nil is the limit or the larger of 8 and the processors, whichever is smaller. Running threads
        /// beyond the rings enter the kernel for each operation.
        public var rings: Int?
        /// Whether threads that block outside of the library are seen, and their places given to others (d7). If not,
        /// only ``withBlockingRegion(_:)`` and the library's own waits give a place up. Needs `/proc`; without it
        /// nothing is seen.
        public var seesBlocking = true
        /// How often the monitor looks while something could wait behind a thread that is out in user code: operations
        /// that it has not submitted, completions in its ring, packets while it is blocked. Each is handed on within two
        /// looks. At least a millisecond, at most a second.
        ///
        /// One thread monitors all ports of the process, at the shortest interval that any of them asks for; it looks
        /// every millisecond for a while after it found something behind a thread that stays away, sleeps while there is
        /// nothing to look at, and is spared looks while all threads come and go. A look costs 20 to 50 microseconds of
        /// processor time, most of it the waking.
        public var monitorInterval: Duration = .milliseconds(5)

        /// How many of the port's handles are registered with its rings (io_uring's registered files); 0 registers none.
        ///
        /// The kernel then need not look a handle up for each operation. It costs a system call for each ring that a
        /// handle is first used through, and again when it is closed: worth while for handles that live for more than a
        /// few operations. Handles beyond the number, or beyond `RLIMIT_NOFILE`, work as all others do, and so do all on
        /// kernels before 6.13, which would keep closed handles open: see ``Statistics/registeredFiles``.
        ///
        /// At most 1,048,576; memory of 8 bytes each for each ring.
        public var registeredFiles = 0

        /// Whether all dequeues come from one thread, the first that dequeues. Its ring then finishes completions only
        /// when the thread enters the kernel for them (io_uring's single issuer with deferred task work), and never
        /// interrupts it.
        ///
        /// The limit is 1. A dequeue of another thread is an error until the consumer has ended or dequeued from another
        /// port; everything else is for any thread, as ever. What is different:
        ///
        /// - What the consumer defers enters the kernel at its next dequeue, at ``CompletionPort/flush()``, or when many
        ///   operations wait; the monitor cannot do it. Its operations complete, and are cancelled or closed by other
        ///   threads, when it dequeues next or is in a wait of the library's, not while it computes or blocks elsewhere.
        /// - Operations that other threads start have a ring of the ordinary kind, which the library's own thread watches.
        /// - When the consumer ends, or dequeues from another port, its operations move to that ring, which is the next
        ///   consumer's.
        /// - A ``BufferGroup`` is made before the first dequeue or by the consumer.
        ///
        /// Kernels before 6.7 have the ordinary ring only.
        public var singleConsumer = false

        /// Lets a thread of the kernel's take operations as soon as they are started, without a system call (io_uring's
        /// submission polling), and says how long it goes on looking, without work, before it sleeps. Nil has none.
        ///
        /// It costs a processor while it looks: worth while only where one is to spare. One thread serves all rings of a
        /// port. Eager starts, cancels and closes wait until it has taken what was started before. Between a millisecond
        /// and a minute. Not with ``singleConsumer``.
        public var submissionPolling: Duration?

        public init() {}
    }

    /// Creates a port.
    ///
    /// - Parameters:
    ///   - concurrencyLimit: threads that may run at a time, fixed for the port's life (a2). 0 is the number of
    ///     processors that the process may use: its affinity mask, lowered to its cgroup's CPU quota rounded up.
    ///   - options: of the rings.
    /// - Throws: ``PortError`` if io_uring is forbidden, missing or too old, or descriptors or memory are short; the
    ///   text names the cause and the remedy. Also for a negative limit.
    ///
    /// The corresponding Win32 call is `CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, n)`.
    public convenience init(concurrencyLimit: Int = 0, options: Options = Options()) throws(PortError) {
        guard concurrencyLimit >= 0 else { throw .invalid("a concurrency limit must not be negative") }
        guard options.rings ?? 1 > 0 else { throw .invalid("a port needs at least one ring") }
        guard options.monitorInterval >= .milliseconds(1), options.monitorInterval <= .seconds(1) else {
            throw .invalid("the monitor's interval is at least a millisecond and at most a second")
        }
        guard options.registeredFiles >= 0, options.registeredFiles <= FileTable.most else {
            throw .invalid("between 0 and \(FileTable.most) handles of a port can be registered")
        }
        guard !options.singleConsumer || concurrencyLimit <= 1 else {
            throw .invalid("one thread at most runs for a port with a single consumer; its concurrency limit is 1 or 0")
        }
        let processors = Int(iocp_available_processors())
        let limit = options.singleConsumer ? 1 : concurrencyLimit == 0 ? processors : concurrencyLimit
        let rings = min(limit, options.rings ?? max(8, processors))
        var ringOptions = RingOptions(
            submissionEntries: options.submissionEntries, completionEntries: options.completionEntries)
        if let idle = options.submissionPolling {
            guard idle >= .milliseconds(1), idle <= .seconds(60) else {
                throw .invalid("submission polling goes on for between a millisecond and a minute without work")
            }
            guard !options.singleConsumer else {
                throw .invalid("a port has submission polling or a single consumer, not both")
            }
            ringOptions.required = .submissionPolling
            let parts = idle.components
            ringOptions.submissionPollingIdleMilliseconds = UInt32(
                parts.seconds * 1000 + parts.attoseconds / 1_000_000_000_000_000)
        }
        let interval = options.monitorInterval.components
        self.init(
            try PortCore(
                limit: limit, slotCount: rings, options: ringOptions, seesBlocking: options.seesBlocking,
                monitorInterval: interval.seconds * 1_000_000_000 + interval.attoseconds / 1_000_000_000,
                registeredFiles: options.registeredFiles, isSingleConsumer: options.singleConsumer), .all)
    }

    /// Creates a port and associates a handle with it, or does neither.
    ///
    /// The corresponding Win32 call is `CreateIoCompletionPort(handle, NULL, key, n)`.
    public convenience init(
        associating handle: IOHandle, key: UInt, concurrencyLimit: Int = 0, options: Options = Options()
    ) throws(PortError) {
        try self.init(concurrencyLimit: concurrencyLimit, options: options)
        do throws(PortError) {
            try associate(handle, key: key)
        } catch {
            close()
            throw error
        }
    }

    private init(_ core: PortCore, _ access: Access) {
        self.core = core
        unsafe coreReference = Unmanaged.passUnretained(core)
        self.access = access
        rights = Atomic(access.rawValue & ~Self.openBit | Self.openBit)
    }

    deinit {
        close()
    }

    /// Threads that may run at a time.
    public var concurrencyLimit: Int { core.limit }

    /// How often completions were found that had found a ring full and had waited in the kernel's memory. None is lost,
    /// but each time costs a system call: a number that grows asks for more ``Options/completionEntries``.
    public var overflowCount: Int { core.slots.reduce(0) { $0 + $1.overflows.load(ordering: .relaxed) } }

    /// Another reference to the same port: waits go on when only one of them is closed (f3).
    ///
    /// - Parameter access: what the new reference may be used for; no more than this one.
    public func duplicate(access: Access? = nil) throws(PortError) -> CompletionPort {
        let core = try open([])
        let wanted = access ?? self.access
        guard wanted.isSubset(of: self.access) else {
            throw PortError(.accessDenied, "a duplicate cannot have rights that this reference lacks")
        }
        try core.retainReference()
        return CompletionPort(core, wanted)
    }

    /// Closes this reference. The last one of a port ends every wait with ``CompletionStatus/abandoned`` and discards
    /// queued packets; handles stay associated, and their operations complete without packets (f1–f5).
    ///
    /// Closing a closed reference does nothing and returns false.
    /// The corresponding Win32 function is `CloseHandle`.
    @discardableResult
    public func close() -> Bool {
        guard rights.exchange(0, ordering: .sequentiallyConsistent) != 0 else { return false }
        core.releaseReference()
        return true
    }

    /// The port object, if this reference is open and has the right.
    @inline(__always)
    func open(_ right: Access) throws(PortError) -> PortCore {
        let rights = rights.load(ordering: .relaxed)
        guard rights != 0 else { throw .portClosed }
        guard Access(rawValue: rights).isSuperset(of: right) else {
            throw PortError(.accessDenied, "this reference to the port lacks the right to do that")
        }
        return core
    }

    /// Whether this reference is open and has the right; if not, ``open(_:)`` says what is wrong.
    @inline(__always)
    func allows(_ right: Access) -> Bool {
        rights.load(ordering: .relaxed) & right.rawValue == right.rawValue
    }

    /// Lends the port object of an open reference without counting it.
    @inline(__always)
    func withCore<Result>(_ body: (PortCore) -> Result) -> Result {
        unsafe coreReference._withUnsafeGuaranteedRef(body)
    }
}
