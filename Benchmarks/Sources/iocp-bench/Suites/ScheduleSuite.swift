import CBaselines
import IOCP

extension Suite {
    /// What a port with a limit is for: how soon work goes on when threads block or compute, and what it costs when
    /// there are more threads than may run.
    static let schedule = Suite(
        name: "schedule",
        summary: "blocked and computing threads, over-waking, idle ports: the figures to reach, with their verdicts",
        seconds: 0.5,
        cases: [
            blockedPosts, blockedCompletions, deferredStarts, stealing, overWakingEcho, overWakingFew, overWakingWork,
            overWakingPosts, twoThreads, monitor, idle, noFalseTakeOver,
        ],
        runsUnasked: false
    )

    // MARK: Blocked threads

    private static let kinds: [(id: String, title: String, kind: bench_block_kind)] = [
        ("sleep", "asleep", BENCH_BLOCK_SLEEP),
        ("futex", "in a futex", BENCH_BLOCK_FUTEX),
        ("read", "in a read of a pipe", BENCH_BLOCK_READ),
    ]

    private static let blockedPosts = Case(
        id: "schedule/blocked-posts",
        title: "limit 2, 8 threads, 2 handlers blocked, a post comes: until another thread has it",
        operations: "posts",
        rows: kinds.flatMap { kind in
            [
                blocked(
                    "\(kind.id)-stream", "\(kind.title), 50 ms each, posts all the time", kind.kind, .posts, .stream,
                    postTargets),
                blocked("\(kind.id)-fresh", "\(kind.title), not seen yet", kind.kind, .posts, .fresh, postTargets),
            ]
        } + [
            blocked(
                "region", "withBlockingRegion, asleep", BENCH_BLOCK_SLEEP, .posts, .fresh, inRegion: true,
                regionTargets)
        ]
    )

    private static let blockedCompletions = Case(
        id: "schedule/blocked-completions",
        title: "the same with completions of socket receives only",
        operations: "completions",
        rows: kinds.map { kind in
            blocked(
                "\(kind.id)-own", "\(kind.title), receive started by it", kind.kind,
                .completions(startedByBlocked: true), .fresh, completionTargets)
        } + [
            blocked(
                "sleep-other", "asleep, receive started by another", BENCH_BLOCK_SLEEP,
                .completions(startedByBlocked: false), .fresh, completionTargets),
            blocked(
                "sleep-stream", "asleep, 50 ms each, completions all the time", BENCH_BLOCK_SLEEP,
                .completions(startedByBlocked: false), .stream, completionTargets),
            blocked(
                "quiet", "asleep, first after 150 ms of quiet", BENCH_BLOCK_SLEEP,
                .completions(startedByBlocked: true), .afterQuiet, completionTargets),
            blocked(
                "region-own", "withBlockingRegion, receive started by it", BENCH_BLOCK_SLEEP,
                .completions(startedByBlocked: true), .fresh, inRegion: true, regionTargets),
            blocked(
                "region-other", "withBlockingRegion, started by another", BENCH_BLOCK_SLEEP,
                .completions(startedByBlocked: false), .fresh, inRegion: true, regionTargets),
        ]
    )

    private static let postTargets: [Target] = [.median(atMost: 100e3), .p99(atMost: 10e6), .worst()]
    private static let completionTargets: [Target] = [.median(atMost: 10e6), .p99(), .worst(atMost: 25e6)]
    private static let regionTargets: [Target] = [.median(atMost: 200e3), .p99(), .worst()]

    private static func blocked(
        _ id: String, _ title: String, _ kind: bench_block_kind, _ arrival: ScheduleBlocking.Arrival,
        _ pattern: ScheduleBlocking.Pattern, inRegion: Bool = false, _ targets: [Target]
    ) -> Row {
        let setting = ScheduleBlocking.Setting(kind: kind, arrival: arrival, inRegion: inRegion, pattern: pattern)
        return Row(
            id: id, title: title, role: .subject, targets: targets,
            body: .work { try ScheduleBlocking.run($0, setting) })
    }

    // MARK: Computing threads

    private static let deferredStarts = Case(
        id: "schedule/deferred-starts",
        title: "a send started by a handler that then computes 5 ms: until a blocking reader has it",
        operations: "starts",
        rows: [
            Row(
                id: "raw", title: "raw ring, entered at once", role: .baseline,
                targets: [.median(), .p99(), .worst()],
                body: .work { try ScheduleStarts.runRaw($0) }),
            Row(
                id: "eager", title: "eager start", role: .subject,
                targets: [.median(), .p99(), .worst()],
                body: .work { try ScheduleStarts.run($0, .always, start: .eager) }),
            Row(
                id: "deferred", title: "deferred, handlers of that kind known", role: .subject,
                // Shown beside it: the reader's wake-up is in the raw ring's median as well.
                targets: [.median(atMost: 50e3), .of(.medianBeyond, to: "raw"), .p99(), .worst(atMost: 10e6)],
                body: .work { try ScheduleStarts.run($0, .always) }),
            Row(
                id: "first", title: "deferred, the first of a port", role: .subject,
                targets: [.median(), .p99(), .worst(atMost: 10e6)],
                body: .work { try ScheduleStarts.run($0, .firstOfPort) }),
            Row(
                id: "rare", title: "deferred, one handler in 16 computes", role: .subject,
                targets: [.median(), .p99(), .worst(atMost: 10e6)],
                body: .work { try ScheduleStarts.run($0, .rarely) }),
        ]
    )

    private static let stealing = Case(
        id: "schedule/stealing",
        title: "a completion for a thread that computes, another thread idle: until one has it",
        operations: "completions",
        rows: [5, 20].map { milliseconds in
            Row(
                id: "\(milliseconds)ms", title: "it computes \(milliseconds) ms", role: .subject,
                targets: [
                    .median(atMost: 5e6), .p99(atMost: 10e6), .worst(), .of(.takenByOther, atLeast: 0.5),
                ],
                body: .work { try ScheduleStealing.run($0, work: UInt64(milliseconds) * 1_000_000) })
        }
    )

    // MARK: More threads than may run

    /// For long: at saturation there are a few dozen context switches in a second, most of them the kernel's own, and the ratio
    /// of two such counts is anything.
    private static let overWakingEcho = overWakingEcho(
        connections: 64, work: 0, seconds: 8, id: "schedule/over-waking-echo")
    /// So few that a thread sleeps for every message.
    private static let overWakingFew = overWakingEcho(
        connections: 1, work: 0, seconds: 2, id: "schedule/over-waking-few")
    /// Handlers that take long enough for two threads to be worth while. For long: most switches are the load generator's turns.
    private static let overWakingWork = overWakingEcho(
        connections: 64, work: 20_000, seconds: 10, id: "schedule/over-waking-work")

    private static func overWakingEcho(
        connections: Int, work: UInt64, seconds: Double, id: String
    ) -> Case {
        let subjects = overWakingRows { threads in
            .server(workers: threads) {
                try LibraryEcho.serve($0, .init(limit: 2, work: work > 0 ? work...work : nil))
            }
        }
        let baselines = [2, 8, 32, 64].map { threads in
            Row(
                id: "epoll-\(threads)", title: "epoll, no limit (C), \(threads) threads", role: .baseline,
                body: .server(workers: threads) { try serveEpoll($0, work: work) })
        }
        let load = connections == 1 ? "1 connection" : "\(connections) connections"
        let handlers = work > 0 ? ", \(work / 1000) µs of CPU a message" : ""
        return Case(
            id: id,
            title: "echo, \(load), 64 B\(handlers); threads beyond those that may run",
            operations: "messages",
            traffic: Traffic(connections: connections, bytes: 64, depth: 1),
            seconds: seconds,
            rows: subjects + baselines)
    }

    private static let overWakingPosts = Case(
        id: "schedule/over-waking-posts",
        title: "32 packets, each handled for 10 µs and posted again; threads beyond those that may run",
        operations: "packets",
        seconds: 5,
        rows: overWakingRows { threads in
            .work { try LibraryPost.chains($0, limit: 2, threads: threads, chains: 32, work: 10_000) }
        }
            + [2, 8, 32, 64].map { threads in
                Row(
                    id: "condition-\(threads)", title: "mutex and condition variable (C), \(threads) threads",
                    role: .baseline, body: .work { try runChains($0, threads: threads) })
            }
    )

    /// The reference runs twice: what the two differ by is what such a comparison can tell on this machine.
    ///
    /// The difference of the switches is shown beside their ratio, which says little where two threads have next to none.
    private static func overWakingRows(_ body: (_ threads: Int) -> Row.Body) -> [Row] {
        let bounds: [Target] = [.of(.rateRatio, atLeast: 0.9), .of(.switchesRatio, atMost: 1.1), .of(.switchesBeyond)]
        let shown: [Target] = [.of(.rateRatio), .of(.switchesRatio), .of(.switchesBeyond)]
        return [
            Row(id: "iocp-2", title: "limit 2, 2 threads", role: .reference, body: body(2)),
            Row(id: "iocp-2-again", title: "the same again", role: .baseline, targets: shown, body: body(2)),
        ]
            + [8, 64].map { threads in
                Row(
                    id: "iocp-\(threads)", title: "limit 2, \(threads) threads", role: .subject, targets: bounds,
                    body: body(threads))
            }
    }

    private static let twoThreads = Case(
        id: "schedule/two-threads",
        title: "echo, 64 connections, 20 µs of CPU a message, all accepted by one thread",
        operations: "messages",
        traffic: Traffic(connections: 64, bytes: 64, depth: 1),
        rows: [1, 2].map { limit in
            Row(
                id: "iocp-\(limit)", title: "limit \(limit)", role: limit == 1 ? .reference : .subject,
                targets: limit == 1 ? [] : [.of(.rateRatio, atLeast: 1.45)],
                body: .server(workers: limit) {
                    try LibraryEcho.serve($0, .init(limit: limit, work: 20_000...20_000, acceptedByOne: 64))
                })
        } + [
            Row(
                id: "epoll-2", title: "epoll (C), 2 threads", role: .baseline,
                body: .server(workers: 2) { try serveEpoll($0, work: 20_000) })
        ]
    )

    // MARK: What it costs

    private static let monitor = Case(
        id: "schedule/monitor",
        title: "the monitor's CPU time at full echo load, 64 connections",
        operations: "messages",
        traffic: Traffic(connections: 64, bytes: 64, depth: 1),
        seconds: 1,
        rows: [(1, 1), (1, 8), (2, 8)].map { (limit: Int, threads: Int) in
            Row(
                id: "iocp-\(limit)-\(threads)", title: "limit \(limit), \(threads) thread\(threads == 1 ? "" : "s")",
                role: .subject, targets: [.of(.monitorShare, atMost: 0.01)],
                body: .server(workers: threads) { try LibraryEcho.serve($0, .init(limit: limit)) })
        }
    )

    private static let idle = Case(
        id: "schedule/idle",
        title: "64 threads wait, 10,000 receives are pending, nothing comes",
        operations: "receives",
        seconds: 10,
        roundsAtMost: 1,
        rows: [
            Row(
                id: "iocp", title: "all of the process", role: .subject,
                targets: [.of(.cpuTime, atMost: 0), .of(.contextSwitches, atMost: 0)],
                body: .work { try ScheduleIdle.run($0, threads: 64, receives: 10_000) })
        ]
    )

    private static let noFalseTakeOver = Case(
        id: "schedule/no-false-take-over",
        title: "full load, handlers that compute 2 to 400 µs and never block (--seconds 600 for ten minutes)",
        operations: "messages",
        traffic: Traffic(connections: 64, bytes: 64, depth: 1),
        seconds: 10,
        roundsAtMost: 1,
        rows: [
            Row(
                id: "iocp", title: "limit 2, 8 threads", role: .subject,
                targets: [.of(.overLimit, atMost: 0), .of(.handOvers, atMost: 0), .of(.monitorShare)],
                body: .server(workers: 8) {
                    try LibraryEcho.serve($0, .init(limit: 2, work: 2_000...400_000, watchesLimit: true))
                })
        ]
    )

    // MARK: Peers

    private static func serveEpoll(_ context: EchoServerContext, work: UInt64) throws {
        var config = bench_echo_threads_config(
            listener: context.listener, stop: context.stopEvent, buffer_bytes: UInt32(context.bufferBytes),
            threads: UInt32(context.counters.count), work_nanoseconds: work)
        let counters = unsafe context.counters.map { unsafe Optional($0.storage) }
        try unsafe check(
            counters.withUnsafeBufferPointer { unsafe bench_echo_epoll_threads(&config, $0.baseAddress) }, "serving")
    }

    private static func runChains(_ settings: WorkSettings, threads: Int) throws -> Measurement {
        var config = bench_post_config()
        config.nanoseconds = settings.nanoseconds
        config.consumers = UInt32(threads)
        config.chains = 32
        config.work_nanoseconds = 10_000
        var outcome = bench_outcome()
        try unsafe check(bench_post_queue_chains(&config, &outcome), "passing packets")
        return Measurement(outcome)
    }
}
