import Glibc
import Synchronization
import Testing

@testable import IOCP

@Suite("Close under fire: ports and handles closed by anybody at any moment")
struct CloseUnderFireTests {
    @Test(
        "handles closed from any thread: each operation ends once, with a packet; nothing is left (e6, e27–e35)",
        .timeLimit(.minutes(5)), arguments: [1, 2, 3] as [UInt64])
    func handles(seed: UInt64) async {
        await #expect(processExitsWith: .success) { [seed] in
            try exitTest {
                let before = openDescriptors()
                weak var core: PortCore?
                try {
                    let fire = try Fire(limit: 2)
                    core = fire.port.core
                    let workers = (0..<4).map { number in
                        fire.work(seed: seed * 100 + UInt64(number)) { dice in
                            // Handlers close, start and cancel as well.
                            if dice.below(4) == 0 { try fire.act(&dice) }
                        }
                    }
                    let actors = (0..<3).map { fire.rage(seed: seed * 1000 + UInt64($0)) }
                    usleep(1_000_000)
                    fire.stop.add()
                    for actor in actors { try actor.join() }
                    // No handler acts any more.
                    try until("the workers wait") { fire.port.core.snapshot.waiting == 4 }
                    try fire.settle(portIsOpen: true)
                    let isQuiet = becomesTrue { fire.port.core.snapshot.inFlight == 0 }
                    try check(isQuiet, "in flight: \(fire.port.core.ringStates)")
                    fire.port.close()
                    for worker in workers { _ = try worker.join() }
                    try fire.checkGone()
                }()
                try check(becomesTrue { core == nil }, "the port is still there")
                try check(
                    becomesTrue { openDescriptors() <= before + ownDescriptors },
                    "\(openDescriptors()) descriptors after \(before): \(openFiles())")
            }
        }
    }

    @Test(
        "the port closed from any thread, a handler too: waiters are told, operations end once, nothing is left (f2–f6)",
        .timeLimit(.minutes(5)), arguments: [1, 2, 3] as [UInt64])
    func ports(seed: UInt64) async {
        await #expect(processExitsWith: .success) { [seed] in
            try exitTest {
                let before = openDescriptors()
                var dice = Dice(seed: seed)
                var made = 0
                for round in 0..<16 {
                    weak var core: PortCore?
                    let seed = dice.next()
                    try {
                        let fire = try Fire(limit: 1 + round % 3)
                        core = fire.port.core
                        let duplicates = try (0..<round % 3).map { _ in try fire.port.duplicate() }
                        let closes = Tally()
                        let workers = (0..<4).map { number in
                            fire.work(seed: seed &+ UInt64(number)) { dice in
                                if dice.below(4) == 0 { try fire.act(&dice) }
                                // While others wait, and this one works.
                                if closes.value > 0 { fire.port.close() }
                            }
                        }
                        let actors = (0..<2).map { fire.rage(seed: seed &+ 100 &+ UInt64($0)) }
                        usleep(UInt32(dice.below(30_000)))
                        // A last reference of the three is closed, or let go of.
                        let last = SideThread { for duplicate in duplicates { duplicate.close() } }
                        if round % 2 == 0 {
                            fire.port.close()
                        } else {
                            closes.add()
                            // Somebody has to be in a handler.
                            try? fire.port.post(key: 1)
                        }
                        try last.join()
                        for worker in workers { _ = try worker.join() }
                        // Operations are started and ended on a port that is closed.
                        usleep(2000)
                        fire.stop.add()
                        for actor in actors { try actor.join() }
                        try fire.settle(portIsOpen: false)
                        try fire.checkGone()
                        made += fire.made.value
                    }()
                    try check(becomesTrue { core == nil }, "the port of round \(round) is still there")
                }
                try check(made > 100, "only \(made) operations were made")
                try check(
                    becomesTrue { openDescriptors() <= before + ownDescriptors },
                    "\(openDescriptors()) descriptors after \(before): \(openFiles())")
            }
        }
    }

    @Test("the last reference let go of with operations in flight: they end with their handles (f1, f4, f5)")
    func lastReferenceLetGo() throws {
        for round in 0..<200 {
            weak var core: PortCore?
            let gone = Tally()
            var near: Socket?
            let far: Socket
            (near, far) = try Socket.pair()
            var watched: [CountedOperation]
            do {
                var port: CompletionPort? = try CompletionPort(concurrencyLimit: 1)
                core = port!.core
                try port!.associate(near!, key: 1)
                let group = try BufferGroup(for: port!, buffersPerRing: 1, bufferSize: 8)
                watched = (0..<4).map { _ in CountedOperation(gone) }
                try near!.receiveContinuously(watched[0], from: group)
                for operation in watched[1...2] { try near!.receive(operation) }
                try near!.send(watched[3])
                if round % 2 == 0 { writeRaw("abc", to: far) }
                if round % 3 == 0 {
                    let left = port!
                    let other = SideThread { withExtendedLifetime(left) {} }
                    port = nil
                    try other.join()
                }
                port = nil
            }
            if round % 2 == 0 { try near!.close() }
            near = nil
            for operation in watched {
                #expect(try operation.waitForCompletion(timeout: patience) != nil, "round \(round)")
            }
            // The first of them holds its group, and that the port.
            watched = []
            try until("all is gone") { core == nil && gone.value == 4 }
        }
    }

    @Test("associating while the handle or the port is closed: bound or refused, never in between (a4, e28, f6)")
    func associateAgainstClose() throws {
        for round in 0..<500 {
            let port = try CompletionPort(concurrencyLimit: 1)
            let (near, far) = try Socket.pair()
            let operation = IOCP.Operation(capacity: 4)
            let closesPort = round % 2 == 0
            let keeper = try port.duplicate()
            if round % 4 >= 2 { try near.receive(operation) }
            let both = Tally()
            let closer = SideThread {
                both.add()
                while both.value < 2 { sched_yield() }
                if closesPort {
                    keeper.close()
                    port.close()
                } else {
                    try near.close()
                }
            }
            both.add()
            while both.value < 2 { sched_yield() }
            let refused = thrownStatus { try port.associate(near, key: 7) }
            #expect(refused == nil || refused == .invalidHandle)
            try closer.join()
            if closesPort {
                try near.close()
            } else if round % 4 >= 2 {
                // Its end comes as a packet if the port was faster.
                #expect(try operation.waitForCompletion(timeout: patience) == .connectionAborted)
                let packet = try port.dequeue(timeout: .zero)
                #expect(packet == nil || packet?.key == 7)
            }
            if round % 4 >= 2 { #expect(try operation.waitForCompletion(timeout: patience) != nil) }
            _ = far
        }
    }

    @Test(
        "whoever sees that an operation is over finds its packet queued, also if it was started without a port (a9, b14)",
        arguments: [true, false])
    func statusAndPacket(isHomeless: Bool) throws {
        let port = try CompletionPort(concurrencyLimit: 8)
        for round in 0..<1000 {
            let (near, far) = try Socket.pair()
            let operation = IOCP.Operation(capacity: 4)
            let event = CompletionEvent()
            try operation.signal(event)
            if isHomeless {
                try near.receive(operation)
                try port.associate(near, key: 5)
            } else {
                try port.associate(near, key: 5)
                writeRaw("abc", to: far)
            }
            // This thread and another look and wait, while a third completes.
            let completer = SideThread {
                if isHomeless { writeRaw("abc", to: far) } else { _ = try near.receive(operation, start: .eager) }
            }
            if !isHomeless || round % 3 == 0 {
                #expect(becomesTrue { event.isSet })
            } else if round % 3 == 1 {
                #expect(becomesTrue { !operation.isPending })
            } else {
                #expect(try operation.waitForCompletion(timeout: patience) == .success)
            }
            let packet = try port.dequeue(timeout: .zero)
            #expect(packet?.operation === operation, "round \(round)")
            try completer.join()
            if packet == nil { _ = try port.next() }
        }
    }
}

extension PortCore {
    /// For complaints.
    fileprivate var ringStates: [String] {
        slots.map { slot in
            "\(slot.inFlight.load(ordering: .relaxed)) in flight, \(slot.unsubmittedRequests) unsubmitted, "
                + "\(slot.completionsReady) ready, overflow \(slot.hasCompletions), owner \(slot.owner.load(ordering: .relaxed)), "
                + "watched \(slot.isWatched)"
        }
    }
}

/// The rings of files without a port are made when they are first needed, and stay.
private let ownDescriptors = 1
