extension CompletionPort {
    /// Binds a handle's file object to the port: from now on its completions come here, tagged with the key.
    ///
    /// Operations that are already pending on the handle complete here as well (a9). The binding is shared by duplicates
    /// of the handle and lasts until the last one is closed (a4). It queues no packet (a7) and signals the handle (a8).
    ///
    /// - Parameters:
    ///   - handle: opened for overlapped I/O and associated with no port.
    ///   - key: any 64 bits, returned with each packet; need not be unique.
    /// - Throws: ``PortError``: 87 if the handle is associated already or not overlapped, 6 if the handle or the port is
    ///   closed, 5 if this reference to the port lacks ``Access/modify``.
    ///
    /// The corresponding Win32 call is `CreateIoCompletionPort(handle, port, key, 0)`.
    public func associate(_ handle: IOHandle, key: UInt) throws(PortError) {
        try handle.opened().associate(try open(.modify), key: key)
    }
}
