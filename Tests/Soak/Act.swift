import IOCP
import Synchronization

/// Something that uses handles until it is done, or is broken off: a connection, a file, a listener.
///
/// It is made of chains: sequences of operations each of which is started by the end of the one before it. When the last
/// chain has ended the actor closes what it has and leaves the stage.
class Act: @unchecked Sendable, CustomStringConvertible {
    unowned let stage: Stage
    private struct State {
        var chains = 0
        var handles: [IOHandle] = []
        var worlds: [World] = []
        var isBroken = false
        var isOver = false
    }
    private let state = Locked(State())
    /// Operations that may be in flight, for cancels; nil once the act is over.
    private let listed = Locked<[NumberedOperation]?>([])
    var operations: [NumberedOperation] { listed.withLock { $0 ?? [] } }
    func list(_ operation: NumberedOperation?) {
        guard let operation else { return }
        listed.withLock { $0?.append(operation) }
    }

    init(on stage: Stage) {
        self.stage = stage
    }

    var description: String {
        let state = state.withLock { "\($0.chains) chains, \($0.handles.count) handles, broken: \($0.isBroken)" }
        return "\(Self.self), \(state)" + operations.map { "\n    \($0.line)" }.joined()
    }
    /// Whether it only ends when it is broken off.
    var isEndless: Bool { false }
    /// Whether a port that it uses was closed under fire: its chains may have been cut.
    var isCut: Bool { state.withLock { $0.worlds.contains(where: \.isDead) } }
    /// Whether its chains may end with errors.
    var mayFail: Bool { state.withLock { $0.isBroken } || isCut }

    /// Binds a handle to a port, and closes it in the end; at once, if that has come. Returns its key if it has not.
    func own(_ handle: IOHandle, in world: World, _ worker: Worker) -> UInt? {
        guard let key = try? world.associate(handle, &worker.chance) else {
            // The port is dead.
            try? handle.close()
            breakOff()
            return nil
        }
        return adopt(handle, in: world) ? key : nil
    }

    /// The same for a handle that is bound already. Returns whether the act goes on.
    func adopt(_ handle: IOHandle, in world: World) -> Bool {
        let isOver = state.withLock { state in
            state.worlds.append(world)
            if !state.isBroken && !state.isOver { state.handles.append(handle) }
            return state.isBroken || state.isOver
        }
        if isOver { try? handle.close() }
        return !isOver
    }

    /// A handle that another act takes over, or that is to be closed before the end. Returns whether it was open.
    @discardableResult
    func disown(_ handle: IOHandle) -> Bool {
        state.withLock { state in
            let count = state.handles.count
            state.handles.removeAll { $0 === handle }
            return state.handles.count < count
        }
    }

    /// Closes one of the handles before the end.
    func close(_ handle: IOHandle) {
        disown(handle)
        try? handle.close()
    }

    /// A chain begins. Returns false if the act is over: then none may.
    func enter(_ chains: Int = 1) -> Bool {
        state.withLock { state in
            if state.isOver { return false }
            state.chains += chains
            return true
        }
    }

    /// A chain has ended.
    func leave() {
        let handles: [IOHandle]? = state.withLock { state in
            state.chains -= 1
            guard state.chains == 0, !state.isOver else { return nil }
            state.isOver = true
            defer { state.handles = [] }
            return state.handles
        }
        guard let handles else { return }
        for handle in handles { try? handle.close() }
        vanish()
    }

    /// Lets go of everything: the act is over, or its chains were cut by the end of a port.
    func vanish() {
        listed.withLock { $0 = nil }
        stage.remove(self)
    }

    /// Closes the handles in the middle: all chains end by that.
    func breakOff() {
        let handles: [IOHandle] = state.withLock { state in
            if !state.isBroken && !state.isOver { Ledger.add(.brokenOff) }
            state.isBroken = true
            defer { state.handles = [] }
            return state.handles
        }
        for handle in handles { try? handle.close() }
    }

    /// One of the handles, for those who disturb.
    func someHandle(_ chance: inout Chance) -> IOHandle? {
        let handles = state.withLock { $0.handles }
        return handles.isEmpty ? nil : chance.pick(handles)
    }
}

/// How a step of a chain ended.
enum Step {
    case moved(Int)
    /// Cancelled by somebody who disturbs: the chain goes on, that many bytes having moved.
    case cancelled(Int)
    case failed(CompletionStatus)

    init(_ packet: Packet) {
        switch packet.status {
        case .success: self = .moved(packet.bytes)
        case .cancelled: self = .cancelled(packet.bytes)
        default: self = .failed(packet.status)
        }
    }
}
