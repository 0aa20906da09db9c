import CBaselines
import IOCP
import Synchronization
import SystemPackage

/// Two handlers of a port with limit 2 block, and packets come: how long until another thread has them.
final class ScheduleBlocking: Sendable {
    struct Setting: Sendable {
        var kind: bench_block_kind
        var arrival: Arrival
        /// Whether the handlers say that they block.
        var inRegion = false
        var pattern = Pattern.fresh
    }

    /// How packets come.
    enum Arrival: Sendable {
        case posts
        /// By sockets alone. The receives were started, and deferred, by one of the threads that now block, or by another.
        case completions(startedByBlocked: Bool)
    }

    enum Pattern: Sendable {
        /// Each packet meets two handlers that began to block one to six milliseconds ago, and nobody knows yet. They go
        /// on when it has been taken.
        case fresh
        /// The same after a while without anything to do, when the monitor sleeps.
        case afterQuiet
        /// Two handlers block at any time, each for 50 ms; a packet every two milliseconds.
        case stream
    }

    private enum Key {
        static let block: UInt = 1
        static let packet: UInt = 2
        static let receive: UInt = 3
        static let command: UInt = 4
    }

    /// A receive of eight bytes: the number of an event, or of who is to block.
    private final class Receive: Operation, @unchecked Sendable {
        // Unchecked: between a packet and the next start it belongs to the thread that dequeued the packet.
        let socket: Socket

        init(_ socket: Socket) {
            self.socket = socket
            super.init(buffer: IOBuffer(capacity: 8))
        }

        var word: Int { unsafe Int(buffer!.baseAddress.load(as: UInt64.self)) }
    }

    /// A handler that blocks.
    @safe
    private final class Blocker: @unchecked Sendable {
        // Unchecked: made for two threads, as C has it.
        let storage: UnsafeMutablePointer<bench_blocker>
        /// When it began to block; 0 while it does not.
        let since = Atomic<UInt64>(0)

        init(_ kind: bench_block_kind) throws {
            unsafe storage = .allocate(capacity: 1)
            try unsafe check(bench_blocker_create(storage, kind), "making something to block on")
        }

        deinit {
            unsafe bench_blocker_destroy(storage)
            unsafe storage.deallocate()
        }

        func release() {
            unsafe bench_blocker_release(storage)
        }
    }

    private static let limit = 2
    private static let threads = 8
    private static let blockNanoseconds: UInt64 = 50_000_000

    private let setting: Setting
    private let port: CompletionPort
    private let times: EventTimes
    private let blockers: [Blocker]
    private let receives: [Receive]
    /// What the outside writes into.
    private let ends: [Int32]
    private let commands: [Receive]
    private let commandEnds: [Int32]
    private let blocking = Semaphore()
    private let unblocked = Semaphore()
    private let taken = Semaphore()

    static func run(_ settings: WorkSettings, _ setting: Setting) throws -> Measurement {
        bench_wake_exactly()
        let events = setting.pattern == .afterQuiet ? max(5, settings.events / 10) : settings.events
        let stage = try ScheduleBlocking(setting, events: events)
        return try stage.run(events)
    }

    private init(_ setting: Setting, events: Int) throws {
        self.setting = setting
        let port = try CompletionPort(concurrencyLimit: Self.limit)
        self.port = port
        times = EventTimes(events)
        blockers = try (0..<Self.limit).map { _ in try Blocker(setting.kind) }
        func sockets(_ count: Int, key: UInt) throws -> ([Receive], [Int32]) {
            var receives: [Receive] = []
            var ends: [Int32] = []
            for _ in 0..<count {
                var (mine, other): (Int32, Int32) = (-1, -1)
                try unsafe check(bench_socketpair(&mine, &other), "making a pair of sockets")
                let socket = try Socket(adopting: FileDescriptor(rawValue: mine), kind: .stream)
                try port.associate(socket, key: key)
                receives.append(Receive(socket))
                ends.append(other)
            }
            return (receives, ends)
        }
        // In a stream a packet must not wait for the one before it to be taken.
        (receives, ends) = try sockets(setting.pattern == .stream ? 32 : 1, key: Key.receive)
        (commands, commandEnds) = try sockets(Self.limit, key: Key.command)
    }

    /// The blocked thread itself starts the receive that is waited for.
    private var isStartedByBlocked: Bool {
        if case .completions(startedByBlocked: true) = setting.arrival { true } else { false }
    }

    // MARK: On the port's threads

    private func work(_ packet: Packet) throws {
        switch packet.key {
        case Key.block:
            try block(Int(packet.token))
        case Key.packet:
            times.take(Int(packet.token))
            taken.signal()
        case Key.command:
            let command = unsafe unsafeDowncast(packet.operation!, to: Receive.self)
            let index = command.word
            try command.socket.receive(command)
            try block(index)
        default:
            let receive = unsafe unsafeDowncast(packet.operation!, to: Receive.self)
            times.take(receive.word)
            if !isStartedByBlocked {
                try receive.socket.receive(receive)
            }
            taken.signal()
        }
    }

    private func block(_ index: Int) throws {
        let blocker = blockers[index]
        if isStartedByBlocked && index == 0 {
            try receives[0].socket.receive(receives[0])
        }
        blocker.since.store(bench_now(), ordering: .sequentiallyConsistent)
        blocking.signal()
        if setting.inRegion {
            withBlockingRegion { unsafe bench_blocker_block(blocker.storage, Self.blockNanoseconds) }
        } else {
            unsafe bench_blocker_block(blocker.storage, Self.blockNanoseconds)
        }
        blocker.since.store(0, ordering: .sequentiallyConsistent)
        unblocked.signal()
    }

    // MARK: Outside

    private func run(_ events: Int) throws -> Measurement {
        let threads = try PortThreads(port, Self.threads) { try self.work($0) }
        for command in commands {
            try command.socket.receive(command)
        }
        if !isStartedByBlocked {
            for receive in receives {
                try receive.socket.receive(receive)
            }
        }
        var outcome = bench_outcome()
        unsafe bench_outcome_begin(&outcome)
        if setting.pattern == .stream {
            try stream(events)
        } else {
            try meetFreshBlocks(events)
        }
        unsafe bench_outcome_end(&outcome, UInt64(events), -1)
        let handOvers = try port.statistics.handOvers
        try threads.end()
        guard setting.inRegion || handOvers > 0 else { throw Failure("no place was ever taken: nothing was measured") }
        return Measurement(outcome, latency: try times.latency(), counts: [.handOvers: handOvers])
    }

    private func meetFreshBlocks(_ events: Int) throws {
        var jitter = Jitter()
        for event in 0..<events {
            if setting.pattern == .afterQuiet {
                bench_sleep(150_000_000)
            }
            for index in blockers.indices {
                try command(index)
            }
            try blocking.wait(for: "the blocking of two handlers", blockers.count)
            // They really sleep by then, and the monitor's clock stands anywhere.
            jitter.sleep(1_000_000..<6_000_000)
            try send(event)
            try taken.wait(for: "the taking of a packet")
            for blocker in blockers {
                blocker.release()
            }
            try unblocked.wait(for: "the end of the blocks", blockers.count)
        }
    }

    private func stream(_ events: Int) throws {
        var jitter = Jitter()
        var isBlocking = [Bool](repeating: false, count: blockers.count)
        for event in 0..<events {
            jitter.sleep(1_000_000..<3_000_000)
            for (index, blocker) in blockers.enumerated() {
                let since = blocker.since.load(ordering: .sequentiallyConsistent)
                if !isBlocking[index] {
                    try command(index)
                    isBlocking[index] = true
                    try blocking.wait(for: "the blocking of a handler")
                } else if since == 0 {
                    isBlocking[index] = false
                } else if setting.kind == BENCH_BLOCK_READ, bench_now() > since + Self.blockNanoseconds {
                    blocker.release()
                    isBlocking[index] = false
                    try unblocked.wait(for: "the end of a block")
                }
            }
            try send(event)
        }
        try taken.wait(for: "the taking of all packets", events)
        for blocker in blockers where blocker.since.load(ordering: .sequentiallyConsistent) != 0 {
            blocker.release()
        }
    }

    /// Makes a handler block, by the same way as other packets come.
    private func command(_ index: Int) throws {
        switch setting.arrival {
        case .posts:
            try port.post(key: Key.block, token: UInt(index))
        case .completions:
            try check(bench_write_word(commandEnds[index], UInt64(index)), "telling a handler to block")
        }
    }

    private func send(_ event: Int) throws {
        times.send(event)
        switch setting.arrival {
        case .posts:
            try port.post(key: Key.packet, token: UInt(event))
        case .completions:
            try check(bench_write_word(ends[event % ends.count], UInt64(event)), "writing to a socket")
        }
    }
}
