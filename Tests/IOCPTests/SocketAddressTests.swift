import Glibc
import SystemPackage
import Testing

@testable import IOCP

@Suite("SocketAddress")
struct SocketAddressTests {
    /// The bytes that the kernel would get.
    private func bytes(_ address: SocketAddress) -> [UInt8] {
        unsafe address.withSockAddr { (pointer, length) in
            unsafe Array(UnsafeRawBufferPointer(start: pointer, count: Int(length)))
        }
    }

    /// The address that comes of bytes that the kernel gave.
    private func parse(_ bytes: [UInt8], length: Int? = nil) throws(CompletionStatus) -> SocketAddress {
        var storage = sockaddr_storage()
        unsafe withUnsafeMutableBytes(of: &storage) { unsafe $0.copyBytes(from: bytes.prefix($0.count)) }
        return try unsafe withUnsafePointer(to: storage) { (pointer) throws(CompletionStatus) in
            try unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                (address) throws(CompletionStatus) in
                try unsafe SocketAddress(address, length: socklen_t(length ?? bytes.count))
            }
        }
    }

    @Test("an IPv4 address has its text, its port and network byte order")
    func ipv4() throws {
        let address = try SocketAddress.ipv4("192.0.2.1", port: 0x1234)
        #expect(address.family == .ipv4)
        #expect(address.port == 0x1234)
        #expect(address.host == "192.0.2.1")
        #expect(address.description == "192.0.2.1:4660")
        #expect(address.path == nil)
        #expect(address.scopeID == nil)
        #expect(bytes(address) == [2, 0, 0x12, 0x34, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    @Test("loopback and any need no text")
    func wellKnown() throws {
        #expect(try SocketAddress.ipv4(port: 80) == .loopback(port: 80))
        #expect(SocketAddress.loopback(port: 80).description == "127.0.0.1:80")
        #expect(SocketAddress.any(port: 0).description == "0.0.0.0:0")
        #expect(try SocketAddress.ipv6(port: 80) == .loopbackIPv6(port: 80))
        #expect(SocketAddress.loopbackIPv6(port: 80).description == "[::1]:80")
        #expect(SocketAddress.anyIPv6(port: 1).description == "[::]:1")
    }

    @Test("an IPv6 address keeps its scope and flow")
    func ipv6() throws {
        let address = try SocketAddress.ipv6("fe80::1", port: 443, flowInfo: 0x12345, scopeID: 7)
        #expect(address.family == .ipv6)
        #expect(address.port == 443)
        #expect(address.scopeID == 7)
        #expect(address.flowInfo == 0x12345)
        #expect(address.host == "fe80::1%7")
        #expect(address.description == "[fe80::1%7]:443")
        #expect(address.length == 28)
        #expect(Array(bytes(address)[4..<8]) == [0, 1, 0x23, 0x45])
        #expect(try SocketAddress.ipv6("fe80::1%7", port: 443, flowInfo: 0x12345) == address)
    }

    @Test("a zone may be the name of an interface")
    func zoneName() throws {
        let index = unsafe if_nametoindex("lo")
        try #require(index != 0)
        #expect(try SocketAddress.ipv6("fe80::1%lo", port: 0).scopeID == index)
        #expect(throws: CompletionStatus.invalidParameter) { try SocketAddress.ipv6("fe80::1%nosuchif", port: 0) }
        #expect(throws: CompletionStatus.invalidParameter) { try SocketAddress.ipv6("fe80::1%", port: 0) }
    }

    @Test("text that is no address is refused", arguments: ["", "localhost", "1.2.3", "1.2.3.256", "1.2.3.4\0", "::1"])
    func notIPv4(text: String) {
        #expect(throws: CompletionStatus.invalidParameter) { try SocketAddress.ipv4(text, port: 1) }
    }

    @Test("text that is no IPv6 address is refused", arguments: ["", "[::1]", ":::", "1.2.3.4", "::1\0", "%1"])
    func notIPv6(text: String) {
        #expect(throws: CompletionStatus.invalidParameter) { try SocketAddress.ipv6(text, port: 1) }
    }

    @Test("a path is kept, and counted with its zero")
    func path() throws {
        let address = try SocketAddress.unix(path: "/run/p")
        #expect(address.family == .unix)
        #expect(address.path == "/run/p")
        #expect(address.abstractName == nil)
        #expect(address.port == nil)
        #expect(!address.isUnnamed)
        #expect(address.description == "unix:/run/p")
        #expect(bytes(address) == [1, 0] + Array("/run/p".utf8) + [0])
        #expect(try SocketAddress.unix(path: FilePath("/run/p")) == address)
    }

    @Test("the longest path fits, one byte more does not")
    func longPath() throws {
        let longest = "/" + String(repeating: "a", count: SocketAddress.maximumPathLength - 1)
        #expect(longest.utf8.count == 107)
        let address = try SocketAddress.unix(path: longest)
        #expect(address.path == FilePath(longest))
        #expect(address.length == 110)
        #expect(throws: CompletionStatus.nameTooLong) { try SocketAddress.unix(path: longest + "a") }
        #expect(throws: CompletionStatus.nameTooLong) { try SocketAddress.unix(path: FilePath(longest + "a")) }
        #expect(throws: CompletionStatus.invalidParameter) { try SocketAddress.unix(path: "") }
        #expect(throws: CompletionStatus.invalidParameter) { try SocketAddress.unix(path: "a\0b") }
        #expect(throws: CompletionStatus.invalidParameter) { try SocketAddress.unix(path: FilePath("")) }
    }

    @Test("an abstract name starts with a zero and is not a path")
    func abstract() throws {
        let address = try SocketAddress.abstract("name")
        #expect(address.path == nil)
        #expect(address.abstractName == "name")
        #expect(!address.isUnnamed)
        #expect(address.description == "unix:@name")
        #expect(bytes(address) == [1, 0, 0] + Array("name".utf8))
        #expect(try SocketAddress.abstract("n\0m").abstractName == "n\0m")
        let longest = String(repeating: "n", count: SocketAddress.maximumPathLength)
        #expect(try SocketAddress.abstract(longest).abstractName == longest)
        #expect(throws: CompletionStatus.nameTooLong) { try SocketAddress.abstract(longest + "n") }
    }

    @Test("no name is neither a path nor an abstract name")
    func unnamed() {
        let address = SocketAddress.unnamed
        #expect(address.isUnnamed)
        #expect(address.path == nil)
        #expect(address.abstractName == nil)
        #expect(address.description == "unix:")
        #expect(bytes(address) == [1, 0])
    }

    @Test("the address of nothing is empty")
    func nothing() throws {
        let address = SocketAddress()
        #expect(address.family == .unspecified)
        #expect(address.length == 0)
        #expect(address.description == "unspecified")
        #expect(try parse([], length: 0) == address)
    }

    @Test("the kernel's bytes give back the address")
    func raw() throws {
        let addresses = [
            try SocketAddress.ipv4("198.51.100.7", port: 9), try .ipv6("2001:db8::1%3", port: 9, flowInfo: 5),
            try .unix(path: "/p"), try .abstract("x"), .unnamed,
        ]
        for address in addresses {
            let copy = try parse(bytes(address))
            #expect(copy == address)
            #expect(copy.hashValue == address.hashValue)
            #expect(copy.description == address.description)
        }
        #expect(Set(addresses).count == addresses.count)
    }

    @Test("padding and a missing or second zero make no difference")
    func normalized() throws {
        #expect(
            try parse([2, 0, 0, 80, 127, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9]) == .loopback(port: 80))
        let path = try SocketAddress.unix(path: "/p")
        #expect(try parse([1, 0] + Array("/p".utf8)) == path)
        #expect(try parse([1, 0] + Array("/p\0\0junk".utf8)) == path)
        #expect(try parse(bytes(.loopback(port: 80)) + [1, 2, 3]) == .loopback(port: 80))
        #expect(try parse(bytes(.loopbackIPv6(port: 80)) + [1, 2, 3]) == .loopbackIPv6(port: 80))
    }

    @Test("a path that fills the kernel's field without a zero is read whole")
    func fullField() throws {
        let name = [UInt8](repeating: 97, count: 108)
        let address = try parse([1, 0] + name)
        #expect(address.path == FilePath(String(decoding: name, as: UTF8.self)))
        #expect(address.length == 110)
    }

    @Test("bytes that are too few or too many are refused")
    func badLength() {
        #expect(throws: CompletionStatus.invalidParameter) { try parse([2]) }
        #expect(throws: CompletionStatus.invalidParameter) { try parse([2, 0, 0, 80, 127, 0, 0]) }
        #expect(throws: CompletionStatus.invalidParameter) { try parse([10, 0, 0, 80, 127, 0, 0]) }
        #expect(throws: CompletionStatus.invalidParameter) { try parse([2, 0], length: 129) }
        #expect(throws: CompletionStatus.invalidParameter) { try parse([1, 0, 97], length: 128) }
    }

    @Test("a family without a name here is kept")
    func otherFamily() throws {
        let address = try parse([16, 0, 1, 2, 3, 4])
        #expect(address.family.rawValue == 16)
        #expect(address.description == "family 16")
        #expect(bytes(address) == [16, 0, 1, 2, 3, 4])
        #expect(address.withPort(1) == address)
    }

    @Test("the port can be exchanged")
    func withPort() throws {
        #expect(SocketAddress.loopback(port: 1).withPort(2) == .loopback(port: 2))
        let scoped = try SocketAddress.ipv6("fe80::1%3", port: 1, flowInfo: 4)
        #expect(try scoped.withPort(2) == .ipv6("fe80::1%3", port: 2, flowInfo: 4))
    }

    @Test("addresses differ by host, port, scope and flow")
    func inequality() throws {
        let base = try SocketAddress.ipv6("fe80::1", port: 1, flowInfo: 1, scopeID: 1)
        #expect(try base != .ipv6("fe80::2", port: 1, flowInfo: 1, scopeID: 1))
        #expect(try base != .ipv6("fe80::1", port: 2, flowInfo: 1, scopeID: 1))
        #expect(try base != .ipv6("fe80::1", port: 1, flowInfo: 2, scopeID: 1))
        #expect(try base != .ipv6("fe80::1", port: 1, flowInfo: 1, scopeID: 2))
        #expect(try SocketAddress.unix(path: "n") != .abstract("n"))
    }

    @Test("a socket can be bound to an address, and tells the one it got")
    func bindAndAsk() throws {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        let bound = unsafe SocketAddress.loopback(port: 0).withSockAddr { unsafe bind(descriptor, $0, $1) }
        try #require(bound == 0)
        let address = try unsafe SocketAddress { (pointer, length) throws(CompletionStatus) in
            guard unsafe getsockname(descriptor, pointer, &length) == 0 else { throw .unsuccessful }
        }
        #expect(address.host == "127.0.0.1")
        #expect(address.port != 0)
    }

    @Test("a function that fills an address in can fail")
    func fillFails() {
        #expect(throws: CompletionStatus.notFound) {
            try unsafe SocketAddress { (_, _) throws(CompletionStatus) in throw .notFound }
        }
    }

    @Test("an address takes no more than the kernel's storage and its length")
    func size() {
        #expect(MemoryLayout<SocketAddress>.size == SocketAddress.maximumLength + 4)
    }
}
