import Glibc

/// What the load generator knows of its connections: what each has to send, and what has to come back.
///
/// A connection has `depth` slots for messages under way. A slot's bytes stay as they were sent until all of its echo
/// has been compared with them; then its next message takes the place.
@safe
struct EchoStreams: ~Copyable {
    private let traffic: Traffic
    private let messages: UnsafeMutableRawPointer
    /// When the message in a slot was sent.
    private let started: UnsafeMutablePointer<UInt64>
    private let states: UnsafeMutablePointer<State>

    private struct State {
        /// The slot whose echo comes next, and how much of that has come.
        var echoing = 0
        var echoed = 0
        /// The slot to be sent next, and how many from there on are ready.
        var next = 0
        var ready: Int
        var sending = false
    }

    init(_ traffic: Traffic) {
        self.traffic = traffic
        let slots = traffic.connections * traffic.depth
        unsafe messages = .allocate(byteCount: slots * traffic.bytes, alignment: 64)
        unsafe started = .allocate(capacity: slots)
        unsafe states = .allocate(capacity: traffic.connections)
        unsafe started.initialize(repeating: 0, count: slots)
        unsafe states.initialize(repeating: State(ready: traffic.depth), count: traffic.connections)
        // Every message of a run differs from every other: the slot and a count, then the slot's own pattern.
        for slot in 0..<slots {
            let message = unsafe messages + slot * traffic.bytes
            for offset in 8..<traffic.bytes {
                unsafe message.storeBytes(
                    of: UInt8(truncatingIfNeeded: slot &* 31 &+ offset), toByteOffset: offset, as: UInt8.self)
            }
            unsafe message.storeBytes(of: UInt64(slot) << 40, as: UInt64.self)
        }
    }

    deinit {
        unsafe messages.deallocate()
        unsafe started.deallocate()
        unsafe states.deallocate()
    }

    /// What to send next on a connection, or nil when nothing is ready or a send is under way: two at a time could be
    /// reordered.
    @inline(__always)
    func takeSend(_ connection: Int, now: UInt64) -> UnsafeRawBufferPointer? {
        let state = unsafe states + connection
        guard unsafe state.pointee.ready > 0, unsafe !state.pointee.sending else { return nil }
        let first = unsafe state.pointee.next
        let count = unsafe min(state.pointee.ready, traffic.depth - first)
        unsafe state.pointee.ready -= count
        unsafe state.pointee.next = first + count == traffic.depth ? 0 : first + count
        unsafe state.pointee.sending = true
        let slot = connection * traffic.depth + first
        for offset in 0..<count {
            unsafe started[slot + offset] = now
        }
        return unsafe UnsafeRawBufferPointer(start: messages + slot * traffic.bytes, count: count * traffic.bytes)
    }

    @inline(__always)
    func sendEnded(_ connection: Int) {
        unsafe states[connection].sending = false
    }

    /// Compares received bytes with what was sent. Reports when each message that is complete with them was sent, and
    /// makes its slot ready for the next one.
    ///
    /// - Returns: false when something else came back.
    @inline(__always)
    func take(_ connection: Int, _ bytes: UnsafeRawBufferPointer, _ completed: (_ started: UInt64) -> Void) -> Bool {
        let state = unsafe states + connection
        var position = 0
        while position < bytes.count {
            let slot = unsafe connection * traffic.depth + state.pointee.echoing
            let message = unsafe messages + slot * traffic.bytes
            let length = unsafe min(traffic.bytes - state.pointee.echoed, bytes.count - position)
            guard unsafe memcmp(message + state.pointee.echoed, bytes.baseAddress! + position, length) == 0 else {
                return false
            }
            position += length
            unsafe state.pointee.echoed += length
            guard unsafe state.pointee.echoed == traffic.bytes else { break }
            unsafe completed(started[slot])
            unsafe message.storeBytes(of: message.load(as: UInt64.self) &+ 1, as: UInt64.self)
            unsafe state.pointee.echoed = 0
            unsafe state.pointee.echoing += 1
            if unsafe state.pointee.echoing == traffic.depth {
                unsafe state.pointee.echoing = 0
            }
            unsafe state.pointee.ready += 1
        }
        return true
    }
}
