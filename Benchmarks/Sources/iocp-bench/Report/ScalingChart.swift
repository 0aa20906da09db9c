/// One figure over the cases of a series, a line for each row that several of them have.
struct ScalingChart {
    enum Figure {
        case rate
        case cpu

        func spread(_ summary: Summary) -> Spread { self == .rate ? summary.rate : summary.cpuPerOperation }
        func text(_ value: Double) -> String {
            self == .rate ? Table.rate(value, isRound: true) : Table.duration(value, isRound: true)
        }
    }

    var figure: Figure
    var variable: String
    var values: [Double]
    var lines: [(title: String, line: Plot.Line)]

    /// - Parameter cases: of one series.
    init?(_ cases: [Results.CaseResult], _ figure: Figure) {
        self.figure = figure
        let cases = cases.filter { $0.series != nil }.sorted { $0.series!.value < $1.series!.value }
        values = cases.map(\.series!.value)
        guard let widest = cases.max(by: { $0.rows.count < $1.rows.count }), Set(values).count >= 2 else { return nil }
        variable = widest.series!.variable
        lines = zip(widest.rows, Contestant.all(of: widest.rows)).compactMap { row, style in
            let points = cases.compactMap { item in
                item.rows.first { $0.id == row.id }?.summary.map { (item.series!.value, figure.spread($0)) }
            }
            guard points.count >= 2 else { return nil }
            return (
                row.title,
                Plot.Line(
                    style: style, points: points.map { ($0.0, $0.1.median) }, hasMarks: true,
                    bars: points.map { ($0.0, $0.1.min, $0.1.max) })
            )
        }
        if lines.isEmpty { return nil }
    }

    var svg: String {
        let heights = lines.flatMap(\.line.bars).map(\.high)
        let least = values.min()!
        let greatest = values.max()!
        let isWide = least > 0 && greatest / least >= 8
        let horizontal = Axis(
            kind: isWide ? .logarithmic : .linear, values: least...greatest, from: Plot.left + 14, to: Plot.right - 14)
        let vertical = Axis(
            kind: .linear, values: Axis.range(heights, .linear) ?? 0...1, from: Plot.bottom, to: Plot.top)
        var plot = Plot(horizontal: horizontal, vertical: vertical)
        plot.horizontalTicks = values.map { ($0, Table.fixed($0, 0)) }
        plot.verticalTicks = vertical.ticks.map { ($0, $0 == 0 ? "0" : figure.text($0)) }
        plot.horizontalTitle = variable
        plot.lines = lines.map(\.line)
        return plot.svg(
            label: "\(figure == .rate ? "Rate" : "CPU time for each operation") by \(variable): "
                + lines.map(\.title).joined(separator: ", "))
    }
}
