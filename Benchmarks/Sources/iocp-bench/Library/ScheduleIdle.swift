import CBaselines
import IOCP

/// A port that nothing happens to: threads wait in it, receives are pending.
enum ScheduleIdle {
    static func run(_ settings: WorkSettings, threads: Int, receives: Int) throws -> Measurement {
        let port = try CompletionPort(concurrencyLimit: 2)
        let waiting = try PortThreads(port, threads) { _ in throw Failure("a packet came from nowhere") }
        var sockets: [Socket] = []
        for _ in 0..<receives {
            let socket = try Socket.datagram(at: .loopback(port: 0))
            try port.associate(socket, key: 0)
            try socket.receive(IOCP.Operation(buffer: IOBuffer(capacity: 64)))
            sockets.append(socket)
        }
        guard try port.statistics.inFlight == receives else { throw Failure("the receives are not pending") }
        // Until what the start left behind has settled: the monitor goes to sleep after some ticks.
        bench_sleep(500_000_000)
        let before = bench_usage_of_others()
        let begin = bench_now()
        bench_sleep(settings.nanoseconds)
        let after = bench_usage_of_others()
        let seconds = Double(bench_now() - begin) / 1e9
        guard try port.statistics.waiting == threads else { throw Failure("the threads do not wait") }
        let measurement = Measurement(
            operations: UInt64(receives), seconds: seconds,
            cpuNanoseconds: after.cpu_nanoseconds - before.cpu_nanoseconds,
            voluntarySwitches: after.voluntary_switches - before.voluntary_switches,
            involuntarySwitches: after.involuntary_switches - before.involuntary_switches)
        try waiting.end()
        return measurement
    }
}
