import IOCP
import Synchronization

/// The posts to one port that have not been dequeued. Their number is bounded, so that dequeuers keep up.
final class Posts: @unchecked Sendable {
    private static let capacity = 2048
    private let slots: UnsafeMutablePointer<Atomic<UInt64>> = .allocate(capacity: Posts.capacity)

    init() {
        for index in 0..<Self.capacity { (slots + index).initialize(to: Atomic(0)) }
    }

    deinit {
        slots.deinitialize(count: Self.capacity)
        slots.deallocate()
    }

    // A token is the post's number, its poster, and where it is noted: 32, 16 and 16 bits.
    private static func token(_ number: UInt64, _ poster: Int, _ index: Int) -> UInt {
        UInt(truncatingIfNeeded: number) << 32 | UInt(poster & 0xffff) << 16 | UInt(index)
    }
    private static func key(_ token: UInt) -> UInt { UInt(scramble(UInt64(token))) }
    private static func status(_ token: UInt) -> CompletionStatus {
        token >> 32 & 3 == 0 ? CompletionStatus(rawValue: UInt32(truncatingIfNeeded: key(token))) : .success
    }

    /// Posts one packet, unless too many are queued.
    func post(to world: World, _ worker: Worker) {
        let start = worker.chance.below(Self.capacity)
        for step in 0..<4 {
            let index = (start + step) % Self.capacity
            let number = Ledger.nextNumber() & 0xffff_ffff
            guard number != 0,
                slots[index].compareExchange(expected: 0, desired: number, ordering: .sequentiallyConsistent).exchanged
            else { continue }
            Ledger.add(.posts)
            let token = Self.token(number, worker.number, index)
            do throws(PortError) {
                try world.port.post(
                    status: Self.status(token), information: ~Self.key(token), key: Self.key(token), token: token)
            } catch {
                slots[index].store(0, ordering: .sequentiallyConsistent)
                Ledger.add(.postsRefused)
                if !world.isDead { Ledger.fail("a post to \(world) was refused: \(error)") }
            }
            return
        }
    }

    func arrive(_ packet: Packet, from world: World) {
        let token = packet.token
        let index = Int(token & 0xffff)
        let number = UInt64(token >> 32)
        Ledger.add(.postPackets)
        guard index < Self.capacity,
            slots[index].compareExchange(expected: number, desired: 0, ordering: .sequentiallyConsistent).exchanged
        else { return Ledger.fail("post \(number) was dequeued twice from \(world), or never posted") }
        if packet.key != Self.key(token) || packet.information != ~Self.key(token)
            || packet.status != Self.status(token)
        {
            Ledger.fail("post \(number) came back changed from \(world)")
        }
    }

    /// Posts of one thread keep their order (d2), as far as one dequeue can tell.
    static func checkOrder(_ batch: borrowing PacketBatch, from world: World) {
        var newest: [UInt: UInt] = [:]
        for index in batch.indices {
            let packet = batch[index]
            if packet.operation != nil || packet.token == 0 { continue }
            let poster = packet.token >> 16 & 0xffff
            // The number wraps around once in a while.
            if let before = newest[poster], packet.token >> 32 < before, before - packet.token >> 32 < 1 << 31 {
                Ledger.fail(
                    "posts \(before) and \(packet.token >> 32) of one thread came in the wrong order in \(world)")
            }
            newest[poster] = packet.token >> 32
        }
    }

    var outstanding: Int {
        (0..<Self.capacity).count { slots[$0].load(ordering: .sequentiallyConsistent) != 0 }
    }
}
