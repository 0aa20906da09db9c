import Glibc

/// Latency by percentile: how slow the slowest one in so many is.
struct LatencyChart {
    struct Curve {
        var title: String
        var contestant: Contestant
        /// 1 / (1 − q), nanoseconds.
        var points: [(oneIn: Double, nanoseconds: Double)]
    }

    var curves: [Curve]

    /// nil if no row measured latencies.
    init?(_ item: Results.CaseResult) {
        let styles = Contestant.all(of: item.rows)
        curves = zip(item.rows, styles).compactMap { row, style in
            let points = Self.points(row.rounds.compactMap { $0?.latency })
            return points.count < 2 ? nil : Curve(title: row.title, contestant: style, points: points)
        }
        if curves.isEmpty { return nil }
    }

    /// The median over the rounds of each percentile, as far as there were events enough to say it.
    static func points(_ rounds: [Latency]) -> [(oneIn: Double, nanoseconds: Double)] {
        guard let first = rounds.first, let fewest = rounds.map(\.count).min() else { return [] }
        return first.quantiles.indices.compactMap { index in
            let percentile = first.quantiles[index].percentile
            let oneIn = 1 / (1 - percentile / 100)
            guard percentile < 100, oneIn <= Double(fewest) else { return nil }
            let values = rounds.compactMap { round in
                round.quantiles.first { $0.percentile == percentile }.map { Double($0.nanoseconds) }
            }
            return Spread(values).map { (oneIn, max(1, $0.median)) }
        }
    }

    private static let percentiles: [(text: String, oneIn: Double)] = [
        ("50 %", 2), ("90 %", 10), ("99 %", 100), ("99.9 %", 1e3), ("99.99 %", 1e4), ("99.999 %", 1e5),
    ]

    var svg: String {
        let points = curves.flatMap(\.points)
        let horizontal = Axis(
            kind: .logarithmic, values: 1...(points.map(\.oneIn).max() ?? 10), from: Plot.left, to: Plot.right)
        let vertical = Axis(
            kind: .logarithmic, values: Axis.range(points.map(\.nanoseconds), .logarithmic) ?? 1...10,
            from: Plot.bottom, to: Plot.top)
        var plot = Plot(horizontal: horizontal, vertical: vertical)
        plot.horizontalTicks = Self.percentiles.filter { $0.oneIn <= horizontal.values.upperBound }
            .map { ($0.oneIn, $0.text) }
        plot.verticalTicks = vertical.ticks.map { ($0, Table.duration($0, isRound: true)) }
        plot.horizontalTitle = "percentile"
        plot.lines = curves.map { curve in
            Plot.Line(style: curve.contestant, points: curve.points.map { ($0.oneIn, $0.nanoseconds) }, hasMarks: false)
        }
        return plot.svg(
            label: "Latency by percentile: " + curves.map(\.title).joined(separator: ", "))
    }
}
