import Glibc
import Synchronization

/// What is counted, in the order of the summary.
enum Tally: Int, CaseIterable {
    case starts, packets, ofContinuous, inline, refused, discarded
    case posts, postPackets, postsRefused, postsDiscarded
    case calls, callsRun, callsDropped
    case bytes, messages, connections, blocks, actors, brokenOff, cancelled
    case threads, ports, portsClosed, signals, forks, faults, exhaustions

    var name: String {
        switch self {
        case .ofContinuous: "packets of continuous operations"
        case .inline: "completed inline without a packet"
        case .refused: "starts refused"
        case .discarded: "discarded with their port"
        case .postPackets: "posts dequeued"
        case .postsRefused: "posts refused"
        case .postsDiscarded: "posts discarded with their port"
        case .callsRun: "calls run"
        case .callsDropped: "calls dropped with their thread"
        case .brokenOff: "broken off"
        case .portsClosed: "ports closed under fire"
        case .exhaustions: "descriptor exhaustions"
        default: "\(self)"
        }
    }
}

/// The soak's books. Every start and every post has a number of its own, and one packet or another documented end.
enum Ledger {
    private final class Count: Sendable { let value = Atomic<Int>(0) }
    private static let counts = Tally.allCases.map { _ in Count() }
    private static let numbers = Atomic<UInt64>(1)
    private static let failures = Locked<[String]>([])
    private static let failed = Atomic<Bool>(false)

    static func add(_ tally: Tally, _ count: Int = 1) {
        counts[tally.rawValue].value.add(count, ordering: .relaxed)
    }
    static func count(_ tally: Tally) -> Int { counts[tally.rawValue].value.load(ordering: .relaxed) }

    static func nextNumber() -> UInt64 { numbers.add(1, ordering: .relaxed).newValue }

    /// Operations of the soak that exist; none must when a round is over.
    static let livingOperations = Atomic<Int>(0)

    /// Something was lost, doubled or wrong. The soak ends soon.
    static func fail(_ what: String) {
        failures.withLock { if $0.count < 20 { $0.append(what) } }
        failed.store(true, ordering: .sequentiallyConsistent)
    }

    static var hasFailed: Bool { failed.load(ordering: .sequentiallyConsistent) }
    static var everyFailure: [String] { failures.withLock { $0 } }

    /// What does not add up once everything has ended.
    static func imbalances() -> [String] {
        func check(_ what: String, _ left: Int, _ right: Int) -> String? {
            left == right ? nil : "\(what): \(left) against \(right)"
        }
        return [
            check(
                "starts against their ends", count(.starts),
                count(.packets) + count(.inline) + count(.refused) + count(.discarded)),
            check(
                "posts against their ends", count(.posts),
                count(.postPackets) + count(.postsRefused) + count(.postsDiscarded)),
            check("calls against their ends", count(.calls), count(.callsRun) + count(.callsDropped)),
            check("operations that still exist", livingOperations.load(ordering: .sequentiallyConsistent), 0),
        ].compactMap { $0 }
    }
}
