import CBaselines
import Glibc
import IOCP
import IOCPHosting
import Synchronization
import SystemPackage

/// What one thread does, whoever brings it its completions: handles, and operations that are started again and again.
struct HostingWork: Sendable {
    enum Kind: Sendable {
        case read(File, blocks: UInt64)
        case receive(Socket)
        case send(Socket)
    }

    var handles: [IOHandle]
    /// One operation of each.
    var kinds: [Kind]

    static let blockBytes = Int(BENCH_BLOCK_BYTES)

    static func reads(_ settings: WorkSettings, depth: Int) throws -> HostingWork {
        let file = try File(FilePath(settings.file))
        let blocks = settings.fileBytes / UInt64(blockBytes)
        return HostingWork(handles: [file], kinds: Array(repeating: .read(file, blocks: blocks), count: depth))
    }

    /// On each pair one end receives a byte again and again, and the other sends one.
    static func pairs(_ count: Int) throws -> HostingWork {
        let pairs = try (0..<count).map { _ in try Socket.pair() }
        return HostingWork(
            handles: pairs.flatMap { [$0.0, $0.1] }, kinds: pairs.flatMap { [.receive($0.0), .send($0.1)] })
    }
}

/// The rows of the hosting face: the same work over the bare port and through the manager of a host.
enum LibraryHosting {
    // MARK: The bare port

    private final class Step: Operation, @unchecked Sendable {
        // Unchecked: one thread starts and dequeues.
        let kind: HostingWork.Kind
        var block: UInt64 = 0

        init(_ kind: HostingWork.Kind) {
            self.kind = kind
            super.init(buffer: IOBuffer(capacity: HostingWork.blockBytes, alignment: HostingWork.blockBytes))
        }

        @inline(__always)
        func start(_ state: inout UInt64) throws {
            switch kind {
            case .read(let file, let blocks):
                block = unsafe bench_next_block(&state, blocks)
                try file.read(self, at: .at(Int64(block) * Int64(HostingWork.blockBytes)))
            case .receive(let socket):
                try socket.receive(self, into: 0..<1)
            case .send(let socket):
                try socket.send(self, count: 1)
            }
        }

        @inline(__always)
        func isRight(_ bytes: Int) -> Bool {
            guard case .read = kind else { return bytes == 1 }
            return unsafe bytes == HostingWork.blockBytes
                && buffer!.baseAddress.load(as: UInt64.self) == block
        }
    }

    static func bare(_ settings: WorkSettings, _ work: HostingWork) throws -> Measurement {
        let port = try CompletionPort(concurrencyLimit: 1)
        for handle in work.handles { try port.associate(handle, key: 1) }
        let stop = Stop()
        let count = Atomic<Int>(0)
        let failure = Atomic<Bool>(false)
        let thread = try WaitableThread {
            do {
                var state: UInt64 = 0x2545_F491
                var batch = PacketBatch(capacity: 64)
                let steps = work.kinds.map { Step($0) }
                for step in steps { try step.start(&state) }
                while !stop.isSet {
                    let packets = try port.dequeue(into: &batch)
                    for index in 0..<packets {
                        let packet = batch[index]
                        // Nothing else is associated with the port.
                        let step = unsafe unsafeDowncast(packet.operation!, to: Step.self)
                        guard packet.isSuccess, step.isRight(packet.bytes) else { throw Failure("a wrong completion") }
                        count.store(count.load(ordering: .relaxed) + 1, ordering: .relaxed)
                        try step.start(&state)
                    }
                }
            } catch {
                failure.store(true, ordering: .sequentiallyConsistent)
            }
        }
        let measurement = try measure(settings) { count.load(ordering: .relaxed) }
        stop.set()
        thread.join()
        guard !failure.load(ordering: .sequentiallyConsistent) else { throw Failure("a completion was wrong") }
        return measurement
    }

    // MARK: The manager of a host

    /// An operation as a runtime keeps it: a reference to itself, the OVERLAPPED, the host's bytes.
    @safe
    private final class Block: @unchecked Sendable {
        // Unchecked: one thread starts and is called back.
        let kind: HostingWork.Kind
        let overlapped: HostOverlapped
        private let memory: UnsafeMutableRawPointer
        private let buffer: UnsafeMutableRawBufferPointer
        private let byte: UnsafeMutableRawBufferPointer
        private var block: UInt64 = 0

        init(_ kind: HostingWork.Kind, _ host: HostIOCompletionManager) throws {
            self.kind = kind
            let size = unsafe 8 + HostOverlapped.headerSize + Int(try host.getHostOverlappedSize())
            unsafe memory = .allocate(byteCount: size, alignment: 16)
            unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: size)
            unsafe overlapped = HostOverlapped(memory + 8)
            unsafe buffer = .allocate(byteCount: HostingWork.blockBytes, alignment: HostingWork.blockBytes)
            unsafe buffer.initializeMemory(as: UInt8.self, repeating: 0)
            unsafe byte = UnsafeMutableRawBufferPointer(rebasing: buffer[..<1])
            unsafe memory.storeBytes(of: Unmanaged.passUnretained(self).toOpaque(), as: UnsafeMutableRawPointer.self)
            try unsafe host.initializeHostOverlapped(overlapped.pointer)
        }

        deinit {
            unsafe memory.deallocate()
            unsafe buffer.deallocate()
        }

        @inline(__always)
        func start(_ state: inout UInt64) throws(PortError) {
            switch kind {
            case .read(let file, let blocks):
                block = unsafe bench_next_block(&state, blocks)
                unsafe overlapped.offset = block * UInt64(HostingWork.blockBytes)
                try unsafe file.read(overlapped, into: buffer)
            case .receive(let socket):
                try unsafe socket.receive(overlapped, into: byte)
            case .send(let socket):
                try unsafe socket.send(overlapped, from: UnsafeRawBufferPointer(byte))
            }
        }

        @inline(__always)
        func isRight(_ bytes: Int) -> Bool {
            guard case .read = kind else { return bytes == 1 }
            return unsafe bytes == HostingWork.blockBytes && buffer.load(as: UInt64.self) == block
        }
    }

    private final class Runtime: CLRIOCompletionManager, @unchecked Sendable {
        // Unchecked: the host has one thread.
        let stop = Stop()
        let count = Atomic<Int>(0)
        let failure = Atomic<Bool>(false)
        // The bare port's is a local variable: the run-time check would be a cost of this program, not of the manager's.
        @exclusivity(unchecked) private var state: UInt64 = 0x2545_F491

        func onComplete(error: UInt32, bytes: UInt32, overlapped: UnsafeMutableRawPointer?) throws(HResult) {
            let pointer = unsafe (overlapped! - 8).load(as: UnsafeMutableRawPointer.self)
            let block = unsafe Unmanaged<Block>.fromOpaque(pointer).takeUnretainedValue()
            if stop.isSet { return }
            guard error == 0, block.isRight(Int(bytes)) else {
                failure.store(true, ordering: .sequentiallyConsistent)
                throw .fail
            }
            count.store(count.load(ordering: .relaxed) + 1, ordering: .relaxed)
            do throws(PortError) {
                unsafe try block.start(&state)
            } catch {
                failure.store(true, ordering: .sequentiallyConsistent)
                throw .fail
            }
        }
    }

    static func hosted(_ settings: WorkSettings, _ work: HostingWork) throws -> Measurement {
        var options = HostIOCompletionManager.Options()
        options.minThreads = 1
        options.maxThreads = 1
        options.concurrencyLimit = 1
        let host = try HostIOCompletionManager(options: options)
        let runtime = Runtime()
        try host.setCLRIOCompletionManager(runtime)
        let blocks = try work.kinds.map { try Block($0, host) }
        for handle in work.handles { try host.bind(nil, handle) }
        // The first ones of this thread, the others of the host's.
        var state: UInt64 = 1
        for block in blocks { try block.start(&state) }
        let measurement = try measure(settings) { runtime.count.load(ordering: .relaxed) }
        runtime.stop.set()
        // The memory of what is in flight must stay until it has ended.
        while host.statistics.owed > 0 { usleep(1000) }
        withExtendedLifetime(blocks) {}
        host.shutDown()
        guard !runtime.failure.load(ordering: .sequentiallyConsistent) else { throw Failure("a completion was wrong") }
        return measurement
    }

    // MARK: Measuring

    private final class Stop: Sendable {
        private let flag = Atomic<Bool>(false)
        var isSet: Bool { flag.load(ordering: .relaxed) }
        func set() { flag.store(true, ordering: .relaxed) }
    }

    /// The window begins after a tenth of it, and is slept through.
    private static func measure(_ settings: WorkSettings, _ count: () -> Int) throws -> Measurement {
        usleep(UInt32(settings.seconds * 1e5))
        var outcome = bench_outcome()
        unsafe bench_outcome_begin(&outcome)
        let before = count()
        usleep(UInt32(settings.seconds * 1e6))
        unsafe bench_outcome_end(&outcome, UInt64(count() - before), -1)
        return Measurement(outcome)
    }
}
