#include "services/dispatcher/duty.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/dispatcher/assign.h"
#include "services/dispatcher/bell.h"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/generation.h"
#include "services/dispatcher/ids.h"
#include "services/dispatcher/plan.h"
#include "services/dispatcher/pools.h"
#include "services/dispatcher/reclaim.h"
#include "services/dispatcher/reply.h"
#include "services/dispatcher/scripts.h"
#include "services/dispatcher/thread.h"
#include "services/dispatcher/world.h"

#include <errno.h>
#include <string.h>

/* A whole observation (images, wishes) costs what the vmms have; it takes at most this share of the
 * time when there is news all the time. */
#define WHOLE_SHARE 20
/* After a pass as long a rest as it took, at most so long: others use Redis too. */
#define REST_MAX_MS 5

struct duty {
    struct dispatcher *d;
    struct bell bell;
    pthread_t thread;

    pthread_mutex_t lock;
    bool gap; /* guarded */

    /* the thread's own */
    struct world world;
    struct due due;
    int64_t observed;   /* mono, of the last answer */
    int64_t whole_next; /* mono: when a whole one is allowed again */
    int64_t due_next;   /* mono: when delays and ages are looked at in any case */
    struct plan plan;
};

struct duty *duty_new(struct dispatcher *d)
{
    struct duty *u = xcalloc(1, sizeof(*u));

    u->d = d;
    bell_init(&u->bell);
    pthread_mutex_init(&u->lock, NULL);
    world_init(&u->world);
    return u;
}

void duty_free(struct duty *u)
{
    if (!u)
        return;
    world_done(&u->world);
    bell_done(&u->bell);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

void duty_look(struct duty *u, bool gap)
{
    if (gap) {
        pthread_mutex_lock(&u->lock);
        u->gap = true;
        pthread_mutex_unlock(&u->lock);
    }
    bell_ring(&u->bell);
}

/* ---- observing ---- */

static bool take_gap(struct duty *u, int64_t now)
{
    const struct config *c = u->d->cfg;
    int64_t most = c->lease_ms / 3 > 2 * c->beat_ms ? c->lease_ms / 3 : 2 * c->beat_ms;
    bool gap;

    pthread_mutex_lock(&u->lock);
    gap = u->gap;
    u->gap = false;
    pthread_mutex_unlock(&u->lock);
    return gap || now - u->observed > most;
}

static int learn_places(struct duty *u, struct error *err)
{
    uint32_t unknown[64];
    size_t ct = world_unknown(&u->world, unknown, ARRAY_SIZE(unknown));
    struct number n[ARRAY_SIZE(unknown)];
    const char *argv[ARRAY_SIZE(unknown) + 2];
    cleanup_reply redisReply *r = NULL;
    cleanup_free char *key = xasprintf("%s:pln", u->d->cfg->redis_prefix);
    int rc;

    if (ct == 0)
        return 0;
    argv[0] = "HMGET";
    argv[1] = key;
    for (size_t i = 0; i < ct; i++) {
        n[i] = number(unknown[i]);
        argv[i + 2] = n[i].text;
    }
    rc = rlink_command(u->d->link, (int)ct + 2, argv, NULL, &r, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < ct; i++) {
        if (reply_bytes(r, i))
            world_learn(&u->world, unknown[i], reply_str(r, i));
        else
            log_event(LOG_ERROR_, "placement.unknown", "number", n[i].text, NULL);
    }
    return 0;
}

static int observe(struct duty *u, struct error *err)
{
    int64_t began = clock_mono_ms();
    bool whole = began >= u->whole_next;
    struct number heads = number(WORLD_HEADS_MAX), places = number(WORLD_PLACES_MAX);
    const char *argv[4] = {NULL, whole ? "1" : "0", heads.text, places.text};
    cleanup_reply redisReply *r = NULL;
    int rc = dispatcher_ask(u->d, &script_observe, 4, argv, NULL, &r, err);
    int64_t now = clock_mono_ms();

    if (rc < 0)
        return rc;
    world_take(&u->world, r, whole, now);
    if (take_gap(u, now))
        world_gap(&u->world, now);
    u->observed = now;
    if (whole) {
        u->whole_next = now + WHOLE_SHARE * (now - began);
        if (u->whole_next > now + u->d->cfg->beat_ms)
            u->whole_next = now + u->d->cfg->beat_ms;
    }
    rc = learn_places(u, err);
    return rc < 0 ? rc : whole;
}

/* Ids run short, or Redis lost its past. */
static void check_meta(struct duty *u)
{
    char run_id[41];

    rlink_run_id(u->d->link, run_id);
    if (strcmp(u->world.run_id, run_id) != 0 ||
        u->world.id_limit - u->world.id_next < GENERATION_IDS_AHEAD / 2)
        ids_look(u->d->ids);
}

/* ---- passes ---- */

/* 0, 1 when there is more to do at once, or negative. */
static int pass(struct duty *u, struct error *err)
{
    int64_t now = clock_mono_ms();
    bool whole;
    int rc;

    if (now >= u->due_next || (u->world.due > 0 && u->world.due <= clock_wall_ms())) {
        rc = due_pass(u->d, &u->due, err);
        if (rc < 0)
            return rc;
        u->due_next = now + u->d->cfg->beat_ms;
    }
    rc = observe(u, err);
    if (rc < 0)
        return rc;
    whole = rc > 0;
    check_meta(u);
    rc = reclaim_silent(u->d, &u->world, err);
    if (rc < 0)
        return rc;
    plan_make(&u->world, &u->plan);
    rc = assign_plan(u->d, &u->world, &u->plan, err);
    if (rc < 0)
        return rc;
    if (whole) {
        gone_pass(u->d, &u->world, clock_mono_ms());
        rc = pools_pass(u->d, &u->world, err);
        if (rc < 0)
            return rc;
    }
    return u->plan.cut && u->plan.jobs > 0;
}

static void told(const struct error *err)
{
    /* Another active one, or Redis away or anew: each is told where it is noticed. */
    if (err->class == ERR_TEMPORARY)
        log_event(LOG_DEBUG_, "pass.failed", "reason", err->msg, NULL);
    else
        log_event(LOG_ERROR_, "pass.failed", "reason", err->msg, NULL);
}

static int64_t next_pass(const struct duty *u, int64_t now)
{
    int64_t next = now + u->d->cfg->beat_ms;

    if (u->plan.unplaced && u->whole_next < next)
        next = u->whole_next > now ? u->whole_next : next;
    if (u->world.due > 0) {
        int64_t wait = u->world.due - clock_wall_ms();
        if (now + wait < next)
            next = wait > 0 ? now + wait : now;
    }
    return next;
}

static void *run(void *arg)
{
    struct duty *u = arg;
    int64_t next = 0;

    while (bell_wait(&u->bell, next)) {
        struct error err = ERROR_INIT;
        int64_t began = clock_mono_ms(), took;
        int rc;

        next = CLOCK_NEVER; /* until it leads */
        if (!lead_is_ours(u->d->lead))
            continue;
        rc = pass(u, &err);
        if (rc < 0) {
            told(&err);
            if (err.code == ESTALE)
                ids_look(u->d->ids);
            next = clock_mono_ms() + u->d->cfg->beat_ms;
            /* news may come fast while Redis is away or full */
            if (!bell_pause(&u->bell, u->d->cfg->beat_ms < 50 ? u->d->cfg->beat_ms : 50))
                break;
            continue;
        }
        took = clock_mono_ms() - began;
        next = rc > 0 ? 0 : next_pass(u, clock_mono_ms());
        if (took > 0 && !bell_pause(&u->bell, took < REST_MAX_MS ? took : REST_MAX_MS))
            break;
    }
    return NULL;
}

void duty_start(struct duty *u)
{
    u->thread = thread_start(run, u);
}

void duty_stop(struct duty *u)
{
    bell_quit(&u->bell);
    pthread_join(u->thread, NULL);
}
