/// What a dequeue returns: the completion of one operation, or a post.
///
/// Four words, which a call returns in registers.
/// The corresponding Win32 structure is `OVERLAPPED_ENTRY`; ``status`` is the low half of its `Internal` (b25).
public struct Packet {
    /// The key that the operation's handle was associated with, or the key that was posted. Any 64 bits.
    public let key: UInt
    /// Bytes transferred, or the 64-bit information that was posted, verbatim.
    public let information: UInt
    @usableFromInline let content: Content
    /// One more than the number of the lent buffer in its group, in two parts that lie where there is room; 0 for none.
    private let lentHigh: UInt8
    private let lentLow: UInt16
    /// How the operation ended. Posted packets are ``CompletionStatus/success`` unless posted with another status.
    public let status: CompletionStatus

    @usableFromInline enum Content {
        case token(UInt)
        case operation(Operation)
        case continuing(Operation)
        case accepted(AcceptedConnection)
    }

    /// The operation that completed or was posted. It has been released by the library and may be started again, unless
    /// ``isMore`` says that it goes on.
    @inlinable
    public var operation: Operation? {
        switch content {
        case .token: nil
        case .operation(let operation), .continuing(let operation): operation
        case .accepted(let accepted): accepted.operation
        }
    }

    /// What ``CompletionPort/post(bytes:key:token:)`` was given, verbatim; the address of the operation's record
    /// otherwise. The Win32 name is `lpOverlapped`.
    @inlinable
    public var token: UInt {
        switch content {
        case .token(let token): token
        case .operation(let operation), .continuing(let operation): operation.token
        case .accepted(let accepted): accepted.operation.token
        }
    }

    /// Whether a continuous operation goes on: more packets follow for the same operation.
    @inlinable
    public var isMore: Bool {
        switch content {
        case .token, .operation: false
        case .continuing: true
        case .accepted(let accepted): accepted.isMore
        }
    }

    /// ``information`` as a count of bytes. Information beyond `Int.max` is cut to its lower 63 bits.
    @inlinable
    public var bytes: Int { Int(truncatingIfNeeded: information & UInt(Int.max)) }

    /// Whether the status is a success or informational, as `GetQueuedCompletionStatus` would return TRUE (b9).
    @inlinable
    public var isSuccess: Bool { status.isSuccess }

    /// The connection that an accept yielded; nil for other operations and for failures.
    public var acceptedSocket: Socket? {
        if case .accepted(let accepted) = content { return accepted.socket }
        return nil
    }

    /// The buffer that a continuous receive was lent, with ``bytes`` valid bytes; it must be given back with
    /// ``LentBuffer/giveBack()``. Nil for other operations.
    public var lentBuffer: LentBuffer? {
        let number = Int(lentHigh) << 16 | Int(lentLow)
        return number == 0 ? nil : operation?.bufferGroup?.buffer(number - 1)
    }
}

/// What the packet of an accept holds.
@usableFromInline final class AcceptedConnection: Sendable {
    @usableFromInline let operation: Operation
    @usableFromInline let isMore: Bool
    let socket: Socket

    init(_ operation: Operation, _ socket: Socket, isMore: Bool) {
        self.operation = operation
        self.socket = socket
        self.isMore = isMore
    }
}

extension Packet {
    /// Makes a packet of what the port kept, taking over what the entry owned.
    @inline(__always)
    init(_ entry: PacketEntry) {
        key = entry.key
        information = entry.information
        status = CompletionStatus(rawValue: entry.status)
        guard entry.flags.contains(.operation) else {
            content = .token(entry.overlapped)
            lentHigh = 0
            lentLow = 0
            return
        }
        // The entry holds the reference that was taken when the operation was started or posted.
        let operation = unsafe Unmanaged<Operation>.fromOpaque(UnsafeRawPointer(bitPattern: entry.overlapped)!)
            .takeRetainedValue()
        if entry.flags.isDisjoint(with: [.more, .acceptedDescriptor, .lentBuffer]) {
            content = .operation(operation)
            lentHigh = 0
            lentLow = 0
        } else {
            let number: Int
            (content, number) = Packet.unusualContent(entry, operation)
            lentHigh = UInt8(truncatingIfNeeded: number >> 16)
            lentLow = UInt16(truncatingIfNeeded: number)
        }
    }

    @inline(never)
    private static func unusualContent(_ entry: PacketEntry, _ operation: Operation) -> (Content, Int) {
        let isMore = entry.flags.contains(.more)
        if entry.flags.contains(.acceptedDescriptor) {
            // A negative descriptor: the connection has gone into the socket that the accept was given.
            let socket =
                entry.auxiliary < 0
                ? operation.extras?.companion as? Socket
                : Socket(accepted: entry.auxiliary, keepsMessages: entry.flags.contains(.keepsMessages))
            if let socket { return (.accepted(AcceptedConnection(operation, socket, isMore: isMore)), 0) }
        }
        var number = 0
        if entry.flags.contains(.lentBuffer), let group = operation.bufferGroup {
            number = 1 + group.lend(Int(entry.auxiliary), slot: Int(entry.slot), bytes: Int(entry.information))
        }
        return (isMore ? .continuing(operation) : .operation(operation), number)
    }
}

/// Memory for a batch of packets, used again and again: a dequeue into it allocates nothing.
///
/// The corresponding Win32 array is the `lpCompletionPortEntries` of `GetQueuedCompletionStatusEx`.
@safe public struct PacketBatch: ~Copyable {
    private let storage: UnsafeMutablePointer<Packet>
    /// The most packets that one dequeue puts here; at least 1.
    public let capacity: Int
    /// Packets of the last dequeue that have not been taken out.
    public private(set) var count = 0
    /// Where the first of them lies.
    private var first = 0

    /// - Parameter capacity: packets. A batch of none is allowed to be made; dequeuing into it is an error (b22).
    public init(capacity: Int) {
        precondition(capacity >= 0, "a batch cannot have a negative capacity")
        self.capacity = capacity
        unsafe storage = .allocate(capacity: max(1, capacity))
    }

    deinit {
        unsafe (storage + first).deinitialize(count: count)
        unsafe storage.deallocate()
    }

    public var isEmpty: Bool { count == 0 }
    public var indices: Range<Int> { 0..<count }

    /// The packet at a position below ``count``. Traps outside of it, as an array does.
    public subscript(index: Int) -> Packet {
        @inline(__always)
        borrowing get {
            precondition(index >= 0 && index < count, "a packet's position is below the batch's count")
            return unsafe storage[first + index]
        }
    }

    /// Takes the oldest packet out of the batch; nil when there is none left.
    ///
    /// The packet is moved, so that nothing is counted: the cheapest way through a batch.
    public mutating func popFirst() -> Packet? {
        guard count > 0 else { return nil }
        count -= 1
        first += 1
        return unsafe (storage + first - 1).move()
    }

    /// Lets go of the packets, and with them of their operations.
    public mutating func removeAll() {
        unsafe (storage + first).deinitialize(count: count)
        count = 0
        first = 0
    }

    /// Fills the emptied batch. `fill` initializes a prefix of the memory and returns its length.
    mutating func refill<Failure: Error>(
        _ fill: (UnsafeMutableBufferPointer<Packet>) throws(Failure) -> Int
    ) throws(Failure) -> Int {
        removeAll()
        count = unsafe try fill(UnsafeMutableBufferPointer(start: storage, count: capacity))
        return count
    }
}
