#include "health.h"

#include "agent.h"
#include "base/clock.h"
#include "base/image_name.h"
#include "base/log.h"
#include "base/mem.h"
#include "fleet.h"
#include "pipe.h"
#include "pool.h"
#include "reaper.h"
#include "sync.h"
#include "watch.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FAILURES_MAX    3 /* in a row */
#define GUILTY_MAX      64
#define BACKOFF_BASE_MS 500
#define BACKOFF_CAP_MS  60000
#define PROBE_MS        30000

/* Lock order: `lock`, then the agent's own. The agent's word on it is changed under `lock` with our
 * own, and Redis is told after: whoever tells last tells what is true by then. */
struct health {
    struct vmm *v;
    int stop_fd; /* eventfd, signalled once */
    pthread_mutex_t lock;
    bool broken;
    uint64_t serial; /* of what was learned; a probe that began before says nothing any more */
    char streak[FAILURES_MAX][HEALTH_WHO_MAX]; /* who failed, and nobody made one since */
    unsigned streak_ct;
    unsigned failures; /* those, and probes */
    unsigned relapses; /* failed probes and breaks since somebody made a machine */
    int64_t probe_at;  /* mono; CLOCK_NEVER: no doubt */
    char guilty[GUILTY_MAX][HEALTH_WHO_MAX]; /* whose failures were their own: a ring */
    unsigned guilty_next;
    char *good; /* an image of which a machine was made */
    char *bad;  /* one of which none could be made */
};

struct health *health_new(struct vmm *v)
{
    struct health *h = xcalloc(1, sizeof(*h));
    h->v = v;
    h->stop_fd = event_new();
    h->probe_at = CLOCK_NEVER;
    pthread_mutex_init(&h->lock, NULL);
    return h;
}

void health_free(struct health *h)
{
    if (!h)
        return;
    free(h->good);
    free(h->bad);
    close(h->stop_fd);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

void health_stop(struct health *h)
{
    event_signal(h->stop_fd);
}

/* ---- what is known; all with the lock ---- */

static void keep(char **to, const char *text)
{
    if (*to && strcmp(*to, text) == 0)
        return;
    free(*to);
    *to = xstrdup(text);
}

static char *find_guilty(struct health *h, const char *who)
{
    for (size_t i = 0; i < GUILTY_MAX; i++)
        if (strcmp(h->guilty[i], who) == 0)
            return h->guilty[i];
    return NULL;
}

static bool in_streak(const struct health *h, const char *who)
{
    for (unsigned i = 0; i < h->streak_ct; i++)
        if (strcmp(h->streak[i], who) == 0)
            return true;
    return false;
}

/* Machines can be made: who failed has itself to blame. */
static void clear_doubt(struct health *h)
{
    for (unsigned i = 0; i < h->streak_ct; i++)
        if (!find_guilty(h, h->streak[i]))
            memcpy(h->guilty[h->guilty_next++ % GUILTY_MAX], h->streak[i], HEALTH_WHO_MAX);
    h->streak_ct = h->failures = 0;
    h->probe_at = CLOCK_NEVER;
    h->serial++;
}

static int64_t backoff(struct health *h)
{
    unsigned n = h->relapses < 16 ? h->relapses : 16;
    h->relapses++;
    return clock_mono_ms() + clock_backoff_ms(n, BACKOFF_BASE_MS, BACKOFF_CAP_MS);
}

static void break_down(struct health *h, const char *why)
{
    char text[AGENT_WHY_MAX];
    if (h->broken && clock_mono_ms() < h->probe_at) /* known, and waited for */
        return;
    if (!h->broken)
        log_event(LOG_ERROR_, "backend.broken", "reason", why, NULL);
    h->broken = true;
    h->serial++;
    h->probe_at = backoff(h);
    cleanup_free char *public = xstrdup(why); /* all tenants may read it */
    image_name_hide(public);
    snprintf(text, sizeof(text), "backend: %s", public);
    agent_set_broken(h->v->agent, text);
}

/* ---- what happens ---- */

/* Without the lock: what the vmm takes has changed. */
static void tell(struct health *h)
{
    agent_tell_drain(h->v->agent);
    watch_poke(h->v->watch, false);
}

void health_made(struct health *h, const char *who, const char *image)
{
    pthread_mutex_lock(&h->lock);
    if (!h->broken) { /* one that was under way when it broke proves nothing */
        char *mine = find_guilty(h, who);
        clear_doubt(h);
        h->relapses = 0;
        if (mine)
            mine[0] = '\0';
    }
    keep(&h->good, image);
    pthread_mutex_unlock(&h->lock);
}

bool health_failed(struct health *h, const char *who, const char *image, const struct error *why)
{
    if (health_lost_machine(h))
        return false;
    pthread_mutex_lock(&h->lock);
    bool guilty = !h->broken && find_guilty(h, who), breaks = false;
    keep(&h->bad, image);
    if (!h->broken && !guilty && !in_streak(h, who)) {
        snprintf(h->streak[h->streak_ct++], HEALTH_WHO_MAX, "%s", who);
        breaks = ++h->failures >= FAILURES_MAX;
    }
    if (breaks)
        break_down(h, why->msg);
    else if (h->probe_at == CLOCK_NEVER) /* is it the backend? */
        h->probe_at = 0;
    pthread_mutex_unlock(&h->lock);
    if (breaks)
        tell(h);
    else
        watch_poke(h->v->watch, false);
    return guilty;
}

bool health_lost_machine(struct health *h)
{
    struct error err = ERROR_INIT;
    if (h->v->driver->health(h->v->backend, &err) == 0)
        return false;
    pthread_mutex_lock(&h->lock);
    break_down(h, err.msg);
    pthread_mutex_unlock(&h->lock);
    tell(h);
    return true;
}

bool health_ok(struct health *h)
{
    pthread_mutex_lock(&h->lock);
    bool ok = !h->broken;
    pthread_mutex_unlock(&h->lock);
    return ok;
}

int64_t health_due(struct health *h)
{
    pthread_mutex_lock(&h->lock);
    int64_t at = h->probe_at;
    pthread_mutex_unlock(&h->lock);
    return at;
}

/* ---- probing ---- */

/* A machine of the image by its name, made and ended. */
static int probe_image(struct health *h, char *image, struct error *err)
{
    struct vmm *v = h->v;
    struct machine_spec spec;
    struct machine *m = NULL;
    int64_t deadline = clock_mono_ms() + PROBE_MS;
    cleanup_free char *digest = watch_image(v->watch, image);
    if (!digest)
        return err_set(err, ERR_REFUSED, ENOENT, "there is no image %s", image);
    struct machine_shape shape = vmm_default_shape(v, image, digest);
    int rc = fleet_begin(v->fleet, &shape, &spec, err);
    if (rc < 0) {
        err->class = ERR_REFUSED; /* Redis is away: that is not the backend's trouble */
        return rc;
    }
    rc = v->driver->initialize(v->backend, &spec, deadline, h->stop_fd, &m, err);
    if (rc < 0) {
        fleet_end(v->fleet, spec.name);
        return rc;
    }
    rc = pipe_ready(m, deadline, h->stop_fd, err);
    reaper_hand(v->reaper, m);
    return rc;
}

/* 0: machines can be made; ERR_REFUSED: it cannot be told. One image may be bad by itself, so
 * another one has a say too, best one of which a machine was made before. */
static int probe(struct health *h, struct error *err)
{
    if (h->v->driver->probe)
        return h->v->driver->probe(h->v->backend, err);
    pthread_mutex_lock(&h->lock);
    cleanup_free char *good = h->good ? xstrdup(h->good) : NULL;
    cleanup_free char *bad = h->bad ? xstrdup(h->bad) : NULL;
    pthread_mutex_unlock(&h->lock);
    if (!good)
        good = watch_other_image(h->v->watch, bad ? bad : "");
    int rc = good ? probe_image(h, good, err) : err_set(err, ERR_REFUSED, ENOENT, "no image");
    if (rc < 0 && bad && (!good || strcmp(good, bad) != 0)) {
        struct error e = ERROR_INIT;
        int second = probe_image(h, bad, &e);
        if (second == 0 || err->class == ERR_REFUSED) {
            *err = e;
            rc = second;
        }
    }
    return rc;
}

/* What a probe found; `serial` is from before it. */
static void learn(struct health *h, uint64_t serial, int rc, const struct error *err)
{
    bool news = false;
    pthread_mutex_lock(&h->lock);
    bool was = h->broken;
    if (h->serial != serial) {
        h->probe_at = h->probe_at == CLOCK_NEVER ? CLOCK_NEVER : backoff(h);
    } else if (rc == 0 || (err->class == ERR_REFUSED && err->code == ENOENT)) {
        /* Without any image there is nothing to make, and no job comes. */
        clear_doubt(h);
        h->broken = false;
        if (was)
            agent_set_broken(h->v->agent, NULL);
        news = was;
    } else if (err->class == ERR_REFUSED) {
        h->probe_at = backoff(h);
    } else if (h->broken || ++h->failures >= FAILURES_MAX) {
        break_down(h, err->msg);
        news = !was;
    } else {
        h->probe_at = backoff(h);
    }
    pthread_mutex_unlock(&h->lock);
    if (news && was) {
        log_event(LOG_INFO_, "backend.back", NULL);
        pool_poke(h->v->pool, false);
    }
    if (news)
        tell(h);
}

void health_look(struct health *h)
{
    struct error err = ERROR_INIT;
    pthread_mutex_lock(&h->lock);
    uint64_t serial = h->serial;
    bool doubt = h->probe_at != CLOCK_NEVER;
    bool wait = doubt && clock_mono_ms() < h->probe_at;
    pthread_mutex_unlock(&h->lock);
    if (wait || event_wait(h->stop_fd, 0) || health_lost_machine(h) || !doubt)
        return;
    int rc = probe(h, &err);
    if (event_wait(h->stop_fd, 0)) /* it says nothing then */
        return;
    if (rc < 0)
        log_event(LOG_WARN_, "backend.probe_failed", "reason", err.msg, NULL);
    learn(h, serial, rc, &err);
}
