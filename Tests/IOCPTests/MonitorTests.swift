import Glibc
import Synchronization
import Testing

@testable import IOCP

/// When the monitor looks, and when dequeuing threads spare it that.
@Suite("The monitor's looks")
struct MonitorTests {
    /// One thread that leaves something behind and stays away, among others that come and go, in virtual time.
    private struct Course {
        static let interval: Int64 = 5_000_000
        var random: SplitMix
        var clock = TickClock()
        var putOffs = 0
        var looks = 0

        init(seed: UInt64) { random = SplitMix(state: seed) }

        private mutating func between(_ range: ClosedRange<Int64>) -> Int64 { .random(in: range, using: &random) }

        /// How long what the thread left behind waits for a look that finds the thread away.
        mutating func delay() -> Int64 {
            var now: Int64 = 0
            var sight = 0
            var question: Int64 = 0
            // The thread enters the kernel when it comes by.
            var (lastVisit, entries, entriesAtSight) = (-1, 0, -1)
            var nextVisit = between(0...Self.interval)
            let last = between(0...20 * Self.interval)
            var left: Int64?
            let (slowest, pace) = (between(1000...2 * Self.interval), between(1...4))
            clock.start(at: now, every: Self.interval)
            while true {
                now += between(1...max(1, slowest / pace))
                while now >= clock.next {
                    // Late, as threads are.
                    let time = clock.next
                    visit(until: time)
                    looks += 1
                    if let left, entries == entriesAtSight { return time - left }
                    (sight, entriesAtSight) = (sight + 1, entries)
                    clock.looked(at: time, pause: Self.interval, every: Self.interval, foundTrouble: false)
                    question = clock.nextQuestion(every: Self.interval)
                }
                visit(until: now)
                // Another thread comes by.
                guard now >= question else { continue }
                question = now + Self.interval / 4
                guard lastVisit == sight else { continue }
                (sight, entriesAtSight) = (sight + 1, entries)
                if clock.allCameBy(at: now, every: Self.interval) { putOffs += 1 }
                question = clock.nextQuestion(every: Self.interval)
            }
            func visit(until time: Int64) {
                while left == nil, nextVisit <= time {
                    (lastVisit, entries) = (sight, entries + 1)
                    if nextVisit >= last { left = nextVisit }
                    nextVisit += between(1...Self.interval / 2)
                }
            }
        }
    }

    @Test("what a thread leaves behind is found within two intervals, however others put looks off")
    func bound() {
        var (worst, putOffs, looks): (Int64, Int, Int) = (0, 0, 0)
        for seed in 0..<10_000 as Range<UInt64> {
            var course = Course(seed: seed)
            let delay = course.delay()
            if delay > 2 * Course.interval { Issue.record("seed \(seed): \(delay) ns") }
            worst = max(worst, delay)
            putOffs += course.putOffs
            looks += course.looks
        }
        // It was put to the test: looks were put off, and some of what was left waited for long.
        #expect(putOffs > looks && worst > Course.interval * 3 / 2, "\(putOffs) put off, \(looks) looks, \(worst) ns")
    }

    @Test("no look is put off for a while after something had to be handed on, nor once the ticks have ended")
    func unrest() {
        let interval: Int64 = 1000
        var clock = TickClock()
        #expect(!clock.isTicking && clock.nextQuestion(every: interval) == .max)
        clock.start(at: 0, every: interval)
        clock.looked(at: 1000, pause: interval, every: interval, foundTrouble: true)
        #expect(clock.next == 2000 && clock.nextQuestion(every: interval) > 30_000)
        let isPutOffInUnrest = clock.allCameBy(at: 1900, every: interval)
        #expect(!isPutOffInUnrest && clock.next == 2000)
        for time in stride(from: 2000, through: 50_000, by: 1000) {
            clock.looked(at: Int64(time), pause: interval, every: interval, foundTrouble: false)
        }
        let isPutOff = clock.allCameBy(at: 50_600, every: interval)
        #expect(isPutOff && clock.next == 51_500)
        clock.stop()
        let isPutOffAtRest = clock.allCameBy(at: 51_000, every: interval)
        #expect(!isPutOffAtRest && !clock.isTicking)
    }

    @Test("a look that is further away than a new port allows comes sooner; one that is not stays")
    func hastened() {
        var clock = TickClock()
        let isHastenedAtRest = clock.hasten(at: 0, every: 1000)
        clock.start(at: 0, every: 1_000_000)
        let isHastened = clock.hasten(at: 10, every: 1000)
        #expect(!isHastenedAtRest && isHastened && clock.next == 1010)
        let isHastenedTwice = clock.hasten(at: 500, every: 1000)
        #expect(!isHastenedTwice && clock.next == 1010)
    }

    @Test("what is deferred on a new port enters the kernel in its time, though others are looked at once a second")
    func hastenedByNewPort() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                var options = CompletionPort.Options()
                options.monitorInterval = .seconds(1)
                let slow = Sending(try CompletionPort(concurrencyLimit: 1, options: options))
                let pair = Sending(try Socket.pair())
                try slow.value.associate(pair.value.0, key: 1)
                let isOver = Atomic<Bool>(false)
                let busy = SideThread {
                    _ = try slow.value.dequeue(timeout: .zero)
                    try pair.value.0.receive(IOCP.Operation(capacity: 1))
                    while !isOver.load(ordering: .relaxed) { sched_yield() }
                    // Nothing is left in flight at the exit.
                    writeRaw("x", to: pair.value.1)
                    _ = try slow.value.next()
                }
                // It has been rung for, and the first look is a second away.
                while Observer.wakeUps.load(ordering: .relaxed) == 0 { sched_yield() }
                let port = try CompletionPort(concurrencyLimit: 1)
                let (left, right) = try Socket.pair()
                try port.associate(left, key: 1)
                _ = try port.dequeue(timeout: .zero)
                let begin = ContinuousClock.now
                try left.send(IOCP.Operation("late"))
                var interest = pollfd(fd: right.file.descriptor, events: Int16(POLLIN), revents: 0)
                try check(poll(&interest, 1, 5000) == 1, "it has not entered the kernel")
                let delay = ContinuousClock.now - begin
                isOver.store(true, ordering: .relaxed)
                try busy.join()
                try check(delay < .milliseconds(500), "\(delay)")
            }
        }
    }

    /// Sees that the monitor sleeps while one goes round by `body`: in half a second of 60, since a loaded machine keeps
    /// the thread from going round.
    private static func checkSleeps(_ body: () throws -> Void) throws {
        var least = Int.max
        for _ in 0..<120 where least >= 10 {
            let end = ContinuousClock.now + .milliseconds(500)
            let before = Observer.wakeUps.load(ordering: .relaxed)
            while ContinuousClock.now < end { try body() }
            least = min(least, Observer.wakeUps.load(ordering: .relaxed) - before)
        }
        // 25 otherwise.
        try check(least < 10, "\(least) looks")
    }

    private static func slowPort() throws -> CompletionPort {
        var options = CompletionPort.Options()
        options.monitorInterval = .milliseconds(20)
        return try CompletionPort(concurrencyLimit: 1, options: options)
    }

    @Test("the monitor sleeps on while threads come and go with operations in flight")
    func sparedByIO() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let port = try MonitorTests.slowPort()
                let (left, right) = try Socket.pair()
                let (quiet, other) = try Socket.pair()
                for socket in [left, right, quiet] { try port.associate(socket, key: 1) }
                try quiet.receive(IOCP.Operation(capacity: 1))
                let (send, receive) = (IOCP.Operation("x"), IOCP.Operation(capacity: 1))
                try MonitorTests.checkSleeps {
                    try left.send(send)
                    try right.receive(receive)
                    for _ in 0..<2 { try check(try port.dequeue() != nil, "no packet") }
                }
                // Nothing is left in flight at the exit.
                writeRaw("x", to: other)
                try check(try port.dequeue() != nil, "no packet")
            }
        }
    }

    @Test("the monitor sleeps on while packets wait for a place whose holder comes and goes")
    func sparedByPosts() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let port = try MonitorTests.slowPort()
                let waiters = (0..<3).map { _ in SideThread { _ = try? port.dequeue() } }
                while try port.statistics.waiting < 3 {}
                _ = try port.dequeue(timeout: .zero)
                for key in 1...8 { try port.post(key: UInt(key)) }
                try MonitorTests.checkSleeps {
                    for _ in 0..<100 {
                        guard let packet = try port.dequeue() else { throw Complaint("no packet") }
                        try port.post(key: packet.key)
                    }
                }
                try check(try port.statistics.waiting == 3, "a waiter ran")
                port.close()
                for waiter in waiters { try waiter.join() }
            }
        }
    }

    /// Sends a byte, and takes packets until it has arrived, whoever takes those. Asking an operation for its status would
    /// do instead of dequeuing.
    private static func goRound(_ port: CompletionPort, _ pair: (Socket, Socket)) throws {
        let (send, receive) = (IOCP.Operation("x"), IOCP.Operation(capacity: 1))
        try pair.0.send(send)
        try pair.1.receive(receive)
        while send.record.pointee.isPending || receive.record.pointee.isPending {
            _ = try port.dequeue(timeout: .zero)
        }
    }

    @Test("what a thread that stays away has deferred enters the kernel while another comes and goes")
    func companion() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                for _ in 0..<3 {
                    let port = try CompletionPort(concurrencyLimit: 2)
                    let pairs = Sending(try (0..<2).map { _ in try Socket.pair() })
                    for socket in [pairs.value[0].0, pairs.value[0].1] { try port.associate(socket, key: 1) }
                    let (left, right) = pairs.value[1]
                    try port.associate(left, key: 2)
                    let isOver = Atomic<Bool>(false)
                    let companion = SideThread {
                        while !isOver.load(ordering: .relaxed) { try MonitorTests.goRound(port, pairs.value[0]) }
                    }
                    // Until it is long since something had to be handed on. Not a start: the port is to know nothing of this
                    // thread's pace.
                    let calm = ContinuousClock.now + .milliseconds(300)
                    while ContinuousClock.now < calm { _ = try port.dequeue(timeout: .milliseconds(1)) }
                    let operation = IOCP.Operation("late")
                    try left.send(operation)
                    // It leaves the processors to the companion and to the monitor.
                    var interest = pollfd(fd: right.file.descriptor, events: Int16(POLLIN), revents: 0)
                    try check(poll(&interest, 1, 5000) == 1, "it has not entered the kernel")
                    while operation.status == .pending { _ = try port.dequeue(timeout: .zero) }
                    isOver.store(true, ordering: .relaxed)
                    try companion.join()
                }
            }
        }
    }
}
