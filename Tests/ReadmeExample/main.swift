import Foundation
import IOCP

/// A connection: the operation that receives from its socket, then sends back what came, then receives again.
final class Connection: IOCP.Operation, @unchecked Sendable {
    let socket: Socket
    var isSending = false

    init(_ socket: Socket) {
        self.socket = socket
        super.init(buffer: IOBuffer(capacity: 16_384))
    }

    deinit { connectionEnds.set() }

    /// The last step is done: starts the next. From the start to its packet the library keeps this object alive.
    func proceed(_ packet: Packet) throws {
        guard packet.isSuccess, packet.bytes > 0 else { return try socket.close() }
        isSending.toggle()
        _ = try isSending ? socket.send(self, count: packet.bytes) : socket.receive(self)
    }
}

/// Works on packets, up to 64 at a time, until the port is closed.
@Sendable func work(on port: CompletionPort, listener: Socket) {
    var batch = PacketBatch(capacity: 64)
    while (try? port.dequeue(into: &batch)) != nil {
        while let packet = batch.popFirst() {
            if let connection = packet.operation as? Connection {
                try? connection.proceed(packet)
            } else if let socket = packet.acceptedSocket {
                try? port.associate(socket, key: 1)
                _ = try? socket.receive(Connection(socket))
            } else if !packet.isMore, let accept = packet.operation {
                // Out of descriptors, as a rule: again when a connection ends. This thread has other packets.
                Thread.detachNewThread {
                    _ = try? connectionEnds.wait()
                    try? listener.acceptContinuously(accept)
                }
            }
        }
    }
}

let connectionEnds = CompletionEvent(resetsAutomatically: true)
let port = try CompletionPort()  // As many threads run at a time as there are processors.
let listener = try Socket.listening(at: .loopback(port: UInt16(CommandLine.arguments.last!) ?? 0))
try port.associate(listener, key: 0)
try listener.acceptContinuously(IOCP.Operation())  // One operation, a packet for each connection.
for _ in 1..<2 * port.concurrencyLimit { Thread.detachNewThread { work(on: port, listener: listener) } }
Thread.detachNewThread {
    while readLine() != nil {}
    port.close()  // Ends every dequeue.
}
FileHandle.standardOutput.write(Data("port \(try listener.localAddress().port!)\n".utf8))
work(on: port, listener: listener)
