internal import CIOCPSupport
internal import Synchronization

/// A short lock: spins a little, then sleeps on a futex.
///
/// `Synchronization.Mutex` is a priority-inheriting futex on Linux: every contended hand-over costs two system calls.
/// The sections under this lock are tens of nanoseconds long, so a brief spin nearly always suffices.
/// Locking and unlocking are read-modify-write operations with full ordering; the port's sleep protocols rely on it.
struct FutexLock: ~Copyable {
    /// 0 free, 1 held, 2 held and somebody may sleep.
    private let word = Atomic<UInt32>(0)

    @inline(__always)
    borrowing func lock() {
        pass(IOCP_BEFORE_LOCK)
        if !word.compareExchange(expected: 0, desired: 1, ordering: .sequentiallyConsistent).exchanged {
            lockSlow()
        }
    }

    @inline(__always)
    borrowing func tryLock() -> Bool {
        word.compareExchange(expected: 0, desired: 1, ordering: .sequentiallyConsistent).exchanged
    }

    @inline(__always)
    borrowing func unlock() {
        pass(IOCP_BEFORE_UNLOCK)
        if word.exchange(0, ordering: .sequentiallyConsistent) == 2 {
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
        for _ in 0..<60 {
            iocp_cpu_relax()
            if word.load(ordering: .relaxed) == 0,
                word.compareExchange(expected: 0, desired: 1, ordering: .sequentiallyConsistent).exchanged
            {
                return
            }
        }
        guard word.exchange(2, ordering: .sequentiallyConsistent) != 0 else { return }
        // The library's own business: whoever looks must not take the thread for a blocked one (d7).
        let me = IOThread.currentIfKnown
        let wasOut = me?.isOut.exchange(false, ordering: .relaxed)
        repeat {
            futexWait(word, while: 2, nanoseconds: -1)
        } while word.exchange(2, ordering: .sequentiallyConsistent) != 0
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
