import CBaselines
import IOCP
import Synchronization

/// The post rows through ports.
enum LibraryPost {
    /// One thread posts and dequeues.
    static func pair(_ settings: WorkSettings) throws -> Measurement {
        let port = try CompletionPort(concurrencyLimit: 1)
        var operations: UInt = 0
        var outcome = bench_outcome()
        let calls = try LibraryCalls(port)
        unsafe bench_outcome_begin(&outcome)
        let deadline = outcome.nanoseconds + settings.nanoseconds
        repeat {
            // The clock is read once in a thousand, as in C.
            for _ in 0..<1000 {
                try port.post(bytes: 64, key: operations)
                guard let packet = try port.dequeue(timeout: .zero), packet.key == operations else {
                    throw Failure("a packet was lost")
                }
                operations += 1
            }
        } while bench_now() < deadline
        try unsafe bench_outcome_end(&outcome, UInt64(operations), calls.made())
        return Measurement(outcome)
    }

    /// One thread posts `size` packets and dequeues them in one call.
    static func batch(_ settings: WorkSettings, size: Int) throws -> Measurement {
        let port = try CompletionPort(concurrencyLimit: 1)
        var batch = PacketBatch(capacity: size)
        var operations: UInt = 0
        var outcome = bench_outcome()
        let calls = try LibraryCalls(port)
        unsafe bench_outcome_begin(&outcome)
        let deadline = outcome.nanoseconds + settings.nanoseconds
        repeat {
            for _ in 0..<100 {
                for offset in 0..<UInt(size) {
                    try port.post(bytes: 64, key: operations + offset)
                }
                guard try port.dequeue(into: &batch, timeout: .zero) == size,
                    batch[size - 1].key == operations + UInt(size) - 1
                else { throw Failure("packets were lost") }
                operations += UInt(size)
            }
        } while bench_now() < deadline
        try unsafe bench_outcome_end(&outcome, UInt64(operations), calls.made())
        return Measurement(outcome)
    }

    /// What ends a thread that dequeues.
    private static let stop = UInt.max
    /// What says that a burst is over.
    private static let end = UInt.max - 1

    /// Two threads, a port for each.
    static func pingPong(_ settings: WorkSettings) throws -> Measurement {
        let ports = try (0..<2).map { _ in try CompletionPort(concurrencyLimit: 1) }
        let samples = try Samples()
        let other = try WaitableThread {
            // A failure here leaves the first thread waiting, and the watchdog ends it.
            while let packet = try? ports[1].dequeue() {
                try? ports[0].post(bytes: packet.information, key: packet.key)
                if packet.key == stop {
                    return
                }
            }
        }
        var operations: UInt = 0
        var outcome = bench_outcome()
        let calls = try LibraryCalls(ports[0], ports[1])
        unsafe bench_outcome_begin(&outcome)
        var started = outcome.nanoseconds
        let deadline = started + settings.nanoseconds
        while started < deadline {
            try ports[1].post(bytes: 64, key: operations)
            guard let packet = try ports[0].dequeue(), packet.key == operations else {
                throw Failure("a packet was lost")
            }
            operations += 1
            let now = bench_now()
            samples.record(now - started)
            started = now
        }
        try unsafe bench_outcome_end(&outcome, UInt64(operations), calls.made())
        try ports[1].post(key: stop)
        other.join()
        return Measurement(outcome, latency: samples.latency)
    }

    /// Producers post as fast as they can, consumers dequeue one at a time, on one port.
    ///
    /// - Parameter limit: how many consumers may run at a time.
    static func many(
        _ settings: WorkSettings, producers: Int, consumers: Int, limit: Int, packets: Int
    ) throws -> Measurement {
        let port = try CompletionPort(concurrencyLimit: limit)
        let taken = Mutex(Tally())
        let drained = Semaphore()
        let barrier = StartBarrier(threads: consumers + 1)
        let consuming = try (0..<consumers).map { _ in
            try WaitableThread {
                var tally = Tally()
                barrier.wait()
                while let packet = try? port.dequeue(), packet.key != stop {
                    if packet.key == end {
                        drained.signal()
                        continue
                    }
                    tally.count += 1
                    tally.sum += packet.key
                }
                taken.withLock { [tally] total in
                    total.count += tally.count
                    total.sum += tally.sum
                }
            }
        }
        var bursts = 0
        var outcome = bench_outcome()
        let calls = try LibraryCalls(port)
        // As in C, the consumers wait all the time, and the producers of each burst are fresh threads.
        barrier.wait()
        unsafe bench_outcome_begin(&outcome)
        let deadline = outcome.nanoseconds + settings.nanoseconds
        repeat {
            try burst(port, producers: producers, packets: packets)
            // What was posted before it was taken before it.
            try port.post(key: end)
            try drained.wait(for: "the end of a burst")
            bursts += 1
        } while bench_now() < deadline
        let operations = bursts * producers * packets
        try unsafe bench_outcome_end(&outcome, UInt64(operations), calls.made())
        for _ in 0..<consumers {
            try port.post(key: stop)
        }
        for thread in consuming {
            thread.join()
        }
        let total = taken.withLock { $0 }
        let expected = UInt(bursts * producers) * (UInt(packets) * UInt(packets - 1) / 2)
        guard total.count == operations, total.sum == expected else {
            throw Failure("\(operations) packets were posted, \(total.count) came out")
        }
        return Measurement(outcome)
    }

    private static func burst(_ port: CompletionPort, producers: Int, packets: Int) throws {
        let barrier = StartBarrier(threads: producers)
        let producing = try (0..<producers).map { _ in
            try WaitableThread {
                barrier.wait()
                for number in 0..<UInt(packets) {
                    try? port.post(bytes: 64, key: number)
                }
            }
        }
        for thread in producing {
            thread.join()
        }
    }

    /// So many packets at any time: a thread takes one, works so long, and posts its successor.
    static func chains(
        _ settings: WorkSettings, limit: Int, threads count: Int, chains: Int, work: UInt64
    ) throws -> Measurement {
        let port = try CompletionPort(concurrencyLimit: limit)
        let handled = Atomic<UInt64>(0)
        bench_burn(0)
        let threads = try PortThreads(port, count) { packet in
            bench_burn(work)
            handled.add(1, ordering: .relaxed)
            do {
                try port.post(bytes: packet.information, key: packet.key)
            } catch let error as PortError where error.status == .invalidHandle {
                // The end.
            }
        }
        for number in 0..<UInt(chains) {
            try port.post(bytes: 64, key: number)
        }
        bench_sleep(20_000_000)
        let before = handled.load(ordering: .relaxed)
        var outcome = bench_outcome()
        let calls = try LibraryCalls(port)
        unsafe bench_outcome_begin(&outcome)
        bench_sleep(settings.nanoseconds)
        let operations = handled.load(ordering: .relaxed) - before
        try unsafe bench_outcome_end(&outcome, operations, calls.made())
        guard try port.statistics.handOvers == 0 else { throw Failure("a thread was taken to be blocked") }
        try threads.end()
        return Measurement(outcome)
    }

    private struct Tally: Sendable {
        var count = 0
        var sum: UInt = 0
    }
}
