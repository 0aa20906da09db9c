/// The figures to reach of a run, a line for each: what was measured, what was to be reached, whether it was.
struct TargetTable {
    private let results: Results

    init(_ results: Results) {
        self.results = results
    }

    private static let columns = ["", "figure", "measured", "least–greatest", "target", "", "events"]

    /// Empty if no row has any.
    var text: String {
        let sections: [(title: String, lines: [[String]])] = results.suites.flatMap(\.cases).compactMap { item in
            let lines = item.rows.flatMap(Self.lines)
            return lines.isEmpty ? nil : ("\(item.id): \(item.title)", lines)
        }
        guard !sections.isEmpty else { return "" }
        let widths = Self.columns.indices.map { column in
            (sections.flatMap(\.lines) + [Self.columns]).map { $0[column].count }.max() ?? 0
        }
        func line(_ cells: [String]) -> String {
            zip(cells, widths).enumerated().map { column, cell in
                // Words to the left, figures to the right.
                [0, 1, 5].contains(column) ? Table.pad(cell.0, after: cell.1) : Table.pad(cell.0, before: cell.1)
            }.joined(separator: "  ")
        }
        var text = ["Figures to reach; worst and counts are those of the worst round", line(Self.columns)]
        for section in sections {
            text += ["", section.title] + section.lines.map(line)
        }
        let verdicts = results.suites.flatMap(\.cases).flatMap(\.rows).flatMap(\.targets).compactMap(\.reached)
        text += ["", "\(verdicts.filter { $0 }.count) of \(verdicts.count) reached"]
        return text.joined(separator: "\n")
    }

    private static func lines(_ row: Results.RowResult) -> [[String]] {
        let events = row.rounds.compactMap { $0?.latency?.count ?? $0?.operations }.reduce(0, +)
        return row.targets.enumerated().map { index, target in
            let figure = target.figure
            return [
                index == 0 ? "  \(row.title)" : "",
                target.title,
                target.measured.map(figure.text) ?? "–",
                target.rounds.map { "\(figure.text($0.min))–\(figure.text($0.max))" } ?? "",
                target.bound,
                target.reached.map { $0 ? "reached" : "MISSED" } ?? "",
                index == 0 ? "\(events)" : "",
            ]
        }
    }
}
