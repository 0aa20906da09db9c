import Glibc
import IOUring
import SystemPackage
import Testing

@Suite struct `Setting up a ring` {
    @Test func `The default options give a ring with the asked sizes`() throws {
        let ring = try Ring()
        let (submission, completion) = (ring.submissionCapacity, ring.completionCapacity)
        #expect(submission == 256)
        #expect(completion == 4096)
        let (space, ready, descriptor) = (ring.submissionSpace, ring.completionsReady, ring.submitter.fileDescriptor)
        #expect(space == 256)
        #expect(ready == 0)
        #expect(descriptor >= 0)
        let features = ring.features
        #expect(features.isSuperset(of: [.noDrop, .extendedArgument, .submitStable]))
    }

    @Test func `Sizes are rounded up to powers of two`() throws {
        let ring = try Ring(RingOptions(submissionEntries: 5, completionEntries: 100))
        let sizes = (ring.submissionCapacity, ring.completionCapacity)
        #expect(sizes == (8, 128))
    }

    @Test func `No completion size takes the kernel's default`() throws {
        let ring = try Ring(RingOptions(submissionEntries: 8, completionEntries: 0))
        let (size, flags) = (ring.completionCapacity, ring.setupFlags)
        #expect(size == 16)
        #expect(!flags.contains(.completionQueueSize))
    }

    @Test func `Sizes beyond the limit are clamped, or refused without the flag`() throws {
        let ring = try Ring(RingOptions(submissionEntries: 1 << 20, completionEntries: 0, flags: .clamp))
        let size = ring.submissionCapacity
        #expect(size == 32768)
        let error = #expect(throws: RingError.self) {
            _ = try Ring(RingOptions(submissionEntries: 1 << 20, flags: []))
        }
        #expect(error?.kind == .invalidConfiguration)
    }

    // In a process of its own, where nobody else has rings; other files may have the number at once.
    @Test func `The closed ring gives its descriptor back`() async {
        await #expect(processExitsWith: .success) {
            let descriptor: Int32
            do {
                let ring = try Ring()
                descriptor = ring.submitter.fileDescriptor
                #expect(isRing(descriptor))
            }
            #expect(!isRing(descriptor))
        }
    }

    @Test func `An optional flag that is refused is given up, and the others stay`() throws {
        // Deferred work needs a single issuer, on every kernel. So this one is refused for real.
        let ring = try Ring(
            RingOptions(submissionEntries: 8, flags: [.deferTaskrun, .cooperativeTaskrun, .submitAll, .clamp]))
        let flags = ring.setupFlags
        #expect(!flags.contains(.deferTaskrun))
        #expect(flags.isSuperset(of: [.cooperativeTaskrun, .submitAll, .clamp]))
    }

    @Test func `A required flag is never given up`() throws {
        let error = #expect(throws: RingError.self) {
            _ = try Ring(RingOptions(submissionEntries: 8, flags: [.submitAll], required: [.deferTaskrun]))
        }
        #expect(error?.kind == .invalidConfiguration)
        #expect(error?.errno == .invalidArgument)
    }

    @Test func `A flag both required and optional is required`() throws {
        #expect(throws: RingError.self) {
            _ = try Ring(RingOptions(submissionEntries: 8, flags: [.deferTaskrun], required: [.deferTaskrun]))
        }
    }

    @Test func `Flags that change the layout of entries are refused before the kernel sees them`() {
        for bit in [10, 11, 14, 15, 18, 19] as [UInt32] {
            let error = #expect(throws: RingError.self) {
                _ = try Ring(RingOptions(flags: SetupFlags(rawValue: 1 << bit)))
            }
            #expect(error?.kind == .invalidConfiguration)
        }
    }

    @Test func `No entries at all is an invalid configuration`() {
        let error = #expect(throws: RingError.self) { _ = try Ring(RingOptions(submissionEntries: 0)) }
        #expect(error?.kind == .invalidConfiguration)
    }

    @Test func `A ring shares another one's workers`() throws {
        let first = try smallRing()
        var second = try Ring(RingOptions(submissionEntries: 8, attachTo: first.submitter.fileDescriptor))
        let flags = second.setupFlags
        #expect(flags.contains(.attachWorkQueue))
        let completions = try second.run([SubmissionEntry.nop().tagged(1, .async)])
        #expect(completions == [Completion(userData: 1, result: 0)])
    }

    @Test func `Sharing the workers of something that is no ring fails`() {
        #expect(throws: RingError.self) { _ = try Ring(RingOptions(attachTo: -1)) }
        #expect(throws: RingError.self) { _ = try Ring(RingOptions(attachTo: 0)) }
    }

    @Test func `A disabled ring takes nothing until it is enabled`() throws {
        var ring = try Ring(RingOptions(submissionEntries: 8, required: .disabled))
        let taken = ring.enqueue(.nop())
        #expect(taken)
        do throws(Errno) {
            try ring.submit()
            Issue.record("submitted to a disabled ring")
        } catch {
            #expect(error.rawValue == EBADFD)
        }
        try ring.enable()
        let completions = try ring.collect(1)
        #expect(completions.count == 1)
        do throws(Errno) {
            try ring.enable()
            Issue.record("enabled twice")
        } catch {
            #expect(error.rawValue == EBADFD)
        }
    }

    @Test func `A polled ring takes entries and wakes its thread`() throws {
        var ring = try Ring(
            RingOptions(submissionEntries: 8, required: .submissionPolling, submissionPollingIdleMilliseconds: 1))
        let flags = ring.setupFlags
        #expect(!flags.contains(.cooperativeTaskrun))
        for round in 0..<4 as Range<UInt64> {
            let completions = try ring.run([SubmissionEntry.nop().tagged(round)])
            #expect(completions.map(\.userData) == [round])
            usleep(5000)  // lets the thread fall asleep
        }
    }

    @Test(.kernel { $0.setupFlags.contains(.noSQArray) })
    func `A ring without the array of indices works the same`() throws {
        var ring = try Ring(RingOptions(submissionEntries: 4, required: .noSQArray))
        for _ in 0..<3 {
            let completions = try ring.run((1...3).map { SubmissionEntry.nop().tagged($0) })
            #expect(completions.map(\.userData) == [1, 2, 3])
        }
    }

    @Test func `The array of indices is asked away only where liburing knows how`() throws {
        var ring = try Ring(RingOptions(submissionEntries: 256, flags: [.noSQArray, .submitAll]))
        let flags = ring.setupFlags
        #expect(flags.contains(.submitAll))
        let completions = try ring.run((1...256).map { SubmissionEntry.nop().tagged($0) })
        #expect(completions.map(\.userData) == Array(1...256))
    }

    @Test(.kernel { $0.setupFlags.contains(.deferTaskrun) })
    func `Deferred work is done when the ring waits`() throws {
        var ring = try Ring(RingOptions(submissionEntries: 8, required: [.singleIssuer, .deferTaskrun]))
        let pair = try socketPair()
        let left = try Descriptor(pair.0)
        let right = try Descriptor(pair.1)
        let memory = Memory(8)
        let taken = unsafe ring.enqueue(.receive(left.value, into: memory.base, count: 8))
        #expect(taken)
        try ring.submit()
        unsafe write(right.value, "hi", 2)
        let any = try ring.submitAndWait(timeout: patience)
        #expect(any)
        let result = ring.completion(at: 0).result
        #expect(result == 2)
    }

    @Test(.kernel { $0.setupFlags.contains(.singleIssuer) })
    func `A ring with a single issuer refuses other threads`() throws {
        let ring = try Ring(RingOptions(submissionEntries: 8, required: .singleIssuer))
        let submitter = ring.submitter
        let worker = Worker {
            #expect(submitter.enter(submit: 1, minimumCompletions: 0, flags: []) == -EEXIST)
            #expect(submitter.cancel(userData: 1) == -EEXIST)
        }
        _ = consume worker
    }

    @Test func `Many rings can be made and dropped`() throws {
        for _ in 0..<200 { _ = try Ring(RingOptions(submissionEntries: 4, completionEntries: 8)) }
    }
}

/// Whether the number is that of a ring.
private func isRing(_ descriptor: Int32) -> Bool {
    var link = [UInt8](repeating: 0, count: 64)
    let length = unsafe link.withUnsafeMutableBytes {
        unsafe readlink("/proc/self/fd/\(descriptor)", $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
    }
    return String(decoding: link.prefix(max(0, length)), as: UTF8.self) == "anon_inode:[io_uring]"
}

@Suite struct `What the kernel can do` {
    @Test func `The probe finds what every supported kernel has`() throws {
        let capabilities = try Capabilities.probe()
        for operation in [OperationCode.nop, .read, .write, .receive, .send, .accept, .connect, .cancel, .messageRing] {
            #expect(capabilities.supports(operation))
        }
        #expect(!capabilities.supports(OperationCode(rawValue: 255)))
        #expect(capabilities.bufferRings)
        #expect(capabilities.multishotAccept)
        #expect(capabilities.setupFlags.isSuperset(of: [.clamp, .submitAll, .cooperativeTaskrun, .taskrunFlag]))
    }

    // What Linux 6.15 has added stands for that kernel and what came after.
    @Test(.kernel { $0.supports(OperationCode(rawValue: 60)) })
    func `The probe finds everything on a kernel that is recent enough`() throws {
        let capabilities = try Capabilities.probe()
        #expect(capabilities.synchronousMessages)
        #expect(capabilities.synchronousCancel)
        #expect(capabilities.bufferRings)
        #expect(capabilities.bufferRingStatus)
        #expect(capabilities.incrementalBufferRings)
        #expect(capabilities.multishotReceive)
        #expect(capabilities.multishotAccept)
        #expect(capabilities.nopResults)
        #expect(capabilities.promptFileRelease)
    }

    @Test func `What is found is consistent`() throws {
        let capabilities = try Capabilities.probe()
        // Each of these came after the other.
        if capabilities.synchronousMessages { #expect(capabilities.incrementalBufferRings) }
        if capabilities.incrementalBufferRings { #expect(capabilities.bufferRingStatus) }
        if capabilities.bufferRingStatus { #expect(capabilities.supports(.readMultishot)) }
        if capabilities.supports(.listen) { #expect(capabilities.supports(.truncate)) }
        if capabilities.multishotReceive { #expect(capabilities.synchronousCancel) }
    }
}
