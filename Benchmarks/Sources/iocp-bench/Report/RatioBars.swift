/// Bars of one row's figure by the yardstick's, with the least and the greatest of the rounds.
struct RatioBars {
    var rows: [(row: Results.RowResult, contestant: Contestant, ratio: Spread?)]
    /// What 1 stands for.
    var yardstick: Results.RowResult
    private let longest: Double

    init?(_ item: Results.CaseResult, _ figure: (Comparison) -> Spread?) {
        guard let yardstick = item.yardstick else { return nil }
        self.yardstick = yardstick
        rows = zip(item.rows, Contestant.all(of: item.rows)).map { row, contestant in
            (row, contestant, figure(Comparison(row, to: yardstick)))
        }
        guard rows.contains(where: { $0.ratio != nil && $0.row.id != yardstick.id }) else { return nil }
        // One that is far beyond must not press the others together.
        longest = min(4, max(1.2, rows.compactMap(\.ratio?.max).max() ?? 1) * 1.04)
    }

    var html: String {
        let one = percent(1)
        let lines = rows.map { row, contestant, ratio -> String in
            let label = "<span class=\"who\">\(escaped(row.title))</span>"
            guard let ratio else {
                return "<li class=\"\(contestant.style)\">\(label)<span class=\"track\"></span>"
                    + "<span class=\"value\">–</span></li>"
            }
            let isCut = ratio.median > longest
            let bar = "<span class=\"bar\(isCut ? " cut" : "")\" style=\"width:\(percent(ratio.median))%\"></span>"
            let whisker =
                ratio.max > ratio.min
                ? "<span class=\"error\" style=\"left:\(percent(ratio.min))%;"
                    + "width:\(percent(ratio.max, minus: ratio.min))%\"></span>" : ""
            let isOne = row.id == yardstick.id
            let range =
                isOne ? "" : "<small>\(Table.fixed(ratio.min, 2))–\(Table.fixed(ratio.max, 2))</small>"
            return "<li class=\"\(contestant.style)\(row.role == .subject ? " ours" : "")\">\(label)"
                + "<span class=\"track\">\(bar)\(whisker)<i style=\"left:\(one)%\"></i></span>"
                + "<span class=\"value\">\(isOne ? "1" : Table.fixed(ratio.median, 2))\(range)</span></li>"
        }
        return "<ul class=\"bars\">\(lines.joined())</ul>"
    }

    private func percent(_ ratio: Double, minus start: Double = 0) -> String {
        let end = min(ratio, longest)
        return Table.fixed(max(0, 100 * (end - min(start, longest)) / longest), 2)
    }
}
