import Testing

@testable import IOCP

// The scheduler against a transcription of the algorithm in the contract, which shares no code or idea with it: lists
// that are searched, in place of links and counts.

/// One queue of the algorithm, word for word; threads and packets are numbers.
private final class ModelQueue {
    let maximum: Int
    var current = 0
    var entries: [Int] = []
    var waiters: [Int] = []
    var threads: [Int] = []

    init(maximum: Int) { self.maximum = maximum }
}

private enum ModelResult: Equatable {
    case packets([Int])
    case timedOut
    case called
}

/// All threads and queues of the algorithm.
private struct Model {
    var queues: [ModelQueue]
    /// `thread.queue`, by thread.
    var queueOf: [Int?]
    /// What a wake-up gave, by thread.
    var results: [Int: ModelResult] = [:]

    mutating func insert(_ q: ModelQueue, _ e: Int) {
        if q.current < q.maximum, let t = q.waiters.last {
            q.waiters.removeLast()
            results[t] = .packets([e])
            q.current += 1
        } else {
            q.entries.append(e)
        }
    }

    /// Nil: the thread sleeps.
    mutating func remove(_ q: Int, _ me: Int, most: Int, immediate: Bool, called: Bool) -> ModelResult? {
        let queue = queues[q]
        if queueOf[me] != q {
            if let previous = queueOf[me] {
                queues[previous].threads.removeAll { $0 == me }
                slotReleased(queues[previous])
            }
            queueOf[me] = q
            queue.threads.append(me)
        } else {
            queue.current -= 1
        }
        if queue.current < queue.maximum, !queue.entries.isEmpty {
            queue.current += 1
            let count = min(most, queue.entries.count)
            defer { queue.entries.removeFirst(count) }
            return .packets(Array(queue.entries.prefix(count)))
        }
        if called {
            queue.current += 1
            return .called
        }
        if immediate {
            queue.current += 1
            return .timedOut
        }
        queue.waiters.append(me)
        return nil
    }

    mutating func slotReleased(_ q: ModelQueue) {
        q.current -= 1
        if q.current < q.maximum, let t = q.waiters.last, !q.entries.isEmpty {
            q.waiters.removeLast()
            let e = q.entries.removeFirst()
            q.current += 1
            results[t] = .packets([e])
        }
    }

    /// A time-out or a call ends a thread's wait.
    mutating func wakeUnasked(_ me: Int, _ result: ModelResult) {
        let queue = queues[queueOf[me]!]
        queue.waiters.removeAll { $0 == me }
        queue.current += 1
        results[me] = result
    }

    mutating func exit(_ me: Int) {
        guard let q = queueOf[me] else { return }
        queueOf[me] = nil
        queues[q].threads.removeAll { $0 == me }
        slotReleased(queues[q])
    }
}

/// The scheduler, driven as the port drives it.
@safe private final class Driver {
    var schedulers: [Scheduler]
    var packets: [[Int]]
    var portOf: [Int?]
    var results: [Int: ModelResult] = [:]
    let states: ThreadState.Pointer

    init(limits: [Int], threads: Int) {
        schedulers = limits.map(Scheduler.init(limit:))
        packets = limits.map { _ in [] }
        portOf = Array(repeating: nil, count: threads)
        unsafe states = .allocate(capacity: threads)
        for index in 0..<threads {
            unsafe (states + index).initialize(to: ThreadState(owner: UnsafeMutableRawPointer(bitPattern: index + 1)!))
        }
    }

    deinit { unsafe states.deallocate() }

    func thread(_ state: ThreadState.Pointer) -> Int { unsafe state - states }

    func post(_ port: Int, _ packet: Int) {
        if let waiter = unsafe schedulers[port].insert() {
            unsafe results[thread(waiter)] = .packets([packet])
        } else {
            packets[port].append(packet)
        }
    }

    func redistribute(_ port: Int) {
        while let waiter = unsafe schedulers[port].handOver() {
            unsafe results[thread(waiter)] = .packets([packets[port].removeFirst()])
        }
    }

    func dequeue(_ port: Int, _ me: Int, most: Int, immediate: Bool, called: Bool) -> ModelResult? {
        let state = unsafe states + me
        if portOf[me] != port {
            part(me)
            portOf[me] = port
            unsafe schedulers[port].join(state)
        }
        unsafe schedulers[port].beginRemoval(state)
        if unsafe schedulers[port].take(state) {
            let count = 1 + schedulers[port].takeMore(atMost: most - 1)
            defer { packets[port].removeFirst(count) }
            let taken = Array(packets[port].prefix(count))
            return .packets(taken)
        }
        if called {
            unsafe schedulers[port].resume(state)
            return .called
        }
        if immediate {
            unsafe schedulers[port].resume(state)
            return .timedOut
        }
        unsafe schedulers[port].wait(state)
        return nil
    }

    func block(_ me: Int, seen: Bool) {
        guard let port = portOf[me] else { return }
        unsafe schedulers[port].block(states + me, seen: seen)
        redistribute(port)
    }

    func goOn(_ me: Int) {
        guard let port = portOf[me] else { return }
        unsafe schedulers[port].goOn(states + me)
    }

    /// Exits, or moves to another port.
    func part(_ me: Int) {
        guard let port = portOf[me] else { return }
        unsafe schedulers[port].part(states + me)
        portOf[me] = nil
        redistribute(port)
    }

    /// Every tied thread that does not wait, found by going round once.
    func awake(_ port: Int) -> Set<Int> {
        var found: Set<Int> = []
        while let next = unsafe schedulers[port].nextAwake(where: { unsafe !found.contains(thread($0)) }) {
            unsafe found.insert(thread(next))
        }
        return found
    }

    func withdraw(_ me: Int, _ result: ModelResult) {
        unsafe schedulers[portOf[me]!].withdraw(states + me)
        results[me] = result
    }

    func waiters(_ port: Int) -> [Int] {
        var found: [Int] = []
        unsafe schedulers[port].forEachWaiter {
            unsafe found.append(thread($0))
            return true
        }
        return found.reversed()
    }
}

@Suite("The scheduler by itself")
struct SchedulerTests {
    /// What a thread of the simulation does.
    private enum Activity { case running, waiting, blocked }

    @Test(
        "whatever happens in whatever order, the scheduler does what the algorithm of section d says (d1–d19)",
        arguments: [[1], [2], [3, 1], [1, 1], [2, 4]], [UInt64](1...4))
    func transcription(limits: [Int], seed: UInt64) {
        let threadCount = 7
        var random = SplitMix(state: seed &* 977 &+ UInt64(limits.count))
        var model = Model(
            queues: limits.map(ModelQueue.init(maximum:)), queueOf: Array(repeating: nil, count: threadCount))
        let driver = Driver(limits: limits, threads: threadCount)
        var activity = Array(repeating: Activity.running, count: threadCount)
        var nextPacket = 0
        var delivered: Set<Int> = []
        var depthAndWaiters = 0

        func received(_ result: ModelResult?) {
            guard case .packets(let packets) = result else { return }
            for packet in packets { #expect(delivered.insert(packet).inserted, "a packet was delivered twice") }
        }

        for _ in 0..<10_000 {
            let me = Int(random.next() % UInt64(threadCount))
            let port = Int(random.next() % UInt64(limits.count))
            switch (random.next() % 10, activity[me]) {
            case (0...2, _):
                nextPacket += 1
                model.insert(model.queues[port], nextPacket)
                driver.post(port, nextPacket)
            case (3...6, .running):
                let most = Int(random.next() % 4) + 1
                let immediate = random.next() % 4 == 0
                let called = random.next() % 8 == 0
                let expected = model.remove(port, me, most: most, immediate: immediate, called: called)
                let actual = driver.dequeue(port, me, most: most, immediate: immediate, called: called)
                #expect(actual == expected)
                received(actual)
                activity[me] = actual == nil ? .waiting : .running
            case (3...6, .waiting):
                let result: ModelResult = random.next() % 2 == 0 ? .timedOut : .called
                model.wakeUnasked(me, result)
                driver.withdraw(me, result)
            case (7...8, .running):
                if let q = model.queueOf[me] { model.slotReleased(model.queues[q]) }
                driver.block(me, seen: random.next() % 2 == 0)
                activity[me] = .blocked
            case (7...9, .blocked):
                if let q = model.queueOf[me] { model.queues[q].current += 1 }
                driver.goOn(me)
                activity[me] = .running
            case (9, .running):
                model.exit(me)
                driver.part(me)
            default:
                break
            }
            #expect(driver.results == model.results)
            for (thread, result) in driver.results {
                activity[thread] = .running
                received(result)
            }
            driver.results = [:]
            model.results = [:]

            for index in limits.indices {
                let queue = model.queues[index]
                let scheduler = driver.schedulers[index]
                #expect(scheduler.running == queue.current)
                #expect(scheduler.queued == queue.entries.count)
                #expect(scheduler.waiting == queue.waiters.count)
                #expect(driver.packets[index] == queue.entries)
                #expect(driver.waiters(index) == queue.waiters)
                #expect(driver.awake(index) == Set(queue.threads).subtracting(queue.waiters))
                // The invariant d9b.
                if scheduler.queued > 0, scheduler.waiting > 0 {
                    depthAndWaiters += 1
                    #expect(scheduler.running >= scheduler.limit)
                }
                let counted = (0..<threadCount).filter { activity[$0] == .running && model.queueOf[$0] == index }
                #expect(scheduler.running == counted.count)
                let blocked = (0..<threadCount).filter { activity[$0] == .blocked && model.queueOf[$0] == index }
                #expect(scheduler.blocked == blocked.count && scheduler.seenBlocked <= blocked.count)
            }
        }
        #expect(depthAndWaiters > 0 && delivered.count > 200, "too tame: \(depthAndWaiters), \(delivered.count)")
    }

    @Test("waiters are woken newest first, whatever the order of the packets (d1, d18)")
    func newestFirst() {
        let driver = Driver(limits: [8], threads: 5)
        for thread in 0..<5 { #expect(driver.dequeue(0, thread, most: 1, immediate: false, called: false) == nil) }
        for packet in 0..<5 {
            driver.post(0, packet)
            #expect(driver.results == [4 - packet: .packets([packet])])
            driver.results = [:]
        }
    }

    @Test("a waiter in the middle that gives up leaves the order of the others as it was (d1, d12)")
    func withdrawalKeepsOrder() {
        let driver = Driver(limits: [8], threads: 5)
        for thread in 0..<5 { _ = driver.dequeue(0, thread, most: 1, immediate: false, called: false) }
        driver.withdraw(2, .timedOut)
        driver.withdraw(4, .timedOut)
        driver.withdraw(0, .timedOut)
        #expect(driver.waiters(0) == [1, 3])
        #expect(driver.schedulers[0].running == 3)
    }

    @Test("freeing a place while the queue is empty wakes nobody (d9)")
    func releaseOfNothing() {
        let driver = Driver(limits: [1], threads: 2)
        _ = driver.dequeue(0, 0, most: 1, immediate: false, called: false)
        _ = driver.dequeue(0, 1, most: 1, immediate: true, called: false)
        driver.block(1, seen: true)
        #expect(driver.results.isEmpty)
        #expect(driver.waiters(0) == [0])
    }

    @Test("a batch uses one place however many packets it takes")
    func batchUsesOnePlace() {
        let driver = Driver(limits: [2], threads: 2)
        for packet in 0..<10 { driver.post(0, packet) }
        #expect(driver.dequeue(0, 0, most: 6, immediate: false, called: false) == .packets(Array(0..<6)))
        #expect(driver.schedulers[0].running == 1)
        #expect(driver.dequeue(0, 1, most: 6, immediate: false, called: false) == .packets(Array(6..<10)))
        #expect(driver.schedulers[0].running == 2)
    }
}
