import Glibc
import SystemPackage
import Testing

@testable import IOCP

/// What listens, on which a connection can be made by address.
enum ListenerKind: String, CaseIterable, Sendable, CustomTestStringConvertible {
    case tcp4, tcp6, unix, sequenced

    var testDescription: String { rawValue }
    var style: Socket.Style { self == .sequenced ? .sequenced : .stream }

    private static func name() -> String {
        "iocp-test-\(UInt64.random(in: 0 ... .max))"
    }

    func listener() throws -> Socket {
        let address: SocketAddress =
            switch self {
            case .tcp4: .loopback(port: 0)
            case .tcp6: .loopbackIPv6(port: 0)
            case .unix, .sequenced: try .abstract(Self.name())
            }
        return try Socket.listening(at: address, style: style)
    }
}

/// A listener with key 125 on a port of its own.
private func listening(_ kind: ListenerKind = .tcp4) throws -> (port: CompletionPort, listener: Socket) {
    let port = try CompletionPort(concurrencyLimit: 1)
    let listener = try kind.listener()
    try port.associate(listener, key: 125)
    return (port, listener)
}

@Suite("Section g: connections")
struct SectionGConnectionTests {
    // MARK: Accepting

    @Test(
        "an accept yields the connection at the listener's key, associated with nothing (g32, g33, g36)",
        arguments: ListenerKind.allCases, bothStarts)
    func accept(kind: ListenerKind, start: Start) throws {
        let (port, listener) = try listening(kind)
        let accept = Operation()
        #expect(try listener.accept(accept, start: start) == .pending)
        #expect(try port.staysEmpty())
        for round in 0..<2 {
            let peer = try connectPeer(to: listener)
            // The second time the connection is there already (g37).
            if round == 1 { try listener.accept(accept, start: start) }
            let packet = try port.expect(accept, bytes: 0, key: 125)
            let socket = try #require(packet.acceptedSocket)
            try port.associate(socket, key: 236)
            try peer.send("hi")
            let receive = Operation(capacity: 10)
            try socket.receive(receive)
            try port.expect(receive, bytes: 2, key: 236)
        }
    }

    @Test(
        "an accept with first data waits for it, and its bytes are the data's (g33)",
        arguments: [ListenerKind.tcp4, .tcp6, .unix], bothStarts)
    func acceptFirstData(kind: ListenerKind, start: Start) throws {
        let (port, listener) = try listening(kind)
        let accept = Operation(capacity: 16)
        try listener.accept(accept, firstData: 4..<16, start: start)
        let peer = try connectPeer(to: listener)
        #expect(try port.staysEmpty())
        try peer.send("x")
        let packet = try port.expect(accept, bytes: 1, key: 125)
        #expect(accept.buffer![4] == UInt8(ascii: "x"))
        let socket = try #require(packet.acceptedSocket)
        try port.associate(socket, key: 1)
        let send = Operation("answer")
        try socket.send(send)
        try port.expect(send, bytes: 6, key: 1)
        #expect(try peer.receiveText(6) == "answer")
    }

    @Test("a peer that closes without a word completes the accept with 0 bytes (g34)", arguments: bothStarts)
    func acceptWithoutData(start: Start) throws {
        let (port, listener) = try listening()
        let accept = Operation(capacity: 16)
        try listener.accept(accept, firstData: 0..<16, start: start)
        try connectPeer(to: listener).close()
        let packet = try port.expect(accept, bytes: 0, key: 125)
        #expect(packet.acceptedSocket != nil)
    }

    @Test(
        "an accept puts the connection into a socket of the caller's, at the listener's key (g32)",
        arguments: bothStarts)
    func acceptInto(start: Start) throws {
        let (port, listener) = try listening()
        let socket = try Socket(family: .ipv4)
        try port.associate(socket, key: 236)
        let accept = Operation(capacity: 16)
        try listener.accept(accept, firstData: 0..<16, into: socket, start: start)
        // One accept for a socket at a time.
        #expect(thrownStatus { try listener.accept(Operation(), into: socket, start: start) } == .invalidParameter)
        let peer = try connectPeer(to: listener)
        try peer.send("1")
        let packet = try port.expect(accept, bytes: 1, key: 125)
        #expect(packet.acceptedSocket === socket)
        #expect(try socket.remoteAddress().port != nil)
        let receive = Operation(capacity: 4)
        try socket.receive(receive)
        try peer.send("22")
        try port.expect(receive, bytes: 2, key: 236)
    }

    @Test(
        "closing the socket that an accept is for ends the accept, at the listener's key (e30)",
        arguments: [0..<0, 0..<16])
    func closeAcceptSocket(firstData: Range<Int>) throws {
        let (port, listener) = try listening()
        let socket = try Socket(family: .ipv4)
        let accept = Operation(capacity: 16)
        try listener.accept(accept, firstData: firstData, into: socket)
        #expect(try port.staysEmpty())
        var peer: Peer?
        if !firstData.isEmpty {
            peer = try connectPeer(to: listener)
            #expect(try port.staysEmpty())
        }
        try socket.close()
        let packet = try port.next()
        #expect(packet.operation === accept && packet.key == 125)
        #expect([.cancelled, .connectionAborted].contains(packet.status))
        peer?.close()
    }

    @Test(
        "closing or cancelling ends pending accepts, and leaves no connection behind (e28, e23)",
        arguments: [false, true])
    func endAccepts(closes: Bool) throws {
        let (port, listener) = try listening()
        let accepts = (0..<4).map { _ in Operation(capacity: 4) }
        for (index, accept) in accepts.enumerated() {
            try listener.accept(accept, firstData: index < 2 ? 0..<4 : 0..<0)
        }
        let peer = try connectPeer(to: listener)
        // Whichever accept got it, the rest is pending.
        _ = try port.staysEmpty()
        if closes { try listener.close() } else { #expect(try listener.cancelAll() >= 3) }
        for _ in 0..<3 { #expect(try port.next().status == .cancelled) }
        if let last = try port.dequeue(timeout: .milliseconds(50)), last.status == .cancelled {
            #expect(try peer.receiveSome(1).isEmpty)  // its connection was dropped
        }
    }

    @Test("an accept on a socket that does not listen fails at once", arguments: bothStarts)
    func acceptWithoutListening(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let socket = try Socket(family: .ipv4)
        try port.associate(socket, key: 1)
        let accept = Operation()
        try expectFailure(.invalidParameter, of: accept, on: port, start) { try socket.accept(accept, start: start) }
    }

    @Test(
        "a continuous accept yields a packet for each connection, and one at its end", arguments: ListenerKind.allCases,
        bothStarts)
    func acceptContinuously(kind: ListenerKind, start: Start) throws {
        let (port, listener) = try listening(kind)
        let accept = Operation()
        try listener.acceptContinuously(accept, start: start)
        var peers: [Peer] = []
        var sockets: [Socket] = []
        for index in 0..<50 {
            peers.append(try connectPeer(to: listener))
            if index % 10 == 9 {
                for _ in 0..<10 {
                    let packet = try port.expect(accept, key: 125)
                    #expect(packet.isMore)
                    sockets.append(try #require(packet.acceptedSocket))
                }
            }
        }
        #expect(accept.isPending)
        #expect(Set(sockets.map(\.descriptor.rawValue)).count == 50)
        try listener.cancel(accept)
        let last = try port.expect(accept, .cancelled, key: 125)
        #expect(!last.isMore && last.acceptedSocket == nil)
        // It can be started again.
        try listener.acceptContinuously(accept, start: start)
        try listener.close()
        #expect(try !port.expect(accept, .cancelled).isMore)
    }

    @Test("without descriptors an accept fails with a packet, and nothing spins")
    func outOfDescriptors() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let (port, listener) = try listening()
                let peer = try connectPeer(to: listener)
                let accept = Operation()
                let held = holdDescriptors()
                for continuous in [false, true] {
                    if continuous { try listener.acceptContinuously(accept) } else { try listener.accept(accept) }
                    guard let packet = try port.dequeue(timeout: patience), packet.status == .tooManyOpenedFiles,
                        !packet.isMore,
                        try port.dequeue(timeout: .milliseconds(50)) == nil
                    else { throw CompletionStatus.unsuccessful }
                }
                for descriptor in held { close(descriptor) }
                // The connection has waited.
                try listener.accept(accept)
                guard let packet = try port.dequeue(timeout: patience), packet.acceptedSocket != nil else {
                    throw CompletionStatus.unsuccessful
                }
                peer.close()
            }
        }
    }

    // MARK: Connecting

    @Test("a connect always pends, and its packet has 0 bytes (g41)", arguments: ListenerKind.allCases, bothStarts)
    func connect(kind: ListenerKind, start: Start) throws {
        let (port, listener) = try listening(kind)
        let address = try listener.localAddress()
        let socket = try Socket(kind.style, family: address.family)
        try port.associate(socket, key: 2)
        try socket.setNotificationModes(.skipCompletionPortOnSuccess)
        let connect = Operation()
        #expect(try socket.connect(connect, to: address, start: start) == .pending)
        try port.expect(connect, bytes: 0, key: 2)
        #expect(try socket.remoteAddress() == address)
        // Connected already: 10056 (g43).
        try socket.connect(connect, to: address, start: start)
        #expect(try port.next().status.winsockCode == 10056)
    }

    @Test(
        "a connect with first data sends it, and its bytes are the data's (g41)", arguments: ListenerKind.allCases,
        bothStarts)
    func connectFirstData(kind: ListenerKind, start: Start) throws {
        let (port, listener) = try listening(kind)
        let address = try listener.localAddress()
        let socket = try Socket(kind.style, family: address.family)
        try port.associate(socket, key: 2)
        let connect = Operation("0123456")
        try socket.connect(connect, to: address, firstData: 2..<5, start: start)
        try port.expect(connect, bytes: 3, key: 2)
        let accept = Operation()
        try listener.accept(accept)
        let accepted = try #require(try port.next().acceptedSocket)
        let peer = Peer(try accepted.releaseDescriptor().rawValue)
        #expect(try peer.receiveText(3) == "234")
    }

    @Test(
        "a refused connect is 1225 by packet, and the socket can try again (g42, g43)",
        arguments: [ListenerKind.tcp4, .tcp6], bothStarts)
    func refused(kind: ListenerKind, start: Start) throws {
        let (port, listener) = try listening(kind)
        let address = try listener.localAddress()
        // Bound, not listening: nobody else can get the port.
        let silent = try Socket(family: address.family)
        try silent.bind(to: address.withPort(0))
        let socket = try Socket(family: address.family)
        try port.associate(socket, key: 2)
        try socket.setNotificationModes(.skipCompletionPortOnSuccess)
        let connect = Operation("data")
        for _ in 0..<2 {
            #expect(try socket.connect(connect, to: silent.localAddress(), firstData: 0..<4, start: start) == .pending)
            let packet = try port.expect(connect, .connectionRefused, bytes: 0, key: 2)
            #expect(packet.status.win32Code == 1225)
        }
        try socket.connect(connect, to: address, start: start)
        try port.expect(connect, bytes: 0)
    }

    @Test("a connect to nowhere is unreachable, where the machine's routes say so (g42)", arguments: bothStarts)
    func unreachable(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let socket = try Socket(family: .ipv4)
        try port.associate(socket, key: 2)
        // A loopback source has no way out.
        try socket.bind(to: .loopback(port: 0))
        let connect = Operation()
        try socket.connect(connect, to: .ipv4("192.0.2.1", port: 9), start: start)
        if let packet = try port.dequeue(timeout: .milliseconds(100)) {
            #expect(!packet.isSuccess)
            #expect([.networkUnreachable, .hostUnreachable, .invalidParameter].contains(packet.status))
        } else {
            try socket.cancel(connect)
            try port.expect(connect, .cancelled)
        }
        #expect(CompletionStatus(errnoCode: ENETUNREACH, context: .connect).win32Code == 1231)
        #expect(CompletionStatus(errnoCode: EHOSTUNREACH, context: .connect).win32Code == 1232)
    }

    @Test(
        "a connect to an address of another family, or to no address, is an error and no crash", arguments: bothStarts)
    func wrongAddress(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let socket = try Socket(family: .unix)
        try port.associate(socket, key: 2)
        let connect = Operation()
        try socket.connect(connect, to: .loopback(port: 1), start: start)
        #expect(try !port.next().isSuccess)
        try socket.connect(connect, to: .unix(path: "/nowhere/to/be/found"), start: start)
        #expect(try port.next().status == .objectNameNotFound)
    }

    // MARK: Disconnecting

    @Test("a disconnect always pends, has 0 bytes, and ends both directions (g44)", arguments: bothStarts)
    func disconnect(start: Start) throws {
        let (port, socket, peer) = try connected()
        try socket.setNotificationModes(.skipCompletionPortOnSuccess)
        let disconnect = Operation()
        #expect(try socket.disconnect(disconnect, start: start) == .pending)
        try port.expect(disconnect, bytes: 0, key: 1)
        #expect(try peer.receiveSome().isEmpty)
        let send = Operation("x")
        try expectFailure(.sendAfterShutdown, of: send, on: port, start) { try socket.send(send, start: start) }
    }

    @Test("a disconnect of what is not connected is 10057 (g45)", arguments: [false, true])
    func disconnectUnconnected(reuse: Bool) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let socket = try Socket(family: .ipv4)
        try port.associate(socket, key: 1)
        let disconnect = Operation()
        try socket.disconnect(disconnect, reuse: reuse)
        #expect(try port.next().status.winsockCode == 10057)
    }

    @Test("a socket that is disconnected for reuse connects and is accepted into again, its association kept (g46)")
    func reuse() throws {
        let (port, listener) = try listening()
        let socket = try Socket(family: .ipv4)
        try port.associate(socket, key: 7)
        let operation = Operation("again")
        for round in 0..<6 {
            let peer: Peer
            if round % 2 == 0 {
                try socket.connect(operation, to: listener.localAddress())
                try port.expect(operation, key: 7)
                peer = Peer(Glibc.accept(listener.descriptor.rawValue, nil, nil))
            } else {
                let accept = Operation()
                try listener.accept(accept, into: socket)
                peer = try connectPeer(to: listener)
                try port.expect(accept, key: 125)
            }
            try socket.send(operation)
            try port.expect(operation, bytes: 5, key: 7)
            #expect(try peer.receiveText(5) == "again")
            try socket.disconnect(operation, reuse: true)
            try port.expect(operation, bytes: 0, key: 7)
            #expect(try peer.receiveSome().isEmpty)
            try expectFailure(.invalidConnection, of: operation, on: port, .eager) {
                try socket.send(operation, start: .eager)
            }
            #expect(thrownStatus { try port.associate(socket, key: 8) } == .invalidParameter)
        }
    }

    // MARK: Transmitting files

    @Test(
        "a file is sent with head and tail in one packet of all their bytes (g47)", arguments: StreamKind.allCases,
        bothStarts)
    func transmit(kind: StreamKind, start: Start) throws {
        let directory = try ScratchDirectory()
        let source = try File(directory.write(Array("0123456789".utf8)), overlapped: false)  // g49
        let (port, socket, peer) = try connected(kind, key: 8)
        let transmit = Operation()
        let head = IOBuffer(text: "<<")
        let tail = IOBuffer(text: ">>>")
        func send(_ expected: String, _ body: () throws -> StartOutcome) throws {
            #expect(try body() == .pending)
            try port.expect(transmit, bytes: expected.utf8.count, key: 8)
            #expect(try peer.receiveText(expected.utf8.count) == expected)
        }
        try send("0123456789") { try socket.transmit(transmit, file: source, start: start) }  // g48: all of it
        try send("<<0123456789>>>") {
            try socket.transmit(transmit, file: source, head: head, tail: tail, start: start)
        }
        try send("<<>>>") { try socket.transmit(transmit, file: nil, head: head, tail: tail, start: start) }
        try send("345") { try socket.transmit(transmit, file: source, offset: 3, count: 3, start: start) }
        try send("89>>>") {
            try socket.transmit(transmit, file: source, offset: 8, count: 100, tail: tail, start: start)
        }
        try send("<<") { try socket.transmit(transmit, file: source, offset: 100, head: head, start: start) }
        try send("") { try socket.transmit(transmit, file: source, count: 0, start: start) }
        try send("") { try socket.transmit(transmit, file: nil, start: start) }
        #expect(try port.staysEmpty())
        for call in [
            { try socket.transmit(transmit, file: source, offset: -1) },
            { try socket.transmit(transmit, file: source, count: -1) },
            { try socket.transmit(transmit, file: source, count: 2_147_483_647) },
        ] { #expect(thrownStatus(call) == .invalidParameter) }
        // The file is the caller's again.
        _ = try source.releaseDescriptor().close()
    }

    @Test(
        "a large file arrives byte for byte, though its handle is closed meanwhile", arguments: TestFileSystem.available
    )
    func transmitLarge(system: TestFileSystem) throws {
        let directory = try ScratchDirectory(in: #require(system.directory))
        let bytes = pattern(16 << 20)
        let source = try File(directory.write(bytes))
        let (port, socket, peer) = try connected(.tcp4)
        let transmit = Operation()
        let head = IOBuffer(pattern(100_000, seed: 1))
        let tail = IOBuffer(pattern(200_000, seed: 2))
        try socket.transmit(transmit, file: source, head: head, tail: tail)
        try port.flush()
        try source.close()
        // Something else gets the descriptor's number.
        let other = try File(directory.write([9], to: "other"))
        let total = bytes.count + head.capacity + tail.capacity
        let reader = SideThread { [peer = Sending(peer)] in try peer.value.receive(total) }
        try port.expect(transmit, bytes: total)
        #expect(try reader.join() == head.contents + bytes + tail.contents)
        try other.close()
    }

    @Test("sends and transmissions on one socket leave in the order of their starts (g27)")
    func transmitInOrder() throws {
        let directory = try ScratchDirectory()
        let bytes = pattern(1_000_000)
        let source = try File(directory.write(bytes))
        let (port, socket, peer) = try connected(.tcp4)
        var expected: [UInt8] = []
        for index in 0..<6 {
            if index % 2 == 0 {
                try socket.transmit(Operation(), file: source, offset: Int64(index))
                expected += bytes[index...]
            } else {
                let part = pattern(300_000, seed: index)
                try socket.send(Operation(part))
                expected += part
            }
        }
        let total = expected.count
        let reader = SideThread { [peer = Sending(peer)] in try peer.value.receive(total) }
        for _ in 0..<6 { #expect(try port.next().isSuccess) }
        #expect(try reader.join() == expected)
    }

    @Test(
        "a transmission to a peer that does not read is cancelled, closed or reset, and says how far it came",
        arguments: ["cancel", "close", "reset"])
    func endTransmission(how: String) throws {
        let directory = try ScratchDirectory()
        let length = 16 << 20
        let source = try File(directory.write(pattern(length)))
        let (port, socket, peer) = try connected(.tcp4)
        defer { peer.close() }
        let transmit = Operation()
        try socket.transmit(transmit, file: source)
        #expect(try port.staysEmpty(for: .milliseconds(50)))
        let expected: CompletionStatus
        switch how {
        case "cancel":
            try socket.cancel(transmit)
            expected = .cancelled
        case "close":
            try socket.close()
            expected = .connectionAborted
        default:
            peer.reset()
            expected = .connectionReset
        }
        let packet = try port.next()
        #expect(packet.operation === transmit && packet.status == expected)
        #expect(packet.bytes < length)
        #expect(try port.staysEmpty())
    }
}
