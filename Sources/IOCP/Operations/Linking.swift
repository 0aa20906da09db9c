internal import Synchronization

extension Operation {
    /// Makes the next start of this operation wait: it begins when another one has succeeded.
    ///
    /// Started, it is in flight like any other, and has its one packet. If the other one fails or is cancelled, this one
    /// ends with ``CompletionStatus/cancelled`` (995) without having begun, and so do those that follow it. If the other one
    /// is not in flight when this one is started, the way it ended last decides at once. Cancelled, or with its handle
    /// closed, while it waits, it ends, and the other one goes on.
    ///
    /// The library begins it when it sees the other one's end, which is before anybody has dequeued that packet: a chain
    /// goes on while the threads of the port do something else. Several operations may follow the same one.
    ///
    /// ```swift
    /// try file.write(record, at: 0)
    /// try commit.follow(record)
    /// try file.synchronize(commit)
    /// ```
    ///
    /// - Parameter other: may belong to another handle, or port. Nil takes a call before back.
    /// - Throws: ``PortError``: 87 while this one is in flight, or if it is to follow itself.
    /// - Cost: an allocation for each start that waits. The start must be on a handle that is associated with a port, or it
    ///   fails with 87; it is always ``StartOutcome/pending``. io_uring's own linked requests are not used: see
    ///   <doc:FasterWays>. Win32 has no such thing.
    public final func follow(_ other: Operation?) throws(PortError) {
        guard other !== self else { throw .invalid("an operation cannot wait for itself") }
        try claim()
        if other != nil || extras != nil { needExtras().predecessor = other }
        unsafe record.pointee.flags =
            other == nil ? record.pointee.flags.subtracting(.follows) : record.pointee.flags.union(.follows)
        unclaim()
    }
}

/// An operation, started, that waits for another one to succeed.
final class Link: @unchecked Sendable {
    // Unchecked: `lock` guards what changes.

    /// An inner lock: of few instructions, under which nothing else is done.
    private static let lock = FutexLock()

    let operation: Operation
    let file: FileObject
    /// The number of the operation's start.
    private let number: UInt32
    /// It has begun, or ended.
    private var isOver = false
    /// The next that waits for the same.
    private var next: Link?

    init(_ operation: Operation, _ file: FileObject) {
        self.operation = operation
        self.file = file
        number = unsafe operation.record.pointee.startNumber.load(ordering: .relaxed)
    }

    /// Sets what others look for under the lock.
    static func set(_ extras: OperationExtras, of place: inout OperationExtras?) {
        lock.lock()
        place = extras
        lock.unlock()
    }

    enum Waiting {
        case waits, begins, ends
    }

    /// Waits for an operation, unless it has ended.
    func wait(for other: Operation) -> Waiting {
        Self.lock.lock()
        defer { Self.lock.unlock() }
        operation.extras?.link = self
        let before = unsafe other.record.pointee.followers.load(ordering: .relaxed)
        next = unsafe before?.takeRetainedValue()
        // Those that were cancelled do not pile up behind an operation without end.
        while let first = next, first.isOver { next = first.next }
        unsafe other.record.pointee.followers.store(Unmanaged.passRetained(self), ordering: .sequentiallyConsistent)
        // Whoever ends it writes its status first, and looks at its followers then.
        if unsafe other.record.pointee.isPending { return .waits }
        // Taken out again, so that a later end does not find it.
        if let rest = next {
            unsafe other.record.pointee.followers.store(Unmanaged.passRetained(rest), ordering: .sequentiallyConsistent)
        } else {
            unsafe other.record.pointee.followers.store(nil, ordering: .sequentiallyConsistent)
        }
        next = nil
        unsafe Unmanaged.passUnretained(self).release()
        isOver = true
        operation.extras?.link = nil
        return unsafe other.record.pointee.status.isSuccess ? .begins : .ends
    }

    /// Whether the link was not over, and is now.
    private func finish() -> Bool {
        Self.lock.lock()
        defer { Self.lock.unlock() }
        if isOver { return false }
        isOver = true
        operation.extras?.link = nil
        return true
    }

    /// A start does not wait for its link any more. Returns whether it did.
    static func takeOut(_ start: FileObject.PendingStart) -> Bool {
        guard let owner = unsafe start.record.pointee.owner else { return false }
        lock.lock()
        let link = unsafe owner._withUnsafeGuaranteedRef { $0.extras?.link }
        lock.unlock()
        guard let link, link.number == start.number else { return false }
        return link.finish()
    }

    /// An operation has ended: those that wait for it begin, or end, once no lock is held.
    @inline(never)
    static func end(of record: OperationRecord.Pointer, _ status: CompletionStatus, _ me: IOThread) {
        lock.lock()
        let first = unsafe record.pointee.followers.exchange(nil, ordering: .sequentiallyConsistent)
        lock.unlock()
        guard let first = unsafe first?.takeRetainedValue() else { return }
        me.graveyard.append(Due(first, status.isSuccess))
    }

    /// What is to be done with a list of links when it is let go of.
    private final class Due {
        private let first: Link
        private let begins: Bool

        init(_ first: Link, _ begins: Bool) {
            self.first = first
            self.begins = begins
        }

        deinit {
            // In the order of their starts.
            var links: [Link] = []
            var next: Link? = first
            while let link = next {
                links.append(link)
                next = link.next
            }
            for link in links.reversed() where link.finish() {
                if begins { Engine.begin(link) } else { Engine.end(link) }
            }
        }
    }
}

extension Engine {
    /// Starts a claimed operation that waits for another one. Its record is filled. On a throw it is still claimed.
    @inline(never)
    static func startLinked(
        _ record: OperationRecord.Pointer, _ operation: Operation, _ file: FileObject
    ) throws(PortError) -> StartOutcome {
        let predecessor = operation.extras?.predecessor
        operation.extras?.predecessor = nil
        guard let predecessor, file.association != nil else {
            throw .invalid("an operation that follows another one needs a handle that is associated with a port")
        }
        guard unsafe record.pointee.kind != .transact else {
            throw .invalid("a transaction cannot follow an operation")
        }
        // It takes its turn when it begins.
        unsafe record.pointee.lane = .none
        let before = unsafe record.pointee.state.exchange(OperationRecord.pending, ordering: .sequentiallyConsistent)
        unsafe record.pointee.phase.store(OperationRecord.Phase.inFlight, ordering: .releasing)
        let kept = unsafe Unmanaged.passRetained(operation)
        let link = Link(operation, file)
        do throws(PortError) {
            _ = unsafe try file.begin(record)
        } catch {
            unsafe record.pointee.phase.store(OperationRecord.Phase.preparing, ordering: .sequentiallyConsistent)
            unsafe record.pointee.state.store(before, ordering: .sequentiallyConsistent)
            unsafe kept.release()
            throw error
        }
        switch link.wait(for: predecessor) {
        case .waits: break
        case .begins: begin(link)
        case .ends: end(link)
        }
        return .pending
    }

    /// The operation's turn has come, but for those of its direction. No lock is held.
    static func begin(_ link: Link) {
        let me = IOThread.current
        let record = unsafe link.operation.record
        guard let core = link.file.association?.port else { return }
        guard let isItsTurn = unsafe link.file.takeTurn(record) else {
            // A transaction has the socket, which it was not to have yet.
            _ = unsafe finishUnqueued(record, me, .invalidParameter)
            return
        }
        if !isItsTurn { return }
        let own = unsafe me.isTied(to: core) ? me.leasedReference : nil
        let slot = unsafe own?.takeUnretainedValue() ?? core.foreignSlot()
        slot.lock.lock()
        unsafe slot.push(record)
        unsafe record.pointee.isQueued.store(true, ordering: .releasing)
        slot.lock.unlock()
        if unsafe own == nil { core.settle(slot) }
        Observer.noteDeparture()
    }

    /// The operation is not to begin. No lock is held.
    static func end(_ link: Link) {
        _ = unsafe finishUnqueued(link.operation.record, IOThread.current)
    }
}
