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
        var status: Int32 = 0
        let isOver = becomesTrue {
            usleep(500)
            return waitpid(child, &status, WNOHANG) == child
        }
        if !isOver {
            kill(child, SIGKILL)
            waitpid(child, &status, 0)
            throw Complaint("line \(line): a child hangs")
        }
        try check(status == 0, "a child ended with \(status)", line: line)
    }

    static func run(line: Int = #line, _ body: () throws -> Void) throws {
        try join(start(body), line: line)
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
