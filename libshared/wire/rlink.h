#ifndef MILONGA_RLINK_H
#define MILONGA_RLINK_H

/* One thread with Redis on it, for processes whose other threads may block (dispatcher, vmm): a
 * command connection and a subscriber over one poll loop. Any thread may call; calls are pipelined
 * on the one connection.
 *
 * Calls are taken whenever the command connection is up, also before on_up and while only the
 * subscriber is away. */

#include "base/err.h"
#include "wire/rconn.h"
#include "wire/script.h"

#define RLINK_SEND_MAX       4096
#define RLINK_SEND_BYTES_MAX (32 * 1024 * 1024)

struct rlink;

struct rlink_options {
    const char *url;
    const char *prefix;
    unsigned timeout_ms;
    const char *const *channels; /* without prefix, NULL-ended; subscribed as prefix + ":" + name */
    /* On the link's thread; must not block and must not call rlink_eval. The channel is without the
     * prefix. */
    void (*on_message)(const char *channel, const char *data, size_t len, void *arg);
    /* Command connection and subscriptions are (again) up, resp. down. */
    void (*on_up)(void *arg);
    /* Also when it can not come up at first, once a reason. */
    void (*on_down)(const char *why, void *arg);
    /* on_up and on_down as on_message: on the link's thread, must not block or call rlink_eval. */
    void *arg;
};

/* Does not wait for Redis. Copies the options. Fails on a URL that is none (ERR_PERMANENT, EINVAL)
 * and when there is no thread or descriptor left (ERR_TEMPORARY). */
int rlink_start(const struct rlink_options *opt, struct rlink **ret, struct error *err);
/* Ends calls under way with ECONNABORTED, joins the thread, frees. NULL is fine. */
void rlink_stop(struct rlink *l);

bool rlink_is_up(struct rlink *l);
/* Of the server behind the command connection; "" while that is down. */
void rlink_run_id(struct rlink *l, char out[41]);
/* The number of the command connection, another for each that is made; 0 while it is down. What was
 * called between two equal ones that are not 0 was on one connection, as WAIT needs it: on a new
 * one it waits for nothing. */
uint64_t rlink_connection(struct rlink *l);

/* Runs a script and waits for its answer. Args are binary-safe; argvlen may be NULL for C strings.
 * On success *ret is the caller's to rlink_reply_free(). A Redis error reply is a failure:
 * ERR_TEMPORARY with EBUSY/ENOMEM/EROFS for BUSY, OOM,
 * READONLY/LOADING/MISCONF/MASTERDOWN/NOREPLICAS, else ERR_BUG with EPROTO. No connection, or lost
 * while waiting: ERR_TEMPORARY with ENOTCONN resp. ECONNRESET; in the second case the script may
 * have run. */
int rlink_eval(struct rlink *l, const struct script *s, int argc, const char *const *argv,
               const size_t *argvlen, redisReply **ret, struct error *err);

/* A plain command, likewise. */
int rlink_command(struct rlink *l, int argc, const char *const *argv, const size_t *argvlen,
                  redisReply **ret, struct error *err);

/* Sends and forgets (output of a job): copies the args; ordered with other calls from the same
 * thread; bounded (RLINK_SEND_MAX calls, RLINK_SEND_BYTES_MAX of args that are not answered yet),
 * and refused with -EAGAIN beyond that or while down. After 0, done is called once for certain, by
 * rlink_stop() at the latest. done(arg, reply) is called on the link's thread,
 * reply NULL when it failed; done may be NULL. */
int rlink_send(struct rlink *l, const struct script *s, int argc, const char *const *argv,
               const size_t *argvlen, void (*done)(void *arg, const redisReply *reply), void *arg);

void rlink_reply_free(redisReply *r);
void rlink_reply_freep(redisReply **r);
#define cleanup_reply __attribute__((cleanup(rlink_reply_freep)))

#endif
