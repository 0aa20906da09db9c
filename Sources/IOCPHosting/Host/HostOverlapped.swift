public import IOCP

/// An OVERLAPPED of a runtime's, with the host's bytes behind it.
///
/// The runtime allocates ``headerSize`` bytes and, right behind them, as many as
/// ``IOCompletionHost/getHostOverlappedSize()`` says, at an address that is a multiple of ``alignment``; it has the host
/// make them ready once, and may then start operations with them, one at a time. It frees the memory when no operation is
/// in flight, without a word to the host.
///
/// `Internal`, `InternalHigh`, `Offset` and `hEvent` mean what they mean on Windows: the status, pending from the start on,
/// written at the end before the packet can be dequeued; the bytes transferred; where in a file to read or write, all
/// ones in both halves to append; an event that is reset at the start and set at the end, whose low bit says that there is
/// to be no packet.
///
/// The corresponding Windows structure is `OVERLAPPED`.
@unsafe
public struct HostOverlapped: @unchecked Sendable {
    public let pointer: UnsafeMutableRawPointer

    public init(_ pointer: UnsafeMutableRawPointer) { unsafe self.pointer = unsafe pointer }

    /// Bytes of the OVERLAPPED itself: 32 on a 64-bit system.
    public static var headerSize: Int { OverlappedOperation.headerSize }
    /// What the address must be a multiple of: 8. Memory that `malloc` gives is aligned so.
    public static var alignment: Int { OverlappedOperation.alignment }

    var operation: OverlappedOperation { unsafe OverlappedOperation(at: pointer) }

    /// `Internal`: `CompletionStatus.pending` from the start to the end, then how it ended.
    public var status: CompletionStatus {
        unsafe CompletionStatus(rawValue: UInt32(truncatingIfNeeded: operation.status))
    }
    /// `InternalHigh`: bytes transferred.
    public var bytes: Int { unsafe Int(truncatingIfNeeded: operation.information) }

    /// `Offset` and `OffsetHigh` together; `UInt64.max` appends.
    public var offset: UInt64 {
        get { unsafe operation.position }
        nonmutating set { unsafe operation.position = newValue }
    }

    /// `hEvent`, its low bit included.
    public var event: UInt {
        get { unsafe operation.event }
        nonmutating set { unsafe operation.event = newValue }
    }

    /// Sets `hEvent`.
    public func signal(_ event: HostHandle?, suppressesPacket: Bool = false) {
        unsafe self.event = (event?.rawValue ?? 0) | (suppressesPacket ? 1 : 0)
    }

    /// The event that `hEvent` names, and whether its low bit is set (e8).
    func signal() throws(PortError) -> (event: CompletionEvent?, suppressesPacket: Bool) {
        let raw = unsafe self.event
        if raw == 0 { return (nil, false) }
        guard let event = HostHandle(rawValue: raw & ~1).event else {
            throw PortError(.invalidHandle, "hEvent names no event; make one, or leave it 0")
        }
        return (event, raw & 1 != 0)
    }
}

extension IOHandle {
    /// Starts to read with an OVERLAPPED, at its offset.
    ///
    /// Ends as `IOHandle.read(_:at:into:start:)` does; its packet is handed to the runtime by
    /// the host that the handle is bound to.
    ///
    /// - Parameters:
    ///   - overlapped: made ready by the host, and not in flight.
    ///   - memory: kept alive by the caller until the end.
    /// - Throws: `PortError`: 87 for an OVERLAPPED that was not made ready or is in flight, 6 for a closed handle or
    ///   port and for an `hEvent` that names no event; for an eager start also its immediate failure.
    /// - Cost: allocates nothing; deferred and on a thread of the host's, no system call.
    ///
    /// The corresponding Win32 function is `ReadFile`.
    @discardableResult
    @unsafe
    public func read(
        _ overlapped: HostOverlapped, into memory: UnsafeMutableRawBufferPointer, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        let (event, suppressesPacket) = unsafe try overlapped.signal()
        return unsafe try overlapped.operation.read(self, memory, start, event, suppressesPacket: suppressesPacket)
    }

    /// Starts to write with an OVERLAPPED, at its offset. The corresponding Win32 function is `WriteFile`.
    @discardableResult
    @unsafe
    public func write(
        _ overlapped: HostOverlapped, from memory: UnsafeRawBufferPointer, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        let (event, suppressesPacket) = unsafe try overlapped.signal()
        return unsafe try overlapped.operation.write(self, memory, start, event, suppressesPacket: suppressesPacket)
    }

    /// Asks for the end of the operation that was started with an OVERLAPPED on this handle's file object.
    ///
    /// - Throws: `PortError` with `CompletionStatus.notFound` (1168) if it is not pending here.
    ///
    /// The corresponding Win32 function is `CancelIoEx`.
    @unsafe
    public func cancel(_ overlapped: HostOverlapped) throws(PortError) {
        unsafe try overlapped.operation.cancel(on: self)
    }
}

extension Socket {
    /// Starts to receive with an OVERLAPPED. The corresponding Win32 function is `WSARecv`.
    @discardableResult
    @unsafe
    public func receive(
        _ overlapped: HostOverlapped, into memory: UnsafeMutableRawBufferPointer, flags: ReceiveFlags = [],
        start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        let (event, suppressesPacket) = unsafe try overlapped.signal()
        return unsafe try overlapped.operation.receive(
            self, memory, flags, start, event, suppressesPacket: suppressesPacket)
    }

    /// Starts to send with an OVERLAPPED. The corresponding Win32 function is `WSASend`.
    @discardableResult
    @unsafe
    public func send(
        _ overlapped: HostOverlapped, from memory: UnsafeRawBufferPointer, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        let (event, suppressesPacket) = unsafe try overlapped.signal()
        return unsafe try overlapped.operation.send(self, memory, start, event, suppressesPacket: suppressesPacket)
    }

    /// Starts to accept a connection with an OVERLAPPED.
    ///
    /// - Parameters:
    ///   - socket: unconnected; it gets the connection. Closing it ends the accept (e30).
    ///   - firstData: memory for the first data of the connection; empty waits for the connection only.
    ///
    /// The corresponding Win32 function is `AcceptEx`.
    @discardableResult
    @unsafe
    public func accept(
        _ overlapped: HostOverlapped, into socket: Socket,
        firstData: UnsafeMutableRawBufferPointer = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0),
        start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        let (event, suppressesPacket) = unsafe try overlapped.signal()
        return unsafe try overlapped.operation.accept(
            self, into: socket, firstData, start, event, suppressesPacket: suppressesPacket)
    }
}
