import Synchronization
import Testing

@testable import IOCP

@Suite("Rings whose thread stays away (e34, test 43)")
struct ObserverTests {
    /// Found by the model, Tests/Model/observer.pml: the ring counted as left alone although nothing waited for it, so no
    /// tick had it waited for again, and completions lay in it until its thread came back.
    @Test("a ring that the observer has left to its thread is waited for anew when the thread stays away again")
    func ringIsLeftAloneAnew() throws {
        try withPort(limit: 1, threads: 1) { port, threads in
            try threads[0].perform { _ = try port.dequeue(timeout: .zero) }
            let slot = port.core.slots[0]
            #expect(slot.owner.load(ordering: .relaxed) != 0)
            // As a tick does when the thread has stayed away with an operation in flight.
            slot.leaveAlone()
            // The operation completes while the thread is about to sleep in its ring; a packet of another's then lets the
            // thread go without entering the kernel, so that nothing shows that it has been there.
            slot.sleepers.add(1, ordering: .sequentiallyConsistent)
            #expect(!port.core.observe(slot, .current))
            slot.sleepers.subtract(1, ordering: .sequentiallyConsistent)
            #expect(!slot.isLeftAlone)
        }
    }
}
