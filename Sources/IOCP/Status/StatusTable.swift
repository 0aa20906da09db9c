#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// One status in all its numberings.
struct StatusRow: Sendable {
    let name: String
    let status: UInt32
    let win32Name: String
    let win32: UInt32
    let errno: Int32
    /// Nil where a socket cannot give the status.
    let winsock: Int32?
    /// Other codes that lead to this status. It does not lead back to them.
    let otherErrnos: [Int32]

    init(
        _ name: String, _ status: UInt32, _ win32Name: String, _ win32: UInt32, _ errno: Int32, _ winsock: Int32?,
        also otherErrnos: Int32...
    ) {
        self.name = name
        self.status = status
        self.win32Name = win32Name
        self.win32 = win32
        self.errno = errno
        self.winsock = winsock
        self.otherErrnos = otherErrnos
    }
}

/// The table of all statuses that have a name, and its three indexes.
///
/// The NTSTATUS and Win32 columns are the map that Windows shows through `RtlNtStatusToDosError`, except for the
/// group "results of a wait", whose Win32 codes are those that the dequeue calls show. The Winsock column is the map
/// of the Windows socket layer, but that a cancelled operation shows 995 as an overlapped result does, and a name that
/// is too long or does not end shows its Winsock namesake. The `errno` column is our choice.
enum StatusTable {
    private typealias Row = StatusRow

    // A table is read by its columns: the formatter leaves it alone.

    /// Every status once.
    ///
    /// **The order matters**: where a Win32 code or an `errno` stands in several rows, the first of them is the one
    /// that the code leads back to.
    // swift-format-ignore
    static let rows: [StatusRow] = [
        // NTSTATUS                             value        Win32                          code  errno          Winsock
        // Done, and under way.
        Row("STATUS_SUCCESS",                   0x0000_0000, "ERROR_SUCCESS",               0,    0,             0),
        Row("STATUS_PENDING",                   0x0000_0103, "ERROR_IO_PENDING",            997,  EINPROGRESS,   997),
        Row("STATUS_NOTIFY_ENUM_DIR",           0x0000_010C, "ERROR_NOTIFY_ENUM_DIR",       1022, 0,             nil),
        Row("STATUS_OBJECT_NAME_EXISTS",        0x4000_0000, "ERROR_OBJECT_NAME_EXISTS",    698,  0,             nil),
        // Parameters and handles.
        Row("STATUS_INVALID_PARAMETER",         0xC000_000D, "ERROR_INVALID_PARAMETER",     87,   EINVAL,        10022,
            also: E2BIG, EOVERFLOW, ERANGE, EDOM),
        Row("STATUS_INVALID_PARAMETER_1",       0xC000_00EF, "ERROR_INVALID_PARAMETER",     87,   EINVAL,        10022),
        Row("STATUS_INVALID_PARAMETER_2",       0xC000_00F0, "ERROR_INVALID_PARAMETER",     87,   EINVAL,        10022),
        Row("STATUS_INVALID_PARAMETER_3",       0xC000_00F1, "ERROR_INVALID_PARAMETER",     87,   EINVAL,        10022),
        Row("STATUS_INVALID_HANDLE",            0xC000_0008, "ERROR_INVALID_HANDLE",        6,    EBADF,         10038),
        Row("STATUS_OBJECT_TYPE_MISMATCH",      0xC000_0024, "ERROR_INVALID_HANDLE",        6,    ENOTSOCK,      10038),
        Row("STATUS_PORT_ALREADY_SET",          0xC000_0048, "ERROR_INVALID_PARAMETER",     87,   EINVAL,        10022),
        Row("STATUS_INFO_LENGTH_MISMATCH",      0xC000_0004, "ERROR_BAD_LENGTH",            24,   EINVAL,        10022),
        Row("STATUS_ACCESS_VIOLATION",          0xC000_0005, "ERROR_NOACCESS",              998,  EFAULT,        10014),
        Row("STATUS_ACCESS_DENIED",             0xC000_0022, "ERROR_ACCESS_DENIED",         5,    EACCES,        10013,
            also: EPERM),
        Row("STATUS_NOT_FOUND",                 0xC000_0225, "ERROR_NOT_FOUND",             1168, ESRCH,         nil),
        Row("STATUS_INVALID_DEVICE_REQUEST",    0xC000_0010, "ERROR_INVALID_FUNCTION",      1,    ENOTTY,        10022,
            also: ESPIPE),
        Row("STATUS_NOT_IMPLEMENTED",           0xC000_0002, "ERROR_INVALID_FUNCTION",      1,    ENOSYS,        10045),
        Row("STATUS_NOT_SUPPORTED",             0xC000_00BB, "ERROR_NOT_SUPPORTED",         50,   EOPNOTSUPP,    10045),
        // Resources.
        Row("STATUS_NO_MEMORY",                 0xC000_0017, "ERROR_NOT_ENOUGH_MEMORY",     8,    ENOMEM,        10055),
        Row("STATUS_INSUFFICIENT_RESOURCES",    0xC000_009A, "ERROR_NO_SYSTEM_RESOURCES",   1450, ENOBUFS,       10055,
            also: ENOLCK),
        Row("STATUS_TOO_MANY_OPENED_FILES",     0xC000_011F, "ERROR_TOO_MANY_OPEN_FILES",   4,    EMFILE,        10024,
            also: ENFILE),
        Row("STATUS_QUOTA_EXCEEDED",            0xC000_0044, "ERROR_NOT_ENOUGH_QUOTA",      1816, EDQUOT,        10055),
        // Buffers.
        Row("STATUS_INVALID_BUFFER_SIZE",       0xC000_0206, "ERROR_INVALID_USER_BUFFER",   1784, EMSGSIZE,      10040),
        Row("STATUS_BUFFER_OVERFLOW",           0x8000_0005, "ERROR_MORE_DATA",             234,  EMSGSIZE,      10040),
        Row("STATUS_BUFFER_TOO_SMALL",          0xC000_0023, "ERROR_INSUFFICIENT_BUFFER",   122,  ENOBUFS,       10014),
        // Cancellation and time.
        Row("STATUS_CANCELLED",                 0xC000_0120, "ERROR_OPERATION_ABORTED",     995,  ECANCELED,     995,
            also: EINTR),
        Row("STATUS_IO_TIMEOUT",                0xC000_00B5, "ERROR_SEM_TIMEOUT",           121,  ETIMEDOUT,     10060),
        Row("STATUS_DEVICE_NOT_READY",          0xC000_00A3, "ERROR_NOT_READY",             21,   EAGAIN,        10035),
        // Files.
        Row("STATUS_IO_DEVICE_ERROR",           0xC000_0185, "ERROR_IO_DEVICE",             1117, EIO,           nil,
            also: ENODATA),
        Row("STATUS_END_OF_FILE",               0xC000_0011, "ERROR_HANDLE_EOF",            38,   ENODATA,       nil),
        Row("STATUS_FILE_LOCK_CONFLICT",        0xC000_0054, "ERROR_LOCK_VIOLATION",        33,   EACCES,        nil),
        Row("STATUS_LOCK_NOT_GRANTED",          0xC000_0055, "ERROR_LOCK_VIOLATION",        33,   EAGAIN,        nil),
        Row("STATUS_OBJECT_NAME_NOT_FOUND",     0xC000_0034, "ERROR_FILE_NOT_FOUND",        2,    ENOENT,        nil),
        Row("STATUS_NO_SUCH_DEVICE",            0xC000_000E, "ERROR_FILE_NOT_FOUND",        2,    ENODEV,        10050,
            also: ENXIO),
        Row("STATUS_OBJECT_NAME_COLLISION",     0xC000_0035, "ERROR_ALREADY_EXISTS",        183,  EEXIST,        nil),
        Row("STATUS_SHARING_VIOLATION",         0xC000_0043, "ERROR_SHARING_VIOLATION",     32,   EBUSY,         10048,
            also: ETXTBSY),
        Row("STATUS_DISK_FULL",                 0xC000_007F, "ERROR_DISK_FULL",             112,  ENOSPC,        nil),
        Row("STATUS_MEDIA_WRITE_PROTECTED",     0xC000_00A2, "ERROR_WRITE_PROTECT",         19,   EROFS,         nil),
        Row("STATUS_FILE_TOO_LARGE",            0xC000_0904, "ERROR_FILE_TOO_LARGE",        223,  EFBIG,         nil),
        Row("STATUS_FILE_IS_A_DIRECTORY",       0xC000_00BA, "ERROR_ACCESS_DENIED",         5,    EISDIR,        nil),
        Row("STATUS_NOT_A_DIRECTORY",           0xC000_0103, "ERROR_DIRECTORY",             267,  ENOTDIR,       nil),
        Row("STATUS_DIRECTORY_NOT_EMPTY",       0xC000_0101, "ERROR_DIR_NOT_EMPTY",         145,  ENOTEMPTY,     nil),
        Row("STATUS_NOT_SAME_DEVICE",           0xC000_00D4, "ERROR_NOT_SAME_DEVICE",       17,   EXDEV,         nil),
        Row("STATUS_NAME_TOO_LONG",             0xC000_0106, "ERROR_FILENAME_EXCED_RANGE",  206,  ENAMETOOLONG,  10063),
        Row("STATUS_REPARSE_POINT_NOT_RESOLVED", 0xC000_0280, "ERROR_CANT_RESOLVE_FILENAME", 1921, ELOOP,        10062),
        Row("STATUS_POSSIBLE_DEADLOCK",         0xC000_0194, "ERROR_POSSIBLE_DEADLOCK",     1131, EDEADLK,       nil),
        // Addresses and networks.
        Row("STATUS_ADDRESS_ALREADY_EXISTS",    0xC000_020A, "ERROR_DUP_NAME",              52,   EADDRINUSE,    10048),
        Row("STATUS_INVALID_ADDRESS_COMPONENT", 0xC000_0207, "ERROR_INVALID_NETNAME",       1214, EADDRNOTAVAIL, 10049),
        Row("STATUS_NETWORK_UNREACHABLE",       0xC000_023C, "ERROR_NETWORK_UNREACHABLE",   1231, ENETUNREACH,   10051),
        Row("STATUS_HOST_UNREACHABLE",          0xC000_023D, "ERROR_HOST_UNREACHABLE",      1232, EHOSTUNREACH,  10065),
        Row("STATUS_PROTOCOL_UNREACHABLE",      0xC000_023E, "ERROR_PROTOCOL_UNREACHABLE",  1233, EPROTO,        10051),
        Row("STATUS_UNEXPECTED_NETWORK_ERROR",  0xC000_00C4, "ERROR_UNEXP_NET_ERR",         59,   ENETDOWN,      10050),
        // Connections.
        Row("STATUS_CONNECTION_RESET",          0xC000_020D, "ERROR_NETNAME_DELETED",       64,   ECONNRESET,    10054),
        Row("STATUS_CONNECTION_DISCONNECTED",   0xC000_020C, "ERROR_NETNAME_DELETED",       64,   ECONNRESET,    10054),
        Row("STATUS_REMOTE_DISCONNECT",         0xC000_013C, "ERROR_NETNAME_DELETED",       64,   ECONNRESET,    10054),
        Row("STATUS_CONNECTION_ABORTED",        0xC000_0241, "ERROR_CONNECTION_ABORTED",    1236, ECONNABORTED,  10053),
        Row("STATUS_LOCAL_DISCONNECT",          0xC000_013B, "ERROR_NETNAME_DELETED",       64,   ECONNABORTED,  10053),
        Row("STATUS_CONNECTION_REFUSED",        0xC000_0236, "ERROR_CONNECTION_REFUSED",    1225, ECONNREFUSED,  10061),
        Row("STATUS_PORT_UNREACHABLE",          0xC000_023F, "ERROR_PORT_UNREACHABLE",      1234, ECONNREFUSED,  10054),
        Row("STATUS_INVALID_CONNECTION",        0xC000_0140, "ERROR_UNEXP_NET_ERR",         59,   ENOTCONN,      10057),
        Row("STATUS_GRACEFUL_DISCONNECT",       0xC000_0237, "ERROR_GRACEFUL_DISCONNECT",   1226, ENOTCONN,      10101),
        Row("STATUS_CONNECTION_ACTIVE",         0xC000_023B, "ERROR_CONNECTION_ACTIVE",     1230, EISCONN,       10056),
        Row("STATUS_REQUEST_ABORTED",           0xC000_0240, "ERROR_REQUEST_ABORTED",       1235, ECONNABORTED,  10004),
        // Pipes.
        Row("STATUS_PIPE_CLOSING",              0xC000_00B1, "ERROR_NO_DATA",               232,  EPIPE,         nil),
        Row("STATUS_PIPE_BROKEN",               0xC000_014B, "ERROR_BROKEN_PIPE",           109,  EPIPE,         nil),
        Row("STATUS_PIPE_EMPTY",                0xC000_00D9, "ERROR_NO_DATA",               232,  EAGAIN,        nil),
        Row("STATUS_PIPE_DISCONNECTED",         0xC000_00B0, "ERROR_PIPE_NOT_CONNECTED",    233,  ESHUTDOWN,     10058),
        Row("STATUS_PIPE_CONNECTED",            0xC000_00B2, "ERROR_PIPE_CONNECTED",        535,  EISCONN,       nil),
        Row("STATUS_PIPE_LISTENING",            0xC000_00B3, "ERROR_PIPE_LISTENING",        536,  ENOTCONN,      nil),
        // Results of a wait.
        Row("STATUS_ABANDONED_WAIT_0",          0x0000_0080, "ERROR_ABANDONED_WAIT_0",      735,  EBADF,         nil),
        Row("STATUS_USER_APC",                  0x0000_00C0, "WAIT_IO_COMPLETION",          192,  EINTR,         192),
        Row("STATUS_TIMEOUT",                   0x0000_0102, "WAIT_TIMEOUT",                258,  ETIMEDOUT,     10060),
        // No better word.
        Row("STATUS_UNSUCCESSFUL",              0xC000_0001, "ERROR_GEN_FAILURE",           31,   EIO,           10022),
        // Codes that no NTSTATUS stands for.
        Row("NTSTATUS_FROM_WIN32(ERROR_IO_INCOMPLETE)", 0xC007_03E4, "ERROR_IO_INCOMPLETE", 996, EINPROGRESS, 996),
        Row("NTSTATUS_FROM_WIN32(WSAEALREADY)", 0xC007_2735, "WSAEALREADY", 10037, EALREADY, 10037),
        Row("NTSTATUS_FROM_WIN32(WSAEDESTADDRREQ)", 0xC007_2737, "WSAEDESTADDRREQ", 10039, EDESTADDRREQ, 10039),
        Row("NTSTATUS_FROM_WIN32(WSAEPROTOTYPE)", 0xC007_2739, "WSAEPROTOTYPE", 10041, EPROTOTYPE, 10041),
        Row("NTSTATUS_FROM_WIN32(WSAENOPROTOOPT)", 0xC007_273A, "WSAENOPROTOOPT", 10042, ENOPROTOOPT, 10042),
        Row("NTSTATUS_FROM_WIN32(WSAEPROTONOSUPPORT)", 0xC007_273B, "WSAEPROTONOSUPPORT", 10043, EPROTONOSUPPORT, 10043),
        Row("NTSTATUS_FROM_WIN32(WSAESOCKTNOSUPPORT)", 0xC007_273C, "WSAESOCKTNOSUPPORT", 10044, ESOCKTNOSUPPORT, 10044),
        Row("NTSTATUS_FROM_WIN32(WSAEPFNOSUPPORT)", 0xC007_273E, "WSAEPFNOSUPPORT", 10046, EPFNOSUPPORT, 10046),
        Row("NTSTATUS_FROM_WIN32(WSAEAFNOSUPPORT)", 0xC007_273F, "WSAEAFNOSUPPORT", 10047, EAFNOSUPPORT, 10047),
        Row("NTSTATUS_FROM_WIN32(WSAENETRESET)", 0xC007_2744, "WSAENETRESET", 10052, ENETRESET, 10052),
        Row("NTSTATUS_FROM_WIN32(WSAEHOSTDOWN)", 0xC007_2750, "WSAEHOSTDOWN", 10064, EHOSTDOWN, 10064),
    ]

    /// The row of a status. A binary search: seven steps.
    static func row(of status: UInt32) -> StatusRow? {
        lookUp(status, in: byStatus).map { rows[$0] }
    }

    /// The status that a Win32 code leads back to.
    static func status(ofWin32 code: UInt32) -> UInt32? {
        lookUp(code, in: byWin32).map { rows[$0].status }
    }

    /// The status that an `errno` leads to. One load.
    static func status(ofErrno code: Int32) -> UInt32 {
        guard let index = Int(exactly: code), byErrno.indices.contains(index) else { return unsuccessful }
        return byErrno[index]
    }

    private static let unsuccessful: UInt32 = 0xC000_0001

    private struct Entry: Sendable {
        let key: UInt32
        let row: Int
    }

    private static let byStatus = index { $0.status }
    private static let byWin32 = index { $0.win32 }

    private static let byErrno: [UInt32] = {
        let codes = rows.flatMap { [$0.errno] + $0.otherErrnos }
        var statuses = [UInt32?](repeating: nil, count: Int(codes.max() ?? 0) + 1)
        // Success is named by 0 alone, whatever other rows have no error to show.
        statuses[0] = 0
        for row in rows {
            for code in [row.errno] + row.otherErrnos where statuses[Int(code)] == nil {
                statuses[Int(code)] = row.status
            }
        }
        return statuses.map { $0 ?? unsuccessful }
    }()

    /// Sorts the rows by a key; of equal keys the first row stays.
    private static func index(by key: (StatusRow) -> UInt32) -> [Entry] {
        var entries: [Entry] = []
        let sorted = rows.indices.map { Entry(key: key(rows[$0]), row: $0) }
            .sorted { ($0.key, $0.row) < ($1.key, $1.row) }
        for entry in sorted where entries.last?.key != entry.key {
            entries.append(entry)
        }
        return entries
    }

    private static func lookUp(_ key: UInt32, in entries: [Entry]) -> Int? {
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].key < key { low = middle + 1 } else { high = middle }
        }
        guard low < entries.count, entries[low].key == key else { return nil }
        return entries[low].row
    }
}
