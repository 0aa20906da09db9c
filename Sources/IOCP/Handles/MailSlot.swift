internal import CIOCPSupport
internal import Glibc
internal import SystemPackage

/// A message queue with one reader and many writers; each read takes one message.
///
/// It lies at a path or at an abstract name, which the kernel forgets with its reader. A message that is longer than the
/// read's range fills it and ends with ``CompletionStatus/bufferOverflow``; the rest is lost.
///
/// The corresponding Win32 function is `CreateMailslot`. Linux carries it as a Unix datagram socket.
public final class MailSlot: IOHandle, @unchecked Sendable {
    /// Creates a mail slot and becomes its reader.
    ///
    /// - Parameter address: a Unix path, which must not exist and is not removed at the end, or an abstract name.
    public convenience init(at address: SocketAddress) throws(PortError) {
        let descriptor = iocp_socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
        guard descriptor >= 0 else { throw .system(-descriptor, "a mail slot cannot be made") }
        let result = unsafe address.withSockAddr { unsafe Glibc.bind(descriptor, $0, $1) }
        guard result == 0 else {
            let code = errno
            Glibc.close(descriptor)
            throw .system(code, "a mail slot cannot be made at \(address)")
        }
        self.init(FileObject(descriptor: descriptor, kind: .mailSlot))
    }

    /// Opens a mail slot for writing: each write is one message.
    ///
    /// - Throws: ``PortError`` with ``CompletionStatus/objectNameNotFound`` or ``CompletionStatus/connectionRefused`` if
    ///   nobody reads there.
    ///
    /// The corresponding Win32 function is `CreateFile` on the mail slot's name.
    public static func writer(to address: SocketAddress) throws(PortError) -> MailSlot {
        let descriptor = iocp_socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
        guard descriptor >= 0 else { throw .system(-descriptor, "a mail slot cannot be opened") }
        let result = unsafe address.withSockAddr { unsafe Glibc.connect(descriptor, $0, $1) }
        guard result == 0 else {
            let code = errno
            Glibc.close(descriptor)
            throw PortError(
                CompletionStatus(errnoCode: code, context: .connect), "the mail slot \(address) cannot be opened")
        }
        return MailSlot(FileObject(descriptor: descriptor, kind: .mailSlot))
    }

    /// Another handle to the same file object.
    public func duplicate() throws(PortError) -> MailSlot {
        MailSlot(try retainForDuplicate())
    }

    /// Bytes of the next message; nil if none waits.
    ///
    /// The corresponding Win32 function is `GetMailslotInfo`.
    public func nextMessageLength() throws(PortError) -> Int? {
        var length = 0
        let code = try opened().onDescriptor {
            length = recv($0, nil, 0, Int32(MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT))
            return length < 0 ? -1 : 0
        }
        if code == 0 { return length }
        if code == EAGAIN { return nil }
        throw .system(code, "the mail slot cannot be looked into")
    }
}
