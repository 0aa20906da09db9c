import Glibc
import IOUring
import Synchronization
import Testing

/// Every test is bounded: a completion that does not come in this time does not come.
let patience = Duration.seconds(10)

extension Trait where Self == ConditionTrait {
    /// A test of something that older kernels have not, which is told to be skipped there.
    static func kernel(_ has: @escaping @Sendable (Capabilities) -> Bool) -> Self {
        .enabled("the kernel or liburing cannot do it") { try has(Capabilities.probe()) }
    }
}

/// A ring of modest size.
func smallRing(_ flags: SetupFlags = [.cooperativeTaskrun, .taskrunFlag, .submitAll]) throws -> Ring {
    try Ring(RingOptions(submissionEntries: 32, completionEntries: 64, flags: flags))
}

extension SubmissionEntry {
    /// The same entry with this user data and these flags.
    func tagged(_ userData: UInt64, _ flags: EntryFlags = []) -> SubmissionEntry {
        var entry = self
        entry.userData = userData
        entry.flags.formUnion(flags)
        return entry
    }
}

extension Ring {
    /// Submits entries and collects completions until there are as many as asked for, or patience ends.
    mutating func run(_ entries: [SubmissionEntry], completions count: Int? = nil) throws -> [Completion] {
        for entry in entries {
            let taken = enqueue(entry)
            try #require(taken)
        }
        return try collect(count ?? entries.count)
    }

    mutating func collect(_ count: Int) throws -> [Completion] {
        var all: [Completion] = []
        while all.count < count {
            let any = try submitAndWait(for: 1, timeout: patience)
            try #require(any, "no completion in time; have \(all)")
            forEachCompletion { all.append($0) }
        }
        return all
    }

    /// The result of the completion with each user data.
    mutating func results(_ entries: [SubmissionEntry]) throws -> [UInt64: Int32] {
        var results: [UInt64: Int32] = [:]
        for completion in try run(entries) { results[completion.userData] = completion.result }
        return results
    }
}

/// Memory that outlives the operations of a test.
@safe
struct Memory: ~Copyable {
    let bytes: UnsafeMutableRawBufferPointer

    init(_ count: Int, filledWith byte: UInt8 = 0) {
        unsafe bytes = .allocate(byteCount: count, alignment: 4096)
        unsafe bytes.initializeMemory(as: UInt8.self, repeating: byte)
    }

    init(_ text: String) {
        self.init(text.utf8.count)
        unsafe bytes.copyBytes(from: text.utf8)
    }

    deinit { unsafe bytes.deallocate() }

    var base: UnsafeMutableRawPointer { unsafe bytes.baseAddress! }
    var count: UInt32 { unsafe UInt32(bytes.count) }
    func text(_ range: Range<Int>) -> String { unsafe String(decoding: bytes[range], as: UTF8.self) }
    func text(_ count: Int32) -> String { text(0..<max(0, Int(count))) }
}

/// A descriptor that closes itself.
struct Descriptor: ~Copyable {
    let value: Int32
    init(_ value: Int32) throws {
        try #require(value >= 0, "errno \(errno)")
        self.value = value
    }
    deinit { close(value) }
}

/// A temporary file without a name.
func temporaryFile() throws -> Descriptor {
    var template = Array("/tmp/iouring-test-XXXXXX".utf8CString)
    let fd = unsafe template.withUnsafeMutableBufferPointer { buffer in
        let fd = unsafe mkstemp(buffer.baseAddress!)
        if fd >= 0 { unsafe unlink(buffer.baseAddress!) }
        return fd
    }
    return try Descriptor(fd)
}

let stream = Int32(SOCK_STREAM.rawValue)

func socketPair() throws -> (Int32, Int32) {
    var pair: (Int32, Int32) = (-1, -1)
    let code = unsafe withUnsafeMutableBytes(of: &pair) {
        unsafe socketpair(AF_UNIX, stream, 0, $0.baseAddress!.assumingMemoryBound(to: Int32.self))
    }
    try #require(code == 0)
    return pair
}

/// A socket that listens on a free port of the loopback interface, and that port's address.
func listener() throws -> (fd: Int32, address: sockaddr_in) {
    let fd = socket(AF_INET, stream, 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let size = length
    let code = unsafe withUnsafeMutablePointer(to: &address) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
            unsafe bind(fd, pointer, size) == 0 && listen(fd, 16) == 0 && getsockname(fd, pointer, &length) == 0
        }
    }
    try #require(code)
    return (fd, address)
}

/// A thread of its own: tests block, which the threads of Swift's concurrency must not.
@safe
struct Worker: ~Copyable {
    private final class Box {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }

    let thread: pthread_t

    init(_ body: @escaping @Sendable () -> Void) {
        var thread = pthread_t()
        let box = unsafe Unmanaged.passRetained(Box(body)).toOpaque()
        unsafe pthread_create(
            &thread, nil,
            { argument in
                unsafe Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue().body()
                return nil
            }, box)
        self.thread = thread
    }

    deinit { pthread_join(thread, nil) }
}

func now() -> ContinuousClock.Instant { ContinuousClock.now }

/// prctl(2), which is variadic and so unknown to Swift.
func controlProcess(_ operation: Int32, _ first: UInt, _ second: UInt) -> Int32 {
    typealias Function = @convention(c) (Int32, UInt, UInt, UInt, UInt) -> Int32
    let symbol = unsafe dlsym(nil, "prctl")
    return unsafe unsafeBitCast(symbol, to: Function.self)(operation, first, second, 0, 0)
}

// What Swift's Glibc module does not import: RLIMIT_MEMLOCK, PR_SET_NO_NEW_PRIVS and PR_SET_SECCOMP.
let lockedMemoryLimit = __rlimit_resource_t(8)
let noNewPrivileges: Int32 = 38
let setFilter: Int32 = 22

/// Makes io_uring_setup(2) fail with an errno, for the calling thread, for good. For child processes only.
func filterSetup(errno code: UInt32) -> Bool {
    struct Instruction {
        var code: UInt16
        var jumpTrue: UInt8 = 0
        var jumpFalse: UInt8 = 0
        var constant: UInt32
    }
    @unsafe struct Program {
        var count: UInt16
        var instructions: UnsafePointer<Instruction>
    }
    let instructions = [
        Instruction(code: 0x20, constant: 0),  // load the number of the call
        Instruction(code: 0x15, jumpFalse: 1, constant: 425),  // is it io_uring_setup?
        Instruction(code: 0x06, constant: 0x0005_0000 | code),  // answer with the errno
        Instruction(code: 0x06, constant: 0x7FFF_0000),  // let it through
    ]
    guard controlProcess(noNewPrivileges, 1, 0) == 0 else { return false }
    return unsafe instructions.withUnsafeBufferPointer { buffer in
        var program = unsafe Program(count: UInt16(buffer.count), instructions: buffer.baseAddress!)
        return unsafe withUnsafePointer(to: &program) {
            controlProcess(setFilter, 2, UInt(bitPattern: $0)) == 0
        }
    }
}

/// A thread in an array; the other kind cannot be stored in one.
final class JoinedThread: Sendable {
    private let worker: Mutex<Worker?>
    init(_ body: @escaping @Sendable () -> Void) { worker = Mutex(Worker(body)) }
    func join() { worker.withLock { $0 = nil } }
}

/// A ring under two locks, one for each side. Not Swift's `Mutex`: the thread sanitizer does not see into it.
///
/// Unchecked, as the locks are what makes it so.
@safe
final class Locked: @unchecked Sendable {
    private var ring: Ring
    let completions: CompletionQueue
    private let locks: UnsafeMutablePointer<pthread_mutex_t>

    init(_ ring: consuming Ring) {
        completions = ring.completionQueue
        self.ring = ring
        unsafe locks = .allocate(capacity: 2)
        for index in 0..<2 { unsafe pthread_mutex_init(locks + index, nil) }
    }

    deinit { unsafe locks.deallocate() }

    func submitting<Result>(_ body: (inout Ring) -> Result) -> Result {
        unsafe pthread_mutex_lock(locks)
        defer { unsafe pthread_mutex_unlock(locks) }
        return body(&ring)
    }

    func completing<Result>(_ body: (CompletionQueue) -> Result) -> Result {
        unsafe pthread_mutex_lock(locks + 1)
        defer { unsafe pthread_mutex_unlock(locks + 1) }
        return body(completions)
    }
}

/// Something that happened.
final class Flag: Sendable {
    private let value = Atomic(false)
    var isSet: Bool { value.load(ordering: .acquiring) }
    func set() { value.store(true, ordering: .releasing) }
}
