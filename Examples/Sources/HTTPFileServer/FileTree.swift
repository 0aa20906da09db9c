import Glibc
import IOCP
import SystemPackage

/// The files that are served: what lies in a directory.
struct FileTree: Sendable {
    /// The canonical path of the directory, with a slash at its end.
    private let root: String

    struct Failure: Error {
        let status: HTTPStatus
        init(_ status: HTTPStatus) { self.status = status }
    }

    /// An open regular file.
    struct Document {
        let file: File
        let length: Int64
        let modified: time_t
        let contentType: String
    }

    enum Entry {
        case document(Document)
        /// A directory that was asked for without the slash at its end, on which its relative links rely.
        case directory
    }

    init(root path: String) throws {
        guard let canonical = unsafe realpath(path, nil) else { throw Errno(rawValue: errno) }
        defer { unsafe free(canonical) }
        let root = unsafe String(cString: canonical)
        self.root = root.hasSuffix("/") ? root : root + "/"
    }

    /// Opens what a request's path names.
    func entry(_ encodedPath: String) throws(Failure) -> Entry {
        let path = try Self.decode(encodedPath)
        do {
            let file = try openFile(path)
            var info = try Self.information(file)
            let saysDirectory = path.hasSuffix("/")
            if info.st_mode & S_IFMT != S_IFDIR {
                // A FilePath drops the slash at the end, with which no file has a name.
                if saysDirectory { throw Failure(.notFound) }
                return try document(file, info, path)
            }
            guard saysDirectory else { return .directory }
            let index = try openFile(path + "index.html")
            info = try Self.information(index)
            return try document(index, info, "index.html")
        } catch let failure as Failure {
            throw failure
        } catch {
            switch (error as? PortError)?.status {
            case .accessDenied: throw Failure(.forbidden)
            case .tooManyOpenedFiles, .insufficientResources: throw Failure(.unavailable)
            default: throw Failure(.notFound)
            }
        }
    }

    private func document(_ file: File, _ info: stat, _ path: String) throws(PortError) -> Entry {
        guard info.st_mode & S_IFMT == S_IFREG else { throw PortError(.objectNameNotFound, "not a regular file") }
        return .document(
            Document(
                file: file, length: Int64(info.st_size), modified: info.st_mtim.tv_sec,
                contentType: Self.contentType(of: path)))
    }

    /// Opens a path below the root, and refuses it if dots or symbolic links have led out.
    ///
    /// The kernel is asked what it has opened: looking at the path before would leave time to change it in between.
    private func openFile(_ path: String) throws(PortError) -> File {
        // Non-blocking: opening a FIFO would wait for its writer.
        let file = try File(FilePath(root + path), options: [.nonBlocking])
        let link = "/proc/self/fd/\(file.descriptor.rawValue)"
        let real = unsafe withUnsafeTemporaryAllocation(byteCount: Int(PATH_MAX), alignment: 1) { room in
            let count = unsafe readlink(link, room.baseAddress!.assumingMemoryBound(to: CChar.self), room.count)
            return unsafe String(decoding: room.prefix(max(0, count)), as: UTF8.self)
        }
        guard real.hasPrefix(root) || real + "/" == root else {
            throw PortError(.objectNameNotFound, "the path leads out of the directory that is served")
        }
        return file
    }

    private static func information(_ file: File) throws(PortError) -> stat {
        var info = stat()
        guard unsafe fstat(file.descriptor.rawValue, &info) == 0 else {
            throw PortError(CompletionStatus(errno: Errno(rawValue: errno)), "the file cannot be looked at")
        }
        return info
    }

    /// Undoes percent-encoding. A zero byte would end the path early for the kernel.
    static func decode(_ path: String) throws(Failure) -> String {
        guard path.utf8.contains(UInt8(ascii: "%")) else { return path }
        var bytes: [UInt8] = []
        var rest = path.utf8[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard let high = rest.popFirst(), let low = rest.popFirst(),
                let value = UInt8(String(decoding: [high, low], as: UTF8.self), radix: 16), value != 0,
                high != UInt8(ascii: "+")
            else { throw Failure(.badRequest) }
            bytes.append(value)
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func contentType(of path: String) -> String {
        guard let dot = path.lastIndex(of: ".") else { return "application/octet-stream" }
        return contentTypes[path[path.index(after: dot)...].lowercased()] ?? "application/octet-stream"
    }

    private static let contentTypes = [
        "html": "text/html; charset=utf-8", "htm": "text/html; charset=utf-8", "css": "text/css; charset=utf-8",
        "js": "text/javascript; charset=utf-8", "txt": "text/plain; charset=utf-8",
        "md": "text/markdown; charset=utf-8",
        "json": "application/json", "xml": "application/xml", "pdf": "application/pdf", "wasm": "application/wasm",
        "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "svg": "image/svg+xml",
        "webp": "image/webp", "ico": "image/x-icon", "mp4": "video/mp4", "mp3": "audio/mpeg", "woff2": "font/woff2",
        "zip": "application/zip", "gz": "application/gzip", "csv": "text/csv; charset=utf-8",
    ]
}
