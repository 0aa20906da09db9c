import IOCP
import IOCPHosting

/// A host that gives the runtime its I/O completion manager, and leaves everything else to it.
final class Host: HostControl {
    let completions: HostIOCompletionManager

    init() throws {
        var options = HostIOCompletionManager.Options()
        options.maxThreads = 16
        completions = try HostIOCompletionManager(options: options)
    }

    func getHostManager(_ interface: InterfaceID) throws(HResult) -> AnyObject? {
        guard interface == .hostIOCompletionManager else { throw .noInterface }
        return completions
    }
}

/// Runs a runtime in the host, which sends a byte to itself. Returns the error and the count that it was told.
func sendOneByte() throws -> (error: UInt32, bytes: UInt32) {
    let host = try Host()
    defer { host.completions.shutDown() }
    let runtime = CLRHost()
    try runtime.setHostControl(host)  // Asks for the managers and the size, and gives its own manager.
    try runtime.start()

    let (near, far) = try Socket.pair()
    try runtime.bindHandle(near)  // To the default port, which is made now, with the first thread.
    let overlapped = try runtime.makeOverlapped()  // With the host's bytes behind it, made ready.
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 16, alignment: 8)
    defer { memory.deallocate() }

    let told = Handover<(error: UInt32, bytes: UInt32)>()
    try overlapped.start(on: near, completion: { error, bytes in told.give((error, bytes)) }) {
        (overlapped) throws(PortError) in try near.receive(overlapped, into: memory)
    }
    try far.send(Operation(capacity: 1))
    return try told.take()  // The completion has come on a thread of the host's.
}
