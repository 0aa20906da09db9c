#if DEBUG || IOCP_SEAM
import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP
@testable import IOUring

/// What the kernel answers, in place of doing it.
enum Fault: Sendable, CaseIterable, CustomTestStringConvertible {
    case interrupted, again, busy, noMemory
    /// Of what is to be submitted it takes one entry, and does not wait.
    case short

    var errno: Int32 {
        switch self {
        case .interrupted: EINTR
        case .again, .short: EAGAIN
        case .busy: EBUSY
        case .noMemory: ENOMEM
        }
    }

    var testDescription: String {
        switch self {
        case .interrupted: "EINTR"
        case .again: "EAGAIN"
        case .busy: "EBUSY"
        case .noMemory: "ENOMEM"
        case .short: "short submit"
        }
    }
}

enum FaultPattern: Sendable, CaseIterable {
    /// The first call, every third call, every call for a while.
    case once, everyThird, forAWhile
}

/// Which calls are hit.
enum FaultyCalls: Sendable, CaseIterable {
    /// Entries; those that submit only; synchronous cancels and messages; all of them.
    case entries, submissions, registrations, all
}

/// Faults in the calls for one port's rings, from its making until `end`.
final class FaultyKernel: Sendable {
    /// Calls that could be hit, and those of them that were.
    private let calls = Atomic<Int>(0)
    private let hits = Atomic<Int>(0)
    private let isOver = Atomic<Bool>(false)
    private nonisolated(unsafe) var installed = -1

    init(_ port: CompletionPort, _ fault: Fault, _ pattern: FaultPattern, _ hit: FaultyCalls = .all) {
        let rings = Set(port.core.slots.map(\.fileDescriptor))
        installed = Seam.install { [self] call in
            switch call {
            case .enter(let ring, let submit, _, _, _):
                // No kernel cuts short what it was not given.
                let least: UInt32 = fault == .short ? 2 : hit == .submissions ? 1 : 0
                guard rings.contains(ring), hit != .registrations, submit >= least else { return .pass }
                return decide(fault, pattern, fault == .short ? .submit(atMost: 1) : .answer(-fault.errno))
            case .cancel(let ring, _, _, _), .message(to: let ring, _, _):
                guard rings.contains(ring), hit == .registrations || hit == .all else { return .pass }
                return fault == .short ? .pass : decide(fault, pattern, .answer(-fault.errno))
            default:
                return .pass
            }
        }
    }

    private func decide(_ fault: Fault, _ pattern: FaultPattern, _ verdict: Seam.Verdict) -> Seam.Verdict {
        let number = calls.wrappingAdd(1, ordering: .sequentiallyConsistent).oldValue
        let isHit =
            switch pattern {
            case .once: number == 0
            case .everyThird: number % 3 == 2
            case .forAWhile: !isOver.load(ordering: .sequentiallyConsistent)
            }
        if isHit { hits.add(1, ordering: .sequentiallyConsistent) }
        return isHit ? verdict : .pass
    }

    /// The kernel does as it is told from now on.
    func end() {
        isOver.store(true, ordering: .sequentiallyConsistent)
        Seam.remove(installed)
    }

    var hitCount: Int { hits.load(ordering: .sequentiallyConsistent) }
}

struct FaultCase: Sendable, CustomTestStringConvertible {
    let fault: Fault
    let pattern: FaultPattern
    let calls: FaultyCalls

    var testDescription: String { "\(fault.testDescription) \(pattern) in \(calls)" }

    static let all: [FaultCase] = Fault.allCases.flatMap { fault in
        FaultPattern.allCases.flatMap { pattern in
            FaultyCalls.allCases.compactMap { calls in
                fault == .short && calls != .submissions
                    ? nil : FaultCase(fault: fault, pattern: pattern, calls: calls)
            }
        }
    }
}

@Suite("Faults below the port", .serialized)
struct FaultTests {
    /// What came for each operation.
    private final class Packets: Sendable {
        private let seen = Protected<[ObjectIdentifier: [Seen]]>([:])
        private let posted = Tally()

        func note(_ packet: Packet) {
            packet.lentBuffer?.giveBack()
            guard let operation = packet.operation else { return posted.add() }
            let copy = Seen(packet)
            seen.withLock { $0[ObjectIdentifier(operation), default: []].append(copy) }
        }

        func of(_ operation: IOCP.Operation) -> [Seen] {
            seen.withLock { $0[ObjectIdentifier(operation)] ?? [] }
        }

        /// Waits for an operation's last packet, which must be the only one.
        func outcome(_ operation: IOCP.Operation, _ location: SourceLocation = #_sourceLocation) throws -> Seen {
            try until("the packet comes; the status is \(operation.status)", location) { !of(operation).isEmpty }
            return of(operation)[0]
        }

        var posts: Int { posted.value }
        var operations: Int { seen.withLock { $0.count } }
        var packets: Int { seen.withLock { $0.values.reduce(0) { $0 + $1.count } } }
    }

    private static let end = UInt.max

    /// Threads that dequeue and note what comes, while `body` runs on another thread. Key 7 has a call to be made.
    private func withWorkers(
        _ port: CompletionPort, _ count: Int, _ packets: Packets, _ body: () throws -> Void
    ) throws {
        let workers = (0..<count).map { _ in
            SideThread {
                while let packet = try port.dequeue(timeout: patience) {
                    if packet.key == Self.end { return }
                    if let call = packet.operation as? Call {
                        try call.body()
                    } else {
                        packets.note(packet)
                    }
                }
                Issue.record("no packet came for a long time")
            }
        }
        do {
            try body()
        } catch {
            Issue.record("\(error)")
        }
        for _ in workers { try port.post(key: Self.end) }
        for worker in workers { try worker.join() }
    }

    /// Something for a worker to do.
    private final class Call: IOCP.Operation, @unchecked Sendable {
        let body: @Sendable () throws -> Void
        init(_ body: @escaping @Sendable () throws -> Void) {
            self.body = body
            super.init(buffer: nil)
        }
    }

    // MARK: Everything, under every fault

    @Test(
        "whatever the kernel refuses and for how long: every operation, post, cancel and close has its one packet",
        arguments: FaultCase.all)
    func everything(_ faults: FaultCase) throws {
        let port = try CompletionPort(concurrencyLimit: 2)
        let group = try BufferGroup(for: port, buffersPerRing: 4, bufferSize: 64)
        let scratch = try ScratchDirectory()
        let packets = Packets()
        let file = try File(scratch.file(), .readWrite, options: .create)
        try port.associate(file, key: 1)
        let pairs = try (0..<8).map { _ in try Socket.pair() }
        for pair in pairs {
            try port.associate(pair.0, key: 2)
            try port.associate(pair.1, key: 2)
        }
        let datagrams = try Socket.pair(.datagram)
        try port.associate(datagrams.0, key: 3)
        let pipe = try Pipe.make()
        try port.associate(pipe.reading, key: 4)
        try port.associate(pipe.writing, key: 4)
        let listener = try Socket.listening(at: .loopback(port: 0))
        try port.associate(listener, key: 5)
        let client = try Socket(.stream, family: .ipv4)
        try port.associate(client, key: 5)
        let address = try listener.localAddress()

        let kernel = FaultyKernel(port, faults.fault, faults.pattern, faults.calls)
        defer { kernel.end() }
        let began = ContinuousClock.now
        let ender = SideThread {
            if faults.pattern == .forAWhile {
                usleep(60_000)
                kernel.end()
            }
        }
        try withWorkers(port, 4, packets) {
            // From a thread of the port's, deferred, and from one that is not, eager and deferred.
            let writes = (0..<12).map { index in Operation((0..<16).map { UInt8(index * 16 + $0) }) }
            let pending = Operation(capacity: 4)
            let aborted = (0..<2).map { _ in Operation(capacity: 4) }
            let first = (0..<4).map { _ in Operation(capacity: 5) }
            let starts = Tally()
            try port.post(
                key: 7,
                operation: Call {
                    for (index, write) in writes.prefix(4).enumerated() {
                        try file.write(write, at: .at(Int64(index * 16)))
                    }
                    try pairs[0].0.receive(first[0])
                    starts.add()
                })
            for (index, write) in writes.enumerated().dropFirst(4) {
                try file.write(write, at: .at(Int64(index * 16)), start: index % 2 == 0 ? .eager : .deferred)
            }
            try pairs[1].0.receive(first[1], start: .eager)
            try datagrams.0.receiveMessage(first[2])
            try pipe.reading.read(first[3])
            try pairs[2].0.receive(pending)
            try pairs[3].0.receive(aborted[0])
            try pairs[3].0.receive(aborted[1], start: .eager)
            for _ in 0..<20 { try port.post(key: 6) }

            // From a thread that is not the port's, and from one that is; one of them both at once, one in turn.
            let asks = (0..<2).map { _ in Operation(Array("helloworld".utf8)) }
            try pairs[5].0.transact(asks[0], sending: 0..<5, receiving: 5..<10, start: .eager)
            try port.post(
                key: 7, operation: Call { try pairs[6].0.transact(asks[1], sending: 0..<5, receiving: 0..<5) })

            // One that cannot be sent, and is given up.
            let vain = Operation(capacity: 4_000_008)
            try pairs[7].0.transact(
                vain, sending: 0..<4_000_000, receiving: 4_000_000..<4_000_008, start: .eager)
            try pairs[7].0.cancel(vain)
            let given = try packets.outcome(vain)
            #expect(given.status == .cancelled && given.information == 0)

            let accept = Operation()
            let connect = Operation()
            try listener.accept(accept)
            try client.connect(connect, to: address, start: .eager)

            let continuous = Operation()
            try pairs[4].0.receiveContinuously(continuous, from: group)

            // Ends what waits for nobody.
            try pairs[2].0.cancel(pending)
            try pairs[3].0.close()
            #expect(try packets.outcome(pending).status == .cancelled)
            for operation in aborted { #expect(try packets.outcome(operation).status == .connectionAborted) }

            for (index, write) in writes.enumerated() {
                let outcome = try packets.outcome(write)
                #expect(outcome.status == .success && outcome.information == 16, "write \(index)")
            }
            try until("the worker has started") { starts.value == 1 }
            let sends = (0..<2).map { _ in Operation("hello") }
            try pairs[0].1.send(sends[0])
            try pairs[1].1.send(sends[1], start: .eager)
            writeRaw("hello", to: datagrams.1)
            let piped = Operation("hello")
            try pipe.writing.write(piped)
            for operation in sends + [piped] { #expect(try packets.outcome(operation).information == 5) }
            for operation in first {
                let outcome = try packets.outcome(operation)
                #expect(outcome.status == .success && outcome.information == 5)
                #expect(operation.text(5) == "hello")
            }
            for (ask, pair) in zip(asks, pairs[5...6]) {
                let peer = Peer(dup(pair.1.descriptor.rawValue))
                #expect(try peer.receiveText(5) == "hello")
                try peer.send("HELLO")
                let outcome = try packets.outcome(ask)
                #expect(outcome.status == .success && outcome.information == 5)
                #expect(ask.text(10).contains("HELLO"))
            }
            #expect(try packets.outcome(accept).socket != nil)
            #expect(try packets.outcome(connect).status == .success)

            writeRaw("abc", to: pairs[4].1)
            try until("data comes") { packets.of(continuous).contains { $0.isMore && $0.information == 3 } }
            try pairs[4].0.cancel(continuous)
            try until("it ends") { packets.of(continuous).contains { !$0.isMore } }
            #expect(packets.of(continuous).last?.status == .cancelled)

            try until("the posts come; \(packets.posts) have") { packets.posts == 20 }
        }
        kernel.end()
        try ender.join()
        #expect(try port.drain().isEmpty)
        #expect(packets.packets == packets.operations + 1)
        #expect(try scratch.read() == (0..<192).map { UInt8($0) })
        try until("nothing is in flight") { port.core.snapshot.inFlight == 0 }
        // Nobody tries without end: the work needs a few hundred calls, and each thread pauses while it is refused. What
        // looks like a signal is tried again some times before it counts.
        let milliseconds = Int((ContinuousClock.now - began) / .milliseconds(1))
        let most = (500 + milliseconds * 8) * (faults.fault == .interrupted ? 16 : 1)
        if faults.pattern == .forAWhile {
            #expect(kernel.hitCount < most, "\(kernel.hitCount) refusals in \(milliseconds) ms")
        }
    }

    // MARK: A kernel that takes nothing

    @Test(
        "while nothing is taken no thread spins, and the port says so; then everything goes on",
        arguments: [Fault.interrupted, .again, .busy, .noMemory], [FaultyCalls.submissions, .all])
    func longRefusal(_ fault: Fault, _ calls: FaultyCalls) throws {
        try withPort(limit: 2, threads: 3) { port, threads in
            let (left, right) = try Socket.pair()
            try port.associate(left, key: 1)
            let received = Operation(capacity: 4)
            let kernel = FaultyKernel(port, fault, .forAWhile, calls)
            defer { kernel.end() }
            // The operation is in the first thread's ring, which the kernel does not take.
            let error = try threads[0].perform { () -> PortError? in
                _ = try port.dequeue(timeout: .zero)
                try left.receive(received)
                do throws(PortError) {
                    try port.flush()
                } catch {
                    return error
                }
                return nil
            }
            #expect(error?.status == .insufficientResources)
            #expect(error?.reason.contains("errno \(fault.errno)") == true)
            #expect(error?.reason.contains("stay queued") == true)
            #expect(try port.statistics.refusals > 0)

            let waits = threads.map { $0.dequeue(port) }
            try port.untilWaiting(3)
            let before = kernel.hitCount
            let began = ContinuousClock.now
            usleep(200_000)
            let hits = kernel.hitCount - before
            let milliseconds = Int((ContinuousClock.now - began) / .milliseconds(1))
            // Two threads in rings and the monitor, each every few milliseconds. What looks like a signal is tried again.
            let most = milliseconds * (fault == .interrupted ? 32 : 4)
            #expect(hits < most, "\(hits) calls in \(milliseconds) ms")
            #expect(waits.allSatisfy { !$0.isDone })
            #expect(received.isPending)

            // Posts come through meanwhile.
            try port.post(key: 2)
            try until("a waiter has the post") { waits.contains { $0.isDone } }

            kernel.end()
            writeRaw("data", to: right)
            try until("a waiter has the data") { waits.filter(\.isDone).count == 2 }
            #expect(received.status == .success && received.bytes == 4)
            let keys = try waits.filter(\.isDone).map { try $0.value()?.key }
            #expect(Set(keys) == [1, 2])
            #expect(try port.statistics.deferred == 0)
        }
    }

    @Test("a thread that sleeps when nothing is taken any more is woken by posts and by the port's end (b5)")
    func wakeUpsRefused() throws {
        for fault in [Fault.interrupted, .again, .busy, .noMemory] {
            let port = try CompletionPort(concurrencyLimit: 1)
            let thread = ScriptedThread()
            defer { thread.exit() }
            for round in 0..<2 {
                let ticket = thread.waits(on: port)
                try until("it sleeps in the ring") { port.core.slots[0].isWatched }
                let kernel = FaultyKernel(port, fault, .forAWhile)
                if round == 0 { try port.post(key: 1) } else { port.close() }
                usleep(20_000)
                kernel.end()
                if round == 0 {
                    #expect(try ticket.value()?.key == 1)
                } else {
                    #expect(thrownStatus { try ticket.value() as Any } == .abandoned)
                }
            }
        }
    }

    @Test("a full ring that nothing is taken from: what is beyond it waits, cancels and wake-ups reach their aim later")
    func fullRingRefused() throws {
        var options = CompletionPort.Options()
        options.submissionEntries = 4
        options.rings = 1
        try withPort(limit: 2, threads: 2, options: options) { port, threads in
            let pairs = try (0..<40).map { _ in try Socket.pair() }
            for pair in pairs { try port.associate(pair.0, key: 1) }
            let early = Operation(capacity: 1)
            try pairs[0].0.receive(early, start: .eager)
            let ticket = threads[0].waits(on: port)
            try until("it sleeps in the ring") { port.core.slots[0].isWatched }

            let kernel = FaultyKernel(port, .noMemory, .forAWhile)
            defer { kernel.end() }
            let operations = (1..<40).map { _ in Operation(capacity: 1) }
            for (pair, operation) in zip(pairs.dropFirst(), operations) { try pair.0.receive(operation) }
            #expect(kernel.hitCount < 200)
            // One that the kernel has, with no room for the question; one in the ring; one behind it.
            try pairs[0].0.cancel(early)
            try pairs[1].0.cancel(operations[0])
            try pairs[39].0.cancel(operations[38])
            // Wakes the sleeper: the last one ended at once.
            usleep(10_000)
            kernel.end()

            var ended: [ObjectIdentifier: CompletionStatus] = [:]
            if let packet = try ticket.value() { ended[ObjectIdentifier(packet.operation!)] = packet.status }
            while ended.count < 3 {
                let packet = try port.next()
                ended[ObjectIdentifier(packet.operation!)] = packet.status
            }
            for operation in [early, operations[0], operations[38]] {
                #expect(ended[ObjectIdentifier(operation)] == .cancelled)
            }
            for (pair, operation) in zip(pairs.dropFirst(), operations) where operation.status == .pending {
                writeRaw("x", to: pair.1)
            }
            for _ in 0..<37 { #expect(try port.next().status == .success) }
            #expect(try port.drain().isEmpty)
            #expect(port.core.snapshot.inFlight == 0)
        }
    }

    // MARK: Closing

    // In processes of their own, so that nobody else takes the numbers.

    @Test(
        "a handle closed while its requests cannot be taken: none of them hits the next file of that number (e28, e29)")
    func closedBeforeTaken() async {
        await #expect(processExitsWith: .success) { try exitTest { try Self.closeBeforeTaken(.submissions) } }
    }

    @Test(
        "the same while the kernel cannot even be asked to cancel: the numbers stay taken until the requests have ended"
    )
    func closedBeforeAsked() async {
        await #expect(processExitsWith: .success) { try exitTest { try Self.closeBeforeTaken(.all) } }
    }

    private static func closeBeforeTaken(_ calls: FaultyCalls) throws {
        let scratch = try ScratchDirectory()
        let port = try CompletionPort(concurrencyLimit: 1)
        // Of every kind: no-ops may not have all that these have.
        let group = try BufferGroup(for: port, buffersPerRing: 4, bufferSize: 64)
        let file = try File(scratch.write([1, 2, 3]), .readWrite)
        let victim = try FileDescriptor.open(scratch.write([9, 9, 9], to: "victim"), .readWrite)
        let (left, right) = try Socket.pair()
        let (other, _other) = try Socket.pair()
        try port.associate(file, key: 1)
        try port.associate(left, key: 2)
        try port.associate(other, key: 3)
        let numbers = [file, left, other].map { $0.descriptor.rawValue }
        let write = Operation("written")
        let synchronize = Operation()
        let receive = Operation(capacity: 4)
        let send = Operation("sent")
        let continuous = Operation()
        let expected: [(IOCP.Operation, CompletionStatus)] = [
            (write, .cancelled), (synchronize, .cancelled), (receive, .connectionAborted), (send, .connectionAborted),
            (continuous, .connectionAborted),
        ]
        let kernel = FaultyKernel(port, .again, .forAWhile, calls)
        try file.write(write, at: 0)
        try file.synchronize(synchronize)
        try left.receive(receive)
        try left.send(send)
        try other.receiveContinuously(continuous, from: group)
        try file.close()
        try left.close()
        try other.close()
        // Numbers that are free are another file's at once.
        let free = numbers.filter { fcntl($0, F_GETFD) < 0 }
        #expect(free.count == (calls == .submissions ? numbers.count : 0))
        for number in free { #expect(dup2(victim.rawValue, number) == number) }
        #expect(expected.allSatisfy { $0.0.isPending })
        kernel.end()

        var statuses: [ObjectIdentifier: [CompletionStatus]] = [:]
        for _ in expected {
            let packet = try port.next()
            statuses[ObjectIdentifier(packet.operation!), default: []].append(packet.status)
        }
        #expect(try port.drain().isEmpty)
        for (operation, status) in expected { #expect(statuses[ObjectIdentifier(operation)] == [status]) }
        #expect(try scratch.read("victim") == [9, 9, 9])
        #expect(try scratch.read() == [1, 2, 3])
        // What was not taken was not sent either; the peer sees the end.
        #expect(readRaw(10, from: right) == "")
        for number in free { close(number) }
        #expect(numbers.allSatisfy { fcntl($0, F_GETFD) < 0 }, "the numbers are free in the end")
        #expect(port.core.snapshot.inFlight == 0)
        _ = _other
    }

    @Test("a handle closed while the kernel refuses the cancel: what it has ends all the same (e29)")
    func cancelRefused() throws {
        for fault in [Fault.interrupted, .again, .busy, .noMemory] {
            let port = try CompletionPort(concurrencyLimit: 1)
            let (left, right) = try Socket.pair()
            try port.associate(left, key: 1)
            let receive = Operation(capacity: 4)
            try left.receive(receive, start: .eager)
            let kernel = FaultyKernel(port, fault, .forAWhile, .registrations)
            defer { kernel.end() }
            try left.close()
            try port.expect(receive, .connectionAborted)
            #expect(kernel.hitCount > 0)
            #expect(readRaw(1, from: right) == "", "the peer sees the end")
        }
    }

    @Test(
        "a port closed while nothing is taken: its handles' operations end without packets, and the rings go (f1, f4)")
    func portClosed() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let before = openDescriptors()
                let gone = Tally()
                do {
                    let port = try CompletionPort(concurrencyLimit: 2)
                    let (left, _right) = try Socket.pair()
                    try port.associate(left, key: 1)
                    let kernel = FaultyKernel(port, .again, .forAWhile)
                    defer { kernel.end() }
                    for _ in 0..<4 { try left.receive(CountedOperation(gone)) }
                    port.close()
                    try left.close()
                    usleep(20_000)
                    kernel.end()
                    _ = _right
                }
                try until("the operations are gone; \(gone.value) are") { gone.value == 4 }
                try until("the descriptors are closed") { openDescriptors() <= before }
            }
        }
    }

    @Test("completions that found the ring full are brought once the kernel lets it be, and nobody spins until then")
    func overflowRefused() throws {
        var options = CompletionPort.Options()
        options.submissionEntries = 4
        options.completionEntries = 8
        let port = try CompletionPort(concurrencyLimit: 1, options: options)
        let pairs = try (0..<60).map { _ in try Socket.pair() }
        for pair in pairs { try port.associate(pair.0, key: 1) }
        for pair in pairs { try pair.0.receive(Operation(capacity: 1), start: .eager) }
        let kernel = FaultyKernel(port, .busy, .forAWhile, .entries)
        defer { kernel.end() }
        let began = ContinuousClock.now
        for pair in pairs { writeRaw("x", to: pair.1) }
        usleep(100_000)
        let hits = kernel.hitCount
        let milliseconds = Int((ContinuousClock.now - began) / .milliseconds(1))
        #expect(hits < milliseconds * 4, "\(hits) calls in \(milliseconds) ms")
        kernel.end()
        for _ in pairs { #expect(try port.next().bytes == 1) }
        #expect(try port.drain().isEmpty)
    }

    @Test("operations on a handle without a port are tried again as well")
    func unassociated() throws {
        let homeless = try Engine.unassociated()
        let (left, right) = try Socket.pair()
        let receive = Operation(capacity: 4)
        let rings = Set(homeless.slots.map(\.fileDescriptor))
        let isOver = Atomic<Bool>(false)
        let hits = Atomic<Int>(0)
        let installed = Seam.install { call in
            guard case .enter(let ring, _, _, _, _) = call, rings.contains(ring),
                !isOver.load(ordering: .sequentiallyConsistent)
            else { return .pass }
            hits.add(1, ordering: .relaxed)
            return .answer(-ENOMEM)
        }
        try left.receive(receive, start: .eager)
        usleep(10_000)
        #expect(receive.isPending)
        isOver.store(true, ordering: .sequentiallyConsistent)
        Seam.remove(installed)
        writeRaw("data", to: right)
        #expect(try receive.waitForCompletion(timeout: patience) == .success)
        #expect(hits.load(ordering: .relaxed) > 0)
    }

    // MARK: Registrations

    @Test("a buffer group that cannot be registered says why; a signal does not matter")
    func bufferGroups() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let ring = port.core.slots[0].fileDescriptor
        for (code, status) in [(ENOMEM, CompletionStatus.noMemory), (EBUSY, nil), (EAGAIN, nil)] {
            let installed = Seam.install { call in
                if case .register(ring, _) = call { return .answer(-code) }
                return .pass
            }
            defer { Seam.remove(installed) }
            do throws(PortError) {
                _ = try BufferGroup(for: port)
                Issue.record("it was registered")
            } catch {
                #expect(error.reason.hasPrefix("Registering a ring of buffers failed (errno \(code))"))
                if code == ENOMEM { #expect(error.reason.contains("memory")) }
                if let status { #expect(error.status == status) }
            }
        }
        let interruptions = Atomic<Int>(0)
        let installed = Seam.install { call in
            guard case .register(ring, _) = call else { return .pass }
            return interruptions.wrappingAdd(1, ordering: .relaxed).oldValue < 3 ? .answer(-EINTR) : .pass
        }
        defer { Seam.remove(installed) }
        let group = try BufferGroup(for: port)
        #expect(interruptions.load(ordering: .relaxed) > 3)
        _ = group
    }
}
#endif
