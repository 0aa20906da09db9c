import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP
@testable import IOUring

/// A kernel that keeps registered files open for the sake of others is not asked to register any.
private let kernelRegisters = (try? Capabilities.probe())?.promptFileRelease ?? false

/// A port whose handles are registered with its rings.
private func registeringPort(_ files: Int = 64, limit: Int = 1) throws -> CompletionPort {
    var options = CompletionPort.Options()
    options.registeredFiles = files
    return try CompletionPort(concurrencyLimit: limit, options: options)
}

extension CompletionPort {
    /// Files in the table of a ring, as the kernel tells.
    fileprivate func filesInTable(of ring: Int = 0) throws -> Int {
        let descriptor = core.slots[ring].fileDescriptor
        let text = try contents("/proc/self/fdinfo/\(descriptor)")
        var count = 0
        var isTable = false
        for line in text.split(separator: "\n") {
            if line.hasPrefix("UserFiles:") {
                isTable = true
            } else if line.hasPrefix("UserBufs:") {
                isTable = false
            } else if isTable, !line.hasSuffix("<none>") {
                count += 1
            }
        }
        return count
    }
}

private func contents(_ path: String) throws -> String {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    try #require(descriptor >= 0)
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65536)
    while case let count = read(descriptor, &chunk, chunk.count), count > 0 { bytes += chunk.prefix(count) }
    return String(decoding: bytes, as: UTF8.self)
}

extension Peer {
    /// Whether the other side has ended, at once. Only for tests in a process of their own: a child that another test
    /// starts holds whatever is open until it executes its program.
    fileprivate var isAtEndAtOnce: Bool {
        var byte: UInt8 = 0
        return recv(descriptor, &byte, 1, Int32(MSG_DONTWAIT)) == 0
    }

    /// Whether the other side ends, within the patience of a test.
    fileprivate var isAtEnd: Bool {
        get throws { try receiveSome(1).isEmpty }
    }
}

@Suite("Registered files", .enabled(if: kernelRegisters))
struct RegisteredFileTests {
    @Test("data goes through, by the place and not by the descriptor", arguments: StreamKind.allCases, bothStarts)
    func traffic(kind: StreamKind, start: Start) throws {
        let port = try registeringPort()
        let (socket, peer) = try kind.connection()
        try port.associate(socket, key: 7)
        #expect(try port.statistics.registeredFiles == 1)
        let receive = IOCP.Operation(capacity: 64)
        let send = IOCP.Operation("hello")
        for round in 0..<100 {
            _ = try socket.receive(receive, start: start)
            try peer.send("round \(round)")
            let text = "round \(round)"
            try port.expect(receive, bytes: text.utf8.count, key: 7)
            #expect(receive.text(text.utf8.count) == text)
            _ = try socket.send(send, start: start)
            try port.expect(send, bytes: 5, key: 7)
            #expect(try peer.receive(5) == Array("hello".utf8))
        }
        #expect(try port.filesInTable() == 1)
        // What the ring holds under the place is what is used: another file there has the data.
        let (other, otherPeer) = try kind.connection()
        let place = socket.file.registration?.place ?? -1
        let isReplaced = port.core.slots[0].setRegisteredFile(other.descriptor.rawValue, at: place)
        #expect(isReplaced)
        _ = try socket.send(send, start: start)
        try port.expect(send, bytes: 5, key: 7)
        #expect(try otherPeer.receive(5) == Array("hello".utf8))
    }

    @Test("a handle that is closed is closed at once, whatever is pending on others (e28, e29)")
    func closing() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let port = try registeringPort()
                let (waiting, waitingPeer) = try StreamKind.tcp4.connection()
                let (socket, peer) = try StreamKind.tcp4.connection()
                try port.associate(waiting, key: 1)
                try port.associate(socket, key: 2)
                let long = IOCP.Operation(capacity: 16)
                let receive = IOCP.Operation(capacity: 16)
                try waiting.receive(long)
                try socket.receive(receive)
                try port.flush()
                #expect(try port.dequeue(timeout: .zero) == nil)
                #expect(try port.filesInTable() == 2)
                try socket.close()
                try port.expect(receive, .connectionAborted, key: 2)
                #expect(peer.isAtEndAtOnce)
                #expect(try port.filesInTable() == 1)
                #expect(try port.statistics.registeredFiles == 1)
                try waitingPeer.send("x")
                try port.expect(long, bytes: 1, key: 1)
            }
        }
    }

    @Test("the address of a closed listener is free at once, whatever accepts were pending")
    func listeners() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                for continuous in [false, true] {
                    let port = try registeringPort()
                    let listener = try Socket.listening(at: .loopback(port: 0))
                    let address = try listener.localAddress()
                    try port.associate(listener, key: 3)
                    let accept = IOCP.Operation()
                    if continuous { try listener.acceptContinuously(accept) } else { try listener.accept(accept) }
                    let peer = try connectPeer(to: listener)
                    let packet = try port.next()
                    #expect(packet.isSuccess && packet.acceptedSocket != nil)
                    if !continuous { try listener.accept(accept) }
                    try port.flush()
                    try listener.close()
                    try port.expect(accept, .cancelled, key: 3)
                    // Without SO_REUSEADDR, which connections that live would otherwise forbid, but a listener would always.
                    let next = try Socket.listening(at: address)
                    try next.close()
                    peer.close()
                    #expect(try port.filesInTable() == 0)
                }
            }
        }
    }

    @Test("handles beyond the table work by their descriptors, and are counted")
    func fullTable() throws {
        let port = try registeringPort(2)
        var connections: [(Socket, Peer)] = []
        for index in 0..<4 {
            connections.append(try StreamKind.unix.connection())
            try port.associate(connections[index].0, key: UInt(index))
        }
        #expect(try port.statistics.registeredFiles == 2)
        #expect(try port.statistics.unregisteredFiles == 2)
        let operations = (0..<4).map { _ in IOCP.Operation(capacity: 16) }
        for index in 0..<4 {
            try connections[index].0.receive(operations[index])
            try connections[index].1.send("\(index)")
            try port.expect(operations[index], bytes: 1, key: UInt(index))
        }
        #expect(try port.filesInTable() == 2)
        // A place that comes free is the next one's.
        try connections[0].0.close()
        let (late, latePeer) = try StreamKind.unix.connection()
        try port.associate(late, key: 9)
        #expect(try port.statistics.registeredFiles == 2)
        try late.receive(operations[0])
        try latePeer.send("late")
        try port.expect(operations[0], bytes: 4, key: 9)
    }

    @Test("numbers and places are used again and again; data never goes astray")
    func reuse() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let port = try registeringPort(3)
                let receive = IOCP.Operation(capacity: 64)
                let send = IOCP.Operation("pong")
                for round in 0..<500 {
                    let (socket, peer) = try StreamKind.unix.connection()
                    try port.associate(socket, key: UInt(round))
                    try socket.receive(receive)
                    if round % 3 == 0 {
                        // Closed with a request that the kernel has not seen yet.
                        try socket.close()
                        try port.expect(receive, .connectionAborted, key: UInt(round))
                        #expect(peer.isAtEndAtOnce)
                        continue
                    }
                    try peer.send("\(round)")
                    let text = "\(round)"
                    try port.expect(receive, bytes: text.utf8.count, key: UInt(round))
                    #expect(receive.text(text.utf8.count) == text)
                    try socket.send(send)
                    try port.expect(send, bytes: 4, key: UInt(round))
                    #expect(try peer.receive(4) == Array("pong".utf8))
                    try socket.close()
                    #expect(peer.isAtEndAtOnce)
                }
                #expect(try port.statistics.registeredFiles == 0)
                #expect(try port.filesInTable() == 0)
            }
        }
    }

    @Test("a descriptor that is released is in no table")
    func release() throws {
        let port = try registeringPort()
        let (socket, peer) = try StreamKind.unix.connection()
        try port.associate(socket, key: 1)
        let receive = IOCP.Operation(capacity: 16)
        try socket.receive(receive)
        try peer.send("x")
        try port.expect(receive, bytes: 1)
        #expect(try port.filesInTable() == 1)
        let descriptor = try socket.releaseDescriptor()
        #expect(try port.filesInTable() == 0)
        close(descriptor.rawValue)
        #expect(try peer.isAtEnd)
    }

    @Test("a socket that is used again after its disconnect is the new one in the tables too (g46)")
    func disconnectForReuse() throws {
        let port = try registeringPort()
        let listener = try Socket.listening(at: .loopback(port: 0))
        let socket = try Socket(family: .ipv4)
        try port.associate(socket, key: 5)
        let operation = IOCP.Operation("first")
        for round in 0..<3 {
            try socket.connect(operation, to: listener.localAddress(), firstData: 0..<5)
            try port.expect(operation, bytes: 5)
            let peer = Peer(accept(listener.descriptor.rawValue, nil, nil))
            #expect(try peer.receive(5) == Array("first".utf8))
            try socket.send(operation)
            try port.expect(operation, bytes: 5)
            #expect(try peer.receive(5) == Array("first".utf8))
            #expect(try port.filesInTable() == 1)
            if round < 2 {
                try socket.disconnect(operation, reuse: true)
                try port.expect(operation, bytes: 0)
                #expect(try peer.isAtEnd)
            }
        }
    }

    @Test("accepts with first data, transmissions and pipes, whose steps name other descriptors, go through")
    func otherDescriptors() throws {
        let port = try registeringPort()
        let directory = try ScratchDirectory()
        let bytes = pattern(300_000)
        let file = try File(directory.file(), .readWrite, options: [.create])
        try port.associate(file, key: 1)
        let write = IOCP.Operation(bytes)
        try file.write(write)
        try port.expect(write, bytes: bytes.count)
        let listener = try Socket.listening(at: .loopback(port: 0))
        try port.associate(listener, key: 2)
        let accept = IOCP.Operation(capacity: 16)
        try listener.accept(accept, firstData: 0..<16)
        let peer = try connectPeer(to: listener)
        try peer.send("hello")
        let packet = try port.expect(accept, bytes: 5, key: 2)
        let socket = try #require(packet.acceptedSocket)
        try port.associate(socket, key: 3)
        let receiver = SideThread { [peer = Sending(peer)] in try peer.value.receive(bytes.count) }
        let transmission = IOCP.Operation()
        try socket.transmit(transmission, file: file)
        try port.expect(transmission, bytes: bytes.count, key: 3)
        #expect(try receiver.join() == bytes)
        let (readEnd, writeEnd) = try Pipe.make()
        try port.associate(readEnd, key: 4)
        try port.associate(writeEnd, key: 5)
        let read = IOCP.Operation(capacity: 16)
        let small = IOCP.Operation("pipe")
        try readEnd.read(read)
        try writeEnd.write(small)
        let both = [try port.next(), try port.next()]
        #expect(both.allSatisfy { $0.isSuccess && $0.bytes == 4 })
        #expect(read.text(4) == "pipe")
    }

    @Test("threads of a port with two rings share the handles: each ring has them in its table")
    func twoRings() throws {
        let port = try registeringPort(8, limit: 2)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        try port.associate(right, key: 2)
        let count = 20_000
        let served = Tally()
        let operations = (0..<2).map { _ in IOCP.Operation(capacity: 8) }
        try left.receive(operations[0])
        try right.send(operations[1], from: 0..<1)
        _ = try onThreads(2) { _ in
            while let packet = try port.dequeue(timeout: patience) {
                guard packet.key < 3 else { break }
                served.add()
                if served.value >= count {
                    try port.post(key: 3)
                    try port.post(key: 3)
                    continue
                }
                // Each packet's operation goes on in the ring of whoever took it.
                let operation = packet.operation!
                if operation === operations[0] {
                    try left.receive(operation)
                } else {
                    try right.send(operation, from: 0..<1)
                }
            }
        }
        #expect(served.value >= count)
        let bits = left.file.registration?.rings
        try left.close()
        try right.close()
        #expect(try #require(bits) != 0)
        #expect(try port.filesInTable(of: 0) == 0 && port.filesInTable(of: 1) == 0)
    }

    @Test("operations on a handle that outlive the thread that started them go on by the place (e34)")
    func threadExit() throws {
        let port = try registeringPort()
        let (socket, peer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        let receive = IOCP.Operation(capacity: 16)
        _ = try SideThread { try socket.receive(receive) as StartOutcome }.join()
        usleep(20_000)
        try peer.send("late")
        try port.expect(receive, bytes: 4)
    }

    @Test("an operation that was pending before the association completes after it (a9)")
    func associatedLater() throws {
        let port = try registeringPort()
        let (socket, peer) = try StreamKind.tcp4.connection()
        let receive = IOCP.Operation(capacity: 16)
        try socket.receive(receive)
        try port.associate(socket, key: 1)
        try peer.send("one")
        try port.expect(receive, bytes: 3)
        try socket.receive(receive)
        try peer.send("two!")
        try port.expect(receive, bytes: 4)
        #expect(try port.filesInTable() == 1)
        try socket.close()
        #expect(try peer.isAtEnd)
    }

    @Test("a child that closes its handles takes nothing out of its parent's tables")
    func fork() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let port = try registeringPort()
                let (socket, peer) = try StreamKind.unix.connection()
                try port.associate(socket, key: 1)
                let receive = IOCP.Operation(capacity: 16)
                try socket.receive(receive)
                try port.flush()
                try Child.run { try socket.close() }
                try check(try port.filesInTable() == 1, "the child emptied its parent's table")
                try peer.send("x")
                let packet = try port.next()
                try check(packet.isSuccess && packet.bytes == 1, "the parent's operation ended with \(packet.status)")
            }
        }
    }

    @Test("a place the kernel does not give, or take back, costs nothing but the gain")
    func refusals() throws {
        let port = try registeringPort(2)
        let ring = port.core.slots[0].fileDescriptor
        let isRefusing = Atomic<Bool>(true)
        #if DEBUG || IOCP_SEAM
        let number = Seam.install { call in
            guard case .register(ring, let operation) = call, operation == 6, isRefusing.load(ordering: .relaxed) else {
                return .pass
            }
            return .answer(-ENOMEM)
        }
        defer { Seam.remove(number) }
        let (socket, peer) = try StreamKind.unix.connection()
        try port.associate(socket, key: 1)
        let receive = IOCP.Operation(capacity: 16)
        try socket.receive(receive)
        try peer.send("x")
        try port.expect(receive, bytes: 1)
        #expect(try port.filesInTable() == 0)
        isRefusing.store(false, ordering: .relaxed)
        try socket.receive(receive)
        try peer.send("xy")
        try port.expect(receive, bytes: 2)
        #expect(try port.filesInTable() == 1)
        isRefusing.store(true, ordering: .relaxed)
        try socket.close()
        // The place is used no more.
        #expect(try port.statistics.registeredFiles == 1)
        #endif
    }

    @Test("a number of files that no table can have is refused, one beyond the limit of descriptors is cut")
    func badNumbers() throws {
        for wrong in [-1, (1 << 20) + 1] {
            #expect(thrownStatus { try registeringPort(wrong) } == .invalidParameter)
        }
        let port = try registeringPort(1 << 20)
        let (socket, peer) = try StreamKind.unix.connection()
        try port.associate(socket, key: 1)
        let receive = IOCP.Operation(capacity: 16)
        try socket.receive(receive)
        try peer.send("x")
        try port.expect(receive, bytes: 1)
        #expect(try port.statistics.registeredFiles == 1)
    }
}
