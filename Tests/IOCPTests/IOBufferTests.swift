import Synchronization
import Testing

@testable import IOCP

@Suite("IOBuffer")
struct IOBufferTests {
    @Test("a new buffer is zero, aligned and of its capacity", arguments: [0, 1, 63, 64, 4096, 1 << 20])
    func fresh(capacity: Int) {
        for alignment in [1, 2, 16, 64, 512, 4096] {
            let buffer = IOBuffer(capacity: capacity, alignment: alignment)
            #expect(buffer.capacity == capacity)
            #expect(unsafe buffer.bytes.count == capacity)
            #expect(unsafe UInt(bitPattern: buffer.baseAddress) % UInt(alignment) == 0)
            #expect(buffer.array(in: 0..<capacity).allSatisfy { $0 == 0 })
        }
    }

    @Test("the address stays the same")
    func stable() {
        let buffer = IOBuffer(capacity: 128)
        let before = unsafe UInt(bitPattern: buffer.baseAddress)
        buffer.fill(with: 7)
        #expect(unsafe UInt(bitPattern: buffer.baseAddress) == before)
        #expect(unsafe UInt(bitPattern: buffer.bytes.baseAddress) == before)
    }

    @Test("a capacity that no machine has throws instead of stopping", arguments: [Int.max, Int.max - 63, 1 << 62])
    func absurd(capacity: Int) {
        #expect(throws: CompletionStatus.noMemory) { try IOBuffer(allocating: capacity) }
    }

    @Test("bytes written by offset are read by offset")
    func subscripts() {
        let buffer = IOBuffer(capacity: 4)
        buffer[0] = 1
        buffer[3] = 255
        #expect(buffer.array(in: 0..<4) == [1, 0, 0, 255])
        #expect(buffer[3] == 255)
    }

    @Test("copying puts a collection where it was asked to and reports the range")
    func copyCollection() {
        let buffer = IOBuffer(capacity: 8)
        #expect(buffer.copy(from: "abc".utf8) == 0..<3)
        #expect(buffer.copy(from: [UInt8]("xyz".utf8), at: 5) == 5..<8)
        #expect(buffer.copy(from: [], at: 8) == 8..<8)
        #expect(buffer.array(in: 0..<8) == [97, 98, 99, 0, 0, 120, 121, 122])
        #expect(buffer.string(in: 0..<3) == "abc")
        #expect(buffer.string(in: 5..<8) == "xyz")
        #expect(buffer.string(in: 4..<4) == "")
    }

    @Test("copying takes a span, also of the same buffer")
    func copySpan() {
        let buffer = IOBuffer(capacity: 6)
        buffer.copy(from: [1, 2, 3, 4] as [UInt8])
        let other: [UInt8] = [9]
        let range = unsafe buffer.copy(from: other.span.bytes, at: 5)
        #expect(range == 5..<6)
        buffer.withSpan(0..<4) { span in _ = buffer.copy(from: span, at: 1) }
        #expect(buffer.array(in: 0..<6) == [1, 1, 2, 3, 4, 9])
    }

    @Test("a range can be filled and seen alone")
    func ranges() {
        let buffer = IOBuffer(capacity: 6)
        buffer.fill(with: 1)
        buffer.fill(with: 2, in: 2..<4)
        buffer.fill(with: 3, in: 6..<6)
        #expect(unsafe buffer.withBytes(1..<5) { unsafe Array($0) } == [1, 2, 2, 1])
        #expect(buffer.withSpan(1..<5) { $0.byteCount } == 4)
        #expect(buffer.withSpan { $0.byteCount } == 6)
        buffer.withMutableSpan(0..<2) { span in span.storeBytes(of: 0x0605, as: UInt16.self) }
        #expect(buffer.array(in: 0..<3) == [5, 6, 2])
    }

    @Test("an error passes through with its type")
    func errors() {
        let buffer = IOBuffer(capacity: 1)
        #expect(throws: CompletionStatus.cancelled) {
            try buffer.withSpan { (_) throws(CompletionStatus) in throw .cancelled }
        }
    }

    @Test("ill-formed text is replaced, not refused")
    func illFormed() {
        let buffer = IOBuffer(capacity: 2)
        buffer.copy(from: [0x41, 0xFF] as [UInt8])
        #expect(buffer.string(in: 0..<2) == "A\u{FFFD}")
    }

    @Test("memory that is not owned is used in place and outlives the buffer")
    func unowned() {
        var memory: [UInt8] = [1, 2, 3]
        unsafe memory.withUnsafeMutableBytes { bytes in
            let buffer = unsafe IOBuffer(unowned: bytes)
            #expect(unsafe buffer.baseAddress == bytes.baseAddress)
            buffer[1] = 9
        }
        #expect(memory == [1, 9, 3])
        #expect(unsafe IOBuffer(unowned: UnsafeMutableRawBufferPointer(start: nil, count: 0)).capacity == 0)
    }

    @Test("adopted memory is given back once, when the buffer goes away")
    func adopted() {
        final class Counter: Sendable {
            let calls = Atomic(0)
            let bytes = Atomic(0)
        }
        let counter = Counter()
        do {
            let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 16, alignment: 16)
            let buffer = unsafe IOBuffer(adopting: memory) { memory in
                counter.calls.add(1, ordering: .relaxed)
                counter.bytes.add(memory.count, ordering: .relaxed)
                unsafe memory.deallocate()
            }
            buffer.fill(with: 1)
            #expect(counter.calls.load(ordering: .relaxed) == 0)
            withExtendedLifetime(buffer) {}
        }
        #expect(counter.calls.load(ordering: .relaxed) == 1)
        #expect(counter.bytes.load(ordering: .relaxed) == 16)
    }

    @Test("a buffer filled by one task is read by another")
    func sendable() async {
        let buffer = IOBuffer(capacity: 3)
        await Task.detached { _ = buffer.copy(from: [1, 2, 3] as [UInt8]) }.value
        #expect(buffer.array(in: 0..<3) == [1, 2, 3])
    }

    @Test("an offset or a range outside stops the program")
    func outside() async {
        await #expect(processExitsWith: .failure) { _ = IOBuffer(capacity: 4)[4] }
        await #expect(processExitsWith: .failure) { _ = IOBuffer(capacity: 4)[-1] }
        await #expect(processExitsWith: .failure) { _ = IOBuffer(capacity: 4).array(in: 3..<5) }
        await #expect(processExitsWith: .failure) { IOBuffer(capacity: 4).copy(from: [1, 2] as [UInt8], at: 3) }
        await #expect(processExitsWith: .failure) { IOBuffer(capacity: 4).copy(from: [1] as [UInt8], at: .max) }
        await #expect(processExitsWith: .failure) { _ = IOBuffer(capacity: -1) }
        await #expect(processExitsWith: .failure) { _ = IOBuffer(capacity: 1, alignment: 3) }
    }
}
