import Glibc
import IOCP
import IOCPHosting
import Testing

/// A host that writes down what it is asked, and answers as a real one or as the test says.
private final class ScriptedHost: IOCompletionHost, HostControl, @unchecked Sendable {
    let calls = Protected<[String]>([])
    let real: HostIOCompletionManager?
    var sizeAnswer: Result<UInt32, HResult> = .success(24)
    var answer: HResult?
    var hasManager = true

    init(_ real: HostIOCompletionManager? = nil) { self.real = real }

    private func note<Value>(_ call: String, _ value: () throws(HResult) -> Value) throws(HResult) -> Value {
        calls.withLock { $0.append(call) }
        if let answer { throw answer }
        return try value()
    }

    func getHostManager(_ interface: InterfaceID) throws(HResult) -> AnyObject? {
        calls.withLock { $0.append("GetHostManager \(interface)") }
        guard hasManager, interface == .hostIOCompletionManager else { throw .noInterface }
        return self
    }
    func createIOCompletionPort() throws(HResult) -> HostHandle {
        try note("CreateIoCompletionPort") { () throws(HResult) in
            guard let real else { throw .notImplemented }
            return try real.createIOCompletionPort()
        }
    }
    func closeIOCompletionPort(_ port: HostHandle) throws(HResult) {
        try note("CloseIoCompletionPort") { () throws(HResult) in try real?.closeIOCompletionPort(port) }
    }
    func setMaxThreads(_ count: UInt32) throws(HResult) {
        try note("SetMaxThreads \(count)") { () throws(HResult) in try real?.setMaxThreads(count) }
    }
    func getMaxThreads() throws(HResult) -> UInt32 {
        try note("GetMaxThreads") { () throws(HResult) in try real?.getMaxThreads() ?? 0 }
    }
    func getAvailableThreads() throws(HResult) -> UInt32 {
        try note("GetAvailableThreads") { () throws(HResult) in try real?.getAvailableThreads() ?? 0 }
    }
    func getHostOverlappedSize() throws(HResult) -> UInt32 {
        calls.withLock { $0.append("GetHostOverlappedSize") }
        if let real { return try real.getHostOverlappedSize() }
        return try sizeAnswer.get()
    }
    func setCLRIOCompletionManager(_ manager: (any CLRIOCompletionManager)?) throws(HResult) {
        try note("SetCLRIoCompletionManager") { () throws(HResult) in try real?.setCLRIOCompletionManager(manager) }
    }
    func initializeHostOverlapped(_ overlapped: UnsafeMutableRawPointer?) throws(HResult) {
        try note("InitializeHostOverlapped") { () throws(HResult) in
            if let real {
                try real.initializeHostOverlapped(overlapped)
            } else if let overlapped {
                (overlapped + HostOverlapped.headerSize).initializeMemory(as: UInt8.self, repeating: 0xA5, count: 24)
            }
        }
    }
    func bind(_ port: HostHandle?, _ handle: HostHandle) throws(HResult) {
        try note("Bind \(port == nil ? "default" : "port")") { () throws(HResult) in try real?.bind(port, handle) }
    }
    func setMinThreads(_ count: UInt32) throws(HResult) {
        try note("SetMinThreads \(count)") { () throws(HResult) in try real?.setMinThreads(count) }
    }
    func getMinThreads() throws(HResult) -> UInt32 {
        try note("GetMinThreads") { () throws(HResult) in try real?.getMinThreads() ?? 0 }
    }
}

@Suite("The order of calls, kept by a runtime", .timeLimit(.minutes(2)))
struct OrderTests {
    @Test("106: managers, size, runtime, start, then overlapped, bind, I/O, completion")
    func order() throws {
        let host = ScriptedHost(try HostIOCompletionManager())
        let runtime = CLRHost()
        try runtime.setHostControl(host)
        try runtime.start()
        let (reading, writing) = try Pipe.make()
        let block = try runtime.makeOverlapped()
        try runtime.bindHandle(reading)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16, alignment: 8)
        defer { buffer.deallocate() }
        let told = Protected<[(UInt32, UInt32)]>([])
        try block.start(on: reading, completion: { error, bytes in told.withLock { $0.append((error, bytes)) } }) {
            (overlapped) throws(PortError) in try reading.read(overlapped, into: buffer)
        }
        try writeRaw("hello", to: writing)
        try until("the completion comes") { told.withLock { $0.count } == 1 }
        #expect(told.withLock { $0[0] == (0, 5) })
        #expect(
            host.calls.withLock { $0 } == [
                "GetHostManager {7BC698D1-F9E3-4460-9CDE-D04248E9FA25}",
                "GetHostManager {997FF24C-43B7-4352-8667-0DC04FAFD354}",
                "GetHostManager {983D50E2-CB15-466B-80FC-845DC6E8C5FD}",
                "GetHostManager {8BDE9D80-EC06-41D6-83E6-22580EFFCC20}",
                "GetHostOverlappedSize", "SetCLRIoCompletionManager", "InitializeHostOverlapped", "Bind default",
            ])
        host.real?.shutDown()
    }

    @Test("107: the host's bytes begin right behind the OVERLAPPED, as many as it asked for, and stay there")
    func hostBytes() throws {
        let host = ScriptedHost()
        let runtime = CLRHost()
        try runtime.setHostControl(host)
        try runtime.start()
        #expect(MemoryLayout<UInt>.size != 8 || HostOverlapped.headerSize == 32)
        let blocks = try (0..<100).map { _ in try runtime.makeOverlapped() }
        for block in blocks {
            let bytes = UnsafeRawBufferPointer(start: block.overlapped.pointer + HostOverlapped.headerSize, count: 24)
            #expect(bytes.allSatisfy { $0 == 0xA5 })
            #expect(block.overlapped.status == .success && block.overlapped.offset == 0 && block.overlapped.event == 0)
            #expect(UInt(bitPattern: block.overlapped.pointer) % 8 == 0)
        }
    }

    @Test("108: each block is made ready once; a failure fails the allocation")
    func readyOnce() throws {
        let host = ScriptedHost()
        let runtime = CLRHost()
        try runtime.setHostControl(host)
        try runtime.start()
        let kept = try (0..<3).map { _ in try runtime.makeOverlapped() }
        #expect(kept.count == 3)
        #expect(host.calls.withLock { $0.filter { $0 == "InitializeHostOverlapped" } }.count == 3)
        host.answer = .outOfMemory
        #expect(thrown { try runtime.makeOverlapped() } == .outOfMemory)
        host.answer = nil
        #expect(throws: Never.self) { try runtime.makeOverlapped() }
    }

    @Test("113: a host that does not say its size is let go of, and the runtime says E_UNEXPECTED")
    func noSize() throws {
        weak var gone: ScriptedHost?
        let runtime = CLRHost()
        do {
            let host = ScriptedHost()
            gone = host
            host.sizeAnswer = .failure(.notImplemented)
            #expect(thrown { try runtime.setHostControl(host) } == .unexpected)
            #expect(!host.calls.withLock { $0.contains("SetCLRIoCompletionManager") })
        }
        #expect(gone == nil)
        #expect(!runtime.usesHost)
        #expect(throws: Never.self) { try runtime.setHostControl(ScriptedHost()) }
    }

    @Test("112: a host that declines limits on threads says E_NOTIMPL, and the runtime's call fails with it (i4)")
    func declined() throws {
        let (host, _) = try hosted { $0.allowsThreadLimits = false }
        #expect(thrown { try host.setMaxThreads(4) } == .notImplemented)
        #expect(thrown { try host.setMinThreads(1) } == .notImplemented)
        #expect(try host.getMaxThreads() == 8)
        let scripted = ScriptedHost()
        let runtime = CLRHost()
        try runtime.setHostControl(scripted)
        try runtime.start()
        scripted.answer = .notImplemented
        #expect(thrown { try runtime.setMaxThreads(4) } == .notImplemented)
        #expect(thrown { try runtime.getAvailableThreads() } == .notImplemented)
        #expect(!runtime.hasFailed)
    }

    @Test("i4: available threads are asked for once a handle is bound, the maximum before")
    func available() throws {
        let host = ScriptedHost(try HostIOCompletionManager())
        let runtime = CLRHost()
        try runtime.setHostControl(host)
        try runtime.start()
        #expect(try runtime.getAvailableThreads() == 1000)
        #expect(host.calls.withLock { $0.last } == "GetMaxThreads")
        try runtime.bindHandle(Pipe.make().reading)
        #expect(try runtime.getAvailableThreads() == 1000)
        #expect(host.calls.withLock { $0.last } == "GetAvailableThreads")
        host.real?.shutDown()
    }

    @Test("no control is E_INVALIDARG, one after the start E_ACCESSDENIED, a second one HOST_E_INVALIDOPERATION")
    func control() throws {
        let runtime = CLRHost()
        #expect(thrown { try runtime.setHostControl(nil) } == .invalidArgument)
        try runtime.setHostControl(ScriptedHost())
        #expect(thrown { try runtime.setHostControl(ScriptedHost()) } == .invalidOperation)
        #expect(thrown { try runtime.makeOverlapped() } == .invalidOperation)
        try runtime.start()
        try runtime.start()
        #expect(thrown { try runtime.setHostControl(ScriptedHost()) } == .accessDenied)
    }

    @Test("E_NOINTERFACE leaves I/O to the runtime, which has none of its own here")
    func noInterface() throws {
        let host = ScriptedHost()
        host.hasManager = false
        let runtime = CLRHost()
        try runtime.setHostControl(host)
        try runtime.start()
        #expect(!runtime.usesHost)
        #expect(thrown { try runtime.makeOverlapped() } == .notImplemented)
    }

    @Test("after E_FAIL the runtime is unusable, and says so to the host as well")
    func failed() throws {
        let host = ScriptedHost()
        let runtime = CLRHost()
        try runtime.setHostControl(host)
        try runtime.start()
        host.answer = .fail
        #expect(thrown { try runtime.setMaxThreads(4) } == .fail)
        host.answer = nil
        #expect(runtime.hasFailed)
        #expect(thrown { try runtime.setMaxThreads(4) } == .clrNotAvailable)
        #expect(thrown { try runtime.makeOverlapped() } == .clrNotAvailable)
        #expect(thrown { try runtime.start() } == .clrNotAvailable)
        #expect(thrown { try runtime.onComplete(error: 0, bytes: 0, overlapped: nil) } == .clrNotAvailable)
        #expect(host.calls.withLock { $0.filter { $0.hasPrefix("SetMaxThreads") } }.count == 1)
    }

    @Test("an OVERLAPPED in flight is not started again, and keeps its completion; afterwards it lets go of it")
    func startedTwice() throws {
        let host = ScriptedHost(try HostIOCompletionManager())
        let runtime = CLRHost()
        try runtime.setHostControl(host)
        try runtime.start()
        let (reading, writing) = try Pipe.make()
        try runtime.bindHandle(reading)
        let block = try runtime.makeOverlapped()
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16, alignment: 8)
        defer { buffer.deallocate() }
        let told = Protected<[String]>([])
        weak var kept: Protected<Int>?
        do {
            let token = Protected(0)
            kept = token
            try block.start(
                on: reading, completion: { _, _ in told.withLock { $0.append("first \(token.withLock { $0 })") } }
            ) { (overlapped) throws(PortError) in try reading.read(overlapped, into: buffer) }
        }
        let code = thrownCode {
            try block.start(on: reading, completion: { _, _ in told.withLock { $0.append("second") } }) {
                (overlapped) throws(PortError) in try reading.read(overlapped, into: buffer)
            }
        }
        #expect(code == 87)
        #expect(kept != nil)
        try writeRaw("x", to: writing)
        try until("the completion comes") { told.withLock { $0.count } == 1 }
        #expect(told.withLock { $0 } == ["first 0"])
        try until("the completion is let go of") { kept == nil }
        // A start that fails at once leaves nothing behind either.
        try writing.close()
        let failed = thrownCode {
            try block.start(on: reading, completion: { _, _ in told.withLock { $0.append("third") } }) {
                (overlapped) throws(PortError) in try reading.read(overlapped, into: buffer, start: .eager)
            }
        }
        #expect(failed == 109)
        #expect(staysTrue { told.withLock { $0.count } == 1 })
        // A host that tells of it without reason is refused.
        #expect(
            thrown { try runtime.onComplete(error: 0, bytes: 0, overlapped: block.overlapped.pointer) }
                == .invalidArgument)
        #expect(!runtime.hasFailed)
        host.real?.shutDown()
    }

    @Test("a completion without an OVERLAPPED is refused (i7)")
    func nothingCompleted() {
        #expect(thrown { try CLRHost().onComplete(error: 0, bytes: 0, overlapped: nil) } == .invalidArgument)
    }
}

@Suite("The order of calls, broken by a runtime", .timeLimit(.minutes(2)))
struct BrokenOrderTests {
    @Test("before the runtime is set everything but the size is HOST_E_CLRNOTAVAILABLE")
    func early() throws {
        let host = try HostIOCompletionManager()
        let (reading, _) = try Pipe.make()
        let handle = try HostHandle(reading)
        defer { try? handle.close() }
        #expect(try host.getHostOverlappedSize() > 0)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 1024, alignment: 16)
        defer { memory.deallocate() }
        let calls: [() throws -> Any] = [
            { try host.createIOCompletionPort() }, { try host.closeIOCompletionPort(handle) },
            { try host.setMaxThreads(4) }, { try host.getMaxThreads() }, { try host.getAvailableThreads() },
            { try host.initializeHostOverlapped(memory) }, { try host.bind(nil, handle) },
            { try host.setMinThreads(1) }, { try host.getMinThreads() },
        ]
        for call in calls { #expect(thrown(call) == .clrNotAvailable) }
        #expect(thrown { try host.setCLRIOCompletionManager(nil) } == .invalidArgument)
        try host.setCLRIOCompletionManager(Recorder())
        #expect(thrown { try host.setCLRIOCompletionManager(Recorder()) } == .invalidOperation)
        #expect(throws: Never.self) { try host.bind(nil, handle) }
    }

    @Test("after the end everything is HOST_E_CLRNOTAVAILABLE")
    func late() throws {
        let (host, _) = try hosted()
        host.shutDown()
        #expect(thrown { try host.createIOCompletionPort() } == .clrNotAvailable)
        #expect(thrown { try host.getHostOverlappedSize() } == .clrNotAvailable)
        #expect(thrown { try host.setCLRIOCompletionManager(Recorder()) } == .clrNotAvailable)
        host.shutDown()
    }

    @Test("a block that was not made ready, or is misaligned, or in flight, is refused and not touched")
    func blocks() throws {
        let (host, runtime) = try hosted()
        let (reading, writing) = try Pipe.make()
        try host.bind(nil, reading)
        let block = try Block(host, isReady: false)
        #expect(thrownCode { try reading.read(block.overlapped, into: block.buffer) } == 87)
        #expect(thrown { try host.initializeHostOverlapped(nil) } == .invalidArgument)
        #expect(thrown { try host.initializeHostOverlapped(block.memory + 4) } == .invalidArgument)
        try host.initializeHostOverlapped(block.memory)
        // Again while idle: nothing to be freed, nothing lost.
        try host.initializeHostOverlapped(block.memory)
        try reading.read(block.overlapped, into: block.buffer)
        #expect(block.overlapped.status == .pending)
        #expect(thrownCode { try reading.read(block.overlapped, into: block.buffer) } == 87)
        #expect(thrown { try host.initializeHostOverlapped(block.memory) } == .invalidArgument)
        try writeRaw("x", to: writing)
        #expect(try runtime.waitFor(1) == [Told(error: 0, bytes: 1, overlapped: block.address)])
        // A block that was copied elsewhere is not ready there.
        let other = try Block(host, isReady: false)
        other.memory.copyMemory(
            from: block.memory, byteCount: HostOverlapped.headerSize + Int(try host.getHostOverlappedSize()))
        #expect(thrownCode { try reading.read(other.overlapped, into: other.buffer) } == 87)
        host.shutDown()
    }

    @Test("options that contradict each other are E_INVALIDARG")
    func options() {
        func refused(_ adjust: (inout HostIOCompletionManager.Options) -> Void) -> Bool {
            var options = HostIOCompletionManager.Options()
            adjust(&options)
            return thrown { try HostIOCompletionManager(options: options) } == .invalidArgument
        }
        #expect(refused { $0.maxThreads = 0 })
        #expect(
            refused {
                $0.minThreads = 9; $0.maxThreads = 8
            })
        #expect(refused { $0.concurrencyLimit = -1 })
        #expect(refused { $0.batchSize = 0 })
        #expect(refused { $0.idleTimeout = .seconds(-1) })
        #expect(!refused { $0.minThreads = 0 })
    }
}
