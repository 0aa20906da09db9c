import Glibc
import IOCP
import IOCPHosting
import Synchronization
import Testing

/// Keeps operations going on bound handles, each started again from its completion, until there have been enough.
private final class Load: CLRIOCompletionManager, @unchecked Sendable {
    /// An operation with what is known of it.
    final class Item: @unchecked Sendable {
        let block: Block
        let start: (Block) throws -> Void
        let inFlight = Atomic<Int>(0)
        let completions = Atomic<Int>(0)

        init(_ block: Block, _ start: @escaping (Block) throws -> Void) {
            self.block = block
            self.start = start
        }
    }

    private let wanted: Int
    private var items: [UInt: Item] = [:]
    let told = Atomic<Int>(0)
    let started = Atomic<Int>(0)
    let doubled = Atomic<Int>(0)
    let unknown = Atomic<Int>(0)
    let failures = Atomic<Int>(0)

    init(wanted: Int) { self.wanted = wanted }

    func add(_ block: Block, _ start: @escaping (Block) throws -> Void) { items[block.address] = Item(block, start) }

    var all: [Item] { Array(items.values) }

    func begin(_ item: Item) {
        let number = started.add(1, ordering: .sequentiallyConsistent).newValue
        guard number <= wanted else {
            started.subtract(1, ordering: .sequentiallyConsistent)
            return
        }
        item.inFlight.store(1, ordering: .sequentiallyConsistent)
        do {
            try item.start(item.block)
        } catch {
            failures.add(1, ordering: .relaxed)
        }
    }

    func onComplete(error: UInt32, bytes: UInt32, overlapped: UnsafeMutableRawPointer?) throws(HResult) {
        guard let item = items[UInt(bitPattern: overlapped)] else {
            unknown.add(1, ordering: .relaxed)
            return
        }
        if item.inFlight.exchange(0, ordering: .sequentiallyConsistent) != 1 { doubled.add(1, ordering: .relaxed) }
        if error != 0 && error != 995 { failures.add(1, ordering: .relaxed) }
        item.completions.add(1, ordering: .relaxed)
        told.add(1, ordering: .sequentiallyConsistent)
        begin(item)
    }
}

@Suite("A million completions", .serialized, .timeLimit(.minutes(20)))
struct LoadTests {
    /// Fewer under a sanitizer, which says so.
    static let count = getenv("IOCP_HOSTING_COMPLETIONS").flatMap { Int(String(cString: $0)) } ?? 1_000_000

    @Test("over 64 bound handles, while the limits on threads change: none is lost or doubled")
    func million() throws {
        let load = Load(wanted: Self.count)
        var options = HostIOCompletionManager.Options()
        options.minThreads = 1
        options.maxThreads = 8
        options.idleTimeout = .milliseconds(5)
        let host = try HostIOCompletionManager(options: options)
        try host.setCLRIOCompletionManager(load)
        var handles: [IOHandle] = []
        // 32 files, two reads in flight on each; 16 pairs of sockets, a byte going round in each direction.
        for number in 0..<32 {
            let file = try scratchFile([UInt8](repeating: UInt8(number), count: 4096))
            handles.append(file)
            for _ in 0..<2 {
                load.add(try Block(host)) { block in
                    block.overlapped.offset = UInt64(block.address % 64)
                    try file.read(block.overlapped, into: block.buffer)
                }
            }
        }
        for _ in 0..<16 {
            let (near, far) = try Socket.pair()
            handles += [near, far]
            for (sender, receiver) in [(near, far), (far, near)] {
                load.add(try Block(host)) { block in
                    try sender.send(block.overlapped, from: UnsafeRawBufferPointer(rebasing: block.rawBuffer[..<1]))
                }
                load.add(try Block(host)) { block in
                    try receiver.receive(
                        block.overlapped, into: UnsafeMutableRawBufferPointer(rebasing: block.buffer[..<1]))
                }
            }
        }
        #expect(handles.count == 64)
        for handle in handles { try host.bind(nil, handle) }
        let stop = CompletionEvent()
        let changes = Atomic<Int>(0)
        let changing = Thread {
            var state: UInt32 = 12345
            while !stop.isSet {
                state = state &* 1_664_525 &+ 1_013_904_223
                let maximum = state >> 28 % 8 + 1
                try? host.setMinThreads(0)
                try? host.setMaxThreads(maximum)
                try? host.setMinThreads(min(maximum, state >> 20 % 4))
                changes.add(1, ordering: .relaxed)
                usleep(300)
            }
        }
        for item in load.all { load.begin(item) }
        // Sends may outnumber receives at the end: what cannot end by itself is cancelled, and counts as completed.
        let end = ContinuousClock.now + .seconds(900)
        var last = -1
        while load.told.load(ordering: .sequentiallyConsistent) < Self.count {
            try #require(ContinuousClock.now < end, "\(load.told.load(ordering: .relaxed)) have come")
            usleep(20_000)
            let now = load.told.load(ordering: .sequentiallyConsistent)
            if now == last, load.started.load(ordering: .sequentiallyConsistent) >= Self.count {
                for handle in handles { _ = try? handle.cancelAll() }
            }
            last = now
        }
        stop.set()
        changing.join()
        try until("nothing is owed") { host.statistics.owed == 0 }
        #expect(staysTrue { load.told.load(ordering: .sequentiallyConsistent) == Self.count })
        #expect(load.doubled.load(ordering: .relaxed) == 0)
        #expect(load.unknown.load(ordering: .relaxed) == 0)
        #expect(load.failures.load(ordering: .relaxed) == 0)
        #expect(load.all.reduce(0) { $0 + $1.completions.load(ordering: .relaxed) } == Self.count)
        #expect(changes.load(ordering: .relaxed) > 10)
        host.shutDown()
    }
}
