import IOCP
import Synchronization

/// One port, and what is told of it.
final class World: @unchecked Sendable, CustomStringConvertible {
    let number: Int
    let port: CompletionPort
    let options: CompletionPort.Options
    /// Few and small buffers, so that the group runs dry.
    let group: BufferGroup?
    let posts = Posts()
    /// Starts that have not ended.
    let outstanding = Atomic<Int>(0)
    private let dead = Atomic<Bool>(false)

    init(_ number: Int, limit: Int, _ chance: inout Chance) throws(PortError) {
        self.number = number
        var options = CompletionPort.Options()
        options.submissionEntries = UInt32(1 << chance.between(1...8))
        options.completionEntries = options.submissionEntries * UInt32(1 << chance.between(1...3))
        if chance.happens(300) { options.rings = chance.between(1...limit) }
        options.seesBlocking = chance.happens(900)
        options.monitorInterval = .milliseconds(chance.between(1...20))
        self.options = options
        port = try CompletionPort(concurrencyLimit: limit, options: options)
        group = try? BufferGroup(
            for: port, buffersPerRing: 1 << chance.between(0...4), bufferSize: 1 << chance.between(6...10))
        Ledger.add(.ports)
    }

    /// Whether the port was closed with everything under way: its packets may be discarded from then on.
    var isDead: Bool { dead.load(ordering: .sequentiallyConsistent) }

    func closeUnderFire() {
        dead.store(true, ordering: .sequentiallyConsistent)
        if port.close() { Ledger.add(.portsClosed) }
    }

    /// Binds a handle; returns the key. A dead port refuses.
    func associate(_ handle: IOHandle, _ chance: inout Chance) throws(PortError) -> UInt {
        let key = UInt(chance.next())
        try port.associate(handle, key: key)
        return key
    }

    var description: String {
        "port \(number) (limit \(port.concurrencyLimit), rings \(options.rings.map(String.init) ?? "default"), "
            + "\(options.submissionEntries) and \(options.completionEntries) entries)"
    }
}

extension CompletionPort.Statistics {
    /// One line of it.
    var line: String {
        "depth \(depth) running \(running) waiting \(waiting) parked \(parked) blocked \(blocked) in flight \(inFlight) "
            + "deferred \(deferred) overflows \(overflows) re-issues \(reissues) hand-overs \(handOvers) "
            + "wake-ups \(wakeUps)"
    }

    /// What cannot be, whatever happens.
    var nonsense: String? {
        let all = [
            depth, running, waiting, parked, blocked, inFlight, deferred, overflows, reissues, handOvers, wakeUps,
        ]
        return all.contains { $0 < 0 } || parked > waiting ? line : nil
    }
}
