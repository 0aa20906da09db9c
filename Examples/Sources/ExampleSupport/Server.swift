internal import ArgumentParser
internal import Glibc
public import IOCP
internal import Synchronization

/// A TCP server on one completion port: accepts connections, keeps them, and stops gracefully.
public final class Server: Sendable {
    public typealias MakeConnection = @Sendable (_ socket: Socket, _ server: Server) -> Connection

    private let port: CompletionPort
    private let listener: Socket
    private let makeConnection: MakeConnection
    private let state = Mutex(State())
    private let stopping = Atomic<Bool>(false)

    private struct State {
        /// Every open connection, so that the stop finds those that wait for their peers.
        var connections: [ObjectIdentifier: Connection] = [:]
        /// There was no descriptor left for another connection; accepting goes on when one is closed.
        var isAcceptPaused = false
        var isStopping = false
    }

    /// Serves until SIGTERM or SIGINT, and returns when every connection has ended.
    ///
    /// Call it from the main thread, before other threads are started: they inherit its signal mask.
    public static func run(_ options: ServerOptions, _ makeConnection: @escaping MakeConnection) throws {
        let signals = StopSignals()
        raiseDescriptorLimit()
        let server = try Server(options, makeConnection)

        // More workers than the limit: when one blocks in a system call of its own, the port lets another one run.
        let workers = options.workers > 0 ? options.workers : 2 * server.port.concurrencyLimit
        let pool = try (0..<workers).map { _ in try Thread { server.work() } }
        let grace = options.grace
        try Thread { server.stop(on: signals, grace: grace) }.detach()

        try server.listen()
        pool.forEach { $0.join() }
    }

    private init(_ options: ServerOptions, _ makeConnection: @escaping MakeConnection) throws {
        port = try CompletionPort(concurrencyLimit: options.limit)
        listener = try Socket.listening(at: options.socketAddress())
        self.makeConnection = makeConnection
        try port.associate(listener, key: 0)
    }

    private func listen() throws {
        try accept(AcceptOperation(self))
        print("listening on \(try listener.localAddress())")
        // A pipe is not flushed at the end of a line, and whoever started us may be waiting for this one.
        fflush(nil)
    }

    // MARK: Working

    /// Dequeues and handles packets until the port is closed: the whole of a worker thread.
    private func work() {
        // A batch costs one system call however many packets it brings. What their handlers start is deferred: it enters
        // the kernel together with the next dequeue, so a busy worker makes one system call for the two of them.
        var batch = PacketBatch(capacity: 64)
        while (try? port.dequeue(into: &batch)) != nil {
            while let packet = batch.popFirst() {
                (packet.operation as? HandledOperation)?.completed(packet)
            }
        }
    }

    // MARK: Connections

    fileprivate func accept(_ operation: AcceptOperation) throws(PortError) {
        try listener.acceptContinuously(operation)
    }

    fileprivate func welcome(_ socket: Socket) {
        let connection = makeConnection(socket, self)
        let isWelcome = state.withLock { state in
            if state.isStopping { return false }
            state.connections[ObjectIdentifier(connection)] = connection
            return true
        }
        connection.proceed(isWelcome) { () throws(PortError) in
            // Answers are small and the peer waits for them: none is held back to be sent with the next.
            try socket.setNoDelay()
            try port.associate(socket, key: 0)
            try connection.start()
        }
    }

    fileprivate func acceptingEnded(_ status: CompletionStatus) {
        state.withLock { $0.isAcceptPaused = !$0.isStopping }
        if !isStopping { complain("accepting has paused: \(status)") }
    }

    func remove(_ connection: Connection) {
        let (resumesAccepting, isLast) = state.withLock { state in
            state.connections[ObjectIdentifier(connection)] = nil
            let resumes = state.isAcceptPaused && !state.isStopping
            if resumes { state.isAcceptPaused = false }
            return (resumes, state.isStopping && state.connections.isEmpty)
        }
        if resumesAccepting { try? accept(AcceptOperation(self)) }
        if isLast { port.close() }
    }

    // MARK: Stopping

    /// Whether the server is to stop: connections end as soon as what they have received is answered.
    public var isStopping: Bool { stopping.load(ordering: .relaxed) }

    /// The thread that waits for a signal. It hands the work to the workers, by packets like any other.
    private func stop(on signals: StopSignals, grace: Int) {
        signals.wait()
        try? port.post(operation: CallOperation { self.beginStopping() })
        // A second signal, or the end of the time, is for those who do not finish.
        signals.wait(seconds: grace)
        try? port.post(operation: CallOperation { self.endStopping() })
    }

    private func beginStopping() {
        stopping.store(true, ordering: .relaxed)
        let connections = state.withLock { state in
            state.isStopping = true
            return Array(state.connections.values)
        }
        try? listener.close()
        // What the peer has sent is still received and answered; after that comes the end, as if the peer had ended.
        for connection in connections { try? connection.socket.shutdown(.receiving) }
        // The last reference to the port: every worker's dequeue throws, now or when it comes back to it.
        if connections.isEmpty { port.close() }
    }

    private func endStopping() {
        // Whatever is pending on these fails, and its packet ends the connection.
        for connection in state.withLock({ Array($0.connections.values) }) { try? connection.socket.close() }
    }
}

/// The one operation that accepts all connections.
private final class AcceptOperation: HandledOperation, @unchecked Sendable {
    private let server: Server

    init(_ server: Server) {
        self.server = server
        super.init()
    }

    override func completed(_ packet: Packet) {
        if let socket = packet.acceptedSocket { server.welcome(socket) }
        if !packet.isMore { server.acceptingEnded(packet.status) }
    }
}

/// A call to be made by a worker: posted, never started.
private final class CallOperation: HandledOperation, @unchecked Sendable {
    private let call: @Sendable () -> Void

    init(_ call: @escaping @Sendable () -> Void) {
        self.call = call
        super.init()
    }

    override func completed(_ packet: Packet) { call() }
}
