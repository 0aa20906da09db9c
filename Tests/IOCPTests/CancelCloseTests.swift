import Glibc
import Synchronization
import Testing

@testable import IOCP

@Suite("Section e: cancelling, closing, threads that exit")
struct CancelCloseTests {
    /// F_GETPIPE_SZ, which the Glibc module leaves out.
    private let pipeCapacityCommand: Int32 = 1032

    // MARK: Cancel

    @Test("a cancelled operation ends with 995, no bytes, its key and itself (e23, test 86)", arguments: bothStarts)
    func cancelOne(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, _right) = try Socket.pair()
        try port.associate(left, key: 123)
        let operation = IOCP.Operation(capacity: 8)
        for _ in 0..<50 {
            try left.receive(operation, start: start)
            try left.cancel(operation)
            // Cancelled already, or even gone (e21).
            #expect(thrownStatus { try left.cancel(operation) } == .notFound)
            try port.expect(operation, .cancelled, bytes: 0, key: 123)
            #expect(operation.status.rawValue == 0xC000_0120 && operation.bytes == 0)
            #expect(thrownStatus { try left.cancel(operation) } == .notFound)
        }
        #expect(try port.staysEmpty())
        _ = _right
    }

    @Test("cancelling where nothing is pending is reported, but for this thread's operations (e20, e21, test 87)")
    func nothingToCancel() throws {
        let (left, right) = try Socket.pair()
        #expect(thrownStatus { try left.cancelAll() } == .notFound)
        #expect(try left.cancelFromThisThread() == 0)
        let operation = IOCP.Operation(capacity: 8)
        #expect(thrownStatus { try left.cancel(operation) } == .notFound)
        // Pending, but elsewhere.
        try right.receive(operation)
        #expect(thrownStatus { try left.cancel(operation) } == .notFound)
        #expect(thrownStatus { try left.cancelAll() } == .notFound)
        #expect(operation.isPending)
        try right.cancel(operation)
        #expect(try operation.waitForCompletion(timeout: patience) == .cancelled)
        try left.close()
        #expect(thrownStatus { try left.cancelAll() } == .invalidHandle)
        #expect(thrownStatus { try left.cancelFromThisThread() } == .invalidHandle)
    }

    @Test(
        "a thread cancels what it has started itself; another's operations go on until all are cancelled (e20, e21, test 88)"
    )
    func cancelByThread() throws {
        try withPort(limit: 2, threads: 2) { port, threads in
            let (left, _right) = try Socket.pair()
            try port.associate(left, key: 1)
            let first = IOCP.Operation(capacity: 8)
            let second = IOCP.Operation(capacity: 8)
            try threads[0].perform { _ = try left.receive(first) }
            try threads[1].perform { _ = try left.receive(second) }
            #expect(try left.cancelFromThisThread() == 0)
            #expect(try threads[1].perform { try left.cancelFromThisThread() } == 1)
            try port.expect(second, .cancelled, key: 1)
            #expect(first.isPending)
            #expect(try threads[1].perform { try left.cancelAll() } == 1)
            try port.expect(first, .cancelled, key: 1)
            #expect(try port.staysEmpty())
            _ = _right
        }
    }

    @Test("cancelling through a duplicate reaches the operations of the file object (e21)")
    func cancelThroughDuplicate() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, _right) = try Socket.pair()
        try port.associate(left, key: 1)
        let operations = (0..<10).map { _ in IOCP.Operation(capacity: 8) }
        for operation in operations { try left.receive(operation) }
        #expect(try left.duplicate().cancelAll() == 10)
        var ended = Set<ObjectIdentifier>()
        for _ in operations {
            let packet = try port.next()
            #expect(packet.status == .cancelled && ended.insert(ObjectIdentifier(packet.operation!)).inserted)
        }
        #expect(try port.staysEmpty())
        _ = _right
    }

    @Test("a queued packet is not taken back by a cancellation (e26)")
    func cancelAfterCompletion() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let operation = IOCP.Operation(capacity: 8)
        try left.receive(operation)
        writeRaw("abc", to: right)
        #expect(try operation.waitForCompletion(timeout: patience) == .success)
        #expect(thrownStatus { try left.cancel(operation) } == .notFound)
        try port.expect(operation, bytes: 3)
    }

    @Test(
        "pending reads of a pipe complete in the order of their start; a cancelled one leaves its turn to the next (e26b)"
    )
    func orderOfReads() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (reading, writing) = try Pipe.make()
        try port.associate(reading, key: 1)
        let operations = (0..<3).map { _ in IOCP.Operation(capacity: 4) }
        for operation in operations { try reading.read(operation, start: .eager) }
        try reading.cancel(operations[0])
        try port.expect(operations[0], .cancelled)
        writeRaw("abcd", to: writing)
        try port.expect(operations[1], bytes: 4)
        #expect(operations[1].text(4) == "abcd")
        #expect(operations[2].isPending)
        writeRaw("efgh", to: writing)
        try port.expect(operations[2], bytes: 4)
        #expect(operations[2].text(4) == "efgh")
    }

    @Test("a cancelled write of a full pipe puts nothing more into it (e26b)")
    func cancelledWrite() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (reading, writing) = try Pipe.make()
        try port.associate(writing, key: 1)
        let capacity = Int(fcntl(writing.file.descriptor, pipeCapacityCommand))
        writeRaw(String(repeating: "x", count: capacity), to: writing)
        let operation = IOCP.Operation("must not be seen")
        #expect(try writing.write(operation, start: .eager) == .pending)
        try writing.cancel(operation)
        try port.expect(operation, .cancelled, bytes: 0)
        #expect(readRaw(capacity, from: reading) == String(repeating: "x", count: capacity))
        try writing.close()
        #expect(readRaw(1, from: reading) == "")
    }

    @Test("every kind of pending operation can be cancelled (e23)")
    func cancelEveryKind() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let listener = try Socket.listening(at: .loopback(port: 0))
        let (left, right) = try tcpPair()
        let datagram = try Socket.datagram(at: .loopback(port: 0))
        let (reading, _writing) = try Pipe.make()
        for (key, handle) in [listener, left, datagram, reading].enumerated() as EnumeratedSequence<[IOHandle]> {
            try port.associate(handle, key: UInt(key))
        }
        let group = try BufferGroup(for: port, buffersPerRing: 4, bufferSize: 64)
        let operation = IOCP.Operation(capacity: 1 << 22)
        let starts: [(IOHandle, () throws -> Void)] = [
            (listener, { try listener.accept(operation) }),
            (listener, { try listener.acceptContinuously(operation) }),
            (left, { try left.receive(operation) }),
            (left, { try left.receive(operation, into: 0..<0) }),
            (left, { try left.receive(operation, flags: .waitAll) }),
            (left, { try left.receiveContinuously(operation, from: group) }),
            (left, { try left.receive(operation, into: [IOBuffer(capacity: 8)]) }),
            (datagram, { try datagram.receiveMessage(operation) }),
            (reading, { try reading.read(operation) }),
        ]
        for (index, (handle, start)) in starts.enumerated() {
            for submitsFirst in [false, true] {
                try start()
                if submitsFirst { #expect(try port.staysEmpty(for: .milliseconds(2))) }
                try handle.cancel(operation)
                let packet = try port.next()
                #expect(packet.status == .cancelled && packet.bytes == 0 && !packet.isMore, "start \(index)")
                #expect(packet.operation === operation)
            }
        }
        // A send that has begun: the part that was sent is told.
        try left.send(operation)
        #expect(try port.staysEmpty(for: .milliseconds(5)))
        try left.cancel(operation)
        let packet = try port.next()
        #expect(packet.status == .cancelled)
        #expect(try port.staysEmpty())
        _ = (right, _writing)
    }

    @Test(
        "cancellation against completion: each operation yields one packet, data is neither lost nor doubled (e6, e22)")
    func cancelRace() throws {
        try withPort(limit: 2, threads: 2) { port, threads in
            let (left, right) = try Socket.pair()
            try port.associate(left, key: 1)
            var received = 0
            for round in 0..<2000 {
                let operation = IOCP.Operation(capacity: 8)
                try left.receive(operation, start: round % 2 == 0 ? .eager : .deferred)
                let canceller = threads[0].start { _ = try? left.cancel(operation) }
                let writer = threads[1].start { writeRaw("x", to: right) }
                let packet = try port.next()
                #expect(packet.operation === operation)
                if packet.status == .success { received += packet.bytes } else { #expect(packet.status == .cancelled) }
                try canceller.value()
                try writer.value()
                if packet.status != .success { received += readRaw(8, from: left).utf8.count }
            }
            #expect(received == 2000)
            #expect(try port.staysEmpty())
        }
    }

    // MARK: Close

    @Test(
        "closing the last handle ends its operations with the status of their kind (e27–e31, test 78)",
        arguments: bothStarts)
    func closeByKind(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let operation = IOCP.Operation(capacity: 8)

        let listener = try Socket.listening(at: .loopback(port: 0))
        try port.associate(listener, key: 125)
        try listener.accept(operation, start: start)
        try listener.close()
        try port.expect(operation, .cancelled, bytes: 0, key: 125)

        let (client, server) = try tcpPair()
        try port.associate(client, key: 126)
        try client.receive(operation, start: start)
        try client.close()
        try port.expect(operation, .connectionAborted, bytes: 0, key: 126)
        #expect(operation.status.win32Code == 1236)
        // The peer sees an end at once: no request keeps the connection open.
        #expect(readRaw(1, from: server) == "")

        let (left, _right) = try Socket.pair()
        try port.associate(left, key: 127)
        try left.receive(operation, start: start)
        try left.close()
        try port.expect(operation, .connectionAborted, bytes: 0, key: 127)

        let (reading, _writing) = try Pipe.make()
        try port.associate(reading, key: 128)
        try reading.read(operation, start: start)
        try reading.close()
        try port.expect(operation, .pipeBroken, bytes: 0, key: 128)
        #expect(operation.status.win32Code == 109)

        let (duplex, _other) = try Pipe.makeDuplex()
        try port.associate(duplex, key: 129)
        try duplex.read(operation, start: start)
        try duplex.close()
        try port.expect(operation, .pipeBroken, bytes: 0, key: 129)

        let datagram = try Socket.datagram(at: .loopback(port: 0))
        try port.associate(datagram, key: 130)
        try datagram.receive(operation, start: start)
        try datagram.close()
        try port.expect(operation, .cancelled, bytes: 0, key: 130)
        #expect(try port.staysEmpty())
        _ = (_right, _writing, _other)
    }

    @Test("letting go of the last reference closes, as close does (e29)")
    func closeByRelease() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let operation = IOCP.Operation(capacity: 8)
        var left: Socket?
        let right: Socket
        (left, right) = try Socket.pair()
        try port.associate(left!, key: 1)
        try left!.receive(operation)
        left = nil
        try port.expect(operation, .connectionAborted, key: 1)
        _ = right
    }

    @Test("closing a handle with nothing pending queues nothing (e33, tests 11, 76)")
    func closeWithNothingPending() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, _) = try Socket.pair()
        try port.associate(left, key: 1)
        try left.close()
        #expect(thrownStatus { try left.close() } == .invalidHandle)
        #expect(try port.staysEmpty())
    }

    @Test("closing one of several duplicates ends nothing, in either order; the last one does (e27, tests 76, 77)")
    func closeDuplicates() throws {
        for closesOriginalFirst in [true, false] {
            for startsOnDuplicate in [true, false] {
                let port = try CompletionPort(concurrencyLimit: 1)
                let listener = try Socket.listening(at: .loopback(port: 0))
                try port.associate(listener, key: 125)
                let duplicate = try listener.duplicate()
                let operation = IOCP.Operation()
                try (startsOnDuplicate ? duplicate : listener).accept(operation)
                let (first, second) = closesOriginalFirst ? (listener, duplicate) : (duplicate, listener)
                try first.close()
                #expect(try port.staysEmpty())
                #expect(operation.isPending)
                try second.close()
                try port.expect(operation, .cancelled, bytes: 0, key: 125)
                #expect(try port.staysEmpty())
            }
        }
    }

    @Test("closing the socket that an accept is to fill ends the accept, at the listener's key (e30)")
    func closeAcceptSocket() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let listener = try Socket.listening(at: .loopback(port: 0))
        try port.associate(listener, key: 125)
        let operation = IOCP.Operation()
        for _ in 0..<20 {
            let accepted = try Socket(.stream, family: .ipv4)
            try listener.accept(operation, into: accepted)
            // It is not the socket's own operation (e25).
            #expect(try accepted.cancelFromThisThread() == 0)
            #expect(thrownStatus { try accepted.cancelAll() } == .notFound)
            try accepted.close()
            let packet = try port.next()
            #expect(packet.key == 125 && packet.operation === operation)
            #expect(packet.status == .cancelled || packet.status == .connectionAborted)
        }
        // The listener is none the worse for it.
        try listener.accept(operation)
        let client = try Socket(.stream, family: .ipv4)
        try client.connectAndWait(to: listener.localAddress())
        let packet = try port.next()
        #expect(packet.isSuccess && packet.acceptedSocket != nil)
    }

    @Test("packets that are queued survive their handle (e32, test 74, l.packet-survives-file-close)")
    func packetsSurviveClose() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 77)
        let operation = IOCP.Operation(capacity: 8)
        try left.receive(operation)
        writeRaw("abc", to: right)
        #expect(try operation.waitForCompletion(timeout: patience) == .success)
        try left.close()
        try port.expect(operation, bytes: 3, key: 77)
        #expect(operation.text(3) == "abc")

        let listener = try Socket.listening(at: .loopback(port: 0))
        try port.associate(listener, key: 125)
        let accept = IOCP.Operation(capacity: 8)
        try listener.accept(accept, firstData: 0..<8)
        let client = try Socket(.stream, family: .ipv4)
        try client.connectAndWait(to: listener.localAddress())
        writeRaw("x", to: client)
        #expect(try accept.waitForCompletion(timeout: patience) == .success)
        try listener.close()
        let packet = try port.next()
        #expect(packet.key == 125 && packet.bytes == 1 && packet.acceptedSocket != nil)
    }

    @Test("closing ends many operations, deferred ones too, each once (e6, e29)", arguments: bothStarts)
    func closeMany(start: Start) throws {
        var options = CompletionPort.Options()
        // Fewer than there are operations: some wait for room when the handle is closed.
        options.submissionEntries = 8
        options.completionEntries = 16
        let port = try CompletionPort(concurrencyLimit: 1, options: options)
        let (left, _right) = try Socket.pair()
        try port.associate(left, key: 1)
        _ = try port.dequeue(timeout: .zero)
        var waiting = Set<ObjectIdentifier>()
        let operations = (0..<300).map { _ in IOCP.Operation(capacity: 8) }
        for operation in operations {
            try left.receive(operation, start: start)
            waiting.insert(ObjectIdentifier(operation))
        }
        try left.close()
        for _ in operations {
            let packet = try port.next()
            #expect(packet.status == .connectionAborted && packet.bytes == 0 && packet.key == 1)
            #expect(waiting.remove(ObjectIdentifier(packet.operation!)) != nil)
        }
        #expect(try port.staysEmpty())
        #expect(port.core.snapshot.inFlight == 0)
        _ = _right
    }

    @Test(
        "a handle that another thread closes while operations start on it: each that was started yields one packet (e6)"
    )
    func closeAgainstStart() throws {
        try withPort(limit: 2, threads: 2) { port, threads in
            let rounds = 1500
            for round in 0..<rounds {
                let (left, right) = try Socket.pair()
                try port.associate(left, key: UInt(round))
                let go = Atomic<Bool>(false)
                let start: Start = round % 2 == 0 ? .deferred : .eager
                let starter = threads[0].start {
                    // Half of the time as a thread that runs for the port.
                    if round % 4 < 2 { _ = try port.dequeue(timeout: .zero) }
                    go.store(true, ordering: .releasing)
                    var started = 0
                    while started < 64 {
                        do {
                            try left.receive(IOCP.Operation(capacity: 1), start: start)
                            started += 1
                        } catch let error as PortError {
                            // Closed before the start, or during it.
                            #expect(error.status == .invalidHandle || error.status == .connectionAborted)
                            if error.status == .invalidHandle { break }
                        }
                    }
                    return started
                }
                let closer = threads[1].start {
                    while !go.load(ordering: .acquiring) { sched_yield() }
                    for _ in 0..<(round % 40) { sched_yield() }
                    try left.close()
                }
                let started = try starter.value()
                try closer.value()
                for index in 0..<started {
                    let packet = try port.next()
                    #expect(packet.key == UInt(round), "round \(round), packet \(index) of \(started)")
                    #expect(packet.status == .connectionAborted)
                }
                if round % 100 == 0 {
                    #expect(try port.staysEmpty(for: .milliseconds(5)))
                    #expect(port.core.snapshot.inFlight == 0)
                }
                _ = right
            }
            #expect(try port.staysEmpty())
        }
    }

    @Test("a handle that is closed while its operations complete: each yields one packet (e6, e32)")
    func closeAgainstCompletion() throws {
        try withPort(limit: 3, threads: 2) { port, threads in
            for round in 0..<2000 {
                let (left, right) = try Socket.pair()
                try port.associate(left, key: UInt(round))
                let operations = (0..<3).map { _ in IOCP.Operation(capacity: 1) }
                for operation in operations { try left.receive(operation) }
                let closer = threads[0].start { try left.close() }
                let writer = threads[1].start {
                    unsafe send(right.file.descriptor, "ab", 2, Int32(MSG_NOSIGNAL))
                }
                var seen = Set<ObjectIdentifier>()
                for _ in operations {
                    let packet = try port.next()
                    #expect(packet.key == UInt(round))
                    #expect(packet.status == .success || packet.status == .connectionAborted)
                    #expect(seen.insert(ObjectIdentifier(packet.operation!)).inserted)
                }
                try closer.value()
                _ = try writer.value()
            }
            #expect(try port.staysEmpty())
            #expect(port.core.snapshot.inFlight == 0)
        }
    }

    @Test("descriptor numbers that are used again at once do not mix up files (a4, e27)")
    func descriptorReuse() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        for round in 0..<500 {
            let (left, right) = try Socket.pair()
            try port.associate(left, key: UInt(round))
            let operation = IOCP.Operation(capacity: 4)
            try left.receive(operation)
            try left.close()
            // Very likely the same number, and another file.
            let (next, peer) = try Socket.pair()
            writeRaw("new", to: peer)
            try port.expect(operation, .connectionAborted, bytes: 0, key: UInt(round))
            #expect(readRaw(4, from: next) == "new")
            _ = right
        }
    }

    // In a process of its own: others' ports would keep the monitor awake.
    @Test("cancelled or closed by another thread while its starter computes on and on, it ends all the same (e21, e28)")
    func endsBehindBusyThread() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                for round in 0..<6 { try Self.endBehindBusyThread(round % 3, closes: round < 3) }
            }
        }
    }

    private static func endBehindBusyThread(_ touch: Int, closes: Bool) throws {
        try withPort(limit: 2, threads: 2) { port, threads in
            let (left, right) = try Socket.pair()
            try port.associate(left, key: 1)
            let operations = (0..<3).map { _ in IOCP.Operation(capacity: 8) }
            try threads[0].perform {
                _ = try port.dequeue(timeout: .zero)
                for operation in operations { try left.receive(operation) }
                try port.flush()
            }
            // From here on it is busy, and its ring nobody's but the monitor's, which finds nothing to do and sleeps.
            let waiter = threads[1].waits(on: port)
            var before = -1
            try until("the monitor sleeps") {
                defer { before = Observer.wakeUps.load(ordering: .relaxed) }
                usleep(30_000)
                return Observer.wakeUps.load(ordering: .relaxed) == before
            }
            // What touches the ring from outside.
            if touch == 1 { _ = try? port.depth() }
            if touch == 2 { try left.cancel(operations[1]) }
            if closes { try left.close() } else { try left.cancelAll() }
            try check(try waiter.value()?.status != .success, "a receive has succeeded")
            for (number, operation) in operations.enumerated() {
                let isCancelled = !closes || (touch == 2 && number == 1)
                let status = try operation.waitForCompletion(timeout: patience)
                try check(
                    status == (isCancelled ? .cancelled : .connectionAborted),
                    "receive \(number) ended with \(String(describing: status)); touch \(touch), closes \(closes)")
            }
            _ = right
        }
    }

    // MARK: Threads that exit

    @Test(
        "a receive outlives the thread that started it, and its data comes later (e34, test 89)", arguments: bothStarts)
    func receiveOutlivesThread(start: Start) throws {
        for ties in [false, true] {
            let port = try CompletionPort(concurrencyLimit: 1)
            let (left, right) = try Socket.pair()
            try port.associate(left, key: 1)
            let operation = IOCP.Operation(capacity: 8)
            let thread = ScriptedThread()
            try thread.perform {
                if ties { _ = try port.dequeue(timeout: .zero) }
                _ = try left.receive(operation, start: start)
            }
            thread.exit()
            #expect(try port.staysEmpty())
            #expect(operation.isPending)
            writeRaw("later", to: right)
            try port.expect(operation, bytes: 5, key: 1)
            #expect(operation.text(5) == "later")
            #expect(try port.staysEmpty())
        }
    }

    @Test("the same when it is cancelled later, or its handle closed (e34)")
    func cancelAfterThreadExit() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, _right) = try Socket.pair()
        try port.associate(left, key: 1)
        let operation = IOCP.Operation(capacity: 8)
        for closes in [false, true] {
            let thread = ScriptedThread()
            try thread.perform {
                _ = try port.dequeue(timeout: .zero)
                _ = try left.receive(operation)
            }
            thread.exit()
            #expect(operation.isPending)
            if closes {
                try left.close()
                try port.expect(operation, .connectionAborted)
            } else {
                try left.cancel(operation)
                try port.expect(operation, .cancelled)
            }
        }
        _ = _right
    }

    @Test("accepts outlive the thread that started them, single and continuous ones, with first data or without (e34)")
    func acceptOutlivesThread() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let listener = try Socket.listening(at: .loopback(port: 0))
        let address = try listener.localAddress()
        try port.associate(listener, key: 1)
        func connect() throws -> Socket {
            let client = try Socket(.stream, family: .ipv4)
            try client.connectAndWait(to: address)
            return client
        }
        func onThread(_ body: @escaping @Sendable () throws -> Void) throws {
            let thread = ScriptedThread()
            try thread.perform {
                _ = try port.dequeue(timeout: .zero)
                try body()
                try port.flush()
            }
            thread.exit()
        }
        let single = IOCP.Operation(capacity: 8)
        try onThread { _ = try listener.accept(single) }
        let first = try connect()
        #expect(try port.next().acceptedSocket != nil)
        // With first data: the thread is gone before the connection; a second one between connection and data.
        try onThread { _ = try listener.accept(single, firstData: 0..<8) }
        let second = try connect()
        #expect(try port.staysEmpty())
        writeRaw("data", to: second)
        let packet = try port.next()
        #expect(packet.acceptedSocket != nil && packet.bytes == 4 && single.text(4) == "data")

        let many = IOCP.Operation()
        try onThread { try listener.acceptContinuously(many) }
        for _ in 0..<5 {
            let client = try connect()
            let packet = try port.next()
            #expect(packet.operation === many && packet.isMore && packet.acceptedSocket != nil)
            _ = client
        }
        try listener.cancel(many)
        try port.expect(many, .cancelled)
        #expect(try port.staysEmpty())
        _ = first
    }

    @Test("a write to a full pipe and a send to a full socket outlive the thread that started them (e34)")
    func writeOutlivesThread() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (reading, writing) = try Pipe.make()
        try port.associate(writing, key: 1)
        let capacity = Int(fcntl(writing.file.descriptor, pipeCapacityCommand))
        writeRaw(String(repeating: "x", count: capacity), to: writing)
        let operation = IOCP.Operation("the rest")
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 2)
        let large = IOCP.Operation(capacity: 1 << 20)
        let thread = ScriptedThread()
        try thread.perform {
            _ = try port.dequeue(timeout: .zero)
            _ = try writing.write(operation)
            _ = try left.send(large)
            try port.flush()
        }
        thread.exit()
        #expect(try port.staysEmpty())
        #expect(readRaw(capacity, from: reading).utf8.count == capacity)
        try port.expect(operation, bytes: 8, key: 1)
        #expect(readRaw(100, from: reading) == "the rest")
        var received = 0
        while received < 1 << 20 { received += readRaw(1 << 16, from: right).utf8.count }
        #expect(received == 1 << 20)
        try port.expect(large, bytes: 1 << 20, key: 2)
    }

    @Test("an operation on a handle without a port ends with the thread that started it (e35)", arguments: bothStarts)
    func unassociatedEndsWithThread(start: Start) throws {
        let (left, right) = try Socket.pair()
        let mine = IOCP.Operation(capacity: 8)
        let operation = IOCP.Operation(capacity: 8)
        try left.receive(mine, start: start)
        let thread = ScriptedThread()
        try thread.perform { _ = try left.receive(operation, start: start) }
        #expect(operation.isPending)
        thread.exit()
        #expect(try operation.waitForCompletion(timeout: patience) == .cancelled)
        #expect(operation.bytes == 0)
        // This thread lives, and so does its operation.
        #expect(mine.isPending)
        writeRaw("abc", to: right)
        #expect(try mine.waitForCompletion(timeout: patience) == .success)
        #expect(mine.bytes == 3)
    }

    @Test("associated before its thread exits, the operation goes on and its packet comes to the port (a9, e34)")
    func associatedLate() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        let operation = IOCP.Operation(capacity: 8)
        let thread = ScriptedThread()
        try thread.perform { _ = try left.receive(operation) }
        try port.associate(left, key: 31)
        thread.exit()
        #expect(try port.staysEmpty())
        writeRaw("abc", to: right)
        try port.expect(operation, bytes: 3, key: 31)
    }

    @Test("a cancel that comes late does not end the next start, though that waits for its turn, or for another (e21)")
    func lateCancel() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        let (other, otherPeer) = try Socket.pair()
        for handle in [left, other] { try port.associate(handle, key: 1) }
        let operation = IOCP.Operation(capacity: 1)
        let before = IOCP.Operation(capacity: 1)
        for isLinked in [false, true] {
            try left.receive(operation)
            // As seen by a thread that is about to cancel it, and does so only when all of this has happened.
            let start = try #require(left.file.pendingOperations { _ in true }.first)
            writeRaw("x", to: right)
            try port.expect(operation, bytes: 1, key: 1)
            try other.receive(before)
            if isLinked { try operation.follow(before) }
            try other.receive(operation)
            #expect(!Engine.interrupt(start))
            #expect(operation.isPending)
            writeRaw("yz", to: otherPeer)
            try port.expect(before, bytes: 1, key: 1)
            try port.expect(operation, bytes: 1, key: 1)
        }
    }

}
