/// How a row is drawn: the same throughout a report, by what it stands for.
struct Contestant: Equatable {
    /// The CSS class that sets its colour.
    var style: String
    /// The pattern of its lines, for those who do not see colours.
    var dashes: String

    /// By the beginning of a row's identifier; the first that fits.
    private static let known: [(prefix: String, Contestant)] = [
        ("raw-", Contestant(style: "k-raw", dashes: "")),
        ("nio", Contestant(style: "k-nio", dashes: "7 3")),
        ("swift-nio", Contestant(style: "k-nio", dashes: "7 3")),
        ("asio-epoll", Contestant(style: "k-asio2", dashes: "2 3")),
        ("asio", Contestant(style: "k-asio", dashes: "8 3 2 3")),
        ("libuv", Contestant(style: "k-uv", dashes: "4 3")),
        ("fio", Contestant(style: "k-fio", dashes: "5 2 1 2")),
        ("epoll", Contestant(style: "k-epoll", dashes: "1 3")),
        ("pread", Contestant(style: "k-plain", dashes: "3 2")),
        ("read-write", Contestant(style: "k-plain", dashes: "3 2")),
        ("mutex", Contestant(style: "k-lock", dashes: "6 2")),
        ("condition", Contestant(style: "k-lock", dashes: "6 2")),
    ]
    private static let others = (0..<4).map { Contestant(style: "k-other\($0)", dashes: "\(2 + $0) \(2 + $0 % 2)") }
    private static let subjects = [
        Contestant(style: "k-iocp", dashes: ""), Contestant(style: "k-iocp2", dashes: "9 3"),
        Contestant(style: "k-iocp3", dashes: "3 3"), Contestant(style: "k-iocp4", dashes: "9 3 3 3"),
    ]

    /// - Parameter index: the row's place among the rows of its case that are of the same kind, the library's or not.
    static func of(_ row: Results.RowResult, index: Int) -> Contestant {
        if row.role == .subject { return subjects[index % subjects.count] }
        return known.first { row.id.hasPrefix($0.prefix) }?.1 ?? others[index % others.count]
    }

    static func all(of rows: [Results.RowResult]) -> [Contestant] {
        var subjects = 0
        var others = 0
        return rows.map { row in
            defer { if row.role == .subject { subjects += 1 } else { others += 1 } }
            return of(row, index: row.role == .subject ? subjects : others)
        }
    }
}
