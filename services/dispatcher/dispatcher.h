#ifndef MILONGA_DISPATCHER_H
#define MILONGA_DISPATCHER_H

/* The dispatcher: which job goes where next, retries, deadlines, pools' targets, callbacks. It
 * holds nothing that can not be read from Redis again, and one of several is active at a time
 * (lead.h); every script of it is refused to any other.
 *
 * lead:   the lease
 * duty:   vmms' leases, assignment, pools' targets
 * ids:    ids and generation
 * chores: closing jobs
 * outbox: callbacks
 * retain: forgets old jobs, collects the store
 *
 * A thread each, so that a slow disk, a slow frontend or a large store never keeps a job waiting or
 * loses the lease; they share this struct and wake each other by the functions below. */

#include "base/config.h"
#include "services/dispatcher/lead.h"
#include "wire/rlink.h"
#include "wire/store.h"

struct duty;
struct ids;
struct chores;
struct outbox;
struct retain;

struct dispatcher {
    const struct config *cfg;
    struct rlink *link;
    struct store *store;
    struct lead *lead;
    struct duty *duty;
    struct ids *ids;
    struct chores *chores;
    struct outbox *outbox;
    struct retain *retain;
};

/* Runs a script whose ARGV[1] is the fence; argv[0] is set here and must be left free. 0 with *ret
 * (the caller's to rlink_reply_free) when it answered "ok". -EPERM: this dispatcher is not the
 * active one, which the lead is told. -ESTALE: Redis is another one than we thought. -EAGAIN:
 * another word, "moved" and the like. All ERR_TEMPORARY. Else as rlink_eval. */
int dispatcher_ask(struct dispatcher *d, const struct script *s, int argc, const char **argv,
                   const size_t *argvlen, redisReply **ret, struct error *err);
/* The same by another link than the dispatcher's. */
int dispatcher_ask_by(struct dispatcher *d, struct rlink *link, const struct script *s, int argc,
                      const char **argv, const size_t *argvlen, redisReply **ret,
                      struct error *err);

/* A number as text, for argv. */
struct number {
    char text[24];
};
struct number number(int64_t v);

/* The lead was gained or lost: everybody looks again. */
void dispatcher_lead_changed(struct dispatcher *d);

#endif
