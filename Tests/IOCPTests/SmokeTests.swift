import IOCP
import Testing

@Suite("A port end to end")
struct SmokeTests {
    @Test("a receive and a send on a pair of sockets yield one packet each, with their handles' keys")
    func socketPair() throws {
        let port = try CompletionPort(concurrencyLimit: 1)
        let (left, right) = try Socket.pair()
        try port.associate(left, key: 7)
        try port.associate(right, key: 8)
        let receive = Operation(capacity: 100)
        try left.receive(receive)
        #expect(try port.dequeue(timeout: .milliseconds(20)) == nil)
        let send = Operation(capacity: 10)
        send.buffer!.copy(from: Array("hello".utf8))
        try right.send(send, count: 5)
        let packets = [try port.dequeue(timeout: .seconds(5)), try port.dequeue(timeout: .seconds(5))].compactMap { $0 }
        #expect(Set(packets.map(\.key)) == [7, 8])
        #expect(packets.allSatisfy { $0.isSuccess && $0.bytes == 5 })
        #expect(receive.buffer!.string(in: 0..<5) == "hello")
        #expect(try port.dequeue(timeout: .zero) == nil)
    }
}
