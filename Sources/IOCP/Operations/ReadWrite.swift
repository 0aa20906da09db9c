internal import CIOCPSupport
internal import Glibc

/// Where in a file an operation starts.
public enum FileOffset: Sendable, Equatable, ExpressibleByIntegerLiteral {
    /// That many bytes from the beginning.
    case at(Int64)
    /// At the end, atomically with respect to other appends. Windows: offset 0xFFFFFFFF in both halves (g2).
    case append
    /// Where the descriptor stands: for pipes, devices and sockets, which have no offsets.
    case current

    public init(integerLiteral value: Int64) { self = .at(value) }
}

extension IOHandle {
    /// Starts to read into the operation's buffer.
    ///
    /// Ends with the bytes read, fewer than asked for at the end of a file; at or beyond it with
    /// ``CompletionStatus/endOfFile`` (38, g3); on a pipe whose writers are gone with ``CompletionStatus/pipeBroken``
    /// (109, g15). Reads of one pipe, device or socket are filled in the order of their starts (g26). On a stream socket
    /// it is a receive, and its graceful end is a success of 0 bytes (g22).
    ///
    /// - Parameters:
    ///   - operation: idle; in flight until its packet.
    ///   - offset: of a file; ignored for handles without offsets.
    ///   - range: bytes of the operation's buffer to fill; nil is all of it. An empty range succeeds with 0 bytes.
    ///   - start: deferred or eager.
    /// - Returns: ``StartOutcome/pending``, or for an eager start that completed at once its bytes.
    /// - Throws: ``PortError``: 6 for a closed handle, 87 for a negative offset or a range outside of the buffer or an
    ///   operation in flight, 998 without a buffer; for an eager start also its immediate failure.
    /// - Cost: allocates nothing; deferred, no system call.
    ///
    /// The corresponding Win32 function is `ReadFile`; io_uring's operation is READ.
    @discardableResult
    public final func read(
        _ operation: Operation, at offset: FileOffset = 0, into range: Range<Int>? = nil, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            try read(operation, offset, ByteRange(range, of: operation), start)
        }
    }

    /// Starts to read into memory that the caller keeps alive until the packet.
    @discardableResult
    @unsafe
    public final func read(
        _ operation: Operation, at offset: FileOffset = 0, intoMemory memory: UnsafeMutableRawBufferPointer,
        start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            unsafe try read(operation, offset, ByteRange(memory), start)
        }
    }

    /// Starts to write from the operation's buffer.
    ///
    /// Writes all of the range or fails: a part is followed by the rest. A pipe without readers fails with
    /// ``CompletionStatus/pipeClosing`` (232, g14).
    ///
    /// Parameters, errors and cost are those of ``read(_:at:into:start:)-(_,_,Range<Int>?,_)``.
    /// The corresponding Win32 function is `WriteFile`; io_uring's operation is WRITE.
    @discardableResult
    public final func write(
        _ operation: Operation, at offset: FileOffset = 0, from range: Range<Int>? = nil, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            try write(operation, offset, ByteRange(range, of: operation), start)
        }
    }

    /// Starts to write from memory that the caller keeps alive until the packet.
    @discardableResult
    @unsafe
    public final func write(
        _ operation: Operation, at offset: FileOffset = 0, fromMemory memory: UnsafeRawBufferPointer,
        start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            unsafe try write(operation, offset, ByteRange(UnsafeMutableRawBufferPointer(mutating: memory)), start)
        }
    }

    /// Starts to read into several buffers, filled in order.
    ///
    /// - Parameter buffers: kept alive with the operation; all of each.
    ///
    /// The corresponding Win32 function is `ReadFileScatter`, without its alignment rules; io_uring's is READV.
    @discardableResult
    public final func read(
        _ operation: Operation, at offset: FileOffset = 0, into buffers: [IOBuffer], start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try vectored(operation, .readVectored, offset, buffers, start)
    }

    /// Starts to write several buffers in order, as one write.
    ///
    /// The corresponding Win32 function is `WriteFileGather`; io_uring's is WRITEV.
    @discardableResult
    public final func write(
        _ operation: Operation, at offset: FileOffset = 0, from buffers: [IOBuffer], start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try vectored(operation, .writeVectored, offset, buffers, start)
    }

    // MARK: Claimed operations; each of these unclaims it on a throw, or lets the caller do it

    private func read(
        _ operation: Operation, _ offset: FileOffset, _ range: ByteRange, _ start: Start
    ) throws(PortError) -> StartOutcome {
        try withOpened { (file) throws(PortError) in
            try Engine.start(operation, on: file, Self.readRequest(file, offset, range), start)
        }
    }

    private func write(
        _ operation: Operation, _ offset: FileOffset, _ range: ByteRange, _ start: Start
    ) throws(PortError) -> StartOutcome {
        try withOpened { (file) throws(PortError) in
            try Engine.start(operation, on: file, Self.writeRequest(file, offset, range), start)
        }
    }

    // MARK: Requests

    static func readRequest(
        _ file: FileObject, _ offset: FileOffset, _ range: ByteRange
    ) throws(PortError) -> Engine.Request {
        unsafe try check(range.memory, range.count)
        if file.kind == .stream || file.kind == .message || file.kind == .mailSlot {
            return try Socket.receiveRequest(file, range, 0)
        }
        // An empty read of a pipe waits for something to read, and takes nothing (g18).
        return unsafe try Engine.Request(
            kind: range.count == 0 && file.kind == .pipe ? .zeroByteRead : .read, memory: range.memory,
            length: range.count, offset: position(offset, file, range.count))
    }

    static func writeRequest(
        _ file: FileObject, _ offset: FileOffset, _ range: ByteRange
    ) throws(PortError) -> Engine.Request {
        unsafe try check(range.memory, range.count)
        if file.kind == .stream || file.kind == .message || file.kind == .mailSlot {
            return try Socket.sendRequest(file, range, 0)
        }
        return unsafe try Engine.Request(
            kind: .write, memory: range.memory, length: range.count, offset: position(offset, file, range.count),
            callFlags: offset == .append ? Int32(IOCP_RWF_APPEND) : 0)
    }

    private func vectored(
        _ operation: Operation, _ kind: OperationKind, _ offset: FileOffset, _ buffers: [IOBuffer], _ start: Start
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            let file = try opened()
            let length = try operation.setVector(buffers)
            if file.kind == .stream || file.kind == .message || file.kind == .mailSlot {
                return try Engine.start(
                    operation, on: file, Socket.vectoredRequest(operation, file, length, reads: kind == .readVectored),
                    start)
            }
            let request = unsafe try Engine.Request(
                kind: kind, length: length, offset: Self.position(offset, file, length),
                callFlags: offset == .append ? Int32(IOCP_RWF_APPEND) : 0)
            return try Engine.start(operation, on: file, request, start)
        }
    }

    private static func check(_ memory: UnsafeMutableRawPointer?, _ count: Int) throws(PortError) {
        if unsafe memory == nil && count > 0 {
            throw PortError(.accessViolation, "no memory was given for \(count) bytes")
        }
    }

    private static func position(_ offset: FileOffset, _ file: FileObject, _ length: Int) throws(PortError) -> UInt64 {
        switch offset {
        case .at(let bytes):
            guard bytes >= 0 else { throw .invalid("a file offset must not be negative") }
            guard bytes <= Int64.max - Int64(length) else { throw .invalid("the range ends beyond the largest offset") }
            return file.kind == .file ? UInt64(bytes) : Requests.currentPosition
        case .append:
            guard file.kind == .file else { return Requests.currentPosition }
            return 0
        case .current:
            return Requests.currentPosition
        }
    }
}

extension Operation {
    /// Makes the claimed operation's vector describe these buffers. Returns their length in bytes.
    final func setVector(_ buffers: [IOBuffer]) throws(PortError) -> Int {
        guard buffers.count <= 1024 else {
            throw .invalid("at most 1024 buffers (IOV_MAX) take part in one operation; there are \(buffers.count)")
        }
        needExtras().moreBuffers = buffers
        let details = unsafe details
        unsafe details.pointee.setVector(count: buffers.count)
        var length = 0
        for (index, buffer) in buffers.enumerated() {
            unsafe details.pointee.vector![index] = iovec(iov_base: buffer.baseAddress, iov_len: buffer.capacity)
            length += buffer.capacity
        }
        return length
    }
}
