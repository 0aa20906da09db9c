import CBaselines
import Glibc
import Histogram

/// The load: every connection sends its next message when the echo of an earlier one has come back (closed loop).
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
        var driver = try EchoDriver(traffic: traffic, sockets: sockets)
        driver.start()
        _ = try driver.run(until: bench_now() + UInt64(warmUp * 1e9))

        driver.histogram.reset()
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
}
