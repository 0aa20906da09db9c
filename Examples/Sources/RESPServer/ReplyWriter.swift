import IOCP

/// Collects replies until they are sent together.
struct ReplyWriter {
    /// Grows with the replies, and becomes small again after a large one.
    private(set) var buffer = IOBuffer(capacity: Self.usualCapacity)
    private(set) var count = 0

    private static let usualCapacity = 16 << 10

    mutating func removeAll() {
        count = 0
        if buffer.capacity > 16 * Self.usualCapacity { buffer = IOBuffer(capacity: Self.usualCapacity) }
    }

    /// `+OK`
    mutating func status(_ text: StaticString) {
        append("+")
        append(text)
        append("\r\n")
    }

    /// `-ERR …`, on one line whatever a client has put into the text.
    mutating func error(_ text: String) {
        append("-ERR ")
        append(text.utf8.map { $0 < 32 ? UInt8(ascii: " ") : $0 })
        append("\r\n")
    }

    /// `:1000`
    mutating func integer(_ value: Int64) {
        append(":")
        append(decimal: value)
    }

    /// `$5 hello`
    mutating func bulk(_ value: Bytes) {
        header("$", value.count)
        append(value)
        append("\r\n")
    }

    /// The same, from a received command.
    mutating func bulk(_ source: IOBuffer, _ range: Range<Int>) {
        header("$", range.count)
        reserve(range.count)
        source.withSpan(range) { _ = buffer.copy(from: $0, at: count) }
        count += range.count
        append("\r\n")
    }

    /// `$-1`: there is no such value.
    mutating func null() { append("$-1\r\n") }

    /// `*2`: that many replies follow as one.
    mutating func array(_ count: Int) { header("*", count) }

    private mutating func header(_ type: StaticString, _ count: Int) {
        append(type)
        append(decimal: Int64(count))
    }

    private mutating func append(decimal value: Int64) {
        // Up to 15 digits are no allocation.
        append(String(value).utf8)
        append("\r\n")
    }

    private mutating func append(_ text: StaticString) {
        unsafe append(UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    private mutating func append(_ bytes: some Collection<UInt8>) {
        reserve(bytes.count)
        count = buffer.copy(from: bytes, at: count).upperBound
    }

    private mutating func reserve(_ more: Int) {
        guard count + more > buffer.capacity else { return }
        let larger = IOBuffer(capacity: max(count + more, 2 * buffer.capacity))
        buffer.withSpan(0..<count) { _ = larger.copy(from: $0) }
        buffer = larger
    }
}
