#define _GNU_SOURCE
#include "bench_echo.h"
#include "bench_schedule.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 64 };

struct server {
    const struct bench_echo_threads_config *config;
    int epoll;
    int result;
};

struct worker {
    struct server *server;
    struct bench_counters *counters;
    uint8_t *buffer;
    pthread_t thread;
};

// What an event is about: a descriptor, the listener's and the stop event's among them.
static int arm(struct worker *worker, int operation, int descriptor) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, .data.fd = descriptor};
    bench_count(&worker->counters->system_calls, 1);
    return epoll_ctl(worker->server->epoll, operation, descriptor, &event);
}

static bool send_all(struct worker *worker, int descriptor, size_t length) {
    for (size_t done = 0; done < length;) {
        bench_count(&worker->counters->system_calls, 1);
        ssize_t sent = send(descriptor, worker->buffer + done, length - done, MSG_NOSIGNAL);
        if (sent >= 0)
            done += (size_t)sent;
        else if (errno == EAGAIN)
            // The connection is this thread's alone, and few messages are under way: waiting is simplest.
            poll(&(struct pollfd){.fd = descriptor, .events = POLLOUT}, 1, -1);
        else if (errno != EINTR)
            return false;
    }
    return true;
}

static void echo(struct worker *worker, int descriptor) {
    const struct bench_echo_threads_config *config = worker->server->config;
    ssize_t received;
    do {
        bench_count(&worker->counters->system_calls, 1);
        received = recv(descriptor, worker->buffer, config->buffer_bytes, 0);
    } while (received < 0 && errno == EINTR);
    if (received > 0) {
        bench_count(&worker->counters->bytes, (uint64_t)received);
        bench_count(&worker->counters->receives, 1);
        if (config->work_nanoseconds)
            bench_burn(config->work_nanoseconds);
        if (send_all(worker, descriptor, (size_t)received) && !arm(worker, EPOLL_CTL_MOD, descriptor))
            return;
    } else if (received < 0 && errno == EAGAIN && !arm(worker, EPOLL_CTL_MOD, descriptor)) {
        return;
    }
    close(descriptor);
}

static void accept_all(struct worker *worker) {
    int listener = worker->server->config->listener;
    for (;;) {
        bench_count(&worker->counters->system_calls, 1);
        int descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (descriptor < 0)
            break;
        bench_count(&worker->counters->accepts, 1);
        if (arm(worker, EPOLL_CTL_ADD, descriptor))
            close(descriptor);
    }
    arm(worker, EPOLL_CTL_MOD, listener);
}

static void *serve(void *argument) {
    struct worker *worker = argument;
    struct server *server = worker->server;
    struct epoll_event events[EVENTS];
    for (bool stop = false; !stop;) {
        bench_count(&worker->counters->system_calls, 1);
        int count = epoll_wait(server->epoll, events, EVENTS, -1);
        if (count < 0 && errno != EINTR) {
            server->result = -errno;
            break;
        }
        for (int i = 0; i < count; i++) {
            int descriptor = events[i].data.fd;
            if (descriptor == server->config->stop)
                stop = true;
            else if (descriptor == server->config->listener)
                accept_all(worker);
            else
                echo(worker, descriptor);
        }
    }
    return NULL;
}

int bench_echo_epoll_threads(const struct bench_echo_threads_config *config, struct bench_counters *const *counters) {
    struct server server = {.config = config};
    int flags = fcntl(config->listener, F_GETFL);
    if (flags < 0 || fcntl(config->listener, F_SETFL, flags | O_NONBLOCK))
        return -errno;
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    struct worker *workers = calloc(config->threads, sizeof *workers);
    if (server.epoll < 0 || !workers)
        return -errno;
    bench_burn(0);
    // Not one-shot: it ends all threads.
    struct epoll_event stop = {.events = EPOLLIN, .data.fd = config->stop};
    struct epoll_event listener = {.events = EPOLLIN | EPOLLONESHOT, .data.fd = config->listener};
    if (epoll_ctl(server.epoll, EPOLL_CTL_ADD, config->stop, &stop)
        || epoll_ctl(server.epoll, EPOLL_CTL_ADD, config->listener, &listener))
        return -errno;
    for (uint32_t i = 0; i < config->threads; i++) {
        workers[i] = (struct worker){
            .server = &server, .counters = counters[i], .buffer = malloc(config->buffer_bytes)};
        if (!workers[i].buffer || pthread_create(&workers[i].thread, NULL, serve, &workers[i]))
            abort();
    }
    for (uint32_t i = 0; i < config->threads; i++) {
        pthread_join(workers[i].thread, NULL);
        free(workers[i].buffer);
    }
    free(workers);
    close(server.epoll);
    return server.result;
}
