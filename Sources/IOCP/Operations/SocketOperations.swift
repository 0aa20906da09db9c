internal import Glibc
internal import IOUring
internal import Synchronization

/// Modifiers of a receive.
public struct ReceiveFlags: OptionSet, Sendable {
    public let rawValue: Int32
    public init(rawValue: Int32) { self.rawValue = rawValue }

    /// Leaves the data where it is. Win32: `MSG_PEEK`.
    public static let peek = ReceiveFlags(rawValue: Int32(MSG_PEEK))
    /// Completes when the whole range is filled, or the connection ends. Win32: `MSG_WAITALL`.
    public static let waitAll = ReceiveFlags(rawValue: Int32(MSG_WAITALL))
}

extension Socket {
    /// Starts to receive into the operation's buffer.
    ///
    /// On a stream it ends with at least one byte, or with a success of 0 bytes when the peer has ended its side (g22),
    /// or with ``CompletionStatus/connectionReset`` (64, g23). A message that is longer than the range fills it and ends
    /// with ``CompletionStatus/bufferOverflow`` (234), the rest lost (g51). An empty message is a success of 0 bytes
    /// (g53). An empty range on a stream completes when there is something to receive and takes nothing (g28); on a
    /// message socket it takes and discards a message (g54).
    ///
    /// - Parameters:
    ///   - operation: idle; in flight until its packet.
    ///   - range: bytes of the operation's buffer to fill; nil is all of it.
    /// - Throws: ``PortError``: see ``IOHandle/read(_:at:into:start:)-(_,_,Range<Int>?,_)``.
    /// - Cost: allocates nothing; deferred, no system call.
    ///
    /// The corresponding Win32 function is `WSARecv`; io_uring's operation is RECV.
    @discardableResult
    public func receive(
        _ operation: Operation, into range: Range<Int>? = nil, flags: ReceiveFlags = [], start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            try withOpened { (file) throws(PortError) in
                let request = try Self.receiveRequest(file, ByteRange(range, of: operation), flags.rawValue)
                return try Engine.start(operation, on: file, request, start)
            }
        }
    }

    /// Starts to receive into memory that the caller keeps alive until the packet.
    @discardableResult
    @unsafe
    public func receive(
        _ operation: Operation, intoMemory memory: UnsafeMutableRawBufferPointer, flags: ReceiveFlags = [],
        start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            let file = try opened()
            return unsafe try Engine.start(
                operation, on: file, Self.receiveRequest(file, ByteRange(memory), flags.rawValue), start)
        }
    }

    /// Starts to receive into several buffers, filled in order.
    ///
    /// The corresponding Win32 function is `WSARecv` with several buffers; io_uring's operation is RECVMSG.
    @discardableResult
    public func receive(
        _ operation: Operation, into buffers: [IOBuffer], flags: ReceiveFlags = [], start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        guard !buffers.isEmpty else { throw .invalid("a scattered receive needs at least one buffer") }
        return try startMessage(operation, .receiveMessage, buffers, nil, nil, flags.rawValue, start)
    }

    /// Starts to receive a message with its sender's address and control data.
    ///
    /// The address is ``Operation/peerAddress`` after the packet.
    /// - Parameters:
    ///   - buffers: for the message; nil is the operation's own buffer.
    ///   - control: for control data (`cmsghdr`), kept alive with the operation; ``Operation/controlLength`` tells how
    ///     much came.
    ///
    /// The corresponding Win32 functions are `WSARecvFrom` and `WSARecvMsg`; io_uring's operation is RECVMSG.
    @discardableResult
    public func receiveMessage(
        _ operation: Operation, into buffers: [IOBuffer]? = nil, control: IOBuffer? = nil, flags: ReceiveFlags = [],
        start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try startMessage(
            operation, .receiveMessage, buffers ?? operation.buffer.map { [$0] } ?? [], nil, control, flags.rawValue,
            start)
    }

    /// Starts to send from the operation's buffer.
    ///
    /// A stream send completes when all of the range has been accepted, or fails (g27). A reset connection fails with
    /// ``CompletionStatus/connectionReset``, a locally shut one with ``CompletionStatus/sendAfterShutdown``.
    ///
    /// The corresponding Win32 function is `WSASend`; io_uring's operation is SEND.
    @discardableResult
    public func send(
        _ operation: Operation, from range: Range<Int>? = nil, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            try withOpened { (file) throws(PortError) in
                try Engine.start(operation, on: file, Self.sendRequest(file, ByteRange(range, of: operation), 0), start)
            }
        }
    }

    /// Starts to send the first bytes of the operation's buffer.
    @discardableResult
    public func send(
        _ operation: Operation, count: Int, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        guard count >= 0 else { throw .invalid("a count of bytes must not be negative") }
        return try send(operation, from: 0..<count, start: start)
    }

    /// Starts to send from memory that the caller keeps alive until the packet.
    @discardableResult
    @unsafe
    public func send(
        _ operation: Operation, fromMemory memory: UnsafeRawBufferPointer, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            let file = try opened()
            let range = unsafe ByteRange(UnsafeMutableRawBufferPointer(mutating: memory))
            return try Engine.start(operation, on: file, Self.sendRequest(file, range, 0), start)
        }
    }

    /// Starts to send from the operation's buffer without copying it: the network takes the data from there.
    ///
    /// As ``send(_:from:start:)-(_,Range<Int>?,_)``, but the packet comes when the network needs the memory no more, for
    /// TCP when the peer's system has acknowledged all of it: later sends may begin, and have their packets, before. A
    /// cancel that finds the data with the network already changes nothing.
    ///
    /// It pays for large ranges to other machines, and costs where the data must be copied after all, as to the same
    /// machine, or are few: see <doc:FasterWays>. The data are copied in the first place on Unix sockets, where no more
    /// memory may be locked, in the own ring of a port's single consumer, and on kernels before 6.0.
    ///
    /// Win32 does so where `SO_SNDBUF` is 0; io_uring's operation is SEND_ZC.
    @discardableResult
    public func sendZeroCopy(
        _ operation: Operation, from range: Range<Int>? = nil, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            let file = try opened()
            var request = try Self.sendRequest(file, ByteRange(range, of: operation), 0)
            if zeroCopyIsRequest.load(ordering: .relaxed) { request.kind = .sendZeroCopy }
            return try Engine.start(operation, on: file, request, start)
        }
    }

    /// Starts to send several buffers in order.
    ///
    /// The corresponding Win32 function is `WSASend` with several buffers; io_uring's operation is SENDMSG.
    @discardableResult
    public func send(
        _ operation: Operation, from buffers: [IOBuffer], start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try startMessage(operation, .sendMessage, buffers, nil, nil, 0, start)
    }

    /// Starts to send a message, to an address and with control data.
    ///
    /// - Parameters:
    ///   - range: bytes of the operation's buffer; nil is all of it.
    ///   - address: nil for a connected socket.
    ///   - control: a complete `cmsghdr` sequence, all of the buffer.
    ///
    /// The corresponding Win32 functions are `WSASendTo` and `WSASendMsg`; io_uring's operation is SENDMSG.
    @discardableResult
    public func sendMessage(
        _ operation: Operation, from range: Range<Int>? = nil, to address: SocketAddress? = nil,
        control: IOBuffer? = nil, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            let file = try opened()
            let bytes = try ByteRange(range, of: operation)
            let details = unsafe operation.details
            unsafe details.pointee.setVector(count: 1)
            unsafe details.pointee.vector![0] = iovec(iov_base: bytes.memory, iov_len: bytes.count)
            operation.setMessage(address, control)
            let request = unsafe Engine.Request(
                kind: .sendMessage, length: bytes.count, callFlags: Self.sendFlags(file))
            return try Engine.start(operation, on: file, request, start)
        }
    }

    private func startMessage(
        _ operation: Operation, _ kind: OperationKind, _ buffers: [IOBuffer], _ address: SocketAddress?,
        _ control: IOBuffer?, _ flags: Int32, _ start: Start
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            let file = try opened()
            let length = try operation.setVector(buffers)
            operation.setMessage(address, control)
            if kind == .receiveMessage { operation.expectAddress() }
            let request = unsafe Engine.Request(
                kind: kind, length: length, callFlags: kind == .sendMessage ? Self.sendFlags(file) : flags)
            return try Engine.start(operation, on: file, request, start)
        }
    }

    // MARK: Requests

    static func receiveRequest(_ file: FileObject, _ range: ByteRange, _ flags: Int32) throws(PortError)
        -> Engine.Request
    {
        if unsafe range.memory == nil && range.count > 0 {
            throw PortError(.accessViolation, "no memory was given for \(range.count) bytes")
        }
        if file.kind == .message || file.kind == .mailSlot {
            // The kernel then says how long the message was.
            return unsafe Engine.Request(
                kind: .receive, memory: range.memory, length: range.count, callFlags: flags | Int32(MSG_TRUNC))
        }
        return unsafe Engine.Request(
            kind: range.count == 0 ? .zeroByteReceive : .receive, memory: range.memory, length: range.count,
            callFlags: flags)
    }

    static func sendRequest(_ file: FileObject, _ range: ByteRange, _ flags: Int32) throws(PortError) -> Engine.Request
    {
        if unsafe range.memory == nil && range.count > 0 {
            throw PortError(.accessViolation, "no memory was given for \(range.count) bytes")
        }
        return unsafe Engine.Request(
            kind: .send, memory: range.memory, length: range.count, callFlags: flags | sendFlags(file))
    }

    /// A scattered or gathered read or write: as a message, since WRITEV on a broken connection raises SIGPIPE.
    static func vectoredRequest(
        _ operation: Operation, _ file: FileObject, _ length: Int, reads: Bool
    ) -> Engine.Request {
        operation.setMessage(nil, nil)
        return unsafe Engine.Request(
            kind: reads ? .receiveMessage : .sendMessage, length: length, callFlags: reads ? 0 : sendFlags(file))
    }

    /// No signal for a broken connection; on a stream, the kernel itself goes on until all is sent.
    ///
    /// A message is tried without waiting, since the kernel's own second try of a Unix datagram sends an empty one (seen
    /// on 6.18: the first has used the data up); ``Outcomes`` waits and tries afresh.
    static func sendFlags(_ file: FileObject) -> Int32 {
        file.kind == .stream || file.kind == .pipe
            ? Int32(MSG_NOSIGNAL | MSG_WAITALL) : Int32(MSG_NOSIGNAL | MSG_DONTWAIT)
    }
}

extension Operation {
    /// Fills the claimed operation's message from its vector.
    final func setMessage(_ address: SocketAddress?, _ control: IOBuffer?) {
        let details = unsafe details
        unsafe details.pointee.message = msghdr()
        unsafe details.pointee.attachVector()
        unsafe details.pointee.addressLength = 0
        if let address {
            unsafe address.withSockAddr { pointer, length in
                unsafe withUnsafeMutableBytes(of: &details.pointee.address) {
                    unsafe $0.copyMemory(from: UnsafeRawBufferPointer(start: pointer, count: Int(length)))
                }
                unsafe details.pointee.addressLength = length
            }
            unsafe details.pointee.message.msg_name = details.addressPointer
            unsafe details.pointee.message.msg_namelen = details.pointee.addressLength
        }
        if control != nil || extras?.control != nil { needExtras().control = control }
        if let control {
            unsafe details.pointee.message.msg_control = control.baseAddress
            unsafe details.pointee.message.msg_controllen = numericCast(control.capacity)
        }
    }

    final func expectAddress() {
        let details = unsafe details
        unsafe details.pointee.message.msg_name = details.addressPointer
        unsafe details.pointee.message.msg_namelen = socklen_t(MemoryLayout<sockaddr_storage>.size)
    }

    /// The sender of the message that was received, or the address that was given; nil if there is none.
    public final var peerAddress: SocketAddress? {
        guard let details = unsafe record.pointee.details, unsafe details.pointee.addressLength > 0 else { return nil }
        return unsafe try? SocketAddress(
            details.addressPointer.assumingMemoryBound(to: sockaddr.self), length: details.pointee.addressLength)
    }

    /// Bytes of control data that came with the received message.
    public final var controlLength: Int {
        guard let details = unsafe record.pointee.details else { return 0 }
        return unsafe Int(details.pointee.message.msg_controllen)
    }
}

extension UnsafeMutablePointer<OperationDetails> {
    /// Where the address lies: within memory that stays until the operation is gone.
    var addressPointer: UnsafeMutableRawPointer {
        unsafe UnsafeMutableRawPointer(self) + MemoryLayout<OperationDetails>.offset(of: \.address)!
    }

    var messagePointer: UnsafeMutablePointer<msghdr> {
        unsafe (UnsafeMutableRawPointer(self) + MemoryLayout<OperationDetails>.offset(of: \.message)!)
            .assumingMemoryBound(to: msghdr.self)
    }
}

/// Whether the kernel has a request that sends without copying. Looked up once; a test turns it off.
let zeroCopyIsRequest: Atomic<Bool> = Atomic((try? Capabilities.probe())?.supports(.sendZeroCopy) ?? false)
