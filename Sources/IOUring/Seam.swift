public import CLiburing
import Glibc

#if DEBUG || IOCP_SEAM
import Synchronization
#endif

/// Every call of this module that ends in a system call of io_uring.
///
/// In debug builds, and with `-DIOCP_SEAM`, tests can stand between these and the kernel: see `Interceptor`. In any
/// other build they are the plain calls.
@usableFromInline
enum Seam {
    @inlinable
    @inline(__always)
    static func enter(
        _ ring: Int32, submit: UInt32, minimumCompletions: UInt32, flags: EnterFlags, timeoutNanoseconds: Int64 = -1
    ) -> Int32 {
        #if DEBUG || IOCP_SEAM
        switch verdict(.enter(ring, submit, minimumCompletions, flags, timeoutNanoseconds)) {
        case .pass: break
        case .answer(let code): return code
        case .submit(let most):
            // The kernel returns without waiting when it does not take all that was asked for.
            return iou_enter(ring, min(submit, most), 0, flags.rawValue, -1)
        }
        #endif
        return iou_enter(ring, submit, minimumCompletions, flags.rawValue, timeoutNanoseconds)
    }

    @inlinable
    @inline(__always)
    static func cancel(
        _ ring: Int32, userData: UInt64, target: Int32, flags: CancelFlags, timeoutNanoseconds: Int64
    ) -> Int32 {
        #if DEBUG || IOCP_SEAM
        if case .answer(let code) = verdict(.cancel(ring, userData: userData, target: target, flags)) { return code }
        #endif
        return iou_sync_cancel(ring, userData, target, flags.rawValue, timeoutNanoseconds)
    }

    @inlinable
    @inline(__always)
    static func sendMessage(to ring: Int32, userData: UInt64, result: UInt32) -> Int32 {
        #if DEBUG || IOCP_SEAM
        if case .answer(let code) = verdict(.message(to: ring, userData: userData, result: result)) { return code }
        #endif
        return iou_send_message(ring, userData, result)
    }

    /// Any other registration, by the kernel's number for it. A signal does not disturb it.
    @inline(__always)
    static func register(_ ring: Int32, _ operation: Int32, _ call: () -> Int32) -> Int32 {
        var code: Int32 = 0
        for _ in 0..<100 {
            code = registerOnce(ring, operation, call)
            if code != -EINTR { break }
        }
        return code
    }

    @inline(__always)
    private static func registerOnce(_ ring: Int32, _ operation: Int32, _ call: () -> Int32) -> Int32 {
        #if DEBUG || IOCP_SEAM
        if case .answer(let code) = verdict(.register(ring, operation)) { return code }
        #endif
        return call()
    }

    /// Makes a ring and maps it. The call also fills `ring`.
    static func setUp(
        _ entries: UInt32, _ ring: UnsafeMutablePointer<io_uring>, _ parameters: UnsafeMutablePointer<iou_params>
    ) -> Int32 {
        #if DEBUG || IOCP_SEAM
        if case .answer(let code) = unsafe verdict(.setUp(entries, ring, parameters)) { return code }
        #endif
        return unsafe io_uring_queue_init_params(entries, ring, parameters)
    }

    /// Unmaps a ring and closes it.
    static func tearDown(_ ring: UnsafeMutablePointer<io_uring>) {
        #if DEBUG || IOCP_SEAM
        if case .answer = unsafe verdict(.tearDown(ring)) { return }
        #endif
        unsafe io_uring_queue_exit(ring)
    }
}

#if DEBUG || IOCP_SEAM
extension Seam {
    /// A call on its way to the kernel.
    @usableFromInline
    @safe enum Call {
        case enter(Int32, UInt32, UInt32, EnterFlags, Int64)
        case cancel(Int32, userData: UInt64, target: Int32, CancelFlags)
        case message(to: Int32, userData: UInt64, result: UInt32)
        case register(Int32, Int32)
        case setUp(UInt32, UnsafeMutablePointer<io_uring>, UnsafeMutablePointer<iou_params>)
        case tearDown(UnsafeMutablePointer<io_uring>)
    }

    /// What becomes of it.
    @usableFromInline
    enum Verdict {
        /// It goes on, to the next interceptor or to the kernel.
        case pass
        /// It does not reach the kernel. Its result is this: an errno is negative.
        case answer(Int32)
        /// An entry that hands over no more than so many, and does not wait.
        case submit(atMost: UInt32)
    }

    /// Decides about every call of the process, from any thread: it must pass on what is none of its business, such as
    /// other tests' rings, and must not call the seam itself.
    typealias Interceptor = @Sendable (Call) -> Verdict

    /// Puts an interceptor before those that are there already. Returns what `remove` takes.
    static func install(_ interceptor: @escaping Interceptor) -> Int {
        Interceptors.change { list in
            let number = (list.first?.number ?? 0) + 1
            list.insert((number, interceptor), at: 0)
            return number
        }
    }

    /// A call that is under way on another thread may still see it afterwards.
    static func remove(_ number: Int) {
        Interceptors.change { list in list.removeAll { $0.number == number } }
    }

    @usableFromInline
    static func verdict(_ call: Call) -> Verdict {
        guard let list = Interceptors.current else { return .pass }
        for (_, interceptor) in list.items {
            let verdict = interceptor(call)
            if case .pass = verdict { continue }
            return verdict
        }
        return .pass
    }
}

/// The installed interceptors: an immutable list, replaced as a whole, so that looking takes no lock.
private final class Interceptors: Sendable {
    typealias Items = [(number: Int, interceptor: Seam.Interceptor)]

    let items: Items
    /// Readers may still be in it: lists are never let go of.
    let before: Interceptors?

    private init(_ items: Items, _ before: Interceptors?) {
        self.items = items
        self.before = before
    }

    private static let newest = unsafe Atomic<Unmanaged<Interceptors>?>(nil)

    static var current: Interceptors? { unsafe newest.load(ordering: .acquiring)?.takeUnretainedValue() }

    static func change<Result>(_ body: (inout Items) -> Result) -> Result {
        while true {
            let old = unsafe newest.load(ordering: .acquiring)
            let before = unsafe old?.takeUnretainedValue()
            var items = before?.items ?? []
            let result = body(&items)
            let new = unsafe Unmanaged.passRetained(Interceptors(items, before))
            if unsafe newest.compareExchange(expected: old, desired: new, ordering: .acquiringAndReleasing).exchanged {
                return result
            }
            unsafe new.release()
        }
    }
}
#endif
