import Glibc
import IOCP
import IOCPHosting
import Synchronization
import SystemPackage
import Testing

// What the tests of hosting share: a runtime that records, OVERLAPPEDs in raw memory, and waiting for a state.

/// Long enough for a loaded machine, short enough not to look like a hang.
let patience = Duration.seconds(30)

/// Whether the test program is instrumented.
let isSanitized = dlsym(nil, "__tsan_init") != nil || dlsym(nil, "__asan_init") != nil

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

/// Whether the condition holds for a short while on end: what must not happen cannot be waited for.
func staysTrue(for milliseconds: Int = 60, _ condition: () throws -> Bool) rethrows -> Bool {
    let end = ContinuousClock.now + .milliseconds(milliseconds)
    while ContinuousClock.now < end {
        guard try condition() else { return false }
        usleep(1000)
    }
    return true
}

/// The result that a call throws, or nil if it throws nothing.
func thrown(_ body: () throws -> Any) -> HResult? {
    do {
        _ = try body()
        return nil
    } catch {
        return error as? HResult ?? HResult(rawValue: 0xFFFF_FFFF)
    }
}

/// The Win32 code of what a call throws; 0 if it throws nothing.
func thrownCode(_ body: () throws -> Any) -> UInt32 {
    do {
        _ = try body()
        return 0
    } catch {
        return (error as? PortError)?.status.win32Code ?? .max
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

/// Objects that are never freed, which the leak checker is told by keeping them here: references that a thread held when
/// the runtime ended it are lost with it.
let keptForEver = Protected<[AnyObject]>([])

/// What a runtime was told.
struct Told: Sendable, Equatable {
    var error: UInt32
    var bytes: UInt32
    var overlapped: UInt
}

/// A runtime's manager that records what it is told, then does as the test says.
final class Recorder: CLRIOCompletionManager, @unchecked Sendable {
    private let log = Protected<[Told]>([])
    private let action: @Sendable (Told) throws(HResult) -> Void

    init(_ action: @escaping @Sendable (Told) throws(HResult) -> Void = { _ in }) { self.action = action }

    func onComplete(error: UInt32, bytes: UInt32, overlapped: UnsafeMutableRawPointer?) throws(HResult) {
        let told = Told(error: error, bytes: bytes, overlapped: UInt(bitPattern: overlapped))
        log.withLock { $0.append(told) }
        try action(told)
    }

    var all: [Told] { log.withLock { $0 } }

    /// Waits for that many, and returns them.
    func waitFor(_ count: Int, _ location: SourceLocation = #_sourceLocation) throws -> [Told] {
        try until("\(count) completions; there are \(all.count)", location) { all.count >= count }
        return all
    }
}

/// An OVERLAPPED in raw memory, the host's bytes behind it, and a buffer.
final class Block: @unchecked Sendable {
    let memory: UnsafeMutableRawPointer
    let buffer: UnsafeMutableRawBufferPointer

    init(_ host: any IOCompletionHost, capacity: Int = 64, isReady: Bool = true) throws {
        let size = HostOverlapped.headerSize + Int(try host.getHostOverlappedSize())
        // Exactly as aligned as malloc promises to be on 32 bits, and not more: 8 of 16.
        memory = UnsafeMutableRawPointer.allocate(byteCount: size + 8, alignment: 16) + 8
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: size)
        buffer = .allocate(byteCount: capacity, alignment: 16)
        buffer.initializeMemory(as: UInt8.self, repeating: 0)
        if isReady { try host.initializeHostOverlapped(memory) }
    }

    deinit {
        (memory - 8).deallocate()
        buffer.deallocate()
    }

    var overlapped: HostOverlapped { HostOverlapped(memory) }
    var address: UInt { UInt(bitPattern: memory) }
    var rawBuffer: UnsafeRawBufferPointer { UnsafeRawBufferPointer(buffer) }

    func fill(_ text: String) -> UnsafeRawBufferPointer {
        buffer.copyBytes(from: text.utf8)
        return UnsafeRawBufferPointer(rebasing: rawBuffer[..<text.utf8.count])
    }

    func text(_ count: Int) -> String { String(decoding: rawBuffer[..<count], as: UTF8.self) }
}

/// A host with a recording runtime.
func hosted(
    min: UInt32 = 1, max: UInt32 = 8, limit: Int = 0,
    _ adjust: (inout HostIOCompletionManager.Options) -> Void = { _ in },
    _ action: @escaping @Sendable (Told) throws(HResult) -> Void = { _ in }
) throws -> (host: HostIOCompletionManager, runtime: Recorder) {
    var options = HostIOCompletionManager.Options()
    options.minThreads = min
    options.maxThreads = max
    options.concurrencyLimit = limit
    adjust(&options)
    let host = try HostIOCompletionManager(options: options)
    let runtime = Recorder(action)
    try host.setCLRIOCompletionManager(runtime)
    return (host, runtime)
}

/// Writes bytes into a socket or pipe, past the library.
func writeRaw(_ text: String, to handle: IOHandle, _ location: SourceLocation = #_sourceLocation) throws {
    let bytes = Array(text.utf8)
    let count = Glibc.write(handle.descriptor.rawValue, bytes, bytes.count)
    try #require(count == bytes.count, sourceLocation: location)
}

/// A file of a test's own, without a name.
func scratchFile(_ bytes: [UInt8] = []) throws -> File {
    var template = Array("/tmp/iocp-hosting-XXXXXX".utf8CString)
    let descriptor = mkstemp(&template)
    try #require(descriptor >= 0)
    close(descriptor)
    let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    defer { unlink(path) }
    let file = try File(FilePath(path), .readWrite)
    let count = pwrite(file.descriptor.rawValue, bytes, bytes.count, 0)
    try #require(count == bytes.count)
    return file
}

/// Threads of this process whose name says that they are a host's.
func hostThreads() -> Int {
    guard let directory = opendir("/proc/self/task") else { return -1 }
    defer { _ = closedir(directory) }
    var count = 0
    while let entry = readdir(directory) {
        let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let file = open("/proc/self/task/\(name)/comm", O_RDONLY)
        guard file >= 0 else { continue }
        var text = [UInt8](repeating: 0, count: 32)
        let length = read(file, &text, text.count)
        close(file)
        if String(decoding: text.prefix(max(0, length)), as: UTF8.self).hasPrefix("iocp-host-") { count += 1 }
    }
    return count
}

/// A gate that handlers wait at, blocked as far as the kernel is concerned.
final class Gate: Sendable {
    private let event = CompletionEvent()
    private let count = Atomic<Int>(0)

    /// How many have come.
    var arrived: Int { count.load(ordering: .sequentiallyConsistent) }

    /// Blocks in the kernel, without the library's knowing: a read of a pipe would do as well.
    func pass() {
        count.add(1, ordering: .sequentiallyConsistent)
        while !event.isSet { usleep(500) }
    }

    func open() { event.set() }
}

/// The body of an exit test: ends the process, and says what was thrown.
func exitTest(_ body: () throws -> Void) throws -> Never {
    do {
        try body()
    } catch {
        let text = "exit test: \(error)\n"
        _ = text.withCString { write(2, $0, strlen($0)) }
        exit(1)
    }
    exit(0)
}

/// In an exit test: what must be true.
func demand(_ condition: Bool, _ what: String) throws {
    struct NotSo: Error { let what: String }
    guard condition else { throw NotSo(what: what) }
}

/// prctl(2), which is variadic and so unknown to Swift.
private func controlProcess(_ operation: Int32, _ first: UInt, _ second: UInt) -> Int32 {
    typealias Function = @convention(c) (Int32, UInt, UInt, UInt, UInt) -> Int32
    return unsafeBitCast(dlsym(nil, "prctl"), to: Function.self)(operation, first, second, 0, 0)
}

/// Makes io_uring_setup(2) fail with an errno, for the calling thread, for good. For child processes only.
func forbidRings(errno code: Int32) -> Bool { forbid(425, errno: code) }

/// Makes clone3(2) and clone(2) fail so.
func forbidThreads(errno code: Int32) -> Bool {
    #if arch(x86_64)
    let clone: UInt32 = 56
    #else
    let clone: UInt32 = 220
    #endif
    return forbid(435, errno: code) && forbid(clone, errno: code)
}

private func forbid(_ call: UInt32, errno code: Int32) -> Bool {
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
        Instruction(code: 0x15, jumpFalse: 1, constant: call),  // is it that one?
        Instruction(code: 0x06, constant: 0x0005_0000 | UInt32(code)),  // answer with the errno
        Instruction(code: 0x06, constant: 0x7FFF_0000),  // let it through
    ]
    guard controlProcess(38, 1, 0) == 0 else { return false }
    return instructions.withUnsafeBufferPointer { buffer in
        var program = Program(count: UInt16(buffer.count), instructions: buffer.baseAddress!)
        return withUnsafePointer(to: &program) { controlProcess(22, 2, UInt(bitPattern: $0)) == 0 }
    }
}

/// Bytes of the process's address space that are in use.
func memoryInUse() -> UInt {
    let file = open("/proc/self/statm", O_RDONLY)
    defer { close(file) }
    var text = [UInt8](repeating: 0, count: 64)
    let length = read(file, &text, text.count)
    let pages = String(decoding: text.prefix(max(0, length)), as: UTF8.self).split(separator: " ").first
    return pages.flatMap { UInt($0) }.map { $0 * UInt(getpagesize()) } ?? 0
}

/// Lets the address space grow to so many bytes, or freely. For child processes only.
func limitMemory(to bytes: UInt?) throws {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit)
    limit.rlim_cur = bytes ?? limit.rlim_max
    try demand(setrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit) == 0, "setrlimit")
}

/// Takes every descriptor that the process may still open. For child processes only.
func holdDescriptors() {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    limit.rlim_cur = 256
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    while dup(2) >= 0 {}
}

/// A value that one thread gives and another takes.
final class Handover<Value: Sendable>: Sendable {
    private let value = Protected<Value?>(nil)
    private let event = CompletionEvent()

    func give(_ value: Value) {
        self.value.withLock { $0 = value }
        event.set()
    }

    func take() throws -> Value {
        try #require(try event.wait(timeout: patience), "nothing is given")
        return value.withLock { $0! }
    }
}
