import Glibc
import Testing

@testable import IOCP

@Suite("port.statistics")
struct StatisticsTests {
    private static var slow: CompletionPort.Options {
        var options = CompletionPort.Options()
        options.rings = 1
        // The monitor is to look at nothing while a test does.
        options.monitorInterval = .seconds(1)
        return options
    }

    @Test("a new port counts nothing")
    func nothing() throws {
        let port = try CompletionPort(concurrencyLimit: 3)
        var expected = CompletionPort.Statistics()
        expected.limit = 3
        #expect(try port.statistics == expected)
    }

    @Test("it needs an open port and the right to query (a13)")
    func rights() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let blind = try port.duplicate(access: .modify)
        #expect(thrownStatus { try blind.statistics } == .accessDenied)
        port.close()
        #expect(thrownStatus { try port.statistics } == .invalidHandle)
    }

    @Test("depth counts what is queued and unclaimed, posts and completions (c10)")
    func depth() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        for _ in 0..<3 { try port.post() }
        #expect(try port.statistics.depth == 3)
        try left.receive(IOCP.Operation(capacity: 1))
        #expect(try port.statistics.depth == 3)
        writeRaw("x", to: right)
        #expect(try becomesTrue { try port.statistics.depth == 4 })
        _ = try port.next()
        #expect(try port.statistics.depth == 3)
    }

    @Test("running, waiting and parked: a waiter in each ring, the others parked, as many running as the limit (d6)")
    func threads() throws {
        try withPort(limit: 2, threads: 4, options: Self.slow) { port, threads in
            let tickets = threads.map { $0.waits(on: port) }
            var now = try port.statistics
            #expect(now.waiting == 4 && now.running == 0)
            #expect(now.parked == 3, "one ring, one sleeper in it")
            for _ in 0..<3 { try port.post() }
            #expect(becomesTrue { tickets.count(where: \.isDone) == 2 })
            now = try port.statistics
            #expect(now.running == 2 && now.waiting == 2 && now.depth == 1)
            #expect(now.wakeUps == 2)
            // One more than the limit after a time-out (d12).
            #expect(try port.dequeue(timeout: .zero) == nil)
            #expect(try port.statistics.running == 3)
        }
    }

    @Test("blocked and hand-overs: a region's place goes to a waiter (d7)")
    func blocked() throws {
        try withPort(limit: 1, threads: 2, options: Self.slow) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            #expect(try b.value()?.key == 1)
            try port.post(key: 2)
            let isReleased = Protected(false)
            let region = threads[1].start { withBlockingRegion { while !isReleased.withLock({ $0 }) { usleep(500) } } }
            #expect(try a.value()?.key == 2)
            var now = try port.statistics
            #expect(now.blocked == 1 && now.handOvers == 1 && now.running == 1 && now.wakeUps == 2)
            isReleased.withLock { $0 = true }
            try region.value()
            now = try port.statistics
            #expect(now.blocked == 0 && now.handOvers == 1 && now.running == 2)
        }
    }

    @Test("deferred counts what has not entered the kernel, in flight what has not ended")
    func requests() throws {
        let pairs = try (0..<3).map { _ in try Socket.pair() }
        try withPort(limit: 2, threads: 1, options: Self.slow) { port, threads in
            for pair in pairs { try port.associate(pair.0, key: 1) }
            // Tied to the port, and with a ring: its starts wait for its next dequeue.
            let none = try threads[0].dequeue(port, timeout: .zero).value()
            #expect(none == nil)
            var mostDeferred = 0
            // The monitor may look just then, on behalf of other tests' ports.
            for _ in 0..<100 where mostDeferred < 3 {
                try threads[0].perform { for pair in pairs { try pair.0.receive(IOCP.Operation(capacity: 1)) } }
                var now = try port.statistics
                #expect(now.inFlight == 3)
                mostDeferred = max(mostDeferred, now.deferred)
                try threads[0].perform { try port.flush() }
                now = try port.statistics
                #expect(now.deferred == 0 && now.inFlight == 3)
                for pair in pairs { writeRaw("x", to: pair.1) }
                #expect(try becomesTrue { try port.statistics.inFlight == 0 })
                #expect(try port.statistics.depth == 3)
                for _ in pairs { #expect(try threads[0].dequeue(port).value()?.information == 1) }
            }
            #expect(mostDeferred == 3)
        }
    }

    @Test("overflows: completions that find their ring full are counted, and come")
    func overflows() throws {
        var options = Self.slow
        options.submissionEntries = 2
        options.completionEntries = 4
        let port = try CompletionPort(concurrencyLimit: 1, options: options)
        let pairs = try (0..<50).map { _ in try Socket.pair() }
        for pair in pairs { try port.associate(pair.0, key: 1) }
        // This thread leases the ring, and nobody else sees its completions; but the monitor may look just then, on behalf
        // of other tests' ports.
        #expect(try port.dequeue(timeout: .zero) == nil)
        for _ in 0..<100 where try port.statistics.overflows == 0 {
            for pair in pairs { try pair.0.receive(IOCP.Operation(capacity: 1)) }
            try port.flush()
            for pair in pairs { writeRaw("x", to: pair.1) }
            for _ in pairs { _ = try port.next() }
        }
        #expect(try port.statistics.overflows > 0)
    }

    @Test("re-issues: an operation whose thread has gone is started again (e34)")
    func reissues() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try tcpPair()
        try port.associate(left, key: 1)
        let receive = IOCP.Operation(capacity: 8)
        try SideThread {
            _ = try port.dequeue(timeout: .zero)
            try left.receive(receive)
            try port.flush()
        }.join()
        // The kernel ends the request when it sees that the thread has gone, at the next event or before.
        writeRaw("x", to: right)
        try port.expect(receive, bytes: 1)
        #expect(try port.statistics.reissues >= 1)
        #expect(try port.statistics.inFlight == 0)
    }

    @Test("kernel entries: one for what a thread started since its last dequeue, however much it is")
    func kernelEntries() throws {
        let pairs = try (0..<3).map { _ in try Socket.pair() }
        try withPort(limit: 1, threads: 1, options: Self.slow) { port, threads in
            for pair in pairs { try port.associate(pair.0, key: 1) }
            #expect(try port.statistics.kernelEntries == 0)
            try port.post()
            #expect(try threads[0].dequeue(port).value() != nil)
            #expect(try port.statistics.kernelEntries == 0, "a packet that is there needs no kernel")
            var fewest = Int.max
            // The monitor may look just then, on behalf of other tests' ports, and enters too.
            for _ in 0..<100 where fewest > 1 {
                for pair in pairs { writeRaw("x", to: pair.1) }
                let before = try port.statistics.kernelEntries
                try threads[0].perform { for pair in pairs { try pair.0.receive(IOCP.Operation(capacity: 1)) } }
                for _ in pairs { #expect(try threads[0].dequeue(port).value()?.information == 1) }
                let entries = try port.statistics.kernelEntries - before
                #expect(entries >= 1)
                fewest = min(fewest, entries)
            }
            #expect(fewest == 1)
        }
    }

    @Test("supporting system calls: a thread that parks and is woken makes some, a packet that is there none")
    func supportingSystemCalls() throws {
        try withPort(limit: 1, threads: 2, options: Self.slow) { port, threads in
            let before = CompletionPort.supportingSystemCalls
            let tickets = threads.map { $0.waits(on: port) }
            try port.post(key: 1)
            #expect(becomesTrue { tickets.contains(where: \.isDone) })
            #expect(CompletionPort.supportingSystemCalls > before)
        }
    }
}
