internal import CIOCPHosting
internal import IOCP
internal import Synchronization

/// A thread of a host's: dequeues packets in batches and hands them over one by one.
@safe final class Worker: @unchecked Sendable {
    // Unchecked: the batch belongs to the thread; `progress` says who may take which packet of it.

    private let core: HostCore
    private let port: CompletionPort
    private let runtime: any CLRIOCompletionManager
    private let number: Int
    private let batch: UnsafeMutableBufferPointer<Packet>
    /// The number of packets in the batch, and in the low half the next one to be handed over, or `taken` and more: what
    /// was left has been given to others. Both of one moment.
    private let progress = Atomic<UInt64>(0)
    private static let taken: UInt32 = 1 << 31
    /// Counts the batches.
    private let round = Atomic<Int>(0)
    /// Which packet the runtime has at the moment, or -1.
    private var current = -1
    private var count = 0
    /// How many packets the next batch may have, so that a batch takes about `wantedRound`: what lies behind a packet in a
    /// batch waits for it, though other threads may be free.
    private var limit: Int
    private static let wantedRound = Duration.microseconds(200)
    /// While rounds are quick, one in so many is timed.
    private static let timedRounds = 8
    /// Held by whoever reads packets that he has taken out of this thread's batch.
    private let taking = FutexLock()
    /// What the monitor saw at its last look. Only the monitor's thread touches it.
    private var seenRound = 0
    private let thread = Atomic<UInt>(0)

    init(_ core: HostCore, _ port: CompletionPort, _ runtime: any CLRIOCompletionManager, number: Int) {
        self.core = core
        self.port = port
        self.runtime = runtime
        self.number = number
        limit = core.options.batchSize
        unsafe batch = .allocate(capacity: core.options.batchSize)
    }

    deinit {
        unsafe batch.deallocate()
    }

    /// Returns 0 or an errno.
    func start() -> Int32 {
        let reference = unsafe Unmanaged.passRetained(self)
        let code = unsafe iocp_hosting_start_thread(
            { unsafe Unmanaged<Worker>.fromOpaque($0!)._withUnsafeGuaranteedRef { $0.run() } },
            { unsafe Unmanaged<Worker>.fromOpaque($0!).takeRetainedValue().ended() }, reference.toOpaque())
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
        // It throws once the port is closed, which ends the thread.
        while let count = try? unsafe port.dequeue(into: batch.extracting(..<limit), timeout: core.patience) {
            // A time-out, or a nudge, which says nothing but to look at the limits.
            if unsafe count == 0 || count == 1 && batch[0].key == 0 {
                _ = unsafe batch.extracting(..<count).deinitialize()
                if core.retires(self, isIdle: count == 0) { return }
                continue
            }
            core.beginWork(port)
            workTimed(count)
            if core.endWork(), core.retires(self, isIdle: false) { return }
        }
        core.leave(self)
    }

    /// The thread's last act. Amid a batch it is the runtime that has ended it, by pthread_exit.
    private func ended() {
        guard current >= 0 else { return }
        core.noteFailure(.unexpected)
        relieve()
        let key = unsafe batch[current].key
        _ = unsafe batch.extracting(..<count).deinitialize()
        unsafe Self.settle(key)
        core.leaveAmidWork(self, port)
    }

    /// Works, and learns how many packets the next batch is to have.
    @inline(__always)
    private func workTimed(_ count: Int) {
        let isTimed = unsafe limit < batch.count || round.load(ordering: .relaxed) % Self.timedRounds == 0
        let start = isTimed ? ContinuousClock.now : nil
        work(count)
        guard let start else { return }
        adapt(count, start.duration(to: .now))
    }

    @inline(never)
    private func adapt(_ count: Int, _ time: Duration) {
        let fitting = Int(Double(count) * (Self.wantedRound / max(time, .nanoseconds(1))))
        limit = unsafe max(1, min(fitting, limit * 2, batch.count))
    }

    /// Hands over what is in the batch, as far as nobody takes it away.
    private func work(_ count: Int) {
        round.store(round.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
        self.count = count
        progress.store(UInt64(count) << 32, ordering: .sequentiallyConsistent)
        while true {
            let before = progress.add(1, ordering: .sequentiallyConsistent).oldValue
            let index = Int(UInt32(truncatingIfNeeded: before))
            if index >= count {
                if index >= Int(Self.taken) {
                    // Whoever took the rest may still be reading it.
                    taking.lock()
                    taking.unlock()
                }
                break
            }
            current = index
            unsafe handOver(&batch[index])
        }
        current = -1
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
        unsafe Self.settle(packet.key)
    }

    /// The key is a ledger, which the host keeps as long as it owes something.
    @unsafe
    @inline(__always)
    private static func settle(_ key: UInt) {
        unsafe Unmanaged<Ledger>.fromOpaque(UnsafeRawPointer(bitPattern: key)!)
            ._withUnsafeGuaranteedRef { $0.settle() }
    }

    // MARK: Being looked at

    enum Finding {
        case idle
        /// It has more packets than the one that it works on.
        case works
        case wasRelieved(Int)
    }

    /// The monitor's look, under no lock: what is left of a batch that the thread had at the last look already is queued
    /// again, if there are others to take it.
    func look(hasOthers: Bool) -> Finding {
        let now = round.load(ordering: .relaxed)
        let left = Self.left(of: progress.load(ordering: .acquiring))
        guard !left.isEmpty else { return .idle }
        let isLate = now == seenRound
        seenRound = now
        guard isLate, hasOthers else { return .works }
        let count = relieve()
        return count > 0 ? .wasRelieved(count) : .idle
    }

    /// The packets that nobody has taken yet.
    private static func left(of progress: UInt64) -> Range<Int> {
        let (next, count) = (Int(UInt32(truncatingIfNeeded: progress)), Int(progress >> 32))
        return min(next, count)..<count
    }

    /// Takes what is left out of the batch, and queues it again. Returns how many there were.
    @discardableResult
    private func relieve() -> Int {
        taking.lock()
        defer { taking.unlock() }
        let left = Self.left(of: progress.exchange(UInt64(Self.taken), ordering: .sequentiallyConsistent))
        for index in left where unsafe batch[index].operation == nil {
            let packet = unsafe (
                key: batch[index].key, status: batch[index].status, information: batch[index].information,
                token: batch[index].token
            )
            // Does not fail: the port is open as long as something is owed.
            try? port.post(status: packet.status, information: packet.information, key: packet.key, token: packet.token)
        }
        return left.count
    }
}
