public import CLiburing
import Glibc
public import SystemPackage

/// A ring of buffers provided to the kernel, which takes one when data arrives instead of when the operation is
/// submitted (`IORING_REGISTER_PBUF_RING`, Linux 5.19).
///
/// It owns the memory of the ring, 16 bytes for each place, but not that of the buffers: they are the caller's, must
/// stay while the kernel may write to them, and come back with ``Completion/bufferID``.
///
/// Adding and publishing belong to one thread at a time, or happen under a lock of the caller's; the kernel may take
/// buffers meanwhile.
///
/// It must be gone before the ring it is registered with: afterwards its descriptor may be another ring's.
///
/// Unchecked `Sendable`, because pointers are not: the memory belongs to this value alone, which is not copyable.
@safe
public struct BufferRing: ~Copyable, @unchecked Sendable {
    @usableFromInline let memory: UnsafeMutablePointer<iou_provided_buffer>
    @usableFromInline let mask: UInt16
    /// Buffers added so far, published or not. Wraps.
    @usableFromInline var tail: UInt16
    @usableFromInline let size: Int
    @usableFromInline let ringDescriptor: Int32
    /// What entries name to take buffers from here: ``SubmissionEntry/bufferGroup``.
    public let group: UInt16
    /// How many buffers it has places for.
    public let capacity: UInt32

    /// Registers an empty ring of buffers.
    ///
    /// Two system calls; the kernel pins the memory, at least one page.
    ///
    /// - Parameters:
    ///   - submitter: the ring to register with.
    ///   - group: not used by another one of that ring's.
    ///   - entries: a power of two, up to 32768.
    ///   - incremental: lets the kernel use up a buffer in several operations (`IOU_PBUF_RING_INC`, Linux 6.12).
    /// - Throws: ``RingError``: `EEXIST` when the group is taken; ``RingError/Kind/invalidConfiguration`` when the
    ///   number is out of range, or the kernel too old.
    public init(
        for submitter: Submitter, group: UInt16, entries: UInt32, incremental: Bool = false
    ) throws(RingError) {
        let operation = "Registering a ring of buffers"
        guard entries != 0, entries <= 1 << 15, entries & (entries - 1) == 0 else {
            throw RingError(kind: .invalidConfiguration, errno: .invalidArgument, operation: operation)
        }
        let size = Int(entries) * MemoryLayout<iou_provided_buffer>.stride
        // Mapped, not allocated: the kernel wants whole pages, and they come zeroed, with the tail.
        let mapped = unsafe mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let mapped = unsafe mapped, unsafe mapped != MAP_FAILED else {
            throw RingError.from(-ENOMEM, operation: operation)
        }
        // A child must not share these pages: writing to one would move this process, and not the kernel, to a copy. It
        // gets empty ones in their place (Linux 4.14), so that its copy of this value may be destroyed.
        unsafe madvise(mapped, size, MADV_WIPEONFORK)
        let code = Seam.register(submitter.fileDescriptor, IOU_REGISTER_PBUF_RING) {
            unsafe iou_register_buffer_ring(submitter.fileDescriptor, mapped, entries, group, incremental ? 2 : 0)
        }
        guard code >= 0 else {
            unsafe munmap(mapped, size)
            throw RingError.from(code, operation: operation)
        }
        unsafe memory = mapped.bindMemory(to: iou_provided_buffer.self, capacity: Int(entries))
        mask = UInt16(entries - 1)
        tail = 0
        self.size = size
        ringDescriptor = submitter.fileDescriptor
        self.group = group
        capacity = entries
    }

    deinit {
        // The kernel holds the pages on its own, so they may be unmapped even if this is refused.
        _ = Seam.register(ringDescriptor, IOU_UNREGISTER_PBUF_RING) {
            iou_unregister_buffer_ring(ringDescriptor, group)
        }
        unsafe munmap(memory, size)
    }

    /// Adds a buffer, which the kernel does not see before ``publish()``. No system call.
    ///
    /// Not checked: no more than ``capacity`` buffers may be added that have not come back.
    ///
    /// - Parameters:
    ///   - buffer: belongs to the kernel from ``publish()`` until it comes back.
    ///   - count: its length in bytes.
    ///   - id: comes back as ``Completion/bufferID``.
    @inlinable
    public mutating func add(_ buffer: UnsafeMutableRawPointer, count: UInt32, id: UInt16) {
        unsafe iou_buffer_ring_set(memory, UInt32(tail & mask), buffer, count, id)
        tail &+= 1
    }

    /// Shows all added buffers to the kernel, with a store-release of the tail. No system call.
    @inlinable
    public mutating func publish() {
        unsafe iou_buffer_ring_publish(memory, tail)
    }

    /// How many buffers have been added since the beginning, modulo 65536.
    @inlinable
    public var added: UInt16 { tail }

    /// How many buffers the kernel has taken since the beginning, modulo 65536 (`IORING_REGISTER_PBUF_STATUS`,
    /// Linux 6.8). One system call; a snapshot.
    ///
    /// - Throws: `EINVAL` on older kernels.
    public func head() throws(Errno) -> UInt16 {
        let code = Seam.register(ringDescriptor, IOU_REGISTER_PBUF_STATUS) {
            iou_buffer_ring_head(ringDescriptor, group)
        }
        if code < 0 { throw Errno(rawValue: -code) }
        return UInt16(truncatingIfNeeded: code)
    }
}
