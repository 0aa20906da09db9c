/// One row held against another one of the same case, round by round.
struct Comparison {
    /// The one's by the other's, of the rounds in which both were measured.
    var cpu: Spread?
    var rate: Spread?

    init(_ one: Results.RowResult, to other: Results.RowResult) {
        let pairs = zip(one.rounds, other.rounds).compactMap { mine, theirs in
            if let mine, let theirs { (mine, theirs) } else { nil }
        }
        // A row that no clock tick has met says nothing.
        cpu = Spread(
            pairs.filter { $0.1.cpuNanoseconds > 0 }.map { $0.cpuPerOperation / $1.cpuPerOperation })
        rate = Spread(pairs.map { $0.rate / $1.rate })
    }

    /// How much CPU time one takes compared with another, in words: `3 % less`, `2–5 % more`, `3 % less to 2 % more`.
    ///
    /// - Parameter ratios: of several cases.
    static func words(_ ratios: [Double]) -> String {
        guard let least = ratios.min(), let greatest = ratios.max() else { return "not measured" }
        let (low, high) = (percent(least), percent(greatest))
        switch (low, high) {
        case (0, 0): return "the same"
        case (...0, ...0): return low == high ? "\(-low) % less" : "\(-high)–\(-low) % less"
        case (0..., 0...): return low == high ? "\(high) % more" : "\(low)–\(high) % more"
        default: return "\(-low) % less to \(high) % more"
        }
    }

    private static func percent(_ ratio: Double) -> Int {
        // A figure that is out of all proportion is wrong, but it must not stop the report.
        Int((max(-1e6, min(1e6, 100 * (ratio - 1)))).rounded())
    }
}

extension Results.CaseResult {
    /// Which of the library's rows stands for it: the one that figures to reach are set for, or else the first. Never
    /// the one that did best.
    var subject: Results.RowResult? {
        let subjects = rows.filter { $0.role == .subject && $0.summary != nil }
        return subjects.first { $0.targets.contains(where: \.isBounded) } ?? subjects.first
    }

    /// What ratios are drawn against: raw liburing where it does the same work, else the case's own reference.
    var yardstick: Results.RowResult? {
        rows.first { $0.role == .reference && $0.summary != nil }
            ?? rows.first { $0.id.hasPrefix("raw-") && $0.summary != nil }
    }

    /// One operation, in words.
    var operation: String {
        operations.hasSuffix("s") ? String(operations.dropLast()) : operations
    }
}
