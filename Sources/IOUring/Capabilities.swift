import CLiburing
import Glibc

/// What the running kernel can do, found out by asking it and, where it cannot be asked, by trying.
///
/// Versions are not looked at: distributions add and remove things.
public struct Capabilities: Sendable {
    /// What setting up a ring returned.
    public let features: RingFeatures
    /// The flags a ring can be set up with.
    public let setupFlags: SetupFlags
    /// Whether ``Ring/sendMessage(to:userData:result:)`` works (Linux 6.13).
    public let synchronousMessages: Bool
    /// Whether ``Submitter/cancel(userData:flags:timeoutNanoseconds:)`` works (Linux 6.0).
    public let synchronousCancel: Bool
    /// Whether ``BufferRing`` works (Linux 5.19).
    public let bufferRings: Bool
    /// Whether ``BufferRing/head()`` works (Linux 6.8).
    public let bufferRingStatus: Bool
    /// Whether a ``BufferRing`` can be incremental (Linux 6.12).
    public let incrementalBufferRings: Bool
    /// Whether ``SubmissionEntry/receiveMultishot(_:flags:)`` works (Linux 6.0).
    public let multishotReceive: Bool
    /// Whether ``SubmissionEntry/acceptMultishot(_:flags:)`` works (Linux 5.19).
    public let multishotAccept: Bool
    /// Whether ``SubmissionEntry/nop(result:)`` works (Linux 6.10).
    public let nopResults: Bool
    /// Whether a registered file is let go of as soon as it is taken out of the table and its own operations are over
    /// (Linux 6.13). Older kernels keep it open until all operations on other registered files that began before are over,
    /// too.
    public let promptFileRelease: Bool
    private let operations: (UInt64, UInt64, UInt64, UInt64)

    /// Whether the kernel knows an operation (`IORING_REGISTER_PROBE`).
    public func supports(_ operation: OperationCode) -> Bool {
        let word =
            switch operation.rawValue / 64 {
            case 0: operations.0
            case 1: operations.1
            case 2: operations.2
            default: operations.3
            }
        return word & 1 << UInt64(operation.rawValue % 64) != 0
    }

    /// Finds out what the kernel can do. Sets up a few small rings and sockets, which takes well under a millisecond
    /// as a rule; do it once.
    ///
    /// - Throws: ``RingError`` when there can be no ring at all.
    public static func probe() throws(RingError) -> Capabilities {
        try Capabilities()
    }

    private init() throws(RingError) {
        var ring = try Ring(RingOptions(submissionEntries: 8, completionEntries: 16))
        features = ring.features
        setupFlags = Ring.supportedFlags()

        var operations: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        let descriptor = ring.submitter.fileDescriptor
        unsafe withUnsafeMutableBytes(of: &operations) { bytes in
            // Nothing is known when this fails, which no supported kernel does.
            _ = Seam.register(descriptor, IOU_REGISTER_PROBE) {
                unsafe iou_probe(descriptor, bytes.baseAddress!.assumingMemoryBound(to: UInt64.self))
            }
        }
        self.operations = operations

        // Nothing can match, so a kernel that knows the call says there is nothing.
        synchronousCancel = ring.submitter.cancel(userData: .max, timeoutNanoseconds: 0) == -ENOENT
        synchronousMessages =
            Ring.sendMessage(to: descriptor, userData: 1, result: 0) == 0 && ring.next(timeout: 1)?.userData == 1
        nopResults = ring.run(.nop(result: 42)) == 42

        if let buffers = try? BufferRing(for: ring.submitter, group: 0, entries: 1) {
            bufferRings = true
            bufferRingStatus = (try? buffers.head()) != nil
        } else {
            bufferRings = false
            bufferRingStatus = false
        }
        incrementalBufferRings = Capabilities.tryIncrementalBuffers(ring)
        promptFileRelease = Capabilities.tryFileRelease(&ring)
        multishotReceive = Capabilities.tryMultishotReceive(&ring)
        multishotAccept = Capabilities.tryMultishotAccept(&ring)
    }

    /// Two connected sockets, to be closed by the caller.
    private static func makePair() -> (Int32, Int32)? {
        var pair: (Int32, Int32) = (-1, -1)
        let made = unsafe withUnsafeMutableBytes(of: &pair) { bytes in
            unsafe socketpair(
                AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0,
                bytes.baseAddress!.assumingMemoryBound(to: Int32.self))
        }
        return made == 0 ? pair : nil
    }

    private static func tryIncrementalBuffers(_ ring: borrowing Ring) -> Bool {
        do throws(RingError) {
            _ = try BufferRing(for: ring.submitter, group: 0, entries: 1, incremental: true)
            return true
        } catch {
            return false
        }
    }

    /// Takes a file out of a table while an operation on another one waits, and looks whether it is closed.
    private static func tryFileRelease(_ ring: inout Ring) -> Bool {
        guard let waiting = makePair() else { return false }
        defer {
            close(waiting.0)
            close(waiting.1)
        }
        guard let removed = makePair() else { return false }
        defer { close(removed.1) }
        var isRegistered = false
        do throws(RingError) {
            try ring.registerSparseFiles(count: 2)
            try ring.updateFile(at: 0, with: waiting.0)
            try ring.updateFile(at: 1, with: removed.0)
            isRegistered = true
        } catch {}
        close(removed.0)
        defer { try? ring.unregisterFiles() }
        guard isRegistered else { return false }
        var poll = SubmissionEntry.poll(0, events: UInt32(POLLIN), multishot: false)
        poll.flags = .fixedFile
        guard ring.complete(poll, timeout: 0) == nil else { return false }
        var interest = pollfd(fd: removed.1, events: Int16(POLLIN), revents: 0)
        let isEmptied = (try? ring.updateFile(at: 1, with: -1)) != nil
        let isClosed = unsafe isEmptied && Glibc.poll(&interest, 1, 0) == 1
        unsafe write(waiting.1, "x", 1)
        _ = ring.next(timeout: 1)
        return isClosed
    }

    private static func tryMultishotReceive(_ ring: inout Ring) -> Bool {
        guard var pair = makePair() else { return false }
        defer {
            close(pair.0)
            close(pair.1)
        }
        guard var buffers = try? BufferRing(for: ring.submitter, group: 0, entries: 1) else { return false }
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 8, alignment: 8)
        unsafe buffers.add(memory, count: 8, id: 0)
        buffers.publish()
        unsafe write(pair.1, "x", 1)
        let first = ring.complete(.receiveMultishot(pair.0))
        // Once the operation has ended, nothing of the kernel's points at the memory any more.
        var armed = first?.more ?? true
        if armed {
            close(pair.1)
            pair.1 = -1
            while armed, let next = ring.next(timeout: 1) { armed = next.more }
        }
        // An operation that cannot be ended keeps its memory, eight bytes.
        if !armed { unsafe memory.deallocate() }
        return first.map { $0.result == 1 && $0.more } ?? false
    }

    private static func tryMultishotAccept(_ ring: inout Ring) -> Bool {
        let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard listener >= 0 else { return false }
        defer { close(listener) }
        var address = sockaddr()
        address.sa_family = sa_family_t(AF_UNIX)
        // An address of nothing but the family lets the kernel choose a name.
        let bound = unsafe bind(listener, &address, socklen_t(MemoryLayout<sa_family_t>.size))
        guard bound == 0, listen(listener, 1) == 0 else { return false }
        // Where it is known it waits for a connection, where it is not it fails at once.
        if let refused = ring.complete(.acceptMultishot(listener), timeout: 0) { return refused.result >= 0 }
        guard ring.enqueue(.cancel(descriptor: listener, flags: .all)) else { return true }
        _ = try? ring.submitAndWait(for: 2, timeout: .seconds(1))
        ring.forEachCompletion { _ in }
        return true
    }
}

extension Ring {
    /// Every flag that a ring can be set up with on this kernel, each tried alone.
    static func supportedFlags() -> SetupFlags {
        var supported: SetupFlags = [.completionQueueSize, .attachWorkQueue]
        for flag in SetupFlags.peelingOrder where missingFlag(among: flag) == nil { supported.insert(flag) }
        // This one takes a liburing that knows it, besides the kernel.
        let smallest = RingOptions(submissionEntries: 1, completionEntries: 2, flags: [], required: .noSQArray)
        if (try? Ring(smallest)) == nil { supported.remove(.noSQArray) }
        return supported
    }

    /// Runs one entry to its first completion. Nil when none comes in the given number of seconds.
    mutating func complete(_ entry: SubmissionEntry, timeout: Int = 1) -> Completion? {
        guard enqueue(entry) else { return nil }
        return next(timeout: timeout)
    }

    mutating func run(_ entry: SubmissionEntry) -> Int32? { complete(entry)?.result }

    mutating func next(timeout: Int) -> Completion? {
        guard (try? submitAndWait(for: 1, timeout: .seconds(timeout))) == true else { return nil }
        let first = completion(at: 0)
        advance(by: 1)
        return first
    }
}
