import CBaselines

extension Suite {
    /// TCP echo on loopback, closed loop.
    static let echo = Suite(
        name: "echo",
        summary: "TCP echo under load: 64 B and 4 KiB messages over 1, 64 and 1000 connections, and 16 under way",
        seconds: 0.4,
        cases: [
            echo(64, connections: 1),
            echo(64, connections: 64),
            echo(64, connections: 1000),
            echo(64, connections: 64, depth: 16),
            echo(4096, connections: 1, runsUnasked: false),
            echo(4096, connections: 64),
            echo(4096, connections: 1000, runsUnasked: false),
        ]
    )

    private static func echo(
        _ bytes: Int, connections: Int, depth: Int = 1, runsUnasked: Bool = true
    ) -> Case {
        let size = bytes < 1024 ? "\(bytes) B" : "\(bytes / 1024) KiB"
        var targets: [Target] = []
        if bytes == 64, depth == 1 {
            targets =
                connections == 1
                ? [.of(.medianRatio, atMost: 1.03)]
                : [
                    .of(.cpuRatio, atMost: 1.05),
                    .of(.cpuRatio, to: "nio", atMost: 0.55), .of(.rateRatio, to: "nio", atLeast: 1.7),
                ]
            targets += ["asio-epoll", "asio-uring", "libuv"].map { .of(.cpuRatio, to: $0, atMost: 1) }
        }
        return Case(
            id: "echo/\(size.filter { $0 != " " })-c\(connections)\(depth > 1 ? "-d\(depth)" : "")",
            title: "\(size), \(connections) connection\(connections == 1 ? "" : "s")"
                + (depth > 1 ? ", \(depth) under way on each" : ""),
            operations: "messages",
            traffic: Traffic(connections: connections, bytes: bytes, depth: depth),
            runsUnasked: runsUnasked,
            series: depth > 1 ? nil : Case.Series(name: size, variable: "connections", value: Double(connections)),
            rows: EchoRows.all(targets)
        )
    }

}

/// The ways to serve echo with one worker on the first processor, which several suites measure.
enum EchoRows {
    static func all(_ targets: [Target]) -> [Row] {
        [
            Row(
                id: "iocp", title: "this library", role: .subject, targets: targets,
                body: .server(workers: 1, isPinned: true) { try LibraryEcho.serve($0) }),
            Row(
                id: "iocp-one", title: "the same, made for one worker", role: .subject, targets: targets,
                body: .server(workers: 1, isPinned: true) { try LibraryEcho.serve($0, .init(isForOneWorker: true)) }),
            Row(
                id: "iocp-steps", title: "the same without transactions", role: .subject,
                body: .server(workers: 1, isPinned: true) { try LibraryEcho.serve($0, .init(transacts: false)) }),
            Row(
                id: "raw-uring", title: "raw liburing (C)", role: .reference,
                body: .server(workers: 1, isPinned: true) { try serveRaw($0) }),
            Row(
                id: "epoll", title: "epoll (C)", role: .baseline,
                body: .server(workers: 1, isPinned: true) { context in
                    try unsafe serve(context, bench_echo_epoll)
                }),
            Row(
                id: "nio", title: "SwiftNIO", role: .baseline, peer: .nio,
                body: .program("nio/release/echo-nio")),
            Row(
                id: "asio-epoll", title: "asio, epoll (C++)", role: .baseline, peer: .asio,
                body: .program("echo-asio-epoll")),
            Row(
                id: "asio-uring", title: "asio, io_uring (C++)", role: .baseline, peer: .asio,
                body: .program("echo-asio-uring")),
            Row(
                id: "libuv", title: "libuv (C)", role: .baseline, peer: .libuv,
                body: .program("echo-libuv")),
        ]
    }

    static func serveRaw(_ context: EchoServerContext) throws {
        try unsafe serve(context, bench_echo_uring)
    }

    private static func serve(
        _ context: EchoServerContext,
        _ server: (UnsafePointer<bench_echo_config>, UnsafeMutablePointer<bench_counters>) -> Int32
    ) throws {
        var config = bench_echo_config(
            listener: context.listener,
            stop: context.stopEvent,
            max_connections: UInt32(context.connections),
            buffer_bytes: UInt32(context.bufferBytes)
        )
        try unsafe check(server(&config, context.counters[0].storage), "serving")
    }
}
