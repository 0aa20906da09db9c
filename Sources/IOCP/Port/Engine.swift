internal import CIOCPSupport
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
    /// These are the rules that a Win32 caller of `ReadFile` or `WSARecv` sees (e1–e7). Costs a system call for each: that of
    /// a ring, or for up to 128 KiB of a file that lie in the page cache `preadv2`, which is cheaper and enters no ring. An eager start does not wait for what the thread has deferred before.
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
    /// Made when first needed. A failure is not kept: descriptors and memory may be there the next time.
    static func unassociated() throws(PortError) -> PortCore {
        unassociatedLock.lock()
        defer { unassociatedLock.unlock() }
        if let core = unsafe unassociatedCore { return core }
        let core = try PortCore(limit: 1, slotCount: 1, options: RingOptions(), isHomeless: true)
        unsafe unassociatedCore = core
        return core
    }

    private static let unassociatedLock = FutexLock()
    private nonisolated(unsafe) static var unassociatedCore: PortCore?

    /// This process is the child of a fork: it needs such rings of its own.
    static func noteFork() {
        // Kept for good, as all that is the parent's.
        if let core = unsafe unassociatedCore { _ = unsafe Unmanaged.passRetained(core) }
        unsafe unassociatedCore = nil
    }

    // MARK: Starting

    /// Starts a claimed operation. On a throw nothing was queued and the operation is still claimed.
    @discardableResult
    @inline(__always)
    static func start(
        _ operation: Operation, on file: FileObject, _ request: Request, _ start: Start
    ) throws(PortError) -> StartOutcome {
        unsafe try self.start(operation.record, of: Unmanaged.passUnretained(operation), on: file, request, start)
    }

    /// Starts a claimed record, of an operation or of nobody. On a throw nothing was queued and it is still claimed; else
    /// a record of nobody may be gone when this returns.
    @inline(__always)
    static func start(
        _ record: OperationRecord.Pointer, of owner: Unmanaged<Operation>?, on file: FileObject, _ request: Request,
        _ start: Start
    ) throws(PortError) -> StartOutcome {
        let me = unsafe IOThread.currentReference
        unsafe record.pointee.kind = request.kind
        unsafe record.pointee.memory = request.memory
        unsafe record.pointee.length = request.length
        unsafe record.pointee.offset = request.offset
        unsafe record.pointee.callFlags = request.callFlags
        unsafe record.pointee.progress = 0
        unsafe record.pointee.step = 0
        unsafe record.pointee.information = 0
        unsafe record.pointee.thread = me._withUnsafeGuaranteedRef { $0.serial }
        let follows = unsafe record.pointee.flags.contains(.follows)
        var flags = unsafe record.pointee.flags.intersection(.suppressPacket)
        if request.continuous { flags.insert(.continuous) }
        if request.alwaysPends { flags.insert(.alwaysPends) }
        unsafe record.pointee.flags = flags
        unsafe record.pointee.cancelRequested.store(0, ordering: .relaxed)
        unsafe record.pointee.startNumber.store(
            record.pointee.startNumber.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
        unsafe record.pointee.isQueued.store(false, ordering: .relaxed)
        unsafe record.pointee.file = Unmanaged.passUnretained(file)
        unsafe record.pointee.lane = file.lane(of: request.kind)

        if follows { return unsafe try startLinked(record, owner!.takeUnretainedValue(), file) }

        // Pending before it is in the file's list: whoever closes the file waits for it to reach the queue.
        // And ready in every way: behind others of its direction, whoever completes the one before it queues it.
        let before = unsafe record.pointee.state.load(ordering: .relaxed)
        unsafe record.pointee.state.store(OperationRecord.pending, ordering: .releasing)
        unsafe record.pointee.phase.store(OperationRecord.Phase.inFlight, ordering: .releasing)
        // Given back with the packet, or when the packet is suppressed or discarded.
        if let owner = unsafe owner { _ = unsafe owner.retain() }
        let core: Unmanaged<PortCore>
        do throws(PortError) {
            let (port, isItsTurn) = unsafe try file.begin(record)
            if let port = unsafe port {
                if !isItsTurn { return .pending }
                unsafe core = port
            } else if isItsTurn {
                unsafe core = try startUnassociated(record, file, me.takeUnretainedValue())
            } else {
                unsafe me._withUnsafeGuaranteedRef { $0.noteUnassociated(file) }
                return .pending
            }
        } catch {
            unsafe record.pointee.phase.store(OperationRecord.Phase.preparing, ordering: .sequentiallyConsistent)
            unsafe record.pointee.state.store(before, ordering: .sequentiallyConsistent)
            unsafe owner?.release()
            throw error
        }
        let own = unsafe me._withUnsafeGuaranteedRef { unsafe $0.isTied(to: core) ? $0.leasedReference : nil }
        // What Windows never reports at once is in flight from the beginning.
        let mayEndInline = start == .eager && flags.isDisjoint(with: [.continuous, .alwaysPends])
        if mayEndInline {
            unsafe record.pointee.phase.store(OperationRecord.Phase.issuing, ordering: .releasing)
            // Not queued yet, it keeps whoever closes the file from giving its number away. A ring that only this thread can
            // enter must not wait for it, however many reads need no ring.
            if request.kind == .read, file.kind == .file,
                unsafe own?._withUnsafeGuaranteedRef({ $0.waitsForOwner }) != true
            {
                let bytes = unsafe file.readAtOnce(record)
                if bytes > 0 {
                    return unsafe try me.lend { (me) throws(PortError) in unsafe try endAtOnce(record, bytes, file, me)
                    }
                }
            }
        }

        let slot = unsafe own ?? Unmanaged.passUnretained(core._withUnsafeGuaranteedRef { $0.foreignSlot() })
        let isDeferred = unsafe start == .deferred && own != nil
        let isDue = unsafe slot._withUnsafeGuaranteedRef { slot in
            slot.lock.lock()
            unsafe slot.push(record)
            unsafe record.pointee.isQueued.store(true, ordering: .releasing)
            let isDue = isDeferred && slot.noteDeferred()
            slot.lock.unlock()
            return isDue
        }
        if isDeferred {
            if isDue {
                unsafe slot._withUnsafeGuaranteedRef { slot in
                    slot.submit()
                    // It has lost the ring meanwhile, perhaps to nobody.
                    let isMine =
                        unsafe slot.owner.load(ordering: .sequentiallyConsistent)
                        == me._withUnsafeGuaranteedRef { $0.serial }
                    if !isMine {
                        unsafe core._withUnsafeGuaranteedRef { $0.settle(slot) }
                    } else if slot.submitter.completionsReady > 0 {
                        // The thread takes its time, and what is ready by now would wait for it.
                        unsafe me.lend { me in unsafe core._withUnsafeGuaranteedRef { $0.callForHelp(slot, me) } }
                    }
                }
            }
            Observer.noteDeparture()
            return .pending
        }
        return unsafe try enter(
            record, slot.takeUnretainedValue(), core.takeUnretainedValue(), file,
            mayEndInline: mayEndInline, me.takeUnretainedValue())
    }

    /// The rings for an operation that was entered into the list of a file without a port.
    @inline(never)
    private static func startUnassociated(
        _ record: OperationRecord.Pointer, _ file: FileObject, _ me: IOThread
    ) throws(PortError) -> Unmanaged<PortCore> {
        do throws(PortError) {
            let core = try unassociated()
            me.noteUnassociated(file)
            return unsafe Unmanaged.passUnretained(core)
        } catch {
            let end = unsafe file.end(record, status: error.status.rawValue, signals: false)
            if end.drained { unsafe me.graveyard.append(Unmanaged.passUnretained(file).takeRetainedValue()) }
            // What has queued up behind it meanwhile has no rings either.
            var next = unsafe end.next
            while let waiting = unsafe next { unsafe next = finishUnqueued(waiting, me, error.status) }
            throw error
        }
    }

    /// A thread ends: so do its operations on files that have no port (e35).
    static func cancelUnassociated(_ files: [FileObject], startedBy serial: UInt32) {
        for file in files where file.association == nil {
            for start in unsafe file.pendingOperations(where: { unsafe $0.pointee.thread == serial }) {
                _ = cancel(start)
            }
        }
    }

    /// The part of a start that enters the kernel at once.
    @inline(never)
    private static func enter(
        _ record: OperationRecord.Pointer, _ slot: Slot, _ core: PortCore, _ file: FileObject, mayEndInline: Bool,
        _ me: IOThread
    ) throws(PortError) -> StartOutcome {
        slot.submit(waitsForOthers: mayEndInline)
        defer {
            core.settle(slot)
            // Its leaseholder may be out for long, with nothing in flight when it left.
            Observer.noteDeparture()
            me.buryDead()
        }
        // Not a look at the record: started like that, it may be another start's by now.
        guard mayEndInline else { return .pending }
        // Completed during the submission: the completion is in the ring now.
        core.progress(me, including: slot)
        // Anything but "completed inline" means that a packet tells, or has told already.
        guard
            unsafe record.pointee.phase.compareExchange(
                expected: OperationRecord.Phase.issuing, desired: OperationRecord.Phase.inFlight,
                ordering: .sequentiallyConsistent
            ).original == OperationRecord.Phase.completedInline
        else { return .pending }
        return unsafe try concludeInline(record, file, slot, me)
    }

    /// The bytes of an eager read lay in the page cache: no ring has seen it.
    @inline(never)
    private static func endAtOnce(
        _ record: OperationRecord.Pointer, _ bytes: Int, _ file: FileObject, _ me: IOThread
    ) throws(PortError) -> StartOutcome {
        defer {
            if !me.graveyard.isEmpty { me.buryDead() }
            // Its packet may wait behind this thread, which may be out for long.
            Observer.noteDeparture()
        }
        unsafe record.pointee.information = UInt(bytes)
        unsafe record.pointee.callFlags = Int32(bitPattern: CompletionStatus.success.rawValue)
        unsafe record.pointee.inlineAuxiliary = 0
        unsafe record.pointee.inlineFlags = []
        unsafe record.pointee.phase.store(OperationRecord.Phase.completedInline, ordering: .relaxed)
        return unsafe try concludeInline(record, file, nil, me)
    }

    /// The operation completed before its starter looked: the master rule's upper half (e1).
    ///
    /// - Parameter slot: carried it, was looked into, and carries what comes next in its lane; nil for an operation that no
    ///   ring has seen, and that has no lane.
    private static func concludeInline(
        _ record: OperationRecord.Pointer, _ file: FileObject, _ slot: Slot?, _ me: IOThread
    ) throws(PortError) -> StartOutcome {
        let status = unsafe CompletionStatus(rawValue: record.pointee.inlineStatus)
        let information = unsafe record.pointee.information
        let suppressed = unsafe record.pointee.flags.contains(.suppressPacket)
        let owner = unsafe record.pointee.owner
        let event = unsafe record.pointee.event
        let pends = unsafe status.isWarning || Outcomes.isReportedByPacket(record, status)
        let fails = status.isError && !pends
        // Modes are only ever added.
        let before = file.peek()
        let skips = before.modes.contains(.skipCompletionPortOnSuccess) && !pends  // e14
        // Nobody may see the status and not find the packet: the port is locked from one to the other.
        let port = unsafe fails || suppressed || skips ? nil : before.port?.takeUnretainedValue()
        if let port {
            port.lock.lock()
            if slot == nil { port.catchUp(with: me) }
        }
        let end = unsafe file.end(record, status: status.rawValue, signals: event == nil && !fails)
        let entry = unsafe PacketEntry(
            key: end.key, overlapped: record.pointee.token,
            information: information, status: status.rawValue, auxiliary: record.pointee.inlineAuxiliary,
            flags: owner == nil ? record.pointee.inlineFlags : record.pointee.inlineFlags.union(.operation))
        if unsafe record.pointee.followers.load(ordering: .sequentiallyConsistent) != nil {
            unsafe Link.end(of: record, status, me)
        }
        if end.isAwaited { unsafe futexWake(record.pointee.state, count: .max) }
        var isLeft = false
        if !fails {
            // From here on the record may be another start's, or gone.
            if unsafe owner != nil {
                unsafe event?._withUnsafeGuaranteedRef { $0.set() }
                unsafe record.pointee.unclaim()
            } else {
                isLeft = unsafe RecordHold.takesOver(
                    record, record.pointee.inlineAuxiliary, record.pointee.inlineFlags)
                if !isLeft { unsafe tell(record, status, information) }
            }
        }
        let yields = unsafe !fails && !isLeft && !suppressed && !skips && end.port != nil
        if yields, let port {
            port.deliverLocked(entry, me)
        } else {
            port?.publish()
            port?.unlockAndWake()
            // Associated at this very moment.
            if yields { unsafe end.port!.takeUnretainedValue().deliver(entry, me) }
        }
        if end.drained { unsafe me.graveyard.append(Unmanaged.passUnretained(file).takeRetainedValue()) }
        if let next = unsafe end.next {
            // The caller submits it. What no ring has seen has no lane, and nothing behind it.
            slot!.lock.lock()
            unsafe pushNext(next, slot!)
            slot!.lock.unlock()
        }
        if fails {
            // No packet, the event stays reset, the reference of the start is given back.
            unsafe owner?.release()
            if unsafe owner == nil {
                unsafe RecordHold.awaitNone(record)
                if unsafe !suppressed && end.port != nil { file.ledger?.settle() }
            }
            throw PortError(status, "the operation failed at once; nothing was queued")
        }
        // Whoever holds it tells of its end, by a packet: it is pending.
        if isLeft { return .pending }
        if !yields {
            if unsafe owner == nil && !suppressed && end.port != nil { file.ledger?.settle() }
            // No lock is held: what the last reference does may be done here.
            if let owner = unsafe owner, entry.flags == .operation {
                unsafe owner.release()
            } else {
                discard(entry, graveyard: me)
            }
        }
        // The packet tells of what pends; the call itself reports a warning, too (e5).
        return pends ? .pending : .completed(bytes: Int(truncatingIfNeeded: information))
    }

    // MARK: Completing

    /// Turns completions of a slot's ring into packets. Returns how many were written.
    ///
    /// Holds the slot's lock from the first look to the last write, so that two harvesters keep the ring's order. The
    /// caller holds the port's lock, or leases the slot and takes the packets itself, `directly`: then it gets none if
    /// others have harvested the ring, whose packets are older and may be on their way to the port's queue only now.
    static func harvest(
        _ slot: Slot, into out: UnsafeMutablePointer<PacketEntry>, capacity: Int, directly: Bool = false, _ me: IOThread
    ) -> Int {
        slot.lock.lock()
        let isMine = slot.owner.load(ordering: .relaxed) == me.serial
        // A thread that was seen to block on its way here has lost the ring.
        if directly && (!isMine || slot.isDiverted.load(ordering: .relaxed)) {
            slot.lock.unlock()
            return 0
        }
        var produced = 0
        var consumed: UInt32 = 0
        var ready: UInt32 = 0
        var pushed = false
        while produced < capacity {
            if consumed == ready {
                ready = slot.completionsReady
                // After that look: what was queued before these completed comes before them (d2).
                if unsafe consumed == ready || directly && !slot.core.mayTakeDirectly { break }
            }
            fetch(slot, consumed, ready)
            let completion = slot.completion(at: consumed)
            let tag = completion.userData & Slot.tagMask
            if tag != 0 && tag < Slot.silentTag {
                // A wake-up, perhaps not yet seen by the sleeper it is for: leave it.
                if completion.userData == Slot.wakeTag && slot.isWatched { break }
                if tag > Slot.ignoredTag { slot.noteTagged(completion.userData) }
                consumed += 1
                continue
            }
            consumed += 1
            if unsafe complete(completion, slot, me, out + produced, &pushed) { produced += 1 }
        }
        if consumed > 0 { slot.advance(by: consumed) }
        if produced > 0 && !isMine { slot.isDiverted.store(true, ordering: .relaxed) }
        if slot.hasBacklog { slot.drainBacklog() }
        slot.lock.unlock()
        // The leaseholder submits what follows with its next entry; the observer does if none comes soon.
        if pushed {
            if isMine { Observer.noteDeparture() } else { slot.submit() }
        }
        return produced
    }

    /// How many completions ahead a record is asked for, and then what it refers to.
    private static let recordLead: UInt32 = 8
    private static let fileLead: UInt32 = 4

    /// Asks for the memory of completions further on, so that it is in the caches when their turn comes: with many
    /// connections the kernel's own has driven it out since the start. Nobody changes the fields that are looked at before
    /// the completion is handled.
    @inline(__always)
    private static func fetch(_ slot: Slot, _ consumed: UInt32, _ ready: UInt32) {
        let left = ready &- consumed
        if left > recordLead, let record = unsafe record(slot, consumed &+ recordLead) {
            unsafe fetch(UnsafeRawPointer(record))
        }
        if left > fileLead, let record = unsafe record(slot, consumed &+ fileLead) {
            if let file = unsafe record.pointee.file { unsafe fetch(UnsafeRawPointer(file.toOpaque())) }
            if let owner = unsafe record.pointee.owner { unsafe iocp_prefetch(owner.toOpaque()) }
        }
    }

    /// Three cache lines: a record, or a file object.
    @inline(__always)
    private static func fetch(_ start: UnsafeRawPointer) {
        unsafe iocp_prefetch(start)
        unsafe iocp_prefetch(start + 64)
        unsafe iocp_prefetch(start + 128)
    }

    /// What a completion is about; nil for one of the slot's own.
    @inline(__always)
    private static func record(_ slot: Slot, _ offset: UInt32) -> OperationRecord.Pointer? {
        let data = slot.completion(at: offset).userData
        let tag = data & Slot.tagMask
        if tag != 0 && tag < Slot.silentTag { return nil }
        return unsafe OperationRecord.Pointer(bitPattern: UInt(data & ~Slot.tagMask))
    }

    /// One completion. Returns whether it yielded a packet for the harvester, written to `out`.
    @inline(__always)
    private static func complete(
        _ completion: Completion, _ slot: Slot, _ me: IOThread, _ out: UnsafeMutablePointer<PacketEntry>,
        _ pushed: inout Bool
    ) -> Bool {
        let record = unsafe OperationRecord.Pointer(bitPattern: UInt(completion.userData & ~Slot.tagMask))!
        if !completion.more && completion.userData & Slot.tagMask == 0 { slot.requestEnded() }
        switch unsafe Outcomes.next(record, completion, slot) {
        case .again:
            unsafe slot.push(record)
            pushed = true
            return false
        case .paused:
            return false
        case .asked:
            pushed = true
            return false
        case .awaitsNotification(let isSent):
            let file = unsafe record.pointee.file!
            if isSent, let next = unsafe file._withUnsafeGuaranteedRef({ unsafe $0.leaveTurn(record) }) {
                unsafe pushNext(next, slot)
                pushed = true
            }
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
                // It may have waited for a buffer that an empty datagram did not need: those behind it come first.
                if unsafe record.pointee.kind == .receiveContinuously, !flags.contains(.lentBuffer) {
                    let group = unsafe record.pointee.lender
                    _ = unsafe group._withUnsafeGuaranteedRef { $0.noteUnused(in: slot) }
                }
                // What came before the end was asked for is delivered; then the record comes round to see the reason.
                if unsafe Outcomes.interruption(record) != nil {
                    unsafe record.pointee.flags = record.pointee.flags.union(.polling)
                }
                unsafe slot.push(record)
                pushed = true
            }
            return yields
        case .finished(let status, let information, let auxiliary, let flags):
            var next: OperationRecord.Pointer?
            // The operation keeps its group alive, and is kept alive itself by its packet or in the graveyard.
            let group =
                unsafe record.pointee.kind == .receiveContinuously ? record.pointee.lender : nil
            let yields = unsafe finish(record, status, information, auxiliary, flags, slot, me, out, &next)
            if let next = unsafe next {
                unsafe pushNext(next, slot)
                pushed = true
            }
            if let group = unsafe group, unsafe group._withUnsafeGuaranteedRef({ $0.noteUnused(in: slot) }) {
                pushed = true
            }
            return yields
        }
    }

    /// An operation whose turn in its lane has come. Under the slot's lock.
    @inline(never)
    private static func pushNext(_ record: OperationRecord.Pointer, _ slot: Slot) {
        // One that is to end only comes round to see the reason.
        if unsafe Outcomes.interruption(record) != nil {
            unsafe record.pointee.flags = record.pointee.flags.union(.polling)
        }
        unsafe slot.push(record)
        unsafe record.pointee.isQueued.store(true, ordering: .releasing)
    }

    /// The operation is over: its record is written, its event set, its packet made. `next` is to be pushed.
    @inline(__always)
    static func finish(
        _ record: OperationRecord.Pointer, _ status: CompletionStatus, _ information: UInt, _ auxiliary: Int32,
        _ flags: PacketEntry.Flags, _ slot: Slot?, _ me: IOThread, _ out: UnsafeMutablePointer<PacketEntry>,
        _ next: inout OperationRecord.Pointer?
    ) -> Bool {
        unsafe record.pointee.information = information
        // An eager starter that has not looked yet does the rest by itself.
        if unsafe record.pointee.phase.load(ordering: .acquiring) == OperationRecord.Phase.issuing {
            // `inlineStatus`; a setter would be an access to the whole record.
            unsafe record.pointee.callFlags = Int32(bitPattern: status.rawValue)
            unsafe record.pointee.inlineAuxiliary = auxiliary
            unsafe record.pointee.inlineFlags = flags
            // Fails only if the starter has declared it pending meanwhile.
            if unsafe record.pointee.phase.compareExchange(
                expected: OperationRecord.Phase.issuing, desired: OperationRecord.Phase.completedInline,
                ordering: .sequentiallyConsistent
            ).exchanged {
                return false
            }
        }
        // The record is declared idle last: its user may start it again then, and close the file and let go of the event.
        let owner = unsafe record.pointee.owner
        let event = unsafe record.pointee.event
        let suppressed = unsafe record.pointee.flags.contains(.suppressPacket)
        let file = unsafe record.pointee.file!
        var destination: PortCore?
        let end = unsafe file._withUnsafeGuaranteedRef { file in
            if slot?.isHomeless == true {
                // Started without a port: the file keeps the port alive that the packet goes to.
                me.graveyard.append(file)
                let end = unsafe file.endUnassociated(record, status: status.rawValue, signals: event == nil)
                if let end { return end }
                // Nobody may see the status and not find the packet.
                destination = file.association?.port
                destination?.lock.lock()
            }
            return unsafe file.end(record, status: status.rawValue, signals: event == nil)
        }
        unsafe next = end.next
        if unsafe record.pointee.followers.load(ordering: .sequentiallyConsistent) != nil {
            unsafe Link.end(of: record, status, me)
        }
        if end.drained { unsafe me.graveyard.append(file.takeRetainedValue()) }
        if let owner = unsafe owner {
            unsafe out.initialize(
                to: PacketEntry(
                    key: end.key, overlapped: UInt(bitPattern: owner.toOpaque()), information: information,
                    status: status.rawValue, auxiliary: auxiliary, slot: slot?.index ?? 0,
                    flags: flags.union(.operation)))
            if end.isAwaited { unsafe futexWake(record.pointee.state, count: .max) }
            unsafe event?._withUnsafeGuaranteedRef { $0.set() }
            unsafe record.pointee.phase.store(OperationRecord.Phase.idle, ordering: .releasing)
        } else {
            // Whoever holds it goes on with it when he lets go.
            if unsafe RecordHold.takesOver(record, auxiliary, flags) {
                destination?.unlockAndWake()
                return false
            }
            unsafe out.initialize(
                to: PacketEntry(
                    key: end.key, overlapped: record.pointee.token, information: information,
                    status: status.rawValue, auxiliary: auxiliary, flags: flags))
            unsafe tell(record, status, information)
        }
        if unsafe suppressed || end.port == nil {
            destination?.unlockAndWake()
            unsafe discard(out.pointee, graveyard: me)
            return false
        }
        if let destination {
            unsafe destination.deliverLocked(out.pointee, me)
            return false
        }
        return unsafe route(out, end, slot, me)
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

    /// Tells the user of an operation in memory of his own that it is over. The memory may be gone after this, but for
    /// what the packet is about.
    @inline(__always)
    private static func tell(_ record: OperationRecord.Pointer, _ status: CompletionStatus, _ information: UInt) {
        let event = unsafe record.pointee.event
        let overlapped = unsafe record.pointee.token
        unsafe record.pointee.event = nil
        unsafe record.pointee.unclaim()
        Overlapped.complete(at: overlapped, status.rawValue, information)
        if let event = unsafe event {
            unsafe event._withUnsafeGuaranteedRef { $0.set() }
            unsafe event.release()
        }
    }

    /// The last holder of an operation that ended meanwhile lets go of it: what `finish` has left to it. No lock is held.
    static func concludeHeld(_ record: OperationRecord.Pointer, of file: FileObject) {
        let me = IOThread.current
        let status = unsafe record.pointee.status
        let information = unsafe record.pointee.information
        let suppressed = unsafe record.pointee.flags.contains(.suppressPacket)
        let end = file.peek()
        let entry = unsafe PacketEntry(
            key: end.key, overlapped: record.pointee.token, information: information, status: status.rawValue,
            auxiliary: record.pointee.inlineAuxiliary, flags: record.pointee.inlineFlags)
        let port = unsafe suppressed ? nil : end.port?.takeUnretainedValue()
        // Nobody may see the status and not find the packet.
        port?.lock.lock()
        unsafe tell(record, status, information)
        if let port {
            port.deliverLocked(entry, me)
        } else {
            discard(entry, graveyard: me)
        }
        me.buryDead()
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
    static func cancel(_ start: FileObject.PendingStart) -> Bool {
        let record = unsafe start.record
        guard unsafe record.pointee.startNumber.load(ordering: .relaxed) == start.number,
            unsafe record.pointee.cancelRequested.exchange(start.number, ordering: .sequentiallyConsistent)
                != start.number
        else { return false }
        return interrupt(start)
    }

    /// Ends the request that the kernel holds for a record, wherever it is on its way. The record's next step sees the
    /// reason: a cancellation or the closing of the file. The caller keeps the file alive.
    @discardableResult
    static func interrupt(_ start: FileObject.PendingStart) -> Bool {
        let record = unsafe start.record
        let me = IOThread.current
        // A starter on another thread is between entering the file's list and the queue: a matter of nanoseconds, or of the
        // microseconds that a read out of the page cache takes, or longer if the memory it goes to is not there.
        while unsafe !record.pointee.isQueued.load(ordering: .acquiring) {
            if Link.takeOut(start) {
                _ = unsafe finishUnqueued(record, me)
                me.buryDead()
                return true
            }
            switch start.file.leaveLane(start) {
            case .left:
                _ = unsafe finishUnqueued(record, me)
                me.buryDead()
                return true
            case .soon:
                return true
            case .notThere:
                break
            }
            guard unsafe record.pointee.isPending,
                unsafe record.pointee.startNumber.load(ordering: .relaxed) == start.number
            else { return unsafe hasBeenCancelled(record, start) }
            iocp_yield()
        }
        guard var slot = unsafe record.pointee.slot else { return false }
        let core = unsafe slot.core
        // After this lock, every step of the operation sees the flag: what was pushed before is in the queue.
        slot.lock.lock()
        while let other = unsafe record.pointee.slot, other !== slot {
            // It has moved, with its ring's owner gone, before the flag was seen.
            slot.lock.unlock()
            slot = other
            slot.lock.lock()
        }
        let isInFlight = unsafe record.pointee.isInFlight
        guard isInFlight, unsafe record.pointee.startNumber.load(ordering: .relaxed) == start.number else {
            slot.lock.unlock()
            return unsafe hasBeenCancelled(record, start)
        }
        if unsafe record.pointee.kind == .sendZeroCopy && record.pointee.step == Outcomes.awaitingNotification {
            // It has been sent: it ends, well, when the network needs its memory no more.
            slot.lock.unlock()
            return true
        }
        slot.enqueueLate()
        let waited =
            unsafe slot.removeFromBacklog(record)
            || (record.pointee.kind == .receiveContinuously
                && record.pointee.lender._withUnsafeGuaranteedRef { unsafe $0.removePaused(record) })
        slot.lock.unlock()
        if waited {
            if let next = unsafe finishUnqueued(record, me) {
                slot.lock.lock()
                unsafe pushNext(next, slot)
                slot.lock.unlock()
                core.settle(slot)
            }
            me.buryDead()
            return true
        }
        let identity = UInt64(UInt(bitPattern: record))
        var result: Int32 = 0
        var attempts = 0
        repeat {
            // What is queued names the descriptor by its number, which a close gives back next.
            let file = handOver(slot, core, me) || slot.isPolled ? nil : withdraw(start, slot)
            guard let answer = slot.cancel(identity) else {
                // A thread that was handing the request over when it was withdrawn may still be doing so.
                file?.keepNumber()
                break
            }
            result = answer
            // Asking had to wait for whoever was handing the request over: it is a no-op, or ended.
            if file != nil { return true }
            if result != -ENOENT { break }
            // Between two requests, or completed: the ring tells once its completions are seen.
            core.progress(me, including: slot)
            attempts += 1
            if attempts > 2 { iocp_yield() }
            // Bounded: a busy thread may owe the completion, which will find the reason when it comes.
        } while unsafe record.pointee.isPending && attempts < 50
        core.settle(slot)
        if result >= 0 || result == -ETIME || result == -EALREADY { return true }
        // It has found the reason by itself between two requests, or will.
        return unsafe record.pointee.isPending || record.pointee.status == .cancelled
    }

    /// Whether a start that is over has found the reason by itself just now, its turn having come meanwhile.
    private static func hasBeenCancelled(_ record: OperationRecord.Pointer, _ start: FileObject.PendingStart) -> Bool {
        unsafe record.pointee.status == .cancelled
            && record.pointee.startNumber.load(ordering: .relaxed) == start.number
    }

    /// Hands over what a slot holds. Returns false if the kernel refuses it.
    private static func handOver(_ slot: Slot, _ core: PortCore, _ me: IOThread) -> Bool {
        // A full completion queue (EBUSY) is emptied; short memory passes or does not.
        var attempts = slot.isRefused ? 1 : 4
        // A thread of the kernel's takes it in a moment; until then it names the descriptor by its number.
        while !slot.submit(waitsForOthers: slot.isPolled) {
            attempts -= 1
            if attempts == 0 { return false }
            core.progress(me, including: slot)
            iocp_yield()
        }
        return true
    }

    /// Takes the meaning of a request that is still queued. Returns its file if it was.
    private static func withdraw(_ start: FileObject.PendingStart, _ slot: Slot) -> FileObject? {
        let record = unsafe start.record
        slot.lock.lock()
        defer { slot.lock.unlock() }
        guard unsafe record.pointee.startNumber.load(ordering: .relaxed) == start.number,
            unsafe slot.withdraw(record)
        else { return nil }
        return unsafe record.pointee.file?.takeUnretainedValue()
    }

    /// Ends an operation that the kernel does not hold. Returns the one whose turn has come.
    static func finishUnqueued(
        _ record: OperationRecord.Pointer, _ me: IOThread, _ status: CompletionStatus = .cancelled
    ) -> OperationRecord.Pointer? {
        var entry = PacketEntry(key: 0, overlapped: 0, information: 0, status: 0)
        var next: OperationRecord.Pointer?
        let status = unsafe Outcomes.interruption(record) ?? status
        // Bytes that were sent are none that were received.
        let progress = unsafe record.pointee.kind == .transact ? 0 : UInt(record.pointee.progress)
        unsafe Outcomes.dropHeld(record)
        _ = unsafe finish(record, status, progress, 0, [], nil, me, &entry, &next)
        return unsafe next
    }
}
