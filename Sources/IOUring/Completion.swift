/// One completion, copied out of the ring (`struct io_uring_cqe`).
public struct Completion: Sendable, Hashable {
    /// What the entry carried in ``SubmissionEntry/userData``.
    public let userData: UInt64
    /// The operation's result, or a negated errno.
    public let result: Int32
    /// The `IORING_CQE_F_*` bits; the properties below read them.
    public let flags: UInt32

    /// Makes a completion, as a test or a simulation needs one.
    @inlinable
    public init(userData: UInt64, result: Int32, flags: UInt32 = 0) {
        self.userData = userData
        self.result = result
        self.flags = flags
    }

    /// Whether the entry will post more completions (`IORING_CQE_F_MORE`): a multishot operation is still armed, or a
    /// zero-copy send still owes its notification.
    @inlinable
    public var more: Bool { flags & (1 << 1) != 0 }

    /// The provided buffer the operation took, if it took one (`IORING_CQE_F_BUFFER`). It is the caller's from here,
    /// until it is handed back.
    @inlinable
    public var bufferID: UInt16? { flags & 1 != 0 ? UInt16(truncatingIfNeeded: flags >> 16) : nil }

    /// Whether the socket held more data after this receive (`IORING_CQE_F_SOCK_NONEMPTY`). Clear says nothing.
    @inlinable
    public var socketNonEmpty: Bool { flags & (1 << 2) != 0 }

    /// Whether this is not a result but word that a zero-copy send no longer uses its buffer (`IORING_CQE_F_NOTIF`).
    @inlinable
    public var isNotification: Bool { flags & (1 << 3) != 0 }

    /// Whether the provided buffer was not used up, so that later completions may carry the same one
    /// (`IORING_CQE_F_BUF_MORE`); only with an incremental ``BufferRing``.
    @inlinable
    public var bufferMore: Bool { flags & (1 << 4) != 0 }
}
