import Glibc
import Testing

@testable import IOCP

@Suite("Section B: dequeuing")
struct SectionB_DequeueTests {
    private func port() throws -> CompletionPort { try CompletionPort(concurrencyLimit: 4) }

    /// A thread that was never tied to a port: those of the test runner may have been.
    private func onNewThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) throws -> Value {
        try SideThread(body).join()
    }

    // MARK: One packet

    @Test("a packet that succeeded is returned with its key, operation, bytes and status (b1)")
    func success() throws {
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 5)
        try right.send(Operation("data"))
        let receive = Operation(capacity: 9)
        try left.receive(receive)
        let packet = try port.next()
        #expect(packet.key == 5)
        #expect(packet.operation === receive)
        #expect(packet.token == receive.token)
        #expect(packet.bytes == 4)
        #expect(packet.information == 4)
        #expect(packet.status == .success)
        #expect(packet.isSuccess)
        #expect(!packet.isMore)
        #expect(receive.status == .success)
        #expect(receive.bytes == 4)
    }

    @Test("a packet that failed is returned like any other, with its bytes (b2)")
    func failure() throws {
        let port = try port()
        let (left, right) = try Socket.pair(.datagram)
        try port.associate(left, key: 5)
        try right.send(Operation("0123456789"))
        let receive = Operation(capacity: 4)
        try left.receive(receive)
        let packet = try port.expect(receive, .bufferOverflow, bytes: 4, key: 5)
        #expect(packet.status.win32Code == 234)
        #expect(!packet.isSuccess)
        let cancelled = Operation(capacity: 4)
        try left.receive(cancelled)
        try port.flush()
        try left.cancel(cancelled)
        #expect(try port.expect(cancelled, .cancelled, bytes: 0, key: 5).status.win32Code == 995)
    }

    @Test("a post without an operation is a packet without one (b3)")
    func noOperation() throws {
        let port = try port()
        try port.post(key: 9)
        let packet = try port.next()
        #expect(packet.operation == nil)
        #expect(packet.token == 0)
        #expect(packet.key == 9)
    }

    @Test("an empty port yields nothing: at once for a timeout of zero, after the time for a longer one (b4, b11)")
    func timeouts() throws {
        let port = try port()
        #expect(try port.dequeue(timeout: .zero) == nil)
        for wait in [1, 20, 60] {
            let start = ContinuousClock.now
            #expect(try port.dequeue(timeout: .milliseconds(wait)) == nil)
            #expect(ContinuousClock.now - start >= .milliseconds(wait))
        }
    }

    @Test("the shortest and the longest timeouts are waited for (b11, g.timeout-fffffffe)")
    func extremeTimeouts() throws {
        let port = try port()
        #expect(try port.dequeue(timeout: .nanoseconds(1)) == nil)
        #expect(try port.dequeue(timeout: Duration(secondsComponent: 0, attosecondsComponent: 1)) == nil)
        for forever in [Duration.seconds(Int64.max), .milliseconds(0xffff_fffe as Int64), .seconds(9_223_372_036)] {
            let waiter = SideThread { try port.dequeue(timeout: forever)?.key }
            try port.untilWaiting(1)
            try port.post(key: 3)
            #expect(try waiter.join() == 3)
        }
    }

    @Test("a thread that waits for ever gets what is posted later (b11, g.infinite-then-posted)")
    func infinite() throws {
        let port = try port()
        let waiter = SideThread { try port.dequeue().map { [$0.information, $0.key, $0.token] } }
        try port.untilWaiting(1)
        try port.post(bytes: 5, key: 6, token: 7)
        #expect(try waiter.join() == [5, 6, 7])
    }

    @Test("a thread that waits is woken by a completion as by a post (b1)")
    func wokenByCompletion() throws {
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let receive = Operation(capacity: 4)
        let waiter = SideThread {
            try left.receive(receive)
            return try port.dequeue(timeout: patience)?.bytes
        }
        try port.untilWaiting(1)
        try right.send(Operation("abcd"), start: .eager)
        #expect(try waiter.join() == 4)
    }

    @Test("operations deferred before a wait enter the kernel with it (b1)")
    func deferredBeforeWait() throws {
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        try port.associate(right, key: 2)
        try onNewThread {
            _ = try port.dequeue(timeout: .zero)
            for _ in 0..<100 {
                let receive = Operation(capacity: 4)
                try left.receive(receive)
                try right.send(Operation("abcd"))
                let keys = [try port.next().key, try port.next().key]
                #expect(Set(keys) == [1, 2])
            }
        }
    }

    @Test("a thread in a wait learns of the last reference's end as abandoned, 735 (b5)")
    func abandoned() throws {
        let port = try port()
        let waiter = SideThread { thrownStatus { try port.dequeue() as Any } }
        try port.untilWaiting(1)
        port.close()
        let status = try waiter.join()
        #expect(status == .abandoned)
        #expect(status?.win32Code == 735)
    }

    @Test("every waiter does, whatever it waits with (b5, b23)")
    func allAbandoned() throws {
        let port = try port()
        let (left, _) = try Socket.pair()
        try port.associate(left, key: 1)
        let waits: [@Sendable () throws -> Any] = [
            { try port.dequeue() as Any },
            { try port.dequeue(timeout: .seconds(600)) as Any },
            { try port.dequeueAlertably() },
            {
                var batch = PacketBatch(capacity: 4)
                return try port.dequeue(into: &batch)
            },
            {
                var batch = PacketBatch(capacity: 4)
                return try port.dequeueAlertably(into: &batch, timeout: .seconds(600))
            },
            { try port.dequeue() as Any },
        ]
        let waiters = waits.map { wait in SideThread { thrownStatus(wait) } }
        try port.untilWaiting(waits.count)
        port.close()
        for waiter in waiters { #expect(try waiter.join() == .abandoned) }
    }

    @Test("a closed port says 6 to whoever comes, also to a thread that it knew (b6, f10)")
    func closed() throws {
        let port = try port()
        #expect(try port.dequeue(timeout: .zero) == nil)
        port.close()
        var batch = PacketBatch(capacity: 1)
        #expect(thrownStatus { try port.dequeue() as Any } == .invalidHandle)
        #expect(thrownStatus { try port.dequeue(timeout: .zero) as Any } == .invalidHandle)
        #expect(thrownStatus { try port.dequeueAlertably(timeout: .zero) } == .invalidHandle)
        #expect(thrownStatus { try port.waitUntilQueued(timeout: .zero) } == .invalidHandle)
        do {
            try port.dequeue(into: &batch)
            Issue.record("a closed port was dequeued from")
        } catch {
            #expect(error.status.win32Code == 6)
            #expect(error.description.contains("closed"))
        }
    }

    @Test("a packet posted with an error and no operation differs from a timeout (b8)")
    func failedPost() throws {
        let port = try port()
        try port.post(status: .timeout, key: 7)
        try port.post(status: .abandoned, key: 8)
        try port.post(status: .invalidHandle, key: 9)
        for (key, status) in [(7, .timeout), (8, .abandoned), (9, .invalidHandle)] as [(UInt, CompletionStatus)] {
            let packet = try port.next()
            #expect(packet.key == key)
            #expect(packet.status == status)
            #expect(packet.operation == nil)
        }
    }

    @Test(
        "success is what NT_SUCCESS says: informational statuses are, warnings and errors are not (b9)",
        arguments: [
            (0, true), (0x4000_0000, true), (0x103, true), (0x10C, true), (0x7FFF_FFFF, true), (0x8000_0005, false),
            (0xC000_0010, false), (0xFFFF_FFFF, false),
        ] as [(UInt32, Bool)])
    func severities(status: UInt32, isSuccess: Bool) throws {
        let port = try port()
        try port.post(status: CompletionStatus(ntStatus: status), information: 10)
        let packet = try port.next()
        #expect(packet.status.ntStatus == status)
        #expect(packet.isSuccess == isSuccess)
        #expect(packet.bytes == 10)
    }

    @Test("information keeps its 64 bits; the low 32 are what Win32 shows (b10)")
    func information() throws {
        let port = try port()
        try port.post(status: .success, information: 0x1_0000_0005)
        let packet = try port.next()
        #expect(packet.information == 0x1_0000_0005)
        #expect(UInt32(truncatingIfNeeded: packet.information) == 5)
    }

    @Test("packets are taken out of a batch one by one, oldest first; the others stay, and go with the next dequeue")
    func takingOut() throws {
        let port = try port()
        var batch = PacketBatch(capacity: 8)
        weak var left: IOCP.Operation?
        do {
            let operations = (0..<5).map { _ in IOCP.Operation() }
            left = operations[4]
            for (index, operation) in operations.enumerated() { try port.post(key: UInt(index), operation: operation) }
        }
        var count = try port.dequeue(into: &batch)
        #expect(count == 5)
        var keys = [batch.popFirst()?.key, batch.popFirst()?.key]
        #expect(keys == [0, 1])
        keys = batch.indices.map { batch[$0].key }
        #expect(keys == [2, 3, 4])
        #expect(left != nil)
        try port.post(key: 7)
        count = try port.dequeue(into: &batch)
        #expect(count == 1)
        #expect(left == nil)
        keys = [batch.popFirst()?.key, batch.popFirst()?.key]
        #expect(keys == [7, nil])
        count = batch.count
        #expect(count == 0)
        // A batch that goes with packets in it lets go of those, and of no other.
        weak var last: IOCP.Operation?
        do {
            var short = PacketBatch(capacity: 4)
            let operation = IOCP.Operation()
            last = operation
            for _ in 0..<3 { try port.post(key: 1, operation: operation) }
            _ = try port.dequeue(into: &short)
            _ = short.popFirst()
            #expect(last != nil)
        }
        #expect(last == nil)
    }

    @Test("a plain dequeue runs no queued call, waiting or not (b13)")
    func neverAlertable() throws {
        let port = try port()
        try onNewThread {
            let ran = Tally()
            IOThread.current.queueCall { ran.add() }
            #expect(try port.dequeue(timeout: .zero) == nil)
            #expect(try port.dequeue(timeout: .milliseconds(20)) == nil)
            try port.post(key: 1)
            #expect(try port.dequeue()?.key == 1)
            var batch = PacketBatch(capacity: 2)
            #expect(try port.dequeue(into: &batch, timeout: .milliseconds(20)) == 0)
            #expect(ran.value == 0)
            #expect(IOThread.runQueuedCalls() == 1)
            #expect(ran.value == 1)
        }
    }

    @Test("a thread for which no ring is left takes what is queued in passing, like any other")
    func withoutRing() throws {
        var options = CompletionPort.Options()
        options.rings = 1
        try withUnwatchedPort(limit: 2, threads: 2, options: options) { port, threads in
            #expect(try threads[0].perform { try port.dequeue(timeout: .zero) == nil })
            try threads[1].perform {
                for key in 1...3 { try port.post(key: UInt(key)) }
                #expect(try port.dequeue()?.key == 1)
                #expect(IOThread.current.leasedSlot == nil)
                let taken = port.core.takeQuickly()
                #expect(taken?.key == 2)
                #expect(try port.dequeue()?.key == 3)
            }
        }
    }

    @Test("a call queued to a thread in a plain wait neither runs nor ends the wait (b13)")
    func callDuringPlainWait() throws {
        let port = try port()
        let ran = Tally()
        let threads = Handover<IOThread>()
        let waiter = SideThread {
            threads.give(IOThread.current)
            let key = try port.dequeue()?.key
            let before = ran.value
            return (key, before, IOThread.runQueuedCalls())
        }
        let thread = try threads.take()
        try port.untilWaiting(1)
        for _ in 0..<10 { thread.queueCall { ran.add() } }
        usleep(20_000)
        #expect(ran.value == 0)
        try port.untilWaiting(1)
        try port.post(key: 4)
        let (key, before, after) = try waiter.join()
        #expect(key == 4)
        #expect(before == 0)
        #expect(after == 10)
    }

    @Test("an operation's status and bytes are there before its packet is dequeued (b14)", arguments: bothStarts)
    func early(start: Start) throws {
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let receive = Operation(capacity: 4)
        try left.receive(receive, start: start)
        #expect(receive.status == .pending)
        #expect(try receive.waitForCompletion(timeout: .zero) == nil)
        try right.send(Operation("abc"), start: .eager)
        #expect(try receive.waitForCompletion(timeout: patience) == .success)
        #expect(receive.bytes == 3)
        try port.expect(receive, bytes: 3, key: 1)
    }

    // MARK: Batches

    @Test("a batch takes what is there, up to its room, in order (b15, x.batch-too-small)")
    func batches() throws {
        let port = try port()
        var batch = PacketBatch(capacity: 2)
        for key in 1...5 as ClosedRange<UInt> { try port.post(key: key) }
        var counts: [Int] = []
        var keys: [UInt] = []
        while try port.dequeue(into: &batch, timeout: .zero) > 0 {
            counts.append(batch.count)
            for index in batch.indices { keys.append(batch[index].key) }
        }
        #expect(counts == [2, 2, 1])
        #expect(keys == [1, 2, 3, 4, 5])
        #expect(batch.indices == 0..<0)
    }

    @Test("a batch with room to spare does not wait for more (b24)")
    func noWaitForMore() throws {
        let port = try port()
        for key in 1...3 as ClosedRange<UInt> { try port.post(key: key) }
        var batch = PacketBatch(capacity: 100)
        let start = ContinuousClock.now
        #expect(try port.dequeue(into: &batch, timeout: .seconds(600)) == 3)
        #expect(ContinuousClock.now - start < .seconds(60))
        #expect(batch.indices.map { batch[$0].key } == [1, 2, 3])
    }

    @Test("a thread that waits with a batch gets the first packet alone (b24, x.blocked-then-one-posted)")
    func blockedBatch() throws {
        let port = try port()
        let waiter = SideThread {
            var batch = PacketBatch(capacity: 8)
            let count = try port.dequeue(into: &batch)
            return (count, batch[0].key)
        }
        try port.untilWaiting(1)
        try port.post(key: 77)
        let (count, key) = try waiter.join()
        #expect(count == 1)
        #expect(key == 77)
    }

    @Test("single dequeues and batches take from one queue (x.mixed-with-gqcs)")
    func mixed() throws {
        let port = try port()
        for key in 0...3 as ClosedRange<UInt> { try port.post(key: key) }
        #expect(try port.dequeue(timeout: .zero)?.key == 0)
        var batch = PacketBatch(capacity: 2)
        #expect(try port.dequeue(into: &batch, timeout: .zero) == 2)
        #expect(batch.indices.map { batch[$0].key } == [1, 2])
        #expect(try port.dequeue(timeout: .zero)?.key == 3)
    }

    @Test("a batch of failures is a success; each packet has its own status (b16)")
    func failedBatch() throws {
        let port = try port()
        let (left, right) = try Socket.pair()
        defer { withExtendedLifetime(right) {} }
        try port.associate(left, key: 51)
        let receives = (0..<3).map { _ in Operation(capacity: 4) }
        for receive in receives { try left.receive(receive) }
        try port.flush()
        #expect(try left.cancelAll() == 3)
        var batch = PacketBatch(capacity: 8)
        var seen: [IOCP.Operation] = []
        while seen.count < 3 {
            try #require(try port.dequeue(into: &batch, timeout: patience) > 0)
            for index in batch.indices {
                #expect(batch[index].status == .cancelled)
                #expect(batch[index].status.ntStatus == 0xC000_0120)
                #expect(batch[index].bytes == 0)
                #expect(batch[index].key == 51)
                try seen.append(#require(batch[index].operation))
            }
        }
        #expect(Set(seen.map(ObjectIdentifier.init)) == Set(receives.map(ObjectIdentifier.init)))
    }

    @Test("a batch of an empty port is empty after the time (b17)")
    func emptyBatch() throws {
        let port = try port()
        var batch = PacketBatch(capacity: 2)
        #expect(try port.dequeue(into: &batch, timeout: .zero) == 0)
        #expect(try port.dequeue(into: &batch, timeout: .milliseconds(20)) == 0)
        #expect(batch.indices == 0..<0)
    }

    @Test("a batch without room is refused with 87, and no packet is lost (b22)")
    func noRoom() throws {
        let port = try port()
        try port.post(key: 1)
        var batch = PacketBatch(capacity: 0)
        do {
            try port.dequeue(into: &batch, timeout: .zero)
            Issue.record("a batch of none was dequeued into")
        } catch {
            #expect(error.status.win32Code == 87)
        }
        do {
            _ = try port.dequeueAlertably(into: &batch, timeout: .zero)
            Issue.record("a batch of none was dequeued into")
        } catch {
            #expect(error.status.win32Code == 87)
        }
        #expect(
            thrownStatus { try port.dequeue(into: .init(start: nil, count: 0), timeout: .zero) } == .invalidParameter)
        #expect(try port.dequeue(timeout: .zero)?.key == 1)
    }

    @Test("a caller's own memory is filled (b15)")
    func ownMemory() throws {
        let port = try port()
        for key in 1...3 as ClosedRange<UInt> { try port.post(key: key) }
        let memory = UnsafeMutableBufferPointer<Packet>.allocate(capacity: 8)
        defer { memory.deallocate() }
        let count = try port.dequeue(into: memory, timeout: .zero)
        #expect(count == 3)
        #expect(memory[..<count].map(\.key) == [1, 2, 3])
        memory.baseAddress!.deinitialize(count: count)
    }

    @Test("a negative timeout is refused with 87 everywhere, and no packet is lost")
    func negative() throws {
        let port = try port()
        try port.post(key: 1)
        for wrong in [
            Duration.nanoseconds(-1), .seconds(-1), .seconds(Int64.min),
            Duration(secondsComponent: 0, attosecondsComponent: -1),
        ] {
            var batch = PacketBatch(capacity: 1)
            #expect(thrownStatus { try port.dequeue(timeout: wrong) as Any } == .invalidParameter)
            #expect(thrownStatus { try port.dequeueAlertably(timeout: wrong) } == .invalidParameter)
            #expect(thrownStatus { try port.waitUntilQueued(timeout: wrong) } == .invalidParameter)
            #expect(thrownStatus { try IOThread.sleepAlertably(timeout: wrong) } == .invalidParameter)
            do {
                try port.dequeue(into: &batch, timeout: wrong)
                Issue.record("a negative timeout was accepted")
            } catch {
                #expect(error.status == .invalidParameter)
            }
        }
        #expect(try port.dequeue(timeout: .zero)?.key == 1)
    }

    // MARK: Alertable waits

    @Test(
        "an alertable dequeue of an empty port runs the thread's calls, without waiting too (b18)",
        arguments: [true, false])
    func alertable(immediate: Bool) throws {
        let port = try port()
        try onNewThread {
            #expect(try port.dequeue(timeout: .zero) == nil)
            let order = Handover<Int>()
            for number in 0..<3 { IOThread.current.queueCall { order.give(number) } }
            let outcome = try port.dequeueAlertably(timeout: immediate ? .zero : nil)
            guard case .callsRan = outcome else {
                Issue.record("the calls did not run: \(outcome)")
                return
            }
            #expect(order.all == [0, 1, 2])
            guard case .timedOut = try port.dequeueAlertably(timeout: .zero) else {
                Issue.record("calls ran twice")
                return
            }
        }
    }

    @Test("a call queued to a thread in an alertable wait wakes it and runs there (b18)")
    func callWakes() throws {
        let port = try port()
        let threads = Handover<IOThread>()
        let ranOn = Handover<IOThread>()
        let waiter = SideThread {
            threads.give(IOThread.current)
            guard case .callsRan = try port.dequeueAlertably() else { return false }
            var batch = PacketBatch(capacity: 2)
            guard case .callsRan = try port.dequeueAlertably(into: &batch) else { return false }
            return batch.isEmpty
        }
        let thread = try threads.take()
        for _ in 0..<2 {
            try port.untilWaiting(1)
            thread.queueCall { ranOn.give(IOThread.current) }
            #expect(try ranOn.take() === thread)
        }
        #expect(try waiter.join())
    }

    @Test("with a packet and a call the packet comes first, for a thread that the port knows (b20)")
    func packetFirst() throws {
        let port = try port()
        try onNewThread {
            #expect(try port.dequeue(timeout: .zero) == nil)
            let ran = Tally()
            IOThread.current.queueCall { ran.add() }
            try port.post(key: 1)
            guard case .packet(let packet) = try port.dequeueAlertably() else {
                Issue.record("no packet came")
                return
            }
            #expect(packet.key == 1)
            #expect(ran.value == 0)
            #expect(try IOThread.sleepAlertably(timeout: .zero) == 1)
            #expect(ran.value == 1)
        }
    }

    @Test("the calls come first for a thread that the port does not know, and leave it unknown (b21)")
    func callsFirst() throws {
        let port = try port()
        let other = try self.port()
        try onNewThread {
            // Never tied, then tied to another port.
            for round in 0..<2 {
                let ran = Tally()
                try port.post(key: 1)
                for _ in 0..<2 {
                    // Twice: the first did not tie the thread.
                    IOThread.current.queueCall { ran.add() }
                    guard case .callsRan = try port.dequeueAlertably() else {
                        Issue.record("the calls did not come first in round \(round)")
                        return
                    }
                }
                #expect(ran.value == 2)
                #expect(port.core.snapshot.running == 0)
                #expect(try port.dequeue(timeout: .zero)?.key == 1)
                #expect(try other.dequeue(timeout: .zero) == nil)
            }
        }
    }

    @Test("calls and packets that hit alertable waits at the same time all arrive, once (b18, b20)")
    func alertableStorm() throws {
        let port = try port()
        let other = try self.port()
        let threads = Handover<IOThread>()
        let ran = Tally()
        let waiter = SideThread {
            threads.give(IOThread.current)
            var packets = 0
            var wrong = 0
            while packets < 3000 {
                // Alternates between waits that calls may end and waits that they may not.
                switch try port.dequeueAlertably(timeout: .seconds(60)) {
                case .packet: packets += 1
                case .callsRan: break
                case .timedOut: wrong += 1
                }
                if packets < 3000, packets % 3 == 0 {
                    if try port.dequeue(timeout: .seconds(60)) == nil { wrong += 1 } else { packets += 1 }
                }
                if packets % 64 == 0 { _ = try other.dequeue(timeout: .zero) }
            }
            _ = IOThread.runQueuedCalls()
            return wrong
        }
        let thread = try threads.take()
        let caller = SideThread { for _ in 0..<3000 { thread.queueCall { ran.add() } } }
        for key in 0..<3000 as Range<UInt> {
            try port.post(key: key)
            if key % 7 == 0 { sched_yield() }
        }
        try caller.join()
        #expect(try waiter.join() == 0)
        try until("all calls have run or are left to the thread's end") { ran.value <= 3000 }
    }

    @Test("a thread can sleep for calls alone, with its place on the port free meanwhile (b18)")
    func sleeping() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let threads = Handover<IOThread>()
        let sleeper = SideThread {
            _ = try port.dequeue(timeout: .zero)
            threads.give(IOThread.current)
            return try IOThread.sleepAlertably(timeout: nil)
        }
        let thread = try threads.take()
        try until("the sleeper has given its place up") { port.core.snapshot.running == 0 }
        thread.queueCall {}
        #expect(try sleeper.join() >= 1)
        #expect(try IOThread.sleepAlertably(timeout: .milliseconds(5)) == 0)
    }

    // MARK: The port as something to wait for

    @Test("waiting for the port succeeds while a packet is queued, and takes none (b27)")
    func waitable() throws {
        let port = try port()
        #expect(try !port.waitUntilQueued(timeout: .zero))
        #expect(try !port.waitUntilQueued(timeout: .milliseconds(10)))
        try port.post(key: 5)
        #expect(try port.waitUntilQueued(timeout: .zero))
        #expect(try port.waitUntilQueued())
        #expect(try port.depth() == 1)
        #expect(try port.next().key == 5)
        #expect(try !port.waitUntilQueued(timeout: .zero))
    }

    @Test("one packet ends the wait of all who wait for the port (b27)")
    func allWatchers() throws {
        let port = try port()
        let started = Tally()
        let watchers = (0..<4).map { _ in
            SideThread {
                started.add()
                return try port.waitUntilQueued(timeout: patience)
            }
        }
        try until("they run") { started.value == 4 }
        usleep(5_000)
        try port.post(key: 5)
        for watcher in watchers { #expect(try watcher.join()) }
        #expect(try port.depth() == 1)
    }

    @Test("a completion ends it too, though it lies in the ring of a thread that is busy (b27)")
    func watcherSeesCompletion() throws {
        let port = try port()
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let receive = Operation(capacity: 4)
        let release = Tally()
        let busy = SideThread {
            _ = try port.dequeue(timeout: .zero)
            try left.receive(receive)
            try port.flush()
            while release.value == 0 { sched_yield() }
        }
        try until("the receive is in flight") { port.core.snapshot.inFlight == 1 }
        let watcher = SideThread { try port.waitUntilQueued(timeout: patience) }
        usleep(5_000)
        try right.send(Operation("x"), start: .eager)
        #expect(try watcher.join())
        release.add()
        try busy.join()
    }

    @Test("a packet that goes to a waiting thread is not seen by those who wait for the port (b28)")
    func handedOver() throws {
        let port = try port()
        let waiter = SideThread { try port.dequeue(timeout: patience)?.key }
        try port.untilWaiting(1)
        let watcher = SideThread { try port.waitUntilQueued(timeout: .milliseconds(100)) }
        usleep(20_000)
        try port.post(key: 5)
        #expect(try waiter.join() == 5)
        #expect(try !watcher.join())
    }

    @Test("the port's end satisfies those who wait for it, and abandons those who dequeue (b29)")
    func endOfWatching() throws {
        let port = try port()
        let started = Tally()
        let watcher = SideThread {
            started.add()
            return try port.waitUntilQueued()
        }
        let waiter = SideThread { thrownStatus { try port.dequeue() as Any } }
        try port.untilWaiting(1)
        try until("the watcher runs") { started.value == 1 }
        usleep(20_000)
        port.close()
        #expect(try watcher.join())
        #expect(try waiter.join() == .abandoned)
    }
}
