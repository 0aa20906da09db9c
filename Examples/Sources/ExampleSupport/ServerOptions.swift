public import ArgumentParser
import IOCP

/// The options that every server of this package has.
public struct ServerOptions: ParsableArguments {
    @Option(help: "The IPv4 or IPv6 address to listen at.")
    public var address = "127.0.0.1"

    @Option(help: "The TCP port to listen at; 0 lets the system choose one.")
    public var port: UInt16 = 0

    @Option(help: "Threads that dequeue from the completion port; 0 is twice the limit.")
    public var workers = 0

    @Option(help: "Threads that the completion port lets run at a time; 0 is the number of processors.")
    public var limit = 0

    @Option(help: "Seconds that connections have to finish after SIGTERM or SIGINT.")
    public var grace = 5

    public init() {}

    public func validate() throws {
        guard (0...1024).contains(workers) else { throw ValidationError("--workers is a number from 0 to 1024.") }
        guard (0...1024).contains(limit) else { throw ValidationError("--limit is a number from 0 to 1024.") }
        guard (0...3600).contains(grace) else { throw ValidationError("--grace is a number from 0 to 3600.") }
    }

    func socketAddress() throws -> SocketAddress {
        do {
            return address.contains(":") ? try .ipv6(address, port: port) : try .ipv4(address, port: port)
        } catch {
            throw ValidationError("--address is a numeric IPv4 or IPv6 address, not \"\(address)\".")
        }
    }
}
