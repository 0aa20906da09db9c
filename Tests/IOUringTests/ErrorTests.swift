import Glibc
import IOUring
import SystemPackage
import Testing

@Suite struct `Errors of setting up` {
    func classify(_ code: Int32, sysctl: Int? = 0, limited: Bool = false) -> RingError {
        RingError.classify(
            Errno(rawValue: code), operation: "Testing", sysctl: sysctl, lockedMemoryLimited: limited)
    }

    @Test func `The sysctl is told from a filter by its value`() {
        #expect(classify(EPERM, sysctl: 2).kind == .forbiddenBySysctl)
        #expect(classify(EPERM, sysctl: 1).kind == .forbiddenBySysctl)
        #expect(classify(EPERM, sysctl: 0).kind == .forbiddenBySeccomp)
        #expect(classify(EPERM, sysctl: nil).kind == .forbiddenBySeccomp)
        #expect(classify(EACCES, sysctl: 0).kind == .forbiddenBySeccomp)
    }

    @Test func `Every errno finds its cause`() {
        #expect(classify(ENOSYS).kind == .notImplemented)
        #expect(classify(EMFILE).kind == .processDescriptorLimit)
        #expect(classify(ENFILE).kind == .systemDescriptorLimit)
        #expect(classify(ENOMEM).kind == .outOfMemory)
        #expect(classify(ENOMEM, limited: true).kind == .lockedMemoryLimit)
        #expect(classify(EINVAL).kind == .invalidConfiguration)
        #expect(classify(EIO).kind == .system)
        #expect(classify(EIO).errno == .ioError)
    }

    @Test func `Every description names the remedy`() {
        let expected: [(RingError, [String])] = [
            (classify(EPERM, sysctl: 2), ["kernel.io_uring_disabled is 2", "sysctl -w kernel.io_uring_disabled=0"]),
            (classify(EPERM, sysctl: 1), ["kernel.io_uring_disabled is 1", "io_uring_group", "CAP_SYS_ADMIN"]),
            (classify(EPERM), ["seccomp", "io_uring_setup", "profile"]),
            (classify(ENOSYS), ["no io_uring", "CONFIG_IO_URING"]),
            (classify(EMFILE), ["RLIMIT_NOFILE", "ulimit -n"]),
            (classify(ENFILE), ["fs.file-max"]),
            (classify(ENOMEM), ["fewer entries"]),
            (classify(ENOMEM, limited: true), ["RLIMIT_MEMLOCK", "ulimit -l"]),
            (classify(EINVAL), ["contradict"]),
            (classify(EIO), ["kernel answered"]),
            (
                RingError(kind: .tooOld(missing: "IORING_FEAT_EXT_ARG"), errno: .notSupported, operation: "Testing"),
                ["too old", "IORING_FEAT_EXT_ARG", "Linux 6.1"]
            ),
        ]
        for (error, words) in expected {
            #expect(error.description.hasPrefix("Testing failed (errno \(error.errno.rawValue)): "))
            for word in words { #expect(error.description.contains(word), "\(error)") }
        }
    }

    @Test func `The sysctl of this system can be read`() {
        let value = RingError.readDisabledSysctl()
        #expect(value == nil || (0...2).contains(value!))
    }

    // For real, in processes of their own. They leave by _exit, as the testing library leaks when left early, which a
    // leak checker would report at exit.

    @Test func `A process without descriptors left is told so`() async {
        await #expect(processExitsWith: .exitCode(0)) {
            var limit = rlimit()
            unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            limit.rlim_cur = 0
            unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            do throws(RingError) {
                _ = try Ring()
                _exit(1)
            } catch {
                _exit(error.kind == .processDescriptorLimit && error.errno == .tooManyOpenFiles ? 0 : 2)
            }
        }
    }

    @Test func `A process under a filter is told so`() async {
        await #expect(processExitsWith: .exitCode(0)) {
            guard filterSetup(errno: UInt32(EPERM)) else { _exit(3) }
            do throws(RingError) {
                _ = try Ring()
                _exit(1)
            } catch {
                _exit(error.kind == .forbiddenBySeccomp ? 0 : 2)
            }
        }
    }

    @Test func `A system without the call is told so`() async {
        await #expect(processExitsWith: .exitCode(0)) {
            guard filterSetup(errno: UInt32(ENOSYS)) else { _exit(3) }
            do throws(RingError) {
                _ = try Ring()
                _exit(1)
            } catch {
                _exit(error.kind == .notImplemented ? 0 : 2)
            }
        }
    }

    @Test func `A kernel that lacks a required flag is told which`() async {
        await #expect(processExitsWith: .exitCode(0)) {
            // A kernel that knows no flag at all.
            guard filterSetup(errno: UInt32(EINVAL)) else { _exit(3) }
            do throws(RingError) {
                _ = try Ring(RingOptions(required: [.singleIssuer]))
                _exit(1)
            } catch {
                _exit(error.kind == .tooOld(missing: "IORING_SETUP_SINGLE_ISSUER") ? 0 : 2)
            }
        }
    }

    @Test func `A limit on locked memory is told from a lack of memory`() async {
        await #expect(processExitsWith: .exitCode(0)) {
            // Only the unprivileged are limited.
            if geteuid() == 0, setuid(65532) != 0 { _exit(0) }
            var limit = rlimit(rlim_cur: 1 << 16, rlim_max: 1 << 16)
            unsafe setrlimit(lockedMemoryLimit, &limit)
            guard let ring = try? Ring(RingOptions(submissionEntries: 1, completionEntries: 2)) else { _exit(0) }
            let memory = Memory(1 << 20)
            let vectors = unsafe [iovec(iov_base: memory.base, iov_len: 1 << 20)]
            // Leaving by _exit ends no scope, and so would let the memory go early.
            do throws(RingError) {
                try unsafe vectors.withUnsafeBufferPointer { (buffer) throws(RingError) in
                    try unsafe ring.registerBuffers(buffer)
                }
                _ = memory.count
                _exit(1)
            } catch {
                _ = memory.count
                _exit(error.kind == .lockedMemoryLimit ? 0 : error.errno.rawValue)
            }
        }
    }
}
