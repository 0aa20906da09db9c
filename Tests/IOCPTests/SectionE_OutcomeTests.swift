import Glibc
import SystemPackage
import Testing

@testable import IOCP

@Suite("Section e: what an operation yields")
struct SectionEOutcomeTests {
    /// A file whose name is gone.
    private func scratchFile(_ contents: String = "", overlapped: Bool = true) throws -> File {
        let directory = try ScratchDirectory()
        return try File(directory.write(Array(contents.utf8)), .readWrite, overlapped: overlapped)
    }

    // MARK: The master rule

    @Test("an immediate success is returned and queues exactly one packet (e1, e4, tests 53, 54, m.default.*)")
    func immediateSuccess() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 2)
        let operation = IOCP.Operation("hi")
        #expect(try left.send(operation, start: .eager) == .completed(bytes: 2))
        #expect(operation.status == .success && operation.bytes == 2)
        try port.expect(operation, bytes: 2, key: 2)
        writeRaw("data", to: right)
        try operation.setBuffer(IOBuffer(capacity: 10))
        #expect(try left.receive(operation, start: .eager) == .completed(bytes: 4))
        #expect(operation.status == .success && operation.bytes == 4)
        try port.expect(operation, bytes: 4, key: 2)
        #expect(try port.staysEmpty())

        let (reading, writing) = try Pipe.make()
        try port.associate(reading, key: 3)
        try port.associate(writing, key: 4)
        #expect(try writing.write(operation, from: 0..<3, start: .eager) == .completed(bytes: 3))
        try port.expect(operation, bytes: 3, key: 4)
        #expect(try reading.read(operation, start: .eager) == .completed(bytes: 3))
        try port.expect(operation, bytes: 3, key: 3)

        let file = try scratchFile()
        try port.associate(file, key: 5)
        _ = try file.write(operation, at: 100, from: 0..<7, start: .eager)
        try port.expect(operation, bytes: 7, key: 5)
        #expect(try port.staysEmpty())
    }

    @Test("an immediate error is thrown, queues nothing and leaves the event reset; the operation is free (e1, e5)")
    func immediateError() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (reading, writing) = try Pipe.make()
        try port.associate(reading, key: 1)
        try writing.close()
        let event = CompletionEvent(isSet: true)
        let operation = IOCP.Operation(capacity: 8)
        try operation.signal(event)
        #expect(thrownStatus { try reading.read(operation, start: .eager) } == .pipeBroken)
        #expect(!event.isSet)
        #expect(!reading.isSignaled || reading.file.association != nil)
        #expect(!operation.isPending)
        #expect(try port.staysEmpty())
        // Free for the next start, which fares as well.
        #expect(thrownStatus { try reading.read(operation, start: .eager) } == .pipeBroken)
        try operation.setBuffer(nil)

        let (other, receiver) = try Pipe.make()
        try port.associate(receiver, key: 2)
        try other.close()
        #expect(thrownStatus { try receiver.write(IOCP.Operation("x"), start: .eager) } == .pipeClosing)
        #expect(try port.staysEmpty())
    }

    @Test("the same errors of a deferred start come as one packet each (e6, e7)")
    func deferredError() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (reading, writing) = try Pipe.make()
        try port.associate(reading, key: 1)
        try writing.close()
        let event = CompletionEvent(isSet: true)
        let operation = IOCP.Operation(capacity: 8)
        try operation.signal(event)
        #expect(try reading.read(operation) == .pending)
        try port.expect(operation, .pipeBroken, bytes: 0, key: 1)
        #expect(event.isSet)
        #expect(try port.staysEmpty())
    }

    @Test("an operation that pends, pends; its end comes by one packet, an error too (e1, e6)", arguments: bothStarts)
    func pendedOperation(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (reading, writing) = try Pipe.make()
        try port.associate(reading, key: 1)
        let operation = IOCP.Operation(capacity: 8)
        #expect(try reading.read(operation, start: start) == .pending)
        #expect(operation.status == .pending && operation.bytes == 0)
        #expect(try port.staysEmpty())
        writeRaw("abc", to: writing)
        try port.expect(operation, bytes: 3, key: 1)
        #expect(try reading.read(operation, start: start) == .pending)
        try writing.close()
        try port.expect(operation, .pipeBroken, bytes: 0, key: 1)
        #expect(operation.status == .pipeBroken)
        #expect(try port.staysEmpty())
    }

    @Test(
        "the status is there when the operation completes, before its packet is dequeued (b14)", arguments: bothStarts)
    func statusBeforePacket(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let operation = IOCP.Operation(capacity: 8)
        try left.receive(operation, start: start)
        #expect(operation.isPending)
        writeRaw("hello", to: right)
        #expect(try operation.waitForCompletion(timeout: patience) == .success)
        #expect(operation.bytes == 5)
        try port.expect(operation, bytes: 5)
    }

    @Test("an operation in flight cannot be started, given a buffer or an event (f8)")
    func secondStart() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 1)
        let operation = IOCP.Operation(capacity: 8)
        try left.receive(operation)
        for start in bothStarts {
            #expect(thrownStatus { try right.receive(operation, start: start) } == .invalidParameter)
        }
        #expect(thrownStatus { try operation.setBuffer(nil) } == .invalidParameter)
        #expect(thrownStatus { try operation.signal(nil) } == .invalidParameter)
        writeRaw("x", to: right)
        try port.expect(operation, bytes: 1)
        #expect(try port.staysEmpty())
    }

    @Test("a truncated message is a warning: no error of the call, and a packet with the bytes that fit (e5, e14, e19)")
    func warning() throws {
        for skips in [false, true] {
            for start in bothStarts {
                let port = try CompletionPort(concurrencyLimit: 1)
                let (left, right) = try Socket.pair(.datagram)
                try port.associate(left, key: 2)
                if skips { try left.setNotificationModes(.skipCompletionPortOnSuccess) }
                let event = CompletionEvent()
                let operation = IOCP.Operation(capacity: 2)
                try operation.signal(event)
                writeRaw("abcdef", to: right)
                writeRaw("gh", to: right)
                #expect(try left.receive(operation, start: start) == .pending)
                try port.expect(operation, .bufferOverflow, bytes: 2, key: 2)
                #expect(event.isSet)
                let outcome = try left.receive(operation, start: start)
                if start == .eager && skips {
                    #expect(outcome == .completed(bytes: 2))
                    #expect(try port.staysEmpty())
                } else {
                    try port.expect(operation, bytes: 2)
                }
                #expect(operation.buffer!.string(in: 0..<2) == "gh")
            }
        }
    }

    @Test("the end of a file is reported by packet, however it was started (g3)", arguments: bothStarts)
    func endOfFile(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let file = try scratchFile("abc")
        try port.associate(file, key: 1)
        try file.setNotificationModes(.skipCompletionPortOnSuccess)
        let operation = IOCP.Operation(capacity: 8)
        #expect(try file.read(operation, at: 3, start: start) == .pending)
        try port.expect(operation, .endOfFile, bytes: 0)
    }

    @Test("a start on a port where another thread sleeps keeps to the same rules (e1, e13)")
    func eagerWhileAnotherThreadWaits() throws {
        try withPort(limit: 1, threads: 1) { port, threads in
            let (left, right) = try Socket.pair()
            let (reading, writing) = try Pipe.make()
            try port.associate(left, key: 1)
            try port.associate(reading, key: 2)
            try left.setNotificationModes(.skipCompletionPortOnSuccess)
            try writing.close()
            let waiting = threads[0].waits(on: port)
            for _ in 0..<200 {
                #expect(try left.send(IOCP.Operation("x"), start: .eager) == .completed(bytes: 1))
                #expect(readRaw(1, from: right) == "x")
                #expect(thrownStatus { try reading.read(IOCP.Operation(capacity: 1), start: .eager) } == .pipeBroken)
            }
            #expect(!waiting.isDone)
        }
    }

    // MARK: Skipping

    @Test("skip mode: an immediate success queues nothing (e13, tests 68, 70, m.skip-port.*)")
    func skipOnSuccess() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 2)
        try left.setNotificationModes(.skipCompletionPortOnSuccess)
        let operation = IOCP.Operation(capacity: 10)
        #expect(try left.send(operation, count: 2, start: .eager) == .completed(bytes: 2))
        #expect(try port.staysEmpty())
        writeRaw("data", to: right)
        #expect(try left.receive(operation, start: .eager) == .completed(bytes: 4))
        #expect(operation.status == .success && operation.bytes == 4)
        #expect(try port.staysEmpty())

        let (reading, writing) = try Pipe.make()
        for pipe in [reading, writing] {
            try port.associate(pipe, key: 3)
            try pipe.setNotificationModes(.skipCompletionPortOnSuccess)
        }
        #expect(try writing.write(operation, from: 0..<3, start: .eager) == .completed(bytes: 3))
        #expect(try reading.read(operation, start: .eager) == .completed(bytes: 3))
        #expect(try port.staysEmpty())
        // The graceful end is a success (m.skip-port.sync-eof).
        try right.close()
        #expect(readRaw(0, from: left) == "")
        _ = try? left.receive(operation, start: .eager)
    }

    @Test("skip mode: what did not complete at once queues its packet, errors too (e12, e15, test 67, m.skip-port.*)")
    func skipDoesNotCoverPended() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try tcpPair()
        try port.associate(left, key: 2)
        try left.setNotificationModes(.skipCompletionPortOnSuccess)
        let operation = IOCP.Operation(capacity: 10)
        #expect(try left.receive(operation, start: .eager) == .pending)
        writeRaw("data", to: right)
        try port.expect(operation, bytes: 4, key: 2)
        // A deferred start never knows: always a packet.
        writeRaw("more", to: right)
        #expect(try left.receive(operation) == .pending)
        try port.expect(operation, bytes: 4)
        // Cancelled.
        #expect(try left.receive(operation, start: .eager) == .pending)
        try left.cancel(operation)
        try port.expect(operation, .cancelled, bytes: 0, key: 2)
        // Reset by the peer, which has left something unread.
        #expect(try left.send(IOCP.Operation("hi"), start: .eager) == .completed(bytes: 2))
        #expect(try left.receive(operation, start: .eager) == .pending)
        try right.close()
        try port.expect(operation, .connectionReset, bytes: 0, key: 2)
        #expect(try port.staysEmpty())
    }

    @Test("skip mode: a graceful end that is there already is an immediate success of 0 bytes (m.skip-port.sync-eof)")
    func skipGracefulEnd() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 2)
        try left.setNotificationModes(.skipCompletionPortOnSuccess)
        try right.close()
        #expect(try left.receive(IOCP.Operation(capacity: 4), start: .eager) == .completed(bytes: 0))
        #expect(try port.staysEmpty())
    }

    @Test(
        "skip mode: a connect always queues its packet, made or refused (e12, e15, tests 64, 67)", arguments: bothStarts
    )
    func skipAndConnect(start: Start) throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let listener = try Socket.listening(at: .loopback(port: 0))
        let address = try listener.localAddress()
        let client = try Socket(.stream, family: .ipv4)
        try port.associate(client, key: 3)
        try client.setNotificationModes(.skipCompletionPortOnSuccess)
        let operation = IOCP.Operation()
        #expect(try client.connect(operation, to: address, start: start) == .pending)
        try port.expect(operation, bytes: 0, key: 3)
        // And an end of the connection.
        #expect(try client.disconnect(operation, start: start) == .pending)
        try port.expect(operation, bytes: 0, key: 3)
        try listener.close()

        let unlucky = try Socket(.stream, family: .ipv4)
        try port.associate(unlucky, key: 4)
        try unlucky.setNotificationModes(.skipCompletionPortOnSuccess)
        #expect(try unlucky.connect(operation, to: address, start: start) == .pending)
        try port.expect(operation, .connectionRefused, bytes: 0, key: 4)
        #expect(try port.staysEmpty())
    }

    @Test("set modes stay set, whatever is written, before and after the association (e16, e18, test 71)")
    func modesAreSticky() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try left.setNotificationModes(.skipCompletionPortOnSuccess)
        try port.associate(left, key: 1)
        try left.setNotificationModes([])
        #expect(left.notificationModes == .skipCompletionPortOnSuccess)
        writeRaw("data", to: right)
        #expect(try left.receive(IOCP.Operation(capacity: 4), start: .eager) == .completed(bytes: 4))
        #expect(try port.staysEmpty())
        try left.setNotificationModes(.skipSetEventOnHandle)
        #expect(left.notificationModes == [.skipCompletionPortOnSuccess, .skipSetEventOnHandle])
        // They are the file object's: a duplicate has them.
        #expect(try left.duplicate().notificationModes == left.notificationModes)
    }

    @Test("unknown modes, handles that are not overlapped and closed handles are refused (e17, test 72, m.*)")
    func modesErrors() throws {
        let (left, _) = try Socket.pair()
        for bit in 2..<8 {
            #expect(thrownStatus { try left.setNotificationModes(.init(rawValue: 1 << bit)) } == .invalidParameter)
        }
        #expect(thrownStatus { try left.setNotificationModes(.init(rawValue: 0x81)) } == .invalidParameter)
        #expect(left.notificationModes == [])
        let file = try scratchFile(overlapped: false)
        #expect(thrownStatus { try file.setNotificationModes(.skipCompletionPortOnSuccess) } == .invalidParameter)
        try left.close()
        #expect(thrownStatus { try left.setNotificationModes(.skipCompletionPortOnSuccess) } == .invalidHandle)
    }

    // MARK: Events and signals

    @Test("the event is reset when the operation starts and set when it ends, and the packet comes too (e2, e11, h.*)")
    func eventAndPacket() throws {
        for start in bothStarts {
            let port = try CompletionPort(concurrencyLimit: 1)
            let (reading, writing) = try Pipe.make()
            try reading.setNotificationModes(.skipSetEventOnHandle)
            try port.associate(reading, key: 5)
            let event = CompletionEvent(isSet: true)
            let operation = IOCP.Operation(capacity: 4)
            try operation.signal(event)
            try reading.read(operation, start: start)
            #expect(!event.isSet)
            writeRaw("abcd", to: writing)
            #expect(try event.wait(timeout: patience))
            #expect(operation.status == .success)
            try port.expect(operation, bytes: 4, key: 5)
            #expect(event.isSet)
            #expect(!reading.isSignaled)
        }
    }

    @Test("an event of the operation's own leaves the handle's alone (e10, h.event-given-handle-signal)")
    func eventInsteadOfHandleSignal() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (reading, writing) = try Pipe.make()
        try port.associate(reading, key: 5)
        #expect(reading.isSignaled, "the association signals the handle (a8)")
        let operation = IOCP.Operation(capacity: 4)
        try operation.signal(CompletionEvent())
        try reading.read(operation)
        writeRaw("abcd", to: writing)
        try port.expect(operation, bytes: 4)
        #expect(!reading.isSignaled)
    }

    @Test(
        "without an event the handle is reset by the start and signaled by the end (a8, e10, m.handle-signal.default)")
    func handleSignal() throws {
        for start in bothStarts {
            let port = try CompletionPort(concurrencyLimit: 1)
            let (reading, writing) = try Pipe.make()
            #expect(!reading.isSignaled)
            try port.associate(reading, key: 4)
            #expect(reading.isSignaled)
            let operation = IOCP.Operation(capacity: 4)
            try reading.read(operation, start: start)
            #expect(!reading.isSignaled)
            #expect(try !reading.waitUntilSignaled(timeout: .milliseconds(10)))
            writeRaw("abcd", to: writing)
            #expect(try reading.waitUntilSignaled(timeout: patience))
            #expect(operation.status == .success)
            try port.expect(operation, bytes: 4, key: 4)
            #expect(reading.isSignaled)
        }
    }

    @Test(
        "with skipSetEventOnHandle nothing signals the handle; an event is set all the same (a8, e10, m.*.skip-set-event)"
    )
    func skipSetEventOnHandle() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (reading, writing) = try Pipe.make()
        try reading.setNotificationModes(.skipSetEventOnHandle)
        try port.associate(reading, key: 4)
        #expect(!reading.isSignaled)
        let operation = IOCP.Operation(capacity: 4)
        for start in bothStarts {
            try reading.read(operation, start: start)
            writeRaw("abcd", to: writing)
            try port.expect(operation, bytes: 4, key: 4)
            #expect(!reading.isSignaled)
        }
        // Completed at once, too.
        writeRaw("abcd", to: writing)
        #expect(try reading.read(operation, start: .eager) == .completed(bytes: 4))
        #expect(!reading.isSignaled)
        try port.expect(operation, bytes: 4)
        let event = CompletionEvent()
        try operation.signal(event)
        try reading.read(operation)
        writeRaw("abcd", to: writing)
        try port.expect(operation, bytes: 4)
        #expect(event.isSet)
    }

    @Test("a handle without a port is signaled by its operations (e10)", arguments: bothStarts)
    func handleSignalWithoutPort(start: Start) throws {
        let (reading, writing) = try Pipe.make()
        let operation = IOCP.Operation(capacity: 4)
        for _ in 0..<20 {
            #expect(try reading.read(operation, start: start) == .pending)
            #expect(!reading.isSignaled)
            writeRaw("abcd", to: writing)
            #expect(try reading.waitUntilSignaled(timeout: patience))
            #expect(operation.status == .success && operation.bytes == 4)
        }
        writeRaw("ab", to: writing)
        if start == .eager {
            #expect(try reading.read(operation, start: start) == .completed(bytes: 2))
            #expect(reading.isSignaled)
        }
    }

    // MARK: Suppression

    @Test("an operation whose packet is suppressed sets its event and queues nothing (e8, test 66, h.lowbit.*)")
    func suppression() throws {
        for start in bothStarts {
            let port = try CompletionPort(concurrencyLimit: 1)
            let (left, right) = try Socket.pair()
            try port.associate(left, key: 6)
            let event = CompletionEvent()
            let operation = IOCP.Operation(capacity: 4)
            try operation.signal(event, suppressesPacket: true)
            // Pended.
            #expect(try left.receive(operation, start: start) == .pending)
            writeRaw("x", to: right)
            #expect(try event.wait(timeout: patience))
            #expect(operation.status == .success && operation.bytes == 1)
            #expect(try operation.waitForCompletion() == .success)
            #expect(try port.staysEmpty())
            // At once.
            let outcome = try left.send(operation, count: 2, start: start)
            #expect(outcome == (start == .eager ? .completed(bytes: 2) : .pending))
            #expect(try event.wait(timeout: patience))
            #expect(try port.staysEmpty())
            // Cancelled.
            try left.receive(operation, start: start)
            #expect(!event.isSet)
            try left.cancel(operation)
            #expect(try event.wait(timeout: patience))
            #expect(operation.status == .cancelled && operation.bytes == 0)
            #expect(try port.staysEmpty())
            // Closed.
            try left.receive(operation, start: start)
            try left.close()
            #expect(try event.wait(timeout: patience))
            #expect(operation.status == .connectionAborted)
            #expect(try port.staysEmpty())
            // The suppression is the operation's, until it is taken back.
            try operation.signal(nil)
            try port.associate(right, key: 7)
            try right.receive(operation, start: .deferred)
            try port.expect(operation, bytes: 2, key: 7)
        }
    }

    @Test("a suppressed connect and disconnect queue nothing (e8, tests 66, 79)")
    func suppressedConnect() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let listener = try Socket.listening(at: .loopback(port: 0))
        let client = try Socket(.stream, family: .ipv4)
        try port.associate(client, key: 3)
        let event = CompletionEvent()
        let operation = IOCP.Operation()
        try operation.signal(event, suppressesPacket: true)
        try client.connect(operation, to: listener.localAddress(), start: .eager)
        #expect(try event.wait(timeout: patience))
        #expect(operation.status == .success)
        try client.disconnect(operation)
        #expect(try event.wait(timeout: patience))
        #expect(operation.status == .success)
        #expect(try port.staysEmpty())
    }

    @Test("suppressing the packet without an event is refused (e8)")
    func suppressionNeedsEvent() {
        #expect(thrownStatus { try IOCP.Operation().signal(nil, suppressesPacket: true) } == .invalidParameter)
    }

    // MARK: Exactly once

    @Test("many operations of both starts, some failing: each yields one packet or one thrown error (e6)")
    func exactlyOnce() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair(.datagram)
        try port.associate(left, key: 1)
        var expected: [ObjectIdentifier: Int] = [:]
        var operations: [IOCP.Operation] = []
        for index in 0..<600 {
            let operation = IOCP.Operation(capacity: 4)
            operations.append(operation)
            // As many messages as receives in the end; some find one and some wait, some are cut short.
            let isEager = index % 3 == 0
            let sendsFirst = index % 2 == 0
            if sendsFirst { writeRaw(index % 5 == 0 ? "too long" : "ok", to: right) }
            try left.receive(operation, start: isEager ? .eager : .deferred)
            if !sendsFirst { writeRaw("ok", to: right) }
            expected[ObjectIdentifier(operation), default: 0] += 1
        }
        var seen: [ObjectIdentifier: Int] = [:]
        for _ in 0..<600 {
            let packet = try port.next()
            #expect(packet.status == .success || packet.status == .bufferOverflow)
            seen[ObjectIdentifier(packet.operation!), default: 0] += 1
        }
        #expect(seen == expected)
        #expect(try port.staysEmpty())
    }
}
