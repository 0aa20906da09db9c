public import CLiburing

/// One operation for the kernel: a `struct io_uring_sqe` of 64 bytes, built on the stack.
///
/// Memory that an entry points at belongs to the caller. Buffers must stay until the operation completes; addresses,
/// paths, vectors, message headers and times, until the entry is submitted.
public struct SubmissionEntry: Sendable {
    @usableFromInline var raw: iou_sqe

    @inlinable
    init(_ raw: iou_sqe) { self.raw = raw }

    /// Comes back in ``Completion/userData``.
    @inlinable
    public var userData: UInt64 {
        get { raw.user_data }
        set { raw.user_data = newValue }
    }

    /// Modifiers every operation takes.
    @inlinable
    public var flags: EntryFlags {
        get { EntryFlags(rawValue: raw.flags) }
        set { raw.flags = newValue.rawValue }
    }

    /// The group to take a buffer from, with ``EntryFlags/bufferSelect``.
    @inlinable
    public var bufferGroup: UInt16 {
        get { raw.buf_group }
        set { raw.buf_group = newValue }
    }

    /// Modifiers of receives, sends and accepts, and the I/O priority of reads and writes: the field `ioprio`.
    @inlinable
    public var ioPriorityFlags: UInt16 {
        get { raw.ioprio }
        set { raw.ioprio = newValue }
    }

    /// Does nothing and completes with zero (`IORING_OP_NOP`).
    @inlinable
    public static func nop() -> SubmissionEntry {
        SubmissionEntry(iou_entry(0, -1, 0, 0, 0, 0))
    }
}
