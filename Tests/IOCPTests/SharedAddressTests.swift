import Glibc
import Synchronization
import SystemPackage
import Testing

@testable import IOCP

@Suite("Several ports on one address")
struct SharedAddressTests {
    @Test("the connections of an address are shared among the listeners of two ports, each has some")
    func twoPorts() throws {
        let first = try Socket.listening(at: .loopback(port: 0), sharesPort: true)
        let address = try first.localAddress()
        let second = try Socket.listening(at: address, sharesPort: true)
        let count = 64
        let accepted = Tally()
        let isReady = Tally()
        let shares = SideThread {
            try onThreads(2) { number in
                var options = CompletionPort.Options()
                options.singleConsumer = true
                let port = try CompletionPort(options: options)
                let listener = number == 0 ? first : second
                try port.associate(listener, key: 0)
                try listener.acceptContinuously(IOCP.Operation())
                try port.flush()
                isReady.add()
                var mine = 0
                // Each connection is served by the port that accepted it.
                var served = 0
                while accepted.value < count || served < mine {
                    guard let packet = try port.dequeue(timeout: .milliseconds(20)) else { continue }
                    if let socket = packet.acceptedSocket {
                        mine += 1
                        accepted.add()
                        try port.associate(socket, key: 1)
                        let echo = EchoOnce(socket)
                        try socket.receive(echo)
                    } else if let echo = packet.operation as? EchoOnce {
                        if echo.isSending {
                            served += 1
                        } else {
                            echo.isSending = true
                            try echo.socket.send(echo, count: packet.bytes)
                        }
                    }
                }
                return mine
            }
        }
        try until("both listen") { isReady.value == 2 }
        for number in 0..<count {
            let peer = try connectPeer(to: first)
            try peer.send("number \(number)")
            #expect(try peer.receiveText("number \(number)".utf8.count) == "number \(number)")
        }
        let found = try shares.join()
        #expect(found.reduce(0, +) == count)
        // By a hash of the client's port: that one had none has a chance of 1 in 2^63.
        #expect(found.allSatisfy { $0 > 0 })
    }

    @Test("without it, the address is taken (10048)")
    func taken() throws {
        let first = try Socket.listening(at: .loopback(port: 0))
        let address = try first.localAddress()
        #expect(thrownStatus { try Socket.listening(at: address) } == .addressAlreadyExists)
        #expect(thrownStatus { try Socket.listening(at: address, sharesPort: true) } == .addressAlreadyExists)
    }
}

private final class EchoOnce: IOCP.Operation, @unchecked Sendable {
    let socket: Socket
    var isSending = false

    init(_ socket: Socket) {
        self.socket = socket
        super.init(buffer: IOBuffer(capacity: 64))
    }
}
