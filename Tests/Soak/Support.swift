import Glibc
import IOCP
import Synchronization

// What every part of the soak needs: chance, locks, and what the process uses.

/// SplitMix64: the choices of a seed are the same in each run; how threads and kernel interleave is not.
struct Chance {
    private var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        return scramble(state)
    }

    mutating func below(_ count: Int) -> Int { Int(next() % UInt64(count)) }
    mutating func between(_ range: ClosedRange<Int>) -> Int { range.lowerBound + below(range.count) }
    /// True so many times in a thousand.
    mutating func happens(_ perMille: Int) -> Bool { below(1000) < perMille }
    mutating func pick<Element>(_ elements: [Element]) -> Element { elements[below(elements.count)] }
    mutating func start() -> Start { happens(400) ? .eager : .deferred }
}

func scramble(_ value: UInt64) -> UInt64 {
    var z = value
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
}

/// A value behind a lock that the thread sanitizer understands. Handlers that wait for it are blocked, which is as wanted.
final class Locked<Value>: @unchecked Sendable {
    private let mutex: UnsafeMutablePointer<pthread_mutex_t> = .allocate(capacity: 1)
    private var value: Value

    init(_ value: Value) {
        self.value = value
        pthread_mutex_init(mutex, nil)
    }

    deinit {
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    func withLock<Result>(_ body: (inout Value) throws -> Result) rethrows -> Result {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return try body(&value)
    }
}

/// Whether the process runs under a sanitizer, whose memory and speed are its own.
let sanitizer: String? =
    dlsym(nil, "__tsan_init") != nil ? "thread" : dlsym(nil, "__asan_init") != nil ? "address" : nil

func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// Prints a line, at once.
func say(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    _ = bytes.withUnsafeBytes { write(1, $0.baseAddress!, $0.count) }
}

/// What the process uses.
struct Usage {
    static let processNumber = getpid()

    /// Gives back to the system what the heap keeps.
    static func trim() {
        typealias Function = @convention(c) (Int) -> Int32
        // Left out of the Glibc module.
        guard let symbol = dlsym(nil, "malloc_trim") else { return }
        _ = unsafeBitCast(symbol, to: Function.self)(0)
    }

    var residentKiB = 0
    var descriptors = 0
    var threads = 0

    static var now: Usage {
        Usage(
            residentKiB: number(after: "VmRSS:"), descriptors: openDescriptors.count - 1,
            threads: ownThreads)
    }

    private static func number(after name: String) -> Int {
        guard let file = fopen("/proc/self/status", "r") else { return -1 }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        while fgets(&line, 256, file) != nil {
            let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            if text.hasPrefix(name) {
                return Int(text.dropFirst(name.count).drop { $0 == " " || $0 == "\t" }.prefix { $0.isNumber }) ?? -1
            }
        }
        return -1
    }

    /// What each open descriptor is.
    static var everyDescriptor: [String] {
        openDescriptors.sorted().map { descriptor in
            var name = [UInt8](repeating: 0, count: 128)
            let length = readlink("/proc/self/fd/\(descriptor)", &name, name.count)
            return "\(descriptor) \(String(decoding: name.prefix(max(0, length)), as: UTF8.self))"
        }
    }

    static var highestDescriptor: Int { openDescriptors.max() ?? 0 }

    /// The look's own included.
    private static var openDescriptors: [Int] { numbers(in: "/proc/self/fd") }

    /// Without those of the kernel that work for io_uring, which come and go as it likes.
    private static var ownThreads: Int {
        numbers(in: "/proc/self/task").count { thread in
            guard let file = fopen("/proc/self/task/\(thread)/comm", "r") else { return false }
            defer { fclose(file) }
            var name = [CChar](repeating: 0, count: 32)
            return fgets(&name, 32, file) != nil && strncmp(name, "iou-", 4) != 0
        }
    }

    static func numbers(in directory: String) -> [Int] {
        guard let stream = opendir(directory) else { return [] }
        defer { closedir(stream) }
        var found: [Int] = []
        while let entry = readdir(stream) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { $0.prefix { $0 != 0 }.map { $0 } }
            if let number = Int(String(decoding: name, as: UTF8.self)) { found.append(number) }
        }
        return found
    }
}

/// Bytes that differ from place to place: a random piece of prime length, repeated. Each stream begins elsewhere in it.
enum Pattern {
    static let period = 65_521
    /// Twice, so that a piece that begins anywhere is contiguous.
    private static let bytes: [UInt8] = {
        var chance = Chance(1)
        let once = (0..<period).map { _ in UInt8(truncatingIfNeeded: chance.next()) }
        return once + once
    }()
    /// Sums of the bytes before each position.
    private static let sums: [UInt64] = bytes.reduce(into: [0]) { $0.append($0.last! + UInt64($1)) }

    private static func place(_ seed: Int, _ offset: Int) -> Int { (seed &+ offset) % period }

    static func fill(_ memory: UnsafeMutableRawBufferPointer, seed: Int, at offset: Int) {
        bytes.withUnsafeBytes { pattern in
            var done = 0
            while done < memory.count {
                let count = min(period, memory.count - done)
                memcpy(memory.baseAddress! + done, pattern.baseAddress! + place(seed, offset + done), count)
                done += count
            }
        }
    }

    static func matches(_ memory: UnsafeRawBufferPointer, seed: Int, at offset: Int) -> Bool {
        bytes.withUnsafeBytes { pattern in
            var done = 0
            while done < memory.count {
                let count = min(period, memory.count - done)
                guard
                    memcmp(memory.baseAddress! + done, pattern.baseAddress! + place(seed, offset + done), count) == 0
                else { return false }
                done += count
            }
            return true
        }
    }

    /// The sum of the first bytes of a stream, for those who get them in any order.
    static func sum(seed: Int, count: Int) -> UInt64 {
        let start = place(seed, 0)
        let rest = count % period
        return UInt64(count / period) * sums[period] + sums[start + rest] - sums[start]
    }
}
