import Glibc
import Synchronization
import Testing

@testable import IOCP

/// Threads that wait, run and fight over a port, with operations in flight: what a process may exit amid.
private func setOnFire(waiters: Int = 2) throws -> Fire {
    let fire = try Fire(limit: 2)
    let quiet = try CompletionPort(concurrencyLimit: 2)
    for number in 0..<3 {
        detach(fire.work(seed: UInt64(number)) { dice in if dice.below(3) == 0 { try fire.act(&dice) } })
    }
    for number in 0..<2 { detach(fire.rage(seed: UInt64(100 + number))) }
    for _ in 0..<waiters { detach(SideThread { _ = try quiet.dequeue() }) }
    let (near, far) = try Socket.pair()
    let operation = IOCP.Operation(capacity: 8)
    try near.receive(operation)
    detach(
        SideThread {
            _ = try operation.waitForCompletion()
            withExtendedLifetime(far) {}
        })
    try until("the waiters wait") { quiet.core.snapshot.waiting == waiters }
    try until("it burns") { fire.made.value > 200 }
    return fire
}

/// Threads that nobody joins.
private func detach<Value>(_ thread: SideThread<Value>) { _ = thread }

@Suite("A process may end at any moment", .timeLimit(.minutes(5)))
struct ProcessExitTests {
    @Test("exit by the main thread, with threads that wait, run and hold locks, and operations in flight (e36)")
    func exits() async {
        for _ in 0..<3 {
            await #expect(processExitsWith: .exitCode(7)) {
                let fire = try setOnFire()
                withExtendedLifetime(fire) { exit(7) }
            }
        }
    }

    @Test("the end of the program, its objects let go of")
    func returns() async {
        await #expect(processExitsWith: .success) {
            // To return is to exit with 0.
            _ = try setOnFire()
        }
    }

    @Test("exit by a handler, and by a call that was queued to a waiting thread")
    func exitsFromWithin() async {
        await #expect(processExitsWith: .exitCode(8)) {
            let fire = try setOnFire()
            let port = fire.port
            detach(
                SideThread {
                    while true { if let packet = try port.dequeue(), packet.key == 99 { exit(8) } }
                })
            while true {
                try port.post(key: 99)
                usleep(1000)
            }
        }
        await #expect(processExitsWith: .exitCode(9)) {
            let fire = try setOnFire()
            let waiting = Handover<IOThread>()
            let port = try CompletionPort(concurrencyLimit: 1)
            detach(
                SideThread {
                    waiting.give(IOThread.current)
                    _ = try port.dequeueAlertably()
                })
            try waiting.take().queueCall { exit(9) }
            sleep(60)
            withExtendedLifetime(fire) {}
        }
    }

    @Test("what runs at exit may still use ports, and end them")
    func usesPortAtExit() async {
        await #expect(processExitsWith: .exitCode(10)) {
            AtExit.fire = try setOnFire()
            atexit {
                guard let fire = AtExit.fire else { _exit(1) }
                do {
                    let port = try CompletionPort(concurrencyLimit: 1)
                    try port.post(key: 5)
                    try check(try port.dequeue()?.key == 5, "no packet at exit")
                    fire.port.close()
                    AtExit.fire = nil
                } catch {
                    complain("\(error)\n")
                    _exit(1)
                }
            }
            exit(10)
        }
    }

    @Test("the main thread ends, the others go on and exit by themselves (d14)")
    func mainThreadEnds() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                // The thread that forks is the main thread of the child, and not one of a runtime that must not end.
                try SideThread {
                    try Child.run {
                        let fire = try setOnFire()
                        let before = fire.made.value
                        detach(
                            SideThread {
                                try until("it still burns") { fire.made.value > before + 500 }
                                exit(0)
                            })
                        pthread_exit(nil)
                    }
                }.join()
            }
        }
    }

    @Test("a kill and an abort are not held up")
    func dies() async {
        await #expect(processExitsWith: .signal(SIGKILL)) {
            let fire = try setOnFire()
            withExtendedLifetime(fire) { _ = kill(getpid(), SIGKILL) }
            sleep(60)
        }
        await #expect(processExitsWith: .signal(SIGABRT)) {
            var none = rlimit()
            setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &none)
            let fire = try setOnFire()
            withExtendedLifetime(fire) { abort() }
        }
    }
}

private enum AtExit {
    nonisolated(unsafe) static var fire: Fire?
}
