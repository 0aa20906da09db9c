import CBaselines
import Histogram

/// What one row did in one round.
struct Measurement: Codable, Sendable {
    /// Operations completed inside the measured window.
    var operations: UInt64
    /// Length of the measured window.
    var seconds: Double
    /// CPU time of the measured process (of the server, where there is one) inside the window: user and system.
    var cpuNanoseconds: UInt64
    var voluntarySwitches: UInt64
    var involuntarySwitches: UInt64
    /// System calls by the row's own count; nil where its code cannot know.
    var systemCalls: UInt64?
    /// Heap allocations of all threads of the process; nil where they cannot be counted.
    var allocations: UInt64?
    /// nil where single operations are too short to be timed one by one.
    var latency: Latency?
    /// CPU time of the load generator, where there is one.
    var loadNanoseconds: UInt64?
    /// What else a row counts, by ``Count``.
    var counts: [String: UInt64]?

    enum Count: String {
        /// CPU time of the library's own thread.
        case monitorNanoseconds
        /// Events that another thread took than the one they came for.
        case takenByOther
        /// Looks that found more handlers running than the limit allows.
        case overLimit
        /// Places that the port took from blocked threads.
        case handOvers
        /// Entries into the kernel for the library's rings.
        case kernelEntries
        /// Connections beside those of the traffic, with a receive pending at the server and nothing to receive.
        case idleConnections
        /// By how much they let the process grow: pages that no other process has.
        case memoryBytes
        /// By how much the kernel's slabs grew with them.
        case kernelBytes
        /// By how much the heap grew with them.
        case heapBytes
    }

    var rate: Double { Double(operations) / seconds }
    var cpuPerOperation: Double { Double(cpuNanoseconds) / Double(operations) }
    var switchesPerOperation: Double { Double(voluntarySwitches + involuntarySwitches) / Double(operations) }
    var callsPerOperation: Double? { systemCalls.map { Double($0) / Double(operations) } }
    var allocationsPerOperation: Double? { allocations.map { Double($0) / Double(operations) } }
}

extension Measurement {
    /// - Parameter scale: how many of the outcome's operations make one of the measurement's.
    init(_ outcome: bench_outcome, latency: Latency? = nil, scale: UInt64 = 1, counts: [Count: Int]? = nil) {
        self.init(
            operations: outcome.operations / scale,
            seconds: Double(outcome.nanoseconds) / 1e9,
            cpuNanoseconds: outcome.usage.cpu_nanoseconds,
            voluntarySwitches: outcome.usage.voluntary_switches,
            involuntarySwitches: outcome.usage.involuntary_switches,
            systemCalls: UInt64(exactly: outcome.system_calls),
            allocations: UInt64(exactly: outcome.allocations),
            latency: latency,
            counts: counts.map { Dictionary(uniqueKeysWithValues: $0.map { ($0.rawValue, UInt64($1)) }) }
        )
    }
}

/// A latency distribution in nanoseconds.
struct Latency: Codable, Sendable {
    var count: UInt64
    var mean: Double
    var p50: UInt64
    var p90: UInt64
    var p99: UInt64
    var p999: UInt64
    var max: UInt64
    /// Enough of the curve to plot it.
    var quantiles: [Quantile]

    struct Quantile: Codable, Sendable {
        var percentile: Double
        var nanoseconds: UInt64
    }

    /// Halves of what is left, as a latency plot wants them: 0, 50, 75, 87.5, …
    private static let plotted: [Double] = [0, 10, 25] + (1...17).map { 100 - 100 / Double(1 << $0) } + [100]

    init(
        count: UInt64, mean: Double, p50: UInt64, p90: UInt64, p99: UInt64, p999: UInt64, max: UInt64,
        quantiles: [Quantile]
    ) {
        self.count = count
        self.mean = mean
        self.p50 = p50
        self.p90 = p90
        self.p99 = p99
        self.p999 = p999
        self.max = max
        self.quantiles = quantiles
    }

    init(_ histogram: Histogram<UInt64>) {
        count = histogram.totalCount
        mean = histogram.mean
        p50 = histogram.valueAtPercentile(50)
        p90 = histogram.valueAtPercentile(90)
        p99 = histogram.valueAtPercentile(99)
        p999 = histogram.valueAtPercentile(99.9)
        max = histogram.max
        quantiles = Self.plotted.map {
            Quantile(percentile: $0, nanoseconds: histogram.valueAtPercentile($0))
        }
    }

    /// An empty histogram of the range that all latencies here share: 1 ns to 60 s, three digits.
    static func emptyHistogram() -> Histogram<UInt64> {
        Histogram(highestTrackableValue: 60_000_000_000, numberOfSignificantValueDigits: .three)
    }
}
