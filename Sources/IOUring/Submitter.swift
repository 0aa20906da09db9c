public import CLiburing

/// A copyable view of a living ``Ring`` that any thread may use: it enters the kernel, looks at how full the queues
/// are, and cancels operations.
///
/// It holds the ring's descriptor and pointers into the mapping shared with the kernel, and does not keep the ring
/// alive: using it after the ring is gone is undefined. Filling entries, publishing them and taking completions are
/// not here; those belong to the ring's owner, or happen under the owner's lock.
///
/// Unchecked, because pointers are not `Sendable`: everything these point at is read with atomic loads only, and every
/// call goes to the kernel, which does its own locking.
@safe
public struct Submitter: @unchecked Sendable {
    /// The ring's descriptor, for messages from other rings.
    public let fileDescriptor: Int32
    @usableFromInline let submissionHead: UnsafeMutablePointer<UInt32>
    @usableFromInline let submissionTail: UnsafeMutablePointer<UInt32>
    @usableFromInline let submissionFlags: UnsafeMutablePointer<UInt32>
    @usableFromInline let completionHead: UnsafeMutablePointer<UInt32>
    @usableFromInline let completionTail: UnsafeMutablePointer<UInt32>

    init(_ ring: UnsafeMutablePointer<io_uring>) {
        unsafe fileDescriptor = ring.pointee.ring_fd
        unsafe submissionHead = ring.pointee.sq.khead
        unsafe submissionTail = ring.pointee.sq.ktail
        unsafe submissionFlags = ring.pointee.sq.kflags
        unsafe completionHead = ring.pointee.cq.khead
        unsafe completionTail = ring.pointee.cq.ktail
    }

    /// How many published entries the kernel has not taken. A snapshot: other threads may be submitting.
    @inlinable
    public var unsubmitted: UInt32 {
        // The head first: it never passes a tail that is read later, so the difference never goes below zero.
        let head = unsafe iou_load_acquire(submissionHead)
        return unsafe iou_load_acquire(submissionTail) &- head
    }

    /// How many completions lie in the queue. A snapshot: the owner may be taking them.
    @inlinable
    public var completionsReady: UInt32 {
        let head = unsafe iou_load_acquire(completionHead)
        return unsafe iou_load_acquire(completionTail) &- head
    }

    /// Whether entering with ``EnterFlags/getEvents`` would bring completions: some are due but not finished
    /// (``SetupFlags/taskrunFlag``), or some found the queue full. One load.
    @inlinable
    public var needsEnter: Bool { unsafe iou_load_relaxed(submissionFlags) & (1 << 1 | 1 << 2) != 0 }

    /// Whether completions that found the queue full wait in the kernel. Entering with ``EnterFlags/getEvents`` brings
    /// them, once there is room.
    @inlinable
    public var overflowPending: Bool { unsafe iou_load_relaxed(submissionFlags) & 1 << 1 != 0 }

    /// Whether the kernel thread of a ring with ``SetupFlags/submissionPolling`` sleeps and must be woken with
    /// ``EnterFlags/submissionWakeup`` to see what was just published. A full barrier and one load.
    @inlinable
    public var needsWakeup: Bool {
        iou_full_barrier()
        return unsafe iou_load_relaxed(submissionFlags) & 1 << 0 != 0
    }

    /// Enters the kernel once (`io_uring_enter(2)`), submitting up to `submit` published entries and, with
    /// ``EnterFlags/getEvents``, waiting for `minimumCompletions`.
    ///
    /// Never throws, never retries: `-EINTR` means a signal came. When anything was submitted, the count is returned
    /// even if the wait that followed failed.
    ///
    /// - Returns: the number of entries submitted, or a negated errno.
    @inlinable
    public func enter(submit: UInt32, minimumCompletions: UInt32, flags: EnterFlags) -> Int32 {
        Seam.enter(fileDescriptor, submit: submit, minimumCompletions: minimumCompletions, flags: flags)
    }

    /// The same, waiting no longer than a number of nanoseconds, counted from the call; below zero, without limit.
    ///
    /// - Returns: the number of entries submitted, or a negated errno: `-ETIME` when the time was up.
    @inlinable
    public func enter(
        submit: UInt32, minimumCompletions: UInt32, flags: EnterFlags, timeoutNanoseconds: Int64
    ) -> Int32 {
        Seam.enter(
            fileDescriptor, submit: submit, minimumCompletions: minimumCompletions, flags: flags,
            timeoutNanoseconds: timeoutNanoseconds)
    }

    /// Cancels the operation with this user data (`IORING_REGISTER_SYNC_CANCEL`, Linux 6.0).
    ///
    /// The cancelled operation still posts its completion, with `-ECANCELED`: usually after this returns, when the
    /// thread that submitted it enters the kernel. Until then it is found again by another call. An operation already running on a worker thread that cannot be interrupted is waited for, unless a timeout is given; with
    /// ``CancelFlags/all`` or ``CancelFlags/any`` the kernel does not wait for such.
    ///
    /// - Parameters:
    ///   - flags: ``CancelFlags/all`` for every operation with this user data, ``CancelFlags/any`` for every one.
    ///   - timeoutNanoseconds: how long to wait, counted from the call; below zero, without limit.
    /// - Returns: with ``CancelFlags/all`` or ``CancelFlags/any`` the number found, else zero; or a negated errno:
    ///   `-ENOENT` when there is none, `-ETIME` when the time was up, `-EINTR` when a signal came, `-EINVAL` when the
    ///   kernel is too old, `-EEXIST` when the ring has ``SetupFlags/singleIssuer`` and belongs to another thread.
    @inlinable
    public func cancel(userData: UInt64, flags: CancelFlags = [], timeoutNanoseconds: Int64 = -1) -> Int32 {
        let code = Seam.cancel(
            fileDescriptor, userData: userData, target: -1, flags: flags, timeoutNanoseconds: timeoutNanoseconds)
        return Submitter.answer(code, flags)
    }

    /// Cancels every operation on a descriptor; otherwise like ``cancel(userData:flags:timeoutNanoseconds:)`` with
    /// ``CancelFlags/all``.
    ///
    /// - Parameters:
    ///   - target: a descriptor, or, with ``CancelFlags/fixedFile``, an index into the registered files.
    @inlinable
    public func cancelAll(
        fileDescriptor target: Int32, flags: CancelFlags = [], timeoutNanoseconds: Int64 = -1
    ) -> Int32 {
        let flags = flags.union([.all, .descriptor])
        let code = Seam.cancel(
            fileDescriptor, userData: 0, target: target, flags: flags, timeoutNanoseconds: timeoutNanoseconds)
        return Submitter.answer(code, flags)
    }

    /// Puts a descriptor into the ring's table of registered files, or empties the place with -1. Any thread may, of a ring
    /// without ``SetupFlags/singleIssuer``.
    ///
    /// - Returns: zero or a negated errno.
    public func updateFile(at index: UInt32, with descriptor: Int32) -> Int32 {
        Seam.register(fileDescriptor, IOU_REGISTER_FILES_UPDATE) { iou_update_file(fileDescriptor, index, descriptor) }
    }

    /// Asked for all, the kernel counts, and nothing found is zero rather than an error. One answer for both.
    @inlinable
    static func answer(_ code: Int32, _ flags: CancelFlags) -> Int32 {
        code == 0 && !flags.isDisjoint(with: [.all, .any]) ? -ENOENT : code
    }
}
