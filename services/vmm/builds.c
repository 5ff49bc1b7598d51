#include "builds.h"

#include "agent.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/name.h"
#include "scripts.h"
#include "sync.h"
#include "watch.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SEEN_MAX     1000
#define RETRY_MS     5000
#define RETRY_CAP_MS 60000

/* What was taken in (or refused) in this life: name and archive. */
struct seen {
    char *name;
    char sha256[SHA256_HEX + 1];
};

struct builds {
    struct vmm *v;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool poked, stopping;
    bool looked;      /* these are its own thread's */
    char dropped[24]; /* time of the newest removal that was dealt with; ms */
    struct seen *seen;
    size_t seen_ct;
};

static struct seen *find_seen(struct builds *b, const char *name)
{
    for (size_t i = 0; i < b->seen_ct; i++)
        if (strcmp(b->seen[i].name, name) == 0)
            return &b->seen[i];
    return NULL;
}

static void note_seen(struct builds *b, const char *name, const char *sha256)
{
    struct seen *s = find_seen(b, name);
    if (!s) {
        if (b->seen_ct ==
            SEEN_MAX) { /* the worst that comes of forgetting is an import done twice */
            free(b->seen[0].name);
            b->seen[0] = b->seen[--b->seen_ct];
        }
        b->seen = xrealloc(b->seen, (b->seen_ct + 1) * sizeof(*b->seen));
        s = &b->seen[b->seen_ct++];
        s->name = xstrdup(name);
    }
    snprintf(s->sha256, sizeof(s->sha256), "%s", sha256);
}

static int import(struct builds *b, const char *name, const char *sha256, struct error *err)
{
    struct vmm *v = b->v;
    if (!v->driver->import)
        return err_set(err, ERR_REFUSED, ENOTSUP, "driver %s takes no images in", v->driver->name);
    cleanup_close int fd = -1;
    uint64_t size;
    int rc = store_get(v->store, sha256, &fd, &size, err);
    if (rc < 0)
        return rc;
    /* The store's file under a path that a driver's helper process can open too: no copy of a
     * gigabyte. */
    char path[64];
    snprintf(path, sizeof(path), "/proc/%ld/fd/%d", (long)getpid(), fd);
    return v->driver->import(v->backend, path, name, err);
}

/* True when Redis has it (or wants it no more). */
static bool tell(struct builds *b, const char *name, const char *sha256, const struct error *err)
{
    const char *argv[] = {name, sha256, err->code ? "failed" : "done", err->msg};
    struct error e = ERROR_INIT;
    cleanup_reply redisReply *r = NULL;
    if (rlink_eval(b->v->link, &script_build_done, 4, argv, NULL, &r, &e) == 0)
        return true;
    log_event(LOG_WARN_, "build.not_told", "image", name, "reason", e.msg, NULL);
    return false;
}

/* Is there anything to do about an entry of the hash? What this life has not met before is; but the
 * first look of a life meets what earlier ones have dealt with, and an image that is there shows
 * it. */
static bool is_due(struct builds *b, const char *name, const char *state, const char *sha256)
{
    const struct seen *s = find_seen(b, name);
    if (strcmp(state, "wanted") == 0)
        return true;
    if (s && strcmp(s->sha256, sha256) == 0)
        return false;
    if (b->looked && b->v->driver->import)
        return true;
    cleanup_free char *digest = watch_image(b->v->watch, name);
    if (strcmp(state, "done") == 0 && !digest && b->v->driver->import)
        return true;
    note_seen(b, name, sha256);
    return false;
}

/* One entry. False when it is to be tried again. */
static bool consider(struct builds *b, const char *name, const char *value)
{
    char state[16], sha256[SHA256_HEX + 1];
    if (name_check_image(name, strlen(name)) || sscanf(value, "%15s %64s", state, sha256) != 2 ||
        strlen(sha256) != SHA256_HEX || !is_due(b, name, state, sha256))
        return true;
    log_event(LOG_INFO_, "build.begun", "image", name, "archive", sha256, NULL);
    struct error err = ERROR_INIT;
    int rc = import(b, name, sha256, &err);
    log_event(rc < 0 ? LOG_WARN_ : LOG_INFO_, rc < 0 ? "build.failed" : "build.done", "image", name,
              "reason", err.msg, NULL);
    if (rc == 0) /* first: who hears that it is done may submit at once */
        watch_refresh(b->v->watch);
    if (!tell(b, name, sha256, &err))
        return false;
    note_seen(b, name, sha256);
    return true;
}

/* Removals that were asked for while this vmm is up. False when one is to be tried again: machines
 * that use the image go with their pool. */
static bool drops(struct builds *b)
{
    struct vmm *v = b->v;
    struct error err = ERROR_INIT;
    cleanup_reply redisReply *r = NULL;
    char newest[sizeof(b->dropped)];
    bool all = true;

    memcpy(newest, b->dropped, sizeof(newest));
    if (vmm_hgetall(v, "drop", &r, &err) < 0)
        return true;
    for (size_t i = 0; i + 1 < r->elements; i += 2) {
        const char *name = reply_str(r, i), *at = reply_str(r, i + 1);
        int rc = 0;

        if (strtoll(at, NULL, 10) > strtoll(newest, NULL, 10))
            snprintf(newest, sizeof(newest), "%s", at);
        if (!b->looked || strtoll(at, NULL, 10) <= strtoll(b->dropped, NULL, 10) ||
            name_check_image(name, strlen(name)) || !v->driver->remove_image)
            continue;
        err = (struct error)ERROR_INIT;
        rc = v->driver->remove_image(v->backend, name, &err);
        log_event(rc < 0 ? LOG_WARN_ : LOG_INFO_, rc < 0 ? "image.not_removed" : "image.removed",
                  "image", name, "reason", err.msg, NULL);
        all = all && rc == 0;
        watch_poke(v->watch, false);
    }
    if (all)
        memcpy(b->dropped, newest, sizeof(newest));
    return all;
}

/* ---- what lost its name ---- */

struct names {
    const char **list; /* behind room for what comes before them in the script's arguments */
    size_t ct;
};
#define KEPT_AT 2

static void add_name(void *arg, const char *name)
{
    struct names *n = arg;
    n->list = xrealloc(n->list, (KEPT_AT + n->ct + 1) * sizeof(*n->list));
    n->list[KEPT_AT + n->ct++] = xstrdup(name);
}

static void names_done(struct names *n)
{
    for (size_t i = 0; i < n->ct; i++)
        free((void *)(uintptr_t)n->list[KEPT_AT + i]);
    free(n->list);
}

/* Removes the images that were replaced and that no live job needs any more. False when one is to
 * be tried again. */
static bool kept(struct builds *b, const char *epoch)
{
    struct vmm *v = b->v;
    struct error err = ERROR_INIT;
    cleanup_reply redisReply *r = NULL;
    struct names n = {0};
    bool all = true;

    watch_kept(v->watch, add_name, &n);
    if (n.ct > 0 && v->driver->remove_image) {
        n.list[0] = v->name;
        n.list[1] = epoch;
        if (rlink_eval(v->link, &script_kept, (int)(KEPT_AT + n.ct), n.list, NULL, &r, &err) < 0)
            all = false;
    }
    for (size_t i = 1; r && strcmp(reply_word(r), "ok") == 0 && i < r->elements; i++) {
        const char *name = reply_str(r, i);
        int rc = v->driver->remove_image(v->backend, name, &err);

        log_event(rc < 0 ? LOG_WARN_ : LOG_INFO_, rc < 0 ? "image.not_removed" : "image.removed",
                  "image", name, "reason", rc < 0 ? err.msg : "replaced, and no job waits for it",
                  NULL);
        all = all && rc == 0;
        watch_poke(v->watch, false);
    }
    names_done(&n);
    return all;
}

/* False when something is to be tried again. */
static bool look(struct builds *b)
{
    struct error err = ERROR_INIT;
    cleanup_reply redisReply *r = NULL;
    char epoch[24];
    if (!watch_knows_images(b->v->watch) || !agent_epoch(b->v->agent, epoch) ||
        vmm_hgetall(b->v, "build", &r, &err) < 0)
        return true; /* poked when it is registered, and when images are known */
    bool all = true;
    for (size_t i = 0; i + 1 < r->elements; i += 2)
        all = consider(b, reply_str(r, i), reply_str(r, i + 1)) && all;
    all = drops(b) && all;
    all = kept(b, epoch) && all;
    b->looked = true;
    return all;
}

static void *builds_main(void *arg)
{
    struct builds *b = arg;
    int64_t again = CLOCK_NEVER;
    unsigned tries = 0;
    pthread_mutex_lock(&b->lock);
    while (!b->stopping) {
        if (!b->poked && cond_wait_until(&b->wake, &b->lock, again))
            continue;
        if (b->stopping)
            break;
        b->poked = false;
        pthread_mutex_unlock(&b->lock);
        bool all = look(b);
        tries = all ? 0 : tries < 16 ? tries + 1 : tries;
        again =
            all ? CLOCK_NEVER : clock_mono_ms() + clock_backoff_ms(tries, RETRY_MS, RETRY_CAP_MS);
        pthread_mutex_lock(&b->lock);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

void builds_poke(struct builds *b)
{
    pthread_mutex_lock(&b->lock);
    b->poked = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
}

struct builds *builds_new(struct vmm *v)
{
    struct builds *b = xcalloc(1, sizeof(*b));
    b->v = v;
    pthread_mutex_init(&b->lock, NULL);
    cond_init(&b->wake);
    return b;
}

void builds_start(struct builds *b)
{
    b->thread = thread_start(builds_main, b);
}

void builds_stop(struct builds *b)
{
    pthread_mutex_lock(&b->lock);
    b->stopping = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
    pthread_join(b->thread, NULL);
}

void builds_free(struct builds *b)
{
    for (size_t i = 0; i < b->seen_ct; i++)
        free(b->seen[i].name);
    free(b->seen);
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
    free(b);
}
