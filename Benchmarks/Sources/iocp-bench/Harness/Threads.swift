import CBaselines
import Glibc

private final class ThreadBody: Sendable {
    let run: @Sendable () -> Void

    init(_ run: @escaping @Sendable () -> Void) {
        self.run = run
    }
}

/// A thread that can be waited for.
struct JoinableThread: ~Copyable, Sendable {
    private let thread: pthread_t

    init(_ body: @escaping @Sendable () -> Void) throws {
        var thread = pthread_t()
        let box = unsafe Unmanaged.passRetained(ThreadBody(body))
        let result = unsafe pthread_create(
            &thread, nil,
            { argument in
                unsafe Unmanaged<ThreadBody>.fromOpaque(argument!).takeRetainedValue().run()
                return nil
            }, box.toOpaque())
        guard result == 0 else {
            unsafe box.release()
            throw Failure("starting a thread", errno: result)
        }
        self.thread = thread
    }

    consuming func join() {
        pthread_join(thread, nil)
    }

    consuming func detach() {
        pthread_detach(thread)
    }
}

/// A thread that lives as long as it likes.
func startThread(_ body: @escaping @Sendable () -> Void) throws {
    try JoinableThread(body).detach()
}
