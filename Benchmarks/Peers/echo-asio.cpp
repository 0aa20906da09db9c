// An echo server on standalone asio, as its own asynchronous TCP echo server does it: a session that keeps itself alive,
// async_read_some, async_write, a buffer in the session. One thread, and the io_context is told so. Built twice: for
// epoll, asio's own choice on Linux, and with ASIO_HAS_IO_URING and ASIO_DISABLE_EPOLL, which is how its documentation
// has sockets use io_uring.
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <asio.hpp>

extern "C" {
#include "bench_peer.h"
}

using asio::ip::tcp;

namespace {

bench_peer *peer;

class Session : public std::enable_shared_from_this<Session> {
public:
    explicit Session(tcp::socket socket) : socket_(std::move(socket)), buffer_(peer->buffer_bytes) {}

    void read() {
        socket_.async_read_some(asio::buffer(buffer_),
                                [self = shared_from_this()](std::error_code error, std::size_t length) {
                                    // Without another operation the session goes, and closes its socket.
                                    if (error)
                                        return;
                                    bench_peer_received(peer, length);
                                    self->write(length);
                                });
    }

private:
    void write(std::size_t length) {
        asio::async_write(socket_, asio::buffer(buffer_.data(), length),
                          [self = shared_from_this()](std::error_code error, std::size_t) {
                              if (!error)
                                  self->read();
                          });
    }

    tcp::socket socket_;
    std::vector<char> buffer_;
};

void accept(tcp::acceptor &acceptor) {
    acceptor.async_accept([&acceptor](std::error_code error, tcp::socket socket) {
        if (!error) {
            bench_peer_accepted(peer);
            std::make_shared<Session>(std::move(socket))->read();
        } else if (error == asio::error::operation_aborted) {
            return;
        }
        accept(acceptor);
    });
}

}  // namespace

int main(int argc, char **argv) {
    const std::string version = std::to_string(ASIO_VERSION / 100000) + "." + std::to_string(ASIO_VERSION / 100 % 1000)
                                + "." + std::to_string(ASIO_VERSION % 100);
    peer = bench_peer_begin(argc, argv, version.c_str());
    if (!peer)
        return 64;
    try {
        // One thread runs it, and the others never touch it: the end comes as an event like any other.
        asio::io_context context(ASIO_CONCURRENCY_HINT_UNSAFE);
        tcp::acceptor acceptor(context, tcp::v4(), peer->listener);
        asio::posix::stream_descriptor stop(context, peer->stop);
        stop.async_wait(asio::posix::stream_descriptor::wait_read, [&context](std::error_code) { context.stop(); });
        accept(acceptor);
        context.run();
        return bench_peer_end(peer);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
        return 1;
    }
}
