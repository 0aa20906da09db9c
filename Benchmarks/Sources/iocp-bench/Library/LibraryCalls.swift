import IOCP

/// System calls of the library by its own count, from the making of this value on.
struct LibraryCalls {
    private let ports: [CompletionPort]
    private let before: Int

    init(_ ports: CompletionPort...) throws {
        self.ports = ports
        before = try Self.total(ports)
    }

    /// The calls since, those for other ports than the given ones apart from entries into their rings.
    func made() throws -> Int64 {
        Int64(try Self.total(ports) - before)
    }

    static func total(_ ports: [CompletionPort]) throws -> Int {
        try ports.reduce(CompletionPort.supportingSystemCalls) { try $0 + $1.statistics.kernelEntries }
    }
}
