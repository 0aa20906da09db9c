internal import CIOCPSupport
internal import IOUring
internal import Synchronization

/// The port object: the scheduler's decisions carried out over rings.
///
/// Locks, outermost first: this port's `lock`, a slot's `lock`, a file object's `lock`. (The slot of the port that
/// carries operations of unassociated files comes before the lock of the port that their packets go to; it has no
/// waiters of its own, so nothing takes them in the other order.) Nothing is woken and no user code runs under a lock.
@safe final class PortCore: @unchecked Sendable {
    // Unchecked: `lock` guards the scheduler, the packets and the leases; the rest is atomic or constant.

    let lock = FutexLock()
    let limit: Int
    /// Whether it carries the operations of files that have no port, or had none when they were started.
    let isHomeless: Bool
    private let guardedScheduler: Guarded<Scheduler>
    private let guardedPackets = Guarded(PacketQueue())
    private var scheduler: Scheduler {
        @inline(__always) _read { yield guardedScheduler.value }
        @inline(__always) _modify { yield &guardedScheduler.value }
    }
    private var packets: PacketQueue {
        @inline(__always) _read { yield guardedPackets.value }
        @inline(__always) _modify { yield &guardedPackets.value }
    }
    private let guardedSlots: Guarded<[Slot]> = Guarded([])
    /// Constant once the port is made.
    var slots: [Slot] {
        @inline(__always) _read { yield guardedSlots.value }
    }
    /// Open references to the port (f2), and whether all are gone.
    private var references = 1
    /// File objects that are associated with the port.
    private var files = 0
    private var isClosed = false

    // Mirrors of what the lock guards, for looks without it. Written under the lock.
    private let queuedMirror = Atomic<Int>(0)
    private let runningMirror = Atomic<Int>(0)
    private let waitingMirror = Atomic<Int>(0)
    private let closedMirror = Atomic<Bool>(false)

    /// Threads that wait for the port itself, not for a packet (b27): they sleep on the word.
    private let watchers = Atomic<Int>(0)
    /// They are to be woken once the lock is free.
    private var wakesWatchers = false
    private let watchWord = Atomic<UInt32>(0)

    /// Threads to be woken once the lock is free.
    private var toWake: Unmanaged<IOThread>?
    /// Where to look for a ring for threads that lease none.
    private let nextForeignSlot = Atomic<UInt32>(0)
    /// When a drowning slot last called for help, in nanoseconds.
    private var lastHelp: Int64 = 0

    init(limit: Int, slotCount: Int, options: RingOptions, isHomeless: Bool = false) throws(PortError) {
        self.limit = limit
        self.isHomeless = isHomeless
        guardedScheduler = Guarded(Scheduler(limit: limit))
        do {
            for index in 0..<slotCount {
                guardedSlots.value.append(try Slot(of: self, index: index, options: options))
            }
        } catch {
            throw PortError(error)
        }
        try Observer.shared.watch(self)
    }

    deinit {
        while packets.count > 0 {
            Engine.discard(packets.removeFirst(), graveyard: IOThread.current)
        }
        IOThread.current.buryDead()
    }

    // MARK: References

    func retainReference() throws(PortError) {
        lock.lock()
        defer { lock.unlock() }
        guard !isClosed else { throw .portClosed }
        references += 1
    }

    /// One reference less. The last one ends every wait with "abandoned" (f2) and discards what nobody can read (f4).
    func releaseReference() {
        let me = IOThread.current
        lock.lock()
        references -= 1
        guard references == 0 else {
            lock.unlock()
            return
        }
        let isRetired = files == 0
        isClosed = true
        closedMirror.store(true, ordering: .sequentiallyConsistent)
        while let waiter = unsafe scheduler.abandonNext() {
            let thread = unsafe IOThread.from(waiter)
            thread.delivery = .abandoned
            enlist(thread)
        }
        scheduler.discardQueued()
        while packets.count > 0 { Engine.discard(packets.removeFirst(), graveyard: me) }
        // Nobody will come back to these rings: their completions are the observer's from now on.
        for slot in slots {
            unsafe slot.leaseholder = nil
            slot.owner.store(0, ordering: .sequentiallyConsistent)
        }
        publish()
        wakesWatchers = watchers.load(ordering: .relaxed) > 0  // b29
        unlockAndWake()
        for slot in slots { settle(slot) }
        if isRetired { Observer.shared.forget(self) }
        me.buryDead()
    }

    /// A file object is associated: its operations keep the port alive, and observed, after the last reference (f1).
    func addFile() throws(PortError) {
        lock.lock()
        defer { lock.unlock() }
        guard !isClosed else { throw .portClosed }
        files += 1
    }

    /// It is gone, with all of its operations.
    func removeFile() {
        lock.lock()
        files -= 1
        let isRetired = files == 0 && isClosed
        lock.unlock()
        if isRetired { Observer.shared.forget(self) }
    }

    // MARK: Posting

    /// Queues a packet, or hands it to the newest waiter.
    func post(_ entry: PacketEntry) throws(PortError) {
        let isPosted = unsafe IOThread.currentReference._withUnsafeGuaranteedRef { post(entry, $0) }
        if !isPosted { throw .portClosed }
    }

    @inline(__always)
    private func post(_ entry: PacketEntry, _ me: IOThread) -> Bool {
        lock.lock()
        guard !isClosed else {
            lock.unlock()
            return false
        }
        // What completed before this post comes before it: a single thread must not see its own order changed (c8).
        if me.isTied(to: self), let slot = unsafe me.leasedReference {
            unsafe slot._withUnsafeGuaranteedRef {
                if $0.hasCompletions { absorb($0, me, atMost: .max) }
            }
        }
        insert(entry)
        publish()
        unlockAndWake()
        if !me.graveyard.isEmpty { me.buryDead() }
        return true
    }

    /// A completion found by somebody who does not dequeue. Same as a post, but a closed port swallows it (f4).
    func deliver(_ entry: PacketEntry, _ me: IOThread) {
        lock.lock()
        if isClosed {
            lock.unlock()
            Engine.discard(entry, graveyard: me)
            return
        }
        insert(entry)
        publish()
        unlockAndWake()
    }

    private func insert(_ entry: PacketEntry) {
        if let waiter = unsafe scheduler.insert() {
            unsafe hand(entry, to: IOThread.from(waiter))
        } else {
            packets.append(entry)
        }
    }

    /// Queued, unclaimed packets (c10), completions that lie in the rings included.
    var depth: Int {
        let me = IOThread.current
        if me.isTied(to: self) { me.leasedSlot?.submit() }
        lock.lock()
        if !isClosed {
            for slot in slots where !slot.isWatched { absorb(slot, me, atMost: .max) }
        }
        let count = scheduler.queued
        publish()
        unlockAndWake()
        me.buryDead()
        return count
    }

    // MARK: Waking

    private func hand(_ entry: PacketEntry, to thread: IOThread) {
        thread.delivery = .packet(entry)
        lease(for: thread)
        enlist(thread)
    }

    private func enlist(_ thread: IOThread) {
        unsafe thread.nextToWake = toWake
        unsafe toWake = Unmanaged.passRetained(thread)
    }

    private func unlockAndWake() {
        var next = unsafe toWake
        unsafe toWake = nil
        let watched = wakesWatchers
        wakesWatchers = false
        lock.unlock()
        if watched { wakeEveryWatcher() }
        while let chained = unsafe next {
            let thread = unsafe chained.takeRetainedValue()
            unsafe next = thread.nextToWake
            unsafe thread.nextToWake = nil
            thread.wake(in: self)
        }
    }

    private func publish() {
        // What is queued now was handed to no thread (b27, b28).
        if scheduler.queued > 0 && watchers.load(ordering: .relaxed) > 0 { wakesWatchers = true }
        queuedMirror.store(scheduler.queued, ordering: .relaxed)
        runningMirror.store(scheduler.running, ordering: .relaxed)
        waitingMirror.store(scheduler.waiting, ordering: .relaxed)
    }

    private func wakeEveryWatcher() {
        watchWord.add(1, ordering: .sequentiallyConsistent)
        futexWake(watchWord, count: .max)
    }

    // MARK: Leases, under the lock

    /// Gives the thread a slot of its own if there is one: the one it had, a free one, or one whose leaseholder sleeps.
    private func lease(for thread: IOThread) {
        if thread.leasedSlot != nil { return }
        if let last = unsafe thread.slotReference?.takeUnretainedValue(), unsafe last.core === self,
            last.owner.load(ordering: .relaxed) == 0
        {
            grant(last, to: thread)
            return
        }
        if leaseFree(for: thread) { return }
        // A waiter older than this thread keeps a ring warm that a running thread needs more.
        for slot in slots {
            if let holder = unsafe slot.leaseholder?.takeUnretainedValue(), unsafe holder.state.pointee.isWaiting,
                holder !== thread
            {
                grant(slot, to: thread)
                return
            }
        }
    }

    private func leaseFree(for thread: IOThread) -> Bool {
        // One with operations in flight first: then it needs no other observer.
        var free: Slot?
        for slot in slots where slot.owner.load(ordering: .relaxed) == 0 {
            if slot.inFlight.load(ordering: .relaxed) > 0 {
                free = slot
                break
            }
            if free == nil { free = slot }
        }
        guard let free else { return false }
        grant(free, to: thread)
        return true
    }

    private func grant(_ slot: Slot, to thread: IOThread) {
        unsafe slot.leaseholder = Unmanaged.passUnretained(thread)
        slot.owner.store(thread.serial, ordering: .sequentiallyConsistent)
        unsafe thread.slotReference = Unmanaged.passUnretained(slot)
    }

    /// Takes the thread's slot away. Returns it: it is to be settled without the lock.
    private func revokeLease(of thread: IOThread) -> Slot? {
        guard let slot = thread.leasedSlot else { return nil }
        unsafe slot.leaseholder = nil
        slot.owner.store(0, ordering: .sequentiallyConsistent)
        return slot
    }

    /// A slot that nobody leases: what it holds enters the kernel, and somebody looks when it completes.
    func settle(_ slot: Slot) {
        slot.submit()
        if slot.owner.load(ordering: .sequentiallyConsistent) == 0,
            slot.inFlight.load(ordering: .sequentiallyConsistent) > 0
        {
            Observer.shared.arm(slot)
        }
    }

    // MARK: Threads come and go

    /// The calling thread is no longer this port's: it exits or dequeues from another (d13, d14).
    func leave(_ thread: IOThread) {
        lock.lock()
        unsafe scheduler.release(thread.state)
        let slot = revokeLease(of: thread)
        unsafe thread.slotReference = nil
        redistribute()
        unlockAndWake()
        if let slot { settle(slot) }
    }

    /// The calling thread is about to block on something else: its place is free (d7).
    func block(_ thread: IOThread) {
        lock.lock()
        unsafe scheduler.release(thread.state)
        let slot = revokeLease(of: thread)
        if let slot, slot.hasCompletions, !isClosed { absorb(slot, thread, atMost: .max) }
        redistribute()
        unlockAndWake()
        if let slot { settle(slot) }
        thread.buryDead()
    }

    /// It goes on. The count may exceed the limit until it falls by itself (d10).
    func unblock(_ thread: IOThread) {
        lock.lock()
        if !isClosed {
            unsafe scheduler.resume(thread.state)
            if thread.leasedSlot == nil { _ = leaseFree(for: thread) }
        }
        publish()
        unlockAndWake()
        Observer.noteDeparture()
    }

    /// After the count fell or packets were queued behind: waiters get what is queued, as far as the limit lets them.
    private func redistribute() {
        while let waiter = unsafe scheduler.handOver() {
            unsafe hand(packets.removeFirst(), to: IOThread.from(waiter))
        }
        publish()
    }

    /// Ends an alertable wait because a call was queued to the thread.
    func interrupt(_ thread: IOThread) {
        lock.lock()
        if unsafe thread.state.pointee.isWaiting {
            unsafe scheduler.withdraw(thread.state)
            thread.delivery = .calls
            enlist(thread)
            publish()
        }
        unlockAndWake()
    }

    // MARK: Harvesting, under the lock

    /// Moves completions of a slot behind the packets that are queued. Returns how many packets it yielded.
    @discardableResult
    private func gather(_ slot: Slot, _ me: IOThread, atMost most: Int) -> Int {
        var total = 0
        while total < most {
            let room = min(most - total, IOThread.scratchCapacity)
            let count = unsafe Engine.harvest(slot, into: me.scratch, capacity: room, me)
            for index in 0..<count {
                unsafe packets.append(me.scratch[index])
                scheduler.insertBehind()
            }
            total += count
            if count < room, !slot.bringOverflow() { break }
        }
        return total
    }

    /// Moves completions of a slot to waiters and, when no more may run, behind the queued packets.
    private func absorb(_ slot: Slot, _ me: IOThread, atMost most: Int) {
        if gather(slot, me, atMost: most) > 0 {
            redistribute()
        }
    }

    /// The observer's look at a slot. Returns whether it still needs an observer.
    func observe(_ slot: Slot, _ me: IOThread) -> Bool {
        lock.lock()
        // Leased, but its thread has not entered the kernel for ticks: its operations go on without it.
        let isLeftAlone = slot.owner.load(ordering: .relaxed) != 0 && slot.isLeftAlone && !slot.isWatched
        if isLeftAlone || slot.owner.load(ordering: .relaxed) == 0 {
            if isClosed { swallow(slot, me) } else { absorb(slot, me, atMost: .max) }
        }
        publish()
        unlockAndWake()
        slot.submit()
        me.buryDead()
        if isLeftAlone { slot.leaveAlone() }
        return (isLeftAlone || slot.owner.load(ordering: .sequentiallyConsistent) == 0)
            && slot.inFlight.load(ordering: .sequentiallyConsistent) > 0
    }

    /// Completions of a port that nobody can read: events are set, records written, packets discarded (f4, f5).
    private func swallow(_ slot: Slot, _ me: IOThread) {
        while true {
            let count = unsafe Engine.harvest(slot, into: me.scratch, capacity: IOThread.scratchCapacity, me)
            for index in 0..<count { unsafe Engine.discard(me.scratch[index], graveyard: me) }
            if count < IOThread.scratchCapacity { return }
        }
    }

    /// A look at every ring on behalf of somebody who waits for a completion and not for a packet. Rings in which a
    /// thread sleeps are left to it, but for one that the caller needs to know about now.
    func progress(_ me: IOThread, including wanted: Slot? = nil) {
        if me.isTied(to: self) { me.leasedSlot?.submit() }
        lock.lock()
        for slot in slots where slot.hasCompletions && (slot === wanted || !slot.isWatched) {
            if isClosed { swallow(slot, me) } else { absorb(slot, me, atMost: .max) }
        }
        publish()
        unlockAndWake()
        me.buryDead()
    }

    /// The observer's tick: entries that a busy thread left unsubmitted since the last tick, and completions that wait
    /// behind a busy thread while another could take them. A ring whose thread stays away is waited for from then on, as
    /// if nobody leased it. Returns whether there is anything to tick for.
    func tick(_ me: IOThread) -> Bool {
        var busy = false
        for slot in slots where slot.owner.load(ordering: .acquiring) != 0 {
            let entries = slot.entries.load(ordering: .relaxed)
            let isAway = slot.entriesAtLastTick.exchange(entries, ordering: .relaxed) == entries
            if slot.submitter.unsubmitted > 0 || slot.hasBacklog {
                busy = true
                if isAway { slot.relieve() }
            }
            // A thread that sleeps in the ring sees its completions by itself.
            if slot.isWatched { continue }
            if slot.inFlight.load(ordering: .relaxed) > 0 {
                if !isAway {
                    busy = true
                } else if !slot.isLeftAlone {
                    slot.leaveAlone()
                    Observer.shared.arm(slot)
                }
            }
            let mayRun = waitingMirror.load(ordering: .relaxed) > 0 && runningMirror.load(ordering: .relaxed) < limit
            guard mayRun || watchers.load(ordering: .relaxed) > 0 else { continue }
            if slot.submitter.needsEnter { _ = iocp_membarrier() }
            if slot.hasCompletions {
                lock.lock()
                if !isClosed { absorb(slot, me, atMost: 1) }
                publish()
                unlockAndWake()
            }
        }
        me.buryDead()
        return busy
    }

    // MARK: Dequeuing

    enum DequeueEnd {
        case packets(Int)
        case timedOut
        case callsRan
    }

    /// Removes packets into `out`, waiting for the first one until the deadline.
    func dequeue(
        into out: UnsafeMutableBufferPointer<Packet>, _ deadline: Deadline, alertable: Bool
    ) throws(PortError) -> DequeueEnd {
        let count = unsafe IOThread.currentReference._withUnsafeGuaranteedRef { me in
            unsafe dequeueQuickly(into: out, me)
        }
        if count > 0 { return .packets(count) }
        return unsafe try dequeueSlowly(into: out, deadline, alertable: alertable, IOThread.current)
    }

    /// The thread is running for this port, its ring has completions, and nothing older is queued: no lock needed.
    @inline(__always)
    private func dequeueQuickly(into out: UnsafeMutableBufferPointer<Packet>, _ me: IOThread) -> Int {
        guard me.isTied(to: self), let slot = unsafe me.leasedReference, queuedMirror.load(ordering: .relaxed) == 0,
            runningMirror.load(ordering: .relaxed) <= limit, !closedMirror.load(ordering: .relaxed)
        else { return 0 }
        return unsafe slot._withUnsafeGuaranteedRef { slot in
            guard slot.submitter.completionsReady > 0 || slot.submitter.needsEnter else { return 0 }
            slot.submit()
            let count = unsafe harvestDirectly(slot, into: out, me)
            if count > 0 {
                if slot.submitter.completionsReady >= 8 { callForHelp(slot, me) }
                Observer.noteDeparture()
            }
            return count
        }
    }

    @inline(__always)
    private func harvestDirectly(_ slot: Slot, into out: UnsafeMutableBufferPointer<Packet>, _ me: IOThread) -> Int {
        var total = 0
        while total < out.count {
            let room = min(out.count - total, IOThread.scratchCapacity)
            let count = unsafe Engine.harvest(slot, into: me.scratch, capacity: room, directly: true, me)
            for index in 0..<count {
                unsafe (out.baseAddress! + total + index).initialize(to: Packet(me.scratch[index]))
            }
            total += count
            if count < room { break }
        }
        if !me.graveyard.isEmpty { me.buryDead() }
        return total
    }

    /// Many completions wait behind this thread while others could run: wake one, not more than every 200 µs, since
    /// waking costs more than a few completions.
    @inline(never)
    private func callForHelp(_ slot: Slot, _ me: IOThread) {
        guard waitingMirror.load(ordering: .relaxed) > 0, runningMirror.load(ordering: .relaxed) < limit
        else {
            return
        }
        let now = iocp_now_ns()
        lock.lock()
        if now - lastHelp > 200_000, !isClosed {
            lastHelp = now
            absorb(slot, me, atMost: 1)
        }
        publish()
        unlockAndWake()
    }

    @inline(never)
    private func dequeueSlowly(
        into out: UnsafeMutableBufferPointer<Packet>, _ deadline: Deadline, alertable: Bool, _ me: IOThread
    ) throws(PortError) -> DequeueEnd {
        guard !closedMirror.load(ordering: .relaxed) else { throw .portClosed }
        if !me.isTied(to: self) {
            // b21: before the thread is tied to the port, its calls come first, and do not tie it.
            if alertable, me.hasCalls {
                IOThread.runQueuedCalls()
                return .callsRan
            }
            me.core?.leave(me)
            me.tie(to: self)
        }
        if deadline.isImmediate || queuedMirror.load(ordering: .relaxed) > 0 {
            unsafe me.leasedReference?._withUnsafeGuaranteedRef { _ = $0.submit() }
        }

        lock.lock()
        guard !isClosed else {
            lock.unlock()
            throw .portClosed
        }
        unsafe scheduler.beginRemoval(me.state)
        if unsafe me.leasedReference == nil { _ = leaseFree(for: me) }
        collect(me, atMost: out.count)
        if unsafe scheduler.take(me.state) {
            let count = unsafe fill(out, first: packets.removeFirst())
            redistribute()
            unlockAndWake()
            me.buryDead()
            Observer.noteDeparture()
            return .packets(count)
        }
        if alertable, me.hasCalls {
            unsafe scheduler.resume(me.state)
            publish()
            unlockAndWake()
            me.buryDead()
            Observer.noteDeparture()
            IOThread.runQueuedCalls()
            return .callsRan
        }
        if deadline.isImmediate {
            unsafe scheduler.resume(me.state)
            publish()
            unlockAndWake()
            me.buryDead()
            Observer.noteDeparture()
            return .timedOut
        }
        return unsafe try wait(into: out, deadline, alertable: alertable, me)
    }

    /// What could be taken without sleeping: the thread's own ring, then those of busy threads and of nobody.
    private func collect(_ me: IOThread, atMost most: Int) {
        if let own = unsafe me.leasedReference {
            unsafe own._withUnsafeGuaranteedRef {
                // What others took from the ring is in the queue by now.
                $0.isDiverted = false
                if $0.hasCompletions { gather($0, me, atMost: most) }
            }
        }
        if scheduler.queued > 0 || slots.count == 1 { return }
        for slot in slots where slot.hasCompletions && !slot.isWatched {
            if gather(slot, me, atMost: most) > 0 { return }
        }
    }

    /// Initializes a prefix of `out` with a packet that was taken and as many more as are there. Returns the length.
    private func fill(_ out: UnsafeMutableBufferPointer<Packet>, first: PacketEntry) -> Int {
        let more = scheduler.takeMore(atMost: out.count - 1)
        unsafe out.baseAddress!.initialize(to: Packet(first))
        for index in 0..<more {
            unsafe (out.baseAddress! + 1 + index).initialize(to: Packet(packets.removeFirst()))
        }
        return more + 1
    }

    /// Sleeps until a packet is handed over, the deadline, a call, or the end of the port. Entered with the lock held.
    private func wait(
        into out: UnsafeMutableBufferPointer<Packet>, _ deadline: Deadline, alertable: Bool, _ me: IOThread
    ) throws(PortError) -> DequeueEnd {
        unsafe scheduler.wait(me.state)
        me.delivery = .none
        while true {
            publish()
            let slot = me.leasedSlot
            unlockAndWake()
            if !me.graveyard.isEmpty { me.buryDead() }

            let mayBeInterrupted = alertable ? me.becomeAlertable(in: self) : true
            var wasWoken = false
            if mayBeInterrupted {
                if let slot { wasWoken = me.sleep(in: slot, deadline) } else { wasWoken = me.park(deadline) }
            }
            if alertable { me.endAlertable() }

            lock.lock()
            if unsafe me.state.pointee.isWaiting, let slot, slot.submitter.completionsReady > 0 {
                // As many as this thread can take if it is the next to run; all of them if it goes back to sleep.
                let takes = unsafe scheduler.canRunAnother && scheduler.isNewest(me.state)
                gather(slot, me, atMost: takes ? out.count : .max)
                if scheduler.queued > 0 && scheduler.canRunAnother, takes, unsafe scheduler.handOver() != nil {
                    let count = unsafe fill(out, first: packets.removeFirst())
                    redistribute()
                    unlockAndWake()
                    if !me.graveyard.isEmpty { me.buryDead() }
                    Observer.noteDeparture()
                    return .packets(count)
                }
                redistribute()
            }
            switch me.delivery {
            case .none:
                if alertable, me.hasCalls {
                    unsafe scheduler.withdraw(me.state)
                    publish()
                    unlockAndWake()
                    Observer.noteDeparture()
                    IOThread.runQueuedCalls()
                    return .callsRan
                }
                if deadline.remaining == 0 {
                    unsafe scheduler.withdraw(me.state)
                    publish()
                    unlockAndWake()
                    Observer.noteDeparture()
                    return .timedOut
                }
                if me.leasedSlot == nil { _ = leaseFree(for: me) }
            case .packet(let entry):
                me.delivery = .none
                let count = unsafe fill(out, first: entry)
                publish()
                unlockAndWake()
                if !wasWoken { me.awaitWakeUp() }
                Observer.noteDeparture()
                return .packets(count)
            case .calls:
                me.delivery = .none
                unlockAndWake()
                if !wasWoken { me.awaitWakeUp() }
                Observer.noteDeparture()
                IOThread.runQueuedCalls()
                return .callsRan
            case .abandoned:
                me.delivery = .none
                unlockAndWake()
                if !wasWoken { me.awaitWakeUp() }
                throw .abandoned
            }
        }
    }

    /// Waits until a packet is queued, consuming nothing (b27). The port's end satisfies the wait too (b29).
    func waitUntilQueued(_ deadline: Deadline) throws(PortError) -> Bool {
        let me = IOThread.current
        if depth > 0 { return true }
        lock.lock()
        guard !isClosed else {
            lock.unlock()
            throw .portClosed
        }
        if deadline.isImmediate {
            let isQueued = scheduler.queued > 0
            lock.unlock()
            return isQueued
        }
        watchers.add(1, ordering: .sequentiallyConsistent)
        lock.unlock()
        var satisfied = false
        me.blocking {
            while true {
                let generation = watchWord.load(ordering: .sequentiallyConsistent)
                lock.lock()
                satisfied = scheduler.queued > 0 || isClosed
                lock.unlock()
                if satisfied { break }
                let left = deadline.remaining
                if left == 0 { break }
                futexWait(watchWord, while: generation, nanoseconds: left)
            }
        }
        watchers.subtract(1, ordering: .sequentiallyConsistent)
        return satisfied
    }

    // MARK: Submitting

    /// The slot for a thread that leases none: one that somebody watches or will come back to, else each in turn.
    func foreignSlot() -> Slot {
        if slots.count == 1 { return slots[0] }
        for slot in slots where slot.isWatched { return slot }
        for slot in slots where slot.owner.load(ordering: .relaxed) != 0 { return slot }
        return slots[Int(nextForeignSlot.wrappingAdd(1, ordering: .relaxed).oldValue) % slots.count]
    }

    /// Counters for tests and statistics.
    var snapshot: (queued: Int, running: Int, waiting: Int, inFlight: Int) {
        lock.lock()
        defer { lock.unlock() }
        let inFlight = slots.reduce(0) { $0 + $1.inFlight.load(ordering: .relaxed) }
        return (scheduler.queued, scheduler.running, scheduler.waiting, inFlight)
    }
}
