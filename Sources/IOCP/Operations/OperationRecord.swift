internal import CIOCPSupport
internal import Synchronization

/// The library's record of one operation: what Windows keeps in the OVERLAPPED and the I/O request packet.
///
/// It lies at a fixed address for the operation's whole life; that address is the user data of its io_uring requests.
/// Fields without a comment on threads belong to whoever owns the operation at the moment: the caller until it is
/// started, then the one thread that handles its completion under the lock of the slot that carries it.
@safe struct OperationRecord: ~Copyable {
    typealias Pointer = UnsafeMutablePointer<OperationRecord>

    /// The NTSTATUS, `pending` while in flight, with `waiterBit` while a thread sleeps on it. First: it is also a futex.
    let state = Atomic<UInt32>(0)
    let phase = Atomic<UInt32>(Phase.idle)
    /// `OVERLAPPED.InternalHigh`: valid once `state` is not pending.
    var information: UInt = 0

    /// The file object, while in flight. Not retained: it outlives its pending operations.
    var file: Unmanaged<FileObject>?
    /// The owner, or, with the low bit, what packets carry instead.
    private let identity: UInt
    /// The `Operation` that owns this record, retained while in flight; nil for a record in memory of a face's own,
    /// which must hold nothing between two starts that would have to be freed.
    @inline(__always)
    var owner: Unmanaged<Operation>? {
        identity & 1 == 0 ? unsafe .fromOpaque(UnsafeRawPointer(bitPattern: identity)!) : nil
    }
    /// What packets carry: the owner, or the address of the face's OVERLAPPED.
    @inline(__always)
    var token: UInt { identity & ~1 }
    /// Neighbours in the file object's list of pending operations, under its lock.
    var next: Pointer?
    var previous: Pointer?
    /// The next record that waits for the same thing: its turn in a lane, room in the submission queue, a buffer.
    var nextQueued: Pointer?

    var offset: UInt64 = 0
    var memory: UnsafeMutableRawPointer?
    /// Bytes asked for.
    var length = 0
    /// Bytes moved so far by an operation of several steps.
    var progress = 0

    /// Kept alive by the owner; without one, retained from the start to the end.
    var event: Unmanaged<CompletionEvent>?
    /// The socket that an accept puts its connection into; retained from the start to the end.
    var target: Unmanaged<FileObject>?

    private let starter = Atomic<UInt32>(0)
    /// Serial number of the thread that started it (e20). Also looked at by those who want to start it meanwhile.
    var thread: UInt32 {
        get { starter.load(ordering: .relaxed) }
        nonmutating set { starter.store(newValue, ordering: .relaxed) }
    }
    /// MSG_* or RWF_* flags, the mode of an allocation, the direction of a shutdown.
    var callFlags: Int32 = 0
    /// How an eagerly started operation ended, for the starter to find: in the place of its flags, which it needs no more
    /// then.
    var inlineStatus: UInt32 { UInt32(bitPattern: callFlags) }
    /// The slot that carries it; whoever ends the operation looks at it without a lock. Not retained: its port outlives
    /// the file's pending operations.
    let slotReference = unsafe Atomic<Unmanaged<Slot>?>(nil)
    var kind = OperationKind.none
    /// The queue of the file object that it takes its turn in.
    var lane = Lane.none
    // These, as all fields, are assigned and never changed in place: that would be an access to the whole record, whose
    // state others look at.
    /// Which step of an operation of several steps is under way.
    var step: UInt8 = 0
    var flags: Flags = []
    /// The descriptor of a connection that it accepted, and what its packet owns. Before the end, the connection that an
    /// accept holds between its steps.
    var inlineAuxiliary: Int32 = 0
    var inlineFlags: PacketEntry.Flags = []
    /// Whether the request has reached the slot's queue; `close` must not pull the descriptor away before.
    let isQueued = Atomic<Bool>(false)
    /// Set by whoever cancels, read when the kernel says ECANCELED.
    /// It holds the number of the start that is to end, so that a late cancel does not hit the next one.
    let cancelRequested = Atomic<UInt32>(0)
    /// Counts the starts.
    let startNumber = Atomic<UInt32>(0)
    /// Threads that look at a record without an owner from outside, and `endedBit`. See `RecordHold`.
    let holders = Atomic<UInt32>(0)
    /// What waits for this operation to succeed: the first of a list, retained. Changed under `Link.lock`.
    let followers = unsafe Atomic<Unmanaged<Link>?>(nil)
    static let endedBit: UInt32 = 0x8000_0000

    struct Flags: OptionSet {
        let rawValue: UInt8
        /// No packet for this operation: the low bit of `hEvent` (e8).
        static let suppressPacket = Flags(rawValue: 1)
        /// The request in the kernel is a poll that precedes another attempt.
        static let polling = Flags(rawValue: 2)
        /// The operation yields packets until it is cancelled or fails.
        static let continuous = Flags(rawValue: 4)
        /// An immediate success is reported as if it had been pending (g41, g44).
        static let alwaysPends = Flags(rawValue: 8)
        /// The request has been made a no-op while it was queued, unless the kernel had it already. With `polling`.
        static let withdrawn = Flags(rawValue: 16)
        /// The next start is to wait for another operation.
        static let follows = Flags(rawValue: 32)
    }

    /// The direction in which an operation moves the bytes of a stream.
    enum Lane: UInt8 {
        case none, incoming, outgoing
        /// Only where nothing else moves any.
        case both
    }

    enum Phase {
        static let idle: UInt32 = 0
        /// In flight: a packet will come.
        static let inFlight: UInt32 = 1
        /// Started eagerly, the starter has not looked yet whether it completed at once.
        static let issuing: UInt32 = 2
        /// Completed before the starter looked: the starter decides about the packet.
        static let completedInline: UInt32 = 3
        /// Claimed by a starter that is filling the record.
        static let preparing: UInt32 = 4
    }

    static let pending: UInt32 = 0x103
    /// A customer bit that no status uses while pending.
    static let waiterBit: UInt32 = 0x2000_0000

    init(owner: Unmanaged<Operation>) {
        identity = unsafe UInt(bitPattern: owner.toOpaque())
    }

    /// - Parameter token: even.
    init(token: UInt) {
        identity = token | 1
    }

    /// Valid while the operation is in flight.
    var slot: Slot? { unsafe slotReference.load(ordering: .relaxed)?.takeUnretainedValue() }

    /// The message, address and second part of the operations that have one.
    var details: UnsafeMutablePointer<OperationDetails>? {
        unsafe owner?._withUnsafeGuaranteedRef { unsafe $0.extras?.details }
    }

    /// The buffer group of a continuous receive.
    var lender: Unmanaged<BufferGroup> { unsafe owner!._withUnsafeGuaranteedRef { unsafe $0.lender! } }

    /// The status as a user may see it.
    var status: CompletionStatus {
        let raw = state.load(ordering: .acquiring)
        return raw & ~Self.waiterBit == Self.pending ? .pending : CompletionStatus(rawValue: raw)
    }

    /// Whether the status is written and the record will be idle in a moment.
    var isCompleting: Bool {
        let now = phase.load(ordering: .acquiring)
        return now != Phase.preparing && !isPending
    }

    /// Whether it has been started and has not ended, seen before its next starter fills it: asked under the slot's lock,
    /// and before `startNumber`.
    var isInFlight: Bool {
        let now = phase.load(ordering: .acquiring)
        return now == Phase.inFlight || now == Phase.issuing
    }

    var isCancelRequested: Bool {
        cancelRequested.load(ordering: .sequentiallyConsistent) == startNumber.load(ordering: .relaxed)
    }

    var isPending: Bool { state.load(ordering: .acquiring) & ~Self.waiterBit == Self.pending }

    /// Whether whoever owns the memory is to be told of its end by a packet.
    var isOwedPacket: Bool { unsafe owner == nil && !flags.contains(.suppressPacket) }

    // MARK: Ownership between starts

    /// Takes the idle record, so that its fields may be filled.
    @inline(__always)
    func claim() throws(PortError) {
        while !phase.compareExchange(
            expected: Phase.idle, desired: Phase.preparing, ordering: .sequentiallyConsistent
        ).exchanged {
            // A completer writes the status a few instructions before it declares the record idle.
            if IOThread.isOfParent(thread) { throw .operationOfParent }
            guard isCompleting else { throw PortError.operationInFlight }
            iocp_yield()
        }
    }

    @inline(__always)
    func unclaim() {
        phase.store(Phase.idle, ordering: .releasing)
    }
}

/// What the kernel is asked for, and how its answer is read.
enum OperationKind: UInt8 {
    case none
    case read, write, readVectored, writeVectored, zeroByteRead
    case synchronize, synchronizeData, allocate, truncate, truncateByCaller
    case receive, zeroByteReceive, receiveMessage, receiveContinuously
    case send, sendMessage, sendZeroCopy
    case accept, acceptContinuously
    case connect, disconnect, shutdown
    case transmitFile
    case transact
}
