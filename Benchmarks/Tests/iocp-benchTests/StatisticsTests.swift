import Testing

@testable import iocp_bench

@Suite("Medians and ratios")
struct StatisticsTests {
    @Test("a median lies in the middle, of an even number between the two")
    func median() {
        #expect(Spread([3, 1, 2])?.median == 2)
        #expect(Spread([4, 1, 2, 3])?.median == 2.5)
        #expect(Spread([5, .infinity, .nan])?.max == 5)
        #expect(Spread([]) == nil)
    }

    @Test("ratios are taken within a round, and rounds that failed on either side are left out")
    func ratios() throws {
        let mine = [measurement(cpu: 10), nil, measurement(cpu: 30), measurement(cpu: 40)]
        let theirs = [measurement(cpu: 10), measurement(cpu: 1), nil, measurement(cpu: 20)]
        let summary = try #require(Summary(mine, reference: theirs))
        #expect(summary.cpuRatio?.min == 1)
        #expect(summary.cpuRatio?.max == 2)
        #expect(summary.cpuRatio?.median == 1.5)
        #expect(summary.cpuPerOperation.median == 30)
        #expect(Summary([nil], reference: theirs) == nil)
    }

    @Test("what a row cannot count is not nought")
    func absent() throws {
        let summary = try #require(Summary([measurement(cpu: 10)], reference: nil))
        #expect(summary.callsPerOperation == nil && summary.allocationsPerOperation == nil && summary.rateRatio == nil)
    }

    @Test("targets: against the reference or a named row, at most or at least")
    func targets() throws {
        let rows = [
            row("iocp", .subject, [measurement(cpu: 10), measurement(cpu: 12)]),
            row("raw-uring", .reference, [measurement(cpu: 10), measurement(cpu: 10)]),
            row("nio", .baseline, [measurement(cpu: 20), measurement(cpu: 40)]),
        ]
        func evaluated(_ target: Target) -> Target {
            var target = target
            target.evaluate(rows[0].rounds) { id in rows.first { $0.id == id ?? "raw-uring" }?.rounds }
            return target
        }
        #expect(evaluated(.of(.cpuRatio, atMost: 1.05)).reached == false)
        #expect(evaluated(.of(.cpuRatio, atMost: 1.1)).reached == true)
        let peer = evaluated(.of(.cpuRatio, to: "nio", atMost: 0.55))
        #expect(peer.measured == 0.4 && peer.reached == true)
        let missing = evaluated(.of(.cpuRatio, to: "libuv", atMost: 0.55))
        #expect(missing.measured == nil && missing.reached == nil)
    }
}

/// A hundred operations in a second.
func measurement(cpu perOperation: UInt64, latency: Latency? = nil) -> Measurement {
    Measurement(
        operations: 100, seconds: 1, cpuNanoseconds: 100 * perOperation, voluntarySwitches: 0, involuntarySwitches: 0,
        latency: latency)
}

func row(_ id: String, _ role: Row.Role, _ rounds: [Measurement?]) -> Results.RowResult {
    var row = Results.RowResult(id: id, title: id, role: role)
    row.rounds = rounds
    return row
}
