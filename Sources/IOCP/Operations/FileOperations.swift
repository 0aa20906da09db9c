internal import CIOCPSupport
internal import Glibc
internal import IOUring
internal import Synchronization

extension File {
    /// Starts to write what the kernel holds of the file to the disk.
    ///
    /// - Parameter dataOnly: leaves out what is not needed to read the data back.
    ///
    /// The corresponding Win32 function is `FlushFileBuffers`, which queues nothing; io_uring's operation is FSYNC.
    @discardableResult
    public func synchronize(
        _ operation: Operation, dataOnly: Bool = false, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try startPlain(operation, unsafe Engine.Request(kind: dataOnly ? .synchronizeData : .synchronize), start)
    }

    /// Starts to reserve disk space, and to lengthen the file if the range ends beyond it.
    ///
    /// - Parameters:
    ///   - offset: bytes from the beginning.
    ///   - length: bytes, more than 0.
    ///   - keepsLength: reserves beyond the end without moving it.
    ///
    /// The corresponding Win32 call is `SetFileInformationByHandle` with `FileAllocationInfo`; io_uring's is FALLOCATE.
    @discardableResult
    public func allocate(
        _ operation: Operation, offset: Int64, length: Int64, keepsLength: Bool = false, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        guard offset >= 0, length > 0 else {
            throw .invalid("a range to allocate starts at 0 or later and is not empty")
        }
        return try startPlain(
            operation,
            unsafe Engine.Request(
                kind: .allocate, length: Int(length), offset: UInt64(offset),
                callFlags: keepsLength ? Int32(IOCP_FALLOCATE_KEEP_SIZE) : 0), start)
    }

    /// Starts to cut or lengthen the file.
    ///
    /// Kernels before 6.9 have no such request: there the calling thread cuts the file, and the packet follows.
    ///
    /// - Parameter length: bytes.
    ///
    /// The corresponding Win32 function is `SetEndOfFile`; io_uring's operation is FTRUNCATE.
    @discardableResult
    public func truncate(
        _ operation: Operation, to length: Int64, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        guard length >= 0 else { throw .invalid("a file cannot have a negative length") }
        if truncationIsRequest.load(ordering: .relaxed) {
            return try startPlain(operation, unsafe Engine.Request(kind: .truncate, offset: UInt64(length)), start)
        }
        return try operation.claimed { () throws(PortError) in
            let file = try opened()
            var code: Int32 = 0
            repeat {
                code = ftruncate(file.descriptor, off_t(length)) == 0 ? 0 : errno
            } while code == EINTR
            // The packet comes with a request that does nothing.
            return unsafe try Engine.start(
                operation, on: file, Engine.Request(kind: .truncateByCaller, offset: UInt64(length), callFlags: code),
                start)
        }
    }
}

/// Whether the kernel has a request that cuts a file. Looked up once; a test turns it off.
let truncationIsRequest: Atomic<Bool> = Atomic((try? Capabilities.probe())?.supports(.truncate) ?? false)

extension IOHandle {
    /// Starts an operation that moves no data.
    final func startPlain(
        _ operation: Operation, _ request: Engine.Request, _ start: Start
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            try Engine.start(operation, on: opened(), request, start)
        }
    }
}
