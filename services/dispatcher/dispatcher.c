#include "services/dispatcher/dispatcher.h"

#include "services/dispatcher/duty.h"
#include "services/dispatcher/ids.h"
#include "services/dispatcher/outbox.h"
#include "services/dispatcher/reply.h"
#include "services/dispatcher/retain.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct number number(int64_t v)
{
    struct number n;

    snprintf(n.text, sizeof(n.text), "%lld", (long long)v);
    return n;
}

int dispatcher_ask_by(struct dispatcher *d, struct rlink *link, const struct script *s, int argc,
                      const char **argv, const size_t *argvlen, redisReply **ret, struct error *err)
{
    char fence[LEAD_FENCE_TEXT];
    redisReply *r = NULL;
    const char *word;
    int rc;

    if (!lead_fence(d->lead, fence))
        return err_set(err, ERR_TEMPORARY, EPERM, "not the active dispatcher");
    argv[0] = fence;
    rc = rlink_eval(link, s, argc, argv, argvlen, &r, err);
    argv[0] = NULL;
    if (rc < 0)
        return rc;
    word = reply_str(r, 0);
    if (strcmp(word, "ok") == 0) {
        *ret = r;
        return 0;
    }
    if (strcmp(word, "deposed") == 0) {
        lead_doubt(d->lead);
        rc = err_set(err, ERR_TEMPORARY, EPERM, "not the active dispatcher any more");
    } else if (strcmp(word, "stale") == 0) {
        rc = err_set(err, ERR_TEMPORARY, ESTALE, "Redis was started anew");
    } else {
        rc = err_set(err, ERR_TEMPORARY, EAGAIN, "script %s answered \"%.40s\"", s->name, word);
    }
    rlink_reply_free(r);
    return rc;
}

int dispatcher_ask(struct dispatcher *d, const struct script *s, int argc, const char **argv,
                   const size_t *argvlen, redisReply **ret, struct error *err)
{
    return dispatcher_ask_by(d, d->link, s, argc, argv, argvlen, ret, err);
}

void dispatcher_lead_changed(struct dispatcher *d)
{
    duty_look(d->duty, true);
    ids_look(d->ids);
    outbox_look(d->outbox);
    retain_look(d->retain);
}
