import Glibc

@testable import IOCP

/// Looks at the ports of a run each time one of their locks is given back, and holds what happened under the lock
/// against the reference.
///
/// What the thread itself did is read off the port: whether it takes packets, begins to wait, gives up, blocks. All else
/// must follow from the algorithm: who was woken, with which packet, what stays queued, in which order, who is counted.
final class Checker {
    private unowned let run: Run
    private var ports: [PortCheck]

    init(_ run: Run) {
        self.run = run
        ports = run.ports.enumerated().map { PortCheck($0, $1.core, run) }
    }

    // MARK: Where threads pass

    func isLocked(_ address: UnsafeRawPointer) {
        for port in ports { port.isLocked(address) }
    }

    func unlocks(_ address: UnsafeRawPointer) {
        for port in ports { port.unlocks(address) }
    }

    /// A thread is back from a dequeue.
    func returned(_ fiber: Fiber, from port: Int) { ports[port].returned(fiber) }

    func closes(_ core: PortCore) { for port in ports where port.core === core { port.isClosed = true } }

    // MARK: What the kernel does

    /// The operation whose record is at that address.
    func name(ofRecord userData: UInt64) -> String? {
        run.operation(ofRecord: userData).map { "o\($0)" }
    }

    /// The clock has jumped: nobody could run. What waits must not have waited for long.
    func timePasses() { for port in ports { port.checkStranded() } }

    // MARK: At the end

    func checkIdle() { for port in ports { port.checkIdle() } }

    func checkClosed() { for port in ports { port.checkClosed() } }
}

/// One port, and the reference for it.
final class PortCheck {
    let number: Int
    let core: PortCore
    let address: UnsafeRawPointer
    var isClosed = false
    private unowned let run: Run
    private var reference: Reference
    /// Threads that are in a dequeue and past its beginning, and packets that were in their room when they locked.
    private var entered: Set<Int> = []
    private var roomAtLock: [Int: Int] = [:]
    /// The thread that holds the port's lock.
    private var holder: Fiber?
    /// The slots' locks, and how far each ring's completions were taken when its lock was.
    private let slots: [UnsafeRawPointer]
    private var headAtLock: [UInt32]
    /// The ring that an operation's last completion came from.
    private var origin: [Int: Int] = [:]
    /// Taken from a ring by the holder of the port's lock, and not in the queue yet.
    private var onTheWay: [Int] = []
    /// Who took completions of the same rings past those.
    private var passed: [Int: String] = [:]
    /// Since when a waiter and a place have both been free.
    private var freeSince: Int64?

    init(_ number: Int, _ core: PortCore, _ run: Run) {
        self.number = number
        self.core = core
        self.run = run
        address = withUnsafePointer(to: core.lock) { UnsafeRawPointer($0) }
        reference = Reference(maximum: core.limit)
        slots = core.slots.map { slot in withUnsafePointer(to: slot.lock) { UnsafeRawPointer($0) } }
        headAtLock = Array(repeating: 0, count: slots.count)
    }

    // MARK: What is there

    private func packet(_ entry: PacketEntry) -> Int {
        guard entry.flags.contains(.operation) else { return 1000 + Int(entry.overlapped) }
        let address = UnsafeRawPointer(bitPattern: entry.overlapped)
        return run.operations.first { UnsafeRawPointer(Unmanaged.passUnretained($0).toOpaque()) == address }?.number
            ?? -1
    }

    static func name(_ packet: Int) -> String { packet >= 1000 ? "p\(packet - 1000)" : "o\(packet)" }

    /// Packets in a thread's room.
    private func room(of fiber: Fiber) -> [Int] {
        guard let room = fiber.room, case .dequeue(number) = fiber.call else { return [] }
        var found: [Int] = []
        // The key comes first, and none of ours is 0.
        while found.count < fiber.capacity {
            let place = room + found.count * MemoryLayout<Packet>.stride
            if place.load(as: UInt.self) == 0 { break }
            let packet = place.assumingMemoryBound(to: Packet.self)
            if let operation = packet.pointee.operation as? CountedOperation {
                found.append(operation.number)
            } else {
                found.append(1000 + Int(packet.pointee.token))
            }
        }
        return found
    }

    private func thread(_ state: ThreadState.Pointer) -> Int {
        run.threads.firstIndex { $0?.state == state } ?? -1
    }

    private func queue() -> [Int] {
        var found: [Int] = []
        // Round once: the queue has no other way to be looked through.
        for _ in 0..<core.packets.count {
            let entry = core.packets.removeFirst()
            found.append(packet(entry))
            core.packets.append(entry)
        }
        return found
    }

    // MARK: Sections

    func isLocked(_ lock: UnsafeRawPointer) {
        if let slot = slots.firstIndex(of: lock) {
            headAtLock[slot] = world.kernel.ring(core.slots[slot].fileDescriptor)!.completionHead
            return
        }
        guard lock == address else { return }
        let fiber = world.current
        holder = fiber
        fiber.older = nil
        if fiber.number >= 0 { roomAtLock[fiber.number] = room(of: fiber).count }
    }

    func unlocks(_ lock: UnsafeRawPointer) {
        if let slot = slots.firstIndex(of: lock) {
            harvested(slot)
        } else if lock == address {
            holder = nil
            unlocks()
            // What an eager starter finds complete is no packet yet, and comes like a post if it comes.
            for operation in onTheWay where !reference.entries.contains(operation) { origin[operation] = nil }
            onTheWay = []
            passed = [:]
        }
    }

    /// A slot's lock is given back: who has taken completions from its ring, and past whom? A thread that takes them for
    /// itself, without the port's lock, must not pass those that another has taken before.
    private func harvested(_ slot: Int) {
        let ring = world.kernel.ring(core.slots[slot].fileDescriptor)!
        guard ring.completionHead != headAtLock[slot] else { return }
        let fiber = world.current
        var found: [Int] = []
        var number = headAtLock[slot]
        while number != ring.completionHead {
            if let operation = run.operation(ofRecord: ring.userData(at: number)) { found.append(operation) }
            number &+= 1
        }
        if holder === fiber {
            onTheWay += found
        } else if case .dequeue(self.number) = fiber.call, fiber.older == nil {
            fiber.older = reference.entries.first { $0 < 1000 && origin[$0] == slot }
            if !found.isEmpty {
                for operation in onTheWay where origin[operation] == slot { passed[operation] = fiber.name }
            }
        }
        for operation in found { origin[operation] = slot }
    }

    func returned(_ fiber: Fiber) {
        if let older = fiber.older, fiber.capacity > 0, !isClosed, let first = room(of: fiber).first {
            fail("d2", "\(fiber.name) took \(Self.name(first)) past \(Self.name(older)), which left the ring before it")
        }
        fiber.older = nil
        entered.remove(fiber.number)
        reference.results[fiber.number] = nil
        if !isClosed, reference.waiters.contains(fiber.number) {
            fail("d9", "\(fiber.name) left although it is waiting")
        }
    }

    private func unlocks() {
        if isClosed || core.isClosed { return }
        Sabotage.strike(core, self)
        let me = world.current.number
        let before = reference
        let waiting = waiters()
        let queued = queue()
        var running: Set<Int> = []
        for (index, thread) in run.threads.enumerated() {
            if let thread, thread.isTied(to: core), thread.state.pointee.isCounted { running.insert(index) }
        }
        let inRoom = me < 0 ? [] : room(of: world.current)
        let quick = me < 0 ? 0 : roomAtLock[me] ?? 0
        let taken = Array(inRoom.dropFirst(quick))

        // Who was woken, and how.
        var given: [(thread: Int, packet: Int)] = []
        var called: [Int] = []
        for thread in before.waiters.reversed() where thread != me && !waiting.contains(thread) {
            switch run.threads[thread]!.delivery {
            case .packet(let entry): given.append((thread, packet(entry)))
            case .calls:
                if !run.threads[thread]!.hasCalls { fail("d9", "\(threadName(thread)) was woken with nothing") }
                called.append(thread)
            default: fail("d9", "\(threadName(thread)) stopped waiting and was given nothing")
            }
        }
        // What has come: in the order in which it was taken, given and queued. A thread that waited and is not the newest
        // has its first packet from its own hand-over, among the others.
        var claimed = taken + given.map(\.packet)
        if let place = before.waiters.firstIndex(of: me), place < before.waiters.count - 1, let first = taken.first {
            let newer = given.prefix { before.waiters.firstIndex(of: $0.thread)! > place }
            claimed = newer.map(\.packet) + [first] + given.dropFirst(newer.count).map(\.packet) + taken.dropFirst()
        }
        let arrived = (claimed + queued).filter { packet in
            !before.entries.contains(packet) && before.results[me] != packet
        }
        for packet in arrived {
            if let name = passed[packet] { fail("d2", "\(name) took packets past \(Self.name(packet)) of its ring") }
        }
        // Threads that go on after blocking elsewhere are counted at some moment: before, among or after what comes.
        let wentOn = running.filter {
            $0 != me && !before.running.contains($0) && !before.waiters.contains($0)
        }
        let iGoOn = me >= 0 && running.contains(me) && before.blocked.contains(me) && !isDequeuing(me)
        for thread in wentOn where !before.blocked.contains(thread) {
            fail("d10", "\(threadName(thread)) is counted out of nothing")
        }
        var complaint: String?
        for moment in -1...(wentOn.isEmpty && !iGoOn ? -1 : arrived.count + 1) {
            reference = before
            complaint = replay(
                me, taken, arrived, called, running: running, waiting: waiting, isQuick: quick > 0,
                wentOn: wentOn.union(iGoOn ? [me] : []), after: moment)
            complaint = complaint ?? compare(queued, waiting, running, given)
            if complaint == nil { break }
        }
        world.trace.note(
            "gives port \(number) back "
                + "[\(queued.map(Self.name).joined(separator: " ")) | \(waiting.reversed().map(threadName).joined()) | "
                + "\(running.sorted().map(threadName).joined()) of \(core.limit)]"
                + given.map { ", gives \(threadName($0.thread)) \(Self.name($0.packet))" }.joined())
        if let complaint { fail("section d", complaint) }
        reference.given = []
        let isFree = core.scheduler.waiting > 0 && core.scheduler.running < core.limit
        if isFree && !queued.isEmpty { fail("d9b", "a packet is queued although a waiter and a place are free") }
        freeSince = isFree ? freeSince ?? world.now : nil
        report.count(.sections)
        if !given.isEmpty { report.count(.handOvers) }
        if reference.current > reference.maximum { report.count(.excesses) }
    }

    private func waiters() -> [Int] {
        var found: [Int] = []
        core.scheduler.forEachWaiter {
            found.append(thread($0))
            return true
        }
        return found.reversed()
    }

    private func isDequeuing(_ me: Int) -> Bool {
        if case .dequeue(number) = world.current.call { return true }
        return false
    }

    /// Does in the reference what the section did. Returns what the algorithm would not have allowed.
    private func replay(
        _ me: Int, _ taken: [Int], _ arrived: [Int], _ called: [Int], running: Set<Int>, waiting: [Int], isQuick: Bool,
        wentOn: Set<Int>, after moment: Int
    ) -> String? {
        let isDequeuing = isDequeuing(me) && !isQuick
        let wasWaiting = reference.waiters.contains(me)
        if moment < 0 { for thread in wentOn { reference.wake(thread) } }
        // Places that were taken from threads seen to block.
        for thread in reference.running.subtracting(running) where thread != me {
            let fiber = world.fibers.first { $0.number == thread && $0.state != .done }
            if let fiber, fiber.hasRun { return "\(threadName(thread)) lost its place although it runs" }
            report.count(.seenBlocked)
            reference.slotReleased(thread)
            reference.blocked.insert(thread)
        }
        let begins = isDequeuing && !wasWaiting && reference.results[me] == nil && entered.insert(me).inserted
        if begins {
            reference.beginRemoval(me)
        } else if reference.running.contains(me), !running.contains(me) {
            // It blocks, exits, or turns to another port.
            switch world.current.call {
            case .place:
                reference.slotReleased(me)
                reference.blocked.insert(me)
            case .dequeue(let other) where other != number: reference.slotReleased(me)
            default: return "\(world.current.name) lost its place without blocking"
            }
        }
        for (index, packet) in arrived.enumerated() {
            if index == moment { for thread in wentOn { reference.wake(thread) } }
            reference.insert(packet, selfWaiting: isDequeuing)
        }
        if moment == arrived.count { for thread in wentOn { reference.wake(thread) } }

        // What the thread took for itself.
        if !taken.isEmpty {
            var rest = taken[...]
            // It may have handed packets out, the last one to itself.
            if wasWaiting, reference.waiters.last != me { reference.handOver() }
            if let given = reference.results[me] {
                if taken[0] != given { return "\(world.current.name) was given \(Self.name(given)) and took another" }
                rest = rest.dropFirst()
                reference.results[me] = nil
            } else {
                if wasWaiting {
                    if reference.waiters.last != me {
                        return "\(world.current.name) took a packet before a newer waiter (d1)"
                    }
                    reference.waiters.removeLast()
                } else if !begins {
                    return "\(world.current.name) took a packet twice in one dequeue"
                }
                guard let first = reference.take(me) else {
                    return
                        "\(world.current.name) took a packet although \(reference.current) of \(reference.maximum) run"
                }
                if first != taken[0] {
                    return "\(world.current.name) took \(Self.name(taken[0])) before \(Self.name(first)) (d2)"
                }
                rest = rest.dropFirst()
            }
            for packet in rest {
                guard reference.entries.first == packet else {
                    return "\(Self.name(packet)) was taken out of order (d2)"
                }
                reference.entries.removeFirst()
            }
        }
        reference.handOver()
        if moment > arrived.count { for thread in wentOn { reference.wake(thread) } }
        for thread in called { reference.wake(thread) }
        if isDequeuing && taken.isEmpty {
            if waiting.contains(me) {
                if begins { reference.sleep(me) }
            } else if wasWaiting || (begins && running.contains(me)) {
                // Out of time, or called.
                if reference.results[me] == nil { reference.wake(me) }
            }
        }
        return nil
    }

    private func compare(
        _ queued: [Int], _ waiting: [Int], _ running: Set<Int>, _ given: [(thread: Int, packet: Int)]
    ) -> String? {
        func list(_ packets: [Int]) -> String { packets.map(Self.name).joined(separator: " ") }
        let others = reference.given.filter { $0.thread != world.current.number }
        if !others.elementsEqual(given, by: { $0.thread == $1.thread && $0.packet == $1.packet }) {
            return "gave [\(given.map { "\(threadName($0.thread)) \(Self.name($0.packet))" }.joined(separator: " "))], "
                + "the algorithm gives "
                + "[\(others.map { "\(threadName($0.thread)) \(Self.name($0.packet))" }.joined(separator: " "))]"
        }
        if reference.entries != queued {
            return "queued is [\(list(queued))], the algorithm has [\(list(reference.entries))]"
        }
        if reference.waiters != waiting {
            return "waiters are \(waiting.map(threadName)), the algorithm has \(reference.waiters.map(threadName))"
        }
        if reference.running != running {
            return "running are \(running.sorted().map(threadName)), the algorithm has "
                + "\(reference.running.sorted().map(threadName))"
        }
        let scheduler = core.scheduler
        guard scheduler.running == reference.current, scheduler.queued == queued.count,
            scheduler.waiting == waiting.count
        else {
            return "counts are \(scheduler.running), \(scheduler.queued), \(scheduler.waiting); the lists have "
                + "\(reference.current), \(queued.count), \(waiting.count)"
        }
        return nil
    }

    // MARK: Over time

    /// Longest time that a completion may lie in a ring, or an entry unsubmitted, behind a thread that is busy: two
    /// ticks of the monitor and some more.
    private static let bound: Int64 = 15_000_000

    private var seen: [Int32: (head: UInt32, since: Int64, entries: UInt32, entriesSince: Int64)] = [:]

    func checkStranded() {
        if isClosed || world.faults.delayEverything { return }
        for slot in core.slots {
            guard let ring = world.kernel.ring(slot.fileDescriptor) else { continue }
            var last = seen[ring.descriptor] ?? (0, world.now, 0, world.now)
            if !ring.hasResults || ring.completionHead != last.head {
                last.head = ring.completionHead
                last.since = world.now
            }
            if ring.unsubmitted == 0 || ring.submissionHead != last.entries {
                last.entries = ring.submissionHead
                last.entriesSince = world.now
            }
            seen[ring.descriptor] = last
            if let freeSince, world.now - max(freeSince, last.since) > Self.bound {
                fail("stranded", "a completion lies in ring \(ring.descriptor) although a waiter and a place are free")
            }
            if world.now - last.entriesSince > Self.bound {
                fail("stranded", "an entry lies unsubmitted in ring \(ring.descriptor)")
            }
        }
    }

    func checkIdle() {
        let found = core.snapshot
        if found.queued != 0 { fail("d9b", "\(found.queued) packets are queued, and nothing happens") }
        if found.running != 0 { fail("counts", "\(found.running) threads are counted although all wait or are gone") }
        if found.inFlight != 0 { fail("counts", "\(found.inFlight) requests are in flight although all have ended") }
        if core.scheduler.blocked != 0 { fail("counts", "\(core.scheduler.blocked) threads are blocked, but all wait") }
        for slot in core.slots where slot.unsubmittedRequests > 0 { fail("stranded", "a request was never submitted") }
    }

    func checkClosed() {
        let found = core.snapshot
        if found.queued != 0 || found.running != 0 || found.waiting != 0 || found.inFlight != 0 {
            fail("counts", "the closed port still has \(found)")
        }
        if core.scheduler.blocked != 0 { fail("counts", "the closed port still has blocked threads") }
    }

    private func fail(_ rule: String, _ text: String) -> Never { world.fail(rule, "port \(number): \(text)") }
}
