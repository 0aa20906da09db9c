import Glibc
import Synchronization
import Testing

@testable import IOCP

/// Processor time that the process has used, in seconds.
private func processorTime() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// Small rings, for overload that a test can make.
private func options(
    submissions: UInt32 = 4, completions: UInt32 = 8, rings: Int = 1
) -> CompletionPort.Options {
    var options = CompletionPort.Options()
    options.submissionEntries = submissions
    options.completionEntries = completions
    options.rings = rings
    // Nothing is to be handed on meanwhile by the monitor.
    options.monitorInterval = .seconds(1)
    return options
}

@Suite("More than there is room for")
struct OverloadTests {
    @Test(
        "more operations than a ring has entries are in flight, and each yields its packet (e6)", arguments: bothStarts)
    func moreThanRings(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1, options: options())
        let pairs = try (0..<500).map { _ in try Socket.pair() }
        let operations = pairs.map { _ in IOCP.Operation(capacity: 4) }
        #expect(try port.dequeue(timeout: .zero) == nil)
        for (index, pair) in pairs.enumerated() {
            try port.associate(pair.0, key: UInt(index))
            #expect(try pair.0.receive(operations[index], start: start) == .pending)
        }
        #expect(try port.statistics.inFlight == 500)
        // All complete at once, with room for eight.
        for pair in pairs { writeRaw("data", to: pair.1) }
        var counts = [Int](repeating: 0, count: 500)
        var batch = PacketBatch(capacity: 64)
        while counts.contains(0) {
            let count = try port.dequeue(into: &batch, timeout: patience)
            try #require(count > 0, "\(counts.count { $0 == 0 }) packets are missing")
            for index in batch.indices {
                let packet = batch[index]
                #expect(packet.isSuccess && packet.bytes == 4)
                #expect(packet.operation === operations[Int(packet.key)])
                counts[Int(packet.key)] += 1
            }
        }
        #expect(try port.staysEmpty())
        #expect(counts.allSatisfy { $0 == 1 })
        let statistics = try port.statistics
        #expect(statistics.inFlight == 0 && statistics.deferred == 0 && statistics.depth == 0)
        #expect(statistics.overflows > 0 && statistics.overflows == port.overflowCount)
    }

    @Test("200,000 packets that nobody dequeues are counted and kept in order, and their memory is given back (c4, d2)")
    func deepQueue() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        for number in 0..<200_000 as Range<UInt> { try port.post(key: number) }
        #expect(try port.depth() == 200_000)
        #expect(port.core.packets.capacity >= 200_000)
        var batch = PacketBatch(capacity: 1000)
        var next: UInt = 0
        while try port.dequeue(into: &batch, timeout: .zero) > 0 {
            for index in batch.indices {
                if batch[index].key != next { Issue.record("packet \(next) came as \(batch[index].key)") }
                next += 1
            }
        }
        #expect(next == 200_000)
        #expect(port.core.packets.capacity <= PacketQueue.keptCapacity)
        // It still works, across the end of the memory that is left.
        for round in 0..<3 as Range<UInt> {
            for number in 0..<3000 as Range<UInt> { try port.post(key: round * 3000 + number) }
            #expect(try port.drain().map(\.key) == (0..<3000).map { round * 3000 + $0 })
        }
    }

    @Test("a queue keeps the room that ordinary bursts need, and its order when it grows and shrinks")
    func queueCapacity() {
        var queue = PacketQueue()
        func entry(_ number: Int) -> PacketEntry {
            PacketEntry(key: UInt(number), overlapped: 0, information: 0, status: 0)
        }
        var appended = 0
        var removed = 0
        for length in [1, 64, 65, 4096, 4097, 100_000, 10] {
            // Begins somewhere in the middle.
            for _ in 0..<7 {
                queue.append(entry(appended))
                appended += 1
            }
            for _ in 0..<length {
                queue.append(entry(appended))
                appended += 1
            }
            queue.trim()
            #expect(queue.count == length + 7)
            while queue.count > 0 {
                if queue.removeFirst().key != UInt(removed) { Issue.record("packet \(removed) is out of order") }
                removed += 1
            }
            queue.trim()
            #expect(queue.capacity <= PacketQueue.keptCapacity)
        }
        #expect(removed == appended)
        #expect(queue.capacity == PacketQueue.keptCapacity)
    }

    @Test("completions that nobody dequeues are kept, however many the ring holds (e6)")
    func completionsPileUp() throws {
        let port = try CompletionPort(concurrencyLimit: 1, options: options(submissions: 16, completions: 16))
        let (left, right) = try Socket.pair(.datagram)
        try port.associate(left, key: 1)
        // The thread is tied to the port, so that starts are deferred; it does not dequeue.
        #expect(try port.dequeue(timeout: .zero) == nil)
        let operations = (0..<2000).map { _ in IOCP.Operation(capacity: 8) }
        let reader = SideThread { [right = Sending(right)] in
            for _ in 0..<2000 { _ = readRaw(8, from: right.value) }
        }
        for operation in operations { try left.send(operation) }
        try port.flush()
        try reader.join()
        #expect(try becomesTrue { try port.depth() == 2000 })
        #expect(try port.statistics.inFlight == 0)
        var seen = Set<ObjectIdentifier>()
        for packet in try port.drain() { seen.insert(ObjectIdentifier(try #require(packet.operation))) }
        #expect(seen.count == 2000)
    }

    @Test("a group without buffers makes receives wait without a processor, and all go on when buffers come back")
    func dryGroup() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let port = try CompletionPort(concurrencyLimit: 1)
                let group = try BufferGroup(for: port, buffersPerRing: 4, bufferSize: 16)
                let pairs = try (0..<100).map { _ in try Socket.pair() }
                let operations = pairs.map { _ in IOCP.Operation() }
                for (index, pair) in pairs.enumerated() {
                    try port.associate(pair.0, key: UInt(index))
                    try pair.0.receiveContinuously(operations[index], from: group)
                }
                for pair in pairs { writeRaw("twice sixteen bytes are here now", to: pair.1) }
                var held: [LentBuffer] = []
                while held.count < 4 { held.append(try port.dequeue(timeout: patience)!.lentBuffer!) }
                // Dry: 96 connections at least have data and no buffer. (Some time passes until all have found out.)
                guard try port.dequeue(timeout: .milliseconds(200)) == nil, group.pauseCount >= 96 else { exit(2) }
                let before = processorTime()
                guard try port.dequeue(timeout: .milliseconds(500)) == nil else { exit(3) }
                guard processorTime() - before < 0.1 else { exit(4) }
                var bytes = [Int](repeating: 0, count: 100)
                // Each of the four counts already; then every buffer goes back as soon as it has come.
                for buffer in held { buffer.giveBack() }
                var total = 4 * 16
                while total < 3200 {
                    guard let packet = try port.dequeue(timeout: patience), packet.isMore else { exit(5) }
                    bytes[Int(packet.key)] += packet.bytes
                    total += packet.bytes
                    packet.lentBuffer!.giveBack()
                }
                guard bytes.allSatisfy({ $0 <= 32 }), try port.dequeue(timeout: .zero) == nil else { exit(6) }
                for pair in pairs { try pair.0.close() }
                for _ in pairs {
                    guard let packet = try port.dequeue(timeout: patience), !packet.isMore else { exit(7) }
                }
                guard try port.statistics.inFlight == 0 else { exit(8) }
            }
        }
    }

    /// Connections that the process may have open: 50,000 if its limits and its memory allow them.
    static let connections: Int = {
        let descriptors = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        var limit = rlimit()
        getrlimit(descriptors, &limit)
        if limit.rlim_max < 100_500 {
            // Root may.
            var more = limit
            more.rlim_max = 100_500
            if setrlimit(descriptors, &more) == 0 { limit = more }
        }
        let pages = sysconf(Int32(_SC_AVPHYS_PAGES))
        let page = sysconf(Int32(_SC_PAGESIZE))
        let isSlow = dlsym(nil, "__tsan_init") != nil || dlsym(nil, "__asan_init") != nil
        // Two descriptors each, and 8 KiB in kernel and process together.
        return min(isSlow ? 5000 : 50_000, (Int(clamping: limit.rlim_max) - 400) / 2, pages * page / 4 / 8192)
    }()

    @Test("50,000 connections are open and idle, each then yields its packet, and ends")
    func manyConnections() async {
        if Self.connections < 50_000 {
            print("\(Self.connections) connections for want of descriptors (ulimit -Hn), memory or speed, not 50000")
        }
        await #expect(processExitsWith: .success) {
            try exitTest {
                var limit = rlimit()
                getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
                limit.rlim_cur = limit.rlim_max
                setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
                let count = OverloadTests.connections
                let port = try CompletionPort(concurrencyLimit: 1)
                var pairs: [(Socket, Socket)] = []
                for index in 0..<count {
                    let pair = try Socket.pair()
                    try port.associate(pair.0, key: UInt(index))
                    try pair.0.receive(IOCP.Operation(capacity: 1))
                    pairs.append(pair)
                }
                guard try port.statistics.inFlight == count else { exit(2) }
                // Idle connections cost no time.
                let before = processorTime()
                guard try port.dequeue(timeout: .milliseconds(300)) == nil, processorTime() - before < 0.1 else {
                    exit(3)
                }
                var seen = [Bool](repeating: false, count: count)
                var batch = PacketBatch(capacity: 256)
                func take(_ expected: Int, _ status: CompletionStatus) throws {
                    var taken = 0
                    while taken < expected {
                        let got = try port.dequeue(into: &batch, timeout: patience)
                        guard got > 0 else { exit(4) }
                        for index in batch.indices {
                            let packet = batch[index]
                            guard packet.status == status, !seen[Int(packet.key)] else { exit(5) }
                            seen[Int(packet.key)] = true
                        }
                        taken += got
                    }
                }
                for pair in pairs { writeRaw("x", to: pair.1) }
                try take(count, .success)
                for pair in pairs { try pair.0.receive(IOCP.Operation(capacity: 1)) }
                seen = [Bool](repeating: false, count: count)
                for pair in pairs { try pair.0.close() }
                try take(count, .connectionAborted)
                let rest = try port.statistics
                guard rest.inFlight == 0, rest.depth == 0 else { exit(6) }
            }
        }
    }

    @Test(
        "out of descriptors, accepts end with 4 and wait for their user, connections for them, and nobody spins",
        arguments: [false, true])
    func exhaustedWhileAccepting(continuously: Bool) async {
        await #expect(processExitsWith: .success) { [continuously] in
            try exitTest {
                let port = try CompletionPort(concurrencyLimit: 1)
                let listener = try Socket.listening(at: .loopback(port: 0))
                try port.associate(listener, key: 1)
                let peers = try (0..<10).map { _ in try connectPeer(to: listener) }
                let accept = IOCP.Operation()
                func start() throws {
                    if continuously { try listener.acceptContinuously(accept) } else { try listener.accept(accept) }
                }
                var held = holdDescriptors()
                // Room for three.
                for _ in 0..<3 { close(held.removeLast()) }
                var accepted: [Socket] = []
                var refusals = 0
                var ended = 10
                try start()
                // One connection at a time ends and makes room for the next.
                while accepted.count < 10 {
                    guard let packet = try port.dequeue(timeout: patience) else { exit(2) }
                    if let socket = packet.acceptedSocket {
                        accepted.append(socket)
                        if !packet.isMore { try start() }
                        continue
                    }
                    guard packet.status == .tooManyOpenedFiles, !packet.isMore, packet.bytes == 0 else { exit(3) }
                    refusals += 1
                    // The operation is idle: nothing goes on, and nothing is lost.
                    let before = processorTime()
                    guard !accept.isPending, try port.dequeue(timeout: .milliseconds(50)) == nil,
                        processorTime() - before < 0.04
                    else { exit(4) }
                    // Started again at once, it fails at once, by another packet.
                    try start()
                    guard try port.dequeue(timeout: patience)?.status == .tooManyOpenedFiles else { exit(5) }
                    try accepted[10 - ended].close()
                    ended -= 1
                    try start()
                }
                guard refusals == 7 else { exit(6) }
                if continuously {
                    try listener.close()
                    guard let packet = try port.dequeue(timeout: patience), !packet.isMore else { exit(7) }
                }
                for descriptor in held { close(descriptor) }
                withExtendedLifetime(peers) {}
            }
        }
    }
}
