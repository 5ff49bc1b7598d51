#ifndef MILONGA_VMM_H
#define MILONGA_VMM_H

/* One vmm: a backend's driver, slots that run attempts on it, and a lease in Redis. This is what
 * its parts share; each part has a header and a thread or more of its own:
 *
 *   agent    lease and assignments: registers, renews, starts and stops attempts
 *   slot     a thread a slot; each runs attempt.c, one attempt at a time from top to bottom
 *   pool     keeps warm machines
 *   reaper   destroys machines behind the slots, removes strays at the backend
 *   watch    what the backend has (images)
 *   health   whether it works, and whose fault a failure is; no thread
 *   builds   takes images in
 *   fleet    which machines exist by our own doing; no thread
 *
 * Started and stopped by main.c, in an order that leaves every pointer here valid while any thread
 * runs. */

#include "base/config.h"
#include "machine.h"
#include "wire/rlink.h"
#include "wire/store.h"

struct agent;
struct builds;
struct fleet;
struct health;
struct pool;
struct reaper;
struct slots;
struct watch;

struct vmm {
    const struct config *cfg;
    const char *name; /* in Redis, and to the driver */
    unsigned slot_ct;
    const struct driver *driver;
    struct backend *backend;
    struct store *store;
    struct rlink *link;
    struct agent *agent;
    struct slots *slots;
    struct pool *pool;
    struct reaper *reaper;
    struct watch *watch;
    struct builds *builds;
    struct fleet *fleet;
    struct health *health;
};

/* The shape a job gets that gives no limits of its own, unless its image's pool is wished to be
 * otherwise (pool_shape). Borrows both texts. */
struct machine_shape vmm_default_shape(const struct vmm *v, char *image, char *digest);

/* Can its machines have a network? */
bool vmm_has_network(const struct vmm *v);

/* A plain Redis command on key PREFIX:suffix; as rlink_command. */
int vmm_hgetall(const struct vmm *v, const char *suffix, redisReply **ret, struct error *err);

/* The first string of a script's answer ("ok", "stale", "fenced", ...); "" when there is none. */
const char *reply_word(const redisReply *r);
/* Element i as a string; "" when there is none. */
const char *reply_str(const redisReply *r, size_t i);

#endif
