internal import Glibc

/// A thread that can be waited for.
struct Thread {
    private final class Body {
        let call: @Sendable () -> Void
        init(_ call: @escaping @Sendable () -> Void) { self.call = call }
    }

    struct Failure: Error, CustomStringConvertible {
        let code: Int32
        var description: String { "a thread cannot be started: \(unsafe String(cString: strerror(code)))" }
    }

    private let handle: pthread_t

    init(_ call: @escaping @Sendable () -> Void) throws(Failure) {
        let body = unsafe Unmanaged.passRetained(Body(call))
        var handle = pthread_t()
        let code = unsafe pthread_create(
            &handle, nil,
            { pointer in
                unsafe Unmanaged<Body>.fromOpaque(pointer!).takeRetainedValue().call()
                return nil
            }, body.toOpaque())
        guard code == 0 else {
            unsafe body.release()
            throw Failure(code: code)
        }
        self.handle = handle
    }

    func join() { _ = pthread_join(handle, nil) }
    func detach() { _ = pthread_detach(handle) }
}

/// SIGTERM and SIGINT, taken by a thread that waits for them instead of interrupting one that works.
struct StopSignals: Sendable {
    private nonisolated(unsafe) var set = sigset_t()

    /// Blocks the signals in the calling thread and in all that it starts from now on.
    init() {
        unsafe sigemptyset(&set)
        unsafe sigaddset(&set, SIGTERM)
        unsafe sigaddset(&set, SIGINT)
        unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    /// Waits for one of the signals, or until the time is over.
    func wait(seconds: Int? = nil) {
        var set = unsafe set
        guard let seconds else {
            var signal: Int32 = 0
            while unsafe sigwait(&set, &signal) != 0 {}
            return
        }
        var time = timespec(tv_sec: seconds, tv_nsec: 0)
        _ = unsafe sigtimedwait(&set, nil, &time)
    }
}

/// Lets the process have as many descriptors as the system's administrator allows: each connection takes some.
func raiseDescriptorLimit() {
    var limit = rlimit()
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}

/// Writes a line to standard error.
func complain(_ message: String) {
    let line = Array("\(message)\n".utf8)
    _ = unsafe line.withUnsafeBytes { unsafe write(STDERR_FILENO, $0.baseAddress, $0.count) }
}
