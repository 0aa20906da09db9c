extension Suite {
    /// The same work through a face of the library and through the library itself.
    static let faces = Suite(
        name: "faces",
        summary: "a host of the CLR hosting interfaces over the bare port: reads of a cached file, 64 socket pairs",
        seconds: 0.6,
        cases: [
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
