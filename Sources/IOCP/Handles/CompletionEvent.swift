internal import Synchronization

/// An event that a thread can wait on and a completion can set.
///
/// - Thread safety: every call from any thread.
/// - Cost: setting an event that nobody waits on is one atomic operation.
///
/// The corresponding Win32 functions are `CreateEvent`, `SetEvent`, `ResetEvent` and `WaitForSingleObject`.
public final class CompletionEvent: Sendable {
    /// 0 reset, 1 set, 2 reset and waited for.
    private let word: Atomic<UInt32>
    /// Whether a successful wait resets the event, letting one waiter through.
    public let resetsAutomatically: Bool

    public init(resetsAutomatically: Bool = false, isSet: Bool = false) {
        self.resetsAutomatically = resetsAutomatically
        word = Atomic(isSet ? 1 : 0)
    }

    public var isSet: Bool { word.load(ordering: .acquiring) == 1 }

    public func set() {
        if word.exchange(1, ordering: .sequentiallyConsistent) == 2 {
            // All are woken: with automatic reset one wins the exchange below and the others sleep again.
            futexWake(word, count: .max)
        }
    }

    public func reset() {
        _ = word.compareExchange(expected: 1, desired: 0, ordering: .sequentiallyConsistent)
    }

    /// Waits until the event is set.
    ///
    /// A thread that runs on behalf of a port gives its place up while it waits (d7), if it waits at all (d8).
    /// - Parameter timeout: nil waits for ever, zero only looks.
    /// - Returns: whether the event was set in time.
    @discardableResult
    public func wait(timeout: Duration? = nil) throws(PortError) -> Bool {
        let deadline = try Deadline(after: timeout)
        if consume() { return true }
        if deadline.isImmediate {
            // The completion that would set it may lie in a ring that nobody looks at.
            Engine.progress()
            return consume()
        }
        var isSet = false
        IOThread.current.blocking {
            while true {
                if consume() {
                    isSet = true
                    return
                }
                _ = word.compareExchange(expected: 0, desired: 2, ordering: .sequentiallyConsistent)
                let left = deadline.remaining
                if left == 0 {
                    isSet = consume()
                    return
                }
                futexWait(word, while: 2, nanoseconds: left)
            }
        }
        return isSet
    }

    private func consume() -> Bool {
        if resetsAutomatically {
            // Others may still wait: leave the word as "waited for", so that the next set wakes them.
            return word.compareExchange(expected: 1, desired: 2, ordering: .sequentiallyConsistent).exchanged
        }
        return word.load(ordering: .acquiring) == 1
    }
}
