import Glibc
import IOCP
import Synchronization

/// A random mix of everything that the library does, each packet counted: `Soak --minutes 10 --seed 7`.
///
/// It runs in rounds. After each one everything must have ended, and what the process uses must be what it was.
@main
struct Soak {
    /// Rounds, and part of the time, after which the process's use of memory must not grow any more.
    private static let warmUpRounds = 3
    private static let warmUpPart = 0.25

    static func main() {
        let options = Options(CommandLine.arguments)
        prepareSignals()
        say(
            "soak: \(options.seconds) s, seed \(options.seed), sanitizer \(sanitizer ?? "none"), "
                + "\(sysconf(Int32(_SC_NPROCESSORS_ONLN))) processors")
        let watchdog = Watchdog()
        var chance = Chance(options.seed)
        var first: Usage?
        var last = Usage()
        let start = now()
        let end = start + Double(options.seconds)
        var round = 0
        while (now() < end || first == nil) && !Ledger.hasFailed {
            round += 1
            let length = Double(chance.between(1000...8000)) / 1000
            let longest = round <= warmUpRounds ? Double(options.seconds) / 8 : max(1, end - now())
            play(&chance, until: now() + min(length, longest), watchdog)
            Usage.trim()
            last = settledUsage(like: first)
            check(last, after: first)
            if first == nil, round >= warmUpRounds, now() - start > warmUpPart * Double(options.seconds) {
                first = last
            }
        }
        watchdog.stop()
        summarize(options, rounds: round, first, last, seconds: now() - start)
        exit(Ledger.hasFailed ? 1 : 0)
    }

    private static func play(_ chance: inout Chance, until end: Double, _ watchdog: Watchdog) {
        let worker = Worker(chance.next())
        do {
            let stage = try Stage(&chance)
            watchdog.watch(stage)
            defer { watchdog.watch(nil) }
            var disturber = Disturber(stage, worker)
            disturber.go(until: end)
            try stage.end(worker)
        } catch let stuck as Stuck {
            Ledger.fail("waited in vain until \(stuck.what)")
            for detail in stuck.details.prefix(20) { say("  \(detail)") }
            for line in KernelView.lines { say("  \(line)") }
        } catch {
            Ledger.fail("a round failed: \(error)")
        }
    }

    /// What is used once what was let go of last is gone: threads that were joined are still leaving the kernel, and the
    /// library's own thread may hold a port for a look at it.
    private static func settledUsage(like before: Usage?) -> Usage {
        let end = now() + 10
        while true {
            let usage = Usage.now
            guard let before, now() < end, !Ledger.hasFailed,
                usage.descriptors != before.descriptors || usage.threads != before.threads
            else { return usage }
            usleep(10_000)
        }
    }

    /// After a round nothing is left.
    private static func check(_ after: Usage, after before: Usage?) {
        if Ledger.hasFailed { return }
        for imbalance in Ledger.imbalances() { Ledger.fail(imbalance) }
        guard let before else { return }
        if after.descriptors != before.descriptors {
            Ledger.fail("descriptors: \(after.descriptors), \(before.descriptors) after the warm-up")
            for line in Usage.everyDescriptor { say("  descriptor \(line)") }
        }
        if after.threads != before.threads {
            Ledger.fail("threads: \(after.threads), \(before.threads) after the warm-up")
        }
        // What a heap that is shared by many threads keeps varies; a leak of one operation for each thousand starts, or
        // of a port for each round, goes beyond it within minutes.
        let tolerance = sanitizer == nil ? 24 << 10 : before.residentKiB / 3
        if after.residentKiB > before.residentKiB + tolerance {
            Ledger.fail(
                "resident memory: \(after.residentKiB) KiB, \(before.residentKiB) after the warm-up; "
                    + "tolerated are \(tolerance) more")
        }
    }

    private static func summarize(_ options: Options, rounds: Int, _ first: Usage?, _ last: Usage, seconds: Double) {
        say("soak: \(rounds) rounds in \(Int(seconds)) s")
        for tally in Tally.allCases where Ledger.count(tally) > 0 { say("  \(Ledger.count(tally)) \(tally.name)") }
        if let first {
            say(
                "  resident \(first.residentKiB) KiB after the warm-up, \(last.residentKiB) at the end; descriptors "
                    + "\(first.descriptors) and \(last.descriptors); threads \(first.threads) and \(last.threads)")
        }
        for failure in Ledger.everyFailure { say("FAILED: \(failure)") }
        if Ledger.hasFailed { say("soak failed with seed \(options.seed)") } else { say("soak passed") }
    }

    /// Signals that interrupt what does not restart by itself.
    private static func prepareSignals() {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in }
        sigaction(SIGUSR1, &action, nil)
    }
}

struct Options {
    var seconds = 20
    var seed = UInt64(now() * 1e6)

    init(_ arguments: [String]) {
        var rest = arguments.dropFirst()
        while let name = rest.popFirst() {
            guard let value = rest.popFirst() else { Self.refuse("\(name) needs a value") }
            switch (name, Double(value), UInt64(value)) {
            case ("--minutes", let minutes?, _) where minutes > 0: seconds = max(1, Int(minutes * 60))
            case ("--seconds", let seconds?, _) where seconds > 0: self.seconds = max(1, Int(seconds))
            case ("--seed", _, let seed?): self.seed = seed
            default: Self.refuse("\(name) \(value) is not understood")
            }
        }
    }

    private static func refuse(_ why: String) -> Never {
        say("soak: \(why)\nusage: Soak [--minutes M | --seconds S] [--seed N]")
        exit(2)
    }
}

/// Prints how it goes, and turns a hang into a failure.
final class Watchdog: Sendable {
    private let stage: Locked<Stage?> = Locked(nil)
    private let isOver = Locked(false)

    init() {
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { argument in
                Unmanaged<Watchdog>.fromOpaque(argument!).takeRetainedValue().run()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        pthread_detach(thread)
    }

    func watch(_ stage: Stage?) { self.stage.withLock { $0 = stage } }
    func stop() { isOver.withLock { $0 = true } }

    private func run() {
        let start = now()
        let patience: Double = sanitizer == nil ? 60 : 180
        var lastLine = start
        var lastProgress = start
        var before = -1
        while !isOver.withLock({ $0 }) {
            usleep(200_000)
            let moved = Ledger.count(.packets) + Ledger.count(.postPackets) + Ledger.count(.ports)
            if moved != before { lastProgress = now() }
            before = moved
            if now() - lastLine >= 10 {
                lastLine += 10
                var usage = Usage.now
                // It takes a descriptor to see.
                while usage.descriptors < 0 {
                    usleep(1000)
                    usage = .now
                }
                say(
                    "soak: \(Int(now() - start)) s, \(Ledger.count(.starts)) starts, \(Ledger.count(.packets)) packets, "
                        + "\(Ledger.count(.postPackets)) posts, \(Ledger.count(.bytes) >> 20) MiB, "
                        + "\(Ledger.count(.connections)) connections, \(usage.residentKiB >> 10) MiB resident, "
                        + "\(usage.descriptors) descriptors, \(usage.threads) threads")
            }
            if now() - lastProgress > patience {
                say("FAILED: nothing has moved for \(Int(patience)) s")
                for line in stage.withLock({ $0?.report ?? [] }) { say("  \(line)") }
                for line in KernelView.lines { say("  \(line)") }
                for failure in Ledger.everyFailure { say("FAILED: \(failure)") }
                say("soak failed: see the first line for its seed")
                exit(1)
            }
        }
    }
}
