import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP

@Suite("Zero-copy sends", .serialized)
struct ZeroCopyTests {
    @Test("a send of any length has one packet with all its bytes", arguments: StreamKind.allCases, bothStarts)
    func lengths(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind, key: 3)
        for count in [1, 4096, 100_000, 5_000_000] {
            let bytes = pattern(count, seed: count)
            let send = IOCP.Operation(bytes)
            let receiver = SideThread { [peer = Sending(peer)] in try peer.value.receive(count) }
            _ = try socket.sendZeroCopy(send, start: start)
            try port.expect(send, bytes: count, key: 3)
            #expect(try receiver.join() == bytes)
            #expect(try port.dequeue(timeout: .zero) == nil)
        }
        let empty = IOCP.Operation(capacity: 8)
        _ = try socket.sendZeroCopy(empty, from: 0..<0, start: start)
        try port.expect(empty, bytes: 0, key: 3)
        #expect(try port.staysEmpty())
    }

    @Test("sends of both kinds arrive in the order of their starts, and none waits for the peer to read (g26)")
    func order() throws {
        let (port, socket, peer) = try connected(.tcp4)
        let sends = (0..<40).map { number in IOCP.Operation(pattern(1000, seed: number)) }
        for (number, send) in sends.enumerated() {
            if number % 2 == 0 { try socket.sendZeroCopy(send) } else { try socket.send(send) }
        }
        var seen: Set<ObjectIdentifier> = []
        // Nobody has read anything: what has been sent is with the network or the peer's system.
        for _ in sends {
            let packet = try port.next()
            #expect(packet.isSuccess && packet.bytes == 1000)
            #expect(seen.insert(ObjectIdentifier(packet.operation!)).inserted)
        }
        for number in 0..<40 {
            #expect(try peer.receive(1000) == pattern(1000, seed: number))
        }
    }

    @Test("a peer that does not read holds it up until a cancel or a close", arguments: [false, true])
    func interruption(closes: Bool) throws {
        let (port, socket, peer) = try connected(.tcp4)
        let send = IOCP.Operation(capacity: 50_000_000)
        try socket.sendZeroCopy(send)
        #expect(try port.dequeue(timeout: .milliseconds(20)) == nil)
        if closes { try socket.close() } else { try socket.cancel(send) }
        // What the network holds is let go of when the connection ends.
        peer.reset()
        let packet = try port.next()
        #expect(packet.operation === send)
        #expect(packet.status == (closes ? .connectionAborted : .cancelled))
        #expect(packet.bytes < 50_000_000)
        #expect(try port.staysEmpty())
    }

    @Test("errors are those of a send: a shut side, a reset, a socket without a connection")
    func errors() throws {
        for start in bothStarts {
            let (port, socket, peer) = try connected(.tcp4)
            let send = IOCP.Operation("data")
            try socket.shutdown(.sending)
            try expectFailure(.sendAfterShutdown, of: send, on: port, start) {
                try socket.sendZeroCopy(send, start: start)
            }
            peer.close()
            let unconnected = try Socket(family: .ipv4)
            try port.associate(unconnected, key: 2)
            try expectFailure(.invalidConnection, of: send, on: port, start) {
                try unconnected.sendZeroCopy(send, start: start)
            }
        }
        #expect(
            thrownStatus {
                let (_, socket, _) = try connected(.tcp4)
                return try socket.sendZeroCopy(IOCP.Operation(), from: 0..<5)
            } == .accessViolation)
    }

    @Test("a datagram goes out whole")
    func datagrams() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let receiver = try Socket.datagram(at: .loopback(port: 0))
        let sender = try Socket.datagram(at: .loopback(port: 0))
        try sender.connectAndWait(to: receiver.localAddress())
        try port.associate(sender, key: 1)
        try port.associate(receiver, key: 2)
        let send = IOCP.Operation(pattern(20_000))
        let receive = IOCP.Operation(capacity: 30_000)
        try receiver.receive(receive)
        try sender.sendZeroCopy(send)
        let packets = [try port.next(), try port.next()]
        #expect(packets.allSatisfy { $0.isSuccess && $0.bytes == 20_000 })
        #expect(receive.buffer!.array(in: 0..<20_000) == pattern(20_000))
    }

    @Test("the memory may be changed after the packet: the peer has what it held at the start")
    func memory() throws {
        let (port, socket, peer) = try connected(.tcp4)
        let send = IOCP.Operation(capacity: 65536)
        let receiver = SideThread { [peer = Sending(peer)] in try peer.value.receive(65536 * 100) }
        var expected: [UInt8] = []
        for round in 0..<100 {
            send.buffer!.fill(with: UInt8(round))
            expected += [UInt8](repeating: UInt8(round), count: 65536)
            try socket.sendZeroCopy(send)
            try port.expect(send, bytes: 65536)
        }
        #expect(try receiver.join() == expected)
    }

    @Test("a kernel without it copies")
    func oldKernel() throws {
        zeroCopyIsRequest.store(false, ordering: .relaxed)
        defer { zeroCopyIsRequest.store(true, ordering: .relaxed) }
        let (port, socket, peer) = try connected(.tcp4)
        let send = IOCP.Operation("copied")
        try socket.sendZeroCopy(send)
        try port.expect(send, bytes: 6)
        #expect(try peer.receive(6) == Array("copied".utf8))
    }

    @Test("the thread that started it may exit before the network lets go of the memory (e34)")
    func threadExit() throws {
        let (port, socket, peer) = try connected(.tcp4)
        let send = IOCP.Operation(pattern(3_000_000))
        _ = try SideThread { try socket.sendZeroCopy(send) as StartOutcome }.join()
        #expect(try peer.receive(3_000_000) == pattern(3_000_000))
        try port.expect(send, bytes: 3_000_000)
    }

    @Test("in the own ring of a single consumer it is a send like others")
    func singleConsumer() throws {
        var options = CompletionPort.Options()
        options.singleConsumer = true
        let port = try CompletionPort(options: options)
        let (socket, peer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        #expect(try port.dequeue(timeout: .zero) == nil)
        let send = IOCP.Operation("consumer")
        try socket.sendZeroCopy(send)
        try port.expect(send, bytes: 8)
        #expect(try peer.receive(8) == Array("consumer".utf8))
    }
}
