import Glibc
import SystemPackage
import Testing

@testable import IOCP

// What the tests of section g share. Foundation stays out: it has an Operation, a Pipe and a Process of its own.

/// Long enough for a loaded machine, short enough not to look like a hang.
let patience = Duration.seconds(30)

/// Both ways to start an operation.
let bothStarts: [Start] = [.deferred, .eager]

// MARK: Packets

extension CompletionPort {
    /// The next packet. Fails the test if none comes.
    func next(_ location: SourceLocation = #_sourceLocation) throws -> Packet {
        try #require(try dequeue(timeout: patience), "no packet came", sourceLocation: location)
    }

    /// Whether no packet comes within a short while. What must not happen cannot be waited for.
    func staysEmpty(for duration: Duration = .milliseconds(20)) throws -> Bool {
        try dequeue(timeout: duration) == nil
    }

    /// The next packet must be this operation's, with this outcome.
    @discardableResult
    func expect(
        _ operation: IOCP.Operation, _ status: CompletionStatus = .success, bytes: Int = 0, key: UInt? = nil,
        _ location: SourceLocation = #_sourceLocation
    ) throws -> Packet {
        let packet = try next(location)
        #expect(packet.operation === operation, "another operation's packet came", sourceLocation: location)
        #expect(packet.status == status, sourceLocation: location)
        #expect(packet.bytes == bytes, sourceLocation: location)
        if let key { #expect(packet.key == key, sourceLocation: location) }
        return packet
    }
}

/// The status that a call throws, or nil if it throws nothing.
func thrownStatus(_ body: () throws -> Any) -> CompletionStatus? {
    do {
        _ = try body()
        return nil
    } catch {
        return (error as? PortError)?.status ?? .unsuccessful
    }
}

/// An operation must fail at once with this status: thrown by an eager start, in the packet of a deferred one.
func expectFailure(
    _ status: CompletionStatus, of operation: IOCP.Operation, on port: CompletionPort, _ start: Start,
    _ location: SourceLocation = #_sourceLocation, _ body: () throws -> StartOutcome
) throws {
    switch start {
    case .eager:
        #expect(thrownStatus(body) == status, sourceLocation: location)
        #expect(try port.dequeue(timeout: .zero) == nil, "a packet was queued", sourceLocation: location)
    case .deferred:
        #expect(try body() == .pending, sourceLocation: location)
        try port.expect(operation, status, location)
    }
}

extension IOCP.Operation {
    /// An operation whose buffer holds a text, or bytes.
    convenience init(_ text: String) {
        self.init(Array(text.utf8))
    }

    convenience init(_ bytes: [UInt8]) {
        self.init(buffer: IOBuffer(bytes))
    }

    /// The beginning of its buffer as text.
    func text(_ count: Int) -> String { buffer!.string(in: 0..<count) }
}

extension IOBuffer {
    convenience init(_ bytes: [UInt8]) {
        self.init(capacity: bytes.count)
        copy(from: bytes)
    }

    convenience init(text: String) { self.init(Array(text.utf8)) }

    /// All of it.
    var contents: [UInt8] { array(in: 0..<capacity) }
}

/// Bytes that differ from place to place, so that a shift or a swap shows: a random piece of prime length, repeated.
func pattern(_ count: Int, seed: Int = 0) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count)
    var state = UInt64(seed) &+ 0x9E37_79B9_7F4A_7C15
    for _ in 0..<min(count, 65_521) {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        bytes.append(UInt8(truncatingIfNeeded: state >> 56))
    }
    let piece = bytes
    while bytes.count < count { bytes += piece.prefix(count - bytes.count) }
    return bytes
}

/// Two exit tests run at a time. All that there are would come at once otherwise, a process each, and what they starve are
/// the tests that look at how soon something happens.
private func waitForTurn() {
    // Locks that end with the process, on files that are there anyway.
    let places = [open("/proc/self/exe", O_RDONLY | O_CLOEXEC), open("/proc/self/cwd", O_RDONLY | O_CLOEXEC)]
    if places.contains(where: { flock($0, LOCK_EX | LOCK_NB) == 0 }) { return }
    while flock(places[Int(getpid()) % places.count], LOCK_EX) != 0 && errno == EINTR {}
}

/// The body of an exit test: ends the process, and says what was thrown.
func exitTest(_ body: () throws -> Void) throws -> Never {
    waitForTurn()
    do {
        try body()
    } catch {
        let text = "exit test: \(error)\n"
        _ = text.withCString { write(2, $0, strlen($0)) }
        // Standard error is not shown, but this is told to the process of the tests.
        Issue.record("\(text)")
        exit(1)
    }
    exit(0)
}

// MARK: Files

/// A directory of a test's own, removed with the files in it.
final class ScratchDirectory {
    let path: FilePath

    init(in base: FilePath = TestFileSystem.disk.directory!) throws {
        var template = Array(base.appending("iocp-test-XXXXXX").string.utf8CString)
        let made = mkdtemp(&template) != nil
        try #require(made, "no scratch directory can be made in \(base)")
        path = FilePath(String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self))
    }

    deinit {
        if let directory = opendir(path.string) {
            while let entry = readdir(directory) {
                let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                    String(decoding: Array($0).prefix { $0 != 0 }, as: UTF8.self)
                }
                if name != "." && name != ".." { unlink(path.appending(name).string) }
            }
            _ = closedir(directory)
        }
        rmdir(path.string)
    }

    func file(_ name: String = "file") -> FilePath { path.appending(name) }

    /// A file with these contents.
    @discardableResult
    func write(_ bytes: [UInt8], to name: String = "file") throws -> FilePath {
        let descriptor = try FileDescriptor.open(
            file(name), .writeOnly, options: [.create, .truncate], permissions: .ownerReadWrite)
        try descriptor.closeAfter { _ = try descriptor.writeAll(bytes) }
        return file(name)
    }

    func read(_ name: String = "file") throws -> [UInt8] {
        let descriptor = try FileDescriptor.open(file(name), .readOnly)
        return try descriptor.closeAfter {
            let length = Int(try descriptor.seek(offset: 0, from: .end))
            return try [UInt8](unsafeUninitializedCapacity: length) { room, count in
                count = try descriptor.read(fromAbsoluteOffset: 0, into: UnsafeMutableRawBufferPointer(room))
            }
        }
    }
}

/// The file systems that the tests of files run on.
enum TestFileSystem: String, CaseIterable, Sendable, CustomTestStringConvertible {
    case disk, memory, loop

    var testDescription: String { rawValue }

    /// Where files can be made; nil if the machine does not have it.
    var directory: FilePath? {
        switch self {
        case .disk: FilePath(getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp")
        case .memory: access("/dev/shm", W_OK) == 0 ? FilePath("/dev/shm") : nil
        case .loop: Self.loopDirectory
        }
    }

    static var available: [TestFileSystem] { allCases.filter { $0.directory != nil } }

    /// A small file system in a file, mounted for this process only: it is detached from the tree at once and lives as
    /// long as the descriptor of its root, so that nothing is left behind however the tests end.
    private static let loopDirectory: FilePath? = {
        guard geteuid() == 0, let scratch = try? ScratchDirectory(in: TestFileSystem.disk.directory!) else {
            return nil
        }
        let image = scratch.file("image").string
        let mountPoint = scratch.file("mounted").string
        defer { rmdir(mountPoint) }
        guard let made = try? FileDescriptor.open(image, .writeOnly, options: .create, permissions: .ownerReadWrite),
            ftruncate(made.rawValue, 64 << 20) == 0, (try? made.close()) != nil, mkdir(mountPoint, 0o700) == 0,
            run("mkfs.ext4", "-q", "-F", image), run("mount", "-o", "loop", image, mountPoint)
        else { return nil }
        let root = open(mountPoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard run("umount", "-l", mountPoint), root >= 0 else { return nil }
        return FilePath("/proc/self/fd/\(root)")
    }()

    /// Runs a program without its output. Returns whether it succeeded.
    private static func run(_ words: String...) -> Bool {
        var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for descriptor in 0...2 as ClosedRange<Int32> {
            posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_RDWR, 0)
        }
        let environment = environ
        var child: pid_t = 0
        guard posix_spawnp(&child, words[0], &actions, nil, &arguments, environment) == 0 else { return false }
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0 { if errno != EINTR { return false } }
        return status == 0
    }
}

// MARK: Peers

/// The other end of a connection, driven by plain blocking calls.
final class Peer {
    let descriptor: Int32

    init(_ descriptor: Int32) {
        self.descriptor = descriptor
        // A test that is wrong must fail, not hang.
        var limit = timeval(tv_sec: 30, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close() }

    private var isClosed = false

    func close() {
        if !isClosed { Glibc.close(descriptor) }
        isClosed = true
    }

    /// Ends a TCP connection with a reset.
    func reset() {
        var value = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &value, socklen_t(MemoryLayout<linger>.size))
        close()
    }

    func send(_ bytes: [UInt8], _ location: SourceLocation = #_sourceLocation) throws {
        var sent = 0
        repeat {
            let count = bytes.withUnsafeBytes {
                Glibc.send(
                    descriptor, $0.baseAddress.map { $0 + sent }, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            if count < 0 && errno == EINTR { continue }
            try #require(count >= 0, "the peer cannot send: errno \(errno)", sourceLocation: location)
            sent += count
        } while sent < bytes.count
    }

    func send(_ text: String, _ location: SourceLocation = #_sourceLocation) throws {
        try send(Array(text.utf8), location)
    }

    /// One receive of at most that many bytes. Empty at the end.
    func receiveSome(_ most: Int = 65536, flags: Int32 = 0, _ location: SourceLocation = #_sourceLocation) throws
        -> [UInt8]
    {
        var room = [UInt8](repeating: 0, count: most)
        while true {
            let count = recv(descriptor, &room, most, flags)
            if count < 0 && errno == EINTR { continue }
            try #require(count >= 0, "the peer cannot receive: errno \(errno)", sourceLocation: location)
            return Array(room.prefix(count))
        }
    }

    /// That many bytes, or what came before the end.
    func receive(_ count: Int, _ location: SourceLocation = #_sourceLocation) throws -> [UInt8] {
        var received: [UInt8] = []
        received.reserveCapacity(count)
        while received.count < count {
            let part = try receiveSome(min(1 << 20, count - received.count), location)
            if part.isEmpty { break }
            received += part
        }
        return received
    }

    func receiveText(_ count: Int, _ location: SourceLocation = #_sourceLocation) throws -> String {
        String(decoding: try receive(count, location), as: UTF8.self)
    }

    func shutdown(_ direction: Int) { Glibc.shutdown(descriptor, Int32(direction)) }
}

/// Waits until a descriptor has something to read, or an end or an error to tell of.
func waitReadable(_ handle: IOHandle, _ location: SourceLocation = #_sourceLocation) throws {
    try waitFor(POLLIN, handle.descriptor.rawValue, location)
}

func waitFor(_ events: Int32, _ descriptor: Int32, _ location: SourceLocation = #_sourceLocation) throws {
    var interest = pollfd(fd: descriptor, events: Int16(events), revents: 0)
    while true {
        let ready = poll(&interest, 1, 30_000)
        if ready < 0 && errno == EINTR { continue }
        try #require(ready == 1, "the descriptor does not become ready", sourceLocation: location)
        return
    }
}

/// The stream connections that the tests run over.
enum StreamKind: String, CaseIterable, Sendable, CustomTestStringConvertible {
    case tcp4, tcp6, unix

    var testDescription: String { rawValue }

    /// A connected socket and its peer.
    func connection() throws -> (Socket, Peer) {
        switch self {
        case .tcp4: return try tcp(.loopback(port: 0))
        case .tcp6: return try tcp(.loopbackIPv6(port: 0))
        case .unix:
            let (socket, other) = try Socket.pair()
            return (socket, Peer(try other.releaseDescriptor().rawValue))
        }
    }

    private func tcp(_ address: SocketAddress) throws -> (Socket, Peer) {
        let listener = try Socket.listening(at: address)
        let socket = try Socket(family: address.family)
        try socket.connectAndWait(to: listener.localAddress())
        let accepted = accept(listener.descriptor.rawValue, nil, nil)
        try #require(accepted >= 0)
        return (socket, Peer(accepted))
    }
}

/// A connected socket on a port of its own, and its peer.
func connected(_ kind: StreamKind = .tcp4, key: UInt = 1) throws -> (port: CompletionPort, socket: Socket, peer: Peer) {
    let port = try CompletionPort(concurrencyLimit: 1)
    let (socket, peer) = try kind.connection()
    try port.associate(socket, key: key)
    return (port, socket, peer)
}

/// A client that connects to a listener with plain calls.
func connectPeer(to listener: Socket) throws -> Peer {
    let address = try listener.localAddress()
    var type: Int32 = 0
    var size = socklen_t(MemoryLayout<Int32>.size)
    getsockopt(listener.descriptor.rawValue, SOL_SOCKET, SO_TYPE, &type, &size)
    let descriptor = socket(address.family.rawValue, type | Int32(SOCK_CLOEXEC.rawValue), 0)
    try #require(descriptor >= 0)
    let result = address.withSockAddr { connect(descriptor, $0, $1) }
    try #require(result == 0, "cannot connect: errno \(errno)")
    // Only now: with a time limit, a connect is interrupted by the completions of this thread's operations.
    return Peer(descriptor)
}

// MARK: Threads

/// A thread beside the test's own, for what must happen meanwhile. Joined, and what it threw rethrown.
final class SideThread<Value: Sendable> {
    fileprivate final class Box: @unchecked Sendable {
        let body: () throws -> Value
        var result: Result<Value, any Error>?
        init(_ body: @escaping () throws -> Value) { self.body = body }
    }

    private let box: Box
    private var thread = pthread_t()
    private var isJoined = false

    init(_ body: @escaping @Sendable () throws -> Value) {
        box = Box(body)
        let argument = Unmanaged.passRetained(box).toOpaque()
        let code = pthread_create(
            &thread, nil,
            { argument in
                let box = Unmanaged<AnyObject>.fromOpaque(argument!).takeRetainedValue() as! any Runnable
                box.run()
                return nil
            }, argument)
        precondition(code == 0, "no thread can be made")
    }

    func join() throws -> Value {
        pthread_join(thread, nil)
        isJoined = true
        return try box.result!.get()
    }

    deinit { if !isJoined { pthread_detach(thread) } }
}

private protocol Runnable: AnyObject { func run() }
extension SideThread.Box: Runnable {
    func run() { result = Result { try body() } }
}

/// Hands something to a side thread that the test itself leaves alone meanwhile.
struct Sending<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}
