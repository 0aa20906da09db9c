import CBaselines
import FoundationEssentials
import Glibc

/// What the figures were measured on.
struct Machine: Codable, Sendable, Equatable {
    var kernel: String
    var processor: String
    /// Processors that this process may use.
    var processors: Int
    var liburing: String
    var compiler: String
    /// The distribution's name; absent in files of older versions, as is what follows.
    var system: String?
    var memoryBytes: UInt64?

    static var current: Machine {
        Machine(
            kernel: unsafe text { unsafe bench_describe_kernel($0, $1) },
            processor: unsafe text { unsafe bench_describe_processor($0, $1) },
            processors: allowedProcessors.count,
            liburing: unsafe text { unsafe bench_describe_liburing($0, $1) },
            compiler: compilerVersion,
            system: systemName,
            memoryBytes: UInt64(max(0, sysconf(Int32(_SC_PHYS_PAGES)))) * UInt64(max(0, sysconf(Int32(_SC_PAGESIZE))))
        )
    }

    /// The numbers of the processors that this process may use, in order.
    static var allowedProcessors: [Int32] {
        var numbers = [Int32](repeating: 0, count: 1024)
        let count = unsafe numbers.withUnsafeMutableBufferPointer {
            unsafe bench_allowed_processors($0.baseAddress, Int32($0.count))
        }
        return Array(numbers.prefix(max(0, Int(count))))
    }

    private static func text(
        _ describe: (UnsafeMutablePointer<CChar>?, Int) -> UnsafePointer<CChar>?
    ) -> String {
        var buffer = [CChar](repeating: 0, count: 512)
        return unsafe buffer.withUnsafeMutableBufferPointer {
            unsafe describe($0.baseAddress, $0.count).map { unsafe String(cString: $0) } ?? ""
        }
    }

    private static var systemName: String? {
        guard let data = try? Data(contentsOf: URL(filePath: "/etc/os-release")) else { return nil }
        let line = String(decoding: data, as: UTF8.self).split(separator: "\n").first { $0.hasPrefix("PRETTY_NAME=") }
        return line.map { $0.dropFirst("PRETTY_NAME=".count).filter { $0 != "\"" } }
    }

    private static var compilerVersion: String {
        #if compiler(>=6.4)
        "Swift 6.4 or newer"
        #elseif compiler(>=6.3)
        "Swift 6.3"
        #else
        "Swift before 6.3"
        #endif
    }
}
