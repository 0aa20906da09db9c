import ArgumentParser
import FoundationEssentials

/// Makes the report of results that are there.
struct ReportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "report",
        abstract: "Makes the HTML report of one or more result files, without measuring anything.",
        discussion: "Of a suite that several files have, the case of the last file counts."
    )

    @Argument(help: ArgumentHelp("Results, as --json writes them.", valueName: "results.json"))
    var results: [String]

    @Option(help: ArgumentHelp("Where the report goes.", valueName: "file.html"))
    var output = ".build/iocp-bench-report.html"

    func run() throws {
        guard !results.isEmpty else { throw ValidationError("Name at least one file of results.") }
        try Page(Results.merged(results.map(Results.init(from:)))).write(to: output)
        print("Report: \(output)")
    }
}

extension Page {
    func write(to path: String) throws {
        let url = URL(filePath: path)
        try createDirectory(url.deletingLastPathComponent().path())
        try Data(html.utf8).write(to: url)
    }
}

extension Results {
    init(from path: String) throws {
        let data: Data
        do {
            data = try Data(contentsOf: URL(filePath: path))
        } catch {
            throw Failure("\(path) cannot be read")
        }
        struct Schema: Decodable {
            var schema: String
        }
        let schema = try? JSONDecoder().decode(Schema.self, from: data).schema
        guard schema == Self.currentSchema else {
            throw Failure(
                "\(path) is not of the schema \(Self.currentSchema)" + (schema.map { ", but of \($0)" } ?? ""))
        }
        self = try JSONDecoder().decode(Results.self, from: data)
        // As the rounds say, not as an older version summed them up.
        summarise()
    }

    /// Without the cases that a later one has, too.
    static func merged(_ runs: [Results]) -> [Results] {
        var seen: Set<String> = []
        let latest = runs.reversed().map { run in
            var run = run
            for suite in run.suites.indices {
                run.suites[suite].cases.removeAll { seen.contains($0.id) }
            }
            run.suites.removeAll(where: \.cases.isEmpty)
            seen.formUnion(run.suites.flatMap(\.cases).map(\.id))
            return run
        }
        return latest.reversed().filter { !$0.suites.isEmpty }
    }
}
