public import CLiburing

/// The completion side of a living ``Ring`` by itself, so that completions can be taken under another lock than entries
/// are filled: calling the ring's own functions for both at once would break Swift's rule of exclusive access.
///
/// It belongs to one thread at a time, or is used under a lock of the caller's; all copies, and the ring's own
/// functions for completions, are the same queue. It does not keep the ring alive: using it after the ring is gone is
/// undefined.
///
/// Unchecked `Sendable`, because pointers are not: the indices go through atomics, and the completions between them
/// belong to whoever holds the caller's lock.
@safe
public struct CompletionQueue: @unchecked Sendable {
    @usableFromInline let head: UnsafeMutablePointer<UInt32>
    @usableFromInline let tail: UnsafeMutablePointer<UInt32>
    @usableFromInline let entries: UnsafeMutablePointer<iou_cqe>
    @usableFromInline let mask: UInt32

    init(_ ring: UnsafeMutablePointer<io_uring>, mask: UInt32) {
        unsafe head = ring.pointee.cq.khead
        unsafe tail = ring.pointee.cq.ktail
        unsafe entries = ring.pointee.cq.cqes
        self.mask = mask
    }

    /// How many completions lie in the queue. One acquire load of the tail.
    @inlinable
    public var ready: UInt32 { unsafe iou_load_acquire(tail) &- iou_load_relaxed(head) }

    /// Copies the completion at an offset from the oldest one. Not checked: the offset must be below ``ready``.
    @inlinable
    public func completion(at offset: UInt32) -> Completion {
        let index = unsafe (iou_load_relaxed(head) &+ offset) & mask
        let entry = unsafe entries + Int(index)
        return unsafe Completion(
            userData: entry.pointee.user_data, result: entry.pointee.res, flags: entry.pointee.flags)
    }

    /// Gives the oldest completions' places back to the kernel, with a store-release of the head.
    ///
    /// - Parameter count: not above ``ready``; checked in debug builds only.
    @inlinable
    public func advance(by count: UInt32) {
        assert(count <= ready, "advancing past the completions that are there")
        unsafe iou_store_release(head, iou_load_relaxed(head) &+ count)
    }

    /// Takes all completions that lie in the queue, oldest first.
    ///
    /// Their places go back to the kernel afterwards, also when the body throws: what it has not seen stays queued.
    ///
    /// - Returns: how many were taken.
    @inlinable
    @discardableResult
    public func forEach<Failure: Error>(_ body: (Completion) throws(Failure) -> Void) throws(Failure) -> Int {
        let count = ready
        var taken: UInt32 = 0
        while taken < count {
            let completion = completion(at: taken)
            taken += 1
            do {
                try body(completion)
            } catch {
                advance(by: taken)
                throw error
            }
        }
        advance(by: taken)
        return Int(taken)
    }

    /// Moves completions, oldest first, into a buffer until either end is reached. Its memory need not be initialized.
    ///
    /// - Returns: how many were moved.
    @inlinable
    public func harvest(into buffer: UnsafeMutableBufferPointer<Completion>) -> Int {
        let count = min(ready, UInt32(clamping: buffer.count))
        for index in 0..<count {
            unsafe buffer.initializeElement(at: Int(index), to: completion(at: index))
        }
        advance(by: count)
        return Int(count)
    }
}
