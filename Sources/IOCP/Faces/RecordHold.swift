internal import CIOCPSupport
internal import Synchronization

/// Keeps a record that lies in memory of a face's user where it is, while a thread looks at it from outside: to cancel
/// it, or to close its file.
///
/// The user may free the memory as soon as he is told that the operation is over, so he is told by the last holder. Holds
/// are taken under the lock of a file object in whose list the record is; a completer that has taken it out of the
/// list sees every hold that there will be.
@safe final class RecordHold {
    private let record: OperationRecord.Pointer
    private let file: FileObject

    init(_ record: OperationRecord.Pointer, of file: FileObject) {
        unsafe self.record = unsafe record
        self.file = file
        unsafe record.pointee.holders.add(1, ordering: .sequentiallyConsistent)
    }

    deinit {
        let left = unsafe record.pointee.holders.subtract(1, ordering: .sequentiallyConsistent).newValue
        if left == OperationRecord.endedBit {
            unsafe record.pointee.holders.store(0, ordering: .relaxed)
            unsafe Engine.concludeHeld(record, of: file)
        }
    }

    /// Whether the record, which is over, is held, and the last holder goes on with it.
    @inline(__always)
    static func takesOver(_ record: OperationRecord.Pointer, _ auxiliary: Int32, _ flags: PacketEntry.Flags) -> Bool {
        if unsafe record.pointee.holders.load(ordering: .acquiring) == 0 { return false }
        unsafe record.pointee.inlineAuxiliary = auxiliary
        unsafe record.pointee.inlineFlags = flags
        let before = unsafe record.pointee.holders.bitwiseOr(
            OperationRecord.endedBit, ordering: .sequentiallyConsistent
        ).oldValue
        if before != 0 { return true }
        unsafe record.pointee.holders.store(0, ordering: .relaxed)
        return false
    }

    /// Waits until nobody holds the record. For a caller without locks: holders take some.
    static func awaitNone(_ record: OperationRecord.Pointer) {
        while unsafe record.pointee.holders.load(ordering: .acquiring) != 0 { iocp_yield() }
    }
}
