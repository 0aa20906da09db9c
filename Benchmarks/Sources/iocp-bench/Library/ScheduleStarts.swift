import CBaselines
import IOCP
import IOUring
import Synchronization
import SystemPackage

/// A handler starts an operation and computes on: how long until the operation has an effect outside.
///
/// The operation is a send of eight bytes, the effect that a thread which blocks in recv has read them. Its wake-up is
/// part of every figure, which is why there is a row that enters a raw ring at once.
final class ScheduleStarts: Sendable {
    enum Pattern: Sendable {
        /// Every handler computes.
        case always
        /// Every handler computes, and the port is new: it has seen none before.
        case firstOfPort
        /// One handler in sixteen computes, the others start something and return.
        case rarely
    }

    private enum Key {
        static let slow: UInt = 1
        static let quick: UInt = 2
        static let sent: UInt = 3
    }

    static let work: UInt64 = 5_000_000
    private static let quickMark: UInt64 = 1 << 63

    private let times: EventTimes
    private let start: Start
    private let ended = Semaphore()
    /// The raw thread's end.
    private let outside: Int32
    private let inside: Int32

    static func run(_ settings: WorkSettings, _ pattern: Pattern, start: Start = .deferred) throws -> Measurement {
        bench_wake_exactly()
        bench_burn(0)
        let events = pattern == .firstOfPort ? max(10, settings.events / 2) : settings.events
        let stage = try ScheduleStarts(events: events, start: start)
        var outcome = bench_outcome()
        unsafe bench_outcome_begin(&outcome)
        if pattern == .firstOfPort {
            for event in 0..<events {
                try stage.measure(event..<event + 1, pattern)
            }
        } else {
            try stage.measure(0..<events, pattern)
        }
        unsafe bench_outcome_end(&outcome, UInt64(events), -1)
        return Measurement(outcome, latency: try stage.times.latency())
    }

    private init(events: Int, start: Start) throws {
        times = EventTimes(events)
        self.start = start
        var (mine, other): (Int32, Int32) = (-1, -1)
        try unsafe check(bench_socketpair(&mine, &other), "making a pair of sockets")
        inside = mine
        outside = other
    }

    /// Measures some events on a port of their own.
    private func measure(_ events: Range<Int>, _ pattern: Pattern) throws {
        let port = try CompletionPort(concurrencyLimit: 2)
        // A port takes a descriptor for good.
        let socket = try Socket(
            adopting: try FileDescriptor(rawValue: inside).duplicate(), kind: .stream)
        try port.associate(socket, key: Key.sent)
        let threads = try PortThreads(port, 4) { try self.work($0, socket) }
        var jitter = Jitter()
        for event in events {
            if pattern == .rarely {
                for _ in 0..<15 {
                    try port.post(key: Key.quick)
                    _ = try receive()
                }
            }
            try port.post(key: Key.slow, token: UInt(event))
            times.take(try receive())
            try ended.wait(for: "the end of a handler")
            jitter.sleep(100_000..<1_000_000)
        }
        try threads.end()
    }

    private func work(_ packet: Packet, _ socket: Socket) throws {
        switch packet.key {
        case Key.slow:
            let event = Int(packet.token)
            let operation = Self.message(UInt64(event))
            times.send(event)
            try socket.send(operation, count: 8, start: start)
            bench_burn(Self.work)
            ended.signal()
        case Key.quick:
            try socket.send(Self.message(Self.quickMark), count: 8, start: start)
        default:
            guard packet.isSuccess else { throw Failure("a send ended with \(packet.status)") }
        }
    }

    private static func message(_ word: UInt64) -> IOCP.Operation {
        let buffer = IOBuffer(capacity: 8)
        unsafe buffer.baseAddress.storeBytes(of: word, as: UInt64.self)
        return IOCP.Operation(buffer: buffer)
    }

    private func receive() throws -> Int {
        var word: UInt64 = 0
        try unsafe check(bench_read_word(outside, &word), "reading what a handler sent")
        return Int(word & ~Self.quickMark)
    }

    /// The same without the library: a thread enters a ring of its own at once, and computes on.
    static func runRaw(_ settings: WorkSettings) throws -> Measurement {
        bench_wake_exactly()
        bench_burn(0)
        let stage = try ScheduleStarts(events: settings.events, start: .eager)
        let begin = Semaphore()
        let failure = Mutex<String?>(nil)
        let thread = try WaitableThread {
            do {
                try stage.sendRaw(settings.events, begin)
            } catch {
                failure.withLock { $0 = "\(error)" }
            }
        }
        var jitter = Jitter()
        var outcome = bench_outcome()
        unsafe bench_outcome_begin(&outcome)
        for _ in 0..<settings.events {
            begin.signal()
            stage.times.take(try stage.receive())
            try stage.ended.wait(for: "the end of a computation")
            jitter.sleep(100_000..<1_000_000)
        }
        unsafe bench_outcome_end(&outcome, UInt64(settings.events), -1)
        thread.join()
        if let failure = failure.withLock({ $0 }) {
            throw Failure(failure)
        }
        return Measurement(outcome, latency: try stage.times.latency())
    }

    private func sendRaw(_ events: Int, _ begin: Semaphore) throws {
        var ring = try Ring(
            RingOptions(submissionEntries: 8, completionEntries: 16, flags: [.cooperativeTaskrun, .taskrunFlag]))
        let buffer = IOBuffer(capacity: 8)
        for event in 0..<events {
            try begin.wait(for: "the start of a computation")
            unsafe buffer.baseAddress.storeBytes(of: UInt64(event), as: UInt64.self)
            times.send(event)
            let entry = unsafe SubmissionEntry.send(inside, from: buffer.baseAddress, count: 8)
            guard ring.enqueue(entry) else { throw Failure("the ring is full") }
            ring.publish()
            let result = ring.submitter.enter(submit: 1, minimumCompletions: 0, flags: [])
            guard result == 1 else { throw Failure("entering the ring", errno: 0 - result) }
            bench_burn(Self.work)
            ring.advance(by: ring.completionsReady)
            ended.signal()
        }
    }
}

/// A completion arrives for a thread that computes, and another thread is idle: how long until that one has it.
final class ScheduleStealing: Sendable {
    private enum Key {
        static let compute: UInt = 1
        static let receive: UInt = 2
    }

    private let socket: Socket
    private let outside: Int32
    private let receive = IOCP.Operation(buffer: IOBuffer(capacity: 8))
    private let times: EventTimes
    private let work: UInt64
    private let computing = Atomic<Int32>(0)
    private let takenByOther = Atomic<Int>(0)
    private let began = Semaphore()
    private let ended = Semaphore()
    private let taken = Semaphore()

    /// - Parameter work: how long a handler computes, in nanoseconds.
    static func run(_ settings: WorkSettings, work: UInt64) throws -> Measurement {
        bench_wake_exactly()
        bench_burn(0)
        let stage = try ScheduleStealing(settings.events, work)
        return try stage.run(settings.events)
    }

    private init(_ events: Int, _ work: UInt64) throws {
        self.work = work
        times = EventTimes(events)
        var (mine, other): (Int32, Int32) = (-1, -1)
        try unsafe check(bench_socketpair(&mine, &other), "making a pair of sockets")
        outside = other
        socket = try Socket(adopting: FileDescriptor(rawValue: mine), kind: .stream)
    }

    private func run(_ events: Int) throws -> Measurement {
        let port = try CompletionPort(concurrencyLimit: 2)
        try port.associate(socket, key: Key.receive)
        let threads = try PortThreads(port, 4) { packet in
            if packet.key == Key.compute {
                try self.compute(port)
            } else {
                self.take()
            }
        }
        var jitter = Jitter()
        var outcome = bench_outcome()
        unsafe bench_outcome_begin(&outcome)
        for event in 0..<events {
            try port.post(key: Key.compute)
            try began.wait(for: "the beginning of a computation")
            jitter.sleep(100_000..<1_000_000)
            times.send(event)
            try check(bench_write_word(outside, UInt64(event)), "writing to a socket")
            try taken.wait(for: "the taking of a completion")
            try ended.wait(for: "the end of a computation")
            jitter.sleep(100_000..<3_000_000)
        }
        unsafe bench_outcome_end(&outcome, UInt64(events), -1)
        try threads.end()
        return Measurement(
            outcome, latency: try times.latency(),
            counts: [.takenByOther: takenByOther.load(ordering: .sequentiallyConsistent)])
    }

    private func compute(_ port: CompletionPort) throws {
        try socket.receive(receive)
        // In the kernel, and its completion due on this thread.
        try port.flush()
        computing.store(bench_thread_id(), ordering: .sequentiallyConsistent)
        began.signal()
        bench_burn(work)
        ended.signal()
    }

    private func take() {
        times.take(unsafe Int(receive.buffer!.baseAddress.load(as: UInt64.self)))
        if computing.load(ordering: .sequentiallyConsistent) != bench_thread_id() {
            takenByOther.add(1, ordering: .sequentiallyConsistent)
        }
        taken.signal()
    }
}
