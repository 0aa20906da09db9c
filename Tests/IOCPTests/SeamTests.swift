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

    @Test("a thread that sleeps in its ring is woken by a message and no entry into it, where the kernel has messages")
    func message() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let slot = port.core.slots[0]
        let thread = ScriptedThread()
        defer {
            port.close()
            thread.exit()
        }
        let messages = Atomic<Int>(0)
        let others = Atomic<Int>(0)
        let ring = slot.fileDescriptor
        let poster = pthread_self()
        let installed = Seam.install { call in
            switch call {
            case .message(to: ring, _, _): messages.add(1, ordering: .relaxed)
            case .enter(ring, _, _, _, _) where pthread_equal(pthread_self(), poster) != 0:
                others.add(1, ordering: .relaxed)
            default: break
            }
            return .pass
        }
        defer { Seam.remove(installed) }
        // Now and then the post comes before the thread sleeps.
        for _ in 0..<1000 where messages.load(ordering: .relaxed) == 0 {
            let ticket = thread.waits(on: port)
            try until("the thread is about to sleep") { slot.isWatched }
            try port.post(key: 1)
            #expect(try ticket.value()?.key == 1)
        }
        let kernelHas = try Capabilities.probe().synchronousMessages
        #expect(messages.load(ordering: .relaxed) > 0)
        #expect(Slot.hasSynchronousMessages.load(ordering: .relaxed) == kernelHas)
        if kernelHas { #expect(others.load(ordering: .relaxed) == 0) }
    }

    @Test("a thread does not spin on the wake-up of another that is on its way to sleep in the same ring")
    func wakeUpOfAnother() throws {
        var options = CompletionPort.Options()
        options.rings = 1
        try withPort(limit: 2, threads: 2, options: options) { port, threads in
            let ring = port.core.slots[0].fileDescriptor
            let older = try threads[0].perform { IOThread.current }
            let newer = try threads[1].perform { IOThread.current }
            let kernel = LateSleeper(ring: ring, late: older.serial, counted: newer.serial)
            defer { kernel.end() }
            let interrupted = threads[0].start { try Self.runsCalls(port) }
            try until("the older one is about to sleep") { port.core.slots[0].isWatched }
            // The newer one is woken and takes the ring over, and sleeps in it as well.
            let first = threads[1].waits(on: port)
            try port.post(key: 1)
            #expect(try first.value()?.key == 1)
            let second = threads[1].waits(on: port)
            try until("both sleep in the ring") { port.core.slots[0].sleepers.load(ordering: .relaxed) == 2 }
            try until("the newer one is in the kernel") {
                ThreadProbe.state(of: newer.identifier) == .sleeps && kernel.entries.value > 0
            }
            let before = kernel.entries.value
            older.queueCall {}
            #expect(staysTrue { !interrupted.isDone && !second.isDone })
            let vain = kernel.entries.value - before
            #expect(vain <= 3, "\(vain) entries")
            kernel.letGo.add()
            #expect(try interrupted.value())
            // The ring is a place to sleep again.
            try until("the newer one sleeps in the ring") { port.core.slots[0].isWatched }
            try port.post(key: 2)
            #expect(try second.value()?.key == 2)
        }
    }

    private static func runsCalls(_ port: CompletionPort) throws -> Bool {
        switch try port.dequeueAlertably() {
        case .callsRan: true
        default: false
        }
    }
}

/// Holds one thread back on its way to sleep in a ring, and counts how often another begins to.
private final class LateSleeper: Sendable {
    let letGo = Tally()
    let entries = Tally()
    private nonisolated(unsafe) var installed = -1

    init(ring: Int32, late: UInt32, counted: UInt32) {
        installed = Seam.install { [letGo, entries] call in
            guard case .enter(ring, _, 1, _, _) = call else { return .pass }
            let serial = IOThread.currentIfKnown?.serial
            if serial == late {
                while letGo.value == 0 { usleep(100) }
            } else if serial == counted {
                entries.add()
            }
            return .pass
        }
    }

    func end() {
        letGo.add()
        Seam.remove(installed)
    }
}
#endif
