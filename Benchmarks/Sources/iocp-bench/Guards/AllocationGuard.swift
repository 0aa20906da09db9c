import CBaselines
import Glibc
import IOCP
import SystemPackage

/// Heap allocations of the steps of the hot path, once everything has been used: none.
enum AllocationGuard {
    private static let rounds = 200
    /// Nanoseconds in which everything is used before it counts, the library's own thread included.
    private static let warmUp: UInt64 = 300_000_000
    private static let batchSize = 64

    static func findings() throws -> [Finding] {
        guard bench_allocations() >= 0 else {
            return [
                Finding(
                    name: "heap allocations", measured: "", bound: "",
                    verdict: .unknown("they are counted with glibc only"))
            ]
        }
        try checkCounter()
        var steps = Steps()
        try posts(&steps)
        try receives(&steps)
        try reads(&steps)
        return steps.findings
    }

    /// A counter that does not count would keep every bound.
    private static func checkCounter() throws {
        func counts(_ what: String, _ body: () throws -> Void) throws {
            let before = bench_allocations()
            try body()
            guard bench_allocations() > before else { throw Failure("an allocation by \(what) is not counted") }
        }
        try counts("malloc") { unsafe free(blackHole(malloc(24))) }
        try counts("calloc") { unsafe free(blackHole(calloc(3, 8))) }
        try counts("realloc") { unsafe free(blackHole(realloc(nil, 24))) }
        try counts("aligned_alloc") { unsafe free(blackHole(aligned_alloc(64, 128))) }
        try counts("posix_memalign") {
            var memory: UnsafeMutableRawPointer?
            try check(unsafe -posix_memalign(&memory, 64, 128), "allocating")
            unsafe free(memory)
        }
        try counts("Swift, of an object") { blackHole(Operation()) }
        try counts("Swift, of an array") { blackHole([Int](repeating: 1, count: Int(getpid() % 3) + 1)) }
        try counts("another thread") { try WaitableThread { unsafe free(blackHole(malloc(24))) }.join() }
    }

    /// The compiler must not see that nobody wants it.
    @inline(never)
    @discardableResult
    private static func blackHole<Value>(_ value: Value) -> Value { value }

    /// Counts by step, of the rounds after the first ones.
    private struct Steps {
        private var counts: [(name: String, allocations: Int64, operations: Int)] = []
        var isWarm = false

        @inline(__always)
        mutating func step(_ name: StaticString, _ operations: Int, _ body: () throws -> Void) rethrows {
            let before = bench_allocations()
            try body()
            let made = bench_allocations() - before
            guard isWarm else { return }
            if let index = counts.firstIndex(where: { $0.name == "\(name)" }) {
                counts[index].allocations += made
                counts[index].operations += operations
            } else {
                counts.append(("\(name)", made, operations))
            }
        }

        var findings: [Finding] {
            counts.map { step in
                Finding(
                    name: "heap allocations, \(step.name)",
                    measured: "\(step.allocations) in \(step.operations) operations", bound: "0",
                    verdict: step.allocations == 0 ? .kept : .broken(""))
            }
        }
    }

    private static func warmed(_ steps: inout Steps, _ round: (inout Steps) throws -> Void) rethrows {
        steps.isWarm = false
        let end = bench_now() + warmUp
        while bench_now() < end {
            try round(&steps)
        }
        steps.isWarm = true
        for _ in 0..<rounds {
            try round(&steps)
        }
    }

    private static func posts(_ steps: inout Steps) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        var batch = PacketBatch(capacity: batchSize)
        try warmed(&steps) { steps in
            try steps.step("post", batchSize) {
                for number in 0..<UInt(batchSize) { try port.post(bytes: 64, key: number) }
            }
            try steps.step("dequeue of a batch of posts", batchSize) {
                guard try port.dequeue(into: &batch) == batchSize else { throw Failure("packets were lost") }
            }
            for number in 0..<UInt(batchSize) { try port.post(bytes: 64, key: number) }
            try steps.step("dequeue, one by one, of posts", batchSize) {
                for number in 0..<UInt(batchSize) where try port.dequeue()?.key != number {
                    throw Failure("packets were lost")
                }
            }
        }
    }

    /// Receives that have to wait: their completions come by themselves, and are harvested.
    private static func receives(_ steps: inout Steps) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let pairs = try (0..<batchSize).map { _ in try Socket.pair() }
        for pair in pairs { try port.associate(pair.0, key: 1) }
        let operations = pairs.map { _ in Operation(capacity: 64) }
        var batch = PacketBatch(capacity: batchSize)
        try warmed(&steps) { steps in
            try steps.step("start of a receive", batchSize) {
                for (pair, operation) in zip(pairs, operations) { try pair.0.receive(operation) }
            }
            try steps.step("submit", batchSize) { try port.flush() }
            for pair in pairs { try check(bench_write_word(pair.1.descriptor.rawValue, 1), "writing") }
            var taken = 0
            try steps.step("harvest and dequeue", batchSize) {
                while taken < batchSize { taken += try port.dequeue(into: &batch) }
            }
        }
    }

    private static func reads(_ steps: inout Steps) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let file = try File("/proc/self/exe")
        try port.associate(file, key: 1)
        let operations = (0..<batchSize).map { _ in Operation(buffer: IOBuffer(capacity: 4096, alignment: 4096)) }
        var batch = PacketBatch(capacity: batchSize)
        try warmed(&steps) { steps in
            try steps.step("read of a file, from start to packet", batchSize) {
                for (number, operation) in operations.enumerated() {
                    try file.read(operation, at: .at(Int64(number) * 4096))
                }
                var taken = 0
                while taken < batchSize { taken += try port.dequeue(into: &batch) }
            }
        }
    }
}
