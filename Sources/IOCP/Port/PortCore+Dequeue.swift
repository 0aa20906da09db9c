internal import CIOCPSupport
internal import IOUring
internal import Synchronization

/// Dequeuing, with and without the lock, and the waits.
extension PortCore {
    enum DequeueEnd {
        case packets(Int)
        case timedOut
        case callsRan
    }

    /// Removes packets into `out`, waiting for the first one until the deadline.
    func dequeue(
        into out: UnsafeMutableBufferPointer<Packet>, _ deadline: Deadline, alertable: Bool
    ) throws(PortError) -> DequeueEnd {
        unsafe try IOThread.currentReference.lend { (me) throws(PortError) in
            let count = unsafe dequeueQuickly(into: out, me)
            if count > 0 { return .packets(count) }
            return unsafe try dequeueSlowly(into: out, deadline, alertable: alertable, me)
        }
    }

    /// The thread is running for this port, packets are queued, and nothing waits in its ring, in either direction, if it
    /// has one: it takes the oldest and keeps its place.
    @inline(__always)
    func takeQuickly() -> PacketEntry? {
        guard isQueuedMirror.load(ordering: .relaxed) else { return nil }
        return unsafe IOThread.currentReference._withUnsafeGuaranteedRef { me in
            guard me.isTied(to: self) else { return nil }
            // Of more threads than rings, those that start nothing have none.
            let slot = unsafe me.leasedReference
            if let slot = unsafe slot, unsafe !slot._withUnsafeGuaranteedRef({ $0.isQuiet }) { return nil }
            lock.lock()
            guard !isUnusual, scheduler.queued > 0, !scheduler.runsTooMany, unsafe me.state.pointee.isCounted
            else {
                lock.unlock()
                return nil
            }
            _ = scheduler.takeMore(atMost: 1)
            let entry = packets.removeFirst()
            if scheduler.queued == 0 {
                isQueuedMirror.store(false, ordering: .relaxed)
                quickMirror.store(true, ordering: .relaxed)
            }
            lock.unlock()
            me.noteQuickVisit()
            unsafe slot?._withUnsafeGuaranteedRef { _ = $0.endRound() }
            return entry
        }
    }

    /// The thread is running for this port, its ring has completions, and nothing older is queued: no lock needed.
    @inline(__always)
    func dequeueQuickly(into out: UnsafeMutableBufferPointer<Packet>, _ me: IOThread) -> Int {
        guard me.isTied(to: self), let slot = unsafe me.leasedReference, mayTakeDirectly,
            !isClosed
        else { return 0 }
        return unsafe slot._withUnsafeGuaranteedRef { slot in
            guard slot.submitter.completionsReady > 0 || slot.submitter.needsEnter else { return 0 }
            me.noteVisit()
            let manyReady = slot.endRound()
            slot.submit()
            let count = unsafe harvestDirectly(slot, into: out, me)
            if count > 0 {
                if slot.submitter.completionsReady >= manyReady { callForHelp(slot, me) }
                Observer.noteDeparture()
                Observer.noteVisit()
            }
            return count
        }
    }

    @inline(__always)
    func harvestDirectly(_ slot: Slot, into out: UnsafeMutableBufferPointer<Packet>, _ me: IOThread) -> Int {
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

    /// Completions wait behind this thread, for long, while others could run: wake one, not more than every 200 µs, since
    /// waking costs more than a few completions.
    @inline(never)
    func callForHelp(_ slot: Slot, _ me: IOThread) {
        guard waitingMirror.load(ordering: .relaxed) > 0, runningMirror.load(ordering: .relaxed) < limit
        else {
            return
        }
        let now = iocp_now_ns()
        if now - lastHelp.load(ordering: .relaxed) <= Self.helpPause { return }
        lock.lock()
        if !isClosed, absorb(slot, me, atMost: 1) > 0 { lastHelp.store(now, ordering: .relaxed) }
        publish()
        unlockAndWake()
        // What follows on what was taken: the thread may not come back for long.
        if slot.unsubmittedRequests > 0 { slot.submit() }
        if !me.graveyard.isEmpty { me.buryDead() }
    }

    private static let helpPause: Int64 = 200_000

    @inline(never)
    func dequeueSlowly(
        into out: UnsafeMutableBufferPointer<Packet>, _ deadline: Deadline, alertable: Bool, _ me: IOThread
    ) throws(PortError) -> DequeueEnd {
        guard !closedMirror.load(ordering: .relaxed) else {
            untie(me)
            throw closedError
        }
        var joins = false
        if !me.isTied(to: self) {
            // b21: before the thread is tied to the port, its calls come first, and do not tie it.
            if alertable, me.hasCalls {
                IOThread.runQueuedCalls()
                return .callsRan
            }
            if isSingleConsumer { try becomeConsumer(me) }
            me.core?.leave(me)
            me.tie(to: self)
            joins = true
        }
        me.isOut.store(false, ordering: .relaxed)
        defer { me.isOut.store(true, ordering: .relaxed) }
        me.noteVisit()
        unsafe me.leasedReference?._withUnsafeGuaranteedRef { own in
            own.endRound()
            // Also before it takes what others have in their rings: it would leave its own work to them, and all would
            // pass theirs round.
            if deadline.isImmediate || isQueuedMirror.load(ordering: .relaxed)
                || !own.hasCompletions && own.unsubmittedRequests > 0 && hasCompletionsElsewhere(than: own)
            {
                own.submit()
            }
        }

        lock.lock()
        guard !isClosed else {
            lock.unlock()
            if joins { me.tie(to: nil) }
            throw closedError
        }
        if joins { unsafe scheduler.join(me.state) }
        unsafe scheduler.beginRemoval(me.state)
        recheckBlocked()
        if unsafe me.leasedReference == nil { _ = leaseFree(for: me) }
        collect(me, atMost: out.count)
        if unsafe scheduler.take(me.state) {
            let count = unsafe fill(out, first: packets.removeFirst())
            redistribute()
            unlockAndWake()
            me.buryDead()
            Observer.noteDeparture()
            Observer.noteVisit()
            return .packets(count)
        }
        packets.trim()
        if alertable, me.hasCalls {
            unsafe scheduler.resume(me.state)
            publish()
            unlockAndWake()
            me.buryDead()
            return runCalls(me)
        }
        if deadline.isImmediate {
            unsafe scheduler.resume(me.state)
            publish()
            unlockAndWake()
            me.buryDead()
            Observer.noteDeparture()
            Observer.noteVisit()
            return .timedOut
        }
        return unsafe try wait(into: out, deadline, alertable: alertable, me)
    }

    /// Whether there are completions that a dequeuing thread would take from a ring that is not its own.
    @inline(__always)
    private func hasCompletionsElsewhere(than own: Slot) -> Bool {
        slots.count > 1 && slots.contains { $0 !== own && $0.offersCompletions }
    }

    /// What could be taken without sleeping: the thread's own ring, then those of busy threads and of nobody.
    func collect(_ me: IOThread, atMost most: Int) {
        if let own = unsafe me.leasedReference {
            unsafe own._withUnsafeGuaranteedRef {
                // What others took from the ring is in the queue by now.
                $0.isDiverted.store(false, ordering: .relaxed)
                if $0.hasCompletions { gather($0, me, atMost: most) }
            }
        }
        if scheduler.queued > 0 || slots.count == 1 { return }
        for slot in slots where slot.offersCompletions {
            if gather(slot, me, atMost: most) > 0 { return }
        }
    }

    /// Initializes a prefix of `out` with a packet that was taken and as many more as are there. Returns the length.
    func fill(_ out: UnsafeMutableBufferPointer<Packet>, first: PacketEntry) -> Int {
        let more = scheduler.takeMore(atMost: out.count - 1)
        unsafe out.baseAddress!.initialize(to: Packet(first))
        for index in 0..<more {
            unsafe (out.baseAddress! + 1 + index).initialize(to: Packet(packets.removeFirst()))
        }
        return more + 1
    }

    /// How long a thread stands back from a ring with the wake-up of another.
    private static let standBackPause: Int64 = 50_000

    /// Sleeps until a packet is handed over, the deadline, a call, or the end of the port. Entered with the lock held.
    func wait(
        into out: UnsafeMutableBufferPointer<Packet>, _ deadline: Deadline, alertable: Bool, _ me: IOThread
    ) throws(PortError) -> DequeueEnd {
        unsafe scheduler.wait(me.state)
        me.delivery = .none
        var standsBack = false
        while true {
            publish()
            // Uncounted, as the port outlives the call: what is counted after a sleep is paid for dearly.
            let slot = unsafe me.leasedReference
            // Behind threads that may have been blocked for long, with nobody to wait: the monitor has gone to sleep then.
            let isHeldUp = scheduler.queued > 0
            unlockAndWake()
            if isHeldUp { Observer.noteDeparture() }
            if !me.graveyard.isEmpty { me.buryDead() }

            let mayBeInterrupted = alertable ? me.becomeAlertable(in: self) : true
            var wasWoken = false
            if mayBeInterrupted {
                if let slot = unsafe slot, !standsBack {
                    wasWoken = unsafe slot._withUnsafeGuaranteedRef { me.sleep(in: $0, deadline) }
                } else {
                    wasWoken = me.park(standsBack ? deadline.atMost(nanoseconds: Self.standBackPause) : deadline)
                }
            }
            if alertable { me.endAlertable() }

            lock.lock()
            if unsafe me.state.pointee.isWaiting, let slot = unsafe slot,
                unsafe slot._withUnsafeGuaranteedRef({ $0.submitter.completionsReady }) > 0
            {
                // As many as this thread can take if it is the next to run; all of them if it goes back to sleep.
                let takes = unsafe scheduler.canRunAnother && scheduler.isNewest(me.state)
                _ = unsafe slot._withUnsafeGuaranteedRef { gather($0, me, atMost: takes ? out.count : .max) }
                if scheduler.queued > 0 && scheduler.canRunAnother, takes, unsafe scheduler.handOver() != nil {
                    let count = unsafe fill(out, first: packets.removeFirst())
                    redistribute()
                    unlockAndWake()
                    if !me.graveyard.isEmpty { me.buryDead() }
                    return leaves(me, with: count)
                }
                redistribute()
                // At the ring's head is the wake-up of another sleeper, who has yet to see it: until then the ring is no
                // place to sleep.
                standsBack = unsafe slot._withUnsafeGuaranteedRef { $0.isWatched && $0.submitter.completionsReady > 0 }
            } else {
                standsBack = false
            }
            switch me.delivery {
            case .none:
                if alertable, me.hasCalls {
                    unsafe scheduler.withdraw(me.state)
                    publish()
                    unlockAndWake()
                    return runCalls(me)
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
                return leaves(me, with: count)
            case .calls:
                me.delivery = .none
                unlockAndWake()
                if !wasWoken { me.awaitWakeUp() }
                return runCalls(me)
            case .abandoned:
                me.delivery = .none
                unlockAndWake()
                if !wasWoken { me.awaitWakeUp() }
                untie(me)
                throw .abandoned
            }
        }
    }

    /// A thread that has slept leaves with packets.
    private func leaves(_ me: IOThread, with count: Int) -> DequeueEnd {
        me.noteVisit()
        Observer.noteDeparture()
        Observer.noteVisit()
        return .packets(count)
    }

    /// The calls of a thread whose wait they have ended: it is in user code already (d12).
    private func runCalls(_ me: IOThread) -> DequeueEnd {
        me.isOut.store(true, ordering: .relaxed)
        Observer.noteDeparture()
        IOThread.runQueuedCalls()
        return .callsRan
    }

    /// Waits until a packet is queued, consuming nothing (b27). The port's end satisfies the wait too (b29).
    func waitUntilQueued(_ deadline: Deadline) throws(PortError) -> Bool {
        try refuseIfInherited()
        let me = IOThread.current
        if depth > 0 { return true }
        lock.lock()
        guard !isClosed else {
            lock.unlock()
            throw closedError
        }
        if deadline.isImmediate {
            let isQueued = scheduler.queued > 0
            lock.unlock()
            return isQueued
        }
        watchers.add(1, ordering: .sequentiallyConsistent)
        publish()
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
                IOThread.sleep(on: watchWord, while: generation, nanoseconds: left)
            }
        }
        watchers.subtract(1, ordering: .sequentiallyConsistent)
        return satisfied
    }
}
