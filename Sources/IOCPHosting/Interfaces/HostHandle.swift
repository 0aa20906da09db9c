public import IOCP
internal import Synchronization

/// A HANDLE: a number that names a file, socket, pipe, event or port of a host, checked at each use.
///
/// Numbers of closed things are not given again for a long time, and those of a wrong kind are refused: garbage gives
/// ``HResult/handle`` or ``HResult/invalidArgument`` and never touches memory. Its two lowest bits are zero, as on
/// Windows.
///
/// The corresponding Windows type is `HANDLE`.
public struct HostHandle: RawRepresentable, Hashable, Sendable {
    public let rawValue: UInt

    public init(rawValue: UInt) { self.rawValue = rawValue }

    /// Names a file, socket or pipe, which the table keeps alive until ``close()``.
    public init(_ handle: IOHandle) throws(PortError) {
        self = try HandleTable.shared.add(handle, .file)
    }

    /// Names an event, for the `hEvent` of an OVERLAPPED.
    public init(_ event: CompletionEvent) throws(PortError) {
        self = try HandleTable.shared.add(event, .event)
    }

    /// The file, socket or pipe; nil if it is none.
    public var ioHandle: IOHandle? {
        HandleTable.shared.object(self, .file).map { unsafe unsafeDowncast($0, to: IOHandle.self) }
    }

    /// The event; nil if it is none.
    public var event: CompletionEvent? {
        HandleTable.shared.object(self, .event).map { unsafe unsafeDowncast($0, to: CompletionEvent.self) }
    }

    /// Forgets the number, and closes the file, socket or pipe. Ports are closed by their host.
    ///
    /// The corresponding Win32 function is `CloseHandle`.
    public func close() throws(PortError) {
        if let file = HandleTable.shared.remove(self, .file) {
            return try unsafe unsafeDowncast(file, to: IOHandle.self).close()
        }
        guard HandleTable.shared.remove(self, .event) != nil else { throw Self.unknown }
    }

    /// Forgets the number of a file and leaves the file alone.
    func forget() { _ = HandleTable.shared.remove(self, .file) }

    static let unknown = PortError(.invalidHandle, "the HANDLE names nothing of that kind, or has been closed")
}

/// The process's table of HANDLEs. Looking one up locks its own entry only, and allocates nothing.
@safe final class HandleTable: @unchecked Sendable {
    // Unchecked: `lock` guards the free list and the making of pages; each entry has a lock of its own.

    static let shared = HandleTable()

    enum Kind: UInt8 {
        case none, file, event, port
    }

    @safe private struct Entry: ~Copyable {
        let lock = FutexLock()
        var generation: UInt = 1
        var kind = Kind.none
        var object: Unmanaged<AnyObject>?
        var nextFree = -1
    }

    private static let pageBits = 10
    private static let indexBits = 20
    private static let pageCount = 1 << (indexBits - pageBits)
    /// At most so many things have a HANDLE at a time.
    static let capacity = 1 << indexBits

    private let lock = FutexLock()
    private let pages: UnsafeMutablePointer<Atomic<UnsafeMutablePointer<Entry>?>>
    private var used = 0
    private var firstFree = -1

    private init() {
        unsafe pages = .allocate(capacity: Self.pageCount)
        for page in 0..<Self.pageCount { unsafe (pages + page).initialize(to: Atomic(nil)) }
    }

    func add(_ object: AnyObject, _ kind: Kind) throws(PortError) -> HostHandle {
        lock.lock()
        defer { lock.unlock() }
        let index: Int
        if firstFree >= 0 {
            index = firstFree
            firstFree = unsafe entry(index)!.pointee.nextFree
        } else {
            guard used < Self.capacity else {
                throw PortError(.tooManyOpenedFiles, "at most \(Self.capacity) HANDLEs are open at a time; close some")
            }
            index = used
            used += 1
            let page = index >> Self.pageBits
            if unsafe pages[page].load(ordering: .relaxed) == nil {
                let entries = UnsafeMutablePointer<Entry>.allocate(capacity: 1 << Self.pageBits)
                for offset in 0..<1 << Self.pageBits { unsafe (entries + offset).initialize(to: Entry()) }
                unsafe pages[page].store(entries, ordering: .releasing)
            }
        }
        let entry = unsafe entry(index)!
        unsafe entry.pointee.lock.lock()
        defer { unsafe entry.pointee.lock.unlock() }
        unsafe entry.pointee.object = Unmanaged.passRetained(object)
        unsafe entry.pointee.kind = kind
        return unsafe HostHandle(rawValue: (entry.pointee.generation << UInt(Self.indexBits) | UInt(index)) << 2)
    }

    /// What a HANDLE of that kind names.
    func object(_ handle: HostHandle, _ kind: Kind) -> AnyObject? {
        guard let entry = unsafe lockedEntry(handle, kind) else { return nil }
        defer { unsafe entry.pointee.lock.unlock() }
        return unsafe entry.pointee.object?.takeUnretainedValue()
    }

    /// Takes out what a HANDLE of that kind names. One caller gets it.
    func remove(_ handle: HostHandle, _ kind: Kind) -> AnyObject? {
        lock.lock()
        defer { lock.unlock() }
        guard let entry = unsafe lockedEntry(handle, kind) else { return nil }
        defer { unsafe entry.pointee.lock.unlock() }
        let object = unsafe entry.pointee.object?.takeRetainedValue()
        unsafe entry.pointee.object = nil
        unsafe entry.pointee.kind = .none
        // Never 0, so that no HANDLE is a small number.
        unsafe entry.pointee.generation = max(1, (entry.pointee.generation + 1) & UInt.max >> UInt(Self.indexBits + 2))
        unsafe entry.pointee.nextFree = firstFree
        firstFree = Int(handle.rawValue >> 2) & (Self.capacity - 1)
        return object
    }

    private func entry(_ index: Int) -> UnsafeMutablePointer<Entry>? {
        unsafe pages[index >> Self.pageBits].load(ordering: .acquiring).map {
            unsafe $0 + index & ((1 << Self.pageBits) - 1)
        }
    }

    /// The entry of a HANDLE of that kind, locked.
    private func lockedEntry(_ handle: HostHandle, _ kind: Kind) -> UnsafeMutablePointer<Entry>? {
        guard handle.rawValue & 3 == 0 else { return nil }
        guard let entry = unsafe entry(Int(handle.rawValue >> 2) & (Self.capacity - 1)) else { return nil }
        unsafe entry.pointee.lock.lock()
        let generation = handle.rawValue >> UInt(Self.indexBits + 2)
        if unsafe entry.pointee.generation == generation, unsafe entry.pointee.kind == kind { return unsafe entry }
        unsafe entry.pointee.lock.unlock()
        return nil
    }
}
