import CIOCPSupport
import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP

/// A file that lies in the page cache, on a port of its own.
private struct CachedFile {
    let directory: ScratchDirectory
    let port: CompletionPort
    let file: File

    init(_ system: TestFileSystem = .disk, bytes: Int = 8192, options: FileDescriptor.OpenOptions = []) throws {
        directory = try ScratchDirectory(in: #require(system.directory))
        try directory.write((0..<bytes).map { UInt8(truncatingIfNeeded: $0 / 256) })
        port = try CompletionPort(concurrencyLimit: 1)
        file = try File(directory.file(), .readWrite, options: options)
        try port.associate(file, key: 1)
        // The thread has its ring from here on.
        #expect(try port.dequeue(timeout: .zero) == nil)
    }

    /// Whether the file system of the disk can tell what it has in memory.
    static let isTold: Bool = {
        guard let directory = try? ScratchDirectory(), (try? directory.write([1])) != nil,
            let file = try? FileDescriptor.open(directory.file(), .readOnly)
        else { return false }
        var byte: UInt8 = 0
        let result = iocp_read_cached(file.rawValue, &byte, 1, 0)
        return (try? file.close()) != nil && result == 1
    }()

    /// How often a body entered the kernel for the port's rings.
    func entries(_ body: () throws -> Void) throws -> Int {
        let before = try port.statistics.kernelEntries
        try body()
        return try port.statistics.kernelEntries - before
    }
}

@Suite("Eager reads of what lies in the page cache", .enabled(if: CachedFile.isTold))
struct CachedReadTests {
    @Test("no ring is entered for it, and its packet comes unless the handle skips it (e1, e14)")
    func noRing() throws {
        let cached = try CachedFile()
        let read = Operation(capacity: 512)
        for skips in [false, true] {
            if skips { try cached.file.setNotificationModes(.skipCompletionPortOnSuccess) }
            for round in 0..<8 {
                let entries = try cached.entries {
                    let outcome = try cached.file.read(read, at: .at(Int64(round * 512)), start: .eager)
                    #expect(outcome == .completed(bytes: 512))
                }
                #expect(entries == 0)
                #expect(read.status == .success && read.bytes == 512)
                #expect(read.buffer?.bytes[0] == UInt8(round * 2) && read.buffer?.bytes[511] == UInt8(round * 2 + 1))
                #expect(cached.file.isSignaled)
                if !skips { try cached.port.expect(read, bytes: 512, key: 1) }
                #expect(try cached.port.staysEmpty())
            }
        }
        #expect(try cached.port.statistics.inFlight == 0)
    }

    @Test(
        "on every file system the outcome is the same, whether it can tell what is cached or not", arguments: bothStarts
    )
    func fileSystems(start: Start) throws {
        for system in TestFileSystem.available {
            let cached = try CachedFile(system)
            let read = Operation(capacity: 512)
            for offset in [0, 1024, 7680] {
                try cached.file.read(read, at: .at(Int64(offset)), start: start)
                try cached.port.expect(read, bytes: 512)
                #expect(read.buffer?.bytes[511] == UInt8(offset / 256 + 1))
            }
        }
    }

    @Test("a file whose system cannot tell is read through the ring, and not tried again")
    func unableFileSystem() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let file = try File("/proc/self/maps")
        try port.associate(file, key: 1)
        #expect(try port.dequeue(timeout: .zero) == nil)
        let read = Operation(capacity: 64)
        #expect(!file.file.isReadSlowly)
        for _ in 0..<2 {
            try file.read(read, start: .eager)
            try port.expect(read, bytes: 64)
            #expect(file.file.isReadSlowly)
        }
    }

    @Test("what completed before in the thread's ring comes before it (c8)")
    func order() throws {
        let cached = try CachedFile()
        let (first, second) = (Operation(capacity: 16), Operation(capacity: 16))
        try cached.file.read(first)
        try cached.port.flush()
        try cached.file.read(second, start: .eager)
        try cached.port.expect(first, bytes: 16)
        try cached.port.expect(second, bytes: 16)
    }

    @Test("an operation without a packet tells by its event (e8), one without a port by its status (a9)")
    func events() throws {
        let cached = try CachedFile()
        let read = Operation(capacity: 16)
        let event = CompletionEvent()
        try read.signal(event, suppressesPacket: true)
        #expect(try cached.file.read(read, start: .eager) == .completed(bytes: 16))
        #expect(event.isSet)
        #expect(try cached.port.staysEmpty())

        let alone = try File(cached.directory.file())
        try read.signal(nil)
        #expect(try alone.read(read, at: 512, start: .eager) == .completed(bytes: 16))
        #expect(read.status == .success && alone.isSignaled)
    }

    @Test("what is to follow an operation that is being done so begins, whether it came in time or not (links)")
    func followers() throws {
        let cached = try CachedFile()
        let other = try File(cached.directory.file())
        try cached.port.associate(other, key: 2)
        try other.setNotificationModes(.skipCompletionPortOnSuccess)
        let (first, second) = (Operation(capacity: 16), Operation(capacity: 16))
        let isOver = Atomic<Bool>(false)
        let reader = SideThread {
            while !isOver.load(ordering: .acquiring) {
                if try other.read(first, start: .eager) == .pending {
                    _ = try first.waitForCompletion(timeout: patience)
                }
            }
        }
        for round in 0..<2000 {
            try second.follow(first)
            try cached.file.read(second, at: .at(Int64(round % 8) * 256))
            while true {
                let packet = try cached.port.next()
                // Its page had gone.
                if packet.operation === first { continue }
                #expect(packet.operation === second && packet.bytes == 16)
                break
            }
            #expect(second.buffer?.bytes[0] == UInt8(round % 8))
        }
        isOver.store(true, ordering: .releasing)
        try reader.join()
    }

    @Test("a consumer that only reads what is cached does not keep back what it has deferred in its own ring")
    func singleConsumer() throws {
        let cached = try CachedFile()
        var options = CompletionPort.Options()
        options.singleConsumer = true
        let port = try CompletionPort(concurrencyLimit: 1, options: options)
        let file = try File(cached.directory.file())
        let (near, far) = try Socket.pair()
        try port.associate(file, key: 1)
        try port.associate(near, key: 2)
        #expect(try port.dequeue(timeout: .zero) == nil)
        try file.setNotificationModes(.skipCompletionPortOnSuccess)
        try near.send(Operation("deferred"))
        let read = Operation(capacity: 16)
        for _ in 0..<2 { _ = try file.read(read, start: .eager) }
        let peer = Peer(try far.releaseDescriptor().rawValue)
        #expect(try peer.receive(8) == Array("deferred".utf8))
    }

    @Test("its packet does not wait for a thread that blocks after it, also when the monitor sleeps (d7)")
    func heldUp() async {
        // A process of its own: the monitor looks at the ports of all tests.
        await #expect(processExitsWith: .success) {
            try exitTest {
                let cached = try CachedFile()
                let port = cached.port
                // The one place is this thread's, and nothing is in flight.
                try port.post(key: 7)
                #expect(try port.dequeue(timeout: patience)?.key == 7)
                let taken = Atomic<Int>(0)
                let waiter = SideThread {
                    let packet = try port.dequeue(timeout: patience)
                    taken.store(packet?.bytes ?? -1, ordering: .releasing)
                }
                try until("one waits") { try port.statistics.waiting == 1 }
                try until("the monitor sleeps") { Observer.isAtRest }
                let read = Operation(capacity: 512)
                #expect(try cached.file.read(read, start: .eager) == .completed(bytes: 512))
                try until("the other one has the packet") { taken.load(ordering: .acquiring) != 0 }
                #expect(taken.load(ordering: .acquiring) == 512)
                try waiter.join()
            }
        }
    }

    @Test("what ends with it is let go of after it: a last reference may close the file")
    func closedByDeinit() throws {
        final class Closer: Operation, @unchecked Sendable {
            var file: File?
            deinit { try? file?.close() }
        }
        let isDone = Atomic<Bool>(false)
        let thread = SideThread {
            while true {
                let cached = try CachedFile()
                let event = CompletionEvent()
                var closer: Closer? = Closer(capacity: 16)
                closer!.file = cached.file
                try closer!.signal(event, suppressesPacket: true)
                try cached.file.read(closer!)
                try cached.port.flush()
                closer = nil
                // Its completion lies in the ring, unseen.
                let read = Operation(capacity: 16)
                do {
                    #expect(try cached.file.read(read, start: .eager) == .completed(bytes: 16))
                } catch let error as PortError where error.status == .invalidHandle {
                    // The monitor has seen it first, this thread having been away for long.
                    continue
                }
                try cached.port.expect(read, bytes: 16)
                #expect(thrownStatus { try cached.file.read(read, start: .eager) } == .invalidHandle)
                break
            }
            isDone.store(true, ordering: .releasing)
        }
        try until("neither waits for the other") { isDone.load(ordering: .acquiring) }
        try thread.join()
    }

    @Test("large reads and reads past the cache go through the ring; a read across the end need not")
    func throughRing() throws {
        let cached = try CachedFile(bytes: 300 << 10)
        let large = Operation(capacity: 256 << 10)
        let small = Operation(capacity: 4096)
        // The monitor may look amid it.
        var fewest = Int.max
        for _ in 0..<20 where fewest > 1 {
            fewest = min(fewest, try cached.entries { try cached.file.read(large, start: .eager) })
            try cached.port.expect(large, bytes: 256 << 10)
        }
        #expect(fewest == 1)
        #expect(try cached.entries { try cached.file.read(small, at: .at((300 << 10) - 100), start: .eager) } == 0)
        try cached.port.expect(small, bytes: 100)
        #expect(try cached.entries { try cached.file.read(small, at: .at(400 << 10), start: .eager) } > 0)
        try cached.port.expect(small, .endOfFile)

        // The kernel has no page of it any more: whatever the outcome, the bytes are right.
        #expect(fsync(cached.file.descriptor.rawValue) == 0)
        #expect(posix_fadvise(cached.file.descriptor.rawValue, 0, 0, POSIX_FADV_DONTNEED) == 0)
        try cached.file.read(small, at: .at(64 << 10), start: .eager)
        try cached.port.expect(small, bytes: 4096)
        #expect(small.buffer?.bytes[0] == 0 && small.buffer?.bytes[4095] == 15)
    }

    @Test("a read never takes the bytes of a file that has got the closed one's number")
    func closing() throws {
        let directory = try ScratchDirectory()
        try directory.write([UInt8](repeating: 1, count: 4096))
        let other = directory.file("other")
        let made = try FileDescriptor.open(other, .writeOnly, options: .create, permissions: .ownerReadWrite)
        try made.closeAfter { _ = try made.writeAll([UInt8](repeating: 2, count: 4096)) }
        let port = try CompletionPort(concurrencyLimit: 1)
        for _ in 0..<200 {
            let file = try File(directory.file())
            try port.associate(file, key: 1)
            try file.setNotificationModes(.skipCompletionPortOnSuccess)
            let started = Atomic<Bool>(false)
            let reader = SideThread {
                var foreign = 0
                let read = Operation(capacity: 4096)
                do {
                    while true {
                        let outcome = try file.read(read, start: .eager)
                        started.store(true, ordering: .releasing)
                        // In the ring, the page having gone.
                        guard outcome == .completed(bytes: 4096) else { break }
                        if read.buffer?.bytes.contains(2) == true { foreign += 1 }
                    }
                } catch let error as PortError where [.invalidHandle, .cancelled].contains(error.status) {
                    // Closed before, or meanwhile (e28).
                }
                return foreign
            }
            try until("the first read") { started.load(ordering: .acquiring) }
            let number = file.descriptor.rawValue
            try file.close()
            // The number is the next one's, perhaps before the reader has come back.
            let next = try (0..<8).map { _ in try FileDescriptor.open(other, .readOnly) }
            #expect(try reader.join() == 0, "of the file that became number \(number)")
            for descriptor in next { try descriptor.close() }
        }
    }
}
