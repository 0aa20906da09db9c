internal import CIOCPSupport
internal import Glibc
internal import IOUring
internal import Synchronization

/// A ring of a port, leased to one thread at a time.
///
/// Whoever pushes or harvests holds `lock`; whoever enters the kernel does not need it, so a foreign thread can submit
/// what a busy leaseholder left behind, and the leaseholder can sleep in its ring.
@safe final class Slot: @unchecked Sendable {
    // Unchecked: `lock` guards the ring and the backlog, the port's lock guards `leaseholder`, the rest is atomic.

    /// User data of a wake-up message. None is consumed while a thread sleeps in the ring: one that has yet to enter
    /// the kernel would sleep on.
    static let wakeTag: UInt64 = 1
    /// User data of requests whose completion says nothing.
    static let ignoredTag: UInt64 = 2
    /// Bits of user data that are zero in the address of a record.
    static let tagMask: UInt64 = 7

    let index: UInt16
    /// Names the slot to the observer, in every process-wide table.
    let identifier: UInt64
    let lock = FutexLock()
    let submitter: Submitter
    let waitFlags: EnterFlags

    /// Serial number of the thread that leases the slot, 0 if none.
    let owner = Atomic<UInt32>(0)
    /// The same thread, under the port's lock.
    var leaseholder: Unmanaged<IOThread>?
    /// Threads that sleep in the ring, or are about to: the leaseholder, and one that had to yield the slot meanwhile.
    let sleepers = Atomic<Int>(0)
    /// Whether somebody will see every completion by itself.
    var isWatched: Bool { sleepers.load(ordering: .sequentiallyConsistent) > 0 }
    /// Requests whose last completion has not been harvested.
    let inFlight = Atomic<Int>(0)
    /// How often the kernel was entered for this ring, roughly: the observer sees by it whether entries are stuck.
    let entries = Atomic<UInt32>(0)
    /// `entries` at the observer's last tick.
    let entriesAtLastTick = Atomic<UInt32>(0)
    /// `entries` when the observer began to wait for the ring of a thread that stays away; `UInt64.max` if it does not.
    private let entriesWhenLeft = Atomic<UInt64>(.max)

    // How long entries wait to be submitted, so that a busy thread does not keep them back. Only its starts and dequeues
    // use these.
    /// When the first entry since the thread's last dequeue was pushed, or 0 if this round is not timed.
    private let roundStart = Atomic<Int64>(0)
    /// How many entries were pushed since.
    private let roundCount = Atomic<Int64>(0)
    private let rounds = Atomic<UInt32>(0)
    /// Entries that are pushed in 50 µs at the pace of the rounds that were timed: with so many, a start enters the
    /// kernel.
    private let flushCount = Atomic<Int64>(Slot.mostDeferred)
    private static let mostDeferred: Int64 = 256
    private static let longestDeferral: Int64 = 50_000
    /// While rounds are quick, one of so many is timed: the clock costs more than a start.
    static let timedRounds: UInt32 = 8

    /// How often completions were found that had found the ring full.
    let overflows = Atomic<Int>(0)

    /// Requests that ended with the thread that had submitted them, and were queued again (e34).
    let reissues = Atomic<Int>(0)

    private var inheritedRing: InheritedRing?
    private let guardedRing: Guarded<Ring>
    private var ring: Ring {
        @inline(__always) _read { yield guardedRing.value }
        @inline(__always) _modify { yield &guardedRing.value }
    }
    /// Whether somebody else than the leaseholder has taken packets from the ring since the leaseholder last held the
    /// port's lock. Set under both locks, cleared under the port's by the leaseholder, who reads it under the slot's.
    /// Atomic for a thread that has just lost the ring.
    let isDiverted = Atomic<Bool>(false)
    private var backlogFirst: OperationRecord.Pointer?
    /// Records in the backlog. Written under `lock`, for looks without it.
    private let backlogCount = Atomic<Int>(0)
    private var backlogLast: OperationRecord.Pointer?
    /// The port that the slot belongs to: it outlives the slot.
    unowned(unsafe) let core: PortCore

    private static let nextIdentifier = Atomic<UInt64>(1)

    init(of core: PortCore, index: Int, options: RingOptions) throws(RingError) {
        unsafe self.core = core
        self.index = UInt16(index)
        identifier = Self.nextIdentifier.wrappingAdd(1, ordering: .relaxed).oldValue
        let ring = try Ring(options)
        submitter = ring.submitter
        // Otherwise an idle server's sleep is reported as the processor waiting for a disk.
        waitFlags = ring.features.contains(.noIOWait) ? [.getEvents, .noIOWait] : [.getEvents]
        inheritedRing = InheritedRing(ring)
        guardedRing = Guarded(ring)
    }

    deinit {
        // Before the ring: the next one may lie at the same place.
        inheritedRing = nil
    }

    var fileDescriptor: Int32 { submitter.fileDescriptor }

    // MARK: Pushing, under `lock`

    /// Queues a record's next request. If the ring is full even after the kernel took what it could, the record waits
    /// in the backlog: nothing is refused.
    @inline(__always)
    func push(_ record: OperationRecord.Pointer) {
        unsafe record.pointee.slotReference.store(Unmanaged.passUnretained(self), ordering: .relaxed)
        if unsafe backlogFirst == nil, unsafe enqueue(Requests.entry(for: record)) {
        } else {
            unsafe pushSlow(record)
        }
        inFlight.store(inFlight.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
    }

    /// The leaseholder has pushed an entry that is to wait for its next dequeue. Returns whether it should not: the thread
    /// takes so long between two dequeues that the entries pushed since the last flush are old.
    @inline(__always)
    func noteDeferred() -> Bool {
        let count = roundCount.load(ordering: .relaxed) + 1
        roundCount.store(count, ordering: .relaxed)
        let flushCount = flushCount.load(ordering: .relaxed)
        if count == 1 {
            let round = rounds.load(ordering: .relaxed) &+ 1
            rounds.store(round, ordering: .relaxed)
            let isTimed = flushCount < Self.mostDeferred || round % Self.timedRounds == 0
            roundStart.store(isTimed ? iocp_now_ns() : 0, ordering: .relaxed)
        }
        return flushCount < Self.mostDeferred && count % flushCount == 0
    }

    /// Another thread's rounds begin.
    func startRounds() { roundCount.store(0, ordering: .relaxed) }

    /// The leaseholder dequeues again.
    @inline(__always)
    func endRound() {
        let count = roundCount.load(ordering: .relaxed)
        guard count > 0 else { return }
        roundCount.store(0, ordering: .relaxed)
        let start = roundStart.load(ordering: .relaxed)
        if start > 0 { endTimedRound(count, since: start) }
    }

    @inline(never)
    private func endTimedRound(_ count: Int64, since start: Int64) {
        let each = (iocp_now_ns() - start) / count
        let fitting = max(1, min(Self.mostDeferred, Self.longestDeferral / max(1, each)))
        // Down at once; up by and by, since one quick round does not make a quick server.
        flushCount.store(min(fitting, flushCount.load(ordering: .relaxed) * 2), ordering: .relaxed)
    }

    @inline(__always)
    private func enqueue(_ entry: SubmissionEntry) -> Bool {
        guard ring.enqueue(entry) else { return false }
        ring.publish()
        return true
    }

    @inline(never)
    private func pushSlow(_ record: OperationRecord.Pointer) {
        unsafe record.pointee.nextQueued = nil
        if let last = unsafe backlogLast {
            unsafe last.pointee.nextQueued = record
        } else {
            unsafe backlogFirst = record
        }
        unsafe backlogLast = record
        backlogCount.store(backlogCount.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
        _ = submitter.enter(submit: submitter.unsubmitted, minimumCompletions: 0, flags: [])
        drainBacklog()
    }

    /// Moves waiting records into the ring as far as there is room.
    func drainBacklog() {
        while let record = unsafe backlogFirst {
            if unsafe !enqueue(Requests.entry(for: record)) {
                _ = submitter.enter(submit: submitter.unsubmitted, minimumCompletions: 0, flags: [])
                guard unsafe enqueue(Requests.entry(for: record)) else { return }
            }
            unsafe backlogFirst = record.pointee.nextQueued
            backlogCount.store(backlogCount.load(ordering: .relaxed) &- 1, ordering: .relaxed)
            if unsafe backlogFirst == nil { unsafe backlogLast = nil }
        }
    }

    /// Requests that have not entered the kernel.
    var unsubmittedRequests: Int { Int(submitter.unsubmitted) + backlogCount.load(ordering: .relaxed) }

    var hasBacklog: Bool { backlogCount.load(ordering: .relaxed) > 0 }

    /// Submits what is queued and what waits for room. Called without locks.
    func relieve() {
        lock.lock()
        drainBacklog()
        lock.unlock()
        submit()
    }

    /// Takes a record out of the backlog, if it is there: its request never reached the ring.
    func removeFromBacklog(_ record: OperationRecord.Pointer) -> Bool {
        var previous: OperationRecord.Pointer?
        var next = unsafe backlogFirst
        while let candidate = unsafe next {
            if unsafe candidate == record {
                let after = unsafe candidate.pointee.nextQueued
                if let previous = unsafe previous {
                    unsafe previous.pointee.nextQueued = after
                } else {
                    unsafe backlogFirst = after
                }
                if unsafe backlogLast == record { unsafe backlogLast = previous }
                backlogCount.store(backlogCount.load(ordering: .relaxed) &- 1, ordering: .relaxed)
                inFlight.store(inFlight.load(ordering: .relaxed) &- 1, ordering: .relaxed)
                return true
            }
            unsafe previous = candidate
            unsafe next = candidate.pointee.nextQueued
        }
        return false
    }

    /// A no-op that wakes the sleeper, for kernels without the synchronous message.
    func pushWakeUp() -> Bool {
        var entry = SubmissionEntry.nop()
        entry.userData = Self.wakeTag
        return enqueue(entry)
    }

    /// Asks the kernel to end a request, by another one whose own completion says nothing. Called without locks.
    func pushCancel(of userData: UInt64) {
        var entry = SubmissionEntry.cancel(userData: userData)
        entry.userData = Self.ignoredTag
        while true {
            lock.lock()
            let isPushed = enqueue(entry)
            lock.unlock()
            // A full ring that the kernel cannot take anything from now is tried again by the next cancel or the close.
            if !submit() || isPushed { return }
        }
    }

    // MARK: Harvesting, under `lock`

    var completionsReady: UInt32 { ring.completionsReady }

    @inline(__always)
    func completion(at offset: UInt32) -> Completion { ring.completion(at: offset) }

    @inline(__always)
    func advance(by count: UInt32) { ring.advance(by: count) }

    @inline(__always)
    func requestEnded() {
        inFlight.store(inFlight.load(ordering: .relaxed) &- 1, ordering: .relaxed)
    }

    /// Lends the ring itself, for registrations.
    func withRing<Result, Failure: Error>(_ body: (borrowing Ring) throws(Failure) -> Result) throws(Failure) -> Result
    {
        try body(ring)
    }

    /// Whether a harvest may yield something, those completions included that found the ring full.
    @inline(__always)
    var hasCompletions: Bool { submitter.completionsReady > 0 || submitter.overflowPending }

    // MARK: Entering, from any thread

    /// Completions that found the ring full wait in the kernel: brings as many as there is room for into the empty ring.
    /// Returns whether there were any. Any thread may do it, so they need not wait for a busy leaseholder.
    @inline(__always)
    func bringOverflow() -> Bool {
        submitter.overflowPending && bringOverflowSlowly()
    }

    @inline(never)
    private func bringOverflowSlowly() -> Bool {
        // Not empty: a wake-up that is not to be consumed yet is at its head.
        guard submitter.completionsReady == 0 else { return false }
        overflows.add(1, ordering: .relaxed)
        _ = submitter.enter(submit: 0, minimumCompletions: 0, flags: [.getEvents])
        return submitter.completionsReady > 0
    }

    /// Whether the observer waits for the ring, its thread having stayed away since.
    var isLeftAlone: Bool { entriesWhenLeft.load(ordering: .relaxed) == UInt64(entries.load(ordering: .relaxed)) }

    func leaveAlone() {
        entriesWhenLeft.store(UInt64(entries.load(ordering: .relaxed)), ordering: .relaxed)
    }

    /// The observer waits for it no more.
    func takeBack() { entriesWhenLeft.store(.max, ordering: .relaxed) }

    @inline(__always)
    func noteEntry() {
        // A lost increment does not matter: any change will do.
        entries.store(entries.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
    }

    /// Hands everything that is queued to the kernel, and runs completion work that waits for this thread.
    ///
    /// - Parameter waitsForOthers: enters even if nothing is queued any more. Another thread may be submitting what this
    ///   one has queued; the kernel then lets this one in after the other, when immediate completions are in the ring.
    /// - Returns: false if the kernel could not take it now: its completion queue must be emptied first, or memory is
    ///   short. The monitor tries again.
    @discardableResult
    func submit(waitsForOthers: Bool = false) -> Bool {
        var mustEnter = waitsForOthers
        while true {
            var count = submitter.unsubmitted
            let flags: EnterFlags = submitter.needsEnter ? [.getEvents] : []
            if mustEnter {
                count = max(1, count)
                mustEnter = false
            }
            if count == 0 && flags.isEmpty { return true }
            noteEntry()
            if submitter.overflowPending { overflows.add(1, ordering: .relaxed) }
            let result = submitter.enter(submit: count, minimumCompletions: 0, flags: flags)
            if result == -EINTR { continue }
            if result >= 0 {
                if count == 0 || submitter.unsubmitted == 0 { return true }
                if result > 0 { continue }
            }
            // Perhaps nobody comes back to this ring.
            Observer.noteDeparture()
            return false
        }
    }
}

extension Slot {
    /// Sleeps until the ring has a completion, submitting what it holds in the same system call.
    func waitForCompletion(nanoseconds: Int64) {
        noteEntry()
        let flags = waitFlags
        // One entry: the caller looks at the ring and decides whether to sleep again. Errors are told by the next entry.
        _ = submitter.enter(
            submit: submitter.unsubmitted, minimumCompletions: 1, flags: flags, timeoutNanoseconds: nanoseconds)
    }

    /// Wakes the thread that sleeps in the ring. No lock is held.
    func wakeSleeper() {
        var isPushed = false
        while true {
            if Self.hasSynchronousMessages.load(ordering: .relaxed) {
                let result = Ring.sendMessage(to: fileDescriptor, userData: Self.wakeTag, result: 0)
                if result == 0 { return }
                if result == -EINVAL { Self.hasSynchronousMessages.store(false, ordering: .relaxed) }
            }
            // Older kernels, or memory is short: a no-op in the sleeper's own ring. Nobody else would wake the thread, so
            // this goes on until the kernel has taken it.
            if !isPushed {
                lock.lock()
                isPushed = pushWakeUp()
                lock.unlock()
            }
            if submit(), isPushed { return }
            iocp_yield()
        }
    }

    private static let hasSynchronousMessages = Atomic<Bool>(true)
}
