internal import CIOCPHosting
internal import IOCP
internal import Synchronization

/// A thread of a host's: dequeues packets in batches and hands them over one by one.
@safe final class Worker: @unchecked Sendable {
    // Unchecked: the batch belongs to the thread; `cursor` says who may take which packet of it.

    private let core: HostCore
    private let port: CompletionPort
    private let runtime: any CLRIOCompletionManager
    private let number: Int
    private let batch: UnsafeMutableBufferPointer<Packet>
    /// The next packet of the batch to be handed over, or `taken` and more: what is left has been given to others.
    private let cursor = Atomic<Int>(0)
    private let count = Atomic<Int>(0)
    /// Counts the batches.
    private let round = Atomic<Int>(0)
    private static let taken = 1 << 32
    /// Held by whoever reads packets that he has taken out of this thread's batch.
    private let taking = FutexLock()
    /// What the monitor saw at its last look. Only the monitor's thread touches it.
    private var seen = (round: 0, cursor: 0)
    private let thread = Atomic<UInt>(0)

    init(_ core: HostCore, _ port: CompletionPort, _ runtime: any CLRIOCompletionManager, number: Int) {
        self.core = core
        self.port = port
        self.runtime = runtime
        self.number = number
        unsafe batch = .allocate(capacity: core.options.batchSize)
    }

    deinit {
        unsafe batch.deallocate()
    }

    /// Returns 0 or an errno.
    func start() -> Int32 {
        let reference = unsafe Unmanaged.passRetained(self)
        let code = unsafe iocp_hosting_start_thread(
            { unsafe Unmanaged<Worker>.fromOpaque($0!).takeRetainedValue().run() }, reference.toOpaque())
        if code != 0 { unsafe reference.release() }
        return code
    }

    /// Whether the calling thread belongs to that host.
    static func isCurrent(of core: HostCore) -> Bool {
        let me = UInt(bitPattern: ObjectIdentifier(IOThread.current))
        core.lock.lock()
        defer { core.lock.unlock() }
        return core.workers.contains { $0.thread.load(ordering: .relaxed) == me }
    }

    private func run() {
        unsafe "iocp-host-\(number)".withCString { unsafe iocp_hosting_name_thread($0) }
        thread.store(UInt(bitPattern: ObjectIdentifier(IOThread.current)), ordering: .relaxed)
        while let count = try? unsafe port.dequeue(into: batch, timeout: core.patience) {
            // A time-out, or a nudge, which says nothing but to look at the limits.
            if unsafe count == 0 || count == 1 && batch[0].key == 0 {
                _ = unsafe batch.extracting(..<count).deinitialize()
                if core.retires(self, isIdle: count == 0) { return }
                continue
            }
            core.beginWork(port)
            work(count)
            if core.endWork(), core.retires(self, isIdle: false) { return }
        }
        core.leave(self)
    }

    /// Hands over what is in the batch, as far as nobody takes it away.
    private func work(_ count: Int) {
        round.store(round.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
        self.count.store(count, ordering: .relaxed)
        cursor.store(0, ordering: .sequentiallyConsistent)
        while true {
            let index = cursor.add(1, ordering: .sequentiallyConsistent).oldValue
            if index >= count {
                if index >= Self.taken {
                    // Whoever took the rest may still be reading it.
                    taking.lock()
                    taking.unlock()
                }
                break
            }
            unsafe handOver(&batch[index])
        }
        _ = unsafe batch.extracting(..<count).deinitialize()
    }

    @inline(__always)
    private func handOver(_ packet: inout Packet) {
        // Key 0 is a nudge; an operation object on a bound handle is not the runtime's.
        guard packet.key != 0, packet.operation == nil else { return }
        do throws(HResult) {
            unsafe try runtime.onComplete(
                error: packet.isSuccess ? 0 : packet.status.win32Code,
                bytes: UInt32(truncatingIfNeeded: packet.information),
                overlapped: UnsafeMutableRawPointer(bitPattern: packet.token))
        } catch {
            core.noteFailure(error)
        }
        // Kept by the host as long as it owes something.
        unsafe Unmanaged<Ledger>.fromOpaque(UnsafeRawPointer(bitPattern: packet.key)!)
            ._withUnsafeGuaranteedRef { $0.settle() }
    }

    // MARK: Being looked at

    enum Finding {
        case idle
        /// It has more packets than the one that it works on.
        case works
        case wasRelieved(Int)
    }

    /// The monitor's look, under no lock: packets behind one that has not been done since the last look are queued again.
    func look() -> Finding {
        let now = (round: round.load(ordering: .relaxed), cursor: cursor.load(ordering: .acquiring))
        guard now.cursor < count.load(ordering: .relaxed) else { return .idle }
        let isStuck = now == seen
        seen = now
        guard isStuck else { return .works }
        taking.lock()
        defer { taking.unlock() }
        let first = cursor.exchange(Self.taken, ordering: .sequentiallyConsistent)
        let end = count.load(ordering: .relaxed)
        guard first < end else { return .idle }
        for index in first..<end where unsafe batch[index].operation == nil {
            let packet = unsafe (
                key: batch[index].key, status: batch[index].status, information: batch[index].information,
                token: batch[index].token
            )
            // Does not fail: the port is open as long as something is owed.
            try? port.post(status: packet.status, information: packet.information, key: packet.key, token: packet.token)
        }
        return .wasRelieved(end - first)
    }
}
