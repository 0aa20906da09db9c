import SystemPackage
import Testing

@testable import IOCP

/// A row of the map as Windows shows it, written down again so that a slip in the library's table is seen.
private struct Expected: Sendable, CustomTestStringConvertible {
    let status: CompletionStatus
    let ntStatus: UInt32
    let win32: UInt32
    let name: String
    let win32Name: String

    init(_ status: CompletionStatus, _ ntStatus: UInt32, _ win32: UInt32, _ name: String, _ win32Name: String) {
        self.status = status
        self.ntStatus = ntStatus
        self.win32 = win32
        self.name = name
        self.win32Name = win32Name
    }

    var testDescription: String { name }
}

private let documented: [Expected] = [
    Expected(.success, 0, 0, "STATUS_SUCCESS", "ERROR_SUCCESS"),
    Expected(.abandoned, 0x80, 735, "STATUS_ABANDONED_WAIT_0", "ERROR_ABANDONED_WAIT_0"),
    Expected(.userCall, 0xC0, 192, "STATUS_USER_APC", "WAIT_IO_COMPLETION"),
    Expected(.timeout, 0x102, 258, "STATUS_TIMEOUT", "WAIT_TIMEOUT"),
    Expected(.pending, 0x103, 997, "STATUS_PENDING", "ERROR_IO_PENDING"),
    Expected(.notifyEnumDir, 0x10C, 1022, "STATUS_NOTIFY_ENUM_DIR", "ERROR_NOTIFY_ENUM_DIR"),
    Expected(.bufferOverflow, 0x8000_0005, 234, "STATUS_BUFFER_OVERFLOW", "ERROR_MORE_DATA"),
    Expected(.infoLengthMismatch, 0xC000_0004, 24, "STATUS_INFO_LENGTH_MISMATCH", "ERROR_BAD_LENGTH"),
    Expected(.accessViolation, 0xC000_0005, 998, "STATUS_ACCESS_VIOLATION", "ERROR_NOACCESS"),
    Expected(.invalidHandle, 0xC000_0008, 6, "STATUS_INVALID_HANDLE", "ERROR_INVALID_HANDLE"),
    Expected(.invalidParameter, 0xC000_000D, 87, "STATUS_INVALID_PARAMETER", "ERROR_INVALID_PARAMETER"),
    Expected(.invalidParameter1, 0xC000_00EF, 87, "STATUS_INVALID_PARAMETER_1", "ERROR_INVALID_PARAMETER"),
    Expected(.invalidParameter3, 0xC000_00F1, 87, "STATUS_INVALID_PARAMETER_3", "ERROR_INVALID_PARAMETER"),
    Expected(.invalidDeviceRequest, 0xC000_0010, 1, "STATUS_INVALID_DEVICE_REQUEST", "ERROR_INVALID_FUNCTION"),
    Expected(.endOfFile, 0xC000_0011, 38, "STATUS_END_OF_FILE", "ERROR_HANDLE_EOF"),
    Expected(.noMemory, 0xC000_0017, 8, "STATUS_NO_MEMORY", "ERROR_NOT_ENOUGH_MEMORY"),
    Expected(.accessDenied, 0xC000_0022, 5, "STATUS_ACCESS_DENIED", "ERROR_ACCESS_DENIED"),
    Expected(.objectTypeMismatch, 0xC000_0024, 6, "STATUS_OBJECT_TYPE_MISMATCH", "ERROR_INVALID_HANDLE"),
    Expected(.portAlreadySet, 0xC000_0048, 87, "STATUS_PORT_ALREADY_SET", "ERROR_INVALID_PARAMETER"),
    Expected(.fileLockConflict, 0xC000_0054, 33, "STATUS_FILE_LOCK_CONFLICT", "ERROR_LOCK_VIOLATION"),
    Expected(.lockNotGranted, 0xC000_0055, 33, "STATUS_LOCK_NOT_GRANTED", "ERROR_LOCK_VIOLATION"),
    Expected(.insufficientResources, 0xC000_009A, 1450, "STATUS_INSUFFICIENT_RESOURCES", "ERROR_NO_SYSTEM_RESOURCES"),
    Expected(.pipeDisconnected, 0xC000_00B0, 233, "STATUS_PIPE_DISCONNECTED", "ERROR_PIPE_NOT_CONNECTED"),
    Expected(.pipeClosing, 0xC000_00B1, 232, "STATUS_PIPE_CLOSING", "ERROR_NO_DATA"),
    Expected(.pipeConnected, 0xC000_00B2, 535, "STATUS_PIPE_CONNECTED", "ERROR_PIPE_CONNECTED"),
    Expected(.pipeListening, 0xC000_00B3, 536, "STATUS_PIPE_LISTENING", "ERROR_PIPE_LISTENING"),
    Expected(.ioTimeout, 0xC000_00B5, 121, "STATUS_IO_TIMEOUT", "ERROR_SEM_TIMEOUT"),
    Expected(.pipeEmpty, 0xC000_00D9, 232, "STATUS_PIPE_EMPTY", "ERROR_NO_DATA"),
    Expected(.cancelled, 0xC000_0120, 995, "STATUS_CANCELLED", "ERROR_OPERATION_ABORTED"),
    Expected(.localDisconnect, 0xC000_013B, 64, "STATUS_LOCAL_DISCONNECT", "ERROR_NETNAME_DELETED"),
    Expected(.remoteDisconnect, 0xC000_013C, 64, "STATUS_REMOTE_DISCONNECT", "ERROR_NETNAME_DELETED"),
    Expected(.pipeBroken, 0xC000_014B, 109, "STATUS_PIPE_BROKEN", "ERROR_BROKEN_PIPE"),
    Expected(.connectionDisconnected, 0xC000_020C, 64, "STATUS_CONNECTION_DISCONNECTED", "ERROR_NETNAME_DELETED"),
    Expected(.connectionReset, 0xC000_020D, 64, "STATUS_CONNECTION_RESET", "ERROR_NETNAME_DELETED"),
    Expected(.notFound, 0xC000_0225, 1168, "STATUS_NOT_FOUND", "ERROR_NOT_FOUND"),
    Expected(.connectionRefused, 0xC000_0236, 1225, "STATUS_CONNECTION_REFUSED", "ERROR_CONNECTION_REFUSED"),
    Expected(.gracefulDisconnect, 0xC000_0237, 1226, "STATUS_GRACEFUL_DISCONNECT", "ERROR_GRACEFUL_DISCONNECT"),
    Expected(.networkUnreachable, 0xC000_023C, 1231, "STATUS_NETWORK_UNREACHABLE", "ERROR_NETWORK_UNREACHABLE"),
    Expected(.hostUnreachable, 0xC000_023D, 1232, "STATUS_HOST_UNREACHABLE", "ERROR_HOST_UNREACHABLE"),
    Expected(.protocolUnreachable, 0xC000_023E, 1233, "STATUS_PROTOCOL_UNREACHABLE", "ERROR_PROTOCOL_UNREACHABLE"),
    Expected(.portUnreachable, 0xC000_023F, 1234, "STATUS_PORT_UNREACHABLE", "ERROR_PORT_UNREACHABLE"),
    Expected(.requestAborted, 0xC000_0240, 1235, "STATUS_REQUEST_ABORTED", "ERROR_REQUEST_ABORTED"),
    Expected(.connectionAborted, 0xC000_0241, 1236, "STATUS_CONNECTION_ABORTED", "ERROR_CONNECTION_ABORTED"),
]

/// The statuses beyond that map which have a constant.
private let others: [Expected] = [
    Expected(.objectNameExists, 0x4000_0000, 698, "STATUS_OBJECT_NAME_EXISTS", "ERROR_OBJECT_NAME_EXISTS"),
    Expected(.invalidParameter2, 0xC000_00F0, 87, "STATUS_INVALID_PARAMETER_2", "ERROR_INVALID_PARAMETER"),
    Expected(.unsuccessful, 0xC000_0001, 31, "STATUS_UNSUCCESSFUL", "ERROR_GEN_FAILURE"),
    Expected(.notImplemented, 0xC000_0002, 1, "STATUS_NOT_IMPLEMENTED", "ERROR_INVALID_FUNCTION"),
    Expected(.noSuchDevice, 0xC000_000E, 2, "STATUS_NO_SUCH_DEVICE", "ERROR_FILE_NOT_FOUND"),
    Expected(.bufferTooSmall, 0xC000_0023, 122, "STATUS_BUFFER_TOO_SMALL", "ERROR_INSUFFICIENT_BUFFER"),
    Expected(.objectNameNotFound, 0xC000_0034, 2, "STATUS_OBJECT_NAME_NOT_FOUND", "ERROR_FILE_NOT_FOUND"),
    Expected(.objectNameCollision, 0xC000_0035, 183, "STATUS_OBJECT_NAME_COLLISION", "ERROR_ALREADY_EXISTS"),
    Expected(.sharingViolation, 0xC000_0043, 32, "STATUS_SHARING_VIOLATION", "ERROR_SHARING_VIOLATION"),
    Expected(.quotaExceeded, 0xC000_0044, 1816, "STATUS_QUOTA_EXCEEDED", "ERROR_NOT_ENOUGH_QUOTA"),
    Expected(.diskFull, 0xC000_007F, 112, "STATUS_DISK_FULL", "ERROR_DISK_FULL"),
    Expected(.mediaWriteProtected, 0xC000_00A2, 19, "STATUS_MEDIA_WRITE_PROTECTED", "ERROR_WRITE_PROTECT"),
    Expected(.deviceNotReady, 0xC000_00A3, 21, "STATUS_DEVICE_NOT_READY", "ERROR_NOT_READY"),
    Expected(.fileIsADirectory, 0xC000_00BA, 5, "STATUS_FILE_IS_A_DIRECTORY", "ERROR_ACCESS_DENIED"),
    Expected(.notSupported, 0xC000_00BB, 50, "STATUS_NOT_SUPPORTED", "ERROR_NOT_SUPPORTED"),
    Expected(.unexpectedNetworkError, 0xC000_00C4, 59, "STATUS_UNEXPECTED_NETWORK_ERROR", "ERROR_UNEXP_NET_ERR"),
    Expected(.notSameDevice, 0xC000_00D4, 17, "STATUS_NOT_SAME_DEVICE", "ERROR_NOT_SAME_DEVICE"),
    Expected(.directoryNotEmpty, 0xC000_0101, 145, "STATUS_DIRECTORY_NOT_EMPTY", "ERROR_DIR_NOT_EMPTY"),
    Expected(.notADirectory, 0xC000_0103, 267, "STATUS_NOT_A_DIRECTORY", "ERROR_DIRECTORY"),
    Expected(.nameTooLong, 0xC000_0106, 206, "STATUS_NAME_TOO_LONG", "ERROR_FILENAME_EXCED_RANGE"),
    Expected(.tooManyOpenedFiles, 0xC000_011F, 4, "STATUS_TOO_MANY_OPENED_FILES", "ERROR_TOO_MANY_OPEN_FILES"),
    Expected(.invalidConnection, 0xC000_0140, 59, "STATUS_INVALID_CONNECTION", "ERROR_UNEXP_NET_ERR"),
    Expected(.ioDeviceError, 0xC000_0185, 1117, "STATUS_IO_DEVICE_ERROR", "ERROR_IO_DEVICE"),
    Expected(.possibleDeadlock, 0xC000_0194, 1131, "STATUS_POSSIBLE_DEADLOCK", "ERROR_POSSIBLE_DEADLOCK"),
    Expected(.invalidBufferSize, 0xC000_0206, 1784, "STATUS_INVALID_BUFFER_SIZE", "ERROR_INVALID_USER_BUFFER"),
    Expected(.invalidAddressComponent, 0xC000_0207, 1214, "STATUS_INVALID_ADDRESS_COMPONENT", "ERROR_INVALID_NETNAME"),
    Expected(.addressAlreadyExists, 0xC000_020A, 52, "STATUS_ADDRESS_ALREADY_EXISTS", "ERROR_DUP_NAME"),
    Expected(.connectionActive, 0xC000_023B, 1230, "STATUS_CONNECTION_ACTIVE", "ERROR_CONNECTION_ACTIVE"),
    Expected(
        .reparsePointNotResolved, 0xC000_0280, 1921, "STATUS_REPARSE_POINT_NOT_RESOLVED", "ERROR_CANT_RESOLVE_FILENAME"),
    Expected(.fileTooLarge, 0xC000_0904, 223, "STATUS_FILE_TOO_LARGE", "ERROR_FILE_TOO_LARGE"),
    Expected(
        .ioIncomplete, 0xC007_03E4, 996, "NTSTATUS_FROM_WIN32(ERROR_IO_INCOMPLETE)", "ERROR_IO_INCOMPLETE"),
]

@Suite("CompletionStatus")
struct StatusTests {
    @Test("a status has the number, the Win32 code and the names that Windows gives it", arguments: documented + others)
    private func map(_ row: Expected) {
        #expect(row.status.rawValue == row.ntStatus)
        #expect(row.status.ntStatus == row.ntStatus)
        #expect(CompletionStatus(ntStatus: row.ntStatus) == row.status)
        #expect(row.status.win32Code == row.win32)
        #expect(row.status.name == row.name)
        #expect(row.status.win32Name == row.win32Name)
    }

    @Test(
        "a Win32 code leads to a status that has this code, and to the only one if there is one",
        arguments: documented + others)
    private func reverse(_ row: Expected) {
        let back = CompletionStatus(win32Code: row.win32)
        #expect(back.win32Code == row.win32)
        if (documented + others).filter({ $0.win32 == row.win32 }).count == 1 {
            #expect(back == row.status)
        }
    }

    @Test("of several statuses with one Win32 code, the usual one is chosen")
    func usual() {
        let expected: [(UInt32, CompletionStatus)] = [
            (64, .connectionReset), (87, .invalidParameter), (6, .invalidHandle), (232, .pipeClosing),
            (33, .fileLockConflict), (1, .invalidDeviceRequest), (2, .objectNameNotFound), (5, .accessDenied),
            (59, .unexpectedNetworkError),
        ]
        for (code, status) in expected {
            #expect(CompletionStatus(win32Code: code) == status)
        }
    }

    @Test("every row of the table has a constant here, or is a Winsock code without an NTSTATUS")
    func complete() {
        let named = Set((documented + others).map(\.ntStatus))
        for row in StatusTable.rows where !named.contains(row.status) {
            #expect(row.status == 0xC007_0000 | row.win32, "\(row.name)")
            #expect(row.win32Name.hasPrefix("WSAE"), "\(row.name)")
        }
        #expect(Set(StatusTable.rows.map(\.status)).count == StatusTable.rows.count)
        #expect(Set(StatusTable.rows.map(\.name)).count == StatusTable.rows.count)
    }

    @Test("the top two bits are the class")
    func severity() {
        let classes: [(UInt32, CompletionStatus.Severity)] = [
            (0, .success), (0x3FFF_FFFF, .success), (0x4000_0000, .informational), (0x7FFF_FFFF, .informational),
            (0x8000_0005, .warning), (0xBFFF_FFFF, .warning), (0xC000_0000, .error), (0xFFFF_FFFF, .error),
        ]
        for (raw, severity) in classes {
            let status = CompletionStatus(rawValue: raw)
            #expect(status.severity == severity)
            #expect(status.isSuccess == (severity == .success || severity == .informational))
            #expect(status.isInformational == (severity == .informational))
            #expect(status.isWarning == (severity == .warning))
            #expect(status.isError == (severity == .error))
        }
    }

    @Test("pending and notify-enum-dir count as success, more-data as a warning")
    func classesOfNamed() {
        #expect(CompletionStatus.success.isSuccess)
        #expect(CompletionStatus.pending.isSuccess)
        #expect(CompletionStatus.notifyEnumDir.isSuccess)
        #expect(CompletionStatus.bufferOverflow.isWarning)
        #expect(!CompletionStatus.bufferOverflow.isSuccess)
        #expect(CompletionStatus.cancelled.isError)
    }

    @Test("a status without a name keeps its number and shows 317")
    func unknown() {
        let status = CompletionStatus(rawValue: 0xC0DE_0001)
        #expect(status.rawValue == 0xC0DE_0001)
        #expect(status.win32Code == 317)
        #expect(status.win32Name == "ERROR_MR_MID_NOT_FOUND")
        #expect(status.name == "0xC0DE0001")
        #expect(status.winsockCode == nil)
        #expect(status.errno == .ioError)
        #expect(status.description == "NTSTATUS 0xC0DE0001 (ERROR_MR_MID_NOT_FOUND 317)")
        #expect(CompletionStatus(rawValue: 0x4123_4567).errno == Errno(rawValue: 0))
    }

    @Test("a Win32 code that no status has travels in the low half of one", arguments: [14, 317, 1460, 10_004, 0xFFFF])
    func carried(code: UInt32) {
        let status = CompletionStatus(win32Code: code)
        #expect(code == 10_004 || code == 317 || status.rawValue == 0xC007_0000 | code)
        #expect(CompletionStatus(rawValue: 0xC007_0000 | code).win32Code == code)
        #expect(CompletionStatus(rawValue: 0x8007_0000 | code).win32Code == code)
        #expect(CompletionStatus(rawValue: 0xC001_0000 | code).win32Code == code)
        #expect(CompletionStatus(rawValue: 0xD007_0000 | code).win32Code == code)
    }

    @Test("a carried code is named if the table has it")
    func carriedName() {
        let status = CompletionStatus(rawValue: 0x8007_03E3)
        #expect(status.win32Code == 995)
        #expect(status.win32Name == "ERROR_OPERATION_ABORTED")
        #expect(status.description == "NTSTATUS 0x800703E3 (ERROR_OPERATION_ABORTED 995)")
        #expect(CompletionStatus(win32Code: 14).description == "NTSTATUS 0xC007000E (Win32 14)")
    }

    @Test("a status with the customer bit is its own Win32 code")
    func customer() {
        #expect(CompletionStatus(rawValue: 0xE000_0001).win32Code == 0xE000_0001)
        #expect(CompletionStatus(rawValue: 0x2000_0123).win32Code == 0x2000_0123)
        #expect(CompletionStatus(win32Code: 0xE000_0001).rawValue == 0xE000_0001)
    }

    @Test("0xD… means 0xC…, and keeps its number")
    func facilityBit() {
        let status = CompletionStatus(rawValue: 0xD000_0120)
        #expect(status.rawValue == 0xD000_0120)
        #expect(status != .cancelled)
        #expect(status.win32Code == 995)
        #expect(status.name == "STATUS_CANCELLED")
        #expect(status.errno == .canceled)
    }

    @Test("a socket shows another code through Winsock than on the port")
    func winsock() {
        let expected: [(CompletionStatus, UInt32, Int32)] = [
            (.connectionReset, 64, 10_054), (.connectionRefused, 1225, 10_061), (.portUnreachable, 1234, 10_054),
            (.connectionAborted, 1236, 10_053), (.bufferOverflow, 234, 10_040), (.ioTimeout, 121, 10_060),
            (.invalidConnection, 59, 10_057), (.sendAfterShutdown, 233, 10_058), (.connectionActive, 1230, 10_056),
            (.networkUnreachable, 1231, 10_051), (.hostUnreachable, 1232, 10_065), (.invalidParameter, 87, 10_022),
            (.objectTypeMismatch, 6, 10_038), (.invalidHandle, 6, 10_038), (.addressAlreadyExists, 52, 10_048),
            (.invalidAddressComponent, 1214, 10_049), (.accessViolation, 998, 10_014), (.cancelled, 995, 995),
            (.pending, 997, 997), (.success, 0, 0), (.deviceNotReady, 21, 10_035), (.invalidBufferSize, 1784, 10_040),
        ]
        for (status, win32, winsock) in expected {
            #expect(status.win32Code == win32, "\(status)")
            #expect(status.winsockCode == winsock, "\(status)")
        }
        #expect(CompletionStatus.endOfFile.winsockCode == nil)
        #expect(CompletionStatus(win32Code: 10_035).winsockCode == 10_035)
        #expect(CompletionStatus(win32Code: 14).winsockCode == nil)
    }

    @Test("the description has the number and both names")
    func description() {
        #expect(
            CompletionStatus.cancelled.description == "STATUS_CANCELLED (0xC0000120, ERROR_OPERATION_ABORTED 995)")
        #expect(CompletionStatus.success.description == "STATUS_SUCCESS (0x00000000, ERROR_SUCCESS 0)")
        #expect("\(CompletionStatus.timeout)" == "STATUS_TIMEOUT (0x00000102, WAIT_TIMEOUT 258)")
    }

    @Test("a status can be thrown, caught by value and compared")
    func thrown() {
        func fail() throws(CompletionStatus) { throw .notFound }
        #expect(throws: CompletionStatus.notFound) { try fail() }
        #expect(Set([CompletionStatus.cancelled, .cancelled, .success]).count == 2)
    }
}

@Suite("CompletionStatus from errno")
struct ErrnoStatusTests {
    @Test("0 is success in every context")
    func zero() {
        #expect(CompletionStatus(errnoCode: 0) == .success)
        #expect(CompletionStatus(errno: Errno(rawValue: 0)) == .success)
        #expect(CompletionStatus(errnoCode: 0, context: .pipe) == .success)
    }

    @Test("an errno gives the status that Windows gives in the same plight")
    func table() {
        let expected: [(Errno, CompletionStatus)] = [
            (.connectionReset, .connectionReset), (.canceled, .cancelled), (.interrupted, .cancelled),
            (.connectionRefused, .connectionRefused), (.timedOut, .ioTimeout), (.brokenPipe, .pipeClosing),
            (.socketNotConnected, .invalidConnection), (.badFileDescriptor, .invalidHandle),
            (.invalidArgument, .invalidParameter), (.badAddress, .accessViolation), (.noMemory, .noMemory),
            (.permissionDenied, .accessDenied), (.notPermitted, .accessDenied), (.noSpace, .diskFull),
            (.tooManyOpenFiles, .tooManyOpenedFiles), (.tooManyOpenFilesInSystem, .tooManyOpenedFiles),
            (.noBufferSpace, .insufficientResources), (.socketIsConnected, .connectionActive),
            (.addressInUse, .addressAlreadyExists), (.addressNotAvailable, .invalidAddressComponent),
            (.networkUnreachable, .networkUnreachable), (.noRouteToHost, .hostUnreachable),
            (.connectionAbort, .connectionAborted), (.messageTooLong, .invalidBufferSize),
            (.fileTooLarge, .fileTooLarge),
            (.readOnlyFileSystem, .mediaWriteProtected), (.notSupported, .notSupported),
            (.noSuchFileOrDirectory, .objectNameNotFound), (.fileExists, .objectNameCollision),
            (.resourceTemporarilyUnavailable, .deviceNotReady), (.notSocket, .objectTypeMismatch),
            (.socketShutdown, .sendAfterShutdown), (.networkDown, .unexpectedNetworkError), (.ioError, .ioDeviceError),
            (.nowInProgress, .pending), (.fileNameTooLong, .nameTooLong), (.isDirectory, .fileIsADirectory),
        ]
        for (errno, status) in expected {
            #expect(CompletionStatus(errno: errno) == status, "\(errno)")
            #expect(CompletionStatus(errnoCode: errno.rawValue) == status, "\(errno)")
        }
    }

    @Test("protocol codes that no NTSTATUS stands for keep their Winsock code")
    func protocols() {
        let expected: [(Errno, Int32)] = [
            (.protocolNotSupported, 10_043), (.protocolNotAvailable, 10_042), (.addressFamilyNotSupported, 10_047),
            (.socketTypeNotSupported, 10_044), (.alreadyInProcess, 10_037), (.addressRequired, 10_039),
        ]
        for (errno, winsock) in expected {
            let status = CompletionStatus(errno: errno)
            #expect(status.winsockCode == winsock)
            #expect(status.win32Code == UInt32(winsock))
            #expect(status.errno == errno)
            #expect(status.isError)
        }
    }

    @Test("what Linux does not tell apart, the context does")
    func context() {
        let refused = Errno.connectionRefused.rawValue
        let pipe = Errno.brokenPipe.rawValue
        let reset = Errno.connectionReset.rawValue
        let unconnected = Errno.socketNotConnected.rawValue
        #expect(CompletionStatus(errnoCode: refused, context: .connect) == .connectionRefused)
        #expect(CompletionStatus(errnoCode: refused, context: .datagram) == .portUnreachable)
        #expect(CompletionStatus(errnoCode: pipe, context: .pipe) == .pipeClosing)
        #expect(CompletionStatus(errnoCode: pipe, context: .stream) == .sendAfterShutdown)
        #expect(CompletionStatus(errnoCode: reset, context: .stream) == .connectionReset)
        #expect(CompletionStatus(errnoCode: reset, context: .pipe) == .pipeBroken)
        #expect(CompletionStatus(errnoCode: unconnected, context: .stream) == .invalidConnection)
        #expect(CompletionStatus(errnoCode: unconnected, context: .pipe) == .pipeDisconnected)
    }

    @Test("an errno without a row is unsuccessful", arguments: [-1, 41, 58, 133, 134, 4095, Int32.max, Int32.min])
    func unknown(code: Int32) {
        #expect(CompletionStatus(errnoCode: code) == .unsuccessful)
    }

    @Test("no errno becomes a success, and none but in-progress anything other than an error")
    func never() {
        for code in Int32(1)...200 {
            let status = CompletionStatus(errnoCode: code)
            #expect(status.isError || Errno(rawValue: code) == .nowInProgress)
            #expect(status != .success)
        }
    }

    @Test("an errno that has a row of its own comes back from it")
    func roundTrip() {
        // Codes that share the row of another one do not come back as themselves.
        let shared = Set(StatusTable.rows.flatMap(\.otherErrnos))
        for row in StatusTable.rows where row.errno != 0 && !shared.contains(row.errno) {
            let status = CompletionStatus(errnoCode: row.errno)
            #expect(status.errno.rawValue == row.errno, "\(row.name)")
        }
    }

    @Test("a kernel result is a count or a negated errno")
    func kernelResult() {
        #expect(CompletionStatus(kernelResult: 0, context: .file) == .success)
        #expect(CompletionStatus(kernelResult: 4096, context: .file) == .success)
        #expect(CompletionStatus(kernelResult: -Errno.canceled.rawValue, context: .stream) == .cancelled)
        #expect(CompletionStatus(kernelResult: .min, context: .stream) == .unsuccessful)
    }
}
