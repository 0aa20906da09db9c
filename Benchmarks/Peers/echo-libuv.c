// An echo server on libuv, as its guide and its API documentation advise: a loop on one thread, uv_read_start with the
// memory given out in the allocation callback, uv_try_write first and a write request only for what the socket did not
// take; while that is under way the connection is not read.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "bench_peer.h"

struct connection {
    uv_tcp_t stream;  // first: a pointer to it is one to the connection
    uv_write_t write;
    char *unsent;  // what the socket did not take, while a write request is under way
};

static struct bench_peer *peer;
// Every read goes here: its bytes are written or copied before the next one.
static char *buffer;

static void check(int result, const char *doing) {
    if (result < 0) {
        fprintf(stderr, "echo-libuv: %s: %s\n", doing, uv_strerror(result));
        exit(1);
    }
}

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *result) {
    (void)handle;
    (void)suggested;
    *result = uv_buf_init(buffer, peer->buffer_bytes);
}

static void closed(uv_handle_t *handle) {
    free(((struct connection *)handle)->unsent);
    free(handle);
}

static void close_connection(struct connection *connection) {
    uv_handle_t *handle = (uv_handle_t *)&connection->stream;
    if (!uv_is_closing(handle))
        uv_close(handle, closed);
}

static void received(uv_stream_t *stream, ssize_t count, const uv_buf_t *bytes);

static void written(uv_write_t *write, int status) {
    struct connection *connection = write->data;
    free(connection->unsent);
    connection->unsent = NULL;
    if (status < 0 || uv_read_start((uv_stream_t *)&connection->stream, give_buffer, received) < 0)
        close_connection(connection);
}

static void received(uv_stream_t *stream, ssize_t count, const uv_buf_t *bytes) {
    struct connection *connection = (struct connection *)stream;
    if (count == 0)
        return;  // as EAGAIN
    if (count < 0) {
        close_connection(connection);
        return;
    }
    bench_peer_received(peer, (size_t)count);
    uv_buf_t reply = uv_buf_init(bytes->base, (unsigned)count);
    int sent = uv_try_write(stream, &reply, 1);
    if (sent == count)
        return;
    if (sent == UV_EAGAIN)
        sent = 0;
    if (sent < 0 || !(connection->unsent = malloc((size_t)(count - sent)))) {
        close_connection(connection);
        return;
    }
    memcpy(connection->unsent, bytes->base + sent, (size_t)(count - sent));
    uv_buf_t rest = uv_buf_init(connection->unsent, (unsigned)(count - sent));
    connection->write.data = connection;
    uv_read_stop(stream);
    if (uv_write(&connection->write, stream, &rest, 1, written) < 0)
        close_connection(connection);
}

static void connected(uv_stream_t *listener, int status) {
    check(status, "listening");
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection) {
        fprintf(stderr, "echo-libuv: no memory for a connection\n");
        exit(1);
    }
    uv_tcp_init(listener->loop, &connection->stream);
    uv_stream_t *stream = (uv_stream_t *)&connection->stream;
    if (uv_accept(listener, stream) < 0 || uv_read_start(stream, give_buffer, received) < 0) {
        close_connection(connection);
        return;
    }
    bench_peer_accepted(peer);
}

static void stopped(uv_poll_t *poll, int status, int events) {
    (void)status;
    (void)events;
    uv_stop(poll->loop);
}

int main(int argc, char **argv) {
    peer = bench_peer_begin(argc, argv, uv_version_string());
    if (!peer)
        return 64;
    buffer = malloc(peer->buffer_bytes);
    if (!buffer)
        return 71;
    uv_loop_t loop;
    uv_tcp_t listener;
    uv_poll_t stop;
    check(uv_loop_init(&loop), "making a loop");
    check(uv_poll_init(&loop, &stop, peer->stop), "watching for the end");
    check(uv_poll_start(&stop, UV_READABLE, stopped), "watching for the end");
    check(uv_tcp_init(&loop, &listener), "making a listener");
    check(uv_tcp_open(&listener, peer->listener), "taking the listening socket");
    check(uv_listen((uv_stream_t *)&listener, 4096, connected), "listening");
    uv_run(&loop, UV_RUN_DEFAULT);
    return bench_peer_end(peer);
}
