/// An event that a thread can wait on and a completion can set.
///
/// - Thread safety: every call from any thread.
/// - Cost: setting an event that nobody waits on is one atomic operation.
///
/// The corresponding Win32 functions are `CreateEvent`, `SetEvent`, `ResetEvent` and `WaitForSingleObject`.
public final class CompletionEvent: Sendable {
    private let state: EventWord
    private let birth = Birth()
    /// Whether a successful wait resets the event, letting one waiter through.
    public let resetsAutomatically: Bool

    public init(resetsAutomatically: Bool = false, isSet: Bool = false) {
        self.resetsAutomatically = resetsAutomatically
        state = EventWord(isSet: isSet)
    }

    public var isSet: Bool { state.isSet }

    /// Threads whose wait has begun; for tests, which otherwise could not tell one that is about to wait.
    var waiterCount: Int { state.waiterCount }

    /// Satisfies every wait that has begun, or one of them if the event resets automatically.
    public func set() {
        state.set(resetsAutomatically: resetsAutomatically)
    }

    public func reset() {
        state.reset()
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
        if birth.isInherited { throw .eventOfParent }
        if deadline.isImmediate {
            // The completion that would set it may lie in a ring that nobody looks at.
            Engine.progress()
            return consume()
        }
        var isSet = false
        IOThread.current.blocking { isSet = state.wait(deadline, resetsAutomatically: resetsAutomatically) }
        return isSet
    }

    private func consume() -> Bool { state.consume(resetsAutomatically: resetsAutomatically) }
}
