internal import Synchronization

/// Which thread has which ring, and threads that come, block and go. All of it under the port's lock.
extension PortCore {
    /// Gives the thread a slot of its own if there is one: the one it had, a free one, or one whose leaseholder sleeps.
    func lease(for thread: IOThread) {
        if thread.leasedSlot != nil { return }
        if isSingleConsumer { return grantToConsumer(thread) }
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

    func leaseFree(for thread: IOThread) -> Bool {
        if isSingleConsumer {
            grantToConsumer(thread)
            return true
        }
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

    func grant(_ slot: Slot, to thread: IOThread) {
        unsafe slot.leaseholder = Unmanaged.passUnretained(thread)
        slot.owner.store(thread.serial, ordering: .sequentiallyConsistent)
        unsafe thread.slotReference = Unmanaged.passUnretained(slot)
        slot.startRounds()
    }

    /// Takes the thread's slot away. Returns it: it is to be settled without the lock.
    func revokeLease(of thread: IOThread) -> Slot? {
        // Nobody else could use the consumer's own.
        guard let slot = thread.leasedSlot, !slot.isOwned else { return nil }
        unsafe slot.leaseholder = nil
        slot.owner.store(0, ordering: .sequentiallyConsistent)
        return slot
    }

    /// A slot that nobody leases: what it holds enters the kernel, and somebody looks when it completes.
    func settle(_ slot: Slot) {
        let slot = slot.isVacated ? slots[slots.count - 1] : slot
        // Refused, it is the monitor's to try again and to settle: a ring whose completions the kernel cannot bring is
        // ready all the time.
        if slot.submit(), !slot.isOwned, slot.owner.load(ordering: .sequentiallyConsistent) == 0,
            slot.inFlight.load(ordering: .sequentiallyConsistent) > 0
        {
            unsafe Observer.shared.arm(slot)
        }
    }

    // MARK: Threads come and go

    /// The calling thread is no longer this port's: it exits or dequeues from another (d13, d14).
    func leave(_ thread: IOThread) {
        if isSingleConsumer { giveUpConsumption(thread) }
        lock.lock()
        unsafe scheduler.part(thread.state)
        let slot = revokeLease(of: thread)
        unsafe thread.slotReference = nil
        redistribute()
        unlockAndWake()
        if let slot { settle(slot) }
    }

    /// The port is closed: the calling thread is tied to it no more, and does not keep its rings (rundown).
    func untie(_ thread: IOThread) {
        guard thread.isTied(to: self) else { return }
        leave(thread)
        thread.tie(to: nil)
    }

    /// After the count fell or packets were queued behind: waiters get what is queued, as far as the limit lets them.
    func redistribute() {
        recheckBlocked()
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
}
