import IOCP

extension Suite {
    /// What each of io_uring's faster ways saves or costs, as the library offers them: ratios to a plain port.
    static let ways = Suite(
        name: "ways",
        summary: "the port's options and operations for io_uring's faster ways, each against a plain port",
        seconds: 0.6,
        cases: [
            echo(64, connections: 1), echo(64, connections: 64), echo(64, connections: 1000),
            echo(65536, connections: 16), twoWorkers,
            reads(direct: false), reads(direct: true),
        ],
        runsUnasked: false
    )

    private static func echo(_ bytes: Int, connections: Int) -> Case {
        var rows = [
            row("plain", "a plain port", LibraryWays.Way(), role: .reference),
            row("files", "registered files", options { $0.registeredFiles = 2048 }),
            row("consumer", "a single consumer", options { $0.singleConsumer = true }),
            row(
                "consumer-files", "a single consumer, registered files",
                options {
                    $0.singleConsumer = true
                    $0.registeredFiles = 2048
                }),
            row("continuous", "continuous receives", LibraryWays.Way(isContinuous: true)),
            row("transactions", "transactions", LibraryWays.Way(transacts: true)),
            row(
                "consumer-transactions", "transactions, a single consumer",
                options(transacts: true) { $0.singleConsumer = true }),
            row("polling", "submission polling, unpinned", options { $0.submissionPolling = .seconds(1) }),
        ]
        if bytes > 4096 {
            rows.append(row("zero-copy", "zero-copy sends", LibraryWays.Way(isZeroCopy: true)))
        }
        return Case(
            id: "ways/\(bytes)B-c\(connections)",
            title: "echo of \(bytes) B, \(connections) connection\(connections == 1 ? "" : "s")",
            operations: "messages", traffic: Traffic(connections: connections, bytes: bytes, depth: 1), rows: rows)
    }

    private static let twoWorkers = Case(
        id: "ways/two-workers",
        title: "echo of 64 B, 64 connections, two workers", operations: "messages",
        traffic: Traffic(connections: 64, bytes: 64, depth: 1),
        rows: [
            Row(
                id: "plain", title: "one port, limit 2", role: .reference,
                body: .server(workers: 2) { try LibraryWays.serve($0, LibraryWays.Way()) }),
            Row(
                id: "ports", title: "two ports on one address", role: .subject,
                body: .server(workers: 2) { try LibraryWays.serve($0, LibraryWays.Way(), sharesAddress: true) }),
            Row(
                id: "consumer-ports", title: "two ports, each with a single consumer", role: .subject,
                body: .server(workers: 2) {
                    try LibraryWays.serve($0, options { $0.singleConsumer = true }, sharesAddress: true)
                }),
        ])

    private static func options(
        transacts: Bool = false, _ change: (inout CompletionPort.Options) -> Void
    ) -> LibraryWays.Way {
        var way = LibraryWays.Way(transacts: transacts)
        change(&way.options)
        return way
    }

    private static func row(_ id: String, _ title: String, _ way: LibraryWays.Way, role: Row.Role = .subject) -> Row {
        // A polling thread shares the processors of the thread that made it.
        let isPinned = way.options.submissionPolling == nil
        return Row(
            id: id, title: title, role: role,
            body: .server(workers: 1, isPinned: isPinned) { try LibraryWays.serve($0, way) })
    }

    private static func reads(direct: Bool) -> Case {
        func row(_ id: String, _ title: String, _ way: LibraryWays.ReadWay, _ role: Row.Role = .subject) -> Row {
            Row(
                id: id, title: title, role: role,
                body: .work { try LibraryWays.read($0, depth: 32, direct: direct, way) })
        }
        return Case(
            id: direct ? "ways/direct-d32" : "ways/cached-d32",
            title: "random 4 KiB reads, \(direct ? "O_DIRECT" : "page cache"), depth 32", operations: "reads",
            rows: [
                row("plain", "a plain port", .plain, .reference),
                row("buffers", "registered buffers", .registeredBuffers),
                row("files", "registered file", .registeredFile),
                row("both", "both", .both),
            ])
    }
}
