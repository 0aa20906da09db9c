internal import CIOCPSupport
internal import Synchronization

/// A thread of the process, as completion ports see it.
///
/// A thread is tied to at most one port (d5): the one that it last dequeued from. It can be sent calls, which run inside
/// its alertable waits.
///
/// The corresponding Win32 notions are the thread handle and its queue of user APCs.
@safe public final class IOThread: @unchecked Sendable {
    // Unchecked: who may touch what is said at each field.

    /// Never reused, never 0.
    let serial: UInt32

    /// The port that the thread is tied to (d4). Only the thread itself touches it.
    var core: PortCore?
    /// The scheduler's part, under the port's lock.
    let state: ThreadState.Pointer
    /// The slot that the thread leases or leased last; `slot.owner` says whether it still does. Changed by others only
    /// under the port's lock while this thread waits.
    unowned(unsafe) var slot: Slot?

    enum Delivery {
        case none
        case packet(PacketEntry)
        /// The last reference to the port was closed.
        case abandoned
    }

    /// What ended the thread's wait, under the port's lock.
    var delivery = Delivery.none
    /// Threads that this one is to wake once it has given its locks back. Only the thread itself touches it: a link in
    /// the woken thread would be torn by the next waker, since that thread may be up and waiting again before it is read.
    var toWake: [Unmanaged<IOThread>] = unsafe []

    private enum Parking {
        static let awake: UInt32 = 0
        static let woken: UInt32 = 1
        static let parked: UInt32 = 2
        /// Asleep in that slot's ring. One word with the state: a waker that read the two apart could wake a ring that
        /// the thread has left, and then nobody would wake it in the one where it sleeps.
        static func inRing(_ slot: Slot) -> UInt32 { UInt32(truncatingIfNeeded: slot.identifier) << 2 | 3 }
    }

    private let parking = Atomic<UInt32>(Parking.awake)

    /// Room for harvested packets: a page, used by this thread only.
    let scratch: UnsafeMutablePointer<PacketEntry>
    static let scratchCapacity = 64

    /// Objects whose last reference was dropped under a lock: let go of when none is held.
    var graveyard: [AnyObject] = []

    private let callsLock = FutexLock()
    private var calls: [@Sendable () -> Void] = []
    private let callCount = Atomic<Int>(0)
    /// The port in whose alertable dequeue the thread sleeps, or nil; under `callsLock`.
    private var alertableCore: PortCore?
    private var isSleepingAlertably = false

    private static let nextSerial = Atomic<UInt32>(1)

    private init() {
        serial = Self.nextSerial.wrappingAdd(1, ordering: .relaxed).oldValue
        unsafe state = .allocate(capacity: 1)
        unsafe scratch = .allocate(capacity: Self.scratchCapacity)
        unsafe toWake.reserveCapacity(16)
        unsafe state.initialize(to: ThreadState(owner: Unmanaged.passUnretained(self).toOpaque()))
    }

    deinit {
        unsafe scratch.deallocate()
        unsafe state.deinitialize(count: 1)
        unsafe state.deallocate()
    }

    /// The calling thread.
    public static var current: IOThread {
        @inline(__always)
        get {
            if let known = unsafe iocp_tls_get() {
                return unsafe Unmanaged<IOThread>.fromOpaque(known).takeUnretainedValue()
            }
            return makeCurrent()
        }
    }

    @inline(never)
    private static func makeCurrent() -> IOThread {
        let thread = IOThread()
        unsafe iocp_tls_set(Unmanaged.passRetained(thread).toOpaque()) { pointer in
            // The thread ends, however it ends: its place, its ring and its operations go on without it (d14, e34).
            let thread = unsafe Unmanaged<IOThread>.fromOpaque(pointer!).takeRetainedValue()
            thread.core?.leave(thread)
            thread.core = nil
            thread.buryDead()
        }
        return thread
    }

    /// The slot, if the thread leases it now.
    @inline(__always)
    var leasedSlot: Slot? {
        guard let slot = unsafe slot, slot.owner.load(ordering: .relaxed) == serial else { return nil }
        return slot
    }

    static func from(_ state: ThreadState.Pointer) -> IOThread {
        unsafe Unmanaged<IOThread>.fromOpaque(state.pointee.owner).takeUnretainedValue()
    }

    func buryDead() {
        while !graveyard.isEmpty {
            // Letting go may run code of the user's, which may come back here.
            let dead = graveyard
            graveyard = []
            _ = consume dead
        }
    }

    // MARK: Sleeping and waking

    /// Sleeps until woken or until the deadline. Returns at once if woken already.
    func park(_ deadline: Deadline) {
        if parking.compareExchange(
            expected: Parking.awake, desired: Parking.parked, ordering: .sequentiallyConsistent
        ).exchanged {
            while parking.load(ordering: .acquiring) == Parking.parked {
                let left = deadline.remaining
                if left == 0 { break }
                futexWait(parking, while: Parking.parked, nanoseconds: left)
            }
        }
        parking.store(Parking.awake, ordering: .sequentiallyConsistent)
    }

    /// Sleeps in a slot's ring, submitting what it holds on the way, until a completion, a wake-up or the deadline.
    ///
    /// Returns the kernel's word: negative errno, -ETIME after the deadline.
    func sleep(in slot: Slot, _ deadline: Deadline) {
        slot.watchers.add(1, ordering: .sequentiallyConsistent)
        if parking.compareExchange(
            expected: Parking.awake, desired: Parking.inRing(slot), ordering: .sequentiallyConsistent
        ).exchanged {
            let left = deadline.remaining
            if left != 0 {
                slot.waitForCompletion(nanoseconds: left)
            } else {
                slot.submit()
            }
        } else {
            // Woken before it slept. What it had deferred must not be forgotten.
            slot.submit()
        }
        slot.watchers.subtract(1, ordering: .sequentiallyConsistent)
        parking.store(Parking.awake, ordering: .sequentiallyConsistent)
    }

    /// Ends the thread's sleep, in a ring of that port or parked. Called without locks, after the reason was made visible.
    ///
    /// A call that comes late, when the thread is up already, makes one later sleep return at once; every sleeper looks
    /// again. It leaves a thread alone that meanwhile sleeps in another port's ring: that ring may be gone in a moment.
    func wake(from core: PortCore?) {
        while true {
            let now = parking.load(ordering: .acquiring)
            if now == Parking.woken { return }
            var ring: Slot?
            if now > Parking.parked {
                ring = core?.slots.first { Parking.inRing($0) == now }
                if ring == nil { return }
            }
            guard
                parking.compareExchange(expected: now, desired: Parking.woken, ordering: .sequentiallyConsistent)
                    .exchanged
            else { continue }
            if now == Parking.parked { futexWake(parking, count: 1) }
            ring?.wakeSleeper()
            return
        }
    }

    // MARK: Blocking on something else

    /// Runs `body`, which is expected to block: the thread's place is free for another meanwhile (d7), and the count of
    /// running threads may exceed the limit when it returns (d10).
    func blocking(_ body: () -> Void) {
        guard let core else {
            body()
            return
        }
        core.block(self)
        body()
        core.unblock(self)
    }

    // MARK: Calls

    /// Queues a call to the thread: it runs inside the thread's next alertable wait, in the order queued.
    ///
    /// Calls of a thread that never waits alertably again are dropped when the thread ends.
    /// The corresponding Win32 function is `QueueUserAPC`.
    public func queueCall(_ body: @escaping @Sendable () -> Void) {
        callsLock.lock()
        calls.append(body)
        callCount.add(1, ordering: .sequentiallyConsistent)
        let core = alertableCore
        let asleep = core != nil || isSleepingAlertably
        callsLock.unlock()
        // The thread finds the call by itself: whoever ended its wait from here could hit a later, unalertable one (b13).
        if asleep { wake(from: core) }
    }

    var hasCalls: Bool { callCount.load(ordering: .sequentiallyConsistent) > 0 }

    /// Says in whose alertable dequeue the thread is about to sleep. Returns false if calls wait already.
    func becomeAlertable(in core: PortCore) -> Bool {
        callsLock.lock()
        defer { callsLock.unlock() }
        guard calls.isEmpty else { return false }
        alertableCore = core
        return true
    }

    func endAlertable() {
        callsLock.lock()
        alertableCore = nil
        isSleepingAlertably = false
        callsLock.unlock()
    }

    /// Runs the calls that are queued to the calling thread now. Returns how many ran.
    ///
    /// The corresponding Win32 call is `SleepEx(0, TRUE)`.
    @discardableResult
    public static func runQueuedCalls() -> Int {
        let thread = current
        var count = 0
        while let call = thread.nextCall() {
            call()
            count += 1
        }
        return count
    }

    /// Sleeps until calls were queued to the calling thread and have run, or until the timeout.
    ///
    /// - Parameter timeout: nil sleeps until a call comes.
    /// - Returns: how many calls ran; 0 after the timeout.
    ///
    /// The corresponding Win32 function is `SleepEx` with an alertable wait.
    public static func sleepAlertably(timeout: Duration? = nil) throws(PortError) -> Int {
        let deadline = try Deadline(after: timeout)
        let thread = current
        let ran = runQueuedCalls()
        if ran > 0 || deadline.isImmediate { return ran }
        thread.blocking {
            while !thread.hasCalls {
                thread.callsLock.lock()
                let sleeps = thread.calls.isEmpty
                thread.isSleepingAlertably = sleeps
                thread.callsLock.unlock()
                if sleeps { thread.park(deadline) }
                thread.endAlertable()
                if deadline.remaining == 0 { break }
            }
        }
        return runQueuedCalls()
    }

    private func nextCall() -> (@Sendable () -> Void)? {
        callsLock.lock()
        defer { callsLock.unlock() }
        guard !calls.isEmpty else { return nil }
        callCount.subtract(1, ordering: .sequentiallyConsistent)
        return calls.removeFirst()
    }
}
