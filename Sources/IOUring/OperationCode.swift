/// What an entry does: an `IORING_OP_*` number.
public struct OperationCode: RawRepresentable, Sendable, Hashable {
    /// The number as the kernel defines it.
    public var rawValue: UInt8

    /// Makes an operation from a kernel number.
    @inlinable
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    // Computed, not stored: a stored static of a public type is reached through its lazy initializer by other modules,
    // and these stand on the path of every entry.

    /// `IORING_OP_NOP`.
    @inlinable public static var nop: OperationCode { OperationCode(rawValue: 0) }
    /// `IORING_OP_READV`.
    @inlinable public static var readVectored: OperationCode { OperationCode(rawValue: 1) }
    /// `IORING_OP_WRITEV`.
    @inlinable public static var writeVectored: OperationCode { OperationCode(rawValue: 2) }
    /// `IORING_OP_FSYNC`.
    @inlinable public static var synchronize: OperationCode { OperationCode(rawValue: 3) }
    /// `IORING_OP_READ_FIXED`.
    @inlinable public static var readFixed: OperationCode { OperationCode(rawValue: 4) }
    /// `IORING_OP_WRITE_FIXED`.
    @inlinable public static var writeFixed: OperationCode { OperationCode(rawValue: 5) }
    /// `IORING_OP_POLL_ADD`.
    @inlinable public static var pollAdd: OperationCode { OperationCode(rawValue: 6) }
    /// `IORING_OP_POLL_REMOVE`.
    @inlinable public static var pollRemove: OperationCode { OperationCode(rawValue: 7) }
    /// `IORING_OP_SENDMSG`.
    @inlinable public static var sendMessage: OperationCode { OperationCode(rawValue: 9) }
    /// `IORING_OP_RECVMSG`.
    @inlinable public static var receiveMessage: OperationCode { OperationCode(rawValue: 10) }
    /// `IORING_OP_TIMEOUT`.
    @inlinable public static var timeout: OperationCode { OperationCode(rawValue: 11) }
    /// `IORING_OP_TIMEOUT_REMOVE`.
    @inlinable public static var timeoutRemove: OperationCode { OperationCode(rawValue: 12) }
    /// `IORING_OP_ACCEPT`.
    @inlinable public static var accept: OperationCode { OperationCode(rawValue: 13) }
    /// `IORING_OP_ASYNC_CANCEL`.
    @inlinable public static var cancel: OperationCode { OperationCode(rawValue: 14) }
    /// `IORING_OP_LINK_TIMEOUT`.
    @inlinable public static var linkTimeout: OperationCode { OperationCode(rawValue: 15) }
    /// `IORING_OP_CONNECT`.
    @inlinable public static var connect: OperationCode { OperationCode(rawValue: 16) }
    /// `IORING_OP_FALLOCATE`.
    @inlinable public static var allocate: OperationCode { OperationCode(rawValue: 17) }
    /// `IORING_OP_OPENAT`.
    @inlinable public static var openAt: OperationCode { OperationCode(rawValue: 18) }
    /// `IORING_OP_CLOSE`.
    @inlinable public static var close: OperationCode { OperationCode(rawValue: 19) }
    /// `IORING_OP_FILES_UPDATE`.
    @inlinable public static var updateFiles: OperationCode { OperationCode(rawValue: 20) }
    /// `IORING_OP_READ`.
    @inlinable public static var read: OperationCode { OperationCode(rawValue: 22) }
    /// `IORING_OP_WRITE`.
    @inlinable public static var write: OperationCode { OperationCode(rawValue: 23) }
    /// `IORING_OP_SEND`.
    @inlinable public static var send: OperationCode { OperationCode(rawValue: 26) }
    /// `IORING_OP_RECV`.
    @inlinable public static var receive: OperationCode { OperationCode(rawValue: 27) }
    /// `IORING_OP_SPLICE`.
    @inlinable public static var splice: OperationCode { OperationCode(rawValue: 30) }
    /// `IORING_OP_SHUTDOWN`, Linux 5.11.
    @inlinable public static var shutdown: OperationCode { OperationCode(rawValue: 34) }
    /// `IORING_OP_MSG_RING`, Linux 5.18.
    @inlinable public static var messageRing: OperationCode { OperationCode(rawValue: 40) }
    /// `IORING_OP_SOCKET`, Linux 5.19.
    @inlinable public static var socket: OperationCode { OperationCode(rawValue: 45) }
    /// `IORING_OP_SEND_ZC`, Linux 6.0.
    @inlinable public static var sendZeroCopy: OperationCode { OperationCode(rawValue: 47) }
    /// `IORING_OP_SENDMSG_ZC`, Linux 6.1.
    @inlinable public static var sendMessageZeroCopy: OperationCode { OperationCode(rawValue: 48) }
    /// `IORING_OP_READ_MULTISHOT`, Linux 6.7.
    @inlinable public static var readMultishot: OperationCode { OperationCode(rawValue: 49) }
    /// `IORING_OP_FUTEX_WAIT`, Linux 6.7.
    @inlinable public static var futexWait: OperationCode { OperationCode(rawValue: 51) }
    /// `IORING_OP_FTRUNCATE`, Linux 6.9.
    @inlinable public static var truncate: OperationCode { OperationCode(rawValue: 55) }
    /// `IORING_OP_BIND`, Linux 6.11.
    @inlinable public static var bind: OperationCode { OperationCode(rawValue: 56) }
    /// `IORING_OP_LISTEN`, Linux 6.11.
    @inlinable public static var listen: OperationCode { OperationCode(rawValue: 57) }
}
