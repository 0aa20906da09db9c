import IOCP

/// The head of a request, as far as a file server cares.
struct HTTPRequest {
    var method = ""
    /// The path, still percent-encoded, without query.
    var path = ""
    var isHTTP10 = false
    var keepsAlive = true
    /// A body would follow. It is not read: the connection ends after the response instead.
    var hasBody = false
    var range: String?
    var ifRange: String?
    /// Answered with "not modified" only if it is exactly the file's time, which clients send back as they got it.
    var ifModifiedSince: String?

    /// Why a head is refused. Where the next request begins is not known then.
    struct Failure: Error {
        let status: HTTPStatus
        init(_ status: HTTPStatus) { self.status = status }
    }

    /// Where the head that begins at `range.lowerBound` ends, its empty line included; nil if that has not come yet.
    static func endOfHead(in buffer: IOBuffer, _ range: Range<Int>) -> Int? {
        unsafe buffer.withBytes(range) { bytes in
            var lineStart = unsafe bytes.prefix { $0 == UInt8(ascii: "\r") || $0 == UInt8(ascii: "\n") }.count
            while let newline = unsafe bytes[lineStart...].firstIndex(of: UInt8(ascii: "\n")) {
                let length = newline - lineStart
                if unsafe length == 0 || (length == 1 && bytes[lineStart] == UInt8(ascii: "\r")) {
                    return range.lowerBound + newline + 1
                }
                lineStart = newline + 1
            }
            return nil
        }
    }

    /// Reads a complete head.
    init(_ head: String) throws(Failure) {
        var lines = head.utf8.split(separator: UInt8(ascii: "\n")).map { line in
            Substring(line.last == UInt8(ascii: "\r") ? line.dropLast() : line)
        }[...]
        // Empty lines before a request are ignored (RFC 9112, 2.2).
        while let first = lines.first, first.isEmpty { lines.removeFirst() }
        guard let requestLine = lines.popFirst() else { throw Failure(.badRequest) }
        try readRequestLine(requestLine)

        var hosts = 0
        for line in lines where !line.isEmpty {
            let utf8 = line.utf8
            guard let colon = utf8.firstIndex(of: UInt8(ascii: ":")), colon != utf8.startIndex,
                // No space may come before the colon, and no line continues the one before it (RFC 9112, 5).
                !utf8[..<colon].contains(where: { $0 <= UInt8(ascii: " ") })
            else { throw Failure(.badRequest) }
            let value = line[utf8.index(after: colon)...].trimmed
            if try readHeader(line[..<colon].lowercased(), value) { hosts += 1 }
        }
        guard hosts == 1 || (isHTTP10 && hosts == 0) else { throw Failure(.badRequest) }
    }

    private mutating func readRequestLine(_ line: Substring) throws(Failure) {
        let parts = line.utf8.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false).map(Substring.init)
        guard parts.count == 3, !parts[0].isEmpty, parts[2].hasPrefix("HTTP/"),
            line.utf8.allSatisfy({ $0 >= UInt8(ascii: " ") })
        else { throw Failure(.badRequest) }
        switch parts[2] {
        case "HTTP/1.1": break
        case "HTTP/1.0":
            isHTTP10 = true
            keepsAlive = false
        default: throw Failure(parts[2].hasPrefix("HTTP/1.") ? .badRequest : .versionNotSupported)
        }
        method = String(parts[0])
        var target = parts[1]
        // A client that takes us for a proxy sends the whole URL (RFC 9112, 3.2.2).
        if target.hasPrefix("http://") {
            target = target.dropFirst(7).drop { $0 != "/" && $0 != "?" }
            if !target.hasPrefix("/") { target = "/" + target }
        }
        guard target.hasPrefix("/") else { throw Failure(.badRequest) }
        path = String(Substring(target.utf8.prefix { $0 != UInt8(ascii: "?") && $0 != UInt8(ascii: "#") }))
    }

    /// Returns whether it was the host.
    private mutating func readHeader(_ name: String, _ value: Substring) throws(Failure) -> Bool {
        switch name {
        case "host": return true
        case "connection":
            for token in value.split(separator: ",") {
                switch token.trimmed.lowercased() {
                case "close": keepsAlive = false
                case "keep-alive": if isHTTP10 { keepsAlive = true }
                default: break
                }
            }
        case "content-length":
            guard !value.isEmpty, value.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else {
                throw Failure(.badRequest)
            }
            if value.contains(where: { $0 != "0" }) { hasBody = true }
        case "transfer-encoding": hasBody = true
        case "range": range = String(value)
        case "if-range": ifRange = String(value)
        case "if-modified-since": ifModifiedSince = String(value)
        default: break
        }
        return false
    }
}

extension HTTPRequest {
    enum Extent: Equatable {
        case whole
        case part(Range<Int64>)
        /// Nothing of the file lies in the range.
        case unsatisfiable
    }

    /// The part of a file of that length that is asked for. What is not understood, several ranges too, asks for the
    /// whole, as RFC 9110, 14.2 allows.
    func extent(of length: Int64, lastModified: String) -> Extent {
        guard let range, method == "GET", ifRange == nil || ifRange == lastModified, range.hasPrefix("bytes=") else {
            return .whole
        }
        let bounds = range.dropFirst(6).split(separator: "-", omittingEmptySubsequences: false)
        guard bounds.count == 2, bounds.allSatisfy({ $0.utf8.allSatisfy { (48...57).contains($0) } }) else {
            return .whole
        }
        // A number beyond 64 bits is beyond any file.
        let first = bounds[0].isEmpty ? nil : Int64(bounds[0]) ?? .max
        let last = bounds[1].isEmpty ? nil : Int64(bounds[1]) ?? .max
        switch (first, last) {
        case (nil, nil): return .whole
        case (nil, let count?):
            return count == 0 || length == 0 ? .unsatisfiable : .part(max(0, length - count)..<length)
        case (let first?, let last):
            if let last, last < first { return .whole }
            if first >= length { return .unsatisfiable }
            return .part(first..<(min(last ?? .max, length - 1) + 1))
        }
    }
}

extension Substring {
    /// Without the spaces and tabs around it.
    fileprivate var trimmed: Substring {
        var result = self
        while let first = result.utf8.first, first == 32 || first == 9 { result.removeFirst() }
        while let last = result.utf8.last, last == 32 || last == 9 { result.removeLast() }
        return result
    }
}
