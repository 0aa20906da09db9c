import CBaselines
import FoundationEssentials
import Glibc

/// This executable, started again for one part of a row: it takes lines on its standard input and answers with lines
/// of JSON.
final class ChildProcess {
    private let process: pid_t
    private var input: Int32
    private let output: Int32
    private var unread: [UInt8] = []
    private var ended = false
    private let name: String

    /// - Parameter program: another program than this executable; it is looked for on the PATH.
    init(_ arguments: [String], program: String? = nil) throws {
        name = program ?? arguments.first ?? "?"
        var input: Int32 = -1
        var output: Int32 = -1
        // `bench_spawn` copies nothing, but it returns only when the child has its own image.
        var strings = unsafe arguments.map { unsafe UnsafePointer<CChar>?(strdup($0)) }
        unsafe strings.append(nil)
        process = unsafe strings.withUnsafeBufferPointer {
            if let program {
                unsafe bench_spawn_program(program, program, $0.baseAddress, &input, &output)
            } else {
                unsafe bench_spawn($0.baseAddress, &input, &output)
            }
        }
        unsafe strings.forEach { unsafe free(UnsafeMutablePointer(mutating: $0)) }
        self.input = input
        self.output = output
        try check(process, "starting \(name)")
    }

    /// A child is never left behind, whatever stopped its row.
    deinit {
        closeInput()
        if !ended {
            _ = bench_wait(process, bench_now() + 1_000_000_000)
        }
        close(output)
    }

    /// Sends one line.
    func send(_ line: String) throws {
        let bytes = Array((line + "\n").utf8)
        try unsafe check(
            bytes.withUnsafeBytes { unsafe bench_write(input, $0.baseAddress, $0.count) }, "telling \(name)")
    }

    /// Bytes in pages of its own.
    var memory: Int64 {
        get throws { try check(bench_process_memory(process), "looking at the memory of \(name)") }
    }

    /// Tells the child to end.
    func closeInput() {
        guard input >= 0 else { return }
        close(input)
        input = -1
    }

    /// The next line, decoded.
    func receive<Value: Decodable>(_ type: Value.Type, within seconds: Double) throws -> Value {
        let line = try nextLine(deadline: bench_now() + UInt64(seconds * 1e9))
        do {
            return try JSONDecoder().decode(type, from: Data(line))
        } catch {
            throw Failure("\(name) answered with something else: \(String(decoding: line, as: UTF8.self))")
        }
    }

    /// All that it prints until it ends by itself; a status other than 0 is an error.
    func output(within seconds: Double) throws -> String {
        let deadline = bench_now() + UInt64(seconds * 1e9)
        var length = 1
        while length > 0 {
            var chunk = [UInt8](repeating: 0, count: 16384)
            length = try check(
                unsafe chunk.withUnsafeMutableBytes { unsafe bench_read(output, $0.baseAddress, $0.count, deadline) },
                "waiting for \(name)")
            unread += chunk[..<length]
        }
        try finish()
        return String(decoding: unread, as: UTF8.self)
    }

    /// Closes its input and waits for its end.
    func finish(within seconds: Double = 5) throws {
        closeInput()
        let status = bench_wait(process, bench_now() + UInt64(seconds * 1e9))
        ended = true
        guard status == 0 else { throw Failure("\(name) ended with status \(status)") }
    }

    private func nextLine(deadline: UInt64) throws -> [UInt8] {
        while true {
            if let end = unread.firstIndex(of: UInt8(ascii: "\n")) {
                let line = Array(unread[..<end])
                unread.removeSubrange(...end)
                return line
            }
            var chunk = [UInt8](repeating: 0, count: 16384)
            let length = unsafe chunk.withUnsafeMutableBytes {
                unsafe bench_read(output, $0.baseAddress, $0.count, deadline)
            }
            try check(length, "waiting for \(name)")
            guard length > 0 else {
                let status = bench_wait(process, bench_now() + 1_000_000_000)
                ended = true
                throw Failure("\(name) ended early, with status \(status)")
            }
            unread += chunk[..<length]
        }
    }
}

/// The child's half: one line of JSON on standard output, at once.
func answer(_ value: some Encodable) throws {
    var line = Array(try JSONEncoder().encode(value))
    line.append(UInt8(ascii: "\n"))
    try unsafe check(line.withUnsafeBytes { unsafe bench_write(1, $0.baseAddress, $0.count) }, "answering")
}
