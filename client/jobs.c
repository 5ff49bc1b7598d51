/* jobs, job, why, cancel, requeue, feedback, callbacks */

#include "client/client.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "client/show.h"
#include "client/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a person asks first: the verdict, or how far it is. */
static const char *state_of(const json_t *job)
{
    if (json_is_string(json_object_get(job, "verdict")))
        return show_text(job, "verdict");
    return show_flag(job, "cancelling") ? "cancelling" : show_text(job, "state");
}

static void show_jobs(const struct client *c, const json_t *answer)
{
    struct table *t = table_new(">ID STATE >SINCE >TRIES VMM IMAGE LAB NAME");
    char since[HUMAN_MAX];
    size_t i;
    json_t *j;

    (void)c;
    json_array_foreach(json_object_get(answer, "jobs"), i, j)
    {
        table_cell(t, "%lld", (long long)show_number(j, "id"));
        table_cell(t, "%s", state_of(j));
        table_cell(t, "%s", human_ago(show_number(j, "state_since_ms"), since));
        table_cell(t, "%lld", (long long)show_number(j, "attempts"));
        table_cell(t, "%s", show_text(j, "vmm"));
        table_cell(t, "%s", show_text(j, "image"));
        table_cell(t, "%s", show_text(j, "lab"));
        table_cell(t, "%s", show_text(j, "name"));
    }
    table_print(t, stdout, terminal_width(), "no such jobs");
    table_free(t);
    if (json_is_string(json_object_get(answer, "next")))
        printf("more: milonga jobs --cursor %s\n", show_text(answer, "next"));
}

static void add_query(struct buf *path, const char *name, const char *value)
{
    cleanup_free char *quoted = value != NULL ? rest_quote(value) : NULL;

    if (quoted != NULL)
        buf_printf(path, "%c%s=%s", strchr(path->data, '?') != NULL ? '&' : '?', name, quoted);
}

int cmd_jobs(struct client *c, int argc, char **argv)
{
    const char *state = NULL, *verdict = NULL, *lab = NULL, *image = NULL, *limit = NULL,
               *cursor = NULL;
    const struct arg args[] = {{"--state", &state, NULL}, {"--verdict", &verdict, NULL},
                               {"--lab", &lab, NULL},     {"--image", &image, NULL},
                               {"--limit", &limit, NULL}, {"--cursor", &cursor, NULL}};
    struct buf path = BUF_INIT(8192);
    int status;

    if (args_take(argc, argv, args, ARRAY_SIZE(args)) != 0)
        return EXIT_USE;
    buf_appends(&path, "/v1/jobs");
    add_query(&path, "state", state);
    add_query(&path, "verdict", verdict);
    add_query(&path, "lab", lab);
    add_query(&path, "image", image);
    add_query(&path, "limit", limit);
    add_query(&path, "cursor", cursor);
    status = client_show(c, "GET", path.data, NULL, show_jobs);
    buf_free(&path);
    return status;
}

/* ---- one job ---- */

static bool ends_in(const char *name, const char *end)
{
    size_t len = strlen(name), tail = strlen(end);

    return len > tail && strcmp(name + len - tail, end) == 0;
}

static void show_limits(const json_t *limits)
{
    struct buf text = BUF_INIT(1024);
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)limits, name, value)
    {
        const char *unit = ends_in(name, "_s") ? "s" : ends_in(name, "_mb") ? "MB" : "";
        int len = (int)(strlen(name) - (*unit != '\0' ? strlen(unit) + 1 : 0));

        if (json_number_value(value) > 0)
            buf_printf(&text, "%s%.*s %g%s%s", text.len > 0 ? ", " : "", len, name,
                       json_number_value(value), *unit != '\0' ? " " : "", unit);
    }
    show_line("limits", "%s", text.len > 0 ? text.data : "the defaults");
    buf_free(&text);
}

/* What a step says beside its name, in words; the codes are those of docs/protocol.md. */
static void step_text(const json_t *step, char *text, size_t size)
{
    const char *code = show_text(step, "code"), *said = show_text(step, "text");
    const char *blank = strchr(said, ' ');

    if (strcmp(code, "dispatched") == 0)
        snprintf(text, size, "try %ld", strtol(said, NULL, 10) + 1);
    else if (strcmp(code, "machine") == 0 && blank != NULL)
        snprintf(text, size, "%s", blank + 1); /* its number is in its name */
    else if (strcmp(said, "0") == 0)
        snprintf(text, size, "ok");
    else
        snprintf(text, size, "%s", said);
}

static void show_trace(const json_t *trace)
{
    int64_t first = 0;
    size_t i;
    json_t *step;

    json_array_foreach(trace, i, step)
    {
        int64_t at = show_number(step, "at_ms");
        char when[64], text[1024];

        first = i == 0 ? at : first;
        snprintf(when, sizeof(when), "+%.3f s", (double)(at - first) / 1000);
        step_text(step, text, sizeof(text));
        show_line(i == 0 ? "trace" : "", "%10s  %-*s%s", when, text[0] != '\0' ? 11 : 0,
                  show_text(step, "code"), text);
    }
}

static void show_usage(const json_t *usage)
{
    char wall[HUMAN_MAX], cpu[HUMAN_MAX], peak[HUMAN_MAX], output[HUMAN_MAX];

    if (!json_is_object(usage))
        return;
    if (json_is_integer(json_object_get(usage, "exit_status")))
        show_line("exit", "status %lld", (long long)show_number(usage, "exit_status"));
    if (json_is_integer(json_object_get(usage, "signal")))
        show_line("exit", "by signal %lld", (long long)show_number(usage, "signal"));
    show_line("used", "%s, %s of processor time, %s of memory, %s of output",
              human_ms(show_number(usage, "wall_ms"), wall),
              human_ms(show_number(usage, "cpu_ms"), cpu),
              human_bytes(show_number(usage, "memory_peak_kb") * 1024, peak),
              human_bytes(show_number(usage, "output_bytes"), output));
}

static void show_times(const json_t *job)
{
    int64_t accepted = show_number(job, "accepted_ms"), finished = show_number(job, "finished_ms");
    char when[32], took[HUMAN_MAX];

    clock_ctime_local(accepted, when, sizeof(when));
    show_line("accepted", "%s", when);
    if (finished == 0)
        return;
    clock_ctime_local(finished, when, sizeof(when));
    show_line("finished", "%s, after %s", when, human_ms(finished - accepted, took));
}

static void show_job(const struct client *c, const json_t *job)
{
    char bytes[HUMAN_MAX];
    const json_t *output = json_object_get(job, "output"),
                 *callback = json_object_get(job, "callback");
    size_t i;
    json_t *f;

    (void)c;
    show_line("job", "%lld %s", (long long)show_number(job, "id"), show_text(job, "name"));
    show_line("state", "%s", state_of(job));
    show_times(job);
    show_line("lab", "%s", show_text(job, "lab"));
    show_line("image", "%s", show_text(job, "image"));
    show_line("tries",
              show_number(job, "charged") > 0 ? "%lld, %lld of them spoilt by infrastructure"
                                              : "%lld",
              (long long)show_number(job, "attempts"), (long long)show_number(job, "charged"));
    show_line("vmm", "%s", show_text(job, "vmm"));
    if (json_is_object(json_object_get(job, "machine")))
        show_line("machine", "%s", show_text(json_object_get(job, "machine"), "name"));
    show_limits(json_object_get(job, "limits"));
    show_line("network", "%s", show_flag(job, "network") ? "yes" : "no");
    show_line("output", "%s%s", human_bytes(show_number(output, "bytes"), bytes),
              show_flag(output, "complete") ? "" : " so far");
    show_usage(json_object_get(job, "usage"));
    if (json_is_object(callback))
        show_line("callback", "%s, %lld %s, %s", show_text(callback, "state"),
                  (long long)show_number(callback, "tries"),
                  show_number(callback, "tries") == 1 ? "try" : "tries",
                  show_text(callback, "last"));
    json_array_foreach(json_object_get(job, "files"), i, f)
        show_line(i == 0 ? "files" : "", "%s as %s, %s", show_text(f, "name"), show_text(f, "dest"),
                  human_bytes(show_number(f, "size"), bytes));
    show_trace(json_object_get(job, "trace"));
}

/* "/v1/jobs/ID" and what follows; NULL, said on stderr, when that is no id. */
static char *path_of(const char *text, const char *rest)
{
    long id = client_job_id(text);

    return id > 0 ? xasprintf("/v1/jobs/%ld%s", id, rest) : NULL;
}

/* The like, for a command with one id; a negative count was told already. */
static char *job_path(int argc, char **argv, const char *rest)
{
    if (argc == 1)
        return path_of(argv[0], rest);
    if (argc >= 0)
        fputs("milonga: one job id is needed here\n", stderr);
    return NULL;
}

static int one_job(struct client *c, int argc, char **argv, const char *method, const char *rest,
                   void (*show)(const struct client *c, const json_t *answer))
{
    cleanup_free char *path = job_path(args_take(argc, argv, NULL, 0), argv, rest);

    return path != NULL ? client_show(c, method, path, NULL, show) : EXIT_USE;
}

int cmd_job(struct client *c, int argc, char **argv)
{
    return one_job(c, argc, argv, "GET", "", show_job);
}

/* ---- why ---- */

static void show_why(const struct client *c, const json_t *why)
{
    const json_t *needs = json_object_get(why, "needs"),
                 *estimate = json_object_get(why, "estimate_ms");
    struct buf labels = BUF_INIT(4096);
    struct table *t = table_new("VMM STATE >RUNNING >SLOTS IMAGE LABELS FITS");
    char text[HUMAN_MAX];
    size_t i;
    json_t *v;

    (void)c;
    show_line("job", "%lld, %s", (long long)show_number(why, "id"), show_text(why, "state"));
    show_line("why", "%s", show_text(why, "detail"));
    if (json_is_integer(json_object_get(why, "position")))
        show_line("before it", "%lld job%s, %lld of the same kind",
                  (long long)show_number(why, "position"), show_s(show_number(why, "position")),
                  (long long)show_number(why, "placement_position"));
    if (json_is_integer(estimate))
        show_line("starts in", "about %s", human_ms(json_integer_value(estimate), text));
    show_line("needs", "image %s; labels %s", show_text(needs, "image"),
              show_words(json_object_get(needs, "labels"), &labels));
    buf_free(&labels);
    json_array_foreach(json_object_get(why, "vmms"), i, v)
    {
        table_cell(t, "%s", show_text(v, "name"));
        table_cell(t, "%s%s", show_text(v, "state"), show_flag(v, "drain") ? ", drains" : "");
        table_cell(t, "%lld", (long long)show_number(v, "running"));
        table_cell(t, "%lld", (long long)show_number(v, "slots"));
        table_cell(t, "%s", show_flag(v, "has_image") ? "yes" : "no");
        table_cell(t, "%s", show_flag(v, "has_labels") ? "yes" : "no");
        table_cell(t, "%s", show_flag(v, "fits") ? "yes" : "no");
    }
    table_print(t, stdout, terminal_width(), "no vmm has registered");
    table_free(t);
}

int cmd_why(struct client *c, int argc, char **argv)
{
    return one_job(c, argc, argv, "GET", "/why", show_why);
}

/* ---- acting ---- */

static void show_cancelled(const struct client *c, const json_t *answer)
{
    bool finished = json_is_string(json_object_get(answer, "verdict"));

    (void)c;
    printf("job %lld %s\n", (long long)show_number(answer, "id"),
           finished ? "is cancelled" : "is being ended by its worker");
}

int cmd_cancel(struct client *c, int argc, char **argv)
{
    int count = args_take(argc, argv, NULL, 0), worst = 0;

    if (count == 0)
        fputs("milonga: cancel needs job ids\n", stderr);
    if (count < 1)
        return EXIT_USE;
    for (int i = 0; i < count; i++) {
        cleanup_free char *path = path_of(argv[i], "/cancel");
        int status = path != NULL ? client_show(c, "POST", path, NULL, show_cancelled) : EXIT_USE;

        worst = status > worst ? status : worst;
    }
    return worst;
}

static void show_accepted(const struct client *c, const json_t *answer)
{
    (void)c;
    printf("job %lld\n", (long long)show_number(answer, "id"));
}

int cmd_requeue(struct client *c, int argc, char **argv)
{
    return one_job(c, argc, argv, "POST", "/requeue", show_accepted);
}

int cmd_feedback(struct client *c, int argc, char **argv)
{
    struct error err = ERROR_INIT;
    cleanup_free char *path = job_path(args_take(argc, argv, NULL, 0), argv, "/feedback");
    struct rest *r = path != NULL ? client_rest(c, &err) : NULL;

    if (path == NULL)
        return EXIT_USE;
    return r == NULL || rest_bytes(r, path, NULL, stdout, &err) < 0 ? client_fail(&err) : 0;
}

/* ---- callbacks ---- */

static void show_callbacks(const struct client *c, const json_t *answer)
{
    struct table *t = table_new(">JOB STATE >TRIES LAST");
    size_t i;
    json_t *b;

    (void)c;
    json_array_foreach(json_object_get(answer, "callbacks"), i, b)
    {
        table_cell(t, "%lld", (long long)show_number(b, "id"));
        table_cell(t, "%s", show_text(b, "state"));
        table_cell(t, "%lld", (long long)show_number(b, "tries"));
        table_cell(t, "%s", show_text(b, "last"));
    }
    table_print(t, stdout, terminal_width(), "all callbacks are delivered");
    table_free(t);
}

static void show_retry(const struct client *c, const json_t *answer)
{
    (void)c;
    printf("the callback is %s\n", show_text(answer, "state"));
}

int cmd_callbacks(struct client *c, int argc, char **argv)
{
    int count = args_take(argc, argv, NULL, 0);

    if (count == 0)
        return client_show(c, "GET", "/v1/callbacks", NULL, show_callbacks);
    if (count == 2 && strcmp(argv[0], "retry") == 0)
        return one_job(c, 1, argv + 1, "POST", "/callback/retry", show_retry);
    fputs("usage: milonga callbacks [retry ID]\n", stderr);
    return EXIT_USE;
}
