internal import CIOCPSupport
internal import Glibc

extension Socket {
    /// Starts to accept a connection. Its packet comes to the listener's port and key (g32); the connection is in
    /// ``Packet/acceptedSocket``, associated with nothing (g36).
    ///
    /// - Parameters:
    ///   - firstData: bytes of the operation's buffer to receive the first data of the connection into; the packet then
    ///     comes with them (g33), or with 0 bytes if the peer closes without a word (g34). An empty range waits for the
    ///     connection only.
    ///   - socket: an unconnected socket to put the connection into, as `AcceptEx` does; nil makes one. Closing it ends
    ///     the accept (e30).
    ///
    /// Without a free descriptor the accept ends at once, whether a connection waits or not, with
    /// ``CompletionStatus/tooManyOpenedFiles``. The connections stay in the listener's queue. Started again before a handle
    /// has been closed it ends so again: wait for the end of a connection, not for a while.
    ///
    /// The corresponding Win32 function is `AcceptEx`; io_uring's operation is ACCEPT.
    @discardableResult
    public func accept(
        _ operation: Operation, firstData: Range<Int> = 0..<0, into socket: Socket? = nil, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            let file = try opened()
            let range = firstData.isEmpty ? nil : try ByteRange(firstData, of: operation)
            if socket != nil || operation.extras != nil { operation.needExtras().companion = socket }
            let request = unsafe Engine.Request(kind: .accept, memory: range?.memory, length: range?.count ?? 0)
            guard let socket else { return try Engine.start(operation, on: file, request, start) }
            let target = try socket.opened()
            unsafe try target.await(operation.record, from: file)
            do throws(PortError) {
                return try Engine.start(operation, on: file, request, start)
            } catch {
                unsafe target.abandonAwaiting(operation.record)
                throw error
            }
        }
    }

    /// Starts to accept connections until it is cancelled or fails: one operation, a packet for each connection.
    ///
    /// Packets of connections have ``Packet/isMore``; the last one does not and carries the reason. Running out of
    /// descriptors ends the operation with ``CompletionStatus/tooManyOpenedFiles``; connections that were accepted before
    /// have their packets, the others stay in the listener's queue. Start it again when a handle has been closed: before
    /// that it ends so at once.
    ///
    /// - Throws: ``PortError``: 87 if the listener is associated with no port, or the operation's packets are suppressed.
    ///
    /// Win32 programs keep several `AcceptEx` pending instead; io_uring's operation is multishot ACCEPT.
    public func acceptContinuously(_ operation: Operation, start: Start = .deferred) throws(PortError) {
        _ = try operation.claimed { () throws(PortError) in
            let file = try opened()
            guard file.association != nil else {
                throw .invalid("connections are told of by packets: associate the listener with a port first")
            }
            try operation.requirePacket()
            // Started again, packets of the start before may be with other threads, who look at it.
            if operation.extras?.companion != nil { operation.extras?.companion = nil }
            return unsafe try Engine.start(
                operation, on: file, Engine.Request(kind: .acceptContinuously, continuous: true), start)
        }
    }

    /// Starts to connect, and to send first data once connected.
    ///
    /// Always completes by packet, whatever the start and the handle's modes (g41): refused is 1225, unreachable 1231 or
    /// 1232, timed out 121 (g42). The socket need not be bound first, as `ConnectEx` demands.
    ///
    /// - Parameter firstData: bytes of the operation's buffer; the packet's bytes are theirs.
    ///
    /// The corresponding Win32 function is `ConnectEx`; io_uring's operations are CONNECT and SEND.
    @discardableResult
    public func connect(
        _ operation: Operation, to address: SocketAddress, firstData: Range<Int> = 0..<0, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            let file = try opened()
            let range = firstData.isEmpty ? nil : try ByteRange(firstData, of: operation)
            operation.setMessage(address, nil)
            let request = unsafe Engine.Request(
                kind: .connect, memory: range?.memory, length: range?.count ?? 0, alwaysPends: true)
            return try Engine.start(operation, on: file, request, start)
        }
    }

    /// Starts to end a connection in both directions.
    ///
    /// Always completes by packet, of 0 bytes (g44). Not connected is an error.
    /// - Parameter reuse: leaves the socket unconnected and unbound, ready to connect or to accept into again; its
    ///   association stays (g46). Without it the socket can only be closed.
    ///
    /// The corresponding Win32 function is `DisconnectEx`; io_uring's operation is SHUTDOWN.
    @discardableResult
    public func disconnect(
        _ operation: Operation, reuse: Bool = false, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try startPlain(
            operation,
            unsafe Engine.Request(
                kind: .disconnect, length: reuse ? 1 : 0, callFlags: Int32(SHUT_RDWR), alwaysPends: true), start)
    }

    /// Starts to end one or both directions of the connection.
    ///
    /// The Win32 function `shutdown` queues nothing; see ``shutdown(_:)`` for that. io_uring's is SHUTDOWN.
    @discardableResult
    public func shutdown(
        _ operation: Operation, _ direction: Direction, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try startPlain(
            operation, unsafe Engine.Request(kind: .shutdown, callFlags: direction.rawDirection), start)
    }

    /// Starts to send a file, between two buffers, without copying it through user space.
    ///
    /// One packet, on the socket; its bytes are head, file and tail together (g47). Always completes by packet.
    ///
    /// - Parameters:
    ///   - file: need not be associated nor overlapped (g49); nil sends head and tail only. Kept alive by the operation.
    ///   - offset: bytes from the file's beginning.
    ///   - count: bytes; nil is all from the offset to the end. A file that ends sooner is sent as far as it goes.
    ///   - head: sent before the file, kept alive by the operation.
    ///   - headCount: bytes of the head that are sent, its first; nil is all of it.
    ///   - tail: sent after the file.
    ///   - tailCount: bytes of the tail that are sent, its first; nil is all of it.
    /// - Throws: ``PortError``: 87 for more than 2,147,483,646 bytes (g48), a negative offset or count, or counts beyond
    ///   their buffers.
    ///
    /// The corresponding Win32 function is `TransmitFile`; io_uring's operations are SPLICE and SEND.
    @discardableResult
    public func transmit(
        _ operation: Operation, file: File?, offset: Int64 = 0, count: Int? = nil, head: IOBuffer? = nil,
        headCount: Int? = nil, tail: IOBuffer? = nil, tailCount: Int? = nil, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        let headLength = headCount ?? head?.capacity ?? 0
        let tailLength = tailCount ?? tail?.capacity ?? 0
        guard 0...(head?.capacity ?? 0) ~= headLength, 0...(tail?.capacity ?? 0) ~= tailLength else {
            throw .invalid("the bytes of head and tail that are sent lie within their buffers")
        }
        guard offset >= 0 else { throw .invalid("a file offset must not be negative") }
        guard count ?? 0 >= 0, count ?? 0 <= 2_147_483_646 else {
            throw .invalid("between 0 and 2147483646 bytes of a file are sent by one operation")
        }
        return try operation.claimed { () throws(PortError) in
            let socketFile = try opened()
            let source = try file?.opened()
            // A handle of its own: the file may be closed meanwhile, and its descriptor's number be another's.
            let extras = operation.needExtras()
            extras.companion = try file?.duplicate()
            var isStarted = false
            defer { if !isStarted { extras.companion = nil } }
            extras.moreBuffers = [head, tail].compactMap { $0 }
            let details = unsafe operation.details
            try unsafe details.pointee.preparePipe()
            unsafe details.pointee.transmission.file = source?.descriptor ?? -1
            unsafe details.pointee.transmission.offset = UInt64(offset)
            unsafe details.pointee.transmission.left =
                source.map { Self.bytesToSend($0, from: offset, atMost: count) } ?? 0
            unsafe details.pointee.transmission.inPipe = 0
            unsafe details.pointee.transmission.head = head?.baseAddress
            unsafe details.pointee.transmission.headLength = headLength
            unsafe details.pointee.transmission.tail = tail?.baseAddress
            unsafe details.pointee.transmission.tailLength = tailLength
            let outcome = unsafe try Engine.start(
                operation, on: socketFile, Engine.Request(kind: .transmitFile, alwaysPends: true), start)
            isStarted = true
            return outcome
        }
    }
}

extension Socket {
    /// How much of a file there is to send; nil is all. Known before the start, so that the last part is sent as such:
    /// TCP holds back an incomplete segment that is said to be followed by more.
    private static func bytesToSend(_ file: FileObject, from offset: Int64, atMost count: Int?) -> Int {
        var info = stat()
        guard unsafe fstat(file.descriptor, &info) == 0, info.st_mode & S_IFMT == S_IFREG else { return count ?? .max }
        return min(count ?? .max, max(0, Int(info.st_size) - Int(offset)))
    }
}

extension OperationDetails {
    /// The pipe between a file and a socket, made on first use.
    mutating func preparePipe() throws(PortError) {
        if transmission.pipeRead >= 0 { return }
        var ends: (Int32, Int32) = (-1, -1)
        let result = unsafe withUnsafeMutableBytes(of: &ends) {
            unsafe iocp_pipe($0.baseAddress!.assumingMemoryBound(to: Int32.self))
        }
        guard result == 0 else { throw .system(-result, "the pipe between file and socket cannot be made") }
        transmission.pipeRead = ends.0
        transmission.pipeWrite = ends.1
        // Large, for fewer steps.
        transmission.pipeCapacity = max(4096, Int(iocp_set_pipe_capacity(ends.1, 1 << 20)))
    }
}
