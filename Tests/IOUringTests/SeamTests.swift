#if DEBUG || IOCP_SEAM
import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOUring

/// Intercepts the entries into one ring while `body` runs. `decide` is given the number of the entry, from 0.
private func intercepting<Result>(
    _ ring: Int32, _ decide: @escaping @Sendable (Int) -> Seam.Verdict, _ body: () throws -> Result
) rethrows -> Result {
    let count = Counter()
    let installed = Seam.install { call in
        guard case .enter(ring, _, _, _, _) = call else { return .pass }
        return decide(count.next())
    }
    defer { Seam.remove(installed) }
    return try body()
}

private final class Counter: Sendable {
    private let value = Atomic<Int>(0)
    var now: Int { value.load(ordering: .sequentiallyConsistent) }
    func next() -> Int { value.wrappingAdd(1, ordering: .sequentiallyConsistent).oldValue }
}

@Suite struct `Faults below the ring` {
    @Test(arguments: [EINTR, EAGAIN, EBUSY, ENOMEM])
    func `An entry that fails takes nothing, and the next one takes all`(code: Int32) throws {
        var ring = try smallRing()
        let submitter = ring.submitter
        for tag in 0..<3 as Range<UInt64> { _ = ring.enqueue(SubmissionEntry.nop().tagged(tag)) }
        ring.publish()
        intercepting(submitter.fileDescriptor) {
            $0 == 0 ? .answer(-code) : .pass
        } _: {
            #expect(submitter.enter(submit: 3, minimumCompletions: 0, flags: []) == -code)
            #expect(submitter.unsubmitted == 3)
            #expect(submitter.enter(submit: 3, minimumCompletions: 3, flags: .getEvents) == 3)
        }
        var tags: [UInt64] = []
        ring.forEachCompletion { tags.append($0.userData) }
        #expect(tags == [0, 1, 2])
    }

    @Test func `A submit can be cut short, and does not wait then`() throws {
        var ring = try smallRing()
        let submitter = ring.submitter
        for tag in 0..<4 as Range<UInt64> { _ = ring.enqueue(SubmissionEntry.nop().tagged(tag)) }
        ring.publish()
        intercepting(submitter.fileDescriptor) {
            $0 == 0 ? .submit(atMost: 1) : .pass
        } _: {
            // Four completions will never be there after it: it would hang if it waited.
            #expect(submitter.enter(submit: 4, minimumCompletions: 4, flags: .getEvents) == 1)
            #expect(submitter.unsubmitted == 3)
            #expect(submitter.enter(submit: 3, minimumCompletions: 4, flags: .getEvents) == 3)
        }
        let ready = ring.completionsReady
        #expect(ready == 4)
    }

    @Test func `The ring's own waits go on after signals and short submits`() throws {
        var ring = try smallRing()
        let descriptor = ring.submitter.fileDescriptor
        let entries = Counter()
        for tag in 0..<4 as Range<UInt64> { _ = ring.enqueue(SubmissionEntry.nop().tagged(tag)) }
        let any = try intercepting(descriptor) { number in
            _ = entries.next()
            return number < 3 ? .answer(-EINTR) : number < 5 ? .submit(atMost: 1) : .pass
        } _: {
            try ring.submitAndWait(for: 4, timeout: .seconds(30))
        }
        #expect(any)
        #expect(entries.now >= 6)
        let ready = ring.completionsReady
        #expect(ready == 4)
    }

    @Test func `An entry that nobody has taken can be made a no-op, and only that one`() throws {
        var ring = try smallRing()
        let submitter = ring.submitter
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        defer { for end in ends { close(end) } }
        let byte: [UInt8] = [1]
        for tag in 0..<2 as Range<UInt64> {
            let isQueued = byte.withUnsafeBytes {
                ring.enqueue(SubmissionEntry.write(ends[1], from: $0.baseAddress!, count: 1, offset: .max).tagged(tag))
            }
            #expect(isQueued)
        }
        ring.publish()
        let found = [ring.withdraw(userData: 1), ring.withdraw(userData: 7)]
        #expect(found == [true, false])
        #expect(submitter.unsubmitted == 2)
        #expect(submitter.enter(submit: 2, minimumCompletions: 2, flags: .getEvents) == 2)
        var results: [UInt64: Int32] = [:]
        ring.forEachCompletion { results[$0.userData] = $0.result }
        #expect(results == [0: 1, 1: 0])
        let afterwards = ring.withdraw(userData: 0)
        #expect(!afterwards)
        var room: [UInt8] = [0, 0]
        #expect(read(ends[0], &room, 2) == 1)
    }

    @Test func `An entry can be replaced as a whole`() throws {
        let ring = try smallRing()
        let submitter = ring.submitter
        intercepting(submitter.fileDescriptor) { _ in
            .answer(7)
        } _: {
            #expect(submitter.enter(submit: 1, minimumCompletions: 9, flags: .getEvents) == 7)
        }
        #expect(submitter.enter(submit: 0, minimumCompletions: 0, flags: .getEvents) == 0)
    }

    @Test func `Only the calls of the ring that is meant are intercepted`() throws {
        var other = try smallRing()
        let ring = try smallRing()
        try intercepting(ring.submitter.fileDescriptor) { _ in
            .answer(-EBUSY)
        } _: {
            let completions = try other.run([.nop(), .nop()])
            #expect(completions.count == 2)
        }
    }

    @Test func `Cancels, messages and registrations can fail`() throws {
        let ring = try smallRing()
        let descriptor = ring.submitter.fileDescriptor
        let installed = Seam.install { call in
            switch call {
            case .cancel(descriptor, _, _, _): .answer(-EALREADY)
            case .message(to: descriptor, _, _): .answer(-ENOMEM)
            case .register(descriptor, _): .answer(-EBUSY)
            default: .pass
            }
        }
        #expect(ring.submitter.cancel(userData: 1) == -EALREADY)
        #expect(Ring.sendMessage(to: descriptor, userData: 1, result: 0) == -ENOMEM)
        #expect(throws: RingError.self) { try ring.registerSparseFiles(count: 4) }
        #expect(throws: RingError.self) { _ = try BufferRing(for: ring.submitter, group: 1, entries: 1) }
        Seam.remove(installed)
        try ring.registerSparseFiles(count: 4)
        #expect(ring.submitter.cancel(userData: 1) != -EALREADY)
    }

    @Test(arguments: [(ENOMEM, false), (EMFILE, true)])
    func `Setting up can fail, with the error that a user sees`(code: Int32, isDescriptors: Bool) throws {
        let me = pthread_self()
        let installed = Seam.install { call in
            if case .setUp = call, pthread_equal(me, pthread_self()) != 0 { return .answer(-code) }
            return .pass
        }
        defer { Seam.remove(installed) }
        do throws(RingError) {
            _ = try Ring()
            Issue.record("it was set up")
        } catch {
            #expect(error.errno.rawValue == code)
            #expect((error.kind == .processDescriptorLimit) == isDescriptors)
        }
    }

    @Test func `Several interceptors decide one after the other, the last one first`() throws {
        let ring = try smallRing()
        let submitter = ring.submitter
        intercepting(submitter.fileDescriptor) { _ in
            .answer(1)
        } _: {
            intercepting(submitter.fileDescriptor) {
                $0 == 0 ? .answer(2) : .pass
            } _: {
                #expect(submitter.enter(submit: 0, minimumCompletions: 0, flags: []) == 2)
                #expect(submitter.enter(submit: 0, minimumCompletions: 0, flags: []) == 1)
            }
        }
        #expect(submitter.enter(submit: 0, minimumCompletions: 0, flags: []) == 0)
    }
}
#endif
