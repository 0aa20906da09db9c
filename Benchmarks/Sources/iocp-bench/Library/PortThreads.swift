import CBaselines
import Histogram
import IOCP
import Synchronization

/// Threads that dequeue from a port, one packet at a time, until it is closed.
final class PortThreads: Sendable {
    let port: CompletionPort
    private let threads: [WaitableThread]
    private let failures: FailureBox

    private final class FailureBox: Sendable {
        let first = Mutex<String?>(nil)
    }

    /// - Parameter work: runs for each packet, on the thread that dequeued it. Throwing ends the thread.
    init(_ port: CompletionPort, _ count: Int, _ work: @escaping @Sendable (Packet) throws -> Void) throws {
        self.port = port
        let failures = FailureBox()
        self.failures = failures
        threads = try (0..<count).map { _ in
            try WaitableThread {
                do {
                    while let packet = try port.dequeue() {
                        try work(packet)
                    }
                } catch let error as PortError where error.status == .abandoned || error.status == .invalidHandle {
                    // The port was closed.
                } catch {
                    failures.first.withLock { $0 = $0 ?? "\(error)" }
                }
            }
        }
        // All of them wait before the first packet comes.
        let deadline = bench_now() + 5_000_000_000
        while try port.statistics.waiting < count {
            guard bench_now() < deadline else { throw Failure("threads that should wait do not") }
            bench_sleep(50_000)
        }
    }

    /// Closes the port and waits for the threads.
    func end() throws {
        port.close()
        for thread in threads {
            thread.join()
        }
        if let failure = failures.first.withLock({ $0 }) {
            throw Failure(failure)
        }
    }
}

/// Counts up on one thread and is waited for on another.
@safe
final class Semaphore: @unchecked Sendable {
    // Unchecked: the word is made for threads, and stays where it is.
    private let word: UnsafeMutablePointer<UInt32>

    init() {
        unsafe word = .allocate(capacity: 1)
        unsafe word.initialize(to: 0)
    }

    deinit {
        unsafe word.deallocate()
    }

    func signal() {
        unsafe bench_semaphore_post(word)
    }

    /// - Parameter what: of whose absence a failure speaks.
    func wait(for what: @autoclosure () -> String, _ times: Int = 1) throws {
        for _ in 0..<times {
            guard unsafe bench_semaphore_wait(word, 2_000_000_000) else {
                throw Failure("\(what()) did not happen within 2 seconds")
            }
        }
    }
}

/// When each event was sent, and when and by whom it was taken: each written once, by whoever it concerns.
@safe
final class EventTimes: @unchecked Sendable {
    // Unchecked: an element has one writer at a time, and is read after all have written.
    private let sent: UnsafeMutableBufferPointer<UInt64>
    private let taken: UnsafeMutableBufferPointer<UInt64>

    init(_ count: Int) {
        unsafe sent = .allocate(capacity: count)
        unsafe taken = .allocate(capacity: count)
        unsafe sent.initialize(repeating: 0)
        unsafe taken.initialize(repeating: 0)
    }

    deinit {
        unsafe sent.deallocate()
        unsafe taken.deallocate()
    }

    func send(_ event: Int) {
        unsafe sent[event] = bench_now()
    }

    func take(_ event: Int) {
        unsafe taken[event] = bench_now()
    }

    /// The times between, all of them: an event that was not taken is an error.
    func latency() throws -> Latency {
        var histogram = Latency.emptyHistogram()
        for event in unsafe sent.indices {
            let (from, to) = unsafe (sent[event], taken[event])
            guard from > 0, to >= from else { throw Failure("event \(event) was lost") }
            histogram.record(max(1, to - from))
        }
        return Latency(histogram)
    }
}

/// Numbers of a sequence that is the same in each run, to spread events over the ticks of clocks.
struct Jitter {
    private var state: UInt64 = 0x2545_F491

    /// Sleeps at least the one and less than the other number of nanoseconds.
    mutating func sleep(_ range: Range<UInt64>) {
        let more = unsafe bench_next_block(&state, range.upperBound - range.lowerBound)
        bench_sleep(range.lowerBound + more)
    }
}
