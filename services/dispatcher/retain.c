/* A round of the collector takes what neither the survey before nor the present one has seen:
 * between them lies a round's time, so that a request that read a lab before the first and makes
 * its job after the second is no danger. What is named anew after the present survey began was
 * written or asked for since, so its age spares it, until that survey is as old as the grace: a
 * collector that was paused for so long takes nothing more. After Redis has lost its past (a new
 * generation), or this dispatcher has just begun to lead, nothing is collected for long: if
 * somebody brings back a backup, its files are still there. */

#include "services/dispatcher/retain.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/dispatcher/bell.h"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/keepset.h"
#include "services/dispatcher/reply.h"
#include "services/dispatcher/scripts.h"
#include "services/dispatcher/survey.h"
#include "services/dispatcher/thread.h"

#include <errno.h>
#include <string.h>

#define FORGET_MS      5000 /* what may be forgotten is looked at so often */
#define FORGET_SLICE   100  /* of one run of a script */
#define STORE_SLICE    200
#define STORE_PAUSE_MS 200
#define DAY_MS         (24LL * 3600 * 1000)
/* What nobody will miss, so that there is no key for it. */
#define AWAY_MS         (30 * DAY_MS) /* vmms that stay away */
#define AWAY_MAX        1000
#define WISHES_MAX      1000
#define BUILDS_MAX      10000
#define BUILDS_MS       (30 * DAY_MS)
#define FREE_PLACES_MAX 1000 /* placements without a live job */
#define FREE_PLACES_MS  DAY_MS

struct retain {
    struct dispatcher *d;
    struct bell bell;
    pthread_t thread;
    struct keepset before, now; /* surveys */
    bool before_good;
    int64_t survey_at; /* mono */
    int64_t began;     /* mono: of the survey `now` */
    unsigned cursor;   /* where the collector goes on, also in another round */
    int64_t offset;    /* of the dead that wait for their callback */
};

struct retain *retain_new(struct dispatcher *d)
{
    struct retain *t = xcalloc(1, sizeof(*t));

    t->d = d;
    bell_init(&t->bell);
    keepset_init(&t->before);
    keepset_init(&t->now);
    return t;
}

void retain_free(struct retain *t)
{
    if (!t)
        return;
    bell_done(&t->bell);
    keepset_done(&t->before);
    keepset_done(&t->now);
    free(t);
}

void retain_look(struct retain *t)
{
    bell_ring(&t->bell);
}

/* ---- dead jobs ---- */

/* 1 when there may be more. */
static int forget_slice(struct retain *t, struct error *err)
{
    const struct config *c = t->d->cfg;
    int64_t wall = clock_wall_ms();
    struct number now = number(wall), most = number(c->dead_max_jobs),
                  oldest = number(wall - c->dead_max_age_s * 1000), slice = number(FORGET_SLICE),
                  offset = number(t->offset), bytes = number(c->dead_max_bytes);
    const char *argv[] = {NULL,       now.text,    most.text, oldest.text,
                          slice.text, offset.text, bytes.text};
    cleanup_reply redisReply *r = NULL;
    int rc = dispatcher_ask(t->d, &script_retain, ARRAY_SIZE(argv), argv, NULL, &r, err);

    if (rc < 0)
        return rc;
    t->offset = reply_num(r, 2);
    if (reply_num(r, 1) > 0)
        log_event(LOG_DEBUG_, "jobs.forgotten", "count", reply_str(r, 1), NULL);
    return reply_num(r, 3) == 1;
}

/* 1 when there may be more. */
static int expire_slice(struct retain *t, struct error *err)
{
    const struct config *c = t->d->cfg;
    int64_t wall = clock_wall_ms();
    const struct number v[] = {
        number(wall),
        number(FORGET_SLICE),
        number(c->labs_max),
        number(wall - c->lab_max_age_s * 1000),
        number(c->rejected_max_jobs),
        number(wall - c->dead_max_age_s * 1000),
        number(c->outbox_max),
        number(wall - c->outbox_max_age_s * 1000),
        number(BUILDS_MAX),
        number(wall - BUILDS_MS),
        number(FREE_PLACES_MAX),
        number(wall - FREE_PLACES_MS),
    };
    const char *argv[ARRAY_SIZE(v) + 1];
    cleanup_reply redisReply *r = NULL;
    int rc;

    for (size_t i = 0; i < ARRAY_SIZE(v); i++)
        argv[i + 1] = v[i].text;
    rc = dispatcher_ask(t->d, &script_expire, ARRAY_SIZE(argv), argv, NULL, &r, err);
    if (rc < 0)
        return rc;
    for (size_t i = 2; i + 1 < r->elements; i += 2) {
        if (strcmp(reply_str(r, i), "callback") == 0)
            log_event(LOG_ERROR_, "callback.given_up", "job", reply_str(r, i + 1), "reason",
                      "it waited for outbox_max_age_s, or more than outbox_max wait", NULL);
        else
            log_event(LOG_INFO_, "expired", "what", reply_str(r, i), "name", reply_str(r, i + 1),
                      NULL);
    }
    return reply_num(r, 1) == 1;
}

static int tidy(struct retain *t, struct error *err)
{
    const struct config *c = t->d->cfg;
    int64_t wall = clock_wall_ms();
    struct number now = number(wall), away = number(AWAY_MS),
                  used = number(wall - c->pool_idle_s * 1000), away_ct = number(AWAY_MAX),
                  wishes = number(WISHES_MAX);
    const char *argv[] = {NULL, now.text, away.text, used.text, away_ct.text, wishes.text};
    cleanup_reply redisReply *r = NULL;

    return dispatcher_ask(t->d, &script_tidy, ARRAY_SIZE(argv), argv, NULL, &r, err);
}

/* Slice after slice, with room between them for others. */
static int in_slices(struct retain *t, int (*slice)(struct retain *t, struct error *err),
                     struct error *err)
{
    int rc;

    while ((rc = slice(t, err)) > 0)
        if (!bell_pause(&t->bell, 5))
            return 0;
    return rc;
}

static int forget(struct retain *t, struct error *err)
{
    int rc = in_slices(t, expire_slice, err);

    if (rc == 0)
        rc = in_slices(t, forget_slice, err);
    return rc < 0 ? rc : tidy(t, err);
}

/* ---- the store ---- */

static bool survey_is_old(const struct retain *t)
{
    return clock_mono_ms() - t->began >= t->d->cfg->collect_grace_s * 1000;
}

static int keep(void *arg, const char *sha256)
{
    const struct retain *t = arg;
    size_t len = strlen(sha256);

    if (survey_is_old(t))
        return 1;
    return keepset_has(&t->now, sha256, len) || keepset_has(&t->before, sha256, len);
}

/* 1 when Redis has had its memory for long enough. */
static int settled(struct retain *t, struct error *err)
{
    cleanup_free char *key = xasprintf("%s:meta", t->d->cfg->redis_prefix);
    const char *argv[] = {"HMGET", key, "gen_at", "run_id"};
    cleanup_reply redisReply *r = NULL;
    char run_id[41];
    int rc = rlink_command(t->d->link, ARRAY_SIZE(argv), argv, NULL, &r, err);

    if (rc < 0)
        return rc;
    rlink_run_id(t->d->link, run_id);
    if (!run_id[0] || strcmp(run_id, reply_str(r, 1)) != 0 || !reply_str(r, 0)[0])
        return 0;
    return clock_wall_ms() - reply_num(r, 0) >= t->d->cfg->collect_quiet_s * 1000;
}

static int collect(struct retain *t, struct error *err)
{
    long long removed = 0;

    do {
        int n;

        if (!lead_is_ours(t->d->lead))
            return err_set(err, ERR_TEMPORARY, EPERM, "not the active dispatcher any more");
        n = store_collect(t->d->store, keep, t, t->d->cfg->collect_grace_s, STORE_SLICE, &t->cursor,
                          err);
        if (n < 0)
            return n;
        removed += n;
        if (t->cursor != 0 && !bell_pause(&t->bell, STORE_PAUSE_MS))
            return 0;
    } while (t->cursor != 0 && !survey_is_old(t));
    log_event(LOG_INFO_, "store.collected", "removed", LOG_NUM(removed), "kept", LOG_NUM(t->now.ct),
              NULL);
    return 0;
}

static int round_of_store(struct retain *t, struct error *err)
{
    int rc = settled(t, err);

    if (rc <= 0) {
        t->before_good = false;
        return rc;
    }
    t->began = clock_mono_ms();
    rc = survey_run(t->d, &t->bell, &t->now, err);
    if (rc == 0 && t->before_good)
        rc = collect(t, err);
    keepset_done(&t->before);
    t->before = t->now;
    keepset_init(&t->now);
    t->before_good = rc == 0;
    return rc;
}

/* ---- the thread ---- */

static void told(const char *what, const struct error *err)
{
    bool away = err->code == EPERM || err->code == ENOTCONN || err->code == ECONNRESET ||
                err->code == ECANCELED;

    log_event(away ? LOG_DEBUG_ : LOG_WARN_, "retain.failed", "what", what, "reason", err->msg,
              NULL);
}

static void *run(void *arg)
{
    struct retain *t = arg;
    int64_t next = CLOCK_NEVER;
    bool led = false;
    int64_t round_ms = t->d->cfg->collect_interval_s * 1000;

    while (bell_wait(&t->bell, next)) {
        struct error err = ERROR_INIT;
        int64_t now = clock_mono_ms();

        if (!lead_is_ours(t->d->lead)) {
            next = CLOCK_NEVER;
            led = false;
            continue;
        }
        if (!led) {
            led = true;
            t->before_good = false;
            t->survey_at = now + round_ms;
        }
        next = now + (round_ms < FORGET_MS ? round_ms : FORGET_MS);
        if (forget(t, &err) < 0)
            told("dead jobs", &err);
        if (now < t->survey_at)
            continue;
        err = (struct error)ERROR_INIT;
        if (round_of_store(t, &err) < 0)
            told("store", &err);
        t->survey_at = clock_mono_ms() + round_ms;
    }
    return NULL;
}

void retain_start(struct retain *t)
{
    t->thread = thread_start(run, t);
}

void retain_stop(struct retain *t)
{
    bell_quit(&t->bell);
    pthread_join(t->thread, NULL);
}
