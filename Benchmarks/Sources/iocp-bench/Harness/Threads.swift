import CBaselines
import Glibc

/// A thread that can be waited for, once.
final class WaitableThread: Sendable {
    private let thread: pthread_t

    private final class Body: Sendable {
        let run: @Sendable () -> Void

        init(_ run: @escaping @Sendable () -> Void) {
            self.run = run
        }
    }

    init(_ body: @escaping @Sendable () -> Void) throws {
        var thread = pthread_t()
        let box = unsafe Unmanaged.passRetained(Body(body))
        let result = unsafe pthread_create(
            &thread, nil,
            { argument in
                unsafe Unmanaged<Body>.fromOpaque(argument!).takeRetainedValue().run()
                return nil
            }, box.toOpaque())
        guard result == 0 else {
            unsafe box.release()
            throw Failure("starting a thread", errno: result)
        }
        self.thread = thread
    }

    func join() {
        pthread_join(thread, nil)
    }

    /// In place of ``join()``, for a thread that lives as long as the process.
    func detach() {
        pthread_detach(thread)
    }
}

/// Holds threads back until all have arrived.
@safe
final class StartBarrier: @unchecked Sendable {
    // Unchecked: the barrier is made for threads, and stays where it is.
    private let barrier: UnsafeMutablePointer<pthread_barrier_t>

    init(threads: Int) {
        unsafe barrier = .allocate(capacity: 1)
        unsafe pthread_barrier_init(barrier, nil, UInt32(threads))
    }

    deinit {
        unsafe pthread_barrier_destroy(barrier)
        unsafe barrier.deallocate()
    }

    func wait() {
        unsafe pthread_barrier_wait(barrier)
    }
}
