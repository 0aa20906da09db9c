import ArgumentParser
import CBaselines

/// Holds counts against bounds: what must not creep in between two releases.
struct GuardCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "guard",
        abstract: "Checks counts of the library that must not grow: no time is compared with anything.",
        discussion: """
            Heap allocations of each step of the hot path in steady state; entries into the kernel for each echo; \
            instructions of a post and its dequeue, by valgrind, against the recorded figure of this compiler and \
            architecture. The exit status is 1 if a bound is broken. What cannot be checked on this machine is said \
            and breaks nothing.
            """
    )

    @Argument(
        help: ArgumentHelp("Guards to check: allocations, entries, instructions (default: all).", valueName: "guard"))
    var guards: [Kind] = []

    @Option(help: ArgumentHelp("The recorded instructions.", valueName: "file"))
    var figures = "Benchmarks/Guards/instructions.json"

    @Flag(help: "Records the instructions of this compiler and architecture instead of checking them.")
    var record = false

    enum Kind: String, CaseIterable, ExpressibleByArgument {
        case allocations
        case entries
        case instructions
    }

    func run() throws {
        bench_raise_descriptor_limit()
        if record {
            try InstructionGuard(path: figures).record()
            return
        }
        let chosen = guards.isEmpty ? Kind.allCases : guards
        var findings: [Finding] = []
        if chosen.contains(.allocations) {
            try findings += show(AllocationGuard.findings())
        }
        if chosen.contains(.allocations) || chosen.contains(.entries) {
            try findings += show(
                EchoGuard.findings(allocations: chosen.contains(.allocations), entries: chosen.contains(.entries)))
        }
        if chosen.contains(.instructions) {
            try findings += show(InstructionGuard(path: figures).findings())
        }
        guard findings.contains(where: \.isBroken) else { return }
        throw ExitCode.failure
    }

    private func show(_ findings: [Finding]) -> [Finding] {
        for finding in findings {
            print(finding.text)
        }
        return findings
    }
}
