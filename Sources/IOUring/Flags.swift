/// How a ring is set up: the `IORING_SETUP_*` bits of `io_uring_setup(2)`.
///
/// Pass them in ``RingOptions``; ``Ring/setupFlags`` says which of them the kernel granted. Bits that change the
/// layout of entries or leave the mapping of the queues to the caller are not offered, since ``Ring`` could not drive
/// such a ring.
public struct SetupFlags: OptionSet, Sendable, Hashable {
    /// The bits as the kernel defines them.
    public var rawValue: UInt32

    /// Makes a set from kernel bits.
    @inlinable
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Busy-polls the device for completions (`IORING_SETUP_IOPOLL`); only for files opened with `O_DIRECT` on
    /// devices that poll.
    public static let deviceCompletionPolling = SetupFlags(rawValue: 1 << 0)
    /// A kernel thread takes entries from the queue without system calls (`IORING_SETUP_SQPOLL`).
    ///
    /// Drops ``cooperativeTaskrun``, ``taskrunFlag`` and ``deferTaskrun`` from the optional flags: the kernel refuses
    /// them beside it.
    public static let submissionPolling = SetupFlags(rawValue: 1 << 1)
    /// The queue of completions has a length of its own (`IORING_SETUP_CQSIZE`); set for you when
    /// ``RingOptions/completionEntries`` is not zero.
    public static let completionQueueSize = SetupFlags(rawValue: 1 << 3)
    /// Queue lengths above the kernel's limits are cut to them, instead of refused (`IORING_SETUP_CLAMP`).
    public static let clamp = SetupFlags(rawValue: 1 << 4)
    /// Shares the worker threads of the ring given as ``RingOptions/attachTo`` (`IORING_SETUP_ATTACH_WQ`); set for
    /// you when that is given.
    public static let attachWorkQueue = SetupFlags(rawValue: 1 << 5)
    /// The ring takes no entries until ``Ring/enable()`` (`IORING_SETUP_R_DISABLED`).
    public static let disabled = SetupFlags(rawValue: 1 << 6)
    /// An entry refused at submission does not end its batch (`IORING_SETUP_SUBMIT_ALL`, Linux 5.18).
    public static let submitAll = SetupFlags(rawValue: 1 << 7)
    /// Completions do not interrupt the submitting thread; they are finished when it next enters the kernel
    /// (`IORING_SETUP_COOP_TASKRUN`, Linux 5.19).
    public static let cooperativeTaskrun = SetupFlags(rawValue: 1 << 8)
    /// The ring says when entering the kernel would finish completions (`IORING_SETUP_TASKRUN_FLAG`, Linux 5.19);
    /// ``Submitter/needsEnter`` reads it.
    public static let taskrunFlag = SetupFlags(rawValue: 1 << 9)
    /// Only one thread submits (`IORING_SETUP_SINGLE_ISSUER`, Linux 6.0). Entries, registrations and synchronous
    /// cancellations from any other thread then fail with `EEXIST`.
    public static let singleIssuer = SetupFlags(rawValue: 1 << 12)
    /// Completions are finished only when the submitting thread waits for them (`IORING_SETUP_DEFER_TASKRUN`,
    /// Linux 6.1); needs ``singleIssuer``.
    public static let deferTaskrun = SetupFlags(rawValue: 1 << 13)
    /// No array of indices stands between the queue and its entries (`IORING_SETUP_NO_SQARRAY`, Linux 6.6,
    /// liburing 2.5).
    public static let noSQArray = SetupFlags(rawValue: 1 << 16)
    /// Sleeps part of the time while polling a device (`IORING_SETUP_HYBRID_IOPOLL`, Linux 6.13); needs
    /// ``deviceCompletionPolling``.
    public static let hybridPolling = SetupFlags(rawValue: 1 << 17)

    /// What ``Ring`` can drive.
    static let driveable: SetupFlags = [
        .deviceCompletionPolling, .submissionPolling, .completionQueueSize, .clamp, .attachWorkQueue, .disabled,
        .submitAll, .cooperativeTaskrun, .taskrunFlag, .singleIssuer, .deferTaskrun, .noSQArray, .hybridPolling,
    ]

    /// The order in which optional flags are given up, youngest first. A flag comes before the one it needs, so that
    /// no step leaves it behind alone.
    static let peelingOrder: [SetupFlags] = [
        .hybridPolling, .noSQArray, .deferTaskrun, .singleIssuer, .taskrunFlag, .cooperativeTaskrun, .submitAll,
        .disabled, .clamp, .submissionPolling, .deviceCompletionPolling,
    ]

    /// The kernel's names of the flags in this set, for messages.
    var names: String {
        let known: [(SetupFlags, String)] = [
            (.deviceCompletionPolling, "IORING_SETUP_IOPOLL"), (.submissionPolling, "IORING_SETUP_SQPOLL"),
            (.completionQueueSize, "IORING_SETUP_CQSIZE"), (.clamp, "IORING_SETUP_CLAMP"),
            (.attachWorkQueue, "IORING_SETUP_ATTACH_WQ"), (.disabled, "IORING_SETUP_R_DISABLED"),
            (.submitAll, "IORING_SETUP_SUBMIT_ALL"), (.cooperativeTaskrun, "IORING_SETUP_COOP_TASKRUN"),
            (.taskrunFlag, "IORING_SETUP_TASKRUN_FLAG"), (.singleIssuer, "IORING_SETUP_SINGLE_ISSUER"),
            (.deferTaskrun, "IORING_SETUP_DEFER_TASKRUN"), (.noSQArray, "IORING_SETUP_NO_SQARRAY"),
            (.hybridPolling, "IORING_SETUP_HYBRID_IOPOLL"),
        ]
        var names = known.filter { contains($0.0) }.map { $0.1 }
        let rest = known.reduce(self) { $0.subtracting($1.0) }
        if !rest.isEmpty { names.append("0x" + String(rest.rawValue, radix: 16)) }
        return names.joined(separator: " | ")
    }
}

/// What a ring's kernel does beyond the basics: the `IORING_FEAT_*` bits that setting up a ring returns.
public struct RingFeatures: OptionSet, Sendable, Hashable {
    /// The bits as the kernel defines them.
    public var rawValue: UInt32

    /// Makes a set from kernel bits.
    @inlinable
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Both queues share one mapping (Linux 5.4).
    public static let singleMapping = RingFeatures(rawValue: 1 << 0)
    /// Completions that find their queue full are kept, not dropped (Linux 5.5). ``Ring`` refuses kernels without it.
    public static let noDrop = RingFeatures(rawValue: 1 << 1)
    /// What an entry points at, other than buffers, may go once the entry is submitted (Linux 5.5). ``Ring`` refuses
    /// kernels without it.
    public static let submitStable = RingFeatures(rawValue: 1 << 2)
    /// An offset of all ones means the file's own position (Linux 5.6).
    public static let currentPosition = RingFeatures(rawValue: 1 << 3)
    /// Operations run with the credentials of the submitter (Linux 5.6).
    public static let currentPersonality = RingFeatures(rawValue: 1 << 4)
    /// Waiting for readiness needs no worker thread (Linux 5.7).
    public static let fastPoll = RingFeatures(rawValue: 1 << 5)
    /// Polling takes 32 bits of events (Linux 5.9).
    public static let poll32Bits = RingFeatures(rawValue: 1 << 6)
    /// A polled submission queue takes plain descriptors (Linux 5.11).
    public static let submissionPollingPlainFiles = RingFeatures(rawValue: 1 << 7)
    /// Entering takes a timeout (Linux 5.11). ``Ring`` refuses kernels without it.
    public static let extendedArgument = RingFeatures(rawValue: 1 << 8)
    /// Worker threads are threads of the process (Linux 5.12).
    public static let nativeWorkers = RingFeatures(rawValue: 1 << 9)
    /// Registered resources can be tagged and updated one by one (Linux 5.13).
    public static let resourceTags = RingFeatures(rawValue: 1 << 10)
    /// Entries can ask for no completion on success (Linux 5.17).
    public static let skipSuccess = RingFeatures(rawValue: 1 << 11)
    /// Linked entries look up their file when they run (Linux 5.17).
    public static let linkedFile = RingFeatures(rawValue: 1 << 12)
    /// Registration takes a registered ring descriptor (Linux 6.3).
    public static let registeredRing = RingFeatures(rawValue: 1 << 13)
    /// Sends and receives can take several provided buffers at once (Linux 6.10).
    public static let bundles = RingFeatures(rawValue: 1 << 14)
    /// Waiting takes a minimum time (Linux 6.12).
    public static let minimumTimeout = RingFeatures(rawValue: 1 << 15)
    /// Reads and writes take attributes (Linux 6.13).
    public static let attributes = RingFeatures(rawValue: 1 << 16)
    /// Waiting can be kept out of the I/O wait statistics (Linux 6.15); see ``EnterFlags/noIOWait``.
    public static let noIOWait = RingFeatures(rawValue: 1 << 17)
}

/// How the kernel is entered: the `IORING_ENTER_*` bits of `io_uring_enter(2)`.
public struct EnterFlags: OptionSet, Sendable, Hashable {
    /// The bits as the kernel defines them.
    public var rawValue: UInt32

    /// Makes a set from kernel bits.
    @inlinable
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Finishes completions that are due, brings back those that found the queue full, and waits for the minimum
    /// asked for.
    @inlinable public static var getEvents: EnterFlags { EnterFlags(rawValue: 1 << 0) }
    /// Wakes the kernel thread of a ring with ``SetupFlags/submissionPolling``.
    @inlinable public static var submissionWakeup: EnterFlags { EnterFlags(rawValue: 1 << 1) }
    /// Waits until such a ring's submission queue has room.
    @inlinable public static var submissionWait: EnterFlags { EnterFlags(rawValue: 1 << 2) }
    /// The argument carries a timeout. Set and cleared by ``Submitter``; no need to pass it.
    @inlinable public static var extendedArgument: EnterFlags { EnterFlags(rawValue: 1 << 3) }
    /// The descriptor is an index of a registered ring.
    @inlinable public static var registeredRing: EnterFlags { EnterFlags(rawValue: 1 << 4) }
    /// The wait is not counted as I/O wait (Linux 6.15). Older kernels answer `EINVAL`: pass it only where
    /// ``RingFeatures/noIOWait`` was granted.
    @inlinable public static var noIOWait: EnterFlags { EnterFlags(rawValue: 1 << 7) }
}

/// Modifiers every operation takes: the `IOSQE_*` bits of a submission entry.
public struct EntryFlags: OptionSet, Sendable, Hashable {
    /// The bits as the kernel defines them.
    public var rawValue: UInt8

    /// Makes a set from kernel bits.
    @inlinable
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// The descriptor is an index into the registered files.
    @inlinable public static var fixedFile: EntryFlags { EntryFlags(rawValue: 1 << 0) }
    /// Starts when everything submitted before has completed.
    @inlinable public static var drain: EntryFlags { EntryFlags(rawValue: 1 << 1) }
    /// The next entry starts when this one has succeeded, and is cancelled when it has not.
    @inlinable public static var link: EntryFlags { EntryFlags(rawValue: 1 << 2) }
    /// The next entry starts when this one has completed, whatever its result.
    @inlinable public static var hardLink: EntryFlags { EntryFlags(rawValue: 1 << 3) }
    /// Goes to a worker thread at once, without first being tried on the submitting one.
    @inlinable public static var async: EntryFlags { EntryFlags(rawValue: 1 << 4) }
    /// Takes its buffer from the group in ``SubmissionEntry/bufferGroup``.
    @inlinable public static var bufferSelect: EntryFlags { EntryFlags(rawValue: 1 << 5) }
    /// Posts a completion only on failure (Linux 5.17).
    @inlinable public static var skipSuccess: EntryFlags { EntryFlags(rawValue: 1 << 6) }
}

/// What a cancellation matches: the `IORING_ASYNC_CANCEL_*` bits.
public struct CancelFlags: OptionSet, Sendable, Hashable {
    /// The bits as the kernel defines them.
    public var rawValue: UInt32

    /// Makes a set from kernel bits.
    @inlinable
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Everything that matches, not just the first.
    @inlinable public static var all: CancelFlags { CancelFlags(rawValue: 1 << 0) }
    /// Matches by descriptor, not by user data. Set by the functions that take a descriptor.
    @inlinable public static var descriptor: CancelFlags { CancelFlags(rawValue: 1 << 1) }
    /// Matches every operation of the ring.
    @inlinable public static var any: CancelFlags { CancelFlags(rawValue: 1 << 2) }
    /// The descriptor is an index into the registered files.
    @inlinable public static var fixedFile: CancelFlags { CancelFlags(rawValue: 1 << 3) }
    /// Matches by user data as well as by what else is asked for (Linux 6.6).
    @inlinable public static var userData: CancelFlags { CancelFlags(rawValue: 1 << 4) }
    /// Matches by operation (Linux 6.6).
    @inlinable public static var operation: CancelFlags { CancelFlags(rawValue: 1 << 5) }
}
