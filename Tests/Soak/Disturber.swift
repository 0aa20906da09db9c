import Glibc
import IOCP
import Synchronization

/// The thread that keeps the stage full and disturbs what happens on it.
struct Disturber {
    let stage: Stage
    let worker: Worker
    private var limit = rlimit()
    private var exhaustedUntil: Double?
    private var fillers: [Int32] = []
    private let faults = Faults()

    init(_ stage: Stage, _ worker: Worker) {
        self.stage = stage
        self.worker = worker
        getrlimit(Self.descriptors, &limit)
    }

    private static let descriptors = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)

    /// Disturbs until the time is over, then restores what it has taken away.
    mutating func go(until end: Double) {
        while now() < end && !Ledger.hasFailed {
            fill()
            for _ in 0..<worker.chance.between(1...4) { disturb() }
            stage.giveBackHeld()
            stage.doPostponed(worker)
            stage.clearCutActs()
            restoreDescriptors()
            usleep(UInt32(worker.chance.between(500...3000)))
        }
        restoreDescriptors(now: true)
        faults.end()
    }

    private mutating func fill() {
        stage.fillThreads(worker)
        for _ in 0..<max(0, Stage.actCount - stage.everyAct.count) {
            // Descriptors may be short: again next time.
            do throws(PortError) { try begin() } catch { break }
        }
    }

    private func begin() throws(PortError) {
        switch worker.chance.below(12) {
        case 0...2: try StreamAct.pair(on: stage, worker)
        case 3...5:
            let listeners = stage.listeners.withLock { $0 }
            if listeners.count < 2 { return try ListenerAct.begin(on: stage, worker) }
            try ClientAct.begin(on: stage, to: worker.chance.pick(listeners), worker)
        case 6...7: try MessageAct.begin(on: stage, worker)
        case 8...9: try FileAct.begin(on: stage, worker)
        default: try DialogueAct.begin(on: stage, worker)
        }
    }

    private mutating func disturb() {
        switch worker.chance.below(200) {
        case 0..<40: stage.pool.call(&worker.chance)
        case 40..<80: stage.pool.signal(&worker.chance)
        case 80..<130: cancel()
        case 130..<140: stage.everyAct.randomElement(&worker.chance)?.breakOff()
        case 140..<150: duplicate()
        case 150..<170: question()
        case 170..<172: exhaustDescriptors()
        case 172..<174: fork()
        case 174..<176: faults.begin(worker.chance.next())
        case 176..<178: try? stage.replaceWorld(worker)
        default:
            let world = stage.someWorld(&worker.chance)
            for _ in 0..<worker.chance.below(100) { world.posts.post(to: world, worker) }
        }
    }

    private func cancel() {
        guard let act = stage.everyAct.randomElement(&worker.chance), let handle = act.someHandle(&worker.chance)
        else { return }
        switch worker.chance.below(3) {
        case 0: _ = try? handle.cancelAll()
        case 1: _ = try? handle.cancelFromThisThread()
        default:
            let operations = act.operations
            if !operations.isEmpty { try? handle.cancel(worker.chance.pick(operations)) }
        }
    }

    /// Handles and references to ports come and go beside those that are in use.
    private func duplicate() {
        let world = stage.someWorld(&worker.chance)
        if let copy = try? world.port.duplicate() { copy.close() }
        guard let act = stage.everyAct.randomElement(&worker.chance), let handle = act.someHandle(&worker.chance)
        else { return }
        switch handle {
        case let socket as Socket: try? socket.duplicate().close()
        case let pipe as Pipe: try? pipe.duplicate().close()
        case let file as File: try? file.duplicate().close()
        default: break
        }
    }

    private func question() {
        let world = stage.someWorld(&worker.chance)
        if let nonsense = try? world.port.statistics.nonsense { Ledger.fail("\(world) says of itself: \(nonsense)") }
    }

    // MARK: The process's limits and children

    private mutating func exhaustDescriptors() {
        guard exhaustedUntil == nil else { return }
        // A little above the first that is free, so that there are few to be taken.
        let first = dup(1)
        guard first >= 0 else { return }
        fillers = [first]
        var less = limit
        less.rlim_cur = min(limit.rlim_cur, rlim_t(Usage.highestDescriptor + 1))
        setrlimit(Self.descriptors, &less)
        while case let filler = dup(1), filler >= 0 { fillers.append(filler) }
        exhaustedUntil = now() + Double(worker.chance.between(1...50)) / 1000
        Ledger.add(.exhaustions)
    }

    private mutating func restoreDescriptors(now isNow: Bool = false) {
        guard let end = exhaustedUntil, isNow || now() > end else { return }
        setrlimit(Self.descriptors, &limit)
        for filler in fillers { close(filler) }
        fillers = []
        exhaustedUntil = nil
    }

    /// A child that ends at once, with what it inherits, or executes another program. Not under the thread sanitizer: Swift's runtime then takes a lock
    /// for each look at a global variable, which the child inherits locked by a thread that it has not.
    private func fork() {
        if sanitizer == "thread" { return }
        // Swift does not let one say fork; the child does nothing that could need a lock.
        typealias Function = @convention(c) () -> pid_t
        let fork = unsafeBitCast(dlsym(nil, "fork"), to: Function.self)
        let executes = worker.chance.happens(500)
        let name = strdup("/bin/true")!
        defer { free(name) }
        let child = withUnsafeTemporaryAllocation(of: UnsafeMutablePointer<CChar>?.self, capacity: 2) { arguments in
            arguments[0] = name
            arguments[1] = nil
            let child = fork()
            if child == 0 {
                if executes { execv(name, arguments.baseAddress!) }
                _exit(executes ? 1 : 0)
            }
            return child
        }
        guard child > 0 else { return }
        let end = now() + 30
        var status: Int32 = 0
        while waitpid(child, &status, WNOHANG) != child {
            usleep(200)
            guard now() > end else { continue }
            Ledger.fail("the child of a fork does not end")
            kill(child, SIGKILL)
            while waitpid(child, &status, 0) < 0 && errno == EINTR {}
        }
        if status != 0 { Ledger.fail("the child of a fork ended with \(status)") }
        Ledger.add(.forks)
    }
}

extension Array {
    fileprivate func randomElement(_ chance: inout Chance) -> Element? { isEmpty ? nil : chance.pick(self) }
}
