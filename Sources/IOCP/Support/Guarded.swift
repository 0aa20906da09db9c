/// A value that a lock of its owner guards, at an address of its own that begins a cache line.
///
/// A mutable stored property of a class is checked for overlapping accesses at run time, each time, by calls into the
/// runtime that cost more than the work done here; what a lock guards cannot overlap. The value dies with this box.
@safe
struct Guarded<Value: ~Copyable>: ~Copyable, @unchecked Sendable {
    // Unchecked: the owner's lock is what makes it safe to share, as with every field that it guards.

    private let pointer: UnsafeMutablePointer<Value>

    init(_ value: consuming Value) {
        unsafe pointer = UnsafeMutableRawPointer.allocate(
            byteCount: max(1, MemoryLayout<Value>.size), alignment: max(64, MemoryLayout<Value>.alignment)
        ).assumingMemoryBound(to: Value.self)
        unsafe pointer.initialize(to: value)
    }

    deinit {
        unsafe pointer.deinitialize(count: 1)
        unsafe pointer.deallocate()
    }

    var value: Value {
        @inline(__always)
        _read { yield unsafe pointer.pointee }
        @inline(__always)
        nonmutating _modify { yield unsafe &pointer.pointee }
    }
}
