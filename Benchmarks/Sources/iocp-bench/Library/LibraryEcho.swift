import CBaselines
import Glibc
import IOCP
import Synchronization
import SystemPackage

/// An echo server as the library's documentation shows it: one port, an operation for each connection that answers and
/// receives in one, workers that dequeue batches.
final class LibraryEcho: Sendable {
    private let port: CompletionPort
    private let listener: Socket
    private let context: EchoServerContext
    private let options: Options
    /// Threads that are between two dequeues, and how often there were more of them than the limit.
    private let running = Atomic<Int>(0)
    private let overLimit = Atomic<UInt64>(0)

    /// What a server does beyond echoing.
    struct Options: Sendable {
        /// Threads that may run at a time; nil is as many as there are.
        var limit: Int?
        /// CPU time that a message takes before its echo is sent, drawn evenly from this range, in nanoseconds.
        var work: ClosedRange<UInt64>?
        /// So many connections are accepted by one thread before the others begin.
        var acceptedByOne = 0
        /// Packets are dequeued one by one.
        var isSingle = false
        /// How receives and sends are started.
        var start = Start.deferred
        /// Whether an answer and the next message are one operation, or two with a packet each.
        var transacts = true
        /// Whether the port is made for one worker and for connections that stay: a single consumer, registered files.
        var isForOneWorker = false
        /// Whether the handlers that run at once are counted, and held against the limit.
        var watchesLimit = false
    }

    /// What a packet is about. Keys are the caller's to choose, so they tell it without a look at the operation.
    private enum Key {
        static let listener: UInt = 1
        static let connection: UInt = 2
        static let stop: UInt = 3
    }

    /// A connection embeds itself in its operation, as Windows programs embed an OVERLAPPED.
    private final class Connection: Operation, @unchecked Sendable {
        // Unchecked: between a packet and the next start it belongs to the thread that dequeued the packet.
        let socket: Socket
        var isSending = false
        /// Which half of the buffer the last message came into, if there are two.
        private var isInSecondHalf = false
        private var state: UInt64

        init(_ socket: Socket, bufferBytes: Int, halves: Bool) {
            self.socket = socket
            let buffer = IOBuffer(capacity: halves ? 2 * bufferBytes : bufferBytes)
            state = UInt64(UInt(bitPattern: unsafe buffer.baseAddress)) | 1
            super.init(buffer: buffer)
        }

        /// Sends the message back, and receives the next into the other half of the buffer.
        @inline(__always)
        func answer(_ count: Int, bufferBytes: Int, _ start: Start) throws(PortError) {
            let from = isInSecondHalf ? bufferBytes : 0
            isInSecondHalf.toggle()
            let into = bufferBytes - from
            try socket.transact(self, sending: from..<from + count, receiving: into..<into + bufferBytes, start: start)
        }

        /// A number of a sequence of the connection's own.
        func draw(below bound: UInt64) -> UInt64 {
            unsafe bench_next_block(&state, bound)
        }
    }

    /// Serves with as many workers as the context has counters until told to stop.
    static func serve(_ context: EchoServerContext, _ options: Options = Options()) throws {
        let server = try LibraryEcho(context, options)
        let monitor = unsafe try check(bench_thread_find("iocp-monitor"), "finding the library's own thread")
        context.alsoCount {
            var counts = [Measurement.Count.monitorNanoseconds: UInt64(max(0, bench_thread_time(monitor)))]
            counts[.kernelEntries] = (try? server.port.statistics.kernelEntries).map(UInt64.init)
            if options.watchesLimit {
                counts[.overLimit] = server.overLimit.load(ordering: .relaxed)
                counts[.handOvers] = (try? server.port.statistics.handOvers).map(UInt64.init)
            }
            var named = Dictionary(uniqueKeysWithValues: counts.map { ($0.rawValue, $1) })
            named[EchoServerContext.systemCalls] = (try? LibraryCalls.total([server.port])).map(UInt64.init)
            return named
        }
        bench_burn(0)
        let gate = StartBarrier(threads: options.acceptedByOne > 0 ? context.counters.count : 1)
        try server.listener.acceptContinuously(Operation())
        // Each worker that takes it passes it on and ends.
        context.whenStopped { try? server.port.post(key: Key.stop) }
        let others = Mutex<[String]>([])
        let workers = try context.counters.indices.dropFirst().map { index in
            try WaitableThread {
                do {
                    if options.acceptedByOne > 0 {
                        gate.wait()
                    }
                    try server.work(context.counters[index])
                } catch {
                    others.withLock { $0.append("\(error)") }
                }
            }
        }
        if options.acceptedByOne > 0 {
            try server.work(context.counters[0], untilAccepted: UInt64(options.acceptedByOne))
            gate.wait()
        }
        try server.work(context.counters[0])
        for worker in workers {
            worker.join()
        }
        if let failure = others.withLock({ $0.first }) {
            throw Failure(failure)
        }
    }

    private init(_ context: EchoServerContext, _ options: Options) throws {
        self.context = context
        self.options = options
        var portOptions = CompletionPort.Options()
        if options.isForOneWorker {
            portOptions.singleConsumer = true
            portOptions.registeredFiles = context.connections + 1
        }
        port = try CompletionPort(concurrencyLimit: options.limit ?? context.counters.count, options: portOptions)
        listener = try Socket(adopting: FileDescriptor(rawValue: context.listener), kind: .stream)
        try port.associate(listener, key: Key.listener)
    }

    private func work(_ counters: Counters, untilAccepted accepted: UInt64 = .max) throws {
        if options.isSingle {
            while let packet = try port.dequeue(), try handle(packet, counters) {}
            return
        }
        var batch = PacketBatch(capacity: 64)
        while counters.values.accepts < accepted {
            try port.dequeue(into: &batch)
            if options.watchesLimit, running.add(1, ordering: .relaxed).newValue > port.concurrencyLimit {
                overLimit.add(1, ordering: .relaxed)
            }
            defer {
                if options.watchesLimit {
                    running.subtract(1, ordering: .relaxed)
                }
            }
            while let packet = batch.popFirst() {
                guard try handle(packet, counters) else { return }
            }
        }
    }

    /// - Returns: false when the worker has to end.
    @inline(__always)
    private func handle(_ packet: Packet, _ counters: Counters) throws -> Bool {
        switch packet.key {
        case Key.connection:
            // Only connections are associated with this key.
            let connection = unsafe unsafeDowncast(packet.operation!, to: Connection.self)
            try echo(connection, packet, counters)
        case Key.listener:
            if let socket = packet.acceptedSocket {
                counters.accepted()
                try port.associate(socket, key: Key.connection)
                let connection = Connection(socket, bufferBytes: context.bufferBytes, halves: options.transacts)
                try socket.receive(connection, into: 0..<context.bufferBytes, start: options.start)
            }
        default:
            try port.post(key: Key.stop)
            return false
        }
        return true
    }

    @inline(__always)
    private func echo(_ connection: Connection, _ packet: Packet, _ counters: Counters) throws {
        guard packet.isSuccess, packet.bytes > 0 else {
            // Nothing else refers to the connection: it goes with the packet.
            try connection.socket.close()
            return
        }
        if connection.isSending {
            connection.isSending = false
            try connection.socket.receive(connection, start: options.start)
        } else {
            counters.received(packet.bytes)
            if let work = options.work {
                bench_burn(work.lowerBound + connection.draw(below: work.upperBound - work.lowerBound + 1))
            }
            if options.transacts {
                return try connection.answer(packet.bytes, bufferBytes: context.bufferBytes, options.start)
            }
            connection.isSending = true
            try connection.socket.send(connection, count: packet.bytes, start: options.start)
        }
    }
}
