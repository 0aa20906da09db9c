internal import CIOCPSupport
internal import Glibc
internal import IOUring

/// A file on its way to a socket without passing through user space: head, file, tail.
///
/// The file's pages are spliced into a pipe and from there into the socket. Each step is one request; the record's
/// `step` says which is in the kernel.
enum Transmission {
    private static let undecided: UInt8 = 0
    private static let head: UInt8 = 4
    private static let fill: UInt8 = 1
    private static let drain: UInt8 = 2
    private static let tail: UInt8 = 3

    private static let moreFollows = UInt32(IOCP_SPLICE_MORE | IOCP_SPLICE_MOVE)

    static func entry(_ record: OperationRecord.Pointer, _ socket: Int32) -> SubmissionEntry {
        let details = unsafe record.pointee.details!
        let sendFlags = Int32(MSG_NOSIGNAL | MSG_WAITALL)
        // Nothing to send at all still yields a packet.
        if unsafe record.pointee.step == undecided, unsafe !settleStep(record) { return .nop() }
        switch unsafe record.pointee.step {
        case head:
            return unsafe .send(
                socket, from: UnsafeRawPointer(details.pointee.transmission.head!),
                count: UInt32(min(details.pointee.transmission.headLength, Requests.mostAtOnce)),
                flags: sendFlags
                    | (details.pointee.transmission.left > 0 || details.pointee.transmission.tailLength > 0
                        ? Int32(MSG_MORE) : 0))
        case fill:
            let count = unsafe min(details.pointee.transmission.left, details.pointee.transmission.pipeCapacity)
            return unsafe .splice(
                from: details.pointee.transmission.file, offsetIn: Int64(details.pointee.transmission.offset),
                to: details.pointee.transmission.pipeWrite, offsetOut: -1, count: UInt32(count), flags: moreFollows)
        case drain:
            let last = unsafe details.pointee.transmission.left == 0 && details.pointee.transmission.tailLength == 0
            return unsafe .splice(
                from: details.pointee.transmission.pipeRead, offsetIn: -1, to: socket, offsetOut: -1,
                count: UInt32(details.pointee.transmission.inPipe),
                flags: last ? UInt32(IOCP_SPLICE_MOVE) : moreFollows)
        default:
            return unsafe .send(
                socket, from: UnsafeRawPointer(details.pointee.transmission.tail!),
                count: UInt32(min(details.pointee.transmission.tailLength, Requests.mostAtOnce)), flags: sendFlags)
        }
    }

    /// The step in the kernel has moved `count` bytes.
    static func next(_ record: OperationRecord.Pointer, _ count: Int) -> Outcomes.Step {
        let details = unsafe record.pointee.details!
        switch unsafe record.pointee.step {
        case undecided:
            break
        case head:
            unsafe details.pointee.transmission.head! += count
            unsafe details.pointee.transmission.headLength -= count
            unsafe record.pointee.progress = record.pointee.progress + count
        case fill:
            if count == 0 {
                // The end of the file, sooner than asked for perhaps: what there was has been sent.
                unsafe details.pointee.transmission.left = 0
            } else {
                unsafe details.pointee.transmission.offset += UInt64(count)
                if unsafe details.pointee.transmission.left != .max {
                    unsafe details.pointee.transmission.left -= count
                }
                unsafe details.pointee.transmission.inPipe += count
            }
        case drain:
            unsafe details.pointee.transmission.inPipe -= count
            unsafe record.pointee.progress = record.pointee.progress + count
        default:
            unsafe details.pointee.transmission.tail! += count
            unsafe details.pointee.transmission.tailLength -= count
            unsafe record.pointee.progress = record.pointee.progress + count
        }
        if let stop = unsafe Outcomes.interruption(record) {
            unsafe abandon(record)
            return unsafe .finished(stop, UInt(record.pointee.progress))
        }
        if unsafe settleStep(record) { return .again }
        // The pipe is empty and may serve the operation again.
        unsafe letGoOfFile(record)
        return unsafe .finished(.success, UInt(record.pointee.progress))
    }

    /// The transmission ends before all is sent: the pipe may hold some of it.
    static func abandon(_ record: OperationRecord.Pointer) {
        unsafe record.pointee.details!.pointee.closePipe()
        unsafe letGoOfFile(record)
    }

    /// Closes the operation's own handle to the file, once no lock is held.
    private static func letGoOfFile(_ record: OperationRecord.Pointer) {
        guard let extras = unsafe record.pointee.owner?.takeUnretainedValue().extras, let file = extras.companion else {
            return
        }
        extras.companion = nil
        IOThread.current.graveyard.append(file)
    }

    /// Chooses the next step. False: nothing is left to do.
    private static func settleStep(_ record: OperationRecord.Pointer) -> Bool {
        let details = unsafe record.pointee.details!
        if unsafe details.pointee.transmission.headLength > 0 {
            unsafe record.pointee.step = head
        } else if unsafe details.pointee.transmission.inPipe > 0 {
            unsafe record.pointee.step = drain
        } else if unsafe details.pointee.transmission.left > 0 {
            unsafe record.pointee.step = fill
        } else if unsafe details.pointee.transmission.tailLength > 0 {
            unsafe record.pointee.step = tail
        } else {
            return false
        }
        return true
    }
}
