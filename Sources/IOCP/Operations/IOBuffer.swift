#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A fixed-size piece of memory that operations read into and write from.
///
/// Its address and capacity never change while the object lives, which is what the kernel needs of memory that it
/// fills after the call that named it has returned.
///
/// ## Ownership
/// The object owns its memory, except after ``init(unowned:)``. Who starts an operation keeps the object alive until
/// the operation's packet has been dequeued.
///
/// ## Thread safety
/// Any thread may hold the object; its contents belong to one side at a time. From the start of an operation until
/// its packet is dequeued they belong to the operation, after that to the thread that dequeued it. Nothing checks
/// this: it is the rule that Windows has for the buffers of overlapped operations, and the hand-over through the port
/// orders the memory accesses of the two sides. That rule is why the type is `Sendable` without a lock.
@safe
public final class IOBuffer: @unchecked Sendable {
    /// The first byte. Valid while the object lives, and never null, even for a capacity of 0.
    public let baseAddress: UnsafeMutableRawPointer

    /// The size in bytes.
    public let capacity: Int

    private let release: Release

    @unsafe
    private enum Release {
        /// Memory of our own, from the address that the allocator gave.
        case free(UnsafeMutableRawPointer)
        case call(@Sendable (UnsafeMutableRawBufferPointer) -> Void, UnsafeMutableRawBufferPointer)
        case region(RegisteredRegion)
        case nothing
    }

    /// Allocates a buffer filled with zeroes.
    ///
    /// Large buffers take memory from the system only as their pages are touched. Running out of memory ends the
    /// program, as it does for an array; where the capacity comes from outside, use ``init(allocating:alignment:)``.
    ///
    /// - Parameters:
    ///   - capacity: The size in bytes, 0 or more.
    ///   - alignment: What the address is a multiple of, in bytes: a power of two. A cache line by default; direct
    ///     file access asks for the block size of the device.
    public convenience init(capacity: Int, alignment: Int = 64) {
        do {
            try self.init(allocating: capacity, alignment: alignment)
        } catch {
            preconditionFailure("IOBuffer: no memory for \(capacity) bytes")
        }
    }

    /// Allocates a buffer filled with zeroes, or throws if there is no memory for it.
    ///
    /// - Parameters:
    ///   - capacity: The size in bytes, 0 or more: a negative one is a programming error and stops the program.
    ///   - alignment: What the address is a multiple of, in bytes: a power of two.
    /// - Throws: ``CompletionStatus/noMemory``.
    public init(allocating capacity: Int, alignment: Int = 64) throws(CompletionStatus) {
        precondition(capacity >= 0, "IOBuffer: negative capacity")
        precondition(alignment > 0 && alignment & (alignment - 1) == 0, "IOBuffer: alignment is not a power of two")
        // calloc, not an aligned allocation that is then cleared: fresh pages are zero already, and stay untouched.
        let (size, overflow) = max(capacity, 1).addingReportingOverflow(alignment - 1)
        // What no address space holds is not even asked for: a checking allocator would end the program over it.
        guard !overflow, size <= IOBuffer.addressSpace, let allocation = unsafe calloc(1, size) else {
            throw .noMemory
        }
        unsafe self.baseAddress = allocation.alignedUp(toMultipleOf: alignment)
        self.capacity = capacity
        unsafe self.release = .free(allocation)
    }

    /// Makes a buffer of memory that belongs to somebody else and that is not freed.
    ///
    /// - Parameter memory: Must stay allocated for as long as the object, and every operation on it, lives.
    @unsafe
    public init(unowned memory: UnsafeMutableRawBufferPointer) {
        unsafe self.baseAddress = memory.baseAddress ?? IOBuffer.somewhere
        self.capacity = memory.count
        unsafe self.release = .nothing
    }

    /// A part of registered memory.
    init(_ region: RegisteredRegion, _ part: UnsafeMutableRawBufferPointer) {
        unsafe self.baseAddress = part.baseAddress!
        self.capacity = part.count
        unsafe self.release = .region(region)
    }

    /// The registered memory that the buffer is a part of, if it is, and keeps.
    var region: RegisteredRegion? {
        if case .region(let region) = unsafe release { return region }
        return nil
    }

    /// Makes a buffer of memory that is handed over.
    ///
    /// - Parameters:
    ///   - memory: The memory; the buffer owns it from here on.
    ///   - deallocator: Called once with that memory when the buffer goes away, on whichever thread that happens.
    @unsafe
    public init(
        adopting memory: UnsafeMutableRawBufferPointer,
        deallocator: @escaping @Sendable (UnsafeMutableRawBufferPointer) -> Void
    ) {
        unsafe self.baseAddress = memory.baseAddress ?? IOBuffer.somewhere
        self.capacity = memory.count
        unsafe self.release = .call(deallocator, memory)
    }

    deinit {
        switch unsafe release {
        case .free(let allocation): unsafe free(allocation)
        case .call(let deallocator, let memory): unsafe deallocator(memory)
        case .region, .nothing: break
        }
    }

    /// 128 TiB: what a process can address on the kernels' usual 47-bit layout.
    private static let addressSpace = 1 << 47

    /// An address for buffers of no bytes. It is not null and is never accessed.
    private static var somewhere: UnsafeMutableRawPointer {
        // 64 is no null pointer, so the conversion cannot fail.
        unsafe UnsafeMutableRawPointer(bitPattern: 64)!
    }
}

// MARK: Access

extension IOBuffer {
    /// All of the memory. Must not be used after the object is gone.
    public var bytes: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: baseAddress, count: capacity)
    }

    /// The byte at an offset. An offset outside `0..<capacity` stops the program, as it does with an array.
    public subscript(offset: Int) -> UInt8 {
        get {
            precondition(offset >= 0 && offset < capacity, "IOBuffer: offset out of range")
            return unsafe baseAddress.load(fromByteOffset: offset, as: UInt8.self)
        }
        set {
            precondition(offset >= 0 && offset < capacity, "IOBuffer: offset out of range")
            unsafe baseAddress.storeBytes(of: newValue, toByteOffset: offset, as: UInt8.self)
        }
    }

    /// Copies bytes into the buffer. They must fit, or the program stops.
    ///
    /// - Parameters:
    ///   - source: The bytes.
    ///   - offset: Where the first of them goes, in bytes.
    /// - Returns: The range of the buffer that holds them now.
    @discardableResult
    public func copy(from source: some Collection<UInt8>, at offset: Int = 0) -> Range<Int> {
        let target = checked(offset, count: source.count)
        unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[target]).copyBytes(from: source)
        return target
    }

    /// Copies bytes into the buffer. They must fit, or the program stops. The source may be this buffer.
    ///
    /// - Parameters:
    ///   - source: The bytes.
    ///   - offset: Where the first of them goes, in bytes.
    /// - Returns: The range of the buffer that holds them now.
    @discardableResult
    public func copy(from source: RawSpan, at offset: Int = 0) -> Range<Int> {
        let target = checked(offset, count: source.byteCount)
        unsafe source.withUnsafeBytes {
            unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[target]).copyMemory(from: $0)
        }
        return target
    }

    /// Sets a range of the buffer, or all of it, to one value.
    public func fill(with value: UInt8, in range: Range<Int>? = nil) {
        let range = checked(range ?? 0..<capacity)
        if range.isEmpty { return }
        unsafe (baseAddress + range.lowerBound).initializeMemory(as: UInt8.self, repeating: value, count: range.count)
    }

    /// Calls a function with the memory of a range. The pointer must not leave the function.
    ///
    /// - Parameter range: Offsets in bytes, within `0..<capacity`; outside of it the program stops.
    public func withBytes<Result: ~Copyable, Failure: Error>(
        _ range: Range<Int>,
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let range = checked(range)
        return try unsafe body(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[range]))
    }

    /// Calls a function with a safe view of a range, or of all of the buffer.
    ///
    /// - Parameter range: Offsets in bytes, within `0..<capacity`; outside of it the program stops.
    public func withSpan<Result: ~Copyable, Failure: Error>(
        _ range: Range<Int>? = nil,
        _ body: (RawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let range = checked(range ?? 0..<capacity)
        let part = unsafe UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[range])
        return try body(unsafe part.bytes)
    }

    /// Calls a function with a safe, writable view of a range, or of all of the buffer.
    ///
    /// - Parameter range: Offsets in bytes, within `0..<capacity`; outside of it the program stops.
    public func withMutableSpan<Result: ~Copyable, Failure: Error>(
        _ range: Range<Int>? = nil,
        _ body: (inout MutableRawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let range = checked(range ?? 0..<capacity)
        let part = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[range])
        var span = unsafe part.mutableBytes
        return try body(&span)
    }

    /// A copy of a range. It allocates.
    public func array(in range: Range<Int>) -> [UInt8] {
        unsafe withBytes(range) { unsafe Array($0) }
    }

    /// The text that a range holds in UTF-8, ill-formed parts replaced. It allocates.
    public func string(in range: Range<Int>) -> String {
        unsafe withBytes(range) { unsafe String(decoding: $0, as: UTF8.self) }
    }

    private func checked(_ range: Range<Int>) -> Range<Int> {
        precondition(range.lowerBound >= 0 && range.upperBound <= capacity, "IOBuffer: range out of bounds")
        return range
    }

    private func checked(_ offset: Int, count: Int) -> Range<Int> {
        // Compared without a sum, which could overflow.
        precondition(offset >= 0 && offset <= capacity && count <= capacity - offset, "IOBuffer: bytes do not fit")
        return offset..<(offset + count)
    }
}
