import Glibc
import Testing

@testable import IOCP

// Tests that fork, exec, exit and end threads. Each runs in a process of its own, an exit test, so that children do not
// hold the descriptors of other tests open. What fails there is thrown: `#expect` knows nothing of children.

struct Complaint: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

func check(_ condition: @autoclosure () throws -> Bool, _ what: @autoclosure () -> String, line: Int = #line) throws {
    guard try condition() else { throw Complaint("line \(line): \(what())") }
}

/// The call must fail as it does on what a parent has made before a fork.
func checkInherited(_ what: String, line: Int = #line, _ body: () throws -> Any) throws {
    do {
        _ = try body()
    } catch let error as PortError {
        try check(
            error.status == .invalidHandle && error.reason.contains("before fork"), "\(what): \(error)", line: line)
        return
    }
    throw Complaint("line \(line): \(what) does not fail in the child")
}

/// Whether the thread sanitizer watches.
let isThreadSanitized = dlsym(nil, "__tsan_init") != nil

/// Under the thread sanitizer `swift_once` takes a lock each time, for each look at a global variable and at much generic
/// metadata, and not only the first time. A child that is forked while another thread of its parent's holds that lock waits
/// for it for ever, within the runtime (`once_slow`; seen with Swift 6.3.1): the library can do nothing about it.
let noForkAmongThreads: Comment =
    "the sanitized Swift runtime takes a lock for each look at a global variable, which a fork among threads may leave held"

/// Writes to standard error, without anything that could be locked.
func complain(_ text: String) {
    _ = text.withCString { write(2, $0, strlen($0)) }
}

enum Child {
    /// Forks. The child performs the body and exits without further ado.
    static func start(_ body: () throws -> Void) throws -> pid_t {
        typealias Function = @convention(c) () -> pid_t
        // Swift hides it, since what locks other threads hold is unknown. That is what is tested here.
        let fork = unsafeBitCast(dlsym(nil, "fork"), to: Function.self)
        let child = fork()
        try check(child >= 0, "cannot fork: errno \(errno)")
        guard child == 0 else { return child }
        do {
            try body()
            _exit(0)
        } catch {
            complain("child: \(error)\n")
            _exit(1)
        }
    }

    /// Waits for the end of a child, which must be a success, and not later than the patience of a test.
    static func join(_ child: pid_t, line: Int = #line) throws {
        guard let status = end(of: child) else { throw Complaint("line \(line): a child hangs") }
        try check(status == 0, "a child ended with \(status)", line: line)
    }

    /// How the child has ended; nil if it hung, and had to be killed.
    private static func end(of child: pid_t) -> Int32? {
        var status: Int32 = 0
        let isOver = becomesTrue {
            usleep(500)
            return waitpid(child, &status, WNOHANG) == child
        }
        if isOver { return status }
        kill(child, SIGKILL)
        waitpid(child, &status, 0)
        return nil
    }

    /// Forks, and waits for the child.
    ///
    /// Under the thread sanitizer a child that hangs may do so within the runtime (``noForkAmongThreads``): it is tried
    /// again then. What hangs each time is a fault of the library's.
    static func run(line: Int = #line, _ body: () throws -> Void) throws {
        for attempt in 1... {
            let status = try end(of: start(body))
            if status == nil, isThreadSanitized, attempt < 3 { continue }
            guard let status else { throw Complaint("line \(line): a child hangs") }
            try check(status == 0, "a child ended with \(status)", line: line)
            return
        }
    }
}

/// A program and its arguments, ready to be executed by a child.
final class Command {
    private var arguments: [UnsafeMutablePointer<CChar>?]

    init(_ words: String...) { arguments = words.map { strdup($0) } + [nil] }

    deinit { for argument in arguments { free(argument) } }

    /// Replaces the process. Returns only if that fails.
    func exec() { execv(arguments[0]!, &arguments) }
}

/// Pseudo-random numbers that a seed gives again.
struct Dice {
    private var state: UInt64

    init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }

    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state
    }

    mutating func below(_ bound: Int) -> Int { Int(next() >> 11) % bound }
}

/// The descriptors of the process, without that of the look.
func openNumbers() -> [Int32] {
    (0..<4096).filter { fcntl($0, F_GETFD) >= 0 }
}

/// An operation on a port that was made here.
func checkRoundTrip() throws {
    let port = try CompletionPort(concurrencyLimit: 1)
    let (left, right) = try Socket.pair()
    try port.associate(left, key: 1)
    let operation = IOCP.Operation(capacity: 8)
    try left.receive(operation)
    writeRaw("abc", to: right)
    let packet = try port.dequeue(timeout: patience)
    try check(packet?.operation === operation && packet?.bytes == 3, "the receive of a port of this process")
}

/// Everything that a port has of its own: rings, the observer, threads that wait and are woken.
func checkWholePort() throws {
    try checkRoundTrip()
    let port = try CompletionPort(concurrencyLimit: 2)
    let waiters = (0..<3).map { _ in SideThread { try port.dequeue(timeout: patience)?.key } }
    try until("all wait") { port.core.snapshot.waiting == 3 }
    for key in 1...3 { try port.post(key: UInt(key)) }
    let keys = try waiters.map { try $0.join() ?? 0 }
    try check(keys.sorted() == [1, 2, 3], "the waiters got \(keys)")
    // Without a port: the observer sees the end.
    let (left, right) = try Socket.pair()
    let operation = IOCP.Operation(capacity: 8)
    try left.receive(operation)
    writeRaw("abc", to: right)
    try check(try operation.waitForCompletion(timeout: patience) == .success, "an operation without a port")
    // Deferred by a thread that exits: the observer submits and harvests it.
    let (near, far) = try Socket.pair()
    try port.associate(near, key: 7)
    let late = IOCP.Operation(capacity: 8)
    try SideThread {
        _ = try port.dequeue(timeout: .zero)
        _ = try near.receive(late)
    }.join()
    writeRaw("abc", to: far)
    try check(try port.dequeue(timeout: patience)?.operation === late, "an operation of a thread that is gone")
    let event = CompletionEvent()
    let waiting = SideThread { try event.wait(timeout: patience) }
    event.set()
    try check(try waiting.join(), "an event of this process")
}

/// Does in the parent what children will do. Swift's runtime makes what generic code needs when it is first used, under
/// locks that know nothing of forks: a child must find all of it made.
func warmUp() throws {
    try checkWholePort()
    let closed = try CompletionPort.closed()
    for what in ["dequeue", "start"] {
        do {
            try checkInherited(what) { try closed.dequeue() as Any }
        } catch let complaint as Complaint {
            try check(!"\(complaint)".isEmpty, "no text")
        }
    }
}
