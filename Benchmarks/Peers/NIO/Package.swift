// swift-tools-version: 6.2
import PackageDescription

// A package of its own, so that the benchmark does not resolve SwiftNIO unless somebody asks for this row.
var settings: [SwiftSetting] = [
    .strictMemorySafety(),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]
if Context.environment["IOCP_WARNINGS_AS_ERRORS"] != nil {
    settings.append(.treatAllWarnings(as: .error))
}

let package = Package(
    name: "swift-iocp-peer-nio",
    products: [.executable(name: "echo-nio", targets: ["echo-nio"])],
    dependencies: [
        .package(name: "swift-iocp-benchmarks", path: "../.."),
        .package(url: "https://github.com/apple/swift-nio", from: "2.80.0"),
    ],
    targets: [
        .executableTarget(
            name: "echo-nio",
            dependencies: [
                .product(name: "CBaselines", package: "swift-iocp-benchmarks"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ],
            swiftSettings: settings
        )
    ]
)
