/// A figure to reach, and what was measured of it.
struct Target: Codable, Sendable {
    var figure: Figure
    /// The row that a ratio is to; nil is the reference.
    var against: String?
    /// The bound, of one kind or the other; without either the figure is only shown.
    var atMost: Double?
    var atLeast: Double?
    /// What the rounds come to, and how far they were apart.
    var measured: Double?
    var rounds: Spread?
    var reached: Bool?

    static func of(_ figure: Figure, to row: String, atMost bound: Double? = nil) -> Target {
        Target(figure: figure, against: row, atMost: bound)
    }
    static func of(_ figure: Figure, to row: String, atLeast bound: Double) -> Target {
        Target(figure: figure, against: row, atLeast: bound)
    }
    static func median(atMost bound: Double? = nil) -> Target { Target(figure: .median, atMost: bound) }
    static func p99(atMost bound: Double? = nil) -> Target { Target(figure: .p99, atMost: bound) }
    static func worst(atMost bound: Double? = nil) -> Target { Target(figure: .worst, atMost: bound) }
    static func of(_ figure: Figure, atMost bound: Double? = nil) -> Target { Target(figure: figure, atMost: bound) }
    static func of(_ figure: Figure, atLeast bound: Double) -> Target { Target(figure: figure, atLeast: bound) }

    var title: String { against.map { figure.title.replacing("ref", with: $0) } ?? figure.title }

    /// - Parameter rounds: of a row by its id, of the reference for nil; nil if it did not run.
    mutating func evaluate(_ measurements: [Measurement?], rounds rowRounds: (String?) -> [Measurement?]?) {
        let reference = rowRounds(against)
        let values = measurements.enumerated().compactMap { round, measurement in
            measurement.flatMap { figure.value(of: $0, reference: reference?[round]) }
        }
        guard let spread = Spread(values) else { return }
        let value = figure.countsTheWorst ? spread.max : spread.median
        rounds = spread
        measured = value
        if let atMost { reached = value <= atMost }
        if let atLeast { reached = value >= atLeast }
    }

    var isBounded: Bool { atMost != nil || atLeast != nil }

    /// What was measured, in words: with more digits where it misses its bound by less than these show.
    func text(_ measured: Double) -> String {
        let text = figure.text(measured)
        guard reached == false, let bound = atMost ?? atLeast, text == figure.text(bound) else { return text }
        return Table.fixed(measured, 4)
    }

    /// The bound in words; empty if there is none.
    var bound: String {
        atMost.map { "≤ " + figure.text($0) } ?? atLeast.map { "≥ " + figure.text($0) } ?? ""
    }

    /// The figure in words, and what it is taken against.
    func title(in item: Results.CaseResult) -> String {
        guard let name = figure.ratioTitle else { return figure.title }
        let other = item.rows.first { against == nil ? $0.role == .reference : $0.id == against }
        return "\(name), relative to \(other?.title ?? against ?? "the reference"),"
    }
}

/// What a target is about.
enum Figure: String, Codable, Sendable {
    // Of latencies, in nanoseconds.
    case median
    case p99
    case worst
    /// Rate by the reference row's of the same round.
    case rateRatio
    /// The same of median latencies.
    case medianRatio
    /// Median latency beyond the reference row's of the same round, in nanoseconds.
    case medianBeyond
    /// The same of context switches for each operation.
    case switchesRatio
    /// Context switches for each operation beyond the reference row's of the same round.
    case switchesBeyond
    /// The same of CPU time for each operation.
    case cpuRatio
    /// Time for each operation, in nanoseconds: the window by its operations.
    case timePerOperation
    /// The monitor's CPU time by that of one processor.
    case monitorShare
    /// Memory of the process by idle connections, in bytes.
    case memoryPerIdle
    /// The kernel's own memory by idle connections, both ends of each.
    case kernelMemoryPerIdle
    /// What was taken from the heap by idle connections.
    case heapPerIdle
    /// CPU time of the window, in nanoseconds.
    case cpuTime
    case contextSwitches
    /// Events that another thread took, by all.
    case takenByOther
    /// Looks that found more handlers running than the limit allows.
    case overLimit
    /// Places taken from blocked threads.
    case handOvers

    /// Whether the rounds come to the worst of them, and not to their median.
    var countsTheWorst: Bool {
        switch self {
        case .worst, .cpuTime, .contextSwitches, .overLimit, .handOvers: true
        default: false
        }
    }

    func value(of measurement: Measurement, reference: Measurement?) -> Double? {
        func count(_ name: Measurement.Count) -> Double? { measurement.counts?[name.rawValue].map { Double($0) } }
        func perIdle(_ name: Measurement.Count) -> Double? {
            count(name).flatMap { bytes in count(.idleConnections).map { bytes / $0 } }
        }
        return switch self {
        case .median: measurement.latency.map { Double($0.p50) }
        case .p99: measurement.latency.map { Double($0.p99) }
        case .worst: measurement.latency.map { Double($0.max) }
        case .rateRatio: reference.map { measurement.rate / $0.rate }
        case .medianRatio:
            measurement.latency.flatMap { mine in reference?.latency.map { Double(mine.p50) / Double($0.p50) } }
        case .medianBeyond:
            measurement.latency.flatMap { mine in reference?.latency.map { Double(mine.p50) - Double($0.p50) } }
        case .switchesBeyond: reference.map { measurement.switchesPerOperation - $0.switchesPerOperation }
        case .switchesRatio: reference.map { measurement.switchesPerOperation / $0.switchesPerOperation }
        case .cpuRatio: reference.map { measurement.cpuPerOperation / $0.cpuPerOperation }
        case .timePerOperation: 1e9 / measurement.rate
        case .monitorShare: count(.monitorNanoseconds).map { $0 / (measurement.seconds * 1e9) }
        case .memoryPerIdle: perIdle(.memoryBytes)
        case .kernelMemoryPerIdle: perIdle(.kernelBytes)
        case .heapPerIdle: perIdle(.heapBytes)
        case .cpuTime: Double(measurement.cpuNanoseconds)
        case .contextSwitches: Double(measurement.voluntarySwitches + measurement.involuntarySwitches)
        case .takenByOther: count(.takenByOther).map { $0 / Double(measurement.operations) }
        case .overLimit: count(.overLimit)
        case .handOvers: count(.handOvers)
        }
    }

    /// What a ratio is of, in words; nil if it is none.
    var ratioTitle: String? {
        switch self {
        case .rateRatio: "rate"
        case .switchesRatio: "context switches for each operation"
        case .cpuRatio: "CPU time for each operation"
        case .medianRatio: "median latency"
        default: nil
        }
    }

    var title: String {
        switch self {
        case .median: "median"
        case .p99: "p99"
        case .worst: "worst"
        case .rateRatio: "rate × ref"
        case .medianRatio: "p50 × ref"
        case .medianBeyond: "median − ref"
        case .switchesBeyond: "switch/op − ref"
        case .switchesRatio: "switch/op × ref"
        case .cpuRatio: "CPU/op × ref"
        case .timePerOperation: "time/op"
        case .monitorShare: "monitor's CPU"
        case .memoryPerIdle: "memory, each idle"
        case .kernelMemoryPerIdle: "kernel, each idle"
        case .heapPerIdle: "heap, each idle"
        case .cpuTime: "CPU time"
        case .contextSwitches: "context switches"
        case .takenByOther: "taken by another"
        case .overLimit: "over the limit"
        case .handOvers: "places taken"
        }
    }

    func text(_ value: Double) -> String {
        switch self {
        case .median, .p99, .worst, .timePerOperation, .cpuTime: Table.duration(value)
        case .medianBeyond: (value < 0 ? "−" : "") + Table.duration(abs(value))
        case .switchesBeyond: Table.fixed(value, 3)
        case .rateRatio, .medianRatio, .switchesRatio, .cpuRatio: Table.fixed(value, 2)
        case .monitorShare, .takenByOther: Table.fixed(100 * value, 2) + " %"
        case .memoryPerIdle, .kernelMemoryPerIdle, .heapPerIdle: Table.fixed(value, 0) + " B"
        case .contextSwitches, .overLimit, .handOvers: Table.fixed(value, 0)
        }
    }
}
