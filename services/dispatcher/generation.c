#include "services/dispatcher/generation.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/reply.h"
#include "services/dispatcher/scripts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define RECORD "ids"

int generation_parse(const char *text, int64_t *ret_generation, int64_t *ret_high)
{
    long long generation, high;
    char rest;

    if (sscanf(text, "%lld %lld %c", &generation, &high, &rest) != 2 || generation < 0 || high < 0)
        return -EPROTO;
    *ret_generation = generation;
    *ret_high = high;
    return 0;
}

int generation_new(int64_t meta_generation, int64_t meta_id_next, int64_t record_generation,
                   int64_t record_high, int64_t ahead, struct generation *ret)
{
    struct generation g = {
        .generation =
            (meta_generation > record_generation ? meta_generation : record_generation) + 1,
        .id_next = meta_id_next > record_high ? meta_id_next : record_high,
    };

    if (g.id_next < 1)
        g.id_next = 1;
    if (g.id_next >= GENERATION_ID_MAX || g.generation > UINT32_MAX)
        return -EOVERFLOW;
    g.id_limit = g.id_next + ahead;
    if (g.id_limit > GENERATION_ID_MAX)
        g.id_limit = GENERATION_ID_MAX;
    *ret = g;
    return 0;
}

/* ---- the record ---- */

/* A dispatcher that was paused may wake up in the middle of writing, long after another one leads.
 * So a mark is a record whose name is its value, `ids-GENERATION-HIGH`, which nobody ever changes,
 * and what counts is the highest of all: whatever is written late is lower than what has been told
 * to Redis since, or was never told. A record is removed only by who has written a higher one,
 * which holds for a sleeper too. `ids` says the same under a name that is easy to find, for an
 * operator and for volumes whose listings lag behind; it counts like any other. */
#define RECORDS_MAX 64

struct marks {
    struct dispatcher *d;
    struct error *err;
    int64_t generation, high; /* highest */
    struct mark {
        char name[64];
        int64_t generation, high;
    } seen[RECORDS_MAX]; /* those beside `ids`; with more than these, some are left for later */
    size_t seen_ct;
};

static int mark_read(void *arg, const char *name)
{
    struct marks *m = arg;
    struct error e = ERROR_INIT;
    cleanup_free char *text = NULL;
    int64_t generation, high;
    int rc = store_meta_get(m->d->store, name, &text, &e);

    if (rc == -ENOENT)
        return 0; /* there is a higher one by now */
    if (rc < 0) {
        *m->err = e;
        return rc;
    }
    if (generation_parse(text, &generation, &high) < 0)
        return err_set(m->err, ERR_PERMANENT, EPROTO,
                       "the store's record %s is damaged (\"%.40s\"): write \"GENERATION ID\" into "
                       "it, both higher than any in use",
                       name, text);
    if (generation > m->generation)
        m->generation = generation;
    if (high > m->high)
        m->high = high;
    if (strcmp(name, RECORD) != 0 && m->seen_ct < RECORDS_MAX) {
        struct mark *x = &m->seen[m->seen_ct++];
        snprintf(x->name, sizeof(x->name), "%s", name);
        x->generation = generation;
        x->high = high;
    }
    return 0;
}

/* Zeros when there is no record yet. */
static int marks_read(struct dispatcher *d, struct marks *m, struct error *err)
{
    int rc;

    *m = (struct marks){.d = d, .err = err};
    rc = store_meta_list(d->store, RECORD "-", mark_read, m, err);
    return rc < 0 ? rc : mark_read(m, RECORD);
}

static int mark_write(struct marks *m, const struct generation *g, struct error *err)
{
    cleanup_free char *text =
        xasprintf("%lld %lld", (long long)g->generation, (long long)g->id_limit);
    cleanup_free char *name =
        xasprintf(RECORD "-%lld-%lld", (long long)g->generation, (long long)g->id_limit);
    int rc = store_meta_put(m->d->store, name, text, err);

    if (rc == 0)
        rc = store_meta_put(m->d->store, RECORD, text, err);
    for (size_t i = 0; rc == 0 && i < m->seen_ct; i++) {
        const struct mark *x = &m->seen[i];
        struct error ignored = ERROR_INIT; /* the next one removes it */

        if (x->generation <= g->generation && x->high <= g->id_limit && strcmp(x->name, name) != 0)
            store_meta_drop(m->d->store, x->name, &ignored);
    }
    return rc;
}

static int write_all_places(struct dispatcher *d, const char *run_id, struct marks *m,
                            const struct generation *g, struct error *err)
{
    struct number gen = number(g->generation), next = number(g->id_next),
                  limit = number(g->id_limit), now = number(clock_wall_ms());
    const char *argv[] = {NULL, run_id, gen.text, next.text, limit.text, now.text};
    cleanup_reply redisReply *r = NULL;
    int rc = mark_write(m, g, err);

    if (rc < 0)
        return rc;
    rc = dispatcher_ask(d, &script_generation, ARRAY_SIZE(argv), argv, NULL, &r, err);
    return rc < 0 ? rc : 1;
}

static int begin_new(struct dispatcher *d, const char *run_id, const redisReply *meta,
                     struct error *err)
{
    struct generation g;
    struct marks m;
    int rc = marks_read(d, &m, err);

    if (rc < 0)
        return rc;
    if (generation_new(reply_num(meta, 1), reply_num(meta, 2), m.generation, m.high,
                       GENERATION_IDS_AHEAD, &g) < 0)
        return err_set(err, ERR_PERMANENT, EOVERFLOW, "all job ids are used up");
    rc = write_all_places(d, run_id, &m, &g, err);
    if (rc > 0)
        log_event(LOG_INFO_, "generation.begun", "generation", LOG_NUM(g.generation), "id_next",
                  LOG_NUM(g.id_next), NULL);
    return rc;
}

static int raise_limit(struct dispatcher *d, const char *run_id, const redisReply *meta,
                       struct error *err)
{
    struct generation g = {reply_num(meta, 1), reply_num(meta, 2), 0};
    int64_t limit = reply_num(meta, 3);
    struct marks m;
    int rc;

    if (limit - g.id_next >= GENERATION_IDS_AHEAD / 2 || limit >= GENERATION_ID_MAX)
        return 0;
    rc = marks_read(d, &m, err);
    if (rc < 0)
        return rc;
    /* Written by one that was deposed before Redis heard of it. Its generation may be in nobody's
     * token, but neither is it ours to give. */
    if (m.generation > g.generation) {
        log_event(LOG_WARN_, "generation.skipped", "record", LOG_NUM(m.generation), "redis",
                  LOG_NUM(g.generation), NULL);
        return begin_new(d, run_id, meta, err);
    }
    g.id_limit = (limit > g.id_next ? limit : g.id_next) + GENERATION_IDS_AHEAD;
    if (g.id_limit < m.high) /* a mark that was written and not told */
        g.id_limit = m.high;
    if (g.id_limit > GENERATION_ID_MAX)
        g.id_limit = GENERATION_ID_MAX;
    rc = write_all_places(d, run_id, &m, &g, err);
    if (rc > 0)
        log_event(LOG_INFO_, "ids.raised", "id_limit", LOG_NUM(g.id_limit), NULL);
    return rc;
}

int generation_check(struct dispatcher *d, struct error *err)
{
    cleanup_free char *key = xasprintf("%s:meta", d->cfg->redis_prefix);
    const char *argv[] = {"HMGET", key, "run_id", "gen", "id_next", "id_limit"};
    cleanup_reply redisReply *meta = NULL;
    char run_id[41];
    int rc = rlink_command(d->link, ARRAY_SIZE(argv), argv, NULL, &meta, err);

    if (rc < 0)
        return rc;
    rlink_run_id(d->link, run_id);
    if (!run_id[0])
        return 0; /* down again; the next look finds it */
    if (strcmp(reply_str(meta, 0), run_id) == 0)
        return raise_limit(d, run_id, meta, err);
    return begin_new(d, run_id, meta, err);
}
