import Glibc
import SystemPackage
import Testing

@testable import IOCP

/// A pipe whose ends are on one port: the reading end with key 1, the writing one with key 2.
private func pipe(duplex: Bool = false) throws -> (port: CompletionPort, reading: IOCP.Pipe, writing: IOCP.Pipe) {
    let port = try CompletionPort(concurrencyLimit: 1)
    let (reading, writing) = duplex ? try IOCP.Pipe.makeDuplex() : try IOCP.Pipe.make()
    try port.associate(reading, key: 1)
    try port.associate(writing, key: 2)
    return (port, reading, writing)
}

@Suite("Section g: pipes, devices and mail slots")
struct SectionGPipeTests {
    // MARK: Reading and writing

    @Test(
        "a pending read gets what is written, and a write of what fits ends at once (e4)", arguments: [false, true],
        bothStarts)
    func readAndWrite(duplex: Bool, start: Start) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        let read = Operation(capacity: 100)
        #expect(try reading.read(read, start: start) == .pending)
        #expect(try port.staysEmpty())
        #expect(read.isPending && read.status == .pending && read.bytes == 0)  // g6
        #expect(try read.waitForCompletion(timeout: .zero) == nil)  // g7
        let write = Operation("hello")
        try writing.write(write, start: start)
        let packets = [try port.next(), try port.next()]
        #expect(Set(packets.map(\.key)) == [1, 2])
        #expect(packets.allSatisfy { $0.isSuccess && $0.bytes == 5 })
        #expect(read.text(5) == "hello")
    }

    @Test("a read of what is there is an immediate success with one packet (e4)", arguments: [false, true])
    func immediate(duplex: Bool) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        let write = Operation("hello")
        #expect(try writing.write(write, start: .eager) == .completed(bytes: 5))
        try port.expect(write, bytes: 5, key: 2)
        let read = Operation(capacity: 3)
        #expect(try reading.read(read, start: .eager) == .completed(bytes: 3))
        try port.expect(read, bytes: 3, key: 1)
        #expect(read.text(3) == "hel")
        #expect(try port.staysEmpty())
    }

    @Test("a write larger than the pipe completes in full, in one packet", arguments: [false, true], bothStarts)
    func largeWrite(duplex: Bool, start: Start) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        let bytes = pattern(3_000_001)
        let write = Operation(bytes)
        #expect(try writing.write(write, start: start) == .pending)
        var received: [UInt8] = []
        let read = Operation(capacity: 70_000)
        try reading.read(read)
        var written: Int?
        while written == nil || received.count < bytes.count {
            let packet = try port.next()
            #expect(packet.isSuccess)
            if packet.operation === write {
                #expect(written == nil)
                written = packet.bytes
            } else {
                received += read.buffer!.array(in: 0..<packet.bytes)
                if received.count < bytes.count { try reading.read(read) }
            }
        }
        #expect(written == bytes.count)
        #expect(received == bytes)
    }

    @Test("several buffers are gathered into a pipe and scattered out of it", arguments: [false, true], bothStarts)
    func vectored(duplex: Bool, start: Start) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        let write = Operation()
        try writing.write(
            write, from: [IOBuffer(text: "ab"), IOBuffer(text: "cde"), IOBuffer(text: "f")], start: start)
        try port.expect(write, bytes: 6)
        let buffers = [IOBuffer(capacity: 4), IOBuffer(capacity: 10)]
        let read = Operation()
        try reading.read(read, into: buffers, start: start)
        try port.expect(read, bytes: 6)
        #expect(buffers[0].string(in: 0..<4) == "abcd" && buffers[1].string(in: 0..<2) == "ef")
    }

    @Test(
        "several pending reads complete in the order of their start, and cancelling one leaves the other (e26b)",
        arguments: [false, true])
    func pendingReadsInOrder(duplex: Bool) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        let reads = (0..<3).map { _ in Operation(capacity: 4) }
        for read in reads {
            try reading.read(read)
            try port.flush()
        }
        #expect(try port.staysEmpty())
        try reading.cancel(reads[0])
        try port.expect(reads[0], .cancelled, key: 1)
        let write = Operation("1234")
        try writing.write(write)
        for _ in 0..<2 {
            let packet = try port.next()
            #expect(packet.operation === write || packet.operation === reads[1])
            #expect(packet.bytes == 4)
        }
        #expect(reads[1].text(4) == "1234")
        try writing.write(write)
        for _ in 0..<2 {
            let packet = try port.next()
            #expect(packet.operation === write || packet.operation === reads[2])
        }
        #expect(reads[2].text(4) == "1234")
    }

    @Test("a cancelled write says how much the reader has had a chance to see (e7, e23)", arguments: [false, true])
    func cancelledWrite(duplex: Bool) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        let bytes = pattern(2_000_000)
        let write = Operation(bytes)
        try writing.write(write)
        #expect(try port.staysEmpty())
        try writing.cancel(write)
        let packet = try port.next()
        #expect(packet.operation === write && packet.status == .cancelled)
        // What was moved can be read, and nothing else.
        var received: [UInt8] = []
        while received.count < packet.bytes {
            let read = Operation(capacity: packet.bytes - received.count)
            try reading.read(read)
            let part = try port.next()
            #expect(part.isSuccess)
            received += read.buffer!.array(in: 0..<part.bytes)
        }
        #expect(received == Array(bytes.prefix(packet.bytes)))
        let read = Operation(capacity: 1)
        #expect(try reading.read(read, start: .eager) == .pending)
        #expect(try port.staysEmpty())
    }

    // MARK: Nothing

    @Test(
        "an empty pending read completes when there is something to read, and takes none of it (g18)",
        arguments: [false, true], bothStarts)
    func emptyRead(duplex: Bool, start: Start) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        let empty = Operation(capacity: 4)
        #expect(try reading.read(empty, into: 0..<0, start: start) == .pending)
        #expect(try port.staysEmpty())
        let write = Operation("zz")
        try writing.write(write)
        for _ in 0..<2 { #expect(try port.next().isSuccess) }
        // There is something already.
        try reading.read(empty, into: 0..<0, start: start)
        try port.expect(empty, bytes: 0, key: 1)
        let read = Operation(capacity: 4)
        try reading.read(read)
        try port.expect(read, bytes: 2)
        // The end is something as well.
        try reading.read(empty, into: 0..<0)
        try writing.close()
        try port.expect(empty, .pipeBroken)
    }

    @Test("an empty write completes no pending read (g17)", arguments: [false, true], bothStarts)
    func emptyWrite(duplex: Bool, start: Start) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        let read = Operation(capacity: 4)
        try reading.read(read)
        let write = Operation("x")
        try writing.write(write, from: 0..<0, start: start)
        try port.expect(write, bytes: 0, key: 2)
        #expect(try port.staysEmpty())
        try writing.write(write, start: start)
        for _ in 0..<2 { #expect(try port.next().bytes == 1) }
    }

    @Test("nil memory of some length is 998 and queues nothing (g19)", arguments: bothStarts)
    func noBuffer(start: Start) throws {
        let (port, reading, writing) = try pipe()
        let operation = Operation()
        #expect(thrownStatus { try reading.read(operation, into: 0..<4, start: start) } == .accessViolation)
        #expect(thrownStatus { try writing.write(operation, from: 0..<4, start: start) } == .accessViolation)
        #expect(try port.staysEmpty())
    }

    @Test("the wrong end is access denied", arguments: bothStarts)
    func wrongEnd(start: Start) throws {
        let (port, reading, writing) = try pipe()
        let operation = Operation("x")
        try expectFailure(.accessDenied, of: operation, on: port, start) { try reading.write(operation, start: start) }
        try expectFailure(.accessDenied, of: operation, on: port, start) { try writing.read(operation, start: start) }
    }

    // MARK: Broken

    @Test("a read of a drained pipe without writers is 109 (g15)", arguments: [false, true], bothStarts)
    func brokenForReading(duplex: Bool, start: Start) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        try writing.write(Operation("left"))
        #expect(try port.next().bytes == 4)
        try writing.close()
        // What was written is read first.
        let read = Operation(capacity: 10)
        try reading.read(read, start: start)
        try port.expect(read, bytes: 4)
        for _ in 0..<2 {
            try expectFailure(.pipeBroken, of: read, on: port, start) { try reading.read(read, start: start) }
        }
        try expectFailure(.pipeBroken, of: read, on: port, start) {
            try reading.read(read, into: [IOBuffer(capacity: 1)], start: start)
        }
        #expect(CompletionStatus.pipeBroken.win32Code == 109)
    }

    @Test("a pending read ends with 109 when the writers go (g15)", arguments: [false, true], bothStarts)
    func brokenWhileReading(duplex: Bool, start: Start) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        let read = Operation(capacity: 10)
        try reading.read(read, start: start)
        #expect(try port.staysEmpty())
        try writing.close()
        try port.expect(read, .pipeBroken, bytes: 0, key: 1)
    }

    @Test("a write to a pipe without readers is 232, and raises no signal (g14)", arguments: [false, true], bothStarts)
    func brokenForWriting(duplex: Bool, start: Start) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        try reading.close()
        let write = Operation("lost")
        try expectFailure(.pipeClosing, of: write, on: port, start) { try writing.write(write, start: start) }
        try expectFailure(.pipeClosing, of: write, on: port, start) {
            try writing.write(write, from: [IOBuffer(capacity: 1)], start: start)
        }
        #expect(CompletionStatus.pipeClosing.win32Code == 232)
    }

    @Test(
        "a write that is under way ends with 232 when the readers go, and says how far it came (g14, e7)",
        arguments: [false, true])
    func brokenWhileWriting(duplex: Bool) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        let write = Operation(capacity: 2_000_000)
        try writing.write(write)
        #expect(try port.staysEmpty())
        try reading.close()
        let packet = try port.next()
        #expect(packet.operation === write && packet.status == .pipeClosing)
        #expect(packet.bytes < 2_000_000)
    }

    @Test("a duplex pipe whose peer left something unread is broken both ways, not reset")
    func duplexWithUnreadData() throws {
        let (port, left, right) = try pipe(duplex: true)
        try left.write(Operation("unread"))
        #expect(try port.next().bytes == 6)
        let read = Operation(capacity: 10)
        try left.read(read)
        try right.close()
        try port.expect(read, .pipeBroken)
        let write = Operation("x")
        for start in bothStarts {
            try expectFailure(.pipeClosing, of: write, on: port, start) { try left.write(write, start: start) }
            try expectFailure(.pipeBroken, of: read, on: port, start) { try left.read(read, start: start) }
        }
    }

    @Test("closing an end ends its pending operations with 109 (e31)", arguments: [false, true])
    func closedWithPending(duplex: Bool) throws {
        let (port, reading, writing) = try pipe(duplex: duplex)
        let read = Operation(capacity: 10)
        let empty = Operation()
        try reading.read(read)
        try reading.read(empty, into: 0..<0)
        #expect(try port.staysEmpty())
        try reading.close()
        let packets = [try port.next(), try port.next()]
        #expect(packets.allSatisfy { $0.status == .pipeBroken && $0.bytes == 0 && $0.key == 1 })
        _ = writing
    }

    @Test("a broken pipe or connection does not kill a process with the default action for SIGPIPE (g14)")
    func signals() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                signal(SIGPIPE, SIG_DFL)
                let port = try CompletionPort(concurrencyLimit: 1)
                func mustFail(_ handle: IOHandle, _ start: (IOCP.Operation) throws -> Void) throws {
                    let operation = Operation("lost")
                    try start(operation)
                    guard let packet = try port.dequeue(timeout: patience), packet.operation === operation,
                        !packet.isSuccess
                    else { throw CompletionStatus.unsuccessful }
                }
                // Sockets first: making a pipe ignores the signal for the whole process.
                for style in [Socket.Style.stream, .sequenced] {
                    let (socket, other) = try Socket.pair(style)
                    try port.associate(socket, key: 1)
                    try other.close()
                    try mustFail(socket) { try socket.send($0) }
                    try mustFail(socket) { try socket.write($0) }
                    try mustFail(socket) { try socket.write($0, from: [IOBuffer(capacity: 4)]) }
                    try mustFail(socket) { try socket.sendMessage($0) }
                }
                let directory = try ScratchDirectory()
                let source = try File(directory.write(pattern(100_000)))
                let (socket, other) = try Socket.pair()
                try port.associate(socket, key: 1)
                try other.close()
                try mustFail(socket) { try socket.transmit($0, file: source) }
                try mustFail(socket) { try socket.transmit($0, file: source, head: IOBuffer(capacity: 10)) }

                for duplex in [false, true] {
                    let (reading, writing) = duplex ? try IOCP.Pipe.makeDuplex() : try IOCP.Pipe.make()
                    try port.associate(writing, key: 2)
                    try reading.close()
                    try mustFail(writing) { try writing.write($0) }
                    try mustFail(writing) { try writing.write($0, from: [IOBuffer(capacity: 4)]) }
                }
            }
        }
    }

    // MARK: FIFOs

    @Test(
        "a FIFO is read by path: waits for its first writer, ends with 109 after the last, and serves the next (g13, g15)",
        arguments: bothStarts)
    func fifo(start: Start) throws {
        let directory = try ScratchDirectory()
        let path = directory.file("fifo")
        try #require(mkfifo(path.string, 0o600) == 0)
        #expect(thrownStatus { try IOCP.Pipe(fifo: path, .writeOnly) } != nil)  // nobody reads
        let port = try CompletionPort(concurrencyLimit: 1)
        let reading = try IOCP.Pipe(fifo: path, .readOnly)
        try port.associate(reading, key: 1)
        let read = Operation(capacity: 10)
        #expect(try reading.read(read, start: start) == .pending)
        #expect(try port.staysEmpty())
        for text in ["first", "second"] {
            let writing = try IOCP.Pipe(fifo: path, .writeOnly)
            try port.associate(writing, key: 2)
            let write = Operation(text)
            if !read.isPending { try reading.read(read, start: start) }
            try writing.write(write)
            for _ in 0..<2 { #expect(try port.next().bytes == text.utf8.count) }
            #expect(read.text(text.utf8.count) == text)
            try reading.read(read, start: start)
            #expect(try port.staysEmpty())
            try writing.close()
            try port.expect(read, .pipeBroken)
        }
        #expect(thrownStatus { try IOCP.Pipe(fifo: directory.file("missing"), .readOnly) } == .objectNameNotFound)
    }

    @Test("a read that waits for a FIFO's first writer can be cancelled, or closed")
    func fifoWithoutWriter() throws {
        let directory = try ScratchDirectory()
        let path = directory.file("fifo")
        try #require(mkfifo(path.string, 0o600) == 0)
        let port = try CompletionPort(concurrencyLimit: 1)
        let reading = try IOCP.Pipe(fifo: path, .readOnly)
        try port.associate(reading, key: 1)
        let read = Operation(capacity: 10)
        try reading.read(read)
        #expect(try port.staysEmpty())
        try reading.cancel(read)
        try port.expect(read, .cancelled)
        try reading.read(read)
        #expect(try port.staysEmpty())
        try reading.close()
        try port.expect(read, .pipeBroken)
    }

    // MARK: Character devices

    @Test("/dev/zero and /dev/null read and write as they do", arguments: bothStarts)
    func nullAndZero(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let zero = try File("/dev/zero", .readOnly)
        let null = try File("/dev/null", .readWrite)
        #expect(zero.kind == .device && null.kind == .device)
        try port.associate(zero, key: 1)
        try port.associate(null, key: 2)
        let operation = Operation(pattern(10_000))
        try zero.read(operation, at: 12345, start: start)
        // The kernel cuts a read of a device short when the thread has other work to do.
        let packet = try port.next()
        #expect(packet.operation === operation && packet.key == 1 && packet.isSuccess && packet.bytes > 0)
        #expect(operation.buffer!.array(in: 0..<packet.bytes).allSatisfy { $0 == 0 })
        try null.write(operation, start: start)
        try port.expect(operation, bytes: 10_000, key: 2)
        try null.read(operation, start: start)
        try port.expect(operation, .endOfFile)
    }

    @Test("a terminal is read when a line is there", arguments: bothStarts)
    func terminal(start: Start) throws {
        let master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC)
        try #require(master >= 0)
        // What unlockpt and ptsname do, which Swift does not see.
        var unlocked: Int32 = 0
        var number: UInt32 = 0
        try #require(ioctl(master, 0x4004_5431, &unlocked) == 0 && ioctl(master, 0x8004_5430, &number) == 0)
        let terminal = try File(
            FilePath("/dev/pts/\(number)"), .readWrite, options: FileDescriptor.OpenOptions(rawValue: O_NOCTTY))
        let controller = try IOHandle(adopting: FileDescriptor(rawValue: master))
        let port = try CompletionPort(concurrencyLimit: 1)
        try port.associate(terminal, key: 1)
        try port.associate(controller, key: 2)
        let read = Operation(capacity: 100)
        #expect(try terminal.read(read, at: .current, start: start) == .pending)
        let write = Operation("line\n")
        try controller.write(write, at: .current, start: start)
        for _ in 0..<2 { #expect(try port.next().bytes == 5) }
        #expect(read.text(5) == "line\n")
        // What it echoed.
        try controller.read(read, start: start)
        try port.expect(read, bytes: 6, key: 2)
        #expect(read.text(6) == "line\r\n")
        try terminal.read(read)
        #expect(try port.staysEmpty())
        try terminal.cancel(read)
        try port.expect(read, .cancelled)
    }

    // MARK: Mail slots

    private static func slotAddress(_ abstract: Bool, _ directory: ScratchDirectory) throws -> SocketAddress {
        abstract
            ? try .abstract("iocp-test-\(directory.path.lastComponent!.string)")
            : try .unix(path: directory.file("slot"))
    }

    @Test(
        "a mail slot has a message for each read, on a path and under an abstract name", arguments: [false, true],
        bothStarts)
    func mailSlot(abstract: Bool, start: Start) throws {
        let directory = try ScratchDirectory()
        let address = try Self.slotAddress(abstract, directory)
        #expect(thrownStatus { try MailSlot.writer(to: address) } != nil)
        let port = try CompletionPort(concurrencyLimit: 1)
        let slot = try MailSlot(at: address)
        #expect(thrownStatus { try MailSlot(at: address) } == .addressAlreadyExists)
        let writer = try MailSlot.writer(to: address)
        try port.associate(slot, key: 1)
        try port.associate(writer, key: 2)

        #expect(try slot.nextMessageLength() == nil)
        let read = Operation(capacity: 100)
        try slot.read(read, start: start)
        #expect(try port.staysEmpty())
        for text in ["one", "", "three"] {
            let write = Operation(text)
            try writer.write(write, start: start)
            if text == "one" {
                for _ in 0..<2 { #expect(try port.next().bytes == 3) }
                #expect(read.text(3) == "one")
            } else {
                try port.expect(write, bytes: text.utf8.count, key: 2)
            }
        }
        #expect(try slot.nextMessageLength() == 0)
        try slot.read(read, start: start)
        try port.expect(read, bytes: 0, key: 1)
        #expect(try slot.nextMessageLength() == 5)
        try slot.read(read, start: start)
        try port.expect(read, bytes: 5)
        #expect(try slot.nextMessageLength() == nil)
    }

    @Test("a message longer than the read fills it with 234 and loses the rest (g16, g51)", arguments: bothStarts)
    func mailSlotOverflow(start: Start) throws {
        let directory = try ScratchDirectory()
        let address = try Self.slotAddress(true, directory)
        let port = try CompletionPort(concurrencyLimit: 1)
        let slot = try MailSlot(at: address)
        let writer = try MailSlot.writer(to: address)
        try port.associate(slot, key: 1)
        try port.associate(writer, key: 2)
        for text in ["0123456789", "next"] {
            try writer.write(Operation(text))
            #expect(try port.next().isSuccess)
        }
        let read = Operation(capacity: 4)
        #expect(try slot.nextMessageLength() == 10)
        // A warning is reported as pending and follows by packet (e5).
        #expect(try slot.read(read, start: start) == .pending)
        let packet = try port.expect(read, .bufferOverflow, bytes: 4)
        #expect(packet.status.win32Code == 234)
        #expect(read.text(4) == "0123")
        try slot.read(read, start: start)
        try port.expect(read, bytes: 4)
        #expect(read.text(4) == "next")
    }

    @Test("many writers' messages come whole, each exactly once")
    func manyWriters() throws {
        let directory = try ScratchDirectory()
        let address = try Self.slotAddress(false, directory)
        let port = try CompletionPort(concurrencyLimit: 1)
        let slot = try MailSlot(at: address)
        try port.associate(slot, key: 1)
        let writers = 6
        let messages = 300
        let threads = (0..<writers).map { number in
            SideThread {
                let own = try CompletionPort(concurrencyLimit: 1)
                let writer = try MailSlot.writer(to: address)
                try own.associate(writer, key: 0)
                let write = Operation(capacity: 64)
                for message in 0..<messages {
                    let range = write.buffer!.copy(from: "\(number):\(message)".utf8)
                    try writer.write(write, from: range)
                    let packet = try own.next()
                    guard packet.isSuccess && packet.bytes == range.count else { return packet.status }
                }
                return CompletionStatus.success
            }
        }
        let read = Operation(capacity: 64)
        var next = [Int](repeating: 0, count: writers)
        for _ in 0..<writers * messages {
            try slot.read(read)
            let packet = try port.expect(read, bytes: { try read.waitForCompletion() == .success ? read.bytes : -1 }())
            let parts = read.text(packet.bytes).split(separator: ":").compactMap { Int($0) }
            try #require(parts.count == 2, "\(read.buffer!.contents) \(packet.bytes) \(packet.status)")
            #expect(parts[1] == next[parts[0]])
            next[parts[0]] += 1
        }
        for thread in threads { #expect(try thread.join() == .success) }
        #expect(next.allSatisfy { $0 == messages })
    }

    @Test("a mail slot whose reader has gone cannot be written to", arguments: bothStarts)
    func mailSlotWithoutReader(start: Start) throws {
        let directory = try ScratchDirectory()
        let address = try Self.slotAddress(true, directory)
        let port = try CompletionPort(concurrencyLimit: 1)
        let slot = try MailSlot(at: address)
        let writer = try MailSlot.writer(to: address)
        try port.associate(writer, key: 2)
        try slot.close()
        let write = Operation("lost")
        let status = try thrownStatus { try writer.write(write, start: start) } ?? port.next().status
        #expect(status.isError)
        #expect(try port.staysEmpty())
        #expect(thrownStatus { try MailSlot.writer(to: address) } == .connectionRefused)
    }
}
