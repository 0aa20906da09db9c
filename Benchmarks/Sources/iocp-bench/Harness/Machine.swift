import CBaselines

/// What the figures were measured on.
struct Machine: Codable, Sendable {
    var kernel: String
    var processor: String
    /// Processors that this process may use.
    var processors: Int
    var liburing: String
    var compiler: String

    static var current: Machine {
        Machine(
            kernel: unsafe text { unsafe bench_describe_kernel($0, $1) },
            processor: unsafe text { unsafe bench_describe_processor($0, $1) },
            processors: allowedProcessors.count,
            liburing: unsafe text { unsafe bench_describe_liburing($0, $1) },
            compiler: compilerVersion
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
