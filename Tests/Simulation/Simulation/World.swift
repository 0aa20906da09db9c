import CIOCPSupport
import CSimulation
import Glibc

/// The world of the process, made once.
nonisolated(unsafe) var world: World! = nil

/// Virtual threads, one of which runs at a time, and virtual time.
///
/// A thread runs until it passes a *point*: before it takes a lock and after it gives one back, at each system call, and
/// where it yields. There the clock moves on, what is due happens, and the seed decides whether another thread goes on
/// instead. When every thread is blocked the clock jumps to what happens next; when nothing ever will, the world is idle
/// and the run's next part begins.
final class World: @unchecked Sendable {
    static let start: Int64 = 1_000_000_000_000
    /// Points that a part of a run may pass: beyond, it makes no progress.
    private static let mostPoints = 400_000

    private(set) var now = World.start
    var random = Random(0)
    var faults = Faults()
    /// Out of a thousand points, those where another thread goes on.
    var switchRate = 0
    private(set) var points = 0

    private(set) var current: Fiber
    let main = Fiber(main: ())
    private(set) var fibers: [Fiber] = []
    private var runnable: [Fiber] = []
    private var timers = Timers()
    private var isMainIdle = false
    private var nextIdentifier: Int32 = 100

    let kernel = Kernel()
    let trace = Trace()
    var checker: Checker?

    init() {
        current = main
        main.name = "main"
        main.identifier = 1
        main.state = .runnable
        runnable = [main]
        fibers = [main]
    }

    /// Begins a run: the same seed, the same run.
    func begin(seed: UInt64, faults: Faults, switchRate: Int) {
        random = Random(seed)
        self.faults = faults
        self.switchRate = switchRate
        now = Self.start
        points = 0
        nextIdentifier = 100
        timers.removeAll()
        kernel.begin()
    }

    // MARK: Threads

    @discardableResult
    func spawn(_ name: String, _ task: @escaping () -> Void) -> Fiber {
        let fiber: Fiber
        if let free = fibers.first(where: { $0.state == .done }) {
            fiber = free
        } else {
            fiber = Fiber()
            fibers.append(fiber)
        }
        fiber.name = name
        if name == "observer" {
            // It outlives the run.
            fiber.identifier = 2
        } else {
            nextIdentifier += 1
            fiber.identifier = nextIdentifier
        }
        fiber.task = task
        fiber.time = 0
        fiber.hasRun = true
        fiber.call = .none
        fiber.number = -1
        makeRunnable(fiber)
        return fiber
    }

    func fiber(_ identifier: Int32) -> Fiber? {
        fibers.first { $0.identifier == identifier && $0.state != .done }
    }

    /// The running fiber's task is over: what a thread does when it exits.
    func fiberEnds() {
        let fiber = current
        if let word = sim_tls_get() {
            sim_tls_set(nil)
            fiber.threadEnd?(word)
        }
        if sim_tls_get() != nil { fail("rundown", "the thread \(fiber.name) was known again after its end") }
        trace.note("exits")
        fiber.state = .done
        runnable.removeAll { $0 === fiber }
        kernel.threadExits(fiber)
        switchAway()
    }

    private func makeRunnable(_ fiber: Fiber) {
        fiber.state = .runnable
        fiber.word = nil
        fiber.ring = nil
        fiber.isInEpoll = false
        runnable.append(fiber)
    }

    func wake(_ fiber: Fiber, timedOut: Bool = false) {
        guard fiber.state == .blocked else { return }
        fiber.isTimedOut = timedOut
        if let since = fiber.computesSince {
            fiber.time += now - since
            fiber.computesSince = nil
        }
        makeRunnable(fiber)
    }

    /// Blocks the running fiber until it is woken, or until the deadline. Returns whether the time was up.
    func block(until deadline: Int64?) -> Bool {
        let fiber = current
        fiber.state = .blocked
        fiber.isTimedOut = false
        fiber.hasRun = false
        fiber.sleep += 1
        runnable.removeAll { $0 === fiber }
        if let deadline { timers.insert(max(deadline, now), .wake(fiber, fiber.sleep)) }
        switchAway()
        fiber.hasRun = true
        return fiber.isTimedOut
    }

    /// Runs everything until nothing happens any more. Called by the main fiber.
    func runUntilIdle() {
        points = 0
        isMainIdle = true
        main.state = .blocked
        main.sleep += 1
        runnable.removeAll { $0 === main }
        switchAway()
    }

    // MARK: Points

    @inline(__always)
    func point() {
        pass()
        if runnable.count > 1 && random.chance(switchRate) { go(to: runnable[random.below(runnable.count)]) }
    }

    /// Time passes, and what is due happens.
    @inline(__always)
    private func pass() {
        points += 1
        if points > Self.mostPoints { fail("progress", "\(points) points passed and still not idle") }
        let duration = Int64(20 + random.below(180))
        now += duration
        current.time += duration
        if timers.next <= now { happen() }
    }

    private func happen() {
        while let timer = timers.removeFirst(notAfter: now) {
            switch timer {
            case .wake(let fiber, let sleep):
                if fiber.sleep == sleep { wake(fiber, timedOut: true) }
            case .complete(let request):
                kernel.complete(request)
            case .interrupt(let fiber, let sleep):
                if fiber.sleep == sleep { kernel.runTaskWork(of: fiber) }
            }
        }
    }

    func schedule(_ event: Timers.Event, at time: Int64) { timers.insert(max(time, now), event) }

    private func go(to fiber: Fiber) {
        if fiber === current { return }
        let previous = current
        current = fiber
        fiber.hasRun = true
        sim_fiber_switch(previous.context, fiber.context)
    }

    private func switchAway() {
        while runnable.isEmpty {
            if timers.next == .max {
                guard isMainIdle else { fail("deadlock", "every thread sleeps, and nothing will wake one") }
                isMainIdle = false
                makeRunnable(main)
            } else {
                now = max(now, timers.next)
                checker?.timePasses()
                happen()
            }
        }
        go(to: runnable[random.below(runnable.count)])
    }

    func yield() {
        pass()
        if runnable.count > 1 {
            var next = runnable[random.below(runnable.count)]
            while next === current { next = runnable[random.below(runnable.count)] }
            go(to: next)
        } else if timers.next != .max {
            // What it waits for does not come from a thread that could run now.
            now = max(now, timers.next)
            happen()
        }
    }

    /// Uses the processor for a while, without entering the library or the kernel.
    func compute(_ nanoseconds: Int64) {
        let fiber = current
        fiber.computesSince = now
        // The scheduler's tick interrupts it now and then, and completion work that waits for it is done.
        var tick = now + 4_000_000
        while tick < now + nanoseconds {
            timers.insert(tick, .interrupt(fiber, fiber.sleep + 1))
            tick += 4_000_000
        }
        _ = block(until: now + nanoseconds)
    }

    /// Sleeps in the kernel, without the library's knowledge.
    func sleep(_ nanoseconds: Int64) {
        kernel.runTaskWork(of: current)
        _ = block(until: now + nanoseconds)
    }

    // MARK: The end of a run that has failed

    func fail(_ rule: String, _ text: String) -> Never {
        trace.note("FAILS: \(rule): \(text)")
        trace.finish()
        report.fail(rule, text)
        _exit(1)
    }
}

/// What happens when.
struct Timers {
    enum Event {
        case wake(Fiber, Int)
        case complete(Request)
        case interrupt(Fiber, Int)
    }

    private var heap: [(time: Int64, order: Int, event: Event)] = []
    private var order = 0
    private(set) var next = Int64.max

    mutating func removeAll() {
        heap.removeAll(keepingCapacity: true)
        order = 0
        next = .max
    }

    private func isBefore(_ a: Int, _ b: Int) -> Bool {
        (heap[a].time, heap[a].order) < (heap[b].time, heap[b].order)
    }

    mutating func insert(_ time: Int64, _ event: Event) {
        order += 1
        heap.append((time, order, event))
        var child = heap.count - 1
        while child > 0, isBefore(child, (child - 1) / 2) {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
        next = heap[0].time
    }

    mutating func removeFirst(notAfter time: Int64) -> Event? {
        guard next <= time else { return nil }
        let event = heap[0].event
        let last = heap.removeLast()
        if !heap.isEmpty {
            heap[0] = last
            var parent = 0
            while true {
                var child = 2 * parent + 1
                if child >= heap.count { break }
                if child + 1 < heap.count, isBefore(child + 1, child) { child += 1 }
                if !isBefore(child, parent) { break }
                heap.swapAt(child, parent)
                parent = child
            }
        }
        next = heap.first?.time ?? .max
        return event
    }
}
