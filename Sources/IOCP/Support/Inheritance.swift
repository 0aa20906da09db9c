internal import CIOCPSupport
internal import IOUring
internal import Synchronization

// A child of fork(2) has a copy of the memory, the descriptors, and of the threads only the one that forked. The rings of
// its parent's ports are not copied but shared with it, and with the kernel. So before fork returns there, everything of
// its parent's is made harmless (CIOCPSupport, fork.c), and what refuses to be used says why by its `Birth`.

/// In which process something was made.
struct Birth {
    private let generation = iocp_generation()

    /// Whether it was made before a fork: it is the parent's. Two loads.
    @inline(__always)
    var isInherited: Bool { generation != iocp_generation() }
}

/// A note that a child is to find a flag set.
@safe struct InheritedFlag: ~Copyable, @unchecked Sendable {
    private let note: OpaquePointer

    /// - Parameter flag: stays where it is as long as the note exists.
    init(_ flag: borrowing Atomic<Bool>) {
        unsafe note = withUnsafePointer(to: flag) { pointer in
            unsafe iocp_inherit_flag(
                UnsafeMutableRawPointer(mutating: UnsafeRawPointer(pointer)).assumingMemoryBound(to: Bool.self))
        }
    }

    deinit { unsafe iocp_inherit_no_more(note) }
}

/// A note of a ring that a child must neither enter nor write to.
@safe struct InheritedRing: ~Copyable, @unchecked Sendable {
    private let note: OpaquePointer

    init(_ ring: borrowing Ring) {
        let shared = unsafe ring.sharedMemory
        func part(_ index: Int) -> iocp_memory {
            guard unsafe index < shared.count else { return unsafe iocp_memory() }
            let start = unsafe UnsafeMutableRawPointer(mutating: shared[index].baseAddress)
            return unsafe iocp_memory(start: start, length: shared[index].count)
        }
        unsafe note = iocp_inherit_ring(ring.fileDescriptor, part(0), part(1), part(2))
    }

    deinit { unsafe iocp_inherit_no_more(note) }
}
