internal import Synchronization

/// What a face owes to its users for the operations on one file object: hand-overs of packets.
///
/// Faces are other shapes of this library, built on it in modules of their own. A ledger is opened when a file object is
/// associated; the face settles each packet of an operation in its users' memory once it has handed it over.
package final class Ledger: Sendable {
    /// Operations that were started and whose packets have not been handed over yet.
    private let count = Atomic<Int>(0)
    private let closed = Atomic<Bool>(false)
    private let onSettled: @Sendable () -> Void

    /// - Parameter onSettled: called at each settlement once the ledger is closed, on any thread, under no lock.
    package init(onSettled: @escaping @Sendable () -> Void) {
        self.onSettled = onSettled
    }

    /// Refuses further starts. Those that were not refused are among the pending ones of the file by now, or over.
    package func close() { closed.store(true, ordering: .sequentiallyConsistent) }

    package var isClosed: Bool { closed.load(ordering: .sequentiallyConsistent) }

    package var owed: Int { count.load(ordering: .sequentiallyConsistent) }

    @inline(__always)
    func owe() { count.add(1, ordering: .sequentiallyConsistent) }

    /// A packet was handed over, or will not come.
    package func settle() {
        count.subtract(1, ordering: .sequentiallyConsistent)
        if isClosed { onSettled() }
    }
}

/// A face that provides the threads of its port, and is told when there are too few.
package protocol PortAttendant: AnyObject, Sendable {
    /// Packets are queued, and no thread waits for them. Called on any thread, under no lock.
    func packetsWait()
    /// The monitor's look, while threads of the port are out in user code. Returns whether it is to look again.
    func look() -> Bool
}

extension CompletionPort {
    /// A port whose threads an attendant provides, and which keeps it alive until ``dismissAttendant()``.
    package convenience init(
        concurrencyLimit: Int, options: Options, attendant: any PortAttendant
    ) throws(PortError) {
        try self.init(concurrencyLimit: concurrencyLimit, options: options)
        core.attend(attendant)
    }

    package func dismissAttendant() { core.attend(nil) }

    /// Whether the attendant is to be told of packets that wait.
    package func setAttendance(_ wanted: Bool) { core.setAttendance(wanted) }

    /// Whether packets seem to be queued, at a glance. Ordered after what the caller wrote before.
    package var seemsQueued: Bool {
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return core.isQueuedMirror.load(ordering: .relaxed)
    }

    /// Associates a handle, with the address of a ledger as its key.
    package func associate(_ handle: IOHandle, ledger: Ledger) throws(PortError) {
        let key = unsafe UInt(bitPattern: Unmanaged.passUnretained(ledger).toOpaque())
        try handle.opened().associate(try open(.modify), key: key, ledger: ledger)
    }

    /// The file object of a handle, which may be closed meanwhile. Not a weak reference: those make counting slower.
    package struct BoundFile {
        private let file: FileObject

        package init(_ handle: IOHandle) { file = handle.file }

        /// Whether its last handle is closed and nothing is pending on it.
        package var isGone: Bool { file.isClosing && !file.hasPending }

        /// Asks for the end of everything that is pending on it.
        package func cancelAll() {
            for start in unsafe file.pendingOperations(where: { _ in true }) { _ = Engine.cancel(start) }
        }
    }
}
