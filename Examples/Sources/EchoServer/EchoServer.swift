import ArgumentParser
import ExampleSupport
import IOCP

@main
struct EchoServer: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "echo-server", abstract: "Sends back whatever it receives over TCP.")

    @OptionGroup var options: ServerOptions

    @Option(help: "Bytes that a connection receives before it sends them back.")
    var buffer = 16384

    func validate() throws {
        guard (1...(1 << 30)).contains(buffer) else {
            throw ValidationError("--buffer is a number from 1 to 1073741824.")
        }
    }

    func run() throws {
        try Server.run(options) { [buffer] socket, server in
            EchoConnection(socket, of: server, capacity: buffer)
        }
    }
}

/// Receives, sends the same bytes from the same buffer, and receives again. Nothing is copied or allocated on the way.
final class EchoConnection: Connection, @unchecked Sendable {
    init(_ socket: Socket, of server: Server, capacity: Int) {
        let buffer = IOBuffer(capacity: capacity)
        super.init(socket, of: server, receiveBuffer: buffer, replyBuffer: buffer)
    }

    override func received(_ count: Int) throws(PortError) {
        // A peer that has only ended its sending side has had everything back by now.
        guard count > 0 else { return end() }
        try socket.send(reply, count: count)
    }

    override func replied(_ count: Int) throws(PortError) {
        try socket.receive(self)
    }
}
