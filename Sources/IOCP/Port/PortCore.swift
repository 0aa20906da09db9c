internal import CIOCPSupport
internal import IOUring
internal import Synchronization

/// The port object: the scheduler's decisions carried out over rings.
///
/// Locks, outermost first: the observer's, this port's `lock`, a slot's `lock`, a file object's `lock`. (The slot of the
/// port that carries operations of unassociated files comes before the lock of the port that their packets go to; it has
/// no waiters of its own, so nothing takes them in the other order.) Nothing is woken and no user code runs under a lock.
@safe final class PortCore: @unchecked Sendable {
    // Unchecked: `lock` guards the scheduler, the packets and the leases; the rest is atomic or constant.

    let lock = FutexLock()
    /// What every post and every dequeue touches under it, together.
    private struct Core: ~Copyable {
        var packets = PacketQueue()
        var scheduler: Scheduler
    }
    private let guarded: Guarded<Core>
    let limit: Int
    /// Whether it carries the operations of files that have no port, or had none when they were started.
    let isHomeless: Bool
    var scheduler: Scheduler {
        @inline(__always) _read { yield guarded.value.scheduler }
        @inline(__always) _modify { yield &guarded.value.scheduler }
    }
    var packets: PacketQueue {
        @inline(__always) _read { yield guarded.value.packets }
        @inline(__always) _modify { yield &guarded.value.packets }
    }
    let guardedSlots: Guarded<[Slot]> = Guarded([])
    /// The places of registered files; nil if none were asked for. Constant once the port is made.
    private(set) var fileTable: FileTable?
    let bufferTable = BufferTable()
    /// Whether one thread does all dequeues. Then slot 0 may be its own, and the last one is anybody's.
    let isSingleConsumer: Bool
    /// Serial number of that thread; 0 while there is none.
    let consumer = Atomic<UInt32>(0)
    /// Constant once the port is made.
    var slots: [Slot] {
        @inline(__always) _read { yield guardedSlots.value }
    }
    /// Open references to the port (f2), and whether all are gone.
    var references = 1
    let birth = Birth()
    private var inheritedFlag: InheritedFlag?
    /// File objects that are associated with the port.
    var files = 0
    /// Closed, without files: for the observer to forget.
    let isRetired = Atomic<Bool>(false)
    /// Set by the closing of the last reference, and in the child of a fork.
    var isClosed: Bool { closedMirror.load(ordering: .relaxed) }
    /// Closed, or somebody has to be looked at before a packet is queued or taken, or told of it.
    private let unusualMirror = Atomic<Bool>(false)
    private var inheritedUnusualFlag: InheritedFlag?
    var isUnusual: Bool {
        @inline(__always) get { unusualMirror.load(ordering: .relaxed) }
    }

    // Mirrors of what the lock guards, for looks without it. Written under the lock.
    let isQueuedMirror = Atomic<Bool>(false)
    let runningMirror = Atomic<Int>(0)
    let waitingMirror = Atomic<Int>(0)
    let closedMirror = Atomic<Bool>(false)
    /// Whether a running thread may take from its own ring without the lock: nothing older is queued, the limit is kept,
    /// and nobody has to be looked at first.
    let quickMirror = Atomic<Bool>(true)
    var mayTakeDirectly: Bool {
        @inline(__always) get { quickMirror.load(ordering: .relaxed) }
    }

    /// Threads that wait for the port itself, not for a packet (b27): they sleep on the word. And `attendance`.
    let watchers = Atomic<Int>(0)
    /// Added while the attendant is to be told when packets are queued and no thread waits for them.
    static let attendance = 1 << 30
    /// They are to be woken once the lock is free.
    var wakesWatchers = false
    let watchWord = Atomic<UInt32>(0)

    /// Threads to be woken once the lock is free.
    var toWake: Unmanaged<IOThread>?
    /// Where to look for a ring for threads that lease none.
    let nextForeignSlot = Atomic<UInt32>(0)
    /// When a thread last found help for what had completed behind it, in nanoseconds.
    let lastHelp = Atomic<Int64>(0)

    // Threads that block elsewhere. Times in nanoseconds.
    /// Whether blocked threads are looked for.
    let seesBlocking: Bool
    /// How often the monitor is to look.
    let monitorInterval: Int64
    /// When holders of places may be looked at again, and how long after that.
    let nextLook = Atomic<Int64>(0)
    /// When somebody last asked for the time to look at them: by the processor's counter, or in nanoseconds without one.
    let lastLookTime = Atomic<UInt64>(0)
    /// Nobody asks again within that: between 3 and 20 µs by the counter, and 7 µs without one. Only tests change it.
    let quickSpell = Atomic<UInt64>(iocp_ticks() > 0 ? 20_000 : 7_000)
    var lookPause: Int64 = 0
    /// When those that were blocked may be looked at again, and how long after that.
    var nextRecheck: Int64 = 0
    var recheckPause: Int64 = 0

    /// A face that provides the threads, under the lock, and whether there is one.
    private var attendant: (any PortAttendant)?
    let isAttended = Atomic<Bool>(false)

    // For statistics, under the lock.
    var handOvers = 0
    var wakeUps = 0

    init(
        limit: Int, slotCount: Int, options: RingOptions, isHomeless: Bool = false, seesBlocking: Bool = true,
        monitorInterval: Int64 = 5_000_000, registeredFiles: Int = 0,
        isSingleConsumer: Bool = false
    ) throws(PortError) {
        self.limit = limit
        self.isHomeless = isHomeless
        self.isSingleConsumer = isSingleConsumer
        // Its starts enter the kernel at once, and no thread is tied to it.
        self.monitorInterval = isHomeless ? .max : monitorInterval
        self.seesBlocking = seesBlocking && !isHomeless && !isSingleConsumer && ThreadProbe.isAvailable
        guarded = Guarded(Core(scheduler: Scheduler(limit: limit)))
        do {
            if isSingleConsumer, let own = try Slot.forConsumer(of: self, options) { guardedSlots.value.append(own) }
            var options = options
            for index in slots.count..<slots.count + slotCount {
                // One thread polls all rings of a port.
                if let first = slots.first, first.isPolled { options.attachTo = first.fileDescriptor }
                guardedSlots.value.append(try Slot(of: self, index: index, options: options))
            }
        } catch {
            throw PortError(error)
        }
        if registeredFiles > 0 { fileTable = FileTable.make(for: slots, wanted: registeredFiles) }
        inheritedFlag = InheritedFlag(closedMirror)
        inheritedUnusualFlag = InheritedFlag(unusualMirror)
        try unsafe Observer.shared.watch(self)
    }

    deinit {
        inheritedFlag = nil
        inheritedUnusualFlag = nil
        // In the child of a fork, nobody knows in the middle of what the parent's threads were.
        if birth.isInherited { return }
        while packets.count > 0 {
            Engine.discard(packets.removeFirst(), graveyard: IOThread.current)
        }
        IOThread.current.buryDead()
    }

    // MARK: References

    func retainReference() throws(PortError) {
        lock.lock()
        defer { lock.unlock() }
        guard !isClosed else { throw closedError }
        references += 1
    }

    /// Why a closed port does nothing.
    var closedError: PortError { birth.isInherited ? .portOfParent : .portClosed }

    /// Fails in the child of a fork. What finds the port closed there need not ask.
    func refuseIfInherited() throws(PortError) {
        if birth.isInherited { throw .portOfParent }
    }

    /// One reference less. The last one ends every wait with "abandoned" (f2) and discards what nobody can read (f4).
    func releaseReference() {
        // In the child of a fork there is nothing to be done: waiters, packets and rings are the parent's.
        if birth.isInherited { return }
        let me = IOThread.current
        lock.lock()
        references -= 1
        guard references == 0 else {
            lock.unlock()
            return
        }
        let isDone = files == 0
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
        if isDone { retire() }
        untie(me)
        me.buryDead()
    }

    /// A file object is associated: its operations keep the port alive, and observed, after the last reference (f1).
    func addFile() throws(PortError) {
        lock.lock()
        defer { lock.unlock() }
        guard !isClosed else { throw closedError }
        files += 1
    }

    /// It is gone, with all of its operations.
    func removeFile() {
        if birth.isInherited { return }
        lock.lock()
        files -= 1
        let isDone = files == 0 && isClosed
        lock.unlock()
        if isDone { retire() }
    }

    /// Nothing can come any more: the observer forgets the port, once nobody is left to be woken whom the kernel refused to
    /// wake.
    func retire() {
        isRetired.store(true, ordering: .sequentiallyConsistent)
        if !slots.contains(where: \.needsRelief) { unsafe Observer.shared.forget(self) }
    }

    // MARK: Posting

    /// Queues a packet, or hands it to the newest waiter. Returns false if the port is closed.
    @inline(__always)
    func post(_ entry: PacketEntry) -> Bool {
        unsafe IOThread.currentReference._withUnsafeGuaranteedRef { post(entry, $0) }
    }

    @inline(__always)
    func post(_ entry: PacketEntry, _ me: IOThread) -> Bool {
        lock.lock()
        // Nobody waits for it, or nobody may run: it is queued.
        guard !isUnusual, scheduler.waiting == 0 || !scheduler.canRunAnother, !hasUnseenCompletions(me) else {
            return postSlowly(entry, me)
        }
        scheduler.insertBehind()
        packets.append(entry)
        let isHeldUp = scheduler.waiting > 0
        // Others look at these: they are written when they change.
        if scheduler.queued == 1 {
            isQueuedMirror.store(true, ordering: .relaxed)
            quickMirror.store(false, ordering: .relaxed)
        }
        lock.unlock()
        if isHeldUp { if me.takeSparedLook(at: self) { Observer.noteDeparture() } else { lookAtHolders(me) } }
        return true
    }

    /// Whether there are completions in the ring that the thread leases.
    @inline(__always)
    private func hasUnseenCompletions(_ me: IOThread) -> Bool {
        guard me.isTied(to: self), let slot = unsafe me.leasedReference else { return false }
        return unsafe slot._withUnsafeGuaranteedRef { $0.inFlight.load(ordering: .relaxed) > 0 && $0.hasCompletions }
    }

    /// Entered with the lock held.
    @inline(never)
    private func postSlowly(_ entry: PacketEntry, _ me: IOThread) -> Bool {
        guard !isClosed else {
            lock.unlock()
            return false
        }
        if me.isTied(to: self) {
            catchUp(with: me)
        }
        recheckBlocked()
        insert(entry)
        publish()
        let isHeldUp = scheduler.queued > 0 && scheduler.waiting > 0
        unlockAndWake()
        if !me.graveyard.isEmpty { me.buryDead() }
        if isHeldUp { lookAtHolders(me) }
        return true
    }

    /// The calling thread is about to queue a packet. What completed in its ring before comes before it: a thread must not
    /// see its own order changed (c8). And it runs, whatever it was seen to do. Under the lock.
    func catchUp(with me: IOThread) {
        guard !isClosed, me.isTied(to: self) else { return }
        if let slot = unsafe me.leasedReference {
            unsafe slot._withUnsafeGuaranteedRef {
                if $0.hasCompletions { absorb($0, me, atMost: .max) }
            }
        }
        if unsafe me.state.pointee.isBlocked { goesOnUnseen(me) }
    }

    /// A completion found by somebody who does not dequeue. Same as a post, but a closed port swallows it (f4).
    func deliver(_ entry: PacketEntry, _ me: IOThread) {
        lock.lock()
        deliverLocked(entry, me)
    }

    /// The same, entered with the lock held and left without.
    func deliverLocked(_ entry: PacketEntry, _ me: IOThread) {
        if isClosed {
            lock.unlock()
            Engine.discard(entry, graveyard: me)
            return
        }
        recheckBlocked()
        insert(entry)
        publish()
        unlockAndWake()
    }

    func insert(_ entry: PacketEntry) {
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

    func hand(_ entry: PacketEntry, to thread: IOThread) {
        thread.delivery = .packet(entry)
        wakeUps += 1
        lease(for: thread)
        enlist(thread)
    }

    func enlist(_ thread: IOThread) {
        unsafe thread.nextToWake = toWake
        unsafe toWake = Unmanaged.passRetained(thread)
    }

    func unlockAndWake() {
        var next = unsafe toWake
        unsafe toWake = nil
        let watched = wakesWatchers
        wakesWatchers = false
        lock.unlock()
        if watched { tellWatchers() }
        while let chained = unsafe next {
            let thread = unsafe chained.takeRetainedValue()
            unsafe next = thread.nextToWake
            unsafe thread.nextToWake = nil
            thread.wake(in: self)
        }
    }

    func publish() {
        // What is queued now was handed to no thread (b27, b28).
        if scheduler.queued > 0 && watchers.load(ordering: .relaxed) > 0 { wakesWatchers = true }
        isQueuedMirror.store(scheduler.queued > 0, ordering: .relaxed)
        runningMirror.store(scheduler.running, ordering: .relaxed)
        waitingMirror.store(scheduler.waiting, ordering: .relaxed)
        let isUnusual = isClosed || scheduler.seenBlocked > 0 || watchers.load(ordering: .relaxed) > 0
        unusualMirror.store(isUnusual, ordering: .relaxed)
        quickMirror.store(!isUnusual && scheduler.queued == 0 && !scheduler.runsTooMany, ordering: .relaxed)
    }

    /// Packets are queued: those who wait for that are woken.
    @inline(never)
    private func tellWatchers() {
        if watchers.load(ordering: .sequentiallyConsistent) % Self.attendance > 0 { wakeEveryWatcher() }
        if needsAttendant { presentAttendant?.packetsWait() }
    }

    func wakeEveryWatcher() {
        watchWord.add(1, ordering: .sequentiallyConsistent)
        futexWake(watchWord, count: .max)
    }

    // MARK: The attendant

    func attend(_ attendant: (any PortAttendant)?) {
        lock.lock()
        let before = self.attendant
        self.attendant = attendant
        isAttended.store(attendant != nil, ordering: .relaxed)
        lock.unlock()
        // Perhaps the last reference.
        withExtendedLifetime(before) {}
    }

    private var presentAttendant: (any PortAttendant)? {
        lock.lock()
        defer { lock.unlock() }
        return attendant
    }

    /// Whether it is to be told of packets, those that still lie in a ring among them.
    var needsAttendant: Bool {
        watchers.load(ordering: .sequentiallyConsistent) >= Self.attendance
            && waitingMirror.load(ordering: .relaxed) == 0
    }

    /// Whether it wants to be told. Only the attendant says so, one thread at a time.
    func setAttendance(_ wanted: Bool) {
        let isWanted = watchers.load(ordering: .sequentiallyConsistent) >= Self.attendance
        if wanted != isWanted {
            watchers.add(wanted ? Self.attendance : -Self.attendance, ordering: .sequentiallyConsistent)
        }
    }

    /// The attendant's look. Returns whether it is to look again.
    func letAttendantLook() -> Bool {
        isAttended.load(ordering: .relaxed) && presentAttendant?.look() == true
    }

    // MARK: Submitting

    /// The slot for a thread that leases none: one that somebody watches or will come back to, else each in turn.
    func foreignSlot() -> Slot {
        if slots.count == 1 || isSingleConsumer { return slots[slots.count - 1] }
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
