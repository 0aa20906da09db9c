import Glibc
import SystemPackage
import Testing

@testable import IOCP

@Suite("Section F: lifetime and references")
struct SectionF_LifetimeTests {
    private func port() throws -> CompletionPort { try CompletionPort(concurrencyLimit: 4) }

    // MARK: References to the port

    @Test("a port lives as long as any reference to it (f1, l.duplicate-port-survives-close)")
    func duplicates() throws {
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 41)
        let duplicate = try port.duplicate()
        try port.post(key: 5)
        port.close()
        #expect(try duplicate.next().key == 5)
        let receive = Operation(capacity: 4)
        try left.receive(receive)
        try right.send(Operation("abc"))
        try duplicate.expect(receive, bytes: 3, key: 41)
        #expect(thrownStatus { try port.post() } == .invalidHandle)
        duplicate.close()
        #expect(thrownStatus { try duplicate.post() } == .invalidHandle)
    }

    @Test("a reference that is let go of is closed (f1, f2)")
    func letGo() throws {
        // The waiter knows the port object only, not the reference.
        func wait() throws -> SideThread<CompletionStatus?> {
            let port = try port()
            let core = port.core
            let waiter = SideThread { thrownStatus { try core.dequeueForTest() } }
            try port.untilWaiting(1)
            return waiter
        }
        #expect(try wait().join() == .abandoned)
    }

    @Test("waiters go on when one of several references is closed, and end with the last (f2, f3)")
    func waitersOfDuplicates() throws {
        let port = try port()
        let second = try port.duplicate()
        let third = try second.duplicate()
        let waiters = (0..<3).map { _ in
            SideThread {
                var keys: [UInt] = []
                do throws(PortError) {
                    while let packet = try port.dequeue() { keys.append(packet.key) }
                    return (keys, CompletionStatus?.none)
                } catch {
                    return (keys, error.status)
                }
            }
        }
        try port.untilWaiting(3)
        second.close()
        usleep(5_000)
        #expect(port.core.snapshot.waiting == 3)
        try third.post(key: 6)
        try until("the packet is taken") { port.core.snapshot.waiting == 3 && port.core.snapshot.queued == 0 }
        third.close()
        usleep(5_000)
        #expect(port.core.snapshot.waiting == 3)
        port.close()
        let results = try waiters.map { try $0.join() }
        #expect(results.flatMap(\.0) == [6])
        #expect(results.allSatisfy { $0.1 == .abandoned })
    }

    @Test(
        "the last reference ends the waits though associated files go on (f2, l.close-port-while-waiting.file-associated)"
    )
    func fileAssociated() throws {
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let receive = Operation(capacity: 4)
        let waiter = SideThread {
            try left.receive(receive)
            return thrownStatus { try port.dequeue() as Any }
        }
        try port.untilWaiting(1)
        port.close()
        #expect(try waiter.join() == .abandoned)
        try right.send(Operation("abc"))
        #expect(try receive.waitForCompletion(timeout: patience) == .success)
    }

    @Test("closing at the same time as waiting begins: every waiter ends, abandoned or closed (f2, f10)")
    func closingRaces() throws {
        for round in 0..<200 {
            let port = try CompletionPort(concurrencyLimit: 2)
            let waiters = (0..<3).map { number in
                SideThread {
                    if (round + number) % 3 == 0 { sched_yield() }
                    return thrownStatus { while true { _ = try port.dequeue() } }
                }
            }
            for _ in 0..<(round % 5) { sched_yield() }
            let posted = round % 2 == 0
            if posted { try port.post(key: 1) }
            port.close()
            for waiter in waiters {
                let status = try waiter.join()
                #expect(status == .abandoned || status == .invalidHandle)
            }
        }
    }

    @Test("a thread that runs while the port is closed sees 6 at its next dequeue (f10)")
    func closedWhileRunning() throws {
        let port = try port()
        let closed = CompletionEvent()
        let taken = CompletionEvent()
        let worker = SideThread {
            let key = try port.dequeue()?.key
            taken.set()
            _ = try closed.wait(timeout: patience)
            return (
                key, thrownStatus { try port.dequeue() as Any },
                thrownStatus { try port.dequeue(timeout: .zero) as Any }
            )
        }
        try port.untilWaiting(1)
        try port.post(key: 3)
        #expect(try taken.wait(timeout: patience))
        port.close()
        closed.set()
        let (key, first, second) = try worker.join()
        #expect(key == 3)
        #expect(first == .invalidHandle)
        #expect(second == .invalidHandle)
    }

    @Test("a thread whose port is gone can use another (f10, d4)")
    func nextPort() throws {
        try SideThread {
            for _ in 0..<20 {
                let port = try CompletionPort(concurrencyLimit: 1)
                try port.post(key: 1)
                #expect(try port.next().key == 1)
                port.close()
                #expect(thrownStatus { try port.dequeue() as Any } == .invalidHandle)
            }
        }.join()
    }

    // MARK: Operations of a closed port

    @Test(
        "operations of a closed port's handles complete: event, status and bytes, but no packet (f4, f5)",
        arguments: bothStarts)
    func afterClose(start: Start) throws {
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let before = Operation(capacity: 9)
        let event = CompletionEvent()
        try before.signal(event)
        try left.receive(before, start: start)
        port.close()
        try right.send(Operation("four"), start: .eager)
        #expect(try event.wait(timeout: patience))
        #expect(before.status == .success)
        #expect(before.bytes == 4)
        // And those that are started afterwards.
        let after = Operation(capacity: 9)
        #expect(try left.receive(after, start: start) == .pending)
        try right.send(Operation("fives"), start: .eager)
        #expect(try after.waitForCompletion(timeout: patience) == .success)
        #expect(after.bytes == 5)
        #expect(try left.waitUntilSignaled(timeout: patience))
    }

    @Test("they are let go of once they have completed (f4)")
    func afterCloseNoLeak() throws {
        let gone = Tally()
        let buffers = Tally()
        let (left, right) = try Socket.pair()
        do {
            let port = try port()
            try port.associate(left, key: 1)
            for _ in 0..<50 {
                let operation = CountedOperation(gone)
                try operation.setBuffer(countedBuffer(buffers, capacity: 1))
                try left.receive(operation)
            }
            try port.flush()
            port.close()
        }
        #expect(gone.value == 0)
        let bytes = Operation([UInt8](repeating: 1, count: 50))
        try right.send(bytes)
        try until("all are gone; \(gone.value) are") { gone.value == 50 }
        #expect(buffers.value == 50)
    }

    @Test("an operation deferred by a thread that never comes back to a closed port still starts (f5)")
    func deferredThenClosed() throws {
        let (left, right) = try Socket.pair()
        try SideThread {
            let port = try CompletionPort(concurrencyLimit: 1)
            try port.associate(left, key: 1)
            _ = try port.dequeue(timeout: .zero)
            let receive = Operation(capacity: 9)
            try left.receive(receive)
            port.close()
            try right.send(Operation("abc"), start: .eager)
            #expect(try receive.waitForCompletion(timeout: patience) == .success)
        }.join()
    }

    @Test("a handle of a closed port can be closed with operations pending: they end, and everything goes (f4, f6)")
    func portThenHandle() throws {
        let gone = Tally()
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let operations = (0..<10).map { _ in CountedOperation(gone) }
        for operation in operations { try left.receive(operation) }
        port.close()
        try left.close()
        for operation in operations {
            #expect(try operation.waitForCompletion(timeout: patience) == .connectionAborted)
        }
        withExtendedLifetime(right) {}
    }

    // MARK: References of the user's that are forgotten

    @Test("an operation and its buffer live until the packet, whoever forgets them (f7)")
    func forgottenOperation() throws {
        let gone = Tally()
        let buffers = Tally()
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        do {
            let operation = CountedOperation(gone)
            try operation.setBuffer(countedBuffer(buffers))
            try left.receive(operation)
        }
        #expect(try port.staysEmpty())
        #expect(gone.value == 0)
        try right.send(Operation("hello"))
        do {
            let packet = try port.next()
            #expect(packet.operation is CountedOperation)
            #expect(packet.operation!.text(5) == "hello")
            #expect(gone.value == 0)
            #expect(buffers.value == 0)
        }
        #expect(gone.value == 1)
        #expect(buffers.value == 1)
    }

    @Test("the packet of a batch keeps its operation until the batch is used again, emptied or gone (f7)")
    func batches() throws {
        let gone = Tally()
        let port = try port()
        var batch = PacketBatch(capacity: 4)
        for _ in 0..<4 { try port.post(operation: CountedOperation(gone)) }
        try port.dequeue(into: &batch)
        #expect(gone.value == 0)
        for _ in 0..<2 { try port.post(operation: CountedOperation(gone)) }
        try port.dequeue(into: &batch)
        #expect(gone.value == 4)
        batch.removeAll()
        #expect(gone.value == 6)
        try port.post(operation: CountedOperation(gone))
        try port.dequeue(into: &batch)
        _ = consume batch
        #expect(gone.value == 7)
    }

    @Test("a handle that is let go of with operations pending ends them, each with its packet (f6, e29)")
    func forgottenHandle() throws {
        let gone = Tally()
        let port = try port()
        func forget() throws -> Socket {
            let (left, right) = try Socket.pair()
            try port.associate(left, key: 9)
            for _ in 0..<10 { try left.receive(CountedOperation(gone)) }
            #expect(gone.value == 0)
            return right
        }
        let right = try forget()
        for _ in 0..<10 {
            let packet = try port.next()
            #expect(packet.status == .connectionAborted)
            #expect(packet.key == 9)
            #expect(packet.bytes == 0)
        }
        #expect(gone.value == 10)
        #expect(try port.staysEmpty())
        withExtendedLifetime(right) {}
    }

    @Test(
        "forgetting handle, operation, buffer and port in flight, in any order, corrupts and keeps nothing (f4, f6, f7)"
    )
    func forgetEverything() throws {
        let gone = Tally()
        let buffers = Tally()
        for round in 0..<300 {
            var port: CompletionPort? = try CompletionPort(concurrencyLimit: 1)
            var ends: (Socket, Socket)? = try Socket.pair()
            try port!.associate(ends!.0, key: 1)
            try port!.associate(ends!.1, key: 2)
            do {
                for _ in 0..<3 {
                    let receive = CountedOperation(gone)
                    try receive.setBuffer(countedBuffer(buffers))
                    try ends!.0.receive(receive, start: round % 2 == 0 ? .deferred : .eager)
                }
                if round % 3 == 0 { try ends!.1.send(Operation("data"), start: round % 2 == 0 ? .eager : .deferred) }
            }
            switch round % 4 {
            case 0: (port, ends) = (nil, nil)
            case 1:
                ends = nil
                port = nil
            case 2:
                port!.close()
                ends = nil
            default:
                try ends!.0.close()
                ends = nil
                port!.close()
            }
            _ = (port, ends)
        }
        try until("everything is gone; \(gone.value) and \(buffers.value) are") {
            gone.value == 900 && buffers.value == 900
        }
    }

    @Test("completions and the end of a handle that race leave each operation with one end (e6, f6)")
    func closeRaces() throws {
        let gone = Tally()
        let port = try CompletionPort(concurrencyLimit: 2)
        let packets = Tally()
        let consumer = SideThread {
            while let packet = try port.dequeue(timeout: patience), packet.key != .max { packets.add() }
        }
        for round in 0..<300 {
            let (left, right) = try Socket.pair()
            try port.associate(left, key: 1)
            for _ in 0..<4 { try left.receive(CountedOperation(gone, capacity: 1)) }
            let sender = SideThread {
                for _ in 0..<(round % 7) { sched_yield() }
                _ = try? right.send(Operation("abcd"), start: .eager)
            }
            for _ in 0..<(round % 5) { sched_yield() }
            try left.close()
            try sender.join()
        }
        try until("each has its packet; \(packets.value) have") { packets.value >= 1200 }
        try port.post(key: .max)
        try consumer.join()
        #expect(packets.value == 1200)
        try until("all are gone; \(gone.value) are") { gone.value == 1200 }
    }

    @Test("packets survive their handle (e32, f6, l.packet-survives-file-close)")
    func packetSurvivesHandle() throws {
        let port = try port()
        let scratch = try ScratchDirectory()
        let write = Operation("abc")
        do {
            let file = try File(scratch.file(), .readWrite, options: .create)
            try port.associate(file, key: 17)
            try file.write(write)
            try port.flush()
            #expect(try write.waitForCompletion(timeout: patience) == .success)
            try file.close()
        }
        try port.expect(write, bytes: 3, key: 17)
        #expect(try scratch.read() == Array("abc".utf8))
    }

    @Test("an operation can be started again once it has completed, though its packet is still queued (f8)")
    func reuse() throws {
        let port = try port()
        let scratch = try ScratchDirectory()
        let file = try File(scratch.file(), .readWrite, options: .create)
        try port.associate(file, key: 1)
        let operation = Operation("abc")
        for round in 0..<100 {
            try file.write(operation, at: .at(Int64(round) * 3))
            try port.flush()
            #expect(try operation.waitForCompletion(timeout: patience) == .success)
        }
        for _ in 0..<100 { try port.expect(operation, bytes: 3, key: 1) }
        #expect(try port.dequeue(timeout: .zero) == nil)
        #expect(try scratch.read().count == 300)
    }

    @Test("neither a file nor a packet holds a place: only threads are counted (f9)")
    func places() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let receive = Operation(capacity: 4)
        try left.receive(receive)
        try port.post()
        #expect(port.core.snapshot.running == 0)
        let packet = try SideThread {
            let packets = [try port.next().key]
            #expect(port.core.snapshot.running == 1)
            return packets
        }.join()
        #expect(packet == [0])
        try until("the thread's place is free") { port.core.snapshot.running == 0 }
        withExtendedLifetime(right) {}
    }

    // MARK: Numbers

    @Test("thousands of ports and handles come and go, and no descriptor stays (f1, f4)")
    func descriptorsFlat() async {
        await #expect(processExitsWith: .success) {
            func cycle(_ round: Int) throws {
                let port = try CompletionPort(concurrencyLimit: 1 + round % 3)
                let (left, right) = try Socket.pair()
                let (reading, writing) = try Pipe.make()
                try port.associate(left, key: 1)
                if round % 2 == 0 { try port.associate(right, key: 2) }
                if round % 3 == 0 { try port.associate(reading, key: 3) }
                let receive = Operation(capacity: 4)
                try left.receive(receive, start: round % 5 == 0 ? .eager : .deferred)
                try reading.read(Operation(capacity: 4))
                if round % 4 == 0 {
                    try right.send(Operation("abcd"), start: .eager)
                    _ = try receive.waitForCompletion(timeout: .seconds(30))
                }
                if round % 7 == 0 { port.close() }
                if round % 11 == 0 { _ = try port.duplicate(access: .query) }
                _ = writing
            }
            for round in 0..<50 { try? cycle(round) }
            let before = openDescriptors()
            for round in 0..<2000 {
                do { try cycle(round) } catch {
                    // What is meant to fail: duplicating a closed port.
                    if (error as? PortError)?.status != .invalidHandle { exit(2) }
                }
            }
            // The observer has yet to see the last ends.
            for _ in 0..<1000 where openDescriptors() > before { usleep(5_000) }
            exit(openDescriptors() <= before ? 0 : 3)
        }
    }

    @Test("ports that are made and dropped by several threads at once do not disturb each other (f1)")
    func concurrentPorts() throws {
        _ = try onThreads(4) { number in
            for round in 0..<100 {
                let port = try CompletionPort(concurrencyLimit: 1 + number % 2)
                let (left, right) = try Socket.pair()
                try port.associate(left, key: UInt(round))
                let receive = Operation(capacity: 4)
                try left.receive(receive)
                try right.send(Operation("ab"), start: .eager)
                let packet = try port.next()
                #expect(packet.key == UInt(round))
                #expect(packet.operation === receive)
            }
        }
    }
}

extension PortCore {
    /// A dequeue that does not keep a reference open, only the object.
    fileprivate func dequeueForTest() throws -> Int {
        let room = UnsafeMutableBufferPointer<Packet>.allocate(capacity: 1)
        defer { room.deallocate() }
        if case .packets(let count) = try dequeue(into: room, .never, alertable: false) { return count }
        return 0
    }
}
