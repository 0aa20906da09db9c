import CBaselines
import IOCP
import Synchronization
import SystemPackage

/// An echo server as the library's documentation shows it: one port, an operation for each connection that receives
/// and sends in turn, workers that dequeue batches.
final class LibraryEcho: Sendable {
    private let port: CompletionPort
    private let listener: Socket
    private let context: EchoServerContext

    /// What a packet is about. Keys are the caller's to choose, so they tell it without a look at the operation.
    private enum Key {
        static let listener: UInt = 1
        static let connection: UInt = 2
        static let stop: UInt = 3
    }

    /// A connection embeds itself in its operation, as Windows programs embed an OVERLAPPED.
    private final class Connection: Operation, @unchecked Sendable {
        // Unchecked: between a packet and the next start it belongs to the thread that dequeued the packet.
        let socket: Socket
        var isSending = false

        init(_ socket: Socket, bufferBytes: Int) {
            self.socket = socket
            super.init(buffer: IOBuffer(capacity: bufferBytes))
        }
    }

    /// Serves with as many workers as the context has counters, on a port with that limit, until told to stop.
    static func serve(_ context: EchoServerContext) throws {
        let server = try LibraryEcho(context)
        try server.listener.acceptContinuously(Operation())
        context.whenStopped {
            // Each worker takes one of these and ends.
            for _ in context.counters {
                try? server.port.post(key: Key.stop)
            }
        }
        let others = Mutex<[String]>([])
        let workers = try context.counters.indices.dropFirst().map { index in
            try WaitableThread {
                do {
                    try server.work(context.counters[index])
                } catch {
                    others.withLock { $0.append("\(error)") }
                }
            }
        }
        try server.work(context.counters[0])
        for worker in workers {
            worker.join()
        }
        if let failure = others.withLock({ $0.first }) {
            throw Failure(failure)
        }
    }

    private init(_ context: EchoServerContext) throws {
        self.context = context
        port = try CompletionPort(concurrencyLimit: context.counters.count)
        listener = try Socket(adopting: FileDescriptor(rawValue: context.listener), kind: .stream)
        try port.associate(listener, key: Key.listener)
    }

    private func work(_ counters: Counters) throws {
        var batch = PacketBatch(capacity: 64)
        while true {
            for index in 0..<(try port.dequeue(into: &batch)) {
                let packet = batch[index]
                switch packet.key {
                case Key.connection:
                    // Only connections are associated with this key.
                    let connection = unsafe unsafeDowncast(packet.operation!, to: Connection.self)
                    try echo(connection, packet, counters)
                case Key.listener:
                    if let socket = packet.acceptedSocket {
                        counters.accepted()
                        try port.associate(socket, key: Key.connection)
                        let connection = Connection(socket, bufferBytes: context.bufferBytes)
                        try socket.receive(connection)
                    }
                default:
                    return
                }
            }
        }
    }

    @inline(__always)
    private func echo(_ connection: Connection, _ packet: Packet, _ counters: Counters) throws {
        guard packet.isSuccess, packet.bytes > 0 else {
            // Nothing else refers to the connection: it goes with the packet.
            try connection.socket.close()
            return
        }
        if connection.isSending {
            connection.isSending = false
            try connection.socket.receive(connection)
        } else {
            counters.received(packet.bytes)
            connection.isSending = true
            try connection.socket.send(connection, count: packet.bytes)
        }
    }
}
