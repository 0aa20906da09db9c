/// Lines over two axes, as an SVG.
struct Plot {
    struct Line {
        var style: Contestant
        var points: [(x: Double, y: Double)]
        var hasMarks: Bool
        /// From the least to the greatest at each point, drawn as a bar.
        var bars: [(x: Double, low: Double, high: Double)] = []
    }

    static let width = 460.0
    static let height = 280.0
    static let left = 58.0
    static let right = 448.0
    static let top = 12.0
    static let bottom = 234.0

    var horizontal: Axis
    var vertical: Axis
    var horizontalTicks: [(value: Double, text: String)] = []
    var verticalTicks: [(value: Double, text: String)] = []
    var horizontalTitle = ""
    var lines: [Line] = []

    init(horizontal: Axis, vertical: Axis) {
        self.horizontal = horizontal
        self.vertical = vertical
    }

    /// - Parameter label: what the plot shows, for those who do not see it.
    func svg(label: String) -> String {
        var parts = [
            "<svg class=\"plot\" viewBox=\"0 0 \(coordinate(Self.width)) \(coordinate(Self.height))\" role=\"img\" "
                + "aria-label=\"\(escaped(label))\">"
        ]
        for tick in verticalTicks {
            let y = coordinate(vertical.position(tick.value))
            parts.append(
                "<path class=\"grid\" d=\"M\(coordinate(Self.left)) \(y)H\(coordinate(Self.right))\"/>"
                    + "<text class=\"tick end\" x=\"\(coordinate(Self.left - 7))\" y=\"\(y)\" dy=\".35em\">"
                    + "\(escaped(tick.text))</text>")
        }
        for tick in horizontalTicks {
            let x = coordinate(horizontal.position(tick.value))
            let anchor = horizontal.position(tick.value) > Self.right - 20 ? "end" : "middle"
            parts.append(
                "<path class=\"grid\" d=\"M\(x) \(coordinate(Self.top))V\(coordinate(Self.bottom))\"/>"
                    + "<text class=\"tick \(anchor)\" x=\"\(x)\" y=\"\(coordinate(Self.bottom + 18))\">"
                    + "\(escaped(tick.text))</text>")
        }
        parts.append(
            "<path class=\"axis\" d=\"M\(coordinate(Self.left)) \(coordinate(Self.top))V\(coordinate(Self.bottom))"
                + "H\(coordinate(Self.right))\"/>"
                + "<text class=\"tick middle\" x=\"\(coordinate((Self.left + Self.right) / 2))\" "
                + "y=\"\(coordinate(Self.height - 8))\">\(escaped(horizontalTitle))</text>")
        // The library's last, on top.
        for line in lines.reversed() {
            parts.append(draw(line))
        }
        parts.append("</svg>")
        return parts.joined()
    }

    private func draw(_ line: Line) -> String {
        let places = line.points.map { (coordinate(horizontal.position($0.x)), coordinate(vertical.position($0.y))) }
        let path = places.enumerated().map { "\($0 == 0 ? "M" : "L")\($1.0) \($1.1)" }.joined()
        let dashes = line.style.dashes.isEmpty ? "" : " stroke-dasharray=\"\(line.style.dashes)\""
        var text = "<g class=\"\(line.style.style)\"><path class=\"line\"\(dashes) d=\"\(path)\"/>"
        for bar in line.bars where bar.high > bar.low {
            text +=
                "<path class=\"whisker\" d=\"M\(coordinate(horizontal.position(bar.x))) "
                + "\(coordinate(vertical.position(bar.low)))V\(coordinate(vertical.position(bar.high)))\"/>"
        }
        if line.hasMarks {
            text += places.map { "<circle class=\"mark\" cx=\"\($0.0)\" cy=\"\($0.1)\" r=\"3.5\"/>" }.joined()
        }
        return text + "</g>"
    }

    /// What the lines of a plot stand for.
    static func legend(_ entries: [(title: String, contestant: Contestant)]) -> String {
        let items = entries.map { entry in
            let dashes = entry.contestant.dashes.isEmpty ? "" : " stroke-dasharray=\"\(entry.contestant.dashes)\""
            return "<li class=\"\(entry.contestant.style)\"><svg viewBox=\"0 0 28 10\" aria-hidden=\"true\">"
                + "<path class=\"line\"\(dashes) d=\"M0 5H28\"/></svg>\(escaped(entry.title))</li>"
        }
        return "<ul class=\"legend\">\(items.joined())</ul>"
    }
}
