import CBaselines
import Glibc
import IOCP
import SystemPackage

/// What a connection with a pending receive costs in the library's memory: looked up before and after, not computed.
enum LibraryIdle {
    private static let key: UInt = 1

    /// Everything that the library makes of a connection is counted: its handle, its association, its operation and
    /// what that has under way. The descriptors and the receive buffer, which the caller would need anyhow, are made
    /// before.
    static func run(_ settings: WorkSettings, connections: Int) throws -> Measurement {
        var ends: [(Int32, Int32)] = []
        ends.reserveCapacity(connections)
        for _ in 0..<connections {
            var (one, other): (Int32, Int32) = (-1, -1)
            unsafe try check(bench_socketpair(&one, &other), "opening a pair of sockets")
            ends.append((one, other))
        }
        let bufferBytes = 512
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: connections * bufferBytes, alignment: 64)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0)
        var sockets: [Socket] = []
        var operations: [Operation] = []
        sockets.reserveCapacity(connections + 1)
        operations.reserveCapacity(connections + 1)
        let port = try CompletionPort(concurrencyLimit: 1)
        func open(_ number: Int) throws {
            let socket = try Socket(adopting: FileDescriptor(rawValue: ends[number].0), kind: .stream)
            try port.associate(socket, key: key)
            let operation = Operation()
            let buffer = unsafe UnsafeMutableRawBufferPointer(
                rebasing: memory[number * bufferBytes..<(number + 1) * bufferBytes])
            try unsafe socket.receive(operation, intoMemory: buffer)
            sockets.append(socket)
            operations.append(operation)
        }
        // What the first one of its kind makes for all is no cost of a connection.
        try open(0)
        guard try port.dequeue(timeout: .milliseconds(10)) == nil else { throw Failure("a packet of nothing") }

        let heap = bench_heap_bytes()
        let pages = try check(bench_process_memory(getpid()), "looking at one's own memory")
        let calls = try LibraryCalls(port)
        var outcome = bench_outcome()
        unsafe bench_outcome_begin(&outcome)
        for number in 1..<connections {
            try open(number)
            if number.isMultiple(of: 64) {
                // As a server does between two batches: what was deferred enters the kernel.
                guard try port.dequeue(timeout: .zero) == nil else { throw Failure("a packet of nothing") }
            }
        }
        guard try port.dequeue(timeout: .milliseconds(10)) == nil else { throw Failure("a packet of nothing") }
        try unsafe bench_outcome_end(&outcome, UInt64(connections - 1), calls.made())
        let counts: [Measurement.Count: Int] = [
            .idleConnections: connections - 1,
            .heapBytes: max(0, Int(bench_heap_bytes()) - Int(heap)),
            .memoryBytes: max(0, Int(try check(bench_process_memory(getpid()), "looking at one's own memory") - pages)),
        ]
        // Each still receives: what was measured was that.
        for (number, end) in ends.enumerated() {
            try check(bench_write_word(end.1, UInt64(number)), "writing")
        }
        for received in ends.indices {
            guard let packet = try port.dequeue(timeout: .seconds(5)), packet.isSuccess, packet.bytes == 8 else {
                throw Failure("only \(received) of \(connections) receives ended")
            }
        }
        for socket in sockets {
            try socket.close()
        }
        for end in ends {
            close(end.1)
        }
        unsafe memory.deallocate()
        return Measurement(outcome, counts: counts)
    }
}
