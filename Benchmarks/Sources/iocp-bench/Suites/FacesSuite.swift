import IOCP

extension Suite {
    /// The same work through a face of the library and through the library itself.
    static let faces = Suite(
        name: "faces",
        summary: "the ways to use the port on the same echo; a host of the CLR hosting interfaces over the bare port",
        seconds: 0.6,
        cases: [
            echoFaces,
            hosting("faces/hosting-read-d32", "random 4 KiB reads, page cache, depth 32", "reads") {
                try HostingWork.reads($0, depth: 32)
            },
            hosting("faces/hosting-pairs-64", "a byte over each of 64 socket pairs, again and again", "completions") {
                _ in
                try HostingWork.pairs(64)
            },
        ],
        runsUnasked: false
    )

    private static let echoFaces = Case(
        id: "faces/echo-64B-c64",
        title: "echo, 64 B, 64 connections, one worker",
        operations: "messages",
        traffic: Traffic(connections: 64, bytes: 64, depth: 1),
        rows: [
            face("iocp", "the port: batches, deferred", .reference, .init(transacts: false)),
            face("single", "single dequeues, deferred", .subject, .init(isSingle: true, transacts: false)),
            face("eager", "batches, eager", .subject, .init(start: .eager, transacts: false)),
            face(
                "single-eager", "single dequeues, eager", .subject,
                .init(isSingle: true, start: .eager, transacts: false)),
            face("transactions", "transactions, batches, deferred", .subject, .init()),
            Row(
                id: "hosting", title: "IOCPHosting's manager, OVERLAPPEDs", role: .subject,
                targets: [.of(.cpuRatio, atMost: 1.10)],
                body: .server(workers: 1, isPinned: true) { try LibraryHostingEcho.serve($0) }),
        ]
    )

    private static func face(
        _ id: String, _ title: String, _ role: Row.Role, _ options: LibraryEcho.Options
    ) -> Row {
        Row(
            id: id, title: title, role: role,
            body: .server(workers: 1, isPinned: true) { try LibraryEcho.serve($0, options) })
    }

    private static func hosting(
        _ id: String, _ title: String, _ operations: String,
        _ work: @escaping @Sendable (WorkSettings) throws -> HostingWork
    ) -> Case {
        Case(
            id: id,
            title: title + ", one thread",
            operations: operations,
            rows: [
                Row(
                    id: "hosting", title: "IOCPHosting's manager", role: .subject,
                    targets: [.of(.cpuRatio, atMost: 1.10)],
                    body: .work { try LibraryHosting.hosted($0, try work($0)) }),
                Row(
                    id: "iocp", title: "the port", role: .reference,
                    body: .work { try LibraryHosting.bare($0, try work($0)) }),
            ]
        )
    }
}
