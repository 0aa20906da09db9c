import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP

// Threads that do as they are told, step by step, and ways to see what a port thinks of them.

/// A packet, in a form that crosses threads.
struct Seen: Sendable {
    let key: UInt
    let information: UInt
    let status: CompletionStatus
    let operation: IOCP.Operation?
    let socket: Socket?
    let isMore: Bool

    init(_ packet: Packet) {
        key = packet.key
        information = packet.information
        status = packet.status
        operation = packet.operation
        socket = packet.acceptedSocket
        isMore = packet.isMore
    }
}

struct TookTooLong: Error {}

private func monotonicNow() -> Int64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}

/// Polls, giving the processor away, until the condition holds; false after half a minute.
func becomesTrue(_ condition: () throws -> Bool) rethrows -> Bool {
    let end = monotonicNow() + 30_000_000_000
    while try !condition() {
        if monotonicNow() > end { return false }
        sched_yield()
    }
    return true
}

/// Whether the condition holds for a short while on end: what must not happen cannot be waited for.
func staysTrue(for milliseconds: Int64 = 100, _ condition: () throws -> Bool) rethrows -> Bool {
    let end = monotonicNow() + milliseconds * 1_000_000
    while monotonicNow() < end {
        guard try condition() else { return false }
        usleep(1000)
    }
    return true
}

/// The result of a step that another thread performs.
final class Ticket<Value: Sendable>: Sendable {
    private let result = Protected<Result<Value, any Error>?>(nil)

    func fulfil(_ outcome: Result<Value, any Error>) { result.withLock { $0 = outcome } }

    var isDone: Bool { result.withLock { $0 != nil } }

    func value() throws -> Value {
        guard becomesTrue({ isDone }) else { throw TookTooLong() }
        return try result.withLock { $0! }.get()
    }
}

/// A real thread that performs steps. Between two of them it is *busy*: it spins, and never blocks, so that a port that
/// it is tied to counts it as running.
@safe final class ScriptedThread: Sendable {
    private struct Script {
        var steps: [@Sendable () -> Void] = []
        var ends = false
        var isJoined = false
    }

    private let script = Protected(Script())
    private nonisolated(unsafe) let handle: UnsafeMutablePointer<pthread_t>

    init() {
        unsafe handle = .allocate(capacity: 1)
        unsafe handle.initialize(to: pthread_t())
        let code = unsafe pthread_create(
            handle, nil,
            { argument in
                unsafe Unmanaged<ScriptedThread>.fromOpaque(argument!).takeRetainedValue().run()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        precondition(code == 0)
    }

    deinit {
        unsafe handle.deallocate()
    }

    private func run() {
        while true {
            let (step, ends) = script.withLock { script in
                (script.steps.isEmpty ? nil : script.steps.removeFirst(), script.ends)
            }
            if let step {
                step()
            } else if ends {
                return
            } else {
                // Not under the lock for long: a waiter for that lock would be blocked.
                for _ in 0..<20 { sched_yield() }
            }
        }
    }

    /// Has the thread perform a step after those before it.
    @discardableResult
    func start<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) -> Ticket<Value> {
        let ticket = Ticket<Value>()
        script.withLock { script in
            script.steps.append { ticket.fulfil(Result { try body() }) }
        }
        return ticket
    }

    /// Has the thread perform a step now and waits for it.
    @discardableResult
    func perform<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) throws -> Value {
        try start(body).value()
    }

    /// Has the thread exit after its steps, without waiting for that.
    func leave() { script.withLock { $0.ends = true } }

    /// Ends the thread after its steps and waits until it is gone, with what it leaves behind done.
    func exit() {
        leave()
        let first = script.withLock { script in
            defer { script.isJoined = true }
            return !script.isJoined
        }
        if first { unsafe pthread_join(handle.pointee, nil) }
    }

    // MARK: Steps with ports

    /// Begins to dequeue one packet.
    func dequeue(_ port: CompletionPort, timeout: Duration? = nil) -> Ticket<Seen?> {
        start { try port.dequeue(timeout: timeout).map(Seen.init) }
    }

    /// Begins to dequeue and returns once the thread waits in the port, behind those who wait already.
    func waits(on port: CompletionPort, timeout: Duration? = nil) -> Ticket<Seen?> {
        let before = port.core.snapshot.waiting
        let ticket = dequeue(port, timeout: timeout)
        #expect(becomesTrue { port.core.snapshot.waiting == before + 1 || ticket.isDone }, "the thread does not wait")
        return ticket
    }
}

/// Gives a test a port with so many threads, and ends them all however the test ends.
func withPort<Result>(
    limit: Int, threads count: Int, options: CompletionPort.Options = .init(),
    _ body: (CompletionPort, [ScriptedThread]) throws -> Result
) throws -> Result {
    let port = try CompletionPort(concurrencyLimit: limit, options: options)
    let threads = (0..<count).map { _ in ScriptedThread() }
    defer {
        port.close()
        for thread in threads { thread.exit() }
    }
    return try body(port, threads)
}

/// The same with a port that sees no blocking from outside: what it counts then depends on what its threads say only, not
/// on a page that a busy one waits for, or a lock of a sanitizer's.
func withUnwatchedPort<Result>(
    limit: Int, threads count: Int, options: CompletionPort.Options = .init(),
    _ body: (CompletionPort, [ScriptedThread]) throws -> Result
) throws -> Result {
    var options = options
    options.seesBlocking = false
    return try withPort(limit: limit, threads: count, options: options, body)
}

/// Two ends of a TCP connection over the loopback interface.
func tcpPair() throws -> (client: Socket, server: Socket) {
    let listener = try Socket.listening(at: .loopback(port: 0))
    let client = try Socket(.stream, family: .ipv4)
    try client.connectAndWait(to: listener.localAddress())
    let descriptor = Glibc.accept(listener.file.descriptor, nil, nil)
    precondition(descriptor >= 0)
    return (client, try Socket(adopting: FileDescriptor(rawValue: descriptor)))
}

/// Writes bytes into a socket or pipe, past the library.
func writeRaw(_ text: String, to handle: IOHandle) {
    let bytes = Array(text.utf8)
    let count = unsafe Glibc.write(handle.file.descriptor, bytes, bytes.count)
    precondition(count == bytes.count)
}

/// Reads what is there, past the library.
func readRaw(_ count: Int, from handle: IOHandle) -> String {
    var bytes = [UInt8](repeating: 0, count: count)
    let got = unsafe Glibc.read(handle.file.descriptor, &bytes, count)
    return String(decoding: bytes.prefix(max(0, got)), as: UTF8.self)
}
