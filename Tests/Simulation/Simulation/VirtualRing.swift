import CLiburing

struct VirtualCompletion {
    var userData: UInt64
    var result: Int32
}

/// A request that the virtual kernel works on.
final class Request {
    let ring: VirtualRing
    let userData: UInt64
    let operation: UInt8
    let length: Int32
    /// The thread that submitted it, unless it has exited.
    let submitter: Fiber
    /// Over, or on its way to being: no cancel finds it.
    var isDone = false
    /// Its thread has exited: it will end with ECANCELED.
    private(set) var isOrphan = false

    /// The same, with no other end left.
    init(replacing request: Request) {
        ring = request.ring
        userData = request.userData
        operation = request.operation
        length = request.length
        submitter = request.submitter
        isOrphan = true
    }

    init(_ ring: VirtualRing, _ entry: iou_sqe, _ submitter: Fiber) {
        self.ring = ring
        userData = entry.user_data
        operation = entry.opcode
        length = Int32(clamping: entry.len)
        self.submitter = submitter
    }
}

/// A ring over plain memory: the side of the kernel.
final class VirtualRing {
    let descriptor: Int32
    let submissionCapacity: UInt32
    let completionCapacity: UInt32
    /// SQ head, SQ tail, SQ flags, CQ head, CQ tail.
    private let words: UnsafeMutablePointer<UInt32>
    private let array: UnsafeMutablePointer<UInt32>
    private let entries: UnsafeMutablePointer<iou_sqe>
    private let completions: UnsafeMutablePointer<iou_cqe>
    private var overflow: [VirtualCompletion] = []
    /// Completions that wait for a thread to enter the kernel.
    var taskWork = 0 { didSet { setFlag(1 << 2, taskWork > 0) } }
    var requests: [Request] = []

    init(
        _ descriptor: Int32, _ entryCount: UInt32, _ handle: UnsafeMutablePointer<io_uring>,
        _ parameters: UnsafeMutablePointer<iou_params>
    ) {
        self.descriptor = descriptor
        submissionCapacity = Self.powerOfTwo(entryCount)
        completionCapacity = Self.powerOfTwo(max(parameters.pointee.cq_entries, submissionCapacity))
        words = .allocate(capacity: 5)
        words.initialize(repeating: 0, count: 5)
        array = .allocate(capacity: Int(submissionCapacity))
        entries = .allocate(capacity: Int(submissionCapacity))
        entries.initialize(repeating: iou_sqe(), count: Int(submissionCapacity))
        completions = .allocate(capacity: Int(completionCapacity))
        completions.initialize(repeating: iou_cqe(), count: Int(completionCapacity))
        parameters.pointee.sq_entries = submissionCapacity
        parameters.pointee.cq_entries = completionCapacity
        // SINGLE_MMAP to NATIVE_WORKERS: a kernel 6.1.
        parameters.pointee.features = 0x1fff
        handle.pointee.ring_fd = descriptor
        handle.pointee.sq.khead = words
        handle.pointee.sq.ktail = words + 1
        handle.pointee.sq.kflags = words + 2
        handle.pointee.sq.array = array
        handle.pointee.sq.sqes = entries
        handle.pointee.cq.khead = words + 3
        handle.pointee.cq.ktail = words + 4
        handle.pointee.cq.cqes = completions
    }

    deinit {
        words.deallocate()
        array.deallocate()
        entries.deallocate()
        completions.deallocate()
    }

    private static func powerOfTwo(_ count: UInt32) -> UInt32 {
        var power: UInt32 = 1
        while power < count { power *= 2 }
        return power
    }

    private func setFlag(_ bit: UInt32, _ isSet: Bool) {
        words[2] = isSet ? words[2] | bit : words[2] & ~bit
    }

    /// The next published entry.
    func takeEntry() -> iou_sqe? {
        guard words[0] != words[1] else { return nil }
        let entry = entries[Int(array[Int(words[0] & (submissionCapacity - 1))])]
        words[0] &+= 1
        return entry
    }

    var unsubmitted: UInt32 { words[1] &- words[0] }
    var completionsReady: UInt32 { words[4] &- words[3] }
    var submissionHead: UInt32 { words[0] }
    var completionHead: UInt32 { words[3] }
    /// Of a completion that lies in the queue, or did a moment ago, by its number since the beginning.
    func userData(at number: UInt32) -> UInt64 { completions[Int(number & (completionCapacity - 1))].user_data }
    /// Whether one of them is more than a wake-up, or more wait in the kernel's memory.
    var hasResults: Bool {
        if hasOverflow { return true }
        var number = words[3]
        while number != words[4] {
            if userData(at: number) >= 8 { return true }
            number &+= 1
        }
        return false
    }
    var hasOverflow: Bool { !overflow.isEmpty }
    var hasAnything: Bool { completionsReady > 0 || hasOverflow }

    func post(_ completion: VirtualCompletion) {
        if hasOverflow || completionsReady == completionCapacity {
            overflow.append(completion)
            setFlag(1 << 1, true)
            report.count(.overflows)
        } else {
            put(completion)
        }
    }

    private func put(_ completion: VirtualCompletion) {
        let place = completions + Int(words[4] & (completionCapacity - 1))
        place.pointee.user_data = completion.userData
        place.pointee.res = completion.result
        place.pointee.flags = 0
        words[4] &+= 1
    }

    /// Brings completions that found the queue full, as far as there is room.
    func flushOverflow() {
        var count = 0
        while count < overflow.count, completionsReady < completionCapacity {
            put(overflow[count])
            count += 1
        }
        if count > 0 { overflow.removeFirst(count) }
        setFlag(1 << 1, hasOverflow)
    }
}
