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
    /// User data of the wait for a word of memory in a consumer's own ring.
    static let wordTag: UInt64 = 3
    /// User data, with the place above it, of a request that takes a file out of the ring's table.
    static let placeTag: UInt64 = 4
    /// User data, with the record's address, of the send of a pair (``Transaction``).
    static let silentTag: UInt64 = 5
    /// The same of the request that takes its receive back.
    static let recallTag: UInt64 = 6
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
    /// Whether only one thread may enter the ring: the consumer.
    let isOwned: Bool
    /// Whether it carries the operations of files that had no port when they were started. The port's, looked at for each
    /// completion: a look through `core` would count a reference.
    let isHomeless: Bool
    /// Whether a thread of the kernel's takes what is queued.
    let isPolled: Bool
    /// That thread as `pthread_self` tells it, which is known to the end of the thread; 0 before it has enabled the ring, 1
    /// when it has gone.
    let ringOwner = Atomic<UInt>(0)
    /// The owner has gone, and its requests have moved to the port's last slot. Written under `lock`.
    let vacated = Atomic<Bool>(false)
    /// Whether a push has to look at more than the record: registered files or buffers, or another ring to go to. One
    /// look on the path of every operation.
    private let special = Atomic<Bool>(false)
    private var isSpecial: Bool {
        @inline(__always) get { special.load(ordering: .relaxed) }
    }
    /// Whether the ring waits for a word of memory. Under `lock`.
    var awaitsWord = false
    /// Threads that sleep in the ring, or are about to: the leaseholder, and one that had to yield the slot meanwhile.
    let sleepers = Atomic<Int>(0)
    /// Whether the observer waits for the ring, or is about to look at it.
    let isArmed = Atomic<Bool>(false)
    /// Whether somebody will see every completion by itself.
    var isWatched: Bool { sleepers.load(ordering: .sequentiallyConsistent) > 0 }
    /// Requests whose last completion has not been harvested.
    let inFlight = Atomic<Int>(0)
    /// How often the kernel was entered for this ring: the observer sees by it whether entries are stuck. An entry may be
    /// left out when two threads enter at the same moment.
    let entries = Atomic<UInt64>(0)
    /// `entries` at the observer's last tick, or when everybody was last seen to come and go; `UInt64.max` once a thread has
    /// come back from a sleep in the ring since.
    let entriesAtLastTick = Atomic<UInt64>(0)
    /// `entries` when the observer began to wait for the ring of a thread that stays away; `UInt64.max` if it does not.
    private let entriesWhenLeft = Atomic<UInt64>(.max)

    // How long entries wait to be submitted, so that a busy thread does not keep them back. Only its starts and dequeues
    // use these.
    /// When the first entry since the thread's last dequeue was pushed, or 0 if this round is not timed.
    private let roundStart = Atomic<Int64>(0)
    /// How many entries were pushed since.
    private let roundCount = Atomic<Int64>(0)
    private let rounds = Atomic<UInt32>(0)
    /// How many were pushed in the leaseholder's last round that had any.
    private let lastRound = Atomic<Int64>(0)
    /// From so many on, requests that could be pairs follow each other: a receive that is made later finds its data, so that
    /// the kernel need not watch the socket.
    private static let largeRound: Int64 = 8
    /// Completions that are worth another thread's waking, however quick the handlers are.
    private static let manyReady: UInt32 = 8
    /// Entries that are pushed in 50 µs at the pace of the rounds that were timed: with so many, a start enters the
    /// kernel.
    private let flushCount = Atomic<Int64>(Slot.mostDeferred)
    private static let mostDeferred: Int64 = 256
    private static let longestDeferral: Int64 = 50_000
    /// While rounds are quick, one of so many is timed: the clock costs more than a start.
    static let timedRounds: UInt32 = 8

    /// How often completions were found that had found the ring full.
    let overflows = Atomic<Int>(0)

    // The kernel may refuse an entry: memory is short, or the completion queue full. What is queued stays queued, nobody
    // tries without end, and the monitor tries again until the kernel takes it.
    /// How often it did.
    let refusals = Atomic<Int>(0)
    /// The errno of the last time, 0 once it has taken something since.
    let refusal = Atomic<Int32>(0)
    /// How long a thread that was refused sleeps before it tries again.
    private let refusalPause = Atomic<Int64>(0)
    private static let shortestRefusalPause: Int64 = 1_000_000
    private static let longestRefusalPause: Int64 = 16_000_000
    /// Signals in a row that count as one refusal.
    static let mostInterruptions = 16
    private let interruptedWaits = Atomic<Int>(0)
    /// Whether a sleeper could not be woken.
    let owesWakeUp = Atomic<Bool>(false)
    /// Cancels that neither the kernel nor the ring had room for.
    private var owedCancels: [UInt64] = []

    /// Requests that ended with the thread that had submitted them, and were queued again (e34).
    let reissues = Atomic<Int>(0)

    private var inheritedRing: InheritedRing?
    /// The slot's bit in ``FilePlace`` if the ring has a table of registered files; constant once the port
    /// is made, until its owner has gone.
    private let fileBitWord = Atomic<UInt64>(0)
    var fileBit: UInt64 {
        @inline(__always) get { fileBitWord.load(ordering: .relaxed) }
    }
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
    /// Records and cancels in the backlog. Written under `lock`, for looks without it.
    private let backlogCount = Atomic<Int>(0)
    private var backlogLast: OperationRecord.Pointer?
    /// Pairs whose send is queued, and whose receive is to be. Room is kept for those.
    private var lateFirst: OperationRecord.Pointer?
    private var lateLast: OperationRecord.Pointer?
    /// Written under `lock`, for looks without it.
    private let lateCount = Atomic<UInt32>(0)
    /// The port that the slot belongs to: it outlives the slot.
    unowned(unsafe) let core: PortCore

    private static let nextIdentifier = Atomic<UInt64>(1)

    init(of core: PortCore, index: Int, options: RingOptions) throws(RingError) {
        unsafe self.core = core
        isOwned = options.required.contains(.singleIssuer)
        isHomeless = core.isHomeless
        isPolled = options.required.contains(.submissionPolling)
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
        if isSpecial, isVacated { return unsafe pushElsewhere(record) }
        unsafe record.pointee.slotReference.store(Unmanaged.passUnretained(self), ordering: .relaxed)
        // Before the entry can be seen: whoever submits it must not take the ring for an idle one.
        inFlight.store(inFlight.load(ordering: .relaxed) &+ 1, ordering: .releasing)
        if unsafe backlogFirst == nil, unsafe enqueueRequest(of: record) {
        } else {
            unsafe pushSlow(record)
        }
    }

    /// Under `lock`. Returns false if the ring is full.
    @inline(__always)
    private func enqueueRequest(of record: OperationRecord.Pointer) -> Bool {
        if unsafe record.pointee.kind == .transact && record.pointee.step == Transaction.Step.begins {
            return unsafe enqueueTransaction(record)
        }
        return unsafe enqueue(entry(for: record))
    }

    /// The first request of a transaction. The other one of a pair follows when the ring is entered next.
    @inline(__always)
    private func enqueueTransaction(_ record: OperationRecord.Pointer) -> Bool {
        guard ring.submissionCapacity >= 2, unsafe Transaction.isPair(record), unsafe !isOneOfMany(record) else {
            unsafe record.pointee.step = Transaction.Step.sending
            return unsafe enqueue(entry(for: record))
        }
        let count = lateCount.load(ordering: .relaxed)
        guard ring.submissionSpace >= count + 2 else { return false }
        unsafe record.pointee.step = Transaction.Step.paired
        var send = unsafe Transaction.silentSend(record)
        if isSpecial { unsafe useRegistered(&send, record) }
        _ = ring.enqueue(send)
        ring.publish()
        if count == 0 {
            unsafe lateFirst = record
        } else {
            unsafe lateLast!.pointee.nextQueued = record
        }
        unsafe lateLast = record
        lateCount.store(count + 1, ordering: .relaxed)
        // A thread of the kernel's may have sent it already.
        if isPolled { enqueueLate() }
        return true
    }

    /// Whether the thread that starts it starts so many between two dequeues that it enters the kernel for others anyway.
    /// An eager start wants its answer now.
    @inline(__always)
    private func isOneOfMany(_ record: OperationRecord.Pointer) -> Bool {
        if lastRound.load(ordering: .relaxed) < Self.largeRound || isPolled { return false }
        return unsafe record.pointee.thread == owner.load(ordering: .relaxed)
            && record.pointee.phase.load(ordering: .relaxed) != OperationRecord.Phase.issuing
    }

    /// Queues the receives of pairs. There is room for them. Under `lock`.
    ///
    /// Behind all that was sent meanwhile: of many, the first find their answers there by then, and the kernel need not
    /// watch their sockets.
    func enqueueLate() {
        let count = lateCount.load(ordering: .relaxed)
        if count == 0 { return }
        for _ in 0..<count {
            let record = unsafe lateFirst!
            unsafe lateFirst = record.pointee.nextQueued
            var receive = unsafe Transaction.receive(record)
            receive.userData = UInt64(UInt(bitPattern: record))
            if isSpecial { unsafe useRegistered(&receive, record) }
            _ = ring.enqueue(receive)
        }
        lateCount.store(0, ordering: .relaxed)
        ring.publish()
    }

    /// Called without locks, or where there are none.
    @inline(__always)
    private func includeLate() {
        if lateCount.load(ordering: .relaxed) > 0 { includeLateSlowly() }
    }

    @inline(never)
    private func includeLateSlowly() {
        lock.lock()
        enqueueLate()
        lock.unlock()
    }

    /// A record's next request, by the registered file if there is one.
    @inline(__always)
    private func entry(for record: OperationRecord.Pointer) -> SubmissionEntry {
        var entry = unsafe Requests.entry(for: record)
        if isSpecial { unsafe useRegistered(&entry, record) }
        return entry
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
    func startRounds() {
        roundCount.store(0, ordering: .relaxed)
        lastRound.store(0, ordering: .relaxed)
    }

    /// The leaseholder dequeues again. Returns how many completions are worth another thread's waking: many, or so many that
    /// they keep this one busy for 50 µs at the pace of the round that ends. One without starts tells nothing of that.
    @inline(__always)
    @discardableResult
    func endRound() -> UInt32 {
        let count = roundCount.load(ordering: .relaxed)
        guard count > 0 else { return Self.manyReady }
        roundCount.store(0, ordering: .relaxed)
        lastRound.store(count, ordering: .relaxed)
        let start = roundStart.load(ordering: .relaxed)
        if start > 0 { endTimedRound(count, since: start) }
        return UInt32(truncatingIfNeeded: min(Int64(Self.manyReady), flushCount.load(ordering: .relaxed)))
    }

    @inline(never)
    private func endTimedRound(_ count: Int64, since start: Int64) {
        let each = (iocp_now_ns() - start) / count
        let fitting = max(1, min(Self.mostDeferred, Self.longestDeferral / max(1, each)))
        // Down at once; up by and by, since one quick round does not make a quick server.
        flushCount.store(min(fitting, flushCount.load(ordering: .relaxed) * 2), ordering: .relaxed)
    }

    @inline(__always)
    func enqueue(_ entry: SubmissionEntry) -> Bool {
        guard ring.submissionSpace > lateCount.load(ordering: .relaxed) else { return false }
        _ = ring.enqueue(entry)
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
        if !isRefused { drainBacklog() }
    }

    /// Moves waiting records into the ring as far as there is room.
    func drainBacklog() {
        enqueueLate()
        while let userData = owedCancels.last {
            guard enqueueCancel(of: userData) || (submitAll() && enqueueCancel(of: userData)) else { return }
            owedCancels.removeLast()
            backlogCount.store(backlogCount.load(ordering: .relaxed) &- 1, ordering: .relaxed)
        }
        while let record = unsafe backlogFirst {
            if unsafe !enqueueRequest(of: record) {
                guard submitAll(), unsafe enqueueRequest(of: record) else { return }
            }
            unsafe backlogFirst = record.pointee.nextQueued
            backlogCount.store(backlogCount.load(ordering: .relaxed) &- 1, ordering: .relaxed)
            if unsafe backlogFirst == nil { unsafe backlogLast = nil }
        }
    }

    /// Makes room. Under `lock`, which ``submit(waitsForOthers:)`` would take for the receives of pairs.
    private func submitAll() -> Bool {
        enqueueLate()
        return submit()
    }

    /// The owner has gone: what waits for room goes elsewhere. What was to be cancelled is cancelled with all else.
    func moveBacklog() {
        enqueueLate()
        // But for those whose answer is waited for.
        for userData in owedCancels where userData & Self.tagMask == Self.recallTag {
            inFlight.store(inFlight.load(ordering: .relaxed) &- 1, ordering: .relaxed)
            let other = unsafe core.slots[core.slots.count - 1]
            other.lock.lock()
            other.recall(userData & ~Self.tagMask)
            other.lock.unlock()
        }
        owedCancels.removeAll()
        while let record = unsafe backlogFirst {
            unsafe backlogFirst = record.pointee.nextQueued
            inFlight.store(inFlight.load(ordering: .relaxed) &- 1, ordering: .relaxed)
            unsafe pushElsewhere(record)
        }
        unsafe backlogLast = nil
        backlogCount.store(0, ordering: .relaxed)
    }

    /// The calling thread becomes the one that may enter the ring.
    func enable() -> Bool { (try? ring.enable()) != nil }

    /// Requests that have not entered the kernel.
    var unsubmittedRequests: Int {
        Int(submitter.unsubmitted + lateCount.load(ordering: .relaxed)) + backlogCount.load(ordering: .relaxed)
    }

    var hasBacklog: Bool { backlogCount.load(ordering: .relaxed) > 0 }

    /// Submits what is queued and what waits for room, and wakes who could not be woken. Called without locks. Returns
    /// false if the kernel refuses it.
    @discardableResult
    func relieve() -> Bool {
        var isTaken = false
        repeat {
            lock.lock()
            drainBacklog()
            lock.unlock()
            isTaken = submit()
        } while isTaken && hasBacklog
        if owesWakeUp.exchange(false, ordering: .sequentiallyConsistent) { wakeSleeper() }
        return isTaken && !isRefused
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

    /// Turns a record's request, if it is queued and the kernel has not taken it, into one that does nothing and names no
    /// descriptor: its completion lets the record see why it is to end.
    func withdraw(_ record: OperationRecord.Pointer) -> Bool {
        guard ring.withdraw(userData: UInt64(UInt(bitPattern: record))) else { return false }
        if unsafe !record.pointee.flags.contains(.polling) {
            unsafe record.pointee.flags = record.pointee.flags.union([.polling, .withdrawn])
        }
        // After the receive behind it: that must not succeed alone.
        if unsafe record.pointee.kind == .transact {
            _ = ring.withdraw(userData: UInt64(UInt(bitPattern: record)) | Self.silentTag)
        }
        return true
    }

    /// Asks the kernel to end a request. Called without locks.
    ///
    /// Returns what it said: `-ENOENT` if it holds no such request, 0 or another code if it ends, and nil if it could not
    /// be asked. Then the ring carries the question, behind what is queued.
    func cancel(_ userData: UInt64) -> Int32? {
        for _ in 0..<(mayEnter ? Self.mostInterruptions : 0) {
            iocp_note_system_call()
            let result = submitter.cancel(userData: userData, timeoutNanoseconds: 0)
            switch result {
            // A signal: asked once more, it says what came of it.
            case -EINTR, -EAGAIN, -EBUSY: continue
            // Kernels before 6.0 have no synchronous cancel.
            case -EINVAL, -ENOMEM: break
            default: return result
            }
            break
        }
        lock.lock()
        queueCancel(of: userData)
        drainBacklog()
        lock.unlock()
        submit()
        return nil
    }

    /// Takes the receive of a pair back. Its answer is a completion of the slot's own: until then the receive may be the
    /// next one. Under `lock`.
    func recall(_ userData: UInt64) {
        inFlight.store(inFlight.load(ordering: .relaxed) &+ 1, ordering: .releasing)
        // Somebody may have handed over the send alone: the receive must be there before it can be taken back.
        enqueueLate()
        queueCancel(of: userData | Self.recallTag)
    }

    /// Queues a cancel, or has it wait for room. Under `lock`.
    private func queueCancel(of userData: UInt64) {
        if enqueueCancel(of: userData) { return }
        owedCancels.append(userData)
        backlogCount.store(backlogCount.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
    }

    /// Queues a request that ends another one, and whose own completion says nothing unless it recalls.
    func enqueueCancel(of userData: UInt64) -> Bool {
        let recalls = userData & Self.tagMask == Self.recallTag
        var entry = SubmissionEntry.cancel(userData: recalls ? userData & ~Self.tagMask : userData)
        entry.userData = recalls ? userData : Self.ignoredTag
        return enqueue(entry)
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

    /// The ring has a table of registered files, and this bit of its own. Before the port is used.
    func noteFileTable(_ bit: UInt64) {
        fileBitWord.store(bit, ordering: .relaxed)
        if bit != 0 { special.store(true, ordering: .relaxed) }
    }

    private let holdsBuffers = Atomic<Bool>(false)
    func noteRegisteredBuffers() {
        holdsBuffers.store(true, ordering: .relaxed)
        special.store(true, ordering: .relaxed)
    }

    /// Its requests go elsewhere from now on. Under `lock`.
    func noteVacated() {
        vacated.store(true, ordering: .sequentiallyConsistent)
        special.store(true, ordering: .relaxed)
    }

    @inline(never)
    private func useRegistered(_ entry: inout SubmissionEntry, _ record: OperationRecord.Pointer) {
        if fileBit != 0 { unsafe useRegisteredFile(&entry, record) }
        if holdsBuffers.load(ordering: .relaxed) { unsafe useRegisteredBuffer(&entry, record) }
    }

    /// Lends the ring itself, for registrations.
    func withRing<Result, Failure: Error>(_ body: (borrowing Ring) throws(Failure) -> Result) throws(Failure) -> Result
    {
        try body(ring)
    }

    /// Whether a harvest may yield something, those completions included that found the ring full.
    @inline(__always)
    var hasCompletions: Bool { submitter.completionsReady > 0 || submitter.overflowPending }

    /// The same, and nobody sleeps in it who would see that by himself.
    @inline(__always)
    var offersCompletions: Bool { hasCompletions && !isWatched }

    /// Whether its leaseholder can do without it for now: nothing to be harvested or to be submitted.
    @inline(__always)
    var isQuiet: Bool {
        // A consumer's own ring finishes nothing before it is entered.
        inFlight.load(ordering: .relaxed) == 0
            || (!hasCompletions && submitter.unsubmitted == 0 && lateCount.load(ordering: .relaxed) == 0
                && !(isOwned && submitter.needsEnter))
    }

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
        submit()
        return submitter.completionsReady > 0
    }

    /// Whether the observer waits for the ring, its thread having stayed away since.
    var isLeftAlone: Bool { entriesWhenLeft.load(ordering: .relaxed) == entries.load(ordering: .relaxed) }

    /// Everybody is seen to come and go, or is looked at.
    func noteSight() { entriesAtLastTick.store(entries.load(ordering: .relaxed), ordering: .relaxed) }

    func leaveAlone() {
        entriesWhenLeft.store(entries.load(ordering: .relaxed), ordering: .relaxed)
    }

    /// The observer waits for it no more.
    func takeBack() { entriesWhenLeft.store(.max, ordering: .relaxed) }

    @inline(__always)
    func noteEntry() {
        // To the observer a lost increment does not matter: any change will do.
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
        includeLate()
        if isOwned || isPolled {
            if isPolled { return submitPolled(waits: waitsForOthers) }
            if !mayEnter { return askOwner() }
        }
        var mustEnter = waitsForOthers
        var vainEntries = 0
        while true {
            var count = submitter.unsubmitted
            let flags: EnterFlags = submitter.needsEnter ? [.getEvents] : []
            if mustEnter {
                count = max(1, count)
                mustEnter = false
            }
            if count == 0 && flags.isEmpty {
                if isRefused { noteTaken() }
                return true
            }
            noteEntry()
            if submitter.overflowPending { overflows.add(1, ordering: .relaxed) }
            let result = submitter.enter(submit: count, minimumCompletions: 0, flags: flags)
            if result >= 0, count == 0 || submitter.unsubmitted == 0 {
                if isRefused { noteTaken() }
                return true
            }
            if result > 0 { continue }
            // Interrupted, or another thread has taken what was there: but not again and again.
            vainEntries += 1
            if result == 0 || result == -EINTR, vainEntries < Self.mostInterruptions { continue }
            noteRefusal(result)
            return false
        }
    }

    /// Whether the kernel did not take what it was given last.
    @inline(__always)
    var isRefused: Bool { refusal.load(ordering: .relaxed) != 0 }

    @inline(never)
    func noteTaken() {
        refusal.store(0, ordering: .relaxed)
        refusalPause.store(0, ordering: .relaxed)
    }

    /// - Parameter result: of the entry.
    @inline(never)
    func noteRefusal(_ result: Int32) {
        refusals.add(1, ordering: .relaxed)
        refusal.store(result < 0 ? -result : EAGAIN, ordering: .relaxed)
        Observer.noteDeparture()
    }

    /// A thread that is refused sleeps for longer each time.
    func nextRefusalPause() -> Int64 {
        let pause = max(
            Self.shortestRefusalPause, min(Self.longestRefusalPause, refusalPause.load(ordering: .relaxed) * 2))
        refusalPause.store(pause, ordering: .relaxed)
        return pause
    }
}

extension Slot {
    /// Sleeps until the ring has a completion, submitting what it holds in the same system call.
    ///
    /// Returns false if the kernel lets the thread neither submit nor sleep: it must pause in another way before it tries
    /// again.
    func waitForCompletion(nanoseconds: Int64) -> Bool {
        includeLate()
        noteEntry()
        var flags = waitFlags
        if isPolled, submitter.needsWakeup { flags.insert(.submissionWakeup) }
        let count = submitter.unsubmitted
        // One entry: the caller looks at the ring and decides whether to sleep again.
        let result = submitter.enter(
            submit: count, minimumCompletions: 1, flags: flags, timeoutNanoseconds: nanoseconds)
        // The thread is back: a tick must not find that it has been away since the last one.
        entriesAtLastTick.store(.max, ordering: .relaxed)
        if result > 0 || result == -ETIME || (result == 0 && (count == 0 || submitter.unsubmitted == 0)) {
            if isRefused { noteTaken() }
            interruptedWaits.store(0, ordering: .relaxed)
            return true
        }
        if result == -EINTR || result == 0 {
            // Signals, each of which has its own right to be handled at once; without end they are a fault.
            let waits = interruptedWaits.load(ordering: .relaxed) + 1
            interruptedWaits.store(waits, ordering: .relaxed)
            if waits < Self.mostInterruptions { return true }
        }
        noteRefusal(result)
        // To sleep needs less than to submit. Not for long: what is queued is to be tried again.
        let pause = nextRefusalPause()
        noteEntry()
        let slept = submitter.enter(
            submit: 0, minimumCompletions: 1, flags: flags,
            timeoutNanoseconds: nanoseconds < 0 ? pause : min(pause, nanoseconds))
        return slept == 0 || slept == -ETIME
    }

    /// Wakes the thread that sleeps in the ring. No lock is held.
    func wakeSleeper() {
        if Self.hasSynchronousMessages.load(ordering: .relaxed) {
            for _ in 0..<Self.mostInterruptions {
                iocp_note_system_call()
                let result = Ring.sendMessage(to: fileDescriptor, userData: Self.wakeTag, result: 0)
                if result == 0 { return }
                if result == -EINVAL { Self.hasSynchronousMessages.store(false, ordering: .relaxed) }
                if result != -EINTR { break }
            }
        }
        if isOwned { return wakeOwner() }
        // Older kernels, or memory is short: a no-op in the sleeper's own ring.
        for _ in 0..<2 {
            lock.lock()
            let pushed = pushWakeUp()
            lock.unlock()
            let taken = submit()
            if pushed { return }
            if !taken { break }
        }
        // The ring is full, and the kernel takes nothing from it: the monitor tries again.
        owesWakeUp.store(true, ordering: .sequentiallyConsistent)
        Observer.noteDeparture()
    }

    /// Whether the monitor is to try again what the kernel refused.
    var needsRelief: Bool { isRefused && !isOwned || owesWakeUp.load(ordering: .relaxed) }

    /// Whether the kernel has them, as far as is known.
    static let hasSynchronousMessages = Atomic<Bool>(true)
}
