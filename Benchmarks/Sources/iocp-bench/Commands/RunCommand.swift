import ArgumentParser
import CBaselines
import FoundationEssentials

/// What a user runs.
struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "iocp-bench",
        abstract: "Measures the completion port beside raw liburing, epoll and plain system calls.",
        discussion: """
            Every row does the same work in a process of its own; rounds of all rows are interleaved, the table shows \
            medians and the ratio to the reference row with the least and the greatest of the rounds. Without \
            arguments all suites run that are not marked as longer, in about a minute.

            iocp-bench report RESULTS.json… makes the report of results that are there. iocp-bench guard checks \
            counts that must not grow. Both explain themselves with --help.
            """
    )

    @Argument(
        help: ArgumentHelp(
            "Suites or cases, as --list names them (default: those that are not longer).", valueName: "suite"))
    var suites: [String] = []

    @Option(help: ArgumentHelp("Where the results go, as JSON.", valueName: "file"))
    var json = ".build/iocp-bench-results.json"

    @Option(
        help: ArgumentHelp("Where a report goes, as one page of HTML with plots (default: none).", valueName: "file"))
    var report: String?

    @Option(help: ArgumentHelp("Interleaved rounds.", valueName: "count"))
    var rounds: Int?

    @Option(help: ArgumentHelp("Measured seconds of a row in a round (default: the suite's).", valueName: "seconds"))
    var seconds: Double?

    @Option(
        help: ArgumentHelp("Only this row, by its id; may be repeated. The reference always runs.", valueName: "id"))
    var row: [String] = []

    @Option(help: ArgumentHelp("Where the file for the file suite is created, and removed.", valueName: "directory"))
    var directory = ".build"

    @Option(help: ArgumentHelp("Size of that file.", valueName: "MiB"))
    var fileSize: Int?

    @Option(
        help: ArgumentHelp(
            """
            Libraries of others to run beside: \(Peer.allCases.map(\.rawValue).joined(separator: ",")), all or none. \
            Those that are named are built, and must be there (default: those that are there; SwiftNIO's row is built \
            only when it is named, or with all).
            """, valueName: "list"))
    var peers: PeerSelection = .present

    @Flag(help: "One very short round: proves that everything works, measures nothing well.")
    var quick = false

    @Flag(help: "Lists suites, cases and rows.")
    var list = false

    func validate() throws {
        guard (1...1000).contains(rounds ?? 1) else { throw ValidationError("--rounds takes 1 to 1000.") }
        guard (0.01...600).contains(seconds ?? 1) else { throw ValidationError("--seconds takes 0.01 to 600.") }
        guard (1...1 << 20).contains(fileSize ?? 1) else { throw ValidationError("--file-size takes 1 to 1048576.") }
        for name in suites where selection(named: name).isEmpty {
            throw ValidationError("No suite or case is called \(name). --list shows them.")
        }
        let known = Set(Suite.allCases.flatMap(\.rows).map(\.id))
        for id in row where !known.contains(id) {
            throw ValidationError("No row is called \(id). --list shows them.")
        }
    }

    func run() throws {
        if list {
            printList()
            return
        }
        let settings = RunSettings(
            rounds: rounds ?? (quick ? 1 : 3),
            seconds: seconds ?? (quick ? 0.1 : nil),
            warmUp: quick ? 0.05 : 0.15,
            fileBytes: UInt64(fileSize ?? fittingFileSize) << 20,
            directory: directory,
            quick: quick
        )
        bench_raise_descriptor_limit()
        var suites = selected
        let used = Set(suites.flatMap(\.cases).flatMap(\.rows).compactMap(\.peer))
        let states = peers.peers.filter(used.contains).map { PeerState($0, isAsked: peers.asks(for: $0)) }
        let present = Set(states.filter { $0.missing == nil }.map(\.peer))
        for suite in suites.indices {
            for item in suites[suite].cases.indices {
                suites[suite].cases[item].rows.removeAll { $0.peer.map { !present.contains($0) } ?? false }
            }
        }
        let results = try Runner(settings: settings, suites: suites, peers: states).run()
        print(Table(results).text)
        let targets = TargetTable(results).text
        if !targets.isEmpty {
            print("\n\(targets)")
        }
        try results.write(to: json)
        print("\nResults: \(json)")
        if let report {
            try Page([results]).write(to: report)
            print("Report: \(report)")
        }
        if results.failures > 0 || states.contains(where: { $0.missing != nil && peers.demands($0.peer) }) {
            throw ExitCode.failure
        }
    }

    /// 1 GiB where files are what the user asks for, as far as the disk holds it and its copy.
    private var fittingFileSize: Int {
        if quick { return 32 }
        guard suites.contains(where: { $0.hasPrefix(Suite.file.name) }) else { return 256 }
        let free = unsafe bench_free_bytes(directory)
        return free < 0 ? 256 : max(32, min(1024, Int(free >> 20) / 4))
    }

    /// The suites with only the chosen cases and rows.
    private var selected: [Suite] {
        let wanted =
            suites.isEmpty
            ? Suite.all.filter(\.runsUnasked).flatMap(\.cases).filter(\.runsUnasked).map(\.id)
            : suites.flatMap(selection(named:))
        return Suite.all.compactMap { suite in
            var suite = suite
            suite.cases = suite.cases.filter { wanted.contains($0.id) }.compactMap { item in
                guard !row.isEmpty else { return item }
                var item = item
                guard item.rows.contains(where: { row.contains($0.id) }) else { return nil }
                item.rows = item.rows.filter { row.contains($0.id) || $0.role == .reference }
                return item
            }
            return suite.cases.isEmpty ? nil : suite
        }
    }

    private func selection(named name: String) -> [String] {
        Suite.allCases.map(\.id).filter { $0 == name || $0.hasPrefix(name + "/") }
    }

    private func printList() {
        let states = Dictionary(uniqueKeysWithValues: Peer.allCases.map { ($0, PeerState($0, isAsked: false)) })
        for suite in Suite.all {
            print("\(suite.name): \(suite.summary)\(suite.runsUnasked ? "" : " (longer: runs when named)")")
            for item in suite.cases {
                let longer = suite.runsUnasked && !item.runsUnasked ? " (runs when named)" : ""
                print("  \(item.id): \(item.title)\(longer)")
                for row in item.rows {
                    let missing = row.peer.flatMap { states[$0]?.missing } != nil ? " (not here)" : ""
                    print("    \(row.id): \(row.title)\(row.role == .reference ? ", the reference" : "")\(missing)")
                }
            }
        }
        print("peers:")
        for peer in Peer.allCases {
            let state = states[peer]!
            print("  \(peer.rawValue): \(state.title)\(state.missing.map { ", not here; to have it: \($0)" } ?? "")")
        }
    }
}
