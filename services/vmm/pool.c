#include "pool.h"

#include "agent.h"
#include "base/clock.h"
#include "base/crashpoint.h"
#include "base/log.h"
#include "base/mem.h"
#include "fleet.h"
#include "health.h"
#include "pipe.h"
#include "reaper.h"
#include "scripts.h"
#include "sync.h"
#include "watch.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define AGE_MAX_MS   (10 * 60 * 1000)
#define WISHES_MS    5000 /* for a `w` that got lost */
#define REPORT_MS    100  /* at most so often */
#define REST_MS      50   /* after a taking: the job that took it has the processors first */
#define HOLD_BASE_MS 1000
#define HOLD_CAP_MS  60000
#define IMAGES_MAX   256
#define ASKED_MAX    64 /* jobs that are remembered, older ones ever less */
/* At once, each of another image: one that takes long holds up no other, and of one image no more
 * processors are taken from jobs than one making needs. */
#define MAKERS 4

struct warm {
    struct warm *next;
    struct machine *m;
};

struct wish {
    char *image;
    unsigned want;
    uint32_t cores_milli, memory_mb; /* 0: the default */
    /* Machines with and without network are two kinds, and jobs say which they need: */
    unsigned asked[2]; /* jobs that one could have served lately, by network */
    unsigned quiet;    /* so many of `want` are without */
    bool making;
    unsigned tries;     /* makings that failed in a row */
    int64_t hold_until; /* mono; after a failure */
};

struct pool {
    struct vmm *v;
    pthread_t keeper, makers[MAKERS];
    int wake_fd; /* eventfd: for the keeper */
    int stop_fd; /* eventfd, signalled once */

    pthread_mutex_t lock; /* guards the following */
    pthread_cond_t more;  /* there may be something to make */
    struct warm *warm;    /* oldest first */
    size_t warm_ct, making_ct;
    struct wish *wishes; /* only the keeper adds and removes, so it may read images without lock */
    size_t wish_ct;
    int64_t rest_until; /* mono; no making before it */
    bool rested;        /* since the last making: takings that go on do not put it off again */
    bool read_wishes;
    bool stopping;

    /* keeper's own */
    int64_t wishes_at;
    uint64_t reported; /* fleet_version() */
    bool report_again;
    int64_t report_at;
};

/* ---- taking ---- */

static void detach(struct pool *p, struct warm **at)
{
    struct warm *w = *at;
    *at = w->next;
    p->warm_ct--;
    free(w);
}

static struct wish *find_wish(const struct pool *p, const char *image)
{
    for (size_t i = 0; i < p->wish_ct; i++)
        if (strcmp(p->wishes[i].image, image) == 0)
            return &p->wishes[i];
    return NULL;
}

static void shape_by(const struct wish *w, struct machine_shape *shape)
{
    if (w && w->cores_milli > 0)
        shape->cores_milli = w->cores_milli;
    if (w && w->memory_mb > 0)
        shape->memory_mb = w->memory_mb;
}

/* Shares `want` out as jobs have asked. A kind that was asked for has a machine, if there are two
 * to share, and the share moves only when it is off by most of a machine, or each job would replace
 * one. */
static void share_out(struct wish *w)
{
    unsigned total = w->asked[0] + w->asked[1];
    if (total == 0) {
        w->quiet = 0; /* as a job is that does not say */
        return;
    }
    uint64_t ideal = (uint64_t)w->want * w->asked[0] * 4 / total; /* in quarters */
    uint64_t now = (uint64_t)w->quiet * 4;
    if (now > ideal + 2 || now + 2 < ideal)
        w->quiet = (unsigned)((ideal + 2) / 4);
    if (w->want >= 2 && w->quiet == 0 && w->asked[0] > 0)
        w->quiet = 1;
    if (w->want >= 2 && w->quiet >= w->want && w->asked[1] > 0)
        w->quiet = w->want - 1;
    if (w->quiet > w->want)
        w->quiet = w->want;
}

/* A job of that shape is here: notes it where a warm machine could serve it. */
static void note_asked(struct pool *p, const struct machine_shape *shape)
{
    struct wish *w = find_wish(p, shape->image);
    if (!w || !vmm_has_network(p->v))
        return;
    struct machine_shape due = vmm_default_shape(p->v, w->image, shape->digest);
    shape_by(w, &due);
    due.network = shape->network;
    if (!machine_shape_equal(&due, shape))
        return;
    w->asked[shape->network]++;
    if (w->asked[0] + w->asked[1] > ASKED_MAX) {
        w->asked[0] /= 2;
        w->asked[1] /= 2;
    }
    unsigned was = w->quiet;
    share_out(w);
    if (w->quiet != was)
        event_signal(p->wake_fd);
}

struct machine *pool_take(struct pool *p, const struct machine_spec *want)
{
    const struct driver *d = p->v->driver;
    struct machine *m = NULL;
    pthread_mutex_lock(&p->lock);
    note_asked(p, &want->shape);
    for (struct warm **at = &p->warm; *at; at = &(*at)->next) {
        if (!machine_shape_equal(&(*at)->m->spec.shape, &want->shape) ||
            (d->fits && !d->fits((*at)->m, want)))
            continue;
        m = (*at)->m;
        detach(p, at);
        if (!p->rested)
            p->rest_until = clock_mono_ms() + REST_MS;
        p->rested = true;
        break;
    }
    pthread_mutex_unlock(&p->lock);
    if (m) {
        fleet_role(p->v->fleet, m->spec.name, FLEET_BUSY);
        event_signal(p->wake_fd);
    }
    return m;
}

void pool_yield(struct pool *p)
{
    struct machine *m = NULL;
    pthread_mutex_lock(&p->lock);
    if (p->warm) {
        m = p->warm->m;
        detach(p, &p->warm);
    }
    pthread_mutex_unlock(&p->lock);
    if (m)
        reaper_hand(p->v->reaper, m);
}

/* ---- wishes ---- */

void pool_shape(struct pool *p, struct machine_shape *shape)
{
    pthread_mutex_lock(&p->lock);
    shape_by(find_wish(p, shape->image), shape);
    pthread_mutex_unlock(&p->lock);
}

/* "N", or "N cores memory" with cores in thousandths and memory in MB. */
static void take_wish(struct pool *p, const char *image, const char *text)
{
    unsigned n = 0, cores = 0, memory = 0;
    struct wish *w = find_wish(p, image);
    if (sscanf(text, "%u %u %u", &n, &cores, &memory) < 1 || (!w && p->wish_ct >= IMAGES_MAX))
        return;
    if (!w) {
        p->wishes = xrealloc(p->wishes, (p->wish_ct + 1) * sizeof(*p->wishes));
        w = &p->wishes[p->wish_ct++];
        *w = (struct wish){.image = xstrdup(image)};
    }
    w->want = n > (unsigned)p->v->cfg->warm_max ? (unsigned)p->v->cfg->warm_max : n;
    w->cores_milli = cores;
    w->memory_mb = memory;
    share_out(w);
}

static bool is_idle(const struct wish *w)
{
    return w->want == 0 && w->cores_milli == 0 && w->memory_mb == 0 && !w->making;
}

static void read_wishes(struct pool *p)
{
    struct error err = ERROR_INIT;
    cleanup_free char *key = xasprintf("vmm:%s:want", p->v->name);
    cleanup_reply redisReply *r = NULL;
    p->wishes_at = clock_mono_ms() + WISHES_MS;
    if (!rlink_is_up(p->v->link) || vmm_hgetall(p->v, key, &r, &err) < 0)
        return; /* poked again when it is up */
    pthread_mutex_lock(&p->lock);
    for (size_t i = 0; i < p->wish_ct; i++)
        p->wishes[i].want = p->wishes[i].cores_milli = p->wishes[i].memory_mb = 0;
    for (size_t i = 0; i + 1 < r->elements; i += 2)
        take_wish(p, reply_str(r, i), reply_str(r, i + 1));
    for (size_t i = 0; i < p->wish_ct;) {
        if (!is_idle(&p->wishes[i])) {
            i++;
        } else {
            free(p->wishes[i].image);
            p->wishes[i] = p->wishes[--p->wish_ct];
        }
    }
    pthread_mutex_unlock(&p->lock);
}

/* ---- letting go ---- */

static unsigned count_locked(const struct pool *p, const char *image)
{
    unsigned n = 0;
    for (const struct warm *w = p->warm; w; w = w->next)
        n += strcmp(w->m->spec.shape.image, image) == 0;
    return n;
}

/* Of one kind. */
static unsigned count_kind_locked(const struct pool *p, const char *image, bool network)
{
    unsigned n = 0;
    for (const struct warm *w = p->warm; w; w = w->next)
        n += w->m->spec.shape.network == network && strcmp(w->m->spec.shape.image, image) == 0;
    return n;
}

static unsigned want_kind(const struct pool *p, const struct wish *w, bool network)
{
    if (!vmm_has_network(p->v))
        return network ? 0 : w->want;
    return network ? w->want - w->quiet : w->quiet;
}

static bool is_stale(struct pool *p, const struct wish *w, struct machine *m)
{
    static const struct machine_spec plain = {.label_ct = 0};
    const struct driver *d = p->v->driver;
    if (clock_mono_ms() - m->made_ms > AGE_MAX_MS || (d->fits && !d->fits(m, &plain)))
        return true; /* the second: no job would get it any more */
    cleanup_free char *digest = watch_image(p->v->watch, w->image);
    struct machine_shape due = vmm_default_shape(p->v, w->image, digest);
    shape_by(w, &due);
    due.network = m->spec.shape.network;
    return !digest || !machine_shape_equal(&due, &m->spec.shape);
}

/* Those that are too many, too old, of an image that was replaced, or of another shape than is
 * wished by now: oldest first. */
static void let_go(struct pool *p)
{
    struct machine **gone = xcalloc((size_t)p->v->cfg->warm_max + 1, sizeof(struct machine *));
    size_t gone_ct = 0;
    pthread_mutex_lock(&p->lock);
    for (struct warm **at = &p->warm; *at && gone_ct < (size_t)p->v->cfg->warm_max;) {
        struct machine *m = (*at)->m;
        const struct wish *w = find_wish(p, m->spec.shape.image);
        bool network = m->spec.shape.network;
        if (w && count_kind_locked(p, w->image, network) <= want_kind(p, w, network) &&
            !is_stale(p, w, m)) {
            at = &(*at)->next;
            continue;
        }
        gone[gone_ct++] = m;
        detach(p, at);
    }
    pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; i < gone_ct; i++)
        reaper_hand(p->v->reaper, gone[i]);
    free(gone);
}

/* A warm machine has nothing to say: what it says, or its end, ends it. */
static void bury(struct pool *p, struct machine *m)
{
    char byte[64];
    pthread_mutex_lock(&p->lock);
    struct warm **at = &p->warm;
    while (*at && (*at)->m != m)
        at = &(*at)->next;
    if (!*at) { /* taken meanwhile: its slot will find out */
        pthread_mutex_unlock(&p->lock);
        return;
    }
    ssize_t n = m->driver->read(m, byte, sizeof(byte));
    bool dead = n != -EAGAIN && n != -EINTR;
    if (dead)
        detach(p, at);
    pthread_mutex_unlock(&p->lock);
    if (dead) {
        log_event(LOG_WARN_, "warm.died", "machine", m->spec.name, NULL);
        reaper_hand(p->v->reaper, m);
    }
}

/* ---- making ---- */

static void add_warm(struct pool *p, struct machine *m)
{
    struct warm *w = xcalloc(1, sizeof(*w));
    w->m = m;
    fleet_role(p->v->fleet, m->spec.name, FLEET_WARM);
    pthread_mutex_lock(&p->lock);
    struct warm **at = &p->warm;
    while (*at)
        at = &(*at)->next;
    *at = w;
    p->warm_ct++;
    pthread_mutex_unlock(&p->lock);
}

/* By the makers, without the lock. */
static int make(struct pool *p, const struct wish *w, bool network, struct error *err)
{
    struct vmm *v = p->v;
    cleanup_free char *digest = watch_image(v->watch, w->image);
    if (!digest)
        return err_set(err, ERR_REFUSED, ENOENT, "there is no image %s", w->image);
    struct machine_shape shape = vmm_default_shape(v, w->image, digest);
    shape_by(w, &shape);
    shape.network = network;
    struct machine_spec spec;
    int rc = fleet_begin(v->fleet, &shape, &spec, err);
    if (rc < 0)
        return rc;
    struct machine *m = NULL;
    CRASHPOINT("vmm", "warm", "before");
    rc = v->driver->initialize(v->backend, &spec, clock_mono_ms() + v->cfg->init_timeout_ms,
                               p->stop_fd, &m, err);
    if (rc < 0) {
        fleet_end(v->fleet, spec.name);
        return rc;
    }
    rc = pipe_ready(m, clock_mono_ms() + v->cfg->wait_timeout_ms, p->stop_fd, err);
    if (rc < 0) {
        reaper_hand(v->reaper, m);
        return rc;
    }
    add_warm(p, m);
    CRASHPOINT("vmm", "warm", "after");
    return 0;
}

static bool lacks(const struct pool *p, const struct wish *w, bool network)
{
    return count_kind_locked(p, w->image, network) < want_kind(p, w, network);
}

/* The image whose share of its wish is least; NULL when nothing is to be made now. Lowers *ret_next
 * to when one may be. With the lock. */
static struct wish *neediest(struct pool *p, int64_t *ret_next)
{
    struct wish *best = NULL;
    unsigned best_have = 0;
    char epoch[24];
    int64_t now = clock_mono_ms();
    if (p->warm_ct + p->making_ct >= (size_t)p->v->cfg->warm_max ||
        !agent_epoch(p->v->agent, epoch) || !health_ok(p->v->health))
        return NULL;
    if (p->rest_until > now) {
        *ret_next = p->rest_until < *ret_next ? p->rest_until : *ret_next;
        return NULL;
    }
    for (size_t i = 0; i < p->wish_ct; i++) {
        struct wish *w = &p->wishes[i];
        unsigned have = count_locked(p, w->image);
        if ((!lacks(p, w, true) && !lacks(p, w, false)) || w->making)
            continue;
        if (w->hold_until > now) {
            if (w->hold_until < *ret_next)
                *ret_next = w->hold_until;
        } else if (!best || (uint64_t)have * best->want < (uint64_t)best_have * w->want) {
            best = w;
            best_have = have;
        }
    }
    return best;
}

/* Takes the lock back when it is done. */
static void make_one(struct pool *p, struct wish *w)
{
    struct wish order = *w; /* the wishes may move */
    cleanup_free char *image = order.image = xstrdup(w->image);
    bool network = lacks(p, w, true);
    w->making = true;
    p->making_ct++;
    p->rested = false;
    pthread_cond_signal(&p->more); /* another image, perhaps */
    pthread_mutex_unlock(&p->lock);

    struct error err = ERROR_INIT;
    char who[HEALTH_WHO_MAX];
    snprintf(who, sizeof(who), "image %s", image);
    int rc = make(p, &order, network, &err);
    if (rc == 0) {
        health_made(p->v->health, who, image);
    } else if (rc != -ECANCELED && rc != -EBUSY) { /* that one is only for want of room */
        log_event(LOG_WARN_, "warm.not_made", "image", image, "reason", err.msg, NULL);
        if (err.class != ERR_REFUSED && err.code != ENOTCONN && err.code != ECONNRESET &&
            err.code != EAGAIN)
            health_failed(p->v->health, who, image, &err);
    }

    pthread_mutex_lock(&p->lock);
    p->making_ct--;
    w = find_wish(p, image); /* one that is being made stays */
    w->making = false;
    w->tries = rc < 0 ? w->tries + 1 : 0;
    if (rc < 0)
        w->hold_until = clock_mono_ms() + clock_backoff_ms(w->tries - 1, HOLD_BASE_MS, HOLD_CAP_MS);
    event_signal(p->wake_fd); /* it may be one too many by now */
}

static void *maker_main(void *arg)
{
    struct pool *p = arg;
    pthread_mutex_lock(&p->lock);
    while (!p->stopping) {
        int64_t next = CLOCK_NEVER;
        struct wish *w = neediest(p, &next);
        if (w)
            make_one(p, w);
        else
            cond_wait_until(&p->more, &p->lock, next);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- reporting ---- */

struct report {
    struct pool *p;
    char *argv[2 + 2 * IMAGES_MAX];
    int argc;
};

static void report_image(struct report *r, const char *image, const char *text)
{
    if ((size_t)r->argc + 2 > ARRAY_SIZE(r->argv))
        return;
    r->argv[r->argc++] = xstrdup(image);
    r->argv[r->argc++] = xstrdup(text);
}

struct names {
    char *list[IMAGES_MAX];
    size_t ct;
};

static void collect_name(void *arg, const char *image)
{
    struct names *n = arg;
    if (n->ct < IMAGES_MAX)
        n->list[n->ct++] = xstrdup(image);
}

static void report(struct pool *p)
{
    char epoch[24];
    uint64_t version = fleet_version(p->v->fleet);
    if ((version == p->reported && !p->report_again) || clock_mono_ms() < p->report_at ||
        !agent_epoch(p->v->agent, epoch) || !rlink_is_up(p->v->link))
        return;
    struct report *r = xcalloc(1, sizeof(*r));
    r->argv[r->argc++] = xstrdup(p->v->name);
    r->argv[r->argc++] = xstrdup(epoch);
    struct names *names = xcalloc(1, sizeof(*names));
    fleet_images(p->v->fleet, collect_name, names);
    for (size_t i = 0; i < p->wish_ct; i++) {
        /* a pool that is wished for is shown while it is empty */
        size_t k = p->wishes[i].want > 0 ? 0 : names->ct + 1;
        while (k < names->ct && strcmp(names->list[k], p->wishes[i].image) != 0)
            k++;
        if (k == names->ct)
            collect_name(names, p->wishes[i].image);
    }
    for (size_t i = 0; i < names->ct; i++) {
        struct buf text = BUF_INIT(65536);
        fleet_text(p->v->fleet, names->list[i], &text);
        report_image(r, names->list[i], text.data);
        buf_free(&text);
        free(names->list[i]);
    }
    free(names);
    struct error err = ERROR_INIT;
    cleanup_reply redisReply *reply = NULL;
    int rc = rlink_eval(p->v->link, &script_pool, r->argc, (const char *const *)r->argv, NULL,
                        &reply, &err);
    if (rc == 0 && strcmp(reply_word(reply), "ok") == 0) {
        p->reported = version;
        p->report_again = false;
    }
    p->report_at = clock_mono_ms() + (rc == 0 ? REPORT_MS : WISHES_MS);
    for (int i = 0; i < r->argc; i++)
        free(r->argv[i]);
    free(r);
}

/* ---- the keeper ---- */

static void sleep_until(struct pool *p, int64_t until)
{
    size_t max = (size_t)p->v->cfg->warm_max + 1, ct = 1;
    struct pollfd *fds = xcalloc(max, sizeof(*fds));
    struct machine **of = xcalloc(max, sizeof(struct machine *));
    fds[0] = (struct pollfd){.fd = p->wake_fd, .events = POLLIN};
    pthread_mutex_lock(&p->lock);
    for (const struct warm *w = p->warm; w && ct < max; w = w->next, ct++) {
        fds[ct] = (struct pollfd){.fd = w->m->out_fd, .events = POLLIN};
        of[ct] = w->m;
    }
    pthread_mutex_unlock(&p->lock);
    /* One that is taken, destroyed and its descriptor used anew meanwhile is only a wake-up too
     * many. */
    poll(fds, (nfds_t)ct, clock_until_ms(until));
    event_clear(p->wake_fd);
    for (size_t i = 1; i < ct; i++)
        if (fds[i].revents)
            bury(p, of[i]);
    free(fds);
    free(of);
}

static void *keeper_main(void *arg)
{
    struct pool *p = arg;
    while (true) {
        pthread_mutex_lock(&p->lock);
        bool stopping = p->stopping, wishes = p->read_wishes;
        p->read_wishes = false;
        pthread_mutex_unlock(&p->lock);
        if (stopping)
            return NULL;
        if (wishes)
            p->report_again = true;
        if (wishes || clock_mono_ms() >= p->wishes_at)
            read_wishes(p);
        let_go(p);
        pthread_mutex_lock(&p->lock);
        pthread_cond_signal(&p->more);
        pthread_mutex_unlock(&p->lock);
        report(p);
        int64_t next = p->wishes_at;
        if ((fleet_version(p->v->fleet) != p->reported || p->report_again) && p->report_at < next &&
            p->report_at > clock_mono_ms())
            next = p->report_at;
        sleep_until(p, next);
    }
}

void pool_poke(struct pool *p, bool wishes)
{
    pthread_mutex_lock(&p->lock);
    p->read_wishes = p->read_wishes || wishes;
    pthread_mutex_unlock(&p->lock);
    event_signal(p->wake_fd);
}

struct pool *pool_new(struct vmm *v)
{
    struct pool *p = xcalloc(1, sizeof(*p));
    p->v = v;
    p->wake_fd = event_new();
    p->stop_fd = event_new();
    pthread_mutex_init(&p->lock, NULL);
    cond_init(&p->more);
    return p;
}

void pool_start(struct pool *p)
{
    p->keeper = thread_start(keeper_main, p);
    for (size_t i = 0; i < MAKERS; i++)
        p->makers[i] = thread_start(maker_main, p);
}

void pool_stop(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_broadcast(&p->more);
    pthread_mutex_unlock(&p->lock);
    event_signal(p->stop_fd);
    event_signal(p->wake_fd);
    pthread_join(p->keeper, NULL);
    for (size_t i = 0; i < MAKERS; i++)
        pthread_join(p->makers[i], NULL);
    while (p->warm) {
        struct machine *m = p->warm->m;
        detach(p, &p->warm);
        reaper_hand(p->v->reaper, m);
    }
}

void pool_free(struct pool *p)
{
    for (size_t i = 0; i < p->wish_ct; i++)
        free(p->wishes[i].image);
    free(p->wishes);
    close(p->wake_fd);
    close(p->stop_fd);
    pthread_cond_destroy(&p->more);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
