import Glibc

/// Text as HTML text, or as the value of an attribute in double quotes.
func escaped(_ text: String) -> String {
    var result = ""
    result.reserveCapacity(text.utf8.count)
    for character in text {
        switch character {
        case "&": result += "&amp;"
        case "<": result += "&lt;"
        case ">": result += "&gt;"
        case "\"": result += "&quot;"
        default: result.append(character)
        }
    }
    return result
}

/// A position or length in a drawing.
func coordinate(_ value: Double) -> String { Table.fixed(value, 1) }

/// A scale of a plot, from values to positions.
struct Axis {
    enum Kind {
        case linear
        case logarithmic
    }

    var kind: Kind
    var values: ClosedRange<Double>
    /// Where the least and the greatest value lie; either may be the larger number.
    var from: Double
    var to: Double

    private func place(_ value: Double) -> Double { kind == .linear ? value : log10(max(value, .leastNormalMagnitude)) }

    func position(_ value: Double) -> Double {
        let (low, high) = (place(values.lowerBound), place(values.upperBound))
        guard high > low else { return from }
        return from + (place(min(max(value, values.lowerBound), values.upperBound)) - low) / (high - low) * (to - from)
    }

    /// Values to be marked: round ones, at least two.
    var ticks: [Double] { kind == .linear ? linearTicks : logarithmicTicks }

    private var linearTicks: [Double] {
        let span = values.upperBound - values.lowerBound
        guard span > 0 else { return [values.lowerBound] }
        var step = pow(10, floor(log10(span)))
        while span / step > 5 { step *= 2 }
        while span / step < 3 { step /= 2 }
        var ticks: [Double] = []
        var tick = ceil(values.lowerBound / step) * step
        while tick <= values.upperBound + step * 1e-9 {
            ticks.append(tick)
            tick += step
        }
        return ticks
    }

    private var logarithmicTicks: [Double] {
        for digits in [[1.0], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7]] {
            var ticks: [Double] = []
            var decade = pow(10, floor(log10(values.lowerBound)))
            while decade <= values.upperBound {
                ticks += digits.map { $0 * decade }.filter { values.contains($0) }
                decade *= 10
            }
            if ticks.count >= 3 { return ticks }
        }
        return [values.lowerBound, values.upperBound]
    }

    /// The range that holds all the values, a little wider at both ends; nil without any.
    static func range(_ values: [Double], _ kind: Kind) -> ClosedRange<Double>? {
        guard let least = values.min(), let greatest = values.max() else { return nil }
        return kind == .linear ? 0...max(greatest * 1.06, 1e-9) : (least / 1.15)...(greatest * 1.15)
    }
}
