import Synchronization

typealias Bytes = [UInt8]

/// The keys and their values, shared by all workers.
///
/// Each key belongs to one of several shards with a lock of its own, so that workers rarely wait for each other.
final class Store: Sendable {
    private final class Shard: Sendable {
        let values = Mutex<[Bytes: Bytes]>([:])
    }

    private let shards = (0..<64).map { _ in Shard() }

    enum Failure: Error {
        case notAnInteger
        case overflow
    }

    func get(_ key: Bytes) -> Bytes? {
        // Only a reference is taken under the lock, however long the value is.
        shard(of: key).values.withLock { $0[key] }
    }

    func set(_ key: Bytes, to value: Bytes) {
        // The old value is let go of after the lock: freeing a long one takes time.
        let old = shard(of: key).values.withLock { $0.updateValue(value, forKey: key) }
        _ = old
    }

    /// Returns whether there was such a key.
    func remove(_ key: Bytes) -> Bool {
        let old = shard(of: key).values.withLock { $0.removeValue(forKey: key) }
        return old != nil
    }

    /// Adds one to a decimal number; a key that is not there counts as 0.
    func increment(_ key: Bytes) throws(Failure) -> Int64 {
        let result: Result<Int64, Failure> = shard(of: key).values.withLock { values in
            var number: Int64 = 0
            if let value = values[key] {
                guard let known = decimal(value) else { return .failure(.notAnInteger) }
                number = known
            }
            let (sum, overflow) = number.addingReportingOverflow(1)
            if overflow { return .failure(.overflow) }
            values[key] = Bytes(String(sum).utf8)
            return .success(sum)
        }
        return try result.get()
    }

    private func decimal(_ value: Bytes) -> Int64? {
        // Only what the number would be written as: no plus sign, no leading zeroes.
        guard value.count <= 20, let number = Int64(String(decoding: value, as: UTF8.self)) else { return nil }
        return value.elementsEqual(String(number).utf8) ? number : nil
    }

    private func shard(of key: Bytes) -> Shard {
        // FNV-1a: the dictionary's own hash would be no better at this, and slower.
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in key { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return shards[Int((hash ^ hash >> 32) % UInt64(shards.count))]
    }
}
