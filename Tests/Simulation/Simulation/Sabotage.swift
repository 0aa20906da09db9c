@testable import IOCP

/// Errors that are made on purpose, to see that they are found.
enum Sabotage: String, CaseIterable {
    /// The thread that waits longest is woken, in place of the newest.
    case oldestWaiterFirst = "oldest waiter first"
    /// The packet that came last is handed out first.
    case newestPacketFirst = "newest packet first"
    /// A futex or a ring is not woken.
    case lostWakeUp = "lost wake-up"
    case doubledPacket = "doubled packet"
    case lostPacket = "lost packet"
    /// A thread is counted that does not run.
    case countLeak = "count leak"
    /// A waiter is let go without a packet.
    case emptyWakeUp = "empty wake-up"
    /// A completion of the kernel is lost on its way.
    case lostCompletion = "lost completion"
    /// A reference to an operation is never given back.
    case leakedReference = "leaked reference"

    nonisolated(unsafe) static var now: Sabotage?

    /// Spoils the port whose lock the running thread is about to give back.
    static func strike(_ core: PortCore, _ check: PortCheck) {
        guard let now else { return }
        switch now {
        case .oldestWaiterFirst:
            guard core.scheduler.waiting > 1, world.random.chance(300) else { return }
            let newest = core.scheduler.abandonNext()!
            var others: [ThreadState.Pointer] = []
            while let other = core.scheduler.abandonNext() { others.append(other) }
            core.scheduler.wait(newest)
            for other in others.reversed() { core.scheduler.wait(other) }
        case .newestPacketFirst:
            guard core.packets.count > 1, world.random.chance(300) else { return }
            for _ in 1..<core.packets.count { core.packets.append(core.packets.removeFirst()) }
        case .doubledPacket:
            guard core.packets.count > 0, world.random.chance(300) else { return }
            let entry = core.packets.removeFirst()
            if entry.flags.contains(.operation) {
                _ = Unmanaged<IOCP.Operation>.fromOpaque(UnsafeRawPointer(bitPattern: entry.overlapped)!).retain()
            }
            core.packets.append(entry)
            for _ in 1..<core.packets.count { core.packets.append(core.packets.removeFirst()) }
            core.packets.append(entry)
            core.scheduler.insertBehind()
        case .lostPacket:
            guard core.packets.count > 0, world.random.chance(100) else { return }
            _ = core.packets.removeFirst()
            _ = core.scheduler.takeMore(atMost: 1)
        case .countLeak:
            guard world.random.chance(20) else { return }
            let nobody = ThreadState.Pointer.allocate(capacity: 1)
            nobody.initialize(to: ThreadState(owner: UnsafeMutableRawPointer(nobody)))
            core.scheduler.resume(nobody)
        case .emptyWakeUp:
            guard core.scheduler.waiting > 0, world.random.chance(50) else { return }
            var newest: ThreadState.Pointer?
            core.scheduler.forEachWaiter {
                newest = $0
                return false
            }
            core.scheduler.withdraw(newest!)
            let thread = IOThread.from(newest!)
            thread.delivery = .calls
            core.enlist(thread)
        case .leakedReference:
            guard core.packets.count > 0, world.random.chance(100) else { return }
            let entry = core.packets.removeFirst()
            if entry.flags.contains(.operation) {
                _ = Unmanaged<IOCP.Operation>.fromOpaque(UnsafeRawPointer(bitPattern: entry.overlapped)!).retain()
            }
            core.packets.append(entry)
            for _ in 1..<core.packets.count { core.packets.append(core.packets.removeFirst()) }
        case .lostWakeUp, .lostCompletion: return
        }
    }
}
