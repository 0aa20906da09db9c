internal import CIOCPSupport
internal import Glibc
internal import Synchronization

/// One asynchronous operation: the Windows OVERLAPPED, as an object that is allocated once and started many times.
///
/// An operation carries the buffer that it reads into or writes from. From its start until its packet is dequeued or
/// discarded the library keeps both alive, so that letting go of every reference of one's own cannot corrupt memory.
/// Subclass it to hang the state of a request or a connection on it, as Windows programs embed an OVERLAPPED in a
/// larger structure; the object comes back in ``Packet/operation``.
///
/// - Memory: the buffer belongs to the operation while it is in flight; read or change it only before the start or
///   after the packet.
///   The last reference may go on a thread of the library's: the `deinit` of a subclass must not block.
/// - Thread safety: any thread may start, cancel or look at an operation; one start at a time. A second start before
///   the packet is an error, not a race.
/// - Cost: two allocations in its life, none per start; one retain per start, handed over with the packet.
///
/// The corresponding Win32 structure is `OVERLAPPED`.
@safe open class Operation: @unchecked Sendable {
    // Unchecked: the record is handed from starter to completer through `phase` and the slot's lock; the stored
    // references change only while the record's phase says that the caller owns it.

    let record: OperationRecord.Pointer

    /// The memory that the operation moves data into or out of.
    public final var buffer: IOBuffer? {
        @inline(__always) get { unsafe heldBuffer }
    }
    // Whoever claims the operation may change it; the run-time check would cost more than the start.
    @exclusivity(unchecked) private final var heldBuffer: IOBuffer?
    /// The event that is set when the operation completes.
    public final private(set) var completionEvent: CompletionEvent?
    /// The group that continuous receives take their buffers from, retained. Set once: packets look for their buffers
    /// in it, also after a later start.
    final private(set) var lender: Unmanaged<BufferGroup>?
    /// What few operations need. Set once, by a starter, under `Link.lock`: those who cancel a start before look here.
    final private(set) var extras: OperationExtras?

    /// - Parameter buffer: the operation's memory. Operations without data need none.
    public init(buffer: IOBuffer? = nil) {
        unsafe heldBuffer = buffer
        unsafe record = .allocate(capacity: 1)
        unsafe record.initialize(to: OperationRecord(owner: Unmanaged.passUnretained(self)))
    }

    /// An operation with a buffer of its own.
    /// - Parameter capacity: bytes.
    public convenience init(capacity: Int) {
        self.init(buffer: IOBuffer(capacity: capacity))
    }

    deinit {
        // Nothing is in flight: a started operation is retained until its packet.
        unsafe record.pointee.followers.load(ordering: .relaxed)?.release()
        unsafe lender?.release()
        unsafe record.deinitialize(count: 1)
        unsafe record.deallocate()
    }

    /// The address that ``Packet/token`` holds for this operation: an identity, not to be dereferenced.
    public final var token: UInt { unsafe UInt(bitPattern: record) }

    /// ``CompletionStatus/pending`` while in flight, then how it ended. Set when the operation completes, which may be
    /// before its packet is dequeued (b14). The Win32 name is `OVERLAPPED.Internal`.
    public final var status: CompletionStatus {
        let now = unsafe record.pointee.status
        if now == .pending {
            // Nobody else may be looking at the ring that carries it.
            Engine.progress()
            return unsafe record.pointee.status
        }
        return now
    }

    /// Bytes transferred by the last completed start. The Win32 name is `OVERLAPPED.InternalHigh`.
    public final var bytes: Int {
        unsafe record.pointee.isPending ? 0 : Int(truncatingIfNeeded: record.pointee.information)
    }

    /// Whether it has been started and has not completed. Win32: `HasOverlappedIoCompleted` is the opposite.
    public final var isPending: Bool { status == .pending }

    /// Sets what a completion signals, before a start.
    ///
    /// - Parameters:
    ///   - event: is reset at each start and set at each completion, or nil.
    ///   - suppressesPacket: no packet is queued for this operation; the event tells of its end. This is what a
    ///     Windows program asks for with the low bit of `hEvent` (e8).
    /// - Throws: ``PortError`` while the operation is in flight, or if a packet is to be suppressed without an event.
    public final func signal(_ event: CompletionEvent?, suppressesPacket: Bool = false) throws(PortError) {
        try claim()
        defer { unclaim() }
        if suppressesPacket && event == nil {
            throw .invalid("an operation without a packet needs an event, or nobody could tell that it has completed")
        }
        completionEvent = event
        unsafe record.pointee.event = event.map { unsafe Unmanaged.passUnretained($0) }
        if suppressesPacket {
            unsafe record.pointee.flags = record.pointee.flags.union(.suppressPacket)
        } else {
            unsafe record.pointee.flags = record.pointee.flags.subtracting(.suppressPacket)
        }
    }

    /// Replaces the operation's buffer, before a start.
    public final func setBuffer(_ buffer: IOBuffer?) throws(PortError) {
        try claim()
        unsafe heldBuffer = buffer
        unclaim()
    }

    /// Waits for the completion, not for the packet, which stays queued.
    ///
    /// A thread that runs on behalf of a port gives its place up while it waits, as for any other wait (d7).
    /// - Parameter timeout: nil waits for ever, zero only looks.
    /// - Returns: the status; nil if it is still pending after the timeout (`ERROR_IO_INCOMPLETE`, g7).
    ///
    /// The corresponding Win32 function is `GetOverlappedResult`.
    public final func waitForCompletion(timeout: Duration? = nil) throws(PortError) -> CompletionStatus? {
        let deadline = try Deadline(after: timeout)
        var now = status
        if now != .pending { return now }
        if unsafe IOThread.isOfParent(record.pointee.thread) { throw .operationOfParent }
        if deadline.isImmediate { return nil }
        IOThread.current.blocking {
            let waited = OperationRecord.pending | OperationRecord.waiterBit
            while unsafe record.pointee.isPending {
                // The waiter bit tells the completer to wake us; completing replaces the whole word.
                _ = unsafe record.pointee.state.compareExchange(
                    expected: OperationRecord.pending, desired: waited, ordering: .sequentiallyConsistent)
                let left = deadline.remaining
                if left == 0 { break }
                unsafe IOThread.sleep(on: record.pointee.state, while: waited, nanoseconds: left)
            }
            now = unsafe record.pointee.status
        }
        return now == .pending ? nil : now
    }

    // MARK: Ownership of the record between starts

    /// Takes the idle record, so that its fields may be filled.
    @inline(__always)
    final func claim() throws(PortError) {
        unsafe try record.pointee.claim()
    }

    @inline(__always)
    final func unclaim() {
        unsafe record.pointee.unclaim()
    }

    /// Fills and starts the idle operation; it is idle again if that fails.
    @inline(__always)
    final func claimed(_ start: () throws(PortError) -> StartOutcome) throws(PortError) -> StartOutcome {
        try claim()
        do throws(PortError) {
            return try start()
        } catch {
            unclaim()
            throw error
        }
    }

    /// Fails for a claimed operation that is to yield no packet: a continuous one has nothing else to tell by.
    final func requirePacket() throws(PortError) {
        if unsafe record.pointee.flags.contains(.suppressPacket) {
            throw .invalid("a continuous operation tells by its packets; they cannot be suppressed")
        }
    }

    /// The extras of a claimed operation, made on first use.
    final func needExtras() -> OperationExtras {
        if let extras { return extras }
        let made = OperationExtras()
        Link.set(made, of: &extras)
        return made
    }

    /// The details of a claimed operation, made on first use.
    final var details: UnsafeMutablePointer<OperationDetails> {
        let extras = needExtras()
        if let details = unsafe extras.details { return unsafe details }
        let details = UnsafeMutablePointer<OperationDetails>.allocate(capacity: 1)
        unsafe details.initialize(to: OperationDetails())
        unsafe extras.details = details
        return unsafe details
    }

    /// Makes the group of a claimed operation this one, for its life.
    final func borrow(from group: BufferGroup) throws(PortError) {
        if let lender = unsafe lender {
            guard unsafe lender.toOpaque() == Unmanaged.passUnretained(group).toOpaque() else {
                throw .invalid(
                    "the operation has received from another buffer group, whose buffers its packets may still name; "
                        + "use one operation for each group")
            }
        } else {
            unsafe lender = .passRetained(group)
        }
    }

    final var bufferGroup: BufferGroup? { unsafe lender?.takeUnretainedValue() }
}
