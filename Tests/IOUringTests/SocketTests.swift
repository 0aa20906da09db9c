import Glibc
import IOUring
import SystemPackage
import Testing

/// Calls a body with an address as the kernel's functions take it.
func withAddress<Result>(
    _ address: sockaddr_in, _ body: (UnsafePointer<sockaddr>, socklen_t) throws -> Result
) rethrows -> Result {
    try unsafe withUnsafePointer(to: address) { pointer in
        try unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
            try unsafe body(pointer, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
}

@Suite struct `Sockets` {
    @Test func `What is sent is received`() throws {
        var ring = try smallRing()
        let pair = try socketPair()
        let left = try Descriptor(pair.0)
        let right = try Descriptor(pair.1)
        let output = Memory("over the wire")
        let input = Memory(64)
        let results = try unsafe ring.results([
            SubmissionEntry.receive(right.value, into: input.base, count: 64).tagged(1),
            SubmissionEntry.send(left.value, from: output.base, count: output.count).tagged(2),
        ])
        #expect(results == [1: 13, 2: 13])
        let text = input.text(13)
        #expect(text == "over the wire")

        let shut = try unsafe ring.results([
            SubmissionEntry.receive(right.value, into: input.base, count: 64).tagged(3),
            SubmissionEntry.shutdown(left.value, how: Int32(SHUT_WR)).tagged(4, .link),
            SubmissionEntry.send(left.value, from: output.base, count: 1).tagged(5),
        ])
        #expect(shut == [3: 0, 4: 0, 5: -EPIPE])
    }

    @Test func `Connections are made and accepted`() throws {
        var ring = try smallRing()
        let listening = try listener()
        let server = try Descriptor(listening.fd)
        let made = try ring.run([SubmissionEntry.socket(domain: AF_INET, type: stream)])
        let client = try Descriptor(try #require(made.first?.result))

        let peer = UnsafeMutablePointer<sockaddr_in>.allocate(capacity: 1)
        let length = UnsafeMutablePointer<socklen_t>.allocate(capacity: 1)
        defer {
            unsafe peer.deallocate()
            unsafe length.deallocate()
        }
        unsafe peer.initialize(to: sockaddr_in())
        unsafe length.initialize(to: socklen_t(MemoryLayout<sockaddr_in>.size))
        let results = try unsafe withAddress(listening.address) { address, size in
            try unsafe ring.results([
                SubmissionEntry.accept(
                    server.value, address: UnsafeMutableRawPointer(peer).assumingMemoryBound(to: sockaddr.self),
                    length: length, flags: Int32(SOCK_CLOEXEC.rawValue)
                ).tagged(1),
                SubmissionEntry.connect(client.value, address: address, length: size).tagged(2),
            ])
        }
        #expect(results[2] == 0)
        let accepted = try Descriptor(try #require(results[1]))
        let family = unsafe peer.pointee.sin_family
        #expect(family == sa_family_t(AF_INET))
        #expect(fcntl(accepted.value, F_GETFD) == FD_CLOEXEC)
    }

    @Test func `A refused connection says so`() throws {
        var ring = try smallRing()
        let listening = try listener()
        close(listening.fd)
        let client = try Descriptor(socket(AF_INET, stream, 0))
        let completions = try unsafe withAddress(listening.address) { address, size in
            try unsafe ring.run([SubmissionEntry.connect(client.value, address: address, length: size)])
        }
        #expect(completions.first?.result == -ECONNREFUSED)
    }

    @Test(.kernel { $0.multishotAccept })
    func `One entry accepts many connections until cancelled`() throws {
        var ring = try smallRing()
        let listening = try listener()
        let server = try Descriptor(listening.fd)
        _ = ring.enqueue(SubmissionEntry.acceptMultishot(server.value).tagged(1))
        try ring.submit()
        for _ in 0..<3 {
            let client = try Descriptor(socket(AF_INET, stream, 0))
            let code = unsafe withAddress(listening.address) { unsafe connect(client.value, $0, $1) }
            #expect(code == 0)
            let completion = try ring.collect(1)[0]
            #expect(completion.more)
            _ = try Descriptor(completion.result)
        }
        let last = try ring.run([SubmissionEntry.cancel(userData: 1).tagged(2)], completions: 2)
        let end = last.first { $0.userData == 1 }
        #expect(end?.result == -ECANCELED)
        #expect(end?.more == false)
    }

    @Test(.kernel { $0.supports(.listen) })
    func `A socket is bound and listens through the ring`() throws {
        var ring = try smallRing()
        let server = try Descriptor(socket(AF_INET, stream, 0))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let results = try unsafe withAddress(address) { address, size in
            try unsafe ring.results([
                SubmissionEntry.bind(server.value, address: address, length: size).tagged(1, .link),
                SubmissionEntry.listen(server.value, backlog: 4).tagged(2),
            ])
        }
        #expect(results == [1: 0, 2: 0])
    }

    @Test func `Messages carry several buffers`() throws {
        var ring = try smallRing()
        let pair = try socketPair()
        let left = try Descriptor(pair.0)
        let right = try Descriptor(pair.1)
        let output = Memory("abcdef")
        let input = Memory(6)
        let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: 3)
        let headers = UnsafeMutablePointer<msghdr>.allocate(capacity: 2)
        defer {
            unsafe vectors.deallocate()
            unsafe headers.deallocate()
        }
        unsafe vectors[0] = iovec(iov_base: output.base + 3, iov_len: 3)
        unsafe vectors[1] = iovec(iov_base: output.base, iov_len: 3)
        unsafe vectors[2] = iovec(iov_base: input.base, iov_len: 6)
        unsafe headers.initialize(repeating: msghdr(), count: 2)
        unsafe headers[0].msg_iov = vectors
        unsafe headers[0].msg_iovlen = 2
        unsafe headers[1].msg_iov = vectors + 2
        unsafe headers[1].msg_iovlen = 1
        let results = try unsafe ring.results([
            SubmissionEntry.sendMessage(left.value, header: headers).tagged(1, .link),
            SubmissionEntry.receiveMessage(right.value, header: headers + 1).tagged(2),
        ])
        #expect(results == [1: 6, 2: 6])
        let text = input.text(6)
        #expect(text == "defabc")
    }

    @Test(.kernel { $0.supports(.sendZeroCopy) })
    func `A send without copying completes, and then gives the memory back`() throws {
        var ring = try smallRing()
        let listening = try listener()
        let server = try Descriptor(listening.fd)
        let client = try Descriptor(socket(AF_INET, stream, 0))
        let code = unsafe withAddress(listening.address) { unsafe connect(client.value, $0, $1) }
        #expect(code == 0)
        let accepted = try Descriptor(accept(server.value, nil, nil))
        let output = Memory(10_000, filledWith: 7)
        var completions = try unsafe ring.run([
            SubmissionEntry.sendZeroCopy(client.value, from: output.base, count: 10_000).tagged(1)
        ])
        let input = Memory(10_000)
        let count = unsafe recv(accepted.value, input.base, 10_000, Int32(MSG_WAITALL))
        #expect(count == 10_000)
        #expect(completions[0].result == 10_000)
        #expect(completions[0].more && !completions[0].isNotification)
        if completions.count < 2 { completions += try ring.collect(1) }
        #expect(completions[1].isNotification && !completions[1].more)
        #expect(completions[1].userData == 1)
        let sent = output.text(0..<1)
        #expect(sent == "\u{7}")
    }

    @Test func `Polling tells readiness, once or again and again`() throws {
        var ring = try smallRing()
        let pair = try socketPair()
        let left = try Descriptor(pair.0)
        let right = try Descriptor(pair.1)
        unsafe write(right.value, "x", 1)
        let once = try ring.run([SubmissionEntry.poll(left.value, events: UInt32(POLLIN)).tagged(1)])
        #expect(once.first?.result == Int32(POLLIN))
        #expect(once.first?.more == false)
        let first = try ring.run([
            SubmissionEntry.poll(left.value, events: UInt32(POLLIN), multishot: true).tagged(2)
        ])
        #expect(first.first?.more == true)
        unsafe write(right.value, "y", 1)
        let second = try ring.collect(1)
        #expect(second.first?.userData == 2)
        let ended = try ring.run([SubmissionEntry.pollRemove(userData: 2).tagged(3)], completions: 2)
        #expect(Set(ended.map(\.userData)).isSuperset(of: [2, 3]))
    }
}

@Suite struct `Provided buffers` {
    @Test(.kernel { $0.multishotReceive })
    func `Receiving takes buffers until there are none, and goes on with recycled ones`() throws {
        let capabilities = try Capabilities.probe()
        var ring = try smallRing()
        let pair = try socketPair()
        let left = try Descriptor(pair.0)
        let right = try Descriptor(pair.1)
        let memory = Memory(32)
        var buffers = try BufferRing(for: ring.submitter, group: 5, entries: 2)
        let (group, capacity) = (buffers.group, buffers.capacity)
        #expect(group == 5)
        #expect(capacity == 2)
        unsafe buffers.add(memory.base, count: 16, id: 100)
        unsafe buffers.add(memory.base + 16, count: 16, id: 101)
        buffers.publish()

        var entry = SubmissionEntry.receiveMultishot(left.value).tagged(1)
        entry.bufferGroup = 5
        _ = ring.enqueue(entry)
        try ring.submit()
        for (index, text) in ["first", "second"].enumerated() {
            unsafe write(right.value, text, text.utf8.count)
            let completion = try ring.collect(1)[0]
            #expect(completion.result == Int32(text.utf8.count))
            #expect(completion.bufferID == UInt16(100 + index))
            #expect(completion.more)
            let received = memory.text(index * 16..<index * 16 + text.utf8.count)
            #expect(received == text)
        }
        if capabilities.bufferRingStatus {
            let head = try buffers.head()
            let added = buffers.added
            #expect(head == 2)
            #expect(added == 2)
        }
        // No buffer is left: the data stays in the socket and the operation ends.
        unsafe write(right.value, "third", 5)
        let starved = try ring.collect(1)[0]
        #expect(starved.result == -ENOBUFS)
        #expect(!starved.more)
        #expect(starved.bufferID == nil)

        unsafe buffers.add(memory.base, count: 16, id: 100)
        buffers.publish()
        let again = try ring.run([entry])[0]
        #expect(again.result == 5)
        #expect(again.bufferID == 100)
        let received = memory.text(0..<5)
        #expect(received == "third")
        unsafe buffers.add(memory.base, count: 16, id: 100)
        buffers.publish()
        shutdown(right.value, Int32(SHUT_WR))
        let end = try ring.collect(1)[0]
        #expect(end.result == 0)
        #expect(!end.more)
    }

    @Test(.kernel { $0.multishotReceive })
    func `The ring of buffers wraps around many times`() throws {
        var ring = try smallRing()
        let pair = try socketPair()
        let left = try Descriptor(pair.0)
        let right = try Descriptor(pair.1)
        let memory = Memory(64)
        var buffers = try BufferRing(for: ring.submitter, group: 0, entries: 4)
        for id in 0..<4 as Range<UInt16> { unsafe buffers.add(memory.base + Int(id) * 16, count: 16, id: id) }
        buffers.publish()
        let entry = SubmissionEntry.receiveMultishot(left.value).tagged(1)
        _ = ring.enqueue(entry)
        try ring.submit()
        // More than the 16 bits of the tail count.
        var wrong = 0
        for round in 0..<70_000 {
            var byte = UInt8(truncatingIfNeeded: round)
            unsafe write(right.value, &byte, 1)
            let any = try ring.submitAndWait(timeout: patience)
            try #require(any)
            let completion = ring.completion(at: 0)
            ring.advance(by: 1)
            let id = try #require(completion.bufferID)
            let place = unsafe memory.base + Int(id) * 16
            if unsafe place.load(as: UInt8.self) != byte || !completion.more { wrong += 1 }
            unsafe buffers.add(place, count: 16, id: id)
            buffers.publish()
        }
        #expect(wrong == 0)
    }

    @Test func `A read takes a buffer too`() throws {
        var ring = try smallRing()
        let file = try temporaryFile()
        unsafe write(file.value, "file", 4)
        let memory = Memory(16)
        var buffers = try BufferRing(for: ring.submitter, group: 1, entries: 1)
        unsafe buffers.add(memory.base, count: 16, id: 9)
        buffers.publish()
        var entry = unsafe SubmissionEntry.read(file.value, into: nil, count: 16, offset: 0).tagged(1, .bufferSelect)
        entry.bufferGroup = 1
        let completion = try ring.run([entry])[0]
        #expect(completion.result == 4)
        #expect(completion.bufferID == 9)
        let text = memory.text(4)
        #expect(text == "file")
    }

    @Test(.kernel { $0.supports(.readMultishot) })
    func `A pipe is read again and again`() throws {
        var ring = try smallRing()
        var ends: [Int32] = [-1, -1]
        unsafe pipe(&ends)
        let reading = try Descriptor(ends[0])
        let writing = try Descriptor(ends[1])
        let memory = Memory(32)
        var buffers = try BufferRing(for: ring.submitter, group: 1, entries: 2)
        unsafe buffers.add(memory.base, count: 16, id: 0)
        unsafe buffers.add(memory.base + 16, count: 16, id: 1)
        buffers.publish()
        _ = ring.enqueue(SubmissionEntry.readMultishot(reading.value, bufferGroup: 1))
        try ring.submit()
        for _ in 0..<2 {
            unsafe write(writing.value, "x", 1)
            let completion = try ring.collect(1)[0]
            #expect(completion.result == 1)
            #expect(completion.more)
        }
        _ = memory.count
    }

    @Test(.kernel { $0.incrementalBufferRings })
    func `An incremental ring uses a buffer up in parts`() throws {
        var ring = try smallRing()
        let pair = try socketPair()
        let left = try Descriptor(pair.0)
        let right = try Descriptor(pair.1)
        let memory = Memory(16)
        var buffers = try BufferRing(for: ring.submitter, group: 1, entries: 1, incremental: true)
        unsafe buffers.add(memory.base, count: 16, id: 3)
        buffers.publish()
        var entry = SubmissionEntry.receiveMultishot(left.value)
        entry.bufferGroup = 1
        _ = ring.enqueue(entry)
        try ring.submit()
        for text in ["ab", "cd"] {
            unsafe write(right.value, text, 2)
            let completion = try ring.collect(1)[0]
            #expect(completion.bufferID == 3)
            #expect(completion.bufferMore)
        }
        let text = memory.text(4)
        #expect(text == "abcd")
    }

    @Test func `A ring of buffers of a wrong size or a taken group is refused`() throws {
        let ring = try smallRing()
        for entries in [0, 3, 65536] as [UInt32] {
            let error = #expect(throws: RingError.self) {
                _ = try BufferRing(for: ring.submitter, group: 0, entries: entries)
            }
            #expect(error?.kind == .invalidConfiguration)
        }
        do {
            let first = try BufferRing(for: ring.submitter, group: 0, entries: 1)
            let error = #expect(throws: RingError.self) {
                _ = try BufferRing(for: ring.submitter, group: 0, entries: 1)
            }
            #expect(error?.errno == .fileExists)
            _ = first.capacity
        }
        // The group is free once the first one is gone.
        let second = try BufferRing(for: ring.submitter, group: 0, entries: 1)
        let added = second.added
        #expect(added == 0)
        _ = ring.features
    }
}
