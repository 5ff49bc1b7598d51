/* A round of the collector takes what neither the survey before nor the present one has seen:
 * between them lies a round's time, so that a request that read a lab before the first and makes
 * its job after the second is no danger. After Redis has lost its past (a new generation), or this
 * dispatcher has just begun to lead, nothing is collected for long: if somebody brings back a
 * backup, its files are still there. */

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

#define FORGET_MS      5000                 /* dead jobs are looked at so often */
#define FORGET_SLICE   100                  /* of one run of the script */
#define ROUND_MS       (20 * 60 * 1000)     /* between surveys */
#define QUIET_MS       (24LL * 3600 * 1000) /* after a new generation */
#define GRACE_S        3600
#define STORE_SLICE    200
#define STORE_PAUSE_MS 200
#define AWAY_MS        (30LL * 24 * 3600 * 1000)
#define PLACES_MAX     1000

struct retain {
    struct dispatcher *d;
    struct bell bell;
    pthread_t thread;
    struct keepset before, now; /* surveys */
    bool before_good;
    int64_t survey_at; /* mono */
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
                  offset = number(t->offset);
    const char *argv[] = {NULL, now.text, most.text, oldest.text, slice.text, offset.text};
    cleanup_reply redisReply *r = NULL;
    int rc = dispatcher_ask(t->d, &script_retain, ARRAY_SIZE(argv), argv, NULL, &r, err);

    if (rc < 0)
        return rc;
    t->offset = reply_num(r, 2);
    if (reply_num(r, 1) > 0)
        log_event(LOG_DEBUG_, "jobs.forgotten", "count", reply_str(r, 1), NULL);
    return reply_num(r, 3) == 1;
}

static int tidy(struct retain *t, struct error *err)
{
    const struct config *c = t->d->cfg;
    int64_t wall = clock_wall_ms();
    struct number now = number(wall), away = number(AWAY_MS),
                  used = number(wall - c->pool_idle_s * 1000), places = number(PLACES_MAX);
    const char *argv[] = {NULL, now.text, away.text, used.text, places.text};
    cleanup_reply redisReply *r = NULL;

    return dispatcher_ask(t->d, &script_tidy, ARRAY_SIZE(argv), argv, NULL, &r, err);
}

static int forget(struct retain *t, struct error *err)
{
    int rc;

    do {
        rc = forget_slice(t, err);
        if (rc > 0 && !bell_pause(&t->bell, 5))
            return 0;
    } while (rc > 0);
    return rc < 0 ? rc : tidy(t, err);
}

/* ---- the store ---- */

static int keep(void *arg, const char *sha256)
{
    const struct retain *t = arg;
    size_t len = strlen(sha256);

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
    return clock_wall_ms() - reply_num(r, 0) >= QUIET_MS;
}

static int collect(struct retain *t, struct error *err)
{
    unsigned cursor = 0;
    long long removed = 0;

    do {
        int n;

        if (!lead_is_ours(t->d->lead))
            return err_set(err, ERR_TEMPORARY, EPERM, "not the active dispatcher any more");
        n = store_collect(t->d->store, keep, t, GRACE_S, STORE_SLICE, &cursor, err);
        if (n < 0)
            return n;
        removed += n;
        if (cursor != 0 && !bell_pause(&t->bell, STORE_PAUSE_MS))
            return 0;
    } while (cursor != 0);
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
            t->survey_at = now + ROUND_MS;
        }
        next = now + FORGET_MS;
        if (forget(t, &err) < 0)
            told("dead jobs", &err);
        if (now < t->survey_at)
            continue;
        err = (struct error)ERROR_INIT;
        if (round_of_store(t, &err) < 0)
            told("store", &err);
        t->survey_at = clock_mono_ms() + ROUND_MS;
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
