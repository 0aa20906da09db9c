import CBaselines
import Histogram

/// Latencies stored one after the other while a row runs, summed up after it: storing costs a row one write.
@safe
final class Samples {
    /// What C rows write into.
    let storage: UnsafeMutablePointer<bench_samples>

    init(capacity: Int = 1 << 21) throws {
        unsafe storage = .allocate(capacity: 1)
        unsafe storage.initialize(to: bench_samples())
        try unsafe check(bench_samples_create(storage, capacity), "allocating latency samples")
    }

    deinit {
        unsafe bench_samples_destroy(storage)
        unsafe storage.deallocate()
    }

    @inline(__always)
    func record(_ nanoseconds: UInt64) {
        unsafe bench_sample(storage, nanoseconds)
    }

    /// The distribution, nil when nothing was recorded.
    var latency: Latency? {
        let stored = unsafe Swift.min(storage.pointee.count, storage.pointee.mask + 1)
        guard stored > 0 else { return nil }
        var histogram = Latency.emptyHistogram()
        for index in 0..<stored {
            _ = unsafe histogram.record(UInt64(storage.pointee.values[index]))
        }
        return Latency(histogram)
    }
}
