import CLiburing
public import SystemPackage

/// Registered files, buffers and limits. All of these may be called from any thread, unless the ring has
/// ``SetupFlags/singleIssuer``; each is one system call, and none is for the path of single operations.
extension Ring {
    /// - Parameter number: the kernel's, of the registration that `call` makes.
    private func check(_ number: Int32, _ operation: String, _ call: () -> Int32) throws(RingError) -> Int {
        let code = Seam.register(submitter.fileDescriptor, number, call)
        if code < 0 { throw RingError.from(code, operation: operation) }
        return Int(code)
    }

    // MARK: Files

    /// Registers an empty table of files (`io_uring_register_files_sparse`, Linux 5.19).
    ///
    /// Entries with ``EntryFlags/fixedFile`` name a file by its index here. When the process may not have that many
    /// descriptors, liburing raises the soft limit `RLIMIT_NOFILE` and tries again.
    ///
    /// - Throws: ``RingError``: `EBUSY` when the ring has one already.
    public func registerSparseFiles(count: UInt32) throws(RingError) {
        _ = try check(IOU_REGISTER_FILES2, "Registering a table of files") {
            unsafe io_uring_register_files_sparse(handle, count)
        }
    }

    /// Registers files (`io_uring_register_files`). The kernel keeps them open until they are unregistered.
    ///
    /// - Parameter descriptors: -1 leaves a place empty.
    /// - Throws: ``RingError``: `EBUSY` when the ring has some already, `EBADF` when one is not open.
    public func registerFiles(_ descriptors: UnsafeBufferPointer<Int32>) throws(RingError) {
        _ = try check(IOU_REGISTER_FILES, "Registering files") {
            unsafe io_uring_register_files(handle, descriptors.baseAddress, UInt32(clamping: descriptors.count))
        }
    }

    /// Replaces registered files (`io_uring_register_files_update`). Operations under way keep the old ones.
    ///
    /// - Parameters:
    ///   - index: of the first one to replace.
    ///   - descriptors: -1 empties a place, -2 leaves it as it is.
    /// - Returns: how many were replaced.
    /// - Throws: ``RingError``: `ENXIO` when the ring has none, `EBADF` when the first one is not open.
    @discardableResult
    public func updateFiles(at index: UInt32, with descriptors: UnsafeBufferPointer<Int32>) throws(RingError) -> Int {
        try check(IOU_REGISTER_FILES_UPDATE, "Updating registered files") {
            unsafe io_uring_register_files_update(
                handle, index, descriptors.baseAddress, UInt32(clamping: descriptors.count))
        }
    }

    /// Puts one descriptor at an index, or -1 to empty it (`io_uring_register_files_update`).
    ///
    /// - Throws: ``RingError``: `ENXIO` when the ring has no table, `EBADF` when the descriptor is not open.
    public func updateFile(at index: UInt32, with descriptor: Int32) throws(RingError) {
        var descriptor = descriptor
        _ = try check(IOU_REGISTER_FILES_UPDATE, "Updating registered files") {
            unsafe io_uring_register_files_update(handle, index, &descriptor, 1)
        }
    }

    /// Drops the table of files (`io_uring_unregister_files`).
    ///
    /// - Throws: ``RingError``: `ENXIO` when the ring has none.
    public func unregisterFiles() throws(RingError) {
        _ = try check(IOU_UNREGISTER_FILES, "Unregistering files") { unsafe io_uring_unregister_files(handle) }
    }

    // MARK: Buffers

    /// Registers buffers for ``SubmissionEntry/readFixed(_:into:count:offset:bufferIndex:flags:)`` and its like
    /// (`io_uring_register_buffers`).
    ///
    /// The kernel pins their pages, which count against `RLIMIT_MEMLOCK`. The memory stays the caller's, and must stay
    /// mapped until they are unregistered.
    ///
    /// - Throws: ``RingError``: ``RingError/Kind/lockedMemoryLimit``, `EBUSY` when the ring has some already, `EFAULT`
    ///   when memory is not mapped.
    public func registerBuffers(_ buffers: UnsafeBufferPointer<iovec>) throws(RingError) {
        _ = try check(IOU_REGISTER_BUFFERS, "Registering buffers") {
            unsafe io_uring_register_buffers(handle, buffers.baseAddress, UInt32(clamping: buffers.count))
        }
    }

    /// Registers an empty table of buffers (`io_uring_register_buffers_sparse`, Linux 5.19).
    ///
    /// - Throws: ``RingError``: `EBUSY` when the ring has one already.
    public func registerSparseBuffers(count: UInt32) throws(RingError) {
        _ = try check(IOU_REGISTER_BUFFERS2, "Registering a table of buffers") {
            unsafe io_uring_register_buffers_sparse(handle, count)
        }
    }

    /// Replaces registered buffers (`io_uring_register_buffers_update_tag`). Operations under way keep the old ones.
    ///
    /// - Returns: how many were replaced.
    @discardableResult
    public func updateBuffers(at index: UInt32, with buffers: UnsafeBufferPointer<iovec>) throws(RingError) -> Int {
        // The kernel wants the tags, even though none is used here.
        let count = UInt32(clamping: buffers.count)
        return try check(IOU_REGISTER_BUFFERS_UPDATE, "Updating registered buffers") {
            unsafe withUnsafeTemporaryAllocation(of: UInt64.self, capacity: Int(count)) { tags in
                unsafe tags.initialize(repeating: 0)
                return unsafe io_uring_register_buffers_update_tag(
                    handle, index, buffers.baseAddress, tags.baseAddress, count)
            }
        }
    }

    /// Drops the registered buffers (`io_uring_unregister_buffers`). Waits for operations that use them.
    ///
    /// - Throws: ``RingError``: `ENXIO` when the ring has none.
    public func unregisterBuffers() throws(RingError) {
        _ = try check(IOU_UNREGISTER_BUFFERS, "Unregistering buffers") { unsafe io_uring_unregister_buffers(handle) }
    }

    // MARK: Workers

    /// Limits the worker threads that run what cannot be done without blocking (`io_uring_register_iowq_max_workers`,
    /// Linux 5.15). The limits hold for the calling thread's workers and those of threads that first submit later.
    ///
    /// - Parameters:
    ///   - bounded: for files and block devices, whose operations end by themselves; zero leaves it as it is.
    ///   - unbounded: for the rest, such as sockets; zero leaves it as it is.
    /// - Returns: the limits before.
    @discardableResult
    public func limitWorkers(
        bounded: UInt32, unbounded: UInt32
    ) throws(Errno) -> (bounded: UInt32, unbounded: UInt32) {
        var values = (bounded, unbounded)
        let code = Seam.register(submitter.fileDescriptor, IOU_REGISTER_IOWQ_MAX_WORKERS) {
            unsafe withUnsafeMutableBytes(of: &values) { bytes in
                unsafe io_uring_register_iowq_max_workers(
                    handle, bytes.baseAddress!.assumingMemoryBound(to: UInt32.self))
            }
        }
        if code < 0 { throw Errno(rawValue: -code) }
        return values
    }
}
