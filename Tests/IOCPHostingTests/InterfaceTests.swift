import CIOCPHosting
import Foundation
import IOCP
import IOCPHosting
import Testing

@Suite("The v-tables", .timeLimit(.minutes(2)))
struct InterfaceTests {
    @Test("a runtime in C++ drives all eleven methods through the v-table, and receives OnComplete")
    func client() throws {
        // The test program itself and the executable lie in the same directory, whatever it is called.
        let testProgram = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let process = Process()
        process.executableURL = URL(filePath: testProgram).deletingLastPathComponent().appending(path: "HostingClient")
        let output = Foundation.Pipe()
        process.standardOutput = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        #expect(process.terminationReason == .exit && process.terminationStatus == 0, "\(text)")
        #expect(text.contains(" checks, 0 failed"), "\(text)")
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
}
