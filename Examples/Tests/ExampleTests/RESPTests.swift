import Foundation
import Glibc
import Testing

extension Client {
    /// Sends a command as an array of bulk strings.
    func command(_ arguments: [UInt8]...) throws {
        try send(Self.encoded(arguments))
    }

    /// Sends a command and takes a reply of one line.
    func ask(_ arguments: String...) throws -> String {
        try send(Self.encoded(arguments.map { Array($0.utf8) }))
        return try receive(until: "\r\n")
    }

    /// Takes a bulk string.
    func receiveBulk() throws -> [UInt8]? {
        let header = try receive(until: "\r\n")
        guard header.hasPrefix("$"), let count = Int(header.dropFirst().dropLast()), count >= 0 else { return nil }
        return try receive(count + 2).dropLast(2)
    }

    static func encoded(_ arguments: [[UInt8]]) -> [UInt8] {
        var bytes = Array("*\(arguments.count)\r\n".utf8)
        for argument in arguments { bytes += Array("$\(argument.count)\r\n".utf8) + argument + [13, 10] }
        return bytes
    }
}

extension Examples {
    @Suite("resp-server") struct RESPTests {
        @Test("each command answers as Redis does")
        func commands() throws {
            let server = try ServerProcess("resp-server")
            let client = try Client(server.port)
            #expect(try client.ask("PING") == "+PONG\r\n")
            #expect(try client.ask("ping", "x") + client.receive(until: "\r\n") == "$1\r\nx\r\n")
            #expect(try client.ask("ECHO", "hello") + client.receive(until: "\r\n") == "$5\r\nhello\r\n")
            #expect(try client.ask("GET", "a") == "$-1\r\n")
            #expect(try client.ask("SET", "a", "1") == "+OK\r\n")
            #expect(try client.ask("get", "a") + client.receive(until: "\r\n") == "$1\r\n1\r\n")
            #expect(try client.ask("INCR", "a") == ":2\r\n")
            #expect(try client.ask("INCR", "new") == ":1\r\n")
            #expect(try client.ask("DEL", "a", "b", "new") == ":2\r\n")
            #expect(try client.ask("COMMAND", "DOCS") == "*0\r\n")
            #expect(try client.ask("CONFIG", "GET", "save") == "*2\r\n")
            #expect(try client.receiveBulk() == Array("save".utf8))
            #expect(try client.receiveBulk() == [])
            #expect(try client.ask("QUIT") == "+OK\r\n")
            #expect(try client.receiveAll().isEmpty)
            #expect(server.stop() == 0)
        }

        @Test("mistakes are answered with an error, and the connection goes on")
        func mistakes() throws {
            let server = try ServerProcess("resp-server")
            let client = try Client(server.port)
            #expect(try client.ask("NONE", "of\r\nthese") == "-ERR unknown command 'NONE'\r\n")
            #expect(try client.ask("NO\r\nLINES") == "-ERR unknown command 'NO  LINES'\r\n")
            #expect(try client.ask("GET") == "-ERR wrong number of arguments for 'get' command\r\n")
            #expect(try client.ask("SET", "a", "b", "EX") == "-ERR syntax error\r\n")
            #expect(try client.ask("SET", "a", "x1") == "+OK\r\n")
            #expect(try client.ask("INCR", "a") == "-ERR value is not an integer or out of range\r\n")
            #expect(try client.ask("SET", "a", "9223372036854775807") == "+OK\r\n")
            #expect(try client.ask("INCR", "a") == "-ERR increment or decrement would overflow\r\n")
            #expect(try client.ask("PING") == "+PONG\r\n")
            #expect(server.stop() == 0)
        }

        @Test(
            "what is no request is answered with a protocol error, and the connection ends",
            arguments: [
                ("*x\r\n", "invalid multibulk length"), ("*2000000\r\n", "invalid multibulk length"),
                ("*1\r\n$-1\r\n", "invalid bulk length"), ("*1\r\n$99999999999\r\n", "invalid bulk length"),
                ("*1\r\n$1048577\r\n", "invalid bulk length"), ("*1\r\n:1\r\n", "expected '$', got ':'"),
                ("*1\r\n$4\r\nPINGPING\r\n", "does not end where its length says"),
                ("<70000 bytes>", "too big inline request"),
            ])
        func protocolErrors(_ request: String, _ answer: String) throws {
            let server = try ServerProcess("resp-server", ["--max-value", "1"])
            let client = try Client(server.port)
            try client.send(
                request.replacingOccurrences(of: "<70000 bytes>", with: String(repeating: "a", count: 70_000)))
            let all = String(decoding: try client.receiveAll(), as: UTF8.self)
            #expect(all.hasPrefix("-ERR Protocol error: ") && all.contains(answer), "\(all)")
            #expect(server.stop() == 0)
        }

        @Test("inline commands, empty lines and empty arrays are understood")
        func inline() throws {
            let server = try ServerProcess("resp-server")
            let client = try Client(server.port)
            try client.send("PING\r\n\r\n*0\r\nSET  a \t1\nINCR a\r\nECHO two words\r\nQUIT\r\nPING\r\n")
            let all = String(decoding: try client.receiveAll(), as: UTF8.self)
            #expect(all == "+PONG\r\n+OK\r\n:2\r\n-ERR wrong number of arguments for 'echo' command\r\n+OK\r\n")
            #expect(server.stop() == 0)
        }

        @Test("a command that comes a byte at a time is the same command")
        func bytewise() throws {
            let server = try ServerProcess("resp-server")
            let client = try Client(server.port)
            for byte in Client.encoded([Array("ECHO".utf8), [0, 13, 10, 255]]) {
                try client.send([byte])
                usleep(200)
            }
            #expect(try client.receiveBulk() == [0, 13, 10, 255])
            #expect(server.stop() == 0)
        }

        @Test("10000 commands in one go are answered in order")
        func pipelining() throws {
            let server = try ServerProcess("resp-server")
            let client = try Client(server.port)
            var all: [UInt8] = []
            for index in 0..<10_000 { all += Client.encoded([Array("ECHO".utf8), Array("\(index)".utf8)]) }
            client.sendInBackground(all)
            for index in 0..<10_000 { #expect(try client.receiveBulk() == Array("\(index)".utf8)) }
            #expect(server.stop() == 0)
        }

        @Test(
            "values of any bytes and of many sizes come back as they were",
            arguments: [0, 1, 16_384, 1_000_000, 40_000_000])
        func bigValues(_ size: Int) throws {
            let server = try ServerProcess("resp-server")
            let client = try Client(server.port)
            let value = pattern(size)
            let key: [UInt8] = [0, 10, 13, 200]
            for _ in 0..<2 {
                try client.command(Array("SET".utf8), key, value)
                #expect(try client.receive(until: "\r\n") == "+OK\r\n")
                try client.command(Array("GET".utf8), key)
                #expect(try client.receiveBulk() == value)
            }
            #expect(try client.ask("PING") == "+PONG\r\n")
            #expect(server.stop() == 0)
        }

        @Test("many clients count together: no increment is lost")
        func sharedStore() async throws {
            let server = try ServerProcess("resp-server", ["--workers", "4", "--limit", "2"])
            let clients = try (0..<20).map { _ in try Client(server.port) }
            let batch = (0..<100).flatMap { _ in Client.encoded([Array("INCR".utf8), Array("n".utf8)]) }
            for _ in 0..<5 {
                for client in clients { try client.send(batch) }
                for client in clients { for _ in 0..<100 { _ = try client.receive(until: "\r\n") } }
            }
            #expect(try clients[0].ask("INCR", "n") == ":10001\r\n")
            #expect(server.stop() == 0)
        }

        @Test("commands that have come when SIGTERM comes are answered")
        func stopInFlight() throws {
            let server = try ServerProcess("resp-server")
            let client = try Client(server.port, receiveBuffer: 4096)
            #expect(try client.ask("SET", "a", String(repeating: "v", count: 1_000_000)) == "+OK\r\n")
            try client.send("GET a\r\nINCR n\r\n")
            usleep(50_000)
            server.signal()
            usleep(50_000)
            #expect(try client.receiveBulk()?.count == 1_000_000)
            #expect(try client.receive(until: "\r\n") == ":1\r\n")
            #expect(try client.receiveAll().isEmpty)
            #expect(server.wait() == 0)
        }

        @Test("redis-cli talks to it", .enabled(if: Tool.path("redis-cli") != nil))
        func redisCLI() throws {
            let server = try ServerProcess("resp-server")
            func ask(_ arguments: String...) throws -> String {
                try Tool.run("redis-cli", ["-p", "\(server.port)"] + arguments).output
            }
            #expect(try ask("PING") == "PONG\n")
            #expect(try ask("SET", "k", "some value") == "OK\n")
            #expect(try ask("GET", "k") == "some value\n")
            #expect(try ask("DEL", "k") == "1\n")
            #expect(try ask("INCR", "k") == "1\n")
            #expect(server.stop() == 0)
        }

        @Test("redis-benchmark runs against it", .enabled(if: Tool.path("redis-benchmark") != nil))
        func redisBenchmark() throws {
            let server = try ServerProcess("resp-server")
            let (code, output) = try Tool.run(
                "redis-benchmark", ["-p", "\(server.port)", "-q", "-n", "20000", "-P", "16", "-t", "ping,set,get,incr"])
            #expect(code == 0)
            #expect(output.split(separator: "requests per second").count - 1 == 5, "\(output)")
            #expect(!output.contains("Error") && !output.contains("WARN"), "\(output)")
            #expect(server.stop() == 0)
        }
    }
}
