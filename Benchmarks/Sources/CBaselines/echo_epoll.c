#define _GNU_SOURCE
#include "bench_echo.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 1024 };

// Reads go through one shared buffer; a connection gets memory of its own only when its peer does not take the reply.
struct connection {
    int descriptor;
    uint8_t *pending;
    size_t offset, length;
    struct connection *next_closed;
};

struct server {
    const struct bench_echo_config *config;
    struct bench_counters *counters;
    int epoll;
    uint8_t *buffer;
    struct connection *closed;  // freed after the batch: a later event of it may still name one
};

static void close_connection(struct server *server, struct connection *connection) {
    if (connection->descriptor < 0)
        return;
    close(connection->descriptor);
    connection->descriptor = -1;
    bench_count(&server->counters->system_calls, 1);
    connection->next_closed = server->closed;
    server->closed = connection;
}

// Returns bytes taken by the socket, or -1 when the connection is of no use any more.
static ssize_t send_some(struct server *server, struct connection *connection, const uint8_t *bytes, size_t length) {
    size_t done = 0;
    while (done < length) {
        bench_count(&server->counters->system_calls, 1);
        ssize_t result = send(connection->descriptor, bytes + done, length - done, MSG_NOSIGNAL);
        if (result >= 0)
            done += (size_t)result;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            return -1;
    }
    return (ssize_t)done;
}

// Returns true when nothing is left to send, so reading may go on.
static bool flush_pending(struct server *server, struct connection *connection) {
    if (!connection->length)
        return true;
    ssize_t sent = send_some(server, connection, connection->pending + connection->offset, connection->length);
    if (sent < 0) {
        close_connection(server, connection);
        return false;
    }
    connection->offset += (size_t)sent;
    connection->length -= (size_t)sent;
    return connection->length == 0;
}

static void echo(struct server *server, struct connection *connection, bool peer_closed) {
    if (!flush_pending(server, connection))
        return;
    for (;;) {
        bench_count(&server->counters->system_calls, 1);
        ssize_t received = recv(connection->descriptor, server->buffer, server->config->buffer_bytes, 0);
        if (received < 0 && errno == EINTR)
            continue;
        if (received < 0 && errno == EAGAIN)
            return;
        if (received <= 0) {
            close_connection(server, connection);
            return;
        }
        bench_count(&server->counters->bytes, (uint64_t)received);
        bench_count(&server->counters->receives, 1);
        ssize_t sent = send_some(server, connection, server->buffer, (size_t)received);
        if (sent < 0) {
            close_connection(server, connection);
            return;
        }
        if (sent < received) {
            if (!connection->pending)
                connection->pending = malloc(server->config->buffer_bytes);
            if (!connection->pending) {
                close_connection(server, connection);
                return;
            }
            connection->offset = 0;
            connection->length = (size_t)(received - sent);
            memcpy(connection->pending, server->buffer + sent, connection->length);
            return;  // EPOLLOUT brings us back
        }
        // epoll(7): a read of less than was asked for has drained a stream; what comes later is a new edge.
        // Only the end of the stream needs one more read.
        if ((size_t)received < server->config->buffer_bytes && !peer_closed)
            return;
    }
}

static void accept_all(struct server *server) {
    for (;;) {
        bench_count(&server->counters->system_calls, 1);
        int descriptor = accept4(server->config->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            return;
        }
        struct connection *connection = calloc(1, sizeof *connection);
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = connection};
        bench_count(&server->counters->system_calls, 1);
        if (!connection || epoll_ctl(server->epoll, EPOLL_CTL_ADD, descriptor, &event)) {
            close(descriptor);
            free(connection);
            continue;
        }
        connection->descriptor = descriptor;
        bench_count(&server->counters->accepts, 1);
    }
}

static int serve(struct server *server) {
    static struct epoll_event events[EVENTS];
    for (bool stop = false; !stop;) {
        bench_count(&server->counters->system_calls, 1);
        int count = epoll_wait(server->epoll, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            return -errno;
        for (int i = 0; i < count; i++) {
            void *what = events[i].data.ptr;
            if (what == &server->config->listener) {
                accept_all(server);
            } else if (what == &server->config->stop) {
                stop = true;
            } else {
                struct connection *connection = what;
                if (connection->descriptor >= 0)
                    echo(server, connection, events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
            }
        }
        while (server->closed) {
            struct connection *connection = server->closed;
            server->closed = connection->next_closed;
            free(connection->pending);
            free(connection);
        }
    }
    return 0;
}

int bench_echo_epoll(const struct bench_echo_config *config, struct bench_counters *counters) {
    struct server server = {.config = config, .counters = counters};
    int flags = fcntl(config->listener, F_GETFL);
    if (flags < 0 || fcntl(config->listener, F_SETFL, flags | O_NONBLOCK))
        return -errno;
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (server.epoll < 0)
        return -errno;
    int result = -ENOMEM;
    server.buffer = malloc(config->buffer_bytes);
    if (server.buffer) {
        // The two descriptors that are not connections are told apart by the addresses of their settings.
        struct epoll_event listener = {.events = EPOLLIN, .data.ptr = (void *)&config->listener};
        struct epoll_event stop = {.events = EPOLLIN, .data.ptr = (void *)&config->stop};
        if (epoll_ctl(server.epoll, EPOLL_CTL_ADD, config->listener, &listener)
            || epoll_ctl(server.epoll, EPOLL_CTL_ADD, config->stop, &stop))
            result = -errno;
        else
            result = serve(&server);
    }
    free(server.buffer);
    close(server.epoll);
    return result;
}
