internal import Glibc
internal import IOUring
internal import Synchronization

extension Socket {
    /// Starts to send one range of the operation's buffer and to receive into another: an answer and the next request, or
    /// a request and its answer. There is one packet, that of the receive.
    ///
    /// This is what most connections do all their lives: one operation and one packet instead of two, and one entry into
    /// the kernel instead of two where a thread has nothing else to do (see <doc:FasterWays>).
    ///
    /// It ends as a receive does (``receive(_:into:flags:start:)-(_,Range<Int>?,_,_)``), with the bytes received, once
    /// everything has been sent and something has come. What comes while a part is still to be sent waits for that. If
    /// not all can be sent it fails as a send does, with 0 bytes. A cancel that finds it receiving takes nothing. One that finds it sending may leave a
    /// part sent, as that of any send does. What has come before everything was sent may be lost with such a failure or
    /// cancel, a message too.
    ///
    /// Until its packet it is the only operation on the socket that receives, or sends: another one, and this one beside
    /// another, is refused with 87, but for datagrams, which need no order. Closing ends it; ``shutdown(_:)`` does, once
    /// everything is sent, as it ends a receive.
    ///
    /// ```swift
    /// try socket.transact(connection, sending: 0..<answer, receiving: 4096..<8192)
    /// ```
    ///
    /// - Parameters:
    ///   - operation: idle; in flight until its packet.
    ///   - sent: bytes of the operation's buffer to send, at least one.
    ///   - received: bytes of the operation's buffer to fill, at least one. If the ranges overlap, the kernel is given
    ///     the second request when the first is done, which needs another entry; if they are apart, both at once.
    /// - Throws: ``PortError``: 6 for a closed handle; 87 for an empty range or one outside of the buffer, an operation in
    ///   flight, a socket that is used by other operations, or an operation that is to follow another; 998 without a buffer;
    ///   for an eager start also its immediate failure.
    /// - Cost: allocates nothing; deferred, no system call. The requests follow each other before Linux 6.1,
    ///   and those of deferred starts while the thread starts 8 operations or more between two dequeues: then that costs less
    ///   than to wait for each answer.
    ///
    /// The corresponding Win32 function is `TransactNamedPipe` (g11), for any stream, or socket that keeps messages apart;
    /// io_uring's operations are SEND and RECV.
    @discardableResult
    public func transact(
        _ operation: Operation, sending sent: Range<Int>, receiving received: Range<Int>, start: Start = .deferred
    ) throws(PortError) -> StartOutcome {
        try operation.claimed { () throws(PortError) in
            try withOpened { (file) throws(PortError) in
                guard !sent.isEmpty, !received.isEmpty else {
                    throw .invalid("a transaction sends at least one byte and has room for at least one")
                }
                guard file.kind == .stream || file.kind == .message else {
                    throw .invalid("a transaction needs a connected socket")
                }
                let answer = try ByteRange(received, of: operation)
                let question = try ByteRange(sent, of: operation)
                let request = unsafe Engine.Request(
                    kind: .transact, memory: question.memory, length: question.count,
                    offset: UInt64(UInt(bitPattern: answer.memory)),
                    callFlags: Int32(min(answer.count, Requests.mostAtOnce)))
                return try Engine.start(operation, on: file, request, start)
            }
        }
    }
}

/// A send and the receive that follows it, as one operation.
///
/// If the ranges are apart both requests are queued at once, unless they are among many (`Slot.isOneOfMany`). The send is
/// tried without waiting and says nothing if everything was sent; the kernel tries it before it looks at the receive, and
/// what it has to say of it stands before the receive's completion. So a receive's completion without a word before it means that everything was sent, whoever
/// hands the two requests over, together or not. If the send came short, the receive is taken back, the rest is sent,
/// and the receive is made again. All this rests on the kernel carrying out both in the thread that enters, in their order:
/// it gives a receive of a socket to a worker of its own only when it has no memory to watch the socket with.
///
/// The record's `memory`, `length` and `progress` are those of the send; `offset` is the address of the range to fill,
/// `callFlags` its length, `information` what a receive brought that was taken back too late, and one more;
/// `inlineAuxiliary` the errno of a send that came short.
enum Transaction {
    /// Which requests are under way: the record's `step`.
    enum Step {
        static let begins: UInt8 = 0
        /// Both.
        static let paired: UInt8 = 1
        /// The receive, which is being taken back: its end and the answer to its cancel are awaited.
        static let recalling: UInt8 = 2
        /// One of the two is.
        static let recallingStill: UInt8 = 3
        /// The send, or what is left of it.
        static let sending: UInt8 = 4
        /// The receive.
        static let receiving: UInt8 = 5
    }

    /// Whether the kernel tells how much of a send came short (Linux 6.1, as the operation that is asked for). Looked up
    /// once; a test turns it off.
    static let mayPair: Atomic<Bool> = {
        guard let capabilities = try? Capabilities.probe() else { return Atomic(false) }
        return Atomic(capabilities.supports(.sendMessageZeroCopy) && capabilities.features.contains(.skipSuccess))
    }()

    // MARK: Requests

    /// Whether a record that begins does so with a pair.
    static func isPair(_ record: OperationRecord.Pointer) -> Bool {
        guard mayPair.load(ordering: .relaxed), unsafe record.pointee.length <= Requests.mostAtOnce,
            unsafe !record.pointee.flags.contains(.polling)
        else { return false }
        let sent = unsafe UInt(bitPattern: record.pointee.memory)
        let received = unsafe UInt(record.pointee.offset)
        return unsafe sent + UInt(record.pointee.length) <= received
            || received + UInt(record.pointee.callFlags) <= sent
    }

    /// The first request of a pair.
    @inline(__always)
    static func silentSend(_ record: OperationRecord.Pointer) -> SubmissionEntry {
        var entry = unsafe record.pointee.file!._withUnsafeGuaranteedRef { file in
            unsafe SubmissionEntry.send(
                file.descriptor, from: UnsafeRawPointer(record.pointee.memory), count: UInt32(record.pointee.length),
                flags: Socket.sendFlags(file) | Int32(MSG_DONTWAIT))
        }
        entry.flags.insert(.skipSuccess)
        entry.userData = UInt64(UInt(bitPattern: record)) | Slot.silentTag
        return entry
    }

    /// The second, and the receive by itself.
    @inline(__always)
    static func receive(_ record: OperationRecord.Pointer) -> SubmissionEntry {
        unsafe record.pointee.file!._withUnsafeGuaranteedRef { file in
            // The kernel then says how long the message was.
            unsafe .receive(
                file.descriptor, into: UnsafeMutableRawPointer(bitPattern: UInt(record.pointee.offset)),
                count: UInt32(record.pointee.callFlags), flags: file.kind == .message ? Int32(MSG_TRUNC) : 0)
        }
    }

    static func entry(_ record: OperationRecord.Pointer) -> SubmissionEntry {
        if unsafe record.pointee.step == Step.receiving { return unsafe receive(record) }
        return unsafe record.pointee.file!._withUnsafeGuaranteedRef { file in
            unsafe .send(
                file.descriptor,
                from: record.pointee.memory.map { unsafe UnsafeRawPointer($0 + record.pointee.progress) },
                count: UInt32(min(record.pointee.length - record.pointee.progress, Requests.mostAtOnce)),
                flags: Socket.sendFlags(file))
        }
    }

    // MARK: Completions

    @inline(__always)
    static func next(_ record: OperationRecord.Pointer, _ completion: Completion, _ slot: Slot) -> Outcomes.Step {
        if unsafe completion.result > 0 && record.pointee.step == Step.paired
            && completion.userData & Slot.tagMask == 0
        {
            return unsafe received(record, Int(completion.result))
        }
        return unsafe nextRarely(record, completion, slot)
    }

    @inline(never)
    private static func nextRarely(
        _ record: OperationRecord.Pointer, _ completion: Completion, _ slot: Slot
    ) -> Outcomes.Step {
        switch completion.userData & Slot.tagMask {
        case Slot.silentTag: return unsafe cameShort(record, completion.result, slot)
        case Slot.recallTag:
            slot.requestEnded()
            if completion.result == -ENOENT, unsafe record.pointee.step == Step.recalling {
                // It was between two waits for something to receive, and goes on.
                slot.recall(UInt64(UInt(bitPattern: record)))
                return .asked
            }
            return unsafe recalled(record)
        default: break
        }
        switch unsafe record.pointee.step {
        case Step.paired:
            // Everything has been sent: whatever follows is about the receive.
            unsafe record.pointee.step = Step.receiving
        case Step.recalling, Step.recallingStill:
            if unsafe completion.result > 0 || completion.result == 0 && isMessage(record) {
                unsafe record.pointee.information = UInt(completion.result) + 1
            }
            switch -completion.result {
            case ECANCELED, EINTR, EAGAIN, 512, 513, 514, 516: break
            // The kernel tells of it once.
            case let code where unsafe code > 0 && record.pointee.inlineAuxiliary == 0:
                unsafe record.pointee.inlineAuxiliary = code
            default: break
            }
            return unsafe recalled(record)
        default: break
        }
        let step = unsafe Outcomes.single(record, completion, slot)
        // Bytes that were sent are none that were received.
        if case .finished(let status, _, _, _) = step, status.isError { return .finished(status, 0) }
        return step
    }

    /// A request that was the only one has done something.
    static func moved(_ record: OperationRecord.Pointer, _ count: Int) -> Outcomes.Step {
        if unsafe record.pointee.step == Step.receiving { return unsafe received(record, count) }
        let total = unsafe record.pointee.progress + count
        unsafe record.pointee.progress = total
        let isSent = unsafe total >= record.pointee.length
        if isSent, unsafe record.pointee.information > 0 {
            return unsafe received(record, Int(record.pointee.information) - 1)
        }
        if let stop = unsafe Outcomes.interruption(record) { return .finished(stop, 0) }
        if isSent { unsafe record.pointee.step = Step.receiving }
        return .again
    }

    private static func received(_ record: OperationRecord.Pointer, _ count: Int) -> Outcomes.Step {
        let room = unsafe Int(record.pointee.callFlags)
        // What did not fit is lost (g51).
        if count > room { return .finished(.bufferOverflow, UInt(room)) }
        return unsafe .finished(count > 0 ? .success : Outcomes.endOfStream(record), UInt(count))
    }

    /// The send of a pair has not sent everything.
    private static func cameShort(_ record: OperationRecord.Pointer, _ result: Int32, _ slot: Slot) -> Outcomes.Step {
        if unsafe record.pointee.flags.contains(.withdrawn) {
            // Made a no-op, which may not have all that a send has, or too late. The receive, which has been treated in the
            // same way, is the last to come, and must not pass for an answer.
            unsafe record.pointee.step = Step.recallingStill
            return .paused
        }
        switch -result {
        case EAGAIN, EINTR: break
        case let code where code > 0: unsafe record.pointee.inlineAuxiliary = code
        default: unsafe record.pointee.progress = Int(result)
        }
        unsafe record.pointee.step = Step.recalling
        slot.recall(UInt64(UInt(bitPattern: record)))
        return .asked
    }

    /// The receive of a pair is over, or the cancel that was to end it.
    private static func recalled(_ record: OperationRecord.Pointer) -> Outcomes.Step {
        if unsafe record.pointee.step == Step.recalling {
            unsafe record.pointee.step = Step.recallingStill
            return .paused
        }
        unsafe record.pointee.flags = record.pointee.flags.subtracting([.withdrawn, .polling])
        let code = unsafe record.pointee.inlineAuxiliary
        unsafe record.pointee.inlineAuxiliary = 0
        if let stop = unsafe Outcomes.interruption(record) { return .finished(stop, 0) }
        if code != 0 { return unsafe Outcomes.failed(record, code, 0) }
        unsafe record.pointee.step = Step.sending
        return .again
    }

    private static func isMessage(_ record: OperationRecord.Pointer) -> Bool {
        // A no-op in its place has brought nothing.
        unsafe !record.pointee.flags.contains(.withdrawn)
            && record.pointee.file!._withUnsafeGuaranteedRef { $0.kind == .message }
    }
}
