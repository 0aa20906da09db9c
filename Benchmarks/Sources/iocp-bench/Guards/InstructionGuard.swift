import ArgumentParser
import CBaselines
import FoundationEssentials
import Glibc
import IOCP

/// Instructions of a post and its dequeue, counted by valgrind's callgrind, against a recorded figure. Two runs of
/// different length are subtracted, so that what a process does once does not count.
struct InstructionGuard {
    /// The file of recorded figures.
    var path: String

    /// By architecture, compiler and work.
    typealias Figures = [String: [String: [String: Double]]]

    private static let allowed = 0.05
    private static let lengths = (short: 6_400, long: 70_400)

    /// What is counted, an operation being one packet posted and dequeued.
    enum Work: String, CaseIterable, ExpressibleByArgument {
        case pair
        case batch

        var title: String {
            switch self {
            case .pair: "post and dequeue"
            case .batch: "post and dequeue in batches of 64"
            }
        }
    }

    private static var architecture: String {
        #if arch(x86_64)
        "x86_64"
        #elseif arch(arm64)
        "aarch64"
        #else
        "another"
        #endif
    }

    private static let howToRecord =
        "If that is as it should be, record it: make guards-record, and commit the file"

    func findings() throws -> [Finding] {
        guard let tools = Tools() else { return [Self.unknown(Self.missing)] }
        let program = try StrippedProgram(tools)
        let compiler = Machine.current.compiler
        guard let figures = try read()[Self.architecture]?[compiler] else {
            return [
                Self.unknown(
                    "no figure is recorded for \(compiler) on \(Self.architecture). To record one: make guards-record")
            ]
        }
        return try Work.allCases.map { work in
            let measured = try program.count(work)
            guard let recorded = figures[work.rawValue], recorded > 0 else {
                return Self.unknown("no figure of \(work.title) is recorded. To record one: make guards-record")
            }
            let change = measured / recorded - 1
            let isKept = abs(change) <= Self.allowed
            return Finding(
                name: "instructions, \(work.title)", measured: Table.fixed(measured, 1),
                bound: "within \(Table.fixed(100 * Self.allowed, 0)) % of \(Table.fixed(recorded, 1))",
                verdict: isKept
                    ? .kept
                    : .broken(
                        "\(Table.fixed(100 * abs(change), 1)) % \(change > 0 ? "more" : "fewer"). \(Self.howToRecord)"))
        }
    }

    /// Writes the figures of this compiler and architecture; those of others stay.
    func record() throws {
        guard let tools = Tools() else { throw Failure(Self.missing) }
        let program = try StrippedProgram(tools)
        var figures = try read()
        let compiler = Machine.current.compiler
        for work in Work.allCases {
            let measured = (try program.count(work) * 10).rounded() / 10
            figures[Self.architecture, default: [:]][compiler, default: [:]][work.rawValue] = measured
            print("recorded     instructions, \(work.title): \(Table.fixed(measured, 1))")
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        var text = try encoder.encode(figures)
        text.append(UInt8(ascii: "\n"))
        try text.write(to: URL(filePath: path))
    }

    private func read() throws -> Figures {
        let url = URL(filePath: path)
        guard FileManager.default.fileExists(atPath: path) else { return [:] }
        do {
            return try JSONDecoder().decode(Figures.self, from: Data(contentsOf: url))
        } catch {
            throw Failure("\(path) is not a file of recorded instructions: \(error)")
        }
    }

    private static func unknown(_ why: String) -> Finding {
        Finding(name: "instructions of a post and its dequeue", measured: "", bound: "", verdict: .unknown(why))
    }

    private static let missing = "it needs valgrind and strip: apt-get install valgrind binutils"

    /// The programs that counting needs.
    private struct Tools {
        var valgrind: String
        var strip: String

        init?() {
            let folders = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
            func find(_ names: String...) -> String? {
                names.lazy.flatMap { name in folders.map { "\($0)/\(name)" } }.first { unsafe access($0, X_OK) == 0 }
            }
            guard let valgrind = find("valgrind"), let strip = find("strip", "llvm-strip") else { return nil }
            self.valgrind = valgrind
            self.strip = strip
        }
    }

    /// A copy of this executable without its debugging information, which valgrind's reader does not understand.
    private final class StrippedProgram {
        private let tools: Tools
        private let copy: String
        private let log: String

        init(_ tools: Tools) throws {
            self.tools = tools
            let folder = FileManager.default.temporaryDirectory.path()
            copy = "\(folder)iocp-bench-\(getpid())"
            log = copy + ".callgrind"
            let executable = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
            try ChildProcess(["--strip-debug", "-o", copy, executable], program: tools.strip).finish(within: 30)
        }

        deinit {
            for path in [copy, log] {
                _ = unsafe unlink(path)
            }
        }

        /// Instructions for an operation.
        func count(_ work: Work) throws -> Double {
            let short = try total(work, operations: lengths.short)
            let long = try total(work, operations: lengths.long)
            return Double(long - short) / Double(lengths.long - lengths.short)
        }

        private func total(_ work: Work, operations: Int) throws -> Int {
            let child = try ChildProcess(
                [
                    "--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-file=\(log)", copy,
                    InstructionsCommand.configuration.commandName!, "--work", work.rawValue,
                    "--operations", "\(operations)",
                ], program: tools.valgrind)
            let done = try child.receive(InstructionsCommand.Done.self, within: 120)
            try child.finish(within: 30)
            guard done.operations == operations else { throw Failure("valgrind's child did something else") }
            let text = String(decoding: try Data(contentsOf: URL(filePath: log)), as: UTF8.self)
            guard let line = text.split(separator: "\n").first(where: { $0.contains("Collected : ") }),
                let total = Int(line.split(separator: " ").last ?? "")
            else { throw Failure("valgrind did not say how many instructions it counted: \(text)") }
            return total
        }
    }
}

/// What valgrind counts: so many packets posted and dequeued on one thread.
struct InstructionsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "_instructions", shouldDisplay: false)

    @Option
    var work: InstructionGuard.Work

    @Option
    var operations: Int

    struct Done: Codable {
        var operations: Int
    }

    func run() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        switch work {
        case .pair:
            for number in 0..<UInt(operations) {
                try port.post(bytes: 64, key: number)
                guard try port.dequeue(timeout: .zero)?.key == number else { throw Failure("a packet was lost") }
            }
        case .batch:
            var batch = PacketBatch(capacity: 64)
            for _ in 0..<operations / 64 {
                for number in 0..<UInt(64) { try port.post(bytes: 64, key: number) }
                guard try port.dequeue(into: &batch, timeout: .zero) == 64 else { throw Failure("packets were lost") }
            }
        }
        try answer(Done(operations: operations))
    }
}
