import Testing
import IOCP
import Foundation

@Test func smoke() throws {
    let port = try CompletionPort(concurrencyLimit: 1)
    try port.post(bytes: 1, key: 2, token: 3)
    let p = try port.dequeue(timeout: .seconds(1))
    #expect(p?.key == 2 && p?.bytes == 1 && p?.token == 3)
    #expect(try port.dequeue(timeout: .zero) == nil)
    #expect(try port.dequeue(timeout: .milliseconds(20)) == nil)
    let (a, b) = try Socket.pair()
    try port.associate(a, key: 7)
    let op = Operation(capacity: 100)
    try a.receive(op)
    #expect(try port.dequeue(timeout: .milliseconds(20)) == nil)
    let w = Operation(capacity: 10)
    w.buffer!.copy(from: Array("hello".utf8))
    try port.associate(b, key: 8)
    try b.send(w, count: 5)
    let p1 = try port.dequeue(timeout: .seconds(1))!
    let p2 = try port.dequeue(timeout: .seconds(1))!
    #expect(Set([p1.key, p2.key]) == [7, 8])
    #expect(op.buffer!.string(in: 0..<5) == "hello")
    let t = Thread { try! port.post(bytes: 9) }
    t.start()
    #expect(try port.dequeue()?.bytes == 9)
}
