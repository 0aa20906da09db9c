import Foundation
import Glibc
import Testing

/// A fault that strace(1) puts in the place of system calls: each thread's call of that kind with the number `when`, or
/// of that series, fails and does not reach the kernel.
struct Injection: Sendable, CustomTestStringConvertible {
    let calls: String
    let error: String
    let when: String
    /// Only calls on descriptors of this name.
    let path: String?

    init(_ calls: String, _ error: String, _ when: String, path: String? = nil) {
        self.calls = calls
        self.error = error
        self.when = when
        self.path = path
    }

    var testDescription: String { "\(calls): \(error), \(when)" }

    /// Of strace, which writes down the calls that have failed. It is a grandchild, so that the server stays the child.
    func arguments(log: String) -> [String] {
        ["-D", "-f", "-qq", "-o", log, "-e", "trace=\(calls)", "-e", "status=failed"] + (path.map { ["-P", $0] } ?? [])
            + ["-e", "inject=\(calls):error=\(error):when=\(when)"]
    }

    /// How many faults the log tells of.
    static func count(in log: String) -> Int {
        ((try? String(contentsOfFile: log, encoding: .utf8)) ?? "").components(separatedBy: "(INJECTED)").count - 1
    }

    static let entries = ["EINTR", "EAGAIN", "EBUSY", "ENOMEM"].map { Injection("io_uring_enter", $0, "3+7") }

    static let all: [Injection] =
        entries
        + [
            // Every other one; many in a row; from the first on.
            Injection("io_uring_enter", "EINTR", "2+2"), Injection("io_uring_enter", "EBUSY", "4+2"),
            Injection("io_uring_enter", "EAGAIN", "5..60"), Injection("io_uring_enter", "ENOMEM", "10..40"),
            Injection("io_uring_enter", "EINTR", "1..50"),
            // Wake-ups and cancels: at the latest, the stop wakes a sleeper.
            Injection("io_uring_register", "EINTR", "1+2"), Injection("io_uring_register", "EAGAIN", "1+2"),
            Injection("io_uring_register", "EBUSY", "1+2"), Injection("io_uring_register", "ENOMEM", "1+2"),
            // The monitor's.
            Injection("?epoll_wait,?epoll_pwait", "EINTR", "1+2"),
            Injection("write", "EINTR", "1+2", path: "anon_inode:[eventfd]"),
            Injection("write", "EAGAIN", "1+2", path: "anon_inode:[eventfd]"),
            // As if the kernel had no such fence.
            Injection("membarrier", "ENOMEM", "1"),
            // All at once.
            Injection("io_uring_enter,?epoll_wait,?epoll_pwait", "EINTR", "3+3"),
        ]

    /// The C library's locks do not get over these, so the threads must not contend for them: one runs at a time.
    static let sleepsAndWakeUps = [Injection("futex", "EINTR", "3+7"), Injection("futex", "EAGAIN", "2+3")]

    /// Why nothing can be injected here, or nil.
    static let obstacle: String? = {
        guard Tool.path("strace") != nil else { return "strace is not installed; .ci/setup --clients installs it" }
        let probe = Injection("getppid", "EINTR", "1")
        guard (try? Tool.run("strace", probe.arguments(log: "/dev/null") + ["/bin/true"]).code) == 0 else {
            return "strace may not trace here (ptrace(2)), or is older than 6.1"
        }
        guard ["echo-server", "http-file-server", "resp-server"].allSatisfy(ServerProcess.isBuiltForRelease) else {
            return "the servers are not built for release; make test-examples does"
        }
        return nil
    }()

    static var isPossible: Bool { obstacle == nil }
    static var comment: Comment { Comment(rawValue: obstacle ?? "") }
}

extension Examples {
    @Suite(
        "faults injected into the servers' system calls from outside",
        .enabled(if: Injection.isPossible, Injection.comment))
    struct InjectionTests {
        @Test(
            "every byte comes back, in order, and the server stops as ever",
            arguments: Injection.all + Injection.sleepsAndWakeUps)
        func echo(_ injection: Injection) throws {
            let limit = injection.calls == "futex" ? "1" : "2"
            let server = try ServerProcess("echo-server", ["--workers", "4", "--limit", limit], under: injection)
            try inParallel(6) { [port = server.port] number in
                for round in 0..<8 {
                    let client = try Client(port)
                    for part in 0..<4 {
                        let bytes = pattern(
                            1 + 7919 * ((number + round * 3 + part) % 6), seed: UInt64(number * 100 + round))
                        client.sendInBackground(bytes)
                        guard try client.receive(bytes.count) == bytes else { throw WrongAnswer(what: "an echo") }
                    }
                    // Some end, some are reset.
                    if round % 3 == 0 {
                        client.endSending()
                        guard try client.receiveAll().isEmpty else { throw WrongAnswer(what: "an end") }
                    } else if round % 3 == 1 {
                        client.resetOnClose()
                    }
                }
            }
            #expect(server.stop() == 0)
            #expect(server.hasHadFaults())
        }

        @Test(
            "wrk finds no fault with any answer",
            .enabled(if: Tool.path("wrk") != nil, "wrk is not installed; .ci/setup --clients installs it"),
            arguments: Injection.entries)
        func http(_ injection: Injection) throws {
            let site = try Site()
            let server = try ServerProcess("http-file-server", [site.path + "/root"], under: injection)
            // Beside it, answers are compared.
            let comparing = Background { [port = server.port, big = site.big, small = site.small] in
                for round in 0..<20 {
                    let client = try Client(port)
                    for part in 0..<5 {
                        let start = round * 900_000 + part * 100
                        let response = try client.get("/big.bin", "Range: bytes=\(start)-\(start + 99_999)")
                        guard response.status == 206, response.body[...] == big[start..<start + 100_000] else {
                            throw WrongAnswer(what: "a range")
                        }
                        let index = try client.get("/")
                        guard index.status == 200, index.body == small else { throw WrongAnswer(what: "a file") }
                    }
                }
            }
            let (code, output) = try Tool.run("wrk", ["-t1", "-c32", "-d2s", "http://127.0.0.1:\(server.port)/"])
            #expect(code == 0)
            #expect(output.contains("Requests/sec") && !output.contains("Requests/sec:      0.00"), "\(output)")
            #expect(!output.contains("Non-2xx") && !output.contains("Socket errors"), "\(output)")
            try comparing.join()
            #expect(server.stop() == 0)
            #expect(server.hasHadFaults())
        }

        @Test(
            "redis-benchmark has no error, and every value is right",
            .enabled(
                if: Tool.path("redis-benchmark") != nil,
                "redis-benchmark is not installed; .ci/setup --clients installs it"),
            arguments: Injection.entries)
        func resp(_ injection: Injection) throws {
            let server = try ServerProcess("resp-server", ["--workers", "4", "--limit", "2"], under: injection)
            let comparing = Background { [port = server.port] in
                try inParallel(3) { number in
                    let client = try Client(port)
                    for round in 1...60 {
                        let value = pattern(round * 331, seed: UInt64(number + round))
                        let key = Array("key \(number)".utf8)
                        try client.command(Array("SET".utf8), key, value)
                        guard try client.receive(until: "\r\n") == "+OK\r\n" else { throw WrongAnswer(what: "a SET") }
                        try client.command(Array("GET".utf8), key)
                        guard try client.receiveBulk() == value else { throw WrongAnswer(what: "a GET") }
                        guard try client.ask("INCR", "mine \(number)") == ":\(round)\r\n" else {
                            throw WrongAnswer(what: "an INCR")
                        }
                    }
                }
            }
            let (code, output) = try Tool.run(
                "redis-benchmark",
                ["-p", "\(server.port)", "-q", "-n", "8000", "-c", "20", "-P", "16", "-t", "ping,set,get,incr"])
            #expect(code == 0)
            #expect(output.split(separator: "requests per second").count - 1 == 5, "\(output)")
            #expect(!output.contains("Error") && !output.contains("WARN"), "\(output)")
            try comparing.join()
            let client = try Client(server.port)
            #expect(try client.ask("GET", "counter:__rand_int__") + client.receive(until: "\r\n") == "$4\r\n8000\r\n")
            #expect(server.stop() == 0)
            #expect(server.hasHadFaults())
        }
    }
}

private struct WrongAnswer: Error {
    let what: String
}

/// Threads, joined together. Throws what one of them has thrown.
private func inParallel(_ count: Int, _ body: @escaping @Sendable (Int) throws -> Void) throws {
    let threads = (0..<count).map { number in Background { try body(number) } }
    for thread in threads { try thread.join() }
}

/// A thread that can be waited for.
private final class Background: @unchecked Sendable {
    // Unchecked: `result` is written before the semaphore is signalled, and read after it.
    private let done = DispatchSemaphore(value: 0)
    private var result: Result<Void, any Error>?

    init(_ body: @escaping @Sendable () throws -> Void) {
        Thread.detachNewThread { [self] in
            result = Result { try body() }
            done.signal()
        }
    }

    func join() throws {
        done.wait()
        try result!.get()
    }
}
