#include "services/dispatcher/reclaim.h"

#include "base/clock.h"
#include "base/image_name.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/dispatcher/chores.h"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/reply.h"
#include "services/dispatcher/scripts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Jobs that one run of `due` looks at. */
#define DUE_SLICE 200
/* Jobs of a placement without an image that go to the chores at once; the others follow. */
#define GONE_SLICE 100

static int reclaim(struct dispatcher *d, const struct vmm_view *v, struct error *err)
{
    struct number now = number(clock_wall_ms());
    const char *argv[] = {NULL, v->name, v->epoch, v->beat, now.text};
    cleanup_reply redisReply *r = NULL;
    int rc = dispatcher_ask(d, &script_reclaim, ARRAY_SIZE(argv), argv, NULL, &r, err);

    if (rc == -EAGAIN)
        return 0; /* it has spoken */
    if (rc < 0)
        return rc;
    log_event(LOG_WARN_, "vmm.lost", "vmm", v->name, "epoch", v->epoch, "attempts", reply_str(r, 1),
              "silent_ms", LOG_NUM(clock_mono_ms() - v->since), NULL);
    return 0;
}

int reclaim_silent(struct dispatcher *d, const struct world *w, struct error *err)
{
    int64_t now = clock_mono_ms();

    for (size_t i = 0; i < w->vmm_ct; i++) {
        int rc = 0;
        if (w->vmms[i]->up && now - w->vmms[i]->since >= d->cfg->lease_ms)
            rc = reclaim(d, w->vmms[i], err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void close_told(struct dispatcher *d, const char *why, const char *id, const char *detail)
{
    char text[300];

    if (strcmp(why, "age") == 0)
        snprintf(text, sizeof(text),
                 "Internal error: Job waited for over %lld seconds and was given up",
                 (long long)d->cfg->queue_max_age_s);
    else if (strcmp(why, "cancel") == 0)
        snprintf(text, sizeof(text), "Error: Job was cancelled");
    else if (strcmp(why, "poison") == 0)
        snprintf(
            text, sizeof(text),
            "Internal error: Unable to complete job: it was set apart, since %.20s workers were "
            "lost while it ran alone on them",
            detail);
    else
        snprintf(text, sizeof(text), "Internal error: the record of the job is damaged");
    if (strcmp(why, "age") != 0)
        log_event(LOG_ERROR_, "job.set_apart", "job", id, "why", why, "detail", detail, NULL);
    chores_close(d->chores, id, why, text);
}

int due_pass(struct dispatcher *d, struct due *s, struct error *err)
{
    const struct config *c = d->cfg;
    int64_t wall = clock_wall_ms();
    struct number now = number(wall), most = number(DUE_SLICE), cap = number(c->retry_cap_ms),
                  oldest = number(wall - c->queue_max_age_s * 1000), offset = number(s->offset);
    const char *argv[] = {NULL, now.text, most.text, cap.text, oldest.text, offset.text};
    cleanup_reply redisReply *r = NULL;
    int rc = dispatcher_ask(d, &script_due, ARRAY_SIZE(argv), argv, NULL, &r, err);

    if (rc < 0)
        return rc;
    s->offset = reply_num(r, 1);
    for (size_t i = 2; i + 2 < r->elements; i += 3)
        close_told(d, reply_str(r, i), reply_str(r, i + 1), reply_str(r, i + 2));
    return 0;
}

/* ---- images that are gone ---- */

static void gone_close(struct dispatcher *d, const struct place *p)
{
    struct number most = number(GONE_SLICE - 1);
    cleanup_free char *key = xasprintf("%s:q:%u", d->cfg->redis_prefix, p->number);
    const struct place_text *t = p->text;
    cleanup_free char *text =
        xasprintf("Internal error: image %s is not there any more: no worker has it%s%s",
                  image_name_shown(t->image, NULL),
                  t->digest_ct > 0 ? " as it was when the job was accepted: " : "",
                  t->digest_ct > 0 ? t->digests[0] : "");
    const char *argv[] = {"ZRANGE", key, "0", most.text};
    struct error err = ERROR_INIT;
    cleanup_reply redisReply *r = NULL;

    if (rlink_command(d->link, ARRAY_SIZE(argv), argv, NULL, &r, &err) < 0)
        return; /* the next pass does it */
    for (size_t i = 0; i < r->elements; i++)
        chores_close(d->chores, reply_str(r, i), "image", text);
}

void gone_pass(struct dispatcher *d, struct world *w, int64_t now)
{
    bool any_up = false;

    for (size_t v = 0; v < w->vmm_ct; v++)
        any_up = any_up || w->vmms[v]->up;
    for (size_t i = 0; i < w->place_ct; i++) {
        struct place_text *t = w->places[i].text;
        bool here = false, away = false;

        if (!t)
            continue;
        for (size_t v = 0; v < w->vmm_ct; v++) {
            if (!vmm_has_image(w->vmms[v], t))
                continue;
            if (w->vmms[v]->up)
                here = true;
            else
                away = true;
        }
        if (here || !any_up)
            t->gone_since = 0;
        else if (t->gone_since == 0)
            t->gone_since = now;
        else if (now - t->gone_since >= (away ? AWAY_MS : GONE_MS))
            gone_close(d, &w->places[i]);
    }
}
