#include "services/api/core_private.h"

#include "base/clock.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define MAX_INFLIGHT  8192
#define AGAIN_MS      2000
#define AGAIN_STEP_MS 50

/* ---- Redis ---- */

static void tell_tried(struct core *c)
{
    void (*tell)(void *arg) = c->env.on_tried;

    c->env.on_tried = NULL;
    if (tell)
        tell(c->env.arg);
}

static void redis_up(struct rconn *r, void *arg)
{
    (void)r;
    log_event(LOG_INFO_, "redis.up", NULL);
    tell_tried(arg);
}

static void redis_down(struct rconn *r, const char *why, void *arg)
{
    (void)r;
    log_event(LOG_WARN_, "redis.down", "why", why, NULL);
    tell_tried(arg);
}

struct core *core_new(const struct core_env *env)
{
    struct core *c = xcalloc(1, sizeof(*c));
    const struct rconn_options opt = {.url = env->cfg->redis_url,
                                      .prefix = env->cfg->redis_prefix,
                                      .timeout_ms = (unsigned)env->cfg->redis_timeout_ms,
                                      .max_inflight = MAX_INFLIGHT,
                                      .on_up = redis_up,
                                      .on_down = redis_down,
                                      .arg = c};

    c->env = *env;
    c->redis = rconn_new(&opt, env->ops, env->loop);
    c->hub = hub_new(env);
    core_waits_start(c);
    core_watches_start(c);
    core_feed_start(c);
    core_syncs_start(c);
    return c;
}

bool core_is_up(const struct core *c, const char **ret_why)
{
    *ret_why = rconn_why(c->redis);
    return rconn_is_up(c->redis);
}

const char *core_run_id(const struct core *c)
{
    return rconn_run_id(c->redis);
}

const unsigned core_meter_us[CORE_METER_BUCKETS] = {100,   300,    1000,    3000,
                                                    10000, 100000, 1000000, 10000000};

static void meter(struct core_meter *m, int64_t us, bool failed)
{
    atomic_fetch_add_explicit(&m->ct, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->us, (unsigned long long)us, memory_order_relaxed);
    if (failed)
        atomic_fetch_add_explicit(&m->failed, 1, memory_order_relaxed);
    for (unsigned i = 0; i < CORE_METER_BUCKETS; i++) {
        if (us <= core_meter_us[i]) {
            atomic_fetch_add_explicit(&m->buckets[i], 1, memory_order_relaxed);
            return;
        }
    }
}

static int64_t mono_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

struct script_call {
    struct core_op *op;
    core_script_fn *fn;
    const struct script *script;
    int64_t sent_us;
};

static void script_replied(struct rconn *r, redisReply *reply, void *arg)
{
    struct script_call call = *(struct script_call *)arg;
    char why[400];

    free(arg);
    meter(call.op->core->env.meter, mono_us() - call.sent_us, !reply);
    if (!reply) {
        if (rconn_is_up(r))
            snprintf(why, sizeof(why), "Redis has too much to do; try again");
        else
            snprintf(why, sizeof(why), "Redis is not reachable: %.300s", rconn_why(r));
        call.fn(call.op, NULL, NULL, why);
    } else if (reply->type == REDIS_REPLY_ERROR) {
        log_event(LOG_ERROR_, "redis.error", "script", call.script->name, "error", reply->str,
                  NULL);
        if (strncmp(reply->str, "OOM ", 4) == 0)
            snprintf(
                why, sizeof(why),
                "Redis is full: nothing new can be taken until jobs have ended and old ones are "
                "forgotten; try again, or raise its maxmemory");
        else
            snprintf(why, sizeof(why), "Redis refused the request: %.300s", reply->str);
        call.fn(call.op, NULL, NULL, why);
    } else {
        call.fn(call.op, core_text(reply, 0), reply, "");
    }
}

void core_script(struct core_op *op, const struct script *s, int argc, const char *const *argv,
                 const size_t *argvlen, core_script_fn *fn)
{
    struct script_call *call = xmalloc(sizeof(*call));

    *call = (struct script_call){op, fn, s, mono_us()};
    rconn_eval(op->core->redis, s, argc, argv, argvlen, script_replied, call);
}

const redisReply *core_list(const redisReply *r, size_t i)
{
    static const redisReply none = {.type = REDIS_REPLY_ARRAY};

    if (r->type != REDIS_REPLY_ARRAY || i >= r->elements ||
        r->element[i]->type != REDIS_REPLY_ARRAY)
        return &none;
    return r->element[i];
}

int64_t core_number(const redisReply *r, size_t i)
{
    return strtoll(core_text(r, i), NULL, 10);
}

const char *core_text(const redisReply *r, size_t i)
{
    if (r->type != REDIS_REPLY_ARRAY || i >= r->elements ||
        r->element[i]->type != REDIS_REPLY_STRING)
        return "";
    return r->element[i]->str;
}

size_t core_text_len(const redisReply *r, size_t i)
{
    if (r->type != REDIS_REPLY_ARRAY || i >= r->elements ||
        r->element[i]->type != REDIS_REPLY_STRING)
        return 0;
    return r->element[i]->len;
}

bool core_file_parse(const char *text, struct core_file *ret)
{
    return sscanf(text, "%64s %32s %" SCNu64, ret->sha256, ret->md5, &ret->size) == 3;
}

/* ---- Operations ---- */

void core_end(struct core_op *op, struct core_answer *a)
{
    if (!a->why)
        a->why = "";
    op->done(op->arg, a);
}

void core_fail(struct core_op *op, const char *why)
{
    core_end(op, &(struct core_answer){.status = CORE_FAILED, .why = why});
}

bool core_again(struct core_op *op, void (*again)(void *op))
{
    const struct core_env *env = &op->core->env;
    int64_t now = clock_mono_ms();

    if (!op->give_up)
        op->give_up = now + AGAIN_MS;
    if (now >= op->give_up)
        return false;
    env->ops->timer_start(env->loop, (unsigned)clock_backoff_ms(0, AGAIN_STEP_MS, AGAIN_STEP_MS),
                          again, op);
    return true;
}
