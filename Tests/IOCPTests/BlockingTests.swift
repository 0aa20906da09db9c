import Glibc
import Synchronization
import Testing

@testable import IOCP

/// Ways to block in the kernel that the library knows nothing of. Each returns once `release` was called.
private enum Blocker: String, CaseIterable, Sendable {
    case pipeRead, lock, poll, sleep

    /// A way in and the way out.
    func make() -> (block: @Sendable () -> Void, release: @Sendable () -> Void) {
        switch self {
        case .pipeRead, .poll:
            var ends: [Int32] = [0, 0]
            precondition(pipe(&ends) == 0)
            let (reader, writer) = (ends[0], ends[1])
            let isPoll = self == .poll
            return (
                {
                    if isPoll {
                        var interest = pollfd(fd: reader, events: Int16(POLLIN), revents: 0)
                        while unsafe Glibc.poll(&interest, 1, -1) != 1 {}
                    }
                    var byte: UInt8 = 0
                    // The completion of an operation of the thread's own interrupts no read, but a signal may.
                    while read(reader, &byte, 1) != 1 {}
                    close(reader)
                },
                {
                    var byte: UInt8 = 1
                    precondition(write(writer, &byte, 1) == 1)
                    close(writer)
                }
            )
        case .lock:
            let semaphore = Semaphore()
            return ({ semaphore.wait() }, { semaphore.post() })
        case .sleep:
            let done = Protected(false)
            return ({ while !done.withLock({ $0 }) { usleep(20_000) } }, { done.withLock { $0 = true } })
        }
    }
}

/// A semaphore of the C library's: its waiters sleep on a futex.
@safe private final class Semaphore: Sendable {
    private nonisolated(unsafe) let word: UnsafeMutablePointer<sem_t>

    init() {
        unsafe word = .allocate(capacity: 1)
        unsafe sem_init(word, 0, 0)
    }

    deinit { unsafe word.deallocate() }

    func wait() { while unsafe sem_wait(word) != 0 {} }
    func post() { unsafe sem_post(word) }
}

/// Ends the thread by the system call alone: no destructor runs.
private func exitRaw() -> Never {
    typealias SystemCall = @convention(c) (Int, Int) -> Int
    let call = unsafe unsafeBitCast(dlsym(nil, "syscall"), to: SystemCall.self)
    #if arch(x86_64)
    let number = 60
    #else
    let number = 93
    #endif
    _ = call(number, 0)
    fatalError("the thread went on")
}

/// Waits until the monitor has gone to sleep, by and by, having nothing to look at. Tests of others may keep it awake.
private func letMonitorSleep() {
    var wakeUps = -1
    let end = ContinuousClock.now + .seconds(2)
    while wakeUps != Observer.wakeUps.load(ordering: .relaxed), ContinuousClock.now < end {
        wakeUps = Observer.wakeUps.load(ordering: .relaxed)
        usleep(50_000)
    }
}

@Suite("Threads that block on something the library does not know of (d7–d10)", .serialized)
struct BlockingTests {
    @Test("a thread that comes long after the holder has blocked gets what waits (d7)")
    func lateComer() throws {
        let (block, release) = Blocker.pipeRead.make()
        try withPort(limit: 1, threads: 2) { port, threads in
            defer { release() }
            try port.post(key: 1)
            #expect(try threads[0].dequeue(port).value()?.key == 1)
            let blocked = threads[0].start { block() }
            try port.post(key: 2)
            // Nobody waits, so nobody looks.
            letMonitorSleep()
            #expect(try threads[1].dequeue(port).value()?.key == 2)
            #expect(!blocked.isDone)
        }
    }

    @Test("posts in quick succession look at the holders now and then; another port's are not spared it")
    func quickPosts() throws {
        try withPort(limit: 1, threads: 2) { port, threads in
            // However slow the machine is.
            port.core.quickSpell.store(.max, ordering: .relaxed)
            #expect(try threads[0].perform { try port.dequeue(timeout: .zero) == nil })
            _ = threads[1].waits(on: port)
            let other = try CompletionPort(concurrencyLimit: 1)
            let me = IOThread.current
            var counts: Set<Int> = []
            for _ in 0..<10_000 {
                try port.post(key: 1)
                counts.insert(me.sparedLooks)
            }
            // Each of them: it was filled again and again, and used up.
            #expect(counts.isSuperset(of: 0...IOThread.mostSparedLooks))
            while me.sparedLooks == 0 { try port.post(key: 1) }
            #expect(!me.takeSparedLook(at: other.core))
            #expect(me.takeSparedLook(at: port.core))
        }
    }

    @Test("a post after quick ones looks at nobody and wakes the monitor: a blocked holder is found all the same (d7)")
    func sparedPost() throws {
        let (block, release) = Blocker.pipeRead.make()
        try withPort(limit: 1, threads: 2) { port, threads in
            defer { release() }
            let spell = port.core.quickSpell.exchange(.max, ordering: .relaxed)
            #expect(try threads[0].perform { try port.dequeue(timeout: .zero) == nil })
            let waiting = threads[1].waits(on: port)
            let me = IOThread.current
            var posts = 0
            while posts < 1000 || me.sparedLooks < 2 {
                try port.post(key: 1)
                posts += 1
                try #require(posts < 100_000)
            }
            try threads[0].perform { [posts] in for _ in 0..<posts { _ = try port.dequeue() } }
            // Not before: nobody is to take that thread, which may wait for a page, for a blocked one.
            port.core.quickSpell.store(spell, ordering: .relaxed)
            let blocked = threads[0].start { block() }
            // Nothing is queued.
            letMonitorSleep()
            try port.post(key: 2)
            #expect(try waiting.value()?.key == 2)
            #expect(!blocked.isDone)
        }
    }

    @Test("a post finds the holder blocked and wakes the next waiter (d7, test 40)", arguments: Blocker.allCases)
    fileprivate func postFindsBlockedHolder(_ blocker: Blocker) throws {
        let (block, release) = blocker.make()
        try withPort(limit: 1, threads: 2) { port, threads in
            defer { release() }
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            #expect(try b.value()?.key == 1)
            let blocked = threads[1].start(block)
            try port.post(key: 2)
            #expect(try a.value()?.key == 2)
            #expect(!blocked.isDone)
            let statistics = try port.statistics
            #expect(statistics.blocked == 1 && statistics.handOvers == 1)
            #expect(statistics.running == 1)
        }
    }

    @Test("packets that were queued before the holder blocked are handed on by the monitor (d7, test 40)")
    func monitorFindsBlockedHolder() throws {
        let (block, release) = Blocker.lock.make()
        try withPort(limit: 1, threads: 2) { port, threads in
            defer { release() }
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            #expect(try b.value()?.key == 1)
            // B is busy: nobody else may run.
            try port.post(key: 2)
            #expect(staysTrue { !a.isDone })
            threads[1].start(block)
            #expect(try a.value()?.key == 2)
        }
    }

    @Test("a holder that blocks again and again, and only shortly, is found by the monitor (d7)")
    func shortBlocks() throws {
        try withPort(limit: 1, threads: 2) { port, threads in
            let done = Protected(false)
            defer { done.withLock { $0 = true } }
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            #expect(try b.value()?.key == 1)
            let holder = threads[1].start { while !done.withLock({ $0 }) { usleep(500) } }
            // The post's own look may meet it between two blocks; nothing else looks but the monitor.
            try port.post(key: 2)
            #expect(try a.value()?.key == 2)
            #expect(!holder.isDone)
        }
    }

    @Test("completions that arrive while the only holder is blocked go to a waiter (d7)", arguments: Blocker.allCases)
    fileprivate func completionsFindBlockedHolder(_ blocker: Blocker) throws {
        let (block, release) = blocker.make()
        let (reader, writer) = try Socket.pair()
        try withPort(limit: 1, threads: 2) { port, threads in
            defer { release() }
            try port.associate(reader, key: 7)
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            #expect(try b.value()?.key == 1)
            // The operation is the blocked thread's own, in its own ring.
            threads[1].start {
                try reader.receive(IOCP.Operation(capacity: 16), start: .deferred)
            }
            let blocked = threads[1].start(block)
            writeRaw("x", to: writer)
            let seen = try a.value()
            #expect(seen?.key == 7 && seen?.information == 1)
            #expect(!blocked.isDone)
        }
    }

    @Test("a thread that goes on is counted: then both run, and the next packet is its own (d10, test 43)")
    func resumedHolderIsCounted() throws {
        let (block, release) = Blocker.pipeRead.make()
        try withPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            #expect(try b.value()?.key == 1)
            let blocked = threads[1].start(block)
            try port.post(key: 2)
            #expect(try a.value()?.key == 2)
            release()
            try blocked.value()
            // Both run. Looked at again at most 1.6 ms later.
            #expect(
                try becomesTrue {
                    try port.post(key: 3)
                    return port.core.snapshot.running == 2
                })
            let again = threads[0].waits(on: port)
            #expect(staysTrue { !again.isDone })
            #expect(port.core.snapshot.running == 1 && port.core.snapshot.queued > 0)
            #expect(try threads[1].dequeue(port).value()?.key == 3)
        }
    }

    @Test(
        "handlers that each wait for the handler of the next packet all end, one running at a time (d7, d9, d10)",
        arguments: Blocker.allCases)
    fileprivate func chain(_ blocker: Blocker) throws {
        let count = 6
        let links = (0..<count).map { _ in blocker.make() }
        let port = try CompletionPort(concurrencyLimit: 1)
        let workers = (0...count).map { _ in
            SideThread {
                var handled = 0
                while let packet = try port.dequeue(timeout: patience), packet.key != UInt.max {
                    let number = Int(packet.key)
                    if number > 0 { links[number - 1].release() }
                    if number < count { links[number].block() }
                    handled += 1
                }
                return handled
            }
        }
        try port.untilWaiting(workers.count)
        for number in 0...count { try port.post(key: UInt(number)) }
        // Each is blocked until the last has run.
        try until("all have gone on") { port.core.snapshot.waiting == workers.count }
        for _ in workers { try port.post(key: .max) }
        var handled = 0
        for worker in workers { handled += try worker.join() }
        #expect(handled == count + 1)
    }

    @Test("a computing holder is never taken for a blocked one (d6, d8)")
    func computingHolderKeepsItsPlace() throws {
        try withPort(limit: 1, threads: 2) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            #expect(try b.value()?.key == 1)
            #expect(
                try staysTrue(for: 300) {
                    try port.post(key: 2)
                    return !a.isDone
                })
            #expect(try port.statistics.handOvers == 0)
        }
    }

    @Test("a holder that sleeps for a lock of the library's own keeps its place (d7)")
    func holderInLibraryKeepsItsPlace() throws {
        let (reader, writer) = try Socket.pair()
        try withPort(limit: 1, threads: 3) { port, threads in
            try port.associate(reader, key: 7)
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            #expect(try b.value()?.key == 1)
            let identifier = try threads[1].perform { IOThread.current.identifier }
            // As another thread's harvest or start would hold it, preempted.
            port.core.slots[0].lock.lock()
            let starting = threads[1].start { _ = try reader.receive(IOCP.Operation(capacity: 16)) }
            #expect(becomesTrue { ThreadProbe.state(of: identifier) == .sleeps })
            // The post looks at it, and the monitor. Not a post of this thread's: to take over needs that lock as well.
            let posting = threads[2].start { try port.post(key: 2) }
            #expect(becomesTrue { posting.isDone })
            #expect(staysTrue { !a.isDone })
            #expect(!starting.isDone)
            port.core.slots[0].lock.unlock()
            try starting.value()
            #expect(try port.statistics.handOvers == 0)
        }
        try writer.close()
    }

    @Test("a port whose holders keep computing looks at them less and less often")
    func looksBecomeRare() throws {
        try withPort(limit: 2, threads: 3) { port, threads in
            let waiting = threads.map { $0.waits(on: port) }
            for key: UInt in 1...2 { try port.post(key: key) }
            #expect(try waiting[2].value()?.key == 1)
            #expect(try waiting[1].value()?.key == 2)
            let stops = Protected(false)
            let computing = threads[1...2].map { thread in
                thread.start { while !stops.withLock({ $0 }) {} }
            }
            defer { stops.withLock { $0 = true } }
            #expect(
                try becomesTrue {
                    try port.post(key: 3)
                    port.core.lock.lock()
                    defer { port.core.lock.unlock() }
                    return port.core.lookPause > 1_000_000
                })
            #expect(!waiting[0].isDone)
            stops.withLock { $0 = true }
            for thread in computing { try thread.value() }
        }
    }

    @Test("a port that does not look for blocked threads waits for them")
    func seesBlockingIsAnOption() throws {
        let (block, release) = Blocker.lock.make()
        var options = CompletionPort.Options()
        options.seesBlocking = false
        try withPort(limit: 1, threads: 2, options: options) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            #expect(try b.value()?.key == 1)
            let blocked = threads[1].start(block)
            try port.post(key: 2)
            #expect(staysTrue { !a.isDone })
            release()
            try blocked.value()
            #expect(try threads[1].dequeue(port).value()?.key == 2)
        }
    }

    @Test("a region gives the place up at once and takes it again at its end (d7, d10)")
    func region() throws {
        let (block, release) = Blocker.lock.make()
        var options = CompletionPort.Options()
        options.seesBlocking = false
        try withPort(limit: 1, threads: 2, options: options) { port, threads in
            let a = threads[0].waits(on: port)
            let b = threads[1].waits(on: port)
            try port.post(key: 1)
            #expect(try b.value()?.key == 1)
            try port.post(key: 2)
            let blocked = threads[1].start {
                withBlockingRegion {
                    withBlockingRegion(block); return 5
                }
            }
            #expect(try a.value()?.key == 2)
            #expect(port.core.snapshot.running == 1)
            release()
            #expect(try blocked.value() == 5)
            #expect(port.core.snapshot.running == 2)
        }
    }

    @Test("an error thrown in a region ends it, and a region outside of any port is nothing")
    func regionEnds() throws {
        struct Refused: Error {}
        @Sendable func refuse() throws(Refused) { try withBlockingRegion { () throws(Refused) in throw Refused() } }
        #expect(throws: Refused.self) { try refuse() }
        try withPort(limit: 1, threads: 1) { (port, threads) throws -> Void in
            let none = try threads[0].dequeue(port, timeout: .zero).value()
            #expect(none == nil)
            #expect(throws: Refused.self) { try threads[0].perform { try refuse() } }
            #expect(port.core.snapshot.running == 1)
        }
    }

    @Test("a region may hold a dequeue, of this port or another, and an exit of its thread (d13, d14)")
    func regionAroundDequeue() throws {
        let other = try CompletionPort(concurrencyLimit: 1)
        try withPort(limit: 2, threads: 2) { port, threads in
            try port.post(key: 1)
            try other.post(key: 2)
            let keys = try threads[0].perform {
                let first = try port.dequeue()?.key
                let second = try withBlockingRegion { try other.dequeue()?.key }
                return [first, second]
            }
            #expect(keys == [1, 2])
            #expect(port.core.snapshot.running == 0 && other.core.snapshot.running == 1)
            threads[0].exit()
            #expect(other.core.snapshot.running == 0)
            let blocked = try [port.statistics.blocked, other.statistics.blocked]
            #expect(blocked == [0, 0])
        }
    }

    @Test("a thread that ends without a word to the C library gives its place back all the same (d14)")
    func rawExit() throws {
        try withPort(limit: 1, threads: 1) { port, threads in
            let a = threads[0].waits(on: port)
            // Its stack and its thread-local memory are never given back; that is what such an end costs.
            var thread = pthread_t()
            let core = port.core
            let code = unsafe pthread_create(
                &thread, nil,
                { argument in
                    let core = unsafe Unmanaged<PortCore>.fromOpaque(argument!).takeUnretainedValue()
                    let room = UnsafeMutableBufferPointer<Packet>.allocate(capacity: 1)
                    _ = unsafe try? core.dequeue(into: room, .immediate, alertable: false)
                    exitRaw()
                }, Unmanaged.passUnretained(core).toOpaque())
            #expect(code == 0)
            pthread_detach(thread)
            #expect(becomesTrue { port.core.snapshot.running == 1 })
            try port.post(key: 1)
            #expect(try a.value()?.key == 1)
        }
    }
}
