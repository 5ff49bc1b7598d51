/* vmms, drain, resume, machines, pools, prealloc, stats */

#include "client/client.h"

#include "base/mem.h"
#include "client/show.h"
#include "client/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREALLOC_WAIT_S 20

static void vmm_row(struct table *t, const json_t *v)
{
    struct buf labels = BUF_INIT(4096);

    table_cell(t, "%s", show_text(v, "name"));
    table_cell(t, "%s%s", show_text(v, "state"), show_flag(v, "drain") ? ", drains" : "");
    table_cell(t, "%s", show_text(v, "driver"));
    table_cell(t, "%lld", (long long)show_number(v, "running"));
    table_cell(t, "%lld", (long long)show_number(v, "slots"));
    table_cell(t, "%s", show_words(json_object_get(v, "labels"), &labels));
    table_cell(t, "%zu", json_array_size(json_object_get(v, "images")));
    table_cell(t, "%s", show_text(v, "version"));
    table_cell(t, "%s", show_text(v, "reason"));
    buf_free(&labels);
}

#define VMM_TITLES "VMM STATE DRIVER >RUNNING >SLOTS LABELS >IMAGES VERSION REASON"

/* A line for each host that its machines are on. */
static void host_rows(struct table *t, const json_t *vmm)
{
    size_t i;
    json_t *h;

    json_array_foreach(json_object_get(vmm, "hosts"), i, h)
    {
        table_cell(t, "  %s", show_text(h, "name"));
        table_cell(t, "%s", show_text(h, "state"));
        for (int empty = 0; empty < 6; empty++)
            table_cell(t, "%s", "");
        table_cell(t, "%s", show_text(h, "reason"));
    }
}

static void show_vmms(const struct client *c, const json_t *answer)
{
    struct table *t = table_new(VMM_TITLES);
    size_t i;
    json_t *v;

    (void)c;
    json_array_foreach(json_object_get(answer, "vmms"), i, v)
    {
        vmm_row(t, v);
        host_rows(t, v);
    }
    table_print(t, stdout, terminal_width(), "no vmm has registered");
    table_free(t);
}

static void show_vmm(const struct client *c, const json_t *vmm)
{
    struct table *t = table_new(VMM_TITLES);

    (void)c;
    vmm_row(t, vmm);
    host_rows(t, vmm);
    table_print(t, stdout, terminal_width(), "no vmm has registered");
    table_free(t);
}

int cmd_vmms(struct client *c, int argc, char **argv)
{
    if (args_take(argc, argv, NULL, 0) != 0)
        return EXIT_USE;
    return client_show(c, "GET", "/v1/vmms", NULL, show_vmms);
}

static int act_on_vmm(struct client *c, const char *vmm, const char *act, const json_t *body)
{
    cleanup_free char *quoted = rest_quote(vmm);
    cleanup_free char *path = xasprintf("/v1/vmms/%s/%s", quoted, act);

    return client_show(c, "POST", path, body, show_vmm);
}

int cmd_drain(struct client *c, int argc, char **argv)
{
    const char *reason = NULL;
    const struct arg args[] = {{"--reason", &reason, NULL}};
    json_t *body;
    int status;

    if (args_take(argc, argv, args, ARRAY_SIZE(args)) != 1) {
        fputs("usage: milonga drain VMM [--reason TEXT]\n", stderr);
        return EXIT_USE;
    }
    body = reason != NULL ? json_pack("{s:s}", "reason", reason) : NULL;
    status = act_on_vmm(c, argv[0], "drain", body);
    json_decref(body);
    return status;
}

int cmd_resume(struct client *c, int argc, char **argv)
{
    if (args_take(argc, argv, NULL, 0) != 1) {
        fputs("usage: milonga resume VMM\n", stderr);
        return EXIT_USE;
    }
    return act_on_vmm(c, argv[0], "resume", NULL);
}

/* ---- machines and pools ---- */

static void show_machines(const struct client *c, const json_t *answer)
{
    struct table *t = table_new(">ID VMM STATE >JOB IMAGE NAME");
    size_t i;
    json_t *m;

    (void)c;
    json_array_foreach(json_object_get(answer, "machines"), i, m)
    {
        int64_t job = show_number(m, "job");

        table_cell(t, "%lld", (long long)show_number(m, "id"));
        table_cell(t, "%s", show_text(m, "vmm"));
        table_cell(t, "%s", show_text(m, "state"));
        if (job != 0)
            table_cell(t, "%lld", (long long)job);
        else
            table_cell(t, "-");
        table_cell(t, "%s", show_text(m, "image"));
        table_cell(t, "%s", show_text(m, "name"));
    }
    table_print(t, stdout, terminal_width(), "no machines");
    table_free(t);
}

int cmd_machines(struct client *c, int argc, char **argv)
{
    if (args_take(argc, argv, NULL, 0) != 0)
        return EXIT_USE;
    return client_show(c, "GET", "/v1/machines", NULL, show_machines);
}

static void show_pools(const struct client *c, const json_t *answer)
{
    struct table *t = table_new("IMAGE >WISHED >TARGET >TOTAL >IDLE");
    size_t i;
    json_t *p;

    (void)c;
    json_array_foreach(json_object_get(answer, "pools"), i, p)
    {
        const json_t *wish = json_object_get(p, "wish");

        table_cell(t, "%s", show_text(p, "image"));
        if (json_is_object(wish))
            table_cell(t, "%lld", (long long)show_number(wish, "machines"));
        else
            table_cell(t, "-");
        table_cell(t, "%lld", (long long)show_number(p, "target"));
        table_cell(t, "%lld", (long long)show_number(p, "total"));
        table_cell(t, "%lld", (long long)show_number(p, "idle"));
    }
    table_print(t, stdout, terminal_width(), "no pools");
    table_free(t);
}

int cmd_pools(struct client *c, int argc, char **argv)
{
    if (args_take(argc, argv, NULL, 0) != 0)
        return EXIT_USE;
    return client_show(c, "GET", "/v1/pools", NULL, show_pools);
}

static void show_wished(const struct client *c, const json_t *answer)
{
    (void)c;
    if (answer == NULL)
        puts("no wish any more");
    else if (show_flag(answer, "reached"))
        printf("%lld warm of %s, as wished\n", (long long)show_number(answer, "machines"),
               show_text(answer, "image"));
    else
        printf("%lld wished of %s; not yet there: %s\n", (long long)show_number(answer, "machines"),
               show_text(answer, "image"), show_text(answer, "detail"));
}

static json_t *wish_body(const char *machines, const char *cores, const char *memory,
                         struct error *err)
{
    long n, mb = 0;
    json_t *body;

    if (args_number("number of machines", machines, 0, 1000, &n, err) < 0 ||
        (memory != NULL && args_number("--memory", memory, 1, 1 << 24, &mb, err) < 0))
        return NULL;
    body = json_pack("{s:I}", "machines", (json_int_t)n);
    if (cores != NULL)
        json_object_set_new(body, "cores", json_real(strtod(cores, NULL)));
    if (memory != NULL)
        json_object_set_new(body, "memory_mb", json_integer(mb));
    return body;
}

int cmd_prealloc(struct client *c, int argc, char **argv)
{
    const char *cores = NULL, *memory = NULL;
    const struct arg args[] = {{"--cores", &cores, NULL}, {"--memory", &memory, NULL}};
    struct error err = ERROR_INIT;
    cleanup_free char *path = NULL, *image = NULL;
    json_t *body;
    int status;

    if (args_take(argc, argv, args, ARRAY_SIZE(args)) != 2) {
        fputs("usage: milonga prealloc IMAGE N|default [--cores N] [--memory MB]\n", stderr);
        return EXIT_USE;
    }
    image = rest_quote(argv[0]);
    if (strcmp(argv[1], "default") == 0) {
        path = xasprintf("/v1/pools/%s", image);
        return client_show(c, "DELETE", path, NULL, show_wished);
    }
    path = xasprintf("/v1/pools/%s?wait_s=%d", image, PREALLOC_WAIT_S);
    body = wish_body(argv[1], cores, memory, &err);
    if (body == NULL)
        return client_fail(&err);
    status = client_show(c, "PUT", path, body, show_wished);
    json_decref(body);
    return status;
}

/* ---- figures ---- */

/* Those of verdicts, v_NAME, or all others. */
static void show_counters(const json_t *counters, const char *title, bool verdicts)
{
    const char *name;
    json_t *n;

    json_object_foreach((json_t *)counters, name, n)
    {
        if ((strncmp(name, "v_", 2) == 0) != verdicts)
            continue;
        show_line(title, "%8lld  %s", (long long)json_integer_value(n), name + (verdicts ? 2 : 0));
        title = "";
    }
}

static void show_stats(const struct client *c, const json_t *s)
{
    char age[HUMAN_MAX];

    (void)c;
    show_line("live", "%lld job%s, %lld queued, %lld waiting for another try",
              (long long)show_number(s, "live"), show_s(show_number(s, "live")),
              (long long)show_number(s, "queued"), (long long)show_number(s, "delayed"));
    show_line("oldest", "%s",
              show_number(s, "oldest_queued_ms") > 0
                  ? human_ms(show_number(s, "oldest_queued_ms"), age)
                  : "-");
    show_line("slots", "%lld of %lld busy on %lld vmm%s; %lld warm machine%s",
              (long long)show_number(s, "busy"), (long long)show_number(s, "slots"),
              (long long)show_number(s, "vmms_up"), show_s(show_number(s, "vmms_up")),
              (long long)show_number(s, "machines_idle"), show_s(show_number(s, "machines_idle")));
    show_line("finished", "%lld in the last minute, %lld in the last five",
              (long long)show_number(s, "finished_60s"),
              (long long)show_number(s, "finished_300s"));
    show_line("callbacks", "%lld to be delivered", (long long)show_number(s, "callbacks_pending"));
    show_counters(json_object_get(s, "counters"), "ended", true);
    show_counters(json_object_get(s, "counters"), "counted", false);
}

int cmd_stats(struct client *c, int argc, char **argv)
{
    if (args_take(argc, argv, NULL, 0) != 0)
        return EXIT_USE;
    return client_show(c, "GET", "/v1/stats", NULL, show_stats);
}
