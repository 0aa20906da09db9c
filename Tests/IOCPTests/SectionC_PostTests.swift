import Glibc
import SystemPackage
import Testing

@testable import IOCP

@Suite("Section C: posting")
struct SectionC_PostTests {
    private func port() throws -> CompletionPort { try CompletionPort(concurrencyLimit: 4) }

    @Test(
        "the three values come back as given (c1, p.all-zero, p.all-ones)",
        arguments: [(0, 0, 0), (.max, .max, .max), (123, 456, 789), (1 << 63, 1, 0xdead_beef)] as [(UInt, UInt, UInt)])
    func verbatim(bytes: UInt, key: UInt, token: UInt) throws {
        let port = try port()
        try port.post(bytes: bytes, key: key, token: token)
        let packet = try port.next()
        #expect(packet.information == bytes)
        #expect(packet.key == key)
        #expect(packet.token == token)
        #expect(packet.operation == nil)
        #expect(packet.status == .success)
        #expect(packet.bytes == Int(bytes & UInt(Int.max)))
    }

    @Test("a token is no address to the library: the first page and any odd word do (c1, p.ov-not-dereferenced)")
    func notDereferenced() throws {
        let port = try port()
        for token in [1, 2, 3, 7, 8, 0x1000, UInt.max - 1] as [UInt] { try port.post(token: token) }
        for token in [1, 2, 3, 7, 8, 0x1000, UInt.max - 1] as [UInt] { #expect(try port.next().token == token) }
    }

    @Test("a post is a success and leaves the operation that it carries as it is (c2, c3, p.ov-untouched)")
    func untouched() throws {
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let operation = Operation(capacity: 4)
        try right.send(Operation("abc"))
        try left.receive(operation)
        try port.expect(operation, bytes: 3)
        try port.post(bytes: 7, key: 8, operation: operation)
        #expect(operation.status == .success)
        #expect(operation.bytes == 3)
        try port.expect(operation, bytes: 7, key: 8)
        try port.post(status: .cancelled, information: 9, operation: operation)
        #expect(operation.status == .success)
        try port.expect(operation, .cancelled, bytes: 9)
        #expect(operation.bytes == 3)
        #expect(operation.text(3) == "abc")
    }

    @Test("an operation can be posted while it is in flight, and several times (p.same-ov-twice)")
    func postedTwice() throws {
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let operation = Operation(capacity: 4)
        try left.receive(operation)
        try port.post(bytes: 9, operation: operation)
        try port.post(bytes: 10, operation: operation)
        #expect(operation.isPending)
        try port.expect(operation, bytes: 9)
        try port.expect(operation, bytes: 10)
        #expect(operation.isPending)
        try right.send(Operation("x"))
        try port.expect(operation, bytes: 1, key: 1)
    }

    @Test("a closed port refuses a post with 6 and keeps nothing of it (c4, p.port-closed)")
    func closed() throws {
        let port = try CompletionPort.closed()
        let gone = Tally()
        #expect(thrownStatus { try port.post() } == .invalidHandle)
        #expect(thrownStatus { try port.post(status: .cancelled) } == .invalidHandle)
        #expect(thrownStatus { try port.post(operation: CountedOperation(gone)) } == .invalidHandle)
        #expect(thrownStatus { try port.post(status: .cancelled, operation: CountedOperation(gone)) } == .invalidHandle)
        #expect(thrownStatus { try port.depth() } == .invalidHandle)
        #expect(gone.value == 2)
    }

    @Test("nothing is refused, however long the queue, and it is all there (c4, c5)")
    func deep() throws {
        let port = try port()
        for key in 0..<200_000 as Range<UInt> { try port.post(key: key) }
        #expect(try port.depth() == 200_000)
        var batch = PacketBatch(capacity: 512)
        var next: UInt = 0
        var inOrder = true
        while try port.dequeue(into: &batch, timeout: .zero) > 0 {
            for index in batch.indices {
                if batch[index].key != next { inOrder = false }
                next += 1
            }
        }
        #expect(next == 200_000)
        #expect(inOrder)
    }

    @Test("a post with a status is a completion that ended so, its information verbatim (c6)")
    func statuses() throws {
        let port = try port()
        try port.post(status: .invalidDeviceRequest, information: 77, key: 1, token: 0xABCD)
        let packet = try port.next()
        #expect(packet.status.ntStatus == 0xC000_0010)
        #expect(packet.status.win32Code == 1)
        #expect(packet.information == 77)
        #expect(packet.token == 0xABCD)
        #expect(!packet.isSuccess)
        try port.post(status: .bufferOverflow, information: .max, key: 2)
        let overflow = try port.next()
        #expect(overflow.status.win32Code == 234)
        #expect(overflow.information == .max)
        let unknown = CompletionStatus(ntStatus: 0xE123_4567)
        try port.post(status: unknown)
        #expect(try port.next().status == unknown)
    }

    @Test("posts are dequeued in the order in which they were posted (c8, p.fifo-1000)")
    func fifo() throws {
        let port = try port()
        for key in 0..<1000 as Range<UInt> { try port.post(key: key) }
        #expect(try port.drain().map(\.key) == Array(0..<1000))
    }

    @Test("posts of one thread stay in order for a thread that waits (c8)")
    func fifoForWaiter() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let waiter = SideThread {
            var keys: [UInt] = []
            while keys.count < 5000 { try keys.append(port.next().key) }
            return keys
        }
        for key in 0..<5000 as Range<UInt> { try port.post(key: key) }
        #expect(try waiter.join() == Array(0..<5000))
    }

    @Test("what completed before a post comes before it (c8, p.fifo-io-before-post)")
    func ioBeforePost() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let scratch = try ScratchDirectory()
        let file = try File(scratch.file(), .readWrite, options: .create)
        let (left, right) = try Socket.pair()
        try port.associate(file, key: 1)
        try port.associate(left, key: 2)
        for _ in 0..<20 {
            let write = Operation("data")
            try file.write(write, start: .eager)
            #expect(try write.waitForCompletion(timeout: patience) == .success)
            try port.post(key: 7)
            #expect(try [port.next().key, port.next().key] == [1, 7])
            // Deferred, and completed by somebody else's doing.
            let receive = Operation(capacity: 1)
            try left.receive(receive)
            try port.flush()
            try right.send(Operation("x"), start: .eager)
            #expect(try receive.waitForCompletion(timeout: patience) == .success)
            try port.post(key: 8)
            #expect(try [port.next().key, port.next().key] == [2, 8])
        }
    }

    @Test("what was posted before a completion comes before it (c8)")
    func postBeforeIO() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let scratch = try ScratchDirectory()
        let file = try File(scratch.file(), .readWrite, options: .create)
        try port.associate(file, key: 1)
        _ = try port.dequeue(timeout: .zero)
        for start in bothStarts {
            try port.post(key: 6)
            let write = Operation("data")
            try file.write(write, start: start)
            #expect(try write.waitForCompletion(timeout: patience) == .success)
            try port.post(key: 7)
            #expect(try [port.next().key, port.next().key, port.next().key] == [6, 1, 7])
        }
    }

    @Test("packets that nobody has claimed are counted, those handed to a waiter are not (c10)")
    func depth() throws {
        let port = try port()
        for _ in 0..<3 { try port.post() }
        #expect(try port.depth() == 3)
        #expect(try port.drain().count == 3)
        #expect(try port.depth() == 0)
        let waiter = SideThread {
            let first = try port.dequeue(timeout: patience)?.key
            return first
        }
        try port.untilWaiting(1)
        try port.post(key: 4)
        #expect(try port.depth() == 0)
        #expect(try waiter.join() == 4)
    }

    @Test("completions that lie in a ring are counted too (c10)")
    func depthOfRings() throws {
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        _ = try port.dequeue(timeout: .zero)
        let receive = Operation(capacity: 1)
        try left.receive(receive)
        #expect(try port.depth() == 0)
        try right.send(Operation("x"), start: .eager)
        #expect(try receive.waitForCompletion(timeout: patience) == .success)
        #expect(try port.depth() == 1)
        try port.post()
        #expect(try port.depth() == 2)
        try port.expect(receive, bytes: 1, key: 1)
    }

    @Test("a packet posted for a waiter is his, though the port is closed at once (c9)")
    func postThenClose() throws {
        for _ in 0..<200 {
            let port = try CompletionPort(concurrencyLimit: 1)
            let waiter = SideThread { try port.dequeue()?.key }
            try port.untilWaiting(1)
            try port.post(key: 5)
            port.close()
            #expect(try waiter.join() == 5)
        }
    }

    @Test("packets that nobody has claimed end with the port (c9, f4)")
    func discarded() throws {
        let gone = Tally()
        do {
            let port = try port()
            for _ in 0..<100 { try port.post(operation: CountedOperation(gone)) }
            #expect(gone.value == 0)
            port.close()
            #expect(gone.value == 100)
        }
        do {
            let port = try port()
            for _ in 0..<100 { try port.post(operation: CountedOperation(gone)) }
            _ = port
        }
        #expect(gone.value == 200)
    }

    @Test("a million posts of four threads arrive, each once, each thread's in order (c5, c8)")
    func million() throws {
        let port = try CompletionPort(concurrencyLimit: 2)
        let each = 250_000
        let posters = (0..<4).map { number in
            SideThread {
                for index in 0..<each { try port.post(bytes: UInt(index), key: UInt(number)) }
            }
        }
        // One consumer, which alone can tell an order.
        var batch = PacketBatch(capacity: 256)
        var next = [UInt](repeating: 0, count: 4)
        var outOfOrder = 0
        var total = 0
        while total < 4 * each {
            try #require(try port.dequeue(into: &batch, timeout: patience) > 0)
            for index in batch.indices {
                let packet = batch[index]
                if packet.information != next[Int(packet.key)] { outOfOrder += 1 }
                next[Int(packet.key)] = packet.information + 1
            }
            total += batch.count
        }
        for poster in posters { try poster.join() }
        #expect(total == 4 * each)
        #expect(outOfOrder == 0)
        #expect(next.allSatisfy { $0 == UInt(each) })
        #expect(try port.dequeue(timeout: .zero) == nil)
    }

    @Test(
        "posts of several threads to several waiting threads all arrive, once (c5, t.four-threads-2000-posts)",
        arguments: [1, 2, 4])
    func manyToMany(limit: Int) throws {
        let port = try CompletionPort(concurrencyLimit: limit)
        let seen = Tally()
        let sum = Tally()
        let workers = (0..<4).map { _ in
            SideThread {
                while let packet = try port.dequeue(timeout: patience), packet.key == 0 {
                    seen.add()
                    sum.add(packet.bytes)
                }
            }
        }
        _ = try onThreads(4) { number in
            for index in 0..<2000 {
                try port.post(bytes: UInt(index))
                if index % 97 == number { sched_yield() }
            }
        }
        try until("all are handled; \(seen.value) are") { seen.value == 8000 }
        #expect(sum.value == 4 * 1999 * 1000)
        for _ in workers { try port.post(key: 1) }
        for worker in workers { try worker.join() }
        #expect(try port.depth() == 0)
    }

    @Test("a worker that posts to its own port gets what it posted (c1, d15)")
    func toOneself() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let handled = Tally()
        try port.post(key: 1000)
        let workers = (0..<2).map { _ in
            SideThread {
                while let packet = try port.dequeue(timeout: patience), packet.key != .max {
                    handled.add()
                    if packet.key > 0 {
                        try port.post(key: packet.key - 1)
                    } else {
                        for _ in 0..<2 { try port.post(key: .max) }
                    }
                }
            }
        }
        for worker in workers { try worker.join() }
        #expect(handled.value == 1001)
    }
}
