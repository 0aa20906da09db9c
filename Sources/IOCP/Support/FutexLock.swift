internal import CIOCPSupport
internal import Synchronization

/// A short lock: spins a little, then sleeps on a futex.
///
/// `Synchronization.Mutex` is a priority-inheriting futex on Linux: every contended hand-over costs two system calls.
/// The sections under this lock are tens of nanoseconds long, so a brief spin nearly always suffices.
///
/// Unlocking is a plain store, where the kernel has membarrier(2). What a locked instruction would order is ordered by
/// those who go to sleep instead, which is rare: they make every running thread pass a fence (`iocp_membarrier`) between
/// saying so and looking once more. Whoever unlocks looks at the lock after that: its owner must outlive the call.
package struct FutexLock: ~Copyable {
    /// 0 free, else the number of the process that holds it (``Birth``). One of another process is free as well: a fork
    /// has left its holder behind.
    private let word = Atomic<UInt32>(0)
    /// 1 if somebody may sleep whom nobody has woken. They sleep on this word: whoever is woken, or comes too late to
    /// sleep, sets it again for those who sleep on.
    private let sleeper = Atomic<UInt32>(0)

    package init() {}

    @inline(__always)
    package borrowing func lock() {
        pass(IOCP_BEFORE_LOCK)
        if !word.compareExchange(expected: 0, desired: iocp_generation(), ordering: .sequentiallyConsistent).exchanged {
            lockSlow()
        }
        pass(IOCP_LOCKED)
    }

    /// Takes the lock if it is free. Returns whether it was.
    package borrowing func tryLock() -> Bool {
        guard word.compareExchange(expected: 0, desired: iocp_generation(), ordering: .sequentiallyConsistent).exchanged
        else { return false }
        pass(IOCP_LOCKED)
        return true
    }

    @inline(__always)
    package borrowing func unlock() {
        pass(IOCP_BEFORE_UNLOCK)
        if iocp_has_membarrier() {
            word.store(0, ordering: .releasing)
            iocp_compiler_fence()
        } else {
            _ = word.exchange(0, ordering: .sequentiallyConsistent)
        }
        if sleeper.load(ordering: .relaxed) != 0 { wakeOne() }
        pass(IOCP_AFTER_UNLOCK)
    }

    /// Lets the simulator in, where there is one: it checks what the lock guards, and lets other threads run.
    @inline(__always)
    private borrowing func pass(_ point: iocp_point) {
        #if DEBUG || IOCP_SEAM
        unsafe withUnsafePointer(to: word) { unsafe iocp_pass(point, $0) }
        #endif
    }

    /// Looks at the word that are spaced ever wider: each look takes the word's cache line from the holder, and from
    /// whoever follows on the holder's processor. A few microseconds in all.
    private static let looks = 9
    private static let longestPause = 64
    private static let unseenPause: Int64 = 200_000

    @inline(never)
    private borrowing func lockSlow() {
        let held = iocp_generation()
        var pause = 2
        for _ in 0..<Self.looks {
            for _ in 0..<pause { iocp_cpu_relax() }
            pause = min(pause * 2, Self.longestPause)
            let now = word.load(ordering: .relaxed)
            if now != held,
                word.compareExchange(expected: now, desired: held, ordering: .sequentiallyConsistent).exchanged
            {
                return
            }
        }
        // The library's own business: whoever looks must not take the thread for a blocked one (d7).
        let me = IOThread.currentIfKnown
        let wasOut = me?.isOut.exchange(false, ordering: .relaxed)
        while true {
            sleeper.store(1, ordering: .sequentiallyConsistent)
            // From here on whoever unlocks sees that, or this thread sees the lock free. Unless the kernel refuses the fence
            // (its memory is short, or a filter has come since): then it is not relied upon.
            let isSeen = iocp_membarrier() || !iocp_has_membarrier()
            let now = word.load(ordering: .sequentiallyConsistent)
            if now == held {
                futexWait(sleeper, while: 1, nanoseconds: isSeen ? -1 : Self.unseenPause)
            } else if word.compareExchange(expected: now, desired: held, ordering: .sequentiallyConsistent).exchanged {
                break
            }
        }
        if let me, let wasOut { me.isOut.store(wasOut, ordering: .relaxed) }
    }

    @inline(never)
    private borrowing func wakeOne() {
        if sleeper.exchange(0, ordering: .sequentiallyConsistent) != 0 { futexWake(sleeper, count: 1) }
    }
}

/// Sleeps while the word holds `value`. Returns 0 or a negative errno (-ETIMEDOUT, -EAGAIN, -EINTR).
@discardableResult
func futexWait(_ word: borrowing Atomic<UInt32>, while value: UInt32, nanoseconds: Int64) -> Int32 {
    // An atomic is address-only and never moves while something borrows it, so this is the word itself.
    unsafe withUnsafePointer(to: word) { pointer in
        unsafe iocp_futex_wait(UnsafeRawPointer(pointer).assumingMemoryBound(to: UInt32.self), value, nanoseconds)
    }
}

@discardableResult
func futexWake(_ word: borrowing Atomic<UInt32>, count: Int32) -> Int32 {
    unsafe withUnsafePointer(to: word) { pointer in
        unsafe iocp_futex_wake(UnsafeRawPointer(pointer).assumingMemoryBound(to: UInt32.self), count)
    }
}
