import CBaselines
import IOCP

extension Suite {
    /// More workers, and more connections than are busy.
    static let scale = Suite(
        name: "scale",
        summary: "one and more workers on cached reads and echo; thousands of idle connections",
        seconds: 0.4,
        cases: [reads, echoOfMany, idleLibrary] + [1000, 10_000, 50_000].map(idle)
    )

    // MARK: Workers

    /// One and two, and as many as there are processors where those are more.
    private static let workers = Array(Set([1, 2, max(2, Machine.allowedProcessors.count)])).sorted()

    private static func title(_ workers: Int) -> String { "\(workers) worker\(workers == 1 ? "" : "s")" }

    private static let reads = Case(
        id: "scale/reads-d32",
        title: "random 4 KiB reads, page cache, depth 32 for each worker",
        operations: "reads",
        rows: workers.map { count in
            Row(
                id: "iocp-\(count)", title: "this library, \(title(count)), a handle each",
                role: count == 1 ? .reference : .subject,
                targets: count == 2 ? [.of(.rateRatio, atLeast: 1.8)] : [],
                body: .work { try LibraryFile.readByMany($0, depth: 32, workers: count, shares: false) })
        }
            + [
                Row(
                    id: "iocp-2-shared", title: "this library, 2 workers, one handle", role: .subject,
                    body: .work { try LibraryFile.readByMany($0, depth: 32, workers: 2, shares: true) })
            ]
            + workers.map { count in
                Row(
                    id: "raw-uring-\(count)", title: "raw liburing (C), \(title(count)), a ring each", role: .baseline,
                    targets: count == 2 ? [Target(figure: .rateRatio, against: "raw-uring-1")] : [],
                    body: .work { try FileRows.readByMany($0, depth: 32, workers: count) })
            }
    )

    private static let echoOfMany = Case(
        id: "scale/echo-64B-c64",
        title: "echo, 64 B, 64 connections; all processors for server and load",
        operations: "messages",
        traffic: Traffic(connections: 64, bytes: 64, depth: 1),
        runsUnasked: false,
        rows: workers.map { count in
            Row(
                id: "iocp-\(count)", title: "this library, \(title(count))", role: count == 1 ? .reference : .subject,
                body: .server(workers: count) { try LibraryEcho.serve($0) })
        } + [
            Row(
                id: "raw-uring", title: "raw liburing (C), 1 worker", role: .baseline,
                body: .server(workers: 1) { try EchoRows.serveRaw($0) })
        ]
    )

    // MARK: Idle connections

    private static let idleLibrary = Case(
        id: "scale/idle-library",
        title: "the library's own memory for a connection with a pending receive",
        operations: "connections",
        roundsAtMost: 1,
        rows: [
            Row(
                id: "iocp", title: "socket, association, operation", role: .subject,
                targets: [.of(.heapPerIdle, atMost: 256), .of(.memoryPerIdle, atMost: 256)],
                body: .work { try LibraryIdle.run($0, connections: min(10_000, (descriptors - 100) / 2)) })
        ]
    )

    /// What a process may have open, after it has raised its limit as far as it may.
    private static let descriptors = Int(bench_raise_descriptor_limit())

    private static func idle(_ wanted: Int) -> Case {
        let busy = 64
        // Each end is a process of its own, which needs some more.
        let count = min(wanted, descriptors - busy - 100)
        let bounded = count < wanted ? " of the \(wanted) asked for: RLIMIT_NOFILE is \(descriptors)" : ""
        return Case(
            id: "scale/idle-\(wanted)",
            title: "echo, 64 B, 64 busy connections among \(count) idle ones\(bounded)",
            operations: "messages",
            traffic: Traffic(connections: busy, bytes: 64, depth: 1, idle: count),
            roundsAtMost: 3,
            runsUnasked: false,
            series: Case.Series(
                name: "64 busy connections among idle ones", variable: "idle connections", value: Double(count)),
            rows: EchoRows.all([]).map { row in
                var row = row
                row.targets = [.of(.memoryPerIdle), .of(.kernelMemoryPerIdle)]
                return row
            }
        )
    }
}
