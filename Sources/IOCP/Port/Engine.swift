internal import Glibc
internal import IOUring
internal import Synchronization

/// How an operation is started.
public enum Start: Sendable {
    /// The request is queued to the thread's ring and enters the kernel together with others: at the thread's next
    /// dequeue, at ``CompletionPort/flush()``, or after 10 milliseconds at the latest. Every outcome, errors too, comes
    /// as a packet. A thread that does not run on behalf of the port enters the kernel at once.
    case deferred
    /// The request enters the kernel at once and is tried without blocking. An immediate error is thrown and queues
    /// nothing; an immediate success queues a packet unless the handle skips it; anything else completes later by packet.
    /// These are the rules that a Win32 caller of `ReadFile` or `WSARecv` sees (e1–e7). Costs a system call for each.
    case eager
}

/// What a start yielded.
public enum StartOutcome: Sendable, Equatable {
    /// A packet or event will tell. The Win32 code is `ERROR_IO_PENDING`.
    case pending
    /// Completed at once, with that many bytes; whether a packet was queued as well is the handle's mode
    /// (``NotificationModes/skipCompletionPortOnSuccess``).
    case completed(bytes: Int)
}

/// Starting, completing and cancelling operations: what belongs to no single port.
enum Engine {
    /// What is to be started; fills the idle record.
    @safe struct Request {
        var kind: OperationKind
        var memory: UnsafeMutableRawPointer?
        var length = 0
        var offset: UInt64 = 0
        var callFlags: Int32 = 0
        var continuous = false
        var alwaysPends = false
    }

    /// The rings of operations on files that are not associated with a port (a9).
    ///
    /// Made when first needed; a shortage that passes does not stay.
    static func unassociated() throws(PortError) -> PortCore {
        unassociatedLock.lock()
        defer { unassociatedLock.unlock() }
        if let core = unsafe unassociatedCore { return core }
        let core = try PortCore(limit: 1, slotCount: 1, options: RingOptions())
        unsafe unassociatedCore = core
        return core
    }

    private static let unassociatedLock = FutexLock()
    private nonisolated(unsafe) static var unassociatedCore: PortCore?

    // MARK: Starting

    /// Starts a claimed operation. On a throw nothing was queued and the operation is still claimed.
    @discardableResult
    @inline(__always)
    static func start(
        _ operation: Operation, on file: FileObject, _ request: Request, _ start: Start
    ) throws(PortError) -> StartOutcome {
        let record = unsafe operation.record
        let me = IOThread.current
        unsafe record.pointee.kind = request.kind
        unsafe record.pointee.memory = request.memory
        unsafe record.pointee.length = request.length
        unsafe record.pointee.offset = request.offset
        unsafe record.pointee.callFlags = request.callFlags
        unsafe record.pointee.progress = 0
        unsafe record.pointee.step = 0
        unsafe record.pointee.information = 0
        unsafe record.pointee.thread = me.serial
        var flags = unsafe record.pointee.flags.intersection(.suppressPacket)
        if request.continuous { flags.insert(.continuous) }
        if request.alwaysPends { flags.insert(.alwaysPends) }
        unsafe record.pointee.flags = flags
        unsafe record.pointee.cancelRequested.store(false, ordering: .relaxed)
        unsafe record.pointee.isQueued.store(false, ordering: .relaxed)
        unsafe record.pointee.file = Unmanaged.passUnretained(file)

        let core: PortCore
        if let port = unsafe try file.begin(record) {
            core = port
        } else {
            do throws(PortError) {
                core = try unassociated()
            } catch {
                _ = unsafe file.end(record)
                throw error
            }
        }
        unsafe record.pointee.state.store(OperationRecord.pending, ordering: .releasing)
        unsafe record.pointee.event?._withUnsafeGuaranteedRef { $0.reset() }  // e2
        file.resetSignal()
        unsafe record.pointee.phase.store(
            start == .eager ? OperationRecord.Phase.issuing : OperationRecord.Phase.inFlight, ordering: .releasing)
        // Given back with the packet, or when the packet is suppressed or discarded.
        _ = unsafe Unmanaged.passRetained(operation)

        var own: Slot?
        if me.core === core { own = me.leasedSlot }
        let slot = own ?? core.foreignSlot()
        slot.lock.lock()
        unsafe slot.push(record)
        unsafe record.pointee.isQueued.store(true, ordering: .releasing)
        slot.lock.unlock()

        if start == .deferred, own != nil {
            Observer.noteDeferral()
            return .pending
        }
        return try enter(operation, slot, core, file, start, me)
    }

    /// The part of a start that enters the kernel at once.
    @inline(never)
    private static func enter(
        _ operation: Operation, _ slot: Slot, _ core: PortCore, _ file: FileObject, _ start: Start, _ me: IOThread
    ) throws(PortError) -> StartOutcome {
        let record = unsafe operation.record
        slot.submit()
        defer {
            core.settle(slot)
            me.buryDead()
        }
        guard start == .eager else { return .pending }
        // Completed during the submission: the completion is in the ring now.
        core.progress(me, carrier: slot)
        if unsafe record.pointee.phase.compareExchange(
            expected: OperationRecord.Phase.issuing, desired: OperationRecord.Phase.inFlight,
            ordering: .sequentiallyConsistent
        ).exchanged {
            return .pending
        }
        return try concludeInline(operation, file, me)
    }

    /// The operation completed before its starter looked: the master rule's upper half (e1).
    private static func concludeInline(
        _ operation: Operation, _ file: FileObject, _ me: IOThread
    ) throws(PortError) -> StartOutcome {
        let record = unsafe operation.record
        let status = unsafe CompletionStatus(rawValue: record.pointee.inlineStatus)
        let information = unsafe record.pointee.information
        let suppressed = unsafe record.pointee.flags.contains(.suppressPacket)
        let end = unsafe file.end(record)
        if end.drained { unsafe me.graveyard.append(Unmanaged.passUnretained(file).takeRetainedValue()) }
        if status.isError {
            // No packet, the event stays reset, the reference of the start is given back.
            unsafe record.pointee.state.store(status.rawValue, ordering: .releasing)
            unsafe Unmanaged.passUnretained(operation).release()
            throw PortError(status, "the operation failed at once; nothing was queued")
        }
        operation.unclaim()
        unsafe record.pointee.state.store(status.rawValue, ordering: .releasing)
        signal(operation, file, end)
        let skips = end.modes.contains(.skipCompletionPortOnSuccess) && !status.isWarning  // e14
        if !suppressed, !skips, let port = unsafe end.port {
            unsafe port.takeUnretainedValue().deliver(
                PacketEntry(
                    key: end.key, overlapped: UInt(bitPattern: Unmanaged.passUnretained(operation).toOpaque()),
                    information: information, status: status.rawValue, flags: .operation), me)
        } else {
            unsafe Unmanaged.passUnretained(operation).release()
        }
        if status.isWarning {
            // The call reports the warning, the packet follows (e5).
            return .pending
        }
        return .completed(bytes: Int(truncatingIfNeeded: information))
    }

    private static func signal(_ operation: Operation, _ file: FileObject, _ end: FileObject.Completion) {
        if let event = operation.completionEvent {
            event.set()
        } else if !end.modes.contains(.skipSetEventOnHandle) {
            file.setSignal()  // e10
        }
    }

    // MARK: Completing

    /// Turns completions of a slot's ring into packets. Returns how many were written.
    ///
    /// Holds the slot's lock from the first look to the last write, so that two harvesters keep the ring's order. The
    /// caller holds the port's lock, or leases the slot and takes the packets itself.
    static func harvest(
        _ slot: Slot, into out: UnsafeMutablePointer<PacketEntry>, capacity: Int, _ me: IOThread
    ) -> Int {
        slot.lock.lock()
        let isMine = slot.owner.load(ordering: .relaxed) == me.serial
        var produced = 0
        var consumed: UInt32 = 0
        var ready = slot.completionsReady
        var pushed = false
        while produced < capacity {
            if consumed == ready {
                ready = slot.completionsReady
                if consumed == ready { break }
            }
            let completion = slot.completion(at: consumed)
            if completion.userData & Slot.tagMask != 0 {
                // Perhaps not yet seen by the sleeper that it is for: leave it. It was sent after the sleeper had counted
                // itself, so a count of zero read after it is no earlier than the sleeper's return.
                if completion.userData == Slot.wakeTag && slot.isWatched { break }
                consumed += 1
                continue
            }
            consumed += 1
            if unsafe complete(completion, slot, me, out + produced, &pushed) { produced += 1 }
        }
        if consumed > 0 { slot.advance(by: consumed) }
        if slot.hasBacklog { slot.drainBacklog() }
        slot.lock.unlock()
        // The leaseholder submits what follows with its next entry; the observer does if none comes soon.
        if pushed { if isMine { Observer.noteDeferral() } else { slot.submit() } }
        return produced
    }

    /// One completion. Returns whether it yielded a packet for the harvester, written to `out`.
    @inline(__always)
    private static func complete(
        _ completion: Completion, _ slot: Slot, _ me: IOThread, _ out: UnsafeMutablePointer<PacketEntry>,
        _ pushed: inout Bool
    ) -> Bool {
        let record = unsafe OperationRecord.Pointer(bitPattern: UInt(completion.userData))!
        if !completion.more { slot.requestEnded() }
        switch unsafe Outcomes.next(record, completion, slot) {
        case .again:
            unsafe slot.push(record)
            pushed = true
            return false
        case .paused:
            return false
        case .goesOn(let status, let information, let auxiliary, let flags, let rearms):
            let end = unsafe record.pointee.file!._withUnsafeGuaranteedRef { $0.peek() }
            var yields = false
            if unsafe end.port != nil, unsafe !record.pointee.flags.contains(.suppressPacket),
                let owner = unsafe record.pointee.owner
            {
                // One reference for each packet; the start's own is given back at the end.
                _ = unsafe owner.retain()
                unsafe out.initialize(
                    to: PacketEntry(
                        key: end.key, overlapped: UInt(bitPattern: owner.toOpaque()), information: information,
                        status: status.rawValue, auxiliary: auxiliary, slot: slot.index,
                        flags: flags.union([.operation, .more])))
                yields = unsafe route(out, end, slot, me)
            } else if flags.contains(.acceptedDescriptor) {
                Outcomes.closeDescriptor(auxiliary)
            }
            if rearms {
                unsafe slot.push(record)
                pushed = true
            }
            return yields
        case .finished(let status, let information, let auxiliary, let flags):
            return unsafe finish(record, status, information, auxiliary, flags, slot, me, out)
        }
    }

    /// The operation is over: its record is written, its event set, its packet made.
    @inline(__always)
    static func finish(
        _ record: OperationRecord.Pointer, _ status: CompletionStatus, _ information: UInt, _ auxiliary: Int32,
        _ flags: PacketEntry.Flags, _ slot: Slot?, _ me: IOThread, _ out: UnsafeMutablePointer<PacketEntry>
    ) -> Bool {
        unsafe record.pointee.information = information
        // An eager starter that has not looked yet decides by itself, unless the contract makes this outcome a pended one.
        if unsafe record.pointee.phase.load(ordering: .acquiring) == OperationRecord.Phase.issuing {
            if unsafe Outcomes.mayConcludeInline(record, status) {
                unsafe record.pointee.inlineStatus = status.rawValue
                if unsafe record.pointee.phase.compareExchange(
                    expected: OperationRecord.Phase.issuing, desired: OperationRecord.Phase.completedInline,
                    ordering: .sequentiallyConsistent
                ).exchanged {
                    return false
                }
            } else {
                // Fails only if the starter has already declared it pending.
                _ = unsafe record.pointee.phase.compareExchange(
                    expected: OperationRecord.Phase.issuing, desired: OperationRecord.Phase.inFlight,
                    ordering: .sequentiallyConsistent)
            }
        }
        // Everything that is needed is read before the record is declared idle: its owner may start it again then.
        let owner = unsafe record.pointee.owner
        let token = unsafe record.pointee.token
        // From then on its owner may also give it another event, and let go of this one.
        let event = unsafe record.pointee.event?.retain()
        let suppressed = unsafe record.pointee.flags.contains(.suppressPacket)
        let file = unsafe record.pointee.file!
        // The file's last handle may be closed, and with it the object and its port gone, as soon as the operation is off
        // the file's list: what the object is still needed for happens under its lock.
        let home = unsafe slot.map { unsafe Unmanaged.passUnretained($0.core).toOpaque() }
        var before: UInt32 = 0
        let end = unsafe file._withUnsafeGuaranteedRef { file in
            unsafe file.end(record) { (end: FileObject.Completion) in
                unsafe record.pointee.phase.store(OperationRecord.Phase.idle, ordering: .releasing)
                before = unsafe record.pointee.state.exchange(status.rawValue, ordering: .sequentiallyConsistent)
                if unsafe event == nil, !end.modes.contains(.skipSetEventOnHandle) { file.setSignal() }
                if let port = unsafe end.port, unsafe port.toOpaque() != home { _ = unsafe port.retain() }
            }
        }
        unsafe out.initialize(
            to: PacketEntry(
                key: end.key,
                overlapped: owner.map { unsafe UInt(bitPattern: $0.toOpaque()) } ?? token, information: information,
                status: status.rawValue, auxiliary: auxiliary, slot: slot?.index ?? 0,
                flags: owner == nil ? flags : flags.union(.operation)))
        if before & OperationRecord.waiterBit != 0 { unsafe futexWake(record.pointee.state, count: .max) }
        if let event = unsafe event {
            unsafe event.takeRetainedValue().set()
        }
        if end.drained { unsafe me.graveyard.append(file.takeRetainedValue()) }
        guard let port = unsafe end.port else {
            unsafe discard(out.pointee, graveyard: me)
            return false
        }
        if unsafe port.toOpaque() == home {
            if suppressed { unsafe discard(out.pointee, graveyard: me) }
            return !suppressed
        }
        let foreign = unsafe port.takeRetainedValue()
        if suppressed { unsafe discard(out.pointee, graveyard: me) } else { unsafe foreign.deliver(out.pointee, me) }
        me.graveyard.append(foreign)
        return false
    }

    /// Leaves the packet to the harvester if it is for the slot's own port; delivers it otherwise.
    @inline(__always)
    private static func route(
        _ out: UnsafeMutablePointer<PacketEntry>, _ end: FileObject.Completion, _ slot: Slot?, _ me: IOThread
    ) -> Bool {
        if let slot, unsafe end.port!.toOpaque() == Unmanaged.passUnretained(slot.core).toOpaque() { return true }
        unsafe end.port!.takeUnretainedValue().deliver(out.pointee, me)
        return false
    }

    /// Lets go of what a packet owns that nobody will dequeue. Safe under locks: user code runs later.
    static func discard(_ entry: PacketEntry, graveyard me: IOThread) {
        if entry.flags.contains(.acceptedDescriptor) { Outcomes.closeDescriptor(entry.auxiliary) }
        if entry.flags.contains(.operation) {
            let operation = unsafe Unmanaged<Operation>.fromOpaque(UnsafeRawPointer(bitPattern: entry.overlapped)!)
                .takeRetainedValue()
            if entry.flags.contains(.lentBuffer) {
                operation.bufferGroup?.giveBack(Int(entry.auxiliary), slot: Int(entry.slot))
            }
            me.graveyard.append(operation)
        }
    }

    // MARK: Looking

    /// Harvests what lies unseen in the rings that the calling thread may have used.
    static func progress() {
        let me = IOThread.current
        me.core?.progress(me)
    }

    // MARK: Cancelling

    /// Asks for the end of an operation that was pending a moment ago; the caller keeps its file alive. Returns false if
    /// it was not pending any more, or had been asked already (e21).
    static func cancel(_ operation: Operation) -> Bool {
        let record = unsafe operation.record
        guard
            unsafe record.pointee.cancelRequested.compareExchange(
                expected: false, desired: true, ordering: .sequentiallyConsistent
            ).exchanged
        else { return false }
        return unsafe interrupt(record)
    }

    /// Ends the request that the kernel holds for a record, wherever it is on its way. The record's next step sees the
    /// reason: a cancellation or the closing of the file. The caller keeps the file alive.
    @discardableResult
    static func interrupt(_ record: OperationRecord.Pointer) -> Bool {
        let me = IOThread.current
        // A starter on another thread is between entering the file's list and the queue: a matter of nanoseconds.
        while unsafe !record.pointee.isQueued.load(ordering: .acquiring) {
            guard unsafe record.pointee.isPending else { return false }
            sched_yield()
        }
        guard let slot = unsafe record.pointee.slot else { return false }
        let core = unsafe slot.core
        // After this lock, every step of the operation sees the flag: what was pushed before is in the queue.
        slot.lock.lock()
        let waited =
            unsafe slot.removeFromBacklog(record)
            || record.pointee.details?.pointee.group?._withUnsafeGuaranteedRef { unsafe $0.removePaused(record) }
                ?? false
        slot.lock.unlock()
        if waited {
            var entry = PacketEntry(key: 0, overlapped: 0, information: 0, status: 0)
            let status = unsafe Outcomes.interruption(record) ?? .cancelled
            _ = unsafe finish(record, status, 0, 0, [], nil, me, &entry)
            me.buryDead()
            return true
        }
        slot.submit()
        let identity = UInt64(UInt(bitPattern: record))
        var result = slot.submitter.cancel(userData: identity, timeoutNanoseconds: 0)
        if result == -ENOENT {
            // Between two requests, or completed: the ring tells once its completions are seen.
            core.progress(me)
            slot.submit()
            if unsafe record.pointee.isPending {
                result = slot.submitter.cancel(userData: identity, timeoutNanoseconds: 0)
            }
        }
        core.settle(slot)
        // A signal can interrupt only the wait for a request that is being cancelled already.
        return result >= 0 || result == -ETIME || result == -EALREADY || result == -EINTR
    }
}
