/* Output as it comes. A watch is a job that somebody on this loop watches: it holds one copy of the
 * live output, kept up by the messages that the output script publishes with the bytes in them; a
 * gap (the connection was away) is filled by reading what is missing. Of the final output it only
 * tells where it lies. */

#include "services/api/core_private.h"

#include "base/buf.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define FETCH_BYTES (256u << 10)
#define AGAIN_MS    1000 /* after a look that failed */

static const struct script script_output_at = {
    "output_at",
#include "api/lua/output_at.inc"
};

TAILQ_HEAD(core_watchers, core_watcher);
TAILQ_HEAD(watch_list, watch);

struct watch {
    TAILQ_ENTRY(watch) link;
    struct core_op op; /* first use: the script that looks */
    struct watches *watches;
    char *tenant;
    uint64_t id;
    enum core_watch_state state;
    struct hub_listener listener;
    struct core_watchers watchers;
    struct core_watcher *next; /* of a walk that is under way */
    char token[JOB_TOKEN_TEXT];
    struct buf live;
    bool looking, look_again, walking;
    void *again; /* timer, while it waits to look again */
    char feedback[SHA256_HEX + 1], verdict[32], why[300];
    uint64_t begin, end;
    void *memo;
    void (*memo_free)(void *memo);
};

struct watches {
    struct core *core;
    struct watch_list list; /* of jobs: as many as run, not as many as watch */
};

static void look(struct watch *w);

void core_watches_start(struct core *c)
{
    c->watches = xcalloc(1, sizeof(*c->watches));
    c->watches->core = c;
    TAILQ_INIT(&c->watches->list);
}

static void watch_free_if_idle(struct watch *w)
{
    const struct core_env *env = &w->watches->core->env;

    if (!TAILQ_EMPTY(&w->watchers) || w->looking || w->walking)
        return;
    hub_unlisten(w->watches->core->hub, &w->listener);
    if (w->again)
        env->ops->timer_stop(env->loop, w->again);
    TAILQ_REMOVE(&w->watches->list, w, link);
    if (w->memo)
        w->memo_free(w->memo);
    buf_free(&w->live);
    free(w->tenant);
    free(w);
}

/* May free w. */
static void tell_watchers(struct watch *w)
{
    if (w->walking)
        return;
    w->walking = true;
    for (struct core_watcher *x = TAILQ_FIRST(&w->watchers); x; x = w->next) {
        w->next = TAILQ_NEXT(x, link);
        x->news(x->arg);
    }
    w->next = NULL;
    w->walking = false;
    watch_free_if_idle(w);
}

static void set_token(struct watch *w, const char *token)
{
    if (strcmp(w->token, token) == 0)
        return;
    snprintf(w->token, sizeof(w->token), "%s", token);
    buf_clear(&w->live);
}

static void take_over(struct watch *w, const redisReply *r)
{
    w->state = WATCH_OVER;
    snprintf(w->token, sizeof(w->token), "%s", core_text(r, 1));
    snprintf(w->feedback, sizeof(w->feedback), "%s", core_text(r, 2));
    snprintf(w->verdict, sizeof(w->verdict), "%s", core_text(r, 5));
    w->end = (uint64_t)core_number(r, 3);
    w->begin = *core_text(r, 4) ? (uint64_t)core_number(r, 4) : w->end; /* none was kept */
    hub_unlisten(w->watches->core->hub, &w->listener);
    buf_free(&w->live);
    buf_init(&w->live, SIZE_MAX);
}

static void look_again(void *arg)
{
    struct watch *w = arg;

    w->again = NULL;
    look(w);
}

static void looked(void *op, const char *status, redisReply *r, const char *why)
{
    struct watch *w = H2O_STRUCT_FROM_MEMBER(struct watch, op, op);
    const struct core_env *env = &w->watches->core->env;

    w->looking = false;
    if (!status) {
        if (w->state == WATCH_LOOKING)
            w->state = WATCH_FAILED;
        snprintf(w->why, sizeof(w->why), "%s", why);
        if (!w->again)
            w->again = env->ops->timer_start(env->loop, AGAIN_MS, look_again, w);
    } else if (strcmp(status, "live") == 0) {
        uint64_t from = w->live.len;

        if (strcmp(w->token, core_text(r, 1)) != 0 && from > 0)
            w->look_again = true; /* these are not the first bytes of the new attempt */
        set_token(w, core_text(r, 1));
        if (!w->look_again || w->live.len == from)
            buf_append(&w->live, core_text(r, 3), core_text_len(r, 3));
        if (w->live.len < (uint64_t)core_number(r, 2))
            w->look_again = true;
        w->state = WATCH_LIVE;
    } else if (strcmp(status, "over") == 0) {
        take_over(w, r);
    } else {
        w->state = WATCH_NONE;
    }
    if (w->look_again && status && w->state == WATCH_LIVE)
        look(w);
    tell_watchers(w);
}

static void look(struct watch *w)
{
    char id[24], from[24], most[24];
    const char *argv[] = {w->tenant, id, from, most};

    if (w->state == WATCH_OVER || w->state == WATCH_NONE)
        return;
    if (w->looking) {
        w->look_again = true;
        return;
    }
    w->looking = true;
    w->look_again = false;
    w->op = (struct core_op){.core = w->watches->core};
    snprintf(id, sizeof(id), "%" PRIu64, w->id);
    snprintf(from, sizeof(from), "%zu", w->live.len);
    snprintf(most, sizeof(most), "%u", FETCH_BYTES);
    core_script(&w->op, &script_output_at, 4, argv, NULL, looked);
}

static void on_look(void *arg)
{
    look(arg);
}

/* "f": it is finished. "oTOKEN OFFSET BYTES". */
static void on_message(void *arg, const char *data, size_t len)
{
    struct watch *w = arg;
    char head[64], token[JOB_TOKEN_TEXT];
    size_t offset, n;
    int at = 0;

    snprintf(head, sizeof(head), "%.*s", (int)(len < 63 ? len : 63), data);
    if (sscanf(head, "o%23s %zu%n", token, &offset, &at) != 2 || head[at] != ' ' ||
        w->state != WATCH_LIVE) {
        look(w);
        return;
    }
    data += at + 1;
    n = len - (size_t)at - 1;
    if (w->looking) { /* its answer may be from before these bytes */
        w->look_again = true;
        return;
    }
    set_token(w, token);
    if (offset > w->live.len) {
        look(w);
    } else if (offset + n > w->live.len) {
        size_t skip = w->live.len - offset;

        buf_append(&w->live, data + skip, n - skip);
        tell_watchers(w);
    }
}

static struct watch *watch_get(struct core *c, const char *tenant, uint64_t id)
{
    struct watch *w;
    char channel[32];

    TAILQ_FOREACH(w, &c->watches->list, link)
    {
        if (w->id == id && strcmp(w->tenant, tenant) == 0)
            return w;
    }
    w = xcalloc(1, sizeof(*w));
    w->watches = c->watches;
    w->tenant = xstrdup(tenant);
    w->id = id;
    TAILQ_INIT(&w->watchers);
    buf_init(&w->live, SIZE_MAX); /* what Redis holds: watch_bytes at most */
    TAILQ_INSERT_TAIL(&c->watches->list, w, link);
    w->listener = (struct hub_listener){.message = on_message, .look = on_look, .arg = w};
    snprintf(channel, sizeof(channel), "o:%" PRIu64, id);
    hub_listen(c->hub, &w->listener, channel);
    return w;
}

void core_watch(struct core *c, const char *tenant, uint64_t id, struct core_watcher *x)
{
    struct watch *w = watch_get(c, tenant, id);

    x->watch = w;
    TAILQ_INSERT_TAIL(&w->watchers, x, link);
    if (w->state == WATCH_LOOKING || w->state == WATCH_FAILED) {
        w->state = WATCH_LOOKING;
        look(w);
    }
}

void core_unwatch(struct core *c, struct core_watcher *x)
{
    struct watch *w = x->watch;

    (void)c;
    if (!w)
        return;
    if (w->next == x)
        w->next = TAILQ_NEXT(x, link);
    TAILQ_REMOVE(&w->watchers, x, link);
    x->watch = NULL;
    watch_free_if_idle(w);
}

struct core_view core_watch_view(const struct core_watcher *x)
{
    const struct watch *w = x->watch;

    return (struct core_view){.state = w->state,
                              .token = w->token,
                              .bytes = w->live.data,
                              .len = w->live.len,
                              .feedback = w->feedback,
                              .begin = w->begin,
                              .end = w->end,
                              .verdict = w->verdict,
                              .why = w->why};
}

void **core_watch_memo(struct core_watcher *x, void (***ret_free)(void *memo))
{
    *ret_free = &x->watch->memo_free;
    return &x->watch->memo;
}
