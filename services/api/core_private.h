#ifndef MILONGA_API_CORE_PRIVATE_H
#define MILONGA_API_CORE_PRIVATE_H

/* What the files of the core share. */

#include "base/mem.h"
#include "services/api/core.h"

struct waits;

struct core {
    struct core_env env;
    struct rconn *redis;
    struct waits *waits;
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

/* Element i of a reply as text; "" when there is none. Lives as long as the reply. */
const char *core_text(const redisReply *r, size_t i);
size_t core_text_len(const redisReply *r, size_t i);

/* "sha256 md5 size" as in P:lab; false when it is something else. */
bool core_file_parse(const char *text, struct core_file *ret);

void core_waits_start(struct core *c);

#endif
