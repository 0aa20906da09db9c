import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP

/// An operation that counts its ends.
final class FireOperation: IOCP.Operation, @unchecked Sendable {
    /// Final packets.
    let packets = Tally()
    /// Its handle had a port when it was started: a packet has to come.
    var mustTell = false
    private let gone: Tally

    init(_ gone: Tally, capacity: Int) {
        self.gone = gone
        super.init(buffer: IOBuffer(capacity: capacity))
    }

    deinit { gone.add() }
}

/// A handle that anybody may close, cancel, duplicate and start operations on at any moment.
final class Victim: Sendable {
    enum Kind: Int, CaseIterable { case pair, tcp, duplex, pipe, datagram, listener }

    let kind: Kind
    let handle: IOHandle
    let far: IOHandle?
    let isAssociated = Atomic<Bool>(false)

    init(_ kind: Kind) throws {
        self.kind = kind
        switch kind {
        case .pair: (handle, far) = try Socket.pair()
        case .tcp: (handle, far) = try tcpPair()
        case .duplex: (handle, far) = try Pipe.makeDuplex()
        case .pipe: (handle, far) = try Pipe.make()
        case .datagram: (handle, far) = (try Socket.datagram(at: .loopback(port: 0)), nil)
        case .listener: (handle, far) = (try Socket.listening(at: .loopback(port: 0)), nil)
        }
    }
}

/// Threads that do everything at once to the handles of a port, and a record of what became of it.
final class Fire: @unchecked Sendable {
    let port: CompletionPort
    let group: BufferGroup
    let file: File
    private let scratch: ScratchDirectory
    let made = Tally()
    let gone = Tally()
    let stop = Tally()
    private let operations = Protected<[FireOperation]>([])
    private let victims = Protected<[Victim]>([])

    init(limit: Int) throws {
        port = try CompletionPort(concurrencyLimit: limit)
        group = try BufferGroup(for: port, buffersPerRing: 4, bufferSize: 32)
        scratch = try ScratchDirectory()
        file = try File(scratch.write(pattern(300_000)))
    }

    // MARK: Actions

    /// One random thing. What throws because somebody else was faster is all right.
    func act(_ dice: inout Dice) throws {
        do {
            try tryToAct(&dice)
        } catch is PortError {}
    }

    private func tryToAct(_ dice: inout Dice) throws {
        let choice = dice.below(24)
        guard choice > 3, let victim = pick(&dice) else { return try make(&dice) }
        switch choice {
        case 4: try victim.handle.close()
        case 5: drop(&dice)
        case 6: try victim.far?.close()
        case 7: try associate(victim)
        case 8: try victim.handle.cancelAll()
        case 9: try victim.handle.cancelFromThisThread()
        case 10:
            if let some = operations.withLock({ $0.isEmpty ? nil : $0[$0.count - 1 - dice.below(min(8, $0.count))] }) {
                try victim.handle.cancel(some)
            }
        case 11: try (victim.handle as? Socket)?.duplicate().close()
        case 12: _ = try victim.handle.waitUntilSignaled(timeout: .microseconds(50))
        case 13: try port.post(key: 1)
        case 14, 15, 16: feed(victim)
        default: try start(on: victim, &dice)
        }
    }

    private func make(_ dice: inout Dice) throws {
        let victim = try Victim(Victim.Kind.allCases[dice.below(6)])
        // Some are shown to the others first.
        if dice.below(3) == 0 {
            keep(victim, &dice)
            try associate(victim)
        } else {
            try associate(victim)
            keep(victim, &dice)
        }
        for _ in 0..<dice.below(4) { try start(on: victim, &dice) }
    }

    private func associate(_ victim: Victim) throws {
        try port.associate(victim.handle, key: 2)
        victim.isAssociated.store(true, ordering: .sequentiallyConsistent)
    }

    private func keep(_ victim: Victim, _ dice: inout Dice) {
        let index = dice.below(12)
        // The one that it replaces is let go of, and so closed if it was not.
        let replaced = victims.withLock { victims -> Victim? in
            if victims.count < 12 {
                victims.append(victim)
                return nil
            }
            defer { victims[index] = victim }
            return victims[index]
        }
        _ = replaced
    }

    private func drop(_ dice: inout Dice) {
        let index = dice.below(12)
        _ = victims.withLock { $0.isEmpty ? nil : $0.remove(at: index % $0.count) }
    }

    private func pick(_ dice: inout Dice) -> Victim? {
        let index = dice.below(12)
        return victims.withLock { $0.isEmpty ? nil : $0[index % $0.count] }
    }

    /// Something for the victim's operations to complete with. Nobody can be waited for here.
    private func feed(_ victim: Victim) {
        switch victim.kind {
        case .pair, .tcp, .duplex:
            guard let far = victim.far else { return }
            _ = try? far.file.onDescriptor { Int32(truncatingIfNeeded: send($0, "fire!", 5, nowOrNever)) }
            var room = [UInt8](repeating: 0, count: 65536)
            _ = try? far.file.onDescriptor { Int32(truncatingIfNeeded: recv($0, &room, room.count, nowOrNever)) }
        case .pipe:
            _ = try? victim.far?.file.onDescriptor { Int32(truncatingIfNeeded: write($0, "fire!", 5)) }
        case .datagram:
            guard let address = try? (victim.handle as! Socket).localAddress() else { return }
            _ = try? victim.handle.file.onDescriptor { descriptor in
                address.withSockAddr { Int32(truncatingIfNeeded: sendto(descriptor, "fire!", 5, nowOrNever, $0, $1)) }
            }
        case .listener:
            guard let address = try? (victim.handle as! Socket).localAddress() else { return }
            let descriptor = socket(
                AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
            _ = address.withSockAddr { connect(descriptor, $0, $1) }
            close(descriptor)
        }
    }

    private let nowOrNever = Int32(MSG_DONTWAIT | MSG_NOSIGNAL)

    private func start(on victim: Victim, _ dice: inout Dice) throws {
        let isLarge = dice.below(4) == 0
        let operation = FireOperation(gone, capacity: isLarge ? 1 << 20 : 16)
        made.add()
        operation.mustTell = victim.isAssociated.load(ordering: .sequentiallyConsistent)
        let start = bothStarts[dice.below(2)]
        switch victim.handle {
        case let socket as Socket where victim.kind == .listener:
            switch dice.below(3) {
            case 0: try socket.accept(operation, start: start)
            case 1: try socket.accept(operation, firstData: 0..<8, start: start)
            default: try socket.acceptContinuously(operation, start: start)
            }
        case let socket as Socket:
            switch dice.below(8) {
            case 0: try socket.receiveContinuously(operation, from: group, start: start)
            case 1: try socket.receive(operation, into: 0..<0, start: start)
            case 2: try socket.receiveMessage(operation, start: start)
            case 3 where victim.kind != .datagram: try socket.send(operation, start: start)
            case 4 where victim.kind != .datagram: try socket.transmit(operation, file: file, start: start)
            case 5 where victim.kind != .datagram: try socket.receive(operation, flags: .waitAll, start: start)
            default: try socket.receive(operation, start: start)
            }
        case let pipe as IOCP.Pipe where victim.kind == .duplex && dice.below(3) == 0:
            try pipe.write(operation, start: start)
        case let pipe as IOCP.Pipe:
            if dice.below(3) == 0 {
                try pipe.read(operation, into: 0..<0, start: start)
            } else {
                try pipe.read(operation, start: start)
            }
        default: throw Complaint("what is this handle?")
        }
        operations.withLock { $0.append(operation) }
    }

    // MARK: Threads

    /// Dequeues until the port is closed, and handles packets until told to stop. Returns how many final packets came.
    func work(seed: UInt64, _ inHandler: @escaping @Sendable (inout Dice) throws -> Void = { _ in }) -> SideThread<Int>
    {
        SideThread { [self] in
            var dice = Dice(seed: seed)
            var batch = PacketBatch(capacity: 8)
            var count = 0
            var held: [LentBuffer] = []
            while true {
                do {
                    let number = try port.dequeue(into: &batch)
                    try check(number > 0, "a dequeue without end has ended")
                    for index in 0..<number {
                        let packet = batch[index]
                        if !packet.isMore, let operation = packet.operation as? FireOperation {
                            operation.packets.add()
                            count += 1
                        }
                        if let lent = packet.lentBuffer { held.append(lent) }
                        if held.count > 2 || dice.below(2) == 0, !held.isEmpty { held.removeFirst().giveBack() }
                        if stop.value == 0 { try inHandler(&dice) }
                    }
                } catch let error as PortError {
                    try check(error.status == .abandoned || error.status == .invalidHandle, "\(error)")
                    for lent in held { lent.giveBack() }
                    return count
                }
            }
        }
    }

    /// Acts until told to stop. Every now and then another thread takes its place, and it exits with all that it has
    /// started.
    func rage(seed: UInt64) -> SideThread<Void> {
        SideThread { [self] in
            var dice = Dice(seed: seed)
            while stop.value == 0 {
                let seed = dice.next()
                try SideThread { [self] in
                    var dice = Dice(seed: seed)
                    let ties = dice.below(2) == 0
                    for _ in 0..<(20 + dice.below(200)) where stop.value == 0 {
                        if ties, dice.below(20) == 0 {
                            do {
                                let packet = try port.dequeue(timeout: .zero)
                                if let packet, !packet.isMore { (packet.operation as? FireOperation)?.packets.add() }
                                packet?.lentBuffer?.giveBack()
                            } catch is PortError {}
                        }
                        try act(&dice)
                    }
                }.join()
            }
        }
    }

    // MARK: The end

    /// Closes every handle and waits for the end of every operation. Then each has ended exactly once, with a packet if
    /// its handle had a port and the port has not been closed.
    func settle(portIsOpen: Bool) throws {
        for victim in victims.withLock({ $0 }) { try? victim.handle.close() }
        victims.withLock { $0 = [] }
        let all = operations.withLock { $0 }
        var stuck = 0
        let isOver = becomesTrue {
            stuck = all.count { operation in
                operation.isPending || portIsOpen && operation.mustTell && operation.packets.value == 0
            }
            return stuck == 0
        }
        try check(isOver, "\(stuck) of \(all.count) operations do not end")
        for operation in all {
            try check(operation.packets.value <= 1, "an operation has ended \(operation.packets.value) times")
        }
        operations.withLock { $0 = [] }
    }

    /// Everything that was made is gone. To be asked when nobody uses the port any more.
    func checkGone() throws {
        try check(
            becomesTrue { gone.value == made.value }, "\(made.value - gone.value) of \(made.value) operations are left")
    }
}
