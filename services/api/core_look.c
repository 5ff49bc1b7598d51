#include "services/api/core_private.h"

#include "base/buf.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct script script_partial = {
    "partial",
#include "api/lua/partial.inc"
};
static const struct script script_jobs = {
    "jobs",
#include "api/lua/jobs.inc"
};
static const struct script script_info = {
    "info",
#include "api/lua/info.inc"
};
static const struct script script_pools = {
    "pools",
#include "api/lua/pools.inc"
};

static struct core_op *op_new(struct core *c, core_done_fn *done, void *arg)
{
    struct core_op *op = xcalloc(1, sizeof(*op));

    *op = (struct core_op){.core = c, .done = done, .arg = arg};
    return op;
}

/* ---- partial ---- */

static void partial_came(void *p, const char *status, redisReply *r, const char *why)
{
    struct core_op *op = p;
    struct core_answer a = {.status = CORE_NOT_FOUND, .why = why};

    if (!status) {
        a.status = CORE_FAILED;
    } else if (strcmp(status, "queued") == 0) {
        a.status = CORE_QUEUED;
    } else if (strcmp(status, "nomachine") == 0) {
        a.status = CORE_NO_MACHINE;
    } else if (strcmp(status, "ok") == 0) {
        a.status = CORE_OK;
        a.bytes = core_text(r, 1);
        a.len = core_text_len(r, 1);
    }
    core_end(op, &a);
    free(op);
}

void core_partial(struct core *c, const char *tenant, uint64_t id, core_done_fn *done, void *arg)
{
    char text[24];
    const char *argv[] = {tenant, text};

    snprintf(text, sizeof(text), "%" PRIu64, id);
    core_script(op_new(c, done, arg), &script_partial, 2, argv, NULL, partial_came);
}

/* ---- jobs ---- */

struct listing {
    struct core_op op; /* first */
    struct work work;
    redisReply *reply;
    core_render_fn *render;
    struct buf out;
    size_t unreadable;
};

static void render_one(struct listing *l, const redisReply *r)
{
    cleanup_job struct job *job = NULL;
    const redisReply *trace = r->elements > 8 ? r->element[8] : NULL;
    struct core_job j = {.id = strtoull(core_text(r, 0), NULL, 10),
                         .driver = core_text(r, 3),
                         .assigned = strchr("aprc", *core_text(r, 2)) && *core_text(r, 2),
                         .attempts = (unsigned)strtoul(core_text(r, 4), NULL, 10),
                         .machine = *core_text(r, 5) ? strtoll(core_text(r, 5), NULL, 10) : -1,
                         .rejected = strcmp(core_text(r, 6), "rejected") == 0,
                         .accepted_ms = strtoll(core_text(r, 7), NULL, 10)};
    const char **lines;

    if (!trace || trace->type != REDIS_REPLY_ARRAY ||
        job_decode(core_text(r, 1), core_text_len(r, 1), &job, NULL) < 0) {
        l->unreadable++;
        return;
    }
    lines = xcalloc(trace->elements + 1, sizeof(*lines));
    for (size_t i = 0; i < trace->elements; i++)
        lines[i] = core_text(trace, i);
    j.job = job;
    j.trace = lines;
    j.trace_ct = trace->elements;
    l->render(&j, l->op.core->env.cfg, &l->out);
    free(lines);
}

/* On a worker. */
static void listing_run(struct work *w)
{
    struct listing *l = H2O_STRUCT_FROM_MEMBER(struct listing, work, w);

    for (size_t i = 2; i < l->reply->elements; i++)
        render_one(l, l->reply->element[i]);
}

static void listing_free(struct listing *l)
{
    if (l->reply)
        freeReplyObject(l->reply);
    buf_free(&l->out);
    free(l);
}

static void listing_done(struct work *w)
{
    struct listing *l = H2O_STRUCT_FROM_MEMBER(struct listing, work, w);

    if (l->unreadable)
        log_event(LOG_WARN_, "jobs.unreadable", "count", LOG_NUM(l->unreadable), NULL);
    core_end(&l->op, &(struct core_answer){.status = CORE_OK,
                                           .text = l->out.len ? l->out.data : "",
                                           .len = l->out.len});
    listing_free(l);
}

static void listing_came(void *p, const char *status, redisReply *r, const char *why)
{
    struct listing *l = p;
    const struct core_env *env = &l->op.core->env;
    uint64_t all;

    if (!status) {
        core_fail(&l->op, why);
        listing_free(l);
        return;
    }
    all = strtoull(core_text(r, 1), NULL, 10);
    if (all > r->elements - 2)
        log_event(LOG_INFO_, "jobs.cut", "jobs", LOG_NUM(all), "list_max",
                  LOG_NUM(env->cfg->list_max), NULL);
    l->reply = rconn_take_reply(l->op.core->redis, r);
    l->work.run = listing_run;
    l->work.done = listing_done;
    if (workers_run(env->workers, env->gate, &l->work) < 0) {
        core_fail(&l->op, "The server has too much to do; try again");
        listing_free(l);
    }
}

void core_jobs(struct core *c, const char *tenant, bool dead, core_render_fn *render,
               core_done_fn *done, void *arg)
{
    struct listing *l = xcalloc(1, sizeof(*l));
    char most[24];
    const char *argv[] = {tenant, dead ? "1" : "0", most};

    l->op = (struct core_op){.core = c, .done = done, .arg = arg};
    l->render = render;
    buf_init(&l->out, SIZE_MAX);
    snprintf(most, sizeof(most), "%" PRId64, c->env.cfg->list_max);
    core_script(&l->op, &script_jobs, 3, argv, NULL, listing_came);
}

/* ---- info ---- */

static void info_came(void *p, const char *status, redisReply *r, const char *why)
{
    struct core_op *op = p;
    struct core_answer a = {.status = CORE_OK};
    struct core_counter *counters;

    if (!status) {
        core_fail(op, why);
        free(op);
        return;
    }
    counters = xcalloc(r->elements / 2 + 1, sizeof(*counters));
    for (size_t i = 2; i + 1 < r->elements; i += 2)
        counters[a.counter_ct++] =
            (struct core_counter){core_text(r, i), strtoll(core_text(r, i + 1), NULL, 10)};
    a.counters = counters;
    a.slots = strtoull(core_text(r, 1), NULL, 10);
    core_end(op, &a);
    free(counters);
    free(op);
}

void core_info(struct core *c, core_done_fn *done, void *arg)
{
    core_script(op_new(c, done, arg), &script_info, 0, NULL, NULL, info_came);
}

/* ---- pools ---- */

static size_t take_ids(const char *text, char end, unsigned **ids, size_t ct)
{
    char *next;

    while (*text && *text != end) {
        unsigned long id = strtoul(text, &next, 10);

        if (next == text)
            break;
        *ids = xrealloc(*ids, (ct + 1) * sizeof(**ids));
        (*ids)[ct++] = (unsigned)id;
        text = *next == ',' ? next + 1 : next;
    }
    return ct;
}

static void pools_came(void *p, const char *status, redisReply *r, const char *why)
{
    struct core_op *op = p;
    struct core_answer a = {.status = CORE_OK};
    struct core_pool *pools;
    struct core_idle *idle;
    size_t first = 4, idle_ct, out_ct;

    if (!status) {
        core_fail(op, why);
        free(op);
        return;
    }
    pools = xcalloc(r->elements / 2 + 1, sizeof(*pools));
    idle = xcalloc(r->elements / 2 + 1, sizeof(*idle));
    idle_ct = strtoull(core_text(r, 2), NULL, 10);
    out_ct = strtoull(core_text(r, 3), NULL, 10);
    for (; a.idle_ct < idle_ct && first + 1 < r->elements; first += 2)
        idle[a.idle_ct++] = (struct core_idle){core_text(r, first), core_text(r, first + 1)};
    a.out = idle + a.idle_ct;
    for (; a.out_ct < out_ct && first + 1 < r->elements; first += 2)
        idle[a.idle_ct + a.out_ct++] =
            (struct core_idle){core_text(r, first), core_text(r, first + 1)};
    for (size_t i = first; i + 1 < r->elements; i += 2) {
        const char *image = core_text(r, i), *ids = core_text(r, i + 1);
        const char *semicolon = strchr(ids, ';');
        size_t k = 0;

        while (k < a.pool_ct && strcmp(pools[k].image, image) != 0)
            k++;
        if (k == a.pool_ct)
            pools[a.pool_ct++].image = image;
        pools[k].total_ct = take_ids(ids, ';', &pools[k].total, pools[k].total_ct);
        if (semicolon)
            pools[k].free_ct = take_ids(semicolon + 1, '\0', &pools[k].free, pools[k].free_ct);
    }
    a.pools = pools;
    a.idle = idle;
    a.slots = strtoull(core_text(r, 1), NULL, 10);
    core_end(op, &a);
    for (size_t k = 0; k < a.pool_ct; k++) {
        free(pools[k].total);
        free(pools[k].free);
    }
    free(pools);
    free(idle);
    free(op);
}

void core_pools(struct core *c, const char *tenant, core_done_fn *done, void *arg)
{
    const char *argv[] = {tenant};

    core_script(op_new(c, done, arg), &script_pools, 1, argv, NULL, pools_came);
}
