public import CLiburing

/// One operation for the kernel: a `struct io_uring_sqe` of 64 bytes, built on the stack.
///
/// Memory that an entry points at belongs to the caller. Buffers to read into or write from, and addresses the kernel
/// fills in, must stay until the operation completes; paths, vectors, message headers and times, until the kernel has
/// taken the entry. Building an entry makes no call and cannot fail: an operation the kernel does not know completes
/// with `-EINVAL`.
///
/// Results are those of the system call of the same name, with errors as negated errnos in ``Completion/result``.
@safe
public struct SubmissionEntry: Sendable {
    @usableFromInline var raw: iou_sqe

    @inlinable
    init(
        _ operation: OperationCode, _ fd: Int32, offset: UInt64 = 0, address: UInt64 = 0, length: UInt32 = 0,
        flags: UInt32 = 0
    ) {
        raw = iou_entry(operation.rawValue, fd, offset, address, length, flags)
    }

    @inlinable
    static func bits(_ pointer: UnsafeRawPointer?) -> UInt64 { UInt64(UInt(bitPattern: pointer)) }

    // MARK: What every entry has

    /// What the entry does.
    @inlinable
    public var operation: OperationCode { OperationCode(rawValue: raw.opcode) }

    /// Comes back in ``Completion/userData``.
    @inlinable
    public var userData: UInt64 {
        get { raw.user_data }
        set { raw.user_data = newValue }
    }

    /// What the entry is about: a descriptor, or, with ``EntryFlags/fixedFile``, an index into the registered files.
    @inlinable
    public var fileDescriptor: Int32 {
        get { raw.fd }
        set { raw.fd = newValue }
    }

    /// The memory that the entry names, for operations that name one piece.
    @inlinable
    public var address: UInt64 { raw.addr }

    /// The length in bytes of that memory.
    @inlinable
    public var length: UInt32 { raw.len }

    /// Modifiers every operation takes.
    @inlinable
    public var flags: EntryFlags {
        get { EntryFlags(rawValue: raw.flags) }
        set { raw.flags = newValue.rawValue }
    }

    /// The group to take a buffer from, with ``EntryFlags/bufferSelect``. Shares its place with the index of a
    /// registered buffer.
    @inlinable
    public var bufferGroup: UInt16 {
        get { raw.buf_group }
        set { raw.buf_group = newValue }
    }

    /// The field `ioprio`: modifiers of receives and sends (``TransferModifier``) and of accepts
    /// (``AcceptModifier``), and the I/O priority of reads and writes.
    @inlinable
    public var ioPriorityFlags: UInt16 {
        get { raw.ioprio }
        set { raw.ioprio = newValue }
    }

    /// Where ``accept(_:address:length:flags:)``, ``openat(_:path:flags:mode:)`` and
    /// ``socket(domain:type:protocol:flags:)`` put the new file among the registered files, instead of making a
    /// descriptor: its index plus one, or `UInt32.max` for a free one, which then is the result. Zero makes a
    /// descriptor.
    @inlinable
    public var fileIndex: UInt32 {
        get { raw.file_index }
        set { raw.file_index = newValue }
    }

    // MARK: Nothing

    /// Does nothing and completes with zero (`IORING_OP_NOP`).
    @inlinable
    public static func nop() -> SubmissionEntry { SubmissionEntry(.nop, -1) }

    /// Does nothing and completes with a given result (`IORING_NOP_INJECT_RESULT`, Linux 6.10). Older kernels complete
    /// it with zero; see ``Capabilities/nopResults``.
    @inlinable
    public static func nop(result: Int32) -> SubmissionEntry {
        SubmissionEntry(.nop, -1, length: UInt32(bitPattern: result), flags: 1)
    }

    // MARK: Files

    /// Reads up to `count` bytes at an offset (`IORING_OP_READ`, like `preadv2`).
    ///
    /// - Parameters:
    ///   - buffer: belongs to the kernel until the operation completes; nil with ``EntryFlags/bufferSelect``.
    ///   - offset: in bytes; all ones reads at the file's own position, and is what pipes and terminals take too.
    ///   - flags: `RWF_*`.
    @inlinable
    public static func read(
        _ fd: Int32, into buffer: UnsafeMutableRawPointer?, count: UInt32, offset: UInt64, flags: Int32 = 0
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .read, fd, offset: offset, address: bits(buffer), length: count, flags: UInt32(bitPattern: flags))
    }

    /// Writes up to `count` bytes at an offset (`IORING_OP_WRITE`, like `pwritev2`).
    ///
    /// - Parameters:
    ///   - buffer: must stay unchanged until the operation completes.
    ///   - offset: in bytes; all ones writes at the file's own position.
    ///   - flags: `RWF_*`.
    @inlinable
    public static func write(
        _ fd: Int32, from buffer: UnsafeRawPointer?, count: UInt32, offset: UInt64, flags: Int32 = 0
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .write, fd, offset: offset, address: bits(buffer), length: count, flags: UInt32(bitPattern: flags))
    }

    /// Reads into several buffers at an offset (`IORING_OP_READV`, like `preadv2`).
    ///
    /// - Parameters:
    ///   - vectors: copied when the entry is submitted; what they point at, not.
    ///   - count: how many vectors, up to 1024.
    @inlinable
    public static func readVectored(
        _ fd: Int32, into vectors: UnsafePointer<iovec>, count: UInt32, offset: UInt64, flags: Int32 = 0
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .readVectored, fd, offset: offset, address: bits(vectors), length: count, flags: UInt32(bitPattern: flags))
    }

    /// Writes from several buffers at an offset (`IORING_OP_WRITEV`, like `pwritev2`). Vectors as for
    /// ``readVectored(_:into:count:offset:flags:)``.
    @inlinable
    public static func writeVectored(
        _ fd: Int32, from vectors: UnsafePointer<iovec>, count: UInt32, offset: UInt64, flags: Int32 = 0
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .writeVectored, fd, offset: offset, address: bits(vectors), length: count, flags: UInt32(bitPattern: flags))
    }

    /// Reads into a part of a registered buffer (`IORING_OP_READ_FIXED`).
    ///
    /// - Parameters:
    ///   - buffer: lies within the registered buffer.
    ///   - bufferIndex: its index.
    @inlinable
    public static func readFixed(
        _ fd: Int32, into buffer: UnsafeMutableRawPointer, count: UInt32, offset: UInt64, bufferIndex: UInt16,
        flags: Int32 = 0
    ) -> SubmissionEntry {
        var entry = unsafe SubmissionEntry(
            .readFixed, fd, offset: offset, address: bits(buffer), length: count, flags: UInt32(bitPattern: flags))
        entry.raw.buf_index = bufferIndex
        return entry
    }

    /// Writes from a part of a registered buffer (`IORING_OP_WRITE_FIXED`). Parameters as for
    /// ``readFixed(_:into:count:offset:bufferIndex:flags:)``.
    @inlinable
    public static func writeFixed(
        _ fd: Int32, from buffer: UnsafeRawPointer, count: UInt32, offset: UInt64, bufferIndex: UInt16,
        flags: Int32 = 0
    ) -> SubmissionEntry {
        var entry = unsafe SubmissionEntry(
            .writeFixed, fd, offset: offset, address: bits(buffer), length: count, flags: UInt32(bitPattern: flags))
        entry.raw.buf_index = bufferIndex
        return entry
    }

    /// Makes a read, a write or a zero-copy send name the registered buffer that its memory lies in.
    ///
    /// - Returns: false, and nothing is changed, for any other entry.
    public mutating func useRegisteredBuffer(_ index: UInt16) -> Bool {
        switch operation {
        case .read: raw.opcode = OperationCode.readFixed.rawValue
        case .write: raw.opcode = OperationCode.writeFixed.rawValue
        case .sendZeroCopy: raw.ioprio |= TransferModifier.fixedBuffer
        default: return false
        }
        raw.buf_index = index
        return true
    }

    /// Reads again and again, each time into a provided buffer, as data comes (`IORING_OP_READ_MULTISHOT`, Linux 6.7).
    /// For pipes, terminals and the like.
    ///
    /// - Parameters:
    ///   - bufferGroup: where to take the buffers from.
    ///   - offset: all ones, as such files have no positions.
    @inlinable
    public static func readMultishot(
        _ fd: Int32, bufferGroup: UInt16, offset: UInt64 = .max
    ) -> SubmissionEntry {
        var entry = SubmissionEntry(.readMultishot, fd, offset: offset)
        entry.flags = .bufferSelect
        entry.bufferGroup = bufferGroup
        return entry
    }

    /// Writes a file's data to its device (`IORING_OP_FSYNC`). Not ordered after writes that have not completed.
    ///
    /// - Parameter dataOnly: leaves out what is not needed to read the data back, like `fdatasync`.
    @inlinable
    public static func synchronize(_ fd: Int32, dataOnly: Bool = false) -> SubmissionEntry {
        SubmissionEntry(.synchronize, fd, flags: dataOnly ? 1 : 0)
    }

    /// Allocates or frees space of a file (`IORING_OP_FALLOCATE`, like `fallocate`).
    ///
    /// - Parameters:
    ///   - mode: `FALLOC_FL_*`.
    ///   - offset: in bytes.
    ///   - length: in bytes.
    @inlinable
    public static func allocate(
        _ fd: Int32, mode: Int32 = 0, offset: UInt64, length: UInt64
    ) -> SubmissionEntry {
        SubmissionEntry(
            .allocate, fd, offset: offset, address: length, length: UInt32(bitPattern: mode))
    }

    /// Sets a file's length in bytes (`IORING_OP_FTRUNCATE`, Linux 6.9).
    @inlinable
    public static func truncate(_ fd: Int32, length: UInt64) -> SubmissionEntry {
        SubmissionEntry(.truncate, fd, offset: length)
    }

    /// Opens a file (`IORING_OP_OPENAT`); the result is a descriptor.
    ///
    /// - Parameters:
    ///   - directory: what a relative path starts from, or `AT_FDCWD`.
    ///   - path: read when the entry is submitted.
    ///   - flags: `O_*`.
    ///   - mode: the permissions of a file that is created.
    @inlinable
    public static func openat(
        _ directory: Int32, path: UnsafePointer<CChar>, flags: Int32, mode: UInt32 = 0
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .openAt, directory, address: bits(path), length: mode, flags: UInt32(bitPattern: flags))
    }

    /// Closes a descriptor (`IORING_OP_CLOSE`).
    @inlinable
    public static func close(_ fd: Int32) -> SubmissionEntry { SubmissionEntry(.close, fd) }

    /// Removes a file from the registered files (`IORING_OP_CLOSE`).
    @inlinable
    public static func close(registeredFile index: UInt32) -> SubmissionEntry {
        var entry = SubmissionEntry(.close, 0)
        entry.fileIndex = index &+ 1
        return entry
    }

    /// Replaces registered files (`IORING_OP_FILES_UPDATE`), before the entries that follow it are looked at.
    ///
    /// - Parameters:
    ///   - index: of the first one to replace.
    ///   - descriptors: -1 empties a place. Read when the entry is submitted.
    @inlinable
    public static func updateFiles(
        at index: UInt32, with descriptors: UnsafePointer<Int32>, count: UInt32
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(.updateFiles, -1, offset: UInt64(index), address: bits(descriptors), length: count)
    }

    /// Waits while a word of memory holds a value, until `FUTEX_WAKE_PRIVATE` wakes it (`IORING_OP_FUTEX_WAIT`,
    /// Linux 6.7).
    ///
    /// Completes with zero when it was woken, at once with `-EAGAIN` when the word holds another value.
    ///
    /// - Parameter word: looked at when the entry is submitted, and afterwards only named.
    @inlinable
    public static func futexWait(_ word: UnsafePointer<UInt32>, while value: UInt32) -> SubmissionEntry {
        // FUTEX2_SIZE_U32 | FUTEX2_PRIVATE; any of the 32 bits of a wake-up will do.
        var entry = unsafe SubmissionEntry(.futexWait, 2 | 128, offset: UInt64(value), address: bits(word))
        entry.raw.addr3 = UInt64(UInt32.max)
        return entry
    }

    /// Moves data between two files, one of them a pipe, without copying it through the process (`IORING_OP_SPLICE`).
    ///
    /// - Parameters:
    ///   - offsetIn: in bytes; -1 for a pipe, or for the file's own position.
    ///   - offsetOut: likewise.
    ///   - count: the most bytes to move.
    ///   - flags: `SPLICE_F_*`; with bit 31 the source is an index into the registered files.
    @inlinable
    public static func splice(
        from source: Int32, offsetIn: Int64 = -1, to destination: Int32, offsetOut: Int64 = -1, count: UInt32,
        flags: UInt32 = 0
    ) -> SubmissionEntry {
        var entry = SubmissionEntry(
            .splice, destination, offset: UInt64(bitPattern: offsetOut), address: UInt64(bitPattern: offsetIn),
            length: count, flags: flags)
        entry.raw.splice_fd_in = source
        return entry
    }

    // MARK: Sockets

    /// Makes a socket (`IORING_OP_SOCKET`, Linux 5.19); the result is a descriptor.
    @inlinable
    public static func socket(
        domain: Int32, type: Int32, protocol: Int32 = 0, flags: UInt32 = 0
    ) -> SubmissionEntry {
        SubmissionEntry(
            .socket, domain, offset: UInt64(UInt32(bitPattern: type)), length: UInt32(bitPattern: `protocol`),
            flags: flags)
    }

    /// Gives a socket an address (`IORING_OP_BIND`, Linux 6.11). The address is read when the entry is submitted.
    @inlinable
    public static func bind(
        _ fd: Int32, address: UnsafePointer<sockaddr>, length: socklen_t
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(.bind, fd, offset: UInt64(length), address: bits(address))
    }

    /// Makes a socket take connections (`IORING_OP_LISTEN`, Linux 6.11).
    @inlinable
    public static func listen(_ fd: Int32, backlog: Int32) -> SubmissionEntry {
        SubmissionEntry(.listen, fd, length: UInt32(bitPattern: backlog))
    }

    /// Accepts one connection (`IORING_OP_ACCEPT`, like `accept4`); the result is its descriptor.
    ///
    /// - Parameters:
    ///   - address: filled in by the kernel, until the operation completes; nil for none.
    ///   - length: holds the room at `address`, and afterwards the size of the address.
    ///   - flags: `SOCK_CLOEXEC`, `SOCK_NONBLOCK`.
    @inlinable
    public static func accept(
        _ fd: Int32, address: UnsafeMutablePointer<sockaddr>?, length: UnsafeMutablePointer<socklen_t>?,
        flags: Int32 = 0
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .accept, fd, offset: bits(length), address: bits(address), flags: UInt32(bitPattern: flags))
    }

    /// Accepts connections until cancelled, each with a completion of its own (`IORING_ACCEPT_MULTISHOT`,
    /// Linux 5.19).
    @inlinable
    public static func acceptMultishot(_ fd: Int32, flags: Int32 = 0) -> SubmissionEntry {
        var entry = SubmissionEntry(.accept, fd, flags: UInt32(bitPattern: flags))
        entry.ioPriorityFlags = AcceptModifier.multishot
        return entry
    }

    /// Connects a socket (`IORING_OP_CONNECT`). The address is read when the entry is submitted.
    @inlinable
    public static func connect(
        _ fd: Int32, address: UnsafePointer<sockaddr>, length: socklen_t
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(.connect, fd, offset: UInt64(length), address: bits(address))
    }

    /// Shuts a connection down (`IORING_OP_SHUTDOWN`).
    ///
    /// - Parameter how: `SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`.
    @inlinable
    public static func shutdown(_ fd: Int32, how: Int32) -> SubmissionEntry {
        SubmissionEntry(.shutdown, fd, length: UInt32(bitPattern: how))
    }

    /// Receives up to `count` bytes (`IORING_OP_RECV`).
    ///
    /// - Parameters:
    ///   - buffer: belongs to the kernel until the operation completes; nil with ``EntryFlags/bufferSelect``.
    ///   - flags: `MSG_*`.
    @inlinable
    public static func receive(
        _ fd: Int32, into buffer: UnsafeMutableRawPointer?, count: UInt32, flags: Int32 = 0
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .receive, fd, address: bits(buffer), length: count, flags: UInt32(bitPattern: flags))
    }

    /// Receives again and again, each time into a provided buffer, as data comes (`IORING_RECV_MULTISHOT`, Linux 6.0).
    ///
    /// Set ``bufferGroup``. It ends, with a completion that lacks ``Completion/more``, at the end of the stream, on an
    /// error, when cancelled, and with `-ENOBUFS` when the group has run out of buffers.
    ///
    /// - Parameter flags: `MSG_*`, but not `MSG_WAITALL`.
    @inlinable
    public static func receiveMultishot(_ fd: Int32, flags: Int32 = 0) -> SubmissionEntry {
        var entry = SubmissionEntry(.receive, fd, flags: UInt32(bitPattern: flags))
        entry.flags = .bufferSelect
        entry.ioPriorityFlags = TransferModifier.multishot
        return entry
    }

    /// Sends up to `count` bytes (`IORING_OP_SEND`).
    ///
    /// - Parameters:
    ///   - buffer: must stay unchanged until the operation completes.
    ///   - flags: `MSG_*`; with `MSG_WAITALL` the kernel goes on until all are sent. A broken connection raises no
    ///     signal.
    @inlinable
    public static func send(
        _ fd: Int32, from buffer: UnsafeRawPointer?, count: UInt32, flags: Int32 = 0
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .send, fd, address: bits(buffer), length: count, flags: UInt32(bitPattern: flags))
    }

    /// Sends up to `count` bytes straight from the caller's memory (`IORING_OP_SEND_ZC`, Linux 6.0).
    ///
    /// Completes twice: with the result, which has ``Completion/more`` if a second one follows, and, once the network
    /// no longer needs the memory, with one that has ``Completion/isNotification``. Only then may it be changed.
    ///
    /// - Parameters:
    ///   - flags: `MSG_*`.
    ///   - bufferIndex: the registered buffer that the memory lies in, if it does.
    @inlinable
    public static func sendZeroCopy(
        _ fd: Int32, from buffer: UnsafeRawPointer?, count: UInt32, flags: Int32 = 0, bufferIndex: UInt16? = nil
    ) -> SubmissionEntry {
        var entry = unsafe SubmissionEntry(
            .sendZeroCopy, fd, address: bits(buffer), length: count, flags: UInt32(bitPattern: flags))
        if let bufferIndex {
            entry.ioPriorityFlags = TransferModifier.fixedBuffer
            entry.raw.buf_index = bufferIndex
        }
        return entry
    }

    /// Sends a message (`IORING_OP_SENDMSG`). The header and what it points at are read when the entry is submitted,
    /// except for the data itself.
    @inlinable
    public static func sendMessage(
        _ fd: Int32, header: UnsafePointer<msghdr>, flags: Int32 = 0
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .sendMessage, fd, address: bits(header), length: 1, flags: UInt32(bitPattern: flags))
    }

    /// Sends a message straight from the caller's memory (`IORING_OP_SENDMSG_ZC`, Linux 6.1). Completes like
    /// ``sendZeroCopy(_:from:count:flags:bufferIndex:)``.
    @inlinable
    public static func sendMessageZeroCopy(
        _ fd: Int32, header: UnsafePointer<msghdr>, flags: Int32 = 0
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .sendMessageZeroCopy, fd, address: bits(header), length: 1, flags: UInt32(bitPattern: flags))
    }

    /// Receives a message (`IORING_OP_RECVMSG`). The kernel writes to the header and to what it points at until the
    /// operation completes.
    @inlinable
    public static func receiveMessage(
        _ fd: Int32, header: UnsafeMutablePointer<msghdr>, flags: Int32 = 0
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .receiveMessage, fd, address: bits(header), length: 1, flags: UInt32(bitPattern: flags))
    }

    /// Receives messages again and again, each into a provided buffer (`IORING_RECV_MULTISHOT`, Linux 6.0). Set
    /// ``bufferGroup``.
    ///
    /// Each buffer starts with a `struct io_uring_recvmsg_out`, then room for an address and for control data of the
    /// lengths in the header, then the data.
    ///
    /// - Parameter header: only its lengths of address and control data are used, when the entry is submitted.
    @inlinable
    public static func receiveMessageMultishot(
        _ fd: Int32, header: UnsafeMutablePointer<msghdr>, flags: Int32 = 0
    ) -> SubmissionEntry {
        var entry = unsafe receiveMessage(fd, header: header, flags: flags)
        entry.flags = .bufferSelect
        entry.ioPriorityFlags = TransferModifier.multishot
        return entry
    }

    // MARK: Readiness, time and cancellation

    /// Waits for readiness (`IORING_OP_POLL_ADD`); the result is the events that came.
    ///
    /// - Parameters:
    ///   - events: `POLLIN` and so on, including `EPOLL*` bits.
    ///   - multishot: whether to go on until cancelled.
    @inlinable
    public static func poll(_ fd: Int32, events: UInt32, multishot: Bool = false) -> SubmissionEntry {
        // On big-endian machines the kernel wants the halves swapped, so that the older field of 16 bits still works.
        #if _endian(big)
        let wire = events << 16 | events >> 16
        #else
        let wire = events
        #endif
        return SubmissionEntry(.pollAdd, fd, length: multishot ? 1 : 0, flags: wire)
    }

    /// Ends a poll with this user data (`IORING_OP_POLL_REMOVE`).
    @inlinable
    public static func pollRemove(userData: UInt64) -> SubmissionEntry {
        SubmissionEntry(.pollRemove, -1, address: userData)
    }

    /// Cancels operations with this user data (`IORING_OP_ASYNC_CANCEL`).
    ///
    /// Completes with zero, or with ``CancelFlags/all`` the number found; with `-ENOENT` when there is none; with
    /// `-EALREADY` when it is running and may or may not end early.
    @inlinable
    public static func cancel(userData: UInt64, flags: CancelFlags = []) -> SubmissionEntry {
        SubmissionEntry(.cancel, -1, address: userData, flags: flags.rawValue)
    }

    /// Cancels operations on a descriptor (`IORING_OP_ASYNC_CANCEL`, Linux 5.19); otherwise like
    /// ``cancel(userData:flags:)``.
    @inlinable
    public static func cancel(descriptor: Int32, flags: CancelFlags = []) -> SubmissionEntry {
        SubmissionEntry(.cancel, descriptor, flags: flags.union(.descriptor).rawValue)
    }

    /// Completes with `-ETIME` when the time is up, or with zero once `count` others have completed
    /// (`IORING_OP_TIMEOUT`).
    ///
    /// - Parameters:
    ///   - time: how long, or until when; read when the entry is submitted.
    ///   - count: how many completions to wait for; zero waits for the time alone.
    @inlinable
    public static func timeout(
        _ time: UnsafePointer<KernelTime>, count: UInt32 = 0, flags: TimeoutFlags = []
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .timeout, -1, offset: UInt64(count), address: bits(time), length: 1, flags: flags.rawValue)
    }

    /// Ends a timeout with this user data (`IORING_OP_TIMEOUT_REMOVE`); it completes with `-ECANCELED`.
    @inlinable
    public static func timeoutRemove(userData: UInt64) -> SubmissionEntry {
        SubmissionEntry(.timeoutRemove, -1, address: userData)
    }

    /// Gives a timeout with this user data a new time (`IORING_TIMEOUT_UPDATE`).
    @inlinable
    public static func timeoutUpdate(
        userData: UInt64, to time: UnsafePointer<KernelTime>, flags: TimeoutFlags = []
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(
            .timeoutRemove, -1, offset: bits(time), address: userData, flags: flags.union(.update).rawValue)
    }

    /// Cancels the entry before it, which has ``EntryFlags/link``, when the time is up (`IORING_OP_LINK_TIMEOUT`).
    /// Completes with `-ETIME` when it did, with `-ECANCELED` when the entry was done before.
    @inlinable
    public static func linkTimeout(
        _ time: UnsafePointer<KernelTime>, flags: TimeoutFlags = []
    ) -> SubmissionEntry {
        unsafe SubmissionEntry(.linkTimeout, -1, address: bits(time), length: 1, flags: flags.rawValue)
    }

    // MARK: Other rings

    /// Posts a completion to another ring (`IORING_OP_MSG_RING`, Linux 5.18), and completes here with zero.
    ///
    /// ``Ring/sendMessage(to:userData:result:)`` does it without a ring of one's own.
    ///
    /// - Parameters:
    ///   - fd: the descriptor of the receiving ring.
    ///   - result: becomes ``Completion/result`` there, bit for bit.
    ///   - userData: becomes ``Completion/userData`` there.
    ///   - flags: `IORING_MSG_RING_*`.
    @inlinable
    public static func messageRing(
        _ fd: Int32, result: UInt32, userData: UInt64, flags: UInt32 = 0
    ) -> SubmissionEntry {
        SubmissionEntry(.messageRing, fd, offset: userData, length: result, flags: flags)
    }
}

/// A length of time, or a point in it, as the kernel takes it (`struct __kernel_timespec`).
@frozen
public struct KernelTime: Sendable, Hashable {
    /// Whole seconds.
    public var seconds: Int64
    /// The rest, below 1,000,000,000.
    public var nanoseconds: Int64

    /// Makes a time from its parts.
    @inlinable
    public init(seconds: Int64 = 0, nanoseconds: Int64 = 0) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }
}

/// How a time is meant: the `IORING_TIMEOUT_*` bits.
public struct TimeoutFlags: OptionSet, Sendable, Hashable {
    /// The bits as the kernel defines them.
    public var rawValue: UInt32

    /// Makes a set from kernel bits.
    @inlinable
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// A point in time, not a length, on the monotonic clock unless another is named.
    @inlinable public static var absolute: TimeoutFlags { TimeoutFlags(rawValue: 1 << 0) }
    /// Changes a timeout. Set by ``SubmissionEntry/timeoutUpdate(userData:to:flags:)``.
    @inlinable public static var update: TimeoutFlags { TimeoutFlags(rawValue: 1 << 1) }
    /// The clock that goes on while the machine is suspended.
    @inlinable public static var bootTime: TimeoutFlags { TimeoutFlags(rawValue: 1 << 2) }
    /// The clock on the wall.
    @inlinable public static var realTime: TimeoutFlags { TimeoutFlags(rawValue: 1 << 3) }
    /// The timeout to change is a linked one.
    @inlinable public static var linkUpdate: TimeoutFlags { TimeoutFlags(rawValue: 1 << 4) }
    /// An expiry counts as success, for links and ``EntryFlags/skipSuccess``.
    @inlinable public static var expirySucceeds: TimeoutFlags { TimeoutFlags(rawValue: 1 << 5) }
    /// Goes off again and again (Linux 6.4).
    @inlinable public static var multishot: TimeoutFlags { TimeoutFlags(rawValue: 1 << 6) }
}

/// Modifiers of receives and sends, for ``SubmissionEntry/ioPriorityFlags``.
public enum TransferModifier {
    /// Waits for readiness first, without trying (`IORING_RECVSEND_POLL_FIRST`).
    @inlinable public static var pollFirst: UInt16 { 1 << 0 }
    /// Receives again and again (`IORING_RECV_MULTISHOT`).
    @inlinable public static var multishot: UInt16 { 1 << 1 }
    /// The memory lies in a registered buffer (`IORING_RECVSEND_FIXED_BUF`).
    @inlinable public static var fixedBuffer: UInt16 { 1 << 2 }
    /// The notification of a zero-copy send says whether data was copied after all (`IORING_SEND_ZC_REPORT_USAGE`,
    /// Linux 6.2).
    @inlinable public static var reportUsage: UInt16 { 1 << 3 }
    /// Takes several provided buffers at once (`IORING_RECVSEND_BUNDLE`, Linux 6.10).
    @inlinable public static var bundle: UInt16 { 1 << 4 }
}

/// Modifiers of accepts, for ``SubmissionEntry/ioPriorityFlags``.
public enum AcceptModifier {
    /// Accepts again and again (`IORING_ACCEPT_MULTISHOT`).
    @inlinable public static var multishot: UInt16 { 1 << 0 }
    /// Fails with `-EAGAIN` instead of waiting (`IORING_ACCEPT_DONTWAIT`, Linux 6.10).
    @inlinable public static var dontWait: UInt16 { 1 << 1 }
    /// Waits for readiness first, without trying (`IORING_ACCEPT_POLL_FIRST`, Linux 6.10).
    @inlinable public static var pollFirst: UInt16 { 1 << 2 }
}
