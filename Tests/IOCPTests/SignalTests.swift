import Glibc
import Synchronization
import Testing

@testable import IOCP

private let signalsSeen = Atomic<Int>(0)

@Suite("Signals at any rate")
struct SignalTests {
    /// A handler without SA_RESTART: what can be interrupted is.
    private static func install(_ signal: Int32) throws {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in signalsSeen.add(1, ordering: .relaxed) }
        try check(sigaction(signal, &action, nil) == 0, "no handler")
    }

    /// An alarm each so many microseconds; 0 for none.
    private static func setTimer(microseconds: Int) {
        // Two pairs of seconds and microseconds, whose names this module does not see in every build.
        var timer = [0, microseconds, 0, microseconds]
        _ = timer.withUnsafeMutableBytes {
            setitimer(__itimer_which_t(0), $0.baseAddress!.assumingMemoryBound(to: itimerval.self), nil)
        }
    }

    @Test(
        "a storm of signals loses no packet, doubles none, ends no wait early nor late, and closes nothing twice (e6)",
        .timeLimit(.minutes(5)))
    func storm() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                try SignalTests.install(SIGUSR1)
                try SignalTests.install(SIGALRM)
                let port = try CompletionPort(concurrencyLimit: 2)
                let idle = try CompletionPort(concurrencyLimit: 2)
                let targets = Protected<[pthread_t]>([])
                let over = Tally()
                let finished = Tally()
                let ran = Tally()
                let total = 10_000
                let seen = Protected([Bool](repeating: false, count: total))
                /// A thread that is a target until its work is done, and stays until nobody aims any more.
                @Sendable func target(_ body: @escaping @Sendable () throws -> Void) -> SideThread<Void> {
                    SideThread {
                        targets.withLock { $0.append(pthread_self()) }
                        defer {
                            finished.add()
                            while over.value == 0 { sched_yield() }
                        }
                        try body()
                    }
                }
                var threads: [SideThread<Void>] = []
                let received = Tally()
                for _ in 0..<3 {
                    threads.append(
                        target {
                            while true {
                                do {
                                    guard let packet = try port.dequeue() else {
                                        throw Complaint("a wait has ended early")
                                    }
                                    if packet.key == 0 { continue }
                                    let isNew = seen.withLock { seen in
                                        defer { seen[Int(packet.key) - 1] = true }
                                        return !seen[Int(packet.key) - 1]
                                    }
                                    try check(isNew, "packet \(packet.key) comes twice")
                                    received.add()
                                } catch let error as PortError where error.status == .abandoned {
                                    return
                                } catch let error as PortError where error.status == .invalidHandle {
                                    return
                                }
                            }
                        })
                }
                threads.append(
                    target {
                        // Spread over the storm.
                        for number in 1...total {
                            try port.post(key: UInt(number))
                            while signalsSeen.load(ordering: .relaxed) < number { sched_yield() }
                        }
                    })
                // Starts, cancels and closes.
                threads.append(
                    target {
                        var round = 0
                        while round < 500 || signalsSeen.load(ordering: .relaxed) < total {
                            round += 1
                            let (near, far) = try Socket.pair()
                            try port.associate(near, key: 0)
                            let operations = (0..<3).map { _ in IOCP.Operation(capacity: 4) }
                            for operation in operations { try near.receive(operation, start: bothStarts[round % 2]) }
                            if round % 3 == 0 { writeRaw("abcd", to: far) }
                            if round % 3 == 1 { _ = try? near.cancel(operations[0]) }
                            try near.close()
                            for operation in operations {
                                let status = try operation.waitForCompletion(timeout: patience)
                                try check(status != nil, "an operation does not end")
                            }
                        }
                        ran.add()
                    })
                // Time-outs: in a ring, parked, on an event, in a call that is not alertable.
                let event = CompletionEvent()
                for kind in 0..<4 {
                    threads.append(
                        target {
                            while signalsSeen.load(ordering: .relaxed) < total {
                                let start = ContinuousClock.now
                                let wait = Duration.milliseconds(30)
                                switch kind {
                                case 0, 1: try check(try idle.dequeue(timeout: wait) == nil, "a packet out of nothing")
                                case 2: try check(try !event.wait(timeout: wait), "the event was never set")
                                default: try check(try IOThread.sleepAlertably(timeout: wait) == 0, "a call ran")
                                }
                                let passed = ContinuousClock.now - start
                                try check(passed >= .milliseconds(29), "a wait of 30 ms took \(passed)")
                                try check(passed < .seconds(10), "a wait of 30 ms took \(passed)")
                            }
                            ran.add()
                        })
                }
                let all = threads.count
                try until("every thread is a target") { targets.withLock { $0.count } == all }
                SignalTests.setTimer(microseconds: 500)
                // Until all has been received, and the others are done.
                let calm = Tally()
                let storm = SideThread {
                    while calm.value == 0 { targets.withLock { for thread in $0 { pthread_kill(thread, SIGUSR1) } } }
                }
                try until("all packets came; \(received.value) of \(total) did, \(finished.value) threads are done") {
                    received.value == total && finished.value >= all - 3
                }
                SignalTests.setTimer(microseconds: 0)
                port.close()
                try until("the workers end") { finished.value == all }
                calm.add()
                try storm.join()
                over.add()
                for thread in threads { try thread.join() }
                try check(ran.value == 5, "a thread has failed")
            }
        }
    }
}
