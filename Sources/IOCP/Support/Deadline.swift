internal import CIOCPSupport

/// A point on the monotonic clock, or never.
struct Deadline {
    /// Nanoseconds of CLOCK_MONOTONIC; `Int64.max` is never, `Int64.min` is "do not wait at all".
    let nanoseconds: Int64

    static let never = Deadline(nanoseconds: .max)
    static let immediate = Deadline(nanoseconds: .min)

    var isImmediate: Bool { nanoseconds == .min }

    private init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

    /// The deadline that far from now; nil waits for ever, zero does not read the clock.
    init(after duration: Duration?) throws(PortError) {
        guard let duration else {
            self = .never
            return
        }
        if duration == .zero {
            self = .immediate
            return
        }
        let parts = duration.components
        guard parts.seconds >= 0, parts.attoseconds >= 0 else { throw PortError.negativeDuration }
        let (whole, tooLong) = parts.seconds.multipliedReportingOverflow(by: 1_000_000_000)
        // At least a nanosecond: a positive duration is allowed to sleep.
        let wait = max(1, whole &+ parts.attoseconds / 1_000_000_000)
        let (point, beyond) = iocp_now_ns().addingReportingOverflow(wait)
        nanoseconds = tooLong || beyond || wait < 0 ? .max : point
    }

    /// This one, or the point that far from now if it is sooner.
    func atMost(nanoseconds pause: Int64) -> Deadline {
        Deadline(nanoseconds: min(nanoseconds, iocp_now_ns() + pause))
    }

    /// Nanoseconds left: negative means for ever, zero that it has passed.
    var remaining: Int64 {
        switch nanoseconds {
        case .max: -1
        case .min: 0
        default: max(0, nanoseconds - iocp_now_ns())
        }
    }
}
