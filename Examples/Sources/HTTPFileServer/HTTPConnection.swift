import ExampleSupport
import IOCP

/// One client: reads requests, answers them one after the other in the order in which they came.
final class HTTPConnection: Connection, @unchecked Sendable {
    private let tree: FileTree
    private let requests: IOBuffer
    private let responses: IOBuffer
    /// The bytes of `requests` that have come and are not answered: a part of a request, or several of them.
    private var unread = 0..<0
    private var keepsAlive = true
    /// The file that is being sent, and what of it comes after the operation in flight.
    private var body: (file: File, offset: Int64, left: Int64)?
    /// Bytes of the operation in flight.
    private var expected = 0

    /// The head of a request fits into this, or is refused. That of a response is not longer than that of its request by
    /// more than this again.
    private static let headLimit = 8192
    /// What one `transmit` may send of a file.
    private static let transmitLimit: Int64 = 1 << 30

    init(_ socket: Socket, of server: Server, tree: FileTree) {
        self.tree = tree
        requests = IOBuffer(capacity: Self.headLimit)
        responses = IOBuffer(capacity: 2 * Self.headLimit)
        super.init(socket, of: server, receiveBuffer: requests, replyBuffer: responses)
    }

    override func received(_ count: Int) throws(PortError) {
        // Every request that came complete has been answered by now.
        guard count > 0 else { return end() }
        unread = unread.lowerBound..<(unread.upperBound + count)
        try answerNext()
    }

    override func replied(_ count: Int) throws(PortError) {
        // The file has become shorter since its length was announced: the client must not take what follows for its rest.
        guard count == expected else { return end() }
        if try sendMore() { return }
        if keepsAlive { try answerNext() } else { try finish() }
    }

    /// Answers the next request that is there completely, or receives more.
    private func answerNext() throws(PortError) {
        guard let end = HTTPRequest.endOfHead(in: requests, unread) else { return try receiveMore() }
        let request: HTTPRequest
        do throws(HTTPRequest.Failure) {
            request = try HTTPRequest(requests.string(in: unread.lowerBound..<end))
        } catch {
            keepsAlive = false
            return try send(error.status)
        }
        unread = end..<unread.upperBound
        // A server that stops answers what it has received, and says with the last answer that it was the last.
        keepsAlive = request.keepsAlive && !request.hasBody && !(server.isStopping && unread.isEmpty)
        try answer(request)
    }

    private func receiveMore() throws(PortError) {
        // What is left of the last batch moves to the front, so that a request has all the room that a request may have.
        requests.withSpan(unread) { _ = requests.copy(from: $0) }
        unread = 0..<unread.count
        guard unread.count < requests.capacity else {
            keepsAlive = false
            return try send(.headTooLarge)
        }
        try socket.receive(self, into: unread.upperBound..<requests.capacity)
    }

    // MARK: Answers

    private func answer(_ request: HTTPRequest) throws(PortError) {
        guard request.method == "GET" || request.method == "HEAD" else {
            return try send(.methodNotAllowed, ("Allow", "GET, HEAD"), to: request)
        }
        let entry: FileTree.Entry
        do throws(FileTree.Failure) {
            entry = try tree.entry(request.path)
        } catch {
            return try send(error.status, to: request)
        }
        switch entry {
        case .directory:
            // Two slashes at its beginning would make it the address of another host.
            let path = "/" + request.path.drop { $0 == "/" } + "/"
            try send(.movedPermanently, ("Location", path), to: request)
        case .document(let document): try answer(request, with: document)
        }
    }

    private func answer(_ request: HTTPRequest, with document: FileTree.Document) throws(PortError) {
        let modified = HTTPDate.string(document.modified)
        if request.ifModifiedSince == modified {
            return try send(.notModified, ("Last-Modified", modified), to: request)
        }
        var status = HTTPStatus.ok
        var range = 0..<document.length
        switch request.extent(of: document.length, lastModified: modified) {
        case .whole: break
        case .part(let part):
            status = .partialContent
            range = part
        case .unsatisfiable:
            return try send(.rangeNotSatisfiable, ("Content-Range", "bytes */\(document.length)"), to: request)
        }
        var head = HTTPResponseHead(status)
        head.add("Content-Type", document.contentType)
        head.add("Content-Length", String(range.count))
        head.add("Last-Modified", modified)
        head.add("Accept-Ranges", "bytes")
        if status == .partialContent {
            head.add("Content-Range", "bytes \(range.lowerBound)-\(range.upperBound - 1)/\(document.length)")
        }
        head.finish(keepsAlive: keepsAlive, isHTTP10: request.isHTTP10)
        if request.method == "HEAD" || range.isEmpty { return try send(head) }
        body = (document.file, range.lowerBound, Int64(range.count))
        try transmit(head)
    }

    /// A short answer, whose body is its status.
    private func send(
        _ status: HTTPStatus, _ header: (String, String)? = nil, to request: HTTPRequest? = nil
    ) throws(PortError) {
        var head = HTTPResponseHead(status)
        if let header { head.add(header.0, header.1) }
        let text = status == .notModified ? "" : status.rawValue + "\n"
        if status != .notModified {
            head.add("Content-Type", "text/plain; charset=utf-8")
            head.add("Content-Length", String(text.utf8.count))
        }
        head.finish(keepsAlive: keepsAlive, isHTTP10: request?.isHTTP10 ?? false)
        try send(head, body: request?.method == "HEAD" ? "" : text)
    }

    private func send(_ head: HTTPResponseHead, body: String = "") throws(PortError) {
        let end = responses.copy(from: head.text.utf8).upperBound
        expected = responses.copy(from: body.utf8, at: end).upperBound
        try socket.send(reply, count: expected)
    }

    // MARK: Files

    /// Sends the head and the beginning of the body, which never passes through our memory.
    private func transmit(_ head: HTTPResponseHead) throws(PortError) {
        // All of the buffer is sent, so it is made to measure.
        let buffer = IOBuffer(capacity: head.text.utf8.count)
        buffer.copy(from: head.text.utf8)
        try transmit(head: buffer)
    }

    private func transmit(head: IOBuffer?) throws(PortError) {
        guard let (file, offset, left) = body else { return }
        let count = min(left, Self.transmitLimit)
        body = (file, offset + count, left - count)
        expected = Int(count) + (head?.capacity ?? 0)
        try socket.transmit(reply, file: file, offset: offset, count: Int(count), head: head)
    }

    /// Goes on with a file that is too large for one operation. Returns whether there was anything left of it.
    private func sendMore() throws(PortError) -> Bool {
        guard let (file, _, left) = body else { return false }
        if left > 0 {
            try transmit(head: nil)
            return true
        }
        // The operation would keep the file open until it sends another one.
        try? file.close()
        body = nil
        return false
    }
}
