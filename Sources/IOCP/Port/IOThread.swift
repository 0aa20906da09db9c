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
    /// The kernel's number of the thread.
    let identifier: Int32

    /// The port that the thread is tied to (d4). Only the thread itself touches it.
    private(set) var core: PortCore?
    /// The same as an address, to compare without counting references.
    private var coreAddress: UInt = 0
    /// The scheduler's part, under the port's lock.
    let state: ThreadState.Pointer
    /// The slot that the thread leases or leased last; `slot.owner` says whether it still does. Changed by others only
    /// under the port's lock while this thread waits.
    var slotReference: Unmanaged<Slot>?

    enum Delivery {
        case none
        case packet(PacketEntry)
        /// The last reference to the port was closed.
        case abandoned
        /// A call was queued to the thread.
        case calls
    }

    /// Whether the thread is out in user code: it has come back from its last dequeue, and does not sleep for a lock of
    /// the library's.
    let isOut = Atomic<Bool>(true)
    /// The monitor's number of the sight after which the thread last came by to dequeue, or left its dequeue.
    private let lastVisit = Atomic<UInt32>(0)
    private var quickVisits: UInt32 = 0
    /// Posts of the thread that need not look whether holders of places are blocked, and the address of the port that they
    /// go to. Only the thread itself touches them.
    private(set) var sparedLooks = 0
    private var sparingPort: UInt = 0
    static let mostSparedLooks = 32
    /// Processor time that the thread had used when it was last seen to be blocked; under the port's lock.
    var timeWhenBlocked: Int64 = 0
    /// The same, and the time, when the monitor last looked at it without haste; under the port's lock.
    private var lastLook: (time: Int64, at: Int64)?
    /// Blocking regions that the thread is in. Only the thread itself touches it.
    private var regions = 0

    /// What ended the thread's wait, under the port's lock.
    var delivery = Delivery.none
    /// The next thread to be woken, while the waker collects them.
    var nextToWake: Unmanaged<IOThread>?

    private enum Parking {
        static let awake: UInt32 = 0
        static let woken: UInt32 = 1
        static let parked: UInt32 = 2
        /// From here on: asleep in the ring of the slot with that number, less this. One word says both, so that a
        /// waker cannot pair the sleep of now with the slot of before.
        static let inRing: UInt32 = 3
    }

    private let parking = Atomic<UInt32>(Parking.awake)

    /// Room for harvested packets: a page, used by this thread only.
    let scratch: UnsafeMutablePointer<PacketEntry>
    static let scratchCapacity = 64

    /// Objects whose last reference was dropped under a lock: let go of when none is held.
    private let guardedGraveyard: Guarded<[AnyObject]> = Guarded([])
    var graveyard: [AnyObject] {
        @inline(__always) _read { yield guardedGraveyard.value }
        @inline(__always) _modify { yield &guardedGraveyard.value }
    }

    private let callsLock = FutexLock()
    private var calls: [@Sendable () -> Void] = []
    private let callCount = Atomic<Int>(0)
    /// The port in whose alertable dequeue the thread sleeps, or nil; under `callsLock`.
    private var alertableCore: PortCore?
    private var isSleepingAlertably = false

    /// Files without a port that the thread has started operations on: these end with it (e35).
    private var unassociated: [ObjectIdentifier: WeakFile] = [:]
    private var unassociatedPruneCount = 64

    private struct WeakFile {
        weak var file: FileObject?
    }

    private static let nextSerial = Atomic<UInt32>(1)
    /// The first number of a thread of this process, if it was forked: those before it are of its parent.
    private static let firstSerial = Atomic<UInt32>(0)

    private init() {
        serial = Self.nextSerial.wrappingAdd(1, ordering: .relaxed).oldValue
        identifier = iocp_gettid()
        unsafe state = .allocate(capacity: 1)
        unsafe scratch = .allocate(capacity: Self.scratchCapacity)
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

    /// The same, for code that must not make one: nil if the thread has none yet, or no more.
    static var currentIfKnown: IOThread? {
        unsafe iocp_tls_get().map { unsafe Unmanaged<IOThread>.fromOpaque($0).takeUnretainedValue() }
    }

    @inline(never)
    private static func makeCurrent() -> IOThread {
        let thread = IOThread()
        unsafe iocp_tls_set(Unmanaged.passRetained(thread).toOpaque()) { pointer in
            // The thread ends, however it ends: its place, its ring and its operations go on without it (d14, e34).
            let thread = unsafe Unmanaged<IOThread>.fromOpaque(pointer!).takeRetainedValue()
            thread.core?.leave(thread)
            thread.tie(to: nil)
            Engine.cancelUnassociated(thread.unassociated.values.compactMap { $0.file }, startedBy: thread.serial)
            thread.buryDead()
        }
        return thread
    }

    /// Whether that number is a thread's of the process that this one was forked from.
    static func isOfParent(_ serial: UInt32) -> Bool { serial < firstSerial.load(ordering: .relaxed) }

    /// This process is the child of a fork: the thread that goes on in it is a new one.
    static func noteFork() {
        firstSerial.store(nextSerial.load(ordering: .relaxed), ordering: .relaxed)
    }

    func tie(to core: PortCore?) {
        self.core = core
        coreAddress = core.map { unsafe UInt(bitPattern: Unmanaged.passUnretained($0).toOpaque()) } ?? 0
    }

    @inline(__always)
    func isTied(to core: PortCore) -> Bool {
        unsafe coreAddress == UInt(bitPattern: Unmanaged.passUnretained(core).toOpaque())
    }

    @inline(__always)
    func isTied(to core: Unmanaged<PortCore>) -> Bool {
        unsafe coreAddress == UInt(bitPattern: core.toOpaque())
    }

    /// The calling thread, uncounted: it outlives every use by itself.
    @inline(__always)
    static var currentReference: Unmanaged<IOThread> {
        if let known = unsafe iocp_tls_get() { return unsafe Unmanaged<IOThread>.fromOpaque(known) }
        return unsafe Unmanaged.passUnretained(makeCurrent())
    }

    /// The slot, if the thread leases it now, uncounted: its port outlives the lease.
    @inline(__always)
    var leasedReference: Unmanaged<Slot>? {
        guard let reference = unsafe slotReference,
            unsafe reference._withUnsafeGuaranteedRef({ $0.owner.load(ordering: .relaxed) }) == serial
        else { return nil }
        return unsafe reference
    }

    /// The slot, if the thread leases it now.
    @inline(__always)
    var leasedSlot: Slot? {
        unsafe leasedReference?.takeUnretainedValue()
    }

    static func from(_ state: ThreadState.Pointer) -> IOThread {
        unsafe Unmanaged<IOThread>.fromOpaque(state.pointee.owner).takeUnretainedValue()
    }

    func noteUnassociated(_ file: FileObject) {
        if unassociated.count >= unassociatedPruneCount {
            unassociated = unassociated.filter { $0.value.file?.association == nil && $0.value.file != nil }
            unassociatedPruneCount = max(64, unassociated.count * 2)
        }
        unassociated[ObjectIdentifier(file)] = WeakFile(file: file)
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

    /// Sleeps until woken or until the deadline. Returns whether it was woken, at once if it was already.
    @discardableResult
    func park(_ deadline: Deadline) -> Bool {
        if parking.compareExchange(
            expected: Parking.awake, desired: Parking.parked, ordering: .sequentiallyConsistent
        ).exchanged {
            while parking.load(ordering: .acquiring) == Parking.parked {
                let left = deadline.remaining
                if left == 0 { break }
                Self.sleep(on: parking, while: Parking.parked, nanoseconds: left)
            }
        }
        return parking.exchange(Parking.awake, ordering: .sequentiallyConsistent) == Parking.woken
    }

    /// Waits for the wake-up of a delivery that the thread has seen before its waker came to waking it.
    ///
    /// Each delivery has one wake-up, and the thread must not leave its wait before: it would be taken for the next
    /// wait, elsewhere perhaps, and the waker still follows `nextToWake`.
    func awaitWakeUp() { park(.never) }

    /// Sleeps in a slot's ring, submitting what it holds on the way, until a completion, a wake-up or the deadline.
    ///
    /// Returns whether it was woken.
    func sleep(in slot: Slot, _ deadline: Deadline) -> Bool {
        slot.sleepers.add(1, ordering: .sequentiallyConsistent)
        if parking.compareExchange(
            expected: Parking.awake, desired: Parking.inRing + UInt32(slot.index), ordering: .sequentiallyConsistent
        ).exchanged {
            let left = deadline.remaining
            if left != 0 {
                if !slot.waitForCompletion(nanoseconds: left) {
                    // Not as good a sleep: neither a waker nor a completion ends it. So it is short, and does not count
                    // as one in the ring.
                    slot.sleepers.subtract(1, ordering: .sequentiallyConsistent)
                    let pause = slot.nextRefusalPause()
                    futexWait(
                        parking, while: Parking.inRing + UInt32(slot.index),
                        nanoseconds: left < 0 ? pause : min(pause, left))
                    slot.sleepers.add(1, ordering: .sequentiallyConsistent)
                }
            } else {
                slot.submit()
            }
        } else {
            // Woken before it slept. What it had deferred must not be forgotten.
            slot.submit()
        }
        slot.sleepers.subtract(1, ordering: .sequentiallyConsistent)
        return parking.exchange(Parking.awake, ordering: .sequentiallyConsistent) == Parking.woken
    }

    /// Sleeps for a while; the calling thread waits for nothing.
    func pause(nanoseconds: Int64) {
        futexWait(parking, while: Parking.awake, nanoseconds: nanoseconds)
    }

    /// Ends the thread's wait, in the port if it is one for packets. Called without the port's lock, once for each
    /// `delivery` that was set under it.
    func wake(in core: PortCore? = nil) {
        let before = parking.exchange(Parking.woken, ordering: .sequentiallyConsistent)
        if before == Parking.parked {
            futexWake(parking, count: 1)
        } else if before >= Parking.inRing {
            core?.slots[Int(before - Parking.inRing)].wakeSleeper()
        }
    }

    /// A visit that is too short for a look at the processor's counter: one of 64 has one.
    @inline(__always)
    func noteQuickVisit() {
        noteVisit()
        quickVisits &+= 1
        if quickVisits & 63 == 0 { Observer.noteVisit() }
    }

    @inline(__always)
    func noteVisit() { lastVisit.store(Observer.sight.load(ordering: .relaxed), ordering: .relaxed) }

    /// Whether the thread has come by since the monitor looked last, or everybody was last seen to come and go.
    var hasVisited: Bool { lastVisit.load(ordering: .relaxed) == Observer.sight.load(ordering: .relaxed) }

    /// The thread posts to the port in quick succession, and even the processor's counter costs as much as a post.
    func spareLooks(at core: PortCore) {
        sparedLooks = Self.mostSparedLooks
        sparingPort = unsafe UInt(bitPattern: Unmanaged.passUnretained(core).toOpaque())
    }

    /// Whether a post need not look. If not, the monitor does: it must be awake.
    @inline(__always)
    func takeSparedLook(at core: PortCore) -> Bool {
        guard sparedLooks > 0, unsafe sparingPort == UInt(bitPattern: Unmanaged.passUnretained(core).toOpaque()) else {
            return false
        }
        sparedLooks -= 1
        return true
    }

    /// Whether the thread has used a processor for most of the time since this was asked last. Under the port's lock.
    func hasRunMostly(until now: Int64, _ time: Int64) -> Bool {
        defer { lastLook = (time, now) }
        guard let last = lastLook else { return false }
        return (time - last.time) * 2 > now - last.at
    }

    // MARK: Blocking on something else

    /// Runs `body`, which is expected to block: the thread's place is free for another meanwhile (d7), and the count of
    /// running threads may exceed the limit when it returns (d10).
    func blocking(_ body: () -> Void) {
        enterRegion()
        body()
        leaveRegion()
    }

    /// Regions may be nested, and the thread may turn to another port inside one: its dequeue counts it there.
    func enterRegion() {
        regions += 1
        if regions == 1 { core?.block(self) }
    }

    func leaveRegion() {
        regions -= 1
        if regions == 0 { core?.unblock(self) }
    }

    // MARK: Calls

    /// Queues a call to the thread: it runs inside the thread's next alertable wait, in the order queued.
    ///
    /// Calls of a thread that never waits alertably again are dropped when the thread ends.
    /// The corresponding Win32 function is `QueueUserAPC`.
    public func queueCall(_ body: @escaping @Sendable () -> Void) {
        // A thread that a fork has left behind waits no more.
        if Self.isOfParent(serial) { return }
        callsLock.lock()
        calls.append(body)
        callCount.add(1, ordering: .sequentiallyConsistent)
        // Under the lock, which the thread takes before it leaves that sleep: the wake-up must not hit a later one, which
        // may be unalertable (b13) or another port's.
        if let core = alertableCore { core.interrupt(self) } else if isSleepingAlertably { wake() }
        callsLock.unlock()
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
                // One that came after the time was up.
                thread.parking.store(Parking.awake, ordering: .sequentiallyConsistent)
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
