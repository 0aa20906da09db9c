internal import CIOCPSupport
internal import Glibc
internal import Synchronization

/// One thread of the process that looks after what no dequeuing thread looks after.
///
/// - Rings that nobody leases but that have operations in flight: it waits for them with epoll, armed once each.
/// - Threads that are out in user code with something behind them: while there are any it ticks, hands their
///   unsubmitted entries to the kernel and their completions to idle threads; otherwise it sleeps without waking up.
///
/// It is started with the first port. It takes no part in the ordinary course of a server whose threads keep dequeuing.
final class Observer: @unchecked Sendable {
    // Unchecked: `lock` guards the tables; the rest is constant or atomic.

    static let shared = Observer()

    /// Milliseconds between two looks at busy threads: an entry is unsubmitted for two of them at most.
    static let tickMilliseconds: Int32 = 5
    /// Ticks without anything to look after before the ticking ends.
    private static let quietTicks = 20
    private static let batch: Int32 = 16

    /// Descriptors, and whether the thread runs: written once, under `lock`, before the first port exists.
    private var epoll: Int32 = -1
    private var doorbell: Int32 = -1
    private var isStarted = false
    private let lock = FutexLock()
    /// The ports, by the identifier of their first slot. Weak references are read where the lock is not held when the
    /// strong one goes: it may be the last, and the end of a port comes back here.
    private var cores: [UInt64: WeakCore] = [:]
    private var homes: [UInt64: WeakCore] = [:]

    /// 1 while the thread does not tick and nobody has asked it to.
    private static let isAsleep = Atomic<Bool>(true)
    /// Wake-ups of the thread, for tests: an idle port causes none.
    static let wakeUps = Atomic<Int>(0)

    private struct WeakCore {
        weak var core: PortCore?
        let slotIndex: Int
    }

    private init() {}

    /// Starts to look after a port. Throws if descriptors, memory or threads are short; the next port tries again.
    func watch(_ core: PortCore) throws(PortError) {
        try start()
        lock.lock()
        defer { lock.unlock() }
        for (index, slot) in core.slots.enumerated() {
            // Disarmed for now. Fails for lack of memory or, per user, of `fs.epoll.max_user_watches`.
            let result = iocp_epoll_set(epoll, true, slot.fileDescriptor, false, true, slot.identifier)
            guard result == 0 else {
                for slot in core.slots { homes[slot.identifier] = nil }
                throw .system(-result, "a ring cannot be watched; free memory or raise fs.epoll.max_user_watches")
            }
            homes[slot.identifier] = WeakCore(core: core, slotIndex: index)
        }
        cores[core.slots[0].identifier] = WeakCore(core: core, slotIndex: 0)
    }

    func forget(_ slots: [Slot]) {
        lock.lock()
        for slot in slots {
            homes[slot.identifier] = nil
            cores[slot.identifier] = nil
        }
        lock.unlock()
    }

    /// Looks at the slot once it has completions, once.
    func arm(_ slot: Slot) {
        _ = iocp_epoll_set(epoll, false, slot.fileDescriptor, true, true, slot.identifier)
    }

    /// A thread goes out into user code. Costs a load unless the observer sleeps.
    @inline(__always)
    func noteDeparture() {
        if Self.isAsleep.load(ordering: .sequentiallyConsistent) { ring() }
    }

    /// A thread has deferred an entry. The lock that it released just before orders the entry before this look.
    @inline(__always)
    static func noteDeferral() {
        if isAsleep.load(ordering: .sequentiallyConsistent) { shared.ring() }
    }

    @inline(never)
    private func ring() {
        guard Self.isAsleep.exchange(false, ordering: .sequentiallyConsistent) else { return }
        var one: UInt64 = 1
        _ = unsafe write(doorbell, &one, 8)
    }

    /// Makes the descriptors and the thread, if there are none yet.
    private func start() throws(PortError) {
        lock.lock()
        defer { lock.unlock() }
        guard !isStarted else { return }
        if epoll < 0 { epoll = iocp_epoll_create() }
        guard epoll >= 0 else { throw .shortOfDescriptors(-epoll) }
        if doorbell < 0 {
            doorbell = iocp_eventfd()
            guard doorbell >= 0 else { throw .shortOfDescriptors(-doorbell) }
            _ = iocp_epoll_set(epoll, true, doorbell, true, false, 0)
        }
        // The process's signals are not for this thread.
        var all = sigset_t()
        var previous = sigset_t()
        unsafe sigfillset(&all)
        unsafe pthread_sigmask(SIG_SETMASK, &all, &previous)
        var thread = pthread_t()
        let result = unsafe pthread_create(
            &thread, nil,
            { _ in
                Observer.shared.run()
            }, nil)
        unsafe pthread_sigmask(SIG_SETMASK, &previous, nil)
        guard result == 0 else {
            throw .system(result, "the library's own thread cannot be started; end some threads or raise RLIMIT_NPROC")
        }
        pthread_detach(thread)
        isStarted = true
    }

    private func run() -> Never {
        let me = IOThread.current
        var quiet = 0
        var ticks = false
        let ready = UnsafeMutablePointer<UInt64>.allocate(capacity: Int(Self.batch))
        while true {
            let count = unsafe iocp_epoll_wait(epoll, ready, Self.batch, ticks ? Self.tickMilliseconds : -1)
            Self.wakeUps.add(1, ordering: .relaxed)
            for index in 0..<max(0, Int(count)) {
                let identifier = unsafe ready[index]
                if identifier == 0 {
                    var value: UInt64 = 0
                    _ = unsafe read(doorbell, &value, 8)
                    ticks = true
                    quiet = 0
                } else {
                    look(at: identifier, me)
                }
            }
            guard ticks else { continue }
            if tickAll(me) {
                quiet = 0
            } else {
                quiet += 1
                if quiet >= Self.quietTicks {
                    // Declared asleep first, then looked again: whoever departs from now on rings the bell.
                    Self.isAsleep.store(true, ordering: .sequentiallyConsistent)
                    if tickAll(me) {
                        if Self.isAsleep.exchange(false, ordering: .sequentiallyConsistent) { quiet = 0 }
                    } else {
                        ticks = false
                    }
                }
            }
        }
    }

    private func look(at identifier: UInt64, _ me: IOThread) {
        lock.lock()
        let home = homes[identifier]
        let core = home?.core
        lock.unlock()
        guard let core, let home else { return }
        let slot = core.slots[home.slotIndex]
        if core.observe(slot, me) { arm(slot) }
    }

    private func tickAll(_ me: IOThread) -> Bool {
        lock.lock()
        let living = cores.values.compactMap { $0.core }
        lock.unlock()
        var busy = false
        for core in living where core.tick(me) { busy = true }
        return busy
    }
}
