/// A packet as the port keeps it: plain bits, so that queues move it without reference counting.
struct PacketEntry {
    struct Flags: OptionSet {
        let rawValue: UInt16
        /// `overlapped` is an `Operation` that this entry keeps alive.
        static let operation = Flags(rawValue: 1)
        /// `auxiliary` is the descriptor of an accepted connection that this entry owns.
        static let acceptedDescriptor = Flags(rawValue: 2)
        /// The accepted connection keeps messages apart.
        static let keepsMessages = Flags(rawValue: 16)
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
    /// Packets that it has room for, less one; a mask of positions.
    private var mask: UInt
    // Positions that only grow: that of the oldest packet, and that of the next.
    private var head: UInt = 0
    private var tail: UInt = 0

    var count: Int { Int(bitPattern: tail &- head) }
    /// Packets that it has room for.
    var capacity: Int { Int(bitPattern: mask &+ 1) }

    init(capacity: Int = 64) {
        precondition(capacity > 0 && capacity & (capacity - 1) == 0, "a power of two")
        mask = UInt(capacity) - 1
        unsafe storage = .allocate(capacity: capacity)
    }

    deinit {
        unsafe storage.deallocate()
    }

    @inline(__always)
    mutating func append(_ entry: PacketEntry) {
        if tail &- head > mask { grow() }
        // Field by field: the entry has just been written so, and read otherwise it would have to come from the cache.
        let cell = unsafe storage + Int(bitPattern: tail & mask)
        unsafe cell.pointee.key = entry.key
        unsafe cell.pointee.overlapped = entry.overlapped
        unsafe cell.pointee.information = entry.information
        unsafe cell.pointee.status = entry.status
        unsafe cell.pointee.auxiliary = entry.auxiliary
        unsafe cell.pointee.slot = entry.slot
        unsafe cell.pointee.flags = entry.flags
        tail &+= 1
    }

    /// The oldest packet. The queue must not be empty.
    @inline(__always)
    mutating func removeFirst() -> PacketEntry {
        assert(tail != head)
        let entry = unsafe storage[Int(bitPattern: head & mask)]
        head &+= 1
        return entry
    }

    /// Room that an empty queue keeps, 160 KiB: what ordinary bursts need is not allocated again and again.
    static let keptCapacity = 4096

    /// Gives back what a flood has made it allocate, if nothing is left of it.
    @inline(__always)
    mutating func trim() {
        if mask >= Self.keptCapacity && tail == head { shrink() }
    }

    @inline(never)
    private mutating func shrink() {
        unsafe storage.deallocate()
        mask = UInt(Self.keptCapacity) - 1
        unsafe storage = .allocate(capacity: Self.keptCapacity)
    }

    @inline(never)
    private mutating func grow() {
        let larger = UnsafeMutablePointer<PacketEntry>.allocate(capacity: capacity * 2)
        let start = Int(bitPattern: head & mask)
        let first = min(count, capacity - start)
        unsafe larger.initialize(from: storage + start, count: first)
        unsafe (larger + first).initialize(from: storage, count: count - first)
        unsafe storage.deallocate()
        unsafe storage = larger
        tail = UInt(count)
        head = 0
        mask = mask * 2 + 1
    }
}
