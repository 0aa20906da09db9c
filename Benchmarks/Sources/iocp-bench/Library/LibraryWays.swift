import CBaselines
import IOCP
import Synchronization
import SystemPackage

/// The library's faster ways, each as the only difference to a plain port: an echo server of one worker, and reads.
final class LibraryWays: Sendable {
    /// What is different.
    struct Way: Sendable {
        var options = CompletionPort.Options()
        /// One receive for all of a connection's data, into lent buffers.
        var isContinuous = false
        var isZeroCopy = false
    }

    private enum Key {
        static let listener: UInt = 1
        static let receive: UInt = 2
        static let stop: UInt = 3
    }

    private final class Connection: Operation, @unchecked Sendable {
        // Unchecked: one thread starts and dequeues.
        let socket: Socket
        var isSending = false
        /// With continuous receives: the operation that sends, and what waits to be sent.
        let sender: Sender?

        init(_ socket: Socket, bufferBytes: Int, isContinuous: Bool) {
            self.socket = socket
            sender = isContinuous ? Sender() : nil
            super.init(buffer: isContinuous ? nil : IOBuffer(capacity: bufferBytes))
            sender?.connection = self
        }
    }

    /// Echoes lent buffers, one after the other.
    private final class Sender: Operation, @unchecked Sendable {
        // Unchecked: one thread starts and dequeues.
        unowned(unsafe) var connection: Connection!
        var waiting: [LentBuffer] = []

        init() { super.init() }

        func sendNext() throws {
            guard let first = waiting.first else { return }
            try first.withBytes { _ = unsafe try connection.socket.send(self, fromMemory: $0) }
        }
    }

    private let way: Way
    private let context: EchoServerContext
    private let port: CompletionPort
    private let listener: Socket
    private let group: BufferGroup?

    static func serve(_ context: EchoServerContext, _ way: Way) throws {
        let server = try LibraryWays(context, way)
        context.whenStopped { try? server.port.post(key: Key.stop) }
        try server.work()
    }

    private init(_ context: EchoServerContext, _ way: Way) throws {
        self.context = context
        self.way = way
        port = try CompletionPort(concurrencyLimit: 1, options: way.options)
        listener = try Socket(adopting: FileDescriptor(rawValue: context.listener), kind: .stream)
        try port.associate(listener, key: Key.listener)
        group =
            way.isContinuous
            ? try BufferGroup(for: port, buffersPerRing: 1024, bufferSize: context.bufferBytes) : nil
    }

    private func work() throws {
        var batch = PacketBatch(capacity: 64)
        _ = try port.dequeue(timeout: .zero)
        try listener.acceptContinuously(Operation())
        while true {
            for index in 0..<(try port.dequeue(into: &batch)) {
                let packet = batch[index]
                switch packet.key {
                case Key.receive where way.isContinuous:
                    try continueStream(packet)
                case Key.receive:
                    try echo(unsafe unsafeDowncast(packet.operation!, to: Connection.self), packet)
                case Key.listener:
                    if let socket = packet.acceptedSocket { try accept(socket) }
                default:
                    return
                }
            }
        }
    }

    private func accept(_ socket: Socket) throws {
        context.counters[0].accepted()
        try port.associate(socket, key: Key.receive)
        let connection = Connection(socket, bufferBytes: context.bufferBytes, isContinuous: way.isContinuous)
        if let group {
            try socket.receiveContinuously(connection, from: group)
        } else {
            try socket.receive(connection)
        }
    }

    @inline(__always)
    private func echo(_ connection: Connection, _ packet: Packet) throws {
        guard packet.isSuccess, packet.bytes > 0 else {
            try connection.socket.close()
            return
        }
        connection.isSending.toggle()
        if !connection.isSending {
            try connection.socket.receive(connection)
            return
        }
        context.counters[0].received(packet.bytes)
        if way.isZeroCopy {
            try connection.socket.sendZeroCopy(connection, from: 0..<packet.bytes)
        } else {
            try connection.socket.send(connection, count: packet.bytes)
        }
    }

    private func continueStream(_ packet: Packet) throws {
        if let sender = packet.operation as? Sender {
            sender.waiting.removeFirst().giveBack()
            if packet.isSuccess { try sender.sendNext() }
            return
        }
        let connection = unsafe unsafeDowncast(packet.operation!, to: Connection.self)
        guard let buffer = packet.lentBuffer, let sender = connection.sender else {
            if !packet.isMore { try? connection.socket.close() }
            return
        }
        context.counters[0].received(packet.bytes)
        sender.waiting.append(buffer)
        if sender.waiting.count == 1 { try sender.sendNext() }
    }

    // MARK: Reads

    enum ReadWay: Sendable {
        case plain, registeredBuffers, registeredFile, both
    }

    /// Random reads of 4 KiB, so many in flight.
    static func read(_ settings: WorkSettings, depth: Int, direct: Bool, _ way: ReadWay) throws -> Measurement {
        var options = CompletionPort.Options()
        options.registeredFiles = way == .registeredFile || way == .both ? 8 : 0
        let file = try File(FilePath(settings.file), options: direct ? [.direct] : [])
        let port = try CompletionPort(concurrencyLimit: 1, options: options)
        try port.associate(file, key: 0)
        let blockBytes = Int(BENCH_BLOCK_BYTES)
        let blocks = settings.fileBytes / UInt64(blockBytes)
        let buffers =
            way == .registeredBuffers || way == .both
            ? try port.makeRegisteredBuffers(count: depth, size: blockBytes)
            : (0..<depth).map { _ in IOBuffer(capacity: blockBytes, alignment: blockBytes) }
        var batch = PacketBatch(capacity: depth)
        var state: UInt64 = 0x2545_F491
        var operations: UInt64 = 0
        var inFlight = depth
        var outcome = bench_outcome()
        unsafe bench_outcome_begin(&outcome)
        let deadline = outcome.nanoseconds + settings.nanoseconds
        func start(_ read: Operation) throws {
            let block = unsafe bench_next_block(&state, blocks)
            try file.read(read, at: .at(Int64(block) * Int64(blockBytes)))
        }
        for buffer in buffers { try start(Operation(buffer: buffer)) }
        while inFlight > 0 {
            let count = try port.dequeue(into: &batch)
            let now = bench_now()
            for index in 0..<count {
                let packet = batch[index]
                guard packet.isSuccess, packet.bytes == blockBytes else { throw Failure("a read: \(packet.status)") }
                if now < deadline { try start(packet.operation!) } else { inFlight -= 1 }
            }
            operations += UInt64(count)
        }
        unsafe bench_outcome_end(&outcome, operations, -1)
        return Measurement(outcome)
    }
}
