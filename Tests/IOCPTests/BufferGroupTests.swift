import Glibc
import SystemPackage
import Testing

@testable import IOCP

@Suite("Continuous receives from a buffer group")
struct BufferGroupTests {
    @Test("one operation has a packet for each arrival, and one at the end", arguments: StreamKind.allCases, bothStarts)
    func arrivals(kind: StreamKind, start: Start) throws {
        let (port, socket, peer) = try connected(kind, key: 4)
        let group = try BufferGroup(for: port, buffersPerRing: 8, bufferSize: 100)
        let receive = Operation()
        try socket.receiveContinuously(receive, from: group, start: start)
        for index in 0..<50 {
            try peer.send("message \(index)")
            let text = "message \(index)"
            let packet = try port.expect(receive, bytes: text.utf8.count, key: 4)
            #expect(packet.isMore)
            let buffer = try #require(packet.lentBuffer)
            #expect(buffer.count == packet.bytes && buffer.array == Array(text.utf8))
            buffer.giveBack()
            buffer.giveBack()  // does nothing
        }
        #expect(receive.isPending)
        peer.close()
        let last = try port.expect(receive, bytes: 0, key: 4)
        #expect(!last.isMore && last.lentBuffer == nil)
        #expect(group.pauseCount == 0)
        // The operation can be used for something else.
        #expect(!receive.isPending)
    }

    @Test("a receive without data that was started while the group was dry does not stand before one that has data")
    func idleReceiveInFront() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let group = try BufferGroup(for: port, buffersPerRing: 1, bufferSize: 16)
        let pairs = try (0..<3).map { _ in try Socket.pair() }
        for (index, pair) in pairs.enumerated() { try port.associate(pair.0, key: UInt(index)) }
        let operations = (0..<3).map { _ in IOCP.Operation() }
        try pairs[0].0.receiveContinuously(operations[0], from: group)
        writeRaw("first", to: pairs[0].1)
        let held = try #require(try port.next().lentBuffer)
        // Dry: the second finds no buffer although it needs none, the third has data.
        try pairs[1].0.receiveContinuously(operations[1], from: group)
        #expect(try port.dequeue(timeout: .milliseconds(20)) == nil)
        try pairs[2].0.receiveContinuously(operations[2], from: group)
        writeRaw("third", to: pairs[2].1)
        #expect(try port.dequeue(timeout: .milliseconds(20)) == nil)
        held.giveBack()
        let packet = try port.next()
        #expect(packet.key == 2 && packet.lentBuffer?.array == Array("third".utf8))
        packet.lentBuffer?.giveBack()
        writeRaw("second", to: pairs[1].1)
        let last = try port.next()
        #expect(last.key == 1 && last.bytes == 6)
        last.lentBuffer?.giveBack()
    }

    @Test("a receive that is let on and ends without a buffer leaves it to the next one")
    func endedReceiveInFront() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let group = try BufferGroup(for: port, buffersPerRing: 1, bufferSize: 16)
        let pairs = try (0..<3).map { _ in try Socket.pair() }
        for (index, pair) in pairs.enumerated() { try port.associate(pair.0, key: UInt(index)) }
        let operations = (0..<3).map { _ in IOCP.Operation() }
        try pairs[0].0.receiveContinuously(operations[0], from: group)
        writeRaw("first", to: pairs[0].1)
        let held = try #require(try port.next().lentBuffer)
        try pairs[1].1.close()
        try pairs[1].0.receiveContinuously(operations[1], from: group)
        writeRaw("third", to: pairs[2].1)
        try pairs[2].0.receiveContinuously(operations[2], from: group)
        #expect(try port.dequeue(timeout: .milliseconds(20)) == nil)
        held.giveBack()
        let packets = [try port.next(), try port.next()]
        let ended = try #require(packets.first { $0.key == 1 })
        #expect(!ended.isMore && ended.isSuccess && ended.bytes == 0)
        let arrived = try #require(packets.first { $0.key == 2 })
        #expect(arrived.lentBuffer?.array == Array("third".utf8))
        arrived.lentBuffer?.giveBack()
    }

    @Test(
        "a receive that is let on and has only an empty datagram leaves the buffer to the next one, and goes on itself")
    func emptyDatagramInFront() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let group = try BufferGroup(for: port, buffersPerRing: 1, bufferSize: 16)
        let (first, firstPeer) = try Socket.pair()
        let messages = try Socket.datagram(at: .loopback(port: 0))
        let sender = try Socket.datagram(at: .loopback(port: 0))
        try sender.connectAndWait(to: messages.localAddress())
        let messagePeer = Peer(try sender.releaseDescriptor().rawValue)
        let (third, thirdPeer) = try Socket.pair()
        for (key, socket) in [first, messages, third].enumerated() { try port.associate(socket, key: UInt(key)) }
        let operations = (0..<3).map { _ in IOCP.Operation() }
        try first.receiveContinuously(operations[0], from: group)
        writeRaw("first", to: firstPeer)
        var held = try port.next().lentBuffer
        func untilPaused(_ count: Int) throws {
            try until("\(count) receives have been paused; \(group.pauseCount) have") {
                let packet = try port.dequeue(timeout: .zero)
                #expect(packet == nil)
                return group.pauseCount == count
            }
        }
        for round in 0..<3 {
            // Dry: both have something to receive, and wait for the buffer in this order.
            try messagePeer.send("")
            if round == 0 { try messages.receiveContinuously(operations[1], from: group) }
            try untilPaused(2 * round + 1)
            writeRaw("third", to: thirdPeer)
            if round == 0 { try third.receiveContinuously(operations[2], from: group) }
            try untilPaused(2 * round + 2)
            try #require(held).giveBack()
            let packets = [try port.next(), try port.next()]
            let empty = try #require(packets.first { $0.key == 1 })
            #expect(empty.isMore && empty.isSuccess && empty.bytes == 0 && empty.lentBuffer == nil)
            held = try #require(packets.first { $0.key == 2 }).lentBuffer
            #expect(held?.array == Array("third".utf8))
        }
        held?.giveBack()
        try messagePeer.send("filled")
        let packet = try port.expect(operations[1], bytes: 6, key: 1)
        packet.lentBuffer?.giveBack()
    }

    @Test("a continuous operation needs its packets")
    func suppressedPackets() throws {
        let (port, socket, _) = try connected(.tcp4)
        let group = try BufferGroup(for: port, buffersPerRing: 2, bufferSize: 16)
        let operation = IOCP.Operation()
        try operation.signal(CompletionEvent(), suppressesPacket: true)
        #expect(throws: PortError.self) { try socket.receiveContinuously(operation, from: group) }
        let listener = try Socket.listening(at: .loopback(port: 0))
        try port.associate(listener, key: 9)
        #expect(throws: PortError.self) { try listener.acceptContinuously(operation) }
        try operation.signal(nil)
        try listener.acceptContinuously(operation)
    }

    @Test("100,000 messages arrive in order and whole through a group that runs dry again and again")
    func manyMessages() throws {
        let (port, socket, peer) = try connected(.tcp4)
        let group = try BufferGroup(for: port, buffersPerRing: 4, bufferSize: 1000)
        let receive = Operation()
        try socket.receiveContinuously(receive, from: group)
        let count: UInt32 = 100_000
        let sender = SideThread { [peer = Sending(peer)] in
            var chunk: [UInt8] = []
            for number in 0..<count {
                withUnsafeBytes(of: number) { chunk += $0 }
                if chunk.count > 3000 || number == count - 1 {
                    try peer.value.send(chunk)
                    chunk = []
                }
            }
            peer.value.shutdown(SHUT_WR)
        }
        var next: UInt32 = 0
        var rest: [UInt8] = []
        var held: [LentBuffer] = []
        var isOrdered = true
        while true {
            let packet = try port.next()
            guard packet.isMore else {
                #expect(packet.status == .success && packet.bytes == 0)
                break
            }
            let buffer = try #require(packet.lentBuffer)
            rest += buffer.array
            var used = 0
            rest.withUnsafeBytes {
                while used + 4 <= $0.count {
                    if $0.loadUnaligned(fromByteOffset: used, as: UInt32.self) != next { isOrdered = false }
                    next += 1
                    used += 4
                }
            }
            rest.removeFirst(used)
            // All are kept until none is left, then all come back.
            held.append(buffer)
            if held.count == 4 {
                #expect(try port.dequeue(timeout: .zero) == nil)
                for buffer in held { buffer.giveBack() }
                held = []
            }
        }
        for buffer in held { buffer.giveBack() }
        try sender.join()
        #expect(isOrdered, "\(next) \(rest)")
        #expect(next == count && rest.isEmpty)
    }

    @Test("a group that runs dry pauses its receives and fails no connection; they go on when buffers come back")
    func runsDry() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let group = try BufferGroup(for: port, buffersPerRing: 2, bufferSize: 16)
        var connections: [(socket: Socket, peer: Peer, receive: IOCP.Operation)] = []
        for key in 0..<10 as Range<UInt> {
            let (socket, peer) = try StreamKind.tcp4.connection()
            try port.associate(socket, key: key)
            let receive = Operation()
            try socket.receiveContinuously(receive, from: group)
            connections.append((socket, peer, receive))
        }
        for connection in connections { try connection.peer.send("x") }
        var lent: [LentBuffer] = []
        var seen: Set<UInt> = []
        for _ in 0..<2 {
            let packet = try port.next()
            seen.insert(packet.key)
            lent.append(try #require(packet.lentBuffer))
        }
        #expect(try port.staysEmpty())
        while seen.count < 10 {
            lent.removeFirst().giveBack()
            let packet = try port.next()
            #expect(packet.isSuccess && packet.isMore)
            seen.insert(packet.key)
            lent.append(try #require(packet.lentBuffer))
        }
        for buffer in lent { buffer.giveBack() }
        #expect(group.pauseCount >= 8)
        // All are alive.
        for (key, connection) in connections.enumerated() {
            try connection.peer.send("again")
            let packet = try port.expect(connection.receive, bytes: 5, key: UInt(key))
            packet.lentBuffer?.giveBack()
        }
    }

    @Test("a receive that is paused can be cancelled or closed, and the others go on", arguments: [false, true])
    func endWhilePaused(closes: Bool) throws {
        let (port, socket, peer) = try connected(.tcp4, key: 1)
        let (other, otherPeer) = try StreamKind.unix.connection()
        try port.associate(other, key: 2)
        let group = try BufferGroup(for: port, buffersPerRing: 1, bufferSize: 16)
        let receive = Operation()
        let otherReceive = Operation()
        try socket.receiveContinuously(receive, from: group)
        try peer.send("a")
        let lent = try #require(try port.next().lentBuffer)
        try other.receiveContinuously(otherReceive, from: group)
        try peer.send("b")
        try otherPeer.send("c")
        #expect(try port.staysEmpty())
        if closes { try socket.close() } else { try socket.cancel(receive) }
        let last = try port.expect(receive, closes ? .connectionAborted : .cancelled, key: 1)
        #expect(!last.isMore)
        lent.giveBack()
        let packet = try port.expect(otherReceive, bytes: 1, key: 2)
        packet.lentBuffer?.giveBack()
        if !closes {
            // What was not received is still there.
            let plain = Operation(capacity: 4)
            try socket.receive(plain)
            try port.expect(plain, bytes: 1)
            #expect(plain.text(1) == "b")
        }
    }

    @Test(
        "a cancelled continuous receive loses no data: what it took has packets", arguments: [Start.deferred, .eager])
    func cancelUnderLoad(start: Start) throws {
        for _ in 0..<20 {
            let (port, socket, peer) = try connected(.unix)
            let group = try BufferGroup(for: port, buffersPerRing: 16, bufferSize: 64)
            let receive = Operation()
            try socket.receiveContinuously(receive, from: group, start: start)
            let bytes = pattern(1000)
            for part in 0..<10 { try peer.send(Array(bytes[part * 100..<(part + 1) * 100])) }
            peer.shutdown(SHUT_WR)
            var received: [UInt8] = []
            let first = try port.next()
            received += try #require(first.lentBuffer).array
            first.lentBuffer?.giveBack()
            let asked = thrownStatus { try socket.cancel(receive) } == nil
            while true {
                let packet = try port.next()
                guard packet.isMore else {
                    #expect(packet.status == .cancelled || packet.status == .success)
                    #expect(asked || packet.status == .success)
                    break
                }
                received += try #require(packet.lentBuffer).array
                packet.lentBuffer?.giveBack()
            }
            let plain = Operation(capacity: 1000)
            while true {
                try socket.receive(plain)
                let packet = try port.next()
                if packet.bytes == 0 { break }
                received += plain.buffer!.array(in: 0..<packet.bytes)
            }
            #expect(received == bytes)
        }
    }

    @Test("an operation that has received continuously can be started for anything else")
    func otherUse() throws {
        let (port, socket, peer) = try connected(.tcp4)
        let operation = Operation(capacity: 10)
        do {
            let group = try BufferGroup(for: port, buffersPerRing: 1)
            try socket.receiveContinuously(operation, from: group)
            try socket.cancel(operation)
            try port.expect(operation, .cancelled)
        }
        let listener = try Socket.listening(at: .loopback(port: 0))
        try port.associate(listener, key: 2)
        try listener.acceptContinuously(operation)
        try listener.cancel(operation)
        try port.expect(operation, .cancelled)
        try socket.receive(operation)
        try socket.cancel(operation)
        try port.expect(operation, .cancelled)
        peer.close()
    }

    @Test("packets name their buffers also when the operation is something else by then, but not another group's")
    func packetsOfTheStartBefore() throws {
        let (port, socket, peer) = try connected(.tcp4)
        let group = try BufferGroup(for: port, buffersPerRing: 2, bufferSize: 16)
        let operation = Operation(capacity: 10)
        try socket.receiveContinuously(operation, from: group)
        try peer.send("first")
        let packet = try port.expect(operation, bytes: 5)
        try socket.cancel(operation)
        try port.expect(operation, .cancelled)

        let other = try BufferGroup(for: port, buffersPerRing: 2, bufferSize: 16)
        #expect(thrownStatus { try socket.receiveContinuously(operation, from: other) } == .invalidParameter)
        let listener = try Socket.listening(at: .loopback(port: 0))
        try port.associate(listener, key: 2)
        let target = try Socket(.stream, family: .ipv4)
        try listener.accept(operation, into: target)
        #expect(packet.lentBuffer?.array == Array("first".utf8))
        packet.lentBuffer?.giveBack()
        try listener.cancel(operation)
        try port.expect(operation, .cancelled)

        try socket.receiveContinuously(operation, from: group)
        try peer.send("second")
        let next = try port.expect(operation, bytes: 6)
        #expect(next.lentBuffer?.array == Array("second".utf8))
        next.lentBuffer?.giveBack()
        try socket.close()
        try port.expect(operation, .connectionAborted)
        peer.close()
    }

    @Test("a lent buffer keeps its group alive, and its bytes, when everything else is gone")
    func keepsGroup() throws {
        weak var observed: BufferGroup?
        var lent: LentBuffer?
        do {
            let (port, socket, peer) = try connected(.tcp4)
            let group = try BufferGroup(for: port, buffersPerRing: 2, bufferSize: 16)
            observed = group
            let receive = Operation()
            try socket.receiveContinuously(receive, from: group)
            try peer.send("kept")
            lent = try port.next().lentBuffer
            try socket.close()
            try port.expect(receive, .connectionAborted)
            port.close()
        }
        #expect(observed != nil)
        #expect(lent?.array == Array("kept".utf8))
        lent?.giveBack()
        lent = nil
        // This thread is tied to the port until it dequeues from another.
        _ = try CompletionPort(concurrencyLimit: 1).dequeue(timeout: .zero)
        #expect(observed == nil)
    }

    @Test("datagrams each come in a buffer of their own, empty ones too")
    func datagrams() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let socket = try Socket.datagram(at: .loopback(port: 0))
        let sender = try Socket.datagram(at: .loopback(port: 0))
        try sender.connectAndWait(to: socket.localAddress())
        try port.associate(socket, key: 1)
        let group = try BufferGroup(for: port, buffersPerRing: 8, bufferSize: 16)
        let receive = Operation()
        try socket.receiveContinuously(receive, from: group)
        let peer = Peer(try sender.releaseDescriptor().rawValue)
        for text in ["one", "", "three"] {
            try peer.send(text)
            let packet = try port.expect(receive, bytes: text.utf8.count)
            #expect(packet.isMore)
            #expect(packet.lentBuffer?.array ?? [] == Array(text.utf8))
            packet.lentBuffer?.giveBack()
        }
        try socket.close()
        try port.expect(receive, .cancelled)
    }

    @Test("a group of another port, and numbers out of range, are 87")
    func misuse() throws {
        let (port, socket, peer) = try connected(.tcp4)
        defer { peer.close() }
        let other = try CompletionPort(concurrencyLimit: 1)
        let group = try BufferGroup(for: other, buffersPerRing: 1)
        let receive = Operation()
        #expect(thrownStatus { try socket.receiveContinuously(receive, from: group) } == .invalidParameter)
        let (unassociated, _) = try Socket.pair()
        #expect(thrownStatus { try unassociated.receiveContinuously(receive, from: group) } == .invalidParameter)
        for count in [0, -1, 3, 65536, Int.min, Int.max] {
            #expect(thrownStatus { try BufferGroup(for: port, buffersPerRing: count) } == .invalidParameter)
        }
        for size in [0, -1, Int.max] {
            #expect(thrownStatus { try BufferGroup(for: port, bufferSize: size) } == .invalidParameter)
        }
        #expect(try port.staysEmpty())
        try socket.close()
        let own = try BufferGroup(for: port, buffersPerRing: 1)
        #expect(thrownStatus { try socket.receiveContinuously(receive, from: own) } == .invalidHandle)
        port.close()
        #expect(thrownStatus { try BufferGroup(for: port) } == .invalidHandle)
    }
}
