import Glibc

/// What the kernel says of the process, for a hang whose cause the library does not know: where each thread is, those of
/// the kernel's that carry requests out among them, and what each ring holds.
enum KernelView {
    private static let mostLines = 24

    static var lines: [String] { threads + rings }

    /// A thread's place in the kernel is for those who may see it.
    private static var threads: [String] {
        Usage.numbers(in: "/proc/self/task").flatMap { thread -> [String] in
            let directory = "/proc/self/task/\(thread)"
            let state = text("\(directory)/status").first { $0.hasPrefix("State:") } ?? "gone"
            let name = text("\(directory)/comm").first ?? "?"
            return ["thread \(thread) \(name), \(state)"]
                + text("\(directory)/stack").prefix(mostLines).map { "  \($0)" }
        }
    }

    private static var rings: [String] {
        Usage.everyDescriptor.filter { $0.contains("io_uring") }.flatMap { ring -> [String] in
            let number = ring.prefix { $0.isNumber }
            return ["ring \(ring)"] + text("/proc/self/fdinfo/\(number)").prefix(mostLines).map { "  \($0)" }
        }
    }

    private static func text(_ path: String) -> [String] {
        guard let file = fopen(path, "r") else { return [] }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 512)
        var found: [String] = []
        while fgets(&line, 512, file) != nil {
            let bytes = line.prefix { $0 != 0 && $0 != 10 }.map { UInt8(bitPattern: $0) }
            found.append(String(decoding: bytes, as: UTF8.self))
        }
        return found
    }
}
