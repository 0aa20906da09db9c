internal import CIOCPSupport
internal import IOUring
internal import Synchronization

/// Registered files: a request that names one spares the kernel the look into the process's table of descriptors, which
/// is shared by its threads.
extension Slot {
    /// Makes an entry name the file by its place in the ring's table. The first one puts it there. Under the slot's lock.
    ///
    /// A file is put there only for a request that is about to be queued, so that whoever closes it, and waits for its
    /// requests to be taken, finds it.
    @inline(__always)
    func useRegisteredFile(_ entry: inout SubmissionEntry, _ record: OperationRecord.Pointer) {
        unsafe record.pointee.file!._withUnsafeGuaranteedRef { file in
            guard let registration = file.registration else { return }
            // Not the file, but a pipe, or a connection that was accepted on it; or nothing.
            guard entry.fileDescriptor >= 0, entry.fileDescriptor == file.descriptor else { return }
            if registration.rings & fileBit == 0 {
                guard setRegisteredFile(file.descriptor, at: registration.place) else { return }
                file.noteRegistered(in: fileBit)
            }
            entry.fileDescriptor = registration.place
            entry.flags.insert(.fixedFile)
        }
    }

    /// Puts a file into the ring's table, or takes it out. Any thread may: it touches nothing but the kernel's side.
    ///
    /// - Parameter descriptor: -1 empties the place.
    @inline(never)
    func setRegisteredFile(_ descriptor: Int32, at place: Int32) -> Bool {
        iocp_note_system_call()
        return submitter.updateFile(at: UInt32(place), with: descriptor) == 0
    }

    /// Takes a file out of the table. Returns false if it is in there still.
    func removeRegisteredFile(at place: Int32) -> Bool {
        if mayEnter { return setRegisteredFile(-1, at: place) }
        // Only the owner may.
        lock.lock()
        if isVacated {
            lock.unlock()
            return true
        }
        var entry = unsafe SubmissionEntry.updateFiles(at: UInt32(place), with: Self.noFile, count: 1)
        entry.userData = UInt64(place) << 3 | Self.placeTag
        // The ring is full: the place stays out of use, and the file open, until the port goes.
        _ = enqueue(entry)
        lock.unlock()
        submit()
        return false
    }

    private nonisolated(unsafe) static let noFile: UnsafePointer<Int32> = {
        let place = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
        unsafe place.initialize(to: -1)
        return unsafe UnsafePointer(place)
    }()
}
