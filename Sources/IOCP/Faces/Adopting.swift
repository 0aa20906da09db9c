internal import SystemPackage

extension IOHandle {
    /// Adopts a descriptor, as the class that its kind asks for: a ``Socket`` can receive and accept.
    package static func adopt(descriptor: Int32) throws(PortError) -> IOHandle {
        let file = try adopt(descriptor, nil, true)
        return switch file.kind {
        case .stream, .message, .mailSlot: Socket(file)
        case .pipe: Pipe(file)
        case .file: File(file)
        case .device: IOHandle(file)
        }
    }
}
