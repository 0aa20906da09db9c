import ArgumentParser
import CBaselines
import FoundationEssentials
import Glibc

/// A library or a program of others that rows stand for. What is built for it is described in `Peers/Makefile`.
enum Peer: String, CaseIterable, Codable, Sendable {
    case nio, asio, libuv, fio

    var title: String {
        switch self {
        case .nio: "SwiftNIO"
        case .asio: "asio"
        case .libuv: "libuv"
        case .fio: "fio"
        }
    }

    /// What to run where it is missing.
    var remedy: String {
        switch self {
        case .nio: "make -C Benchmarks/Peers nio (or --peers nio): it resolves and builds SwiftNIO, some minutes"
        case .asio: "apt-get install g++ make libasio-dev liburing-dev"
        case .libuv: "apt-get install gcc make libuv1-dev"
        case .fio: "apt-get install fio"
        }
    }

    /// A program of it, of those in `Peers/`; nil for one that is installed.
    var program: String? {
        switch self {
        case .nio: "nio/release/echo-nio"
        case .asio: "echo-asio-uring"
        case .libuv: "echo-libuv"
        case .fio: nil
        }
    }
}

/// Which peers a run is to have.
enum PeerSelection: ExpressibleByArgument {
    case present, all
    case named([Peer])

    init?(argument: String) {
        switch argument {
        case "all": self = .all
        case "none": self = .named([])
        default:
            let peers = argument.split(separator: ",").map { Peer(rawValue: String($0)) }
            guard !peers.isEmpty, !peers.contains(nil) else { return nil }
            self = .named(peers.compactMap(\.self))
        }
    }

    var peers: [Peer] {
        if case .named(let peers) = self { peers } else { Peer.allCases }
    }

    /// Whether it is built even if that takes minutes.
    func asks(for peer: Peer) -> Bool {
        if case .present = self { false } else { true }
    }

    /// Whether the run has failed without it.
    func demands(_ peer: Peer) -> Bool {
        if case .named(let peers) = self { peers.contains(peer) } else { false }
    }
}

/// Whether a peer can be had here. Making one builds what has to be built.
struct PeerState: Codable, Sendable {
    var peer: Peer
    /// With its version, where it is there.
    var title: String
    /// What would bring it, if it is not there.
    var missing: String?

    /// - Parameter isAsked: otherwise SwiftNIO's row is taken only as it was built before.
    init(_ peer: Peer, isAsked: Bool) {
        self.peer = peer
        title = peer.title
        do {
            let version = try Self.version(of: peer, isAsked: isAsked)
            title += " " + version.drop { !$0.isNumber }.filter { !$0.isWhitespace }
        } catch {
            missing = "\(error)"
        }
    }

    private static func version(of peer: Peer, isAsked: Bool) throws -> String {
        guard let program = peer.program else {
            do {
                return try ChildProcess(["--version"], program: peer.rawValue).output(within: 10)
            } catch {
                throw Failure(peer.remedy)
            }
        }
        let programs = try PeerPrograms()
        if peer == .nio, !isAsked {
            guard programs.isBuilt(program, from: "NIO/Sources/echo-nio/EchoNIO.swift") else {
                throw Failure(peer.remedy)
            }
        } else {
            guard programs.make("have-\(peer.rawValue)", within: 30) else { throw Failure(peer.remedy) }
            guard programs.make(peer.rawValue, within: 1800) else {
                throw Failure("make -C \(programs.sources) \(peer.rawValue), which failed just now, has to succeed")
            }
        }
        return peer == .nio
            ? try String(contentsOfFile: programs.path("nio/version"), encoding: .utf8)
            : try ChildProcess(["--version"], program: programs.path(program)).output(within: 10)
    }
}

/// The comparators' programs: their sources are beside those of this executable, and their folder in the build folder.
struct PeerPrograms {
    let sources: String
    private let build: String

    init() throws {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let length = try unsafe check(readlink("/proc/self/exe", &buffer, buffer.count), "finding this executable")
        let parts = String(decoding: buffer[..<length].map(UInt8.init(bitPattern:)), as: UTF8.self)
            .split(separator: "/")
        let packages = parts.indices.reversed().map { "/" + parts[..<$0].joined(separator: "/") }
        guard let package = packages.first(where: { unsafe access($0 + "/Peers/Makefile", R_OK) == 0 }) else {
            throw Failure("run the executable in the package that it was built in: Peers/ is not above it")
        }
        sources = package + "/Peers"
        build = package + "/.build/peers"
    }

    func path(_ program: String) -> String { "\(build)/\(program)" }

    func isBuilt(_ program: String, from source: String) -> Bool {
        func modified(_ path: String) -> Int? {
            var status = stat()
            return unsafe stat(path, &status) == 0 ? status.st_mtim.tv_sec : nil
        }
        guard let built = modified(path(program)), let source = modified("\(sources)/\(source)") else { return false }
        return built >= source
    }

    /// Whether it succeeded; what it has to say goes to standard error.
    func make(_ target: String, within seconds: Double) -> Bool {
        let arguments = ["-s", "-C", sources, "BUILD=\(build)", target]
        return (try? ChildProcess(arguments, program: "make").output(within: seconds)) != nil
    }
}
