#include "watch.h"

#include "agent.h"
#include "base/clock.h"
#include "base/image_name.h"
#include "base/log.h"
#include "base/mem.h"
#include "builds.h"
#include "health.h"
#include "pool.h"
#include "reaper.h"
#include "scripts.h"
#include "sync.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LOOK_MS      5000 /* images and health */
#define HOST_WHY_MAX 200
#define HOSTS_MAX    (32 << 10)
#define SUSPECT_MS   2500 /* the second look at a stray */
#define IMAGES_MAX   10000

struct image {
    char *name;
    char *digest;
};

struct catalogue {
    struct image *list; /* sorted by name, then digest */
    size_t ct;
};

struct watch {
    struct vmm *v;
    pthread_t thread;
    pthread_mutex_t asking; /* one image list at a time; before `lock` */
    pthread_mutex_t
        telling; /* one told at a time, so that the last one told is the last one seen */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping;
    bool look_now;
    bool tell;     /* Redis does not know the images as they are */
    bool tell_now; /* and may be told at once */
    struct catalogue images;
    bool looked;          /* the backend has told them at least once */
    char hosts_epoch[24]; /* for which Redis was told them; the thread's own */
    char *hosts;          /* as it was told; NULL: never */
};

/* ---- images ---- */

static void catalogue_done(struct catalogue *c)
{
    for (size_t i = 0; i < c->ct; i++) {
        free(c->list[i].name);
        free(c->list[i].digest);
    }
    free(c->list);
    *c = (struct catalogue){0};
}

static void catalogue_add(void *arg, const struct image_entry *e)
{
    struct catalogue *c = arg;
    if (c->ct >= IMAGES_MAX)
        return;
    if ((c->ct & (c->ct - 1)) == 0) /* a power of two: full */
        c->list = xrealloc(c->list, (c->ct ? 2 * c->ct : 1) * sizeof(*c->list));
    c->list[c->ct++] = (struct image){xstrdup(e->name), xstrdup(e->digest)};
}

static int image_order(const void *a, const void *b)
{
    const struct image *x = a, *y = b;
    int by_name = strcmp(x->name, y->name);
    return by_name ? by_name : strcmp(x->digest, y->digest);
}

static bool catalogue_equal(const struct catalogue *a, const struct catalogue *b)
{
    if (a->ct != b->ct)
        return false;
    for (size_t i = 0; i < a->ct; i++)
        if (image_order(&a->list[i], &b->list[i]) != 0)
            return false;
    return true;
}

static bool has_kept(const struct catalogue *c)
{
    for (size_t i = 0; i < c->ct; i++)
        if (image_name_is_kept(c->list[i].name))
            return true;
    return false;
}

/* Asks the backend; sets `tell` when something is new. */
static int look_at_images(struct watch *w, struct error *err)
{
    struct catalogue now = {0};
    pthread_mutex_lock(&w->asking);
    int rc = w->v->driver->images(w->v->backend, catalogue_add, &now, err);
    bool changed = false, first = false, kept = false;
    if (rc == 0) {
        if (now.ct > 1)
            qsort(now.list, now.ct, sizeof(*now.list), image_order);
        pthread_mutex_lock(&w->lock);
        changed = !catalogue_equal(&now, &w->images);
        first = !w->looked;
        w->looked = true;
        if (changed) {
            struct catalogue old = w->images;
            w->images = now;
            now = old;
            kept = has_kept(&w->images);
            w->tell = w->tell_now = true;
            pthread_cond_signal(&w->wake);
        }
        pthread_mutex_unlock(&w->lock);
    }
    pthread_mutex_unlock(&w->asking);
    catalogue_done(&now);
    if (changed)
        pool_poke(w->v->pool, false);
    if (first || kept)
        builds_poke(w->v->builds);
    return rc;
}

/* Keeps `tell` when Redis is away. */
void watch_tell_images(struct watch *w)
{
    char epoch[24];
    if (!agent_epoch(w->v->agent, epoch))
        return;
    pthread_mutex_lock(&w->telling);
    pthread_mutex_lock(&w->lock);
    size_t argc = 2 + 2 * w->images.ct;
    char **argv = xcalloc(argc, sizeof(*argv));
    argv[0] = xstrdup(w->v->name);
    argv[1] = xstrdup(epoch);
    for (size_t i = 0; i < w->images.ct; i++) {
        argv[2 + 2 * i] = xstrdup(w->images.list[i].name);
        argv[3 + 2 * i] = xstrdup(w->images.list[i].digest);
    }
    w->tell = false;
    pthread_mutex_unlock(&w->lock);

    struct error err = ERROR_INIT;
    cleanup_reply redisReply *r = NULL;
    int rc = rlink_eval(w->v->link, &script_images, (int)argc, (const char *const *)argv, NULL, &r,
                        &err);
    if (rc < 0 || strcmp(reply_word(r), "ok") != 0) {
        pthread_mutex_lock(&w->lock);
        w->tell = true;
        pthread_mutex_unlock(&w->lock);
        log_event(LOG_WARN_, "images.not_told", "reason", rc < 0 ? err.msg : reply_word(r), NULL);
    } else {
        log_event(LOG_INFO_, "images.told", "count", LOG_NUM((argc - 2) / 2), NULL);
    }
    pthread_mutex_unlock(&w->telling);
    for (size_t i = 0; i < argc; i++)
        free(argv[i]);
    free(argv);
}

void watch_refresh(struct watch *w)
{
    struct error err = ERROR_INIT;

    if (look_at_images(w, &err) == 0)
        watch_tell_images(w);
    else
        watch_poke(w, false);
}

static const char *by_digest(const struct catalogue *c, const char *digest)
{
    for (size_t i = 0; i < c->ct; i++)
        if (strcmp(c->list[i].digest, digest) == 0)
            return c->list[i].digest;
    return NULL;
}

static const char *by_name(const struct catalogue *c, const char *name)
{
    for (size_t i = 0; i < c->ct; i++)
        if (strcmp(c->list[i].name, name) == 0)
            return c->list[i].digest;
    return NULL;
}

static char *find_digest(struct watch *w, const struct job *job)
{
    pthread_mutex_lock(&w->lock);
    const char *found = job->digest_ct == 0 ? by_name(&w->images, job->image) : NULL;
    for (size_t i = 0; i < job->digest_ct && !found; i++)
        found = by_digest(&w->images, job->digests[i]);
    char *copy = found ? xstrdup(found) : NULL;
    pthread_mutex_unlock(&w->lock);
    return copy;
}

char *watch_digest(struct watch *w, const struct job *job, bool *ret_asked)
{
    char *digest = find_digest(w, job);
    *ret_asked = true;
    if (digest)
        return digest;
    struct error err = ERROR_INIT;
    *ret_asked = look_at_images(w, &err) == 0;
    return find_digest(w, job);
}

char *watch_image(struct watch *w, const char *name)
{
    pthread_mutex_lock(&w->lock);
    const char *found = by_name(&w->images, name);
    char *copy = found ? xstrdup(found) : NULL;
    pthread_mutex_unlock(&w->lock);
    return copy;
}

char *watch_other_image(struct watch *w, const char *name)
{
    char *copy = NULL;
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < w->images.ct && !copy; i++)
        if (strcmp(w->images.list[i].name, name) != 0)
            copy = xstrdup(w->images.list[i].name);
    pthread_mutex_unlock(&w->lock);
    return copy;
}

void watch_kept(struct watch *w, void (*each)(void *arg, const char *name), void *arg)
{
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < w->images.ct; i++) {
        cleanup_free char *name = image_name_kept(w->images.list[i].digest);
        if (strcmp(w->images.list[i].name, name) == 0)
            each(arg, name);
    }
    pthread_mutex_unlock(&w->lock);
}

bool watch_has(struct watch *w, const char *digest)
{
    struct error err = ERROR_INIT;
    bool asked = look_at_images(w, &err) == 0;
    pthread_mutex_lock(&w->lock);
    bool has = by_digest(&w->images, digest) != NULL;
    pthread_mutex_unlock(&w->lock);
    return has || !asked;
}

bool watch_knows_images(struct watch *w)
{
    pthread_mutex_lock(&w->lock);
    bool looked = w->looked;
    pthread_mutex_unlock(&w->lock);
    return looked;
}

/* ---- hosts ---- */

/* A line of the text that Redis keeps. */
static void add_host(void *arg, const char *name, const char *why)
{
    struct buf *b = arg;
    cleanup_free char *public = xstrdup(why ? why : ""); /* all tenants may read it */

    image_name_hide(public);
    buf_printf(b, "%s\t", name);
    for (size_t i = 0; public[i] && i < HOST_WHY_MAX; i++)
        buf_printf(b, "%c", (unsigned char)public[i] < ' ' ? ' ' : public[i]);
    buf_appends(b, "\n");
}

/* When something of it has changed. */
static void tell_hosts(struct watch *w)
{
    const struct driver *d = w->v->driver;
    cleanup_buf struct buf b = BUF_INIT(HOSTS_MAX);
    struct error err = ERROR_INIT;
    cleanup_reply redisReply *r = NULL;
    char epoch[24];

    if (!d->hosts || !agent_epoch(w->v->agent, epoch))
        return;
    d->hosts(w->v->backend, add_host, &b);
    const char *text = b.len ? b.data : "";
    if (w->hosts && strcmp(w->hosts, text) == 0 && strcmp(w->hosts_epoch, epoch) == 0)
        return;
    const char *argv[] = {w->v->name, epoch, text};
    if (rlink_eval(w->v->link, &script_hosts, 3, argv, NULL, &r, &err) < 0) {
        log_event(LOG_WARN_, "hosts.not_told", "reason", err.msg, NULL);
        return;
    }
    if (strcmp(reply_word(r), "ok") != 0)
        return;
    free(w->hosts);
    w->hosts = xstrdup(text);
    memcpy(w->hosts_epoch, epoch, sizeof(epoch));
}

/* ---- the thread ---- */

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t sweep(struct watch *w)
{
    struct error err = ERROR_INIT;
    int left = reaper_sweep(w->v->reaper, &err);
    if (left < 0)
        log_event(LOG_WARN_, "sweep.failed", "reason", err.msg, NULL);
    int64_t interval = w->v->cfg->reap_interval_ms;
    return clock_mono_ms() + (left > 0 ? earlier(SUSPECT_MS, interval) : interval);
}

static void *watch_main(void *arg)
{
    struct watch *w = arg;
    int64_t look_at = 0, sweep_at = clock_mono_ms() + w->v->cfg->reap_interval_ms;
    pthread_mutex_lock(&w->lock);
    while (!w->stopping) {
        int64_t now = clock_mono_ms();
        int64_t due = earlier(look_at, health_due(w->v->health));
        bool look = w->look_now || now >= due;
        bool tell = w->tell_now || (look && w->tell);
        if (!look && !tell && now < sweep_at) {
            cond_wait_until(&w->wake, &w->lock, earlier(due, sweep_at));
            continue;
        }
        w->look_now = w->tell_now = false;
        pthread_mutex_unlock(&w->lock);
        if (look) {
            struct error err = ERROR_INIT;
            health_look(w->v->health);
            if (health_ok(w->v->health) && look_at_images(w, &err) < 0)
                log_event(LOG_WARN_, "images.unknown", "reason", err.msg, NULL);
            tell_hosts(w);
            look_at = clock_mono_ms() + LOOK_MS;
        }
        if (tell)
            watch_tell_images(w);
        if (clock_mono_ms() >= sweep_at)
            sweep_at = sweep(w);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

struct watch *watch_new(struct vmm *v)
{
    struct watch *w = xcalloc(1, sizeof(*w));
    w->v = v;
    pthread_mutex_init(&w->asking, NULL);
    pthread_mutex_init(&w->telling, NULL);
    pthread_mutex_init(&w->lock, NULL);
    cond_init(&w->wake);
    return w;
}

void watch_start(struct watch *w)
{
    w->thread = thread_start(watch_main, w);
}

void watch_poke(struct watch *w, bool tell)
{
    pthread_mutex_lock(&w->lock);
    w->look_now = w->look_now || !tell;
    w->tell = w->tell || tell;
    w->tell_now = w->tell_now || tell;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

void watch_stop(struct watch *w)
{
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
}

void watch_free(struct watch *w)
{
    catalogue_done(&w->images);
    free(w->hosts);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    pthread_mutex_destroy(&w->telling);
    pthread_mutex_destroy(&w->asking);
    free(w);
}
