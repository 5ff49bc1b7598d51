#ifndef MILONGA_API_SERVER_H
#define MILONGA_API_SERVER_H

/* The HTTP server: one listener, a loop a thread, each with its connections and its core. */

#include "base/config.h"
#include "services/api/core.h"
#include "services/api/redis_h2o.h"
#include "services/api/route.h"
#include "services/api/workers.h"
#include "wire/store.h"

#include <h2o.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct server {
    const struct config *cfg;
    struct store *store;
    struct workers *workers;
    const struct route *routes;
    size_t route_ct;
    int64_t started_ms; /* mono */
    h2o_globalconf_t h2o;
    atomic_llong body_bytes; /* of bodies in flight */
    atomic_llong conn_ct;
    struct core_meter meter;
    atomic_bool draining;
    struct loop *loops;
    unsigned loop_ct;
};

struct conns;
struct streams;

/* What belongs to one thread. */
struct loop {
    struct server *server;
    h2o_context_t ctx;
    struct hloop *hloop;
    struct work_gate gate;
    struct core *core;
    struct conns *conns;
    struct streams *streams;            /* sse.c */
    h2o_multithread_receiver_t control; /* "drain" from another thread */
    pthread_t thread;
};

/* Listens and makes the loops, each but the first on a thread of its own, where it runs at once. On
 * failure *err says what to do about it. */
int server_start(struct server *s, struct error *err);

/* Runs loop 0 on this thread and the others on threads of their own, until TERM or INT; then
 * drains: requests under way get their answers, for `grace_ms` at most. Returns 0 when all were
 * answered. */
int server_run(struct server *s, int signal_fd, unsigned grace_ms);

#endif
