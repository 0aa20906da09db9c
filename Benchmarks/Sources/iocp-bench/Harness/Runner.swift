import CBaselines
import Glibc

/// What holds for a whole run. Also a part of the results.
struct RunSettings: Codable, Sendable {
    var rounds: Int
    /// nil: each suite's own.
    var seconds: Double?
    var warmUp: Double
    var fileBytes: UInt64
    var directory: String
    var quick: Bool

    /// Events of a row in a round, where events are counted: a thousand in all.
    var events: Int { quick ? 15 : max(100, (1000 + rounds - 1) / rounds) }
}

/// Runs cases in interleaved rounds.
struct Runner {
    var settings: RunSettings
    var suites: [Suite]
    var peers: [PeerState] = []

    private var file: String { settings.directory + "/iocp-bench-\(getpid()).data" }
    private var copy: String { settings.directory + "/iocp-bench-\(getpid()).copy" }

    func run() throws -> Results {
        var results = Results(settings: settings, suites: suites, peers: peers)
        var progress = Progress(
            steps: suites.flatMap(\.cases).map { rounds(of: $0) * $0.rows.count }.reduce(0, +))
        let readers = [Suite.file, Suite.scale, Suite.faces, Suite.ways].map(\.name)
        let needsFile = suites.contains { readers.contains($0.name) }
        defer {
            for path in needsFile ? [file, copy] : [] {
                _ = unsafe unlink(path)
            }
        }
        if needsFile {
            progress.note("creating a file of \(settings.fileBytes >> 20) MiB in \(settings.directory)")
            try createDirectory(settings.directory)
            try unsafe check(bench_file_create(file, settings.fileBytes), "creating \(file)")
        }
        for (suiteIndex, suite) in suites.enumerated() {
            for round in 0..<settings.rounds {
                for (caseIndex, item) in suite.cases.enumerated() where round < rounds(of: item) {
                    // Another row begins each round, so that none always follows the same neighbour.
                    for turn in item.rows.indices {
                        let rowIndex = (turn + round) % item.rows.count
                        let row = item.rows[rowIndex]
                        progress.begin("\(suite.name): \(item.title): \(row.title), round \(round + 1)")
                        let seconds = settings.seconds ?? item.seconds ?? suite.seconds
                        let outcome = Result { try measure(item, row, seconds: seconds) }
                        progress.end(outcome, of: item)
                        results.suites[suiteIndex].cases[caseIndex].rows[rowIndex].add(outcome)
                    }
                }
            }
        }
        progress.finish()
        results.summarise()
        return results
    }

    private func rounds(of item: Case) -> Int { min(settings.rounds, item.roundsAtMost ?? .max) }

    /// One round of one row.
    func measure(_ item: Case, _ row: Row, seconds: Double) throws -> Measurement {
        switch row.body {
        case .work:
            try measureWork(item, row, seconds: seconds)
        case .server(_, let isPinned, _):
            try measureServer(item, row, isPinned: isPinned, traffic: item.traffic!, seconds: seconds)
        case .program(let program):
            try measureServer(
                item, row, isPinned: true, program: try PeerPrograms().path(program), traffic: item.traffic!,
                seconds: seconds)
        }
    }

    private func measureWork(_ item: Case, _ row: Row, seconds: Double) throws -> Measurement {
        let child = try ChildProcess([
            "_work", "--case", item.id, "--row", row.id, "--seconds", "\(seconds)",
            "--events", "\(settings.events)", "--file", file, "--file-bytes", "\(settings.fileBytes)", "--copy", copy,
        ])
        let measurement = try child.receive(Measurement.self, within: seconds + 120)
        try child.finish()
        // Before the kernel writes it back: the disk's work must not fall into the next row.
        _ = unsafe unlink(copy)
        return measurement
    }

    private func measureServer(
        _ item: Case, _ row: Row, isPinned: Bool, program: String? = nil, traffic: Traffic, seconds: Double
    ) throws -> Measurement {
        let processors = Machine.allowedProcessors
        let pinned = isPinned && processors.count >= 2
        // Four messages in a buffer, or what is under way, whichever is more; within reason at both ends.
        let bufferBytes = min(max(512, 4 * traffic.bytes, traffic.bytes * traffic.depth), 65536)

        let server = try ChildProcess(
            (program == nil ? ["_server", "--case", item.id, "--kind", row.id] : [])
                + ["--connections", "\(traffic.connections + traffic.idle + 8)", "--buffer-bytes", "\(bufferBytes)"]
                + (pinned ? ["--processor", "\(processors.first!)"] : []),
            program: program)
        let port = try server.receive(ServerPort.self, within: 10).port

        let load = try ChildProcess(
            [
                "_load", "--port", "\(port)", "--connections", "\(traffic.connections)", "--bytes", "\(traffic.bytes)",
                "--depth", "\(traffic.depth)", "--seconds", "\(seconds)", "--warm-up", "\(settings.warmUp)",
                "--idle", "\(traffic.idle)",
            ] + (pinned ? ["--processor", "\(processors.last!)"] : []))
        var idle: [String: UInt64] = [:]
        if traffic.idle > 0 {
            idle = try waitForIdle(traffic.idle, at: server, from: load)
            try load.send("go")
        }
        _ = try load.receive(LoadStarted.self, within: settings.warmUp + 30)
        try server.send("mark")
        let before = try server.receive(ServerSnapshot.self, within: 5)
        let result = try load.receive(LoadResult.self, within: seconds + 30)
        try server.send("mark")
        let after = try server.receive(ServerSnapshot.self, within: 5)
        try load.finish()
        try server.finish()

        guard result.messages > 0, after.bytes > before.bytes else { throw Failure("no message came back") }
        // The server's cost is divided by what the server did between the same two looks at it; the few messages by
        // which that differs from the load's own window then cancel out.
        let served = Double(after.bytes - before.bytes) / Double(traffic.bytes)
        let scale = Double(result.messages) / served
        func scaled(_ key: KeyPath<ServerSnapshot, UInt64>) -> UInt64 {
            UInt64((Double(after[keyPath: key] - before[keyPath: key]) * scale).rounded())
        }
        let allocations = after.allocations.flatMap { after in
            before.allocations.map { UInt64((Double(after - $0) * scale).rounded()) }
        }
        return Measurement(
            operations: result.messages,
            seconds: result.seconds,
            cpuNanoseconds: scaled(\.cpuNanoseconds),
            voluntarySwitches: scaled(\.voluntarySwitches),
            involuntarySwitches: scaled(\.involuntarySwitches),
            systemCalls: after.systemCalls == 0 ? nil : scaled(\.systemCalls),
            allocations: allocations,
            latency: result.latency,
            loadNanoseconds: result.cpuNanoseconds,
            counts: after.counts.isEmpty && idle.isEmpty
                ? nil : after.counts.merging(before.counts) { $0 > $1 ? $0 - $1 : 0 }.merging(idle) { $1 }
        )
    }

    /// Waits until the server has accepted the idle connections, and returns what they added to its memory.
    private func waitForIdle(_ count: Int, at server: ChildProcess, from load: ChildProcess) throws -> [String: UInt64]
    {
        // It has come to its first wait: what it needs whatever connects is there.
        bench_sleep(50_000_000)
        let before = try server.memory
        let kernelBefore = try check(bench_kernel_memory(), "looking at the kernel's memory")
        try load.send("go")
        _ = try load.receive(LoadIdle.self, within: 60)
        let deadline = bench_now() + 30_000_000_000
        while true {
            try server.send("mark")
            guard try server.receive(ServerSnapshot.self, within: 5).accepts < count else { break }
            guard bench_now() < deadline else { throw Failure("the server did not accept \(count) idle connections") }
            bench_sleep(5_000_000)
        }
        // The last ones' receives are under way.
        bench_sleep(50_000_000)
        let counts: [Measurement.Count: Int64] = [
            .idleConnections: Int64(count),
            .memoryBytes: try server.memory - before,
            .kernelBytes: try check(bench_kernel_memory(), "looking at the kernel's memory") - kernelBefore,
        ]
        return Dictionary(uniqueKeysWithValues: counts.map { ($0.rawValue, UInt64(max(0, $1))) })
    }
}
