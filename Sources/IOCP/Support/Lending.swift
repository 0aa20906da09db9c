extension Unmanaged {
    /// Lends the object, uncounted: the caller says why it stays. As `_withUnsafeGuaranteedRef`, for what throws an error of
    /// a known type.
    @inline(__always)
    func lend<Value, Failure: Error>(_ body: (Instance) throws(Failure) -> Value) throws(Failure) -> Value {
        let outcome: Result<Value, Failure> = unsafe _withUnsafeGuaranteedRef { instance in
            do throws(Failure) {
                return .success(try body(instance))
            } catch {
                return .failure(error)
            }
        }
        return try outcome.get()
    }
}
