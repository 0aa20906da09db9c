import Glibc
import SystemPackage
import Testing

@testable import IOCP

// Rows of the error table whose wrong argument Swift's types rule out (a null handle, an event or a port in the place of
// a file) have no test. Rows a10 and a11 are about completion routines, a12 about other processes.

@Suite("Section A: creation and association")
struct SectionA_AssociationTests {
    // MARK: Creation

    @Test("a port is made alone and holds no packet (c.new)")
    func alone() throws {
        let port = try CompletionPort()
        #expect(try port.dequeue(timeout: .zero) == nil)
        #expect(try port.depth() == 0)
    }

    @Test("the limit is what was asked for, however large (a2)", arguments: [1, 2, 7, 1000, Int(UInt32.max)])
    func limits(limit: Int) throws {
        let port = try CompletionPort(concurrencyLimit: limit)
        #expect(port.concurrencyLimit == limit)
        try port.post(key: 1)
        #expect(try port.next().key == 1)
    }

    @Test("a limit of 0 is the number of processors that the thread may use (a2)")
    func processors() throws {
        let (free, bound) = try SideThread {
            let free = try CompletionPort(concurrencyLimit: 0).concurrencyLimit
            try bindToOneProcessor()
            return (free, try CompletionPort(concurrencyLimit: 0).concurrencyLimit)
        }.join()
        #expect(free >= 1)
        #expect(free <= sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        #expect(bound == 1)
    }

    @Test("a negative limit and no rings are refused with 87")
    func badLimits() {
        #expect(thrownStatus { try CompletionPort(concurrencyLimit: -1) } == .invalidParameter)
        var options = CompletionPort.Options()
        options.rings = 0
        #expect(thrownStatus { try CompletionPort(options: options) } == .invalidParameter)
    }

    @Test("a port is closed once; closing it again does nothing (c.close-port, c.close-port-twice)")
    func close() throws {
        let port = try CompletionPort()
        #expect(port.close())
        #expect(!port.close())
    }

    @Test("a port can be made together with an association (c.associate.null-port-makes-new, a5)")
    func createAndAssociate() throws {
        let (left, right) = try Socket.pair()
        let port = try CompletionPort(associating: left, key: 21, concurrencyLimit: 4)
        #expect(port.concurrencyLimit == 4)
        try right.send(Operation("x"))
        let receive = Operation(capacity: 1)
        try left.receive(receive)
        try port.expect(receive, bytes: 1, key: 21)
    }

    @Test("a port that cannot associate is not made, and leaves nothing behind (mode 3)")
    func createWithoutAssociation() async {
        await #expect(processExitsWith: .success) {
            let (left, _) = try Socket.pair()
            let port = try CompletionPort(associating: left, key: 1)
            let before = openDescriptors()
            for _ in 0..<100 {
                #expect(thrownStatus { try CompletionPort(associating: left, key: 2) } == .invalidParameter)
            }
            // The observer may hold the last for a moment.
            try until("\(before) descriptors are open; \(openDescriptors()) are") { openDescriptors() <= before }
            port.close()
        }
    }

    @Test("an association does not change the limit (c.limit-ignored-on-associate)")
    func limitStays() throws {
        let port = try CompletionPort(concurrencyLimit: 4)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        try port.associate(right, key: 1)
        #expect(port.concurrencyLimit == 4)
        #expect(try port.duplicate().concurrencyLimit == 4)
    }

    // MARK: Association

    @Test("a file object is bound to one port, once: any second time is refused with 87 and the first key stays (a4)")
    func once() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let other = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 11)
        #expect(thrownStatus { try port.associate(left, key: 11) } == .invalidParameter)
        #expect(thrownStatus { try port.associate(left, key: 12) } == .invalidParameter)
        #expect(thrownStatus { try other.associate(left, key: 11) } == .invalidParameter)
        #expect(thrownStatus { try CompletionPort(associating: left, key: 11) } == .invalidParameter)
        try right.send(Operation("four"))
        let receive = Operation(capacity: 9)
        try left.receive(receive)
        try port.expect(receive, bytes: 4, key: 11)
        #expect(try other.dequeue(timeout: .zero) == nil)
    }

    @Test("duplicates share the association, and I/O on any of them goes to the port (a4)")
    func duplicates() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        let early = try left.duplicate()
        try port.associate(left, key: 11)
        let late = try left.duplicate()
        for duplicate in [early, late] {
            #expect(thrownStatus { try port.associate(duplicate, key: 12) } == .invalidParameter)
            try right.send(Operation("four"))
            let receive = Operation(capacity: 9)
            try duplicate.receive(receive)
            try port.expect(receive, bytes: 4, key: 11)
        }
        // The original's end does not end the association.
        try left.close()
        #expect(thrownStatus { try port.associate(late, key: 12) } == .invalidParameter)
        try right.send(Operation("four"))
        let receive = Operation(capacity: 9)
        try early.receive(receive)
        try port.expect(receive, bytes: 4, key: 11)
    }

    @Test(
        "a key is any 64 bits (a5, c.key-zero, c.key-all-bits)", arguments: [0, 1, UInt.max, 1 << 63, 0xdead_beef_0000])
    func keys(key: UInt) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: key)
        try right.send(Operation("x"))
        let receive = Operation(capacity: 1)
        try left.receive(receive)
        try port.expect(receive, bytes: 1, key: key)
    }

    @Test("several handles may have the same key (a5, c.key-reused-by-second-file)")
    func reusedKeys() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 11)
        try port.associate(right, key: 11)
        let send = Operation("abc")
        try right.send(send)
        try port.expect(send, bytes: 3, key: 11)
        let receive = Operation(capacity: 9)
        try left.receive(receive)
        try port.expect(receive, bytes: 3, key: 11)
    }

    @Test("an association lasts as long as the file object: a released descriptor can be bound anew (a6)")
    func newFileObject() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let again = try IOHandle(adopting: left.releaseDescriptor())
        try port.associate(again, key: 2)
        try right.send(Operation("x"))
        let receive = Operation(capacity: 1)
        try again.read(receive)
        try port.expect(receive, bytes: 1, key: 2)
    }

    @Test("associating and closing queue no packet (a7, e33)")
    func noPacket() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, _) = try Socket.pair()
        try port.associate(left, key: 1)
        #expect(try port.staysEmpty())
        try left.close()
        #expect(try port.staysEmpty())
    }

    @Test("associating signals the handle, unless its mode says not to (a8)")
    func signals() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        #expect(!left.isSignaled)
        try port.associate(left, key: 1)
        #expect(left.isSignaled)
        try right.setNotificationModes(.skipSetEventOnHandle)
        try port.associate(right, key: 1)
        #expect(!right.isSignaled)
    }

    @Test(
        "an operation that was pending before the association comes to the port with the later key (a9)",
        arguments: bothStarts)
    func pendingBefore(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        let receive = Operation(capacity: 9)
        #expect(try left.receive(receive, start: start) == .pending)
        #expect(!left.isSignaled)
        try port.associate(left, key: 31)
        #expect(left.isSignaled)
        try right.send(Operation("after"))
        try port.expect(receive, bytes: 5, key: 31)
    }

    @Test("so does one that another, still living thread has started, whatever port that thread is tied to (a9)")
    func pendingBeforeElsewhere() throws {
        let other = try CompletionPort(concurrencyLimit: 1)
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        let receive = Operation(capacity: 9)
        let started = CompletionEvent()
        let done = CompletionEvent()
        let starter = SideThread {
            _ = try other.dequeue(timeout: .zero)
            try left.receive(receive)
            started.set()
            _ = try done.wait(timeout: patience)
        }
        #expect(try started.wait(timeout: patience))
        try port.associate(left, key: 31)
        try right.send(Operation("after"))
        try port.expect(receive, bytes: 5, key: 31)
        #expect(try other.staysEmpty())
        done.set()
        try starter.join()
    }

    @Test("a hundred handles associated while their receives complete lose nothing but what ended before (a9)")
    func associationRaces() throws {
        let port = try CompletionPort(concurrencyLimit: 2)
        var receives: [Operation] = []
        for round in 0..<100 {
            let (left, right) = try Socket.pair()
            let receive = Operation(capacity: 9)
            receives.append(receive)
            try left.receive(receive)
            let sender = SideThread { _ = try right.send(Operation("x"), start: .eager) }
            try port.associate(left, key: UInt(round))
            try sender.join()
            #expect(try receive.waitForCompletion(timeout: patience) == .success)
        }
        // Completed before the association: no packet. After it: one.
        var seen = Set<UInt>()
        while let packet = try port.dequeue(timeout: .milliseconds(200)) {
            #expect(seen.insert(packet.key).inserted)
            #expect(packet.operation === receives[Int(packet.key)])
        }
    }

    @Test("an accept pending before the association is cancelled to the port by the listener's end (a9, e28)")
    func acceptBefore() throws {
        let listener = try Socket.listening(at: .loopback(port: 0))
        let accept = Operation()
        try listener.accept(accept)
        let port = try CompletionPort(concurrencyLimit: 1)
        try port.associate(listener, key: 125)
        try listener.close()
        try port.expect(accept, .cancelled, bytes: 0, key: 125)
        #expect(try port.staysEmpty())
    }

    @Test("of threads that associate one handle at the same time one succeeds, the others see 87 (error table)")
    func racingAssociations() throws {
        let ports = try (0..<4).map { _ in try CompletionPort(concurrencyLimit: 1) }
        for _ in 0..<50 {
            let (left, right) = try Socket.pair()
            let results = try onThreads(4) { number in
                thrownStatus { try ports[number].associate(left, key: UInt(number)) }
            }
            let winner = try #require(results.firstIndex { $0 == nil })
            #expect(results.filter { $0 == nil }.count == 1)
            #expect(results.allSatisfy { $0 == nil || $0 == .invalidParameter })
            try right.send(Operation("x"))
            let receive = Operation(capacity: 1)
            try left.receive(receive)
            try ports[winner].expect(receive, bytes: 1, key: UInt(winner))
        }
    }

    @Test("every kind of handle can be associated and completes to the port (error table, last row)")
    func kinds() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let scratch = try ScratchDirectory()
        let file = try File(scratch.file(), .readWrite, options: .create)
        let (pipe, pipeWriter) = try Pipe.make()
        let (duplex, duplexPeer) = try Pipe.makeDuplex()
        defer { withExtendedLifetime(duplexPeer) {} }
        let slot = try MailSlot(at: .abstract("iocp-kinds-\(getpid())"))
        let datagram = try Socket.datagram(at: .loopback(port: 0))
        let device = try IOHandle(adopting: FileDescriptor.open("/dev/null", .readWrite))
        for (key, handle) in [file, pipe, pipeWriter, duplex, slot, datagram, device].enumerated()
            as EnumeratedSequence<[IOHandle]>
        {
            try port.associate(handle, key: UInt(key))
        }
        let written = Operation("abc")
        try file.write(written)
        try port.expect(written, bytes: 3, key: 0)
        let piped = Operation("abc")
        try pipeWriter.write(piped)
        try port.expect(piped, bytes: 3, key: 2)
        let read = Operation(capacity: 9)
        try pipe.read(read)
        try port.expect(read, bytes: 3, key: 1)
        let null = Operation("abc")
        try device.write(null)
        try port.expect(null, bytes: 3, key: 6)
        for (key, handle) in [(3, duplex), (4, slot), (5, datagram)] as [(UInt, IOHandle)] {
            let pending = Operation(capacity: 1)
            try handle.read(pending)
            try port.flush()
            try handle.cancel(pending)
            try port.expect(pending, .cancelled, key: key)
        }
    }

    // MARK: Errors

    @Test("a handle that was not opened for overlapped I/O is refused with 87 (error table)")
    func synchronousHandles() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let scratch = try ScratchDirectory()
        let file = try File(scratch.file(), .readWrite, options: .create, overlapped: false)
        let socket = try Socket(family: .ipv4, overlapped: false)
        let pipe = try IOHandle(adopting: Pipe.make().reading.releaseDescriptor(), overlapped: false)
        for handle in [file, socket, pipe] {
            #expect(!handle.isOverlapped)
            #expect(thrownStatus { try port.associate(handle, key: 1) } == .invalidParameter)
            #expect(thrownStatus { try CompletionPort(associating: handle, key: 1) } == .invalidParameter)
            #expect(thrownStatus { try handle.setNotificationModes(.skipCompletionPortOnSuccess) } == .invalidParameter)
        }
    }

    @Test("a closed or released handle is refused with 6 (error table)")
    func closedHandles() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try left.close()
        try right.releaseDescriptor().close()
        for handle in [left, right] {
            #expect(thrownStatus { try port.associate(handle, key: 1) } == .invalidHandle)
            #expect(thrownStatus { try CompletionPort(associating: handle, key: 1) } == .invalidHandle)
        }
    }

    @Test("a closed port is refused with 6, and the handle can be associated afterwards (error table)")
    func closedPort() throws {
        let (left, _) = try Socket.pair()
        let closed = try CompletionPort.closed()
        #expect(thrownStatus { try closed.associate(left, key: 1) } == .invalidHandle)
        #expect(thrownStatus { try closed.duplicate() } == .invalidHandle)
        let port = try CompletionPort(concurrencyLimit: 1)
        try port.associate(left, key: 1)
    }

    @Test("a handle of a port that was closed stays bound to it (l.port-closed-reassociate)")
    func boundToClosedPort() throws {
        let (left, _) = try Socket.pair()
        let port = try CompletionPort(concurrencyLimit: 1)
        try port.associate(left, key: 1)
        port.close()
        let other = try CompletionPort(concurrencyLimit: 1)
        #expect(thrownStatus { try other.associate(left, key: 1) } == .invalidParameter)
    }

    @Test("a reference to a port does what its rights say, and no more, 5 otherwise (a13)")
    func rights() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, _) = try Socket.pair()
        let query = try port.duplicate(access: .query)
        let modify = try port.duplicate(access: .modify)
        let nothing = try port.duplicate(access: [])
        var batch = PacketBatch(capacity: 1)
        for weak in [query, nothing] {
            #expect(thrownStatus { try weak.associate(left, key: 1) } == .accessDenied)
            #expect(thrownStatus { try weak.post() } == .accessDenied)
            #expect(thrownStatus { try weak.post(operation: Operation()) } == .accessDenied)
            #expect(thrownStatus { try weak.post(status: .cancelled) } == .accessDenied)
            #expect(thrownStatus { try weak.dequeue(timeout: .zero) as Any } == .accessDenied)
            #expect(thrownStatus { try weak.dequeueAlertably(timeout: .zero) } == .accessDenied)
            do {
                try weak.dequeue(into: &batch, timeout: .zero)
                Issue.record("a batch was dequeued without the right")
            } catch {
                #expect(error.status == .accessDenied)
            }
        }
        #expect(thrownStatus { try modify.depth() } == .accessDenied)
        #expect(thrownStatus { try nothing.depth() } == .accessDenied)
        #expect(thrownStatus { try query.duplicate(access: .all) } == .accessDenied)
        #expect(thrownStatus { try modify.duplicate(access: [.modify, .query]) } == .accessDenied)
        try modify.associate(left, key: 1)
        try modify.post(key: 5)
        #expect(try query.depth() == 1)
        #expect(try modify.dequeue(timeout: .zero)?.key == 5)
    }
}
