import Foundation
import Glibc

/// A directory of files to serve, removed at the end.
final class Site {
    let path: String
    /// More than the buffers of a connection hold.
    let big = Site.pattern20MB
    private static let pattern20MB = pattern(20_000_000, seed: 7)
    let small = Array("hello, world\n".utf8)

    init() throws {
        path = NSTemporaryDirectory() + "iocp-site-\(UUID().uuidString)"
        let files = FileManager.default
        try files.createDirectory(atPath: path + "/root/sub", withIntermediateDirectories: true)
        write("root/index.html", small)
        write("root/sub/index.html", Array("sub".utf8))
        write("root/a b.txt", Array("spaced".utf8))
        write("root/empty.css", [])
        write("root/big.bin", big)
        write("secret", Array("secret".utf8))
        try files.createSymbolicLink(atPath: path + "/root/escape", withDestinationPath: "../secret")
        try files.createSymbolicLink(atPath: path + "/root/out", withDestinationPath: "..")
        try files.createSymbolicLink(atPath: path + "/root/inside", withDestinationPath: "sub/index.html")
        // Its name begins with the root's.
        try files.createDirectory(atPath: path + "/root2", withIntermediateDirectories: true)
        write("root2/x", Array("x".utf8))
        unsafe mkfifo(path + "/root/fifo", 0o600)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ name: String, _ bytes: [UInt8]) {
        _ = FileManager.default.createFile(atPath: path + "/" + name, contents: Data(bytes))
    }

    func serve(_ options: [String] = []) throws -> ServerProcess {
        try ServerProcess("http-file-server", options + [path + "/root"])
    }
}

struct Response {
    var status = 0
    var headers: [String: String] = [:]
    var body: [UInt8] = []
}

extension Client {
    /// Takes one response. That to a HEAD has no body.
    func response(hasBody: Bool = true) throws -> Response {
        let head = try receive(until: "\r\n\r\n")
        var response = Response()
        let lines = head.components(separatedBy: "\r\n")
        response.status = Int(lines[0].split(separator: " ").dropFirst().first ?? "") ?? 0
        for line in lines.dropFirst() where !line.isEmpty {
            let parts = line.components(separatedBy: ": ")
            response.headers[parts[0].lowercased()] = parts.dropFirst().joined(separator: ": ")
        }
        if hasBody, let length = response.headers["content-length"].flatMap(Int.init) {
            response.body = try receive(length)
        }
        return response
    }

    func get(_ path: String, _ headers: String...) throws -> Response {
        try send("GET \(path) HTTP/1.1\r\nHost: x\r\n" + headers.map { $0 + "\r\n" }.joined() + "\r\n")
        return try response()
    }
}
