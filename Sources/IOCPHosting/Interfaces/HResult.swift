public import IOCP

/// The result of a call across the hosting interfaces: an HRESULT.
///
/// Methods that return an HRESULT in C throw one here if it is a failure, and return nothing for `S_OK`. The raw value is
/// the number exactly as Windows has it.
///
/// The corresponding Windows type is `HRESULT`.
@frozen
public struct HResult: RawRepresentable, Error, Hashable, Sendable {
    public let rawValue: UInt32

    @inlinable
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// The number as C has it: negative for failures.
    @inlinable
    public init(_ signed: Int32) { rawValue = UInt32(bitPattern: signed) }

    /// The number as C has it: negative for failures.
    @inlinable
    public var signed: Int32 { Int32(bitPattern: rawValue) }

    /// The Windows macro is `SUCCEEDED`.
    @inlinable
    public var isSuccess: Bool { signed >= 0 }

    /// The Windows macro is `FAILED`.
    @inlinable
    public var isFailure: Bool { signed < 0 }
}

extension HResult {
    /// `S_OK`.
    public static let ok = HResult(rawValue: 0x0000_0000)

    /// `HOST_E_DEADLOCK`: waiting would never end.
    public static let deadlock = HResult(rawValue: 0x8013_1020)
    /// `HOST_E_INTERRUPTED`: a wait was ended from outside.
    public static let interrupted = HResult(rawValue: 0x8013_1021)
    /// `HOST_E_INVALIDOPERATION`: not at this point of the order of calls.
    public static let invalidOperation = HResult(rawValue: 0x8013_1022)
    /// `HOST_E_CLRNOTAVAILABLE`: the runtime is not there yet, or has failed.
    public static let clrNotAvailable = HResult(rawValue: 0x8013_1023)
    /// `HOST_E_TIMEOUT`: the call gave up waiting.
    public static let timeout = HResult(rawValue: 0x8013_1024)
    /// `HOST_E_NOT_OWNER`: what the call names is somebody else's.
    public static let notOwner = HResult(rawValue: 0x8013_1025)
    /// `HOST_E_ABANDONED`: what the caller waited for went away.
    public static let abandoned = HResult(rawValue: 0x8013_1026)

    /// `E_FAIL`: something that nobody expected. After it the runtime is unusable in this process.
    public static let fail = HResult(rawValue: 0x8000_4005)
    /// `E_NOTIMPL`: the host does not do that.
    public static let notImplemented = HResult(rawValue: 0x8000_4001)
    /// `E_NOINTERFACE`: the object has no such interface.
    public static let noInterface = HResult(rawValue: 0x8000_4002)
    /// `E_POINTER`: a result was to be written to a null pointer.
    public static let pointer = HResult(rawValue: 0x8000_4003)
    /// `E_UNEXPECTED`: the other side does not keep to the contract.
    public static let unexpected = HResult(rawValue: 0x8000_FFFF)
    /// `E_ACCESSDENIED`, which is `HRESULT_FROM_WIN32(ERROR_ACCESS_DENIED)`.
    public static let accessDenied = HResult(rawValue: 0x8007_0005)
    /// `E_HANDLE`, which is `HRESULT_FROM_WIN32(ERROR_INVALID_HANDLE)`.
    public static let handle = HResult(rawValue: 0x8007_0006)
    /// `E_OUTOFMEMORY`.
    public static let outOfMemory = HResult(rawValue: 0x8007_000E)
    /// `E_INVALIDARG`, which is `HRESULT_FROM_WIN32(ERROR_INVALID_PARAMETER)`.
    public static let invalidArgument = HResult(rawValue: 0x8007_0057)
}

// MARK: Statuses of the port

extension HResult {
    /// Results that have a status of the port as their namesake. `HRESULT_FROM_WIN32` is the rule for all others.
    private static let namesakes: [(result: HResult, status: CompletionStatus)] = [
        (.ok, .success), (.deadlock, .possibleDeadlock), (.interrupted, .userCall), (.timeout, .timeout),
        (.abandoned, .abandoned), (.fail, .unsuccessful), (.notImplemented, .notImplemented),
        (.outOfMemory, .noMemory),
    ]

    /// The result that says the same as a status: its namesake if it has one, else `HRESULT_FROM_WIN32` of its code.
    /// A status of the classes success and informational, the results of a wait apart, is ``ok``.
    public init(_ status: CompletionStatus) {
        if let row = Self.namesakes.first(where: { $0.status == status }) {
            self = row.result
        } else if status.isSuccess {
            self = .ok
        } else {
            self.init(win32Code: status.win32Code)
        }
    }

    /// The status that says the same; nil if there is none. It leads back to this result.
    public var status: CompletionStatus? {
        if let row = Self.namesakes.first(where: { $0.result == self }) { return row.status }
        guard let code = win32Code else { return nil }
        let status = CompletionStatus(win32Code: code)
        return HResult(status) == self ? status : nil
    }

    /// The result of a Win32 code. The Windows macro is `HRESULT_FROM_WIN32`.
    public init(win32Code: UInt32) {
        self.init(rawValue: win32Code == 0 ? 0 : win32Code & 0xFFFF | 0x8007_0000)
    }

    /// The Win32 code that the result carries; nil if it carries none.
    public var win32Code: UInt32? {
        if rawValue == 0 { return 0 }
        return rawValue >> 16 == 0x8007 ? rawValue & 0xFFFF : nil
    }
}

// MARK: Text

extension HResult: CustomStringConvertible {
    private static let names: [(HResult, String)] = [
        (.ok, "S_OK"), (.deadlock, "HOST_E_DEADLOCK"), (.interrupted, "HOST_E_INTERRUPTED"),
        (.invalidOperation, "HOST_E_INVALIDOPERATION"), (.clrNotAvailable, "HOST_E_CLRNOTAVAILABLE"),
        (.timeout, "HOST_E_TIMEOUT"), (.notOwner, "HOST_E_NOT_OWNER"), (.abandoned, "HOST_E_ABANDONED"),
        (.fail, "E_FAIL"), (.notImplemented, "E_NOTIMPL"), (.noInterface, "E_NOINTERFACE"), (.pointer, "E_POINTER"),
        (.unexpected, "E_UNEXPECTED"), (.accessDenied, "E_ACCESSDENIED"), (.handle, "E_HANDLE"),
        (.outOfMemory, "E_OUTOFMEMORY"), (.invalidArgument, "E_INVALIDARG"),
    ]

    /// The name that Windows headers have for it; for other results that carry a Win32 code
    /// `HRESULT_FROM_WIN32(…)`, else the number.
    public var name: String {
        if let row = Self.names.first(where: { $0.0 == self }) { return row.1 }
        guard let win32Code else { return hexadecimal }
        return "HRESULT_FROM_WIN32(\(CompletionStatus(win32Code: win32Code).win32Name))"
    }

    /// Name and number, for logs: `HOST_E_TIMEOUT (0x80131024)`.
    public var description: String { name == hexadecimal ? "HRESULT \(hexadecimal)" : "\(name) (\(hexadecimal))" }

    private var hexadecimal: String {
        let digits = String(rawValue, radix: 16, uppercase: true)
        return "0x" + String(repeating: "0", count: 8 - digits.utf8.count) + digits
    }
}
