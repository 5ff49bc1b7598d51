/* The connection's life (see the picture in rconn.h) and its commands. Who ends a connection:
 *
 * - hiredis, on an error or end of file: it first ends every command with NULL, then calls
 *   on_disconnect, or on_connect with an error when the connection was never made;
 * - we, by conn_drop(): redisAsyncFree() ends every command with NULL, at once or, when we are
 * inside one of hiredis's callbacks, after that callback has returned. ac->data is NULL from then
 * on, so that late calls of the hooks find nothing to do.
 *
 * Either way the state is `waiting` before the first command hears of it, so that a callback which
 * asks rconn_is_up() or calls anew is told the truth. Every call is in one of two lists:
 * `inflight`, oldest first, or `failed`, which a timer of 0 ms ends, since no callback may run
 * inside a call. */

#include "wire/rconn.h"

#include "base/clock.h"
#include "base/crashpoint.h"
#include "base/digest.h"
#include "base/mem.h"
#include "wire/rfind.h"
#include "wire/rfit.h"
#include "wire/rurl.h"

#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>

#define RECONNECT_BASE_MS 50
#define RECONNECT_CAP_MS  2000
#define LOOK_MS           250 /* at most so often are the Sentinels asked, whatever is refused */

enum rconn_state { RCONN_WAITING, RCONN_FINDING, RCONN_CONNECTING, RCONN_GREETING, RCONN_UP };

/* "EVALSHA", sha, "1", prefix; or the same four with EVAL and the text */
#define EVAL_HEAD 4

struct rconn_script {
    SLIST_ENTRY(rconn_script) link;
    const struct script *script;
    char sha1[SHA1_HEX + 1];
    bool sent; /* on this connection, by EVAL, which leaves it known to the server */
};

struct rconn_call {
    TAILQ_ENTRY(rconn_call) link;
    struct rconn *c;
    rconn_reply_fn *cb;
    void *arg;
    int64_t sent_at;             /* mono ms */
    const char *name;            /* of the script or command; static */
    struct rconn_script *script; /* NULL for what is not to be sent again on NOSCRIPT */
    int argc;                    /* 0: argv was not kept */
    const char **argv;           /* in the same block of memory as this */
    size_t *argvlen;
};
TAILQ_HEAD(call_list, rconn_call);

struct rconn {
    struct rconn_options opt;
    struct rurl url;
    const struct rloop_ops *ops;
    void *loop;

    enum rconn_state state;
    redisAsyncContext *ac; /* from connecting on */
    bool freeing;
    bool told_up;
    char run_id[RFIT_RUN_ID + 1];
    char why[RCONN_WHY];
    char told[RCONN_WHY]; /* the reason on_down was last called with */
    unsigned tries;
    int64_t tried_at; /* mono ms: when this try began */
    int64_t quiet_at; /* since when nothing was asked */
    int64_t ping_at;  /* subscriber: its keep-alive is unanswered since; 0 none */
    int64_t tick_at;
    int64_t looked_at; /* whether it is still the master */
    int port;

    struct rfind *find; /* NULL: a unix socket, or a URL that is none */

    void *next_timer; /* to the next try */
    void *tick_timer;
    void *fail_timer;

    struct call_list inflight, failed;
    unsigned inflight_ct;
    SLIST_HEAD(, rconn_script) scripts;

    void *channels;     /* tsearch(3) tree of strings */
    char *ping_channel; /* nobody publishes there; see subscriber_ping() */
};

/* The reply that a callback took, until hiredis wants to free it. A thread runs one callback at a
 * time. */
static _Thread_local void *taken_reply;

static void try_begin(void *arg);
static void subscriber_reply(redisAsyncContext *ac, void *r, void *arg);

/* ---- Calls --------------------------------------------------------------------------------------
 */

static void call_end(struct rconn_call *call, redisReply *reply)
{
    call->cb(call->c, reply, call->arg);
    free(call);
}

static void failed_run(void *arg)
{
    struct rconn *c = arg;
    struct call_list list = TAILQ_HEAD_INITIALIZER(list);
    struct rconn_call *call;

    c->fail_timer = NULL;
    TAILQ_CONCAT(&list, &c->failed, link); /* what fails from here on has the next turn */
    while ((call = TAILQ_FIRST(&list))) {
        TAILQ_REMOVE(&list, call, link);
        call_end(call, NULL);
    }
}

static void call_fail(struct rconn_call *call)
{
    struct rconn *c = call->c;

    TAILQ_INSERT_TAIL(&c->failed, call, link);
    if (!c->fail_timer && !c->freeing)
        c->fail_timer = c->ops->timer_start(c->loop, 0, failed_run, c);
}

/* Makes the state true before anybody is told; the reason is the first that was given. */
static void mark_down(struct rconn *c, const char *why)
{
    if (c->state == RCONN_WAITING)
        return;
    c->state = RCONN_WAITING;
    c->run_id[0] = '\0';
    snprintf(c->why, sizeof(c->why), "%s", why && *why ? why : "the connection ended");
}

static int call_send(struct rconn_call *call, int argc, const char *const *argv,
                     const size_t *argvlen);

/* The server forgot the script (SCRIPT FLUSH; a restart has a new connection). */
static bool call_resend(struct rconn_call *call, const redisReply *reply)
{
    static const char noscript[] = "NOSCRIPT";

    if (!call->script || reply->type != REDIS_REPLY_ERROR ||
        strncmp(reply->str, noscript, sizeof(noscript) - 1) != 0)
        return false;
    call->argv[0] = "EVAL";
    call->argvlen[0] = 4;
    call->argv[1] = call->script->script->text;
    call->argvlen[1] = strlen(call->argv[1]);
    call->script = NULL; /* EVAL never answers so, but a bound costs nothing */
    if (call_send(call, call->argc, call->argv, call->argvlen) < 0)
        call_fail(call);
    return true;
}

static bool can_move(const struct rconn *c)
{
    return c->find && rfind_can_move(c->find);
}

/* As one does who is master no more, or is cut off from its replicas. */
static bool refuses_writes(const char *error)
{
    return strncmp(error, "READONLY", 8) == 0 || strncmp(error, "NOREPLICAS", 10) == 0 ||
           strncmp(error, "MASTERDOWN", 10) == 0;
}

/* Also refused may be every write there is, for as long as a replica is away. */
static void look_after_refusal(struct rconn *c)
{
    int64_t now = clock_mono_ms();

    if (now - c->looked_at <= LOOK_MS)
        return;
    c->looked_at = now;
    rfind_look(c->find);
}

static void call_reply(redisAsyncContext *ac, void *r, void *arg)
{
    struct rconn_call *call = arg;
    struct rconn *c = call->c;
    redisReply *reply = r;

    TAILQ_REMOVE(&c->inflight, call, link);
    c->inflight_ct--;
    CRASHPOINT("redis", call->name, "after");
    if (!reply)
        mark_down(c, ac->errstr);
    else if (call_resend(call, reply))
        return;
    else if (can_move(c) && reply->type == REDIS_REPLY_ERROR && refuses_writes(reply->str))
        look_after_refusal(c);
    call_end(call, reply);
}

static int call_send(struct rconn_call *call, int argc, const char *const *argv,
                     const size_t *argvlen)
{
    struct rconn *c = call->c;

    if (c->state != RCONN_UP || c->inflight_ct >= c->opt.max_inflight)
        return -ENOTCONN;
    CRASHPOINT("redis", call->name, "before");
    if (redisAsyncCommandArgv(c->ac, call_reply, call, argc, (const char **)argv, argvlen) !=
        REDIS_OK)
        return -ENOTCONN;
    call->sent_at = c->quiet_at = clock_mono_ms();
    TAILQ_INSERT_TAIL(&c->inflight, call, link);
    c->inflight_ct++;
    return 0;
}

/* With room for `argc` words, and *ret_data for `data_bytes` of them that are to be kept. */
static struct rconn_call *call_new(struct rconn *c, const char *name, int argc, size_t data_bytes,
                                   rconn_reply_fn *cb, void *arg, char **ret_data)
{
    size_t words = (size_t)argc * (sizeof(char *) + sizeof(size_t));
    struct rconn_call *call = xmalloc(sizeof(*call) + words + data_bytes);

    *call = (struct rconn_call){.c = c, .cb = cb, .arg = arg, .name = name, .argc = argc};
    call->argv = (const char **)(call + 1);
    call->argvlen = (size_t *)(call->argv + argc);
    *ret_data = (char *)(call->argvlen + argc);
    return call;
}

static struct rconn_script *script_find(struct rconn *c, const struct script *script)
{
    struct rconn_script *s;

    SLIST_FOREACH(s, &c->scripts, link)
    {
        if (s->script == script)
            return s;
    }
    s = xcalloc(1, sizeof(*s));
    s->script = script;
    digest_hex(DIGEST_SHA1, script->text, strlen(script->text), s->sha1);
    SLIST_INSERT_HEAD(&c->scripts, s, link);
    return s;
}

void rconn_eval(struct rconn *c, const struct script *script, int argc, const char *const *argv,
                const size_t *argvlen, rconn_reply_fn *cb, void *arg)
{
    struct rconn_script *s = script_find(c, script);
    struct rconn_call *call;
    size_t bytes = 0;
    char *data;

    /* The first use on a connection carries the text. So a reconnect does not answer NOSCRIPT to
     * what is pipelined, whose order would be lost in sending it again. */
    bool by_sha = s->sent;

    for (int i = 0; by_sha && i < argc; i++)
        bytes += argvlen ? argvlen[i] : strlen(argv[i]);
    call = call_new(c, script->name, argc + EVAL_HEAD, bytes, cb, arg, &data);
    call->script = by_sha ? s : NULL;
    call->argv[0] = by_sha ? "EVALSHA" : "EVAL";
    call->argv[1] = by_sha ? s->sha1 : script->text;
    call->argv[2] = "1";
    call->argv[3] = c->opt.prefix;
    for (int i = 0; i < EVAL_HEAD; i++)
        call->argvlen[i] = strlen(call->argv[i]);
    for (int i = 0; i < argc; i++) {
        size_t len = argvlen ? argvlen[i] : strlen(argv[i]);

        call->argvlen[EVAL_HEAD + i] = len;
        call->argv[EVAL_HEAD + i] = argv[i];
        if (by_sha) {
            memcpy(data, argv[i], len);
            call->argv[EVAL_HEAD + i] = data;
            data += len;
        }
    }
    if (call_send(call, call->argc, call->argv, call->argvlen) < 0)
        call_fail(call);
    else
        s->sent = true;
}

void rconn_command(struct rconn *c, int argc, const char *const *argv, const size_t *argvlen,
                   rconn_reply_fn *cb, void *arg)
{
    char *data;
    struct rconn_call *call = call_new(c, argv[0], 0, 0, cb, arg, &data);

    if (c->opt.subscriber || call_send(call, argc, argv, argvlen) < 0)
        call_fail(call);
}

redisReply *rconn_take_reply(struct rconn *c, redisReply *reply)
{
    (void)c;
    taken_reply = reply;
    return reply;
}

static void reply_free(void *reply)
{
    if (reply && reply == taken_reply)
        taken_reply = NULL;
    else
        freeReplyObject(reply);
}

/* ---- The end of a connection
 * --------------------------------------------------------------------- */

static void next_start(struct rconn *c, unsigned ms, void (*cb)(void *arg))
{
    if (c->next_timer)
        c->ops->timer_stop(c->loop, c->next_timer);
    c->next_timer = c->ops->timer_start(c->loop, ms, cb, c);
}

/* After mark_down(), with no hiredis context left to us: plans the next try and tells. */
static void conn_ended(struct rconn *c)
{
    if (c->freeing)
        return;
    next_start(c, (unsigned)clock_backoff_ms(c->tries, RECONNECT_BASE_MS, RECONNECT_CAP_MS),
               try_begin);
    if (c->tries < 16) /* the cap is reached long before */
        c->tries++;
    if (c->told_up || strcmp(c->told, c->why) != 0) {
        c->told_up = false;
        memcpy(c->told, c->why, sizeof(c->told));
        if (c->opt.on_down)
            c->opt.on_down(c, c->why, c->opt.arg);
    }
}

static void conn_drop(struct rconn *c, const char *why)
{
    redisAsyncContext *ac = c->ac;

    mark_down(c, why);
    c->ac = NULL;
    if (ac) {
        ac->data = NULL;
        redisAsyncFree(ac);
    }
    conn_ended(c);
}

static void on_disconnect(const redisAsyncContext *ac, int status)
{
    struct rconn *c = ac->data;

    (void)status;
    if (!c)
        return;
    mark_down(c, ac->errstr);
    c->ac = NULL;
    conn_ended(c);
}

/* ---- Greeting
 * ------------------------------------------------------------------------------------ */

static void conn_up(struct rconn *c)
{
    c->state = RCONN_UP;
    c->why[0] = c->told[0] = '\0';
    c->told_up = true;
    c->tries = 0;
    if (c->find)
        rfind_served(c->find);
    c->quiet_at = c->looked_at = clock_mono_ms();
    if (c->opt.on_up)
        c->opt.on_up(c, c->opt.arg);
}

static void subscribe_send(struct rconn *c, const char *verb, const char *channel)
{
    const char *argv[] = {verb, channel};

    /* It fails only when the connection is ending; the next greeting subscribes anew. */
    (void)redisAsyncCommandArgv(c->ac, subscriber_reply, NULL, 2, argv, NULL);
}

static void subscribe_node(const void *node, VISIT visit, void *arg)
{
    if (visit == postorder || visit == leaf)
        subscribe_send(arg, "SUBSCRIBE", *(char *const *)node);
}

/* A PING's answer on a subscribed connection confuses hiredis 0.14 (it hands the next message to
 * the waiting callback), but to subscribe again is always confirmed, behind all that was asked
 * before. So the same channel ends the greeting and keeps the connection alive. */
static void subscriber_ping(struct rconn *c)
{
    c->ping_at = clock_mono_ms();
    subscribe_send(c, "SUBSCRIBE", c->ping_channel);
}

/* The last one: PING is the one of them that a loading server refuses. */
static void greet_done(struct rconn *c)
{
    if (!c->opt.subscriber) {
        conn_up(c);
        return;
    }
    twalk_r(c->channels, subscribe_node, c);
    subscriber_ping(c);
}

enum greet_step {
    GREET_AUTH,
    GREET_SELECT,
    GREET_NAME,
    GREET_INFO,
    GREET_ROLE,
    GREET_POLICY,
    GREET_PING
};
static const char *const greet_names[] = {"AUTH", "SELECT", "CLIENT", "INFO",
                                          "INFO", "CONFIG", "PING"};

static int greet_judge(struct rconn *c, enum greet_step step, const redisReply *reply,
                       char why[RFIT_WHY])
{
    if (step == GREET_INFO)
        return rfit_server(reply, c->run_id, why);
    if (step == GREET_ROLE)
        return rfit_master(reply, why);
    if (step == GREET_POLICY)
        return rfit_policy(reply, why);
    if (step == GREET_NAME || reply->type != REDIS_REPLY_ERROR)
        return 0;
    snprintf(why, RFIT_WHY, "%s: %.150s%s", greet_names[step], reply->str,
             step == GREET_AUTH ? "; check user and password in the Redis URL" : "");
    return -1;
}

static void greet_reply(redisAsyncContext *ac, void *r, void *arg)
{
    enum greet_step step = (enum greet_step)(intptr_t)arg;
    struct rconn *c = ac->data;
    const redisReply *reply = r;
    char why[RFIT_WHY];

    if (!c || !reply) /* dropped already, or hiredis is about to tell on_disconnect */
        return;
    if (greet_judge(c, step, reply, why) < 0)
        conn_drop(c, why);
    else if (step == GREET_PING)
        greet_done(c);
}

static void greet_send(struct rconn *c, enum greet_step step, const char *a, const char *b)
{
    const char *argv[] = {greet_names[step], a, b};

    (void)redisAsyncCommandArgv(c->ac, greet_reply, (void *)(intptr_t)step,
                                1 + (a != NULL) + (b != NULL), argv, NULL);
}

static void greet(struct rconn *c)
{
    struct rconn_script *s;

    c->state = RCONN_GREETING;
    SLIST_FOREACH(s, &c->scripts, link)
    {
        s->sent = false;
    }
    if (c->url.password && c->url.user)
        greet_send(c, GREET_AUTH, c->url.user, c->url.password);
    else if (c->url.password)
        greet_send(c, GREET_AUTH, c->url.password, NULL);
    if (c->url.db) {
        char db[16];

        snprintf(db, sizeof(db), "%d", c->url.db);
        greet_send(c, GREET_SELECT, db, NULL);
    }
    greet_send(c, GREET_NAME, "SETNAME", "milonga");
    greet_send(c, GREET_INFO, "server", NULL);
    if (can_move(c)) /* one who was replaced, or is not there yet, is never written to */
        greet_send(c, GREET_ROLE, "replication", NULL);
    greet_send(c, GREET_POLICY, "GET", "maxmemory-policy");
    greet_send(c, GREET_PING, NULL, NULL);
}

static void on_connect(const redisAsyncContext *ac, int status)
{
    struct rconn *c = ac->data;

    if (!c)
        return;
    if (status == REDIS_OK) {
        greet(c);
        return;
    }
    /* hiredis frees it next, and does not call on_disconnect for what was never connected. */
    mark_down(c, ac->c.errstr);
    c->ac = NULL;
    conn_ended(c);
}

/* ---- A try
 * --------------------------------------------------------------------------------------- */

static void try_connect(struct rconn *c, const char *address)
{
    static _Thread_local redisReplyObjectFunctions functions;
    redisAsyncContext *ac =
        address ? redisAsyncConnect(address, c->port) : redisAsyncConnectUnix(c->url.path);
    char why[RCONN_WHY];

    c->state = RCONN_CONNECTING;
    if (!ac || ac->err) {
        snprintf(why, sizeof(why), "%.150s", ac ? ac->errstr : "no memory");
        if (ac)
            redisAsyncFree(ac);
        conn_drop(c, why);
        return;
    }
    /* hiredis makes its sockets without it, and services of ours start programs. */
    fcntl(ac->c.fd, F_SETFD, FD_CLOEXEC);
    functions = *ac->c.reader->fn;
    functions.freeObject = reply_free;
    ac->c.reader->fn = &functions;
    c->ac = ac;
    ac->data = c;
    if (c->ops->attach(c->loop, ac) < 0) {
        conn_drop(c, "the event loop has no room for a further connection");
        return;
    }
    redisAsyncSetDisconnectCallback(ac, on_disconnect);
    redisAsyncSetConnectCallback(ac, on_connect);
}

static void found(const char *address, int port, const char *why, void *arg)
{
    struct rconn *c = arg;

    c->tried_at = clock_mono_ms();
    c->port = port;
    if (address)
        try_connect(c, address);
    else
        conn_drop(c, why);
}

static void moved(void *arg)
{
    struct rconn *c = arg;

    if (c->state != RCONN_WAITING)
        conn_drop(c, "the Sentinels name another master");
}

static void try_begin(void *arg)
{
    struct rconn *c = arg;

    c->next_timer = NULL;
    c->tried_at = clock_mono_ms();
    c->ping_at = 0;
    c->state = RCONN_FINDING;
    if (c->url.path)
        try_connect(c, NULL);
    else
        rfind_next(c->find);
}

/* ---- Time
 * ---------------------------------------------------------------------------------------- */

static void ping_reply(struct rconn *c, redisReply *reply, void *arg)
{
    (void)c;
    (void)reply;
    (void)arg;
}

/* An idle connection whose other end is gone without a word is found out before it is needed. */
static void keep_alive(struct rconn *c, int64_t now)
{
    static const char *const ping[] = {"PING"};

    if (!TAILQ_EMPTY(&c->inflight) || c->ping_at || now - c->quiet_at < c->opt.timeout_ms / 2)
        return;
    if (c->opt.subscriber)
        subscriber_ping(c);
    else
        rconn_command(c, 1, ping, NULL, ping_reply, NULL);
}

static void tick(void *arg)
{
    struct rconn *c = arg;
    struct rconn_call *oldest = TAILQ_FIRST(&c->inflight);
    unsigned period_ms = c->opt.timeout_ms / 8 < 5     ? 5
                         : c->opt.timeout_ms / 8 > 500 ? 500
                                                       : c->opt.timeout_ms / 8;
    int64_t now = clock_mono_ms(), limit = c->opt.timeout_ms, late = now - c->tick_at;
    char why[128] = "";

    c->tick_at = now;
    c->tick_timer = c->ops->timer_start(c->loop, period_ms, tick, c);
    /* When it was we who stood still, answers may lie unread: look again next time. */
    if (late > 4 * (int64_t)period_ms)
        return;
    if ((c->state == RCONN_CONNECTING || c->state == RCONN_GREETING) && now - c->tried_at > limit)
        snprintf(why, sizeof(why), "Redis did not answer a connection within %u ms",
                 c->opt.timeout_ms);
    else if (c->state == RCONN_UP && ((oldest && now - oldest->sent_at > limit) ||
                                      (c->ping_at && now - c->ping_at > limit)))
        snprintf(why, sizeof(why), "Redis did not answer a command within %u ms",
                 c->opt.timeout_ms);
    if (why[0]) {
        conn_drop(c, why);
    } else if (c->state == RCONN_UP) {
        keep_alive(c, now);
        /* A master that was replaced behind its back goes on answering. */
        if (can_move(c) && now - c->looked_at > limit / 2) {
            c->looked_at = now;
            rfind_look(c->find);
        }
    }
}

/* ---- Subscriber
 * ---------------------------------------------------------------------------------- */

static int channel_compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void subscriber_confirmed(struct rconn *c, const char *channel)
{
    if (strcmp(channel, c->ping_channel) == 0) {
        c->ping_at = 0;
        c->quiet_at = clock_mono_ms();
        if (c->state == RCONN_GREETING)
            conn_up(c);
    } else if (c->opt.on_subscribed && tfind(channel, &c->channels, channel_compare)) {
        c->opt.on_subscribed(c, channel, c->opt.arg);
    }
}

static void subscriber_reply(redisAsyncContext *ac, void *r, void *arg)
{
    struct rconn *c = ac->data;
    const redisReply *reply = r;
    const char *kind, *channel;

    (void)arg;
    if (!c || !reply || reply->type != REDIS_REPLY_ARRAY || reply->elements < 3 ||
        reply->element[0]->type != REDIS_REPLY_STRING ||
        reply->element[1]->type != REDIS_REPLY_STRING)
        return;
    kind = reply->element[0]->str;
    channel = reply->element[1]->str;
    if (strcmp(kind, "subscribe") == 0)
        subscriber_confirmed(c, channel);
    else if (strcmp(kind, "message") == 0 && reply->element[2]->type == REDIS_REPLY_STRING &&
             c->opt.on_message && tfind(channel, &c->channels, channel_compare))
        c->opt.on_message(c, channel, reply->element[2]->str, reply->element[2]->len, c->opt.arg);
}

void rconn_subscribe(struct rconn *c, const char *channel)
{
    if (!c->opt.subscriber || tfind(channel, &c->channels, channel_compare))
        return;
    if (!tsearch(xstrdup(channel), &c->channels, channel_compare))
        abort(); /* out of memory */
    /* While greeting, PING may still be unanswered, and then greet_done() does it. */
    if (c->state == RCONN_UP || (c->state == RCONN_GREETING && c->ping_at))
        subscribe_send(c, "SUBSCRIBE", channel);
}

void rconn_unsubscribe(struct rconn *c, const char *channel)
{
    void *node = tfind(channel, &c->channels, channel_compare);
    char *own;

    if (!node)
        return;
    own = *(char **)node;
    if (c->state == RCONN_UP || (c->state == RCONN_GREETING && c->ping_at))
        subscribe_send(c, "UNSUBSCRIBE", own);
    tdelete(channel, &c->channels, channel_compare);
    free(own); /* `channel` may be this string */
}

/* ---- The object
 * ---------------------------------------------------------------------------------- */

static void bad_url(void *arg)
{
    struct rconn *c = arg;

    c->next_timer = NULL;
    if (c->opt.on_down)
        c->opt.on_down(c, c->why, c->opt.arg);
}

struct rconn *rconn_new(const struct rconn_options *opt, const struct rloop_ops *ops, void *loop)
{
    struct rconn *c = xcalloc(1, sizeof(*c));
    struct error err = ERROR_INIT;

    c->opt = *opt;
    c->opt.url = NULL; /* parsed below; it holds a password, so there is no copy */
    c->opt.prefix = xstrdup(opt->prefix);
    c->ops = ops;
    c->loop = loop;
    c->ping_channel = xasprintf("%s:ping", opt->prefix);
    c->tick_at = clock_mono_ms();
    TAILQ_INIT(&c->inflight);
    TAILQ_INIT(&c->failed);
    SLIST_INIT(&c->scripts);
    snprintf(c->why, sizeof(c->why), "not connected yet");
    if (rurl_parse(opt->url, &c->url, &err) < 0) {
        snprintf(c->why, sizeof(c->why), "%.250s", err.msg);
        next_start(c, 0, bad_url);
        return c;
    }
    if (!c->url.path)
        c->find =
            rfind_new(&c->url, opt->timeout_ms, ops, loop, &(struct rfind_owner){found, moved, c});
    next_start(c, 0, try_begin);
    c->tick_timer = ops->timer_start(loop, 0, tick, c);
    return c;
}

void rconn_free(struct rconn *c)
{
    struct rconn_script *s;

    if (!c)
        return;
    c->freeing = true;
    if (c->find)
        rfind_stop(c->find);
    if (c->next_timer)
        c->ops->timer_stop(c->loop, c->next_timer);
    if (c->tick_timer)
        c->ops->timer_stop(c->loop, c->tick_timer);
    if (c->fail_timer)
        c->ops->timer_stop(c->loop, c->fail_timer);
    conn_drop(c, "closed");
    while (!TAILQ_EMPTY(&c->failed))
        failed_run(c);
    rfind_free(c->find);
    while ((s = SLIST_FIRST(&c->scripts))) {
        SLIST_REMOVE_HEAD(&c->scripts, link);
        free(s);
    }
    tdestroy(c->channels, free);
    free(c->ping_channel);
    free((char *)c->opt.prefix);
    rurl_done(&c->url);
    free(c);
}

bool rconn_is_up(const struct rconn *c)
{
    return c->state == RCONN_UP;
}

const char *rconn_run_id(const struct rconn *c)
{
    return c->state == RCONN_UP ? c->run_id : "";
}

const char *rconn_why(const struct rconn *c)
{
    return c->why;
}
