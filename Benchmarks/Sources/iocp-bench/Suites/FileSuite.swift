import CBaselines
import Synchronization

extension Suite {
    /// Reads and copies of a real file, from the page cache.
    static let file = Suite(
        name: "file",
        summary: "random 4 KiB reads of a file at depth 1 and 32, cached and O_DIRECT; a checksummed copy of it",
        seconds: 0.3,
        cases: [false, true].flatMap { isDirect in [1, 32].map { reads(depth: $0, isDirect: isDirect) } } + [copy]
    )

    private static func reads(depth: Int, isDirect: Bool) -> Case {
        Case(
            id: "file/\(isDirect ? "direct" : "read")-d\(depth)",
            title: "random 4 KiB reads, \(isDirect ? "O_DIRECT" : "page cache"), depth \(depth)",
            operations: "reads",
            series: Case.Series(
                name: "random reads, \(isDirect ? "O_DIRECT" : "page cache")", variable: "reads in flight",
                value: Double(depth)),
            rows: [false, true].map { isForOneWorker in
                Row(
                    id: isForOneWorker ? "iocp-one" : "iocp",
                    title: isForOneWorker ? "the same, made for one worker" : "this library", role: .subject,
                    targets: depth == 32 && !isDirect
                        ? [.of(.rateRatio, atLeast: 0.95), .of(.rateRatio, to: "fio", atLeast: 1)] : [],
                    body: .work {
                        try LibraryFile.read($0, depth: depth, isDirect: isDirect, isForOneWorker: isForOneWorker)
                    })
            } + (depth == 1 && !isDirect ? [atOnce] : []) + [
                Row(
                    id: "raw-uring", title: "raw liburing (C)", role: .reference,
                    body: .work { try unsafe read($0, depth: depth, isDirect: isDirect, bench_reads_uring) }),
                Row(
                    id: "pread", title: depth == 1 ? "pread (C)" : "pread, one by one (C)", role: .baseline,
                    body: .work { try unsafe read($0, depth: depth, isDirect: isDirect, bench_reads_pread) }),
                Row(
                    id: "fio", title: "fio, io_uring", role: .baseline, peer: .fio,
                    body: .work { try FioReads.run($0, depth: depth, isDirect: isDirect) }),
            ]
        )
    }

    /// Where everything is cached there is never more than one under way.
    private static let atOnce = Row(
        id: "iocp-eager", title: "the same, started eagerly, no packets of what is cached", role: .subject,
        body: .work { try LibraryFile.readAtOnce($0) })

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
        isDirect: Bool,
        _ body: (
            UnsafePointer<bench_reads_config>, UnsafeMutablePointer<bench_outcome>, UnsafeMutablePointer<bench_samples>
        ) -> Int32
    ) throws -> Measurement {
        let samples = try Samples()
        var outcome = bench_outcome()
        try unsafe settings.file.withCString { path in
            var config = unsafe bench_reads_config(
                path: path, blocks: settings.fileBytes / UInt64(BENCH_BLOCK_BYTES), depth: UInt32(depth),
                direct: isDirect, nanoseconds: settings.nanoseconds, seed: 0x2545_F491)
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

/// The reads by several threads in C.
enum FileRows {
    /// Each has a ring of its own.
    static func readByMany(_ settings: WorkSettings, depth: Int, workers: Int) throws -> Measurement {
        let operations = Mutex<UInt64>(0)
        let failure = Mutex<Int32>(0)
        var outcome = bench_outcome()
        unsafe bench_outcome_begin(&outcome)
        let threads = try (0..<workers).map { worker in
            try WaitableThread {
                var own = bench_outcome()
                // Latencies are not kept: they would be taken only here.
                var samples = unsafe bench_samples()
                var value: UInt32 = 0
                let result = unsafe settings.file.withCString { path in
                    unsafe withUnsafeMutablePointer(to: &value) { value in
                        unsafe samples.values = value
                        var config = unsafe bench_reads_config(
                            path: path, blocks: settings.fileBytes / UInt64(BENCH_BLOCK_BYTES), depth: UInt32(depth),
                            direct: false, nanoseconds: settings.nanoseconds, seed: 0x2545_F491 + UInt64(worker))
                        return unsafe bench_reads_uring(&config, &own, &samples)
                    }
                }
                operations.withLock { $0 += own.operations }
                failure.withLock { $0 = min($0, result) }
            }
        }
        for thread in threads {
            thread.join()
        }
        unsafe bench_outcome_end(&outcome, operations.withLock { $0 }, -1)
        try check(failure.withLock { $0 }, "reading \(settings.file)")
        return Measurement(outcome)
    }
}
