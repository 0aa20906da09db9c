import ArgumentParser
import CBaselines

/// A row without a load generator in a process of its own: prints its measurement.
struct WorkCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "_work", shouldDisplay: false)

    @Option(name: .customLong("case"))
    var caseID: String

    @Option
    var row: String

    @Option
    var seconds: Double

    @Option
    var events: Int

    @Option
    var file: String

    @Option
    var fileBytes: UInt64

    @Option
    var copy: String

    func run() throws {
        let body = Suite.allCases.first { $0.id == caseID }?.rows.first { $0.id == row }?.body
        guard case .work(let work)? = body else {
            throw ValidationError("Nothing to do is called \(row) of \(caseID).")
        }
        let settings = WorkSettings(seconds: seconds, events: events, file: file, fileBytes: fileBytes, copy: copy)
        bench_watchdog(seconds + 50)
        try answer(work(settings))
    }
}
