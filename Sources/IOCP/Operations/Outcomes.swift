internal import CIOCPSupport
internal import Glibc
internal import IOUring
internal import Synchronization

/// How the kernel's answer to a request is read: the end of the operation, one of its packets, or another step.
enum Outcomes {
    enum Step {
        /// Another request is to be queued for the record.
        case again
        /// The record waits for a buffer of its group.
        case paused
        /// A request was queued that is not the operation's own; another completion tells.
        case asked
        /// The kernel tells later that it needs the memory no more. `isSent`: the next of the lane may begin.
        case awaitsNotification(isSent: Bool)
        /// One packet of several. `rearms`: the kernel has stopped, the request must be queued again.
        case goesOn(CompletionStatus, UInt, auxiliary: Int32, PacketEntry.Flags, rearms: Bool)
        case finished(CompletionStatus, UInt, auxiliary: Int32 = 0, PacketEntry.Flags = [])
    }

    @inline(__always)
    static func next(_ record: OperationRecord.Pointer, _ completion: Completion, _ slot: Slot) -> Step {
        if unsafe record.pointee.kind == .transact { return unsafe Transaction.next(record, completion, slot) }
        return unsafe single(record, completion, slot)
    }

    /// The same of a request that is the only one of its operation.
    @inline(__always)
    static func single(_ record: OperationRecord.Pointer, _ completion: Completion, _ slot: Slot) -> Step {
        let result = completion.result
        if result < 0 { return unsafe unlessReceived(failure(record, -result, completion, slot), record) }
        if unsafe record.pointee.flags.contains(.polling) {
            if unsafe record.pointee.flags.contains(.withdrawn) { return unsafe withdrawn(record, completion, slot) }
            return unsafe polled(record)
        }
        switch unsafe record.pointee.kind {
        case .receive:
            return unsafe received(record, Int(result))
        case .send:
            return unsafe moved(record, Int(result))
        case .read:
            if unsafe result == 0 || record.pointee.length > Requests.mostAtOnce {
                return unsafe readRarely(record, Int(result))
            }
            return .finished(.success, UInt(result))
        case .write:
            return unsafe moved(record, Int(result))
        default:
            return unsafe rare(record, completion, slot)
        }
    }

    // MARK: Success

    @inline(__always)
    private static func received(_ record: OperationRecord.Pointer, _ count: Int) -> Step {
        let length = unsafe record.pointee.length
        // With MSG_TRUNC the kernel says how long the message was; what did not fit is lost (g51).
        if count > length { return .finished(.bufferOverflow, UInt(length)) }
        let before = unsafe record.pointee.progress
        if count == 0 && length > 0 && before == 0 { return unsafe .finished(endOfStream(record), 0) }
        if count > 0, before + count < length, unsafe waitsForAll(record) {
            unsafe record.pointee.progress = before + count
            return .again
        }
        return .finished(.success, UInt(before + count))
    }

    /// Whether a receive of a part is to go on. The kernel goes on by itself, unless the end of the stream or of the thread
    /// that submitted the request stops it: which of them, the next step tells.
    private static func waitsForAll(_ record: OperationRecord.Pointer) -> Bool {
        unsafe record.pointee.callFlags & Int32(MSG_WAITALL | MSG_PEEK) == Int32(MSG_WAITALL)
            && kind(record) == .stream && interruption(record) == nil
    }

    /// A read that moved nothing, or whose length no single request can have.
    @inline(never)
    private static func readRarely(_ record: OperationRecord.Pointer, _ count: Int) -> Step {
        let before = unsafe record.pointee.progress
        if count == 0, before == 0, unsafe record.pointee.length > 0 {
            if unsafe waitsForWriter(record) {
                unsafe record.pointee.flags = record.pointee.flags.union(.polling)
                return .again
            }
            return unsafe .finished(endOfData(record), 0)
        }
        // Only a file is read on: anything else has given what there is.
        if unsafe count < Requests.mostAtOnce || kind(record) != .file {
            return .finished(.success, UInt(before + count))
        }
        unsafe record.pointee.progress = before + count
        if unsafe record.pointee.progress == record.pointee.length { return .finished(.success, UInt(before + count)) }
        if let stop = unsafe interruption(record) { return .finished(stop, UInt(before + count)) }
        return .again
    }

    /// Whether an empty read of a FIFO means that nobody has opened it for writing yet: the kernel hangs a FIFO up only
    /// once a writer has come and gone.
    private static func waitsForWriter(_ record: OperationRecord.Pointer) -> Bool {
        guard unsafe kind(record) == .pipe, unsafe interruption(record) == nil else { return false }
        let descriptor = unsafe record.pointee.file!._withUnsafeGuaranteedRef { $0.descriptor }
        return !iocp_is_ready(descriptor, Int16(POLLIN))
    }

    /// What an empty receive means.
    static func endOfStream(_ record: OperationRecord.Pointer) -> CompletionStatus {
        let file = unsafe record.pointee.file!
        return unsafe file._withUnsafeGuaranteedRef { file in
            if file.kind == .pipe { return .pipeBroken }
            // The kernel tells of a reset once; to Windows the connection stays reset (g24).
            if file.hasSeenReset { return .connectionReset }
            return file.hasReceiveShut ? .sendAfterShutdown : .success
        }
    }

    /// A part of what is to be written has been; the rest follows, until all has or an error says why not (g27).
    @inline(__always)
    private static func moved(_ record: OperationRecord.Pointer, _ count: Int) -> Step {
        let total = unsafe record.pointee.progress + count
        if unsafe total >= record.pointee.length || count == 0 { return .finished(.success, UInt(total)) }
        unsafe record.pointee.progress = total
        if let stop = unsafe interruption(record) { return .finished(stop, UInt(total)) }
        return .again
    }

    private static func kind(_ record: OperationRecord.Pointer) -> HandleKind {
        unsafe record.pointee.file!._withUnsafeGuaranteedRef { $0.kind }
    }

    private static func endOfData(_ record: OperationRecord.Pointer) -> CompletionStatus {
        unsafe kind(record) == .pipe ? .pipeBroken : .endOfFile
    }

    /// A no-op has ended in place of the request, or the request itself if the kernel had it: only that can move data.
    @inline(never)
    private static func withdrawn(
        _ record: OperationRecord.Pointer, _ completion: Completion, _ slot: Slot
    ) -> Step {
        unsafe record.pointee.flags = record.pointee.flags.subtracting([.withdrawn, .polling])
        return completion.result > 0 ? unsafe next(record, completion, slot) : unsafe polled(record)
    }

    private static func polled(_ record: OperationRecord.Pointer) -> Step {
        unsafe record.pointee.flags = record.pointee.flags.subtracting(.polling)
        if let stop = unsafe interruption(record) {
            unsafe dropHeld(record)
            return unsafe .finished(stop, UInt(record.pointee.progress))
        }
        if unsafe record.pointee.kind == .sendMessage { unsafe record.pointee.step = record.pointee.step ^ 1 }
        return .again
    }

    @inline(never)
    private static func rare(_ record: OperationRecord.Pointer, _ completion: Completion, _ slot: Slot) -> Step {
        let result = Int(completion.result)
        switch unsafe record.pointee.kind {
        case .readVectored:
            let step = unsafe readRarely(record, result)
            if case .again = step, result > 0 { unsafe record.pointee.details!.pointee.skip(result) }
            return step
        case .zeroByteRead:
            return unsafe .finished(becameReadable(record, UInt32(bitPattern: completion.result)), 0)
        case .writeVectored:
            let step = unsafe moved(record, result)
            if case .again = step { unsafe record.pointee.details!.pointee.skip(result) }
            return step
        case .synchronize, .synchronizeData, .allocate, .truncate:
            return .finished(.success, 0)
        case .truncateByCaller:
            // The caller's thread has left its error here.
            return unsafe .finished(status(record, ofErrno: record.pointee.callFlags), 0)
        case .shutdown:
            unsafe noteShutdown(record)
            return .finished(.success, 0)
        case .zeroByteReceive:
            return unsafe .finished(result == 0 ? endOfStream(record) : .success, 0)
        case .receiveMessage:
            let details = unsafe record.pointee.details!
            unsafe details.pointee.addressLength = details.pointee.message.msg_namelen
            if unsafe details.pointee.message.msg_flags & Int32(MSG_TRUNC) != 0 {
                return unsafe .finished(.bufferOverflow, UInt(min(result, record.pointee.length)))
            }
            let step = unsafe received(record, result)
            if case .again = step {
                unsafe details.pointee.skip(result)
                unsafe details.pointee.attachVector()
            }
            return step
        case .sendMessage:
            let step = unsafe moved(record, result)
            if case .again = step {
                unsafe record.pointee.details!.pointee.skip(result)
                // Control data goes with the first byte, not with the rest.
                unsafe record.pointee.details!.pointee.message.msg_control = nil
                unsafe record.pointee.details!.pointee.message.msg_controllen = 0
                unsafe record.pointee.details!.pointee.attachVector()
            }
            return step
        case .sendZeroCopy:
            return unsafe sentZeroCopy(record, completion, slot)
        case .receiveContinuously:
            return unsafe receivedContinuously(record, completion)
        case .accept:
            return unsafe accepted(record, result)
        case .acceptContinuously:
            return unsafe .goesOn(
                .success, 0, auxiliary: completion.result, acceptedFlags(record), rearms: !completion.more)
        case .connect:
            return unsafe connected(record, result)
        case .disconnect:
            return unsafe disconnected(record)
        case .transmitFile:
            return unsafe Transmission.next(record, result)
        case .transact:
            return unsafe Transaction.moved(record, result)
        case .none, .receive, .send, .read, .write:
            preconditionFailure("handled before")
        }
    }

    /// The result of a zero-copy send, or word that its memory is not needed any more: the packet comes with the later.
    private static func sentZeroCopy(
        _ record: OperationRecord.Pointer, _ completion: Completion, _ slot: Slot
    ) -> Step {
        if completion.more {
            unsafe record.pointee.inlineAuxiliary = completion.result
            unsafe record.pointee.step = awaitingNotification
            return unsafe .awaitsNotification(
                isSent: record.pointee.progress + max(0, Int(completion.result)) >= record.pointee.length)
        }
        unsafe record.pointee.step = 0
        guard completion.isNotification else { return unsafe moved(record, Int(completion.result)) }
        let result = unsafe record.pointee.inlineAuxiliary
        if result >= 0 { return unsafe moved(record, Int(result)) }
        return unsafe failure(
            record, -result, Completion(userData: completion.userData, result: result), slot)
    }

    /// The step of a zero-copy send whose data are with the network.
    static let awaitingNotification: UInt8 = 1

    private static func receivedContinuously(_ record: OperationRecord.Pointer, _ completion: Completion) -> Step {
        guard let buffer = completion.bufferID else {
            // The kernel stops and takes no buffer for an empty message as for the end of a stream; a datagram socket has
            // no end but one's own.
            let isMessage = unsafe record.pointee.file!._withUnsafeGuaranteedRef {
                !$0.hasReceiveShut && ($0.kind == .mailSlot || $0.kind == .message && !$0.sendsInOrder)
            }
            if isMessage { return .goesOn(.success, 0, auxiliary: 0, [], rearms: true) }
            return unsafe .finished(endOfStream(record), 0)
        }
        unsafe record.pointee.lender._withUnsafeGuaranteedRef {
            unsafe $0.noteTaken(in: record.pointee.slot!)
        }
        return .goesOn(
            .success, UInt(completion.result), auxiliary: Int32(buffer), .lentBuffer, rearms: !completion.more)
    }

    private static func accepted(_ record: OperationRecord.Pointer, _ result: Int) -> Step {
        if unsafe record.pointee.length == 0 { return unsafe handOver(record, Int32(result), 0) }
        if unsafe record.pointee.step == 0 {
            unsafe record.pointee.inlineAuxiliary = Int32(result)
            unsafe record.pointee.step = 1
            if let stop = unsafe interruption(record) {
                unsafe dropAccepted(record)
                return .finished(stop, 0)
            }
            return .again
        }
        let descriptor = unsafe record.pointee.inlineAuxiliary
        unsafe record.pointee.step = 2
        // The peer may have closed without a word: an accepted connection all the same (g34).
        return unsafe handOver(record, descriptor, result)
    }

    /// What the packet of a connection of this listener's says: one of a seqpacket listener keeps messages apart.
    private static func acceptedFlags(_ record: OperationRecord.Pointer) -> PacketEntry.Flags {
        let keepsMessages = unsafe record.pointee.file!._withUnsafeGuaranteedRef { $0.kind == .message }
        return keepsMessages ? [.acceptedDescriptor, .keepsMessages] : .acceptedDescriptor
    }

    /// The connection goes into the socket that was given for it, or with the packet.
    private static func handOver(_ record: OperationRecord.Pointer, _ descriptor: Int32, _ bytes: Int) -> Step {
        guard let target = unsafe record.pointee.target?.takeRetainedValue() else {
            return unsafe .finished(.success, UInt(bytes), auxiliary: descriptor, acceptedFlags(record))
        }
        unsafe record.pointee.target = nil
        let code = target.adoptConnection(descriptor)
        // Perhaps the last reference, which must not go under a lock.
        IOThread.current.graveyard.append(target)
        if code != 0 { return .finished(code == ECANCELED ? .cancelled : CompletionStatus(errnoCode: code), 0) }
        return .finished(.success, UInt(bytes), auxiliary: -1, .acceptedDescriptor)
    }

    private static func connected(_ record: OperationRecord.Pointer, _ result: Int) -> Step {
        if unsafe record.pointee.step == 0 {
            unsafe record.pointee.file!._withUnsafeGuaranteedRef { $0.noteConnection() }
            if unsafe record.pointee.length == 0 { return .finished(.success, 0) }
            if let stop = unsafe interruption(record) { return .finished(stop, 0) }
            unsafe record.pointee.step = 1
            return .again
        }
        return unsafe moved(record, result)
    }

    private static func disconnected(_ record: OperationRecord.Pointer) -> Step {
        guard unsafe record.pointee.length == 1 else {
            unsafe noteShutdown(record)
            return .finished(.success, 0)
        }
        // Reuse: a fresh socket takes the descriptor's place; the old connection ends in the background.
        let code = unsafe record.pointee.file!._withUnsafeGuaranteedRef { $0.replaceWithFreshSocket() }
        return .finished(code == 0 ? .success : CompletionStatus(errnoCode: code), 0)
    }

    // MARK: Failure

    /// What has been received is not taken back by what ended the rest: the next receive is told of that.
    private static func unlessReceived(_ step: Step, _ record: OperationRecord.Pointer) -> Step {
        guard case .finished = step, unsafe record.pointee.progress > 0 else { return step }
        switch unsafe record.pointee.kind {
        case .receive, .receiveMessage: return unsafe .finished(.success, UInt(record.pointee.progress))
        default: return step
        }
    }

    @inline(never)
    private static func failure(
        _ record: OperationRecord.Pointer, _ code: Int32, _ completion: Completion, _ slot: Slot
    ) -> Step {
        let progress = unsafe UInt(record.pointee.progress)
        if unsafe completion.more && record.pointee.kind == .sendZeroCopy {
            return unsafe sentZeroCopy(record, completion, slot)
        }
        if unsafe record.pointee.flags.contains(.withdrawn), let stop = unsafe interruption(record) {
            // A no-op cannot have all that other requests have: that it is refused means nothing.
            unsafe dropHeld(record)
            return .finished(stop, progress)
        }
        switch code {
        case ECANCELED:
            if let stop = unsafe interruption(record) {
                unsafe dropHeld(record)
                return .finished(stop, progress)
            }
            // Nobody asked for it: the thread that submitted the request has exited. On Windows the operation goes on if
            // its handle is bound to a port (e34), and ends with the thread if not (e35). Data that had moved before
            // would have been the result.
            if unsafe record.pointee.file!._withUnsafeGuaranteedRef({ $0.association != nil }) {
                slot.reissues.add(1, ordering: .relaxed)
                return .again
            }
            unsafe dropHeld(record)
            return .finished(.cancelled, progress)
        case EINTR, 512, 513, 514, 516:
            // The latter are the kernel's own numbers for an interrupted call (ERESTARTSYS and its like); SPLICE tells them.
            if let stop = unsafe interruption(record) {
                unsafe dropHeld(record)
                return .finished(stop, progress)
            }
            // A worker of the kernel's was interrupted, with the thread that it worked for: signals never reach it.
            slot.reissues.add(1, ordering: .relaxed)
            return .again
        case EALREADY where unsafe record.pointee.kind == .connect,
            EAGAIN where unsafe !record.pointee.flags.contains(.polling):
            // There is no room for a message, somebody made the descriptor non-blocking behind our back, or a connect that
            // was started again finds itself on its way: wait for readiness, then try again.
            if let stop = unsafe interruption(record) {
                unsafe dropHeld(record)
                return .finished(stop, progress)
            }
            unsafe record.pointee.flags = record.pointee.flags.union(.polling)
            return .again
        case ETIME where unsafe record.pointee.flags.contains(.polling):
            return unsafe polled(record)
        case ENOBUFS where unsafe record.pointee.kind == .receiveContinuously:
            if let stop = unsafe interruption(record) { return .finished(stop, 0) }
            if unsafe !isReadable(record) {
                // It needs no buffer yet, and must not stand in the way of those that do: the kernel asks for one first.
                unsafe record.pointee.flags = record.pointee.flags.union(.polling)
                return .again
            }
            return unsafe record.pointee.lender._withUnsafeGuaranteedRef {
                unsafe $0.pause(record, in: slot)
            } ? .paused : .again
        case EOPNOTSUPP where unsafe record.pointee.kind == .sendZeroCopy,
            ENOMEM where unsafe record.pointee.kind == .sendZeroCopy,
            ENOBUFS where unsafe record.pointee.kind == .sendZeroCopy:
            // Not this kind of socket, or no more memory may be pinned: the data are copied.
            if let stop = unsafe interruption(record) { return .finished(stop, progress) }
            unsafe record.pointee.kind = .send
            return .again
        case ECONNABORTED where unsafe record.pointee.kind == .acceptContinuously:
            // A peer that gave up before it was accepted ends nothing.
            return .again
        default:
            return unsafe failed(record, code, progress)
        }
    }

    /// An error that ends the operation.
    static func failed(_ record: OperationRecord.Pointer, _ code: Int32, _ progress: UInt) -> Step {
        unsafe dropHeld(record)
        if code == ECONNRESET { unsafe record.pointee.file!._withUnsafeGuaranteedRef { $0.noteReset() } }
        // The next step of an operation whose handle was closed meanwhile finds no descriptor (EBADF).
        if code == EPIPE || code == EBADF, let stop = unsafe interruption(record) {
            return .finished(stop, progress)
        }
        return unsafe .finished(status(record, ofErrno: code), progress)
    }

    /// Whether there is data, an end or an error to be received now.
    private static func isReadable(_ record: OperationRecord.Pointer) -> Bool {
        let descriptor = unsafe record.pointee.file!._withUnsafeGuaranteedRef { $0.descriptor }
        return iocp_is_ready(descriptor, Int16(POLLIN))
    }

    /// What an `errno` means for this operation on this handle, where the table alone cannot tell.
    private static func status(_ record: OperationRecord.Pointer, ofErrno code: Int32) -> CompletionStatus {
        unsafe record.pointee.file!._withUnsafeGuaranteedRef { file in
            switch code {
            case EPIPE where file.kind == .stream || file.kind == .message:
                // Linux has this for every stream that cannot be sent on; Windows names the reason (g24, g25).
                if file.hasSendShut { return .sendAfterShutdown }
                return file.hasBeenConnected || file.hasSeenReset ? .connectionReset : .invalidConnection
            case EBADF where fcntl(file.descriptor, F_GETFL) >= 0:
                // The descriptor is open, but not for this.
                return .accessDenied
            case EINVAL where unsafe record.pointee.kind == .truncate || record.pointee.kind == .truncateByCaller:
                if fcntl(file.descriptor, F_GETFL) & O_ACCMODE == O_RDONLY { return .accessDenied }
            default: break
            }
            return unsafe CompletionStatus(errnoCode: code, context: context(record))
        }
    }

    private static func noteShutdown(_ record: OperationRecord.Pointer) {
        unsafe record.pointee.file!._withUnsafeGuaranteedRef { unsafe $0.noteShutdown(record.pointee.callFlags) }
    }

    /// A poll for something to read has ended: is it data, or the end?
    private static func becameReadable(_ record: OperationRecord.Pointer, _ events: UInt32) -> CompletionStatus {
        let descriptor = unsafe record.pointee.file!._withUnsafeGuaranteedRef { $0.descriptor }
        if events & UInt32(POLLHUP) != 0, iocp_bytes_readable(descriptor) == 0 { return .pipeBroken }
        return .success
    }

    /// Why the operation must not go on, if so: it was cancelled, or its last handle is closed (e23, e27–e31).
    static func interruption(_ record: OperationRecord.Pointer) -> CompletionStatus? {
        if unsafe record.pointee.isCancelRequested { return .cancelled }
        let file = unsafe record.pointee.file!
        guard unsafe file._withUnsafeGuaranteedRef({ $0.isClosing }) else { return nil }
        switch unsafe (kind(record), record.pointee.kind) {
        case (.pipe, _): return .pipeBroken  // e31
        case (.stream, .accept), (.stream, .acceptContinuously), (.stream, .connect): return .cancelled  // e28
        case (.stream, _): return .connectionAborted  // e29
        default: return .cancelled
        }
    }

    /// Lets go of what an operation of several steps holds between them.
    static func dropHeld(_ record: OperationRecord.Pointer) {
        if unsafe record.pointee.kind == .transmitFile { unsafe Transmission.abandon(record) }
        unsafe dropAccepted(record)
    }

    private static func dropAccepted(_ record: OperationRecord.Pointer) {
        guard unsafe record.pointee.kind == .accept else { return }
        if let target = unsafe record.pointee.target?.takeRetainedValue() {
            unsafe record.pointee.target = nil
            unsafe target.endAwaiting(record)
            IOThread.current.graveyard.append(target)
        }
        guard unsafe record.pointee.step == 1 else { return }
        closeDescriptor(unsafe record.pointee.inlineAuxiliary)
        unsafe record.pointee.step = 2
    }

    static func closeDescriptor(_ descriptor: Int32) {
        if descriptor >= 0 { _ = iocp_close(descriptor) }
    }

    private static func context(_ record: OperationRecord.Pointer) -> CompletionStatus.ErrnoContext {
        if unsafe record.pointee.kind == .connect { return .connect }
        switch unsafe kind(record) {
        case .file: return .file
        case .pipe: return .pipe
        case .stream: return .stream
        case .message, .mailSlot: return .datagram
        case .device: return .other
        }
    }

    /// Whether an eager start that ended so at once leaves it to the packet all the same.
    ///
    /// So does Windows, since version 8, with the end of a file (g3); and only a packet can bring a connection.
    static func isReportedByPacket(_ record: OperationRecord.Pointer, _ status: CompletionStatus) -> Bool {
        unsafe status == .endOfFile || (status.isSuccess && record.pointee.kind == .accept)
    }
}

extension OperationDetails {
    /// Moves the beginning of the vector past bytes that have been moved.
    mutating func skip(_ bytes: Int) {
        var left = bytes
        var index = 0
        while index < vectorCount, left > 0 {
            let part = unsafe vector![index].iov_len
            if part > left {
                unsafe vector![index].iov_base = unsafe vector![index].iov_base! + left
                unsafe vector![index].iov_len = part - left
                left = 0
            } else {
                left -= part
                index += 1
            }
        }
        if index > 0 {
            vectorCount -= index
            for position in 0..<vectorCount { unsafe vector![position] = unsafe vector![position + index] }
        }
    }

    /// Makes the message describe the vector.
    mutating func attachVector() {
        unsafe message.msg_iov = vector
        unsafe message.msg_iovlen = numericCast(vectorCount)
    }
}
