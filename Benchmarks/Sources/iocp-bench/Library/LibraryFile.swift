import CBaselines
import IOCP
import Synchronization
import SystemPackage

/// The file rows through a port with one thread.
enum LibraryFile {
    @safe
    private final class BlockRead: Operation, @unchecked Sendable {
        // Unchecked: one thread starts and dequeues.
        var block: UInt64 = 0
        var started: UInt64 = 0
        /// The buffer's, which lives as long: asking for the buffer counts a reference.
        let memory: UnsafeMutableRawPointer

        init() {
            let blockBytes = Int(BENCH_BLOCK_BYTES)
            let buffer = IOBuffer(capacity: blockBytes, alignment: blockBytes)
            unsafe memory = buffer.baseAddress
            super.init(buffer: buffer)
        }

        /// Whether the block that was asked for is there.
        var isRight: Bool { unsafe memory.load(as: UInt64.self) == block }
    }

    /// Keeps `depth` random reads in flight.
    ///
    /// - Parameter isForOneWorker: the port is made for one: a single consumer, the file registered.
    static func read(
        _ settings: WorkSettings, depth: Int, isDirect: Bool = false, isForOneWorker: Bool = false
    ) throws -> Measurement {
        let file = try File(FilePath(settings.file), options: isDirect ? [.direct] : [])
        var options = CompletionPort.Options()
        options.singleConsumer = isForOneWorker
        options.registeredFiles = isForOneWorker ? 1 : 0
        let port = try CompletionPort(associating: file, key: 0, concurrencyLimit: 1, options: options)
        let samples = try Samples()
        let blockBytes = Int(BENCH_BLOCK_BYTES)
        let blocks = settings.fileBytes / UInt64(blockBytes)
        let reads = (0..<depth).map { _ in BlockRead() }
        var batch = PacketBatch(capacity: depth)
        var state: UInt64 = 0x2545_F491
        var operations: UInt64 = 0
        var inFlight = depth
        var outcome = bench_outcome()

        let calls = try LibraryCalls(port)
        unsafe bench_outcome_begin(&outcome)
        var now = outcome.nanoseconds
        let deadline = now + settings.nanoseconds
        func start(_ read: BlockRead) throws {
            read.block = unsafe bench_next_block(&state, blocks)
            read.started = now
            try file.read(read, at: .at(Int64(read.block) * Int64(blockBytes)))
        }
        for read in reads {
            try start(read)
        }
        while inFlight > 0 {
            let count = try port.dequeue(into: &batch)
            now = bench_now()
            while let packet = batch.popFirst() {
                let (status, bytes) = (packet.status, packet.bytes)
                // Nothing else is associated with the port.
                let read = unsafe unsafeDowncast(packet.operation!, to: BlockRead.self)
                guard status.isSuccess, bytes == blockBytes, read.isRight else {
                    throw Failure("block \(read.block) was not read: \(status), \(bytes) bytes")
                }
                samples.record(now - read.started)
                if now < deadline {
                    try start(read)
                } else {
                    inFlight -= 1
                }
            }
            operations += UInt64(count)
        }
        try unsafe bench_outcome_end(&outcome, operations, calls.made())
        return Measurement(outcome, latency: samples.latency)
    }

    /// One read after the other, started eagerly through a handle that skips packets of what completes at once: what lies
    /// in the page cache does, the others come by packets.
    static func readAtOnce(_ settings: WorkSettings) throws -> Measurement {
        let file = try File(FilePath(settings.file))
        let port = try CompletionPort(associating: file, key: 0, concurrencyLimit: 1)
        try file.setNotificationModes([.skipCompletionPortOnSuccess, .skipSetEventOnHandle])
        let samples = try Samples()
        let blockBytes = Int(BENCH_BLOCK_BYTES)
        let blocks = settings.fileBytes / UInt64(blockBytes)
        let read = BlockRead()
        var state: UInt64 = 0x2545_F491
        var operations: UInt64 = 0
        var outcome = bench_outcome()

        let calls = try LibraryCalls(port)
        unsafe bench_outcome_begin(&outcome)
        var now = outcome.nanoseconds
        let deadline = now + settings.nanoseconds
        while now < deadline {
            read.block = unsafe bench_next_block(&state, blocks)
            let bytes =
                switch try file.read(read, at: .at(Int64(read.block) * Int64(blockBytes)), start: .eager) {
                case .completed(let bytes): bytes
                case .pending: try port.dequeue().map { $0.isSuccess ? $0.bytes : 0 } ?? 0
                }
            guard bytes == blockBytes, read.isRight else {
                throw Failure("block \(read.block) was not read: \(read.status), \(bytes) bytes")
            }
            let end = bench_now()
            samples.record(end - now)
            now = end
            operations += 1
        }
        try unsafe bench_outcome_end(&outcome, operations, calls.made())
        return Measurement(outcome, latency: samples.latency)
    }

    /// The same by several threads on one port, of which all may run: each starts `depth` reads, then goes on with
    /// whatever reads it dequeues.
    ///
    /// - Parameter shares: all read through one handle, in place of one that each opens.
    static func readByMany(_ settings: WorkSettings, depth: Int, workers: Int, shares: Bool) throws -> Measurement {
        let port = try CompletionPort(concurrencyLimit: workers)
        @Sendable func open() throws -> File {
            let file = try File(FilePath(settings.file))
            try port.associate(file, key: readKey)
            return file
        }
        let shared = shares ? try open() : nil
        let blockBytes = Int(BENCH_BLOCK_BYTES)
        let blocks = settings.fileBytes / UInt64(blockBytes)
        let barrier = StartBarrier(threads: workers + 1)
        let total = Mutex((operations: UInt64(0), failure: String?.none))
        let deadline = Atomic<UInt64>(0)
        let left = Atomic<Int>(depth * workers)
        let threads = try (0..<workers).map { worker in
            try WaitableThread {
                var operations: UInt64 = 0
                do {
                    let file = try shared ?? open()
                    var state: UInt64 = 0x2545_F491 + UInt64(worker)
                    var batch = PacketBatch(capacity: depth)
                    let reads = (0..<depth).map { _ in BlockRead() }
                    func start(_ read: BlockRead) throws {
                        read.block = unsafe bench_next_block(&state, blocks)
                        try file.read(read, at: .at(Int64(read.block) * Int64(blockBytes)))
                    }
                    barrier.wait()
                    let deadline = deadline.load(ordering: .relaxed)
                    for read in reads {
                        try start(read)
                    }
                    while true {
                        try port.dequeue(into: &batch)
                        let now = bench_now()
                        while let packet = batch.popFirst() {
                            guard packet.key == readKey else {
                                // The end, for each worker that sees it.
                                try port.post(key: endKey)
                                total.withLock { [operations] in $0.operations += operations }
                                return
                            }
                            let read = unsafe unsafeDowncast(packet.operation!, to: BlockRead.self)
                            guard packet.isSuccess, packet.bytes == blockBytes, read.isRight else {
                                throw Failure("block \(read.block) was not read: \(packet.status)")
                            }
                            operations += 1
                            if now < deadline {
                                try start(read)
                            } else if left.subtract(1, ordering: .sequentiallyConsistent).newValue == 0 {
                                try port.post(key: endKey)
                            }
                        }
                    }
                } catch {
                    total.withLock { $0.failure = "\(error)" }
                    try? port.post(key: endKey)
                }
            }
        }
        var outcome = bench_outcome()
        let calls = try LibraryCalls(port)
        unsafe bench_outcome_begin(&outcome)
        deadline.store(outcome.nanoseconds + settings.nanoseconds, ordering: .relaxed)
        barrier.wait()
        for thread in threads {
            thread.join()
        }
        let result = total.withLock { $0 }
        try unsafe bench_outcome_end(&outcome, result.operations, calls.made())
        if let failure = result.failure {
            throw Failure(failure)
        }
        return Measurement(outcome)
    }

    private static let readKey: UInt = 0
    private static let endKey: UInt = 1

    private final class Chunk: Operation, @unchecked Sendable {
        // Unchecked: one thread starts and dequeues.
        var offset: Int64 = 0
        /// Bytes of the chunk that are still to be read.
        var left = 0
        var isWriting = false
    }

    /// Copies the file in chunks, several in flight; each is read, then written. The harness verifies the copy.
    static func copy(_ settings: WorkSettings, chunkBytes: Int, depth: Int) throws -> Measurement {
        let source = try File(FilePath(settings.file))
        let destination = try File(FilePath(settings.copy), .writeOnly, options: [.create, .truncate])
        let port = try CompletionPort(concurrencyLimit: 1)
        try port.associate(source, key: 0)
        try port.associate(destination, key: 1)
        let length = try source.length()
        let chunks = (0..<depth).map { _ in Chunk(buffer: IOBuffer(capacity: chunkBytes, alignment: 4096)) }
        // What C maps populated, so that no page is faulted in while the clock runs.
        for chunk in chunks {
            unsafe chunk.buffer!.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        }
        var batch = PacketBatch(capacity: depth)
        var next: Int64 = 0
        var inFlight = 0
        var outcome = bench_outcome()

        let calls = try LibraryCalls(port)
        unsafe bench_outcome_begin(&outcome)
        func readNext(_ chunk: Chunk) throws {
            guard next < length else { return }
            chunk.offset = next
            chunk.left = Int(min(Int64(chunkBytes), length - next))
            chunk.isWriting = false
            next += Int64(chunk.left)
            inFlight += 1
            try source.read(chunk, at: .at(chunk.offset), into: 0..<chunk.left)
        }
        for chunk in chunks {
            try readNext(chunk)
        }
        while inFlight > 0 {
            try port.dequeue(into: &batch)
            while let packet = batch.popFirst() {
                let chunk = unsafe unsafeDowncast(packet.operation!, to: Chunk.self)
                guard packet.isSuccess, packet.bytes > 0 else {
                    throw Failure("the copy stopped at \(chunk.offset): \(packet.status)")
                }
                if !chunk.isWriting {
                    chunk.isWriting = true
                    try destination.write(chunk, at: .at(chunk.offset), from: 0..<packet.bytes)
                    continue
                }
                inFlight -= 1
                chunk.offset += Int64(packet.bytes)
                chunk.left -= packet.bytes
                if chunk.left > 0 {
                    // The read came short.
                    chunk.isWriting = false
                    inFlight += 1
                    try source.read(chunk, at: .at(chunk.offset), into: 0..<chunk.left)
                } else {
                    try readNext(chunk)
                }
            }
        }
        try unsafe bench_outcome_end(&outcome, UInt64(length), calls.made())
        return Measurement(outcome, scale: 1 << 20)
    }
}
