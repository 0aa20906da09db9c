import CBaselines

extension Suite {
    /// Packets from thread to thread.
    static let post = Suite(
        name: "post",
        summary: "post and dequeue: one thread, two in turns, four producers and two to 16 consumers, batches of 64",
        seconds: 0.25,
        cases: [pair, batch, pingPong, many, waiting]
    )

    private static let pair = Case(
        id: "post/pair",
        title: "post and dequeue on one thread",
        operations: "packets",
        rows: [
            Row(
                id: "iocp", title: "this library", role: .subject,
                targets: [.of(.cpuRatio, atMost: 1), .of(.timePerOperation, atMost: 25)],
                body: .work { try LibraryPost.pair($0) }),
            Row(
                id: "mutex", title: "mutex and ring buffer (C)", role: .reference,
                body: .work { try unsafe run($0, bench_post_queue_pair) }),
            Row(
                id: "raw-uring", title: "raw liburing NOP (C)", role: .baseline,
                body: .work { try unsafe run($0, bench_post_uring_pair) }),
        ]
    )

    private static let batch = Case(
        id: "post/batch-64",
        title: "64 posted, then dequeued in one call",
        operations: "packets",
        rows: [
            Row(
                id: "iocp", title: "this library", role: .subject,
                targets: [.of(.timePerOperation, atMost: 25)],
                body: .work { try LibraryPost.batch($0, size: batchSize) }),
            Row(
                id: "mutex", title: "mutex and ring buffer (C)", role: .reference,
                body: .work { try unsafe run($0, bench_post_queue_batch) }),
            Row(
                id: "raw-uring", title: "raw liburing NOPs (C)", role: .baseline,
                body: .work { try unsafe run($0, bench_post_uring_batch) }),
        ]
    )

    private static let pingPong = Case(
        id: "post/ping-pong",
        title: "two threads in turns",
        operations: "round trips",
        rows: [
            Row(
                id: "iocp", title: "this library", role: .subject,
                body: .work { try LibraryPost.pingPong($0) }),
            Row(
                id: "condition", title: "mutex and condition variable (C)", role: .reference,
                body: .work { try unsafe runSampled($0, bench_post_queue_pingpong) }),
            Row(
                id: "raw-uring", title: "raw liburing MSG_RING (C)", role: .baseline,
                body: .work { try unsafe runSampled($0, bench_post_uring_pingpong) }),
            Row(
                id: "epoll", title: "eventfd and epoll (C)", role: .baseline,
                body: .work { try unsafe runSampled($0, bench_post_epoll_pingpong) }),
        ]
    )

    private static let many = Case(
        id: "post/p4-c2",
        title: "four producers, two consumers",
        operations: "packets",
        rows: [
            Row(
                id: "iocp", title: "this library", role: .subject,
                targets: [.of(.rateRatio, atLeast: 1.5)],
                body: .work {
                    try LibraryPost.many(
                        $0, producers: producers, consumers: consumers, limit: consumers, packets: packetsOfEach)
                }),
            Row(
                id: "condition", title: "mutex and condition variable (C)", role: .reference,
                body: .work { try unsafe run($0, bench_post_queue_many) }),
        ]
    )

    /// More threads that wait than may run.
    private static let waiting = Case(
        id: "post/p4-waiting",
        title: "four producers, and threads that wait: two of them may run",
        operations: "packets",
        rows: [2, 4, 8, 16].map { threads in
            Row(
                id: "iocp-\(threads)", title: "this library, \(threads) threads",
                role: threads == 2 ? .reference : .subject,
                targets: threads == 2 ? [] : [.of(.rateRatio, atLeast: 1)],
                body: .work {
                    try LibraryPost.many(
                        $0, producers: producers, consumers: threads, limit: consumers, packets: packetsOfEach)
                })
        }
            + [2, 16].map { threads in
                Row(
                    id: "condition-\(threads)", title: "mutex and condition (C), \(threads) threads", role: .baseline,
                    body: .work { try unsafe run($0, consumers: threads, bench_post_queue_many) })
            }
    )

    /// Producers, consumers and packets of each producer in the case with many threads.
    static let producers = 4
    static let consumers = 2
    static let packetsOfEach = 50_000
    static let batchSize = 64

    private static func config(_ settings: WorkSettings, consumers: Int = consumers) -> bench_post_config {
        bench_post_config(
            nanoseconds: settings.nanoseconds, producers: UInt32(producers), consumers: UInt32(consumers),
            packets: UInt64(packetsOfEach), batch: UInt32(batchSize), chains: 0, work_nanoseconds: 0)
    }

    private static func run(
        _ settings: WorkSettings,
        consumers: Int = consumers,
        _ body: (UnsafePointer<bench_post_config>, UnsafeMutablePointer<bench_outcome>) -> Int32
    ) throws -> Measurement {
        var config = config(settings, consumers: consumers)
        var outcome = bench_outcome()
        try unsafe check(body(&config, &outcome), "passing packets")
        return Measurement(outcome)
    }

    private static func runSampled(
        _ settings: WorkSettings,
        _ body: (
            UnsafePointer<bench_post_config>, UnsafeMutablePointer<bench_outcome>, UnsafeMutablePointer<bench_samples>
        ) -> Int32
    ) throws -> Measurement {
        let samples = try Samples()
        var config = config(settings)
        var outcome = bench_outcome()
        try unsafe check(body(&config, &outcome, samples.storage), "passing packets")
        return Measurement(outcome, latency: samples.latency)
    }
}
