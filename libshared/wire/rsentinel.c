#include "wire/rsentinel.h"

#include "base/clock.h"
#include "base/mem.h"
#include "wire/resolve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define RESOLVE_POLL_MS 20
#define ANSWER_MS_MAX   2000 /* they only remember: who takes longer is not well */

/* One Sentinel's part in a question. Without `ac` and `resolve` it has ended. */
struct seat {
    struct rsentinel *s;
    redisAsyncContext *ac;
    struct resolve *resolve;
    const struct rurl_host *where;
    char why[160];
};

struct rsentinel {
    const struct rurl *url;
    unsigned timeout_ms;
    const struct rloop_ops *ops;
    void *loop;
    rsentinel_fn *told;
    void *arg;

    bool asking;
    int64_t until; /* mono */
    void *timer;
    struct seat seats[RURL_SENTINELS_MAX];
    struct rsentinel_answer answers[RURL_SENTINELS_MAX];
};

int rsentinel_majority(const struct rsentinel_answer *answers, size_t ct)
{
    for (size_t i = 0; i < ct; i++) {
        size_t same = 0;

        for (size_t k = 0; answers[i].host && k < ct; k++)
            same += answers[k].host && answers[k].port == answers[i].port &&
                    strcmp(answers[k].host, answers[i].host) == 0;
        if (same * 2 > ct)
            return (int)i;
    }
    return -1;
}

/* ---- the end of a question ---- */

static void seat_leave(struct seat *t)
{
    redisAsyncContext *ac = t->ac;

    resolve_free(t->resolve);
    t->resolve = NULL;
    t->ac = NULL;
    if (ac) {
        ac->data = NULL; /* so that what hiredis still calls finds nothing to do */
        redisAsyncFree(ac);
    }
}

static void question_end(struct rsentinel *s)
{
    s->asking = false;
    if (s->timer)
        s->ops->timer_stop(s->loop, s->timer);
    s->timer = NULL;
    for (size_t i = 0; i < s->url->sentinel_ct; i++)
        seat_leave(&s->seats[i]);
}

static void answers_forget(struct rsentinel *s)
{
    for (size_t i = 0; i < s->url->sentinel_ct; i++) {
        free(s->answers[i].host);
        s->answers[i] = (struct rsentinel_answer){0};
    }
}

static void conclude(struct rsentinel *s)
{
    size_t ct = s->url->sentinel_ct, open = 0, answered = 0;
    int found = rsentinel_majority(s->answers, ct);
    const char *first = "";
    char why[RCONN_WHY];

    for (size_t i = 0; i < ct; i++) {
        open += s->seats[i].ac || s->seats[i].resolve;
        answered += s->answers[i].host != NULL;
        if (!*first)
            first = s->seats[i].why;
    }
    if (found < 0 && open > 0 && clock_mono_ms() < s->until)
        return;
    question_end(s);
    if (found >= 0) {
        s->told(s->answers[found].host, s->answers[found].port, "", s->arg);
        return;
    }
    snprintf(why, sizeof(why),
             "of %zu Sentinels %zu name a master of %.64s, and more than half of them must name "
             "the same%s%s",
             ct, answered, s->url->master, *first ? "; " : "", first);
    s->told(NULL, 0, why, s->arg);
}

static void seat_end(struct seat *t, const char *why)
{
    snprintf(t->why, sizeof(t->why), "%.64s:%d: %.80s", t->where->host, t->where->port, why);
    seat_leave(t);
}

/* ---- one Sentinel ---- */

static void on_answer(redisAsyncContext *ac, void *r, void *arg)
{
    struct seat *t = ac->data;
    const redisReply *reply = r;

    (void)arg;
    if (!t || !reply) /* left, or hiredis is about to tell on_disconnect */
        return;
    if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
        reply->element[0]->type == REDIS_REPLY_STRING &&
        reply->element[1]->type == REDIS_REPLY_STRING) {
        struct rsentinel_answer *a = &t->s->answers[t - t->s->seats];

        a->host = xstrdup(reply->element[0]->str);
        a->port = (int)strtol(reply->element[1]->str, NULL, 10);
        seat_leave(t);
    } else {
        seat_end(t, reply->type == REDIS_REPLY_ERROR ? reply->str : "it knows no such master");
    }
    conclude(t->s);
}

static void on_auth(redisAsyncContext *ac, void *r, void *arg)
{
    struct seat *t = ac->data;
    const redisReply *reply = r;

    (void)arg;
    if (!t || !reply || reply->type != REDIS_REPLY_ERROR)
        return;
    seat_end(t, reply->str);
    conclude(t->s);
}

static void on_connect(const redisAsyncContext *ac, int status)
{
    struct seat *t = ac->data;

    if (!t || status == REDIS_OK)
        return;
    t->ac = NULL; /* hiredis frees it next */
    seat_end(t, ac->c.errstr);
    conclude(t->s);
}

static void on_disconnect(const redisAsyncContext *ac, int status)
{
    struct seat *t = ac->data;

    (void)status;
    if (!t)
        return;
    t->ac = NULL;
    seat_end(t, ac->errstr && *ac->errstr ? ac->errstr : "the connection ended");
    conclude(t->s);
}

static void question_send(redisAsyncContext *ac, const struct rurl *url)
{
    const char *auth[] = {"AUTH", url->sentinel_user ? url->sentinel_user : url->sentinel_password,
                          url->sentinel_password};
    const char *ask[] = {"SENTINEL", "get-master-addr-by-name", url->master};

    /* They fail only when the connection is ending, which is told. */
    if (url->sentinel_password)
        (void)redisAsyncCommandArgv(ac, on_auth, NULL, url->sentinel_user ? 3 : 2, auth, NULL);
    (void)redisAsyncCommandArgv(ac, on_answer, NULL, 3, ask, NULL);
}

static void seat_connect(struct seat *t, const char *address)
{
    struct rsentinel *s = t->s;
    redisAsyncContext *ac = redisAsyncConnect(address, t->where->port);

    if (!ac || ac->err) {
        char why[80];

        snprintf(why, sizeof(why), "%.79s", ac ? ac->errstr : "no memory");
        if (ac)
            redisAsyncFree(ac);
        seat_end(t, why);
        return;
    }
    /* hiredis makes its sockets without it, and services of ours start programs. */
    fcntl(ac->c.fd, F_SETFD, FD_CLOEXEC);
    t->ac = ac;
    ac->data = t;
    if (s->ops->attach(s->loop, ac) < 0) {
        seat_end(t, "the event loop has no room for a further connection");
        return;
    }
    redisAsyncSetConnectCallback(ac, on_connect);
    redisAsyncSetDisconnectCallback(ac, on_disconnect);
    question_send(ac, s->url);
}

static void seat_resolved(struct seat *t)
{
    struct resolve_addrs addrs;
    int r = resolve_poll(t->resolve, &addrs);

    if (r == -EAGAIN)
        return;
    if (r < 0) {
        seat_end(t, resolve_error(t->resolve));
        return;
    }
    resolve_free(t->resolve);
    t->resolve = NULL;
    seat_connect(t, addrs.text[0]);
}

/* ---- the question ---- */

static void on_time(void *arg);

static void timer_next(struct rsentinel *s)
{
    int64_t left = s->until - clock_mono_ms();
    unsigned ms = left < 0 ? 0 : (unsigned)left, ct = 0;

    for (size_t i = 0; i < s->url->sentinel_ct; i++) {
        if (s->seats[i].resolve && ms > RESOLVE_POLL_MS)
            ms = RESOLVE_POLL_MS;
        ct += s->seats[i].ac || s->seats[i].resolve;
    }
    s->timer = s->ops->timer_start(s->loop, ct ? ms : 0, on_time, s);
}

static void on_time(void *arg)
{
    struct rsentinel *s = arg;

    s->timer = NULL;
    for (size_t i = 0; i < s->url->sentinel_ct; i++)
        if (s->seats[i].resolve)
            seat_resolved(&s->seats[i]);
    timer_next(s); /* which the end stops */
    conclude(s);
}

void rsentinel_ask(struct rsentinel *s)
{
    if (s->asking)
        return;
    answers_forget(s);
    s->asking = true;
    s->until = clock_mono_ms() + (s->timeout_ms < ANSWER_MS_MAX ? s->timeout_ms : ANSWER_MS_MAX);
    for (size_t i = 0; i < s->url->sentinel_ct; i++) {
        struct seat *t = &s->seats[i];

        *t = (struct seat){.s = s, .where = &s->url->sentinels[i]};
        if (resolve_numeric(t->where->host))
            seat_connect(t, t->where->host);
        else if (!(t->resolve = resolve_start(t->where->host)))
            seat_end(t, "no thread could be started to look up its host");
    }
    timer_next(s);
}

struct rsentinel *rsentinel_new(const struct rurl *url, unsigned timeout_ms,
                                const struct rloop_ops *ops, void *loop, rsentinel_fn *told,
                                void *arg)
{
    struct rsentinel *s = xcalloc(1, sizeof(*s));

    s->url = url;
    s->timeout_ms = timeout_ms;
    s->ops = ops;
    s->loop = loop;
    s->told = told;
    s->arg = arg;
    return s;
}

void rsentinel_free(struct rsentinel *s)
{
    if (!s)
        return;
    if (s->asking)
        question_end(s);
    answers_forget(s);
    free(s);
}
