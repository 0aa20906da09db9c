/// What a suite comes to, for a reader who has ten seconds: the library's CPU time by that of each of the others, in
/// words and in a table, and whether the figures to reach were reached.
struct Headline {
    struct Verdicts {
        var reached = 0
        var missed: [String] = []
        var total: Int { reached + missed.count }

        init(_ cases: [Results.CaseResult]) {
            for item in cases {
                for row in item.rows {
                    for target in row.targets {
                        guard let isReached = target.reached, let measured = target.measured else { continue }
                        if isReached {
                            reached += 1
                        } else {
                            missed.append(
                                "\(item.title): \(target.title(in: item)) \(target.figure.text(measured)), "
                                    + "to reach \(target.bound)")
                        }
                    }
                }
            }
        }
    }

    /// A cell of the table: the library's row of a case by another row.
    struct Cell {
        var ratio: Spread
        var subject: String
    }

    private static let mostNarrow = 3

    let suite: Results.SuiteResult
    /// Those that the library is held against, in the order of the rows: identifier and title.
    let others: [(id: String, title: String, contestant: Contestant)]

    init(_ suite: Results.SuiteResult) {
        self.suite = suite
        var others: [(id: String, title: String, contestant: Contestant)] = []
        for item in suite.cases where item.subject != nil {
            for (row, contestant) in zip(item.rows, Contestant.all(of: item.rows))
            where row.role != .subject && row.summary != nil && !others.contains(where: { $0.id == row.id }) {
                others.append((row.id, row.title, contestant))
            }
        }
        // What ratios are taken against comes first.
        let references = Set(suite.cases.compactMap(\.reference))
        self.others = others.filter { references.contains($0.id) } + others.filter { !references.contains($0.id) }
    }

    private func cell(_ item: Results.CaseResult, _ id: String) -> Cell? {
        guard let subject = item.subject, let other = item.rows.first(where: { $0.id == id }),
            let ratio = Comparison(subject, to: other).cpu
        else { return nil }
        return Cell(ratio: ratio, subject: subject.title)
    }

    /// One sentence, without markup.
    var sentence: String {
        let words = others.compactMap { other -> String? in
            let ratios = suite.cases.compactMap { cell($0, other.id)?.ratio.median }
            return ratios.isEmpty ? nil : "\(Comparison.words(ratios)) than \(Self.short(other.title))"
        }
        guard !words.isEmpty else { return "" }
        return "CPU time for each \(operation): " + words.joined(separator: "; ") + "."
    }

    private var operation: String {
        let names = Set(suite.cases.map(\.operation))
        return names.count == 1 ? names.first! : "operation"
    }

    var html: String {
        let verdicts = Verdicts(suite.cases)
        var parts = [
            "<article class=\"card\(others.count > Self.mostNarrow ? " wide" : "")\"><h3><a href=\"#\(escaped(suite.name))\">\(escaped(suite.name))</a>"
        ]
        if verdicts.total > 0 {
            let isGood = verdicts.missed.isEmpty
            parts.append(
                "<span class=\"badge \(isGood ? "good" : "bad")\">\(isGood ? "✓" : "✗") "
                    + "\(verdicts.reached) of \(verdicts.total) targets reached</span>")
        }
        parts.append("</h3><p class=\"about\">\(escaped(suite.summary))</p>")
        parts.append(sentenceHTML)
        parts.append(table)
        if !verdicts.missed.isEmpty {
            parts.append(
                "<details open><summary>Not reached</summary><ul class=\"missed\">"
                    + verdicts.missed.map { "<li>\(escaped($0))</li>" }.joined() + "</ul></details>")
        }
        parts.append("</article>")
        return parts.joined()
    }

    private var sentenceHTML: String {
        let items = others.compactMap { other -> String? in
            let ratios = suite.cases.compactMap { cell($0, other.id)?.ratio.median }
            guard !ratios.isEmpty else { return nil }
            let rates = suite.cases.compactMap { item in
                item.subject.flatMap { subject in
                    item.rows.first { $0.id == other.id }.flatMap { Comparison(subject, to: $0).rate?.median }
                }
            }
            return "<li class=\"\(other.contestant.style)\"><b>\(Comparison.words(ratios))</b> "
                + "<span>\(ratios.allSatisfy { Self.isEven($0) } ? "as" : "than") \(escaped(Self.short(other.title)))</span>"
                + "<small>\(Self.range(rates)) × its rate</small></li>"
        }
        guard !items.isEmpty else { return "" }
        return "<p class=\"lead\">This library’s CPU time for each \(escaped(operation)):</p>"
            + "<ul class=\"verdicts\">\(items.joined())</ul>"
    }

    private static func range(_ values: [Double]) -> String {
        guard let least = values.min(), let greatest = values.max() else { return "–" }
        let texts = [Table.fixed(least, 2), Table.fixed(greatest, 2)]
        return texts[0] == texts[1] ? texts[0] : texts.joined(separator: "–")
    }

    private static func isEven(_ ratio: Double) -> Bool { (0.995..<1.005).contains(ratio) }

    private var table: String {
        let rows = suite.cases.compactMap { item -> String? in
            guard item.subject != nil else { return nil }
            let cells = others.map { other -> String in
                guard let cell = cell(item, other.id) else { return "<td class=\"none\">–</td>" }
                let ratio = cell.ratio
                let kind = ratio.median <= 0.97 ? "less" : ratio.median <= 1.05 ? "even" : "more"
                return "<td class=\"\(kind)\" title=\"\(escaped(cell.subject)): "
                    + "\(Table.fixed(ratio.min, 2))–\(Table.fixed(ratio.max, 2)) over the rounds\">"
                    + "\(Table.fixed(ratio.median, 2))</td>"
            }
            let verdicts = Verdicts([item])
            let verdict =
                verdicts.total == 0
                ? "<td class=\"none\">–</td>"
                : "<td class=\"\(verdicts.missed.isEmpty ? "less" : "more")\">"
                    + "\(verdicts.missed.isEmpty ? "✓" : "✗") \(verdicts.reached)/\(verdicts.total)</td>"
            return "<tr><th scope=\"row\">\(escaped(item.title))</th>\(verdict)\(cells.joined())</tr>"
        }
        guard !rows.isEmpty, !others.isEmpty else { return "" }
        let heads = others.map { "<th scope=\"col\">÷ \(escaped(Self.short($0.title)))</th>" }
        return
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Ratios, \(escaped(suite.name))\"><table class=\"matrix\"><thead><tr><th scope=\"col\">CPU of this library</th>"
            + "<th scope=\"col\">targets</th>\(heads.joined())</tr></thead><tbody>\(rows.joined())</tbody></table></div>"
    }

    /// A title without the language it is written in.
    private static func short(_ title: String) -> String {
        title.hasSuffix(" (C)") ? String(title.dropLast(4)) : title
    }
}
