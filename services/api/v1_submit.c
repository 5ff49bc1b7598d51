/* Submitting a job, and running a finished one again. */

#include "services/api/v1.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/image_name.h"
#include "base/mem.h"
#include "base/name.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define URL_MAX         2048
#define SECRET_MAX      100
#define CLASS_MAX       9
#define IDEMPOTENT_MAX  255
#define IDEMPOTENT_MS   (24 * 3600 * 1000ll)
#define RETRY_AFTER_MAX 300

static const char known_members[] =
    "lab name image files output_file limits network labels class callback";

struct submission {
    struct problems problems;
    struct job *job;
    char dup[SHA256_HEX + 1], digest[SHA256_HEX + 1];
    uint64_t repeats;
};

static void submission_free(void *state)
{
    struct submission *s = state;

    buf_free(&s->problems.list);
    job_free(s->job);
    free(s);
}

/* ---- Members ---- */

static char *copy(const char *s)
{
    return xstrdup(s ? s : "");
}

static void take_file(struct submission *s, const json_t *v, size_t i)
{
    struct problems *p = &s->problems;
    struct job_file *f = &s->job->files[i];
    char at[40];
    const char *name, *dest;

    snprintf(at, sizeof(at), "/files/%zu", i);
    if (!json_is_object(v)) {
        problems_add(p, at, "is no object");
        f->local = copy("");
        f->dest = copy("");
        return;
    }
    v1_known(p, v, at, "name dest");
    name = v1_string(p, v, at, "name", true, NAME_MAX_FILE, name_check_file);
    dest = v1_string(p, v, at, "dest", false, NAME_MAX_FILE, name_check_file);
    f->local = copy(name);
    f->dest = copy(dest ? dest : name);
}

static int compare_files(const void *a, const void *b)
{
    return strcmp((*(struct job_file *const *)a)->dest, (*(struct job_file *const *)b)->dest);
}

/* One Makefile, and no two of one name. */
static void check_dests(struct submission *s)
{
    struct job *job = s->job;
    struct job_file **sorted = xcalloc(job->file_ct + 1, sizeof(struct job_file *));
    bool makefile = false;
    char at[40];

    for (size_t i = 0; i < job->file_ct; i++) {
        sorted[i] = &job->files[i];
        makefile = makefile || strcmp(job->files[i].dest, "Makefile") == 0;
    }
    qsort(sorted, job->file_ct, sizeof(struct job_file *), compare_files);
    for (size_t i = 1; i < job->file_ct; i++) {
        if (!*sorted[i]->dest || strcmp(sorted[i - 1]->dest, sorted[i]->dest) != 0)
            continue;
        snprintf(at, sizeof(at), "/files/%td/dest", sorted[i] - job->files);
        problems_add(&s->problems, at, "is %s, as of another file", sorted[i]->dest);
    }
    free(sorted);
    if (!makefile)
        problems_add(&s->problems, "/files", "has no file with dest Makefile");
}

static void take_files(struct submission *s, const json_t *body)
{
    const json_t *list = json_object_get(body, "files");
    size_t ct = json_array_size(list);

    if (!list)
        problems_add(&s->problems, "/files", "is missing");
    else if (!json_is_array(list))
        problems_add(&s->problems, "/files", "is no array");
    else if (ct == 0 || ct > JOB_MAX_FILES)
        problems_add(&s->problems, "/files", "has %zu elements; it may have 1 to %d", ct,
                     JOB_MAX_FILES);
    else {
        s->job->files = xcalloc(ct, sizeof(s->job->files[0]));
        s->job->file_ct = ct;
        for (size_t i = 0; i < ct; i++)
            take_file(s, json_array_get(list, i), i);
        check_dests(s);
    }
}

static const json_t *take_object(struct submission *s, const json_t *body, const char *key,
                                 const char *known)
{
    const json_t *v = json_object_get(body, key);
    char at[40];

    if (!v)
        return NULL;
    snprintf(at, sizeof(at), "/%s", key);
    if (!json_is_object(v)) {
        problems_add(&s->problems, at, "is no object");
        return NULL;
    }
    v1_known(&s->problems, v, at, known);
    return v;
}

static void take_limits(struct submission *s, const json_t *body, const struct config *g)
{
    static const char at[] = "/limits";
    struct problems *p = &s->problems;
    struct job_limits *to = &s->job->limits;
    const json_t *l = take_object(
        s, body, "limits", "timeout_s cores memory_mb pids file_bytes disk_bytes output_bytes");

    s->job->timeout_s = (uint32_t)g->job_timeout_s;
    if (!l)
        return;
    if (json_object_get(l, "timeout_s"))
        s->job->timeout_s =
            (uint32_t)v1_number(p, l, at, "timeout_s", true, 1, (double)g->job_timeout_max_s);
    to->cores_milli = (uint32_t)(v1_number(p, l, at, "cores", false, 0.01,
                                           (double)g->job_cores_max_milli / 1000) *
                                     1000 +
                                 0.5);
    to->memory_mb =
        (uint32_t)v1_number(p, l, at, "memory_mb", true, 1, (double)g->job_memory_max_mb);
    to->pids = (uint32_t)v1_number(p, l, at, "pids", true, 1, (double)g->job_pids_max);
    to->fsize_bytes =
        (uint64_t)v1_number(p, l, at, "file_bytes", true, 1, (double)g->job_fsize_max_bytes);
    to->disk_bytes =
        (uint64_t)v1_number(p, l, at, "disk_bytes", true, 1, (double)g->job_disk_max_bytes);
    to->output_bytes =
        (uint64_t)v1_number(p, l, at, "output_bytes", true, 1, (double)g->job_output_max_bytes);
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void take_labels(struct submission *s, const json_t *body)
{
    const json_t *list = json_object_get(body, "labels");
    struct job *job = s->job;
    char at[40];

    if (!list)
        return;
    if (!json_is_array(list) || json_array_size(list) > JOB_MAX_LABELS) {
        problems_add(&s->problems, "/labels", "is no array of at most %d", JOB_MAX_LABELS);
        return;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        const char *text = json_string_value(v), *why;

        why = text ? name_check_label(text, json_string_length(v)) : "is no string";
        snprintf(at, sizeof(at), "/labels/%zu", i);
        for (size_t k = 0; !why && k < job->label_ct; k++)
            if (strcmp(job->labels[k], text) == 0)
                why = "is there twice";
        if (why)
            problems_add(&s->problems, at, "%s", why);
        else
            job->labels[job->label_ct++] = xstrdup(text);
    }
    qsort(job->labels, job->label_ct, sizeof(job->labels[0]), compare_text);
}

static const char *check_url(const char *url, size_t len)
{
    const char *host = strncasecmp(url, "http://", 7) == 0    ? url + 7
                       : strncasecmp(url, "https://", 8) == 0 ? url + 8
                                                              : NULL;

    if (!host || !*host || *host == '/')
        return "is no http or https URL";
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)url[i] <= 0x20 || url[i] == 0x7f)
            return "contains a blank or control character";
    return NULL;
}

static const char *check_secret(const char *s, size_t len)
{
    static const char prefix[] = "whsec_";
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t skip = sizeof(prefix) - 1, body, pad, bytes;

    if (len <= skip || memcmp(s, prefix, skip) != 0)
        return "does not begin with whsec_";
    body = strspn(s + skip, alphabet);
    pad = strspn(s + skip + body, "=");
    bytes = body * 3 / 4;
    if (skip + body + pad != len || pad > 2 || (body + pad) % 4 != 0)
        return "is not whsec_ and base64 with its padding";
    return bytes < 24 || bytes > 64 ? "has less than 24 or more than 64 bytes" : NULL;
}

static void take_callback(struct submission *s, const json_t *body)
{
    static const char at[] = "/callback";
    const json_t *cb = take_object(s, body, "callback", "url secret");
    const char *url, *secret;

    if (!cb)
        return;
    url = v1_string(&s->problems, cb, at, "url", true, URL_MAX, check_url);
    secret = v1_string(&s->problems, cb, at, "secret", false, SECRET_MAX, check_secret);
    if (url)
        s->job->callback_url = xstrdup(url);
    if (secret)
        s->job->callback_secret = xstrdup(secret);
}

static void take_body(struct submission *s, const json_t *body, const struct call *c)
{
    struct problems *p = &s->problems;
    struct job *job = s->job;
    const char *output;
    const json_t *network = json_object_get(body, "network");

    v1_known(p, body, "", known_members);
    job->tenant = xstrdup(c->tenant);
    job->accepted_ms = clock_wall_ms();
    job->lab = copy(v1_string(p, body, "", "lab", true, NAME_MAX_LAB, name_check_lab));
    job->name = copy(v1_string(p, body, "", "name", true, NAME_MAX_JOB, name_check_job));
    job->image = copy(v1_string(p, body, "", "image", true, NAME_MAX_IMAGE, image_name_check));
    output = v1_string(p, body, "", "output_file", false, NAME_MAX_FILE, name_check_file);
    job->output_file = xstrdup(output ? output : "output.txt");
    take_files(s, body);
    take_limits(s, body, c->loop->server->cfg);
    job->network = true;
    if (network && !json_is_boolean(network))
        problems_add(p, "/network", "is neither true nor false");
    else if (network)
        job->network = json_is_true(network);
    take_labels(s, body);
    if (json_object_get(body, "class"))
        job->class = (uint8_t)v1_number(p, body, "", "class", true, 0, CLASS_MAX);
    take_callback(s, body);
}

/* ---- Answers ---- */

/* When there is room again, from how fast jobs have been finishing. */
static void too_many(struct call *c, const char *why, uint64_t every_ms)
{
    uint64_t wait = every_ms ? every_ms / 1000 + 1 : RETRY_AFTER_MAX;
    char pace[64] = "none has finished lately";

    if (every_ms)
        snprintf(pace, sizeof(pace), "one finishes every %.1f s", (double)every_ms / 1000);
    problem_later(c, wait < RETRY_AFTER_MAX ? wait : RETRY_AFTER_MAX, "queue-full",
                  "%s (max_live_jobs %" PRId64 ", max_live_bytes %" PRId64 "); %s", why,
                  c->loop->server->cfg->max_live_jobs, c->loop->server->cfg->max_live_bytes, pace);
}

static void reply_accepted(struct call *c, int status, uint64_t id)
{
    struct buf b = BUF_INIT(SIZE_MAX);
    char text[32];

    snprintf(text, sizeof(text), "/v1/jobs/%" PRIu64, id);
    call_add_header(c, status == 201 ? "location" : "idempotent-replayed",
                    status == 201 ? text : "true");
    buf_printf(&b, "{\"id\": %" PRIu64 ", \"state\": \"queued\"}", id);
    v1_json(c, status, &b);
}

/* It is the same request again, by its key. */
static void replay(struct call *c, const struct core_answer *a)
{
    const struct submission *s = c->state;

    if (strcmp(a->detail, s->digest) == 0)
        reply_accepted(c, 200, a->id);
    else
        problem(c, 422, "idempotency-mismatch",
                "This Idempotency-Key came with another body before (job %" PRIu64
                "); use a new key for a new job",
                a->id);
}

static void too_big(struct call *c, const char *why)
{
    struct submission *s = c->state;

    problems_add(&s->problems, "", "%s", why);
    problems_reply(&s->problems, c);
}

static void look_up(struct call *c);
static void image_found(void *arg, const struct core_answer *a);

static void accepted(void *arg, const struct core_answer *a)
{
    struct call *c = arg;

    if (a->status == CORE_SAME)
        replay(c, a);
    else if (a->status == CORE_MOVED)
        look_up(c);
    else if (a->status == CORE_OK)
        reply_accepted(c, 201, a->id);
    else if (a->status == CORE_FULL)
        too_many(c, a->why, a->slots);
    else if (a->status == CORE_TOO_BIG)
        too_big(c, a->why);
    else
        problem_core(c, a, "job");
}

static void accept_job(struct call *c)
{
    struct submission *s = c->state;

    core_accept(c->loop->core, s->job,
                &(struct core_once){
                    .dup = s->dup, .digest = s->digest, .ms = IDEMPOTENT_MS, .repeats = s->repeats},
                accepted, c);
}

static void check_found(struct submission *s, const struct core_answer *a)
{
    char at[40];

    if (!a->lab)
        problems_add(&s->problems, "/lab", "%.255s is not there; make it first", s->job->lab);
    if (a->digest_ct == 0)
        problems_add(&s->problems, "/image", "%.255s is on no worker; see /v1/images",
                     s->job->image);
    for (size_t i = 0; i < s->job->file_ct; i++) {
        struct job_file *f = &s->job->files[i];

        memcpy(f->sha256, a->files[i].sha256, sizeof(f->sha256));
        f->size = a->files[i].size;
        if (f->sha256[0] || !a->lab)
            continue;
        snprintf(at, sizeof(at), "/files/%zu/name", i);
        problems_add(&s->problems, at, "%.255s is not in the lab; put it there first", f->local);
    }
}

static void looked_up(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct submission *s = c->state;

    if (a->status == CORE_SAME) {
        replay(c, a);
        return;
    }
    if (a->status != CORE_OK) {
        problem_core(c, a, "lab");
        return;
    }
    check_found(s, a);
    if (problems_reply(&s->problems, c))
        return;
    job_set_image(s->job, a->image, (const char *const *)a->digests, a->digest_ct);
    accept_job(c);
}

/* ---- Submit ---- */

/* The header, and what the request has in common with itself. */
static bool take_idempotency(struct call *c, struct submission *s)
{
    size_t len = 0;
    const char *key = call_header(c, "idempotency-key", &len);
    struct digest *d;

    if (!key)
        return true;
    for (size_t i = 0; i < len; i++)
        if (key[i] <= 0x20 || key[i] >= 0x7f)
            len = 0;
    if (len == 0 || len > IDEMPOTENT_MAX) {
        problem(c, 400, "bad-request", "Idempotency-Key is 1 to %d visible ASCII characters",
                IDEMPOTENT_MAX);
        return false;
    }
    d = digest_new(DIGEST_SHA256);
    digest_update(d, "v1", sizeof("v1"));
    digest_update(d, c->tenant, strlen(c->tenant) + 1);
    digest_update(d, key, len);
    digest_final(d, s->dup);
    digest_hex(DIGEST_SHA256, c->req->entity.base, c->req->entity.len, s->digest);
    return true;
}

static struct submission *submission_new(struct call *c)
{
    struct submission *s = xcalloc(1, sizeof(*s));

    c->state = s;
    c->free_state = submission_free;
    return s;
}

void v1_submit(struct call *c)
{
    struct submission *s = submission_new(c);
    json_t *body;

    if (!take_idempotency(c, s) || !v1_body(c, &body))
        return;
    s->job = job_new();
    if (!body)
        problems_add(&s->problems, "", "is missing: a JSON object is wanted");
    else
        take_body(s, body, c);
    json_decref(body);
    if (!problems_reply(&s->problems, c))
        look_up(c);
}

/* Of a job that is run again only the image: it may be another by now; its input is not. */
static void look_up(struct call *c)
{
    struct submission *s = c->state;
    const char **locals = xcalloc(s->job->file_ct + 1, sizeof(*locals));
    cleanup_free char *image = xstrdup(image_name_shown(s->job->image, NULL));

    job_set_image(s->job, image, NULL, 0);
    for (size_t i = 0; i < s->job->file_ct; i++)
        locals[i] = s->job->files[i].local;
    core_lookup(c->loop->core, c->tenant, s->job->lab, s->dup, image, locals,
                s->repeats ? 0 : s->job->file_ct, s->repeats ? image_found : looked_up, c);
    free(locals);
}

/* ---- Requeue ---- */

static void inputs_checked(void *arg, const struct core_answer *a)
{
    struct call *c = arg;

    if (a->status == CORE_NOT_FOUND)
        problem(c, 409, "input-gone",
                "A file of job %s is not in the store any more; submit it anew", c->param[0]);
    else if (a->status != CORE_OK)
        problem_core(c, a, "file");
    else
        accept_job(c);
}

static void image_found(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct submission *s = c->state;

    if (a->status != CORE_OK) {
        problem_core(c, a, "image");
        return;
    }
    if (a->digest_ct == 0) {
        problems_add(&s->problems, "/image", "%.255s is on no worker any more",
                     image_name_shown(s->job->image, NULL));
        problems_reply(&s->problems, c);
        return;
    }
    job_set_image(s->job, a->image, (const char *const *)a->digests, a->digest_ct);
    core_have(c->loop->core, s->job, inputs_checked, c);
}

static void old_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct submission *s;

    if (a->status != CORE_OK) {
        problem_core(c, a, v1_what("job", c->param[0]));
    } else if (a->job->state != 'f') {
        problem(c, 409, "not-finished", "Job %s is not finished; cancel it or wait", c->param[0]);
    } else if (a->job->rejected) {
        problem(c, 409, "not-runnable", "Job %s was rejected and never had its input", c->param[0]);
    } else {
        s = submission_new(c);
        s->job = job_copy(a->job->job); /* it was within the bounds once */
        if (!s->job)
            abort();
        s->repeats = a->job->id;
        s->job->accepted_ms = clock_wall_ms();
        look_up(c);
    }
}

void v1_requeue(struct call *c)
{
    uint64_t id;

    if (v1_id(c, &id))
        core_get(c->loop->core, c->tenant, id, old_came, c);
}
