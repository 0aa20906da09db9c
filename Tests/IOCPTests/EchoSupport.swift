import Glibc
import Synchronization
import Testing

@testable import IOCP

/// A server in this process that sends back what comes, as long as it is let.
final class EchoServer: Sendable {
    let port: CompletionPort
    let listener: Socket
    let address: SocketAddress
    /// Messages that have been sent back.
    let echoed = Tally()
    private let workers: Protected<[SideThread<Void>]>

    private final class Connection: IOCP.Operation, @unchecked Sendable {
        let socket: Socket
        var isSending = false

        init(_ socket: Socket) {
            self.socket = socket
            super.init(buffer: IOBuffer(capacity: 256))
        }
    }

    init(threads: Int, limit: Int) throws {
        port = try CompletionPort(concurrencyLimit: limit)
        listener = try Socket.listening(at: .loopback(port: 0))
        address = try listener.localAddress()
        try port.associate(listener, key: 0)
        try listener.acceptContinuously(IOCP.Operation())
        let work = { @Sendable [port, echoed] in
            while true {
                do {
                    guard let packet = try port.dequeue() else { throw Complaint("a dequeue without end has ended") }
                    try Self.handle(packet, port, echoed)
                } catch let error as PortError where error.status == .abandoned || error.status == .invalidHandle {
                    return
                }
            }
        }
        workers = Protected((0..<threads).map { _ in SideThread(work) })
    }

    private static func handle(_ packet: Packet, _ port: CompletionPort, _ echoed: Tally) throws {
        if let socket = packet.acceptedSocket {
            try port.associate(socket, key: 1)
            try socket.receive(Connection(socket))
        } else if let connection = packet.operation as? Connection {
            guard packet.isSuccess, packet.bytes > 0 else { return try connection.socket.close() }
            connection.isSending.toggle()
            if connection.isSending {
                try connection.socket.send(connection, count: packet.bytes)
            } else {
                echoed.add()
                try connection.socket.receive(connection)
            }
        }
    }

    /// Closes the port and waits for its threads.
    func stop() throws {
        port.close()
        for worker in workers.withLock({ $0 }) { try worker.join() }
    }
}

/// Sends messages of 64 bytes to an echo server, one after the other, and checks what comes back. Returns how many.
func echo(through address: SocketAddress, number: Int, until isOver: () -> Bool) throws -> Int {
    let descriptor = socket(address.family.rawValue, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    try #require(descriptor >= 0)
    let result = address.withSockAddr { connect(descriptor, $0, $1) }
    try #require(result == 0, "cannot connect: errno \(errno)")
    let peer = Peer(descriptor)
    var count = 0
    while !isOver() {
        let message = pattern(64, seed: number &* 1_000_003 &+ count)
        try peer.send(message)
        let reply = try peer.receive(64)
        try #require(reply == message, "message \(count) of client \(number) came back wrong")
        count += 1
    }
    return count
}
