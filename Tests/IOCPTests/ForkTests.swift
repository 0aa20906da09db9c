import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP

@Suite("Fork: the child execs, exits, or makes ports of its own")
struct ForkTests {
    @Test("a child finds its parent's ports, handles, operations and events unusable, each with an error that says why")
    func childIsRefused() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let port = try CompletionPort(concurrencyLimit: 2)
                let (left, right) = try Socket.pair()
                let (lonely, _lonelyPeer) = try Socket.pair()
                let (many, manyPeer) = try Socket.pair()
                let listener = try Socket.listening(at: .loopback(port: 0))
                try port.associate(left, key: 1)
                try port.associate(listener, key: 2)
                try port.associate(many, key: 3)
                let group = try BufferGroup(for: port, buffersPerRing: 4, bufferSize: 64)
                let stream = IOCP.Operation()
                try many.receiveContinuously(stream, from: group)
                writeRaw("lent", to: manyPeer)
                let lent = try port.next().lentBuffer!
                let receive = IOCP.Operation(capacity: 16)
                let event = CompletionEvent()
                try receive.signal(event)
                let alone = IOCP.Operation(capacity: 16)
                try lonely.receive(alone)
                let accept = IOCP.Operation()
                try listener.acceptContinuously(accept)
                try port.post(key: 77)
                // The thread is tied, has a ring, and the ring has an entry that the kernel does not know yet.
                try left.receive(receive)

                try Child.run {
                    // Even if it were tried: the rings are out of reach.
                    for slot in port.core.slots {
                        try check(slot.unsubmittedRequests == 0, "the child sees its parent's entries")
                        try check(!slot.submit(waitsForOthers: true), "the child can enter its parent's ring")
                    }
                    try checkInherited("dequeue") { try port.dequeue() as Any }
                    try checkInherited("dequeue at once") { try port.dequeue(timeout: .zero) as Any }
                    try checkInherited("alertable dequeue") { try port.dequeueAlertably() }
                    var batch = PacketBatch(capacity: 4)
                    try checkInherited("batch") { try port.dequeue(into: &batch) }
                    try checkInherited("post") { try port.post(key: 1) }
                    try checkInherited("post") { try port.post(operation: IOCP.Operation()) }
                    try checkInherited("depth") { try port.depth() }
                    try checkInherited("statistics") { try port.statistics }
                    try checkInherited("flush") { try port.flush() }
                    try checkInherited("wait") { try port.waitUntilQueued() }
                    try checkInherited("duplicate") { try port.duplicate() }
                    try checkInherited("group") { try BufferGroup(for: port) }
                    let (own, _) = try Socket.pair()
                    try checkInherited("associate") { try port.associate(own, key: 1) }
                    for start in bothStarts {
                        let operation = IOCP.Operation(capacity: 16)
                        try checkInherited("receive") { try left.receive(operation, start: start) }
                        try checkInherited("receive") { try lonely.receive(operation, start: start) }
                        try checkInherited("send") { try right.send(operation, start: start) }
                        try checkInherited("accept") { try listener.accept(operation, into: own, start: start) }
                    }
                    try checkInherited("start again") { try own.receive(receive) }
                    try checkInherited("cancel") { try left.cancel(receive) }
                    try checkInherited("cancel all") { try left.cancelAll() }
                    try checkInherited("cancel own") { try left.cancelFromThisThread() }
                    try checkInherited("wait for handle") { try left.waitUntilSignaled() }
                    try checkInherited("wait for operation") { try receive.waitForCompletion() as Any }
                    try checkInherited("wait for operation") { try alone.waitForCompletion() as Any }
                    try checkInherited("wait for event") { try event.wait() }
                    try check(receive.status == .pending && receive.isPending, "the operation is not pending")
                    lent.giveBack()
                    try left.close()
                    try listener.close()
                    try check(port.close(), "the port does not close")
                    try check(!port.close(), "the port closes twice")
                    // The descriptor is a good one, and may be adopted.
                    let adopted = try Socket(adopting: lonely.releaseDescriptor())
                    let own2 = try CompletionPort(concurrencyLimit: 1)
                    try own2.associate(adopted, key: 5)
                    try adopted.send(IOCP.Operation("from the child"))
                    try check(try own2.dequeue(timeout: patience)?.bytes == 14, "the adopted descriptor does not send")
                }

                // The parent has lost nothing, and its rings are as they were.
                try check(try port.next().key == 77, "the post is not first")
                writeRaw("abc", to: right)
                let packet = try port.next()
                try check(packet.operation === receive && packet.bytes == 3, "the receive of the parent")
                try check(event.isSet, "its event is not set")
                try check(readRaw(14, from: _lonelyPeer) == "from the child", "the child sent something else")
                writeRaw("x", to: _lonelyPeer)
                try check(try alone.waitForCompletion(timeout: patience) == .success, "the lonely receive")
                lent.giveBack()
                let client = try connectPeer(to: listener)
                try check(try port.next().acceptedSocket != nil, "no connection is accepted")
                client.close()
                for _ in 0..<10 {
                    writeRaw("data", to: manyPeer)
                    let packet = try port.next()
                    try check(packet.operation === stream && packet.lentBuffer!.count == 4, "the continuous receive")
                    packet.lentBuffer!.giveBack()
                }
                try many.close()
                try check(try port.next().status == .connectionAborted, "the continuous receive does not end")
                try listener.close()
                try check(try port.next().status == .cancelled, "the accept does not end")
                try check(port.core.snapshot.inFlight == 0, "something is left in flight")
            }
        }
    }

    @Test("ports that are made in a child work: all of their threads, files without a port, children of their own")
    func childMakesPorts() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let port = try CompletionPort(concurrencyLimit: 1)
                let (left, right) = try Socket.pair()
                try port.associate(left, key: 1)
                let operation = IOCP.Operation(capacity: 16)
                try left.receive(operation)
                _ = try port.dequeue(timeout: .zero)
                try Child.run {
                    try checkWholePort()
                    try Child.run {
                        try checkInherited("dequeue") { try port.dequeue() as Any }
                        try checkWholePort()
                    }
                    try checkWholePort()
                }
                writeRaw("abc", to: right)
                try check(try port.next().operation === operation, "the parent's own operation")
                try checkWholePort()
            }
        }
    }

    @Test("a child that exits with everything open, or execs, leaves its parent alone; nothing is inherited by exec")
    func childExitsOrExecs() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let before = Set(openNumbers())
                let port = try CompletionPort(concurrencyLimit: 2)
                let (left, right) = try Socket.pair()
                let (reading, writing) = try Pipe.make()
                let (duplex, other) = try Pipe.makeDuplex()
                let listener = try Socket.listening(at: .loopback(port: 0))
                let slot = try MailSlot(at: .abstract("iocp-fork-\(getpid())"))
                let writer = try MailSlot.writer(to: .abstract("iocp-fork-\(getpid())"))
                let scratch = try ScratchDirectory()
                let file = try File(scratch.write(pattern(100_000)), .readWrite)
                try port.associate(left, key: 1)
                try port.associate(listener, key: 2)
                let (lonely, _lonelyPeer) = try Socket.pair()
                let alone = IOCP.Operation(capacity: 16)
                try lonely.receive(alone)
                // With a pipe of its own inside.
                let transmission = IOCP.Operation()
                try left.transmit(transmission, file: file)
                try port.flush()
                let accepting = IOCP.Operation()
                try listener.accept(accepting)
                let client = try connectPeer(to: listener)
                var accepted: Socket?
                while accepted == nil { accepted = try port.next().acceptedSocket }
                let mine = Set(openNumbers()).subtracting(before)
                try check(mine.count >= 15, "only \(mine.count) descriptors are open")
                for number in mine {
                    try check(fcntl(number, F_GETFD) & FD_CLOEXEC != 0, "descriptor \(number) survives an exec")
                }
                // Through exit, with all that runs at the end of a process.
                try Child.run { exit(0) }
                let command = Command("/bin/true")
                try Child.run {
                    command.exec()
                    throw Complaint("exec fails")
                }
                // What the parent waits with is still armed.
                let receive = IOCP.Operation(capacity: 16)
                try right.receive(receive)
                try check(try receive.waitForCompletion(timeout: patience) == .success, "the transmitted file")
                _ = (reading, writing, duplex, other, slot, writer, client, _lonelyPeer)
            }
        }
    }

    @Test(
        "the parent echoes on while 200 children come, use the port, exit and exec",
        .disabled(if: isThreadSanitized, noForkAmongThreads), .timeLimit(.minutes(5))
    )
    func parentGoesOn() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                try warmUp()
                let command = Command("/bin/true")
                let server = try EchoServer(threads: 3, limit: 2)
                let stop = Tally()
                let clients = (0..<4).map { number in
                    SideThread { try echo(through: server.address, number: number, until: { stop.value > 0 }) }
                }
                try until("the echo has begun") { server.echoed.value > 100 }
                var running: [pid_t] = []
                for round in 0..<200 {
                    let port = server.port
                    running.append(
                        try Child.start {
                            switch round % 4 {
                            case 0: break
                            case 1:
                                try checkInherited("dequeue") { try port.dequeue() as Any }
                                try checkInherited("post") { try port.post() }
                                try checkInherited("start") { try server.listener.accept(IOCP.Operation()) }
                                port.close()
                            case 2: try checkRoundTrip()
                            default:
                                command.exec()
                                throw Complaint("exec fails")
                            }
                        })
                    if running.count == 8 { try Child.join(running.removeFirst()) }
                }
                for child in running { try Child.join(child) }
                let before = server.echoed.value
                try until("the echo goes on") { server.echoed.value > before + 100 }
                stop.add()
                var echoed = 0
                for client in clients { echoed += try client.join() }
                // The last reply is there before the packet of its send.
                try until("\(echoed) messages are echoed; \(server.echoed.value) are") { server.echoed.value >= echoed }
                try server.stop()
                try check(server.echoed.value == echoed, "\(server.echoed.value) echoes for \(echoed) messages")
            }
        }
    }

    @Test(
        "a fork may come while other threads hold every lock",
        .disabled(if: isThreadSanitized, noForkAmongThreads), .timeLimit(.minutes(5))
    )
    func forkUnderLocks() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let port = try CompletionPort(concurrencyLimit: 2)
                let (left, right) = try Socket.pair()
                let (lonely, _lonelyPeer) = try Socket.pair()
                try port.associate(left, key: 1)
                let group = try BufferGroup(for: port, buffersPerRing: 4, bufferSize: 64)
                let event = CompletionEvent(resetsAutomatically: true)
                try warmUp()
                let stop = Tally()
                let rounds = (0..<7).map { _ in Tally() }
                let target = Handover<IOThread>()
                let loops: [@Sendable () throws -> Void] = [
                    {  // The port's lock, a ring's, a queue that grows.
                        for _ in 0..<100 { try port.post(key: 9) }
                        for _ in 0..<100 { _ = try port.dequeue(timeout: .zero) }
                    },
                    {  // A file's lock, its list, its lanes.
                        let operations = (0..<3).map { _ in IOCP.Operation(capacity: 8) }
                        for operation in operations { try left.receive(operation) }
                        _ = try? left.cancelAll()
                        for operation in operations { _ = try operation.waitForCompletion() }
                    },
                    {  // The rings of files without a port.
                        let operation = IOCP.Operation(capacity: 8)
                        try lonely.receive(operation, start: .eager)
                        _ = try? lonely.cancel(operation)
                        _ = try operation.waitForCompletion()
                    },
                    {  // The observer's tables, the list of what is inherited.
                        let other = try CompletionPort(concurrencyLimit: 1)
                        let (one, _) = try Socket.pair()
                        try other.associate(one, key: 1)
                        _ = try BufferGroup(for: other, buffersPerRing: 1, bufferSize: 1)
                    },
                    {
                        event.set()
                        _ = try event.wait(timeout: .microseconds(10))
                        try left.duplicate().close()
                    },
                    {
                        for thread in target.all { thread.queueCall {} }
                        usleep(100)
                    },
                    {  // A wait that is ended from outside, and a ring that somebody sleeps in.
                        if target.all.isEmpty { target.give(IOThread.current) }
                        _ = try port.dequeueAlertably(timeout: .microseconds(200))
                    },
                ]
                let threads = zip(loops, rounds).map { loop, round in
                    SideThread {
                        while stop.value == 0 {
                            try loop()
                            round.add()
                        }
                    }
                }
                try until("the loops run") { rounds.allSatisfy { $0.value > 3 } }
                for round in 0..<100 {
                    try Child.run {
                        try checkInherited("dequeue") { try port.dequeue() as Any }
                        try checkInherited("post") { try port.post() }
                        try checkInherited("start") { try left.receive(IOCP.Operation(capacity: 1)) }
                        try checkInherited("start") { try lonely.receive(IOCP.Operation(capacity: 1)) }
                        try checkInherited("cancel") { try left.cancelAll() }
                        try checkInherited("group") { try BufferGroup(for: port) }
                        if !event.isSet { try checkInherited("event") { try event.wait() } }
                        event.set()
                        for thread in target.all { thread.queueCall {} }
                        try left.duplicate().close()
                        try lonely.close()
                        if round % 2 == 0 { port.close() }
                        try checkRoundTrip()
                    }
                }
                stop.add()
                for thread in threads { try thread.join() }
                _ = (right, _lonelyPeer, group)
            }
        }
    }
}
