internal import CIOCPSupport
internal import Glibc
internal import Synchronization

/// One thread of the process that looks after what no dequeuing thread looks after.
///
/// - Rings that nobody leases but that have operations in flight: it waits for them with epoll, armed once each.
/// - Threads that are out in user code with something behind them: while there are any it ticks, hands their
///   unsubmitted entries to the kernel and their completions to idle threads; otherwise it sleeps without waking up.
///
/// It is started with the first port. It takes no part in the ordinary course of a server whose threads keep dequeuing.
final class Observer: @unchecked Sendable {
    // Unchecked: `lock` guards the tables; the rest is constant or atomic.

    /// The process's; another one after a fork, since the thread stays behind, and what it waits with is the parent's.
    private(set) nonisolated(unsafe) static var shared = Observer(after: nil)

    /// After something had to be handed on, so many ticks come this often. What they find does not prolong it: a thread
    /// that is preempted looks, to ticks this quick, like one that computes, and under load would keep them going.
    private static let troubledInterval: Int64 = 1_000_000
    private static let troubledTicks = 50
    /// What the kernel refuses is tried again no less often.
    private static let refusedInterval: Int64 = 10_000_000
    /// Failures of the wait in a row, until the thread pauses.
    private static let mostFailedWaits = 16
    /// Ticks without anything to look after before the ticking ends.
    private static let quietTicks = 20
    private static let batch: Int32 = 16

    /// Made, under `lock`, before the first port exists, and constant from then on.
    private var epoll: Int32 = -1
    private var doorbell: Int32 = -1
    private var timer: Int32 = -1
    private let lock = FutexLock()
    /// Under `lock`, like the setting of the timer.
    private var clock = TickClock()
    private var cores: [PortCore] = []
    private var homes: [UInt64: (core: PortCore, slotIndex: Int)] = [:]
    private var isStarted = false
    /// Nanoseconds between two looks at busy threads: what the most demanding of the ports asks for.
    private let interval = Atomic<Int64>(0)

    /// How often the thread has looked, or everybody was seen to come and go.
    static let sight = Atomic<UInt32>(0)
    /// When dequeuing threads are to ask whether a look can be put off: not before that time, and not before the
    /// processor's own counter has gone on by this much since somebody asked: 0.2 to 0.5 ms.
    private let nextQuestion = Atomic<Int64>(.max)
    private static let lastQuestionTicks = Atomic<UInt64>(0)
    private static let ticksBetweenQuestions: UInt64 = 1_000_000

    /// 1 while the thread does not tick and nobody has asked it to.
    private static let isAsleep = Atomic<Bool>(true)
    /// Whether it looks at nothing until somebody rings.
    static var isAtRest: Bool { isAsleep.load(ordering: .sequentiallyConsistent) }
    /// Wake-ups of the thread, for tests: an idle port causes none.
    static let wakeUps = Atomic<Int>(0)

    /// That of the process that this one was forked from. It may have been in the middle of a change, and its ports must
    /// not go: it is kept as it is, for good.
    private let parent: Observer?

    private init(after parent: Observer?) {
        self.parent = parent
        iocp_set_child_handler { Observer.startOver() }
    }

    /// This process is the child of a fork, and this its only thread: nothing that the parent looks after is ours.
    private static func startOver() {
        let old = unsafe shared
        if old.epoll >= 0 { _ = iocp_close(old.epoll) }
        if old.doorbell >= 0 { _ = iocp_close(old.doorbell) }
        if old.timer >= 0 { _ = iocp_close(old.timer) }
        unsafe shared = Observer(after: old)
        isAsleep.store(true, ordering: .sequentiallyConsistent)
        IOThread.noteFork()
        Engine.noteFork()
    }

    /// Keeps the port until it is forgotten: when its last reference is closed and its last file is gone.
    ///
    /// Throws if descriptors, memory or threads are short. Nothing is kept then, and the next port tries again.
    func watch(_ core: PortCore) throws(PortError) {
        lock.lock()
        defer { lock.unlock() }
        try start()
        for slot in core.slots where !slot.isOwned {
            // Disarmed for now.
            let result = iocp_epoll_set(epoll, true, slot.fileDescriptor, false, true, slot.identifier)
            guard result == 0 else { throw .unwatched(-result) }
        }
        for (index, slot) in core.slots.enumerated() { homes[slot.identifier] = (core, index) }
        cores.append(core)
        agreeOnInterval()
        // The look to come may be as far away as the other ports allow.
        if clock.hasten(at: iocp_now_ns(), every: interval.load(ordering: .relaxed)) { setTimer() }
    }

    func forget(_ core: PortCore) {
        lock.lock()
        for slot in core.slots { homes[slot.identifier] = nil }
        cores.removeAll { $0 === core }
        agreeOnInterval()
        lock.unlock()
    }

    /// Under `lock`.
    private func agreeOnInterval() {
        interval.store(min(1_000_000_000, cores.map(\.monitorInterval).min() ?? 0), ordering: .relaxed)
    }

    /// Looks at the slot once it has completions, once.
    func arm(_ slot: Slot) {
        slot.isArmed.store(true, ordering: .sequentiallyConsistent)
        let result = iocp_epoll_set(epoll, false, slot.fileDescriptor, true, true, slot.identifier)
        if result < 0 {
            // The ticks try again.
            slot.isArmed.store(false, ordering: .sequentiallyConsistent)
            slot.takeBack()
            slot.noteRefusal(result)
        }
    }

    /// A thread has deferred an entry, or goes out into user code. Costs a load unless the observer sleeps: the fence
    /// between what the thread did and this look is the observer's, or that of the lock which the thread released.
    @inline(__always)
    static func noteDeparture() {
        iocp_compiler_fence()
        if isAsleep.load(ordering: .sequentiallyConsistent) { unsafe shared.ring() }
    }

    /// A thread has dequeued and goes out into user code. Now and then it looks whether everybody comes and goes: then the
    /// monitor need not look yet. Costs a look at the processor's counter.
    @inline(__always)
    static func noteVisit() {
        let ticks = iocp_ticks()
        if ticks > 0, ticks &- lastQuestionTicks.load(ordering: .relaxed) < ticksBetweenQuestions { return }
        lastQuestionTicks.store(ticks, ordering: .relaxed)
        unsafe shared.putOff(at: iocp_now_ns())
    }

    /// Puts the monitor's look off if it would find nothing.
    @inline(never)
    func putOff(at now: Int64) {
        guard now >= nextQuestion.load(ordering: .relaxed), lock.tryLock() else { return }
        defer { lock.unlock() }
        let interval = interval.load(ordering: .relaxed)
        nextQuestion.store(now + interval / 4, ordering: .relaxed)
        guard clock.isTicking, cores.allSatisfy({ $0.isCalm }) else { return }
        for core in cores { core.noteCalm() }
        Self.sight.add(1, ordering: .relaxed)
        if clock.allCameBy(at: now, every: interval) { setTimer() }
    }

    /// Under `lock`.
    private func setTimer() {
        iocp_timer_set(timer, clock.isTicking ? clock.next : 0)
        nextQuestion.store(clock.nextQuestion(every: interval.load(ordering: .relaxed)), ordering: .relaxed)
    }

    @inline(never)
    private func ring() {
        guard Self.isAsleep.exchange(false, ordering: .sequentiallyConsistent) else { return }
        // Unheard, it is rung again by the next.
        if !iocp_eventfd_signal(doorbell) { Self.isAsleep.store(true, ordering: .sequentiallyConsistent) }
    }

    /// Makes the descriptors and the thread, if there are none yet: all of them, or nothing. Under `lock`.
    private func start() throws(PortError) {
        guard !isStarted else { return }
        do throws(PortError) {
            try makeDescriptors()
            let result = unsafe iocp_start_thread("iocp-monitor") { unsafe Observer.shared.run() }
            guard result == 0 else {
                throw PortError(
                    result == EAGAIN ? .insufficientResources : CompletionStatus(errnoCode: result),
                    "the library's own thread cannot be started (errno \(result)); end some threads, or raise "
                        + "RLIMIT_NPROC (ulimit -u) or the cgroup's pids.max")
            }
        } catch {
            if epoll >= 0 { _ = iocp_close(epoll) }
            if doorbell >= 0 { _ = iocp_close(doorbell) }
            if timer >= 0 { _ = iocp_close(timer) }
            epoll = -1
            doorbell = -1
            timer = -1
            throw error
        }
        isStarted = true
    }

    private func makeDescriptors() throws(PortError) {
        epoll = iocp_epoll_create()
        guard epoll >= 0 else { throw .noDescriptors(-epoll) }
        doorbell = iocp_eventfd()
        guard doorbell >= 0 else { throw .noDescriptors(-doorbell) }
        timer = iocp_timer()
        guard timer >= 0 else { throw .noDescriptors(-timer) }
        for (descriptor, identifier) in [(doorbell, Self.doorbellIdentifier), (timer, Self.timerIdentifier)] {
            let watched = iocp_epoll_set(epoll, true, descriptor, true, false, identifier)
            guard watched == 0 else { throw .unwatched(-watched) }
        }
    }

    private static let doorbellIdentifier: UInt64 = 0
    private static let timerIdentifier = UInt64.max

    private func run() -> Never {
        let me = IOThread.current
        var quiet = 0
        var troubled = 0
        var isHurried = false
        var failedWaits = 0
        let ready = UnsafeMutablePointer<UInt64>.allocate(capacity: Int(Self.batch))
        while true {
            let count = unsafe iocp_epoll_wait(epoll, ready, Self.batch)
            Self.wakeUps.add(1, ordering: .relaxed)
            failedWaits = count < 0 ? failedWaits + 1 : 0
            if failedWaits >= Self.mostFailedWaits { me.pause(nanoseconds: Self.troubledInterval) }
            for index in 0..<max(0, Int(count)) {
                switch unsafe ready[index] {
                case Self.doorbellIdentifier:
                    iocp_eventfd_clear(doorbell)
                    startTicking()
                    quiet = 0
                // It is set anew, or off, below.
                case Self.timerIdentifier: break
                case let identifier: look(at: identifier, me)
                }
            }
            // What is ready in between does not hurry the ticks.
            let now = iocp_now_ns()
            guard isDue(at: now) else { continue }
            troubled = max(0, troubled - 1)
            let findings = tickAll(me, isHurried: isHurried)
            var goesOn = true
            switch findings {
            case .trouble:
                quiet = 0
                if !isHurried { troubled = Self.troubledTicks }
            case .refusal, .something:
                quiet = 0
            case .nothing:
                quiet += 1
                if quiet >= Self.quietTicks {
                    // Declared asleep first, then looked again: whoever departs from now on rings the bell.
                    Self.isAsleep.store(true, ordering: .sequentiallyConsistent)
                    // And whoever has looked before this fence is seen; refused the fence, the thread goes on ticking.
                    let isSeen = iocp_membarrier() || !iocp_has_membarrier()
                    if tickAll(me, isHurried: isHurried) > .nothing || !isSeen {
                        if Self.isAsleep.exchange(false, ordering: .sequentiallyConsistent) { quiet = 0 }
                    } else {
                        goesOn = false
                    }
                }
            }
            isHurried = troubled > 0
            let longest = isHurried ? Self.troubledInterval : findings == .refusal ? Self.refusedInterval : .max
            endTick(at: now, findings, goesOn: goesOn, longestPause: longest)
        }
    }

    private func startTicking() {
        lock.lock()
        if !clock.isTicking {
            clock.start(at: iocp_now_ns(), every: interval.load(ordering: .relaxed))
            setTimer()
        }
        lock.unlock()
    }

    private func isDue(at now: Int64) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        return now >= clock.next
    }

    private func endTick(at now: Int64, _ findings: PortCore.Findings, goesOn: Bool, longestPause: Int64) {
        lock.lock()
        let interval = interval.load(ordering: .relaxed)
        if goesOn {
            clock.looked(
                at: now, pause: min(interval, longestPause), every: interval, foundTrouble: findings == .trouble)
        } else {
            clock.stop()
        }
        setTimer()
        lock.unlock()
    }

    private func look(at identifier: UInt64, _ me: IOThread) {
        lock.lock()
        let home = homes[identifier]
        lock.unlock()
        guard let (core, index) = home else { return }
        let slot = core.slots[index]
        slot.isArmed.store(false, ordering: .sequentiallyConsistent)
        if core.observe(slot, me) { arm(slot) }
    }

    private func tickAll(_ me: IOThread, isHurried: Bool) -> PortCore.Findings {
        lock.lock()
        let living = cores
        // Threads that leave from now on have been seen by no look.
        Self.sight.add(1, ordering: .relaxed)
        lock.unlock()
        var findings = PortCore.Findings.nothing
        for core in living { findings = max(findings, core.tick(me, isHurried: isHurried)) }
        return findings
    }
}
