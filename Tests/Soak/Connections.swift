import IOCP
import Synchronization

/// What a connection says first: which of the clients it is.
private let headerLength = 8

/// A client: connects, says its number, then takes part in a stream whose other end the listener makes.
final class ClientAct: StreamAct, @unchecked Sendable {
    let number = Ledger.nextNumber()
    let forth: Flow
    let back: Flow

    init(on stage: Stage, _ chance: inout Chance) {
        forth = Flow(.shutdown, &chance)
        back = Flow(.shutdown, &chance)
        super.init(on: stage)
    }

    static func begin(on stage: Stage, to listener: ListenerAct, _ worker: Worker) throws(PortError) {
        let act = ClientAct(on: stage, &worker.chance)
        let socket = try Socket(.stream, family: listener.address.family)
        guard stage.add(act), act.enter() else { return }
        stage.clients.withLock { $0[act.number] = act }
        let world = stage.someWorld(&worker.chance)
        guard let key = act.own(socket, in: world, worker) else { return act.leave() }
        let connector = Connector(act, socket, in: world, key: key)
        act.list(connector)
        connector.go(to: listener.address, worker)
    }

    /// The server's end of the connection, which may be bound to a port already.
    func accept(_ socket: Socket, _ binding: (world: World, key: UInt)?, _ worker: Worker) {
        guard enter() else { return (try? socket.close()) ?? () }
        isClaimed.store(true, ordering: .sequentiallyConsistent)
        let world = binding?.world ?? stage.someWorld(&worker.chance)
        let key =
            if let binding { adopt(socket, in: world) ? binding.key : nil } else { own(socket, in: world, worker) }
        if let key {
            Ledger.add(.connections)
            join(socket, in: world, key: key, sends: back, receives: forth, worker)
        }
        leave()
    }

    /// Finds the client that a header names.
    static func welcome(
        _ header: IOBuffer, _ socket: Socket, _ binding: (world: World, key: UInt)? = nil, on stage: Stage,
        _ worker: Worker
    ) {
        let number = header.bytes.loadUnaligned(as: UInt64.self)
        guard let client = stage.clients.withLock({ $0[number] }) else { return (try? socket.close()) ?? () }
        client.accept(socket, binding, worker)
    }

    override func vanish() {
        stage.clients.withLock { $0[number] = nil }
        super.vanish()
    }
}

/// Connects, with the header as its first data or sent after it.
final class Connector: NumberedOperation, @unchecked Sendable {
    private let act: ClientAct
    private let socket: Socket
    private var sentHeader = 0
    private var isConnected = false

    init(_ act: ClientAct, _ socket: Socket, in world: World, key: UInt) {
        self.act = act
        self.socket = socket
        super.init(in: world, key: key, capacity: headerLength)
        buffer!.copy(from: withUnsafeBytes(of: act.number) { Array($0) })
    }

    func go(to address: SocketAddress, _ worker: Worker) {
        let first = worker.chance.happens(500) ? 0..<headerLength : 0..<0
        let begun = begin { () throws(PortError) in
            try socket.connect(self, to: address, firstData: first, start: worker.chance.start())
        }
        if case .refused = begun { end() }
    }

    override func completed(_ packet: Packet, _ worker: Worker) {
        if packet.isSuccess {
            isConnected = true
            sentHeader += packet.bytes
        }
        // Refused, cancelled, the listener closed: connections come and go.
        guard packet.isSuccess, !world.isDead else { return end() }
        if sentHeader < headerLength {
            let begun = begin { () throws(PortError) in
                try socket.send(self, from: sentHeader..<headerLength, start: worker.chance.start())
            }
            if case .refused = begun { end() }
            return
        }
        act.join(socket, in: world, key: key, sends: act.forth, receives: act.back, worker)
        act.leave()
    }

    private func end() {
        act.breakOff()
        act.leave()
    }
}

/// A listener, which accepts until it is broken off.
final class ListenerAct: Act, @unchecked Sendable {
    let address: SocketAddress
    private let socket: Socket

    private init(on stage: Stage, _ socket: Socket) throws(PortError) {
        self.socket = socket
        address = try socket.localAddress()
        super.init(on: stage)
    }

    override var isEndless: Bool { true }

    static func begin(on stage: Stage, _ worker: Worker) throws(PortError) {
        let address: SocketAddress
        switch worker.chance.below(3) {
        case 0: address = .loopback(port: 0)
        case 1: address = .loopbackIPv6(port: 0)
        default:
            let name = "swift-iocp-soak-\(Usage.processNumber)-\(Ledger.nextNumber())"
            guard let abstract = try? SocketAddress.abstract(name) else { return }
            address = abstract
        }
        let act = try ListenerAct(on: stage, .listening(at: address, backlog: 64))
        guard stage.add(act), act.enter() else { return }
        let world = stage.someWorld(&worker.chance)
        if let key = act.own(act.socket, in: world, worker) {
            let isContinuous = worker.chance.happens(500)
            for _ in 0..<(isContinuous ? 1 : 3) where act.enter() {
                let acceptor = Acceptor(act, act.socket, isContinuous, in: world, key: key)
                act.list(acceptor)
                acceptor.go(worker)
            }
            stage.listeners.withLock { $0.append(act) }
        }
        act.leave()
    }

    override func breakOff() {
        stage.listeners.withLock { $0.removeAll { $0 === self } }
        super.breakOff()
    }
}

/// Accepts connections, one by one or continuously.
final class Acceptor: NumberedOperation, @unchecked Sendable {
    private let act: ListenerAct
    private let socket: Socket
    private let isContinuous: Bool
    /// Of a single accept. A continuous one has packets that are still being handled when its last one starts it again.
    private var firstData = 0..<0

    init(_ act: ListenerAct, _ socket: Socket, _ isContinuous: Bool, in world: World, key: UInt) {
        self.act = act
        self.socket = socket
        self.isContinuous = isContinuous
        super.init(in: world, key: key, capacity: headerLength)
    }

    override var mayTrail: Bool { isContinuous }

    func go(_ worker: Worker) {
        if !isContinuous { firstData = worker.chance.happens(300) ? 0..<headerLength : 0..<0 }
        let begun = begin { () throws(PortError) in
            if isContinuous {
                try socket.acceptContinuously(self, start: worker.chance.start())
                return .pending
            }
            var target: Socket?
            if worker.chance.happens(200) { target = try Socket(family: act.address.family) }
            return try socket.accept(self, firstData: firstData, into: target, start: worker.chance.start())
        }
        if case .refused(let status) = begun { goOn(after: status, worker) }
    }

    override func completed(_ packet: Packet, _ worker: Worker) {
        if let connection = packet.acceptedSocket {
            if !isContinuous && !firstData.isEmpty {
                if packet.bytes == headerLength {
                    ClientAct.welcome(buffer!, connection, on: act.stage, worker)
                } else {
                    try? connection.close()
                }
            } else {
                HeaderReceiver.begin(connection, on: act.stage, worker)
            }
            if packet.isMore { return }
        } else if packet.isSuccess {
            Ledger.fail("an accept succeeded without a connection, in \(world)")
        }
        if packet.isSuccess { go(worker) } else { goOn(after: packet.status, worker) }
    }

    private func goOn(after status: CompletionStatus, _ worker: Worker) {
        if act.mayFail { return act.leave() }
        switch status {
        case .cancelled: go(worker)
        case .tooManyOpenedFiles, .insufficientResources:
            // Again in a while: descriptors come back.
            act.stage.later { [self] in go($0) }
        case .connectionReset, .connectionAborted: go(worker)
        default:
            Ledger.fail("an accept ended with \(status), in \(world)")
            act.leave()
        }
    }
}

/// Receives the header of an accepted connection.
final class HeaderReceiver: NumberedOperation, @unchecked Sendable {
    private let act: Act
    private let socket: Socket
    private var received = 0

    private init(_ act: Act, _ socket: Socket, in world: World, key: UInt) {
        self.act = act
        self.socket = socket
        super.init(in: world, key: key, capacity: headerLength)
    }

    /// The connection stays on the port that its header comes to.
    static func begin(_ socket: Socket, on stage: Stage, _ worker: Worker) {
        let act = Act(on: stage)
        guard stage.add(act), act.enter() else { return (try? socket.close()) ?? () }
        let world = stage.someWorld(&worker.chance)
        guard let key = act.own(socket, in: world, worker) else { return act.leave() }
        let receiver = HeaderReceiver(act, socket, in: world, key: key)
        act.list(receiver)
        receiver.go(worker)
    }

    private func go(_ worker: Worker) {
        let begun = begin { () throws(PortError) in
            try socket.receive(self, into: received..<headerLength, start: worker.chance.start())
        }
        if case .refused = begun { end() }
    }

    override func completed(_ packet: Packet, _ worker: Worker) {
        received += packet.bytes
        let isCancelled = packet.status == .cancelled
        guard packet.isSuccess && packet.bytes > 0 || isCancelled, !world.isDead else { return end() }
        if received < headerLength { return go(worker) }
        guard act.disown(socket) else { return end() }
        ClientAct.welcome(buffer!, socket, (world, key), on: act.stage, worker)
        act.leave()
    }

    private func end() {
        act.breakOff()
        act.leave()
    }
}
