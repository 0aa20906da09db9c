/// The report: one page of HTML that needs nothing else.
struct Page {
    /// Runs, each with suites of its own; the first is the newest.
    let runs: [Results]

    init(_ runs: [Results]) {
        self.runs = runs
    }

    var html: String {
        """
        <!DOCTYPE html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta name="color-scheme" content="light dark">
        <title>iocp-bench, \(escaped(day(runs.first)))</title>
        <style>\(Style.css)</style>
        </head>
        <body>
        <header><h1>iocp-bench</h1>
        <p>I/O completion ports for Linux in Swift, held against raw liburing and others that do the same work.</p>
        \(machines)\(missing)</header>
        <main>
        <section class="strip" aria-label="Summary"><h2>In short</h2>
        <div class="cards">\(suites.map { Headline($0.suite).html }.joined())</div>
        <p class="caption">In the tables: CPU time of the measured process for one operation, this library’s divided by the other’s in \
        the same round; medians. <span class="chip less">below 0.97</span> the library needs less, \
        <span class="chip even">up to 1.05</span> about the same, <span class="chip more">above</span> it needs more. \
        Of several rows of the library the one counts that targets are set for, or else the first.</p></section>
        \(suites.map(section).joined())
        \(Self.columns)
        </main>
        </body>
        </html>

        """
    }

    private var suites: [(run: Results, suite: Results.SuiteResult)] {
        runs.flatMap { run in run.suites.map { (run, $0) } }
    }

    private func day(_ run: Results?) -> String { String((run?.date ?? "").prefix(10)) }

    /// A description of each machine, of runs on the same one together.
    private var machines: String {
        var seen: [(machine: Machine, dates: [String])] = []
        for run in runs {
            if let index = seen.firstIndex(where: { $0.machine == run.machine }) {
                seen[index].dates.append(run.date)
            } else {
                seen.append((run.machine, [run.date]))
            }
        }
        return seen.map { machine, dates in
            var facts: [(String, String)] = [
                ("processor", "\(machine.processor), \(machine.processors) to be used"), ("kernel", machine.kernel),
                ("system", machine.system ?? ""),
                ("memory", machine.memoryBytes.map { "\(Table.fixed(Double($0) / Double(1 << 30), 1)) GiB" } ?? ""),
                ("liburing", machine.liburing), ("compiler", machine.compiler),
                ("beside it", peers(of: machine)),
                ("measured", dates.map(Self.readable).joined(separator: "; ")),
            ]
            facts.removeAll(where: \.1.isEmpty)
            return "<dl class=\"machine\">"
                + facts.map { "<div><dt>\($0)</dt><dd>\(escaped($1))</dd></div>" }.joined() + "</dl>"
        }.joined()
    }

    /// The libraries of others, with their versions, and what is missing.
    private func peers(of machine: Machine) -> String {
        var texts: [String] = []
        for peer in runs.filter({ $0.machine == machine }).flatMap(\.peers) {
            if peer.missing == nil, !texts.contains(peer.title) {
                texts.append(peer.title)
            }
        }
        return texts.joined(separator: ", ")
    }

    /// Those that were not there, and what would bring them.
    private var missing: String {
        var seen: Set<String> = []
        let items = runs.flatMap(\.peers).compactMap { peer -> String? in
            guard let remedy = peer.missing, seen.insert(peer.title).inserted else { return nil }
            return "<li>Not measured: \(escaped(peer.title)). To have it: \(escaped(remedy))</li>"
        }
        return items.isEmpty ? "" : "<ul class=\"absent\">\(items.joined())</ul>"
    }

    private static func readable(_ date: String) -> String {
        let parts = date.split(separator: "T")
        guard parts.count == 2 else { return date }
        return "\(parts[0]), \(parts[1].prefix(5)) UTC"
    }

    // MARK: A suite

    private func section(_ run: Results, _ suite: Results.SuiteResult) -> String {
        let rounds = run.settings.rounds
        let seconds = run.settings.seconds.map { ", \(Table.fixed($0, 1)) s each" } ?? ""
        return """
            <section id="\(escaped(suite.name))"><h2>\(escaped(suite.name))</h2>
            <p class="about">\(escaped(suite.summary)). \(rounds) interleaved \(rounds == 1 ? "round" : "rounds")\(seconds).\
            \(run.settings.quick ? " <b>A quick run: it proves that everything works, and measures nothing well.</b>" : "")</p>
            \(scaling(suite))
            \(suite.cases.map(self.item).joined())
            </section>
            """
    }

    private func scaling(_ suite: Results.SuiteResult) -> String {
        var names: [String] = []
        for name in suite.cases.compactMap(\.series?.name) where !names.contains(name) {
            names.append(name)
        }
        let figures = names.flatMap { name -> [String] in
            let cases = suite.cases.filter { $0.series?.name == name }
            let operation = cases.first?.operation ?? "operation"
            return [
                (ScalingChart.Figure.rate, "\(cases.first?.operations ?? "operations") a second; higher is better"),
                (.cpu, "CPU time for each \(operation); lower is better"),
            ].compactMap { figure, what in
                guard let chart = ScalingChart(cases, figure) else { return nil }
                return "<figure><h4>\(escaped(name)): \(escaped(what))</h4>\(chart.svg)"
                    + Plot.legend(chart.lines.map { ($0.title, $0.line.style) })
                    + "<figcaption>Medians, by \(escaped(chart.variable)); upright lines from the least to the "
                    + "greatest of the rounds.</figcaption></figure>"
            }
        }
        return figures.isEmpty ? "" : "<div class=\"figures\">\(figures.joined())</div>"
    }

    // MARK: A case

    private func item(_ item: Results.CaseResult) -> String {
        var figures: [String] = []
        if let bars = RatioBars(item, \.cpu) {
            figures.append(
                "<figure><h4>CPU time for each \(escaped(item.operation)), relative to \(escaped(bars.yardstick.title))</h4>"
                    + bars.html
                    + "<figcaption>Shorter is better. The bar is the median, the line goes from the least to the "
                    + "greatest of the rounds.</figcaption></figure>")
        }
        if let bars = RatioBars(item, \.rate) {
            figures.append(
                "<figure><h4>\(escaped(capitalized(item.operations))) a second, relative to "
                    + "\(escaped(bars.yardstick.title))</h4>"
                    + bars.html + "<figcaption>Longer is better.</figcaption></figure>")
        }
        let chart = LatencyChart(item)
        let hasLatency = chart != nil && figures.count == 2
        if let chart {
            figures.append(
                "<figure><h4>Latency of each \(escaped(item.operation)), by percentile</h4>\(chart.svg)"
                    + Plot.legend(chart.curves.map { ($0.title, $0.contestant) })
                    + "<figcaption>Lower is better. At 99 % one in a hundred took longer than that. Both axes are "
                    + "logarithmic.</figcaption></figure>")
        }
        return "<article class=\"case\" id=\"\(escaped(item.id))\"><h3>\(escaped(item.title))</h3>"
            + "<div class=\"figures\(hasLatency ? " tall" : "")\">\(figures.joined())</div>\(table(item))\(targets(item))\(errors(item))</article>"
    }

    private func capitalized(_ text: String) -> String { text.prefix(1).uppercased() + text.dropFirst() }

    private func table(_ item: Results.CaseResult) -> String {
        let yardstick = item.yardstick
        let heads = [
            "\(item.operations)/s", "rate ratio", "CPU/op", "CPU ratio", "p50", "p99", "p99.9", "switches/op",
            "calls/op",
            "heap/op",
        ]
        let rows = zip(item.rows, Contestant.all(of: item.rows)).map { row, contestant -> String in
            let name = "<th scope=\"row\" class=\"\(contestant.style)\"><i class=\"dot\"></i>\(escaped(row.title))</th>"
            guard let summary = row.summary else {
                return "<tr>\(name)<td colspan=\"\(heads.count)\" class=\"failed\">failed in every round</td></tr>"
            }
            let comparison = yardstick.map { Comparison(row, to: $0) }
            let isOne = row.id == yardstick?.id
            let cells = [
                Table.rate(summary.rate.median), isOne ? "1" : Table.ratio(comparison?.rate),
                Table.duration(summary.cpuPerOperation.median), isOne ? "1" : Table.ratio(comparison?.cpu),
                Table.duration(summary.p50?.median), Table.duration(summary.p99?.median),
                Table.duration(summary.p999?.median), Table.count(summary.switchesPerOperation.median),
                Table.count(summary.callsPerOperation?.median), Table.count(summary.allocationsPerOperation?.median),
            ]
            return "<tr\(row.role == .subject ? " class=\"ours\"" : "")>\(name)"
                + cells.map { "<td>\(escaped($0))</td>" }.joined() + "</tr>"
        }
        return
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Figures, \(escaped(item.title))\"><table><thead><tr><th scope=\"col\"></th>"
            + heads.map { "<th scope=\"col\">\(escaped($0))</th>" }.joined()
            + "</tr></thead><tbody>\(rows.joined())</tbody></table></div>"
    }

    private func targets(_ item: Results.CaseResult) -> String {
        let lines = item.rows.flatMap { row in
            row.targets.compactMap { target -> String? in
                guard let measured = target.measured else {
                    return target.isBounded
                        ? "<li class=\"open\"><b>–</b> \(escaped(row.title)): \(escaped(target.title(in: item))) "
                            + "\(escaped(target.bound)): not measured</li>" : nil
                }
                let figure =
                    "\(escaped(row.title)): \(escaped(target.title(in: item))) "
                    + "<b>\(escaped(target.figure.text(measured)))</b>"
                guard let reached = target.reached else { return "<li class=\"open\"><b>·</b> \(figure)</li>" }
                return "<li class=\"\(reached ? "good" : "bad")\"><b>\(reached ? "✓" : "✗")</b> \(figure), to reach "
                    + "\(escaped(target.bound)): \(reached ? "reached" : "not reached")</li>"
            }
        }
        return lines.isEmpty ? "" : "<ul class=\"targets\">\(lines.joined())</ul>"
    }

    private func errors(_ item: Results.CaseResult) -> String {
        let lines = item.rows.flatMap { row in
            row.errors.map { "<li>\(escaped(row.title)) failed: \(escaped($0))</li>" }
        }
        return lines.isEmpty ? "" : "<ul class=\"errors\">\(lines.joined())</ul>"
    }

    // MARK: What the columns mean

    private static let columns = """
        <section id="columns"><h2>What the columns mean</h2><dl class="columns">
        <dt>…/s</dt><dd>operations completed in each second of the measured window</dd>
        <dt>p50, p99, p99.9</dt><dd>latency of single operations: half, 99 %, 99.9 % of them took no longer</dd>
        <dt>CPU/op</dt><dd>user and system time of the measured process (the server, where there is one), of all its \
        threads, divided by the operations</dd>
        <dt>switches/op</dt><dd>context switches of the same process, voluntary and not</dd>
        <dt>calls/op</dt><dd>system calls by the program’s own count, where it can know them</dd>
        <dt>heap/op</dt><dd>heap allocations: malloc and its relatives, whoever calls them, counted in the process</dd>
        <dt>CPU ratio, rate ratio</dt><dd>the row’s figure by that of the row marked 1, taken within a round: median \
        (least–greatest of the rounds)</dd>
        </dl><p>Every row is a process of its own. Rounds are interleaved, each beginning with another row. On a busy \
        machine look at the ratios, not at the rates.</p></section>
        """
}
