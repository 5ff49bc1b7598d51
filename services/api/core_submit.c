#include "services/api/core_private.h"

#include "base/buf.h"
#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct script script_lookup = {
    "lookup",
#include "api/lua/lookup.inc"
};
static const struct script script_accept = {
    "accept",
#include "api/lua/accept.inc"
};
static const struct script script_reject = {
    "reject",
#include "api/lua/reject.inc"
};

static const char no_ids[] =
    "No job ids can be given out: no dispatcher has taken charge of this Redis yet; try again";

static const char not_replicated[] = "The job may have been taken, but too few replicas of Redis "
                                     "have it (redis_replicas); ask again";

static const char full_bytes[] =
    "JobQueue is full: the unfinished jobs have descriptions of max_live_bytes in all; try again";

/* ---- lookup ---- */

struct lookup {
    struct core_op op;
    size_t file_ct;

    /* the same job of an earlier request */
    uint64_t id;
    char *detail;
};

/* It stands in Redis; an answer is a promise, as the first one would have been. */
static void same_synced(void *p, bool synced)
{
    struct lookup *l = p;
    struct core_answer a = {.status = CORE_SAME, .lab = true, .id = l->id, .detail = l->detail};

    if (synced)
        core_end(&l->op, &a);
    else
        core_fail(&l->op, not_replicated);
    free(l->detail);
    free(l);
}

static void take_digests(struct core_answer *a, char *text)
{
    char *save = NULL;

    for (char *d = strtok_r(text, " ", &save); d && a->digest_ct < JOB_MAX_DIGESTS;
         d = strtok_r(NULL, " ", &save))
        a->digests[a->digest_ct++] = d;
}

static void looked_up(void *p, const char *status, redisReply *r, const char *why)
{
    struct lookup *l = p;
    struct core_answer a = {.status = CORE_OK};

    if (!status) {
        core_fail(&l->op, why);
        free(l);
        return;
    }
    a.lab = strcmp(core_text(r, 1), "1") == 0;
    a.id = strtoull(core_text(r, 2), NULL, 10);
    if (a.id) {
        const char *space = strchr(core_text(r, 2), ' ');

        l->id = a.id;
        l->detail = xstrdup(space ? space + 1 : "");
        core_sync(&l->op, same_synced);
        return;
    }
    if (core_text_len(r, 3))
        take_digests(&a, r->element[3]->str);
    a.image = core_text(r, 4);
    a.files = xcalloc(l->file_ct + 1, sizeof(a.files[0]));
    a.file_ct = l->file_ct;
    for (size_t i = 0; i < l->file_ct; i++) {
        if (!core_file_parse(core_text(r, 5 + i), &a.files[i]))
            a.files[i].sha256[0] = '\0';
    }
    core_end(&l->op, &a);
    free(a.files);
    free(l);
}

void core_lookup(struct core *c, const char *tenant, const char *lab, const char *dup,
                 const char *image, const char *const *files, size_t file_ct, core_done_fn *done,
                 void *arg)
{
    struct lookup *l = xcalloc(1, sizeof(*l));
    const char **argv = xcalloc(4 + file_ct, sizeof(*argv));

    l->op = (struct core_op){.core = c, .done = done, .arg = arg};
    l->file_ct = file_ct;
    argv[0] = tenant;
    argv[1] = lab;
    argv[2] = dup;
    argv[3] = image;
    for (size_t i = 0; i < file_ct; i++)
        argv[4 + i] = files[i];
    core_script(&l->op, &script_lookup, 4 + (int)file_ct, argv, NULL, looked_up);
    free(argv);
}

/* ---- accept and reject ---- */

/* Kept until Redis has answered, since it may have to be asked again. */
struct submit {
    struct core_op op;
    char *tenant, *lab, *output_file, *dup, *digest;
    int64_t dup_ms;
    uint64_t repeats;
    char **lines;
    size_t line_ct;
    bool has_callback;
    unsigned class;
    int64_t at;
    struct buf body, place;

    /* what Redis answered */
    bool same;
    uint64_t id;
    char *detail;
};

static void submit_free(struct submit *s)
{
    free(s->tenant);
    free(s->lab);
    free(s->output_file);
    free(s->dup);
    free(s->digest);
    free(s->detail);
    for (size_t i = 0; i < s->line_ct; i++)
        free(s->lines[i]);
    free(s->lines);
    buf_free(&s->body);
    buf_free(&s->place);
    free(s);
}

void core_place(const struct job *job, struct buf *b)
{
    buf_printf(b, "%s\n", job->image);
    for (size_t i = 0; i < job->digest_ct; i++)
        buf_printf(b, "%s%s", i ? "," : "", job->digests[i]);
    buf_append(b, "\n", 1);
    for (size_t i = 0; i < job->label_ct; i++)
        buf_printf(b, "%s%s", i ? "," : "", job->labels[i]);
}

static void submit_again(void *p);

static void submit_end(struct submit *s, struct core_answer *a)
{
    core_end(&s->op, a);
    submit_free(s);
}

/* It is in Redis; the answer may leave when it is as durable as was configured. */
static void submit_synced(void *p, bool synced)
{
    struct submit *s = p;
    struct core_answer a = {
        .status = s->same ? CORE_SAME : CORE_OK, .id = s->id, .detail = s->detail, .why = ""};

    if (!synced) {
        a.status = CORE_FAILED;
        a.why = not_replicated;
    }
    submit_end(s, &a);
}

static void submitted(void *p, const char *status, redisReply *r, const char *why)
{
    struct submit *s = p;
    struct core_answer a = {.status = CORE_OK, .why = ""};

    if (!status) {
        a.status = CORE_FAILED;
        a.why = why;
    } else if (strcmp(status, "stale") == 0 || strcmp(status, "ids") == 0) {
        if (core_again(&s->op, submit_again))
            return;
        a.status = CORE_FAILED;
        a.why = no_ids;
    } else if (strcmp(status, "moved") == 0) {
        a.status = CORE_MOVED;
    } else if (strcmp(status, "full") == 0) {
        a.status = CORE_FULL;
        a.why = strcmp(core_text(r, 1), "bytes") == 0 ? full_bytes : "JobQueue is full";
        a.slots = strtoull(core_text(r, 2), NULL, 10);
    } else {
        s->same = strcmp(status, "dup") == 0;
        s->id = strtoull(core_text(r, 1), NULL, 10);
        s->detail = xstrdup(core_text(r, 2));
        core_sync(&s->op, submit_synced);
        return;
    }
    submit_end(s, &a);
}

#define BODY_ARG 11

static void send_accept(struct submit *s)
{
    const struct config *cfg = s->op.core->env.cfg;
    char now[24], class[8], dup_ms[24], most[24], most_bytes[24], repeats[24] = "";
    const char *argv[] = {rconn_run_id(s->op.core->redis),
                          now,
                          s->tenant,
                          s->lab,
                          s->output_file,
                          class,
                          s->place.data,
                          s->has_callback ? "1" : "0",
                          s->dup,
                          dup_ms,
                          most,
                          s->body.data,
                          most_bytes,
                          s->digest,
                          repeats};
    size_t len[ARRAY_SIZE(argv)];

    snprintf(now, sizeof(now), "%" PRId64, s->at);
    snprintf(class, sizeof(class), "%u", s->class);
    snprintf(dup_ms, sizeof(dup_ms), "%" PRId64, s->dup_ms);
    if (s->repeats)
        snprintf(repeats, sizeof(repeats), "%" PRIu64, s->repeats);
    snprintf(most, sizeof(most), "%" PRId64, cfg->max_live_jobs);
    snprintf(most_bytes, sizeof(most_bytes), "%" PRId64, cfg->max_live_bytes);
    for (size_t i = 0; i < ARRAY_SIZE(argv); i++)
        len[i] = i == BODY_ARG ? s->body.len : strlen(argv[i]);
    core_script(&s->op, &script_accept, ARRAY_SIZE(argv), argv, len, submitted);
}

static void send_reject(struct submit *s)
{
    const char **argv = xcalloc(6 + s->line_ct, sizeof(*argv));
    size_t *len = xcalloc(6 + s->line_ct, sizeof(*len));
    char now[24], most[24];

    snprintf(now, sizeof(now), "%" PRId64, s->at);
    argv[0] = rconn_run_id(s->op.core->redis);
    argv[1] = now;
    argv[2] = s->body.data;
    argv[3] = s->tenant;
    argv[4] = s->lab;
    argv[5] = most;
    snprintf(most, sizeof(most), "%" PRId64, s->op.core->env.cfg->rejected_max_jobs);
    for (size_t i = 0; i < s->line_ct; i++)
        argv[6 + i] = s->lines[i];
    for (size_t i = 0; i < 6 + s->line_ct; i++)
        len[i] = i == 2 ? s->body.len : strlen(argv[i]);
    core_script(&s->op, &script_reject, 6 + (int)s->line_ct, argv, len, submitted);
    free(argv);
    free(len);
}

static void submit_again(void *p)
{
    struct submit *s = p;

    if (s->lines)
        send_reject(s);
    else
        send_accept(s);
}

static struct submit *submit_new(struct core *c, const struct job *job, core_done_fn *done,
                                 void *arg)
{
    struct submit *s = xcalloc(1, sizeof(*s));

    s->op = (struct core_op){.core = c, .done = done, .arg = arg};
    s->tenant = xstrdup(job->tenant);
    s->lab = xstrdup(job->lab);
    s->at = job->accepted_ms;
    buf_init(&s->body, JOB_BODY_MAX);
    buf_init(&s->place, JOB_BODY_MAX);
    return s;
}

static void submit_too_big(void *p)
{
    struct submit *s = p;

    core_end(&s->op,
             &(struct core_answer){.status = CORE_TOO_BIG,
                                   .why = "The job is too big: its description may have 256 KB"});
    submit_free(s);
}

void core_accept(struct core *c, const struct job *job, const struct core_once *once,
                 core_done_fn *done, void *arg)
{
    struct submit *s = submit_new(c, job, done, arg);

    s->output_file = xstrdup(job->output_file);
    s->dup = xstrdup(once->dup);
    s->digest = xstrdup(once->digest);
    s->dup_ms = once->ms;
    s->repeats = once->repeats;
    s->has_callback = job->callback_url;
    s->class = job->class;
    core_place(job, &s->place);
    if (job_encode(job, &s->body) < 0)
        c->env.ops->timer_start(c->env.loop, 0, submit_too_big, s);
    else
        send_accept(s);
}

void core_reject(struct core *c, const struct job *job, const char *const *lines, size_t line_ct,
                 core_done_fn *done, void *arg)
{
    struct submit *s = submit_new(c, job, done, arg);

    s->lines = xcalloc(line_ct + 1, sizeof(s->lines[0]));
    for (size_t i = 0; i < line_ct; i++)
        s->lines[s->line_ct++] = xstrdup(lines[i]);
    if (job_encode(job, &s->body) < 0)
        c->env.ops->timer_start(c->env.loop, 0, submit_too_big, s);
    else
        send_reject(s);
}
