import Glibc

/// What the load generator knows of its connections: what each has to send, and what has to come back.
///
/// A connection has `depth` slots for messages under way. A slot's bytes stay as they were sent until their echo has
/// been compared with them; then its next message takes the place.
@safe
struct EchoStreams: ~Copyable {
    let traffic: Traffic

    /// Bytes of all slots of one connection, and of its receive buffer.
    private let stride: Int
    private let outgoing: UnsafeMutableRawPointer
    private let incoming: UnsafeMutableRawPointer
    /// When the message in a slot was sent.
    private let started: UnsafeMutablePointer<UInt64>
    private let states: UnsafeMutablePointer<State>

    private struct State {
        /// Bytes at the front of the receive buffer: less than one message between completions.
        var received = 0
        /// The slot whose echo comes next.
        var nextEcho = 0
        /// The slot to be sent next, and how many from there are ready.
        var nextSend = 0
        var ready: Int
        /// Messages of the send that is under way.
        var sending = 0
    }

    init(_ traffic: Traffic) {
        self.traffic = traffic
        stride = traffic.bytes * traffic.depth
        unsafe outgoing = .allocate(byteCount: stride * traffic.connections, alignment: 64)
        unsafe incoming = .allocate(byteCount: stride * traffic.connections, alignment: 64)
        unsafe started = .allocate(capacity: traffic.depth * traffic.connections)
        unsafe states = .allocate(capacity: traffic.connections)
        unsafe incoming.initializeMemory(as: UInt8.self, repeating: 0, count: stride * traffic.connections)
        unsafe started.initialize(repeating: 0, count: traffic.depth * traffic.connections)
        unsafe states.initialize(repeating: State(ready: traffic.depth), count: traffic.connections)
        // Every message of a run differs from every other: connection, slot and number, then a pattern of its own.
        for slot in 0..<traffic.connections * traffic.depth {
            let message = unsafe outgoing + slot * traffic.bytes
            for offset in 0..<traffic.bytes {
                unsafe message.storeBytes(
                    of: UInt8(truncatingIfNeeded: slot &* 31 &+ offset), toByteOffset: offset, as: UInt8.self)
            }
            unsafe message.storeBytes(of: UInt64(slot) << 40, as: UInt64.self)
        }
    }

    deinit {
        unsafe outgoing.deallocate()
        unsafe incoming.deallocate()
        unsafe started.deallocate()
        unsafe states.deallocate()
    }

    /// What to send next on a connection, or nil when nothing is ready or a send is under way: two at a time could be
    /// reordered.
    @inline(__always)
    func takeSend(_ connection: Int, now: UInt64) -> UnsafeRawBufferPointer? {
        let state = unsafe states + connection
        guard unsafe state.pointee.ready > 0, unsafe state.pointee.sending == 0 else { return nil }
        let first = unsafe state.pointee.nextSend
        let count = unsafe min(state.pointee.ready, traffic.depth - first)
        unsafe state.pointee.ready -= count
        unsafe state.pointee.sending = count
        unsafe state.pointee.nextSend = first + count == traffic.depth ? 0 : first + count
        for slot in first..<first + count {
            unsafe started[connection * traffic.depth + slot] = now
        }
        return unsafe UnsafeRawBufferPointer(
            start: outgoing + connection * stride + first * traffic.bytes, count: count * traffic.bytes)
    }

    @inline(__always)
    func sendEnded(_ connection: Int) {
        unsafe states[connection].sending = 0
    }

    /// Where the next receive of a connection goes.
    @inline(__always)
    func receiveBuffer(_ connection: Int) -> UnsafeMutableRawBufferPointer {
        let received = unsafe states[connection].received
        return unsafe UnsafeMutableRawBufferPointer(
            start: incoming + connection * stride + received, count: stride - received)
    }

    /// Takes `count` received bytes: compares each complete message with what was sent, reports when that was, and
    /// makes its slot ready for the next one.
    ///
    /// - Returns: false when something else came back.
    @inline(__always)
    func take(_ connection: Int, count: Int, _ completed: (_ started: UInt64) -> Void) -> Bool {
        let state = unsafe states + connection
        let buffer = unsafe incoming + connection * stride
        let available = unsafe state.pointee.received + count
        var consumed = 0
        while available - consumed >= traffic.bytes {
            let slot = unsafe state.pointee.nextEcho
            let message = unsafe outgoing + connection * stride + slot * traffic.bytes
            guard unsafe memcmp(message, buffer + consumed, traffic.bytes) == 0 else { return false }
            unsafe completed(started[connection * traffic.depth + slot])
            unsafe message.storeBytes(of: message.load(as: UInt64.self) &+ 1, as: UInt64.self)
            consumed += traffic.bytes
            unsafe state.pointee.nextEcho = slot + 1 == traffic.depth ? 0 : slot + 1
            unsafe state.pointee.ready += 1
        }
        let rest = available - consumed
        if rest > 0, consumed > 0 {
            unsafe memmove(buffer, buffer + consumed, rest)
        }
        unsafe state.pointee.received = rest
        return true
    }

    /// Messages sent, or being sent, whose echo is not complete.
    func underWay(_ connection: Int) -> Int {
        unsafe traffic.depth - states[connection].ready
    }
}
