internal import CIOCPSupport
internal import Glibc
internal import SystemPackage

/// What few operations hold on to. Idle ones, of which a server has many, are the smaller for it.
@safe final class OperationExtras {
    /// The buffers of a scattered or gathered operation, and the control data of a message.
    var moreBuffers: [IOBuffer] = []
    var control: IOBuffer?
    /// The file of a transmission, or the socket of an accept: kept alive with the operation.
    var companion: AnyObject?
    /// What the next start waits for, and what the present one does; the latter under `Link.lock`.
    var predecessor: Operation?
    var link: Link?
    var details: UnsafeMutablePointer<OperationDetails>?

    deinit {
        if let details = unsafe details {
            unsafe details.pointee.destroy()
            unsafe details.deallocate()
        }
    }
}

/// What only some operations need: messages, addresses, vectors. Made on first use, kept for the operation's life.
@safe struct OperationDetails {
    var message = unsafe msghdr()
    var address = sockaddr_storage()
    var addressLength: socklen_t = 0
    /// The vector of a scattered or gathered operation, owned.
    var vector: UnsafeMutablePointer<iovec>?
    var vectorCapacity = 0
    var vectorCount = 0
    var transmission = Transmission()

    /// The state of a file on its way to a socket through a pipe.
    @safe struct Transmission {
        var file: Int32 = -1
        var offset: UInt64 = 0
        /// Bytes of the file still to enter the pipe; `Int.max` for "to the end".
        var left = 0
        /// Bytes in the pipe.
        var inPipe = 0
        var pipeRead: Int32 = -1
        var pipeWrite: Int32 = -1
        var pipeCapacity = 0
        var tail: UnsafeMutableRawPointer?
        var tailLength = 0
        var fileEnded = false
        var head: UnsafeMutableRawPointer?
        var headLength = 0
    }

    /// Makes the vector describe these ranges, growing it if it must.
    mutating func setVector(count: Int) {
        if unsafe vectorCapacity < count || vector == nil {
            unsafe vector?.deallocate()
            vectorCapacity = max(4, count)
            unsafe vector = .allocate(capacity: vectorCapacity)
        }
        vectorCount = count
    }

    mutating func destroy() {
        unsafe vector?.deallocate()
        closePipe()
    }

    mutating func closePipe() {
        if transmission.pipeRead >= 0 {
            _ = iocp_close(transmission.pipeRead)
            _ = iocp_close(transmission.pipeWrite)
            transmission.pipeRead = -1
            transmission.pipeWrite = -1
        }
    }
}
