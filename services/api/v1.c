#include "services/api/v1.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/name.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define ID_MAX INT32_MAX

static const char openapi[] =
#include "api/openapi.inc"
    ;

/* ---- Writing ---- */

/* Inside an object or array that has members already? */
void v1_comma(struct buf *b)
{
    char last = b->len ? b->data[b->len - 1] : '{';

    if (last != '{' && last != '[')
        buf_appends(b, ", ");
}

void v1_key(struct buf *b, const char *key)
{
    v1_comma(b);
    buf_printf(b, "\"%s\": ", key);
}

void v1_text(struct buf *b, const char *key, const char *value)
{
    v1_key(b, key);
    if (value)
        out_cstr(b, value);
    else
        buf_appends(b, "null");
}

void v1_text_or_null(struct buf *b, const char *key, const char *s)
{
    v1_text(b, key, *s ? s : NULL);
}

void v1_int(struct buf *b, const char *key, int64_t value)
{
    v1_key(b, key);
    buf_printf(b, "%" PRId64, value);
}

void v1_int_or_null(struct buf *b, const char *key, int64_t value, bool there)
{
    v1_key(b, key);
    if (there)
        buf_printf(b, "%" PRId64, value);
    else
        buf_appends(b, "null");
}

void v1_bool(struct buf *b, const char *key, bool value)
{
    v1_key(b, key);
    buf_appends(b, value ? "true" : "false");
}

void v1_split(struct buf *b, const char *key, const char *text, size_t len, char comma)
{
    const char *end = text + len;

    v1_key(b, key);
    buf_appends(b, "[");
    while (text < end) {
        const char *stop = memchr(text, comma, (size_t)(end - text));

        if (!stop)
            stop = end;
        if (stop > text) {
            v1_comma(b);
            out_str(b, text, (size_t)(stop - text));
        }
        text = stop + 1;
    }
    buf_appends(b, "]");
}

void v1_json(struct call *c, int status, struct buf *b)
{
    reply_bytes(c, status, "application/json", NULL, b->data, b->len);
    buf_free(b);
}

const char *v1_what(const char *kind, const char *name)
{
    static _Thread_local char text[400];

    snprintf(text, sizeof(text), "%s %.300s", kind, name);
    return text;
}

/* ---- Parameters ---- */

bool v1_id(struct call *c, uint64_t *ret)
{
    const char *s = c->param[0];
    size_t digits = strspn(s, "0123456789");
    uint64_t id = digits == c->param_len[0] && digits < 11 && *s != '0' ? strtoull(s, NULL, 10) : 0;

    if (id < 1 || id > ID_MAX) {
        problem(c, 404, "not-found", "There is no job %.60s: ids are whole numbers", s);
        return false;
    }
    *ret = id;
    return true;
}

void v1_ask_job(struct call *c, enum core_question q, core_done_fn *done)
{
    char id_text[24], now[24];
    const char *argv[] = {c->tenant, id_text, now};
    uint64_t id;

    if (!v1_id(c, &id))
        return;
    snprintf(id_text, sizeof(id_text), "%" PRIu64, id);
    snprintf(now, sizeof(now), "%" PRId64, clock_wall_ms());
    core_ask(c->loop->core, q, ARRAY_SIZE(argv), argv, done, c);
}

bool v1_query_number(struct call *c, const char *name, uint64_t low, uint64_t high, uint64_t def,
                     uint64_t *ret)
{
    const char *text = call_query(c, name);
    size_t digits = text ? strspn(text, "0123456789") : 0;
    uint64_t n;

    if (!text) {
        *ret = def;
        return true;
    }
    n = digits > 0 && digits < 19 && !text[digits] ? strtoull(text, NULL, 10) : UINT64_MAX;
    if (n < low || n > high) {
        problem(c, 400, "bad-parameter",
                "%s is \"%.40s\"; it is a whole number from %" PRIu64 " to %" PRIu64, name, text,
                low, high);
        return false;
    }
    *ret = n;
    return true;
}

bool v1_body(struct call *c, json_t **ret)
{
    json_error_t err;
    json_t *json;

    *ret = NULL;
    if (c->req->entity.len == 0)
        return true;
    json = json_loadb(c->req->entity.base, c->req->entity.len,
                      JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &err);
    if (!json) {
        problem(c, 400, "bad-json", "The body is no JSON: line %d column %d: %s", err.line,
                err.column, err.text);
        return false;
    }
    if (!json_is_object(json)) {
        struct problems p = {0};

        problems_add(&p, "", "is no object");
        problems_reply(&p, c);
        json_decref(json);
        return false;
    }
    *ret = json;
    return true;
}

/* ---- Bodies ---- */

/* A JSON pointer to a member; one a thread. */
static const char *pointer(const char *at, const char *key)
{
    static _Thread_local char text[300];
    size_t n = (size_t)snprintf(text, sizeof(text), "%s/", at);

    for (; *key && n + 3 < sizeof(text); key++) {
        if (*key == '~' || *key == '/') {
            text[n++] = '~';
            text[n++] = *key == '~' ? '0' : '1';
        } else {
            text[n++] = *key;
        }
    }
    text[n] = '\0';
    return text;
}

void v1_known(struct problems *p, const json_t *object, const char *at, const char *known)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)object, key, value)
    {
        const char *found = *key && !strchr(key, ' ') ? strstr(known, key) : NULL;
        size_t len = strlen(key);

        while (found &&
               !((found == known || found[-1] == ' ') && (found[len] == ' ' || found[len] == '\0')))
            found = strstr(found + 1, key);
        if (!found)
            problems_add(p, pointer(at, key), "is not known here; known are: %s", known);
    }
}

const char *v1_string(struct problems *p, const json_t *object, const char *at, const char *key,
                      bool required, size_t max, const char *(*check)(const char *s, size_t len))
{
    const json_t *v = json_object_get(object, key);
    const char *why = NULL;

    if (!v) {
        if (required)
            problems_add(p, pointer(at, key), "is missing");
        return NULL;
    }
    if (!json_is_string(v)) {
        problems_add(p, pointer(at, key), "is no string");
        return NULL;
    }
    if (strlen(json_string_value(v)) != json_string_length(v))
        why = "contains a NUL";
    else if (check)
        why = check(json_string_value(v), json_string_length(v));
    if (why) {
        problems_add(p, pointer(at, key), "%s", why);
        return NULL;
    }
    if (json_string_length(v) > max) {
        problems_add(p, pointer(at, key), "is longer than %zu bytes", max);
        return NULL;
    }
    return json_string_value(v);
}

double v1_number(struct problems *p, const json_t *object, const char *at, const char *key,
                 bool whole, double low, double high)
{
    const json_t *v = json_object_get(object, key);
    double n;

    if (!v)
        return 0;
    n = json_number_value(v);
    if (!json_is_number(v) || (whole && n != floor(n))) {
        problems_add(p, pointer(at, key), whole ? "is no whole number" : "is no number");
        return 0;
    }
    if (n < low || n > high) {
        problems_add(p, pointer(at, key), "is %.15g; it may be %.15g to %.15g on this server", n,
                     low, high);
        return 0;
    }
    return n;
}

/* ---- /v1 and this API's description ---- */

static void openapi_get(struct call *c)
{
    reply_bytes(c, 200, "application/yaml", NULL, openapi, sizeof(openapi) - 1);
}

void v1_limits(struct buf *b, const char *key, int64_t timeout_s, const struct job_limits *l)
{
    v1_key(b, key);
    buf_printf(b, "{\"timeout_s\": %" PRId64 ", \"cores\": %.15g", timeout_s,
               (double)l->cores_milli / 1000);
    v1_int(b, "memory_mb", l->memory_mb);
    v1_int(b, "pids", l->pids);
    v1_int(b, "file_bytes", (int64_t)l->fsize_bytes);
    v1_int(b, "disk_bytes", (int64_t)l->disk_bytes);
    v1_int(b, "output_bytes", (int64_t)l->output_bytes);
    buf_appends(b, "}");
}

static void service(struct call *c)
{
    static const char *const scopes[] = {"read", "write", "admin"};
    const struct config *g = c->loop->server->cfg;
    struct buf b = BUF_INIT(SIZE_MAX);

    buf_appends(&b, "{");
    v1_text(&b, "version", MILONGA_VERSION);
    v1_text(&b, "tenant", c->tenant);
    v1_text(&b, "scope", scopes[c->scope - SCOPE_READ]);
    v1_key(&b, "limits");
    buf_appends(&b, "{");
    v1_limits(&b, "max", g->job_timeout_max_s,
              &(struct job_limits){.cores_milli = (uint32_t)g->job_cores_max_milli,
                                   .memory_mb = (uint32_t)g->job_memory_max_mb,
                                   .pids = (uint32_t)g->job_pids_max,
                                   .fsize_bytes = (uint64_t)g->job_fsize_max_bytes,
                                   .disk_bytes = (uint64_t)g->job_disk_max_bytes,
                                   .output_bytes = (uint64_t)g->job_output_max_bytes});
    v1_limits(&b, "default", g->job_timeout_s,
              &(struct job_limits){.cores_milli = (uint32_t)g->job_cores_milli,
                                   .memory_mb = (uint32_t)g->job_memory_mb,
                                   .pids = (uint32_t)g->job_pids,
                                   .fsize_bytes = (uint64_t)g->job_fsize_bytes,
                                   .disk_bytes = (uint64_t)g->job_disk_bytes,
                                   .output_bytes = (uint64_t)g->job_output_bytes});
    v1_int(&b, "max_body_bytes", g->max_body_bytes);
    buf_appends(&b, "}}");
    v1_json(c, 200, &b);
}

#define GET   (ROUTE_GET | ROUTE_HEAD)
#define SMALL ROUTE_BODY_SMALL

const struct route v1_routes[] = {
    {"v1.readyz", GET, "/readyz", SMALL, v1_readyz, ROUTE_OPEN},
    {"v1.metrics", GET, "/metrics", SMALL, v1_metrics, ROUTE_READ},
    {"v1.openapi", GET, "/v1/openapi.yaml", SMALL, openapi_get, ROUTE_OPEN},
    {"v1", GET, "/v1", SMALL, service, ROUTE_READ},
    {"v1.stats", GET, "/v1/stats", SMALL, v1_stats, ROUTE_READ},
    {"v1.labs", GET, "/v1/labs", SMALL, v1_labs, ROUTE_READ},
    {"v1.lab", GET, "/v1/labs/:name", SMALL, v1_lab_get, ROUTE_READ},
    {"v1.lab.put", ROUTE_PUT, "/v1/labs/:name", SMALL, v1_lab_put, ROUTE_WRITE},
    {"v1.lab.delete", ROUTE_DELETE, "/v1/labs/:name", SMALL, v1_lab_delete, ROUTE_WRITE},
    {"v1.file", GET, "/v1/labs/:name/files/:name", SMALL, v1_file_get, ROUTE_READ},
    {"v1.file.put", ROUTE_PUT, "/v1/labs/:name/files/:name", ROUTE_BODY_BIG, v1_file_put,
     ROUTE_WRITE},
    {"v1.file.delete", ROUTE_DELETE, "/v1/labs/:name/files/:name", SMALL, v1_file_delete,
     ROUTE_WRITE},
    {"v1.jobs", GET, "/v1/jobs", SMALL, v1_jobs, ROUTE_READ},
    {"v1.submit", ROUTE_POST, "/v1/jobs", SMALL, v1_submit, ROUTE_WRITE},
    {"v1.job", GET, "/v1/jobs/:name", SMALL, v1_job, ROUTE_READ},
    {"v1.cancel", ROUTE_POST, "/v1/jobs/:name/cancel", SMALL, v1_cancel, ROUTE_WRITE},
    {"v1.requeue", ROUTE_POST, "/v1/jobs/:name/requeue", SMALL, v1_requeue, ROUTE_WRITE},
    {"v1.why", GET, "/v1/jobs/:name/why", SMALL, v1_why, ROUTE_READ},
    {"v1.feedback", GET, "/v1/jobs/:name/feedback", SMALL, v1_feedback, ROUTE_READ},
    {"v1.output", GET, "/v1/jobs/:name/output", SMALL, v1_output, ROUTE_READ},
    {"v1.output.stream", ROUTE_GET, "/v1/jobs/:name/output/stream", SMALL, v1_output_stream,
     ROUTE_READ},
    {"v1.job.events", ROUTE_GET, "/v1/jobs/:name/events", SMALL, v1_job_events, ROUTE_READ},
    {"v1.callback.retry", ROUTE_POST, "/v1/jobs/:name/callback/retry", SMALL, v1_callback_retry,
     ROUTE_WRITE},
    {"v1.callbacks", GET, "/v1/callbacks", SMALL, v1_callbacks, ROUTE_READ},
    {"v1.events", ROUTE_GET, "/v1/events", SMALL, v1_events, ROUTE_READ},
    {"v1.vmms", GET, "/v1/vmms", SMALL, v1_vmms, ROUTE_READ},
    {"v1.vmm", GET, "/v1/vmms/:name", SMALL, v1_vmm, ROUTE_READ},
    {"v1.drain", ROUTE_POST, "/v1/vmms/:name/drain", SMALL, v1_drain, ROUTE_ADMIN},
    {"v1.resume", ROUTE_POST, "/v1/vmms/:name/resume", SMALL, v1_resume, ROUTE_ADMIN},
    {"v1.machines", GET, "/v1/machines", SMALL, v1_machines, ROUTE_READ},
    {"v1.pools", GET, "/v1/pools", SMALL, v1_pools, ROUTE_READ},
    {"v1.pool.put", ROUTE_PUT, "/v1/pools/:image", SMALL, v1_pool_put, ROUTE_WRITE},
    {"v1.pool.delete", ROUTE_DELETE, "/v1/pools/:image", SMALL, v1_pool_delete, ROUTE_WRITE},
    {"v1.images", GET, "/v1/images", SMALL, v1_images, ROUTE_READ},
    {"v1.image", GET, "/v1/images/:image", SMALL, v1_image, ROUTE_READ},
    {"v1.image.put", ROUTE_PUT, "/v1/images/:image", ROUTE_BODY_BIG, v1_image_put, ROUTE_WRITE},
    {"v1.image.delete", ROUTE_DELETE, "/v1/images/:image", SMALL, v1_image_delete, ROUTE_WRITE},
};
const size_t v1_route_ct = ARRAY_SIZE(v1_routes);
