import Glibc

/// The statuses that this server answers with.
enum HTTPStatus: String {
    case ok = "200 OK"
    case partialContent = "206 Partial Content"
    case movedPermanently = "301 Moved Permanently"
    case notModified = "304 Not Modified"
    case badRequest = "400 Bad Request"
    case forbidden = "403 Forbidden"
    case notFound = "404 Not Found"
    case methodNotAllowed = "405 Method Not Allowed"
    case rangeNotSatisfiable = "416 Range Not Satisfiable"
    case headTooLarge = "431 Request Header Fields Too Large"
    case internalError = "500 Internal Server Error"
    case unavailable = "503 Service Unavailable"
    case versionNotSupported = "505 HTTP Version Not Supported"
}

/// The head of a response.
struct HTTPResponseHead {
    private(set) var text: String

    init(_ status: HTTPStatus) {
        text = "HTTP/1.1 \(status.rawValue)\r\n"
        add("Date", HTTPDate.string(time(nil)))
    }

    mutating func add(_ name: String, _ value: String) {
        text += name
        text += ": "
        text += value
        text += "\r\n"
    }

    /// Ends the head, and says what becomes of the connection where that is not what the version implies.
    mutating func finish(keepsAlive: Bool, isHTTP10: Bool) {
        if !keepsAlive {
            add("Connection", "close")
        } else if isHTTP10 {
            add("Connection", "keep-alive")
        }
        text += "\r\n"
    }
}

enum HTTPDate {
    /// The form of RFC 9110, 5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`. The C locale's names are English.
    static func string(_ time: time_t) -> String {
        var time = time
        var parts = unsafe tm()
        unsafe gmtime_r(&time, &parts)
        return unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { buffer in
            unsafe strftime(buffer.baseAddress!, 64, "%a, %d %b %Y %H:%M:%S GMT", &parts)
            return unsafe String(cString: buffer.baseAddress!)
        }
    }
}
