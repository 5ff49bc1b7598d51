/* Jobs: list, get, cancel, output, callbacks. */

#include "services/api/v1.h"

#include "base/image_name.h"
#include "base/mem.h"
#include "services/api/send.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PAGE_DEFAULT  50
#define PAGE_MAX      500
#define CALLBACKS_MAX "500"

/* ---- Rendering ---- */

static const struct {
    char letter;
    const char *name;
} states[] = {{'q', "queued"},  {'a', "assigned"},   {'p', "preparing"},
              {'r', "running"}, {'c', "collecting"}, {'f', "finished"}};

const char *v1_state_name(char letter)
{
    for (size_t i = 0; i < ARRAY_SIZE(states); i++)
        if (states[i].letter == letter)
            return states[i].name;
    return "queued";
}

static void render_texts(struct buf *b, const char *key, char *const *texts, size_t ct)
{
    v1_key(b, key);
    buf_appends(b, "[");
    for (size_t i = 0; i < ct; i++) {
        v1_comma(b);
        out_cstr(b, texts[i]);
    }
    buf_appends(b, "]");
}

static void render_members(const struct core_job *j, struct buf *b)
{
    v1_int(b, "id", (int64_t)j->id);
    v1_text(b, "lab", j->job->lab);
    v1_text(b, "name", j->job->name);
    v1_text(b, "image", image_name_shown(j->job->image, NULL));
    v1_text(b, "output_file", j->job->output_file);
    v1_text(b, "state", v1_state_name(j->state));
    v1_text_or_null(b, "verdict", j->verdict);
    v1_int(b, "class", j->job->class);
    render_texts(b, "labels", j->job->labels, j->job->label_ct);
    v1_int(b, "attempts", j->attempts);
    v1_bool(b, "cancelling", j->cancelling);
    v1_int(b, "accepted_ms", j->accepted_ms);
    v1_int_or_null(b, "state_since_ms", j->since_ms, j->since_ms > 0);
    v1_int_or_null(b, "finished_ms", j->finished_ms, j->state == 'f');
    v1_text_or_null(b, "vmm", j->vmm);
}

void v1_render_summary(const struct core_job *j, struct buf *b)
{
    v1_comma(b);
    buf_appends(b, "{");
    render_members(j, b);
    buf_appends(b, "}");
}

static void render_files(const struct job *job, struct buf *b)
{
    v1_key(b, "files");
    buf_appends(b, "[");
    for (size_t i = 0; i < job->file_ct; i++) {
        v1_comma(b);
        buf_appends(b, "{");
        v1_text(b, "name", job->files[i].local);
        v1_text(b, "dest", job->files[i].dest);
        v1_text_or_null(b, "sha256", job->files[i].sha256);
        v1_int(b, "size", (int64_t)job->files[i].size);
        buf_appends(b, "}");
    }
    buf_appends(b, "]");
}

static void render_trace(const struct core_job *j, struct buf *b)
{
    v1_key(b, "trace");
    buf_printf(b, "[{\"at_ms\": %" PRId64 ", \"code\": \"accepted\", \"text\": \"\"}",
               j->accepted_ms);
    for (size_t i = 0; i < j->trace_ct; i++) {
        const char *line = j->trace[i];
        char code[32];
        int64_t at;
        int n = 0;

        if (sscanf(line, "%31s %" SCNd64 "%n", code, &at, &n) != 2)
            continue;
        line += n + (line[n] == ' ');
        buf_appends(b, ", {");
        v1_int(b, "at_ms", at);
        v1_text(b, "code", code);
        v1_text(b, "text", line);
        buf_appends(b, "}");
    }
    buf_appends(b, "]");
}

static void render_callback_state(struct buf *b, const char *state, int64_t tries, const char *last,
                                  int64_t due_ms)
{
    v1_text(b, "state", state);
    v1_int(b, "tries", tries);
    v1_text_or_null(b, "last", last);
    v1_int_or_null(b, "due_ms", due_ms, due_ms > 0);
}

static void render_callback(const struct core_job *j, struct buf *b)
{
    const char *state = j->state != 'f'      ? "waiting"
                        : j->callback_due_ms ? "pending"
                        : *j->callback_state ? j->callback_state
                                             : "sent";

    v1_key(b, "callback");
    if (!j->has_callback) {
        buf_appends(b, "null");
        return;
    }
    buf_appends(b, "{");
    render_callback_state(b, state, j->callback_tries, j->callback_last, j->callback_due_ms);
    buf_appends(b, "}");
}

static void render_usage(const struct core_usage *u, struct buf *b)
{
    v1_key(b, "usage");
    if (!u->known) {
        buf_appends(b, "null");
        return;
    }
    buf_appends(b, "{");
    v1_int_or_null(b, "exit_status", u->status, u->how == 'e');
    v1_int_or_null(b, "signal", u->status, u->how == 's');
    v1_int(b, "wall_ms", (int64_t)u->wall_ms);
    v1_int(b, "cpu_ms", (int64_t)u->cpu_ms);
    v1_int(b, "memory_peak_kb", (int64_t)u->peak_kb);
    v1_int(b, "output_bytes", (int64_t)u->output_bytes);
    buf_appends(b, "}");
}

void v1_render_job(const struct core_job *j, struct buf *b)
{
    buf_appends(b, "{");
    render_members(j, b);
    render_texts(b, "digests", j->job->digests, j->job->digest_ct);
    render_files(j->job, b);
    v1_limits(b, "limits", j->job->timeout_s, &j->job->limits);
    v1_bool(b, "network", j->job->network);
    v1_int(b, "charged", j->charged);
    v1_int_or_null(b, "requeue_of", (int64_t)j->requeue_of, j->requeue_of > 0);
    v1_key(b, "machine");
    if (j->machine >= 0) {
        buf_printf(b, "{\"id\": %" PRId64, j->machine);
        v1_text(b, "name", j->machine_name);
        buf_appends(b, "}");
    } else {
        buf_appends(b, "null");
    }
    v1_key(b, "output");
    buf_printf(b, "{\"bytes\": %" PRIu64 ", \"complete\": %s}", j->output_len,
               j->state == 'f' ? "true" : "false");
    v1_key(b, "feedback");
    if (*j->feedback)
        buf_printf(b, "{\"sha256\": \"%s\", \"size\": %" PRIu64 "}", j->feedback, j->feedback_size);
    else
        buf_appends(b, "null");
    render_usage(&j->usage, b);
    render_callback(j, b);
    render_trace(j, b);
    buf_appends(b, "}");
}

static void failed(struct call *c, const struct core_answer *a)
{
    problem_core(c, a, v1_what("job", c->param[0]));
}

/* ---- List ---- */

static void render_row(const struct core_job *j, const struct config *cfg, struct buf *b)
{
    (void)cfg;
    if (b->len == 0)
        buf_appends(b, "{\"jobs\": [");
    v1_render_summary(j, b);
}

static void page_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status != CORE_OK) {
        problem_core(c, a, "page");
        return;
    }
    if (a->len)
        buf_append(&b, a->text, a->len);
    else
        buf_appends(&b, "{\"jobs\": [");
    buf_appends(&b, "]");
    v1_text_or_null(&b, "next", a->detail);
    buf_appends(&b, "}");
    v1_json(c, 200, &b);
}

/* Words with commas to letters; false when one is none. */
static bool take_states(const char *text, char *letters, size_t size)
{
    size_t n = 0;

    while (*text) {
        size_t len = strcspn(text, ","), i = 0;

        if (len == 4 && memcmp(text, "live", 4) == 0) {
            if (n + 6 > size)
                return false;
            memcpy(letters + n, "qaprc", 5);
            n += 5;
        } else {
            while (i < ARRAY_SIZE(states) &&
                   (strlen(states[i].name) != len || memcmp(states[i].name, text, len) != 0))
                i++;
            if (i == ARRAY_SIZE(states) || n + 2 > size)
                return false;
            letters[n++] = states[i].letter;
        }
        text += len + (text[len] == ',');
    }
    letters[n] = '\0';
    return n > 0;
}

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

void v1_jobs(struct call *c)
{
    const char *state = call_query(c, "state");
    enum job_verdict verdict;
    struct core_query q = {.verdict = or_empty(call_query(c, "verdict")),
                           .lab = or_empty(call_query(c, "lab")),
                           .image = or_empty(call_query(c, "image"))};
    char letters[32] = "", cursor_text[24] = "";
    uint64_t limit, cursor;

    if (!v1_query_number(c, "limit", 1, PAGE_MAX, PAGE_DEFAULT, &limit) ||
        !v1_query_number(c, "cursor", 0, INT32_MAX, UINT32_MAX, &cursor))
        return;
    if (state && !take_states(state, letters, sizeof(letters))) {
        problem(
            c, 400, "bad-parameter",
            "state is \"%.60s\"; it is live, queued, assigned, preparing, running, collecting or "
            "finished, or some of them with commas between",
            state);
        return;
    }
    if (*q.verdict && job_verdict_parse(q.verdict, strlen(q.verdict), &verdict) < 0) {
        problem(c, 400, "bad-parameter", "verdict is \"%.60s\", which is none", q.verdict);
        return;
    }
    if (cursor != UINT32_MAX)
        snprintf(cursor_text, sizeof(cursor_text), "%" PRIu64, cursor);
    q.states = letters;
    q.cursor = cursor_text;
    q.most = (unsigned)limit;
    core_page(c->loop->core, c->tenant, &q, render_row, page_came, c);
}

/* ---- Get ---- */

static void job_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status != CORE_OK) {
        failed(c, a);
        return;
    }
    v1_render_job(a->job, &b);
    v1_json(c, 200, &b);
}

void v1_job(struct call *c)
{
    uint64_t id;

    if (v1_id(c, &id))
        core_get(c->loop->core, c->tenant, id, job_came, c);
}

/* ---- Cancel ---- */

static void reply_cancelled(struct call *c, int status, const char *state, const char *verdict)
{
    struct buf b = BUF_INIT(SIZE_MAX);

    buf_printf(&b, "{\"id\": %s", c->param[0]);
    v1_text(&b, "state", state);
    v1_text(&b, "verdict", verdict);
    buf_appends(&b, "}");
    v1_json(c, status, &b);
}

/* The mark stands; this says in which state the job was found. */
static void marked_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    bool over = a->status == CORE_OK && a->job->state == 'f';
    bool cancelled = over && strcmp(a->job->verdict, "cancelled") == 0;

    if (a->status != CORE_OK)
        failed(c, a);
    else if (over && !cancelled)
        problem(c, 409, "already-finished", "Job %s finished as it was being cancelled: %s",
                c->param[0], a->job->verdict);
    else
        reply_cancelled(c, cancelled ? 200 : 202, v1_state_name(a->job->state),
                        cancelled ? "cancelled" : NULL);
}

static void cancel_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;

    if (a->status == CORE_OK)
        reply_cancelled(c, 200, "finished", "cancelled");
    else if (a->status == CORE_MARKED)
        core_get(c->loop->core, c->tenant, strtoull(c->param[0], NULL, 10), marked_came, c);
    else if (a->status == CORE_OVER)
        problem(c, 409, "already-finished", "Job %s is finished; there is nothing to cancel",
                c->param[0]);
    else
        failed(c, a);
}

void v1_cancel(struct call *c)
{
    uint64_t id;

    if (v1_id(c, &id))
        core_cancel(c->loop->core, c->tenant, id, cancel_came, c);
}

/* ---- Feedback and output ---- */

static bool is_over(const struct core_answer *a)
{
    return strcmp(a->why, "over") == 0;
}

static void feedback_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;

    if (a->status != CORE_OK)
        failed(c, a);
    else if (!is_over(a))
        problem(c, 409, "not-finished", "Job %s is not finished; its feedback comes then",
                c->param[0]);
    else if (!*core_text(a->tree, 2))
        problem(c, 404, "not-found", "Job %s was rejected and has no feedback", c->param[0]);
    else
        send_stored_part(c, core_text(a->tree, 2), 0, UINT64_MAX, failed);
}

static void output_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    bool over = a->status == CORE_OK && is_over(a);

    if (a->status != CORE_OK) {
        failed(c, a);
        return;
    }
    call_add_header(c, "milonga-complete", over ? "true" : "false");
    if (!over)
        send_growing(c, core_text(a->tree, 3), core_text_len(a->tree, 3));
    else if (!*core_text(a->tree, 4) || !*core_text(a->tree, 2)) /* it never ran */
        send_growing(c, "", 0);
    else
        send_stored_part(c, core_text(a->tree, 2), (uint64_t)core_number(a->tree, 4), UINT64_MAX,
                         failed);
}

static void ask_output(struct call *c, const char *most, core_done_fn *done)
{
    char id_text[24];
    const char *argv[] = {c->tenant, id_text, "0", most};
    uint64_t id;

    if (!v1_id(c, &id))
        return;
    snprintf(id_text, sizeof(id_text), "%" PRIu64, id);
    core_ask(c->loop->core, ASK_OUTPUT, 4, argv, done, c);
}

void v1_feedback(struct call *c)
{
    ask_output(c, "0", feedback_came);
}

void v1_output(struct call *c)
{
    ask_output(c, "1073741824", output_came); /* all: watch_bytes at most */
}

/* ---- Callbacks ---- */

static void callbacks_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status != CORE_OK) {
        problem_core(c, a, "list");
        return;
    }
    buf_appends(&b, "{\"callbacks\": [");
    for (size_t i = 2; i < a->tree->elements; i++) {
        const redisReply *e = core_list(a->tree, i);

        v1_comma(&b);
        buf_appends(&b, "{");
        v1_int(&b, "id", core_number(e, 0));
        render_callback_state(&b, core_text(e, 1), core_number(e, 2), core_text(e, 3),
                              core_number(e, 4));
        buf_appends(&b, "}");
    }
    buf_appends(&b, "]");
    v1_bool(&b, "truncated", *core_text(a->tree, 1) == '1');
    buf_appends(&b, "}");
    v1_json(c, 200, &b);
}

void v1_callbacks(struct call *c)
{
    const char *argv[] = {c->tenant, CALLBACKS_MAX};

    core_ask(c->loop->core, ASK_CALLBACKS, 2, argv, callbacks_came, c);
}

static void retried(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status == CORE_CONFLICT) {
        problem(c, 409, a->why,
                strcmp(a->why, "no-callback") == 0
                    ? "Job %s was submitted without a callback"
                    : "Job %s is not finished, or has no feedback to send",
                c->param[0]);
        return;
    }
    if (a->status != CORE_OK) {
        failed(c, a);
        return;
    }
    buf_appends(&b, "{");
    render_callback_state(&b, "pending", 0, "", core_number(a->tree, 1));
    buf_appends(&b, "}");
    v1_json(c, 202, &b);
}

void v1_callback_retry(struct call *c)
{
    v1_ask_job(c, ASK_CALLBACK_RETRY, retried);
}
