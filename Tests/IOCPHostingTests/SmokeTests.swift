import IOCP
import IOCPHosting
import Testing

@Suite("hosting, first slice")
struct SmokeTests {
    final class Control: HostControl {
        let manager: HostIOCompletionManager
        init(_ manager: HostIOCompletionManager) { self.manager = manager }
        func getHostManager(_ interface: InterfaceID) throws(HResult) -> AnyObject? {
            guard interface == .hostIOCompletionManager else { throw .noInterface }
            return manager
        }
    }

    @Test("109: a read on a bound handle is completed once, through every layer")
    func oneRead() throws {
        let host = try HostIOCompletionManager()
        let runtime = CLRHost()
        try runtime.setHostControl(Control(host))
        try runtime.start()
        let (reading, writing) = try Pipe.make()
        try runtime.bindHandle(reading)
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 16, alignment: 8)
        let done = CompletionEvent()
        let overlapped = try runtime.makeOverlapped()
        try overlapped.start(
            on: reading,
            completion: { error, bytes in
                #expect(error == 0)
                #expect(bytes == 5)
                done.set()
            }
        ) { (ov) throws(PortError) in try reading.read(ov, into: memory) }
        let w = Operation(buffer: IOBuffer(capacity: 5))
        try writing.write(w)
        #expect(try done.wait(timeout: .seconds(10)))
        #expect(overlapped.overlapped.status == .success)
        #expect(overlapped.overlapped.bytes == 5)
        host.shutDown()
    }
}
