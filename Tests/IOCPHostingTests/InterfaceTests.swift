import CIOCPHosting
import Foundation
import Glibc
import HostingPeer
import IOCP
import IOCPHosting
import Testing

/// Where the test program, the executables and the libraries lie, whatever the program is called.
private func products() throws -> URL {
    let testProgram = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    return URL(filePath: testProgram).deletingLastPathComponent()
}

/// Runs a program to its end. Returns how it ended, and all that it wrote.
private func run(_ program: URL, _ arguments: [String] = []) throws -> (succeeded: Bool, text: String) {
    let process = Process()
    process.executableURL = program
    process.arguments = arguments
    let output = Foundation.Pipe()
    process.standardOutput = output
    process.standardError = output
    try process.run()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return (process.terminationReason == .exit && process.terminationStatus == 0, text)
}

@Suite("The v-tables", .timeLimit(.minutes(2)))
struct InterfaceTests {
    @Test("a runtime in C++ drives all eleven methods through the v-table, and receives OnComplete")
    func client() throws {
        let (succeeded, text) = try run(products().appending(path: "HostingClient"))
        #expect(succeeded, "\(text)")
        #expect(text.contains(" checks, 0 failed"), "\(text)")
    }

    @Test(
        "a program in C, and one in C++, are built with the header and the shared library alone, and work",
        // A program that is not instrumented cannot load a library that is.
        .enabled(if: !isSanitized),
        arguments: [
            ("plain.c", "cc", ["-std=c99"], "error 0, 5 bytes: hello\n"),
            ("plain.c", "clang", ["-std=c17"], "error 0, 5 bytes: hello\n"),
            ("plain.cpp", "c++", ["-std=c++11"], "error 995, 0 bytes, completed: 1\n"),
            ("plain.cpp", "clang++", ["-std=c++20"], "error 995, 0 bytes, completed: 1\n"),
        ])
    func plain(_ source: String, _ compiler: String, _ options: [String], _ expected: String) throws {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        let header = tests.deletingLastPathComponent().appending(path: "Sources/CIOCPHosting/include")
        let libraries = try products()
        let program = libraries.appending(path: "hosting-\(compiler)-\(source).out")
        let arguments =
            [compiler] + options + ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-D_DEFAULT_SOURCE"] + [
                "-I", header.path(), tests.appending(path: "HostingFromC/\(source)").path(), "-L", libraries.path(),
                "-liocp_hosting", "-Wl,-rpath,\(libraries.path())", "-o", program.path(),
            ]
        let (isBuilt, complaints) = try run(URL(filePath: "/usr/bin/env"), arguments)
        // Beside a toolchain of Swift there is always clang; others may be missing.
        if complaints.contains("No such file or directory"), !compiler.hasPrefix("clang") { return }
        try #require(isBuilt, "\(complaints)")
        #expect(complaints.isEmpty, "\(complaints)")
        let (succeeded, text) = try run(program)
        #expect(succeeded && text == expected, "\(text)")
    }

    @Test("the object of a host has one address, and its references keep the host alive")
    func identity() throws {
        weak var gone: HostIOCompletionManager?
        var interface: UnsafeMutablePointer<IHostIoCompletionManager>
        do {
            let host = try HostIOCompletionManager()
            gone = host
            interface = host.interface()
            #expect(host.interface() == interface)
            #expect(interface.pointee.lpVtbl.pointee.Release(interface) == 1)
        }
        #expect(gone != nil)
        #expect(interface.pointee.lpVtbl.pointee.AddRef(interface) == 2)
        #expect(interface.pointee.lpVtbl.pointee.Release(interface) == 1)
        #expect(interface.pointee.lpVtbl.pointee.Release(interface) == 0)
        #expect(gone == nil)
    }

    @Test("a Swift host keeps its life when C's last reference goes, and can be handed out again")
    func swiftOwned() throws {
        let (host, runtime) = try hosted()
        let interface = host.interface()
        #expect(interface.pointee.lpVtbl.pointee.Release(interface) == 0)
        let (near, far) = try Socket.pair()
        try host.bind(nil, near)
        let block = try Block(host)
        try near.receive(block.overlapped, into: block.buffer)
        try writeRaw("x", to: far)
        #expect(try runtime.waitFor(1).count == 1)
        let again = host.interface()
        #expect(again == interface)
        #expect(again.pointee.lpVtbl.pointee.Release(again) == 0)
        host.shutDown()
    }

    @Test("a host behind a v-table serves a Swift runtime: our own, through the interfaces in both directions")
    func roundTrip() throws {
        final class Control: HostControl {
            let manager: ForeignIOCompletionHost
            init(_ manager: ForeignIOCompletionHost) { self.manager = manager }
            func getHostManager(_ interface: InterfaceID) throws(HResult) -> AnyObject? {
                guard interface == .hostIOCompletionManager else { throw .noInterface }
                return manager
            }
        }
        let real = try HostIOCompletionManager()
        let interface = real.interface()
        let foreign = ForeignIOCompletionHost(interface)
        _ = interface.pointee.lpVtbl.pointee.Release(interface)
        let runtime = CLRHost()
        try runtime.setHostControl(Control(foreign))
        try runtime.start()
        let (near, far) = try Socket.pair()
        try runtime.bindHandle(near)
        let block = try runtime.makeOverlapped()
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16, alignment: 8)
        defer { buffer.deallocate() }
        let told = Protected<[UInt32]>([])
        try block.start(on: near, completion: { error, bytes in told.withLock { $0 += [error, bytes] } }) {
            (overlapped) throws(PortError) in try near.receive(overlapped, into: buffer)
        }
        try writeRaw("hello", to: far)
        try until("the completion comes") { told.withLock { $0 } == [0, 5] }
        try runtime.setMaxThreads(16)
        try runtime.setMinThreads(2)
        #expect(try runtime.getMaxThreads() == 16 && runtime.getMinThreads() == 2)
        #expect(try runtime.getAvailableThreads() <= 16)
        #expect(thrown { try runtime.setMaxThreads(0) } == .invalidArgument)
        let port = try foreign.createIOCompletionPort()
        try foreign.closeIOCompletionPort(port)
        #expect(thrown { try foreign.closeIOCompletionPort(port) } == .invalidArgument)
        real.shutDown()
    }

    @Test("a host in C++ serves a Swift runtime: order, host's bytes, completions, failures, references")
    func peer() throws {
        final class Control: HostControl {
            let manager: ForeignIOCompletionHost
            init(_ manager: ForeignIOCompletionHost) { self.manager = manager }
            func getHostManager(_ interface: InterfaceID) throws(HResult) -> AnyObject? {
                guard interface == .hostIOCompletionManager else { throw .noInterface }
                return manager
            }
        }
        let alive = hosting_peer_alive()
        weak var gone: CLRHost?
        do {
            let peer = hosting_peer_create()!
            defer { _ = peer.pointee.lpVtbl.pointee.Release(peer) }
            let runtime = CLRHost()
            gone = runtime
            try runtime.setHostControl(Control(ForeignIOCompletionHost(peer)))
            try runtime.start()
            #expect(String(cString: hosting_peer_calls(peer)) == "8 9")
            #expect(hosting_peer_examine_runtime(peer) == 0)
            let block = try runtime.makeOverlapped()
            let bytes = UnsafeRawBufferPointer(
                start: block.overlapped.pointer + HostOverlapped.headerSize, count: Int(hosting_peer_size))
            #expect(bytes.allSatisfy { $0 == 0x5A })
            let (reading, _) = try IOCP.Pipe.make()
            try runtime.bindHandle(reading)
            // The host does the I/O in its own way.
            let told = Protected<[UInt32]>([])
            try block.start(on: reading, completion: { code, count in told.withLock { $0 += [code, count] } }) { _ in
                .pending
            }
            #expect(hosting_peer_complete(peer, 109, 7, block.overlapped.pointer) == 0)
            #expect(told.withLock { $0 } == [109, 7])
            #expect(HResult(hosting_peer_complete(peer, 0, 0, block.overlapped.pointer)) == .invalidArgument)
            #expect(told.withLock { $0.count } == 2)
            try runtime.setMaxThreads(9)
            try runtime.setMinThreads(2)
            #expect(try runtime.getMaxThreads() == 9 && runtime.getMinThreads() == 2)
            #expect(try runtime.getAvailableThreads() == 8)
            let host = ForeignIOCompletionHost(peer)
            let port = try host.createIOCompletionPort()
            try host.closeIOCompletionPort(port)
            #expect(thrown { try host.closeIOCompletionPort(HostHandle(rawValue: 8)) } == .invalidArgument)
            #expect(String(cString: hosting_peer_calls(peer)) == "8 9 10 11 5 12 6 13 7 3 4 4")
            for answer in [HResult.notImplemented, .timeout, .notOwner, .abandoned, .outOfMemory, .fail] {
                hosting_peer_answer(peer, answer.signed)
                #expect(thrown { try host.createIOCompletionPort() } == answer)
                #expect(thrown { try runtime.setMaxThreads(3) } == answer)
            }
            #expect(runtime.hasFailed)
            hosting_peer_answer(peer, 0)
            #expect(thrown { try runtime.setMaxThreads(3) } == .clrNotAvailable)
            #expect(HResult(hosting_peer_complete(peer, 0, 0, block.overlapped.pointer)) == .clrNotAvailable)
            // The last reference that C++ holds; the runtime and the host hold each other until then.
            #expect(hosting_peer_forget_runtime(peer) == 0)
        }
        #expect(gone == nil)
        #expect(hosting_peer_alive() == alive)
    }

    @Test("references of a host are counted by many threads at once, and interfaces asked for")
    func countedByMany() throws {
        weak var gone: HostIOCompletionManager?
        do {
            let host = try HostIOCompletionManager()
            gone = host
            let interface = host.interface()
            let address = UInt(bitPattern: interface)
            let threads = (0..<4).map { _ in
                Thread {
                    let interface = UnsafeMutablePointer<IHostIoCompletionManager>(bitPattern: address)!
                    let table = interface.pointee.lpVtbl.pointee
                    for _ in 0..<20000 {
                        var other: UnsafeMutableRawPointer?
                        withUnsafePointer(to: IID_IUnknown) { _ = table.QueryInterface(interface, $0, &other) }
                        precondition(other == UnsafeMutableRawPointer(interface))
                        _ = table.AddRef(interface)
                        _ = table.Release(interface)
                        _ = table.Release(interface)
                    }
                }
            }
            for thread in threads { thread.join() }
            let table = interface.pointee.lpVtbl.pointee
            #expect(table.AddRef(interface) == 2 && table.Release(interface) == 1)
            // Every other identifier, one bit away from a known one, is refused with a null result.
            for known in [IID_IUnknown, IID_IHostIoCompletionManager] {
                for bit in 0..<128 {
                    var id = known
                    withUnsafeMutableBytes(of: &id) { $0[bit / 8] ^= 1 << (bit % 8) }
                    var other = UnsafeMutableRawPointer(bitPattern: 8)
                    #expect(HResult(table.QueryInterface(interface, &id, &other)) == .noInterface && other == nil)
                }
            }
            #expect(table.Release(interface) == 0)
        }
        #expect(gone == nil)
    }
}
