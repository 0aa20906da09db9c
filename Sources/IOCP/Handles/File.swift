internal import CIOCPSupport
internal import Glibc
public import SystemPackage

/// An open file, read and written at offsets.
///
/// There is no file position: every start says where (g1).
/// The corresponding Win32 function is `CreateFile` with `FILE_FLAG_OVERLAPPED`.
public final class File: IOHandle, @unchecked Sendable {
    /// Opens a file.
    ///
    /// - Parameters:
    ///   - path: of a regular file, a block or character device.
    ///   - mode: read, write or both.
    ///   - options: of `open(2)`; O_CLOEXEC is always added. With `O_DIRECT` (the option `.direct`)
    ///     offsets, lengths and memory must be aligned as the file system asks.
    ///   - permissions: of a file that is created.
    ///   - overlapped: false makes a handle that cannot be associated with a port.
    /// - Throws: ``PortError`` with the status of the failed `open`.
    /// - Cost: blocks as `open(2)` does.
    public convenience init(
        _ path: FilePath, _ mode: FileDescriptor.AccessMode = .readOnly,
        options: FileDescriptor.OpenOptions = [], permissions: FilePermissions? = nil, overlapped: Bool = true
    ) throws(PortError) {
        let descriptor: FileDescriptor
        do {
            descriptor = try FileDescriptor.open(
                path, mode, options: options.union(.closeOnExec),
                permissions: permissions ?? (options.contains(.create) ? .ownerReadWrite : nil))
        } catch {
            throw .system((error as? Errno)?.rawValue ?? EIO, "the file \(path) cannot be opened")
        }
        do throws(PortError) {
            self.init(try Self.adopt(descriptor.rawValue, nil, overlapped))
        } catch {
            Glibc.close(descriptor.rawValue)
            throw error
        }
    }

    /// Another handle to the same file object.
    public func duplicate() throws(PortError) -> File {
        File(try retainForDuplicate())
    }

    /// The file's length in bytes, now.
    public func length() throws(PortError) -> Int64 {
        var info = stat()
        let code = try opened().onDescriptor { unsafe fstat($0, &info) }
        guard code == 0 else { throw .system(code, "the file's length cannot be read") }
        return Int64(info.st_size)
    }
}

extension FileDescriptor.OpenOptions {
    /// Past the page cache: offsets, lengths and memory must be aligned. The C constant is `O_DIRECT`.
    public static var direct: FileDescriptor.OpenOptions { .init(rawValue: iocp_open_direct) }
}
