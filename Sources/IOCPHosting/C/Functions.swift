internal import CIOCPHosting
internal import IOCP

// The functions of iocp_hosting.h. `@_cdecl` and not `@c`, which needs Swift 6.3.

@_cdecl("iocp_host_create")
@unsafe public func _iocp_host_create(
    _ options: UnsafeRawPointer?, _ host: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> Int32 {
    guard let host = unsafe host else { return HResult.pointer.signed }
    unsafe host.pointee = nil
    return result { () throws(HResult) in
        var wanted = HostIOCompletionManager.Options()
        if let given = unsafe options?.assumingMemoryBound(to: iocp_host_options.self).pointee {
            if given.min_threads > 0 { wanted.minThreads = given.min_threads }
            if given.max_threads > 0 { wanted.maxThreads = given.max_threads }
            wanted.concurrencyLimit = Int(given.concurrency_limit)
            if given.idle_milliseconds > 0 { wanted.idleTimeout = .milliseconds(Int(given.idle_milliseconds)) }
            if given.close_milliseconds > 0 { wanted.closeTimeout = .milliseconds(Int(given.close_milliseconds)) }
            wanted.allowsThreadLimits = given.fixed_threads == 0
        }
        let manager = try HostIOCompletionManager(options: wanted)
        manager.link.endsWithReferences = true
        unsafe host.pointee = unsafe UnsafeMutableRawPointer(manager.interface())
    }
}

// MARK: Handles

/// Calls from C: a throw becomes the Win32 code.
private func code(of body: () throws(PortError) -> Void) -> UInt32 {
    do throws(PortError) {
        try body()
        return 0
    } catch {
        return error.status.win32Code
    }
}

private let nullPointer = PortError(.accessViolation, "a result was to be written to a null pointer")

private func file(_ handle: UnsafeMutableRawPointer?) throws(PortError) -> IOHandle {
    guard let file = unsafe HostHandle(handle)?.ioHandle else { throw HostHandle.unknown }
    return file
}

private func socket(_ handle: UnsafeMutableRawPointer?) throws(PortError) -> Socket {
    guard let socket = unsafe try file(handle) as? Socket else {
        throw PortError(.objectTypeMismatch, "the HANDLE is no socket")
    }
    return socket
}

private func event(_ handle: UnsafeMutableRawPointer?) throws(PortError) -> CompletionEvent {
    guard let event = unsafe HostHandle(handle)?.event else { throw HostHandle.unknown }
    return event
}

@_cdecl("iocp_host_open")
@unsafe public func _iocp_host_open(
    _ descriptor: Int32, _ handle: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> UInt32 {
    code { () throws(PortError) in
        guard let handle = unsafe handle else { throw nullPointer }
        unsafe handle.pointee = nil
        unsafe handle.pointee = try HostHandle(IOHandle.adopt(descriptor: descriptor)).pointer
    }
}

@_cdecl("iocp_host_create_event")
@unsafe public func _iocp_host_create_event(
    _ isManual: Int32, _ isSet: Int32, _ handle: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> UInt32 {
    code { () throws(PortError) in
        guard let handle = unsafe handle else { throw nullPointer }
        unsafe handle.pointee = nil
        let event = CompletionEvent(resetsAutomatically: isManual == 0, isSet: isSet != 0)
        unsafe handle.pointee = try HostHandle(event).pointer
    }
}

@_cdecl("iocp_host_set_event")
@unsafe public func _iocp_host_set_event(_ handle: UnsafeMutableRawPointer?) -> UInt32 {
    code { () throws(PortError) in unsafe try event(handle).set() }
}

@_cdecl("iocp_host_reset_event")
@unsafe public func _iocp_host_reset_event(_ handle: UnsafeMutableRawPointer?) -> UInt32 {
    code { () throws(PortError) in unsafe try event(handle).reset() }
}

@_cdecl("iocp_host_wait_event")
@unsafe public func _iocp_host_wait_event(_ handle: UnsafeMutableRawPointer?, _ milliseconds: UInt32) -> UInt32 {
    code { () throws(PortError) in
        let timeout: Duration? = milliseconds == .max ? nil : .milliseconds(Int(milliseconds))
        guard unsafe try event(handle).wait(timeout: timeout) else {
            throw PortError(.timeout, "the event was not set in time")
        }
    }
}

@_cdecl("iocp_host_close")
@unsafe public func _iocp_host_close(_ handle: UnsafeMutableRawPointer?) -> UInt32 {
    code { () throws(PortError) in
        guard let handle = unsafe HostHandle(handle) else { throw HostHandle.unknown }
        try handle.close()
    }
}

// MARK: Operations

/// Starts eagerly, with the rules of `ReadFile`: 0, 997, or what failed at once.
private func start(
    _ overlapped: UnsafeMutableRawPointer?, _ body: (HostOverlapped) throws(PortError) -> StartOutcome
) -> UInt32 {
    guard let overlapped = unsafe overlapped else { return CompletionStatus.invalidParameter.win32Code }
    do throws(PortError) {
        return unsafe try body(HostOverlapped(overlapped)) == .pending ? CompletionStatus.pending.win32Code : 0
    } catch {
        return error.status.win32Code
    }
}

@_cdecl("iocp_host_read")
@unsafe public func _iocp_host_read(
    _ handle: UnsafeMutableRawPointer?, _ buffer: UnsafeMutableRawPointer?, _ bytes: UInt32,
    _ overlapped: UnsafeMutableRawPointer?
) -> UInt32 {
    unsafe start(overlapped) { (overlapped) throws(PortError) in
        unsafe try file(handle).read(
            overlapped, into: UnsafeMutableRawBufferPointer(checked: buffer, bytes), start: .eager)
    }
}

@_cdecl("iocp_host_write")
@unsafe public func _iocp_host_write(
    _ handle: UnsafeMutableRawPointer?, _ buffer: UnsafeRawPointer?, _ bytes: UInt32,
    _ overlapped: UnsafeMutableRawPointer?
) -> UInt32 {
    unsafe start(overlapped) { (overlapped) throws(PortError) in
        unsafe try file(handle).write(
            overlapped,
            from: UnsafeRawBufferPointer(
                UnsafeMutableRawBufferPointer(checked: UnsafeMutableRawPointer(mutating: buffer), bytes)),
            start: .eager)
    }
}

@_cdecl("iocp_host_receive")
@unsafe public func _iocp_host_receive(
    _ handle: UnsafeMutableRawPointer?, _ buffer: UnsafeMutableRawPointer?, _ bytes: UInt32,
    _ overlapped: UnsafeMutableRawPointer?
) -> UInt32 {
    unsafe start(overlapped) { (overlapped) throws(PortError) in
        unsafe try socket(handle).receive(
            overlapped, into: UnsafeMutableRawBufferPointer(checked: buffer, bytes), start: .eager)
    }
}

@_cdecl("iocp_host_send")
@unsafe public func _iocp_host_send(
    _ handle: UnsafeMutableRawPointer?, _ buffer: UnsafeRawPointer?, _ bytes: UInt32,
    _ overlapped: UnsafeMutableRawPointer?
) -> UInt32 {
    unsafe start(overlapped) { (overlapped) throws(PortError) in
        unsafe try socket(handle).send(
            overlapped,
            from: UnsafeRawBufferPointer(
                UnsafeMutableRawBufferPointer(checked: UnsafeMutableRawPointer(mutating: buffer), bytes)),
            start: .eager)
    }
}

@_cdecl("iocp_host_accept")
@unsafe public func _iocp_host_accept(
    _ listener: UnsafeMutableRawPointer?, _ target: UnsafeMutableRawPointer?, _ buffer: UnsafeMutableRawPointer?,
    _ bytes: UInt32, _ overlapped: UnsafeMutableRawPointer?
) -> UInt32 {
    unsafe start(overlapped) { (overlapped) throws(PortError) in
        unsafe try socket(listener).accept(
            overlapped, into: socket(target),
            firstData: UnsafeMutableRawBufferPointer(checked: buffer, bytes), start: .eager)
    }
}

@_cdecl("iocp_host_cancel")
@unsafe public func _iocp_host_cancel(
    _ handle: UnsafeMutableRawPointer?, _ overlapped: UnsafeMutableRawPointer?
) -> UInt32 {
    code { () throws(PortError) in
        guard let overlapped = unsafe overlapped else { return _ = unsafe try file(handle).cancelAll() }
        unsafe try file(handle).cancel(HostOverlapped(overlapped))
    }
}

extension UnsafeMutableRawBufferPointer {
    /// Null with a length is an error that a Win32 caller sees as 998.
    fileprivate init(checked start: UnsafeMutableRawPointer?, _ count: UInt32) throws(PortError) {
        if unsafe start == nil && count > 0 {
            throw PortError(.accessViolation, "no memory was given for \(count) bytes")
        }
        unsafe self.init(start: start, count: start == nil ? 0 : Int(count))
    }
}
