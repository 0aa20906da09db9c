internal import CIOCPHosting
internal import IOCP
internal import Synchronization

/// The part of a host that its threads keep alive: state, ports, and the port of the library beneath them all.
@safe final class HostCore: PortAttendant, @unchecked Sendable {
    // Unchecked: `lock` guards everything that is not atomic or constant. It comes before every lock of the port's.

    enum Condition: UInt8, AtomicRepresentable {
        /// No runtime yet.
        case early
        case running
        /// A method or the runtime has failed with E_FAIL.
        case failed
        case ended
    }

    let options: HostIOCompletionManager.Options
    /// Never given twice, unlike an address: ports outlive their hosts.
    let number: Int
    private static let nextNumber = Atomic<Int>(0)
    let lock = FutexLock()
    private let state = Atomic<Condition>(.early)
    private var runtime: (any CLRIOCompletionManager)?
    /// Made with the first port, closed when the host has ended and nothing is owed any more.
    private var port: CompletionPort?
    private var defaultPort: HostPort?
    private var ports: [HostPort] = []
    private let failedHandOvers = Atomic<Int>(0)

    // The pool; see WorkerPool.swift.
    var workers: [Worker] = []
    let minimum: Atomic<UInt32>
    var nextWorkerNumber = 1
    var failedThreads = 0
    let reposted = Atomic<Int>(0)
    /// Threads of the pool, those included that are being started. Written under the lock.
    let threads = Atomic<Int>(0)
    /// Busy threads in the low half, the maximum in the high one: both of one moment.
    let load: Atomic<UInt64>

    init(_ options: HostIOCompletionManager.Options) {
        self.options = options
        number = Self.nextNumber.add(1, ordering: .relaxed).newValue
        minimum = Atomic(options.minThreads)
        load = Atomic(UInt64(options.maxThreads) << 32)
    }

    // MARK: Condition

    var condition: Condition { state.load(ordering: .sequentiallyConsistent) }

    /// Runs a method, if the runtime is there. Its E_FAIL is the end of the runtime.
    func available<Result>(_ method: () throws(HResult) -> Result) throws(HResult) -> Result {
        guard condition == .running else { throw .clrNotAvailable }
        do throws(HResult) {
            return try method()
        } catch {
            if error == .fail { fail() }
            throw error
        }
    }

    private func fail() {
        _ = state.compareExchange(expected: .running, desired: .failed, ordering: .sequentiallyConsistent)
    }

    func setRuntime(_ manager: (any CLRIOCompletionManager)?) throws(HResult) {
        lock.lock()
        defer { lock.unlock() }
        switch condition {
        case .failed, .ended: throw .clrNotAvailable
        case .running: throw .invalidOperation
        case .early: break
        }
        guard let manager else { throw .invalidArgument }
        runtime = manager
        state.store(.running, ordering: .sequentiallyConsistent)
    }

    /// A hand-over has failed: others go on, but a runtime that says that it is unusable is believed.
    func noteFailure(_ error: HResult) {
        failedHandOvers.add(1, ordering: .relaxed)
        if error == .fail || error == .clrNotAvailable { fail() }
    }

    // MARK: Ports

    func createPort() throws(HResult) -> HostHandle {
        lock.lock()
        defer { lock.unlock() }
        // Again, under the lock: the host may have ended since.
        guard condition == .running else { throw .clrNotAvailable }
        _ = try openPort()
        let made = HostPort(of: self)
        ports.removeAll { $0.isClosed && $0.owesNothing }
        do throws(PortError) {
            let handle = try HandleTable.shared.add(made, .port)
            made.handle = handle
            ports.append(made)
            return handle
        } catch {
            throw Self.result(of: error)
        }
    }

    func closePort(_ handle: HostHandle) throws(HResult) {
        _ = try find(handle)
        guard let object = HandleTable.shared.remove(handle, .port) else { throw .invalidArgument }
        let port = unsafe unsafeDowncast(object, to: HostPort.self)
        lock.lock()
        port.isClosed = true
        let bindings = port.bindings
        lock.unlock()
        for binding in bindings { binding.ledger.close() }
        for binding in bindings { binding.file.cancelAll() }
        if Worker.isCurrent(of: self) { return }
        try awaitSettlement(of: port)
        lock.lock()
        ports.removeAll { $0 === port }
        lock.unlock()
    }

    /// Waits until a closed port owes nothing.
    private func awaitSettlement(of port: HostPort) throws(HResult) {
        let deadline = ContinuousClock.now + options.closeTimeout
        while true {
            port.settlement.reset()
            lock.lock()
            let owesNothing = port.owesNothing
            lock.unlock()
            if owesNothing { return }
            if condition == .ended { throw .abandoned }
            let left = ContinuousClock.now.duration(to: deadline)
            guard left > .zero else { throw .timeout }
            // Late or in time: the next look tells.
            _ = try? port.settlement.wait(timeout: left)
        }
    }

    func bind(_ handle: HostHandle?, _ file: IOHandle) throws(HResult) {
        let named: HostPort?
        if let handle { named = try find(handle) } else { named = nil }
        lock.lock()
        defer { lock.unlock() }
        guard condition == .running else { throw .clrNotAvailable }
        let beneath = try openPort()
        let port = named ?? defaultPort ?? makeDefaultPort()
        guard !port.isClosed else { throw .invalidArgument }
        let ledger = Ledger { [weak self, port] in
            port.settlement.set()
            self?.settled()
        }
        do throws(PortError) {
            try beneath.associate(file, ledger: ledger)
        } catch {
            throw Self.result(of: error)
        }
        port.add(HostPort.Binding(ledger: ledger, file: CompletionPort.BoundFile(file)))
    }

    private func makeDefaultPort() -> HostPort {
        let made = HostPort(of: self)
        defaultPort = made
        ports.append(made)
        return made
    }

    /// The open port of this host that a HANDLE names.
    private func find(_ handle: HostHandle) throws(HResult) -> HostPort {
        guard let object = HandleTable.shared.object(handle, .port) else { throw .invalidArgument }
        let port = unsafe unsafeDowncast(object, to: HostPort.self)
        guard port.host == number else { throw .notOwner }
        return port
    }

    /// The port beneath, made with the first threads when it is first needed. Under the lock.
    private func openPort() throws(HResult) -> CompletionPort {
        if let port { return port }
        do throws(PortError) {
            let made = try CompletionPort(
                concurrencyLimit: options.concurrencyLimit, options: options.port, attendant: self)
            port = made
            do throws(PortError) {
                try startFirstWorkers(made, runtime!)
            } catch {
                port = nil
                made.dismissAttendant()
                made.close()
                throw error
            }
            return made
        } catch {
            throw Self.result(of: error)
        }
    }

    /// What a failure of the port is to the runtime. What it cannot have caused, and nobody expected, is E_FAIL.
    private static func result(of error: PortError) -> HResult {
        switch error.status {
        case .noMemory, .insufficientResources, .tooManyOpenedFiles, .quotaExceeded, .deviceNotReady: .outOfMemory
        case .invalidHandle: .handle
        case .invalidParameter: .invalidArgument
        default: .fail
        }
    }

    // MARK: The end

    /// Ends the host, once: what is in flight is cancelled, what is owed is handed over, then the threads end.
    func end() {
        lock.lock()
        let before = state.exchange(.ended, ordering: .sequentiallyConsistent)
        let ending = before == .ended ? [] : ports
        let bindings = ending.flatMap(\.bindings)
        updateAttendance()
        lock.unlock()
        guard before != .ended else { return }
        for handle in ending.compactMap(\.handle) { _ = HandleTable.shared.remove(handle, .port) }
        for binding in bindings { binding.ledger.close() }
        for binding in bindings { binding.file.cancelAll() }
        for port in ending { port.settlement.set() }
        settled()
    }

    /// Something that a closed ledger owed was handed over.
    private func settled() {
        guard condition == .ended else { return }
        lock.lock()
        var finished: CompletionPort?
        // No start is let in any more: what owes nothing now never will.
        while let last = ports.last, last.owesNothing { ports.removeLast() }
        var told: (any CLRIOCompletionManager)?
        if ports.isEmpty {
            finished = port
            port = nil
            // It may hold the host in turn. The threads have references of their own.
            told = runtime
            runtime = nil
        }
        lock.unlock()
        // Ends the waits of the threads.
        finished?.dismissAttendant()
        finished?.close()
        // Not under the lock: it may be the last reference.
        withExtendedLifetime(told) {}
    }

    var statistics: HostIOCompletionManager.Statistics {
        lock.lock()
        defer { lock.unlock() }
        var found = HostIOCompletionManager.Statistics()
        found.threads = threads.load(ordering: .relaxed)
        found.busy = busyThreads
        found.owed = ports.reduce(0) { $0 + $1.bindings.reduce(0) { $0 + $1.ledger.owed } }
        found.reposted = reposted.load(ordering: .relaxed)
        found.failedThreads = failedThreads
        found.failedHandOvers = failedHandOvers.load(ordering: .relaxed)
        return found
    }

    /// For `packetsWait`: the port beneath while the host has one, and whom its threads report to. Under the lock.
    var open: (port: CompletionPort, runtime: any CLRIOCompletionManager)? {
        guard let port, let runtime else { return nil }
        return (port, runtime)
    }
}

/// A port as the runtime sees it: what handles are bound to. Its host's lock guards it.
final class HostPort: @unchecked Sendable {
    struct Binding {
        let ledger: Ledger
        let file: CompletionPort.BoundFile
    }

    /// The number of its host, which may be gone.
    let host: Int
    /// What the runtime calls it; nil for the default port.
    var handle: HostHandle?
    var isClosed = false
    private(set) var bindings: [Binding] = []
    private var pruneCount = 64
    /// Set when something was settled after the port was closed, and when the host ends.
    let settlement = CompletionEvent()

    init(of core: HostCore) { host = core.number }

    func add(_ binding: Binding) {
        if bindings.count >= pruneCount {
            bindings.removeAll { $0.file.isGone && $0.ledger.owed == 0 }
            pruneCount = max(64, bindings.count * 2)
        }
        bindings.append(binding)
    }

    /// Whether a closed port, or one of an ended host, owes nothing any more. Forgets what does not.
    var owesNothing: Bool {
        while let last = bindings.last, last.ledger.owed == 0 { bindings.removeLast() }
        return bindings.isEmpty
    }
}
