internal import CIOCPSupport
internal import Glibc
internal import Synchronization
public import SystemPackage

/// A handle to something that reads, writes, accepts or connects: a reference to a file object.
///
/// The association with a port, the notification modes and the pending operations belong to the file object, which all
/// duplicates of a handle share (a4). When the last handle is closed, the pending operations end, each with one packet
/// (e28–e31); packets that are queued already survive (e32). A handle closes itself when its last reference goes.
///
/// - Thread safety: every call from any thread.
public class IOHandle: @unchecked Sendable {
    // Unchecked: the class is not final, but neither it nor its subclasses have mutable stored state of their own.

    /// The file object, retained, and in the low bit whether this handle is closed. One word: a server has a handle for
    /// each idle connection.
    private let word: Atomic<UInt>

    private static let closedBit: UInt = 1

    init(_ file: FileObject) {
        word = unsafe Atomic(UInt(bitPattern: Unmanaged.passRetained(file).toOpaque()))
    }

    deinit {
        if !isClosed { release() }
        unsafe reference(word.load(ordering: .acquiring)).release()
    }

    @inline(__always)
    private final func reference(_ word: UInt) -> Unmanaged<FileObject> {
        unsafe .fromOpaque(UnsafeRawPointer(bitPattern: word & ~Self.closedBit)!)
    }

    /// Kept alive by this handle.
    final var file: FileObject {
        @inline(__always) get { unsafe reference(word.load(ordering: .relaxed)).takeUnretainedValue() }
    }

    private final var isClosed: Bool { word.load(ordering: .acquiring) & Self.closedBit != 0 }

    /// Returns whether the handle was open.
    private final func markClosed() -> Bool {
        word.bitwiseOr(Self.closedBit, ordering: .sequentiallyConsistent).oldValue & Self.closedBit == 0
    }

    /// Adopts a descriptor that something else has opened: from now on this handle closes it.
    ///
    /// - Parameters:
    ///   - descriptor: of any kind that io_uring can serve. If it is non-blocking it becomes blocking, for every holder
    ///     of the same open file description, until ``releaseDescriptor()``; io_uring never blocks on it either way.
    ///   - kind: how results are read; nil finds it out by `fstat` and `SO_TYPE`.
    ///   - overlapped: false marks a handle that must not be associated with a port.
    /// - Throws: ``PortError`` with ``CompletionStatus/invalidHandle`` if the descriptor is not open.
    public convenience init(
        adopting descriptor: FileDescriptor, kind: HandleKind? = nil, overlapped: Bool = true
    ) throws(PortError) {
        self.init(try Self.adopt(descriptor.rawValue, kind, overlapped))
    }

    static func adopt(_ descriptor: Int32, _ kind: HandleKind?, _ overlapped: Bool) throws(PortError) -> FileObject {
        var info = stat()
        guard unsafe fstat(descriptor, &info) == 0 else {
            throw .system(errno, "the descriptor \(descriptor) cannot be adopted")
        }
        let found = kind ?? Self.kind(of: descriptor, mode: info.st_mode)
        let flags = fcntl(descriptor, F_GETFL)
        // io_uring reports EAGAIN for a non-blocking descriptor in place of waiting.
        let wasNonblocking = flags >= 0 && flags & O_NONBLOCK != 0 && found != .file
        if wasNonblocking { _ = fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK) }
        if found == .pipe { Process.ignoreBrokenPipeSignal() }
        let file = FileObject(
            descriptor: descriptor, kind: found, isOverlapped: overlapped, restoresNonblocking: wasNonblocking)
        if found == .stream, getpeername(descriptor, nil, nil) == 0 || errno != ENOTCONN { file.noteConnection() }
        return file
    }

    private static func kind(of descriptor: Int32, mode: mode_t) -> HandleKind {
        switch mode & S_IFMT {
        case S_IFREG, S_IFBLK: return .file
        case S_IFIFO: return .pipe
        case S_IFSOCK:
            var type: Int32 = 0
            var size = socklen_t(MemoryLayout<Int32>.size)
            _ = unsafe getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &size)
            return type == Int32(SOCK_STREAM.rawValue) ? .stream : .message
        default: return .device
        }
    }

    /// How the handle's results are read.
    public final var kind: HandleKind { file.kind }

    /// Whether the handle may be associated with a port. Win32: opened with `FILE_FLAG_OVERLAPPED`.
    public final var isOverlapped: Bool { file.isOverlapped }

    /// The open descriptor, still owned by the handle: for options and queries, not for reading, writing or closing.
    public final var descriptor: FileDescriptor { FileDescriptor(rawValue: file.descriptor) }

    // MARK: Duplicating and closing

    func retainForDuplicate() throws(PortError) -> FileObject {
        guard !isClosed else { throw .handleClosed }
        try file.retainHandle()
        return file
    }

    /// Closes the handle. The last one of a file object ends the pending operations and closes the descriptor.
    ///
    /// Pending operations end as Windows ends them: 1236 for a connected socket (e29), 109 for a pipe (e31), 995 for
    /// anything else (e28). Each yields its one packet.
    /// - Throws: ``PortError`` if the handle is closed already.
    ///
    /// The corresponding Win32 functions are `CloseHandle` and `closesocket`.
    public final func close() throws(PortError) {
        guard markClosed() else { throw .handleClosed }
        release()
    }

    private func release() {
        guard case .last(let hasPending) = file.releaseHandle() else { return }
        if hasPending {
            for start in unsafe file.pendingOperations(where: { _ in true }) { Engine.interrupt(start) }
        }
        if let accept = file.takeAwaiting() { _ = Engine.cancel(accept.start) }
        // A request in flight holds its own reference to the open file; nothing uses the number any more.
        file.closeDescriptor()
        IOThread.current.buryDead()
    }

    /// Gives the descriptor back and ends this handle without closing it.
    ///
    /// - Throws: ``PortError`` while operations are pending or duplicates exist.
    public final func releaseDescriptor() throws(PortError) -> FileDescriptor {
        guard !isClosed else { throw .handleClosed }
        let given = try file.surrenderDescriptor()
        _ = markClosed()
        return FileDescriptor(rawValue: given)
    }

    /// The file object, if this handle is open.
    @inline(__always)
    final func opened() throws(PortError) -> FileObject {
        let word = word.load(ordering: .relaxed)
        guard word & Self.closedBit == 0 else { throw .handleClosed }
        return unsafe reference(word).takeUnretainedValue()
    }

    /// Lends the open file object, uncounted: this handle keeps it alive meanwhile. For what every operation passes.
    @inline(__always)
    final func withOpened<Result>(_ body: (FileObject) throws(PortError) -> Result) throws(PortError) -> Result {
        let word = word.load(ordering: .relaxed)
        guard word & Self.closedBit == 0 else { throw .handleClosed }
        return unsafe try reference(word).lend(body)
    }

    /// The same, for looking at its operations.
    private func openedForOperations() throws(PortError) -> FileObject {
        let file = try opened()
        try file.refuseIfInherited()
        return file
    }

    // MARK: Modes and signals

    /// Adds modes; set modes are never cleared (e16).
    ///
    /// - Throws: ``PortError`` for unknown bits (e17), a closed handle, or one not opened for overlapped I/O.
    ///
    /// The corresponding Win32 function is `SetFileCompletionNotificationModes`.
    public final func setNotificationModes(_ modes: NotificationModes) throws(PortError) {
        guard modes.isSubset(of: .known) else {
            throw .invalid("unknown notification modes: \(modes.subtracting(.known).rawValue)")
        }
        try opened().addModes(modes)
    }

    /// The modes that have been set, accumulated.
    public final var notificationModes: NotificationModes { file.peek().modes }

    /// Whether the handle is signaled: reset when an operation starts, set when one without an event of its own
    /// completes (e10), and by the association with a port (a8).
    public final var isSignaled: Bool {
        if file.isSignaled { return true }
        Engine.progress()
        return file.isSignaled
    }

    /// Waits until the handle is signaled, giving the thread's place up meanwhile (d7).
    ///
    /// - Returns: whether it was in time. The corresponding Win32 function is `WaitForSingleObject`.
    public final func waitUntilSignaled(timeout: Duration? = nil) throws(PortError) -> Bool {
        let deadline = try Deadline(after: timeout)
        if isSignaled { return true }
        try file.refuseIfInherited()
        if deadline.isImmediate { return false }
        var result = false
        IOThread.current.blocking { result = file.waitForSignal(deadline) }
        return result
    }

    // MARK: Cancelling

    /// Asks for the end of one operation that is pending on this handle's file object.
    ///
    /// Only marks it: the operation may still end normally or with another error, and always yields its packet (e22).
    /// - Throws: ``PortError`` with ``CompletionStatus/notFound`` (1168) if it is not pending here, or was asked to end
    ///   already (e21).
    ///
    /// The corresponding Win32 function is `CancelIoEx` with an OVERLAPPED.
    public final func cancel(_ operation: Operation) throws(PortError) {
        let file = try openedForOperations()
        let record = unsafe operation.record
        let found = unsafe file.pendingOperations { unsafe $0 == record }
        guard let start = found.first, Engine.cancel(start) else {
            throw PortError(.notFound, "the operation is not pending on this handle")
        }
    }

    /// Asks for the end of every operation on the file object, whoever started it.
    ///
    /// - Returns: how many were asked. Throws ``CompletionStatus/notFound`` (1168) if there were none.
    ///
    /// The corresponding Win32 function is `CancelIoEx` without an OVERLAPPED.
    @discardableResult
    public final func cancelAll() throws(PortError) -> Int {
        let file = try openedForOperations()
        var count = 0
        for start in unsafe file.pendingOperations(where: { _ in true }) where Engine.cancel(start) {
            count += 1
        }
        guard count > 0 else { throw PortError(.notFound, "no operation is pending on this handle") }
        return count
    }

    /// Asks for the end of the operations that the calling thread started on the file object (e20).
    ///
    /// - Returns: how many were asked; none is no error. The corresponding Win32 function is `CancelIo`.
    @discardableResult
    public final func cancelFromThisThread() throws(PortError) -> Int {
        let file = try openedForOperations()
        let me = IOThread.current.serial
        var count = 0
        for start in unsafe file.pendingOperations(where: { unsafe $0.pointee.thread == me })
        where Engine.cancel(start) {
            count += 1
        }
        return count
    }
}

/// What the library sets once for the whole process.
enum Process {
    /// A write to a pipe without readers raises SIGPIPE in the submitting thread, and MSG_NOSIGNAL exists for sockets only.
    private static let brokenPipeSignalIsIgnored: Bool = iocp_ignore_sigpipe()

    static func ignoreBrokenPipeSignal() { _ = brokenPipeSignalIsIgnored }
}
