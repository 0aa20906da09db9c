internal import Glibc
internal import IOUring
internal import Synchronization

/// Which places of the rings' tables of registered files are taken. A file has the same place in the tables of all
/// rings of its port, and is put there by the first request that goes through a ring (``Slot``).
final class FileTable: @unchecked Sendable {
    // Unchecked: `lock` guards the places.

    private let lock = FutexLock()
    /// Places given back.
    private var free: [Int32] = []
    /// Places that were never taken begin here.
    private var fresh: Int32 = 0
    let capacity: Int32

    /// Files that have a place, and associations that found none.
    let taken = Atomic<Int>(0)
    let refused = Atomic<Int>(0)

    /// - Parameter capacity: places; none if the rings have no tables, so that all are refused.
    init(capacity: Int) {
        self.capacity = Int32(capacity)
    }

    /// A place; nil if all are taken.
    func take() -> Int32? {
        lock.lock()
        defer { lock.unlock() }
        var place = free.popLast()
        if place == nil, fresh < capacity {
            place = fresh
            fresh += 1
        }
        guard let place else {
            refused.add(1, ordering: .relaxed)
            return nil
        }
        taken.add(1, ordering: .relaxed)
        return place
    }

    /// - Parameter place: no request names it, and no table holds a file there.
    func giveBack(_ place: Int32) {
        lock.lock()
        free.append(place)
        taken.subtract(1, ordering: .relaxed)
        lock.unlock()
    }

    /// Gives each of a port's rings an empty table, or none of them.
    ///
    /// - Parameter wanted: places. The kernel refuses more than the process may have descriptors, which are not of use
    ///   either.
    static func make(for slots: [Slot], wanted: Int) -> FileTable {
        var limit = rlimit()
        guard closesAtOnce, unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
            return FileTable(capacity: 0)
        }
        let capacity = min(wanted, most, Int(clamping: limit.rlim_cur))
        guard capacity > 0 else { return FileTable(capacity: 0) }
        for (index, slot) in slots.enumerated() {
            do throws(RingError) {
                try slot.withRing { (ring) throws(RingError) in
                    try ring.registerSparseFiles(count: UInt32(capacity))
                }
                // A file notes in 64 bits which of the rings hold it.
                slot.noteFileTable(index < 64 ? 1 << UInt64(index) : 0)
            } catch {
                for slot in slots { slot.noteFileTable(0) }
                return FileTable(capacity: 0)
            }
        }
        return FileTable(capacity: capacity)
    }

    /// IORING_MAX_FIXED_FILES.
    static let most = 1 << 20

    /// Kernels that keep a registered file open for the sake of others would keep closed connections open.
    private static let closesAtOnce = (try? Capabilities.probe())?.promptFileRelease ?? false
}

/// A file's place in the tables of its port's rings. An object of its own, since most files have none.
final class FilePlace: Sendable {
    /// -1 once the file has left it.
    private let number: Atomic<Int32>
    /// The rings that hold the file there: a bit each, set under the lock of its slot.
    private let rings = Atomic<UInt64>(0)

    init(_ number: Int32) {
        self.number = Atomic(number)
    }

    /// Where rings of the port hold the file besides its descriptor.
    struct Registration {
        let place: Int32
        let rings: UInt64
    }

    /// Nil once the file has left its place.
    var registration: Registration? {
        let place = number.load(ordering: .relaxed)
        return place < 0 ? nil : Registration(place: place, rings: rings.load(ordering: .relaxed))
    }

    /// The file leaves its place. Returns what is to be undone, once.
    func take() -> Registration? {
        let place = number.exchange(-1, ordering: .relaxed)
        return place < 0 ? nil : Registration(place: place, rings: rings.exchange(0, ordering: .relaxed))
    }

    /// Under the slot's lock.
    func note(_ fileBit: UInt64) { rings.bitwiseOr(fileBit, ordering: .relaxed) }
}

extension PortCore {
    /// Takes a file out of the tables of the rings that hold it, and gives its place back. Called by whoever closes the
    /// descriptor, before that: no request names the place any more that the kernel has not taken.
    func unregister(_ registration: FilePlace.Registration) {
        var isEmptied = true
        for slot in slots where registration.rings & slot.fileBit != 0 {
            isEmptied = slot.removeRegisteredFile(at: registration.place) && isEmptied
        }
        // A place that the kernel did not empty is used no more. One that its ring's owner is to empty comes back then.
        if isEmptied { fileTable?.giveBack(registration.place) }
    }

    /// The file's descriptor stands for another file from now on.
    func reregister(_ registration: FilePlace.Registration, _ descriptor: Int32) -> Bool {
        var isReplaced = true
        for slot in slots where registration.rings & slot.fileBit != 0 {
            isReplaced = slot.setRegisteredFile(descriptor, at: registration.place) && isReplaced
        }
        return isReplaced
    }
}
