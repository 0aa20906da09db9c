import CBaselines
import Glibc
import NIOCore
import NIOPosix

/// What the harness reads. NIO's single event loop writes it.
@safe
private final class Harness: @unchecked Sendable {
    let peer: UnsafeMutablePointer<bench_peer>

    init?() {
        guard let peer = unsafe bench_peer_begin(CommandLine.argc, CommandLine.unsafeArgv, "") else { return nil }
        unsafe self.peer = peer
    }
}

/// As in SwiftNIO's own NIOEchoServer: write what was read, flush when the reading is complete.
private final class EchoHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let harness: Harness

    init(_ harness: Harness) {
        self.harness = harness
    }

    func channelActive(context: ChannelHandlerContext) {
        unsafe bench_peer_accepted(harness.peer)
        context.fireChannelActive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        unsafe bench_peer_received(harness.peer, Self.unwrapInboundIn(data).readableBytes)
        context.write(data, promise: nil)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.flush()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}

/// The server of SwiftNIO's own example with one event loop, on the harness's socket.
@main
enum EchoNIO {
    static func main() throws {
        guard let harness = Harness() else { exit(64) }
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let listener = try ServerBootstrap(group: group)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(BackPressureHandler())
                    try channel.pipeline.syncOperations.addHandler(EchoHandler(harness))
                }
            }
            .childChannelOption(.maxMessagesPerRead, value: 16)
            .childChannelOption(.recvAllocator, value: AdaptiveRecvByteBufferAllocator())
            .withBoundSocket(unsafe harness.peer.pointee.listener)
            .wait()
        var event = unsafe pollfd(fd: harness.peer.pointee.stop, events: Int16(POLLIN), revents: 0)
        while unsafe poll(&event, 1, -1) < 1 {}
        try listener.close().wait()
        try group.syncShutdownGracefully()
        exit(unsafe bench_peer_end(harness.peer))
    }
}
