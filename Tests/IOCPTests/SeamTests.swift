#if DEBUG || IOCP_SEAM
import Glibc
import IOCP
import Synchronization
import Testing

@testable import IOCP
@testable import IOUring

@Suite("Faults below the port")
struct SeamTests {
    @Test("a waiter is told of the port's end although the kernel refuses the message and the no-op at first (b5)")
    func stubbornWakeUp() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let ring = port.core.slots[0].fileDescriptor
        let thread = ScriptedThread()
        let ticket = thread.waits(on: port)
        defer {
            if !ticket.isDone { port.core.slots[0].wakeSleeper() }
            thread.exit()
        }
        // Once the thread sleeps in the ring, not just on its way there.
        try until("the thread sleeps in the ring") { port.core.slots[0].isWatched }
        let refusals = Atomic<Int>(0)
        let installed = Seam.install { call in
            switch call {
            case .message(to: ring, _, _): return .answer(-ENOMEM)
            // The no-op's entry, and the one that closing makes after it.
            case .enter(ring, _, 0, _, _):
                return refusals.wrappingAdd(1, ordering: .relaxed).oldValue < 2 ? .answer(-EAGAIN) : .pass
            default: return .pass
            }
        }
        defer { Seam.remove(installed) }
        port.close()
        do {
            _ = try ticket.value()
            Issue.record("the dequeue returned")
        } catch {
            #expect((error as? PortError)?.status == .abandoned)
        }
    }
}
#endif
