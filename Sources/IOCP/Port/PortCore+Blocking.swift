internal import CIOCPSupport
internal import IOUring
internal import Synchronization

/// Threads that block on something else while they hold a place of the port (d7–d10): said by themselves, or seen.
///
/// A thread is seen when packets wait, threads wait, and no place is free: whoever finds that so looks at the threads
/// that hold the places. One that sleeps in the kernel loses its place and its ring to the newest waiter. It is counted
/// again when it comes back to the port, or when it is seen to run: those that are blocked are looked at again before
/// another thread is let in.
extension PortCore {
    /// Holders that one look asks at most, so that a post does not pay for a port of many places.
    private static let mostLookedAt = 4
    private static let shortestPause: Int64 = 100_000
    private static let longestPause: Int64 = 3_200_000
    private static let longestRecheckPause: Int64 = 1_600_000

    // MARK: Said from inside

    /// The calling thread is about to block on something else: its place is free (d7).
    func block(_ thread: IOThread) {
        lock.lock()
        let slot = takePlace(of: thread, seen: false, thread)
        unlockAndWake()
        if let slot { settle(slot) }
        thread.buryDead()
    }

    /// It goes on. The count may exceed the limit until it falls by itself (d10).
    func unblock(_ thread: IOThread) {
        lock.lock()
        if !isClosed {
            unsafe scheduler.goOn(thread.state)
            if thread.leasedSlot == nil { _ = leaseFree(for: thread) }
        }
        publish()
        unlockAndWake()
        Observer.noteDeparture()
    }

    /// The calling thread was seen to block and is in user code again: it is counted (d10). Under the lock.
    @inline(never)
    func goesOnUnseen(_ me: IOThread) {
        if unsafe me.state.pointee.isSeen { unsafe scheduler.goOn(me.state) }
    }

    /// Frees the place and the ring of a blocked thread. Returns the ring: it is to be settled without the lock.
    private func takePlace(of thread: IOThread, seen: Bool, _ me: IOThread) -> Slot? {
        unsafe scheduler.block(thread.state, seen: seen)
        let slot = revokeLease(of: thread)
        if !isClosed {
            // One packet lets one thread in, which then finds the others.
            for slot in slots where slot.offersCompletions { gather(slot, me, atMost: 1) }
        }
        let before = wakeUps
        redistribute()
        if wakeUps > before { handOvers += 1 }
        return slot
    }

    // MARK: Seen from outside

    /// Whether packets wait, and threads, for a place to come free. Under the lock.
    var isHeldUp: Bool {
        guard scheduler.waiting > 0, !scheduler.canRunAnother, !isClosed else { return false }
        return scheduler.queued > 0 || slots.contains(where: \.offersCompletions)
    }

    /// The same, guessed without the lock.
    var seemsHeldUp: Bool {
        guard waitingMirror.load(ordering: .relaxed) > 0, runningMirror.load(ordering: .relaxed) >= limit else {
            return false
        }
        return isQueuedMirror.load(ordering: .relaxed) || slots.contains(where: \.offersCompletions)
    }

    /// Packets wait although threads do: looks whether one of those that hold the places is blocked, and takes its place
    /// if so. Not more often than every 100 µs, and less often the longer nobody was. Returns whether one was.
    ///
    /// - Parameter sparingly: one that has run for most of the time since the last look of this kind is not looked at more
    ///   closely, which costs twenty times what its clock does: blocked since, it is found by the next look.
    @inline(never)
    @discardableResult
    func lookAtHolders(_ me: IOThread, sparingly: Bool = false) -> Bool {
        guard seesBlocking else { return false }
        // If not now, the monitor looks.
        Observer.noteDeparture()
        // Posts come faster than a clock is read; some not even a processor's own counter.
        let ticks = iocp_ticks()
        var now = ticks > 0 ? 0 : iocp_now_ns()
        let time = ticks > 0 ? ticks : UInt64(now)
        if time &- lastLookTime.load(ordering: .relaxed) < quickSpell.load(ordering: .relaxed) {
            me.spareLooks(at: self)
            return false
        }
        lastLookTime.store(time, ordering: .relaxed)
        if ticks > 0 { now = iocp_now_ns() }
        if !sparingly { unsafe Observer.shared.putOff(at: now) }
        let next = nextLook.load(ordering: .relaxed)
        // One looks at a time, and none soon after it, however it ends.
        guard now >= next,
            nextLook.compareExchange(expected: next, desired: now + Self.shortestPause, ordering: .relaxed).exchanged
        else { return false }
        var wereRunning = false
        var looks = 0
        for _ in 0..<limit where looks < Self.mostLookedAt {
            lock.lock()
            guard isHeldUp, let holder = nextHolder(not: me) else {
                lock.unlock()
                break
            }
            // Under the lock: until it is found unchanged again, the thread has not run, so it is where it is now.
            let time = ThreadProbe.time(of: holder.identifier)
            let isBusy = sparingly && holder.hasRunMostly(until: now, time)
            lock.unlock()
            if isBusy { continue }
            looks += 1
            wereRunning = true
            let state = ThreadProbe.state(of: holder.identifier)
            guard state != .runs else { continue }
            lock.lock()
            guard ThreadProbe.time(of: holder.identifier) == time else {
                lock.unlock()
                continue
            }
            holder.timeWhenBlocked = time
            let slot = takePlace(of: holder, seen: true, me)
            if state == .gone { unsafe scheduler.part(holder.state) }
            lookPause = Self.shortestPause
            nextLook.store(now, ordering: .relaxed)
            recheckPause = Self.shortestPause
            unlockAndWake()
            if let slot { settle(slot) }
            me.buryDead()
            return true
        }
        if wereRunning {
            lock.lock()
            lookPause = min(max(lookPause * 2, Self.shortestPause), Self.longestPause)
            nextLook.store(now + lookPause, ordering: .relaxed)
            lock.unlock()
        }
        return false
    }

    /// A thread that holds a place and is out in user code; each in turn. Kept alive for the caller.
    private func nextHolder(not me: IOThread) -> IOThread? {
        let found = unsafe scheduler.nextAwake { state in
            guard unsafe state.pointee.isCounted else { return false }
            let thread = unsafe IOThread.from(state)
            return thread !== me && thread.isOut.load(ordering: .relaxed)
        }
        guard let found = unsafe found else { return nil }
        return unsafe IOThread.from(found)
    }

    /// Threads whose place was taken while they were blocked, and that run again by now, are counted again (d10). To be
    /// asked before another thread is let in; under the lock.
    @inline(__always)
    func recheckBlocked() {
        if scheduler.seenBlocked > 0 { recheckBlockedSlowly() }
    }

    @inline(never)
    private func recheckBlockedSlowly() {
        let now = iocp_now_ns()
        guard now >= nextRecheck else { return }
        var wentOn = false
        for _ in 0..<min(8, scheduler.seenBlocked) {
            let found = unsafe scheduler.nextAwake { unsafe $0.pointee.isBlocked && $0.pointee.isSeen }
            guard let state = unsafe found else { break }
            let thread = unsafe IOThread.from(state)
            let time = ThreadProbe.time(of: thread.identifier)
            if time == thread.timeWhenBlocked { continue }
            switch ThreadProbe.state(of: thread.identifier) {
            case .sleeps:
                thread.timeWhenBlocked = time
            case .runs:
                unsafe scheduler.goOn(state)
                wentOn = true
            case .gone:
                unsafe scheduler.part(state)
            }
        }
        recheckPause = wentOn ? Self.shortestPause : min(recheckPause * 2, Self.longestRecheckPause)
        nextRecheck = now + recheckPause
    }
}
