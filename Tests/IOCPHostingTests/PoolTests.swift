import CIOCPHosting
import Glibc
import IOCP
import IOCPHosting
import Synchronization
import Testing

/// A pipe, bound, whose reads complete when the test writes a byte for each.
private final class Feed {
    let near: Socket
    let far: Socket
    private var blocks: [Block] = []
    private let host: HostIOCompletionManager

    init(_ host: HostIOCompletionManager) throws {
        self.host = host
        (near, far) = try Socket.pair(.datagram)
        try host.bind(nil, near)
    }

    /// So many operations complete, about at once.
    func complete(_ count: Int) throws {
        for _ in 0..<count {
            let block = try Block(host)
            blocks.append(block)
            try near.receive(block.overlapped, into: block.buffer)
        }
        for _ in 0..<count { try writeRaw("x", to: far) }
    }

    /// The same with operations that are over.
    func again(_ count: Int) throws {
        for block in blocks.suffix(count) { try near.receive(block.overlapped, into: block.buffer) }
        for _ in 0..<count { try writeRaw("x", to: far) }
    }
}

/// What counts threads by their names runs in a process of its own: other suites' hosts have threads of the same names.
@Suite("The pool of threads", .serialized, .timeLimit(.minutes(3)))
struct PoolTests {
    @Test("it begins with the minimum, whose threads have names, and ends with the host")
    func beginsAndEnds() async {
        await #expect(processExitsWith: .success) { try exitTest { try PoolTests.beginsAndEndsAlone() } }
    }

    private static func beginsAndEndsAlone() throws {
        let before = hostThreads()
        let (host, _) = try hosted(min: 3)
        #expect(host.statistics.threads == 0)
        _ = try host.createIOCompletionPort()
        #expect(host.statistics.threads == 3)
        try until("the threads are named; \(hostThreads()) are") { hostThreads() == before + 3 }
        host.shutDown()
        try until("the threads have ended") { hostThreads() == before }
    }

    @Test("it grows only when packets wait and every thread is busy, and never beyond the maximum")
    func grows() throws {
        let gate = Gate()
        let (host, runtime) = try hosted(min: 2, max: 4) {
            $0.idleTimeout = .milliseconds(200)
        } _: { _ in
            gate.pass()
        }
        let feed = try Feed(host)
        #expect(host.statistics.threads == 2)
        try feed.complete(1)
        try until("one is busy") { gate.arrived == 1 }
        // Another is free, and nothing waits.
        #expect(try staysTrue { try host.statistics.threads == 2 && host.getAvailableThreads() == 3 })
        try feed.complete(1)
        try until("two are busy") { gate.arrived == 2 }
        #expect(staysTrue { host.statistics.threads == 2 })
        #expect(try host.getAvailableThreads() == 2)
        // Nobody is free, and packets wait.
        try feed.complete(1)
        try until("three are busy") { gate.arrived == 3 }
        #expect(staysTrue { host.statistics.threads == 3 })
        try feed.complete(5)
        try until("four are busy") { gate.arrived == 4 }
        #expect(try host.getAvailableThreads() == 0)
        #expect(staysTrue { host.statistics.threads == 4 && gate.arrived == 4 })
        gate.open()
        _ = try runtime.waitFor(8)
        try until("all are available") { try host.getAvailableThreads() == 4 }
        host.shutDown()
    }

    @Test("a raised maximum lets packets in that wait already; a raised minimum starts threads")
    func raised() throws {
        let gate = Gate()
        let (host, runtime) = try hosted(min: 1, max: 1) { _ in
        } _: { _ in
            gate.pass()
        }
        let feed = try Feed(host)
        try feed.complete(3)
        try until("one is busy") { gate.arrived == 1 }
        #expect(staysTrue { gate.arrived == 1 && host.statistics.threads == 1 })
        try host.setMaxThreads(3)
        try until("three are busy") { gate.arrived == 3 }
        gate.open()
        _ = try runtime.waitFor(3)
        try host.setMaxThreads(6)
        try host.setMinThreads(6)
        #expect(host.statistics.threads == 6)
        #expect(try host.getMinThreads() == 6)
        host.shutDown()
    }

    @Test("it shrinks to the minimum after idleness")
    func shrinks() throws {
        let gate = Gate()
        let (host, runtime) = try hosted(min: 1, max: 6) {
            $0.idleTimeout = .milliseconds(20)
        } _: { _ in
            gate.pass()
        }
        let feed = try Feed(host)
        try feed.complete(6)
        try until("six are busy") { gate.arrived == 6 }
        #expect(host.statistics.threads == 6)
        gate.open()
        _ = try runtime.waitFor(6)
        try until("one is left; there are \(host.statistics.threads)") { host.statistics.threads == 1 }
        #expect(staysTrue { host.statistics.threads == 1 })
        // And it works.
        try feed.complete(2)
        _ = try runtime.waitFor(8)
        host.shutDown()
    }

    @Test("a maximum below the busy ones: they finish and end, and none are available meanwhile; idle ones end at once")
    func lowered() throws {
        let gate = Gate()
        let (host, runtime) = try hosted(min: 0, max: 6) { _ in
        } _: { _ in
            gate.pass()
        }
        let feed = try Feed(host)
        try feed.complete(5)
        try until("five are busy") { gate.arrived == 5 }
        try host.setMaxThreads(2)
        #expect(try host.getMaxThreads() == 2)
        #expect(try host.getAvailableThreads() == 0)
        #expect(host.statistics.threads == 5)
        gate.open()
        _ = try runtime.waitFor(5)
        try until("two are left; there are \(host.statistics.threads)") { host.statistics.threads == 2 }
        try until("both are available") { try host.getAvailableThreads() == 2 }
        try host.setMaxThreads(1)
        try until("one is left") { host.statistics.threads == 1 }
        try feed.complete(4)
        _ = try runtime.waitFor(9)
        #expect(host.statistics.threads == 1)
        host.shutDown()
    }

    @Test("limits that contradict each other are E_INVALIDARG and change nothing (i9)")
    func limits() throws {
        let (host, _) = try hosted(min: 2, max: 8)
        #expect(thrown { try host.setMaxThreads(0) } == .invalidArgument)
        #expect(thrown { try host.setMaxThreads(1) } == .invalidArgument)
        #expect(thrown { try host.setMinThreads(9) } == .invalidArgument)
        #expect(try host.getMinThreads() == 2 && host.getMaxThreads() == 8)
        try host.setMinThreads(0)
        try host.setMaxThreads(.max)
        #expect(try host.getAvailableThreads() == .max)
        host.shutDown()
    }

    @Test("packets behind one whose hand-over blocks go to others, though they were taken in one batch")
    func blockedBatch() throws {
        let gates = Protected<[Gate]>([])
        let (host, runtime) = try hosted(min: 1, max: 1, limit: 1) {
            // Few, so that a hand-over is short enough for them under a sanitizer as well.
            $0.batchSize = 2
        } _: { _ in
            gates.withLock { $0.popLast() }?.pass()
        }
        let feed = try Feed(host)
        let feeds = try (0..<32).map { _ in try Feed(host) }
        var expected = 0
        // A thread that has learnt that hand-overs take long takes no batches any more; it times one round in eight. So
        // one of a few attempts meets it unaware.
        for _ in 0..<20 where host.statistics.reposted == 0 {
            try host.setMaxThreads(1)
            try until("one thread is left") { host.statistics.threads == 1 }
            for _ in 0..<9 {
                try feed.complete(1)
                expected += 1
                _ = try runtime.waitFor(expected)
            }
            // What is told of is noted before it looks for a gate.
            try until("the last of them is over") { host.statistics.busy == 0 }
            let (first, second) = (Gate(), Gate())
            gates.withLock { $0 = [second, first] }
            try feed.complete(1)
            try until("the only thread is busy") { first.arrived == 1 }
            // These wait for it: they do not take turns, being each another socket's.
            for feed in feeds { try feed.complete(1) }
            first.open()
            try until("it is busy with the first of them") { second.arrived == 1 }
            #expect(staysTrue { runtime.all.count == expected + 2 })
            // With nobody to take them they stay in their order; now somebody can.
            try host.setMaxThreads(3)
            expected += 33
            _ = try runtime.waitFor(expected)
            #expect(host.statistics.busy >= 1)
            second.open()
            try until("nothing is owed") { host.statistics.owed == 0 }
        }
        #expect(host.statistics.reposted > 0)
        #expect(Set(runtime.all.map(\.overlapped)).count == expected && runtime.all.count == expected)
        host.shutDown()
    }

    @Test("hand-overs that each block for a little while do not wait for each other in one thread's batch")
    func slowProgress() throws {
        let gate = Gate()
        let inside = Atomic<Int>(0)
        let most = Atomic<Int>(0)
        let (host, runtime) = try hosted(min: 1, max: 8, limit: 1) { _ in
        } _: { _ in
            gate.pass()
            let now = inside.add(1, ordering: .sequentiallyConsistent).newValue
            _ = most.max(now, ordering: .sequentiallyConsistent)
            usleep(3000)
            inside.subtract(1, ordering: .sequentiallyConsistent)
        }
        try host.setMaxThreads(1)
        let feed = try Feed(host)
        let feeds = try (0..<60).map { _ in try Feed(host) }
        try feed.complete(1)
        try until("the only thread is busy") { gate.arrived == 1 }
        for feed in feeds { try feed.complete(1) }
        gate.open()
        try until("it works on the others") { runtime.all.count >= 3 }
        try host.setMaxThreads(8)
        _ = try runtime.waitFor(61)
        try until("nothing is owed") { host.statistics.owed == 0 }
        #expect(most.load(ordering: .sequentiallyConsistent) > 2)
        #expect(runtime.all.count == 61)
        host.shutDown()
    }

    @Test("a runtime that ends the thread in onComplete loses neither what lies behind nor the pool")
    func endedThread() async {
        await #expect(processExitsWith: .success) { try exitTest { try PoolTests.endedThreadAlone() } }
    }

    private static func endedThreadAlone() throws {
        let deaths = Protected<Set<UInt>>([])
        let (host, runtime) = try hosted(min: 2, max: 4) {
            $0.idleTimeout = .milliseconds(200)
        } _: { (told: Told) throws(HResult) in
            // Each block ends one thread, the first time.
            if deaths.withLock({ $0.insert(told.overlapped).inserted }) { pthread_exit(nil) }
        }
        keptForEver.withLock { $0.append(runtime) }
        let feed = try Feed(host)
        for round in 1...5 {
            try feed.complete(20)
            _ = try runtime.waitFor(20 * round)
        }
        try until("nothing is owed") { host.statistics.owed == 0 }
        try until("nobody is busy") { try host.statistics.busy == 0 && host.getAvailableThreads() == 4 }
        #expect(runtime.all.count == 100)
        #expect(Set(runtime.all.map(\.overlapped)).count == 100)
        #expect(host.statistics.failedHandOvers == 100)
        // A thread that dies is counted no more before its successor is.
        try until("there are two threads again") { host.statistics.threads == 2 }
        try until("the dead are gone; there are \(hostThreads())") { hostThreads() == 2 }
        // And it works.
        deaths.withLock { deaths in for one in runtime.all { deaths.insert(one.overlapped) } }
        try feed.again(20)
        _ = try runtime.waitFor(120)
        #expect(host.statistics.failedHandOvers == 100)
        host.shutDown()
    }

    @Test("the last thread ends in onComplete while the host ends: what is in flight is handed over all the same")
    func endedThreadAtTheEnd() throws {
        let gate = Gate()
        let (near, far) = try Socket.pair()
        let isFirst = Atomic<Bool>(true)
        let (host, runtime) = try hosted(min: 1, max: 1) { _ in
        } _: { _ in
            if isFirst.exchange(false, ordering: .sequentiallyConsistent) {
                gate.pass()
                pthread_exit(nil)
            }
        }
        keptForEver.withLock { $0.append(runtime) }
        try host.bind(nil, near)
        let blocks = try (0..<10).map { _ in try Block(host) }
        for block in blocks { try near.receive(block.overlapped, into: block.buffer) }
        try writeRaw("x", to: far)
        try until("the thread is busy") { gate.arrived == 1 }
        host.shutDown()
        gate.open()
        let told = try runtime.waitFor(10)
        #expect(Set(told.map(\.overlapped)).count == 10)
        try until("nothing is owed") { host.statistics.owed == 0 }
    }

    @Test("the host ends in onComplete: by shutDown, by its last reference, by C's last reference")
    func endsFromCompletion() async {
        await #expect(processExitsWith: .success) { try exitTest { try PoolTests.endsFromCompletionAlone() } }
    }

    private static func endsFromCompletionAlone() throws {
        for way in 0..<3 {
            let box = Protected<HostIOCompletionManager?>(nil)
            let interface = Protected<UInt>(0)
            let (near, far) = try Socket.pair()
            weak var gone: HostIOCompletionManager?
            let before = hostThreads()
            var recorder: Recorder?
            var blocks: [Block] = []
            do {
                let (host, runtime) = try hosted(min: 2, max: 4) { _ in
                } _: { (told: Told) throws(HResult) in
                    guard told.error == 0 else { return }
                    let held = box.withLock { held in
                        defer { if way > 0 { held = nil } }
                        return held
                    }
                    if way == 0 { held?.shutDown() }
                    let pointer = interface.withLock { UnsafeMutablePointer<IHostIoCompletionManager>(bitPattern: $0) }
                    if let pointer { _ = pointer.pointee.lpVtbl.pointee.Release(pointer) }
                }
                gone = host
                recorder = runtime
                if way == 2 { interface.withLock { $0 = UInt(bitPattern: host.interface()) } }
                if way < 2 { box.withLock { $0 = host } }
                try host.bind(nil, near)
                blocks = try (0..<8).map { _ in try Block(host) }
                for block in blocks { try near.receive(block.overlapped, into: block.buffer) }
            }
            #expect(gone != nil)
            try writeRaw("x", to: far)
            let told = try #require(recorder).waitFor(8)
            #expect(told.count { $0.error == 0 } == 1 && told.count { $0.error == 995 } == 7)
            try until("the threads have ended") { hostThreads() == before }
            if way > 0 { #expect(gone == nil) }
        }
    }

    @Test("ports asked for and handles bound while the host ends: a port or a refusal, never a crash or a leak")
    func endRaces() async {
        await #expect(processExitsWith: .success) { try exitTest { try PoolTests.endRacesAlone() } }
    }

    private static func endRacesAlone() throws {
        let before = hostThreads()
        for _ in 0..<200 {
            let (host, _) = try hosted()
            let (near, _) = try Socket.pair()
            let creator = Thread {
                for _ in 0..<5 {
                    let result = thrown { try host.createIOCompletionPort() }
                    precondition(result == nil || result == .clrNotAvailable)
                }
                let result = thrown { try host.bind(nil, near) }
                precondition(result == nil || result == .clrNotAvailable)
            }
            host.shutDown()
            creator.join()
            #expect(thrown { try host.createIOCompletionPort() } == .clrNotAvailable)
        }
        try until("the threads have ended") { hostThreads() == before }
    }

    @Test(
        "a runtime that throws ends nothing but its call; one that throws E_FAIL is unusable, and is still told the rest"
    )
    func throwing() throws {
        let count = Atomic<Int>(0)
        let (host, runtime) = try hosted { _ in
        } _: { (_: Told) throws(HResult) in
            switch count.add(1, ordering: .sequentiallyConsistent).newValue {
            case 1: throw .interrupted
            case 3: throw .fail
            default: break
            }
        }
        let feed = try Feed(host)
        try feed.complete(2)
        _ = try runtime.waitFor(2)
        try until("the throw is counted") { host.statistics.failedHandOvers == 1 }
        #expect(try host.getMaxThreads() == 8)
        try feed.complete(1)
        try until("the failure is believed") { thrown { try host.getMaxThreads() } == .clrNotAvailable }
        #expect(thrown { try host.createIOCompletionPort() } == .clrNotAvailable)
        #expect(thrown { try host.getHostOverlappedSize() } == .clrNotAvailable)
        let block = try Block(ScriptedSize(), isReady: false)
        #expect(thrown { try host.initializeHostOverlapped(block.memory) } == .clrNotAvailable)
        host.shutDown()
    }

    @Test("the last reference goes while threads work and operations are in flight: all is handed over, then they end")
    func lastReference() async {
        await #expect(processExitsWith: .success) { try exitTest { try PoolTests.lastReferenceAlone() } }
    }

    private static func lastReferenceAlone() throws {
        let before = hostThreads()
        let gate = Gate()
        let (near, far) = try Socket.pair()
        let told = Protected<[Told]>([])
        weak var gone: Recorder?
        var blocks: [Block] = []
        do {
            let (host, runtime) = try hosted { _ in
            } _: { (one: Told) throws(HResult) in
                gate.pass()
                told.withLock { $0.append(one) }
            }
            gone = runtime
            try host.bind(nil, near)
            blocks = try (0..<20).map { _ in try Block(host) }
            for block in blocks { try near.receive(block.overlapped, into: block.buffer) }
            try writeRaw("x", to: far)
            try until("a thread is busy") { gate.arrived >= 1 }
        }
        #expect(gone != nil)
        gate.open()
        try until("all are told; \(told.withLock { $0.count }) are") { told.withLock { $0.count } == 20 }
        #expect(Set(told.withLock { $0 }.map(\.overlapped)) == Set(blocks.map(\.address)))
        #expect(told.withLock { $0.count { $0.error == 0 } } == 1)
        try until("the runtime is let go of") { gone == nil }
        try until("the threads have ended") { hostThreads() == before }
        #expect(thrownCode { try near.receive(blocks[0].overlapped, into: blocks[0].buffer) } == 6)
    }

    @Test("available threads stay between 0 and the maximum while limits and load change (i10)")
    func alwaysWithin() throws {
        let (host, runtime) = try hosted(min: 0, max: 8)
        let feed = try Feed(host)
        let stop = CompletionEvent()
        let wrong = Atomic<Int>(0)
        let looking = Thread {
            while !stop.isSet {
                guard let available = try? host.getAvailableThreads() else { continue }
                if available > 8 { wrong.add(1, ordering: .relaxed) }
                if host.statistics.threads > 8 { wrong.add(1, ordering: .relaxed) }
                guard let maximum = try? host.getMaxThreads() else { continue }
                if maximum < 1 || maximum > 8 { wrong.add(1, ordering: .relaxed) }
            }
        }
        let changing = Thread {
            var number: UInt32 = 1
            while !stop.isSet {
                number = number % 8 + 1
                try? host.setMaxThreads(number)
            }
        }
        for round in 1...50 {
            try feed.complete(20)
            _ = try runtime.waitFor(20 * round)
        }
        stop.set()
        looking.join()
        changing.join()
        #expect(wrong.load(ordering: .relaxed) == 0)
        #expect(runtime.all.count == 1000)
        host.shutDown()
    }
}

/// A host that only knows its size, for blocks of a host that has failed.
private final class ScriptedSize: IOCompletionHost {
    func createIOCompletionPort() throws(HResult) -> HostHandle { throw .notImplemented }
    func closeIOCompletionPort(_ port: HostHandle) throws(HResult) { throw .notImplemented }
    func setMaxThreads(_ count: UInt32) throws(HResult) { throw .notImplemented }
    func getMaxThreads() throws(HResult) -> UInt32 { throw .notImplemented }
    func getAvailableThreads() throws(HResult) -> UInt32 { throw .notImplemented }
    func getHostOverlappedSize() throws(HResult) -> UInt32 { 512 }
    func setCLRIOCompletionManager(_ manager: (any CLRIOCompletionManager)?) throws(HResult) {}
    func initializeHostOverlapped(_ overlapped: UnsafeMutableRawPointer?) throws(HResult) {}
    func bind(_ port: HostHandle?, _ handle: HostHandle) throws(HResult) { throw .notImplemented }
    func setMinThreads(_ count: UInt32) throws(HResult) { throw .notImplemented }
    func getMinThreads() throws(HResult) -> UInt32 { throw .notImplemented }
}
