import Foundation
import Glibc
import Testing

extension Examples {
    @Suite("http-file-server") struct HTTPTests {
        @Test("files come with their type and length, several on one connection")
        func keepAlive() throws {
            let site = try Site()
            let server = try site.serve()
            let client = try Client(server.port)
            let index = try client.get("/")
            #expect(index.status == 200 && index.body == site.small)
            #expect(index.headers["content-type"] == "text/html; charset=utf-8")
            #expect(index.headers["connection"] == nil && index.headers["date"] != nil)
            #expect(try client.get("/a%20b.txt?query").body == Array("spaced".utf8))
            #expect(try client.get("/sub/").body == Array("sub".utf8))
            #expect(try client.get("/inside").body == Array("sub".utf8))
            #expect(try client.get("http://x/sub/../a%20b.txt").body == Array("spaced".utf8))
            let empty = try client.get("/empty.css")
            #expect(empty.status == 200 && empty.body.isEmpty && empty.headers["content-length"] == "0")
            let moved = try client.get("//sub")
            #expect(moved.status == 301 && moved.headers["location"] == "/sub/")
            #expect(server.stop() == 0)
        }

        @Test("a connection ends after the response when the client asks for it, or speaks HTTP/1.0 without keep-alive")
        func close() throws {
            let site = try Site()
            let server = try site.serve()
            for (request, stays) in [
                ("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false),
                ("GET / HTTP/1.0\r\n\r\n", false),
                ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
                ("GET / HTTP/1.1\r\nHost: x\r\nConnection: x, keep-alive\r\n\r\n", true),
            ] {
                let client = try Client(server.port)
                try client.send(request)
                let response = try client.response()
                #expect(response.status == 200 && response.body == site.small)
                #expect((response.headers["connection"] == "close") == !stays)
                if stays {
                    #expect(try client.get("/").status == 200)
                } else {
                    #expect(try client.receiveAll().isEmpty)
                }
            }
            #expect(server.stop() == 0)
        }

        @Test("pipelined requests are answered in order, large files among small ones")
        func pipelining() throws {
            let site = try Site()
            let server = try site.serve()
            let client = try Client(server.port)
            var all = ""
            for index in 0..<300 {
                all +=
                    "GET /\(index % 3 == 0 ? "big.bin" : "") HTTP/1.1\r\nHost: x\r\nRange: bytes=\(index)-\(index + 999)\r\n\r\n"
            }
            client.sendInBackground(Array(all.utf8))
            for index in 0..<300 {
                let response = try client.response()
                if index % 3 == 0 {
                    #expect(response.status == 206 && response.body == Array(site.big[index..<index + 1000]))
                } else {
                    #expect(response.status == (index < site.small.count ? 206 : 416))
                }
            }
            #expect(server.stop() == 0)
        }

        @Test("a head that comes a byte at a time is the same head")
        func bytewise() throws {
            let site = try Site()
            let server = try site.serve()
            let client = try Client(server.port)
            for byte in "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".utf8 {
                try client.send([byte])
                usleep(500)
            }
            #expect(try client.response().body == site.small)
            #expect(server.stop() == 0)
        }

        @Test(
            "one range is answered with 206 and that part",
            arguments: [
                ("bytes=0-0", 206, "h", "bytes 0-0/13"), ("bytes=7-", 206, "world\n", "bytes 7-12/13"),
                ("bytes=-6", 206, "world\n", "bytes 7-12/13"), ("bytes=-100", 206, "hello, world\n", "bytes 0-12/13"),
                ("bytes=7-99999999999999999999", 206, "world\n", "bytes 7-12/13"),
                ("bytes=13-", 416, nil, "bytes */13"), ("bytes=-0", 416, nil, "bytes */13"),
                ("bytes=5-2", 200, "hello, world\n", nil), ("bytes=0-1,3-4", 200, "hello, world\n", nil),
                ("lines=1-2", 200, "hello, world\n", nil), ("bytes=-", 200, "hello, world\n", nil),
            ] as [(String, Int, String?, String?)])
        func ranges(_ range: String, _ status: Int, _ body: String?, _ contentRange: String?) throws {
            let site = try Site()
            let server = try site.serve()
            let response = try Client(server.port).get("/", "Range: \(range)")
            #expect(response.status == status)
            if let body { #expect(String(decoding: response.body, as: UTF8.self) == body) }
            #expect(response.headers["content-range"] == contentRange)
            #expect(server.stop() == 0)
        }

        @Test("HEAD is answered as GET without the body; a file that has not changed with 304")
        func headAndConditional() throws {
            let site = try Site()
            let server = try site.serve()
            let client = try Client(server.port)
            for path in ["/big.bin", "/nothing"] {
                let whole = try client.get(path)
                try client.send("HEAD \(path) HTTP/1.1\r\nHost: x\r\n\r\n")
                let head = try client.response(hasBody: false)
                #expect(head.status == whole.status)
                #expect(head.headers["content-length"] == whole.headers["content-length"])
            }
            let modified = try #require(try client.get("/").headers["last-modified"])
            let unchanged = try client.get("/", "If-Modified-Since: \(modified)")
            #expect(unchanged.status == 304 && unchanged.body.isEmpty)
            #expect(try client.get("/", "Range: bytes=0-1", "If-Range: \(modified)").status == 206)
            #expect(try client.get("/", "Range: bytes=0-1", "If-Range: Thu, 01 Jan 1970 00:00:00 GMT").status == 200)
            #expect(server.stop() == 0)
        }

        @Test(
            "nothing outside of the directory is served, and no entry that is not a file",
            arguments: [
                "/nothing", "/../secret", "/%2e%2e/secret", "/sub/../../secret", "/escape", "/out/secret", "/out/",
                "/../root2/x", "/..%2froot2/x", "/fifo", "/index.html/", "/index.html/x", "/sub/nothing",
            ])
        func traversal(_ path: String) throws {
            let site = try Site()
            let server = try site.serve()
            let client = try Client(server.port)
            #expect(try client.get(path).status == 404)
            #expect(try client.get("/").status == 200)
            #expect(server.stop() == 0)
        }

        @Test(
            "requests that are none are refused, and the connection ends",
            arguments: [
                ("GET\r\n\r\n", 400), ("GET / HTTP/1.1\r\n\r\n", 400),
                ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
                ("GET x HTTP/1.1\r\nHost: x\r\n\r\n", 400), ("GET /  HTTP/1.1\r\nHost: x\r\n\r\n", 400),
                ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
                ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
                ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
                ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 405),
                ("GET / HTTP/1.1\r\nHost: x\r\nX: <20000 bytes>\r\n\r\n", 431),
            ])
        func refusals(_ request: String, _ status: Int) throws {
            let site = try Site()
            let server = try site.serve()
            let client = try Client(server.port)
            try client.send(
                request.replacingOccurrences(of: "<20000 bytes>", with: String(repeating: "a", count: 20_000)))
            let response = try client.response()
            #expect(response.status == status && response.headers["connection"] == "close")
            // Not reset: the client has time to read the answer.
            client.endSending()
            #expect(try client.receiveAll().isEmpty)
            #expect(server.stop() == 0)
        }

        @Test(
            "bad escapes are refused, and the connection goes on",
            arguments: ["/%", "/%2", "/%zz", "/%00", "/a%00.html", "/%+1"])
        func escapes(_ path: String) throws {
            let site = try Site()
            let server = try site.serve()
            let client = try Client(server.port)
            #expect(try client.get(path).status == 400)
            #expect(try client.get("/").status == 200)
            #expect(server.stop() == 0)
        }

        @Test("a large file arrives whole, at a slow reader too, while others are served")
        func largeFile() throws {
            let site = try Site()
            let server = try site.serve(["--workers", "1", "--limit", "1"])
            let slow = try (0..<10).map { _ in try Client(server.port, receiveBuffer: 4096) }
            for client in slow { try client.send("GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n") }
            let fast = try Client(server.port)
            #expect(try fast.get("/big.bin").body == site.big)
            #expect(try fast.get("/").body == site.small)
            let first = try slow[0].response()
            #expect(first.status == 200 && first.body == site.big)
            #expect(server.stop() == 0)
        }

        @Test("clients that go away in the middle of a file leave no descriptor behind")
        func resets() throws {
            let site = try Site()
            let server = try site.serve()
            #expect(try Client(server.port).get("/").status == 200)
            let before = server.openDescriptors
            for _ in 0..<30 {
                let client = try Client(server.port, receiveBuffer: 4096)
                client.resetOnClose()
                try client.send("GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
                _ = try client.receive(1000)
            }
            #expect(server.settles(atDescriptors: before))
            #expect(server.stop() == 0)
        }

        @Test("a response that is under way when SIGTERM comes is finished")
        func stopInFlight() throws {
            let site = try Site()
            let server = try site.serve()
            let client = try Client(server.port, receiveBuffer: 4096)
            try client.send("GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
            let idle = try Client(server.port)
            #expect(try idle.get("/").status == 200)
            server.signal()
            #expect(try idle.receiveAll().isEmpty)
            #expect(try client.response().body == site.big)
            let last = try client.response()
            #expect(last.body == site.small && last.headers["connection"] == "close")
            #expect(try client.receiveAll().isEmpty)
            #expect(server.wait() == 0)
        }

        @Test("a client that does not read delays the stop by the grace time and no more")
        func stopWithStuckClient() throws {
            let site = try Site()
            let server = try site.serve(["--grace", "1"])
            let client = try Client(server.port, receiveBuffer: 4096)
            try client.send("GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(try client.receive(10).count == 10)
            server.signal()
            #expect(server.wait(seconds: 0.5) == -1)
            #expect(server.wait(seconds: 5) == 0)
        }

        @Test("wrk finds no fault with it", .enabled(if: Tool.path("wrk") != nil), arguments: ["", "big.bin"])
        func wrk(_ path: String) throws {
            let site = try Site()
            let server = try site.serve()
            let (code, output) = try Tool.run(
                "wrk", ["-t1", "-c64", "-d2s", "http://127.0.0.1:\(server.port)/\(path)"])
            #expect(code == 0)
            #expect(output.contains("Requests/sec") && !output.contains("Non-2xx"), "\(output)")
            #expect(!output.contains("Socket errors") || path != "", "\(output)")
            #expect(server.stop() == 0)
        }
    }
}
