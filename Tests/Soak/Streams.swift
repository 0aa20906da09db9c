import IOCP
import Synchronization

/// One direction of a stream: what is sent, and what must come.
final class Flow: @unchecked Sendable {
    /// How the receiver knows that nothing more comes.
    enum End { case shutdown, close, count }

    let seed: Int
    let total: Int
    let end: End
    // The sender's and the receiver's chain touch their own; each is handed from packet to packet.
    var sent = 0
    var received = 0
    /// For a continuous receive, whose packets any thread handles at any time.
    let continuous = Locked((bytes: 0, sum: UInt64(0)))
    /// Everything has been sent, and the receiver may be told of the end.
    let isFinished = Atomic<Bool>(false)

    init(_ end: End, _ chance: inout Chance) {
        self.end = end
        seed = chance.below(Pattern.period)
        total = chance.happens(100) ? chance.below(1 << 20) : chance.below(1 << 15)
    }
}

/// A connection or a pipe: each end on a port of its own, one flow or two.
class StreamAct: Act, @unchecked Sendable {
    /// Whether both ends are there: a connection that is never accepted ends as it likes.
    let isClaimed = Atomic<Bool>(false)

    /// One end takes part: it sends one flow and receives the other.
    func join(
        _ handle: IOHandle, in world: World, key: UInt, sends outgoing: Flow?, receives incoming: Flow?,
        _ worker: Worker
    ) {
        let skips = worker.chance.happens(250)
        if skips { try? handle.setNotificationModes(.skipCompletionPortOnSuccess) }
        let sender = outgoing.map { Sender(self, $0, handle, in: world, key: key, skips: skips) }
        var receiver: NumberedOperation?
        if let incoming {
            if let socket = handle as? Socket, let group = world.group, worker.chance.happens(300) {
                receiver = ContinuousReceiver(self, incoming, socket, group, in: world, key: key)
            } else {
                receiver = Receiver(self, incoming, handle, in: world, key: key, skips: skips)
            }
        }
        guard enter([sender, receiver].count { $0 != nil }) else { return }
        list(sender)
        list(receiver)
        sender?.go(worker)
        (receiver as? Receiver)?.go(worker)
        (receiver as? ContinuousReceiver)?.go(worker)
    }

    /// A chain met an error, or is cut: so will the others.
    func abandon(_ status: CompletionStatus, _ flow: Flow, _ who: some NumberedOperation) {
        // Nobody closes or resets these connections but the soak itself, which says so before.
        if !mayFail && isClaimed.load(ordering: .sequentiallyConsistent) {
            Ledger.fail(
                "a \(type(of: who)), \(flow.sent) sent and \(flow.received) received of \(flow.total), in \(who.world): "
                    + "\(status)")
        }
        breakOff()
        leave()
    }

    /// A receiver was told that nothing more comes.
    func conclude(_ flow: Flow, _ who: some NumberedOperation) {
        let isComplete = flow.isFinished.load(ordering: .sequentiallyConsistent) && flow.received == flow.total
        if !isComplete && !mayFail && isClaimed.load(ordering: .sequentiallyConsistent) {
            Ledger.fail(
                "a stream ended early for a \(type(of: who)): \(flow.sent) sent and \(flow.received) received of "
                    + "\(flow.total), in \(who.world)")
        }
        leave()
    }

    /// Two ends that are there from the beginning.
    static func pair(on stage: Stage, _ worker: Worker) throws(PortError) {
        let ends: (IOHandle, IOHandle)
        let end: Flow.End
        switch worker.chance.below(3) {
        case 0:
            ends = try Socket.pair()
            end = .shutdown
        case 1:
            ends = try Pipe.makeDuplex()
            end = .count
        default:
            let pipe = try Pipe.make()
            ends = (pipe.writing, pipe.reading)
            end = .close
        }
        let act = StreamAct(on: stage)
        act.isClaimed.store(true, ordering: .sequentiallyConsistent)
        guard stage.add(act), act.enter() else { return }
        let (left, right) = (stage.someWorld(&worker.chance), stage.someWorld(&worker.chance))
        if let leftKey = act.own(ends.0, in: left, worker), let rightKey = act.own(ends.1, in: right, worker) {
            let forth = Flow(end, &worker.chance)
            let back = end == .close ? nil : Flow(end, &worker.chance)
            act.join(ends.0, in: left, key: leftKey, sends: forth, receives: back, worker)
            act.join(ends.1, in: right, key: rightKey, sends: back, receives: forth, worker)
        }
        act.leave()
    }
}

/// Sends a flow, piece by piece, then ends its direction.
final class Sender: NumberedOperation, @unchecked Sendable {
    private static let most = 16_384
    private let act: StreamAct
    private let flow: Flow
    private let handle: IOHandle
    private let skips: Bool
    private var asked = 0
    private var isEnding = false

    init(_ act: StreamAct, _ flow: Flow, _ handle: IOHandle, in world: World, key: UInt, skips: Bool) {
        self.act = act
        self.flow = flow
        self.handle = handle
        self.skips = skips
        super.init(in: world, key: key, capacity: Self.most)
    }

    override var line: String { super.line + ", \(flow.sent) of \(flow.total) sent, ends: \(isEnding)" }

    func go(_ worker: Worker) {
        while true {
            if world.isDead { return act.abandon(.abandoned, flow, self) }
            if flow.sent == flow.total { return end(worker) }
            asked = min(flow.total - flow.sent, 1 + worker.chance.below(Self.most))
            switch begin(skips: skips, { () throws(PortError) in try startSending(worker) }) {
            case .pending: return
            case .inline(let bytes): moved(bytes)
            case .refused(.cancelled): flow.sent += bytes
            case .refused(let status): return act.abandon(status, flow, self)
            }
        }
    }

    private func startSending(_ worker: Worker) throws(PortError) -> StartOutcome {
        let start = worker.chance.start()
        if asked > 1, worker.chance.happens(150) {
            let cut = worker.chance.between(1...asked - 1)
            let parts = [IOBuffer(capacity: cut), IOBuffer(capacity: asked - cut)]
            Pattern.fill(parts[0].bytes, seed: flow.seed, at: flow.sent)
            Pattern.fill(parts[1].bytes, seed: flow.seed, at: flow.sent + cut)
            return try handle.write(self, at: .current, from: parts, start: start)
        }
        Pattern.fill(.init(rebasing: buffer!.bytes[..<asked]), seed: flow.seed, at: flow.sent)
        guard let socket = handle as? Socket, worker.chance.happens(700) else {
            return try handle.write(self, at: .current, from: 0..<asked, start: start)
        }
        return try socket.send(self, count: asked, start: start)
    }

    private func moved(_ bytes: Int) {
        if bytes != asked { Ledger.fail("a send of \(asked) bytes ended well with \(bytes), in \(world)") }
        flow.sent += bytes
    }

    private func end(_ worker: Worker) {
        flow.isFinished.store(true, ordering: .sequentiallyConsistent)
        switch (flow.end, handle) {
        case (.shutdown, let socket as Socket) where worker.chance.happens(500):
            isEnding = true
            switch begin(
                skips: skips,
                { () throws(PortError) in
                    try socket.shutdown(self, .sending, start: worker.chance.start())
                })
            {
            case .pending: return
            case .inline: break
            case .refused: try? socket.shutdown(.sending)
            }
        case (.shutdown, let socket as Socket): try? socket.shutdown(.sending)
        case (.close, _): act.close(handle)
        default: break
        }
        act.leave()
    }

    override func completed(_ packet: Packet, _ worker: Worker) {
        if isEnding {
            // Cancelled by those who disturb: it ends without the operation.
            if packet.status == .cancelled { try? (handle as? Socket)?.shutdown(.sending) }
            return act.leave()
        }
        switch packet.status {
        case .success: moved(packet.bytes)
        case .cancelled: flow.sent += packet.bytes  // What had been sent is sent.
        default: return act.abandon(packet.status, flow, self)
        }
        go(worker)
    }
}

/// Receives a flow, piece by piece, to its end.
final class Receiver: NumberedOperation, @unchecked Sendable {
    private static let most = 16_384
    private let act: StreamAct
    private let flow: Flow
    private let handle: IOHandle
    private let skips: Bool
    private var asked: [UnsafeMutableRawBufferPointer] = []
    private var parts: [IOBuffer] = []

    init(_ act: StreamAct, _ flow: Flow, _ handle: IOHandle, in world: World, key: UInt, skips: Bool) {
        self.act = act
        self.flow = flow
        self.handle = handle
        self.skips = skips
        super.init(in: world, key: key, capacity: Self.most)
    }

    override var line: String { super.line + ", \(flow.received) of \(flow.total) received" }

    func go(_ worker: Worker) {
        while true {
            if world.isDead { return act.abandon(.abandoned, flow, self) }
            // The sender may have to be told yet.
            if flow.end == .count, flow.received == flow.total { return act.leave() }
            switch begin(skips: skips, { () throws(PortError) in try startReceiving(worker) }) {
            case .pending: return
            case .inline(let bytes): guard moved(bytes) else { return }
            case .refused(.cancelled): continue
            case .refused(let status): return failed(status)
            }
        }
    }

    private func startReceiving(_ worker: Worker) throws(PortError) -> StartOutcome {
        let start = worker.chance.start()
        let count = 1 + worker.chance.below(Self.most)
        parts = []
        let range: Range<Int>
        switch worker.chance.below(8) {
        case 0:
            // Waits until there is something, and takes none of it.
            asked = []
            range = 0..<0
        case 1:
            parts = [IOBuffer(capacity: count), IOBuffer(capacity: 1 + worker.chance.below(Self.most))]
            asked = parts.map(\.bytes)
            return try handle.read(self, at: .current, into: parts, start: start)
        default:
            let place = worker.chance.below(Self.most - count + 1)
            range = place..<place + count
            asked = [.init(rebasing: buffer!.bytes[range])]
        }
        if let socket = handle as? Socket, worker.chance.happens(700) {
            return try socket.receive(self, into: range, start: start)
        }
        return try handle.read(self, at: .current, into: range, start: start)
    }

    /// Returns whether the chain goes on.
    private func moved(_ bytes: Int) -> Bool {
        if asked.isEmpty { return true }
        if bytes == 0 {
            act.conclude(flow, self)
            return false
        }
        var left = bytes
        for part in asked where left > 0 {
            let count = min(left, part.count)
            if !Pattern.matches(.init(rebasing: part[..<count]), seed: flow.seed, at: flow.received) {
                Ledger.fail(
                    "bytes \(flow.received)..<\(flow.received + count) of a stream of \(flow.total) are wrong, "
                        + "in \(world)")
            }
            flow.received += count
            left -= count
        }
        Ledger.add(.bytes, bytes)
        return true
    }

    private func failed(_ status: CompletionStatus) {
        guard flow.end == .close, status == .pipeBroken else { return act.abandon(status, flow, self) }
        act.conclude(flow, self)
    }

    override func completed(_ packet: Packet, _ worker: Worker) {
        switch packet.status {
        case .success: guard moved(packet.bytes) else { return }
        case .cancelled:
            if packet.bytes > 0 { Ledger.fail("a cancelled receive took \(packet.bytes) bytes, in \(world)") }
        default: return failed(packet.status)
        }
        go(worker)
    }
}

/// Receives a flow with one operation. Any thread handles any of its packets, so the bytes are summed up.
final class ContinuousReceiver: NumberedOperation, @unchecked Sendable {
    private let act: StreamAct
    private let flow: Flow
    private let socket: Socket
    private let group: BufferGroup
    private let hasEnded = Atomic<Bool>(false)

    init(_ act: StreamAct, _ flow: Flow, _ socket: Socket, _ group: BufferGroup, in world: World, key: UInt) {
        self.act = act
        self.flow = flow
        self.socket = socket
        self.group = group
        super.init(in: world, key: key)
    }

    override var line: String {
        super.line + ", \(flow.continuous.withLock { $0.bytes }) of \(flow.total) received, "
            + "ended: \(hasEnded.load(ordering: .relaxed))"
    }

    func go(_ worker: Worker) {
        if world.isDead { return act.abandon(.abandoned, flow, self) }
        let begun = begin { () throws(PortError) in
            try socket.receiveContinuously(self, from: group, start: worker.chance.start())
            return .pending
        }
        if case .refused(let status) = begun { act.abandon(status, flow, self) }
    }

    override var mayTrail: Bool { true }

    override func completed(_ packet: Packet, _ worker: Worker) {
        if let lent = packet.lentBuffer {
            take(packet, lent, worker)
            return
        }
        switch packet.status {
        case .cancelled: go(worker)
        case .success:
            hasEnded.store(true, ordering: .sequentiallyConsistent)
            conclude(0, 0)
        default: act.abandon(packet.status, flow, self)
        }
    }

    private func take(_ packet: Packet, _ lent: LentBuffer, _ worker: Worker) {
        var sum: UInt64 = 0
        lent.withBytes { for byte in $0 { sum &+= UInt64(byte) } }
        let bytes = lent.count
        if !packet.isMore || packet.bytes != bytes || bytes == 0 {
            Ledger.fail("a packet of \(packet.bytes) bytes brought a buffer of \(bytes), in \(world)")
        }
        Ledger.add(.bytes, bytes)
        act.stage.hold(lent, worker)
        conclude(bytes, sum)
    }

    /// The last of the packets to be handled ends the chain.
    private func conclude(_ bytes: Int, _ sum: UInt64) {
        let isDone = flow.continuous.withLock { state in
            state.bytes += bytes
            state.sum &+= sum
            guard hasEnded.load(ordering: .sequentiallyConsistent) else { return false }
            if state.bytes == flow.total, flow.isFinished.load(ordering: .sequentiallyConsistent) { return true }
            return act.mayFail || !act.isClaimed.load(ordering: .sequentiallyConsistent)
        }
        guard isDone, !isConcluded.exchange(true, ordering: .sequentiallyConsistent) else { return }
        let state = flow.continuous.withLock { $0 }
        flow.received = state.bytes
        if state.bytes == flow.total, state.sum != Pattern.sum(seed: flow.seed, count: flow.total) {
            Ledger.fail("the bytes of a continuous receive do not add up, in \(world)")
        }
        act.leave()
    }

    private let isConcluded = Atomic<Bool>(false)
}
