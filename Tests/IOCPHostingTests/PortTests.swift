import CIOCPHosting
import Glibc
import IOCP
import IOCPHosting
import SystemPackage
import Testing

@Suite("Ports of a host", .timeLimit(.minutes(2)))
struct HostPortTests {
    @Test("110: a handle is bound once, whatever port it is offered to next (i5)")
    func boundTwice() throws {
        let (host, _) = try hosted()
        let (other, _) = try hosted()
        let (reading, _) = try Pipe.make()
        let port = try host.createIOCompletionPort()
        try host.bind(port, reading)
        #expect(thrown { try host.bind(port, reading) } == .invalidArgument)
        #expect(thrown { try host.bind(nil, reading) } == .invalidArgument)
        #expect(thrown { try other.bind(nil, reading) } == .invalidArgument)
        let elsewhere = try CompletionPort(concurrencyLimit: 1)
        #expect(thrownCode { try elsewhere.associate(reading, key: 1) } == 87)
        let (second, _) = try Pipe.make()
        try elsewhere.associate(second, key: 1)
        #expect(thrown { try host.bind(nil, second) } == .invalidArgument)
        let plain = try File("/dev/null", overlapped: false)
        #expect(thrown { try host.bind(nil, plain) } == .invalidArgument)
        let (closed, _) = try Pipe.make()
        try closed.close()
        #expect(thrown { try host.bind(nil, closed) } == .handle)
        host.shutDown()
        other.shutDown()
    }

    @Test("111: garbage is E_INVALIDARG, a port of another host HOST_E_NOT_OWNER, for closing and binding")
    func strangePorts() throws {
        let (host, _) = try hosted()
        let (other, _) = try hosted()
        let (reading, _) = try Pipe.make()
        let file = try HostHandle(reading)
        let event = try HostHandle(CompletionEvent())
        let foreign = try other.createIOCompletionPort()
        let port = try host.createIOCompletionPort()
        let garbage = [
            0, 1, 3, 4, UInt.max, port.rawValue | 1, port.rawValue | 2, port.rawValue + 1 << 22,
            port.rawValue + 1 << 40,
        ]
        .map { HostHandle(rawValue: $0) }
        for handle in garbage + [file, event] {
            #expect(thrown { try host.closeIOCompletionPort(handle) } == .invalidArgument)
            #expect(thrown { try host.bind(handle, reading) } == .invalidArgument)
        }
        #expect(thrown { try host.closeIOCompletionPort(foreign) } == .notOwner)
        #expect(thrown { try host.bind(foreign, reading) } == .notOwner)
        for handle in garbage + [port, event] { #expect(thrown { try host.bind(port, handle) } == .handle) }
        // None of it has closed or bound anything.
        #expect(throws: Never.self) { try host.bind(port, file) }
        #expect(throws: Never.self) { try other.closeIOCompletionPort(foreign) }
        #expect(throws: Never.self) { try host.closeIOCompletionPort(port) }
        #expect(thrown { try host.closeIOCompletionPort(port) } == .invalidArgument)
        #expect(thrown { try host.bind(port, Pipe.make().reading) } == .invalidArgument)
        #expect(thrownCode { try port.close() } == 6)
        try file.close()
        try event.close()
        host.shutDown()
        other.shutDown()
    }

    @Test("closing a port with operations in flight: each is handed over once before the call returns, others go on")
    func closeInFlight() throws {
        let (host, runtime) = try hosted()
        let port = try host.createIOCompletionPort()
        let pairs = try (0..<20).map { _ in try Socket.pair() }
        let blocks = try (0..<40).map { _ in try Block(host) }
        for (index, pair) in pairs.enumerated() {
            try host.bind(index < 10 ? port : nil, pair.0)
            try pair.0.receive(blocks[2 * index].overlapped, into: blocks[2 * index].buffer)
            try pair.0.receive(blocks[2 * index + 1].overlapped, into: blocks[2 * index + 1].buffer)
        }
        #expect(host.statistics.owed == 40)
        try host.closeIOCompletionPort(port)
        let told = runtime.all
        #expect(told.count == 20)
        #expect(Set(told.map(\.overlapped)) == Set(blocks[..<20].map(\.address)))
        #expect(told.allSatisfy { $0.error == 995 && $0.bytes == 0 })
        // Its handles stay bound, and start nothing that nobody would be told of.
        #expect(thrownCode { try pairs[0].0.receive(blocks[0].overlapped, into: blocks[0].buffer) } == 6)
        #expect(thrown { try host.bind(nil, pairs[0].0) } == .invalidArgument)
        for pair in pairs { try writeRaw("hi", to: pair.1) }
        try until("the others are told") { runtime.all.count == 30 }
        #expect(runtime.all[20...].allSatisfy { $0.error == 0 })
        for pair in pairs { try pair.1.close() }
        #expect(try runtime.waitFor(40).count == 40)
        host.shutDown()
    }

    @Test(
        "closing waits for a hand-over that blocks, and gives up with HOST_E_TIMEOUT; the port is closed all the same")
    func closeTimesOut() throws {
        let gate = Gate()
        let (host, runtime) = try hosted {
            $0.closeTimeout = .milliseconds(50)
        } _: { _ in
            gate.pass()
        }
        let port = try host.createIOCompletionPort()
        let (near, far) = try Socket.pair()
        try host.bind(port, near)
        let block = try Block(host)
        try near.receive(block.overlapped, into: block.buffer)
        try writeRaw("x", to: far)
        try until("the runtime is told") { gate.arrived == 1 }
        #expect(thrown { try host.closeIOCompletionPort(port) } == .timeout)
        #expect(thrown { try host.closeIOCompletionPort(port) } == .invalidArgument)
        gate.open()
        try until("nothing is owed") { host.statistics.owed == 0 }
        #expect(runtime.all.count == 1)
        host.shutDown()
    }

    @Test("a close that waits while the host ends is HOST_E_ABANDONED")
    func closeAbandoned() throws {
        let gate = Gate()
        let (host, runtime) = try hosted {
            $0.closeTimeout = patience
        } _: { _ in
            gate.pass()
        }
        let port = try host.createIOCompletionPort()
        let (near, far) = try Socket.pair()
        try host.bind(port, near)
        let block = try Block(host)
        try near.receive(block.overlapped, into: block.buffer)
        try writeRaw("x", to: far)
        try until("the runtime is told") { gate.arrived == 1 }
        let result = Protected<HResult?>(nil)
        let closer = Thread { result.withLock { $0 = thrown { try host.closeIOCompletionPort(port) } ?? .ok } }
        // The port is no port any more as soon as the close has begun.
        try until("the close has begun") { thrown { try host.bind(port, Pipe.make().reading) } == .invalidArgument }
        host.shutDown()
        closer.join()
        #expect(result.withLock { $0 } == .abandoned)
        gate.open()
        #expect(try runtime.waitFor(1).count == 1)
    }

    @Test("a port may be closed from a completion on it, which does not wait for itself")
    func closeFromCompletion() throws {
        let results = Protected<[HResult?]>([])
        let box = Protected<(HostIOCompletionManager, HostHandle)?>(nil)
        let (host, runtime) = try hosted(max: 1) { _ in
        } _: { (_: Told) throws(HResult) in
            guard let (host, port) = box.withLock({ $0 }) else { return }
            let result = thrown { try host.closeIOCompletionPort(port) }
            results.withLock { $0.append(result) }
        }
        let port = try host.createIOCompletionPort()
        box.withLock { $0 = (host, port) }
        let (near, far) = try Socket.pair()
        try host.bind(port, near)
        let blocks = try (0..<4).map { _ in try Block(host) }
        for block in blocks { try near.receive(block.overlapped, into: block.buffer) }
        try writeRaw("x", to: far)
        let told = try runtime.waitFor(4)
        #expect(told.count { $0.error == 0 } == 1 && told.count { $0.error == 995 } == 3)
        try until("nothing is owed") { host.statistics.owed == 0 }
        #expect(results.withLock { $0.first } == .some(nil))
        box.withLock { $0 = nil }
        host.shutDown()
    }

    @Test("handles closed with operations in flight: each is handed over once (e28, e29, e31)")
    func handlesClosed() throws {
        let (host, runtime) = try hosted()
        let blocks = try (0..<300).map { _ in try Block(host) }
        for index in 0..<100 {
            let (near, far) = try Socket.pair()
            try host.bind(nil, near)
            for offset in 0..<3 {
                let block = blocks[3 * index + offset]
                try near.receive(block.overlapped, into: block.buffer)
            }
            // A race of all that can end an operation.
            let cancelling = Thread {
                for block in blocks[3 * index..<3 * index + 3] { try? near.cancel(block.overlapped) }
            }
            if index % 3 == 0 { try writeRaw("x", to: far) }
            if index % 2 == 0 { try near.close() } else { try far.close() }
            cancelling.join()
        }
        let told = try runtime.waitFor(300)
        #expect(Set(told.map(\.overlapped)).count == 300)
        try until("nothing is owed") { host.statistics.owed == 0 }
        #expect(staysTrue { runtime.all.count == 300 && host.statistics.owed == 0 })
        host.shutDown()
    }

    @Test("111: the HANDLE of a port whose host has ended is garbage, to later hosts too")
    func endedHost() throws {
        // Later hosts may lie where the ended one lay.
        for _ in 0..<50 {
            let handle: HostHandle
            do {
                let (host, _) = try hosted()
                handle = try host.createIOCompletionPort()
                host.shutDown()
            }
            let (host, _) = try hosted()
            let (near, _) = try Socket.pair()
            #expect(thrown { try host.bind(handle, near) } == .invalidArgument)
            #expect(thrown { try host.closeIOCompletionPort(handle) } == .invalidArgument)
            #expect(thrownCode { try handle.close() } == 6)
            host.shutDown()
        }
    }

    // Sanitizers need address space as they please.
    @Test("no memory: E_OUTOFMEMORY and a null port; with memory again, a port", .enabled(if: !isSanitized))
    func noMemory() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let (host, _) = try hosted()
                // The library's own thread first: it is made with the first port of the process.
                _ = try CompletionPort(concurrencyLimit: 1)
                let interface = host.interface()
                func create() -> (HResult, UnsafeMutableRawPointer?) {
                    var port: UnsafeMutableRawPointer? = UnsafeMutableRawPointer(bitPattern: 8)
                    let code = interface.pointee.lpVtbl.pointee.CreateIoCompletionPort(interface, &port)
                    return (HResult(code), port)
                }
                // Room for small things, none for the stack of a thread.
                try limitMemory(to: memoryInUse() + 2 << 20)
                let (refused, nothing) = create()
                try limitMemory(to: nil)
                try demand(refused == .outOfMemory && nothing == nil, "E_OUTOFMEMORY and a null port, not \(refused)")
                try demand(host.statistics.threads == 0, "no thread")
                let (made, port) = create()
                try demand(made == .ok && port != nil, "a port, not \(made)")
                try demand(interface.pointee.lpVtbl.pointee.Release(interface) == 0, "one reference")
            }
        }
    }

    @Test("no HANDLEs: E_OUTOFMEMORY and no port; with one again, a port")
    func noHandles() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let (host, _) = try hosted()
                let event = CompletionEvent()
                var last: HostHandle?
                while let one = try? HostHandle(event) { last = one }
                try demand(thrownCode { try HostHandle(event) } == 4, "ERROR_TOO_MANY_OPEN_FILES")
                try demand(thrown { try host.createIOCompletionPort() } == .outOfMemory, "E_OUTOFMEMORY")
                try last!.close()
                _ = try host.createIOCompletionPort()
            }
        }
    }

    @Test("114: no descriptors: E_OUTOFMEMORY and no port; with descriptors again, a port")
    func outOfMemory() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let (host, _) = try hosted()
                holdDescriptors()
                try demand(thrown { try host.createIOCompletionPort() } == .outOfMemory, "E_OUTOFMEMORY")
                let interface = host.interface()
                var port: UnsafeMutableRawPointer? = UnsafeMutableRawPointer(bitPattern: 8)
                let code = interface.pointee.lpVtbl.pointee.CreateIoCompletionPort(interface, &port)
                try demand(HResult(code) == .outOfMemory && port == nil, "E_OUTOFMEMORY and a null port")
                try demand(interface.pointee.lpVtbl.pointee.Release(interface) == 0, "one reference")
                for descriptor in 100..<200 as Range<Int32> { close(descriptor) }
                _ = try host.createIOCompletionPort()
            }
        }
    }

    @Test("no threads: E_OUTOFMEMORY, and no port is left behind")
    func noThreads() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                let (host, _) = try hosted()
                // The library's own thread first: it is made with the first port of the process.
                _ = try CompletionPort(concurrencyLimit: 1)
                // A thread of its own: the leak checker starts one when this one exits.
                let refused = Protected<HResult?>(nil)
                let filtered = Thread {
                    guard forbidThreads(errno: EAGAIN) else { return }
                    let result = thrown { try host.createIOCompletionPort() }
                    refused.withLock { $0 = result }
                }
                filtered.join()
                try demand(refused.withLock { $0 } == .outOfMemory, "E_OUTOFMEMORY")
                try demand(host.statistics.failedThreads == 1 && host.statistics.threads == 0, "no thread")
                _ = try host.createIOCompletionPort()
                try demand(host.statistics.threads == 1, "a thread")
            }
        }
    }

    @Test("io_uring is forbidden (EPERM): E_FAIL, and the runtime is unusable from then on")
    func forbidden() async {
        await #expect(processExitsWith: .success) { try exitTest { try failUnexpectedly(EPERM) } }
    }

    @Test("io_uring is missing (ENOSYS): E_FAIL, and the runtime is unusable from then on")
    func missing() async {
        await #expect(processExitsWith: .success) { try exitTest { try failUnexpectedly(ENOSYS) } }
    }
}

private func failUnexpectedly(_ code: Int32) throws {
    try demand(forbidRings(errno: code), "the filter is installed")
    let (host, _) = try hosted()
    try demand(thrown { try host.bind(nil, Pipe.make().reading) } == .fail, "E_FAIL")
    try demand(thrown { try host.createIOCompletionPort() } == .clrNotAvailable, "unusable")
    try demand(thrown { try host.getHostOverlappedSize() } == .clrNotAvailable, "unusable")

    // A runtime that was told so is unusable too, and says so.
    final class Control: HostControl {
        let manager: HostIOCompletionManager
        init(_ manager: HostIOCompletionManager) { self.manager = manager }
        func getHostManager(_ interface: InterfaceID) throws(HResult) -> AnyObject? {
            guard interface == .hostIOCompletionManager else { throw .noInterface }
            return manager
        }
    }
    let control = Control(try HostIOCompletionManager())
    let runtime = CLRHost()
    try runtime.setHostControl(control)
    try runtime.start()
    try demand(!runtime.hasFailed, "usable")
    try demand(thrown { try runtime.bindHandle(Pipe.make().reading) } == .fail, "E_FAIL")
    try demand(runtime.hasFailed, "it knows")
    try demand(thrown { try runtime.makeOverlapped() } == .clrNotAvailable, "unusable")
    try demand(thrown { try runtime.start() } == .clrNotAvailable, "unusable")
    try demand(thrown { try control.manager.getMaxThreads() } == .clrNotAvailable, "the host knows")

    // Through the v-table, with a null port.
    let manager = try HostIOCompletionManager()
    try manager.setCLRIOCompletionManager(runtime)
    let interface = manager.interface()
    let table = interface.pointee.lpVtbl.pointee
    var port: UnsafeMutableRawPointer? = UnsafeMutableRawPointer(bitPattern: 8)
    try demand(HResult(table.CreateIoCompletionPort(interface, &port)) == .fail && port == nil, "E_FAIL, no port")
    port = UnsafeMutableRawPointer(bitPattern: 8)
    try demand(
        HResult(table.CreateIoCompletionPort(interface, &port)) == .clrNotAvailable && port == nil, "unusable, no port")
    try demand(table.Release(interface) == 0, "one reference")
    // They hold each other.
    control.manager.shutDown()
    manager.shutDown()
}

/// A thread beside the test's own.
final class Thread: @unchecked Sendable {
    private final class Box {
        let body: () -> Void
        init(_ body: @escaping () -> Void) { self.body = body }
    }

    private var handle = pthread_t()

    init(_ body: @escaping @Sendable () -> Void) {
        let code = pthread_create(
            &handle, nil,
            {
                Unmanaged<Box>.fromOpaque($0!).takeRetainedValue().body()
                return nil
            }, Unmanaged.passRetained(Box(body)).toOpaque())
        precondition(code == 0)
    }

    func join() { pthread_join(handle, nil) }
}
