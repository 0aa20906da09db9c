import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP

/// A file on a port of its own, in a directory of its own.
private struct OpenFile {
    let directory: ScratchDirectory
    let port: CompletionPort
    let file: File

    init(
        on system: TestFileSystem = .disk, _ contents: [UInt8] = [], _ mode: FileDescriptor.AccessMode = .readWrite,
        options: FileDescriptor.OpenOptions = [], key: UInt = 1
    ) throws {
        directory = try ScratchDirectory(in: #require(system.directory))
        try directory.write(contents)
        port = try CompletionPort(concurrencyLimit: 1)
        file = try File(directory.file(), mode, options: options)
        try port.associate(file, key: key)
    }

    init(on system: TestFileSystem = .disk, text: String) throws { try self.init(on: system, Array(text.utf8)) }
}

@Suite("Section g: files")
struct SectionGFileTests {
    // MARK: Offsets

    @Test(
        "a write and a read go to the offset they name and move no file pointer (g1)",
        arguments: TestFileSystem.available, bothStarts)
    func offsets(system: TestFileSystem, start: Start) throws {
        let open = try OpenFile(on: system)
        let write = Operation("0123456789")
        try open.file.write(write, at: 0, start: start)
        try open.port.expect(write, bytes: 10, key: 1)
        #expect(write.status == .success && write.bytes == 10)
        try open.file.write(write, at: 4096, from: 0..<4, start: start)
        try open.port.expect(write, bytes: 4)
        #expect(try open.file.length() == 4100)

        let read = Operation(capacity: 16)
        try open.file.read(read, at: 7, into: 0..<3, start: start)
        try open.port.expect(read, bytes: 3)
        #expect(read.text(3) == "789")
        // The same start again reads the same bytes.
        try open.file.read(read, at: 7, into: 0..<3, start: start)
        try open.port.expect(read, bytes: 3)
        #expect(read.text(3) == "789")
        #expect(lseek(open.file.descriptor.rawValue, 0, SEEK_CUR) == 0)
    }

    @Test("offsets beyond 4 GiB are kept whole (g1)", arguments: TestFileSystem.available)
    func farOffset(system: TestFileSystem) throws {
        let open = try OpenFile(on: system)
        let far: Int64 = 0x1_0000_0005
        let write = Operation("Z")
        try open.file.write(write, at: .at(far))
        try open.port.expect(write, bytes: 1)
        #expect(try open.file.length() == far + 1)
        let read = Operation(capacity: 4)
        try open.file.read(read, at: .at(far - 1))
        try open.port.expect(read, bytes: 2)
        #expect(read.buffer!.array(in: 0..<2) == [0, UInt8(ascii: "Z")])
    }

    @Test("an append goes to the end, whatever was written where (g2)", arguments: TestFileSystem.available, bothStarts)
    func append(system: TestFileSystem, start: Start) throws {
        let open = try OpenFile(on: system, text: "abc")
        let write = Operation("end")
        try open.file.write(write, at: .append, start: start)
        try open.port.expect(write, bytes: 3)
        try open.file.write(write, at: .append, from: [IOBuffer(text: "1"), IOBuffer(text: "23")], start: start)
        try open.port.expect(write, bytes: 3)
        #expect(try open.directory.read() == Array("abcend123".utf8))
    }

    @Test("appends of two writers never overlap or tear (g2)", arguments: TestFileSystem.available)
    func twoAppenders(system: TestFileSystem) throws {
        let directory = try ScratchDirectory(in: #require(system.directory))
        let path = try directory.write([])
        let records = 200
        let length = 100
        let writers = (1...2).map { writer in
            SideThread {
                let port = try CompletionPort(concurrencyLimit: 1)
                let file = try File(path, .writeOnly)
                try port.associate(file, key: 0)
                let bytes = [UInt8](repeating: UInt8(writer), count: length)
                // Several in flight at a time.
                for _ in 0..<records / 10 {
                    for _ in 0..<10 { try file.write(Operation(bytes), at: .append) }
                    for _ in 0..<10 {
                        let packet = try port.next()
                        guard packet.isSuccess, packet.bytes == length else { return packet.status }
                    }
                }
                return CompletionStatus.success
            }
        }
        for writer in writers { #expect(try writer.join() == .success) }
        let all = try directory.read()
        #expect(all.count == 2 * records * length)
        for record in 0..<all.count / length {
            let part = all[record * length..<(record + 1) * length]
            #expect(part.allSatisfy { $0 == part.first })
        }
        #expect(all.count { $0 == 1 } == records * length)
    }

    // MARK: The end

    @Test(
        "a read at or beyond the end yields a packet 38 of 0 bytes, also when it is started eagerly (g3)",
        arguments: TestFileSystem.available, bothStarts)
    func endOfFile(system: TestFileSystem, start: Start) throws {
        let open = try OpenFile(on: system, text: "abc")
        for offset: Int64 in [3, 4, 99_999, 1 << 33] {
            let read = Operation(capacity: 10)
            read.buffer!.fill(with: UInt8(ascii: "x"))
            #expect(try open.file.read(read, at: .at(offset), start: start) == .pending)
            let packet = try open.port.expect(read, .endOfFile, key: 1)
            #expect(packet.status.win32Code == 38)
            #expect(read.status == .endOfFile && read.bytes == 0)
            #expect(try read.waitForCompletion(timeout: .zero) == .endOfFile)
            #expect(read.text(10) == "xxxxxxxxxx")
        }
        #expect(try open.port.staysEmpty())
    }

    @Test("a read of an empty file is at its end, vectored or not (g3)", arguments: bothStarts)
    func emptyFile(start: Start) throws {
        let open = try OpenFile()
        let read = Operation(capacity: 10)
        try open.file.read(read, start: start)
        try open.port.expect(read, .endOfFile)
        try open.file.read(read, into: [IOBuffer(capacity: 1), IOBuffer(capacity: 2)], start: start)
        try open.port.expect(read, .endOfFile)
    }

    @Test(
        "a read across the end is short and leaves the rest of the buffer alone (g4)",
        arguments: TestFileSystem.available, bothStarts)
    func acrossTheEnd(system: TestFileSystem, start: Start) throws {
        let open = try OpenFile(on: system, text: "0123456789end")
        let read = Operation(capacity: 100)
        read.buffer!.fill(with: UInt8(ascii: "x"))
        try open.file.read(read, at: 10, start: start)
        try open.port.expect(read, bytes: 3)
        #expect(read.text(6) == "endxxx")
    }

    @Test("a hole reads as zeros (g1)", arguments: TestFileSystem.available)
    func hole(system: TestFileSystem) throws {
        let open = try OpenFile(on: system)
        let write = Operation("AB")
        try open.file.write(write, at: 4096)
        try open.port.expect(write, bytes: 2)
        let read = Operation(capacity: 4)
        read.buffer!.fill(with: UInt8(ascii: "x"))
        try open.file.read(read, at: 4094)
        try open.port.expect(read, bytes: 4)
        #expect(read.buffer!.contents == [0, 0, UInt8(ascii: "A"), UInt8(ascii: "B")])
    }

    // MARK: Nothing, too much, and several

    @Test(
        "reads and writes of 0 bytes succeed with a packet, also at the end (g5, g10)",
        arguments: TestFileSystem.available, bothStarts)
    func zeroBytes(system: TestFileSystem, start: Start) throws {
        let open = try OpenFile(on: system, text: "abc")
        let operation = Operation(capacity: 8)
        for offset: FileOffset in [0, 3, 1000] {
            try open.file.read(operation, at: offset, into: 0..<0, start: start)
            try open.port.expect(operation, bytes: 0, key: 1)
        }
        for offset: FileOffset in [0, 1000, .append] {
            try open.file.write(operation, at: offset, from: 4..<4, start: start)
            try open.port.expect(operation, bytes: 0)
        }
        try open.file.write(operation, from: [], start: start)
        try open.port.expect(operation, bytes: 0)
        #expect(try open.directory.read() == Array("abc".utf8))
    }

    @Test(
        "several buffers are written as one and filled in order, short at the end (g9)",
        arguments: TestFileSystem.available, bothStarts)
    func vectored(system: TestFileSystem, start: Start) throws {
        let open = try OpenFile(on: system)
        let operation = Operation()
        let parts = ["abc", "", "defgh", "i"].map { IOBuffer(text: $0) }
        try open.file.write(operation, at: 2, from: parts, start: start)
        try open.port.expect(operation, bytes: 9)
        let buffers = [4, 3, 100].map { IOBuffer(capacity: $0) }
        try open.file.read(operation, at: 2, into: buffers, start: start)
        try open.port.expect(operation, bytes: 9)
        #expect(buffers[0].string(in: 0..<4) == "abcd")
        #expect(buffers[1].string(in: 0..<3) == "efg")
        #expect(buffers[2].string(in: 0..<2) == "hi")
    }

    @Test("two reads in flight each get their own bytes (f7)")
    func twoInFlight() throws {
        let open = try OpenFile(text: "0123456789")
        let first = Operation(capacity: 3)
        let second = Operation(capacity: 2)
        try open.file.read(first, at: 0)
        try open.file.read(second, at: 4)
        let packets = [try open.port.next(), try open.port.next()]
        #expect(packets.contains { $0.operation === first && $0.bytes == 3 })
        #expect(packets.contains { $0.operation === second && $0.bytes == 2 })
        #expect(first.text(3) == "012" && second.text(2) == "45")
    }

    @Test("more reads in flight than the ring has entries are all done (g8)")
    func manyInFlight() throws {
        let directory = try ScratchDirectory()
        let bytes = pattern(64 * 1024)
        try directory.write(bytes)
        var options = CompletionPort.Options()
        options.submissionEntries = 16
        options.completionEntries = 32
        let port = try CompletionPort(concurrencyLimit: 1, options: options)
        let file = try File(directory.file())
        try port.associate(file, key: 1)
        let count = 1000
        let operations = (0..<count).map { _ in Operation(capacity: 64) }
        for (index, operation) in operations.enumerated() { try file.read(operation, at: .at(Int64(index * 64))) }
        for _ in 0..<count { #expect(try port.next().bytes == 64) }
        for (index, operation) in operations.enumerated() {
            #expect(operation.buffer!.contents == Array(bytes[index * 64..<(index + 1) * 64]))
        }
        #expect(try port.staysEmpty())
    }

    @Test(
        "a read longer than one request can be is read to its end (f.read)",
        .enabled(if: TestFileSystem.memory.directory != nil, "needs a tmpfs for a sparse file without pages"))
    func longRead() throws {
        let length = 0x8000_0000 + 12_345
        let open = try OpenFile(on: .memory)
        let mark = Operation("MARK")
        try open.file.write(mark, at: .at(Int64(length) - 4))
        try open.port.expect(mark, bytes: 4)
        // The same few pages again and again: the address range is long, the memory is not.
        let window = 64 << 20
        let room = (length / window + 1) * window
        let memory = mmap(nil, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)!
        defer { munmap(memory, room) }
        let backing = try FileDescriptor.open(
            open.directory.file("window"), .readWrite, options: .create, permissions: .ownerReadWrite)
        defer { try? backing.close() }
        try #require(ftruncate(backing.rawValue, off_t(window)) == 0)
        for start in stride(from: 0, to: room, by: window) {
            _ = mmap(memory + start, window, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, backing.rawValue, 0)
        }
        let read = Operation()
        try open.file.read(read, intoMemory: UnsafeMutableRawBufferPointer(start: memory, count: length))
        try open.port.expect(read, bytes: length)
        let end = UnsafeRawBufferPointer(start: memory + length - 4, count: 4)
        #expect(Array(end) == Array("MARK".utf8))
    }

    @Test("a write longer than one request can be is written in full (g27)")
    func longWrite() throws {
        let length = 0x8000_0000 + 12_345
        let memory = mmap(nil, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)!
        defer { munmap(memory, length) }
        let port = try CompletionPort(concurrencyLimit: 1)
        let sink = try File("/dev/null", .writeOnly)
        try port.associate(sink, key: 0)
        let write = Operation()
        try sink.write(write, fromMemory: UnsafeRawBufferPointer(start: memory, count: length))
        try port.expect(write, bytes: length)
    }

    // MARK: Past the page cache

    @Test(
        "aligned reads and writes go past the page cache; unaligned ones are refused with 87, or served",
        arguments: TestFileSystem.available, bothStarts)
    func direct(system: TestFileSystem, start: Start) throws {
        let bytes = pattern(64 * 1024)
        let open: OpenFile
        do {
            open = try OpenFile(on: system, bytes, options: .direct)
        } catch let error as PortError {
            // A file system without direct access says so when the file is opened.
            #expect(error.status == .invalidParameter)
            #expect(error.description.contains("cannot be opened"))
            return
        }
        let buffer = IOBuffer(capacity: 16 * 1024, alignment: 4096)
        let operation = Operation(buffer: buffer)
        try open.file.read(operation, at: 8192, start: start)
        try open.port.expect(operation, bytes: 16 * 1024)
        #expect(buffer.contents == Array(bytes[8192..<8192 + 16 * 1024]))
        try open.file.write(operation, at: 0, from: 0..<4096, start: start)
        try open.port.expect(operation, bytes: 4096)
        #expect(try open.directory.read().prefix(4096) == bytes[8192..<8192 + 4096])
        // Beyond the end as for any file.
        try open.file.read(operation, at: 1_048_576, start: start)
        try open.port.expect(operation, .endOfFile)

        let outcome: CompletionStatus
        do {
            try open.file.read(operation, at: 1, into: 1..<10, start: start)
            outcome = try open.port.next().status
        } catch let error as PortError {
            outcome = error.status
        }
        #expect(outcome == .invalidParameter || outcome == .success)
        #expect(try open.port.staysEmpty(for: .zero))
    }

    // MARK: What moves no data

    @Test(
        "synchronizing, all or data only, ends with a packet of 0 bytes", arguments: TestFileSystem.available,
        bothStarts)
    func synchronize(system: TestFileSystem, start: Start) throws {
        let open = try OpenFile(on: system, text: "abc")
        let operation = Operation()
        try open.file.synchronize(operation, start: start)
        try open.port.expect(operation, bytes: 0, key: 1)
        try open.file.synchronize(operation, dataOnly: true, start: start)
        try open.port.expect(operation, bytes: 0)
    }

    @Test(
        "allocating lengthens a file, or keeps its length if asked to", arguments: TestFileSystem.available, bothStarts)
    func allocate(system: TestFileSystem, start: Start) throws {
        let open = try OpenFile(on: system, text: "abc")
        let operation = Operation()
        try open.file.allocate(operation, offset: 0, length: 100_000, keepsLength: true, start: start)
        try open.port.expect(operation, bytes: 0)
        #expect(try open.file.length() == 3)
        try open.file.allocate(operation, offset: 1000, length: 9000, start: start)
        try open.port.expect(operation, bytes: 0)
        #expect(try open.file.length() == 10_000)
        #expect(try open.directory.read().prefix(4) == [97, 98, 99, 0])
    }

    @Test(
        "truncating cuts and lengthens a file, by the kernel's request or without one", arguments: bothStarts,
        [true, false])
    func truncate(start: Start, byRequest: Bool) throws {
        for system in TestFileSystem.available {
            let open = try OpenFile(on: system, text: "0123456789")
            let operation = Operation()
            // Other tests may cut files at the same time: either way serves them.
            if !byRequest { truncationIsRequest.store(false, ordering: .sequentiallyConsistent) }
            try open.file.truncate(operation, to: 4, start: start)
            truncationIsRequest.store(true, ordering: .sequentiallyConsistent)
            try open.port.expect(operation, bytes: 0, key: 1)
            #expect(try open.directory.read() == Array("0123".utf8))
            try open.file.truncate(operation, to: 6, start: start)
            try open.port.expect(operation, bytes: 0)
            #expect(try open.directory.read() == Array("0123".utf8) + [0, 0])
        }
    }

    // MARK: Errors

    @Test(
        "a write on a read-only handle and a read on a write-only one are access denied (f.write.on-read-only-handle)",
        arguments: bothStarts)
    func accessModes(start: Start) throws {
        let directory = try ScratchDirectory()
        let path = try directory.write(Array("abc".utf8))
        let port = try CompletionPort(concurrencyLimit: 1)
        let reading = try File(path, .readOnly)
        let writing = try File(path, .writeOnly)
        try port.associate(reading, key: 1)
        try port.associate(writing, key: 2)
        let operation = Operation("xyz")
        #expect(CompletionStatus.accessDenied.win32Code == 5)
        try expectFailure(.accessDenied, of: operation, on: port, start) { try reading.write(operation, start: start) }
        try expectFailure(.accessDenied, of: operation, on: port, start) {
            try reading.write(operation, from: [IOBuffer(capacity: 1)], start: start)
        }
        try expectFailure(.accessDenied, of: operation, on: port, start) { try writing.read(operation, start: start) }
        // These the kernel gives to a thread of its own, so that an eager start may pend too.
        func outcome(_ body: () throws -> StartOutcome) throws -> CompletionStatus {
            try thrownStatus(body) ?? port.next().status
        }
        #expect(try outcome { try reading.allocate(operation, offset: 0, length: 10, start: start) } == .accessDenied)
        for byRequest in [true, false] {
            let status = try outcome {
                if !byRequest { truncationIsRequest.store(false, ordering: .sequentiallyConsistent) }
                defer { truncationIsRequest.store(true, ordering: .sequentiallyConsistent) }
                return try reading.truncate(operation, to: 1, start: start)
            }
            #expect(status == .accessDenied)
        }
        #expect(try directory.read() == Array("abc".utf8))
    }

    @Test("nil memory of some length is 998 and queues nothing (g19)", arguments: bothStarts)
    func noBuffer(start: Start) throws {
        let open = try OpenFile(text: "abc")
        let empty = Operation()
        #expect(thrownStatus { try open.file.read(empty, into: 0..<4, start: start) } == .accessViolation)
        #expect(thrownStatus { try open.file.write(empty, from: 0..<4, start: start) } == .accessViolation)
        #expect(CompletionStatus.accessViolation.win32Code == 998)
        #expect(try open.port.staysEmpty())
        // The operation is idle again.
        try empty.setBuffer(IOBuffer(capacity: 3))
        try open.file.read(empty, start: start)
        try open.port.expect(empty, bytes: 3)
    }

    @Test(
        "negative and overflowing offsets, and ranges outside of the buffer, are 87 and queue nothing",
        arguments: bothStarts)
    func badArguments(start: Start) throws {
        let open = try OpenFile(text: "abc")
        let operation = Operation(capacity: 4)
        let file = open.file
        let calls: [() throws -> Any] = [
            { try file.read(operation, at: -1, start: start) },
            { try file.write(operation, at: .at(.min), start: start) },
            { try file.read(operation, at: .at(.max), start: start) },
            { try file.read(operation, at: .at(.max - 3), start: start) },
            { try file.read(operation, into: 0..<5, start: start) },
            { try file.read(operation, into: -1..<2, start: start) },
            { try file.read(operation, into: 0..<Int.max, start: start) },
            { try file.write(operation, from: 4..<6, start: start) },
            { try file.read(operation, at: -1, into: [IOBuffer(capacity: 1)], start: start) },
            { try file.read(operation, into: (0...1024).map { _ in IOBuffer(capacity: 1) }, start: start) },
            { try file.allocate(operation, offset: -1, length: 1, start: start) },
            { try file.allocate(operation, offset: 0, length: 0, start: start) },
            { try file.truncate(operation, to: -1, start: start) },
        ]
        for (index, call) in calls.enumerated() {
            #expect(thrownStatus(call) == .invalidParameter, "call \(index)")
        }
        #expect(try open.port.staysEmpty())
        // The largest offset is an offset; nothing is there.
        try open.file.read(operation, at: .at(.max), into: 0..<0, start: start)
        #expect(try open.port.next().bytes == 0)
    }

    @Test("a length that no file can have is a clear error, not a crash", arguments: bothStarts)
    func hugeLengths(start: Start) throws {
        let open = try OpenFile(text: "abc")
        let operation = Operation()
        func outcome(_ body: () throws -> StartOutcome) throws -> CompletionStatus {
            try thrownStatus(body) ?? open.port.next().status
        }
        let truncated = try outcome { try open.file.truncate(operation, to: .max, start: start) }
        #expect([.fileTooLarge, .invalidParameter].contains(truncated))
        let allocated = try outcome { try open.file.allocate(operation, offset: 1, length: .max, start: start) }
        #expect([.fileTooLarge, .invalidParameter].contains(allocated))
        #expect(try open.directory.read() == Array("abc".utf8))
    }

    @Test("a full disk is 112", arguments: bothStarts)
    func diskFull(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let full = try File("/dev/full", .writeOnly)
        try port.associate(full, key: 1)
        let operation = Operation("x")
        #expect(CompletionStatus.diskFull.win32Code == 112)
        // The kernel does not try a device without a thread of its own, so that an eager start may pend too.
        let status = try thrownStatus { try full.write(operation, start: start) } ?? port.next().status
        #expect(status == .diskFull)
    }

    @Test("a closed handle is 6 and an operation in flight 87", arguments: bothStarts)
    func wrongUse(start: Start) throws {
        let open = try OpenFile(text: "abc")
        let operation = Operation(capacity: 3)
        try open.file.close()
        #expect(thrownStatus { try open.file.read(operation, start: start) } == .invalidHandle)
        #expect(thrownStatus { try open.file.truncate(operation, to: 0, start: start) } == .invalidHandle)
        #expect(thrownStatus { try open.file.length() } == .invalidHandle)

        let (reading, writing) = try Pipe.make()
        try open.port.associate(reading, key: 2)
        try reading.read(operation, start: start)
        #expect(thrownStatus { try reading.read(operation, start: start) } == .invalidParameter)
        #expect(thrownStatus { try operation.setBuffer(nil) } == .invalidParameter)
        try writing.write(Operation("abc"))
        try open.port.expect(operation, bytes: 3, key: 2)
    }

    @Test("files that cannot be opened say why")
    func cannotOpen() throws {
        let directory = try ScratchDirectory()
        #expect(thrownStatus { try File(directory.file("missing")) } == .objectNameNotFound)
        #expect(thrownStatus { try File(directory.path, .writeOnly) } == .fileIsADirectory)
        try directory.write([])
        #expect(
            thrownStatus { try File(directory.file(), .readWrite, options: [.create, .exclusiveCreate]) }
                == .objectNameCollision)
    }

    // MARK: Immediate outcomes

    @Test("an eager success tells its bytes and still queues its one packet, unless the handle skips it (g12)")
    func eagerSuccess() throws {
        let open = try OpenFile(text: "abcdef")
        let operation = Operation(capacity: 4)
        for skips in [false, true] {
            if skips { try open.file.setNotificationModes(.skipCompletionPortOnSuccess) }
            switch try open.file.read(operation, start: .eager) {
            case .completed(let bytes):
                #expect(bytes == 4)
                if skips { #expect(try open.port.staysEmpty()) } else { try open.port.expect(operation, bytes: 4) }
            case .pending:
                // The page was not in memory: always by packet (e12).
                try open.port.expect(operation, bytes: 4)
            }
            #expect(operation.text(4) == "abcd")
            #expect(try open.port.staysEmpty())
        }
    }

    @Test("a handle that is not for overlapped I/O cannot be associated (g9)")
    func notOverlapped() throws {
        let directory = try ScratchDirectory()
        let path = try directory.write([1])
        let port = try CompletionPort(concurrencyLimit: 1)
        let file = try File(path, overlapped: false)
        #expect(thrownStatus { try port.associate(file, key: 0) } == .invalidParameter)
    }

    @Test(
        "the tests of files run on a file system of their own",
        .enabled(if: TestFileSystem.loop.directory != nil, "needs root, mkfs.ext4, and a free loop device"))
    func loopIsAnotherFileSystem() throws {
        var here = stat()
        var there = stat()
        #expect(stat(TestFileSystem.disk.directory!.string, &here) == 0)
        #expect(stat(TestFileSystem.loop.directory!.string + "/", &there) == 0)
        #expect(here.st_dev != there.st_dev)
    }
}
