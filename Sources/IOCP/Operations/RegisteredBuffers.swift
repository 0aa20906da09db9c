internal import CIOCPSupport
internal import Glibc
internal import IOUring
internal import Synchronization
internal import SystemPackage

extension CompletionPort {
    /// Makes buffers that are registered with the port's rings (io_uring's registered buffers).
    ///
    /// The kernel pins their memory once and for all, in place of at each operation. Reads and writes of files that were
    /// opened with `O_DIRECT`, and zero-copy sends, use that by themselves when an operation has such a buffer and its
    /// handle is associated with this port. Anything else, and any other port, takes the buffers as ordinary memory:
    /// through the page cache nothing is pinned, and naming a registered buffer only costs.
    ///
    /// - Memory: lives until the last of the buffers goes. It counts against `RLIMIT_MEMLOCK`, once for each ring of the
    ///   port.
    /// - Parameters:
    ///   - count: 1 or more.
    ///   - size: bytes of each, 1 or more; a multiple of 4096 makes each begin on a page, as direct file access asks. All
    ///     together have 1 GiB at most, the kernel's limit.
    /// - Throws: ``PortError``: no memory, or more than may be locked (the text names the limit and the remedy); 87 for
    ///   numbers out of range, for more than 64 calls whose buffers live, and for another thread than the consumer of a
    ///   port with a single one that has begun to dequeue; 6 for a closed port.
    /// - Cost: maps and pins the memory. Win32's counterpart is `RIORegisterBuffer` of registered I/O.
    public func makeRegisteredBuffers(count: Int, size: Int) throws(PortError) -> [IOBuffer] {
        guard count > 0, size > 0, count <= RegisteredRegion.mostBytes / size else {
            throw .invalid(
                "registered buffers have between 1 byte and 1 GiB together, not \(count) times \(size) bytes")
        }
        let core = try open(.modify)
        try core.refuseIfInherited()
        guard core.slots.allSatisfy(\.mayRegister) else {
            throw .invalid(
                "buffers for a port with a single consumer are registered by the consumer's thread, or before its first "
                    + "dequeue")
        }
        let region = try RegisteredRegion(core, bytes: count * size)
        return (0..<count).map { region.part(at: $0 * size, count: size) }
    }
}

/// Memory that is one registered buffer of each of a port's rings.
@safe final class RegisteredRegion: @unchecked Sendable {
    // Unchecked: constant, but for the memory, which its buffers lend.

    /// The kernel's for one registered buffer.
    static let mostBytes = 1 << 30

    private let core: PortCore
    private let memory: UnsafeMutableRawPointer
    private let bytes: Int
    let index: UInt16

    init(_ core: PortCore, bytes: Int) throws(PortError) {
        self.core = core
        self.bytes = bytes
        let mapped = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let mapped = unsafe mapped, unsafe mapped != MAP_FAILED else {
            throw PortError(.noMemory, "there is no memory for \(bytes) bytes of registered buffers")
        }
        unsafe memory = mapped
        do throws(PortError) {
            index = unsafe try core.bufferTable.add(iovec(iov_base: mapped, iov_len: bytes), to: core)
        } catch {
            unsafe munmap(mapped, bytes)
            throw error
        }
    }

    deinit {
        // In the child of a fork the rings are the parent's. Pages that a ring holds on to are let go of with it.
        if !core.birth.isInherited { core.bufferTable.remove(index, from: core) }
        unsafe munmap(memory, bytes)
    }

    func part(at offset: Int, count: Int) -> IOBuffer {
        unsafe IOBuffer(self, UnsafeMutableRawBufferPointer(start: memory + offset, count: count))
    }

    /// Whether it is registered with the rings of that port and holds all of that memory.
    func serves(_ other: PortCore, _ start: UInt64, _ count: UInt32) -> Bool {
        let first = unsafe UInt64(UInt(bitPattern: memory))
        return other === core && start >= first && start + UInt64(count) <= first + UInt64(bytes)
    }
}

/// The places of a port's registered buffers, the same in all rings.
final class BufferTable: @unchecked Sendable {
    // Unchecked: guarded by `lock`.

    private static let capacity = 64

    private let lock = FutexLock()
    private var isMade = false
    /// The places that are taken: a bit each.
    private var taken: UInt64 = 0

    func add(_ memory: iovec, to core: PortCore) throws(PortError) -> UInt16 {
        lock.lock()
        defer { lock.unlock() }
        guard taken != .max else {
            throw .invalid(
                "\(Self.capacity) sets of registered buffers of the port live; let go of one, or make fewer, larger ones"
            )
        }
        let index = UInt16((~taken).trailingZeroBitCount)
        do throws(RingError) {
            if !isMade {
                for slot in core.slots where !slot.isVacated { try slot.makeBufferTable(UInt32(Self.capacity)) }
                isMade = true
            }
            for slot in core.slots where !slot.isVacated { unsafe try slot.setRegisteredBuffer(memory, at: index) }
        } catch {
            for slot in core.slots { unsafe try? slot.setRegisteredBuffer(iovec(), at: index) }
            throw unsafe Self.explain(error, memory.iov_len * core.slots.count)
        }
        taken |= 1 << UInt64(index)
        for slot in core.slots { slot.noteRegisteredBuffers() }
        return index
    }

    func remove(_ index: UInt16, from core: PortCore) {
        lock.lock()
        defer { lock.unlock() }
        var isGone = true
        for slot in core.slots where !slot.isVacated {
            if unsafe (try? slot.setRegisteredBuffer(iovec(), at: index)) == nil { isGone = false }
        }
        // A place that a ring still holds memory in is used no more.
        if isGone { taken &= ~(1 << UInt64(index)) }
    }

    private static func explain(_ error: RingError, _ bytes: Int) -> PortError {
        var limit = rlimit()
        guard error.kind == .lockedMemoryLimit,
            unsafe getrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit) == 0
        else { return PortError(error) }
        return PortError(
            .noMemory,
            "the registered buffers, \(bytes) bytes in all rings of the port, exceed what the user's processes may lock: "
                + "RLIMIT_MEMLOCK is \(limit.rlim_cur) bytes. Register less, make the port with fewer rings, raise the limit "
                + "(ulimit -l), or give the process CAP_IPC_LOCK")
    }
}

extension Slot {
    /// Gives the ring an empty table of buffers, unless it has one by a call that failed at a later ring.
    func makeBufferTable(_ count: UInt32) throws(RingError) {
        do throws(RingError) {
            try withRing { (ring) throws(RingError) in try ring.registerSparseBuffers(count: count) }
        } catch {
            if error.errno != .resourceBusy { throw error }
        }
    }

    /// Puts memory into the ring's table of buffers; none empties the place.
    func setRegisteredBuffer(_ memory: iovec, at index: UInt16) throws(RingError) {
        var memory = unsafe memory
        try withRing { (ring) throws(RingError) in
            unsafe try withUnsafePointer(to: &memory) { (pointer) throws(RingError) in
                _ = unsafe try ring.updateBuffers(
                    at: UInt32(index), with: UnsafeBufferPointer(start: pointer, count: 1))
            }
        }
    }

    /// Makes a direct read or write of a file name the registered buffer that its memory lies in. Under the slot's lock.
    @inline(never)
    func useRegisteredBuffer(_ entry: inout SubmissionEntry, _ record: OperationRecord.Pointer) {
        let isServed =
            unsafe record.pointee.kind == .sendZeroCopy
            || record.pointee.file!._withUnsafeGuaranteedRef { $0.isDirect }
        guard isServed, let owner = unsafe record.pointee.owner else { return }
        unsafe owner._withUnsafeGuaranteedRef { operation in
            guard let region = operation.buffer?.region,
                unsafe region.serves(core, entry.address, entry.length)
            else { return }
            _ = entry.useRegisteredBuffer(region.index)
        }
    }
}
