/* A job as Tango shows it in /jobs: the object, and its trace in Tango's words. */

#include "services/api/tango.h"

#include "base/clock.h"
#include "base/image_name.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What is known while the lines of a trace are gone through. */
struct story {
    const struct core_job *j;
    struct buf *out;
    struct buf text; /* of one line */
    const char *vm;  /* name of the machine of the current attempt */
    size_t vm_len;
    bool first;
};

/* One line: the time, and what is in s->text. */
static void tell(struct story *s, int64_t at)
{
    char when[32];

    clock_ctime_utc(at, when, sizeof(when));
    buf_appends(s->out, s->first ? "" : ", ");
    s->first = false;
    buf_printf(s->out, "\"%s|", when);
    /* the rest of the string that out_str() would begin with a quote */
    {
        struct buf quoted = BUF_INIT(SIZE_MAX);

        out_str(&quoted, s->text.len ? s->text.data : "", s->text.len);
        buf_append(s->out, quoted.data + 1, quoted.len - 1);
        buf_free(&quoted);
    }
    buf_clear(&s->text);
}

static void say_code(struct story *s, const char *code, const char *arg)
{
    const char *name = s->j->job->name;
    uint64_t id = s->j->id;
    struct buf *t = &s->text;

    if (strcmp(code, "dispatched") == 0)
        buf_printf(t, "Dispatched job %s:%" PRIu64 " [try %s]", name, id, arg);
    else if (strcmp(code, "machine") == 0)
        buf_printf(t, "Assigned job %s:%" PRIu64 " existing VM %.*s", name, id, (int)s->vm_len,
                   s->vm);
    else if (strcmp(code, "waiting") == 0)
        buf_printf(t, "Job %s:%" PRIu64 " waiting for VM %.*s", name, id, (int)s->vm_len, s->vm);
    else if (strcmp(code, "ready") == 0)
        buf_printf(t, "VM %.*s ready for job %s:%" PRIu64, (int)s->vm_len, s->vm, name, id);
    else if (strcmp(code, "copied") == 0)
        buf_printf(t, "Input copied for job %s:%" PRIu64 " [status=%s]", name, id, arg);
    else if (strcmp(code, "executed") == 0)
        buf_printf(t, "Job %s:%" PRIu64 " executed [status=%s]", name, id, arg);
    else if (strcmp(code, "output") == 0)
        buf_printf(t, "Output copied for job %s:%" PRIu64 " [status=%s]", name, id, arg);
    else if (strcmp(code, "failed") == 0)
        buf_printf(t, "Job %s:%" PRIu64 " failed: %s", name, id, arg);
    else if (strcmp(code, "lost") == 0)
        buf_printf(t, "Job %s:%" PRIu64 " failed: Internal error: worker %s was lost", name, id,
                   arg);
    else if (strcmp(code, "final") == 0 || strcmp(code, "line") == 0)
        buf_appends(t, arg);
    else
        buf_printf(t, "%s %s", code, arg); /* of a newer version */
}

/* "code ms arg" */
static void tell_line(struct story *s, const char *line)
{
    char code[32];
    int64_t at;
    int n = 0;

    if (sscanf(line, "%31s %" SCNd64 "%n", code, &at, &n) != 2)
        return;
    line += n + (line[n] == ' ');
    if (strcmp(code, "machine") == 0) {
        const char *space = strchr(line, ' ');

        s->vm = space ? space + 1 : line;
        s->vm_len = strlen(s->vm);
    }
    say_code(s, code, line);
    tell(s, at);
}

static void out_trace(const struct core_job *j, struct buf *out)
{
    struct story s = {.j = j, .out = out, .text = BUF_INIT(SIZE_MAX), .vm = "", .first = true};

    buf_appends(out, "[");
    if (!j->rejected) {
        buf_printf(&s.text, "Added job %s:%" PRIu64 " to queue", j->job->name, j->id);
        tell(&s, j->accepted_ms);
    }
    for (size_t i = 0; i < j->trace_ct; i++)
        tell_line(&s, j->trace[i]);
    buf_appends(out, "]");
    buf_free(&s.text);
}

static void out_path(struct buf *out, const struct job *job, const char *sub, const char *name)
{
    struct buf path = BUF_INIT(SIZE_MAX);

    tango_lab_path(&path, job->tenant, job->lab, sub, name);
    out_str(out, path.data, path.len);
    buf_free(&path);
}

static void out_vm(const struct core_job *j, struct buf *out)
{
    const struct job_limits *l = &j->job->limits;
    const char *driver =
        !*j->driver || strcmp(j->driver, "docker") == 0 ? "localDocker" : j->driver;

    buf_appends(out, "{\"network\": null, \"resume\": null, \"image\": ");
    out_cstr(out, image_name_shown(j->job->image, NULL));
    buf_appends(out, ", \"memory\": ");
    if (l->memory_mb)
        buf_printf(out, "%u", l->memory_mb);
    else
        buf_appends(out, "null");
    buf_appends(out, ", \"vmms\": ");
    out_cstr(out, driver);
    buf_appends(out, ", \"cores\": ");
    if (l->cores_milli == 0)
        buf_appends(out, "null");
    else if (l->cores_milli % 1000 == 0)
        buf_printf(out, "%u", l->cores_milli / 1000);
    else
        buf_printf(out, "%u.%03u", l->cores_milli / 1000, l->cores_milli % 1000);
    buf_appends(out, ", \"disk\": null, \"id\": ");
    if (j->machine >= 0)
        buf_printf(out, "%" PRId64, j->machine);
    else
        buf_appends(out, "null");
    out_key(out, "name", false);
    out_cstr(out, image_name_shown(j->job->image, NULL));
    buf_appends(out, "}");
}

void tango_render_job(const struct core_job *j, const struct config *cfg, struct buf *out)
{
    const struct job *job = j->job;
    uint64_t output =
        job->limits.output_bytes ? job->limits.output_bytes : (uint64_t)cfg->job_output_bytes;

    if (out->len)
        buf_appends(out, ", ");
    buf_printf(out, "{\"retries\": %u, \"outputFile\": ", j->attempts > 1 ? j->attempts - 1 : 0);
    out_path(out, job, "output/", job->output_file);
    out_key(out, "name", false);
    out_cstr(out, job->name);
    out_key(out, "notifyURL", false);
    if (job->callback_url)
        out_cstr(out, job->callback_url);
    else
        buf_appends(out, "null");
    buf_printf(out, ", \"maxOutputFileSize\": %" PRIu64 ", \"assigned\": %s, \"timeout\": %u, ",
               output, j->assigned ? "true" : "false", job->timeout_s);
    buf_printf(out, "\"id\": %" PRIu64 ", \"trace\": ", j->id);
    out_trace(j, out);
    out_key(out, "vm", false);
    out_vm(j, out);
    out_key(out, "input", false);
    buf_appends(out, "[");
    for (size_t i = 0; i < job->file_ct; i++) {
        buf_printf(out, "%s{\"destFile\": ", i ? ", " : "");
        out_cstr(out, job->files[i].dest);
        out_key(out, "localFile", false);
        out_path(out, job, "", job->files[i].local);
        buf_appends(out, "}");
    }
    buf_appends(out, "]}");
}
