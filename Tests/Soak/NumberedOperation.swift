import IOCP
import Synchronization

/// An operation each of whose starts is numbered and accounted for.
class NumberedOperation: IOCP.Operation, @unchecked Sendable {
    let world: World
    /// The key that its handle was associated with.
    let key: UInt
    /// The start that has no packet yet, or 0.
    private let pendingNumber = Atomic<UInt64>(0)

    init(in world: World, key: UInt, capacity: Int = 0) {
        self.world = world
        self.key = key
        super.init(buffer: capacity > 0 ? IOBuffer(capacity: capacity) : nil)
        Self.living.withLock { _ = $0.insert(Unmanaged.passUnretained(self).toOpaque()) }
        Ledger.livingOperations.add(1, ordering: .relaxed)
    }

    deinit {
        Self.living.withLock { _ = $0.remove(Unmanaged.passUnretained(self).toOpaque()) }
        Ledger.livingOperations.subtract(1, ordering: .sequentiallyConsistent)
        let number = pendingNumber.load(ordering: .sequentiallyConsistent)
        if number == 0 { return }
        // A port that is closed discards what nobody can read.
        if world.isDead {
            Ledger.add(.discarded)
        } else {
            Ledger.fail("start \(number) of a \(Self.self) in \(world) ended without a packet")
        }
    }

    private static let living = Locked(Set<UnsafeMutableRawPointer>())

    /// Those that exist, for a dump when nothing moves any more.
    static var everyLine: [String] {
        living.withLock { $0 }.map { Unmanaged<NumberedOperation>.fromOpaque($0).takeUnretainedValue().line }
    }

    /// How it stands, for a dump.
    var line: String {
        let number = pendingNumber.load(ordering: .sequentiallyConsistent)
        return "\(Self.self), \(number == 0 ? "idle" : "start \(number)"), \(status), on \(world)"
    }

    enum Begun {
        case pending
        /// Completed at once, and no packet follows.
        case inline(bytes: Int)
        case refused(CompletionStatus)
    }

    /// Makes the call that starts the operation. `skips`: the handle queues no packet for an immediate success.
    final func begin(skips: Bool = false, _ call: () throws(PortError) -> StartOutcome) -> Begun {
        let number = Ledger.nextNumber()
        Ledger.add(.starts)
        if !exchange(0, number) { Ledger.fail("a \(Self.self) in \(world) was started while in flight") }
        world.outstanding.add(1, ordering: .sequentiallyConsistent)
        do throws(PortError) {
            guard case .completed(let bytes) = try call(), skips else { return .pending }
            end(number, as: .inline, "completed inline")
            return .inline(bytes: bytes)
        } catch {
            end(number, as: .refused, "was refused with \(error)")
            return .refused(error.status)
        }
    }

    private func end(_ number: UInt64, as tally: Tally, _ how: String) {
        if !exchange(number, 0) {
            Ledger.fail("start \(number) of a \(Self.self) in \(world) \(how), and yielded a packet")
        }
        world.outstanding.subtract(1, ordering: .sequentiallyConsistent)
        Ledger.add(tally)
    }

    private func exchange(_ old: UInt64, _ new: UInt64) -> Bool {
        pendingNumber.compareExchange(expected: old, desired: new, ordering: .sequentiallyConsistent).exchanged
    }

    /// A packet of it was dequeued.
    final func arrive(_ packet: Packet, _ worker: Worker) {
        if packet.key != key { Ledger.fail("a packet of a \(Self.self) came with key \(packet.key), not \(key)") }
        if packet.isMore {
            Ledger.add(.ofContinuous)
            if pendingNumber.load(ordering: .sequentiallyConsistent) == 0, !mayTrail {
                Ledger.fail("a packet of an ended \(Self.self) came in \(world)")
            }
        } else {
            let number = pendingNumber.exchange(0, ordering: .sequentiallyConsistent)
            if number == 0 { Ledger.fail("a \(Self.self) in \(world) yielded two packets: \(packet.status)") }
            world.outstanding.subtract(1, ordering: .sequentiallyConsistent)
            Ledger.add(.packets)
            if packet.status == .cancelled { Ledger.add(.cancelled) }
            // The record was written before the packet was queued (b14), and nobody has started it again.
            if status != packet.status { Ledger.fail("a \(Self.self) has \(status), its packet \(packet.status)") }
        }
        completed(packet, worker)
    }

    /// Whether another thread may handle the last packet before an earlier one.
    var mayTrail: Bool { false }

    func completed(_ packet: Packet, _ worker: Worker) {}
}

/// An operation that is only posted: each exists for one post.
final class Parcel: IOCP.Operation, @unchecked Sendable {
    let world: World
    let key: UInt
    private let isDequeued = Atomic<Bool>(false)
    private let isRefused = Atomic<Bool>(false)

    init(to world: World, _ worker: Worker) {
        self.world = world
        key = UInt(worker.chance.next())
        super.init()
        Ledger.add(.posts)
        Ledger.livingOperations.add(1, ordering: .relaxed)
        do throws(PortError) {
            try world.port.post(bytes: key ^ 1, key: key, operation: self)
        } catch {
            isRefused.store(true, ordering: .sequentiallyConsistent)
            Ledger.add(.postsRefused)
            if !world.isDead { Ledger.fail("a post to \(world) was refused: \(error)") }
        }
    }

    deinit {
        Ledger.livingOperations.subtract(1, ordering: .sequentiallyConsistent)
        if isDequeued.load(ordering: .sequentiallyConsistent) || isRefused.load(ordering: .sequentiallyConsistent) {
            return
        }
        Ledger.add(.postsDiscarded)
        if !world.isDead { Ledger.fail("a posted operation was lost in \(world)") }
    }

    func arrive(_ packet: Packet) {
        Ledger.add(.postPackets)
        let again = isDequeued.exchange(true, ordering: .sequentiallyConsistent)
        if again { Ledger.fail("a posted operation was dequeued twice from \(world)") }
        if packet.key != key || packet.information != key ^ 1 || packet.status != .success || packet.isMore {
            Ledger.fail("a posted operation came back changed from \(world)")
        }
    }
}
