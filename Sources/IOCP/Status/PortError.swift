internal import Glibc
internal import IOUring

/// Why a call of this module did nothing: a status that the Win32 function would report, and a text that names the cause
/// and the remedy.
///
/// Thrown when nothing was started or dequeued. The outcome of an operation that was started is never thrown: it is the
/// status of its packet, with one documented exception, the immediate failure of an operation started with
/// ``Start/eager``.
public struct PortError: Error, Sendable, CustomStringConvertible {
    /// The status, with its Win32 code, NTSTATUS and errno.
    public let status: CompletionStatus
    /// The cause and the remedy, in a sentence.
    public let reason: String

    public init(_ status: CompletionStatus, _ reason: String) {
        self.status = status
        self.reason = reason
    }

    public var description: String { "\(reason) [\(status)]" }
}

extension PortError {
    static var portClosed: PortError {
        PortError(.invalidHandle, "the port has been closed; create another, or keep a duplicate of it open")
    }

    static var abandoned: PortError {
        PortError(.abandoned, "the last reference to the port was closed while this thread waited")
    }

    static var handleClosed: PortError {
        PortError(.invalidHandle, "the handle has been closed or released")
    }

    // In the child of a fork.

    static var portOfParent: PortError {
        PortError(
            .invalidHandle,
            "this port was made before fork and is the parent's; make a new one in the child, or exec")
    }

    static var handleOfParent: PortError {
        PortError(
            .invalidHandle,
            "this handle was made before fork and its operations are the parent's; release its descriptor and adopt that "
                + "in the child, or exec")
    }

    static var operationOfParent: PortError {
        PortError(
            .invalidHandle,
            "this operation was started before fork and is the parent's; start another one in the child, or exec")
    }

    static var eventOfParent: PortError {
        PortError(.invalidHandle, "this event was made before fork; make a new one in the child, or exec")
    }

    static var negativeDuration: PortError {
        PortError(.invalidParameter, "a timeout must not be negative; use nil to wait for ever and .zero not to wait")
    }

    static var operationInFlight: PortError {
        PortError(
            .invalidParameter,
            "the operation is still in flight; wait for its packet before it is started again, or use another operation"
        )
    }

    static var notTheConsumer: PortError {
        PortError(
            .invalidParameter,
            "another thread is the single consumer of this port; dequeue from that one, or make the port without "
                + "singleConsumer")
    }

    /// The library's epoll, eventfd or timer could not be made.
    static func noDescriptors(_ code: Int32) -> PortError {
        let what = "for the library's epoll, eventfd and timer"
        return switch code {
        case EMFILE: .system(code, "no descriptor is left \(what); close some, or raise RLIMIT_NOFILE (ulimit -n)")
        case ENFILE: .system(code, "the system has no descriptor left \(what); raise fs.file-max")
        default: .system(code, "the kernel has no memory \(what) (errno \(code)); free some")
        }
    }

    /// A descriptor of the library's could not be added to its epoll.
    static func unwatched(_ code: Int32) -> PortError {
        code == ENOSPC
            ? PortError(
                .insufficientResources,
                "the user has as many descriptors in epolls as the system lets him have; raise fs.epoll.max_user_watches"
            )
            : .system(code, "the kernel has no memory to watch a ring with epoll (errno \(code)); free some")
    }

    /// The kernel did not take what is queued.
    static func refused(_ code: Int32) -> PortError {
        PortError(
            .insufficientResources,
            "the kernel does not take operations just now (errno \(code)): memory is short, or completions must be "
                + "dequeued first. Those started stay queued and are tried again; free memory, or start fewer at a time"
        )
    }

    static func invalid(_ reason: String) -> PortError { PortError(.invalidParameter, reason) }

    /// The error of a failed system call at an edge of the library.
    static func system(_ code: Int32, _ what: String) -> PortError {
        PortError(CompletionStatus(errnoCode: code), what)
    }

    init(_ error: RingError) {
        self.init(CompletionStatus(errno: error.errno), error.description)
    }
}
