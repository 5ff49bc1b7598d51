#ifndef MILONGA_RCONN_H
#define MILONGA_RCONN_H

/* An asynchronous Redis connection that keeps itself alive: connects, authenticates, checks the
 * server, learns its run id, reconnects with backoff, loads scripts on NOSCRIPT, bounds the number of
 * commands in flight, and ends every command with a reply or NULL. Bound to one loop and one thread:
 * the loop lends itself by the table `struct rloop_ops` (libshared/wire/rlink.c has one over poll(2),
 * services/api one over h2o's loop).
 *
 * A second rconn in `subscriber` mode takes published messages. After each (re)connect `on_up` is
 * called: whatever was published meanwhile is lost, so the owner looks at the state anew there. */

#include "base/err.h"
#include "wire/script.h"

#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <stdbool.h>

struct rconn;

struct rloop_ops {
    /* Hooks ac->ev up to the loop. 0 or negative. The loop's cleanup hook undoes it. */
    int (*attach)(void *loop, redisAsyncContext *ac);
    /* One-shot timer; returns a handle that is dead once cb has run or it was stopped. */
    void *(*timer_start)(void *loop, unsigned ms, void (*cb)(void *arg), void *arg);
    void (*timer_stop)(void *loop, void *timer);
};

struct rconn_options {
    const char *url;    /* unix:///path[?db=N], redis://[user:pass@]host:port[/db]; host is resolved on a
                           thread of its own, never on the loop */
    const char *prefix; /* KEYS[1] of every script, e.g. "{milonga}" */
    unsigned timeout_ms;   /* of a command; a connection that does not answer is dropped */
    unsigned max_inflight; /* commands; beyond it a call ends at once with NULL */
    bool subscriber;
    void (*on_up)(struct rconn *c, void *arg); /* may be NULL */
    void (*on_down)(struct rconn *c, const char *why, void *arg); /* may be NULL */
    void (*on_message)(struct rconn *c, const char *channel, const char *data, size_t len,
                       void *arg); /* subscriber only */
    void *arg;
};

/* Copies the options. Connects from the loop's next turn on. */
struct rconn *rconn_new(const struct rconn_options *opt, const struct rloop_ops *ops, void *loop);
/* Ends all commands with NULL, then frees. Not from inside a callback. */
void rconn_free(struct rconn *c);

bool rconn_is_up(const struct rconn *c);
/* The 40-hex run id of the server behind this connection; "" while it is down. Scripts that give out
 * ids or tokens take it as ARGV[1] and refuse when Redis was restarted since (docs/protocol.md). */
const char *rconn_run_id(const struct rconn *c);

/* Why it is down, for people; "" while it is up. */
const char *rconn_why(const struct rconn *c);

/* reply is NULL when the connection failed (whether the command was executed is then unknown), and
 * is freed after cb returns. cb is called exactly once per call, never from inside the call. */
typedef void rconn_reply_fn(struct rconn *c, redisReply *reply, void *arg);

void rconn_eval(struct rconn *c, const struct script *s, int argc, const char *const *argv,
                const size_t *argvlen, rconn_reply_fn *cb, void *arg);
void rconn_command(struct rconn *c, int argc, const char *const *argv, const size_t *argvlen,
                   rconn_reply_fn *cb, void *arg);
void rconn_subscribe(struct rconn *c, const char *channel); /* stays across reconnects */
void rconn_unsubscribe(struct rconn *c, const char *channel);

#endif
