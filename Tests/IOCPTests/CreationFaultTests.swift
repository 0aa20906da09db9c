import Glibc
import SystemPackage
import Testing

@testable import IOCP
@testable import IOUring

/// What the making of a port needs, and does not get.
private struct Shortage {
    let calls: [SystemCall]
    let errno: Int32
    let status: CompletionStatus
    /// What the error's text says of it.
    let words: [String]

    /// Of what only the first port of a process makes.
    static let first: [Shortage] = [
        Shortage(calls: [.makeEpoll], errno: EMFILE, status: .tooManyOpenedFiles, words: ["epoll", "RLIMIT_NOFILE"]),
        Shortage(calls: [.makeEpoll], errno: ENFILE, status: .tooManyOpenedFiles, words: ["epoll", "fs.file-max"]),
        Shortage(calls: [.makeEpoll], errno: ENOMEM, status: .noMemory, words: ["epoll", "memory"]),
        Shortage(
            calls: [.makeEventDescriptor], errno: EMFILE, status: .tooManyOpenedFiles,
            words: ["eventfd", "RLIMIT_NOFILE"]),
        Shortage(
            calls: [.makeTimer], errno: EMFILE, status: .tooManyOpenedFiles, words: ["timer", "RLIMIT_NOFILE"]),
        // What the C library falls back to as well.
        Shortage(
            calls: [.clone3, .clone], errno: EAGAIN, status: .insufficientResources,
            words: ["thread", "RLIMIT_NPROC", "pids.max"]),
    ]

    /// Of what every port makes.
    static let each: [Shortage] = [
        Shortage(
            calls: [.controlEpoll], errno: ENOSPC, status: .insufficientResources,
            words: ["epoll", "fs.epoll.max_user_watches"]),
        Shortage(calls: [.controlEpoll], errno: ENOMEM, status: .noMemory, words: ["epoll", "memory"]),
        Shortage(
            calls: [.setUpRing], errno: EMFILE, status: .tooManyOpenedFiles, words: ["descriptor", "RLIMIT_NOFILE"]),
        Shortage(calls: [.setUpRing], errno: ENFILE, status: .tooManyOpenedFiles, words: ["fs.file-max"]),
        Shortage(calls: [.setUpRing], errno: ENOMEM, status: .noMemory, words: ["memory"]),
    ]

    /// Fails to make ports on a thread that may not make the calls. Nothing may be left of the attempts.
    func check() throws {
        let before = openNumbers()
        let threads = monitors()
        let (calls, code) = (calls, errno)
        // A filter holds for the thread that has asked for it.
        let errors = try SideThread {
            for call in calls { try IOCPTests.check(forbid(call, errno: code), "no filter is to be had") }
            return (0..<3).map { _ in refusal() }
        }.join()
        for error in errors {
            guard let error else { throw Complaint("\(calls), errno \(code): a port was made") }
            try IOCPTests.check(error.status == status, "\(error)")
            for word in words {
                try IOCPTests.check(error.description.contains(word), "no word of \(word): \(error)")
            }
        }
        let left = Set(openNumbers()).subtracting(before)
        try IOCPTests.check(left.isEmpty, "\(calls): left open are \(left)")
        try IOCPTests.check(monitors() == threads, "\(calls): there are \(monitors()) monitors")
    }
}

// In children of processes of their own: the first port of a process makes what the others share, and in a child there is
// nobody else to open and close descriptors.
@Suite("Ports that cannot be made")
struct CreationFaultTests {
    @Test(
        "a refused system call is a clear error, leaves nothing behind, and harms neither this port's next attempt nor others"
    )
    func shortages() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                try warmUp()
                try Child.run {
                    for shortage in Shortage.first + Shortage.each { try shortage.check() }
                    try checkWholePort()
                    try check(monitors() == 1, "there are \(monitors()) monitors")
                    let port = try CompletionPort(concurrencyLimit: 1)
                    let (left, right) = try Socket.pair()
                    try port.associate(left, key: 1)
                    let receive = IOCP.Operation(capacity: 4)
                    try left.receive(receive)
                    for shortage in Shortage.each { try shortage.check() }
                    writeRaw("data", to: right)
                    try check(try port.next().operation === receive, "the port that was there")
                    try checkWholePort()
                }
            }
        }
    }

    @Test(
        "with ever more descriptors, the first port is made once there are enough, and the attempts before leave nothing"
    )
    func descriptors() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                try warmUp()
                try Child.run {
                    var held = holdDescriptors()
                    var refusals = 0
                    while let error = refusal() {
                        refusals += 1
                        try check(error.status == .tooManyOpenedFiles, "\(error)")
                        try check(error.description.contains("RLIMIT_NOFILE"), "\(error)")
                        // What was free is free again.
                        let free = (0..<refusals).map { _ in dup(2) }
                        try check(free.filter { $0 >= 0 }.count == refusals - 1, "\(free) are free of \(refusals - 1)")
                        for descriptor in free where descriptor >= 0 { close(descriptor) }
                        close(held.removeLast())
                    }
                    // Two rings, an epoll, an eventfd, a timer.
                    try check(refusals == 5, "\(refusals) attempts failed")
                    for descriptor in held { close(descriptor) }
                    try checkWholePort()
                }
            }
        }
    }

    @Test("without a thread to be had by the limit of the user's processes, the error names it")
    func threads() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                try warmUp()
                try Child.run {
                    // No limit holds for the superuser.
                    if getuid() == 0 {
                        try check(setgid(65534) == 0 && setuid(65534) == 0, "not another user: errno \(errno)")
                    }
                    let before = openNumbers()
                    var limit = rlimit()
                    getrlimit(__rlimit_resource_t(__RLIMIT_NPROC.rawValue), &limit)
                    let soft = limit.rlim_cur
                    limit.rlim_cur = 1
                    setrlimit(__rlimit_resource_t(__RLIMIT_NPROC.rawValue), &limit)
                    let error = refusal()
                    try check(error?.description.contains("RLIMIT_NPROC") == true, "\(String(describing: error))")
                    let left = Set(openNumbers()).subtracting(before)
                    try check(left.isEmpty, "left open are \(left)")
                    limit.rlim_cur = soft
                    setrlimit(__rlimit_resource_t(__RLIMIT_NPROC.rawValue), &limit)
                    try checkWholePort()
                }
            }
        }
    }

    #if DEBUG || IOCP_SEAM
    @Test("a port that cannot have all of its rings gives back those that it has")
    func lastRing() async {
        await #expect(processExitsWith: .success) {
            try exitTest {
                try warmUp()
                try Child.run {
                    let before = openNumbers()
                    for refused in 0..<4 {
                        let count = Tally()
                        let installed = Seam.install { call in
                            guard case .setUp = call else { return .pass }
                            count.add()
                            return count.value > refused ? .answer(-ENOMEM) : .pass
                        }
                        do throws(PortError) {
                            _ = try CompletionPort(concurrencyLimit: 4)
                            throw PortError(.success, "a port was made")
                        } catch {
                            try check(error.status == .noMemory, "\(error)")
                        }
                        Seam.remove(installed)
                        let left = Set(openNumbers()).subtracting(before)
                        try check(left.isEmpty, "left open are \(left)")
                    }
                    try checkWholePort()
                }
            }
        }
    }
    #endif
}

/// Why no port can be made, or nil if one can.
private func refusal() -> PortError? {
    do throws(PortError) {
        _ = try CompletionPort(concurrencyLimit: 2)
        return nil
    } catch {
        return error
    }
}

/// Threads of the library's own in this process.
private func monitors() -> Int {
    guard let directory = opendir("/proc/self/task") else { return -1 }
    defer { _ = closedir(directory) }
    var count = 0
    while let entry = readdir(directory) {
        let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let descriptor = open("/proc/self/task/\(name)/comm", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { continue }
        defer { close(descriptor) }
        var text = [UInt8](repeating: 0, count: 32)
        let length = read(descriptor, &text, text.count)
        if String(decoding: text.prefix(max(0, length)), as: UTF8.self) == "iocp-monitor\n" { count += 1 }
    }
    return count
}
