#define _GNU_SOURCE
#include "bench_echo.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

enum tag { TAG_ACCEPT = 1, TAG_RECEIVE, TAG_SEND, TAG_SHUTDOWN, TAG_CLOSE, TAG_STOP };

enum { BUFFER_GROUP = 0, NO_BUFFER = 0xffff, SUBMISSION_ENTRIES = 2048, COMPLETION_ENTRIES = 16384 };

struct connection {
    uint16_t head, tail;  // received buffers that wait to be sent back, in order
    bool receiving, sending, broken;
    bool crowded;    // the socket had no room for a silent send
    bool silent;     // the send under way gives no completion, unless it fails or comes short
    uint32_t round;  // in which that was started
};

struct server {
    const struct bench_echo_config *config;
    struct bench_counters *counters;
    struct io_uring ring;
    struct io_uring_buf_ring *buffers;
    uint8_t *memory;
    uint32_t buffer_count;
    uint32_t returned;  // buffers put back since the last advance
    struct connection *connections;
    struct {
        uint32_t offset, length;
        uint16_t next;
    } *chunks;  // indexed by buffer id
    uint32_t *starved;
    uint32_t starved_count;
    uint32_t *silent;  // connections with a silent send since the last enter; at most max_connections
    uint32_t *settled;
    uint32_t silent_count, round;
    bool behind;  // one of them has more to send, which must not sleep behind it
    bool accepting;
};

static uint64_t pack(enum tag tag, uint32_t connection) {
    return (uint64_t)tag << 56 | connection;
}

static struct io_uring_sqe *entry(struct server *server) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&server->ring);
    if (!sqe) {
        // The submission queue is full: one enter empties it.
        bench_count(&server->counters->system_calls, 1);
        io_uring_submit(&server->ring);
        sqe = io_uring_get_sqe(&server->ring);
    }
    return sqe;
}

static void start_accept(struct server *server) {
    struct io_uring_sqe *sqe = entry(server);
    io_uring_prep_multishot_accept_direct(sqe, server->config->listener, NULL, NULL, 0);
    io_uring_sqe_set_data64(sqe, pack(TAG_ACCEPT, 0));
    server->accepting = true;
}

static void start_receive(struct server *server, uint32_t index) {
    struct io_uring_sqe *sqe = entry(server);
    io_uring_prep_recv_multishot(sqe, (int)index, NULL, 0, 0);
    sqe->flags |= IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
    io_uring_sqe_set_data64(sqe, pack(TAG_RECEIVE, index));
    server->connections[index].receiving = true;
}

// One send of a connection is in flight at a time: two could be reordered when the first one has to wait for room.
static void start_send(struct server *server, uint32_t index) {
    struct connection *connection = &server->connections[index];
    uint16_t id = connection->head;
    struct io_uring_sqe *sqe = entry(server);
    const uint8_t *start = server->memory + (size_t)id * server->config->buffer_bytes + server->chunks[id].offset;
    io_uring_prep_send(sqe, (int)index, start, server->chunks[id].length, MSG_WAITALL | MSG_NOSIGNAL);
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(sqe, pack(TAG_SEND, index));
    connection->sending = true;
    // Tried at once or not at all, so that a send that was not heard of when its enter has returned is done. What the
    // socket has no room for is sent in the ordinary way, with a completion.
    connection->silent = server->chunks[id].offset == 0 && !connection->crowded
                         && server->silent_count < server->config->max_connections;
    if (connection->silent) {
        sqe->msg_flags |= MSG_DONTWAIT;
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
        connection->round = server->round;
        server->silent[server->silent_count++] = index;
        server->behind |= server->chunks[id].next != NO_BUFFER;
    }
    connection->crowded = false;
}

static void return_buffer(struct server *server, uint16_t id) {
    io_uring_buf_ring_add(server->buffers, server->memory + (size_t)id * server->config->buffer_bytes,
                          server->config->buffer_bytes, id, io_uring_buf_ring_mask(server->buffer_count),
                          (int)server->returned++);
}

static void pop_buffer(struct server *server, struct connection *connection) {
    uint16_t id = connection->head;
    connection->head = server->chunks[id].next;
    return_buffer(server, id);
}

static void close_when_idle(struct server *server, uint32_t index) {
    struct connection *connection = &server->connections[index];
    if (connection->receiving || connection->sending)
        return;
    while (connection->head != NO_BUFFER)
        pop_buffer(server, connection);
    struct io_uring_sqe *sqe = entry(server);
    io_uring_prep_close_direct(sqe, index);
    io_uring_sqe_set_data64(sqe, pack(TAG_CLOSE, index));
}

static void accepted(struct server *server, const struct io_uring_cqe *cqe) {
    if (cqe->res >= 0) {
        uint32_t index = (uint32_t)cqe->res;
        server->connections[index] = (struct connection){.head = NO_BUFFER, .tail = NO_BUFFER};
        bench_count(&server->counters->accepts, 1);
        start_receive(server, index);
    }
    if (!(cqe->flags & IORING_CQE_F_MORE)) {
        server->accepting = false;
        // A full descriptor table is retried when a connection closes.
        if (cqe->res >= 0)
            start_accept(server);
    }
}

static void received(struct server *server, const struct io_uring_cqe *cqe, uint32_t index) {
    struct connection *connection = &server->connections[index];
    bool more = cqe->flags & IORING_CQE_F_MORE;
    connection->receiving = more;
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        uint16_t id = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        if (cqe->res <= 0 || connection->broken) {
            return_buffer(server, id);
        } else {
            bench_count(&server->counters->bytes, (uint64_t)cqe->res);
            bench_count(&server->counters->receives, 1);
            server->chunks[id].offset = 0;
            server->chunks[id].length = (uint32_t)cqe->res;
            server->chunks[id].next = NO_BUFFER;
            if (connection->head == NO_BUFFER)
                connection->head = id;
            else
                server->chunks[connection->tail].next = id;
            connection->tail = id;
            if (!connection->sending)
                start_send(server, index);
            else if (connection->silent)
                server->behind = true;
        }
    }
    if (more)
        return;
    if (cqe->res == -ENOBUFS)
        server->starved[server->starved_count++] = index;  // armed again when sends have given buffers back
    else if (cqe->res > 0 && !connection->broken)
        start_receive(server, index);
    else {
        connection->broken = true;
        if (!connection->sending)
            close_when_idle(server, index);
    }
}

static void sent(struct server *server, const struct io_uring_cqe *cqe, uint32_t index) {
    struct connection *connection = &server->connections[index];
    uint16_t id = connection->head;
    connection->sending = false;
    connection->silent = false;
    if (cqe->res == -EAGAIN) {
        connection->crowded = true;
    } else if (cqe->res < 0) {
        connection->broken = true;
        if (connection->receiving) {
            // Ends the receive, whose last completion closes the connection.
            struct io_uring_sqe *sqe = entry(server);
            io_uring_prep_shutdown(sqe, (int)index, SHUT_RDWR);
            sqe->flags |= IOSQE_FIXED_FILE;
            io_uring_sqe_set_data64(sqe, pack(TAG_SHUTDOWN, index));
            return;
        }
    } else if ((uint32_t)cqe->res < server->chunks[id].length) {
        server->chunks[id].offset += (uint32_t)cqe->res;
        server->chunks[id].length -= (uint32_t)cqe->res;
    } else {
        pop_buffer(server, connection);
    }
    if (connection->head != NO_BUFFER && (cqe->res >= 0 || connection->crowded))
        start_send(server, index);
    else if (connection->broken)
        close_when_idle(server, index);
}

// Returns true when the server has to end.
static bool handle(struct server *server, const struct io_uring_cqe *cqe) {
    uint64_t data = io_uring_cqe_get_data64(cqe);
    uint32_t index = (uint32_t)data;
    switch ((enum tag)(data >> 56)) {
    case TAG_ACCEPT:
        accepted(server, cqe);
        break;
    case TAG_RECEIVE:
        received(server, cqe, index);
        break;
    case TAG_SEND:
        sent(server, cqe, index);
        break;
    case TAG_CLOSE:
        if (!server->accepting)
            start_accept(server);
        break;
    case TAG_SHUTDOWN:
        break;
    case TAG_STOP:
        return true;
    }
    return false;
}

// After an enter: every silent send that it submitted is done, unless a completion in the queue tells of it.
static void settle(struct server *server) {
    struct io_uring_cqe *cqe;
    unsigned head;
    if (!server->silent_count || io_uring_sq_ready(&server->ring)
        || IO_URING_READ_ONCE(*server->ring.sq.kflags) & IORING_SQ_CQ_OVERFLOW)
        return;
    io_uring_for_each_cqe(&server->ring, head, cqe) {
        uint64_t data = io_uring_cqe_get_data64(cqe);
        if (data >> 56 == TAG_SEND)
            server->connections[(uint32_t)data].silent = false;
    }
    uint32_t *settling = server->silent, count = server->silent_count;
    server->silent = server->settled;
    server->settled = settling;
    server->silent_count = 0;
    server->behind = false;
    uint32_t round = server->round++;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = settling[i];
        struct connection *connection = &server->connections[index];
        if (!connection->silent || connection->round != round)
            continue;
        connection->silent = connection->sending = false;
        pop_buffer(server, connection);
        if (connection->broken)
            close_when_idle(server, index);
        else if (connection->head != NO_BUFFER)
            start_send(server, index);
    }
}

static int serve(struct server *server) {
    struct io_uring_sqe *sqe = entry(server);
    io_uring_prep_poll_add(sqe, server->config->stop, POLLIN);
    io_uring_sqe_set_data64(sqe, pack(TAG_STOP, 0));
    start_accept(server);

    for (bool stop = false; !stop;) {
        bench_count(&server->counters->system_calls, 1);
        int result = server->behind ? io_uring_submit_and_get_events(&server->ring)
                                    : io_uring_submit_and_wait(&server->ring, 1);
        if (result < 0 && result != -EINTR && result != -EBUSY && result != -EAGAIN)
            return result;
        settle(server);
        struct io_uring_cqe *cqe;
        unsigned head, count = 0;
        io_uring_for_each_cqe(&server->ring, head, cqe) {
            stop |= handle(server, cqe);
            count++;
        }
        io_uring_cq_advance(&server->ring, count);
        if (server->returned) {
            io_uring_buf_ring_advance(server->buffers, (int)server->returned);
            server->returned = 0;
            while (server->starved_count) {
                uint32_t index = server->starved[--server->starved_count];
                // It may have been closed, and its number given to a new connection, since it starved.
                if (!server->connections[index].broken && !server->connections[index].receiving)
                    start_receive(server, index);
            }
        }
    }
    return 0;
}

static int set_up_ring(struct server *server) {
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL
                 | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
        .cq_entries = COMPLETION_ENTRIES,
    };
    int result = io_uring_queue_init_params(SUBMISSION_ENTRIES, &server->ring, &params);
    if (result)
        return result;
    io_uring_register_ring_fd(&server->ring);  // an optimisation: its failure changes nothing else
    result = io_uring_register_files_sparse(&server->ring, server->config->max_connections);
    if (result)
        goto failed;

    size_t ring_bytes = server->buffer_count * sizeof(struct io_uring_buf);
    server->buffers = mmap(NULL, ring_bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
    if (server->buffers == MAP_FAILED) {
        server->buffers = NULL;
        result = -ENOMEM;
        goto failed;
    }
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)server->buffers,
        .ring_entries = server->buffer_count,
        .bgid = BUFFER_GROUP,
    };
    result = io_uring_register_buf_ring(&server->ring, &registration, 0);
    if (result)
        goto failed;
    io_uring_buf_ring_init(server->buffers);
    for (uint32_t id = 0; id < server->buffer_count; id++)
        return_buffer(server, (uint16_t)id);
    io_uring_buf_ring_advance(server->buffers, (int)server->returned);
    server->returned = 0;
    return 0;

failed:
    io_uring_queue_exit(&server->ring);
    return result;
}

int bench_echo_uring(const struct bench_echo_config *config, struct bench_counters *counters) {
    struct server server = {.config = config, .counters = counters, .buffer_count = 256};
    // Two for each connection, in the range that a provided-buffer ring accepts and a buffer id can name.
    while (server.buffer_count < 2 * config->max_connections && server.buffer_count < 32768)
        server.buffer_count <<= 1;
    size_t memory_bytes = (size_t)server.buffer_count * config->buffer_bytes;
    server.memory = aligned_alloc(4096, (memory_bytes + 4095) / 4096 * 4096);
    server.connections = calloc(config->max_connections, sizeof *server.connections);
    server.starved = calloc(config->max_connections, sizeof *server.starved);
    server.silent = calloc(config->max_connections, sizeof *server.silent);
    server.settled = calloc(config->max_connections, sizeof *server.settled);
    server.chunks = calloc(server.buffer_count, sizeof *server.chunks);
    int result = -ENOMEM;
    if (server.memory && server.connections && server.starved && server.chunks && server.silent && server.settled) {
        result = set_up_ring(&server);
        if (!result) {
            result = serve(&server);
            io_uring_queue_exit(&server.ring);
        }
    }
    if (server.buffers)
        munmap(server.buffers, server.buffer_count * sizeof(struct io_uring_buf));
    free(server.memory);
    free(server.connections);
    free(server.starved);
    free(server.silent);
    free(server.settled);
    free(server.chunks);
    return result;
}
