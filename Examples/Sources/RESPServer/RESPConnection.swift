import ExampleSupport
import IOCP

/// One client: takes commands as they come and sends the replies of all that came together with one send.
final class RESPConnection: Connection, @unchecked Sendable {
    private let store: Store
    private var parser: RequestParser
    private var replies = ReplyWriter()
    private var requests: IOBuffer
    /// The bytes of `requests` that have come and are not carried out: commands, and a part of one.
    private var unread = 0..<0
    private var isEnding = false

    private static let usualCapacity = 16 << 10
    /// Replies beyond this are sent before more commands are looked at: a client that does not read gets no further.
    private static let replyLimit = 256 << 10

    init(_ socket: Socket, of server: Server, store: Store, limits: RequestParser.Limits) {
        self.store = store
        parser = RequestParser(limits: limits)
        requests = IOBuffer(capacity: Self.usualCapacity)
        super.init(socket, of: server, receiveBuffer: requests, replyBuffer: replies.buffer)
    }

    override func received(_ count: Int) throws(PortError) {
        guard count > 0 else { return end() }
        unread = unread.lowerBound..<(unread.upperBound + count)
        try carryOut()
    }

    override func replied(_ count: Int) throws(PortError) {
        replies.removeAll()
        // A server that stops has now answered all that it has received of this client.
        if isEnding || (server.isStopping && unread.isEmpty) { return try finish() }
        try carryOut()
    }

    /// Carries out the commands that are there, then sends their replies or receives more.
    private func carryOut() throws(PortError) {
        parsing: while !isEnding && replies.count < Self.replyLimit {
            switch parser.parse(requests, unread) {
            case .command(let end):
                unread = end..<unread.upperBound
                let command = Command(buffer: requests, arguments: parser.arguments)
                isEnding = !command.execute(on: store, replies: &replies)
            case .failure(let reason):
                replies.error(reason)
                isEnding = true
            case .incomplete: break parsing
            }
        }
        if replies.count == 0 { return try receiveMore() }
        // The writer has another buffer if it had to grow.
        if reply.buffer !== replies.buffer { try reply.setBuffer(replies.buffer) }
        try socket.send(reply, count: replies.count)
    }

    private func receiveMore() throws(PortError) {
        try makeRoom()
        try socket.receive(self, into: unread.upperBound..<requests.capacity)
    }

    /// Moves a part of a command to the front of the buffer, and to a larger one if it fills this.
    private func makeRoom() throws(PortError) {
        var target = requests
        if unread.count == requests.capacity {
            // Doubled as data comes, not made as large as the client says that the command will be.
            target = IOBuffer(capacity: 2 * requests.capacity)
        } else if unread.count < Self.usualCapacity && requests.capacity > 16 * Self.usualCapacity {
            target = IOBuffer(capacity: Self.usualCapacity)
        }
        requests.withSpan(unread) { _ = target.copy(from: $0) }
        unread = 0..<unread.count
        if target !== requests {
            requests = target
            try setBuffer(target)
        }
    }
}
