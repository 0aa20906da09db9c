import CBaselines
import Glibc
import IOCP
import Synchronization
import SystemPackage

/// The library's faster ways, each as the only difference to a plain port: an echo server, and reads.
final class LibraryWays: Sendable {
    /// What is different.
    struct Way: Sendable {
        var options = CompletionPort.Options()
        /// One receive for all of a connection's data, into lent buffers.
        var isContinuous = false
        var isZeroCopy = false
        /// An answer and the next message are one operation.
        var transacts = false
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
        /// With transactions: which half of the buffer the last message came into.
        var isInSecondHalf = false
        /// With continuous receives: the operation that sends, and what waits to be sent.
        let sender: Sender?

        init(_ socket: Socket, bufferBytes: Int, _ way: Way) {
            self.socket = socket
            sender = way.isContinuous ? Sender() : nil
            super.init(
                buffer: way.isContinuous ? nil : IOBuffer(capacity: way.transacts ? 2 * bufferBytes : bufferBytes))
            unsafe sender?.connection = self
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
            unsafe try first.withBytes { _ = unsafe try connection.socket.send(self, fromMemory: $0) }
        }
    }

    private let way: Way
    private let context: EchoServerContext
    private let port: CompletionPort
    private let listener: Socket
    private let group: BufferGroup?

    /// Serves with as many workers as the context has counters, all of one port or each of its own.
    static func serve(_ context: EchoServerContext, _ way: Way, sharesAddress: Bool = false) throws {
        let workers = context.counters.count
        let listener = try Socket(adopting: FileDescriptor(rawValue: context.listener), kind: .stream)
        if sharesAddress { try listener.setOption(SOL_SOCKET, SO_REUSEPORT, 1) }
        var servers = [try LibraryWays(context, way, listener, limit: sharesAddress ? 1 : workers)]
        for _ in 1..<workers {
            if sharesAddress {
                let another = try Socket.listening(at: listener.localAddress(), sharesPort: true)
                try another.setNoDelay()
                servers.append(try LibraryWays(context, way, another, limit: 1))
            } else {
                servers.append(servers[0])
            }
        }
        let all = servers
        context.whenStopped {
            for server in all { try? server.port.post(key: Key.stop) }
        }
        let failures = Mutex<[String]>([])
        let threads = try (1..<workers).map { index in
            try WaitableThread {
                do {
                    try all[index].work(context.counters[index], accepts: sharesAddress)
                } catch {
                    failures.withLock { $0.append("\(error)") }
                }
            }
        }
        try all[0].work(context.counters[0], accepts: true)
        for thread in threads { thread.join() }
        if let failure = failures.withLock({ $0.first }) { throw Failure(failure) }
    }

    private init(_ context: EchoServerContext, _ way: Way, _ listener: Socket, limit: Int) throws {
        self.context = context
        self.way = way
        self.listener = listener
        port = try CompletionPort(concurrencyLimit: limit, options: way.options)
        try port.associate(listener, key: Key.listener)
        group =
            way.isContinuous
            ? try BufferGroup(for: port, buffersPerRing: 1024, bufferSize: context.bufferBytes) : nil
    }

    private func work(_ counters: Counters, accepts: Bool) throws {
        var batch = PacketBatch(capacity: 64)
        if accepts {
            _ = try port.dequeue(timeout: .zero)
            try listener.acceptContinuously(Operation())
        }
        while true {
            for index in 0..<(try port.dequeue(into: &batch)) {
                let packet = batch[index]
                switch packet.key {
                case Key.receive where way.isContinuous:
                    try continueStream(packet, counters)
                case Key.receive:
                    try echo(unsafe unsafeDowncast(packet.operation!, to: Connection.self), packet, counters)
                case Key.listener:
                    if let socket = packet.acceptedSocket { try accept(socket, counters) }
                default:
                    // For the other workers, too.
                    try port.post(key: Key.stop)
                    return
                }
            }
        }
    }

    private func accept(_ socket: Socket, _ counters: Counters) throws {
        counters.accepted()
        try port.associate(socket, key: Key.receive)
        let connection = Connection(socket, bufferBytes: context.bufferBytes, way)
        if let group {
            try socket.receiveContinuously(connection, from: group)
        } else {
            try socket.receive(connection, into: 0..<context.bufferBytes)
        }
    }

    @inline(__always)
    private func echo(_ connection: Connection, _ packet: Packet, _ counters: Counters) throws {
        guard packet.isSuccess, packet.bytes > 0 else {
            try connection.socket.close()
            return
        }
        if way.transacts {
            counters.received(packet.bytes)
            let from = connection.isInSecondHalf ? context.bufferBytes : 0
            let into = context.bufferBytes - from
            connection.isInSecondHalf.toggle()
            try connection.socket.transact(
                connection, sending: from..<from + packet.bytes, receiving: into..<into + context.bufferBytes)
            return
        }
        connection.isSending.toggle()
        if !connection.isSending {
            try connection.socket.receive(connection)
            return
        }
        counters.received(packet.bytes)
        if way.isZeroCopy {
            try connection.socket.sendZeroCopy(connection, from: 0..<packet.bytes)
        } else {
            try connection.socket.send(connection, count: packet.bytes)
        }
    }

    private func continueStream(_ packet: Packet, _ counters: Counters) throws {
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
        counters.received(packet.bytes)
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
