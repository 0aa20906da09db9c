/// Who runs, who waits, who is woken: the counting of one completion port.
///
/// This is the algorithm of a Windows queue object, without system calls, clocks or locks: the port calls it under its
/// own lock and carries out what it decides. The packets themselves lie elsewhere; the scheduler counts them.
///
/// Vocabulary: `running` is the queue's current count, `limit` its maximum, `queued` its signal state, and a thread is
/// *counted* while it is one of the running. Rules d1–d19 of the contract are stated where they are kept.
@safe struct Scheduler {
    /// Packets in the queue that nobody has claimed (c10).
    private(set) var queued = 0
    /// Threads that run on behalf of the port. May exceed the limit after a time-out or a wake-up (d10, d12).
    private(set) var running = 0
    /// Fixed for the port's life (a2).
    let limit: Int
    /// Threads asleep in a dequeue.
    private(set) var waiting = 0
    /// Threads that are tied to the port but blocked on something else: not counted until they go on (d7, d10).
    private(set) var blocked = 0
    /// Those of them that were seen to block and will not say when they go on.
    private(set) var seenBlocked = 0

    /// The waiter that came last: the next to be woken (d1).
    private var newest: ThreadState.Pointer?
    /// Every thread that is tied to the port (d4) and does not wait, as a ring of links. Its order means nothing: looks go
    /// round in it, under the port's lock, and do not take longer the more threads wait.
    private var awake: ThreadState.Pointer?

    init(limit: Int) {
        precondition(limit > 0, "a port lets at least one thread run")
        self.limit = limit
    }

    var canRunAnother: Bool { running < limit }
    /// More run than the limit allows, for a while (d10, d12).
    var runsTooMany: Bool { running > limit }

    /// A packet has come. Either a waiter gets it directly and is counted before it even runs, or it is to be queued.
    ///
    /// The waiter is the newest one (d1, d18). A waiter is only ever released together with a packet (d9).
    mutating func insert() -> ThreadState.Pointer? {
        guard running < limit, let waiter = unsafe newest else {
            queued += 1
            return nil
        }
        unsafe remove(waiter)
        unsafe count(waiter)
        return unsafe waiter
    }

    /// A packet has come that is to be queued although a waiter exists: the calling thread takes it itself in a moment.
    mutating func insertBehind() {
        queued += 1
    }

    /// A thread is tied to the port by its first dequeue, which changes no count: it is not counted yet (d4).
    mutating func join(_ thread: ThreadState.Pointer) {
        unsafe link(thread)
    }

    /// A thread moves to another port, exits, or the port goes away: it is tied no more, and its place is free (d13, d14).
    mutating func part(_ thread: ThreadState.Pointer) {
        unsafe uncount(thread)
        unsafe unblock(thread)
        unsafe unlink(thread)
    }

    /// A thread enters a dequeue: it no longer runs on behalf of the port (first step of the removal, d8, d11).
    mutating func beginRemoval(_ thread: ThreadState.Pointer) {
        unsafe uncount(thread)
        unsafe unblock(thread)
    }

    /// Takes a packet for a thread that is inside a dequeue, if one is queued and one more thread may run (d11).
    ///
    /// Does not yield to older waiters.
    mutating func take(_ thread: ThreadState.Pointer) -> Bool {
        guard running < limit, queued > 0 else { return false }
        queued -= 1
        unsafe count(thread)
        return true
    }

    /// Takes up to `most` further packets for the thread that just took one: a batch uses one place, not one each.
    mutating func takeMore(atMost most: Int) -> Int {
        let taken = min(most, queued)
        queued -= taken
        return taken
    }

    /// The thread sleeps until somebody wakes it. It is now the newest waiter.
    mutating func wait(_ thread: ThreadState.Pointer) {
        unsafe thread.pointee.older = newest
        unsafe thread.pointee.newer = nil
        unsafe thread.pointee.isWaiting = true
        unsafe newest?.pointee.newer = thread
        unsafe newest = thread
        waiting += 1
        unsafe unlink(thread)
    }

    /// A wait ends without a packet from the queue: time-out, a queued call, or a completion the waiter found itself.
    ///
    /// The thread becomes one of the running whatever the limit says, packet or not (d12).
    mutating func withdraw(_ thread: ThreadState.Pointer) {
        unsafe remove(thread)
        unsafe count(thread)
    }

    /// A dequeue ends without a packet and without having slept: the thread runs again, uncontrolled by the limit (d12).
    mutating func resume(_ thread: ThreadState.Pointer) {
        unsafe count(thread)
    }

    /// A tied thread blocks on something else: its place is free (d7). It was `seen` to, or has said so.
    mutating func block(_ thread: ThreadState.Pointer, seen: Bool) {
        unsafe uncount(thread)
        unsafe unblock(thread)
        unsafe thread.pointee.isBlocked = true
        unsafe thread.pointee.isSeen = seen
        blocked += 1
        if seen { seenBlocked += 1 }
    }

    /// It goes on: one of the running again whatever the limit says, until the count falls by itself (d10).
    mutating func goOn(_ thread: ThreadState.Pointer) {
        unsafe unblock(thread)
        unsafe count(thread)
    }

    /// After the count fell: the newest waiter gets the oldest packet, if there are both and one more may run.
    ///
    /// Freeing a place with an empty queue wakes nobody (d9).
    mutating func handOver() -> ThreadState.Pointer? {
        guard running < limit, queued > 0, let waiter = unsafe newest else { return nil }
        queued -= 1
        unsafe remove(waiter)
        unsafe count(waiter)
        return unsafe waiter
    }

    /// Whether nobody has begun to wait after this thread.
    func isNewest(_ thread: ThreadState.Pointer) -> Bool {
        unsafe newest == thread
    }

    /// The port goes away: the next waiter to be told so, newest first.
    mutating func abandonNext() -> ThreadState.Pointer? {
        guard let waiter = unsafe newest else { return nil }
        unsafe remove(waiter)
        return unsafe waiter
    }

    /// The port goes away: what was queued is nobody's.
    mutating func discardQueued() {
        queued = 0
    }

    /// Every waiter, newest first.
    func forEachWaiter(_ body: (ThreadState.Pointer) -> Bool) {
        var next = unsafe newest
        while let waiter = unsafe next {
            guard unsafe body(waiter) else { return }
            unsafe next = waiter.pointee.older
        }
    }

    /// Whether that is so of every thread that holds a place.
    func everyHolder(_ isSo: (ThreadState.Pointer) -> Bool) -> Bool {
        guard let start = unsafe awake else { return true }
        var candidate = unsafe start
        repeat {
            if unsafe candidate.pointee.isCounted && !isSo(candidate) { return false }
            unsafe candidate = candidate.pointee.nextAwake!
        } while unsafe candidate != start
        return true
    }

    /// The next of the threads that do not wait for which `isWanted` is true, each in turn from one call to the next.
    mutating func nextAwake(where isWanted: (ThreadState.Pointer) -> Bool) -> ThreadState.Pointer? {
        guard let start = unsafe awake else { return nil }
        var candidate = unsafe start
        repeat {
            let next = unsafe candidate.pointee.nextAwake!
            if unsafe isWanted(candidate) {
                unsafe awake = next
                return unsafe candidate
            }
            unsafe candidate = next
        } while unsafe candidate != start
        return nil
    }

    private mutating func link(_ thread: ThreadState.Pointer) {
        if let first = unsafe awake, let last = unsafe first.pointee.previousAwake {
            unsafe thread.pointee.nextAwake = first
            unsafe thread.pointee.previousAwake = last
            unsafe last.pointee.nextAwake = thread
            unsafe first.pointee.previousAwake = thread
        } else {
            unsafe thread.pointee.nextAwake = thread
            unsafe thread.pointee.previousAwake = thread
            unsafe awake = thread
        }
    }

    /// Does nothing for a thread that is not in the ring.
    private mutating func unlink(_ thread: ThreadState.Pointer) {
        guard let next = unsafe thread.pointee.nextAwake, let previous = unsafe thread.pointee.previousAwake else {
            return
        }
        unsafe previous.pointee.nextAwake = next
        unsafe next.pointee.previousAwake = previous
        if unsafe awake == thread { unsafe awake = next == thread ? nil : next }
        unsafe thread.pointee.nextAwake = nil
        unsafe thread.pointee.previousAwake = nil
    }

    private mutating func count(_ thread: ThreadState.Pointer) {
        if unsafe !thread.pointee.isCounted {
            unsafe thread.pointee.isCounted = true
            running += 1
        }
    }

    private mutating func uncount(_ thread: ThreadState.Pointer) {
        if unsafe thread.pointee.isCounted {
            unsafe thread.pointee.isCounted = false
            running -= 1
        }
    }

    private mutating func unblock(_ thread: ThreadState.Pointer) {
        if unsafe thread.pointee.isBlocked {
            unsafe thread.pointee.isBlocked = false
            blocked -= 1
            if unsafe thread.pointee.isSeen { seenBlocked -= 1 }
        }
    }

    private mutating func remove(_ thread: ThreadState.Pointer) {
        let older = unsafe thread.pointee.older
        let newer = unsafe thread.pointee.newer
        if let newer = unsafe newer {
            unsafe newer.pointee.older = older
        } else {
            unsafe newest = older
        }
        unsafe older?.pointee.newer = newer
        unsafe thread.pointee.older = nil
        unsafe thread.pointee.newer = nil
        unsafe thread.pointee.isWaiting = false
        waiting -= 1
        unsafe link(thread)
    }
}

/// What the scheduler keeps for each thread. It lies in memory of the thread's own record and is touched only under the
/// lock of the port that the thread is tied to.
@safe struct ThreadState {
    typealias Pointer = UnsafeMutablePointer<ThreadState>

    fileprivate(set) var isCounted = false
    fileprivate(set) var isWaiting = false
    /// Tied to the port and blocked on something else, as far as the port knows.
    fileprivate(set) var isBlocked = false
    /// It was seen to block.
    fileprivate(set) var isSeen = false
    fileprivate var older: Pointer?
    fileprivate var newer: Pointer?
    fileprivate var nextAwake: Pointer?
    fileprivate var previousAwake: Pointer?
    /// The engine's record of the thread; the scheduler never looks at it.
    let owner: UnsafeMutableRawPointer

    init(owner: UnsafeMutableRawPointer) {
        unsafe self.owner = unsafe owner
    }
}
