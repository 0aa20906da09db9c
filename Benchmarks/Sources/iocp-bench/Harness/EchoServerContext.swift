import CBaselines
import Synchronization

/// What a server row is given, and how the harness looks at it while it serves.
final class EchoServerContext: Sendable {
    /// A listening TCP socket on 127.0.0.1 with TCP_NODELAY, which accepted sockets inherit.
    let listener: Int32
    /// Becomes readable when the server has to end.
    let stopEvent: Int32
    /// Connections that may be open at one time.
    let connections: Int
    /// A good size for one receive.
    let bufferBytes: Int
    /// One set for each worker: a set has a single writer.
    let counters: [Counters]

    /// What ``alsoCount(_:)`` calls system calls.
    static let systemCalls = "systemCalls"

    private let stopping = Mutex<StopState>(.init())

    private let counting = Mutex<(@Sendable () -> [String: UInt64])?>(nil)

    private struct StopState: Sendable {
        var stopped = false
        var action: (@Sendable () -> Void)?
    }

    init(listener: Int32, connections: Int, bufferBytes: Int, workers: Int) throws {
        self.listener = listener
        self.connections = connections
        self.bufferBytes = bufferBytes
        counters = (0..<workers).map { _ in Counters() }
        stopEvent = try check(bench_event_open(), "creating an eventfd")
    }

    /// For servers that do not watch `stopEvent`: runs `action` on another thread when the server has to end.
    func whenStopped(_ action: @escaping @Sendable () -> Void) {
        let stopped = stopping.withLock { state in
            state.action = action
            return state.stopped
        }
        if stopped {
            action()
        }
    }

    func stop() {
        let action = stopping.withLock { state in
            state.stopped = true
            return state.action
        }
        bench_event_raise(stopEvent)
        action?()
    }

    /// For servers that count more than `counters` can: their counts, with each snapshot.
    func alsoCount(_ counts: @escaping @Sendable () -> [String: UInt64]) {
        counting.withLock { $0 = counts }
    }

    /// Where the server is now. Callable from any thread.
    func snapshot() -> ServerSnapshot {
        var snapshot = ServerSnapshot(usage: bench_usage_now())
        let allocations = bench_allocations()
        // Those of the thread that takes snapshots are not the server's.
        snapshot.allocations = allocations < 0 ? nil : UInt64(allocations - bench_allocations_of_thread())
        snapshot.counts = counting.withLock { $0 }?() ?? [:]
        for counters in counters {
            let values = counters.values
            snapshot.bytes += values.bytes
            snapshot.receives += values.receives
            snapshot.accepts += values.accepts
            snapshot.systemCalls += values.system_calls
        }
        // Of servers whose calls somebody else counts.
        snapshot.systemCalls += snapshot.counts.removeValue(forKey: Self.systemCalls) ?? 0
        return snapshot
    }
}

/// A worker's counters: written by one thread, read by any.
@safe
final class Counters: @unchecked Sendable {
    let storage: UnsafeMutablePointer<bench_counters>

    init() {
        // A cache line to itself: workers do not disturb each other.
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64)
        unsafe storage = memory.initializeMemory(as: bench_counters.self, to: bench_counters())
    }

    deinit {
        unsafe storage.deallocate()
    }

    var values: bench_counters { unsafe bench_counters_read(storage) }

    @inline(__always)
    func received(_ bytes: Int) {
        unsafe bench_count(&storage.pointee.bytes, UInt64(bytes))
        unsafe bench_count(&storage.pointee.receives, 1)
    }

    @inline(__always)
    func accepted() {
        unsafe bench_count(&storage.pointee.accepts, 1)
    }

    /// For servers that learn their number of system calls from elsewhere.
    @inline(__always)
    func calledSystem(_ times: UInt64) {
        unsafe bench_count(&storage.pointee.system_calls, times)
    }
}

/// One line of a server process.
struct ServerSnapshot: Codable, Sendable {
    var cpuNanoseconds: UInt64
    var voluntarySwitches: UInt64
    var involuntarySwitches: UInt64
    var bytes: UInt64 = 0
    var receives: UInt64 = 0
    var accepts: UInt64 = 0
    var systemCalls: UInt64 = 0
    /// Heap allocations; nil where they cannot be counted.
    var allocations: UInt64?
    var counts: [String: UInt64] = [:]

    init(usage: bench_usage) {
        cpuNanoseconds = usage.cpu_nanoseconds
        voluntarySwitches = usage.voluntary_switches
        involuntarySwitches = usage.involuntary_switches
    }
}
