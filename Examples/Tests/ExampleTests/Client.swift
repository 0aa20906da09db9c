import Foundation
import Glibc

/// A plain blocking TCP client, so that a fault of the library cannot hide on both sides.
final class Client {
    private let descriptor: Int32
    /// Received, and not asked for yet.
    private var pending: ArraySlice<UInt8> = []

    struct Failure: Error {
        let what: String
        let code: Int32
    }

    /// - Parameter receiveBuffer: bytes of the kernel's receive buffer: a small one makes a slow reader.
    init(_ port: UInt16, receiveBuffer: Int32? = nil) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw Failure(what: "socket", code: errno) }
        if let receiveBuffer { set(SO_RCVBUF, receiveBuffer) }
        // A server that does not answer fails the test in place of hanging it.
        set(SO_RCVTIMEO, timeval(tv_sec: 20, tv_usec: 0))
        set(SO_SNDTIMEO, timeval(tv_sec: 20, tv_usec: 0))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let result = unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw Failure(what: "connect", code: errno) }
    }

    deinit { close(descriptor) }

    private func set<Value: BitwiseCopyable>(_ option: Int32, _ value: Value) {
        var value = value
        unsafe setsockopt(descriptor, SOL_SOCKET, option, &value, socklen_t(MemoryLayout<Value>.size))
    }

    func send(_ text: String) throws { try send(Array(text.utf8)) }

    func send(_ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe Glibc.send(descriptor, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw Failure(what: "send", code: errno) }
            sent += count
        }
    }

    /// Sends from another thread, so that this one can receive meanwhile.
    func sendInBackground(_ bytes: [UInt8]) {
        Thread.detachNewThread { [self] in try? send(bytes) }
    }

    /// Up to so many bytes, at least one; none at the end.
    func receiveSome(_ most: Int = 65536) throws -> [UInt8] {
        if !pending.isEmpty {
            let some = pending.prefix(most)
            pending = pending.dropFirst(most)
            return Array(some)
        }
        var bytes = [UInt8](repeating: 0, count: most)
        let count = unsafe bytes.withUnsafeMutableBytes { unsafe recv(descriptor, $0.baseAddress, most, 0) }
        guard count >= 0 else { throw Failure(what: "receive", code: errno) }
        bytes.removeLast(most - count)
        return bytes
    }

    /// That many bytes, or fewer at the end.
    func receive(_ count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            let more = try receiveSome(min(65536, count - bytes.count))
            if more.isEmpty { break }
            bytes += more
        }
        return bytes
    }

    /// Everything until the end.
    func receiveAll() throws -> [UInt8] { try receive(.max) }

    /// Text up to and with a delimiter.
    func receive(until delimiter: String) throws -> String {
        let delimiter = Array(delimiter.utf8)
        var bytes: [UInt8] = []
        while !bytes.suffix(delimiter.count).elementsEqual(delimiter) {
            if pending.isEmpty { pending = try receiveSome()[...] }
            guard let byte = pending.popFirst() else { break }
            bytes.append(byte)
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    func endSending() { shutdown(descriptor, Int32(SHUT_WR)) }

    /// Closing resets the connection.
    func resetOnClose() { set(SO_LINGER, linger(l_onoff: 1, l_linger: 0)) }
}

extension Client: @unchecked Sendable {}
