internal import Synchronization

/// The state of an event, which is also what its waiters sleep on.
///
/// Setting it satisfies every wait that has begun, even if it is reset before the waiters run: an operation that is
/// started again at once resets its event, and whoever waited for the completion before must not wait for the next.
struct EventWord: ~Copyable {
    /// Bit 0: set. Bits 1–15: waiters; with automatic reset, those that have been granted nothing yet. Bits 16–31: how
    /// often it was set; with automatic reset, waits that are satisfied and have yet to notice.
    private let word: Atomic<UInt32>

    private static let setBit: UInt32 = 1
    private static let oneWaiter: UInt32 = 2
    private static let waiters: UInt32 = 0xfffe
    private static let oneGrant: UInt32 = 0x1_0000

    init(isSet: Bool) {
        word = Atomic(isSet ? Self.setBit : 0)
    }

    @inline(__always)
    var isSet: Bool { word.load(ordering: .acquiring) & Self.setBit != 0 }

    /// Waits that have begun and been granted nothing yet.
    var waiterCount: Int { Int(word.load(ordering: .acquiring) & Self.waiters) / Int(Self.oneWaiter) }

    @inline(__always)
    borrowing func set(resetsAutomatically: Bool = false) {
        var old = word.load(ordering: .relaxed)
        while true {
            let isAwaited = old & Self.waiters != 0
            var new = old | Self.setBit
            if resetsAutomatically {
                if isAwaited { new = old &- Self.oneWaiter &+ Self.oneGrant }
            } else if old & Self.setBit == 0 {
                new = new &+ Self.oneGrant
            }
            // Also when nothing changes: what the setter wrote before must be seen by whoever finds the event set.
            let (exchanged, now) = word.compareExchange(
                expected: old, desired: new, ordering: .sequentiallyConsistent)
            if exchanged {
                if isAwaited { wakeWaiters() }
                return
            }
            old = now
        }
    }

    /// The same, but does nothing where the event is set already and nobody waits. For a setter whose event only says that
    /// something has ended: what ended, and what was written before that, is found by other words.
    @inline(__always)
    borrowing func setUnlessSet() {
        if word.load(ordering: .relaxed) & (Self.setBit | Self.waiters) != Self.setBit { set() }
    }

    @inline(__always)
    borrowing func reset() {
        if isSet { _ = word.bitwiseAnd(~Self.setBit, ordering: .sequentiallyConsistent) }
    }

    /// Whether the event is set; with automatic reset, resets it.
    borrowing func consume(resetsAutomatically: Bool) -> Bool {
        guard resetsAutomatically else { return isSet }
        return word.bitwiseAnd(~Self.setBit, ordering: .sequentiallyConsistent).oldValue & Self.setBit != 0
    }

    @inline(never)
    private borrowing func wakeWaiters() {
        // All: with automatic reset one finds the grant and the others sleep again.
        futexWake(word, count: .max)
    }

    /// Sleeps until the event is set, or was for a moment, or until the deadline.
    borrowing func wait(_ deadline: Deadline, resetsAutomatically: Bool) -> Bool {
        let generation = word.add(Self.oneWaiter, ordering: .sequentiallyConsistent).oldValue >> 16
        while true {
            let now = word.load(ordering: .sequentiallyConsistent)
            let left = deadline.remaining
            // What the word becomes if the wait ends here: with a grant the setter has counted this waiter out.
            let end: (value: UInt32, satisfied: Bool)?
            if now & Self.setBit != 0 {
                end = (now &- Self.oneWaiter & ~(resetsAutomatically ? Self.setBit : 0), true)
            } else if resetsAutomatically, now >> 16 != 0 {
                end = (now &- Self.oneGrant, true)
            } else if !resetsAutomatically, now >> 16 != generation {
                end = (now &- Self.oneWaiter, true)
            } else if left == 0 {
                end = (now &- Self.oneWaiter, false)
            } else {
                end = nil
            }
            guard let end else {
                IOThread.sleep(on: word, while: now, nanoseconds: left)
                continue
            }
            if word.compareExchange(expected: now, desired: end.value, ordering: .sequentiallyConsistent).exchanged {
                return end.satisfied
            }
        }
    }
}
