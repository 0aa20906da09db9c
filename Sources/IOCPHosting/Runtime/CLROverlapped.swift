public import IOCP
internal import Synchronization

/// An OVERLAPPED as a runtime allocates it: a reference to this object, the 32 bytes that Windows defines, then the host's.
///
/// Started with one operation at a time, over and over. From the start to the completion it keeps itself alive. A start
/// allocates nothing.
@safe public final class CLROverlapped: @unchecked Sendable {
    // Unchecked: `isStarted` says who has `completion`: whoever sets it, until it is over.

    /// What the completion is told: 0 or the Win32 code, and the bytes.
    public typealias Completion = @Sendable (_ error: UInt32, _ bytes: UInt32) -> Void

    private let memory: UnsafeMutableRawPointer
    private var completion: Completion?
    /// Whether an operation that ends with a completion is being started or in flight.
    private let isStarted = Atomic<Bool>(false)

    /// Bytes in front of the OVERLAPPED.
    private static let prefix = unsafe max(HostOverlapped.alignment, MemoryLayout<UInt>.size)

    init(hostSize: Int) {
        let size = unsafe Self.prefix + HostOverlapped.headerSize + hostSize
        unsafe memory = .allocate(byteCount: size, alignment: HostOverlapped.alignment)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: size)
        unsafe memory.storeBytes(of: Unmanaged.passUnretained(self).toOpaque(), as: UnsafeMutableRawPointer.self)
    }

    deinit {
        unsafe memory.deallocate()
    }

    /// The OVERLAPPED: its offset and event may be set before a start.
    public var overlapped: HostOverlapped { unsafe HostOverlapped(memory + Self.prefix) }

    static func at(_ overlapped: UnsafeMutableRawPointer) -> CLROverlapped {
        let object = unsafe (overlapped - prefix).load(as: UnsafeMutableRawPointer.self)
        return unsafe Unmanaged<CLROverlapped>.fromOpaque(object).takeUnretainedValue()
    }

    func complete(_ error: UInt32, _ bytes: UInt32) throws(HResult) {
        // A host that tells twice would give away a reference that is not there.
        guard isStarted.load(ordering: .acquiring) else { throw .invalidArgument }
        // The start's own reference; the completion may start the next operation.
        let kept = unsafe Unmanaged.passUnretained(self).takeRetainedValue()
        kept.takeBack()?(error, bytes)
    }

    /// Ends what a start has begun. Returns what is to be told.
    private func takeBack() -> Completion? {
        let told = completion
        completion = nil
        isStarted.store(false, ordering: .releasing)
        return told
    }

    /// Starts an operation with this OVERLAPPED.
    ///
    /// - Parameters:
    ///   - handle: what the operation is started on.
    ///   - completion: called on a thread of the host's when it is over; not if `body` throws, if the handle skips packets
    ///     of immediate successes and it was one, or if `hEvent` says that there is to be no packet: then this object and
    ///     the memory of the operation must be kept until the event is set.
    ///   - body: starts it, as `IOHandle.read(_:into:start:)` does.
    /// - Throws: what `body` throws; `PortError` with 87 if an operation is in flight already, which goes on.
    @discardableResult
    public func start(
        on handle: IOHandle, completion: @escaping Completion,
        _ body: (HostOverlapped) throws(PortError) -> StartOutcome
    ) throws(PortError) -> StartOutcome {
        guard unsafe overlapped.event & 1 == 0 else { return unsafe try body(overlapped) }
        guard isStarted.compareExchange(expected: false, desired: true, ordering: .acquiring).exchanged else {
            throw PortError(
                .invalidParameter, "an operation is in flight with this OVERLAPPED; wait for its completion")
        }
        self.completion = completion
        // Before the start: modes are never taken back.
        let skips = handle.notificationModes.contains(.skipCompletionPortOnSuccess)
        let reference = unsafe Unmanaged.passUnretained(self)
        _ = unsafe reference.retain()
        do throws(PortError) {
            let outcome = unsafe try body(overlapped)
            if skips, outcome != .pending {
                _ = takeBack()
                unsafe reference.release()
            }
            return outcome
        } catch {
            _ = takeBack()
            unsafe reference.release()
            throw error
        }
    }
}
