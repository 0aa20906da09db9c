// A constant per row of the table, in the order of the table.
extension CompletionStatus {
    // MARK: Done, and under way

    /// The operation completed.
    ///
    /// Corresponds to `STATUS_SUCCESS`, Win32 `ERROR_SUCCESS` (0).
    @inlinable
    public static var success: CompletionStatus { CompletionStatus(rawValue: 0x0000_0000) }

    /// The operation was started; a packet follows when it ends.
    ///
    /// Corresponds to `STATUS_PENDING`, Win32 `ERROR_IO_PENDING` (997).
    @inlinable
    public static var pending: CompletionStatus { CompletionStatus(rawValue: 0x0000_0103) }

    /// More changes happened than the buffer holds: enumerate the directory again. Success severity.
    ///
    /// Corresponds to `STATUS_NOTIFY_ENUM_DIR`, Win32 `ERROR_NOTIFY_ENUM_DIR` (1022).
    @inlinable
    public static var notifyEnumDir: CompletionStatus { CompletionStatus(rawValue: 0x0000_010C) }

    /// The named object was there already and has been opened. Informational severity.
    ///
    /// Corresponds to `STATUS_OBJECT_NAME_EXISTS`, Win32 `ERROR_OBJECT_NAME_EXISTS` (698).
    @inlinable
    public static var objectNameExists: CompletionStatus { CompletionStatus(rawValue: 0x4000_0000) }

    // MARK: Parameters and handles

    /// A parameter has a value that the operation does not accept.
    ///
    /// Corresponds to `STATUS_INVALID_PARAMETER`, Win32 `ERROR_INVALID_PARAMETER` (87).
    @inlinable
    public static var invalidParameter: CompletionStatus { CompletionStatus(rawValue: 0xC000_000D) }

    /// The first parameter is not acceptable; also a wait packet that is armed already.
    ///
    /// Corresponds to `STATUS_INVALID_PARAMETER_1`, Win32 `ERROR_INVALID_PARAMETER` (87).
    @inlinable
    public static var invalidParameter1: CompletionStatus { CompletionStatus(rawValue: 0xC000_00EF) }

    /// The second parameter is not acceptable.
    ///
    /// Corresponds to `STATUS_INVALID_PARAMETER_2`, Win32 `ERROR_INVALID_PARAMETER` (87).
    @inlinable
    public static var invalidParameter2: CompletionStatus { CompletionStatus(rawValue: 0xC000_00F0) }

    /// The third parameter is not acceptable.
    ///
    /// Corresponds to `STATUS_INVALID_PARAMETER_3`, Win32 `ERROR_INVALID_PARAMETER` (87).
    @inlinable
    public static var invalidParameter3: CompletionStatus { CompletionStatus(rawValue: 0xC000_00F1) }

    /// The handle is closed, or never was one.
    ///
    /// Corresponds to `STATUS_INVALID_HANDLE`, Win32 `ERROR_INVALID_HANDLE` (6).
    @inlinable
    public static var invalidHandle: CompletionStatus { CompletionStatus(rawValue: 0xC000_0008) }

    /// The handle is open but names another kind of object than the call needs.
    ///
    /// Corresponds to `STATUS_OBJECT_TYPE_MISMATCH`, Win32 `ERROR_INVALID_HANDLE` (6).
    @inlinable
    public static var objectTypeMismatch: CompletionStatus { CompletionStatus(rawValue: 0xC000_0024) }

    /// The file is associated with a port already.
    ///
    /// Corresponds to `STATUS_PORT_ALREADY_SET`, Win32 `ERROR_INVALID_PARAMETER` (87).
    @inlinable
    public static var portAlreadySet: CompletionStatus { CompletionStatus(rawValue: 0xC000_0048) }

    /// The structure that was passed has the wrong size for its class.
    ///
    /// Corresponds to `STATUS_INFO_LENGTH_MISMATCH`, Win32 `ERROR_BAD_LENGTH` (24).
    @inlinable
    public static var infoLengthMismatch: CompletionStatus { CompletionStatus(rawValue: 0xC000_0004) }

    /// A buffer lies outside the memory of the process.
    ///
    /// Corresponds to `STATUS_ACCESS_VIOLATION`, Win32 `ERROR_NOACCESS` (998).
    @inlinable
    public static var accessViolation: CompletionStatus { CompletionStatus(rawValue: 0xC000_0005) }

    /// The caller, or the access mode of the handle, does not allow the operation.
    ///
    /// Corresponds to `STATUS_ACCESS_DENIED`, Win32 `ERROR_ACCESS_DENIED` (5).
    @inlinable
    public static var accessDenied: CompletionStatus { CompletionStatus(rawValue: 0xC000_0022) }

    /// There was nothing to cancel, or nothing of that name.
    ///
    /// Corresponds to `STATUS_NOT_FOUND`, Win32 `ERROR_NOT_FOUND` (1168).
    @inlinable
    public static var notFound: CompletionStatus { CompletionStatus(rawValue: 0xC000_0225) }

    /// The object has no such operation.
    ///
    /// Corresponds to `STATUS_INVALID_DEVICE_REQUEST`, Win32 `ERROR_INVALID_FUNCTION` (1).
    @inlinable
    public static var invalidDeviceRequest: CompletionStatus { CompletionStatus(rawValue: 0xC000_0010) }

    /// The system has no such operation.
    ///
    /// Corresponds to `STATUS_NOT_IMPLEMENTED`, Win32 `ERROR_INVALID_FUNCTION` (1).
    @inlinable
    public static var notImplemented: CompletionStatus { CompletionStatus(rawValue: 0xC000_0002) }

    /// This object does not support the operation.
    ///
    /// Corresponds to `STATUS_NOT_SUPPORTED`, Win32 `ERROR_NOT_SUPPORTED` (50).
    @inlinable
    public static var notSupported: CompletionStatus { CompletionStatus(rawValue: 0xC000_00BB) }

    // MARK: Resources

    /// The process has no memory left for it.
    ///
    /// Corresponds to `STATUS_NO_MEMORY`, Win32 `ERROR_NOT_ENOUGH_MEMORY` (8).
    @inlinable
    public static var noMemory: CompletionStatus { CompletionStatus(rawValue: 0xC000_0017) }

    /// The kernel has no buffers left for it.
    ///
    /// Corresponds to `STATUS_INSUFFICIENT_RESOURCES`, Win32 `ERROR_NO_SYSTEM_RESOURCES` (1450).
    @inlinable
    public static var insufficientResources: CompletionStatus { CompletionStatus(rawValue: 0xC000_009A) }

    /// The limit on open descriptors is reached.
    ///
    /// Corresponds to `STATUS_TOO_MANY_OPENED_FILES`, Win32 `ERROR_TOO_MANY_OPEN_FILES` (4).
    @inlinable
    public static var tooManyOpenedFiles: CompletionStatus { CompletionStatus(rawValue: 0xC000_011F) }

    /// The quota of the user is used up.
    ///
    /// Corresponds to `STATUS_QUOTA_EXCEEDED`, Win32 `ERROR_NOT_ENOUGH_QUOTA` (1816).
    @inlinable
    public static var quotaExceeded: CompletionStatus { CompletionStatus(rawValue: 0xC000_0044) }

    // MARK: Buffers

    /// The datagram is larger than the transport can send.
    ///
    /// Corresponds to `STATUS_INVALID_BUFFER_SIZE`, Win32 `ERROR_INVALID_USER_BUFFER` (1784).
    @inlinable
    public static var invalidBufferSize: CompletionStatus { CompletionStatus(rawValue: 0xC000_0206) }

    /// The buffer was too small and is full; more data follows (message pipe) or was lost (datagram). A warning: the
    /// packet carries the count of bytes that did arrive.
    ///
    /// Corresponds to `STATUS_BUFFER_OVERFLOW`, Win32 `ERROR_MORE_DATA` (234).
    @inlinable
    public static var bufferOverflow: CompletionStatus { CompletionStatus(rawValue: 0x8000_0005) }

    /// The buffer cannot hold the answer; nothing was written to it.
    ///
    /// Corresponds to `STATUS_BUFFER_TOO_SMALL`, Win32 `ERROR_INSUFFICIENT_BUFFER` (122).
    @inlinable
    public static var bufferTooSmall: CompletionStatus { CompletionStatus(rawValue: 0xC000_0023) }

    // MARK: Cancellation and time

    /// The operation was cancelled, or its handle closed, before it could complete.
    ///
    /// Corresponds to `STATUS_CANCELLED`, Win32 `ERROR_OPERATION_ABORTED` (995).
    @inlinable
    public static var cancelled: CompletionStatus { CompletionStatus(rawValue: 0xC000_0120) }

    /// The peer or the device did not answer in time. Not the timeout of a wait: that is ``timeout``.
    ///
    /// Corresponds to `STATUS_IO_TIMEOUT`, Win32 `ERROR_SEM_TIMEOUT` (121).
    @inlinable
    public static var ioTimeout: CompletionStatus { CompletionStatus(rawValue: 0xC000_00B5) }

    /// It cannot be done now without waiting.
    ///
    /// Corresponds to `STATUS_DEVICE_NOT_READY`, Win32 `ERROR_NOT_READY` (21).
    @inlinable
    public static var deviceNotReady: CompletionStatus { CompletionStatus(rawValue: 0xC000_00A3) }

    // MARK: Files

    /// The device failed.
    ///
    /// Corresponds to `STATUS_IO_DEVICE_ERROR`, Win32 `ERROR_IO_DEVICE` (1117).
    @inlinable
    public static var ioDeviceError: CompletionStatus { CompletionStatus(rawValue: 0xC000_0185) }

    /// The read began at or after the end of the file. Linux has no such error, it reads 0 bytes.
    ///
    /// Corresponds to `STATUS_END_OF_FILE`, Win32 `ERROR_HANDLE_EOF` (38).
    @inlinable
    public static var endOfFile: CompletionStatus { CompletionStatus(rawValue: 0xC000_0011) }

    /// Another holder has locked the byte range that is read or written.
    ///
    /// Corresponds to `STATUS_FILE_LOCK_CONFLICT`, Win32 `ERROR_LOCK_VIOLATION` (33).
    @inlinable
    public static var fileLockConflict: CompletionStatus { CompletionStatus(rawValue: 0xC000_0054) }

    /// The byte range is locked and the lock was not to be waited for.
    ///
    /// Corresponds to `STATUS_LOCK_NOT_GRANTED`, Win32 `ERROR_LOCK_VIOLATION` (33).
    @inlinable
    public static var lockNotGranted: CompletionStatus { CompletionStatus(rawValue: 0xC000_0055) }

    /// There is no file of that name.
    ///
    /// Corresponds to `STATUS_OBJECT_NAME_NOT_FOUND`, Win32 `ERROR_FILE_NOT_FOUND` (2).
    @inlinable
    public static var objectNameNotFound: CompletionStatus { CompletionStatus(rawValue: 0xC000_0034) }

    /// There is no such device.
    ///
    /// Corresponds to `STATUS_NO_SUCH_DEVICE`, Win32 `ERROR_FILE_NOT_FOUND` (2).
    @inlinable
    public static var noSuchDevice: CompletionStatus { CompletionStatus(rawValue: 0xC000_000E) }

    /// The name is taken.
    ///
    /// Corresponds to `STATUS_OBJECT_NAME_COLLISION`, Win32 `ERROR_ALREADY_EXISTS` (183).
    @inlinable
    public static var objectNameCollision: CompletionStatus { CompletionStatus(rawValue: 0xC000_0035) }

    /// Somebody else has the object open in a way that excludes this.
    ///
    /// Corresponds to `STATUS_SHARING_VIOLATION`, Win32 `ERROR_SHARING_VIOLATION` (32).
    @inlinable
    public static var sharingViolation: CompletionStatus { CompletionStatus(rawValue: 0xC000_0043) }

    /// The file system has no space left.
    ///
    /// Corresponds to `STATUS_DISK_FULL`, Win32 `ERROR_DISK_FULL` (112).
    @inlinable
    public static var diskFull: CompletionStatus { CompletionStatus(rawValue: 0xC000_007F) }

    /// The file system is read-only.
    ///
    /// Corresponds to `STATUS_MEDIA_WRITE_PROTECTED`, Win32 `ERROR_WRITE_PROTECT` (19).
    @inlinable
    public static var mediaWriteProtected: CompletionStatus { CompletionStatus(rawValue: 0xC000_00A2) }

    /// The write would pass the largest size a file may have.
    ///
    /// Corresponds to `STATUS_FILE_TOO_LARGE`, Win32 `ERROR_FILE_TOO_LARGE` (223).
    @inlinable
    public static var fileTooLarge: CompletionStatus { CompletionStatus(rawValue: 0xC000_0904) }

    /// The operation is for files, the object is a directory.
    ///
    /// Corresponds to `STATUS_FILE_IS_A_DIRECTORY`, Win32 `ERROR_ACCESS_DENIED` (5).
    @inlinable
    public static var fileIsADirectory: CompletionStatus { CompletionStatus(rawValue: 0xC000_00BA) }

    /// A part of the path that should be a directory is not one.
    ///
    /// Corresponds to `STATUS_NOT_A_DIRECTORY`, Win32 `ERROR_DIRECTORY` (267).
    @inlinable
    public static var notADirectory: CompletionStatus { CompletionStatus(rawValue: 0xC000_0103) }

    /// The directory still has entries.
    ///
    /// Corresponds to `STATUS_DIRECTORY_NOT_EMPTY`, Win32 `ERROR_DIR_NOT_EMPTY` (145).
    @inlinable
    public static var directoryNotEmpty: CompletionStatus { CompletionStatus(rawValue: 0xC000_0101) }

    /// The two names are on different file systems.
    ///
    /// Corresponds to `STATUS_NOT_SAME_DEVICE`, Win32 `ERROR_NOT_SAME_DEVICE` (17).
    @inlinable
    public static var notSameDevice: CompletionStatus { CompletionStatus(rawValue: 0xC000_00D4) }

    /// The name does not fit.
    ///
    /// Corresponds to `STATUS_NAME_TOO_LONG`, Win32 `ERROR_FILENAME_EXCED_RANGE` (206).
    @inlinable
    public static var nameTooLong: CompletionStatus { CompletionStatus(rawValue: 0xC000_0106) }

    /// The symbolic links of the path do not end.
    ///
    /// Corresponds to `STATUS_REPARSE_POINT_NOT_RESOLVED`, Win32 `ERROR_CANT_RESOLVE_FILENAME` (1921).
    @inlinable
    public static var reparsePointNotResolved: CompletionStatus { CompletionStatus(rawValue: 0xC000_0280) }

    /// Waiting for the lock would never end.
    ///
    /// Corresponds to `STATUS_POSSIBLE_DEADLOCK`, Win32 `ERROR_POSSIBLE_DEADLOCK` (1131).
    @inlinable
    public static var possibleDeadlock: CompletionStatus { CompletionStatus(rawValue: 0xC000_0194) }

    // MARK: Addresses and networks

    /// The local address is in use.
    ///
    /// Corresponds to `STATUS_ADDRESS_ALREADY_EXISTS`, Win32 `ERROR_DUP_NAME` (52).
    @inlinable
    public static var addressAlreadyExists: CompletionStatus { CompletionStatus(rawValue: 0xC000_020A) }

    /// The address is not one of this machine, or not one that can be connected to.
    ///
    /// Corresponds to `STATUS_INVALID_ADDRESS_COMPONENT`, Win32 `ERROR_INVALID_NETNAME` (1214).
    @inlinable
    public static var invalidAddressComponent: CompletionStatus { CompletionStatus(rawValue: 0xC000_0207) }

    /// There is no route to the network.
    ///
    /// Corresponds to `STATUS_NETWORK_UNREACHABLE`, Win32 `ERROR_NETWORK_UNREACHABLE` (1231).
    @inlinable
    public static var networkUnreachable: CompletionStatus { CompletionStatus(rawValue: 0xC000_023C) }

    /// There is no route to the host.
    ///
    /// Corresponds to `STATUS_HOST_UNREACHABLE`, Win32 `ERROR_HOST_UNREACHABLE` (1232).
    @inlinable
    public static var hostUnreachable: CompletionStatus { CompletionStatus(rawValue: 0xC000_023D) }

    /// The host does not speak the protocol.
    ///
    /// Corresponds to `STATUS_PROTOCOL_UNREACHABLE`, Win32 `ERROR_PROTOCOL_UNREACHABLE` (1233).
    @inlinable
    public static var protocolUnreachable: CompletionStatus { CompletionStatus(rawValue: 0xC000_023E) }

    /// The network is down.
    ///
    /// Corresponds to `STATUS_UNEXPECTED_NETWORK_ERROR`, Win32 `ERROR_UNEXP_NET_ERR` (59).
    @inlinable
    public static var unexpectedNetworkError: CompletionStatus { CompletionStatus(rawValue: 0xC000_00C4) }

    // MARK: Connections

    /// The peer reset the connection.
    ///
    /// Corresponds to `STATUS_CONNECTION_RESET`, Win32 `ERROR_NETNAME_DELETED` (64).
    @inlinable
    public static var connectionReset: CompletionStatus { CompletionStatus(rawValue: 0xC000_020D) }

    /// The transport gave the connection up.
    ///
    /// Corresponds to `STATUS_CONNECTION_DISCONNECTED`, Win32 `ERROR_NETNAME_DELETED` (64).
    @inlinable
    public static var connectionDisconnected: CompletionStatus { CompletionStatus(rawValue: 0xC000_020C) }

    /// The peer tore the connection down.
    ///
    /// Corresponds to `STATUS_REMOTE_DISCONNECT`, Win32 `ERROR_NETNAME_DELETED` (64).
    @inlinable
    public static var remoteDisconnect: CompletionStatus { CompletionStatus(rawValue: 0xC000_013C) }

    /// This side ended the connection while the operation was pending.
    ///
    /// Corresponds to `STATUS_CONNECTION_ABORTED`, Win32 `ERROR_CONNECTION_ABORTED` (1236).
    @inlinable
    public static var connectionAborted: CompletionStatus { CompletionStatus(rawValue: 0xC000_0241) }

    /// This side tore the connection down.
    ///
    /// Corresponds to `STATUS_LOCAL_DISCONNECT`, Win32 `ERROR_NETNAME_DELETED` (64).
    @inlinable
    public static var localDisconnect: CompletionStatus { CompletionStatus(rawValue: 0xC000_013B) }

    /// Nobody listens at the address.
    ///
    /// Corresponds to `STATUS_CONNECTION_REFUSED`, Win32 `ERROR_CONNECTION_REFUSED` (1225).
    @inlinable
    public static var connectionRefused: CompletionStatus { CompletionStatus(rawValue: 0xC000_0236) }

    /// A datagram that was sent earlier found nobody at its port.
    ///
    /// Corresponds to `STATUS_PORT_UNREACHABLE`, Win32 `ERROR_PORT_UNREACHABLE` (1234).
    @inlinable
    public static var portUnreachable: CompletionStatus { CompletionStatus(rawValue: 0xC000_023F) }

    /// The socket is not connected. The port shows 59 for it, Winsock shows WSAENOTCONN.
    ///
    /// Corresponds to `STATUS_INVALID_CONNECTION`, Win32 `ERROR_UNEXP_NET_ERR` (59).
    @inlinable
    public static var invalidConnection: CompletionStatus { CompletionStatus(rawValue: 0xC000_0140) }

    /// The connection was closed in an orderly way.
    ///
    /// Corresponds to `STATUS_GRACEFUL_DISCONNECT`, Win32 `ERROR_GRACEFUL_DISCONNECT` (1226).
    @inlinable
    public static var gracefulDisconnect: CompletionStatus { CompletionStatus(rawValue: 0xC000_0237) }

    /// The socket is connected already.
    ///
    /// Corresponds to `STATUS_CONNECTION_ACTIVE`, Win32 `ERROR_CONNECTION_ACTIVE` (1230).
    @inlinable
    public static var connectionActive: CompletionStatus { CompletionStatus(rawValue: 0xC000_023B) }

    /// The request was given up by the transport.
    ///
    /// Corresponds to `STATUS_REQUEST_ABORTED`, Win32 `ERROR_REQUEST_ABORTED` (1235).
    @inlinable
    public static var requestAborted: CompletionStatus { CompletionStatus(rawValue: 0xC000_0240) }

    // MARK: Pipes

    /// Write side: the other end of the pipe is gone or going.
    ///
    /// Corresponds to `STATUS_PIPE_CLOSING`, Win32 `ERROR_NO_DATA` (232).
    @inlinable
    public static var pipeClosing: CompletionStatus { CompletionStatus(rawValue: 0xC000_00B1) }

    /// Read side: the other end of the pipe is gone and nothing is left to read.
    ///
    /// Corresponds to `STATUS_PIPE_BROKEN`, Win32 `ERROR_BROKEN_PIPE` (109).
    @inlinable
    public static var pipeBroken: CompletionStatus { CompletionStatus(rawValue: 0xC000_014B) }

    /// A pipe in no-wait mode has nothing to read.
    ///
    /// Corresponds to `STATUS_PIPE_EMPTY`, Win32 `ERROR_NO_DATA` (232).
    @inlinable
    public static var pipeEmpty: CompletionStatus { CompletionStatus(rawValue: 0xC000_00D9) }

    /// The server end of a pipe has been disconnected, or this end of a socket has been shut down.
    ///
    /// Corresponds to `STATUS_PIPE_DISCONNECTED`, Win32 `ERROR_PIPE_NOT_CONNECTED` (233).
    @inlinable
    public static var pipeDisconnected: CompletionStatus { CompletionStatus(rawValue: 0xC000_00B0) }

    /// A client was connected before the server began to wait for one.
    ///
    /// Corresponds to `STATUS_PIPE_CONNECTED`, Win32 `ERROR_PIPE_CONNECTED` (535).
    @inlinable
    public static var pipeConnected: CompletionStatus { CompletionStatus(rawValue: 0xC000_00B2) }

    /// No client is connected to the server end yet.
    ///
    /// Corresponds to `STATUS_PIPE_LISTENING`, Win32 `ERROR_PIPE_LISTENING` (536).
    @inlinable
    public static var pipeListening: CompletionStatus { CompletionStatus(rawValue: 0xC000_00B3) }

    // MARK: Results of a wait

    /// The port was closed while the thread waited. Success severity, yet a dequeue reports it as a failure.
    ///
    /// Corresponds to `STATUS_ABANDONED_WAIT_0`, Win32 `ERROR_ABANDONED_WAIT_0` (735).
    @inlinable
    public static var abandoned: CompletionStatus { CompletionStatus(rawValue: 0x0000_0080) }

    /// A call that had been queued to the thread ran instead of the wait. Success severity.
    ///
    /// Corresponds to `STATUS_USER_APC`, Win32 `WAIT_IO_COMPLETION` (192).
    @inlinable
    public static var userCall: CompletionStatus { CompletionStatus(rawValue: 0x0000_00C0) }

    /// The wait ended without a packet. Success severity, yet a dequeue reports it as a failure.
    ///
    /// Corresponds to `STATUS_TIMEOUT`, Win32 `WAIT_TIMEOUT` (258).
    @inlinable
    public static var timeout: CompletionStatus { CompletionStatus(rawValue: 0x0000_0102) }

    // MARK: No better word

    /// It failed and no status says how. Every `errno` that is not in the table leads here.
    ///
    /// Corresponds to `STATUS_UNSUCCESSFUL`, Win32 `ERROR_GEN_FAILURE` (31).
    @inlinable
    public static var unsuccessful: CompletionStatus { CompletionStatus(rawValue: 0xC000_0001) }

    // MARK: Codes that no NTSTATUS stands for

    /// The result of the operation was asked for while it is still pending.
    ///
    /// Corresponds to `NTSTATUS_FROM_WIN32(ERROR_IO_INCOMPLETE)`, Win32 `ERROR_IO_INCOMPLETE` (996).
    @inlinable
    public static var ioIncomplete: CompletionStatus { CompletionStatus(rawValue: 0xC007_03E4) }

    /// The local side of the socket has been shut down for sending.
    ///
    /// The same number as ``pipeDisconnected``: the transport of Windows uses it for both, and Winsock shows it as
    /// `WSAESHUTDOWN` (10058).
    ///
    /// Corresponds to `STATUS_PIPE_DISCONNECTED`, Win32 `ERROR_PIPE_NOT_CONNECTED` (233).
    @inlinable
    public static var sendAfterShutdown: CompletionStatus { .pipeDisconnected }
}
