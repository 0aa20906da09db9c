/// Makes a scenario that fails smaller, while it still fails, and shows the last run.
func shrink(_ scenario: Scenario) {
    var best = scenario
    guard Child(best).outcome() != nil else {
        print("alone it passes: the process's earlier runs matter; that is an error of the simulator")
        return
    }
    var tries = 0
    func isBetter(_ candidate: Scenario) -> Bool {
        guard candidate.size < best.size, tries < 2000 else { return false }
        // A smaller scenario is another run: a few seeds each for its luck.
        for attempt in 0..<8 as Range<UInt64> {
            tries += 1
            var candidate = candidate
            candidate.seed = scenario.seed &+ attempt &* 1_000_003
            if Child(candidate).outcome() != nil {
                best = candidate
                return true
            }
        }
        return false
    }
    var goesOn = true
    while goesOn {
        goesOn = false
        for candidate in best.smaller() where isBetter(candidate) {
            goesOn = true
            break
        }
    }
    print("shrunk from \(scenario.size) to \(best.size) in \(tries) runs:")
    print(best.text)
    print("the last of it:")
    let failure = Child(best, traces: true).outcome()
    print("it fails: \(failure ?? "not any more")")
}

extension Scenario {
    /// Ways to make it smaller, the boldest first.
    func smaller() -> [Scenario] {
        var found: [Scenario] = []
        func with(_ change: (inout Scenario) -> Void) {
            var copy = self
            change(&copy)
            found.append(copy)
        }
        for index in threads.indices.reversed() {
            // Each port keeps its server.
            if index < limits.count { with { $0.threads[index].steps = [] } } else { with { $0.remove(thread: index) } }
        }
        for index in threads.indices where threads[index].steps.count > 3 {
            let half = threads[index].steps.count / 2
            with { $0.threads[index].steps.removeFirst(half) }
            with { $0.threads[index].steps.removeLast(half) }
        }
        if faults != Faults() {
            with {
                $0.faults = Faults()
                $0.faults.immediateRequests = 0
            }
        }
        for rate in Faults.rates where faults[keyPath: rate] != 0 { with { $0.faults[keyPath: rate] = 0 } }
        if closesEarly != nil { with { $0.closesEarly = nil } }
        for index in threads.indices {
            for step in threads[index].steps.indices { with { $0.threads[index].steps.remove(at: step) } }
        }
        for index in operations.indices where operations[index].restarts > 0 {
            with { $0.operations[index].restarts = 0 }
        }
        for index in threads.indices where index >= limits.count && threads[index].serves != nil {
            // Not smaller by itself, but often a step on the way.
            if threads[index].steps.isEmpty { with { $0.remove(thread: index) } }
        }
        return found
    }

    private mutating func remove(thread index: Int) {
        threads.remove(at: index)
        let count = threads.count
        for other in threads.indices {
            threads[other].steps.removeAll { step in
                if case .queueCall(let thread) = step { return thread >= count }
                return false
            }
        }
    }
}
