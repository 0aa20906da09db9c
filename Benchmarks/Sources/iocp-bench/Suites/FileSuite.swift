import CBaselines

extension Suite {
    /// Reads and copies of a real file, from the page cache.
    static let file = Suite(
        name: "file",
        summary: "random 4 KiB reads of a cached file at depth 1 and 32; a checksummed copy of it",
        seconds: 0.4,
        cases: [1, 32].map(reads) + [copy]
    )

    private static func reads(depth: Int) -> Case {
        Case(
            id: "file/read-d\(depth)",
            title: "random 4 KiB reads, page cache, depth \(depth)",
            operations: "reads",
            series: Case.Series(
                name: "random reads, page cache", variable: "reads in flight", value: Double(depth)),
            rows: [
                Row(
                    id: "iocp", title: "this library", role: .subject,
                    body: .work { try LibraryFile.read($0, depth: depth) }),
                Row(
                    id: "raw-uring", title: "raw liburing (C)", role: .reference,
                    body: .work { try unsafe read($0, depth: depth, bench_reads_uring) }),
                Row(
                    id: "pread", title: depth == 1 ? "pread (C)" : "pread, one by one (C)", role: .baseline,
                    body: .work { try unsafe read($0, depth: depth, bench_reads_pread) }),
            ]
        )
    }

    private static let copy = Case(
        id: "file/copy",
        title: "copy of the file, page cache to page cache, checked by checksum",
        operations: "MiB",
        rows: [
            Row(
                id: "iocp", title: "this library", role: .subject,
                body: .work { settings in
                    let measurement = try LibraryFile.copy(
                        settings, chunkBytes: Int(copyChunkBytes), depth: Int(copyDepth))
                    try verifyCopy(settings)
                    return measurement
                }),
            Row(
                id: "raw-uring", title: "raw liburing (C)", role: .reference,
                body: .work { settings in
                    try unsafe checkedCopy(settings) { config, outcome in unsafe bench_copy_uring(config, outcome) }
                }),
            Row(
                id: "read-write", title: "read and write (C)", role: .baseline,
                body: .work { settings in
                    try unsafe checkedCopy(settings) { config, outcome in unsafe bench_copy_classic(config, outcome) }
                }),
        ]
    )

    private static func read(
        _ settings: WorkSettings,
        depth: Int,
        _ body: (
            UnsafePointer<bench_reads_config>, UnsafeMutablePointer<bench_outcome>, UnsafeMutablePointer<bench_samples>
        ) -> Int32
    ) throws -> Measurement {
        let samples = try Samples()
        var outcome = bench_outcome()
        try unsafe settings.file.withCString { path in
            var config = unsafe bench_reads_config(
                path: path, blocks: settings.fileBytes / UInt64(BENCH_BLOCK_BYTES), depth: UInt32(depth),
                direct: false, nanoseconds: settings.nanoseconds, seed: 0x2545_F491)
            try unsafe check(body(&config, &outcome, samples.storage), "reading \(settings.file)")
        }
        return Measurement(outcome, latency: samples.latency)
    }

    /// Copies with `body`, then compares what was written with what was read.
    private static func checkedCopy(
        _ settings: WorkSettings,
        _ body: (UnsafePointer<bench_copy_config>, UnsafeMutablePointer<bench_outcome>) -> Int32
    ) throws -> Measurement {
        var outcome = bench_outcome()
        try unsafe settings.file.withCString { source in
            try unsafe settings.copy.withCString { destination in
                var config = unsafe bench_copy_config(
                    source: source, destination: destination, chunk_bytes: copyChunkBytes, depth: copyDepth)
                try unsafe check(body(&config, &outcome), "copying \(settings.file)")
            }
        }
        try verifyCopy(settings)
        return Measurement(outcome, scale: 1 << 20)
    }

    /// Every row copies in these pieces, and rows that can keep several under way keep this many.
    static let copyChunkBytes: UInt32 = 256 << 10
    static let copyDepth: UInt32 = 8

    /// Throws unless the copy has the content of the file.
    static func verifyCopy(_ settings: WorkSettings) throws {
        let sums = try [settings.file, settings.copy].map { path in
            var sum: UInt64 = 0
            var bytes: UInt64 = 0
            try unsafe check(bench_file_checksum(path, &sum, &bytes), "checking \(path)")
            return [sum, bytes]
        }
        guard sums[0] == sums[1] else { throw Failure("the copy differs from the file") }
    }
}
