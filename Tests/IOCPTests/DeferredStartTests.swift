import Glibc
import Synchronization
import Testing

@testable import IOCP

/// Item 5 of the contract: what a deferred start costs, and when it enters the kernel.
@Suite("Deferred starts")
struct DeferredStartTests {
    /// Whether something can be read from the socket now.
    private func isReadable(_ socket: Socket) -> Bool {
        var interest = pollfd(fd: socket.file.descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&interest, 1, 0) == 1
    }

    @Test("what a thread deferred and then computes enters the kernel without it, within the documented bound")
    func boundedDelay() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let operation = IOCP.Operation("late")
        #expect(try port.dequeue(timeout: .zero) == nil)  // ties the thread to the port, and leases it a ring
        for _ in 0..<20 {
            let clock = ContinuousClock()
            let begin = clock.now
            #expect(try left.send(operation) == .pending)
            while !isReadable(right), clock.now - begin < .seconds(5) {}
            // Documented are 10 milliseconds; what is more is the scheduling of two loaded processors.
            #expect(clock.now - begin < .seconds(1))
            #expect(readRaw(10, from: right) == "late")
            try port.expect(operation, bytes: 4, key: 1)
        }
    }

    @Test("a flush hands what is deferred to the kernel at once")
    func flush() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let operation = IOCP.Operation("now")
        #expect(try port.dequeue(timeout: .zero) == nil)
        try left.send(operation)
        try port.flush()
        #expect(isReadable(right))
        try port.expect(operation, bytes: 3, key: 1)
    }

    @Test("what was deferred since the last dequeue enters the kernel in one batch with the next")
    func oneEntry() throws {
        var batch = PacketBatch(capacity: 64)
        var fewest = UInt64.max
        // The monitor may submit for a thread that is preempted, and a slow round makes the next one submit earlier: the
        // quickest first round of many ports is the rule.
        for _ in 0..<200 where fewest > 1 {
            let port = try CompletionPort(concurrencyLimit: 1)
            let pairs = try (0..<64).map { _ in try Socket.pair() }
            for (index, pair) in pairs.enumerated() { try port.associate(pair.0, key: UInt(index)) }
            #expect(try port.dequeue(into: &batch, timeout: .zero) == 0)
            let slot = port.core.slots[0]
            let before = slot.entries.load(ordering: .relaxed)
            let operations = pairs.map { _ in IOCP.Operation("x") }
            for (pair, operation) in zip(pairs, operations) { try pair.0.send(operation) }
            var count = 0
            while count < 64 { count += try port.dequeue(into: &batch, timeout: patience) }
            fewest = min(fewest, slot.entries.load(ordering: .relaxed) &- before)
        }
        #expect(fewest == 1)
    }

    @Test("a thread that leases no ring enters the kernel at once")
    func stranger() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let operation = IOCP.Operation("at once")
        try left.send(operation)
        #expect(isReadable(right))
        try port.expect(operation, bytes: 7, key: 1)
    }

    /// A handler that starts an operation and then computes for so long, without the monitor's help.
    private func round(
        _ port: CompletionPort, _ socket: Socket, to peer: Socket, computing microseconds: Int64
    ) throws -> Int {
        let operation = IOCP.Operation("x")
        try socket.send(operation)
        let deferred = port.core.slots[0].unsubmittedRequests
        let end = ContinuousClock.now + .microseconds(microseconds)
        while ContinuousClock.now < end {}
        try port.expect(operation, bytes: 1, key: 1)
        // However many rounds there are, the peer has room.
        #expect(readRaw(1, from: peer) == "x")
        return deferred
    }

    @Test("once handlers have been seen to compute after a start, starts enter the kernel at once, and later not")
    func adaptation() throws {
        var options = CompletionPort.Options()
        options.monitorInterval = .seconds(1)
        let port = try CompletionPort(concurrencyLimit: 1, options: options)
        let (left, right) = try Socket.pair()
        defer { try? right.close() }
        try port.associate(left, key: 1)
        #expect(try port.dequeue(timeout: .zero) == nil)
        // One round in eight is timed: the first ones cannot be known.
        var deferred = 0
        while try round(port, left, to: right, computing: 5000) == 1 {
            deferred += 1
            try #require(deferred <= Slot.timedRounds)
        }
        #expect(deferred > 0)
        for _ in 0..<20 { #expect(try round(port, left, to: right, computing: 5000) == 0) }
        // Quick rounds again: back to one entry for a batch. A loaded machine may make a round slow.
        #expect(try becomesTrue { try round(port, left, to: right, computing: 0) == 1 })
    }

    @Test("the monitor's interval is between a millisecond and a second")
    func interval() throws {
        for interval in [Duration.zero, .microseconds(999), .milliseconds(1001), .seconds(-1)] {
            var options = CompletionPort.Options()
            options.monitorInterval = interval
            #expect(throws: PortError.self) { _ = try CompletionPort(options: options) }
        }
    }
}
