import IOCP
import Synchronization

/// Numbered messages from one socket to another: UDP, Unix datagrams, seqpacket, mail slot.
final class MessageAct: Act, @unchecked Sendable {
    static let longest = 1200
    let total: Int
    let seed: Int
    /// Whether the kernel may lose a message.
    let mayLose: Bool
    private let seen: Locked<(numbers: Set<UInt64>, isOver: Bool)> = Locked(([], false))
    private let isSent = Atomic<Bool>(false)

    private init(on stage: Stage, mayLose: Bool, _ chance: inout Chance) {
        total = chance.between(1...100)
        seed = chance.below(Pattern.period)
        self.mayLose = mayLose
        super.init(on: stage)
    }

    static func begin(on stage: Stage, _ worker: Worker) throws(PortError) {
        let ends: (IOHandle, IOHandle)
        let kind = worker.chance.below(4)
        switch kind {
        case 0:
            let (sender, receiver) = (
                try Socket.datagram(at: .loopback(port: 0)), try Socket.datagram(at: .loopback(port: 0))
            )
            try sender.connectAndWait(to: receiver.localAddress())
            ends = (sender, receiver)
        case 1: ends = try Socket.pair(.datagram)
        case 2: ends = try Socket.pair(.sequenced)
        default:
            let name = "swift-iocp-soak-\(Usage.processNumber)-\(Ledger.nextNumber())"
            guard let address = try? SocketAddress.abstract(name) else { return }
            let slot = try MailSlot(at: address)
            ends = (try MailSlot.writer(to: address), slot)
        }
        let act = MessageAct(on: stage, mayLose: kind == 0, &worker.chance)
        guard stage.add(act), act.enter() else { return }
        let (left, right) = (stage.someWorld(&worker.chance), stage.someWorld(&worker.chance))
        if let leftKey = act.own(ends.0, in: left, worker), let rightKey = act.own(ends.1, in: right, worker) {
            let continuous = right.group != nil && ends.1 is Socket && worker.chance.happens(300)
            for _ in 0..<(continuous ? 1 : worker.chance.between(1...3)) where act.enter() {
                let receiver = MessageReceiver(act, ends.1, continuous, in: right, key: rightKey)
                act.list(receiver)
                receiver.go(worker)
            }
            if act.enter() {
                let sender = MessageSender(act, ends.0, in: left, key: leftKey)
                act.list(sender)
                sender.go(worker)
            }
        }
        act.leave()
    }

    /// A message has come, cut to what the receiver had room for.
    func take(_ message: UnsafeRawBufferPointer, wasCut: Bool, in world: World) {
        Ledger.add(.messages)
        guard message.count >= 16 else {
            return Ledger.fail("a message of \(message.count) bytes came in \(world)")
        }
        let number = message.loadUnaligned(as: UInt64.self)
        let length = message.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
        let body = UnsafeRawBufferPointer(rebasing: message[16...])
        if number >= total || (wasCut ? length <= message.count : length != message.count)
            || !Pattern.matches(body, seed: seed, at: Int(truncatingIfNeeded: number) & 0xffff)
        {
            return Ledger.fail("message \(number) of \(length) bytes is wrong in \(world)")
        }
        let (isNew, isLast) = seen.withLock { seen in
            (seen.numbers.insert(number).inserted, seen.numbers.count == total)
        }
        if !isNew { Ledger.fail("message \(number) came twice in \(world)") }
        if isLast { endIfComplete() }
    }

    /// Everything has been sent; what the kernel may lose is not waited for.
    func sent() {
        isSent.store(true, ordering: .sequentiallyConsistent)
        endIfComplete()
    }

    private func endIfComplete() {
        guard isSent.load(ordering: .sequentiallyConsistent) else { return }
        let ends = seen.withLock { seen in
            guard !seen.isOver, mayLose || seen.numbers.count == total else { return false }
            seen.isOver = true
            return true
        }
        // The receivers know of no end.
        if ends { breakOff() }
    }
}

final class MessageSender: NumberedOperation, @unchecked Sendable {
    private let act: MessageAct
    private let handle: IOHandle
    private var next = 0
    private var asked = 0

    init(_ act: MessageAct, _ handle: IOHandle, in world: World, key: UInt) {
        self.act = act
        self.handle = handle
        super.init(in: world, key: key, capacity: MessageAct.longest)
    }

    func go(_ worker: Worker) {
        guard next < act.total else {
            act.sent()
            return act.leave()
        }
        asked = 16 + worker.chance.below(MessageAct.longest - 15)
        let message = UnsafeMutableRawBufferPointer(rebasing: buffer!.bytes[..<asked])
        message.storeBytes(of: UInt64(next), as: UInt64.self)
        message.storeBytes(of: UInt64(asked), toByteOffset: 8, as: UInt64.self)
        Pattern.fill(.init(rebasing: message[16...]), seed: act.seed, at: next)
        let start = worker.chance.start()
        let begun = begin { () throws(PortError) in
            if let socket = handle as? Socket, worker.chance.happens(500) {
                return try socket.sendMessage(self, from: 0..<asked, start: start)
            }
            return try handle.write(self, at: .current, from: 0..<asked, start: start)
        }
        if case .refused(let status) = begun { status == .cancelled ? go(worker) : failed(status) }
    }

    override func completed(_ packet: Packet, _ worker: Worker) {
        switch packet.status {
        case .success:
            if packet.bytes != asked { Ledger.fail("\(packet.bytes) of a message of \(asked) were sent in \(world)") }
            next += 1
        case .cancelled where packet.bytes == 0: break
        default: return failed(packet.status)
        }
        if world.isDead { return failed(.abandoned) }
        go(worker)
    }

    private func failed(_ status: CompletionStatus) {
        if !act.mayFail { Ledger.fail("a message was not sent in \(world): \(status)") }
        act.breakOff()
        act.leave()
    }
}

final class MessageReceiver: NumberedOperation, @unchecked Sendable {
    private let act: MessageAct
    private let handle: IOHandle
    private let isContinuous: Bool
    private var room = 0

    init(_ act: MessageAct, _ handle: IOHandle, _ isContinuous: Bool, in world: World, key: UInt) {
        self.act = act
        self.handle = handle
        self.isContinuous = isContinuous
        super.init(in: world, key: key, capacity: MessageAct.longest)
    }

    override var mayTrail: Bool { isContinuous }

    func go(_ worker: Worker) {
        let start = worker.chance.start()
        room = worker.chance.happens(100) ? worker.chance.between(16...MessageAct.longest) : MessageAct.longest
        let begun = begin { () throws(PortError) in
            if isContinuous, let socket = handle as? Socket, let group = world.group {
                try socket.receiveContinuously(self, from: group, start: start)
                return .pending
            }
            if let socket = handle as? Socket, worker.chance.happens(300) {
                room = MessageAct.longest
                return try socket.receiveMessage(self, start: start)
            }
            return try handle.read(self, at: .current, into: 0..<room, start: start)
        }
        if case .refused(let status) = begun { status == .cancelled ? go(worker) : failed(status) }
    }

    override func completed(_ packet: Packet, _ worker: Worker) {
        switch packet.status {
        case _ where packet.lentBuffer != nil:
            let lent = packet.lentBuffer!
            let room = world.group!.bufferSize
            // The kernel does not say of a continuous receive that a message was cut.
            lent.withBytes { message in
                let length = message.count >= 16 ? message.loadUnaligned(fromByteOffset: 8, as: UInt64.self) : 0
                act.take(message, wasCut: message.count == room && length > room, in: world)
            }
            act.stage.hold(lent, worker)
            return
        case .success where packet.bytes > 0:
            act.take(.init(rebasing: buffer!.bytes[..<packet.bytes]), wasCut: false, in: world)
        case .bufferOverflow:
            if packet.bytes != room { Ledger.fail("a message was cut to \(packet.bytes), not \(room), in \(world)") }
            act.take(.init(rebasing: buffer!.bytes[..<packet.bytes]), wasCut: true, in: world)
        case .cancelled where packet.bytes == 0: break
        default: return failed(packet.status)
        }
        if world.isDead { return failed(.abandoned) }
        go(worker)
    }

    private func failed(_ status: CompletionStatus) {
        if !act.mayFail { Ledger.fail("a message was not received in \(world): \(status)") }
        act.breakOff()
        act.leave()
    }
}
