// swift-tools-version: 6.2
import PackageDescription

/// Settings of every Swift target; language mode 6 comes from the tools version.
let modern: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]
/// Settings of the library: unsafe code must say so.
var strict = modern + [.strictMemorySafety()]
// The gate sets this; a newer compiler's warnings must not break the builds of users.
if Context.environment["IOCP_WARNINGS_AS_ERRORS"] != nil {
    strict.append(.treatAllWarnings(as: .error))
}

let package = Package(
    name: "swift-iocp",
    products: [
        .library(name: "IOUring", targets: ["IOUring"]),
        .library(name: "IOCP", targets: ["IOCP"]),
        .library(name: "IOCPHosting", targets: ["IOCPHosting", "CIOCPHosting"]),
        // The same as libiocp_hosting.so, for C and C++ that are not built by SwiftPM; see `make hosting`.
        .library(name: "iocp_hosting", type: .dynamic, targets: ["IOCPHosting", "CIOCPHosting"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-system", from: "1.5.0")
    ],
    targets: [
        // The C library itself, found by pkg-config.
        .systemLibrary(
            name: "CLiburing",
            path: "CLiburing",
            pkgConfig: "liburing",
            providers: [.apt(["liburing-dev"])]
        ),
        // A thin Swift ring over liburing.
        .target(
            name: "IOUring",
            dependencies: ["CLiburing", .product(name: "SystemPackage", package: "swift-system")],
            swiftSettings: strict
        ),
        // What Swift cannot say: thread-local storage, futex, membarrier, epoll. Debug builds have a seam for tests.
        .target(name: "CIOCPSupport", cSettings: [.define("IOCP_SEAM", .when(configuration: .debug))]),
        // The completion port.
        .target(
            name: "IOCP",
            dependencies: [
                "IOUring", "CLiburing", "CIOCPSupport",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: strict
        ),
        // The I/O completion interfaces of CLR hosting as binary v-tables: the header for C and C++.
        .target(name: "CIOCPHosting"),
        // A host for a runtime that asks for completion ports, and the runtime's side.
        .target(
            name: "IOCPHosting", dependencies: ["IOCP", "CIOCPHosting"],
            swiftSettings: strict
        ),
        // The server that README.md shows; ReadmeTests compares the two and runs it.
        .executableTarget(
            name: "ReadmeExample", dependencies: ["IOCP"], path: "Tests/ReadmeExample", swiftSettings: strict),
        // A runtime in C++ that drives a host through its v-table; InterfaceTests runs it.
        .executableTarget(
            name: "HostingClient", dependencies: ["IOCPHosting", "CIOCPHosting"], path: "Tests/HostingClient"),
        // A host in C++, for a runtime in Swift.
        .target(name: "HostingPeer", dependencies: ["IOCPHosting", "CIOCPHosting"], path: "Tests/HostingPeer"),
        // `make soak`: minutes of everything at once, each packet counted.
        .executableTarget(
            name: "Soak",
            dependencies: ["IOCP", "IOUring", .product(name: "SystemPackage", package: "swift-system")],
            path: "Tests/Soak", swiftSettings: modern),
        // Tests call the C library at will: they do not mark what is unsafe.
        .testTarget(name: "IOUringTests", dependencies: ["IOUring"], swiftSettings: modern),
        .testTarget(name: "IOCPTests", dependencies: ["IOCP", "IOUring"], swiftSettings: modern),
        .testTarget(
            name: "IOCPHostingTests",
            dependencies: [
                "IOCP", "IOCPHosting", "CIOCPHosting", "HostingPeer",
                .product(name: "SystemPackage", package: "swift-system"),
            ], swiftSettings: modern),
    ]
)

// The simulator looks into the library, optimized and with its seam open, and switches threads inside of it, where the
// checks of exclusive access would be confused: `make simulate` sets this.
if Context.environment["IOCP_SEAM"] != nil {
    let open: [SwiftSetting] = [
        .define("IOCP_SEAM"), .unsafeFlags(["-enable-testing", "-enforce-exclusivity=unchecked"]),
    ]
    for target in package.targets where target.name == "IOUring" || target.name == "IOCP" {
        target.swiftSettings = (target.swiftSettings ?? []) + open
    }
    for target in package.targets where target.name == "CIOCPSupport" { target.cSettings = [.define("IOCP_SEAM")] }
    package.targets += [
        .target(name: "CSimulation", dependencies: ["CIOCPSupport"], path: "Tests/Simulation/CSimulation"),
        .executableTarget(
            name: "iocp-simulate", dependencies: ["IOCP", "IOUring", "CIOCPSupport", "CLiburing", "CSimulation"],
            path: "Tests/Simulation/Simulation", swiftSettings: modern + open),
    ]
}
