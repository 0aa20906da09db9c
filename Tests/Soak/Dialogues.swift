import Glibc
import IOCP
import Synchronization

/// Questions and answers by transactions, over a pair of sockets: one end sends a flow, the other sends it back.
final class DialogueAct: Act, @unchecked Sendable {
    static let most = 8192
    let flow: Flow

    private init(on stage: Stage, _ chance: inout Chance) {
        flow = Flow(.shutdown, &chance)
        super.init(on: stage)
    }

    static func begin(on stage: Stage, _ worker: Worker) throws(PortError) {
        let ends = try Socket.pair()
        // Questions come short then. Answers always have room: otherwise both could wait for each other.
        if worker.chance.happens(500) { try ends.0.setOption(SOL_SOCKET, SO_SNDBUF, 4096) }
        let act = DialogueAct(on: stage, &worker.chance)
        guard stage.add(act), act.enter() else { return }
        let (left, right) = (stage.someWorld(&worker.chance), stage.someWorld(&worker.chance))
        if let leftKey = act.own(ends.0, in: left, worker), let rightKey = act.own(ends.1, in: right, worker),
            act.enter(2)
        {
            let asker = Asker(act, ends.0, in: left, key: leftKey, worker)
            let answerer = Answerer(act, ends.1, in: right, key: rightKey, worker)
            act.list(asker)
            act.list(answerer)
            asker.go(worker)
            answerer.go(worker)
        }
        act.leave()
    }

    /// A chain met an error. Nobody can tell how much of a cancelled transaction was sent, so that ends it too.
    func abandon(_ status: CompletionStatus, _ who: NumberedOperation) {
        if status != .cancelled && !mayFail {
            Ledger.fail(
                "a \(type(of: who)), \(flow.sent) sent and \(flow.received) received, in \(who.world): \(status)")
        }
        breakOff()
        leave()
    }
}

/// One end of a dialogue.
class Speaker: NumberedOperation, @unchecked Sendable {
    fileprivate let act: DialogueAct
    fileprivate let socket: Socket
    private let skips: Bool
    /// Whether what is received overlaps what is sent.
    private let overlaps: Bool
    private var side = 0

    fileprivate init(_ act: DialogueAct, _ socket: Socket, in world: World, key: UInt, _ worker: Worker) {
        self.act = act
        self.socket = socket
        skips = worker.chance.happens(250)
        overlaps = worker.chance.happens(250)
        super.init(in: world, key: key, capacity: 2 * DialogueAct.most)
        if skips { try? socket.setNotificationModes(.skipCompletionPortOnSuccess) }
    }

    /// Where the last that came lies, and the next to be sent is to be put.
    fileprivate func bytes(_ count: Int) -> UnsafeMutableRawBufferPointer {
        .init(rebasing: buffer!.bytes[side..<side + count])
    }

    /// Sends the first bytes and receives some, or only receives.
    fileprivate func start(sending count: Int, room: Int, _ worker: Worker) -> Begun {
        let from = side
        if !overlaps { side = DialogueAct.most - side }
        let into = side..<side + room
        return begin(skips: skips) { () throws(PortError) in
            let start = worker.chance.start()
            if count == 0 { return try socket.receive(self, into: into, start: start) }
            return try socket.transact(self, sending: from..<from + count, receiving: into, start: start)
        }
    }

    /// What came was dealt with; the next step. Returns nil when the chain is over.
    fileprivate func proceed(_ count: Int, _ worker: Worker) -> Begun? { nil }

    fileprivate func goOn(from begun: Begun?, _ worker: Worker) {
        var next = begun
        while let begun = next {
            switch begun {
            case .pending: return
            case .inline(let bytes): next = world.isDead ? dead() : proceed(bytes, worker)
            case .refused(let status): return act.abandon(status, self)
            }
        }
    }

    private func dead() -> Begun? {
        act.abandon(.abandoned, self)
        return nil
    }

    override func completed(_ packet: Packet, _ worker: Worker) {
        guard packet.isSuccess else {
            if packet.bytes != 0 { Ledger.fail("a \(type(of: self)) failed with \(packet.bytes) bytes, in \(world)") }
            return act.abandon(packet.status, self)
        }
        goOn(from: world.isDead ? dead() : proceed(packet.bytes, worker), worker)
    }
}

/// Sends the flow piece by piece, and has each back before the next.
final class Asker: Speaker, @unchecked Sendable {
    func go(_ worker: Worker) { goOn(from: ask(worker), worker) }

    private func ask(_ worker: Worker) -> Begun? {
        let flow = act.flow
        if flow.sent == flow.total {
            flow.isFinished.store(true, ordering: .sequentiallyConsistent)
            try? socket.shutdown(.sending)
            act.leave()
            return nil
        }
        let count = min(flow.total - flow.sent, 1 + worker.chance.below(DialogueAct.most))
        Pattern.fill(bytes(count), seed: flow.seed, at: flow.sent)
        flow.sent += count
        return start(sending: count, room: 1 + worker.chance.below(DialogueAct.most), worker)
    }

    override fileprivate func proceed(_ count: Int, _ worker: Worker) -> Begun? {
        let flow = act.flow
        if count == 0 || !Pattern.matches(.init(bytes(count)), seed: flow.seed, at: flow.received) {
            act.abandon(.unsuccessful, self)
            return nil
        }
        flow.received += count
        Ledger.add(.bytes, count)
        if flow.received == flow.sent { return ask(worker) }
        return start(sending: 0, room: 1 + worker.chance.below(DialogueAct.most), worker)
    }
}

/// Sends back what comes.
final class Answerer: Speaker, @unchecked Sendable {
    func go(_ worker: Worker) { goOn(from: start(sending: 0, room: DialogueAct.most, worker), worker) }

    override fileprivate func proceed(_ count: Int, _ worker: Worker) -> Begun? {
        if count == 0 {
            if !act.flow.isFinished.load(ordering: .sequentiallyConsistent) && !act.mayFail {
                Ledger.fail("a dialogue ended early, in \(world)")
            }
            act.leave()
            return nil
        }
        return start(sending: count, room: worker.chance.between(256...DialogueAct.most), worker)
    }
}
