import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP

/// How a thread ends.
enum ThreadEnd: String, CaseIterable, Sendable, CustomTestStringConvertible {
    case returns, exits, isCancelled

    var testDescription: String { rawValue }
}

/// Runs a thread until it has ended in that way, after the body.
func onThread(ending end: ThreadEnd, _ body: @escaping @Sendable () throws -> Void) throws {
    final class Box: @unchecked Sendable {
        let end: ThreadEnd
        let body: () throws -> Void
        let outcome = Handover<(any Error)?>()
        init(_ end: ThreadEnd, _ body: @escaping () throws -> Void) {
            self.end = end
            self.body = body
        }

        func run() {
            do {
                try body()
                outcome.give(nil)
            } catch {
                outcome.give(error)
            }
        }
    }
    let box = Box(end, body)
    var thread = pthread_t()
    let code = pthread_create(
        &thread, nil,
        { argument in
            let end: ThreadEnd
            do {
                let box = Unmanaged<AnyObject>.fromOpaque(argument!).takeRetainedValue() as! Box
                end = box.end
                box.run()
            }
            switch end {
            case .returns: break
            case .exits: pthread_exit(nil)
            case .isCancelled:
                while true {
                    pthread_testcancel()
                    sched_yield()
                }
            }
            return nil
        }, Unmanaged.passRetained(box).toOpaque())
    precondition(code == 0)
    let failure = try box.outcome.take()
    if end == .isCancelled { pthread_cancel(thread) }
    pthread_join(thread, nil)
    if let failure { throw failure }
}

/// An operation that pends until something is done for it.
struct Pending {
    enum Kind: String, CaseIterable, Sendable, CustomTestStringConvertible {
        case receive, receiveAll, receiveAllHalfWay, receiveScattered, zeroByteReceive, receiveContinuously
        case receiveDatagram, receiveMessage
        case accept, acceptWithData, acceptWithDataHalfWay, acceptContinuously
        case connect, connectLocally
        case readPipe, zeroByteRead, readDuplex, readUnopenedFIFO
        case writePipe, writePipeHalfWay, send, sendGathered, transmit, sendMessage

        var testDescription: String { rawValue }
    }

    let handle: IOHandle
    let operation: IOCP.Operation
    let start: () throws -> Void
    /// Lets it complete.
    let complete: () throws -> Void
    /// Looks at its packet.
    let verify: (Packet) throws -> Void
}

private let large = 4 << 20

/// Reads that many bytes, however slowly they come, and compares them.
///
/// - Parameter nothingElse: no more have come, as if something had been sent twice.
private func expectBytes(_ expected: [UInt8], from descriptor: Int32, nothingElse: Bool = true) throws {
    var got: [UInt8] = []
    var room = [UInt8](repeating: 0, count: 1 << 16)
    while got.count < expected.count {
        try waitFor(POLLIN, descriptor)
        let count = read(descriptor, &room, min(room.count, expected.count - got.count))
        if count < 0 && errno == EINTR { continue }
        try #require(count > 0, "\(got.count) of \(expected.count) bytes came")
        got += room.prefix(count)
    }
    #expect(got == expected)
    guard nothingElse else { return }
    var interest = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    #expect(poll(&interest, 1, 0) == 0, "more than \(expected.count) bytes came")
}

extension Pending {
    static func make(_ kind: Kind, on port: CompletionPort) throws -> Pending {
        let operation = IOCP.Operation(capacity: 8)
        func associated<Handle: IOHandle>(_ handle: Handle) throws -> Handle {
            try port.associate(handle, key: 5)
            return handle
        }
        func text(_ text: String) -> (Packet) throws -> Void {
            { packet in
                #expect(packet.bytes == text.utf8.count)
                #expect(operation.text(text.utf8.count) == text)
            }
        }
        switch kind {
        case .receive, .receiveAll, .receiveAllHalfWay, .receiveScattered, .zeroByteReceive, .receiveContinuously:
            let (near, far) = try tcpPair()
            let socket = try associated(near)
            switch kind {
            case .receive:
                return Pending(
                    handle: socket, operation: operation, start: { try socket.receive(operation) },
                    complete: { writeRaw("abc", to: far) }, verify: text("abc"))
            case .receiveAll:
                return Pending(
                    handle: socket, operation: operation, start: { try socket.receive(operation, flags: .waitAll) },
                    complete: {
                        writeRaw("abcd", to: far)
                        let isEmpty = try port.staysEmpty(for: .milliseconds(5))
                        #expect(isEmpty)
                        writeRaw("efgh", to: far)
                    }, verify: text("abcdefgh"))
            case .receiveAllHalfWay:
                return Pending(
                    handle: socket, operation: operation,
                    start: {
                        writeRaw("abcd", to: far)
                        try waitReadable(socket)
                        try socket.receive(operation, flags: .waitAll)
                    },
                    complete: { writeRaw("efgh", to: far) }, verify: text("abcdefgh"))
            case .receiveScattered:
                let parts = [IOBuffer(capacity: 2), IOBuffer(capacity: 2)]
                return Pending(
                    handle: socket, operation: operation, start: { try socket.receive(operation, into: parts) },
                    complete: { writeRaw("abc", to: far) },
                    verify: { packet in
                        #expect(packet.bytes == 3)
                        #expect(parts[0].string(in: 0..<2) + parts[1].string(in: 0..<1) == "abc")
                    })
            case .zeroByteReceive:
                return Pending(
                    handle: socket, operation: operation, start: { try socket.receive(operation, into: 0..<0) },
                    complete: { writeRaw("abc", to: far) },
                    verify: { packet in
                        #expect(packet.bytes == 0)
                        #expect(readRaw(8, from: socket) == "abc")
                    })
            default:
                let group = try BufferGroup(for: port, buffersPerRing: 4, bufferSize: 16)
                return Pending(
                    handle: socket, operation: operation,
                    start: { try socket.receiveContinuously(operation, from: group) },
                    complete: { writeRaw("abc", to: far) },
                    verify: { packet in
                        #expect(packet.isMore)
                        let lent = try #require(packet.lentBuffer)
                        #expect(lent.array == Array("abc".utf8))
                        lent.giveBack()
                    })
            }
        case .receiveDatagram, .receiveMessage:
            let socket = try associated(Socket.datagram(at: .loopback(port: 0)))
            let peer = try Socket.datagram(at: .loopback(port: 0))
            let address = try socket.localAddress()
            let from = try peer.localAddress()
            let asMessage = kind == .receiveMessage
            return Pending(
                handle: socket, operation: operation,
                start: { if asMessage { try socket.receiveMessage(operation) } else { try socket.receive(operation) } },
                complete: {
                    let sent = address.withSockAddr { sendto(peer.descriptor.rawValue, "abc", 3, 0, $0, $1) }
                    #expect(sent == 3)
                },
                verify: { packet in
                    try text("abc")(packet)
                    if asMessage { #expect(operation.peerAddress == from) }
                })
        case .accept, .acceptWithData, .acceptWithDataHalfWay, .acceptContinuously:
            let listener = try associated(Socket.listening(at: .loopback(port: 0)))
            nonisolated(unsafe) var clients: [Peer] = []
            let connect = {
                clients.append(try connectPeer(to: listener))
                if kind == .acceptWithData { try clients[0].send("abc") }
            }
            return Pending(
                handle: listener, operation: operation,
                start: {
                    if kind == .acceptWithDataHalfWay { try connect() }
                    switch kind {
                    case .accept: try listener.accept(operation)
                    case .acceptContinuously: try listener.acceptContinuously(operation)
                    default: try listener.accept(operation, firstData: 0..<8)
                    }
                },
                complete: {
                    if kind == .acceptWithDataHalfWay { try clients[0].send("abc") } else { try connect() }
                },
                verify: { packet in
                    #expect(packet.acceptedSocket != nil)
                    #expect(packet.isMore == (kind == .acceptContinuously))
                    if kind == .acceptWithData || kind == .acceptWithDataHalfWay { try text("abc")(packet) }
                })
        case .connect, .connectLocally:
            let isLocal = kind == .connectLocally
            let address: SocketAddress =
                isLocal ? try .abstract("iocp-exit-\(getpid())-\(UInt.random(in: 0...UInt.max))") : .loopback(port: 0)
            let listener = try Socket.listening(at: address, backlog: 0)
            let target = try listener.localAddress()
            // Connections that nobody accepts, until there is no room for one more.
            nonisolated(unsafe) var waiting: [Socket] = []
            while true {
                let socket = try Socket(.stream, family: target.family)
                let descriptor = socket.descriptor.rawValue
                _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
                let result = target.withSockAddr { Glibc.connect(descriptor, $0, $1) }
                var interest = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                if isLocal ? result != 0 : poll(&interest, 1, 100) == 0 { break }
                waiting.append(socket)
            }
            let socket = try associated(Socket(.stream, family: target.family))
            return Pending(
                handle: socket, operation: operation, start: { try socket.connect(operation, to: target) },
                complete: { for _ in waiting { Glibc.close(accept(listener.descriptor.rawValue, nil, nil)) } },
                verify: { _ in
                    let peer = try socket.remoteAddress()
                    #expect(peer == target)
                })
        case .readPipe, .zeroByteRead, .writePipe, .writePipeHalfWay:
            let (reading, writing) = try Pipe.make()
            switch kind {
            case .readPipe:
                return Pending(
                    handle: try associated(reading), operation: operation, start: { try reading.read(operation) },
                    complete: { writeRaw("abc", to: writing) }, verify: text("abc"))
            case .zeroByteRead:
                return Pending(
                    handle: try associated(reading), operation: operation,
                    start: { try reading.read(operation, into: 0..<0) },
                    complete: { writeRaw("abc", to: writing) },
                    verify: { packet in
                        #expect(packet.bytes == 0)
                        #expect(readRaw(8, from: reading) == "abc")
                    })
            default:
                let capacity = 65536
                let filled = kind == .writePipe ? capacity : capacity - 5000
                let before = pattern(filled, seed: 1)
                #expect(Glibc.write(writing.descriptor.rawValue, before, filled) == filled)
                let operation = IOCP.Operation(pattern(20_000, seed: 2))
                return Pending(
                    handle: try associated(writing), operation: operation, start: { try writing.write(operation) },
                    complete: { try expectBytes(before + pattern(20_000, seed: 2), from: reading.descriptor.rawValue) },
                    verify: { #expect($0.bytes == 20_000) })
            }
        case .readDuplex:
            let (near, far) = try Pipe.makeDuplex()
            return Pending(
                handle: try associated(near), operation: operation, start: { try near.read(operation) },
                complete: { writeRaw("abc", to: far) }, verify: text("abc"))
        case .readUnopenedFIFO:
            let scratch = try ScratchDirectory()
            try #require(mkfifo(scratch.file().string, 0o600) == 0)
            let fifo = try associated(Pipe(fifo: scratch.file(), .readOnly))
            nonisolated(unsafe) var writer: Pipe?
            return Pending(
                handle: fifo, operation: operation, start: { try fifo.read(operation) },
                complete: {
                    writer = try Pipe(fifo: scratch.file(), .writeOnly)
                    writeRaw("abc", to: writer!)
                }, verify: text("abc"))
        case .send, .sendGathered, .transmit:
            let (near, far) = try tcpPair()
            let socket = try associated(near)
            let content = pattern(large, seed: 3)
            let operation = IOCP.Operation(content)
            let scratch = try ScratchDirectory()
            let file = kind == .transmit ? try File(scratch.write(content)) : nil
            let halves = [IOBuffer(Array(content.prefix(large / 2))), IOBuffer(Array(content.suffix(large / 2)))]
            return Pending(
                handle: socket, operation: operation,
                start: {
                    switch kind {
                    case .send: try socket.send(operation)
                    case .sendGathered: try socket.send(operation, from: halves)
                    default: try socket.transmit(operation, file: file)
                    }
                },
                complete: { try expectBytes(content, from: far.descriptor.rawValue) },
                verify: { packet in
                    #expect(packet.bytes == large)
                    _ = (scratch, far)
                })
        case .sendMessage:
            // Datagrams to one who does not receive, until there is no room for one more.
            let address = try SocketAddress.abstract("iocp-exit-\(getpid())-\(UInt.random(in: 0...UInt.max))")
            let receiver = try Socket.datagram(at: address)
            let socket = try associated(Socket(.datagram, family: address.family))
            let descriptor = socket.descriptor.rawValue
            nonisolated(unsafe) var filled = 0
            while address.withSockAddr({ sendto(descriptor, "x", 1, Int32(MSG_DONTWAIT), $0, $1) }) == 1 { filled += 1 }
            let operation = IOCP.Operation("abc")
            return Pending(
                handle: socket, operation: operation, start: { try socket.sendMessage(operation, to: address) },
                complete: {
                    // The message follows at once.
                    try expectBytes(
                        Array(repeating: 120, count: filled), from: receiver.descriptor.rawValue, nothingElse: false)
                },
                verify: { packet in
                    #expect(packet.bytes == 3)
                    #expect(readRaw(8, from: receiver) == "abc")
                })
        }
    }
}

@Suite("Section e: threads that exit in any way")
struct ThreadExitTests {
    /// Has a thread start the operation and end.
    private func strand(_ pending: Pending, on port: CompletionPort, _ end: ThreadEnd, submits: Bool) throws {
        let sent = Sending(pending)
        try onThread(ending: end) {
            _ = try port.dequeue(timeout: .zero)
            try sent.value.start()
            // In the kernel, where it waits; or in the ring, which the thread leaves behind.
            if submits {
                try port.flush()
                #expect(try port.dequeue(timeout: .milliseconds(3)) == nil)
            }
        }
    }

    private func reissues(_ port: CompletionPort) -> Int {
        port.core.slots.reduce(0) { $0 + $1.reissues.load(ordering: .relaxed) }
    }

    @Test(
        "an operation goes on when the thread that started it is gone, whatever it is and however that ended (e34, e35)",
        arguments: Pending.Kind.allCases, ThreadEnd.allCases)
    func goesOn(kind: Pending.Kind, end: ThreadEnd) throws {
        // A connect is tried again by the kernel only after a second.
        for submits in kind == .connect ? [end == .returns] : [true, false] {
            let port = try CompletionPort(concurrencyLimit: 2)
            let pending = try Pending.make(kind, on: port)
            try strand(pending, on: port, end, submits: submits)
            #expect(port.core.snapshot.running == 0)
            #expect(try port.staysEmpty(for: .milliseconds(10)))
            #expect(pending.operation.isPending)
            #expect(reissues(port) <= 1)
            try pending.complete()
            let packet = try port.next()
            #expect(packet.operation === pending.operation)
            #expect(packet.status == .success)
            #expect(packet.key == 5)
            try pending.verify(packet)
            if packet.isMore {
                try pending.handle.cancel(pending.operation)
                try port.expect(pending.operation, .cancelled)
            }
            #expect(try port.staysEmpty(for: .milliseconds(5)))
            #expect(port.core.snapshot.inFlight == 0)
            // What waits for readiness the kernel ends with the thread that has submitted it; once.
            #expect(reissues(port) <= 1)
        }
    }

    @Test("an operation that the kernel ended with its thread is counted as started again, once for each time (e34)")
    func counted() throws {
        let port = try CompletionPort(concurrencyLimit: 2)
        let (near, far) = try Socket.pair()
        try port.associate(near, key: 5)
        let operation = IOCP.Operation(capacity: 8)
        // The kernel is asked by the thread itself, unless the monitor was faster.
        var found = 0
        for round in 1...100 where found < 10 {
            try onThread(ending: .returns) {
                _ = try port.dequeue(timeout: .zero)
                try near.receive(operation)
                try port.flush()
            }
            let before = reissues(port)
            #expect(before == found)
            writeRaw("abc", to: far)
            try port.expect(operation, bytes: 3, key: 5)
            #expect(reissues(port) - before <= 1, "round \(round)")
            found = reissues(port)
        }
        #expect(found == 10)
        #expect(try port.statistics.reissues == 10)
        // Nobody's but the user's.
        try onThread(ending: .returns) {
            _ = try port.dequeue(timeout: .zero)
            try near.receive(operation)
            try port.flush()
        }
        try near.cancel(operation)
        try port.expect(operation, .cancelled)
        #expect(reissues(port) == 10)
    }

    @Test(
        "cancelled or closed after its thread has gone, it ends so, once (e6, e23, e28, e34)",
        arguments: Pending.Kind.allCases, [true, false])
    func endsAfterwards(kind: Pending.Kind, closes: Bool) throws {
        for submits in [true, false] {
            let port = try CompletionPort(concurrencyLimit: 2)
            let pending = try Pending.make(kind, on: port)
            try strand(pending, on: port, .returns, submits: submits)
            if closes { try pending.handle.close() } else { try pending.handle.cancel(pending.operation) }
            let packet = try port.next()
            #expect(packet.operation === pending.operation && !packet.isMore)
            // What has been received is a success of its own, what was sent is told with the error.
            if kind == .receiveAllHalfWay, packet.isSuccess {
                #expect(packet.bytes == 4 && pending.operation.text(4) == "abcd")
            } else {
                #expect(!packet.isSuccess)
                if !closes { #expect(packet.status == .cancelled) }
            }
            #expect(try port.staysEmpty(for: .milliseconds(5)))
            #expect(port.core.snapshot.inFlight == 0)
        }
    }

    @Test("threads that are cancelled at any moment leave no lock, no place and no packet behind (d14)")
    func cancelledAnywhere() throws {
        let port = try CompletionPort(concurrencyLimit: 2)
        let listener = try Socket.listening(at: .loopback(port: 0))
        let address = try listener.localAddress()
        try port.associate(listener, key: 1)
        let taken = Tally()
        var dice = Dice(seed: 7)
        for _ in 0..<150 {
            final class Work: @unchecked Sendable {
                let body: () throws -> Void
                init(_ body: @escaping () throws -> Void) { self.body = body }
            }
            // No cancellation point but those within the library, if there are any, and one in each round.
            let work = Work {
                let operation = IOCP.Operation(capacity: 8)
                let group = try BufferGroup(for: port, buffersPerRing: 1, bufferSize: 8)
                while true {
                    pthread_testcancel()
                    let (near, far) = try Socket.pair()
                    try port.associate(near, key: 2)
                    try near.receiveContinuously(IOCP.Operation(), from: group)
                    try port.post(key: 3)
                    if try port.dequeue(timeout: .microseconds(50))?.key == 3 { taken.add() }
                    _ = try? listener.accept(operation)
                    _ = try? listener.cancel(operation)
                    try far.close()
                    try near.close()
                }
            }
            var thread = pthread_t()
            let code = pthread_create(
                &thread, nil,
                { argument in
                    let work = Unmanaged<AnyObject>.fromOpaque(argument!).takeRetainedValue() as! Work
                    do { try work.body() } catch { Issue.record(error) }
                    return nil
                }, Unmanaged.passRetained(work).toOpaque())
            precondition(code == 0)
            usleep(UInt32(dice.below(3000)))
            pthread_cancel(thread)
            pthread_join(thread, nil)
        }
        #expect(taken.value > 0)
        try listener.close()
        try until("nothing is in flight; \(port.core.snapshot.inFlight) requests are") {
            while let packet = try port.dequeue(timeout: .zero) { packet.lentBuffer?.giveBack() }
            return port.core.snapshot.inFlight == 0
        }
        #expect(port.core.snapshot.running == 1, "this thread's place only")
        try port.post(key: 9)
        #expect(try port.next().key == 9)
        _ = address
    }

    @Test("a thread that is cancelled while it waits takes its packet first; the next one goes to another (d14, e6)")
    func cancelledInDequeue() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let got = Handover<UInt>()
        final class Work: Sendable {
            let port: CompletionPort
            let got: Handover<UInt>
            init(_ port: CompletionPort, _ got: Handover<UInt>) {
                self.port = port
                self.got = got
            }
        }
        for round in 0..<50 {
            var thread = pthread_t()
            let code = pthread_create(
                &thread, nil,
                { argument in
                    let work = Unmanaged<Work>.fromOpaque(argument!).takeUnretainedValue()
                    while let key = (try? work.port.dequeue())?.key {
                        work.got.give(key)
                        pthread_testcancel()
                    }
                    return nil
                }, Unmanaged.passRetained(Work(port, got)).toOpaque())
            precondition(code == 0)
            try port.untilWaiting(1)
            pthread_cancel(thread)
            try port.post(key: UInt(2 * round))
            try port.post(key: UInt(2 * round + 1))
            pthread_join(thread, nil)
            #expect(try got.take() == UInt(2 * round))
            try port.expectKey(UInt(2 * round + 1))
            // It waits no more: the next thread is not to be taken for it.
            #expect(port.core.snapshot.waiting == 0)
            #expect(try port.staysEmpty(for: .microseconds(10)))
            // This thread leaves the port, so that the next one may run.
            _ = try CompletionPort(concurrencyLimit: 1).dequeue(timeout: .zero)
        }
        #expect(got.all.isEmpty)
    }

    @Test(
        "destructors of other libraries may use the port while the thread ends, in every round of them (d14, e34)",
        // The thread sanitizer's own destructor comes in the last round: after it, nothing may run.
        arguments: [true, false], isThreadSanitized ? [1] : [1, 3, 10])
    func destructors(afterOurs: Bool, rounds: Int) async {
        // Key by key, in the order in which they were made: in a process of its own, one can be made before ours.
        await #expect(processExitsWith: .success) { [afterOurs, rounds] in
            try exitTest { try Destructors.run(afterOurs: afterOurs, rounds: rounds) }
        }
    }
}

extension CompletionPort {
    fileprivate func expectKey(_ key: UInt) throws { #expect(try next().key == key) }
}

/// A library that uses a port while its thread ends.
private enum Destructors {
    final class State: @unchecked Sendable {
        let port: CompletionPort
        let socket: Socket
        let operations: [IOCP.Operation]
        var left: Int
        let posted = Tally()
        let taken = Tally()
        init(_ port: CompletionPort, _ socket: Socket, _ rounds: Int) {
            self.port = port
            self.socket = socket
            left = rounds
            operations = (0..<rounds).map { _ in IOCP.Operation(capacity: 1) }
        }
    }

    nonisolated(unsafe) static var key = pthread_key_t()
    static let failures = Tally()

    static func makeKey() {
        pthread_key_create(&key) { pointer in
            let state = Unmanaged<State>.fromOpaque(pointer!).takeUnretainedValue()
            state.left -= 1
            do {
                if try state.port.dequeue(timeout: .zero) != nil { state.taken.add() }
                try state.port.post(key: 3)
                state.posted.add()
                try state.socket.receive(state.operations[state.left])
            } catch {
                Destructors.failures.add()
            }
            if state.left > 0 { pthread_setspecific(Destructors.key, pointer) }
        }
    }

    static func run(afterOurs: Bool, rounds: Int) throws {
        if !afterOurs { makeKey() }
        let port = try CompletionPort(concurrencyLimit: 1)
        if afterOurs { makeKey() }
        let (near, far) = try Socket.pair()
        try port.associate(near, key: 4)
        for _ in 0..<5 {
            let state = State(port, near, rounds)
            var thread = pthread_t()
            let code = pthread_create(
                &thread, nil,
                { argument in
                    let state = Unmanaged<State>.fromOpaque(argument!).takeUnretainedValue()
                    // This thread has a place, or it has not and gets ours in its destructors only.
                    if state.left % 2 == 1 { _ = try? state.port.dequeue(timeout: .zero) }
                    pthread_setspecific(Destructors.key, argument)
                    return nil
                }, Unmanaged.passRetained(state).toOpaque())
            try check(code == 0, "no thread")
            pthread_join(thread, nil)
            try check(failures.value == 0, "a destructor fails")
            // Each post and each receive comes, to this thread, although the limit is 1.
            let posts = state.posted.value - state.taken.value
            let started = rounds - state.left
            try check(started > 0, "no destructor ran")
            writeRaw(String(repeating: "x", count: started), to: far)
            var seen = (posts: 0, receives: 0)
            while seen.posts < posts || seen.receives < started {
                let packet = try port.next()
                if packet.key == 3 { seen.posts += 1 } else { seen.receives += 1 }
                try check(packet.isSuccess, "\(packet.status)")
            }
            try check(try port.dequeue(timeout: .milliseconds(5)) == nil, "a packet too many")
            try check(seen == (posts, started), "\(seen) came of \((posts, started))")
            // So that the next thread may run.
            _ = try CompletionPort(concurrencyLimit: 1).dequeue(timeout: .zero)
        }
    }
}
