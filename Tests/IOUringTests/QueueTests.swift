import Glibc
import IOUring
import Synchronization
import SystemPackage
import Testing

@Suite struct `Submitting and completing` {
    @Test func `An entry is 64 bytes and a time 16`() {
        #expect(MemoryLayout<SubmissionEntry>.size == 64)
        #expect(MemoryLayout<KernelTime>.size == 16)
    }

    @Test func `What is set on an entry is read back`() {
        var entry = SubmissionEntry.nop()
        entry.userData = .max
        entry.flags = [.link, .async]
        entry.bufferGroup = 0xABCD
        entry.ioPriorityFlags = 0x1234
        entry.fileIndex = 7
        #expect(entry.operation == .nop)
        #expect(entry.userData == .max)
        #expect(entry.flags == [.link, .async])
        #expect(entry.bufferGroup == 0xABCD)
        #expect(entry.ioPriorityFlags == 0x1234)
        #expect(entry.fileIndex == 7)
    }

    @Test func `The flags of a completion are told apart`() {
        let plain = Completion(userData: 1, result: 2)
        #expect(!plain.more && !plain.isNotification && !plain.socketNonEmpty && !plain.bufferMore)
        #expect(plain.bufferID == nil)
        let full = Completion(userData: 1, result: 2, flags: 0xBEEF_001F)
        #expect(full.more && full.isNotification && full.socketNonEmpty && full.bufferMore)
        #expect(full.bufferID == 0xBEEF)
    }

    @Test func `A batch completes in order, many times around the queue`() throws {
        var ring = try Ring(RingOptions(submissionEntries: 8, completionEntries: 16))
        for round in 0..<50 as Range<UInt64> {
            let entries = (0..<7).map { SubmissionEntry.nop().tagged(round * 7 + $0) }
            let completions = try ring.run(entries)
            #expect(completions.map(\.userData) == Array(round * 7..<round * 7 + 7))
            #expect(completions.allSatisfy { $0.result == 0 })
        }
    }

    @Test func `An entry that is not published is not seen`() throws {
        var ring = try smallRing()
        let taken = ring.enqueue(.nop())
        #expect(taken)
        let submitter = ring.submitter
        #expect(submitter.unsubmitted == 0)
        #expect(submitter.enter(submit: 1, minimumCompletions: 0, flags: []) == 0)
        ring.publish()
        #expect(submitter.unsubmitted == 1)
        #expect(submitter.enter(submit: 1, minimumCompletions: 1, flags: .getEvents) == 1)
        #expect(submitter.unsubmitted == 0)
        #expect(submitter.completionsReady == 1)
        let ready = ring.completionsReady
        #expect(ready == 1)
        ring.advance(by: 1)
        #expect(submitter.completionsReady == 0)
    }

    @Test func `A full queue takes no more, and takes again after submitting`() throws {
        var ring = try Ring(RingOptions(submissionEntries: 4, completionEntries: 8))
        for _ in 0..<4 {
            let taken = ring.enqueue(.nop())
            #expect(taken)
        }
        var taken = ring.enqueue(.nop())
        var space = ring.submissionSpace
        #expect(!taken)
        #expect(space == 0)
        let count = try ring.submit()
        #expect(count == 4)
        space = ring.submissionSpace
        #expect(space == 4)
        taken = ring.enqueue(.nop())
        #expect(taken)
        let completions = try ring.collect(5)
        #expect(completions.count == 5)
    }

    @Test func `Submitting nothing is nothing`() throws {
        var ring = try smallRing()
        let count = try ring.submit()
        #expect(count == 0)
        let any = try ring.submitAndWait(for: 0)
        #expect(!any)
    }

    @Test(.kernel { $0.nopResults })
    func `An injected result comes back where the kernel knows how`() throws {
        var ring = try smallRing()
        let results = try ring.results([
            SubmissionEntry.nop(result: 1234).tagged(1), SubmissionEntry.nop(result: -EIO).tagged(2),
        ])
        #expect(results == [1: 1234, 2: -EIO])
    }

    @Test func `A full completion queue loses nothing`() throws {
        var ring = try Ring(RingOptions(submissionEntries: 8, completionEntries: 16))
        let total = 400 as UInt64
        var next = 0 as UInt64
        var seen = Set<UInt64>()
        var overflowed = false
        while seen.count < Int(total) {
            // Submits all there is before taking any: far more than the queue holds.
            while next < total {
                guard ring.enqueue(SubmissionEntry.nop().tagged(next)) else {
                    try ring.submit()
                    continue
                }
                next += 1
            }
            try ring.submit()
            let submitter = ring.submitter
            if submitter.overflowPending {
                overflowed = true
                #expect(submitter.needsEnter)
            }
            let taken = ring.forEachCompletion {
                let fresh = seen.insert($0.userData).inserted
                #expect(fresh)
            }
            #expect(taken > 0 || submitter.needsEnter)
            if submitter.needsEnter {
                #expect(submitter.enter(submit: 0, minimumCompletions: 0, flags: .getEvents) == 0)
            }
        }
        #expect(overflowed)
        #expect(seen == Set(0..<total))
        let (ready, pending) = (ring.completionsReady, ring.submitter.overflowPending)
        #expect(ready == 0)
        #expect(!pending)
    }

    @Test func `Harvesting stops at either end`() throws {
        var ring = try smallRing()
        for tag in 0..<5 as Range<UInt64> { _ = ring.enqueue(SubmissionEntry.nop().tagged(tag)) }
        try ring.submitAndWait(for: 5)
        let room = UnsafeMutableBufferPointer<Completion>.allocate(capacity: 3)
        defer { unsafe room.deallocate() }
        var count = unsafe ring.harvest(into: room)
        #expect(count == 3)
        var tags = unsafe room.map(\.userData)
        #expect(tags == [0, 1, 2])
        count = unsafe ring.harvest(into: room)
        #expect(count == 2)
        tags = unsafe room.prefix(2).map(\.userData)
        #expect(tags == [3, 4])
        count = unsafe ring.harvest(into: room)
        #expect(count == 0)
    }

    @Test func `What a failing visitor has not seen stays`() throws {
        struct Stop: Error {}
        var ring = try smallRing()
        for tag in 0..<4 as Range<UInt64> { _ = ring.enqueue(SubmissionEntry.nop().tagged(tag)) }
        try ring.submitAndWait(for: 4)
        do throws(Stop) {
            try ring.forEachCompletion { (completion) throws(Stop) in if completion.userData == 1 { throw Stop() } }
            Issue.record("did not stop")
        } catch {}
        var rest: [UInt64] = []
        ring.forEachCompletion { rest.append($0.userData) }
        #expect(rest == [2, 3])
    }

    @Test func `An unknown operation fails alone`() throws {
        var ring = try smallRing()
        // Closing a bad descriptor, and a request that cannot be prepared, between two good ones.
        var bad = SubmissionEntry.nop().tagged(2)
        bad.flags = EntryFlags(rawValue: 0x80)
        let results = try ring.results([
            SubmissionEntry.nop().tagged(1), bad, SubmissionEntry.close(-1).tagged(3), SubmissionEntry.nop().tagged(4),
        ])
        #expect(results == [1: 0, 2: -EINVAL, 3: -EBADF, 4: 0])
    }

    @Test func `Without submitAll a bad entry ends the batch, and the rest follows later`() throws {
        var ring = try smallRing([])
        var bad = SubmissionEntry.nop().tagged(1)
        bad.flags = EntryFlags(rawValue: 0x80)
        _ = ring.enqueue(bad)
        _ = ring.enqueue(SubmissionEntry.nop().tagged(2))
        let first = try ring.submit()
        #expect(first == 1)
        let completions = try ring.collect(2)
        #expect(completions.map(\.userData) == [1, 2])
    }

    @Test func `Linked entries run in order, and a failure cancels the rest`() throws {
        var ring = try smallRing()
        let completions = try ring.run([
            SubmissionEntry.nop().tagged(1, .link), SubmissionEntry.close(-1).tagged(2, .link),
            SubmissionEntry.nop().tagged(3, .link), SubmissionEntry.nop().tagged(4),
        ])
        #expect(completions.map(\.userData) == [1, 2, 3, 4])
        #expect(completions.map(\.result) == [0, -EBADF, -ECANCELED, -ECANCELED])
    }

    @Test func `A hard link survives a failure`() throws {
        var ring = try smallRing()
        let file = try temporaryFile()
        let memory = Memory(8)
        // Reading an empty file gives less than asked for, which breaks a link but not a hard one.
        let completions = try unsafe ring.run([
            SubmissionEntry.read(file.value, into: memory.base, count: 8, offset: 0).tagged(1, .hardLink),
            SubmissionEntry.nop().tagged(2),
        ])
        #expect(completions.map(\.result) == [0, 0])
    }

    @Test func `Success can be silent`() throws {
        var ring = try smallRing()
        let completions = try ring.run(
            [
                SubmissionEntry.nop().tagged(1, .skipSuccess), SubmissionEntry.close(-1).tagged(2, .skipSuccess),
                SubmissionEntry.nop().tagged(3),
            ], completions: 2)
        #expect(Set(completions.map(\.userData)) == [2, 3])
    }

    @Test func `Advancing past the end is caught in debug builds`() async {
        #if DEBUG
        await #expect(processExitsWith: .failure) {
            var ring = try Ring()
            ring.advance(by: 1)
        }
        #endif
    }

    @Test func `Several threads drive one ring`() throws {
        let ring = Locked(try Ring(RingOptions(submissionEntries: 16, completionEntries: 64)))
        let submitter = ring.submitting { $0.submitter }
        let total = 20_000
        let collected = Atomic<Int>(0)
        let sum = Atomic<Int>(0)
        let shared = Shared(ring: ring, collected: collected, sum: sum)
        do {
            let submitters = (0..<2).map { part in
                JoinedThread {
                    for number in stride(from: part, to: total, by: 2) {
                        // Enqueue and publish under the lock, enter without it.
                        while !shared.ring.submitting({
                            let taken = $0.enqueue(SubmissionEntry.nop().tagged(UInt64(number)))
                            $0.publish()
                            return taken
                        }) {
                            _ = submitter.enter(submit: submitter.unsubmitted, minimumCompletions: 0, flags: [])
                        }
                        if number % 4 == part {
                            _ = submitter.enter(submit: submitter.unsubmitted, minimumCompletions: 0, flags: [])
                        }
                    }
                    _ = submitter.enter(submit: submitter.unsubmitted, minimumCompletions: 0, flags: [])
                }
            }
            let collectors = (0..<2).map { _ in
                JoinedThread {
                    let start = now()
                    while shared.collected.load(ordering: .relaxed) < total, now() - start < .seconds(60) {
                        if submitter.completionsReady == 0 {
                            _ = submitter.enter(
                                submit: 0, minimumCompletions: 1, flags: .getEvents, timeoutNanoseconds: 1_000_000)
                        }
                        shared.ring.completing { ring in
                            _ = ring.forEach {
                                shared.sum.wrappingAdd(Int($0.userData), ordering: .relaxed)
                                shared.collected.wrappingAdd(1, ordering: .relaxed)
                            }
                        }
                    }
                }
            }
            for thread in submitters + collectors { thread.join() }
        }
        #expect(shared.collected.load(ordering: .relaxed) == total)
        #expect(shared.sum.load(ordering: .relaxed) == total * (total - 1) / 2)
    }
}

final class Shared: Sendable {
    let ring: Locked
    let collected: Atomic<Int>
    let sum: Atomic<Int>
    init(ring: Locked, collected: consuming Atomic<Int>, sum: consuming Atomic<Int>) {
        self.ring = ring
        self.collected = collected
        self.sum = sum
    }
}

@Suite struct `Waiting` {
    @Test func `Waiting without a completion ends in time`() throws {
        var ring = try smallRing()
        let start = now()
        let any = try ring.submitAndWait(timeout: .milliseconds(30))
        #expect(!any)
        #expect(now() - start >= .milliseconds(30))
    }

    @Test func `Entering with a timeout says that the time was up`() throws {
        let ring = try smallRing()
        let submitter = ring.submitter
        let start = now()
        let code = submitter.enter(submit: 0, minimumCompletions: 1, flags: .getEvents, timeoutNanoseconds: 20_000_000)
        #expect(code == -ETIME)
        #expect(now() - start >= .milliseconds(20))
        #expect(
            submitter.enter(submit: 0, minimumCompletions: 1, flags: .getEvents, timeoutNanoseconds: 0) == -ETIME)
        if ring.features.contains(.noIOWait) {
            let code = submitter.enter(
                submit: 0, minimumCompletions: 1, flags: [.getEvents, .noIOWait], timeoutNanoseconds: 1000)
            #expect(code == -ETIME)
        }
        _ = ring.features
    }

    @Test func `Waiting for more than the queue holds waits for a full one`() throws {
        var ring = try Ring(RingOptions(submissionEntries: 4, completionEntries: 4))
        for _ in 0..<4 { _ = ring.enqueue(.nop()) }
        let any = try ring.submitAndWait(for: 1000, timeout: patience)
        let ready = ring.completionsReady
        #expect(any)
        #expect(ready == 4)
    }

    @Test func `A signal interrupts entering, but not the wait of the convenience`() throws {
        signal(SIGUSR2) { _ in }
        // On a thread of its own: those that run tests block all signals.
        JoinedThread {
            var signals = sigset_t()
            unsafe sigemptyset(&signals)
            unsafe sigaddset(&signals, SIGUSR2)
            unsafe pthread_sigmask(SIG_UNBLOCK, &signals, nil)
            let thread = pthread_self()
            let done = Flag()
            let disturber = JoinedThread {
                while !done.isSet {
                    usleep(5000)
                    pthread_kill(thread, SIGUSR2)
                }
            }
            guard var ring = try? smallRing() else {
                Issue.record("no ring")
                return
            }
            let code = ring.submitter.enter(
                submit: 0, minimumCompletions: 1, flags: .getEvents, timeoutNanoseconds: 5_000_000_000)
            #expect(code == -EINTR)
            let start = now()
            let any = try? ring.submitAndWait(timeout: .milliseconds(100))
            let time = now() - start
            done.set()
            disturber.join()
            #expect(any == false)
            #expect(time >= .milliseconds(100))
        }.join()
    }

    @Test func `A timeout goes off`() throws {
        var ring = try smallRing()
        var time = KernelTime(nanoseconds: 20_000_000)
        let start = now()
        let entry = unsafe SubmissionEntry.timeout(&time).tagged(1)
        let completions = try ring.run([entry])
        #expect(completions == [Completion(userData: 1, result: -ETIME)])
        #expect(now() - start >= .milliseconds(20))
    }

    @Test func `A timeout counts completions`() throws {
        var ring = try smallRing()
        let time = UnsafeMutablePointer<KernelTime>.allocate(capacity: 1)
        defer { unsafe time.deallocate() }
        unsafe time.initialize(to: KernelTime(seconds: 60))
        let results = try unsafe ring.results([
            SubmissionEntry.timeout(time, count: 2).tagged(1), SubmissionEntry.nop().tagged(2),
            SubmissionEntry.nop().tagged(3),
        ])
        #expect(results == [1: 0, 2: 0, 3: 0])
    }

    @Test func `A timeout can be removed and given a new time`() throws {
        var ring = try smallRing()
        let times = UnsafeMutablePointer<KernelTime>.allocate(capacity: 2)
        defer { unsafe times.deallocate() }
        unsafe times.initialize(to: KernelTime(seconds: 60))
        unsafe (times + 1).initialize(to: KernelTime(nanoseconds: 1_000_000))
        let removed = try unsafe ring.results([
            SubmissionEntry.timeout(times).tagged(1), SubmissionEntry.timeoutRemove(userData: 1).tagged(2),
        ])
        #expect(removed == [1: -ECANCELED, 2: 0])
        let updated = try unsafe ring.results([
            SubmissionEntry.timeout(times).tagged(3),
            SubmissionEntry.timeoutUpdate(userData: 3, to: times + 1).tagged(4),
        ])
        #expect(updated == [3: -ETIME, 4: 0])
    }

    @Test func `A linked timeout cancels its entry, or is cancelled by it`() throws {
        var ring = try smallRing()
        let pair = try socketPair()
        let left = try Descriptor(pair.0)
        let right = try Descriptor(pair.1)
        let memory = Memory(8)
        let time = UnsafeMutablePointer<KernelTime>.allocate(capacity: 1)
        defer { unsafe time.deallocate() }
        unsafe time.initialize(to: KernelTime(nanoseconds: 10_000_000))
        let late = try unsafe ring.results([
            SubmissionEntry.receive(left.value, into: memory.base, count: 8).tagged(1, .link),
            SubmissionEntry.linkTimeout(time).tagged(2),
        ])
        #expect(late == [1: -ECANCELED, 2: -ETIME])
        unsafe time.initialize(to: KernelTime(seconds: 60))
        unsafe write(right.value, "hi", 2)
        let early = try unsafe ring.results([
            SubmissionEntry.receive(left.value, into: memory.base, count: 8).tagged(3, .link),
            SubmissionEntry.linkTimeout(time).tagged(4),
        ])
        #expect(early == [3: 2, 4: -ECANCELED])
    }
}

@Suite struct `Messages between rings` {
    @Test(.kernel { $0.synchronousMessages })
    func `A message wakes a thread that waits in another ring`() throws {
        var ring = try smallRing()
        let descriptor = ring.submitter.fileDescriptor
        let worker = JoinedThread {
            usleep(20_000)
            #expect(Ring.sendMessage(to: descriptor, userData: 77, result: UInt32(bitPattern: -5)) == 0)
        }
        let completions = try ring.collect(1)
        worker.join()
        #expect(completions == [Completion(userData: 77, result: -5)])
    }

    @Test(.kernel { $0.synchronousMessages })
    func `A message to what is no ring fails`() throws {
        let file = try temporaryFile()
        #expect(Ring.sendMessage(to: file.value, userData: 1, result: 1) == -EBADFD)
        #expect(Ring.sendMessage(to: -1, userData: 1, result: 1) == -EBADF)
    }

    @Test(.kernel { $0.synchronousMessages })
    func `Messages that find the queue full are kept`() throws {
        var ring = try Ring(RingOptions(submissionEntries: 1, completionEntries: 2))
        for number in 0..<50 as Range<UInt64> {
            #expect(Ring.sendMessage(to: ring.submitter.fileDescriptor, userData: number, result: 0) == 0)
        }
        let completions = try ring.collect(50)
        #expect(completions.map(\.userData) == Array(0..<50))
    }

    @Test func `An entry messages another ring`() throws {
        var sender = try smallRing()
        var receiver = try smallRing()
        let sent = try sender.run([
            SubmissionEntry.messageRing(receiver.submitter.fileDescriptor, result: 9, userData: 8).tagged(1)
        ])
        #expect(sent == [Completion(userData: 1, result: 0)])
        let received = try receiver.collect(1)
        #expect(received == [Completion(userData: 8, result: 9)])
    }
}

@Suite struct `Cancelling` {
    @Test func `An entry cancels by user data, or finds nothing`() throws {
        var ring = try smallRing()
        let pair = try socketPair()
        let left = try Descriptor(pair.0)
        let right = try Descriptor(pair.1)
        let memory = Memory(8)
        let results = try unsafe ring.results([
            SubmissionEntry.receive(left.value, into: memory.base, count: 8).tagged(1),
            SubmissionEntry.cancel(userData: 1).tagged(2), SubmissionEntry.cancel(userData: 99).tagged(3),
        ])
        #expect(results == [1: -ECANCELED, 2: 0, 3: -ENOENT])
        _ = right.value
    }

    @Test func `An entry cancels all on a descriptor`() throws {
        var ring = try smallRing()
        let pair = try socketPair()
        let left = try Descriptor(pair.0)
        let right = try Descriptor(pair.1)
        let memory = Memory(8)
        let results = try unsafe ring.results([
            SubmissionEntry.receive(left.value, into: memory.base, count: 4).tagged(1),
            SubmissionEntry.receive(left.value, into: memory.base + 4, count: 4).tagged(2),
            SubmissionEntry.poll(right.value, events: UInt32(POLLIN)).tagged(3),
            SubmissionEntry.cancel(descriptor: left.value, flags: .all).tagged(4),
            SubmissionEntry.pollRemove(userData: 3).tagged(5),
        ])
        #expect(results == [1: -ECANCELED, 2: -ECANCELED, 3: -ECANCELED, 4: 2, 5: 0])
    }

    @Test(.kernel { $0.synchronousCancel })
    func `Any thread cancels at once, by user data or descriptor`() throws {
        var ring = try smallRing()
        let submitter = ring.submitter
        let pair = try socketPair()
        let left = try Descriptor(pair.0)
        let right = try Descriptor(pair.1)
        let memory = Memory(8)
        for tag in 1...3 as ClosedRange<UInt64> {
            _ = unsafe ring.enqueue(SubmissionEntry.receive(left.value, into: memory.base, count: 8).tagged(tag))
        }
        try ring.submit()
        let fd = left.value
        JoinedThread {
            #expect(submitter.cancel(userData: 99) == -ENOENT)
            #expect(submitter.cancel(userData: 1) >= 0)
            #expect(submitter.cancelAll(fileDescriptor: fd) >= 2)
        }.join()
        let completions = try ring.collect(3)
        #expect(Set(completions.map(\.userData)) == [1, 2, 3])
        #expect(completions.allSatisfy { $0.result == -ECANCELED })
        #expect(submitter.cancelAll(fileDescriptor: fd) == -ENOENT)
        #expect(submitter.cancel(userData: 1, flags: .all) == -ENOENT)
        #expect(submitter.cancel(userData: 0, flags: .any) == -ENOENT)
        _ = right.value
    }
}
