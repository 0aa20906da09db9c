public import SystemPackage

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
import Musl
#endif

extension CompletionStatus {
    /// What the kernel was doing when it gave an `errno`. Some codes mean different things to Windows.
    @frozen
    public enum ErrnoContext: Hashable, Sendable {
        /// Reading or writing a file.
        case file
        /// Reading, writing, or waiting for a client on a pipe.
        case pipe
        /// Sending or receiving on a connected stream socket, or accepting one.
        case stream
        /// Sending or receiving datagrams.
        case datagram
        /// Connecting a socket.
        case connect
        /// Anything else.
        case other
    }

    /// Creates the status of an `errno`, where nothing is known of the operation.
    ///
    /// A code that is not in the table gives ``unsuccessful``.
    public init(errno: Errno) {
        self.init(errnoCode: errno.rawValue, context: .other)
    }

    /// Creates the status of an `errno`, where nothing is known of the operation.
    ///
    /// - Parameter errnoCode: The positive code; 0 gives ``success``. A code that is not in the table gives
    ///   ``unsuccessful``.
    public init(errnoCode: Int32) {
        self.init(errnoCode: errnoCode, context: .other)
    }

    /// Creates the status of an operation's `errno`.
    ///
    /// The table decides, but for these, where Windows tells apart what Linux does not:
    ///
    /// | code | context | status |
    /// |---|---|---|
    /// | `ECONNREFUSED` | datagram | ``portUnreachable`` (1234) |
    /// | `EPIPE` | stream, datagram | ``sendAfterShutdown`` (Winsock 10058) |
    /// | `ECONNRESET` | pipe | ``pipeBroken`` (109) |
    /// | `ENOTCONN` | pipe | ``pipeDisconnected`` (233) |
    ///
    /// `EPIPE` says only that the connection can no longer be written to. Who has seen the peer reset it reports
    /// ``connectionReset`` instead.
    ///
    /// - Parameters:
    ///   - errnoCode: The positive code; 0 gives ``success``. A code that is not in the table gives ``unsuccessful``.
    ///   - context: What the kernel was doing.
    public init(errnoCode: Int32, context: ErrnoContext) {
        if errnoCode == 0 {
            self = .success
            return
        }
        switch (errnoCode, context) {
        case (ECONNREFUSED, .datagram): self = .portUnreachable
        case (EPIPE, .stream), (EPIPE, .datagram): self = .sendAfterShutdown
        // A pipe may be a pair of connected sockets. Its reader must not see that.
        case (ECONNRESET, .pipe): self = .pipeBroken
        case (ENOTCONN, .pipe): self = .pipeDisconnected
        default: self.init(rawValue: StatusTable.status(ofErrno: errnoCode))
        }
    }

    /// Creates the status of a kernel result as io_uring reports it: a negated `errno`, or a count if not negative.
    @inlinable
    public init(kernelResult: Int32, context: ErrnoContext) {
        if kernelResult >= 0 {
            self = .success
        } else {
            self.init(errnoCode: 0 &- kernelResult, context: context)
        }
    }
}
