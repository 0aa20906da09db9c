import CBaselines
import Glibc
import IOCP
import IOCPHosting
import Synchronization
import SystemPackage

/// An echo server over the hosting face: the runtime's OVERLAPPEDs, the host's one thread, which calls the runtime's
/// completion manager.
enum LibraryHostingEcho {
    /// A connection as a runtime keeps it: a reference to itself before the OVERLAPPED, after that the host's bytes.
    @safe
    private final class Connection: @unchecked Sendable {
        // Unchecked: between a completion and the next start it belongs to the host's thread.
        private let socket: Socket
        private let overlapped: HostOverlapped
        private let memory: UnsafeMutableRawPointer
        private let buffer: UnsafeMutableRawBufferPointer
        var isSending = false

        init(_ socket: Socket, bufferBytes: Int, _ host: HostIOCompletionManager) throws {
            self.socket = socket
            let size = unsafe 8 + HostOverlapped.headerSize + Int(try host.getHostOverlappedSize())
            unsafe memory = .allocate(byteCount: size, alignment: 16)
            unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: size)
            unsafe overlapped = HostOverlapped(memory + 8)
            unsafe buffer = .allocate(byteCount: bufferBytes, alignment: 64)
            unsafe buffer.initializeMemory(as: UInt8.self, repeating: 0)
            unsafe memory.storeBytes(of: Unmanaged.passUnretained(self).toOpaque(), as: UnsafeMutableRawPointer.self)
            try unsafe host.initializeHostOverlapped(overlapped.pointer)
        }

        deinit {
            unsafe memory.deallocate()
            unsafe buffer.deallocate()
        }

        @inline(__always)
        static func of(_ overlapped: UnsafeMutableRawPointer) -> Unmanaged<Connection> {
            unsafe Unmanaged.fromOpaque((overlapped - 8).load(as: UnsafeMutableRawPointer.self))
        }

        @inline(__always)
        func receive() throws(PortError) {
            isSending = false
            try unsafe socket.receive(overlapped, into: buffer)
        }

        @inline(__always)
        func send(_ count: Int) throws(PortError) {
            isSending = true
            try unsafe socket.send(overlapped, from: UnsafeRawBufferPointer(rebasing: buffer[..<count]))
        }

        func close() {
            try? socket.close()
        }
    }

    private final class Runtime: CLRIOCompletionManager, @unchecked Sendable {
        // Unchecked: the host has one thread.
        private let counters: Counters
        let open = Atomic<Int>(0)

        init(_ counters: Counters) {
            self.counters = counters
        }

        func onComplete(error: UInt32, bytes: UInt32, overlapped: UnsafeMutableRawPointer?) throws(HResult) {
            let reference = unsafe Connection.of(overlapped!)
            unsafe reference._withUnsafeGuaranteedRef { connection in
                do throws(PortError) {
                    if error != 0 || bytes == 0 {
                        end(connection)
                    } else if connection.isSending {
                        try connection.receive()
                    } else {
                        counters.received(Int(bytes))
                        try connection.send(Int(bytes))
                    }
                } catch {
                    end(connection)
                }
            }
            if error != 0 || bytes == 0 {
                // It was retained when it was made; nothing of it is under way.
                unsafe reference.release()
            }
        }

        private func end(_ connection: Connection) {
            connection.close()
            open.subtract(1, ordering: .relaxed)
        }
    }

    static func serve(_ context: EchoServerContext) throws {
        var options = HostIOCompletionManager.Options()
        options.minThreads = 1
        options.maxThreads = 1
        options.concurrencyLimit = 1
        let host = try HostIOCompletionManager(options: options)
        let runtime = Runtime(context.counters[0])
        try host.setCLRIOCompletionManager(runtime)
        // Connections come before the window: this thread only binds them and starts their first receive.
        var events = [
            pollfd(fd: context.listener, events: Int16(POLLIN), revents: 0),
            pollfd(fd: context.stopEvent, events: Int16(POLLIN), revents: 0),
        ]
        while true {
            guard unsafe poll(&events, 2, -1) > 0 else { continue }
            if events[1].revents != 0 { break }
            let descriptor = bench_accept(context.listener)
            guard descriptor >= 0 else { continue }
            let socket = try Socket(adopting: FileDescriptor(rawValue: descriptor), kind: .stream)
            try host.bind(nil, socket)
            let connection = try Connection(socket, bufferBytes: context.bufferBytes, host)
            runtime.open.add(1, ordering: .relaxed)
            context.counters[0].accepted()
            _ = unsafe Unmanaged.passRetained(connection)
            try connection.receive()
        }
        // The load has closed its connections. What is under way still has the memory of its OVERLAPPED.
        let deadline = bench_now() + 4_000_000_000
        while runtime.open.load(ordering: .relaxed) > 0 || host.statistics.owed > 0 {
            guard bench_now() < deadline else { throw Failure("connections stayed open") }
            bench_sleep(1_000_000)
        }
        host.shutDown()
    }
}
