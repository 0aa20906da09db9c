internal import CIOCPSupport
internal import Synchronization

extension CompletionPort {
    /// What a port holds and has done. Counts; those of threads and packets are of one moment.
    public struct Statistics: Sendable, Equatable {
        /// The most threads that may run at a time.
        public var limit = 0
        /// Packets that are queued and that nobody has claimed, as ``CompletionPort/depth()``.
        public var depth = 0
        /// Threads that run on behalf of the port. More than the limit only after a time-out or a wake-up (d10, d12).
        public var running = 0
        /// Threads that wait for a packet.
        public var waiting = 0
        /// Those of the waiting that have no ring to sleep in: they are woken by a packet that is handed to them.
        public var parked = 0
        /// Threads that work for the port but are blocked on something else: seen, or in a region (d7).
        public var blocked = 0
        /// Requests that the rings hold or the kernel works on. Operations that wait for their turn behind another one
        /// of the same stream are not among them.
        public var inFlight = 0
        /// Requests that have not entered the kernel yet.
        public var deferred = 0
        /// How often completions were found that had found a ring full, and had waited in the kernel's memory.
        public var overflows = 0
        /// How often the kernel refused to take requests, or to let a thread wait for one, because memory was short or
        /// completions were to be taken first. They stay queued and are tried again, at least every 10 milliseconds.
        public var refusals = 0
        /// Requests that ended only because the thread that had started them did, and were started again (e34).
        public var reissues = 0
        /// Places that were taken from a blocked thread and given to another that waited.
        public var handOvers = 0
        /// Threads that were woken with a packet.
        public var wakeUps = 0
        /// How often the kernel was entered for the port's rings (`io_uring_enter(2)`): to submit, to wait, or both. One
        /// may be left out when two threads enter for the same ring at the same moment.
        public var kernelEntries = 0
        /// Handles that have a place among the registered files now.
        public var registeredFiles = 0
        /// Associations that found none: ``Options/registeredFiles`` were taken, or the kernel has no use for them.
        public var unregisteredFiles = 0
    }

    /// System calls that the library has made in this process, for all ports, besides entering rings: to put threads to
    /// sleep and wake them, to look at threads that may be blocked, to cancel, to close. What makes and configures
    /// handles is not counted.
    ///
    /// With ``Statistics/kernelEntries`` of every port these are the system calls of a program that does nothing but
    /// serve. Callable from any thread; costs a load.
    public static var supportingSystemCalls: Int { Int(iocp_system_calls()) }

    /// What the port holds and has done.
    ///
    /// - Throws: ``PortError``: 6 if the port is closed, 5 without ``Access/query``.
    /// - Cost: that of ``depth()``.
    public var statistics: Statistics {
        get throws(PortError) {
            let core = try open(.query)
            try core.refuseIfInherited()
            return core.statistics
        }
    }
}

extension PortCore {
    var statistics: CompletionPort.Statistics {
        var found = CompletionPort.Statistics()
        // Completions that lie in the rings become packets first.
        _ = depth
        lock.lock()
        defer { lock.unlock() }
        found.limit = limit
        found.depth = scheduler.queued
        found.running = scheduler.running
        found.waiting = scheduler.waiting
        found.parked = scheduler.waiting
        found.blocked = scheduler.blocked
        for slot in slots {
            if let holder = unsafe slot.leaseholder?.takeUnretainedValue(), unsafe holder.state.pointee.isWaiting {
                found.parked -= 1
            }
            found.inFlight += slot.inFlight.load(ordering: .relaxed)
            found.deferred += slot.unsubmittedRequests
            found.reissues += slot.reissues.load(ordering: .relaxed)
            found.overflows += slot.overflows.load(ordering: .relaxed)
            found.kernelEntries += Int(slot.entries.load(ordering: .relaxed))
            found.refusals += slot.refusals.load(ordering: .relaxed)
        }
        found.handOvers = handOvers
        found.wakeUps = wakeUps
        found.registeredFiles = fileTable?.taken.load(ordering: .relaxed) ?? 0
        found.unregisteredFiles = fileTable?.refused.load(ordering: .relaxed) ?? 0
        return found
    }
}
