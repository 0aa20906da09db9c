import Glibc
import SystemPackage
import Testing

@testable import IOCP

@Suite("Adopting and releasing descriptors")
struct IOHandleTests {
    private func isNonblocking(_ descriptor: FileDescriptor) -> Bool {
        fcntl(descriptor.rawValue, F_GETFL) & O_NONBLOCK != 0
    }

    @Test(
        "an adopted descriptor works whether it was non-blocking or not, and is released as it was",
        arguments: [false, true], bothStarts)
    func nonblocking(wasNonblocking: Bool, start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (reading, writing) = try FileDescriptor.pipe()
        defer { try? writing.close() }
        if wasNonblocking { _ = fcntl(reading.rawValue, F_SETFL, O_NONBLOCK) }
        let handle = try IOHandle(adopting: reading)
        #expect(handle.kind == .pipe && handle.descriptor == reading)
        try port.associate(handle, key: 1)
        let read = Operation(capacity: 10)
        #expect(try handle.read(read, start: start) == .pending)
        #expect(try port.staysEmpty())
        #expect(thrownStatus { try handle.releaseDescriptor() } == .invalidParameter)  // an operation is pending
        _ = try writing.writeAll("abc".utf8)
        try port.expect(read, bytes: 3, key: 1)
        #expect(try handle.releaseDescriptor() == reading)
        #expect(isNonblocking(reading) == wasNonblocking)
        #expect(thrownStatus { try handle.read(read) } == .invalidHandle)
        #expect(thrownStatus { try handle.close() } == .invalidHandle)
        // It is open, and this test's again.
        try reading.close()
    }

    @Test("a descriptor that is made non-blocking behind the library's back still waits", arguments: bothStarts)
    func becomesNonblocking(start: Start) throws {
        let (port, socket, peer) = try connected(.tcp4)
        _ = fcntl(socket.descriptor.rawValue, F_SETFL, O_RDWR | O_NONBLOCK)
        let receive = Operation(capacity: 10)
        #expect(try socket.receive(receive, start: start) == .pending)
        #expect(try port.staysEmpty())
        try peer.send("abc")
        try port.expect(receive, bytes: 3)
        try socket.receive(receive)
        #expect(try port.staysEmpty())
        try socket.cancel(receive)
        try port.expect(receive, .cancelled)
        let bytes = pattern(4 << 20)
        let send = Operation(bytes)
        try socket.send(send, start: start)
        try port.flush()
        let reader = SideThread { [peer = Sending(peer)] in try peer.value.receive(bytes.count) }
        try port.expect(send, bytes: bytes.count)
        #expect(try reader.join() == bytes)
    }

    @Test("the kind of a descriptor is found out")
    func kinds() throws {
        let directory = try ScratchDirectory()
        let path = try directory.write([1])
        #expect(try IOHandle(adopting: .open(path, .readOnly)).kind == .file)
        #expect(try IOHandle(adopting: .open("/dev/null", .readOnly)).kind == .device)
        for (style, kind) in [(SOCK_STREAM, HandleKind.stream), (SOCK_DGRAM, .message), (SOCK_SEQPACKET, .message)] {
            let descriptor = socket(AF_UNIX, Int32(style.rawValue), 0)
            #expect(try Socket(adopting: FileDescriptor(rawValue: descriptor)).kind == kind)
        }
        let pair = try FileDescriptor.pipe()
        #expect(try IOHandle(adopting: pair.readEnd).kind == .pipe)
        #expect(try IOHandle(adopting: pair.writeEnd, kind: .device).kind == .device)
    }

    @Test("a handle that is dropped closes its descriptor")
    func dropped() throws {
        for style in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
            let descriptor = socket(AF_UNIX, Int32(style.rawValue), 0)
            var (open, after) = (stat(), stat())
            do {
                let socket = try Socket(adopting: FileDescriptor(rawValue: descriptor))
                #expect(socket.descriptor.rawValue == descriptor)
                #expect(fstat(descriptor, &open) == 0)
            }
            // Another test may have the number by now, but not the socket's own.
            #expect(fstat(descriptor, &after) != 0 || after.st_ino != open.st_ino || after.st_dev != open.st_dev)
        }
    }

    @Test("what is not open cannot be adopted, and what is not a socket fails as one", arguments: bothStarts)
    func wrongDescriptors(start: Start) throws {
        #expect(thrownStatus { try IOHandle(adopting: FileDescriptor(rawValue: -1)) } == .invalidHandle)
        #expect(thrownStatus { try IOHandle(adopting: FileDescriptor(rawValue: 19_999)) } == .invalidHandle)
        let directory = try ScratchDirectory()
        let port = try CompletionPort(concurrencyLimit: 1)
        let socket = try Socket(adopting: .open(directory.write([1]), .readOnly))
        try port.associate(socket, key: 1)
        let operation = Operation(capacity: 4)
        let status = try thrownStatus { try socket.receive(operation, start: start) } ?? port.next().status
        #expect(status.winsockCode == 10038 && status.win32Code == 6)
        #expect(thrownStatus { try socket.localAddress() } != nil)
    }

    @Test("a descriptor cannot be released while duplicates exist")
    func duplicates() throws {
        let (socket, other) = try Socket.pair()
        let duplicate = try socket.duplicate()
        #expect(thrownStatus { try socket.releaseDescriptor() } == .invalidParameter)
        try duplicate.close()
        let descriptor = try socket.releaseDescriptor()
        #expect(thrownStatus { try socket.duplicate() } == .invalidHandle)
        try descriptor.close()
        try other.close()
    }

    @Test("a handle that nobody holds closes its descriptor, and an operation in flight has its packet")
    func droppedHandle() throws {
        let (port, socket, peer) = try connected(.tcp4, key: 3)
        defer { peer.close() }
        let receive = Operation(capacity: 4)
        var holder: Socket? = try socket.duplicate()
        try socket.close()
        try holder!.receive(receive)
        holder = nil
        try port.expect(receive, .connectionAborted, key: 3)
        #expect(try peer.receiveSome().isEmpty)
    }
}
