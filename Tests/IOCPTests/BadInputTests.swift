import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP

@Suite("Bad input and short resources")
struct BadInputTests {
    private static func options(entries: UInt32, completions: UInt32, rings: Int? = nil) -> CompletionPort.Options {
        var options = CompletionPort.Options()
        options.submissionEntries = entries
        options.completionEntries = completions
        options.rings = rings
        return options
    }

    // MARK: Misuse

    @Test(
        "an operation that is in flight cannot be started again, changed, or given an event: 87 (f8)",
        arguments: bothStarts)
    func startedTwice(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        try port.associate(right, key: 2)
        let operation = Operation(capacity: 4)
        try left.receive(operation, start: start)
        for second in bothStarts {
            #expect(thrownStatus { try left.receive(operation, start: second) } == .invalidParameter)
            #expect(thrownStatus { try right.send(operation, start: second) } == .invalidParameter)
        }
        #expect(thrownStatus { try operation.setBuffer(nil) } == .invalidParameter)
        #expect(thrownStatus { try operation.signal(CompletionEvent()) } == .invalidParameter)
        do {
            try left.receive(operation)
        } catch {
            #expect(error.description.contains("in flight"))
        }
        let send = Operation("abc")
        try right.send(send)
        let packets = [try port.next(), try port.next()]
        #expect(packets.contains { $0.operation === operation && $0.bytes == 3 })
        #expect(try port.dequeue(timeout: .zero) == nil)
    }

    @Test("of threads that start one operation at the same time one succeeds at a time (f8)")
    func startedByMany() throws {
        let port = try CompletionPort(concurrencyLimit: 2)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        for _ in 0..<100 {
            let operation = Operation(capacity: 4)
            let started = try onThreads(3) { _ in thrownStatus { try left.receive(operation) } }
            #expect(started.filter { $0 == nil }.count == 1)
            #expect(started.allSatisfy { $0 == nil || $0 == .invalidParameter })
            try right.send(Operation("x"))
            try port.expect(operation, bytes: 1, key: 1)
        }
    }

    @Test("an operation that suppresses its packet needs an event: 87 (e8)")
    func suppressedWithoutEvent() throws {
        #expect(thrownStatus { try Operation().signal(nil, suppressesPacket: true) } == .invalidParameter)
    }

    @Test("every use of a closed port is 6, and says that it is closed")
    func closedPort() throws {
        let (left, _) = try Socket.pair()
        let port = try CompletionPort.closed()
        let uses: [() throws -> Any] = [
            { try port.associate(left, key: 1) },
            { try port.post() },
            { try port.post(operation: Operation()) },
            { try port.post(status: .cancelled) },
            { try port.depth() },
            { try port.flush() },
            { try port.duplicate() },
            { try port.dequeue(timeout: .zero) as Any },
            { try port.dequeueAlertably(timeout: .zero) },
            { try port.waitUntilQueued(timeout: .zero) },
            { try BufferGroup(for: port) },
        ]
        for use in uses {
            do {
                _ = try use()
                Issue.record("a closed port was used")
            } catch {
                let error = try #require(error as? PortError)
                #expect(error.status == .invalidHandle)
                #expect(error.description.contains("closed"))
            }
        }
    }

    @Test("every use of a closed handle is 6; closing it again too", arguments: bothStarts)
    func closedHandle(start: Start) throws {
        let (left, _) = try Socket.pair()
        try left.close()
        let operation = Operation(capacity: 4)
        let uses: [() throws -> Any] = [
            { try left.read(operation, start: start) },
            { try left.write(operation, start: start) },
            { try left.receive(operation, start: start) },
            { try left.send(operation, start: start) },
            { try left.accept(operation, start: start) },
            { try left.shutdown(.both) },
            { try left.cancel(operation) },
            { try left.cancelAll() },
            { try left.cancelFromThisThread() },
            { try left.setNotificationModes(.skipSetEventOnHandle) },
            { try left.duplicate() },
            { try left.releaseDescriptor() },
            { try left.close() },
        ]
        for (number, use) in uses.enumerated() {
            #expect(thrownStatus(use) == .invalidHandle, "use \(number)")
        }
        // The operation is as good as new.
        #expect(!operation.isPending)
        let (a, b) = try Socket.pair()
        let port = try CompletionPort(associating: a, key: 1)
        try b.send(Operation("x"))
        try a.receive(operation)
        try port.expect(operation, bytes: 1)
    }

    @Test("a descriptor that is not open cannot be adopted: 6")
    func foreignDescriptor() {
        #expect(thrownStatus { try IOHandle(adopting: FileDescriptor(rawValue: -1)) } == .invalidHandle)
        #expect(thrownStatus { try IOHandle(adopting: FileDescriptor(rawValue: 999_999)) } == .invalidHandle)
    }

    @Test("an operation that is pending on another handle, or on none, is not found: 1168 (e21)")
    func cancelElsewhere() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let operation = Operation(capacity: 4)
        #expect(thrownStatus { try left.cancel(operation) } == .notFound)
        #expect(thrownStatus { try left.cancelAll() } == .notFound)
        #expect(try left.cancelFromThisThread() == 0)
        try left.receive(operation)
        #expect(thrownStatus { try right.cancel(operation) } == .notFound)
        try left.cancel(operation)
        try port.expect(operation, .cancelled, key: 1)
        #expect(thrownStatus { try left.cancel(operation) } == .notFound)
    }

    @Test("ranges of nothing, outside, or without a buffer are judged before anything starts", arguments: bothStarts)
    func ranges(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let scratch = try ScratchDirectory()
        let file = try File(scratch.file(), .readWrite, options: .create)
        try port.associate(file, key: 1)
        let operation = Operation(capacity: 4)
        for range in [-1..<2, 0..<5, 4..<6, 5..<5, 0..<Int.max] {
            #expect(thrownStatus { try file.read(operation, into: range, start: start) } == .invalidParameter)
            #expect(thrownStatus { try file.write(operation, from: range, start: start) } == .invalidParameter)
        }
        for offset in [-1, Int64.min] {
            #expect(thrownStatus { try file.read(operation, at: .at(offset), start: start) } == .invalidParameter)
            #expect(thrownStatus { try file.write(operation, at: .at(offset), start: start) } == .invalidParameter)
        }
        #expect(thrownStatus { try file.write(operation, at: .at(.max), start: start) } == .invalidParameter)
        let bare = Operation()
        #expect(thrownStatus { try file.read(bare, into: 0..<1, start: start) } != nil)
        #expect(
            thrownStatus {
                try file.read(bare, intoMemory: UnsafeMutableRawBufferPointer(start: nil, count: 0), start: start)
            } == nil)
        try port.expect(bare, bytes: 0)
        try file.write(operation, from: 0..<0, start: start)
        try port.expect(operation, bytes: 0)
        #expect(try port.dequeue(timeout: .zero) == nil)
    }

    // MARK: More than the rings hold

    @Test("more operations than a ring holds are absorbed, deferred or not", arguments: bothStarts)
    func fullSubmissionQueue(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1, options: Self.options(entries: 4, completions: 4096))
        let scratch = try ScratchDirectory()
        let file = try File(scratch.file(), .readWrite, options: .create)
        try port.associate(file, key: 1)
        try SideThread {
            _ = try port.dequeue(timeout: .zero)
            let count = 3000
            for number in 0..<count {
                try file.write(Operation([UInt8(truncatingIfNeeded: number)]), at: .at(Int64(number)), start: start)
            }
            for _ in 0..<count { #expect(try port.next().bytes == 1) }
            #expect(try port.dequeue(timeout: .zero) == nil)
            #expect(port.core.snapshot.inFlight == 0)
        }.join()
        #expect(try scratch.read() == (0..<3000).map { UInt8(truncatingIfNeeded: $0) })
    }

    @Test("thousands of receives wait in a ring of four entries, and each gets its byte in the order of its start")
    func manyPending() throws {
        let port = try CompletionPort(concurrencyLimit: 1, options: Self.options(entries: 4, completions: 8))
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        try SideThread {
            _ = try port.dequeue(timeout: .zero)
            let operations = (0..<2000).map { _ in Operation(capacity: 1) }
            for operation in operations { try left.receive(operation) }
            #expect(try port.dequeue(timeout: .zero) == nil)
            var sent = 0
            var received = 0
            while received < operations.count {
                if sent < operations.count {
                    try right.send(Operation([UInt8(truncatingIfNeeded: sent)]), start: .eager)
                    sent += 1
                }
                while let packet = try port.dequeue(timeout: sent < operations.count ? .zero : patience) {
                    try #require(packet.operation === operations[received])
                    received += 1
                    if received == operations.count { break }
                }
            }
        }.join()
    }

    @Test("more completions than a ring holds are absorbed: none is lost", arguments: [1, 3, 64])
    func fullCompletionQueue(batchSize: Int) throws {
        let port = try CompletionPort(concurrencyLimit: 1, options: Self.options(entries: 4, completions: 8))
        let pairs = try (0..<200).map { _ in try Socket.pair() }
        for (number, pair) in pairs.enumerated() { try port.associate(pair.0, key: UInt(number)) }
        try SideThread {
            _ = try port.dequeue(timeout: .zero)
            for round in 0..<5 {
                for pair in pairs { try pair.0.receive(Operation(capacity: 9)) }
                try port.flush()
                // All complete while nobody takes any.
                for pair in pairs {
                    let byte = [UInt8(round)]
                    #expect(Glibc.send(pair.1.descriptor.rawValue, byte, 1, 0) == 1)
                }
                var batch = PacketBatch(capacity: batchSize)
                var keys: Set<UInt> = []
                while keys.count < pairs.count {
                    try #require(try port.dequeue(into: &batch, timeout: patience) > 0)
                    for index in batch.indices {
                        #expect(batch[index].bytes == 1)
                        keys.insert(batch[index].key)
                    }
                }
                #expect(try port.dequeue(timeout: .zero) == nil)
            }
        }.join()
        #expect(port.overflowCount > 0)
    }

    @Test("completions beyond a ring's room reach other threads though its own is busy")
    func overflowStolen() throws {
        let port = try CompletionPort(concurrencyLimit: 2, options: Self.options(entries: 4, completions: 8))
        let pairs = try (0..<100).map { _ in try Socket.pair() }
        for (number, pair) in pairs.enumerated() { try port.associate(pair.0, key: UInt(number)) }
        let submitted = CompletionEvent()
        let release = Tally()
        let busy = SideThread {
            _ = try port.dequeue(timeout: .zero)
            for pair in pairs { try pair.0.receive(Operation(capacity: 9)) }
            try port.flush()
            submitted.set()
            while release.value == 0 { sched_yield() }
        }
        #expect(try submitted.wait(timeout: patience))
        let consumer = SideThread {
            var keys: Set<UInt> = []
            while keys.count < pairs.count, let packet = try port.dequeue(timeout: patience) { keys.insert(packet.key) }
            return keys.count
        }
        for pair in pairs { #expect(Glibc.send(pair.1.descriptor.rawValue, [1], 1, 0) == 1) }
        #expect(try consumer.join() == pairs.count)
        release.add()
        try busy.join()
    }

    @Test("threads beyond the rings, and rings beyond the need, lose nothing")
    func fewRings() throws {
        let port = try CompletionPort(concurrencyLimit: 8, options: Self.options(entries: 2, completions: 4, rings: 1))
        let pairs = try (0..<8).map { _ in try Socket.pair() }
        for pair in pairs { try port.associate(pair.0, key: 1) }
        let received = Tally()
        let workers = (0..<6).map { _ in
            SideThread {
                while let packet = try port.dequeue(timeout: patience), packet.key == 1 {
                    received.add(packet.bytes)
                }
            }
        }
        _ = try onThreads(4) { number in
            for _ in 0..<200 {
                try pairs[number].0.receive(Operation(capacity: 1))
                try pairs[number].1.send(Operation("x"), start: .eager)
            }
        }
        try until("all are received; \(received.value) are") { received.value == 800 }
        for _ in workers { try port.post(key: 2) }
        for worker in workers { try worker.join() }
    }

    @Test("a ring of no entries is refused with 87; one that is too large is made as large as the kernel lets it be")
    func impossibleRing() throws {
        #expect(
            thrownStatus { try CompletionPort(concurrencyLimit: 1, options: Self.options(entries: 0, completions: 0)) }
                == .invalidParameter)
        let port = try CompletionPort(concurrencyLimit: 1, options: Self.options(entries: .max, completions: .max))
        try port.post(key: 1)
        #expect(try port.next().key == 1)
    }

    // MARK: Signals

    @Test("signals that hit threads in every kind of wait are invisible")
    func signalStorm() throws {
        signal(SIGUSR1) { _ in }
        // Without SA_RESTART, every interruptible call is interrupted.
        var action = sigaction()
        sigaction(SIGUSR1, nil, &action)
        action.sa_flags &= ~Int32(SA_RESTART)
        sigaction(SIGUSR1, &action, nil)

        let port = try CompletionPort(concurrencyLimit: 2)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let stop = Tally()
        let threads = Handover<pthread_t>()
        let received = Tally()
        let event = CompletionEvent(resetsAutomatically: true)
        // More threads than places and rings: some sleep in a ring, some park.
        var victims = (0..<4).map { _ in
            SideThread {
                threads.give(pthread_self())
                while let packet = try port.dequeue(timeout: patience), packet.key != .max {
                    received.add(packet.bytes)
                    if let operation = packet.operation { try left.receive(operation) }
                }
            }
        }
        victims.append(
            SideThread {
                threads.give(pthread_self())
                for _ in 0..<20 { #expect(try event.wait(timeout: patience)) }
                let start = ContinuousClock.now
                let other = try CompletionPort(concurrencyLimit: 1)
                #expect(try other.dequeue(timeout: .milliseconds(50)) == nil)
                #expect(try !other.waitUntilQueued(timeout: .milliseconds(50)))
                #expect(ContinuousClock.now - start >= .milliseconds(100))
            })
        let targets = try (0..<victims.count).map { _ in try threads.take() }
        let storm = SideThread {
            while stop.value == 0 {
                for target in targets { pthread_kill(target, SIGUSR1) }
                usleep(50)
            }
        }
        for _ in 0..<3 { try left.receive(Operation(capacity: 1)) }
        for round in 0..<1000 {
            try right.send(Operation("x"), start: round % 2 == 0 ? .eager : .deferred)
            if round % 50 == 0 { event.set() }
            try until("message \(round) is received") { received.value == round + 1 }
        }
        // The storm ends before its targets do.
        try until("the events are seen") {
            event.set()
            return true
        }
        stop.add()
        try storm.join()
        for _ in 0..<4 { try port.post(key: .max) }
        for victim in victims { try victim.join() }
    }

    // MARK: Short resources, in processes of their own

    @Test("without descriptors a port is refused with a text that names the limit; later there may be some")
    func noDescriptors() async {
        await #expect(processExitsWith: .success) {
            let held = holdDescriptors()
            var refused = 0
            // From no descriptor on, one more each time, until there are enough for rings, epoll and doorbell.
            for free in 0..<10 {
                do throws(PortError) {
                    let port = try CompletionPort(concurrencyLimit: 2)
                    try port.post(key: 1)
                    guard try port.dequeue(timeout: .zero)?.key == 1 else { exit(2) }
                } catch {
                    refused += 1
                    guard error.status == .tooManyOpenedFiles else { exit(3) }
                    guard error.description.contains("RLIMIT_NOFILE") else { exit(4) }
                }
                close(held[free])
            }
            let port = try CompletionPort(concurrencyLimit: 2)
            try port.post(key: 1)
            exit(try port.dequeue()?.key == 1 && refused >= 3 ? 0 : 5)
        }
    }

    @Test(
        "an operation on a handle without a port fails for lack of descriptors, and can be started once there are some")
    func noDescriptorsUnassociated() async {
        await #expect(processExitsWith: .success) {
            let (left, right) = try Socket.pair()
            let receive = IOCP.Operation(capacity: 4)
            let held = holdDescriptors()
            for start in [Start.deferred, .eager] {
                do throws(PortError) {
                    try left.receive(receive, start: start)
                    exit(2)
                } catch {
                    guard error.status == .tooManyOpenedFiles, !receive.isPending else { exit(3) }
                }
            }
            for descriptor in held { close(descriptor) }
            try left.receive(receive)
            try right.send(IOCP.Operation(capacity: 3))
            exit(try receive.waitForCompletion(timeout: .seconds(30)) == .success && receive.bytes == 3 ? 0 : 4)
        }
    }

    @Test("under a filter that forbids io_uring the text names the filter and the remedy")
    func seccomp() async {
        await #expect(processExitsWith: .success) {
            guard forbidRings(errno: EPERM) else { exit(2) }
            do throws(PortError) {
                _ = try CompletionPort()
                exit(3)
            } catch {
                guard error.status == .accessDenied else { exit(4) }
                exit(error.description.contains("seccomp") || error.description.contains("io_uring_disabled") ? 0 : 5)
            }
        }
    }

    @Test("a system without io_uring is told so")
    func missing() async {
        await #expect(processExitsWith: .success) {
            guard forbidRings(errno: ENOSYS) else { exit(2) }
            do throws(PortError) {
                _ = try CompletionPort()
                exit(3)
            } catch {
                exit(error.description.contains("no io_uring") ? 0 : 4)
            }
        }
    }

    @Test("lack of memory for a ring is told so")
    func noMemory() async {
        await #expect(processExitsWith: .success) {
            guard forbidRings(errno: ENOMEM) else { exit(2) }
            do throws(PortError) {
                _ = try CompletionPort()
                exit(3)
            } catch {
                exit(error.description.contains("memory") ? 0 : 4)
            }
        }
    }
}
