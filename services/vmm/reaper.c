#include "reaper.h"

#include "base/clock.h"
#include "base/crashpoint.h"
#include "base/log.h"
#include "base/mem.h"
#include "fleet.h"
#include "sync.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DESTROYERS 2
/* A name is a stray only when it was unknown twice, this far apart: a twin of this process that is
 * just being replaced, or a list that was taken while a machine went, is no reason to remove
 * anything. */
#define GRACE_MS     2000
#define SUSPECTS_MAX 4096

struct waiting {
    struct waiting *next;
    struct machine *m;
};

struct suspect {
    struct suspect *next;
    int64_t since; /* mono */
    bool seen;     /* in the sweep that is going on */
    char name[160];
};

struct reaper {
    struct vmm *v;
    pthread_t threads[DESTROYERS];
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct waiting *first, **last;
    size_t waiting_ct, waiting_max;
    bool stopping;
    struct suspect *suspects; /* watch's thread only */
};

static void destroy(struct vmm *v, struct machine *m)
{
    char name[160];
    memcpy(name, m->spec.name, sizeof(name));
    CRASHPOINT("vmm", "destroy", "before");
    m->driver->destroy(m, clock_mono_ms() + v->cfg->destroy_timeout_ms);
    CRASHPOINT("vmm", "destroy", "after");
    /* What could not be removed in time is unknown from here on, and a later sweep gets it. */
    fleet_end(v->fleet, name);
}

static void *destroyer_main(void *arg)
{
    struct reaper *r = arg;
    pthread_mutex_lock(&r->lock);
    while (true) {
        while (!r->first && !r->stopping)
            pthread_cond_wait(&r->more, &r->lock);
        struct waiting *w = r->first;
        if (!w)
            break;
        r->first = w->next;
        if (!r->first)
            r->last = &r->first;
        pthread_mutex_unlock(&r->lock);
        destroy(r->v, w->m);
        free(w);
        pthread_mutex_lock(&r->lock);
        r->waiting_ct--;
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

struct reaper *reaper_new(struct vmm *v)
{
    struct reaper *r = xcalloc(1, sizeof(*r));
    r->v = v;
    r->last = &r->first;
    r->waiting_max = v->slot_ct + (size_t)v->cfg->warm_max;
    pthread_mutex_init(&r->lock, NULL);
    cond_init(&r->more);
    return r;
}

void reaper_start(struct reaper *r)
{
    for (size_t i = 0; i < DESTROYERS; i++)
        r->threads[i] = thread_start(destroyer_main, r);
}

void reaper_stop(struct reaper *r)
{
    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    pthread_cond_broadcast(&r->more);
    pthread_mutex_unlock(&r->lock);
    for (size_t i = 0; i < DESTROYERS; i++)
        pthread_join(r->threads[i], NULL);
}

void reaper_free(struct reaper *r)
{
    while (r->suspects) {
        struct suspect *s = r->suspects;
        r->suspects = s->next;
        free(s);
    }
    pthread_cond_destroy(&r->more);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void reaper_hand(struct reaper *r, struct machine *m)
{
    fleet_role(r->v->fleet, m->spec.name, FLEET_DYING);
    pthread_mutex_lock(&r->lock);
    bool full = r->waiting_ct >= r->waiting_max;
    if (!full) {
        struct waiting *w = xcalloc(1, sizeof(*w));
        w->m = m;
        *r->last = w;
        r->last = &w->next;
        r->waiting_ct++;
        pthread_cond_signal(&r->more);
    }
    pthread_mutex_unlock(&r->lock);
    if (full) {
        log_event(LOG_WARN_, "reaper.full", "waiting", LOG_NUM(r->waiting_max), NULL);
        destroy(r->v, m);
    }
}

/* ---- strays ---- */

struct sweep {
    struct reaper *r; /* NULL: all of them go */
    const struct vmm *v;
    char **names; /* to remove */
    size_t name_ct;
    size_t suspect_ct;
};

static void doom(struct sweep *s, const char *name)
{
    s->names = xrealloc(s->names, (s->name_ct + 1) * sizeof(*s->names));
    s->names[s->name_ct++] = xstrdup(name);
}

static void consider(void *arg, const char *name)
{
    struct sweep *s = arg;
    if (s->name_ct >= SUSPECTS_MAX || s->suspect_ct >= SUSPECTS_MAX)
        return; /* the rest in the next sweep */
    if (!s->r) {
        doom(s, name);
        return;
    }
    if (fleet_knows(s->v->fleet, name))
        return;
    struct suspect *x = s->r->suspects;
    while (x && strcmp(x->name, name) != 0)
        x = x->next;
    if (!x) {
        x = xcalloc(1, sizeof(*x));
        x->since = clock_mono_ms();
        snprintf(x->name, sizeof(x->name), "%s", name);
        x->next = s->r->suspects;
        s->r->suspects = x;
    }
    x->seen = true;
    if (clock_mono_ms() - x->since >= GRACE_MS)
        doom(s, name);
    else
        s->suspect_ct++;
}

/* Outside the driver's list call: a driver may hold a lock or a connection in it. */
static int remove_doomed(struct sweep *s, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; i < s->name_ct; i++) {
        struct error e = ERROR_INIT;
        CRASHPOINT("vmm", "reap", "before");
        int one = s->v->driver->reap(s->v->backend, s->names[i], &e);
        log_event(one < 0 ? LOG_WARN_ : LOG_INFO_, one < 0 ? "stray.kept" : "stray.removed",
                  "machine", s->names[i], "reason", e.msg, NULL);
        if (one < 0) {
            rc = one;
            if (err)
                *err = e;
        }
        free(s->names[i]);
    }
    free(s->names);
    return rc;
}

static void forget_unseen(struct reaper *r)
{
    for (struct suspect **at = &r->suspects; *at;) {
        struct suspect *x = *at;
        if (x->seen) {
            x->seen = false;
            at = &x->next;
        } else {
            *at = x->next;
            free(x);
        }
    }
}

int reaper_sweep(struct reaper *r, struct error *err)
{
    struct sweep s = {.r = r, .v = r->v};
    int rc = r->v->driver->list(r->v->backend, consider, &s, err);
    forget_unseen(r);
    int removed = remove_doomed(&s, rc < 0 ? NULL : err);
    if (rc < 0)
        return rc;
    return removed < 0 ? removed : (int)s.suspect_ct;
}

int reaper_sweep_all(const struct vmm *v, struct error *err)
{
    struct sweep s = {.v = v};
    int rc = v->driver->list(v->backend, consider, &s, err);
    int removed = remove_doomed(&s, rc < 0 ? NULL : err);
    return rc < 0 ? rc : removed;
}
