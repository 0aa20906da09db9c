public import SystemPackage

/// How an operation, or a call on a port, ended: an NTSTATUS.
///
/// The raw value is the NTSTATUS exactly as Windows has it. Each status also has a Win32 code, which is what a dequeue
/// shows (``win32Code``), an `errno` (``errno``), and, if it can come from a socket, a Winsock code (``winsockCode``).
/// Values that have no name here are legal and keep their raw value.
///
/// A value of four bytes without references: copying is free and any thread may use it.
///
/// The corresponding Windows type is `NTSTATUS`.
@frozen
public struct CompletionStatus: RawRepresentable, Error, Hashable, Sendable {
    /// The NTSTATUS.
    public let rawValue: UInt32

    /// Creates a status from an NTSTATUS, known or not.
    @inlinable
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Creates a status from an NTSTATUS, known or not.
    @inlinable
    public init(ntStatus: UInt32) { self.rawValue = ntStatus }

    /// The NTSTATUS: another name of ``rawValue``.
    @inlinable
    public var ntStatus: UInt32 { rawValue }
}

// MARK: Severity

extension CompletionStatus {
    /// The class of a status: its top two bits.
    @frozen
    public enum Severity: UInt32, Hashable, Sendable {
        /// 0x0…, the operation did what was asked.
        case success = 0
        /// 0x4…, it did, and there is something to know about it.
        case informational = 1
        /// 0x8…, it did a part; a packet is queued all the same.
        case warning = 2
        /// 0xC…, it failed.
        case error = 3
    }

    /// The class of the status. It decides whether a call that ends at once queues a packet.
    @inlinable
    public var severity: Severity {
        switch rawValue >> 30 {
        case 0: .success
        case 1: .informational
        case 2: .warning
        default: .error
        }
    }

    /// Whether a packet with this status is dequeued as a success. True of the classes success and informational.
    ///
    /// The results of a wait, ``timeout``, ``abandoned`` and ``userCall``, are numbers of the success class: the
    /// call that returns them knows that they are failures of that call.
    ///
    /// The corresponding Windows macro is `NT_SUCCESS`.
    @inlinable
    public var isSuccess: Bool { Int32(bitPattern: rawValue) >= 0 }

    /// Whether the status is of the class ``Severity/informational``. The Windows macro is `NT_INFORMATION`.
    @inlinable
    public var isInformational: Bool { severity == .informational }

    /// Whether the status is of the class ``Severity/warning``. The corresponding Windows macro is `NT_WARNING`.
    @inlinable
    public var isWarning: Bool { severity == .warning }

    /// Whether the status is of the class ``Severity/error``. The corresponding Windows macro is `NT_ERROR`.
    @inlinable
    public var isError: Bool { severity == .error }
}

// MARK: Other numberings

extension CompletionStatus {
    /// The Win32 code: what `GetLastError` gives when a dequeue returns this status. 0 means success.
    ///
    /// Windows maps a few numbers by rule, the others by table, and so does this:
    /// - A status with the customer bit (0x2000_0000) is its own code.
    /// - 0xD… means the same as 0xC….
    /// - 0xC001_xxxx, 0x8007_xxxx and 0xC007_xxxx carry a Win32 code in their low 16 bits.
    /// - ``abandoned``, ``userCall`` and ``timeout`` give 735, 192 and 258, as the dequeue calls do.
    /// - A status that is not in the table gives `ERROR_MR_MID_NOT_FOUND` (317). The status itself is not lost, only
    ///   this view of it.
    ///
    /// Cost: none for ``success``, else a binary search of a small table.
    ///
    /// The corresponding Windows function is `RtlNtStatusToDosError`.
    public var win32Code: UInt32 {
        if rawValue == 0 { return 0 }
        if rawValue & Self.customerBit != 0 { return rawValue }
        if let row = StatusTable.row(of: canonical) { return row.win32 }
        return carriedWin32Code ?? Self.messageNotFound
    }

    /// The Winsock code, or nil if the status has no meaning for a socket. 0 means success.
    ///
    /// A port always shows ``win32Code``, for sockets too: a reset connection is 64 there. The Winsock calls
    /// (`WSAGetOverlappedResult`, or a call that fails at once) show this code: `WSAECONNRESET` (10054). For most
    /// statuses without one, Winsock on Windows shows `WSAEINVAL` (10022).
    public var winsockCode: Int32? {
        if rawValue == 0 { return 0 }
        if let row = StatusTable.row(of: canonical) { return row.winsock }
        // A Winsock code is a Win32 code of the range 10000 to 11999; a status can carry one.
        guard let code = carriedWin32Code, (10_000..<12_000).contains(code) else { return nil }
        return Int32(code)
    }

    /// The `errno` that comes closest.
    ///
    /// Several statuses share one `errno`, so it does not lead back. It is 0 for success, and `EIO` for an error or
    /// a warning that is not in the table.
    public var errno: Errno {
        if rawValue == 0 { return Errno(rawValue: 0) }
        if let row = StatusTable.row(of: canonical) { return Errno(rawValue: row.errno) }
        return isSuccess ? Errno(rawValue: 0) : .ioError
    }

    /// Creates a status from a Win32 or Winsock code.
    ///
    /// Where several statuses have the code, the most usual one is chosen: 64 gives ``connectionReset``. A code that
    /// no status has becomes 0xC007_0000 | code, which leads back to the code. A number above 0xFFFF is no Win32
    /// code; it is taken as an NTSTATUS.
    ///
    /// The corresponding Windows macro is `NTSTATUS_FROM_WIN32`.
    public init(win32Code: UInt32) {
        if win32Code > 0xFFFF {
            self.init(rawValue: win32Code)
        } else {
            self.init(rawValue: StatusTable.status(ofWin32: win32Code) ?? 0xC007_0000 | win32Code)
        }
    }

    /// ERROR_MR_MID_NOT_FOUND.
    private static let messageNotFound: UInt32 = 317
    private static let customerBit: UInt32 = 0x2000_0000

    /// The status under which the table knows this one.
    private var canonical: UInt32 {
        rawValue >> 28 == 0xD ? rawValue & ~0x1000_0000 : rawValue
    }

    /// The Win32 code in the low half, of the three families of statuses that have one there.
    private var carriedWin32Code: UInt32? {
        switch canonical >> 16 {
        case 0xC001, 0x8007, 0xC007: rawValue & 0xFFFF
        default: nil
        }
    }
}

// MARK: Text

extension CompletionStatus: CustomStringConvertible {
    /// The name of the NTSTATUS, such as `STATUS_CANCELLED`; its number in hexadecimal if it has no name here.
    public var name: String { StatusTable.row(of: canonical)?.name ?? hexadecimal }

    /// The name of the Win32 code, such as `ERROR_OPERATION_ABORTED`; its number in decimal if it has no name here.
    public var win32Name: String {
        if let row = StatusTable.row(of: canonical) { return row.win32Name }
        let code = win32Code
        if code == Self.messageNotFound { return "ERROR_MR_MID_NOT_FOUND" }
        // Only a code that the table has leads to another status than the one that carries it.
        guard let status = StatusTable.status(ofWin32: code), let row = StatusTable.row(of: status) else {
            return String(code)
        }
        return row.win32Name
    }

    /// All of it, for logs: `STATUS_CANCELLED (0xC0000120, ERROR_OPERATION_ABORTED 995)`.
    public var description: String {
        let code = win32Code
        let codeName = win32Name
        let win32 = codeName == String(code) ? "Win32 \(code)" : "\(codeName) \(code)"
        if let row = StatusTable.row(of: canonical) { return "\(row.name) (\(hexadecimal), \(win32))" }
        return "NTSTATUS \(hexadecimal) (\(win32))"
    }

    private var hexadecimal: String {
        let digits = String(rawValue, radix: 16, uppercase: true)
        return "0x" + String(repeating: "0", count: 8 - digits.utf8.count) + digits
    }
}
