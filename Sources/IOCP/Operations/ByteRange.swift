/// The part of an operation's buffer that a start uses, checked.
@safe struct ByteRange {
    let memory: UnsafeMutableRawPointer?
    let count: Int

    /// The range of the operation's buffer; nil is all of it. Fails for a range outside of the buffer.
    @inline(__always)
    init(_ range: Range<Int>?, of operation: Operation) throws(PortError) {
        guard let buffer = operation.buffer else {
            guard range?.isEmpty ?? true else {
                throw PortError(.accessViolation, "the operation has no buffer; give it one before it is started")
            }
            unsafe memory = nil
            count = 0
            return
        }
        guard let range else {
            unsafe memory = buffer.baseAddress
            count = buffer.capacity
            return
        }
        guard range.lowerBound >= 0, range.upperBound <= buffer.capacity else {
            throw .invalid("bytes \(range) are outside of the operation's buffer of \(buffer.capacity)")
        }
        unsafe memory = buffer.baseAddress + range.lowerBound
        count = range.count
    }

    /// Memory that the caller keeps alive until the packet.
    init(_ memory: UnsafeMutableRawBufferPointer) {
        unsafe self.memory = memory.baseAddress
        count = memory.count
    }
}
