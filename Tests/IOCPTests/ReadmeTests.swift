import Foundation
import Glibc
import Testing

@Suite("The server of README.md", .serialized)
struct ReadmeTests {
    private let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..")

    private func text(_ path: String) throws -> String {
        try String(contentsOf: root.appending(path: path), encoding: .utf8)
    }

    @Test("the README and the documentation have the same table of Win32 calls")
    func tablesAreEqual() throws {
        func table(_ path: String) throws -> [Substring] {
            let lines = try text(path).split(separator: "\n", omittingEmptySubsequences: false)
            let start = try #require(lines.firstIndex { $0.hasPrefix("| Windows |") }, "\(path) has the table")
            return Array(lines[start...].prefix { $0.hasPrefix("|") })
        }
        #expect(try table("README.md") == table("Sources/IOCP/IOCP.docc/ComingFromWindows.md"))
    }

    @Test("the README shows the very file that is compiled, in under 60 lines")
    func blockEqualsFile() throws {
        let source = try text("Tests/ReadmeExample/main.swift")
        let readme = try text("README.md")
        let opening = "<!-- Tests/ReadmeExample/main.swift -->\n```swift\n"
        let start = try #require(readme.range(of: opening), "README.md marks the block with a comment")
        let end = try #require(readme.range(of: "```\n", range: start.upperBound..<readme.endIndex))
        #expect(readme[start.upperBound..<end.lowerBound] == source)
        #expect(source.split(separator: "\n", omittingEmptySubsequences: false).count - 1 < 60)
    }

    @Test("it echoes on several connections at a time, and ends when its input is closed")
    func echoes() throws {
        let server = try RunningServer()
        let clients = try (0..<8).map { _ in try Client(port: server.port) }
        // More than the server's buffer and the sockets' hold: it must receive and send in turns.
        let message = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
        for (index, client) in clients.enumerated() {
            client.send(Array("hello from \(index)".utf8))
        }
        for (index, client) in clients.enumerated() {
            let expected = Array("hello from \(index)".utf8)
            #expect(client.receive(expected.count) == expected)
        }
        let sender = Thread { clients[0].send(message) }
        sender.start()
        #expect(clients[0].receive(message.count) == message)
        clients[0].endSending()
        #expect(clients[0].receive(1) == [], "the server closes when its client has ended")
        #expect(server.endInput() == .exited(0))
    }

    @Test("out of descriptors it uses no processor, and goes on with those who wait as others end")
    func outOfDescriptors() throws {
        let server = try RunningServer(descriptors: 48)
        var clients: [Client] = []
        // More than it may have open. The others are connected all the same, and wait to be accepted.
        for index in 0..<80 {
            clients.append(try Client(port: server.port))
            clients[index].send(Array("hello from \(index)".utf8))
        }
        func expectEcho(_ index: Int) {
            let expected = Array("hello from \(index)".utf8)
            #expect(clients[index].receive(expected.count) == expected)
        }
        for index in 0..<24 { expectEcho(index) }
        let before = server.processorTicks
        usleep(500_000)
        #expect(server.processorTicks - before < 10, "of ten milliseconds each")
        for index in 24..<80 {
            clients[index - 24].endSending()
            #expect(clients[index - 24].receive(1) == [])
            expectEcho(index)
        }
        #expect(server.endInput() == .exited(0))
    }

    @Test("it ends on SIGTERM")
    func terminates() throws {
        let server = try RunningServer()
        let client = try Client(port: server.port)
        client.send([1, 2, 3])
        #expect(client.receive(3) == [1, 2, 3])
        #expect(server.terminate() == .signalled(SIGTERM))
        #expect(client.receive(1) == [])
    }
}

/// The built executable, started on a port that the kernel chooses.
private final class RunningServer {
    enum End: Equatable {
        case exited(Int32)
        case signalled(Int32)
    }

    let port: UInt16
    private let process = Process()
    private let input = Pipe()

    /// - Parameter descriptors: that it may have open.
    init(descriptors: Int = 1024) throws {
        // The test program itself and the executable lie in the same directory, whatever it is called.
        let testProgram = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let directory = URL(filePath: testProgram).deletingLastPathComponent()
        let output = Pipe()
        process.executableURL = URL(filePath: "/bin/sh")
        let program = directory.appending(path: "ReadmeExample").path
        process.arguments = ["-c", "ulimit -n \(descriptors) && exec \"$0\"", program]
        process.standardInput = input
        process.standardOutput = output
        // A thread of a pool blocks most signals, and its children would inherit that.
        var none = sigset_t()
        var previous = sigset_t()
        sigemptyset(&none)
        pthread_sigmask(SIG_SETMASK, &none, &previous)
        defer { pthread_sigmask(SIG_SETMASK, &previous, nil) }
        // The server exits with connections open, whose operations are in flight: under the address sanitizer that is no
        // leak to be reported.
        process.environment = ProcessInfo.processInfo.environment.merging(["ASAN_OPTIONS": "detect_leaks=0"]) { $1 }
        try process.run()
        let line = String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
        port = try #require(UInt16(line.dropFirst("port ".count).dropLast()), "the server says its port, not: \(line)")
    }

    deinit {
        if process.isRunning { process.terminate() }
    }

    /// Processor time that it has used, in hundredths of a second.
    var processorTicks: Int {
        let stat = (try? String(contentsOfFile: "/proc/\(process.processIdentifier)/stat", encoding: .utf8)) ?? ""
        let fields = stat.drop { $0 != ")" }.split(separator: " ")
        return fields.count > 13 ? (Int(fields[12]) ?? 0) + (Int(fields[13]) ?? 0) : 0
    }

    func endInput() -> End {
        try? input.fileHandleForWriting.close()
        return end()
    }

    func terminate() -> End {
        process.terminate()
        return end()
    }

    private func end() -> End {
        let deadline = ContinuousClock.now + .seconds(20)
        while process.isRunning && ContinuousClock.now < deadline { usleep(5_000) }
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        process.waitUntilExit()
        return process.terminationReason == .exit
            ? .exited(process.terminationStatus) : .signalled(process.terminationStatus)
    }
}

/// A blocking socket, without the library that is under test.
private final class Client: Sendable {
    private let descriptor: Int32

    init(port: UInt16) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let connected = withUnsafeBytes(of: &address) {
            connect(
                descriptor, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
        }
        try #require(connected == 0, "errno \(errno)")
        var patience = timeval(tv_sec: 20, tv_usec: 0)
        let size = socklen_t(MemoryLayout<timeval>.size)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, size)
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, size)
    }

    deinit {
        close(descriptor)
    }

    func send(_ bytes: [UInt8]) {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress! + sent, $0.count - sent, Int32(MSG_NOSIGNAL))
            }
            // A thread of the pool may have operations of other tests in flight, which interrupt its timed calls.
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return }
            sent += count
        }
    }

    /// That many bytes, or fewer if the connection ends or 20 seconds pass first.
    func receive(_ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var received = 0
        while received < count {
            let got = bytes.withUnsafeMutableBytes {
                recv(descriptor, $0.baseAddress! + received, count - received, 0)
            }
            if got < 0, errno == EINTR { continue }
            guard got > 0 else { break }
            received += got
        }
        return Array(bytes[..<received])
    }

    func endSending() {
        shutdown(descriptor, Int32(SHUT_WR))
    }
}
