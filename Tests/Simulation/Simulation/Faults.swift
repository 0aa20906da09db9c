/// How often the virtual kernel is unkind, out of a thousand times each.
struct Faults: Equatable {
    /// An entry into a ring is refused: EINTR, EAGAIN, EBUSY, ENOMEM.
    var refusals = 0
    /// A submit takes only some of the entries.
    var shortSubmits = 0
    /// A sleep is ended by a signal.
    var signals = 0
    /// A message to another ring finds no memory.
    var lostMessages = 0
    /// A request fails: EIO, ECONNRESET.
    var failures = 0
    /// A request ends with EINTR or EAGAIN, to be tried again.
    var retries = 0
    /// A request moves less than was asked for.
    var shortResults = 0
    /// A cancel finds the request being carried out.
    var busyCancels = 0
    /// A request takes long, or until it is cancelled.
    var longRequests = 0
    var endlessRequests = 0
    /// A request is complete when the entry that submits it returns.
    var immediateRequests = 300

    static func random(_ random: inout Random) -> Faults {
        func rate(_ most: Int) -> Int { random.chance(500) ? random.below(most) : 0 }
        var faults = Faults()
        // Now and then so many that entries find no room in the ring either.
        faults.refusals = random.chance(100) ? 700 : rate(200)
        faults.shortSubmits = rate(300)
        faults.signals = rate(200)
        faults.lostMessages = rate(100)
        faults.failures = rate(100)
        faults.retries = rate(200)
        faults.shortResults = rate(300)
        faults.busyCancels = rate(200)
        faults.longRequests = rate(200)
        faults.endlessRequests = rate(100)
        faults.immediateRequests = random.below(900)
        return faults
    }

    nonisolated(unsafe) static let rates: [WritableKeyPath<Faults, Int>] = [
        \.refusals, \.shortSubmits, \.signals, \.lostMessages, \.failures, \.retries, \.shortResults, \.busyCancels,
        \.longRequests, \.endlessRequests, \.immediateRequests,
    ]

    var text: String {
        "refusals \(refusals), short submits \(shortSubmits), signals \(signals), lost messages \(lostMessages), "
            + "failures \(failures), retries \(retries), short results \(shortResults), busy cancels \(busyCancels), "
            + "long \(longRequests), endless \(endlessRequests), immediate \(immediateRequests)"
    }

    var delayEverything: Bool { refusals > 0 || shortSubmits > 0 || signals > 0 || lostMessages > 0 }
}
