import Foundation
import Glibc
import Testing

/// The suites run one after the other: each drives servers with many connections.
@Suite(.serialized) enum Examples {}

/// One of the package's executables, running as a process of its own.
final class ServerProcess {
    private let process = Process()
    private let output = Pipe()
    let port: UInt16
    private var faultLog: String?

    struct Failure: Error {
        let text: String
    }

    /// Starts a server at a port of its choice, and waits until it listens.
    ///
    /// - Parameter injection: what befalls the system calls of the server, which is the one built for release then.
    init(_ name: String, _ arguments: [String] = [], under injection: Injection? = nil) throws {
        if let injection {
            process.executableURL = URL(fileURLWithPath: try #require(Tool.path("strace")))
            let log = NSTemporaryDirectory() + "iocp-faults-\(UUID().uuidString)"
            faultLog = log
            process.arguments =
                injection.arguments(log: log) + [Self.releaseDirectory.appendingPathComponent(name).path] + arguments
        } else {
            process.executableURL = Self.directory.appendingPathComponent(name)
            process.arguments = arguments
        }
        process.standardOutput = output
        try process.run()
        var text = ""
        while !text.contains("\n") {
            let data = output.fileHandleForReading.availableData
            if data.isEmpty { throw Failure(text: "\(name) has not started") }
            text += String(decoding: data, as: UTF8.self)
        }
        guard text.hasPrefix("listening on "), let colon = text.lastIndex(of: ":"),
            let port = UInt16(text[text.index(after: colon)...].trimmingCharacters(in: .newlines))
        else { throw Failure(text: "\(name) said: \(text)") }
        self.port = port
    }

    deinit {
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        process.waitUntilExit()
        if let faultLog { try? FileManager.default.removeItem(atPath: faultLog) }
    }

    /// Whether faults have befallen it. It has ended; the tracer may still be writing.
    func hasHadFaults() -> Bool {
        for _ in 0..<1000 {
            if let faultLog, Injection.count(in: faultLog) > 0 { return true }
            usleep(5000)
        }
        return false
    }

    func signal(_ signal: Int32 = SIGTERM) { kill(process.processIdentifier, signal) }

    /// Waits for the end: the exit code, 128 and the signal's number, or -1 if it is still running after the time.
    func wait(seconds: Double = 20) -> Int32 {
        let deadline = Date().addingTimeInterval(seconds)
        while process.isRunning {
            if Date() > deadline { return -1 }
            usleep(2000)
        }
        return process.terminationReason == .exit ? process.terminationStatus : 128 + process.terminationStatus
    }

    /// Asks it to stop, and waits.
    func stop() -> Int32 {
        signal()
        return wait()
    }

    /// Descriptors that it has open: what it leaks shows here.
    var openDescriptors: Int {
        (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(process.processIdentifier)/fd").count) ?? 0
    }

    /// Waits until it has no more than so many descriptors open.
    func settles(atDescriptors count: Int) -> Bool {
        for _ in 0..<1000 {
            if openDescriptors <= count { return true }
            usleep(5000)
        }
        return false
    }

    /// Where the tests were built, the executables were too.
    private static var directory: URL {
        URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
    }

    /// And beside them, those for release, if they were.
    private static var releaseDirectory: URL {
        directory.deletingLastPathComponent().appendingPathComponent("release")
    }

    static func isBuiltForRelease(_ name: String) -> Bool {
        FileManager.default.isExecutableFile(atPath: releaseDirectory.appendingPathComponent(name).path)
    }
}

/// A program that may be installed.
enum Tool {
    static func path(_ name: String) -> String? {
        (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").map { "\($0)/\(name)" }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    /// Runs it to its end. Returns what it has printed.
    static func run(_ name: String, _ arguments: [String]) throws -> (code: Int32, output: String) {
        let process = Process()
        let pipe = Pipe()
        process.executableURL = URL(fileURLWithPath: try #require(path(name)))
        process.arguments = arguments
        process.standardOutput = pipe
        process.standardError = pipe
        process.standardInput = FileHandle.nullDevice
        try process.run()
        let data = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: data, as: UTF8.self))
    }
}

/// Bytes that look random and are the same each time.
func pattern(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
    let words = (0..<(count + 7) / 8).map { _ in
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state
    }
    return unsafe words.withUnsafeBytes { unsafe Array($0.prefix(count)) }
}
