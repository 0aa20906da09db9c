// What an echo server in a program of its own needs to stand in for a row: the same command line, the same listening
// socket, the same counters and the same answers as the rows that the harness has inside.
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

#include "bench_support.h"

struct bench_peer {
    int listener;              // a listening TCP socket on 127.0.0.1 with TCP_NODELAY, which accepted sockets inherit
    int stop;                  // becomes readable when the server has to end
    uint32_t max_connections;  // connections at one time
    uint32_t buffer_bytes;     // a good size for one receive
    int signals;
    uint8_t apart[64];               // what follows has a cache line to itself
    struct bench_counters counters;  // written by the server's thread
};

// Takes `--connections`, `--buffer-bytes`, `--processor` and `--port` from the command line, listens, prints the first
// line, and answers every later line on standard input with a snapshot, on a thread of its own. `version` is the
// peer's, which `--version` prints. Returns null, with the reason on standard error, when the process has to end. The peer is never freed.
struct bench_peer *bench_peer_begin(int argc, char *const *argv, const char *version);

// Prints the last snapshot, after the server has come to its end. Returns the status for the process to exit with.
int bench_peer_end(struct bench_peer *peer);

static inline void bench_peer_accepted(struct bench_peer *peer) {
    bench_count(&peer->counters.accepts, 1);
}

static inline void bench_peer_received(struct bench_peer *peer, size_t bytes) {
    bench_count(&peer->counters.bytes, bytes);
    bench_count(&peer->counters.receives, 1);
}

#endif
