import Glibc
import IOCP
import Synchronization

/// One round of the soak: ports, the threads that dequeue from them, and what keeps them busy. It ends with nothing left.
final class Stage: @unchecked Sendable {
    static let portCount = 3
    static let actCount = 24

    private let worlds: Locked<[World]> = Locked([])
    /// Every port of the round, those that were closed included.
    private let everyWorld: Locked<[World]> = Locked([])
    private let acts: Locked<[ObjectIdentifier: Act]> = Locked([:])
    let clients: Locked<[UInt64: ClientAct]> = Locked([:])
    let listeners: Locked<[ListenerAct]> = Locked([])
    private let held: Locked<[LentBuffer]> = Locked([])
    private let postponed: Locked<[@Sendable (Worker) -> Void]> = Locked([])
    let pool = Pool()

    private let stopping = Atomic<Bool>(false)
    private let leaving = Atomic<Bool>(false)
    /// No new acts: those there are come to their ends.
    var isStopping: Bool { stopping.load(ordering: .sequentiallyConsistent) }
    /// The threads are to go.
    var isLeaving: Bool { leaving.load(ordering: .sequentiallyConsistent) }

    init(_ chance: inout Chance) throws(PortError) {
        for _ in 0..<Self.portCount { try openWorld(&chance) }
    }

    func openWorld(_ chance: inout Chance) throws(PortError) {
        let world = try World(Ledger.count(.ports) + 1, limit: chance.between(1...4), &chance)
        worlds.withLock { $0.append(world) }
        everyWorld.withLock { $0.append(world) }
    }

    var living: [World] { worlds.withLock { $0 } }
    func someWorld(_ chance: inout Chance) -> World { chance.pick(living) }

    /// Threads come for those that have gone.
    func fillThreads(_ worker: Worker) {
        _ = pool.reap()
        for world in living where pool.residents(of: world) < 2 {
            pool.start(on: self, home: world, seed: worker.chance.next())
        }
        if pool.wanderers < 4 { pool.start(on: self, home: nil, seed: worker.chance.next()) }
    }

    // MARK: Acts

    /// Returns false, and the act must not begin, once the stage empties.
    func add(_ act: Act) -> Bool {
        acts.withLock { $0[ObjectIdentifier(act)] = act }
        Ledger.add(.actors)
        return true
    }

    func remove(_ act: Act) { acts.withLock { $0[ObjectIdentifier(act)] = nil } }
    var everyAct: [Act] { acts.withLock { Array($0.values) } }

    /// A buffer that is given back at once, or in a while, by somebody else.
    func hold(_ lent: LentBuffer, _ worker: Worker) {
        if isStopping || worker.chance.happens(800) { return lent.giveBack() }
        held.withLock { $0.append(lent) }
    }

    func giveBackHeld() {
        let returned = held.withLock { held in
            defer { held = [] }
            return held
        }
        for lent in returned { lent.giveBack() }
    }

    /// To be done by whoever looks after things, some milliseconds from now.
    func later(_ body: @escaping @Sendable (Worker) -> Void) { postponed.withLock { $0.append(body) } }

    func doPostponed(_ worker: Worker) {
        let due = postponed.withLock { postponed in
            defer { postponed = [] }
            return postponed
        }
        for body in due { body(worker) }
    }

    /// Closes a port in the middle of everything, and opens another.
    func replaceWorld(_ worker: Worker) throws(PortError) {
        let world = someWorld(&worker.chance)
        // First the new one: descriptors may be short, and there must be one.
        try openWorld(&worker.chance)
        worlds.withLock { $0.removeAll { $0 === world } }
        world.closeUnderFire()
    }

    /// What was on closed ports ends now.
    func clearCutActs() {
        for act in everyAct where act.isCut {
            act.breakOff()
            act.vanish()
        }
    }

    // MARK: The end

    /// Lets everything end, and checks that it does. Throws what did not.
    func end(_ worker: Worker) throws {
        stopping.store(true, ordering: .sequentiallyConsistent)
        for act in everyAct where act.isEndless { act.breakOff() }
        try wait(worker, "every act has ended", { self.everyAct.map(\.description) }) { self.everyAct.isEmpty }
        for world in living {
            try wait(worker, "every start and post has ended in \(world)", { [] }) {
                world.outstanding.load(ordering: .sequentiallyConsistent) == 0 && world.posts.outstanding == 0
            }
        }
        leaving.store(true, ordering: .sequentiallyConsistent)
        try wait(worker, "every thread has gone", { [] }) {
            for world in self.living { try? world.port.post() }
            return self.pool.reap() == 0
        }
        for world in living { try finish(world) }
        // Away from the last of the ports.
        _ = try CompletionPort(concurrencyLimit: 1).dequeue(timeout: .zero)
        for world in living { try checkAtRest(world, worker) }
        for world in everyWorld.withLock({ $0 }) where world.isDead {
            Ledger.add(.postsDiscarded, world.posts.outstanding)
        }
        for world in living { world.port.close() }
        // The last completions on closed ports are seen by the library's own thread.
        try wait(worker, "the library has let go of every operation", { NumberedOperation.everyLine }) {
            Ledger.livingOperations.load(ordering: .sequentiallyConsistent) == 0
        }
        clients.withLock { $0 = [:] }
        worlds.withLock { $0 = [] }
        everyWorld.withLock { $0 = [] }
    }

    private func finish(_ world: World) throws {
        while let packet = try world.port.dequeue(timeout: .zero) {
            if packet.operation != nil || packet.token != 0 {
                Ledger.fail("a packet came to \(world) after the last: \(packet)")
            }
        }
    }

    private func checkAtRest(_ world: World, _ worker: Worker) throws {
        // A thread that has been joined has told its port; an operation that was cancelled may be in the kernel a little.
        try wait(worker, "\(world) is at rest", { [] }) { try world.port.statistics.isAtRest }
    }

    private func line(of world: World) -> String {
        "\(world): \((try? world.port.statistics.line) ?? "closed"), "
            + "\(world.outstanding.load(ordering: .sequentiallyConsistent)) starts and \(world.posts.outstanding) posts "
            + "without an end, \(world.group?.pauseCount ?? 0) pauses for want of a buffer"
    }

    var report: [String] { living.map(line) + everyAct.prefix(10).map(\.description) }

    /// Waits for something that must come, as long as there is any progress, and then a while.
    private func wait(
        _ worker: Worker, _ what: String, _ details: () -> [String], _ condition: () throws -> Bool
    ) throws {
        let patience: Double = sanitizer == nil ? 30 : 90
        var progress = -1
        var since = now()
        while try !condition() {
            giveBackHeld()
            doPostponed(worker)
            clearCutActs()
            if !isLeaving { fillThreads(worker) }
            let moved = Ledger.count(.packets) + Ledger.count(.ofContinuous) + Ledger.count(.postPackets)
            if moved != progress {
                progress = moved
                since = now()
            }
            if now() - since > patience { throw Stuck(what: what, details: living.map(line) + details()) }
            if Ledger.hasFailed { throw Stuck(what: "the round went on: something was wrong", details: []) }
            usleep(2000)
        }
    }
}

struct Stuck: Error {
    let what: String
    let details: [String]
}

extension CompletionPort.Statistics {
    var isAtRest: Bool {
        depth == 0 && running == 0 && waiting == 0 && parked == 0 && blocked == 0 && inFlight == 0 && deferred == 0
    }
}
