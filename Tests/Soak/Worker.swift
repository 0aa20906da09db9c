import Glibc
import IOCP
import Synchronization

/// A thread of the soak as its handlers see it.
final class Worker: @unchecked Sendable {
    // Only its thread touches it.
    var chance: Chance
    let number: Int

    private static let numbers = Atomic<Int>(0)

    init(_ seed: UInt64) {
        number = Self.numbers.add(1, ordering: .relaxed).newValue
        chance = Chance(seed)
    }
}

/// A call queued to a thread: it runs once, or is dropped with the thread.
private final class Call: Sendable {
    private let hasRun = Atomic<Bool>(false)

    init() { Ledger.add(.calls) }

    func run() {
        Ledger.add(.callsRun)
        if hasRun.exchange(true, ordering: .sequentiallyConsistent) { Ledger.fail("a call ran twice") }
    }

    deinit { if !hasRun.load(ordering: .sequentiallyConsistent) { Ledger.add(.callsDropped) } }
}

/// Threads that come, dequeue, work, move, and go.
final class Pool: @unchecked Sendable {
    fileprivate final class Member: @unchecked Sendable {
        let stage: Stage
        let worker: Worker
        /// The port that it stays with, waiting without a limit; nil for one that moves.
        let home: World?
        var thread = pthread_t()
        /// 0 while it lives, then how it ends. Apart, since the thread writes it as its last deed: those who are cancelled
        /// or exit must be in no code that has something to release.
        let end: UnsafeMutablePointer<Atomic<Int>>
        /// While the thread lives, for calls.
        let handle: Locked<IOThread?> = Locked(nil)

        init(_ stage: Stage, _ worker: Worker, _ home: World?) {
            self.stage = stage
            self.worker = worker
            self.home = home
            end = .allocate(capacity: 1)
            end.initialize(to: Atomic(0))
        }

        deinit {
            end.deinitialize(count: 1)
            end.deallocate()
        }
    }

    private let members: Locked<[Member]> = Locked([])

    /// Starts a thread. Returns whether there could be one.
    func start(on stage: Stage, home: World?, seed: UInt64) {
        let member = Member(stage, Worker(seed), home)
        let code = pthread_create(
            &member.thread, nil,
            { argument in
                // Kept by the pool, until it has joined this thread.
                let end = Pool.live(argument!)
                // By chance, one in three. The thread sanitizer loses count when a thread is cancelled.
                switch Int(bitPattern: end) / 16 % (sanitizer == "thread" ? 2 : 3) {
                case 0:
                    end.pointee.store(Pool.returns, ordering: .sequentiallyConsistent)
                    return nil
                case 1:
                    end.pointee.store(Pool.returns, ordering: .sequentiallyConsistent)
                    pthread_exit(nil)
                default:
                    end.pointee.store(Pool.waitsForCancel, ordering: .sequentiallyConsistent)
                    while true { pause() }
                }
            }, Unmanaged.passRetained(member).toOpaque())
        guard code == 0 else { return Unmanaged.passUnretained(member).release() }
        Ledger.add(.threads)
        members.withLock { $0.append(member) }
    }

    private static let returns = 1
    private static let waitsForCancel = 2

    private static func live(_ argument: UnsafeMutableRawPointer) -> UnsafeMutablePointer<Atomic<Int>> {
        let member = Unmanaged<Member>.fromOpaque(argument).takeRetainedValue()
        member.handle.withLock { $0 = IOThread.current }
        var life = Member.Life(member.stage, member.worker, member.home)
        life.go()
        member.handle.withLock { $0 = nil }
        return member.end
    }

    /// Joins the threads that have ended. Returns how many live.
    func reap() -> Int {
        let ended = members.withLock { members in
            let middle = members.partition { $0.end.pointee.load(ordering: .sequentiallyConsistent) != 0 }
            defer { members.removeSubrange(middle...) }
            return Array(members[middle...])
        }
        for member in ended {
            if member.end.pointee.load(ordering: .relaxed) == Self.waitsForCancel { pthread_cancel(member.thread) }
            pthread_join(member.thread, nil)
        }
        return members.withLock { $0.count }
    }

    func residents(of world: World) -> Int { members.withLock { $0.count { $0.home === world } } }
    var wanderers: Int { members.withLock { $0.count { $0.home == nil } } }

    /// Queues a call to one of the threads.
    func call(_ chance: inout Chance) {
        let all = members.withLock { $0 }
        guard !all.isEmpty, let thread = chance.pick(all).handle.withLock({ $0 }) else { return }
        let call = Call()
        thread.queueCall { call.run() }
    }

    /// Sends a signal to one of the threads. It cannot be gone: only the caller joins them.
    func signal(_ chance: inout Chance) {
        let all = members.withLock { $0 }
        guard !all.isEmpty else { return }
        let member = chance.pick(all)
        pthread_kill(member.thread, SIGUSR1)
        Ledger.add(.signals)
    }
}

extension Pool.Member {
    /// What a thread does until it goes.
    fileprivate struct Life {
        let stage: Stage
        let worker: Worker
        let home: World?
        private var place: World
        private var packetsLeft: Int

        init(_ stage: Stage, _ worker: Worker, _ home: World?) {
            self.stage = stage
            self.worker = worker
            self.home = home
            place = home ?? stage.someWorld(&worker.chance)
            packetsLeft = worker.chance.between(1...5000)
        }

        mutating func go() {
            var batch = PacketBatch(capacity: worker.chance.between(1...64))
            while packetsLeft > 0 && !stage.isLeaving {
                if home == nil && worker.chance.happens(20) { place = stage.someWorld(&worker.chance) }
                do throws(PortError) {
                    try dequeue(&batch)
                } catch {
                    guard error.status == .abandoned || error.status == .invalidHandle, place.isDead else {
                        return Ledger.fail("a dequeue from \(place) failed: \(error)")
                    }
                    if home != nil { return }
                    place = stage.someWorld(&worker.chance)
                }
            }
        }

        private mutating func dequeue(_ batch: inout PacketBatch) throws(PortError) {
            let timeout: Duration? =
                home != nil && worker.chance.happens(800)
                ? nil : .microseconds(worker.chance.pick([0, 1, 500, 5000, 20_000]))
            switch worker.chance.below(10) {
            case 0...2:
                if let packet = try place.port.dequeue(timeout: timeout) { handle(packet) }
            case 3...6:
                try place.port.dequeue(into: &batch, timeout: timeout)
                handle(batch)
            case 7:
                if case .packet(let packet) = try place.port.dequeueAlertably(timeout: timeout) { handle(packet) }
            case 8:
                _ = try place.port.dequeueAlertably(into: &batch, timeout: timeout)
                handle(batch)
            default:
                if worker.chance.happens(300) {
                    _ = try IOThread.sleepAlertably(timeout: .microseconds(500))
                } else if worker.chance.happens(300) {
                    _ = try place.port.waitUntilQueued(timeout: .microseconds(500))
                }
            }
            batch.removeAll()
        }

        private mutating func handle(_ batch: borrowing PacketBatch) {
            Posts.checkOrder(batch, from: place)
            for index in batch.indices { handle(batch[index]) }
        }

        private mutating func handle(_ packet: Packet) {
            packetsLeft -= 1
            switch packet.operation {
            case let operation as NumberedOperation: operation.arrive(packet, worker)
            case let parcel as Parcel: parcel.arrive(packet)
            default: if packet.token != 0 { place.posts.arrive(packet, from: place) }
            }
            if !stage.isStopping && worker.chance.happens(200) { post() }
            if worker.chance.happens(4) { Blocking.block(&worker.chance) }
        }

        private func post() {
            let world = stage.someWorld(&worker.chance)
            if worker.chance.happens(100) { _ = Parcel(to: world, worker) } else { world.posts.post(to: world, worker) }
        }
    }
}

/// What handlers do that takes time.
enum Blocking {
    static func block(_ chance: inout Chance) {
        let microseconds = chance.below(chance.happens(100) ? 20_000 : 2000)
        let isSaid = chance.happens(400)
        let way = chance.below(4)
        if isSaid && way < 3 { withBlockingRegion { block(way, microseconds) } } else { block(way, microseconds) }
    }

    private static func block(_ way: Int, _ microseconds: Int) {
        switch way {
        case 0: usleep(UInt32(microseconds))
        case 1: waitOnFutex(microseconds)
        case 2: readNothing(microseconds)
        default:
            let end = now() + Double(microseconds) / 1e6
            while now() < end {}
        }
    }

    private static func waitOnFutex(_ microseconds: Int) {
        var semaphore = sem_t()
        sem_init(&semaphore, 0, 0)
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        time.tv_nsec += microseconds * 1000
        time.tv_sec += time.tv_nsec / 1_000_000_000
        time.tv_nsec %= 1_000_000_000
        sem_timedwait(&semaphore, &time)
        sem_destroy(&semaphore)
    }

    private static func readNothing(_ microseconds: Int) {
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0 else { return }
        var limit = timeval(tv_sec: 0, tv_usec: max(1, microseconds))
        setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var byte: UInt8 = 0
        _ = recv(ends[0], &byte, 1, 0)
        close(ends[0])
        close(ends[1])
    }
}
