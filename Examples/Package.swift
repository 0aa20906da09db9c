// swift-tools-version: 6.2
import PackageDescription

/// As strict as the library itself: what is unsafe says so.
var strict: [SwiftSetting] = [
    .strictMemorySafety(),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]
// The gate sets this; a newer compiler's warnings must not break anybody's build.
if Context.environment["IOCP_WARNINGS_AS_ERRORS"] != nil {
    strict.append(.treatAllWarnings(as: .error))
}

let package = Package(
    name: "Examples",
    products: [
        .executable(name: "echo-server", targets: ["EchoServer"]),
        .executable(name: "http-file-server", targets: ["HTTPFileServer"]),
        .executable(name: "resp-server", targets: ["RESPServer"]),
    ],
    dependencies: [
        .package(name: "swift-iocp", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
        .package(url: "https://github.com/apple/swift-system", from: "1.5.0"),
    ],
    targets: [
        // What the servers share: options, connections, the worker pool, the graceful stop.
        .target(
            name: "ExampleSupport",
            dependencies: [
                .product(name: "IOCP", package: "swift-iocp"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strict
        ),
        .executableTarget(name: "EchoServer", dependencies: ["ExampleSupport"], swiftSettings: strict),
        .executableTarget(
            name: "HTTPFileServer",
            dependencies: ["ExampleSupport", .product(name: "SystemPackage", package: "swift-system")],
            swiftSettings: strict
        ),
        .executableTarget(name: "RESPServer", dependencies: ["ExampleSupport"], swiftSettings: strict),
        // Drives the built executables as child processes.
        .testTarget(
            name: "ExampleTests", dependencies: ["EchoServer", "HTTPFileServer", "RESPServer"], swiftSettings: strict),
    ]
)
