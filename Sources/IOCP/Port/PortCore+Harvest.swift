internal import CIOCPSupport
internal import IOUring
internal import Synchronization

/// Completions out of the rings: into the port's queue, to its waiters, or nowhere once the port is closed.
extension PortCore {
    /// Moves completions of a slot behind the packets that are queued. Returns how many packets it yielded.
    @discardableResult
    func gather(_ slot: Slot, _ me: IOThread, atMost most: Int) -> Int {
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

    /// Moves completions of a slot to waiters and, when no more may run, behind the queued packets. Returns how many packets
    /// it yielded.
    @discardableResult
    func absorb(_ slot: Slot, _ me: IOThread, atMost most: Int) -> Int {
        let count = gather(slot, me, atMost: most)
        if count > 0 { redistribute() }
        return count
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
        let isTaken = slot.submit()
        if seemsHeldUp { lookAtHolders(me) }
        me.buryDead()
        if !isTaken {
            // The monitor looks until the kernel takes it, and settles the ring then.
            slot.takeBack()
            return false
        }
        let isNobodys = slot.owner.load(ordering: .sequentiallyConsistent) == 0
        let isNeeded =
            (isLeftAlone || isNobodys) && slot.inFlight.load(ordering: .sequentiallyConsistent) > 0
        if isLeftAlone && isNeeded {
            slot.leaveAlone()
        } else {
            // Its wait is over: the ticks must not take the ring for one that is waited for, even if its thread comes and
            // goes without entering the kernel.
            slot.takeBack()
            // Its thread has entered the kernel since, or somebody for it: the ticks see whether it stays away.
            if !isLeftAlone, !isNobodys, !slot.isWatched { Observer.noteDeparture() }
        }
        return isNeeded
    }

    /// Completions of a port that nobody can read: events are set, records written, packets discarded (f4, f5).
    func swallow(_ slot: Slot, _ me: IOThread) {
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

    /// What a tick of the monitor found.
    enum Findings: Comparable {
        /// Nothing waits behind a thread that is out in user code.
        case nothing
        /// Something could, and is to be looked at again.
        case something
        /// The kernel refuses what a ring holds: to be tried again before long.
        case refusal
        /// Something did, and was handed on.
        case trouble
    }

    /// Whether the monitor would find nothing to hand on, since whoever could leave something behind has come by since
    /// the last sight.
    var isCalm: Bool {
        // Somebody else than a dequeuing thread is to see what comes.
        if watchers.load(ordering: .relaxed) > 0 || isAttended.load(ordering: .relaxed) { return false }
        if isRetired.load(ordering: .relaxed) { return false }
        lock.lock()
        defer { lock.unlock() }
        if isClosed { return false }
        let mayRun = scheduler.waiting > 0 && scheduler.canRunAnother
        for slot in slots {
            if slot.needsRelief { return false }
            let holder = unsafe slot.leaseholder
            let isVisited = unsafe holder?._withUnsafeGuaranteedRef { $0.hasVisited } ?? false
            if !isVisited, slot.unsubmittedRequests > 0 { return false }
            // Its sleepers see by themselves what completes.
            if slot.isWatched || slot.inFlight.load(ordering: .relaxed) == 0 { continue }
            if isVisited {
                // An idle thread could take them.
                if mayRun, slot.hasCompletions { return false }
            } else if unsafe holder != nil || !slot.isArmed.load(ordering: .relaxed) {
                return false
            }
        }
        // If packets are held up: no holder has been blocked for long.
        if !isHeldUp { return true }
        return unsafe scheduler.everyHolder { unsafe IOThread.from($0).hasVisited }
    }

    func noteCalm() {
        for slot in slots { slot.noteSight() }
    }

    /// The monitor's look at what may wait behind threads that are out in user code: entries that a thread left
    /// unsubmitted, completions in its ring while another thread could take them, packets while it holds a place and is
    /// blocked. A ring whose thread stays away is waited for from then on, as if nobody leased it.
    ///
    /// - Parameter isHurried: soon after something had to be handed on.
    func tick(_ me: IOThread, isHurried: Bool) -> Findings {
        var findings = Findings.nothing
        for slot in slots {
            if slot.isOwned {
                if slot.remindsOwner() { findings = max(findings, .refusal) }
                continue
            }
            let isLeased = slot.owner.load(ordering: .acquiring) != 0
            let isAway = slot.entriesAtLastTick.load(ordering: .relaxed) == slot.entries.load(ordering: .relaxed)
            slot.noteSight()
            if slot.needsRelief {
                findings = max(findings, .refusal)
                if slot.relieve() {
                    if !isLeased { settle(slot) }
                    findings = .trouble
                }
            } else if slot.unsubmittedRequests > 0 {
                findings = max(findings, .something)
                if isAway {
                    slot.relieve()
                    if !isLeased { settle(slot) }
                    findings = .trouble
                }
            }
            // Its thread started operations just when it lost the ring: whoever took it found it idle.
            if !isLeased, !slot.isWatched, !slot.isArmed.load(ordering: .relaxed),
                slot.inFlight.load(ordering: .relaxed) > 0
            {
                findings = max(findings, .something)
                if isAway { settle(slot) }
            }
            // A thread that sleeps in the ring sees its completions by itself; without a thread, the observer does.
            if !isLeased || slot.isWatched { continue }
            if slot.inFlight.load(ordering: .relaxed) > 0 {
                if !isAway {
                    findings = max(findings, .something)
                } else if !slot.isLeftAlone {
                    slot.leaveAlone()
                    unsafe Observer.shared.arm(slot)
                }
            }
            let mayRun = waitingMirror.load(ordering: .relaxed) > 0 && runningMirror.load(ordering: .relaxed) < limit
            let isWatched = watchers.load(ordering: .relaxed) % Self.attendance > 0
            guard mayRun || isWatched || needsAttendant else { continue }
            if slot.submitter.needsEnter { _ = iocp_membarrier() }
            if slot.hasCompletions {
                // One that comes and goes would have taken them soon.
                findings = max(findings, isAway ? .trouble : .something)
                lock.lock()
                if !isClosed { absorb(slot, me, atMost: 1) }
                publish()
                unlockAndWake()
            }
        }
        if seemsHeldUp {
            findings = lookAtHolders(me, sparingly: !isHurried) ? .trouble : max(findings, .something)
        }
        if letAttendantLook() { findings = max(findings, .something) }
        me.buryDead()
        if isRetired.load(ordering: .relaxed) { retire() }
        return findings
    }
}
