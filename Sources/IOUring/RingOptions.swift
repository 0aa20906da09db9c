/// What to ask the kernel for when setting up a ``Ring``.
public struct RingOptions: Sendable {
    /// The length of the submission queue, in entries of 64 bytes; the kernel rounds up to a power of two.
    public var submissionEntries: UInt32
    /// The length of the completion queue, in completions of 16 bytes; zero takes the kernel's default, twice the
    /// submission queue. The kernel rounds up to a power of two.
    public var completionEntries: UInt32
    /// Flags worth having: given up one by one, youngest first, on a kernel that refuses them.
    public var flags: SetupFlags
    /// Flags the caller cannot do without: setting up fails where they are refused.
    public var required: SetupFlags
    /// How long the kernel thread of ``SetupFlags/submissionPolling`` spins without work before it sleeps, in
    /// milliseconds; zero takes the kernel's default of one second.
    public var submissionPollingIdleMilliseconds: UInt32
    /// The descriptor of a living ring whose worker threads to share. Only needed while setting up.
    public var attachTo: Int32?

    /// Describes a ring.
    ///
    /// The default suits a ring driven from any thread: no interrupts for completions, a flag that says when to enter,
    /// and batches that survive a bad entry.
    public init(
        submissionEntries: UInt32 = 256, completionEntries: UInt32 = 4096,
        flags: SetupFlags = [.cooperativeTaskrun, .taskrunFlag, .submitAll, .clamp], required: SetupFlags = [],
        submissionPollingIdleMilliseconds: UInt32 = 0, attachTo fd: Int32? = nil
    ) {
        self.submissionEntries = submissionEntries
        self.completionEntries = completionEntries
        self.flags = flags
        self.required = required
        self.submissionPollingIdleMilliseconds = submissionPollingIdleMilliseconds
        self.attachTo = fd
    }
}
