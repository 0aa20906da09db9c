/// A packet as the port keeps it: plain bits, so that queues move it without reference counting.
struct PacketEntry {
    struct Flags: OptionSet {
        let rawValue: UInt16
        /// `overlapped` is an `Operation` that this entry keeps alive.
        static let operation = Flags(rawValue: 1)
        /// `auxiliary` is the descriptor of an accepted connection that this entry owns.
        static let acceptedDescriptor = Flags(rawValue: 2)
        /// `auxiliary` is the number of a buffer lent from the operation's group.
        static let lentBuffer = Flags(rawValue: 4)
        /// More packets of the same operation follow.
        static let more = Flags(rawValue: 8)
    }

    var key: UInt
    /// An operation, or the word that was posted.
    var overlapped: UInt
    var information: UInt
    var status: UInt32
    var auxiliary: Int32 = 0
    /// The slot whose ring lent the buffer.
    var slot: UInt16 = 0
    var flags: Flags = []
}

/// The port's FIFO: a growable ring of packets. It never refuses one; it allocates only when it grows, and keeps what it
/// has until somebody asks it to give that back.
@safe struct PacketQueue: ~Copyable {
    private var storage: UnsafeMutablePointer<PacketEntry>
    /// Packets that it has room for.
    private(set) var capacity: Int
    private var head = 0
    private(set) var count = 0

    init(capacity: Int = 64) {
        precondition(capacity > 0 && capacity & (capacity - 1) == 0, "a power of two")
        self.capacity = capacity
        unsafe storage = .allocate(capacity: capacity)
    }

    deinit {
        unsafe storage.deallocate()
    }

    @inline(__always)
    mutating func append(_ entry: PacketEntry) {
        if count == capacity { grow() }
        unsafe storage[(head &+ count) & (capacity &- 1)] = entry
        count &+= 1
    }

    /// The oldest packet. The queue must not be empty.
    @inline(__always)
    mutating func removeFirst() -> PacketEntry {
        assert(count > 0)
        let entry = unsafe storage[head]
        head = (head &+ 1) & (capacity &- 1)
        count &-= 1
        return entry
    }

    /// Room that an empty queue keeps, 160 KiB: what ordinary bursts need is not allocated again and again.
    static let keptCapacity = 4096

    /// Gives back what a flood has made it allocate, if nothing is left of it.
    @inline(__always)
    mutating func trim() {
        if count == 0 && capacity > Self.keptCapacity { shrink() }
    }

    @inline(never)
    private mutating func shrink() {
        unsafe storage.deallocate()
        capacity = Self.keptCapacity
        unsafe storage = .allocate(capacity: capacity)
        head = 0
    }

    @inline(never)
    private mutating func grow() {
        let larger = UnsafeMutablePointer<PacketEntry>.allocate(capacity: capacity * 2)
        let first = min(count, capacity - head)
        unsafe larger.initialize(from: storage + head, count: first)
        unsafe (larger + first).initialize(from: storage, count: count - first)
        unsafe storage.deallocate()
        unsafe storage = larger
        capacity *= 2
        head = 0
    }
}
