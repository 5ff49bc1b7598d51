#ifndef MILONGA_API_CORE_PRIVATE_H
#define MILONGA_API_CORE_PRIVATE_H

/* What the files of the core share. */

#include "base/mem.h"
#include "services/api/core.h"
#include "services/api/core_hub.h"

struct waits;
struct watches;
struct feed;
struct syncs;

struct core {
    struct core_env env;
    struct rconn *redis;
    struct hub *hub;
    struct waits *waits;
    struct watches *watches; /* core_watch.c */
    struct feed *feed;       /* core_feed.c */
    struct syncs *syncs;     /* core_sync.c */
};

/* The part that all operations begin with. */
struct core_op {
    struct core *core;
    core_done_fn *done;
    void *arg;
    int64_t give_up; /* core_again(): mono ms; 0 before the first time */
};

/* Runs a script. `status` is its first string ("ok", ...); NULL when it failed, and then `why` says
 * so. */
typedef void core_script_fn(void *op, const char *status, redisReply *reply, const char *why);
void core_script(struct core_op *op, const struct script *s, int argc, const char *const *argv,
                 const size_t *argvlen, core_script_fn *fn);

/* Ends the operation: calls done. The caller frees op. */
void core_end(struct core_op *op, struct core_answer *a);
void core_fail(struct core_op *op, const char *why);

/* The one place that waits for the dispatcher to take charge of a new Redis or to give out more
 * ids: calls again(op) a little later and returns true, or false when that went on for too long. */
bool core_again(struct core_op *op, void (*again)(void *op));

/* Calls fn(op) when as many replicas of Redis as redis_replicas asks for have what was written by a
 * script that has been answered; with false when they may not have it. At once where it asks for
 * none. */
typedef void core_sync_fn(void *op, bool synced);
void core_sync(struct core_op *op, core_sync_fn *fn);

/* "sha256 md5 size" as in P:lab; false when it is something else. */
bool core_file_parse(const char *text, struct core_file *ret);

void core_waits_start(struct core *c);
void core_watches_start(struct core *c);
void core_feed_start(struct core *c);
void core_syncs_start(struct core *c);

#endif
