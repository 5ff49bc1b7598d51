/* Jobs one by one and page by page, and cancelling them. */

#include "services/api/core_private.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/image_name.h"
#include "base/log.h"
#include "wire/feedback.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SCAN_MAX     2000 /* jobs that one page looks at */
#define FEEDBACK_MAX 8192

static const char cancelled_text[] = "Error: Job was cancelled";

static const struct script script_rows = {
    "job_rows",
#include "api/lua/job_rows.inc"
};
static const struct script script_cancel = {
    "cancel",
#include "api/lua/cancel.inc"
};

/* ---- Rows ---- */

/* The fields behind id, body and trace, in the script's order. */
enum field {
    F_S = 3,
    F_X,
    F_N,
    F_C,
    F_V,
    F_M,
    F_MN,
    F_AT,
    F_FT,
    F_ST,
    F_FD,
    F_FS,
    F_FO,
    F_CX,
    F_LT,
    F_RQ,
    F_CB,
    F_CS,
    F_CY,
    F_US,
    F_OUTPUT,
    F_TRIES,
    F_LAST,
    F_DUE
};

/* What the output has of the feedback; of one that is not finished what Redis has. */
static uint64_t output_len(const redisReply *r)
{
    if (*core_text(r, F_S) != 'f')
        return (uint64_t)core_number(r, F_OUTPUT);
    return *core_text(r, F_FO) ? (uint64_t)(core_number(r, F_FS) - core_number(r, F_FO)) : 0;
}

static struct core_usage usage_of(const char *text)
{
    struct core_usage u = {.known = true};

    if (sscanf(text, "%c %u %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, &u.how, &u.status,
               &u.wall_ms, &u.cpu_ms, &u.peak_kb, &u.output_bytes) != 6)
        return (struct core_usage){.known = false};
    return u;
}

static struct core_job job_of(const redisReply *r)
{
    bool due = *core_text(r, F_DUE);

    return (struct core_job){.id = (uint64_t)core_number(r, 0),
                             .driver = "",
                             .state = *core_text(r, F_S),
                             .verdict = core_text(r, F_X),
                             .rejected = strcmp(core_text(r, F_X), "rejected") == 0,
                             .attempts = (unsigned)core_number(r, F_N),
                             .charged = (unsigned)core_number(r, F_C),
                             .vmm = core_text(r, F_V),
                             .machine = *core_text(r, F_M) ? core_number(r, F_M) : -1,
                             .machine_name = core_text(r, F_MN),
                             .accepted_ms = core_number(r, F_AT),
                             .finished_ms = core_number(r, F_FT),
                             .since_ms = core_number(r, F_ST),
                             .feedback = core_text(r, F_FD),
                             .feedback_size = (uint64_t)core_number(r, F_FS),
                             .output_len = output_len(r),
                             .usage = usage_of(core_text(r, F_US)),
                             .cancelling = *core_text(r, F_CX) && *core_text(r, F_S) != 'f',
                             .token = core_text(r, F_LT),
                             .requeue_of = (uint64_t)core_number(r, F_RQ),
                             .has_callback = *core_text(r, F_CB),
                             .callback_state = core_text(r, F_CS),
                             .callback_last = *core_text(r, F_LAST) && due ? core_text(r, F_LAST)
                                                                           : core_text(r, F_CY),
                             .callback_tries = (unsigned)core_number(r, F_TRIES),
                             .callback_due_ms = due ? core_number(r, F_DUE) : 0};
}

/* Calls each() with the job of a row; false when its body cannot be read. */
static bool with_job(const redisReply *r, void (*each)(const struct core_job *j, void *arg),
                     void *arg)
{
    cleanup_job struct job *job = NULL;
    const redisReply *trace = core_list(r, 2);
    struct core_job j = job_of(r);
    const char **lines;

    if (job_decode(core_text(r, 1), core_text_len(r, 1), &job, NULL) < 0)
        return false;
    lines = xcalloc(trace->elements + 1, sizeof(*lines));
    for (size_t i = 0; i < trace->elements; i++)
        lines[i] = core_text(trace, i);
    j.job = job;
    j.trace = lines;
    j.trace_ct = trace->elements;
    each(&j, arg);
    free(lines);
    return true;
}

/* ---- get ---- */

static void end_with_job(const struct core_job *j, void *arg)
{
    core_end(arg, &(struct core_answer){.status = CORE_OK, .job = j});
}

static void got(void *p, const char *status, redisReply *r, const char *why)
{
    struct core_op *op = p;

    if (!status)
        core_fail(op, why);
    else if (strcmp(status, "ok") != 0)
        core_end(op, &(struct core_answer){.status = CORE_NOT_FOUND});
    else if (!with_job(core_list(r, 1), end_with_job, op))
        core_fail(op, "This job is of a newer version, or damaged");
    free(op);
}

void core_get(struct core *c, const char *tenant, uint64_t id, core_done_fn *done, void *arg)
{
    struct core_op *op = xcalloc(1, sizeof(*op));
    char text[24];
    const char *argv[] = {tenant, text, "", "0", "", "", "", "0"};

    *op = (struct core_op){.core = c, .done = done, .arg = arg};
    snprintf(text, sizeof(text), "%" PRIu64, id);
    core_script(op, &script_rows, ARRAY_SIZE(argv), argv, NULL, got);
}

/* ---- page ---- */

struct page {
    struct core_op op; /* first */
    struct work work;
    redisReply *reply;
    core_render_fn *render;
    char *image; /* NULL: any. Only the body has it, and scripts do not take that apart */
    struct buf out;
};

static void page_free(struct page *p)
{
    if (p->reply)
        freeReplyObject(p->reply);
    buf_free(&p->out);
    free(p->image);
    free(p);
}

static void render_row(const struct core_job *j, void *arg)
{
    struct page *p = arg;

    if (!p->image || strcmp(p->image, image_name_shown(j->job->image, NULL)) == 0)
        p->render(j, p->op.core->env.cfg, &p->out);
}

/* On a worker. */
static void page_run(struct work *w)
{
    struct page *p = H2O_STRUCT_FROM_MEMBER(struct page, work, w);

    for (size_t i = 2; i < p->reply->elements; i++)
        if (!with_job(core_list(p->reply, i), render_row, p))
            log_event(LOG_WARN_, "job.unreadable", "job", core_text(core_list(p->reply, i), 0),
                      NULL);
}

static void page_done(struct work *w)
{
    struct page *p = H2O_STRUCT_FROM_MEMBER(struct page, work, w);

    core_end(&p->op, &(struct core_answer){.status = CORE_OK,
                                           .text = p->out.len ? p->out.data : "",
                                           .len = p->out.len,
                                           .detail = core_text(p->reply, 1)});
    page_free(p);
}

static void page_came(void *op, const char *status, redisReply *r, const char *why)
{
    struct page *p = op;
    const struct core_env *env = &p->op.core->env;

    if (!status) {
        core_fail(&p->op, why);
        page_free(p);
        return;
    }
    p->reply = rconn_take_reply(p->op.core->redis, r);
    p->work.run = page_run;
    p->work.done = page_done;
    if (workers_run(env->workers, env->gate, &p->work) < 0) {
        core_fail(&p->op, "The server has too much to do; try again");
        page_free(p);
    }
}

void core_page(struct core *c, const char *tenant, const struct core_query *q,
               core_render_fn *render, core_done_fn *done, void *arg)
{
    struct page *p = xcalloc(1, sizeof(*p));
    char most[16], scan[16];
    const char *argv[] = {tenant, "", q->cursor, most, q->states, q->verdict, q->lab, scan};

    p->op = (struct core_op){.core = c, .done = done, .arg = arg};
    p->render = render;
    p->image = q->image && *q->image ? xstrdup(q->image) : NULL;
    buf_init(&p->out, SIZE_MAX);
    snprintf(most, sizeof(most), "%u", q->most);
    snprintf(scan, sizeof(scan), "%d", SCAN_MAX);
    core_script(&p->op, &script_rows, ARRAY_SIZE(argv), argv, NULL, page_came);
}

/* ---- cancel ---- */

/* The script; when the job waits: its feedback into the store, then the script again. */
struct cancel {
    struct core_op op; /* first */
    char *tenant;
    uint64_t id;
    struct buf feedback;
    bool stored;
};

static void cancel_free(struct cancel *x)
{
    free(x->tenant);
    buf_free(&x->feedback);
    free(x);
}

static void cancel_send(struct cancel *x, const char *sha256, uint64_t size);

static void cancel_stored(void *arg, const struct core_answer *a)
{
    struct cancel *x = arg;

    if (a->status == CORE_OK) {
        cancel_send(x, a->files[0].sha256, a->files[0].size);
    } else {
        core_fail(&x->op, a->why);
        cancel_free(x);
    }
}

static void cancel_write(struct cancel *x, const redisReply *r)
{
    cleanup_job struct job *job = NULL;
    char id[24];
    int64_t now = clock_wall_ms();

    snprintf(id, sizeof(id), "%" PRIu64, x->id);
    if (job_decode(core_text(r, 1), core_text_len(r, 1), &job, NULL) < 0) {
        job = job_new();
        job->name = xstrdup("unknown");
        job->accepted_ms = now;
    }
    buf_init(&x->feedback, FEEDBACK_MAX);
    feedback_render(&x->feedback, job->name, id, job->accepted_ms, now, cancelled_text, false);
    core_store(x->op.core, x->feedback.data, x->feedback.len, cancel_stored, x);
}

static void cancel_came(void *op, const char *status, redisReply *r, const char *why)
{
    struct cancel *x = op;
    struct core_answer a = {.status = CORE_NOT_FOUND, .why = ""};

    if (status && strcmp(status, "queued") == 0) {
        cancel_write(x, r);
        return;
    }
    if (!status) {
        a.status = CORE_FAILED;
        a.why = why;
    } else if (strcmp(status, "done") == 0) {
        a.status = CORE_OK;
    } else if (strcmp(status, "marked") == 0) {
        a.status = CORE_MARKED;
    } else if (strcmp(status, "over") == 0) {
        a.status = CORE_OVER;
    }
    core_end(&x->op, &a);
    cancel_free(x);
}

static void cancel_send(struct cancel *x, const char *sha256, uint64_t size)
{
    char id[24], now[24], bytes[24];
    const char *argv[] = {x->tenant, id, now, sha256, bytes, cancelled_text};

    snprintf(id, sizeof(id), "%" PRIu64, x->id);
    snprintf(now, sizeof(now), "%" PRId64, clock_wall_ms());
    snprintf(bytes, sizeof(bytes), "%" PRIu64, size);
    core_script(&x->op, &script_cancel, ARRAY_SIZE(argv), argv, NULL, cancel_came);
}

void core_cancel(struct core *c, const char *tenant, uint64_t id, core_done_fn *done, void *arg)
{
    struct cancel *x = xcalloc(1, sizeof(*x));

    x->op = (struct core_op){.core = c, .done = done, .arg = arg};
    x->tenant = xstrdup(tenant);
    x->id = id;
    cancel_send(x, "", 0);
}
