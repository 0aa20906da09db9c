import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP
@testable import IOUring

@Suite("Registered buffers")
struct RegisteredBufferTests {
    @Test("reads and writes of a file use them, whole or in part", arguments: bothStarts)
    func files(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let buffers = try port.makeRegisteredBuffers(count: 4, size: 8192)
        #expect(buffers.count == 4 && buffers.allSatisfy { $0.capacity == 8192 })
        #expect(buffers.allSatisfy { UInt(bitPattern: $0.baseAddress) % 4096 == 0 })
        let directory = try ScratchDirectory()
        let file = try File(directory.file(), .readWrite, options: [.create])
        try port.associate(file, key: 1)
        let operations = buffers.map { IOCP.Operation(buffer: $0) }
        let bytes = pattern(8192)
        buffers[0].copy(from: bytes)
        _ = try file.write(operations[0], start: start)
        try port.expect(operations[0], bytes: 8192)
        _ = try file.read(operations[1], at: 100, into: 50..<8192, start: start)
        try port.expect(operations[1], bytes: 8092)
        #expect(buffers[1].array(in: 50..<8142) == Array(bytes[100...]))
        _ = try file.read(operations[2], at: 9000, start: start)
        try port.expect(operations[2], .endOfFile)
        // Memory of the caller's that lies elsewhere, with an operation that has one.
        var other = [UInt8](repeating: 0, count: 100)
        try other.withUnsafeMutableBytes { room in
            _ = try file.read(operations[3], at: 0, intoMemory: room, start: start)
            try port.expect(operations[3], bytes: 100)
        }
        #expect(other == Array(bytes.prefix(100)))
        let append = IOCP.Operation(buffer: buffers[0])
        _ = try file.write(append, at: .append, from: 0..<10, start: start)
        try port.expect(append, bytes: 10)
        #expect(try file.length() == 8202)
    }

    @Test("direct requests name the registered buffer, those through the page cache do not")
    func namedByIndex() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let buffers = try port.makeRegisteredBuffers(count: 2, size: 4096)
        let directory = try ScratchDirectory()
        let direct = try File(directory.file(), .readWrite, options: [.create, .direct])
        let cached = try File(directory.file("cached"), .readWrite, options: [.create])
        try port.associate(direct, key: 1)
        try port.associate(cached, key: 2)
        let operation = IOCP.Operation(buffer: buffers[0])
        let back = IOCP.Operation(buffer: buffers[1])
        buffers[0].copy(from: pattern(4096))
        for start in bothStarts {
            buffers[1].fill(with: 0)
            _ = try direct.write(operation, start: start)
            try port.expect(operation, bytes: 4096)
            _ = try direct.read(back, start: start)
            try port.expect(back, bytes: 4096)
            #expect(buffers[1].contents == pattern(4096))
            _ = try direct.read(back, at: 4096, start: start)
            try port.expect(back, .endOfFile)
        }
        // With the place empty, a request that names it cannot go through.
        try port.core.slots[0].setRegisteredBuffer(iovec(), at: buffers[0].region!.index)
        try direct.write(operation)
        #expect(try !port.next().isSuccess)
        try cached.write(operation)
        try port.expect(operation, bytes: 4096)
    }

    @Test("sockets, other ports and handles without one take them as ordinary memory")
    func elsewhere() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let buffer = try port.makeRegisteredBuffers(count: 1, size: 64)[0]
        let operation = IOCP.Operation(buffer: buffer)
        let (socket, peer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        try peer.send("stream")
        try socket.receive(operation)
        try port.expect(operation, bytes: 6)
        try socket.sendZeroCopy(operation, from: 0..<6)
        try port.expect(operation, bytes: 6)
        #expect(try peer.receive(6) == Array("stream".utf8))
        let other = try CompletionPort(concurrencyLimit: 1)
        let directory = try ScratchDirectory()
        let file = try File(directory.file(), .readWrite, options: [.create])
        try other.associate(file, key: 1)
        try file.write(operation)
        try other.expect(operation, bytes: 64)
        let lonely = try File(directory.file("second"), .readWrite, options: [.create])
        try lonely.write(operation)
        #expect(try operation.waitForCompletion(timeout: patience) == .success)
    }

    @Test("memory goes with its last buffer, and its place is another's then")
    func lifetime() throws {
        let port = try CompletionPort(concurrencyLimit: 2)
        let directory = try ScratchDirectory()
        let file = try File(directory.file(), .readWrite, options: [.create])
        try port.associate(file, key: 1)
        for round in 0..<200 {
            let buffer = try port.makeRegisteredBuffers(count: 2, size: 4096)[1]
            #expect(buffer.region!.index == 0)
            buffer.fill(with: UInt8(truncatingIfNeeded: round))
            let operation = IOCP.Operation(buffer: buffer)
            try file.write(operation)
            try port.expect(operation, bytes: 4096)
        }
        var sets: [[IOBuffer]] = []
        for _ in 0..<64 { sets.append(try port.makeRegisteredBuffers(count: 1, size: 1)) }
        #expect(thrownStatus { try port.makeRegisteredBuffers(count: 1, size: 1) } == .invalidParameter)
        sets.removeLast()
        #expect(try port.makeRegisteredBuffers(count: 1, size: 1).count == 1)
    }

    @Test("numbers out of range and closed ports are refused")
    func badInput() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        for (count, size) in [(0, 1), (1, 0), (-1, 10), (10, -1), (1, 1 << 31), (.max, .max), (1 << 20, 4096)] {
            #expect(thrownStatus { try port.makeRegisteredBuffers(count: count, size: size) } == .invalidParameter)
        }
        port.close()
        #expect(thrownStatus { try port.makeRegisteredBuffers(count: 1, size: 1) } == .invalidHandle)
    }

    @Test("more than may be locked: the error names the limit and the remedy")
    func lockedMemory() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                var limit = rlimit(rlim_cur: 400_000, rlim_max: 400_000)
                try check(setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit) == 0, "no limit can be set")
                // Another user, who makes rings in no other test, is held to the limit, by rings that it makes: more than they are charged for themselves.
                if getuid() == 0 { try check(setuid(65533) == 0, "the user cannot be changed") }
                let port = try CompletionPort(concurrencyLimit: 2)
                do {
                    _ = try port.makeRegisteredBuffers(count: 64, size: 4096)
                } catch let error as PortError {
                    try check(error.status == .noMemory, "\(error)")
                    for word in ["RLIMIT_MEMLOCK", "400000", "ulimit -l", "524288"] {
                        try check(error.reason.contains(word), "\(word) is not in: \(error)")
                    }
                    // What was not registered is not left half so: less goes.
                    _ = try port.makeRegisteredBuffers(count: 1, size: 4096)
                    return
                }
                throw Complaint("64 pages were locked beyond the limit")
            }
        }
    }

    @Test("a child has its own copy of the memory, and takes nothing from its parent's rings")
    func fork() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let port = try CompletionPort(concurrencyLimit: 1)
                var buffers = try port.makeRegisteredBuffers(count: 1, size: 4096)
                let directory = try ScratchDirectory()
                let file = try File(directory.file(), .readWrite, options: [.create])
                try port.associate(file, key: 1)
                try Child.run {
                    buffers[0].fill(with: 7)
                    buffers.removeAll()
                    try checkInherited("buffers") { try port.makeRegisteredBuffers(count: 1, size: 1) }
                }
                let operation = IOCP.Operation(buffer: buffers[0])
                try file.write(operation)
                try port.expect(operation, bytes: 4096)
                let read = IOCP.Operation(capacity: 4096)
                try file.read(read)
                try port.expect(read, bytes: 4096)
                try check(read.buffer!.contents.allSatisfy { $0 == 0 }, "the child wrote into its parent's memory")
            }
        }
    }
}
