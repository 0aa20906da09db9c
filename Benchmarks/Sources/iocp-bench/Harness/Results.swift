import FoundationEssentials

/// The JSON file: everything a report needs. README.md documents the schema.
struct Results: Codable, Sendable {
    /// Raised when a field changes its meaning or goes away; new fields do not raise it.
    var schema = Self.currentSchema
    static let currentSchema = "swift-iocp-bench/1"
    var date = Date.now.ISO8601Format()
    var machine = Machine.current
    var settings: RunSettings
    /// The libraries of others that were asked for, and whether they were there.
    var peers: [PeerState]
    var suites: [SuiteResult]

    struct SuiteResult: Codable, Sendable {
        var name: String
        var summary: String
        var cases: [CaseResult]
    }

    struct CaseResult: Codable, Sendable {
        var id: String
        var title: String
        /// What operations are called.
        var operations: String
        var reference: String?
        /// For a curve over several cases.
        var series: Case.Series?
        var rows: [RowResult]
    }

    struct RowResult: Codable, Sendable {
        var id: String
        var title: String
        var role: Row.Role
        /// By round; null where the row failed.
        var rounds: [Measurement?] = []
        var summary: Summary?
        /// Of the rounds that failed.
        var errors: [String] = []
        /// Figures to reach.
        var targets: [Target] = []

        mutating func add(_ outcome: Result<Measurement, any Error>) {
            switch outcome {
            case .success(let measurement):
                rounds.append(measurement)
            case .failure(let error):
                rounds.append(nil)
                errors.append("\(error)")
            }
        }
    }

    init(settings: RunSettings, suites: [Suite], peers: [PeerState]) {
        self.settings = settings
        self.peers = peers
        self.suites = suites.map { suite in
            SuiteResult(
                name: suite.name, summary: suite.summary,
                cases: suite.cases.map { item in
                    CaseResult(
                        id: item.id, title: item.title, operations: item.operations, reference: item.reference?.id,
                        series: item.series,
                        rows: item.rows.map {
                            RowResult(id: $0.id, title: $0.title, role: $0.role, targets: $0.targets)
                        })
                })
        }
    }

    var failures: Int { suites.flatMap(\.cases).flatMap(\.rows).map(\.errors.count).reduce(0, +) }

    mutating func summarise() {
        for suite in suites.indices {
            for item in suites[suite].cases.indices {
                let rows = suites[suite].cases[item].rows
                let reference = rows.first { $0.role == .reference }?.rounds
                for row in rows.indices {
                    suites[suite].cases[item].rows[row].summary = Summary(rows[row].rounds, reference: reference)
                    for target in rows[row].targets.indices {
                        suites[suite].cases[item].rows[row].targets[target]
                            .evaluate(rows[row].rounds) { id in
                                id.map { id in rows.first { $0.id == id }?.rounds } ?? reference
                            }
                    }
                }
            }
        }
    }

    func write(to path: String) throws {
        let url = URL(filePath: path)
        try createDirectory(url.deletingLastPathComponent().path())
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        try encoder.encode(self).write(to: url)
    }
}
