#ifndef MILONGA_RCONN_H
#define MILONGA_RCONN_H

/* An asynchronous Redis connection that keeps itself alive: connects, authenticates, checks the
 * server, learns its run id, reconnects with backoff, loads scripts on NOSCRIPT, bounds the number
 * of commands in flight, and ends every command with a reply or NULL. Bound to one loop and one
 * thread: the loop lends itself by the table `struct rloop_ops` (libshared/wire/rpoll.h has one
 * over poll(2), services/api one over h2o's loop). SIGPIPE must be ignored or blocked there:
 * hiredis uses write(2).
 *
 * A second rconn in `subscriber` mode takes published messages. After each (re)connect `on_up` is
 * called: whatever was published meanwhile is lost, so the owner looks at the state anew there.
 *
 *            +------------------------- lost, refused, too slow ------------------------+
 *            v                                                                          |
 *   waiting (backoff) -> finding (names, Sentinels) -> connecting -> greeting -> up -----+
 *
 * Greeting is AUTH, SELECT, CLIENT SETNAME, INFO, CONFIG GET, PING, and for a subscriber all its
 * channels. With Sentinels a look at its role is among them, and they are asked again now and then,
 * and when it refuses writes. A server that is too old, evicts keys, is a replica that the
 * Sentinels took for the master, or is loading its data is left again, with the reason in
 * rconn_why(), and tried anew: people repair such things while we run. */

#include "base/err.h"
#include "wire/script.h"

#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <stdbool.h>

/* Bytes of a reason, for people */
#define RCONN_WHY 256

struct rconn;

struct rloop_ops {
    /* Hooks ac->ev up to the loop. 0 or negative. The loop's cleanup hook undoes it. */
    int (*attach)(void *loop, redisAsyncContext *ac);
    /* One-shot timer; returns a handle that is dead once cb has run or it was stopped. */
    void *(*timer_start)(void *loop, unsigned ms, void (*cb)(void *arg), void *arg);
    void (*timer_stop)(void *loop, void *timer);
};

struct rconn_options {
    const char *url;     /* see wire/rurl.h; a host is resolved on a thread of its own, never on the
                            loop */
    const char *prefix;  /* KEYS[1] of every script, e.g. "{milonga}" */
    unsigned timeout_ms; /* of a command or a greeting; a connection that does not answer is
                            dropped,   an idle one too (it is pinged) */
    unsigned max_inflight; /* commands; beyond it a call ends with NULL and is not sent */
    bool subscriber;
    /* A subscriber is up when Redis has confirmed all its channels. May be NULL. */
    void (*on_up)(struct rconn *c, void *arg);
    /* After each on_up at most once; and when it can not come up, once a reason. May be NULL. */
    void (*on_down)(struct rconn *c, const char *why, void *arg);
    void (*on_message)(struct rconn *c, const char *channel, const char *data, size_t len,
                       void *arg); /* subscriber only */
    /* Subscriber only, may be NULL: Redis confirmed this channel, so nothing that is published
     * there from now on is missed until the next on_down. Whoever subscribed while up reads the
     * state here. */
    void (*on_subscribed)(struct rconn *c, const char *channel, void *arg);
    void *arg;
};

/* Copies the options. Connects from the loop's next turn on. With a URL that is none (rurl_parse()
 * tells beforehand) it stays down for ever and says so by on_down. */
struct rconn *rconn_new(const struct rconn_options *opt, const struct rloop_ops *ops, void *loop);
/* Ends all commands with NULL, then frees. Not from inside a callback. The commands' callbacks must
 * not issue further commands then; on_down is not called. */
void rconn_free(struct rconn *c);

bool rconn_is_up(const struct rconn *c);
/* The 40-hex run id of the server behind this connection; "" while it is down. Scripts that give
 * out ids or tokens take it as ARGV[1] and refuse when Redis was restarted since
 * (docs/protocol.md). */
const char *rconn_run_id(const struct rconn *c);

/* Why it is down, for people; "" while it is up. */
const char *rconn_why(const struct rconn *c);

/* reply is NULL when the connection failed (whether the command was executed is then unknown), and
 * is freed after cb returns unless cb took it. cb is called exactly once per call, never from
 * inside the call. Commands are executed in the order of the calls, with one exception: what
 * NOSCRIPT made us send again (somebody flushed the scripts) comes behind what was sent meanwhile.
 */
typedef void rconn_reply_fn(struct rconn *c, redisReply *reply, void *arg);

void rconn_eval(struct rconn *c, const struct script *s, int argc, const char *const *argv,
                const size_t *argvlen, rconn_reply_fn *cb, void *arg);
void rconn_command(struct rconn *c, int argc, const char *const *argv, const size_t *argvlen,
                   rconn_reply_fn *cb, void *arg);
/* In a reply callback only: makes the reply the caller's, to be freed with freeReplyObject(). */
redisReply *rconn_take_reply(struct rconn *c, redisReply *reply);

/* Subscriber only. Subscribing twice is subscribing once. */
void rconn_subscribe(struct rconn *c, const char *channel); /* stays across reconnects */
void rconn_unsubscribe(struct rconn *c, const char *channel);

#endif
