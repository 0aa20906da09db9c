import Glibc
import Synchronization
import Testing

@testable import IOCP

// What the tests of ports share: waiting for a state in place of sleeping for a while, and counting what is alive.

/// Gives the processor away until a condition holds. Fails the test if it does not within `patience`.
func until(
    _ what: @autoclosure () -> String, _ location: SourceLocation = #_sourceLocation, _ condition: () throws -> Bool
) throws {
    let end = ContinuousClock.now + patience
    var rounds = 0
    while try !condition() {
        try #require(ContinuousClock.now < end, "waited in vain until \(what())", sourceLocation: location)
        rounds += 1
        if rounds < 100 { sched_yield() } else { usleep(200) }
    }
}

extension CompletionPort {
    /// Waits until that many threads are asleep in a dequeue of this port.
    func untilWaiting(_ count: Int, _ location: SourceLocation = #_sourceLocation) throws {
        try until("\(count) threads wait; \(core.snapshot.waiting) do", location) { core.snapshot.waiting == count }
    }

    /// A port that is closed already.
    static func closed() throws -> CompletionPort {
        let port = try CompletionPort(concurrencyLimit: 1)
        port.close()
        return port
    }

    /// Everything that is queued now.
    func drain() throws -> [Packet] {
        var packets: [Packet] = []
        while let packet = try dequeue(timeout: .zero) { packets.append(packet) }
        return packets
    }
}

/// A number that threads count with.
final class Tally: Sendable {
    private let number = Atomic<Int>(0)
    var value: Int { number.load(ordering: .sequentiallyConsistent) }
    func add(_ count: Int = 1) { number.add(count, ordering: .sequentiallyConsistent) }
}

/// An operation that says when it is gone.
final class CountedOperation: IOCP.Operation, @unchecked Sendable {
    private let gone: Tally

    init(_ gone: Tally, capacity: Int = 16) {
        self.gone = gone
        super.init(buffer: IOBuffer(capacity: capacity))
    }

    deinit { gone.add() }
}

/// Memory that says when it is gone.
func countedBuffer(_ gone: Tally, capacity: Int = 16) -> IOBuffer {
    IOBuffer(adopting: .allocate(byteCount: capacity, alignment: 16)) { memory in
        memory.deallocate()
        gone.add()
    }
}

/// Several threads, joined together. What each returned, in the order of their numbers.
func onThreads<Value: Sendable>(_ count: Int, _ body: @escaping @Sendable (Int) throws -> Value) throws -> [Value] {
    let threads = (0..<count).map { number in SideThread { try body(number) } }
    return try threads.map { try $0.join() }
}

/// What the process has open of what ports and handles are made of. The runtime opens other things when it likes.
func openDescriptors() -> Int { openFiles().count }

/// The same, by number and name.
func openFiles() -> [String] {
    guard let directory = opendir("/proc/self/fd") else { return [] }
    defer { _ = closedir(directory) }
    var found: [String] = []
    while let entry = readdir(directory) {
        let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        var link = [UInt8](repeating: 0, count: 64)
        let length = link.withUnsafeMutableBytes {
            readlink("/proc/self/fd/\(name)", $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
        }
        let target = String(decoding: link.prefix(max(0, length)), as: UTF8.self)
        if ["anon_inode:[io_uring]", "socket:", "pipe:"].contains(where: target.hasPrefix) {
            found.append("\(name) \(target)")
        }
    }
    return found
}

/// prctl(2), which is variadic and so unknown to Swift.
private func controlProcess(_ operation: Int32, _ first: UInt, _ second: UInt) -> Int32 {
    typealias Function = @convention(c) (Int32, UInt, UInt, UInt, UInt) -> Int32
    return unsafeBitCast(dlsym(nil, "prctl"), to: Function.self)(operation, first, second, 0, 0)
}

private let setNoNewPrivileges: Int32 = 38
private let setSeccomp: Int32 = 22

/// System calls that a filter can forbid.
enum SystemCall: UInt32, Sendable {
    case setUpRing = 425
    case clone3 = 435
    #if arch(x86_64)
    case clone = 56
    case fence = 324
    case controlEpoll = 233
    case makeEventDescriptor = 290
    case makeEpoll = 291
    case makeTimer = 283
    #else
    case makeEventDescriptor = 19
    case makeEpoll = 20
    case makeTimer = 85
    case controlEpoll = 21
    case clone = 220
    case fence = 283
    #endif
}

/// Makes io_uring_setup(2) fail with an errno, for the calling thread, for good. For child processes only.
func forbidRings(errno code: Int32) -> Bool { forbid(.setUpRing, errno: code) }

/// Makes a system call fail with an errno, for the calling thread and those that it starts, for good. For child processes
/// only.
func forbid(_ call: SystemCall, errno code: Int32) -> Bool {
    struct Instruction {
        var code: UInt16
        var jumpTrue: UInt8 = 0
        var jumpFalse: UInt8 = 0
        var constant: UInt32
    }
    struct Program {
        var count: UInt16
        var instructions: UnsafePointer<Instruction>
    }
    let instructions = [
        Instruction(code: 0x20, constant: 0),  // load the number of the call
        Instruction(code: 0x15, jumpFalse: 1, constant: call.rawValue),  // is it that one?
        Instruction(code: 0x06, constant: 0x0005_0000 | UInt32(code)),  // answer with the errno
        Instruction(code: 0x06, constant: 0x7FFF_0000),  // let it through
    ]
    guard controlProcess(setNoNewPrivileges, 1, 0) == 0 else { return false }
    return instructions.withUnsafeBufferPointer { buffer in
        var program = Program(count: UInt16(buffer.count), instructions: buffer.baseAddress!)
        return withUnsafePointer(to: &program) {
            controlProcess(setSeccomp, 2, UInt(bitPattern: $0)) == 0
        }
    }
}

/// Takes every descriptor that the process may still open. For child processes only.
func holdDescriptors() -> [Int32] {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    limit.rlim_cur = 256
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    var held: [Int32] = []
    while true {
        let descriptor = dup(2)
        if descriptor < 0 { return held }
        held.append(descriptor)
    }
}

/// A value behind a lock. Not `Synchronization.Mutex`: the thread sanitizer does not see its hand-over.
final class Protected<Value>: @unchecked Sendable {
    private let lock = FutexLock()
    private var value: Value

    init(_ value: Value) { self.value = value }

    func withLock<Result>(_ body: (inout Value) throws -> Result) rethrows -> Result {
        lock.lock()
        defer { lock.unlock() }
        return try body(&value)
    }
}

/// Values that one thread gives and another takes, in order.
final class Handover<Value: Sendable>: @unchecked Sendable {
    private let values = Protected<[Value]>([])

    func give(_ value: Value) { values.withLock { $0.append(value) } }

    func take(_ location: SourceLocation = #_sourceLocation) throws -> Value {
        var taken: Value?
        try until("a value is given", location) {
            taken = values.withLock { $0.isEmpty ? nil : $0.removeFirst() }
            return taken != nil
        }
        return taken!
    }

    var all: [Value] { values.withLock { $0 } }
}

/// Lets the calling thread run on the first of its processors only. (The Glibc module lacks these two functions.)
func bindToOneProcessor() throws {
    typealias Function = @convention(c) (pid_t, Int, UnsafeMutableRawPointer) -> Int32
    let get = unsafeBitCast(dlsym(nil, "sched_getaffinity"), to: Function.self)
    let set = unsafeBitCast(dlsym(nil, "sched_setaffinity"), to: Function.self)
    var mask = [UInt8](repeating: 0, count: 1024)
    try #require(get(0, mask.count, &mask) == 0)
    let first = try #require(mask.firstIndex { $0 != 0 })
    let lowest = mask[first] & (~mask[first] &+ 1)
    mask = [UInt8](repeating: 0, count: 1024)
    mask[first] = lowest
    try #require(set(0, mask.count, &mask) == 0)
}

/// A small generator with a seed: the same sequence each time.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
