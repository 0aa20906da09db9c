internal import Glibc
internal import IOUring
internal import Synchronization

/// Buffers that continuous receives of a port take from as data arrives, instead of each holding one while it waits.
///
/// Each packet of a continuous receive lends one buffer, to be given back with ``LentBuffer/giveBack()``. A group that
/// runs dry pauses the receives that need a buffer; they go on when buffers come back, and no connection fails.
///
/// - Memory: `rings × buffersPerRing × bufferSize` bytes, and one small object for each buffer, for the group's life.
///   The group lives while an operation uses it or one of its buffers is lent.
/// - Thread safety: every call from any thread.
///
/// It is a provided-buffer ring of each of the port's rings. Win32 has no such thing.
public final class BufferGroup: @unchecked Sendable {
    // Unchecked: each ring's part is touched under the lock of its slot only.

    let identifier: UInt16
    /// Buffers that each of the port's rings may lend at a time.
    public let buffersPerRing: Int
    /// Bytes of a buffer.
    public let bufferSize: Int
    private let core: PortCore
    private let parts: [Part]

    /// One ring's buffers.
    @safe private final class Part {
        let slot: Slot
        let memory: UnsafeMutableRawPointer
        /// Nil if the slot is used no more.
        var ring: BufferRing?
        var lent: [LentBuffer] = []
        /// Receives that found no buffer, oldest first, linked by `nextQueued`.
        var pausedFirst: OperationRecord.Pointer?
        var pausedLast: OperationRecord.Pointer?
        /// Buffers that completions have brought and that have not been given back.
        var taken = 0

        init(_ slot: Slot, _ group: UInt16, _ count: Int, _ size: Int) throws(RingError) {
            self.slot = slot
            guard !slot.isVacated else {
                unsafe memory = .allocate(byteCount: 1, alignment: 1)
                return
            }
            var ring = try BufferRing(for: slot.submitter, group: group, entries: UInt32(count))
            unsafe memory = .allocate(byteCount: count * size, alignment: 4096)
            for index in 0..<count {
                unsafe ring.add(memory + index * size, count: UInt32(size), id: UInt16(index))
            }
            ring.publish()
            self.ring = consume ring
        }

        deinit {
            unsafe memory.deallocate()
        }
    }

    private static let nextIdentifier = Atomic<UInt16>(1)

    /// Makes a group for a port.
    ///
    /// - Parameters:
    ///   - port: whose handles' receives will use it.
    ///   - buffersPerRing: a power of two up to 32768.
    ///   - bufferSize: bytes.
    /// - Throws: ``PortError`` if the kernel has no provided-buffer rings (before 5.19), memory is short, or the
    ///   numbers are out of range.
    public init(for port: CompletionPort, buffersPerRing: Int = 256, bufferSize: Int = 4096) throws(PortError) {
        guard buffersPerRing > 0, buffersPerRing <= 32768, buffersPerRing & (buffersPerRing - 1) == 0 else {
            throw .invalid("the buffers of a ring are a power of two up to 32768, not \(buffersPerRing)")
        }
        guard bufferSize > 0, bufferSize <= 1 << 30 else {
            throw .invalid("a buffer has between 1 byte and 1 GiB, not \(bufferSize) bytes")
        }
        let core = try port.open([])
        try core.refuseIfInherited()
        guard core.slots.allSatisfy(\.mayRegister) else {
            throw .invalid(
                "buffers for a port with a single consumer are registered by the consumer's thread, or before its first "
                    + "dequeue")
        }
        guard core.slots.count * buffersPerRing <= Self.mostBuffers else {
            throw .invalid(
                "a group has at most \(Self.mostBuffers) buffers; \(core.slots.count) rings of \(buffersPerRing) are more"
            )
        }
        let identifier = Self.nextIdentifier.wrappingAdd(1, ordering: .relaxed).oldValue
        var parts: [Part] = []
        do {
            for slot in core.slots { parts.append(try Part(slot, identifier, buffersPerRing, bufferSize)) }
        } catch {
            throw PortError(error)
        }
        self.core = core
        self.identifier = identifier
        self.buffersPerRing = buffersPerRing
        self.bufferSize = bufferSize
        self.parts = parts
        for part in parts {
            for index in 0..<buffersPerRing {
                part.lent.append(
                    unsafe LentBuffer(self, part.memory + index * bufferSize, index: index, slot: Int(part.slot.index)))
            }
        }
    }

    /// Buffers that a packet can name.
    static let mostBuffers = 1 << 24 - 1

    /// Lends a buffer, which keeps the group alive while it is out. Returns its number in the group.
    func lend(_ index: Int, slot: Int, bytes: Int) -> Int {
        parts[slot].lent[index].goOut(bytes: bytes, of: self)
        return slot * buffersPerRing + index
    }

    func buffer(_ number: Int) -> LentBuffer { parts[number / buffersPerRing].lent[number % buffersPerRing] }

    /// A buffer is the kernel's again; a receive that waits for one goes on.
    func giveBack(_ index: Int, slot number: Int) {
        // In the child of a fork the buffers are the parent's to give.
        if core.birth.isInherited { return }
        let part = parts[number]
        part.slot.lock.lock()
        let resumed = giveBackLocked(index, part)
        part.slot.lock.unlock()
        if resumed {
            // The request waits in a ring whose thread may be anywhere.
            if IOThread.current.leasedSlot === part.slot { Observer.noteDeparture() } else { core.settle(part.slot) }
        }
    }

    /// A completion has brought a buffer. Under the slot's lock.
    func noteTaken(in slot: Slot) {
        parts[Int(slot.index)].taken += 1
    }

    private func giveBackLocked(_ index: Int, _ part: Part) -> Bool {
        unsafe part.ring?.add(part.memory + index * bufferSize, count: UInt32(bufferSize), id: UInt16(index))
        part.ring?.publish()
        part.taken -= 1
        return resumeNext(part)
    }

    /// A receive has ended, or had an empty datagram, that may have been let on for a buffer it did not take: the buffer
    /// is the next one's. Under the slot's lock. Returns whether one goes on.
    func noteUnused(in slot: Slot) -> Bool {
        let part = parts[Int(slot.index)]
        return part.taken < buffersPerRing && resumeNext(part)
    }

    private func resumeNext(_ part: Part) -> Bool {
        guard let record = unsafe part.pausedFirst else { return false }
        unsafe part.pausedFirst = record.pointee.nextQueued
        if unsafe part.pausedFirst == nil { unsafe part.pausedLast = nil }
        unsafe part.slot.push(record)
        return true
    }

    /// A receive found no buffer: it waits. Under the slot's lock, as every return of a buffer is, so none is missed.
    ///
    /// Returns false if buffers came back between the kernel's look and this one: the receive is to try again. (It may
    /// try in vain while completions with buffers lie behind this one in the ring.)
    func pause(_ record: OperationRecord.Pointer, in slot: Slot) -> Bool {
        let part = parts[Int(slot.index)]
        if part.taken < buffersPerRing { return false }
        unsafe record.pointee.nextQueued = nil
        if let last = unsafe part.pausedLast {
            unsafe last.pointee.nextQueued = record
        } else {
            unsafe part.pausedFirst = record
        }
        unsafe part.pausedLast = record
        pauses.add(1, ordering: .relaxed)
        return true
    }

    /// Takes a cancelled receive out of the waiting ones, under the slot's lock. Returns whether it waited.
    func removePaused(_ record: OperationRecord.Pointer) -> Bool {
        guard let slot = unsafe record.pointee.slot else { return false }
        let part = parts[Int(slot.index)]
        var previous: OperationRecord.Pointer?
        var next = unsafe part.pausedFirst
        while let candidate = unsafe next {
            if unsafe candidate == record {
                let after = unsafe candidate.pointee.nextQueued
                if let previous = unsafe previous {
                    unsafe previous.pointee.nextQueued = after
                } else {
                    unsafe part.pausedFirst = after
                }
                if unsafe part.pausedLast == record { unsafe part.pausedLast = previous }
                return true
            }
            unsafe previous = candidate
            unsafe next = candidate.pointee.nextQueued
        }
        return false
    }

    private let pauses = Atomic<Int>(0)

    /// How often a receive has had to wait for a buffer.
    public var pauseCount: Int { pauses.load(ordering: .relaxed) }

    func belongs(to core: PortCore) -> Bool { self.core === core }
}

/// A buffer that a packet of a continuous receive came in.
///
/// It is the holder's until ``giveBack()``, which each must do exactly once: a buffer that is forgotten is missing from
/// its group. Its contents must not be looked at afterwards.
@safe public final class LentBuffer: @unchecked Sendable {
    // Unchecked: `isOut` decides who may touch the rest.

    private let memory: UnsafeMutableRawPointer
    private let index: Int
    private let slot: Int
    /// Keeps the group alive while the buffer is out, and only then.
    private var group: BufferGroup?
    private unowned(unsafe) let home: BufferGroup
    private let isOut = Atomic<Bool>(false)
    /// Valid bytes.
    public private(set) var count = 0

    init(_ group: BufferGroup, _ memory: UnsafeMutableRawPointer, index: Int, slot: Int) {
        unsafe home = group
        unsafe self.memory = unsafe memory
        self.index = index
        self.slot = slot
    }

    func goOut(bytes: Int, of group: BufferGroup) {
        count = bytes
        self.group = group
        isOut.store(true, ordering: .releasing)
    }

    /// The received bytes.
    public func withBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        unsafe try body(UnsafeRawBufferPointer(start: memory, count: count))
    }

    /// A copy of the received bytes.
    public var array: [UInt8] {
        unsafe withBytes { unsafe Array($0) }
    }

    /// Gives the buffer back to its group. Does nothing the second time.
    public func giveBack() {
        guard isOut.compareExchange(expected: true, desired: false, ordering: .sequentiallyConsistent).exchanged,
            let group
        else { return }
        self.group = nil
        group.giveBack(index, slot: slot)
    }
}

extension Socket {
    /// Starts to receive until it is cancelled, fails or the peer ends: one operation, a packet for each arrival.
    ///
    /// Each packet of data has ``Packet/isMore`` and ``Packet/lentBuffer``; that of an empty datagram has no buffer. The
    /// last packet has neither; its status is a success of 0 bytes at the end of a stream. Packets of one receive come in
    /// the order of the data; with several threads dequeuing they may be handled in another, so use one thread or order
    /// them by what they hold.
    ///
    /// - Parameters:
    ///   - operation: needs no buffer. It keeps the group alive, and receives from no other in its life.
    ///   - group: of the port that the socket is associated with.
    /// - Throws: ``PortError``: 87 if the socket is associated with another port than the group's, or with none, or if
    ///   the operation has received from another group before.
    /// - Cost: nothing per arrival but the packet.
    ///
    /// io_uring's operation is multishot RECV.
    public func receiveContinuously(
        _ operation: Operation, from group: BufferGroup, start: Start = .deferred
    ) throws(PortError) {
        _ = try operation.claimed { () throws(PortError) in
            let file = try opened()
            guard let home = file.association?.port, group.belongs(to: home) else {
                throw .invalid("the socket is not associated with the port that the buffer group was made for")
            }
            try operation.requirePacket()
            try operation.borrow(from: group)
            return unsafe try Engine.start(
                operation, on: file, Engine.Request(kind: .receiveContinuously, continuous: true), start)
        }
    }
}
