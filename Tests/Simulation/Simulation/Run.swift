import CIOCPSupport
import Glibc

@testable import IOCP

/// An operation that says when it is gone, and knows its number.
final class CountedOperation: IOCP.Operation, @unchecked Sendable {
    nonisolated(unsafe) static var alive = 0
    let number: Int

    init(_ number: Int) {
        self.number = number
        super.init(buffer: IOBuffer(capacity: 64))
        Self.alive += 1
    }

    deinit { Self.alive -= 1 }
}

/// One run of a scenario, over the library itself.
final class Run: @unchecked Sendable {
    let scenario: Scenario
    private(set) var ports: [CompletionPort] = []
    private var files: [IOHandle] = []
    private(set) var operations: [CountedOperation] = []
    private var restarts: [Int] = []
    /// The library's records of the threads that have entered it, by the thread's number in the scenario.
    private(set) var threads: [IOThread?]
    /// Packets that are owed for each operation, and that came.
    private var owed: [Int]
    private var came: [Int]
    private var posted: [Bool] = []
    /// Operations that somebody has asked to end.
    private var cancelled: [Bool]
    private var isClosing = false

    init(_ scenario: Scenario) {
        self.scenario = scenario
        threads = Array(repeating: nil, count: scenario.threads.count)
        owed = Array(repeating: 0, count: scenario.operations.count)
        came = owed
        cancelled = Array(repeating: false, count: scenario.operations.count)
        restarts = scenario.operations.map(\.restarts)
    }

    /// Runs it to its end; does not return if a check fails.
    func perform() {
        setUp()
        for (index, thread) in scenario.threads.enumerated() {
            world.spawn(threadName(index)) { self.live(index, thread) }
        }
        if let delay = scenario.closesEarly {
            world.spawn("closer") {
                world.sleep(delay)
                self.close()
            }
        }
        world.runUntilIdle()
        if !isClosing { checkIdle() }
        end()
    }

    private func setUp() {
        CountedOperation.alive = 0
        var options = CompletionPort.Options()
        options.submissionEntries = scenario.submissionEntries
        options.completionEntries = scenario.completionEntries
        options.rings = scenario.rings
        options.seesBlocking = scenario.seesBlocking
        for limit in scenario.limits {
            ports.append(
                succeeds("a port") { () throws(PortError) in
                    try CompletionPort(concurrencyLimit: limit, options: options)
                })
        }
        for (index, file) in scenario.files.enumerated() {
            // A number that no descriptor of the process has: closing it is an error that nobody looks at.
            let object = FileObject(descriptor: 1 << 28 + Int32(index), kind: file.isStream ? .stream : .file)
            let handle = IOHandle(object)
            files.append(handle)
            succeeds("an association") { () throws(PortError) in
                try ports[file.port].associate(handle, key: UInt(1 + index))
            }
        }
        operations = scenario.operations.indices.map { CountedOperation($0) }
        world.checker = Checker(self)
    }

    /// The number of the operation whose record is at that address.
    func operation(ofRecord userData: UInt64) -> Int? {
        operations.first { UInt64(UInt(bitPattern: $0.record)) == userData }?.number
    }

    private func succeeds<Result>(_ what: String, _ body: () throws(PortError) -> Result) -> Result {
        do throws(PortError) { return try body() } catch { world.fail("error", "\(what) failed: \(error)") }
    }

    // MARK: What threads do

    private func live(_ index: Int, _ plan: Scenario.Thread) {
        threads[index] = IOThread.current
        world.current.number = index
        for step in plan.steps { perform(step) }
        if let port = plan.serves {
            while dequeue(port, room: 1 + index % 3, timeout: nil, alertable: index % 2 == 0) {}
        }
        world.current.call = .place
    }

    private func perform(_ step: Step) {
        world.trace.note("\(step)")
        switch step {
        case .dequeue(let port, let room, let timeout, let alertable):
            _ = dequeue(port, room: room, timeout: timeout, alertable: alertable)
        case .post(let port, let count):
            for _ in 0..<count { post(port) }
        case .start(let operation, let eager):
            start(operation, eager: eager)
        case .compute(let time):
            world.compute(time)
        case .sleep(let time):
            world.sleep(time)
        case .region(let time):
            world.current.call = .place
            withBlockingRegion {
                world.current.call = .none
                world.sleep(time)
                world.current.call = .place
            }
            world.current.call = .none
        case .cancel(let operation):
            cancelled[operation] = true
            try? files[scenario.operations[operation].file].cancel(operations[operation])
        case .cancelAll(let file):
            cancelAll(file)
        case .queueCall(let thread):
            threads[thread]?.queueCall {
                let call = world.current.call
                world.current.call = .none
                report.count(.calls)
                world.trace.note("runs a call")
                self.post(0)
                world.current.call = call
            }
        case .depth(let port):
            _ = try? ports[port].depth()
        case .flush(let port):
            try? ports[port].flush()
        case .waitUntilQueued(let port, let timeout):
            world.current.call = .place
            _ = try? ports[port].waitUntilQueued(timeout: .nanoseconds(timeout))
            world.current.call = .none
        case .waitForCompletion(let operation, let timeout):
            world.current.call = .place
            _ = try? operations[operation].waitForCompletion(timeout: .nanoseconds(timeout))
            world.current.call = .none
        case .closeFile(let file):
            noteCancelled(file)
            try? files[file].close()
        }
    }

    private func cancelAll(_ file: Int) {
        noteCancelled(file)
        _ = try? files[file].cancelAll()
    }

    private func noteCancelled(_ file: Int) {
        for number in cancelled.indices where scenario.operations[number].file == file { cancelled[number] = true }
    }

    private func post(_ port: Int) {
        let number = posted.count
        posted.append(false)
        world.trace.note("posts p\(number) to port \(port)")
        do throws(PortError) {
            try ports[port].post(key: 1000, token: UInt(number))
            report.count(.posts)
        } catch {
            // A closed port takes none.
            if !isClosing { world.fail("error", "a post failed: \(error)") }
            posted[number] = true
        }
    }

    private func start(_ number: Int, eager: Bool) {
        let plan = scenario.operations[number]
        let operation = operations[number]
        // Started again while its packet is queued it could not be told from the start before.
        guard came[number] == owed[number] else { return }
        owed[number] += 1
        do throws(PortError) {
            let file = files[plan.file]
            let start = eager ? Start.eager : .deferred
            _ = plan.writes ? try file.write(operation, start: start) : try file.read(operation, start: start)
            report.count(.starts)
        } catch {
            // In flight already, a closed file, or an eager start that failed at once: no packet (e5).
            owed[number] -= 1
        }
    }

    /// Returns whether the port is open.
    private func dequeue(_ port: Int, room: Int, timeout: Int64?, alertable: Bool) -> Bool {
        let fiber = world.current
        let size = MemoryLayout<Packet>.stride * room
        let memory = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: MemoryLayout<Packet>.alignment)
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: size)
        defer { memory.deallocate() }
        let packets = UnsafeMutableBufferPointer(
            start: memory.assumingMemoryBound(to: Packet.self), count: room)
        fiber.room = memory
        fiber.capacity = room
        fiber.call = .dequeue(port)
        let outcome: PortCore.DequeueEnd?
        do throws(PortError) {
            let deadline = try Deadline(after: timeout.map { .nanoseconds($0) })
            let core = try ports[port].open(.modify)
            outcome = try core.dequeue(into: packets, deadline, alertable: alertable)
        } catch {
            outcome = nil
            if !isClosing { world.fail("error", "a dequeue failed: \(error)") }
        }
        world.checker?.returned(fiber, from: port)
        fiber.room = nil
        fiber.call = .none
        switch outcome {
        case .packets(let count):
            for index in 0..<count { receive((packets.baseAddress! + index).move(), from: port) }
        case .timedOut:
            report.count(.timeouts)
            world.trace.note("dequeues nothing in time")
        case .callsRan: break
        case nil:
            world.trace.note("finds the port closed")
            return false
        }
        return true
    }

    private func receive(_ packet: consuming Packet, from port: Int) {
        report.count(.packets)
        guard let operation = packet.operation as? CountedOperation else {
            let number = Int(packet.token)
            world.trace.note("dequeues p\(number)")
            guard packet.key == 1000, number < posted.count else {
                world.fail("packets", "a packet came that nobody posted")
            }
            if posted[number] { world.fail("exactly one packet", "the post p\(number) came twice") }
            posted[number] = true
            return
        }
        let number = operation.number
        world.trace.note("dequeues o\(number), \(packet.status), \(packet.bytes) bytes")
        came[number] += 1
        if came[number] > owed[number] {
            world.fail(
                "exactly one packet", "operation \(number) was started \(owed[number]) times and yielded more packets")
        }
        if scenario.files[scenario.operations[number].file].port != port {
            world.fail("packets", "operation \(number) completed on the wrong port")
        }
        if packet.status == .cancelled, !cancelled[number] {
            world.fail("e34", "operation \(number) was cancelled by nobody but the kernel")
        }
        if restarts[number] > 0 {
            restarts[number] -= 1
            start(number, eager: scenario.operations[number].restartsEagerly)
        }
    }

    // MARK: The end

    private func close() {
        isClosing = true
        for port in ports {
            world.checker?.closes(port.core)
            world.trace.note("closes a port")
            port.close()
        }
    }

    /// Nothing happens any more: whatever was due has been delivered.
    private func checkIdle() {
        // What has no end by itself. A packet may start its operation again.
        for _ in 0..<50 where files.contains(where: { $0.file.hasPending }) {
            for file in files.indices { cancelAll(file) }
            world.runUntilIdle()
        }
        world.checker?.checkIdle()
        for (number, isThere) in posted.enumerated() where !isThere {
            world.fail("exactly one packet", "the post p\(number) never came")
        }
        for number in owed.indices where owed[number] != came[number] {
            world.fail(
                "exactly one packet",
                "operation \(number) was started \(owed[number]) times and yielded \(came[number])")
        }
    }

    private func end() {
        if !isClosing { close() }
        for file in files { try? file.close() }
        world.runUntilIdle()
        for fiber in world.fibers where fiber.state != .done && fiber !== world.main && fiber.name != "observer" {
            world.fail("deadlock", "the thread \(fiber.name) still sleeps although everything is closed")
        }
        world.checker?.checkClosed()
        let cores = ports.map { Weak($0.core) }
        world.checker = nil
        threads = []
        operations = []
        files = []
        ports = []
        // The observer lets go of what it looked at last, and comes to rest: no run must see the one before.
        for _ in 0..<4 {
            Observer.noteDeparture()
            world.runUntilIdle()
        }
        if CountedOperation.alive != 0 {
            world.fail("references", "\(CountedOperation.alive) operations were never let go of")
        }
        if cores.contains(where: { $0.core != nil }) { world.fail("references", "a port was never let go of") }
    }

    private struct Weak {
        weak var core: PortCore?
        init(_ core: PortCore) { self.core = core }
    }
}
