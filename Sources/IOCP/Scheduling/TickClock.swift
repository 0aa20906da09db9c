/// When the monitor looks next, and when it need not yet because everybody has come by.
///
/// Pure: no clock, no lock. Times in nanoseconds. Whoever leaves something behind is looked at twice, once to see that it
/// is out and once to see that it has stayed out, no more than two intervals after it left, whether looks are put off or
/// not.
struct TickClock {
    /// The next look; `Int64.max` while there is none.
    private(set) var next: Int64 = .max
    /// When the monitor looked, or everybody was known to have come by since the time before.
    private var lastSight: Int64 = 0
    private var isPutOff = false
    /// No look is put off before, since something had to be handed on not long ago.
    private var unrestEnd: Int64 = 0

    /// Intervals after trouble in which no look is put off: then every one of them counts.
    private static let unrest: Int64 = 40

    var isTicking: Bool { next != .max }

    /// The first time at which it is worth while to ask whether everybody has come by.
    func nextQuestion(every interval: Int64) -> Int64 {
        isTicking ? max(lastSight + interval / 4, unrestEnd) : .max
    }

    mutating func start(at now: Int64, every interval: Int64) {
        next = now + interval
        lastSight = now
        isPutOff = false
    }

    mutating func stop() { next = .max }

    /// Somebody asks for an interval that may be shorter than that of the look to come. Returns whether it is sooner now.
    mutating func hasten(at now: Int64, every interval: Int64) -> Bool {
        guard isTicking, next > now + interval else { return false }
        next = now + interval
        isPutOff = false
        return true
    }

    /// The monitor has looked.
    mutating func looked(at now: Int64, pause: Int64, every interval: Int64, foundTrouble: Bool) {
        // Who left just after everybody was seen is seen to be out for the first time now.
        next = now + (isPutOff ? min(pause, interval / 2) : pause)
        lastSight = now
        isPutOff = false
        if foundTrouble { unrestEnd = now + Self.unrest * interval }
    }

    /// Everybody has come by since the last sight. Returns whether the next look is later now.
    mutating func allCameBy(at now: Int64, every interval: Int64) -> Bool {
        guard isTicking, now >= unrestEnd else { return false }
        let later = lastSight + interval + interval / 2
        lastSight = now
        guard later > next else { return false }
        next = later
        isPutOff = true
        return true
    }
}
