extension CompletionPort {
    /// What an alertable dequeue came back with.
    public enum AlertableOutcome {
        case packet(Packet)
        /// Calls that were queued to the thread have run (`WAIT_IO_COMPLETION`). The port was not touched.
        case callsRan
        /// Nothing came within the time (`WAIT_TIMEOUT`).
        case timedOut
    }

    /// The same, for a batch.
    public enum AlertableBatchOutcome {
        /// That many packets are in the batch.
        case packets(Int)
        case callsRan
        case timedOut
    }

    /// Removes one packet, waiting for it until the timeout.
    ///
    /// Ties the calling thread to the port (d4) and gives its place up while it waits. Operations that the thread has
    /// deferred enter the kernel. A packet whose operation failed is returned like any other: look at its status.
    ///
    /// - Parameter timeout: on the monotonic clock; nil waits for ever, zero never sleeps.
    /// - Returns: the packet; nil if none came within the time (b4). The thread counts as running afterwards, with or
    ///   without a packet (d12).
    /// - Throws: ``PortError`` with status ``CompletionStatus/abandoned`` if the last reference to the port was closed
    ///   while the thread waited (b5), ``CompletionStatus/invalidHandle`` if it was closed before (b6), 5 without the
    ///   right, 87 for a negative timeout.
    /// - Cost: allocates nothing. No system call while packets are ready and nothing is deferred, else one.
    ///
    /// The corresponding Win32 function is `GetQueuedCompletionStatus`.
    public func dequeue(timeout: Duration? = nil) throws(PortError) -> Packet? {
        if allows(.modify), let entry = withCore({ $0.takeQuickly() }) { return Packet(entry) }
        return switch try dequeueOne(timeout, alertable: false) {
        case .packet(let packet): packet
        default: nil
        }
    }

    /// Removes one packet, or runs the calls that were queued to the thread.
    ///
    /// A packet comes before the calls, which then wait for the next alertable wait (b20), unless the thread is not tied
    /// to this port yet: then the calls come first (b21).
    ///
    /// The corresponding Win32 function is `GetQueuedCompletionStatusEx` with one entry and `fAlertable`.
    public func dequeueAlertably(timeout: Duration? = nil) throws(PortError) -> AlertableOutcome {
        try dequeueOne(timeout, alertable: true)
    }

    /// Removes up to a batch of packets, waiting for the first one until the timeout.
    ///
    /// Returns as soon as there is one packet; never waits for more (b24). A batch uses one place of the limit.
    ///
    /// - Parameter batch: is emptied, then filled in FIFO order; at least one packet of room (b22).
    /// - Returns: how many packets it holds; 0 if none came within the time.
    /// - Throws: as ``dequeue(timeout:)``.
    ///
    /// The corresponding Win32 function is `GetQueuedCompletionStatusEx`.
    @discardableResult
    public func dequeue(into batch: inout PacketBatch, timeout: Duration? = nil) throws(PortError) -> Int {
        switch try dequeueAlertably(into: &batch, timeout: timeout, alertable: false) {
        case .packets(let count): count
        default: 0
        }
    }

    /// Removes up to a batch of packets, or runs the calls that were queued to the thread.
    ///
    /// The corresponding Win32 function is `GetQueuedCompletionStatusEx` with `fAlertable`.
    public func dequeueAlertably(
        into batch: inout PacketBatch, timeout: Duration? = nil
    ) throws(PortError) -> AlertableBatchOutcome {
        try dequeueAlertably(into: &batch, timeout: timeout, alertable: true)
    }

    /// Initializes a prefix of the memory with packets. For faces that bring memory of their own.
    ///
    /// - Returns: how many; 0 if none came within the time. The caller deinitializes them.
    @unsafe
    public func dequeue(
        into memory: UnsafeMutableBufferPointer<Packet>, timeout: Duration? = nil
    ) throws(PortError) -> Int {
        guard memory.count > 0 else { throw .invalid("a batch needs room for at least one packet") }
        switch unsafe try open(.modify).dequeue(into: memory, Deadline(after: timeout), alertable: false) {
        case .packets(let count): return count
        default: return 0
        }
    }

    /// Waits until a packet is queued and unclaimed, without taking it (b27).
    ///
    /// Gives the thread's place up meanwhile. A packet that goes straight to a dequeuing thread is not seen (b28).
    /// - Returns: whether one was queued in time; true also when the last reference to the port is closed (b29).
    ///
    /// The corresponding Win32 call is `WaitForSingleObject` on the port's handle.
    public func waitUntilQueued(timeout: Duration? = nil) throws(PortError) -> Bool {
        try open([]).waitUntilQueued(Deadline(after: timeout))
    }

    @inline(never)
    private func dequeueOne(_ timeout: Duration?, alertable: Bool) throws(PortError) -> AlertableOutcome {
        let core = try open(.modify)
        let deadline = try Deadline(after: timeout)
        var outcome: AlertableOutcome?
        var failure: PortError?
        unsafe withUnsafeTemporaryAllocation(of: Packet.self, capacity: 1) { room in
            do throws(PortError) {
                switch unsafe try core.dequeue(into: room, deadline, alertable: alertable) {
                case .packets: outcome = unsafe .packet((room.baseAddress! as UnsafeMutablePointer<Packet>).move())
                case .callsRan: outcome = .callsRan
                case .timedOut: outcome = .timedOut
                }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return outcome!
    }

    private func dequeueAlertably(
        into batch: inout PacketBatch, timeout: Duration?, alertable: Bool
    ) throws(PortError) -> AlertableBatchOutcome {
        guard batch.capacity > 0 else { throw .invalid("a batch needs room for at least one packet") }
        let core = try open(.modify)
        let deadline = try Deadline(after: timeout)
        var callsRan = false
        let count = unsafe try batch.refill { (room: UnsafeMutableBufferPointer<Packet>) throws(PortError) -> Int in
            switch unsafe try core.dequeue(into: room, deadline, alertable: alertable) {
            case .packets(let count): return count
            case .callsRan:
                callsRan = true
                return 0
            case .timedOut: return 0
            }
        }
        if callsRan { return .callsRan }
        return count > 0 ? .packets(count) : .timedOut
    }
}
