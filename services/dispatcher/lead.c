#include "services/dispatcher/lead.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/dispatcher/bell.h"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/reply.h"
#include "services/dispatcher/scripts.h"
#include "services/dispatcher/thread.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <uuid/uuid.h>

struct lead {
    struct dispatcher *d;
    struct bell bell;
    pthread_t thread;
    char holder[40];

    pthread_mutex_t lock; /* guards the next three */
    bool ours;
    bool gap;
    char epoch[24]; /* that we hold; "" none. Written by the thread only, with the lock */

    /* the thread's own: what was seen, since when, and when last */
    char seen_epoch[24], seen_beat[24];
    int64_t since, last;
};

struct lead *lead_new(struct dispatcher *d)
{
    struct lead *l = xcalloc(1, sizeof(*l));
    uuid_t id;

    l->d = d;
    bell_init(&l->bell);
    pthread_mutex_init(&l->lock, NULL);
    uuid_generate(id);
    uuid_unparse_lower(id, l->holder);
    return l;
}

void lead_free(struct lead *l)
{
    if (!l)
        return;
    bell_done(&l->bell);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

bool lead_fence(struct lead *l, char out[LEAD_FENCE_TEXT])
{
    bool ours;

    pthread_mutex_lock(&l->lock);
    ours = l->ours;
    snprintf(out, LEAD_FENCE_TEXT, "%s@%s", l->epoch, l->holder);
    pthread_mutex_unlock(&l->lock);
    return ours;
}

bool lead_is_ours(struct lead *l)
{
    char fence[LEAD_FENCE_TEXT];

    return lead_fence(l, fence);
}

void lead_doubt(struct lead *l)
{
    pthread_mutex_lock(&l->lock);
    l->ours = false;
    pthread_mutex_unlock(&l->lock);
    bell_ring(&l->bell);
}

void lead_gap(struct lead *l)
{
    pthread_mutex_lock(&l->lock);
    l->gap = true;
    pthread_mutex_unlock(&l->lock);
    bell_ring(&l->bell);
}

void lead_look(struct lead *l)
{
    bell_ring(&l->bell);
}

/* ---- the thread ---- */

static void set_ours(struct lead *l, bool ours, const char *epoch)
{
    bool was, same;

    pthread_mutex_lock(&l->lock);
    was = l->ours;
    same = strcmp(l->epoch, epoch) == 0;
    l->ours = ours;
    snprintf(l->epoch, sizeof(l->epoch), "%s", epoch);
    pthread_mutex_unlock(&l->lock);
    if (was == ours && same)
        return;
    if (ours)
        log_event(LOG_INFO_, "lead.taken", "holder", l->holder, "epoch", epoch, NULL);
    dispatcher_lead_changed(l->d);
}

/* How long a standby may be without an answer before its view counts as broken. */
static int64_t gap_ms(const struct lead *l)
{
    int64_t half = l->d->cfg->leader_lease_ms / 2, beats = 2 * l->d->cfg->beat_ms;

    return half > beats ? half : beats;
}

static bool take_gap(struct lead *l, int64_t now)
{
    bool gap;

    pthread_mutex_lock(&l->lock);
    gap = l->gap;
    l->gap = false;
    pthread_mutex_unlock(&l->lock);
    return gap || now - l->last > gap_ms(l);
}

static bool judged_dead(const struct lead *l, int64_t now)
{
    return l->seen_epoch[0] && now - l->since >= l->d->cfg->leader_lease_ms;
}

static void saw_other(struct lead *l, const redisReply *r)
{
    const char *epoch = reply_str(r, 2), *beat = reply_str(r, 3);
    int64_t now = clock_mono_ms();

    if (l->epoch[0])
        log_event(LOG_WARN_, "lead.lost", "epoch", l->epoch, "to", reply_str(r, 1), NULL);
    set_ours(l, false, "");
    if (take_gap(l, now) || strcmp(epoch, l->seen_epoch) != 0 || strcmp(beat, l->seen_beat) != 0)
        l->since = now;
    l->last = now;
    snprintf(l->seen_epoch, sizeof(l->seen_epoch), "%s", epoch);
    snprintf(l->seen_beat, sizeof(l->seen_beat), "%s", beat);
}

static void step(struct lead *l)
{
    const char *argv[4] = {l->holder, l->epoch, "", ""};
    struct error err = ERROR_INIT;
    cleanup_reply redisReply *r = NULL;
    int64_t now = clock_mono_ms();

    if (take_gap(l, now))
        l->since = now;
    if (judged_dead(l, now)) {
        argv[2] = l->seen_epoch;
        argv[3] = l->seen_beat;
    }
    if (rlink_eval(l->d->link, &script_lead, 4, argv, NULL, &r, &err) < 0) {
        log_event(LOG_DEBUG_, "lead.no_answer", "reason", err.msg, NULL);
        if (err.class == ERR_BUG)
            log_event(LOG_ERROR_, "lead.failed", "reason", err.msg, NULL);
        l->since = clock_mono_ms();
        return;
    }
    if (strcmp(reply_str(r, 0), "ok") == 0) {
        set_ours(l, true, reply_str(r, 1));
        l->last = clock_mono_ms();
        l->seen_epoch[0] = '\0';
    } else {
        saw_other(l, r);
    }
}

static int64_t next_step(const struct lead *l, int64_t now)
{
    int64_t next = now + l->d->cfg->beat_ms;

    if (l->seen_epoch[0]) {
        int64_t dead = l->since + l->d->cfg->leader_lease_ms;
        if (dead > now && dead < next)
            next = dead;
    }
    return next;
}

static void *run(void *arg)
{
    struct lead *l = arg;
    int64_t next = 0;

    while (bell_wait(&l->bell, next)) {
        int64_t began = clock_mono_ms();
        step(l);
        next = next_step(l, began);
    }
    return NULL;
}

void lead_start(struct lead *l)
{
    l->thread = thread_start(run, l);
}

void lead_stop(struct lead *l)
{
    char fence[LEAD_FENCE_TEXT];
    struct error err = ERROR_INIT;

    bell_quit(&l->bell);
    pthread_join(l->thread, NULL);
    if (!lead_fence(l, fence) || !rlink_is_up(l->d->link))
        return;
    const char *argv[1] = {fence};
    cleanup_reply redisReply *r = NULL;

    if (rlink_eval(l->d->link, &script_resign, 1, argv, NULL, &r, &err) < 0)
        log_event(LOG_WARN_, "lead.not_given_up", "reason", err.msg, NULL);
    else
        log_event(LOG_INFO_, "lead.given_up", "epoch", l->epoch, NULL);
    pthread_mutex_lock(&l->lock);
    l->ours = false;
    pthread_mutex_unlock(&l->lock);
}
