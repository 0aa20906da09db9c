import IOCP

/// Finds commands in what has been received: arrays of bulk strings, or lines of words ("inline commands").
struct RequestParser {
    /// Limits on what a client can make the server hold.
    struct Limits: Sendable {
        /// Bytes of one argument.
        var bulk = 64 << 20
        /// Arguments of one command.
        var arguments = 1 << 20
        /// Bytes of an inline command, or of a line that says a length.
        var line = 64 << 10
        /// Bytes of one command.
        var command: Int { bulk + (1 << 20) }
    }

    enum Outcome: Equatable {
        /// Its arguments are in ``arguments``; the next command begins at that offset.
        case command(end: Int)
        case incomplete
        /// Where the next command begins is not known any more.
        case failure(String)
    }

    let limits: Limits
    /// Where the arguments of the last command lie in the buffer. Kept, so that its memory is used again.
    private(set) var arguments: [Range<Int>] = []

    init(limits: Limits) {
        self.limits = limits
    }

    private static let carriageReturn = UInt8(ascii: "\r")
    private static let lineFeed = UInt8(ascii: "\n")

    /// Looks for a command at the beginning of a range. An empty one is a command without arguments.
    mutating func parse(_ buffer: IOBuffer, _ range: Range<Int>) -> Outcome {
        arguments.removeAll(keepingCapacity: true)
        if range.isEmpty { return .incomplete }
        let outcome =
            buffer[range.lowerBound] == UInt8(ascii: "*") ? parseArray(buffer, range) : parseInline(buffer, range)
        if outcome == .incomplete, range.count > limits.command { return .failure("Protocol error: too big request") }
        return outcome
    }

    private mutating func parseInline(_ buffer: IOBuffer, _ range: Range<Int>) -> Outcome {
        guard let line = line(buffer, range) else {
            return range.count > limits.line ? .failure("Protocol error: too big inline request") : .incomplete
        }
        // Quotes mean nothing here: a value with spaces in it is sent as an array.
        var start = line.content.lowerBound
        for index in line.content.lowerBound...line.content.upperBound {
            let isEnd = index == line.content.upperBound || buffer[index] == 32 || buffer[index] == 9
            guard isEnd else { continue }
            if index > start { arguments.append(start..<index) }
            start = index + 1
        }
        return .command(end: line.end)
    }

    private mutating func parseArray(_ buffer: IOBuffer, _ range: Range<Int>) -> Outcome {
        guard let header = line(buffer, range) else {
            return range.count > limits.line ? .failure("Protocol error: too big mbulk count string") : .incomplete
        }
        guard let count = number(buffer, header.content.dropFirst()), count <= limits.arguments else {
            return .failure("Protocol error: invalid multibulk length")
        }
        var position = header.end
        var left = count
        while left > 0 {
            if position == range.upperBound { return .incomplete }
            guard buffer[position] == UInt8(ascii: "$") else {
                return .failure("Protocol error: expected '$', got '\(printable(buffer[position]))'")
            }
            guard let header = line(buffer, position..<range.upperBound) else {
                return range.upperBound - position > limits.line
                    ? .failure("Protocol error: too big bulk count string") : .incomplete
            }
            guard let length = number(buffer, header.content.dropFirst()), length >= 0, length <= limits.bulk else {
                return .failure("Protocol error: invalid bulk length")
            }
            let end = header.end + length
            guard end + 2 <= range.upperBound else { return .incomplete }
            guard buffer[end] == Self.carriageReturn, buffer[end + 1] == Self.lineFeed else {
                return .failure("Protocol error: a bulk string does not end where its length says")
            }
            arguments.append(header.end..<end)
            position = end + 2
            left -= 1
        }
        return .command(end: position)
    }

    /// The line at the beginning of a range, if its end has come: its content and where the next one begins.
    private func line(_ buffer: IOBuffer, _ range: Range<Int>) -> (content: Range<Int>, end: Int)? {
        let visible = range.prefix(limits.line)
        let found = unsafe buffer.withBytes(visible) { unsafe $0.firstIndex(of: Self.lineFeed) }
        guard let found else { return nil }
        let newline = range.lowerBound + found
        let hasReturn = newline > range.lowerBound && buffer[newline - 1] == Self.carriageReturn
        return (range.lowerBound..<(hasReturn ? newline - 1 : newline), newline + 1)
    }

    private func number(_ buffer: IOBuffer, _ digits: Range<Int>) -> Int? {
        guard let first = digits.first else { return nil }
        let isNegative = buffer[first] == UInt8(ascii: "-")
        let magnitude = isNegative ? digits.dropFirst() : digits
        // Far beyond every limit, and far from overflow.
        guard !magnitude.isEmpty, magnitude.count <= 15 else { return nil }
        var value = 0
        for index in magnitude {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(buffer[index]) else { return nil }
            value = value * 10 + Int(buffer[index] - UInt8(ascii: "0"))
        }
        return isNegative ? -value : value
    }

    private func printable(_ byte: UInt8) -> Character {
        (33...126).contains(byte) ? Character(UnicodeScalar(byte)) : "?"
    }
}
