/// The library's echo servers under load: heap allocations, and entries into the kernel for each message.
enum EchoGuard {
    private static let caseID = "echo/64B-c64"
    /// The other ways to use the port, and the hosting manager, whose worker starts deferred: the same echo.
    private static let facesID = "faces/echo-64B-c64"
    private static let mostEntries = 0.1

    static func findings(allocations: Bool, entries: Bool) throws -> [Finding] {
        let item = try self.item(caseID)
        let settings = RunSettings(rounds: 1, warmUp: 0.5, fileBytes: 0, directory: "", quick: true)
        let runner = Runner(settings: settings, suites: [])
        var findings: [Finding] = []
        var all: [(title: String, entries: Double)] = []
        for row in item.rows where row.role == .subject {
            let measurement = try runner.measure(item, row, seconds: 1)
            if allocations {
                findings.append(allocationFinding(row, measurement))
            }
            if let count = measurement.counts?[Measurement.Count.kernelEntries.rawValue] {
                all.append((row.title, Double(count) / Double(measurement.operations)))
            }
        }
        if allocations {
            let faces = try self.item(facesID)
            for row in faces.rows where row.role == .subject {
                try findings.append(allocationFinding(row, runner.measure(faces, row, seconds: 1)))
            }
        }
        guard entries else { return findings }
        let name = "entries into the kernel (io_uring_enter) for an echo, 64 connections"
        guard let best = all.min(by: { $0.entries < $1.entries }) else {
            throw Failure("no row of \(caseID) counts its entries into the kernel")
        }
        let others = all.filter { $0.title != best.title }.map { "\($0.title): \(Table.fixed($0.entries, 3))" }
        findings.append(
            Finding(
                name: "\(name), the best row, \(best.title)", measured: Table.fixed(best.entries, 3),
                bound: "at most \(mostEntries)\(others.isEmpty ? "" : "; ")\(others.joined(separator: "; "))",
                verdict: best.entries <= mostEntries ? .kept : .broken("")))
        return findings
    }

    private static func item(_ id: String) throws -> Case {
        guard let item = Suite.allCases.first(where: { $0.id == id }) else { throw Failure("there is no case \(id)") }
        return item
    }

    private static func allocationFinding(_ row: Row, _ measurement: Measurement) -> Finding {
        let name = "heap allocations, echo, 64 connections, \(row.title)"
        guard let allocations = measurement.allocations else {
            return Finding(
                name: name, measured: "", bound: "", verdict: .unknown("they are counted with glibc only"))
        }
        return Finding(
            name: name, measured: "\(allocations) in \(measurement.operations) messages", bound: "0",
            verdict: allocations == 0 ? .kept : .broken(""))
    }
}
