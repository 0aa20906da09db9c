internal import CIOCPSupport
internal import Glibc
internal import IOUring
internal import Synchronization

/// A port whose dequeues all come from one thread: its ring may be entered by that thread only, and tells nobody of
/// completions but that thread when it enters (IORING_SETUP_SINGLE_ISSUER and DEFER_TASKRUN).
///
/// Nothing else depends on that ring. What other threads start goes through the port's last slot, a ring of the ordinary
/// kind, and so does everything once the consumer has gone: it takes its requests out of its ring before it goes.
extension PortCore {
    /// Makes the calling thread the consumer, or fails if another one is.
    func becomeConsumer(_ me: IOThread) throws(PortError) {
        let found = consumer.compareExchange(expected: 0, desired: me.serial, ordering: .sequentiallyConsistent)
        guard found.exchanged || found.original == me.serial else { throw .notTheConsumer }
        let own = slots[0]
        guard own.isOwned else { return }
        own.lock.lock()
        defer { own.lock.unlock() }
        // The ring is the first consumer's for good: those that come after it have the ordinary one.
        if own.ringOwner.load(ordering: .relaxed) == 0, own.enable() {
            own.ringOwner.store(UInt(pthread_self()), ordering: .sequentiallyConsistent)
        }
    }

    /// The slot for the consumer: its own if the ring knows it. Under the lock.
    func grantToConsumer(_ thread: IOThread) {
        let own = slots[0]
        // Enabled, it is the present consumer's until that one gives it up.
        let isUsable = own.ringOwner.load(ordering: .relaxed) != 0 && !own.isVacated
        grant(isUsable ? own : slots[slots.count - 1], to: thread)
    }

    /// The calling thread exits, or turns to another port: nobody else could bring its requests to an end. They are
    /// cancelled, and those that nobody wanted to end begin anew in the ordinary ring, as for any thread that exits (e34).
    func giveUpConsumption(_ me: IOThread) {
        guard consumer.load(ordering: .relaxed) == me.serial else { return }
        let own = slots[0]
        if own.isOwned, own.isCallersOwn {
            vacate(own, me)
            own.ringOwner.store(1, ordering: .sequentiallyConsistent)
            lock.lock()
            if own.owner.load(ordering: .relaxed) == me.serial {
                unsafe own.leaseholder = nil
                own.owner.store(0, ordering: .sequentiallyConsistent)
            }
            lock.unlock()
            settle(own)
        }
        consumer.store(0, ordering: .sequentiallyConsistent)
    }

    private func vacate(_ own: Slot, _ me: IOThread) {
        own.lock.lock()
        own.noteVacated()
        own.moveBacklog()
        own.lock.unlock()
        while true {
            own.submit()
            progress(me, including: own)
            if own.inFlight.load(ordering: .relaxed) == 0 && own.submitter.unsubmitted == 0 { break }
            // More than one round: what the kernel is carrying out ends by itself.
            own.cancelAll()
            progress(me, including: own)
            if own.inFlight.load(ordering: .relaxed) > 0 { _ = own.waitForCompletion(nanoseconds: 1_000_000) }
        }
        own.dropFiles()
    }
}

extension Slot {
    /// The consumer's own slot, disabled until it is known; nil on kernels without such rings.
    static func forConsumer(of core: PortCore, _ options: RingOptions) throws(RingError) -> Slot? {
        guard waitsForWords.load(ordering: .relaxed) else { return nil }
        var own = options
        own.flags = [.submitAll, .clamp, .taskrunFlag]
        own.required = [.singleIssuer, .deferTaskrun, .disabled]
        do throws(RingError) {
            return try Slot(of: core, index: 0, options: own)
        } catch {
            if case .tooOld = error.kind { return nil }
            throw error
        }
    }

    /// Whether a consumer can wait for a word of memory and go on with its ring. Looked up once; a test turns it off.
    static let waitsForWords = Atomic<Bool>((try? Capabilities.probe())?.supports(.futexWait) ?? false)

    @inline(__always)
    var isVacated: Bool { vacated.load(ordering: .relaxed) }

    /// Whether the calling thread may enter the kernel for the ring.
    @inline(__always)
    var mayEnter: Bool { !isOwned || isCallersOwn }

    var isCallersOwn: Bool { ringOwner.load(ordering: .relaxed) == UInt(pthread_self()) }

    /// Whether there is something in it that only its owner's next entry brings on.
    @inline(__always)
    var waitsForOwner: Bool { isOwned && (submitter.needsEnter || unsubmittedRequests > 0) }

    /// Whether the calling thread may register memory with the ring, if it is to be used at all.
    var mayRegister: Bool { mayEnter || isVacated || ringOwner.load(ordering: .relaxed) == 0 }

    /// Only the owner can hand over what is queued: it does so before it sleeps, and is woken if it sleeps already.
    /// Returns whether there is nothing.
    @inline(never)
    func askOwner() -> Bool {
        // What was queued before is seen by an owner about to sleep, or the owner is seen here.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        if isVacated || unsubmittedRequests == 0 { return true }
        if isWatched { wakeSleeper() }
        return false
    }

    /// The monitor's look. Returns whether the owner is to be woken still.
    func remindsOwner() -> Bool {
        guard owesWakeUp.exchange(false, ordering: .sequentiallyConsistent) else { return false }
        if isWatched { wakeSleeper() }
        return owesWakeUp.load(ordering: .relaxed)
    }

    /// Without the synchronous message, the port's ordinary ring sends one.
    func wakeOwner() {
        let other = unsafe core.slots[core.slots.count - 1]
        for _ in 0..<2 {
            var entry = SubmissionEntry.messageRing(fileDescriptor, result: 0, userData: Self.wakeTag)
            entry.userData = Self.ignoredTag
            other.lock.lock()
            let isPushed = other.enqueue(entry)
            other.lock.unlock()
            let isTaken = other.submit()
            if isPushed { return }
            if !isTaken { break }
        }
        owesWakeUp.store(true, ordering: .sequentiallyConsistent)
        Observer.noteDeparture()
    }

    /// A completion of the slot's own. Under `lock`.
    @inline(never)
    func noteTagged(_ userData: UInt64) {
        switch userData & Self.tagMask {
        case Self.wordTag: awaitsWord = false
        case Self.placeTag: unsafe core.fileTable?.giveBack(Int32(truncatingIfNeeded: userData >> 3))
        default: break
        }
    }

    /// A request goes through the port's ordinary ring. Under `lock`, before which nobody takes that ring's.
    @inline(never)
    func pushElsewhere(_ record: OperationRecord.Pointer) {
        let other = unsafe core.slots[core.slots.count - 1]
        other.lock.lock()
        unsafe other.push(record)
        other.lock.unlock()
    }

    /// Asks for the end of everything that the kernel holds. By the owner.
    func cancelAll() {
        _ = submitter.cancel(userData: 0, flags: .any, timeoutNanoseconds: 0)
    }

    /// The ring holds no file any more: after its owner has gone, nobody could take one out. By the owner.
    func dropFiles() {
        guard fileBit != 0 else { return }
        noteFileTable(0)
        withRing { ring in try? ring.unregisterFiles() }
    }

    /// Sleeps while the word holds the value, with the ring going on: completions of the calling thread's, the owner's,
    /// may be what it waits for. Returns for no reason, too, as any wait for a futex does.
    func sleep(on word: UnsafePointer<UInt32>, while value: UInt32, nanoseconds: Int64, _ me: IOThread) {
        let core = unsafe core
        submit()
        core.progress(me, including: self)
        var entry = unsafe SubmissionEntry.futexWait(word, while: value)
        entry.userData = Self.wordTag
        lock.lock()
        awaitsWord = enqueue(entry)
        let isWaiting = awaitsWord
        lock.unlock()
        guard isWaiting else {
            // The ring is full, and the kernel takes nothing from it.
            unsafe iocp_futex_wait(word, value, nanoseconds < 0 ? 1_000_000 : min(nanoseconds, 1_000_000))
            return
        }
        sleepers.add(1, ordering: .sequentiallyConsistent)
        _ = waitForCompletion(nanoseconds: nanoseconds)
        sleepers.subtract(1, ordering: .sequentiallyConsistent)
        core.progress(me, including: self)
        // Nothing may be left of it: it would end the next wait.
        while isStillWaiting {
            submit()
            core.progress(me, including: self)
        }
    }

    /// Whether the wait for a word has not ended; then its end is asked for.
    private var isStillWaiting: Bool {
        lock.lock()
        defer { lock.unlock() }
        if awaitsWord { _ = enqueueCancel(of: Self.wordTag) }
        return awaitsWord
    }
}

extension IOThread {
    /// Sleeps while the word holds the value, as `futexWait`. A consumer whose ring nobody else can look after does it.
    static func sleep(on word: borrowing Atomic<UInt32>, while value: UInt32, nanoseconds: Int64) {
        let me = current
        // Elsewhere others may be giving the thread a ring just now.
        guard me.core?.isSingleConsumer == true, let slot = me.leasedSlot, slot.isOwned else {
            futexWait(word, while: value, nanoseconds: nanoseconds)
            return
        }
        unsafe withUnsafePointer(to: word) { pointer in
            unsafe slot.sleep(
                on: UnsafeRawPointer(pointer).assumingMemoryBound(to: UInt32.self), while: value,
                nanoseconds: nanoseconds, me)
        }
    }
}
