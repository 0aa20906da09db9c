import Glibc
import Synchronization
import Testing

@testable import IOCP

@Suite("Section d: who runs, who waits, who is woken", .serialized)
struct SectionDSchedulingTests {
    // MARK: Order

    @Test("the waiter that came last gets the packet (d1, d18, test 37)")
    func newestWaiterFirst() throws {
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            #expect(try b.value()?.key == 1)
            #expect(!a.isDone)
            #expect(port.core.snapshot.waiting == 1)
        }
    }

    @Test("as many posts as waiters and places wake all, newest first (d19)")
    func postsWakeNewestFirst() throws {
        try withUnwatchedPort(limit: 4, threads: 4) { port, threads in
            let tickets = threads.map { $0.waits(on: port) }
            for key in 1...4 { try port.post(key: UInt(key)) }
            #expect(try tickets.map { try $0.value()?.key } == [4, 3, 2, 1])
        }
    }

    @Test("more posts than places wake no more than the limit, and queue the rest (d19, test 47)")
    func limitHoldsForABurst() throws {
        try withUnwatchedPort(limit: 2, threads: 3) { port, threads in
            let tickets = threads.map { $0.waits(on: port) }
            for key in 1...3 { try port.post(key: UInt(key)) }
            #expect(try tickets[2].value()?.key == 1)
            #expect(try tickets[1].value()?.key == 2)
            #expect(staysTrue { !tickets[0].isDone })
            #expect(try port.depth() == 1)
            #expect(port.core.snapshot == (queued: 1, running: 2, waiting: 1, inFlight: 0))
        }
    }

    @Test("packets leave in the order in which they came (d2, test 51)")
    func packetsAreFIFO() throws {
        try withUnwatchedPort(limit: 1, threads: 1) { port, threads in
            for key in 0..<1000 { try port.post(key: UInt(key)) }
            let keys = try threads[0].perform {
                try (0..<1000).map { _ in try port.dequeue(timeout: .seconds(30))?.key }
            }
            #expect(keys == (0..<1000).map { UInt($0) })
        }
    }

    @Test("the newer waiter gets the first packet, the older the second, the late comer the third (d3, test 48)")
    func waitersThatBlockAfterOnePacket() throws {
        for limit in 1...3 {
            let event = CompletionEvent()
            try withUnwatchedPort(limit: limit, threads: 3) { port, threads in
                defer { event.set() }
                let b = threads[0].waits(on: port)
                let bBlocked = threads[0].start { try event.wait(timeout: .seconds(30)) }
                let a = threads[1].waits(on: port)
                let aBlocked = threads[1].start { try event.wait(timeout: .seconds(30)) }
                for key in 3...5 { try port.post(key: UInt(key)) }
                // With a limit below two the late comer would be the newest waiter when a place comes free.
                #expect(becomesTrue { a.isDone && b.isDone })
                let late = threads[2].dequeue(port, timeout: .seconds(30))
                #expect(try a.value()?.key == 3)
                #expect(try b.value()?.key == 4)
                #expect(try late.value()?.key == 5)
                event.set()
                #expect(try aBlocked.value() && bBlocked.value())
            }
        }
    }

    // MARK: The limit

    @Test("while the one that may run runs, a waiter sleeps on and packets queue (d6, test 38)")
    func busyThreadKeepsTheOthersAsleep() throws {
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            _ = try b.value()
            try port.post(key: 2)
            #expect(staysTrue(for: 200) { !a.isDone })
            #expect(try port.depth() == 1)
        }
    }

    @Test("the thread that comes back takes the next packet itself, past the older waiter (d6, test 39)")
    func returningThreadTakesTheNext() throws {
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            _ = try b.value()
            try port.post(key: 2)
            #expect(try threads[1].dequeue(port).value()?.key == 2)
            #expect(staysTrue { !a.isDone })
            #expect(port.core.snapshot == (queued: 0, running: 1, waiting: 1, inFlight: 0))
        }
    }

    @Test("a limit of 0 lets as many run as there are processors (a2, test 49)")
    func limitOfProcessors() throws {
        let count = try CompletionPort().concurrencyLimit
        try withUnwatchedPort(limit: 0, threads: count + 1) { port, threads in
            let tickets = threads.map { $0.waits(on: port) }
            for key in 0...count { try port.post(key: UInt(key)) }
            #expect(becomesTrue { tickets.filter(\.isDone).count == count })
            #expect(staysTrue { tickets.filter(\.isDone).count == count })
            #expect(port.core.snapshot == (queued: 1, running: count, waiting: 1, inFlight: 0))
        }
    }

    @Test("the limit is set by the creation and by nothing after it (a2, test 50)")
    func limitIsFixed() throws {
        let (left, right) = try Socket.pair()
        let port = try CompletionPort(associating: left, key: 1, concurrencyLimit: 4)
        try port.associate(right, key: 2)
        #expect(port.concurrencyLimit == 4)
        #expect(try port.duplicate().concurrencyLimit == 4)
    }

    @Test("a batch takes one place, and the waiter behind it gets what is left when the taker blocks")
    func batchUsesOnePlace() throws {
        let event = CompletionEvent()
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            defer { event.set() }
            let a = threads[0].waits(on: port)
            let b = threads[1].start {
                var batch = PacketBatch(capacity: 4)
                var counts: [Int] = []
                // Waits, newest, for the first; takes the next three while it runs.
                while counts.reduce(0, +) < 4 {
                    counts.append(try port.dequeue(into: &batch, timeout: .seconds(30)))
                }
                return counts.reduce(0, +)
            }
            #expect(becomesTrue { port.core.snapshot.waiting == 2 })
            for key in 1...4 { try port.post(key: UInt(key)) }
            #expect(try b.value() == 4)
            #expect(port.core.snapshot.running == 1)
            try port.post(key: 5)
            #expect(staysTrue { !a.isDone })
            threads[1].start { try event.wait() }
            #expect(try a.value()?.key == 5)
        }
    }

    // MARK: Threads and their port

    @Test("the first dequeue ties the thread to the port, with any timeout; before it nothing is counted (d4)")
    func firstDequeueTies() throws {
        try withUnwatchedPort(limit: 2, threads: 1) { port, threads in
            try threads[0].perform { try port.post(key: 1) }
            #expect(port.core.snapshot.running == 0)
            try threads[0].perform { _ = try port.dequeue(timeout: .zero) }
            #expect(port.core.snapshot.running == 1)
            try threads[0].perform { _ = try port.dequeue(timeout: .zero) }
            #expect(port.core.snapshot.running == 1)
        }
    }

    @Test("a thread that exits frees its place, and the waiter gets the queued packet (d14, test 41)")
    func exitFreesThePlace() throws {
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            _ = try b.value()
            try port.post(key: 2)
            #expect(staysTrue { !a.isDone })
            threads[1].exit()
            #expect(try a.value()?.key == 2)
        }
    }

    @Test("freeing a place with nothing queued wakes nobody (d9)")
    func exitWithNothingQueuedWakesNobody() throws {
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            _ = try b.value()
            threads[1].exit()
            #expect(staysTrue { !a.isDone && port.core.snapshot == (queued: 0, running: 0, waiting: 1, inFlight: 0) })
            try port.post(key: 2)
            #expect(try a.value()?.key == 2)
        }
    }

    @Test("a thread that dequeues from another port frees its place on the first (d5, d13, test 42)")
    func movingToAnotherPortFreesThePlace() throws {
        let other = try CompletionPort(concurrencyLimit: 1)
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            _ = try b.value()
            try port.post(key: 2)
            _ = try threads[1].dequeue(other, timeout: .zero).value()
            #expect(try a.value()?.key == 2)
            #expect(port.core.snapshot.running == 1)
            #expect(other.core.snapshot.running == 1)
            // And back: the place on the other port is free again.
            let back = threads[1].waits(on: port)
            #expect(other.core.snapshot.running == 0)
            #expect(!back.isDone)
            other.close()
        }
    }

    @Test("a poll that finds a packet it may not take comes back empty, and counts its thread (d11, test 44)")
    func pollerBeyondTheLimit() throws {
        let events = [CompletionEvent(), CompletionEvent()]
        try withUnwatchedPort(limit: 1, threads: 3) { port, threads in
            defer { for event in events { event.set() } }
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            _ = try b.value()
            try port.post(key: 2)
            #expect(try threads[2].dequeue(port, timeout: .zero).value() == nil)
            #expect(port.core.snapshot == (queued: 1, running: 2, waiting: 1, inFlight: 0))
            threads[1].start { try events[0].wait() }
            #expect(becomesTrue { port.core.snapshot.running == 1 })
            #expect(staysTrue { !a.isDone })
            threads[2].start { try events[1].wait() }
            #expect(try a.value()?.key == 2)
        }
    }

    @Test("a poll by the thread that holds the place takes the packet (d11, test 45)")
    func pollByTheHolder() throws {
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            _ = try b.value()
            try port.post(key: 2)
            #expect(try threads[1].dequeue(port, timeout: .zero).value()?.key == 2)
            #expect(!a.isDone)
        }
    }

    @Test("a thread that polled an empty port counts as running until it blocks or exits (d12, test 46)")
    func pollerCounts() throws {
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            #expect(try threads[1].dequeue(port, timeout: .zero).value() == nil)
            try port.post(key: 1)
            #expect(staysTrue { !a.isDone })
            #expect(port.core.snapshot == (queued: 1, running: 1, waiting: 1, inFlight: 0))
            threads[1].exit()
            #expect(try a.value()?.key == 1)
        }
    }

    @Test("a wait that timed out leaves its thread counted (d12)")
    func timedOutWaiterCounts() throws {
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            #expect(try threads[1].dequeue(port, timeout: .milliseconds(10)).value() == nil)
            #expect(port.core.snapshot == (queued: 0, running: 1, waiting: 1, inFlight: 0))
            try port.post(key: 1)
            #expect(staysTrue { !a.isDone })
            #expect(try threads[1].dequeue(port).value()?.key == 1)
        }
    }

    @Test("a waiter that ran a queued call counts, and those that sleep sleep on (d12)")
    func calledWaiterCounts() throws {
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            let called = try threads[1].perform { IOThread.current }
            let b = threads[1].start {
                if case .callsRan = try port.dequeueAlertably(timeout: .seconds(30)) { return true }
                return false
            }
            #expect(becomesTrue { port.core.snapshot.waiting == 2 })
            called.queueCall {}
            #expect(try b.value())
            #expect(port.core.snapshot == (queued: 0, running: 1, waiting: 1, inFlight: 0))
            try port.post(key: 1)
            #expect(staysTrue { !a.isDone })
        }
    }

    // MARK: Blocking in the library's own waits

    /// How a thread blocks on something other than the port, and what ends it.
    struct Block: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let wait: @Sendable () throws -> Bool
        let end: @Sendable () throws -> Void

        /// Each a fresh thing to wait for.
        static func all() throws -> [Block] {
            let event = CompletionEvent()
            let (pending, peer) = try Socket.pair()
            let operation = IOCP.Operation(capacity: 8)
            let (signaled, otherPeer) = try Socket.pair()
            let second = IOCP.Operation(capacity: 8)
            let unrelated = try CompletionPort()
            return [
                Block(
                    testDescription: "an event", wait: { try event.wait(timeout: .seconds(30)) }, end: { event.set() }),
                Block(
                    testDescription: "an operation's completion",
                    wait: {
                        try pending.receive(operation)
                        return try operation.waitForCompletion(timeout: .seconds(30)) == .success
                    }, end: { writeRaw("x", to: peer) }),
                Block(
                    testDescription: "a handle's signal",
                    wait: {
                        try signaled.receive(second)
                        return try signaled.waitUntilSignaled(timeout: .seconds(30))
                    }, end: { writeRaw("x", to: otherPeer) }),
                Block(
                    testDescription: "another port's signal",
                    wait: { try unrelated.waitUntilQueued(timeout: .seconds(30)) }, end: { try unrelated.post() }),
            ]
        }
    }

    @Test(
        "a thread that blocks frees its place at once; when it goes on both run, and then nobody else may (d7, d10, test 43)"
    )
    func blockingFreesThePlace() throws {
        for block in try Block.all() {
            try withUnwatchedPort(limit: 1, threads: 3) { port, threads in
                let a = threads[0].waits(on: port)
                let b = threads[1].waits(on: port)
                try port.post(key: 1)
                _ = try b.value()
                try port.post(key: 2)
                #expect(staysTrue(for: 30) { !a.isDone })
                let blocked = threads[1].start(block.wait)
                #expect(try a.value()?.key == 2, "\(block.testDescription)")
                #expect(!blocked.isDone)
                try block.end()
                #expect(try blocked.value())
                #expect(port.core.snapshot.running == 2)
                // Two run where one may. A's own dequeue does not make room; b's does.
                try port.post(key: 3)
                let again = threads[0].waits(on: port)
                #expect(staysTrue(for: 50) { !again.isDone })
                #expect(port.core.snapshot == (queued: 1, running: 1, waiting: 1, inFlight: 0))
                #expect(try threads[1].dequeue(port).value()?.key == 3)
                #expect(!again.isDone)
            }
        }
    }

    @Test("a wait that is satisfied without sleeping frees no place (d8)")
    func satisfiedWaitKeepsThePlace() throws {
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            _ = try b.value()
            try port.post(key: 2)
            let event = CompletionEvent(isSet: true)
            for _ in 0..<100 { #expect(try threads[1].perform { try event.wait() }) }
            #expect(try !threads[1].perform { try CompletionEvent().wait(timeout: .zero) })
            #expect(staysTrue { !a.isDone })
            #expect(port.core.snapshot == (queued: 1, running: 1, waiting: 1, inFlight: 0))
        }
    }

    @Test("a thread that blocks with nothing queued wakes nobody; the packet that then comes does (d9)")
    func blockThenPost() throws {
        let event = CompletionEvent()
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            defer { event.set() }
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            _ = try b.value()
            threads[1].start { try event.wait() }
            #expect(becomesTrue { port.core.snapshot.running == 0 })
            #expect(!a.isDone)
            try port.post(key: 2)
            #expect(try a.value()?.key == 2)
        }
    }

    @Test("an event that is set and at once reset again lets go whoever waited when it was set (d7)")
    func pulsedEvent() throws {
        for automatic in [false, true] {
            let event = CompletionEvent(resetsAutomatically: automatic)
            let thread = ScriptedThread()
            defer { thread.exit() }
            for _ in 0..<100 {
                let port = try CompletionPort(concurrencyLimit: 1)
                _ = try thread.dequeue(port, timeout: .zero).value()
                let waits = thread.start { try event.wait(timeout: .seconds(5)) }
                #expect(becomesTrue { event.waiterCount == 1 })
                #expect(port.core.snapshot.running == 0)
                event.set()
                event.reset()
                #expect(try waits.value())
            }
        }
    }

    // MARK: Completions of operations

    @Test("a completion wakes the newest waiter, whoever sleeps in the ring (d1)", arguments: [1, 2, 3])
    func completionWakesTheNewest(limit: Int) throws {
        try withUnwatchedPort(limit: limit, threads: 3) { port, threads in
            let (reader, writer) = try Socket.pair()
            try port.associate(reader, key: 9)
            let operation = IOCP.Operation(capacity: 16)
            var waiting = threads.map { $0.waits(on: port) }
            for round in 1...20 {
                try reader.receive(operation)
                writeRaw("round", to: writer)
                #expect(try waiting[2].value()?.information == 5, "round \(round)")
                #expect(!waiting[0].isDone && !waiting[1].isDone)
                waiting[2] = threads[2].waits(on: port)
            }
        }
    }

    @Test("completions come newest waiter first, as posts do (d1, d19)")
    func severalCompletions() throws {
        try withUnwatchedPort(limit: 3, threads: 3) { port, threads in
            let pairs = try (0..<3).map { _ in try Socket.pair() }
            let tickets = threads.map { $0.waits(on: port) }
            for (index, pair) in pairs.enumerated() {
                try port.associate(pair.0, key: UInt(index))
                try pair.0.receive(IOCP.Operation(capacity: 4))
            }
            for (index, pair) in pairs.enumerated() {
                writeRaw("abc", to: pair.1)
                #expect(try tickets[2 - index].value()?.key == UInt(index))
            }
        }
    }

    @Test("completions that arrive while the limit is used up are queued, not handed out (d6)")
    func completionsHonourTheLimit() throws {
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let (reader, writer) = try Socket.pair()
            try port.associate(reader, key: 9)
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            _ = try b.value()
            try reader.receive(IOCP.Operation(capacity: 16))
            writeRaw("hello", to: writer)
            #expect(staysTrue(for: 200) { !a.isDone })
            #expect(try port.depth() == 1)
            #expect(try threads[1].dequeue(port).value()?.information == 5)
            #expect(!a.isDone)
        }
    }

    @Test("a completion in the ring of a busy thread goes to an idle one while the limit allows it (d1)")
    func completionBehindABusyThread() throws {
        try withUnwatchedPort(limit: 2, threads: 2) { port, threads in
            let (reader, writer) = try Socket.pair()
            try port.associate(reader, key: 9)
            // The busy one: it defers a receive, which is in its own ring, and computes.
            try threads[0].perform {
                _ = try port.dequeue(timeout: .zero)
                try reader.receive(IOCP.Operation(capacity: 16))
            }
            let idle = threads[1].waits(on: port)
            writeRaw("hello", to: writer)
            #expect(try idle.value()?.information == 5)
        }
    }

    @Test("the same after the busy thread has been out for long, back from a wait without a packet (d12)")
    func completionBehindAPollerThatWentAway() throws {
        try withUnwatchedPort(limit: 2, threads: 2) { port, threads in
            let (reader, writer) = try Socket.pair()
            try port.associate(reader, key: 9)
            try threads[0].perform {
                _ = try port.dequeue(timeout: .zero)
                try reader.receive(IOCP.Operation(capacity: 16))
                // Long enough for whoever looks after busy threads to have gone to sleep.
                _ = try port.dequeue(timeout: .milliseconds(250))
            }
            let idle = threads[1].waits(on: port)
            usleep(200_000)
            writeRaw("hello", to: writer)
            #expect(try idle.value()?.information == 5)
        }
    }

    @Test("an operation that a stranger starts while a thread is busy for long completes to an idle one (d1)")
    func strangersOperationBehindABusyThread() throws {
        var options = CompletionPort.Options()
        options.rings = 1
        try withUnwatchedPort(limit: 2, threads: 2, options: options) { port, threads in
            let (reader, writer) = try Socket.pair()
            try port.associate(reader, key: 9)
            let first = threads[0].waits(on: port)
            try port.post(key: 1)
            _ = try first.value()
            let idle = threads[1].waits(on: port)
            usleep(300_000)
            try reader.receive(IOCP.Operation(capacity: 16))
            writeRaw("hello", to: writer)
            #expect(try idle.value()?.information == 5)
        }
    }

    @Test("an operation behind a busy thread completes: its event is set, though nobody may take its packet (d6, e2)")
    func eventBehindABusyThread() throws {
        try withUnwatchedPort(limit: 1, threads: 2) { port, threads in
            let (reader, writer) = try Socket.pair()
            try port.associate(reader, key: 9)
            let event = CompletionEvent()
            let operation = IOCP.Operation(capacity: 16)
            try operation.signal(event)
            try threads[0].perform {
                _ = try port.dequeue(timeout: .zero)
                try reader.receive(operation)
            }
            let idle = threads[1].waits(on: port)
            usleep(200_000)
            writeRaw("hello", to: writer)
            #expect(try event.wait(timeout: patience))
            #expect(operation.status == .success && !idle.isDone)
            #expect(try port.depth() == 1)
        }
    }

    @Test("operations that a thread deferred before it computes or blocks are started all the same (d7)")
    func deferredOperationsDoNotStrand() throws {
        let event = CompletionEvent()
        for blocks in [false, true] {
            try withUnwatchedPort(limit: 1, threads: 1) { port, threads in
                defer { event.set() }
                let (reader, writer) = try Socket.pair()
                try port.associate(writer, key: 9)
                try threads[0].perform {
                    _ = try port.dequeue(timeout: .zero)
                    try writer.send(IOCP.Operation("hello"))
                }
                if blocks { threads[0].start { try event.wait() } }
                #expect(readRaw(5, from: reader) == "hello")
            }
        }
    }

    @Test("more threads than rings: waiters that sleep elsewhere are woken by completions too (d1)")
    func fewerRingsThanPlaces() throws {
        var options = CompletionPort.Options()
        options.rings = 1
        try withUnwatchedPort(limit: 3, threads: 3, options: options) { port, threads in
            let pairs = try (0..<3).map { _ in try Socket.pair() }
            for (index, pair) in pairs.enumerated() { try port.associate(pair.0, key: UInt(index)) }
            for _ in 0..<50 {
                let tickets = threads.map { $0.waits(on: port) }
                for pair in pairs { try pair.0.receive(IOCP.Operation(capacity: 4)) }
                for pair in pairs { writeRaw("abc", to: pair.1) }
                #expect(Set(try tickets.compactMap { try $0.value()?.key }) == [0, 1, 2])
            }
        }
    }

    // MARK: Under load

    @Test("a pool never runs more threads than the limit, and loses no packet (d2, d6, d19)", arguments: [1, 2, 3])
    func poolHoldsTheLimit(limit: Int) throws {
        let posts = 4000
        let handled = Atomic<Int>(0)
        let running = Atomic<Int>(0)
        let most = Atomic<Int>(0)
        try withUnwatchedPort(limit: limit, threads: 6) { port, threads in
            let pairs = try (0..<4).map { _ in try Socket.pair() }
            for pair in pairs { try port.associate(pair.0, key: 1) }
            let done = threads.map { thread in
                thread.start {
                    while true {
                        guard let packet = try port.dequeue(timeout: .seconds(30)) else { return false }
                        let now = running.add(1, ordering: .sequentiallyConsistent).newValue
                        if now > most.load(ordering: .relaxed) { most.store(now, ordering: .relaxed) }
                        if packet.key == 99 {
                            running.subtract(1, ordering: .sequentiallyConsistent)
                            return true
                        }
                        for _ in 0..<200 where handled.load(ordering: .relaxed) < 0 { sched_yield() }
                        handled.add(1, ordering: .relaxed)
                        running.subtract(1, ordering: .sequentiallyConsistent)
                    }
                }
            }
            let operations = pairs.map { _ in IOCP.Operation(capacity: 4) }
            for index in 0..<posts {
                try port.post(key: 1)
                // Now and then a completion among them.
                if index % 100 < 4 {
                    let which = index % 100
                    if becomesTrue({ !operations[which].isPending }) {
                        _ = try? pairs[which].0.receive(operations[which])
                        writeRaw("x", to: pairs[which].1)
                    }
                }
            }
            let expected = posts + posts / 100 * 4
            #expect(becomesTrue { handled.load(ordering: .relaxed) >= expected })
            // Each exits with its last packet, which frees the place for the next.
            for thread in threads { thread.leave() }
            for _ in threads { try port.post(key: 99) }
            for ticket in done { #expect(try ticket.value()) }
            #expect(handled.load(ordering: .relaxed) == expected)
            #expect(most.load(ordering: .relaxed) <= limit)
        }
    }

    @Test("threads that wait, time out, block, move and exit at random lose no packet and leave no count behind")
    func chaos() throws {
        let total = 3000
        let taken = Atomic<Int>(0)
        let other = try CompletionPort(concurrencyLimit: 1)
        try withUnwatchedPort(limit: 2, threads: 6) { port, threads in
            let tickets = threads.enumerated().map { index, thread in
                thread.start {
                    var state = UInt64(index + 1)
                    var batch = PacketBatch(capacity: 3)
                    let tick = CompletionEvent(resetsAutomatically: true)
                    while taken.load(ordering: .relaxed) < total {
                        state = state &* 6_364_136_223_846_793_005 &+ 1
                        switch (state >> 33) % 8 {
                        case 0: try tick.wait(timeout: .microseconds(50))
                        case 1: _ = try other.dequeue(timeout: .zero)
                        case 2:
                            if try port.dequeue(timeout: .zero) != nil { taken.add(1, ordering: .relaxed) }
                        case 3:
                            let count = try port.dequeue(into: &batch, timeout: .microseconds(200))
                            taken.add(count, ordering: .relaxed)
                        default:
                            if try port.dequeue(timeout: .microseconds(500)) != nil { taken.add(1, ordering: .relaxed) }
                        }
                    }
                }
            }
            for index in 0..<total {
                try port.post(key: UInt(index))
                if index % 64 == 0 { sched_yield() }
            }
            for ticket in tickets { try ticket.value() }
            #expect(taken.load(ordering: .relaxed) == total)
            for thread in threads { thread.exit() }
            #expect(port.core.snapshot == (queued: 0, running: 0, waiting: 0, inFlight: 0))
            #expect(other.core.snapshot == (queued: 0, running: 0, waiting: 0, inFlight: 0))
        }
    }
}
