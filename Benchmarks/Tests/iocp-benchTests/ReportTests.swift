import FoundationEssentials
import Histogram
import Testing

@testable import iocp_bench

@Suite("The report")
struct ReportTests {
    @Test("CPU time in words, of one case or of several")
    func words() {
        #expect(Comparison.words([1.0]) == "the same")
        #expect(Comparison.words([1.002, 0.998]) == "the same")
        #expect(Comparison.words([0.53]) == "47 % less")
        #expect(Comparison.words([0.53, 0.6]) == "40–47 % less")
        #expect(Comparison.words([1.02, 1.05]) == "2–5 % more")
        #expect(Comparison.words([0.97, 1.02]) == "3 % less to 2 % more")
        #expect(Comparison.words([1.0, 1.02]) == "0–2 % more")
        #expect(Comparison.words([]) == "not measured")
    }

    @Test("a headline names the reference first, and counts targets that were measured only")
    func headline() {
        var results = sample()
        results.summarise()
        let headline = Headline(results.suites[0])
        #expect(headline.others.map(\.id) == ["raw-uring", "epoll"])
        #expect(headline.sentence == "CPU time for each message: 20 % more than raw-uring; 40 % less than epoll.")
        let verdicts = Headline.Verdicts(results.suites[0].cases)
        #expect(verdicts.reached == 1 && verdicts.missed.count == 1)
    }

    @Test("a page holds every case, closes what it opens, and refers to nothing outside")
    func page() throws {
        var results = sample()
        results.summarise()
        let html = Page([results]).html
        for text in [
            "echo/64B-c1", "64 B, 1 connection", "&lt;b&gt;&amp;&quot;", "<path class=\"line\"",
            "failed: no &lt;luck&gt;",
        ] {
            #expect(html.contains(text), "\(text)")
        }
        for tag in ["section", "article", "table", "tr", "ul", "li", "figure", "svg", "div", "dl", "p"] {
            #expect(
                html.split(separator: "<\(tag)>").count + html.split(separator: "<\(tag) ").count - 2
                    == html.split(separator: "</\(tag)>").count - 1, "\(tag)")
        }
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            #expect(!html.contains(outside), "\(outside)")
        }
    }

    @Test("results survive their file; of two runs the later one's cases count")
    func files() throws {
        let path = FileManager.default.temporaryDirectory.appending(
            path: "iocp-bench-test-\(ProcessInfo.processInfo.processIdentifier).json"
        ).path()
        defer { try? FileManager.default.removeItem(atPath: path) }
        var results = sample()
        results.summarise()
        try results.write(to: path)
        let read = try Results(from: path)
        #expect(read.suites[0].cases[0].rows[0].summary?.cpuRatio?.median == 1.2)
        #expect(read.suites[0].cases[0].rows[2].rounds[1] == nil)
        var other = sample()
        other.date = "2001-01-01T00:00:00Z"
        let merged = Results.merged([read, other])
        #expect(merged.map(\.date) == ["2001-01-01T00:00:00Z"])
        try Data(#"{"schema":"swift-iocp-bench/0"}"#.utf8).write(to: URL(filePath: path))
        #expect(throws: Failure.self) { try Results(from: path) }
    }

    @Test("a latency curve ends where too few events were seen")
    func curve() {
        var histogram = Latency.emptyHistogram()
        for value in 1...1000 { histogram.record(UInt64(value)) }
        let points = LatencyChart.points([Latency(histogram)])
        #expect(points.allSatisfy { $0.oneIn <= 1000 })
        #expect(points.contains { $0.oneIn == 2 && abs($0.nanoseconds - 500) <= 1 })
        #expect(points.map(\.nanoseconds) == points.map(\.nanoseconds).sorted())
    }

    @Test("axes mark round values inside their range")
    func axes() {
        for (kind, range) in [
            (Axis.Kind.linear, 0...7.3), (.linear, 0...1e6), (.logarithmic, 900...1500), (.logarithmic, 1e3...1e8),
        ] {
            let axis = Axis(kind: kind, values: range, from: 0, to: 100)
            #expect((2...8).contains(axis.ticks.count), "\(axis.ticks)")
            #expect(axis.ticks.allSatisfy { range.contains($0) })
            #expect(axis.position(range.lowerBound) == 0 && axis.position(range.upperBound) == 100)
        }
    }

    private func sample() -> Results {
        var histogram = Latency.emptyHistogram()
        for value in 1...1000 { histogram.record(UInt64(1000 + value)) }
        let latency = Latency(histogram)
        var results = Results(
            settings: RunSettings(rounds: 2, warmUp: 0, fileBytes: 0, directory: "", quick: false), suites: [],
            peers: [])
        var subject = row(
            "iocp", .subject, [measurement(cpu: 12, latency: latency), measurement(cpu: 12, latency: latency)])
        subject.title = "this library <b>&\""
        subject.targets = [
            .of(.cpuRatio, atMost: 1.25), .of(.cpuRatio, atMost: 1.05), .of(.cpuRatio, to: "nio", atMost: 0.5),
        ]
        var failing = row("epoll", .baseline, [measurement(cpu: 20), nil])
        failing.errors = ["no <luck>"]
        var item = Results.CaseResult(
            id: "echo/64B-c1", title: "64 B, 1 connection", operations: "messages", reference: "raw-uring",
            rows: [subject, row("raw-uring", .reference, [measurement(cpu: 10), measurement(cpu: 10)]), failing])
        item.series = Case.Series(name: "64 B", variable: "connections", value: 1)
        var second = item
        second.id = "echo/64B-c64"
        second.title = "64 B, 64 connections"
        second.series?.value = 64
        second.rows[0].targets = []
        results.suites = [.init(name: "echo", summary: "echo", cases: [item, second])]
        return results
    }
}
