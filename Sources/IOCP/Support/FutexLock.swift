internal import CIOCPSupport
internal import Synchronization

/// A short lock: spins a little, then sleeps on a futex.
///
/// `Synchronization.Mutex` is a priority-inheriting futex on Linux: every contended hand-over costs two system calls.
/// The sections under this lock are tens of nanoseconds long, so a brief spin nearly always suffices.
/// Locking and unlocking are read-modify-write operations with full ordering; the port's sleep protocols rely on it.
package struct FutexLock: ~Copyable {
    /// 0 free, else the number of the process that holds it (``Birth``) times two, plus 1 if somebody may sleep. One of
    /// another process is free as well: a fork has left its holder behind.
    private let word = Atomic<UInt32>(0)

    package init() {}

    @inline(__always)
    private static var held: UInt32 { iocp_generation() << 1 }

    @inline(__always)
    package borrowing func lock() {
        pass(IOCP_BEFORE_LOCK)
        if !word.compareExchange(expected: 0, desired: Self.held, ordering: .sequentiallyConsistent).exchanged {
            lockSlow()
        }
        pass(IOCP_LOCKED)
    }

    @inline(__always)
    package borrowing func unlock() {
        pass(IOCP_BEFORE_UNLOCK)
        if word.exchange(0, ordering: .sequentiallyConsistent) & 1 != 0 {
            wakeOne()
        }
        pass(IOCP_AFTER_UNLOCK)
    }

    /// Lets the simulator in, where there is one: it checks what the lock guards, and lets other threads run.
    @inline(__always)
    private borrowing func pass(_ point: iocp_point) {
        #if DEBUG || IOCP_SEAM
        unsafe withUnsafePointer(to: word) { unsafe iocp_pass(point, $0) }
        #endif
    }

    @inline(never)
    private borrowing func lockSlow() {
        let held = Self.held
        for _ in 0..<60 {
            iocp_cpu_relax()
            let now = word.load(ordering: .relaxed)
            if now & ~1 != held,
                word.compareExchange(expected: now, desired: held, ordering: .sequentiallyConsistent).exchanged
            {
                return
            }
        }
        guard word.exchange(held | 1, ordering: .sequentiallyConsistent) & ~1 == held else { return }
        // The library's own business: whoever looks must not take the thread for a blocked one (d7).
        let me = IOThread.currentIfKnown
        let wasOut = me?.isOut.exchange(false, ordering: .relaxed)
        repeat {
            futexWait(word, while: held | 1, nanoseconds: -1)
        } while word.exchange(held | 1, ordering: .sequentiallyConsistent) & ~1 == held
        if let me, let wasOut { me.isOut.store(wasOut, ordering: .relaxed) }
    }

    @inline(never)
    private borrowing func wakeOne() {
        futexWake(word, count: 1)
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
