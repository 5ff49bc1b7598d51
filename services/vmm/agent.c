/* Who calls what: the agent's own thread (agent_main) registers and beats; the link's thread brings
 * messages, the answers to beats, and up/down; slots and watch call in. `lock` guards all state and
 * is never held across a call to Redis. An attempt is in `held` from the moment it is known to be
 * ours until Redis has taken its end, so a beat's list is never short of one whose assignment still
 * stands; because answers come in the order of the calls, a beat can not bring back one that has
 * just ended. */

#include "agent.h"

#include "assignment.h"
#include "base/clock.h"
#include "base/crashpoint.h"
#include "base/log.h"
#include "base/mem.h"
#include "builds.h"
#include "pool.h"
#include "scripts.h"
#include "slot.h"
#include "sync.h"
#include "watch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define REGISTER_BASE_MS 200
#define REGISTER_CAP_MS  10000
/* A lease that lasted so long was a good one: the next registration does not wait. */
#define SETTLED_MS 30000

struct agent {
    struct vmm *v;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake; /* for the agent's thread */
    pthread_cond_t news; /* for who waits until the link is up */
    int idle_fd;
    struct attempt *held;
    unsigned held_ct, held_max;

    bool quit;
    bool up; /* the connection */
    bool registered;
    bool draining;      /* takes what was assigned before Redis knew, and no more */
    bool drain_settled; /* a beat that was sent after Redis knew has been answered */
    int64_t drain_told_ms;
    bool leaving; /* takes nothing at all */
    char epoch[24];
    uint64_t beat;
    bool beat_sent; /* and not answered */
    int64_t beat_sent_ms;
    int64_t beat_next_ms;
    int64_t lease_until; /* mono */
    int64_t registered_ms;
    unsigned register_tries;

    char broken[AGENT_WHY_MAX]; /* "" when the backend works */
    bool drain_untold;          /* Redis could not be told of the last change */
    pthread_mutex_t telling;    /* one drain script at a time, so that the last wish is told last */
};

/* ---- attempts held ---- */

static struct attempt **find_held(struct agent *a, const char *id, const char *token)
{
    struct attempt **at = &a->held;
    while (*at && (strcmp((*at)->id, id) != 0 || strcmp((*at)->token, token) != 0))
        at = &(*at)->next;
    return at;
}

/* Link's thread. */
static void begin(struct agent *a, const struct assignment *x)
{
    pthread_mutex_lock(&a->lock);
    bool known = *find_held(a, x->id, x->token) != NULL;
    /* More than fit is no loss: they are assigned, and the next beat brings them again. */
    /* What another life of our name was given is not ours to run, whichever of us two is over. */
    bool meant = !x->epoch[0] || strcmp(x->epoch, a->epoch) == 0;
    bool take = meant && !known && !a->leaving && a->registered && a->held_ct < a->held_max;
    if (take) {
        struct attempt *n =
            attempt_new(a->v, x->id, x->token, x->tries, x->charged, x->body, x->body_len);
        n->next = a->held;
        a->held = n;
        a->held_ct++;
        slots_push(a->v->slots, attempt_ref(n));
    }
    pthread_mutex_unlock(&a->lock);
}

static void stop_one(struct agent *a, const char *id, const char *token, enum attempt_kill why)
{
    pthread_mutex_lock(&a->lock);
    struct attempt *x = *find_held(a, id, token);
    if (x)
        attempt_stop(x, why);
    pthread_mutex_unlock(&a->lock);
}

static void stop_all_locked(struct agent *a, enum attempt_kill why)
{
    for (struct attempt *x = a->held; x; x = x->next)
        attempt_stop(x, why);
}

void agent_leave(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    a->leaving = true;
    stop_all_locked(a, KILL_HANDBACK);
    pthread_mutex_unlock(&a->lock);
}

void agent_done(struct agent *a, struct attempt *x)
{
    pthread_mutex_lock(&a->lock);
    struct attempt **at = &a->held;
    while (*at && *at != x)
        at = &(*at)->next;
    if (*at) {
        *at = x->next;
        a->held_ct--;
        event_signal(a->idle_fd);
    }
    pthread_mutex_unlock(&a->lock);
    attempt_unref(x);
}

/* ---- registering ---- */

static void lapse(struct agent *a, const char *why)
{
    if (!a->registered)
        return;
    a->registered = false;
    if (clock_mono_ms() - a->registered_ms > SETTLED_MS)
        a->register_tries = 0;
    stop_all_locked(a, KILL_FENCED);
    event_signal(a->idle_fd); /* who drains need not wait for a beat any more */
    log_event(LOG_WARN_, "lease.lost", "epoch", a->epoch, "reason", why, NULL);
}

static int call_register(struct agent *a, char epoch[24], struct error *err)
{
    const struct config *c = a->v->cfg;
    char slots[16], body[16], now[24];
    snprintf(slots, sizeof(slots), "%u", a->v->slot_ct);
    snprintf(body, sizeof(body), "%d", JOB_BODY_VERSION);
    snprintf(now, sizeof(now), "%lld", (long long)clock_wall_ms());
    cleanup_buf struct buf labels = BUF_INIT(65536);
    buf_appends(&labels, c->labels ? c->labels : "");
    if (a->v->driver->labels)
        a->v->driver->labels(a->v->backend, &labels);
    const char *argv[] = {a->v->name, slots, a->v->driver->name, labels.data, MILONGA_VERSION,
                          body,       now};
    cleanup_reply redisReply *r = NULL;
    int rc = rlink_eval(a->v->link, &script_register, ARRAY_SIZE(argv), argv, NULL, &r, err);
    if (rc < 0)
        return rc;
    if (strcmp(reply_word(r), "ok") != 0)
        return err_set(err, ERR_BUG, EPROTO, "script register answered \"%s\"", reply_word(r));
    snprintf(epoch, 24, "%s", reply_str(r, 1));
    return 0;
}

static void do_register(struct agent *a)
{
    struct error err = ERROR_INIT;
    char epoch[24];
    int64_t asked = clock_mono_ms();
    int rc = call_register(a, epoch, &err);
    pthread_mutex_lock(&a->lock);
    a->register_tries++;
    if (rc == 0) {
        memcpy(a->epoch, epoch, sizeof(epoch));
        a->registered = true;
        a->registered_ms = asked;
        a->lease_until = asked + a->v->cfg->lease_ms;
        a->beat_next_ms = 0;
        stop_all_locked(a, KILL_FENCED);
    } else {
        /* Full jitter keeps two vmms that were given one name by mistake from throwing each other
         * out in turns all the time. */
        a->beat_next_ms = clock_mono_ms() +
                          clock_backoff_ms(a->register_tries, REGISTER_BASE_MS, REGISTER_CAP_MS);
    }
    bool special = a->broken[0] || a->draining;
    pthread_mutex_unlock(&a->lock);
    if (rc < 0) {
        log_event(LOG_WARN_, "vmm.not_registered", "reason", err.msg, NULL);
        return;
    }
    log_event(LOG_INFO_, "vmm.registered", "vmm", a->v->name, "epoch", epoch, NULL);
    if (special)
        agent_tell_drain(a);
    watch_poke(a->v->watch, true);
    pool_poke(a->v->pool, true);
    builds_poke(a->v->builds);
}

/* ---- beats ---- */

/* The answer is: "ok", drain, then any of "+" id token body n c, "-" id token, "x" id token
 * (cancelled; the message may have been lost). */
static void take_answer(struct agent *a, const redisReply *r)
{
    for (size_t i = 2; i < r->elements;) {
        const char *what = reply_str(r, i);
        if (what[0] == '+' && i + 5 < r->elements) {
            const redisReply *body = r->element[i + 3];
            struct assignment x = {.tries = (unsigned)strtoul(reply_str(r, i + 4), NULL, 10),
                                   .charged = (unsigned)strtoul(reply_str(r, i + 5), NULL, 10),
                                   .body = body->str,
                                   .body_len = body->type == REDIS_REPLY_STRING ? body->len : 0};
            snprintf(x.id, sizeof(x.id), "%s", reply_str(r, i + 1));
            snprintf(x.token, sizeof(x.token), "%s", reply_str(r, i + 2));
            begin(a, &x);
            i += 6;
        } else if ((what[0] == '-' || what[0] == 'x') && i + 2 < r->elements) {
            stop_one(a, reply_str(r, i + 1), reply_str(r, i + 2),
                     what[0] == 'x' ? KILL_CANCEL : KILL_FENCED);
            i += 3;
        } else {
            log_event(LOG_ERROR_, "renew.answer", "word", what, NULL);
            return;
        }
    }
}

static void on_beat(void *arg, const redisReply *r)
{
    struct agent *a = arg;
    const char *word = reply_word(r);
    bool ok = strcmp(word, "ok") == 0, settled = false;
    pthread_mutex_lock(&a->lock);
    a->beat_sent = false;
    if (ok) {
        a->lease_until = a->beat_sent_ms + a->v->cfg->lease_ms;
        settled = a->drain_told_ms > 0 && a->beat_sent_ms >= a->drain_told_ms;
    } else if (strcmp(word, "stale") == 0)
        lapse(a, "registered anew elsewhere, or judged lost");
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
    if (ok)
        take_answer(a, r);
    if (settled) { /* after what the answer brought is held */
        pthread_mutex_lock(&a->lock);
        a->drain_settled = true;
        event_signal(a->idle_fd);
        pthread_mutex_unlock(&a->lock);
    }
}

/* Called with the lock, and posts under it (which waits for nobody): an attempt that begins after
 * the list was made tells its first step after the beat. Told before it, it would be taken for one
 * that was begun and is known no more. */
static void send_beat(struct agent *a)
{
    size_t argc = 4 + a->held_ct;
    char **argv = xcalloc(argc, sizeof(*argv));
    argv[0] = xstrdup(a->v->name);
    argv[1] = xstrdup(a->epoch);
    argv[2] = xasprintf("%llu", (unsigned long long)++a->beat);
    argv[3] = xasprintf("%lld", (long long)clock_wall_ms());
    size_t i = 4;
    for (const struct attempt *x = a->held; x && i < argc; x = x->next)
        argv[i++] = xasprintf("%s %s", x->id, x->token);
    a->beat_sent_ms = clock_mono_ms();
    a->beat_next_ms = a->beat_sent_ms + a->v->cfg->beat_ms;
    a->beat_sent = rlink_send(a->v->link, &script_renew, (int)argc, (const char *const *)argv, NULL,
                              on_beat, a) == 0;
    for (i = 0; i < argc; i++)
        free(argv[i]);
    free(argv);
}

static void check_lease(struct agent *a)
{
    if (!a->registered || !a->held || clock_mono_ms() < a->lease_until)
        return;
    bool any = false;
    for (struct attempt *x = a->held; x; x = x->next) {
        any = any || attempt_killed(x) < KILL_LEASE;
        attempt_stop(x, KILL_LEASE);
    }
    if (any)
        log_event(LOG_WARN_, "lease.out_of_sight", "attempts", LOG_NUM(a->held_ct), NULL);
}

static void *agent_main(void *arg)
{
    struct agent *a = arg;
    pthread_mutex_lock(&a->lock);
    while (!a->quit) {
        int64_t now = clock_mono_ms();
        check_lease(a);
        if (a->up && now >= a->beat_next_ms && !a->beat_sent) {
            if (a->registered && a->drain_untold) {
                pthread_mutex_unlock(&a->lock);
                agent_tell_drain(a);
                pthread_mutex_lock(&a->lock);
                if (a->up && a->registered)
                    send_beat(a);
            } else if (a->registered) {
                send_beat(a);
            } else {
                pthread_mutex_unlock(&a->lock);
                do_register(a);
                pthread_mutex_lock(&a->lock);
            }
            continue;
        }
        int64_t until = CLOCK_NEVER;
        if (a->up && !a->beat_sent)
            until = a->beat_next_ms;
        if (a->registered && a->held && a->lease_until > now && a->lease_until < until)
            until = a->lease_until;
        cond_wait_until(&a->wake, &a->lock, until);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

/* ---- draining ---- */

void agent_tell_drain(struct agent *a)
{
    pthread_mutex_lock(&a->telling);
    pthread_mutex_lock(&a->lock);
    char why[AGENT_WHY_MAX], epoch[24];
    snprintf(why, sizeof(why), "%s", a->draining ? "stopping" : a->broken);
    memcpy(epoch, a->epoch, sizeof(epoch));
    bool ready = a->registered && a->up;
    a->drain_untold = a->registered && !ready;
    pthread_mutex_unlock(&a->lock);
    if (ready) {
        struct error err = ERROR_INIT;
        const char *argv[] = {a->v->name, epoch, why[0] ? "1" : "0", why};
        cleanup_reply redisReply *r = NULL;
        if (rlink_eval(a->v->link, &script_drain, 4, argv, NULL, &r, &err) < 0) {
            log_event(LOG_WARN_, "drain.not_told", "reason", err.msg, NULL);
            pthread_mutex_lock(&a->lock);
            a->drain_untold = true; /* told before the next beat */
            pthread_mutex_unlock(&a->lock);
        }
    }
    pthread_mutex_unlock(&a->telling);
}

void agent_drain(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    a->draining = true;
    pthread_mutex_unlock(&a->lock);
    agent_tell_drain(a);
    pthread_mutex_lock(&a->lock);
    a->drain_told_ms = clock_mono_ms();
    a->beat_next_ms = 0;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
}

void agent_set_broken(struct agent *a, const char *why)
{
    pthread_mutex_lock(&a->lock);
    snprintf(a->broken, sizeof(a->broken), "%s", why ? why : "");
    pthread_mutex_unlock(&a->lock);
}

/* With Redis out of sight nothing more can come in, either. */
static bool idle_locked(const struct agent *a)
{
    return !a->held && (a->leaving || a->drain_settled || !a->up || !a->registered);
}

int agent_idle_fd(const struct agent *a)
{
    return a->idle_fd;
}

bool agent_is_idle(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    bool idle = idle_locked(a);
    pthread_mutex_unlock(&a->lock);
    return idle;
}

/* ---- the link ---- */

void agent_on_up(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    a->up = true;
    a->beat_next_ms = 0;
    bool registered = a->registered;
    pthread_cond_broadcast(&a->news);
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
    if (registered) { /* what was published meanwhile is lost */
        pool_poke(a->v->pool, true);
        builds_poke(a->v->builds);
        watch_poke(a->v->watch, true);
    }
}

void agent_on_down(struct agent *a, const char *why)
{
    pthread_mutex_lock(&a->lock);
    a->up = false;
    event_signal(a->idle_fd);
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
    log_event(LOG_WARN_, "redis.down", "reason", why, NULL);
}

static void on_stop_message(struct agent *a, const char *data, size_t len)
{
    char text[64], id[24], token[JOB_TOKEN_TEXT];
    snprintf(text, sizeof(text), "%.*s", (int)len, data);
    if (sscanf(text, "x %23s %23s", id, token) == 2)
        stop_one(a, id, token, KILL_CANCEL);
}

void agent_on_message(struct agent *a, const char *channel, const char *data, size_t len)
{
    (void)channel; /* ours is the only one */
    struct assignment x;
    struct error err = ERROR_INIT;
    CRASHPOINT("vmm", "message", "before");
    switch (len > 0 ? data[0] : '\0') {
    case 'a':
        if (assignment_decode(data + 1, len - 1, &x, &err) == 0)
            begin(a, &x);
        else
            log_event(LOG_ERROR_, "assignment.bad", "reason", err.msg, NULL);
        break;
    case 'x':
        on_stop_message(a, data, len);
        break;
    case 'w':
        pool_poke(a->v->pool, true);
        break;
    case 'b':
        builds_poke(a->v->builds);
        break;
    default: /* of a newer dispatcher */
        break;
    }
}

/* ---- life ---- */

struct agent *agent_new(struct vmm *v)
{
    struct agent *a = xcalloc(1, sizeof(*a));
    a->v = v;
    /* Slots, and as many again whose machines are just being destroyed. */
    a->held_max = 2 * v->slot_ct;
    a->idle_fd = event_new();
    pthread_mutex_init(&a->lock, NULL);
    pthread_mutex_init(&a->telling, NULL);
    cond_init(&a->wake);
    cond_init(&a->news);
    return a;
}

void agent_start(struct agent *a)
{
    a->thread = thread_start(agent_main, a);
}

void agent_stop(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    a->quit = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    char epoch[24], now[24];
    if (!agent_epoch(a, epoch) || !rlink_is_up(a->v->link))
        return;
    struct error err = ERROR_INIT;
    snprintf(now, sizeof(now), "%lld", (long long)clock_wall_ms());
    const char *argv[] = {a->v->name, epoch, now};
    cleanup_reply redisReply *r = NULL;
    if (rlink_eval(a->v->link, &script_unregister, 3, argv, NULL, &r, &err) < 0)
        log_event(LOG_WARN_, "vmm.not_unregistered", "reason", err.msg, NULL);
}

void agent_free(struct agent *a)
{
    while (a->held) {
        struct attempt *x = a->held;
        a->held = x->next;
        attempt_unref(x);
    }
    close(a->idle_fd);
    pthread_cond_destroy(&a->wake);
    pthread_cond_destroy(&a->news);
    pthread_mutex_destroy(&a->lock);
    pthread_mutex_destroy(&a->telling);
    free(a);
}

bool agent_epoch(struct agent *a, char out[24])
{
    pthread_mutex_lock(&a->lock);
    memcpy(out, a->epoch, sizeof(a->epoch));
    bool registered = a->registered;
    pthread_mutex_unlock(&a->lock);
    return registered;
}

bool agent_wait_up(struct agent *a, int64_t deadline)
{
    pthread_mutex_lock(&a->lock);
    while (!a->up && cond_wait_until(&a->news, &a->lock, deadline))
        ;
    bool up = a->up;
    pthread_mutex_unlock(&a->lock);
    return up;
}
