public import SystemPackage

#if canImport(Glibc)
public import Glibc
#elseif canImport(Musl)
public import Musl
#endif

/// The address of a socket: IPv4, IPv6, or a local one (a path, an abstract name, or none).
///
/// A plain value of 132 bytes: making, copying and comparing one allocates nothing. Numbers are in the byte order of
/// the machine; the bytes for the kernel are in network order. Any thread may use it.
///
/// The corresponding Windows type is `SOCKADDR_STORAGE` together with its length.
public struct SocketAddress: Sendable {
    // Bytes from `length` on are always zero.
    private var storage: sockaddr_storage

    /// How many bytes of the storage the address takes.
    public private(set) var length: socklen_t

    /// An address family. Open: values without a name here are legal.
    public struct Family: RawRepresentable, Hashable, Sendable {
        /// The number that `socket` takes.
        public let rawValue: Int32
        /// Creates a family from its number, known or not.
        public init(rawValue: Int32) { self.rawValue = rawValue }

        /// No address at all. The corresponding constant is `AF_UNSPEC`.
        public static var unspecified: Family { Family(rawValue: AF_UNSPEC) }
        /// The corresponding constant is `AF_INET`.
        public static var ipv4: Family { Family(rawValue: AF_INET) }
        /// The corresponding constant is `AF_INET6`.
        public static var ipv6: Family { Family(rawValue: AF_INET6) }
        /// The corresponding constant is `AF_UNIX`.
        public static var unix: Family { Family(rawValue: AF_UNIX) }
    }

    /// The most bytes that any address takes: what to allocate for an answer of the kernel.
    public static var maximumLength: Int { MemoryLayout<sockaddr_storage>.size }

    /// The most bytes of a path or an abstract name. The kernel's field has one more, for a zero.
    public static var maximumPathLength: Int { MemoryLayout<sockaddr_un>.size - pathOffset - 1 }

    private static let pathOffset = MemoryLayout<sockaddr_un>.offset(of: \.sun_path)!

    /// The address of nothing: family ``Family/unspecified``, length 0.
    public init() {
        storage = sockaddr_storage()
        length = 0
    }
}

// MARK: Making addresses

extension SocketAddress {
    /// An IPv4 address.
    ///
    /// - Parameters:
    ///   - text: Four decimal numbers with dots. Names are not looked up.
    ///   - port: The port; 0 lets the kernel choose one when binding.
    /// - Throws: ``CompletionStatus/invalidParameter`` if the text is no such address.
    ///
    /// The corresponding Winsock function is `InetPton`.
    public static func ipv4(_ text: String = "127.0.0.1", port: UInt16) throws(CompletionStatus) -> SocketAddress {
        var address = in_addr()
        // C would stop reading at a zero byte and accept what comes before it.
        guard !text.utf8.contains(0), unsafe inet_pton(AF_INET, text, &address) == 1 else { throw .invalidParameter }
        return SocketAddress(ipv4: address, port: port)
    }

    /// An IPv6 address.
    ///
    /// - Parameters:
    ///   - text: The address as RFC 4291 writes it, without brackets. A zone may follow, as a number or as the name of
    ///     an interface: `fe80::1%2`, `fe80::1%eth0`. Names of hosts are not looked up.
    ///   - port: The port; 0 lets the kernel choose one when binding.
    ///   - flowInfo: Traffic class and flow label.
    ///   - scopeID: The index of the interface for a link-local address. A zone in the text replaces it.
    /// - Throws: ``CompletionStatus/invalidParameter`` if the text is no such address, or names no interface.
    ///
    /// The corresponding Winsock function is `InetPton`.
    public static func ipv6(
        _ text: String = "::1", port: UInt16, flowInfo: UInt32 = 0, scopeID: UInt32 = 0
    ) throws(CompletionStatus) -> SocketAddress {
        guard !text.utf8.contains(0) else { throw .invalidParameter }
        var scope = scopeID
        var host = text[...]
        if let percent = text.firstIndex(of: "%") {
            host = text[..<percent]
            let zone = String(text[text.index(after: percent)...])
            scope = unsafe UInt32(zone) ?? if_nametoindex(zone)
            guard scope != 0 || zone == "0" else { throw .invalidParameter }
        }
        var address = in6_addr()
        guard unsafe inet_pton(AF_INET6, String(host), &address) == 1 else { throw .invalidParameter }
        return SocketAddress(ipv6: address, port: port, flowInfo: flowInfo, scopeID: scope)
    }

    /// The IPv4 address of this machine to itself, 127.0.0.1.
    public static func loopback(port: UInt16) -> SocketAddress {
        SocketAddress(ipv4: in_addr(s_addr: UInt32(0x7F00_0001).bigEndian), port: port)
    }

    /// Every IPv4 address of this machine, 0.0.0.0: to bind to.
    public static func any(port: UInt16) -> SocketAddress {
        SocketAddress(ipv4: in_addr(s_addr: 0), port: port)
    }

    /// The IPv6 address of this machine to itself, ::1.
    public static func loopbackIPv6(port: UInt16) -> SocketAddress {
        var address = in6_addr()
        unsafe withUnsafeMutableBytes(of: &address) { unsafe $0[15] = 1 }
        return SocketAddress(ipv6: address, port: port, flowInfo: 0, scopeID: 0)
    }

    /// Every IPv6 address of this machine, ::, to bind to.
    public static func anyIPv6(port: UInt16) -> SocketAddress {
        SocketAddress(ipv6: in6_addr(), port: port, flowInfo: 0, scopeID: 0)
    }

    /// A local address with a path.
    ///
    /// - Parameter path: 1 to ``maximumPathLength`` bytes of UTF-8 without a zero byte.
    /// - Throws: ``CompletionStatus/nameTooLong``, or ``CompletionStatus/invalidParameter`` if the path is empty or
    ///   has a zero byte.
    public static func unix(path: String) throws(CompletionStatus) -> SocketAddress {
        let bytes = path.utf8
        guard !bytes.isEmpty, !bytes.contains(0) else { throw .invalidParameter }
        // The zero at the end is counted, as the kernel does when it gives such an address.
        return try SocketAddress(localName: bytes, at: pathOffset, countingAfter: 1)
    }

    /// A local address with a path.
    ///
    /// - Parameter path: 1 to ``maximumPathLength`` bytes.
    /// - Throws: ``CompletionStatus/nameTooLong``, or ``CompletionStatus/invalidParameter`` if the path is empty.
    public static func unix(path: FilePath) throws(CompletionStatus) -> SocketAddress {
        // The bytes of a path need not be UTF-8.
        let bytes = unsafe path.withPlatformString {
            unsafe Array(UnsafeRawBufferPointer(start: $0, count: strlen($0)))
        }
        guard !bytes.isEmpty else { throw .invalidParameter }
        return try SocketAddress(localName: bytes, at: pathOffset, countingAfter: 1)
    }

    /// A local address with an abstract name, which no file stands for and which goes away with its last socket.
    ///
    /// - Parameter name: Up to ``maximumPathLength`` bytes of UTF-8, without the leading zero byte.
    /// - Throws: ``CompletionStatus/nameTooLong``.
    public static func abstract(_ name: String) throws(CompletionStatus) -> SocketAddress {
        try SocketAddress(localName: name.utf8, at: pathOffset + 1, countingAfter: 0)
    }

    /// A local address without a name: that of a socket that was never bound.
    public static var unnamed: SocketAddress {
        var address = SocketAddress()
        address.storage.ss_family = sa_family_t(AF_UNIX)
        address.length = socklen_t(pathOffset)
        return address
    }

    /// Copies an address from memory.
    ///
    /// - Parameters:
    ///   - address: The address. `length` bytes must be readable.
    ///   - length: Its size in bytes as the kernel gave it. 0 gives the address of nothing.
    /// - Throws: ``CompletionStatus/invalidParameter`` if the length is more than ``maximumLength``, or less than the
    ///   family needs.
    @unsafe
    public init(_ address: UnsafePointer<sockaddr>, length: socklen_t) throws(CompletionStatus) {
        self.init()
        guard Int(length) <= Self.maximumLength else { throw .invalidParameter }
        unsafe withUnsafeMutableBytes(of: &storage) {
            unsafe $0.copyMemory(from: UnsafeRawBufferPointer(start: address, count: Int(length)))
        }
        self.length = length
        try normalize()
    }

    /// Makes an address by letting a function fill in its memory, as `getsockname` and `accept` do.
    ///
    /// - Parameter body: Gets the memory and its size in bytes; it puts the size of the address in place of that.
    /// - Throws: What the function throws.
    @unsafe
    public init(
        filledBy body: (UnsafeMutablePointer<sockaddr>, inout socklen_t) throws(CompletionStatus) -> Void
    ) throws(CompletionStatus) {
        self.init()
        var length = socklen_t(Self.maximumLength)
        try unsafe withUnsafeMutablePointer(to: &storage) { (pointer) throws(CompletionStatus) in
            try unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { (address) throws(CompletionStatus) in
                try unsafe body(address, &length)
            }
        }
        // The kernel gives the size it would have needed; more than the storage means that it was cut.
        guard Int(length) <= Self.maximumLength else { throw .invalidParameter }
        self.length = length
        try normalize()
    }

    private init(ipv4 address: in_addr, port: UInt16) {
        self.init()
        var value = sockaddr_in()
        value.sin_family = sa_family_t(AF_INET)
        value.sin_port = port.bigEndian
        value.sin_addr = address
        store(value)
    }

    private init(ipv6 address: in6_addr, port: UInt16, flowInfo: UInt32, scopeID: UInt32) {
        self.init()
        var value = sockaddr_in6()
        value.sin6_family = sa_family_t(AF_INET6)
        value.sin6_port = port.bigEndian
        value.sin6_flowinfo = flowInfo.bigEndian
        value.sin6_addr = address
        value.sin6_scope_id = scopeID
        store(value)
    }

    private init(
        localName name: some Collection<UInt8>, at offset: Int, countingAfter extra: Int
    ) throws(CompletionStatus) {
        guard name.count <= Self.maximumPathLength else { throw .nameTooLong }
        self.init()
        storage.ss_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &storage) {
            unsafe UnsafeMutableRawBufferPointer(rebasing: $0[offset...]).copyBytes(from: name)
        }
        length = socklen_t(offset + name.count + extra)
    }

    private mutating func store<Value>(_ value: Value) {
        unsafe withUnsafeBytes(of: value) { source in
            unsafe withUnsafeMutableBytes(of: &storage) { unsafe $0.copyMemory(from: source) }
        }
        length = socklen_t(MemoryLayout<Value>.size)
    }

    private func load<Value>(as type: Value.Type) -> Value {
        unsafe withUnsafeBytes(of: storage) { unsafe $0.load(as: type) }
    }

    /// Gives one address one form, so that equal addresses have equal bytes.
    private mutating func normalize() throws(CompletionStatus) {
        if length == 0 {
            storage = sockaddr_storage()
            return
        }
        guard length >= socklen_t(MemoryLayout<sa_family_t>.size) else { throw .invalidParameter }
        switch family {
        case .ipv4:
            guard Int(length) >= MemoryLayout<sockaddr_in>.size else { throw .invalidParameter }
            let value = load(as: sockaddr_in.self)
            self = SocketAddress(ipv4: value.sin_addr, port: UInt16(bigEndian: value.sin_port))
        case .ipv6:
            guard Int(length) >= MemoryLayout<sockaddr_in6>.size else { throw .invalidParameter }
            let value = load(as: sockaddr_in6.self)
            length = socklen_t(MemoryLayout<sockaddr_in6>.size)
            clearTail()
            store(value)
        case .unix:
            guard Int(length) <= MemoryLayout<sockaddr_un>.size else { throw .invalidParameter }
            // A path ends at its first zero, and may have been given without one, or with more.
            if let count = pathByteCount, count > 0 {
                length = socklen_t(Self.pathOffset + min(count + 1, Self.maximumPathLength + 1))
            }
            clearTail()
        default:
            clearTail()
        }
    }

    private mutating func clearTail() {
        let length = Int(length)
        unsafe withUnsafeMutableBytes(of: &storage) { bytes in
            for index in length..<bytes.count { unsafe bytes[index] = 0 }
        }
    }
}

// MARK: Looking at addresses

extension SocketAddress {
    /// The family, which is also what `socket` needs to make a socket for the address.
    public var family: Family { Family(rawValue: Int32(storage.ss_family)) }

    /// The port of an IP address, nil for others.
    public var port: UInt16? {
        switch family {
        case .ipv4: UInt16(bigEndian: load(as: sockaddr_in.self).sin_port)
        case .ipv6: UInt16(bigEndian: load(as: sockaddr_in6.self).sin6_port)
        default: nil
        }
    }

    /// The same IP address with another port. Addresses that have none stay as they are.
    public func withPort(_ port: UInt16) -> SocketAddress {
        var copy = self
        switch family {
        case .ipv4:
            var value = load(as: sockaddr_in.self)
            value.sin_port = port.bigEndian
            copy.store(value)
        case .ipv6:
            var value = load(as: sockaddr_in6.self)
            value.sin6_port = port.bigEndian
            copy.store(value)
        default: break
        }
        return copy
    }

    /// The index of the interface of an IPv6 address, 0 if it has none. Nil for other families.
    public var scopeID: UInt32? {
        family == .ipv6 ? load(as: sockaddr_in6.self).sin6_scope_id : nil
    }

    /// Traffic class and flow label of an IPv6 address. Nil for other families.
    public var flowInfo: UInt32? {
        family == .ipv6 ? UInt32(bigEndian: load(as: sockaddr_in6.self).sin6_flowinfo) : nil
    }

    /// The text of an IP address without its port, such as `127.0.0.1` or `fe80::1%2`. Nil for other families.
    ///
    /// The corresponding Winsock function is `InetNtop`.
    public var host: String? {
        switch family {
        case .ipv4:
            return Self.text(of: load(as: sockaddr_in.self).sin_addr, family: AF_INET)
        case .ipv6:
            let value = load(as: sockaddr_in6.self)
            let text = Self.text(of: value.sin6_addr, family: AF_INET6)
            return value.sin6_scope_id == 0 ? text : text + "%\(value.sin6_scope_id)"
        default: return nil
        }
    }

    /// The path of a local address. Nil for an abstract name, for no name, and for other families.
    public var path: FilePath? {
        guard let count = pathByteCount, count > 0 else { return nil }
        // A path of the full length has no zero at its end in the storage, but a FilePath needs one.
        return unsafe withUnsafeBytes(of: storage) { bytes in
            var name = unsafe bytes[Self.pathOffset..<(Self.pathOffset + count)].map { CChar(bitPattern: $0) }
            name.append(0)
            return unsafe name.withUnsafeBufferPointer {
                unsafe $0.baseAddress.map { unsafe FilePath(platformString: $0) }
            }
        }
    }

    /// The abstract name of a local address without its leading zero byte, ill-formed UTF-8 replaced. Nil for others.
    public var abstractName: String? {
        guard isAbstract else { return nil }
        return unsafe withUnsafeBytes(of: storage) {
            unsafe String(decoding: $0[(Self.pathOffset + 1)..<Int(length)], as: UTF8.self)
        }
    }

    /// Whether it is a local address without a name.
    public var isUnnamed: Bool { family == .unix && Int(length) <= Self.pathOffset }

    /// Calls a function with the address as the kernel takes it. The pointer must not leave the function.
    ///
    /// - Parameter body: Gets the address and its size in bytes.
    public func withSockAddr<Result: ~Copyable, Failure: Error>(
        _ body: (UnsafePointer<sockaddr>, socklen_t) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try unsafe withUnsafePointer(to: storage) { (pointer) throws(Failure) -> Result in
            try unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                (address) throws(Failure) -> Result in
                try unsafe body(address, length)
            }
        }
    }

    private var isAbstract: Bool { pathByteCount == 0 && Int(length) > Self.pathOffset }

    /// The bytes of a local name up to its first zero: 0 for an abstract name and for none.
    private var pathByteCount: Int? {
        guard family == .unix else { return nil }
        let end = Int(length)
        guard end > Self.pathOffset else { return 0 }
        return unsafe withUnsafeBytes(of: storage) {
            let name = unsafe $0[Self.pathOffset..<end]
            return unsafe (name.firstIndex(of: 0) ?? end) - Self.pathOffset
        }
    }

    private static func text<Address>(of address: Address, family: Int32) -> String {
        unsafe withUnsafeBytes(of: address) { address in
            unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(INET6_ADDRSTRLEN)) { buffer in
                // It fails only for an unknown family or a short buffer.
                unsafe inet_ntop(family, address.baseAddress, buffer.baseAddress, socklen_t(buffer.count))
                    .map { unsafe String(cString: $0) } ?? ""
            }
        }
    }
}

extension SocketAddress: Hashable {
    public static func == (left: SocketAddress, right: SocketAddress) -> Bool {
        guard left.length == right.length else { return false }
        return unsafe withUnsafeBytes(of: left.storage) { left in
            unsafe withUnsafeBytes(of: right.storage) { right in unsafe left.elementsEqual(right) }
        }
    }

    public func hash(into hasher: inout Hasher) {
        unsafe withUnsafeBytes(of: storage) {
            unsafe hasher.combine(bytes: UnsafeRawBufferPointer(rebasing: $0[..<Int(length)]))
        }
    }
}

extension SocketAddress: CustomStringConvertible {
    /// `127.0.0.1:80`, `[::1]:80`, `unix:/run/p`, `unix:@name`, `unix:` for no name, and the number of other families.
    public var description: String {
        switch family {
        case .ipv4: return "\(host ?? ""):\(port ?? 0)"
        case .ipv6: return "[\(host ?? "")]:\(port ?? 0)"
        case .unix:
            if let path { return "unix:\(path)" }
            if let abstractName { return "unix:@\(abstractName)" }
            return "unix:"
        case .unspecified: return "unspecified"
        default: return "family \(family.rawValue)"
        }
    }
}
