import IOCP
import IOCPHosting
import Testing

@Suite("HResult")
struct HResultTests {
    static let table: [(HResult, UInt32, String)] = [
        (.ok, 0x0000_0000, "S_OK"), (.deadlock, 0x8013_1020, "HOST_E_DEADLOCK"),
        (.interrupted, 0x8013_1021, "HOST_E_INTERRUPTED"),
        (.invalidOperation, 0x8013_1022, "HOST_E_INVALIDOPERATION"),
        (.clrNotAvailable, 0x8013_1023, "HOST_E_CLRNOTAVAILABLE"), (.timeout, 0x8013_1024, "HOST_E_TIMEOUT"),
        (.notOwner, 0x8013_1025, "HOST_E_NOT_OWNER"), (.abandoned, 0x8013_1026, "HOST_E_ABANDONED"),
        (.fail, 0x8000_4005, "E_FAIL"), (.notImplemented, 0x8000_4001, "E_NOTIMPL"),
        (.noInterface, 0x8000_4002, "E_NOINTERFACE"), (.unexpected, 0x8000_FFFF, "E_UNEXPECTED"),
        (.accessDenied, 0x8007_0005, "E_ACCESSDENIED"), (.outOfMemory, 0x8007_000E, "E_OUTOFMEMORY"),
        (.invalidArgument, 0x8007_0057, "E_INVALIDARG"), (.pointer, 0x8000_4003, "E_POINTER"),
        (.handle, 0x8007_0006, "E_HANDLE"),
    ]

    @Test("the table of section i: values and names", arguments: table)
    func values(_ result: HResult, _ value: UInt32, _ name: String) {
        #expect(result.rawValue == value)
        #expect(result.name == name)
        #expect("\(result)".hasPrefix(name + " (0x"))
        #expect(result.isFailure == (result != .ok))
        #expect(HResult(result.signed) == result)
    }

    @Test("every named status leads to a result, and results with a status lead back to themselves")
    func bothWays() {
        for row in 0..<0x1000 as Range<UInt32> {
            let result = HResult(win32Code: row)
            #expect(result.win32Code == row)
            if let status = result.status {
                #expect(HResult(status) == result)
                #expect(status.win32Code == row || result == .outOfMemory)
            }
        }
        let statuses: [CompletionStatus] = [
            .cancelled, .endOfFile, .pipeBroken, .connectionReset, .invalidParameter, .invalidHandle, .accessDenied,
            .bufferOverflow, .timeout, .abandoned, .noMemory, .notImplemented, .unsuccessful, .userCall, .success,
        ]
        for status in statuses {
            let result = HResult(status)
            #expect(result.status == status, "\(status) gives \(result)")
        }
        #expect(HResult(.invalidParameter) == .invalidArgument)
        #expect(HResult(.accessDenied) == .accessDenied)
        #expect(HResult(.timeout) == .timeout)
        #expect(HResult(.abandoned) == .abandoned)
        #expect(HResult(.unsuccessful) == .fail)
        #expect(HResult(.cancelled) == HResult(rawValue: 0x8007_03E3))
        for result in [HResult.clrNotAvailable, .notOwner, .noInterface, .unexpected, .invalidOperation] {
            #expect(result.status == nil)
        }
    }

    @Test("other results print their Win32 name, or their number")
    func others() {
        #expect(HResult(.cancelled).name == "HRESULT_FROM_WIN32(ERROR_OPERATION_ABORTED)")
        #expect("\(HResult(rawValue: 0x8034_5678))" == "HRESULT 0x80345678")
        #expect("\(InterfaceID.hostIOCompletionManager)" == "{8BDE9D80-EC06-41D6-83E6-22580EFFCC20}")
        #expect("\(InterfaceID.clrIOCompletionManager)" == "{2D74CE86-B8D6-4C84-B3A7-9768933B3C12}")
        #expect("\(InterfaceID.unknown)" == "{00000000-0000-0000-C000-000000000046}")
    }
}
