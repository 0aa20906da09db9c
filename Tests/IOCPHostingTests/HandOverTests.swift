import Glibc
import IOCP
import IOCPHosting
import SystemPackage
import Testing

@Suite("Operations on bound handles", .timeLimit(.minutes(2)))
struct HandOverTests {
    @Test("109: success, immediate or not, is handed over once with 0", arguments: [Start.deferred, .eager])
    func success(_ start: Start) throws {
        let (host, runtime) = try hosted()
        let (near, far) = try Socket.pair()
        try host.bind(nil, near)
        try host.bind(nil, far)
        let receiving = try Block(host)
        let sending = try Block(host)
        try near.receive(receiving.overlapped, into: receiving.buffer, start: start)
        #expect(receiving.overlapped.status == .pending)
        let outcome = try far.send(sending.overlapped, from: sending.fill("hello"), start: start)
        #expect(outcome == (start == .eager ? .completed(bytes: 5) : .pending))
        let told = try runtime.waitFor(2)
        #expect(Set(told.map(\.overlapped)) == [receiving.address, sending.address])
        #expect(told.allSatisfy { $0.error == 0 && $0.bytes == 5 })
        #expect(receiving.text(5) == "hello")
        #expect(receiving.overlapped.status == .success && receiving.overlapped.bytes == 5)
        #expect(staysTrue { runtime.all.count == 2 })
        host.shutDown()
    }

    @Test("109: a read out of the page cache is handed over once; never where the handle skips it, and nothing is owed")
    func cachedRead() throws {
        let (host, runtime) = try hosted()
        let file = try scratchFile(Array("0123456789".utf8))
        try host.bind(nil, file)
        let block = try Block(host, capacity: 4)
        for count in 1...3 {
            block.overlapped.offset = UInt64(count)
            try file.read(block.overlapped, into: block.buffer, start: .eager)
            #expect(try runtime.waitFor(count).last == Told(error: 0, bytes: 4, overlapped: block.address))
            #expect(block.text(4) == ["1234", "2345", "3456"][count - 1])
        }
        try file.setNotificationModes(.skipCompletionPortOnSuccess)
        let outcome = try file.read(block.overlapped, into: block.buffer, start: .eager)
        if outcome == .completed(bytes: 4) {
            #expect(staysTrue { runtime.all.count == 3 })
        } else {
            // The page has gone from the cache, or the file system has none to look into.
            _ = try runtime.waitFor(4)
        }
        #expect(block.overlapped.status == .success && block.overlapped.bytes == 4)
        try until("nothing is owed") { host.statistics.owed == 0 }
        host.shutDown()
    }

    @Test("109: a failed operation is handed over once, with its Win32 code (i1)", arguments: [Start.deferred, .eager])
    func failure(_ start: Start) throws {
        let (host, runtime) = try hosted()
        let (reading, writing) = try Pipe.make()
        try host.bind(nil, reading)
        let block = try Block(host)
        // Cancelled.
        try reading.read(block.overlapped, into: block.buffer, start: start)
        try reading.cancel(block.overlapped)
        #expect(try runtime.waitFor(1).last == Told(error: 995, bytes: 0, overlapped: block.address))
        #expect(block.overlapped.status == .cancelled)
        #expect(thrownCode { try reading.cancel(block.overlapped) } == 1168)
        // The other end goes.
        try reading.read(block.overlapped, into: block.buffer, start: start)
        try writing.close()
        #expect(try runtime.waitFor(2).last == Told(error: 109, bytes: 0, overlapped: block.address))
        // At once: thrown by an eager start, which queues nothing and leaves the OVERLAPPED pending (e3); told if deferred.
        let code = thrownCode { try reading.read(block.overlapped, into: block.buffer, start: start) }
        if start == .eager {
            #expect(code == 109)
            #expect(block.overlapped.status == .pending)
            #expect(staysTrue { runtime.all.count == 2 })
        } else {
            #expect(code == 0)
            #expect(try runtime.waitFor(3).last == Told(error: 109, bytes: 0, overlapped: block.address))
        }
        try until("nothing is owed") { host.statistics.owed == 0 }
        host.shutDown()
    }

    @Test("a warning is handed over with its bytes (234), the end of a file with 38")
    func warnings() throws {
        let (host, runtime) = try hosted()
        let (near, far) = try Socket.pair(.datagram)
        try host.bind(nil, near)
        let block = try Block(host, capacity: 4)
        try near.receive(block.overlapped, into: block.buffer)
        try writeRaw("0123456789", to: far)
        #expect(try runtime.waitFor(1).last == Told(error: 234, bytes: 4, overlapped: block.address))
        #expect(block.overlapped.status == .bufferOverflow && block.overlapped.bytes == 4)
        let file = try scratchFile(Array("abc".utf8))
        try host.bind(nil, file)
        block.overlapped.offset = 3
        try file.read(block.overlapped, into: block.buffer)
        #expect(try runtime.waitFor(2).last == Told(error: 38, bytes: 0, overlapped: block.address))
        host.shutDown()
    }

    @Test("Offset and OffsetHigh say where, all ones append (g2); too far is 87")
    func offsets() throws {
        let (host, runtime) = try hosted()
        let file = try scratchFile(Array("0123456789".utf8))
        try host.bind(nil, file)
        let block = try Block(host, capacity: 4)
        block.overlapped.offset = 3
        try file.read(block.overlapped, into: block.buffer)
        _ = try runtime.waitFor(1)
        #expect(block.text(4) == "3456")
        block.overlapped.offset = .max
        try file.write(block.overlapped, from: block.fill("tail"))
        _ = try runtime.waitFor(2)
        #expect(try file.length() == 14)
        block.overlapped.offset = 1 << 33
        try file.write(block.overlapped, from: block.fill("far"))
        _ = try runtime.waitFor(3)
        #expect(try file.length() == 1 << 33 + 3)
        block.overlapped.offset = 1 << 63
        #expect(thrownCode { try file.read(block.overlapped, into: block.buffer) } == 87)
        #expect(throws: Never.self) {
            block.overlapped.offset = 0; try file.read(block.overlapped, into: block.buffer)
        }
        _ = try runtime.waitFor(4)
        host.shutDown()
    }

    @Test("hEvent is reset at the start and set at the end, beside the packet (e2, e11)")
    func event() throws {
        let (host, runtime) = try hosted()
        let (reading, writing) = try Pipe.make()
        try host.bind(nil, reading)
        let event = CompletionEvent(isSet: true)
        let handle = try HostHandle(event)
        let block = try Block(host)
        block.overlapped.signal(handle)
        try reading.read(block.overlapped, into: block.buffer)
        #expect(!event.isSet)
        try writeRaw("x", to: writing)
        #expect(try event.wait(timeout: patience))
        #expect(try runtime.waitFor(1).count == 1)
        try handle.close()
        #expect(thrownCode { try reading.read(block.overlapped, into: block.buffer) } == 6)
        #expect(
            thrownCode {
                block.overlapped.event = 1; return try reading.read(block.overlapped, into: block.buffer)
            } == 6)
        #expect(thrownCode { try handle.close() } == 6)
        host.shutDown()
    }

    @Test("the low bit of hEvent: no packet, and the memory may go once the event is set (e8)")
    func suppressed() throws {
        let (host, runtime) = try hosted()
        let (near, far) = try Socket.pair()
        try host.bind(nil, near)
        let event = CompletionEvent()
        let handle = try HostHandle(event)
        for round in 0..<200 {
            let block = try Block(host)
            block.overlapped.signal(handle, suppressesPacket: true)
            try near.receive(block.overlapped, into: block.buffer)
            if round % 2 == 0 { try writeRaw("x", to: far) } else { try? near.cancel(block.overlapped) }
            #expect(try event.wait(timeout: patience))
            #expect(block.overlapped.status != .pending)
        }
        #expect(runtime.all.isEmpty)
        #expect(host.statistics.owed == 0)
        host.shutDown()
    }

    @Test("an immediate success on a handle that skips packets is not handed over; a pended one is (e12, e13)")
    func skipping() throws {
        let (host, runtime) = try hosted()
        let (near, far) = try Socket.pair()
        try near.setNotificationModes(.skipCompletionPortOnSuccess)
        try host.bind(nil, near)
        let block = try Block(host)
        try writeRaw("abc", to: far)
        #expect(
            try near.receive(block.overlapped, into: block.buffer, start: .eager) == .completed(bytes: 3))
        #expect(block.overlapped.status == .success && block.overlapped.bytes == 3)
        #expect(staysTrue { runtime.all.isEmpty })
        #expect(host.statistics.owed == 0)
        #expect(try near.receive(block.overlapped, into: block.buffer, start: .eager) == .pending)
        try writeRaw("de", to: far)
        #expect(try runtime.waitFor(1) == [Told(error: 0, bytes: 2, overlapped: block.address)])
        host.shutDown()
    }

    @Test("a9: what was started before the bind is handed over; without a bind nothing is")
    func boundLater() throws {
        let (host, runtime) = try hosted()
        let (near, far) = try Socket.pair()
        let block = try Block(host)
        try near.receive(block.overlapped, into: block.buffer)
        try host.bind(nil, near)
        #expect(host.statistics.owed == 1)
        try writeRaw("x", to: far)
        #expect(try runtime.waitFor(1) == [Told(error: 0, bytes: 1, overlapped: block.address)])
        let event = CompletionEvent()
        let handle = try HostHandle(event)
        block.overlapped.signal(handle)
        try far.receive(block.overlapped, into: block.buffer)
        try writeRaw("y", to: near)
        #expect(try event.wait(timeout: patience))
        #expect(staysTrue { runtime.all.count == 1 })
        try handle.close()
        host.shutDown()
    }

    @Test("accept puts the connection into the socket that was given, with its first data if asked for (g32, g33)")
    func accept() throws {
        let (host, runtime) = try hosted()
        let listener = try Socket.listening(at: .loopback(port: 0))
        try host.bind(nil, listener)
        for withData in [false, true] {
            let target = try Socket(family: .ipv4)
            let block = try Block(host)
            let firstData = withData ? block.buffer : UnsafeMutableRawBufferPointer(start: nil, count: 0)
            let before = runtime.all.count
            try listener.accept(block.overlapped, into: target, firstData: firstData)
            let client = try Socket(family: .ipv4)
            try client.connectAndWait(to: listener.localAddress())
            if withData { try writeRaw("first", to: client) }
            let told = try runtime.waitFor(before + 1).last
            #expect(told == Told(error: 0, bytes: withData ? 5 : 0, overlapped: block.address))
            #expect(try target.remoteAddress() == client.localAddress())
            if withData { #expect(block.text(5) == "first") }
            // The connection is the target's, to be bound and used.
            try host.bind(nil, target)
            try target.send(block.overlapped, from: block.fill("welcome"))
            _ = try runtime.waitFor(before + 2)
            var room = [UInt8](repeating: 0, count: 7)
            #expect(Glibc.recv(client.descriptor.rawValue, &room, 7, Int32(MSG_WAITALL)) == 7)
        }
        host.shutDown()
    }

    @Test("closing the socket that waits, or the listener, ends the accept with 995 (e28, e30)")
    func acceptEnds() throws {
        let (host, runtime) = try hosted()
        let listener = try Socket.listening(at: .loopback(port: 0))
        try host.bind(nil, listener)
        let block = try Block(host)
        let target = try Socket(family: .ipv4)
        try listener.accept(block.overlapped, into: target)
        let second = try Block(host)
        #expect(thrownCode { try listener.accept(second.overlapped, into: target) } == 87)
        try target.close()
        #expect(try runtime.waitFor(1).last == Told(error: 995, bytes: 0, overlapped: block.address))
        #expect(thrownCode { try listener.accept(block.overlapped, into: target) } == 6)
        let other = try Socket(family: .ipv4)
        try listener.accept(block.overlapped, into: other)
        try listener.close()
        #expect(try runtime.waitFor(2).last == Told(error: 995, bytes: 0, overlapped: block.address))
        try until("nothing is owed") { host.statistics.owed == 0 }
        // It was let go of: it can be connected.
        #expect(thrownCode { try other.close() } == 0)
        host.shutDown()
    }

    @Test("an operation may be started again from its completion, and its memory freed there")
    func fromCompletion() throws {
        let box = Protected<[UInt: Block]>([:])
        let rounds = Protected(0)
        let (near, far) = try Socket.pair()
        let (host, _) = try hosted { _ in
        } _: { (told: Told) throws(HResult) in
            let block = box.withLock { $0[told.overlapped]! }
            let count = rounds.withLock { count in
                count += 1
                return count
            }
            if count >= 100 {
                box.withLock { $0[told.overlapped] = nil }
                return
            }
            do {
                try near.receive(block.overlapped, into: block.buffer)
                try writeRaw("x", to: far)
            } catch {
                Issue.record(error)
            }
        }
        try host.bind(nil, near)
        do {
            let block = try Block(host)
            box.withLock { $0[block.address] = block }
            try near.receive(block.overlapped, into: block.buffer)
        }
        try writeRaw("x", to: far)
        try until("the block is freed") { box.withLock { $0.isEmpty } }
        #expect(rounds.withLock { $0 } == 100)
        host.shutDown()
    }

    @Test("a plain operation on a bound handle is not the runtime's: nothing is handed over")
    func plainOperation() throws {
        let (host, runtime) = try hosted()
        let (near, far) = try Socket.pair()
        try host.bind(nil, near)
        let operation = Operation(capacity: 8)
        try near.receive(operation)
        try writeRaw("x", to: far)
        #expect(try operation.waitForCompletion(timeout: patience) == .success)
        #expect(staysTrue { runtime.all.isEmpty })
        host.shutDown()
    }
}
