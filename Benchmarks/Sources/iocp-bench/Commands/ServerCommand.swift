import ArgumentParser
import CBaselines
import Glibc

/// A server row in a process of its own. Prints its port, then a snapshot for each line on standard input; ends on
/// SIGTERM or at the end of standard input, with a last snapshot.
struct ServerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "_server", shouldDisplay: false)

    @Option(help: "The row.")
    var kind: String

    @Option(name: .customLong("case"), help: "The case that the row is of.")
    var caseID: String?

    @Option(help: "The port on 127.0.0.1, 0 for a free one.")
    var port: UInt16 = 0

    @Option(help: "Connections at one time.")
    var connections = 1024

    @Option(help: "Bytes of one receive buffer.")
    var bufferBytes = 4096

    @Option(help: "The only processor to use.")
    var processor: Int32?

    func run() throws {
        let signals = try check(bench_signals_open(), "opening a signalfd")
        guard case .server(let workers, _, let serve)? = body else {
            throw ValidationError("No server is called \(kind).")
        }
        bench_raise_descriptor_limit()
        if let processor {
            try check(bench_pin(processor), "binding to processor \(processor)")
        }
        var bound: UInt16 = 0
        let listener = try unsafe check(bench_listen(port, &bound), "listening on port \(port)")
        let context = try EchoServerContext(
            listener: listener, connections: connections, bufferBytes: bufferBytes, workers: workers)
        try answer(ServerPort(port: bound))
        try WaitableThread {
            while bench_control_next(signals) == BENCH_CONTROL_MARK {
                try? answer(context.snapshot())
            }
            context.stop()
            // The process ends with `run()`. A server that does not come to its end must not go on beside later rows.
            sleep(5)
            _exit(70)
        }.detach()
        try serve(context)
        try answer(context.snapshot())
    }

    private var body: Row.Body? {
        let cases = Suite.allCases.filter { $0.traffic != nil && (caseID == nil || $0.id == caseID) }
        return cases.flatMap(\.rows).first { $0.id == kind }?.body
    }
}

/// A server's first line.
struct ServerPort: Codable {
    var port: UInt16
}
