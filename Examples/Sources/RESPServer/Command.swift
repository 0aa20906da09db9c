import IOCP

/// A command that has come: its arguments lie in the buffer that it was received into.
struct Command {
    let buffer: IOBuffer
    let arguments: [Range<Int>]

    /// Carries the command out and writes its reply. Returns false if the connection ends after it.
    func execute(on store: Store, replies: inout ReplyWriter) -> Bool {
        // Nothing was asked: an empty line.
        guard let first = arguments.first else { return true }
        let name = buffer.string(in: first.prefix(32)).uppercased()
        switch name {
        case "PING":
            guard expect(1...2, name, &replies) else { break }
            if arguments.count == 2 { replies.bulk(buffer, arguments[1]) } else { replies.status("PONG") }
        case "ECHO":
            guard expect(2...2, name, &replies) else { break }
            replies.bulk(buffer, arguments[1])
        case "SET":
            guard expect(3...Int.max, name, &replies) else { break }
            // The options of Redis (EX, NX, …) are not for this example.
            guard arguments.count == 3 else {
                replies.error("syntax error")
                break
            }
            store.set(bytes(1), to: bytes(2))
            replies.status("OK")
        case "GET":
            guard expect(2...2, name, &replies) else { break }
            if let value = store.get(bytes(1)) { replies.bulk(value) } else { replies.null() }
        case "DEL":
            guard expect(2...Int.max, name, &replies) else { break }
            let removed = (1..<arguments.count).count { store.remove(bytes($0)) }
            replies.integer(Int64(removed))
        case "INCR":
            guard expect(2...2, name, &replies) else { break }
            increment(store, &replies)
        case "CONFIG":
            config(&replies)
        case "COMMAND":
            // What redis-cli asks for at its start, to help with typing; it manages without.
            replies.array(0)
        case "QUIT":
            replies.status("OK")
            return false
        default:
            replies.error("unknown command '\(buffer.string(in: first.prefix(128)))'")
        }
        return true
    }

    private func increment(_ store: Store, _ replies: inout ReplyWriter) {
        do {
            replies.integer(try store.increment(bytes(1)))
        } catch {
            switch error {
            case .notAnInteger: replies.error("value is not an integer or out of range")
            case .overflow: replies.error("increment or decrement would overflow")
            }
        }
    }

    /// Every setting has an empty value: redis-benchmark asks for two of them and prints what it gets.
    private func config(_ replies: inout ReplyWriter) {
        guard arguments.count == 3, buffer.string(in: arguments[1].prefix(8)).uppercased() == "GET" else {
            return replies.error("only CONFIG GET with one parameter is supported")
        }
        replies.array(2)
        replies.bulk(buffer, arguments[2])
        replies.bulk([])
    }

    private func bytes(_ index: Int) -> Bytes { buffer.array(in: arguments[index]) }

    /// Checks the number of arguments, the command's name included.
    private func expect(_ count: ClosedRange<Int>, _ name: String, _ replies: inout ReplyWriter) -> Bool {
        if count.contains(arguments.count) { return true }
        replies.error("wrong number of arguments for '\(name.lowercased())' command")
        return false
    }
}
