#include "services/api/core_private.h"

#include <stdio.h>
#include <sys/queue.h>

/* WAIT counts the replicas that have all that its connection wrote before, and holds up what comes
 * behind it on the connection. So there is one at a time: whoever comes while it is under way
 * shares the next. What another connection wrote, which a repeated request is answered from, is in
 * front of the message that we send along: messages go to replicas in the one stream of all writes.
 */

struct sync {
    STAILQ_ENTRY(sync) link;
    struct core_op *op;
    core_sync_fn *fn;
};
STAILQ_HEAD(sync_list, sync);

struct syncs {
    struct sync_list asked, next;
    char least[8], most_ms[16], *channel; /* nobody listens there */
};

void core_syncs_start(struct core *c)
{
    struct syncs *s = xcalloc(1, sizeof(*s));

    STAILQ_INIT(&s->asked);
    STAILQ_INIT(&s->next);
    snprintf(s->least, sizeof(s->least), "%d", (int)c->env.cfg->redis_replicas);
    /* Redis answers before the connection is given up. */
    snprintf(s->most_ms, sizeof(s->most_ms), "%d", (int)(c->env.cfg->redis_timeout_ms / 2));
    s->channel = xasprintf("%s:sync", c->env.cfg->redis_prefix);
    c->syncs = s;
}

static void list_end(struct sync_list *list, bool synced)
{
    struct sync *x;

    while ((x = STAILQ_FIRST(list))) {
        STAILQ_REMOVE_HEAD(list, link);
        x->fn(x->op, synced);
        free(x);
    }
}

static void ask(struct core *c);

static void answered(struct rconn *r, redisReply *reply, void *arg)
{
    struct core *c = arg;
    struct syncs *s = c->syncs;
    struct sync_list done = STAILQ_HEAD_INITIALIZER(done);

    (void)r;
    STAILQ_CONCAT(&done, &s->asked);
    if (!reply) /* with the connection, which those behind were on too */
        STAILQ_CONCAT(&done, &s->next);
    else if (!STAILQ_EMPTY(&s->next))
        ask(c);
    list_end(&done, reply && reply->type == REDIS_REPLY_INTEGER &&
                        reply->integer >= c->env.cfg->redis_replicas);
}

static void marked(struct rconn *r, redisReply *reply, void *arg)
{
    (void)r;
    (void)reply;
    (void)arg;
}

static void ask(struct core *c)
{
    struct syncs *s = c->syncs;
    const char *mark[] = {"PUBLISH", s->channel, ""}, *argv[] = {"WAIT", s->least, s->most_ms};

    STAILQ_CONCAT(&s->asked, &s->next);
    rconn_command(c->redis, 3, mark, NULL, marked, NULL);
    rconn_command(c->redis, 3, argv, NULL, answered, c);
}

void core_sync(struct core_op *op, core_sync_fn *fn)
{
    struct core *c = op->core;
    struct sync *x;

    if (c->env.cfg->redis_replicas == 0) {
        fn(op, true);
        return;
    }
    x = xcalloc(1, sizeof(*x));
    x->op = op;
    x->fn = fn;
    STAILQ_INSERT_TAIL(&c->syncs->next, x, link);
    if (STAILQ_EMPTY(&c->syncs->asked))
        ask(c);
}
