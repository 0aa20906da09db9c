/// What a guard found: a count or a ratio of counts, never a time.
struct Finding {
    var name: String
    var measured: String
    var bound: String
    var verdict: Verdict

    enum Verdict {
        case kept
        case broken(String)
        /// It could not be found out here; the text says what is missing.
        case unknown(String)
    }

    var text: String {
        let figures = measured.isEmpty ? "" : ": \(measured) (\(bound))"
        return switch verdict {
        case .kept: "kept         \(name)\(figures)"
        case .broken(let why): "BROKEN       \(name)\(figures)\(why.isEmpty ? "" : ". \(why)")"
        case .unknown(let why): "not checked  \(name): \(why)"
        }
    }

    var isBroken: Bool { if case .broken = verdict { true } else { false } }
}
