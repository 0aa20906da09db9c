internal import CIOCPHosting
internal import Synchronization

/// What stands in front of a Swift object for C and C++: a pointer to a v-table, and a count of references that keeps the
/// object alive while it is not zero.
@safe struct ComObject<Interface: BitwiseCopyable, Object: AnyObject>: ~Copyable {
    /// First: this is what the pointers of C point to.
    let interface: Interface
    let object: Unmanaged<Object>
    private let references = Atomic<UInt32>(0)

    init(_ interface: Interface, _ object: Object) {
        self.interface = interface
        unsafe self.object = Unmanaged.passUnretained(object)
    }

    func addReference() -> UInt32 {
        let count = references.add(1, ordering: .sequentiallyConsistent).newValue
        if count == 1 { _ = unsafe object.retain() }
        return count
    }

    /// Returns what is left; at zero the caller releases the object, after which this may be gone.
    func dropReference() -> UInt32 { references.subtract(1, ordering: .sequentiallyConsistent).newValue }
}

/// Calls from C: a throw becomes the HRESULT.
func result(of body: () throws(HResult) -> Void) -> HRESULT {
    do throws(HResult) {
        try body()
        return HResult.ok.signed
    } catch {
        return error.signed
    }
}

extension InterfaceID {
    /// Nil for a null pointer.
    init?(_ pointer: UnsafePointer<IID>?) {
        guard let id = unsafe pointer?.pointee else { return nil }
        let bytes = id.Data4
        var last: UInt64 = 0
        for byte in [bytes.0, bytes.1, bytes.2, bytes.3, bytes.4, bytes.5, bytes.6, bytes.7] {
            last = last << 8 | UInt64(byte)
        }
        self.init(id.Data1, id.Data2, id.Data3, last)
    }
}

extension HostHandle {
    /// Nil for a null pointer.
    init?(_ handle: HANDLE?) {
        guard let handle = unsafe handle else { return nil }
        self.init(rawValue: UInt(bitPattern: handle))
    }

    var pointer: HANDLE? { unsafe HANDLE(bitPattern: rawValue) }
}

/// `QueryInterface` for an object with one interface beside IUnknown: one pointer for both, so that the identities agree.
func queryInterface(
    _ own: InterfaceID, _ wanted: UnsafePointer<IID>?, _ this: UnsafeMutableRawPointer,
    _ result: UnsafeMutablePointer<UnsafeMutableRawPointer?>?, addReference: () -> UInt32
) -> HRESULT {
    guard let result = unsafe result else { return HResult.pointer.signed }
    unsafe result.pointee = nil
    guard let id = unsafe InterfaceID(wanted) else { return HResult.invalidArgument.signed }
    guard id == own || id == .unknown else { return HResult.noInterface.signed }
    _ = addReference()
    unsafe result.pointee = unsafe this
    return HResult.ok.signed
}
