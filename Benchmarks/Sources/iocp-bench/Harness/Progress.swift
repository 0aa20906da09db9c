import CBaselines
import Glibc

/// One line on standard error for each step; on a terminal it is written over.
struct Progress {
    private let steps: Int
    private let terminal = isatty(2) != 0
    private var done = 0
    private var current = ""

    init(steps: Int) {
        self.steps = steps
    }

    func note(_ text: String) {
        write("\(text)\n")
    }

    mutating func begin(_ text: String) {
        done += 1
        current = "[\(done)/\(steps)] \(text)"
        if terminal {
            write("\r\u{1B}[K\(current)")
        }
    }

    func end(_ outcome: Result<Measurement, any Error>, of item: Case) {
        switch outcome {
        case .success(let measurement):
            let figures = "\(Table.rate(measurement.rate)) \(item.operations)/s"
            write("\(terminal ? "\r\u{1B}[K" : "")\(current): \(figures)\(terminal ? "" : "\n")")
        case .failure(let error):
            write("\(terminal ? "\r\u{1B}[K" : "")\(current): FAILED: \(error)\n")
        }
    }

    func finish() {
        if terminal {
            write("\r\u{1B}[K")
        }
    }

    private func write(_ text: String) {
        var text = text
        _ = text.withUTF8 { unsafe bench_write(2, $0.baseAddress, $0.count) }
    }
}
