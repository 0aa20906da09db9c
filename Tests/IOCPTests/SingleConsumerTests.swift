import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP
@testable import IOUring

private func consumerPort(registeredFiles: Int = 0) throws -> CompletionPort {
    var options = CompletionPort.Options()
    options.singleConsumer = true
    options.registeredFiles = registeredFiles
    return try CompletionPort(options: options)
}

extension CompletionPort {
    /// Whether the first slot is the consumer's own, and what its ring was made with.
    fileprivate var ownRingFlags: SetupFlags? {
        core.slots[0].isOwned ? core.slots[0].withRing { $0.setupFlags } : nil
    }
}

private let kernelHasOwnRings = Slot.waitsForWords.load(ordering: .relaxed)

@Suite("A single consumer", .serialized)
struct SingleConsumerTests {
    @Test("there is a ring of the consumer's own and an ordinary one; the limit is 1", .enabled(if: kernelHasOwnRings))
    func rings() throws {
        let port = try consumerPort()
        #expect(port.concurrencyLimit == 1)
        #expect(port.core.slots.count == 2)
        #expect(port.ownRingFlags?.isSuperset(of: [.singleIssuer, .deferTaskrun]) == true)
        #expect(port.core.slots[1].isOwned == false)
        var options = CompletionPort.Options()
        options.singleConsumer = true
        #expect(thrownStatus { try CompletionPort(concurrencyLimit: 2, options: options) } == .invalidParameter)
    }

    @Test("streams, both starts: the same packets as ever", arguments: StreamKind.allCases, bothStarts)
    func traffic(kind: StreamKind, start: Start) throws {
        let port = try consumerPort(registeredFiles: kind == .tcp6 ? 0 : 16)
        let (socket, peer) = try kind.connection()
        try port.associate(socket, key: 7)
        #expect(try port.dequeue(timeout: .zero) == nil)
        let receive = IOCP.Operation(capacity: 64)
        let send = IOCP.Operation("hello")
        for round in 0..<200 {
            _ = try socket.receive(receive, start: start)
            let text = "round \(round)"
            try peer.send(text)
            try port.expect(receive, bytes: text.utf8.count, key: 7)
            #expect(receive.text(text.utf8.count) == text)
            _ = try socket.send(send, start: start)
            try port.expect(send, bytes: 5, key: 7)
            #expect(try peer.receive(5) == Array("hello".utf8))
        }
        if kernelHasOwnRings {
            #expect(port.core.slots[0].owner.load(ordering: .relaxed) == IOThread.current.serial)
            #expect(port.core.slots[1].entries.load(ordering: .relaxed) == 0)
        }
        peer.close()
        try socket.receive(receive)
        try port.expect(receive, bytes: 0, key: 7)
    }

    @Test("another thread's dequeue is an error that says why; all else is for any thread")
    func otherThreads() throws {
        let port = try consumerPort()
        let (socket, peer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        #expect(try port.dequeue(timeout: .zero) == nil)
        for start in bothStarts {
            let receive = IOCP.Operation(capacity: 16)
            try SideThread {
                #expect(thrownStatus { try port.dequeue(timeout: .zero) as Any } == .invalidParameter)
                var batch = PacketBatch(capacity: 1)
                #expect(thrownStatus { try port.dequeue(into: &batch) } == .invalidParameter)
                try port.post(key: 5)
                #expect(try port.depth() == 1)
                _ = try socket.receive(receive, start: start)
            }.join()
            let packet = try port.next()
            #expect(packet.key == 5)
            try peer.send("x")
            try port.expect(receive, bytes: 1, key: 1)
        }
        // Immediate failures and successes of others' eager starts are theirs to see (e1).
        try peer.send("abc")
        let receive = IOCP.Operation(capacity: 2)
        try waitReadable(socket)
        let outcome = try SideThread { try socket.receive(receive, start: .eager) }.join()
        #expect(outcome == .completed(bytes: 2))
        try port.expect(receive, bytes: 2, key: 1)
        let (lonely, _) = try StreamKind.tcp4.connection()
        let unconnected = try Socket(family: .ipv4)
        try port.associate(unconnected, key: 2)
        let status = try SideThread { thrownStatus { try unconnected.receive(receive, start: .eager) } }.join()
        #expect(status == .invalidConnection)
        #expect(try port.staysEmpty())
        try lonely.close()
    }

    @Test("a consumer that sleeps is woken by posts and by others' operations")
    func waking() throws {
        let port = try consumerPort()
        let (socket, peer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        let receive = IOCP.Operation(capacity: 16)
        let consumer = SideThread {
            var keys: [UInt] = []
            while let packet = try port.dequeue(timeout: patience), packet.key != 99 { keys.append(packet.key) }
            return keys
        }
        try port.untilWaiting(1)
        try port.post(key: 3)
        try port.untilWaiting(1)
        try socket.receive(receive)
        try port.untilWaiting(1)
        try peer.send("x")
        try until("the packet is taken") { !receive.isPending }
        try port.untilWaiting(1)
        try port.post(key: 99)
        #expect(try consumer.join() == [3, 1])
    }

    @Test("kernels without the synchronous message: the ordinary ring sends one", .enabled(if: kernelHasOwnRings))
    func wakingByRing() throws {
        #if DEBUG || IOCP_SEAM
        let port = try consumerPort()
        let ring = port.core.slots[0].fileDescriptor
        let number = Seam.install { call in
            guard case .message(to: ring, _, _) = call else { return .pass }
            return .answer(-ENOMEM)
        }
        defer { Seam.remove(number) }
        let consumer = SideThread { try port.dequeue(timeout: patience)?.key }
        try port.untilWaiting(1)
        try port.post(key: 3)
        #expect(try consumer.join() == 3)
        #endif
    }

    @Test("any thread cancels and closes; the consumer has the one packet (e20–e29)", arguments: [true, false])
    func cancelAndClose(consumerSleeps: Bool) throws {
        let port = try consumerPort(registeredFiles: 8)
        let (socket, peer) = try StreamKind.tcp4.connection()
        let (other, otherPeer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        try port.associate(other, key: 2)
        let receives = (0..<4).map { _ in IOCP.Operation(capacity: 16) }
        let seen = Protected<[(Int, CompletionStatus)]>([])
        let isStarted = Atomic<Bool>(false)
        let isOver = Atomic<Bool>(false)
        let consumer = SideThread { [receives] in
            #expect(try port.dequeue(timeout: .zero) == nil)
            try socket.receive(receives[0])
            try other.receive(receives[1])
            if !consumerSleeps { try port.flush() }
            isStarted.store(true, ordering: .sequentiallyConsistent)
            if !consumerSleeps {
                while !isOver.load(ordering: .sequentiallyConsistent) { usleep(100) }
            }
            for _ in 0..<2 {
                let packet = try port.next()
                let index = receives.firstIndex { $0 === packet.operation }!
                seen.withLock { $0.append((index, packet.status)) }
            }
            return try port.staysEmpty()
        }
        try until("they are started") { isStarted.load(ordering: .sequentiallyConsistent) }
        if consumerSleeps { try port.untilWaiting(1) }
        try socket.cancel(receives[0])
        #expect(thrownStatus { try socket.cancel(receives[0]) } == .notFound)
        try other.close()
        isOver.store(true, ordering: .sequentiallyConsistent)
        #expect(try consumer.join())
        let packets = seen.withLock { $0 }.sorted { $0.0 < $1.0 }
        #expect(packets.map(\.1) == [.cancelled, .connectionAborted])
        // Closed in fact, by now.
        #expect(try otherPeer.receive(1) == [])
        // And the consumer has ended: the port goes on.
        try socket.receive(receives[2])
        try peer.send("on")
        try port.expect(receives[2], bytes: 2, key: 1)
        try until("the place has come back") { try port.statistics.registeredFiles == 1 }
    }

    @Test("a request that the consumer has not handed over ends when its handle is closed by another thread")
    func closeBeforeSubmission() throws {
        let port = try consumerPort(registeredFiles: 8)
        let (socket, peer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        let receive = IOCP.Operation(capacity: 16)
        #expect(try port.dequeue(timeout: .zero) == nil)
        try socket.receive(receive)
        try SideThread { try socket.close() }.join()
        try port.expect(receive, .connectionAborted, key: 1)
        #expect(try peer.receive(1) == [])
        #expect(try port.staysEmpty())
        #expect(try port.statistics.registeredFiles == 0)
    }

    @Test("operations of a consumer that ends go on, and the next thread to dequeue has their packets (e34)")
    func consumerEnds() throws {
        let port = try consumerPort(registeredFiles: 8)
        let (socket, peer) = try StreamKind.tcp4.connection()
        let listener = try Socket.listening(at: .loopback(port: 0))
        let (many, manyPeer) = try StreamKind.unix.connection()
        try port.associate(socket, key: 1)
        try port.associate(listener, key: 2)
        try port.associate(many, key: 3)
        let group = try BufferGroup(for: port, buffersPerRing: 4, bufferSize: 64)
        let receive = IOCP.Operation(capacity: 16)
        let deferred = IOCP.Operation("deferred")
        let accept = IOCP.Operation()
        let stream = IOCP.Operation()
        try SideThread { [manyPeer = Sending(manyPeer)] in
            #expect(try port.dequeue(timeout: .zero) == nil)
            try socket.receive(receive)
            try listener.acceptContinuously(accept)
            try many.receiveContinuously(stream, from: group)
            try manyPeer.value.send("before")
            let packet = try port.next()
            #expect(packet.operation === stream && packet.bytes == 6)
            packet.lentBuffer?.giveBack()
            // Never handed over by this thread itself.
            try socket.send(deferred)
        }.join()
        try port.expect(deferred, bytes: 8, key: 1)
        #expect(try peer.receive(8) == Array("deferred".utf8))
        try peer.send("late")
        try port.expect(receive, bytes: 4, key: 1)
        let client = try connectPeer(to: listener)
        let packet = try port.next()
        #expect(packet.operation === accept && packet.isMore && packet.acceptedSocket != nil)
        try manyPeer.send("after")
        let more = try port.next()
        #expect(more.operation === stream && more.isMore && more.lentBuffer?.array == Array("after".utf8))
        more.lentBuffer?.giveBack()
        // This thread is the consumer now.
        let status = try SideThread { thrownStatus { try port.dequeue(timeout: .zero) as Any } }.join()
        #expect(status == .invalidParameter)
        try socket.close()
        #expect(try peer.receive(1) == [])
        client.close()
    }

    @Test("a consumer that dequeues from another port leaves, and may come back (d13)")
    func consumerMoves() throws {
        let port = try consumerPort()
        let elsewhere = try CompletionPort(concurrencyLimit: 1)
        let (socket, peer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        let receive = IOCP.Operation(capacity: 16)
        for round in 0..<3 {
            #expect(try port.dequeue(timeout: .zero) == nil)
            try socket.receive(receive)
            #expect(try elsewhere.dequeue(timeout: .zero) == nil)
            try peer.send("x")
            if round == 1 {
                try SideThread { _ = try port.expect(receive, bytes: 1, key: 1) }.join()
            } else {
                try port.expect(receive, bytes: 1, key: 1)
            }
        }
    }

    @Test("the consumer may wait for a completion, an event, a handle or the port itself")
    func waits() throws {
        let port = try consumerPort()
        let (socket, peer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        #expect(try port.dequeue(timeout: .zero) == nil)
        let receive = IOCP.Operation(capacity: 16)
        let event = CompletionEvent()
        try receive.signal(event)
        for waiting in 0..<4 {
            try socket.receive(receive)
            let sender = SideThread { [peer = Sending(peer)] in
                usleep(20_000)
                try peer.value.send("late")
            }
            switch waiting {
            case 0: #expect(try receive.waitForCompletion(timeout: patience) == .success)
            case 1: #expect(try event.wait(timeout: patience))
            case 2:
                try receive.waitForCompletion(timeout: patience).map { #expect($0 == .success) }
                #expect(try event.wait(timeout: patience))
            default: #expect(try port.waitUntilQueued(timeout: patience))
            }
            try sender.join()
            try port.expect(receive, bytes: 4, key: 1)
        }
        // Another thread sets it, and time passes.
        let plain = CompletionEvent()
        let setter = SideThread {
            usleep(20_000)
            plain.set()
        }
        #expect(try plain.wait(timeout: patience))
        try setter.join()
        plain.reset()
        let start = ContinuousClock.now
        #expect(try !plain.wait(timeout: .milliseconds(30)))
        #expect(ContinuousClock.now - start >= .milliseconds(30))
        // Asleep for calls.
        let me = IOThread.current
        let caller = SideThread {
            usleep(20_000)
            me.queueCall {}
        }
        #expect(try IOThread.sleepAlertably(timeout: patience) == 1)
        try caller.join()
        // Nothing of those waits is left to disturb the dequeues.
        #expect(try port.staysEmpty())
    }

    @Test("closing the port ends the consumer's wait, and what is pending ends without packets (f1–f4)")
    func closingThePort() throws {
        let port = try consumerPort()
        let (socket, _peer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        let receive = IOCP.Operation(capacity: 16)
        let event = CompletionEvent()
        try receive.signal(event)
        let consumer = SideThread {
            #expect(try port.dequeue(timeout: .zero) == nil)
            try socket.receive(receive)
            return thrownStatus { try port.dequeue() as Any }
        }
        try port.untilWaiting(1)
        port.close()
        #expect(try consumer.join() == .abandoned)
        #expect(receive.isPending)
        try _peer.send("x")
        #expect(try event.wait(timeout: patience))
        #expect(receive.status == .success && receive.bytes == 1)
    }

    @Test("posts and operations of many threads: nothing is lost, nothing doubled")
    func manyStarters() throws {
        let port = try consumerPort(registeredFiles: 64)
        let connections = try (0..<8).map { _ in try Socket.pair() }
        for (index, pair) in connections.enumerated() {
            try port.associate(pair.0, key: UInt(index))
            try port.associate(pair.1, key: UInt(100 + index))
        }
        let rounds = 2_000
        let counts = Protected<[UInt: Int]>([:])
        let consumer = SideThread {
            var batch = PacketBatch(capacity: 16)
            var left = 8 * rounds * 2 + 8 * rounds
            while left > 0 {
                let count = try port.dequeue(into: &batch, timeout: patience)
                if count == 0 { break }
                for index in 0..<count {
                    let packet = batch[index]
                    #expect(packet.isSuccess)
                    counts.withLock { $0[packet.key, default: 0] += 1 }
                    // Half of the receives go on from here, half from their starter's thread.
                    if packet.key < 100, packet.key % 2 == 0, packet.bytes > 0,
                        counts.withLock({ $0[packet.key]! }) < rounds
                    {
                        try connections[Int(packet.key)].0.receive(packet.operation!)
                    }
                }
                left -= count
            }
            return left
        }
        _ = try onThreads(8) { number in
            let (left, right) = connections[number]
            let receive = IOCP.Operation(capacity: 1)
            let send = IOCP.Operation("x")
            if number % 2 == 0 { try left.receive(receive) }
            for _ in 0..<rounds {
                if number % 2 == 1 {
                    try until("the receive is idle") { receive.status != .pending }
                    while thrownStatus({ try left.receive(receive) }) != nil { sched_yield() }
                }
                try until("the send is idle") { send.status != .pending }
                while thrownStatus({ try right.send(send) }) != nil { sched_yield() }
                try port.post(key: UInt(200 + number))
            }
        }
        #expect(try consumer.join() == 0)
        for number in 0..<8 {
            counts.withLock {
                #expect($0[UInt(number)] == rounds)
                #expect($0[UInt(100 + number)] == rounds)
                #expect($0[UInt(200 + number)] == rounds)
            }
        }
    }

    @Test("a buffer group is made before the first dequeue or by the consumer", .enabled(if: kernelHasOwnRings))
    func bufferGroups() throws {
        let port = try consumerPort()
        let early = try BufferGroup(for: port, buffersPerRing: 2, bufferSize: 16)
        #expect(try port.dequeue(timeout: .zero) == nil)
        let late = try BufferGroup(for: port, buffersPerRing: 2, bufferSize: 16)
        let text = try SideThread {
            do {
                _ = try BufferGroup(for: port, buffersPerRing: 2, bufferSize: 16)
                return ""
            } catch {
                return "\(error)"
            }
        }.join()
        #expect(text.contains("consumer"))
        for group in [early, late] {
            let (socket, peer) = try StreamKind.unix.connection()
            try port.associate(socket, key: 1)
            let receive = IOCP.Operation()
            try socket.receiveContinuously(receive, from: group)
            for _ in 0..<10 {
                try peer.send("data")
                let packet = try port.next()
                #expect(packet.lentBuffer?.array == Array("data".utf8))
                // Given back by whoever likes.
                let buffer = packet.lentBuffer
                try SideThread { buffer?.giveBack() }.join()
            }
            peer.close()
            try port.expect(receive, bytes: 0)
        }
    }

    @Test("a fork leaves the parent's consumer alone")
    func fork() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let port = try consumerPort()
                let (socket, peer) = try StreamKind.unix.connection()
                try port.associate(socket, key: 1)
                try check(try port.dequeue(timeout: .zero) == nil, "a packet from nowhere")
                let receive = IOCP.Operation(capacity: 16)
                try socket.receive(receive)
                try Child.run {
                    try checkInherited("dequeue") { try port.dequeue() as Any }
                    let own = try consumerPort()
                    try own.post(key: 8)
                    try check(try own.next().key == 8, "the child's own port does not work")
                }
                try peer.send("x")
                let packet = try port.next()
                try check(packet.isSuccess && packet.bytes == 1, "the parent's operation ended with \(packet.status)")
            }
        }
    }
}
