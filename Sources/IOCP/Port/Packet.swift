/// What a dequeue returns: the completion of one operation, or a post.
///
/// The corresponding Win32 structure is `OVERLAPPED_ENTRY`; ``status`` is the low half of its `Internal` (b25).
public struct Packet {
    /// The key that the operation's handle was associated with, or the key that was posted. Any 64 bits.
    public let key: UInt
    /// Bytes transferred, or the 64-bit information that was posted, verbatim.
    public let information: UInt
    /// How the operation ended. Posted packets are ``CompletionStatus/success`` unless posted with another status.
    public let status: CompletionStatus
    /// The operation that completed or was posted. It has been released by the library and may be started again, unless
    /// ``isMore`` says that it goes on.
    public let operation: Operation?
    /// What ``CompletionPort/post(bytes:key:token:)`` was given, verbatim; the address of the operation's record
    /// otherwise. The Win32 name is `lpOverlapped`.
    public let token: UInt
    /// The accepted connection, or the buffer lent to a continuous receive.
    let attachment: AnyObject?
    /// Whether a continuous operation goes on: more packets follow for the same operation.
    public let isMore: Bool

    /// ``information`` as a count of bytes. Information beyond `Int.max` is cut to its lower 63 bits.
    @inlinable
    public var bytes: Int { Int(truncatingIfNeeded: information & UInt(Int.max)) }

    /// Whether the status is a success or informational, as `GetQueuedCompletionStatus` would return TRUE (b9).
    @inlinable
    public var isSuccess: Bool { status.isSuccess }

    /// The connection that an accept yielded; nil for other operations and for failures.
    public var acceptedSocket: Socket? { attachment as? Socket }

    /// The buffer that a continuous receive was lent, with ``bytes`` valid bytes; it must be given back with
    /// ``LentBuffer/giveBack()``. Nil for other operations.
    public var lentBuffer: LentBuffer? { attachment as? LentBuffer }
}

extension Packet {
    /// Makes a packet of what the port kept, taking over what the entry owned.
    @inline(__always)
    init(_ entry: PacketEntry) {
        key = entry.key
        information = entry.information
        status = CompletionStatus(rawValue: entry.status)
        isMore = entry.flags.contains(.more)
        if entry.flags.contains(.operation) {
            // The entry holds the reference that was taken when the operation was started or posted.
            let operation = unsafe Unmanaged<Operation>.fromOpaque(UnsafeRawPointer(bitPattern: entry.overlapped)!)
                .takeRetainedValue()
            token = operation.token
            attachment =
                entry.flags.isDisjoint(with: [.acceptedDescriptor, .lentBuffer])
                ? nil : Packet.makeAttachment(entry, operation)
            self.operation = operation
        } else {
            token = entry.overlapped
            attachment = nil
            operation = nil
        }
    }

    @inline(never)
    private static func makeAttachment(_ entry: PacketEntry, _ operation: Operation) -> AnyObject? {
        if entry.flags.contains(.acceptedDescriptor) {
            // A negative descriptor: the connection has gone into the socket that the accept was given.
            if entry.auxiliary < 0 { return operation.companion }
            return Socket(accepted: entry.auxiliary, by: operation)
        }
        return operation.bufferGroup?.lend(Int(entry.auxiliary), slot: Int(entry.slot), bytes: Int(entry.information))
    }
}

/// Memory for a batch of packets, used again and again: a dequeue into it allocates nothing.
///
/// The corresponding Win32 array is the `lpCompletionPortEntries` of `GetQueuedCompletionStatusEx`.
@safe public struct PacketBatch: ~Copyable {
    private let storage: UnsafeMutablePointer<Packet>
    /// The most packets that one dequeue puts here; at least 1.
    public let capacity: Int
    /// Packets of the last dequeue.
    public private(set) var count = 0

    /// - Parameter capacity: packets. A batch of none is allowed to be made; dequeuing into it is an error (b22).
    public init(capacity: Int) {
        precondition(capacity >= 0, "a batch cannot have a negative capacity")
        self.capacity = capacity
        unsafe storage = .allocate(capacity: max(1, capacity))
    }

    deinit {
        unsafe storage.deinitialize(count: count)
        unsafe storage.deallocate()
    }

    public var isEmpty: Bool { count == 0 }
    public var indices: Range<Int> { 0..<count }

    /// The packet at a position below ``count``. Traps outside of it, as an array does.
    public subscript(index: Int) -> Packet {
        @inline(__always)
        borrowing get {
            precondition(index >= 0 && index < count, "a packet's position is below the batch's count")
            return unsafe storage[index]
        }
    }

    /// Lets go of the packets, and with them of their operations.
    public mutating func removeAll() {
        unsafe storage.deinitialize(count: count)
        count = 0
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
