import CSimulation
import Glibc

/// What a process that runs seeds tells its parent, in memory that they share.
struct Report {
    /// How often things happened that a simulation without them would not be worth its name.
    enum Counter: Int, CaseIterable {
        case seeds, sections, handOvers, excesses, packets, posts, starts, timeouts, calls, cancels, orphans, overflows
        case refusals, seenBlocked

        var text: String {
            switch self {
            case .seeds: "runs"
            case .sections: "steps held against the algorithm"
            case .handOvers: "packets handed to waiters"
            case .excesses: "steps above the limit (d10, d12)"
            case .packets: "packets dequeued"
            case .posts: "posts"
            case .starts: "operations started"
            case .timeouts: "time-outs"
            case .calls: "calls run in alertable waits"
            case .cancels: "requests cancelled"
            case .orphans: "requests whose thread exited"
            case .overflows: "completions that found a ring full"
            case .refusals: "entries refused by the kernel"
            case .seenBlocked: "places taken from blocked threads"
            }
        }
    }

    private static let textLength = 1000
    private let memory: UnsafeMutableRawPointer

    init() { memory = sim_share(4096) }

    private var numbers: UnsafeMutablePointer<Int> { memory.assumingMemoryBound(to: Int.self) }
    private var characters: UnsafeMutablePointer<UInt8> { (memory + 2048).assumingMemoryBound(to: UInt8.self) }

    /// The seed that runs.
    var seed: UInt64 {
        get { UInt64(bitPattern: Int64(numbers[0])) }
        nonmutating set { numbers[0] = Int(Int64(bitPattern: newValue)) }
    }

    @inline(__always)
    func count(_ counter: Counter) { numbers[1 + counter.rawValue] += 1 }

    func total(_ counter: Counter) -> Int { numbers[1 + counter.rawValue] }

    func fail(_ rule: String, _ text: String) {
        let bytes = Array("\(rule): \(text)".utf8.prefix(Self.textLength))
        for (index, byte) in bytes.enumerated() { characters[index] = byte }
        characters[bytes.count] = 0
    }

    /// What failed; nil if nothing has.
    var failure: String? { characters[0] == 0 ? nil : String(cString: characters) }

    func clear() { memset(memory, 0, 4096) }
}

nonisolated(unsafe) var report = Report()
