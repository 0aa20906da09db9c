public import CLiburing
import Glibc
public import SystemPackage

/// An io_uring: a queue of operations for the kernel and a queue of their completions, both in memory shared with it.
///
/// The ring has one owner. Filling the submission queue (``enqueue(_:)``, ``publish()``) and emptying the completion
/// queue (``completion(at:)``, ``advance(by:)``) must be done by one thread at a time, or under a lock of the caller's.
/// The two sides share nothing: with ``completionQueue``, completions can be taken by another thread, or under another
/// lock, than entries are filled. Entering the kernel is for any thread, through ``submitter``.
///
/// Dropping the ring closes it. The kernel then cancels what is under way **after** the descriptor is gone: buffers
/// of operations that have not completed must outlive them, so cancel and collect everything first.
///
/// Unchecked `Sendable`, because pointers are not: the mapping belongs to this value alone, which is not copyable, and
/// what other threads may touch of it goes through atomics in ``Submitter``.
@safe
public struct Ring: ~Copyable, @unchecked Sendable {
    @usableFromInline let handle: UnsafeMutablePointer<io_uring>
    @usableFromInline let entries: UnsafeMutablePointer<iou_sqe>
    @usableFromInline let entryMask: UInt32
    /// Entries filled so far, published or not. Wraps.
    @usableFromInline var tail: UInt32
    @usableFromInline let completionSide: CompletionQueue

    /// The flags the ring runs with: what was required, and those optional ones the kernel knows.
    public let setupFlags: SetupFlags
    /// What the kernel can do.
    public let features: RingFeatures
    /// The length of the submission queue: a power of two, not below what was asked for unless clamped.
    public let submissionCapacity: UInt32
    /// The length of the completion queue: a power of two, not below what was asked for unless clamped.
    public let completionCapacity: UInt32
    /// What other threads may do with this ring. It must not outlive the ring.
    public let submitter: Submitter

    /// Sets up a ring (`io_uring_queue_init_params`).
    ///
    /// A kernel that does not know one of the optional flags refuses the set as a whole; they are then given up one
    /// by one, youngest first, until it agrees. Flags in ``RingOptions/required`` are never given up.
    ///
    /// Costs one system call per attempt, two or three mappings and a descriptor, which is closed on `exec`.
    ///
    /// - Throws: ``RingError``, whose description says why and what to do about it.
    public init(_ options: RingOptions = .init()) throws(RingError) {
        let setUp = try unsafe Ring.setUp(options)
        let handle = unsafe setUp.handle
        let parameters = unsafe setUp.parameters
        unsafe self.handle = handle
        unsafe submitter = Submitter(handle)
        unsafe entries = handle.pointee.sq.sqes
        entryMask = parameters.sq_entries &- 1
        tail = unsafe iou_load_relaxed(handle.pointee.sq.ktail)
        unsafe completionSide = CompletionQueue(handle, mask: parameters.cq_entries &- 1)
        setupFlags = SetupFlags(rawValue: parameters.flags)
        features = RingFeatures(rawValue: parameters.features)
        submissionCapacity = parameters.sq_entries
        completionCapacity = parameters.cq_entries
    }

    deinit {
        unsafe Seam.tearDown(handle)
        unsafe handle.deallocate()
    }

    /// The ring's descriptor.
    package var fileDescriptor: Int32 { submitter.fileDescriptor }

    /// The mappings that are shared with the kernel, and after a fork with the child.
    package var sharedMemory: [UnsafeRawBufferPointer] {
        let entries = unsafe UnsafeRawBufferPointer(
            start: handle.pointee.sq.sqes, count: Int(submissionCapacity) * MemoryLayout<iou_sqe>.size)
        let submissions = unsafe UnsafeRawBufferPointer(
            start: handle.pointee.sq.ring_ptr, count: handle.pointee.sq.ring_sz)
        let completions = unsafe UnsafeRawBufferPointer(
            start: handle.pointee.cq.ring_ptr, count: handle.pointee.cq.ring_sz)
        // Kernels since 5.4 map the two queues together.
        let isOne = unsafe submissions.baseAddress == completions.baseAddress
        return unsafe isOne ? [entries, submissions] : [entries, submissions, completions]
    }

    // MARK: Setting up

    /// What every supported kernel has and this module cannot do without.
    static let neededFeatures: [(RingFeatures, String)] = [
        (.noDrop, "IORING_FEAT_NODROP (Linux 5.5)"),
        (.submitStable, "IORING_FEAT_SUBMIT_STABLE (Linux 5.5)"),
        (.extendedArgument, "IORING_FEAT_EXT_ARG (Linux 5.11)"),
    ]

    static func setUp(
        _ options: RingOptions
    ) throws(RingError) -> (handle: UnsafeMutablePointer<io_uring>, parameters: iou_params) {
        let operation = "Setting up an io_uring"
        var required = options.required
        guard required.union(options.flags).isSubset(of: .driveable) else {
            throw RingError(kind: .invalidConfiguration, errno: .invalidArgument, operation: operation)
        }
        if options.completionEntries != 0 { required.insert(.completionQueueSize) }
        if options.attachTo != nil { required.insert(.attachWorkQueue) }
        // Without a length or a descriptor to go with them, these two would only be refused.
        var optional = options.flags.subtracting([.completionQueueSize, .attachWorkQueue]).subtracting(required)
        if required.union(optional).contains(.submissionPolling) {
            // Refused beside a polling thread by every kernel. Taken out at once, as peeling would give up innocent
            // flags on the way to them.
            optional.subtract([.cooperativeTaskrun, .taskrunFlag, .deferTaskrun])
        }

        let handle = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        while true {
            unsafe handle.initialize(to: io_uring())
            var parameters = iou_params()
            parameters.flags = required.union(optional).rawValue
            parameters.cq_entries = options.completionEntries
            parameters.sq_thread_idle = options.submissionPollingIdleMilliseconds
            parameters.wq_fd = UInt32(bitPattern: options.attachTo ?? 0)
            let code = unsafe Seam.setUp(options.submissionEntries, handle, &parameters)
            if code == 0 {
                let features = RingFeatures(rawValue: parameters.features)
                if let missing = neededFeatures.first(where: { !features.contains($0.0) }) {
                    unsafe Seam.tearDown(handle)
                    unsafe handle.deallocate()
                    throw RingError(
                        kind: .tooOld(missing: missing.1), errno: .notSupported, operation: operation)
                }
                // Newer versions of liburing ask for this flag by themselves, and say so here.
                if parameters.flags & SetupFlags.noSQArray.rawValue != 0 {
                    // Versions before 2.5 do not know the flag, take the start of the shared memory for the array, and
                    // fill it: the indices of both queues are overwritten. No such ring can be used.
                    if unsafe handle.pointee.sq.array == nil { return unsafe (handle, parameters) }
                    unsafe Seam.tearDown(handle)
                    if !required.contains(.noSQArray) {
                        optional.remove(.noSQArray)
                        continue
                    }
                    unsafe handle.deallocate()
                    throw RingError(
                        kind: .tooOld(missing: "IORING_SETUP_NO_SQARRAY (liburing 2.5)"), errno: .invalidArgument,
                        operation: operation)
                }
                unsafe iou_identity_map(handle, parameters.sq_entries)
                return unsafe (handle, parameters)
            }
            if code == -EINVAL, let flag = SetupFlags.peelingOrder.first(where: { !optional.isDisjoint(with: $0) }) {
                optional.subtract(flag)
                continue
            }
            unsafe handle.deallocate()
            if code == -EINVAL, let missing = missingFlag(among: required) {
                throw RingError(kind: .tooOld(missing: missing), errno: .invalidArgument, operation: operation)
            }
            throw RingError.from(code, operation: operation)
        }
    }

    /// The required flag that this kernel does not know, found by setting up the smallest ring with it. Nil when it
    /// knows each of them, so that the combination is at fault.
    static func missingFlag(among required: SetupFlags) -> String? {
        for flag in SetupFlags.peelingOrder where required.isSuperset(of: flag) {
            var parameters = iou_params()
            var trial = flag
            // What each of these needs beside it, to be accepted at all.
            if flag == .deferTaskrun { trial.insert(.singleIssuer) }
            if flag == .taskrunFlag { trial.insert(.cooperativeTaskrun) }
            if flag == .hybridPolling { trial.insert(.deviceCompletionPolling) }
            parameters.flags = trial.rawValue
            let fd = unsafe iou_setup(1, &parameters)
            if fd >= 0 {
                close(fd)
            } else if fd == -EINVAL {
                return flag.names
            }
        }
        return nil
    }

    // MARK: Submitting

    /// How many more entries the submission queue takes. One load.
    @inlinable
    public var submissionSpace: UInt32 {
        // Acquire: the kernel has copied an entry before it moves the head past it.
        unsafe submissionCapacity &- (tail &- iou_load_acquire(submitter.submissionHead))
    }

    /// Copies an entry of 64 bytes into the submission queue. The kernel does not see it before ``publish()``.
    ///
    /// - Returns: false, and nothing is changed, when the queue is full.
    @inlinable
    public mutating func enqueue(_ entry: SubmissionEntry) -> Bool {
        guard submissionSpace != 0 else { return false }
        unsafe entries[Int(tail & entryMask)] = entry.raw
        tail &+= 1
        return true
    }

    /// Shows all enqueued entries to the kernel, with a store-release of the tail. It takes them when a thread enters
    /// (``Submitter/enter(submit:minimumCompletions:flags:)``), or by itself with ``SetupFlags/submissionPolling``.
    @inlinable
    public mutating func publish() {
        unsafe iou_store_release(submitter.submissionTail, tail)
    }

    /// Turns published entries that the kernel has not taken into no-ops, whose completions have the same user data and
    /// mean nothing: a result of zero or, for what entries had that no-ops may not have, a negated errno.
    ///
    /// Another thread may be handing entries over at this moment: those it takes are what they were or no-ops. Whatever
    /// the kernel takes after the next system call on this ring that waits its turn, such as a cancel, is a no-op. Not
    /// for rings with ``SetupFlags/submissionPolling``. Looks at every entry that is queued.
    ///
    /// - Returns: whether there were any.
    public mutating func withdraw(userData: UInt64) -> Bool {
        var found = false
        var index = unsafe iou_load_acquire(submitter.submissionHead)
        while index != tail {
            let entry = unsafe entries + Int(index & entryMask)
            if unsafe entry.pointee.user_data == userData {
                unsafe iou_make_nop(entry)
                found = true
            }
            index &+= 1
        }
        return found
    }

    /// Lets a ring set up with ``SetupFlags/disabled`` take entries (`IORING_REGISTER_ENABLE_RINGS`). With
    /// ``SetupFlags/singleIssuer``, the calling thread becomes the one that submits.
    ///
    /// - Throws: `EBADFD` when the ring is not disabled.
    public mutating func enable() throws(Errno) {
        let code = Seam.register(submitter.fileDescriptor, IOU_REGISTER_ENABLE_RINGS) {
            iou_enable(submitter.fileDescriptor)
        }
        if code < 0 { throw Errno(rawValue: -code) }
    }

    /// Publishes all enqueued entries and hands them to the kernel. For a ring with a single owner.
    ///
    /// A signal does not disturb it. One system call as a rule; with ``SetupFlags/submissionPolling``, none while the
    /// kernel thread is awake.
    ///
    /// - Returns: how many entries the kernel took; all, unless it refused one and the ring lacks
    ///   ``SetupFlags/submitAll``. Polled rings count the ones published.
    /// - Throws: what `io_uring_enter(2)` answered: `EAGAIN` or `EBUSY` when the kernel cannot take more just now,
    ///   `EBADFD` when the ring is disabled, `EEXIST` when the ring belongs to another thread.
    @discardableResult
    public mutating func submit() throws(Errno) -> UInt32 {
        publish()
        let count = submitter.unsubmitted
        if setupFlags.contains(.submissionPolling) {
            if submitter.needsWakeup { try enterRetrying(submit: count, flags: .submissionWakeup) }
            return count
        }
        guard count != 0 else { return 0 }
        return try enterRetrying(submit: count, flags: [])
    }

    @discardableResult
    private func enterRetrying(submit count: UInt32, flags: EnterFlags) throws(Errno) -> UInt32 {
        while true {
            let code = submitter.enter(submit: count, minimumCompletions: 0, flags: flags)
            if code >= 0 { return UInt32(code) }
            if code != -EINTR { throw Errno(rawValue: -code) }
        }
    }

    /// Publishes and hands over all enqueued entries, then waits until a number of completions lie in the queue or the
    /// time is up. For a ring with a single owner.
    ///
    /// Signals do not disturb it: the wait goes on for what remains of the time. Completions are not taken; read them
    /// with ``completion(at:)`` or ``forEachCompletion(_:)``.
    ///
    /// - Parameters:
    ///   - count: how many completions to wait for, cut to the length of the queue. Zero waits for none, but finishes
    ///     what is due.
    ///   - timeout: how long to wait, from the call; nil waits without limit.
    /// - Returns: whether any completion lies in the queue.
    /// - Throws: what `io_uring_enter(2)` answered, other than `EINTR` and `ETIME`.
    @discardableResult
    public mutating func submitAndWait(for count: UInt32 = 1, timeout: Duration? = nil) throws(Errno) -> Bool {
        publish()
        let polled = setupFlags.contains(.submissionPolling)
        let wanted = min(count, completionCapacity)
        let deadline = timeout.map { monotonicNanoseconds() &+ max(0, $0.nanosecondsClamped) }
        var remaining = timeout.map { max(0, $0.nanosecondsClamped) } ?? -1
        while true {
            var flags: EnterFlags = .getEvents
            if polled, submitter.needsWakeup { flags.insert(.submissionWakeup) }
            let code = submitter.enter(
                submit: submitter.unsubmitted, minimumCompletions: wanted, flags: flags, timeoutNanoseconds: remaining)
            if code < 0, code != -EINTR, code != -ETIME { throw Errno(rawValue: -code) }
            let ready = completionsReady
            // A call that submits part of the batch returns without waiting, and one that submits at all does not say
            // how the wait ended. So the queue and the clock decide.
            if ready >= wanted, polled || submitter.unsubmitted == 0 || code == 0 { return ready != 0 }
            if let deadline {
                remaining = deadline - monotonicNanoseconds()
                if remaining <= 0 { return ready != 0 }
            }
        }
    }

    // MARK: Completing

    /// The completion side by itself, for a lock of its own. It must not outlive the ring.
    @inlinable
    public var completionQueue: CompletionQueue { completionSide }

    /// How many completions lie in the queue. One acquire load of the tail.
    @inlinable
    public var completionsReady: UInt32 { completionSide.ready }

    /// Copies the completion at an offset from the oldest one. Not checked: the offset must be below
    /// ``completionsReady``.
    @inlinable
    public func completion(at offset: UInt32) -> Completion { completionSide.completion(at: offset) }

    /// Gives the oldest completions' places back to the kernel, with a store-release of the head.
    ///
    /// - Parameter count: not above ``completionsReady``; checked in debug builds only.
    @inlinable
    public mutating func advance(by count: UInt32) { completionSide.advance(by: count) }

    /// Takes all completions that lie in the queue, oldest first.
    ///
    /// Their places go back to the kernel afterwards, also when the body throws: what it has not seen stays queued.
    ///
    /// - Returns: how many were taken.
    @inlinable
    @discardableResult
    public mutating func forEachCompletion<Failure: Error>(
        _ body: (Completion) throws(Failure) -> Void
    ) throws(Failure) -> Int {
        try completionSide.forEach(body)
    }

    /// Moves completions, oldest first, into a buffer until either end is reached. Its memory need not be initialized.
    ///
    /// - Returns: how many were moved.
    @inlinable
    public mutating func harvest(into buffer: UnsafeMutableBufferPointer<Completion>) -> Int {
        unsafe completionSide.harvest(into: buffer)
    }

    // MARK: Messages

    /// Posts a completion to a ring, without owning one (`IORING_REGISTER_SEND_MSG_RING`, Linux 6.13). It wakes a
    /// thread that waits there. Any thread may call it.
    ///
    /// One system call; the completion is posted, or the receiving thread notified, when it returns.
    ///
    /// - Parameters:
    ///   - ringFD: the descriptor of the receiving ring, which may be another process's.
    ///   - userData: becomes ``Completion/userData``.
    ///   - result: becomes ``Completion/result``, bit for bit.
    /// - Returns: zero, or a negated errno: `-EINVAL` on kernels without it, `-EBADFD` when the descriptor is no ring
    ///   or the ring is disabled, `-EBADF` when it is closed, `-EOVERFLOW` when there was no memory to keep a
    ///   completion that found the queue full.
    @inlinable
    public static func sendMessage(to ringFD: Int32, userData: UInt64, result: UInt32) -> Int32 {
        Seam.sendMessage(to: ringFD, userData: userData, result: result)
    }
}

/// The monotonic clock, in nanoseconds.
func monotonicNanoseconds() -> Int64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}

extension Duration {
    /// In nanoseconds, rounded up so that a short wait does not become none, and cut to a hundred years either way.
    var nanosecondsClamped: Int64 {
        let (seconds, attoseconds) = components
        guard seconds < 3_000_000_000 else { return 3_000_000_000_000_000_000 }
        guard seconds > -3_000_000_000 else { return -3_000_000_000_000_000_000 }
        return seconds * 1_000_000_000 + (attoseconds + 999_999_999) / 1_000_000_000
    }
}
