import CLiburing
import Glibc

@testable import IOUring

/// The virtual kernel: futexes, epoll and rings over plain memory.
///
/// It does what a kernel 6.13 does with the calls that the library makes, as far as a library could notice: completions
/// of a thread that is in user code wait until that thread enters the kernel, is interrupted, or sleeps
/// (IORING_SETUP_COOP_TASKRUN); a request whose thread has exited ends with ECANCELED, late; a full completion queue
/// overflows into memory that an entry with GETEVENTS brings back; an entry that cannot submit all does not wait.
final class Kernel {
    static let doorbell: Int32 = 8
    static let timer: Int32 = 9

    private var rings: [VirtualRing] = []
    private var nextDescriptor: Int32 = 0
    private var isDoorbellRung = false
    private var timerEnd: Int64?
    private var watched: [(descriptor: Int32, isArmed: Bool, isOnce: Bool, identifier: UInt64)] = []

    private var random: Random {
        _read { yield world.random }
        _modify { yield &world.random }
    }

    func begin() { nextDescriptor = 1000 }

    func ring(_ descriptor: Int32) -> VirtualRing? { rings.first { $0.descriptor == descriptor } }

    /// What every system call does first and last.
    private func enterKernel() {
        world.point()
        runTaskWork(of: world.current)
    }

    // MARK: Futexes

    func futexWait(_ word: UnsafePointer<UInt32>, _ expected: UInt32, _ timeout: Int64) -> Int32 {
        enterKernel()
        if word.pointee != expected { return -EAGAIN }
        if timeout == 0 { return -ETIMEDOUT }
        if random.chance(world.faults.signals) { return -EINTR }
        let fiber = world.current
        fiber.word = UnsafeRawPointer(word)
        world.trace.note("sleeps on a futex")
        return world.block(until: timeout < 0 ? nil : world.now + timeout) ? -ETIMEDOUT : 0
    }

    func futexWake(_ word: UnsafePointer<UInt32>, _ count: Int32) -> Int32 {
        enterKernel()
        var woken: Int32 = 0
        if Sabotage.now == .lostWakeUp, random.chance(200) { return 0 }
        for fiber in world.fibers
        where woken < count && fiber.state == .blocked && fiber.word == UnsafeRawPointer(word) {
            world.trace.note("wakes \(fiber.name)")
            world.wake(fiber)
            woken += 1
        }
        return woken
    }

    func membarrier() -> Bool {
        world.point()
        for fiber in world.fibers where fiber.state != .done { runTaskWork(of: fiber) }
        return true
    }

    // MARK: epoll

    func epollSet(_ descriptor: Int32, _ isArmed: Bool, _ isOnce: Bool, _ identifier: UInt64) {
        enterKernel()
        watched.removeAll { $0.descriptor == descriptor }
        watched.append((descriptor, isArmed, isOnce, identifier))
        epollChanges()
    }

    private func isReady(_ descriptor: Int32) -> Bool {
        switch descriptor {
        case Self.doorbell: isDoorbellRung
        case Self.timer: timerEnd.map { $0 <= world.now } ?? false
        default: ring(descriptor)?.hasAnything ?? false
        }
    }

    private func epollChanges() {
        guard watched.contains(where: { $0.isArmed && isReady($0.descriptor) }) else { return }
        for fiber in world.fibers where fiber.isInEpoll { world.wake(fiber) }
    }

    /// Put off while the caller sleeps, the timer wakes it in vain, and it sleeps on. Only the caller sets it to earlier.
    func setTimer(_ end: Int64?) {
        enterKernel()
        timerEnd = end
    }

    func epollWait(_ identifiers: UnsafeMutablePointer<UInt64>, _ capacity: Int) -> Int32 {
        enterKernel()
        while true {
            runTaskWork(of: world.current)
            var count = 0
            for index in watched.indices where count < capacity {
                guard watched[index].isArmed, isReady(watched[index].descriptor) else { continue }
                if watched[index].isOnce { watched[index].isArmed = false }
                identifiers[count] = watched[index].identifier
                count += 1
            }
            if count > 0 { return Int32(count) }
            world.current.isInEpoll = true
            _ = world.block(until: timerEnd)
        }
    }

    func ringDoorbell() {
        enterKernel()
        isDoorbellRung = true
        epollChanges()
    }

    func clearDoorbell() {
        enterKernel()
        isDoorbellRung = false
    }

    // MARK: Rings

    func setUp(
        _ entries: UInt32, _ handle: UnsafeMutablePointer<io_uring>, _ parameters: UnsafeMutablePointer<iou_params>
    ) -> Int32 {
        nextDescriptor += 1
        rings.append(VirtualRing(nextDescriptor, entries, handle, parameters))
        return 0
    }

    func tearDown(_ handle: UnsafeMutablePointer<io_uring>) -> Int32 {
        guard let index = rings.firstIndex(where: { $0.descriptor == handle.pointee.ring_fd }) else {
            world.fail("lifetime", "a ring was closed twice")
        }
        let ring = rings.remove(at: index)
        watched.removeAll { $0.descriptor == ring.descriptor }
        if let request = ring.requests.first(where: { !$0.isDone }) {
            world.fail("lifetime", "a ring was closed while \(name(request.userData)) was in flight")
        }
        return 0
    }

    func enter(
        _ descriptor: Int32, _ count: UInt32, _ minimum: UInt32, _ flags: EnterFlags, _ timeout: Int64
    ) -> Int32 {
        enterKernel()
        guard let ring = ring(descriptor) else { world.fail("lifetime", "a closed ring was entered") }
        if random.chance(world.faults.refusals) {
            let code = [EINTR, EAGAIN, EBUSY, ENOMEM][random.below(4)]
            world.trace.note("enters ring \(descriptor): errno \(code)")
            report.count(.refusals)
            return -code
        }
        var most = count
        if count > 1, random.chance(world.faults.shortSubmits) { most = UInt32(random.below(Int(count))) }
        var taken: UInt32 = 0
        while taken < most, let entry = ring.takeEntry() {
            taken += 1
            issue(entry, ring)
        }
        runTaskWork(of: world.current)
        if taken != count || !flags.contains(.getEvents) {
            if taken > 0 { world.trace.note("enters ring \(descriptor): takes \(taken) of \(count)") }
            return Int32(taken)
        }
        ring.flushOverflow()
        var code: Int32 = 0
        if ring.completionsReady < minimum {
            world.trace.note("enters ring \(descriptor): takes \(taken), sleeps")
            code = sleep(in: ring, minimum, timeout)
        }
        ring.flushOverflow()
        runTaskWork(of: world.current)
        return taken > 0 ? Int32(taken) : code
    }

    private func sleep(in ring: VirtualRing, _ minimum: UInt32, _ timeout: Int64) -> Int32 {
        let deadline = timeout < 0 ? nil : world.now + timeout
        while true {
            // Also each time it was woken.
            runTaskWork(of: world.current)
            if ring.completionsReady >= minimum { return 0 }
            if random.chance(world.faults.signals) {
                world.trace.note("is interrupted in ring \(ring.descriptor)")
                return -EINTR
            }
            world.current.ring = ring
            world.current.minimum = minimum
            if world.block(until: deadline) { return -ETIME }
        }
    }

    /// A request begins.
    private func issue(_ entry: iou_sqe, _ ring: VirtualRing) {
        let faults = world.faults
        switch entry.opcode {
        case OperationCode.nop.rawValue:
            post(VirtualCompletion(userData: entry.user_data, result: 0), ring)
        case OperationCode.cancel.rawValue:
            let code = cancel(ring, entry.addr)
            post(VirtualCompletion(userData: entry.user_data, result: code), ring)
        default:
            if entry.fd < 0 {
                return post(VirtualCompletion(userData: entry.user_data, result: -EBADF), ring)
            }
            let request = Request(ring, entry, world.current)
            if let other = twin(of: request) {
                world.fail(
                    "issued once", "\(name(entry.user_data)) is in flight in rings \(other) and \(ring.descriptor)")
            }
            ring.requests.append(request)
            world.trace.note("begins \(name(entry.user_data)), operation \(entry.opcode)", by: "kernel")
            if random.chance(faults.immediateRequests) {
                request.isDone = true
                finish(request, result(request))
            } else if random.chance(faults.endlessRequests), entry.opcode == OperationCode.receive.rawValue {
                world.trace.note("\(name(request.userData)) has no end")
            } else {
                let delay = random.chance(faults.longRequests) ? random.below(30_000_000) : random.below(100_000)
                world.schedule(.complete(request), at: world.now + Int64(delay))
            }
        }
    }

    /// The ring in which a request of the same operation is in flight already.
    private func twin(of request: Request) -> Int32? {
        for ring in rings where ring.requests.contains(where: { $0.userData == request.userData }) {
            return ring.descriptor
        }
        for fiber in world.fibers {
            for work in fiber.taskWork where work.completion.userData == request.userData {
                return work.ring.descriptor
            }
        }
        return nil
    }

    /// A request is over, unless it was cancelled before.
    func complete(_ request: Request) {
        guard !request.isDone else { return }
        request.isDone = true
        deliver(request, result(request))
    }

    private func result(_ request: Request) -> Int32 {
        if request.isOrphan { return -ECANCELED }
        if request.operation == OperationCode.pollAdd.rawValue { return 1 }
        if request.operation == OperationCode.timeout.rawValue { return -ETIME }
        let faults = world.faults
        if random.chance(faults.retries) { return random.chance(500) ? -EINTR : -EAGAIN }
        if random.chance(faults.failures) { return random.chance(500) ? -EIO : -ECONNRESET }
        if random.chance(faults.shortResults) { return Int32(random.below(Int(request.length) + 1)) }
        return request.length
    }

    /// Tells of the end of a request: now, or when its thread next comes by.
    private func deliver(_ request: Request, _ result: Int32) {
        let fiber = request.submitter
        if fiber.state == .done || fiber.sleeps {
            finish(request, result)
        } else {
            // It is found in the ring's list until then, as a request that cannot be cancelled any more.
            fiber.taskWork.append((request.ring, VirtualCompletion(userData: request.userData, result: result)))
            request.ring.requests.removeAll { $0 === request }
            request.ring.taskWork += 1
        }
    }

    private func finish(_ request: Request, _ result: Int32) {
        request.ring.requests.removeAll { $0 === request }
        post(VirtualCompletion(userData: request.userData, result: result), request.ring)
    }

    func runTaskWork(of fiber: Fiber) {
        while !fiber.taskWork.isEmpty {
            let work = fiber.taskWork.removeFirst()
            work.ring.taskWork -= 1
            post(work.completion, work.ring)
        }
    }

    private func post(_ completion: VirtualCompletion, _ ring: VirtualRing) {
        world.trace.note("\(name(completion.userData)) → \(completion.result) in ring \(ring.descriptor)", by: "kernel")
        if Sabotage.now == .lostCompletion, completion.userData >= 8, random.chance(50) { return }
        ring.post(completion)
        for fiber in world.fibers where fiber.ring === ring && ring.completionsReady >= fiber.minimum {
            world.wake(fiber)
        }
        epollChanges()
    }

    func cancel(_ descriptor: Int32, _ userData: UInt64) -> Int32 {
        enterKernel()
        guard let ring = ring(descriptor) else { world.fail("lifetime", "a request of a closed ring was cancelled") }
        return cancel(ring, userData)
    }

    private func cancel(_ ring: VirtualRing, _ userData: UInt64) -> Int32 {
        guard let request = ring.requests.first(where: { $0.userData == userData && !$0.isDone }) else {
            return -ENOENT
        }
        if random.chance(world.faults.busyCancels) {
            // It is being carried out, and ends by itself.
            world.schedule(.complete(request), at: world.now + 50_000)
            return -EALREADY
        }
        world.trace.note("cancels the request of \(name(userData))")
        report.count(.cancels)
        request.isDone = true
        deliver(request, -ECANCELED)
        return 0
    }

    func message(_ descriptor: Int32, _ userData: UInt64, _ result: UInt32) -> Int32 {
        enterKernel()
        guard let ring = ring(descriptor) else { return -EBADFD }
        if random.chance(world.faults.lostMessages) { return -ENOMEM }
        if Sabotage.now == .lostWakeUp, random.chance(200) { return 0 }
        post(VirtualCompletion(userData: userData, result: Int32(bitPattern: result)), ring)
        return 0
    }

    /// What a thread leaves behind when it exits: its requests end with ECANCELED, some milliseconds later.
    func threadExits(_ fiber: Fiber) {
        runTaskWork(of: fiber)
        for ring in rings {
            for request in ring.requests where request.submitter === fiber && !request.isDone {
                request.isDone = true
                report.count(.orphans)
                let orphan = Request(replacing: request)
                ring.requests.removeAll { $0 === request }
                ring.requests.append(orphan)
                world.schedule(.complete(orphan), at: world.now + Int64(random.below(5_000_000)))
            }
        }
    }

    func name(_ userData: UInt64) -> String {
        userData < 8 ? "wake-up" : world.checker?.name(ofRecord: userData) ?? "a request"
    }

    /// Whether anything is left that only a cancel would end.
    var hasRequests: Bool { rings.contains { !$0.requests.isEmpty } }
}
