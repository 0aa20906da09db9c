import Glibc
import Testing

extension Examples {
    @Suite("echo-server") struct EchoTests {
        @Test("what is sent comes back, whatever its size", arguments: [1, 2, 4095, 16384, 16385, 100_000, 3_000_000])
        func sizes(_ count: Int) throws {
            let server = try ServerProcess("echo-server")
            let client = try Client(server.port)
            for round in 0..<3 {
                let bytes = pattern(count, seed: UInt64(round + 1))
                client.sendInBackground(bytes)
                #expect(try client.receive(count) == bytes)
            }
            #expect(server.stop() == 0)
        }

        @Test("1000 connections at a time each get their own bytes back, and leave no descriptor behind")
        func manyConnections() throws {
            let server = try ServerProcess("echo-server", ["--workers", "4", "--limit", "2"])
            let before = server.openDescriptors
            do {
                let clients = try (0..<1000).map { _ in try Client(server.port) }
                for round in 0..<3 {
                    for (index, client) in clients.enumerated() { try client.send("round \(round) of \(index)\n") }
                    for (index, client) in clients.enumerated() {
                        #expect(try client.receive(until: "\n") == "round \(round) of \(index)\n")
                    }
                }
            }
            #expect(server.settles(atDescriptors: before))
            #expect(server.stop() == 0)
        }

        @Test("a peer that has ended its sending side gets everything back, then the end")
        func halfClose() throws {
            let server = try ServerProcess("echo-server")
            let client = try Client(server.port)
            let bytes = pattern(1_000_000)
            let reader = client
            Task.detached {
                try? reader.send(bytes)
                reader.endSending()
            }
            #expect(try client.receiveAll() == bytes)
            #expect(server.stop() == 0)
        }

        @Test("peers that reset their connections do not disturb the others")
        func resets() throws {
            let server = try ServerProcess("echo-server")
            let steady = try Client(server.port)
            try steady.send("x")
            #expect(try steady.receive(1) == Array("x".utf8))
            let before = server.openDescriptors
            for round in 0..<50 {
                let client = try Client(server.port, receiveBuffer: 4096)
                client.resetOnClose()
                // The answer to most of this is stuck in the server when the reset comes.
                try client.send(pattern(round % 2 == 0 ? 10 : 30_000))
            }
            #expect(server.settles(atDescriptors: before))
            try steady.send("still here\n")
            #expect(try steady.receive(until: "\n") == "still here\n")
            #expect(server.stop() == 0)
        }

        @Test("SIGTERM and SIGINT end the server with code 0, idle connections with it", arguments: [SIGTERM, SIGINT])
        func gracefulStop(_ signal: Int32) throws {
            let server = try ServerProcess("echo-server")
            let idle = try (0..<20).map { _ in try Client(server.port) }
            // One is known to have been accepted: what only waits to be is reset.
            try idle[19].send("x")
            _ = try idle[19].receive(1)
            server.signal(signal)
            #expect(try idle[19].receiveAll().isEmpty)
            #expect(server.wait() == 0)
        }

        @Test("what the server has received when SIGTERM comes is sent back before the connection ends")
        func stopInFlight() throws {
            let server = try ServerProcess("echo-server")
            let client = try Client(server.port, receiveBuffer: 4096)
            try client.send("x")
            _ = try client.receive(1)
            let bytes = pattern(60_000)
            try client.send(bytes)
            server.signal()
            usleep(50_000)
            #expect(try client.receiveAll() == bytes)
            #expect(server.wait() == 0)
        }

        @Test(
            "more workers than the limit, and one worker alone, serve as well",
            arguments: [(1, 1), (8, 1), (3, 0), (1, 4)])
        func pools(_ workers: Int, _ limit: Int) throws {
            let server = try ServerProcess("echo-server", ["--workers", "\(workers)", "--limit", "\(limit)"])
            let clients = try (0..<50).map { _ in try Client(server.port) }
            for (index, client) in clients.enumerated() { try client.send("\(index)\n") }
            for (index, client) in clients.enumerated() { #expect(try client.receive(until: "\n") == "\(index)\n") }
            #expect(server.stop() == 0)
        }

        @Test("wrong options are refused with a usage text")
        func wrongOptions() throws {
            let server = try? ServerProcess("echo-server", ["--workers", "many"])
            #expect(server == nil)
        }
    }
}
