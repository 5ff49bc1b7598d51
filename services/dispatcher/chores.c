#include "services/dispatcher/chores.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/dispatcher/bell.h"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/reply.h"
#include "services/dispatcher/scripts.h"
#include "services/dispatcher/thread.h"
#include "wire/feedback.h"
#include "wire/job.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CLOSINGS_MAX  1024
#define FEEDBACK_MAX  8192
#define RETRY_BASE_MS 100
#define RETRY_CAP_MS  10000

struct closing {
    char id[24];
    char why[16];
    char message[400];
};

struct chores {
    struct dispatcher *d;
    struct bell bell;
    pthread_t thread;

    pthread_mutex_t lock; /* guards the list */
    struct closing *list; /* the first is being worked on */
    size_t ct;
};

struct chores *chores_new(struct dispatcher *d)
{
    struct chores *c = xcalloc(1, sizeof(*c));

    c->d = d;
    bell_init(&c->bell);
    pthread_mutex_init(&c->lock, NULL);
    c->list = xcalloc(CLOSINGS_MAX, sizeof(*c->list));
    return c;
}

void chores_free(struct chores *c)
{
    if (!c)
        return;
    bell_done(&c->bell);
    pthread_mutex_destroy(&c->lock);
    free(c->list);
    free(c);
}

void chores_close(struct chores *c, const char *id, const char *why, const char *message)
{
    bool known = false;

    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < c->ct && !known; i++)
        known = strcmp(c->list[i].id, id) == 0;
    if (!known && c->ct < CLOSINGS_MAX) {
        struct closing *x = &c->list[c->ct++];
        snprintf(x->id, sizeof(x->id), "%s", id);
        snprintf(x->why, sizeof(x->why), "%s", why);
        snprintf(x->message, sizeof(x->message), "%s", message);
    }
    pthread_mutex_unlock(&c->lock);
    if (!known)
        bell_ring(&c->bell);
}

/* ---- closing ---- */

static bool first(struct chores *c, struct closing *ret)
{
    bool any;

    pthread_mutex_lock(&c->lock);
    any = c->ct > 0;
    if (any)
        *ret = c->list[0];
    pthread_mutex_unlock(&c->lock);
    return any;
}

static void drop_first(struct chores *c)
{
    pthread_mutex_lock(&c->lock);
    c->ct--;
    memmove(c->list, c->list + 1, c->ct * sizeof(*c->list));
    pthread_mutex_unlock(&c->lock);
}

/* The name and time of a job; what can be had when its body is damaged. */
static int read_job(struct dispatcher *d, const char *id, struct job **ret, struct error *err)
{
    cleanup_free char *key = xasprintf("%s:b:%s", d->cfg->redis_prefix, id);
    const char *argv[] = {"GET", key};
    cleanup_reply redisReply *r = NULL;
    struct error ignored = ERROR_INIT;
    int rc = rlink_command(d->link, ARRAY_SIZE(argv), argv, NULL, &r, err);

    if (rc < 0)
        return rc;
    if (r->type == REDIS_REPLY_STRING && job_decode(r->str, r->len, ret, &ignored) == 0)
        return 0;
    *ret = job_new();
    (*ret)->name = xstrdup("unknown");
    (*ret)->accepted_ms = clock_wall_ms();
    return 0;
}

static int close_job(struct dispatcher *d, const struct closing *x, struct error *err)
{
    cleanup_job struct job *job = NULL;
    cleanup_buf struct buf text = BUF_INIT(FEEDBACK_MAX);
    struct number now = number(clock_wall_ms()), size;
    struct store_info info;
    cleanup_reply redisReply *r = NULL;
    int rc = read_job(d, x->id, &job, err);

    if (rc < 0)
        return rc;
    if (feedback_render(&text, job->name, x->id, job->accepted_ms, clock_wall_ms(), x->message,
                        false) < 0)
        return err_set(err, ERR_BUG, ENOSPC, "feedback of job %s is too long", x->id);
    rc = store_put(d->store, text.data, text.len, &info, err);
    if (rc < 0)
        return rc;
    size = number((int64_t)info.size);
    enum job_verdict verdict =
        strcmp(x->why, "cancel") == 0 ? VERDICT_CANCELLED : VERDICT_INFRASTRUCTURE;
    const char *argv[] = {NULL,        x->id,     now.text,  job_verdict_name(verdict),
                          info.sha256, size.text, x->message};
    rc = dispatcher_ask(d, &script_close, ARRAY_SIZE(argv), argv, NULL, &r, err);
    if (rc == -EAGAIN)
        return 0; /* it waits no more */
    if (rc == 0)
        log_event(LOG_WARN_, "job.closed", "job", x->id, "why", x->why, NULL);
    return rc;
}

/* ---- the thread ---- */

/* All of them; one that fails for itself, and not because Redis or the store is away, does not hold
 * up the others. Negative when it is to be tried again after a rest. */
static int work(struct chores *c, struct error *err)
{
    struct closing x;

    while (lead_is_ours(c->d->lead) && !bell_is_quitting(&c->bell) && first(c, &x)) {
        struct error e = ERROR_INIT;
        int rc = close_job(c->d, &x, &e);

        drop_first(c); /* who found it finds it again */
        if (rc == 0)
            continue;
        if (e.class == ERR_TEMPORARY) {
            *err = e;
            return rc;
        }
        log_event(LOG_ERROR_, "job.not_closed", "job", x.id, "why", x.why, "reason", e.msg, NULL);
    }
    return 0;
}

static void *run(void *arg)
{
    struct chores *c = arg;
    int64_t next = CLOCK_NEVER;
    unsigned tries = 0;

    while (bell_wait(&c->bell, next)) {
        struct error err = ERROR_INIT;

        next = CLOCK_NEVER;
        if (!lead_is_ours(c->d->lead))
            continue;
        if (work(c, &err) == 0) {
            tries = 0;
            continue;
        }
        if (err.code != EPERM && err.code != ENOTCONN && err.code != ECONNRESET)
            log_event(LOG_ERROR_, "chores.failed", "reason", err.msg, NULL);
        /* rings come with each pass meanwhile */
        if (!bell_pause(&c->bell, clock_backoff_ms(tries++, RETRY_BASE_MS, RETRY_CAP_MS)))
            break;
        next = clock_mono_ms();
    }
    return NULL;
}

void chores_start(struct chores *c)
{
    c->thread = thread_start(run, c);
}

void chores_stop(struct chores *c)
{
    bell_quit(&c->bell);
    pthread_join(c->thread, NULL);
}
