import CLiburing
import Glibc
public import SystemPackage

/// Why a ring could not be set up, or a resource not registered, with what to do about it.
public struct RingError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The causes a caller may want to tell apart.
    public enum Kind: Sendable, Hashable {
        /// The administrator has turned io_uring off for this process (`kernel.io_uring_disabled`).
        case forbiddenBySysctl
        /// A system call filter, as containers have, or a security module forbids io_uring.
        case forbiddenBySeccomp
        /// The system has no io_uring at all: a kernel older than 5.1, or built without it.
        case notImplemented
        /// The kernel has io_uring, but it, or the liburing in use, lacks what is named.
        case tooOld(missing: String)
        /// The process has no descriptor left (`EMFILE`).
        case processDescriptorLimit
        /// The system has no descriptor left (`ENFILE`).
        case systemDescriptorLimit
        /// The system has no memory left for this.
        case outOfMemory
        /// The memory to be locked exceeds the process's limit (`RLIMIT_MEMLOCK`).
        case lockedMemoryLimit
        /// The kernel refuses the request as contradictory or out of range.
        case invalidConfiguration
        /// Anything else; see ``RingError/errno``.
        case system
    }

    /// The cause.
    public let kind: Kind
    /// What the kernel answered.
    public let errno: Errno
    /// What failed, for the message.
    let operation: String
    /// The value of `kernel.io_uring_disabled` where it explains the error.
    let sysctl: Int?

    package init(kind: Kind, errno: Errno, operation: String, sysctl: Int? = nil) {
        self.kind = kind
        self.errno = errno
        self.operation = operation
        self.sysctl = sysctl
    }

    /// The cause and the remedy, in words.
    public var description: String {
        let text =
            switch kind {
            case .forbiddenBySysctl:
                "io_uring is switched off on this system: kernel.io_uring_disabled is \(sysctl ?? 2). "
                    + (sysctl == 1
                        ? "Set it to 0 (sysctl -w kernel.io_uring_disabled=0), put the process in the group that "
                            + "kernel.io_uring_group names, or give it CAP_SYS_ADMIN."
                        : "Set it to 0 (sysctl -w kernel.io_uring_disabled=0).")
            case .forbiddenBySeccomp:
                "a seccomp filter or a security module forbids io_uring, as container runtimes do by default. Run with "
                    + "a profile that allows io_uring_setup, io_uring_enter and io_uring_register (for Docker, "
                    + "--security-opt seccomp=PROFILE)."
            case .notImplemented:
                "this system has no io_uring: the kernel is too old, was built without CONFIG_IO_URING, or a sandbox "
                    + "or seccomp filter hides the call. Use Linux 5.19 or newer with io_uring enabled."
            case .tooOld(let missing):
                "the kernel, or the liburing in use, is too old: it lacks \(missing). Use Linux 6.1 or newer, or do "
                    + "without that option."
            case .processDescriptorLimit:
                "the process has no file descriptor left. Close some, or raise RLIMIT_NOFILE (ulimit -n)."
            case .systemDescriptorLimit:
                "the system has no file descriptor left. Raise fs.file-max (sysctl -w fs.file-max=...)."
            case .outOfMemory:
                "the kernel has no memory for it. Ask for fewer entries, or raise the memory limit of the control group."
            case .lockedMemoryLimit:
                "it would exceed the limit of locked memory. Ask for less, raise RLIMIT_MEMLOCK (ulimit -l), or give "
                    + "the process CAP_IPC_LOCK."
            case .invalidConfiguration:
                "the options contradict each other or are out of range. Check the flags that are required together "
                    + "and the numbers of entries."
            case .system:
                "the kernel answered: \(errno.description)."
            }
        return "\(operation) failed (errno \(errno.rawValue)): \(text)"
    }

    // Package access: the tests inject what cannot be provoked on a healthy system.

    /// Finds the cause of a failed call. What it reads of the system is passed in, so that every cause can be tested.
    package static func classify(
        _ errno: Errno, operation: String, sysctl: @autoclosure () -> Int?, lockedMemoryLimited: @autoclosure () -> Bool
    ) -> RingError {
        switch errno {
        case .notPermitted, .permissionDenied:
            // The kernel answers both with the same number. With 1 it refuses the unprivileged only; since it just
            // refused, this process is one of them.
            let value = sysctl()
            if errno == .notPermitted, value == 1 || value == 2 {
                return RingError(kind: .forbiddenBySysctl, errno: errno, operation: operation, sysctl: value)
            }
            return RingError(kind: .forbiddenBySeccomp, errno: errno, operation: operation, sysctl: value)
        case .noFunction:
            return RingError(kind: .notImplemented, errno: errno, operation: operation)
        case .tooManyOpenFiles:
            return RingError(kind: .processDescriptorLimit, errno: errno, operation: operation)
        case .tooManyOpenFilesInSystem:
            return RingError(kind: .systemDescriptorLimit, errno: errno, operation: operation)
        case .noMemory:
            // The kernel answers both with the same number here too. A process that is limited is far likelier to
            // have met its limit, a few megabytes by default, than the end of the memory.
            return RingError(
                kind: lockedMemoryLimited() ? .lockedMemoryLimit : .outOfMemory, errno: errno, operation: operation)
        case .invalidArgument, .outOfRange:
            return RingError(kind: .invalidConfiguration, errno: errno, operation: operation)
        default:
            return RingError(kind: .system, errno: errno, operation: operation)
        }
    }

    /// The same, with the state of the system read for real. `code` is a negated errno.
    static func from(_ code: Int32, operation: String) -> RingError {
        classify(
            Errno(rawValue: -code), operation: operation, sysctl: readDisabledSysctl(),
            lockedMemoryLimited: iou_locked_memory_limited() != 0)
    }

    /// `kernel.io_uring_disabled`, or nil where the kernel (older than 6.6) has none.
    package static func readDisabledSysctl() -> Int? {
        let fd = unsafe open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { return nil }
        defer { close(fd) }
        var byte: UInt8 = 0
        guard unsafe read(fd, &byte, 1) == 1, byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { return nil }
        return Int(byte - UInt8(ascii: "0"))
    }
}
