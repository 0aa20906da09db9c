import CBaselines
import Glibc
import Histogram
import IOUring

/// The load generator's ring: made to cost less than the server, which it has to keep busy.
///
/// One thread, deferred task work, registered sockets, multishot receives into provided buffers. One entry into the
/// kernel submits the sends that the last batch of completions gave rise to, and waits for more.
@safe
struct EchoDriver: ~Copyable {
    var histogram = Latency.emptyHistogram()

    private let streams: EchoStreams
    // Before `ring`: its registration ends first.
    private var buffers: BufferRing
    private var ring: Ring
    /// Never freed: what is under way may write into it until the process ends, as it does with its load.
    private let memory: UnsafeMutableRawPointer
    private let connections: Int
    private let bufferBytes: Int
    /// With one message under way its echo says that its send has ended, and the completion can be spared.
    private let sendsAreSilent: Bool
    private var now = bench_now()
    private var unsubmitted: UInt32 = 0

    init(traffic: Traffic, sockets: [Int32]) throws {
        streams = EchoStreams(traffic)
        connections = sockets.count
        sendsAreSilent = traffic.depth == 1
        bufferBytes = min(max(64, traffic.bytes * traffic.depth), 65536)
        var count: UInt32 = 256
        while count < min(2 * sockets.count, 32768) {
            count *= 2
        }
        let ring = try Ring(
            RingOptions(
                submissionEntries: 2048, completionEntries: 8192,
                flags: [.singleIssuer, .deferTaskrun, .submitAll, .clamp]))
        try unsafe sockets.withUnsafeBufferPointer { try unsafe ring.registerFiles($0) }
        let buffers = try BufferRing(for: ring.submitter, group: 0, entries: count)
        self.ring = ring
        self.buffers = buffers
        unsafe memory = .allocate(byteCount: Int(count) * bufferBytes, alignment: 4096)
        for id in 0..<count {
            provide(UInt16(id))
        }
        self.buffers.publish()
    }

    mutating func start() {
        now = bench_now()
        for connection in 0..<connections {
            receive(connection)
            send(connection)
        }
    }

    /// Goes on until `deadline`, and returns when that was found to have passed.
    mutating func run(until deadline: UInt64) throws -> UInt64 {
        while true {
            ring.publish()
            let result = ring.submitter.enter(submit: unsubmitted, minimumCompletions: 1, flags: .getEvents)
            guard result >= 0 || result == -EINTR else { throw Failure("entering the ring", errno: -result) }
            unsubmitted -= UInt32(max(0, result))
            now = bench_now()
            // What has come back after the deadline is left where it is: it belongs to no window.
            guard now < deadline else { return now }
            let count = ring.completionsReady
            for offset in 0..<count {
                try handle(ring.completion(at: offset))
            }
            ring.advance(by: count)
            buffers.publish()
        }
    }

    private mutating func handle(_ completion: Completion) throws {
        let connection = Int(completion.userData >> 1)
        if completion.userData & 1 != 0 {
            guard completion.result > 0 else { throw Failure("sending", errno: -completion.result) }
            streams.sendEnded(connection)
        } else {
            guard completion.result != 0 else { throw Failure("the server closed a connection") }
            if let id = completion.bufferID {
                try take(connection, id, count: Int(completion.result))
            } else if completion.result != -ENOBUFS {
                throw Failure("receiving", errno: -completion.result)
            }
            if !completion.more {
                receive(connection)
            }
        }
        send(connection)
    }

    private mutating func take(_ connection: Int, _ id: UInt16, count: Int) throws {
        let bytes = unsafe UnsafeRawBufferPointer(start: memory + Int(id) * bufferBytes, count: count)
        let verified = unsafe streams.take(connection, bytes) { started in
            histogram.record(now &- started)
        }
        guard verified else { throw Failure("what came back is not what was sent") }
        if sendsAreSilent {
            streams.sendEnded(connection)
        }
        provide(id)
    }

    private mutating func provide(_ id: UInt16) {
        unsafe buffers.add(memory + Int(id) * bufferBytes, count: UInt32(bufferBytes), id: id)
    }

    private mutating func receive(_ connection: Int) {
        var entry = SubmissionEntry.receiveMultishot(Int32(connection))
        entry.flags.insert(.fixedFile)
        entry.bufferGroup = buffers.group
        entry.userData = UInt64(connection) << 1
        submit(entry)
    }

    private mutating func send(_ connection: Int) {
        guard let bytes = unsafe streams.takeSend(connection, now: now) else { return }
        var entry = unsafe SubmissionEntry.send(
            Int32(connection), from: bytes.baseAddress, count: UInt32(bytes.count), flags: Int32(MSG_WAITALL))
        entry.userData = UInt64(connection) << 1 | 1
        entry.flags = sendsAreSilent ? [.fixedFile, .skipSuccess] : .fixedFile
        submit(entry)
    }

    private mutating func submit(_ entry: SubmissionEntry) {
        while !ring.enqueue(entry) {
            ring.publish()
            let result = ring.submitter.enter(submit: unsubmitted, minimumCompletions: 0, flags: [])
            unsubmitted -= UInt32(max(0, result))
        }
        unsubmitted += 1
    }
}
