/// A value of several rounds: the median, and how far the rounds were apart.
struct Spread: Codable, Sendable {
    var median: Double
    var min: Double
    var max: Double

    init?(_ values: [Double]) {
        let sorted = values.filter(\.isFinite).sorted()
        guard let first = sorted.first, let last = sorted.last else { return nil }
        let middle = sorted.count / 2
        median = sorted.count.isMultiple(of: 2) ? (sorted[middle - 1] + sorted[middle]) / 2 : sorted[middle]
        min = first
        max = last
    }
}

/// What the rounds of one row come to.
struct Summary: Codable, Sendable {
    /// Operations each second.
    var rate: Spread
    var cpuPerOperation: Spread
    var switchesPerOperation: Spread
    var callsPerOperation: Spread?
    var allocationsPerOperation: Spread?
    /// Medians of each round's percentile, nanoseconds.
    var p50: Spread?
    var p99: Spread?
    var p999: Spread?
    /// This row's rate by the reference row's of the same round.
    var rateRatio: Spread?
    /// The same of CPU time for each operation.
    var cpuRatio: Spread?

    /// - Parameters:
    ///   - rounds: by round number; nil where the row failed.
    ///   - reference: the reference row's rounds, by the same numbers.
    init?(_ rounds: [Measurement?], reference: [Measurement?]?) {
        let done = rounds.compactMap { $0 }
        guard let rate = Spread(done.map(\.rate)),
            let cpu = Spread(done.map(\.cpuPerOperation)),
            let switches = Spread(done.map(\.switchesPerOperation))
        else { return nil }
        self.rate = rate
        cpuPerOperation = cpu
        switchesPerOperation = switches
        callsPerOperation = Spread(done.compactMap(\.callsPerOperation))
        allocationsPerOperation = Spread(done.compactMap(\.allocationsPerOperation))
        p50 = Spread(done.compactMap(\.latency).map { Double($0.p50) })
        p99 = Spread(done.compactMap(\.latency).map { Double($0.p99) })
        p999 = Spread(done.compactMap(\.latency).map { Double($0.p999) })
        guard let reference else { return }
        let pairs = zip(rounds, reference).compactMap { mine, theirs in
            if let mine, let theirs { (mine, theirs) } else { nil }
        }
        rateRatio = Spread(pairs.map { $0.rate / $1.rate })
        cpuRatio = Spread(pairs.map { $0.cpuPerOperation / $1.cpuPerOperation })
    }
}
