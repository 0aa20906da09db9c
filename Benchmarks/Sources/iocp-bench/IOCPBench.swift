import ArgumentParser

@main
enum IOCPBench {
    /// The parts that a run starts as processes of their own. They are not for users: `--help` does not show them.
    private static let parts: [any ParsableCommand.Type] = [
        ServerCommand.self, LoadCommand.self, WorkCommand.self, InstructionsCommand.self,
    ]

    /// What a user may run beside the measuring itself.
    static let others: [any ParsableCommand.Type] = [GuardCommand.self, ReportCommand.self]

    static func main() {
        let arguments = Array(CommandLine.arguments.dropFirst())
        if let part = (parts + others).first(where: { $0.configuration.commandName == arguments.first }) {
            part.main(Array(arguments.dropFirst()))
        } else {
            RunCommand.main(arguments)
        }
    }
}
