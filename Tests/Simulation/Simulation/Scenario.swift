/// What a virtual thread does, one after the other. Times in nanoseconds.
enum Step: Equatable {
    case dequeue(port: Int, room: Int, timeout: Int64?, alertable: Bool)
    case post(port: Int, count: Int)
    case start(operation: Int, eager: Bool)
    /// Uses the processor.
    case compute(Int64)
    /// Blocks without a word.
    case sleep(Int64)
    /// Blocks in a blocking region.
    case region(Int64)
    case cancel(operation: Int)
    case cancelAll(file: Int)
    case queueCall(thread: Int)
    case depth(port: Int)
    case flush(port: Int)
    case waitUntilQueued(port: Int, timeout: Int64)
    case waitForCompletion(operation: Int, timeout: Int64)
    case closeFile(Int)
}

/// What one run consists of. The seed makes it, and shrinking makes it smaller.
struct Scenario {
    struct Thread {
        var steps: [Step]
        /// The port that it serves, once its steps are done, until it is closed; nil: it exits.
        var serves: Int?
    }
    struct File {
        var isStream: Bool
        var port: Int
    }
    struct Operation {
        var file: Int
        var writes: Bool
        /// How often it is started again by the thread that gets its packet.
        var restarts: Int
        var restartsEagerly: Bool
    }

    var seed: UInt64
    /// Of the ports.
    var limits: [Int]
    var rings: Int
    var submissionEntries: UInt32
    var completionEntries: UInt32
    var seesBlocking: Bool
    var threads: [Thread]
    var files: [File]
    var operations: [Operation]
    var switchRate: Int
    var faults: Faults
    /// The ports are closed while all is going on.
    var closesEarly: Int64?

    init(seed: UInt64) {
        var random = Random(seed ^ 0x5eed_0000_0000)
        self.seed = seed
        let portCount = random.chance(250) ? 2 : 1
        limits = (0..<portCount).map { _ in random.within(1...3) }
        rings = random.within(1...3)
        submissionEntries = [1, 2, 4, 16][random.below(4)]
        completionEntries = [2, 4, 8, 64][random.below(4)]
        seesBlocking = random.chance(800)
        switchRate = [20, 100, 300, 600][random.below(4)]
        faults = random.chance(300) ? Faults() : Faults.random(&random)
        closesEarly = random.chance(150) ? Int64(random.below(3_000_000)) : nil
        let ports = portCount
        files = (0..<random.within(1...3)).map { _ in
            File(isStream: random.chance(600), port: random.below(ports))
        }
        let fileCount = files.count
        operations = (0..<random.within(0...10)).map { _ in
            Operation(
                file: random.below(fileCount), writes: random.chance(300),
                restarts: random.chance(300) ? random.below(4) : 0, restartsEagerly: random.chance(200))
        }
        threads = []
        // Each port is served to the end.
        let servers = (0..<portCount).map { $0 } + (0..<random.within(0...3)).map { _ in random.below(ports) }
        let strangers = random.within(0...2)
        let threadCount = servers.count + strangers
        let operationCount = operations.count
        func pause() -> Int64 {
            // Now and then until about when the monitor, with nothing to do for 20 ticks, goes to sleep.
            if random.chance(50) { return Int64(random.within(19...22)) * 5_000_000 + Int64(random.below(20_000)) }
            return Int64([2_000, 60_000, 1_000_000, 12_000_000][random.below(4)])
        }
        func step(_ home: Int?) -> Step {
            let port = home != nil && random.chance(900) ? home! : random.below(ports)
            let file = random.below(fileCount)
            let operation = operationCount == 0 ? 0 : random.below(operationCount)
            switch random.below(operationCount == 0 ? 60 : 100) {
            case 0..<20: return .post(port: port, count: random.within(1...4))
            case 20..<36 where home != nil:
                let timeout: Int64? = random.chance(400) ? 0 : Int64(random.below(3_000_000))
                return .dequeue(
                    port: port, room: random.within(1...4), timeout: timeout, alertable: random.chance(300))
            case 36..<41: return .compute(pause())
            case 41..<46: return .sleep(pause())
            case 46..<50: return .region(pause())
            case 50..<53: return .queueCall(thread: random.below(threadCount))
            case 53..<55: return .depth(port: port)
            case 55..<57: return .flush(port: port)
            case 57..<60: return .waitUntilQueued(port: port, timeout: Int64(random.below(500_000)))
            case 60..<88: return .start(operation: operation, eager: random.chance(250))
            case 88..<93: return .cancel(operation: operation)
            case 93..<95: return .cancelAll(file: file)
            case 95..<96 where random.chance(300): return .closeFile(file)
            case 96..<100: return .waitForCompletion(operation: operation, timeout: Int64(random.below(2_000_000)))
            default: return .post(port: port, count: 1)
            }
        }
        for home in servers {
            let steps = (0..<random.below(18)).map { _ in step(home) }
            let serves = threads.count < portCount || random.chance(700) ? home : nil
            threads.append(Thread(steps: steps, serves: serves))
        }
        for _ in 0..<strangers {
            threads.append(Thread(steps: (0..<random.within(1...10)).map { _ in step(nil) }, serves: nil))
        }
    }

    var size: Int {
        threads.reduce(0) { $0 + 10 + $1.steps.count } + operations.reduce(0) { $0 + 1 + $1.restarts } + files.count
            + limits.count + Faults.rates.count { faults[keyPath: $0] != 0 } + (closesEarly == nil ? 0 : 1)
    }

    /// For the report of a seed that fails.
    var text: String {
        var lines = [
            "ports with limits \(limits), \(rings) rings at most of \(submissionEntries) entries and "
                + "\(completionEntries) completions, \(seesBlocking ? "seeing" : "not seeing") blocked threads, "
                + "switching at \(switchRate) of 1000 points"
                + (closesEarly.map { ", closed after \($0 / 1000) µs" } ?? ""),
            "faults: \(faults.text)",
        ]
        for (index, file) in files.enumerated() {
            lines.append("file \(index): \(file.isStream ? "stream" : "file") of port \(file.port)")
        }
        for (index, operation) in operations.enumerated() {
            lines.append(
                "operation \(index): \(operation.writes ? "writes to" : "reads from") file \(operation.file)"
                    + (operation.restarts > 0
                        ? ", \(operation.restarts) more times\(operation.restartsEagerly ? " eagerly" : "")" : ""))
        }
        for (index, thread) in threads.enumerated() {
            let steps = thread.steps.map { "\($0)" } + [thread.serves.map { "serves port \($0)" } ?? "exits"]
            lines.append("thread \(threadName(index)): \(steps.joined(separator: ", "))")
        }
        return lines.joined(separator: "\n")
    }
}

func threadName(_ index: Int) -> String { String(UnicodeScalar(UInt8(65 + index))) }
