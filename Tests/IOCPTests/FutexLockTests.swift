import Glibc
import Testing

@testable import IOCP

@Suite("The library's lock")
struct FutexLockTests {
    /// What the lock guards.
    private final class Count: @unchecked Sendable {
        let lock = FutexLock()
        var value = 0
    }

    /// Threads that contend for a lock, some of them from behind a filter that refuses the fence.
    private static func contend(refused: Bool) throws {
        let count = Count()
        let threads = (0..<4).map { number in
            SideThread {
                if refused, number % 2 == 0 { try check(forbid(.fence, errno: ENOMEM), "no filter is to be had") }
                for round in 0..<20_000 {
                    count.lock.lock()
                    count.value += 1
                    // Long enough for the others to go to sleep, now and then.
                    if round % 50 == number { sched_yield() }
                    if round % 1000 == number { usleep(50) }
                    count.lock.unlock()
                }
            }
        }
        for thread in threads { try thread.join() }
        try check(count.value == 80_000, "\(count.value) rounds")
    }

    @Test("threads exclude each other, and none that sleeps is forgotten")
    func contention() throws {
        try Self.contend(refused: false)
    }

    @Test("the same when the kernel refuses the fence that makes a sleeper seen")
    func refusedFence() async {
        await #expect(processExitsWith: .success) {
            try exitTest { try Self.contend(refused: true) }
        }
    }
}
