import CBaselines
import Glibc
import Testing

@Suite("The counter of heap allocations")
struct AllocationTests {
    @Test("each of malloc's relatives counts once, and gives memory that can be used and freed")
    func relatives() throws {
        try #require(bench_allocations() >= 0)
        var memory: UnsafeMutableRawPointer?
        let calls: [(String, () -> UnsafeMutableRawPointer?)] = [
            ("malloc", { malloc(100) }),
            ("calloc", { calloc(10, 10) }),
            ("realloc", { realloc(nil, 100) }),
            ("aligned_alloc", { aligned_alloc(64, 128) }),
            ("posix_memalign", { posix_memalign(&memory, 64, 128) == 0 ? memory : nil }),
        ]
        for (name, call) in calls {
            let before = bench_allocations_of_thread()
            let found = call()
            #expect(bench_allocations_of_thread() == before + 1, "\(name)")
            let bytes = try #require(found)
            memset(bytes, 1, 100)
            free(bytes)
        }
    }

    @Test("posix_memalign refuses what is no alignment, as its manual says")
    func refusals() {
        var memory: UnsafeMutableRawPointer?
        #expect(posix_memalign(&memory, 3, 64) == EINVAL)
        #expect(posix_memalign(&memory, 24, 64) == EINVAL)
        #expect(posix_memalign(&memory, 64, .max / 2) == ENOMEM)
    }

    @Test("those of threads that have ended stay in the sum")
    func threads() {
        let before = bench_allocations()
        for _ in 0..<4 {
            var thread = pthread_t()
            pthread_create(
                &thread, nil,
                { _ in
                    for _ in 0..<250 { free(malloc(64)) }
                    return nil
                }, nil)
            pthread_join(thread, nil)
        }
        #expect(bench_allocations() >= before + 1000)
    }
}
