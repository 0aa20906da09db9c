public import IOCP

/// An operation that knows what to do with its packets. Workers need to know nothing else.
open class HandledOperation: Operation, @unchecked Sendable {
    /// Handles a packet of this operation, on the worker that has dequeued it.
    open func completed(_ packet: Packet) {}
}

/// A connection of a server: its receive operation, with the state of the connection hung onto it.
///
/// The reply has an operation of its own. Only one of the two is in flight at a time: receive, answer, receive again.
/// So only one worker at a time has anything to do with a connection, its state needs no lock, and a peer that sends
/// without reading is slowed down by TCP instead of filling our memory.
///
/// A subclass starts the operations itself. When one of them fails, or cannot be started, the connection is over:
/// reset or closed by the peer, or closed by the server's stop. There is nothing to repair in any of these cases.
open class Connection: HandledOperation, @unchecked Sendable {
    public let socket: Socket
    public let server: Server
    public let reply: ReplyOperation
    /// The last reply is out; what still comes is thrown away.
    private var isFinishing = false

    /// - Parameters:
    ///   - socket: accepted, and associated with the server's port.
    ///   - receiveBuffer: what the peer's bytes are received into.
    ///   - replyBuffer: what replies are sent from. May be the same one.
    public init(_ socket: Socket, of server: Server, receiveBuffer: IOBuffer, replyBuffer: IOBuffer) {
        self.socket = socket
        self.server = server
        self.reply = ReplyOperation(buffer: replyBuffer)
        super.init(buffer: receiveBuffer)
        reply.connection = self
    }

    /// Starts the first receive.
    open func start() throws(PortError) {
        try socket.receive(self)
    }

    /// Bytes have come into the buffer. 0: the peer has ended its side and may still be reading.
    open func received(_ count: Int) throws(PortError) {}

    /// The reply is on its way.
    open func replied(_ count: Int) throws(PortError) {}

    public final override func completed(_ packet: Packet) {
        // What the server's stop does to a connection that waits for its peer looks like the end of the peer's side.
        let isEnd = packet.isSuccess || packet.status == .sendAfterShutdown
        proceed(isEnd) { () throws(PortError) in
            if !isFinishing { return try received(packet.bytes) }
            if packet.bytes == 0 { end() } else { try receiveRest() }
        }
    }

    fileprivate final func replyCompleted(_ packet: Packet) {
        proceed(packet.isSuccess) { () throws(PortError) in try replied(packet.bytes) }
    }

    /// Takes the next step, or ends the connection.
    final func proceed(_ isAlive: Bool, _ step: () throws(PortError) -> Void) {
        guard isAlive else { return end() }
        do throws(PortError) {
            try step()
        } catch {
            end()
        }
    }

    /// Ends our side, now that the last reply is out, and the connection as soon as the peer has ended its own.
    ///
    /// Closing at once while something of the peer's is unread would reset the connection, and the peer could lose the
    /// reply.
    public final func finish() throws(PortError) {
        isFinishing = true
        try socket.shutdown(.sending)
        try receiveRest()
    }

    private func receiveRest() throws(PortError) {
        try socket.receive(self)
    }

    /// Closes the connection and lets go of it. Called with nothing in flight.
    public final func end() {
        // The server's stop may have closed the socket before.
        try? socket.close()
        reply.connection = nil
        server.remove(self)
    }
}

/// The operation that sends a connection's replies.
public final class ReplyOperation: HandledOperation, @unchecked Sendable {
    /// Keeps the connection alive while the reply is in flight; taken away when the connection ends.
    fileprivate var connection: Connection?

    public override func completed(_ packet: Packet) {
        connection?.replyCompleted(packet)
    }
}
