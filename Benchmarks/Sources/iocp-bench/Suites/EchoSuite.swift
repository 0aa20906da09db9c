import CBaselines

extension Suite {
    /// TCP echo on loopback, closed loop.
    static let echo = Suite(
        name: "echo",
        summary: "TCP echo server under load: 64 B messages over 1, 64 and 1000 connections",
        seconds: 0.6,
        cases: [1, 64, 1000].map { connections in
            Case(
                id: "echo/64B-c\(connections)",
                title: "64 B, \(connections) connection\(connections == 1 ? "" : "s")",
                operations: "messages",
                traffic: Traffic(connections: connections, bytes: 64, depth: 1),
                series: Case.Series(name: "64 B", variable: "connections", value: Double(connections)),
                rows: echoRows
            )
        }
    )

    private static let echoRows = [
        Row(
            id: "iocp", title: "this library, limit 1", role: .subject,
            body: .server(workers: 1, isPinned: true) { try LibraryEcho.serve($0) }),
        Row(
            id: "iocp-2", title: "this library, limit 2, unpinned", role: .subject,
            body: .server(workers: 2) { try LibraryEcho.serve($0) }),
        Row(
            id: "raw-uring", title: "raw liburing (C)", role: .reference,
            body: .server(workers: 1, isPinned: true) { context in
                try unsafe serve(context, bench_echo_uring)
            }),
        Row(
            id: "epoll", title: "epoll (C)", role: .baseline,
            body: .server(workers: 1, isPinned: true) { context in
                try unsafe serve(context, bench_echo_epoll)
            }),
    ]

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
