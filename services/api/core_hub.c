#include "services/api/core_hub.h"

#include "base/mem.h"

#include <string.h>

#define BUCKETS 1024

TAILQ_HEAD(hub_listeners, hub_listener);
struct hub_topic {
    LIST_ENTRY(hub_topic) link;
    char *channel;
    struct hub_listeners listeners;
};
LIST_HEAD(topic_list, hub_topic);

struct hub {
    struct rconn *sub;
    char *prefix;
    struct topic_list buckets[BUCKETS];
    struct hub_listener *next; /* of a walk that is under way */
    unsigned walking;          /* no topic is freed meanwhile */
    bool idle;                 /* some topic has lost its last listener meanwhile */
};

static struct topic_list *bucket(struct hub *h, const char *channel)
{
    uint32_t x = 2166136261u; /* FNV-1a: names are ours */

    for (; *channel; channel++)
        x = (x ^ (unsigned char)*channel) * 16777619u;
    return &h->buckets[x % BUCKETS];
}

static struct hub_topic *topic_find(struct hub *h, const char *channel)
{
    struct hub_topic *t;

    LIST_FOREACH(t, bucket(h, channel), link)
    {
        if (strcmp(t->channel, channel) == 0)
            return t;
    }
    return NULL;
}

static void topic_drop_if_idle(struct hub *h, struct hub_topic *t)
{
    if (!TAILQ_EMPTY(&t->listeners))
        return;
    if (h->walking) {
        h->idle = true;
        return;
    }
    rconn_unsubscribe(h->sub, t->channel);
    LIST_REMOVE(t, link);
    free(t->channel);
    free(t);
}

static void walk_begin(struct hub *h)
{
    h->walking++;
}

static void walk_end(struct hub *h)
{
    if (--h->walking || !h->idle)
        return;
    h->idle = false;
    for (unsigned i = 0; i < BUCKETS; i++) {
        struct hub_topic *t = LIST_FIRST(&h->buckets[i]), *next;

        for (; t; t = next) {
            next = LIST_NEXT(t, link);
            topic_drop_if_idle(h, t);
        }
    }
}

/* data NULL: look. Listeners may come and go meanwhile. */
static void walk(struct hub *h, struct hub_topic *t, const char *data, size_t len)
{
    walk_begin(h);
    for (struct hub_listener *l = TAILQ_FIRST(&t->listeners); l; l = h->next) {
        h->next = TAILQ_NEXT(l, link);
        if (data)
            l->message(l->arg, data, len);
        else
            l->look(l->arg);
    }
    walk_end(h);
}

static void on_up(struct rconn *r, void *arg)
{
    struct hub *h = arg;

    (void)r;
    walk_begin(h); /* so that none of the lists loses a topic */
    for (unsigned i = 0; i < BUCKETS; i++) {
        struct hub_topic *t;

        LIST_FOREACH(t, &h->buckets[i], link)
        {
            walk(h, t, NULL, 0);
        }
    }
    walk_end(h);
}

static void on_subscribed(struct rconn *r, const char *channel, void *arg)
{
    struct hub *h = arg;
    struct hub_topic *t = topic_find(h, channel);

    (void)r;
    if (t)
        walk(h, t, NULL, 0);
}

static void on_message(struct rconn *r, const char *channel, const char *data, size_t len,
                       void *arg)
{
    struct hub *h = arg;
    struct hub_topic *t = topic_find(h, channel);

    (void)r;
    if (t)
        walk(h, t, data, len);
}

struct hub *hub_new(const struct core_env *env)
{
    struct hub *h = xcalloc(1, sizeof(*h));
    const struct rconn_options opt = {.url = env->cfg->redis_url,
                                      .prefix = env->cfg->redis_prefix,
                                      .timeout_ms = (unsigned)env->cfg->redis_timeout_ms,
                                      .max_inflight = 64,
                                      .subscriber = true,
                                      .on_up = on_up,
                                      .on_message = on_message,
                                      .on_subscribed = on_subscribed,
                                      .arg = h};

    h->prefix = env->cfg->redis_prefix;
    h->sub = rconn_new(&opt, env->ops, env->loop);
    return h;
}

void hub_listen(struct hub *h, struct hub_listener *l, const char *channel)
{
    char *name = xasprintf("%s:%s", h->prefix, channel);
    struct hub_topic *t = topic_find(h, name);

    if (!t) {
        t = xcalloc(1, sizeof(*t));
        t->channel = name;
        TAILQ_INIT(&t->listeners);
        LIST_INSERT_HEAD(bucket(h, name), t, link);
        rconn_subscribe(h->sub, name); /* and look when it is confirmed */
    } else {
        free(name);
    }
    l->topic = t;
    TAILQ_INSERT_TAIL(&t->listeners, l, link);
}

void hub_unlisten(struct hub *h, struct hub_listener *l)
{
    struct hub_topic *t = l->topic;

    if (!t)
        return;
    if (h->next == l)
        h->next = TAILQ_NEXT(l, link);
    TAILQ_REMOVE(&t->listeners, l, link);
    l->topic = NULL;
    topic_drop_if_idle(h, t);
}
