/// The algorithm of section (d) of the contract, word for word: the reference that the library's own scheduling is held
/// against. Lists that are searched in place of links and counts; it shares no code or idea with the library.
///
/// Threads and packets are numbers.
struct Reference {
    let maximum: Int
    var current = 0
    /// Oldest first.
    var entries: [Int] = []
    /// Oldest first: the newest is the last.
    var waiters: [Int] = []
    /// Threads that are among `current`.
    var running: Set<Int> = []
    /// Threads of the queue that block on something else.
    var blocked: Set<Int> = []
    /// What wakers have given to threads that have not come back with it yet.
    var results: [Int: Int] = [:]
    /// What was given in this step.
    var given: [(thread: Int, packet: Int)] = []

    init(maximum: Int) { self.maximum = maximum }

    /// `insert(q, e)`. A thread that is inside its own wait for the queue takes no waiter's packet out of its own hands:
    /// it is queued (`selfWaiting`).
    mutating func insert(_ e: Int, selfWaiting: Bool) {
        if current < maximum, let t = waiters.last, !selfWaiting {
            waiters.removeLast()
            give(t, e)
            enter(t)
        } else {
            entries.append(e)
        }
    }

    /// The first lines of `remove(q, …)`: "I was running on behalf of q: give slot back".
    mutating func beginRemoval(_ me: Int) {
        blocked.remove(me)
        if running.remove(me) != nil { current -= 1 }
    }

    /// The loop of `remove`: nil if there is nothing to take, or no place.
    mutating func take(_ me: Int) -> Int? {
        guard current < maximum, !entries.isEmpty else { return nil }
        enter(me)
        return entries.removeFirst()
    }

    /// "Append me to q.waiters; sleep".
    mutating func sleep(_ me: Int) { waiters.append(me) }

    /// `slot_released(q)`.
    mutating func slotReleased(_ me: Int) {
        if running.remove(me) != nil { current -= 1 }
        handOver()
    }

    /// The second half of it, as often as it applies.
    mutating func handOver() {
        while current < maximum, let t = waiters.last, !entries.isEmpty {
            let e = entries.removeFirst()
            waiters.removeLast()
            give(t, e)
            enter(t)
        }
    }

    /// `wake(t, result)`: the end of any other wait, counted whatever the maximum says.
    mutating func wake(_ t: Int) {
        waiters.removeAll { $0 == t }
        enter(t)
    }

    private mutating func enter(_ t: Int) {
        blocked.remove(t)
        if running.insert(t).inserted { current += 1 }
    }

    private mutating func give(_ t: Int, _ e: Int) {
        results[t] = e
        given.append((t, e))
    }
}
