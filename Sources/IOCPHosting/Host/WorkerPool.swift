internal import IOCP
internal import Synchronization

/// How many threads there are.
extension HostCore {
    var maxThreads: UInt32 { UInt32(load.load(ordering: .sequentiallyConsistent) >> 32) }

    var minThreads: UInt32 { minimum.load(ordering: .sequentiallyConsistent) }

    var busyThreads: Int { Int(UInt32(truncatingIfNeeded: load.load(ordering: .sequentiallyConsistent))) }

    /// The maximum less the busy ones (i10).
    var availableThreads: UInt32 {
        let now = load.load(ordering: .sequentiallyConsistent)
        let (maximum, busy) = (UInt32(now >> 32), UInt32(truncatingIfNeeded: now))
        return maximum > busy ? maximum - busy : 0
    }

    func setLimits(min newMinimum: UInt32? = nil, max newMaximum: UInt32? = nil) throws(HResult) {
        guard options.allowsThreadLimits else { throw .notImplemented }
        lock.lock()
        let wantedMinimum = newMinimum ?? minThreads
        let wantedMaximum = newMaximum ?? maxThreads
        guard wantedMaximum > 0, wantedMinimum <= wantedMaximum else {
            lock.unlock()
            throw .invalidArgument
        }
        minimum.store(wantedMinimum, ordering: .sequentiallyConsistent)
        // In one step: nobody sees another maximum than the old one and the new one.
        load.wrappingAdd((UInt64(wantedMaximum) &- UInt64(maxThreads)) << 32, ordering: .sequentiallyConsistent)
        updateAttendance()
        let port = open?.port
        lock.unlock()
        guard let port else { return }
        nudgeIfTooMany(port)
        while threads.load(ordering: .sequentiallyConsistent) < Int(wantedMinimum), grow(to: Int(wantedMinimum)) {}
        if port.seemsQueued { packetsWait() }
    }

    /// Whether the port tells of packets that wait. Under the lock.
    func updateAttendance() {
        open?.port.setAttendance(threads.load(ordering: .relaxed) < Int(maxThreads) && condition != .ended)
    }

    // MARK: Growing

    /// The threads that the pool begins with. Throws if not even one can be started. Under the lock.
    func startFirstWorkers(_ port: CompletionPort, _ runtime: any CLRIOCompletionManager) throws(PortError) {
        let wanted = max(1, Int(minThreads))
        for _ in 0..<wanted {
            let worker = Worker(self, port, runtime, number: nextWorkerNumber)
            let code = worker.start()
            if code != 0 {
                failedThreads += 1
                guard workers.isEmpty else { break }
                throw PortError(.noMemory, "no thread can be started; end some, or raise RLIMIT_NPROC")
            }
            nextWorkerNumber += 1
            workers.append(worker)
            threads.add(1, ordering: .sequentiallyConsistent)
        }
        updateAttendance()
    }

    /// Packets are queued, and nobody waits for them: one thread more, if every thread is busy.
    func packetsWait() {
        grow(to: nil)
    }

    /// Starts a thread, if there are fewer than wanted; nil wants one more than are busy, as far as the maximum goes.
    @discardableResult
    func grow(to wanted: Int?) -> Bool {
        lock.lock()
        let count = threads.load(ordering: .sequentiallyConsistent)
        // Of an ended host the port is open as long as it owes something, for which one thread is needed.
        guard let (port, runtime) = open, condition != .ended || count == 0, count < Int(maxThreads),
            count < wanted ?? busyThreads + 1
        else {
            lock.unlock()
            return false
        }
        let worker = Worker(self, port, runtime, number: nextWorkerNumber)
        nextWorkerNumber += 1
        // Under the lock: a thread that ends at once comes after this.
        let code = worker.start()
        if code == 0 {
            workers.append(worker)
            threads.add(1, ordering: .sequentiallyConsistent)
            updateAttendance()
        } else {
            failedThreads += 1
        }
        lock.unlock()
        return code == 0
    }

    // MARK: Working

    /// A thread has taken packets.
    @inline(__always)
    func beginWork(_ port: CompletionPort) {
        let now = load.add(1, ordering: .sequentiallyConsistent).newValue
        let busy = Int(UInt32(truncatingIfNeeded: now))
        // The last free one: packets that came before it was counted as busy have told nobody.
        if busy >= threads.load(ordering: .sequentiallyConsistent), busy < Int(now >> 32), port.seemsQueued {
            packetsWait()
        }
    }

    /// It has handed them over. Returns whether there are too many threads.
    @inline(__always)
    func endWork() -> Bool {
        let now = load.subtract(1, ordering: .sequentiallyConsistent).newValue
        return threads.load(ordering: .sequentiallyConsistent) > Int(now >> 32)
    }

    // MARK: Shrinking

    /// Whether a thread that has no packets is to end: there are more than the maximum, or it was idle and there are more
    /// than the minimum. If so it is counted no more.
    func retires(_ worker: Worker, isIdle: Bool) -> Bool {
        lock.lock()
        let count = threads.load(ordering: .relaxed)
        guard count > (isIdle ? max(1, Int(minThreads)) : Int(maxThreads)) else {
            lock.unlock()
            return false
        }
        remove(worker)
        let port = open?.port
        lock.unlock()
        if let port {
            // Packets that came meanwhile believed it to be free.
            if port.seemsQueued { packetsWait() }
            nudgeIfTooMany(port)
        }
        return true
    }

    /// A thread that sleeps is to look at the limits, and to tell the next one if there are still too many.
    private func nudgeIfTooMany(_ port: CompletionPort) {
        // Fails only for a closed port, whose threads end anyway.
        if threads.load(ordering: .sequentiallyConsistent) > Int(maxThreads) { try? port.post() }
    }

    /// How long a thread waits for packets; nil is for ever, which suits one that is alone.
    var patience: Duration? {
        threads.load(ordering: .relaxed) > 1 ? options.idleTimeout : nil
    }

    /// The port is closed: the thread ends.
    func leave(_ worker: Worker) {
        lock.lock()
        remove(worker)
        lock.unlock()
    }

    /// The runtime has ended the thread while it was busy.
    func leaveAmidWork(_ worker: Worker, _ port: CompletionPort) {
        _ = endWork()
        leave(worker)
        grow(to: max(1, Int(minThreads)))
        if port.seemsQueued { packetsWait() }
    }

    /// Under the lock.
    private func remove(_ worker: Worker) {
        workers.removeAll { $0 === worker }
        threads.subtract(1, ordering: .sequentiallyConsistent)
        updateAttendance()
    }

    // MARK: The monitor's look

    /// Packets behind one that a thread stays with are given to others.
    func look() -> Bool {
        lock.lock()
        let port = open?.port
        let present = workers
        lock.unlock()
        guard let port else { return false }
        var looksAgain = false
        for worker in present {
            let threads = threads.load(ordering: .relaxed)
            switch worker.look(hasOthers: threads < Int(maxThreads) || busyThreads < threads) {
            case .idle: break
            case .works: looksAgain = true
            case .wasRelieved(let count): reposted.add(count, ordering: .relaxed)
            }
        }
        let count = threads.load(ordering: .relaxed)
        let isShort = busyThreads >= count && count < Int(maxThreads) && port.seemsQueued
        if isShort { packetsWait() }
        return looksAgain || isShort
    }
}
