/// The table that a run ends in.
struct Table {
    private let results: Results

    init(_ results: Results) {
        self.results = results
    }

    private static let columns = [
        "", "rate/s", "p50", "p99", "p99.9", "CPU/op", "switch/op", "calls/op", "heap/op", "rate × ref", "CPU × ref",
    ]

    var text: String {
        let machine = results.machine
        var lines = [
            "\(machine.processor), \(machine.processors) processors, \(machine.kernel), liburing \(machine.liburing)",
            "medians of \(results.settings.rounds) interleaved round\(results.settings.rounds == 1 ? "" : "s")"
                + "; ratios to the reference (*) of the same round: median (least–greatest)",
        ]
        let sections = results.suites.flatMap { suite in
            suite.cases.map { item in
                (title: "\(suite.name): \(item.title) (rate in \(item.operations))", rows: item.rows.map(Self.cells))
            }
        }
        let cells = [Self.columns] + sections.flatMap(\.rows)
        let widths = Self.columns.indices.map { column in cells.map { $0[column].count }.max() ?? 0 }
        func line(_ cells: [String]) -> String {
            zip(cells, widths).enumerated().map { column, cell in
                column == 0 ? Self.pad(cell.0, after: cell.1) : Self.pad(cell.0, before: cell.1)
            }.joined(separator: "  ")
        }
        lines += ["", line(Self.columns)]
        for section in sections {
            lines += ["", section.title]
            lines += section.rows.map(line)
        }
        for row in results.suites.flatMap(\.cases).flatMap({ item in item.rows.map { (item, $0) } }) {
            lines += row.1.errors.map { "FAILED: \(row.0.id), \(row.1.id): \($0)" }
        }
        lines += results.peers.compactMap { peer in
            peer.missing.map { "MISSING: \(peer.title) (rows: \(peer.peer.rawValue)…). To have it: \($0)" }
        }
        return lines.joined(separator: "\n")
    }

    private static func cells(_ row: Results.RowResult) -> [String] {
        let title = "  \(row.title)\(row.role == .reference ? " *" : "")"
        guard let summary = row.summary else {
            return [title, "failed"] + Array(repeating: "", count: columns.count - 2)
        }
        let isReference = row.role == .reference
        return [
            title,
            rate(summary.rate.median),
            duration(summary.p50?.median),
            duration(summary.p99?.median),
            duration(summary.p999?.median),
            duration(summary.cpuPerOperation.median),
            count(summary.switchesPerOperation.median),
            count(summary.callsPerOperation?.median),
            count(summary.allocationsPerOperation?.median),
            isReference ? "1" : ratio(summary.rateRatio),
            isReference ? "1" : ratio(summary.cpuRatio),
        ]
    }

    // MARK: Figures

    /// Three or four digits and a unit.
    ///
    /// - Parameter isRound: it is a mark on an axis, and has no digits to spare.
    static func rate(_ value: Double, isRound: Bool = false) -> String {
        switch value {
        case 1e6... where isRound: shortest(value / 1e6) + " M"
        case 1e3... where isRound: shortest(value / 1e3) + " k"
        case 1e6...: fixed(value / 1e6, 2) + " M"
        case 1e5...: fixed(value / 1e3, 0) + " k"
        case 1e4...: fixed(value / 1e3, 1) + " k"
        default: fixed(value, 0)
        }
    }

    static func duration(_ nanoseconds: Double?, isRound: Bool = false) -> String {
        switch nanoseconds {
        case let value? where isRound && value >= 1e9: shortest(value / 1e9) + " s"
        case let value? where isRound && value >= 1e6: shortest(value / 1e6) + " ms"
        case let value? where isRound && value >= 1e3: shortest(value / 1e3) + " µs"
        case let value? where isRound: shortest(value) + " ns"
        case nil: "–"
        case let value? where value >= 1e6: fixed(value / 1e6, 2) + " ms"
        case let value? where value >= 1e4: fixed(value / 1e3, 1) + " µs"
        case let value? where value >= 1e3: fixed(value / 1e3, 2) + " µs"
        case let value? where value >= 100: fixed(value, 0) + " ns"
        case let value?: fixed(value, 1) + " ns"
        }
    }

    static func count(_ value: Double?) -> String {
        switch value {
        case nil: "–"
        case 0?: "0"
        case let value? where value < 0.0005: "< 0.001"
        case let value?: fixed(value, value < 10 ? 3 : 0)
        }
    }

    static func ratio(_ spread: Spread?) -> String {
        spread.map { "\(fixed($0.median, 2)) (\(fixed($0.min, 2))–\(fixed($0.max, 2)))" } ?? "–"
    }

    static func fixed(_ value: Double, _ digits: Int) -> String {
        guard value.isFinite, value.magnitude < 1e15 else { return "–" }
        var scale = 1.0
        for _ in 0..<digits {
            scale *= 10
        }
        let scaled = Int64((value.magnitude * scale).rounded())
        let whole = "\(scaled / Int64(scale))"
        let fraction = "\(scaled % Int64(scale))"
        let sign = value < 0 && scaled > 0 ? "-" : ""
        return digits == 0 ? sign + whole : sign + whole + "." + pad(fraction, before: digits, with: "0")
    }

    /// With as few digits after the point as it needs, two at most.
    static func shortest(_ value: Double) -> String {
        var text = fixed(value, 2)
        while text.hasSuffix("0") {
            text.removeLast()
        }
        return text.hasSuffix(".") ? String(text.dropLast()) : text
    }

    static func pad(_ text: String, before width: Int, with filler: Character = " ") -> String {
        String(repeating: filler, count: max(0, width - text.count)) + text
    }

    static func pad(_ text: String, after width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }
}
