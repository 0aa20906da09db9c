/// A named group of cases. To add a suite, add a value to `Suite.all`; to add a row (a peer), add it to its cases.
struct Suite: Sendable {
    var name: String
    var summary: String
    /// Length of the measured window of a row unless the user says otherwise.
    var seconds: Double
    var cases: [Case]
    /// Whether it runs when the user names no suite.
    var runsUnasked = true

    static let all: [Suite] = [echo, file, post, scale, schedule, faces, ways]

    /// The cases of all suites.
    static var allCases: [Case] { all.flatMap(\.cases) }
}

/// The same work for several rows, which run interleaved.
struct Case: Sendable {
    /// Suite and case, as in `echo/64B-c64`.
    var id: String
    var title: String
    /// What operations are called, in the plural.
    var operations: String
    /// What the load generator sends; nil for cases without one.
    var traffic: Traffic?
    /// Length of the window, if it is not the suite's.
    var seconds: Double?
    /// Rounds, if not as many as of other cases.
    var roundsAtMost: Int?
    /// Whether it runs when the user names neither it nor its suite.
    var runsUnasked = true
    /// The curve that the case is a point of; nil if it stands alone.
    var series: Series?
    var rows: [Row]

    /// A point of a curve over cases whose rows are the same: the report draws one for each row.
    struct Series: Codable, Sendable {
        /// What the curve is of, as in `64 B`: cases with the same name make a curve.
        var name: String
        /// What is varied, in the plural: `connections`.
        var variable: String
        var value: Double
    }

    var reference: Row? { rows.first { $0.role == .reference } }
}

/// One implementation of the work.
struct Row: Sendable {
    var id: String
    var title: String
    var role: Role
    /// Whose way it is; nil for those that are always there.
    var peer: Peer?
    /// Figures to reach, or to be shown.
    var targets: [Target] = []
    var body: Body

    enum Role: String, Codable, Sendable {
        /// The library.
        case subject
        /// What ratios are taken against.
        case reference
        /// Another way to do it without the library.
        case baseline
    }

    /// How it runs. Either way it is a process of its own, so that no row sees another's heap, threads or rings.
    enum Body: Sendable {
        /// Measures itself.
        case work(@Sendable (WorkSettings) throws -> Measurement)
        /// Serves until told to stop, under the load generator. Pinned it has the first processor and the load has the
        /// last; else both may use all.
        case server(workers: Int, isPinned: Bool = false, @Sendable (EchoServerContext) throws -> Void)
        /// The same by a program of its own: one of those that `Peers/` builds, by its path there. Always pinned.
        case program(String)
    }
}

/// What a row without a load generator is told.
struct WorkSettings: Sendable {
    /// Length of the measured window.
    var seconds: Double
    /// How many events to measure, where that and not a time ends the window.
    var events: Int
    /// The benchmark's file, of whole blocks.
    var file: String
    var fileBytes: UInt64
    /// For a copy of it; the harness removes it.
    var copy: String

    var nanoseconds: UInt64 { UInt64(seconds * 1e9) }
}

/// What the load generator does.
struct Traffic: Sendable {
    var connections: Int
    var bytes: Int
    /// Messages under way on each connection.
    var depth: Int
    /// Connections beside these that send nothing.
    var idle = 0
}
