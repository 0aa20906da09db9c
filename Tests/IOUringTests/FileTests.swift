import Glibc
import IOUring
import SystemPackage
import Testing

@Suite struct `Files` {
    @Test func `What is written is read back`() throws {
        var ring = try smallRing()
        let file = try temporaryFile()
        let output = Memory("Hello, ring!")
        let input = Memory(64)
        let results = try unsafe ring.results([
            SubmissionEntry.write(file.value, from: output.base, count: output.count, offset: 100).tagged(1, .link),
            SubmissionEntry.synchronize(file.value).tagged(2, .link),
            SubmissionEntry.synchronize(file.value, dataOnly: true).tagged(3, .hardLink),
            SubmissionEntry.read(file.value, into: input.base, count: 64, offset: 100).tagged(4),
        ])
        #expect(results == [1: 12, 2: 0, 3: 0, 4: 12])
        let text = input.text(12)
        #expect(text == "Hello, ring!")
    }

    @Test func `An offset of all ones is the file's own position`() throws {
        var ring = try smallRing()
        let file = try temporaryFile()
        let output = Memory("abc")
        for _ in 0..<2 {
            let completions = try unsafe ring.run([
                SubmissionEntry.write(file.value, from: output.base, count: 3, offset: .max)
            ])
            #expect(completions.first?.result == 3)
        }
        let position = lseek(file.value, 0, SEEK_CUR)
        #expect(position == 6)
    }

    @Test func `Several buffers are written and read at once`() throws {
        var ring = try smallRing()
        let file = try temporaryFile()
        let output = Memory("abcdef")
        let input = Memory(6)
        let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: 4)
        defer { unsafe vectors.deallocate() }
        unsafe vectors[0] = iovec(iov_base: output.base + 3, iov_len: 3)
        unsafe vectors[1] = iovec(iov_base: output.base, iov_len: 3)
        unsafe vectors[2] = iovec(iov_base: input.base, iov_len: 2)
        unsafe vectors[3] = iovec(iov_base: input.base + 2, iov_len: 4)
        let results = try unsafe ring.results([
            SubmissionEntry.writeVectored(file.value, from: vectors, count: 2, offset: 0).tagged(1, .link),
            SubmissionEntry.readVectored(file.value, into: vectors + 2, count: 2, offset: 0).tagged(2),
        ])
        #expect(results == [1: 6, 2: 6])
        let text = input.text(6)
        #expect(text == "defabc")
    }

    @Test func `A file is allocated`() throws {
        var ring = try smallRing()
        let file = try temporaryFile()
        let completions = try ring.run([SubmissionEntry.allocate(file.value, offset: 0, length: 10_000)])
        var status = stat()
        unsafe fstat(file.value, &status)
        if completions.first?.result == 0 { #expect(status.st_size == 10_000) }
    }

    @Test(.kernel { $0.supports(.truncate) })
    func `A file is truncated`() throws {
        var ring = try smallRing()
        let file = try temporaryFile()
        unsafe ftruncate(file.value, 10_000)
        var status = stat()
        let truncated = try ring.run([SubmissionEntry.truncate(file.value, length: 123)])
        #expect(truncated.first?.result == 0)
        unsafe fstat(file.value, &status)
        #expect(status.st_size == 123)
    }

    @Test func `A file is opened, and closed`() throws {
        var ring = try smallRing()
        let opened = try unsafe "/proc/self/cmdline".withCString { path in
            try unsafe ring.run([SubmissionEntry.openat(AT_FDCWD, path: path, flags: O_RDONLY | O_CLOEXEC)])
        }
        let fd = try #require(opened.first?.result)
        #expect(fd >= 0)
        let closed = try ring.run([SubmissionEntry.close(fd)])
        #expect(closed.first?.result == 0)
        let missing = try unsafe "/proc/self/no such file".withCString { path in
            try unsafe ring.run([SubmissionEntry.openat(AT_FDCWD, path: path, flags: O_RDONLY)])
        }
        #expect(missing.first?.result == -ENOENT)
    }

    @Test func `Data is spliced through a pipe`() throws {
        var ring = try smallRing()
        let source = try temporaryFile()
        let destination = try temporaryFile()
        let output = Memory("spliced")
        unsafe pwrite(source.value, output.base, 7, 0)
        var ends: [Int32] = [-1, -1]
        unsafe pipe(&ends)
        let reading = try Descriptor(ends[0])
        let writing = try Descriptor(ends[1])
        let results = try ring.results([
            SubmissionEntry.splice(from: source.value, offsetIn: 0, to: writing.value, count: 7).tagged(1, .link),
            SubmissionEntry.splice(from: reading.value, to: destination.value, offsetOut: 5, count: 7).tagged(2),
        ])
        #expect(results == [1: 7, 2: 7])
        let input = Memory(12)
        let count = unsafe pread(destination.value, input.base, 12, 0)
        #expect(count == 12)
        let text = input.text(5..<12)
        #expect(text == "spliced")
    }

    @Test func `Registered files are used by index`() throws {
        var ring = try smallRing()
        let file = try temporaryFile()
        let output = Memory("fixed")
        try ring.registerSparseFiles(count: 4)
        do throws(RingError) {
            try ring.registerSparseFiles(count: 4)
            Issue.record("registered twice")
        } catch {
            #expect(error.errno == .resourceBusy)
        }
        func write(at index: Int32) throws -> Int32? {
            try unsafe ring.run([
                SubmissionEntry.write(index, from: output.base, count: 5, offset: 0).tagged(1, .fixedFile)
            ]).first?.result
        }
        var result = try write(at: 2)
        #expect(result == -EBADF)
        try ring.updateFile(at: 2, with: file.value)
        result = try write(at: 2)
        #expect(result == 5)
        let closed = try ring.run([SubmissionEntry.close(registeredFile: 2)])
        #expect(closed.first?.result == 0)
        result = try write(at: 2)
        #expect(result == -EBADF)

        let replacements = [file.value, -1, file.value]
        let count = try unsafe replacements.withUnsafeBufferPointer { buffer in
            try unsafe ring.updateFiles(at: 1, with: buffer)
        }
        #expect(count == 3)
        result = try write(at: 3)
        #expect(result == 5)
        try ring.unregisterFiles()
        do throws(RingError) {
            try ring.unregisterFiles()
            Issue.record("unregistered twice")
        } catch {
            #expect(error.errno == .noSuchAddressOrDevice)
        }
        let descriptors = [file.value]
        try unsafe descriptors.withUnsafeBufferPointer { buffer in try unsafe ring.registerFiles(buffer) }
        result = try write(at: 0)
        #expect(result == 5)
    }

    @Test func `A file is opened among the registered ones`() throws {
        var ring = try smallRing()
        try ring.registerSparseFiles(count: 1)
        let input = Memory(4)
        let opened = try unsafe "/proc/self/stat".withCString { path in
            var entry = unsafe SubmissionEntry.openat(AT_FDCWD, path: path, flags: O_RDONLY)
            entry.fileIndex = 1
            return try ring.run([entry])
        }
        #expect(opened.first?.result == 0)
        let read = try unsafe ring.run([
            SubmissionEntry.read(0, into: input.base, count: 4, offset: 0).tagged(1, .fixedFile)
        ])
        #expect(read.first?.result == 4)
    }

    @Test func `Registered buffers are read into and written from`() throws {
        var ring = try smallRing()
        let file = try temporaryFile()
        let memory = Memory(8192, filledWith: UInt8(ascii: "x"))
        let vectors = unsafe [iovec(iov_base: memory.base, iov_len: 4096)]
        try unsafe vectors.withUnsafeBufferPointer { buffer in try unsafe ring.registerBuffers(buffer) }
        let results = try unsafe ring.results([
            SubmissionEntry.writeFixed(file.value, from: memory.base, count: 16, offset: 0, bufferIndex: 0)
                .tagged(1, .link),
            SubmissionEntry.readFixed(file.value, into: memory.base + 100, count: 16, offset: 0, bufferIndex: 0)
                .tagged(2),
        ])
        #expect(results == [1: 16, 2: 16])
        // Beyond the registered part, and beyond the table.
        let refused = try unsafe ring.results([
            SubmissionEntry.readFixed(file.value, into: memory.base + 4096, count: 16, offset: 0, bufferIndex: 0)
                .tagged(3),
            SubmissionEntry.readFixed(file.value, into: memory.base, count: 16, offset: 0, bufferIndex: 9).tagged(4),
        ])
        #expect(refused == [3: -EFAULT, 4: -EFAULT])
        try ring.unregisterBuffers()

        try ring.registerSparseBuffers(count: 2)
        let count = try unsafe vectors.withUnsafeBufferPointer { buffer in
            try unsafe ring.updateBuffers(at: 1, with: buffer)
        }
        #expect(count == 1)
        let updated = try unsafe ring.run([
            SubmissionEntry.readFixed(file.value, into: memory.base, count: 16, offset: 0, bufferIndex: 1)
        ])
        #expect(updated.first?.result == 16)
        try ring.unregisterBuffers()
        let kept = memory.text(100..<104)
        #expect(kept == "xxxx")
    }

    @Test func `The number of workers can be limited`() throws {
        let ring = try smallRing()
        let before = try ring.limitWorkers(bounded: 3, unbounded: 5)
        #expect(before.bounded > 0)
        let limits = try ring.limitWorkers(bounded: 0, unbounded: 0)
        #expect(limits == (3, 5))
    }
}
