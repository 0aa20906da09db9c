// swift-tools-version: 6.2
import PackageDescription

/// As in the library's own package: unsafe code must say so.
var strict: [SwiftSetting] = [
    .strictMemorySafety(),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]
var warnings: [CSetting] = [.enableWarning("all"), .enableWarning("extra")]
// The gate sets this; a newer compiler's warnings must not break the builds of users.
if Context.environment["IOCP_WARNINGS_AS_ERRORS"] != nil {
    strict.append(.treatAllWarnings(as: .error))
    warnings.append(.treatAllWarnings(as: .error))
}

let package = Package(
    name: "swift-iocp-benchmarks",
    products: [
        .executable(name: "iocp-bench", targets: ["iocp-bench"]),
        // For the comparators that are packages of their own: see Peers/.
        .library(name: "CBaselines", targets: ["CBaselines"]),
    ],
    dependencies: [
        .package(name: "swift-iocp", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
        .package(url: "https://github.com/apple/swift-system", from: "1.5.0"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: [
        // The rows in C, and what C measures with.
        .target(
            name: "CBaselines",
            cSettings: warnings,
            linkerSettings: [.linkedLibrary("uring")]
        ),
        .executableTarget(
            name: "iocp-bench",
            dependencies: [
                "CBaselines",
                .product(name: "IOCP", package: "swift-iocp"),
                .product(name: "IOCPHosting", package: "swift-iocp"),
                .product(name: "IOUring", package: "swift-iocp"),
                .product(name: "SystemPackage", package: "swift-system"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "iocp-benchTests",
            dependencies: [
                "CBaselines", "iocp-bench", .product(name: "Histogram", package: "hdrhistogram-swift"),
            ]
        ),
    ]
)
