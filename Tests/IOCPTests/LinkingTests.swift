import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP

@Suite("Operations that follow others")
struct LinkingTests {
    @Test("a chain over files and sockets runs in order, each with its one packet")
    func chain() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let directory = try ScratchDirectory()
        let file = try File(directory.file(), .readWrite, options: [.create])
        let (socket, peer) = try StreamKind.tcp4.connection()
        try port.associate(file, key: 1)
        try port.associate(socket, key: 2)
        let write = IOCP.Operation("from the file")
        let commit = IOCP.Operation()
        let memory = IOBuffer(capacity: 13)
        let read = IOCP.Operation(buffer: memory)
        let send = IOCP.Operation(buffer: memory)
        for _ in 0..<100 {
            memory.fill(with: 0)
            try file.write(write)
            try commit.follow(write)
            #expect(try file.synchronize(commit) == .pending)
            try read.follow(commit)
            #expect(try file.read(read, start: .eager) == .pending)
            try send.follow(read)
            try socket.send(send)
            try port.expect(write, bytes: 13, key: 1)
            try port.expect(commit, bytes: 0, key: 1)
            try port.expect(read, bytes: 13, key: 1)
            try port.expect(send, bytes: 13, key: 2)
            #expect(try peer.receive(13) == Array("from the file".utf8))
            #expect(try port.dequeue(timeout: .zero) == nil)
        }
        // Used up: the next start waits for nothing.
        try socket.send(send)
        try port.expect(send, bytes: 13)
    }

    @Test("none begins before the one that it follows has ended")
    func order() throws {
        let (port, socket, peer) = try connected(.unix)
        let receive = IOCP.Operation(capacity: 8)
        let answer = IOCP.Operation("answer")
        try socket.receive(receive)
        try answer.follow(receive)
        try socket.send(answer)
        #expect(try port.staysEmpty())
        var byte: UInt8 = 0
        #expect(recv(peer.descriptor, &byte, 1, Int32(MSG_DONTWAIT)) < 0)
        #expect(answer.isPending)
        try peer.send("question")
        try port.expect(receive, bytes: 8)
        try port.expect(answer, bytes: 6)
        #expect(try peer.receive(6) == Array("answer".utf8))
    }

    @Test("a failure ends all that follow with 995, none of which has begun; several may follow one")
    func failure() throws {
        let (port, socket, peer) = try connected(.tcp4)
        let receive = IOCP.Operation(capacity: 8)
        let first = IOCP.Operation("a")
        let second = IOCP.Operation("b")
        let third = IOCP.Operation("c")
        try socket.receive(receive)
        for (follower, before) in [(first, receive), (second, receive), (third, second)] {
            try follower.follow(before)
            try socket.send(follower)
        }
        try socket.cancel(receive)
        let packets = try (0..<4).map { _ in try port.next() }
        #expect(packets.allSatisfy { $0.status == .cancelled && $0.bytes == 0 })
        #expect(Set(packets.map { ObjectIdentifier($0.operation!) }).count == 4)
        #expect(try port.staysEmpty())
        try socket.shutdown(.sending)
        #expect(try peer.receive(1) == [])
    }

    @Test("those that follow one begin in the order of their starts")
    func several() throws {
        let (port, socket, peer) = try connected(.tcp4)
        let receive = IOCP.Operation(capacity: 8)
        let sends = (0..<5).map { IOCP.Operation("\($0)") }
        try socket.receive(receive)
        for send in sends {
            try send.follow(receive)
            try socket.send(send)
        }
        try peer.send("go")
        try port.expect(receive, bytes: 2)
        for send in sends { try port.expect(send, bytes: 1) }
        #expect(try peer.receiveText(5) == "01234")
    }

    @Test("what has ended before decides at once", arguments: [true, false])
    func endedBefore(succeeds: Bool) throws {
        let (port, socket, peer) = try connected(.tcp4)
        let receive = IOCP.Operation(capacity: 8)
        try socket.receive(receive)
        if succeeds { try peer.send("x") } else { try socket.cancel(receive) }
        try port.expect(receive, succeeds ? .success : .cancelled, bytes: succeeds ? 1 : 0)
        let send = IOCP.Operation("then")
        try send.follow(receive)
        #expect(try socket.send(send) == .pending)
        try port.expect(send, succeeds ? .success : .cancelled, bytes: succeeds ? 4 : 0)
    }

    @Test("cancelled or closed while it waits, it ends and what it follows goes on", arguments: [true, false])
    func interruption(closes: Bool) throws {
        let (port, socket, peer) = try connected(.tcp4)
        let (other, otherPeer) = try StreamKind.tcp4.connection()
        try port.associate(other, key: 2)
        let receive = IOCP.Operation(capacity: 8)
        let send = IOCP.Operation("send")
        let last = IOCP.Operation("last")
        try socket.receive(receive)
        try send.follow(receive)
        try other.send(send)
        try last.follow(send)
        try socket.send(last)
        if closes { try other.close() } else { try other.cancel(send) }
        try port.expect(send, closes ? .connectionAborted : .cancelled, key: 2)
        try port.expect(last, .cancelled, key: 1)
        #expect(receive.isPending)
        try peer.send("x")
        try port.expect(receive, bytes: 1)
        #expect(try port.staysEmpty())
        if closes { #expect(try otherPeer.receive(1) == []) }
        // Both are as good as new.
        try socket.receive(receive)
        try send.follow(receive)
        try socket.send(send)
        try peer.send("y")
        try port.expect(receive, bytes: 1)
        try port.expect(send, bytes: 4)
    }

    @Test("bad input: itself, one in flight, a handle without a port, a closed one, taken back")
    func badInput() throws {
        let (port, socket, peer) = try connected(.tcp4)
        let receive = IOCP.Operation(capacity: 8)
        let send = IOCP.Operation("send")
        #expect(thrownStatus { try send.follow(send) } == .invalidParameter)
        try socket.receive(receive)
        #expect(thrownStatus { try receive.follow(send) } == .invalidParameter)
        let (lonely, _lonelyPeer) = try Socket.pair()
        try send.follow(receive)
        #expect(thrownStatus { try lonely.send(send) } == .invalidParameter)
        try lonely.close()
        try send.follow(receive)
        #expect(thrownStatus { try lonely.send(send) } == .invalidHandle)
        try send.follow(receive)
        try send.follow(nil)
        try socket.send(send)
        try port.expect(send, bytes: 4)
        try peer.send("x")
        try port.expect(receive, bytes: 1)
        _ = _lonelyPeer
    }

    @Test("links and ends race: every follower has its one packet, and what it followed decides")
    func race() throws {
        let port = try CompletionPort(concurrencyLimit: 2)
        let (socket, peer) = try Socket.pair()
        try port.associate(socket, key: 1)
        try port.associate(peer, key: 2)
        let count = 3000
        let seen = Tally()
        let consumers = SideThread {
            try onThreads(2) { _ in
                while let packet = try port.dequeue(timeout: patience), packet.key < 3 {
                    #expect(packet.isSuccess)
                    seen.add()
                }
                try port.post(key: 3)
            }
        }
        let receives = (0..<count).map { _ in IOCP.Operation(capacity: 1) }
        for receive in receives {
            let send = IOCP.Operation("x")
            let answer = IOCP.Operation("y")
            try socket.receive(receive)
            try peer.send(send)
            try answer.follow(receive)
            try socket.send(answer)
            // A socket holds only so many answers that nobody reads.
            try peer.receive(IOCP.Operation(capacity: 1))
        }
        try until("all have come; \(seen.value) have") { seen.value == 4 * count }
        try port.post(key: 3)
        _ = try consumers.join()
    }
}
