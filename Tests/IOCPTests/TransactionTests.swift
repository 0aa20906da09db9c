import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP
@testable import IOUring

/// Where the two ranges of a transaction lie, and whether the kernel is given both requests at once.
enum Ranges: String, CaseIterable, Sendable, CustomTestStringConvertible {
    /// Apart: both at once.
    case apart
    /// The same bytes: one after the other.
    case same

    var testDescription: String { rawValue }

    func sent(_ count: Int) -> Range<Int> { 0..<count }
    func received(_ room: Int, behind count: Int) -> Range<Int> {
        self == .apart ? count..<count + room : 0..<room
    }

    /// An operation that is to send these bytes, with room for so many.
    func operation(_ bytes: [UInt8], room: Int) -> IOCP.Operation {
        let length = self == .apart ? bytes.count + room : max(bytes.count, room)
        return IOCP.Operation(bytes + [UInt8](repeating: 0, count: length - bytes.count))
    }
}

extension Socket {
    /// Sends all of the bytes that the operation was made with.
    fileprivate func transact(
        _ operation: IOCP.Operation, _ ranges: Ranges, _ count: Int, room: Int, _ start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try transact(
            operation, sending: ranges.sent(count), receiving: ranges.received(room, behind: count), start: start)
    }
}

extension IOCP.Operation {
    fileprivate func received(_ ranges: Ranges, _ count: Int, behind sent: Int) -> [UInt8] {
        buffer!.array(in: ranges.received(count, behind: sent))
    }
}

@Suite("Transactions", .serialized)
struct TransactionTests {
    // MARK: Moving data

    @Test(
        "a transaction sends, then receives, and has one packet (g11)", arguments: StreamKind.allCases, Ranges.allCases)
    func exchange(kind: StreamKind, ranges: Ranges) throws {
        for start in bothStarts {
            let (port, socket, peer) = try connected(kind, key: 5)
            let operation = ranges.operation(Array("ping".utf8), room: 16)
            for round in 0..<100 {
                operation.buffer!.copy(from: Array("ping".utf8))
                #expect(try socket.transact(operation, ranges, 4, room: 16, start) == .pending)
                try port.flush()
                #expect(try peer.receiveText(4) == "ping")
                #expect(operation.status == .pending && operation.bytes == 0)
                let answer = "pong \(round)"
                try peer.send(answer)
                try port.expect(operation, bytes: answer.utf8.count, key: 5)
                #expect(operation.received(ranges, answer.utf8.count, behind: 4) == Array(answer.utf8))
            }
            #expect(try port.staysEmpty())
        }
    }

    @Test("ranges apart need one entry into the kernel, the same ones two")
    func entries() throws {
        for ranges in Ranges.allCases {
            var entries: [Int] = []
            // A thread whose rounds are slow, as under a sanitizer, enters a ring with each start, but for the first on it.
            for _ in 0..<20 {
                let (port, socket, peer) = try connected()
                let operation = ranges.operation(Array("ping".utf8), room: 16)
                let answers = SideThread { [peer = Sending(peer)] in
                    for _ in 0..<5 {
                        _ = try peer.value.receive(4)
                        try peer.value.send("pong")
                    }
                }
                _ = try port.dequeue(timeout: .zero)
                for _ in 0..<5 {
                    let before = try port.statistics.kernelEntries
                    _ = try socket.transact(operation, ranges, 4, room: 16)
                    try port.expect(operation, bytes: 4)
                    entries.append(try port.statistics.kernelEntries - before)
                }
                try answers.join()
            }
            // On a loaded machine others enter the ring too: the monitor, when the thread has not come far. So what counts
            // is what an exchange can do with: one entry, or never fewer than two.
            let quick = entries.sorted()[10]
            let isPaired = ranges == .apart && Transaction.mayPair.load(ordering: .relaxed)
            #expect(isPaired ? quick == 1 : entries.allSatisfy { $0 >= 2 }, "\(entries) entries")
        }
    }

    @Test("deferred by the dozen, the requests follow each other from the second round on; eager ones stay together")
    func largeRounds() throws {
        guard Transaction.mayPair.load(ordering: .relaxed) else { return }
        let port = try CompletionPort(concurrencyLimit: 1)
        let pairs = try (0..<12).map { _ in try Socket.pair() }
        for (index, pair) in pairs.enumerated() { try port.associate(pair.0, key: UInt(index)) }
        let operations = pairs.map { _ in Ranges.apart.operation(Array("ping".utf8), room: 16) }
        #expect(try port.dequeue(timeout: .zero) == nil)
        var steps: [Set<UInt8>] = []
        for _ in 0..<6 {
            steps.append([])
            for (pair, operation) in zip(pairs, operations) {
                #expect(try pair.0.transact(operation, .apart, 4, room: 16) == .pending)
                unsafe steps[steps.count - 1].insert(operation.record.pointee.step)
            }
            try port.flush()
            for (index, pair) in pairs.enumerated() {
                #expect(readRaw(10, from: pair.1) == "ping")
                writeRaw("answer \(index)", to: pair.1)
            }
            var seen: Set<UInt> = []
            while seen.count < pairs.count {
                let packet = try #require(try port.dequeue(timeout: patience))
                #expect(packet.isSuccess)
                let text = "answer \(packet.key)"
                let operation = operations[Int(packet.key)]
                #expect(packet.bytes == text.utf8.count && seen.insert(packet.key).inserted)
                #expect(operation.received(.apart, text.utf8.count, behind: 4) == Array(text.utf8))
            }
        }
        #expect(steps[0] == [Transaction.Step.paired])
        // The monitor may have sent some already, where the thread was kept from its work for long.
        #expect(steps.dropFirst().contains([Transaction.Step.sending]))
        // The answer is there, and the start tells of it, as ever.
        writeRaw("now", to: pairs[0].1)
        let outcome = try pairs[0].0.transact(operations[0], .apart, 4, room: 16, .eager)
        #expect(outcome == .completed(bytes: 3))
        #expect(try port.dequeue(timeout: patience)?.bytes == 3)
        #expect(try port.staysEmpty())
    }

    @Test("what comes early waits until everything is sent, and nothing is mixed", arguments: StreamKind.allCases)
    func early(kind: StreamKind) throws {
        for ranges in Ranges.allCases {
            for start in bothStarts {
                let (port, socket, peer) = try connected(kind)
                let question = pattern(5_000_000, seed: 1)
                let operation = ranges.operation(question, room: 100)
                try peer.send("early")
                #expect(try socket.transact(operation, ranges, question.count, room: 100, start) == .pending)
                // Nobody reads it.
                #expect(try port.staysEmpty())
                let reader = SideThread { [peer = Sending(peer)] in try peer.value.receive(5_000_000) }
                try port.expect(operation, bytes: 5)
                #expect(operation.received(ranges, 5, behind: question.count) == Array("early".utf8))
                #expect(try reader.join() == question)
                #expect(try port.staysEmpty())
            }
        }
    }

    @Test("an answer that comes behind a long question is received", arguments: StreamKind.allCases, Ranges.allCases)
    func late(kind: StreamKind, ranges: Ranges) throws {
        let (port, socket, peer) = try connected(kind)
        let question = pattern(3_000_000, seed: 2)
        let operation = ranges.operation(question, room: 100)
        for _ in 0..<3 {
            operation.buffer!.copy(from: question)
            _ = try socket.transact(operation, ranges, question.count, room: 100)
            let reader = SideThread { [peer = Sending(peer)] in
                let read = try peer.value.receive(3_000_000)
                try peer.value.send("late")
                return read
            }
            try port.expect(operation, bytes: 4)
            #expect(operation.received(ranges, 4, behind: question.count) == Array("late".utf8))
            #expect(try reader.join() == question)
        }
    }

    @Test("an eager start tells of an answer that is there already", arguments: StreamKind.allCases)
    func eagerAnswer(kind: StreamKind) throws {
        let (port, socket, peer) = try connected(kind)
        try socket.setNotificationModes(.skipCompletionPortOnSuccess)
        let operation = Ranges.apart.operation(Array("ping".utf8), room: 16)
        try peer.send("pong")
        try waitReadable(socket)
        #expect(try socket.transact(operation, .apart, 4, room: 16, .eager) == .completed(bytes: 4))
        #expect(try peer.receiveText(4) == "ping")
        #expect(try port.staysEmpty())
    }

    @Test("on kernels that do not tell what came short, the requests follow each other")
    func withoutPairs() throws {
        let before = Transaction.mayPair.exchange(false, ordering: .sequentiallyConsistent)
        defer { Transaction.mayPair.store(before, ordering: .sequentiallyConsistent) }
        try exchange(kind: .tcp4, ranges: .apart)
        try early(kind: .unix)
    }

    @Test("messages stay apart; one that is too long is cut (g51), an empty one is an answer (g53)")
    func messages() throws {
        for type in [Socket.Style.datagram, .sequenced] {
            let port = try CompletionPort(concurrencyLimit: 1)
            let (socket, other) = try Socket.pair(type)
            try port.associate(socket, key: 1)
            let peer = Peer(try other.releaseDescriptor().rawValue)
            let operation = Ranges.apart.operation(Array("ping".utf8), room: 8)
            for (answer, status, bytes) in [
                ("pong", CompletionStatus.success, 4), ("much too long", .bufferOverflow, 8), ("", .success, 0),
                ("rest", .success, 4),
            ] {
                _ = try socket.transact(operation, .apart, 4, room: 8)
                try port.flush()
                #expect(try peer.receiveText(4) == "ping")
                try peer.send(answer)
                try port.expect(operation, status, bytes: bytes)
            }
        }
    }

    @Test("a message for which there is no room is sent later, and what came early is kept")
    func crowdedMessages() throws {
        for answer in ["pong", ""] {
            let port = try CompletionPort(concurrencyLimit: 1)
            let (socket, other) = try Socket.pair(.sequenced)
            try port.associate(socket, key: 1)
            let peer = Peer(try other.releaseDescriptor().rawValue)
            let filler = [UInt8](repeating: 7, count: 1000)
            var count = 0
            while send(socket.descriptor.rawValue, filler, filler.count, Int32(MSG_DONTWAIT)) > 0 { count += 1 }
            try peer.send(answer)
            let operation = Ranges.apart.operation(Array("ping".utf8), room: 8)
            _ = try socket.transact(operation, .apart, 4, room: 8)
            #expect(try port.staysEmpty())
            for _ in 0..<count { #expect(try peer.receiveSome(2000) == filler) }
            try port.expect(operation, bytes: answer.utf8.count)
            #expect(try peer.receiveText(4) == "ping")
            #expect(try port.staysEmpty())
        }
    }

    // MARK: Alone on its socket

    @Test("beside another operation it is refused, and another beside it (87)")
    func alone() throws {
        let (port, socket, peer) = try connected()
        let other = IOCP.Operation(capacity: 8)
        let operation = Ranges.apart.operation(Array("ping".utf8), room: 8)
        try socket.receive(other)
        #expect(thrownStatus { try socket.transact(operation, .apart, 4, room: 8) } == .invalidParameter)
        try peer.send("x")
        try port.expect(other, bytes: 1)

        _ = try socket.transact(operation, .apart, 4, room: 8)
        let second = Ranges.apart.operation(Array("ping".utf8), room: 8)
        let group = try BufferGroup(for: port, buffersPerRing: 1, bufferSize: 64)
        for start in bothStarts {
            #expect(thrownStatus { try socket.receive(other, start: start) } == .invalidParameter)
            #expect(thrownStatus { try socket.send(other, start: start) } == .invalidParameter)
            #expect(thrownStatus { try socket.read(other, start: start) } == .invalidParameter)
            #expect(thrownStatus { try socket.write(other, start: start) } == .invalidParameter)
            #expect(thrownStatus { try socket.disconnect(other, start: start) } == .invalidParameter)
            #expect(thrownStatus { try socket.transact(second, .apart, 4, room: 8, start) } == .invalidParameter)
        }
        #expect(thrownStatus { try socket.receiveContinuously(other, from: group) } == .invalidParameter)
        #expect(thrownStatus { try socket.transact(operation, .apart, 4, room: 8) } == .invalidParameter)
        #expect(other.status != .pending)
        #expect(try peer.receiveText(4) == "ping")
        try peer.send("pong")
        try port.expect(operation, bytes: 4)
        // And then not any more.
        try socket.send(other)
        try port.expect(other, bytes: 8)
        #expect(try port.staysEmpty())
    }

    @Test("an operation that follows another one does not get in between")
    func links() throws {
        let (port, socket, peer) = try connected()
        let operation = Ranges.apart.operation(Array("ping".utf8), room: 8)
        let first = IOCP.Operation(capacity: 1)
        try operation.follow(first)
        #expect(thrownStatus { try socket.transact(operation, .apart, 4, room: 8) } == .invalidParameter)
        try operation.follow(nil)

        let (another, itsPeer) = try StreamKind.unix.connection()
        try port.associate(another, key: 2)
        try another.receive(first)
        let next = IOCP.Operation("late")
        try next.follow(first)
        try socket.send(next)
        _ = try socket.transact(operation, .apart, 4, room: 8)
        try itsPeer.send("x")
        try port.expect(first, bytes: 1)
        try port.expect(next, .invalidParameter)
        #expect(try peer.receiveText(4) == "ping")
        try peer.send("pong")
        try port.expect(operation, bytes: 4)
    }

    @Test("bad ranges, buffers, handles and sockets are refused and change nothing")
    func badInput() throws {
        let (port, socket, peer) = try connected()
        let operation = IOCP.Operation(capacity: 8)
        for (sent, received) in [(0..<0, 4..<8), (0..<4, 4..<4), (0..<9, 4..<8), (0..<4, 4..<9), (-1..<4, 4..<8)] {
            #expect(
                thrownStatus { try socket.transact(operation, sending: sent, receiving: received) } == .invalidParameter
            )
        }
        let empty = IOCP.Operation()
        #expect(thrownStatus { try socket.transact(empty, sending: 0..<4, receiving: 4..<8) } == .accessViolation)
        try socket.close()
        #expect(thrownStatus { try socket.transact(operation, sending: 0..<4, receiving: 4..<8) } == .invalidHandle)
        #expect(try port.staysEmpty())
        _ = peer
    }

    // MARK: Ends

    @Test("a peer's end is a success of 0 bytes (g22), its reset an error (g23)", arguments: Ranges.allCases)
    func ends(ranges: Ranges) throws {
        for start in bothStarts {
            let (port, socket, peer) = try connected()
            let operation = ranges.operation(Array("ping".utf8), room: 8)
            _ = try socket.transact(operation, ranges, 4, room: 8, start)
            try port.flush()
            #expect(try peer.receiveText(4) == "ping")
            peer.shutdown(SHUT_WR)
            try port.expect(operation, bytes: 0)

            let (port2, socket2, peer2) = try connected()
            _ = try socket2.transact(operation, ranges, 4, room: 8, start)
            try port2.flush()
            #expect(try peer2.receiveText(4) == "ping")
            peer2.reset()
            try port2.expect(operation, .connectionReset)
        }
    }

    @Test("a send that fails fails all of it: a shut side, no connection, a reset amid it", arguments: Ranges.allCases)
    func failures(ranges: Ranges) throws {
        for start in bothStarts {
            let (port, socket, peer) = try connected()
            let operation = ranges.operation(Array("ping".utf8), room: 8)
            try socket.shutdown(.sending)
            try expectTold(.sendAfterShutdown, of: operation, on: port, start) {
                try socket.transact(operation, ranges, 4, room: 8, start)
            }
            let unconnected = try Socket(family: .ipv4)
            try port.associate(unconnected, key: 2)
            try expectTold(.invalidConnection, of: operation, on: port, start) {
                try unconnected.transact(operation, ranges, 4, room: 8, start)
            }
            _ = peer

            let (port2, socket2, peer2) = try connected()
            let long = ranges.operation(pattern(50_000_000), room: 8)
            _ = try socket2.transact(long, ranges, 50_000_000, room: 8, start)
            #expect(try port2.staysEmpty())
            peer2.reset()
            try port2.expect(long, .connectionReset)
            #expect(try port2.staysEmpty())
        }
    }

    /// An eager start may tell at once or by a packet: the kernel is asked again after the first answer.
    private func expectTold(
        _ status: CompletionStatus, of operation: IOCP.Operation, on port: CompletionPort, _ start: Start,
        _ body: () throws -> StartOutcome
    ) throws {
        if let thrown = thrownStatus(body) {
            #expect(thrown == status && start == .eager)
        } else {
            try port.expect(operation, status)
        }
        #expect(try port.staysEmpty())
    }

    @Test("cancelled or closed at any step it has one packet, of 0 bytes (e20, e29)", arguments: Ranges.allCases)
    func interruption(ranges: Ranges) throws {
        for start in bothStarts {
            for count in [4, 5_000_000] {
                for closes in [false, true] {
                    for early in [false, true] {
                        let (port, socket, peer) = try connected()
                        let question = pattern(count)
                        let operation = ranges.operation(question, room: 8)
                        if early && count > 4 { try peer.send("early") }
                        _ = try socket.transact(operation, ranges, count, room: 8, start)
                        if count > 4 { #expect(try port.staysEmpty(for: .milliseconds(2))) }
                        if closes { try socket.close() } else { try socket.cancel(operation) }
                        try port.expect(operation, closes ? .connectionAborted : .cancelled)
                        #expect(try port.staysEmpty(for: .milliseconds(2)))
                        if closes || count > 4 { continue }
                        // The socket is as good as before.
                        _ = try socket.transact(operation, ranges, 4, room: 8, start)
                        try port.flush()
                        #expect(try peer.receive(8) == question + question)
                        try peer.send("pong")
                        try port.expect(operation, bytes: 4)
                    }
                }
            }
        }
    }

    @Test("a cancel races the answer: one packet, and what it says is so")
    func races() throws {
        let (port, socket, peer) = try connected(.unix)
        let operation = Ranges.apart.operation(Array("ping".utf8), room: 8)
        // There is always room for what is sent: a cancel finds the receive.
        let reader = SideThread { [peer = Sending(peer)] in try peer.value.receive(10_000) }
        var cancelled = 0
        for round in 0..<2000 {
            _ = try socket.transact(operation, .apart, 4, room: 8, round % 2 == 0 ? .eager : .deferred)
            let canceller = SideThread { _ = thrownStatus { try socket.cancel(operation) } }
            if round % 3 != 0 { try peer.send("pong") }
            let packet = try port.next()
            try canceller.join()
            #expect(packet.operation === operation)
            if packet.status == .cancelled {
                #expect(packet.bytes == 0)
                cancelled += 1
                if round % 3 != 0 {
                    let rest = IOCP.Operation(capacity: 8)
                    try socket.receive(rest)
                    try port.expect(rest, bytes: 4)
                }
            } else {
                #expect(packet.status == .success && packet.bytes == 4 && round % 3 != 0)
            }
        }
        #expect(cancelled >= 600)
        // Each that was not cancelled has been sent, and nothing twice.
        try socket.shutdown(.sending)
        let sent = try reader.join()
        #expect(sent.count % 4 == 0 && sent.count >= 4 * (2000 - cancelled) && sent.count <= 8000)
    }

    @Test("a thread that ends leaves it going, and nothing is sent twice (e34)", arguments: Ranges.allCases)
    func threadEnds(ranges: Ranges) throws {
        for start in bothStarts {
            for count in [4, 3_000_000] {
                let (port, socket, peer) = try connected()
                let question = pattern(count)
                let operation = ranges.operation(question, room: 8)
                let room = 8
                try onThread(ending: .returns) {
                    // A thread of the port's, so that its own ring carries it.
                    _ = try port.dequeue(timeout: .zero)
                    _ = try socket.transact(operation, ranges, count, room: room, start)
                }
                #expect(try peer.receive(count) == question)
                try peer.send("pong")
                try port.expect(operation, bytes: 4)
                #expect(operation.received(ranges, 4, behind: count) == Array("pong".utf8))
                #expect(try port.staysEmpty())
                try socket.shutdown(.sending)
                #expect(try peer.receiveSome() == [])
            }
        }
    }

    #if DEBUG || IOCP_SEAM
    @Test("transactions that wait for room while the kernel takes nothing go on when it does", .timeLimit(.minutes(1)))
    func refused() throws {
        var options = CompletionPort.Options()
        options.submissionEntries = 4
        let port = try CompletionPort(concurrencyLimit: 1, options: options)
        let speakers = try (0..<30).map { number in
            let (socket, peer) = try StreamKind.unix.connection()
            try port.associate(socket, key: UInt(number))
            return (operation: Ranges.apart.operation(Array("ping".utf8), room: 8), socket: socket, peer: peer)
        }
        _ = try port.dequeue(timeout: .zero)
        let kernel = FaultyKernel(port, .busy, .forAWhile, .submissions)
        for speaker in speakers { _ = try speaker.socket.transact(speaker.operation, .apart, 4, room: 8) }
        kernel.end()
        // The ring has room for two of them at a time: one is queued after another, with the lock held.
        try port.flush()
        for speaker in speakers {
            #expect(try speaker.peer.receiveText(4) == "ping")
            try speaker.peer.send("pong")
        }
        for _ in speakers {
            let packet = try port.next()
            #expect(packet.status == .success && packet.bytes == 4)
        }
        #expect(try port.staysEmpty())
    }

    @Test("a send that is handed over alone, and comes short before its receive is queued, is gone on with")
    func alonePart() throws {
        try withPort(limit: 1, threads: 1) { port, threads in
            let (socket, peer) = try StreamKind.unix.connection()
            try port.associate(socket, key: 2)
            let question = pattern(2_000_000)
            let operation = Ranges.apart.operation(question, room: 8)
            try threads[0].perform { _ = try port.dequeue(timeout: .zero) }
            let slot = port.core.slots[0]
            // Between this thread's count of what is to be handed over and its entry another one hands that over, and a
            // transaction begins.
            let isInside = Atomic<Bool>(false)
            let me = IOThread.current.serial
            let installed = Seam.install { call in
                guard case .enter(slot.fileDescriptor, _, _, _, _) = call, IOThread.current.serial == me,
                    !isInside.exchange(true, ordering: .sequentiallyConsistent)
                else { return .pass }
                slot.submit()
                do {
                    try threads[0].perform { _ = try socket.transact(operation, .apart, question.count, room: 8) }
                } catch {
                    Issue.record("\(error)")
                }
                return .pass
            }
            defer { Seam.remove(installed) }
            var idle: [(Socket, Socket)] = []
            try until("this thread hands something over, and not the monitor") {
                let pair = try Socket.pair()
                idle.append(pair)
                try port.associate(pair.0, key: 1)
                try threads[0].perform { try pair.0.receive(IOCP.Operation(capacity: 8)) }
                slot.submit()
                return isInside.load(ordering: .sequentiallyConsistent)
            }
            port.core.progress(IOThread.current, including: slot)
            let reader = SideThread { [peer = Sending(peer)] in
                let read = try peer.value.receive(2_000_000)
                try peer.value.send("answer")
                return read
            }
            let packet = try threads[0].perform { try Seen(port.next()) }
            #expect(packet.status == .success && packet.information == 6)
            #expect(try reader.join() == question)
        }
    }
    #endif

    // MARK: Many

    /// Echoes by transactions, between the two halves of a connection's buffer.
    private final class Echo: IOCP.Operation, @unchecked Sendable {
        let socket: Socket
        let half: Int
        var side = 0
        var hasBegun = false

        init(_ socket: Socket, half: Int, overlaps: Bool) {
            self.socket = socket
            self.half = overlaps ? 0 : half
            super.init(buffer: IOBuffer(capacity: 2 * half))
        }

        func proceed(_ packet: Packet, room: Int) throws -> Bool {
            guard packet.isSuccess, packet.bytes > 0 else { return false }
            let from = side * half
            side = 1 - side
            try socket.transact(
                self, sending: from..<from + packet.bytes, receiving: side * half..<side * half + room)
            return true
        }
    }

    @Test(
        "more transactions than a ring has entries, from one round: each is sent, and each has its packet",
        arguments: [1, 2, 8])
    func crowdedRing(entries: UInt32) throws {
        var options = CompletionPort.Options()
        options.submissionEntries = entries
        let port = try CompletionPort(concurrencyLimit: 1, options: options)
        var speakers: [(operation: IOCP.Operation, socket: Socket, peer: Peer)] = []
        for number in 0..<100 {
            let (socket, peer) = try StreamKind.unix.connection()
            try port.associate(socket, key: UInt(number))
            speakers.append((Ranges.apart.operation(Array("ping".utf8), room: 8), socket, peer))
        }
        _ = try port.dequeue(timeout: .zero)
        let other = IOCP.Operation(capacity: 1)
        let idle = try Socket.pair()
        try port.associate(idle.0, key: 200)
        for round in 0..<20 {
            for (index, speaker) in speakers.enumerated() {
                _ = try speaker.socket.transact(speaker.operation, .apart, 4, room: 8)
                if index == round * 5 { try idle.0.receive(other) }
            }
            try idle.0.cancel(other)
            for speaker in speakers {
                if round == 0 { try port.flush() }
                try speaker.peer.send("pong")
                if round > 0 { continue }
                #expect(try speaker.peer.receiveText(4) == "ping")
            }
            var seen: Set<UInt> = []
            for _ in 0...speakers.count {
                let packet = try port.next()
                #expect(packet.status == (packet.key == 200 ? .cancelled : .success))
                #expect(packet.bytes == (packet.key == 200 ? 0 : 4))
                #expect(seen.insert(packet.key).inserted)
            }
            if round > 0 {
                for speaker in speakers { #expect(try speaker.peer.receiveText(4) == "ping") }
            }
        }
        #expect(try port.staysEmpty())
    }

    @Test(
        "streams of any pieces through crowded sockets come back whole",
        arguments: ["plain", "consumer", "polling", "files"])
    func manyStreams(kind: String) throws {
        var options = CompletionPort.Options()
        options.singleConsumer = kind == "consumer"
        options.submissionPolling = kind == "polling" ? .milliseconds(2) : nil
        options.registeredFiles = kind == "files" ? 8 : 0
        let port = try CompletionPort(concurrencyLimit: kind == "consumer" ? 1 : 2, options: options)
        let streams = 8
        let length = 400_000
        var clients: [SideThread<Void>] = []
        let workers = (0..<(kind == "consumer" ? 1 : 3)).map { _ in
            SideThread {
                while let packet = try port.dequeue(timeout: patience) {
                    guard let echo = packet.operation as? Echo else { return }
                    if try !echo.proceed(packet, room: 30_000) { try echo.socket.close() }
                }
                Issue.record("no packet came for a long time")
            }
        }
        for number in 0..<streams {
            let (socket, peer) = try (number % 2 == 0 ? StreamKind.unix : .tcp4).connection()
            // Little room, so that sends come short.
            try socket.setOption(SOL_SOCKET, SO_SNDBUF, 4096)
            try port.associate(socket, key: 1)
            try socket.receive(Echo(socket, half: 30_000, overlaps: number % 4 == 3))
            let shared = Sending(peer)
            clients.append(
                SideThread {
                    let bytes = pattern(length, seed: number)
                    let writer = SideThread {
                        var sent = 0
                        while sent < length {
                            let piece = min(length - sent, 1 + sent % 29_989)
                            try shared.value.send(Array(bytes[sent..<sent + piece]))
                            sent += piece
                        }
                        shared.value.shutdown(SHUT_WR)
                    }
                    let came = try shared.value.receive(length)
                    #expect(came == bytes, "stream \(number) came back wrong")
                    try writer.join()
                })
        }
        for client in clients { try client.join() }
        for _ in workers { try port.post(key: 9) }
        for worker in workers { try worker.join() }
        try until("nothing is in flight") { port.core.snapshot.inFlight == 0 }
    }
}
