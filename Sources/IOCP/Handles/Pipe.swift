internal import CIOCPSupport
internal import Glibc
public import SystemPackage

/// One end of a pipe or a FIFO, or of a duplex pipe.
///
/// Reading from a pipe whose writers are gone ends with ``CompletionStatus/pipeBroken`` (109), writing to one whose
/// readers are gone with ``CompletionStatus/pipeClosing`` (232). A write is complete only in full.
/// The library ignores SIGPIPE for the process, if it has its default action, when the first pipe is made.
///
/// The corresponding Win32 functions are `CreatePipe` and `CreateNamedPipe`.
public final class Pipe: IOHandle, @unchecked Sendable {
    /// A pipe in one direction.
    public static func make() throws(PortError) -> (reading: Pipe, writing: Pipe) {
        var ends: (Int32, Int32) = (-1, -1)
        let result = unsafe withUnsafeMutableBytes(of: &ends) {
            unsafe iocp_pipe($0.baseAddress!.assumingMemoryBound(to: Int32.self))
        }
        guard result == 0 else { throw .system(-result, "a pipe cannot be made") }
        Process.ignoreBrokenPipeSignal()
        return (
            Pipe(FileObject(descriptor: ends.0, kind: .pipe)), Pipe(FileObject(descriptor: ends.1, kind: .pipe))
        )
    }

    /// A pipe in both directions, as a Windows byte-mode named pipe is.
    public static func makeDuplex() throws(PortError) -> (Pipe, Pipe) {
        var ends: (Int32, Int32) = (-1, -1)
        let result = unsafe withUnsafeMutableBytes(of: &ends) {
            unsafe iocp_socketpair(
                Int32(SOCK_STREAM.rawValue), $0.baseAddress!.assumingMemoryBound(to: Int32.self))
        }
        guard result == 0 else { throw .system(-result, "a duplex pipe cannot be made") }
        Process.ignoreBrokenPipeSignal()
        return (
            Pipe(FileObject(descriptor: ends.0, kind: .pipe)), Pipe(FileObject(descriptor: ends.1, kind: .pipe))
        )
    }

    /// Opens a FIFO without waiting for its other end.
    ///
    /// A read waits for the first writer, and ends with ``CompletionStatus/pipeBroken`` once the last one has gone.
    /// - Parameter mode: to write needs a reader to be there, else ``CompletionStatus/deviceNotReady``; to read and
    ///   write never ends, since the handle is a writer itself.
    public convenience init(fifo path: FilePath, _ mode: FileDescriptor.AccessMode) throws(PortError) {
        let descriptor: FileDescriptor
        do {
            descriptor = try FileDescriptor.open(path, mode, options: [.closeOnExec, .nonBlocking])
        } catch {
            throw .system((error as? Errno)?.rawValue ?? EIO, "the FIFO \(path) cannot be opened")
        }
        // Only the open was not to wait.
        _ = fcntl(descriptor.rawValue, F_SETFL, fcntl(descriptor.rawValue, F_GETFL) & ~O_NONBLOCK)
        Process.ignoreBrokenPipeSignal()
        self.init(FileObject(descriptor: descriptor.rawValue, kind: .pipe))
    }

    /// Another handle to the same file object.
    public func duplicate() throws(PortError) -> Pipe {
        Pipe(try retainForDuplicate())
    }
}
