import ArgumentParser
import ExampleSupport

@main
struct RESPServer: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resp-server",
        abstract: "Keeps values in memory and speaks the protocol of Redis: PING, ECHO, SET, GET, DEL, INCR.")

    @OptionGroup var options: ServerOptions

    @Option(help: "MiB that a key or a value may have, up to 512.")
    var maxValue = 64

    func validate() throws {
        guard (1...512).contains(maxValue) else { throw ValidationError("--max-value is a number from 1 to 512.") }
    }

    func run() throws {
        let store = Store()
        var limits = RequestParser.Limits()
        limits.bulk = maxValue << 20
        try Server.run(options) { [limits] socket, server in
            RESPConnection(socket, of: server, store: store, limits: limits)
        }
    }
}
