internal import Synchronization

extension CompletionPort {
    /// Queues a packet of one's own.
    ///
    /// The values come back as given; none is looked at (c1). Posted packets and completions share one FIFO (c8).
    /// Never blocks, never refuses: the queue grows (c4, c5), by 40 to 80 bytes for each packet in it. What it holds beyond
    /// 160 KiB is given back when a thread finds it empty. Whoever posts without end watches ``depth()``.
    ///
    /// - Parameters:
    ///   - bytes: any 64 bits; Win32 posts 32.
    ///   - key: any 64 bits.
    ///   - token: any 64 bits, returned in ``Packet/token``. Not dereferenced.
    /// - Throws: ``PortError``: 6 if the port is closed, 5 without the right.
    /// - Cost: one uncontended lock; a system call only to wake a sleeping thread.
    ///
    /// The corresponding Win32 function is `PostQueuedCompletionStatus`.
    public func post(bytes: UInt = 0, key: UInt = 0, token: UInt = 0) throws(PortError) {
        let entry = PacketEntry(key: key, overlapped: token, information: bytes, status: 0)
        try queue(entry)
    }

    /// Queues a packet that carries an operation, which the library keeps alive until the packet is dequeued.
    ///
    /// The operation is not started and its record is not touched (c3).
    ///
    /// The corresponding Win32 function is `PostQueuedCompletionStatus`.
    public func post(bytes: UInt = 0, key: UInt = 0, operation: Operation) throws(PortError) {
        try post(operation, bytes, key, .success)
    }

    /// Queues a packet with a status: the dequeuer sees a completion that ended so (c6).
    ///
    /// The corresponding NT function is `NtSetIoCompletion`.
    public func post(
        status: CompletionStatus, information: UInt = 0, key: UInt = 0, token: UInt = 0
    ) throws(PortError) {
        try queue(PacketEntry(key: key, overlapped: token, information: information, status: status.rawValue))
    }

    /// Queues a packet with a status that carries an operation.
    ///
    /// The corresponding NT function is `NtSetIoCompletion`.
    public func post(
        status: CompletionStatus, information: UInt = 0, key: UInt = 0, operation: Operation
    ) throws(PortError) {
        try post(operation, information, key, status)
    }

    private func post(
        _ operation: Operation, _ information: UInt, _ key: UInt, _ status: CompletionStatus
    ) throws(PortError) {
        let retained = unsafe Unmanaged.passRetained(operation)
        do throws(PortError) {
            try queue(
                PacketEntry(
                    key: key, overlapped: unsafe UInt(bitPattern: retained.toOpaque()), information: information,
                    status: status.rawValue, flags: .operation))
        } catch {
            unsafe retained.release()
            throw error
        }
    }

    @inline(__always)
    private func queue(_ entry: PacketEntry) throws(PortError) {
        if allows(.modify), withCore({ $0.post(entry) }) { return }
        // Which of the two it was.
        _ = try open(.modify)
        throw core.closedError
    }

    /// Packets that are queued and unclaimed. One that goes straight to a waiting thread is never counted (c10).
    ///
    /// - Throws: ``PortError``: 6 if the port is closed, 5 without ``Access/query``.
    /// - Cost: looks into every ring that nobody sleeps in; for monitoring, not for a hot path.
    ///
    /// The corresponding NT function is `NtQueryIoCompletion`.
    public func depth() throws(PortError) -> Int {
        let core = try open(.query)
        try core.refuseIfInherited()
        return core.depth
    }

    /// Hands the operations that the calling thread has deferred to the kernel now.
    ///
    /// - Throws: ``PortError``: 6 if the port is closed; 1450 if the kernel refuses them, which fails none: they stay
    ///   queued, are tried again by the thread's next dequeue and by the monitor, and start once the kernel takes them.
    /// - Cost: one system call if there are any. Win32 has no such function: its operations start at once.
    public func flush() throws(PortError) {
        let core = try open([])
        try core.refuseIfInherited()
        let me = IOThread.current
        if me.isTied(to: core), let slot = me.leasedSlot, !slot.submit() {
            throw .refused(slot.refusal.load(ordering: .relaxed))
        }
    }
}
