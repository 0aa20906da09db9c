internal import CIOCPSupport
internal import Glibc
internal import SystemPackage

/// A socket: TCP, UDP, or Unix stream, datagram or seqpacket.
///
/// The corresponding Win32 type is a SOCKET made with `WSA_FLAG_OVERLAPPED`.
public final class Socket: IOHandle, @unchecked Sendable {
    public enum Style: Sendable {
        /// A stream of bytes: TCP, Unix stream.
        case stream
        /// Messages, unconnected or connected: UDP, Unix datagram.
        case datagram
        /// Messages over a connection: Unix seqpacket.
        case sequenced

        var rawType: Int32 {
            switch self {
            case .stream: Int32(SOCK_STREAM.rawValue)
            case .datagram: Int32(SOCK_DGRAM.rawValue)
            case .sequenced: Int32(SOCK_SEQPACKET.rawValue)
            }
        }

        var kind: HandleKind { self == .stream ? .stream : .message }
    }

    /// Makes an unconnected, unbound socket for addresses of this one's family.
    ///
    /// The corresponding Win32 function is `WSASocket`.
    public convenience init(
        _ style: Style = .stream, family: SocketAddress.Family, overlapped: Bool = true
    ) throws(PortError) {
        let descriptor = iocp_socket(Int32(family.rawValue), style.rawType, 0)
        guard descriptor >= 0 else { throw .system(-descriptor, "a socket cannot be made") }
        self.init(FileObject(descriptor: descriptor, kind: style.kind, isOverlapped: overlapped))
    }

    /// Takes over the descriptor of an accepted connection.
    ///
    /// - Parameter keepsMessages: as the connections of a seqpacket listener do.
    convenience init(accepted descriptor: Int32, keepsMessages: Bool) {
        self.init(FileObject(descriptor: descriptor, kind: keepsMessages ? .message : .stream))
        file.noteConnection()
    }

    /// A socket that listens at an address.
    ///
    /// - Parameters:
    ///   - address: port 0 lets the kernel choose; ``localAddress()`` tells.
    ///   - backlog: connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
    ///   - sharesPort: several sockets may listen at the same address and share its connections (SO_REUSEPORT).
    ///
    /// The corresponding Win32 functions are `WSASocket`, `bind` and `listen`.
    public static func listening(
        at address: SocketAddress, style: Style = .stream, backlog: Int32 = 4096, sharesPort: Bool = false
    ) throws(PortError) -> Socket {
        let socket = try Socket(style, family: address.family)
        try socket.setOption(SOL_SOCKET, SO_REUSEADDR, 1)
        if sharesPort { try socket.setOption(SOL_SOCKET, SO_REUSEPORT, 1) }
        try socket.bind(to: address)
        try socket.listen(backlog: backlog)
        return socket
    }

    /// A datagram socket bound to an address.
    public static func datagram(at address: SocketAddress) throws(PortError) -> Socket {
        let socket = try Socket(.datagram, family: address.family)
        try socket.bind(to: address)
        return socket
    }

    /// Two connected Unix sockets.
    public static func pair(_ style: Style = .stream) throws(PortError) -> (Socket, Socket) {
        var pair: (Int32, Int32) = (-1, -1)
        let result = unsafe withUnsafeMutableBytes(of: &pair) {
            unsafe iocp_socketpair(style.rawType, $0.baseAddress!.assumingMemoryBound(to: Int32.self))
        }
        guard result == 0 else { throw .system(-result, "a pair of sockets cannot be made") }
        let ends = (
            Socket(FileObject(descriptor: pair.0, kind: style.kind)),
            Socket(FileObject(descriptor: pair.1, kind: style.kind))
        )
        ends.0.file.noteConnection()
        ends.1.file.noteConnection()
        return ends
    }

    /// Another handle to the same file object. Win32: `WSADuplicateSocket`, `DuplicateHandle`.
    public func duplicate() throws(PortError) -> Socket {
        Socket(try retainForDuplicate())
    }

    // MARK: Calls that complete at once and queue nothing (g30)

    public func bind(to address: SocketAddress) throws(PortError) {
        let code = try opened().onDescriptor { descriptor in
            unsafe address.withSockAddr { unsafe Glibc.bind(descriptor, $0, $1) }
        }
        guard code == 0 else { throw .system(code, "the socket cannot be bound to \(address)") }
    }

    public func listen(backlog: Int32 = 4096) throws(PortError) {
        let code = try opened().onDescriptor { Glibc.listen($0, backlog) }
        guard code == 0 else { throw .system(code, "the socket cannot listen") }
    }

    /// The address that the socket is bound to.
    public func localAddress() throws(PortError) -> SocketAddress {
        unsafe try address("the socket has no local address") { unsafe getsockname($0, $1, $2) }
    }

    /// The address of the peer.
    public func remoteAddress() throws(PortError) -> SocketAddress {
        unsafe try address("the socket is not connected") { unsafe getpeername($0, $1, $2) }
    }

    private func address(
        _ failure: String, _ get: (Int32, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
    ) throws(PortError) -> SocketAddress {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let code = try opened().onDescriptor { descriptor in
            unsafe withUnsafeMutablePointer(to: &storage) {
                unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe get(descriptor, $0, &length) }
            }
        }
        do throws(CompletionStatus) {
            guard code == 0 else { throw CompletionStatus(errnoCode: code) }
            return unsafe try withUnsafePointer(to: storage) { (stored) throws(CompletionStatus) in
                let address = unsafe UnsafeRawPointer(stored).assumingMemoryBound(to: sockaddr.self)
                return unsafe try SocketAddress(address, length: length)
            }
        } catch {
            throw PortError(error, failure)
        }
    }

    /// Sets an option whose value is an `int`.
    public func setOption(_ level: Int32, _ option: Int32, _ value: Int32) throws(PortError) {
        var value = value
        let file = try opened()
        let code = try file.onDescriptor {
            unsafe setsockopt($0, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
        }
        guard code == 0 else { throw .system(code, "the socket option \(option) cannot be set") }
    }

    /// Sends small segments at once instead of waiting for more (TCP_NODELAY).
    public func setNoDelay(_ on: Bool = true) throws(PortError) {
        try setOption(Int32(IPPROTO_TCP), TCP_NODELAY, on ? 1 : 0)
    }

    /// Makes closing the socket reset the connection in place of ending it gracefully (SO_LINGER with zero).
    public func setResetsOnClose() throws(PortError) {
        var value = linger(l_onoff: 1, l_linger: 0)
        let file = try opened()
        let code = try file.onDescriptor {
            unsafe setsockopt($0, SOL_SOCKET, SO_LINGER, &value, socklen_t(MemoryLayout<linger>.size))
        }
        guard code == 0 else { throw .system(code, "the socket cannot be made to reset") }
    }

    public enum Direction: Sendable {
        case receiving, sending, both

        var rawDirection: Int32 {
            switch self {
            case .receiving: Int32(SHUT_RD)
            case .sending: Int32(SHUT_WR)
            case .both: Int32(SHUT_RDWR)
            }
        }
    }

    /// Ends one or both directions of the connection, at once; queues nothing.
    ///
    /// The corresponding Win32 function is `shutdown`.
    public func shutdown(_ direction: Direction) throws(PortError) {
        let file = try opened()
        let code = try file.onDescriptor { Glibc.shutdown($0, direction.rawDirection) }
        guard code == 0 else { throw .system(code, "the socket cannot be shut down") }
        file.noteShutdown(direction.rawDirection)
    }

    /// Connects and waits for it; queues nothing, whatever port the socket is associated with (g30).
    ///
    /// The corresponding Win32 function is `connect`.
    public func connectAndWait(to address: SocketAddress) throws(PortError) {
        let file = try opened()
        // A descriptor of its own: the handle may be closed meanwhile, and the number be another's.
        var descriptor: Int32 = -1
        var code = try file.onDescriptor {
            descriptor = dup($0)
            return descriptor
        }
        guard code == 0 else { throw .system(code, "no descriptor for connecting to \(address)") }
        defer { Glibc.close(descriptor) }
        IOThread.current.blocking {
            let result = unsafe address.withSockAddr { unsafe Glibc.connect(descriptor, $0, $1) }
            if result != 0 { code = errno }
            if code == EINTR { code = Self.finishConnecting(descriptor) }
        }
        guard code == 0 else {
            throw PortError(CompletionStatus(errnoCode: code, context: .connect), "cannot connect to \(address)")
        }
        file.noteConnection()
    }

    /// An interrupted connect goes on in the kernel: its end is the socket's error.
    private static func finishConnecting(_ descriptor: Int32) -> Int32 {
        var interest = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        while unsafe poll(&interest, 1, -1) < 0, errno == EINTR {}
        var code: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        _ = unsafe getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &code, &size)
        return code
    }
}
