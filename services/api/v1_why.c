/* Why a job waits, and the installation in figures: for people (JSON) and for Prometheus. */

#include "services/api/v1.h"

#include "base/clock.h"
#include "base/image_name.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POISON 3 /* as libshared/lua/prelude.lua */

/* ---- Why ---- */

/* lua/why.lua */
enum {
    W_STATE = 1,
    W_CLASS,
    W_PLACE,
    W_POSITION,
    W_RANK,
    W_DUE,
    W_LOST,
    W_CANCELLED,
    W_EVERY_MS,
    W_BODY,
    W_VMMS
};
enum { WV_NAME, WV_STATE, WV_DRAIN, WV_SLOTS, WV_RUNNING, WV_LABELS, WV_DIGESTS, WV_BODY };

struct text {
    const char *at;
    size_t len;
};

struct need {
    struct text image, digests, labels;
    int64_t body;
};

/* How many vmms have got so far. */
struct have {
    unsigned up, image, labels, body, taking, room;
};

static struct text line_of(const char **text)
{
    struct text t = {*text, strcspn(*text, "\n")};

    *text += t.len + ((*text)[t.len] == '\n');
    return t;
}

/* As its tenant says it. */
static struct text shown(struct text full)
{
    cleanup_free char *name = xstrndup(full.at, full.len);
    size_t skip = (size_t)(image_name_shown(name, NULL) - name);

    return (struct text){full.at + skip, full.len - skip};
}

static struct need need_of(const char *place)
{
    struct need n = {.image = shown(line_of(&place))};

    n.digests = line_of(&place);
    n.labels = line_of(&place);
    n.body = *place ? strtoll(place, NULL, 10) : 1;
    return n;
}

static bool in_list(struct text word, const char *list)
{
    while (*list) {
        size_t len = strcspn(list, ",");

        if (len == word.len && memcmp(list, word.at, len) == 0)
            return true;
        list += len + (list[len] == ',');
    }
    return false;
}

/* Of the words in `want` (commas), are all, or is any, in `list`? */
static bool has_words(struct text want, const char *list, bool all)
{
    const char *at = want.at, *end = want.at + want.len;

    while (at < end) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        struct text word = {at, (size_t)((comma ? comma : end) - at)};

        if (in_list(word, list) != all)
            return !all;
        at = comma ? comma + 1 : end;
    }
    return all;
}

static void render_offer(const redisReply *e, const struct need *n, struct have *h, struct buf *b)
{
    bool up = strcmp(core_text(e, WV_STATE), "up") == 0, drain = *core_text(e, WV_DRAIN) == '1';
    bool image = has_words(n->digests, core_text(e, WV_DIGESTS), false);
    bool labels = has_words(n->labels, core_text(e, WV_LABELS), true);
    bool body = core_number(e, WV_BODY) >= n->body;
    bool fits = up && image && labels && body && !drain;

    h->up += up;
    h->image += up && image;
    h->labels += up && image && labels;
    h->body += up && image && labels && body;
    h->taking += fits;
    h->room += fits && core_number(e, WV_RUNNING) < core_number(e, WV_SLOTS);
    v1_comma(b);
    buf_appends(b, "{");
    v1_text(b, "name", core_text(e, WV_NAME));
    v1_text(b, "state", *core_text(e, WV_STATE) ? core_text(e, WV_STATE) : "down");
    v1_bool(b, "drain", drain);
    v1_int(b, "slots", core_number(e, WV_SLOTS));
    v1_int(b, "running", core_number(e, WV_RUNNING));
    v1_bool(b, "has_image", image);
    v1_bool(b, "has_labels", labels);
    v1_bool(b, "fits", fits);
    buf_appends(b, "}");
}

struct reason {
    const char *word, *sentence;
};

static struct reason reason_of_vmms(const struct have *h, int64_t rank)
{
    if (!h->up)
        return (struct reason){"no_worker", "No vmm is up; start one"};
    if (!h->image)
        return (struct reason){"no_image", "No vmm that is up has the image as it was when the job "
                                           "was accepted; give it to one"};
    if (!h->labels)
        return (struct reason){"no_label", "No vmm with the image has all the labels"};
    if (!h->body)
        return (struct reason){"body_version",
                               "No vmm that could run it is new enough; update one"};
    if (!h->taking)
        return (struct reason){"draining", "Every vmm that could run it drains; resume one"};
    if (rank > 0)
        return (struct reason){"behind_others", "Others that need the same go first"};
    if (!h->room)
        return (struct reason){"slots_busy", "It is next of its kind; all slots that fit are busy"};
    return (struct reason){"next", "It is about to be assigned"};
}

static struct reason reason_of(const redisReply *t, const struct have *h)
{
    if (*core_text(t, W_STATE) != 'q')
        return (struct reason){"not_waiting", "It does not wait"};
    if (*core_text(t, W_CANCELLED))
        return (struct reason){"cancelling", "It was cancelled and is about to be finished"};
    if (*core_text(t, W_DUE) && core_number(t, W_LOST) >= POISON)
        return (struct reason){"set_aside",
                               "Its workers keep being lost; it is about to be given up"};
    if (*core_text(t, W_DUE))
        return (struct reason){"retry_delay", "An attempt failed; the next one is due at due_ms"};
    return reason_of_vmms(h, core_number(t, W_RANK));
}

/* Its placement, or what that was. */
static const char *place_of(const redisReply *t, struct buf *b)
{
    cleanup_job struct job *job = NULL;

    if (*core_text(t, W_PLACE) ||
        job_decode(core_text(t, W_BODY), core_text_len(t, W_BODY), &job, NULL) < 0)
        return core_text(t, W_PLACE);
    core_place(job, b);
    return b->data;
}

static void render_why(const redisReply *t, const char *id, struct buf *b)
{
    struct buf place = BUF_INIT(SIZE_MAX);
    struct need n = need_of(place_of(t, &place));
    struct have h = {0};
    struct reason r;
    struct buf offers = BUF_INIT(SIZE_MAX);
    bool waiting = *core_text(t, W_STATE) == 'q', placed = *core_text(t, W_POSITION);
    double every = strtod(core_text(t, W_EVERY_MS), NULL); /* ms */

    buf_appends(&offers, "[");
    for (size_t i = W_VMMS; i < t->elements; i++)
        render_offer(core_list(t, i), &n, &h, &offers);
    r = reason_of(t, &h);
    buf_printf(b, "{\"id\": %s", id);
    v1_text(b, "state", v1_state_name(*core_text(t, W_STATE)));
    v1_bool(b, "waiting", waiting);
    v1_text(b, "reason", r.word);
    v1_text(b, "detail", r.sentence);
    v1_int(b, "class", core_number(t, W_CLASS));
    v1_int_or_null(b, "position", core_number(t, W_POSITION), placed);
    v1_int_or_null(b, "placement_position", core_number(t, W_RANK), placed);
    v1_key(b, "needs");
    buf_appends(b, "{\"image\": ");
    out_str(b, n.image.at, n.image.len);
    v1_split(b, "digests", n.digests.at, n.digests.len, ',');
    v1_split(b, "labels", n.labels.at, n.labels.len, ',');
    buf_appends(b, "}");
    buf_printf(b, ", \"vmms\": %s]", offers.data);
    v1_int_or_null(b, "due_ms", core_number(t, W_DUE), *core_text(t, W_DUE));
    v1_int_or_null(b, "estimate_ms",
                   h.room && core_number(t, W_RANK) == 0
                       ? 0
                       : (int64_t)((double)(core_number(t, W_POSITION) + 1) * every),
                   placed && h.taking && (every > 0 || (h.room && core_number(t, W_RANK) == 0)));
    buf_printf(b, ", \"rate_per_min\": %.4g}", every > 0 ? 60000 / every : 0);
    buf_free(&offers);
    buf_free(&place);
}

static void why_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status != CORE_OK) {
        problem_core(c, a, v1_what("job", c->param[0]));
        return;
    }
    render_why(a->tree, c->param[0], &b);
    v1_json(c, 200, &b);
}

void v1_why(struct call *c)
{
    v1_ask_job(c, ASK_WHY, why_came);
}

/* ---- Figures ---- */

/* lua/stats.lua */
enum {
    S_LIVE = 1,
    S_DELAYED,
    S_DEAD,
    S_OLDEST,
    S_SLOTS,
    S_BUSY,
    S_UP,
    S_IDLE,
    S_60,
    S_300,
    S_OUTBOX,
    S_QUEUED,
    S_BY_STATE,
    S_COUNTERS,
    S_TIMES,
    S_VMMS
};

/* Bounds of the buckets in `hist`, as libshared/lua/prelude.lua has them. */
static const int64_t bounds_ms[] = {10,    30,    100,    300,    1000,    3000,
                                    10000, 30000, 100000, 300000, 1000000, 3600000};
static const struct {
    char letter[8];
    const char *name;
} timed[] = {{"q", "queued"},  {"a", "assigned"},   {"p", "preparing"},
             {"r", "running"}, {"c", "collecting"}, {"total", "total"}};

static int64_t number_of(const redisReply *list, const char *key)
{
    for (size_t i = 0; i + 1 < list->elements; i += 2)
        if (strcmp(core_text(list, i), key) == 0)
            return core_number(list, i + 1);
    return 0;
}

static int64_t time_of(const redisReply *t, const char *state, const char *what)
{
    char key[160];

    snprintf(key, sizeof(key), "%s:%s", state, what);
    return number_of(core_list(t, S_TIMES), key);
}

static int64_t bucket_of(const redisReply *t, const char *state, size_t i)
{
    char what[24];

    snprintf(what, sizeof(what), "%" PRId64, bounds_ms[i]);
    return time_of(t, state, what);
}

static void render_times(const redisReply *t, struct buf *b)
{
    v1_key(b, "state_ms");
    buf_appends(b, "{");
    for (size_t i = 0; i < ARRAY_SIZE(timed); i++) {
        int64_t sum = 0;

        v1_key(b, timed[i].name);
        buf_appends(b, "{");
        v1_int(b, "count", time_of(t, timed[i].letter, "n"));
        v1_int(b, "sum_ms", time_of(t, timed[i].letter, "sum"));
        v1_key(b, "buckets");
        buf_appends(b, "[");
        for (size_t k = 0; k < ARRAY_SIZE(bounds_ms); k++) {
            sum += bucket_of(t, timed[i].letter, k);
            v1_comma(b);
            buf_appends(b, "{");
            v1_int(b, "le_ms", bounds_ms[k]);
            v1_int(b, "count", sum);
            buf_appends(b, "}");
        }
        buf_appends(b, "]}");
    }
    buf_appends(b, "}");
}

static int64_t oldest_age(const redisReply *t)
{
    int64_t age = *core_text(t, S_OLDEST) ? clock_wall_ms() - core_number(t, S_OLDEST) : 0;

    return age > 0 ? age : 0;
}

static void stats_came(void *arg, const struct core_answer *a)
{
    static const struct {
        const char *name;
        int at;
    } figures[] = {{"live", S_LIVE},
                   {"queued", S_QUEUED},
                   {"delayed", S_DELAYED},
                   {"dead", S_DEAD},
                   {"slots", S_SLOTS},
                   {"busy", S_BUSY},
                   {"vmms_up", S_UP},
                   {"machines_idle", S_IDLE},
                   {"finished_60s", S_60},
                   {"finished_300s", S_300},
                   {"callbacks_pending", S_OUTBOX}};
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);
    const redisReply *counters;

    if (a->status != CORE_OK) {
        problem_core(c, a, "stats");
        return;
    }
    buf_appends(&b, "{");
    for (size_t i = 0; i < ARRAY_SIZE(figures); i++)
        v1_int(&b, figures[i].name, core_number(a->tree, (size_t)figures[i].at));
    v1_key(&b, "by_state");
    buf_appends(&b, "{");
    for (size_t i = 0; i < ARRAY_SIZE(timed) - 1; i++)
        v1_int(&b, timed[i].name, number_of(core_list(a->tree, S_BY_STATE), timed[i].letter));
    buf_appends(&b, "}");
    v1_int_or_null(&b, "oldest_queued_ms", oldest_age(a->tree), *core_text(a->tree, S_OLDEST));
    counters = core_list(a->tree, S_COUNTERS);
    v1_key(&b, "counters");
    buf_appends(&b, "{");
    for (size_t i = 0; i + 1 < counters->elements; i += 2)
        v1_int(&b, core_text(counters, i), core_number(counters, i + 1));
    buf_appends(&b, "}");
    render_times(a->tree, &b);
    buf_appends(&b, "}");
    v1_json(c, 200, &b);
}

static void ask_stats(struct call *c, core_done_fn *done)
{
    char now[24];
    const char *argv[] = {now};

    snprintf(now, sizeof(now), "%" PRId64, clock_wall_ms());
    core_ask(c->loop->core, ASK_STATS, 1, argv, done, c);
}

void v1_stats(struct call *c)
{
    ask_stats(c, stats_came);
}

/* ---- Prometheus ---- */

static void head(struct buf *b, const char *name, const char *type, const char *help)
{
    buf_printf(b, "# HELP milonga_%s %s\n# TYPE milonga_%s %s\n", name, help, name, type);
}

static void figure(struct buf *b, const char *name, const char *type, const char *help,
                   int64_t value)
{
    head(b, name, type, help);
    buf_printf(b, "milonga_%s %" PRId64 "\n", name, value);
}

static void labelled(struct buf *b, const char *name, const char *label, const char *of,
                     int64_t value)
{
    buf_printf(b, "milonga_%s{%s=\"%s\"} %" PRId64 "\n", name, label, of, value);
}

static void metric_times(struct buf *b, const redisReply *t)
{
    head(b, "job_state_seconds", "histogram", "Time that jobs spent in each state.");
    for (size_t i = 0; i < ARRAY_SIZE(timed); i++) {
        const char *name = timed[i].name;
        int64_t sum = 0, n = time_of(t, timed[i].letter, "n");

        for (size_t k = 0; k < ARRAY_SIZE(bounds_ms); k++) {
            sum += bucket_of(t, timed[i].letter, k);
            buf_printf(b,
                       "milonga_job_state_seconds_bucket{state=\"%s\",le=\"%.15g\"} %" PRId64 "\n",
                       name, (double)bounds_ms[k] / 1000, sum);
        }
        buf_printf(b,
                   "milonga_job_state_seconds_bucket{state=\"%s\",le=\"+Inf\"} %" PRId64 "\n"
                   "milonga_job_state_seconds_sum{state=\"%s\"} %.15g\n"
                   "milonga_job_state_seconds_count{state=\"%s\"} %" PRId64 "\n",
                   name, n, name, (double)time_of(t, timed[i].letter, "sum") / 1000, name, n);
    }
}

static void metric_counters(struct buf *b, const redisReply *t)
{
    static const char *const errors[] = {"waitvm_timeouts", "runjob_timeouts", "copyin_errors",
                                         "runjob_errors", "copyout_errors"};
    const redisReply *n = core_list(t, S_COUNTERS);

    figure(b, "jobs_accepted_total", "counter", "Jobs that got an id.",
           number_of(n, "job_requests"));
    figure(b, "job_retries_total", "counter", "Attempts that went back to the queue.",
           number_of(n, "job_retries"));
    head(b, "job_errors_total", "counter", "Attempts that did not go well, by what failed.");
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
        labelled(b, "job_errors_total", "reason", errors[i], number_of(n, errors[i]));
    head(b, "jobs_finished_total", "counter", "Finished jobs by verdict.");
    for (int v = VERDICT_SUCCESS; v <= VERDICT_DISK; v++) {
        char key[40];

        snprintf(key, sizeof(key), "v_%s", job_verdict_name((enum job_verdict)v));
        labelled(b, "jobs_finished_total", "verdict", key + 2, number_of(n, key));
    }
    head(b, "callbacks_total", "counter", "Callbacks that were concluded.");
    labelled(b, "callbacks_total", "result", "sent", number_of(n, "callbacks_sent"));
    labelled(b, "callbacks_total", "result", "failed", number_of(n, "callbacks_failed"));
}

static void metric_process(struct buf *b, const struct server *s)
{
    const struct core_meter *m = &s->meter;
    uint64_t sum = 0;

    head(b, "redis_seconds", "histogram", "Round trips of this process to Redis.");
    for (size_t i = 0; i < CORE_METER_BUCKETS; i++) {
        sum += atomic_load(&m->buckets[i]);
        buf_printf(b, "milonga_redis_seconds_bucket{le=\"%.15g\"} %" PRIu64 "\n",
                   (double)core_meter_us[i] / 1e6, sum);
    }
    buf_printf(b,
               "milonga_redis_seconds_bucket{le=\"+Inf\"} %llu\nmilonga_redis_seconds_sum %.15g\n"
               "milonga_redis_seconds_count %llu\n",
               (unsigned long long)atomic_load(&m->ct), (double)atomic_load(&m->us) / 1e6,
               (unsigned long long)atomic_load(&m->ct));
    figure(b, "redis_failures_total", "counter", "Calls of this process that Redis did not answer.",
           (int64_t)atomic_load(&m->failed));
    figure(b, "http_connections", "gauge", "Open connections of this process.",
           (int64_t)atomic_load(&s->conn_ct));
    figure(b, "http_body_bytes", "gauge", "Bytes of bodies in flight in this process.",
           (int64_t)atomic_load(&s->body_bytes));
}

static void metrics_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);
    const redisReply *t = a->tree;

    if (a->status != CORE_OK) {
        problem_core(c, a, "metrics");
        return;
    }
    head(&b, "build_info", "gauge", "This program.");
    labelled(&b, "build_info", "version", MILONGA_VERSION, 1);
    head(&b, "jobs", "gauge", "Live jobs by state.");
    for (size_t i = 0; i < ARRAY_SIZE(timed) - 1; i++)
        labelled(&b, "jobs", "state", timed[i].name,
                 number_of(core_list(t, S_BY_STATE), timed[i].letter));
    figure(&b, "jobs_delayed", "gauge", "Jobs that wait for another try.",
           core_number(t, S_DELAYED));
    figure(&b, "jobs_remembered", "gauge", "Finished jobs in Redis.", core_number(t, S_DEAD));
    head(&b, "oldest_job_age_seconds", "gauge", "Age of the oldest live job.");
    buf_printf(&b, "milonga_oldest_job_age_seconds %.15g\n", (double)oldest_age(t) / 1000);
    figure(&b, "slots", "gauge", "Slots of the vmms that are up.", core_number(t, S_SLOTS));
    figure(&b, "slots_busy", "gauge", "Slots with a job.", core_number(t, S_BUSY));
    figure(&b, "machines_idle", "gauge", "Warm machines.", core_number(t, S_IDLE));
    head(&b, "vmms", "gauge", "Known vmms by state.");
    for (size_t i = 0; i + 1 < core_list(t, S_VMMS)->elements; i += 2)
        labelled(&b, "vmms", "state", core_text(core_list(t, S_VMMS), i),
                 core_number(core_list(t, S_VMMS), i + 1));
    figure(&b, "callbacks_pending", "gauge", "Callbacks that are not delivered yet.",
           core_number(t, S_OUTBOX));
    metric_counters(&b, t);
    metric_times(&b, t);
    metric_process(&b, c->loop->server);
    reply_bytes(c, 200, "text/plain; version=0.0.4; charset=utf-8", "", b.data, b.len);
    buf_free(&b);
}

void v1_metrics(struct call *c)
{
    ask_stats(c, metrics_came);
}

/* ---- /readyz ---- */

static void say(struct call *c, const char *why)
{
    char text[400];

    snprintf(text, sizeof(text), "%s\n", why ? why : "ok");
    reply_bytes(c, why ? 503 : 200, "text/plain; charset=utf-8", "", text, strlen(text));
}

static void ready_came(void *arg, const struct core_answer *a)
{
    if (a->status != CORE_OK)
        say(arg, a->why);
    else
        say(arg, *core_text(a->tree, 1) == '1'
                     ? NULL
                     : "No dispatcher has taken charge of this Redis yet");
}

void v1_readyz(struct call *c)
{
    const char *argv[] = {core_run_id(c->loop->core)};
    const char *why;

    if (atomic_load(&c->loop->server->draining))
        say(c, "This process is draining");
    else if (!core_is_up(c->loop->core, &why))
        say(c, why);
    else
        core_ask(c->loop->core, ASK_READY, 1, argv, ready_came, c);
}
