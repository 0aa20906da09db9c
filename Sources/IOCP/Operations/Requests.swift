internal import CIOCPSupport
internal import Glibc
internal import IOUring

/// What the kernel is asked next on behalf of a record.
enum Requests {
    /// The offset that says "where the descriptor stands": pipes and devices have no other.
    static let currentPosition = UInt64.max
    /// MAX_RW_COUNT: the kernel moves no more by one request, a page less than 2 GiB.
    static let mostAtOnce = 0x7fff_f000
    /// Where zero-byte receives peek to: one byte for all of them, which nobody ever reads.
    private nonisolated(unsafe) static let peekTarget = UnsafeMutableRawPointer.allocate(byteCount: 1, alignment: 1)

    /// How long a message waits for room where nothing tells of it. Never changed.
    private nonisolated(unsafe) static let shortWhile: UnsafeMutablePointer<KernelTime> = {
        let time = UnsafeMutablePointer<KernelTime>.allocate(capacity: 1)
        unsafe time.initialize(to: KernelTime(nanoseconds: 1_000_000))
        return unsafe time
    }()

    @inline(__always)
    static func entry(for record: OperationRecord.Pointer) -> SubmissionEntry {
        var entry: SubmissionEntry
        if unsafe record.pointee.flags.contains(.polling) {
            entry = unsafe poll(record)
        } else {
            let descriptor = unsafe descriptor(record)
            switch unsafe record.pointee.kind {
            case .receive:
                entry = unsafe .receive(
                    descriptor, into: record.pointee.memory.map { unsafe $0 + record.pointee.progress },
                    count: length(record), flags: record.pointee.callFlags)
            case .send:
                entry = unsafe .send(
                    descriptor,
                    from: record.pointee.memory.map { unsafe UnsafeRawPointer($0 + record.pointee.progress) },
                    count: length(record), flags: record.pointee.callFlags)
            case .read:
                entry = unsafe .read(
                    descriptor, into: record.pointee.memory.map { unsafe $0 + record.pointee.progress },
                    count: length(record), offset: offset(record), flags: record.pointee.callFlags)
            case .write:
                entry = unsafe .write(
                    descriptor,
                    from: record.pointee.memory.map { unsafe UnsafeRawPointer($0 + record.pointee.progress) },
                    count: length(record), offset: offset(record), flags: record.pointee.callFlags)
            default:
                entry = unsafe rare(record, descriptor)
            }
        }
        entry.userData = UInt64(UInt(bitPattern: record))
        return entry
    }

    /// Bytes still to move, as much as one request can.
    @inline(__always)
    private static func length(_ record: OperationRecord.Pointer) -> UInt32 {
        unsafe UInt32(min(record.pointee.length - record.pointee.progress, mostAtOnce))
    }

    @inline(__always)
    private static func offset(_ record: OperationRecord.Pointer) -> UInt64 {
        let start = unsafe record.pointee.offset
        return start == currentPosition ? start : unsafe start + UInt64(record.pointee.progress)
    }

    @inline(__always)
    private static func descriptor(_ record: OperationRecord.Pointer) -> Int32 {
        unsafe record.pointee.file!._withUnsafeGuaranteedRef { $0.descriptor }
    }

    private static func poll(_ record: OperationRecord.Pointer) -> SubmissionEntry {
        // An operation that is to end only comes by to be told so. Its descriptor may be closed at this moment.
        if unsafe Outcomes.interruption(record) != nil { return .nop() }
        let descriptor = unsafe descriptor(record)
        if unsafe record.pointee.kind == .sendMessage, unsafe record.pointee.step == 1 {
            // Readiness is that of the own queue: it says nothing about the one that a Unix datagram is addressed to.
            return unsafe .timeout(shortWhile)
        }
        return switch unsafe record.pointee.kind {
        case .transact where unsafe record.pointee.step != Transaction.Step.receiving:
            .poll(descriptor, events: UInt32(POLLOUT), multishot: false)
        case .write, .writeVectored, .send, .sendMessage, .sendZeroCopy, .connect, .transmitFile:
            .poll(descriptor, events: UInt32(POLLOUT), multishot: false)
        default:
            .poll(descriptor, events: UInt32(POLLIN), multishot: false)
        }
    }

    @inline(never)
    private static func rare(_ record: OperationRecord.Pointer, _ descriptor: Int32) -> SubmissionEntry {
        let flags = unsafe record.pointee.callFlags
        switch unsafe record.pointee.kind {
        case .readVectored:
            let details = unsafe record.pointee.details!
            return unsafe .readVectored(
                descriptor, into: details.pointee.vector!, count: UInt32(details.pointee.vectorCount),
                offset: offset(record), flags: flags)
        case .writeVectored:
            let details = unsafe record.pointee.details!
            return unsafe .writeVectored(
                descriptor, from: details.pointee.vector!, count: UInt32(details.pointee.vectorCount),
                offset: offset(record), flags: flags)
        case .synchronize:
            return .synchronize(descriptor, dataOnly: false)
        case .synchronizeData:
            return .synchronize(descriptor, dataOnly: true)
        case .allocate:
            return unsafe .allocate(
                descriptor, mode: flags, offset: record.pointee.offset, length: UInt64(record.pointee.length))
        case .truncate:
            return unsafe .truncate(descriptor, length: record.pointee.offset)
        case .truncateByCaller:
            return .nop()
        case .zeroByteRead:
            return .poll(descriptor, events: UInt32(POLLIN), multishot: false)
        case .zeroByteReceive:
            // A peek at one byte: completes when there is something, and takes nothing.
            return unsafe .receive(descriptor, into: peekTarget, count: 1, flags: Int32(MSG_PEEK))
        case .receiveMessage:
            return unsafe .receiveMessage(descriptor, header: record.pointee.details!.messagePointer, flags: flags)
        case .sendMessage:
            return unsafe .sendMessage(descriptor, header: record.pointee.details!.messagePointer, flags: flags)
        case .sendZeroCopy:
            let memory = unsafe record.pointee.memory.map { unsafe UnsafeRawPointer($0 + record.pointee.progress) }
            // A consumer that ends would have to wait until the peer has taken everything.
            if let slot = unsafe record.pointee.slot, slot.isOwned {
                return unsafe .send(descriptor, from: memory, count: length(record), flags: flags)
            }
            return unsafe .sendZeroCopy(descriptor, from: memory, count: length(record), flags: flags)
        case .receiveContinuously:
            var entry = SubmissionEntry.receiveMultishot(descriptor, flags: flags)
            entry.flags.insert(.bufferSelect)
            entry.bufferGroup = unsafe record.pointee.lender._withUnsafeGuaranteedRef { $0.identifier }
            return entry
        case .accept:
            if unsafe record.pointee.step == 1 {
                return unsafe .receive(
                    record.pointee.inlineAuxiliary, into: record.pointee.memory, count: length(record), flags: 0)
            }
            return unsafe .accept(descriptor, address: nil, length: nil, flags: iocp_accept_cloexec)
        case .acceptContinuously:
            return .acceptMultishot(descriptor, flags: iocp_accept_cloexec)
        case .connect:
            if unsafe record.pointee.step == 1 {
                return unsafe .send(
                    descriptor,
                    from: record.pointee.memory.map { unsafe UnsafeRawPointer($0 + record.pointee.progress) },
                    count: length(record), flags: Int32(MSG_NOSIGNAL | MSG_WAITALL))
            }
            let details = unsafe record.pointee.details!
            return unsafe .connect(
                descriptor, address: details.addressPointer.assumingMemoryBound(to: sockaddr.self),
                length: details.pointee.addressLength)
        case .disconnect, .shutdown:
            return .shutdown(descriptor, how: flags)
        case .transmitFile:
            return unsafe Transmission.entry(record, descriptor)
        case .transact:
            return unsafe Transaction.entry(record)
        case .none, .receive, .send, .read, .write:
            preconditionFailure("an operation without a request cannot be in flight")
        }
    }
}
