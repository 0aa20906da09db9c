import Glibc
import SystemPackage
import Testing

@testable import IOCP

/// The connections on which a reset can be provoked.
private let tcpKinds: [StreamKind] = [.tcp4, .tcp6]

@Suite("Section g: stream sockets")
struct SectionGStreamSocketTests {
    // MARK: Moving data

    @Test("a pending receive gets what comes (s.recv.pending)", arguments: StreamKind.allCases, bothStarts)
    func receivePending(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind, key: 1)
        let receive = Operation(capacity: 100)
        #expect(try socket.receive(receive, start: start) == .pending)
        #expect(try port.staysEmpty())
        #expect(receive.status == .pending && receive.bytes == 0)
        try peer.send("hello")
        try port.expect(receive, bytes: 5, key: 1)
        #expect(receive.text(5) == "hello")
        #expect(receive.status == .success && receive.bytes == 5)
    }

    @Test("a receive of what has come is an immediate success with one packet (g21)", arguments: StreamKind.allCases)
    func receiveReady(kind: StreamKind) throws {
        let (port, socket, peer) = try connected(kind)
        try peer.send("data")
        try waitReadable(socket)
        let receive = Operation(capacity: 100)
        #expect(try socket.receive(receive, start: .eager) == .completed(bytes: 4))
        try port.expect(receive, bytes: 4)
        #expect(try port.staysEmpty())
    }

    @Test(
        "sends are gathered and receives scattered (s.send.gather, s.recv.scatter)", arguments: StreamKind.allCases,
        bothStarts)
    func vectored(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        let operation = Operation()
        try socket.send(operation, from: ["ab", "cde", "f"].map { IOBuffer(text: $0) }, start: start)
        try port.expect(operation, bytes: 6)
        #expect(try peer.receiveText(6) == "abcdef")
        let buffers = [IOBuffer(capacity: 3), IOBuffer(capacity: 8)]
        #expect(try socket.receive(operation, into: buffers, start: start) == .pending)
        try peer.send("abcdef")
        try port.expect(operation, bytes: 6)
        #expect(buffers[0].string(in: 0..<3) == "abc" && buffers[1].string(in: 0..<3) == "def")
        #expect(thrownStatus { try socket.receive(operation, into: [IOBuffer](), start: start) } == .invalidParameter)
    }

    @Test(
        "reading and writing a socket as a file receives and sends (s.readfile, s.writefile)",
        arguments: StreamKind.allCases, bothStarts)
    func asFile(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        let read = Operation(capacity: 10)
        #expect(try socket.read(read, at: 1234, start: start) == .pending)
        try peer.send("rf")
        try port.expect(read, bytes: 2)
        let write = Operation("wf")
        try socket.write(write, start: start)
        try port.expect(write, bytes: 2)
        let buffers = [IOBuffer(text: "a"), IOBuffer(text: "bc")]
        try socket.write(write, from: buffers, start: start)
        try port.expect(write, bytes: 3)
        #expect(try peer.receiveText(5) == "wfabc")
        try socket.read(read, into: buffers, start: start)
        try peer.send("xyz")
        try port.expect(read, bytes: 3)
        #expect(buffers[0].contents + buffers[1].contents == Array("xyz".utf8))
    }

    @Test("a send of 0 bytes succeeds (s.send.zero-bytes)", arguments: StreamKind.allCases, bothStarts)
    func sendNothing(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        defer { peer.close() }
        let send = Operation(capacity: 4)
        try socket.send(send, from: 0..<0, start: start)
        try port.expect(send, bytes: 0)
    }

    @Test(
        "a send of 8 MiB completes once, in full, in order (g27, s.send.8MiB)", arguments: StreamKind.allCases,
        bothStarts)
    func largeSend(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        let bytes = pattern(8 << 20)
        let send = Operation(bytes)
        #expect(try socket.send(send, start: start) == .pending)
        if start == .deferred { try port.flush() }
        #expect(try peer.receive(bytes.count) == bytes)
        try port.expect(send, bytes: bytes.count)
        #expect(try port.staysEmpty())
    }

    @Test("a gathered send larger than the socket's buffers completes in full", arguments: StreamKind.allCases)
    func largeGatheredSend(kind: StreamKind) throws {
        let (port, socket, peer) = try connected(kind)
        let bytes = pattern(5_000_000)
        let parts = stride(from: 0, to: bytes.count, by: 333_333).map {
            IOBuffer(Array(bytes[$0..<min($0 + 333_333, bytes.count)]))
        }
        let send = Operation()
        try socket.send(send, from: parts)
        try port.flush()
        #expect(try port.staysEmpty())
        #expect(try peer.receive(bytes.count) == bytes)
        try port.expect(send, bytes: bytes.count)
    }

    @Test(
        "sends that are started together leave in the order of their starts and are not mixed (g27)",
        arguments: StreamKind.allCases)
    func sendsInOrder(kind: StreamKind) throws {
        let (port, socket, peer) = try connected(kind)
        let count = 20
        let length = 400_000
        let sends = (0..<count).map { Operation([UInt8](repeating: UInt8($0), count: length)) }
        for send in sends { try socket.send(send) }
        let reader = SideThread { [peer = Sending(peer)] in try peer.value.receive(count * length) }
        for send in sends { try port.expect(send, bytes: length) }
        let received = try reader.join()
        #expect(received.count == count * length)
        for index in 0..<count {
            #expect(received[index * length..<(index + 1) * length].allSatisfy { $0 == UInt8(index) })
        }
    }

    // MARK: Nothing

    @Test(
        "an empty receive completes when something is there, takes nothing, and the next receive gets it (g28)",
        arguments: StreamKind.allCases, bothStarts)
    func emptyReceive(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        let empty = Operation(capacity: 10)
        #expect(try socket.receive(empty, into: 0..<0, start: start) == .pending)
        #expect(try port.staysEmpty())
        try peer.send("zz")
        try port.expect(empty, bytes: 0)
        try socket.receive(empty, into: 0..<0, start: start)
        try port.expect(empty, bytes: 0)
        try socket.receive(empty, start: start)
        try port.expect(empty, bytes: 2)
        // The end is something as well.
        try socket.receive(empty, into: 0..<0, start: start)
        #expect(try port.staysEmpty())
        peer.close()
        try port.expect(empty, bytes: 0)
    }

    // MARK: Several

    @Test(
        "two pending receives are filled in the order of their starts (g26)", arguments: StreamKind.allCases, bothStarts
    )
    func twoPending(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        let first = Operation(capacity: 3)
        let second = Operation(capacity: 3)
        try socket.receive(first, start: start)
        try socket.receive(second, start: start)
        #expect(try port.staysEmpty())
        try peer.send("abcdef")
        try port.expect(first, bytes: 3)
        try port.expect(second, bytes: 3)
        #expect(first.text(3) == "abc" && second.text(3) == "def")
    }

    @Test(
        "one send completes one of two pending receives, the next send the other (s.recv.two-pending-one-send)",
        arguments: StreamKind.allCases)
    func twoPendingOneSend(kind: StreamKind) throws {
        let (port, socket, peer) = try connected(kind)
        let first = Operation(capacity: 100)
        let second = Operation(capacity: 100)
        try socket.receive(first)
        try socket.receive(second)
        try port.flush()
        try peer.send("abcdef")
        try port.expect(first, bytes: 6)
        #expect(try port.staysEmpty())
        try peer.send("x")
        try port.expect(second, bytes: 1)
    }

    @Test(
        "many pending receives are filled in order, whichever are cancelled (g26, e26b)", arguments: StreamKind.allCases
    )
    func manyPending(kind: StreamKind) throws {
        let (port, socket, peer) = try connected(kind)
        let receives = (0..<60).map { _ in Operation(capacity: 2) }
        for receive in receives { try socket.receive(receive) }
        #expect(try port.staysEmpty())
        for (index, receive) in receives.enumerated() where index % 3 == 0 {
            try socket.cancel(receive)
            #expect(thrownStatus { try socket.cancel(receive) } == .notFound)
            try port.expect(receive, .cancelled)
        }
        try peer.send(Array(0..<80))
        for (place, index) in receives.indices.filter({ $0 % 3 != 0 }).enumerated() {
            try port.expect(receives[index], bytes: 2)
            #expect(receives[index].buffer!.contents == [UInt8(2 * place), UInt8(2 * place + 1)])
        }
        #expect(try port.staysEmpty())
    }

    @Test(
        "waitAll completes when the range is full, or at the end with what there is (s.recv.waitall)",
        arguments: StreamKind.allCases, bothStarts)
    func waitAll(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        let receive = Operation(capacity: 6)
        #expect(try socket.receive(receive, flags: .waitAll, start: start) == .pending)
        try peer.send("abc")
        #expect(try port.staysEmpty())
        try peer.send("def")
        try port.expect(receive, bytes: 6)
        #expect(receive.text(6) == "abcdef")
        try socket.receive(receive, flags: .waitAll, start: start)
        try peer.send("xy")
        peer.close()
        try port.expect(receive, bytes: 2)
    }

    @Test("a peek leaves what it saw (s.recv.peek)", arguments: StreamKind.allCases, bothStarts)
    func peek(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        try peer.send("peek")
        let receive = Operation(capacity: 10)
        for flags: ReceiveFlags in [.peek, .peek, []] {
            try socket.receive(receive, flags: flags, start: start)
            try port.expect(receive, bytes: 4)
            #expect(receive.text(4) == "peek")
        }
    }

    // MARK: The end

    @Test(
        "a graceful end is a success of 0 bytes, again and again, and the other direction goes on (g22)",
        arguments: StreamKind.allCases, bothStarts)
    func halfClose(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        let receive = Operation(capacity: 10)
        try socket.receive(receive, start: start)
        #expect(try port.staysEmpty())
        peer.shutdown(SHUT_WR)
        try port.expect(receive, bytes: 0)
        for _ in 0..<2 {
            try socket.receive(receive, start: start)
            try port.expect(receive, bytes: 0)
        }
        let send = Operation("still")
        try socket.send(send, start: start)
        try port.expect(send, bytes: 5)
        #expect(try peer.receiveText(5) == "still")
    }

    @Test(
        "what came before the end is received first (s.recv.data-then-close)", arguments: StreamKind.allCases,
        bothStarts)
    func dataThenClose(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        try peer.send("bye")
        peer.close()
        let receive = Operation(capacity: 10)
        try socket.receive(receive, start: start)
        try port.expect(receive, bytes: 3)
        try socket.receive(receive, start: start)
        try port.expect(receive, bytes: 0)
    }

    // MARK: Resets

    @Test(
        "a reset ends a pending receive with 64, 10054 to Winsock, and 0 bytes (g23)", arguments: tcpKinds, bothStarts)
    func resetWhilePending(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind, key: 3)
        let receive = Operation(capacity: 10)
        #expect(try socket.receive(receive, start: start) == .pending)
        #expect(try port.staysEmpty())
        peer.reset()
        let packet = try port.expect(receive, .connectionReset, bytes: 0, key: 3)
        #expect(packet.status.win32Code == 64)
        #expect(receive.status.ntStatus == 0xC000_020D && receive.status.winsockCode == 10054)
        #expect(try port.staysEmpty())
    }

    @Test("after a reset, receives and sends fail at once with 10054 (g24)", arguments: tcpKinds, bothStarts)
    func resetBefore(kind: StreamKind, start: Start) throws {
        for sendsFirst in [false, true] {
            let (port, socket, peer) = try connected(kind)
            peer.reset()
            try waitReadable(socket)
            let operation = Operation(capacity: 10)
            for round in 0..<4 {
                try expectFailure(.connectionReset, of: operation, on: port, start) {
                    (round % 2 == 0) == sendsFirst
                        ? try socket.send(operation, start: start) : try socket.receive(operation, start: start)
                }
            }
            try expectFailure(.connectionReset, of: operation, on: port, start) {
                try socket.receive(operation, into: 0..<0, start: start)
            }
        }
    }

    @Test("a send to a peer that has closed is reset, not shut down (g24)", arguments: StreamKind.allCases, bothStarts)
    func peerClosed(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        peer.close()
        let send = Operation("x")
        if kind != .unix {
            // The first is answered with a reset.
            try socket.send(send)
            try port.expect(send, bytes: 1)
            try waitFor(POLLERR, socket.descriptor.rawValue)
        }
        try expectFailure(.connectionReset, of: send, on: port, start) { try socket.send(send, start: start) }
    }

    @Test("a reset in the middle of a send ends it with 64 (g27)", arguments: tcpKinds)
    func resetWhileSending(kind: StreamKind) throws {
        let (port, socket, peer) = try connected(kind)
        let send = Operation(capacity: 8 << 20)
        try socket.send(send)
        #expect(try port.staysEmpty())
        peer.reset()
        let packet = try port.next()
        #expect(packet.operation === send && packet.status == .connectionReset && packet.bytes < 8 << 20)
    }

    // MARK: Wrong states

    @Test(
        "what this side has shut down is 10058 (s.send.after-local-shutdown)", arguments: StreamKind.allCases,
        bothStarts)
    func localShutdown(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        defer { peer.close() }
        let operation = Operation("x")
        try socket.shutdown(.sending)
        #expect(try port.staysEmpty())  // g30
        #expect(CompletionStatus.sendAfterShutdown.winsockCode == 10058)
        try expectFailure(.sendAfterShutdown, of: operation, on: port, start) {
            try socket.send(operation, start: start)
        }
        try expectFailure(.sendAfterShutdown, of: operation, on: port, start) {
            try socket.send(operation, from: [IOBuffer(capacity: 2)], start: start)
        }
        try socket.shutdown(.receiving)
        try expectFailure(.sendAfterShutdown, of: operation, on: port, start) {
            try socket.receive(operation, start: start)
        }
    }

    @Test("a socket that is not connected is 10057 (g25)", arguments: bothStarts)
    func notConnected(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        #expect(CompletionStatus.invalidConnection.winsockCode == 10057)
        for family in [SocketAddress.Family.ipv4, .ipv6] {
            let socket = try Socket(family: family)
            try port.associate(socket, key: 5)
            let operation = Operation("x")
            try expectFailure(.invalidConnection, of: operation, on: port, start) {
                try socket.receive(operation, start: start)
            }
            try expectFailure(.invalidConnection, of: operation, on: port, start) {
                try socket.send(operation, start: start)
            }
        }
    }

    @Test("a closed socket and nil memory are refused (s.recv.closed-socket, g19)", arguments: bothStarts)
    func refused(start: Start) throws {
        let (port, socket, _) = try connected()
        let operation = Operation()
        #expect(thrownStatus { try socket.receive(operation, into: 0..<4, start: start) } == .accessViolation)
        #expect(thrownStatus { try socket.send(operation, from: 0..<4, start: start) } == .accessViolation)
        #expect(thrownStatus { try socket.send(operation, count: -1, start: start) } == .invalidParameter)
        try socket.close()
        #expect(thrownStatus { try socket.receive(operation, start: start) } == .invalidHandle)
        #expect(thrownStatus { try socket.send(operation, start: start) } == .invalidHandle)
        #expect(thrownStatus { try socket.shutdown(.both) } == .invalidHandle)
        #expect(try port.staysEmpty())
    }

    @Test("connect, shutdown and accept calls queue nothing (g30)")
    func plainCallsQueueNothing() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let listener = try Socket.listening(at: .loopback(port: 0))
        let socket = try Socket(family: .ipv4)
        try port.associate(listener, key: 1)
        try port.associate(socket, key: 2)
        try socket.connectAndWait(to: listener.localAddress())
        try socket.shutdown(.both)
        #expect(try port.staysEmpty())
    }

    @Test(
        "a shutdown operation ends one direction after the sends before it, and has one packet",
        arguments: StreamKind.allCases, bothStarts)
    func shutdownOperation(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind)
        let bytes = pattern(4 << 20)
        let send = Operation(bytes)
        let shutdown = Operation()
        try socket.send(send)
        try socket.shutdown(shutdown, .sending, start: start)
        let reader = SideThread { [peer = Sending(peer)] in try peer.value.receive(bytes.count + 1) }
        try port.expect(send, bytes: bytes.count)
        try port.expect(shutdown, bytes: 0)
        #expect(try reader.join() == bytes)
        try expectFailure(.sendAfterShutdown, of: send, on: port, start) { try socket.send(send, start: start) }
    }

    // MARK: Sequenced packets

    @Test("sequenced packets keep their boundaries and their order, and end like a stream", arguments: bothStarts)
    func sequenced(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair(.sequenced)
        try port.associate(left, key: 1)
        try port.associate(right, key: 2)
        for text in ["one", "twotwo", "three"] {
            let send = Operation(text)
            try left.send(send, start: start)
            try port.expect(send, bytes: text.utf8.count, key: 1)
        }
        let receive = Operation(capacity: 4)
        try right.receive(receive, start: start)
        try port.expect(receive, bytes: 3)
        try right.receive(receive, start: start)
        try port.expect(receive, .bufferOverflow, bytes: 4)
        try right.receiveMessage(receive, start: start)
        try port.expect(receive, .bufferOverflow, bytes: 4)
        #expect(receive.text(4) == "thre")
        try left.close()
        try right.receive(receive, start: start)
        try port.expect(receive, bytes: 0)
        try expectFailure(.connectionReset, of: receive, on: port, start) { try right.send(receive, start: start) }
    }

    @Test("many sequenced packets arrive in the order of their starts though the queue fills up")
    func sequencedInOrder() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair(.sequenced)
        try port.associate(left, key: 1)
        let count = 500
        for index in 0..<count {
            let send = Operation(capacity: 4096)
            send.buffer!.fill(with: UInt8(truncatingIfNeeded: index))
            try left.send(send)
        }
        let peer = Sending(Peer(try right.releaseDescriptor().rawValue))
        let reader = SideThread {
            try (0..<count).map { _ in try peer.value.receiveSome().map(Int.init).reduce(0, +) / 4096 }
        }
        for _ in 0..<count { #expect(try port.next().bytes == 4096) }
        #expect(try reader.join() == (0..<count).map { $0 % 256 })
    }
}
