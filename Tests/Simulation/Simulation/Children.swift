import CSimulation
import Glibc

/// Prepares this process for runs: the library's own thread is started, so that the first run is like every other.
private func prepare() {
    world = World()
    installStandIn()
    world.begin(seed: 0, faults: Faults(), switchRate: 0)
    var empty = Scenario(seed: 0)
    empty.threads = []
    empty.operations = []
    empty.closesEarly = nil
    Run(empty).perform()
}

private func perform(_ scenario: Scenario) {
    report.seed = scenario.seed
    world.trace.begin()
    world.begin(seed: scenario.seed, faults: scenario.faults, switchRate: scenario.switchRate)
    Run(scenario).perform()
    report.count(.seeds)
}

private func explain(_ status: Int32) -> String? {
    switch status {
    case 0: nil
    case 1: report.failure ?? "it failed without a word"
    case 1000...: report.failure ?? "it was ended by signal \(status - 1000)"
    default: "it exited with \(status)"
    }
}

/// One scenario in a process of its own.
struct Child {
    let scenario: Scenario
    var traces = false
    var tracesAll = false
    /// No run takes nearly as long.
    private static let patience = 20

    init(_ scenario: Scenario, traces: Bool = false, tracesAll: Bool = false) {
        self.tracesAll = tracesAll
        self.scenario = scenario
        self.traces = traces
    }

    /// Nil if it passes, else what failed.
    func outcome() -> String? {
        report.clear()
        fflush(nil)
        let pid = sim_fork()
        if pid == 0 {
            alarm(UInt32(Self.patience))
            if !traces { silence() }
            prepare()
            world.trace.isOn = traces
            if tracesAll { world.trace.most = 1_000_000 }
            perform(scenario)
            world.trace.finish()
            _exit(0)
        }
        var status: Int32 = 0
        while sim_reap(pid, true, &status) == 0 {}
        return explain(status)
    }
}

/// What a crash says is said once, by the last, traced run.
private func silence() {
    let nowhere = open("/dev/null", O_WRONLY)
    dup2(nowhere, 2)
}

/// Runs every `stride`-th of `count` seeds in a process. Returns its id.
private func startWorker(_ first: UInt64, _ count: Int, offset: Int, stride: Int, _ shared: Report) -> Int32 {
    fflush(nil)
    let pid = sim_fork()
    guard pid == 0 else { return pid }
    report = shared
    silence()
    prepare()
    var index = offset
    while index < count {
        alarm(20)
        perform(Scenario(seed: first &+ UInt64(index)))
        index += stride
    }
    _exit(0)
}

/// Runs so many seeds, and shrinks the first one found that fails. Returns whether all passed.
func simulate(_ count: Int, from first: UInt64) -> Bool {
    let processes = max(1, min(sysconf(Int32(_SC_NPROCESSORS_ONLN)), max(1, count / 50)))
    let begin = clock()
    let reports = (0..<processes).map { _ in Report() }
    var workers = (0..<processes).map {
        startWorker(first, count, offset: $0, stride: processes, reports[$0])
    }
    var failed: [(seed: UInt64, text: String)] = []
    while workers.contains(where: { $0 != 0 }) {
        for index in 0..<processes where workers[index] != 0 {
            var status: Int32 = 0
            guard sim_reap(workers[index], false, &status) == 1 else { continue }
            workers[index] = 0
            if status != 0 {
                report = reports[index]
                failed.append((report.seed, explain(status)!))
                for other in 0..<processes where workers[other] != 0 { kill(workers[other], SIGKILL) }
            }
        }
        usleep(10_000)
    }
    _ = begin
    failed.removeAll { $0.text.contains("signal \(SIGKILL)") }
    for counter in Report.Counter.allCases {
        let total = reports.reduce(0) { $0 + $1.total(counter) }
        print("\(String(repeating: " ", count: max(0, 12 - String(total).count)))\(total) \(counter.text)")
        if failed.isEmpty, count >= 10_000, total == 0 { failed.append((first, "too tame: no \(counter.text)")) }
    }
    guard let worst = failed.min(by: { $0.seed < $1.seed }) else {
        print("\(count) seeds from \(first) passed")
        return true
    }
    report = Report()
    print("seed \(worst.seed) fails: \(worst.text)")
    shrink(Scenario(seed: worst.seed))
    return false
}

/// Makes each error on purpose and sees that it is found within a bounded number of seeds.
func prove() -> Bool {
    let bound = 1000
    var isProven = true
    for sabotage in Sabotage.allCases {
        Sabotage.now = sabotage
        report = Report()
        let pid = startWorker(1, bound, offset: 0, stride: 1, report)
        var status: Int32 = 0
        while sim_reap(pid, true, &status) == 0 {}
        if let text = explain(status) {
            print("\(sabotage.rawValue): found by seed \(report.seed): \(text)")
        } else {
            print("\(sabotage.rawValue): NOT FOUND by \(bound) seeds")
            isProven = false
        }
    }
    return isProven
}
