/* Requests go through one first-in-first-out list, from any thread to the link's. A request of
 * rlink_eval() lies on the stack of its caller, who sleeps on its condition until it is `done`, and
 * borrows the caller's args; one of rlink_send() is a copy on the heap and ends with its callback.
 *
 * `lock` guards the list, the counts and what is said about the connections; it is never held while
 * a callback of the owner runs. */

#include "wire/rlink.h"

#include "base/mem.h"
#include "wire/rpoll.h"
#include "wire/rurl.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>

/* rlink's own bounds come first: callers of rlink_eval are threads, those of rlink_send are
 * counted. */
#define INFLIGHT_MAX (RLINK_SEND_MAX * 2)

struct rlink_request {
    STAILQ_ENTRY(rlink_request) link;
    struct rlink *l;
    const struct script *script; /* NULL: a plain command */
    int argc;
    const char *const *argv;
    const size_t *argvlen;

    /* rlink_send */
    void (*done)(void *arg, const redisReply *reply);
    void *arg;
    size_t bytes;

    /* rlink_eval: all guarded by the lock */
    bool waits;
    bool ended;
    pthread_cond_t cond;
    redisReply *reply;
    int code; /* why there is none */
};
STAILQ_HEAD(request_list, rlink_request);

struct rlink {
    struct rlink_options opt; /* strings are our own copies */
    struct rpoll *poll;
    struct rconn *command, *subscriber;
    pthread_t thread;
    size_t strip;  /* bytes of "prefix:" in a channel's name */
    char why[256]; /* last told; the link's thread only */

    pthread_mutex_t lock;
    pthread_cond_t left; /* the last waiter has gone */
    struct request_list requests;
    unsigned waiter_ct; /* threads inside rlink_eval */
    unsigned send_ct;
    size_t send_bytes;
    bool stopping;
    bool command_up, subscriber_up;
    char run_id[41];
    uint64_t connection_ct; /* command connections so far */
};

static struct rlink_request *request_take(struct rlink *l)
{
    struct rlink_request *q;

    pthread_mutex_lock(&l->lock);
    q = STAILQ_FIRST(&l->requests);
    if (q)
        STAILQ_REMOVE_HEAD(&l->requests, link);
    pthread_mutex_unlock(&l->lock);
    return q;
}

/* Takes the reply. */
static void request_end(struct rlink_request *q, redisReply *reply, int code)
{
    struct rlink *l = q->l;

    if (q->waits) {
        pthread_mutex_lock(&l->lock);
        q->reply = reply;
        q->code = l->stopping && !reply ? ECONNABORTED : code;
        q->ended = true;
        pthread_cond_signal(&q->cond); /* under the lock: q is on a stack that ends when it can */
        pthread_mutex_unlock(&l->lock);
        return;
    }
    pthread_mutex_lock(&l->lock);
    l->send_ct--;
    l->send_bytes -= q->bytes;
    pthread_mutex_unlock(&l->lock);
    if (q->done)
        q->done(q->arg, reply);
    rlink_reply_free(reply);
    free(q);
}

/* ---- The link's thread
 * --------------------------------------------------------------------------- */

static void on_reply(struct rconn *c, redisReply *reply, void *arg)
{
    request_end(arg, reply ? rconn_take_reply(c, reply) : NULL, ECONNRESET);
}

static void on_wake(void *arg)
{
    struct rlink *l = arg;
    struct rlink_request *q;

    while ((q = request_take(l))) {
        /* Nothing was sent then, which the caller may know. */
        if (!rconn_is_up(l->command))
            request_end(q, NULL, ENOTCONN);
        else if (q->script)
            rconn_eval(l->command, q->script, q->argc, q->argv, q->argvlen, on_reply, q);
        else
            rconn_command(l->command, q->argc, q->argv, q->argvlen, on_reply, q);
    }
}

static void on_conn_up(struct rconn *c, void *arg)
{
    struct rlink *l = arg;
    bool up;

    pthread_mutex_lock(&l->lock);
    if (c == l->command) {
        l->command_up = true;
        l->connection_ct++;
        snprintf(l->run_id, sizeof(l->run_id), "%s", rconn_run_id(c));
    } else {
        l->subscriber_up = true;
    }
    up = l->command_up && l->subscriber_up;
    pthread_mutex_unlock(&l->lock);
    if (!up)
        return;
    l->why[0] = '\0';
    if (l->opt.on_up)
        l->opt.on_up(l->opt.arg);
}

static void on_conn_down(struct rconn *c, const char *why, void *arg)
{
    struct rlink *l = arg;
    bool was_up;

    pthread_mutex_lock(&l->lock);
    was_up = l->command_up && l->subscriber_up;
    if (c == l->command) {
        l->command_up = false;
        l->run_id[0] = '\0';
    } else {
        l->subscriber_up = false;
    }
    pthread_mutex_unlock(&l->lock);
    /* Both usually fail alike: told once. */
    if (!was_up && strcmp(l->why, why) == 0)
        return;
    snprintf(l->why, sizeof(l->why), "%s", why);
    if (l->opt.on_down)
        l->opt.on_down(why, l->opt.arg);
}

static void on_published(struct rconn *c, const char *channel, const char *data, size_t len,
                         void *arg)
{
    struct rlink *l = arg;

    (void)c;
    if (l->opt.on_message)
        l->opt.on_message(channel + l->strip, data, len, l->opt.arg);
}

static bool is_stopping(struct rlink *l)
{
    bool stopping;

    pthread_mutex_lock(&l->lock);
    stopping = l->stopping;
    pthread_mutex_unlock(&l->lock);
    return stopping;
}

static void *link_run(void *arg)
{
    struct rlink *l = arg;
    struct rlink_request *q;

    while (!is_stopping(l))
        rpoll_turn(l->poll, -1);
    rconn_free(l->command);
    rconn_free(l->subscriber);
    while ((q = request_take(l)))
        request_end(q, NULL, ECONNABORTED);
    return NULL;
}

/* ---- Start and stop
 * ------------------------------------------------------------------------------ */

static void link_free(struct rlink *l)
{
    rpoll_free(l->poll);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->left);
    free((char *)l->opt.prefix);
    free(l);
}

/* The connections are made here, before the thread is: nothing of them runs until it turns the
 * loop. */
static void link_connect(struct rlink *l, const struct rlink_options *opt)
{
    struct rconn_options o = {
        .url = opt->url,
        .prefix = opt->prefix,
        .timeout_ms = opt->timeout_ms,
        .max_inflight = INFLIGHT_MAX,
        .on_up = on_conn_up,
        .on_down = on_conn_down,
        .arg = l,
    };

    l->command = rconn_new(&o, &rpoll_ops, l->poll);
    o.subscriber = true;
    o.on_message = on_published;
    l->subscriber = rconn_new(&o, &rpoll_ops, l->poll);
    for (size_t i = 0; opt->channels && opt->channels[i]; i++) {
        cleanup_free char *channel = xasprintf("%s:%s", opt->prefix, opt->channels[i]);

        rconn_subscribe(l->subscriber, channel);
    }
}

static int thread_start(struct rlink *l)
{
    sigset_t all, before;
    int error;

    sigfillset(&all); /* SIGPIPE above all; the others are for the threads that wait for them */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    error = pthread_create(&l->thread, NULL, link_run, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

int rlink_start(const struct rlink_options *opt, struct rlink **ret, struct error *err)
{
    struct rlink *l;
    struct rurl url;
    int r = rurl_parse(opt->url, &url, err);

    if (r < 0)
        return r;
    rurl_done(&url);
    l = xcalloc(1, sizeof(*l));
    l->opt = *opt;
    l->opt.url = NULL;
    l->opt.channels = NULL;
    l->opt.prefix = xstrdup(opt->prefix);
    l->strip = strlen(opt->prefix) + 1;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->left, NULL);
    STAILQ_INIT(&l->requests);
    l->poll = rpoll_new(on_wake, l);
    if (!l->poll) {
        r = err_set_errno(err, ERR_TEMPORARY, errno, "making the loop of the Redis link");
        link_free(l);
        return r;
    }
    link_connect(l, opt);
    r = thread_start(l);
    if (r) {
        rconn_free(l->command);
        rconn_free(l->subscriber);
        link_free(l);
        return err_set_errno(err, ERR_TEMPORARY, r, "starting the thread of the Redis link");
    }
    *ret = l;
    return 0;
}

void rlink_stop(struct rlink *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    pthread_mutex_unlock(&l->lock);
    rpoll_wake(l->poll);
    pthread_join(l->thread, NULL);
    pthread_mutex_lock(&l->lock);
    while (l->waiter_ct > 0)
        pthread_cond_wait(&l->left, &l->lock);
    pthread_mutex_unlock(&l->lock);
    link_free(l);
}

bool rlink_is_up(struct rlink *l)
{
    bool up;

    pthread_mutex_lock(&l->lock);
    up = l->command_up && l->subscriber_up;
    pthread_mutex_unlock(&l->lock);
    return up;
}

void rlink_run_id(struct rlink *l, char out[41])
{
    pthread_mutex_lock(&l->lock);
    memcpy(out, l->run_id, sizeof(l->run_id));
    pthread_mutex_unlock(&l->lock);
}

uint64_t rlink_connection(struct rlink *l)
{
    uint64_t n;

    pthread_mutex_lock(&l->lock);
    n = l->command_up ? l->connection_ct : 0;
    pthread_mutex_unlock(&l->lock);
    return n;
}

/* ---- Calls
 * --------------------------------------------------------------------------------------- */

/* With the lock held. 0, or the positive code for which it was not taken. */
static int request_post(struct rlink *l, struct rlink_request *q)
{
    if (l->stopping)
        return ECONNABORTED;
    if (!l->command_up)
        return ENOTCONN;
    STAILQ_INSERT_TAIL(&l->requests, q, link);
    rpoll_wake(l->poll);
    return 0;
}

static const char *request_name(const struct rlink_request *q)
{
    return q->script ? q->script->name : q->argv[0];
}

static int no_reply(const struct rlink_request *q, struct error *err)
{
    const char *what = q->code == ENOTCONN       ? "there is no connection"
                       : q->code == ECONNABORTED ? "this service is stopping"
                                                 : "the connection was lost while waiting";

    return err_set(err, ERR_TEMPORARY, q->code, "Redis %s: %s", request_name(q), what);
}

static int error_reply(const struct rlink_request *q, struct error *err)
{
    static const struct {
        const char *word;
        int code;
    } temporary[] = {
        {"BUSY", EBUSY},    {"OOM", ENOMEM},       {"READONLY", EROFS},   {"LOADING", EROFS},
        {"MISCONF", EROFS}, {"MASTERDOWN", EROFS}, {"NOREPLICAS", EROFS},
    };
    const char *text = q->reply->str;
    size_t len = strcspn(text, " ");

    for (size_t i = 0; i < ARRAY_SIZE(temporary); i++)
        if (strlen(temporary[i].word) == len && memcmp(text, temporary[i].word, len) == 0)
            return err_set(err, ERR_TEMPORARY, temporary[i].code, "Redis %s: %.300s",
                           request_name(q), text);
    return err_set(err, ERR_BUG, EPROTO, "Redis %s: %.300s", request_name(q), text);
}

static int request_wait(struct rlink *l, struct rlink_request *q, redisReply **ret,
                        struct error *err)
{
    int r;

    q->l = l;
    q->waits = true;
    if (pthread_equal(pthread_self(), l->thread))
        return err_set(err, ERR_BUG, EDEADLK, "Redis %s: the link's own thread can not wait for it",
                       request_name(q));
    pthread_cond_init(&q->cond, NULL);
    pthread_mutex_lock(&l->lock);
    l->waiter_ct++;
    q->code = request_post(l, q);
    while (q->code == 0 && !q->ended)
        pthread_cond_wait(&q->cond, &l->lock);
    if (--l->waiter_ct == 0)
        pthread_cond_signal(&l->left); /* the link may be gone once the lock is */
    pthread_mutex_unlock(&l->lock);
    pthread_cond_destroy(&q->cond);
    if (!q->reply)
        return no_reply(q, err);
    if (q->reply->type == REDIS_REPLY_ERROR) {
        r = error_reply(q, err);
        rlink_reply_free(q->reply);
        return r;
    }
    *ret = q->reply;
    return 0;
}

int rlink_eval(struct rlink *l, const struct script *s, int argc, const char *const *argv,
               const size_t *argvlen, redisReply **ret, struct error *err)
{
    struct rlink_request q = {.script = s, .argc = argc, .argv = argv, .argvlen = argvlen};

    return request_wait(l, &q, ret, err);
}

int rlink_command(struct rlink *l, int argc, const char *const *argv, const size_t *argvlen,
                  redisReply **ret, struct error *err)
{
    struct rlink_request q = {.argc = argc, .argv = argv, .argvlen = argvlen};

    return request_wait(l, &q, ret, err);
}

/* One block: the request, its words' places and lengths, their bytes. */
static struct rlink_request *request_copy(int argc, const char *const *argv, const size_t *argvlen)
{
    size_t words = (size_t)argc * (sizeof(char *) + sizeof(size_t)), bytes = 0;
    struct rlink_request *q;
    const char **places;
    size_t *lens;
    char *data;

    for (int i = 0; i < argc; i++)
        bytes += argvlen ? argvlen[i] : strlen(argv[i]);
    q = xmalloc(sizeof(*q) + words + bytes);
    places = (const char **)(q + 1);
    lens = (size_t *)(places + argc);
    data = (char *)(lens + argc);
    for (int i = 0; i < argc; i++) {
        lens[i] = argvlen ? argvlen[i] : strlen(argv[i]);
        places[i] = memcpy(data, argv[i], lens[i]);
        data += lens[i];
    }
    *q = (struct rlink_request){.argc = argc, .argv = places, .argvlen = lens, .bytes = bytes};
    return q;
}

int rlink_send(struct rlink *l, const struct script *s, int argc, const char *const *argv,
               const size_t *argvlen, void (*done)(void *arg, const redisReply *reply), void *arg)
{
    struct rlink_request *q = request_copy(argc, argv, argvlen);
    int r = -EAGAIN;

    q->l = l;
    q->script = s;
    q->done = done;
    q->arg = arg;
    pthread_mutex_lock(&l->lock);
    if (l->send_ct < RLINK_SEND_MAX && l->send_bytes + q->bytes <= RLINK_SEND_BYTES_MAX &&
        request_post(l, q) == 0) {
        l->send_ct++;
        l->send_bytes += q->bytes;
        r = 0;
    }
    pthread_mutex_unlock(&l->lock);
    if (r < 0)
        free(q);
    return r;
}

void rlink_reply_free(redisReply *r)
{
    freeReplyObject(r);
}

void rlink_reply_freep(redisReply **r)
{
    freeReplyObject(*r);
}
