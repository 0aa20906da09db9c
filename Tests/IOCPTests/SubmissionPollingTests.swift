import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP
@testable import IOUring

private func pollingPort(limit: Int = 1, idle: Duration = .milliseconds(2), files: Int = 0) throws -> CompletionPort {
    var options = CompletionPort.Options()
    options.submissionPolling = idle
    options.registeredFiles = files
    return try CompletionPort(concurrencyLimit: limit, options: options)
}

@Suite("Submission polling", .serialized)
struct SubmissionPollingTests {
    @Test("streams, both starts: the same packets as ever", arguments: StreamKind.allCases, bothStarts)
    func traffic(kind: StreamKind, start: Start) throws {
        let port = try pollingPort(files: 8)
        #expect(port.core.slots[0].withRing { $0.setupFlags }.contains(.submissionPolling))
        let (socket, peer) = try kind.connection()
        try port.associate(socket, key: 7)
        let receive = IOCP.Operation(capacity: 64)
        let send = IOCP.Operation("hello")
        for round in 0..<100 {
            // Now and then the kernel's thread has gone to sleep.
            if round % 20 == 19 { usleep(10_000) }
            _ = try socket.receive(receive, start: start)
            let text = "round \(round)"
            try peer.send(text)
            try port.expect(receive, bytes: text.utf8.count, key: 7)
            #expect(receive.text(text.utf8.count) == text)
            _ = try socket.send(send, start: start)
            try port.expect(send, bytes: 5, key: 7)
            #expect(try peer.receive(5) == Array("hello".utf8))
        }
    }

    @Test("an eager start tells of immediate ends, as ever (e1)")
    func eager() throws {
        let port = try pollingPort()
        let (socket, peer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        let receive = IOCP.Operation(capacity: 2)
        for _ in 0..<50 {
            try peer.send("ab")
            try waitReadable(socket)
            #expect(try socket.receive(receive, start: .eager) == .completed(bytes: 2))
            try port.expect(receive, bytes: 2)
        }
        let unconnected = try Socket(family: .ipv4)
        try port.associate(unconnected, key: 2)
        #expect(thrownStatus { try unconnected.receive(receive, start: .eager) } == .invalidConnection)
        #expect(try port.staysEmpty())
    }

    @Test("numbers are used again and again; requests that the kernel's thread has not taken never meet another file")
    func reuse() throws {
        for files in [0, 4] {
            let port = try pollingPort(files: files)
            let receive = IOCP.Operation(capacity: 64)
            for round in 0..<300 {
                let (socket, peer) = try StreamKind.unix.connection()
                try port.associate(socket, key: UInt(round))
                try socket.receive(receive)
                if round % 2 == 0 {
                    try socket.close()
                    try port.expect(receive, .connectionAborted, key: UInt(round))
                } else {
                    try peer.send("\(round)")
                    try port.expect(receive, bytes: "\(round)".utf8.count, key: UInt(round))
                    try socket.close()
                }
                #expect(try peer.receive(1) == [])
            }
        }
    }

    @Test("cancelling finds what was just started (e20, e21)")
    func cancelling() throws {
        let port = try pollingPort()
        let (socket, peer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        let receive = IOCP.Operation(capacity: 16)
        for _ in 0..<100 {
            try socket.receive(receive)
            try socket.cancel(receive)
            try port.expect(receive, .cancelled)
        }
        try peer.send("x")
        try socket.receive(receive)
        try port.expect(receive, bytes: 1)
    }

    @Test("two threads over two rings and one kernel thread: nothing is lost")
    func twoRings() throws {
        let port = try pollingPort(limit: 2)
        let pairs = try (0..<16).map { _ in try Socket.pair() }
        for (index, pair) in pairs.enumerated() {
            try port.associate(pair.0, key: UInt(index))
            try port.associate(pair.1, key: UInt(100 + index))
        }
        let left = Tally()
        let rounds = 500
        for pair in pairs {
            try pair.0.receive(IOCP.Operation(capacity: 4))
            try pair.1.send(IOCP.Operation("ping"))
        }
        _ = try onThreads(2) { _ in
            while let packet = try port.dequeue(timeout: patience), packet.key < 200 {
                #expect(packet.isSuccess && packet.bytes == 4)
                if packet.key >= 100 { continue }
                left.add()
                if left.value >= rounds * 16 {
                    try port.post(key: 200)
                    try port.post(key: 200)
                } else {
                    try pairs[Int(packet.key)].0.receive(packet.operation!)
                    try pairs[Int(packet.key)].1.send(IOCP.Operation("ping"))
                }
            }
        }
        #expect(left.value >= rounds * 16)
    }

    @Test("operations outlive the thread that started them (e34)")
    func threadExit() throws {
        let port = try pollingPort()
        let (socket, peer) = try StreamKind.tcp4.connection()
        try port.associate(socket, key: 1)
        let receive = IOCP.Operation(capacity: 16)
        _ = try SideThread { try socket.receive(receive) as StartOutcome }.join()
        try peer.send("late")
        try port.expect(receive, bytes: 4)
        #expect(try port.statistics.reissues == 0)
    }

    @Test("a time out of range is refused, and so is a single consumer beside it")
    func badInput() throws {
        for wrong in [Duration.zero, .microseconds(10), .seconds(61), .milliseconds(-5)] {
            #expect(thrownStatus { try pollingPort(idle: wrong) } == .invalidParameter)
        }
        var options = CompletionPort.Options()
        options.submissionPolling = .seconds(1)
        options.singleConsumer = true
        #expect(thrownStatus { try CompletionPort(options: options) } == .invalidParameter)
    }
}
