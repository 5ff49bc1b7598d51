#include "services/api/tango.h"

#include "base/clock.h"
#include "base/image_name.h"
#include "base/mem.h"
#include "base/name.h"
#include "services/api/send.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ID_DIGITS 18

bool tango_name_ok(struct call *c, const char *what, const char *why)
{
    char text[160];

    if (!why)
        return true;
    snprintf(text, sizeof(text), "Bad %s: it %s", what, why);
    reply_status(c, -1, text);
    return false;
}

void tango_fail(struct call *c, const struct core_answer *a)
{
    switch (a->status) {
    case CORE_NO_LAB:
        reply_status(c, -1, "Courselab not found");
        break;
    case CORE_FULL:
        reply_status(c, -1, a->why && *a->why ? a->why : "The courselab holds too many files");
        break;
    default:
        reply_status(c, -1, *a->why ? a->why : "The server could not do that");
    }
}

void tango_lab_path(struct buf *b, const char *tenant, const char *lab, const char *sub,
                    const char *name)
{
    buf_printf(b, "courselabs/%s-%s/%s%s", tenant, lab, sub, name);
}

static bool lab_ok(struct call *c)
{
    return tango_name_ok(c, "courselab name", name_check_lab(c->param[1], c->param_len[1]));
}

/* ---- / and /healthz ---- */

static void root(struct call *c)
{
    static const char hello[] = "Hello, world! RESTful Tango here!\n";

    reply_bytes(c, 200, "text/html; charset=UTF-8", NULL, hello, sizeof(hello) - 1);
}

static void healthz(struct call *c)
{
    const char *why;
    bool up = core_is_up(c->loop->core, &why);
    char text[400];

    snprintf(text, sizeof(text), "%s%s\n", up ? "ok" : "Redis is not reachable: ", up ? "" : why);
    reply_bytes(c, up ? 200 : 503, "text/plain; charset=utf-8", NULL, text, strlen(text));
}

/* ---- open and upload ---- */

static void opened(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status != CORE_OK) {
        tango_fail(c, a);
        return;
    }
    out_status(&b, 0, a->made ? "Created directory" : "Found directory");
    out_key(&b, "files", false);
    buf_append(&b, "{", 1);
    for (size_t i = 0; i < a->file_ct; i++) {
        if (i)
            buf_appends(&b, ", ");
        out_str(&b, a->files[i].name, a->files[i].name_len);
        buf_appends(&b, ": ");
        out_cstr(&b, a->files[i].md5);
    }
    buf_appends(&b, "}}");
    reply_json(c, &b);
    buf_free(&b);
}

static void open_lab(struct call *c)
{
    if (lab_ok(c))
        core_open(c->loop->core, c->tenant, c->param[1], opened, c);
}

static void uploaded(void *arg, const struct core_answer *a)
{
    struct call *c = arg;

    if (a->status == CORE_OK)
        reply_status(c, 0, "Uploaded file");
    else if (a->status == CORE_SAME)
        reply_status(c, 0, "File exists");
    else
        tango_fail(c, a);
}

static void upload(struct call *c)
{
    size_t len;
    const char *name = call_header(c, "filename", &len);
    char *copy;

    if (!name) {
        reply_html(c, 500);
        return;
    }
    if (!lab_ok(c) || !tango_name_ok(c, "file name", name_check_file(name, len)))
        return;
    copy = h2o_strdup(&c->req->pool, name, len).base;
    /* The body stays in the connection's buffer until we answer: h2o does not read meanwhile. */
    core_put(c->loop->core, c->tenant, c->param[1], copy, c->req->entity.base, c->req->entity.len,
             uploaded, c);
}

/* ---- poll ---- */

static void poll_failed(struct call *c, const struct core_answer *a)
{
    reply_status(c, -1, a->status == CORE_NOT_FOUND ? "Output file not found" : a->why);
}

static void poll_found(void *arg, const struct core_answer *a)
{
    if (a->status == CORE_OK)
        send_stored(arg, a->files[0].sha256, poll_failed);
    else
        poll_failed(arg, a);
}

static void poll(struct call *c)
{
    if (lab_ok(c) &&
        tango_name_ok(c, "output file name", name_check_file(c->param[2], c->param_len[2])))
        core_find_output(c->loop->core, c->tenant, c->param[1], c->param[2], poll_found, c);
}

/* ---- getPartialOutput ---- */

/* Text that is still being written may end inside a character, which then is left for the next
 * time. */
static size_t whole_chars(const char *s, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        unsigned char b = (unsigned char)s[len - back];
        size_t need = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : b >= 0xc0 ? 2 : 1;

        if ((b & 0xc0) == 0x80)
            continue;
        return need > back ? len - back : len;
    }
    return len;
}

static void partial_came(void *arg, const struct core_answer *a)
{
    static const char failed[] = "getPartialOutput request failed: ";
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);
    char text[512];

    if (a->status == CORE_OK) {
        out_status(&b, 0, "Partial output obtained");
        out_key(&b, "output", false);
        out_str(&b, a->bytes, whole_chars(a->bytes, a->len));
        buf_appends(&b, "}");
        reply_json(c, &b);
        buf_free(&b);
        return;
    }
    if (a->status == CORE_QUEUED)
        snprintf(text, sizeof(text), "%sJob %s is not running yet", failed, c->param[1]);
    else if (a->status == CORE_NO_MACHINE)
        snprintf(text, sizeof(text), "%sJob %s does not have a vm id set", failed, c->param[1]);
    else
        snprintf(text, sizeof(text), "%s%s", failed,
                 a->status == CORE_NOT_FOUND ? "Invalid job id" : a->why);
    reply_status(c, -1, text);
}

static void partial(struct call *c)
{
    uint64_t id = c->param_len[1] > ID_DIGITS ? 0 : strtoull(c->param[1], NULL, 10);

    snprintf(c->param[1], c->param_len[1] + 1, "%" PRIu64, id); /* "007" is job 7 */
    core_partial(c->loop->core, c->tenant, id, partial_came, c);
}

/* ---- info ---- */

static void info_came(void *arg, const struct core_answer *a)
{
    static const char *const counters[] = {"job_requests",    "job_retries",   "waitvm_timeouts",
                                           "runjob_timeouts", "copyin_errors", "runjob_errors",
                                           "copyout_errors"};
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status != CORE_OK) {
        tango_fail(c, a);
        return;
    }
    out_status(&b, 0, "Found info successfully");
    out_key(&b, "info", false);
    buf_printf(&b, "{\"elapsed_secs\": %.6f",
               (double)(clock_mono_ms() - c->loop->server->started_ms) / 1000);
    for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
        int64_t value = 0;

        for (size_t k = 0; k < a->counter_ct; k++) {
            if (strcmp(a->counters[k].name, counters[i]) == 0)
                value = a->counters[k].value;
        }
        buf_printf(&b, ", \"%s\": %" PRId64, counters[i], value);
    }
    buf_printf(&b, ", \"num_threads\": %" PRIu64 "}}", a->slots);
    reply_json(c, &b);
    buf_free(&b);
}

static void info(struct call *c)
{
    core_info(c->loop->core, info_came, c);
}

/* ---- jobs ---- */

static void jobs_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status != CORE_OK) {
        tango_fail(c, a);
        return;
    }
    out_status(&b, 0, "Found list of jobs");
    out_key(&b, "jobs", false);
    buf_appends(&b, "[");
    buf_append(&b, a->text, a->len);
    buf_appends(&b, "]}");
    reply_json(c, &b);
    buf_free(&b);
}

static void jobs(struct call *c)
{
    const char *which = c->param[1];
    size_t digits = strspn(which + (*which == '-' || *which == '+'), "0123456789");
    char *end;
    long n = strtol(which, &end, 10);

    if (digits == 0 || *end || strlen(which) != c->param_len[1]) {
        reply_html(c, 500);
    } else if (n == 0 || n == 1) {
        core_jobs(c->loop->core, c->tenant, n == 1, tango_render_job, jobs_came, c);
    } else {
        jobs_came(c, &(struct core_answer){.status = CORE_OK, .text = ""});
    }
}

/* ---- pool ---- */

static void out_ids(struct buf *b, const char *key, const unsigned *ids, size_t ct)
{
    buf_printf(b, "\"%s\": [", key);
    for (size_t i = 0; i < ct; i++)
        buf_printf(b, "%s%u", i ? ", " : "", ids[i]);
    buf_appends(b, "]");
}

static void out_reasons(struct buf *b, const char *key, const struct core_idle *list, size_t ct)
{
    if (ct == 0)
        return;
    out_key(b, key, false);
    buf_appends(b, "{");
    for (size_t i = 0; i < ct; i++) {
        buf_appends(b, i ? ", " : "");
        out_cstr(b, list[i].vmm);
        buf_appends(b, ": ");
        out_cstr(b, list[i].why);
    }
    buf_appends(b, "}");
}

static void pools_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    const char *want = c->route->pattern[strlen("/pool/:key")] ? c->param[1] : "";
    struct buf b = BUF_INIT(SIZE_MAX);
    bool found = false, first = true;

    if (a->status != CORE_OK) {
        tango_fail(c, a);
        return;
    }
    for (size_t i = 0; i < a->pool_ct; i++)
        found = found || strcmp(a->pools[i].image, want) == 0;
    if (!*want)
        out_status(&b, 0, "Found all pools");
    else
        out_status(&b, found ? 0 : -1, found ? "Found pool" : "Pool not found");
    out_key(&b, "pools", false);
    buf_appends(&b, "{");
    for (size_t i = 0; i < a->pool_ct; i++) {
        const struct core_pool *p = &a->pools[i];

        if (found && strcmp(p->image, want) != 0)
            continue;
        out_key(&b, p->image, first);
        first = false;
        buf_appends(&b, "{");
        out_ids(&b, "total", p->total, p->total_ct);
        buf_appends(&b, ", ");
        out_ids(&b, "free", p->free, p->free_ct);
        buf_appends(&b, "}");
    }
    buf_appends(&b, "}");
    /* why jobs wait although a worker is up */
    out_reasons(&b, "draining", a->idle, a->idle_ct);
    out_reasons(&b, "hosts_out", a->out, a->out_ct);
    buf_appends(&b, "}");
    reply_json(c, &b);
    buf_free(&b);
}

static void pool(struct call *c)
{
    core_pools(c->loop->core, c->tenant, pools_came, c);
}

/* ---- build ---- */

static void built(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status == CORE_OK) {
        reply_status(c, 0, "Docker image built");
        return;
    }
    out_status(&b, -1, "Image build failed");
    out_key(&b, "reason", false);
    out_cstr(&b, a->why);
    buf_appends(&b, "}");
    reply_json(c, &b);
    buf_free(&b);
}

static void build(struct call *c)
{
    size_t len;
    const char *name = call_header(c, "imagename", &len);
    cleanup_free char *full = NULL;

    if (!name) {
        reply_html(c, 500);
        return;
    }
    if (!tango_name_ok(c, "imageName", image_name_check(name, len)))
        return;
    /* An operator's image is for all, as Tango's are; anybody else's for its tenant. */
    full = xstrndup(name, len);
    if (c->scope < SCOPE_ADMIN) {
        char *own = image_name_own(c->tenant, full);

        free(full);
        full = own;
    }
    if (tango_name_ok(c, "imageName", name_check_image(full, strlen(full))))
        core_build(c->loop->core, full, c->req->entity.base, c->req->entity.len,
                   (unsigned)c->loop->server->cfg->wish_wait_ms, built, c);
}

const struct route tango_routes[] = {
    {"root", ROUTE_GET, "/", ROUTE_BODY_SMALL, root},
    {"healthz", ROUTE_GET, "/healthz", ROUTE_BODY_SMALL, healthz},
    {"open", ROUTE_GET, "/open/:key/:name", ROUTE_BODY_SMALL, open_lab},
    {"upload", ROUTE_POST, "/upload/:key/:name", ROUTE_BODY_BIG, upload},
    {"addJob", ROUTE_POST, "/addJob/:key/:name", ROUTE_BODY_SMALL, tango_add_job},
    {"poll", ROUTE_GET, "/poll/:key/:name/:name", ROUTE_BODY_SMALL, poll},
    {"getPartialOutput", ROUTE_GET, "/getPartialOutput/:key/:digits", ROUTE_BODY_SMALL, partial},
    {"info", ROUTE_GET, "/info/:key", ROUTE_BODY_SMALL, info},
    {"jobs", ROUTE_GET, "/jobs/:key/:name", ROUTE_BODY_SMALL, jobs},
    {"pool", ROUTE_GET, "/pool/:key/:image?", ROUTE_BODY_SMALL, pool},
    {"pool", ROUTE_GET, "/pool/:key", ROUTE_BODY_SMALL, pool},
    {"prealloc", ROUTE_POST | ROUTE_GET, "/prealloc/:key/:image/:digits", ROUTE_BODY_SMALL,
     tango_prealloc},
    {"build", ROUTE_POST, "/build/:key", ROUTE_BODY_BIG, build},
};
const size_t tango_route_ct = ARRAY_SIZE(tango_routes);
