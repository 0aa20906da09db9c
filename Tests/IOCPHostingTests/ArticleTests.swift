import Foundation
import Testing

@Suite("The article")
struct ArticleTests {
    @Test("its host of 40 lines is the one that is compiled here, and works")
    func host() throws {
        let tests = URL(filePath: #filePath).deletingLastPathComponent()
        let root = tests.deletingLastPathComponent().deletingLastPathComponent()
        let article = try String(
            contentsOf: root.appending(path: "Sources/IOCPHosting/IOCPHosting.docc/HostingARuntime.md"), encoding: .utf8
        )
        let source = try String(contentsOf: tests.appending(path: "HostInFortyLines.swift"), encoding: .utf8)
        #expect(article.contains("```swift\n\(source)```"))
        #expect(source.split(separator: "\n", omittingEmptySubsequences: false).count <= 45)
        let told = try sendOneByte()
        #expect(told == (0, 1))
    }
}
