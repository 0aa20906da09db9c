internal import CIOCPSupport
internal import Glibc
internal import Synchronization

/// What kind of thing a descriptor is: it decides how results are read (an empty read ends a file, breaks a pipe, and
/// is a graceful end of a stream).
public enum HandleKind: UInt8, Sendable {
    /// A regular file or block device: offsets, end of file.
    case file
    /// A pipe or FIFO, or a stream socket that plays a duplex pipe.
    case pipe
    /// A connected or listening stream socket (TCP, Unix).
    case stream
    /// A socket that keeps message boundaries (UDP, Unix datagram, seqpacket).
    case message
    /// A mail slot: a message queue with one reader.
    case mailSlot
    /// A character device, or anything else that is read and written in order.
    case device
}

/// The file object behind one or more handles: the descriptor, its association, modes and pending operations (a4).
///
/// Thread safety: `lock` guards everything that is not atomic or constant. It is held for a few instructions only and
/// is the innermost lock of all.
@safe final class FileObject: @unchecked Sendable {
    // The narrow fields first: a server has one object for each idle connection.

    let kind: HandleKind
    /// Opened for asynchronous use: only such a file may be associated (error table of section a).
    let isOverlapped: Bool
    /// Whether adopting the descriptor cleared O_NONBLOCK, so that releasing it sets it again.
    let restoresNonblocking: Bool
    /// Whether what is sent must arrive in the order of the starts.
    let sendsInOrder: Bool
    /// A reset has been reported: later failures of the connection are that reset too.
    private let sawReset = Atomic<Bool>(false)
    /// The user shut the receiving side: an empty receive is that, not the peer's end.
    private let receiveIsShut = Atomic<Bool>(false)
    /// The same for the sending side: a send that fails for it is not the peer's doing.
    private let sendIsShut = Atomic<Bool>(false)
    /// Whether the socket has ever had a peer: one that cannot be sent on without ever having had is not connected.
    private let wasConnected = Atomic<Bool>(false)
    /// One of ``Path``.
    private let pathByte = Atomic<UInt8>(Path.unknown)
    private(set) var modes: NotificationModes = []
    /// The last handle is closed: pending operations are ending.
    private var closed = false
    private var keepsItself = false
    /// A request that names the descriptor may be queued where the kernel takes nothing.
    private var keepsNumber = false

    let birth = Birth()
    private let lock = SpinLock()
    private(set) var descriptor: Int32
    private var references: Int32 = 1
    /// The number of the start of `awaited`.
    private var awaitedNumber: UInt32 = 0
    /// The file object's own event (e10).
    private let signal = EventWord(isSet: false)

    private(set) var port: PortCore?
    private(set) var key: UInt = 0
    /// What a face owes for operations on this object; set with the port.
    private(set) var ledger: Ledger?
    /// Where the tables of registered files of the port's rings hold it; set with the port, retained for good. Every request
    /// looks at it: a reference that is counted would cost more than all else that it does there.
    private var filePlace: Unmanaged<FilePlace>?
    private var pending: OperationRecord.Pointer?
    // Under `lock`: the run-time check of exclusivity would cost more than all else that is done under it.
    @exclusivity(unchecked) private var incoming = Lane()
    @exclusivity(unchecked) private var outgoing = Lane()
    /// The accept that is to put its connection into this object's descriptor: claimed or pending, or it is taken from
    /// here. It keeps itself alive, and its listener.
    private var awaited: OperationRecord.Pointer?

    init(descriptor: Int32, kind: HandleKind, isOverlapped: Bool = true, restoresNonblocking: Bool = false) {
        self.descriptor = descriptor
        self.kind = kind
        sendsInOrder = kind != .message || Self.isSequenced(descriptor)
        self.isOverlapped = isOverlapped
        self.restoresNonblocking = restoresNonblocking
    }

    deinit {
        leave(takeRegistration())
        unsafe filePlace?.release()
        if descriptor >= 0 { _ = iocp_close(descriptor) }
        port?.removeFile()
    }

    /// Whether a socket that keeps messages apart keeps them in order as well.
    private static func isSequenced(_ descriptor: Int32) -> Bool {
        var type: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        _ = unsafe getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &size)
        return type == Int32(SOCK_SEQPACKET.rawValue)
    }

    // MARK: Association

    /// Binds the file object to a port, once for its life (a4).
    func associate(_ port: PortCore, key: UInt, ledger: Ledger? = nil) throws(PortError) {
        try port.addFile()
        let place = port.fileTable?.take()
        do throws(PortError) {
            try bind(port, key, ledger, place.map { FilePlace($0) })
        } catch {
            if let place { port.fileTable?.giveBack(place) }
            port.removeFile()
            throw error
        }
    }

    private func bind(_ port: PortCore, _ key: UInt, _ ledger: Ledger?, _ place: FilePlace?) throws(PortError) {
        try refuseIfInherited()
        lock.lock()
        guard !closed else {
            lock.unlock()
            throw .handleClosed
        }
        guard isOverlapped else {
            lock.unlock()
            throw .invalid("the handle was not opened for overlapped I/O; open it with overlapped: true")
        }
        guard self.port == nil else {
            lock.unlock()
            throw .invalid(
                "the file object is associated with a port already, and stays so until its last handle is closed")
        }
        self.port = port
        self.key = key
        self.ledger = ledger
        unsafe filePlace = place.map { unsafe Unmanaged.passRetained($0) }
        if let ledger {
            // Those that are under way will have packets, too (a9).
            var next = unsafe pending
            while let record = unsafe next {
                if unsafe record.pointee.isOwedPacket { ledger.owe() }
                unsafe next = record.pointee.next
            }
        }
        let setsEvent = !modes.contains(.skipSetEventOnHandle)
        lock.unlock()
        if setsEvent { setSignal() }  // a8
    }

    /// The port, if the object is associated.
    var association: (port: PortCore, key: UInt)? {
        lock.lock()
        defer { lock.unlock() }
        return port.map { ($0, key) }
    }

    func addModes(_ added: NotificationModes) throws(PortError) {
        lock.lock()
        defer { lock.unlock() }
        guard !closed else { throw .handleClosed }
        guard isOverlapped else {
            throw .invalid("notification modes need a handle that was opened for overlapped I/O")
        }
        modes.formUnion(added)  // e16: bits are only ever added
    }

    /// Fails in the child of a fork: what is pending on the object is the parent's.
    func refuseIfInherited() throws(PortError) {
        if birth.isInherited { throw .handleOfParent }
    }

    // MARK: Pending operations

    /// Enters an operation into the list of the pending ones and into its lane, and resets what its end will set (e2);
    /// or says that the handle is closed.
    ///
    /// Returns the port whose rings are to carry it, nil if the object is not associated yet; and whether it is its turn
    /// at once. If not, whoever ends the operation before it pushes it, from now on at any moment.
    @inline(__always)
    func begin(
        _ record: OperationRecord.Pointer
    ) throws(PortError) -> (port: Unmanaged<PortCore>?, isItsTurn: Bool) {
        if birth.isInherited { throw .handleOfParent }
        lock.lock()
        guard !closed else {
            lock.unlock()
            throw .handleClosed
        }
        if unsafe isOccupied(for: record.pointee.lane) {
            lock.unlock()
            throw Self.occupied
        }
        // Before it is in the list, under the lock: whoever closes the ledger and then the pending operations misses none.
        if unsafe record.pointee.owner == nil, let ledger {
            guard !ledger.isClosed else {
                lock.unlock()
                throw PortError(
                    .invalidHandle, "the port that the handle is bound to is closed: no packet could be delivered")
            }
            if unsafe record.pointee.isOwedPacket { ledger.owe() }
        }
        unsafe record.pointee.event?._withUnsafeGuaranteedRef { $0.reset() }
        signal.reset()
        let first = unsafe pending
        unsafe record.pointee.next = first
        unsafe record.pointee.previous = nil
        unsafe first?.pointee.previous = record
        unsafe pending = record
        let port = unsafe self.port.map { unsafe Unmanaged.passUnretained($0) }
        let isItsTurn = unsafe record.pointee.lane == .none || enterLane(record)
        lock.unlock()
        return unsafe (port, isItsTurn)
    }

    @safe struct Completion {
        var port: Unmanaged<PortCore>?
        var key: UInt
        var modes: NotificationModes
        /// The object kept itself alive for its pending operations and this was the last: release it when no lock is held.
        var drained: Bool
        /// The operation of the same lane whose turn has come: to be pushed.
        var next: OperationRecord.Pointer? = nil
        /// A thread sleeps on the operation's state.
        var isAwaited = false
    }

    /// Takes an operation out of the pending ones, writes its status and says where its packet goes.
    ///
    /// Signals the object, if that is wanted, within the lock: after it, a close may be the end of the object.
    @inline(__always)
    func end(_ record: OperationRecord.Pointer, status: UInt32, signals: Bool) -> Completion {
        lock.lock()
        defer { lock.unlock() }
        return unsafe endLocked(record, status: status, signals: signals)
    }

    /// The same if the object has no port, so that there is no packet; else does nothing and returns nil.
    func endUnassociated(_ record: OperationRecord.Pointer, status: UInt32, signals: Bool) -> Completion? {
        lock.lock()
        defer { lock.unlock() }
        guard port == nil else { return nil }
        return unsafe endLocked(record, status: status, signals: signals)
    }

    @inline(__always)
    private func endLocked(_ record: OperationRecord.Pointer, status: UInt32, signals: Bool) -> Completion {
        let next = unsafe record.pointee.next
        let previous = unsafe record.pointee.previous
        if let previous = unsafe previous {
            unsafe previous.pointee.next = next
        } else {
            unsafe pending = next
        }
        unsafe next?.pointee.previous = previous
        let drained = unsafe keepsItself && pending == nil
        if drained { noteDrained() }
        let successor = unsafe record.pointee.lane == .none ? nil : advanceLane(record)
        let before = unsafe record.pointee.state.exchange(status, ordering: .sequentiallyConsistent)
        if signals, !modes.contains(.skipSetEventOnHandle) { setSignal() }  // e10
        return unsafe Completion(
            port: port.map { unsafe Unmanaged.passUnretained($0) }, key: key, modes: modes,
            drained: drained, next: successor, isAwaited: before & OperationRecord.waiterBit != 0)
    }

    /// The last pending operation of a closed object has ended.
    @inline(never)
    private func noteDrained() {
        keepsItself = false
        // Locks are held.
        if keepsNumber { IOThread.current.graveyard.append(LateClose(self)) }
    }

    /// Closes the descriptor of an object whose number had to be kept.
    private final class LateClose {
        private let file: FileObject
        init(_ file: FileObject) { self.file = file }
        deinit { file.closeDescriptor() }
    }

    // MARK: Registered files and buffers

    /// How the bytes of a file come: looked up when it is first of use.
    private enum Path {
        static let unknown: UInt8 = 0
        /// Through the page cache.
        static let cached: UInt8 = 1
        /// Past it.
        static let direct: UInt8 = 2
        /// Through it, or no one knows how, and its file system cannot tell whether a read would have to wait.
        static let slow: UInt8 = 3
    }

    private var path: UInt8 {
        let known = pathByte.load(ordering: .relaxed)
        return known == Path.unknown ? lookUpPath() : known
    }

    @inline(never)
    private func lookUpPath() -> UInt8 {
        if kind != .file { return Path.slow }
        let flags = fcntl(descriptor, F_GETFL)
        guard flags >= 0 else { return Path.slow }
        let path = flags & iocp_open_direct != 0 ? Path.direct : Path.cached
        pathByte.store(path, ordering: .relaxed)
        return path
    }

    /// Whether it is a file that is read and written past the page cache: only there are registered buffers of use.
    var isDirect: Bool { kind == .file && path == Path.direct }

    /// Whether no read of it is tried at once.
    var isReadSlowly: Bool { path == Path.slow }

    /// More than that is read through a ring: whoever closes the file waits for a read at once to come back.
    private static let mostAtOnce = 128 << 10

    /// Performs a pending read if the bytes lie in the page cache, all that there are to the end of the file. Returns how
    /// many; 0 if it is to go through a ring.
    ///
    /// But for the copy, the system call costs about half of an entry into a ring.
    @inline(never)
    func readAtOnce(_ record: OperationRecord.Pointer) -> Int {
        let length = unsafe record.pointee.length
        let offset = unsafe Int64(bitPattern: record.pointee.offset)
        guard length > 0, length <= Self.mostAtOnce, offset >= 0, path == Path.cached else { return 0 }
        let result = unsafe iocp_read_cached(descriptor, record.pointee.memory!, length, offset)
        if result == length { return length }
        switch -result {
        // Nor will it another time: the file system does not know, or the kernel does not let it be asked.
        case EOPNOTSUPP, EINVAL, ENOSYS, EPERM, ESPIPE, EBADF: pathByte.store(Path.slow, ordering: .relaxed)
        default: break
        }
        // Cut by the end, or by a page that is not there.
        return result > 0 && isEnd(offset + Int64(result)) ? Int(result) : 0
    }

    private func isEnd(_ offset: Int64) -> Bool {
        var info = stat()
        iocp_note_system_call()
        return unsafe fstat(descriptor, &info) == 0 && info.st_mode & S_IFMT == S_IFREG && info.st_size == offset
    }

    /// Where rings of its port hold the file besides its descriptor; nil if it has no place in their tables.
    @inline(__always)
    var registration: FilePlace.Registration? { unsafe filePlace?._withUnsafeGuaranteedRef { $0.registration } }

    /// A ring has been given the file. Under its slot's lock.
    @inline(__always)
    func noteRegistered(in ring: UInt64) { unsafe filePlace?._withUnsafeGuaranteedRef { $0.note(ring) } }

    /// The file has no place any more; the rings are to let go of it (``leave(_:)``).
    private func takeRegistration() -> FilePlace.Registration? {
        guard let taken = unsafe filePlace?._withUnsafeGuaranteedRef({ $0.take() }) else { return nil }
        // In the child of a fork the rings are the parent's.
        return birth.isInherited ? nil : taken
    }

    /// The rings let go of the file, so that closing the descriptor closes it. To be called where the descriptor's number
    /// may be given back: no request names it, or the place, that the kernel has not taken. No lock is held.
    private func leave(_ registration: FilePlace.Registration?) {
        if let registration { port?.unregister(registration) }
    }

    /// The same, where locks are held.
    private final class LateLeave {
        private let file: FileObject
        private let registration: FilePlace.Registration?
        init(_ file: FileObject) {
            self.file = file
            registration = file.takeRegistration()
        }
        deinit { file.leave(registration) }
    }

    // MARK: Lanes

    /// The operations of one direction: one is in the kernel, the others wait for their turn. The kernel would serve
    /// several in any order, and mix the parts of those that are served in several steps (g26, e26b).
    @safe private struct Lane {
        var active: OperationRecord.Pointer?
        /// The last one that waits. They are linked in a ring by `nextQueued`: the one behind the last is the first.
        var last: OperationRecord.Pointer?
    }

    /// Which lane an operation takes its turn in. Files have offsets, and datagrams need no order when they are sent.
    @inline(__always)
    func lane(of operation: OperationKind) -> OperationRecord.Lane {
        if kind == .file { return .none }
        switch operation {
        case .read, .readVectored, .zeroByteRead, .receive, .zeroByteReceive, .receiveMessage, .receiveContinuously:
            return .incoming
        case .write, .writeVectored, .send, .sendMessage, .sendZeroCopy: return sendsInOrder ? .outgoing : .none
        case .transmitFile, .shutdown, .disconnect: return .outgoing
        case .transact: return .both
        default: return .none
        }
    }

    /// Whether a transaction keeps an operation away, or others a transaction. Under the lock.
    @inline(__always)
    private func isOccupied(for lane: OperationRecord.Lane) -> Bool {
        switch lane {
        case .none: false
        case .incoming: unsafe incoming.active?.pointee.lane == .both
        case .outgoing: unsafe outgoing.active?.pointee.lane == .both
        case .both: unsafe incoming.active != nil || outgoing.active != nil
        }
    }

    private static var occupied: PortError {
        .invalid(
            "a transaction is the only operation on its socket: dequeue the packet of what is in flight there, or cancel it, first"
        )
    }

    /// Under the lock.
    @inline(__always)
    private func enterLane(_ record: OperationRecord.Pointer) -> Bool {
        switch unsafe record.pointee.lane {
        case .incoming: return unsafe Self.enter(&incoming, record)
        case .both:
            unsafe incoming.active = record
            unsafe outgoing.active = record
            return true
        default: return unsafe Self.enter(&outgoing, record)
        }
    }

    @inline(__always)
    private static func enter(_ lane: inout Lane, _ record: OperationRecord.Pointer) -> Bool {
        if unsafe lane.active == nil {
            unsafe lane.active = record
            return true
        }
        if let last = unsafe lane.last {
            unsafe record.pointee.nextQueued = last.pointee.nextQueued
            unsafe last.pointee.nextQueued = record
        } else {
            unsafe record.pointee.nextQueued = record
        }
        unsafe lane.last = record
        return false
    }

    enum Leaving {
        /// It does not wait in a lane, or not any more.
        case notThere
        /// It was taken out.
        case left
        /// All before it are to end as well: it stays, so that they end in order.
        case soon
    }

    /// Takes an operation that is to end out of its lane, if it waits in one of this object's.
    ///
    /// Nothing of the record is read before it is found: it may be another start's, of another file's, just being filled.
    func leaveLane(_ start: PendingStart) -> Leaving {
        lock.lock()
        defer { lock.unlock() }
        let leaving = unsafe Self.leave(&incoming, start, closed: closed)
        if case .notThere = leaving { return unsafe Self.leave(&outgoing, start, closed: closed) }
        return leaving
    }

    private static func leave(_ lane: inout Lane, _ start: PendingStart, closed: Bool) -> Leaving {
        let record = unsafe start.record
        guard let last = unsafe lane.last else { return .notThere }
        var previous = unsafe last
        var allEnd = unsafe closed || lane.active?.pointee.isCancelRequested == true
        repeat {
            let waiting = unsafe previous.pointee.nextQueued!
            if unsafe waiting == record {
                let number = unsafe record.pointee.startNumber.load(ordering: .relaxed)
                if number != start.number { return .notThere }
                if allEnd { return .soon }
                if unsafe waiting == previous {
                    unsafe lane.last = nil
                } else {
                    unsafe previous.pointee.nextQueued = waiting.pointee.nextQueued
                    if unsafe last == record { unsafe lane.last = previous }
                }
                return .left
            }
            if unsafe !closed && !waiting.pointee.isCancelRequested { allEnd = false }
            unsafe previous = waiting
        } while unsafe previous != last
        return .notThere
    }

    /// A pending operation begins only now. Returns whether it is its turn; if not, whoever ends the one before pushes it.
    /// Nil if a transaction keeps it away.
    func takeTurn(_ record: OperationRecord.Pointer) -> Bool? {
        lock.lock()
        defer { lock.unlock() }
        let lane = unsafe lane(of: record.pointee.kind)
        if isOccupied(for: lane) { return nil }
        unsafe record.pointee.lane = lane
        return unsafe lane == .none || enterLane(record)
    }

    /// An operation lets others have their turn before its end. Returns the one whose turn has come.
    func leaveTurn(_ record: OperationRecord.Pointer) -> OperationRecord.Pointer? {
        lock.lock()
        defer { lock.unlock() }
        guard unsafe record.pointee.lane != .none else { return nil }
        let next = unsafe advanceLane(record)
        unsafe record.pointee.lane = .none
        return unsafe next
    }

    /// The operation whose turn comes when this one ends, if it had its turn. Under the lock.
    @inline(__always)
    private func advanceLane(_ record: OperationRecord.Pointer) -> OperationRecord.Pointer? {
        switch unsafe record.pointee.lane {
        case .incoming: return unsafe Self.advance(&incoming, record)
        case .both:
            // It is the active one of both, and nobody waits behind it.
            unsafe incoming.active = nil
            unsafe outgoing.active = nil
            return nil
        default: return unsafe Self.advance(&outgoing, record)
        }
    }

    @inline(__always)
    private static func advance(
        _ lane: inout Lane, _ record: OperationRecord.Pointer
    ) -> OperationRecord.Pointer? {
        guard unsafe lane.active == record else { return nil }
        guard let last = unsafe lane.last else {
            unsafe lane.active = nil
            return nil
        }
        let next = unsafe last.pointee.nextQueued!
        unsafe lane.active = next
        if unsafe next == last {
            unsafe lane.last = nil
        } else {
            unsafe last.pointee.nextQueued = next.pointee.nextQueued
        }
        return unsafe next
    }

    /// Whether the last handle is closed, so that pending operations are to end.
    var isClosing: Bool {
        lock.lock()
        defer { lock.unlock() }
        return closed
    }

    /// The association as a completion of a continuous operation needs it, the operation going on.
    @inline(__always)
    func peek() -> Completion {
        lock.lock()
        defer { lock.unlock() }
        return unsafe Completion(
            port: port.map { unsafe Unmanaged.passUnretained($0) }, key: key, modes: modes,
            drained: false)
    }

    /// An operation as it was pending: started again, it is another's to cancel.
    @safe struct PendingStart {
        let record: OperationRecord.Pointer
        let number: UInt32
        /// Where it is pending. The record may belong to another start, on another file, by the time it is looked at.
        let file: FileObject
        /// Keeps the record where it is.
        let keeper: AnyObject

        /// Made under the lock of a file object in which the operation is pending or awaited.
        init(_ record: OperationRecord.Pointer, of file: FileObject, number: UInt32? = nil) {
            unsafe self.record = unsafe record
            self.file = file
            unsafe self.number = number ?? record.pointee.startNumber.load(ordering: .relaxed)
            if let owner = unsafe record.pointee.owner {
                keeper = unsafe owner.takeUnretainedValue()
            } else {
                keeper = unsafe RecordHold(record, of: file)
            }
        }
    }

    /// The pending operations that `wanted` accepts, oldest first, each kept alive by the result.
    func pendingOperations(where wanted: (OperationRecord.Pointer) -> Bool) -> [PendingStart] {
        lock.lock()
        defer { lock.unlock() }
        var found: [PendingStart] = []
        var next = unsafe pending
        while let record = unsafe next {
            if unsafe wanted(record) { unsafe found.append(PendingStart(record, of: self)) }
            unsafe next = record.pointee.next
        }
        // In the order of their starts, so that their packets come in it too.
        return found.reversed()
    }

    var hasPending: Bool {
        lock.lock()
        defer { lock.unlock() }
        return unsafe pending != nil
    }

    // MARK: References

    func retainHandle() throws(PortError) {
        lock.lock()
        defer { lock.unlock() }
        guard !closed else { throw .handleClosed }
        references += 1
    }

    enum Release {
        case othersRemain
        /// It was the last handle: whoever gave it up closes the descriptor, after the pending operations were ended.
        case last(hasPending: Bool)
    }

    /// One handle less.
    func releaseHandle() -> Release {
        lock.lock()
        references -= 1
        guard references == 0 else {
            lock.unlock()
            return .othersRemain
        }
        closed = true
        // In the child of a fork nothing is: the parent goes on with it.
        let waits = unsafe pending != nil && !birth.isInherited
        if waits {
            keepsItself = true
            _ = unsafe Unmanaged.passRetained(self)
        }
        lock.unlock()
        return .last(hasPending: waits)
    }

    /// Gives the descriptor away: only while nothing is pending and one handle exists. In the child of a fork, nothing is
    /// pending, and the descriptor stays blocking, since it is the parent's as well.
    func surrenderDescriptor() throws(PortError) -> Int32 {
        let given = try takeDescriptor()
        leave(takeRegistration())
        if restoresNonblocking && !birth.isInherited { _ = fcntl(given, F_SETFL, fcntl(given, F_GETFL) | O_NONBLOCK) }
        return given
    }

    private func takeDescriptor() throws(PortError) -> Int32 {
        lock.lock()
        defer { lock.unlock() }
        guard !closed else { throw .handleClosed }
        guard unsafe pending == nil || birth.isInherited else {
            throw .invalid("operations are pending on the handle; cancel them and dequeue their packets first")
        }
        guard references == 1 else {
            throw .invalid("the handle has duplicates; close them before the descriptor is released")
        }
        closed = true
        references = 0
        let given = descriptor
        descriptor = -1
        return given
    }

    /// Makes a system call on the descriptor that does not block, while nobody can close it: its number may be another
    /// file's a moment later. `call` returns a negative number on failure. Returns 0 or the errno.
    func onDescriptor(_ call: (Int32) -> Int32) throws(PortError) -> Int32 {
        lock.lock()
        defer { lock.unlock() }
        guard !closed, descriptor >= 0 else { throw .handleClosed }
        return call(descriptor) < 0 ? errno : 0
    }

    /// The descriptor is not to be closed before the last pending operation has ended: a request may name its number.
    func keepNumber() {
        lock.lock()
        keepsNumber = true
        lock.unlock()
    }

    /// Closes the descriptor, at most once.
    func closeDescriptor() {
        lock.lock()
        // The last of the pending ones closes it.
        if unsafe keepsNumber && pending != nil {
            lock.unlock()
            return
        }
        let given = descriptor
        descriptor = -1
        lock.unlock()
        guard given >= 0 else { return }
        leave(takeRegistration())
        _ = iocp_close(given)
    }

    // MARK: Sockets

    /// One or both directions have been ended from this side: SHUT_RD, SHUT_WR or SHUT_RDWR.
    func noteShutdown(_ direction: Int32) {
        if direction != Int32(SHUT_WR) { receiveIsShut.store(true, ordering: .relaxed) }
        if direction != Int32(SHUT_RD) { sendIsShut.store(true, ordering: .relaxed) }
    }
    var hasReceiveShut: Bool { receiveIsShut.load(ordering: .relaxed) }
    var hasSendShut: Bool { sendIsShut.load(ordering: .relaxed) }
    func noteConnection() { wasConnected.store(true, ordering: .relaxed) }
    var hasBeenConnected: Bool { wasConnected.load(ordering: .relaxed) }
    func noteReset() { sawReset.store(true, ordering: .relaxed) }
    var hasSeenReset: Bool { sawReset.load(ordering: .relaxed) }

    /// Puts a fresh, unconnected socket of the same kind under the descriptor. The old one closes gracefully behind it.
    /// Returns 0 or an errno.
    func replaceWithFreshSocket() -> Int32 {
        lock.lock()
        defer { lock.unlock() }
        var domain: Int32 = 0
        var type: Int32 = 0
        var proto: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        guard unsafe getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0,
            unsafe getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &size) == 0,
            unsafe getsockopt(descriptor, SOL_SOCKET, SO_PROTOCOL, &proto, &size) == 0
        else { return errno }
        let fresh = iocp_socket(domain, type, proto)
        if fresh < 0 { return -fresh }
        return replace(with: fresh)
    }

    /// Puts a descriptor in the place of this object's, which keeps its number. Takes the descriptor over.
    /// Returns 0 or an errno.
    func adoptConnection(_ accepted: Int32) -> Int32 {
        lock.lock()
        defer { lock.unlock() }
        unsafe awaited = nil
        guard descriptor >= 0, !closed else {
            _ = iocp_close(accepted)
            return ECANCELED
        }
        let code = replace(with: accepted)
        if code == 0 { noteConnection() }
        return code
    }

    private func replace(with other: Int32) -> Int32 {
        let result = iocp_replace(other, descriptor)
        let code = result < 0 ? -result : 0
        _ = iocp_close(other)
        if code == 0, let registration {
            // What the rings hold under its place is the old file still.
            if port?.reregister(registration, descriptor) == false {
                IOThread.current.graveyard.append(LateLeave(self))
            }
        }
        sawReset.store(false, ordering: .relaxed)
        receiveIsShut.store(false, ordering: .relaxed)
        sendIsShut.store(false, ordering: .relaxed)
        wasConnected.store(false, ordering: .relaxed)
        return code
    }

    /// Says that an accept will put its connection here, so that closing this handle can end it (e30).
    ///
    /// - Parameter record: claimed; it holds this object as its target from now on.
    func await(_ record: OperationRecord.Pointer, from listener: FileObject) throws(PortError) {
        try refuseIfInherited()
        lock.lock()
        defer { lock.unlock() }
        guard !closed else { throw .handleClosed }
        guard unsafe awaited == nil else { throw .invalid("another accept waits for this socket already") }
        // The number of the start that follows: the record is claimed.
        awaitedNumber = unsafe record.pointee.startNumber.load(ordering: .relaxed) &+ 1
        unsafe awaited = record
        unsafe record.pointee.file = Unmanaged.passUnretained(listener)
        unsafe record.pointee.target = Unmanaged.passRetained(self)
    }

    /// The accept does not wait for this socket any more, if it was that one.
    func endAwaiting(_ record: OperationRecord.Pointer) {
        lock.lock()
        defer { lock.unlock() }
        if unsafe awaited == record { unsafe awaited = nil }
    }

    /// The accept that was to be started was not.
    func abandonAwaiting(_ record: OperationRecord.Pointer) {
        unsafe endAwaiting(record)
        unsafe record.pointee.target?.release()
        unsafe record.pointee.target = nil
    }

    /// The accept that waits to put its connection here, if any, and its listener; it waits no longer.
    func takeAwaiting() -> (start: PendingStart, listener: FileObject)? {
        lock.lock()
        defer { lock.unlock() }
        guard !birth.isInherited, let waiting = unsafe awaited else { return nil }
        unsafe awaited = nil
        let listener = unsafe waiting.pointee.file!.takeUnretainedValue()
        return unsafe (PendingStart(waiting, of: listener, number: awaitedNumber), listener)
    }

    // MARK: The object's own event

    @inline(__always)
    func setSignal() { signal.setUnlessSet() }

    var isSignaled: Bool { signal.isSet }

    func waitForSignal(_ deadline: Deadline) -> Bool { signal.wait(deadline, resetsAutomatically: false) }
}

/// A spin lock for a handful of instructions: taking it is one atomic operation, giving it back a plain store.
struct SpinLock: ~Copyable {
    /// 0 free, else the number of the process that holds it; one of another process is free (``FutexLock``).
    private let word = Atomic<UInt32>(0)

    @inline(__always)
    borrowing func lock() {
        let held = iocp_generation()
        if word.exchange(held, ordering: .acquiring) == held { spin(held) }
    }

    @inline(__always)
    borrowing func unlock() {
        word.store(0, ordering: .releasing)
    }

    @inline(never)
    private borrowing func spin(_ held: UInt32) {
        var rounds = 0
        while word.load(ordering: .relaxed) == held || word.exchange(held, ordering: .acquiring) == held {
            rounds += 1
            // The holder may have been preempted on this very processor.
            if rounds < 64 { iocp_cpu_relax() } else { iocp_yield() }
        }
    }
}
