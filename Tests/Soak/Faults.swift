import Glibc
import Synchronization

#if DEBUG
@testable import IOUring
#endif

/// Errors of the kernel, from below the ring. Builds without the seam have none.
final class Faults: Sendable {
    #if DEBUG
    private let state = Atomic<UInt64>(0)
    private let installed = Atomic<Int>(0)

    /// For a while, some of the system calls fail; called while they do, no longer.
    func begin(_ seed: UInt64) {
        if installed.load(ordering: .relaxed) != 0 { return end() }
        state.store(seed, ordering: .relaxed)
        installed.store(Seam.install { [self] in verdict($0) }, ordering: .relaxed)
    }

    func end() {
        let number = installed.exchange(0, ordering: .relaxed)
        if number != 0 { Seam.remove(number) }
    }

    private func verdict(_ call: Seam.Call) -> Seam.Verdict {
        var chance = Chance(state.add(1, ordering: .relaxed).newValue)
        guard chance.happens(100) else { return .pass }
        switch call {
        case .enter(_, let count, _, _, _):
            Ledger.add(.faults)
            if count > 1 && chance.happens(300) { return .submit(atMost: UInt32(chance.between(1...Int(count) - 1))) }
            return .answer(-chance.pick([EINTR, EAGAIN, EBUSY, ENOMEM]))
        case .message:
            Ledger.add(.faults)
            return .answer(-chance.pick([EINTR, EAGAIN, EBUSY, ENOMEM]))
        case .register, .setUp:
            Ledger.add(.faults)
            return .answer(-ENOMEM)
        case .cancel, .tearDown: return .pass
        }
    }
    #else
    func begin(_ seed: UInt64) {}
    func end() {}
    #endif
}
