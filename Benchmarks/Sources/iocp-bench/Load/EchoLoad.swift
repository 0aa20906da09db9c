import CBaselines
import Glibc
import Histogram
import IOUring

/// The load: every connection sends its next message when the echo of an earlier one has come back (closed loop).
///
/// One thread, one ring with deferred task work: one entry into the kernel submits all sends and receives that the
/// last batch of completions gave rise to, and waits for more.
struct EchoLoad {
    private let traffic: Traffic
    private let sockets: [Int32]

    init(port: UInt16, traffic: Traffic) throws {
        self.traffic = traffic
        sockets = try (0..<traffic.connections).map { _ in
            try check(bench_connect(port), "connecting to port \(port)")
        }
    }

    /// - Parameter windowBegins: called once, between warm-up and window.
    func run(warmUp: Double, seconds: Double, windowBegins: () throws -> Void) throws -> LoadResult {
        bench_watchdog(warmUp + seconds + 20)
        var driver = try Driver(traffic: traffic, sockets: sockets)
        driver.start()
        _ = try driver.run(until: bench_now() + UInt64(warmUp * 1e9))

        driver.resetWindow()
        let usage = bench_usage_now()
        let begin = bench_now()
        try windowBegins()
        let end = try driver.run(until: begin + UInt64(seconds * 1e9))
        let cpu = bench_usage_now().cpu_nanoseconds - usage.cpu_nanoseconds
        return LoadResult(
            messages: driver.histogram.totalCount,
            seconds: Double(end - begin) / 1e9,
            cpuNanoseconds: cpu,
            latency: driver.histogram.totalCount > 0 ? Latency(driver.histogram) : nil
        )
    }

    private struct Driver: ~Copyable {
        let sockets: [Int32]
        let streams: EchoStreams
        var ring: Ring
        var histogram = Latency.emptyHistogram()
        var now = bench_now()
        var unsubmitted: UInt32 = 0
        /// With one message under way its echo says that its send has ended, and the completion can be spared.
        let sendsAreSilent: Bool

        init(traffic: Traffic, sockets: [Int32]) throws {
            self.sockets = sockets
            streams = EchoStreams(traffic)
            sendsAreSilent = traffic.depth == 1
            ring = try Ring(
                RingOptions(
                    submissionEntries: 2048, completionEntries: 8192,
                    flags: [.singleIssuer, .deferTaskrun, .submitAll, .clamp]))
        }

        mutating func resetWindow() {
            histogram.reset()
        }

        mutating func start() {
            now = bench_now()
            for connection in sockets.indices {
                receive(connection)
                send(connection)
            }
        }

        /// Goes on until `deadline`, and returns when that was found to have passed.
        mutating func run(until deadline: UInt64) throws -> UInt64 {
            while true {
                ring.publish()
                let result = ring.submitter.enter(
                    submit: unsubmitted, minimumCompletions: 1, flags: .getEvents)
                guard result >= 0 || result == -EINTR else { throw Failure("entering the ring", errno: -result) }
                unsubmitted -= UInt32(max(0, result))
                now = bench_now()
                // What has come back after the deadline is left where it is: it belongs to no window.
                guard now < deadline else { return now }
                let count = ring.completionsReady
                for offset in 0..<count {
                    try handle(ring.completion(at: offset))
                }
                ring.advance(by: count)
            }
        }

        private mutating func handle(_ completion: Completion) throws {
            let connection = Int(completion.userData >> 1)
            guard completion.result > 0 else {
                guard completion.result < 0 else { throw Failure("the server closed a connection") }
                throw Failure("talking to the server", errno: -completion.result)
            }
            if completion.userData & 1 != 0 {
                streams.sendEnded(connection)
            } else {
                let verified = streams.take(connection, count: Int(completion.result)) { started in
                    _ = histogram.record(now &- started)
                }
                guard verified else { throw Failure("what came back is not what was sent") }
                if sendsAreSilent {
                    streams.sendEnded(connection)
                }
                receive(connection)
            }
            send(connection)
        }

        private mutating func receive(_ connection: Int) {
            let buffer = unsafe streams.receiveBuffer(connection)
            var entry = unsafe SubmissionEntry.receive(
                sockets[connection], into: buffer.baseAddress, count: UInt32(buffer.count))
            entry.userData = UInt64(connection) << 1
            submit(entry)
        }

        private mutating func send(_ connection: Int) {
            guard let bytes = unsafe streams.takeSend(connection, now: now) else { return }
            var entry = unsafe SubmissionEntry.send(
                sockets[connection], from: bytes.baseAddress, count: UInt32(bytes.count), flags: Int32(MSG_WAITALL))
            entry.userData = UInt64(connection) << 1 | 1
            if sendsAreSilent {
                entry.flags = .skipSuccess
            }
            submit(entry)
        }

        private mutating func submit(_ entry: SubmissionEntry) {
            while !ring.enqueue(entry) {
                ring.publish()
                unsubmitted -= UInt32(
                    max(0, ring.submitter.enter(submit: unsubmitted, minimumCompletions: 0, flags: [])))
            }
            unsubmitted += 1
        }
    }
}
