import Glibc
import SystemPackage
import Testing

@testable import IOCP

/// A pair of datagram sockets on one port, keys 1 and 2, that know each other's address.
private struct Datagrams {
    enum Kind: String, CaseIterable, Sendable, CustomTestStringConvertible {
        case udp4, udp6, unix
        var testDescription: String { rawValue }

        func address() throws -> SocketAddress {
            switch self {
            case .udp4: .loopback(port: 0)
            case .udp6: .loopbackIPv6(port: 0)
            case .unix: try .abstract("iocp-test-\(UInt64.random(in: 0 ... .max))")
            }
        }
    }

    let port: CompletionPort
    let left: Socket
    let right: Socket

    init(_ kind: Kind) throws {
        port = try CompletionPort(concurrencyLimit: 1)
        left = try .datagram(at: kind.address())
        right = try .datagram(at: kind.address())
        try port.associate(left, key: 1)
        try port.associate(right, key: 2)
    }

    func send(_ text: String) throws {
        let send = Operation(text)
        try left.sendMessage(send, to: right.localAddress())
        try port.expect(send, bytes: text.utf8.count, key: 1)
    }
}

@Suite("Section g: datagrams")
struct SectionGDatagramTests {
    @Test(
        "a message comes with its sender's address, and can be answered (g55)", arguments: Datagrams.Kind.allCases,
        bothStarts)
    fileprivate func addresses(kind: Datagrams.Kind, start: Start) throws {
        let pair = try Datagrams(kind)
        let receive = Operation(capacity: 100)
        #expect(try pair.right.receiveMessage(receive, start: start) == .pending)
        #expect(try pair.port.staysEmpty())
        let send = Operation("question")
        try pair.left.sendMessage(send, to: pair.right.localAddress(), start: start)
        for _ in 0..<2 { #expect(try pair.port.next().bytes == 8) }
        #expect(receive.text(8) == "question")
        let sender = try #require(receive.peerAddress)
        #expect(try sender == pair.left.localAddress())
        try pair.right.sendMessage(receive, from: 0..<5, to: sender, start: start)
        try pair.port.expect(receive, bytes: 5, key: 2)
        try pair.left.receiveMessage(send, into: [IOBuffer(capacity: 2), IOBuffer(capacity: 10)], start: start)
        try pair.port.expect(send, bytes: 5, key: 1)
        #expect(try send.peerAddress == pair.right.localAddress())
    }

    @Test("connected sockets send and receive without addresses", arguments: Datagrams.Kind.allCases, bothStarts)
    fileprivate func connected(kind: Datagrams.Kind, start: Start) throws {
        let pair = try Datagrams(kind)
        try pair.left.connectAndWait(to: pair.right.localAddress())
        try pair.right.connectAndWait(to: pair.left.localAddress())
        let send = Operation("hello")
        try pair.left.send(send, start: start)
        try pair.port.expect(send, bytes: 5, key: 1)
        try pair.left.send(send, from: [IOBuffer(text: "he"), IOBuffer(text: "llo")], start: start)
        try pair.port.expect(send, bytes: 5, key: 1)
        let receive = Operation(capacity: 10)
        for _ in 0..<2 {
            try pair.right.receive(receive, start: start)
            try pair.port.expect(receive, bytes: 5, key: 2)
            #expect(receive.text(5) == "hello")
        }
    }

    @Test(
        "a message longer than the range fills it with 234 and loses the rest (g51)",
        arguments: Datagrams.Kind.allCases, bothStarts)
    fileprivate func truncated(kind: Datagrams.Kind, start: Start) throws {
        let pair = try Datagrams(kind)
        let receive = Operation(capacity: 4)
        // Pending, ready, and as a message.
        #expect(try pair.right.receive(receive, start: start) == .pending)
        #expect(try pair.port.staysEmpty())
        try pair.left.sendMessage(Operation("0123456789"), to: pair.right.localAddress())
        for _ in 0..<2 {
            let packet = try pair.port.next()
            if packet.operation !== receive { continue }
            #expect(packet.status == .bufferOverflow && packet.bytes == 4 && packet.status.win32Code == 234)
            #expect(packet.status.winsockCode == 10040)
        }
        #expect(receive.text(4) == "0123")
        try pair.send("abcdefgh")
        #expect(try pair.right.receive(receive, start: start) == .pending)  // a warning follows by packet (e5)
        try pair.port.expect(receive, .bufferOverflow, bytes: 4)
        try pair.send("ABCDEFGH")
        #expect(try pair.right.receiveMessage(receive, start: start) == .pending)
        try pair.port.expect(receive, .bufferOverflow, bytes: 4)
        #expect(receive.text(4) == "ABCD")
        try pair.send("next")
        try pair.right.receive(receive, start: start)
        try pair.port.expect(receive, bytes: 4)
    }

    @Test("an empty message is a success of 0 bytes, not an end (g53)", arguments: Datagrams.Kind.allCases, bothStarts)
    fileprivate func empty(kind: Datagrams.Kind, start: Start) throws {
        let pair = try Datagrams(kind)
        let receive = Operation(capacity: 10)
        try pair.send("")
        try pair.send("x")
        try pair.right.receive(receive, start: start)
        try pair.port.expect(receive, bytes: 0)
        try pair.right.receive(receive, start: start)
        try pair.port.expect(receive, bytes: 1)
    }

    @Test(
        "an empty receive takes and discards a message with 234 (g54)", arguments: Datagrams.Kind.allCases, bothStarts)
    fileprivate func emptyReceive(kind: Datagrams.Kind, start: Start) throws {
        let pair = try Datagrams(kind)
        let receive = Operation(capacity: 10)
        #expect(try pair.right.receive(receive, into: 0..<0, start: start) == .pending)
        #expect(try pair.port.staysEmpty())
        try pair.left.sendMessage(Operation("lost"), to: pair.right.localAddress())
        let packets = [try pair.port.next(), try pair.port.next()]
        #expect(packets.contains { $0.operation === receive && $0.status == .bufferOverflow && $0.bytes == 0 })
        try pair.send("kept")
        try pair.right.receive(receive, start: start)
        try pair.port.expect(receive, bytes: 4)
        #expect(receive.text(4) == "kept")
    }

    @Test(
        "a port that nobody listens at is 1234 to a pending receive of a connected socket (g52)",
        arguments: [Datagrams.Kind.udp4, .udp6], bothStarts)
    fileprivate func deadPort(kind: Datagrams.Kind, start: Start) throws {
        let pair = try Datagrams(kind)
        try pair.left.connectAndWait(to: pair.right.localAddress())
        try pair.right.close()
        let receive = Operation(capacity: 10)
        try pair.left.receive(receive, start: start)
        #expect(try pair.port.staysEmpty())
        let send = Operation("hello?")
        try pair.left.send(send, start: start)
        for _ in 0..<2 {
            let packet = try pair.port.next()
            if packet.operation === send {
                #expect(packet.isSuccess)
            } else {
                #expect(packet.status == .portUnreachable && packet.status.win32Code == 1234 && packet.bytes == 0)
            }
        }
        // The socket goes on.
        try pair.left.receive(receive, start: start)
        #expect(try pair.port.staysEmpty())
        try pair.left.cancel(receive)
        try pair.port.expect(receive, .cancelled)
    }

    @Test("a message that is too long to send is an error with 10040", arguments: bothStarts)
    func tooLong(start: Start) throws {
        let pair = try Datagrams(.udp4)
        let send = Operation(capacity: 70_000)
        let status: CompletionStatus
        do {
            try pair.left.sendMessage(send, to: pair.right.localAddress(), start: start)
            status = try pair.port.next().status
        } catch let error as PortError {
            status = error.status
        }
        #expect(status.isError && status.winsockCode == 10040)
    }

    @Test("a message without an address or a connection says so", arguments: bothStarts)
    func noAddress(start: Start) throws {
        let pair = try Datagrams(.udp4)
        let send = Operation("x")
        let status = try thrownStatus { try pair.left.send(send, start: start) } ?? pair.port.next().status
        #expect(status.winsockCode == 10039)
    }

    @Test("pending receives are filled in the order of their starts", arguments: Datagrams.Kind.allCases)
    fileprivate func inOrder(kind: Datagrams.Kind) throws {
        let pair = try Datagrams(kind)
        let receives = (0..<5).map { _ in Operation(capacity: 10) }
        for receive in receives { try pair.right.receiveMessage(receive) }
        #expect(try pair.port.staysEmpty())
        for (index, receive) in receives.enumerated() {
            try pair.left.sendMessage(Operation("\(index)"), to: pair.right.localAddress())
            for _ in 0..<2 { #expect(try pair.port.next().isSuccess) }
            #expect(receive.text(1) == "\(index)")
        }
    }

    @Test(
        "messages to a full Unix socket wait for room, by address and by connection, and arrive whole",
        arguments: [false, true])
    func fullQueue(connects: Bool) throws {
        let pair = try Datagrams(.unix)
        let address = try pair.right.localAddress()
        if connects { try pair.left.connectAndWait(to: address) }
        let count = 60
        for index in 0..<count {
            let send = Operation("message \(index)")
            if connects { try pair.left.send(send) } else { try pair.left.sendMessage(send, to: address) }
        }
        var sent = 0
        var received: Set<String> = []
        let receive = Operation(capacity: 100)
        try pair.right.receive(receive)
        while sent < count || received.count < count {
            let packet = try pair.port.next()
            #expect(packet.isSuccess && packet.bytes >= 9)
            if packet.key == 1 {
                sent += 1
            } else {
                received.insert(receive.text(packet.bytes))
                if received.count < count { try pair.right.receive(receive) }
            }
        }
        #expect(received == Set((0..<count).map { "message \($0)" }))
    }

    @Test("a message to a full queue can be cancelled", arguments: [false, true])
    func cancelWaiting(connects: Bool) throws {
        let pair = try Datagrams(.unix)
        let address = try pair.right.localAddress()
        if connects { try pair.left.connectAndWait(to: address) }
        var waiting: IOCP.Operation?
        while waiting == nil {
            let send = Operation("x")
            if connects { try pair.left.send(send) } else { try pair.left.sendMessage(send, to: address) }
            if try pair.port.dequeue(timeout: .milliseconds(20)) == nil { waiting = send }
        }
        try pair.left.cancel(waiting!)
        try pair.port.expect(waiting!, .cancelled)
    }

    // MARK: Control data

    /// One control message, as the kernel lays it out.
    private func control(_ level: Int32, _ type: Int32, _ value: Int32) -> IOBuffer {
        let buffer = IOBuffer(capacity: 24)
        buffer.fill(with: 0)
        withUnsafeBytes(of: (20 as Int, level, type, value)) { _ = buffer.copy(from: Array($0.prefix(20))) }
        return buffer
    }

    @Test("a descriptor travels as control data", arguments: [Socket.Style.stream, .datagram, .sequenced], bothStarts)
    func rights(style: Socket.Style, start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair(style)
        try port.associate(left, key: 1)
        try port.associate(right, key: 2)
        let directory = try ScratchDirectory()
        let source = try File(directory.write(Array("through".utf8)))
        let send = Operation("fd")
        try left.sendMessage(
            send, control: control(SOL_SOCKET, 1, source.descriptor.rawValue), start: start)  // SCM_RIGHTS
        try port.expect(send, bytes: 2, key: 1)
        let receive = Operation(capacity: 10)
        let room = IOBuffer(capacity: 64)
        try right.receiveMessage(receive, control: room, start: start)
        try port.expect(receive, bytes: 2, key: 2)
        #expect(receive.controlLength >= 20)
        let number: Int32 = room.withBytes(16..<20) { $0.loadUnaligned(as: Int32.self) }
        let received = try File(adopting: FileDescriptor(rawValue: number))
        try port.associate(received, key: 3)
        try received.read(receive)
        try port.expect(receive, bytes: 7, key: 3)
        #expect(receive.text(7) == "through")
    }

    @Test("the kernel's own control data comes with a message", arguments: bothStarts)
    func packetInformation(start: Start) throws {
        let pair = try Datagrams(.udp4)
        try pair.right.setOption(SOL_SOCKET, SO_TIMESTAMP, 1)
        try pair.send("x")
        let receive = Operation(capacity: 10)
        let room = IOBuffer(capacity: 128)
        try pair.right.receiveMessage(receive, control: room, start: start)
        try pair.port.expect(receive, bytes: 1, key: 2)
        #expect(receive.controlLength >= 32)
        let header = room.withBytes(8..<16) {
            ($0.loadUnaligned(as: Int32.self), $0.loadUnaligned(fromByteOffset: 4, as: Int32.self))
        }
        #expect(header.0 == SOL_SOCKET && header.1 == SO_TIMESTAMP)
        // Without room for it, the message comes all the same.
        try pair.send("yz")
        try pair.right.receiveMessage(receive, start: start)
        try pair.port.expect(receive, bytes: 2, key: 2)
        #expect(receive.controlLength == 0)
    }
}
