/* addJob and prealloc: requests in JSON, and what is checked before a job is accepted. */

#include "services/api/tango.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/image_name.h"
#include "base/mem.h"
#include "base/name.h"
#include "services/api/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TEXT_MAX     4096 /* of a name in a request; what is a good name is judged later */
#define URL_MAX      2048
#define PREALLOC_MAX 1000

struct input {
    const char *local, *dest;
};

struct limits {
    double cores, memory, pids, file_size, disk, output;
};

struct request {
    const char *name, *output_file, *callback_url, *notify_url, *image;
    double timeout, max_kb;
    bool disable_network;
    struct json_list files; /* struct input */
    struct limits limits;
    struct json_list labels;
};

static const struct json_field input_fields[] = {
    {"localFile", JF_STRING, JF_REQUIRED | JF_NULL, offsetof(struct input, local), TEXT_MAX},
    {"destFile", JF_STRING, JF_REQUIRED | JF_NULL, offsetof(struct input, dest), TEXT_MAX},
    {NULL},
};

static const struct json_field limit_fields[] = {
    {"cores", JF_NUMBER, JF_NULL, offsetof(struct limits, cores)},
    {"memory", JF_NUMBER, JF_NULL, offsetof(struct limits, memory)},
    {"pids", JF_NUMBER, JF_NULL, offsetof(struct limits, pids)},
    {"file_size", JF_NUMBER, JF_NULL, offsetof(struct limits, file_size)},
    {"disk", JF_NUMBER, JF_NULL, offsetof(struct limits, disk)},
    {"output", JF_NUMBER, JF_NULL, offsetof(struct limits, output)},
    {NULL},
};

/* In the order in which Tango takes them out of a request, which decides the error that is told. */
static const struct json_field request_fields[] = {
    {"jobName", JF_STRING, JF_REQUIRED | JF_NULL, offsetof(struct request, name), TEXT_MAX},
    {"output_file", JF_STRING, JF_REQUIRED | JF_NULL, offsetof(struct request, output_file),
     TEXT_MAX},
    {"timeout", JF_NUMBER, JF_REQUIRED | JF_NULL, offsetof(struct request, timeout)},
    {"callback_url", JF_STRING, JF_NULL, offsetof(struct request, callback_url), URL_MAX},
    {"files", JF_OBJECTS, JF_REQUIRED, offsetof(struct request, files), JOB_MAX_FILES, input_fields,
     sizeof(struct input)},
    {"image", JF_STRING, JF_REQUIRED | JF_NULL, offsetof(struct request, image), TEXT_MAX},
    {"disable_network", JF_TRUE, 0, offsetof(struct request, disable_network)},
    {"notifyURL", JF_STRING, JF_NULL, offsetof(struct request, notify_url), URL_MAX},
    {"max_kb", JF_NUMBER, JF_NULL, offsetof(struct request, max_kb)},
    /* closed: a limit that is not understood is not held */
    {"limits", JF_OBJECT, JF_NULL | JF_CLOSED, offsetof(struct request, limits), 0, limit_fields},
    {"labels", JF_STRINGS, JF_NULL, offsetof(struct request, labels), JOB_MAX_LABELS},
    {NULL},
};

/* An addJob from its body to its answer. */
struct add {
    json_t *json; /* what the request points into */
    struct request req;
    struct job *job; /* its image's name becomes the full one when it is accepted */
    char dup[SHA256_HEX + 1];
    char **lines; /* of its rejection */
    size_t line_ct;
};

static void add_free(void *state)
{
    struct add *a = state;

    free(a->req.files.items);
    free(a->req.labels.items);
    json_decref(a->json);
    job_free(a->job);
    for (size_t i = 0; i < a->line_ct; i++)
        free(a->lines[i]);
    free(a->lines);
    free(a);
}

/* ---- Problems ---- */

/* A frontend cuts a line of the trace at '|', and shows it in one line. */
static char *clean_line(char *text)
{
    for (unsigned char *s = (unsigned char *)text; *s; s++) {
        if (*s == '|' || *s < 0x20 || *s == 0x7f)
            *s = '?';
    }
    return text;
}

__attribute__((format(printf, 2, 3))) static void problem(struct add *a, const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        abort();
    va_end(ap);
    a->lines = xrealloc(a->lines, (a->line_ct + 1) * sizeof(a->lines[0]));
    a->lines[a->line_ct++] = clean_line(xasprintf("validateJob: %s", text));
    free(text);
}

/* A number of the request as a bound of the job: absent, null, 0 and less ask for the default. */
static uint64_t bound(struct add *a, const char *what, double value, double unit, int64_t max)
{
    double n = value * unit;

    if (n <= 0)
        return 0;
    if (n > (double)max) {
        problem(a, "%s is %.15g, this server allows at most %.15g", what, value,
                (double)max / unit);
        return (uint64_t)max;
    }
    return n < 1 ? 1 : (uint64_t)n;
}

static void check_limits(struct add *a, const struct config *cfg)
{
    const struct limits *l = &a->req.limits;
    struct job_limits *to = &a->job->limits;
    double max_kb = a->req.max_kb, most_kb = (double)cfg->job_output_max_bytes / 1024;
    double timeout = a->req.timeout;

    to->cores_milli = (uint32_t)bound(a, "limits.cores", l->cores, 1000, cfg->job_cores_max_milli);
    to->memory_mb = (uint32_t)bound(a, "limits.memory", l->memory, 1, cfg->job_memory_max_mb);
    to->pids = (uint32_t)bound(a, "limits.pids", l->pids, 1, cfg->job_pids_max);
    to->fsize_bytes = bound(a, "limits.file_size", l->file_size, 1, cfg->job_fsize_max_bytes);
    to->disk_bytes = bound(a, "limits.disk", l->disk, 1, cfg->job_disk_max_bytes);
    to->output_bytes = bound(a, "limits.output", l->output, 1, cfg->job_output_max_bytes);
    /* Tango ignored max_kb, so nobody is refused for it. */
    if (!to->output_bytes)
        to->output_bytes = bound(a, "max_kb", max_kb > most_kb ? most_kb : max_kb, 1024,
                                 cfg->job_output_max_bytes);
    /* up to the next full second */
    if (timeout > 0 && timeout < (double)cfg->job_timeout_max_s &&
        timeout > (double)(int64_t)timeout)
        timeout = (double)((int64_t)timeout + 1);
    a->job->timeout_s = (uint32_t)bound(a, "timeout", timeout, 1, cfg->job_timeout_max_s);
    if (!a->job->timeout_s)
        a->job->timeout_s = (uint32_t)cfg->job_timeout_s;
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void check_labels(struct add *a)
{
    const char **labels = a->req.labels.items;
    struct job *job = a->job;
    size_t kept = 0;

    while (job->label_ct) /* of the look before */
        free(job->labels[--job->label_ct]);
    for (size_t i = 0; i < a->req.labels.count; i++) {
        const char *why = name_check_label(labels[i], strlen(labels[i]));

        if (why)
            problem(a, "Bad label: it %s", why);
        else
            job->labels[job->label_ct++] = xstrdup(labels[i]);
    }
    qsort(job->labels, job->label_ct, sizeof(job->labels[0]), compare_text);
    for (size_t i = 0; i < job->label_ct; i++) {
        if (kept && strcmp(job->labels[kept - 1], job->labels[i]) == 0)
            free(job->labels[i]);
        else
            job->labels[kept++] = job->labels[i];
    }
    for (size_t i = kept; i < job->label_ct; i++)
        job->labels[i] = NULL;
    job->label_ct = kept;
}

static bool is_url(const char *url)
{
    const char *host = strncasecmp(url, "http://", 7) == 0    ? url + 7
                       : strncasecmp(url, "https://", 8) == 0 ? url + 8
                                                              : "";

    for (const char *s = url; *s; s++) {
        if ((unsigned char)*s <= 0x20 || *s == 0x7f)
            return false;
    }
    return *host && *host != '/';
}

static void bad_path(struct add *a, const char *name)
{
    struct buf path = BUF_INIT(SIZE_MAX);

    tango_lab_path(&path, a->job->tenant, a->job->lab, "output/", name);
    problem(a, "Bad output path: %s", path.data);
    buf_free(&path);
}

static void check_input(struct add *a, struct job_file *f, const struct core_file *found, bool lab)
{
    const char *why_local = name_check_file(f->local, strlen(f->local));
    const char *why_dest = name_check_file(f->dest, strlen(f->dest));

    if (!lab)
        bad_path(a, a->job->output_file);
    if (!*f->local)
        problem(a, "Missing inputFile.localFile");
    else if (why_local)
        problem(a, "Bad inputFile.localFile: %s %s", f->local, why_local);
    else if (lab && !found->sha256[0])
        problem(a, "Input file not found: %s", f->local);
    if (why_dest)
        problem(a, "Bad inputFile.destFile: %s %s", f->dest, why_dest);
    memcpy(f->sha256, found->sha256, sizeof(f->sha256));
    f->size = found->size;
}

/* All that is wrong with the job, in Tango's order, and ours behind it. */
static void check(struct add *a, const struct config *cfg, const struct core_answer *found)
{
    struct job *job = a->job;
    const char *why = name_check_job(job->name, strlen(job->name));
    bool makefile = false;

    if (!*job->name)
        problem(a, "Missing job.name");
    else if (why)
        problem(a, "Bad job.name: it %s", why);
    if (!*job->image)
        problem(a, "Missing job.vm.image");
    else if (found->digest_ct == 0 || image_name_check(job->image, strlen(job->image)))
        problem(a, "Image not found: %s", job->image);
    why = name_check_file(job->output_file, strlen(job->output_file));
    if (!*job->output_file)
        problem(a, "Missing job.outputFile");
    else if (why || !found->lab)
        bad_path(a, job->output_file);
    for (size_t i = 0; i < job->file_ct; i++) {
        check_input(a, &job->files[i], &found->files[i], found->lab);
        makefile = makefile || strcmp(job->files[i].dest, "Makefile") == 0;
    }
    if (!makefile)
        problem(a, "Missing Makefile in input files.");
    if (job->callback_url && !is_url(job->callback_url))
        problem(a, "Bad callback_url: it is no http or https URL");
    check_limits(a, cfg);
    check_labels(a);
    if (a->line_ct)
        problem(a, "Job rejected: %zu errors", a->line_ct);
}

/* ---- addJob ---- */

static void reply_job(struct call *c, uint64_t id)
{
    struct buf b = BUF_INIT(SIZE_MAX);

    out_status(&b, 0, "Job added");
    buf_printf(&b, ", \"jobId\": \"%" PRIu64 "\"}", id);
    reply_json(c, &b);
    buf_free(&b);
}

static void look_up(struct call *c);

static void accepted(void *arg, const struct core_answer *a)
{
    struct call *c = arg;

    if (a->status == CORE_OK || a->status == CORE_SAME)
        reply_job(c, a->id);
    else if (a->status == CORE_MOVED)
        look_up(c);
    else if (a->status == CORE_FULL)
        reply_status(c, -1, a->why);
    else
        tango_fail(c, a);
}

static void rejected(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct add *add = c->state;
    struct buf b = BUF_INIT(SIZE_MAX);
    char when[32];

    if (a->status != CORE_OK) {
        tango_fail(c, a);
        return;
    }
    clock_ctime_utc(add->job->accepted_ms, when, sizeof(when));
    buf_appends(&b, "{\"statusId\": -1, \"statusMsg\": [");
    for (size_t i = 0; i < add->line_ct; i++) {
        char *line = xasprintf("%s|%s", when, add->lines[i]);

        buf_appends(&b, i ? ", " : "");
        out_cstr(&b, line);
        free(line);
    }
    buf_appends(&b, "]}");
    reply_json(c, &b);
    buf_free(&b);
}

static void looked_up(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct add *add = c->state;
    struct core *core = c->loop->core;

    if (a->status == CORE_SAME) {
        reply_job(c, a->id);
        return;
    }
    if (a->status != CORE_OK) {
        tango_fail(c, a);
        return;
    }
    check(add, c->loop->server->cfg, a);
    if (!add->line_ct) {
        job_set_image(add->job, a->image, (const char *const *)a->digests, a->digest_ct);
        core_accept(core, add->job,
                    &(struct core_once){
                        .dup = add->dup, .digest = "", .ms = c->loop->server->cfg->dup_window_ms},
                    accepted, c);
        return;
    }
    for (size_t i = 0; i < add->job->file_ct; i++)
        add->job->files[i].sha256[0] = '\0';
    core_reject(core, add->job, (const char *const *)add->lines, add->line_ct, rejected, c);
}

static char *text_or_empty(const char *s)
{
    return xstrdup(s ? s : "");
}

/* The job as it was asked for; checked and completed later. */
static struct job *job_of(const struct request *r, const char *tenant, const char *lab)
{
    struct job *job = job_new();
    const struct input *in = r->files.items;
    const char *url = r->callback_url && *r->callback_url ? r->callback_url : r->notify_url;

    job->tenant = xstrdup(tenant);
    job->lab = xstrdup(lab);
    job->name = text_or_empty(r->name);
    job->output_file = text_or_empty(r->output_file);
    job->image = text_or_empty(r->image);
    if (url && *url)
        job->callback_url = xstrdup(url);
    job->network = !r->disable_network;
    job->class = JOB_CLASS_DEFAULT;
    job->accepted_ms = clock_wall_ms();
    job->files = xcalloc(r->files.count + 1, sizeof(job->files[0]));
    job->file_ct = r->files.count;
    for (size_t i = 0; i < job->file_ct; i++) {
        job->files[i].local = text_or_empty(in[i].local);
        job->files[i].dest = text_or_empty(in[i].dest);
    }
    return job;
}

/* What the same request again has in common. The URL holds a secret of the submission, so without
 * one two alike are two jobs. */
static void dup_of(const struct call *c, struct add *a)
{
    struct digest *d;

    if (!a->job->callback_url || c->loop->server->cfg->dup_window_ms <= 0)
        return;
    d = digest_new(DIGEST_SHA256);
    digest_update(d, c->tenant, strlen(c->tenant) + 1);
    digest_update(d, c->param[1], c->param_len[1] + 1);
    digest_update(d, c->req->entity.base, c->req->entity.len);
    digest_final(d, a->dup);
}

static void look_up(struct call *c)
{
    struct add *a = c->state;
    const char **locals = xcalloc(a->job->file_ct + 1, sizeof(*locals));

    job_set_image(a->job, a->req.image ? a->req.image : "", NULL, 0);
    for (size_t i = 0; i < a->job->file_ct; i++)
        locals[i] = a->job->files[i].local;
    core_lookup(c->loop->core, c->tenant, a->job->lab, a->dup, a->job->image, locals,
                a->job->file_ct, looked_up, c);
    free(locals);
}

void tango_add_job(struct call *c)
{
    struct add *a;
    char why[300];

    if (!tango_name_ok(c, "courselab name", name_check_lab(c->param[1], c->param_len[1])))
        return;
    a = xcalloc(1, sizeof(*a));
    c->state = a;
    c->free_state = add_free;
    a->json = json_parse(c->req->entity.base, c->req->entity.len, why, sizeof(why));
    if (!a->json || json_decode(a->json, request_fields, &a->req, why, sizeof(why)) < 0) {
        reply_status(c, -1, why);
        return;
    }
    a->job = job_of(&a->req, c->tenant, c->param[1]);
    dup_of(c, a);
    look_up(c);
}

/* ---- prealloc ---- */

struct shape {
    double cores, memory;
};

static const struct json_field shape_fields[] = {
    {"cores", JF_NUMBER, JF_NULL, offsetof(struct shape, cores)},
    {"memory", JF_NUMBER, JF_NULL, offsetof(struct shape, memory)},
    {NULL},
};

static void preallocated(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status == CORE_OK) {
        reply_status(c, 0, "VMs preallocated");
    } else if (a->status == CORE_NOT_FOUND) {
        reply_status(c, -1, "Invalid image name");
    } else {
        out_status(&b, -1, "Preallocate VM failed");
        out_key(&b, "reason", false);
        out_cstr(&b, a->why);
        buf_appends(&b, "}");
        reply_json(c, &b);
        buf_free(&b);
    }
}

/* As with Tango, the shape counts only when both are given. */
static bool take_shape(struct call *c, struct shape *shape)
{
    const struct config *cfg = c->loop->server->cfg;
    char why[300] = "";
    json_t *json;

    if (c->req->entity.len == 0)
        return true;
    json = json_parse(c->req->entity.base, c->req->entity.len, why, sizeof(why));
    if (json && json_decode(json, shape_fields, shape, why, sizeof(why)) == 0) {
        if (shape->cores * 1000 > (double)cfg->job_cores_max_milli)
            snprintf(why, sizeof(why), "cores is %.15g, this server allows at most %.15g",
                     shape->cores, (double)cfg->job_cores_max_milli / 1000);
        else if (shape->memory > (double)cfg->job_memory_max_mb)
            snprintf(why, sizeof(why), "memory is %.15g, this server allows at most %.15g",
                     shape->memory, (double)cfg->job_memory_max_mb);
    }
    json_decref(json);
    if (*why)
        reply_status(c, -1, why);
    else if (shape->cores <= 0 || shape->memory <= 0)
        *shape = (struct shape){0};
    return !*why;
}

void tango_prealloc(struct call *c)
{
    struct shape shape = {0};
    unsigned long n = strtoul(c->param[2], NULL, 10);

    if (image_name_check(c->param[1], c->param_len[1])) {
        reply_status(c, -1, "Invalid image name");
        return;
    }
    if (n > PREALLOC_MAX) {
        reply_status(c, -1, "Invalid prealloc size");
        return;
    }
    if (take_shape(c, &shape))
        core_prealloc(c->loop->core, c->tenant, c->param[1], (unsigned)n,
                      (unsigned)(shape.cores * 1000), (unsigned)shape.memory,
                      (unsigned)c->loop->server->cfg->wish_wait_ms, preallocated, c);
}
