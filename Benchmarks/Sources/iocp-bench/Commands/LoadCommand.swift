import ArgumentParser
import CBaselines

/// The load generator in a process of its own: closed loop, every echoed byte compared. Prints a line when its window
/// begins and its result when it has ended; closes its connections when a line comes on standard input, or its end.
struct LoadCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "_load", shouldDisplay: false)

    @Option(help: "The server's port on 127.0.0.1.")
    var port: UInt16

    @Option(help: "Connections.")
    var connections = 64

    @Option(help: "Bytes of one message.")
    var bytes = 64

    @Option(help: "Length of the measured window.")
    var seconds = 1.0

    @Option(help: "Seconds of load before the window.")
    var warmUp = 0.15

    @Option(help: "Messages under way on each connection.")
    var depth = 1

    @Option(
        help:
            "Connections beside these that send nothing; a line on standard input opens them, another one begins the rest."
    )
    var idle = 0

    @Option(help: "The only processor to use.")
    var processor: Int32?

    func validate() throws {
        guard (1...65535).contains(connections), (8...1_048_576).contains(bytes), (1...1024).contains(depth),
            (0...1_000_000).contains(idle), (0...3600).contains(seconds), (0...60).contains(warmUp)
        else { throw ValidationError("A value is out of range.") }
    }

    func run() throws {
        let signals = try check(bench_signals_open(), "opening a signalfd")
        bench_raise_descriptor_limit()
        if let processor {
            try check(bench_pin(processor), "binding to processor \(processor)")
        }
        if idle > 0 {
            guard bench_control_next(signals) == BENCH_CONTROL_MARK else { return }
            for number in 0..<idle {
                try check(bench_connect_from(port, UInt32(number)), "opening idle connection \(number)")
            }
            try answer(LoadIdle(idle: idle))
            guard bench_control_next(signals) == BENCH_CONTROL_MARK else { return }
        }
        let load = try EchoLoad(
            port: port, traffic: Traffic(connections: connections, bytes: bytes, depth: depth))
        let result = try load.run(warmUp: warmUp, seconds: seconds) { try answer(LoadStarted()) }
        try answer(result)
        // The server's last look at its counters comes before the cost of closing.
        _ = bench_control_next(signals)
    }
}

/// The load generator's first line where there are idle connections: they are open.
struct LoadIdle: Codable {
    var idle: Int
}

/// The load generator's first line, else: its window has begun.
struct LoadStarted: Codable {
    var measuring = true
}

/// Its second line.
struct LoadResult: Codable {
    /// Messages whose last byte came back inside the window.
    var messages: UInt64
    var seconds: Double
    var cpuNanoseconds: UInt64
    var latency: Latency?
}
