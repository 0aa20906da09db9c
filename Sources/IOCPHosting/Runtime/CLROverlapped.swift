public import IOCP
internal import Synchronization

/// An OVERLAPPED as a runtime allocates it: a reference to this object, the 32 bytes that Windows defines, then the host's.
///
/// Started with one operation at a time, over and over. From the start to the completion it keeps itself alive. A start
/// allocates nothing.
@safe public final class CLROverlapped: @unchecked Sendable {
    // Unchecked: `completion` belongs to the starter until the start, then to the thread that completes.

    /// What the completion is told: 0 or the Win32 code, and the bytes.
    public typealias Completion = @Sendable (_ error: UInt32, _ bytes: UInt32) -> Void

    private let memory: UnsafeMutableRawPointer
    private var completion: Completion?

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

    func complete(_ error: UInt32, _ bytes: UInt32) {
        // The start's own reference; the completion may start the next operation.
        let kept = unsafe Unmanaged.passUnretained(self).takeRetainedValue()
        kept.completion?(error, bytes)
    }

    /// Starts an operation with this OVERLAPPED.
    ///
    /// - Parameters:
    ///   - handle: what the operation is started on.
    ///   - completion: called on a thread of the host's when it is over; not if `body` throws, if the handle skips packets
    ///     of immediate successes and it was one, or if `hEvent` says that there is to be no packet: then this object and
    ///     the memory of the operation must be kept until the event is set.
    ///   - body: starts it, as `IOHandle.read(_:into:start:)` does.
    @discardableResult
    public func start(
        on handle: IOHandle, completion: @escaping Completion,
        _ body: (HostOverlapped) throws(PortError) -> StartOutcome
    ) throws(PortError) -> StartOutcome {
        self.completion = completion
        let hasPacket = unsafe overlapped.event & 1 == 0
        let reference = unsafe Unmanaged.passUnretained(self)
        if hasPacket { _ = unsafe reference.retain() }
        do throws(PortError) {
            let outcome = unsafe try body(overlapped)
            if hasPacket, outcome != .pending, handle.notificationModes.contains(.skipCompletionPortOnSuccess) {
                unsafe reference.release()
            }
            return outcome
        } catch {
            if hasPacket { unsafe reference.release() }
            throw error
        }
    }
}
