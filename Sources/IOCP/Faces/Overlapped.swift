internal import CIOCPSupport
internal import Synchronization

/// The Windows OVERLAPPED, as programs lay it out: 32 bytes on a 64-bit system, 20 on a 32-bit one.
@safe struct Overlapped: ~Copyable {
    /// `Internal`: the NTSTATUS.
    let status: Atomic<UInt>
    /// `InternalHigh`: the bytes transferred.
    let information: Atomic<UInt>
    var offset: UInt32
    var offsetHigh: UInt32
    /// `hEvent`.
    var event: UInt

    /// The end of an operation. Whoever sees the status sees the information; the memory may be gone after it.
    @inline(__always)
    static func complete(at address: UInt, _ status: UInt32, _ information: UInt) {
        let overlapped = unsafe UnsafeMutablePointer<Overlapped>(bitPattern: address)!
        unsafe overlapped.pointee.information.store(information, ordering: .relaxed)
        unsafe overlapped.pointee.status.store(UInt(status), ordering: .releasing)
    }
}

/// An OVERLAPPED with the library's record of the operation behind it, both in memory of a face's user.
///
/// A start allocates nothing. The record holds nothing between two starts: the memory may simply be freed.
@safe package struct OverlappedOperation {
    private let overlapped: UnsafeMutablePointer<Overlapped>
    private let record: OperationRecord.Pointer

    /// Bytes behind the OVERLAPPED.
    package static var recordSize: Int { MemoryLayout<OperationRecord>.stride }
    /// What the address of the OVERLAPPED must be a multiple of: io_uring carries the record's address, and the library
    /// uses the low bits that are zero then.
    package static var alignment: Int { max(8, MemoryLayout<OperationRecord>.alignment) }

    /// Not looked at yet.
    package init(at memory: UnsafeMutableRawPointer) {
        unsafe overlapped = memory.assumingMemoryBound(to: Overlapped.self)
        unsafe record = (memory + MemoryLayout<Overlapped>.size).assumingMemoryBound(to: OperationRecord.self)
    }

    /// Bytes of the OVERLAPPED itself.
    package static var headerSize: Int { MemoryLayout<Overlapped>.size }

    /// `Internal`: the NTSTATUS. Whoever sees it sees ``information`` too.
    package var status: UInt {
        get { unsafe overlapped.pointee.status.load(ordering: .acquiring) }
        nonmutating set { unsafe overlapped.pointee.status.store(newValue, ordering: .releasing) }
    }

    /// `InternalHigh`: the bytes transferred.
    package var information: UInt {
        get { unsafe overlapped.pointee.information.load(ordering: .relaxed) }
        nonmutating set { unsafe overlapped.pointee.information.store(newValue, ordering: .relaxed) }
    }

    /// `Offset` and `OffsetHigh`.
    package var position: UInt64 {
        get { unsafe UInt64(overlapped.pointee.offsetHigh) << 32 | UInt64(overlapped.pointee.offset) }
        nonmutating set {
            unsafe overlapped.pointee.offset = UInt32(truncatingIfNeeded: newValue)
            unsafe overlapped.pointee.offsetHigh = UInt32(truncatingIfNeeded: newValue >> 32)
        }
    }

    /// `hEvent`.
    package var event: UInt {
        get { unsafe overlapped.pointee.event }
        nonmutating set { unsafe overlapped.pointee.event = newValue }
    }

    private var address: UInt { unsafe UInt(bitPattern: overlapped) }

    /// Whether it was made ready, as far as can be told: a record says where it lies.
    private var isReady: Bool {
        unsafe address % UInt(Self.alignment) == 0 && record.pointee.token == address && record.pointee.owner == nil
    }

    /// Makes the record ready. The OVERLAPPED is not touched.
    package func initialize() throws(PortError) {
        guard address % UInt(Self.alignment) == 0 else {
            throw .invalid("an OVERLAPPED must lie at a multiple of \(Self.alignment) bytes")
        }
        if isReady, unsafe record.pointee.phase.load(ordering: .acquiring) != OperationRecord.Phase.idle {
            throw .operationInFlight
        }
        unsafe record.initialize(to: OperationRecord(token: address))
    }

    /// The offset that the OVERLAPPED names; both halves all ones is the end (g2).
    private var offset: FileOffset {
        position == .max ? .append : .at(Int64(bitPattern: position))
    }

    // MARK: Starting

    package func read(
        _ handle: IOHandle, _ memory: UnsafeMutableRawBufferPointer, _ start: Start, _ event: CompletionEvent?,
        suppressesPacket: Bool
    ) throws(PortError) -> StartOutcome {
        try begin(handle, start, event, suppressesPacket) { (file) throws(PortError) in
            unsafe try IOHandle.readRequest(file, offset, ByteRange(memory))
        }
    }

    package func write(
        _ handle: IOHandle, _ memory: UnsafeRawBufferPointer, _ start: Start, _ event: CompletionEvent?,
        suppressesPacket: Bool
    ) throws(PortError) -> StartOutcome {
        try begin(handle, start, event, suppressesPacket) { (file) throws(PortError) in
            unsafe try IOHandle.writeRequest(
                file, offset, ByteRange(UnsafeMutableRawBufferPointer(mutating: memory)))
        }
    }

    package func receive(
        _ socket: Socket, _ memory: UnsafeMutableRawBufferPointer, _ flags: ReceiveFlags, _ start: Start,
        _ event: CompletionEvent?, suppressesPacket: Bool
    ) throws(PortError) -> StartOutcome {
        try begin(socket, start, event, suppressesPacket) { (file) throws(PortError) in
            unsafe try Socket.receiveRequest(file, ByteRange(memory), flags.rawValue)
        }
    }

    package func send(
        _ socket: Socket, _ memory: UnsafeRawBufferPointer, _ start: Start, _ event: CompletionEvent?,
        suppressesPacket: Bool
    ) throws(PortError) -> StartOutcome {
        try begin(socket, start, event, suppressesPacket) { (file) throws(PortError) in
            unsafe try Socket.sendRequest(file, ByteRange(UnsafeMutableRawBufferPointer(mutating: memory)), 0)
        }
    }

    /// - Parameters:
    ///   - target: an unconnected socket, for the connection.
    ///   - memory: for its first data; empty does not wait for any.
    package func accept(
        _ listener: Socket, into target: Socket, _ memory: UnsafeMutableRawBufferPointer, _ start: Start,
        _ event: CompletionEvent?, suppressesPacket: Bool
    ) throws(PortError) -> StartOutcome {
        let socket = try target.opened()
        return try begin(listener, start, event, suppressesPacket) { (file) throws(PortError) in
            let range = unsafe ByteRange(memory)
            unsafe try socket.await(record, from: file)
            return unsafe Engine.Request(kind: .accept, memory: range.memory, length: range.count)
        } undo: {
            unsafe socket.abandonAwaiting(record)
        }
    }

    /// Asks for the end of the operation, if it is pending on the handle.
    package func cancel(on handle: IOHandle) throws(PortError) {
        let file = try handle.opened()
        let found = unsafe file.pendingOperations { unsafe $0 == record }
        guard let start = found.first, Engine.cancel(start) else {
            throw PortError(.notFound, "the operation is not pending on this handle")
        }
    }

    /// Claims the record, fills it and starts it. On success it may be over, and gone, when this returns.
    @inline(__always)
    private func begin(
        _ handle: IOHandle, _ start: Start, _ event: CompletionEvent?, _ suppressesPacket: Bool,
        _ makeRequest: (FileObject) throws(PortError) -> Engine.Request, undo: () -> Void = {}
    ) throws(PortError) -> StartOutcome {
        guard isReady else {
            throw .invalid("the OVERLAPPED was not made ready; have the host initialize it before it is used")
        }
        unsafe try record.pointee.claim()
        var isFilled = false
        do throws(PortError) {
            let file = try handle.opened()
            let request = try makeRequest(file)
            isFilled = true
            unsafe record.pointee.event = event.map { unsafe Unmanaged.passRetained($0) }
            unsafe record.pointee.flags = suppressesPacket ? .suppressPacket : []
            // As the Win32 calls do before they ask the kernel (e3).
            unsafe overlapped.pointee.information.store(0, ordering: .relaxed)
            unsafe overlapped.pointee.status.store(UInt(OperationRecord.pending), ordering: .relaxed)
            return unsafe try Engine.start(record, of: nil, on: file, request, start)
        } catch {
            if isFilled { undo() }
            unsafe record.pointee.event?.release()
            unsafe record.pointee.event = nil
            unsafe RecordHold.awaitNone(record)
            unsafe record.pointee.unclaim()
            throw error
        }
    }
}
